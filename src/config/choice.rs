//! Listeners whose clients say where they want to go, and `[[listener.destination]]`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::listener::Kind;
use super::sides::{Collected, needs, reference, something_attested};
use super::tree::{At, Section, Wrong};
use super::values::one_of;
use super::{files, schema, values};

/// Where the clients of a listener may go, and how they say it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Choice {
    /// How they say it.
    pub by: By,
    /// Where they may go; the first that fits decides.
    pub among: Vec<Destination>,
}

/// How clients say where they want to go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum By {
    /// Their connections were captured on the way there.
    Captured(Capture),
    /// The name in the handshake with us.
    ServerName,
    /// The name in a handshake that is not for us.
    ServerNamePassing,
    /// SOCKS5, with the accounts where clients have to give one.
    Socks5(Option<Accounts>),
}

/// The accounts of a SOCKS5 listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accounts {
    /// The file.
    pub file: PathBuf,
    /// The SHA-256 of each user and password: see [`crate::crypto::account`].
    pub digests: Vec<[u8; 32]>,
}

/// How connections are captured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Capture {
    /// By rewriting their destination.
    Redirect,
    /// By handing them over as they are.
    Tproxy,
}

/// Destinations of a kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Destination {
    /// The hosts.
    pub place: Place,
    /// The port; `None` for any.
    pub port: Option<u16>,
    /// The name of the upstream; it exists.
    pub upstream: String,
}

/// The hosts of a destination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A name in lower case, `*.` for what is below.
    Name(String),
    /// Addresses, with the number of bits that count.
    Network(IpAddr, u8),
}

type Upstreams = BTreeMap<String, Option<super::Upstream>>;

/// What a listener's `protocol` is, as far as it is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    Http,
    Socks5,
    Tcp,
    TlsPassthrough,
}

impl Protocol {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let known = [("tcp", Self::Tcp), ("http", Self::Http), ("socks5", Self::Socks5), ("tls-passthrough", Self::TlsPassthrough)];
        section.parsed("protocol", |text| one_of(text, "protocol", &known)).map_or(Self::Tcp, |protocol| protocol.value)
    }
}

/// How clients of a listener say where they want to go; `None` where they do not.
pub(super) fn choice(
    section: &Section<'_>,
    folder: &Path,
    (protocol, kind): (Protocol, Kind),
    upstreams: &Upstreams,
    collected: &mut Collected,
) -> Option<Option<Choice>> {
    let tls = kind != Kind::Plain;
    let capture = section.parsed("capture", |text| one_of(text, "capture", &[("redirect", Capture::Redirect), ("tproxy", Capture::Tproxy)]));
    if protocol != Protocol::Socks5 {
        needs(section, "users_file", "protocol = \"socks5\"");
    }
    if let (Some(capture), true) = (&capture, tls || protocol != Protocol::Tcp) {
        section.wrong(
            &capture.span,
            "`capture` is for plain listeners of protocol \"tcp\"",
            "leave it out, or make a listener of its own for captured connections",
        );
    }
    if let (Some(certificate), true) = (section.has("certificate"), matches!(protocol, Protocol::Socks5 | Protocol::TlsPassthrough)) {
        section.wrong(&certificate, "`certificate` with a protocol that is spoken by applications of this machine", "leave one of them out");
    }
    let by = match (protocol, capture.as_ref().map(|capture| capture.value)) {
        (Protocol::Http, _) => return Some(None),
        (Protocol::Socks5, _) => By::Socks5(accounts(section, folder)),
        (Protocol::TlsPassthrough, _) => By::ServerNamePassing,
        (Protocol::Tcp, Some(capture)) => By::Captured(capture),
        (Protocol::Tcp, None) if section.has("capture").is_some() => return None,
        (Protocol::Tcp, None) if tls && section.has("destination").is_some() => By::ServerName,
        (Protocol::Tcp, None) => {
            needs(section, "destination", "`capture`, `certificate`, or a protocol that says where clients want to go");
            return Some(None);
        }
    };
    if matches!(by, By::Socks5(None)) && section.has("users_file").is_some() {
        return None;
    }
    if let Some(multiplex) = section.has("multiplex") {
        section.wrong(&multiplex, "`multiplex` where clients say where they want to go", "leave it out: all connections of a session go to one upstream");
    }
    if let Some(upstream) = section.has("upstream") {
        section.wrong(
            &upstream,
            "`upstream` where clients say where they want to go",
            "write destination = [{ to = \"HOST:PORT\", upstream = \"NAME\" }]: what it does not have is refused",
        );
    }
    if section.has("destination").is_none() {
        section.missing("destination");
    }
    let among = destinations(section, &by, upstreams, kind == Kind::Attested, collected)?;
    (!among.is_empty()).then_some(Some(Choice { by, among }))
}

/// Where applications may CONNECT to.
pub(super) fn tunnels(section: &Section<'_>, upstreams: &Upstreams, kind: Kind, collected: &mut Collected) -> Option<Vec<Destination>> {
    if let (Some(span), true) = (section.has("destination"), kind != Kind::Plain) {
        section.wrong(
            &span,
            "`destination` with an attested listener of protocol \"http\"",
            "requests of peers are routed by `route`; CONNECT is for applications of this machine",
        );
    }
    // Names, addresses and ports, as SOCKS5 has them. What is attested matters where there is no error yet.
    destinations(section, &By::Socks5(None), upstreams, kind != Kind::Plain, collected)
}

fn destinations(section: &Section<'_>, by: &By, upstreams: &Upstreams, vouched: bool, collected: &mut Collected) -> Option<Vec<Destination>> {
    let mut whole = true;
    let mut read = |line: &Section<'_>| {
        let upstream = reference(line, "upstream", "upstream", upstreams)?;
        collected.used_upstreams.push(upstream.value.clone());
        if !matches!(by, By::ServerNamePassing) {
            something_attested(line, &upstream, upstreams, vouched);
        }
        line.required("to")?;
        let At { value: (place, port), span } = line.parsed("to", place)?;
        named(line, &span, by, &place, port);
        Some(Destination { place, port, upstream: upstream.value })
    };
    let mut lines = Vec::new();
    for line in section.tables("destination", &schema::DESTINATION) {
        let one = read(&line);
        whole &= one.is_some();
        lines.extend(one);
    }
    whole.then_some(lines)
}

/// What is chosen by a server name has neither an address nor a port.
fn named(line: &Section<'_>, span: &Range<usize>, by: &By, place: &Place, port: Option<u16>) {
    let by_name = matches!(by, By::ServerName | By::ServerNamePassing);
    if by_name && (port.is_some() || matches!(place, Place::Network(..))) {
        line.wrong(
            span,
            "a server name is a name without a port",
            "write \"db.example\" or \"*.example\": every client of this listener comes to its one port",
        );
    }
}

/// `NAME[:PORT]`, `*.NAME[:PORT]`, `ADDRESS[/BITS][:PORT]`, and IPv6 in brackets where there is a port.
fn place(text: &str) -> Result<(Place, Option<u16>), Wrong> {
    let wrong = || {
        let help = "write \"db.example:5432\", \"*.example\", \"10.0.0.0/8\", \"10.0.0.7:443\" or \"[2001:db8::/32]:443\"";
        Wrong::new(format!("\"{text}\" is no destination"), help)
    };
    let network = |text: &str| values::network(text).map(|(address, bits)| Place::Network(address, bits));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0 && text.bytes().all(|octet| octet.is_ascii_digit())).ok_or_else(wrong);
    if let Some(rest) = text.strip_prefix('[') {
        let (inner, behind) = rest.split_once(']').ok_or_else(wrong)?;
        let port = if behind.is_empty() { None } else { Some(port(behind.strip_prefix(':').ok_or_else(wrong)?)?) };
        return Ok((network(inner)?, port));
    }
    if let Ok(network) = network(text) {
        return Ok((network, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, number)) => (host, Some(port(number)?)),
        None => (text, None),
    };
    if let Ok(network) = network(host) {
        return Ok((network, port));
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    let good = values::is_host(name) && !name.ends_with('.') && name == name.to_ascii_lowercase();
    if good { Ok((Place::Name(host.to_owned()), port)) } else { Err(wrong()) }
}

/// How many accounts a file may have, and how long it may be.
const MOST_USERS: usize = 1000;
const MOST_OCTETS: usize = 1 << 20;

/// The accounts of `users_file`.
fn accounts(section: &Section<'_>, folder: &Path) -> Option<Accounts> {
    let (file, bytes) = files::secret(section, "users_file", folder, MOST_OCTETS)?;
    let digests = section.faults.keep(&section.has("users_file")?, users(&file, &bytes))?;
    Some(Accounts { file, digests })
}

/// Lines `USER:PASSWORD`, as the digests of both. No password is kept.
fn users(path: &Path, bytes: &[u8]) -> Result<Vec<[u8; 32]>, Wrong> {
    let wrong = |line: usize| {
        let message = format!("line {line} of {} is no USER:PASSWORD", path.display());
        Wrong::new(message, "write one account on a line, 1 to 255 octets of each; empty lines and lines that begin with # are skipped")
    };
    let text = std::str::from_utf8(bytes).map_err(|_| wrong(1))?;
    let mut accounts = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let (user, password) = line.split_once(':').ok_or_else(|| wrong(number + 1))?;
        if !(1..=255).contains(&user.len()) || !(1..=255).contains(&password.len()) || accounts.len() >= MOST_USERS {
            return Err(wrong(number + 1));
        }
        accounts.push(crate::crypto::account(user.as_bytes(), password.as_bytes()));
    }
    if accounts.is_empty() { Err(wrong(1)) } else { Ok(accounts) }
}
