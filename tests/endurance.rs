//! Long streams while evidence is made anew and policies are read again: no byte is lost and no stream is cut.
//!
//! A short round runs with the others; `PORTCULLIS_SOAK=full` runs seven minutes, with 1 GiB each way first. Whatever the
//! round, each stream runs across a rotation of the evidence at both ends, since a certificate is replaced at half of its
//! life, and ends before the certificate does that it was admitted for, less the two minutes by which clocks may differ.
//! Requests and short connections go on beyond that: they have to move to other sessions in time.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/peers.rs"]
mod peers;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portcullis::app::App;
use portcullis::clock::Clock;
use portcullis::config::Config;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

struct Plan {
    /// Of certificates.
    life: Duration,
    /// Of every stream.
    runs: Duration,
    /// Of requests and connections one after another.
    repeats: Duration,
    /// The first body each way, and the others: those have to end in the 30 s in which a session takes no new requests.
    body: usize,
    bodies: usize,
}

const SHORT: Plan = Plan { life: Duration::from_secs(10), runs: Duration::from_secs(5), repeats: Duration::from_secs(13), body: 16 << 20, bodies: 4 << 20 };
const FULL: Plan = Plan { life: Duration::from_secs(480), runs: Duration::from_secs(300), repeats: Duration::from_secs(420), body: 1 << 30, bodies: 64 << 20 };

const MUTUAL: &str = "clients = \"attested\"\npolicy = \"mesh\"\ninsecure_allow_any_genuine_platform = true\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_run_across_rotations_and_reloads_without_losing_a_byte() {
    let plan = if std::env::var_os("PORTCULLIS_SOAK").is_some_and(|value| value == "full") { FULL } else { SHORT };
    let Some(python) = peers::python() else { return };
    let ((_grpc, grpc), (_socket, socket)) = (peers::serve(&python, "grpc_echo.py"), peers::serve(&python, "websocket_echo.py"));
    let (service, echo) = (serve(web_service).await, serve(echo_service).await);
    let desk = web::desk();
    let server = format!(
        "[[upstream]]\nname = \"grpc\"\ntargets = [\"h2c://{grpc}\"]\n[[upstream]]\nname = \"socket\"\ntargets = [\"http://{socket}\"]\n\
         [[upstream]]\nname = \"web\"\ntargets = [\"http://{service}\"]\n[[upstream]]\nname = \"echo\"\ntargets = [\"tcp://{echo}\"]\n\
         [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"attested\"\n{MUTUAL}upstream = \"web\"\n\
         route = [ {{ paths = [\"/test.Echo/*\"], upstream = \"grpc\" }}, {{ paths = [\"/chat\"], upstream = \"socket\" }} ]\n\
         [[listener]]\nname = \"bytes\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nmultiplex = true\n{MUTUAL}upstream = \"echo\"\n"
    );
    let (server, far_written) = (sidecar(&desk, &server, plan.life).await, server);
    let at = |listener| server.tcp_address(listener).expect("an address");
    let far = |name: &str, address: SocketAddr, more: &str| {
        format!(
            "[[upstream]]\nname = \"{name}\"\ntargets = [\"tls://{address}\"]\nserver_name = \"far.test\"\ninsecure_allow_any_genuine_platform = true\n\
             attested = {{ policy = \"mesh\", freshness = \"session-mutual\" }}\n{more}\n[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\nupstream = \"{name}\"\n"
        )
    };
    let client = far("web", at("in"), "") + "protocol = \"http\"\n" + &far("bytes", at("bytes"), "multiplex = true");
    let (client, near_written) = (sidecar(&desk, &client, plan.life).await, client);
    let (web, bytes) = (client.tcp_address("web").expect("an address"), client.tcp_address("bytes").expect("an address"));

    let (seconds, address) = (plan.runs.as_secs().to_string(), web.to_string());
    let (stream, client_of) = (["stream", &address, &seconds], ["client", &address, &seconds]);
    let streams = async {
        tokio::join!(
            peers::ask(&python, "grpc_echo.py", &stream),
            peers::ask(&python, "websocket_echo.py", &client_of),
            events(web, plan.runs),
            downloads(web, &plan),
            uploads(web, &plan),
            long_connection(bytes, plan.runs),
            short_connections(bytes, plan.repeats),
        )
    };
    let reloads = async {
        let mut count = 0;
        loop {
            tokio::time::sleep(plan.runs / 10).await;
            count += 1;
            reload(&desk, [(&server, &far_written), (&client, &near_written)], plan.life, count).await;
        }
    };
    let started = Instant::now();
    let (grpc, socket, events, downs, ups, long, short) = tokio::select! {
        done = streams => done,
        () = reloads => unreachable!("reloads go on"),
    };
    println!(
        "{grpc}{socket}events {events}, bodies of {} MiB and then {} MiB: {downs} down, {ups} up; long connection {long} times, {short} short ones",
        plan.body >> 20,
        plan.bodies >> 20
    );
    assert!(grpc.contains("status OK count ") && socket.contains("closed 1000 count True"), "{grpc}{socket}");
    assert!(started.elapsed() > plan.life / 2 && events > 0 && downs > 0 && ups > 0 && long > 0 && short > 0);
    for app in [&server, &client] {
        let metrics = app.metrics().text();
        let count = |name: &str| -> u64 {
            let lines = metrics.lines().filter(|line| line.starts_with(&format!("portcullis_{name}")));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        println!("rotations {}, reloads {}, sessions {}", count("evidence_mints_total") - 1, count("config_reloads_total"), count("tunnel_sessions_opened"));
        assert!(count("evidence_mints_total{provider=\"simulator\",result=\"ok\"}") >= 2, "no rotation: {metrics}");
        assert!(count("config_reloads_total{result=\"ok\"}") >= 5 && count("connections_withdrawn_total") == 0, "{metrics}");
    }
    client.drain().await;
    server.drain().await;
}

async fn sidecar(desk: &tempfile::TempDir, text: &str, life: Duration) -> App {
    App::start(&configured(desk, text, life), Clock::system()).await.unwrap_or_else(|error| panic!("{error:#}"))
}

fn configured(desk: &tempfile::TempDir, text: &str, life: Duration) -> Config {
    let head = "version = 1\ndrain_grace = \"5s\"\n[identity]\nprovider = \"simulator\"\nnames = [\"far.test\"]\n[policy.mesh]\nfile = \"mesh.json\"\n";
    let mut config = Config::parse("test.toml", &format!("{head}{text}"), desk.path()).unwrap_or_else(|error| panic!("{error}"));
    // Shorter than an operator may.
    config.identity.as_mut().expect("one").life = life;
    config
}

/// A policy that says the same in other words, and another configuration each time: every upstream and every listener is
/// another, and there is one listener more every other time. The targets and the far ends stay.
async fn reload(desk: &tempfile::TempDir, apps: [(&App, &String); 2], life: Duration, count: usize) {
    let policy = std::fs::read_to_string(desk.path().join("mesh.json")).expect("a policy");
    let body = policy.split_once("\"accept\"").expect("a policy").1;
    let age = 3600 + count;
    let written = format!("{{ \"version\": 1, \"name\": \"mesh\", \"insecure_roots\": [\"simulator\"], \"max_evidence_age\": \"{age}s\", \"accept\"{body}");
    std::fs::write(desk.path().join("mesh.json"), written).expect("written");
    for (app, written) in apps {
        let changed = written
            .replace("targets = ", &format!("connect_timeout = \"{}ms\"\ntargets = ", 5000 + count))
            .replace("bind = ", &format!("limits = {{ connections = {} }}\nbind = ", 10_000 + count))
            .replace("protocol = \"http\"", &format!("protocol = \"http\"\nstrip_headers = [\"x-{count}\"]"));
        let more = "[[listener]]\nname = \"more\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nredirect = \"https\"\n";
        let text = if count.is_multiple_of(2) { changed } else { changed + more };
        app.reload(Ok(configured(desk, &text, life))).await;
    }
}

// ---- what is carried

/// Every octet at its place: a period that divides no buffer.
fn pattern() -> Vec<u8> {
    (0..(1_u32 << 20) + 7).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// Compares octets with the pattern from `at` on.
fn check(pattern: &[u8], mut at: usize, mut octets: &[u8]) {
    while !octets.is_empty() {
        let from = &pattern[at % pattern.len()..];
        let count = from.len().min(octets.len());
        assert!(from[..count] == octets[..count], "other octets near {at}");
        (at, octets) = (at + count, &octets[count..]);
    }
}

async fn send(into: &mut (impl tokio::io::AsyncWrite + Unpin), pattern: &[u8], count: usize) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < count {
        let from = &pattern[sent % pattern.len()..];
        let piece = &from[..from.len().min(count - sent).min(256 * 1024)];
        into.write_all(piece).await?;
        sent += piece.len();
    }
    Ok(())
}

async fn receive(from: &mut (impl tokio::io::AsyncRead + Unpin), pattern: &[u8], count: usize) {
    let (mut received, mut buffer) = (0, vec![0; 256 * 1024]);
    while received < count {
        let most = buffer.len().min(count - received);
        let octets = from.read(&mut buffer[..most]).await.expect("a body that goes on");
        assert!(octets > 0, "the body ends after {received} of {count}");
        check(pattern, received, &buffer[..octets]);
        received += octets;
    }
}

async fn serve<F: Future<Output = ()> + Send + 'static>(with: fn(TcpStream) -> F) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(with(stream));
        }
    });
    address
}

async fn echo_service(mut stream: TcpStream) {
    let (mut reading, mut writing) = stream.split();
    let _ = tokio::io::copy(&mut reading, &mut writing).await;
    let _ = writing.shutdown().await;
}

/// `GET /down/OCTETS`, `PUT /up`, `GET /events/MILLISECONDS`.
async fn web_service(stream: TcpStream) {
    let (pattern, (reading, mut writing)) = (pattern(), stream.into_split());
    let mut reading = BufReader::with_capacity(256 * 1024, reading);
    while let Some(head) = head(&mut reading).await {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let number = path.rsplit('/').next().and_then(|number| number.parse::<usize>().ok()).unwrap_or_default();
        if path.starts_with("/down/") {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {number}\r\n\r\n");
            writing.write_all(answer.as_bytes()).await.expect("a client that reads");
            send(&mut writing, &pattern, number).await.expect("a client that reads");
        } else if path.starts_with("/events/") {
            let begin = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            writing.write_all(begin).await.expect("a client that reads");
            let (end, mut count) = (Instant::now() + Duration::from_millis(number as u64), 0);
            while Instant::now() < end {
                let event = format!("data: {count}\n\n");
                writing.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.expect("a client that reads");
                tokio::time::sleep(Duration::from_millis(5)).await;
                count += 1;
            }
            writing.write_all(format!("a\r\nend: {count:05}\r\n0\r\n\r\n").as_bytes()).await.expect("a client that reads");
        } else {
            let length = web::field(&head, "content-length").and_then(|length| length.parse().ok()).expect("a length");
            receive(&mut reading, &pattern, length).await;
            writing.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntook").await.expect("a client that reads");
        }
    }
}

async fn head(reading: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reading.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

async fn asked(web: SocketAddr, request: &str) -> (BufReader<tokio::net::tcp::OwnedReadHalf>, tokio::net::tcp::OwnedWriteHalf) {
    let (reading, mut writing) = TcpStream::connect(web).await.expect("a listener").into_split();
    writing.write_all(format!("{request} HTTP/1.1\r\nHost: far.test\r\n").as_bytes()).await.expect("sent");
    (BufReader::with_capacity(256 * 1024, reading), writing)
}

async fn answered(reading: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> String {
    let head = head(reading).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    head
}

async fn downloads(web: SocketAddr, plan: &Plan) -> usize {
    let (pattern, end, mut count) = (pattern(), Instant::now() + plan.repeats, 0);
    while Instant::now() < end {
        let body = if count == 0 { plan.body } else { plan.bodies };
        let (mut reading, mut writing) = asked(web, &format!("GET /down/{body}")).await;
        writing.write_all(b"\r\n").await.expect("sent");
        let head = answered(&mut reading).await;
        assert_eq!(web::field(&head, "content-length"), Some(body.to_string()));
        receive(&mut reading, &pattern, body).await;
        count += 1;
    }
    count
}

async fn uploads(web: SocketAddr, plan: &Plan) -> usize {
    let (pattern, end, mut count) = (pattern(), Instant::now() + plan.repeats, 0);
    while Instant::now() < end {
        let body = if count == 0 { plan.body } else { plan.bodies };
        let (mut reading, mut writing) = asked(web, "PUT /up").await;
        writing.write_all(format!("Content-Length: {body}\r\n\r\n").as_bytes()).await.expect("sent");
        send(&mut writing, &pattern, body).await.expect("taken");
        answered(&mut reading).await;
        count += 1;
    }
    count
}

async fn events(web: SocketAddr, runs: Duration) -> usize {
    let (mut reading, mut writing) = asked(web, &format!("GET /events/{}", runs.as_millis())).await;
    writing.write_all(b"Connection: close\r\n\r\n").await.expect("sent");
    answered(&mut reading).await;
    let mut count = 0;
    loop {
        let mut line = String::new();
        assert!(reading.read_line(&mut line).await.expect("a stream that goes on") > 0, "the stream ends after {count}");
        if let Some(number) = line.trim().strip_prefix("data: ") {
            assert_eq!(number, count.to_string(), "an event is missing");
            count += 1;
        } else if let Some(number) = line.strip_prefix("end: ") {
            assert_eq!(number.trim().parse(), Ok(count));
            return count;
        }
    }
}

/// One connection in a session of many, for the whole time.
async fn long_connection(bytes: SocketAddr, runs: Duration) -> usize {
    let (mut stream, end, mut count) = (TcpStream::connect(bytes).await.expect("a listener"), Instant::now() + runs, 0);
    let (pattern, mut back) = (pattern(), vec![0; 70_000]);
    while Instant::now() < end {
        let sent = &pattern[count % 1000..][..70_000];
        let (mut reading, mut writing) = stream.split();
        let (wrote, read) = tokio::join!(writing.write_all(sent), reading.read_exact(&mut back));
        wrote.expect("sent");
        read.expect("an echo");
        assert!(back == sent, "other octets in round {count}");
        count += 1;
    }
    count
}

async fn short_connections(bytes: SocketAddr, runs: Duration) -> usize {
    let (end, mut count) = (Instant::now() + runs, 0);
    while Instant::now() < end {
        let mut stream = TcpStream::connect(bytes).await.expect("a listener");
        stream.write_all(b"hello").await.expect("sent");
        stream.shutdown().await.expect("closed");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.expect("an echo");
        assert_eq!(back, b"hello", "after {count}");
        count += 1;
    }
    count
}
