//! The quote of Google's vTPM beside SEV-SNP evidence: what passes, and each change of it with the code it is refused with.

#![cfg(feature = "simulator")]

use std::collections::BTreeMap;

use portcullis::attester::Quote;
use portcullis::attester::simulator::{Forge, MEASUREMENT, VtpmAuthority, VtpmForge, ordinary_log};
use portcullis::evidence::batch::Proof;
use portcullis::evidence::binding::{Binding, BindingClaims, Channel, Kind, Role as Side, digests};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::snp::Product;
use portcullis::evidence::tpm::{self, Hash, Selection};
use portcullis::evidence::{Auxiliary, Evidence, KeyDigest, Timestamp};
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::Appraiser;
use portcullis::verify::memo::NoMemo;

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);

fn vtpm() -> VtpmForge {
    let mut vtpm = VtpmForge::new(7);
    vtpm.extras.certificates = VtpmAuthority::Google.certify(vtpm.key, "instance-7", NOW);
    vtpm.extras.log = Some(ordinary_log().encode());
    vtpm
}

fn appraiser(entry: &str) -> Appraiser {
    let text = format!(
        r#"{{ "version": 1, "name": "google", "insecure_roots": ["simulator"], "accept": [ {{ "id": "vm", "tee": "sev-snp", "measurement": "{}"{entry} }} ] }}"#,
        data_encoding::HEXLOWER.encode(&MEASUREMENT)
    );
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &vocabularies).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    Appraiser { anchors: platform::anchors(&policy), policy }
}

/// Wants the vTPM, and the boot loader of the fixture.
fn wanted() -> String {
    format!(r#", "vtpm": ["google"], "pcrs": {{ "4": "{}" }}"#, data_encoding::HEXLOWER.encode(&vtpm().pcrs.values[&4]))
}

fn binding(aux: BTreeMap<String, [u8; 48]>) -> (Vec<u8>, Binding) {
    let key = KeyDigest([0x11; 48]);
    let claims = BindingClaims { kind: Kind::Session { hello: [0x22; 48] }, spki: key, instance: vec![0x33; 16], aux, epoch: None, hpke: None }.encode();
    let channel = Channel {
        role: Side::Server,
        exporter: &[0xee; 32],
        nonce_peer: &[1; 32],
        nonce_self: &[2; 32],
        key_self: &key,
        key_peer: None,
        alpn: b"portcullis1/raw",
    };
    let binding = Binding::of_session(&claims, &channel, &[0x22; 48], &Proof { index: 0, size: 1, path: Vec::new() }).expect("a binding");
    (claims, binding)
}

fn member(bytes: Vec<u8>) -> Auxiliary {
    Auxiliary { label: "vtpm".to_owned(), media_type: tpm::MEDIA_TYPE.to_owned(), bytes }
}

fn quote(vtpm: &VtpmForge, binding: &Binding) -> Quote {
    let mut quote = Forge::new(Product::Genoa, 7, NOW).quote(&binding.expected().long);
    quote.evidence.auxiliary.push(member(vtpm.quote(&binding.expected().short)));
    quote
}

fn judge(vtpm: &VtpmForge, tamper: fn(&mut Quote), entry: &str) -> Result<(), Denied> {
    let (bind, binding) = binding(BTreeMap::new());
    let mut quote = quote(vtpm, &binding);
    tamper(&mut quote);
    let presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
    appraiser(entry).judge(platform::by_name("sev-snp").expect("the platform").verifier, &presented, &binding, &NoMemo, NOW).map(drop)
}

#[test]
fn a_quote_beside_the_report_passes_and_may_be_missing_where_it_is_not_wanted() {
    judge(&vtpm(), |_| {}, &wanted()).expect("wanted and there");
    judge(&vtpm(), |_| {}, "").expect("not wanted and there");
    judge(&vtpm(), |quote| quote.evidence.auxiliary.clear(), "").expect("not wanted and not there");
    judge(&vtpm(), |_| {}, r#", "gce_instance_id": ["42"]"#).expect("the instance of the certificate");
}

#[test]
fn every_change_is_refused_with_its_code() {
    use Reason::*;
    type Change = fn(&mut VtpmForge);
    let forged: [(&str, Change, Reason); 11] = [
        ("another cloud's certificate", |vtpm| vtpm.extras.certificates = VtpmAuthority::Azure.certify(vtpm.key, "x", NOW), ChainUntrusted),
        ("no certificate", |vtpm| vtpm.extras.certificates.clear(), ChainUntrusted),
        ("no issuer", |vtpm| drop(vtpm.extras.certificates.pop()), ChainUntrusted),
        (
            "a certificate that has ended",
            |vtpm| vtpm.extras.certificates = VtpmAuthority::Google.certify(vtpm.key, "x", NOW.minus(800 * 86_400)),
            ChainUntrusted,
        ),
        (
            "the certificate of another key",
            |vtpm| {
                vtpm.extras.certificates = VtpmAuthority::Google.certify(VtpmForge::new(8).key, "x", NOW);
            },
            TpmQuoteInvalid,
        ),
        ("tpm-pcrselect", |vtpm| vtpm.selection = Some(Selection::of(Hash::Sha256, 0..9)), TpmQuoteInvalid),
        ("a digest of other registers", |vtpm| vtpm.digest = Some(vec![1; 32]), TpmQuoteInvalid),
        ("another boot, told by the log", |vtpm| drop(vtpm.pcrs.values.insert(4, vec![4; 32])), EventLogMismatch),
        (
            "another boot",
            |vtpm| {
                vtpm.extras.log = None;
                vtpm.pcrs.values.insert(4, vec![4; 32]);
            },
            MeasurementUnknown,
        ),
        ("a register that is wanted and not quoted", |vtpm| drop(vtpm.pcrs.values.remove(&4)), MeasurementUnknown),
        ("certificates without end", |vtpm| vtpm.extras.certificates = vec![vec![0x30]; 5], EvidenceMalformed),
    ];
    for (name, change, expected) in forged {
        let mut vtpm = vtpm();
        change(&mut vtpm);
        assert_eq!(judge(&vtpm, |_| {}, &wanted()).map_err(|denied| denied.reason()), Err(expected), "{name}");
    }
    let tampered: [(&str, fn(&mut Quote), Reason); 3] = [
        ("no quote", |quote| quote.evidence.auxiliary.clear(), AuxiliaryUnbound),
        ("a quote for another challenge", |quote| quote.evidence.auxiliary = vec![member(vtpm().quote(&[9; 48]))], BindingMismatch),
        (
            "a report for another challenge",
            |quote| {
                quote.evidence.bytes = Forge::new(Product::Genoa, 7, NOW).report_over(&portcullis::evidence::ReportData([9; 64]));
            },
            BindingMismatch,
        ),
    ];
    for (name, change, expected) in tampered {
        assert_eq!(judge(&vtpm(), change, &wanted()).map_err(|denied| denied.reason()), Err(expected), "{name}");
    }
    let other = judge(&vtpm(), |_| {}, r#", "gce_instance_id": ["43"]"#);
    assert_eq!(other.map_err(|denied| denied.reason()), Err(PlatformNotAllowed));
}

#[test]
fn a_quote_that_the_claims_list_is_refused() {
    let (_, plain) = binding(BTreeMap::new());
    let (bind, listed) = binding(digests(&quote(&vtpm(), &plain).evidence.auxiliary));
    let quote = quote(&vtpm(), &listed);
    let presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
    let verdict = appraiser("").judge(platform::by_name("sev-snp").expect("the platform").verifier, &presented, &listed, &NoMemo, NOW);
    assert_eq!(verdict.map(drop).map_err(|denied| denied.reason()), Err(Reason::AuxiliaryUnbound));
}

#[test]
fn a_quote_is_never_evidence_of_its_own() {
    assert!(platform::of_evidence(&Evidence::new(tpm::MEDIA_TYPE, vtpm().quote(&[0; 48]))).is_none());
}
