//! Caps on what one listener, and one source, may hold. Places are given back when they are dropped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::Limits;

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    connections: usize,
    handshakes: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A cap that is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Full {
    Connections,
    Handshakes,
    Source,
}

impl Full {
    /// The metric label.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Source => "handshakes_per_source",
        }
    }
}

/// A place for one connection.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

/// A place for one connection that is not yet admitted.
#[derive(Debug)]
pub(super) struct HandshakePlace {
    places: Arc<Places>,
    source: Option<IpAddr>,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// Takes both places for a new connection. A local application has no source.
    pub(super) fn take(self: &Arc<Self>, source: Option<IpAddr>) -> Result<(Place, HandshakePlace), Full> {
        let source = source.map(network);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.connections >= self.limits.connections {
            return Err(Full::Connections);
        }
        if taken.handshakes >= self.limits.handshakes {
            return Err(Full::Handshakes);
        }
        if let Some(source) = source {
            let of_source = taken.by_source.entry(source).or_default();
            if *of_source >= self.limits.handshakes_per_source {
                return Err(Full::Source);
            }
            *of_source += 1;
        }
        taken.connections += 1;
        taken.handshakes += 1;
        Ok((Place(Arc::clone(self)), HandshakePlace { places: Arc::clone(self), source }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner).connections -= 1;
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.handshakes -= 1;
        let Some(source) = self.source else { return };
        let last = taken.by_source.get_mut(&source).is_none_or(|count| {
            *count -= 1;
            *count == 0
        });
        if last {
            taken.by_source.remove(&source);
        }
    }
}

/// What counts as one source: an IPv4 address, or the first 64 bits of an IPv6 one, which one host commonly has whole.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_listener_and_source_and_given_back() {
        let limits = Limits { connections: 3, handshakes: 2, handshakes_per_source: 1, ..Limits::default() };
        let places = Places::new(limits);
        let source = |text: &str| text.parse::<IpAddr>().ok();
        let (_a, a) = places.take(source("2001:db8::1")).ok().unzip();
        assert_eq!(places.take(source("2001:db8::2")).err(), Some(Full::Source));
        let (b, _bh) = places.take(None).ok().unzip();
        assert_eq!(places.take(source("192.0.2.1")).err(), Some(Full::Handshakes));
        drop(a);
        let (c, ch) = places.take(source("2001:db8::3")).ok().unzip();
        drop(ch);
        assert_eq!(places.take(source("192.0.2.1")).err(), Some(Full::Connections));
        drop((b, c));
        assert!(places.take(source("192.0.2.1")).is_ok());
        assert!(places.taken.lock().is_ok_and(|taken| taken.by_source.is_empty()));
    }
}
