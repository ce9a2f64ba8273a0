//! Real evidence captured by others: every case of a manifest that this build has a platform for gives the manifest's
//! verdict and claims. The folder is named by `PORTCULLIS_VECTORS`; any folder of the same form runs unchanged.

#[path = "support/cose_claims.rs"]
mod cose_claims;
#[path = "support/skipped.rs"]
mod skipped;

use std::path::{Path, PathBuf};

use portcullis::evidence::saved::SavedFile;
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
        "dstack" | "gcp-cvm" if has_quote(case) => platform::by_name("intel-tdx"),
        "ra-tls" if has_quote(case) => platform::by_name("intel-sgx"),
        _ => None,
    }
}

fn has_quote(case: &Value) -> bool {
    case["files"].as_array().is_some_and(|files| files.iter().any(|file| file["path"].as_str().is_some_and(|path| path.ends_with("/quote.bin"))))
}

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
        self.judge_by(|policy| {
            let tolerated = Tolerated { status: status.to_owned(), advisories: advisories.to_vec(), until: self.at.plus(86_400) };
            let constraints = policy.accept.iter_mut().flat_map(|entry| &mut entry.constraints);
            for constraint in constraints.filter(|constraint| matches!(constraint.accept, Accept::TcbStatus(_))) {
                constraint.accept = Accept::TcbStatus(vec![tolerated.clone()]);
            }
        })
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

    fn judge_by(&self, change: impl Fn(&mut AppraisalPolicy)) -> Result<Appraisal, Denied> {
        let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
        let mut policy = AppraisalPolicy { keys: self.keys.clone(), ..AppraisalPolicy::genuine(&vocabularies) };
        change(&mut policy);
        let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
        appraiser.examine(self.platform.verifier, &self.evidence, &self.endorsements, &NoMemo, self.at)
    }

    /// The manifest's claims that ours differ from.
    fn differing_claims(&self) -> Vec<String> {
        let read = match self.platform.verifier.read(&self.evidence, &self.endorsements) {
            Ok(read) => read,
            // What cannot be read says nothing; that it is refused is what the verdict shows.
            Err(_) if self.expected == "reject" => return Vec::new(),
            Err(denied) => panic!("{}: {denied}", self.id),
        };
        let ours = serde_json::to_value(&read).expect("claims are JSON");
        // Of formats around a quote the manifest claims other things too.
        let intel = ["intel-sgx", "intel-tdx", "azure-tdx"].contains(&self.platform.name);
        let of_quote = |name: &str| ["tdx/", "sgx/", "az-tdx-vtpm/"].iter().any(|kind| self.id.starts_with(kind)) || QUOTE_CLAIMS.contains(&name);
        let other = || cose_claims::in_our_words(self.platform.name, self.claims).unwrap_or_else(|| self.claims.clone());
        let theirs = if intel { quote_claims(self.claims) } else { other() };
        theirs
            .iter()
            .filter(|(name, _)| !intel || of_quote(name))
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

#[test]
fn every_case_gives_the_manifests_verdict_and_claims() {
    let folder = folder();
    let Ok(manifest) = std::fs::read(folder.join("MANIFEST.json")) else {
        assert!(std::env::var_os("PORTCULLIS_VECTORS").is_none(), "PORTCULLIS_VECTORS names {}, where no manifest can be read", folder.display());
        skipped::cases(1, "no captured evidence: name its folder in PORTCULLIS_VECTORS");
        return;
    };
    let manifest: Value = serde_json::from_slice(&manifest).expect("the manifest is JSON");
    let cases = manifest["cases"].as_array().expect("the manifest lists cases");
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
    skipped::cases(cases.len() - run, "captured evidence of platforms that this build does not know");
    assert!(run > 0, "the manifest has no case of a platform of this build");
    assert!(failed.is_empty(), "differing: {failed:?}");
}
