//! Real evidence captured by others: every case of a manifest that this build has a platform for gives the manifest's
//! verdict and claims. The folder is named by `PORTCULLIS_VECTORS`; any folder of the same form runs unchanged.

#[path = "support/cose_claims.rs"]
mod cose_claims;
#[path = "support/known.rs"]
mod known;
#[cfg(feature = "cli")]
#[path = "support/program.rs"]
mod program;
#[path = "support/skipped.rs"]
mod skipped;

use std::path::{Path, PathBuf};

use known::Known;
use portcullis::evidence::cbor::Writer;
use portcullis::evidence::hcl::{HclReport, Kind};
use portcullis::evidence::intel::Quote;
use portcullis::evidence::saved::SavedFile;
use portcullis::evidence::tpm::{Extras, Member, Signature};
use portcullis::evidence::{Endorsement, Endorsements, Evidence, Timestamp};
use portcullis::platform::{self, PLATFORMS, Platform};
use portcullis::policy::{Accept, AppraisalPolicy, OperatorKey, Tolerated};
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Appraisal, Appraiser};
use serde_json::Value;

fn folder() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    std::env::var_os("PORTCULLIS_VECTORS").map_or_else(default, PathBuf::from)
}

/// The platform of a case, by the manifest's short name; `None` for one that this build does not know.
fn platform_of(case: &Value) -> Option<&'static Platform> {
    match case["platform"].as_str()? {
        "keystone" => platform::by_name("keystone"),
        "gcp-cvm" if case["id"].as_str()?.contains("/snp-") => platform::by_name("sev-snp"),
        "snp" => platform::by_name("sev-snp"),
        "az-snp-vtpm" => platform::by_name("azure-snp"),
        "cca" => platform::by_name("cca"),
        "az-tdx-vtpm" => platform::by_name("azure-tdx"),
        "nitro" => platform::by_name("nitro"),
        "nitrotpm" => platform::by_name("nitrotpm"),
        "psa" => platform::by_name("psa"),
        "sgx" => platform::by_name("intel-sgx"),
        "tdx" => platform::by_name("intel-tdx"),
        // Other formats around a plain quote: the quote is judged.
        "dstack" | "gcp-cvm" if has_file(case, "/quote.bin") => platform::by_name("intel-tdx"),
        "ra-tls" if has_file(case, "/quote.bin") => platform::by_name("intel-sgx"),
        "ra-tls" if has_file(case, "/attestation.cose") => platform::by_name("nitro"),
        "tinfoil" if has_file(case, "/report.bin") => platform::by_name("sev-snp"),
        _ => None,
    }
}

fn has_file(case: &Value, ending: &str) -> bool {
    case["files"].as_array().is_some_and(|files| files.iter().any(|file| file["path"].as_str().is_some_and(|path| path.ends_with(ending))))
}

/// Cases of what is no TEE's evidence by itself, by the beginning of their name, and where their verdict is held.
const NO_TEE: &[(&str, &str)] = &[("nvidia/", "tests/gpu_vectors.rs"), ("gcp-cvm/vtpm-", "tests/tpm_quotes.rs")];

/// Good signatures under a root that a verifier of the manifest's makers was told to trust, and that this program refuses
/// whatever it is told: Keystone's published test key. The signatures are judged in `keystone_catalogue.rs`.
const REFUSED_BY_RULE: &[&str] = &["keystone/reference-code-valid"];

struct Case<'a> {
    id: &'a str,
    evidence: Evidence,
    endorsements: Endorsements,
    at: Timestamp,
    expected: &'a str,
    claims: &'a serde_json::Map<String, Value>,
    platform: &'static Platform,
    /// The trust anchors beside the evidence, as an operator would list them.
    keys: Vec<OperatorKey>,
}

impl<'a> Case<'a> {
    fn read(folder: &Path, case: &'a Value) -> Option<Self> {
        let platform = platform_of(case)?;
        let mut files = Vec::new();
        for file in case["files"].as_array()? {
            let path = folder.join(file["path"].as_str()?);
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            files.push(SavedFile { name: path.file_name()?.to_str()?.to_owned(), bytes });
        }
        let assembled = (platform.saved.assemble)(&files).unwrap_or_default();
        let by_name = || files.iter().find(|file| file.name == platform.saved.evidence);
        let by_content = || files.iter().find(|file| (platform.saved.is_evidence)(&file.bytes));
        let whole = || by_name().or_else(by_content).map(|file| Evidence::new(platform.media_type, file.bytes.as_slice()));
        let mut endorsements: Endorsements = assembled.endorsements.into_iter().collect();
        for file in files.iter().filter(|file| !assembled.used.contains(&file.name)) {
            if let Some(name) = file.name.strip_suffix(".der") {
                endorsements.push(Endorsement { name: name.to_owned(), media_type: "application/pkix-cert".to_owned(), bytes: file.bytes.clone() });
            }
        }
        let mut evidence = assembled.evidence.or_else(whole)?;
        let id = case["id"].as_str()?;
        if id == "tdx/v4-spr-e4-unsupported-tcb" {
            // The capture has a sentence behind the quote, which refuses it before anything else is looked at.
            let denied = platform.verifier.read(&evidence, &endorsements).expect_err("text behind the quote");
            assert_eq!(denied.reason(), Reason::EvidenceMalformed);
            let end = evidence.bytes.len() - b"extra bytes(only for testing purpose)\n".len();
            evidence.bytes.truncate(end - 1);
        }
        let keys = cose_claims::keys(platform, &evidence, files.iter().map(|file| file.bytes.as_slice()));
        Some(Self {
            id,
            keys,
            evidence,
            endorsements,
            at: Timestamp::parse(case["verify_at"].as_str()?)?,
            expected: if REFUSED_BY_RULE.contains(&case["id"].as_str()?) { "reject" } else { case["expected"]["verdict"].as_str()? },
            claims: case["claims"].as_object()?,
            platform,
        })
    }

    fn judge(&self) -> Result<Appraisal, Denied> {
        self.judge_by(|_| {})
    }

    /// The verdict with the status that the manifest names tolerated, with its advisories, until the next day.
    fn judge_tolerating(&self, status: &str, advisories: &[String]) -> Result<Appraisal, Denied> {
        self.judge_by(self.tolerating(status, advisories))
    }

    fn tolerating(&self, status: &str, advisories: &[String]) -> impl Fn(&mut AppraisalPolicy) {
        let tolerated = Tolerated { status: status.to_owned(), advisories: advisories.to_vec(), until: self.at.plus(86_400) };
        move |policy| {
            let constraints = policy.accept.iter_mut().flat_map(|entry| &mut entry.constraints);
            for constraint in constraints.filter(|constraint| matches!(constraint.accept, Accept::TcbStatus(_))) {
                constraint.accept = Accept::TcbStatus(vec![tolerated.clone()]);
            }
        }
    }

    /// What accepts it: the default rules, or these with the status that the manifest names tolerated.
    fn accepting(&self) -> Option<Appraiser> {
        let appraiser = match self.expected.split_once("accept only if policy allows TCB status ") {
            Some((_, status)) => {
                let read = self.platform.verifier.read(&self.evidence, &self.endorsements).ok()?;
                self.appraiser(self.tolerating(status, read.texts("tcb_advisories").unwrap_or_default()))
            }
            None => self.appraiser(|_| {}),
        };
        appraiser.examine(self.platform.verifier, &self.evidence, &self.endorsements, &NoMemo, self.at).is_ok().then_some(appraiser)
    }

    /// Where the policy may decide: refused for its status alone, accepted where just that is tolerated and no less.
    fn policy_decides(&self) -> bool {
        // Two things at once: told both, and nothing else.
        if self.expected.contains("SEPT_VE_DISABLE clear") && self.platform.name == "azure-tdx" {
            let mut reasons: Vec<_> = self.judge().err().iter().flat_map(Denied::findings).map(|finding| finding.reason).collect();
            reasons.dedup();
            return !reasons.is_empty() && reasons.iter().all(|reason| matches!(reason, Reason::GuestPolicyViolation | Reason::TcbTooLow));
        }
        let Some((_, status)) = self.expected.split_once("accept only if policy allows TCB status ") else { return false };
        let read = self.platform.verifier.read(&self.evidence, &self.endorsements).expect("readable evidence");
        let advisories = read.texts("tcb_advisories").unwrap_or_default();
        let refused = self.judge().is_err_and(|denied| denied.findings().all(|finding| finding.reason == Reason::TcbTooLow));
        let accepted = self.judge_tolerating(status, advisories).is_ok_and(|appraisal| appraisal.until() <= self.at.plus(86_400));
        let fewer = advisories.split_last().is_none_or(|(_, fewer)| self.judge_tolerating(status, fewer).is_err());
        refused && accepted && fewer && self.judge_tolerating("TDRelaunchAdvised", advisories).is_err()
    }

    fn appraiser(&self, change: impl Fn(&mut AppraisalPolicy)) -> Appraiser {
        let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
        let mut policy = AppraisalPolicy { keys: self.keys.clone(), ..AppraisalPolicy::genuine(&vocabularies) };
        change(&mut policy);
        Appraiser { anchors: platform::anchors(&policy), policy }
    }

    fn judge_by(&self, change: impl Fn(&mut AppraisalPolicy)) -> Result<Appraisal, Denied> {
        self.appraiser(change).examine(self.platform.verifier, &self.evidence, &self.endorsements, &NoMemo, self.at)
    }

    /// The manifest's claims that ours differ from.
    fn differing_claims(&self) -> Vec<String> {
        let read = match self.platform.verifier.read(&self.evidence, &self.endorsements) {
            Ok(read) => read,
            // What cannot be read says nothing; that it is refused is what the verdict shows.
            Err(_) if self.expected == "reject" => return Vec::new(),
            Err(denied) => panic!("{}: {denied}", self.id),
        };
        self.differing_from(&serde_json::to_value(&read).expect("claims are JSON"))
    }

    /// The manifest's claims that these differ from.
    fn differing_from(&self, ours: &Value) -> Vec<String> {
        // Of formats around a quote the manifest claims other things too.
        let intel = ["intel-sgx", "intel-tdx", "azure-tdx"].contains(&self.platform.name);
        let of_quote = |name: &str| ["tdx/", "sgx/", "az-tdx-vtpm/"].iter().any(|kind| self.id.starts_with(kind)) || QUOTE_CLAIMS.contains(&name);
        let other = || cose_claims::in_our_words(self.platform.name, self.claims).unwrap_or_else(|| self.claims.clone());
        let theirs = if intel { quote_claims(self.claims) } else { other() };
        theirs
            .iter()
            .filter(|(name, _)| !intel || of_quote(name))
            .filter(|(name, _)| !AROUND.contains(&name.as_str()))
            .map(|(name, theirs)| (name, in_our_words(name, theirs)))
            .filter(|(name, theirs)| !same(theirs, &ours[name.as_str()]))
            .map(|(name, theirs)| format!("{name}: {theirs} / {}", ours[name.as_str()]))
            .collect()
    }
}

/// The manifest's claims where it says them in another shape than we: a TPM's selection as bank and list.
fn in_our_words(name: &str, theirs: &Value) -> Value {
    let mut ours = theirs.clone();
    if name == "tpm_quote"
        && let [selected] = theirs["pcr_select"].as_array().map_or(&[][..], Vec::as_slice)
    {
        assert_eq!(selected[0], "0xb", "every quote of the manifest is over SHA-256 registers");
        ours["bank"] = "sha256".into();
        ours["pcr_select"] = selected[1].as_array().expect("a list").iter().map(|index| Value::from(index.to_string())).collect();
    }
    ours
}

/// Claims of the format around the evidence (a certificate, a document), which is not what is judged.
const AROUND: &[&str] = &["hpke_public_key", "spki_sha256", "tls_public_key_fp"];

/// The claims of any quote.
const QUOTE_CLAIMS: &[&str] = &["quote_version", "tee_type", "kind", "fmspc", "ppid", "mrtd", "rtmr0", "mrenclave", "mrsigner", "report_data", "debug"];

/// The manifest's claims of a quote in our shape: the body's among the others, days as moments, its own evaluation under
/// the names of ours. What it says of the collateral's window and of its own replay of a log are no claims.
fn quote_claims(theirs: &serde_json::Map<String, Value>) -> serde_json::Map<String, Value> {
    let mut ours = theirs.clone();
    for name in ["body_type", "ccel", "collateral_window", "trailing_bytes"] {
        ours.shift_remove(name);
    }
    if let Some(Value::Object(body)) = ours.shift_remove("body") {
        ours.extend(body);
    }
    if let Some(evaluation) = ours.shift_remove("tcb_evaluation_own") {
        ours.insert("platform_tcb".to_owned(), evaluation["platform_tcb"].clone());
        // Its advisories are those of the level; where a module or enclave is behind too, ours are more.
        ours.extend(Some(("tdx_module_tcb".to_owned(), evaluation["tdx_module"].clone())).filter(|(_, level)| !level.is_null()));
    }
    if let Some(Value::Array(days)) = ours.shift_remove("pck_validity") {
        let days: Vec<_> = days.iter().filter_map(|day| day.as_str()).collect();
        ours.extend((!days.is_empty()).then(|| ("pck_validity".to_owned(), days.into())));
    }
    ours
}

/// Equal, or the same moment in another spelling.
fn same(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::String(a), Value::String(b)) => {
            a == b
                || (a.len() == "2025-01-01".len() && b.strip_prefix(a.as_str()).is_some_and(|rest| rest.starts_with('T')))
                || Timestamp::parse(a).is_some_and(|moment| Some(moment) == Timestamp::parse(b))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => a.iter().all(|(name, value)| b.get(name).is_some_and(|ours| same(value, ours))),
        _ => theirs == ours,
    }
}

/// The manifest's cases; `None`, and said so, where there is no manifest.
fn cases(folder: &Path) -> Option<Vec<Value>> {
    let Ok(manifest) = std::fs::read(folder.join("MANIFEST.json")) else {
        assert!(std::env::var_os("PORTCULLIS_VECTORS").is_none(), "PORTCULLIS_VECTORS names {}, where no manifest can be read", folder.display());
        skipped::cases(1, "no captured evidence: name its folder in PORTCULLIS_VECTORS");
        return None;
    };
    let manifest: Value = serde_json::from_slice(&manifest).expect("the manifest is JSON");
    Some(manifest["cases"].as_array().expect("the manifest lists cases").clone())
}

#[test]
fn every_case_gives_the_manifests_verdict_and_claims() {
    let folder = folder();
    let Some(cases) = cases(&folder) else { return };
    let (mut run, mut failed) = (0, Vec::new());
    for case in cases.iter().filter(|case| platform_of(case).is_some()) {
        let case = Case::read(&folder, case).unwrap_or_else(|| panic!("a case that cannot be read: {}", case["id"]));
        run += 1;
        let verdict = case.judge();
        let word = if verdict.is_ok() { "accept" } else { "reject" };
        let differing = case.differing_claims();
        let good = (word == case.expected || case.policy_decides()) && differing.is_empty();
        let reason = verdict.as_ref().err().map(|denied| format!(" ({denied})")).unwrap_or_default();
        println!(
            "{} {}: {word}{reason}{}",
            if good { "ok  " } else { "FAIL" },
            case.id,
            differing.iter().map(|claim| format!("\n       {claim}")).collect::<String>()
        );
        if !good {
            failed.push(case.id.to_owned());
        }
    }
    println!("{run} cases run");
    let elsewhere = |case: &&Value| NO_TEE.iter().any(|(beginning, _)| case["id"].as_str().is_some_and(|id| id.starts_with(beginning)));
    let unknown = cases.len() - run - cases.iter().filter(elsewhere).count();
    skipped::cases(unknown, "captured evidence of platforms that this build does not know");
    // Another folder may be ahead of this build; ours has nothing that nobody judges.
    assert!(unknown == 0 || std::env::var_os("PORTCULLIS_VECTORS").is_some(), "{unknown} cases that nobody judges");
    assert!(run > 0, "the manifest has no case of a platform of this build");
    assert!(failed.is_empty(), "differing: {failed:?}");
}

/// Why an octet that no signature covers may be anything.
fn unsigned(case: &Case<'_>, part: &str, octets: &[u8], at: usize) -> Option<&'static str> {
    const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let root = || octets.windows(PEM.len()).rposition(|window| window == PEM);
    match (case.platform.name, part) {
        ("intel-tdx" | "intel-sgx", "evidence") | ("azure-tdx", "td-quote") if root().is_some_and(|root| at >= root) => {
            Some("the root that came along, in whose place the pinned key is taken, and zeros behind it")
        }
        ("intel-sgx", "evidence") if case.id == "sgx/v3-emr-outofdate" && at == 2684 => {
            Some("the class of the tag of a certificate's outer algorithm, which its issuer does not sign and the parser does not look at")
        }
        (_, "log") => Some("what an event says beside its digest; the binding claims list the digest of the whole log"),
        ("azure-tdx", "evidence") if (32..160).contains(&at) || (224..1056).contains(&at) => {
            Some("the TD's report but for its report data: only its CPU can check it, and the quote that stands for it is judged")
        }
        _ => None,
    }
}

/// What a changed octet may be refused for: the signature; the form of what is read on the way to it; in certificates that
/// evidence carries, and in what chooses the key (chip, product, TCB), the chain or that choice.
const CHANGED: &[Reason] = &[
    Reason::SignatureInvalid,
    Reason::EventLogMismatch,
    Reason::EvidenceMalformed,
    Reason::EvidenceSize,
    Reason::EvidenceUnsupported,
    Reason::ReservedBitsSet,
    Reason::ChainUntrusted,
    Reason::CollateralUnavailable,
    Reason::QuotingEnclaveInvalid,
    Reason::PlatformNotAllowed,
    Reason::TcbTooLow,
    Reason::TpmQuoteInvalid,
];

/// Every platform, from the manifest: no octet of accepted evidence can be changed. A new platform is covered by its captures.
#[test]
fn no_octet_of_accepted_evidence_can_be_changed() {
    let folder = folder();
    let Some(cases) = cases(&folder) else { return };
    let mut told = std::collections::BTreeMap::<String, std::collections::BTreeMap<&str, usize>>::new();
    let mut wrong = Vec::new();
    let cases: Vec<_> = cases.iter().filter_map(|case| Case::read(&folder, case)).collect();
    for case in &cases {
        let Some(appraiser) = case.accepting() else { continue };
        let known = Known::default();
        let parts = std::iter::once(("evidence", case.evidence.bytes.as_slice()))
            .chain(case.evidence.auxiliary.iter().map(|member| (member.label.as_str(), member.bytes.as_slice())));
        for (part, octets) in parts {
            let length = octets.len();
            // Every octet of what is short, and each in its turn of what is long; every case of a platform begins elsewhere.
            let step = length.div_ceil(400).max(1);
            for at in (case.id.len() % step..length).step_by(step) {
                let mut evidence = case.evidence.clone();
                match evidence.auxiliary.iter_mut().find(|member| member.label == part) {
                    Some(member) => member.bytes[at] ^= 1 << (at % 8),
                    None => evidence.bytes[at] ^= 1 << (at % 8),
                }
                let verdict = appraiser.examine(case.platform.verifier, &evidence, &case.endorsements, &known, case.at);
                let reason = verdict.as_ref().map_or_else(|denied| denied.reason().code(), |_| "accepted");
                let good = match &verdict {
                    Ok(_) => unsigned(case, part, octets, at).is_some(),
                    Err(denied) => CHANGED.contains(&denied.reason()),
                };
                *told.entry(format!("{} {part}", case.platform.name)).or_default().entry(reason).or_default() += 1;
                if !good {
                    wrong.push(format!("{} {part} {at}: {reason}", case.id));
                }
            }
        }
    }
    for (part, reasons) in &told {
        println!("{part}: {reasons:?}");
    }
    let covered = |platform: &&Platform| told.keys().any(|part| part.starts_with(&format!("{} ", platform.name)));
    let without: Vec<_> = PLATFORMS.iter().filter(|platform| !covered(platform)).map(|platform| platform.name).collect();
    println!("without an accepted capture: {without:?}");
    assert!(wrong.is_empty(), "{} octets: {wrong:#?}", wrong.len());
}

/// The regions of a SEV-SNP report and of the certificates beside it, and the one code for a change in each. The octets of
/// VERSION, KEY_INFO, CPUID and REPORTED_TCB that choose what is read or which key signs are left to the test above.
const SNP_CODES: &[(&str, std::ops::Range<usize>, Reason)] = &[
    ("version, high octets", 0x1..0x4, Reason::EvidenceUnsupported),
    ("guest SVN, policy, family and image", 0x4..0x30, Reason::SignatureInvalid),
    ("VMPL", 0x30..0x34, Reason::SignatureInvalid),
    ("signature algorithm", 0x34..0x38, Reason::EvidenceUnsupported),
    ("current TCB, platform info", 0x38..0x48, Reason::SignatureInvalid),
    ("reserved behind key info", 0x49..0x50, Reason::ReservedBitsSet),
    ("report data, measurement, host data, digests, report ids", 0x50..0x180, Reason::SignatureInvalid),
    ("reported TCB, bootloader", 0x181..0x182, Reason::TcbTooLow),
    ("reserved behind CPUID", 0x18b..0x1a0, Reason::ReservedBitsSet),
    ("committed TCB", 0x1e0..0x1e8, Reason::SignatureInvalid),
    ("current firmware", 0x1e8..0x1eb, Reason::SignatureInvalid),
    ("committed firmware", 0x1ec..0x1ef, Reason::SignatureInvalid),
    ("launch TCB", 0x1f0..0x1f8, Reason::SignatureInvalid),
    ("reserved", 0x208..0x2a0, Reason::ReservedBitsSet),
    ("signature", 0x2a0..0x4a0, Reason::SignatureInvalid),
];

/// A wrong code fails: for each region of captured SEV-SNP reports, and for the certificates stapled beside them.
#[test]
fn each_region_of_an_snp_report_has_its_code() {
    let folder = folder();
    let Some(cases) = cases(&folder) else { return };
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for case in cases.iter().filter_map(|case| Case::read(&folder, case)).filter(|case| case.platform.name == "sev-snp") {
        let Some(appraiser) = case.accepting() else { continue };
        let known = Known::default();
        let mut check = |what: &str, at: usize, evidence: &Evidence, endorsements: &Endorsements, code: Reason| {
            let verdict = appraiser.examine(case.platform.verifier, evidence, endorsements, &known, case.at).map(drop).map_err(|denied| denied.reason());
            checked += 1;
            if verdict != Err(code) {
                wrong.push(format!("{}: {what}, octet {at:#x}: {verdict:?}, not {code:?}", case.id));
            }
        };
        let chip = if case.endorsements.find("vlek").is_some() { Reason::SignatureInvalid } else { Reason::ChainUntrusted };
        for (what, region, code) in SNP_CODES.iter().cloned().chain([("chip", 0x1a0..0x1e0, chip)]) {
            for at in region.clone().step_by(region.len().div_ceil(16)) {
                let mut evidence = case.evidence.clone();
                evidence.bytes[at] ^= 1 << (at % 8);
                check(what, at, &evidence, &case.endorsements, code);
            }
        }
        for name in ["vcek", "vlek", "ask", "asvk"] {
            let length = case.endorsements.find(name).map_or(0, <[u8]>::len);
            for at in (0..length).step_by(41) {
                let change = |item: &Endorsement| {
                    let mut item = item.clone();
                    item.bytes[at] ^= 1;
                    item
                };
                let endorsements = case.endorsements.iter().map(|item| if item.name == name { change(item) } else { item.clone() }).collect();
                check(name, at, &case.evidence, &endorsements, Reason::ChainUntrusted);
            }
        }
    }
    println!("{checked} octets changed");
    assert!(checked > 1000, "only {checked} octets");
    assert!(wrong.is_empty(), "{} octets: {wrong:#?}", wrong.len());
}

/// The regions of an HCL report around the hardware's, and the one code for a change in each. Octets that the claims' length
/// and digest do not hold (a version that is another known one) are left to the test above.
const HCL_CODES: &[(&str, std::ops::Range<usize>, Reason)] = &[
    ("HCL magic", 0..4, Reason::EvidenceUnsupported),
    ("HCL version, high octets", 5..8, Reason::EvidenceUnsupported),
    ("report size", 8..12, Reason::EvidenceMalformed),
    ("request type, status", 12..20, Reason::EvidenceUnsupported),
    ("HCL reserved", 20..32, Reason::ReservedBitsSet),
    ("runtime data size", 1216..1220, Reason::EvidenceMalformed),
    ("runtime version", 1220..1224, Reason::EvidenceUnsupported),
    ("report type, high octets", 1225..1228, Reason::EvidenceUnsupported),
    ("hash type", 1228..1232, Reason::EvidenceUnsupported),
    ("claims size", 1232..1236, Reason::EvidenceMalformed),
];

/// A part of Azure's evidence (`None` is the HCL report, else the member of this label) with a region and its code.
type AzureRegion = (&'static str, Option<&'static str>, std::ops::Range<usize>, Reason);

/// The regions of a piece of Azure's evidence.
fn azure_regions(case: &Case<'_>) -> Vec<AzureRegion> {
    let hcl = case.evidence.bytes.as_slice();
    let report = HclReport::parse(hcl).expect("an HCL report");
    let mut regions: Vec<AzureRegion> = HCL_CODES.iter().map(|(what, region, code)| (*what, None, region.clone(), *code)).collect();
    match report.kind {
        Kind::Snp => {
            let hardware = SNP_CODES.iter().map(|(what, region, code)| (*what, None, region.start + 32..region.end + 32, *code));
            regions.extend(hardware.chain([("chip", None, 0x1a0 + 32..0x1e0 + 32, Reason::ChainUntrusted)]));
        }
        Kind::Tdx => {
            regions.push(("TD's report data", None, 32 + 128..32 + 192, Reason::TpmQuoteInvalid));
            regions.push(("behind the TD's report", None, 32 + 1024..1216, Reason::ReservedBitsSet));
            regions.extend(quote_regions(&case.evidence.member("td-quote").expect("a quote").bytes));
        }
    }
    // The digest is over the claims as they stand: keys, thumbprint, the VM's id, user data.
    let claims: Value = serde_json::from_slice(&report.claims).expect("JSON");
    let texts = claims["keys"].as_array().into_iter().flatten().map(|key| &key["n"]).chain([&claims["user-data"]]);
    let texts = texts.chain(claims["vm-configuration"].as_object().into_iter().flat_map(|all| all.values())).filter_map(Value::as_str);
    for text in texts.filter(|text| !text.is_empty()) {
        let at = find(hcl, text.as_bytes());
        // The last letter of a number in base64 has bits that must be zero.
        regions.push(("claims", None, at..at + text.len() - 1, Reason::TpmQuoteInvalid));
    }
    regions.extend(vtpm_regions(&case.evidence.member("vtpm").expect("a vTPM's quote").bytes));
    regions
}

/// The regions of the vTPM's member: everything in the quote but lengths, the signature, registers. No capture has all
/// certificates of the attestation key; what simulated ones come to is in `azure_catalogue.rs`.
fn vtpm_regions(bytes: &[u8]) -> Vec<AzureRegion> {
    let vtpm = Some("vtpm");
    let member = Member::parse(bytes).expect("a member");
    let (quote, start) = (&member.quote, find(bytes, &member.signed));
    let signer = start + 8..start + 8 + quote.qualified_signer.len();
    let extra = signer.end + 2..signer.end + 2 + quote.extra_data.len();
    let clock = extra.end..extra.end + 16;
    let firmware = clock.end + 1..clock.end + 9;
    let selected = firmware.end..firmware.end + 10;
    let digest = selected.end + 2..start + member.signed.len();
    let Signature::Rsassa { octets, .. } = &member.signature else { panic!("not RSA") };
    let signature = find(bytes, octets);
    let mut regions: Vec<AzureRegion> = [
        ("quote: magic and type", start..start + 6),
        ("quote: signer", signer),
        ("quote: challenge", extra),
        ("quote: clock and counts", clock),
        ("quote: firmware", firmware),
        ("quote: selection", selected),
        ("quote: digest", digest),
        ("quote's signature", signature..signature + octets.len()),
    ]
    .map(|(what, region)| (what, vtpm, region, Reason::TpmQuoteInvalid))
    .to_vec();
    for (index, value) in &member.pcrs.values {
        let mut pair = Writer::new();
        pair.uint(u64::from(*index)).bytes(value);
        let pair = pair.finish();
        let end = find(bytes, &pair) + pair.len();
        regions.push(("register", vtpm, end - value.len()..end, Reason::TpmQuoteInvalid));
    }
    regions
}

/// The one certificate of an attestation key that a capture has is without its issuer's, which is in no capture: it is refused
/// for that alone, and each change of it with the same code. Beside another machine's quote it is of another key.
#[test]
fn a_captured_certificate_of_an_attestation_key_is_refused_without_its_issuer() {
    let folder = folder();
    let Some(cases) = cases(&folder) else { return };
    let Ok(certificate) = std::fs::read(folder.join("az-tdx-vtpm/emr-v4-ak-cert/ak_cert.der")) else { return };
    let (_, read) = x509_parser::parse_x509_certificate(&certificate).expect("a certificate");
    // What is certified in front of the signature; the number of the key, with which it is the key's.
    let (body, key) = (4..4 + read.tbs_certificate.as_ref().len(), find(&certificate, &read.public_key().subject_public_key.data));
    let mut checked = 0;
    for case in cases.iter().filter_map(|case| Case::read(&folder, case)).filter(|case| case.id.starts_with("az-tdx-vtpm/emr-v4")) {
        let Some(appraiser) = case.accepting() else { panic!("{}: not accepted", case.id) };
        let known = Known::default();
        let mut refused = |certificate: &[u8]| {
            let mut evidence = case.evidence.clone();
            let vtpm = evidence.auxiliary.iter_mut().find(|member| member.label == "vtpm").expect("a vTPM's quote");
            let Member { signed, signature, pcrs, extras, .. } = Member::parse(&vtpm.bytes).expect("a member");
            vtpm.bytes = Member::encode(&signed, &signature.encode(), &pcrs, &Extras { certificates: vec![certificate.to_vec()], ..extras });
            let denied = appraiser.examine(case.platform.verifier, &evidence, &case.endorsements, &known, case.at).expect_err("no issuer");
            let finding = denied.findings().next().expect("a finding").clone();
            assert_eq!((finding.reason, finding.field.as_ref()), (Reason::ChainUntrusted, "vtpm.ak_certificate"), "{}: {denied}", case.id);
            checked += 1;
            finding.expected
        };
        const OF_KEY: &str = "a certificate of the key that signs the quotes";
        let whole = refused(&certificate);
        assert_eq!(whole == OF_KEY, case.id != "az-tdx-vtpm/emr-v4-ak-cert", "{}: {whole}", case.id);
        for at in body.clone().step_by(17).chain(certificate.len() - 256..certificate.len()).chain([key + 20]) {
            let mut changed = certificate.clone();
            changed[at] ^= 1 << (at % 8);
            let said = refused(&changed);
            assert!(at != key + 20 || said == OF_KEY, "{}: {said}", case.id);
        }
    }
    assert!(checked > 500, "only {checked}");
}

/// The regions of a TD quote, and of its chain a stretch of base64 inside the first certificate.
fn quote_regions(bytes: &[u8]) -> Vec<AzureRegion> {
    let quote = Quote::parse(bytes).expect("a TD quote");
    let signed = quote.signed_size();
    let key = signed + 4 + 64;
    let enclave = key + 64 + 6;
    let data = enclave + 384 + 64 + 2;
    let chain = data + quote.qe_auth.len() + 6 + 300;
    [
        ("quote: user data", 28..48, Reason::SignatureInvalid),
        ("quote: body", 48..signed, Reason::SignatureInvalid),
        ("quote: signature", signed + 4..key, Reason::SignatureInvalid),
        ("quote: attestation key", key..key + 64, Reason::QuotingEnclaveInvalid),
        ("quoting enclave: SVN, MISCSELECT, CET", enclave..enclave + 21, Reason::SignatureInvalid),
        ("quoting enclave: reserved", enclave + 21..enclave + 32, Reason::ReservedBitsSet),
        ("quoting enclave: product, attributes, MRENCLAVE", enclave + 32..enclave + 96, Reason::SignatureInvalid),
        ("quoting enclave: reserved", enclave + 96..enclave + 128, Reason::ReservedBitsSet),
        ("quoting enclave: MRSIGNER", enclave + 128..enclave + 160, Reason::SignatureInvalid),
        ("quoting enclave: reserved", enclave + 160..enclave + 192, Reason::ReservedBitsSet),
        ("quoting enclave: configuration, SVNs", enclave + 192..enclave + 262, Reason::SignatureInvalid),
        ("quoting enclave: reserved", enclave + 262..enclave + 304, Reason::ReservedBitsSet),
        ("quoting enclave: family, report data", enclave + 304..enclave + 384, Reason::SignatureInvalid),
        ("quoting enclave's signature", enclave + 384..enclave + 448, Reason::SignatureInvalid),
        ("quoting enclave's data", data..data + quote.qe_auth.len(), Reason::QuotingEnclaveInvalid),
        ("PCK certificate", chain..chain + 1000, Reason::ChainUntrusted),
    ]
    .map(|(what, region, code)| (what, Some("td-quote"), region, code))
    .to_vec()
}

fn find(all: &[u8], part: &[u8]) -> usize {
    all.windows(part.len()).position(|window| window == part).expect("a part of it")
}

/// A wrong code fails: for each region of HCL reports, claims, TPM quotes and TD quotes.
#[test]
fn each_region_of_azures_evidence_has_its_code() {
    let folder = folder();
    let Some(cases) = cases(&folder) else { return };
    let (mut wrong, mut told) = (Vec::new(), std::collections::BTreeMap::<String, usize>::new());
    for case in cases.iter().filter_map(|case| Case::read(&folder, case)).filter(|case| case.platform.name.starts_with("azure-")) {
        let Some(appraiser) = case.accepting() else { continue };
        let known = Known::default();
        for (what, label, region, code) in azure_regions(&case) {
            for at in region.clone().step_by(region.len().div_ceil(16)) {
                let mut evidence = case.evidence.clone();
                let octet = match evidence.auxiliary.iter_mut().find(|member| Some(member.label.as_str()) == label) {
                    Some(member) => &mut member.bytes[at],
                    None => &mut evidence.bytes[at],
                };
                // In text another letter that may stand there; elsewhere any bit will do.
                *octet = match what {
                    "claims" | "PCK certificate" if *octet == b'0' => b'1',
                    "claims" | "PCK certificate" => b'0',
                    _ => *octet ^ 1 << (at % 8),
                };
                let verdict =
                    appraiser.examine(case.platform.verifier, &evidence, &case.endorsements, &known, case.at).map(drop).map_err(|denied| denied.reason());
                *told.entry(format!("{} {what}: {code}", case.platform.name)).or_default() += 1;
                if verdict != Err(code) {
                    wrong.push(format!("{}: {what}, octet {at:#x}: {verdict:?}, not {code:?}", case.id));
                }
            }
        }
    }
    println!("{told:#?}");
    let both = ["azure-snp", "azure-tdx"].iter().all(|platform| told.keys().any(|told| told.starts_with(platform)));
    assert!(both, "no capture of one of the two");
    assert!(wrong.is_empty(), "{} octets: {wrong:#?}", wrong.len());
}

/// The program itself on each case's folder.
#[cfg(feature = "cli")]
mod command_line {
    use super::*;
    use crate::program::{Desk, Run};

    fn said(run: &Run) -> Value {
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.shown()))
    }

    fn verify(desk: &Desk, case: &Value, folder: &Path, further: &str) -> Run {
        let (id, at) = (case["id"].as_str().expect("an id"), case["verify_at"].as_str().expect("a time"));
        desk.run(&format!("verify {} --at {at} --json{further}", folder.join(id).display()))
    }

    #[test]
    fn every_folder_gives_the_manifests_verdict_and_claims() {
        let folder = folder();
        let Some(cases) = cases(&folder) else { return };
        let (desk, mut wrong) = (Desk::new(), Vec::new());
        for written in &cases {
            let Some(case) = Case::read(&folder, written) else { continue };
            let run = verify(&desk, written, &folder, &listing(&desk, &case));
            let document = said(&run);
            let word = document["verdict"].as_str().expect("a verdict");
            // The capture with a sentence behind its quote is refused for that alone.
            let text_behind = case.id == "tdx/v4-spr-e4-unsupported-tcb" && document["reason"] == "evidence_malformed";
            let good = match case.expected {
                "accept" => word == "accept",
                "reject" => word == "reject" || (word == "undecided" && case.judge().is_err_and(|denied| denied.reason().undecided())),
                _ => word == "reject" && (text_behind || case.policy_decides()),
            };
            let claims = if document["claims"].is_object() { case.differing_from(&document["claims"]) } else { Vec::new() };
            let unread = !document["claims"].is_object() && case.expected == "accept";
            if !good || unread || !claims.is_empty() {
                wrong.push(format!("{}: {word}, not {} {claims:?} {}", case.id, case.expected, document["reason"]));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// A policy that lists the keys of platforms whose vendors have no root; nothing for others.
    fn listing(desk: &Desk, case: &Case<'_>) -> String {
        if case.keys.is_empty() {
            return String::new();
        }
        let tee = case.platform.name;
        let key = |key: &OperatorKey| serde_json::json!({ "tee": tee, "name": key.name, "key": data_encoding::HEXLOWER.encode(&key.spki) });
        let mut entry = serde_json::json!({ "id": "a", "tee": tee, "insecure_any_measurement": true });
        if tee == "cca" {
            entry["insecure_any_firmware"] = "captured".into();
        }
        let keys: Vec<_> = case.keys.iter().map(key).collect();
        desk.write("policy.json", serde_json::json!({ "version": 1, "name": "captured", "keys": keys, "accept": [entry] }).to_string());
        format!(" --policy {}", desk.path("policy.json").display())
    }

    /// The manifest's verdicts. Where the files hold no reference measurements, the state was compared with nothing, and that is said.
    #[test]
    fn folders_of_devices_are_judged_as_far_as_they_go() {
        let folder = folder();
        let Some(cases) = cases(&folder) else { return };
        let desk = Desk::new();
        desk.write(
            "policy.json",
            r#"{ "version": 1, "name": "p", "accept": [{ "id": "a", "tee": "nitro", "insecure_any_measurement": true, "require": ["gpu/0"] }] }"#,
        );
        for case in cases.iter().filter(|case| case["platform"] == "nvidia") {
            let (id, expected) = (case["id"].as_str().expect("an id"), case["expected"]["verdict"].as_str().expect("a verdict"));
            let run = verify(&desk, case, &folder, "");
            let document = said(&run);
            let found = (document["verdict"].as_str().expect("a word"), document["reason"].as_str().unwrap_or_default());
            let field = document["findings"][0]["field"].as_str().unwrap_or_default();
            let wanted = match (expected.starts_with("accept"), has_file(case, "/driver_rim.xml")) {
                (true, _) => found == ("accept", ""),
                // One of its two files is not as it was signed; what the other says decides.
                (false, true) => found == ("reject", "measurement_unknown") && field.starts_with("gpu.measurements."),
                (false, false) => found == ("reject", "signature_invalid"),
            };
            assert!(wanted, "{id}: {expected}: {}", run.shown());
            let (claims, theirs) = (&document["claims"]["gpu/0"], &case["claims"]);
            if expected.starts_with("accept") {
                let compared = has_file(case, "/driver_rim.xml");
                assert_eq!(claims["state_compared"], compared, "{id}: {}", run.shown());
                let at = case["verify_at"].as_str().expect("a time");
                let text = desk.run(&format!("verify {} --at {at}", folder.join(id).display()));
                for said in [&document["warnings"].to_string(), &text.stdout] {
                    assert_eq!(said.contains("the state of gpu/0 was compared with nothing"), !compared, "{id}: {said}");
                }
            }
            assert_eq!((&claims["nonce"], &claims["measurement_blocks"]), (&theirs["nonce"], &theirs["measurement_blocks"]), "{id}");
            for (ours, theirs) in
                [("driver_version", &theirs["opaque"]["DRIVER_VERSION"]), ("fwid", &theirs["fwid"]), ("vbios_version", &theirs["vbios_version"])]
            {
                assert!(theirs.is_null() || claims[ours] == *theirs, "{id}: {ours}: {} and {theirs}", claims[ours]);
            }
            let refused = said(&verify(&desk, case, &folder, &format!(" --policy {}", desk.path("policy.json").display())));
            assert_eq!((&refused["verdict"], &refused["reason"]), (&"reject".into(), &"evidence_unsupported".into()), "{id}: a device alone");
            let inspected = desk.run(&format!("inspect {} --json", folder.join(id).display()));
            assert!(inspected.stdout.contains(theirs["nonce"].as_str().expect("hex")), "{id}: {}", inspected.shown());
        }
    }

    /// A TEE's capture and a device's in one folder: both are genuine, and of the device no more is known than by itself.
    #[test]
    fn a_folder_of_a_tee_and_a_device_says_that_its_state_was_compared_with_nothing() {
        let folder = folder();
        if cases(&folder).is_none() {
            return;
        }
        let desk = Desk::new();
        std::fs::create_dir(desk.path("both")).expect("a folder");
        let copy = |from: &str, names: &[&str]| {
            for name in names {
                std::fs::copy(folder.join(from).join(name), desk.path("both").join(name)).expect("a captured file");
            }
        };
        copy("snp/genoa-v5-vcek-oak", &["report.bin", "vcek.der", "ask.der"]);
        copy("nvidia/gb100-blackwell-575.32", &["attestation_report.bin", "cert_chain.pem"]);
        let document = said(&desk.run("verify both --at 2026-01-15T00:00:00Z --json"));
        assert_eq!((&document["verdict"], &document["platform"]), (&"accept".into(), &"sev-snp".into()), "{document:#}");
        assert_eq!(document["claims"]["gpu/0"]["state_compared"], false);
        assert!(document["warnings"].to_string().contains("the state of gpu/0 was compared with nothing"), "{document:#}");
        // A policy file wants the state, also one that does without revocation lists.
        let measurement = document["claims"]["measurement"].as_str().expect("hex");
        desk.write(
            "policy.json",
            format!(r#"{{ "version": 1, "name": "p", "insecure_allow_missing_crl": true, "accept": [{{ "id": "a", "tee": "sev-snp", "measurement": "{measurement}" }}] }}"#),
        );
        let document = said(&desk.run("verify both --at 2026-01-15T00:00:00Z --policy policy.json --json"));
        let finding = &document["findings"][0];
        assert_eq!((&document["verdict"], &document["reason"], &finding["field"]), (&"undecided".into(), &"collateral_unavailable".into(), &"gpu.rim".into()));
    }

    /// A vTPM without a TEE's report is no evidence of one.
    #[test]
    fn folders_of_a_vtpm_alone_are_refused() {
        let folder = folder();
        let Some(cases) = cases(&folder) else { return };
        for case in cases.iter().filter(|case| case["id"].as_str().is_some_and(|id| id.starts_with("gcp-cvm/vtpm-"))) {
            let run = verify(&Desk::new(), case, &folder, "");
            assert!(run.code != 0 && !run.stdout.contains("\"accept\""), "{}", run.shown());
        }
    }
}
