//! `portcullis tcb`: how a machine's firmware and microcode stand, what they are short of, and what raises them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::fetching::{From, completed, is_address, runtime};
use super::input::{self, Subject};
use super::judging::{moment, opened};
use super::output::{self, BAD, GOOD, Marks, WARN, findings, row, show, show_json};
use super::{Outcome, probe};
use crate::clock::Clock;
use crate::evidence::{Endorsement, Endorsements, Evidence, Timestamp};
use crate::platform;
use crate::policy::{References, Revocation};
use crate::proxy::appraisal::items;
use crate::refusal::{Denied, Finding, Reason};
use crate::tls::Tier;
use crate::verify::memo::NoMemo;
use crate::verify::{Appraiser, Grounds, Standing};

/// How a machine's TCB stands, today and under the vendor's next data set.
///
/// The machine is an attested server (HOST:PORT) or saved evidence. What its verdict needs and did not come along is
/// fetched from the sources named; without any, nothing is fetched. Exit code 0: nothing is short, 1: something is, today
/// or with --early under the announced data set, 3: it could not be told.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An attested server, a file or a folder with evidence.
    #[arg(value_name = "HOST:PORT|FILE")]
    subject: String,
    #[command(flatten)]
    from: From,
    /// Also under the data set that the vendor has announced for later, where a source has it; its signature is checked as
    /// today's is.
    #[arg(long)]
    early: bool,
    /// Judge as of this moment (RFC 3339) instead of now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let now = moment(args.at.as_deref())?;
    let named = args.from.read(&[])?;
    let appraiser = named.genuine();
    let (today, early) = match presented(&args.subject)? {
        Err(denied) => (Err(denied), None),
        Ok((evidence, along)) => runtime()?.block_on(async {
            let (collateral, _) = named.start(&Clock::standing_at(now))?;
            let endorsements = completed(&collateral, &evidence, &along, now).await?;
            let today = standing(&appraiser, &evidence, &endorsements, now);
            let early = match args.early {
                true => {
                    let announced = sooner(&collateral, &evidence, &endorsements).await;
                    Some(announced.and_then(|endorsements| standing(&appraiser, &evidence, &endorsements, now)))
                }
                false => None,
            };
            anyhow::Ok((today, early))
        })?,
    };
    if args.json {
        show_json(&json!({ "subject": args.subject, "at": now.to_string(), "today": document(&today), "early": early.as_ref().map(document) }))?;
    } else {
        let mut text = said(&args.subject, &today);
        if let Some(early) = &early {
            text += &said(under(&today, early), early);
        }
        show(&text)?;
    }
    let outcome = |standing: &Result<Standing, Denied>| match standing {
        Ok(standing) if standing.short.is_empty() => Outcome::Done,
        Ok(_) => Outcome::Refused,
        Err(denied) => Outcome::of_denied(denied),
    };
    Ok(early.iter().map(outcome).fold(outcome(&today), Outcome::max))
}

/// How the announced data set is called. Between two recoveries Intel announces none: it gives today's.
fn under(today: &Result<Standing, Denied>, early: &Result<Standing, Denied>) -> &'static str {
    match (today, early) {
        (Ok(today), Ok(early)) if today.edition == early.edition => "under the announced data set, which is today's",
        _ => "under the announced data set",
    }
}

/// The evidence of a server or a file, with what came along.
fn presented(subject: &str) -> anyhow::Result<Result<(Evidence, Endorsements), Denied>> {
    if is_address(subject) {
        return Ok(probe::presented(subject, Tier::Session)?.map(|presented| (presented.tee, presented.endorsements)));
    }
    let mut subjects = input::subjects(&[subject])?;
    anyhow::ensure!(subjects.len() == 1, "{subject} has several pieces of evidence: name one");
    let Subject { form, endorsements, .. } = subjects.remove(0);
    let at_hand = opened(form, endorsements)?;
    Ok(Ok((at_hand.evidence, at_hand.endorsements)))
}

fn standing(appraiser: &Appraiser, evidence: &Evidence, endorsements: &Endorsements, now: Timestamp) -> Result<Standing, Denied> {
    let Some(platform) = platform::of_evidence(evidence) else {
        return Finding::new(Reason::EvidenceUnsupported, "tee.type", "a platform of this build", evidence.media_type.clone()).refuse();
    };
    let grounds = Grounds { anchors: &appraiser.anchors, revocation: Revocation::WhenPresent, references: References::Required, memo: &NoMemo, now };
    platform.verifier.standing(evidence, endorsements, &grounds)
}

/// The endorsements with the vendor's announced data in place of today's, as far as a source has it.
async fn sooner(collateral: &crate::collateral::Collateral, evidence: &Evidence, today: &Endorsements) -> Result<Endorsements, Denied> {
    let mut early: Vec<Endorsement> = Vec::new();
    let platform = platform::of_evidence(evidence);
    let needed = platform.map(|platform| platform.verifier.needs(evidence).map(|ids| items(platform, ids))).transpose()?.unwrap_or_default();
    for mut item in needed {
        if !matches!(item.id.name, "tcb_info" | "qe_identity") {
            continue;
        }
        item.id.path += if item.id.path.contains('?') { "&update=early" } else { "?update=early" };
        for source in collateral.sources().filter(|source| source.serves(&item)) {
            if let Ok(read) = collateral.unvetted(source, &item).await {
                early.push(read.endorsement);
                break;
            }
        }
    }
    if early.is_empty() {
        return Finding::new(Reason::CollateralUnavailable, "tcb_info", "a data set that is announced for later", "none at any source")
            .fix("only Intel publishes one: name a source that has it, such as --source vendor")
            .refuse();
    }
    Ok(early.into_iter().chain(today.iter().cloned()).collect())
}

fn said(subject: &str, standing: &Result<Standing, Denied>) -> String {
    let marks = Marks::here();
    let mut out = String::new();
    match standing {
        Err(denied) => {
            let _ = writeln!(out, "{WARN}{} not judged{WARN:#}: {}", marks.unknown, output::printable(subject));
            out += &findings(denied.findings(), output::Detail::Short, marks);
        }
        Ok(Standing { status, edition, until, advisories, short }) => {
            let (style, mark) = if short.is_empty() { (GOOD, marks.good) } else { (BAD, marks.bad) };
            let _ = writeln!(out, "{style}{mark} {status}{style:#}: {}", output::printable(subject));
            row(&mut out, "judged by", edition);
            if let Some(until) = until {
                row(&mut out, "until", &until.to_string());
            }
            if !advisories.is_empty() {
                row(&mut out, "open to", &advisories.join(", "));
            }
            for short in short {
                let _ = writeln!(out, "  {}", output::printable(&short.component));
                let _ = writeln!(out, "    short by  {} (has {}, needs {})", short.needed.saturating_sub(short.found), short.found, short.needed);
                let _ = writeln!(out, "    source    {}", short.source);
                let _ = writeln!(out, "    raised by {}", short.raised_by);
            }
        }
    }
    out
}

fn document(standing: &Result<Standing, Denied>) -> Value {
    match standing {
        Err(denied) => json!({ "reason": denied.reason().code(), "findings": denied.findings().map(output::finding_json).collect::<Vec<_>>() }),
        Ok(Standing { status, edition, until, advisories, short }) => {
            let short = short.iter().map(|short| {
                json!({ "component": short.component, "found": short.found, "needed": short.needed, "source": short.source, "raised_by": short.raised_by })
            });
            json!({
                "status": status, "edition": edition, "until": until.map(|until| until.to_string()), "advisories": advisories,
                "short": short.collect::<Vec<_>>(),
            })
        }
    }
}
