//! Large buffers while bytes flow, given back when a connection idles: an idle connection holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// For connections that carry little at a time.
const SMALL: usize = 16 * 1024;

/// For connections in full flow: measured twice as fast as [`SMALL`] (fewer system calls, larger writes).
const LARGE: usize = 256 * 1024;

/// How many free buffers of each size a thread keeps.
const KEPT: usize = 4;

thread_local! {
    static FREE: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Which size a connection's next buffer has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Size {
    #[default]
    Small,
    Large,
}

impl Size {
    const fn octets(self) -> usize {
        match self {
            Self::Large => LARGE,
            Self::Small => SMALL,
        }
    }

    const fn shelf(self) -> usize {
        match self {
            Self::Large => 1,
            Self::Small => 0,
        }
    }
}

/// A borrowed buffer with what was read into it and not yet taken out. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    size: Size,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) fn borrow(size: Size) -> Self {
        let free = FREE.with_borrow_mut(|free| free[size.shelf()].pop());
        Self { bytes: free.unwrap_or_else(|| vec![0; size.octets()].into_boxed_slice()), size, start: 0, end: 0 }
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.end == self.bytes.len()
    }

    /// Takes `count` octets out at the front.
    pub(crate) fn take(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once into the free space at the back; returns how much came.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, from: Pin<&mut impl AsyncRead>) -> Poll<io::Result<usize>> {
        let mut space = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(from.poll_read(cx, &mut space))?;
        let count = space.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }

    /// The size that fits what was just read.
    pub(crate) const fn fitting(&self) -> Size {
        if self.is_full() || self.end > SMALL { Size::Large } else { Size::Small }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // The thread may be ending and its shelf gone; then the buffer is freed.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let shelf = &mut free[self.size.shelf()];
            if shelf.len() < KEPT {
                shelf.push(bytes);
            }
        });
    }
}

/// Reads ahead in large steps for a reader that takes small ones: rustls asks for 4 KiB at a time, which would be four
/// system calls for each record. Writes go straight through.
#[derive(Debug)]
pub struct ReadAhead<S> {
    inner: S,
    buffer: Option<Buffer>,
    size: Size,
    most: Size,
}

impl<S> ReadAhead<S> {
    /// Reads ahead of `inner`, in small buffers until [`ReadAhead::widen`].
    pub const fn new(inner: S) -> Self {
        Self { inner, buffer: None, size: Size::Small, most: Size::Small }
    }

    /// From now on in large ones too: whoever writes is known.
    pub const fn widen(&mut self) {
        self.most = Size::Large;
    }

    /// What is read ahead of. Reading from it directly would skip what was read ahead.
    pub const fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Gives up what is read ahead of, and with it what was read ahead.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut buffer = match this.buffer.take() {
            Some(buffer) => buffer,
            None => {
                let mut buffer = Buffer::borrow(this.size);
                // Nothing there, or an end, or an error: the buffer goes back at once.
                if ready!(buffer.poll_fill(cx, Pin::new(&mut this.inner)))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                this.size = if this.most == Size::Large { buffer.fitting() } else { Size::Small };
                buffer
            }
        };
        let count = buffer.filled().len().min(into.remaining());
        into.put_slice(&buffer.filled()[..count]);
        buffer.take(count);
        this.buffer = (!buffer.is_empty()).then_some(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_come_through_in_order_and_nothing_is_held_when_idle() -> io::Result<()> {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut far = ReadAhead::new(far);
        far.widen();
        let sent: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        near.write_all(&sent).await?;
        let mut received = vec![0; sent.len()];
        for step in received.chunks_mut(4096) {
            far.read_exact(step).await?;
        }
        assert!(received == sent);
        assert!(far.buffer.is_none());
        drop(near);
        assert_eq!(far.read(&mut [0; 10]).await?, 0);
        assert!(far.buffer.is_none());
        Ok(())
    }
}
