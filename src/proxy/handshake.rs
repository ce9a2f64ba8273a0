//! The handshakes of one listener: in time, counted, and admitted.

use std::net::IpAddr;

use super::Parts;
use super::admit::{self, Admitted, Refused, Surroundings};
use super::deadline::in_time;
use super::limits::network;
use super::plan::Limits;
use super::stream::{Socket, Stream};
use crate::admin::metrics::Direction;
use crate::refusal::Denied;
use crate::tls::{self, ClientSide, ServerSide};

/// For whom handshakes are made.
#[derive(Clone, Copy)]
pub(super) struct Handshakes<'a> {
    /// The listener's name.
    pub(super) listener: &'a str,
    pub(super) limits: &'a Limits,
    pub(super) parts: &'a Parts,
}

impl Handshakes<'_> {
    /// A client that connected to us; `None` for a CA that looked for the answer to a challenge and got it.
    pub(super) async fn inbound(self, side: &ServerSide, socket: Socket, source: Option<IpAddr>) -> Result<Option<(Admitted, Stream)>, Denied> {
        let handshake = in_time("handshake", self.limits.handshake, tls::greet(side, socket)).await;
        self.counted(Direction::Inbound, &handshake);
        let Some(pending) = handshake? else { return Ok(None) };
        opened(admit::client(side, pending, self.surroundings(source.map(network))).await).map(Some)
    }

    /// A server that we connected to.
    pub(super) async fn outbound(self, side: &ClientSide, socket: Socket) -> Result<(Admitted, Stream), Denied> {
        let handshake = in_time("handshake", self.limits.handshake, tls::connect(side, socket)).await;
        self.counted(Direction::Outbound, &handshake);
        opened(admit::server(side, handshake?, self.surroundings(None)).await)
    }

    fn surroundings(&self, source: Option<IpAddr>) -> Surroundings<'_> {
        Surroundings { clock: &self.parts.clock, metrics: &self.parts.metrics, limit: self.limits.exchange, source }
    }

    fn counted<T>(&self, direction: Direction, handshake: &Result<T, Denied>) {
        let result = handshake.as_ref().map_or_else(|denied| denied.reason().code(), |_| "ok");
        self.parts.metrics.handshake(self.listener, direction, result);
    }
}

fn opened(decided: Result<admit::Opened<Socket>, Refused<Socket>>) -> Result<(Admitted, Stream), Denied> {
    match decided {
        Ok((admitted, stream)) => Ok((admitted, Stream::Tls(stream))),
        Err(Refused { denied, mut socket }) => {
            // It was told and had its time to read it.
            socket.finish();
            Err(denied)
        }
    }
}
