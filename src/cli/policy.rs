//! `portcullis policy`, and the loading of policy files for every subcommand.

mod add;
mod draft;
mod edit;
mod explain;
mod init;
mod lint;
pub(super) mod reference;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;

use super::output::{self, Rendered};
use super::{Outcome, input};
use crate::diagnostic::{Diagnostic, Source, render};
use crate::platform::vocabularies;
use crate::policy::{AppraisalPolicy, References};
use crate::verify::Appraiser;

/// Write, extend, check and read policy files.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a policy file that accepts nobody yet.
    Init(init::Args),
    /// Show what a piece of evidence would have you trust, and on a yes add it as an entry.
    Add(add::Args),
    /// Report every error and warning, the insecure keys in force and the digest.
    Lint(lint::Args),
    /// Say in words what each entry checks, and what it does not.
    Explain(explain::Args),
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::Init(args) => init::run(args),
        Command::Add(args) => add::run(args),
        Command::Lint(args) => lint::run(args),
        Command::Explain(args) => explain::run(args),
    }
}

/// A policy that was loaded, ready to judge.
pub(super) struct Loaded {
    /// Its file; `None` for the built-in one.
    pub(super) path: Option<PathBuf>,
    /// The file's text.
    pub(super) text: String,
    /// The policy with the roots it names.
    pub(super) appraiser: Appraiser,
    /// What an operator should look at.
    pub(super) warnings: Vec<Diagnostic>,
}

impl Loaded {
    /// What judges by it, once more.
    pub(super) fn appraiser(&self) -> Appraiser {
        Appraiser { policy: self.appraiser.policy.clone(), anchors: self.appraiser.anchors.clone() }
    }

    /// The built-in policy of `verify` without a file.
    pub(super) fn genuine() -> Self {
        Self::of(AppraisalPolicy::genuine(&vocabularies()))
    }

    /// What proves genuine what is to be trusted under the roots that another policy names: with a device's state.
    pub(super) fn genuine_under(policy: &AppraisalPolicy) -> Self {
        let genuine = AppraisalPolicy::genuine(&vocabularies());
        Self::of(AppraisalPolicy { roots: policy.roots, keys: policy.keys.clone(), references: References::Required, ..genuine })
    }

    fn of(policy: AppraisalPolicy) -> Self {
        Self { path: None, text: String::new(), appraiser: crate::app::appraiser(&policy), warnings: Vec::new() }
    }

    /// Loads the text of a policy.
    ///
    /// # Errors
    /// Every error in it.
    pub(super) fn of_text(path: &Path, text: String) -> Result<Self, Vec<Diagnostic>> {
        let (policy, warnings) = AppraisalPolicy::load(text.as_bytes(), &vocabularies())?;
        Ok(Self { path: Some(path.to_owned()), text, appraiser: crate::app::appraiser(&policy), warnings })
    }

    /// `sha256:` and the digest of the file.
    pub(super) fn digest(&self) -> String {
        output::digest(&self.appraiser.policy.digest)
    }
}

/// Loads a policy file.
///
/// # Errors
/// A file that cannot be read, or every error in it with its place.
pub(super) fn load(path: &Path) -> anyhow::Result<Loaded> {
    if !path.exists() {
        bail!("{0} does not exist: `portcullis policy init {0}` writes one", path.display());
    }
    let text = read(path)?;
    Loaded::of_text(path, text.clone()).map_err(|problems| Rendered(told(path, &text, &problems)).into())
}

/// The text of a policy file.
fn read(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(input::read(path)?).ok().with_context(|| format!("{} is not UTF-8 text: a policy is a JSON file", path.display()))
}

/// Errors with their lines.
fn told(path: &Path, text: &str, problems: &[Diagnostic]) -> String {
    render(&Source { name: &path.display().to_string(), text }, problems)
}
