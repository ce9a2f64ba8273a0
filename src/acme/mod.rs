//! Certificates of a CA by ACME (RFC 8555): asked for, answered for, renewed in time.
//!
//! The certificate's key is made in this process, goes to nobody and to no disk; the account's key lies in a folder that the
//! operator names. Not here: how challenges are answered on the wire (`tls` by TLS-ALPN-01, `proxy` by HTTP-01), and how
//! certificates are presented (`tls`).

mod account;
mod http;
mod order;
pub mod pace;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::TrustAnchor;
use tokio::task::{JoinHandle, JoinSet};

use crate::admin::metrics::Metrics;
use crate::clock::Clock;
use crate::tls::{Challenges, Identity};
use pace::Pace;

/// One try to get a certificate takes no longer: a CA that is slower is asked again.
const TRY: Duration = Duration::from_secs(180);

/// How often the wall clock is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// More answers at a time are no order's.
const MOST: usize = 256;

/// The CA and our account there.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of its directory, `https://`.
    pub directory: String,
    /// The only roots of its server's certificate; `None` for the public ones.
    pub roots: Option<Vec<TrustAnchor<'static>>>,
    /// Whom it may write to: `mailto:` addresses.
    pub contact: Vec<String>,
    /// The folder of the account's key; made when it is not there.
    pub state: PathBuf,
}

/// A CA that was set up. Clones share the account.
#[derive(Clone, Debug)]
pub struct Authority {
    settings: Arc<Settings>,
    client: http::Client,
    account: Arc<tokio::sync::Mutex<Option<account::Opened>>>,
}

impl Authority {
    /// Sets up; nobody is asked yet.
    ///
    /// # Errors
    /// When rustls takes no such client.
    pub fn new(settings: Settings) -> Result<Self, rustls::Error> {
        let client = http::Client::new(settings.roots.clone())?;
        Ok(Self { settings: Arc::new(settings), client, account: Arc::default() })
    }
}

/// How it is proved that names lead here.
#[derive(Clone, Debug)]
pub enum Answers {
    /// At port 80, by HTTP.
    Http01(Tokens),
    /// At port 443, in the handshake.
    TlsAlpn01(Challenges),
}

/// The answers that a CA may ask for by HTTP-01. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<Mutex<BTreeMap<String, String>>>);

/// Gives one answer until it is dropped.
#[derive(Debug)]
struct Given {
    tokens: Tokens,
    token: String,
}

impl Drop for Given {
    fn drop(&mut self) {
        self.tokens.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}

impl Tokens {
    /// The key authorization for a token of ours.
    #[must_use]
    pub fn answer(&self, token: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    fn give(&self, token: &str, authorization: &str) -> Option<Given> {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= MOST {
            return None;
        }
        given.insert(token.to_owned(), authorization.to_owned());
        Some(Given { tokens: self.clone(), token: token.to_owned() })
    }
}

/// Why there is no certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// The CA says no: the challenge failed, the account is not allowed, too many were asked for.
    Refused(String),
    /// Our own side: the folder of the account, the clock.
    State(String),
    /// The CA cannot be reached, or is too slow.
    Unreachable(String),
    /// What the CA gave is of no use.
    Unusable(String),
}

impl Failure {
    /// The metric label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::State(_) => "state",
            Self::Unreachable(_) => "unreachable",
            Self::Unusable(_) => "unusable",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "the CA refused: {why}"),
            Self::State(why) => f.write_str(why),
            Self::Unreachable(why) => write!(f, "the CA cannot be reached: {why}"),
            Self::Unusable(why) => write!(f, "what the CA gave is of no use: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

/// What a listener needs a certificate for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The listener, for the log and the metrics.
    pub listener: String,
    /// DNS names in lower case; at least one.
    pub names: Vec<String>,
    /// Where the certificate is published: of [`crate::tls::IdentitySettings::Issued`].
    pub identity: Identity,
    /// How the names are proved.
    pub answers: Answers,
}

/// Keeps one certificate current until it is dropped.
#[derive(Debug)]
pub struct Keeping(JoinHandle<()>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Gets what is wanted and renews it at two thirds of its life. Failures are tried again for ever, ever more slowly; the
/// old certificate is presented to its end.
pub fn keep(authority: Authority, wanted: Wanted, clock: Clock, metrics: Arc<Metrics>) -> Keeping {
    Keeping(tokio::spawn(keeping(authority, wanted, clock, metrics)))
}

async fn keeping(authority: Authority, wanted: Wanted, clock: Clock, metrics: Arc<Metrics>) {
    let (wanted, mut pace) = (Arc::new(wanted), Pace::new());
    loop {
        let obtained = obtained(&authority, &wanted, &clock).await;
        let listener = wanted.listener.as_str();
        metrics.acme_ordered(listener, obtained.as_ref().map_or_else(Failure::name, |_| "ok"));
        match obtained {
            Ok(validity) => {
                metrics.public_certificate(listener, validity.not_after.0);
                tracing::info!(target: "acme", event = "issued", listener, names = wanted.names.join(","), until = %validity.not_after);
                let due = validity.due(pace::fraction());
                if clock.now().is_ok_and(|now| now < due) {
                    pace.well();
                } else {
                    // Due the moment it was made: this clock or the CA's is wrong, and asking again at once helps neither.
                    tokio::time::sleep(pace.again(&Failure::Unusable(String::new()))).await;
                }
                reached(due, &clock).await;
            }
            Err(failure) => {
                let pause = pace.again(&failure);
                tracing::error!(target: "acme", event = "not_issued", listener, names = wanted.names.join(","), why = %failure, again_in_s = pause.as_secs());
                wanted.identity.failed(failure.to_string());
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// One try. A panic on what the CA sent is a failure of the try, not the end of trying.
async fn obtained(authority: &Authority, wanted: &Arc<Wanted>, clock: &Clock) -> Result<pace::Validity, Failure> {
    let (authority, wanted, clock) = (authority.clone(), Arc::clone(wanted), clock.clone());
    let mut attempt = JoinSet::new();
    attempt.spawn(async move { order::obtain(&authority, &wanted, &clock).await });
    match tokio::time::timeout(TRY, attempt.join_next()).await {
        Ok(Some(Ok(obtained))) => obtained,
        Ok(_) => Err(Failure::Unusable("a panic, which is a fault of this program: please report it".to_owned())),
        Err(_) => Err(Failure::Unreachable(format!("no certificate within {} s", TRY.as_secs()))),
    }
}

/// Waits until the wall clock says `moment`. In steps: a timer does not see when the clock is set or the machine slept.
async fn reached(moment: crate::evidence::Timestamp, clock: &Clock) {
    while clock.now().is_ok_and(|now| now < moment) {
        tokio::time::sleep(LOOK).await;
    }
}
