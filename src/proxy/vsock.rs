//! Stream sockets between a virtual machine and its host (`vsock(7)`). The types fit every stream socket; only
//! [`address`] knows of the family.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Every context id of this machine (`VMADDR_CID_ANY`).
const ANY: u32 = u32::MAX;

/// A connected socket.
#[derive(Debug)]
pub(super) struct Stream(AsyncFd<Socket>);

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener(AsyncFd<Socket>);

/// Without a context id, all of this machine's.
pub(super) fn address(cid: Option<u32>, port: u32) -> SockAddr {
    SockAddr::vsock(cid.unwrap_or(ANY), port)
}

/// Whether the kernel has the family at all.
pub(super) fn available() -> io::Result<()> {
    socket(Domain::VSOCK).map(drop)
}

fn socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::AFNOSUPPORT) => {
            let fix = "this kernel has no vsock, or the service may not use it: load the module vsock and one for the way to the host (a guest: \
                       vmw_vsock_virtio_transport; a host: vhost_vsock), and in a systemd unit add AF_VSOCK to RestrictAddressFamilies=";
            io::Error::new(error.kind(), format!("{error}: {fix}"))
        }
        _ => error,
    })?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What replaces this is unsafe, for the sake of types whose descriptor changes under the runtime: that of a [`Socket`], which
/// nobody else has here, is the same to its end.
#[allow(deprecated, reason = "its only fault is one that a socket does not have")]
fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::new(socket)
}

impl Listener {
    pub(super) fn bind(at: &SockAddr, backlog: u16) -> io::Result<Self> {
        let socket = socket(at.domain())?;
        socket.bind(at).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::ADDRNOTAVAIL) => {
                let fix = "the context id is not this machine's: write \"any\" in its place, or load the module vsock_loopback for 1";
                io::Error::new(error.kind(), format!("{error}: {fix}"))
            }
            Some(Errno::ACCESS) => io::Error::new(error.kind(), format!("{error}: ports below 1024 need CAP_NET_BIND_SERVICE")),
            _ => error,
        })?;
        socket.listen(backlog.into())?;
        watched(socket).map(Self)
    }

    /// With the peer's address, as the kernel vouches for it.
    pub(super) async fn accept(&self) -> io::Result<(Stream, SockAddr)> {
        let (socket, from) = self.0.async_io(Interest::READABLE, Socket::accept).await?;
        Ok((Stream::of(socket)?, from))
    }
}

impl Stream {
    fn of(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        watched(socket).map(Self)
    }

    pub(super) async fn connect(to: &SockAddr) -> io::Result<Self> {
        let socket = socket(to.domain())?;
        let begun = socket.connect(to);
        // Watched only now: a socket that was never connected counts as writable.
        let stream = Self::of(socket)?;
        match begun {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {
                drop(stream.0.writable().await?);
                let socket = stream.0.get_ref();
                socket.take_error()?.map_or(Ok(()), Err)?;
                // Writable, but not by being connected.
                socket.peer_addr()?;
                Ok(stream)
            }
            begun => begun.map(|()| stream),
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, send: impl Fn(&Socket) -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match ready.try_io(|socket| send(socket.get_ref())) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(sent) => return Poll::Ready(sent),
                Err(_not_ready) => {}
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            match ready.try_io(|socket| socket.get_ref().read(into.initialize_unfilled())) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(received) => return Poll::Ready(received.map(|count| into.advance(count))),
                Err(_not_ready) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut socket| socket.write(bytes))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut socket| socket.write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.0.get_ref().shutdown(Shutdown::Write) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (Stream, Stream) {
        let (one, other) = Socket::pair(Domain::UNIX, Type::STREAM, None).expect("a pair");
        (Stream::of(one).expect("a stream"), Stream::of(other).expect("a stream"))
    }

    #[tokio::test]
    async fn more_than_the_kernel_holds_goes_both_ways_at_once_and_each_way_ends_by_itself() {
        let (one, other) = pair();
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let carry = async |stream: Stream, bytes: &[u8]| {
            let (mut reading, mut writing) = tokio::io::split(stream);
            let write = async {
                writing.write_all(bytes).await.expect("written");
                writing.shutdown().await.expect("ended");
            };
            let mut read = Vec::new();
            let (_, end) = tokio::join!(write, reading.read_to_end(&mut read));
            end.expect("read");
            read
        };
        let (there, here) = tokio::join!(carry(one, &bytes), carry(other, &bytes[..1_000_003]));
        assert!(there == bytes[..1_000_003] && here == bytes);
    }

    #[tokio::test]
    async fn several_buffers_go_in_one_write() {
        let (mut one, mut other) = pair();
        assert!(one.is_write_vectored());
        let count = one.write_vectored(&[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")]).await.expect("written");
        assert_eq!(count, 5);
        let mut read = [0; 5];
        other.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"abcde");
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_an_error_to_writers_and_none_to_who_ends() {
        let (mut one, other) = pair();
        drop(other);
        assert_eq!(one.write(b"x").await.expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
        one.shutdown().await.expect("ended");
    }

    #[tokio::test]
    async fn connections_are_accepted_after_waiting_for_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = SockAddr::unix(folder.path().join("s")).expect("an address");
        let refused = Stream::connect(&at).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        let listener = Listener::bind(&at, 8).expect("bound");
        for _ in 0..2 {
            let connecting = async {
                tokio::task::yield_now().await;
                Stream::connect(&at).await.expect("connected")
            };
            let (accepted, mut made) = tokio::join!(listener.accept(), connecting);
            made.write_all(b"hello").await.expect("written");
            let mut read = [0; 5];
            accepted.expect("accepted").0.read_exact(&mut read).await.expect("read");
            assert_eq!(&read, b"hello");
        }
    }

    /// Over TCP, where the kernel answers later, as over vsock.
    #[tokio::test]
    async fn a_connection_that_takes_its_time_is_waited_for_and_its_refusal_told() {
        let listener = Listener::bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into(), 8).expect("bound");
        let at = listener.0.get_ref().local_addr().expect("an address");
        let (accepted, made) = tokio::join!(listener.accept(), Stream::connect(&at));
        let (mut accepted, mut made) = (accepted.expect("accepted").0, made.expect("connected"));
        made.write_all(b"x").await.expect("written");
        assert_eq!(accepted.read_u8().await.expect("read"), b'x');
        drop(listener);
        assert_eq!(Stream::connect(&at).await.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_kernel_without_the_family_is_told_of() {
        // A number that no family has.
        let error = socket(Domain::from(250)).expect_err("no such family");
        assert!(error.to_string().contains("this kernel has no vsock"), "{error}");
    }

    #[test]
    fn addresses_are_what_the_kernel_knows() {
        assert_eq!(address(Some(3), 9).as_vsock_address(), Some((3, 9)));
        assert_eq!(address(None, 9).as_vsock_address(), Some((u32::MAX, 9)));
        assert_eq!(address(None, 9).domain(), Domain::VSOCK);
    }
}
