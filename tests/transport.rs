//! The transport in process, on loopback: both tiers, refusals that leave the upstream untouched, half-close, drain.
//!
//! Evidence is the simulator's, judged by real policies. The clock stands.
#![cfg(feature = "simulator")]

#[path = "support/sidecar.rs"]
mod sidecar;

use std::io;
use std::time::Duration;

use portcullis::attester::simulator::{Fault, Forge};
use portcullis::evidence::snp::Product;
use portcullis::proxy::plan::{Limits, Originate, Terminate};
use portcullis::tls::{PeerIdentity, Tier};
use sidecar::{Machine, NOW, Service, World, listener, upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const GRACE: Duration = Duration::from_secs(10);

/// A request is sent, its direction closed, and the answer read to its end.
async fn converse(world: &World, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(world.entrance()).await?;
    let (mut reading, mut writing) = stream.split();
    let send = async {
        writing.write_all(request).await?;
        writing.shutdown().await
    };
    let mut answer = Vec::new();
    let (sent, read) = tokio::join!(send, reading.read_to_end(&mut answer));
    sent?;
    read?;
    Ok(answer)
}

fn bytes(count: usize) -> Vec<u8> {
    (0_u32..).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).take(count).collect()
}

async fn round_trips(world: World) {
    for size in [0, 1, 1000, 70_000, 3_000_000] {
        let request = bytes(size);
        let answer = converse(&world, &request).await.unwrap_or_else(|error| panic!("{size}: {error}"));
        assert!(answer == sidecar::echoed(&request), "{size} octets came back changed");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_tier_carries_every_byte_both_ways() {
    round_trips(World::one_way(Tier::Session, &Machine::good(1)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_tier_carries_every_byte_both_ways() {
    round_trips(World::one_way(Tier::Certificate, &Machine::good(1)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_session_tier_carries_every_byte_both_ways() {
    round_trips(World::mutual(Tier::SessionMutual, &Machine::good(1), &Machine::good(2), PeerIdentity::default()).await).await;
    round_trips(World::mutual(Tier::Session, &Machine::good(1), &Machine::good(2), PeerIdentity::default()).await).await;
    round_trips(World::mutual(Tier::Certificate, &Machine::good(1), &Machine::good(2), PeerIdentity::default()).await).await;
}

/// The connection ends without a byte, nobody dialled the service, and the refusal has its code.
async fn refused(world: World, reason: &str) {
    let answer = converse(&world, b"let me in").await;
    assert!(answer.as_ref().map_or(true, Vec::is_empty), "{reason}: bytes came through: {answer:?}");
    assert_eq!(world.dialled(), 0, "{reason}: the service saw a connection");
    let metrics = world.metrics();
    assert!(metrics.contains(&format!("\"{reason}\"")), "no refusal for {reason} in\n{metrics}");
    world.end().await;
}

#[tokio::test]
async fn another_measurement_is_refused_and_the_service_untouched() {
    let stranger = || Machine::of(Forge::new(Product::Genoa, 1, NOW).measurement([9; 48]));
    refused(World::one_way(Tier::Session, &stranger()).await, "measurement_unknown").await;
    // A certificate-tier server that lets any client in knows of no verdict; what counts is that no byte went out.
    let world = World::one_way(Tier::Certificate, &stranger()).await;
    assert!(converse(&world, b"let me in").await.map_or(true, |answer| answer.is_empty()));
    assert_eq!(world.received_by_service(), 0);
    assert!(world.metrics().contains("\"measurement_unknown\""), "{}", world.metrics());
    world.end().await;
    refused(World::mutual(Tier::SessionMutual, &Machine::good(1), &stranger(), PeerIdentity::default()).await, "measurement_unknown").await;
}

#[tokio::test]
async fn evidence_made_for_other_report_data_is_refused() {
    let machine = Machine::good(1);
    let world = World::one_way(Tier::Session, &machine).await;
    machine.misbehave(Fault::OtherReportData);
    refused(world, "binding_mismatch").await;
}

#[tokio::test]
async fn an_attester_that_does_not_answer_is_busy_and_a_panic_harms_nobody() {
    for fault in [Fault::Busy, Fault::Broken, Fault::Panic] {
        let machine = Machine::good(1);
        let world = World::one_way(Tier::Session, &machine).await;
        machine.misbehave(fault);
        let answer = converse(&world, b"let me in").await;
        assert!(answer.as_ref().map_or(true, Vec::is_empty), "{fault:?}");
        assert_eq!(world.dialled(), 0);
        machine.misbehave(Fault::None);
        assert_eq!(converse(&world, b"again").await.ok(), Some(sidecar::echoed(b"again")), "{fault:?}");
        world.end().await;
    }
}

#[tokio::test]
async fn a_pinned_key_that_is_another_is_refused_before_a_quote_is_spent() {
    let machine = Machine::good(1);
    let identity = PeerIdentity { spki_pins: vec![[3; 32]], ..PeerIdentity::default() };
    let world = World::one_way_to(Tier::Session, &machine, identity).await;
    let before = machine.quotes();
    refused(world, "identity_mismatch").await;
    assert_eq!(machine.quotes(), before);
}

/// Neither a plain byte stream nor a TLS client of another protocol gets to the service.
#[tokio::test]
async fn strangers_at_a_session_listener_get_nothing() {
    let world = World::one_way(Tier::Session, &Machine::good(1)).await;
    let mut plain = TcpStream::connect(world.attested()).await.expect("a listener");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "an HTTP answer without attestation");
    for protocol in [&b""[..], b"h2", b"http/1.1"] {
        let error = sidecar::foreign_client(world.attested(), protocol).await;
        assert!(error.is_err(), "{protocol:?} got through");
    }
    assert_eq!(world.dialled(), 0);
    assert!(world.metrics().contains("result=\"alpn_mismatch\""), "{}", world.metrics());
    world.end().await;
}

/// What `curl -k` does: a TLS client without certificate or protocol at a certificate-tier listener.
#[tokio::test]
async fn a_plain_tls_client_is_served_by_a_certificate_listener() {
    let world = World::one_way(Tier::Certificate, &Machine::good(1)).await;
    let answer = sidecar::foreign_client(world.attested(), b"http/1.1").await.expect("an answer");
    assert_eq!(answer, sidecar::echoed(b"hello"));
    world.end().await;
}

#[tokio::test]
async fn tiers_do_not_mix() {
    refused(World::unequal(Tier::Session, Tier::Certificate).await, "alpn_mismatch").await;
    refused(World::unequal(Tier::Certificate, Tier::Session).await, "alpn_mismatch").await;
}

#[tokio::test]
async fn an_upstream_that_is_down_resets_the_client() {
    let world = World::without_service(&Machine::good(1)).await;
    let mut stream = TcpStream::connect(world.entrance()).await.expect("a listener");
    let error = stream.read(&mut [0; 1]).await;
    assert!(error.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    assert!(world.metrics().contains(r#"upstream_connects_total{upstream="service",result="unreachable"} 1"#), "{}", world.metrics());
    world.end().await;
}

/// A request may end while its answer has not begun.
#[tokio::test]
async fn each_direction_is_closed_by_itself() {
    let world = World::one_way(Tier::Session, &Machine::good(1)).await;
    let mut stream = TcpStream::connect(world.entrance()).await.expect("a listener");
    stream.write_all(b"first").await.expect("written");
    stream.shutdown().await.expect("closed for writing");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the whole answer");
    assert_eq!(answer, sidecar::echoed(b"first"));
    world.end().await;
}

#[tokio::test]
async fn draining_lets_connections_finish_and_cuts_those_that_do_not() {
    let world = World::one_way(Tier::Session, &Machine::good(1)).await;
    let mut open = TcpStream::connect(world.entrance()).await.expect("a listener");
    open.write_all(b"half a").await.expect("written");
    world.until_dialled(1).await;
    let (entrance, service, proxy) = world.into_parts();
    let draining = tokio::spawn(proxy.drain(GRACE));
    // No new connection, and the old one still works.
    sidecar::until_closed(entrance).await;
    open.write_all(b" question").await.expect("written");
    open.shutdown().await.expect("closed for writing");
    let mut answer = Vec::new();
    open.read_to_end(&mut answer).await.expect("an answer");
    assert_eq!(answer, sidecar::echoed(b"half a question"));
    let drained = draining.await.expect("drained");
    assert_eq!((drained.open, drained.cut), (2, 0));
    service.stop();

    let world = World::one_way(Tier::Session, &Machine::good(1)).await;
    let mut open = TcpStream::connect(world.entrance()).await.expect("a listener");
    open.write_all(b"never ends").await.expect("written");
    world.until_dialled(1).await;
    let (_, service, proxy) = world.into_parts();
    let drained = proxy.drain(Duration::from_millis(50)).await;
    assert_eq!((drained.open, drained.cut), (2, 2));
    let rest = open.read_to_end(&mut Vec::new()).await;
    assert!(rest.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset), "{rest:?}");
    service.stop();
}

#[tokio::test]
async fn a_renewed_identity_drops_no_connection() {
    let machine = Machine::good(1);
    let world = World::one_way(Tier::Certificate, &machine).await;
    let mut open = TcpStream::connect(world.entrance()).await.expect("a listener");
    open.write_all(b"before").await.expect("written");
    world.until_dialled(1).await;
    world.identity().renew().await.expect("renewed");
    assert_eq!(converse(&world, b"with the new key").await.ok(), Some(sidecar::echoed(b"with the new key")));
    open.write_all(b" and after").await.expect("written");
    open.shutdown().await.expect("closed for writing");
    let mut answer = Vec::new();
    open.read_to_end(&mut answer).await.expect("an answer");
    assert_eq!(answer, sidecar::echoed(b"before and after"));
    assert_eq!(world.identity().state().published, 2);
    world.end().await;
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_old_certificate_until_it_ends() {
    let machine = Machine::good(1);
    let world = World::one_way(Tier::Certificate, &machine).await;
    machine.misbehave(Fault::Broken);
    world.identity().renew().await.expect_err("the attester is broken");
    assert_eq!(converse(&world, b"still").await.ok(), Some(sidecar::echoed(b"still")));
    world.clock().set(NOW.plus(3601));
    let before = world.dialled();
    assert!(converse(&world, b"too late").await.map_or(true, |answer| answer.is_empty()));
    assert_eq!(world.dialled(), before);
    assert!(world.metrics().contains("evidence_stale"), "{}", world.metrics());
    world.end().await;
}

#[tokio::test]
async fn more_handshakes_than_a_source_may_have_are_turned_away() {
    let limits = Limits { handshakes_per_source: 1, ..Limits::default() };
    let world = World::with_limits(&Machine::good(1), limits).await;
    let silent = TcpStream::connect(world.attested()).await.expect("a listener");
    world.until_open(1).await;
    let mut second = TcpStream::connect(world.attested()).await.expect("a listener");
    assert!(second.read(&mut [0; 1]).await.map_or(true, |read| read == 0));
    assert!(world.metrics().contains(r#"limit="handshakes_per_source"} 1"#), "{}", world.metrics());
    drop(silent);
    world.end().await;
}

#[tokio::test]
async fn a_peer_that_says_nothing_times_out() {
    let limits = Limits { handshake: Duration::from_millis(50), ..Limits::default() };
    let world = World::with_limits(&Machine::good(1), limits).await;
    let mut silent = TcpStream::connect(world.attested()).await.expect("a listener");
    assert!(silent.read(&mut [0; 1]).await.map_or(true, |read| read == 0));
    assert!(world.metrics().contains(r#"result="timeout"} 1"#), "{}", world.metrics());
    world.end().await;
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_stops_the_start() {
    let service = Service::start().await;
    let occupied = service.address();
    let plain = listener("in", occupied, Terminate::Plain, upstream("service", service.address(), Originate::Plain));
    let error = portcullis::proxy::Proxy::start(vec![plain], sidecar::parts()).expect_err("the port is in use");
    assert!(error.to_string().starts_with(&format!("listener \"in\" cannot listen at {occupied}: ")), "{error}");
    service.stop();
}

#[tokio::test]
async fn unix_sockets_on_both_sides() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::over_unix(&Machine::good(1), folder.path()).await;
    let mut stream = tokio::net::UnixStream::connect(folder.path().join("in")).await.expect("a socket");
    stream.write_all(b"hello").await.expect("written");
    stream.shutdown().await.expect("closed for writing");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    assert_eq!(answer, sidecar::echoed(b"hello"));
    world.end().await;
    assert!(!folder.path().join("in").exists(), "the socket is left behind");
}
