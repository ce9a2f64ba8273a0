//! The log on standard error: lines go through a bounded queue to a thread that does nothing but write them.
//!
//! Whoever reads the log may be slow, stand still or go away; that costs lines, which are counted, and never holds up
//! a connection, a probe or a signal.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Map, Value};
use tracing_subscriber::EnvFilter;

use crate::config::{self, LogFormat};

/// The most octets that wait to be written. At 300 octets a line it is the log of some 10,000 connections.
const QUEUE: usize = 4 << 20;

/// The most octets of one line: what container runtimes take without splitting it.
const LINE: usize = 16 * 1024;

/// How long the end waits for what is queued.
const FLUSH: Duration = Duration::from_secs(2);

/// Said whatever the level: that safety is weakened, and that lines are missing.
const ALWAYS: [&str; 2] = ["insecure=warn", "log=warn"];

/// The running log. Dropped, it writes what is queued, for [`FLUSH`] at most.
#[must_use]
pub(super) struct Log(Arc<Queue>);

impl Log {
    /// Starts it for the whole process; panics are told in it too.
    ///
    /// # Errors
    /// There is a log already, or the system gives no thread.
    pub(super) fn start(settings: config::Log) -> anyhow::Result<Self> {
        // A descriptor of its own: a write that hangs holds no lock that others take for standard error.
        let out = File::from(io::stderr().as_fd().try_clone_to_owned().context("no standard error")?);
        let queue = Arc::new(Queue::new(settings.format, QUEUE));
        let filter = EnvFilter::try_new([&[settings.level], &ALWAYS[..]].concat().join(",")).context("log level")?;
        let lines = Arc::clone(&queue);
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || Line(Arc::clone(&lines))).log_internal_errors(false);
        let started = match settings.format {
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
            LogFormat::Text => builder.with_ansi(false).try_init(),
        };
        started.map_err(|error| anyhow::anyhow!("the log does not start: {error}"))?;
        let writing = Arc::clone(&queue);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_to(out, &confess)).context("no thread for the log")?;
        // The usual hook writes to standard error itself, and would wait for its reader.
        std::panic::set_hook(Box::new(|panic| tracing::error!(target: "panic", place = panic.location().map(ToString::to_string), "{panic}")));
        Ok(Self(queue))
    }

    /// Counts dropped lines here as well: those until now, and all that follow.
    pub(super) fn count_into(&self, counter: Counter) {
        self.0.count_into(counter);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Nobody writes what is logged from here on.
        if !std::thread::panicking() {
            drop(std::panic::take_hook());
        }
        self.0.end(FLUSH);
    }
}

/// Says how many lines are missing. It is a line as any other, and may be dropped itself: the number is of them all.
fn confess(dropped: u64) {
    tracing::warn!(target: "log", dropped, "lines of the log were dropped since the start: what reads it is too slow");
}

/// What waits to be written.
struct Queue {
    format: LogFormat,
    most: usize,
    state: Mutex<State>,
    /// There is something to write, or nothing more will come.
    filled: Condvar,
    /// Everything is written.
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    octets: usize,
    /// Lines that were taken from the queue and are not yet written.
    writing: bool,
    dropped: u64,
    /// Lines that could not be written. They are counted and not confessed: that would be one more line to fail.
    unwritten: u64,
    counter: Counter,
    ended: bool,
}

impl Queue {
    fn new(format: LogFormat, most: usize) -> Self {
        Self { format, most, state: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_into(&self, counter: Counter) {
        let mut state = self.lock();
        counter.inc_by(state.dropped.saturating_add(state.unwritten));
        state.counter = counter;
    }

    /// Takes one line, or drops and counts it. Never waits for the writer.
    fn push(&self, line: &[u8]) {
        let line = if line.len() > LINE { cut(line, self.format) } else { line.to_vec() };
        let mut state = self.lock();
        if state.octets.saturating_add(line.len()) > self.most {
            state.dropped = state.dropped.saturating_add(1);
            state.counter.inc();
            return;
        }
        state.octets += line.len();
        state.lines.push_back(line);
        drop(state);
        self.filled.notify_one();
    }

    /// Writes until the end. `confess` is told the lines dropped so far once those before them are written.
    fn write_to(&self, mut out: impl Write, confess: &dyn Fn(u64)) {
        let mut confessed = 0;
        let mut state = self.lock();
        loop {
            state = self.filled.wait_while(state, |state| state.lines.is_empty() && !state.ended).unwrap_or_else(PoisonError::into_inner);
            let lines = std::mem::take(&mut state.lines);
            if lines.is_empty() {
                return;
            }
            state.writing = true;
            drop(state);
            for line in lines {
                // A reader that went away, or a full disk behind it, costs the line and nothing else.
                let written = out.write_all(&line).is_ok();
                let mut state = self.lock();
                state.octets -= line.len();
                if !written {
                    state.unwritten = state.unwritten.saturating_add(1);
                    state.counter.inc();
                }
            }
            let dropped = self.lock().dropped;
            if dropped > confessed {
                confessed = dropped;
                confess(dropped);
            }
            state = self.lock();
            state.writing = false;
            if state.lines.is_empty() {
                self.emptied.notify_all();
            }
        }
    }

    /// Waits until everything is written, for `limit` at most.
    fn end(&self, limit: Duration) {
        let mut state = self.lock();
        state.ended = true;
        self.filled.notify_one();
        let unwritten = |state: &mut State| state.writing || !state.lines.is_empty();
        drop(self.emptied.wait_timeout_while(state, limit, unwritten));
    }
}

/// One event on its way into the queue: its formatter writes it in one piece.
struct Line(Arc<Queue>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line that is too long, shortened; one of JSON stays JSON.
fn cut(line: &[u8], format: LogFormat) -> Vec<u8> {
    let shorter = match format {
        LogFormat::Json => [1024, 64].into_iter().find_map(|most| shortened(line, most)).unwrap_or_default(),
        LogFormat::Text => truncated(&String::from_utf8_lossy(line), LINE - 64),
    };
    let shorter = if shorter.is_empty() { format!("{{\"level\":\"WARN\",\"target\":\"log\",\"cut\":{}}}", line.len()) } else { shorter };
    format!("{shorter}\n").into_bytes()
}

/// The object with its texts cut to `most` octets; `None` when that does not make it short enough.
fn shortened(line: &[u8], most: usize) -> Option<String> {
    let mut object: Map<String, Value> = serde_json::from_slice(line).ok()?;
    for value in object.values_mut() {
        if let Value::String(text) = value {
            *text = truncated(text, most);
        }
    }
    Some(Value::Object(object).to_string()).filter(|text| text.len() < LINE)
}

fn truncated(text: &str, most: usize) -> String {
    let text = text.trim_end_matches('\n');
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}… ({} octets in all)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes a line only when it is told to.
    struct Slow(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.1.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_they_are_counted_and_told() {
        let queue = Arc::new(Queue::new(LogFormat::Text, 12));
        let (go, wait) = mpsc::channel();
        let (seen, told) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        (0..5).for_each(|number| queue.push(format!("line{number}\n").as_bytes()));
        let counter = Counter::default();
        queue.count_into(counter.clone());
        assert_eq!(counter.get(), 3, "what was dropped before is counted too");
        let (slow, noted, writing) = (Slow(wait, Arc::clone(&seen)), Arc::clone(&told), Arc::clone(&queue));
        let writer = std::thread::spawn(move || writing.write_to(slow, &|dropped| noted.store(dropped, Ordering::SeqCst)));
        queue.push(b"another\n");
        assert_eq!(counter.get(), 4, "while the reader stands still");
        queue.end(Duration::from_millis(20));
        assert_eq!(told.load(Ordering::SeqCst), 0, "the end does not wait for ever");
        (0..2).for_each(|_| go.send(()).unwrap());
        writer.join().unwrap();
        assert_eq!(String::from_utf8(seen.lock().unwrap().clone()).unwrap(), "line0\nline1\n");
        assert_eq!(told.load(Ordering::SeqCst), 4, "it is told once lines are read again");
    }

    /// A disk without room.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_no_line_is_made_of_it() {
        let (queue, told) = (Queue::new(LogFormat::Text, 1000), AtomicU64::new(0));
        let counter = Counter::default();
        queue.count_into(counter.clone());
        (0..3).for_each(|_| queue.push(b"line\n"));
        queue.end(Duration::ZERO);
        queue.write_to(Full, &|dropped| told.store(dropped, Ordering::SeqCst));
        assert_eq!((counter.get(), told.load(Ordering::SeqCst)), (3, 0));
        let later = Counter::default();
        queue.count_into(later.clone());
        assert_eq!(later.get(), 3, "and before there was a counter");
    }

    #[test]
    fn what_is_queued_is_written_at_the_end() {
        let queue = Arc::new(Queue::new(LogFormat::Text, 1000));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (go, wait) = mpsc::channel();
        (0..3).for_each(|_| go.send(()).unwrap());
        queue.push(b"one\n");
        queue.push(b"two\n");
        let (slow, writing) = (Slow(wait, Arc::clone(&seen)), Arc::clone(&queue));
        let writer = std::thread::spawn(move || writing.write_to(slow, &|_| ()));
        queue.end(Duration::from_secs(20));
        assert_eq!(*seen.lock().unwrap(), b"one\ntwo\n");
        writer.join().unwrap();
    }

    #[test]
    fn no_line_is_longer_than_the_cap() {
        let text = cut(&[&[b'x'; LINE], "é\n".repeat(LINE).as_bytes()].concat(), LogFormat::Text);
        assert!(text.len() <= LINE && text.ends_with(b" octets in all)\n"), "{}", text.len());
        for (fields, kept) in [(3, 1024), (50, 64), (10_000, 0)] {
            let long: Map<String, Value> = (0..fields).map(|number| (format!("f{number}"), Value::String("\"".repeat(LINE)))).collect();
            let line = cut(Value::Object(long).to_string().as_bytes(), LogFormat::Json);
            assert!(line.len() <= LINE + 1 && line.ends_with(b"}\n"), "{}", line.len());
            let read: Map<String, Value> = serde_json::from_slice(&line).expect("JSON");
            let first = read.get("f0").and_then(Value::as_str).unwrap_or_default();
            assert!(first.starts_with(&"\"".repeat(kept)), "{fields}: {first}");
        }
    }
}
