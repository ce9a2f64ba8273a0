//! A second opinion on Intel's quotes: the `dcap-qvl` crate, an implementation of its own, gives the same verdict, status
//! and advisories, over all captured evidence and over many simulated machines. And on captured evidence: no octet that
//! somebody signed can be changed.

#![cfg(feature = "simulator")]

#[path = "support/skipped.rs"]
mod skipped;

use std::path::{Path, PathBuf};

use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use portcullis::attester::simulator::intel::IntelForge;
use portcullis::evidence::intel::collateral::{QeIdentity, Signed, TcbInfo};
use portcullis::evidence::intel::{self, Body, Quote};
use portcullis::evidence::saved::SavedFile;
use portcullis::evidence::{Endorsement, Endorsements, Evidence, ReportData, Timestamp};
use portcullis::platform::{self, PLATFORMS, Platform};
use portcullis::policy::{Accept, AppraisalPolicy, References, Revocation, Roots, Tolerated};
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Appraisal, Appraiser, Grounds};
use proptest::prelude::*;
use serde_json::Value;

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);

/// A quote with its collateral.
struct Case {
    id: String,
    platform: &'static Platform,
    evidence: Evidence,
    endorsements: Endorsements,
    at: Timestamp,
}

/// What one of the two says: the status with its advisories, or that it refuses.
type Opinion = Option<(String, Vec<String>)>;

impl Case {
    fn of_forge(forge: &IntelForge) -> Self {
        let quote = forge.quote(&ReportData([7; 64]));
        Self {
            id: String::new(),
            platform: platform::of_evidence(&quote.evidence).expect("a quote"),
            evidence: quote.evidence,
            endorsements: quote.endorsements,
            at: NOW,
        }
    }

    /// Ours: whatever the status, as long as all else holds.
    fn ours(&self, roots: Roots) -> Opinion {
        let appraisal = judge(self.platform, &self.evidence, &self.endorsements, self.at, roots).ok()?;
        let claims = appraisal.claims();
        let mut advisories = claims.texts("tcb_advisories").unwrap_or_default().to_vec();
        advisories.sort();
        Some((claims.text("tcb_status")?.to_owned(), advisories))
    }

    fn theirs(&self, root: Vec<u8>) -> Opinion {
        let signed = |name: &'static str| Signed::decode(name, self.endorsements.find(name)?).ok();
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).ok();
        let (info, identity) = (signed("tcb_info")?, signed("qe_identity")?);
        let (_, sealed_info) = TcbInfo::read(info.body).ok()?;
        let (_, sealed_identity) = QeIdentity::read(identity.body).ok()?;
        let collateral = QuoteCollateralV3 {
            pck_crl_issuer_chain: String::new(),
            root_ca_crl: self.endorsements.find("root_crl")?.to_vec(),
            pck_crl: self.endorsements.find("pck_crl")?.to_vec(),
            tcb_info_issuer_chain: text(info.chain)?,
            tcb_info: text(sealed_info.message)?,
            tcb_info_signature: sealed_info.signature.to_vec(),
            qe_identity_issuer_chain: text(identity.chain)?,
            qe_identity: text(sealed_identity.message)?,
            qe_identity_signature: sealed_identity.signature.to_vec(),
            pck_certificate_chain: None,
        };
        let report = QuoteVerifier::new(root).verify(&self.evidence.bytes, &collateral, self.at.0).ok()?;
        let mut advisories = report.advisory_ids;
        advisories.sort();
        advisories.dedup();
        Some((report.status, advisories))
    }
}

/// Our verdict with every status tolerated that may be, and every evaluation number.
fn judge(platform: &Platform, evidence: &Evidence, endorsements: &Endorsements, at: Timestamp, roots: Roots) -> Result<Appraisal, Denied> {
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let mut policy = AppraisalPolicy { roots, revocation: Revocation::Required, ..AppraisalPolicy::genuine(&vocabularies) };
    let claims = platform.verifier.read(evidence, endorsements)?;
    let tolerated = claims.text("tcb_status").map(|status| Tolerated {
        status: status.to_owned(),
        advisories: claims.texts("tcb_advisories").unwrap_or_default().to_vec(),
        until: Timestamp(u64::MAX),
    });
    for constraint in policy.accept.iter_mut().flat_map(|entry| &mut entry.constraints) {
        match constraint.accept {
            Accept::TcbStatus(_) => constraint.accept = Accept::TcbStatus(tolerated.clone().into_iter().collect()),
            Accept::Rising { .. } => constraint.accept = Accept::Rising { least: 0, shipped: false },
            _ => {}
        }
    }
    let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
    appraiser.examine(platform.verifier, evidence, endorsements, &NoMemo, at)
}

fn folder() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    std::env::var_os("PORTCULLIS_VECTORS").map_or_else(default, PathBuf::from)
}

/// Every captured quote with collateral; empty, and said so, where there is none.
fn captured() -> Vec<Case> {
    let folder = folder();
    let Ok(manifest) = std::fs::read(folder.join("MANIFEST.json")) else {
        assert!(std::env::var_os("PORTCULLIS_VECTORS").is_none(), "PORTCULLIS_VECTORS names {}, where no manifest can be read", folder.display());
        skipped::cases(1, "no captured evidence: name its folder in PORTCULLIS_VECTORS");
        return Vec::new();
    };
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let read = |case: &Value| {
        let mut files = Vec::new();
        for file in case["files"].as_array()? {
            let path = folder.join(file["path"].as_str()?);
            files.push(SavedFile { name: path.file_name()?.to_str()?.to_owned(), bytes: std::fs::read(&path).ok()? });
        }
        let quote = files.iter().find(|file| matches!(file.name.as_str(), "quote.bin" | "td_quote.bin"))?;
        let platform = platform::of_evidence(&Evidence::new(intel::MEDIA_TYPE, quote.bytes.as_slice()))?;
        // The capture with a sentence behind the quote is refused for that by us, and by nobody else.
        let assembled = (platform.saved.assemble)(&files).filter(|_| Quote::parse(&quote.bytes).is_ok())?;
        let endorsements: Endorsements = assembled.endorsements.into_iter().collect();
        endorsements.find("tcb_info")?;
        let at = Timestamp::parse(case["verify_at"].as_str()?)?;
        Some(Case { id: case["id"].as_str()?.to_owned(), platform, evidence: assembled.evidence?, endorsements, at })
    };
    manifest["cases"].as_array().expect("cases").iter().filter_map(read).collect()
}

fn intel_root() -> Vec<u8> {
    std::fs::read(folder().join("roots/intel_sgx_root_ca.der")).expect("the root's certificate")
}

#[test]
fn captured_quotes_have_the_same_verdict_status_and_advisories() {
    let cases = captured();
    for case in &cases {
        assert_eq!(case.ours(Roots::Vendor), case.theirs(intel_root()), "{}", case.id);
    }
    println!("{} captured quotes compared", cases.len());
    assert!(cases.is_empty() || cases.len() >= 20, "only {} captured quotes", cases.len());
}

const STATUSES: [&str; 7] =
    ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"];

prop_compose! {
    /// A machine that is more or less behind, under collateral that says this or that of it.
    fn machine()(
        of in 0..3_u8,
        statuses in proptest::collection::vec(0..STATUSES.len(), 2),
        module in prop::sample::select(vec!["UpToDate", "OutOfDate", "Revoked"]),
        enclave in prop::sample::select(vec!["UpToDate", "OutOfDate", "Revoked"]),
        behind in 0..3_u8,
        pce in 12..14_u16,
        launch in (1..7_u8, 0..2_u8, 5..7_u8),
        now in (1..7_u8, 0..2_u8, 5..7_u8),
        qe_svn in 3..10_u16,
        attributes in prop::sample::select(vec![0, 1_u64, 1 << 5, 1 << 29, 1 << 40]),
    ) -> IntelForge {
        let mut forge = match of {
            0 => IntelForge::sgx(3, NOW),
            1 => IntelForge::tdx10(3, NOW),
            _ => IntelForge::tdx15(3, NOW),
        };
        forge.pck.components[1] -= behind;
        forge.pck.pce_svn = pce;
        for (level, status) in forge.collateral.levels.iter_mut().zip(&statuses) {
            level.status = STATUSES[*status];
        }
        forge.collateral.module[0].1 = module;
        forge.collateral.quoting_enclave[0].1 = enclave;
        forge.quote.qe_report.isv_svn = qe_svn;
        if let Body::TrustDomain(report) = &mut forge.quote.body {
            let put = |svns: &mut [u8; 16], (module, version, microcode): (u8, u8, u8)| (svns[0], svns[1], svns[2]) = (module, version, microcode);
            put(&mut report.tee_tcb_svn, launch);
            if let Some(newer) = &mut report.newer {
                put(&mut newer.tee_tcb_svn, now);
            }
            report.td_attributes |= attributes;
        }
        forge
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn simulated_machines_have_the_same_verdict_and_status(forge in machine()) {
        let case = Case::of_forge(&forge);
        let [ours, theirs] = [case.ours(Roots::VendorAndSimulator), case.theirs(forge.ca.root())];
        // They accept what is revoked and leave it to their callers.
        let theirs = theirs.filter(|(status, _)| status != "Revoked");
        prop_assert_eq!(ours.map(|(status, _)| status), theirs.map(|(status, _)| status));
    }
}

/// What a verdict needs is asked for by Intel's own paths, and each item is known to be Intel's before it is kept.
#[test]
fn captured_collateral_is_vouched_for_under_the_names_of_the_vendors_service() {
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let anchors = platform::anchors(&AppraisalPolicy::genuine(&vocabularies));
    for case in captured() {
        let grounds = Grounds { anchors: &anchors, revocation: Revocation::Required, references: References::Required, memo: &NoMemo, now: case.at };
        let needs = case.platform.verifier.needs(&case.evidence).expect("a quote");
        let mut names: Vec<_> = needs.iter().map(|id| id.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["pck_crl", "qe_identity", "root_crl", "tcb_info"], "{}", case.id);
        for id in needs {
            let vouch = |item: &Endorsement| case.platform.verifier.vouch(&id, item, &|_| None, &grounds);
            let item = case.endorsements.iter().find(|item| item.name == id.name).expect("captured with the quote");
            vouch(item).unwrap_or_else(|denied| panic!("{}: {} is refused: {denied}", case.id, id.path));
            // The PCK CA's certificate comes with a quote alone.
            assert_eq!(vouch(&changed(item, id.name)).is_err(), id.name != "pck_crl", "{}: {}, changed", case.id, id.path);
        }
    }
}

/// A verdict holds to its last second, and not one longer: whatever of the collateral ends first.
#[test]
fn a_verdict_on_captured_evidence_ends_with_its_collateral() {
    for case in captured() {
        let at = |at| judge(case.platform, &case.evidence, &case.endorsements, at, Roots::Vendor);
        let Ok(appraisal) = at(case.at) else { continue };
        let until = appraisal.until();
        assert!(at(until).is_ok(), "{}: refused at {until}", case.id);
        let denied = at(until.plus(1)).expect_err("accepted for longer than it holds");
        assert_eq!(denied.reason(), Reason::CollateralUnavailable, "{}: {denied}", case.id);
    }
}

/// One octet changed in each part that somebody signed, or that says who did: the code that says which part.
#[test]
fn no_signed_octet_of_captured_evidence_can_be_changed() {
    for case in captured() {
        if judge(case.platform, &case.evidence, &case.endorsements, case.at, Roots::Vendor).is_err() {
            continue;
        }
        let quote = Quote::parse(&case.evidence.bytes).expect("a quote");
        let signed = quote.signed_size();
        let auth = signed + 4;
        let report = auth + 128 + if quote.version >= 4 { 6 } else { 0 };
        let (data, chain) = (report + 384 + 64 + 2, report + 384 + 64 + 2 + quote.qe_auth.len() + 6);
        // The first certificate's base64, beyond the header line and the names.
        let key = chain + quote.certification.iter().position(|octet| *octet == b'\n').expect("a line") + 700;
        let parts: &[(&str, usize, Reason)] = &[
            ("user data", 30, Reason::SignatureInvalid),
            ("body, front", signed - 500.min(signed - 60), Reason::SignatureInvalid),
            ("report data", signed - 20, Reason::SignatureInvalid),
            ("signature", auth + 10, Reason::SignatureInvalid),
            ("attestation key", auth + 70, Reason::QuotingEnclaveInvalid),
            ("quoting enclave", report + 70, Reason::SignatureInvalid),
            ("quoting enclave's report data", report + 325, Reason::SignatureInvalid),
            ("quoting enclave's signature", report + 390, Reason::SignatureInvalid),
            ("quoting enclave's data", data + 3, Reason::QuotingEnclaveInvalid),
            ("PCK certificate", key, Reason::ChainUntrusted),
        ];
        for (what, offset, expect) in parts {
            let mut bytes = case.evidence.bytes.clone();
            // In base64 another letter stands for other octets; elsewhere any bit will do.
            bytes[*offset] = if *what == "PCK certificate" { if bytes[*offset] == b'A' { b'B' } else { b'A' } } else { bytes[*offset] ^ 0x20 };
            let evidence = Evidence { bytes, ..case.evidence.clone() };
            let refused = judge(case.platform, &evidence, &case.endorsements, case.at, Roots::Vendor).map(drop).map_err(|denied| denied.reason());
            assert_eq!(refused, Err(*expect), "{}: {what}", case.id);
        }
        for name in ["tcb_info", "qe_identity", "pck_crl", "root_crl"] {
            let changed = case.endorsements.iter().map(|endorsement| changed(endorsement, name)).collect();
            let refused = judge(case.platform, &case.evidence, &changed, case.at, Roots::Vendor).map(drop).map_err(|denied| denied.reason());
            assert_eq!(refused, Err(Reason::CollateralUnavailable), "{}: {name}", case.id);
        }
    }
}

/// A digit of the evaluation's date changed in a document, an octet of the signed part in a list.
fn changed(endorsement: &Endorsement, name: &str) -> Endorsement {
    let mut changed = endorsement.clone();
    if changed.name == name {
        let date = b"\"tcbDate\":\"20";
        let place = changed.bytes.windows(date.len()).position(|window| window == date).map_or(100, |at| at + date.len());
        changed.bytes[place] ^= 1;
    }
    changed
}
