//! One entry for each parser that reads hostile bytes: fed by the fuzz targets and by the bounded mutations of
//! `tests/parsers.rs`. An entry may refuse; it may not panic, and what it accepts must have been the one encoding.

use std::collections::BTreeMap;

use portcullis::diagnostic::{Source, render};
use portcullis::evidence::batch;
use portcullis::evidence::binding::{BindingClaims, Kind};
use portcullis::evidence::cbor::Reader;
use portcullis::evidence::cmw::{Auxiliary, Collection};
use portcullis::evidence::snp::{self, Firmware, Report};
use portcullis::evidence::{Endorsement, Endorsements, Evidence, KeyDigest, Timestamp};
use portcullis::platform::PLATFORMS;
use portcullis::policy::AppraisalPolicy;

/// A parser under test.
pub(crate) struct Parser {
    /// The name of its fuzz target.
    pub(crate) name: &'static str,
    /// Whether the bytes were accepted.
    pub(crate) feed: fn(&[u8]) -> bool,
    /// Inputs that are accepted, minted by our own code.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

/// Every parser.
pub(crate) const PARSERS: &[Parser] = &[
    Parser { name: "binding_claims", feed: binding_claims, seeds: binding_seeds },
    Parser { name: "cbor", feed: cbor, seeds: cbor_seeds },
    Parser { name: "cmw_collection", feed: cmw_collection, seeds: collection_seeds },
    Parser { name: "policy_file", feed: policy_file, seeds: policy_seeds },
    Parser { name: "snp_report", feed: snp_report, seeds: report_seeds },
];

/// The binding claims.
pub(crate) fn binding_claims(data: &[u8]) -> bool {
    let Ok(claims) = BindingClaims::decode(data) else { return false };
    assert_eq!(claims.encode(), data, "accepted another encoding");
    true
}

/// Any sequence of CBOR items, told apart by trying.
pub(crate) fn cbor(data: &[u8]) -> bool {
    let mut reader = Reader::new(data);
    while reader.offset() < data.len() {
        let before = reader.offset();
        let read = [
            reader.clone().uint().is_ok() && reader.uint().is_ok(),
            reader.clone().bytes().is_ok() && reader.bytes().is_ok(),
            reader.clone().text().is_ok() && reader.text().is_ok(),
            reader.clone().array().is_ok() && reader.array().is_ok(),
            reader.clone().map().is_ok() && reader.map().is_ok(),
        ];
        if read.iter().all(|read| !read) {
            return false;
        }
        assert!(reader.offset() > before && reader.offset() <= data.len());
    }
    reader.end().is_ok()
}

/// The collection that carries evidence.
pub(crate) fn cmw_collection(data: &[u8]) -> bool {
    let Ok(collection) = Collection::decode(data) else { return false };
    assert_eq!(collection.encode(), data, "accepted another encoding");
    true
}

/// A policy file. What is told about a bad one must render.
pub(crate) fn policy_file(data: &[u8]) -> bool {
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let (diagnostics, accepted) = match AppraisalPolicy::load(data, &vocabularies) {
        Ok((_, warnings)) => (warnings, true),
        Err(problems) => (problems, false),
    };
    assert!(accepted || !diagnostics.is_empty(), "refused without a word");
    let text = String::from_utf8_lossy(data);
    drop(render(&Source { name: "policy.json", text: &text }, &diagnostics));
    accepted
}

/// An attestation report, its claims and its signature field.
pub(crate) fn snp_report(data: &[u8]) -> bool {
    let Ok(report) = Report::parse(data) else { return false };
    assert_eq!(report.encode(), data, "accepted another encoding");
    let _ = (report.signing_key(), report.signature_be());
    let evidence = Evidence { media_type: snp::MEDIA_TYPE.to_owned(), bytes: data.to_vec() };
    for platform in PLATFORMS {
        let _ = (platform.verifier.read(&evidence, &Endorsements::default()), platform.verifier.report_data(&evidence), platform.verifier.needs(&evidence));
    }
    true
}

fn binding_seeds() -> Vec<Vec<u8>> {
    let claims = |kind| BindingClaims { kind, spki: KeyDigest([7; 48]), instance: vec![9; 16], aux: BTreeMap::new(), epoch: None, hpke: None };
    let names = vec!["a.example".to_owned(), "spiffe://example/b".to_owned()];
    let of_certificate = claims(Kind::Certificate { issued: Timestamp(1_790_812_800), expires: Timestamp(1_790_816_400), names });
    let full = BindingClaims {
        aux: BTreeMap::from([("gpu/0".to_owned(), [1; 48]), ("log".to_owned(), [2; 48])]),
        epoch: Some(("application/x".to_owned(), vec![3; 32])),
        hpke: Some((0x20, vec![4; 32])),
        ..claims(Kind::Web)
    };
    [of_certificate, claims(Kind::Session { hello: [5; 48] }), claims(Kind::Web), full].iter().map(BindingClaims::encode).collect()
}

fn cbor_seeds() -> Vec<Vec<u8>> {
    [binding_seeds(), collection_seeds()].concat()
}

fn collection_seeds() -> Vec<Vec<u8>> {
    let endorsement = |name: &str, media_type: &str| Endorsement { name: name.to_owned(), media_type: media_type.to_owned(), bytes: vec![0x30; 40] };
    let least = Collection {
        tee: Evidence { media_type: snp::MEDIA_TYPE.to_owned(), bytes: report(3).encode() },
        bind: binding_seeds().swap_remove(0),
        endorsements: Endorsements::default(),
        auxiliary: Vec::new(),
    };
    let mut full = least.clone();
    full.endorsements.push(endorsement("ask", "application/pkix-cert"));
    full.endorsements.push(endorsement("crl", "application/pkix-crl"));
    full.endorsements.push(endorsement("vcek", "application/pkix-cert"));
    full.auxiliary.push(Auxiliary { label: "log".to_owned(), media_type: "application/vnd.portcullis.eventlog+cbor".to_owned(), bytes: vec![6; 30] });
    vec![least.encode(), full.encode()]
}

fn policy_seeds() -> Vec<Vec<u8>> {
    let measurement = "1b".repeat(48);
    let least = format!(r#"{{"version": 1, "name": "p", "accept": [{{"id": "a", "tee": "sev-snp", "measurement": "{measurement}"}}]}}"#);
    let full = format!(
        r#"{{"version": 1, "name": "full", "expires": "2027-01-01T00:00:00Z", "accept": [
  {{"id": "a", "tee": "sev-snp", "measurement": {{"any_of": ["{measurement}"]}}, "products": ["genoa", "milan"], "min_tcb": {{"genoa": {{"snp": 23}}}},
   "insecure_allow_milan": "a laboratory", "insecure_allow_debug": true, "guest_policy": {{"smt": false}}, "min_firmware": "1.55"}}]}}"#
    );
    vec![least.into_bytes(), full.into_bytes()]
}

fn report_seeds() -> Vec<Vec<u8>> {
    [2, 3, 4, 5].map(|version| report(version).encode()).to_vec()
}

/// A report as a careful guest on Genoa would get it, unsigned.
fn report(version: u32) -> Report {
    let (tcb, firmware) = ([9, 0, 0, 0, 0, 0, 0x17, 0x48], Firmware { major: 1, minor: 55, build: 40 });
    Report {
        version,
        guest_svn: 1,
        policy: 0x3_0000,
        family_id: [1; 16],
        image_id: [2; 16],
        vmpl: 0,
        sig_algo: 1,
        current_tcb: tcb,
        platform_info: 0x21,
        key_info: 0,
        report_data: batch::report_data(1, &[3; 48]).0,
        measurement: [0x1b; 48],
        host_data: [0; 32],
        id_key_digest: [0; 48],
        author_key_digest: [0; 48],
        report_id: [4; 32],
        report_id_ma: [0xff; 32],
        reported_tcb: tcb,
        cpuid: (version >= 3).then_some([0x19, 0x11, 1]),
        chip_id: [5; 64],
        committed_tcb: tcb,
        current_firmware: firmware,
        committed_firmware: firmware,
        launch_tcb: tcb,
        mit_vectors: if version >= 5 { [1, 3] } else { [0; 2] },
        signature: Report::signature_field(&[6; 96]),
    }
}
