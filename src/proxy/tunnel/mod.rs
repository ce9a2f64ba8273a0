//! Many connections in one attested session: CONNECT of HTTP/2, under the protocol id `portcullis1/tunnel`.
//!
//! A session is admitted once, as any connection is, and no stream is begun in it before. A stream is one connection of
//! an application: its ends, its resets and its back-pressure are those of the connection. The far end connects to its own
//! upstream and to nothing else: it takes no name from its peer.
//!
//! Not here: admission (`admit`), and what is done with a connection once it has both ends (`connection`).

pub(super) mod far;
pub(super) mod near;
mod stream;
mod window;

use std::io;
use std::time::Duration;

use tokio::sync::watch;

use super::standing;
use super::stream::Stream;
use crate::tls::ALPN_TUNNEL;

pub(super) use stream::Tunnel;

/// What a stream asks for: the upstream of the far listener, whichever that is. Anything else is refused. The name can
/// belong to nobody (RFC 2606), should a session ever reach what forwards by name.
const AUTHORITY: &str = "upstream.invalid:1";

/// How much one connection may have on its way that its reader has not taken: less than the kernel would hold for one of
/// its own.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The largest session.
pub(super) const MOST_STREAMS: u32 = 1024;

/// Larger than a TLS record, small enough that connections take turns.
const FRAME: u32 = 64 * 1024;

/// What h2 keeps of one connection until it is written: as much as that, for each of a session, has a peer that does not read.
const SEND_BUFFER: usize = 64 * 1024;

/// A head is a method and a fixed name.
const HEAD: u32 = 4 * 1024;

/// How often the far end is asked whether it is alive, and how long it may take to say so.
const ALIVE: Duration = Duration::from_secs(20);

/// Whether a session was agreed on in the handshake.
pub(super) fn agreed(stream: &Stream) -> bool {
    stream.alpn().is_some_and(|alpn| alpn == ALPN_TUNNEL)
}

/// How a session as a whole ended, for the connections in it: `None` while it lives.
type Fate = watch::Receiver<Option<standing::Ended>>;

/// Returns when the session's verdict holds no longer. Never where the session ends otherwise: its streams tell.
async fn ended(mut fate: Fate) -> standing::Ended {
    let told = fate.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
    match told {
        Some(ended) => ended,
        None => std::future::pending().await,
    }
}

fn io_error(error: h2::Error) -> io::Error {
    match error.reason() {
        Some(_) if error.is_reset() => io::Error::new(io::ErrorKind::ConnectionReset, error),
        _ => io::Error::other(error),
    }
}
