//! Programs of others, as counterparts: found where `tests/run` puts them, or said aloud to be missing.
#![allow(dead_code, reason = "shared by several tests, each of which uses its part")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A program that was started for a test, and ends with it.
pub(crate) struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python with the counterparts' packages, made by `tests/run tools`.
pub(crate) fn python() -> Option<PathBuf> {
    let python = root().join(".cache/tools/peers/bin/python");
    found(python.is_file().then_some(python), "the Python packages grpcio, websockets and pyjwt (tests/run tools)")
}

/// A program of the system.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    found(places.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file()), &format!("{name} (tests/run tools)"))
}

fn found(path: Option<PathBuf>, what: &str) -> Option<PathBuf> {
    if path.is_none() {
        println!("SKIPPED: {what} is not installed");
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is left out: {what}");
    }
    path
}

/// A script of `tests/peers` as a server at a free port; it says "ready" when it is.
pub(crate) fn serve(python: &Path, script: &str) -> (Peer, SocketAddr) {
    let address = free();
    let mut child = Command::new(python)
        .arg(root().join("tests/peers").join(script))
        .args(["server", &address.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n", "{script}");
    (Peer(child), address)
}

/// Runs a script of `tests/peers` to its end; gives what it printed.
pub(crate) async fn ask(python: &Path, script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(python);
    command.arg(root().join("tests/peers").join(script)).args(arguments).stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("Python runs");
    assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8_lossy(&run.stdout).into_owned()
}

/// Starts a program that stays in the foreground, and waits until it listens at `address`.
pub(crate) async fn start(command: Command, address: SocketAddr) -> Peer {
    started(command, address, 500).await
}

/// The same for one that takes long to start.
pub(crate) async fn start_slow(command: Command, address: SocketAddr) -> Peer {
    started(command, address, 6000).await
}

async fn started(mut command: Command, address: SocketAddr, looks: usize) -> Peer {
    let peer = Peer(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program runs"));
    for _ in 0..looks {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return peer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("nobody listens at {address}");
}

/// A free port of this machine.
pub(crate) fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address")
}
