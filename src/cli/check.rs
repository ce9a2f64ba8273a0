//! `portcullis check`: a configuration and its policies, offline, by the code that starts the proxy.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{Outcome, output};
use crate::app::descriptors;
use crate::config::{Config, Policy, Report};

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
            Ok(config) => document(config),
            Err(error) => json!({ "ok": false, "errors": error.to_string() }),
        };
        output::show_json(&document)?;
        return Ok(if loaded.is_ok() { Outcome::Done } else { Outcome::Unusable });
    }
    let config = loaded?;
    for warning in &config.warnings {
        output::note(&warning.warnings());
    }
    if let Some(lacking) = lacking(&config) {
        output::note(&format!("warning: {lacking}"));
    }
    output::show(&text(&config))?;
    Ok(Outcome::Done)
}

/// What this machine is short of for the configuration.
fn lacking(config: &Config) -> Option<String> {
    descriptors::lacking(config, descriptors::within_reach())
}

fn document(config: &Config) -> Value {
    let policy = |policy: &Policy| {
        json!({
            "file": policy.file.display().to_string(),
            "name": policy.policy.name,
            "digest": output::digest(&policy.policy.digest),
            "mode": policy.policy.mode.name(),
            "entries": policy.policy.accept.len(),
        })
    };
    json!({
        "ok": true,
        "digest": output::digest(&config.digest),
        "policies": config.policies.iter().map(|(name, read)| (name.clone(), policy(read))).collect::<Map<_, _>>(),
        "insecure": config.insecure,
        "warnings": config.warnings.iter().map(Report::warnings).chain(lacking(config)).collect::<Vec<_>>(),
    })
}

fn text(config: &Config) -> String {
    let (listeners, upstreams, policies) = (config.listeners.len(), config.upstreams.len(), config.policies.len());
    let mut text = format!("ok: {listeners} listeners, {upstreams} upstreams, {policies} policies\nconfig: {}\n", output::digest(&config.digest));
    for (name, policy) in &config.policies {
        let _ = writeln!(text, "policy {name}: {} ({} entries)", output::digest(&policy.policy.digest), policy.policy.accept.len());
    }
    for option in &config.insecure {
        let _ = writeln!(text, "INSECURE: {option} is in force");
    }
    text
}
