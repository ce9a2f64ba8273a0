//! Bodies on their way through: streamed, never gathered; bounded in size and in standing still.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Version};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep};

/// What goes wrong with a body.
#[derive(Debug)]
pub(super) enum Broken {
    /// hyper's finding: the peer broke off, or sent what is no HTTP.
    Lost(hyper::Error),
    /// It stood still for too long.
    Slow,
    /// It is longer than allowed.
    TooLarge,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(error) => write!(f, "{error}"),
            Self::Slow => f.write_str("the body stood still for too long"),
            Self::TooLarge => f.write_str("the body is longer than allowed"),
        }
    }
}

impl std::error::Error for Broken {}

/// The body of every message here.
pub(super) type Body = UnsyncBoxBody<Bytes, Broken>;

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What became of a request's body, for whoever answers.
#[derive(Debug, Default)]
pub(super) struct Fate {
    slow: AtomicBool,
    too_large: AtomicBool,
    broken: AtomicBool,
}

impl Fate {
    pub(super) fn slow(&self) -> bool {
        self.slow.load(Ordering::SeqCst)
    }

    pub(super) fn too_large(&self) -> bool {
        self.too_large.load(Ordering::SeqCst)
    }

    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

/// A request's body that nobody has read to its end. Dropped, it is read a little further over HTTP/2: a client that is
/// still sending would otherwise be reset, and some then forget the answer they have (RFC 9113 8.1 tells them not to).
pub(super) struct Unread {
    incoming: Option<Incoming>,
    version: Version,
    /// Dropped with the last that reads.
    over: Option<oneshot::Sender<()>>,
}

/// The end of all reading of a request's body; none of one that was over before it began.
pub(super) struct Over(Option<oneshot::Receiver<()>>);

impl Over {
    /// Waits for it, briefly. An answer of ours that overtakes a body on its way is an answer that some clients lose:
    /// they stop sending, and wait for a stream to end that only they can end.
    pub(super) async fn briefly(self) {
        if let Self(Some(over)) = self {
            let _ = tokio::time::timeout(OVERTAKING, over).await;
        }
    }
}

impl Unread {
    pub(super) fn new(incoming: Incoming, version: Version) -> (Self, Over) {
        let (over, ended) = (!incoming.is_end_stream()).then(oneshot::channel).unzip();
        (Self { incoming: Some(incoming), version, over }, Over(ended))
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let Some(mut incoming) = self.incoming.take().filter(|incoming| self.version == Version::HTTP_2 && !incoming.is_end_stream()) else { return };
        let over = self.over.take();
        let rest = async move {
            let _over = over;
            let mut left = IGNORED;
            while let Some(Ok(frame)) = incoming.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(1, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        // Outside a runtime the program is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(Duration::from_secs(1), rest));
        }
    }
}

/// So many octets of a body that is not wanted are read and thrown away at most.
const IGNORED: usize = 64 * 1024;

/// How long an answer of ours waits for a body that is on its way: what fits in one flight is here by then.
const OVERTAKING: Duration = Duration::from_millis(250);

/// A request's body on its way up.
pub(super) struct Upward {
    inner: Unread,
    left: Option<u64>,
    patience: Duration,
    alarm: Pin<Box<Sleep>>,
    /// Not read before this says so: the client waits for `100 Continue`.
    gate: Option<Gate>,
    clean: Clean,
    fate: Arc<Fate>,
}

/// Removes what may not stand in trailers.
pub(super) type Clean = Arc<dyn Fn(&mut HeaderMap) + Send + Sync>;

/// Waits until the upstream agrees to a body, or a while: a server that knows no 100 says nothing (RFC 9110 10.1.1).
pub(super) struct Gate {
    opened: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// How long an upstream may take to agree before the body is sent all the same.
const AGREEMENT: Duration = Duration::from_secs(1);

impl Gate {
    pub(super) fn until(mut agreed: watch::Receiver<bool>) -> Self {
        let opened = async move {
            // An error means that nobody will say so any more.
            let _ = tokio::time::timeout(AGREEMENT, agreed.wait_for(|agreed| *agreed)).await;
        };
        Self { opened: Box::pin(opened) }
    }
}

impl Upward {
    pub(super) fn new(inner: Unread, most: Option<u64>, patience: Duration, gate: Option<Gate>, clean: Clean) -> (Self, Arc<Fate>) {
        let fate = Arc::<Fate>::default();
        let alarm = Box::pin(tokio::time::sleep(patience));
        (Self { inner, left: most, patience, alarm, gate, clean, fate: Arc::clone(&fate) }, fate)
    }
}

impl hyper::body::Body for Upward {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        if let Some(gate) = &mut this.gate {
            ready!(gate.opened.as_mut().poll(cx));
            this.gate = None;
            this.alarm.as_mut().reset(Instant::now() + this.patience);
        }
        let Poll::Ready(next) = this.inner.poll_frame(cx) else {
            ready!(this.alarm.as_mut().poll(cx));
            this.fate.slow.store(true, Ordering::SeqCst);
            return Poll::Ready(Some(Err(Broken::Slow)));
        };
        this.alarm.as_mut().reset(Instant::now() + this.patience);
        let frame = match next {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                this.fate.broken.store(true, Ordering::SeqCst);
                return Poll::Ready(Some(Err(Broken::Lost(error))));
            }
            Some(Ok(frame)) => frame,
        };
        if let (Some(left), Some(data)) = (&mut this.left, frame.data_ref()) {
            let Some(rest) = left.checked_sub(u64::try_from(data.len()).unwrap_or(u64::MAX)) else {
                this.fate.too_large.store(true, Ordering::SeqCst);
                return Poll::Ready(Some(Err(Broken::TooLarge)));
            };
            *left = rest;
        }
        Poll::Ready(Some(Ok(cleaned(frame, &this.clean))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body on its way down, with what is to be held until it is over.
pub(super) struct Downward<H: Held> {
    inner: Incoming,
    clean: Clean,
    held: Option<H>,
}

impl<H: Held> Downward<H> {
    pub(super) const fn new(inner: Incoming, clean: Clean, held: H) -> Self {
        Self { inner, clean, held: Some(held) }
    }
}

/// What is told when a body has come to its end, and not when it was broken off.
pub(super) trait Held {
    fn finished(&mut self);
}

impl<H: Held + Unpin> hyper::body::Body for Downward<H> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let next = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if next.is_none() || (this.inner.is_end_stream() && next.as_ref().is_some_and(Result::is_ok)) {
            if let Some(held) = &mut this.held {
                held.finished();
            }
            this.held = None;
        }
        Poll::Ready(next.map(|frame| frame.map(|frame| cleaned(frame, &this.clean)).map_err(Broken::Lost)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<H: Held> Drop for Downward<H> {
    fn drop(&mut self) {
        // A body that was over before it began is never polled.
        if let (Some(held), true) = (&mut self.held, self.inner.is_end_stream()) {
            held.finished();
        }
    }
}

fn cleaned(frame: Frame<Bytes>, clean: &Clean) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
