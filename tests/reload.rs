//! The configuration is read again while everything runs: what is carried goes on, and rights end with the file that gave
//! them.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/process.rs"]
mod process;
#[path = "support/program.rs"]
mod program;
#[path = "support/told.rs"]
mod told;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::app::App;
use portcullis::clock::Clock;
use portcullis::config::Config;
use process::Process;
use program::Desk;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use told::told;
use web::{Mirror, PATIENCE, heard, say};

const MUTUAL: &str = "clients = \"attested\"\npolicy = \"mesh\"\ninsecure_allow_any_genuine_platform = true\n";

/// The head of every configuration here.
fn head(grace: &str) -> String {
    format!(
        "version = 1\ndrain_grace = \"{grace}\"\n[identity]\nprovider = \"simulator\"\nnames = [\"far.test\"]\n\
         [policy.mesh]\nfile = \"mesh.json\"\n[policy.other]\nfile = \"other.json\"\n[policy.twin]\nfile = \"twin.json\"\n"
    )
}

fn desk() -> tempfile::TempDir {
    let desk = web::desk();
    let twin = std::fs::read_to_string(desk.path().join("mesh.json")).expect("a policy").replace("\"mesh\"", "\"twin\"");
    std::fs::write(desk.path().join("twin.json"), twin).expect("written");
    desk
}

fn config(desk: &tempfile::TempDir, text: &str) -> Config {
    Config::parse("test.toml", &format!("{}{text}", head("5s")), desk.path()).unwrap_or_else(|error| panic!("{error}"))
}

async fn start(config: &Config) -> App {
    App::start(config, Clock::system()).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Reloads, which has to go well.
async fn reload(app: &App, config: Config) {
    let count = || {
        let text = app.metrics().text();
        let line = text.lines().find_map(|line| line.strip_prefix("portcullis_config_reloads_total{result=\"ok\"} ").map(str::to_owned));
        line.map_or(0, |line| line.parse::<usize>().expect("a number"))
    };
    let before = count();
    app.reload(Ok(config)).await;
    assert_eq!(count(), before + 1, "the reload is taken");
}

/// A listener for requests, attested, and its application.
fn requests(app: SocketAddr, clients: &str, more: &str) -> String {
    format!(
        "[[upstream]]\nname = \"app\"\ntargets = [\"http://{app}\"]\n\
         [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"attested\"\n{clients}upstream = \"app\"\n{more}\n"
    )
}

/// A listener for bytes, attested, and its application.
fn bytes(app: SocketAddr, clients: &str, more: &str) -> String {
    format!(
        "[[upstream]]\nname = \"app\"\ntargets = [\"tcp://{app}\"]\n\
         [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\n{clients}upstream = \"app\"\n{more}\n"
    )
}

/// A plain listener that leads to an attested one.
fn way(name: &str, to: SocketAddr, keys: &str) -> String {
    let upstream = if keys.contains("multiplex") { "multiplex = true\n" } else { "" };
    let listener = keys.replace("multiplex", "");
    format!(
        "[[upstream]]\nname = \"{name}\"\ntargets = [\"tls://{to}\"]\nserver_name = \"far.test\"\ninsecure_allow_any_genuine_platform = true\n{upstream}\
         attested = {{ policy = \"mesh\", freshness = \"session-mutual\" }}\n\
         [[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\nupstream = \"{name}\"\n{listener}\n"
    )
}

fn at(app: &App, listener: &str) -> SocketAddr {
    app.tcp_address(listener).expect("a TCP address")
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("a listener")
}

/// Sends a request over a connection that stays; gives the head of its answer and its body.
async fn get(stream: &mut TcpStream, path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: far.test\r\n\r\n").as_bytes()).await?;
    tokio::time::timeout(PATIENCE, answer(stream)).await.expect("an answer")
}

async fn answer(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut read = Vec::new();
    loop {
        let end = read.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&read).into_owned();
            let length = web::field(&head[..end], "content-length").and_then(|length| length.parse::<usize>().ok()).unwrap_or_default();
            if read.len() >= end + 4 + length {
                return Ok(head);
            }
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A service that says its name and then what it hears, and counts who connects.
#[derive(Clone)]
struct Echo {
    address: SocketAddr,
    dialled: Arc<AtomicUsize>,
}

impl Echo {
    async fn start(name: &'static [u8; 3]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, dialled) = (listener.local_addr().expect("an address"), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&dialled);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    if write.write_all(name).await.is_ok() {
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    }
                });
            }
        });
        Self { address, dialled }
    }

    fn dialled(&self) -> usize {
        self.dialled.load(Ordering::SeqCst)
    }
}

/// Opens a connection; gives it with the name of what is at its end.
async fn open(address: SocketAddr) -> (TcpStream, String) {
    let mut stream = connect(address).await;
    let mut name = [0; 3];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut name)).await.expect("a name").expect("a service");
    (stream, String::from_utf8_lossy(&name).into_owned())
}

async fn says_back(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    let both = async {
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut back).await
    };
    tokio::time::timeout(PATIENCE, both).await.expect("an answer").is_ok() && &back == b"hello"
}

/// Whether the other side ends it.
async fn ends(stream: &mut TcpStream) -> bool {
    !matches!(tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("an end"), Ok(1))
}

const OBSERVED: &str = "[observe]\nbind = \"127.0.0.1:0\"\n";

async fn readiness(app: &App) -> String {
    say(app.observed_at().expect("an address"), b"GET /readyz?verbose HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await
}

// ---- requests

/// One connection of a client's, which stays, and one between the sidecars: each request goes as the file says then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_on_connections_that_stay_are_routed_and_allowed_as_the_file_says_then() {
    let (one, two, desk) = (Mirror::start().await, Mirror::start().await, desk());
    let server = start(&config(&desk, &requests(one.address, MUTUAL, ""))).await;
    let client = start(&config(&desk, &way("out", at(&server, "in"), "protocol = \"http\""))).await;
    let mut stream = connect(at(&client, "out")).await;
    assert!(get(&mut stream, "/a").await.expect("an answer").contains("200 OK"));

    // A rule that lets this client call something else alone.
    let allow = "allow = [ { entry = \"web-1\", paths = [\"/b\"] } ]";
    reload(&server, config(&desk, &requests(one.address, MUTUAL, allow))).await;
    assert!(get(&mut stream, "/a").await.expect("an answer").contains("403 Forbidden"), "a right outlives the file");
    assert!(get(&mut stream, "/b").await.expect("an answer").contains("200 OK"));
    assert_eq!(one.heads().len(), 2, "the application was asked in between");

    // Another application, and another form of the identity.
    reload(&server, config(&desk, &requests(two.address, MUTUAL, "identity_headers = { modes = [\"xfcc\"] }"))).await;
    assert!(get(&mut stream, "/c").await.expect("an answer").contains("200 OK"));
    assert_eq!((one.heads().len(), two.heads().len()), (2, 1));
    assert!(two.last().to_lowercase().contains("x-forwarded-client-cert:") && !two.last().to_lowercase().contains("attested-peer:"), "{}", two.last());

    // The near end: another way out by a route.
    let routes = "protocol = \"http\"\nroute = [ { paths = [\"/z\"], upstream = \"out\" } ]\nstrip_headers = [\"x-body\"]";
    reload(&client, config(&desk, &way("out", at(&server, "in"), routes))).await;
    let stripped = get(&mut stream, "/z").await.expect("an answer");
    assert!(stripped.contains("200 OK") && !stripped.to_lowercase().contains("x-body"), "{stripped}");
    assert_eq!(client.metrics().text().matches("portcullis_connections_opened_total{listener=\"out\",direction=\"outbound\"} 1").count(), 1);
    drop(stream);
    let (near, far) = tokio::join!(client.drain(), server.drain());
    assert_eq!((near.cut, far.cut), (0, 0));
}

/// What lets clients in changes: those who came before are told to go, and nothing new is done for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_a_ground_that_is_gone_finishes_what_is_in_flight_and_begins_nothing() {
    let (app, desk) = (Mirror::start().await, desk());
    let server = start(&config(&desk, &requests(app.address, MUTUAL, ""))).await;
    let client = start(&config(&desk, &way("out", at(&server, "in"), "protocol = \"http\""))).await;
    let (mut idle, mut busy) = (connect(at(&client, "out")).await, connect(at(&client, "out")).await);
    assert!(get(&mut idle, "/a").await.expect("an answer").contains("200 OK"));
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: far.test\r\n\r\n").await.expect("written");
    while app.heads().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let other = MUTUAL.replace("mesh", "other");
    reload(&server, config(&desk, &requests(app.address, &other, ""))).await;
    let refused = get(&mut idle, "/b").await.expect("an answer");
    assert!(!refused.contains("200 OK"), "{refused}");
    assert!(answer(&mut busy).await.expect("an answer").contains("200 OK"), "what was in flight is lost");
    assert_eq!(app.heads().len(), 2, "the application was asked on a right that is gone");
    // And back: the next connection is let in again, as soon as the refusal is forgotten.
    reload(&server, config(&desk, &requests(app.address, MUTUAL, ""))).await;
    let again = async {
        while !get(&mut connect(at(&client, "out")).await, "/c").await.is_ok_and(|answer| answer.contains("200 OK")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("it is let in again");
    client.drain().await;
    server.drain().await;
}

/// A connection that became something else has no next request to be judged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_connection_ends_when_it_would_not_be_begun_any_more() {
    let (app, desk) = (upgrading().await, desk());
    let allow = |path: &str| format!("allow = [ {{ entry = \"web-1\", paths = [\"{path}\"] }} ]\nupgrades = [\"chat\"]");
    let server = start(&config(&desk, &requests(app, MUTUAL, &allow("/room*")))).await;
    let client = start(&config(&desk, &way("out", at(&server, "in"), "protocol = \"http\"\nupgrades = [\"chat\"]"))).await;
    let mut rooms = Vec::new();
    for path in ["/room/1", "/room/2"] {
        let mut stream = connect(at(&client, "out")).await;
        let asked = format!("GET {path} HTTP/1.1\r\nHost: far.test\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.expect("written");
        let switched = answer(&mut stream).await.expect("an answer");
        assert!(switched.starts_with("HTTP/1.1 101"), "{switched}");
        assert!(says_back(&mut stream).await);
        rooms.push(stream);
    }
    // What changes beside them disturbs neither.
    reload(&server, config(&desk, &requests(app, MUTUAL, &(allow("/room*") + "\nstrip_headers = [\"x-more\"]")))).await;
    assert!(says_back(&mut rooms[0]).await && says_back(&mut rooms[1]).await);
    reload(&server, config(&desk, &requests(app, MUTUAL, &allow("/room/2")))).await;
    assert!(ends(&mut rooms[0]).await, "a tunnel outlives its rule");
    assert!(says_back(&mut rooms[1]).await, "another tunnel is harmed");
    told(server.metrics(), "connections_withdrawn_total{listener=\"in\",side=\"downstream\",reason=\"configuration_changed\"} 1").await;
    // Another ground ends it at once, whatever the grace is.
    reload(&server, config(&desk, &requests(app, &MUTUAL.replace("mesh", "twin"), &allow("/room/2")))).await;
    assert!(ends(&mut rooms[1]).await, "a tunnel outlives the ground it was let in on");
    client.drain().await;
    server.drain().await;
}

/// A path that no rule looked at is not what it seems to be once one does: no request for it would be taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_connection_ends_when_a_rule_comes_that_its_path_could_evade() {
    let (app, desk) = (upgrading().await, desk());
    let server = start(&config(&desk, &requests(app, MUTUAL, "upgrades = [\"chat\"]"))).await;
    let client = start(&config(&desk, &way("out", at(&server, "in"), "protocol = \"http\"\nupgrades = [\"chat\"]"))).await;
    let mut rooms = Vec::new();
    for path in ["/room/%2e%2e/secret", "/room/2"] {
        let mut stream = connect(at(&client, "out")).await;
        let asked = format!("GET {path} HTTP/1.1\r\nHost: far.test\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.expect("written");
        assert!(answer(&mut stream).await.expect("an answer").starts_with("HTTP/1.1 101"));
        rooms.push(stream);
    }
    let allow = "allow = [ { entry = \"web-1\", paths = [\"/room/*\"] } ]\nupgrades = [\"chat\"]";
    reload(&server, config(&desk, &requests(app, MUTUAL, allow))).await;
    assert!(says_back(&mut rooms[1]).await, "what the rule allows is harmed");
    told(server.metrics(), "connections_withdrawn_total{listener=\"in\",side=\"downstream\",reason=\"configuration_changed\"} 1").await;
    assert!(ends(&mut rooms[0]).await, "a tunnel is where the rule does not let it");
    client.drain().await;
    server.drain().await;
}

/// An application whose connections become echoes.
async fn upgrading() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n").await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Connections to an upstream that stays are kept, and one that goes is not asked any more whether it is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_of_upstreams_that_stay_are_kept_and_checks_of_those_that_go_end() {
    let (stays, goes, desk) = (Mirror::start().await, Mirror::start().await, desk());
    let two = |more: &str| {
        format!(
            "[[upstream]]\nname = \"goes\"\ntargets = [\"http://{}\"]\nhealth = {{ path = \"/well\", every = \"100ms\" }}\n{}",
            goes.address,
            requests(stays.address, MUTUAL, &format!("route = [ {{ paths = [\"/goes\"], upstream = \"goes\" }} ]\n{more}"))
        )
    };
    let server = start(&config(&desk, &two(""))).await;
    let client = start(&config(&desk, &way("out", at(&server, "in"), "protocol = \"http\""))).await;
    let mut stream = connect(at(&client, "out")).await;
    for path in ["/a", "/goes"] {
        assert!(get(&mut stream, path).await.expect("an answer").contains("200 OK"));
    }
    told(server.metrics(), "upstream_healthy_targets{upstream=\"goes\"} 1").await;
    reload(&server, config(&desk, &two("strip_headers = [\"x-more\"]"))).await;
    for path in ["/a", "/goes"] {
        assert!(get(&mut stream, path).await.expect("an answer").contains("200 OK"));
    }
    assert_eq!(stays.connections(), 1, "the pool of an upstream that did not change is thrown away");
    reload(&server, config(&desk, &requests(stays.address, MUTUAL, ""))).await;
    let checks = || goes.heads().iter().filter(|head| head.starts_with("GET /well ")).count();
    let after = checks();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(checks() <= after + 1, "an upstream that is gone is still asked");
    assert!(!server.metrics().text().contains("upstream_healthy_targets{upstream=\"goes\"}"));
    assert!(get(&mut stream, "/a").await.expect("an answer").contains("200 OK"));
    assert_eq!(stays.connections(), 1);
    client.drain().await;
    server.drain().await;
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The next frame of HTTP/2 of this kind; `None` at the end.
async fn next(stream: &mut TcpStream, wanted: u8) -> Option<Vec<u8>> {
    let reading = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, ..] = head;
            let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("short")];
            stream.read_exact(&mut payload).await.ok()?;
            if kind == wanted {
                return Some(payload);
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("a frame or the end")
}

/// Clients are told to go in their own protocol; one that does not, and never says that it has heard, gets nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_listener_that_is_gone_are_told_to_go_and_whoever_stays_is_served_nothing() {
    let (app, desk) = (Mirror::start().await, desk());
    let server = start(&config(&desk, &requests(app.address, MUTUAL, ""))).await;
    let (stays, goes) = (way("stays", at(&server, "in"), "protocol = \"http\""), way("goes", at(&server, "in"), "protocol = \"http\""));
    let client = start(&config(&desk, &(stays.clone() + &goes))).await;
    let mut idle = connect(at(&client, "goes")).await;
    assert!(get(&mut idle, "/a").await.expect("an answer").contains("200 OK"));
    let mut two = connect(at(&client, "goes")).await;
    // GET / of a.test by HTTP/2, as HPACK has it.
    let asks = [&[0x82, 0x86, 0x84, 0x41, 6][..], b"a.test"].concat();
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(1, 5, 1, &asks)].concat();
    two.write_all(&begin).await.expect("written");
    let head = next(&mut two, 1).await.expect("an answer");
    assert_eq!(head.first(), Some(&0x88), "200");
    let before = app.heads().len();
    reload(&client, config(&desk, &stays)).await;
    assert!(ends(&mut idle).await, "an idle connection of HTTP/1.1 is closed");
    assert!(next(&mut two, 7).await.is_some(), "GOAWAY");
    // The PING behind it is not answered: as far as anybody knows, this request was on its way.
    two.write_all(&frame(1, 5, 3, &asks)).await.expect("written");
    let head = next(&mut two, 1).await;
    assert!(head.as_ref().is_none_or(|head| head.first() != Some(&0x88)), "{head:?}");
    assert_eq!(app.heads().len(), before, "a request was served for a listener that is gone");
    client.drain().await;
    server.drain().await;
}

/// What is in flight has the grace, and not more, when its client would not be let in any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_on_a_ground_that_is_gone_is_cut_after_the_grace() {
    let (silent, desk) = (TcpListener::bind("127.0.0.1:0").await.expect("a port"), desk());
    let silent_at = silent.local_addr().expect("an address");
    let of = |policy: &str| {
        let text = format!("{}{}", head("1s"), requests(silent_at, &MUTUAL.replace("mesh", policy), ""));
        Config::parse("test.toml", &text, desk.path()).unwrap_or_else(|error| panic!("{error}"))
    };
    let server = start(&of("mesh")).await;
    let client = start(&config(&desk, &way("out", at(&server, "in"), "protocol = \"http\""))).await;
    let mut stream = connect(at(&client, "out")).await;
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: far.test\r\n\r\n").await.expect("written");
    let (mut application, _) = tokio::time::timeout(PATIENCE, silent.accept()).await.expect("in time").expect("a connection");
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        assert!(application.read_buf(&mut asked).await.expect("a request") > 0);
    }
    reload(&server, of("other")).await;
    let cut = answer(&mut stream).await.expect("an answer");
    assert!(cut.starts_with("HTTP/1.1 502"), "{cut}");
    assert!(ends(&mut application).await, "the application is told too");
    told(server.metrics(), "connections_withdrawn_total{listener=\"in\",side=\"downstream\",reason=\"configuration_changed\"} 1").await;
    client.drain().await;
    server.drain().await;
}

/// So has what is in flight to a far end that would have to prove something else by now: an answer may be hours long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_to_a_far_end_that_proved_something_else_is_cut_after_the_grace() {
    let (silent, desk) = (TcpListener::bind("127.0.0.1:0").await.expect("a port"), desk());
    let silent_at = silent.local_addr().expect("an address");
    let server = start(&config(&desk, &requests(silent_at, MUTUAL, ""))).await;
    let of = |policy: &str| {
        let way = way("out", at(&server, "in"), "protocol = \"http\"").replace("\"mesh\"", policy);
        Config::parse("test.toml", &format!("{}{way}", head("1s")), desk.path()).unwrap_or_else(|error| panic!("{error}"))
    };
    let client = start(&of("\"mesh\"")).await;
    let mut stream = connect(at(&client, "out")).await;
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: far.test\r\n\r\n").await.expect("written");
    let (mut application, _) = tokio::time::timeout(PATIENCE, silent.accept()).await.expect("in time").expect("a connection");
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        assert!(application.read_buf(&mut asked).await.expect("a request") > 0);
    }
    reload(&client, of("\"other\"")).await;
    let cut = tokio::time::timeout(PATIENCE, answer(&mut stream)).await.expect("it goes on without an end").expect("an answer");
    assert!(cut.starts_with("HTTP/1.1 502"), "{cut}");
    told(client.metrics(), "connections_withdrawn_total{listener=\"out\",side=\"upstream\",reason=\"configuration_changed\"} 1").await;
    client.drain().await;
    server.drain().await;
}

/// And so has what has been in flight through another reload, which kept its right and not its pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_since_the_reload_before_is_cut_too() {
    let (silent, desk) = (TcpListener::bind("127.0.0.1:0").await.expect("a port"), desk());
    let silent_at = silent.local_addr().expect("an address");
    let server = start(&config(&desk, &requests(silent_at, MUTUAL, ""))).await;
    let of = |policy: &str, more: &str| {
        let way = way("out", at(&server, "in"), "protocol = \"http\"").replace("\"mesh\"", policy);
        let way = way.replacen("[[listener]]", &format!("{more}\n[[listener]]"), 1);
        Config::parse("test.toml", &format!("{}{way}", head("1s")), desk.path()).unwrap_or_else(|error| panic!("{error}"))
    };
    let client = start(&of("\"mesh\"", "")).await;
    let mut stream = connect(at(&client, "out")).await;
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: far.test\r\n\r\n").await.expect("written");
    let (mut application, _) = tokio::time::timeout(PATIENCE, silent.accept()).await.expect("in time").expect("a connection");
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        assert!(application.read_buf(&mut asked).await.expect("a request") > 0);
    }
    for round in 0..3 {
        reload(&client, of("\"mesh\"", &format!("connect_timeout = \"{}ms\"", 4000 + round))).await;
    }
    reload(&client, of("\"other\"", "")).await;
    let cut = tokio::time::timeout(PATIENCE, answer(&mut stream)).await.expect("it goes on without an end").expect("an answer");
    assert!(cut.starts_with("HTTP/1.1 502"), "{cut}");
    told(client.metrics(), "connections_withdrawn_total{listener=\"out\",side=\"upstream\",reason=\"configuration_changed\"} 1").await;
    client.drain().await;
    server.drain().await;
}

// ---- bytes

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_connections_keep_their_upstream_and_new_ones_have_the_new_one() {
    let (one, two, desk) = (Echo::start(b"one").await, Echo::start(b"two").await, desk());
    let server = start(&config(&desk, &bytes(one.address, MUTUAL, "multiplex = true"))).await;
    let ways = way("own", at(&server, "in"), "") + &way("shared", at(&server, "in"), "multiplex");
    let client = start(&config(&desk, &ways)).await;
    for listener in ["own", "shared"] {
        let (mut before, name) = open(at(&client, listener)).await;
        assert_eq!(name, "one");
        reload(&server, config(&desk, &bytes(two.address, MUTUAL, "multiplex = true"))).await;
        let (mut after, name) = open(at(&client, listener)).await;
        assert_eq!(name, "two", "{listener}: also within a session from before");
        assert!(says_back(&mut before).await && says_back(&mut after).await, "{listener}");
        reload(&server, config(&desk, &bytes(one.address, MUTUAL, "multiplex = true"))).await;
        assert!(says_back(&mut before).await && says_back(&mut after).await, "{listener}");
    }
    // What is spoken inside is no right: sessions, or each by itself.
    let (mut own, _) = open(at(&client, "own")).await;
    let (mut shared, _) = open(at(&client, "shared")).await;
    let other_way = way("own", at(&server, "in"), "multiplex") + &way("shared", at(&server, "in"), "");
    reload(&client, config(&desk, &other_way)).await;
    assert!(says_back(&mut own).await && says_back(&mut shared).await);
    reload(&server, config(&desk, &bytes(one.address, MUTUAL, ""))).await;
    assert!(says_back(&mut own).await && says_back(&mut shared).await);
    assert_eq!(open(at(&client, "shared")).await.1, "one");
    assert!(!server.metrics().text().contains("connections_withdrawn_total{"), "{}", server.metrics().text());
    assert!(!client.metrics().text().contains("connections_withdrawn_total{"), "{}", client.metrics().text());
    assert!(server.metrics().text().contains("tunnel_sessions_opened_total{listener=\"in\",direction=\"inbound\"} 1"), "one session for all");
    client.drain().await;
    server.drain().await;
}

/// Whoever was let in on another ground, or reached on one, has no right to go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_whose_clients_or_far_ends_have_to_prove_something_else_now() {
    let (app, desk) = (Echo::start(b"one").await, desk());
    let server = start(&config(&desk, &bytes(app.address, MUTUAL, "multiplex = true"))).await;
    let ways = |policy: &str| (way("own", at(&server, "in"), "") + &way("shared", at(&server, "in"), "multiplex")).replace("\"mesh\"", policy);
    let client = start(&config(&desk, &ways("\"mesh\""))).await;
    let (mut own, _) = open(at(&client, "own")).await;
    let (mut shared, _) = open(at(&client, "shared")).await;
    // The listener's clients: another policy, though they would pass it.
    reload(&server, config(&desk, &bytes(app.address, &MUTUAL.replace("mesh", "twin"), "multiplex = true"))).await;
    assert!(ends(&mut own).await && ends(&mut shared).await, "they outlive what let them in");
    // The session, the connection in it, and the other one.
    told(server.metrics(), "connections_withdrawn_total{listener=\"in\",side=\"downstream\",reason=\"configuration_changed\"} 3").await;
    // The upstream's far end.
    let (mut own, _) = open(at(&client, "own")).await;
    let (mut shared, _) = open(at(&client, "shared")).await;
    reload(&client, config(&desk, &ways("\"twin\""))).await;
    assert!(ends(&mut own).await && ends(&mut shared).await, "they outlive what their far end had proven");
    for listener in ["own", "shared"] {
        told(client.metrics(), &format!("connections_withdrawn_total{{listener=\"{listener}\",side=\"upstream\",reason=\"configuration_changed\"}} 1")).await;
        assert!(says_back(&mut open(at(&client, listener)).await.0).await);
    }
    // A policy that nobody passes: the application sees nobody.
    let before = app.dialled();
    reload(&server, config(&desk, &bytes(app.address, &MUTUAL.replace("mesh", "other"), "multiplex = true"))).await;
    for listener in ["own", "shared"] {
        assert!(ends(&mut connect(at(&client, listener)).await).await);
    }
    assert_eq!(app.dialled(), before);
    client.drain().await;
    server.drain().await;
}

/// An attested client is asked to prove itself where any was let in: an unattested connection does not stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_let_in_without_evidence_goes_when_evidence_is_wanted() {
    let (app, desk) = (Echo::start(b"one").await, desk());
    let server = start(&config(&desk, &bytes(app.address, "clients = \"any\"\n", ""))).await;
    let session = way("out", at(&server, "in"), "").replace("session-mutual", "session").replace("insecure_allow_any_genuine_platform = true\n", "");
    let client = start(&config(&desk, &session)).await;
    let (mut stream, _) = open(at(&client, "out")).await;
    reload(&server, config(&desk, &bytes(app.address, &MUTUAL.replace("mesh", "other"), ""))).await;
    assert!(ends(&mut stream).await);
    assert!(ends(&mut connect(at(&client, "out")).await).await);
    assert_eq!(app.dialled(), 1);
    client.drain().await;
    server.drain().await;
}

/// Where clients say where they want to go, the table is asked again for those that are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_end_with_their_destination() {
    let (app, desk) = (Echo::start(b"one").await, desk());
    let server = start(&config(&desk, &bytes(app.address, MUTUAL, ""))).await;
    let table = |names: &[&str]| {
        let far = way("own", at(&server, "in"), "");
        let lines: Vec<_> = names.iter().map(|name| format!("{{ to = \"{name}\", upstream = \"own\" }}")).collect();
        let lines = lines.join(", ");
        format!(
            "{far}[[listener]]\nname = \"socks\"\nbind = \"127.0.0.1:0\"\nprotocol = \"socks5\"\ndestination = [ {lines} ]\n\
             [[listener]]\nname = \"connect\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ndestination = [ {lines} ]\n"
        )
    };
    let client = start(&config(&desk, &table(&["a.test", "b.test"]))).await;
    let mut tunnels = Vec::new();
    for name in ["a.test", "b.test"] {
        let mut stream = connect(at(&client, "socks")).await;
        let asked = [&[5, 1, 0, 5, 1, 0, 3, 6][..], name.as_bytes(), &[1, 187]].concat();
        stream.write_all(&asked).await.expect("written");
        let mut granted = [0; 15];
        stream.read_exact(&mut granted).await.expect("granted");
        assert_eq!((&granted[..4], &granted[12..]), (&[5, 0, 5, 0][..], &b"one"[..]));
        tunnels.push(stream);
        let mut stream = connect(at(&client, "connect")).await;
        stream.write_all(format!("CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n").as_bytes()).await.expect("written");
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\none") {
            assert!(stream.read_buf(&mut read).await.expect("granted") > 0, "{}", String::from_utf8_lossy(&read));
        }
        tunnels.push(stream);
    }
    reload(&client, config(&desk, &table(&["b.test"]))).await;
    let [a_socks, a_connect, b_socks, b_connect] = tunnels.as_mut_slice() else { panic!("four") };
    assert!(ends(a_socks).await && ends(a_connect).await, "a tunnel outlives its destination");
    assert!(says_back(b_socks).await && says_back(b_connect).await, "another is harmed");
    for listener in ["socks", "connect"] {
        told(client.metrics(), &format!("connections_withdrawn_total{{listener=\"{listener}\",side=\"downstream\",reason=\"destination_unknown\"}} 1")).await;
    }
    client.drain().await;
    server.drain().await;
}

// ---- listeners

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_and_what_goes_has_the_grace() {
    let (app, web, desk) = (Echo::start(b"one").await, Mirror::start().await, desk());
    let second = |name: &str| bytes(app.address, MUTUAL, "").split_once("[[listener]]").expect("one").1.replace("\"in\"", &format!("\"{name}\""));
    let server = start(&config(&desk, &bytes(app.address, MUTUAL, ""))).await;
    let (first, more) = (at(&server, "in"), bytes(app.address, MUTUAL, "") + "[[listener]]" + &second("more"));
    reload(&server, config(&desk, &more)).await;
    assert_eq!(at(&server, "in"), first, "its socket is another");
    let requests_too = requests(web.address, MUTUAL, "").replace("\"in\"", "\"web\"").replace("\"app\"", "\"web\"");
    let all = more + &requests_too;
    reload(&server, config(&desk, &all)).await;
    let ways = way("in", first, "") + &way("more", at(&server, "more"), "") + &way("web", at(&server, "web"), "protocol = \"http\"");
    let client = start(&config(&desk, &ways)).await;
    let (mut stays, _) = open(at(&client, "in")).await;
    let (mut goes, _) = open(at(&client, "more")).await;
    let mut request = connect(at(&client, "web")).await;
    assert!(get(&mut request, "/a").await.expect("an answer").contains("200 OK"));

    // Both of the others go; a second is all the grace there is.
    let gone = (at(&server, "more"), at(&server, "web"));
    let least = format!("{}{}", head("1s"), bytes(app.address, MUTUAL, ""));
    request.write_all(b"GET /slow HTTP/1.1\r\nHost: far.test\r\n\r\n").await.expect("written");
    while web.heads().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    reload(&server, Config::parse("test.toml", &least, desk.path()).unwrap_or_else(|error| panic!("{error}"))).await;
    assert!(TcpStream::connect(gone.0).await.is_err() && TcpStream::connect(gone.1).await.is_err(), "a listener that is gone listens");
    assert!(says_back(&mut goes).await, "it has the grace");
    assert!(answer(&mut request).await.expect("an answer").contains("200 OK"), "what is in flight has the grace");
    let seen = web.heads().len();
    assert!(!get(&mut request, "/b").await.expect("an answer").contains("200 OK"));
    assert_eq!(web.heads().len(), seen, "a listener that is gone serves a request");
    assert!(ends(&mut goes).await, "it outlives the grace");
    assert!(says_back(&mut stays).await);
    assert_eq!(server.addresses().len(), 1);
    client.drain().await;
    let drained = server.drain().await;
    assert_eq!(drained.cut, 0);
}

/// A place is told by its `bind`: under another name it is the same socket, and its file goes with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_stays_under_another_name_and_its_file_goes_with_the_listener() {
    use std::os::unix::fs::MetadataExt as _;
    let (app, desk) = (Echo::start(b"one").await, desk());
    let server = start(&config(&desk, &bytes(app.address, MUTUAL, ""))).await;
    let path = desk.path().join("in.sock");
    let unix = |name: &str| {
        way("out", at(&server, "in"), "").replace("127.0.0.1:0", &format!("unix:{}", path.display())).replacen(
            "[[listener]]\nname = \"out\"",
            &format!("[[listener]]\nname = \"{name}\""),
            1,
        )
    };
    let client = start(&config(&desk, &(unix("out") + &way("more", at(&server, "in"), "")))).await;
    let file = || std::fs::metadata(&path).map(|file| file.ino());
    let first = file().expect("a socket");
    let mut live = tokio::net::UnixStream::connect(&path).await.expect("a listener");
    let mut name = [0; 3];
    live.read_exact(&mut name).await.expect("a service");
    reload(&client, config(&desk, &(unix("renamed") + &way("more", at(&server, "in"), "")))).await;
    assert_eq!(file().expect("a socket"), first, "it was made anew");
    live.write_all(b"hello").await.expect("written");
    let mut back = [0; 5];
    live.read_exact(&mut back).await.expect("it goes on");
    tokio::net::UnixStream::connect(&path).await.expect("a listener").read_exact(&mut name).await.expect("a service");
    told(client.metrics(), "connections_opened_total{listener=\"renamed\",direction=\"outbound\"} 1").await;
    drop(live);
    reload(&client, config(&desk, &way("more", at(&server, "in"), ""))).await;
    assert!(file().is_err(), "its file is left behind");
    client.drain().await;
    server.drain().await;
}

/// All or nothing: what could be taken is not, where something beside it cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_put_in_force_as_a_whole_changes_nothing() {
    let (one, two, desk) = (Echo::start(b"one").await, Echo::start(b"two").await, desk());
    let server = start(&config(&desk, &(bytes(one.address, MUTUAL, "") + OBSERVED))).await;
    let client = start(&config(&desk, &way("out", at(&server, "in"), ""))).await;
    let (mut live, _) = open(at(&client, "out")).await;
    let (taken, free) = (TcpListener::bind("127.0.0.1:0").await.expect("a port"), TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    let (taken_at, free_at) = (taken.local_addr().expect("an address"), free.local_addr().expect("an address"));
    drop(free);
    let listener = |name: &str, bind: SocketAddr| {
        let text = bytes(two.address, MUTUAL, "");
        "[[listener]]".to_owned()
            + &text.split_once("[[listener]]").expect("one").1.replace("\"in\"", &format!("\"{name}\"")).replace("127.0.0.1:0", &bind.to_string())
    };
    let narrow = std::fs::read_to_string(desk.path().join("other.json")).expect("a policy").replace("\"other\"", "\"mesh\"");
    let wide = std::fs::read_to_string(desk.path().join("mesh.json")).expect("a policy");
    // Policies that would end the live connection, an upstream that would move new ones, a listener that could be had.
    std::fs::write(desk.path().join("mesh.json"), narrow).expect("written");
    let text = bytes(two.address, MUTUAL, "") + &listener("more", free_at) + &listener("none", taken_at) + OBSERVED;
    server.reload(Ok(config(&desk, &text))).await;
    told(server.metrics(), "config_reloads_total{result=\"failed\"} 1").await;
    let said = readiness(&server).await;
    assert!(said.contains("[+]reload: the last one failed") && said.contains("\nready"), "{said}");
    server.reload(Config::parse("test.toml", "version = 1\n[[listener]]\n", desk.path())).await;
    told(server.metrics(), "config_reloads_total{result=\"failed\"} 2").await;
    assert!(says_back(&mut live).await, "the policy was taken");
    assert_eq!(open(at(&client, "out")).await.1, "one", "the upstream was taken");
    assert!(TcpStream::connect(free_at).await.is_err(), "a listener of a file that was not taken");
    assert_eq!(server.addresses().len(), 1);
    // With the place free it is taken, as a whole.
    drop(taken);
    std::fs::write(desk.path().join("mesh.json"), wide).expect("written");
    reload(&server, config(&desk, &text)).await;
    assert_eq!(open(at(&client, "out")).await.1, "two");
    assert_eq!((at(&server, "more"), at(&server, "none")), (free_at, taken_at));
    client.drain().await;
    server.drain().await;
}

/// What only a restart takes is named, and the rest of the same file is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_named_and_stays() {
    let (one, two, desk) = (Echo::start(b"one").await, Echo::start(b"two").await, desk());
    let first = config(&desk, &(bytes(one.address, MUTUAL, "") + OBSERVED));
    let server = start(&first).await;
    let digest = |config: &Config| format!("portcullis_config_info{{digest=\"{}\"}} 1", data_encoding::HEXLOWER.encode(&config.digest));
    assert!(server.metrics().text().contains(&digest(&first)));
    let client = start(&config(&desk, &way("out", at(&server, "in"), ""))).await;
    let text = format!("{}{}[observe]\nbind = \"127.0.0.1:9\"\n[log]\nformat = \"json\"\n", head("5s"), bytes(two.address, MUTUAL, ""));
    let second = Config::parse("test.toml", &text.replace("\"far.test\"", "\"else.test\"").replace("\"simulator\"", "\"auto\""), desk.path())
        .unwrap_or_else(|error| panic!("{error}"));
    let wanted = digest(&second);
    reload(&server, second).await;
    assert_eq!(open(at(&client, "out")).await.1, "two", "the rest is taken, and the identity is still far.test's");
    let said = readiness(&server).await;
    assert!(said.contains("[+]reload: the last one went well; what changed of identity, observe, log needs a restart"), "{said}");
    let metrics = server.metrics().text();
    assert!(metrics.contains(&wanted) && !metrics.contains(&digest(&first)), "{metrics}");
    for key in ["identity", "observe", "log"] {
        assert!(metrics.contains(&format!("portcullis_config_restart_needed{{key=\"{key}\"}} 1")), "{metrics}");
    }
    // The identity is still the simulator's, whatever the file says by now.
    assert!(metrics.contains(r#"portcullis_insecure_option{option="identity.provider = \"simulator\""} 1"#), "{metrics}");
    assert!(said.contains("identity.provider"), "{said}");
    // Written back, nothing is left to be told.
    reload(&server, first).await;
    assert!(!server.metrics().text().contains("config_restart_needed{"));
    assert!(readiness(&server).await.contains("[+]reload: the last one went well\n"));
    client.drain().await;
    server.drain().await;
}

/// New policies are taken with the listeners that name them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_come_and_go_with_what_names_them() {
    let (app, desk) = (Echo::start(b"one").await, desk());
    let server = start(&config(&desk, &bytes(app.address, MUTUAL, ""))).await;
    let client = start(&config(&desk, &way("out", at(&server, "in"), ""))).await;
    for round in 0..20 {
        let name = format!("new-{round}");
        let text = std::fs::read_to_string(desk.path().join("twin.json")).expect("a policy");
        std::fs::write(desk.path().join("new.json"), text.replace("\"twin\"", &format!("\"{name}\""))).expect("written");
        let listens = bytes(app.address, &MUTUAL.replace("mesh", &name), "");
        reload(&server, config(&desk, &format!("[policy.{name}]\nfile = \"new.json\"\n{listens}"))).await;
        assert!(says_back(&mut open(at(&client, "out")).await.0).await, "{round}");
    }
    client.drain().await;
    server.drain().await;
}

/// Files are read before anything is taken; what is said of a certificate goes with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_for_the_public_come_change_and_go_with_their_listeners() {
    let desk = desk();
    for name in ["one", "two"] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec![format!("{name}.test")]).expect("a name");
        let chain = params.self_signed(&key).expect("a certificate").pem();
        std::fs::write(desk.path().join(format!("{name}.pem")), chain).expect("written");
        std::fs::write(desk.path().join(format!("{name}.key")), key.serialize_pem()).expect("written");
    }
    let far = "[[upstream]]\nname = \"far\"\ntargets = [\"tls://127.0.0.1:9\"]\nserver_name = \"far.test\"\nattested = { policy = \"mesh\" }\n";
    let plain = far.to_owned() + OBSERVED + "[[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nupstream = \"far\"\n";
    let public = |chain: &str, key: &str| {
        plain.clone()
            + "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"files\"\nupstream = \"far\"\n"
            + &format!("files = {{ chain = \"{chain}.pem\", key = \"{key}.key\" }}\n")
    };
    let proxy = start(&config(&desk, &plain)).await;
    reload(&proxy, config(&desk, &public("one", "one"))).await;
    let web = at(&proxy, "web");
    let served = async |name: &str| {
        let (roots, place) = (desk.path().join(format!("{name}.pem")), format!("{name}.test:{}:127.0.0.1", web.port()));
        let (roots, address) = (roots.display().to_string(), format!("https://{name}.test:{}/", web.port()));
        web::program("curl", &["-sS", "-i", "--max-time", "20", "--cacert", &roots, "--resolve", &place, &address]).await.status.success()
    };
    assert!(served("one").await && !served("two").await);
    assert!(readiness(&proxy).await.contains("[+]certificate of web: for another"));
    proxy.reload(Ok(config(&desk, &public("two", "one")))).await;
    told(proxy.metrics(), "config_reloads_total{result=\"failed\"} 1").await;
    assert!(served("one").await, "a pair that does not fit is no reason to have none");
    reload(&proxy, config(&desk, &public("two", "two"))).await;
    assert!(served("two").await && !served("one").await);
    assert_eq!(at(&proxy, "web"), web);
    reload(&proxy, config(&desk, &plain)).await;
    assert!(!readiness(&proxy).await.contains("certificate of web") && !proxy.metrics().text().contains("public_certificate_not_after_timestamp_seconds{"));
    proxy.drain().await;
}

// ---- many reloads

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// 200 reloads, each of another file, while requests and connections come: none is lost, nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reloads_under_load_lose_nothing_and_leave_nothing_behind() {
    let (web, app, desk) = (Mirror::start().await, Echo::start(b"one").await, desk());
    let far = |round: usize| {
        let requests = requests(web.address, MUTUAL, &format!("strip_headers = [\"x-{round}\"]")).replace("\"in\"", "\"web\"").replace("\"app\"", "\"web\"");
        let health = format!("health = {{ path = \"/well\", every = \"{}ms\" }}\n", 1000 + round);
        let requests = requests.replacen("[[listener]]", &format!("{health}[[listener]]"), 1);
        let limits = format!("multiplex = true\nlimits = {{ connections = {} }}", 1000 + round);
        let more = if round.is_multiple_of(2) {
            ""
        } else {
            "[[listener]]\nname = \"more\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nclients = \"any\"\nupstream = \"app\"\n"
        };
        requests + &bytes(app.address, MUTUAL, &limits) + more
    };
    let server = start(&config(&desk, &far(0))).await;
    let near = |round: usize| {
        let web = way("web", at(&server, "web"), &format!("protocol = \"http\"\nstrip_headers = [\"y-{round}\"]"));
        let bytes = way("bytes", at(&server, "in"), "multiplex");
        // Another upstream every time, with the same far end: sessions are made anew.
        bytes.replacen("[[listener]]", &format!("connect_timeout = \"{}ms\"\n[[listener]]", 5000 + round), 1) + &web
    };
    let client = start(&config(&desk, &near(0))).await;
    let (web_at, bytes_at) = (at(&client, "web"), at(&client, "bytes"));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = |kind: usize| {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let (mut count, mut stays) = (0_usize, connect(web_at).await);
            while !stop.load(Ordering::SeqCst) {
                match kind {
                    // One connection for all, which has to stay; and one for each.
                    0 => assert!(get(&mut stays, "/a").await.expect("an answer").contains("200 OK"), "after {count}"),
                    1 => assert!(get(&mut connect(web_at).await, "/a").await.expect("an answer").contains("200 OK"), "after {count}"),
                    _ => assert!(says_back(&mut open(bytes_at).await.0).await, "after {count}"),
                }
                count += 1;
            }
            count
        })
    };
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (mut live, _) = open(bytes_at).await;
    let loads: Vec<_> = (0..3).map(load).collect();
    let (mut first, mut resident_at_first) = ((0, 0), 0);
    for round in 1..=200 {
        reload(&server, config(&desk, &far(round))).await;
        reload(&client, config(&desk, &near(round))).await;
        if round == 20 {
            (first, resident_at_first) = ((alive(), descriptors()), resident());
        }
    }
    assert!(says_back(&mut live).await, "a live connection is lost");
    // What is retired ends with what is on it.
    let mut last = (alive(), descriptors());
    for _ in 0..400 {
        if last.0 <= first.0 + 10 && last.1 <= first.1 + 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        last = (alive(), descriptors());
    }
    stop.store(true, Ordering::SeqCst);
    let mut counts = Vec::new();
    for load in loads {
        counts.push(load.await.expect("nothing is lost"));
    }
    let grown = resident().saturating_sub(resident_at_first);
    println!(
        "200 reloads: grown by {grown} KiB; requests and connections {counts:?}; tasks {} then {}, descriptors {} then {}",
        first.0, last.0, first.1, last.1
    );
    assert!(counts.iter().all(|count| *count > 0));
    assert!(last.0 <= first.0 + 10 && last.1 <= first.1 + 10, "{first:?} {last:?}");
    // The application keeps the heads of all requests.
    assert!(grown < 64 * 1024, "{grown} KiB");
    for (app, listener) in [(&server, "web"), (&client, "web")] {
        let text = app.metrics().text();
        assert!(!text.contains("connections_withdrawn_total{"), "{text}");
        assert!(text.contains(&format!("http_requests_in_flight{{listener=\"{listener}\"}} ")), "{text}");
    }
    drop(live);
    let (near, far) = tokio::join!(client.drain(), server.drain());
    assert_eq!((near.cut, far.cut), (0, 0));
}

/// A client that holds its first request back until the listener is gone, or lets nobody in on its ground, gets nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_held_back_is_not_served_on_the_old_ground() {
    let (app, desk) = (Mirror::start().await, desk());
    let plain = |more: &str| {
        format!(
            "[[upstream]]\nname = \"out\"\ntargets = [\"tls://127.0.0.1:9\"]\nserver_name = \"far.test\"\nattested = {{ policy = \"mesh\" }}\n\
             [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nupstream = \"out\"\n{more}"
        )
    };
    let redirects = "[[listener]]\nname = \"away\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nredirect = \"https\"\n";
    let proxy = start(&config(&desk, &plain(redirects))).await;
    let mut held = connect(at(&proxy, "away")).await;
    held.write_all(b"GET /a HTTP/1.1\r\n").await.expect("written");
    told(proxy.metrics(), "connections_opened_total{listener=\"away\",direction=\"outbound\"} 1").await;
    reload(&proxy, config(&desk, &plain(""))).await;
    // It may have been closed already.
    let _ = held.write_all(b"Host: a.test\r\n\r\n").await;
    let answer = heard(&mut held).await;
    assert!(!answer.contains("308"), "{answer}");
    assert_eq!(app.connections(), 0);
    proxy.drain().await;
}

/// So it is where no requests are: who has not said where he wants to go when the listener goes is led nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_was_held_back_is_not_dialled_for_a_listener_that_is_gone() {
    let (app, desk) = (Echo::start(b"one").await, desk());
    let server = start(&config(&desk, &bytes(app.address, MUTUAL, ""))).await;
    let far = way("own", at(&server, "in"), "");
    let socks = "[[listener]]\nname = \"socks\"\nbind = \"127.0.0.1:0\"\nprotocol = \"socks5\"\ndestination = [ { to = \"a.test\", upstream = \"own\" } ]\n";
    let client = start(&config(&desk, &(far.clone() + socks))).await;
    let (mut begun, mut held) = (connect(at(&client, "socks")).await, connect(at(&client, "socks")).await);
    let asked = [&[5, 1, 0, 3, 6][..], b"a.test", &[1, 187]].concat();
    for stream in [&mut begun, &mut held] {
        stream.write_all(&[5, 1, 0]).await.expect("written");
        let mut method = [0; 2];
        stream.read_exact(&mut method).await.expect("a method");
    }
    let mut granted = [0; 13];
    begun.write_all(&asked).await.expect("written");
    begun.read_exact(&mut granted).await.expect("granted");
    reload(&client, config(&desk, &far)).await;
    assert!(says_back(&mut begun).await, "what was begun has the grace");
    // It may have been closed already.
    let _ = held.write_all(&asked).await;
    assert!(ends(&mut held).await, "it is let through");
    assert_eq!(app.dialled(), 1, "the service was asked");
    client.drain().await;
    server.drain().await;
}

// ---- the program

/// SIGHUP takes a file that nobody would look at yet; a file that changes is taken without being told of, and so is a policy
/// that only a reload has named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_takes_its_file_on_sighup_and_by_itself() {
    let (one, two, desk) = (Echo::start(b"one").await, Echo::start(b"two").await, Desk::new());
    let policy = |name: &str, measurement: &str| {
        format!(
            r#"{{ "version": 1, "name": "{name}", "insecure_roots": ["simulator"], "accept": [ {{ "id": "web-1", "tee": "sev-snp", "measurement": "{measurement}" }} ] }}"#
        )
    };
    let ours = data_encoding::HEXLOWER.encode(&portcullis::attester::simulator::MEASUREMENT);
    for name in ["mesh", "other", "twin"] {
        desk.write(&format!("{name}.json"), policy(name, &ours));
    }
    let text = |app: &Echo, policy: &str| format!("{}{}", head("1s"), bytes(app.address, &MUTUAL.replace("mesh", policy), ""));
    desk.write("server.toml", text(&one, "mesh"));
    let (process, addresses) = Process::start(&desk, "server.toml", 1);
    let near = web::desk();
    std::fs::copy(near.path().join("mesh.json"), near.path().join("twin.json")).expect("copied");
    let client = start(&config(&near, &way("out", addresses[0], ""))).await;
    let (mut live, name) = open(at(&client, "out")).await;
    assert_eq!(name, "one");

    desk.write("server.toml", text(&two, "mesh"));
    process.signal(rustix::process::Signal::HUP);
    let said = process.says("the configuration is in force");
    assert!(said.contains("changed=\"in\""), "{said}");
    assert_eq!(open(at(&client, "out")).await.1, "two");
    // Only what is seen by itself is left to be taken.
    desk.write("server.toml", "version = 1\nlistener = 7\n");
    assert!(process.says("the configuration that was in force stays").contains("error="));
    assert_eq!(open(at(&client, "out")).await.1, "two");
    assert!(says_back(&mut live).await);
    desk.write("server.toml", text(&one, "twin"));
    assert!(process.says("configuration_changed").contains("withdrawn"));
    assert!(ends(&mut live).await);
    let (mut live, name) = open(at(&client, "out")).await;
    assert_eq!(name, "one");
    desk.write("twin.json", policy("twin", &"9".repeat(96)));
    assert!(process.says("measurement_unknown").contains("withdrawn"));
    assert!(ends(&mut live).await);
    client.drain().await;
}
