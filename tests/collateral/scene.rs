//! A client sidecar with collateral of its own, before server sidecars whose machines staple nothing, or not all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis::app::collateral::Vouching;
use portcullis::attester::Attester;
use portcullis::attester::batch::{BatchSettings, Batcher};
use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::simulator::{Forge, Kds, MEASUREMENT, Pcs, Service as Vendor};
use portcullis::collateral::{Address, Collateral, Item, Pace, Place, Reach, Settings, Source};
use portcullis::evidence::snp::Product;
use portcullis::evidence::{Evidence, ReportData, Timestamp};
use portcullis::platform;
use portcullis::policy::{AppraisalPolicy, Roots};
use portcullis::proxy::appraisal::{Appraisals, Memo, items};
use portcullis::proxy::plan::{Limits, Originate, Terminate};
use portcullis::proxy::{self, Parts, Proxy};
use portcullis::tls::{ClientSettings, ClientSide, Clients, Identity, IdentitySettings, Judge, Peer, PeerIdentity, ServerSettings, ServerSide, Tier};
use portcullis::verify::Appraiser;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::records::{self, Record};
use crate::sidecar::{Machine, NOW, Service, echoed, listener, parts, upstream};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Quick enough for tests; the program's own differ by their numbers alone.
pub(crate) fn pace() -> Pace {
    Pace {
        wait: Duration::from_millis(400),
        first_retry: Duration::from_millis(20),
        slowest_retry: Duration::from_millis(80),
        rest: Duration::from_millis(80),
        look: Duration::from_millis(20),
        ..Pace::default()
    }
}

/// A machine that staples nothing.
pub(crate) fn bare(seed: u64) -> Forge {
    let mut forge = Forge::new(Product::Genoa, seed, NOW);
    forge.unstapled = vec!["vcek", "ask", "crl"];
    forge
}

/// A machine of Intel's that staples nothing.
pub(crate) fn bare_intel(mut forge: IntelForge) -> IntelForge {
    forge.unstapled = vec!["tcb_info", "qe_identity", "pck_crl", "root_crl"];
    forge
}

/// What a verdict about a machine needs.
pub(crate) fn needs(forge: &Forge) -> Vec<Item> {
    needed(&forge.quote(&ReportData([0; 64])).evidence)
}

/// What a verdict about a machine of Intel's needs.
pub(crate) fn intel_needs(forge: &IntelForge) -> Vec<Item> {
    needed(&forge.quote(&ReportData([0; 64])).evidence)
}

fn needed(evidence: &Evidence) -> Vec<Item> {
    let platform = platform::of_evidence(evidence).expect("a known platform");
    items(platform, platform.verifier.needs(evidence).expect("readable evidence"))
}

pub(crate) async fn vendor(machines: &[Forge]) -> (Kds, Vendor) {
    let kds = Kds::new(machines.to_vec(), NOW);
    let vendor = Vendor::start(kds.clone()).await.expect("a port");
    (kds, vendor)
}

/// Intel's service, or a server of its protocol, for one machine: at a mirror the root's list has a path of its own.
pub(crate) async fn pcs(forge: &IntelForge) -> (Pcs, Vendor) {
    let path = |item: &Item| match item.id.path.as_str() {
        "/IntelSGXRootCA.der" => "/sgx/certification/v4/rootcacrl".to_owned(),
        path => path.to_owned(),
    };
    let wanted = intel_needs(forge);
    let paths = wanted.iter().map(|item| (item.id.name, path(item))).chain([("root_crl", "/IntelSGXRootCA.der".to_owned())]);
    let pcs = Pcs::new(forge.clone(), paths.collect());
    let vendor = Vendor::start(pcs.clone()).await.expect("a port");
    (pcs, vendor)
}

pub(crate) fn mirror(vendor: &Vendor) -> Source {
    Source { services: Vec::new(), place: Place::Mirror(Address::parse(&vendor.url()).expect("an address")) }
}

pub(crate) fn vouching() -> Arc<Vouching> {
    Arc::new(Vouching::by(&[], Roots::VendorAndSimulator))
}

pub(crate) fn collateral(parts: &Parts, sources: Vec<Source>) -> Collateral {
    collateral_by(parts, sources, Reach::default())
}

/// The same with servers reached in another way.
pub(crate) fn collateral_by(parts: &Parts, sources: Vec<Source>, reach: Reach) -> Collateral {
    let reach = Reach { timeout: Duration::from_millis(200), ..reach };
    let settings = Settings { sources, reach, pace: pace(), cache: None };
    Collateral::start(settings, Some(vouching()), parts.clock.clone(), Arc::clone(&parts.metrics)).expect("a start")
}

/// The simulator's guest, with further keys of the policy.
pub(crate) fn policy(keys: &str) -> AppraisalPolicy {
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    let text = format!(
        r#"{{ "version": 1, "name": "fresh", "insecure_roots": ["simulator"], "accept": [ {{ "id": "simulated", "tee": "sev-snp", "measurement": "{measurement}" }},
            {{ "id": "domain", "tee": "intel-tdx", "insecure_any_measurement": true }}, {{ "id": "enclave", "tee": "intel-sgx", "insecure_any_measurement": true }} ]{keys} }}"#
    );
    AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).unwrap_or_else(|problems| panic!("{problems:?}")).0
}

pub(crate) fn appraiser(policy: AppraisalPolicy) -> Arc<Appraiser> {
    Arc::new(Appraiser { anchors: platform::anchors(&policy), policy })
}

pub(crate) fn appraisals(parts: &Parts, collateral: Option<Collateral>) -> Arc<Appraisals> {
    let appraisals = Appraisals::new(appraiser(policy("")), Arc::new(Memo::new()), Arc::clone(&parts.metrics));
    let watched = collateral.clone();
    let appraisals = Arc::new(match collateral {
        Some(collateral) => appraisals.with(collateral),
        None => appraisals,
    });
    if let Some(collateral) = watched {
        // As the program wires them.
        let (mut generation, appraisals) = (collateral.generation(), Arc::downgrade(&appraisals));
        tokio::spawn(async move {
            while generation.changed().await.is_ok() {
                let Some(appraisals) = appraisals.upgrade() else { return };
                appraisals.reconsider();
            }
        });
    }
    appraisals
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn address(proxy: &Proxy) -> SocketAddr {
    match proxy.addresses().as_slice() {
        [(_, proxy::Address::Tcp(address))] => *address,
        other => panic!("{other:?}"),
    }
}

fn patient() -> Limits {
    Limits { handshake: PATIENCE, exchange: PATIENCE, ..Limits::default() }
}

/// A server sidecar with a service behind it.
pub(crate) struct Server {
    pub address: SocketAddr,
    _proxy: Proxy,
    service: Service,
}

impl Server {
    /// How often its service was dialled.
    pub(crate) fn reached(&self) -> usize {
        self.service.dialled()
    }

    pub(crate) async fn start(parts: &Parts, forge: Forge) -> Self {
        Self::of(parts, Machine::of(forge).identity(parts).await).await
    }

    /// One whose machine is of Intel's.
    pub(crate) async fn intel(parts: &Parts, forge: IntelForge) -> Self {
        let settings =
            IdentitySettings::Minted { names: vec!["service.test".to_owned()], lifetime: Duration::from_secs(3600), provider: "simulator".to_owned() };
        let batcher = Batcher::start(Arc::<dyn Attester>::from(forge.attester()), BatchSettings { window: Duration::from_millis(5), queue: 1024 });
        let identity = Identity::start(settings, Some(batcher), None, parts.clock.clone(), Arc::clone(&parts.metrics)).await;
        Self::of(parts, identity.unwrap_or_else(|error| panic!("{error}"))).await
    }

    async fn of(parts: &Parts, identity: Identity) -> Self {
        let settings = ServerSettings { identity, tier: Tier::Session, clients: Clients::Any, alpn: None, max_evidence: None };
        let side = ServerSide::new(settings, parts.clock.clone()).unwrap_or_else(|error| panic!("{error}"));
        let service = Service::start().await;
        let mut plan = listener(&unique("server"), loopback(), Terminate::Attested(Arc::new(side)), upstream("service", service.address(), Originate::Plain));
        plan.limits = patient();
        let proxy = Proxy::start(vec![plan], parts.clone()).unwrap_or_else(|error| panic!("{error}"));
        Self { address: address(&proxy), _proxy: proxy, service }
    }
}

/// A client sidecar.
pub(crate) struct Client {
    pub name: String,
    entrance: SocketAddr,
    _proxy: Proxy,
}

impl Client {
    pub(crate) fn start(parts: &Parts, judge: Arc<dyn Judge>, server: SocketAddr) -> Self {
        records::keep();
        let server_name = ServerName::try_from("service.test").expect("a name");
        let peer = Peer { judge, identity: PeerIdentity::default() };
        let settings = ClientSettings { identity: None, tier: Tier::Session, server_name, peer, alpn: None, max_evidence: None };
        let side = ClientSide::new(settings, parts.clock.clone()).unwrap_or_else(|error| panic!("{error}"));
        let name = unique("client");
        let mut plan = listener(&name, loopback(), Terminate::Plain, upstream("far", server, Originate::Attested(Arc::new(side))));
        plan.limits = patient();
        let proxy = Proxy::start(vec![plan], parts.clone()).unwrap_or_else(|error| panic!("{error}"));
        Self { name, entrance: address(&proxy), _proxy: proxy }
    }

    /// One connection of an application: whether what it said came back.
    pub(crate) async fn call(&self) -> bool {
        match Live::open(self).await {
            Some(mut live) => live.speaks().await,
            None => false,
        }
    }

    pub(crate) async fn outcomes(&self, count: usize) -> Vec<Record> {
        records::first(&self.name, count).await
    }
}

/// An application's connection, held open.
pub(crate) struct Live(TcpStream);

impl Live {
    pub(crate) async fn open(client: &Client) -> Option<Self> {
        let mut live = Self(TcpStream::connect(client.entrance).await.ok()?);
        live.speaks().await.then_some(live)
    }

    /// Whether it carries words both ways.
    pub(crate) async fn speaks(&mut self) -> bool {
        let words = b"hello";
        let mut answer = [0; 5];
        self.0.write_all(words).await.is_ok() && self.0.read_exact(&mut answer).await.is_ok() && answer.as_slice() == echoed(words)
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) {
        let mut octet = [0; 1];
        let end = self.0.read(&mut octet);
        // A reset is an end too.
        drop(tokio::time::timeout(PATIENCE, end).await.expect("an end"));
    }
}

fn unique(role: &str) -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{role}-{}", NEXT.fetch_add(1, Ordering::SeqCst))
}

pub(crate) fn scene() -> Parts {
    parts()
}

pub(crate) const fn now() -> Timestamp {
    NOW
}
