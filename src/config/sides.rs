//! `[[listener]]` and `[[upstream]]`: what was typed, checked against each other and the policies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::choice::{self, Protocol};
use super::identity::within;
use super::tree::{At, Section, Wrong};
use super::{
    Bind, CertificateFiles, Dial, Forward, Freshness, Limits, Listener, Peer, PeerIdentity, Place, Policy, Public, Serve, Transport, Upstream, files, schema,
    values,
};
use crate::diagnostic::nearest;
use crate::policy::AppraisalPolicy;

/// How long connecting to one target may take when nothing else is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANY_PLATFORM: &str = "insecure_allow_any_genuine_platform";
const REPLAY: &str = "insecure_accept_replay_risk";

/// What both kinds of table are checked against.
pub(super) struct Known<'a> {
    pub(super) folder: &'a Path,
    pub(super) policies: &'a BTreeMap<String, Option<Policy>>,
    pub(super) identity: Option<&'a super::Identity>,
}

/// What reading the tables collects.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) insecure: Vec<String>,
    pub(super) used_policies: Vec<String>,
    pub(super) used_upstreams: Vec<String>,
}

/// A listener with the place its address was written at, for clashes.
pub(super) type Placed = (Listener, Range<usize>);

pub(super) fn upstream(section: &Section<'_>, known: &Known<'_>, collected: &mut Collected) -> Option<Upstream> {
    let name = name(section);
    let label = format!("upstream.{}", name.as_ref().map_or("?", |name| name.value.as_str()));
    insecure(section, &label, &["insecure_remote_upstream", REPLAY, ANY_PLATFORM], collected);
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
    let connect_timeout = within(section, "connect_timeout", Duration::from_millis(10), Duration::from_secs(300)).unwrap_or(CONNECT_TIMEOUT);
    let targets: Vec<_> = targets.into_iter().map(|target| target.value).collect();
    let http = super::http::upstream(section);
    (!targets.is_empty()).then_some(Upstream { name: name?.value, targets, attested: dial, connect_timeout, multiplex, http })
}

/// Whether connections share sessions. A certificate's verdict is remembered as it is: there is nothing to share.
fn multiplex(section: &Section<'_>, freshness: Option<Freshness>) -> bool {
    let wanted = section.flag("multiplex");
    if let (Some(span), true, Some(Freshness::Certificate)) = (section.has("multiplex"), wanted, freshness) {
        section.wrong(&span, "`multiplex` in the certificate tier", "use freshness = \"session\" or \"session-mutual\", or leave it out");
    }
    wanted
}

fn check_target(section: &Section<'_>, target: &At<super::Target>, attested: bool) {
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

fn dial(section: &Section<'_>, attested: &Section<'_>, targets: &[At<super::Target>], known: &Known<'_>, collected: &mut Collected) -> Option<Dial> {
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
        Place::Tcp { host, .. } => Some(host.clone()),
        Place::Unix(_) | Place::Vsock { .. } => None,
    });
    let written = section.parsed("server_name", server_name).map(|name| name.value);
    let server_name = match (written, section.has("server_name")) {
        (None, None) => ServerName::try_from(first?).ok(),
        (written, _) => written,
    };
    Some(Dial { server_name: server_name?, freshness, peer: Peer { policy: policy?.0, identity: identity? } })
}

pub(super) fn listener(section: &Section<'_>, known: &Known<'_>, upstreams: &BTreeMap<String, Option<Upstream>>, collected: &mut Collected) -> Option<Placed> {
    let name = name(section);
    let label = format!("listener.{}", name.as_ref().map_or("?", |name| name.value.as_str()));
    insecure(section, &label, &["insecure_remote_listener", REPLAY, ANY_PLATFORM], collected);
    let protocol = Protocol::read(section);
    let http = protocol == Protocol::Http;
    if section.has("bind").is_none() {
        section.missing("bind");
    }
    let bind = section.parsed("bind", values::bind);
    let mode = section.parsed("mode", values::mode);
    match (&mode, &bind) {
        (Some(mode), Some(At { value: Bind::Tcp(_) | Bind::Vsock { .. }, .. })) => {
            section.wrong(&mode.span, "`mode` is for Unix sockets", "leave it out, or bind to \"unix:PATH\"");
        }
        (Some(mode), Some(At { value: Bind::Systemd(_), .. })) => {
            section.wrong(&mode.span, "`mode` for a socket that systemd makes", "leave it out, and write SocketMode= in the .socket unit");
        }
        _ => {}
    }
    let kind = certificate(section);
    if !matches!(kind, Kind::Files | Kind::WebPki) {
        needs(section, "files", "certificate = \"files\"");
        needs(section, "names", "certificate = \"webpki\"");
    }
    let (attested, shown) = match kind {
        Kind::Attested => (serve(section, known, collected), Some(None)),
        Kind::Plain => (plain(section, bind.as_ref(), http), Some(None)),
        Kind::Files | Kind::WebPki => (Some(None), public(section, known, kind).map(Some)),
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
        super::http::site(section, upstreams, (kind, attested_clients), collected).map(|site| Forward::Http(Box::new(site)))
    } else {
        match chosen {
            Some(None) => tcp(section, upstreams, kind == Kind::Attested, collected).map(Forward::Tcp),
            chosen => {
                requests_alone(section);
                chosen.flatten().map(Forward::Chosen)
            }
        }
    };
    let proxy_protocol_from = section.parsed_list("proxy_protocol_from", values::network).into_iter().map(|network| network.value).collect();
    let version = section.parsed("proxy_protocol_to", |text| values::one_of(text, "version", &["v2", "v2-certificate"]));
    if let (Some(version), true) = (&version, http) {
        section.wrong(&version.span, "`proxy_protocol_to` with protocol \"http\"", "leave it out: requests carry their client in fields");
    }
    let proxy_protocol_to = version.map(|version| version.value);
    let limits = section.table("limits", &schema::LIMITS).map_or_else(Limits::default, |limits| self::limits(&limits));
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

fn tcp(section: &Section<'_>, upstreams: &BTreeMap<String, Option<Upstream>>, tls: bool, collected: &mut Collected) -> Option<String> {
    requests_alone(section);
    let upstream = reference(section, "upstream", "upstream", upstreams)?;
    collected.used_upstreams.push(upstream.value.clone());
    something_attested(section, &upstream, upstreams, tls);
    Some(upstream.value)
}

/// Notes keys that matter for requests.
fn requests_alone(section: &Section<'_>) {
    for key in ["route", "default", "redirect", "allow", "identity_headers", "strip_headers", "trusted_proxies", "upgrades", "evidence"] {
        needs(section, key, "protocol = \"http\"");
    }
}

/// A plain listener leads to attested upstreams alone: otherwise nothing is attested.
pub(super) fn something_attested(section: &Section<'_>, upstream: &At<String>, upstreams: &BTreeMap<String, Option<Upstream>>, tls: bool) {
    if let (Some(Some(far)), false) = (upstreams.get(&upstream.value), tls)
        && far.attested.is_none()
        && far.targets.iter().all(|target| target.transport != Transport::Attested)
    {
        let message = format!("nothing is attested between this listener and upstream \"{}\"", far.name);
        let help = "give the listener certificate = \"attested\" (a listener for the public: evidence = {}), or the upstream tls:// targets with `attested`";
        section.wrong(&upstream.span, message, help);
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
    let read = |text: &str| match text {
        "attested" => Ok(Kind::Attested),
        "files" => Ok(Kind::Files),
        "webpki" => Ok(Kind::WebPki),
        _ => Err(Wrong::new(format!("unknown certificate \"{text}\""), "one of \"attested\", \"files\", \"webpki\"; leave the key out for plain bytes")),
    };
    let unreadable = if section.has("certificate").is_some() { Kind::Attested } else { Kind::Plain };
    section.parsed("certificate", read).map_or(unreadable, |kind| kind.value)
}

/// A listener for clients that are no sidecars: browsers, `curl`.
fn public(section: &Section<'_>, known: &Known<'_>, kind: Kind) -> Option<Public> {
    for key in ["freshness", "policy", "peer", REPLAY, ANY_PLATFORM] {
        needs(section, key, "certificate = \"attested\"");
    }
    if let Some(clients) = section.string("clients").filter(|clients| clients.value != "any") {
        let help = "leave it out: browsers show no evidence; or write certificate = \"attested\" for sidecars";
        section.wrong(&clients.span, format!("clients \"{}\" with a certificate for the public", clients.value), help);
    }
    if let (Some(evidence), None) = (section.has("evidence"), known.identity) {
        section.wrong(&evidence, "`evidence`, and [identity] has no provider", "write [identity] provider = \"auto\" (or \"simulator\" to try it)");
    }
    match kind {
        Kind::WebPki => {
            needs(section, "files", "certificate = \"files\"");
            if section.has("names").is_none() {
                section.missing("names");
            }
            let names = plain_values(section.parsed_list("names", dns_name));
            (!names.is_empty()).then_some(Public::Acme(names))
        }
        _ => {
            needs(section, "names", "certificate = \"webpki\"");
            if section.has("files").is_none() {
                section.missing("files");
            }
            let table = section.table("files", &schema::LISTENER_FILES)?;
            let readable = |path: &str| files::read(&known.folder.join(path), 1 << 20).map(|_| known.folder.join(path));
            table.required("chain");
            table.required("key");
            let (chain, key) = (table.parsed("chain", readable), table.parsed("key", readable));
            Some(Public::Files(CertificateFiles { chain: chain?.value, key: key?.value }))
        }
    }
}

/// A name that a CA can look for.
fn dns_name(text: &str) -> Result<String, Wrong> {
    let help = "write DNS names in lower case, without asterisks: these challenges prove single hosts";
    let name = values::certificate_name(text).ok().filter(|name| !name.contains(['/', '*', ':']));
    name.ok_or_else(|| Wrong::new(format!("\"{text}\" is not the name of a host"), help))
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

fn freshness(section: &Section<'_>) -> Option<Freshness> {
    let read = |text: &str| match text {
        "session-mutual" => Ok(Freshness::SessionMutual),
        "session" => Ok(Freshness::Session),
        "certificate" => Ok(Freshness::Certificate),
        _ => Err(Wrong::new(format!("unknown freshness \"{text}\""), "one of \"session-mutual\", \"session\", \"certificate\"")),
    };
    section.parsed("freshness", read).map(|freshness| freshness.value)
}

fn acknowledge(section: &Section<'_>, place: &Section<'_>, freshness: Freshness) {
    if freshness == Freshness::Certificate && !section.flag(REPLAY) {
        let span = place.has("freshness").unwrap_or_else(|| place.span.clone());
        let help = format!("use \"session\"; {REPLAY} = true accepts that evidence can be replayed within the certificate's life");
        section.wrong(&span, "the certificate tier does not stop replay or relay", help);
    }
}

/// `session-mutual` needs to know who the peer is, not only what it runs.
fn identified(section: &Section<'_>, span: &Range<usize>, identity: Option<&PeerIdentity>, policy: Option<&AppraisalPolicy>) {
    // What could not be read has its own error.
    let (Some(identity), Some(policy)) = (identity, policy) else { return };
    let pinned = !identity.spki_pins.is_empty() || identity.pki_roots.is_some();
    let machines: Vec<&str> = crate::platform::vocabularies().iter().flat_map(|vocabulary| vocabulary.machine).copied().collect();
    let names_machines = |entry: &crate::policy::Entry| entry.constraints.iter().any(|constraint| machines.contains(&constraint.field.key));
    let machines_named = !policy.accept.is_empty() && policy.accept.iter().all(names_machines);
    if !pinned && !machines_named && !section.flag(ANY_PLATFORM) {
        let message = "session-mutual without knowing who the peer is: any genuine machine that runs the code would do";
        let help = format!(
            "write peer = {{ pki_roots = …, pki_names = […] }} or spki_pins, or a machine in every entry of the policy ({}); {ANY_PLATFORM} = true accepts the risk",
            machines.join(", ")
        );
        section.wrong(span, message, help);
    }
}

fn peer_identity(section: &Section<'_>, known: &Known<'_>) -> Option<PeerIdentity> {
    let Some(peer) = section.table("peer", &schema::PEER) else {
        return section.has("peer").is_none().then(PeerIdentity::default);
    };
    let roots = peer.parsed("pki_roots", |path| files::roots(&known.folder.join(path))).map(|roots| roots.value);
    let names = peer.parsed_list("pki_names", server_name);
    let pins = peer.parsed_list("spki_pins", values::pin);
    let ids = peer.parsed_list("spiffe_ids", values::spiffe_id);
    match (peer.has("pki_roots"), peer.has("pki_names"), peer.has("spiffe_ids")) {
        (Some(span), None, None) => {
            peer.wrong(&span, "`pki_roots` alone accepts any name under them", "write pki_names or spiffe_ids");
        }
        (None, Some(span), _) => {
            peer.wrong(&span, "`pki_names` without `pki_roots`", "a self-made certificate can carry any name: write the roots that vouch for it");
        }
        (None, None, Some(span)) => {
            peer.wrong(&span, "`spiffe_ids` without `pki_roots`", "a self-made certificate can carry any id: write the roots that vouch for it");
        }
        (None, None, None) if peer.has("spki_pins").is_none() => {
            peer.wrong(&peer.span, "`peer` is empty", "write pki_roots and pki_names, spki_pins or spiffe_ids, or leave it out");
        }
        _ => {}
    }
    if roots.is_none() && peer.has("pki_roots").is_some() {
        return None;
    }
    Some(PeerIdentity { pki_roots: roots, pki_names: plain_values(names), spki_pins: plain_values(pins), spiffe_ids: plain_values(ids) })
}

/// The policy's name, and what it says where it could be read.
fn policy<'a>(section: &Section<'_>, known: &Known<'a>, collected: &mut Collected) -> Option<(String, Option<&'a AppraisalPolicy>)> {
    let name = reference(section, "policy", "policy", known.policies)?;
    collected.used_policies.push(name.value.clone());
    let policy = known.policies.get(&name.value).and_then(Option::as_ref);
    Some((name.value, policy.map(|policy| &*policy.policy)))
}

/// A name that must be among `known`.
pub(super) fn reference<T>(section: &Section<'_>, key: &str, what: &str, known: &BTreeMap<String, T>) -> Option<At<String>> {
    let name = section.required(key)?;
    if known.contains_key(name.value) {
        return Some(name.map(str::to_owned));
    }
    let names = known.keys().map(String::as_str);
    let help = match (nearest(name.value, names.clone()), known.is_empty()) {
        (Some(near), _) => format!("did you mean \"{near}\"?"),
        (None, true) => format!("there is no {what} in this file"),
        (None, false) => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
    };
    section.wrong(&name.span, format!("no {what} is called \"{}\"", name.value), help);
    None
}

fn limits(section: &Section<'_>) -> Limits {
    let time = |key| within(section, key, Duration::from_millis(100), Duration::from_secs(7 * 86_400));
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

/// Whether two addresses cannot be bound at once.
pub(super) fn clash(one: &SocketAddr, other: &SocketAddr) -> bool {
    let wild = |address: &SocketAddr| address.ip().is_unspecified();
    let same_family = one.is_ipv4() == other.is_ipv4();
    let dual = |address: &SocketAddr| address.is_ipv6() && wild(address);
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || (same_family && (wild(one) || wild(other))) || dual(one) || dual(other))
}

fn name(section: &Section<'_>) -> Option<At<String>> {
    if section.has("name").is_none() {
        section.missing("name");
    }
    section.parsed("name", values::word)
}

fn server_name(text: &str) -> Result<ServerName<'static>, Wrong> {
    ServerName::try_from(text.to_owned()).map_err(|_| Wrong::new(format!("\"{text}\" is not a DNS name or address"), "write a name such as \"db.example\""))
}

/// Notes a key that would do nothing.
pub(super) fn needs(section: &Section<'_>, key: &str, what: &str) {
    if let Some(span) = section.has(key) {
        section.wrong(&span, format!("`{key}` without {what}"), format!("write {what} too, or leave `{key}` out: it would do nothing"));
    }
}

fn insecure(section: &Section<'_>, label: &str, keys: &[&str], collected: &mut Collected) {
    collected.insecure.extend(keys.iter().filter(|key| section.flag(key)).map(|key| format!("{label}.{key}")));
}

fn plain_values<T>(values: Vec<At<T>>) -> Vec<T> {
    values.into_iter().map(|value| value.value).collect()
}
