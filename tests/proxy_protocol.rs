//! The PROXY protocol with HAProxy at the other end, in front of a listener and behind one; and what a plain upstream is
//! told of an attested client, to the octet.
#![cfg(feature = "simulator")]

#[path = "support/peers.rs"]
mod peers;
#[path = "support/told.rs"]
mod told;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use portcullis::crypto::sha256;
use portcullis::evidence::leaf::Leaf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use told::told;
use web::{Mirror, curl, desk, field, say, sidecar};

async fn haproxy(folder: &std::path::Path, sections: &str, address: SocketAddr) -> Option<peers::Peer> {
    let program = peers::installed("haproxy")?;
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, format!("defaults\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n{sections}")).expect("written");
    let mut command = Command::new(program);
    command.arg("-f").arg(&file).arg("-db");
    Some(peers::start(command, address).await)
}

const ATTESTED: &str = "certificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\nupstream = \"app\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_in_front_tells_who_connected() {
    let mirror = Mirror::start().await;
    let desk = desk();
    let app = format!("[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n", mirror.address);
    let listener = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nproxy_protocol_from = [\"127.0.0.1/32\"]\n";
    let server = sidecar(&desk, &format!("{app}{listener}{ATTESTED}")).await;
    let inner = server.tcp_address("in").expect("an address");
    for version in ["send-proxy", "send-proxy-v2"] {
        let front = peers::free();
        let sections = format!("listen front\n  mode tcp\n  bind {front}\n  server us {inner} {version}\n");
        let Some(_haproxy) = haproxy(desk.path(), &sections, front).await else { return };
        let answer = curl(&["-k", "--interface", "127.0.0.2", &format!("https://{front}/")]).await;
        assert!(answer.contains(" 200"), "{version}: {answer}");
        assert_eq!(field(&mirror.last(), "x-forwarded-for").as_deref(), Some("127.0.0.2"), "{version}");
    }
    // A listed source has to announce; one that is not listed may not.
    let before = mirror.heads().len();
    assert_eq!(say(inner, b"\x16\x03\x01\x00\x05hello, this is no announcement").await, "");
    let forged = web::program("curl", &["-sk", "--interface", "127.0.0.3", "--haproxy-protocol", &format!("https://{inner}/")]).await;
    assert!(!forged.status.success());
    assert_eq!(mirror.heads().len(), before);
    told(server.metrics(), "limits_rejected_total{listener=\"in\",limit=\"proxy_protocol\"}").await;
    server.drain().await;
}

/// The proxy is no source: each that it tells of has its own places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_proxy_tells_of_is_capped_as_if_he_had_come_himself() {
    let mirror = Mirror::start().await;
    let desk = desk();
    let app = format!("[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n", mirror.address);
    let listener = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nproxy_protocol_from = [\"127.0.0.1/32\"]\n\
                    limits = { handshakes_per_source = 2 }\n";
    let server = sidecar(&desk, &format!("{app}{listener}{ATTESTED}")).await;
    let inner = server.tcp_address("in").expect("an address");
    // Handshakes that never come, of many sources.
    let mut waiting = Vec::new();
    for last in 1..=3 {
        for _ in 0..2 {
            let mut stream = TcpStream::connect(inner).await.expect("a listener");
            stream.write_all(format!("PROXY TCP4 192.0.2.{last} 192.0.2.9 1000 443\r\n").as_bytes()).await.expect("written");
            waiting.push(stream);
        }
    }
    told(server.metrics(), "portcullis_connections_active{listener=\"in\",direction=\"inbound\"} 6\n").await;
    assert!(!server.metrics().text().contains("limit=\"handshakes_per_source\""), "the proxy was taken for one source");
    let answer = say(inner, b"PROXY TCP4 192.0.2.1 192.0.2.9 1001 443\r\n").await;
    assert_eq!(answer, "");
    told(server.metrics(), "limits_rejected_total{listener=\"in\",limit=\"handshakes_per_source\"} 1\n").await;
    assert_eq!(mirror.connections(), 0);
    drop(waiting);
    server.drain().await;
}

/// A plain listener is for this machine's applications, which are one source; who comes from elsewhere is one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_proxy_tells_of_at_a_plain_listener_is_capped_too() {
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let desk = desk();
    let far = format!("[[upstream]]\nname = \"far\"\ntargets = [\"tls://{}\"]\nattested = {{ policy = \"mesh\" }}\n", silent.local_addr().expect("an address"));
    for protocol in ["http", "tcp"] {
        let listener = format!(
            "[[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\nupstream = \"far\"\nproxy_protocol_from = [\"127.0.0.1/32\"]\n\
             limits = {{ connections_per_source = 2 }}\n"
        );
        let front = sidecar(&desk, &format!("{far}{listener}")).await;
        let address = front.tcp_address("out").expect("an address");
        let mut waiting = Vec::new();
        for source in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "127.0.0.1", "127.0.0.1", "127.0.0.1", "192.0.2.1"] {
            let mut stream = TcpStream::connect(address).await.expect("a listener");
            stream.write_all(format!("PROXY TCP4 {source} 192.0.2.9 1000 443\r\n").as_bytes()).await.expect("written");
            waiting.push(stream);
        }
        let rejected = "limits_rejected_total{listener=\"out\",limit=\"connections_per_source\"}";
        told(front.metrics(), &format!("{rejected} 1\n")).await;
        drop(waiting);
        front.drain().await;
    }
}

/// Whoever may connect to the socket has to announce.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_in_front_of_a_unix_socket_tells_who_connected() {
    let mirror = Mirror::start().await;
    let desk = desk();
    let socket = desk.path().join("in.sock");
    let app = format!("[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n", mirror.address);
    let listener =
        format!("[[listener]]\nname = \"in\"\nbind = \"unix:{}\"\nprotocol = \"http\"\nproxy_protocol_from = [\"unix\"]\n{ATTESTED}", socket.display());
    let server = sidecar(&desk, &format!("{app}{listener}")).await;
    for version in ["send-proxy", "send-proxy-v2"] {
        let front = peers::free();
        let sections = format!("listen front\n  mode tcp\n  bind {front}\n  server us unix@{} {version}\n", socket.display());
        let Some(_haproxy) = haproxy(desk.path(), &sections, front).await else { return };
        let answer = curl(&["-k", "--interface", "127.0.0.2", &format!("https://{front}/")]).await;
        assert!(answer.contains(" 200"), "{version}: {answer}");
        assert_eq!(field(&mirror.last(), "x-forwarded-for").as_deref(), Some("127.0.0.2"), "{version}");
    }
    let before = mirror.heads().len();
    let silent = curl_at(&socket).await;
    assert!(!silent.status.success(), "{silent:?}");
    assert_eq!(mirror.heads().len(), before);
    told(server.metrics(), "limits_rejected_total{listener=\"in\",limit=\"proxy_protocol\"}").await;
    server.drain().await;
}

/// A client of the socket that announces nobody.
async fn curl_at(socket: &std::path::Path) -> std::process::Output {
    web::program("curl", &["-sk", "--unix-socket", &socket.display().to_string(), "https://far.test/"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_upstream_is_told_who_connected() {
    let mirror = Mirror::start().await;
    let desk = desk();
    let behind = peers::free();
    let sections = format!(
        "listen behind\n  mode http\n  bind {behind} accept-proxy\n  http-request set-header x-src %[src]\n  http-request set-header x-name %[fc_pp_authority]\n\
         \x20 http-request set-header x-id %[fc_pp_unique_id,hex]\n  server app {}\n",
        mirror.address
    );
    let Some(_haproxy) = haproxy(desk.path(), &sections, behind).await else { return };
    let app = format!("[[upstream]]\nname = \"app\"\ntargets = [\"tcp://{behind}\"]\n");
    let listener = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nproxy_protocol_to = \"v2\"\n";
    let server = sidecar(&desk, &format!("{app}{listener}{ATTESTED}")).await;
    let port = server.tcp_address("in").expect("an address").port();
    let resolve = format!("far.test:{port}:127.0.0.1");
    let answer = curl(&["-k", "--interface", "127.0.0.2", "--resolve", &resolve, &format!("https://far.test:{port}/")]).await;
    assert!(answer.contains(" 200"), "{answer}");
    let head = mirror.last();
    assert_eq!(field(&head, "x-src").as_deref(), Some("127.0.0.2"));
    assert_eq!(field(&head, "x-name").as_deref(), Some("far.test"));
    assert_eq!(field(&head, "x-id").map(|id| id.len()), Some(32));
    server.drain().await;
}

/// A service that keeps what each connection brought, and answers when that has ended.
async fn service() -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, brought) = (listener.local_addr().expect("an address"), Arc::<Mutex<Vec<Vec<u8>>>>::default());
    let kept = Arc::clone(&brought);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut octets = Vec::new();
            if stream.read_to_end(&mut octets).await.is_ok() {
                kept.lock().expect("no panic").push(octets);
                let _ = stream.write_all(b"taken").await;
            }
        }
    });
    (address, brought)
}

/// Passes connections on, with `ahead` in front of each.
async fn relay(to: SocketAddr, ahead: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let ahead = ahead.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.expect("a listener");
                far.write_all(&ahead).await.expect("written");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

fn field_of(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).expect("short").to_be_bytes(), value].concat()
}

/// A header of version 2 with addresses of IPv4.
fn header_of(addresses: [u8; 12], fields: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len() + fields.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length[..], &addresses, fields].concat()
}

fn fields_in(mut octets: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [kind, high, low, rest @ ..] = octets {
        let (value, rest) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
        found.push((*kind, value.to_vec()));
        octets = rest;
    }
    assert!(octets.is_empty(), "{octets:?}");
    found
}

/// Takes a header with addresses of IPv4 apart: the addresses, the fields, and what came behind.
fn taken_apart(octets: &[u8]) -> ([u8; 12], Vec<(u8, Vec<u8>)>, &[u8]) {
    let rest = octets.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n\x21\x11").unwrap_or_else(|| panic!("{octets:?}"));
    let (length, rest) = rest.split_at(2);
    let (all, behind) = rest.split_at(u16::from_be_bytes([length[0], length[1]]).into());
    let (addresses, fields) = all.split_at(12);
    (addresses.try_into().expect("12 octets"), fields_in(fields), behind)
}

/// What of it is verified comes from us alone: neither the client's bytes nor the proxy in front can say it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_upstream_is_told_what_is_verified_of_the_client_and_nothing_else() {
    const SOURCE: [u8; 12] = [192, 0, 2, 9, 192, 0, 2, 10, 0, 7, 0, 8];
    let digest = |desk: &tempfile::TempDir| sha256(&[&std::fs::read(desk.path().join("mesh.json")).expect("a policy")]);
    let claims = |tee: &[u8; 7], digest: &[u8; 32]| {
        [b"\xa6\x01\x67", &tee[..], b"\x02\x65web-1\x03\x64mesh\x04\x58\x20", digest, b"\x05\x6esession-mutual\x06\x81\x69simulated"].concat()
    };
    let tls = [&[7, 0, 0, 0, 0][..], &field_of(0x21, b"forged"), &field_of(0x28, b"forged")].concat();
    let forged = [field_of(0xe0, &claims(b"forged!", &[7; 32])), field_of(0x20, &tls), field_of(0x02, b"forged.test"), field_of(0x05, b"forged")].concat();
    let forged = header_of(SOURCE, &forged);
    let payload = [&forged[..], b"PROXY TCP4 192.0.2.9 192.0.2.10 7 8\r\nhello"].concat();
    for (mutual, shared, listed, version) in [
        (true, false, false, "v2"),
        (true, true, false, "v2-certificate"),
        (true, false, true, "v2-certificate"),
        (true, true, true, "v2"),
        (false, false, true, "v2-certificate"),
    ] {
        let case = format!("mutual {mutual}, shared {shared}, listed {listed}, {version}");
        let (desk, (behind, brought)) = (desk(), service().await);
        let clients = if mutual { "clients = \"attested\"\npolicy = \"mesh\"\ninsecure_allow_any_genuine_platform = true\n" } else { "clients = \"any\"\n" };
        let from = if listed { "proxy_protocol_from = [\"127.0.0.1/32\"]\n" } else { "" };
        let server = format!(
            "[[upstream]]\nname = \"app\"\ntargets = [\"tcp://{behind}\"]\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\n\
             certificate = \"attested\"\nupstream = \"app\"\nproxy_protocol_to = \"{version}\"\nmultiplex = {shared}\n{clients}{from}"
        );
        let server = sidecar(&desk, &server).await;
        let inner = server.tcp_address("in").expect("an address");
        let port = inner.port();
        let front = relay(inner, if listed { forged.clone() } else { Vec::new() }).await;
        let (freshness, any) = if mutual { ("session-mutual", "insecure_allow_any_genuine_platform = true\n") } else { ("session", "") };
        let client = format!(
            "[[upstream]]\nname = \"far\"\ntargets = [\"tls://{front}\"]\nserver_name = \"far.test\"\nmultiplex = {shared}\n{any}\
             attested = {{ policy = \"mesh\", freshness = \"{freshness}\" }}\n[[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nupstream = \"far\"\n"
        );
        let client = sidecar(&desk, &client).await;
        for _ in 0..2 {
            let mut stream = TcpStream::connect(client.tcp_address("out").expect("an address")).await.expect("a listener");
            stream.write_all(&payload).await.expect("written");
            stream.shutdown().await.expect("closed");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            assert_eq!(answer, "taken", "{case}");
        }
        let brought = brought.lock().expect("no panic").clone();
        let mut ids = Vec::new();
        for octets in &brought {
            let (addresses, fields, behind) = taken_apart(octets);
            assert_eq!(behind, payload, "{case}: what the client sent came as it was sent");
            let source = if listed { addresses[..4] == SOURCE[..4] && addresses[8..10] == SOURCE[8..10] } else { addresses[..4] == [127, 0, 0, 1] };
            assert!(source && addresses[4..8] == [127, 0, 0, 1] && addresses[10..] == port.to_be_bytes(), "{case}: {addresses:?}");
            let told = |kind: u8| fields.iter().find(|field| field.0 == kind).map(|field| field.1.as_slice());
            let kinds: Vec<u8> = fields.iter().map(|field| field.0).collect();
            assert_eq!(kinds, if mutual { &[0x01, 0x02, 0x05, 0x20, 0xe0][..] } else { &[0x01, 0x02, 0x05, 0x20] }, "{case}");
            assert_eq!(told(0x01), Some(if shared { &b"portcullis1/tunnel"[..] } else { b"portcullis1/raw" }), "{case}");
            assert_eq!(told(0x02), Some(&b"far.test"[..]), "{case}");
            assert_eq!(told(0xe0), mutual.then(|| claims(b"sev-snp", &digest(&desk))).as_deref(), "{case}");
            let (verdict, within) = told(0x20).expect("a field").split_at(5);
            let within = fields_in(within);
            assert_eq!(within[0], (0x21, b"TLSv1.3".to_vec()), "{case}");
            assert_eq!(verdict, if mutual { [7, 0, 0, 0, 0] } else { [1, 0, 0, 0, 1] }, "{case}");
            let certificate = within.get(1).map(|field| (field.0, Leaf::read(&field.1).is_ok()));
            assert_eq!(certificate, (mutual && version == "v2-certificate").then_some((0x28, true)), "{case}");
            ids.push(told(0x05).expect("an id").to_vec());
        }
        assert!(ids.len() == 2 && ids[0] != ids[1] && ids.iter().all(|id| id.len() == 16), "{case}: {ids:?}");
        let (client, server) = tokio::join!(client.drain(), server.drain());
        assert_eq!((client.cut, server.cut), (0, 0), "{case}");
    }
}
