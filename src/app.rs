//! Builds every part from the configuration, starts, drains, stops; returns the bound addresses.

pub mod attester;
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
use crate::config::{self, Config, Freshness, Transport};
use crate::policy::{AppraisalPolicy, DenyList, Roots};
use crate::proxy::appraisal::{Appraisals, Memo};
use crate::proxy::http::plan::{Backend, Site};
use crate::proxy::http::token::Signer;
use crate::proxy::passed::Passed;
use crate::proxy::plan::{self, Forward, Network, Originate, Terminate};
use crate::proxy::{Address, Drained, Parts, Proxy};
use crate::tls::{self, ClientSettings, ClientSide, Clients, Identity, IdentitySettings, Judge, Peer, PeerIdentity, Pki, ServerSettings, ServerSide, Tier};
use crate::verify::Appraiser;

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

fn onward(version: Option<&str>) -> Option<plan::Onward> {
    version.map(|version| if version == "v2-certificate" { plan::Onward::WithCertificate } else { plan::Onward::Plain })
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

struct Builder<'a> {
    config: &'a Config,
    identity: Option<Identity>,
    judges: &'a BTreeMap<String, Arc<Appraisals>>,
    publics: &'a public::Publics,
    signer: Option<Arc<Signer>>,
    clock: Clock,
}

impl Builder<'_> {
    fn listener(&self, listener: &config::Listener) -> anyhow::Result<plan::Listener> {
        let speaks = match &listener.forward {
            config::Forward::Http(_) => Inner::Http,
            config::Forward::Tcp(_) if listener.multiplex => Inner::TunnelOrRaw,
            config::Forward::Chosen(_) | config::Forward::Tcp(_) => Inner::Raw,
        };
        let public = self.publics.side(&listener.name, alpn(Freshness::Certificate, speaks), &self.clock)?;
        let terminate = match (&listener.attested, public) {
            (_, Some(side)) => Terminate::Public(Arc::new(side)),
            (None, None) => Terminate::Plain,
            (Some(serve), None) => {
                let identity = self.identity.clone().with_context(|| format!("listener {} is attested, and there is no [identity]", listener.name))?;
                let clients = match &serve.clients {
                    Some(peer) => Clients::Attested(self.peer(peer)?),
                    None => Clients::Any,
                };
                let settings = ServerSettings { identity, tier: tier(serve.freshness), clients, alpn: alpn(serve.freshness, speaks), max_evidence: None };
                Terminate::Attested(Arc::new(ServerSide::new(settings, self.clock.clone())?))
            }
        };
        let network = |(address, bits): &(std::net::IpAddr, u8)| Network { address: *address, bits: *bits };
        let proxy_protocol =
            plan::ProxyProtocol { from: listener.proxy_protocol_from.iter().map(network).collect(), onward: onward(listener.proxy_protocol_to) };
        let raw = |name: &str| {
            let written = self.written(name)?;
            self.upstream(written, if written.multiplex { Inner::Tunnel } else { Inner::Raw })
        };
        let forward = match &listener.forward {
            config::Forward::Chosen(written) => Forward::Chosen(Arc::new(choice::choice(written, raw)?)),
            config::Forward::Tcp(name) => Forward::Tcp(Arc::new(raw(name)?)),
            config::Forward::Http(site) => {
                let mut made: BTreeMap<String, Arc<Backend>> = BTreeMap::new();
                let backend = |name: &str| {
                    if let Some(known) = made.get(name) {
                        return Ok(Arc::clone(known));
                    }
                    let written = self.written(name)?;
                    let backend = Arc::new(http::backend(written, self.upstream(written, Inner::Http)?));
                    made.insert(name.to_owned(), Arc::clone(&backend));
                    Ok(backend)
                };
                let presents = self.publics.identity(&listener.name).or(self.identity.as_ref());
                let made = http::site(site, (presents, self.signer.as_ref()), backend, raw)?;
                // Plain listeners alone: a CA asks at port 80.
                let challenges = self.publics.tokens().filter(|_| listener.redirects());
                Forward::Http(Arc::new(Site { challenges, ..made }))
            }
        };
        let bind = match &listener.bind {
            config::Bind::Tcp(address) => plan::Bind::Tcp(*address),
            config::Bind::Systemd(name) => plan::Bind::Passed { name: name.clone(), here_alone: listener.here_alone },
            config::Bind::Unix(path) => plan::Bind::Unix { path: path.clone(), mode: listener.mode },
            config::Bind::Vsock { cid, port } => plan::Bind::Vsock { cid: *cid, port: *port },
        };
        Ok(plan::Listener { name: listener.name.clone(), bind, terminate, forward, proxy_protocol, limits: limits(listener.limits) })
    }

    fn written(&self, name: &str) -> anyhow::Result<&config::Upstream> {
        self.config.upstreams.get(name).with_context(|| format!("no upstream {name}"))
    }

    fn upstream(&self, upstream: &config::Upstream, speaks: Inner) -> anyhow::Result<plan::Upstream> {
        let originate = match &upstream.attested {
            None => Originate::Plain,
            Some(dial) => {
                let settings = ClientSettings {
                    identity: self.identity.clone(),
                    tier: tier(dial.freshness),
                    server_name: dial.server_name.clone(),
                    peer: self.peer(&dial.peer)?,
                    alpn: alpn(dial.freshness, speaks),
                    max_evidence: None,
                };
                Originate::Attested(Arc::new(ClientSide::new(settings, self.clock.clone())?))
            }
        };
        let target = |target: &config::Target| match &target.place {
            // Plain bytes for this machine: a name is believed only as far as it leads here.
            config::Place::Tcp { host, port } if target.transport != Transport::Attested && target.place.is_local() => {
                plan::Target::Loopback { host: host.clone(), port: *port }
            }
            config::Place::Tcp { host, port } => plan::Target::Tcp { host: host.clone(), port: *port },
            config::Place::Unix(path) => plan::Target::Unix(path.clone()),
            config::Place::Vsock { cid, port } => plan::Target::Vsock { cid: *cid, port: *port },
        };
        // The loader holds this already; bytes meant for an attested peer never go out plain.
        let attested = |target: &config::Target| target.transport == Transport::Attested;
        anyhow::ensure!(upstream.targets.iter().all(|target| attested(target) == upstream.attested.is_some()), "upstream {} mixes transports", upstream.name);
        let targets = upstream.targets.iter().map(target).collect();
        let multiplex = matches!(speaks, Inner::Tunnel).then(plan::Multiplex::default);
        Ok(plan::Upstream { name: upstream.name.clone(), targets, originate, connect_timeout: upstream.connect_timeout, multiplex })
    }

    fn peer(&self, peer: &config::Peer) -> anyhow::Result<Peer> {
        let judge: Arc<dyn Judge> = self.judges.get(&peer.policy).cloned().with_context(|| format!("no policy {}", peer.policy))?;
        let config::PeerIdentity { pki_roots, pki_names, spki_pins, spiffe_ids } = peer.identity.clone();
        let pki = pki_roots.map(|roots| Pki { roots, names: pki_names });
        Ok(Peer { judge, identity: PeerIdentity { pki, spki_pins, spiffe_ids } })
    }
}

/// What is spoken inside TLS.
#[derive(Clone, Copy)]
enum Inner {
    Http,
    Raw,
    /// Many connections, and nothing else: there is no fallback.
    Tunnel,
    /// What the client chooses.
    TunnelOrRaw,
}

/// The protocol ids to offer, best first. Beside the session tiers the peer may be no Portcullis: it knows the usual ids.
fn alpn(freshness: Freshness, speaks: Inner) -> Option<Vec<Vec<u8>>> {
    let ids: &[&[u8]] = match (speaks, freshness) {
        (Inner::Raw, _) => return None,
        (Inner::Tunnel, _) => &[tls::ALPN_TUNNEL],
        (Inner::TunnelOrRaw, _) => &[tls::ALPN_TUNNEL, tls::ALPN_RAW],
        (Inner::Http, Freshness::Certificate) => &[b"h2", b"http/1.1"],
        (Inner::Http, Freshness::Session | Freshness::SessionMutual) => &[tls::ALPN_H2, tls::ALPN_HTTP1],
    };
    Some(ids.iter().map(|id| id.to_vec()).collect())
}

const fn tier(freshness: Freshness) -> Tier {
    match freshness {
        Freshness::Certificate => Tier::Certificate,
        Freshness::Session => Tier::Session,
        Freshness::SessionMutual => Tier::SessionMutual,
    }
}

fn limits(written: config::Limits) -> plan::Limits {
    let default = plan::Limits::default();
    // Nobody who does not say so leaves one source all there is.
    let half = (descriptors::connections(descriptors::permitted()) / 2).max(1);
    plan::Limits {
        handshake: written.handshake.unwrap_or(default.handshake),
        exchange: written.exchange.unwrap_or(default.exchange),
        max_connection: written.max_connection.unwrap_or(default.max_connection),
        idle: written.idle.unwrap_or(default.idle),
        handshakes: written.handshakes.unwrap_or(default.handshakes),
        handshakes_per_source: written.handshakes_per_source.unwrap_or(default.handshakes_per_source),
        connections: written.connections.unwrap_or(default.connections),
        connections_per_source: written.connections_per_source.unwrap_or(default.connections_per_source.min(half)),
        streams: written.streams.unwrap_or(default.streams),
    }
}
