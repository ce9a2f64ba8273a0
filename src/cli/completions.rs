//! `portcullis completions` and `portcullis man`: what is generated from the command line's definition.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

use super::Outcome;
use super::output::{note, show};

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Write the man pages into a folder.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The folder; it is made when it is not there.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "portcullis", &mut script);
    show(&String::from_utf8(script).context("the completion script")?)?;
    Ok(Outcome::Done)
}

pub(super) fn man(args: &ManArgs, command: Command) -> anyhow::Result<Outcome> {
    std::fs::create_dir_all(&args.folder).with_context(|| args.folder.display().to_string())?;
    let written = page(&command, "portcullis", &args.folder)?;
    note(&format!("{written} pages written to {}", args.folder.display()));
    Ok(Outcome::Done)
}

/// Writes the page of a command and of all below it; returns how many.
fn page(command: &Command, name: &str, folder: &Path) -> anyhow::Result<usize> {
    let mut text = Vec::new();
    // The page's title is the whole name; clap gives subcommands their last word.
    let titled = command.clone().display_name(name.to_owned());
    clap_mangen::Man::new(titled).render(&mut text).context("rendering a man page")?;
    let path = folder.join(format!("{name}.1"));
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    let mut written = 1;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        written += page(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(written)
}
