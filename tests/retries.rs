//! When a request is tried again: while nothing of it was sent, and never otherwise. What counts is what targets saw.
#![cfg(feature = "simulator")]

#[path = "support/sidecar.rs"]
mod peer;
#[path = "support/told.rs"]
mod told;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use portcullis::app::App;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use web::{Mirror, PATIENCE, curl, desk, field, sidecar};

/// Nobody listens there.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address")
}

/// A sidecar in front of targets, and where it listens.
async fn front(targets: &[String], more: &str) -> (App, SocketAddr) {
    let desk = desk();
    let targets = targets.iter().map(|target| format!("\"{target}\"")).collect::<Vec<_>>().join(", ");
    let text = format!(
        "[[upstream]]\nname = \"app\"\ntargets = [{targets}]\n{more}\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
         certificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\nupstream = \"app\"\n"
    );
    let app = sidecar(&desk, &text).await;
    let entrance = app.tcp_address("in").expect("an address");
    (app, entrance)
}

/// Sends bytes and reads what comes until its end.
async fn say(entrance: SocketAddr, bytes: &[u8]) -> String {
    let asking = async {
        let stream = TcpStream::connect(entrance).await.expect("a listener");
        let name = rustls::pki_types::ServerName::try_from("far.test").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(peer::careless_client(&[b"http/1.1"])));
        let mut stream = connector.connect(name, stream).await.expect("TLS");
        stream.write_all(bytes).await.expect("written");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("an end")
}

/// How many tries followed another, for this reason.
fn retries(app: &App, why: &str) -> u64 {
    let begin = format!("portcullis_upstream_retries_total{{upstream=\"app\",result=\"{why}\"}} ");
    app.metrics().text().lines().find_map(|line| line.strip_prefix(&begin)?.parse().ok()).unwrap_or(0)
}

fn post(id: usize) -> Vec<u8> {
    format!("POST /{id} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").into_bytes()
}

/// A target that takes each connection and does this with what comes; it keeps what came.
struct Target {
    address: SocketAddr,
    came: Arc<Mutex<Vec<Vec<u8>>>>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Does {
    /// Closes at once, unasked.
    Closes,
    /// Reads a whole head and closes.
    ReadsAndCloses,
    /// Reads a whole head and resets.
    ReadsAndResets,
}

impl Target {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, came) = (listener.local_addr().expect("an address"), Arc::<Mutex<Vec<Vec<u8>>>>::default());
        let kept = Arc::clone(&came);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                if does == Does::Closes {
                    kept.lock().expect("no panic").push(Vec::new());
                    continue;
                }
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let mut read = Vec::new();
                    while !read.windows(4).any(|four| four == b"\r\n\r\n") && stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {}
                    kept.lock().expect("no panic").push(read);
                    if does == Does::ReadsAndResets {
                        stream.set_zero_linger().expect("a socket");
                    }
                });
            }
        });
        Self { address, came }
    }

    fn came(&self) -> Vec<Vec<u8>> {
        self.came.lock().expect("no panic").clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_where_nobody_is_costs_no_request() {
    let mirror = Mirror::start().await;
    // Also a request with a body: none of it was read for the try that came to nothing.
    let (app, entrance) = front(&[format!("http://{}", nobody().await), format!("http://{}", mirror.address)], "ejection = \"10ms\"").await;
    for id in 0..20 {
        let answer = say(entrance, &post(id)).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && field(&answer, "x-body").as_deref() == Some("5"), "{answer}");
        tokio::time::sleep(std::time::Duration::from_millis(15)).await;
    }
    assert_eq!(mirror.heads().len(), 20, "each arrives once");
    assert!(retries(&app, "unreachable") >= 5, "{}", app.metrics().text());
    app.drain().await;
}

/// A target that drops its connections while HTTP is set up or before it was asked: another serves the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_closes_unasked_gets_a_request_at_most_once() {
    let (closes, mirror) = (Target::start(Does::Closes).await, Mirror::start().await);
    let (app, entrance) = front(&[format!("http://{}", closes.address), format!("http://{}", mirror.address)], "ejection = \"10ms\"").await;
    let (mut good, mut id) = (0, 0);
    // Whether its end is seen before the request is written is a matter of luck: until it was.
    while id < 1000 && (id < 100 || retries(&app, "unsent") == 0) {
        let answer = say(entrance, &post(id)).await;
        match answer.get(..13) {
            Some("HTTP/1.1 200 ") => good += 1,
            // It was written, and nobody knows whether it was read: it is not tried again.
            Some("HTTP/1.1 502 ") => {}
            _ => panic!("{answer}"),
        }
        id += 1;
    }
    println!("{good} of {id} served, {} tries followed another that came to nothing", retries(&app, "unsent"));
    assert!(retries(&app, "unsent") > 0, "{}", app.metrics().text());
    let mut paths: Vec<_> = mirror.heads().iter().map(|head| head.split(' ').nth(1).unwrap_or_default().to_owned()).collect();
    assert_eq!(paths.len(), good, "what was answered is what arrived");
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), good, "a request arrived twice");
    app.drain().await;
}

/// The upstream closed the connection that was kept: another is made, for whatever request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_was_closed_meanwhile_is_not_used() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let came = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&came);
    // Answers one request on each connection as if more were welcome, and closes it.
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\nhello") && stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {}
            kept.lock().expect("no panic").push(String::from_utf8_lossy(&read).lines().next().unwrap_or_default().to_owned());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    });
    let (app, entrance) = front(&[format!("http://{address}")], "").await;
    for id in 0..10 {
        let answer = say(entrance, &post(id)).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let expected: Vec<_> = (0..10).map(|id| format!("POST /{id} HTTP/1.1")).collect();
    assert_eq!(*came.lock().expect("no panic"), expected);
    serving.abort();
    app.drain().await;
}

/// What was sent is not sent again, whatever its method, whichever way the target ends: it may have been served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_never_sent_again() {
    for does in [Does::ReadsAndCloses, Does::ReadsAndResets] {
        let (bad, other) = (Target::start(does).await, Target::start(does).await);
        let (app, entrance) = front(&[format!("http://{}", bad.address), format!("http://{}", other.address)], "").await;
        let begun = b"POST /begun HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100\r\n\r\nsome";
        let asked: [&[u8]; 3] = [b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", &post(1), begun];
        for (count, request) in asked.into_iter().enumerate() {
            let answer = say(entrance, request).await;
            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
            assert_eq!(bad.came().len() + other.came().len(), count + 1, "it was tried again");
        }
        assert_eq!(retries(&app, "unsent") + retries(&app, "unreachable"), 0);
        app.drain().await;
    }
}

/// A verdict is no accident: the request that met it goes nowhere else, and not there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_never_tried_again() {
    let (mirror, desk) = (Mirror::start().await, desk());
    let server = |more: &str| {
        format!(
            "[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"attested\"\nupstream = \"app\"\n{more}",
            mirror.address
        )
    };
    let stranger = format!("[identity.simulator]\nmeasurement = \"{}\"\n", "7".repeat(96));
    let (one, two) = (sidecar(&desk, &server(&stranger)).await, sidecar(&desk, &server(&stranger)).await);
    let [a, b] = [&one, &two].map(|server| format!("tls://{}", server.tcp_address("in").expect("an address")));
    let text = format!(
        "[[upstream]]\nname = \"app\"\ntargets = [\"{a}\", \"{b}\"]\nattested = {{ policy = \"mesh\" }}\n\
         [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nupstream = \"app\"\n"
    );
    let app = sidecar(&desk, &text).await;
    let entrance = app.tcp_address("out").expect("an address");
    let answer = curl(&[&format!("http://{entrance}/")]).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("measurement_unknown"), "{answer}");
    told::told(app.metrics(), "connections_refused_total{listener=\"out\",side=\"upstream\",reason=\"measurement_unknown\"} 1\n").await;
    assert_eq!(retries(&app, "unsent") + retries(&app, "unreachable"), 0);
    assert!(mirror.heads().is_empty());
    for app in [app, one, two] {
        app.drain().await;
    }
}

/// However many targets there are, and however many are gone, one request is tried so often and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tries_of_one_request_are_few() {
    let mut targets = Vec::new();
    for _ in 0..20 {
        targets.push(format!("http://{}", nobody().await));
    }
    let (app, entrance) = front(&targets, "").await;
    let answer = say(entrance, &post(1)).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(retries(&app, "unreachable"), 7);
    let tried = "portcullis_upstream_connects_total{upstream=\"app\",result=\"unreachable\"} 8\n";
    assert!(app.metrics().text().contains(tried), "{}", app.metrics().text());
    app.drain().await;
}
