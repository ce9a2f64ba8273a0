//! Composite evidence: a TEE's with a GPU's beside it, both for the same key. What a policy requires must be there, what is
//! there must be genuine, bound and in the state that its vendor describes, and a GPU alone is nothing.

#![cfg(feature = "simulator")]

use std::collections::BTreeMap;

use data_encoding::{BASE64, HEXLOWER};
use portcullis::attester::simulator::{Forge, MEASUREMENT};
use portcullis::crypto::{ecdsa_fixed, sha384};
use portcullis::evidence::batch::Proof;
use portcullis::evidence::binding::{self, Binding, BindingClaims, Channel, Kind, Role};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::gpu::{Gpu, LABELS, MEDIA_TYPE};
use portcullis::evidence::snp::Product;
use portcullis::evidence::{Auxiliary, Endorsement, KeyDigest, Timestamp};
use portcullis::platform;
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Anchor, Appraiser, AttestationResult, Origin, TrustAnchors, gpu};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SigningKey as _};

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);

/// A chain of three certificates under a root of its own.
struct Authority {
    root: Vec<u8>,
    leaf: KeyPair,
    chain: Vec<Vec<u8>>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let keys = [(); 3].map(|()| KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key"));
        let mut parameters = ["root", "middle", "leaf"].map(|level| {
            let mut parameters = CertificateParams::default();
            parameters.distinguished_name.push(rcgen::DnType::CommonName, format!("{name} {level}"));
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            parameters
        });
        parameters[2].is_ca = IsCa::NoCa;
        parameters[2].key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let [root, middle, leaf] = parameters;
        let [root_key, middle_key, leaf_key] = keys;
        let of_root = root.self_signed(&root_key).expect("a root");
        let of_middle = middle.signed_by(&middle_key, &Issuer::from_params(&root, &root_key)).expect("a certificate");
        let of_leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&middle, &middle_key)).expect("a certificate");
        let chain = [of_leaf.der(), of_middle.der(), of_root.der()].map(|der| der.to_vec());
        let spki = portcullis_spki(&chain[2]);
        Self { root: spki, leaf: leaf_key, chain: chain.to_vec() }
    }

    /// `r ‖ s`.
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        ecdsa_fixed(&self.leaf.sign(message).expect("a signature"), 48).expect("two numbers")
    }
}

fn portcullis_spki(der: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::FromDer as _;
    x509_parser::certificate::X509Certificate::from_der(der).expect("a certificate").1.public_key().raw.to_vec()
}

/// A vendor of devices and the one that it made.
struct World {
    devices: Authority,
    references: Authority,
    measurements: Vec<[u8; 48]>,
    /// The nonce that the device is asked with, in place of the right one.
    nonce: Option<[u8; 32]>,
    policy: &'static str,
}

impl World {
    fn new() -> Self {
        Self {
            devices: Authority::new("device"),
            references: Authority::new("reference"),
            measurements: (0..4_u8).map(|at| [at; 48]).collect(),
            nonce: None,
            policy: r#", "require": ["gpu/0"]"#,
        }
    }

    fn report(&self, nonce: [u8; 32]) -> Vec<u8> {
        let record: Vec<u8> =
            self.measurements.iter().zip(1_u8..).flat_map(|(value, index)| [[index, 1, 51, 0, 1, 48, 0].as_slice(), value].concat()).collect();
        let field = |kind: u16, value: &[u8]| [kind.to_le_bytes().as_slice(), &(value.len() as u16).to_le_bytes(), value].concat();
        let opaque = [field(3, b"570.1\0"), field(6, &[0x44, 0x33, 0x22, 0x11, 0x55, 0, 0, 0])].concat();
        let mut report = [[0x11, 0xe0, 0x01, 0xff].as_slice(), &nonce, &[0], &[0x11, 0x60, 0, 0, self.measurements.len() as u8]].concat();
        report.extend(&(record.len() as u32).to_le_bytes()[..3]);
        report.extend([record, vec![9; 32], (opaque.len() as u16).to_le_bytes().to_vec(), opaque].concat());
        let signature = self.devices.sign(&report);
        [report, signature].concat()
    }

    /// Reference measurements of these blocks, in canonical form, signed.
    fn rim(&self, version: &str, blocks: &[(usize, [u8; 48])]) -> Vec<u8> {
        const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
        const HASH: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
        const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
        const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
        let resource = |(index, value): &(usize, [u8; 48])| {
            let value = HEXLOWER.encode(value);
            format!("<Resource active=\"True\" alternatives=\"1\" index=\"{index}\" type=\"Measurement\" h:Hash0=\"{value}\"></Resource>")
        };
        let resources: String = blocks.iter().map(resource).collect();
        let head = format!(
            "<SoftwareIdentity xmlns=\"{SWID}\" xmlns:h=\"{HASH}\" name=\"x\">\n<Meta colloquialVersion=\"{version}\" product=\"GX1\"></Meta><Payload>{resources}</Payload>\n"
        );
        let digest = BASE64.encode(&sha384(&[head.as_bytes(), b"</SoftwareIdentity>"]));
        let info = format!(
            "<ds:CanonicalizationMethod Algorithm=\"{C14N}\"></ds:CanonicalizationMethod>\
             <ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384\"></ds:SignatureMethod><ds:Reference URI=\"\"><ds:Transforms>\
             <ds:Transform Algorithm=\"{DSIG}enveloped-signature\"></ds:Transform><ds:Transform Algorithm=\"{C14N}\"></ds:Transform></ds:Transforms>\
             <ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#sha384\"></ds:DigestMethod><ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
        );
        // What is signed has the namespaces in scope; what is written has them above.
        let signature = self.references.sign(format!("<ds:SignedInfo xmlns=\"{SWID}\" xmlns:ds=\"{DSIG}\" xmlns:h=\"{HASH}\">{info}").as_bytes());
        let certificates: String =
            self.references.chain.iter().map(|der| format!("<ds:X509Certificate>{}\n</ds:X509Certificate>", BASE64.encode(der))).collect();
        format!(
            "{head}<ds:Signature xmlns:ds=\"{DSIG}\"><ds:SignedInfo>{info}<ds:SignatureValue>{}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature></SoftwareIdentity>",
            BASE64.encode(&signature)
        )
        .into_bytes()
    }

    fn appraiser(&self) -> Appraiser {
        let text = format!(
            r#"{{ "version": 1, "name": "composite", "insecure_roots": ["simulator"], "insecure_allow_missing_crl": true,
                  "accept": [ {{ "id": "a", "tee": "sev-snp", "measurement": "{}"{} }} ] }}"#,
            HEXLOWER.encode(&MEASUREMENT),
            self.policy
        );
        let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).unwrap_or_else(|problems| panic!("{problems:?}"));
        let ours = [("device", &self.devices.root), ("rim", &self.references.root)];
        let ours = ours.map(|(name, spki)| Anchor { platform: gpu::NAME, name: name.to_owned(), spki: spki.clone(), origin: Origin::Simulator });
        let known = platform::anchors(&policy);
        let anchors: TrustAnchors = ["sev-snp", gpu::NAME].into_iter().flat_map(|name| known.of_platform(name)).cloned().chain(ours).collect();
        Appraiser { anchors, policy }
    }

    /// The verdict on a session whose evidence `change` was done to before the claims were made, and `tamper` after.
    fn judge(&self, change: impl Fn(&mut Vec<Auxiliary>), tamper: impl Fn(&mut Collection)) -> Result<AttestationResult, Denied> {
        let (key, instance, nonce) = (KeyDigest([0x11; 48]), vec![0x33; 16], [1; 32]);
        let asked = self.nonce.unwrap_or_else(|| binding::device_nonce(&[&instance, &nonce]));
        let gpu = Gpu { report: self.report(asked), chain: self.devices.chain.clone() };
        let mut members = vec![Auxiliary { label: "gpu/0".to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes: gpu.encode() }];
        change(&mut members);
        let claims = BindingClaims { kind: Kind::Session { hello: [0x22; 48] }, spki: key, instance, aux: binding::digests(&members), epoch: None, hpke: None };
        let bind = claims.encode();
        let channel = Channel {
            role: Role::Server,
            exporter: &[0xee; 32],
            nonce_peer: &nonce,
            nonce_self: &[2; 32],
            key_self: &key,
            key_peer: None,
            alpn: b"portcullis1/raw",
        };
        let binding = Binding::of_session(&bind, &channel, &[0x22; 48], &Proof { index: 0, size: 1, path: Vec::new() }).expect("a binding");
        let quote = Forge::new(Product::Genoa, 7, NOW).quote(&binding.expected().long);
        let mut presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
        presented.tee.auxiliary = members;
        let split = self.measurements.len().min(2);
        let blocks: Vec<_> = (0..).zip((0..4_u8).map(|at| [at; 48])).collect();
        for (name, version, blocks) in [("driver", "570.1", &blocks[..split]), ("vbios", "11.22.33.44.55", &blocks[split..])] {
            let bytes = self.rim(version, blocks);
            presented.endorsements.push(Endorsement { name: format!("{}-{name}", gpu::RIM), media_type: "application/xml".to_owned(), bytes });
        }
        tamper(&mut presented);
        let verifier = platform::of_evidence(&presented.tee).expect("the platform").verifier;
        self.appraiser().judge(verifier, &presented, &binding, &NoMemo, NOW)
    }

    fn reason(&self, change: impl Fn(&mut Vec<Auxiliary>), tamper: impl Fn(&mut Collection)) -> Option<Reason> {
        self.judge(change, tamper).err().map(|denied| denied.reason())
    }
}

#[test]
fn a_gpu_beside_a_tee_is_judged_and_its_claims_stand_under_its_label() {
    let world = World::new();
    let result = world.judge(|_| {}, |_| {}).unwrap_or_else(|denied| panic!("{denied}"));
    let claims = result.appraisal().claims();
    let device = claims.map("gpu/0").expect("the device's claims");
    assert_eq!((device.text("driver_version"), device.text("vbios_version")), (Some("570.1"), Some("11.22.33.44.55")));
    assert_eq!(claims.bytes("measurement"), Some(MEASUREMENT.as_slice()), "the TEE's own claims stay where they were");
    assert_eq!(LABELS.len(), 16);
}

#[test]
fn what_a_policy_requires_must_be_there() {
    let mut world = World::new();
    assert_eq!(world.reason(Vec::clear, |_| {}), Some(Reason::AuxiliaryUnbound), "required and absent");
    world.policy = "";
    assert_eq!(world.reason(Vec::clear, |_| {}), None, "not required and absent");
    assert_eq!(world.reason(|_| {}, |_| {}), None, "not required and there: judged all the same");
    world.policy = r#", "require": ["gpu/0", "gpu/1"]"#;
    assert_eq!(world.reason(|_| {}, |_| {}), Some(Reason::AuxiliaryUnbound), "one of two");
    let both = |members: &mut Vec<Auxiliary>| members.push(Auxiliary { label: "gpu/1".to_owned(), ..members[0].clone() });
    assert_eq!(world.reason(both, |_| {}), None, "two");
    for bad in
        [r#""require": []"#, r#""require": ["gpu"]"#, r#""require": ["gpu/16"]"#, r#""require": ["gpu/00"]"#, r#""require": ["tee"]"#, r#""require": [1]"#]
    {
        let text = format!(r#"{{ "version": 1, "name": "p", "accept": [ {{ "id": "a", "tee": "sev-snp", "measurement": "{}", {bad} }} ] }}"#, "11".repeat(48));
        assert!(AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).is_err(), "{bad}");
    }
}

#[test]
fn each_change_is_refused_with_its_code() {
    use Reason::*;
    let world = World::new();
    let rim = |collection: &mut Collection, change: fn(&mut Endorsement)| {
        let mut all: Vec<Endorsement> = collection.endorsements.iter().cloned().collect();
        all.iter_mut().filter(|one| one.name.starts_with(gpu::RIM)).for_each(change);
        collection.endorsements = all.into_iter().collect();
    };
    let nothing = |_: &mut Vec<Auxiliary>| {};
    assert_eq!(world.reason(nothing, |c| c.tee.auxiliary[0].bytes[100] ^= 1), Some(AuxiliaryUnbound), "changed after it was listed");
    assert_eq!(world.reason(nothing, |c| c.tee.auxiliary.clear()), Some(AuxiliaryUnbound), "listed and absent");
    assert_eq!(
        world.reason(nothing, |c| c.tee.auxiliary.push(Auxiliary { label: "gpu/1".to_owned(), ..c.tee.auxiliary[0].clone() })),
        Some(AuxiliaryUnbound),
        "not listed"
    );
    assert_eq!(world.reason(|m| m[0].label = "gpu/99".to_owned(), |_| {}), Some(AuxiliaryUnbound), "no such label");
    assert_eq!(world.reason(|m| m[0].media_type = "application/x".to_owned(), |_| {}), Some(EvidenceUnsupported), "another type");
    assert_eq!(world.reason(|m| m[0].bytes.push(0), |_| {}), Some(EvidenceMalformed), "octets behind");
    assert_eq!(world.reason(|m| m[0].bytes.resize(40_000, 0), |_| {}), Some(EvidenceSize), "too long");
    let report = |change: fn(&mut Vec<u8>)| {
        move |members: &mut Vec<Auxiliary>| {
            let mut gpu = Gpu::decode(&members[0].bytes).expect("a member");
            change(&mut gpu.report);
            members[0].bytes = gpu.encode();
        }
    };
    assert_eq!(world.reason(report(|r| r.push(0)), |_| {}), Some(EvidenceMalformed), "octets behind the signature");
    assert_eq!(world.reason(report(|r| r[3] = 1), |_| {}), Some(EvidenceUnsupported), "one measurement alone");
    assert_eq!(world.reason(report(|r| r[60] ^= 1), |_| {}), Some(SignatureInvalid), "a measurement");
    assert_eq!(world.reason(report(|r| *r.last_mut().expect("octets") ^= 1), |_| {}), Some(SignatureInvalid), "the signature");
    let chain = |change: fn(&mut Vec<Vec<u8>>)| {
        move |members: &mut Vec<Auxiliary>| {
            let mut gpu = Gpu::decode(&members[0].bytes).expect("a member");
            change(&mut gpu.chain);
            members[0].bytes = gpu.encode();
        }
    };
    assert_eq!(world.reason(chain(Vec::clear), |_| {}), Some(ChainUntrusted), "no certificates");
    assert_eq!(world.reason(chain(|c| c.truncate(2)), |_| {}), Some(ChainUntrusted), "without the root");
    assert_eq!(world.reason(chain(|c| c.swap(0, 1)), |_| {}), Some(ChainUntrusted), "another order");
    assert_eq!(world.reason(nothing, |c| rim(c, |one| one.name = "other".to_owned())), Some(CollateralUnavailable), "no reference measurements");
    assert_eq!(
        world.reason(nothing, |c| rim(c, |one| *one.bytes.iter_mut().find(|octet| **octet == b'x').expect("one") = b'y')),
        Some(CollateralUnavailable),
        "changed ones"
    );
    let mut stale = World::new();
    stale.nonce = Some([7; 32]);
    assert_eq!(stale.reason(nothing, |_| {}), Some(BindingMismatch), "asked by somebody else");
    let mut debug = World::new();
    debug.measurements[3] = [0xdb; 48];
    assert_eq!(debug.reason(nothing, |_| {}), Some(MeasurementUnknown), "a state without reference values");
    let mut short = World::new();
    short.measurements.truncate(3);
    assert_eq!(short.reason(nothing, |_| {}), Some(MeasurementUnknown), "a measurement that is not there");
    let mut world = World::new();
    let other = Authority::new("device");
    world.devices.root.clone_from(&other.root);
    assert_eq!(world.reason(nothing, |_| {}), Some(ChainUntrusted), "another vendor");
    let mut world = World::new();
    world.references.root = other.root;
    assert_eq!(world.reason(nothing, |_| {}), Some(ChainUntrusted), "another signer of references");
}

#[test]
fn a_gpu_alone_is_nothing() {
    let world = World::new();
    let gpu = Gpu { report: world.report([1; 32]), chain: world.devices.chain.clone() };
    let claims = BindingClaims { kind: Kind::Web, spki: KeyDigest([1; 48]), instance: vec![2; 16], aux: BTreeMap::new(), epoch: None, hpke: None };
    let tee = portcullis::evidence::Evidence::new(MEDIA_TYPE, gpu.encode());
    let alone = Collection { tee: tee.clone(), bind: claims.encode(), endorsements: portcullis::evidence::Endorsements::default() };
    assert!(Collection::decode(&alone.encode()).is_ok_and(|read| platform::of_evidence(&read.tee).is_none()), "no platform takes it for a TEE's");
}
