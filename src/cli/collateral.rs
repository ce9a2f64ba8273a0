//! `portcullis collateral`: what is at hand of the vendors' certificates and lists, and how it gets to where it is needed.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use super::fetching::{self, From};
use super::judging::moment;
use super::output::{self, BAD, GOOD, Marks, WARN, show, show_json};
use super::{Outcome, policy};
use crate::app::collateral::Vouching;
use crate::clock::Clock;
use crate::collateral::{Collateral, Failure, Item, Packed, Read, Vet as _, load_bundle, write_bundle};
use crate::evidence::{EndorsementId, Timestamp};
use crate::platform::PLATFORMS;
use crate::policy::Roots;

/// What can be typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get what policies or evidence need, into the cache.
    Fetch(Common),
    /// Show what is in the cache, and until when it holds.
    Show(Common),
    /// Write what policies or evidence need, and what is in the cache, into one file for a machine without a network.
    Pack(Pack),
    /// Check a bundle: every item the vendor's, and when the first one ends.
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    from: From,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Pack {
    #[command(flatten)]
    common: Common,
    /// Where the bundle is written; its name ends in .json.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The bundle.
    bundle: PathBuf,
    /// Check as of this moment (RFC 3339) instead of now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Under the roots that this policy names.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::Fetch(common) => fetch(common),
        Command::Show(common) => shown(common),
        Command::Pack(pack) => packed(pack),
        Command::Verify(args) => verify(args),
    }
}

/// One line of what is known.
struct Line {
    key: String,
    held: Option<Read>,
    why: Vec<(String, Failure)>,
}

fn fetch(common: &Common) -> anyhow::Result<Outcome> {
    let named = common.from.read(&["vendor"])?;
    anyhow::ensure!(!named.wanted.is_empty(), "nothing is wanted: name a policy (--policy), evidence (--for) or a configuration with policies (--config)");
    fetching::runtime()?.block_on(async {
        let (collateral, wanted) = named.start(&Clock::system())?;
        let lines = got(&collateral, &wanted).await;
        told(&lines, Clock::system().now()?, common.json)
    })
}

/// Gets the items and tells what became of each.
async fn got(collateral: &Collateral, wanted: &[Item]) -> Vec<Line> {
    fetching::fetched(collateral, wanted).await;
    let shown = collateral.show();
    let line = |item: &Item| {
        let key = item.key();
        let held = shown.iter().find(|shown| shown.key == key).and_then(|shown| shown.held.clone()).map(|(read, _)| read);
        Line { key, held, why: collateral.why(item) }
    };
    wanted.iter().map(line).collect()
}

fn shown(common: &Common) -> anyhow::Result<Outcome> {
    let mut named = common.from.read(&[])?;
    // A look changes nothing.
    named.settings.sources.clear();
    fetching::runtime()?.block_on(async {
        let (collateral, _) = named.start(&Clock::system())?;
        let lines: Vec<_> =
            collateral.show().into_iter().map(|shown| Line { key: shown.key, held: shown.held.map(|(read, _)| read), why: shown.failed }).collect();
        if lines.is_empty() && !common.json {
            show("nothing is kept here: name the cache with --cache DIR, or a configuration with collateral.cache\n")?;
        }
        told(&lines, Clock::system().now()?, common.json)
    })
}

fn packed(args: &Pack) -> anyhow::Result<Outcome> {
    let named = args.common.from.read(&["vendor"])?;
    fetching::runtime()?.block_on(async {
        let now = Clock::system().now()?;
        let (collateral, wanted) = named.start(&Clock::system())?;
        let lines = got(&collateral, &wanted).await;
        let whole = collateral.show().into_iter().filter_map(|shown| {
            let read = shown.held.filter(|(read, _)| read.window.holds(now))?.0;
            let host = shown.key.find("://")?.checked_add(3)?;
            let (service, path) = shown.key.split_at_checked(host.checked_add(shown.key.get(host..)?.find('/')?)?)?;
            Some(Packed { service: service.to_owned(), path: path.to_owned(), read })
        });
        let bundle: Vec<Packed> = whole.collect();
        anyhow::ensure!(!bundle.is_empty(), "there is nothing to pack: name a cache, a policy or evidence");
        std::fs::write(&args.out, write_bundle(&bundle, now)).with_context(|| format!("cannot write {}", args.out.display()))?;
        let first = bundle.iter().map(|packed| packed.read.window.until).min();
        output::note(&format!("{} in {}; the first ends {}", output::counted(bundle.len(), "item", "items"), args.out.display(), first.unwrap_or(now)));
        told(&lines, now, args.common.json)
    })
}

fn verify(args: &Verify) -> anyhow::Result<Outcome> {
    let now = moment(args.at.as_deref())?;
    let loaded = args.policy.as_deref().map(policy::load).transpose()?;
    let policies: Vec<_> = loaded.iter().map(|loaded| &loaded.appraiser.policy).collect();
    let vouching = Vouching::by(&policies, Roots::Vendor);
    let bundle = load_bundle(&args.bundle).map_err(anyhow::Error::msg)?;
    let lines: Vec<Line> = bundle.iter().map(|packed| checked(packed, &bundle, &vouching, now)).collect();
    told(&lines, now, args.json)
}

/// One item of a bundle, judged with the others at hand.
fn checked(packed: &Packed, bundle: &[Packed], vouching: &Vouching, now: Timestamp) -> Line {
    let names = PLATFORMS.iter().flat_map(|platform| platform.saved.endorsements).copied();
    let key = format!("{}{}", packed.service, packed.path);
    let others = |id: &EndorsementId| {
        let found = bundle.iter().find(|other| other.service == packed.service && other.path == id.path);
        found.map(|other| other.read.endorsement.clone())
    };
    let verdict = names.into_iter().find(|name| *name == packed.read.endorsement.name).map(|name| {
        let item = Item { service: packed.service.clone(), id: EndorsementId { name, path: packed.path.clone() } };
        vouching.vet(&item, &packed.read.endorsement, &others, now)
    });
    let why = match verdict {
        Some(Ok(())) => Vec::new(),
        Some(Err(refused)) => vec![("the bundle".to_owned(), Failure::Unusable(format!("{refused:?}")))],
        None => vec![("the bundle".to_owned(), Failure::Unusable(format!("no platform needs a {}", packed.read.endorsement.name)))],
    };
    Line { key, held: Some(packed.read.clone()), why }
}

/// Shows the lines; what is missing, ended or refused decides the outcome.
fn told(lines: &[Line], now: Timestamp, as_json: bool) -> anyhow::Result<Outcome> {
    let standing = |line: &Line| match &line.held {
        Some(read) if !read.window.holds(now) => ("ended", Outcome::Undecided),
        Some(_) if !line.why.is_empty() => ("refused", Outcome::Refused),
        Some(_) => ("current", Outcome::Done),
        None => ("missing", Outcome::Undecided),
    };
    if as_json {
        let items: Vec<Value> = lines.iter().map(|line| document(line, standing(line).0)).collect();
        let first = lines.iter().filter_map(|line| Some(line.held.as_ref()?.window.until)).min();
        show_json(&json!({ "at": now.to_string(), "first_end": first.map(|first| first.to_string()), "items": items }))?;
    } else {
        let marks = Marks::here();
        let mut text = String::new();
        for line in lines {
            let (style, mark) = match standing(line).1 {
                Outcome::Done => (GOOD, marks.good),
                Outcome::Undecided => (WARN, marks.unknown),
                _ => (BAD, marks.bad),
            };
            let held = line.held.as_ref().map_or_else(String::new, |read| format!("  {} to {}", read.window.from, read.window.until));
            let _ = writeln!(text, "{style}{mark} {}{style:#} {}{held}", standing(line).0, output::printable(&line.key));
            for (source, failure) in &line.why {
                let _ = writeln!(text, "    {source}: {}", output::printable(&failure.to_string()));
            }
        }
        show(&text)?;
    }
    Ok(lines.iter().map(|line| standing(line).1).max().unwrap_or(Outcome::Done))
}

fn document(line: &Line, standing: &str) -> Value {
    let why: Vec<Value> = line.why.iter().map(|(source, failure)| json!({ "source": source, "kind": failure.kind(), "why": failure.to_string() })).collect();
    json!({
        "item": line.key,
        "standing": standing,
        "name": line.held.as_ref().map(|read| read.endorsement.name.clone()),
        "from": line.held.as_ref().map(|read| read.window.from.to_string()),
        "until": line.held.as_ref().map(|read| read.window.until.to_string()),
        "failed": why,
    })
}
