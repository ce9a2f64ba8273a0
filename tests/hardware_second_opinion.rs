//! SEV-SNP reports and Azure's evidence by another implementation: whatever this program says of signatures and chains of
//! captured evidence, as it is and with an octet changed, the other says too.

#[path = "support/second_opinion.rs"]
mod second_opinion;
#[path = "support/skipped.rs"]
mod skipped;

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use portcullis::evidence::saved::SavedFile;
use portcullis::evidence::tpm::{self, Signature};
use portcullis::evidence::{Endorsement, Endorsements, Evidence, Timestamp, hcl};
use portcullis::platform::{self, Platform};
use portcullis::policy::{AppraisalPolicy, References, Revocation};
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Grounds, TrustAnchors};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

#[derive(Clone)]
struct Case {
    name: String,
    platform: &'static Platform,
    evidence: Evidence,
    endorsements: Endorsements,
    at: Timestamp,
}

fn folder() -> PathBuf {
    std::env::var_os("PORTCULLIS_VECTORS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), Into::into)
}

fn captured(wanted: impl Fn(&str) -> Option<&'static str>) -> Vec<Case> {
    let Ok(manifest) = std::fs::read(folder().join("MANIFEST.json")) else {
        skipped::cases(1, "no captured evidence: name its folder in PORTCULLIS_VECTORS");
        return Vec::new();
    };
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let one = |case: &Value| {
        let id = case["id"].as_str()?;
        let platform = platform::by_name(wanted(id)?)?;
        let mut files = Vec::new();
        for file in case["files"].as_array()? {
            let path = folder().join(file["path"].as_str()?);
            files.push(SavedFile { name: path.file_name()?.to_str()?.to_owned(), bytes: std::fs::read(&path).expect("a file") });
        }
        let assembled = (platform.saved.assemble)(&files).unwrap_or_default();
        let report = || files.iter().find(|file| file.name == "report.bin").map(|file| Evidence::new(platform.media_type, file.bytes.as_slice()));
        let mut endorsements: Endorsements = assembled.endorsements.into_iter().collect();
        for file in files.iter().filter(|file| !assembled.used.contains(&file.name)) {
            if let Some(name) = file.name.strip_suffix(".der") {
                endorsements.push(Endorsement { name: name.to_owned(), media_type: "application/pkix-cert".to_owned(), bytes: file.bytes.clone() });
            }
        }
        let evidence = assembled.evidence.or_else(report)?;
        Some(Case { name: id.to_owned(), platform, evidence, endorsements, at: Timestamp::parse(case["verify_at"].as_str()?)? })
    };
    manifest["cases"].as_array().expect("cases").iter().filter_map(one).collect()
}

fn hex(octets: &[u8]) -> Value {
    HEXLOWER.encode(octets).into()
}

impl Case {
    /// Whether signatures, chains and what ties them hold; nothing that a policy says.
    fn ours(&self, anchors: &TrustAnchors) -> bool {
        let grounds = Grounds { anchors, revocation: Revocation::WhenPresent, references: References::Required, memo: &NoMemo, now: self.at };
        self.platform.verifier.authenticate(&self.evidence, &self.endorsements, &grounds).is_ok()
    }

    fn line(&self) -> Value {
        let root = |name: &str| hex(&std::fs::read(folder().join("roots").join(name)).expect("a root"));
        let item = |names: [&str; 2]| names.iter().find_map(|name| self.endorsements.find(name)).map(hex);
        let mut line = json!({
            "kind": "snp",
            "at": self.at.0,
            "report": hex(&self.evidence.bytes),
            "vek": item(["vcek", "vlek"]),
            "authority": item(["ask", "asvk"]),
            "roots": [root("amd_ark_genoa.der"), root("amd_ark_milan.der"), root("amd_ark_turin.der")],
            "root": root("intel_sgx_root_ca.der"),
        });
        if let Some(member) = self.vtpm() {
            let Signature::Rsassa { octets, .. } = &member.signature else { panic!("Azure's keys are RSA") };
            line["kind"] = "azure".into();
            line["hcl"] = hex(&self.evidence.bytes);
            line["attest"] = hex(&member.signed);
            line["signature"] = hex(octets);
            line["pcrs"] = member.pcrs.values.iter().map(|(index, value)| json!([index, hex(value)])).collect();
            if let Some(quote) = self.evidence.member(hcl::TD_QUOTE) {
                line["quote"] = hex(&quote.bytes);
            }
        }
        line
    }

    fn vtpm(&self) -> Option<tpm::Member> {
        self.evidence.member("vtpm").map(|member| tpm::Member::parse(&member.bytes).expect("a quote"))
    }

    fn changed(&self, what: String, change: impl FnOnce(&mut Self)) -> Self {
        let mut other = Self { name: format!("{}, {what}", self.name), ..self.clone() };
        change(&mut other);
        other
    }

    /// An octet changed here and there in all that is signed or signs. Certificates: their content and their signature.
    fn changes(&self) -> Vec<Self> {
        let azure = self.evidence.member("vtpm").is_some();
        // What stands around the report and the claims in an HCL report, or behind a TD's, is form and signed by nobody.
        let hardware = if self.evidence.member(hcl::TD_QUOTE).is_some() { 32..32 + hcl::TDREPORT_SIZE } else { 32..1216 };
        let claims = hcl::HclReport::parse(&self.evidence.bytes).map_or(0, |report| report.claims.len());
        let signed: Vec<usize> = if azure { hardware.chain(1236..1236 + claims).collect() } else { (0..self.evidence.bytes.len()).collect() };
        let mut all: Vec<_> =
            signed.into_iter().step_by(41).map(|at| self.changed(format!("octet {at}"), |case| case.evidence.bytes[at] ^= 1 << (at % 8))).collect();
        for name in ["vcek", "vlek", "ask", "asvk"] {
            let Some(der) = self.endorsements.find(name) else { continue };
            let (_, read) = X509Certificate::from_der(der).expect("a certificate");
            let (content, length) = (4..4 + read.tbs_certificate.as_ref().len(), der.len());
            for at in content.step_by(83).chain([length - 512, length - 200, length - 1]) {
                all.push(self.changed(format!("{name} {at}"), |case| {
                    case.endorsements = case.endorsements.iter().cloned().map(|item| flipped(item, name, at)).collect();
                }));
            }
        }
        let Some(member) = self.vtpm() else { return all };
        if let Some(quote) = self.evidence.member(hcl::TD_QUOTE) {
            // Up to the certificates: in their base64 an octet may stand for the same.
            for at in (0..1200.min(quote.bytes.len())).step_by(31) {
                all.push(self.changed(format!("td-quote {at}"), |case| {
                    case.evidence.auxiliary.iter_mut().filter(|member| member.label == hcl::TD_QUOTE).for_each(|member| member.bytes[at] ^= 4);
                }));
            }
        }
        let mut put = |what: String, other: &tpm::Member| {
            let bytes = tpm::Member::encode(&other.signed, &other.signature.encode(), &other.pcrs, &other.extras);
            if tpm::Member::parse(&bytes).is_ok() {
                all.push(self.changed(what, |case| {
                    case.evidence.auxiliary.iter_mut().filter(|member| member.label == "vtpm").for_each(|member| member.bytes.clone_from(&bytes));
                }));
            }
        };
        for at in (0..member.signed.len()).step_by(5) {
            let mut other = member.clone();
            other.signed[at] ^= 1;
            put(format!("attest {at}"), &other);
        }
        for at in [0, 100, 255] {
            let mut other = member.clone();
            if let Signature::Rsassa { octets, .. } = &mut other.signature {
                octets[at] ^= 1;
            }
            put(format!("signature {at}"), &other);
        }
        for index in member.pcrs.values.keys() {
            let mut other = member.clone();
            other.pcrs.values.get_mut(index).expect("a register")[3] ^= 1;
            put(format!("register {index}"), &other);
        }
        all
    }
}

fn flipped(mut item: Endorsement, name: &str, at: usize) -> Endorsement {
    if item.name == name {
        item.bytes[at] ^= 1;
    }
    item
}

fn compare(cases: Vec<Case>, at_least: usize) {
    assert!(cases.is_empty() || cases.len() >= at_least, "only {} captured cases", cases.len());
    let anchors = platform::anchors(&AppraisalPolicy::genuine(&platform::vocabularies()));
    let all: Vec<_> = cases.into_iter().flat_map(|case| case.changes().into_iter().chain([case])).collect();
    let lines: Vec<_> = all.iter().map(Case::line).collect();
    let Some(words) = second_opinion::words(&lines) else { return };
    let good = words.iter().filter(|word| *word == "good").count();
    let differing: Vec<_> = all.iter().zip(&words).filter(|(case, word)| case.ours(&anchors) != (*word == "good")).collect();
    let differing: Vec<_> = differing.iter().map(|(case, word)| format!("{}: they say {word}", case.name)).collect();
    println!("{} pieces of evidence, {good} of them good", all.len());
    assert!(differing.is_empty(), "{differing:#?}");
    assert!(all.is_empty() || (good > 0 && good < all.len()), "all alike");
}

#[test]
fn another_implementation_says_the_same_of_snp_reports() {
    let snp = |id: &str| ["snp/", "gcp-cvm/snp-", "tinfoil/"].iter().any(|kind| id.starts_with(kind)).then_some("sev-snp");
    compare(captured(snp), 12);
}

#[test]
fn another_implementation_says_the_same_of_azures_evidence() {
    let azure = |id: &str| [("az-snp-vtpm/", "azure-snp"), ("az-tdx-vtpm/", "azure-tdx")].iter().find(|(kind, _)| id.starts_with(kind)).map(|(_, name)| *name);
    compare(captured(azure), 7);
}
