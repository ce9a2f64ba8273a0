//! `portcullis doctor`: what there is on this machine, what a configuration leans on, and what is wrong with either.
//!
//! A line says what was looked at, what was found and, where that is bad, what to do. What is specific to a TEE comes from
//! its platform's provider; nothing here knows one.

mod files;
mod machine;
mod sources;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::output::{BAD, DIM, GOOD, Marks, WARN, counted, printable, row, show, show_json};
use super::places::Typed;
use super::{Outcome, fetching};
use crate::app::descriptors;
use crate::clock::Clock;
use crate::config::Config;
use machine::Wanted;

/// Say what this machine has to make evidence with, and what is wrong with what a configuration needs.
///
/// Looks and asks; changes nothing and makes no evidence (`portcullis evidence` does). Exit code 0: all is good, 1: a check
/// failed, 2: the configuration has errors, 3: something could not be reached, 4: no TEE of this machine gives evidence.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also look at what this configuration leans on: sources of collateral, policies, keys, limits.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    places: Typed,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Show every way to evidence with its fix, also where another one works.
    #[arg(long, short)]
    verbose: bool,
}

/// What was found of one thing.
#[derive(Clone, Debug)]
struct Line {
    /// The part of the picture: `machine`, `collateral`.
    part: &'static str,
    /// What was looked at.
    about: String,
    state: State,
    found: String,
    /// What to do; empty where nothing is to be done.
    fix: String,
}

/// How a line is meant, from the good to the bad.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// It is as it should be.
    Good,
    /// Worth knowing.
    Note,
    /// This machine gives no evidence, and is to give some.
    NoTee,
    /// It could not be found out.
    Undecided,
    /// It is wrong.
    Bad,
}

impl State {
    const fn outcome(self) -> Outcome {
        match self {
            Self::Good | Self::Note => Outcome::Done,
            Self::NoTee => Outcome::NoTee,
            Self::Undecided => Outcome::Undecided,
            Self::Bad => Outcome::Refused,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::NoTee => "no_tee",
            Self::Undecided => "undecided",
            Self::Bad => "bad",
        }
    }
}

impl Line {
    fn new(part: &'static str, about: impl Into<String>, state: State, found: impl Into<String>) -> Self {
        Self { part, about: about.into(), state, found: found.into(), fix: String::new() }
    }

    fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: fix.into(), ..self }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let loaded = args.config.as_deref().map(Config::load).transpose();
    let wanted = match &loaded {
        Ok(Some(config)) => Wanted::by(config.identity.as_ref()),
        Ok(None) | Err(_) => Wanted::Auto,
    };
    let (mut lines, platforms) = machine::lines(&args.places.places(), wanted, args.verbose);
    lines.extend(general(loaded.as_ref().ok().and_then(Option::as_ref)));
    let mut unusable = None;
    match &loaded {
        Ok(None) => {}
        Ok(Some(config)) => {
            lines.extend(files::lines(config));
            lines.extend(fetching::runtime()?.block_on(sources::lines(config))?);
        }
        Err(error) => {
            lines.push(
                Line::new("configuration", "the file", State::Bad, format!("{} errors", counted(error.0.len(), "of its files has", "of its files have")))
                    .fix("mend what is shown below"),
            );
            unusable = Some(error.to_string());
        }
    }
    // What failed weighs most; then a machine that gives no evidence, for a later try does not help it.
    let weight = |line: &&Line| match line.state {
        State::Good | State::Note => 0,
        State::Undecided => 1,
        State::NoTee => 2,
        State::Bad => 3,
    };
    let outcome = lines.iter().max_by_key(weight).map_or(Outcome::Done, |line| line.state.outcome());
    if args.json {
        let document = |line: &Line| json!({ "part": line.part, "about": line.about, "state": line.state.name(), "found": line.found, "fix": line.fix });
        show_json(&json!({
            "ok": outcome == Outcome::Done && unusable.is_none(),
            "lines": lines.iter().map(document).collect::<Vec<Value>>(),
            "platforms": platforms,
            "errors": unusable,
        }))?;
    } else {
        show(&text(&lines))?;
        if let Some(errors) = &unusable {
            show(&format!("\n{errors}\n"))?;
        }
    }
    Ok(if unusable.is_some() { Outcome::Unusable } else { outcome })
}

fn text(lines: &[Line]) -> String {
    let marks = Marks::here();
    let (mut out, mut part) = (String::new(), "");
    for line in lines {
        if line.part != part {
            part = line.part;
            let _ = writeln!(out, "{DIM}{part}{DIM:#}");
        }
        let (style, mark) = match line.state {
            State::Good => (GOOD, marks.good),
            State::Note => (DIM, "-"),
            State::Undecided => (WARN, marks.unknown),
            State::NoTee | State::Bad => (BAD, marks.bad),
        };
        let _ = writeln!(out, "{style}{mark} {}{style:#}", printable(&line.about));
        for (name, told) in [("found", &line.found), ("fix", &line.fix)] {
            for (index, text) in told.lines().enumerate() {
                row(&mut out, if index == 0 { name } else { "" }, &printable(text));
            }
        }
    }
    out
}

/// What every process needs.
fn general(config: Option<&Config>) -> Vec<Line> {
    let clock = match Clock::system().now() {
        Ok(now) => Line::new("process", "clock", State::Good, format!("{now}, later than when this program was written")),
        Err(denied) => {
            let (found, fix) = denied.findings().next().map(|finding| (finding.found.clone(), finding.advice())).unwrap_or_default();
            Line::new("process", "clock", State::Bad, format!("{found}, before this program was written")).fix(fix)
        }
    };
    let reach = descriptors::within_reach();
    let possible = descriptors::connections(reach);
    let files = match config.and_then(|config| descriptors::lacking(config, reach)) {
        Some(lacking) => {
            let (found, fix) = lacking.split_once(": ").unwrap_or((&lacking, ""));
            Line::new("process", "open files", State::Bad, found).fix(fix)
        }
        None => Line::new("process", "open files", State::Good, format!("{reach} at most, enough for {possible} connections")),
    };
    vec![clock, files]
}
