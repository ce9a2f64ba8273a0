//! NVIDIA devices against captured evidence: reports and chains of GPUs and a switch, reference measurements, OCSP responses.
//! What another implementation said of each is in the manifest.

#[path = "support/known.rs"]
mod known;
#[path = "support/references.rs"]
mod references;
#[path = "support/second_opinion.rs"]
mod second_opinion;
#[path = "support/skipped.rs"]
mod skipped;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use known::Known;
use portcullis::evidence::gpu::{Gpu, MEDIA_TYPE, Report};
use portcullis::evidence::ocsp::Response;
use portcullis::evidence::rim::Rim;
use portcullis::evidence::{Auxiliary, Endorsement, Endorsements, Timestamp};
use portcullis::platform;
use portcullis::policy::{AppraisalPolicy, References, Revocation};
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::auxiliary::{Device, State};
use portcullis::verify::gpu;
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Appraiser, Grounds, SignatureMemo, TrustAnchors};
use references::signed::certified;
use references::{Changed, rooted};
use serde_json::Value;

#[derive(Clone)]
struct Case {
    id: String,
    gpu: Gpu,
    endorsements: Endorsements,
    at: Timestamp,
    case: Value,
}

fn folder() -> PathBuf {
    std::env::var_os("PORTCULLIS_VECTORS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), Into::into)
}

fn cases() -> Vec<Case> {
    let Ok(manifest) = std::fs::read(folder().join("MANIFEST.json")) else {
        println!("SKIPPED: no vectors at {}: NVIDIA's devices", folder().display());
        return Vec::new();
    };
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    manifest["cases"].as_array().expect("cases").iter().filter(|case| case["platform"] == "nvidia").map(Case::read).collect()
}

impl Case {
    fn read(case: &Value) -> Self {
        let (mut report, mut chain, mut endorsements) = (Vec::new(), Vec::new(), Endorsements::default());
        for file in case["files"].as_array().expect("files") {
            let path = folder().join(file["path"].as_str().expect("a path"));
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            let mut endorse =
                |prefix: &str| endorsements.push(Endorsement { name: format!("{prefix}-{name}"), media_type: String::new(), bytes: bytes.clone() });
            match name {
                "attestation_report.bin" => report = bytes,
                "cert_chain.pem" => {
                    let blocks = x509_parser::pem::Pem::iter_from_buffer(&bytes);
                    chain = blocks.map(|block| block.expect("PEM").contents).collect();
                }
                _ if name.ends_with("_rim.xml") => endorse(gpu::RIM),
                _ if path.components().any(|part| part.as_os_str() == "ocsp") => endorse(gpu::OCSP),
                _ => {}
            }
        }
        // Lengths inside the evidence decide: what lies behind is not the device's.
        if let Ok((_, behind)) = Report::parse(&report) {
            report.truncate(report.len() - behind.len());
        }
        let at = case["verify_at"].as_str().and_then(Timestamp::parse).expect("a time");
        Self { id: case["id"].as_str().expect("an id").to_owned(), gpu: Gpu { report, chain }, endorsements, at, case: case.clone() }
    }

    fn has_rims(&self) -> bool {
        self.endorsements.iter().any(|endorsement| endorsement.name.starts_with(gpu::RIM))
    }

    fn whole(&self, revocation: Revocation, at: Timestamp) -> Result<Device, Denied> {
        self.judge(revocation, References::Required, &NoMemo, at)
    }

    fn judge(&self, revocation: Revocation, references: References, memo: &dyn SignatureMemo, at: Timestamp) -> Result<Device, Denied> {
        let anchors: TrustAnchors = gpu::anchors().into_iter().collect();
        let grounds = Grounds { anchors: &anchors, revocation, references, memo, now: at };
        gpu::authenticate(&self.gpu.encode(), &self.endorsements, None, &grounds)
    }

    /// Report and chain alone.
    fn device(&self, report: &[u8]) -> Result<Device, Denied> {
        let anchors: TrustAnchors = gpu::anchors().into_iter().collect();
        let grounds = Grounds { anchors: &anchors, revocation: Revocation::WhenPresent, references: References::Required, memo: &NoMemo, now: self.at };
        let (parsed, _) = Report::parse(report)?;
        gpu::device(report, &parsed, &gpu::certificates("gpu.certificate", &self.gpu.chain)?, &grounds)
    }
}

#[test]
fn every_case_gives_the_manifests_verdict_and_claims() {
    for case in cases() {
        let verdict = case.judge(Revocation::WhenPresent, References::WhenPresent, &NoMemo, case.at);
        let whole = case.whole(Revocation::WhenPresent, case.at).map(drop).map_err(|denied| denied.reason());
        match &verdict {
            // Without reference measurements no state was judged, and where it has to be, that is what is said.
            Ok(device) if !case.has_rims() => {
                assert_eq!((device.state, whole), (State::Uncompared, Err(Reason::CollateralUnavailable)), "{}", case.id);
            }
            Ok(device) => assert_eq!((device.state, whole), (State::Compared, Ok(())), "{}", case.id),
            Err(denied) => assert_eq!(whole, Err(denied.reason()), "{}", case.id),
        }
        let expected = case.case["expected"]["verdict"].as_str().expect("a verdict");
        let word = if verdict.is_ok() { "accept" } else { "reject" };
        println!("{}: {word} {}", case.id, verdict.as_ref().err().map(ToString::to_string).unwrap_or_default());
        assert!(expected.starts_with(word), "{}: {expected}", case.id);
        let (report, _) = Report::parse(&case.gpu.report).expect("a report");
        let claims = &case.case["claims"];
        assert_eq!(claims["nonce"], HEXLOWER.encode(&report.nonce), "{}", case.id);
        assert_eq!(claims["spdm_request"], HEXLOWER.encode(&report.request), "{}", case.id);
        assert_eq!(claims["measurement_blocks"], report.measurements.len(), "{}", case.id);
        for (block, value) in claims["measurements"].as_object().expect("measurements") {
            let at: usize = block.parse().expect("a number");
            assert_eq!(*value, HEXLOWER.encode(&report.measurements[at - 1]), "{}: block {block}", case.id);
        }
        assert_eq!(claims["fwid"].as_str(), report.fwid().map(|fwid| HEXLOWER.encode(fwid)).as_deref(), "{}", case.id);
        assert_eq!(claims["opaque"]["DRIVER_VERSION"].as_str(), report.driver_version().as_deref(), "{}", case.id);
        if let Some(vbios) = claims["vbios_version"].as_str() {
            assert_eq!(Some(vbios), report.vbios_version().as_deref(), "{}", case.id);
        }
    }
}

#[test]
fn a_flipped_bit_of_any_signed_octet_is_refused() {
    for case in cases().iter().filter(|case| case.device(&case.gpu.report).is_ok()).take(2) {
        for at in (0..case.gpu.report.len()).step_by(7).chain(case.gpu.report.len() - 96..case.gpu.report.len()) {
            let mut report = case.gpu.report.clone();
            report[at] ^= 0x10;
            let reason = case.device(&report).map(drop).map_err(|denied| denied.reason());
            let refused = matches!(reason, Err(Reason::SignatureInvalid | Reason::EvidenceMalformed | Reason::EvidenceUnsupported));
            assert!(refused, "{}: octet {at}: {reason:?}", case.id);
        }
    }
}

/// The regions of a report's front, and the one code for a change in each.
const FRONT_CODES: &[(&str, Range<usize>, Reason)] = &[
    ("request: version, code, attributes, blocks", 0..4, Reason::EvidenceUnsupported),
    ("request: nonce", 4..36, Reason::SignatureInvalid),
    ("request: slot", 36..37, Reason::SignatureInvalid),
    ("response: version, code", 37..39, Reason::EvidenceUnsupported),
    ("response: attributes", 39..41, Reason::SignatureInvalid),
];

/// A wrong code fails: for each region of captured reports, and for each certificate of their chains.
#[test]
fn each_region_of_a_report_and_its_chain_has_its_code() {
    let (mut wrong, mut told) = (Vec::new(), BTreeMap::<String, usize>::new());
    for case in cases().iter().filter(|case| case.device(&case.gpu.report).is_ok()) {
        let known = Known::default();
        let mut check = |what: &str, at: usize, changed: &Case, code: Reason| {
            let verdict = changed.judge(Revocation::WhenPresent, References::WhenPresent, &known, changed.at).map(drop).map_err(|denied| denied.reason());
            *told.entry(format!("{what}: {code}")).or_default() += 1;
            if verdict != Err(code) {
                wrong.push(format!("{}: {what}, octet {at}: {verdict:?}, not {code:?}", case.id));
            }
        };
        let (report, _) = Report::parse(&case.gpu.report).expect("a report");
        for (what, region, code) in FRONT_CODES.iter().cloned().chain(values(&report, &case.gpu.report)) {
            for at in region.clone().step_by(region.len().div_ceil(6)) {
                let mut changed = case.clone();
                changed.gpu.report[at] ^= 1 << (at % 8);
                check(what, at, &changed, code);
            }
        }
        for (number, der) in case.gpu.chain.iter().enumerate() {
            // The pinned key stands for the root: of its certificate the key and the name are what a chain leads to.
            let root = number + 1 == case.gpu.chain.len();
            let (what, regions) = if root { ("root's name and key", rooted(der)) } else { ("certificate", certified(der)) };
            for at in regions.into_iter().flat_map(|region| region.step_by(29)) {
                let mut changed = case.clone();
                changed.gpu.chain[number][at] ^= 1 << (at % 8);
                check(what, at, &changed, Reason::ChainUntrusted);
            }
        }
    }
    println!("{told:#?}");
    assert!(told.is_empty() || told.len() == FRONT_CODES.len() + 6, "{told:#?}");
    assert!(wrong.is_empty(), "{} octets: {wrong:#?}", wrong.len());
}

/// The values behind the front, where they stand: measurements, the responder's nonce, opaque fields, the signature.
fn values(report: &Report, received: &[u8]) -> Vec<(&'static str, Range<usize>, Reason)> {
    const BLOCK: usize = 7;
    let (head, behind) = (41 + 4, report.signed);
    let mut regions = Vec::new();
    for (number, _) in report.measurements.iter().enumerate() {
        let at = head + number * (BLOCK + 48) + BLOCK;
        assert_eq!(received[at..at + 48], report.measurements[number]);
        regions.push(("response: measurement", at..at + 48, Reason::SignatureInvalid));
    }
    let nonce = head + report.measurements.len() * (BLOCK + 48);
    regions.push(("response: nonce", nonce..nonce + 32, Reason::SignatureInvalid));
    let mut at = nonce + 32 + 2;
    for (_, value) in &report.opaque {
        at += 4;
        assert_eq!(received[at..at + value.len()], *value);
        regions.push(("response: opaque", at..at + value.len(), Reason::SignatureInvalid));
        at += value.len();
    }
    assert_eq!(at, behind, "the signature is behind the last field");
    regions.push(("signature", behind..behind + 96, Reason::SignatureInvalid));
    regions.retain(|(_, region, _)| !region.is_empty());
    regions
}

/// A wrong code fails: for each region of captured reference measurements and of the responses for the device's certificates, by
/// the verdict on files. What is at hand and not as it was signed refuses also where a state may go without references.
#[test]
fn each_region_of_references_and_of_responses_has_its_code() {
    let Some(case) = cases().into_iter().find(|case| case.endorsements.iter().any(|endorsement| endorsement.name.starts_with(gpu::OCSP))) else { return };
    let by = |revocation| {
        let policy = AppraisalPolicy { revocation, ..AppraisalPolicy::genuine(&platform::vocabularies()) };
        Appraiser { anchors: platform::anchors(&policy), policy }
    };
    let (strict, lenient, known) = (by(Revocation::Required), by(Revocation::WhenPresent), Known::default());
    let examined = |appraiser: &Appraiser, endorsements: &[Endorsement], at: Timestamp| {
        let member = Auxiliary { label: "gpu/0".to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes: case.gpu.encode() };
        appraiser.examine_devices(&[member], &endorsements.iter().cloned().collect(), &known, at)
    };
    let (mut wrong, mut told) = (Vec::new(), BTreeMap::<String, usize>::new());
    let mut check = |all: &[Endorsement], which: usize, changed: Changed, appraiser: &Appraiser, at| {
        let mut all = all.to_vec();
        all[which].bytes = changed.bytes;
        let denied = examined(appraiser, &all, at).err();
        let found = denied.as_ref().and_then(|denied| denied.findings().next()).map(|finding| (finding.reason, finding.field.as_ref()));
        *told.entry(format!("{}: {} {}", changed.what, changed.refused.0, changed.refused.1)).or_default() += 1;
        if found != Some(changed.refused) {
            wrong.push(format!("{}: {}: {found:?}, not {:?}", all[which].name, changed.what, changed.refused));
        }
    };
    let all: Vec<Endorsement> = case.endorsements.iter().cloned().collect();
    assert!(examined(&lenient, &all, case.at).is_ok_and(|appraisal| appraisal.uncompared().is_empty()));
    for (which, rim) in all.iter().enumerate().filter(|(_, one)| one.name.starts_with(gpu::RIM)) {
        for changed in references::of_rim(&rim.bytes, 23) {
            check(&all, which, changed, &lenient, case.at);
        }
    }
    // Of the two days, the one on which each certificate of the device itself is vouched for.
    let at = Timestamp::parse("2025-08-21T12:00:00Z").expect("a time");
    let device: Vec<Endorsement> = all.into_iter().filter(|one| one.name.starts_with("gpu-ocsp-gpu_certificate")).collect();
    assert!(examined(&strict, &device, at).is_ok_and(|appraisal| appraisal.revocation_checked()) && device.len() == 3);
    for (which, response) in device.iter().enumerate() {
        for changed in references::of_ocsp(&response.bytes, 5) {
            check(&device, which, changed, &strict, at);
        }
    }
    println!("{told:#?}");
    assert!(wrong.is_empty(), "{} octets: {wrong:#?}", wrong.len());
    assert_eq!(told.len(), 21, "{told:#?}");
}

#[test]
fn reference_measurements_are_nvidias_or_nobodys() {
    let (mut good, mut bad) = (0, 0);
    for case in cases() {
        for (at, rim) in case.endorsements.iter().filter(|endorsement| endorsement.name.starts_with(gpu::RIM)).enumerate() {
            let said = case.case["claims"]["rims"].as_array().expect("the manifest's").iter();
            let said = said.clone().find(|said| rim.name.ends_with(said["file"].as_str().expect("a file"))).unwrap_or_else(|| panic!("{at}"));
            let tag = Rim::parse(&rim.bytes);
            if said["xmldsig"] == "INVALID" {
                let anchors: TrustAnchors = gpu::anchors().into_iter().collect();
                let middle =
                    said["chain_min"].as_str().map(|text| text.replace(' ', "T")).and_then(|text| Timestamp::parse(&text)).expect("a time").plus(86_400);
                let grounds = Grounds { anchors: &anchors, revocation: Revocation::WhenPresent, references: References::Required, memo: &NoMemo, now: middle };
                let verdict = tag.and_then(|tag| gpu::reference(&tag, &gpu::certificates("rim", &tag.chain)?, &grounds));
                assert!(verdict.is_err(), "{}: {}", case.id, rim.name);
                bad += 1;
                continue;
            }
            let tag = tag.unwrap_or_else(|denied| panic!("{}: {}: {denied}", case.id, rim.name));
            assert_eq!((said["version"].as_str(), said["active"].as_u64()), (Some(tag.version.as_str()), Some(tag.golden.len() as u64)), "{}", rim.name);
            let middle = said["chain_min"].as_str().map(|text| text.replace(' ', "T")).and_then(|text| Timestamp::parse(&text)).expect("a time").plus(86_400);
            let anchors: TrustAnchors = gpu::anchors().into_iter().collect();
            let grounds = Grounds { anchors: &anchors, revocation: Revocation::WhenPresent, references: References::Required, memo: &NoMemo, now: middle };
            let chain = gpu::certificates("rim", &tag.chain).expect("certificates");
            gpu::reference(&tag, &chain, &grounds).unwrap_or_else(|denied| panic!("{}: {}: {denied}", case.id, rim.name));
            good += 1;
            // A digit of any value, and of any name: the digest is then of another document.
            for wanted in [b"size=\"48\"".as_slice(), b"active=\"True\"", b"GH100", b"DigestValue>", b"revision=\"r1\""] {
                let place = rim.bytes.windows(wanted.len()).position(|window| window == wanted).expect("it is there") + wanted.len() - 2;
                let mut changed = rim.bytes.clone();
                changed[place] ^= 1;
                assert!(Rim::parse(&changed).is_err(), "{}: {}", rim.name, String::from_utf8_lossy(wanted));
            }
        }
    }
    println!("{good} good, {bad} bad");
}

/// Firmware whose reference measurements are others: each block that differs is told.
#[test]
fn measurements_that_differ_from_the_reference_are_told() {
    for case in cases().iter().filter(|case| case.has_rims()) {
        let (report, _) = Report::parse(&case.gpu.report).expect("a report");
        let tags: Vec<Rim> = case.endorsements.iter().filter_map(|one| Rim::parse(&one.bytes).ok()).collect();
        let theirs = case.case["claims"]["golden_comparison"]["mismatched_indices"].as_array().expect("the manifest's").len();
        let verdict = gpu::golden(&report, &tags);
        assert_eq!(verdict.is_ok(), theirs == 0, "{}", case.id);
        if let Err(denied) = verdict {
            assert_eq!(denied.reason(), Reason::MeasurementUnknown);
        }
        let mut other = report.clone();
        let (index, _) = tags[0].golden[0];
        other.measurements[index] = [0xee; 48];
        assert_eq!(gpu::golden(&other, &tags[..1]).expect_err("another measurement").reason(), Reason::MeasurementUnknown);
        other.measurements.truncate(index);
        assert!(gpu::golden(&other, &tags[..1]).is_err(), "a measurement that is not there");
    }
}

#[test]
fn revocation_is_asked_of_responders_that_the_issuers_named() {
    let Some(case) = cases().into_iter().find(|case| case.endorsements.iter().any(|endorsement| endorsement.name.starts_with(gpu::OCSP))) else { return };
    for (endorsement, said) in case.endorsements.iter().filter(|one| one.name.starts_with(gpu::OCSP)).zip(case.case["claims"]["ocsp"].as_array().expect("OCSP"))
    {
        let response = Response::parse(&endorsement.bytes).unwrap_or_else(|denied| panic!("{}: {denied}", endorsement.name));
        let [single] = response.singles.as_slice() else { panic!("{} answers", response.singles.len()) };
        let moment = |name: &str| said[name].as_str().map(|text| text.replace(' ', "T")).and_then(|text| Timestamp::parse(&text));
        assert_eq!((Some(single.this_update), single.next_update), (moment("this_update"), moment("next_update")), "{}", endorsement.name);
        let serial = HEXLOWER.encode(single.serial);
        assert_eq!(serial.trim_start_matches('0'), said["serial"].as_str().expect("hex").trim_start_matches("0x").trim_start_matches('0'));
        for at in 0..endorsement.bytes.len() {
            let mut changed = endorsement.bytes.clone();
            changed[at] ^= 1;
            let _ = Response::parse(&changed);
        }
    }
    // The two sets of responses are of different days: at neither is every certificate vouched for.
    for at in ["2025-08-21T12:00:00Z", "2025-10-24T12:00:00Z"] {
        let at = Timestamp::parse(at).expect("a time");
        assert_eq!(case.whole(Revocation::Required, at).map(drop).map_err(|denied| denied.reason()), Err(Reason::CollateralUnavailable));
        assert!(!case.whole(Revocation::WhenPresent, at).expect("genuine").revocation_checked);
    }
}

/// Report and chain by another implementation, as captured and with an octet changed in the report or a certificate's content.
#[test]
fn another_implementation_says_the_same_of_reports_and_chains() {
    let mut asked = Vec::new();
    for mut case in cases() {
        let root = std::fs::read(folder().join("roots/nvidia_device_identity_root.der")).expect("a root");
        let hex = |octets: &[u8]| Value::from(HEXLOWER.encode(octets));
        let mut ask = |what: String, case: &Case| {
            let chain: Vec<_> = case.gpu.chain.iter().map(|der| hex(der)).collect();
            let line = serde_json::json!({ "kind": "gpu", "at": case.at.0, "report": hex(&case.gpu.report), "chain": chain, "root": hex(&root) });
            asked.push((format!("{}, {what}", case.id), case.device(&case.gpu.report).is_ok(), line));
        };
        ask("as captured".to_owned(), &case);
        for at in (0..case.gpu.report.len()).step_by(97) {
            case.gpu.report[at] ^= 1;
            ask(format!("octet {at}"), &case);
            case.gpu.report[at] ^= 1;
        }
        for certificate in 0..case.gpu.chain.len() - 1 {
            for at in (8..case.gpu.chain[certificate].len() - 130).step_by(53) {
                case.gpu.chain[certificate][at] ^= 1;
                ask(format!("certificate {certificate}, octet {at}"), &case);
                case.gpu.chain[certificate][at] ^= 1;
            }
        }
    }
    let lines: Vec<_> = asked.iter().map(|(.., line)| line.clone()).collect();
    let Some(words) = second_opinion::words(&lines) else { return };
    let differing: Vec<_> = asked.iter().zip(&words).filter(|((_, ours, _), word)| *ours != (*word == "good")).collect();
    let differing: Vec<_> = differing.iter().map(|((name, ours, _), word)| format!("{name}: ours {ours}, they say {word}")).collect();
    println!("{} pieces of evidence, {} of them good", asked.len(), words.iter().filter(|word| *word == "good").count());
    assert!(differing.is_empty(), "{differing:#?}");
}
