//! The sockets and streams that are forwarded.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::limits::Held;
use super::limits::network;
use super::tunnel::Tunnel;
use crate::tls::ReadAhead;

/// A connected socket. Dropped before [`Socket::finish`], a TCP connection is reset: whatever ends early (a refusal, a
/// panic, a drain cut short) is never mistaken for an end of the data.
#[derive(Debug)]
pub(super) struct Socket {
    kind: Kind,
    finished: bool,
    held: Option<Held>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        // Only latency is lost when the system refuses.
        let _ = stream.set_nodelay(true);
        Self { kind: Kind::Tcp(stream), finished: false, held: None }
    }

    pub(super) const fn unix(stream: UnixStream) -> Self {
        Self { kind: Kind::Unix(stream), finished: false, held: None }
    }

    /// Where a TCP connection comes from, as it is capped.
    pub(super) fn source(&self) -> Option<IpAddr> {
        match &self.kind {
            Kind::Tcp(stream) => stream.peer_addr().ok().map(|address| network(address.ip())),
            Kind::Unix(_) => None,
        }
    }

    /// Keeps its place among the sockets of the process to its end.
    pub(super) fn holding(mut self, held: Held) -> Self {
        self.held = Some(held);
        self
    }

    /// From here on closing is ordinary.
    pub(super) const fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let (Kind::Tcp(stream), false) = (&self.kind, self.finished) {
            // The other end then sees an ordinary close; there is nothing better to do.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Kind::Unix(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Kind::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// One end of a connection that was let through.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<ReadAhead<Socket>>>),
    /// One of many in a session.
    Tunnel(Box<Tunnel>),
}

impl Stream {
    /// See [`Socket::finish`].
    pub(super) fn finish(&mut self) {
        match self {
            Self::Plain(socket) => socket.finish(),
            Self::Tls(stream) => stream.get_mut().0.inner_mut().finish(),
            Self::Tunnel(tunnel) => tunnel.finish(),
        }
    }
}

impl Stream {
    /// The protocol id that was agreed on in the handshake.
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) | Self::Tunnel(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// The name that the client asked for in the handshake.
    pub(super) fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tls(stream) => match &**stream {
                TlsStream::Server(server) => server.get_ref().1.server_name(),
                TlsStream::Client(_) => None,
            },
            Self::Plain(_) | Self::Tunnel(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, into),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_shutdown(cx),
        }
    }
}
