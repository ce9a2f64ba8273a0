//! What the proxy is told to do, as typed values. The caller has checked them; nothing here is read from a file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::tls;

/// One listener and where its connections go.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name in logs and metrics.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// What its connections are.
    pub terminate: Terminate,
    /// What is done with them.
    pub forward: Forward,
    /// Who really connected, as proxies tell it.
    pub proxy_protocol: ProxyProtocol,
    /// What one connection, and all together, may take.
    pub limits: Limits,
}

/// The PROXY protocol on a listener.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProxyProtocol {
    /// Who has to announce every connection; nobody else may.
    pub from: Vec<Announcer>,
    /// Whether a plain upstream is told, in version 2. For bytes alone.
    pub onward: Option<Onward>,
}

/// Who tells of the connections of others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Announcer {
    /// Whoever connects over TCP from these addresses.
    Network(Network),
    /// Whoever connects to a Unix socket. Its mode and owner say who may.
    Unix,
}

impl ProxyProtocol {
    /// Whether what comes from here has to announce who really connected.
    #[must_use]
    pub fn announces(&self, source: Option<IpAddr>) -> bool {
        self.from.iter().any(|announcer| match (announcer, source) {
            (Announcer::Network(network), Some(source)) => network.holds(source),
            (Announcer::Unix, None) => true,
            _ => false,
        })
    }
}

/// What a plain upstream is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Onward {
    /// Addresses and what is verified.
    Plain,
    /// The certificate that the evidence speaks for besides, which is long where evidence is in it.
    WithCertificate,
}

/// Addresses with a common beginning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    /// One of them.
    pub address: IpAddr,
    /// How many bits they have in common.
    pub bits: u8,
}

impl Network {
    /// Whether `address` is one of them.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| {
            let free = width.saturating_sub(u32::from(self.bits));
            a.checked_shr(free).unwrap_or(0) == b.checked_shr(free).unwrap_or(0)
        };
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl Listener {
    /// Whether strangers connect here: over TLS, or where everything is only redirected. A plain listener that forwards is
    /// for the applications of this machine.
    #[must_use]
    pub fn faces_strangers(&self) -> bool {
        self.terminate.is_tls() || self.upstreams().next().is_none()
    }

    /// Whether nothing of it changed: shared parts are told apart by who made them, not by what is in them.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        // Taken apart, so that a new field is compared too.
        let Self { name, bind, terminate, forward, proxy_protocol, limits } = self;
        let forward = match (forward, &other.forward) {
            (Forward::Chosen(one), Forward::Chosen(other)) => Arc::ptr_eq(one, other),
            (Forward::Http(one), Forward::Http(other)) => Arc::ptr_eq(one, other),
            (Forward::Tcp(one), Forward::Tcp(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        let rest = (name, bind, proxy_protocol, limits) == (&other.name, &other.bind, &other.proxy_protocol, &other.limits);
        forward && rest && terminate.same(&other.terminate)
    }

    /// The upstreams it leads to.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        let (one, routed, chosen) = match &self.forward {
            Forward::Chosen(choice) => (None, None, Some(choice.among.upstreams().map(|upstream| &**upstream))),
            Forward::Http(site) => (None, Some(site.upstreams()), None),
            Forward::Tcp(upstream) => (Some(&**upstream), None, None),
        };
        one.into_iter().chain(routed.into_iter().flatten()).chain(chosen.into_iter().flatten())
    }
}

/// A place to listen at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bind {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A TCP address that other processes of the same user may listen at too: the system spreads connections among them.
    TcpShared(SocketAddr),
    /// A socket that was passed to the process under a name: see [`super::passed::Passed`].
    Passed {
        /// The name.
        name: String,
        /// Whether it is refused where it can be reached from beyond this machine.
        here_alone: bool,
    },
    /// A Unix socket. A left-over socket that nobody serves is replaced; anything else at the path stops the start.
    Unix {
        /// Where it is made.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The number of the user it is given to.
        user: Option<u32>,
        /// The number of the group it is given to.
        group: Option<u32>,
    },
    /// A vsock port: connections come from this machine's host, or from its guests.
    Vsock {
        /// A context id of this machine, or `None` for all of them.
        cid: Option<u32>,
        /// The port.
        port: u32,
    },
}

/// What comes in at a listener.
#[derive(Clone, Debug)]
pub enum Terminate {
    /// Attested TLS.
    Attested(Arc<tls::ServerSide>),
    /// Plain bytes of a local application.
    Plain,
    /// TLS for clients of the public: the handshake attests nothing, and nothing is known about a client. Its side has
    /// [`tls::Tier::Web`].
    Public(Arc<tls::ServerSide>),
}

impl Terminate {
    /// Whether clients come over TLS, from wherever.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Whether both are one and the same: sides are told apart by who made them, not by what is in them.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Attested(one), Self::Attested(other)) | (Self::Public(one), Self::Public(other)) => Arc::ptr_eq(one, other),
            (Self::Plain, Self::Plain) => true,
            _ => false,
        }
    }

    /// Whether a connection has proven the same under either.
    #[must_use]
    pub fn prove_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Attested(one), Self::Attested(other)) | (Self::Public(one), Self::Public(other)) => one.settings().prove_alike(other.settings()),
            (Self::Plain, Self::Plain) => true,
            _ => false,
        }
    }
}

/// What is done with what comes in.
#[derive(Clone, Debug)]
pub enum Forward {
    /// Bytes go where each client wants to, as far as it may.
    Chosen(Arc<super::choice::Choice>),
    /// HTTP requests are routed, each by itself.
    Http(Arc<super::http::plan::Site>),
    /// Bytes go to an upstream, as they are.
    Tcp(Arc<Upstream>),
}

/// Where connections go.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name in logs and metrics.
    pub name: String,
    /// Tried in order; at least one.
    pub targets: Vec<Target>,
    /// What is spoken to them.
    pub originate: Originate,
    /// How long connecting to one target may take, name resolution included.
    pub connect_timeout: Duration,
    /// How often, about, it is looked where a target's name leads, for connections that are kept. At least a second.
    pub refresh: Duration,
    /// Puts many connections into one attested session. For bytes, and with a [`Originate::Attested`] whose side speaks
    /// [`tls::ALPN_TUNNEL`] alone.
    pub multiplex: Option<Multiplex>,
}

/// How connections share attested sessions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Multiplex {
    /// Connections in one session, where the far end takes as many; then another session is made. Default 128.
    pub streams: u32,
    /// How long a session without a connection is kept. Default 60 s.
    pub idle: Duration,
}

impl Default for Multiplex {
    fn default() -> Self {
        Self { streams: 128, idle: Duration::from_secs(60) }
    }
}

/// One address of an upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A host name or address of this machine and a port: only loopback addresses are connected to, whatever the name's
    /// resolution gives.
    Loopback {
        /// Resolved for each connection of its own, and followed for those that are kept.
        host: String,
        /// The port.
        port: u16,
    },
    /// A host name or address and a port.
    Tcp {
        /// Resolved for each connection of its own, and followed for those that are kept.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
    /// A vsock port. It counts as beyond this machine, whatever its context id is.
    Vsock {
        /// The context id.
        cid: u32,
        /// The port.
        port: u32,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Loopback { host, port } | Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Loopback { host, port } | Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
        }
    }
}

/// What is spoken to an upstream.
#[derive(Clone, Debug)]
pub enum Originate {
    /// Attested TLS; the peer must prove itself before a byte goes out.
    Attested(Arc<tls::ClientSide>),
    /// Plain bytes.
    Plain,
}

impl Originate {
    /// As [`Terminate::prove_alike`].
    #[must_use]
    pub fn prove_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Attested(one), Self::Attested(other)) => one.settings().prove_alike(other.settings()),
            (Self::Plain, Self::Plain) => true,
            _ => false,
        }
    }
}

/// Deadlines and caps of a listener (docs/protocol.md, "Lives and limits").
///
/// There is no setting for bytes that wait before the verdict: the proxy reads none, they stay in the kernel's buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// From accepting or connecting to the end of the TLS handshake. Default 10 s.
    pub handshake: Duration,
    /// The attestation exchange, quotes and appraisals included. Default 15 s.
    pub exchange: Duration,
    /// The longest a connection lives, whatever its evidence allows. Default 1 h.
    pub max_connection: Duration,
    /// How long a connection may carry nothing in either direction. Default 1 h: databases idle for long.
    pub idle: Duration,
    /// Connections of this listener that are not yet admitted. Default 4096.
    pub handshakes: usize,
    /// The same from one source: an IPv4 address, or the first 64 bits of an IPv6 address. Default 1024.
    pub handshakes_per_source: usize,
    /// Connections of this listener at a time. Default 65,536.
    pub connections: usize,
    /// The same from one source, admitted or not. Default 16,384.
    pub connections_per_source: usize,
    /// Connections at a time in one multiplexed session, at the end that takes them. Each also counts as a connection.
    /// Default 128, at most 1024.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            exchange: Duration::from_secs(15),
            max_connection: Duration::from_secs(3600),
            idle: Duration::from_secs(3600),
            handshakes: 4096,
            handshakes_per_source: 1024,
            connections: 65_536,
            connections_per_source: 16_384,
            streams: 128,
        }
    }
}
