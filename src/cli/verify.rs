//! `portcullis verify`: saved evidence into a verdict.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Outcome;
use super::judging::{Judged, judge, moment};
use super::output::{self, BAD, DIM, Detail, GOOD, Marks, WARN, findings, row, show, show_json};
use super::policy::Loaded;
use super::{input, policy};
use crate::evidence::{ClaimValue, Claims, Timestamp};
use crate::platform::Platform;
use crate::policy::Rule;
use crate::refusal::Denied;

/// Judge saved evidence, with no connection.
///
/// A FILE is a raw report, a certificate (DER or PEM) with evidence, an encoded evidence collection, or an endorsement
/// (a certificate or revocation list) for the others; a DIR holds a report with its endorsements. `-` is stdin. Files
/// are recognised by name or content and are read up to 1 MiB each.
///
/// Without --policy this proves genuineness only: nothing is pinned, and a GPU's state is compared only where its reference
/// measurements are among the files.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to judge.
    #[arg(required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// Judge by this policy file; without it any genuine evidence passes, also of a GPU without its reference measurements.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Judge as of this moment (RFC 3339) instead of now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Fetch nothing. This version never fetches: what a verdict needs is in the files.
    #[arg(long)]
    offline: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Print nothing; the exit code tells.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Show whole values and every claim.
    #[arg(long, short)]
    verbose: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let policy = args.policy.as_deref().map_or_else(|| Ok(Loaded::genuine()), policy::load)?;
    let now = moment(args.at.as_deref())?;
    let judged: Vec<Judged> = input::subjects(&args.files)?.into_iter().map(|subject| judge(subject, &policy, now)).collect();
    let outcome = judged.iter().map(outcome).max().unwrap_or(Outcome::Unusable);
    if args.json {
        show_json(&document(&judged, &policy, now))?;
    } else if !args.quiet {
        let (detail, marks) = (Detail::of(args.verbose), Marks::here());
        let texts: Vec<String> = judged.iter().map(|judged| text(judged, &policy, now, detail, marks)).collect();
        show(&texts.join("\n"))?;
    }
    Ok(outcome)
}

pub(super) fn outcome(judged: &Judged) -> Outcome {
    judged.verdict.as_ref().err().map_or(Outcome::Done, Outcome::of_denied)
}

/// The document for one subject; for several, one that holds theirs.
fn document(judged: &[Judged], policy: &Loaded, now: Timestamp) -> Value {
    if let [only] = judged {
        return single(only, policy, now);
    }
    let worst = judged.iter().max_by_key(|judged| outcome(judged)).map(word);
    json!({ "verdict": worst, "results": judged.iter().map(|judged| single(judged, policy, now)).collect::<Vec<_>>() })
}

pub(super) fn single(judged: &Judged, policy: &Loaded, now: Timestamp) -> Value {
    let appraisal = judged.verdict.as_ref().ok();
    let denied = judged.verdict.as_ref().err();
    json!({
        "subject": judged.name,
        "verdict": word(judged),
        "reason": denied.map(|denied| denied.reason().code()),
        "findings": denied.map(|denied| denied.findings().map(output::finding_json).collect::<Vec<_>>()).unwrap_or_default(),
        "policy": { "name": policy.appraiser.policy.name, "digest": policy.digest() },
        "entry": appraisal.map(crate::verify::Appraisal::entry),
        "platform": judged.platform.map(|platform| platform.name).or_else(|| appraisal.map(crate::verify::Appraisal::platform)),
        "origin": appraisal.map(|appraisal| appraisal.origin().name()),
        "revocation_checked": appraisal.is_some_and(crate::verify::Appraisal::revocation_checked),
        "at": now.to_string(),
        "until": appraisal.map(|appraisal| appraisal.until().to_string()),
        "claims_authentic": appraisal.is_some(),
        "claims": judged.claims,
        "warnings": judged.warnings,
    })
}

fn word(judged: &Judged) -> &'static str {
    match outcome(judged) {
        Outcome::Done => "accept",
        Outcome::Undecided => "undecided",
        _ => "reject",
    }
}

pub(super) fn text(judged: &Judged, policy: &Loaded, now: Timestamp, detail: Detail, marks: Marks) -> String {
    let mut out = match &judged.verdict {
        Ok(appraisal) => {
            let said = if policy.path.is_some() { "accepted" } else { "genuine" };
            let mut out = header(judged, GOOD, marks.good, said);
            out.push('\n');
            warnings(&mut out, judged, marks);
            if policy.path.is_some() {
                row(&mut out, "policy", &format!("\"{}\" {}", appraisal.policy(), output::value(&policy.digest(), detail, marks)));
                row(&mut out, "entry", appraisal.entry());
            }
            row(&mut out, "at", &now.to_string());
            row(&mut out, "until", &appraisal.until().to_string());
            out
        }
        Err(denied) => refusal(judged, denied, detail, marks),
    };
    if let Some(claims) = &judged.claims {
        let heading = if judged.verdict.is_ok() { "claims" } else { "claims, read and not believed" };
        match detail {
            Detail::Whole => {
                let _ = writeln!(out, "  {heading}");
                out.push_str(&claim_table(claims, detail, marks));
            }
            Detail::Short => {
                let shown = judged.verdict.as_ref().ok().and(judged.platform).map(|platform| telling(platform, claims, marks));
                let devices = || if judged.platform.is_none() && judged.verdict.is_ok() { claim_table(claims, detail, marks) } else { String::new() };
                out.push_str(&shown.unwrap_or_else(devices));
            }
        }
    }
    if detail == Detail::Whole && !judged.ignored.is_empty() {
        let _ = writeln!(out, "  not read: {}", judged.ignored.join(", "));
    }
    out
}

fn refusal(judged: &Judged, denied: &Denied, detail: Detail, marks: Marks) -> String {
    let (style, mark, said) = if denied.reason().undecided() { (WARN, marks.unknown, "undecided") } else { (BAD, marks.bad, "refused") };
    let failed = denied.findings().count();
    let mut out = header(judged, style, mark, said);
    let _ = writeln!(out, "  {failed} check{} failed", if failed == 1 { "" } else { "s" });
    warnings(&mut out, judged, marks);
    out.push_str(&findings(denied.findings(), detail, marks));
    let _ = writeln!(out, "  see: portcullis explain {}", denied.reason());
    out
}

/// The first line without its end.
fn header(judged: &Judged, style: anstyle::Style, mark: &str, said: &str) -> String {
    let mut out = format!("{style}{mark} {said}{style:#}: {}", output::printable(&judged.name));
    if let Some(platform) = judged.platform {
        let _ = write!(out, "  tee={}", platform.name);
        if let Some(product) = judged.claims.as_ref().and_then(|claims| claims.text("product")) {
            let _ = write!(out, " {product}");
        }
    }
    out
}

fn warnings(out: &mut String, judged: &Judged, marks: Marks) {
    for warning in &judged.warnings {
        let _ = writeln!(out, "  {WARN}!{WARN:#} {}", output::value(warning, Detail::Short, marks));
    }
}

/// Every claim, a line each.
pub(super) fn claim_table(claims: &Claims, detail: Detail, marks: Marks) -> String {
    let wide = claims.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let line = |(name, value): &(&'static str, ClaimValue)| format!("    {DIM}{name:<wide$}{DIM:#}  {}\n", output::value(&value.to_string(), detail, marks));
    claims.iter().map(line).collect()
}

/// The claims that policies are made of, as far as they say something.
pub(super) fn telling(platform: &Platform, claims: &Claims, marks: Marks) -> String {
    let mut shown = Claims::default();
    for field in platform.verifier.vocabulary().fields {
        let names: Vec<&'static str> = match &field.rule {
            Rule::Bytes { claim, .. }
            | Rule::Components { claim }
            | Rule::Digest { claim, .. }
            | Rule::Registers { claim, .. }
            | Rule::Numbers { claim, .. }
            | Rule::TcbStatus { claim, .. }
            | Rule::Words { claim, .. } => vec![claim],
            Rule::Tcb { claims, .. } => claims.iter().take(1).map(|tcb| tcb.claim).collect(),
            _ => Vec::new(),
        };
        for name in names {
            match claims.find(name) {
                Some(ClaimValue::Bytes(octets)) if octets.iter().all(|octet| *octet == 0) => {}
                Some(value) => shown.push(name, value.clone()),
                None => {}
            }
        }
    }
    claim_table(&shown, Detail::Short, marks)
}
