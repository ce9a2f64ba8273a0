//! Captured COSE evidence (AWS Nitro, Arm CCA, PSA) beyond its verdicts: what is read is written back, every part that is
//! signed is, the command line says the same, and so does another implementation.

#![cfg(feature = "cli")]

#[path = "support/cose_claims.rs"]
#[allow(dead_code, reason = "what the claims are called matters to vectors.rs alone")]
mod cose_claims;
#[path = "support/program.rs"]
mod program;

use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portcullis::evidence::cbor::foreign::Item;
use portcullis::evidence::cose::Sign1;
use portcullis::evidence::nitro::Document;
use portcullis::evidence::tpm::{Attest, Hash};
use portcullis::evidence::{Endorsements, Evidence, Timestamp, cca};
use portcullis::platform::{self, Platform};
use portcullis::policy::{AppraisalPolicy, OperatorKey};
use portcullis::refusal::Reason;
use portcullis::verify::Appraiser;
use portcullis::verify::memo::NoMemo;
use program::{Desk, skipped};
use serde_json::{Value, json};

struct Case {
    id: String,
    platform: &'static Platform,
    evidence: Evidence,
    keys: Vec<OperatorKey>,
    at: Timestamp,
    good: bool,
}

fn folder() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    let folder = std::env::var_os("PORTCULLIS_VECTORS").map_or_else(default, PathBuf::from);
    if !folder.join("MANIFEST.json").exists() {
        skipped::cases(1, "no captured evidence: name its folder in PORTCULLIS_VECTORS");
        return None;
    }
    Some(folder)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases(folder: &Path) -> Vec<Case> {
    let manifest: Value = serde_json::from_slice(&read(&folder.join("MANIFEST.json"))).expect("JSON");
    let one = |case: &Value| {
        let platform = platform::by_name(case["platform"].as_str()?)?;
        if !["nitro", "nitrotpm", "cca", "psa"].contains(&platform.name) {
            return None;
        }
        let files: Vec<_> = case["files"].as_array()?.iter().filter_map(|file| Some(read(&folder.join(file["path"].as_str()?)))).collect();
        let evidence = Evidence::new(platform.media_type, files[0].as_slice());
        let keys = cose_claims::keys(platform, &evidence, files.iter().map(Vec::as_slice));
        let at = Timestamp::parse(case["verify_at"].as_str()?)?;
        Some(Case { id: case["id"].as_str()?.to_owned(), platform, evidence, keys, at, good: case["expected"]["verdict"] == "accept" })
    };
    manifest["cases"].as_array().expect("cases").iter().filter_map(one).collect()
}

impl Case {
    fn judge(&self, evidence: &Evidence) -> Result<(), Reason> {
        let policy = AppraisalPolicy { keys: self.keys.clone(), ..AppraisalPolicy::genuine(&platform::vocabularies()) };
        let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
        appraiser.examine(self.platform.verifier, evidence, &Endorsements::default(), &NoMemo, self.at).map(drop).map_err(|denied| denied.reason())
    }

    fn changed(&self, at: usize) -> Evidence {
        let mut evidence = self.evidence.clone();
        evidence.bytes[at] ^= 1;
        evidence
    }

    /// What is signed, by the kind of token.
    fn tokens(&self) -> Vec<(&'static str, Sign1<'_>)> {
        let all = self.evidence.bytes.as_slice();
        match cca::Token::parse(all) {
            Ok(token) => vec![("cca platform", token.platform_signed), ("cca realm", token.realm_signed)],
            Err(_) => vec![(if self.keys.is_empty() { "document" } else { "psa" }, Sign1::decode("evidence", all).expect("a signature"))],
        }
    }

    /// The signed regions: of each token the protected header, the payload, the signature.
    fn regions(&self) -> Vec<Range<usize>> {
        let of = |(_, sign1): (_, Sign1<'_>)| [sign1.protected, sign1.payload, sign1.signature].map(|part| place(&self.evidence.bytes, part));
        self.tokens().into_iter().flat_map(of).collect()
    }
}

/// Where a part of these octets stands in them.
fn place(all: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - all.as_ptr() as usize;
    start..start + part.len()
}

#[test]
fn one_octet_changed_in_any_signed_region_is_refused() {
    let Some(folder) = folder() else { return };
    let mut told = std::collections::BTreeMap::<String, usize>::new();
    for case in cases(&folder).iter().filter(|case| case.good) {
        assert_eq!(case.judge(&case.evidence), Ok(()), "{}", case.id);
        for (at, region) in case.regions().into_iter().enumerate() {
            let step = if region.len() > 1000 { 11 } else { 3 };
            for place in region.step_by(step) {
                let reason = case.judge(&case.changed(place)).expect_err(&case.id);
                let signature = at % 3 == 2;
                assert!(!signature || reason == Reason::SignatureInvalid, "{}: octet {place} of a signature: {reason}", case.id);
                // In a payload the octet may be a claim's, of the form, of the chain, or of what names the key.
                let may = [Reason::SignatureInvalid, Reason::EvidenceMalformed, Reason::EvidenceUnsupported, Reason::ChainUntrusted];
                assert!(may.contains(&reason), "{}: octet {place}: {reason}", case.id);
                *told.entry(format!("{} {reason}", case.platform.name)).or_default() += 1;
            }
        }
    }
    println!("{told:?}");
}

#[test]
fn what_is_refused_has_the_right_code() {
    let Some(folder) = folder() else { return };
    let expected = [
        ("cca/bad-realm-binding", Reason::ChainUntrusted),
        ("cca/wrong-cpak", Reason::SignatureInvalid),
        ("nitro/enclave-bad-signature", Reason::SignatureInvalid),
        ("nitro/enclave-debug-2022", Reason::DebugEnabled),
        ("psa/wrong-key", Reason::SignatureInvalid),
    ];
    let refused: Vec<_> = cases(&folder).into_iter().filter(|case| !case.good).collect();
    assert_eq!(refused.len(), expected.len());
    for case in refused {
        let (_, reason) = expected.iter().find(|(id, _)| *id == case.id).expect("a known case");
        assert_eq!(case.judge(&case.evidence), Err(*reason), "{}", case.id);
    }
}

#[test]
fn a_document_is_over_after_three_hours_and_without_its_key_a_token_is_nobodys() {
    let Some(folder) = folder() else { return };
    for mut case in cases(&folder).into_iter().filter(|case| case.good) {
        if case.keys.is_empty() {
            case.at = case.at.plus(3 * 3600 + 60);
        }
        case.keys.clear();
        assert_eq!(case.judge(&case.evidence), Err(Reason::ChainUntrusted), "{}", case.id);
    }
}

#[test]
fn captured_documents_are_written_back_octet_by_octet() {
    let Some(folder) = folder() else { return };
    for case in cases(&folder).iter().filter(|case| case.platform.name.starts_with("nitro")) {
        let (sign1, document) = Document::parse(&case.evidence.bytes).expect("a document");
        assert_eq!(document.encode(), sign1.payload, "{}", case.id);
    }
}

/// The published trust anchor that is no point of its curve.
#[test]
fn the_published_anchor_off_its_curve_is_refused_where_it_is_loaded() {
    let Some(folder) = folder() else { return };
    let text = String::from_utf8(read(&folder.join("cca/wrong-cpak/cpak_off_curve.json"))).expect("text");
    let part = |name: &str| {
        let value = text.split_once(&format!("\"{name}\"")).and_then(|(_, rest)| rest.split('"').nth(1)).expect("a coordinate");
        data_encoding::BASE64URL_NOPAD.decode(value.as_bytes()).expect("base64url")
    };
    let head = "3059301306072a8648ce3d020106082a8648ce3d03010703420004";
    let spki = format!("{head}{}{}", data_encoding::HEXLOWER.encode(&part("x")), data_encoding::HEXLOWER.encode(&part("y")));
    let policy = json!({ "version": 1, "name": "p", "accept": [], "keys": [{ "tee": "cca", "name": "x", "key": spki }] }).to_string();
    let problems = AppraisalPolicy::load(policy.as_bytes(), &platform::vocabularies()).expect_err("no point of the curve");
    assert!(format!("{problems:?}").contains("not a public key"), "{problems:?}");
}

#[test]
fn the_command_line_says_the_same() {
    let Some(folder) = folder() else { return };
    let desk = Desk::new();
    for case in cases(&folder) {
        let tee = case.platform.name;
        let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
        let keys: Vec<_> = case.keys.iter().map(|key| json!({ "tee": tee, "name": key.name, "key": hex(&key.spki) })).collect();
        let mut entry = json!({ "id": "a", "tee": tee, "insecure_any_measurement": true });
        if tee == "cca" {
            entry["insecure_any_firmware"] = "captured".into();
        }
        let policy = json!({ "version": 1, "name": "captured", "insecure_allow_missing_crl": true, "keys": keys, "accept": [entry] });
        desk.write("policy.json", policy.to_string());
        std::fs::write(desk.path("evidence.cbor"), &case.evidence.bytes).expect("a file");
        let run = desk.run(&format!("verify evidence.cbor --policy policy.json --at {} --json", case.at));
        assert_eq!(run.code == 0, case.good, "{}: {}", case.id, run.shown());
        let inspected = desk.run("inspect evidence.cbor");
        assert_eq!(inspected.code, 0, "{}: {}", case.id, inspected.shown());
    }
}

/// The quote beside the instance's document is over the registers that the document lists.
#[test]
fn a_nitrotpm_document_and_its_tpms_quote_agree() {
    let Some(folder) = folder() else { return };
    let case = folder.join("nitrotpm/ec2-nitrotpm-2026");
    let bytes = read(&case.join("attestation.cose"));
    let (_, document) = Document::parse(&bytes).expect("a document");
    let attest = Attest::parse(&read(&case.join("tpm_quote.msg"))).expect("a quote");
    assert_eq!(attest.selection.bank, Hash::Sha384);
    let values: Vec<&[u8]> = attest.selection.indices().map(|index| document.register(index).expect("a register").as_slice()).collect();
    assert_eq!(attest.pcr_digest, portcullis::crypto::sha256(&values));
    assert_eq!(Some(attest.extra_data.as_slice()), document.nonce.as_deref());
}

#[test]
fn another_implementation_says_the_same() {
    let Some(folder) = folder() else { return };
    let mut asked = Vec::new();
    for case in cases(&folder) {
        let regions = case.regions();
        let changes = regions.iter().filter(|_| case.good).flat_map(|region| [region.start, region.start + region.len() / 2, region.end - 1]);
        let all: Vec<Evidence> = changes.map(|at| case.changed(at)).chain([case.evidence.clone()]).collect();
        asked.extend(all.into_iter().map(|evidence| (case.judge(&evidence), case.id.clone(), line(&case, &evidence))));
    }
    // `tests/run` installs it; whoever has the libraries anyway needs nothing.
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tools/cose/bin/python");
    let python = if installed.exists() { installed } else { PathBuf::from("python3") };
    let there = Command::new(&python).args(["-c", "import cbor2, cryptography"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        skipped::cases(asked.len(), "python3 with cbor2 and cryptography is not installed: second opinions on COSE evidence");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/second_opinions/cose.py");
    let mut child = Command::new(&python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
    let mut stdin = child.stdin.take().expect("a pipe");
    let lines: String = asked.iter().map(|(.., line)| format!("{line}\n")).collect();
    let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("its words");
    writing.join().expect("written").expect("written");
    let words = String::from_utf8(output.stdout).expect("text");
    assert_eq!(words.lines().count(), asked.len(), "{words}");
    for ((ours, id, _), word) in asked.iter().zip(words.lines()) {
        assert_eq!(ours.is_ok(), word == "good", "{id}: {ours:?}, and the other implementation says {word}");
    }
    println!("{} pieces of evidence, the same verdict on each", asked.len());
}

fn line(case: &Case, evidence: &Evidence) -> Value {
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    let kind = if case.platform.name == "nitrotpm" { "nitro" } else { case.platform.name };
    let root = (case.platform.anchors)().first().map(|anchor| hex(&anchor.spki));
    json!({ "kind": kind, "evidence": hex(&evidence.bytes), "at": case.at.0, "key": case.keys.first().map(|key| hex(&key.spki)), "root": root })
}

/// Every claim of a token's payload by its key (of PSA's profiles one has others), and the one code for a change in its
/// value: a string's octets, those of each string in a list or map, a number's last octet.
const CLAIM_CODES: &[(&str, &[&str], Reason)] = &[
    ("document", &["module_id"], Reason::SignatureInvalid),
    ("document", &["digest"], Reason::EvidenceMalformed),
    ("document", &["timestamp"], Reason::SignatureInvalid),
    ("document", &["pcrs", "nitrotpm_pcrs"], Reason::SignatureInvalid),
    ("document", &["certificate"], Reason::ChainUntrusted),
    ("document", &["cabundle"], Reason::ChainUntrusted),
    ("document", &["public_key"], Reason::SignatureInvalid),
    ("document", &["user_data"], Reason::SignatureInvalid),
    ("document", &["nonce"], Reason::SignatureInvalid),
    // Profile, challenge, implementation, instance, configuration, lifecycle, firmware, service, hash.
    ("cca platform", &["265"], Reason::EvidenceUnsupported),
    ("cca platform", &["10"], Reason::SignatureInvalid),
    ("cca platform", &["2396"], Reason::ChainUntrusted),
    ("cca platform", &["256"], Reason::ChainUntrusted),
    ("cca platform", &["2401"], Reason::SignatureInvalid),
    ("cca platform", &["2395"], Reason::SignatureInvalid),
    ("cca platform", &["2399"], Reason::SignatureInvalid),
    ("cca platform", &["2400"], Reason::SignatureInvalid),
    ("cca platform", &["2402"], Reason::SignatureInvalid),
    // Profile, challenge, personalization, key, its hash, hash, initial and extensible measurements.
    ("cca realm", &["265"], Reason::EvidenceUnsupported),
    ("cca realm", &["10"], Reason::SignatureInvalid),
    ("cca realm", &["44235"], Reason::SignatureInvalid),
    ("cca realm", &["44237"], Reason::ChainUntrusted),
    ("cca realm", &["44240"], Reason::EvidenceMalformed),
    ("cca realm", &["44236"], Reason::SignatureInvalid),
    ("cca realm", &["44238"], Reason::SignatureInvalid),
    ("cca realm", &["44239"], Reason::SignatureInvalid),
    // What older firmware says besides, which is signed and not read.
    ("cca realm", &["256", "44243"], Reason::SignatureInvalid),
    // Profile, nonce, instance, implementation, client, lifecycle, boot seed, firmware, service, certification.
    ("psa", &["265", "-75000"], Reason::EvidenceUnsupported),
    ("psa", &["10", "-75008"], Reason::SignatureInvalid),
    ("psa", &["256", "-75009"], Reason::ChainUntrusted),
    ("psa", &["2396", "-75003"], Reason::ChainUntrusted),
    ("psa", &["2394", "-75001"], Reason::SignatureInvalid),
    ("psa", &["2395", "-75002"], Reason::SignatureInvalid),
    ("psa", &["268", "2397", "-75004"], Reason::SignatureInvalid),
    ("psa", &["2399", "-75006"], Reason::SignatureInvalid),
    ("psa", &["2400", "-75010"], Reason::SignatureInvalid),
    ("psa", &["2398", "-75005"], Reason::SignatureInvalid),
];

/// A wrong code fails: for each claim, the algorithm in the protected header, and the signature. A claim without a row fails too.
#[test]
fn each_region_of_a_token_has_its_code() {
    let Some(folder) = folder() else { return };
    let (mut wrong, mut told) = (Vec::new(), std::collections::BTreeMap::<String, usize>::new());
    for case in cases(&folder).iter().filter(|case| case.good) {
        for (token, sign1) in case.tokens() {
            // `{ 1: alg }`, whose last octet is the algorithm's.
            let algorithm = sign1.protected.split_last_chunk::<1>().expect("a header").1.as_slice();
            let mut regions =
                vec![("alg".to_owned(), algorithm, Reason::SignatureInvalid), ("signature".to_owned(), sign1.signature, Reason::SignatureInvalid)];
            let Ok(Item::Map(claims)) = Item::decode(sign1.payload) else { panic!("{}: no map", case.id) };
            for (key, value) in &claims.pairs {
                let name = key.text().map_or_else(|| key.int().expect("a key").to_string(), str::to_owned);
                let row = CLAIM_CODES.iter().find(|(of, names, _)| *of == token && names.contains(&name.as_str()));
                let Some((.., code)) = row else { panic!("{}: {token}: no code for {name}", case.id) };
                let mut places = Vec::new();
                strings(value, &mut places);
                if ["certificate", "cabundle"].contains(&name.as_str()) {
                    places = places.into_iter().flat_map(certified).collect();
                }
                if value.int().is_some() {
                    let pair = [key.encode(), value.encode()].concat();
                    let at = sign1.payload.windows(pair.len()).position(|window| window == pair).expect("a pair") + pair.len();
                    places.push(&sign1.payload[at - 1..at]);
                }
                regions.extend(places.into_iter().map(|place| (name.clone(), place, *code)));
            }
            for (name, octets, code) in regions {
                for at in place(&case.evidence.bytes, octets).step_by(octets.len().div_ceil(16).max(1)) {
                    let mut evidence = case.evidence.clone();
                    evidence.bytes[at] ^= 2;
                    let verdict = case.judge(&evidence);
                    *told.entry(format!("{token} {name}: {code}")).or_default() += 1;
                    if verdict != Err(code) {
                        wrong.push(format!("{}: {token} {name}, octet {at}: {verdict:?}, not {code:?}", case.id));
                    }
                }
            }
        }
    }
    println!("{told:#?}");
    assert!(wrong.is_empty(), "{} octets: {wrong:#?}", wrong.len());
    let seen = |token: &str, names: &[&str]| names.iter().any(|name| told.keys().any(|told| told.starts_with(&format!("{token} {name}: "))));
    let unseen: Vec<_> = CLAIM_CODES.iter().filter(|(token, names, _)| !seen(token, names)).collect();
    assert!(unseen.is_empty(), "in no capture: {unseen:?}");
}

/// What an issuer signed of a certificate, and its signature: the algorithm named between the two is the document's alone.
fn certified(der: &[u8]) -> [&[u8]; 2] {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("a certificate");
    let signature = certificate.signature_value.as_ref().len();
    [&der[place(der, certificate.tbs_certificate.as_ref())], &der[der.len() - signature..]]
}

/// The strings in an item, where they stand.
fn strings<'a>(item: &Item<'a>, out: &mut Vec<&'a [u8]>) {
    match item {
        Item::Bytes(octets) => out.push(octets),
        Item::Text(text) => out.push(text.as_bytes()),
        Item::Array(items) => items.iter().for_each(|item| strings(item, out)),
        Item::Map(map) => map.pairs.iter().for_each(|(_, item)| strings(item, out)),
        _ => {}
    }
}
