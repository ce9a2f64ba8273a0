//! `portcullis run`: the proxy in the foreground, until it is told to stop.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::log::Log;
use super::{Outcome, output};
use crate::app::App;
use crate::app::attester::NoAttester;
use crate::app::descriptors;
use crate::app::watched::Watched;
use crate::attester::batch::QuoteError;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::proxy::passed::Passed;
use crate::tls::IdentityError;

/// What can be typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    serve(&|| Config::load(&args.config), Some(&args.config))
}

/// Runs a configuration until SIGTERM or SIGINT, then drains; a second signal cuts the draining short. The configuration
/// is read again on SIGHUP and when one of its files has changed.
pub(super) fn serve(load: &dyn Fn() -> Result<Config, ConfigError>, file: Option<&Path>) -> anyhow::Result<Outcome> {
    let config = load()?;
    // As they were read: what changes while everything starts is read again.
    let mut watched = Watched::new(files(file, &config));
    // Before anything else is opened, and while there is one thread.
    #[allow(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
    let passed = Passed::from_environment(|name| std::env::var_os(name))?;
    // First made, last dropped: what stops the program is written too.
    let log = Log::start(config.log)?;
    descriptors::raise();
    for warning in &config.warnings {
        output::note(&warning.warnings());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        // Before anything listens, so that a signal during the start is not lost.
        let mut terminate = signal(SignalKind::terminate()).context("no signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no signals")?;
        let mut hangup = signal(SignalKind::hangup()).context("no signals")?;
        let app = match App::start_passed(&config, Clock::system(), passed).await {
            Ok(app) => app,
            Err(error) => return refused(error),
        };
        log.count_into(app.metrics().log_lines_dropped().clone());
        for (name, address) in app.addresses() {
            tracing::info!(target: "listener", listener = name, %address, "listening");
        }
        if let Some(address) = app.observed_at() {
            tracing::info!(target: "observe", %address, "health and metrics");
        }
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let outcome = loop {
            tokio::select! {
                _ = terminate.recv() => break Outcome::Done,
                _ = interrupt.recv() => break Outcome::Interrupted,
                // What was edited before the signal is read once.
                _ = hangup.recv() => { watched.look(); }
                () = watched.changed() => {}
            }
            let read = tokio::task::block_in_place(load);
            if let Ok(config) = &read {
                for warning in &config.warnings {
                    // By the log: what reads standard error may stand still.
                    tracing::warn!(target: "reload", warning = warning.warnings());
                }
                watched.follow(files(file, config));
            }
            app.reload(read).await;
        };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!(connections = app.connections(), "draining");
        tokio::select! {
            drained = app.drain() => tracing::info!(open = drained.open, cut = drained.cut, "stopped"),
            // Whoever asks twice does not want to wait for the grace.
            _ = terminate.recv() => return Ok(Outcome::Terminated),
            _ = interrupt.recv() => return Ok(Outcome::Interrupted),
        }
        Ok(outcome)
    })
}

const WITHOUT: &str = "to try it without a TEE: portcullis demo; or write [identity] provider = \"simulator\", which only policies with \
insecure_roots = [\"simulator\"] accept. What this machine has: portcullis doctor";
const WITHOUT_EITHER: &str = "to try it without a TEE, take a build with the simulator, which this one is not. What this machine has: portcullis doctor";

/// What is read again when it changes: the configuration file, policies, the deny list.
fn files(file: Option<&Path>, config: &Config) -> Vec<PathBuf> {
    let policies = config.policies.values().map(|policy| policy.file.clone());
    let deny = config.deny.iter().flat_map(|deny| [deny.file.clone(), deny.signature()]);
    file.map(Path::to_owned).into_iter().chain(policies).chain(deny).collect()
}

/// What keeps the proxy from starting is the operator's to mend, but for a TEE that gives no evidence and a certificate
/// of ours that peers would refuse: these have outcomes of their own.
fn refused(error: anyhow::Error) -> anyhow::Result<Outcome> {
    let outcome = match (error.downcast_ref::<NoAttester>(), error.downcast_ref::<IdentityError>()) {
        (Some(none), _) if none.tried().any(|(_, why)| why.transient) => Outcome::Undecided,
        (Some(_), _) => Outcome::NoTee,
        (_, Some(IdentityError::Quote(QuoteError::Busy))) => Outcome::Undecided,
        (_, Some(IdentityError::Quote(QuoteError::Unavailable(why)))) => Outcome::of_unavailable(why),
        (_, Some(IdentityError::Check(denied))) => Outcome::of_denied(denied),
        _ => return Err(error),
    };
    output::complain(&error);
    if outcome == Outcome::NoTee {
        output::note(if cfg!(feature = "simulator") { WITHOUT } else { WITHOUT_EITHER });
    }
    Ok(outcome)
}
