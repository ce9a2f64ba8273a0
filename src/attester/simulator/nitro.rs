//! A simulated AWS: Nitro attestation documents under a published root, everything they say settable.
//!
//! The chain is AWS's: root, region, zone, instance, and a certificate of three hours for the enclave; all of it is minted
//! anew for each document, with the periods of validity that AWS gives.

use std::time::Instant;

use super::der::Criticality;
use super::elliptic::{Curve, EcKey};
use super::pki::{self, Certificate, Name};
use super::steady::steady;
use super::{MEASUREMENT, Simulated, Simulation, impossible};
use crate::attester::{Attester, Quote, Unavailable};
use crate::crypto::{sha256, sha384};
use crate::evidence::cbor::foreign::Length;
use crate::evidence::nitro::{ALGORITHM, Document, Kind, REGISTER, envelope, saved};
use crate::evidence::{Challenge, Endorsement, Endorsements, Evidence, Timestamp, cose};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// The certificates of a chain, from the top.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Link {
    /// AWS's root.
    Root,
    /// A region's.
    Region,
    /// A zone's.
    Zone,
    /// The EC2 instance's.
    Instance,
    /// The enclave's or TPM's, whose key signs the document.
    Module,
}

impl Link {
    const ALL: [Self; 5] = [Self::Root, Self::Region, Self::Zone, Self::Instance, Self::Module];
}

/// Everything that goes into a document and its chain. [`NitroForge::new`] gives one that the default rules accept.
#[derive(Clone, Debug)]
pub struct NitroForge {
    /// Part of what keys and identifiers are derived from: the same seed is the same enclave.
    pub seed: u64,
    /// When it is made.
    pub now: Timestamp,
    /// The document. Its certificates and, when asked with a challenge, its `user_data` are written when it is made.
    pub document: Document,
    /// `alg` of the protected header; the signature is ES384's whatever it says.
    pub algorithm: i64,
    /// Whether the root is the published one, or of the same name under a key that nobody trusts.
    pub root: NitroRoot,
    /// First and last moment of each certificate, from the top.
    pub validity: [(Timestamp, Timestamp); 5],
    /// The path lengths of the authorities, from the top.
    pub path_lengths: [Option<u8>; 4],
    /// The certificates that the revocation lists name.
    pub revoked: Vec<Link>,
    /// `nextUpdate` of the revocation lists.
    pub next_update: Timestamp,
    /// The address that the region's list says it is for, when it says one.
    pub list_for: Option<String>,
    /// Short names of revocation lists that are not stapled.
    pub unstapled: Vec<&'static str>,
}

/// Whose key the root has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NitroRoot {
    /// A key that nobody trusts.
    Impostor,
    /// The published one.
    Published,
}

impl NitroForge {
    /// A document of this kind as of `now`: an enclave in production mode, or an instance.
    #[must_use]
    pub fn new(kind: Kind, seed: u64, now: Timestamp) -> Self {
        let id = sha256(&[b"portcullis simulator: instance", &seed.to_be_bytes()]);
        let id = data_encoding::HEXLOWER.encode(&id[..16]);
        let suffix = match kind {
            Kind::Enclave => format!("enc{}", &id[16..]),
            Kind::Tpm => "tpm0000000000000000".to_owned(),
        };
        let document = Document {
            kind,
            module_id: format!("i-0{}-{suffix}", &id[..16]),
            timestamp: now.0.saturating_mul(1000),
            registers: registers(kind, seed),
            certificate: Vec::new(),
            cabundle: Vec::new(),
            public_key: None,
            user_data: None,
            nonce: None,
            length: Length::Indefinite,
        };
        Self {
            seed,
            now,
            document,
            algorithm: ALGORITHM,
            root: NitroRoot::Published,
            validity: validity(now),
            path_lengths: [None, Some(2), Some(1), Some(0)],
            revoked: Vec::new(),
            next_update: now.plus(DAY),
            list_for: None,
            unstapled: Vec::new(),
        }
    }

    /// The same enclave at a later moment: timestamp, certificates and lists move along.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        let later = now.0.saturating_sub(self.now.0);
        self.now = now;
        self.document.timestamp = self.document.timestamp.saturating_add(later.saturating_mul(1000));
        self.validity = self.validity.map(|(from, until)| (from.plus(later), until.plus(later)));
        self.next_update = self.next_update.plus(later);
        self
    }

    /// Another value of a register.
    #[must_use]
    pub fn register(mut self, index: u8, value: [u8; REGISTER]) -> Self {
        match self.document.registers.iter_mut().find(|(known, _)| *known == index) {
            Some(register) => register.1 = value,
            None => self.document.registers.push((index, value)),
        }
        self
    }

    /// The document over `user_data`, signed.
    #[must_use]
    pub fn quote(&self, user_data: &[u8]) -> Quote {
        let document = self.certified(Some(user_data.to_vec()));
        self.signed(&document.encode())
    }

    /// The document without anything that an asker would have given, with its certificates.
    #[must_use]
    pub fn certified(&self, user_data: Option<Vec<u8>>) -> Document {
        let mut certificates: Vec<_> = Link::ALL.into_iter().map(|link| self.certificate(link)).collect();
        let certificate = certificates.pop().unwrap_or_default();
        Document { user_data, certificate, cabundle: certificates, ..self.document.clone() }
    }

    /// Any payload, signed as a document would be, with the revocation lists.
    #[must_use]
    pub fn signed(&self, payload: &[u8]) -> Quote {
        let protected = cose::protected(self.algorithm);
        let signature = self.key(Link::Module).sign(&cose::to_be_signed(&protected, payload));
        let bytes = envelope(&protected, payload, &signature);
        Quote { evidence: Evidence::new(self.document.kind.media_type(), bytes), endorsements: self.lists() }
    }

    fn key(&self, link: Link) -> EcKey {
        match (link, self.root) {
            (Link::Root, NitroRoot::Published) => published_root(),
            (Link::Root, NitroRoot::Impostor) => EcKey::derive(Curve::P384, &[b"nitro root of an impostor"]),
            (link, _) => EcKey::derive(Curve::P384, &[b"nitro", format!("{link:?}").as_bytes(), &self.seed.to_be_bytes()]),
        }
    }

    fn lists(&self) -> Endorsements {
        let list = |(issuer, subject, name): (Link, Link, &str)| {
            let revoked: Vec<_> = self.revoked.iter().filter(|link| **link == subject).map(|link| self.serial(*link)).collect();
            let further: Vec<_> = self.list_for.iter().filter(|_| issuer == Link::Region).map(|address| pki::issued_at(address)).collect();
            let bytes = pki::revocation_list(&self.key(issuer), &self.name(issuer), [self.next_update.minus(2 * DAY), self.next_update], &revoked, &further);
            Endorsement { name: name.to_owned(), media_type: Endorsement::REVOCATION_LIST.to_owned(), bytes }
        };
        let [root, region] = [(Link::Root, Link::Region, saved::ENDORSEMENTS[0]), (Link::Region, Link::Zone, saved::ENDORSEMENTS[1])];
        [root, region].into_iter().filter(|(.., name)| !self.unstapled.contains(name)).map(list).collect()
    }

    fn certificate(&self, link: Link) -> Vec<u8> {
        const SIGN_AND_LISTS: u8 = 0b1000_0110;
        const CERTIFICATES: u8 = 0b0000_0100;
        const SIGNATURES: u8 = 0b1100_0000;
        let place = Link::ALL.iter().position(|known| *known == link).unwrap_or_default();
        let issuer = Link::ALL[place.saturating_sub(1)];
        let (own, above) = (self.key(link), self.key(issuer));
        let basic = self.path_lengths.get(place).map_or_else(pki::end_entity, |length| pki::authority(*length));
        let usage = |octet| pki::key_usage(Criticality::Critical, octet);
        let extensions = match link {
            Link::Root => vec![basic, pki::subject_key(&own), usage(SIGN_AND_LISTS)],
            Link::Region | Link::Zone => {
                let address = format!("http://nitro-crl.simulator.invalid/crl/{link:?}.crl").to_lowercase();
                vec![basic, pki::authority_key(&above), pki::subject_key(&own), usage(SIGN_AND_LISTS), pki::list_at(&address)]
            }
            Link::Instance => vec![basic, usage(CERTIFICATES), pki::subject_key(&own), pki::authority_key(&above)],
            Link::Module => vec![basic, pki::key_usage(Criticality::Ordinary, SIGNATURES)],
        };
        let (not_before, not_after) = self.validity[place];
        let (issuer, subject) = (self.name(issuer), self.name(link));
        Certificate { serial: self.serial(link), issuer: &issuer, subject: &subject, not_before, not_after, spki: own.spki(), extensions }.signed(&above)
    }

    fn serial(&self, link: Link) -> Vec<u8> {
        sha256(&[b"portcullis simulator: serial", format!("{link:?}").as_bytes(), &self.seed.to_be_bytes()])[..16].to_vec()
    }

    fn name(&self, link: Link) -> Name {
        let instance = self.document.module_id.rsplit_once('-').map_or("i-0", |(instance, _)| instance);
        let aws = |common: String, place: bool| {
            let mut name = vec![(6, "US")];
            name.extend(if place { [(8, "Washington"), (7, "Seattle")].as_slice() } else { &[] });
            name.extend([(10, "Amazon"), (11, "AWS")]);
            name.into_iter().map(|(arc, value)| (arc, value.to_owned())).chain([(3, common)]).collect()
        };
        match link {
            Link::Root => aws("aws.nitro-enclaves".to_owned(), false),
            Link::Region => aws("portcullis.simulator.aws.nitro-enclaves".to_owned(), false),
            Link::Zone => aws("zonal.portcullis.simulator.aws.nitro-enclaves".to_owned(), true),
            Link::Instance => aws(format!("{instance}.simulator.aws.nitro-enclaves"), true),
            Link::Module => aws(format!("{}.simulator.aws", self.document.module_id), true),
        }
    }
}

fn published_root() -> EcKey {
    EcKey::derive(Curve::P384, &[b"nitro root"])
}

/// The registers of an ordinary enclave or instance.
fn registers(kind: Kind, seed: u64) -> Vec<(u8, [u8; REGISTER])> {
    let of = |index: u8| match (kind, index) {
        (Kind::Enclave, 0) | (Kind::Tpm, 4) => MEASUREMENT,
        (Kind::Enclave, 1..=3) | (Kind::Tpm, 0..=9) => sha384(&[b"portcullis simulator: register", &[index]]),
        (Kind::Enclave, 4) => sha384(&[b"portcullis simulator: instance", &seed.to_be_bytes()]),
        (Kind::Tpm, 17..=22) => [0xff; REGISTER],
        _ => [0; REGISTER],
    };
    let count = if kind == Kind::Enclave { 16 } else { 24 };
    (0..count).map(|index| (index, of(index))).collect()
}

/// The periods that AWS gives its certificates.
fn validity(now: Timestamp) -> [(Timestamp, Timestamp); 5] {
    let root = (now.minus(7 * 365 * DAY), now.plus(23 * 365 * DAY));
    [
        root,
        (now.minus(4 * DAY), now.plus(16 * DAY)),
        (now.minus(DAY), now.plus(5 * DAY)),
        (now.minus(3 * HOUR), now.plus(21 * HOUR)),
        (now.minus(3), now.plus(3 * HOUR)),
    ]
}

/// The simulator of one kind of document.
#[derive(Debug)]
pub struct SimulatedNitro(pub Kind);

impl Simulated for SimulatedNitro {
    fn products(&self) -> &'static [&'static str] {
        match self.0 {
            Kind::Enclave => &["enclave"],
            Kind::Tpm => &["instance"],
        }
    }

    fn settable(&self) -> &'static [&'static str] {
        match self.0 {
            Kind::Enclave => &["pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8"],
            Kind::Tpm => &["pcr4", "pcr7", "pcr12"],
        }
    }

    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        vec![("G1".to_owned(), published_root().spki())]
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        let product = simulation.product.as_deref().filter(|product| !self.products().contains(product));
        if let Some(product) = product {
            return Err(impossible(format!("unknown product {product}")));
        }
        let mut forge = NitroForge::new(self.0, simulation.seed, simulation.now);
        for (claim, value) in &simulation.set {
            let index = claim.strip_prefix("pcr").filter(|_| self.settable().contains(&claim.as_str())).and_then(|index| index.parse().ok());
            let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok().and_then(|octets| octets.try_into().ok());
            match (index, octets) {
                (Some(index), Some(octets)) => forge = forge.register(index, octets),
                (Some(_), None) => return Err(impossible(format!("{claim}: expected 96 hex digits, found \"{value}\""))),
                (None, _) => return Err(impossible(format!("unknown claim {claim}"))),
            }
        }
        let platform = match self.0 {
            Kind::Enclave => "nitro",
            Kind::Tpm => "nitrotpm",
        };
        // Its clock goes on from the moment that it was told.
        let started = Instant::now();
        let quote = move |challenge: &Challenge| forge.clone().at(forge.now.plus(started.elapsed().as_secs())).quote(&challenge.long.0);
        Ok(steady(platform, simulation.quote_delay, Vec::new(), quote))
    }
}
