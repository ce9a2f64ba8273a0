//! The one typed file: what was typed becomes what is meant, or every error with its line.
//!
//! Reads the configuration, the files it names, and the system's lists of users; opens no socket, makes no evidence, looks
//! at no clock. `app` builds the parts from it.

mod acme;
mod check;
pub mod choice;
mod collateral;
mod deny;
mod files;
pub mod http;
mod identity;
mod listener;
pub mod owner;
mod peer;
pub mod schema;
mod sides;
mod tree;
mod upstream;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::diagnostic::{Diagnostic, Source, render, render_as};
use crate::policy::{AppraisalPolicy, DenyList};

/// A configuration file is not read beyond this many octets.
pub const MAX_CONFIG: usize = 1 << 20;

/// A bundle of collateral is not read beyond this many octets.
const MAX_BUNDLE: usize = 64 << 20;

/// Everything one process does.
#[derive(Clone, Debug)]
pub struct Config {
    /// How this side proves itself; `None` when it does not.
    pub identity: Option<Identity>,
    /// Where connections come in.
    pub listeners: Vec<Listener>,
    /// Where connections go, by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// The policies, by name.
    pub policies: BTreeMap<String, Policy>,
    /// What is refused whatever the policies say. Every policy has it too.
    pub deny: Option<Deny>,
    /// The CA that gives certificates for the public.
    pub acme: Option<Acme>,
    /// Where endorsements come from beside what peers staple; `None` for nowhere.
    pub collateral: Option<Collateral>,
    /// Where health and metrics are served.
    pub observe: Option<SocketAddr>,
    /// The log.
    pub log: Log,
    /// How long open connections may finish at the end.
    pub drain_grace: Duration,
    /// What weakens safety, with its place (`upstream.db.insecure_remote_upstream`).
    pub insecure: Vec<String>,
    /// What an operator should look at; not an error.
    pub warnings: Vec<Report>,
    /// SHA-256 of the text it was read from.
    pub digest: [u8; 32],
}

/// The operator's deny list with where it came from.
#[derive(Clone, Debug)]
pub struct Deny {
    /// The file.
    pub file: PathBuf,
    /// What it says; its signature was checked.
    pub list: Arc<DenyList>,
}

impl Deny {
    /// The file with its signature.
    #[must_use]
    pub fn signature(&self) -> PathBuf {
        deny::signature_of(&self.file)
    }
}

/// Where endorsements come from, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Collateral {
    /// Asked in this order.
    pub sources: Vec<CollateralSource>,
    /// The folder of the cache on disk.
    pub cache: Option<PathBuf>,
    /// Roots of servers beside the public ones.
    pub roots: Vec<rustls::pki_types::TrustAnchor<'static>>,
    /// An HTTP proxy, by its address.
    pub proxy: Option<String>,
    /// How long one question may take; what is `None` here has the collateral's own default.
    pub timeout: Option<Duration>,
    /// How long a connection waits for what was never seen.
    pub wait: Option<Duration>,
    /// How often lists are asked for again.
    pub refresh: Option<Duration>,
}

/// One source of endorsements.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CollateralSource {
    /// The vendors' services it stands for; empty for all.
    pub services: Vec<String>,
    /// What it is.
    pub place: CollateralPlace,
}

/// What a source of endorsements is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CollateralPlace {
    /// A bundle file.
    Bundle(PathBuf),
    /// A folder in the shape of the vendor's service.
    Folder(PathBuf),
    /// A server with the vendor's paths, by its address.
    Mirror(String),
    /// The vendor's own service.
    Vendor,
}

/// How this side proves itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Where evidence comes from.
    pub provider: Provider,
    /// How long a certificate and its evidence are good.
    pub life: Duration,
    /// Names in the self-made certificate.
    pub names: Vec<String>,
    /// A folder of endorsements to staple.
    pub endorsements: Option<PathBuf>,
    /// An issued certificate in place of the self-made one.
    pub certificate: Option<CertificateFiles>,
    /// How long sessions are collected for one quote; `None` for the attester's default.
    pub batch_window: Option<Duration>,
    /// How many sessions may wait for a quote; `None` for the attester's default.
    pub batch_queue: Option<usize>,
    /// GPUs beside the TEE.
    pub gpus: Option<Gpus>,
}

/// GPUs beside the TEE, through a local service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gpus {
    /// The service's socket.
    pub socket: PathBuf,
    /// A folder of what verifiers need to judge its answers.
    pub endorsements: Option<PathBuf>,
    /// How long an answer may take; `None` for the default.
    pub timeout: Option<Duration>,
    /// How many sessions are answered at a time; `None` for the default.
    pub at_once: Option<usize>,
}

/// Where evidence comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Provider {
    /// The first way that works on this machine; never the simulator.
    Auto,
    /// This way of the hardware, one of [`crate::platform::providers`].
    Named(&'static str),
    /// Forged under published keys.
    Simulator(Simulator),
}

/// What simulated evidence claims.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Simulator {
    /// Makes the chip.
    pub seed: u64,
    /// The platform.
    pub platform: String,
    /// Which of the platform's products, by its name in policies; `None` for the simulator's own choice.
    pub product: Option<String>,
    /// The measurement; `None` for the simulator's own.
    pub measurement: Option<Vec<u8>>,
    /// How long one report takes.
    pub quote_delay: Duration,
    /// How many GPUs are beside it.
    pub gpus: usize,
}

impl Default for Simulator {
    fn default() -> Self {
        Self { seed: 1, platform: crate::platform::PLATFORMS[0].name.to_owned(), product: None, measurement: None, quote_delay: Duration::ZERO, gpus: 0 }
    }
}

/// An issued certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    /// PEM chain, leaf first.
    pub chain: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// A CA that gives certificates by ACME.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Acme {
    /// The address of its directory, `https://`.
    pub directory: String,
    /// The only roots of its server; `None` for the public ones.
    pub roots: Option<Vec<rustls::pki_types::TrustAnchor<'static>>>,
    /// `mailto:` addresses.
    pub contact: Vec<String>,
    /// The folder of the account's key.
    pub state_dir: PathBuf,
    /// How names are proved.
    pub challenge: AcmeChallenge,
}

/// How it is proved to a CA that a name leads here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AcmeChallenge {
    /// At port 80, by listeners with `redirect`.
    Http01,
    /// At port 443, by the listener that wants the certificate.
    TlsAlpn01,
}

/// The certificate of a listener for the public.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Public {
    /// Of a CA, for these names; there is an [`Acme`].
    Acme(Vec<String>),
    /// From files.
    Files(CertificateFiles),
}

/// A place where connections come in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// The permission bits of a Unix socket.
    pub mode: u32,
    /// Whom a Unix socket is given to.
    pub owner: owner::Owner,
    /// Whether other processes of the same user may listen at the TCP address too.
    pub reuse_port: bool,
    /// Whether nobody from beyond this machine may reach it: a plain listener that was not let. Checked here for what is
    /// written; of a socket that systemd passes, whoever takes it has to look.
    pub here_alone: bool,
    /// Attested TLS, or `None` for the plain bytes of a local application.
    pub attested: Option<Serve>,
    /// TLS for clients of the public, in place of attested TLS.
    pub public: Option<Public>,
    /// What is done with its connections.
    pub forward: Forward,
    /// Who announces connections by the PROXY protocol.
    pub proxy_protocol_from: Vec<Announcer>,
    /// In which form of the PROXY protocol the upstream is told who connected.
    pub proxy_protocol_to: Option<Onward>,
    /// Whether clients may put many connections into one session.
    pub multiplex: bool,
    /// Deadlines and caps.
    pub limits: Limits,
}

impl Listener {
    /// Whether it is plain and does nothing but redirect: it may be reached from everywhere, and answers a CA.
    #[must_use]
    pub fn redirects(&self) -> bool {
        let only = |site: &http::Site| {
            site.destinations.is_empty() && !site.routes.is_empty() && site.routes.iter().all(|route| route.to == http::To::RedirectToHttps)
        };
        self.attested.is_none() && self.public.is_none() && matches!(&self.forward, Forward::Http(site) if only(site))
    }
}

/// Who announces connections by the PROXY protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Announcer {
    /// Addresses with a common beginning, and the number of bits that count.
    Network(std::net::IpAddr, u8),
    /// Whoever may connect to the listener's Unix socket.
    Unix,
}

/// A form of the PROXY protocol, version 2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Onward {
    /// Addresses and what is verified.
    Plain,
    /// The client's certificate besides.
    WithCertificate,
}

/// What is done with connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Forward {
    /// Bytes go where each client wants to, as far as it may.
    Chosen(choice::Choice),
    /// Requests are routed.
    Http(Box<http::Site>),
    /// Bytes go to the upstream of this name; it exists.
    Tcp(String),
}

/// Where a listener binds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bind {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A socket that systemd passes under this name.
    Systemd(String),
    /// A Unix socket.
    Unix(PathBuf),
    /// A vsock port.
    Vsock {
        /// A context id of this machine, or `None` for all of them.
        cid: Option<u32>,
        /// The port.
        port: u32,
    },
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid: Some(cid), port } => write!(f, "vsock:{cid}:{port}"),
            Self::Vsock { cid: None, port } => write!(f, "vsock:any:{port}"),
        }
    }
}

/// How an attested listener serves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Serve {
    /// How fresh evidence must be.
    pub freshness: Freshness,
    /// What clients must prove; `None` lets anybody in.
    pub clients: Option<Peer>,
}

/// How fresh evidence must be; the order is that of strength.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Freshness {
    /// The evidence in the certificate alone.
    Certificate,
    /// Evidence for this session by the side that must be attested.
    Session,
    /// Evidence for this session by both sides, and an identity.
    SessionMutual,
}

impl Freshness {
    /// Its spelling in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Session => "session",
            Self::SessionMutual => "session-mutual",
        }
    }
}

/// What a peer must be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The policy's name; it exists.
    pub policy: String,
    /// Who it must be beside.
    pub identity: PeerIdentity,
}

/// Who a peer must be; everything that is set must hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PeerIdentity {
    /// Roots its chain must end at; `None` for no PKI.
    pub pki_roots: Option<Vec<rustls::pki_types::TrustAnchor<'static>>>,
    /// Names, one of which it must have.
    pub pki_names: Vec<rustls::pki_types::ServerName<'static>>,
    /// SHA-256 of SubjectPublicKeyInfos, one of which it must have.
    pub spki_pins: Vec<[u8; 32]>,
    /// SPIFFE ids, one of which it must have.
    pub spiffe_ids: Vec<String>,
}

/// A place where connections go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Tried in order; at least one, all of one transport.
    pub targets: Vec<Target>,
    /// What the far end must prove, or `None` for plain bytes.
    pub attested: Option<Dial>,
    /// How long connecting to one target may take.
    pub connect_timeout: Duration,
    /// How often it is looked where a target's name leads.
    pub dns_refresh: Duration,
    /// Whether connections share attested sessions.
    pub multiplex: bool,
    /// What matters for HTTP alone.
    pub http: http::Upstream,
}

/// How an attested upstream is dialled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dial {
    /// The name sent in the handshake.
    pub server_name: rustls::pki_types::ServerName<'static>,
    /// How fresh evidence must be.
    pub freshness: Freshness,
    /// What the far end must be.
    pub peer: Peer,
}

/// One address of an upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// What is spoken to it.
    pub transport: Transport,
    /// Where it is.
    pub place: Place,
}

/// What is spoken to a target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// Attested TLS.
    Attested,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Bytes as they are.
    Plain,
}

/// Where a target is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A host and a port.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// The port, not 0.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
    /// A vsock port: of this machine's host, of one of its guests, or of an enclave's parent.
    Vsock {
        /// The context id.
        cid: u32,
        /// The port.
        port: u32,
    },
}

impl Place {
    /// Whether it is meant to be on this machine: a Unix socket, a loopback address, or `localhost`, which may yet be
    /// resolved to another address: whoever connects has to look.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => values::is_local(host),
            Self::Unix(_) => true,
            // Whoever is behind it is another machine, or may be: context ids tell nobody who.
            Self::Vsock { .. } => false,
        }
    }
}

/// Deadlines and caps of a listener; what is `None` has the proxy's default.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// See `[listener.limits]`.
    pub handshake: Option<Duration>,
    /// See `[listener.limits]`.
    pub exchange: Option<Duration>,
    /// See `[listener.limits]`.
    pub idle: Option<Duration>,
    /// See `[listener.limits]`.
    pub max_connection: Option<Duration>,
    /// See `[listener.limits]`.
    pub connections: Option<usize>,
    /// See `[listener.limits]`.
    pub connections_per_source: Option<usize>,
    /// See `[listener.limits]`.
    pub handshakes: Option<usize>,
    /// See `[listener.limits]`.
    pub handshakes_per_source: Option<usize>,
    /// See `[listener.limits]`.
    pub streams: Option<u32>,
}

/// A policy with where it came from.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The file.
    pub file: PathBuf,
    /// What it says.
    pub policy: Arc<AppraisalPolicy>,
}

/// The log on standard error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Log {
    /// Its form.
    pub format: LogFormat,
    /// How much of it: `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info" }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What is wrong with one file, or worth knowing about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The file's name as the operator knows it.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What is to be said, each with its place.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// The report as warnings.
    #[must_use]
    pub fn warnings(&self) -> String {
        render_as(&Source { name: &self.name, text: &self.text }, "warning", &self.diagnostics)
    }
}

/// Why there is no configuration: every error of every file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError(
    /// The files with errors, the configuration file first. Never empty.
    pub Vec<Report>,
);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages: Vec<_> = self.0.iter().map(|report| render(&Source { name: &report.name, text: &report.text }, &report.diagnostics)).collect();
        f.write_str(&pages.join("\n"))?;
        let count: usize = self.0.iter().map(|report| report.diagnostics.len()).sum();
        write!(f, "\n{count} error{}", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the configuration file at `path` and the files it names.
    ///
    /// # Errors
    /// Every error of every file; a file that cannot be read is one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        match files::read(path, MAX_CONFIG) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Self::parse(&name, &text, path.parent().unwrap_or(Path::new(""))),
                Err(error) => Err(ConfigError::bare(name, format!("not UTF-8 text at octet {}", error.utf8_error().valid_up_to()), "")),
            },
            Err(wrong) => Err(ConfigError::bare(name, wrong.message, &wrong.help)),
        }
    }

    /// Reads a configuration from its text. `name` is how messages call it; relative paths start at `folder`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Self, ConfigError> {
        check::read(name, text, folder)
    }
}

/// Reads sources as `collateral.sources` has them, from the command line; relative paths start where the program runs.
///
/// # Errors
/// Every error, as of a file.
pub fn collateral_of(sources: &[&str], cache: Option<&Path>) -> Result<Collateral, ConfigError> {
    collateral::typed(sources, cache).map_err(|wrong| ConfigError::bare("the command line".to_owned(), wrong.message, &wrong.help))
}

/// Reads `HOST:PORT`, an IPv6 address in brackets.
///
/// # Errors
/// What is wrong with it and what to write.
pub fn host_and_port(text: &str) -> Result<(String, u16), String> {
    values::host_and_port(text).map_err(|wrong| format!("{}: {}", wrong.message, wrong.help))
}

/// Reads a policy file; with it what an operator should look at.
///
/// # Errors
/// Every error of the file; one that cannot be read is one.
pub fn load_policy(path: &Path) -> Result<(AppraisalPolicy, Report), ConfigError> {
    let name = path.display().to_string();
    match files::read(path, crate::policy::MAX_POLICY) {
        Ok(bytes) => read_policy(name, &bytes),
        Err(wrong) => Err(ConfigError::bare(name, wrong.message, &wrong.help)),
    }
}

/// Reads a policy from the bytes of its file. `name` is how messages call it.
///
/// # Errors
/// Every error of the file.
pub fn read_policy(name: String, bytes: &[u8]) -> Result<(AppraisalPolicy, Report), ConfigError> {
    let report = |diagnostics| Report { name, text: String::from_utf8_lossy(bytes).into_owned(), diagnostics };
    match AppraisalPolicy::load(bytes, &crate::platform::vocabularies()) {
        Ok((policy, warnings)) => Ok((policy, report(warnings))),
        Err(errors) => Err(ConfigError(vec![report(errors)])),
    }
}

impl ConfigError {
    fn bare(name: String, message: String, help: &str) -> Self {
        Self(vec![Report { name, text: String::new(), diagnostics: vec![Diagnostic::new(0..0, message).help(help)] }])
    }
}

#[cfg(test)]
mod tests;
