//! `[[listener]]`: what is meant, and how it is read out of what was typed, the policies and the upstreams.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::choice::{self, Protocol};
use super::peer::{ANY_PLATFORM, REPLAY, acknowledge, freshness, identified, peer_identity, policy};
use super::sides::{Collected, Known, name, needs, reference, something_attested};
use super::tree::{At, Section, Wrong};
use super::upstream::multiplex;
use super::{Freshness, Peer, Public, Upstream, http, owner, public, schema, values};

/// A place where connections come in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// The permission bits of a Unix socket.
    pub mode: u32,
    /// Whom a Unix socket is given to.
    pub owner: owner::Owner,
    /// Whether other processes of the same user may listen at the TCP address too.
    pub reuse_port: bool,
    /// Whether nobody from beyond this machine may reach it: a plain listener that was not let. Checked here for what is
    /// written; of a socket that systemd passes, whoever takes it has to look.
    pub here_alone: bool,
    /// Attested TLS, or `None` for the plain bytes of a local application.
    pub attested: Option<Serve>,
    /// TLS for clients of the public, in place of attested TLS.
    pub public: Option<Public>,
    /// What is done with its connections.
    pub forward: Forward,
    /// Who announces connections by the PROXY protocol.
    pub proxy_protocol_from: Vec<Announcer>,
    /// In which form of the PROXY protocol the upstream is told who connected.
    pub proxy_protocol_to: Option<Onward>,
    /// Whether clients may put many connections into one session.
    pub multiplex: bool,
    /// Deadlines and caps.
    pub limits: Limits,
}

impl Listener {
    /// Whether it is plain and does nothing but redirect: it may be reached from everywhere, and answers a CA.
    #[must_use]
    pub fn redirects(&self) -> bool {
        let only = |site: &http::Site| {
            site.destinations.is_empty() && !site.routes.is_empty() && site.routes.iter().all(|route| route.to == http::To::RedirectToHttps)
        };
        self.attested.is_none() && self.public.is_none() && matches!(&self.forward, Forward::Http(site) if only(site))
    }
}

/// Who announces connections by the PROXY protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Announcer {
    /// Addresses with a common beginning, and the number of bits that count.
    Network(std::net::IpAddr, u8),
    /// Whoever may connect to the listener's Unix socket.
    Unix,
}

/// A form of the PROXY protocol, version 2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Onward {
    /// Addresses and what is verified.
    Plain,
    /// The client's certificate besides.
    WithCertificate,
}

/// What is done with connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Forward {
    /// Bytes go where each client wants to, as far as it may.
    Chosen(choice::Choice),
    /// Requests are routed.
    Http(Box<http::Site>),
    /// Bytes go to the upstream of this name; it exists.
    Tcp(String),
}

/// Where a listener binds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bind {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A socket that systemd passes under this name.
    Systemd(String),
    /// A Unix socket.
    Unix(PathBuf),
    /// A vsock port.
    Vsock {
        /// A context id of this machine, or `None` for all of them.
        cid: Option<u32>,
        /// The port.
        port: u32,
    },
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid: Some(cid), port } => write!(f, "vsock:{cid}:{port}"),
            Self::Vsock { cid: None, port } => write!(f, "vsock:any:{port}"),
        }
    }
}

/// How an attested listener serves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Serve {
    /// How fresh evidence must be.
    pub freshness: Freshness,
    /// What clients must prove; `None` lets anybody in.
    pub clients: Option<Peer>,
}

/// Deadlines and caps of a listener; what is `None` has the proxy's default.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// See `[listener.limits]`.
    pub handshake: Option<Duration>,
    /// See `[listener.limits]`.
    pub exchange: Option<Duration>,
    /// See `[listener.limits]`.
    pub idle: Option<Duration>,
    /// See `[listener.limits]`.
    pub max_connection: Option<Duration>,
    /// See `[listener.limits]`.
    pub connections: Option<usize>,
    /// See `[listener.limits]`.
    pub connections_per_source: Option<usize>,
    /// See `[listener.limits]`.
    pub handshakes: Option<usize>,
    /// See `[listener.limits]`.
    pub handshakes_per_source: Option<usize>,
    /// See `[listener.limits]`.
    pub streams: Option<u32>,
}

/// A listener with the place its address was written at, for clashes.
pub(super) type Placed = (Listener, Range<usize>);

pub(super) fn read(section: &Section<'_>, known: &Known<'_>, upstreams: &BTreeMap<String, Option<Upstream>>, collected: &mut Collected) -> Option<Placed> {
    let name = name(section);
    let label = format!("listener.{}", name.as_ref().map_or("?", |name| name.value.as_str()));
    collected.insecure.extend(section.insecure(&label));
    let protocol = Protocol::read(section);
    let http = protocol == Protocol::Http;
    if section.has("bind").is_none() {
        section.missing("bind");
    }
    let bind = section.parsed("bind", values::bind);
    let mode = section.parsed("mode", values::mode);
    let owner = section.parsed("owner", owner::owner);
    let reuse_port = section.flag("reuse_port");
    if let Some(bind) = &bind {
        fits(section, &bind.value);
    }
    let kind = certificate(section);
    if !matches!(kind, Kind::Files | Kind::WebPki) {
        needs(section, "files", "certificate = \"files\"");
        needs(section, "names", "certificate = \"webpki\"");
    }
    let (attested, shown) = match kind {
        Kind::Attested => (serve(section, known, collected), Some(None)),
        Kind::Plain => (plain(section, bind.as_ref(), http), Some(None)),
        Kind::Files | Kind::WebPki => (Some(None), public::public(section, known, kind).map(Some)),
    };
    let attested_clients = attested.as_ref().is_some_and(|serve| serve.as_ref().is_some_and(|serve| serve.clients.is_some()));
    let chosen = choice::choice(section, known.folder, (protocol, kind), upstreams, collected);
    if let (Some(capture), Some(At { value: place @ (Bind::Unix(_) | Bind::Systemd(_) | Bind::Vsock { .. }), .. })) = (section.has("capture"), &bind) {
        let at = match place {
            Bind::Systemd(_) => "a socket that systemd passes",
            Bind::Vsock { .. } => "a vsock port",
            _ => "a Unix socket",
        };
        section.wrong(&capture, format!("`capture` at {at}"), "bind to \"ADDRESS:PORT\": what is captured are TCP connections");
    }
    let forward = if http {
        http::site(section, upstreams, (kind, attested_clients), collected).map(|site| Forward::Http(Box::new(site)))
    } else {
        match chosen {
            Some(None) => tcp(section, upstreams, kind == Kind::Attested, collected).map(Forward::Tcp),
            chosen => {
                requests_alone(section, &schema::LISTENER);
                chosen.flatten().map(Forward::Chosen)
            }
        }
    };
    let proxy_protocol_from = announcers(section, bind.as_ref().map(|bind| &bind.value));
    let versions = [("v2", Onward::Plain), ("v2-certificate", Onward::WithCertificate)];
    let version = section.parsed("proxy_protocol_to", |text| values::one_of(text, "version", &versions));
    if let (Some(version), true) = (&version, http) {
        section.wrong(&version.span, "`proxy_protocol_to` with protocol \"http\"", "leave it out: requests carry their client in fields");
    }
    if let (Some(version), Some(forward)) = (&version, &forward) {
        let to: Vec<&str> = match forward {
            Forward::Chosen(choice) => choice.among.iter().map(|line| line.upstream.as_str()).collect(),
            Forward::Tcp(upstream) => vec![upstream],
            Forward::Http(_) => Vec::new(),
        };
        let attested = |name: &&str| matches!(upstreams.get(*name), Some(Some(far)) if far.attested.is_some());
        if !to.is_empty() && to.iter().all(attested) {
            section.wrong(
                &version.span,
                "`proxy_protocol_to`, and every upstream is attested",
                "leave it out: it is for plain upstreams, and an attested far end tells its own application who connected",
            );
        }
    }
    let proxy_protocol_to = version.map(|version| version.value);
    let nowhere = match bind.as_ref().map(|bind| &bind.value) {
        Some(Bind::Unix(_)) if section.has("proxy_protocol_from").is_none() => Some("a bind to \"ADDRESS:PORT\", or proxy_protocol_from = [\"unix\"]"),
        Some(Bind::Vsock { .. }) => Some("a bind to \"ADDRESS:PORT\""),
        _ => None,
    };
    if let Some(addresses) = nowhere {
        needs(section, "trusted_proxies", addresses);
    }
    let multiplexed = section.flag("multiplex");
    let limits = section.table("limits", &schema::LIMITS).map_or_else(Limits::default, |limits| {
        if !http {
            requests_alone(&limits, &schema::LIMITS);
            if !multiplexed {
                needs(&limits, "streams", "protocol = \"http\" or multiplex = true");
            }
        }
        if let Some(addresses) = nowhere {
            ["connections_per_source", "handshakes_per_source"].iter().for_each(|key| needs(&limits, key, addresses));
        }
        self::limits(&limits)
    });
    if kind != Kind::Attested {
        needs(section, "multiplex", "certificate = \"attested\"");
    }
    if let (Some(span), true) = (section.has("multiplex"), http) {
        section.wrong(&span, "`multiplex` with protocol \"http\"", "leave it out: attested sessions carry many requests as they are");
    }
    let multiplex = multiplex(section, attested.as_ref().and_then(|serve| serve.as_ref().map(|serve| serve.freshness)));
    let bind = bind?;
    let mode = mode.map_or(0o600, |mode| mode.value);
    Some((
        Listener {
            name: name?.value,
            bind: bind.value,
            mode,
            owner: owner.map(|owner| owner.value).unwrap_or_default(),
            reuse_port,
            here_alone: kind == Kind::Plain && !redirects(section, http) && !section.flag("insecure_remote_listener"),
            attested: attested?,
            public: shown?,
            forward: forward?,
            proxy_protocol_from,
            proxy_protocol_to,
            multiplex,
            limits,
        },
        bind.span,
    ))
}

/// Notes keys that say nothing about such a place.
fn fits(section: &Section<'_>, place: &Bind) {
    for (key, unit) in [("mode", "SocketMode="), ("owner", "SocketUser= and SocketGroup=")] {
        match (section.has(key), place) {
            (Some(span), Bind::Tcp(_) | Bind::Vsock { .. }) => {
                section.wrong(&span, format!("`{key}` is for Unix sockets"), "leave it out, or bind to \"unix:PATH\"");
            }
            (Some(span), Bind::Systemd(_)) => {
                section.wrong(&span, format!("`{key}` for a socket that systemd makes"), format!("leave it out, and write {unit} in the .socket unit"));
            }
            (_, Bind::Unix(_)) | (None, _) => {}
        }
    }
    match (section.has("reuse_port"), place) {
        (Some(span), Bind::Tcp(address)) if address.port() == 0 => {
            section.wrong(&span, "`reuse_port` with port 0", "write a port: the system chooses another one for each process");
        }
        (Some(span), Bind::Systemd(_)) => {
            section.wrong(&span, "`reuse_port` for a socket that systemd makes", "leave it out, and write ReusePort=yes in the .socket unit");
        }
        (Some(span), Bind::Unix(_) | Bind::Vsock { .. }) => {
            section.wrong(&span, "`reuse_port` is for TCP addresses", "leave it out: one process listens there");
        }
        (Some(_), Bind::Tcp(_)) | (None, _) => {}
    }
}

/// Who announces connections, as far as such can come to the place.
fn announcers(section: &Section<'_>, place: Option<&Bind>) -> Vec<Announcer> {
    let read = |text: &str| if text == "unix" { Ok(Announcer::Unix) } else { values::network(text).map(|(address, bits)| Announcer::Network(address, bits)) };
    let written = section.parsed_list("proxy_protocol_from", read);
    for At { value, span } in &written {
        match (value, place) {
            (Announcer::Network(..), Some(Bind::Unix(_))) => {
                let help = "write [\"unix\"]: everybody whom the socket's mode and owner let connect has to announce then";
                section.wrong(span, "connections to a Unix socket come from no address", help);
            }
            (Announcer::Unix, Some(Bind::Tcp(_))) => {
                section.wrong(span, "\"unix\" at a TCP address", "write the addresses of the proxies, or bind to \"unix:PATH\"");
            }
            (_, Some(Bind::Vsock { .. })) => {
                section.wrong(
                    span,
                    "`proxy_protocol_from` at a vsock port",
                    "leave it out: nobody over vsock is believed about others, for a context id proves nothing",
                );
            }
            _ => {}
        }
    }
    written.into_iter().map(|announcer| announcer.value).collect()
}

fn tcp(section: &Section<'_>, upstreams: &BTreeMap<String, Option<Upstream>>, tls: bool, collected: &mut Collected) -> Option<String> {
    requests_alone(section, &schema::LISTENER);
    let upstream = reference(section, "upstream", "upstream", upstreams)?;
    collected.used_upstreams.push(upstream.value.clone());
    something_attested(section, &upstream, upstreams, tls);
    Some(upstream.value)
}

/// Notes keys that matter for requests.
fn requests_alone(section: &Section<'_>, of: &schema::Section) {
    for key in of.keys.iter().filter(|key| key.of_requests) {
        needs(section, key.key, "protocol = \"http\"");
    }
}

/// What a listener presents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A certificate of this side's, with evidence: attested TLS.
    Attested,
    /// A certificate for the public, from files.
    Files,
    /// Nothing: plain bytes.
    Plain,
    /// A certificate for the public, from a CA.
    WebPki,
}

fn certificate(section: &Section<'_>) -> Kind {
    let known = [("attested", Kind::Attested), ("files", Kind::Files), ("webpki", Kind::WebPki)];
    let read = |text: &str| {
        let besides = |wrong: Wrong| Wrong { help: wrong.help + "; leave the key out for plain bytes", ..wrong };
        values::one_of(text, "certificate", &known).map_err(besides)
    };
    let unreadable = if section.has("certificate").is_some() { Kind::Attested } else { Kind::Plain };
    section.parsed("certificate", read).map_or(unreadable, |kind| kind.value)
}

/// The outer `None` is an error, the inner a plain listener.
fn plain(section: &Section<'_>, bind: Option<&At<Bind>>, http: bool) -> Option<Option<Serve>> {
    for key in ["clients", "freshness", "policy", "peer", REPLAY, ANY_PLATFORM] {
        needs(section, key, "certificate = \"attested\"");
    }
    let reached = |place: &Bind| match place {
        Bind::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        Bind::Vsock { .. } => true,
        // Of what systemd passes nothing is known yet.
        Bind::Systemd(_) | Bind::Unix(_) => false,
    };
    if let Some(At { value: place, span }) = bind
        && !redirects(section, http)
        && reached(place)
        && !section.flag("insecure_remote_listener")
    {
        let help = "bind to 127.0.0.1, [::1] or a Unix socket, or write certificate = \"attested\"; insecure_remote_listener = true accepts the risk";
        section.wrong(span, format!("a plain listener on {place} can be reached from beyond this machine"), help);
    }
    Some(None)
}

/// Whether it redirects everything, and so forwards nothing.
fn redirects(section: &Section<'_>, http: bool) -> bool {
    http && section.has("redirect").is_some() && section.has("route").is_none() && section.has("destination").is_none()
}

fn serve(section: &Section<'_>, known: &Known<'_>, collected: &mut Collected) -> Option<Option<Serve>> {
    let place = section.has("certificate").unwrap_or_else(|| section.span.clone());
    match known.identity {
        None => section.wrong(
            &place,
            "certificate = \"attested\", and [identity] has no provider",
            "write [identity] provider = \"auto\" (or \"simulator\" to try it)",
        ),
        Some(identity) if identity.certificate.is_some() && freshness(section) == Some(Freshness::Certificate) => {
            section.wrong(
                &place,
                "the certificate of [identity] was issued elsewhere and carries no evidence",
                "use freshness = \"session\", or leave identity.certificate out",
            );
        }
        Some(_) => {}
    }
    let attested = match section.string("clients").map(|clients| (clients.value, clients.span)) {
        None | Some(("any", _)) => false,
        Some(("attested", _)) => true,
        Some((other, span)) => {
            section.wrong(&span, format!("unknown clients \"{other}\""), "one of \"any\", \"attested\"");
            return None;
        }
    };
    let default = if attested { Freshness::SessionMutual } else { Freshness::Session };
    let freshness = freshness(section).unwrap_or(default);
    acknowledge(section, section, freshness);
    let span = section.has("freshness").or_else(|| section.has("clients")).unwrap_or(place);
    match (attested, freshness) {
        (false, Freshness::SessionMutual) => {
            section.wrong(&span, "session-mutual attests both sides, and clients may be anybody", "write clients = \"attested\", or freshness = \"session\"");
        }
        (true, Freshness::Session) => {
            section.wrong(&span, "with freshness \"session\" clients make no evidence", "write freshness = \"session-mutual\", or clients = \"any\"");
        }
        _ => {}
    }
    if !attested {
        for key in ["policy", "peer"] {
            needs(section, key, "clients = \"attested\"");
        }
        return Some(Some(Serve { freshness, clients: None }));
    }
    let policy = policy(section, known, collected);
    let identity = peer_identity(section, known);
    if freshness == Freshness::SessionMutual {
        identified(section, &span, identity.as_ref(), policy.as_ref().and_then(|policy| policy.1));
    }
    Some(Some(Serve { freshness, clients: Some(Peer { policy: policy?.0, identity: identity? }) }))
}

fn limits(section: &Section<'_>) -> Limits {
    let time = |key| section.within(key, Duration::from_millis(100), Duration::from_secs(7 * 86_400));
    let count = |key| section.number(key, 1..=1_048_576).and_then(|count| usize::try_from(count).ok());
    Limits {
        handshake: time("handshake"),
        exchange: time("exchange"),
        idle: time("idle"),
        max_connection: time("max_connection"),
        connections: count("connections"),
        connections_per_source: count("connections_per_source"),
        handshakes: count("handshakes"),
        handshakes_per_source: count("handshakes_per_source"),
        streams: section.number("streams", 1..=65_536).and_then(|count| u32::try_from(count).ok()),
    }
}
