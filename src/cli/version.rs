//! `portcullis version`.

use serde_json::json;

use super::Outcome;
use super::output::{show, show_json};
use crate::platform::PLATFORMS;

/// Say which build this is.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let version = env!("CARGO_PKG_VERSION");
    let platforms: Vec<_> = PLATFORMS.iter().map(|platform| platform.name).collect();
    let simulator = cfg!(feature = "simulator");
    if args.json {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        show_json(&json!({ "name": "portcullis", "version": version, "target": target, "platforms": platforms, "simulator": simulator }))?;
    } else {
        let simulator = if simulator { "with the simulator: not a production build" } else { "without the simulator" };
        show(&format!("portcullis {version}\nplatforms  {}\nbuilt      {simulator}\n", platforms.join(", ")))?;
    }
    Ok(Outcome::Done)
}
