//! `portcullis policy lint`: every error and warning of a policy file, and what in it is insecure.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Loaded, read, told};
use crate::cli::Outcome;
use crate::cli::judging::moment;
use crate::cli::output::{BAD, GOOD, Marks, WARN, row, show, show_json};
use crate::diagnostic::{Diagnostic, Source, position, render_as};
use crate::evidence::Timestamp;
use crate::platform::vocabularies;
use crate::policy::{Accept, Entry};

/// Report every error and warning, the insecure keys in force and the digest.
///
/// Errors end with exit code 2, warnings alone with 0.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The policy files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Look at dates as of this moment (RFC 3339) instead of now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let now = moment(args.at.as_deref())?;
    if args.json {
        return as_json(args, now);
    }
    let outcomes: Result<Vec<_>, _> = args.files.iter().map(|file| one(file, now, Marks::here())).collect();
    Ok(outcomes?.into_iter().max().unwrap_or(Outcome::Unusable))
}

/// Lints one file and shows the result.
pub(super) fn one(file: &Path, now: Timestamp, marks: Marks) -> anyhow::Result<Outcome> {
    let text = read(file)?;
    let name = file.display().to_string();
    let loaded = match Loaded::of_text(file, text.clone()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let count = counted(problems.len(), "error");
            show(&format!("{}\n{BAD}{} {name}{BAD:#}: {count}\n", told(file, &text, &problems), marks.bad))?;
            return Ok(Outcome::Unusable);
        }
    };
    let warnings = warnings(&loaded, now);
    let mut out = render_as(&Source { name: &name, text: &text }, "warning", &warnings);
    if !warnings.is_empty() {
        out.push('\n');
    }
    let policy = &loaded.appraiser.policy;
    let _ = writeln!(out, "{GOOD}{} {name}{GOOD:#}: no errors, {}", marks.good, counted(warnings.len(), "warning"));
    row(&mut out, "name", &policy.name);
    row(&mut out, "entries", &policy.accept.len().to_string());
    row(&mut out, "digest", &loaded.digest());
    for key in &policy.insecure {
        let _ = writeln!(out, "  {WARN}insecure{WARN:#}  {key}{}", meaning(key).map(|doc| format!(": {doc}")).unwrap_or_default());
    }
    show(&out)?;
    Ok(Outcome::Done)
}

fn as_json(args: &Args, now: Timestamp) -> anyhow::Result<Outcome> {
    let (mut outcome, mut documents) = (Outcome::Done, Vec::new());
    for file in &args.files {
        let text = read(file)?;
        let shown = |diagnostics: &[Diagnostic]| diagnostics.iter().map(|diagnostic| shown(&text, diagnostic)).collect::<Vec<_>>();
        documents.push(match Loaded::of_text(file, text.clone()) {
            Ok(loaded) => {
                let policy = &loaded.appraiser.policy;
                json!({
                    "file": file.display().to_string(), "errors": [], "warnings": shown(&warnings(&loaded, now)),
                    "policy": { "name": policy.name, "digest": loaded.digest() }, "entries": policy.accept.len(), "insecure": policy.insecure,
                })
            }
            Err(problems) => {
                outcome = Outcome::Unusable;
                json!({ "file": file.display().to_string(), "errors": shown(&problems), "warnings": [], "policy": null, "entries": null, "insecure": [] })
            }
        });
    }
    match documents.as_slice() {
        [only] => show_json(only)?,
        all => show_json(&json!(all))?,
    }
    Ok(outcome)
}

fn shown(text: &str, diagnostic: &Diagnostic) -> Value {
    let place = position(text, diagnostic.span.start);
    json!({ "message": diagnostic.message, "help": diagnostic.help, "line": place.line, "column": place.column })
}

/// The loader's warnings, and what only a look at the dates and across entries shows.
fn warnings(loaded: &Loaded, now: Timestamp) -> Vec<Diagnostic> {
    let policy = &loaded.appraiser.policy;
    let mut warnings = loaded.warnings.clone();
    let at = |needle: &str| {
        let needle = format!("\"{needle}\"");
        loaded.text.find(&needle).map_or(0..0, |start| start..start + needle.len())
    };
    if policy.expires.is_some_and(|expires| now > expires) {
        warnings.push(Diagnostic::new(at("expires"), "the policy has expired: it refuses everyone").help("renew it, or leave expires out"));
    }
    for (index, entry) in policy.accept.iter().enumerate() {
        if entry.not_after.is_some_and(|end| now > end) {
            warnings.push(Diagnostic::new(at(&entry.id), format!("the entry {} is past its not_after: it accepts nobody", entry.id)).help("remove it"));
        }
        if let Some(twin) = policy.accept.iter().take(index).find(|other| same(other, entry)) {
            warnings.push(Diagnostic::new(at(&entry.id), format!("the entry {} accepts the same as {}", entry.id, twin.id)).help("keep one"));
        }
        for denial in &policy.deny {
            let hit = |accept: &Accept| matches!(accept, Accept::Bytes(values) if values.contains(&denial.value));
            if entry.constraints.iter().any(|constraint| hit(&constraint.accept)) {
                let message = format!("the entry {} accepts a {} that deny refuses", entry.id, denial.claim);
                warnings.push(Diagnostic::new(at(&entry.id), message).help(format!("deny wins ({}): remove it from the entry", denial.why)));
            }
        }
    }
    warnings
}

fn same(a: &Entry, b: &Entry) -> bool {
    let shown = |entry: &Entry| entry.constraints.iter().map(|constraint| format!("{} {:?}", constraint.field.key, constraint.accept)).collect::<Vec<_>>();
    a.tee == b.tee && shown(a) == shown(b)
}

/// What an insecure key loosens, from the platforms' tables.
pub(super) fn meaning(place: &str) -> Option<&'static str> {
    let key = place.rsplit('.').next().unwrap_or(place);
    match key {
        "insecure_allow_missing_crl" => Some("accepts evidence whose revocation cannot be checked"),
        "insecure_roots" => Some("trusts the simulator's published roots: anybody can forge evidence under them"),
        _ => vocabularies().iter().flat_map(|vocabulary| vocabulary.loosening).find(|loosening| loosening.key == key).map(|loosening| loosening.doc),
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
