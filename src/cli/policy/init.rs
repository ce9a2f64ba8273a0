//! `portcullis policy init`: a file to begin with. It accepts nobody until something is added.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::edit;
use crate::cli::Outcome;
use crate::cli::output::note;

/// Write a policy file that accepts nobody yet.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The new file; an existing one is left alone.
    file: PathBuf,
    /// What logs and metrics call the policy; the file's name without its ending when not said.
    #[arg(long)]
    name: Option<String>,
    /// Trust the simulator's published roots too: for laboratories, anybody can forge evidence under them.
    #[arg(long)]
    insecure_simulator: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = &args.file;
    let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or_else(stem).context("the file has no name")?;
    if path.exists() {
        bail!("{} is there already: `portcullis policy add` extends it, `portcullis policy lint` checks it", path.display());
    }
    let shown = path.display();
    let mut policy = json!({
        "version": 1,
        "name": name,
        "note": [
            "Keys called note are for people; the program does not read them.",
            "accept: a peer must fit one entry wholly. While the list is empty, everyone is refused.",
            format!("Add what you trust from its evidence: portcullis policy add {shown} --id NAME --from FILE_OR_FOLDER"),
            "deny: what is refused whatever accept says, such as { \"measurement\": \"<hex>\", \"reason\": \"withdrawn\" }.",
            "max_evidence_age: how old evidence in a certificate may be. clock_skew: how far two clocks may differ.",
            format!("Check with: portcullis policy lint {shown}. Read it back in words with: portcullis policy explain {shown}"),
        ],
        "accept": [],
        "deny": [],
        "max_evidence_age": "1h",
        "clock_skew": "2m",
    });
    if args.insecure_simulator {
        policy["insecure_roots"] = json!(["simulator"]);
    }
    edit::write(path, &format!("{policy:#}\n"))?;
    note(&format!("{shown} written: it refuses everyone. Next: portcullis policy add {shown} --id NAME --from FILE_OR_FOLDER"));
    Ok(Outcome::Done)
}
