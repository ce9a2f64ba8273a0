//! The stream below hyper: counts, remembers when it last moved, vetoes ambiguous HTTP/1.1, resets what ends early.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::abuse::{Abuse, Frames};
use super::framing::{Ambiguous, Framing};
use super::resets::Resets;
use crate::proxy::stream::Stream;

/// The first octets of an HTTP/2 connection (RFC 9113 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of one body may be on its way over HTTP/2 that its reader has not taken: less than the kernel would hold for a
/// connection of its own.
pub(super) const STREAM_WINDOW: u32 = 512 * 1024;

/// The same for a client that has proven nothing, and connects as often as it likes: what HTTP/2 begins with (RFC 9113 6.9.2).
pub(super) const STRANGERS_WINDOW: u32 = 65_535;

/// So many bodies that stand still leave the others of their connection their windows.
const MOST_STANDING: u32 = 1024;

/// Room for the bodies of all `streams` at once, of `each` this window. Those of many clients share a connection between
/// sidecars: a window for a few would be filled by a few that read nothing, and everybody else's bodies would stand still with
/// theirs.
pub(super) fn connection_window(each: u32, streams: usize) -> u32 {
    each * (u32::try_from(streams).unwrap_or(u32::MAX).min(MOST_STANDING) + 1)
}

/// Which HTTP is spoken on a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// What a wire tells of itself while hyper has it.
#[derive(Debug)]
pub(in crate::proxy) struct Gauge {
    begun: Instant,
    /// Milliseconds from `begun` to the last octet in either direction.
    moved: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// Milliseconds from `begun` to the first octet of a head that is not complete, and one more.
    head: AtomicU64,
    /// Requests of HTTP/1.1 whose head has begun.
    heads: AtomicUsize,
    /// From here on bytes pass unread: the connection was upgraded.
    released: AtomicBool,
    vetoed: OnceLock<Veto>,
}

/// Why the bytes of a peer were refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::proxy) enum Veto {
    Abuse(Abuse),
    Ambiguous(Ambiguous),
}

impl Veto {
    pub(in crate::proxy) const fn name(self) -> &'static str {
        match self {
            Self::Abuse(abuse) => abuse.name(),
            Self::Ambiguous(ambiguous) => ambiguous.name(),
        }
    }
}

impl Gauge {
    pub(in crate::proxy) fn new() -> Arc<Self> {
        let (moved, received, sent, head) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (heads, released) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { begun: Instant::now(), moved, received, sent, head, heads, released, vetoed: OnceLock::new() })
    }

    pub(in crate::proxy) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(in crate::proxy) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(in crate::proxy) fn vetoed(&self) -> Option<Veto> {
        self.vetoed.get().copied()
    }

    /// How long nothing has moved.
    pub(in crate::proxy) fn still_for(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }

    /// For how long a request's head has been coming.
    pub(super) fn head_since(&self) -> Option<Duration> {
        let began = self.head.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.begun.elapsed().saturating_sub(Duration::from_millis(began)))
    }

    /// How many requests of HTTP/1.1 have begun, served or not.
    pub(super) fn heads(&self) -> usize {
        self.heads.load(Ordering::Relaxed)
    }

    fn note_head(&self, within: bool, heads: usize) {
        self.heads.store(heads, Ordering::Relaxed);
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        if !within {
            self.head.store(0, Ordering::Relaxed);
        } else if self.head.load(Ordering::Relaxed) == 0 {
            self.head.store(now + 1, Ordering::Relaxed);
        }
    }

    /// The next octets are no HTTP. To be said before the peer is told.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
    }

    fn note(&self, count: &AtomicU64, octets: usize) {
        count.fetch_add(u64::try_from(octets).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.moved.store(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A stream under hyper.
pub(in crate::proxy) struct Wire {
    stream: Stream,
    gauge: Arc<Gauge>,
    counters: Option<(Counter, Counter)>,
    rule: Rule,
    /// Of HTTP/2 that hyper reads.
    resets: Option<Box<Resets>>,
    /// What was read to tell the version, not yet passed on.
    ahead: Vec<u8>,
    /// The last read brought so much to do that others have their turn before the next.
    crowded: bool,
}

/// So many frames in one read are no data: a connection that brings them would keep a thread to itself.
const CROWD: u32 = 256;

enum Rule {
    /// The far end is an upstream: its answers are parsed by hyper and written anew.
    None,
    Framing(Framing),
    Frames(Frames),
    /// A veto was told to hyper; nothing more is read.
    Ended,
}

impl Wire {
    /// An upstream's stream.
    pub(in crate::proxy) fn upstream(stream: Stream, gauge: Arc<Gauge>) -> Self {
        Self { stream, gauge, counters: None, rule: Rule::None, resets: None, ahead: Vec::new(), crowded: false }
    }

    /// The stream of an upstream that speaks HTTP/2.
    pub(super) fn upstream_of_frames(stream: Stream, gauge: Arc<Gauge>) -> Self {
        Self { resets: Some(Box::new(Resets::behind(0))), ..Self::upstream(stream, gauge) }
    }

    /// The stream of a session of connections (`proxy/tunnel`): frames are watched, and whoever forwards counts.
    pub(in crate::proxy) fn tunnels(stream: Stream, gauge: Arc<Gauge>) -> Self {
        Self { stream, gauge, counters: None, rule: Rule::Frames(Frames::of_connections()), resets: None, ahead: Vec::new(), crowded: false }
    }

    /// A client's stream, on which `version` is spoken.
    pub(super) fn downstream(stream: Stream, version: Version, ahead: Vec<u8>, gauge: Arc<Gauge>, counters: (Counter, Counter)) -> Self {
        let (rule, resets) = match version {
            Version::Http1 => (Rule::Framing(Framing::new()), None),
            Version::Http2 => (Rule::Frames(Frames::new()), Some(Box::new(Resets::behind(PREFACE.len())))),
        };
        Self { stream, gauge, counters: Some(counters), rule, resets, ahead, crowded: false }
    }

    /// Judges what was just read into `into` behind `before`, and puts an end in its place where it is refused.
    fn judge(&mut self, into: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        if let Some(resets) = &mut self.resets {
            resets.follow(into.filled_mut().get_mut(before..).unwrap_or_default());
        }
        let fresh = into.filled().get(before..).unwrap_or_default();
        match &mut self.rule {
            Rule::None | Rule::Ended => Ok(()),
            Rule::Framing(framing) => {
                if framing.between_requests() && self.gauge.released.load(Ordering::SeqCst) {
                    self.rule = Rule::None;
                    return Ok(());
                }
                let followed = framing.follow(fresh);
                self.gauge.note_head(framing.in_head(), framing.begun());
                let Err((good, why)) = followed else { return Ok(()) };
                let _ = self.gauge.vetoed.set(Veto::Ambiguous(why));
                self.rule = Rule::Ended;
                into.set_filled(before.saturating_add(good));
                self.ahead = POISON.to_vec();
                self.pass_ahead(into);
                Ok(())
            }
            Rule::Frames(frames) => {
                let followed = frames.follow(fresh, Instant::now());
                self.crowded = frames.seen() > CROWD;
                followed.map_err(|abuse| {
                    let _ = self.gauge.vetoed.set(Veto::Abuse(abuse));
                    self.rule = Rule::Ended;
                    io::Error::new(io::ErrorKind::InvalidData, abuse.name())
                })
            }
        }
    }
}

/// In place of what was refused. A NUL is no part of a head or a chunk's header: hyper refuses it, and answers 400 where an
/// answer is due; the empty line makes it look.
const POISON: &[u8] = b"\0\r\n\r\n";

impl Wire {
    fn wrote(&self, octets: usize) {
        self.gauge.note(&self.gauge.sent, octets);
        if let Some((_, sent)) = &self.counters {
            sent.inc_by(u64::try_from(octets).unwrap_or(u64::MAX));
        }
    }

    fn pass_ahead(&mut self, into: &mut ReadBuf<'_>) {
        let count = self.ahead.len().min(into.remaining());
        into.put_slice(self.ahead.get(..count).unwrap_or_default());
        self.ahead.drain(..count);
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.rule, Rule::Ended) {
            this.pass_ahead(into);
            return Poll::Ready(Ok(()));
        }
        if std::mem::take(&mut this.crowded) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        if this.ahead.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
            let octets = into.filled().len().saturating_sub(before);
            this.gauge.note(&this.gauge.received, octets);
            if let Some((received, _)) = &this.counters {
                received.inc_by(u64::try_from(octets).unwrap_or(u64::MAX));
            }
        } else {
            this.pass_ahead(into);
        }
        Poll::Ready(this.judge(into, before))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bytes))?;
        this.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        // hyper closes only what came to its end; everything else is reset when it is dropped.
        this.stream.finish();
        Poll::Ready(Ok(()))
    }
}

/// Reads as little as tells which version a client speaks that was not asked: HTTP/2 with prior knowledge, or HTTP/1.1.
/// Gives what was read.
pub(super) async fn version(stream: &mut Stream) -> io::Result<(Version, Vec<u8>)> {
    let mut read = Vec::with_capacity(PREFACE.len());
    while read.len() < PREFACE.len() {
        let mut octets = [0; PREFACE.len()];
        let room = octets.get_mut(..PREFACE.len().saturating_sub(read.len())).unwrap_or_default();
        let count = stream.read(room).await?;
        read.extend_from_slice(octets.get(..count).unwrap_or_default());
        if count == 0 || !PREFACE.starts_with(&read) {
            return Ok((Version::Http1, read));
        }
    }
    Ok((Version::Http2, read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bodies_of_a_connection_but_one_may_stand_still() {
        for streams in [1, 100, 1024] {
            for each in [STREAM_WINDOW, STRANGERS_WINDOW] {
                assert!(u64::from(connection_window(each, streams)) >= (streams as u64 + 1) * u64::from(each));
            }
        }
        assert!(connection_window(STREAM_WINDOW, usize::MAX) < 1 << 31, "more than HTTP/2 has");
    }
}
