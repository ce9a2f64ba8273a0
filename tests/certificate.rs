//! Evidence in certificates: what we make we read, and every other way to put something into a leaf is refused with its
//! reason.

use std::collections::BTreeMap;

use portcullis::evidence::binding::{AgeRule, Binding, BindingClaims, Kind, LeafFacts};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::leaf::MAX_LEAF;
use portcullis::evidence::{Endorsements, Evidence, KeyDigest, Timestamp};
use portcullis::refusal::{Denied, Reason};
use portcullis::tls::certificate::{Leaf, MAX_EVIDENCE, NotIssued, Statement, issue, read};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PublicKeyData as _, SanType};

const NOW: Timestamp = Timestamp(1_800_000_000);
const OID: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 35];
const RULE: AgeRule = AgeRule { max_age: 3600, max_lifetime: 86_400, skew: 120 };

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn claims(key: &KeyPair, names: &[String]) -> BindingClaims {
    BindingClaims {
        kind: Kind::Certificate { issued: NOW, expires: NOW.plus(3600), names: names.to_vec() },
        spki: KeyDigest::of_spki(&key.subject_public_key_info()),
        instance: vec![1; 16],
        aux: BTreeMap::new(),
        epoch: None,
        hpke: None,
    }
}

fn collection(bind: &BindingClaims, report: usize) -> Collection {
    let tee = Evidence::new("application/vnd.amd.sev-snp.attestation-report", vec![7; report]);
    Collection { tee, bind: bind.encode(), endorsements: Endorsements::default() }
}

fn statement<'a>(names: &'a [String], evidence: &'a Collection) -> Statement<'a> {
    Statement { names, not_before: NOW.minus(300), not_after: NOW.plus(3600), evidence }
}

fn reason<T: std::fmt::Debug>(refused: Result<T, Denied>) -> Reason {
    refused.expect_err("a refusal").reason()
}

/// A leaf as rcgen makes it, with these extensions.
fn leaf(extensions: Vec<CustomExtension>) -> Vec<u8> {
    let mut params = CertificateParams::new(names(&["app.example"])).expect("names");
    params.custom_extensions = extensions;
    params.self_signed(&key()).expect("a certificate").der().to_vec()
}

fn extension(oid: &[u64], content: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, content.to_vec())
}

/// An OCTET STRING as DER has it.
fn octet_string(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    let head = match length {
        [0, low] if low < 0x80 => vec![4, low],
        [0, low] => vec![4, 0x81, low],
        [high, low] => vec![4, 0x82, high, low],
    };
    [head.as_slice(), content].concat()
}

fn good() -> Vec<u8> {
    collection(&claims(&key(), &names(&["app.example"])), 1184).encode()
}

#[test]
fn what_is_issued_is_read_and_bound() {
    let key = key();
    let names = names(&["app.example", "spiffe://td/app"]);
    let evidence = collection(&claims(&key, &names), 1184);
    let der = issue(&key, &statement(&names, &evidence)).expect("issued");
    let (leaf, found) = read(&der).expect("read");
    assert_eq!(found, evidence);
    assert_eq!(leaf.facts().names, names);
    assert_eq!((leaf.facts().not_before, leaf.facts().not_after), (NOW.minus(300), NOW.plus(3600)));
    assert_eq!(*leaf.key(), KeyDigest::of_spki(&key.subject_public_key_info()));
    assert!(Binding::of_certificate(&found.bind, leaf.facts(), RULE, NOW).is_ok());
    assert!(leaf.current(NOW, 0).is_ok() && leaf.current(NOW.plus(3601), 0).is_err() && leaf.current(NOW.plus(3601), 120).is_ok());
    assert_eq!(reason(leaf.current(NOW.minus(301), 0)), Reason::CertificateInvalid);
    // webpki, which checks the handshake's signature, takes it too.
    assert!(webpki::EndEntityCert::try_from(&der).is_ok());
}

#[test]
fn binding_claims_and_certificate_must_agree() {
    let key = key();
    let own = names(&["app.example"]);
    let judged = |statement: &Statement<'_>, now| {
        let (leaf, found) = read(&issue(&key, statement).expect("issued"))?;
        Binding::of_certificate(&found.bind, leaf.facts(), RULE, now)
    };
    let evidence = collection(&claims(&key, &own), 1184);
    let good = statement(&own, &evidence);
    assert!(judged(&good, NOW).is_ok());
    let more = names(&["app.example", "other.example"]);
    assert_eq!(reason(judged(&Statement { names: &more, ..good }, NOW)), Reason::NameMismatch, "cert-names-add");
    let longer = Statement { not_after: NOW.plus(3601), ..good };
    assert_eq!(reason(judged(&longer, NOW)), Reason::EvidenceStale, "cert-notafter-extended");
    let earlier = Statement { not_before: NOW.minus(601), ..good };
    assert_eq!(reason(judged(&earlier, NOW)), Reason::EvidenceStale, "validity that begins too early");
    assert_eq!(reason(judged(&good, NOW.plus(3601))), Reason::EvidenceStale, "cert-expired-evidence");
    assert_eq!(reason(judged(&good, NOW.minus(600))), Reason::EvidenceStale, "iat-future");
    let session = BindingClaims { kind: Kind::Session { hello: [0; 48] }, ..claims(&key, &own) };
    let evidence = collection(&session, 1184);
    assert_eq!(reason(judged(&statement(&own, &evidence), NOW)), Reason::EvidenceMalformed, "session-evidence-in-cert");
    let evidence = collection(&claims(&self::key(), &own), 1184);
    assert_eq!(reason(judged(&statement(&own, &evidence), NOW)), Reason::BindingMismatch, "evidence of another key");
}

#[test]
fn an_address_among_the_names_is_never_overlooked() {
    let key = key();
    let own = names(&["app.example"]);
    let mut params = CertificateParams::new(own.clone()).expect("names");
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    params.custom_extensions = vec![extension(OID, &octet_string(&collection(&claims(&key, &own), 9).encode()))];
    let der = params.self_signed(&key).expect("a certificate").der().to_vec();
    let (leaf, found) = read(&der).expect("read");
    let facts = LeafFacts { not_before: NOW, not_after: NOW, ..leaf.facts().clone() };
    assert_eq!(reason(Binding::of_certificate(&found.bind, &facts, RULE, NOW)), Reason::NameMismatch);
}

#[test]
fn evidence_in_any_other_place_or_form_is_refused() {
    let native = || extension(OID, &octet_string(&good()));
    assert!(read(&leaf(vec![native()])).is_ok());
    let cases: Vec<(&str, Vec<CustomExtension>, Reason)> = vec![
        ("null-verifier", vec![], Reason::EvidenceUnsupported),
        ("ext-no-octetstring", vec![extension(OID, &good())], Reason::EvidenceMalformed),
        ("cmw-json", vec![extension(OID, &[0x0c, 2, b'{', b'}'])], Reason::EvidenceUnsupported),
        ("empty", vec![extension(OID, &[])], Reason::EvidenceMalformed),
        ("empty string", vec![extension(OID, &[4, 0])], Reason::EvidenceMalformed),
        ("long form of a short length", vec![extension(OID, &[4, 0x81, 1, 0xa0])], Reason::EvidenceMalformed),
        ("indefinite", vec![extension(OID, &[0x24, 0x80, 4, 1, 0xa0, 0, 0])], Reason::EvidenceMalformed),
        ("cut", vec![extension(OID, &[4, 9, 0xa0])], Reason::EvidenceMalformed),
        ("trailing", vec![extension(OID, &[&octet_string(&good())[..], &[0]].concat())], Reason::EvidenceMalformed),
        ("too long", vec![extension(OID, &octet_string(&vec![0; MAX_EVIDENCE + 1]))], Reason::EvidenceSize),
        ("two-extensions", vec![native(), extension(&[2, 23, 133, 5, 4, 9], &[0xd9])], Reason::EvidenceAmbiguous),
        ("two-extensions, dstack", vec![native(), extension(&[1, 3, 6, 1, 4, 1, 62397, 1, 1], &[4, 0])], Reason::EvidenceAmbiguous),
        ("two-id-pe-cmw", vec![native(), native()], Reason::CertificateInvalid),
        ("known-but-not-enabled", vec![extension(&[1, 3, 9900, 2, 2], b"{}")], Reason::EvidenceUnsupported),
        ("gramine", vec![extension(&[0, 6, 9, 42, 840, 113_741, 1337, 6], &[3])], Reason::EvidenceUnsupported),
        ("evidence-not-in-extension", vec![extension(&[2, 16, 840, 1, 113_730, 1, 13], &octet_string(&good()))], Reason::EvidenceUnsupported),
        ("sgx-pck-oid-in-leaf", vec![extension(&[1, 2, 840, 113_741, 1, 13, 1], &[0x30, 0])], Reason::EvidenceUnsupported),
    ];
    for (case, extensions, wanted) in cases {
        assert_eq!(reason(read(&leaf(extensions))), wanted, "{case}");
    }
    // The PCK certificates' own use of that OID beside native evidence makes nothing unclear; a quote there does.
    let sgx = &[1, 2, 840, 113_741, 1, 13, 1];
    assert!(read(&leaf(vec![native(), extension(sgx, &[0x30, 0])])).is_ok());
    assert_eq!(reason(read(&leaf(vec![native(), extension(sgx, &[3, 0])]))), Reason::EvidenceAmbiguous);
}

#[test]
fn a_certificate_that_is_none_is_refused_without_a_panic() {
    let whole = leaf(vec![extension(OID, &octet_string(&good()))]);
    assert_eq!(reason(Leaf::read(&[])), Reason::CertificateInvalid);
    assert_eq!(reason(Leaf::read(&vec![0x30; MAX_LEAF + 1])), Reason::CertificateInvalid);
    assert_eq!(reason(Leaf::read(&[whole.as_slice(), &[0]].concat())), Reason::CertificateInvalid);
    for end in 0..whole.len() {
        assert_eq!(reason(Leaf::read(&whole[..end])), Reason::CertificateInvalid);
    }
    for place in 0..whole.len() {
        for bit in [0x01, 0x80] {
            let mut changed = whole.clone();
            changed[place] ^= bit;
            let _ = read(&changed);
        }
    }
    let rsa_like = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).expect("a key");
    let other_kind = CertificateParams::new(names(&["x"])).expect("names").self_signed(&rsa_like).expect("a certificate");
    assert_eq!(reason(Leaf::read(other_kind.der())), Reason::CertificateInvalid);
}

#[test]
fn what_a_certificate_cannot_say_is_not_issued() {
    let key = key();
    let own = names(&["app.example"]);
    let evidence = collection(&claims(&key, &own), 1184);
    let good = statement(&own, &evidence);
    for bad in ["App.example", "has space", "", "http://app.example"] {
        let bad_names = names(&[bad]);
        assert_eq!(issue(&key, &Statement { names: &bad_names, ..good }).err(), Some(NotIssued::Name(bad.to_owned())), "{bad:?}");
    }
    let long = collection(&claims(&key, &own), MAX_EVIDENCE);
    assert!(matches!(issue(&key, &statement(&own, &long)), Err(NotIssued::EvidenceSize(_))));
    let late = Statement { not_after: Timestamp(u64::MAX), ..good };
    assert_eq!(issue(&key, &late).err(), Some(NotIssued::Date(Timestamp(u64::MAX))));
}

#[test]
fn a_name_of_one_kind_does_not_pass_for_one_of_another() {
    let named = |name: SanType| {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(name);
        params.self_signed(&key()).expect("a certificate").der().to_vec()
    };
    let text = || "spiffe://mesh/orders".try_into().expect("ASCII");
    assert_eq!(Leaf::read(&named(SanType::URI(text()))).expect("a leaf").facts().names, ["spiffe://mesh/orders"]);
    assert_eq!(reason(Leaf::read(&named(SanType::DnsName(text())))), Reason::CertificateInvalid);
    let host = "app.example".try_into().expect("ASCII");
    assert_eq!(reason(Leaf::read(&named(SanType::URI(host)))), Reason::CertificateInvalid);
}
