//! The sockets and streams that are forwarded.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::limits::Held;
use super::tunnel::Tunnel;
use super::vsock;
use crate::tls::ReadAhead;

/// A connected socket. Dropped before [`Socket::finish`], a TCP connection is reset: whatever ends early (a refusal, a
/// panic, a drain cut short) is never mistaken for an end of the data.
#[derive(Debug)]
pub(super) struct Socket {
    kind: Kind,
    finished: bool,
    held: Option<Held>,
    /// From where to where we connected.
    ours: Option<Pair>,
}

/// The two ends of a connection. Either alone does not name one: the system gives connections to different places the same
/// port.
type Pair = (SocketAddr, SocketAddr);

/// The connections that this process made. One set for the process, as its sockets are: with capture, one listener may be
/// sent what another dialled.
static OURS: Mutex<BTreeSet<Pair>> = Mutex::new(BTreeSet::new());

/// Whether the connection between these was made by this process.
pub(super) fn is_ours(from: SocketAddr, to: SocketAddr) -> bool {
    OURS.lock().unwrap_or_else(PoisonError::into_inner).contains(&(canonical(from), canonical(to)))
}

/// An IPv4 address as one, also at a port for both families.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Vsock(vsock::Stream),
}

impl Socket {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        // Only latency is lost when the system refuses.
        let _ = stream.set_nodelay(true);
        Self { kind: Kind::Tcp(stream), finished: false, held: None, ours: None }
    }

    pub(super) const fn unix(stream: UnixStream) -> Self {
        Self { kind: Kind::Unix(stream), finished: false, held: None, ours: None }
    }

    pub(super) const fn vsock(stream: vsock::Stream) -> Self {
        Self { kind: Kind::Vsock(stream), finished: false, held: None, ours: None }
    }

    /// A connection that we made: see [`is_ours`].
    pub(super) fn made(stream: TcpStream) -> Self {
        let ours = stream.local_addr().ok().zip(stream.peer_addr().ok()).map(|(from, to)| (canonical(from), canonical(to)));
        OURS.lock().unwrap_or_else(PoisonError::into_inner).extend(ours);
        let mut socket = Self::tcp(stream);
        socket.ours = ours;
        socket
    }

    /// Where a captured connection was going before the system rewrote its destination.
    fn original_destination(&self) -> io::Result<SocketAddr> {
        let Kind::Tcp(stream) = &self.kind else { return Err(io::ErrorKind::Unsupported.into()) };
        let mapped = stream.local_addr()?.ip().to_canonical().is_ipv4();
        let socket = SockRef::from(stream);
        let original = if mapped { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
        original.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// The address that it is connected to, over TCP.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(stream) => stream.peer_addr().ok(),
            Kind::Unix(_) | Kind::Vsock(_) => None,
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
        if let Some(ours) = &self.ours {
            OURS.lock().unwrap_or_else(PoisonError::into_inner).remove(ours);
        }
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
            Kind::Vsock(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Vsock(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Kind::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Kind::Vsock(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
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
            Kind::Vsock(stream) => Pin::new(stream).poll_shutdown(cx),
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
    /// See [`Socket::original_destination`].
    pub(super) fn original_destination(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(socket) => socket.original_destination(),
            // Who speaks our TLS knows where it goes.
            Self::Tls(_) | Self::Tunnel(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

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

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bytes),
            Self::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Tunnel(tunnel) => tunnel.is_write_vectored(),
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
