//! Where requests go, who may make them, and what one client may take: routes, `allow`, targets, limits, floods.
#![cfg(feature = "simulator")]

#[path = "support/lines.rs"]
mod lines;
#[path = "support/sidecar.rs"]
mod peer;
#[path = "support/told.rs"]
mod told;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use told::told;
use web::{Mirror, Pair, Setup, curl, desk, field, heard, say, say_http2, sidecar};

/// An attested listener of the certificate tier: clients that know nothing of us get at what is behind.
async fn front(desk: &tempfile::TempDir, upstreams: &str, listener: &str) -> (portcullis::app::App, SocketAddr) {
    let text = format!(
        "{upstreams}\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"attested\"\n\
         freshness = \"certificate\"\ninsecure_accept_replay_risk = true\n{listener}\n"
    );
    let app = sidecar(desk, &text).await;
    let address = app.tcp_address("in").expect("an address");
    (app, address)
}

fn upstream(name: &str, targets: &[SocketAddr], more: &str) -> String {
    let targets = targets.iter().map(|target| format!("\"http://{target}\"")).collect::<Vec<_>>().join(", ");
    format!("[[upstream]]\nname = \"{name}\"\ntargets = [{targets}]\n{more}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_route_that_fits_decides_and_no_route_denies() {
    let (shop, bills) = (Mirror::start().await, Mirror::start().await);
    let desk = desk();
    let upstreams = upstream("shop", &[shop.address], "") + &upstream("bills", &[bills.address], "");
    let routes = "route = [ { host = \"old.test\", redirect = \"https\" }, { host = \"*.bills.test\", upstream = \"bills\" },\n\
                  { paths = [\"/bills/*\"], methods = [\"GET\", \"HEAD\"], upstream = \"bills\" }, { host = \"shop.test\", upstream = \"shop\" } ]\ndefault = \"deny\"";
    let (app, address) = front(&desk, &upstreams, routes).await;
    let ask = async |host: &str, path: &str, more: &[&str]| {
        let url = format!("https://{host}:{}{path}", address.port());
        let resolve = format!("{host}:{}:127.0.0.1", address.port());
        curl(&[&["-k", "--resolve", &resolve, &url], more].concat()).await
    };
    for (host, path, more, shown, reached) in [
        ("shop.test", "/", &[][..], " 200", Some((1, 0))),
        ("a.bills.test", "/", &[], " 200", Some((1, 1))),
        ("bills.test", "/", &[], " 404", None),
        ("shop.test", "/bills/7", &[], " 200", Some((1, 2))),
        ("shop.test", "/bills/7", &["-d", "x"], " 200", Some((2, 2))),
        ("other.test", "/", &[], " 404", None),
        ("other.test", "/", &["-H", "Host: another.test"], " 421", None),
        ("shop.test", "/", &["-H", "Host: SHOP.test:99"], " 200", Some((3, 2))),
    ] {
        let answer = ask(host, path, more).await;
        assert!(answer.lines().next().is_some_and(|line| line.contains(shown)), "{host}{path} {more:?}: {answer}");
        if let Some(reached) = reached {
            assert_eq!((shop.heads().len(), bills.heads().len()), reached, "{host}{path} {more:?}");
        }
    }
    let answer = ask("old.test", "/a?b=c", &[]).await;
    assert!(answer.contains(" 308") && answer.to_lowercase().contains("location: https://old.test/a?b=c"), "{answer}");
    app.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_call_what_its_entry_is_allowed_and_nothing_else() {
    let mirror = Mirror::start().await;
    let rules = "allow = [ { entry = \"ops\", paths = [\"/*\"] }, { entry = \"web-*\", methods = [\"GET\"], paths = [\"/api/*\", \"/exact\"] } ]";
    let pair = Pair::start(mirror.address, Setup { server: rules, ..Setup::default() }).await;
    for (path, more, status) in [
        ("/api/x", &[][..], " 200"),
        ("/exact", &[], " 200"),
        ("/api/x", &["-d", "x"], " 403"),
        // Rack, Express, Symfony and ASP.NET would take it for the method.
        ("/api/x", &["-H", "X-HTTP-Method-Override: DELETE"], " 400"),
        ("/api/x", &["-H", "x_http_method-override: DELETE"], " 400"),
        ("/api/x", &["-H", "X-Method-Override: DELETE"], " 400"),
        ("/api/x", &["-H", "X-HTTP-Method: DELETE"], " 400"),
        ("/exactly", &[], " 403"),
        ("/", &[], " 403"),
        ("/api", &[], " 403"),
        ("/API/x", &[], " 403"),
        // What the application might take for another path is judged by nobody.
        ("/public/../api/x", &["--path-as-is"], " 400"),
        ("/api/../metrics", &["--path-as-is"], " 400"),
        ("/api/%2e%2e/metrics", &["--path-as-is"], " 400"),
        ("/api/..%2Fmetrics", &["--path-as-is"], " 400"),
        ("/api/..%5cmetrics", &["--path-as-is"], " 400"),
        ("/api/..;/metrics", &["--path-as-is"], " 400"),
    ] {
        let answer = curl(&[&[format!("http://{}{path}", pair.entrance).as_str()], more].concat()).await;
        assert!(answer.lines().next().is_some_and(|line| line.contains(status)), "{path} {more:?}: {answer}");
    }
    assert_eq!(mirror.heads().len(), 2);
    pair.end().await;
}

/// Where no path decides anything, what is between a client and its application is theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_nobody_judges_passes_as_it_is() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { mutual: false, ..Setup::default() }).await;
    assert!(curl(&["--path-as-is", &format!("http://{}/a/../b", pair.entrance)]).await.contains(" 200"));
    assert!(mirror.last().starts_with("GET /a/../b HTTP/1.1\r\n"), "{}", mirror.last());
    pair.end().await;
}

/// A WebSocket comes as CONNECT in HTTP/2 and as GET in HTTP/1.1, and goes on as GET: it is judged as that, and not by how it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_routed_and_allowed_as_the_get_that_it_becomes() {
    let mirror = Mirror::start().await;
    let routes = "route = [ { methods = [\"GET\"], upstream = \"app\" } ]\nallow = [ { entry = \"web-1\", methods = [\"GET\"] } ]";
    let pair = Pair::start(mirror.address, Setup { server: routes, ..Setup::default() }).await;
    let fields =
        [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("sec-websocket-version", "13")];
    say_http2(pair.entrance, &fields, Some(b"")).await;
    let head = mirror.last();
    assert!(head.starts_with("GET / HTTP/1.1\r\n") && field(&head, "upgrade").is_some(), "{head}");
    pair.end().await;
}

/// One handshake serves all who wait for it, and so does its failure: none waits for those before it, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_does_not_answer_is_waited_for_once() {
    // Its queue is full: Linux answers no further connection.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let full = socket.listen(0).expect("listening");
    let target = full.local_addr().expect("an address");
    let mut queue = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(target)).await {
        queue.push(stream);
        assert!(queue.len() < 16, "a queue that has no end");
    }
    let desk = desk();
    let upstreams = format!("[[upstream]]\nname = \"app\"\ntargets = [\"h2c://{target}\"]\nconnect_timeout = \"2s\"\n");
    let (app, address) = front(&desk, &upstreams, "upstream = \"app\"").await;
    let asked: Vec<_> = (0..10).map(|_| tokio::spawn(async move { curl(&["-k", &format!("https://{address}/")]).await })).collect();
    for answer in asked {
        let answer = answer.await.expect("an answer");
        assert!(answer.contains(" 503") || answer.contains(" 504"), "{answer}");
    }
    let metrics = app.metrics().text();
    let tries = metrics.lines().find_map(|line| line.strip_prefix("portcullis_upstream_connects_total{upstream=\"app\",result=\"unreachable\"} "));
    assert!(tries.is_some_and(|tries| tries.parse::<u32>().expect("a number") <= 4), "{metrics}");
    app.drain().await;
}

/// Many clients' requests share a connection between sidecars. Those who do not read their answers, and applications that do not read
/// what they are sent, leave the others their windows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_still_leaves_the_others_of_a_shared_connection_theirs() {
    let (application, moved) = standing().await;
    let pair = Pair::start(application, Setup { mutual: false, ..Setup::default() }).await;
    let mut still = Vec::new();
    for path in ["/large", "/deaf"] {
        for _ in 0..24 {
            let mut stream = TcpStream::connect(pair.entrance).await.expect("a listener");
            let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("written");
            still.push(tokio::spawn(async move {
                while path == "/deaf" && stream.write_all(&[7; 65536]).await.is_ok() {}
                std::future::pending::<()>().await;
                drop(stream);
            }));
        }
        // Until everything that can be on its way is.
        let mut before = u64::MAX;
        while moved.load(Ordering::SeqCst) != before {
            before = moved.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let url = format!("http://{}/", pair.entrance);
    let answer = curl(&[&url]).await;
    assert!(answer.contains(" 200") && answer.ends_with("ok"), "{answer}");
    let answer = curl(&["-H", "Expect:", "-d", &"x".repeat(100_000), &url]).await;
    assert!(answer.contains(" 200") && answer.ends_with("ok"), "{answer}");
    told(pair.server.metrics(), "portcullis_handshakes_total{listener=\"in\",direction=\"inbound\",result=\"ok\"} 1\n").await;
    still.iter().for_each(tokio::task::JoinHandle::abort);
    pair.client.drain().await;
    pair.server.drain().await;
}

/// A handshake may cost the far end a quote: clients that do not wait for it do not have it made again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_goes_on_when_who_wanted_it_is_gone() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { mutual: false, ..Setup::default() }).await;
    let mut stream = TcpStream::connect(pair.entrance).await.expect("a listener");
    stream.set_nodelay(true).expect("set");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("written");
    for number in 0..40_u8 {
        // :method GET, :scheme http, :path /, :authority a; then RST_STREAM (CANCEL), each a little later.
        let id = [0, 0, 0, 2 * number + 1];
        stream.write_all(&[&[0, 0, 6, 1, 5], &id[..], &[0x82, 0x86, 0x84, 0x41, 0x01, b'a']].concat()).await.expect("written");
        // Shorter than the runtime's own timer can be.
        std::thread::sleep(Duration::from_micros(100 * u64::from(number)));
        stream.write_all(&[&[0, 0, 4, 3, 0], &id[..], &[0, 0, 0, 8]].concat()).await.expect("written");
    }
    drop(stream);
    assert!(curl(&[&format!("http://{}/", pair.entrance)]).await.contains(" 200"));
    // A socket that was just connected may be left; what was begun on one is ended.
    told(pair.server.metrics(), "portcullis_handshakes_total{listener=\"in\",direction=\"inbound\",result=\"ok\"} 1\n").await;
    pair.end().await;
}

/// Requests that stay for long take what the far end has of streams on one connection; others go over another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_gets_no_more_requests_than_its_far_end_takes() {
    let (application, _) = standing().await;
    let pair = Pair::start(application, Setup { server: "limits = { streams = 2 }", mutual: false, ..Setup::default() }).await;
    let url = format!("http://{}/", pair.entrance);
    assert!(curl(&[&url]).await.ends_with("ok"));
    let mut still = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(pair.entrance).await.expect("a listener");
        stream.write_all(b"POST /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n").await.expect("written");
        still.push(stream);
        told(pair.server.metrics(), &format!("portcullis_http_requests_in_flight{{listener=\"in\"}} {}\n", still.len())).await;
    }
    assert!(curl(&[&url]).await.ends_with("ok"));
    drop(still);
    pair.end().await;
}

/// `/large` never ends, `/deaf` reads no body, the rest is read and answered. Counts the octets of `/large`.
async fn standing() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, moved) = (listener.local_addr().expect("an address"), Arc::<AtomicU64>::default());
    let counted = Arc::clone(&moved);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(stand(stream, Arc::clone(&counted)));
        }
    });
    (address, moved)
}

async fn stand(mut stream: TcpStream, moved: Arc<AtomicU64>) -> std::io::Result<std::convert::Infallible> {
    loop {
        let (mut head, mut octet) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut octet).await?;
            head.extend_from_slice(&octet);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.starts_with("POST /deaf ") {
            std::future::pending::<()>().await;
        }
        if head.starts_with("POST /large ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await?;
            loop {
                stream.write_all(&[7; 16384]).await?;
                moved.fetch_add(16384, Ordering::SeqCst);
            }
        }
        let length = field(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        stream.read_exact(&mut vec![0; length]).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_target_is_passed_over_and_one_that_is_unwell_left_out() {
    let (one, other) = (Mirror::start().await, Mirror::start().await);
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let desk = desk();
    let (app, address) = front(&desk, &upstream("app", &[one.address, gone, other.address], "ejection = \"1h\""), "upstream = \"app\"").await;
    for number in 0..12 {
        let answer = curl(&["-k", "-d", "x", &format!("https://{address}/{number}")]).await;
        assert!(answer.contains(" 200"), "{answer}");
    }
    let metrics = app.metrics().text();
    assert!(metrics.contains("upstream_connects_total{upstream=\"app\",result=\"unreachable\"} 1\n"), "{metrics}");
    assert!(one.heads().len() >= 4 && other.heads().len() >= 4, "{} {}", one.heads().len(), other.heads().len());
    app.drain().await;

    // One target answers its checks with an error: no request goes there any more, and the log says what it answered.
    let lines = lines::Lines::begin();
    let (unwell, asked) = always_500().await;
    let health = "health = { path = \"/healthz\", every = \"100ms\" }";
    let (app, address) = front(&desk, &upstream("app", &[one.address, unwell], health), "upstream = \"app\"").await;
    told(app.metrics(), "upstream_healthy_targets{upstream=\"app\"} 1\n").await;
    for _ in 0..6 {
        assert!(curl(&["-k", &format!("https://{address}/")]).await.contains(" 200"));
    }
    assert!(asked.lock().expect("no panic").iter().all(|head| head.starts_with("GET /healthz ")));
    let lines = lines.of("upstream", "app");
    let said: Vec<_> = lines.iter().filter(|line| line["event"] == "unwell").map(|line| (&line["address"], &line["found"])).collect();
    assert_eq!(said, [(&serde_json::json!(unwell.to_string()), &serde_json::json!("/healthz was answered with 500"))]);
    app.drain().await;
    // With none well, trying is better than failing for sure.
    let (app, address) = front(&desk, &upstream("app", &[unwell], health), "upstream = \"app\"").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(curl(&["-k", &format!("https://{address}/")]).await.contains(" 500"));
    app.drain().await;
}

/// A path is no host: a request of HTTP/2 with one cannot be made, and one of HTTP/1.1 is refused by whoever reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_at_a_unix_socket_is_asked_whether_it_is_well_as_this_machine() {
    let desk = desk();
    let socket = desk.path().join("app.sock");
    let listening = tokio::net::UnixListener::bind(&socket).expect("a socket");
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listening.accept().await.expect("a connection");
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let known = request.uri().authority().is_some_and(|host| host.as_str() == "localhost") && request.uri().path() == "/healthz";
                let response = hyper::Response::builder().status(if known { 200 } else { 400 }).body(()).expect("a response");
                respond.send_response(response, true).expect("answered");
            }
        }
    });
    let app = format!("[[upstream]]\nname = \"app\"\ntargets = [\"h2c+unix:{}\"]\nhealth = {{ path = \"/healthz\", every = \"100ms\" }}\n", socket.display());
    let (app, _) = front(&desk, &app, "upstream = \"app\"").await;
    told(app.metrics(), "upstream_healthy_targets{upstream=\"app\"} 1\n").await;
    app.drain().await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_a_circle_and_a_host_that_stays_with_its_target() {
    let (one, other) = (Mirror::start().await, Mirror::start().await);
    let desk = desk();
    // An answer that is too long in coming is given up; without that key it is waited for.
    for (more, shown) in [("first_byte = \"50ms\"", " 504"), ("", " 200")] {
        let (app, address) = front(&desk, &upstream("app", &[one.address], more), "upstream = \"app\"").await;
        let answer = curl(&["-k", &format!("https://{address}/slow")]).await;
        assert!(answer.lines().next().is_some_and(|line| line.contains(shown)), "{more}: {answer}");
        app.drain().await;
    }
    // What has been here before goes no further; what was at others does.
    let (app, address) = front(&desk, &upstream("app", &[one.address, other.address], "balance = \"hash\""), "upstream = \"app\"").await;
    let ask = async |field: &str| curl(&["-k", "-H", field, &format!("https://{address}/")]).await;
    assert!(ask("Via: 2 portcullis-00000000, 1.1 elsewhere").await.contains(" 200"));
    let seen = |mirror: &Mirror| mirror.heads().iter().filter(|head| head.starts_with("GET / ")).count();
    let head = if seen(&one) == 1 { one.last() } else { other.last() };
    let via = field(&head, "via").expect("a field");
    let ours = via.rsplit(", ").next().expect("a word");
    assert!(ask(&format!("Via: {ours}, 1.1 elsewhere")).await.contains(" 508"));
    assert_eq!(seen(&one) + seen(&other), 1);
    // A client's requests to one host stay with one target, and hosts are spread over them.
    for number in 0..16 {
        let before = (seen(&one), seen(&other));
        for _ in 0..3 {
            assert!(ask(&format!("Host: host-{number}.test")).await.contains(" 200"));
        }
        let came = (seen(&one) - before.0, seen(&other) - before.1);
        assert!(came == (3, 0) || came == (0, 3), "{number}: {came:?}");
    }
    assert!(seen(&one) > 3 && seen(&other) > 3, "{} {}", seen(&one), seen(&other));
    app.drain().await;
}

/// A protocol of somebody's own passes where it is listed; elsewhere the wish stays behind, and the request is an ordinary one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_become_what_is_listed_and_nothing_else() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut head, mut octet) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut octet).await.is_ok() {
                    head.extend_from_slice(&octet);
                }
                if !String::from_utf8_lossy(&head).to_lowercase().contains("upgrade") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nordinary").await;
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n").await;
                while stream.read_exact(&mut octet).await.is_ok() && stream.write_all(&octet.to_ascii_uppercase()).await.is_ok() {}
            });
        }
    });
    let listed = "upgrades = [\"shout\"]";
    for (upgrades, becomes) in [(listed, true), ("", false)] {
        let pair = Pair::start(address, Setup { server: upgrades, client: upgrades, ..Setup::default() }).await;
        let mut stream = TcpStream::connect(pair.entrance).await.expect("a listener");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n").await.expect("written");
        let answer = heard(&mut stream).await;
        assert!(answer.starts_with(if becomes { "HTTP/1.1 101" } else { "HTTP/1.1 200" }) && answer.ends_with("ordinary") != becomes, "{answer}");
        if becomes {
            stream.write_all(b"hello").await.expect("written");
            let mut echo = [0; 5];
            stream.read_exact(&mut echo).await.expect("an echo");
            assert_eq!(&echo, b"HELLO");
        }
        drop(stream);
        pair.end().await;
    }
}

/// A stream that became something else and is reset by its client was not complete: the application sees a reset. One that ends,
/// ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_is_not_taken_for_complete() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let desk = desk();
    let behind = upstream("app", &[listener.local_addr().expect("an address")], "");
    let (app, address) = front(&desk, &behind, "upstream = \"app\"\nupgrades = [\"shout\"]").await;
    let name = rustls::pki_types::ServerName::try_from("far.test").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(peer::careless_client(&[b"h2"])));
    let stream = connector.connect(name, TcpStream::connect(address).await.expect("a listener")).await.expect("TLS");
    let (mut sender, mut connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    // Its answer comes behind the settings.
    let mut pings = connection.ping_pong().expect("the first");
    tokio::spawn(connection);
    pings.ping(h2::Ping::opaque()).await.expect("settings");
    for reset in [Some(h2::Reason::CANCEL), Some(h2::Reason::NO_ERROR), Some(h2::Reason::CONNECT_ERROR), None] {
        let mut request = hyper::Request::builder().method("CONNECT").uri("https://far.test/").body(()).expect("a request");
        request.extensions_mut().insert(h2::ext::Protocol::from("shout"));
        sender = sender.ready().await.expect("ready");
        let (answer, mut body) = sender.send_request(request, false).expect("sent");
        let (mut server, _) = listener.accept().await.expect("a connection");
        let (mut head, mut octet) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            server.read_exact(&mut octet).await.expect("a head");
            head.extend_from_slice(&octet);
        }
        server.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n").await.expect("written");
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 200);
        body.send_data("half".into(), false).expect("sent");
        let mut half = [0; 4];
        server.read_exact(&mut half).await.expect("what came before");
        match reset {
            Some(reason) => body.send_reset(reason),
            None => body.send_data("".into(), true).expect("sent"),
        }
        let seen = tokio::time::timeout(web::PATIENCE, server.read(&mut half)).await.expect("an end");
        assert_eq!(seen.is_err(), reset.is_some(), "{reset:?}: {seen:?}");
    }
    app.drain().await;
}

/// What comes behind a wish that is not granted was meant for what the connection did not become: no request of anybody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_smuggled_behind_a_refused_upgrade() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup::default()).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let asks = |more: &str| format!("GET /asked HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{more}\r\n");
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    // Without a key, with a body, and early where an upstream would be asked.
    for (more, body) in [("", ""), ("Content-Length: 2\r\n", "ab"), (key, "")] {
        let answer = say(pair.entrance, format!("{}{body}{hidden}", asks(more)).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{more:?}: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() == 1 && field(&answer, "connection").as_deref() == Some("close"), "{more:?}: {answer}");
    }
    assert_eq!(mirror.heads().len(), 0, "{:?}", mirror.heads());
    // The upstream does not agree, and the connection ends with that.
    let mut stream = TcpStream::connect(pair.entrance).await.expect("a listener");
    stream.write_all(asks(key).as_bytes()).await.expect("written");
    let answer = heard(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.ends_with("Bad Gateway\n"), "{answer}");
    assert_eq!(field(&answer, "connection").as_deref(), Some("close"), "{answer}");
    let _ = stream.write_all(hidden.as_bytes()).await;
    assert_eq!(heard(&mut stream).await, "");
    assert!(mirror.heads().iter().all(|head| head.starts_with("GET /asked ")) && mirror.heads().len() == 1, "{:?}", mirror.heads());
    pair.end().await;
}

/// A server that is always unwell, and keeps the first line of what it is asked.
async fn always_500() -> (SocketAddr, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, asked) = (listener.local_addr().expect("an address"), Arc::<std::sync::Mutex<Vec<String>>>::default());
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let count = stream.read(&mut head).await.unwrap_or(0);
            kept.lock().expect("no panic").push(String::from_utf8_lossy(&head[..count]).lines().next().unwrap_or_default().to_owned());
            let _ = stream.write_all(b"HTTP/1.1 500 Unwell\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    (address, asked)
}

/// One target is refused by its evidence; the others go on, and that one alone is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_target_leaves_the_others_alone() {
    let mirror = Mirror::start().await;
    let desk = desk();
    let behind = upstream("app", &[mirror.address], "");
    let listener = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"attested\"\nupstream = \"app\"\n";
    let good = sidecar(&desk, &format!("{behind}{listener}")).await;
    let stranger = sidecar(&desk, &format!("{behind}{listener}[identity.simulator]\nmeasurement = \"{}\"\n", "7".repeat(96))).await;
    let (right, wrong) = (good.tcp_address("in").expect("an address"), stranger.tcp_address("in").expect("an address"));
    let client = sidecar(
        &desk,
        &format!(
            "[[upstream]]\nname = \"far\"\ntargets = [\"tls://{wrong}\", \"tls://{right}\"]\nattested = {{ policy = \"mesh\" }}\n\
             [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nupstream = \"far\"\n"
        ),
    )
    .await;
    let url = format!("http://{}/", client.tcp_address("out").expect("an address"));
    let mut refused = 0;
    for _ in 0..10 {
        let answer = curl(&[&url]).await;
        if answer.starts_with("HTTP/1.1 502 ") {
            assert!(answer.contains("measurement_unknown"), "{answer}");
            refused += 1;
        } else {
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    }
    // The request that met the refusal is not tried elsewhere; those after it do not go there.
    assert_eq!(refused, 1);
    told(stranger.metrics(), "handshakes_total{listener=\"in\",direction=\"inbound\",result=\"ok\"} 1\n").await;
    for app in [client, good, stranger] {
        app.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_of_heads_bodies_and_patience_are_kept() {
    let mirror = Mirror::start().await;
    let limits = "limits = { header = \"4KiB\", body = \"1KiB\", request_header = \"300ms\", request_body = \"300ms\" }";
    let pair = Pair::start(mirror.address, Setup { client: limits, ..Setup::default() }).await;
    let url = format!("http://{}/", pair.entrance);
    let long = format!("X-Long: {}", "a".repeat(5000));
    assert!(curl(&["--http1.1", "-H", &long, &url]).await.contains(" 431"));
    told(pair.client.metrics(), "limits_rejected_total{listener=\"out\",limit=\"header\"} 1\n").await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert!(curl(&[version, "-d", &"b".repeat(1024), &url]).await.contains(" 200"));
        // Who is refused can be asked about as everybody else.
        let answer = curl(&[version, "-H", "X-Request-Id: theirs", "-d", &"b".repeat(1025), &url]).await;
        assert!(answer.contains(" 413") && answer.contains("limits.body"), "{version}: {answer}");
        assert_eq!(field(&answer, "x-request-id").as_deref(), Some("theirs"), "{version}: {answer}");
        let chunked = curl(&[version, "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "-d", &"b".repeat(1025), &url]).await;
        assert!(chunked.contains(" 413"), "{version}: {chunked}");
    }
    // A head that does not come to its end, and a body that stands still.
    let mut slow = TcpStream::connect(pair.entrance).await.expect("a listener");
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").await.expect("written");
    let begun = Instant::now();
    assert_eq!(heard(&mut slow).await, "");
    assert!(begun.elapsed() < Duration::from_millis(900), "the slow head was waited for");
    let answer = say(pair.entrance, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(mirror.heads().iter().all(|head| !head.contains("x-slow")));
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_there_is_room_for_is_told_to_come_again() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { client: "limits = { requests = 3 }", ..Setup::default() }).await;
    let ask = || {
        let url = format!("http://{}/slow", pair.entrance);
        async move { curl(&[&url]).await.to_lowercase() }
    };
    let answers = tokio::join!(ask(), ask(), ask(), ask(), ask(), ask());
    let answers = [answers.0, answers.1, answers.2, answers.3, answers.4, answers.5];
    let served = answers.iter().filter(|answer| answer.contains(" 200")).count();
    let shed =
        answers.iter().filter(|answer| answer.contains(" 503") && answer.contains("retry-after: 1") && answer.contains("connection_limit_reached")).count();
    assert_eq!((served, shed), (3, 3), "{answers:?}");
    assert!(ask().await.contains(" 200"), "there is room again");
    pair.end().await;
    let pair = Pair::start(mirror.address, Setup { client: "limits = { rate = 5 }", ..Setup::default() }).await;
    let mut told = Vec::new();
    for _ in 0..10 {
        told.push(curl(&[&format!("http://{}/", pair.entrance)]).await.contains(" 429"));
    }
    assert!(told.iter().filter(|told| **told).count() >= 2 && !told[0], "{told:?}");
    pair.end().await;
}

/// An HTTP/2 connection by hand: preface and empty settings are sent.
async fn by_hand(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    stream.write_all(&frame(4, 0, 0, &[])).await.expect("written");
    stream
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends the same again and again until the far end has had enough.
async fn flooded(mut stream: TcpStream, mut next: impl FnMut(u32) -> Vec<u8>) -> u32 {
    let mut buffer = vec![0; 64 * 1024];
    for count in 0..200_000 {
        let written = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&next(count))).await;
        if !matches!(written, Ok(Ok(()))) {
            return count;
        }
        while let Ok(read) = stream.try_read(&mut buffer) {
            if read == 0 {
                return count;
            }
        }
        if count % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    u32::MAX
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_their_connection_and_harm_nobody_else() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup::default()).await;
    // :method GET, :scheme http, :path /, :authority a.
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    let open = |count: u32| frame(1, 5, count * 2 + 1, &head);
    let floods: [(&str, Box<dyn FnMut(u32) -> Vec<u8> + Send>); 6] = [
        ("ping_flood", Box::new(|_| frame(6, 0, 0, &[0; 8]))),
        ("settings_flood", Box::new(|_| frame(4, 0, 0, &[]))),
        ("priority_flood", Box::new(|_| frame(2, 0, 1, &[0, 0, 0, 3, 1]))),
        ("rapid_reset", Box::new(move |count| [open(count), frame(3, 0, count * 2 + 1, &[0, 0, 0, 8])].concat())),
        ("continuation_flood", Box::new(move |count| if count == 0 { frame(1, 1, 1, &head) } else { frame(9, 0, 1, b"\x40\x01x\x01y") })),
        ("empty_data_flood", Box::new(move |count| if count == 0 { frame(1, 4, 1, &[0x83, 0x86, 0x84, 0x41, 0x01, b'a']) } else { frame(0, 0, 1, &[]) })),
    ];
    for (name, next) in floods {
        let sent = flooded(by_hand(pair.entrance).await, next).await;
        assert!(sent < 50_000, "{name}: the connection was still open after {sent}");
        let answer = curl(&["--http2-prior-knowledge", &format!("http://{}/", pair.entrance)]).await;
        assert!(answer.contains(" 200"), "{name}: another client is harmed: {answer}");
    }
    for name in ["ping_flood", "settings_flood", "priority_flood"] {
        told(pair.client.metrics(), &format!("limits_rejected_total{{listener=\"out\",limit=\"{name}\"}} 1\n")).await;
    }
    // A client that never reads does not make us hold its answers.
    let mut deaf = by_hand(pair.entrance).await;
    deaf.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).await.expect("written");
    for count in 0..50 {
        deaf.write_all(&open(count)).await.expect("written");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut some = [0; 16];
    deaf.read_exact(&mut some).await.expect("settings");
    assert!(curl(&[&format!("http://{}/", pair.entrance)]).await.contains(" 200"));
    drop(deaf);
    pair.end().await;
}
