//! HTTP against programs of others: gRPC and WebSocket libraries of Python, nginx, h2load.
#![cfg(feature = "simulator")]

#[path = "support/peers.rs"]
mod peers;
#[path = "support/web.rs"]
mod web;

use std::process::Command;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use web::{Pair, Setup, program, sidecar};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_streams_both_ways_with_its_trailers_and_errors() {
    let Some(python) = peers::python() else { return };
    let (_server, application) = peers::serve(&python, "grpc_echo.py");
    let pair = Pair::start(application, Setup { scheme: "h2c", ..Setup::default() }).await;
    let said = peers::ask(&python, "grpc_echo.py", &["client", &pair.entrance.to_string()]).await;
    assert!(said.contains("status OK rest 0 peer sev-snp; entry=\"web-1\"; policy=\"mesh\""), "{said}");
    assert!(said.contains("trailers [('x-count-bin', b'\\x00\\x01')]"), "{said}");
    assert!(said.contains("failed FAILED_PRECONDITION as you wish: 100%\n") && said.contains("missing UNIMPLEMENTED"), "{said}");
    pair.end().await;
    let pair = Pair::start(application, Setup { scheme: "h2c", policy: "other", mutual: false, ..Setup::default() }).await;
    let said = peers::ask(&python, "grpc_echo.py", &["refused", &pair.entrance.to_string()]).await;
    assert!(said.contains("refused UNAVAILABLE measurement_unknown: "), "{said}");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass_over_both_versions() {
    let Some(python) = peers::python() else { return };
    let (_server, application) = peers::serve(&python, "websocket_echo.py");
    let pair = Pair::start(application, Setup::default()).await;
    let said = peers::ask(&python, "websocket_echo.py", &["client", &pair.entrance.to_string(), "1"]).await;
    assert!(said.contains("peer sev-snp; entry=\"web-1\"") && said.contains("protocol chat\nclosed 1000 count True"), "{said}");
    extended_connect(pair.entrance).await;
    pair.end().await;
}

/// A WebSocket over HTTP/2 from its client on (RFC 8441): a frame of text comes back.
async fn extended_connect(entrance: std::net::SocketAddr) {
    let stream = tokio::net::TcpStream::connect(entrance).await.expect("a listener");
    let handshake = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("HTTP/2");
    let driving = tokio::spawn(connection);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let request = |protocol| {
        hyper::Request::connect(format!("http://{entrance}/chat"))
            .extension(Protocol::from_static(protocol))
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", "chat")
            .body(Empty::new())
            .expect("a request")
    };
    let answer = sender.send_request(request("unheard-of")).await.expect("an answer");
    assert_eq!(answer.status(), 501);
    let mut answer = sender.send_request(request("websocket")).await.expect("an answer");
    if answer.status() != 200 {
        let head = format!("{answer:?}");
        panic!("{head} {:?}", answer.into_body().collect().await.map(http_body_util::Collected::to_bytes));
    }
    assert_eq!((answer.status().as_u16(), answer.headers().get("sec-websocket-accept")), (200, None));
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.expect("a stream"));
    // "hi", masked with zeros; back it comes unmasked, behind the name of the peer.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.expect("written");
    assert_eq!(stream.read_u8().await.expect("a frame"), 0x81);
    let length = match stream.read_u8().await.expect("its length") {
        126 => usize::from(stream.read_u16().await.expect("its length")),
        length => usize::from(length),
    };
    let mut greeting = vec![0; length];
    stream.read_exact(&mut greeting).await.expect("a greeting");
    assert!(greeting.starts_with(b"sev-snp"), "{}", String::from_utf8_lossy(&greeting));
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.expect("an echo");
    assert_eq!(&back, b"\x81\x02hi");
    drop((stream, sender));
    driving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_serves_large_files_whole_and_takes_uploads() {
    let Some(nginx) = peers::installed("nginx") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let address = peers::free();
    let octets: Vec<u8> = (0..16_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(folder.path().join("large"), &octets).expect("written");
    let place = folder.path().display();
    std::fs::write(
        folder.path().join("nginx.conf"),
        format!(
            "daemon off; master_process off; pid {place}/pid; error_log {place}/errors; events {{}} http {{ access_log off; client_max_body_size 0;\n\
             client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
             server {{ listen {address}; root {place}; location /put {{ dav_methods PUT; }} location /echo {{ return 200 \"$http_attested_peer\"; }} }} }}"
        ),
    )
    .expect("written");
    let mut command = Command::new(nginx);
    command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf")).arg("-e").arg(folder.path().join("errors"));
    let _nginx = peers::start(command, address).await;
    let pair = Pair::start(address, Setup::default()).await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let down = folder.path().join("down").display().to_string();
        let run = program("curl", &["-sSf", version, "--max-time", "60", "-o", &down, &format!("http://{}/large", pair.entrance)]).await;
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert!(std::fs::read(&down).is_ok_and(|down| down == octets), "{version}: the file came changed");
        // A range, and a head without a body.
        let ranged = program("curl", &["-sS", version, "-r", "100-199", &format!("http://{}/large", pair.entrance)]).await;
        assert_eq!(ranged.stdout, &octets[100..200]);
        let head = program("curl", &["-sSI", version, &format!("http://{}/large", pair.entrance)]).await;
        assert!(String::from_utf8_lossy(&head.stdout).to_lowercase().contains(&format!("content-length: {}", octets.len())));
        let told = web::curl(&[version, &format!("http://{}/echo", pair.entrance)]).await;
        assert!(told.contains("sev-snp; entry=\"web-1\""), "{told}");
    }
    load(&pair).await;
    pair.end().await;
}

/// Many requests at once, over few connections: every one has its answer.
async fn load(pair: &Pair) {
    let Some(h2load) = peers::installed("h2load") else { return };
    let run = program(&h2load.display().to_string(), &["-n", "2000", "-c", "10", "-m", "50", &format!("http://{}/echo", pair.entrance)]).await;
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    println!("{said}");
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored"), "{said}");
    let metrics = pair.server.metrics().text();
    let handshakes = metrics.lines().find(|line| line.starts_with("portcullis_handshakes_total{listener=\"in\"")).expect("a count");
    // 500 at a time over connections of 100 streams each.
    let made: u32 = handshakes.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number");
    assert!(made <= 8, "{handshakes}");
}

/// Envoy, found where the Python packages are.
fn envoy() -> Option<std::path::PathBuf> {
    let envoy = peers::python()?.with_file_name("envoy");
    if !envoy.is_file() {
        println!("SKIPPED: envoy is not installed (tests/run tools)");
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is left out: envoy");
        return None;
    }
    Some(envoy)
}

/// A listener of Envoy that sends everything to `to`.
fn envoys(name: &str, at: std::net::SocketAddr, to: std::net::SocketAddr, (options, tls): (&str, &str)) -> (String, String) {
    let listener = format!(
        r#"{{ "name": "{name}", "address": {{ "socket_address": {{ "address": "127.0.0.1", "port_value": {} }} }}, "filter_chains": [ {{ "filters": [ {{
             "name": "envoy.filters.network.http_connection_manager", "typed_config": {{
             "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
             "stat_prefix": "{name}", "codec_type": "AUTO", "http2_protocol_options": {{ "allow_connect": true }}, "upgrade_configs": [ {{ "upgrade_type": "websocket" }} ],
             "route_config": {{ "virtual_hosts": [ {{ "name": "all", "domains": ["*"], "routes": [ {{ "match": {{ "prefix": "/" }}, "route": {{ "cluster": "{name}", "timeout": "0s" }} }} ] }} ] }},
             "http_filters": [ {{ "name": "envoy.filters.http.router", "typed_config": {{ "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" }} }} ] }} }} ] }} ] }}"#,
        at.port()
    );
    let cluster = format!(
        r#"{{ "name": "{name}", "connect_timeout": "5s", "load_assignment": {{ "cluster_name": "{name}", "endpoints": [ {{ "lb_endpoints": [ {{ "endpoint": {{
             "address": {{ "socket_address": {{ "address": "127.0.0.1", "port_value": {} }} }} }} }} ] }} ] }},
             "typed_extension_protocol_options": {{ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {{
             "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {{ "{options}": {{}} }} }} }}{tls} }}"#,
        to.port()
    );
    (listener, cluster)
}

/// The client -> Envoy -> the certificate tier over HTTP/2 -> us -> h2c -> Envoy -> applications.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_is_in_front_and_behind() {
    let (Some(envoy), Some(python)) = (envoy(), peers::python()) else { return };
    let (mirror, desk) = (web::Mirror::start().await, web::desk());
    let (_sockets, sockets) = peers::serve(&python, "websocket_echo.py");
    let (front, behind, chat, ours) = (peers::free(), peers::free(), peers::free(), peers::free());
    let tls = r#", "transport_socket": { "name": "tls", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                 "sni": "far.test", "common_tls_context": { "alpn_protocols": ["h2"], "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" } } } }"#;
    let parts = [
        envoys("front", front, ours, ("http2_protocol_options", tls)),
        envoys("behind", behind, mirror.address, ("http_protocol_options", "")),
        envoys("chat", chat, sockets, ("http_protocol_options", "")),
    ];
    let (listeners, clusters): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let config = format!(r#"{{ "static_resources": {{ "listeners": [ {} ], "clusters": [ {} ] }} }}"#, listeners.join(","), clusters.join(","));
    std::fs::write(desk.path().join("envoy.json"), config).expect("written");
    let mut command = Command::new(envoy);
    command.arg("-c").arg(desk.path().join("envoy.json")).args(["--disable-hot-restart", "--concurrency", "1", "-l", "error"]);
    let _envoy = peers::start_slow(command, front).await;
    let server = sidecar(
        &desk,
        &format!(
            "[[upstream]]\nname = \"app\"\ntargets = [\"h2c://{behind}\"]\n[[upstream]]\nname = \"chat\"\ntargets = [\"http://{chat}\"]\n\
             [[listener]]\nname = \"in\"\nbind = \"{ours}\"\nprotocol = \"http\"\ncertificate = \"attested\"\nfreshness = \"certificate\"\n\
             insecure_accept_replay_risk = true\nupstream = \"app\"\nroute = [ {{ paths = [\"/chat\"], upstream = \"chat\" }} ]\n"
        ),
    )
    .await;
    let url = format!("http://{front}/x");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = web::curl(&[version, "-H", "Attested-Peer: forged", "-H", "X-Forwarded-Client-Cert: forged", &url]).await;
        assert!(answer.lines().next().is_some_and(|line| line.contains(" 200")), "{version}: {answer}");
        let head = mirror.last();
        assert!(web::field(&head, "attested-peer").is_none() && web::field(&head, "x-forwarded-client-cert").is_none(), "{head}");
        assert!(web::field(&head, "via").is_some_and(|via| via.contains("2 portcullis-")), "{head}");
    }
    // A large body up, and trailers down.
    let large = desk.path().join("large");
    std::fs::write(&large, vec![7; 5 << 20]).expect("written");
    let answer = web::curl(&["--http2-prior-knowledge", "-T", &large.display().to_string(), &url]).await;
    assert!(answer.to_lowercase().contains(&format!("x-body: {}", 5 << 20)), "{answer}");
    // A WebSocket: over HTTP/1.1 to Envoy, as extended CONNECT to us, over HTTP/1.1 to Envoy again.
    let said = peers::ask(&python, "websocket_echo.py", &["client", &front.to_string(), "1"]).await;
    assert!(said.contains("peer nobody protocol chat\nclosed 1000 count True"), "{said}");
    server.drain().await;
}

/// What a listener leads to is asked over the certificate tier by clients that know nothing of us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_reaches_a_certificate_listener_over_both_versions() {
    let mirror = web::Mirror::start().await;
    let desk = web::desk();
    let server = sidecar(
        &desk,
        &format!(
            "[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
             certificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\nupstream = \"app\"\n",
            mirror.address
        ),
    )
    .await;
    let url = format!("https://{}/x", server.tcp_address("in").expect("an address"));
    for (version, shown) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200"), ("--no-alpn", "HTTP/1.1 200")] {
        let answer = web::curl(&["-k", version, &url]).await;
        assert!(answer.starts_with(shown), "{version}: {answer}");
    }
    assert!(web::field(&mirror.last(), "attested-peer").is_none());
    server.drain().await;
}
