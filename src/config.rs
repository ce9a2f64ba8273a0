//! The one typed file: what was typed becomes what is meant, or every error with its line.
//!
//! Reads the configuration, the files it names, and the system's lists of users; opens no socket, makes no evidence, looks
//! at no clock. `app` builds the parts from it. Each table is a file here, its types first and then how they are read; what
//! people read about its keys is in [`schema`].

mod acme;
mod check;
pub mod choice;
mod collateral;
mod deny;
mod files;
pub mod http;
mod identity;
mod listener;
pub mod owner;
mod peer;
mod public;
pub mod schema;
mod sides;
mod tree;
mod upstream;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::diagnostic::{Diagnostic, Source, render, render_as};
use crate::policy::AppraisalPolicy;

pub use acme::{Acme, AcmeChallenge};
pub use collateral::{Collateral, CollateralPlace, CollateralSource};
pub use deny::Deny;
pub use identity::{CertificateFiles, Gpus, Identity, Provider, Simulator};
pub use listener::{Announcer, Bind, Forward, Limits, Listener, Onward, Serve};
pub use peer::{Freshness, Peer, PeerIdentity};
pub use public::Public;
pub use upstream::{Dial, Place, Target, Transport, Upstream};

/// A configuration file is not read beyond this many octets.
pub const MAX_CONFIG: usize = 1 << 20;

/// Everything one process does.
#[derive(Clone, Debug)]
pub struct Config {
    /// How this side proves itself; `None` when it does not.
    pub identity: Option<Identity>,
    /// Where connections come in.
    pub listeners: Vec<Listener>,
    /// Where connections go, by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// The policies, by name.
    pub policies: BTreeMap<String, Policy>,
    /// What is refused whatever the policies say. Every policy has it too.
    pub deny: Option<Deny>,
    /// The CA that gives certificates for the public.
    pub acme: Option<Acme>,
    /// Where endorsements come from beside what peers staple; `None` for nowhere.
    pub collateral: Option<Collateral>,
    /// Where health and metrics are served.
    pub observe: Option<SocketAddr>,
    /// The log.
    pub log: Log,
    /// How long open connections may finish at the end.
    pub drain_grace: Duration,
    /// What weakens safety, with its place (`upstream.db.insecure_remote_upstream`).
    pub insecure: Vec<String>,
    /// What an operator should look at; not an error.
    pub warnings: Vec<Report>,
    /// SHA-256 of the text it was read from.
    pub digest: [u8; 32],
}

/// A policy with where it came from.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The file.
    pub file: PathBuf,
    /// What it says.
    pub policy: Arc<AppraisalPolicy>,
}

/// The log on standard error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Log {
    /// Its form.
    pub format: LogFormat,
    /// How much of it: `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info" }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What is wrong with one file, or worth knowing about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The file's name as the operator knows it.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What is to be said, each with its place.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// The report as warnings.
    #[must_use]
    pub fn warnings(&self) -> String {
        render_as(&Source { name: &self.name, text: &self.text }, "warning", &self.diagnostics)
    }
}

/// Why there is no configuration: every error of every file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError(
    /// The files with errors, the configuration file first. Never empty.
    pub Vec<Report>,
);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages: Vec<_> = self.0.iter().map(|report| render(&Source { name: &report.name, text: &report.text }, &report.diagnostics)).collect();
        f.write_str(&pages.join("\n"))?;
        let count: usize = self.0.iter().map(|report| report.diagnostics.len()).sum();
        write!(f, "\n{count} error{}", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the configuration file at `path` and the files it names.
    ///
    /// # Errors
    /// Every error of every file; a file that cannot be read is one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        match files::read(path, MAX_CONFIG) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Self::parse(&name, &text, path.parent().unwrap_or(Path::new(""))),
                Err(error) => Err(ConfigError::bare(name, format!("not UTF-8 text at octet {}", error.utf8_error().valid_up_to()), "")),
            },
            Err(wrong) => Err(ConfigError::bare(name, wrong.message, &wrong.help)),
        }
    }

    /// Reads a configuration from its text. `name` is how messages call it; relative paths start at `folder`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Self, ConfigError> {
        check::read(name, text, folder)
    }
}

/// Reads sources as `collateral.sources` has them, from the command line; relative paths start where the program runs.
///
/// # Errors
/// Every error, as of a file.
pub fn collateral_of(sources: &[&str], cache: Option<&Path>) -> Result<Collateral, ConfigError> {
    collateral::typed(sources, cache).map_err(|wrong| ConfigError::bare("the command line".to_owned(), wrong.message, &wrong.help))
}

/// Reads `HOST:PORT`, an IPv6 address in brackets.
///
/// # Errors
/// What is wrong with it and what to write.
pub fn host_and_port(text: &str) -> Result<(String, u16), String> {
    values::host_and_port(text).map_err(|wrong| format!("{}: {}", wrong.message, wrong.help))
}

/// Reads a policy file; with it what an operator should look at.
///
/// # Errors
/// Every error of the file; one that cannot be read is one.
pub fn load_policy(path: &Path) -> Result<(AppraisalPolicy, Report), ConfigError> {
    let name = path.display().to_string();
    match files::read(path, crate::policy::MAX_POLICY) {
        Ok(bytes) => read_policy(name, &bytes),
        Err(wrong) => Err(ConfigError::bare(name, wrong.message, &wrong.help)),
    }
}

/// Reads a policy from the bytes of its file. `name` is how messages call it.
///
/// # Errors
/// Every error of the file.
pub fn read_policy(name: String, bytes: &[u8]) -> Result<(AppraisalPolicy, Report), ConfigError> {
    let report = |diagnostics| Report { name, text: String::from_utf8_lossy(bytes).into_owned(), diagnostics };
    match AppraisalPolicy::load(bytes, &crate::platform::vocabularies()) {
        Ok((policy, warnings)) => Ok((policy, report(warnings))),
        Err(errors) => Err(ConfigError(vec![report(errors)])),
    }
}

impl ConfigError {
    fn bare(name: String, message: String, help: &str) -> Self {
        Self(vec![Report { name, text: String::new(), diagnostics: vec![Diagnostic::new(0..0, message).help(help)] }])
    }
}

#[cfg(test)]
mod tests;
