//! From a configuration to what the proxy is told: listeners with the upstreams they lead to, as values. Opens nothing.

use std::cell::RefCell;
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

/// Makes listeners of what was configured; of what was made before, what did not change is what it was.
pub(super) struct Builder<'a> {
    pub(super) config: &'a Config,
    pub(super) identity: Option<&'a Identity>,
    pub(super) judges: &'a BTreeMap<String, Arc<Appraisals>>,
    pub(super) publics: &'a public::Publics,
    pub(super) signer: Option<&'a Arc<Signer>>,
    pub(super) clock: &'a Clock,
    pub(super) before: &'a [Built],
}

/// A listener with what it was made of.
pub(super) struct Built {
    pub(super) listener: plan::Listener,
    written: config::Listener,
    upstreams: Vec<BuiltUpstream>,
}

/// An upstream as a listener leads to it.
#[derive(Clone)]
struct BuiltUpstream {
    written: config::Upstream,
    speaks: Inner,
    upstream: Arc<plan::Upstream>,
    /// Where requests go there.
    backend: Option<Arc<Backend>>,
}

impl Builder<'_> {
    /// The listeners, in their order, with the upstreams they lead to.
    ///
    /// # Errors
    /// A value that the loader should have refused; an identity or a policy that is not there.
    pub(super) fn listeners(&self) -> anyhow::Result<Vec<Built>> {
        self.config.listeners.iter().map(|listener| self.listener(listener)).collect()
    }

    fn listener(&self, listener: &config::Listener) -> anyhow::Result<Built> {
        let before = self.before.iter().find(|before| before.written.name == listener.name);
        let speaks = spoken_at(listener);
        let same_side = |before: &&Built| {
            let was = &before.written;
            (&was.attested, &was.public, spoken_at(was)) == (&listener.attested, &listener.public, speaks)
        };
        let settled = before.filter(same_side);
        let terminate = match settled {
            Some(before) => before.listener.terminate.clone(),
            None => self.terminate(listener, speaks)?,
        };
        let unchanged = |before: &&Built| {
            before.written.forward == listener.forward
                && before.upstreams.iter().all(|made| self.config.upstreams.get(&made.written.name) == Some(&made.written))
        };
        let (forward, upstreams) = match settled.filter(unchanged) {
            Some(before) => (before.listener.forward.clone(), before.upstreams.clone()),
            None => self.forward(listener, before.map_or(&[][..], |before| &before.upstreams))?,
        };
        let announcer = |announcer: &config::Announcer| match *announcer {
            config::Announcer::Network(address, bits) => plan::Announcer::Network(Network { address, bits }),
            config::Announcer::Unix => plan::Announcer::Unix,
        };
        let proxy_protocol =
            plan::ProxyProtocol { from: listener.proxy_protocol_from.iter().map(announcer).collect(), onward: listener.proxy_protocol_to.map(onward) };
        let bind = match &listener.bind {
            config::Bind::Tcp(address) if listener.reuse_port => plan::Bind::TcpShared(*address),
            config::Bind::Tcp(address) => plan::Bind::Tcp(*address),
            config::Bind::Systemd(name) => plan::Bind::Passed { name: name.clone(), here_alone: listener.here_alone },
            config::Bind::Unix(path) => plan::Bind::Unix { path: path.clone(), mode: listener.mode, user: listener.owner.user, group: listener.owner.group },
            config::Bind::Vsock { cid, port } => plan::Bind::Vsock { cid: *cid, port: *port },
        };
        let made = plan::Listener { name: listener.name.clone(), bind, terminate, forward, proxy_protocol, limits: limits(listener.limits) };
        Ok(Built { listener: made, written: listener.clone(), upstreams })
    }

    fn terminate(&self, listener: &config::Listener, speaks: Inner) -> anyhow::Result<Terminate> {
        let public = self.publics.side(&listener.name, alpn(Freshness::Certificate, speaks), self.clock)?;
        Ok(match (&listener.attested, public) {
            (_, Some(side)) => Terminate::Public(Arc::new(side)),
            (None, None) => Terminate::Plain,
            (Some(serve), None) => {
                let identity = self.identity.cloned().with_context(|| format!("listener {} is attested, and there is no [identity]", listener.name))?;
                let clients = match &serve.clients {
                    Some(peer) => Clients::Attested(self.peer(peer)?),
                    None => Clients::Any,
                };
                let settings = ServerSettings { identity, tier: tier(serve.freshness), clients, alpn: alpn(serve.freshness, speaks), max_evidence: None };
                Terminate::Attested(Arc::new(ServerSide::new(settings, self.clock.clone())?))
            }
        })
    }

    /// What is done with a listener's connections, and the upstreams that takes.
    fn forward(&self, listener: &config::Listener, before: &[BuiltUpstream]) -> anyhow::Result<(Forward, Vec<BuiltUpstream>)> {
        let made = RefCell::new(Vec::new());
        let of = |name: &str, speaks: Option<Inner>| {
            let written = self.written(name)?;
            let speaks = speaks.unwrap_or(if written.multiplex { Inner::Tunnel } else { Inner::Raw });
            let known = |made: &&BuiltUpstream| made.written.name == name && made.speaks == speaks;
            if let Some(known) = made.borrow().iter().find(known) {
                return anyhow::Ok(BuiltUpstream::clone(known));
            }
            let upstream = self.upstream(written, speaks, before.iter().find(known))?;
            made.borrow_mut().push(upstream.clone());
            Ok(upstream)
        };
        let raw = |name: &str| of(name, None).map(|made| made.upstream);
        let forward = match &listener.forward {
            config::Forward::Chosen(written) => Forward::Chosen(Arc::new(choice::choice(written, raw)?)),
            config::Forward::Tcp(name) => Forward::Tcp(raw(name)?),
            config::Forward::Http(site) => {
                let backend = |name: &str| of(name, Some(Inner::Http))?.backend.with_context(|| format!("upstream {name} takes no requests"));
                let presents = self.publics.identity(&listener.name).or(self.identity);
                let made = http::site(site, (presents, self.signer), backend, raw)?;
                // Plain listeners alone: a CA asks at port 80.
                let challenges = self.publics.tokens().filter(|_| listener.redirects());
                Forward::Http(Arc::new(Site { challenges, ..made }))
            }
        };
        Ok((forward, made.into_inner()))
    }

    fn written(&self, name: &str) -> anyhow::Result<&config::Upstream> {
        self.config.upstreams.get(name).with_context(|| format!("no upstream {name}"))
    }

    /// An upstream as it was `before`, as far as it did not change.
    fn upstream(&self, upstream: &config::Upstream, speaks: Inner, before: Option<&BuiltUpstream>) -> anyhow::Result<BuiltUpstream> {
        if let Some(before) = before.filter(|before| before.written == *upstream) {
            return Ok(before.clone());
        }
        let originate = match (&upstream.attested, before.filter(|before| before.written.attested == upstream.attested)) {
            (None, _) => Originate::Plain,
            (Some(_), Some(before)) => before.upstream.originate.clone(),
            (Some(dial), None) => {
                let settings = ClientSettings {
                    identity: self.identity.cloned(),
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
        let made = Arc::new(plan::Upstream { name, targets, originate, connect_timeout, refresh, multiplex });
        let backend = (speaks == Inner::Http).then(|| Arc::new(http::backend(upstream, Arc::clone(&made))));
        Ok(BuiltUpstream { written: upstream.clone(), speaks, upstream: made, backend })
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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Inner {
    Http,
    Raw,
    /// Many connections, and nothing else: there is no fallback.
    Tunnel,
    /// What the client chooses.
    TunnelOrRaw,
}

const fn spoken_at(listener: &config::Listener) -> Inner {
    match &listener.forward {
        config::Forward::Http(_) => Inner::Http,
        config::Forward::Tcp(_) if listener.multiplex => Inner::TunnelOrRaw,
        config::Forward::Chosen(_) | config::Forward::Tcp(_) => Inner::Raw,
    }
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
