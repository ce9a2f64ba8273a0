//! Many connections in one attested session: each is what a connection of its own would be, the session is admitted and
//! ended as one, and what a peer does inside it harms nobody else.
#![cfg(feature = "simulator")]

#[path = "support/sidecar.rs"]
mod sidecar;

use std::net::SocketAddr;
use std::time::Duration;

use portcullis::proxy::plan::{Limits, Multiplex};
use sidecar::{Machine, Tunnels, World, echoed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const PATIENCE: Duration = Duration::from_secs(20);
const BOTH: Tunnels = Tunnels { far: true, near: Some(PLAN), bare: false, service: None, proves: false };
const PLAN: Multiplex = Multiplex { streams: 128, idle: Duration::from_secs(60) };
/// What the near end asks for.
const UPSTREAM: &str = "upstream.invalid:1";

async fn world(tunnels: Tunnels) -> World {
    World::tunnelled(&Machine::good(1), Limits::default(), tunnels).await
}

/// The value of a metric, summed over its labels.
fn metric(world: &World, name: &str) -> u64 {
    let text = world.metrics();
    let values = text.lines().filter(|line| line.starts_with(&format!("portcullis_{name}"))).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<u64>().ok()).sum()
}

async fn exchange(entrance: SocketAddr, size: usize) {
    let request: Vec<u8> = (0_u32..).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).take(size).collect();
    let (mut reading, mut writing) = TcpStream::connect(entrance).await.expect("a connection").into_split();
    let send = async {
        writing.write_all(&request).await.expect("taken");
        writing.shutdown().await.expect("closed");
    };
    let mut answer = Vec::new();
    let (_, read) = tokio::join!(send, reading.read_to_end(&mut answer));
    read.expect("an answer");
    assert!(answer == echoed(&request), "{size} octets came back as {}", answer.len());
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_pay_one_handshake_and_one_quote_and_every_byte_arrives() {
    let machine = Machine::good(1);
    let world = World::tunnelled(&machine, Limits::default(), BOTH).await;
    let before = machine.quotes();
    let at_once: Vec<_> = (0..100).map(|n| tokio::spawn(exchange(world.entrance(), n * 997 + 1))).collect();
    for one in at_once {
        one.await.expect("an exchange");
    }
    for size in [0, 1, 70_000, 3 << 20] {
        exchange(world.entrance(), size).await;
    }
    assert_eq!(world.dialled(), 104, "each has its own connection to the service");
    assert_eq!(machine.quotes() - before, 1);
    assert_eq!(metric(&world, "tunnel_sessions_opened_total"), 2, "{}", world.metrics());
    // The far end counts the session and what is in it, the near end what is in it.
    assert_eq!(metric(&world, "connections_opened_total{listener=\"attested\""), 105);
    assert_eq!(metric(&world, "connections_opened_total{listener=\"entrance\""), 104);
    let counted = |name: &str| metric(&world, name);
    until("all are counted as closed", || counted("connections_active") == 1).await;
    assert_eq!(counted("bytes_received_total{listener=\"attested\""), counted("bytes_received_total{listener=\"entrance\""));
    world.end().await;
}

/// A service of the test's own: gives each connection that it accepts.
struct Service(TcpListener);

impl Service {
    fn new() -> (Self, SocketAddr) {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn at(address: SocketAddr) -> (Self, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Its connections have as little.
        socket.set_recv_buffer_size(32 * 1024).expect("a size");
        socket.set_send_buffer_size(32 * 1024).expect("a size");
        socket.set_reuseaddr(true).expect("a socket");
        socket.bind(address).expect("a port");
        let listener = socket.listen(1024).expect("a listener");
        let address = listener.local_addr().expect("an address");
        (Self(listener), address)
    }

    async fn accept(&self) -> TcpStream {
        tokio::time::timeout(PATIENCE, self.0.accept()).await.expect("in time").expect("a connection").0
    }
}

async fn pair(world: &World, service: &Service) -> (TcpStream, TcpStream) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(32 * 1024).expect("a size");
    socket.set_send_buffer_size(32 * 1024).expect("a size");
    let client = socket.connect(world.entrance()).await.expect("a connection");
    (client, service.accept().await)
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut octets = vec![0; count];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut octets)).await.expect("in time").expect("read");
    octets
}

/// Whether a new connection is reset, be it before it is seen to be one.
async fn is_reset(world: &World) -> bool {
    match TcpStream::connect(world.entrance()).await {
        Ok(mut client) => end(&mut client).await.is_err(),
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

async fn end(stream: &mut TcpStream) -> std::io::Result<usize> {
    tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("an end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_direction_closes_by_itself_in_either_order() {
    let (service, address) = Service::new();
    let world = world(Tunnels { service: Some(address), ..BOTH }).await;
    let (mut client, mut server) = pair(&world, &service).await;
    client.shutdown().await.expect("closed");
    assert!(matches!(end(&mut server).await, Ok(0)));
    server.write_all(b"still open").await.expect("written");
    assert_eq!(read(&mut client, 10).await, b"still open");
    server.shutdown().await.expect("closed");
    assert!(matches!(end(&mut client).await, Ok(0)));

    let (mut client, mut server) = pair(&world, &service).await;
    server.write_all(b"bye").await.expect("written");
    server.shutdown().await.expect("closed");
    assert_eq!(read(&mut client, 3).await, b"bye");
    assert!(matches!(end(&mut client).await, Ok(0)));
    client.write_all(b"still open").await.expect("written");
    assert_eq!(read(&mut server, 10).await, b"still open");
    client.shutdown().await.expect("closed");
    assert!(matches!(end(&mut server).await, Ok(0)));
    assert_eq!(metric(&world, "tunnel_sessions_opened_total"), 2);
    world.end().await;
}

/// A reset is never taken for an end, in either direction, and goes no further than its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_arrives_as_a_reset_and_leaves_the_others() {
    let (service, address) = Service::new();
    let world = world(Tunnels { service: Some(address), ..BOTH }).await;
    let (mut other_client, mut other_server) = pair(&world, &service).await;
    for reset_by_client in [true, false] {
        let (mut client, mut server) = pair(&world, &service).await;
        client.write_all(b"x").await.expect("written");
        assert_eq!(read(&mut server, 1).await, b"x");
        let (resets, mut sees) = if reset_by_client { (client, server) } else { (server, client) };
        resets.set_zero_linger().expect("a socket");
        drop(resets);
        let seen = end(&mut sees).await;
        assert_eq!(seen.as_ref().map_err(std::io::Error::kind), Err(std::io::ErrorKind::ConnectionReset), "by client: {reset_by_client}: {seen:?}");
    }
    other_client.write_all(b"unharmed").await.expect("written");
    assert_eq!(read(&mut other_server, 8).await, b"unharmed");
    assert_eq!(metric(&world, "tunnel_sessions_opened_total"), 2);
    drop((other_client, other_server));
    world.end().await;
}

/// Writes until nothing more is taken; gives how much was.
async fn fill(stream: &TcpStream, much: &[u8]) -> usize {
    let mut taken = 0;
    while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(20), stream.writable()).await {
        match stream.try_write(much) {
            Ok(octets) => taken += octets,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stand_still_stop_their_writers_and_nobody_else() {
    let (service, address) = Service::new();
    let world = world(Tunnels { service: Some(address), ..BOTH }).await;
    let mut standing = Vec::new();
    for _ in 0..40 {
        standing.push((pair(&world, &service).await, 0));
    }
    // All write as much as is taken, both ways, and nobody reads.
    let much = vec![7; 1 << 20];
    for ((client, server), down) in &mut standing {
        let up = fill(client, &much).await;
        *down = fill(server, &much).await;
        assert!(up < 64 << 20 && *down < 64 << 20, "nobody stops the writers: {up} {down}");
    }
    let (mut client, mut server) = pair(&world, &service).await;
    let (sent, received) = (vec![9; 5 << 20], tokio::spawn(async move { (read(&mut server, 5 << 20).await, server) }));
    tokio::time::timeout(PATIENCE, client.write_all(&sent)).await.expect("others do not hold it up").expect("written");
    let (octets, mut server) = received.await.expect("no panic");
    assert!(octets == sent);
    server.write_all(b"and back").await.expect("written");
    assert_eq!(read(&mut client, 8).await, b"and back");
    assert_eq!(metric(&world, "tunnel_sessions_opened_total"), 2);
    drop((client, server));
    // One that reads again gets what was held.
    let ((mut client, server), down) = standing.swap_remove(20);
    assert!(read(&mut client, down).await.iter().all(|octet| *octet == 7));
    drop((standing, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_sessions_are_followed_by_others_and_unused_ones_closed() {
    let limits = Limits { streams: 3, ..Limits::default() };
    let near = Some(Multiplex { streams: 128, idle: Duration::from_millis(300) });
    let (service, address) = Service::new();
    let world = World::tunnelled(&Machine::good(1), limits, Tunnels { near, service: Some(address), ..BOTH }).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(pair(&world, &service).await);
    }
    // At both ends: three of three, three and two connections.
    assert_eq!(metric(&world, "tunnel_sessions_active"), 6);
    for (client, server) in &mut open {
        client.write_all(b"x").await.expect("written");
        assert_eq!(read(server, 1).await, b"x");
    }
    drop(open);
    until("unused sessions are closed", || metric(&world, "tunnel_sessions_active") == 0).await;
    drop(pair(&world, &service).await);
    assert_eq!(metric(&world, "tunnel_sessions_opened_total"), 8);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_end_that_takes_no_sessions_is_refused_and_nothing_falls_back() {
    let world = world(Tunnels { far: false, ..BOTH }).await;
    assert!(is_reset(&world).await);
    assert_eq!((world.dialled(), world.received_by_service()), (0, 0));
    let refused = r#"connections_refused_total{listener="entrance",side="upstream",reason="alpn_mismatch"} 1"#;
    until("the refusal is counted", || world.metrics().contains(refused)).await;
    world.end().await;
    // A near end that makes a connection each is served as ever by a far end that takes both.
    let world = World::tunnelled(&Machine::good(1), Limits::default(), Tunnels { near: None, ..BOTH }).await;
    exchange(world.entrance(), 1000).await;
    assert_eq!(metric(&world, "tunnel_sessions_opened_total"), 0);
    world.end().await;
}

/// The service is gone, and comes to be again: connections are reset, sessions stay.
/// A gateway: what comes in a session goes on to another attested peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_in_a_session_goes_on_once_the_upstream_has_proven_itself() {
    let (service, address) = Service::new();
    let behind = world(Tunnels { service: Some(address), near: None, ..BOTH }).await;
    let gateway = world(Tunnels { service: Some(behind.attested()), proves: true, ..BOTH }).await;
    let (mut client, mut server) = pair(&gateway, &service).await;
    client.write_all(b"to the service").await.expect("taken");
    assert_eq!(read(&mut server, 14).await, b"to the service");
    server.write_all(b"and back").await.expect("taken");
    assert_eq!(read(&mut client, 8).await, b"and back");
    drop((client, server));
    gateway.end().await;
    behind.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_proves_nothing_hears_nothing_of_a_session() {
    let (impostor, address) = Service::new();
    let gateway = world(Tunnels { service: Some(address), proves: true, ..BOTH }).await;
    let mut client = TcpStream::connect(gateway.entrance()).await.expect("a connection");
    client.write_all(b"the application's words").await.expect("taken");
    let mut far = impostor.accept().await;
    // Whatever is said to it, it answers; it is no TLS.
    far.write_all(b"welcome").await.expect("taken");
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, far.read_to_end(&mut heard)).await.expect("it is left");
    assert!(heard.first() == Some(&22) && !heard.windows(5).any(|five| five == b"words"), "{}", String::from_utf8_lossy(&heard));
    assert!(end(&mut client).await.is_err(), "the client takes it for an end");
    until("it is counted", || gateway.metrics().contains("direction=\"outbound\",result=\"tls_unacceptable\"")).await;
    gateway.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_there_resets_its_connections_and_keeps_the_session() {
    let (service, address) = Service::new();
    let world = world(Tunnels { service: Some(address), ..BOTH }).await;
    drop(pair(&world, &service).await);
    drop(service);
    for _ in 0..3 {
        assert!(is_reset(&world).await, "it looks like an end of the data");
    }
    let (service, _) = Service::at(address);
    let (mut client, mut server) = pair(&world, &service).await;
    client.write_all(b"x").await.expect("written");
    assert_eq!(read(&mut server, 1).await, b"x");
    assert_eq!(metric(&world, "tunnel_sessions_opened_total"), 2);
    drop((client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_connections_end_and_begins_none() {
    let (service, address) = Service::new();
    let world = world(Tunnels { service: Some(address), ..BOTH }).await;
    let (mut client, mut server) = pair(&world, &service).await;
    let (_, _, sidecars) = world.into_parts();
    let draining = tokio::spawn(sidecars.drain(PATIENCE));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sent: Vec<u8> = vec![3; 2 << 20];
    let receiving = tokio::spawn(async move { (read(&mut server, 2 << 20).await, server) });
    client.write_all(&sent).await.expect("taken");
    let (received, mut server) = receiving.await.expect("no panic");
    assert!(received == sent);
    server.write_all(b"done").await.expect("written");
    server.shutdown().await.expect("closed");
    assert_eq!(read(&mut client, 4).await, b"done");
    assert!(!draining.is_finished());
    client.shutdown().await.expect("closed");
    assert!(matches!(end(&mut server).await, Ok(0)));
    let drained = tokio::time::timeout(PATIENCE, draining).await.expect("in time").expect("no panic");
    assert_eq!(drained.cut, 0, "{drained:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_all_in_it_and_takes_none_in_its_second_half() {
    let limits = Limits { max_connection: Duration::from_secs(4), ..Limits::default() };
    let (service, address) = Service::new();
    let world = World::tunnelled(&Machine::good(1), limits, Tunnels { service: Some(address), ..BOTH }).await;
    // The near end's own limit is that of the default: it is the far end that says goodbye.
    let (mut client, mut server) = pair(&world, &service).await;
    tokio::time::sleep(Duration::from_millis(2300)).await;
    let (mut later_client, mut later_server) = pair(&world, &service).await;
    assert_eq!(metric(&world, "tunnel_sessions_opened_total{listener=\"entrance\""), 2);
    assert!(end(&mut server).await.is_err() && end(&mut client).await.is_err(), "cut is not closed");
    later_client.write_all(b"x").await.expect("written");
    assert_eq!(read(&mut later_server, 1).await, b"x");
    drop((later_client, later_server));
    world.end().await;
}

// ---- a peer that is inside a session and does what it likes

/// A stream inside an admitted session: what is written there is what the far end reads as HTTP/2.
async fn inside(world: &World) -> TcpStream {
    TcpStream::connect(world.entrance()).await.expect("a connection")
}

async fn client(world: &World) -> h2::client::SendRequest<hyper::body::Bytes> {
    let (sender, connection) = h2::client::handshake(inside(world).await).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

const BARE: Tunnels = Tunnels { far: true, near: None, bare: true, service: None, proves: false };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_to_connect_is_not_for_the_peer_to_say() {
    let world = world(BARE).await;
    let bystander = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let foreign = bystander.local_addr().expect("an address").to_string();
    let mut sender = client(&world).await.ready().await.expect("ready");
    for (method, uri, status) in [
        ("CONNECT", foreign.as_str(), 403),
        ("CONNECT", "localhost:22", 403),
        ("CONNECT", "upstream.invalid:2", 403),
        ("CONNECT", "UPSTREAM.invalid:1", 403),
        ("GET", "http://upstream.invalid:1/", 405),
        ("OPTIONS", "http://upstream.invalid:1/", 405),
    ] {
        let request = hyper::Request::builder().method(method).uri(uri).body(()).expect("a request");
        let (answer, _body) = sender.send_request(request, false).expect("sent");
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer");
        assert_eq!(answer.status(), status, "{method} {uri}");
        sender = sender.ready().await.expect("the session stays");
    }
    assert_eq!((world.dialled(), world.received_by_service()), (0, 0));
    let reached = tokio::time::timeout(Duration::from_millis(200), bystander.accept()).await;
    assert!(reached.is_err(), "the peer chose where to connect");
    assert!(world.metrics().contains(r#"limits_rejected_total{listener="attested",limit="tunnel_request"} 6"#), "{}", world.metrics());
    // What is asked for rightly is served.
    let request = hyper::Request::builder().method("CONNECT").uri(UPSTREAM).body(()).expect("a request");
    let (answer, mut body) = sender.send_request(request, false).expect("sent");
    body.send_data("hello".into(), true).expect("sent");
    let mut answer = answer.await.expect("an answer").into_body();
    assert_eq!(answer.data().await.expect("data").expect("data"), echoed(b"hello"));
    assert_eq!(world.dialled(), 1);
}

/// Frames by hand: the libraries keep to what they are told.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn connect(stream: u32) -> Vec<u8> {
    let mut block = vec![0x02, 7];
    block.extend(b"CONNECT");
    block.extend([0x01, u8::try_from(UPSTREAM.len()).expect("short")]);
    block.extend(UPSTREAM.as_bytes());
    frame(1, 4, stream, &block)
}

/// How far the windows of a session have been opened in all when what was sent before has been answered.
async fn granted(stream: &mut TcpStream) -> u64 {
    let mut granted = 65_535;
    for _ in 0..2 {
        stream.write_all(&frame(6, 0, 0, &[0; 8])).await.expect("written");
        loop {
            let head = read(stream, 9).await;
            let payload = read(stream, usize::from(head[1]) << 8 | usize::from(head[2])).await;
            match (head[3], head[4]) {
                (8, _) if head[5..] == [0; 4] => granted += u64::from(u32::from_be_bytes(payload.try_into().expect("four octets"))),
                (6, 1) => break,
                _ => {}
            }
        }
    }
    granted
}

/// What is on its way to readers that stand still is bounded for all sessions together, and every session can be used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_share_one_room_for_what_nobody_reads() {
    const SESSIONS: u64 = 6;
    let (service, address) = Service::new();
    let world = world(Tunnels { service: Some(address), ..BARE }).await;
    let fill = async || {
        let mut stream = inside(&world).await;
        let begin = [PREFACE, &frame(4, 0, 0, &[])].concat();
        let mut taken = Vec::new();
        stream.write_all(&[begin, (0..128).flat_map(|n| connect(2 * n + 1)).collect()].concat()).await.expect("written");
        for _ in 0..128 {
            taken.push(service.accept().await);
        }
        (granted(&mut stream).await, stream, taken)
    };
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(fill().await);
    }
    let all: Vec<_> = sessions.iter().map(|(granted, ..)| *granted).collect();
    println!("KiB: {:?}", all.iter().map(|granted| granted >> 10).collect::<Vec<_>>());
    // Alone, a session has room for 40 readers that stand still; without a bound these would have 387 MiB.
    assert!(all[0] >= 41 * 512 * 1024, "{all:?}");
    assert!(all.iter().sum::<u64>() <= (256 << 20) + SESSIONS * 65_535, "{all:?}");
    // One more has less, and every byte arrives.
    let mut sender = client(&world).await.ready().await.expect("ready");
    let request = hyper::Request::builder().method("CONNECT").uri(UPSTREAM).body(()).expect("a request");
    let (_answer, mut body) = sender.send_request(request, false).expect("sent");
    let mut server = service.accept().await;
    body.send_data(vec![9; 5 << 20].into(), true).expect("sent");
    assert!(read(&mut server, 5 << 20).await.iter().all(|octet| *octet == 9));
    drop((sender, body, server));
    // What ended gives its part back.
    drop(sessions);
    let again = async { while fill().await.0 < all[0] {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Writes until all is written or the other side has closed; whether it has.
async fn closes(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let (mut reading, mut writing) = stream.split();
    let writes = async {
        let _ = writing.write_all(bytes).await;
        std::future::pending::<()>().await;
    };
    let reads = async {
        let mut ignored = vec![0; 65536];
        while matches!(reading.read(&mut ignored).await, Ok(count) if count > 0) {}
    };
    tokio::select! {
        () = writes => false,
        () = reads => true,
        () = tokio::time::sleep(PATIENCE) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_session_and_what_is_too_much_of_one_ends_it_alone() {
    let limits = Limits { streams: 4, ..Limits::default() };
    let world = World::tunnelled(&Machine::good(1), limits, BARE).await;
    let mut good = client(&world).await.ready().await.expect("ready");
    let mut says_hello = async || {
        let request = hyper::Request::builder().method("CONNECT").uri(UPSTREAM).body(()).expect("a request");
        let (answer, mut body) = good.send_request(request, false).expect("sent");
        body.send_data("hello".into(), true).expect("sent");
        let mut answer = tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer").into_body();
        assert_eq!(answer.data().await.expect("data").expect("data"), echoed(b"hello"));
        good = good.clone().ready().await.expect("the session stays");
    };
    says_hello().await;
    let begin = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let odd = |most: u32| (0..most).map(|n| 2 * n + 1);

    // More than the far end said it takes: those are refused, and nobody is dialled for them.
    let before = world.dialled();
    let mut stream = inside(&world).await;
    stream.write_all(&[begin.clone(), odd(7).flat_map(connect).collect()].concat()).await.expect("written");
    world.until_dialled(before + 4).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.dialled(), before + 4);
    drop(stream);

    let floods: [(&str, Vec<u8>); 6] = [
        ("no HTTP/2", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("a head without end", [begin.clone(), frame(1, 0, 1, &[0x02]), (0..100).flat_map(|_| frame(9, 0, 1, &[0; 200])).collect()].concat()),
        ("a long head", [begin.clone(), frame(1, 4, 1, &[[0x00, 0x7f, 0xff, 0x3f].as_slice(), &[b'x'; 16000]].concat())].concat()),
        ("pings", [begin.clone(), (0..600).flat_map(|_| frame(6, 0, 0, &[0; 8])).collect()].concat()),
        ("settings", [begin.clone(), (0..60).flat_map(|_| frame(4, 0, 0, &[])).collect()].concat()),
        ("resets", [begin.clone(), odd(20_000).flat_map(|id| [connect(id), frame(3, 0, id, &[0, 0, 0, 8])].concat()).collect()].concat()),
    ];
    for (name, bytes) in floods {
        let before = world.dialled();
        let mut stream = inside(&world).await;
        assert!(closes(&mut stream, &bytes).await, "{name}: the session goes on");
        println!("{name}: {} connections to the service", world.dialled() - before);
        assert!(world.dialled() - before < 1000, "{name}: {} connections to the service", world.dialled() - before);
        says_hello().await;
    }
}
