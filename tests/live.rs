//! What happens to connections that are open while their policy changes: those that still pass notice nothing, the
//! others are drained with the reason.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/process.rs"]
mod process;
#[path = "support/program.rs"]
mod program;
#[path = "support/told.rs"]
mod told;

use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use portcullis::app::App;
use portcullis::attester::simulator::{Forge, MEASUREMENT};
use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::evidence::Timestamp;
use portcullis::evidence::snp::Product;
use process::Process;
use program::Desk;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use told::told;

/// Long enough for a slow machine; nothing waits that long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server, and a client with two ways to it, each under a policy of its own.
struct World {
    desk: Desk,
    client: App,
    _server: App,
}

impl World {
    async fn new() -> Self {
        let desk = Desk::new();
        for policy in ["one", "two"] {
            desk.write(&format!("{policy}.json"), policy_text(policy, ""));
        }
        let service = echo().await;
        desk.write(
            "server.toml",
            format!(
                "version = 1\n[identity]\nprovider = \"simulator\"\nnames = [\"localhost\"]\n\
                 [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nupstream = \"app\"\n\
                 [[upstream]]\nname = \"app\"\ntargets = [\"tcp://{service}\"]\n"
            ),
        );
        let server = App::start(&load(&desk, "server.toml").expect("a configuration"), Clock::system()).await.expect("a server");
        let address = server.tcp_address("in").expect("TCP");
        let way = |name: &str| {
            format!(
                "[policy.{name}]\nfile = \"{name}.json\"\n[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\nupstream = \"{name}\"\n\
                 [[upstream]]\nname = \"{name}\"\ntargets = [\"tls://{address}\"]\nattested = {{ policy = \"{name}\" }}\n"
            )
        };
        desk.write("client.toml", format!("version = 1\ndrain_grace = \"200ms\"\n{}{}", way("one"), way("two")));
        let client = App::start(&load(&desk, "client.toml").expect("a configuration"), Clock::system()).await.expect("a client");
        Self { desk, client, _server: server }
    }

    async fn open(&self, way: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.client.tcp_address(way).expect("TCP")).await.expect("a connection");
        assert!(says_back(&mut stream, b"hello").await, "{way} carries nothing");
        stream
    }

    async fn reload(&self) {
        self.client.reload(load(&self.desk, "client.toml")).await;
    }
}

#[tokio::test]
async fn a_policy_that_narrows_drains_what_it_no_longer_admits_and_leaves_the_rest() {
    let world = World::new().await;
    let (mut one, mut two) = (world.open("one").await, world.open("two").await);
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    world.desk.write("one.json", policy_text("one", &format!(r#", "deny": [ {{ "measurement": "{measurement}", "reason": "withdrawn" }} ]"#)));
    world.reload().await;
    assert!(ends(&mut one).await, "a connection outlives its policy");
    assert!(says_back(&mut two, b"still here").await, "a connection under another policy is harmed");
    let refused = TcpStream::connect(world.client.tcp_address("one").expect("TCP")).await;
    assert!(ends(&mut refused.expect("a listener")).await, "the new policy lets it in");
    told(world.client.metrics(), r#"portcullis_connections_withdrawn_total{listener="one",side="upstream",reason="measurement_unknown"} 1"#).await;
}

/// What a peer may call, and what applications are told of it, hangs on its entry.
#[tokio::test]
async fn a_connection_does_not_outlive_the_entry_that_it_was_admitted_for() {
    let world = World::new().await;
    let (mut one, mut two) = (world.open("one").await, world.open("two").await);
    world.desk.write("one.json", policy_text("one", "").replace("\"guest\"", "\"lesser\""));
    world.reload().await;
    assert!(ends(&mut one).await, "a connection outlives its entry");
    assert!(says_back(&mut two, b"still here").await, "a connection under another policy is harmed");
    world.open("one").await;
    told(world.client.metrics(), r#"portcullis_connections_withdrawn_total{listener="one",side="upstream",reason="identity_mismatch"} 1"#).await;
}

/// hyper lets what is in flight on a connection of HTTP/2 go on without its owner: an answer that never ends would outlive everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_over_a_pooled_connection_ends_with_the_verdict_about_its_far_end() {
    let desk = Desk::new();
    desk.write("one.json", policy_text("one", ""));
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    desk.write(
        "server.toml",
        format!(
            "version = 1\n[identity]\nprovider = \"simulator\"\nnames = [\"localhost\"]\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\n\
             protocol = \"http\"\ncertificate = \"attested\"\nupstream = \"app\"\n[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n",
            silent.local_addr().expect("an address")
        ),
    );
    let server = App::start(&load(&desk, "server.toml").expect("a configuration"), Clock::system()).await.expect("a server");
    let address = server.tcp_address("in").expect("TCP");
    desk.write(
        "client.toml",
        format!(
            "version = 1\n[policy.one]\nfile = \"one.json\"\n[[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nupstream = \"far\"\n\
             [[upstream]]\nname = \"far\"\ntargets = [\"tls://{address}\"]\nattested = {{ policy = \"one\" }}\n"
        ),
    );
    let client = App::start(&load(&desk, "client.toml").expect("a configuration"), Clock::system()).await.expect("a client");
    let mut stream = TcpStream::connect(client.tcp_address("out").expect("TCP")).await.expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("written");
    let (mut application, _) = tokio::time::timeout(PATIENCE, silent.accept()).await.expect("in time").expect("a connection");
    application.read_exact(&mut [0; 16]).await.expect("a request");
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    desk.write("one.json", policy_text("one", &format!(r#", "deny": [ {{ "measurement": "{measurement}", "reason": "withdrawn" }} ]"#)));
    client.reload(load(&desk, "client.toml")).await;
    let mut answer = [0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("it outlives the policy").expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 502");
    told(client.metrics(), r#"portcullis_connections_withdrawn_total{listener="out",side="upstream",reason="measurement_unknown"} 1"#).await;
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, application.read_to_end(&mut rest)).await.expect("the far end goes on").ok();
}

/// A server that knows no HTTP/2 lets the pool's connection itself become the tunnel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pooled_connection_was_upgraded_to_ends_with_the_verdict_about_its_far_end() {
    let desk = Desk::new();
    desk.write("one.json", policy_text("one", ""));
    let service = shouting().await;
    desk.write(
        "server.toml",
        format!(
            "version = 1\n[identity]\nprovider = \"simulator\"\nnames = [\"localhost\"]\n\
             [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nfreshness = \"certificate\"\n\
             insecure_accept_replay_risk = true\nupstream = \"app\"\n[[upstream]]\nname = \"app\"\ntargets = [\"tcp://{service}\"]\n"
        ),
    );
    let server = App::start(&load(&desk, "server.toml").expect("a configuration"), Clock::system()).await.expect("a server");
    let address = server.tcp_address("in").expect("TCP");
    desk.write(
        "client.toml",
        format!(
            "version = 1\n[policy.one]\nfile = \"one.json\"\n[[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
             upgrades = [\"shout\"]\nupstream = \"far\"\n[[upstream]]\nname = \"far\"\ntargets = [\"tls://{address}\"]\n\
             attested = {{ policy = \"one\", freshness = \"certificate\" }}\ninsecure_accept_replay_risk = true\n"
        ),
    );
    let client = App::start(&load(&desk, "client.toml").expect("a configuration"), Clock::system()).await.expect("a client");
    let mut stream = TcpStream::connect(client.tcp_address("out").expect("TCP")).await.expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n").await.expect("written");
    let (mut head, mut octet) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut octet)).await.expect("an answer").expect("a head");
        head.extend_from_slice(&octet);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    assert!(says_back(&mut stream, b"HELLO").await);
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    desk.write("one.json", policy_text("one", &format!(r#", "deny": [ {{ "measurement": "{measurement}", "reason": "withdrawn" }} ]"#)));
    client.reload(load(&desk, "client.toml")).await;
    assert!(ends(&mut stream).await, "a tunnel outlives the policy that its far end was admitted by");
    told(client.metrics(), r#"portcullis_connections_withdrawn_total{listener="out",side="upstream",reason="measurement_unknown"} 1"#).await;
}

/// An application that upgrades to a protocol of its own, and says everything back.
async fn shouting() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut head, mut octet) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut octet).await.is_ok() {
                    head.extend_from_slice(&octet);
                }
                let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n").await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_policy_that_widens_or_has_errors_disturbs_nobody() {
    let world = World::new().await;
    let mut one = world.open("one").await;
    world.desk.write("one.json", policy_text("one", r#", "max_evidence_age": "2h""#));
    world.reload().await;
    world.desk.write("two.json", "{");
    world.reload().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(says_back(&mut one, b"still here").await);
    world.open("two").await;
    let metrics = world.client.metrics().text();
    assert!(metrics.contains(r#"portcullis_config_reloads_total{result="failed"} 1"#), "{metrics}");
    assert!(!metrics.contains("portcullis_connections_withdrawn_total{"), "{metrics}");
}

/// Signs deny lists, as the operator's own machine does.
struct Operator(EcdsaKeyPair);

impl Operator {
    fn new(desk: &Desk) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).expect("a key");
        let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).expect("a public key");
        let pem = data_encoding::BASE64.encode(spki.as_ref());
        desk.write("deny.pub", format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n"));
        Self(key)
    }

    /// An edition that denies the code of these measurements.
    fn publish(&self, desk: &Desk, number: u64, measurements: &[String]) {
        let denied: Vec<_> = measurements.iter().map(|measurement| format!(r#"{{ "measurement": "{measurement}", "reason": "withdrawn" }}"#)).collect();
        let text = format!(r#"{{ "version": 1, "number": {number}, "expires": "2099-01-01T00:00:00Z", "deny": [{}] }}"#, denied.join(", "));
        self.publish_text(desk, &text);
    }

    /// An edition of this text, renamed into place, its signature last.
    fn publish_text(&self, desk: &Desk, text: &str) {
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).expect("a signature");
        for (file, octets) in [("deny.json", text.as_bytes()), ("deny.json.sig", signature.as_ref())] {
            desk.write("part", octets);
            std::fs::rename(desk.path("part"), desk.path(file)).expect("renamed");
        }
    }
}

/// Editions only go on: neither an older one nor another of the same number takes the place of the one in force.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deny_list_is_neither_rolled_back_nor_exchanged_and_reaches_policies_that_are_gone() {
    let world = World::new().await;
    let mut one = world.open("one").await;
    let operator = Operator::new(&world.desk);
    let written = std::fs::read_to_string(world.desk.path("client.toml")).expect("written");
    let with = format!("{written}[deny]\nfile = \"deny.json\"\nkey = \"deny.pub\"\n");
    world.desk.write("client.toml", &with);
    let ours = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    let failed = |count: usize| assert!(world.client.metrics().text().contains(&format!("reloads_total{{result=\"failed\"}} {count}")), "{count}");
    operator.publish(&world.desk, 7, &["11".repeat(48)]);
    world.reload().await;
    assert!(says_back(&mut one, b"again").await, "edition 7 denies somebody else");
    for (count, number) in [(1, 6), (2, 7)] {
        operator.publish(&world.desk, number, std::slice::from_ref(&ours));
        world.reload().await;
        failed(count);
        assert!(says_back(&mut one, b"again").await, "{number}");
    }
    // No list at all is no later edition, either.
    world.desk.write("client.toml", &written);
    world.reload().await;
    failed(3);
    // The policy `two` is no longer in the file, and its connections are there.
    let mut two = world.open("two").await;
    world.desk.write("client.toml", with.split("[policy.two]").next().unwrap_or_default().to_owned() + "[deny]\nfile = \"deny.json\"\nkey = \"deny.pub\"\n");
    operator.publish(&world.desk, 8, &[ours]);
    world.reload().await;
    assert!(ends(&mut one).await && ends(&mut two).await);
}

fn policy_text(name: &str, keys: &str) -> String {
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    format!(
        r#"{{ "version": 1, "name": "{name}", "insecure_roots": ["simulator"], "accept": [ {{ "id": "guest", "tee": "sev-snp", "measurement": "{measurement}" }} ]{keys} }}"#
    )
}

fn load(desk: &Desk, file: &str) -> Result<Config, portcullis::config::ConfigError> {
    Config::load(&desk.path(file))
}

async fn says_back(stream: &mut TcpStream, words: &[u8]) -> bool {
    let mut heard = vec![0; words.len()];
    let both = async {
        stream.write_all(words).await?;
        stream.read_exact(&mut heard).await
    };
    tokio::time::timeout(PATIENCE, both).await.expect("an answer").is_ok() && heard == words
}

/// Whether the other side closes or resets.
async fn ends(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("an end");
    !matches!(read, Ok(1))
}

async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// The operator's own list, as the program takes it while it runs: nobody tells it that the file has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_takes_a_newer_signed_deny_list_while_it_runs_and_no_other() {
    let desk = Desk::new();
    let service = echo().await;
    let mut servers = Vec::new();
    for seed in [21_u64, 22] {
        let text = format!(
            "version = 1\n[identity]\nprovider = \"simulator\"\nnames = [\"localhost\"]\n[identity.simulator]\nseed = {seed}\n\
             [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nupstream = \"app\"\n\
             [[upstream]]\nname = \"app\"\ntargets = [\"tcp://{service}\"]\n"
        );
        desk.write("server.toml", text);
        servers.push(App::start(&load(&desk, "server.toml").expect("a configuration"), Clock::system()).await.expect("a server"));
    }
    let chip = |seed| data_encoding::HEXLOWER.encode(&Forge::new(Product::Genoa, seed, Timestamp(0)).report.chip_id);
    desk.write("p.json", policy_text("p", ""));
    let operator = Operator::new(&desk);
    operator.publish_text(&desk, &edition(3, "2099-01-01T00:00:00Z", &chip(99)));
    let way = |name: &str, server: &App| {
        let address = server.tcp_address("in").expect("TCP");
        format!(
            "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\nupstream = \"{name}\"\n\
             [[upstream]]\nname = \"{name}\"\ntargets = [\"tls://{address}\"]\nattested = {{ policy = \"p\" }}\n"
        )
    };
    let (one, two) = (way("a", &servers[0]), way("b", &servers[1]));
    desk.write("client.toml", format!("version = 1\n[policy.p]\nfile = \"p.json\"\n[deny]\nfile = \"deny.json\"\nkey = \"deny.pub\"\n{one}{two}"));
    let (process, addresses) = Process::start(&desk, "client.toml", 2);
    let (mut live, mut stays) = (TcpStream::connect(addresses[0]).await.expect("a"), TcpStream::connect(addresses[1]).await.expect("b"));
    assert!(says_back(&mut live, b"hello").await && says_back(&mut stays, b"hello").await);

    // An older edition, one that is not signed by the key, one that is cut off: what was in force stays.
    let denied = edition(4, "2099-01-01T00:00:00Z", &chip(21));
    operator.publish_text(&desk, &edition(2, "2099-01-01T00:00:00Z", &chip(21)));
    process.says("the deny list is edition 2, and edition 3 is in force");
    Operator(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).expect("a key")).publish_text(&desk, &denied);
    process.says("the configuration that was in force stays");
    desk.write("deny.json", &denied[..denied.len() / 2]);
    process.says("the configuration that was in force stays");
    assert!(says_back(&mut live, b"again").await && says_back(&mut stays, b"again").await);

    // A newer one.
    operator.publish_text(&desk, &denied);
    assert!(ends(&mut live).await, "the chip is on the list");
    assert!(process.says("withdrawn").contains("platform_not_allowed"));
    assert!(says_back(&mut stays, b"still here").await, "another chip is not");
    let mut again = TcpStream::connect(addresses[0]).await.expect("a");
    assert!(again.write_all(b"x").await.is_err() || ends(&mut again).await, "nobody is let in anew");

    // One that nobody renewed: what the next one denies is not known, so nobody is accepted.
    operator.publish_text(&desk, &edition(5, "2026-11-25T00:00:00Z", &chip(21)));
    assert!(ends(&mut stays).await);
    assert!(process.says("withdrawn").contains("policy_invalid"));
}

fn edition(number: u64, expires: &str, chip: &str) -> String {
    format!(r#"{{ "version": 1, "number": {number}, "expires": "{expires}", "deny": [ {{ "chip_id": "{chip}", "reason": "sold" }} ] }}"#)
}
