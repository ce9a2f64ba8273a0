//! `portcullis evidence`: this machine's own evidence, made and shown.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::output::{BAD, Detail, GOOD, Marks, row, show, show_json};
use super::places::Typed;
use super::{Outcome, saving, verify};
use crate::app::attester;
use crate::attester::{Attester, Quote, Unavailable};
use crate::evidence::{Challenge, Claims};
use crate::platform::PLATFORMS;

/// Make evidence on this machine, in a TEE, and show it.
///
/// The report data is a fixed digest that no connection uses: this evidence speaks for no key. Without a TEE the exit
/// code is 4 and each way that was tried is named; the simulator is never taken instead.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write the evidence and its endorsements into this folder, in the shape that `verify` reads.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    places: Typed,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Show whole values.
    #[arg(long, short)]
    verbose: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let attester = match attester::detect(&args.places.places(), None) {
        Ok(attester) => attester,
        Err(none_works) => {
            let tried: Vec<Tried> = none_works.tried().map(|(provider, way)| (provider, way.clone())).collect();
            let head = none_works.to_string();
            return none(args, head.lines().next().unwrap_or_default(), &tried);
        }
    };
    let quote = match attester.attest(&Challenge::of(NO_KEY)) {
        Ok(quote) => quote,
        Err(unavailable) => {
            let outcome = Outcome::of_unavailable(&unavailable);
            none(args, "no TEE of this machine gives evidence", &[(attester.provider(), unavailable)])?;
            return Ok(outcome);
        }
    };
    let saved = args.out.as_deref().map(|folder| saving::save(folder, &quote.evidence, &quote.endorsements)).transpose()?;
    made(args, &*attester, &quote, saved.as_deref())?;
    Ok(Outcome::Done)
}

/// A way that was tried, by its name, and what stands in its way.
type Tried = (&'static str, Unavailable);

fn none(args: &Args, head: &str, tried: &[Tried]) -> anyhow::Result<Outcome> {
    // Several platforms have the same way.
    let mut told = BTreeSet::new();
    let tried: Vec<&Tried> = tried.iter().filter(|(provider, way)| told.insert((*provider, &way.what, &way.why))).collect();
    if args.json {
        let tried: Vec<Value> = tried
            .iter()
            .map(|(provider, way)| json!({ "provider": provider, "what": way.what, "why": way.why, "fix": way.fix, "transient": way.transient }))
            .collect();
        show_json(&json!({ "evidence": null, "tried": tried }))?;
        return Ok(Outcome::NoTee);
    }
    let mut out = format!("{BAD}{} no evidence{BAD:#}: {head}\n", Marks::here().bad);
    for (provider, way) in &tried {
        let _ = writeln!(out, "  {provider}");
        for (name, text) in [("tried", &way.what), ("found", &way.why), ("fix", &way.fix)] {
            row(&mut out, name, text);
        }
    }
    if tried.is_empty() {
        out.push_str("  this build knows no way to make evidence here\n");
    }
    out.push_str("  to try things out without a TEE: portcullis simulate, portcullis demo\n");
    show(&out)?;
    Ok(Outcome::NoTee)
}

fn made(args: &Args, attester: &dyn Attester, quote: &Quote, saved: Option<&[String]>) -> anyhow::Result<()> {
    let platform = PLATFORMS.iter().find(|platform| platform.name == attester.platform());
    let claims = platform.and_then(|platform| platform.verifier.read(&quote.evidence, &quote.endorsements).ok()).unwrap_or_else(Claims::default);
    let endorsements: Vec<_> = quote.endorsements.iter().map(|endorsement| endorsement.name.as_str()).collect();
    if args.json {
        return show_json(&json!({
            "evidence": data_encoding::BASE64.encode(&quote.evidence.bytes),
            "media_type": quote.evidence.media_type,
            "platform": attester.platform(),
            "provider": attester.provider(),
            "endorsements": endorsements,
            "claims": claims,
            "files": saved,
        }));
    }
    let (detail, marks) = (Detail::of(args.verbose), Marks::here());
    let mut out = format!("{GOOD}{} evidence made{GOOD:#}: {} by {}\n", marks.good, attester.platform(), attester.provider());
    row(&mut out, "came with", &if endorsements.is_empty() { "no endorsements".to_owned() } else { endorsements.join(", ") });
    out.push_str(&verify::claim_table(&claims, detail, marks));
    if let (Some(files), Some(folder)) = (saved, &args.out) {
        let _ = writeln!(out, "written to {}: {}", folder.display(), files.join(", "));
    }
    show(&out)
}

/// What the report data is the SHA-512 of: bound to nothing.
const NO_KEY: &[u8] = b"PORTCULLIS/1 evidence shown to its owner, bound to no key";
