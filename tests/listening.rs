//! Where the program listens: TCP ports that processes share, and Unix sockets that are somebody's.
#![cfg(feature = "simulator")]

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use program::Desk;
use rustix::process::{Pid, Signal, kill_process};

fn desk(name: &str, bind: &str, more: &str) -> Desk {
    let desk = Desk::new();
    desk.write(
        "c.toml",
        format!(
            "version = 1\n[identity]\nprovider = \"simulator\"\nnames = [\"{name}.test\"]\n[[listener]]\nname = \"in\"\nbind = \"{bind}\"\n{more}\
             certificate = \"attested\"\nupstream = \"app\"\n[[upstream]]\nname = \"app\"\ntargets = [\"tcp://127.0.0.1:9\"]\n"
        ),
    );
    desk
}

/// A program that listens, and how many connections it has told of.
struct Running {
    child: Child,
    connections: Arc<AtomicUsize>,
    told: Option<JoinHandle<()>>,
}

impl Running {
    fn start(desk: &Desk) -> Self {
        Self::of(desk.command(["run", "-c", "c.toml"], &[]))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
        let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut before = Vec::new();
        let listens = said.by_ref().any(|line| {
            let listens = line.contains("listening");
            before.push(line);
            listens
        });
        assert!(listens, "it listens: {before:#?}");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let told = std::thread::spawn(move || {
            for line in said {
                counted.fetch_add(usize::from(line.contains(" connection: ")), Ordering::SeqCst);
            }
        });
        Self { child, connections, told: Some(told) }
    }

    /// Ends it, and says how many connections it had.
    fn end(mut self) -> usize {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a signal");
        assert_eq!(self.child.wait().expect("its end").code(), Some(0));
        self.told.take().expect("once").join().expect("it reads");
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Comes with what is no TLS, and waits until that is answered.
fn knock(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("written");
    // An alert, or a reset.
    let _ = stream.read_to_end(&mut Vec::new());
}

/// With so many connections, one process would get none of them once in 2^63.
const MANY: usize = 64;

#[test]
fn processes_share_a_port_where_all_of_them_say_so() {
    let port = free();
    let address = format!("127.0.0.1:{port}");
    let shared = "reuse_port = true\n";
    let (one, other, alone) = (desk("one", &address, shared), desk("other", &address, shared), desk("alone", &address, ""));
    let (first, second) = (Running::start(&one), Running::start(&other));
    (0..MANY).for_each(|_| knock(port));
    let refused = alone.run("run -c c.toml");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains(&address) && refused.stderr.contains("write reuse_port = true in every process"), "{}", refused.stderr);
    let (first, second) = (first.end(), second.end());
    assert_eq!(first + second, MANY);
    assert!(first > 0 && second > 0, "{first} and {second}");

    // Nor does one that says so take the port of one that does not.
    let held = Running::start(&alone);
    let refused = one.run("run -c c.toml");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("a process without reuse_port has it"), "{}", refused.stderr);
    assert_eq!(held.end(), 0);
}

#[test]
fn a_unix_socket_is_whose_the_file_says() {
    if !rustix::process::geteuid().is_root() {
        program::skipped::cases(1, "only root gives files away");
        return;
    }
    let desk = desk("in", "unix:in.sock", "mode = \"0660\"\nowner = \"65533:65532\"\n");
    let running = Running::start(&desk);
    let file = fs::metadata(desk.path("in.sock")).expect("a socket");
    assert_eq!((file.uid(), file.gid(), file.permissions().mode() & 0o777), (65_533, 65_532, 0o660));
    running.end();
    assert!(!desk.path("in.sock").exists());

    desk.write("c.toml", desk.text("c.toml").replace("65533:65532", ":65532"));
    let running = Running::start(&desk);
    let file = fs::metadata(desk.path("in.sock")).expect("a socket");
    assert_eq!((file.uid(), file.gid()), (0, 65_532));
    running.end();

    // Without the right to give it away it goes to a group of the process's own, and else nothing is served.
    if Command::new("setpriv").arg("--version").output().is_err() {
        program::skipped::cases(1, "no setpriv (Debian: util-linux)");
        return;
    }
    let bereft = |groups: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-chown", "--inh-caps=-chown", groups, env!("CARGO_BIN_EXE_portcullis"), "run", "-c", "c.toml"]);
        command.current_dir(desk.path(""));
        command
    };
    let running = Running::of(bereft("--groups=65532"));
    assert_eq!(fs::metadata(desk.path("in.sock")).expect("a socket").gid(), 65_532);
    running.end();
    let output = bereft("--clear-groups").output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("`owner` needs CAP_CHOWN"), "{said}");
    assert!(!desk.path("in.sock").exists(), "its file is taken away again");
}
