//! Names of targets, looked up now and then: connections that are kept follow where a name leads.
//!
//! The system's resolver tells no time to live, so names are looked up at an interval, and at once when what a name led to
//! cannot be reached. Not here: what is done with addresses that a name no longer has; that is for whoever keeps connections.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::plan::{Target, Upstream};
use super::upstream::of_this_machine;

/// One name that is followed. The task that looks it up ends with this.
#[derive(Debug)]
pub(super) struct Following {
    wanted: Arc<Notify>,
    looked: watch::Receiver<Option<Instant>>,
    task: AbortHandle,
}

/// More addresses of one name are not used.
const MOST: usize = 64;

/// Between two looks, however many want one.
const PAUSE: Duration = Duration::from_millis(250);

impl Following {
    /// Tells `found` the addresses of a target's name after each look, those of the family that the system prefers first.
    /// A look that fails tells nothing: what is known stays. `None` for a target without a name.
    pub(super) fn start(upstream: &Upstream, target: &Target, found: impl Fn(&[SocketAddr]) + Send + 'static) -> Option<Self> {
        let (Target::Loopback { host, port } | Target::Tcp { host, port }) = target else { return None };
        if host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let (name, host, port, here_alone, every) = (upstream.name.clone(), host.clone(), *port, matches!(target, Target::Loopback { .. }), upstream.refresh);
        let (wanted, (tell, looked)) = (Arc::new(Notify::new()), watch::channel(None));
        let woken = Arc::clone(&wanted);
        let looking = async move {
            let mut failed = false;
            loop {
                match look(&host, port, here_alone).await {
                    Ok(addresses) => {
                        failed = false;
                        found(&addresses);
                    }
                    Err(error) if !failed => {
                        failed = true;
                        tracing::warn!(
                            target: "upstream", event = "unresolved", upstream = name, name = host, %error,
                            fix = "what is known of the name stays in use; see that this machine can resolve it",
                        );
                    }
                    Err(_) => {}
                }
                tell.send_replace(Some(Instant::now()));
                tokio::time::sleep(PAUSE.min(every)).await;
                tokio::select! {
                    () = tokio::time::sleep(scattered(every.saturating_sub(PAUSE), RandomState::new().build_hasher().finish())) => {}
                    () = woken.notified() => {}
                }
            }
        };
        Some(Self { wanted, looked, task: tokio::spawn(looking).abort_handle() })
    }

    /// Looks no more: what is known stays.
    pub(super) fn end(&self) {
        self.task.abort();
    }

    /// Waits for a look that is not older than [`PAUSE`], for `limit` at most.
    pub(super) async fn again(&self, limit: Duration) {
        let mut looked = self.looked.clone();
        if looked.borrow_and_update().is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        self.wanted.notify_one();
        let _ = tokio::time::timeout(limit, looked.changed()).await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.end();
    }
}

async fn look(host: &str, port: u16, here_alone: bool) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let found = if here_alone { of_this_machine(host, &found)? } else { found };
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(chosen(found))
}

/// The addresses that are used, in an order that does not depend on the resolver's turns.
fn chosen(mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let preferred = found.first().is_some_and(SocketAddr::is_ipv6);
    found.sort_by_key(|address| (address.is_ipv6() != preferred, *address));
    found.dedup();
    found.truncate(MOST);
    found
}

/// Up to a fifth sooner or later, so that names are not all looked up at one time.
fn scattered(every: Duration, random: u64) -> Duration {
    let share = u32::try_from(random % 401).unwrap_or_default();
    every * 4 / 5 + every * share / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::plan::Originate;

    fn upstream() -> Upstream {
        Upstream {
            name: "app".to_owned(),
            targets: Vec::new(),
            originate: Originate::Plain,
            connect_timeout: Duration::from_secs(5),
            refresh: Duration::from_secs(30),
            multiplex: None,
        }
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn the_preferred_family_comes_first_and_the_resolvers_turns_change_nothing() {
        let expected = addresses(&["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"]);
        assert_eq!(chosen(addresses(&["192.0.2.2:1", "[2001:db8::1]:1", "192.0.2.1:1", "192.0.2.2:1"])), expected);
        assert_eq!(chosen(addresses(&["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"])), expected);
        assert_eq!(chosen(addresses(&["[2001:db8::1]:1", "192.0.2.2:1"])), addresses(&["[2001:db8::1]:1", "192.0.2.2:1"]));
    }

    #[test]
    fn a_name_with_very_many_addresses_has_some() {
        let many: Vec<SocketAddr> = (0..10_000_u32).rev().map(|n| SocketAddr::new(IpAddr::from(n.to_be_bytes()), 1)).collect();
        let used = chosen(many);
        assert_eq!(
            (used.len(), used.first(), used.last()),
            (MOST, Some(&"0.0.0.0:1".parse().expect("an address")), Some(&"0.0.0.63:1".parse().expect("an address")))
        );
    }

    #[test]
    fn looks_are_scattered_around_their_interval() {
        let every = Duration::from_secs(30);
        assert_eq!((scattered(every, 0), scattered(every, 200), scattered(every, 400)), (every * 4 / 5, every, every * 6 / 5));
        assert_eq!(scattered(Duration::ZERO, u64::MAX), Duration::ZERO);
        assert_eq!(scattered(Duration::from_secs(86_400), 401), Duration::from_secs(69_120));
    }

    #[tokio::test]
    async fn who_has_no_name_is_not_looked_up() {
        let upstream = upstream();
        for target in [
            Target::Tcp { host: "192.0.2.1".to_owned(), port: 1 },
            Target::Loopback { host: "::1".to_owned(), port: 1 },
            Target::Unix("/nowhere".into()),
            Target::Vsock { cid: 3, port: 1 },
        ] {
            assert!(Following::start(&upstream, &target, |_| unreachable!("it has no name")).is_none(), "{target}");
        }
    }

    /// However many want a look, few are made; the task ends with who wanted them.
    #[tokio::test]
    async fn looks_are_shared_and_end_with_who_wanted_them() {
        let upstream = upstream();
        let target = Target::Loopback { host: "localhost".to_owned(), port: 7 };
        let (count, mut counted) = watch::channel(0_usize);
        let following = Following::start(&upstream, &target, move |found| {
            assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{found:?}");
            count.send_modify(|count| *count += 1);
        });
        let following = following.expect("a name");
        for _ in 0..100 {
            following.again(Duration::from_secs(20)).await;
        }
        assert!((1..=3).contains(&*counted.borrow()), "{} looks", *counted.borrow());
        drop(following);
        let gone = async { while counted.changed().await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it ends");
    }
}
