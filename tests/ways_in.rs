//! Applications that say where they want to go: through CONNECT, as a forward proxy, and SOCKS5, as unmodified clients do it.
#![cfg(feature = "simulator")]

#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::app::App;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use web::{Mirror, PATIENCE, curl, desk, field, say, sidecar};

/// A server sidecar in front of an application: at `raw` for bytes, at `web` for requests; and a client sidecar that leads
/// applications there.
struct Ways {
    server: App,
    client: App,
    desk: tempfile::TempDir,
}

impl Ways {
    /// `listener` is told how a listener of the client sidecar goes on.
    async fn start(application: SocketAddr, listeners: &str) -> Self {
        let desk = desk();
        std::fs::write(desk.path().join("users"), "# applications\nme:a key: with colons\n").expect("written");
        let server = sidecar(
            &desk,
            &format!(
                "[[upstream]]\nname = \"app\"\ntargets = [\"tcp://{application}\"]\n[[upstream]]\nname = \"site\"\ntargets = [\"http://{application}\"]\n\
                 [[listener]]\nname = \"raw\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nmultiplex = true\nupstream = \"app\"\n\
                 [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nprotocol = \"http\"\nupstream = \"site\"\n"
            ),
        )
        .await;
        let (raw, site) = (server.tcp_address("raw").expect("an address"), server.tcp_address("web").expect("an address"));
        let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let upstream = |name: &str, address: SocketAddr, policy: &str| {
            format!("[[upstream]]\nname = \"{name}\"\ntargets = [\"tls://{address}\"]\nserver_name = \"far.test\"\nattested = {{ policy = \"{policy}\" }}\n")
        };
        let upstreams = [
            upstream("raw", raw, "mesh"),
            upstream("web", site, "mesh"),
            upstream("foe", raw, "other"),
            upstream("knave", site, "other"),
            upstream("gone", nobody, "mesh"),
            upstream("shared", raw, "mesh") + "multiplex = true\n",
        ];
        let client = sidecar(&desk, &format!("{}{listeners}", upstreams.concat())).await;
        Self { server, client, desk }
    }

    fn entrance(&self) -> SocketAddr {
        self.client.tcp_address("out").expect("an address")
    }

    async fn end(self) {
        let (client, server) = tokio::join!(self.client.drain(), self.server.drain());
        assert_eq!((client.cut, server.cut), (0, 0), "connections had to be cut");
        drop(self.desk);
    }
}

const PROXY: &str = r#"[[listener]]
name = "out"
bind = "127.0.0.1:0"
protocol = "http"
destination = [
  { to = "shop.test:443", upstream = "raw" },
  { to = "plain.test", upstream = "raw" },
  { to = "10.9.0.0/16:80", upstream = "raw" },
  { to = "foe.test", upstream = "foe" },
  { to = "gone.test", upstream = "gone" },
  { to = "shared.test", upstream = "shared" },
]
route = [{ host = "site.test", upstream = "web" }, { host = "rogue.test", upstream = "knave" }]
"#;

fn socks(more: &str) -> String {
    PROXY.replace("\"http\"", "\"socks5\"").split("route").next().unwrap_or_default().to_owned() + more
}

/// A service that speaks TLS itself, in front of `behind`, with a certificate for `name`; gives the certificate as PEM.
async fn https(behind: SocketAddr, name: &str) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let (Ok(mut near), Ok(mut far)) = (acceptor.accept(stream).await, TcpStream::connect(behind).await) else { return };
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, made.cert.pem())
}

/// curl as an application that knows nothing but its environment.
async fn environed(variable: &'static str, proxy: String, arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new("curl");
    command.args(["-sS", "-i", "--max-time", "20"]).args(arguments).env(variable, proxy).stdin(std::process::Stdio::null());
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("curl is to be run")
}

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_with_https_proxy_set_reaches_an_attested_service_with_its_own_tls_to_the_end() {
    let mirror = Mirror::start().await;
    let (service, certificate) = https(mirror.address, "shop.test").await;
    let ways = Ways::start(service, PROXY).await;
    let trusted = ways.desk.path().join("shop.pem");
    std::fs::write(&trusted, certificate).expect("written");
    let trusted = trusted.display().to_string();
    let proxy = format!("http://{}", ways.entrance());
    let answer = environed("HTTPS_PROXY", proxy.clone(), &["--cacert", &trusted, "https://shop.test/deep"]).await;
    assert!(answer.status.success() && text(&answer).contains("200 OK"), "{}", text(&answer));
    assert!(mirror.last().starts_with("GET /deep HTTP/1.1\r\nHost: shop.test\r\n"), "{}", mirror.last());
    // The service's own certificate is what the application judged: without it there is no connection.
    let unknown = environed("HTTPS_PROXY", proxy, &["https://shop.test/deep"]).await;
    assert!(!unknown.status.success() && mirror.heads().len() == 1, "{}", text(&unknown));
    let metrics = ways.client.metrics().text();
    assert!(metrics.contains("portcullis_handshakes_total{listener=\"out\",direction=\"outbound\",result=\"ok\"} 2\n"), "{metrics}");
    ways.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_carry_plain_bytes_and_lead_only_where_the_table_does() {
    let mirror = Mirror::start().await;
    let ways = Ways::start(mirror.address, PROXY).await;
    let proxy = format!("http://{}", ways.entrance());
    for url in ["http://plain.test/a", "http://plain.test:8080/a", "http://10.9.1.2/a", "http://shop.test:443/a"] {
        let answer = curl(&["-p", "-x", &proxy, url]).await;
        assert!(answer.contains("HTTP/1.1 200 OK\r\nX-Body"), "{url}: {answer}");
        assert!(mirror.last().starts_with("GET /a HTTP/1.1\r\n") && field(&mirror.last(), "via").is_none(), "{}", mirror.last());
    }
    let seen = (mirror.connections(), ways.server.metrics().text().contains("connections_opened_total{listener=\"raw\",direction=\"inbound\"} 4\n"));
    assert_eq!(seen, (4, true));
    // What the table does not have is not dialled, whatever would answer there.
    let direct = mirror.address.to_string();
    for target in ["shop.test:80", "10.10.1.2:80", "10.9.1.2:81", "x.plain.test:80", "evil.test:443", "localhost:80", &direct, "[::1]:443"] {
        let answer = say(ways.entrance(), format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{target}: {answer}");
        assert_eq!(field(&answer, "proxy-status").as_deref(), Some("portcullis; error=http_request_denied; details=\"destination_unknown\""), "{answer}");
        assert!(answer.contains("\"reason\":\"destination_unknown\"") && answer.contains(target), "{answer}");
    }
    for target in ["shop.test", "shop.test:0", "shop.test:x", "shop..test:443", "http://shop.test:443/", "/"] {
        let answer = say(ways.entrance(), format!("CONNECT {target} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
    }
    // Nothing that came before the answer gets into a tunnel.
    for early in ["\x16\x03\x01\x00\x05early", "half a line"] {
        let answer = say(ways.entrance(), format!("CONNECT plain.test:80 HTTP/1.1\r\nHost: plain.test:80\r\n\r\n{early}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{early:?}: {answer}");
    }
    assert_eq!(mirror.connections(), 4);
    let metrics = ways.client.metrics().text();
    assert!(metrics.contains("refused_total{listener=\"out\",side=\"downstream\",reason=\"destination_unknown\"} 8\n"), "{metrics}");
    ways.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tunnel_is_granted_before_the_verdict() {
    let mirror = Mirror::start().await;
    let ways = Ways::start(mirror.address, PROXY).await;
    let connect =
        async |target: &str| say(ways.entrance(), format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes()).await;
    let refused = connect("foe.test:443").await;
    assert!(refused.starts_with("HTTP/1.1 502 "), "{refused}");
    assert_eq!(field(&refused, "proxy-status").as_deref(), Some("portcullis; error=tls_certificate_error; details=\"measurement_unknown\""));
    let gone = connect("gone.test:443").await;
    assert!(gone.starts_with("HTTP/1.1 503 ") && gone.contains("destination_unavailable"), "{gone}");
    // An application that sees it so: curl says what the proxy said, and sends nothing of its own.
    let output = environed("HTTPS_PROXY", format!("http://{}", ways.entrance()), &["https://foe.test/"]).await;
    assert!(!output.status.success() && text(&output).contains("502"), "{}", text(&output));
    assert_eq!(mirror.connections(), 0, "the application behind saw a connection of what was refused");
    ways.end().await;

    // A far end that never says anything: no answer but that of the deadline.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let desk = desk();
    let client = sidecar(
        &desk,
        &format!(
            "[[upstream]]\nname = \"raw\"\ntargets = [\"tls://{}\"]\nserver_name = \"far.test\"\nattested = {{ policy = \"mesh\" }}\n\
             [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nlimits = {{ handshake = \"300ms\" }}\n\
             destination = [{{ to = \"a.test\", upstream = \"raw\" }}]\n",
            silent.local_addr().expect("an address")
        ),
    )
    .await;
    let answer = say(client.tcp_address("out").expect("an address"), b"CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("details=\"timeout\""), "{answer}");
    client.drain().await;
}

/// What was meant for a tunnel is no request, and what is no tunnel is not told as one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_smuggled_through_a_connect() {
    let mirror = Mirror::start().await;
    let ways = Ways::start(mirror.address, PROXY).await;
    let hidden = "GET http://site.test/hidden HTTP/1.1\r\nHost: site.test\r\n\r\n";
    // Behind a refused CONNECT, behind one that would be granted, and as its body; a whole request each time.
    for (target, more, status) in [
        ("evil.test:443", "", 403),
        ("foe.test:443", "", 400),
        ("shop.test", "", 400),
        ("plain.test:80", "", 400),
        ("plain.test:80", "Content-Length: 5\r\n", 400),
        ("plain.test:80", "Transfer-Encoding: chunked\r\n", 400),
    ] {
        let body = if more.starts_with('T') { "0\r\n\r\n" } else { "" };
        let answer = say(ways.entrance(), format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{more}\r\n{body}{hidden}").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target} {more:?}: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() == 1 && field(&answer, "connection").as_deref() == Some("close"), "{target} {more:?}: {answer}");
    }
    // gRPC has 200 for refusals.
    for target in ["evil.test:443", "foe.test:443"] {
        let answer = say(ways.entrance(), format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nContent-Type: application/grpc\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") || answer.starts_with("HTTP/1.1 502 "), "{target}: {answer}");
    }
    assert_eq!((mirror.connections(), mirror.heads().len()), (0, 0), "{:?}", mirror.heads());
    ways.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_absolute_form_go_on_over_attested_tls() {
    let mirror = Mirror::start().await;
    let ways = Ways::start(mirror.address, PROXY).await;
    let proxy = format!("http://{}", ways.entrance());
    let answer = environed("http_proxy", proxy.clone(), &["-d", "hello", "http://site.test/some?q=1"]).await;
    assert!(text(&answer).contains("200 OK"), "{}", text(&answer));
    let head = mirror.last();
    assert!(head.starts_with("POST /some?q=1 HTTP/1.1\r\n") && field(&head, "host").as_deref() == Some("site.test"), "{head}");
    assert!(field(&head, "proxy-connection").is_none() && field(&head, "via").is_some(), "{head}");
    for (url, status, reason) in [
        ("http://elsewhere.test/", "403", "error=http_request_denied; details=\"destination_unknown\""),
        ("http://rogue.test/", "502", "error=tls_certificate_error; details=\"measurement_unknown\""),
    ] {
        let answer = curl(&["-x", &proxy, url]).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(field(&answer, "proxy-status").is_some_and(|told| told.ends_with(reason)), "{answer}");
    }
    assert_eq!(mirror.heads().len(), 1);
    ways.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_open_over_http_2_too() {
    let mirror = Mirror::start().await;
    let ways = Ways::start(mirror.address, PROXY).await;
    let stream = TcpStream::connect(ways.entrance()).await.expect("a listener");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let running = tokio::spawn(connection);
    let connect = |target: &str| hyper::Request::connect(target).body(http_body_util::Empty::<hyper::body::Bytes>::new()).expect("a request");
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        let answer = sender.send_request(connect("plain.test:80")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        tunnels.push(TokioIo::new(hyper::upgrade::on(answer).await.expect("a tunnel")));
    }
    for (number, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.write_all(format!("GET /{number} HTTP/1.1\r\nHost: plain.test\r\n\r\n").as_bytes()).await.expect("written");
        let mut answer = vec![0; 15];
        tokio::time::timeout(PATIENCE, tunnel.read_exact(&mut answer)).await.expect("in time").expect("an answer");
        assert_eq!(answer, b"HTTP/1.1 200 OK");
    }
    assert_eq!(sender.send_request(connect("evil.test:80")).await.expect("an answer").status(), 403);
    assert_eq!(mirror.connections(), 3);
    drop((tunnels, sender));
    running.abort();
    ways.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_without_destinations_is_no_proxy() {
    let mirror = Mirror::start().await;
    let without = PROXY.split("destination").next().unwrap_or_default().to_owned() + "upstream = \"web\"\n";
    let ways = Ways::start(mirror.address, &without).await;
    let answer = say(ways.entrance(), b"CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(mirror.connections(), 0);
    ways.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socks_clients_reach_an_attested_service_by_name_and_address() {
    let mirror = Mirror::start().await;
    let ways = Ways::start(mirror.address, &socks("")).await;
    let proxy = ways.entrance().to_string();
    for arguments in [["--socks5-hostname", &proxy, "http://plain.test/a"], ["--socks5", &proxy, "http://10.9.1.2/a"]] {
        let answer = curl(&arguments).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(mirror.last().starts_with("GET /a HTTP/1.1\r\n"), "{}", mirror.last());
    }
    let answer = environed("ALL_PROXY", format!("socks5h://{proxy}"), &["http://plain.test/b"]).await;
    assert!(text(&answer).starts_with("HTTP/1.1 200 OK"), "{}", text(&answer));
    let metrics = ways.client.metrics().text();
    assert!(metrics.contains("portcullis_handshakes_total{listener=\"out\",direction=\"outbound\",result=\"ok\"} 3\n"), "{metrics}");
    ways.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_and_socks_connections_share_sessions_where_the_upstream_does() {
    let mirror = Mirror::start().await;
    for (listener, scheme) in [(PROXY.to_owned(), "http"), (socks(""), "socks5h")] {
        let ways = Ways::start(mirror.address, &listener).await;
        let proxy = format!("{scheme}://{}", ways.entrance());
        for _ in 0..3 {
            let answer = curl(&["-p", "-x", &proxy, "http://shared.test/a"]).await;
            assert!(answer.contains("HTTP/1.1 200 OK\r\nX-Body"), "{answer}");
        }
        let metrics = ways.client.metrics().text();
        assert!(metrics.contains("portcullis_handshakes_total{listener=\"out\",direction=\"outbound\",result=\"ok\"} 1\n"), "{scheme}: {metrics}");
        ways.end().await;
    }
    assert_eq!(mirror.connections(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_pass_untouched_by_their_server_name() {
    let (plain, behind) = (Mirror::start().await, Mirror::start().await);
    let (one, first) = https(plain.address, "one.test").await;
    let (two, second) = https(behind.address, "two.test").await;
    let ways = Ways::start(two, &format!(
        "[[upstream]]\nname = \"one\"\ntargets = [\"tcp://{one}\"]\n[[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"tls-passthrough\"\n\
         destination = [{{ to = \"one.test\", upstream = \"one\" }}, {{ to = \"*.two.test\", upstream = \"raw\" }}, {{ to = \"two.test\", upstream = \"raw\" }}]\n"
    )).await;
    let entrance = ways.entrance();
    let file = ways.desk.path().join("both.pem");
    std::fs::write(&file, first + &second).expect("written");
    let ask = async |name: &str| {
        let (pem, resolve, url) =
            (file.display().to_string(), format!("{name}:{}:127.0.0.1", entrance.port()), format!("https://{name}:{}/deep", entrance.port()));
        web::program("curl", &["-sS", "-i", "--max-time", "20", "--cacert", &pem, "--resolve", &resolve, &url]).await
    };
    // To a plain service, and through an attested session to one behind a far sidecar: each sees the application's own TLS.
    for (name, mirror) in [("one.test", &plain), ("two.test", &behind)] {
        let answer = ask(name).await;
        assert!(text(&answer).starts_with("HTTP/1.1 200 OK"), "{name}: {}", text(&answer));
        assert!(mirror.last().starts_with("GET /deep HTTP/1.1\r\n"), "{}", mirror.last());
    }
    let metrics = ways.client.metrics().text();
    assert!(metrics.contains("portcullis_handshakes_total{listener=\"out\",direction=\"outbound\",result=\"ok\"} 1\n"), "{metrics}");
    // Names that nobody listed, none, and what is no TLS.
    assert!(!ask("three.test").await.status.success());
    let bare = format!("https://{entrance}/");
    assert!(!web::program("curl", &["-sk", "--max-time", "20", &bare]).await.status.success(), "no name");
    assert_eq!(say(entrance, b"GET / HTTP/1.1\r\nHost: one.test\r\n\r\n").await, "");
    assert_eq!((plain.connections(), behind.connections()), (1, 1));
    let metrics = ways.client.metrics().text();
    for (reason, count) in [("destination_unknown", 1), ("request_malformed", 2)] {
        assert!(metrics.contains(&format!("refused_total{{listener=\"out\",side=\"downstream\",reason=\"{reason}\"}} {count}\n")), "{reason}: {metrics}");
    }
    ways.end().await;
}

/// One client would otherwise take every connection that there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_passes_back_to_its_own_listener_goes_round_once() {
    goes_round_once("", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_passes_back_goes_round_once_whoever_is_announced_with_it() {
    goes_round_once("proxy_protocol_from = [\"127.0.0.1\"]\nproxy_protocol_to = \"v2\"\n", &["--haproxy-protocol"]).await;
}

/// `more`: how the listener goes on, and how its client says that.
async fn goes_round_once(more: &str, arguments: &[&str]) {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
    let desk = desk();
    let front = sidecar(
        &desk,
        &format!(
            "[[upstream]]\nname = \"itself\"\ntargets = [\"tcp://127.0.0.1:{port}\"]\n[[listener]]\nname = \"out\"\nbind = \"127.0.0.1:{port}\"\n\
             protocol = \"tls-passthrough\"\nlimits = {{ connections = 50 }}\ndestination = [{{ to = \"round.test\", upstream = \"itself\" }}]\n{more}"
        ),
    )
    .await;
    let (resolve, url) = (format!("round.test:{port}:127.0.0.1"), format!("https://round.test:{port}/"));
    let arguments = [&["-sk", "--max-time", "5", "--resolve", &resolve, &url], arguments].concat();
    assert!(!web::program("curl", &arguments).await.status.success());
    let metrics = front.metrics().text();
    assert!(metrics.contains("connections_opened_total{listener=\"out\",direction=\"outbound\"} 2\n"), "{metrics}");
    assert!(metrics.contains("refused_total{listener=\"out\",side=\"downstream\",reason=\"proxy_loop\"} 1\n"), "{metrics}");
    front.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_an_attested_listener_reach_the_upstream_of_the_name_they_ask_for() {
    let (one, two) = (Mirror::start().await, Mirror::start().await);
    let desk = desk();
    let server = sidecar(
        &desk,
        &format!(
            "[[upstream]]\nname = \"one\"\ntargets = [\"tcp://{}\"]\n[[upstream]]\nname = \"two\"\ntargets = [\"tcp://{}\"]\n\
             [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\n\
             destination = [{{ to = \"one.test\", upstream = \"one\" }}, {{ to = \"two.test\", upstream = \"two\" }}]\n",
            one.address, two.address
        ),
    )
    .await;
    let port = server.tcp_address("in").expect("an address").port();
    let ask = async |name: &str| {
        let (resolve, url) = (format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}/"));
        web::program("curl", &["-sSk", "-i", "--max-time", "20", "--resolve", &resolve, &url]).await
    };
    for (name, seen) in [("one.test", (1, 0)), ("two.test", (1, 1))] {
        let answer = ask(name).await;
        assert!(text(&answer).starts_with("HTTP/1.1 200 OK"), "{}", text(&answer));
        assert_eq!((one.connections(), two.connections()), seen);
    }
    for name in ["three.test", "127.0.0.1"] {
        assert!(!ask(name).await.status.success(), "{name}");
    }
    assert_eq!((one.connections(), two.connections()), (1, 1));
    server.drain().await;
}

/// A name as SOCKS5 has it, with a port.
fn asking(name: &str, port: u16) -> Vec<u8> {
    [b"\x05\x01\x00\x03", &[u8::try_from(name.len()).expect("short")][..], name.as_bytes(), &port.to_be_bytes()].concat()
}

/// Says both messages of a client at once; gives the code of the reply, if one came.
async fn code(address: SocketAddr, request: &[u8]) -> Option<u8> {
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    stream.write_all(&[&b"\x05\x01\x00"[..], request].concat()).await.expect("written");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
    assert!(answer.len() == 12 || answer == b"\x05\xff" || answer.len() < 3, "{answer:02x?}");
    answer.get(3).copied()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_socks_client_may_not_have_is_told_by_the_codes_of_the_rfc() {
    let mirror = Mirror::start().await;
    let ways = Ways::start(mirror.address, &socks("limits = { handshake = \"1s\" }\n")).await;
    let entrance = ways.entrance();
    let direct = [&b"\x05\x01\x00\x01\x7f\x00\x00\x01"[..], &mirror.address.port().to_be_bytes()].concat();
    for (what, request, wanted) in [
        ("refused evidence", asking("foe.test", 80), 2),
        ("no such destination", asking("evil.test", 80), 2),
        ("another port", asking("shop.test", 80), 2),
        ("an address of this machine", direct, 2),
        ("nobody there", asking("gone.test", 80), 5),
        ("BIND", [b"\x05\x02\x00\x01\x0a\x09\x00\x01\x00\x50".to_vec()].concat(), 7),
        ("UDP ASSOCIATE", b"\x05\x03\x00\x01\x0a\x09\x00\x01\x00\x50".to_vec(), 7),
        ("an unknown type", b"\x05\x01\x00\x02\x0a\x09\x00\x01\x00\x50".to_vec(), 8),
        ("no name", asking("a b", 80), 1),
    ] {
        assert_eq!(code(entrance, &request).await, Some(wanted), "{what}");
    }
    // Other protocols, and nothing, are no wish; and no octet of an answer but "no method" is owed to them.
    for (what, octets, answer) in [
        ("HTTP", &b"GET http://plain.test/ HTTP/1.1\r\n\r\n"[..], &b""[..]),
        ("SOCKS4", b"\x04\x01\x00\x50\x0a\x09\x00\x01\x00", b""),
        ("no method that is known", b"\x05\x01\x02", b"\x05\xff"),
        ("half a message", b"\x05\x01\x00\x05\x01", b"\x05\x00"),
        ("nothing", b"", b""),
    ] {
        let mut stream = TcpStream::connect(entrance).await.expect("a listener");
        stream.write_all(octets).await.expect("written");
        let mut heard = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("an end");
        assert_eq!(heard, answer, "{what}");
    }
    assert_eq!(mirror.connections(), 0, "the application behind saw a connection of what was refused");
    let metrics = ways.client.metrics().text();
    for (side, reason) in
        [("upstream", "measurement_unknown"), ("downstream", "destination_unknown"), ("downstream", "request_malformed"), ("downstream", "timeout")]
    {
        assert!(metrics.contains(&format!("refused_total{{listener=\"out\",side=\"{side}\",reason=\"{reason}\"}}")), "{reason}: {metrics}");
    }
    ways.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socks_accounts_are_asked_for_where_there_are_some() {
    let mirror = Mirror::start().await;
    let ways = Ways::start(mirror.address, &socks("users_file = \"users\"\n")).await;
    let proxy = ways.entrance().to_string();
    let url = "http://plain.test/a";
    let answer = curl(&["--socks5-hostname", &proxy, "-U", "me:a key: with colons", url]).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    for account in ["me:a key", "me:A key: with colons", "you:a key: with colons", "m:ea key: with colons"] {
        let output = web::program("curl", &["-sS", "--socks5-hostname", &proxy, "-U", account, url]).await;
        assert!(!output.status.success(), "{account}: {}", text(&output));
    }
    assert_eq!(heard_after(ways.entrance(), b"\x05\x01\x00").await, b"\x05\xff");
    assert_eq!(mirror.connections(), 1);
    let metrics = ways.client.metrics().text();
    assert!(metrics.contains("refused_total{listener=\"out\",side=\"downstream\",reason=\"account_unknown\"} 4\n"), "{metrics}");
    ways.end().await;
}

async fn heard_after(address: SocketAddr, octets: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    stream.write_all(octets).await.expect("written");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
    answer
}
