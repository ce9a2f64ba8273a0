//! What an attested connection costs, beside the same connection over plain rustls and the signature it cannot do
//! without. Prints times and, at the end, the ratios.
//!
//! `cargo bench --bench connection`. Application, both sidecars and service run in one process on loopback; every
//! connection carries five octets there and back. Compare figures of one run only.

#[path = "../tests/support/sidecar.rs"]
mod sidecar;

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::attester::simulator::Forge;
use portcullis::crypto::{Scheme, verifies};
use portcullis::evidence::ReportData;
use portcullis::evidence::snp::{Product, Report, SIGNED_SIZE, Vek};
use portcullis::tls::{PeerIdentity, Tier};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use sidecar::{Machine, NOW, Service, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn connection(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (plain, worlds, service) = runtime.block_on(async {
        let machines = (Machine::good(1), Machine::good(2));
        let worlds = [
            ("certificate, one way", World::one_way(Tier::Certificate, &machines.0).await),
            ("certificate, mutual", World::mutual(Tier::Certificate, &machines.0, &machines.1, PeerIdentity::default()).await),
            ("session, one way", World::one_way(Tier::Session, &machines.0).await),
            ("session, mutual", World::mutual(Tier::SessionMutual, &machines.0, &machines.1, PeerIdentity::default()).await),
        ];
        let service = Service::start().await;
        (plain_sidecars(service.address()).await, worlds, service)
    });

    let mut group = c.benchmark_group("connection");
    group.sample_size(40).measurement_time(Duration::from_secs(4));
    group.bench_function("primitive: one P-384 verify", |b| b.iter(p384()));
    group.bench_function("plain rustls", |b| b.iter(|| runtime.block_on(once(plain))));
    for (name, world) in &worlds {
        group.bench_function(*name, |b| b.iter(|| runtime.block_on(once(world.entrance()))));
    }
    group.finish();
    ratios(&runtime, plain, &worlds);
    runtime.block_on(async {
        for (_, world) in worlds {
            world.end().await;
        }
    });
    service.stop();
}

/// Interleaved, so that a busy moment hits all alike.
fn ratios(runtime: &Runtime, plain: SocketAddr, worlds: &[(&str, World)]) {
    let one = p384();
    let mut times = vec![Vec::new(); worlds.len() + 2];
    for _ in 0..301 {
        times[0].push(timed(&one));
        times[1].push(timed(|| runtime.block_on(once(plain))));
        for (at, (_, world)) in worlds.iter().enumerate() {
            times[at + 2].push(timed(|| runtime.block_on(once(world.entrance()))));
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    for ((name, _), time) in worlds.iter().zip(&medians[2..]) {
        let (verify, rustls) = (medians[0], medians[1]);
        println!("{name:<22} = {:.2} x plain rustls, {:+.2} P-384 verifies", time / rustls, (time - rustls) / verify);
    }
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// One connection of an application: five octets there, five back, both ends closed.
async fn once(entrance: SocketAddr) {
    let mut stream = TcpStream::connect(entrance).await.expect("a connection");
    stream.write_all(b"hello").await.expect("sent");
    stream.shutdown().await.expect("closed");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    assert_eq!(answer, sidecar::echoed(b"hello"));
}

/// The verification that every verdict on fresh evidence contains.
fn p384() -> impl Fn() {
    let quote = Forge::new(Product::Genoa, 1, NOW).quote(&ReportData([7; 64]));
    let report = Report::parse(&quote.evidence.bytes).expect("a report");
    let vek = Vek::parse(quote.endorsements.find("vcek").expect("stapled")).expect("a certificate");
    let signature = report.signature_be().expect("a signature");
    move || assert!(verifies(Scheme::EcdsaP384Sha384, &vek.key, black_box(&quote.evidence.bytes[..SIGNED_SIZE]), &signature))
}

/// The same two hops over rustls alone: TLS 1.3, the same groups, a P-256 leaf of its own making that is pinned.
async fn plain_sidecars(service: SocketAddr) -> SocketAddr {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(["service.test".to_owned()]).and_then(|params| params.self_signed(&key)).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .expect("an identity");
    server.send_tls13_tickets = 0;
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    let (acceptor, connector) = (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));

    let (attested, at) = bound().await;
    tokio::spawn(async move {
        while let Ok((socket, _)) = attested.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                socket.set_nodelay(true)?;
                let mut inner = acceptor.accept(socket).await?;
                let mut outer = TcpStream::connect(service).await?;
                outer.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut inner, &mut outer).await
            });
        }
    });
    let (entrance, address) = bound().await;
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = entrance.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                socket.set_nodelay(true)?;
                let outer = TcpStream::connect(at).await?;
                outer.set_nodelay(true)?;
                let name = ServerName::try_from("service.test").expect("a name");
                let mut outer = connector.connect(name, outer).await?;
                tokio::io::copy_bidirectional(&mut socket, &mut outer).await
            });
        }
    });
    address
}

async fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

criterion_group!(benches, connection);
criterion_main!(benches);
