//! Two sidecars that speak HTTP, from configuration files, and an application that shows what it was sent.
#![allow(dead_code, reason = "shared by several tests, each of which uses its part")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis::app::App;
use portcullis::attester::simulator::MEASUREMENT;
use portcullis::clock::Clock;
use portcullis::config::Config;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a policy that accepts the simulator's guest as `web-1`, and one that accepts nobody real.
pub(crate) fn desk() -> tempfile::TempDir {
    let desk = tempfile::tempdir().expect("a folder");
    let policy = |measurement: &str| {
        format!(
            r#"{{ "version": 1, "name": "mesh", "insecure_roots": ["simulator"],
                 "accept": [ {{ "id": "web-1", "tee": "sev-snp", "measurement": "{measurement}" }} ] }}"#
        )
    };
    std::fs::write(desk.path().join("mesh.json"), policy(&data_encoding::HEXLOWER.encode(&MEASUREMENT))).expect("written");
    std::fs::write(desk.path().join("other.json"), policy(&"9".repeat(96))).expect("written");
    desk
}

/// A sidecar from its configuration.
pub(crate) async fn sidecar(desk: &tempfile::TempDir, text: &str) -> App {
    App::start(&configured(desk, text), Clock::system()).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// The configuration of a sidecar.
pub(crate) fn configured(desk: &tempfile::TempDir, text: &str) -> Config {
    let head = "version = 1\ndrain_grace = \"5s\"\n[identity]\nprovider = \"simulator\"\nnames = [\"far.test\"]\n[policy.mesh]\nfile = \"mesh.json\"\n[policy.other]\nfile = \"other.json\"\n";
    Config::parse("test.toml", &format!("{head}{text}"), desk.path()).unwrap_or_else(|error| panic!("{error}"))
}

/// What a pair of sidecars is set up with.
pub(crate) struct Setup<'a> {
    /// More keys of the attested listener.
    pub(crate) server: &'a str,
    /// More keys of the plain listener.
    pub(crate) client: &'a str,
    /// More keys of the application's upstream.
    pub(crate) upstream: &'a str,
    /// How the application is reached.
    pub(crate) scheme: &'a str,
    /// What the client wants of the server.
    pub(crate) policy: &'a str,
    /// Whether the client proves itself too.
    pub(crate) mutual: bool,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { server: "", client: "", upstream: "", scheme: "http", policy: "mesh", mutual: true }
    }
}

/// Application's client -> `entrance` -> `attested` -> application.
pub(crate) struct Pair {
    pub(crate) entrance: SocketAddr,
    pub(crate) attested: SocketAddr,
    pub(crate) server: App,
    pub(crate) client: App,
    pub(crate) desk: tempfile::TempDir,
}

impl Pair {
    pub(crate) async fn start(application: SocketAddr, setup: Setup<'_>) -> Self {
        let desk = desk();
        let Setup { server, client, upstream, scheme, policy, mutual } = setup;
        let clients = if mutual { "clients = \"attested\"\npolicy = \"mesh\"\ninsecure_allow_any_genuine_platform = true" } else { "clients = \"any\"" };
        let to = if server.contains("upstream =") || server.contains("route") { "" } else { "upstream = \"app\"" };
        let server = sidecar(
            &desk,
            &format!(
                "[[upstream]]\nname = \"app\"\ntargets = [\"{scheme}://{application}\"]\n{upstream}\n\
                 [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"attested\"\n{clients}\n{to}\n{server}\n"
            ),
        )
        .await;
        let attested = server.tcp_address("in").expect("an address");
        let freshness = if mutual { "session-mutual" } else { "session" };
        let any = if mutual { "insecure_allow_any_genuine_platform = true" } else { "" };
        let client = sidecar(
            &desk,
            &format!(
                "[[upstream]]\nname = \"far\"\ntargets = [\"tls://{attested}\"]\nserver_name = \"far.test\"\n{any}\n\
                 attested = {{ policy = \"{policy}\", freshness = \"{freshness}\" }}\n\
                 [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nupstream = \"far\"\n{client}\n"
            ),
        )
        .await;
        let entrance = client.tcp_address("out").expect("an address");
        Self { entrance, attested, server, client, desk }
    }

    /// Ends both; nothing may be left.
    pub(crate) async fn end(self) {
        let (client, server) = tokio::join!(self.client.drain(), self.server.drain());
        assert_eq!((client.cut, server.cut), (0, 0), "connections had to be cut");
    }
}

/// An application that keeps what it was sent, and answers with it. What it answers depends on the path:
/// `/forge` with forged identity fields, `/close` without a length, `/stream` slowly, `/refuse` before the body.
pub(crate) struct Mirror {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    serving: JoinHandle<()>,
}

impl Mirror {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (heads, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<usize>>::default());
        let (kept, counted) = (Arc::clone(&heads), Arc::clone(&connections));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *counted.lock().expect("no panic") += 1;
                tokio::spawn(mirror(stream, Arc::clone(&kept)));
            }
        });
        Self { address, heads, connections, serving }
    }

    /// The heads that came, in lower case names as they came.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }

    pub(crate) fn last(&self) -> String {
        self.heads().pop().expect("a request came")
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().expect("no panic")
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn mirror(stream: TcpStream, heads: Arc<Mutex<Vec<String>>>) {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    loop {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            match reading.read_line(&mut line).await {
                Ok(count) if count > 0 => {}
                _ => return,
            }
            if line == "\r\n" {
                break;
            }
            head += &line;
        }
        heads.lock().expect("no panic").push(head.clone());
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let refuses = path == "/refuse";
        if refuses {
            let _ = writing.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            return;
        }
        if field(&head, "expect").is_some() {
            let _ = writing.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        let mut trailers = String::new();
        let mut body = 0_usize;
        if let Some(length) = field(&head, "content-length") {
            let mut left = length.parse::<u64>().expect("a number");
            let mut buffer = vec![0; 64 * 1024];
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                match reading.read(&mut buffer[..most]).await {
                    Ok(count) if count > 0 => {
                        left -= count as u64;
                        body += count;
                    }
                    _ => return,
                }
            }
        } else if field(&head, "transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                if reading.read_line(&mut size).await.unwrap_or(0) == 0 {
                    heads.lock().expect("no panic").push("BROKEN".to_owned());
                    return;
                }
                let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
                if size == 0 {
                    loop {
                        let mut line = String::new();
                        let _ = reading.read_line(&mut line).await;
                        if line == "\r\n" || line.is_empty() {
                            break;
                        }
                        trailers += &line;
                    }
                    break;
                }
                let mut chunk = vec![0; size + 2];
                if reading.read_exact(&mut chunk).await.is_err() {
                    heads.lock().expect("no panic").push("BROKEN".to_owned());
                    return;
                }
                body += size;
            }
        }
        if !trailers.is_empty() {
            heads.lock().expect("no panic").push(format!("TRAILERS {trailers}"));
        }
        let answer = match path.as_str() {
            "/forge" => "HTTP/1.1 200 OK\r\nAttested-Peer: forged\r\nattested_token: forged\r\nX-Forwarded-Client-Cert: forged\r\nX-Fine: yes\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok"
                .to_owned(),
            "/both" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
            "/trailers" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nAttested-Peer: forged\r\n\r\n".to_owned(),
            "/close" => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end".to_owned(),
            "/broken" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned(),
            _ => format!("HTTP/1.1 200 OK\r\nX-Body: {body}\r\nContent-Length: {}\r\n\r\n{head}", head.len()),
        };
        if path == "/slow" {
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        if path == "/events" {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = writing.write_all(head.as_bytes()).await;
            for count in 0..3 {
                let event = format!("data: {count}\n\n");
                let _ = writing.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let _ = writing.write_all(b"0\r\n\r\n").await;
            continue;
        }
        if writing.write_all(answer.as_bytes()).await.is_err() || matches!(path.as_str(), "/close" | "/broken") {
            return;
        }
    }
}

/// The one value of a field in a head.
pub(crate) fn field(head: &str, name: &str) -> Option<String> {
    let mut found = head.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| key.eq_ignore_ascii_case(name));
    let value = found.next().map(|(_, value)| value.trim().to_owned());
    assert!(found.next().is_none(), "{name} is there twice in\n{head}");
    value
}

/// Sends bytes and reads what comes until it ends, or nothing came for a second.
pub(crate) async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    stream.write_all(bytes).await.expect("written");
    heard(&mut stream).await
}

/// One request of HTTP/2 with just these fields, written by hand: what libraries refuse to send. Gives what comes back, frames and all.
pub(crate) async fn say_http2(address: SocketAddr, fields: &[(&str, &str)], body: Option<&[u8]>) -> String {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("short");
        [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
    // Literals that nobody need remember.
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect();
    let mut sent = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[]), &frame(1, if body.is_some() { 4 } else { 5 }, 1, &block)].concat();
    if let Some(body) = body {
        sent.extend(frame(0, 1, 1, body));
    }
    say(address, &sent).await
}

pub(crate) async fn heard(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await {
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Runs curl; gives what it wrote, head included.
pub(crate) async fn curl(arguments: &[&str]) -> String {
    let run = program("curl", &[&["-sS", "-i", "--max-time", "20"], arguments].concat()).await;
    assert!(run.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8_lossy(&run.stdout).into_owned()
}

/// Runs a program to its end.
pub(crate) async fn program(name: &str, arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(name);
    command.args(arguments).stdin(std::process::Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    run.unwrap_or_else(|error| panic!("{name} is not to be run: {error}"))
}
