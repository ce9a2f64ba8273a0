//! The command line: what can be typed, and the way from a subcommand to an exit code.
//!
//! Results go to stdout, notes and errors to stderr. Each subcommand is a file of its own under `cli/`; it returns an
//! [`Outcome`] or an error, and an error ends in exit code 2.

mod check;
mod collateral;
mod completions;
#[cfg(feature = "simulator")]
mod demo;
mod doctor;
mod evidence;
mod explain;
mod fetching;
mod input;
mod inspect;
mod judging;
mod log;
mod logged;
mod measure;
mod output;
mod places;
mod policy;
mod probe;
mod quick;
mod reference;
mod run;
mod saving;
#[cfg(feature = "simulator")]
mod simulate;
mod tcb;
mod verify;
mod version;

use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory as _, Parser, Subcommand};

pub use output::Outcome;
pub use policy::reference::policy_reference;
pub use reference::command_reference;

/// An attested TLS proxy: not one byte is forwarded before the peer's TEE evidence is verified.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, propagate_version = true, disable_help_subcommand = true, after_help = EXIT_CODES)]
struct Cli {
    /// Colours: by the terminal and NO_COLOR, CLICOLOR, CLICOLOR_FORCE; or said here.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 accepted or done, 1 refused, 2 usage, configuration or unreadable input, \
3 undecided (something needed is missing; try later), 4 no TEE on this machine.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy that a configuration file describes.
    Run(run::Args),
    /// Run an attested server sidecar without a file.
    Server(quick::ServerArgs),
    /// Run a client sidecar without a file.
    Client(quick::ClientArgs),
    /// Check a configuration file and its policies, offline.
    Check(check::Args),
    /// Connect to a peer, show what it presents and say what a policy makes of it.
    Probe(probe::Args),
    /// Judge saved evidence, with no connection.
    Verify(verify::Args),
    /// Show what is in evidence, certificates and revocation lists; judge nothing.
    Inspect(inspect::Args),
    /// Say how a machine's firmware and microcode stand, what they are short of, and what raises them.
    Tcb(tcb::Args),
    /// Fetch, show, pack and check vendors' certificates and revocation lists.
    Collateral(collateral::Args),
    /// Say what a refusal code means and what to do about it.
    Explain(explain::Args),
    /// Say what this machine has to make evidence with, and what is wrong with what a configuration needs.
    Doctor(doctor::Args),
    /// Make evidence on this machine, in a TEE, and show it.
    Evidence(evidence::Args),
    /// Compute from an image's files what hardware will measure, to pin what you built.
    Measure(measure::Args),
    /// Write, extend, check and read policy files.
    Policy(policy::Args),
    /// Forge evidence files with any claim, under the simulator's published keys.
    #[cfg(feature = "simulator")]
    Simulate(simulate::Args),
    /// See the proxy at work on this machine, with simulated evidence.
    #[cfg(feature = "simulator")]
    Demo(demo::Args),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Write the man pages into a folder.
    Man(completions::ManArgs),
    /// Say which build this is.
    Version(version::Args),
}

/// Runs the program on the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe behind --help is not worth a word.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Outcome::Unusable } else { Outcome::Done }.code());
        }
    };
    output::colour(cli.color);
    let outcome = cli.command.run().unwrap_or_else(|error| {
        output::complain(&error);
        Outcome::Unusable
    });
    ExitCode::from(outcome.code())
}

impl Command {
    fn run(&self) -> anyhow::Result<Outcome> {
        match self {
            Self::Run(args) => run::run(args),
            Self::Server(args) => quick::server(args),
            Self::Client(args) => quick::client(args),
            Self::Check(args) => check::run(args),
            Self::Probe(args) => probe::run(args),
            #[cfg(feature = "simulator")]
            Self::Demo(args) => demo::run(args),
            Self::Verify(args) => verify::run(args),
            Self::Inspect(args) => inspect::run(args),
            Self::Tcb(args) => tcb::run(args),
            Self::Collateral(args) => collateral::run(args),
            Self::Explain(args) => explain::run(args),
            Self::Doctor(args) => doctor::run(args),
            Self::Evidence(args) => evidence::run(args),
            Self::Measure(args) => measure::run(args),
            Self::Policy(args) => policy::run(args),
            #[cfg(feature = "simulator")]
            Self::Simulate(args) => simulate::run(args),
            Self::Completions(args) => completions::completions(args, command()),
            Self::Man(args) => completions::man(args, command()),
            Self::Version(args) => version::run(args),
        }
    }
}

/// The whole command, for what is generated from it.
fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}
