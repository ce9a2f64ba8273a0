//! An issued certificate lives for hours and is renewed by whoever wrote it: its files are looked at, and a new pair is
//! taken when it passes the checks of the first.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;

use super::watched::Watched;
use crate::admin::metrics::Metrics;
use crate::clock::Clock;
use crate::config::{CertificateFiles, Config, Public};
use crate::evidence::Timestamp;
use crate::tls::{Identity, IdentitySettings};

/// Reads every certificate that the configuration has from files, as the start does: readable, current, of its key.
///
/// # Errors
/// What the start would end with.
pub async fn presentable(config: &Config, clock: &Clock) -> anyhow::Result<()> {
    let of = |CertificateFiles { chain, key }: &CertificateFiles| (chain.clone(), key.clone());
    let own = config.identity.as_ref().and_then(|identity| identity.certificate.as_ref()).map(|files| {
        let (chain, key) = of(files);
        (format!("the certificate of [identity] ({})", chain.display()), IdentitySettings::Files { chain, key })
    });
    let public = config.listeners.iter().filter_map(|listener| {
        let Some(Public::Files(files)) = &listener.public else { return None };
        let (chain, key) = of(files);
        Some((format!("the certificate of listener {} ({})", listener.name, chain.display()), IdentitySettings::PublicFiles { chain, key }))
    });
    for (what, settings) in own.into_iter().chain(public) {
        Identity::beside(None, settings, clock.clone(), Arc::new(Metrics::new()))?.renew().await.context(what)?;
    }
    Ok(())
}

/// A pair that was not taken is tried again after this long, changed or not: it may not have been valid yet.
const RETRY: Duration = Duration::from_secs(60);

/// Looks at the files until it is dropped.
#[derive(Debug)]
pub(super) struct Renewing(JoinHandle<()>);

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The files as they are now. To be asked before the first pair is read, so that no change goes unseen.
pub(super) fn watch(files: &CertificateFiles) -> Watched {
    Watched::new(vec![files.chain.clone(), files.key.clone()])
}

/// Keeps the identity at what the files hold. Until a new pair passes, the old one is presented, to its end.
/// `note` is told when the pair in use ends.
pub(super) fn renew(mut watched: Watched, identity: Identity, note: impl Fn(Timestamp) + Send + Sync + 'static) -> Renewing {
    presented(&identity, &note);
    Renewing(tokio::spawn(async move {
        let mut taken = true;
        loop {
            if taken {
                watched.changed().await;
            } else {
                // Elapsed or changed: both are a reason to look.
                let _ = tokio::time::timeout(RETRY, watched.changed()).await;
            }
            let renewed = identity.renew().await;
            taken = renewed.is_ok();
            match renewed {
                Ok(()) => presented(&identity, &note),
                Err(error) => tracing::error!(target: "identity", %error, "the changed certificate is not taken; the old one is presented until it ends"),
            }
        }
    }))
}

fn presented(identity: &Identity, note: &(impl Fn(Timestamp) + Send + Sync)) {
    let Some(until) = identity.state().not_after else { return };
    note(until);
    tracing::info!(target: "identity", %until, "an issued certificate is presented");
}
