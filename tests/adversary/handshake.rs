//! 6.1, up to the end of the handshake: versions, possession, resumption, protocols.

use std::sync::Arc;
use std::time::Duration;

use portcullis::tls::Tier;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::attack::{Adversary, Failures, Heard, Listening, Target, on_client, on_client_raw, on_server, on_server_raw};
use crate::peer::{Possession, Tls, Wire};
use crate::records;
use crate::script::{self, Twist};
use crate::wire::{self, HELLO_C, Hello, frame};
use crate::world::{Client, SECRET, Server};

/// A ServerHello of TLS 1.2 (no `supported_versions`): ECDHE-ECDSA with AES-128-GCM, an empty session id.
fn server_hello_12() -> Vec<u8> {
    let body = [&[0x03, 0x03][..], &[0x5a; 32], &[0], &[0xc0, 0x2b], &[0]].concat();
    record(0x0303, &handshake(2, &body))
}

/// A ServerHello of TLS 1.3 that takes up a session (`pre_shared_key` 0) which the client did not offer.
fn server_hello_resumed(session_id: &[u8]) -> Vec<u8> {
    let versions = [0x00, 0x2b, 0x00, 0x02, 0x03, 0x04];
    let psk = [0x00, 0x29, 0x00, 0x02, 0x00, 0x00];
    let key_share = [&[0x00, 0x33, 0x00, 0x24, 0x00, 0x1d, 0x00, 0x20][..], &[9; 32]].concat();
    let extensions = [&versions[..], &key_share, &psk].concat();
    let length = u16::try_from(extensions.len()).expect("short").to_be_bytes();
    let id_length = u8::try_from(session_id.len()).expect("at most 32");
    let body = [&[0x03, 0x03][..], &[0x5a; 32], &[id_length], session_id, &[0x13, 0x01], &[0], &length, &extensions].concat();
    record(0x0303, &handshake(2, &body))
}

/// A ClientHello of TLS 1.2.
fn client_hello_12() -> Vec<u8> {
    let extensions = [
        &[0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x1d][..], // supported_groups: x25519
        &[0x00, 0x0b, 0x00, 0x02, 0x01, 0x00],                 // ec_point_formats
        &[0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03],     // signature_algorithms
        &[0x00, 0x10, 0x00, 0x12, 0x00, 0x10, 0x0f],           // ALPN
        wire::ALPN,
    ]
    .concat();
    let length = u16::try_from(extensions.len()).expect("short").to_be_bytes();
    let body = [&[0x03, 0x03][..], &[0x5a; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0], &length, &extensions].concat();
    record(0x0301, &handshake(1, &body))
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

fn record(version: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [&[22][..], &version.to_be_bytes(), &length, body].concat()
}

/// The victim's ClientHello, whole.
async fn client_hello(tcp: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 5];
    tcp.read_exact(&mut header).await.expect("a record");
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    tcp.read_exact(&mut body).await.expect("a ClientHello");
    body
}

async fn everything(mut tcp: TcpStream) -> Heard {
    let mut all = Vec::new();
    let _ = tcp.read_to_end(&mut all).await;
    Heard::Outside(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_full_handshakes_of_tls_13_count() {
    let mut failures = Failures::default();
    let attacked = on_client_raw(Target::session(), async |mut tcp: TcpStream| {
        client_hello(&mut tcp).await;
        let _ = tcp.write_all(&server_hello_12()).await;
        everything(tcp).await
    })
    .await;
    failures.check(&attacked, "tls12 server", "tls_unacceptable");
    let attacked = on_client_raw(Target::session(), async |mut tcp: TcpStream| {
        let hello = client_hello(&mut tcp).await;
        // type 1, length 3, version 2, random 32, then the session id with its length
        let id = &hello[39..39 + usize::from(hello[38])];
        let _ = tcp.write_all(&server_hello_resumed(id)).await;
        everything(tcp).await
    })
    .await;
    failures.check(&attacked, "resumed: a session nobody offered", "tls_unacceptable");
    let attacked = on_client_raw(Target::session(), async |mut tcp: TcpStream| {
        let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        let _ = tcp.shutdown().await;
        everything(tcp).await
    })
    .await;
    failures.check(&attacked, "no TLS server", "tls_unacceptable");
    for (name, octets) in [("tls12 client", client_hello_12()), ("no TLS client", b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n".to_vec()), ("nothing", vec![])]
    {
        let attacked = on_server_raw(Listening::session().await, async |mut tcp: TcpStream| {
            let _ = tcp.write_all(&octets).await;
            let _ = tcp.shutdown().await;
            everything(tcp).await
        })
        .await;
        failures.check(&attacked, name, "tls_unacceptable");
    }
    failures.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_not_finished_times_out() {
    let mut failures = Failures::default();
    let short = Duration::from_millis(300);
    let mut target = Target::session();
    target.plan.limits.handshake = short;
    let attacked = on_client_raw(target, async |tcp: TcpStream| everything(tcp).await).await;
    failures.check(&attacked, "a silent server", "timeout");
    let mut target = Listening::session().await;
    target.plan.limits.handshake = short;
    let attacked = on_server_raw(target, async |tcp: TcpStream| everything(tcp).await).await;
    failures.check(&attacked, "a silent client", "timeout");
    let mut target = Listening::session().await;
    target.plan.limits.handshake = short;
    let attacked = on_server_raw(target, async |mut tcp: TcpStream| {
        for octet in client_hello_12() {
            let _ = tcp.write_all(&[octet]).await;
            tokio::time::sleep(short / 20).await;
        }
        everything(tcp).await
    })
    .await;
    failures.check(&attacked, "slowloris in the handshake", "timeout");
    failures.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_not_held_is_refused() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    let bad = Tls { possession: Possession::BitFlipped, ..adversary.tls() };
    // A genuine server's certificate, as anybody can see it, with another key.
    let genuine = Listening::session().await;
    let genuine = Server::start(&genuine.house, genuine.plan).await;
    let seen = Tls::anonymous().connect(genuine.dial().await).await.expect("a handshake");
    let leaf = seen.peer_leaf().expect("a certificate");
    drop(seen);
    let mut impostor = Adversary::new();
    impostor.holder.leaf = leaf;
    for (name, tls) in [("bad-certverify", &bad), ("cert-of-other", &impostor.tls())] {
        for tier in [Tier::Session, Tier::Certificate] {
            let target = if tier == Tier::Session { Target::session() } else { Target::certificate() };
            let attacked = on_client(target, tls, async |_: &mut Wire| {}).await;
            failures.check(&attacked, &format!("{name}, {tier}"), "possession_unproved");
            let attacked = on_server(Listening::attested(tier).await, tls, async |wire: &mut Wire| {
                script::open(wire, &adversary.machine, &Twist::default()).await;
            })
            .await;
            failures.check(&attacked, &format!("{name} of a client, {tier}"), "possession_unproved");
        }
    }
    failures.none();
    genuine.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_tier_speaks_its_own_protocols_alone() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    let serve = async |wire: &mut Wire| {
        script::serve(wire, &adversary.machine, &Twist::default()).await;
    };
    for (name, alpn) in [("no-alpn", vec![]), ("alpn-h2", vec![b"h2".to_vec()]), ("alpn-other-version", vec![b"portcullis2/raw".to_vec()])] {
        let attacked = on_client(Target::session(), &Tls { alpn: alpn.clone(), ..adversary.tls() }, serve).await;
        failures.check(&attacked, name, "alpn_mismatch");
        let attacked = on_server(Listening::session().await, &Tls { alpn, ..Tls::anonymous() }, async |wire: &mut Wire| {
            wire.send(&frame(HELLO_C, &Hello::new(0x11, 1).payload())).await;
        })
        .await;
        failures.check(&attacked, &format!("{name} of a client"), "alpn_mismatch");
    }
    failures.none();
}

/// Tickets that a hostile server gives are not used: every connection is a full handshake with evidence of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_gives_tickets_sees_full_handshakes_alone() {
    let (adversary, target) = (Adversary::new(), Target::session());
    let tls = Tls { tickets: 4, ..adversary.tls() };
    let config = tls.server_config();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = Client::start(&target.house, target.plan, listener.local_addr().expect("an address"));
    for round in 1..=3 {
        let serving = async {
            let (tcp, _) = listener.accept().await.expect("the sidecar connects");
            let mut wire = tls.accept_with(Arc::clone(&config), tcp).await.expect("a handshake");
            let kind = wire.kind();
            let answers = script::serve(&mut wire, &adversary.machine, &Twist::default()).await;
            let said = wire.read_some(SECRET.len()).await;
            wire.finish().await;
            (kind, answers.len(), said)
        };
        let (_, (kind, answers, said)) = tokio::join!(client.application(), serving);
        assert_eq!((kind, answers, said.as_slice()), (Some(HandshakeKind::Full), 1, SECRET), "round {round}");
    }
    assert!(records::first(&client.name, 3).await.iter().all(|record| record.field("event") == "forwarded"));
    client.end().await;
}

/// A client that would resume is given no ticket: its next handshake is full, and needs evidence again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_would_resume_cannot() {
    let (adversary, target) = (Adversary::new(), Listening::attested(Tier::SessionMutual).await);
    let server = Server::start(&target.house, target.plan).await;
    let tls = Tls { resumption: Some(Resumption::in_memory_sessions(16)), ..adversary.tls() };
    let config = tls.client_config();
    for round in 1..=2 {
        let mut wire = Tls::connect_with(Arc::clone(&config), tls.holder.as_ref(), server.dial().await).await.expect("a handshake");
        assert_eq!(wire.kind(), Some(HandshakeKind::Full), "round {round}");
        let verdict = script::open(&mut wire, &adversary.machine, &Twist::default()).await.expect("a verdict");
        assert_eq!(verdict.octets, wire::result(0));
        wire.finish().await;
    }
    let mut wire = Tls::connect_with(config, tls.holder.as_ref(), server.dial().await).await.expect("a handshake");
    assert_eq!(wire.kind(), Some(HandshakeKind::Full));
    // Admitted twice; without evidence, still nobody.
    wire.send(SECRET).await;
    wire.heard().await;
    let records = records::first(&server.name, 3).await;
    // In the order of their ends, which is not that of their beginnings.
    let refused: Vec<_> = records.iter().filter(|record| record.field("event") == "refused").map(|record| record.field("reason")).collect();
    assert_eq!(refused, ["exchange_out_of_order"], "{records:?}");
    assert_eq!(server.end().await, (2, 0));
}
