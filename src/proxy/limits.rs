//! Caps on what one listener, and one source, may hold. Places are given back when they are dropped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::plan::Limits;

/// How many sockets all listeners together may hold: those of peers that came, and as many to upstreams. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    peers: Arc<Semaphore>,
    upstreams: Arc<Semaphore>,
    each: usize,
}

/// Sockets that may be open until this is dropped.
#[derive(Debug)]
pub(super) struct Held(#[allow(dead_code, reason = "its drop is what it is for")] OwnedSemaphorePermit);

impl Sockets {
    pub(super) fn new(each: usize) -> Self {
        let each = each.min(Semaphore::MAX_PERMITS);
        let places = || Arc::new(Semaphore::new(each));
        Self { peers: places(), upstreams: places(), each }
    }

    /// A socket to an upstream, where there may be another.
    pub(super) fn upstream(&self) -> Option<Held> {
        Arc::clone(&self.upstreams).try_acquire_owned().ok().map(Held)
    }

    /// Whether those to upstreams run short: half of them are open, and none should be kept that nobody uses.
    pub(super) fn scarce(&self) -> bool {
        self.upstreams.available_permits() < self.each / 2
    }

    fn peer(&self) -> Option<Held> {
        Arc::clone(&self.peers).try_acquire_owned().ok().map(Held)
    }
}

/// How the connections of a listener come to their upstreams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Upstreams {
    /// Each has one of its own, which must be possible from the start.
    OneEach,
    /// Requests share what a pool opens.
    Pooled,
}

/// The places of one listener, whatever it is configured to be.
#[derive(Debug)]
pub(super) struct Places {
    sockets: Sockets,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    connections: usize,
    handshakes: usize,
    connections_by_source: HashMap<IpAddr, usize>,
    handshakes_by_source: HashMap<IpAddr, usize>,
}

/// A cap that is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Full {
    Connections,
    ConnectionsOfSource,
    Descriptors,
    Handshakes,
    HandshakesOfSource,
}

impl Full {
    /// The metric label.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsOfSource => "connections_per_source",
            Self::Descriptors => "descriptors",
            Self::Handshakes => "handshakes",
            Self::HandshakesOfSource => "handshakes_per_source",
        }
    }
}

/// A place for one connection.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    source: Option<IpAddr>,
    _sockets: (Option<Held>, Option<Held>),
}

/// A place for one connection that is not yet admitted.
#[derive(Debug)]
pub(super) struct HandshakePlace {
    places: Arc<Places>,
    source: Option<IpAddr>,
}

/// A place for one connection of a source that a proxy told of.
#[derive(Debug)]
pub(super) struct SourcePlace {
    places: Arc<Places>,
    source: IpAddr,
}

impl Places {
    pub(super) fn new(sockets: Sockets) -> Arc<Self> {
        Arc::new(Self { sockets, taken: Mutex::default() })
    }

    /// Takes both places for a new connection. A local application has no source.
    pub(super) fn take(self: &Arc<Self>, (limits, upstreams): (&Limits, Upstreams), source: Option<IpAddr>) -> Result<(Place, HandshakePlace), Full> {
        let source = source.map(network);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = |counts: &HashMap<IpAddr, usize>| source.and_then(|source| counts.get(&source)).copied().unwrap_or_default();
        if taken.connections >= limits.connections {
            return Err(Full::Connections);
        }
        if taken.handshakes >= limits.handshakes {
            return Err(Full::Handshakes);
        }
        if of_source(&taken.connections_by_source) >= limits.connections_per_source {
            return Err(Full::ConnectionsOfSource);
        }
        if of_source(&taken.handshakes_by_source) >= limits.handshakes_per_source {
            return Err(Full::HandshakesOfSource);
        }
        let peer = self.sockets.peer().ok_or(Full::Descriptors)?;
        let upstream = match upstreams {
            Upstreams::OneEach => Some(self.sockets.upstream().ok_or(Full::Descriptors)?),
            Upstreams::Pooled => None,
        };
        if let Some(source) = source {
            *taken.connections_by_source.entry(source).or_default() += 1;
            *taken.handshakes_by_source.entry(source).or_default() += 1;
        }
        taken.connections += 1;
        taken.handshakes += 1;
        Ok((Place { places: Arc::clone(self), source, _sockets: (Some(peer), upstream) }, HandshakePlace { places: Arc::clone(self), source }))
    }

    /// Counts a connection that was taken without a source for the one that a proxy told of, and so its handshake.
    pub(super) fn of_source(self: &Arc<Self>, limits: &Limits, handshake: &mut HandshakePlace, source: IpAddr) -> Result<SourcePlace, Full> {
        let source = network(source);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.connections_by_source.get(&source).is_some_and(|count| *count >= limits.connections_per_source) {
            return Err(Full::ConnectionsOfSource);
        }
        if taken.handshakes_by_source.get(&source).is_some_and(|count| *count >= limits.handshakes_per_source) {
            return Err(Full::HandshakesOfSource);
        }
        *taken.connections_by_source.entry(source).or_default() += 1;
        if handshake.source.is_none() {
            *taken.handshakes_by_source.entry(source).or_default() += 1;
            handshake.source = Some(source);
        }
        Ok(SourcePlace { places: Arc::clone(self), source })
    }

    /// Takes a place for a connection that came inside an admitted one: it counts as any other, and needs a socket to its
    /// upstream alone.
    pub(super) fn take_within(self: &Arc<Self>, limits: &Limits, source: Option<IpAddr>) -> Result<Place, Full> {
        let source = source.map(network);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.connections >= limits.connections {
            return Err(Full::Connections);
        }
        if source.and_then(|source| taken.connections_by_source.get(&source)).is_some_and(|count| *count >= limits.connections_per_source) {
            return Err(Full::ConnectionsOfSource);
        }
        let upstream = self.sockets.upstream().ok_or(Full::Descriptors)?;
        if let Some(source) = source {
            *taken.connections_by_source.entry(source).or_default() += 1;
        }
        taken.connections += 1;
        Ok(Place { places: Arc::clone(self), source, _sockets: (None, Some(upstream)) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.connections -= 1;
        give_back(&mut taken.connections_by_source, self.source);
    }
}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        give_back(&mut taken.connections_by_source, Some(self.source));
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.handshakes -= 1;
        give_back(&mut taken.handshakes_by_source, self.source);
    }
}

/// Counts one less, and forgets a source that has none.
fn give_back(counts: &mut HashMap<IpAddr, usize>, source: Option<IpAddr>) {
    let Some(source) = source else { return };
    let last = counts.get_mut(&source).is_none_or(|count| {
        *count -= 1;
        *count == 0
    });
    if last {
        counts.remove(&source);
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
        let places = Places::new(Sockets::new(10));
        let source = |text: &str| text.parse::<IpAddr>().ok();
        let (first, a) = places.take((&limits, Upstreams::OneEach), source("2001:db8::1")).ok().unzip();
        assert_eq!(places.take((&limits, Upstreams::OneEach), source("2001:db8::2")).err(), Some(Full::HandshakesOfSource));
        let (b, _bh) = places.take((&limits, Upstreams::OneEach), None).ok().unzip();
        assert_eq!(places.take((&limits, Upstreams::OneEach), source("192.0.2.1")).err(), Some(Full::Handshakes));
        drop(a);
        let (c, ch) = places.take((&limits, Upstreams::OneEach), source("2001:db8::3")).ok().unzip();
        drop(ch);
        assert_eq!(places.take((&limits, Upstreams::OneEach), source("192.0.2.1")).err(), Some(Full::Connections));
        drop((first, b, c));
        assert!(places.take((&limits, Upstreams::OneEach), source("192.0.2.1")).is_ok());
        assert!(places.taken.lock().is_ok_and(|taken| taken.connections_by_source.is_empty() && taken.handshakes_by_source.is_empty()));
    }

    #[test]
    fn an_admitted_connection_still_counts_for_its_source() {
        let one_each = (&Limits { connections_per_source: 1, ..Limits::default() }, Upstreams::OneEach);
        let places = Places::new(Sockets::new(10));
        let source = |text: &str| text.parse::<IpAddr>().ok();
        let (place, handshake) = places.take(one_each, source("192.0.2.1")).ok().unzip();
        drop(handshake);
        assert_eq!(places.take(one_each, source("192.0.2.1")).err(), Some(Full::ConnectionsOfSource));
        assert!(places.take(one_each, source("192.0.2.2")).is_ok() && places.take(one_each, None).is_ok() && places.take(one_each, None).is_ok());
        drop(place);
        assert!(places.take(one_each, source("192.0.2.1")).is_ok());
    }

    #[test]
    fn a_connection_within_another_counts_as_any_other() {
        let limits = Limits { connections: 4, connections_per_source: 2, ..Limits::default() };
        let (sockets, source) = (Sockets::new(3), "192.0.2.1".parse::<IpAddr>().ok());
        let places = Places::new(sockets.clone());
        let outer = places.take((&limits, Upstreams::OneEach), source).ok();
        let within = places.take_within(&limits, source).ok();
        assert!(outer.is_some() && within.is_some());
        assert_eq!(places.take_within(&limits, source).err(), Some(Full::ConnectionsOfSource));
        let more = places.take_within(&limits, None).ok();
        assert_eq!(places.take_within(&limits, None).err(), Some(Full::Descriptors));
        drop((within, more));
        assert!(places.take_within(&limits, source).is_ok() && sockets.upstream().is_some());
    }

    #[test]
    fn whom_a_proxy_tells_of_is_capped_and_the_proxy_is_not() {
        let limits = Limits { connections_per_source: 2, handshakes_per_source: 1, ..Limits::default() };
        let places = Places::new(Sockets::new(10));
        let source = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut taken: Vec<_> = (0..4).map(|_| places.take((&limits, Upstreams::OneEach), None).expect("a place")).collect();
        let (one, two) = (source("192.0.2.1"), source("192.0.2.2"));
        let first = places.of_source(&limits, &mut taken[0].1, one).expect("a place");
        assert_eq!(places.of_source(&limits, &mut taken[1].1, one).err(), Some(Full::HandshakesOfSource));
        let other = places.of_source(&limits, &mut taken[1].1, two);
        assert!(other.is_ok());
        // Admitted, it still counts.
        let (place, handshake) = taken.remove(0);
        drop(handshake);
        let second = places.of_source(&limits, &mut taken[1].1, one);
        assert!(second.is_ok());
        taken.clear();
        let mut more = places.take((&limits, Upstreams::OneEach), None).expect("a place");
        assert_eq!(places.of_source(&limits, &mut more.1, one).err(), Some(Full::ConnectionsOfSource));
        drop((place, first, other, second, more));
        assert!(places.taken.lock().is_ok_and(|taken| taken.connections_by_source.is_empty() && taken.handshakes_by_source.is_empty()));
    }

    #[test]
    fn sockets_run_short_when_half_of_them_are_open() {
        let sockets = Sockets::new(4);
        let some: Vec<_> = (0..2).filter_map(|_| sockets.upstream()).collect();
        assert!(!sockets.scarce());
        let another = sockets.upstream();
        assert!(sockets.scarce());
        drop((some, another));
        assert!(!sockets.scarce());
    }

    #[test]
    fn all_listeners_share_the_sockets() {
        let sockets = Sockets::new(2);
        let limits = Limits::default();
        let (one_each, shared) = ((&limits, Upstreams::OneEach), (&limits, Upstreams::Pooled));
        let raw = Places::new(sockets.clone());
        let pooled = Places::new(sockets.clone());
        let one = raw.take(one_each, None).ok();
        let two = pooled.take(shared, None).ok();
        assert!(one.is_some() && two.is_some());
        assert_eq!((raw.take(one_each, None).err(), pooled.take(shared, None).err()), (Some(Full::Descriptors), Some(Full::Descriptors)));
        let dialled = sockets.upstream();
        assert!(dialled.is_some() && sockets.upstream().is_none(), "the other belongs to the raw connection");
        drop(two);
        assert_eq!(raw.take(one_each, None).err(), Some(Full::Descriptors), "nothing is left for its upstream, and it holds nothing");
        drop(dialled);
        assert!(raw.take(one_each, None).is_ok());
    }
}
