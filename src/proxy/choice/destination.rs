//! Where clients want to go, and the table that leads there.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::proxy::plan::{Network, Upstream};
use crate::refusal::{Denied, Finding, Reason};

/// Where a client wants to go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// The host.
    pub host: Host,
    /// The port; `None` where a client says none.
    pub port: Option<u16>,
}

/// A host as a client says it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, in lower case and without a dot at its end.
    Name(String),
}

/// Destinations and the upstreams that serve them. What it does not have is refused.
#[derive(Clone, Debug, Default)]
pub struct Destinations(Vec<Destination>);

/// Destinations of a kind.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The hosts.
    pub place: Place,
    /// The port; `None` for any.
    pub port: Option<u16>,
    /// Where connections to them go.
    pub upstream: Arc<Upstream>,
}

/// The hosts of a destination. Names stand for names and addresses for addresses: nothing is resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A name in lower case; `*.example.org` stands for one label and more.
    Name(String),
    /// Addresses.
    Network(Network),
}

/// The longest host name (RFC 1035 2.3.4).
const LONGEST: usize = 253;

impl Host {
    /// Reads a host: an address, or a name of letters, digits, dots, hyphens and underscores.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_".contains(&octet));
        // A number at the end would be an address in a spelling that some resolvers take ("127.1").
        let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|octet| octet.is_ascii_digit()));
        (name.len() <= LONGEST && !numeric && name.split('.').all(label)).then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

impl Wanted {
    /// Reads `HOST:PORT`, with an IPv6 address in brackets.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let digits = !port.is_empty() && port.bytes().all(|octet| octet.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|port| digits && *port != 0)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(bare) => Host::Address(IpAddr::V6(bare.parse().ok()?).to_canonical()),
            None if host.contains(':') => return None,
            None => Host::read(host)?,
        };
        Some(Self { host, port: Some(port) })
    }
}

impl From<SocketAddr> for Wanted {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Address(address.ip().to_canonical()), port: Some(address.port()) }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.host, self.port) {
            (Host::Address(IpAddr::V6(address)), Some(port)) => write!(f, "[{address}]:{port}"),
            (Host::Address(address), Some(port)) => write!(f, "{address}:{port}"),
            (Host::Name(name), Some(port)) => write!(f, "{name}:{port}"),
            (Host::Address(address), None) => write!(f, "{address}"),
            (Host::Name(name), None) => f.write_str(name),
        }
    }
}

impl Destinations {
    /// A table; the first line that fits decides.
    #[must_use]
    pub const fn new(lines: Vec<Destination>) -> Self {
        Self(lines)
    }

    /// Whether it leads nowhere.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The upstreams that it leads to.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.0.iter().map(|line| &line.upstream)
    }

    /// The upstream for what a client wants.
    #[must_use]
    pub fn find(&self, wanted: &Wanted) -> Option<&Arc<Upstream>> {
        let fits = |line: &&Destination| line.place.holds(&wanted.host) && (line.port.is_none() || line.port == wanted.port);
        self.0.iter().find(fits).map(|line| &line.upstream)
    }

    /// As [`Destinations::find`], with the refusal of what it does not have.
    ///
    /// # Errors
    /// `destination_unknown`.
    pub(in crate::proxy) fn lead(&self, wanted: &Wanted) -> Result<&Arc<Upstream>, Denied> {
        self.find(wanted).ok_or_else(|| {
            Finding::new(Reason::DestinationUnknown, "destination", "one that the listener's table has", wanted.to_string())
                .fix(format!("to let applications go there, give the listener destination = [{{ to = \"{wanted}\", upstream = \"NAME\" }}]"))
                .into()
        })
    }

    /// Whether a name may be what leads from this port.
    pub(super) fn names(&self, port: u16) -> bool {
        self.0.iter().any(|line| matches!(line.place, Place::Name(_)) && line.port.is_none_or(|known| known == port))
    }
}

impl Place {
    fn holds(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Name(pattern), Host::Name(name)) => match pattern.strip_prefix('*') {
                Some(end) => name.len() > end.len() && name.ends_with(end),
                None => pattern == name,
            },
            (Self::Network(network), Host::Address(address)) => network.holds(*address),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::plan::Originate;

    fn line(place: &str, port: Option<u16>, upstream: &str) -> Destination {
        let place = match place.split_once('/') {
            Some((address, bits)) => Place::Network(Network { address: address.parse().expect("an address"), bits: bits.parse().expect("bits") }),
            None => Place::Name(place.to_owned()),
        };
        let upstream = Upstream {
            name: upstream.to_owned(),
            targets: Vec::new(),
            originate: Originate::Plain,
            multiplex: None,
            connect_timeout: Duration::ZERO,
            refresh: Duration::ZERO,
        };
        Destination { place, port, upstream: Arc::new(upstream) }
    }

    #[test]
    fn only_what_the_table_has_is_found() {
        let table = Destinations::new(vec![
            line("db.shop", Some(5432), "db"),
            line("*.shop", None, "shop"),
            line("10.1.0.0/16", Some(80), "net"),
            line("2001:db8::/32", None, "six"),
        ]);
        let found = |text: &str| Wanted::read(text).and_then(|wanted| table.find(&wanted).map(|upstream| upstream.name.clone()));
        for (text, upstream) in [
            ("db.shop:5432", Some("db")),
            ("DB.Shop.:5432", Some("db")),
            ("db.shop:5433", Some("shop")),
            ("a.b.shop:1", Some("shop")),
            ("shop:80", None),
            ("xshop:80", None),
            (".shop:80", None),
            ("10.1.2.3:80", Some("net")),
            ("[::ffff:10.1.2.3]:80", Some("net")),
            ("10.1.2.3:81", None),
            ("10.2.0.1:80", None),
            ("[2001:db8::1]:9", Some("six")),
            ("evil.test:443", None),
        ] {
            assert_eq!(found(text).as_deref(), upstream, "{text}");
        }
        assert!(Destinations::default().find(&Wanted::read("db.shop:5432").expect("one")).is_none());
    }

    #[test]
    fn what_is_no_destination_is_none() {
        for text in [
            "",
            "a",
            "a:",
            "a:0",
            "a:+80",
            "a:65536",
            "a: 80",
            "a b:80",
            "a..b:80",
            "127.1:80",
            "0x7f.1:80",
            "2130706433:80",
            "[::1:80",
            "::1:80",
            "[a]:80",
            "a\n:80",
            "user@a:80",
        ] {
            assert_eq!(Wanted::read(text), None, "{text:?}");
        }
        assert_eq!(Wanted::read(&format!("{}:80", "a.".repeat(128))), None);
        assert_eq!(Wanted::read("[::1]:80").map(|wanted| wanted.to_string()).as_deref(), Some("[::1]:80"));
    }
}
