//! `portcullis check`: a configuration and its policies, offline, by the code that starts the proxy.

use std::path::PathBuf;

use serde_json::json;

use super::{Outcome, output};
use crate::config::Config;

/// What can be typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// One JSON document in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let loaded = Config::load(&args.config);
    if args.json {
        let document = match &loaded {
            Ok(config) => {
                json!({ "ok": true, "insecure": config.insecure, "warnings": config.warnings.iter().map(crate::config::Report::warnings).collect::<Vec<_>>() })
            }
            Err(error) => json!({ "ok": false, "errors": error.to_string() }),
        };
        output::show_json(&document)?;
        return Ok(if loaded.is_ok() { Outcome::Done } else { Outcome::Unusable });
    }
    let config = loaded?;
    for warning in &config.warnings {
        output::note(&warning.warnings());
    }
    let (listeners, upstreams, policies) = (config.listeners.len(), config.upstreams.len(), config.policies.len());
    let mut text = format!("ok: {listeners} listeners, {upstreams} upstreams, {policies} policies\n");
    for (name, policy) in &config.policies {
        text.push_str(&format!("policy {name}: sha256:{} ({} entries)\n", data_encoding::HEXLOWER.encode(&policy.policy.digest), policy.policy.accept.len()));
    }
    for option in &config.insecure {
        text.push_str(&format!("INSECURE: {option} is in force\n"));
    }
    output::show(&text)?;
    Ok(Outcome::Done)
}
