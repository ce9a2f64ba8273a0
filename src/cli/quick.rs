//! `portcullis server` and `portcullis client`: a sidecar without a file, by the configuration that a file would say.

use std::path::PathBuf;

use super::{Outcome, output, run};
use crate::config::Config;

/// What can be typed.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// Where attested TLS comes in.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: String,
    /// The plain service behind it: HOST:PORT or unix:PATH.
    #[arg(long, value_name = "TARGET")]
    target: String,
    /// Let only clients in that fit this policy. Each of its entries names chips (`chip_id`): what runs is not who it is.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A name of this side; may be repeated.
    #[arg(long = "name", value_name = "DNS", default_value = "localhost")]
    names: Vec<String>,
    /// Where evidence comes from: auto, simulator, or one way by its name, as in `[identity]` `provider`.
    #[arg(long, default_value = "auto")]
    provider: String,
    /// Print the equivalent configuration file and stop.
    #[arg(long)]
    print_config: bool,
}

/// What can be typed.
#[derive(Debug, clap::Args)]
pub(super) struct ClientArgs {
    /// Where the local application connects: ADDRESS:PORT or unix:PATH.
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    /// The attested server: HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    target: String,
    /// What the server must be.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Print the equivalent configuration file and stop.
    #[arg(long)]
    print_config: bool,
}

pub(super) fn server(args: &ServerArgs) -> anyhow::Result<Outcome> {
    let target = with_scheme(&args.target, "tcp");
    let names: Vec<_> = args.names.iter().map(|name| quoted(name)).collect();
    let mut text = format!(
        "version = 1\n\n[identity]\nprovider = {}\nnames = [{}]\n\n[[listener]]\nname = \"in\"\nbind = {}\ncertificate = \"attested\"\nupstream = \"app\"\n",
        quoted(&args.provider),
        names.join(", "),
        quoted(&args.listen),
    );
    if args.policy.is_some() {
        text.push_str("clients = \"attested\"\npolicy = \"clients\"\n");
    }
    text.push_str(&format!("\n[[upstream]]\nname = \"app\"\ntargets = [{}]\n", quoted(&target)));
    if let Some(policy) = &args.policy {
        text.push_str(&format!("\n[policy.clients]\nfile = {}\n", quoted(&policy.display().to_string())));
    }
    start(&text, args.print_config)
}

pub(super) fn client(args: &ClientArgs) -> anyhow::Result<Outcome> {
    let text = format!(
        "version = 1\n\n[[listener]]\nname = \"out\"\nbind = {}\nupstream = \"server\"\n\n[[upstream]]\nname = \"server\"\ntargets = [{}]\nattested = {{ policy = \"server\" }}\n\n[policy.server]\nfile = {}\n",
        quoted(&args.listen),
        quoted(&with_scheme(&args.target, "tls")),
        quoted(&args.policy.display().to_string()),
    );
    start(&text, args.print_config)
}

fn start(text: &str, print: bool) -> anyhow::Result<Outcome> {
    let load = || Config::parse("the command line", text, std::path::Path::new("."));
    if print {
        load()?;
        output::show(text)?;
        return Ok(Outcome::Done);
    }
    run::serve(&load, None)
}

/// The target as a configuration file writes it.
fn with_scheme(target: &str, scheme: &str) -> String {
    if target.starts_with("unix:") || target.contains("://") { target.to_owned() } else { format!("{scheme}://{target}") }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
