//! The evidence endpoint: fresh evidence for a nonce about the key of this very connection, and nothing else.
#![cfg(feature = "simulator")]

#[path = "support/sidecar.rs"]
mod sidecar;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis::admin::health::Health;
use portcullis::admin::metrics::Metrics;
use portcullis::clock::Clock;
use portcullis::evidence::batch::Proof;
use portcullis::evidence::binding::Binding;
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::leaf::Leaf;
use portcullis::proxy::Parts;
use portcullis::refusal::Reason;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATH: &str = "/.well-known/portcullis/v1/evidence";

/// A server with the endpoint, and an application behind it.
async fn server(desk: &tempfile::TempDir, application: SocketAddr, evidence: &str) -> portcullis::app::App {
    let text = format!(
        "[[upstream]]\nname = \"app\"\ntargets = [\"http://{application}\"]\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
         certificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\nupstream = \"app\"\nevidence = {evidence}\n"
    );
    web::sidecar(desk, &text).await
}

/// One request as a browser sends it; its answer, and the certificate of the connection.
async fn browse(address: SocketAddr, target: &str, host: &str) -> (String, Leaf) {
    let config = Arc::new(sidecar::careless_client(&[b"http/1.1"]));
    let stream = TcpStream::connect(address).await.expect("a listener");
    let mut stream = tokio_rustls::TlsConnector::from(config).connect(ServerName::try_from("far.test").expect("a name"), stream).await.expect("TLS");
    let leaf = Leaf::read(&stream.get_ref().1.peer_certificates().expect("a certificate")[0]).expect("a leaf");
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    (answer, leaf)
}

fn text(nonce: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(nonce)
}

fn octets(value: &serde_json::Value) -> Vec<u8> {
    data_encoding::BASE64URL_NOPAD.decode(value.as_str().expect("text").as_bytes()).expect("base64url")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_is_about_this_nonce_origin_and_key() {
    let mirror = web::Mirror::start().await;
    let desk = web::desk();
    let app = server(&desk, mirror.address, "{ per_source = 1000 }").await;
    let address = app.tcp_address("in").expect("an address");
    let nonce = [7; 32];
    let (answer, leaf) = browse(address, &format!("{PATH}?nonce={}", text(&nonce)), "app.example").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    for field in ["content-type: application/json", "cache-control: no-store", "access-control-allow-origin: *"] {
        assert!(head.to_lowercase().contains(field), "{field} not in {head}");
    }
    let document: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!((document["v"].as_u64(), document["origin"].as_str()), (Some(1), Some("https://app.example")));
    let collection = Collection::decode(&octets(&document["cmw"])).expect("a collection");
    let claims = octets(&document["cb"]);
    assert_eq!(collection.bind, claims);
    let path = document["proof"][2].as_array().expect("a path").iter().map(|node| octets(node).try_into().expect("48 octets")).collect();
    let proof = Proof { index: document["proof"][0].as_u64().expect("an index"), size: document["proof"][1].as_u64().expect("a size"), path };
    let parts = Parts { clock: Clock::system(), metrics: Arc::new(Metrics::new()), health: Arc::new(Health::new()) };
    let (judge, now) = (sidecar::judge(&parts), Clock::system().now().expect("a time"));
    let judged = |nonce: &[u8], origin: &str| {
        let binding = Binding::of_web(&claims, leaf.key(), nonce, origin, &proof)?;
        judge.session(&collection, &binding, now).map(|result| result.appraisal().entry().to_owned())
    };
    assert_eq!(judged(&nonce, "https://app.example").as_deref(), Ok("simulated"));
    // Replayed for another nonce, or shown by another site, it is nothing.
    for (nonce, origin) in [([8; 32], "https://app.example"), (nonce, "https://evil.example")] {
        assert_eq!(judged(&nonce, origin).map_err(|denied| denied.reason()), Err(Reason::BindingMismatch));
    }
    // Relayed over a connection with another key, either.
    let (_, other) = browse(server(&desk, mirror.address, "{}").await.tcp_address("in").expect("an address"), "/", "a").await;
    let relayed = Binding::of_web(&claims, other.key(), &nonce, "https://app.example", &proof);
    assert_eq!(relayed.map_err(|denied| denied.reason()).err(), Some(Reason::BindingMismatch));
    assert!(mirror.heads().iter().all(|head| !head.contains(PATH)), "the application was asked");
    app.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_questions_and_too_many_are_refused() {
    let mirror = web::Mirror::start().await;
    let desk = web::desk();
    let app = server(&desk, mirror.address, "{ per_source = 3, total = 3 }").await;
    let address = app.tcp_address("in").expect("an address");
    for query in [
        String::new(),
        "?nonce=".to_owned(),
        format!("?nonce={}", text(&[1; 31])),
        format!("?nonce={}", text(&[1; 65])),
        format!("?nonce={}&a=b", text(&[1; 32])),
    ] {
        let (answer, _) = browse(address, &format!("{PATH}{query}"), "a").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{query}: {answer}");
    }
    let mut told = Vec::new();
    for number in 0..8 {
        let (answer, _) = browse(address, &format!("{PATH}?nonce={}", text(&[number; 32])), "a").await;
        told.push(answer.split(' ').nth(1).unwrap_or_default().to_owned());
    }
    assert!(told.iter().any(|status| status == "429") && told[0] == "200", "{told:?}");
    app.drain().await;
    // Where it is not switched on, the application answers.
    let app = server(&desk, mirror.address, "{ path = \"/elsewhere\" }").await;
    let (answer, _) = browse(app.tcp_address("in").expect("an address"), &format!("{PATH}?nonce={}", text(&[1; 32])), "a").await;
    assert!(answer.contains("x-body: 0") && !answer.contains("\"cmw\""), "{answer}");
    app.drain().await;
}
