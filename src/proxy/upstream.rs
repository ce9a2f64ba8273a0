//! Connections to upstreams. Made only for what was admitted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::admit::Admitted;
use super::plan::{Target, Upstream};
use super::stream::Socket;
use super::vsock;

/// A connection to an upstream, for the peer that was admitted.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) socket: Socket,
    pub(super) target: String,
    /// Which of the upstream's targets it is.
    pub(super) place: usize,
}

/// No target of an upstream can be reached: the targets that were tried, each with what happened.
#[derive(Debug)]
pub(super) struct Unreachable(pub(super) Vec<(String, io::Error)>);

/// Connects to the first target that can be reached, in their order, on behalf of what was admitted.
pub(super) async fn dial(upstream: &Upstream, admitted: &Admitted) -> Result<Dialled, Unreachable> {
    let mut tried = Vec::new();
    for (place, target) in upstream.targets.iter().enumerate() {
        match connect(admitted, target, None, upstream.connect_timeout).await {
            Ok(socket) => return Ok(Dialled { socket, target: target.to_string(), place }),
            Err(error) => tried.push((target.to_string(), error)),
        }
    }
    Err(Unreachable(tried))
}

/// Connects to one target, on behalf of what was admitted: to `address` where its name is known to lead there.
pub(super) async fn connect(_: &Admitted, target: &Target, address: Option<SocketAddr>, limit: Duration) -> io::Result<Socket> {
    let connecting = async {
        match (target, address) {
            (Target::Loopback { host, port }, address) => {
                let found: Vec<_> = match address {
                    Some(address) => vec![address],
                    None => tokio::net::lookup_host((host.as_str(), *port)).await?.collect(),
                };
                TcpStream::connect(&*of_this_machine(host, &found)?).await.map(Socket::made)
            }
            (Target::Tcp { .. }, Some(address)) => TcpStream::connect(address).await.map(Socket::made),
            // Tries every address the name has.
            (Target::Tcp { host, port }, None) => TcpStream::connect((host.as_str(), *port)).await.map(Socket::made),
            (Target::Unix(path), _) => UnixStream::connect(path).await.map(Socket::unix),
            (Target::Vsock { cid, port }, _) => vsock::Stream::connect(&vsock::address(Some(*cid), *port)).await.map(Socket::vsock),
        }
    };
    tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The loopback addresses among those that a name was resolved to.
pub(super) fn of_this_machine(host: &str, found: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
    let (here, elsewhere): (Vec<_>, Vec<_>) = found.iter().copied().partition(|address: &SocketAddr| address.ip().to_canonical().is_loopback());
    match elsewhere.first() {
        Some(address) if here.is_empty() => {
            let why = format!("{host} is resolved to {}, which is not this machine: plain bytes do not go there", address.ip());
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        }
        _ => Ok(here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::admit;

    #[tokio::test]
    async fn what_must_be_this_machine_is_not_dialled_elsewhere() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let dial = async |host: &str| {
            let target = Target::Loopback { host: host.to_owned(), port };
            connect(&admit::local(), &target, None, Duration::from_secs(5)).await
        };
        assert!(dial("127.0.0.1").await.is_ok());
        // Every address of this machine, and none that is loopback.
        let denied = dial("0.0.0.0").await.expect_err("not loopback");
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains("0.0.0.0 is resolved to 0.0.0.0"), "{denied}");
    }

    #[test]
    fn of_several_addresses_only_those_of_this_machine_are_taken() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<SocketAddr>>();
        let mixed = addresses(&["192.0.2.1:80", "[::1]:80", "127.0.0.2:80", "[::ffff:127.0.0.1]:80"]);
        assert_eq!(of_this_machine("localhost", &mixed).expect("some"), mixed[1..]);
        assert!(of_this_machine("localhost", &addresses(&["192.0.2.1:80", "[2001:db8::1]:80"])).is_err());
    }
}
