//! Real evidence captured by others: every case of a manifest that this build has a platform for gives the manifest's
//! verdict and claims. The folder is named by `PORTCULLIS_VECTORS`; any folder of the same form runs unchanged.

use std::path::{Path, PathBuf};

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
        let mut evidence = None;
        let mut endorsements = Endorsements::default();
        for file in case["files"].as_array()? {
            let path = folder.join(file["path"].as_str()?);
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = path.file_stem()?.to_str()?.to_owned();
            match (name.as_str(), path.extension()?.to_str()?) {
                ("report", "bin") => evidence = Some(Evidence::new(platform.media_type, bytes)),
                (_, "der") => endorsements.push(Endorsement { name, media_type: "application/pkix-cert".to_owned(), bytes }),
                _ => {}
            }
        }
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
            .filter(|(name, theirs)| !same(theirs, &ours[name.as_str()]))
            .map(|(name, theirs)| format!("{name}: {theirs} / {}", ours[name.as_str()]))
            .collect()
    }
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
        println!("SKIPPED: no vectors at {}: every case", folder.display());
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
    println!("{run} cases run, {} skipped (formats of other platforms)", cases.len() - run);
    assert!(run > 0, "the manifest has no case of a platform of this build");
    assert!(failed.is_empty(), "differing: {failed:?}");
}
