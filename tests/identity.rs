//! Who the other side is, beside what it runs: certificates of a CA, by name and by SPIFFE id, between two whole sidecars
//! that are set up by their configuration files.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/told.rs"]
mod told;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::app::App;
use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::evidence::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use told::told;

const NOW: Timestamp = Timestamp(1_800_000_000);
const SAID: &[u8] = b"for the service alone";
const POLICY: &str = r#"{ "version": 1, "name": "mesh", "insecure_roots": ["simulator"],
  "accept": [ { "id": "any", "tee": "sev-snp", "insecure_any_measurement": true } ] }"#;

/// A certificate authority with its key.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root").pem();
        Self(Issuer::new(params, key), root)
    }

    /// Writes `WHO.pem` and `WHO.key`, issued for this name and this SPIFFE id.
    fn issue(&self, folder: &Path, who: &str, name: &str, id: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.subject_alt_names.push(SanType::URI(id.try_into().expect("ASCII")));
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.0).expect("a certificate");
        std::fs::write(folder.join(format!("{who}.pem")), leaf.pem()).expect("written");
        std::fs::write(folder.join(format!("{who}.key")), key.serialize_pem()).expect("written");
    }
}

/// What each side wants of the other: the text of its `peer` table.
struct Wanted<'a> {
    of_client: &'a str,
    of_server: &'a str,
}

/// What came of one connection through both sidecars.
#[derive(Debug)]
struct Seen {
    answered: Vec<u8>,
    at_service: usize,
    by_server: String,
    by_client: String,
}

async fn connected(issued_by: &Authority, wanted: &Wanted<'_>) -> Seen {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ca.pem"), &issued_by.1).expect("written");
    std::fs::write(folder.path().join("other.pem"), &Authority::new().1).expect("written");
    std::fs::write(folder.path().join("mesh.json"), POLICY).expect("written");
    issued_by.issue(folder.path(), "server", "server.shop.example", "spiffe://shop.example/server");
    issued_by.issue(folder.path(), "client", "client.shop.example", "spiffe://shop.example/client");
    let (service, at_service) = service().await;
    let server = start(folder.path(), &server(service, wanted.of_client)).await;
    let entrance = server.tcp_address("in").expect("it listens");
    let client = start(folder.path(), &client(entrance, wanted.of_server)).await;
    let answered = asked(client.tcp_address("out").expect("it listens")).await;
    // Read when every record is written.
    let (by_server, by_client) = (Arc::clone(server.metrics()), Arc::clone(client.metrics()));
    client.drain().await;
    server.drain().await;
    Seen { answered, at_service: at_service.load(Ordering::SeqCst), by_server: by_server.text(), by_client: by_client.text() }
}

fn identity(who: &str, seed: u8) -> String {
    format!(
        "version = 1\n[identity]\nprovider = \"simulator\"\nsimulator = {{ seed = {seed} }}\ncertificate = \"{who}.pem\"\nkey = \"{who}.key\"\n[policy.mesh]\nfile = \"mesh.json\"\n"
    )
}

fn server(service: SocketAddr, peer: &str) -> String {
    identity("server", 1)
        + &format!(
            "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nclients = \"attested\"\npolicy = \"mesh\"\npeer = {peer}\n\
             upstream = \"service\"\n[[upstream]]\nname = \"service\"\ntargets = [\"tcp://{service}\"]\n"
        )
}

fn client(server: SocketAddr, peer: &str) -> String {
    identity("client", 2)
        + &format!(
            "[[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nupstream = \"server\"\n[[upstream]]\nname = \"server\"\ntargets = [\"tls://{server}\"]\n\
             server_name = \"server.shop.example\"\nattested = {{ policy = \"mesh\", freshness = \"session-mutual\" }}\npeer = {peer}\n"
        )
}

async fn start(folder: &Path, text: &str) -> App {
    let config = Config::parse("c.toml", text, folder).unwrap_or_else(|error| panic!("{error}"));
    App::start(&config, Clock::standing_at(NOW)).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Echoes, and counts who came.
async fn service() -> (SocketAddr, Arc<AtomicUsize>) {
    let (listener, count) = (TcpListener::bind("127.0.0.1:0").await.expect("a port"), Arc::new(AtomicUsize::new(0)));
    let (address, counted) = (listener.local_addr().expect("an address"), Arc::clone(&count));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let (mut reading, mut writing) = stream.split();
            let _ = tokio::io::copy(&mut reading, &mut writing).await;
        }
    });
    (address, count)
}

/// What a local application reads back of what it says.
async fn asked(entrance: SocketAddr) -> Vec<u8> {
    let talk = async {
        let mut stream = TcpStream::connect(entrance).await?;
        stream.write_all(SAID).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(20), talk).await.expect("an end").unwrap_or_default()
}

fn refused(metrics: &str, listener: &str, side: &str) -> bool {
    metrics.contains(&format!(r#"portcullis_connections_refused_total{{listener="{listener}",side="{side}",reason="identity_mismatch"}} 1"#))
}

const NAMED: Wanted<'static> = Wanted {
    of_client: r#"{ pki_roots = "ca.pem", pki_names = ["client.shop.example"] }"#,
    of_server: r#"{ pki_roots = "ca.pem", pki_names = ["server.shop.example"] }"#,
};

const KNOWN: Wanted<'static> = Wanted {
    of_client: r#"{ pki_roots = "ca.pem", spiffe_ids = ["spiffe://shop.example/client"] }"#,
    of_server: r#"{ pki_roots = "ca.pem", spiffe_ids = ["spiffe://shop.example/server"] }"#,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sides_that_are_who_they_should_be_are_connected() {
    for (wanted, what) in [(NAMED, "names"), (KNOWN, "SPIFFE ids")] {
        let seen = connected(&Authority::new(), &wanted).await;
        assert_eq!((seen.answered.as_slice(), seen.at_service), (SAID, 1), "{what}: {seen:?}");
    }
}

/// Genuine evidence of the wanted code does not stand in for the wanted identity: nobody dials the service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_that_is_somebody_else_is_refused_before_the_service_is_dialled() {
    for (wanted, what) in [
        (Wanted { of_client: r#"{ pki_roots = "ca.pem", pki_names = ["billing.shop.example"] }"#, ..NAMED }, "name"),
        (Wanted { of_client: r#"{ pki_roots = "ca.pem", spiffe_ids = ["spiffe://shop.example/billing"] }"#, ..KNOWN }, "SPIFFE id"),
        (Wanted { of_client: r#"{ pki_roots = "other.pem", pki_names = ["client.shop.example"] }"#, ..NAMED }, "root"),
    ] {
        let seen = connected(&Authority::new(), &wanted).await;
        assert_eq!((seen.answered.as_slice(), seen.at_service), (&b""[..], 0), "client's {what}: {seen:?}");
        assert!(refused(&seen.by_server, "in", "downstream"), "client's {what}: {}", seen.by_server);
    }
    for (wanted, what) in [
        (Wanted { of_server: r#"{ pki_roots = "ca.pem", pki_names = ["billing.shop.example"] }"#, ..NAMED }, "name"),
        (Wanted { of_server: r#"{ pki_roots = "ca.pem", spiffe_ids = ["spiffe://shop.example/billing"] }"#, ..KNOWN }, "SPIFFE id"),
        (Wanted { of_server: r#"{ pki_roots = "other.pem", pki_names = ["server.shop.example"] }"#, ..NAMED }, "root"),
    ] {
        let seen = connected(&Authority::new(), &wanted).await;
        assert_eq!((seen.answered.as_slice(), seen.at_service), (&b""[..], 0), "server's {what}: {seen:?}");
        assert!(refused(&seen.by_client, "out", "upstream"), "server's {what}: {}", seen.by_client);
    }
}

/// Short-lived certificates are renewed in place. What does not pass changes nothing; what does needs no restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_presented_without_a_restart() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().expect("a folder"));
    let issue = |who: &str, name: &str| authority.issue(folder.path(), who, name, "spiffe://shop.example/any");
    std::fs::write(folder.path().join("ca.pem"), &authority.1).expect("written");
    std::fs::write(folder.path().join("mesh.json"), POLICY).expect("written");
    issue("server", "server.shop.example");
    issue("client", "client.shop.example");
    let (service, _) = service().await;
    let server = start(folder.path(), &server(service, NAMED.of_client)).await;
    let client = start(folder.path(), &client(server.tcp_address("in").expect("it listens"), NAMED.of_server)).await;
    let entrance = client.tcp_address("out").expect("it listens");
    assert_eq!(asked(entrance).await, SAID);
    // A new certificate with the old key is half a renewal.
    issue("other", "renewed.shop.example");
    std::fs::copy(folder.path().join("other.pem"), folder.path().join("server.pem")).expect("written");
    tokio::time::sleep(portcullis::app::watched::EVERY * 2).await;
    assert_eq!(asked(entrance).await, SAID, "the old pair is presented");
    // So is a key that others may write: whose it is nobody knows. (The mode is copied too.)
    let renew = |mode: u32| {
        let from = folder.path().join("other.key");
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(mode)).expect("a mode");
        std::fs::copy(from, folder.path().join("server.key")).expect("written");
    };
    renew(0o660);
    tokio::time::sleep(portcullis::app::watched::EVERY * 2).await;
    assert_eq!(asked(entrance).await, SAID, "the old pair is presented");
    renew(0o600);
    for _ in 0..100 {
        if asked(entrance).await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The new pair, of another name, is presented.
    told(client.metrics(), r#"side="upstream",reason="identity_mismatch""#).await;
    told(server.metrics(), r#"certificate_not_after_timestamp_seconds{kind="issued"}"#).await;
    client.drain().await;
    server.drain().await;
}
