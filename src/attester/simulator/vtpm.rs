//! A simulated vTPM: quotes as a TPM makes them, and the certificates that a cloud gives its attestation key.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::RSAPublicKey;

use super::Patch;
use crate::crypto::sha256;
use crate::evidence::Timestamp;
use crate::evidence::eventlog::{Event, Log, NO_ACTION};
use crate::evidence::tpm::{Attest, Extras, Hash, Member, PCR_COUNT, Pcrs, Selection, Signature};

/// Everything that goes into a quote. [`VtpmForge::new`] gives one that the default rules accept.
#[derive(Clone, Debug)]
pub struct VtpmForge {
    /// Which key signs.
    pub key: AttestationKey,
    /// The registers that come along, and whose digest is signed.
    pub pcrs: Pcrs,
    /// What the quote says beside selection, digest and challenge.
    pub attest: Attest,
    /// A selection other than that of the registers.
    pub selection: Option<Selection>,
    /// A digest other than that of the registers.
    pub digest: Option<Vec<u8>>,
    /// Octets changed in the encoded quote before it is signed.
    pub patches: Vec<Patch>,
    /// What comes along.
    pub extras: Extras,
}

/// One of the published attestation keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AttestationKey {
    /// That of machines with even seeds.
    Even,
    /// That of machines with odd seeds.
    Odd,
}

impl AttestationKey {
    /// The key of the machine of this seed.
    #[must_use]
    pub const fn of_seed(seed: u64) -> Self {
        if seed.is_multiple_of(2) { Self::Even } else { Self::Odd }
    }

    const fn pkcs8(self) -> &'static [u8] {
        match self {
            Self::Even => include_bytes!("keys/vtpm-ak-0.pkcs8.der"),
            Self::Odd => include_bytes!("keys/vtpm-ak-1.pkcs8.der"),
        }
    }

    fn pair(self) -> RsaKeyPair {
        RsaKeyPair::from_pkcs8(self.pkcs8()).expect("the compiled-in keys can be read")
    }

    /// The modulus, big-endian; the exponent is 65537.
    #[must_use]
    pub fn modulus(self) -> Vec<u8> {
        let pair = self.pair();
        let (_, key) = RSAPublicKey::from_der(pair.public_key().as_ref()).expect("a PKCS#1 key");
        key.modulus.iter().copied().skip_while(|octet| *octet == 0).collect()
    }

    fn sign(self, message: &[u8]) -> Vec<u8> {
        let pair = self.pair();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("the compiled-in keys can sign");
        signature
    }
}

impl VtpmForge {
    /// The vTPM of the machine of this seed, after an ordinary boot: all registers of the SHA-256 bank, of which the
    /// firmware's follow from a log.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let log = ordinary_log();
        let replayed = log.replay(Hash::Sha256).expect("the log has the bank");
        let value = |index: u8| match (replayed.get(&u32::from(index)), index) {
            (Some(value), _) => value.clone(),
            (None, 17..=22) => vec![0xff; 32],
            (None, _) => vec![0; 32],
        };
        let pcrs = Pcrs { bank: Hash::Sha256, values: (0..PCR_COUNT).map(|index| (index, value(index))).collect::<BTreeMap<_, _>>() };
        let attest = Attest {
            qualified_signer: [&Hash::Sha256.id().to_be_bytes()[..], &sha256(&[b"portcullis simulator: vTPM", &seed.to_be_bytes()])].concat(),
            extra_data: Vec::new(),
            clock: 60_000,
            reset_count: 1,
            restart_count: 0,
            clock_safe: true,
            firmware_version: 0x2020_0312_0012_0003,
            selection: pcrs.selection(),
            pcr_digest: Vec::new(),
        };
        let key = AttestationKey::of_seed(seed);
        Self { key, pcrs, attest, selection: None, digest: None, patches: Vec::new(), extras: Extras::default() }
    }

    /// The `vtpm` member: a quote over `extra_data`, signed and encoded.
    #[must_use]
    pub fn quote(&self, extra_data: &[u8]) -> Vec<u8> {
        let values: Vec<&[u8]> = self.pcrs.values.values().map(Vec::as_slice).collect();
        let attest = Attest {
            extra_data: extra_data.to_vec(),
            selection: self.selection.unwrap_or_else(|| self.pcrs.selection()),
            pcr_digest: self.digest.clone().unwrap_or_else(|| sha256(&values).to_vec()),
            ..self.attest.clone()
        };
        let mut signed = attest.encode();
        for Patch { offset, octets } in &self.patches {
            signed.iter_mut().skip(*offset).zip(octets).for_each(|(place, octet)| *place = *octet);
        }
        let signature = Signature::Rsassa { hash: Hash::Sha256, octets: self.key.sign(&signed) };
        Member::encode(&signed, &signature.encode(), &self.pcrs, &self.extras)
    }
}

/// What firmware that keeps to the profile logs: its version, Secure Boot's switch, a boot loader, the separators.
#[must_use]
pub fn ordinary_log() -> Log {
    const VERSION: u32 = 8;
    const VARIABLE: u32 = 0x8000_0001;
    const APPLICATION: u32 = 0x8000_0003;
    const SEPARATOR: u32 = 4;
    let mut log = Log::empty(&[Hash::Sha256]);
    let mut say = |register, kind, data: &[u8]| {
        let digest = if kind == NO_ACTION { [0; 32] } else { sha256(&[data]) };
        log.events.push(Event { register, kind, digests: vec![(Hash::Sha256.id(), digest.to_vec())], data: data.to_vec() });
    };
    say(0, NO_ACTION, b"StartupLocality\0\0");
    say(0, VERSION, b"portcullis simulator");
    say(7, VARIABLE, b"SecureBoot=1");
    say(4, APPLICATION, b"a boot loader that loads nothing");
    (0..8).for_each(|register| say(register, SEPARATOR, &[0; 4]));
    log
}

/// The authorities of a cloud's vTPMs, simulated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VtpmAuthority {
    /// Microsoft's.
    Azure,
    /// Google's.
    Google,
}

impl VtpmAuthority {
    const fn keys(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Azure => (include_bytes!("keys/azure-vtpm-root.pkcs8.der"), include_bytes!("keys/azure-vtpm-issuer.pkcs8.der")),
            Self::Google => (include_bytes!("keys/google-ekak-root.pkcs8.der"), include_bytes!("keys/google-ekak-issuer.pkcs8.der")),
        }
    }

    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Azure => ("Azure Virtual TPM Root Certificate Authority 2023", "Global Virtual TPM CA - 01"),
            Self::Google => ("EK/AK CA Root", "EK/AK CA Intermediate"),
        }
    }

    /// The root's DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn root_spki(self) -> Vec<u8> {
        pair(self.keys().0).subject_public_key_info()
    }

    /// The certificate of an attestation key for a machine called `name`, and its issuer's, DER.
    #[must_use]
    pub fn certify(self, key: AttestationKey, name: &str, now: Timestamp) -> Vec<Vec<u8>> {
        self.certify_key(&pair(key.pkcs8()), name, now)
    }

    /// The same for any key.
    #[must_use]
    pub fn certify_key(self, key: &impl PublicKeyData, name: &str, now: Timestamp) -> Vec<Vec<u8>> {
        const YEAR: u64 = 365 * 86_400;
        let ((root_key, issuer_key), (root_name, issuer_name)) = (self.keys(), self.names());
        let (root_key, issuer_key) = (pair(root_key), pair(issuer_key));
        let root = params(root_name, now.minus(YEAR), now.plus(20 * YEAR), true);
        let issuer = params(issuer_name, now.minus(YEAR), now.plus(10 * YEAR), true);
        let mut leaf = params(name, now.minus(86_400), now.plus(YEAR), false);
        if self == Self::Google {
            leaf.custom_extensions.push(CustomExtension::from_oid_content(INSTANCE, instance(name)));
        }
        let leaf = leaf.signed_by(key, &Issuer::from_params(&issuer, &issuer_key));
        let issuer = issuer.signed_by(&issuer_key, &Issuer::from_params(&root, &root_key));
        [leaf, issuer].map(|certificate| certificate.expect("the parameters are sound").der().to_vec()).into()
    }
}

/// The extension that names an instance.
const INSTANCE: &[u64] = &[1, 3, 6, 1, 4, 1, 11129, 2, 1, 21];

/// Its value for an instance called `name`, in the order of Google's.
fn instance(name: &str) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_utf8_string("simulated1-a");
            writer.next().write_u64(1);
            writer.next().write_utf8_string("simulator");
            writer.next().write_u64(42);
            writer.next().write_utf8_string(name);
        });
    })
}

/// A compiled-in RSA key.
pub(super) fn pair(pkcs8: &'static [u8]) -> KeyPair {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_RSA_SHA256).expect("the compiled-in keys can be read")
}

/// A certificate's content, of an authority or of an end.
pub(super) fn params(name: &str, from: Timestamp, until: Timestamp, authority: bool) -> CertificateParams {
    let moment = |moment: Timestamp| i64::try_from(moment.0).ok().and_then(|moment| OffsetDateTime::from_unix_timestamp(moment).ok());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = moment(from).expect("a moment of our time");
    params.not_after = moment(until).expect("a moment of our time");
    (params.is_ca, params.key_usages) = if authority {
        (IsCa::Ca(BasicConstraints::Unconstrained), vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign])
    } else {
        (IsCa::ExplicitNoCa, vec![KeyUsagePurpose::DigitalSignature])
    };
    params
}
