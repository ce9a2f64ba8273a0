//! `[[upstream]]`: what is meant, and how it is read out of what was typed and the policies.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::peer::{ANY_PLATFORM, REPLAY, acknowledge, freshness, identified, peer_identity, policy, server_name};
use super::sides::{Collected, Known, name, needs};
use super::tree::{At, Section};
use super::{Freshness, Peer, http, schema, values};

/// A place where connections go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Tried in order; at least one, all of one transport.
    pub targets: Vec<Target>,
    /// What the far end must prove, or `None` for plain bytes.
    pub attested: Option<Dial>,
    /// How long connecting to one target may take.
    pub connect_timeout: Duration,
    /// How often it is looked where a target's name leads.
    pub dns_refresh: Duration,
    /// Whether connections share attested sessions.
    pub multiplex: bool,
    /// What matters for HTTP alone.
    pub http: http::Upstream,
}

/// How an attested upstream is dialled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dial {
    /// The name sent in the handshake.
    pub server_name: ServerName<'static>,
    /// How fresh evidence must be.
    pub freshness: Freshness,
    /// What the far end must be.
    pub peer: Peer,
}

/// One address of an upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// What is spoken to it.
    pub transport: Transport,
    /// Where it is.
    pub place: Place,
}

/// What is spoken to a target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// Attested TLS.
    Attested,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Bytes as they are.
    Plain,
}

/// Where a target is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A host and a port.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// The port, not 0.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
    /// A vsock port: of this machine's host, of one of its guests, or of an enclave's parent.
    Vsock {
        /// The context id.
        cid: u32,
        /// The port.
        port: u32,
    },
}

impl Place {
    /// Whether it is meant to be on this machine: a Unix socket, a loopback address, or `localhost`, which may yet be
    /// resolved to another address: whoever connects has to look.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => values::is_local(host),
            Self::Unix(_) => true,
            // Whoever is behind it is another machine, or may be: context ids tell nobody who.
            Self::Vsock { .. } => false,
        }
    }
}

/// How long connecting to one target may take when nothing else is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DNS_REFRESH: Duration = Duration::from_secs(30);

pub(super) fn read(section: &Section<'_>, known: &Known<'_>, collected: &mut Collected) -> Option<Upstream> {
    let name = name(section);
    let label = format!("upstream.{}", name.as_ref().map_or("?", |name| name.value.as_str()));
    collected.insecure.extend(section.insecure(&label));
    if section.has("targets").is_none() {
        section.missing("targets");
    }
    let targets = section.parsed_list("targets", values::target);
    let attested = section.table("attested", &schema::ATTESTED);
    for target in &targets {
        check_target(section, target, attested.is_some());
    }
    let dial = attested.and_then(|attested| dial(section, &attested, &targets, known, collected));
    if dial.is_none() && section.has("attested").is_none() {
        for key in ["server_name", "peer", "multiplex", REPLAY, ANY_PLATFORM] {
            needs(section, key, "`attested`");
        }
    }
    let multiplex = multiplex(section, dial.as_ref().map(|dial| dial.freshness));
    let connect_timeout = section.within("connect_timeout", Duration::from_millis(10), Duration::from_secs(300)).unwrap_or(CONNECT_TIMEOUT);
    let dns_refresh = section.within("dns_refresh", Duration::from_secs(1), Duration::from_secs(86_400)).unwrap_or(DNS_REFRESH);
    let targets: Vec<_> = targets.into_iter().map(|target| target.value).collect();
    let http = http::upstream(section);
    (!targets.is_empty()).then_some(Upstream { name: name?.value, targets, attested: dial, connect_timeout, dns_refresh, multiplex, http })
}

/// Whether connections share sessions. A certificate's verdict is remembered as it is: there is nothing to share.
pub(super) fn multiplex(section: &Section<'_>, freshness: Option<Freshness>) -> bool {
    let wanted = section.flag("multiplex");
    if let (Some(span), true, Some(Freshness::Certificate)) = (section.has("multiplex"), wanted, freshness) {
        section.wrong(&span, "`multiplex` in the certificate tier", "use freshness = \"session\" or \"session-mutual\", or leave it out");
    }
    wanted
}

fn check_target(section: &Section<'_>, target: &At<Target>, attested: bool) {
    match (&target.value.transport, &target.value.place) {
        (Transport::Attested, Place::Vsock { .. }) if attested && section.has("server_name").is_none() => {
            let help = "write server_name = \"NAME\": a name that the far end's certificate has";
            section.wrong(&target.span, "a tls+vsock:// target without `server_name`", help);
        }
        (Transport::Attested, _) if !attested => {
            section.wrong(&target.span, "a tls:// target without `attested`", "write attested = { policy = \"NAME\" }: what must the far end prove?");
        }
        (Transport::Http1 | Transport::Http2 | Transport::Plain, _) if attested => {
            section.wrong(&target.span, "a plain target in an upstream with `attested`", "write tls://, or an upstream of its own for plain bytes");
        }
        (Transport::Http1 | Transport::Http2 | Transport::Plain, Place::Tcp { host, .. })
            if !values::is_local(host) && !section.flag("insecure_remote_upstream") =>
        {
            section.wrong(
                &target.span,
                format!("plain bytes would leave this machine for {host}"),
                "use tls:// with `attested`, a loopback address or a Unix socket; insecure_remote_upstream = true accepts the risk",
            );
        }
        (Transport::Http1 | Transport::Http2 | Transport::Plain, Place::Vsock { cid, .. }) if !section.flag("insecure_remote_upstream") => {
            section.wrong(
                &target.span,
                format!("plain bytes would leave this machine over vsock, for {cid}"),
                "use tls+vsock:// with `attested`, a loopback address or a Unix socket; insecure_remote_upstream = true accepts the risk",
            );
        }
        _ => {}
    }
}

fn dial(section: &Section<'_>, attested: &Section<'_>, targets: &[At<Target>], known: &Known<'_>, collected: &mut Collected) -> Option<Dial> {
    let freshness = freshness(attested).unwrap_or(Freshness::Session);
    let policy = policy(attested, known, collected);
    let identity = peer_identity(section, known);
    acknowledge(section, attested, freshness);
    let span = attested.has("freshness").unwrap_or_else(|| attested.span.clone());
    if freshness == Freshness::SessionMutual {
        identified(section, &span, identity.as_ref(), policy.as_ref().and_then(|policy| policy.1));
        if known.identity.is_none() {
            section.wrong(
                &span,
                "session-mutual presents this side's evidence, and [identity] has no provider",
                "write [identity] provider = \"auto\", or freshness = \"session\"",
            );
        }
    }
    let first = targets.iter().find_map(|target| match &target.value.place {
        Place::Tcp { host, .. } => Some((host, &target.span)),
        Place::Unix(_) | Place::Vsock { .. } => None,
    });
    let written = section.parsed("server_name", server_name).map(|name| name.value);
    let server_name = match (written, section.has("server_name")) {
        (None, None) => {
            let (host, span) = first?;
            let name = ServerName::try_from(host.clone()).ok();
            if name.is_none() {
                section.wrong(
                    span,
                    format!("\"{host}\" is no name for a handshake"),
                    "write server_name = \"NAME\": a name that the far end's certificate has",
                );
            }
            name
        }
        (written, _) => written,
    };
    Some(Dial { server_name: server_name?, freshness, peer: Peer { policy: policy?.0, identity: identity? } })
}
