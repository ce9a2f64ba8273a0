//! Captured TPM quotes of three clouds, each good as captured and refused with any octet changed; and a second opinion on
//! every one of them: what this program says and what a reader written with Python's `cryptography` says is the same.

#[path = "support/skipped.rs"]
mod skipped;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::{BASE64, HEXLOWER};
use portcullis::evidence::eventlog::Log;
use portcullis::evidence::hcl::{HclReport, RuntimeClaims};
use portcullis::evidence::tpm::{Attest, Extras, Hash, Instance, MEDIA_TYPE, Member, Pcrs, Signature};
use portcullis::evidence::{Auxiliary, Endorsements, Evidence, Timestamp};
use portcullis::platform;
use portcullis::policy::{AppraisalPolicy, References};
use portcullis::refusal::Reason;
use portcullis::verify::memo::NoMemo;
use portcullis::verify::tpm::{AttestationKey, prove};
use portcullis::verify::vtpm::beside;
use portcullis::verify::{Grounds, Origin};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, Pem, X509Certificate};

fn folder() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    let folder = std::env::var_os("PORTCULLIS_VECTORS").map_or_else(default, PathBuf::from);
    if folder.join("MANIFEST.json").exists() {
        return Some(folder);
    }
    skipped::cases(1, "no captured evidence: name its folder in PORTCULLIS_VECTORS");
    None
}

/// A captured quote with the key that it should be by.
struct Captured {
    name: String,
    member: Member,
    spki: Vec<u8>,
    good: bool,
}

impl Captured {
    fn judged(&self) -> bool {
        AttestationKey::of_spki(&self.spki).and_then(|key| prove(&self.member, &key)).is_ok()
    }

    fn as_json(&self) -> Value {
        let pcrs: Vec<_> = self.member.pcrs.values.iter().map(|(index, value)| json!([index, HEXLOWER.encode(value)])).collect();
        json!({
            "attest": HEXLOWER.encode(&self.member.signed),
            "signature": HEXLOWER.encode(&self.member.signature.encode()),
            "pcrs": pcrs,
            "bank": self.member.pcrs.bank.name(),
            "key": format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(&self.spki)),
        })
    }
}

fn captured(folder: &Path) -> Vec<Captured> {
    let mut all = Vec::new();
    for case in ["az-snp-vtpm/genoa-v3", "az-snp-vtpm/milan-v3-challenge", "az-snp-vtpm/milan-v3-live", "az-snp-vtpm/quote-from-other-vm"].into_iter().chain([
        "az-tdx-vtpm/emr-v4-ak-cert",
        "az-tdx-vtpm/emr-v4-live",
        "az-tdx-vtpm/spr-v4-no-sept-ve-disable",
    ]) {
        let read = |name: &str| read(&folder.join(case).join(name));
        let report = HclReport::parse(&read("hcl_report.bin")).expect("a report");
        assert_eq!(report.encode(), read("hcl_report.bin"), "one encoding");
        let claims = RuntimeClaims::parse(&report.claims).expect("claims");
        let signature = Signature::Rsassa { hash: Hash::Sha256, octets: read("tpm_quote.sig") };
        let member = member(&read("tpm_quote.msg"), &signature, Hash::Sha256, &read("tpm_pcrs.json"));
        all.push(Captured { name: case.to_owned(), member, spki: rsa_spki(&claims), good: !case.ends_with("other-vm") });
    }
    let gcp = folder.join("gcp-cvm/vtpm-cos85-eventlog");
    for bank in [Hash::Sha256, Hash::Sha384] {
        let name = bank.name();
        let signature = Signature::parse(&read(&gcp.join(format!("tpm_quote_{name}.tpmt_sig")))).expect("a signature");
        let mut member = member(&read(&gcp.join(format!("tpm_quote_{name}.msg"))), &signature, bank, &read(&gcp.join(format!("tpm_pcrs_{name}.json"))));
        member.extras.log = Some(read(&gcp.join("event_log.bin")));
        all.push(Captured { name: format!("gcp cos85 {name}"), member, spki: pem(&read(&gcp.join("ak.pem"))), good: true });
    }
    let amd = folder.join("gcp-cvm/vtpm-on-amd-sev");
    let certificate = pem(&read(&amd.join("ak_cert_chain.pem")));
    let (_, certificate) = X509Certificate::from_der(&certificate).expect("a certificate");
    let spki = certificate.public_key().raw.to_vec();
    let quoted = member(&read(&amd.join("tpm_quote.msg")), &ecdsa(&read(&amd.join("tpm_quote.sig.der"))), Hash::Sha256, &read(&amd.join("tpm_pcrs.json")));
    all.push(Captured { name: "gcp amd".to_owned(), member: quoted, spki, good: true });
    all
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pem(text: &[u8]) -> Vec<u8> {
    Pem::iter_from_buffer(text).next().expect("a block").expect("PEM").contents
}

/// A list of values, or an object of them by register.
fn member(quote: &[u8], signature: &Signature, bank: Hash, pcrs: &[u8]) -> Member {
    let decoded = |value: &Value| HEXLOWER.decode(value.as_str().expect("hex").as_bytes()).expect("hex");
    let values: BTreeMap<u8, Vec<u8>> = match serde_json::from_slice(pcrs).expect("JSON") {
        Value::Array(list) => list.iter().enumerate().map(|(index, value)| (u8::try_from(index).expect("24"), decoded(value))).collect(),
        Value::Object(map) => map.iter().map(|(index, value)| (index.parse().expect("a register"), decoded(value))).collect(),
        other => panic!("{other}"),
    };
    let bytes = Member::encode(quote, &signature.encode(), &Pcrs { bank, values }, &Extras::default());
    let member = Member::parse(&bytes).expect("a member");
    assert_eq!(member.quote.encode(), quote, "one encoding");
    member
}

/// The SubjectPublicKeyInfo of the claims' attestation key.
fn rsa_spki(claims: &RuntimeClaims) -> Vec<u8> {
    let key = claims.attestation_key.to_pkcs1();
    let length = |octets: &[u8]| u16::try_from(octets.len()).expect("short").to_be_bytes();
    let algorithm = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let bits = [&[0][..], &key].concat();
    let content = [&algorithm[..], &[0x03, 0x82], &length(&bits), &bits].concat();
    [&[0x30, 0x82][..], &length(&content), &content].concat()
}

/// Two DER INTEGERs in a SEQUENCE, as a TPM writes them.
fn ecdsa(der: &[u8]) -> Signature {
    let integer = |at: usize| {
        let length = usize::from(der[at + 1]);
        (der[at + 2..at + 2 + length].iter().copied().skip_while(|octet| *octet == 0).collect::<Vec<u8>>(), at + 2 + length)
    };
    let (r, next) = integer(2);
    let (s, _) = integer(next);
    Signature::Ecdsa { hash: Hash::Sha256, r, s }
}

/// The quote with one octet changed in everything that its signature covers, and in the signature.
fn changed(captured: &Captured) -> Vec<Captured> {
    let of = |what: String, member: Member| Captured { name: format!("{}, {what}", captured.name), member, spki: captured.spki.clone(), good: false };
    let mut all = Vec::new();
    for at in (0..captured.member.signed.len()).step_by(3) {
        let mut member = captured.member.clone();
        member.signed[at] ^= 1 << (at % 8);
        if let Ok(quote) = Attest::parse(&member.signed) {
            member.quote = quote;
            all.push(of(format!("octet {at}"), member));
        }
    }
    for (index, value) in &captured.member.pcrs.values {
        let mut member = captured.member.clone();
        let mut value = value.clone();
        value[usize::from(*index)] ^= 0x10;
        member.pcrs.values.insert(*index, value);
        member.extras.log = None;
        all.push(of(format!("register {index} changed"), member.clone()));
        member.pcrs.values.remove(index);
        all.push(of(format!("register {index} left out"), member));
    }
    for at in [0, 7, 31] {
        let mut member = captured.member.clone();
        match &mut member.signature {
            Signature::Ecdsa { s: octets, .. } | Signature::Rsassa { octets, .. } => octets[at] ^= 4,
        }
        all.push(of(format!("signature {at}"), member));
    }
    all
}

#[test]
fn captured_quotes_are_good_and_every_change_is_refused() {
    let Some(folder) = folder() else { return };
    for quote in captured(&folder) {
        assert_eq!(quote.judged(), quote.good, "{}", quote.name);
        for changed in changed(&quote) {
            let key = AttestationKey::of_spki(&changed.spki).expect("a key");
            let reason = prove(&changed.member, &key).map_err(|denied| denied.reason());
            assert_eq!(reason, Err(Reason::TpmQuoteInvalid), "{}", changed.name);
        }
    }
}

/// The captured key of a Google VM with its certificates, beside evidence of which no capture exists.
#[test]
fn a_captured_certificate_leads_to_googles_root() {
    let Some(folder) = folder() else { return };
    let amd = folder.join("gcp-cvm/vtpm-on-amd-sev");
    let quote = captured(&folder).into_iter().find(|quote| quote.name == "gcp amd").expect("the quote");
    let chain = read(&amd.join("ak_cert_chain.pem"));
    let certificates: Vec<_> = Pem::iter_from_buffer(&chain).map(|block| block.expect("PEM").contents).collect();
    let policy = AppraisalPolicy::genuine(&[]);
    let anchors = platform::anchors(&policy);
    let judged = |certificates: &[Vec<u8>], at: &str| {
        let extras = Extras { certificates: certificates.to_vec(), log: None };
        let bytes = Member::encode(&quote.member.signed, &quote.member.signature.encode(), &quote.member.pcrs, &extras);
        let mut evidence = Evidence::new("application/vnd.example", Vec::new());
        evidence.auxiliary.push(Auxiliary { label: "vtpm".to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes });
        let grounds = Grounds {
            anchors: &anchors,
            revocation: policy.revocation,
            references: References::Required,
            memo: &NoMemo,
            now: Timestamp::parse(at).expect("a moment"),
        };
        beside(&evidence, &Endorsements::default(), &grounds).map(|certified| certified.expect("a quote").origin).map_err(|denied| denied.reason())
    };
    const THEN: &str = "2026-02-02T07:57:47Z";
    assert_eq!(judged(&certificates, THEN), Ok(Origin::Vendor), "with the root that came along");
    assert_eq!(judged(&certificates[..2], THEN), Ok(Origin::Vendor), "without it");
    assert_eq!(judged(&certificates[..1], THEN), Err(Reason::ChainUntrusted), "without the issuer");
    assert_eq!(judged(&certificates, "2026-02-01T00:00:00Z"), Err(Reason::ChainUntrusted), "before it was made");
    for at in (0..certificates[0].len()).step_by(7) {
        let mut changed = certificates.clone();
        changed[0][at] ^= 1;
        let reason = judged(&changed, THEN).expect_err("a changed certificate");
        assert!(matches!(reason, Reason::ChainUntrusted | Reason::TpmQuoteInvalid), "octet {at}: {reason}");
    }
    let instance = Instance::of_certificate(&certificates[0]).expect("an instance");
    assert_eq!((instance.zone.as_str(), instance.project_id.as_str(), instance.id), ("us-central1-f", "lockboot", 3_414_240_648_225_485_836));
}

#[test]
fn a_captured_log_replays_and_each_changed_digest_does_not() {
    let Some(folder) = folder() else { return };
    let bytes = read(&folder.join("gcp-cvm/vtpm-cos85-eventlog/event_log.bin"));
    let log = Log::parse(&bytes).expect("a log");
    assert_eq!(log.encode(), bytes, "one encoding");
    let quote = captured(&folder).into_iter().find(|quote| quote.name == "gcp cos85 sha256").expect("the quote");
    let replayed = log.replay(Hash::Sha256).expect("a replay");
    for index in 0..10 {
        assert_eq!(replayed.get(&u32::from(index)), quote.member.pcrs.values.get(&index), "register {index}");
    }
    let key = AttestationKey::of_spki(&quote.spki).expect("a key");
    for at in (0..log.events.len()).filter(|at| log.events[*at].register < 8 && log.events[*at].kind != 3) {
        let mut other = log.clone();
        other.events[at].digests.iter_mut().for_each(|(_, digest)| digest[0] ^= 1);
        let mut member = quote.member.clone();
        member.extras.log = Some(other.encode());
        assert_eq!(prove(&member, &key).map_err(|denied| denied.reason()), Err(Reason::EventLogMismatch), "event {at}");
    }
}

#[test]
fn a_captured_ccel_log_replays_to_the_registers_of_its_td() {
    let Some(folder) = folder() else { return };
    let case = folder.join("tdx/v4-cos113-gcp-ccel");
    let replayed = Log::parse(&read(&case.join("ccel_data.bin"))).expect("a log").replay(Hash::Sha384).expect("a replay");
    let quote = read(&case.join("quote.bin"));
    for (register, at) in [(1, 376), (2, 424), (3, 472)] {
        assert_eq!(replayed.get(&register).map(Vec::as_slice), quote.get(at..at + 48), "RTMR{}", register - 1);
    }
}

#[test]
fn another_reader_says_the_same() {
    let Some(folder) = folder() else { return };
    let all: Vec<_> = captured(&folder).into_iter().flat_map(|quote| changed(&quote).into_iter().chain([quote])).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/second_opinions/tpm_quote.py");
    let python = Command::new("python3").args(["-c", "import cryptography"]).stderr(Stdio::null()).status();
    if !python.is_ok_and(|status| status.success()) {
        skipped::cases(all.len(), "python3 with cryptography is not installed: second opinions on TPM quotes");
        return;
    }
    let mut child = Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
    let mut stdin = child.stdin.take().expect("a pipe");
    let lines: Vec<_> = all.iter().map(|quote| format!("{}\n", quote.as_json())).collect();
    let writing = std::thread::spawn(move || stdin.write_all(lines.concat().as_bytes()));
    let output = child.wait_with_output().expect("its words");
    writing.join().expect("written").expect("written");
    let words = String::from_utf8(output.stdout).expect("text");
    assert_eq!(words.lines().count(), all.len(), "{words}");
    for (quote, word) in all.iter().zip(words.lines()) {
        assert_eq!(quote.judged(), word == "good", "{}: the other reader says {word}", quote.name);
    }
    println!("{} quotes, the same verdict on each", all.len());
}
