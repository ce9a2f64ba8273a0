//! Builds every part from the configuration, starts, drains, stops; returns the bound addresses.

pub mod attester;
mod builder;
mod certificate;
mod choice;
pub mod collateral;
pub mod descriptors;
mod devices;
mod http;
mod public;
mod reload;
pub mod watched;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;

use crate::admin::health::{Condition, Health};
use crate::admin::jwks::Jwks;
use crate::admin::metrics::Metrics;
use crate::admin::{Admin, Window};
use crate::attester::Attester;
use crate::attester::batch::{BatchSettings, Batcher};
use crate::clock::Clock;
use crate::collateral::Collateral;
use crate::config::{self, Config};
use crate::policy::{AppraisalPolicy, Roots};
use crate::proxy::appraisal::{Appraisals, Memo};
use crate::proxy::http::token::Signer;
use crate::proxy::passed::Passed;
use crate::proxy::{Address, Drained, Parts, Proxy};
use crate::tls::{Identity, IdentitySettings, Judge};
use crate::verify::Appraiser;
use builder::Builder;
use reload::InForce;

pub use certificate::presentable;

/// What judges by a policy: the policy with the roots it names.
#[must_use]
pub fn appraiser(policy: &AppraisalPolicy) -> Appraiser {
    Appraiser { anchors: crate::platform::anchors(policy), policy: policy.clone() }
}

/// Everything that runs.
pub struct App {
    proxy: Proxy,
    admin: Option<Admin>,
    parts: Parts,
    judges: Judges,
    memo: Arc<Memo>,
    identity: Option<Identity>,
    keys: Arc<Jwks>,
    collateral: Option<Collateral>,
    force: tokio::sync::Mutex<InForce>,
    /// Held, never used.
    _renewing: Option<certificate::Renewing>,
}

/// The judges of all policies, by name.
type Judges = Arc<ArcSwap<BTreeMap<String, Arc<Appraisals>>>>;

impl App {
    /// Builds and starts everything; nothing listens when it fails.
    ///
    /// # Errors
    /// No evidence can be made, an identity would be refused by peers, or a place cannot be bound.
    pub async fn start(config: &Config, clock: Clock) -> anyhow::Result<Self> {
        Self::start_passed(config, clock, Passed::default()).await
    }

    /// As [`App::start`], with the sockets that were passed to the process: each has to be some listener's.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_passed(config: &Config, clock: Clock, passed: Passed) -> anyhow::Result<Self> {
        let attester = config.identity.as_ref().map(|identity| attester::choose(&identity.provider, identity.endorsements.as_deref(), &clock)).transpose()?;
        Self::start_all(config, clock, attester, passed).await
    }

    /// As [`App::start`], with an attester of the caller's.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_with(config: &Config, clock: Clock, attester: Option<Arc<dyn Attester>>) -> anyhow::Result<Self> {
        Self::start_all(config, clock, attester, Passed::default()).await
    }

    async fn start_all(config: &Config, clock: Clock, attester: Option<Arc<dyn Attester>>, passed: Passed) -> anyhow::Result<Self> {
        let (metrics, health) = (Arc::new(Metrics::new()), Arc::new(Health::new()));
        confess(config, &metrics, &health);
        let collateral = config.collateral.as_ref().map(|settings| collateral::start(settings, config, &clock, &metrics)).transpose()?;
        let memo = Arc::new(Memo::new());
        let made = config.policies.iter().map(|(name, policy)| (name.clone(), judge(policy, &memo, collateral.as_ref(), &metrics)));
        let judges: Judges = Arc::new(ArcSwap::from_pointee(made.collect()));
        if let Some(collateral) = collateral.clone() {
            collateral::reconsider(&collateral, &judges);
            let clock = clock.clone();
            health.watch("collateral", move || collateral::condition(&collateral, &clock));
        }
        let issued = config.identity.as_ref().and_then(|identity| identity.certificate.as_ref()).map(certificate::watch);
        let identity = match (&config.identity, attester) {
            (Some(settings), Some(attester)) => Some(identity(settings, attester, collateral.as_ref(), &clock, &metrics).await?),
            _ => None,
        };
        if let Some(identity) = identity.clone() {
            let clock = clock.clone();
            health.watch("own evidence", move || presented(&identity, &clock, "none was made"));
        }
        let renewing = issued.zip(identity.clone()).map(|(watched, identity)| {
            let metrics = Arc::clone(&metrics);
            certificate::renew(watched, identity, move |until| metrics.certificate_issued(until.0))
        });
        let parts = Parts { clock: clock.clone(), metrics: Arc::clone(&metrics), health: Arc::clone(&health) };
        let publics = public::Publics::start(config, identity.as_ref(), &parts).await?;
        let keys = Arc::new(Jwks::new());
        let signer = signer(config, &keys, &clock)?;
        let at_first = judges.load_full();
        let builder =
            Builder { config, identity: identity.as_ref(), judges: &at_first, publics: &publics, signer: signer.as_ref(), clock: &clock, before: &[] };
        let built = builder.listeners()?;
        let permitted = descriptors::permitted();
        if let Some(lacking) = descriptors::lacking(config, permitted) {
            tracing::warn!(target: "descriptors", "{lacking}");
        }
        let listeners = built.iter().map(|built| built.listener.clone()).collect();
        let proxy = Proxy::start_within(listeners, descriptors::connections(permitted), passed, parts.clone())?;
        publics.keep(None, &parts);
        metrics.configured(&config.digest, clock.now().ok().map(|now| now.0), &[]);
        let window = Window { health, metrics, clock, keys: Arc::clone(&keys) };
        let admin = match config.observe {
            Some(address) => Some(Admin::start(address, window).await.with_context(|| format!("cannot observe at {address}"))?),
            None => None,
        };
        let denied = config.deny.as_ref().map(|deny| Arc::clone(&deny.list));
        let force = tokio::sync::Mutex::new(InForce { config: config.clone(), built, publics, signer, denied });
        Ok(Self { proxy, admin, parts, judges, memo, identity, keys, collateral, force, _renewing: renewing })
    }

    /// The listeners' names and where they really listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, Address)> {
        self.proxy.addresses()
    }

    /// Where the listener of this name listens, if at a TCP address.
    #[must_use]
    pub fn tcp_address(&self, listener: &str) -> Option<SocketAddr> {
        match self.proxy.address(listener)? {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) | Address::Vsock { .. } => None,
        }
    }

    /// Where health and metrics are served.
    #[must_use]
    pub fn observed_at(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.metrics
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.proxy.connections()
    }

    /// Stops accepting, lets connections finish for the configured grace, cuts the rest.
    pub async fn drain(self) -> Drained {
        let grace = self.force.lock().await.config.drain_grace;
        self.proxy.drain(grace).await
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

/// Says what weakens safety: in the log, the metrics and readiness.
fn confess(config: &Config, metrics: &Metrics, health: &Health) {
    for option in &config.insecure {
        tracing::warn!(target: "insecure", option, "an option that weakens safety is in force");
    }
    metrics.insecure_options(&config.insecure);
    let options = if config.insecure.is_empty() { "none".to_owned() } else { config.insecure.join(", ") };
    health.set("insecure options", Condition::MetBut(options));
}

fn judge(policy: &config::Policy, memo: &Arc<Memo>, collateral: Option<&Collateral>, metrics: &Arc<Metrics>) -> Arc<Appraisals> {
    let appraisals = Appraisals::new(Arc::new(appraiser(&policy.policy)), Arc::clone(memo), Arc::clone(metrics));
    Arc::new(with(appraisals, collateral))
}

/// What signs tokens, where any are told.
fn signer(config: &Config, keys: &Arc<Jwks>, clock: &Clock) -> anyhow::Result<Option<Arc<Signer>>> {
    let tokens = |listener: &config::Listener| matches!(&listener.forward, config::Forward::Http(site) if site.tokens.is_some());
    if config.listeners.iter().any(tokens) { Ok(Some(Signer::start(Arc::clone(keys), clock.now()?)?)) } else { Ok(None) }
}

fn with(appraisals: Appraisals, collateral: Option<&Collateral>) -> Appraisals {
    match collateral {
        Some(collateral) => appraisals.with(collateral.clone()),
        None => appraisals,
    }
}

async fn identity(
    settings: &config::Identity,
    attester: Arc<dyn Attester>,
    collateral: Option<&Collateral>,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Identity> {
    let attester = match collateral {
        Some(collateral) => Arc::new(collateral::Endorsed::new(attester, collateral.clone(), clock.clone())),
        None => attester,
    };
    let provider = attester.provider().to_owned();
    tracing::info!(target: "identity", provider, platform = attester.platform(), "evidence is made here");
    let default = BatchSettings::default();
    let batching = BatchSettings { window: settings.batch_window.unwrap_or(default.window), queue: settings.batch_queue.unwrap_or(default.queue) };
    let devices = devices::start(settings, clock, metrics.devices().clone()).await?;
    let batcher = Batcher::start_counted(attester, batching, metrics.quotes().clone()).beside(devices);
    let from = match &settings.certificate {
        Some(files) => IdentitySettings::Files { chain: files.chain.clone(), key: files.key.clone() },
        None => IdentitySettings::Minted { names: settings.names.clone(), lifetime: settings.life, provider },
    };
    let check = self_check(&settings.provider, collateral, metrics);
    Ok(Identity::start(from, Some(batcher), Some(check), clock.clone(), Arc::clone(metrics)).await?)
}

/// The check that every peer would make of our certificate: genuine, bound, current. What else a peer wants of a guest,
/// even that it cannot be debugged, is the peer's to say.
fn self_check(provider: &config::Provider, collateral: Option<&Collateral>, metrics: &Arc<Metrics>) -> Arc<dyn Judge> {
    let roots = if matches!(provider, config::Provider::Simulator(_)) { Roots::VendorAndSimulator } else { Roots::Vendor };
    let mut genuine = AppraisalPolicy { roots, ..AppraisalPolicy::genuine(&crate::platform::vocabularies()) };
    genuine.accept.iter_mut().for_each(|entry| entry.constraints.clear());
    let appraisals = Appraisals::new(Arc::new(appraiser(&genuine)), Arc::new(Memo::new()), Arc::clone(metrics));
    Arc::new(with(appraisals, collateral))
}

/// How what an identity presents stands; `none` is what to say before there is anything.
fn presented(identity: &Identity, clock: &Clock, none: &str) -> Condition {
    let state = identity.state();
    let ended = |until| clock.now().is_ok_and(|now| now > until);
    match (state.not_after, state.failed) {
        (Some(until), None) => Condition::Until(until.0),
        (Some(until), Some(why)) if ended(until) => Condition::Unmet(format!("ended {until}, and the last renewal failed: {why}")),
        (Some(_), Some(why)) => Condition::MetBut(format!("the last renewal failed: {why}")),
        (None, why) => Condition::Unmet(why.unwrap_or_else(|| none.to_owned())),
    }
}
