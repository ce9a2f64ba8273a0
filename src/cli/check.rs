//! `portcullis check`: a configuration and its policies, offline, by the code that starts the proxy.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Outcome, fetching, output};
use crate::app::{self, attester, descriptors};
use crate::attester::Places;
use crate::clock::Clock;
use crate::config::{Bind, Config, Policy, Provider, Report};

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
    let loaded = load(&args.config);
    if args.json {
        let document = match &loaded {
            Ok(config) => document(config),
            Err(error) => json!({ "ok": false, "errors": format!("{error:#}") }),
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
    for name in passed(&config) {
        output::note(&format!("note: systemd:{name} is looked for at the start: a .socket unit has to pass it, with FileDescriptorName={name}"));
    }
    if let Some(evidence) = evidence(&config) {
        output::note(&evidence);
    }
    Ok(Outcome::Done)
}

/// The configuration, with files that the start would take.
fn load(file: &Path) -> anyhow::Result<Config> {
    let config = Config::load(file)?;
    fetching::runtime()?.block_on(app::presentable(&config, &Clock::system()))?;
    Ok(config)
}

/// What this machine would make evidence by; the one that the configuration is for may be another.
fn evidence(config: &Config) -> Option<String> {
    let (wanted, written) = match &config.identity.as_ref()?.provider {
        Provider::Auto => (None, "auto"),
        Provider::Named(name) => (Some(*name), *name),
        Provider::Simulator(_) => return None,
    };
    Some(match attester::detect(&Places::default(), wanted) {
        Ok(attester) => format!("note: on this machine provider = \"{written}\" is {} by {}", attester.platform(), attester.provider()),
        Err(none) => {
            let why = none.to_string();
            format!("note: on this machine provider = \"{written}\" finds nothing: {} (portcullis doctor)", why.lines().next().unwrap_or_default())
        }
    })
}

/// The sockets that systemd has to pass, by name: nothing is known about them here.
fn passed(config: &Config) -> Vec<&str> {
    let names = config.listeners.iter().map(|listener| &listener.bind);
    names.filter_map(|bind| if let Bind::Systemd(name) = bind { Some(name.as_str()) } else { None }).collect()
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
        "evidence": evidence(config),
        "sockets": passed(config),
        "warnings": config.warnings.iter().map(Report::warnings).chain(lacking(config)).collect::<Vec<_>>(),
    })
}

fn text(config: &Config) -> String {
    let listeners = output::counted(config.listeners.len(), "listener", "listeners");
    let upstreams = output::counted(config.upstreams.len(), "upstream", "upstreams");
    let policies = output::counted(config.policies.len(), "policy", "policies");
    let mut text = format!("ok: {listeners}, {upstreams}, {policies}\nconfig: {}\n", output::digest(&config.digest));
    for (name, policy) in &config.policies {
        let entries = output::counted(policy.policy.accept.len(), "entry", "entries");
        let _ = writeln!(text, "policy {name}: {} ({entries})", output::digest(&policy.policy.digest));
    }
    for option in &config.insecure {
        let _ = writeln!(text, "INSECURE: {option} is in force");
    }
    text
}
