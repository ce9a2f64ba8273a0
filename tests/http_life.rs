//! How an HTTP listener is reached and how it ends: over both families of addresses, behind names whose addresses change,
//! and drained while requests are under way.
#![cfg(feature = "simulator")]

#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/skipped.rs"]
mod skipped;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use web::{Mirror, PATIENCE, Pair, Setup, curl, desk, field, say, sidecar};

/// An application that holds its answers back until it is let go.
struct Holding {
    address: SocketAddr,
    asked: watch::Sender<usize>,
    free: watch::Sender<bool>,
}

impl Holding {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (asked, free) = (watch::Sender::new(0), watch::Sender::new(false));
        let (count, held) = (asked.clone(), free.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(hold(stream, count.clone(), held.subscribe()));
            }
        });
        Self { address, asked, free }
    }

    async fn until_asked(&self, count: usize) {
        let mut asked = self.asked.subscribe();
        tokio::time::timeout(PATIENCE, asked.wait_for(|asked| *asked >= count)).await.expect("requests come").expect("the application lives");
    }
}

async fn hold(mut stream: TcpStream, asked: watch::Sender<usize>, mut free: watch::Receiver<bool>) {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => read.extend_from_slice(&buffer[..count]),
            _ => return,
        }
        while let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = read.drain(..end + 4).collect();
            asked.send_modify(|asked| *asked += 1);
            if !head.starts_with(b"GET /at-once ") && free.wait_for(|free| *free).await.is_err() {
                return;
            }
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const GOAWAY: u8 = 7;
const PING: u8 = 6;

/// The next frame of HTTP/2: its kind, flags, stream and payload; `None` at the end.
async fn next(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let reading = async {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("short")];
        stream.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(id), payload))
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("a frame or the end")
}

async fn until(stream: &mut TcpStream, kind: u8) -> Vec<u8> {
    loop {
        let (found, _, _, payload) = next(stream).await.expect("the connection goes on");
        if found == kind {
            return payload;
        }
    }
}

async fn readiness(app: SocketAddr) -> String {
    say(app, b"GET /readyz?verbose HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await
}

const OBSERVED: &str = "[observe]\nbind = \"127.0.0.1:0\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_tells_every_client_to_go_and_lets_its_requests_finish() {
    let holding = Holding::start().await;
    let pair = Pair::start(holding.address, Setup { client: OBSERVED, mutual: false, ..Setup::default() }).await;
    let observed = pair.client.observed_at().expect("an address");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    // One client idles between requests, one waits in HTTP/1.1, one in HTTP/2.
    let mut idle = TcpStream::connect(pair.entrance).await.expect("a listener");
    idle.write_all(&get("/at-once")).await.expect("written");
    let answer = web::heard(&mut idle).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.to_lowercase().contains("connection: close"), "{answer}");
    let mut one = TcpStream::connect(pair.entrance).await.expect("a listener");
    one.write_all(&get("/")).await.expect("written");
    let mut two = TcpStream::connect(pair.entrance).await.expect("a listener");
    two.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    two.write_all(&frame(4, 0, 0, &[])).await.expect("written");
    // :method GET, :scheme http, :path /, :authority a.
    let open = |stream: u32| frame(1, 5, stream, &[0x82, 0x86, 0x84, 0x41, 0x01, b'a']);
    two.write_all(&open(1)).await.expect("written");
    holding.until_asked(3).await;
    assert!(readiness(observed).await.starts_with("HTTP/1.1 200"));

    let drained = tokio::spawn(pair.client.drain());
    // First that no new requests are wanted, without saying which was the last: what is under way to us still counts.
    let goodbye = until(&mut two, GOAWAY).await;
    assert_eq!((&goodbye[..4], &goodbye[4..8]), (&[0x7f, 0xff, 0xff, 0xff][..], &[0; 4][..]));
    let unready = readiness(observed).await;
    assert!(unready.starts_with("HTTP/1.1 503") && unready.contains("[-]listeners: draining"), "{unready}");
    two.write_all(&open(3)).await.expect("written");
    holding.until_asked(4).await;
    // When the client has heard it, which was the last.
    let ping = until(&mut two, PING).await;
    two.write_all(&frame(PING, 1, 0, &ping)).await.expect("written");
    let last = until(&mut two, GOAWAY).await;
    assert_eq!((&last[..4], &last[4..8]), (&[0, 0, 0, 3][..], &[0; 4][..]));
    two.write_all(&open(5)).await.expect("written");
    // Who idles is let go, and nobody comes in any more.
    let closed = tokio::time::timeout(PATIENCE, idle.read(&mut [0; 16])).await.expect("the end");
    assert!(matches!(closed, Ok(0)), "{closed:?}");
    assert!(TcpStream::connect(pair.entrance).await.is_err(), "somebody still listens");

    assert!(!drained.is_finished());
    holding.free.send_replace(true);
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, one.read_to_string(&mut answer)).await.expect("the end").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"), "{answer}");
    assert_eq!(field(&answer, "connection").as_deref(), Some("close"), "{answer}");
    let mut answered = Vec::new();
    while let Some((kind, flags, stream, payload)) = next(&mut two).await {
        match kind {
            // 200 of the static table.
            1 => assert_eq!(payload[0], 0x88, "{payload:?}"),
            0 if flags & 1 == 1 => answered.push((stream, payload)),
            _ => {}
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, [(1, b"ok".to_vec()), (3, b"ok".to_vec())]);
    let drained = drained.await.expect("no panic");
    assert_eq!((drained.open, drained.cut, *holding.asked.borrow()), (3, 0, 4));
    assert_eq!(pair.server.drain().await.cut, 0);
}

/// The other sidecar's connection carries many requests: it too is told to go, and what is on it finishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_of_an_attested_listener_loses_no_request_of_the_other_sidecar() {
    let holding = Holding::start().await;
    let pair = Pair::start(holding.address, Setup { server: OBSERVED, ..Setup::default() }).await;
    let observed = pair.server.observed_at().expect("an address");
    let url = format!("http://{}/", pair.entrance);
    let asking: Vec<_> = (0..3).map(|_| url.clone()).map(|url| tokio::spawn(async move { curl(&[&url]).await })).collect();
    holding.until_asked(3).await;
    let drained = tokio::spawn(pair.server.drain());
    let waiting = async { while !readiness(observed).await.contains("[-]listeners: draining") || TcpStream::connect(pair.attested).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it drains");
    holding.free.send_replace(true);
    for asked in asking {
        let answer = asked.await.expect("no panic");
        assert!(answer.contains(" 200") && answer.ends_with("ok"), "{answer}");
    }
    let drained = drained.await.expect("no panic");
    assert_eq!((drained.open, drained.cut), (1, 0));
    let answer = curl(&[&url]).await;
    assert!(answer.contains(" 503") && answer.contains("destination_unavailable"), "{answer}");
    assert_eq!(pair.client.drain().await.cut, 0);
}

/// A target that is busy gets no more while another is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_busy_target_is_asked() {
    let (one, other, desk) = (Holding::start().await, Holding::start().await, desk());
    let text = format!(
        "[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\", \"http://{}\"]\nbalance = \"least-request\"\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\n\
         protocol = \"http\"\ncertificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\nupstream = \"app\"\n",
        one.address, other.address
    );
    let app = sidecar(&desk, &text).await;
    let url = format!("https://{}/", app.tcp_address("in").expect("an address"));
    let asked = || [*one.asked.borrow(), *other.asked.borrow()];
    let held = url.clone();
    let held = tokio::spawn(async move { curl(&["-k", &held]).await });
    let mut counts = [one.asked.subscribe(), other.asked.subscribe()];
    let [first, second] = &mut counts;
    tokio::select! { _ = first.wait_for(|asked| *asked == 1) => {}, _ = second.wait_for(|asked| *asked == 1) => {} }
    let busy = asked();
    for _ in 0..5 {
        assert!(curl(&["-k", &format!("{url}at-once")]).await.contains(" 200"));
    }
    assert_eq!(asked(), if busy == [1, 0] { [1, 5] } else { [5, 1] });
    one.free.send_replace(true);
    other.free.send_replace(true);
    assert!(held.await.expect("no panic").contains(" 200"));
    assert_eq!(app.drain().await.cut, 0);
}

#[test]
fn one_listener_takes_both_families() {
    namespace::inside("one_listener_takes_both_families", FAR, &["curl"], both);
}

/// Both families come to one socket, and clients of IPv4 are clients of IPv4 for whatever looks at their address.
async fn both() {
    if TcpListener::bind("[::1]:0").await.is_err() {
        return skipped::cases(1, "this system has no IPv6");
    }
    // Of this namespace: the system's default is the other.
    if std::fs::write("/proc/sys/net/ipv6/bindv6only", "1").is_err() {
        skipped::cases(1, "the default for IPv6 sockets is not ours to change");
    }
    let (mirror, desk) = (Mirror::start().await, desk());
    let text = format!(
        "[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n[[listener]]\nname = \"in\"\nbind = \"[::]:0\"\nprotocol = \"http\"\ncertificate = \"attested\"\n\
         freshness = \"certificate\"\ninsecure_accept_replay_risk = true\nupstream = \"app\"\ntrusted_proxies = [\"127.0.0.2/32\"]\n",
        mirror.address
    );
    let app = sidecar(&desk, &text).await;
    let port = app.tcp_address("in").expect("an address").port();
    for (host, source, told) in [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1", "::1"),
        ("127.0.0.1", "127.0.0.2", "192.0.2.9, 127.0.0.2"),
        ("127.0.0.1", "127.0.0.3", "127.0.0.3"),
    ] {
        let answer = curl(&["-k", "--interface", source, "-H", "X-Forwarded-For: 192.0.2.9", &format!("https://{host}:{port}/")]).await;
        assert!(answer.contains(" 200"), "{host} {source}: {answer}");
        let head = mirror.last();
        assert_eq!(field(&head, "x-forwarded-for").as_deref(), Some(told), "{head}");
        let node = if source == "::1" { "for=\"[::1]\";".to_owned() } else { format!("for={source};") };
        assert!(field(&head, "forwarded").is_some_and(|way| way.starts_with(&node)), "{head}");
    }
    app.drain().await;
}

const FAR: &str = "127.0.0.1 localhost\n127.0.0.1 far.test\n";

#[test]
fn connections_that_are_kept_follow_where_a_name_leads() {
    namespace::inside("connections_that_are_kept_follow_where_a_name_leads", FAR, &["curl"], moved);
}

/// A service moves to another address under its name, comes to have both, and loses its name.
async fn moved() {
    let desk = desk();
    let (one, other) = (Mirror::start().await, Mirror::start().await);
    let mut servers = Vec::new();
    for (address, mirror) in [("127.0.0.1", &one), ("127.0.0.2", &other)] {
        let text = format!(
            "[[upstream]]\nname = \"web\"\ntargets = [\"http://{0}\"]\n[[upstream]]\nname = \"raw\"\ntargets = [\"tcp://{0}\"]\n\
             [[listener]]\nname = \"web\"\nbind = \"{address}:8443\"\nprotocol = \"http\"\ncertificate = \"attested\"\nupstream = \"web\"\n\
             [[listener]]\nname = \"raw\"\nbind = \"{address}:8444\"\ncertificate = \"attested\"\nupstream = \"raw\"\nmultiplex = true\n",
            mirror.address
        );
        servers.push(sidecar(&desk, &text).await);
    }
    let upstream = |name: &str, port: u16, more: &str| {
        format!("[[upstream]]\nname = \"{name}\"\ntargets = [\"tls://far.test:{port}\"]\nattested = {{ policy = \"mesh\" }}\ndns_refresh = \"1s\"\n{more}\n")
    };
    let listener =
        |name: &str, port: u16| format!("[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:{port}\"\nprotocol = \"PROTOCOL\"\nupstream = \"{name}\"\n");
    let text = upstream("web", 8443, "ejection = \"100ms\"")
        + &upstream("raw", 8444, "")
        + &upstream("many", 8444, "multiplex = true")
        + &listener("web", 8080).replace("PROTOCOL", "http")
        + &listener("raw", 8081).replace("PROTOCOL", "tcp")
        + &listener("many", 8082).replace("PROTOCOL", "tcp");
    let client = sidecar(&desk, &text).await;
    let heads = || [one.heads().len(), other.heads().len()];
    // Which of the two a request reaches.
    let asked = async |port: u16| {
        let before = heads();
        let answer = curl(&["-H", "Connection: close", &format!("http://127.0.0.1:{port}/")]).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let after = heads();
        [after[0] - before[0], after[1] - before[1]]
    };
    let until = async |port: u16, reached: [usize; 2]| {
        let asking = async { while asked(port).await != reached {} };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{port} does not follow"));
    };
    for port in [8080, 8081, 8082] {
        assert_eq!(asked(port).await, [1, 0]);
    }
    // One request and one connection stay under way all the while.
    let mut under_way = TcpStream::connect("127.0.0.1:8080").await.expect("a listener");
    under_way.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 8\r\n\r\nhalf").await.expect("written");
    let mut open = TcpStream::connect("127.0.0.1:8082").await.expect("a listener");
    open.write_all(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
    assert!(web::heard(&mut open).await.starts_with("HTTP/1.1 200 "));

    std::fs::write("/etc/hosts", FAR.replace("127.0.0.1 far", "127.0.0.2 far")).expect("names are changed");
    // A connection of its own goes where the name leads now; requests, and connections in sessions, soon do.
    assert_eq!(asked(8081).await, [0, 1]);
    until(8080, [0, 1]).await;
    until(8082, [0, 1]).await;
    for _ in 0..5 {
        assert_eq!((asked(8080).await, asked(8082).await), ([0, 1], [0, 1]), "a connection that was let go is used again");
    }
    let before = heads();
    under_way.write_all(b"half").await.expect("written");
    let answer = web::heard(&mut under_way).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && field(&answer, "x-body").as_deref() == Some("8"), "{answer}");
    open.write_all(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
    assert!(web::heard(&mut open).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(heads(), [before[0] + 1, before[1]], "what was under way stays where it was");
    drop(open);

    // Both addresses are used in turn, and one that is gone costs no request.
    std::fs::write("/etc/hosts", format!("{FAR}127.0.0.2 far.test\n")).expect("names are changed");
    until(8080, [1, 0]).await;
    let before = heads();
    for _ in 0..10 {
        asked(8080).await;
    }
    assert_eq!(heads(), [before[0] + 5, before[1] + 5]);
    let second = servers.pop().expect("two");
    for server in servers {
        server.drain().await;
    }
    for _ in 0..10 {
        assert_eq!(asked(8080).await, [0, 1]);
    }
    let retried = "portcullis_upstream_retries_total{upstream=\"web\",result=\"unreachable\"} ";
    assert!(client.metrics().text().contains(retried), "{}", client.metrics().text());

    // What a name led to stays in use when it is lost; when nobody is there either, nobody is reached.
    std::fs::write("/etc/hosts", "127.0.0.1 localhost\n").expect("names are changed");
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(asked(8080).await, [0, 1]);
    second.drain().await;
    let answer = curl(&["http://127.0.0.1:8080/"]).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("far.test:8443 (127.0.0.2)"), "{answer}");
    client.drain().await;
}
