//! What happens to connections that are open while their policy changes: those that still pass notice nothing, the
//! others are drained with the reason.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/program.rs"]
mod program;
#[path = "support/told.rs"]
mod told;

use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use portcullis::app::App;
use portcullis::attester::simulator::MEASUREMENT;
use portcullis::clock::Clock;
use portcullis::config::Config;
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

    fn reload(&self) {
        self.client.reload(load(&self.desk, "client.toml"));
    }
}

#[tokio::test]
async fn a_policy_that_narrows_drains_what_it_no_longer_admits_and_leaves_the_rest() {
    let world = World::new().await;
    let (mut one, mut two) = (world.open("one").await, world.open("two").await);
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    world.desk.write("one.json", policy_text("one", &format!(r#", "deny": [ {{ "measurement": "{measurement}", "reason": "withdrawn" }} ]"#)));
    world.reload();
    assert!(ends(&mut one).await, "a connection outlives its policy");
    assert!(says_back(&mut two, b"still here").await, "a connection under another policy is harmed");
    let refused = TcpStream::connect(world.client.tcp_address("one").expect("TCP")).await;
    assert!(ends(&mut refused.expect("a listener")).await, "the new policy lets it in");
    told(world.client.metrics(), r#"portcullis_connections_withdrawn_total{listener="one",side="upstream",reason="measurement_unknown"} 1"#).await;
}

#[tokio::test]
async fn a_policy_that_widens_or_has_errors_disturbs_nobody() {
    let world = World::new().await;
    let mut one = world.open("one").await;
    world.desk.write("one.json", policy_text("one", r#", "max_evidence_age": "2h""#));
    world.reload();
    world.desk.write("two.json", "{");
    world.reload();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(says_back(&mut one, b"still here").await);
    world.open("two").await;
    let metrics = world.client.metrics().text();
    assert!(metrics.contains(r#"portcullis_reloads_total{result="failed"} 1"#), "{metrics}");
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
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).expect("a signature");
        desk.write("deny.json", &text);
        desk.write("deny.json.sig", signature.as_ref());
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
    world.reload();
    assert!(says_back(&mut one, b"again").await, "edition 7 denies somebody else");
    for (count, number) in [(1, 6), (2, 7)] {
        operator.publish(&world.desk, number, std::slice::from_ref(&ours));
        world.reload();
        failed(count);
        assert!(says_back(&mut one, b"again").await, "{number}");
    }
    // No list at all is no later edition, either.
    world.desk.write("client.toml", &written);
    world.reload();
    failed(3);
    // The policy `two` is no longer in the file, and its connections are there.
    let mut two = world.open("two").await;
    world.desk.write("client.toml", with.split("[policy.two]").next().unwrap_or_default().to_owned() + "[deny]\nfile = \"deny.json\"\nkey = \"deny.pub\"\n");
    operator.publish(&world.desk, 8, &[ours]);
    world.reload();
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
