//! `portcullis explain`: what a refusal code means.

use std::fmt::Write as _;

use anyhow::bail;
use serde_json::json;

use super::Outcome;
use super::output::{BAD, show, show_json, wrapped};
use crate::diagnostic::nearest;
use crate::refusal::{Reason, Turn};

/// Say what a refusal code means and what to do about it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The code; without it, all of them are listed.
    code: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let reasons = match args.code.as_deref() {
        None => Reason::ALL.to_vec(),
        Some(code) => vec![find(code)?],
    };
    match (args.json, reasons.as_slice()) {
        (true, [only]) => show_json(&document(*only))?,
        (true, all) => show_json(&all.iter().copied().map(document).collect())?,
        (false, [only]) => show(&page(*only))?,
        (false, all) => show(&list(all))?,
    }
    Ok(Outcome::Done)
}

fn find(code: &str) -> anyhow::Result<Reason> {
    let lower = code.to_ascii_lowercase();
    let Some(reason) = Reason::find(&lower) else {
        match nearest(&lower, Reason::ALL.iter().map(|reason| reason.code())) {
            Some(near) => bail!("no code {code:?}: did you mean {near}? `portcullis explain` lists them"),
            None => bail!("no code {code:?}: `portcullis explain` lists them"),
        }
    };
    Ok(reason)
}

fn page(reason: Reason) -> String {
    let mut out = format!("{BAD}{}{BAD:#}: {}\n\n", reason.code(), reason.summary());
    for line in wrapped(reason.explanation(), 100) {
        let _ = writeln!(out, "{line}");
    }
    let turn = match reason.turn() {
        Turn::Operator => "the operator of this side",
        Turn::Peer => "the peer: no setting here makes this acceptable as it is, unless the policy has a key for it",
        Turn::Vendor => "the vendor, or whoever serves its collateral",
    };
    let _ = write!(out, "\nwhose turn  {turn}\n");
    let exit = if reason.undecided() { "3 (undecided: a later try may succeed)" } else { "1 (refused)" };
    let _ = writeln!(out, "exit code   {exit}");
    out
}

fn list(reasons: &[Reason]) -> String {
    let wide = reasons.iter().map(|reason| reason.code().len()).max().unwrap_or_default();
    reasons.iter().map(|reason| format!("{BAD}{:<wide$}{BAD:#}  {}\n", reason.code(), reason.summary())).collect()
}

fn document(reason: Reason) -> serde_json::Value {
    json!({
        "reason": reason.code(),
        "summary": reason.summary(),
        "explanation": reason.explanation(),
        "turn": match reason.turn() { Turn::Operator => "operator", Turn::Peer => "peer", Turn::Vendor => "vendor" },
        "undecided": reason.undecided(),
    })
}
