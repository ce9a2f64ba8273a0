//! The roles of the README as they are typed: the program itself on the files of `configs/simulator`, with a plain HTTP
//! service behind it. Ports are free ones; everything else is as it lies there.
#![cfg(all(feature = "cli", feature = "simulator"))]

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The ports that the files write.
const WRITTEN: [u16; 11] = [18_080, 18_443, 14_140, 19_464, 19_465, 18_543, 18_544, 14_143, 14_144, 19_543, 19_544];

/// A copy of the examples on free ports, with a service that answers on one of them.
struct Examples {
    folder: tempfile::TempDir,
    ports: [u16; WRITTEN.len()],
    served: Arc<AtomicUsize>,
}

impl Examples {
    fn copy() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = free_ports();
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/simulator")).expect("the examples") {
            let entry = entry.expect("an entry");
            let mut text = std::fs::read_to_string(entry.path()).expect("text");
            for (written, port) in WRITTEN.iter().zip(ports) {
                text = text.replace(&format!("127.0.0.1:{written}"), &format!("127.0.0.1:{port}"));
            }
            std::fs::write(folder.path().join(entry.file_name()), text).expect("a copy");
        }
        let examples = Self { folder, ports, served: Arc::default() };
        serve(examples.port(18_080), Arc::clone(&examples.served));
        examples
    }

    /// The port that stands for the written one.
    fn port(&self, written: u16) -> u16 {
        WRITTEN.iter().position(|known| *known == written).map(|at| self.ports[at]).expect("a port of the examples")
    }

    /// Starts the program on one of the files and waits until it says that it is ready.
    fn run(&self, file: &str, observed: u16) -> Sidecar {
        let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let log = std::fs::File::create(self.folder.path().join(file).with_extension("log")).expect("a log");
        let child = program.arg("run").arg("--config").arg(self.folder.path().join(file)).stdout(Stdio::null()).stderr(log).spawn().expect("the program");
        let sidecar = Sidecar { child, log: self.folder.path().join(file).with_extension("log") };
        for _ in 0..400 {
            if get(self.port(observed), "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return sidecar;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("{file} is not ready: {}", sidecar.log());
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

/// A running program; killed if a test fails.
struct Sidecar {
    child: Child,
    log: std::path::PathBuf,
}

impl Sidecar {
    /// Waits until the log says this: lines are written by a thread of their own.
    fn says(&self, wanted: &str) {
        for _ in 0..1000 {
            if self.log().contains(wanted) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{wanted} is not in {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to stop and expects that it ends well.
    fn stop(mut self) {
        let told = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().expect("kill");
        assert!(told.success());
        let status = self.child.wait().expect("an end");
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_client_sidecar_reaches_a_server_sidecar_and_refuses_another_measurement() {
    let examples = Examples::copy();
    let server = examples.run("server.toml", 19_464);
    let client = examples.run("client.toml", 19_465);
    assert!(get(examples.port(14_140), "/").is_some_and(|answer| answer.ends_with("behind")), "{}", client.log());
    client.stop();

    let policy = examples.folder.path().join("app.json");
    let text = std::fs::read_to_string(&policy).expect("the policy");
    std::fs::write(&policy, text.replacen("\"measurement\": \"70", "\"measurement\": \"71", 1)).expect("the policy");
    let served = examples.served();
    let client = examples.run("client.toml", 19_465);
    assert_eq!(get(examples.port(14_140), "/"), None, "another measurement is let through");
    client.says("measurement_unknown");
    assert_eq!(examples.served(), served, "the service saw a connection that was refused");
    client.stop();
    server.stop();
}

#[test]
fn two_mutual_sidecars_reach_each_other() {
    let examples = Examples::copy();
    let a = examples.run("mutual-a.toml", 19_543);
    let b = examples.run("mutual-b.toml", 19_544);
    for port in [14_143, 14_144] {
        assert!(get(examples.port(port), "/").is_some_and(|answer| answer.ends_with("behind")), "{}\n{}", a.log(), b.log());
    }
    a.says("session-mutual");
    b.says("session-mutual");
    a.stop();
    b.stop();
}

/// One plain request; `None` when the connection is refused, reset or closed without an answer.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// A service that says one word and counts who connects, until the test's process ends.
fn serve(port: u16, served: Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the service's port");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            served.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nbehind");
        }
    });
}

/// Ports that were free a moment ago: all held at once, so that they differ, then let go.
fn free_ports() -> [u16; WRITTEN.len()] {
    let held = WRITTEN.map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let ports = held.each_ref().map(|listener| listener.local_addr().expect("an address").port());
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
    ports
}
