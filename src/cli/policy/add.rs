//! `portcullis policy add`: a piece of evidence into an entry, seen and agreed to by a person.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::draft::Draft;
use super::{Loaded, edit, lint, load, told};
use crate::cli::judging::{Judged, judge, lists, moment};
use crate::cli::output::{self, BAD, Detail, GOOD, Marks, Rendered, WARN, show};
use crate::cli::{Outcome, input, probe, verify};
use crate::evidence::Timestamp;
use crate::policy::{Revocation, Vocabulary};
use crate::tls::Tier;
use crate::verify::roots::Origin;

/// Show what a piece of evidence would have you trust, and on a yes add it as an entry.
///
/// The evidence must be genuine. The rest of the file stays as it is, and the file is replaced at once or not at all.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The policy file.
    file: PathBuf,
    /// The entry's name in logs, metrics and rules.
    #[arg(long)]
    id: String,
    /// Evidence to take the values from: what `verify` reads, or a server to ask as `probe` does.
    #[arg(long, value_name = "FILE|DIR|HOST:PORT")]
    from: PathBuf,
    /// Pin this key of the policy too, such as host_data, chip_id or min_tcb; may be repeated.
    #[arg(long, value_name = "KEY")]
    pin: Vec<String>,
    /// Write this insecure_ key into the entry, with the reason where it wants one; may be repeated.
    #[arg(long, value_name = "KEY[=WHY]")]
    insecure: Vec<String>,
    /// A note for people, kept in the entry.
    #[arg(long)]
    note: Option<String>,
    /// Judge the evidence as of this moment (RFC 3339) instead of now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Add without asking.
    #[arg(long, short)]
    yes: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let policy = load(&args.file)?;
    let now = moment(args.at.as_deref())?;
    let marks = Marks::here();
    let genuine = genuine(&policy);
    let judged = source(args, &genuine, now)?;
    let (Ok(appraisal), Some(platform), Some(claims)) = (&judged.verdict, judged.platform, &judged.claims) else {
        show(&verify::text(&judged, &genuine, now, Detail::Short, marks))?;
        output::note("nothing was added: this is not known to be genuine");
        return Ok(verify::outcome(&judged));
    };
    let vocabulary = platform.verifier.vocabulary();
    let entry = Draft { id: &args.id, note: args.note.as_deref(), pin: &args.pin, insecure: &args.insecure }.entry(vocabulary, claims)?;
    let text = edit::with_entry(&policy.text, &entry).with_context(|| format!("{} has no list called accept", args.file.display()))?;
    let extended = Loaded::of_text(&args.file, text.clone()).map_err(|problems| {
        let told = told(&args.file, &text, &problems);
        Rendered(format!("{told}\nnothing was added: with this entry the policy would have errors (see --insecure and --pin)"))
    })?;
    let again = source(args, &by_new_entry(extended, &args.id), now)?;
    if again.verdict.is_err() {
        return refused_by_itself(&again, &genuine, vocabulary, now, marks);
    }
    show(&proposal(args, &judged, &entry, appraisal.origin(), marks))?;
    if !agreed(args)? {
        output::note("nothing was added");
        return Ok(Outcome::Refused);
    }
    edit::write(&args.file, &text)?;
    show(&format!("{GOOD}{} added{GOOD:#}: {} to {}\n", marks.good, args.id, args.file.display()))?;
    lint::one(&args.file, now, marks)
}

/// What proves evidence genuine under the policy's roots and looks at nothing else: what no entry accepts by default, such
/// as a debug guest, is for the entry to refuse or, with its `insecure_` key, to accept.
fn genuine(policy: &Loaded) -> Loaded {
    let mut genuine = Loaded::genuine_under(&policy.appraiser.policy);
    genuine.appraiser.policy.accept.iter_mut().for_each(|entry| entry.constraints.clear());
    genuine
}

/// What a policy makes of the evidence that the entry is to come from.
fn source(args: &Args, policy: &Loaded, now: Timestamp) -> anyhow::Result<Judged> {
    let shown = args.from.display().to_string();
    if !args.from.exists() && crate::config::host_and_port(&shown).is_ok() {
        if args.at.is_some() {
            bail!("--at is for saved evidence: a server is judged by its connection, now");
        }
        return probe::connected(&shown, None, Tier::Session, policy);
    }
    let mut subjects = input::subjects(&[&args.from])?;
    match (subjects.pop(), subjects.len()) {
        (Some(subject), 0) => Ok(judge(subject, policy, now)),
        (_, more) => bail!("{shown} holds {} pieces of evidence: name one", more + 1),
    }
}

/// The policy with its new entry alone, to see whether it accepts what it was made from.
fn by_new_entry(mut extended: Loaded, id: &str) -> Loaded {
    let policy = &mut extended.appraiser.policy;
    policy.accept.retain(|entry| entry.id == id);
    policy.deny.clear();
    policy.expires = None;
    policy.revocation = Revocation::WhenPresent;
    extended
}

fn refused_by_itself(judged: &Judged, policy: &Loaded, vocabulary: &Vocabulary, now: Timestamp, marks: Marks) -> anyhow::Result<Outcome> {
    show(&verify::text(judged, policy, now, Detail::Short, marks))?;
    let keys: String = vocabulary.loosening.iter().map(|key| format!("  --insecure {}  {}\n", key.key, key.doc)).collect();
    output::note(&format!("nothing was added: the entry would refuse the very evidence it is made from. To accept it none the less, choose\n{keys}"));
    Ok(Outcome::Refused)
}

/// What is about to be trusted.
fn proposal(args: &Args, judged: &Judged, entry: &Value, origin: Origin, marks: Marks) -> String {
    let mut out = format!("{} holds genuine evidence. This entry would be added to {}:\n\n", output::printable(&judged.name), args.file.display());
    for line in format!("{entry:#}").lines() {
        let _ = writeln!(out, "  {}", output::printable(line));
    }
    if let (Some(platform), Some(claims)) = (judged.platform, &judged.claims) {
        out.push_str("\nThe evidence says:\n\n");
        out.push_str(&verify::telling(platform, claims, marks));
        let gpus: Vec<String> = (0..16).map(|number| format!("gpu/{number}")).filter(|label| claims.find(label).is_some()).collect();
        if !gpus.is_empty() {
            let _ = writeln!(
                out,
                "\n{WARN}devices{WARN:#}: {} beside it are not asked for: a peer may come without them. To ask, write into the entry: \"require\": {}",
                gpus.join(", "),
                Value::from(gpus)
            );
        }
    }
    if origin == Origin::Simulator {
        let _ = writeln!(out, "\n{BAD}SIMULATED{BAD:#}: anybody can forge this evidence");
    }
    if let (Ok(appraisal), Some(platform), Some(evidence)) = (&judged.verdict, judged.platform, &judged.evidence)
        && !appraisal.revocation_checked()
    {
        let place = lists(platform, evidence);
        let _ = writeln!(
            out,
            "\n{WARN}revocation{WARN:#}: no current revocation list is beside this evidence. Whoever presents it without one is refused \
             (collateral_unavailable): staple it there (identity.endorsements){place}"
        );
    }
    for key in &args.insecure {
        let _ = writeln!(out, "{WARN}insecure{WARN:#}: {}", output::printable(key));
    }
    out
}

fn agreed(args: &Args) -> anyhow::Result<bool> {
    if args.yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        bail!("nobody to ask: say --yes to add without asking");
    }
    output::note("Trust this? Only if you know that the measurement is yours. [y/N]");
    let mut answer = String::new();
    io::Read::take(io::stdin().lock(), 64).read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
