//! From a configuration to what the proxy is told: listeners with the upstreams they lead to, as values. Opens nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;

use super::{choice, descriptors, http, public};
use crate::clock::Clock;
use crate::config::{self, Config, Freshness, Transport};
use crate::proxy::appraisal::Appraisals;
use crate::proxy::http::plan::{Backend, Site};
use crate::proxy::http::token::Signer;
use crate::proxy::plan::{self, Forward, Network, Originate, Terminate};
use crate::tls::{self, ClientSettings, ClientSide, Clients, Identity, Judge, Peer, PeerIdentity, Pki, ServerSettings, ServerSide, Tier};

/// Makes listeners of what was configured.
pub(super) struct Builder<'a> {
    pub(super) config: &'a Config,
    pub(super) identity: Option<Identity>,
    pub(super) judges: &'a BTreeMap<String, Arc<Appraisals>>,
    pub(super) publics: &'a public::Publics,
    pub(super) signer: Option<Arc<Signer>>,
    pub(super) clock: Clock,
}

impl Builder<'_> {
    /// One listener, with the upstreams it leads to.
    ///
    /// # Errors
    /// A value that the loader should have refused; an identity or a policy that is not there.
    pub(super) fn listener(&self, listener: &config::Listener) -> anyhow::Result<plan::Listener> {
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
        let announcer = |announcer: &config::Announcer| match *announcer {
            config::Announcer::Network(address, bits) => plan::Announcer::Network(Network { address, bits }),
            config::Announcer::Unix => plan::Announcer::Unix,
        };
        let proxy_protocol =
            plan::ProxyProtocol { from: listener.proxy_protocol_from.iter().map(announcer).collect(), onward: listener.proxy_protocol_to.map(onward) };
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
            config::Bind::Tcp(address) if listener.reuse_port => plan::Bind::TcpShared(*address),
            config::Bind::Tcp(address) => plan::Bind::Tcp(*address),
            config::Bind::Systemd(name) => plan::Bind::Passed { name: name.clone(), here_alone: listener.here_alone },
            config::Bind::Unix(path) => plan::Bind::Unix { path: path.clone(), mode: listener.mode, user: listener.owner.user, group: listener.owner.group },
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
        let (name, connect_timeout, refresh) = (upstream.name.clone(), upstream.connect_timeout, upstream.dns_refresh);
        Ok(plan::Upstream { name, targets, originate, connect_timeout, refresh, multiplex })
    }

    fn peer(&self, peer: &config::Peer) -> anyhow::Result<Peer> {
        let judge: Arc<dyn Judge> = self.judges.get(&peer.policy).cloned().with_context(|| format!("no policy {}", peer.policy))?;
        let config::PeerIdentity { pki_roots, pki_names, spki_pins, spiffe_ids } = peer.identity.clone();
        let pki = pki_roots.map(|roots| Pki { roots, names: pki_names });
        Ok(Peer { judge, identity: PeerIdentity { pki, spki_pins, spiffe_ids } })
    }
}

const fn onward(form: config::Onward) -> plan::Onward {
    match form {
        config::Onward::Plain => plan::Onward::Plain,
        config::Onward::WithCertificate => plan::Onward::WithCertificate,
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
