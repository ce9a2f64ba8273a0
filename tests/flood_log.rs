//! Who was let in may be refused as often as it likes: the log has a few of its refusals, and the number of the others.
#![cfg(feature = "simulator")]

#[path = "support/lines.rs"]
mod lines;
#[path = "support/sidecar.rs"]
mod sidecar;
#[path = "support/web.rs"]
mod web;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lines::Lines;
use portcullis::proxy::plan::Limits;
use sidecar::{Machine, Tunnels, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use web::{Mirror, PATIENCE, desk};

const MANY: usize = 1000;

/// The log of both tests, where one process runs them.
fn lines() -> &'static Lines {
    static LINES: OnceLock<Lines> = OnceLock::new();
    LINES.get_or_init(Lines::begin)
}

/// How many of the refusals of a connection that is over were written, once all are accounted for.
async fn written(listener: &str, refusals: &[&str]) -> usize {
    let mut told = (0, 0);
    let waiting = async {
        loop {
            let lines = lines().of("listener", listener);
            let is = |line: &&serde_json::Value| refusals.iter().any(|event| line["event"] == *event);
            told = (lines.iter().filter(is).count(), lines.iter().filter_map(|line| line["left_out"].as_u64()).sum::<u64>());
            if told.0 + usize::try_from(told.1).expect("few") == MANY {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await.is_ok();
    assert!(waited, "{} written and {} left out are not {MANY}", told.0, told.1);
    told.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_streams_of_a_session_do_not_fill_the_log() {
    lines();
    let bare = Tunnels { far: true, bare: true, ..Tunnels::default() };
    let world = World::tunnelled(&Machine::good(1), Limits::default(), bare).await;
    let stream = TcpStream::connect(world.entrance()).await.expect("a connection");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let running = tokio::spawn(connection);
    for _ in 0..MANY {
        sender = sender.ready().await.expect("the session stays");
        let request = hyper::Request::builder().method("CONNECT").uri("localhost:22").body(()).expect("a request");
        let (answer, _body) = sender.send_request(request, false).expect("sent");
        assert_eq!(tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer").status(), 403);
    }
    assert_eq!((world.dialled(), world.received_by_service()), (0, 0));
    drop(sender);
    running.abort();
    let written = written("attested", &["refused_stream"]).await;
    println!("{written} of {MANY} are written");
    assert!((16..MANY / 4).contains(&written), "{written} lines");
    assert!(world.metrics().contains(&format!("limits_rejected_total{{listener=\"attested\",limit=\"tunnel_request\"}} {MANY}\n")), "each is counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_requests_of_a_connection_do_not_fill_the_log() {
    lines();
    let (mirror, desk) = (Mirror::start().await, desk());
    let text = format!(
        "[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n[[listener]]\nname = \"flooded\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
         certificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\nupstream = \"app\"\n",
        mirror.address
    );
    let app = web::sidecar(&desk, &text).await;
    let stream = TcpStream::connect(app.tcp_address("flooded").expect("an address")).await.expect("a listener");
    let name = rustls::pki_types::ServerName::try_from("far.test").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(sidecar::careless_client(&[b"http/1.1"])));
    let mut stream = connector.connect(name, stream).await.expect("TLS");
    let mut answers = Vec::new();
    for _ in 0..MANY {
        stream.write_all(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
        let before = answers.len();
        while !answers[before..].ends_with(b"Method Not Allowed\n") {
            let count = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answers)).await.expect("in time").expect("an answer");
            assert!(count > 0, "closed after {}", String::from_utf8_lossy(&answers[before..]));
        }
    }
    drop(stream);
    let written = written("flooded", &["request"]).await;
    println!("{written} of {MANY} are written");
    assert!((16..MANY / 4).contains(&written), "{written} lines");
    assert!(mirror.heads().is_empty());
    app.drain().await;
}
