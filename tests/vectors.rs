//! Real evidence captured by others: every case of a manifest that this build has a platform for gives the manifest's
//! verdict and claims. The folder is named by `PORTCULLIS_VECTORS`; any folder of the same form runs unchanged.

#[path = "support/skipped.rs"]
mod skipped;

use std::path::{Path, PathBuf};

use portcullis::evidence::saved::SavedFile;
use portcullis::evidence::{Endorsement, Endorsements, Evidence, Timestamp};
use portcullis::platform::{self, PLATFORMS, Platform};
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::Denied;
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
        "snp" => platform::by_name("sev-snp"),
        "az-snp-vtpm" => platform::by_name("azure-snp"),
        _ => None,
    }
}

struct Case<'a> {
    id: &'a str,
    evidence: Evidence,
    endorsements: Endorsements,
    at: Timestamp,
    expected: &'a str,
    claims: &'a serde_json::Map<String, Value>,
    platform: &'static Platform,
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
        let whole = || files.iter().find(|file| file.name == platform.saved.evidence).map(|file| Evidence::new(platform.media_type, file.bytes.as_slice()));
        let mut endorsements: Endorsements = assembled.endorsements.into_iter().collect();
        for file in files.iter().filter(|file| !assembled.used.contains(&file.name)) {
            if let Some(name) = file.name.strip_suffix(".der") {
                endorsements.push(Endorsement { name: name.to_owned(), media_type: "application/pkix-cert".to_owned(), bytes: file.bytes.clone() });
            }
        }
        let evidence = assembled.evidence.or_else(whole);
        Some(Self {
            id: case["id"].as_str()?,
            evidence: evidence?,
            endorsements,
            at: Timestamp::parse(case["verify_at"].as_str()?)?,
            expected: case["expected"]["verdict"].as_str()?,
            claims: case["claims"].as_object()?,
            platform,
        })
    }

    fn judge(&self) -> Result<Appraisal, Denied> {
        let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
        let policy = AppraisalPolicy::genuine(&vocabularies);
        let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
        appraiser.examine(self.platform.verifier, &self.evidence, &self.endorsements, &NoMemo, self.at)
    }

    /// The manifest's claims that ours differ from.
    fn differing_claims(&self) -> Vec<String> {
        let read = self.platform.verifier.read(&self.evidence, &self.endorsements).expect("readable evidence");
        let ours = serde_json::to_value(&read).expect("claims are JSON");
        self.claims
            .iter()
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

/// Equal, or the same moment in another spelling.
fn same(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::String(a), Value::String(b)) => a == b || Timestamp::parse(a).is_some_and(|moment| Some(moment) == Timestamp::parse(b)),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => a.iter().all(|(name, value)| same(value, &b[name])),
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
        let good = word == case.expected && differing.is_empty();
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
