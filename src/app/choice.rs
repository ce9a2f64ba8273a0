//! Where clients may go, from what was configured to what the proxy is told.

use std::sync::Arc;

use crate::config::choice as written;
use crate::proxy::choice::{Accounts, By, Capture, Choice, Destination, Destinations, Place};
use crate::proxy::plan::{Network, Upstream};

/// How clients of a listener say where they want to go, and where they may.
///
/// # Errors
/// Those of `upstream`, which makes the upstream of a name.
pub(super) fn choice(choice: &written::Choice, upstream: impl FnMut(&str) -> anyhow::Result<Arc<Upstream>>) -> anyhow::Result<Choice> {
    let by = match &choice.by {
        written::By::Captured(written::Capture::Redirect) => By::Captured(Capture::Redirect),
        written::By::Captured(written::Capture::Tproxy) => By::Captured(Capture::Tproxy),
        written::By::ServerName => By::ServerName,
        written::By::ServerNamePassing => By::ServerNamePassing,
        written::By::Socks5(accounts) => By::Socks5(accounts.clone().map(|accounts| Arc::new(Accounts::new(accounts.digests)))),
    };
    Ok(Choice { by, among: destinations(&choice.among, upstream)? })
}

/// A table of destinations.
///
/// # Errors
/// Those of `upstream`, which makes the upstream of a name.
pub(super) fn destinations(lines: &[written::Destination], mut upstream: impl FnMut(&str) -> anyhow::Result<Arc<Upstream>>) -> anyhow::Result<Destinations> {
    let mut read = Vec::with_capacity(lines.len());
    for line in lines {
        let upstream = upstream(&line.upstream)?;
        let place = match &line.place {
            written::Place::Name(name) => Place::Name(name.clone()),
            written::Place::Network(address, bits) => Place::Network(Network { address: *address, bits: *bits }),
        };
        read.push(Destination { place, port: line.port, upstream });
    }
    Ok(Destinations::new(read))
}
