//! Connections to upstreams. Made only for what was admitted.

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::admit::Admitted;
use super::plan::{Target, Upstream};
use super::stream::Socket;

/// A connection to an upstream, for the peer that was admitted.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) socket: Socket,
    pub(super) target: String,
    pub(super) admitted: Admitted,
}

/// No target of an upstream can be reached: the targets that were tried, each with what happened.
#[derive(Debug)]
pub(super) struct Unreachable(pub(super) Vec<(String, io::Error)>);

/// Connects to the first target that can be reached, in their order.
pub(super) async fn dial(upstream: &Upstream, admitted: Admitted) -> Result<Dialled, Unreachable> {
    let mut tried = Vec::new();
    for target in &upstream.targets {
        match connect(&admitted, target, upstream.connect_timeout).await {
            Ok(socket) => return Ok(Dialled { socket, target: target.to_string(), admitted }),
            Err(error) => tried.push((target.to_string(), error)),
        }
    }
    Err(Unreachable(tried))
}

/// Connects to one target, on behalf of what was admitted.
pub(super) async fn connect(_: &Admitted, target: &Target, limit: Duration) -> io::Result<Socket> {
    let connecting = async {
        match target {
            // Tries every address the name has.
            Target::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).await.map(Socket::tcp),
            Target::Unix(path) => UnixStream::connect(path).await.map(Socket::unix),
        }
    };
    tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
