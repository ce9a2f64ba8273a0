//! `portcullis run`: the proxy in the foreground, until it is told to stop.

use std::path::PathBuf;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{Outcome, output};
use crate::app::App;
use crate::app::attester::NoAttester;
use crate::clock::Clock;
use crate::config::{Config, LogFormat};

/// What can be typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    serve(&Config::load(&args.config)?)
}

/// Runs a configuration until SIGTERM or SIGINT, then drains.
pub(super) fn serve(config: &Config) -> anyhow::Result<Outcome> {
    log(config.log)?;
    for warning in &config.warnings {
        output::note(&warning.warnings());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        // Before anything listens, so that a signal during the start is not lost.
        let mut terminate = signal(SignalKind::terminate()).context("no signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no signals")?;
        let app = match App::start(config, Clock::system()).await {
            Ok(app) => app,
            Err(error) => return refused(error),
        };
        for (name, address) in app.addresses() {
            tracing::info!(target: "listener", listener = name, %address, "listening");
        }
        if let Some(address) = app.observed_at() {
            tracing::info!(target: "observe", %address, "health and metrics");
        }
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!(connections = app.connections(), "draining");
        let drained = app.drain().await;
        tracing::info!(open = drained.open, cut = drained.cut, "stopped");
        Ok(Outcome::Done)
    })
}

/// No TEE is an outcome of its own; everything else that keeps the proxy from starting is the operator's to mend.
fn refused(error: anyhow::Error) -> anyhow::Result<Outcome> {
    if error.downcast_ref::<NoAttester>().is_none() {
        return Err(error);
    }
    output::complain(&error);
    Ok(Outcome::NoTee)
}

/// Starts the log on standard error. A reader that went away, or a full disk behind it, costs lines and nothing else.
fn log(settings: crate::config::Log) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(settings.level).context("log level")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log does not start: {error}"))
}
