//! HTTP through two sidecars, from configuration files, on the simulator: what passes, what is removed, what is refused.
#![cfg(feature = "simulator")]

#[path = "support/told.rs"]
mod told;
#[path = "support/web.rs"]
mod web;

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use told::told;
use web::{Mirror, Pair, Setup, curl, desk, field, heard, say, say_http2, sidecar};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_pass_and_the_attested_connection_is_made_once() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup::default()).await;
    let url = format!("http://{}/some/path?q=1", pair.entrance);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for _ in 0..3 {
            let answer = curl(&[version, "-H", "Host: shop.test", "-d", "hello", &url]).await;
            assert!(answer.contains(" 200") && answer.to_lowercase().contains("x-body: 5"), "{answer}");
        }
    }
    let head = mirror.last();
    assert!(head.starts_with("POST /some/path?q=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host").as_deref(), Some("shop.test"));
    assert!(field(&head, "via").is_some_and(|via| via.starts_with("2 portcullis-") && via.contains(", 2 portcullis-")), "{head}");
    assert_eq!(field(&head, "x-forwarded-proto").as_deref(), Some("https"));
    assert!(field(&head, "attested-peer").is_some_and(|peer| peer.contains("; entry=\"web-1\"; policy=\"mesh\"; m=:") && peer.contains("; age=")), "{head}");
    // Six requests of six clients went over one attested connection and one to the application.
    told(pair.server.metrics(), "portcullis_handshakes_total{listener=\"in\",direction=\"inbound\",result=\"ok\"} 1\n").await;
    assert_eq!(mirror.connections(), 1);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_identities_are_removed_from_requests_answers_and_trailers() {
    let mirror = Mirror::start().await;
    for mutual in [true, false] {
        let pair = Pair::start(mirror.address, Setup { mutual, ..Setup::default() }).await;
        let forged = "POST /a HTTP/1.1\r\nHost: a\r\nATTESTED-peer: forged\r\nAttested_Peer: forged\r\nattested.peer: forged\r\nAttested-Token: forged\r\n\
             Client-Cert: forged\r\nX-Forwarded-Client-Cert: forged\r\nx_flashbots_measurement: forged\r\nX-Fine: 1\r\n\
             Connection: close, Attested-Peer, X-Forwarded-For\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             2\r\nhi\r\n0\r\nAttested-Peer: forged\r\nattested_token: forged\r\nX-Sum: 7\r\n\r\n";
        let answer = say(pair.entrance, forged.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let heads = mirror.heads();
        let (head, trailers) = (&heads[heads.len() - 2], &heads[heads.len() - 1]);
        assert!(!head.contains("forged") && !trailers.contains("forged"), "{head}{trailers}");
        assert!(trailers.to_lowercase().contains("x-sum: 7"), "{trailers}");
        assert_eq!(field(head, "x-fine").as_deref(), Some("1"));
        assert_eq!(field(head, "attested-peer").is_some(), mutual, "{head}");
        assert!(field(head, "x-forwarded-for").is_some(), "{head}");
        let answer = curl(&[&format!("http://{}/forge", pair.entrance)]).await;
        assert!(answer.contains("x-fine: yes") && !answer.contains("forged") && !answer.to_lowercase().contains("x-hop"), "{answer}");
        let metrics = pair.client.metrics().text();
        assert!(metrics.contains("portcullis_spoofed_headers_stripped_total{listener=\"out\",header=\"attested-peer\"}"), "{metrics}");
        pair.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_requests_are_refused_and_reach_nobody() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup::default()).await;
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    for request in [
        head("Content-Length: 15\r\nTransfer-Encoding: chunked"),
        head("Transfer-Encoding: chunked\r\nContent-Length: 15"),
        head("Content-Length: 15\r\nContent-Length: 15"),
        head("Content-Length: 15\r\nContent-Length: 5"),
        head("Content-Length: 1,5"),
        head("Transfer-Encoding: gzip, chunked"),
        head("Transfer-Encoding: chunked, chunked"),
        head("Transfer-Encoding : chunked"),
        head("X: a\r\n  folded\r\nContent-Length: 0"),
        head("X: a\nContent-Length: 0"),
        head("X: a\0b\r\nContent-Length: 0"),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
        "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(),
    ] {
        let answer = say(pair.entrance, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{request:?} was answered with {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{request:?}");
    }
    assert_eq!(mirror.heads(), Vec::<String>::new(), "the application saw a request");
    // Bad chunks show after the head went on: the application must not take the body for whole.
    for body in ["0x5\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n"] {
        let before = mirror.heads().len();
        let answer = say(pair.entrance, format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}").as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 40"), "{body:?} was answered with {answer:?}");
        let more = mirror.heads().split_off(before);
        assert!(more.is_empty() || more.last().is_some_and(|last| last == "BROKEN") || more.len() == 1, "{more:?}");
    }
    for limit in ["content_length_and_transfer_encoding", "repeated_content_length", "obsolete_folding", "bare_lf", "chunk_size"] {
        told(pair.client.metrics(), &format!("limits_rejected_total{{listener=\"out\",limit=\"{limit}\"}}")).await;
    }
    pair.end().await;
}

/// hyper takes a GET without a length for one without a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_unknown_length_arrives_whatever_the_method() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { mutual: false, ..Setup::default() }).await;
    for method in ["GET", "DELETE", "OPTIONS", "POST"] {
        let request = format!("{method} /search HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        let answer = say(pair.entrance, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-body: 5\r\n"), "{method}: {answer}");
        let fields = [(":method", method), (":scheme", "http"), (":path", "/search"), (":authority", "a")];
        say_http2(pair.entrance, &fields, Some(b"hello")).await;
        let head = mirror.last();
        assert!(head.starts_with(method) && field(&head, "transfer-encoding").as_deref() == Some("chunked"), "{head}");
        say_http2(pair.entrance, &fields, None).await;
        let head = mirror.last();
        assert!(head.starts_with(method) && field(&head, "transfer-encoding").is_none(), "{head}");
    }
    pair.end().await;
}

/// What HTTP/2 may say in several lines is one line for HTTP/1.1, or nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_http2_says_twice_the_application_reads_once() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { mutual: false, ..Setup::default() }).await;
    let request = |method| [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    say_http2(pair.entrance, &[&request("GET")[..], &[("cookie", "a=1"), ("cookie", "b=2; c=3")]].concat(), None).await;
    assert_eq!(field(&mirror.last(), "cookie").as_deref(), Some("a=1; b=2; c=3"));
    for lengths in [["5", "5"], ["5", "05"], ["5", "6"], ["0", "5"]] {
        let lengths = lengths.map(|length| ("content-length", length));
        say_http2(pair.entrance, &[&request("POST")[..], &lengths].concat(), Some(b"hello")).await;
    }
    assert_eq!(mirror.heads().len(), 1, "{:?}", mirror.heads());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_a_row_are_answered_in_order() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup::default()).await;
    let row =
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = say(pair.entrance, row.as_bytes()).await;
    let order: Vec<_> = ["GET /1 ", "POST /2 ", "GET /3 "].iter().map(|line| answer.find(line)).collect();
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{answer}");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_refused_is_named_to_the_application_alone() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { policy: "other", mutual: false, ..Setup::default() }).await;
    let url = format!("http://{}/", pair.entrance);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = curl(&[version, &url]).await.to_lowercase();
        assert!(answer.contains(" 502"), "{answer}");
        assert!(answer.contains("proxy-status: portcullis; error=tls_certificate_error; details=\"measurement_unknown\""), "{answer}");
        assert!(answer.contains("content-type: application/problem+json") && answer.contains("\"reason\":\"measurement_unknown\""), "{answer}");
    }
    let answer = curl(&["-H", "Content-Type: application/grpc", "--http2-prior-knowledge", "-d", "x", &url]).await.to_lowercase();
    assert!(answer.contains("http/2 200") && answer.contains("grpc-status: 14") && answer.contains("grpc-message: measurement_unknown"), "{answer}");
    assert_eq!((mirror.connections(), mirror.heads().len()), (0, 0));
    // The refusal is remembered for a moment: not every request pays for it.
    let metrics = pair.client.metrics().text();
    assert!(metrics.contains("portcullis_connections_refused_total{listener=\"out\",side=\"upstream\",reason=\"measurement_unknown\"} 1\n"), "{metrics}");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_learns_no_reason_of_ours() {
    // Nothing listens behind the server sidecar.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let pair = Pair::start(gone, Setup::default()).await;
    let answer = curl(&[&format!("http://{}/", pair.entrance)]).await.to_lowercase();
    assert!(answer.contains(" 503") && answer.contains("retry-after: 1"), "{answer}");
    assert!(!answer.contains("proxy-status") && answer.ends_with("service unavailable\n") && !answer.contains(&gone.port().to_string()), "{answer}");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_both_ways_and_broken_ones_stay_broken() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup::default()).await;
    let url = |path: &str| format!("http://{}{path}", pair.entrance);
    let answer = curl(&[&url("/close")]).await;
    assert!(answer.ends_with("until the end"), "{answer}");
    let answer = curl(&["--http1.1", "-H", "TE: trailers", "--raw", &url("/trailers")]).await;
    assert!(answer.contains("ok") && !answer.contains("forged"), "{answer}");
    let answer = curl(&[&url("/both")]).await;
    assert!(answer.contains(" 502"), "an answer with two lengths came through: {answer}");
    // Cut off, or told as an error of ours where the head had not gone out yet: curl fails either way.
    let broken = web::program("curl", &["-sSf", "--max-time", "10", &url("/broken")]).await;
    assert!(!broken.status.success(), "half an answer was taken for a whole one");
    // Events come as they are sent.
    let mut stream = TcpStream::connect(pair.entrance).await.expect("a listener");
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("written");
    let begun = std::time::Instant::now();
    let (mut text, mut first) = (String::new(), None);
    let mut buffer = [0; 1024];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        text += &String::from_utf8_lossy(&buffer[..count]);
        if text.contains("data: 0") && first.is_none() {
            first = Some(begun.elapsed());
        }
    }
    assert!(text.contains("data: 2"), "{text}");
    assert!(first.is_some_and(|first| first < Duration::from_millis(500)) && begun.elapsed() > Duration::from_millis(800), "{first:?}");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_waits_until_the_application_agrees() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { mutual: false, ..Setup::default() }).await;
    let mut stream = TcpStream::connect(pair.entrance).await.expect("a listener");
    stream.write_all(b"POST /refuse HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n").await.expect("written");
    let answer = heard(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 417"), "the body was asked for: {answer}");
    let mut stream = TcpStream::connect(pair.entrance).await.expect("a listener");
    stream.write_all(b"POST /take HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await.expect("written");
    let mut agreed = [0; 25];
    stream.read_exact(&mut agreed).await.expect("an agreement");
    assert_eq!(&agreed, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.expect("written");
    let answer = heard(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-body: 5"), "{answer}");
    pair.end().await;
}

/// What somebody says of the way a request came is believed of a trusted proxy alone; an id of those too who are known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_a_request_came_and_its_id_are_believed_of_whom_they_may_be() {
    const SAID: &[&str] = &[
        "-H",
        "Host: here.test",
        "-H",
        "Forwarded: for=192.0.2.9;proto=ftp",
        "-H",
        "X-Forwarded-For: 192.0.2.9",
        "-H",
        "X-Forwarded-Proto: ftp",
        "-H",
        "X-Forwarded-Host: there.test",
        "-H",
        "X-Real-IP: 192.0.2.9",
    ];
    let (mirror, desk) = (Mirror::start().await, desk());
    let server = format!(
        "[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
         certificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\nupstream = \"app\"\ntrusted_proxies = [\"127.0.0.2/32\"]\n",
        mirror.address
    );
    let server = sidecar(&desk, &server).await;
    let url = format!("https://{}/", server.tcp_address("in").expect("an address"));
    // The id that was echoed, which the application saw as well.
    let id = |answer: &str| {
        let (told, _) = answer.split_once("\r\n\r\n").expect("a head");
        let echoed = field(told, "x-request-id").expect("an id");
        assert_eq!(field(&mirror.last(), "x-request-id").as_ref(), Some(&echoed), "{answer}");
        echoed
    };
    let made = |id: &str| id.len() == 32 && id.bytes().all(|octet| octet.is_ascii_hexdigit());
    let long = format!("X-Request-Id: {}", "a".repeat(129));
    let ids: [(&[&str], bool); 5] = [
        (&["-H", "X-Request-Id: theirs"], true),
        (&["-H", "X-Request-Id: theirs", "-H", "X-Request-Id: theirs"], false),
        (&["-H", "X-Request-Id: two words"], false),
        (&["-H", &long], false),
        (&[], false),
    ];
    for version in ["--http1.1", "--http2"] {
        for (source, trusted) in [("127.0.0.2", true), ("127.0.0.3", false)] {
            let mut seen = Vec::new();
            for (sent, good) in ids {
                let answer = curl(&[&["-k", version, "--interface", source][..], SAID, sent, &[&url]].concat()).await;
                let id = id(&answer);
                assert!(if trusted && good { id == "theirs" } else { made(&id) }, "{source} {sent:?}: {id}");
                seen.push(id);
                let head = mirror.last();
                let of = |name: &str| field(&head, name).unwrap_or_default();
                let ours = format!("for={source};proto=https;host=\"here.test\"");
                let found = [of("forwarded"), of("x-forwarded-for"), of("x-forwarded-proto"), of("x-forwarded-host"), of("x-real-ip")];
                let expected = if trusted {
                    [
                        format!("for=192.0.2.9;proto=ftp, {ours}"),
                        format!("192.0.2.9, {source}"),
                        "ftp".to_owned(),
                        "there.test".to_owned(),
                        "192.0.2.9".to_owned(),
                    ]
                } else {
                    [ours, source.to_owned(), "https".to_owned(), "here.test".to_owned(), String::new()]
                };
                assert_eq!(found, expected, "{version} {source}");
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), ids.len(), "an id was given twice");
        }
    }
    server.drain().await;

    // A local application's id is kept; behind, an attested client's is, and one's who proved nothing is not. Neither is
    // believed of the way.
    for mutual in [true, false] {
        let pair = Pair::start(mirror.address, Setup { mutual, ..Setup::default() }).await;
        let answer = curl(&[&["-H", "X-Request-Id: theirs", &format!("http://{}/", pair.entrance)][..], SAID].concat()).await;
        let (told, _) = answer.split_once("\r\n\r\n").expect("a head");
        assert_eq!(field(told, "x-request-id").as_deref(), Some("theirs"), "{answer}");
        let head = mirror.last();
        let behind = field(&head, "x-request-id").expect("an id");
        assert!(if mutual { behind == "theirs" } else { made(&behind) }, "{head}");
        assert_eq!(field(&head, "x-forwarded-for").as_deref(), Some("127.0.0.1"), "{head}");
        assert!(!head.contains("192.0.2.9") && !head.contains("there.test"), "{head}");
        pair.end().await;
    }
}
