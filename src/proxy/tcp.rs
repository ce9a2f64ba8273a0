//! Forwards bytes both ways: half-close, back-pressure, an idle limit and an end.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep};

use crate::tls::buffer::{Buffer, Size};

/// How long a connection may live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    /// Without a byte in either direction.
    pub(super) idle: Duration,
    /// At all.
    pub(super) end: Instant,
}

/// How forwarding ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Its end came before that of the data.
    Expired,
    /// Both sides closed, everything was delivered.
    Finished,
    /// Nothing moved for too long.
    Idle,
    /// Reading from or writing to the named end failed.
    Lost(End, io::Error),
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The side that connected to us.
    Downstream,
    /// The side we connected to.
    Upstream,
}

impl End {
    /// Its spelling in logs and metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("at the end of its permitted life"),
            Self::Finished => f.write_str("finished"),
            Self::Idle => f.write_str("idle for too long"),
            Self::Lost(end, error) => write!(f, "{end} lost: {error}"),
        }
    }
}

/// What was forwarded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Forwarded {
    /// Octets from downstream to upstream.
    pub(super) up: u64,
    /// Octets from upstream to downstream.
    pub(super) down: u64,
}

/// Writes what goes ahead of everything else, within the same limits.
///
/// # Errors
/// How it ended in place of that.
pub(super) async fn lead<U: AsyncWrite + Unpin>(upstream: &mut U, octets: &[u8], life: Life) -> Result<(), Ended> {
    let idle_end = Instant::now() + life.idle;
    match tokio::time::timeout_at(life.end.min(idle_end), upstream.write_all(octets)).await {
        Ok(written) => written.map_err(|error| Ended::Lost(End::Upstream, error)),
        Err(_) if life.end <= idle_end => Err(Ended::Expired),
        Err(_) => Err(Ended::Idle),
    }
}

/// One direction.
struct Flow<'a> {
    buffer: Option<Buffer>,
    size: Size,
    state: State,
    unflushed: bool,
    count: &'a mut u64,
    counter: &'a Counter,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Reading,
    /// The source has ended; what is left is written, then the sink's direction is closed.
    Ending,
    Done,
}

/// Forwards until both directions are done, one fails, or `life` ends.
pub(super) async fn forward<D: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin>(
    (downstream, upstream): (&mut D, &mut U),
    life: Life,
    (received, sent): (&Counter, &Counter),
    forwarded: &mut Forwarded,
) -> Ended {
    let mut up = Flow::new(&mut forwarded.up, received);
    let mut down = Flow::new(&mut forwarded.down, sent);
    let mut alarm = pin!(tokio::time::sleep_until(life.end.min(Instant::now() + life.idle)));
    let mut quiet_since = Instant::now();
    poll_fn(|cx| {
        let before = (*up.count, *down.count);
        let upward = up.poll(cx, downstream, upstream, (End::Downstream, End::Upstream));
        let downward = down.poll(cx, upstream, downstream, (End::Upstream, End::Downstream));
        match (upward, downward) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ended::Finished),
            (Poll::Ready(Err((end, error))), _) | (_, Poll::Ready(Err((end, error)))) => return Poll::Ready(Ended::Lost(end, error)),
            _ => {}
        }
        if before != (*up.count, *down.count) {
            quiet_since = Instant::now();
        }
        poll_alarm(cx, alarm.as_mut(), life, quiet_since)
    })
    .await
}

/// The alarm stands at the earlier of both limits as they were when it was set; activity moves one of them.
fn poll_alarm(cx: &mut Context<'_>, mut alarm: Pin<&mut Sleep>, life: Life, quiet_since: Instant) -> Poll<Ended> {
    loop {
        ready!(alarm.as_mut().poll(cx));
        let now = Instant::now();
        if now >= life.end {
            return Poll::Ready(Ended::Expired);
        }
        let idle_end = quiet_since + life.idle;
        if now >= idle_end {
            return Poll::Ready(Ended::Idle);
        }
        alarm.as_mut().reset(idle_end.min(life.end));
    }
}

impl<'a> Flow<'a> {
    const fn new(count: &'a mut u64, counter: &'a Counter) -> Self {
        Self { buffer: None, size: Size::Small, state: State::Reading, unflushed: false, count, counter }
    }

    fn poll<F: AsyncRead + Unpin, T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        ends: (End, End),
    ) -> Poll<Result<(), (End, io::Error)>> {
        loop {
            let filled = self.fill(cx, from).map_err(|error| (ends.0, error))?;
            ready!(self.empty(cx, to)).map_err(|error| (ends.1, error))?;
            match (self.state, filled) {
                (State::Done, _) => return Poll::Ready(Ok(())),
                (State::Ending, _) => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|error| (ends.1, error))?;
                    self.state = State::Done;
                    return Poll::Ready(Ok(()));
                }
                (State::Reading, Filled::Waiting) => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|error| (ends.1, error))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
                (State::Reading, Filled::Full) => {}
            }
        }
    }

    /// Reads as much as there is and fits. Holds a buffer afterwards only if something is in it.
    fn fill(&mut self, cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Filled> {
        if self.state != State::Reading {
            return Ok(Filled::Waiting);
        }
        let mut buffer = self.buffer.take().unwrap_or_else(|| Buffer::borrow(self.size));
        let filled = loop {
            if buffer.is_full() {
                break Filled::Full;
            }
            match buffer.poll_fill(cx, Pin::new(&mut *from)) {
                Poll::Pending => break Filled::Waiting,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(0)) => {
                    self.state = State::Ending;
                    break Filled::Waiting;
                }
                Poll::Ready(Ok(_)) => {}
            }
        };
        if !buffer.is_empty() {
            self.size = buffer.fitting();
            self.buffer = Some(buffer);
        }
        Ok(filled)
    }

    /// Writes everything that was read, or waits for the sink: that is the back-pressure.
    fn empty(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        let Some(buffer) = &mut self.buffer else { return Poll::Ready(Ok(())) };
        while !buffer.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, buffer.filled()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            buffer.take(written);
            self.unflushed = true;
            let octets = u64::try_from(written).unwrap_or(u64::MAX);
            *self.count = self.count.saturating_add(octets);
            self.counter.inc_by(octets);
        }
        self.buffer = None;
        Poll::Ready(Ok(()))
    }
}

/// Why filling stopped.
#[derive(Clone, Copy)]
enum Filled {
    Full,
    Waiting,
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn start(life: Life) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<(Ended, Forwarded)>) {
        let (client, mut downstream) = duplex(1000);
        let (mut upstream, server) = duplex(1000);
        let task = tokio::spawn(async move {
            let (received, sent, mut forwarded) = (Counter::default(), Counter::default(), Forwarded::default());
            let ended = forward((&mut downstream, &mut upstream), life, (&received, &sent), &mut forwarded).await;
            assert_eq!((received.get(), sent.get()), (forwarded.up, forwarded.down));
            (ended, forwarded)
        });
        (client, server, task)
    }

    fn life(idle: Duration) -> Life {
        Life { idle, end: Instant::now() + LIFE }
    }

    #[tokio::test]
    async fn each_direction_closes_by_itself_and_every_byte_arrives() -> io::Result<()> {
        let (mut client, mut server, task) = start(life(LIFE));
        let request: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let sending = async {
            client.write_all(&request).await?;
            client.shutdown().await
        };
        let mut received = Vec::new();
        let (sent, read) = tokio::join!(sending, server.read_to_end(&mut received));
        sent?;
        read?;
        assert!(received == request);
        // The other direction is still open.
        server.write_all(b"answer").await?;
        server.shutdown().await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        assert_eq!(answer, "answer");
        let (ended, forwarded) = task.await?;
        assert!(matches!(ended, Ended::Finished));
        assert_eq!((forwarded.up, forwarded.down), (300_000, 6));
        Ok(())
    }

    #[tokio::test]
    async fn a_reader_that_stops_stops_the_writer() -> io::Result<()> {
        let (mut client, server, task) = start(life(LIFE));
        let more = vec![7; 1 << 20];
        let stuck = tokio::time::timeout(Duration::from_millis(200), client.write_all(&more)).await;
        assert!(stuck.is_err(), "a mebibyte was taken although nobody reads");
        drop(server);
        assert!(matches!(task.await?.0, Ended::Lost(End::Upstream, _)));
        Ok(())
    }

    #[tokio::test]
    async fn what_goes_ahead_has_the_same_limits() -> io::Result<()> {
        let (mut upstream, mut server) = duplex(1000);
        let stuck = lead(&mut upstream, &[7; 1001], life(Duration::from_millis(20))).await;
        assert!(matches!(stuck, Err(Ended::Idle)), "{stuck:?}");
        let old = lead(&mut upstream, &[7], Life { idle: LIFE, end: Instant::now() + Duration::from_millis(20) }).await;
        assert!(matches!(old, Err(Ended::Expired)), "{old:?}");
        server.read_exact(&mut [0; 1000]).await?;
        assert!(matches!(lead(&mut upstream, b"hello", life(LIFE)).await, Ok(())));
        drop(server);
        assert!(matches!(lead(&mut upstream, &[7; 1001], life(LIFE)).await, Err(Ended::Lost(End::Upstream, _))));
        Ok(())
    }

    #[tokio::test]
    async fn an_idle_connection_and_an_old_one_end() -> io::Result<()> {
        let (_client, _server, task) = start(life(Duration::from_millis(20)));
        assert!(matches!(task.await?.0, Ended::Idle));
        let (_client, _server, task) = start(Life { idle: LIFE, end: Instant::now() + Duration::from_millis(20) });
        assert!(matches!(task.await?.0, Ended::Expired));
        Ok(())
    }
}
