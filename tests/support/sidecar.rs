//! Two sidecars on loopback with a service behind them, on the simulator.
#![allow(dead_code, reason = "shared by several tests, each of which uses its part")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::admin::health::Health;
use portcullis::admin::metrics::Metrics;
use portcullis::attester::batch::{BatchSettings, Batcher};
use portcullis::attester::simulator::{Fault, Forge, MEASUREMENT, SimulatedAttester};
use portcullis::clock::{Clock, EARLIEST};
use portcullis::evidence::Timestamp;
use portcullis::evidence::snp::Product;
use portcullis::platform;
use portcullis::platform::PLATFORMS;
use portcullis::policy::AppraisalPolicy;
use portcullis::proxy::appraisal::{Appraisals, Memo};
use portcullis::proxy::plan::{Bind, Forward, Limits, Listener, Multiplex, Originate, Target, Terminate, Upstream};
use portcullis::proxy::{Address, Parts, Proxy};
use portcullis::tls::{
    ALPN_RAW, ALPN_TUNNEL, ClientSettings, ClientSide, Clients, Identity, IdentitySettings, Judge, Peer, PeerIdentity, ServerSettings, ServerSide, Tier,
};
use portcullis::verify::Appraiser;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;

/// The standing clock's moment.
pub(crate) const NOW: Timestamp = EARLIEST.plus(1000);

const PATIENCE: Duration = Duration::from_secs(20);

/// A simulated machine that a test can make misbehave.
#[derive(Clone)]
pub(crate) struct Machine(Arc<SimulatedAttester>);

impl Machine {
    pub(crate) fn of(forge: Forge) -> Self {
        Self(Arc::new(forge.attester()))
    }

    pub(crate) fn good(seed: u64) -> Self {
        Self::of(Forge::new(Product::Genoa, seed, NOW))
    }

    pub(crate) fn misbehave(&self, fault: Fault) {
        self.0.misbehave(fault);
    }

    pub(crate) fn quotes(&self) -> u64 {
        self.0.quotes()
    }

    pub(crate) async fn identity(&self, parts: &Parts) -> Identity {
        let settings =
            IdentitySettings::Minted { names: vec!["service.test".to_owned()], lifetime: Duration::from_secs(3600), provider: "simulator".to_owned() };
        let attester = Arc::<SimulatedAttester>::clone(&self.0);
        let batcher = Batcher::start(attester, BatchSettings { window: Duration::from_millis(5), queue: 1024 });
        let identity = Identity::start(settings, Some(batcher), None, parts.clock.clone(), Arc::clone(&parts.metrics)).await;
        identity.unwrap_or_else(|error| panic!("{error}"))
    }
}

/// What every byte becomes on its way back, so that an echo in a wrong place is noticed.
pub(crate) fn echoed(request: &[u8]) -> Vec<u8> {
    request.iter().map(|byte| byte ^ 0x20).collect()
}

/// A service that answers what it was sent, changed, and counts who connects.
pub(crate) struct Service {
    address: SocketAddr,
    dialled: Arc<AtomicUsize>,
    received: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let dialled = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&dialled);
        let received = Arc::new(AtomicUsize::new(0));
        let octets = Arc::clone(&received);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(stream, Arc::clone(&octets)));
            }
        });
        Self { address, dialled, received, serving }
    }

    /// How often it was dialled.
    pub(crate) fn dialled(&self) -> usize {
        self.dialled.load(Ordering::SeqCst)
    }

    fn over_unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::default()));
            }
        });
        Self { address: SocketAddr::from(([0; 4], 0)), dialled: Arc::default(), received: Arc::default(), serving }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn stop(self) {
        self.serving.abort();
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, received: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => {
                received.fetch_add(count, Ordering::SeqCst);
                if stream.write_all(&echoed(&buffer[..count])).await.is_err() {
                    return;
                }
            }
            _ => break,
        }
    }
    let _ = stream.shutdown().await;
}

pub(crate) fn parts() -> Parts {
    Parts { clock: Clock::standing_at(NOW), metrics: Arc::new(Metrics::new()), health: Arc::new(Health::new()) }
}

/// A policy that accepts the simulator's default guest.
pub(crate) fn judge(parts: &Parts) -> Arc<dyn Judge> {
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    let policy = format!(
        r#"{{ "version": 1, "insecure_roots": ["simulator"], "name": "test", "accept": [ {{ "id": "simulated", "tee": "sev-snp", "measurement": "{measurement}" }} ] }}"#
    );
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let (policy, _) = AppraisalPolicy::load(policy.as_bytes(), &vocabularies).unwrap_or_else(|problems| panic!("{problems:?}"));
    let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
    Arc::new(Appraisals::new(Arc::new(appraiser), Arc::new(Memo::new()), Arc::clone(&parts.metrics)))
}

pub(crate) fn upstream(name: &str, address: SocketAddr, originate: Originate) -> Arc<Upstream> {
    let target = Target::Tcp { host: address.ip().to_string(), port: address.port() };
    Arc::new(Upstream {
        name: name.to_owned(),
        targets: vec![target],
        originate,
        connect_timeout: Duration::from_secs(5),
        refresh: Duration::from_secs(30),
        multiplex: None,
    })
}

pub(crate) fn listener(name: &str, bind: SocketAddr, terminate: Terminate, upstream: Arc<Upstream>) -> Listener {
    Listener {
        name: name.to_owned(),
        bind: Bind::Tcp(bind),
        terminate,
        forward: Forward::Tcp(upstream),
        proxy_protocol: portcullis::proxy::plan::ProxyProtocol::default(),
        limits: Limits::default(),
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A client sidecar, a server sidecar and a service, in one process. Application -> `entrance` -> `attested` -> service.
pub(crate) struct World {
    server: Proxy,
    client: Proxy,
    service: Service,
    parts: Parts,
    identity: Identity,
}

/// Both sidecars, to be stopped.
pub(crate) struct Sidecars {
    server: Proxy,
    client: Proxy,
}

impl Sidecars {
    pub(crate) async fn drain(self, grace: Duration) -> portcullis::proxy::Drained {
        let (client, server) = tokio::join!(self.client.drain(grace), self.server.drain(grace));
        portcullis::proxy::Drained { open: client.open + server.open, cut: client.cut + server.cut }
    }
}

/// Which ends know of many connections in one session, and how.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tunnels {
    /// The far end takes them.
    pub(crate) far: bool,
    /// The near end makes them.
    pub(crate) near: Option<Multiplex>,
    /// The near end agrees on a session and then passes bytes through as they are: whoever connects to it is inside.
    pub(crate) bare: bool,
    /// Where the service is, in place of the echo.
    pub(crate) service: Option<SocketAddr>,
    /// The service has to prove itself, as another sidecar does.
    pub(crate) proves: bool,
}

struct Plan<'a> {
    server: &'a Machine,
    client: Option<&'a Machine>,
    tiers: (Tier, Tier),
    identity: PeerIdentity,
    limits: Limits,
    service: bool,
    folder: Option<&'a Path>,
    tunnels: Tunnels,
}

impl<'a> Plan<'a> {
    fn new(server: &'a Machine, tier: Tier) -> Self {
        let limits = Limits::default();
        Self { server, client: None, tiers: (tier, tier), identity: PeerIdentity::default(), limits, service: true, folder: None, tunnels: Tunnels::default() }
    }

    async fn build(self) -> World {
        let parts = parts();
        let service = match self.folder {
            Some(folder) => Service::over_unix(&folder.join("service")),
            None => Service::start().await,
        };
        let server_name = || ServerName::try_from("service.test").expect("a name");
        let originate = if self.tunnels.proves {
            let peer = Peer { judge: judge(&parts), identity: PeerIdentity::default() };
            let settings = ClientSettings { identity: None, tier: self.tiers.0, server_name: server_name(), peer, alpn: None, max_evidence: None };
            Originate::Attested(Arc::new(ClientSide::new(settings, parts.clock.clone()).unwrap_or_else(|error| panic!("{error}"))))
        } else {
            Originate::Plain
        };
        let mut behind = upstream("service", self.tunnels.service.unwrap_or(service.address), originate);
        if let Some(folder) = self.folder {
            let targets = vec![Target::Unix(folder.join("service"))];
            behind = Arc::new(Upstream {
                name: "service".to_owned(),
                targets,
                originate: Originate::Plain,
                connect_timeout: Duration::from_secs(5),
                refresh: Duration::from_secs(30),
                multiplex: None,
            });
        }
        if !self.service {
            service.serving.abort();
            while TcpStream::connect(service.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
        let identity = self.server.identity(&parts).await;
        let peer = || Peer { judge: judge(&parts), identity: PeerIdentity::default() };
        let clients = if self.client.is_some() { Clients::Attested(peer()) } else { Clients::Any };
        let far = self.tunnels.far.then(|| vec![ALPN_TUNNEL.to_vec(), ALPN_RAW.to_vec()]);
        let settings = ServerSettings { identity: identity.clone(), tier: self.tiers.0, clients, alpn: far, max_evidence: None };
        let side = ServerSide::new(settings, parts.clock.clone()).unwrap_or_else(|error| panic!("{error}"));
        let mut attested = listener("attested", loopback(), Terminate::Attested(Arc::new(side)), behind);
        attested.limits = self.limits;
        let server = Proxy::start(vec![attested], parts.clone()).unwrap_or_else(|error| panic!("{error}"));

        let own = match self.client {
            Some(machine) => Some(machine.identity(&parts).await),
            None => None,
        };
        let peer = Peer { judge: judge(&parts), identity: self.identity };
        let near = (self.tunnels.bare || self.tunnels.near.is_some()).then(|| vec![ALPN_TUNNEL.to_vec()]);
        let settings = ClientSettings { identity: own, tier: self.tiers.1, server_name: server_name(), peer, alpn: near, max_evidence: None };
        let side = ClientSide::new(settings, parts.clock.clone()).unwrap_or_else(|error| panic!("{error}"));
        let ahead = upstream("attested", address(&server), Originate::Attested(Arc::new(side)));
        let ahead = Arc::new(Upstream { multiplex: self.tunnels.near, ..Upstream::clone(&ahead) });
        let mut entrance = listener("entrance", loopback(), Terminate::Plain, ahead);
        if let Some(folder) = self.folder {
            entrance.bind = Bind::Unix { path: folder.join("in"), mode: 0o600, user: None, group: None };
        }
        let client = Proxy::start(vec![entrance], parts.clone()).unwrap_or_else(|error| panic!("{error}"));
        World { server, client, service, parts, identity }
    }
}

fn address(proxy: &Proxy) -> SocketAddr {
    match proxy.addresses().as_slice() {
        [(_, Address::Tcp(address))] => *address,
        other => panic!("{other:?}"),
    }
}

impl World {
    pub(crate) async fn one_way(tier: Tier, machine: &Machine) -> Self {
        Plan::new(machine, tier).build().await
    }

    pub(crate) async fn one_way_to(tier: Tier, machine: &Machine, identity: PeerIdentity) -> Self {
        Plan { identity, ..Plan::new(machine, tier) }.build().await
    }

    pub(crate) async fn mutual(tier: Tier, server: &Machine, client: &Machine, identity: PeerIdentity) -> Self {
        Plan { client: Some(client), identity, ..Plan::new(server, tier) }.build().await
    }

    pub(crate) async fn unequal(server: Tier, client: Tier) -> Self {
        Plan { tiers: (server, client), ..Plan::new(&Machine::good(1), server) }.build().await
    }

    pub(crate) async fn without_service(machine: &Machine) -> Self {
        Plan { service: false, ..Plan::new(machine, Tier::Session) }.build().await
    }

    pub(crate) async fn with_limits(machine: &Machine, limits: Limits) -> Self {
        Plan { limits, ..Plan::new(machine, Tier::Session) }.build().await
    }

    pub(crate) async fn tunnelled(machine: &Machine, limits: Limits, tunnels: Tunnels) -> Self {
        Plan { limits, tunnels, ..Plan::new(machine, Tier::Session) }.build().await
    }

    pub(crate) async fn over_unix(machine: &Machine, folder: &Path) -> Self {
        Plan { folder: Some(folder), ..Plan::new(machine, Tier::Session) }.build().await
    }

    /// Where the application connects.
    pub(crate) fn entrance(&self) -> SocketAddr {
        address(&self.client)
    }

    /// Where the server sidecar listens.
    pub(crate) fn attested(&self) -> SocketAddr {
        address(&self.server)
    }

    pub(crate) fn dialled(&self) -> usize {
        self.service.dialled()
    }

    /// Octets that reached the service.
    pub(crate) fn received_by_service(&self) -> usize {
        self.service.received.load(Ordering::SeqCst)
    }

    pub(crate) fn metrics(&self) -> String {
        self.parts.metrics.text()
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.parts.clock
    }

    pub(crate) async fn until_dialled(&self, count: usize) {
        until("the service is dialled", || self.dialled() >= count).await;
    }

    pub(crate) async fn until_open(&self, count: usize) {
        until("a connection is open", || self.server.connections() >= count).await;
    }

    pub(crate) fn into_parts(self) -> (SocketAddr, Service, Sidecars) {
        (address(&self.client), self.service, Sidecars { server: self.server, client: self.client })
    }

    /// Ends everything; nothing may be left.
    pub(crate) async fn end(self) {
        let (server, client) = (self.server, self.client);
        let (a, b) = tokio::join!(client.drain(PATIENCE), server.drain(PATIENCE));
        assert_eq!((a.cut, b.cut), (0, 0), "connections had to be cut");
        self.service.stop();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// Waits until nobody listens there any more.
pub(crate) async fn until_closed(address: SocketAddr) {
    let waiting = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the listener closed");
}

/// A TLS client that knows nothing of attestation, as `curl -k`: sends "hello" and reads the answer.
pub(crate) async fn foreign_client(address: SocketAddr, protocol: &[u8]) -> std::io::Result<Vec<u8>> {
    let protocols = if protocol.is_empty() { &[][..] } else { &[protocol] };
    let config = careless_client(protocols);
    let name = ServerName::try_from("service.test").expect("a name");
    let stream = TcpStream::connect(address).await?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"hello").await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

/// A client that believes every certificate, speaks these protocols and shows a certificate of its own.
pub(crate) fn careless_holder(protocols: &[&[u8]], leaf: rustls::pki_types::CertificateDer<'static>, key: Vec<u8>) -> rustls::ClientConfig {
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.into());
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless))
        .with_client_auth_cert(vec![leaf], key)
        .expect("a key");
    config.alpn_protocols = protocols.iter().map(|id| id.to_vec()).collect();
    config
}

/// A client that believes every certificate and speaks these protocols.
pub(crate) fn careless_client(protocols: &[&[u8]]) -> rustls::ClientConfig {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|id| id.to_vec()).collect();
    config
}

#[derive(Debug)]
struct Careless;

impl rustls::client::danger::ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
