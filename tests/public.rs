//! Listeners for the public with a certificate from files: browsers and curl, evidence about the key that they see,
//! renewal, and nothing that passes for an identity.
#![cfg(feature = "simulator")]

#[path = "support/sidecar.rs"]
mod sidecar;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis::admin::health::Health;
use portcullis::admin::metrics::Metrics;
use portcullis::app::App;
use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::evidence::batch::Proof;
use portcullis::evidence::binding::Binding;
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::leaf::Leaf;
use portcullis::proxy::Parts;
use portcullis::refusal::Reason;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const PATH: &str = "/.well-known/portcullis/v1/evidence";

/// A private CA, whose root lies in the desk as `root.pem`.
struct Ca(Issuer<'static, KeyPair>);

impl Ca {
    fn new(desk: &Path) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a private CA");
        std::fs::write(desk.join("root.pem"), params.self_signed(&key).expect("a root").pem()).expect("written");
        Self(Issuer::new(params, key))
    }

    /// Issues for `app.test`, into the files that the listener reads.
    fn issue(&self, desk: &Path, key: &KeyPair) {
        let params = CertificateParams::new(vec!["app.test".to_owned()]).expect("a name");
        std::fs::write(desk.join("chain.pem"), params.signed_by(key, &self.0).expect("a certificate").pem()).expect("written");
        std::fs::write(desk.join("key.pem"), key.serialize_pem()).expect("written");
    }
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

async fn start(desk: &Path, application: SocketAddr) -> App {
    let text = format!(
        "version = 1\ndrain_grace = \"5s\"\n[identity]\nprovider = \"simulator\"\nnames = [\"far.test\"]\nsimulator = {{ quote_delay = \"40ms\" }}\n\
         [observe]\nbind = \"127.0.0.1:0\"\n[[upstream]]\nname = \"app\"\ntargets = [\"http://{application}\"]\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"files\"\nfiles = {{ chain = \"chain.pem\", key = \"key.pem\" }}\n\
         upstream = \"app\"\nevidence = {{ per_source = 1000, total = 1000 }}\n"
    );
    let config = Config::parse("test.toml", &text, desk).unwrap_or_else(|error| panic!("{error}"));
    App::start(&config, Clock::system()).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// A connection as a browser makes it, with the certificate that it was shown.
async fn connect(desk: &Path, address: SocketAddr) -> std::io::Result<(TlsStream<TcpStream>, Leaf)> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(desk.join("root.pem")).expect("a root")).expect("a root");
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let mut config = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("app.test").expect("a name"), stream).await?;
    let leaf = Leaf::read_public(&stream.get_ref().1.peer_certificates().expect("a certificate")[0]).expect("a leaf");
    Ok((stream, leaf))
}

/// Asks for evidence over a connection that goes on.
async fn evidence(stream: &mut TlsStream<TcpStream>, nonce: &[u8]) -> (Collection, Vec<u8>, Proof) {
    let nonce = data_encoding::BASE64URL_NOPAD.encode(nonce);
    stream.write_all(format!("GET {PATH}?nonce={nonce} HTTP/1.1\r\nHost: app.test\r\n\r\n").as_bytes()).await.expect("written");
    let (mut answer, mut buffer) = (String::new(), [0; 8192]);
    let document: serde_json::Value = loop {
        let count = stream.read(&mut buffer).await.expect("an answer");
        assert!(count > 0, "{answer}");
        answer += std::str::from_utf8(&buffer[..count]).expect("text");
        if let Some(document) = answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()) {
            break document;
        }
    };
    assert!(answer.starts_with("HTTP/1.1 200") && document["origin"] == "https://app.test", "{answer}");
    let octets = |value: &serde_json::Value| data_encoding::BASE64URL_NOPAD.decode(value.as_str().expect("text").as_bytes()).expect("base64url");
    let path = document["proof"][2].as_array().expect("a path").iter().map(|node| octets(node).try_into().expect("48 octets")).collect();
    let proof = Proof { index: document["proof"][0].as_u64().expect("an index"), size: document["proof"][1].as_u64().expect("a size"), path };
    (Collection::decode(&octets(&document["cmw"])).expect("a collection"), octets(&document["cb"]), proof)
}

/// The verdict of a plugin that was shown `leaf`.
fn judged((collection, claims, proof): &(Collection, Vec<u8>, Proof), leaf: &Leaf, nonce: &[u8]) -> Result<String, Reason> {
    let parts = Parts { clock: Clock::system(), metrics: Arc::new(Metrics::new()), health: Arc::new(Health::new()) };
    let now = Clock::system().now().expect("a time");
    let binding = Binding::of_web(claims, leaf.key(), nonce, "https://app.test", proof).map_err(|denied| denied.reason())?;
    let verdict = sidecar::judge(&parts).session(collection, &binding, now);
    verdict.map(|result| result.appraisal().entry().to_owned()).map_err(|denied| denied.reason())
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(web::PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_is_served_and_is_nobody() {
    let mirror = web::Mirror::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let desk = folder.path();
    let ca = Ca::new(desk);
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
    for key in [p256(), rsa] {
        ca.issue(desk, &key);
        let app = start(desk, mirror.address).await;
        let port = app.tcp_address("web").expect("an address").port();
        let (url, to) = (format!("https://app.test:{port}/x"), format!("app.test:{port}:127.0.0.1"));
        let root = desk.join("root.pem").display().to_string();
        let forged =
            ["Attested-Peer: forged", "attested_token: forged", "Client-Cert: forged", "X-Forwarded-Client-Cert: forged", "x-flashbots-measurement: forged"];
        let forged: Vec<&str> = forged.iter().flat_map(|field| ["-H", field]).collect();
        for version in ["--http1.1", "--http2"] {
            let answer = web::curl(&[&[version, "--cacert", &root, "--resolve", &to][..], &forged, &[&url]].concat()).await;
            assert!(answer.contains(" 200"), "{answer}");
            let head = mirror.last();
            assert!(!head.contains("forged") && !head.to_lowercase().contains("attested"), "{head}");
            assert_eq!(web::field(&head, "x-forwarded-proto").as_deref(), Some("https"));
        }
        let seen = mirror.connections();
        // The curves of old libraries; not the versions of TLS.
        web::curl(&["--curves", "P-256", "--cacert", &root, "--resolve", &to, &url]).await;
        let old = web::program("curl", &["-sS", "--tls-max", "1.2", "--cacert", &root, "--resolve", &to, &url]).await;
        assert!(!old.status.success(), "TLS 1.2 was spoken");
        // A sidecar of a session tier finds nothing here to talk to.
        assert!(sidecar::foreign_client(SocketAddr::from(([127, 0, 0, 1], port)), b"portcullis1/http/1.1").await.is_err());
        assert_eq!(mirror.connections(), seen);
        let metrics = app.metrics().text();
        assert!(metrics.contains("portcullis_connections_confirmed_total{tier=\"web\",direction=\"inbound\"}"), "{metrics}");
        assert!(!metrics.contains("portcullis_appraisals_total{"), "{metrics}");
        app.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_is_about_the_key_of_each_connection_across_a_renewal() {
    let mirror = web::Mirror::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let desk = folder.path();
    let ca = Ca::new(desk);
    ca.issue(desk, &p256());
    let app = start(desk, mirror.address).await;
    let address = app.tcp_address("web").expect("an address");
    let (mut old, first) = connect(desk, address).await.expect("a connection");
    let told = evidence(&mut old, &[7; 32]).await;
    assert_eq!(judged(&told, &first, &[7; 32]).as_deref(), Ok("simulated"));
    assert_eq!(judged(&told, &first, &[8; 32]), Err(Reason::BindingMismatch));

    // A pair that does not fit is not taken.
    std::fs::write(desk.join("key.pem"), p256().serialize_pem()).expect("written");
    let readiness = async || web::say(app.observed_at().expect("an address"), b"GET /readyz?verbose HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    until("it is told", async || readiness().await.contains("[+]certificate of web: the last renewal failed")).await;
    assert_eq!(connect(desk, address).await.expect("a connection").1.key(), first.key());

    // One that fits is: the new key's connections get evidence about it, the old connection about its own.
    ca.issue(desk, &p256());
    until("the renewed certificate is presented", async || connect(desk, address).await.expect("a connection at any time").1.key() != first.key()).await;
    let (mut new, second) = connect(desk, address).await.expect("a connection");
    for (stream, shown, other) in [(&mut old, &first, &second), (&mut new, &second, &first)] {
        let told = evidence(stream, &[9; 64]).await;
        assert_eq!(judged(&told, shown, &[9; 64]).as_deref(), Ok("simulated"));
        assert_eq!(judged(&told, other, &[9; 64]), Err(Reason::BindingMismatch), "evidence was taken for another key's");
    }

    // Those who ask at once share quotes.
    let quotes = || {
        let metrics = app.metrics().text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("portcullis_quotes_total ")).expect("a count");
        line.parse::<u64>().expect("a number")
    };
    let before = quotes();
    let asking: Vec<_> = (0..24_u8)
        .map(|number| {
            let desk = desk.to_owned();
            tokio::spawn(async move {
                let (mut stream, leaf) = connect(&desk, address).await.expect("a connection");
                let told = evidence(&mut stream, &[number; 32]).await;
                judged(&told, &leaf, &[number; 32])
            })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.expect("no panic").as_deref(), Ok("simulated"));
    }
    assert!(quotes() - before < 24, "each answer had a quote of its own");
    assert!(mirror.heads().is_empty(), "the application was asked");
    drop((old, new));
    app.drain().await;
}
