//! Asks a client where it wants to go, in the way of its listener, and tells it what became of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::hello::{Hello, MOST};
use super::socks::{self, Code, Malformed, Step};
use super::{Accounts, By, Capture, Choice, Host, Wanted};
use crate::proxy::listen::Caller;
use crate::proxy::plan::Upstream;
use crate::proxy::stream::{Stream, canonical};
use crate::refusal::{Denied, Finding, Reason};

/// What a client wants, and may have.
pub(in crate::proxy) struct Asked<'a> {
    pub(in crate::proxy) wanted: Wanted,
    pub(in crate::proxy) upstream: &'a Arc<Upstream>,
    /// What was read of the client's own bytes: they go first.
    ahead: Vec<u8>,
    reply: Reply,
}

/// A client that does not get anywhere. It was told already, where it is told anything.
pub(in crate::proxy) struct Unasked {
    pub(in crate::proxy) wanted: Option<Wanted>,
    pub(in crate::proxy) denied: Denied,
}

/// How a client is told what became of its wish.
#[derive(Clone, Copy)]
enum Reply {
    Socks5,
    /// It does not know that we are here.
    Unaware,
}

/// Why a client is not served, as it is told.
#[derive(Clone, Copy)]
pub(in crate::proxy) enum Why<'a> {
    Refused(&'a Denied),
    Unreachable(&'a [(String, io::Error)]),
}

impl Choice {
    /// Learns where a client wants to go, and what serves that.
    pub(in crate::proxy) async fn ask(&self, stream: &mut Stream, from: &Caller, limit: Duration) -> Result<Asked<'_>, Unasked> {
        let asking = async {
            match &self.by {
                By::Captured(capture) => self.captured(stream, from, *capture).await,
                By::ServerName => self.served(stream),
                By::ServerNamePassing => {
                    let (name, ahead) = passing(stream).await?;
                    // After its first bytes: a connection of ours is known before it has any.
                    if self.loops(stream, from) {
                        return Err(Unasked { wanted: None, denied: looped() });
                    }
                    self.found(Wanted { host: Host::Name(name), port: None }, ahead, Reply::Unaware)
                }
                By::Socks5(accounts) => self.socks5(stream, accounts.as_deref()).await,
            }
        };
        let late = || Unasked::of(Finding::new(Reason::Timeout, "destination", format!("one within {} s", limit.as_secs()), "none"));
        tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| Err(late()))
    }

    /// Whether this is a connection that we made: one that was captured, or one that passes back to where it came from.
    pub(in crate::proxy) fn loops(&self, stream: &Stream, from: &Caller) -> bool {
        let ends = match self.by {
            By::Captured(capture) => from.ends.map(|(peer, _)| peer).zip(meant(stream, from, capture)),
            By::ServerNamePassing => from.ends,
            // Their upstreams are attested, and nobody attests to itself.
            By::ServerName | By::Socks5(_) => None,
        };
        ends.is_some_and(|(peer, meant)| crate::proxy::stream::is_ours(peer, meant))
    }

    fn found(&self, wanted: Wanted, ahead: Vec<u8>, reply: Reply) -> Result<Asked<'_>, Unasked> {
        match self.among.lead(&wanted) {
            Ok(upstream) => Ok(Asked { wanted, upstream, ahead, reply }),
            Err(denied) => Err(Unasked { wanted: Some(wanted), denied }),
        }
    }

    /// The address that a captured connection was for; where the table has none of it, the name in its handshake.
    async fn captured(&self, stream: &mut Stream, from: &Caller, capture: Capture) -> Result<Asked<'_>, Unasked> {
        let ours = from.ends.map(|(_, ours)| canonical(ours));
        let meant = meant(stream, from, capture).map(canonical);
        let direct = capture == Capture::Redirect && meant == ours;
        let Some(meant) = meant.filter(|_| !direct) else {
            return Err(Unasked::of(Finding::new(Reason::ProxyLoop, "destination", "a captured connection", "one that was made to this listener itself")));
        };
        if self.loops(stream, from) {
            return Err(Unasked { wanted: Some(meant.into()), denied: looped() });
        }
        let wanted = Wanted::from(meant);
        if self.among.find(&wanted).is_some() || !self.among.names(meant.port()) {
            return self.found(wanted, Vec::new(), Reply::Unaware);
        }
        let (name, ahead) = passing(stream).await.map_err(|unasked| Unasked { wanted: Some(wanted), ..unasked })?;
        self.found(Wanted { host: Host::Name(name), port: Some(meant.port()) }, ahead, Reply::Unaware)
    }

    /// The name that a client asked for in its handshake with us.
    fn served(&self, stream: &Stream) -> Result<Asked<'_>, Unasked> {
        match stream.server_name().and_then(Host::read) {
            Some(host) => self.found(Wanted { host, port: None }, Vec::new(), Reply::Unaware),
            None => Err(Unasked::of(Finding::new(Reason::RequestMalformed, "handshake.server_name", "a name", "none"))),
        }
    }

    async fn socks5(&self, stream: &mut Stream, accounts: Option<&Accounts>) -> Result<Asked<'_>, Unasked> {
        match negotiate(stream, accounts).await {
            Ok(wanted) => match self.found(wanted, Vec::new(), Reply::Socks5) {
                Ok(asked) => Ok(asked),
                Err(unasked) => {
                    bye(stream, &Code::NotAllowed.reply()).await;
                    Err(unasked)
                }
            },
            Err((last, denied)) => {
                if let Some(last) = last {
                    bye(stream, &last).await;
                }
                Err(Unasked { wanted: None, denied })
            }
        }
    }
}

/// Where a captured connection was meant to go.
fn meant(stream: &Stream, from: &Caller, capture: Capture) -> Option<SocketAddr> {
    match capture {
        Capture::Redirect => stream.original_destination().ok(),
        Capture::Tproxy => from.ends.map(|(_, ours)| ours),
    }
}

/// A captured connection of our own.
pub(in crate::proxy) fn looped() -> Denied {
    Finding::new(Reason::ProxyLoop, "source", "an application's connection", "one that this proxy made").into()
}

impl Unasked {
    fn of(finding: Finding) -> Self {
        Self { wanted: None, denied: finding.into() }
    }
}

impl Asked<'_> {
    /// Tells the client that its bytes are forwarded from here on; gives those that were read already.
    pub(in crate::proxy) async fn granted(self, stream: &mut Stream) -> io::Result<Vec<u8>> {
        match self.reply {
            Reply::Socks5 => stream.write_all(&Code::Succeeded.reply()).await?,
            Reply::Unaware => {}
        }
        Ok(self.ahead)
    }

    /// Tells the client that nothing comes of it, as far as there is a way to.
    pub(in crate::proxy) async fn refused(&self, stream: &mut Stream, why: Why<'_>) {
        match self.reply {
            Reply::Socks5 => bye(stream, &code(why).reply()).await,
            Reply::Unaware => {}
        }
    }
}

/// The last words to a client that gets nowhere; closed and not reset, so that it can read them.
async fn bye(stream: &mut Stream, octets: &[u8]) {
    let told = async {
        stream.write_all(octets).await?;
        stream.shutdown().await
    };
    if tokio::time::timeout(LAST_WORDS, told).await.is_ok_and(|told| told.is_ok()) {
        stream.finish();
    }
}

const LAST_WORDS: Duration = Duration::from_secs(1);

fn code(why: Why<'_>) -> Code {
    match why {
        Why::Refused(denied) if denied.reason().undecided() => Code::GeneralFailure,
        Why::Refused(_) => Code::NotAllowed,
        Why::Unreachable(tried) => match tried.last().map(|(_, error)| error.kind()) {
            Some(io::ErrorKind::ConnectionRefused) => Code::ConnectionRefused,
            Some(io::ErrorKind::NetworkUnreachable) => Code::NetworkUnreachable,
            _ => Code::HostUnreachable,
        },
    }
}

/// The client's part of SOCKS5 up to its wish, and our answers before it. An error comes with the last words, if any are due.
async fn negotiate(stream: &mut Stream, accounts: Option<&Accounts>) -> Result<Wanted, (Option<Vec<u8>>, Denied)> {
    let silent = |denied| (None, denied);
    let offered = whole(stream, socks::methods).await.map_err(silent)?.map_err(|why| silent(malformed("socks.methods", why)))?;
    let method = if accounts.is_some() { socks::ACCOUNT } else { socks::NO_ACCOUNT };
    if !offered.contains(&method) {
        let expected = if accounts.is_some() { "a user and a password (method 2)" } else { "no authentication (method 0)" };
        let denied = Finding::new(Reason::RequestMalformed, "socks.methods", expected, format!("methods {offered:?}")).into();
        return Err((Some(vec![5, socks::NO_METHOD]), denied));
    }
    stream.write_all(&[5, method]).await.map_err(|error| silent(lost(&error)))?;
    if let Some(accounts) = accounts {
        let account = whole(stream, socks::account).await.map_err(silent)?.map_err(|why| silent(malformed("socks.account", why)))?;
        if !accounts.know(&account.user, &account.password) {
            let denied = Finding::new(Reason::AccountUnknown, "socks.account", "an account of users_file with its password", "another").into();
            return Err((Some(vec![1, 1]), denied));
        }
        stream.write_all(&[1, 0]).await.map_err(|error| silent(lost(&error)))?;
    }
    let asked = whole(stream, socks::request).await.map_err(silent)?;
    asked.map_err(|why| (Some(Code::of(why).reply().to_vec()), malformed("socks.request", why)))
}

/// Reads a message, and not one octet behind it.
async fn whole<T>(stream: &mut (impl AsyncRead + Unpin), read: fn(&[u8]) -> Result<Step<T>, Malformed>) -> Result<Result<T, Malformed>, Denied> {
    let mut message = Vec::new();
    loop {
        match read(&message) {
            Ok(Step::Done(read)) => return Ok(Ok(read)),
            Ok(Step::More(more)) => {
                let there = message.len();
                message.resize(there.saturating_add(more), 0);
                let rest = message.get_mut(there..).unwrap_or_default();
                stream.read_exact(rest).await.map_err(|error| lost(&error))?;
            }
            Err(why) => return Ok(Err(why)),
        }
    }
}

/// The server name of a handshake that passes, and all that was read.
async fn passing(stream: &mut Stream) -> Result<(String, Vec<u8>), Unasked> {
    let (mut hello, mut ahead) = (Hello::default(), Vec::new());
    let nameless = |found: String| Unasked::of(Finding::new(Reason::RequestMalformed, "handshake.server_name", "a ClientHello with a server name", found));
    loop {
        let mut octets = [0; 4096];
        let count = stream.read(&mut octets).await.map_err(|error| Unasked { wanted: None, denied: lost(&error) })?;
        let fresh = octets.get(..count).unwrap_or_default();
        if fresh.is_empty() || ahead.len().saturating_add(count) > MOST {
            let found = if fresh.is_empty() { "the end of the connection".to_owned() } else { format!("more than {MOST} octets without one") };
            return Err(nameless(found));
        }
        ahead.extend_from_slice(fresh);
        match hello.follow(fresh) {
            Ok(Some(name)) => return Ok((name, ahead)),
            Ok(None) => {}
            Err(why) => return Err(nameless(why.to_string())),
        }
    }
}

fn malformed(field: &'static str, why: Malformed) -> Denied {
    Finding::new(Reason::RequestMalformed, field, "SOCKS5", why.to_string()).into()
}

fn lost(error: &io::Error) -> Denied {
    Finding::new(Reason::RequestMalformed, "destination", "one", format!("the connection ended: {error}")).into()
}
