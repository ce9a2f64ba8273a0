//! One connection inside a session, as bytes: END_STREAM is its half-close, RST_STREAM its reset, its window the
//! back-pressure.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io_error;
use super::near::Lease;

/// One end of a connection inside a session. Dropped before [`Tunnel::finish`], it is reset.
pub(in crate::proxy) struct Tunnel {
    send: SendStream<Bytes>,
    receive: Receive,
    /// What came in a frame and was not yet read.
    ahead: Bytes,
    closed: bool,
    finished: bool,
    /// The place in the session, where this is its near end.
    _lease: Option<Lease>,
}

enum Receive {
    /// The far end has not said whether it has its upstream.
    Answer(ResponseFuture),
    Data(RecvStream),
}

impl Tunnel {
    /// The end that asked. Bytes may be written at once; what is read comes behind the answer.
    pub(super) fn asked(send: SendStream<Bytes>, answer: ResponseFuture, lease: Lease) -> Self {
        Self { send, receive: Receive::Answer(answer), ahead: Bytes::new(), closed: false, finished: false, _lease: Some(lease) }
    }

    /// The end that answered.
    pub(super) const fn answered(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive: Receive::Data(receive), ahead: Bytes::new(), closed: false, finished: false, _lease: None }
    }

    /// From here on dropping it is ordinary.
    pub(in crate::proxy) const fn finish(&mut self) {
        self.finished = true;
    }

    fn poll_receiving(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut RecvStream>> {
        if let Receive::Answer(answer) = &mut self.receive {
            let answer = ready!(Pin::new(answer).poll(cx)).map_err(io_error)?;
            if !answer.status().is_success() {
                let why = format!("the far end has no connection for it: {}", answer.status());
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, why)));
            }
            self.receive = Receive::Data(answer.into_body());
        }
        match &mut self.receive {
            Receive::Data(receive) => Poll::Ready(Ok(receive)),
            Receive::Answer(_) => Poll::Pending,
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ahead.is_empty() {
            let receive = ready!(this.poll_receiving(cx))?;
            match ready!(receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.ahead = data.map_err(io_error)?,
            }
        }
        let count = this.ahead.len().min(into.remaining());
        into.put_slice(&this.ahead.split_to(count));
        let receive = ready!(this.poll_receiving(cx))?;
        // Only what was taken lets the sender send more. A stream that is over needs none.
        let _ = receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(bytes.len().min(super::SEND_BUFFER));
        // It tells of more than there was, not of what there is.
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(more) => drop(more.map_err(io_error)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = bytes.len().min(this.send.capacity());
        let data = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        this.send.send_data(data, false).map_err(io_error)?;
        Poll::Ready(Ok(count))
    }

    /// The session's own task writes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed {
            this.send.send_data(Bytes::new(), true).map_err(io_error)?;
            this.closed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.finished {
            // RFC 9113 8.5: how a reset of the connection is told.
            self.send.send_reset(Reason::CONNECT_ERROR);
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("closed", &self.closed).field("finished", &self.finished).finish_non_exhaustive()
    }
}
