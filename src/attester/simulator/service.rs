//! A vendor's collateral service as a server, with the manners of the real ones on bad days.
//!
//! Plain HTTP on loopback with the vendor's own paths and headers; what is served is a [`Shelf`]'s.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a service has.
pub trait Shelf: Send + Sync {
    /// The page at a path, query included; with a flaw, made wrong that way. `None` for what it does not have.
    fn page(&self, path: &str, flaw: Flaw) -> Option<Page>;
}

/// A page.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    /// Headers beside those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What is wrong with what a page says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Flaw {
    /// It has expired.
    Expired,
    /// Nothing.
    #[default]
    None,
    /// Its JSON is not in the order that was signed.
    Reordered,
    /// Somebody else's keys signed it.
    WrongIssuer,
}

/// How a service misbehaves, until it is told otherwise.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ServiceFault {
    /// Does not have anything: 404.
    Absent,
    /// Serves pages that are wrong.
    Flawed(Flaw),
    /// Takes the question and never answers.
    Hang,
    /// Does not.
    #[default]
    None,
    /// Serves two megabytes.
    Oversized,
    /// Resets the connection after the question.
    Reset,
    /// Answers this status, 500 or more.
    Server(u16),
    /// Answers after this time.
    Slow(Duration),
    /// Answers 429, with or without the seconds to wait.
    Throttled(Option<u64>),
    /// Breaks off in the middle of the body.
    Truncated,
}

/// A running service. Dropped, it ends.
pub struct Service {
    address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

struct State {
    shelf: Box<dyn Shelf>,
    fault: Mutex<ServiceFault>,
    asked: Mutex<HashMap<String, u64>>,
}

impl Service {
    /// Serves a shelf at a free port of loopback.
    ///
    /// # Errors
    /// No port.
    pub async fn start(shelf: impl Shelf + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { shelf: Box::new(shelf), fault: Mutex::default(), asked: Mutex::default() });
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move { drop(state.answer(stream).await) });
            }
        });
        Ok(Self { address, state, serving })
    }

    /// Its address, as sources are written.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on misbehaves like this.
    pub fn misbehave(&self, fault: ServiceFault) {
        *self.state.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// How often it was asked for each path.
    #[must_use]
    pub fn asked(&self) -> HashMap<String, u64> {
        self.state.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it was asked at all.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.asked().values().sum()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl State {
    async fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let Some(path) = question(&mut stream).await? else { return Ok(()) };
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner).entry(path.clone()).or_default() += 1;
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let flaw = if let ServiceFault::Flawed(flaw) = fault { flaw } else { Flaw::None };
        let page = self.shelf.page(&path, flaw);
        match fault {
            ServiceFault::Hang => std::future::pending().await,
            ServiceFault::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
            ServiceFault::Absent => say(&mut stream, "404 Not Found", &[], b"<html>not found</html>").await,
            ServiceFault::Server(status) => say(&mut stream, &format!("{status} Trouble"), &[], b"<html>trouble</html>").await,
            ServiceFault::Throttled(after) => {
                let after: Vec<_> = after.map(|seconds| ("Retry-After", seconds.to_string())).into_iter().collect();
                say(&mut stream, "429 Too Many Requests", &after, b"").await
            }
            ServiceFault::Oversized => say(&mut stream, "200 OK", &[], &vec![b' '; 2 << 20]).await,
            ServiceFault::Flawed(_) | ServiceFault::None | ServiceFault::Slow(_) | ServiceFault::Truncated => {
                if let ServiceFault::Slow(delay) = fault {
                    tokio::time::sleep(delay).await;
                }
                let Some(Page { headers, body }) = page else { return say(&mut stream, "404 Not Found", &[], b"").await };
                if fault == ServiceFault::Truncated {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    stream.write_all(head.as_bytes()).await?;
                    stream.write_all(&body[..body.len() / 2]).await?;
                    return stream.shutdown().await;
                }
                say(&mut stream, "200 OK", &headers, &body).await
            }
        }
    }
}

/// The path of a GET; `None` for anything else.
async fn question(stream: &mut TcpStream) -> io::Result<Option<String>> {
    const LONGEST: usize = 16 * 1024;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST || stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    Ok(words.next().filter(|method| *method == "GET").and_then(|_| words.next()).map(str::to_owned))
}

async fn say(stream: &mut TcpStream, status: &str, headers: &[(&str, String)], body: &[u8]) -> io::Result<()> {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}
