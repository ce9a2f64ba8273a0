//! Notices that policies or the deny list changed, and takes them over while everything runs.

use std::path::PathBuf;

use super::App;
use crate::config::{Config, ConfigError};
use crate::file::Version;

/// The files whose changes take effect without a restart.
pub struct Watched {
    files: Vec<(PathBuf, Version)>,
}

impl Watched {
    /// The files of a configuration, as they are now, and `more`.
    #[must_use]
    pub fn of(config: &Config, more: Option<PathBuf>) -> Self {
        let policies = config.policies.values().map(|policy| policy.file.clone());
        let deny = config.deny.iter().flat_map(|deny| [deny.file.clone(), deny.signature()]);
        let files = policies.chain(deny).chain(more).map(|file| (file.clone(), Version::of(&file)));
        Self { files: files.collect() }
    }

    /// Whether any is another than when this was last asked.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        for (file, version) in &mut self.files {
            let now = Version::of(file);
            changed |= now != *version;
            *version = now;
        }
        changed
    }
}

/// Takes over what was read anew; when that cannot be, says why, and everything stays as it was.
pub fn take_over(app: &App, read: Result<Config, ConfigError>) -> bool {
    let taken = read.map_err(anyhow::Error::from).and_then(|config| app.reload(&config));
    app.metrics().reloaded(if taken.is_ok() { "ok" } else { "failed" });
    match &taken {
        Ok(()) => {
            tracing::info!(target: "audit", event = "reloaded", "policies and the deny list as they are now are in force; the rest of the configuration waits for a restart");
        }
        Err(error) => tracing::error!(target: "audit", event = "reload_failed", %error, "what was in force stays in force"),
    }
    taken.is_ok()
}
