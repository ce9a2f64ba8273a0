//! Subcommands that this build names and does not have.

use std::ffi::OsString;

use anyhow::bail;

use super::Outcome;

/// Anything.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

pub(super) fn run(_: &Args) -> anyhow::Result<Outcome> {
    bail!("this subcommand is not in this build yet")
}
