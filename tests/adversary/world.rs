//! The victims: real sidecars in this process, with a recording service behind one and an application before the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::admin::health::Health;
use portcullis::admin::metrics::Metrics;
use portcullis::attester::Attester;
use portcullis::attester::batch::{BatchSettings, Batcher};
use portcullis::attester::simulator::{Forge, MEASUREMENT};
use portcullis::clock::{Clock, EARLIEST};
use portcullis::evidence::Timestamp;
use portcullis::evidence::snp::Product;
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::proxy::appraisal::{Appraisals, Memo};
use portcullis::proxy::plan::{Bind, Forward, Limits, Listener, Originate, Target, Terminate, Upstream};
use portcullis::proxy::{Address, Parts, Proxy};
use portcullis::tls::{ClientSettings, ClientSide, Clients, Identity, IdentitySettings, Judge, Peer, PeerIdentity, ServerSettings, ServerSide, Tier};
use portcullis::verify::Appraiser;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::peer::Holder;
use crate::records::{self, Record};

/// The standing clock's moment.
pub const NOW: Timestamp = EARLIEST.plus(100_000);

/// What the local application says; no adversary may ever read it.
pub const SECRET: &[u8] = b"the application's first and most secret words";

/// What an adversary says to the application; it may never read it.
pub const BAIT: &[u8] = b"words that the application must not read";

/// Long enough for every honest step on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A machine that the default rules accept.
pub fn machine(seed: u64) -> Arc<dyn Attester> {
    Arc::new(Forge::new(Product::Genoa, seed, NOW).attester())
}

/// A policy for the simulator's default guest, with further keys of its one entry.
pub fn policy(entry: &str) -> Appraiser {
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    policy_text(&format!(
        r#"{{ "version": 1, "name": "adversary", "insecure_roots": ["simulator"], "accept": [ {{ "id": "simulated", "tee": "sev-snp", "measurement": "{measurement}"{entry} }} ] }}"#
    ))
}

pub fn policy_text(text: &str) -> Appraiser {
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &vocabularies).unwrap_or_else(|problems| panic!("{problems:?}"));
    Appraiser { anchors: platform::anchors(&policy), policy }
}

/// What the sidecars of one test share.
#[derive(Clone)]
pub struct House {
    pub parts: Parts,
}

impl House {
    pub fn new() -> Self {
        records::keep();
        Self { parts: Parts { clock: Clock::standing_at(NOW), metrics: Arc::new(Metrics::new()), health: Arc::new(Health::new()) } }
    }

    pub fn judge(&self, appraiser: Appraiser) -> Arc<dyn Judge> {
        Arc::new(Appraisals::new(Arc::new(appraiser), Arc::new(Memo::new()), Arc::clone(&self.parts.metrics)))
    }

    pub fn batcher(machine: Arc<dyn Attester>, queue: usize) -> Batcher {
        Batcher::start(machine, BatchSettings { window: Duration::from_millis(1), queue })
    }

    /// A key and certificate that the sidecar makes, on this machine.
    pub async fn minted(&self, machine: Arc<dyn Attester>) -> Identity {
        let names = vec!["app.example".to_owned()];
        let settings = IdentitySettings::Minted { names, lifetime: Duration::from_secs(3600), provider: "simulator".to_owned() };
        self.identity(settings, Self::batcher(machine, 64)).await
    }

    /// A key and certificate from files, which an adversary has too.
    pub async fn stolen(&self, holder: &Holder, machine: Arc<dyn Attester>) -> Identity {
        let folder = tempfile::tempdir().expect("a folder");
        let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
        let (chain_pem, key_pem) = holder.pem();
        std::fs::write(&chain, chain_pem).expect("written");
        std::fs::write(&key, key_pem).expect("written");
        self.identity(IdentitySettings::Files { chain, key }, Self::batcher(machine, 64)).await
    }

    pub async fn identity(&self, settings: IdentitySettings, batcher: Batcher) -> Identity {
        let identity = Identity::start(settings, Some(batcher), None, self.parts.clock.clone(), Arc::clone(&self.parts.metrics)).await;
        identity.unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Names that no other test of the process uses: records are found by them.
pub fn unique(role: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{role}-{}", NEXT.fetch_add(1, Ordering::SeqCst))
}

/// A plain service that answers what it hears, and counts connections and octets.
pub struct Service {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    octets: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Service {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (connections, octets) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, heard) = (Arc::clone(&connections), Arc::clone(&octets));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(echo(stream, Arc::clone(&heard)));
            }
        });
        Self { address, connections, octets, serving }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Ends the service and gives the connections and octets that it ever saw. A connection of ours goes last through
    /// the same queue, so that none that was there before it is missed.
    pub async fn count(self) -> (usize, usize) {
        let mut last = TcpStream::connect(self.address).await.expect("the service listens");
        last.shutdown().await.expect("closed");
        let _ = last.read_to_end(&mut Vec::new()).await;
        self.serving.abort();
        (self.connections() - 1, self.octets.load(Ordering::SeqCst))
    }
}

async fn echo(mut stream: TcpStream, heard: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 4096];
    while let Ok(count) = stream.read(&mut buffer).await
        && count > 0
    {
        heard.fetch_add(count, Ordering::SeqCst);
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Deadlines of a test: those of the program, unless the test is about them.
pub fn limits() -> Limits {
    Limits { handshake: PATIENCE, exchange: PATIENCE, ..Limits::default() }
}

/// How a server sidecar is set up.
pub struct ServerPlan {
    pub tier: Tier,
    pub clients: Option<Peer>,
    pub identity: Identity,
    pub limits: Limits,
}

impl ServerPlan {
    /// Attested clients only, judged by `judge`.
    pub fn judged_by(self, judge: Arc<dyn Judge>) -> Self {
        Self { clients: Some(anybody(judge)), ..self }
    }
}

/// A server sidecar: attested TLS in, the service behind it.
pub struct Server {
    pub name: String,
    pub address: SocketAddr,
    pub service: Service,
    proxy: Proxy,
}

impl Server {
    pub async fn start(house: &House, plan: ServerPlan) -> Self {
        let service = Service::start().await;
        let clients = plan.clients.map_or(Clients::Any, Clients::Attested);
        let settings = ServerSettings { identity: plan.identity, tier: plan.tier, clients, alpn: None, max_evidence: None };
        let side = ServerSide::new(settings, house.parts.clock.clone()).unwrap_or_else(|error| panic!("{error}"));
        let (name, proxy, address) = listen(house, "server", Terminate::Attested(Arc::new(side)), (service.address, Originate::Plain), plan.limits);
        Self { name, address, service, proxy }
    }

    pub async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the sidecar listens")
    }

    pub async fn outcome(&self) -> Record {
        records::first(&self.name, 1).await.swap_remove(0)
    }

    /// Stops the sidecar; gives how many connections and octets the service saw.
    pub async fn end(self) -> (usize, usize) {
        let drained = self.proxy.drain(PATIENCE).await;
        assert_eq!(drained.cut, 0, "{}: connections had to be cut", self.name);
        self.service.count().await
    }
}

/// How a client sidecar is set up.
pub struct ClientPlan {
    pub tier: Tier,
    pub peer: Peer,
    pub identity: Option<Identity>,
    pub limits: Limits,
}

/// A client sidecar: an application before it, attested TLS out.
pub struct Client {
    pub name: String,
    entrance: SocketAddr,
    proxy: Proxy,
}

impl Client {
    pub fn start(house: &House, plan: ClientPlan, server: SocketAddr) -> Self {
        let server_name = ServerName::try_from("app.example").expect("a name");
        let settings = ClientSettings { identity: plan.identity, tier: plan.tier, server_name, peer: plan.peer, alpn: None, max_evidence: None };
        let side = ClientSide::new(settings, house.parts.clock.clone()).unwrap_or_else(|error| panic!("{error}"));
        let (name, proxy, entrance) = listen(house, "client", Terminate::Plain, (server, Originate::Attested(Arc::new(side))), plan.limits);
        Self { name, entrance, proxy }
    }

    /// A local application: says its secret, and gives what it read until the end.
    pub async fn application(&self) -> Vec<u8> {
        // A refusal may be quicker than the connection: its reset is then the result of connecting.
        let Ok(mut stream) = TcpStream::connect(self.entrance).await else { return Vec::new() };
        let mut answer = Vec::new();
        let (mut reading, mut writing) = stream.split();
        let say = async {
            let _ = writing.write_all(SECRET).await;
            let _ = writing.shutdown().await;
        };
        let (_, _) = tokio::join!(say, reading.read_to_end(&mut answer));
        answer
    }

    pub async fn outcome(&self) -> Record {
        records::first(&self.name, 1).await.swap_remove(0)
    }

    pub async fn end(self) {
        let drained = self.proxy.drain(PATIENCE).await;
        assert_eq!(drained.cut, 0, "{}: connections had to be cut", self.name);
    }
}

fn listen(house: &House, role: &str, terminate: Terminate, (to, originate): (SocketAddr, Originate), limits: Limits) -> (String, Proxy, SocketAddr) {
    let name = unique(role);
    let targets = vec![Target::Tcp { host: to.ip().to_string(), port: to.port() }];
    let upstream = Upstream { name: format!("behind-{name}"), targets, originate, connect_timeout: PATIENCE, refresh: PATIENCE, multiplex: None };
    let bind = Bind::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener = Listener {
        name: name.clone(),
        bind,
        terminate,
        forward: Forward::Tcp(Arc::new(upstream)),
        proxy_protocol: portcullis::proxy::plan::ProxyProtocol::default(),
        limits,
    };
    let proxy = Proxy::start(vec![listener], house.parts.clone()).unwrap_or_else(|error| panic!("{error}"));
    let address = match proxy.address(&name) {
        Some(Address::Tcp(address)) => address,
        other => panic!("{other:?}"),
    };
    (name, proxy, address)
}

/// A peer that must run the simulated guest, whoever it is.
pub fn anybody(judge: Arc<dyn Judge>) -> Peer {
    Peer { judge, identity: PeerIdentity::default() }
}
