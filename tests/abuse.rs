//! What one peer may do to a listener's memory and to its neighbours: floods, windows that never open, heads and bodies that
//! never end. The listener is a process of its own, whose resident memory is looked at all the while; beside each attack a
//! client that means well asks again and again, and has every answer.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/program.rs"]
mod program;
#[path = "support/sidecar.rs"]
mod sidecar;

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::session::exchange::{AwaitHelloServer, ClientEvidence, Offer};
use portcullis::session::{Code, Frame, Kind};
use program::Desk;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

/// What an attack may add to the process's memory, and the whole of them leave behind, MiB. The most of them is 512 answers that
/// nobody reads, each with 64 KiB towards its client and what was read ahead of it from the application: 70 to 124 were seen.
const MOST_MORE: u64 = 192;

/// How long each attack goes on.
const PERIOD: Duration = Duration::from_millis(1000);

struct Listener {
    child: Child,
    address: SocketAddr,
    observed: SocketAddr,
    _desk: Desk,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Listener {
    async fn start(application: SocketAddr) -> Self {
        let rest = "protocol = \"http\"\ncertificate = \"attested\"\nfreshness = \"certificate\"\n\
                    insecure_accept_replay_risk = true\nupstream = \"app\"\nlimits = { request_header = \"3s\", request_body = \"3s\" }\n";
        Self::with(rest, &format!("http://{application}")).await
    }

    /// One whose clients show evidence too.
    async fn mutual(application: SocketAddr) -> Self {
        let rest = "certificate = \"attested\"\nclients = \"attested\"\npolicy = \"mesh\"\nupstream = \"app\"\n[policy.mesh]\nfile = \"mesh.json\"\n";
        Self::with(rest, &format!("tcp://{application}")).await
    }

    async fn with(rest: &str, target: &str) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let (desk, address, observed) = (Desk::new(), free(), free());
        let chip = "11".repeat(64);
        desk.write(
            "mesh.json",
            format!(
                r#"{{ "version": 1, "name": "mesh", "insecure_roots": ["simulator"],
                      "accept": [ {{ "id": "one", "tee": "sev-snp", "insecure_any_measurement": true, "chip_id": "{chip}" }} ] }}"#
            ),
        );
        desk.write(
            "c.toml",
            format!(
                "version = 1\n[identity]\nprovider = \"simulator\"\nnames = [\"service.test\"]\n[observe]\nbind = \"{observed}\"\n[log]\nlevel = \"error\"\n\
                 [[upstream]]\nname = \"app\"\ntargets = [\"{target}\"]\n[[listener]]\nname = \"in\"\nbind = \"{address}\"\n{rest}"
            ),
        );
        let child = desk.command(["run", "-c", "c.toml"], &[]).stderr(Stdio::null()).spawn().expect("the program");
        let listener = Self { child, address, observed, _desk: desk };
        for _ in 0..1000 {
            if TcpStream::connect(listener.address).await.is_ok() {
                return listener;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody listens");
    }

    /// Resident memory, KiB.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process lives");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    async fn rejected(&self) -> String {
        let mut stream = TcpStream::connect(self.observed).await.expect("a listener");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("metrics");
        text.lines().filter(|line| line.starts_with("portcullis_limits_rejected_total{")).map(|line| format!("{line}\n")).collect()
    }
}

/// `/large` never ends, `/deaf` never reads a body, the rest is answered at once.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut buffer) = (Vec::new(), vec![0; 16384]);
                loop {
                    while let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                        let head: Vec<u8> = read.drain(..end + 4).collect();
                        if head.starts_with(b"GET /large ") {
                            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n").await?;
                            loop {
                                stream.write_all(&buffer).await?;
                            }
                        }
                        if head.windows(6).any(|six| six == b" /deaf") {
                            std::future::pending::<()>().await;
                        }
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
                    }
                    let count = stream.read(&mut buffer).await?;
                    if count == 0 {
                        return std::io::Result::Ok(());
                    }
                    read.extend_from_slice(&buffer[..count]);
                }
            });
        }
    });
    address
}

async fn connected(address: SocketAddr, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("service.test").expect("a name");
    let stream = TcpStream::connect(address).await?;
    tokio_rustls::TlsConnector::from(Arc::new(sidecar::careless_client(&[protocol]))).connect(name, stream).await
}

// ---- frames

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request's head; with `more` a body follows.
fn request(stream: u32, method: u8, path: &str, more: bool) -> Vec<u8> {
    let word = |name: u8, text: &str| [&[name, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let block = [vec![method, 0x87], word(0x04, path), word(0x01, "service.test")].concat();
    frame(1, if more { 4 } else { 5 }, stream, &block)
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

fn odd(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

/// How one connection attacks.
struct Attack {
    name: &'static str,
    connections: usize,
    protocol: &'static [u8],
    begin: fn() -> Vec<u8>,
    /// Said again and again, as fast as it is taken; empty for nothing more.
    again: fn() -> Vec<u8>,
    /// Whether what is answered is read.
    reads: bool,
    /// What the metric says that it was ended for, where it is ours to say: a head that is too long is h2's.
    rejected: Option<&'static str>,
    /// Whether it is ended by the listener, or goes on within its bounds.
    is_ended: bool,
}

fn hello() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[])].concat()
}

/// SETTINGS with an INITIAL_WINDOW_SIZE of 0, then as many requests for what never ends as are taken.
fn standing_windows() -> Vec<u8> {
    [PREFACE.to_vec(), frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]), odd(128).flat_map(|id| request(id, GET, "/large", false)).collect()].concat()
}

/// Windows as wide as they get, and nobody reads from the socket.
fn unread_answers() -> Vec<u8> {
    let wide = frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    let whole = frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes());
    [PREFACE.to_vec(), wide, whole, odd(128).flat_map(|id| request(id, GET, "/large", false)).collect()].concat()
}

/// Bodies in pieces of one octet for an application that does not read.
fn small_pieces() -> Vec<u8> {
    let pieces: Vec<u8> = (0..500).flat_map(|_| odd(16)).flat_map(|id| frame(0, 0, id, b"x")).collect();
    [hello(), odd(16).flat_map(|id| request(id, POST, "/deaf", true)).collect(), pieces].concat()
}

fn large_pieces() -> Vec<u8> {
    odd(16).flat_map(|id| frame(0, 0, id, &[7; 16000])).collect()
}

const ATTACKS: &[Attack] = &[
    Attack {
        name: "rapid reset",
        connections: 8,
        protocol: b"h2",
        begin: || [hello(), odd(3000).flat_map(|id| [request(id, GET, "/", false), frame(3, 0, id, &[0, 0, 0, 8])].concat()).collect()].concat(),
        again: Vec::new,
        reads: true,
        rejected: None,
        is_ended: true,
    },
    Attack {
        name: "continuation flood",
        connections: 8,
        protocol: b"h2",
        begin: || [hello(), frame(1, 0, 1, &[GET])].concat(),
        again: || frame(9, 0, 1, &[0; 1000]),
        reads: true,
        rejected: None,
        is_ended: true,
    },
    Attack {
        name: "settings flood",
        connections: 8,
        protocol: b"h2",
        begin: hello,
        again: || frame(4, 0, 0, &[0, 4, 0, 0, 0, 9]),
        reads: false,
        rejected: Some("settings_flood"),
        is_ended: true,
    },
    Attack {
        name: "ping flood",
        connections: 8,
        protocol: b"h2",
        begin: hello,
        again: || frame(6, 0, 0, &[0; 8]).repeat(100),
        reads: false,
        rejected: Some("ping_flood"),
        is_ended: true,
    },
    Attack {
        name: "window updates",
        connections: 8,
        protocol: b"h2",
        begin: || [hello(), request(1, POST, "/deaf", true)].concat(),
        again: || frame(8, 0, 1, &[0, 0, 0, 1]).repeat(1000),
        reads: false,
        rejected: None,
        is_ended: false,
    },
    Attack {
        name: "empty pieces",
        connections: 8,
        protocol: b"h2",
        begin: || [hello(), request(1, POST, "/deaf", true)].concat(),
        again: || frame(0, 0, 1, &[]).repeat(100),
        reads: true,
        rejected: Some("empty_data_flood"),
        is_ended: true,
    },
    Attack { name: "windows of zero", connections: 8, protocol: b"h2", begin: standing_windows, again: Vec::new, reads: true, rejected: None, is_ended: false },
    Attack { name: "unread answers", connections: 4, protocol: b"h2", begin: unread_answers, again: Vec::new, reads: false, rejected: None, is_ended: false },
    Attack { name: "pieces of one octet", connections: 8, protocol: b"h2", begin: small_pieces, again: Vec::new, reads: true, rejected: None, is_ended: false },
    Attack {
        name: "bodies nobody reads",
        connections: 8,
        protocol: b"h2",
        begin: || [hello(), odd(16).flat_map(|id| request(id, POST, "/deaf", true)).collect()].concat(),
        again: large_pieces,
        reads: true,
        rejected: None,
        is_ended: false,
    },
    Attack {
        name: "slow heads",
        connections: 200,
        protocol: b"http/1.1",
        begin: || b"GET / HTTP/1.1\r\nHost: service.test\r\nX-A: ".to_vec(),
        again: Vec::new,
        reads: true,
        rejected: None,
        is_ended: false,
    },
    Attack {
        name: "slow bodies",
        connections: 200,
        protocol: b"http/1.1",
        begin: || b"POST /deaf HTTP/1.1\r\nHost: service.test\r\nContent-Length: 1000000\r\n\r\nx".to_vec(),
        again: Vec::new,
        reads: true,
        rejected: None,
        is_ended: false,
    },
];

/// One connection that attacks until the listener or the time ends it; whether the listener did.
async fn attack(address: SocketAddr, attack: &'static Attack, over: Instant) -> bool {
    let Ok(stream) = connected(address, attack.protocol).await else { return true };
    let (mut reading, mut writing) = tokio::io::split(stream);
    let writes = async {
        if writing.write_all(&(attack.begin)()).await.is_err() {
            return;
        }
        let again = (attack.again)();
        if again.is_empty() {
            let _ = writing.flush().await;
            std::future::pending::<()>().await;
        }
        while writing.write_all(&again).await.is_ok() {}
    };
    let reads = async {
        let mut ignored = vec![0; 16384];
        while attack.reads && matches!(reading.read(&mut ignored).await, Ok(count) if count > 0) {}
        if !attack.reads {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = writes => true,
        () = reads => true,
        () = tokio::time::sleep_until(over.into()) => false,
    }
}

/// Asks again and again until told to stop; how long each answer took.
async fn well_behaved(address: SocketAddr, stop: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    let mut stream = connected(address, b"http/1.1").await.expect("a connection");
    while !stop.load(Ordering::SeqCst) {
        let start = Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: service.test\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            let mut some = [0; 1024];
            let count = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut some)).await.expect("in time").expect("an answer");
            assert!(count > 0, "a client that means well is cut: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&some[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
        took.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_and_others_are_unharmed() {
    let listener = Listener::start(application().await).await;
    let (address, quiet) = (listener.address, Arc::new(AtomicBool::new(false)));
    let stop = Arc::clone(&quiet);
    let alone = tokio::spawn(async move { well_behaved(address, &stop).await });
    tokio::time::sleep(PERIOD).await;
    quiet.store(true, Ordering::SeqCst);
    show("(nobody attacks)", &alone.await.expect("no panic"), (listener.resident(), listener.resident(), listener.resident()), (0, 0));
    let first = listener.resident();
    for one in ATTACKS {
        let before = listener.resident();
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(before));
        let good = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move { well_behaved(address, &stop).await }
        });
        let over = Instant::now() + PERIOD;
        let attackers: Vec<_> = (0..one.connections)
            .map(|_| {
                tokio::spawn(async move {
                    let mut ended = 0;
                    while Instant::now() < over {
                        ended += usize::from(attack(address, one, over).await);
                    }
                    ended
                })
            })
            .collect();
        let watching = async {
            loop {
                peak.fetch_max(listener.resident(), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let mut ended = 0;
        let waiting = async {
            for attacker in attackers {
                ended += attacker.await.expect("no panic");
            }
        };
        tokio::select! {
            () = watching => {}
            () = waiting => {}
        }
        stop.store(true, Ordering::SeqCst);
        let took = good.await.expect("a client that means well is served");
        let (peak, after) = (peak.load(Ordering::SeqCst), listener.resident());
        show(one.name, &took, (before, peak, after), (one.connections, ended));
        assert!(!one.is_ended || ended > 0, "{}: it goes on", one.name);
        assert!(!took.is_empty(), "{}: nobody else is served", one.name);
        assert!(peak.saturating_sub(before) < MOST_MORE << 10, "{}: {before} KiB before, {peak} KiB at the peak", one.name);
        let rejected = listener.rejected().await;
        assert!(one.rejected.is_none_or(|limit| rejected.contains(&format!("limit=\"{limit}\""))), "{}: {rejected}", one.name);
    }
    println!("{}", listener.rejected().await);
    let last = listener.resident();
    assert!(last.saturating_sub(first) < MOST_MORE << 10, "{first} KiB at first, {last} KiB at last");
}

fn show(name: &str, took: &[Duration], (before, peak, after): (u64, u64, u64), (connections, ended): (usize, usize)) {
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).or(took.last()).copied().unwrap_or_default();
    println!(
        "{name:<20} {connections:>4} connections, {ended:>5} ended by the listener; MiB {:>5.1} before, {:>5.1} peak, {:>5.1} after; beside it {:>4} answers, ms {:.1} median, {:.1} p99, {:.1} longest",
        before as f64 / 1024.0,
        peak as f64 / 1024.0,
        after as f64 / 1024.0,
        took.len(),
        at(0.5).as_secs_f64() * 1000.0,
        at(0.99).as_secs_f64() * 1000.0,
        at(1.0).as_secs_f64() * 1000.0,
    );
}

/// Evidence of a client that is nobody yet, all but its last octet: each is within its bound, and so is what all hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_that_never_ends_takes_bounded_memory() {
    let application = application().await;
    let listener = Listener::mutual(application).await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["client.test".to_owned()]).expect("a name").self_signed(&key).expect("a certificate");
    let tls = Arc::new(sidecar::careless_holder(&[b"portcullis1/raw"], leaf.der().clone(), key.serialize_der()));
    let offer =
        Offer { nonce: [7; 32], client: ClientEvidence::Required, accepts: vec![portcullis::evidence::snp::MEDIA_TYPE.to_owned()], max_evidence: 1 << 18 };
    let hello = AwaitHelloServer::open(offer, "service.test").hello().octets().to_vec();
    let (accepted, evidence) = (Frame::new(Kind::Result, Code::Ok.encode()), Frame::new(Kind::Evidence, vec![0; 250 * 1024]));
    let endless = [hello.as_slice(), accepted.octets(), &evidence.octets()[..evidence.octets().len() - 1]].concat();
    let before = listener.resident();
    let mut held = Vec::new();
    for _ in 0..800 {
        let (tls, address, endless) = (Arc::clone(&tls), listener.address, endless.clone());
        held.push(tokio::spawn(async move {
            let stream = TcpStream::connect(address).await?;
            let mut stream = tokio_rustls::TlsConnector::from(tls).connect(ServerName::try_from("service.test").expect("a name"), stream).await?;
            tokio::select! {
                sent = stream.write_all(&endless) => sent?,
                () = tokio::time::sleep(Duration::from_secs(8)) => {}
            }
            std::io::Result::Ok(stream)
        }));
    }
    let (mut most, mut open) = (0, Vec::new());
    for task in held {
        open.push(task.await.expect("no panic"));
        most = most.max(listener.resident());
    }
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(listener.resident());
    }
    let through = open.iter().filter(|stream| stream.is_ok()).count();
    println!("{through} of {} connections; MiB {} before, {} at most", open.len(), before / 1024, most / 1024);
    assert!(through > 600, "{through}");
    assert!(most.saturating_sub(before) / 1024 < MOST_MORE, "MiB {} before, {} at most", before / 1024, most / 1024);
}
