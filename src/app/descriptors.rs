//! File descriptors: how many this process may have, and how many connections that is.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Descriptors for all that is no connection: the log, listeners, the address with metrics (32 connections), the attester,
/// collateral, policies, name resolution.
const RESERVE: u64 = 128;

/// Raises the soft limit to the hard one, for the whole process. Where the system does not allow it, all stays as it is.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(target: "descriptors", %error, "the limit of open files (RLIMIT_NOFILE) cannot be raised to the hard one");
    }
}

/// How many descriptors this process may have now.
#[must_use]
pub fn permitted() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many it may have once [`raise`] was called.
#[must_use]
pub fn within_reach() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// For how many connections `descriptors` are enough: each has two, for its two ends.
#[must_use]
pub fn connections(descriptors: u64) -> usize {
    let left = descriptors.saturating_sub(RESERVE.min(descriptors / 4));
    usize::try_from(left / 2).unwrap_or(usize::MAX).max(1)
}

/// What an operator should know where the written `connections` of all listeners are more than `descriptors` allow.
#[must_use]
pub fn lacking(config: &Config, descriptors: u64) -> Option<String> {
    let written = config.listeners.iter().filter_map(|listener| listener.limits.connections).fold(0, usize::saturating_add);
    let possible = connections(descriptors);
    (written > possible).then(|| {
        format!(
            "the listeners' limits allow {written} connections, and a limit of {descriptors} open files is enough for {possible}: raise the hard \
             RLIMIT_NOFILE (LimitNOFILE= of systemd, --ulimit nofile= of a container), or write smaller listener.limits.connections"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_two_descriptors_and_some_are_kept_back() {
        for (descriptors, possible) in [(0, 1), (64, 24), (1024, 448), (20_000, 9936), (1 << 20, 524_224)] {
            assert_eq!(connections(descriptors), possible, "{descriptors}");
        }
        assert!(connections(u64::MAX) > 1 << 40);
    }
}
