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
pub mod watched;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use crate::admin::health::{Condition, Health};
use crate::admin::jwks::Jwks;
use crate::admin::metrics::Metrics;
use crate::admin::{Admin, Window};
use crate::attester::Attester;
use crate::attester::batch::{BatchSettings, Batcher};
use crate::clock::Clock;
use crate::collateral::Collateral;
use crate::config::{self, Config};
use crate::policy::{AppraisalPolicy, DenyList, Roots};
use crate::proxy::appraisal::{Appraisals, Memo};
use crate::proxy::http::token::Signer;
use crate::proxy::passed::Passed;
use crate::proxy::{Address, Drained, Parts, Proxy};
use crate::tls::{Identity, IdentitySettings, Judge};
use crate::verify::Appraiser;
use builder::Builder;

pub use certificate::presentable;

/// What judges by a policy: the policy with the roots it names.
#[must_use]
pub fn appraiser(policy: &AppraisalPolicy) -> Appraiser {
    Appraiser { anchors: crate::platform::anchors(policy), policy: policy.clone() }
}

/// Everything that runs.
#[derive(Debug)]
pub struct App {
    proxy: Proxy,
    admin: Option<Admin>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    judges: Arc<BTreeMap<String, Arc<Appraisals>>>,
    digest: [u8; 32],
    grace: Duration,
    collateral: Option<Collateral>,
    /// Held, never used.
    _renewing: Option<certificate::Renewing>,
    /// The latest edition of the deny list that was in force.
    denied: Mutex<Option<Arc<DenyList>>>,
    /// Held, never used: what keeps certificates for the public current.
    _keeping: Vec<public::Keeping>,
}

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
        let judges = Arc::new(judges(config, collateral.as_ref(), &metrics));
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
        let publics = public::Publics::start(config, identity.as_ref(), &clock, &metrics, &health).await?;
        let keys = Arc::new(Jwks::new());
        let tokens = |listener: &config::Listener| matches!(&listener.forward, config::Forward::Http(site) if site.tokens.is_some());
        let signer = if config.listeners.iter().any(tokens) { Some(Signer::start(Arc::clone(&keys), clock.now()?)?) } else { None };
        let builder = Builder { config, identity, judges: &judges, publics: &publics, signer, clock: clock.clone() };
        let listeners = config.listeners.iter().map(|listener| builder.listener(listener)).collect::<anyhow::Result<Vec<_>>>()?;
        let parts = Parts { clock: clock.clone(), metrics: Arc::clone(&metrics), health: Arc::clone(&health) };
        let permitted = descriptors::permitted();
        if let Some(lacking) = descriptors::lacking(config, permitted) {
            tracing::warn!(target: "descriptors", "{lacking}");
        }
        let proxy = Proxy::start_within(listeners, descriptors::connections(permitted), passed, parts)?;
        let keeping = publics.keep(&clock, &metrics);
        let window = Window { health: Arc::clone(&health), metrics: Arc::clone(&metrics), clock, keys };
        let admin = match config.observe {
            Some(address) => Some(Admin::start(address, window).await.with_context(|| format!("cannot observe at {address}"))?),
            None => None,
        };
        let denied = Mutex::new(config.deny.as_ref().map(|deny| Arc::clone(&deny.list)));
        let (digest, grace) = (config.digest, config.drain_grace);
        Ok(Self { proxy, admin, metrics, health, judges, digest, grace, collateral, _renewing: renewing, _keeping: keeping, denied })
    }

    /// Puts changed policies and the deny list in force: new connections are judged by them, live ones are judged again.
    /// Nothing else of the configuration is taken. A file with errors changes nothing.
    pub fn reload(&self, read: Result<Config, config::ConfigError>) {
        match read.map_err(anyhow::Error::from).and_then(|config| self.take_over(&config)) {
            Ok(replaced) => {
                tracing::info!(target: "reload", policies = replaced.join(","), "policies that changed are in force");
                self.metrics.reloaded("ok");
                self.health.set("reload", Condition::MetBut("the last one went well".to_owned()));
            }
            Err(error) => {
                tracing::error!(target: "reload", error = error.to_string(), "the policies that were in force stay");
                self.metrics.reloaded("failed");
                self.health.set("reload", Condition::MetBut("the last one failed: the policies that were in force stay".to_owned()));
            }
        }
    }

    fn take_over(&self, config: &Config) -> anyhow::Result<Vec<String>> {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |list: Option<&Arc<DenyList>>| list.map_or(0, |list| list.number);
        let next = config.deny.as_ref().map(|deny| &deny.list);
        let (edition, in_force) = (number(next), number(denied.as_ref()));
        anyhow::ensure!(edition >= in_force, "the deny list is edition {edition}, and edition {in_force} is in force");
        let same = edition != in_force || next == denied.as_ref();
        anyhow::ensure!(same, "the deny list is edition {edition} with other contents than the edition {edition} that is in force: count each edition up");
        *denied = next.cloned();
        let changed = |(name, policy): (&String, &config::Policy)| {
            let another = |judge: &&Arc<Appraisals>| config.digest != self.digest || edition != in_force || judge.policy_digest() != policy.policy.digest;
            let judge = self.judges.get(name).filter(another)?;
            judge.replace(Arc::new(appraiser(&policy.policy)));
            Some(name.clone())
        };
        let replaced: Vec<_> = config.policies.iter().filter_map(changed).collect();
        // A policy that the file no longer has judges until the end of the process: by the latest deny list too.
        for judge in self.judges.iter().filter(|(name, _)| edition != in_force && !config.policies.contains_key(*name)).map(|(_, judge)| judge) {
            let policy = AppraisalPolicy { deny_list: next.cloned(), ..judge.in_force().policy.clone() };
            judge.replace(Arc::new(appraiser(&policy)));
        }
        if !replaced.is_empty() {
            confess(config, &self.metrics, &self.health);
        }
        if config.digest != self.digest {
            tracing::warn!(target: "reload", "the configuration file has changed: of it, only policies are taken while the process runs; restart for the rest");
        }
        if let Some(collateral) = &self.collateral {
            let policies: Vec<_> = config.policies.values().map(|policy| &*policy.policy).collect();
            collateral.want(&collateral::foreseen(&policies));
            collateral.hurry();
        }
        Ok(replaced)
    }

    /// The listeners' names and where they really listen.
    #[must_use]
    pub fn addresses(&self) -> &[(String, Address)] {
        self.proxy.addresses()
    }

    /// Where the listener of this name listens, if at a TCP address.
    #[must_use]
    pub fn tcp_address(&self, listener: &str) -> Option<SocketAddr> {
        match self.proxy.address(listener)? {
            Address::Tcp(address) => Some(*address),
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
        &self.metrics
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.proxy.connections()
    }

    /// Stops accepting, lets connections finish for the configured grace, cuts the rest.
    pub async fn drain(self) -> Drained {
        self.proxy.drain(self.grace).await
    }
}

/// Says what weakens safety: in the log, the metrics and readiness.
fn confess(config: &Config, metrics: &Metrics, health: &Health) {
    for option in &config.insecure {
        tracing::warn!(target: "insecure", option, "an option that weakens safety is in force");
        metrics.insecure_option(option);
    }
    let options = if config.insecure.is_empty() { "none".to_owned() } else { config.insecure.join(", ") };
    health.set("insecure options", Condition::MetBut(options));
}

fn judges(config: &Config, collateral: Option<&Collateral>, metrics: &Arc<Metrics>) -> BTreeMap<String, Arc<Appraisals>> {
    let memo = Arc::new(Memo::new());
    let judge = |(name, policy): (&String, &config::Policy)| {
        let appraiser = Arc::new(appraiser(&policy.policy));
        let appraisals = Appraisals::new(appraiser, Arc::clone(&memo), Arc::clone(metrics));
        (name.clone(), Arc::new(with(appraisals, collateral)))
    };
    config.policies.iter().map(judge).collect()
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
