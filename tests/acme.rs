//! Certificates of a real CA: Caddy's, by each challenge, with a renewal under load. In namespaces of their own, since a CA
//! looks at ports 80 and 443 of a name and nowhere else.
#![cfg(feature = "simulator")]

#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/skipped.rs"]
mod skipped;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::app::App;
use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::evidence::leaf::Leaf;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const NAMES: &str = "127.0.0.1 localhost ca.test www.test shop.test\n";
const CADDYFILE: &str = r#"
{
    admin off
    skip_install_trust
    auto_https disable_redirects
    https_port 9443
    http_port 9080
    storage file_system DESK/caddy
}
https://ca.test:9443 {
    tls internal
    acme_server
}
"#;

/// A CA that ends with the test.
struct Ca(Child);

impl Drop for Ca {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ca {
    async fn start(desk: &Path) -> Self {
        let file = desk.join("Caddyfile");
        std::fs::write(&file, CADDYFILE.replace("DESK", &desk.display().to_string())).expect("written");
        let log = std::fs::File::create(desk.join("caddy.log")).expect("a file");
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).env("HOME", desk).env("XDG_DATA_HOME", desk).env("XDG_CONFIG_HOME", desk);
        let ca = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("caddy runs"));
        let address = SocketAddr::from(([127, 0, 0, 1], 9443));
        until("the CA listens", async || TcpStream::connect(address).await.is_ok() && desk.join(ROOT).exists()).await;
        ca
    }
}

const ROOT: &str = "caddy/pki/authorities/local/root.crt";

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// A browser, as far as it matters here: believes the CA's root and nothing else.
#[derive(Clone)]
struct Browser(Arc<rustls::ClientConfig>);

impl Browser {
    fn of(desk: &Path, protocol: &[u8]) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(desk.join(ROOT)).expect("a root")).expect("a root");
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let mut config = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Self(Arc::new(config))
    }

    /// Connects; gives the certificate that was presented.
    async fn connect(&self, name: &str) -> std::io::Result<(tokio_rustls::client::TlsStream<TcpStream>, Vec<u8>)> {
        let stream = TcpStream::connect((name, 443)).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await?;
        let leaf = stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec();
        Ok((stream, leaf))
    }

    /// One request over its own connection; gives the certificate.
    async fn get(&self, name: &str) -> std::io::Result<Vec<u8>> {
        let (mut stream, leaf) = self.connect(name).await?;
        ask(&mut stream, name, "close").await?;
        Ok(leaf)
    }
}

async fn ask(stream: &mut tokio_rustls::client::TlsStream<TcpStream>, host: &str, connection: &str) -> std::io::Result<()> {
    stream.write_all(format!("GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n").as_bytes()).await?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    // The application answers with the head that it got, which ends so.
    while !(answer.starts_with(b"HTTP/1.1 200") && String::from_utf8_lossy(&answer).contains("\r\nvia:")) {
        match stream.read(&mut buffer).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(())
}

fn configured(desk: &tempfile::TempDir, application: SocketAddr, challenge: &str, names: &str) -> Config {
    let text = format!(
        "version = 1\ndrain_grace = \"5s\"\n[identity]\nprovider = \"simulator\"\nnames = [\"far.test\"]\n[observe]\nbind = \"127.0.0.1:0\"\n\
         [acme]\ndirectory = \"https://ca.test:9443/acme/local/directory\"\nagree_tos = true\ncontact = [\"mailto:ops@www.test\"]\n\
         state_dir = \"state-{challenge}\"\nca_file = \"{ROOT}\"\nchallenge = \"{challenge}\"\n\
         [[upstream]]\nname = \"app\"\ntargets = [\"http://{application}\"]\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:443\"\nprotocol = \"http\"\ncertificate = \"webpki\"\nnames = [{names}]\n\
         upstream = \"app\"\nevidence = {{}}\n\
         [[listener]]\nname = \"plain\"\nbind = \"0.0.0.0:80\"\nprotocol = \"http\"\nredirect = \"https\"\n"
    );
    Config::parse("test.toml", &text, desk.path()).unwrap_or_else(|error| panic!("{error}"))
}

async fn readiness(app: &App) -> String {
    web::say(app.observed_at().expect("an address"), b"GET /readyz?verbose HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await
}

#[test]
fn a_real_ca_certifies_by_tls_alpn_01_and_renews_with_no_downtime() {
    namespace::inside("a_real_ca_certifies_by_tls_alpn_01_and_renews_with_no_downtime", NAMES, &["caddy"], || certified("tls-alpn-01"));
}

#[test]
fn a_real_ca_certifies_by_http_01_and_renews_with_no_downtime() {
    namespace::inside("a_real_ca_certifies_by_http_01_and_renews_with_no_downtime", NAMES, &["caddy"], || certified("http-01"));
}

async fn certified(challenge: &str) {
    let desk = tempfile::tempdir().expect("a folder");
    drop(Ca::start(desk.path()).await);
    let mirror = web::Mirror::start().await;
    let clock = Clock::standing_at(Clock::system().now().expect("a time"));
    let browser = Browser::of(desk.path(), b"http/1.1");

    // The CA is down: the process starts, says that it is not ready, and refuses handshakes.
    let config = configured(&desk, mirror.address, challenge, "\"www.test\", \"shop.test\"");
    let app = App::start(&config, clock.clone()).await.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(browser.get("www.test").await.is_err());
    until("the failure is told", async || readiness(&app).await.contains("[-]certificate of web: the CA cannot be reached")).await;
    assert!(readiness(&app).await.starts_with("HTTP/1.1 503"));
    assert_eq!(mirror.connections(), 0);

    // It comes up: there is a certificate for both names, its key is on no disk, the account's is nobody else's to read.
    let ca = Ca::start(desk.path()).await;
    until("there is a certificate", async || browser.get("www.test").await.is_ok()).await;
    let first = browser.get("shop.test").await.expect("valid for both names");
    assert!(readiness(&app).await.starts_with("HTTP/1.1 200"), "{}", readiness(&app).await);
    let kept: Vec<_> = std::fs::read_dir(desk.path().join(format!("state-{challenge}"))).expect("a folder").map(|file| file.expect("a file")).collect();
    let names: Vec<_> = kept.iter().map(|file| file.file_name().into_string().expect("text")).collect();
    assert!(matches!(names.as_slice(), [one] if one.starts_with("account-") && one.ends_with(".json")), "{names:?}");
    assert_eq!(kept[0].metadata().expect("there").permissions().mode() & 0o777, 0o600);

    // Challenges that nobody set are answered by nobody, and reach nobody.
    let before = mirror.heads().len();
    assert!(Browser::of(desk.path(), b"acme-tls/1").connect("www.test").await.is_err());
    let plain = SocketAddr::from(([127, 0, 0, 1], 80));
    let answer = web::say(plain, b"GET /.well-known/acme-challenge/none HTTP/1.1\r\nHost: www.test\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 308") && answer.to_lowercase().contains("location: https://www.test/.well-known"), "{answer}");
    assert_eq!(mirror.heads().len(), before);

    // It is down again when the renewal is due, at two thirds of the certificate's life: health says so, and the old
    // certificate is presented.
    drop(ca);
    let facts = Leaf::read(&first).expect("a leaf").facts().clone();
    let now = clock.now().expect("a time");
    clock.set(facts.not_before.plus((facts.not_after.0 - facts.not_before.0) * 2 / 3));
    until("the failure is told", async || readiness(&app).await.contains("[+]certificate of web: the last renewal failed: the CA cannot be reached")).await;
    assert_eq!(browser.get("www.test").await.expect("an answer"), first);

    // It comes up: the certificate is renewed under load. No request fails, and a connection that was there goes on.
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, asked, browser) = (Arc::clone(&stop), Arc::clone(&asked), browser.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    browser.get("www.test").await.expect("an answer at any time");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let (mut lasting, _) = browser.connect("www.test").await.expect("a connection");
    ask(&mut lasting, "www.test", "keep-alive").await.expect("an answer");
    let _ca = Ca::start(desk.path()).await;
    until("the certificate is another", async || browser.get("www.test").await.expect("an answer at any time") != first).await;
    clock.set(now);
    ask(&mut lasting, "www.test", "keep-alive").await.expect("an answer over the old connection");
    let so_far = asked.load(Ordering::SeqCst);
    until("requests went on", async || asked.load(Ordering::SeqCst) > so_far + 20).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no request failed");
    }
    let metrics = app.metrics().text();
    assert!(metrics.contains("portcullis_acme_orders_total{listener=\"web\",result=\"ok\"} 2\n"), "{metrics}");
    assert!(metrics.contains("portcullis_public_certificate_not_after_timestamp_seconds{listener=\"web\"}"), "{metrics}");

    // Other names are asked for by a reload, and what there is is presented until they are certified.
    app.reload(Ok(configured(&desk, mirror.address, challenge, "\"www.test\""))).await;
    let one_name_alone = async || {
        browser.get("www.test").await.expect("an answer at any time");
        browser.get("shop.test").await.is_err()
    };
    until("there is a certificate for one name alone", one_name_alone).await;

    // After its end nothing is presented.
    clock.set(facts.not_after.plus(3600));
    until("its end is told", async || readiness(&app).await.contains("[-]certificate of web: expired")).await;
    assert!(browser.get("www.test").await.is_err(), "an expired certificate was presented");
    drop(lasting);
    app.drain().await;
}
