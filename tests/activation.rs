//! Sockets that the program is started with, as systemd passes them.
#![cfg(feature = "simulator")]

#[path = "support/program.rs"]
mod program;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use program::{Desk, mesh, said, stop};

/// Puts its stdin and stdout where systemd's sockets are, then becomes the program.
const PASS: &str = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; export LISTEN_PID=${PASSED_TO:-$$}; exec \"$0\" run -c c.toml";

fn desk(listeners: &str, far: u16, app: u16) -> Desk {
    let desk = Desk::new();
    desk.write("mesh.json", mesh());
    desk.write(
        "c.toml",
        format!(
            "version = 1\n[identity]\nprovider = \"simulator\"\nnames = [\"far.test\"]\n{listeners}\n\
             [[upstream]]\nname = \"app\"\ntargets = [\"tcp://127.0.0.1:{app}\"]\n\
             [[upstream]]\nname = \"far\"\ntargets = [\"tls://127.0.0.1:{far}\"]\nserver_name = \"far.test\"\nattested = {{ policy = \"mesh\" }}\n\
             [policy.mesh]\nfile = \"mesh.json\"\n"
        ),
    );
    desk
}

const IN: &str = "[[listener]]\nname = \"in\"\nbind = \"systemd:in\"\ncertificate = \"attested\"\nupstream = \"app\"\n";
const OUT: &str = "[[listener]]\nname = \"out\"\nbind = \"systemd:out\"\nupstream = \"far\"\n";

fn start(desk: &Desk, sockets: (OwnedFd, Option<OwnedFd>), environment: &[(&str, &str)]) -> Child {
    let second = sockets.1.unwrap_or_else(|| File::open("/dev/null").expect("a device").into());
    let mut shell = Command::new("sh");
    shell.args(["-c", PASS, env!("CARGO_BIN_EXE_portcullis")]).current_dir(desk.path("")).env_clear().env("LC_ALL", "C.UTF-8");
    shell.envs(environment.iter().copied()).stdin(sockets.0).stdout(second).stderr(Stdio::piped()).spawn().expect("a shell")
}

/// What a start that must fail says.
fn refused(desk: &Desk, sockets: (OwnedFd, Option<OwnedFd>), environment: &[(&str, &str)]) -> String {
    let output = start(desk, sockets, environment).wait_with_output().expect("it ends");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

fn tcp(address: &str) -> TcpListener {
    TcpListener::bind(address).expect("a free port")
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("an address").port()
}

#[test]
fn listeners_take_the_sockets_of_their_names_and_leave_their_files() {
    let (app, inward) = (tcp("127.0.0.1:0"), tcp("[::1]:0"));
    let desk = desk(&format!("{OUT}{IN}"), port(&inward), port(&app));
    let path = desk.path("out.sock");
    let outward = UnixListener::bind(&path).expect("a socket");
    desk.write("c.toml", desk.text("c.toml").replace("tls://127.0.0.1", "tls://[::1]"));
    let mut child = start(&desk, (inward.into(), Some(outward.into())), &[("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "in:out")]);
    // Connected before anybody serves: systemd's sockets listen already.
    let mut client = UnixStream::connect(&path).expect("connected");
    client.write_all(b"hello").expect("written");
    let (mut served, _) = app.accept().expect("a connection");
    let mut got = [0; 5];
    served.read_exact(&mut got).expect("bytes");
    assert_eq!(&got, b"hello");
    drop((client, served));
    let said = said(&mut child);
    stop(child, said);
    assert!(path.exists(), "the socket's file is systemd's");
}

/// Only the socket itself tells who can announce connections at it.
#[test]
fn announcements_that_cannot_come_to_a_socket_stop_the_start() {
    let announced = |from: &str| desk(&IN.replace("upstream", &format!("proxy_protocol_from = [{from}]\nupstream")), 9, 9);
    let environment = [("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "in")];
    let folder = Desk::new();
    let unix = UnixListener::bind(folder.path("in.sock")).expect("a socket");
    let said = refused(&announced("\"127.0.0.1\""), (unix.into(), None), &environment);
    assert!(said.contains("proxy_protocol_from takes [\"unix\"]: it is a Unix socket"), "{said}");
    let said = refused(&announced("\"unix\""), (tcp("127.0.0.1:0").into(), None), &environment);
    assert!(said.contains("proxy_protocol_from takes addresses: it is a TCP socket"), "{said}");
}

/// Nothing is served where anything about the sockets is not as it should be, and each time the fix is named.
#[test]
fn what_was_not_passed_as_it_should_stops_the_start() {
    let one = |names: &'static str| [("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", names)];
    let (attested, plain) = (desk(IN, 9, 9), desk(OUT, 9, 9));
    let socket = || OwnedFd::from(tcp("127.0.0.1:0"));
    let cases: Vec<(&Desk, OwnedFd, Option<OwnedFd>, Vec<(&str, &str)>, &str)> = vec![
        (&attested, socket(), None, one("inn").into(), "FileDescriptorName=in in a .socket unit"),
        (&attested, socket(), None, [("LISTEN_FDS", "1")].into(), "(\"unknown\")"),
        (&attested, socket(), None, Vec::new(), "there is none"),
        (&attested, socket(), None, [one("in").as_slice(), &[("PASSED_TO", "1")]].concat(), "there is none"),
        (&attested, socket(), None, one("in:in").into(), "LISTEN_FDNAMES is not what systemd writes"),
        (&attested, socket(), None, [("LISTEN_FDS", "99999999999"), ("LISTEN_FDNAMES", "in")].into(), "LISTEN_FDS is not what systemd writes"),
        (&attested, socket(), Some(socket()), [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "in:in")].into(), "several sockets are called in"),
        (&attested, socket(), Some(socket()), [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "in:more")].into(), "no listener takes what systemd passes as \"more\""),
        (&attested, std::net::UdpSocket::bind("127.0.0.1:0").expect("a port").into(), None, one("in").into(), "neither a TCP nor a Unix stream socket"),
        (&attested, File::open("/dev/null").expect("a device").into(), None, one("in").into(), "neither a TCP nor a Unix stream socket"),
        (&attested, UnixStream::pair().expect("a pair").0.into(), None, one("in").into(), "Accept=no"),
        (&plain, tcp("0.0.0.0:0").into(), None, one("out").into(), "can be reached from beyond this machine"),
        (&plain, tcp("[::]:0").into(), None, one("out").into(), "can be reached from beyond this machine"),
    ];
    for (desk, first, second, environment, wanted) in cases {
        let said = refused(desk, (first, second), &environment);
        assert!(said.contains(wanted), "{wanted}\n{said}");
    }
}

#[test]
fn a_plain_listener_that_was_let_takes_a_socket_for_everybody() {
    let desk = desk(&OUT.replace("upstream", "insecure_remote_listener = true\nupstream"), 9, 9);
    let mut child = start(&desk, (tcp("0.0.0.0:0").into(), None), &[("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "out")]);
    let mut said = said(&mut child);
    assert!(said.any(|line| line.contains("listening")), "it starts");
    stop(child, said);
}

#[test]
fn systemds_own_tool_passes_a_socket() {
    if Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        program::skipped::cases(1, "no systemd-socket-activate (Debian: systemd)");
        return;
    }
    let (app, free) = (tcp("127.0.0.1:0"), tcp("127.0.0.1:0"));
    let (desk, address) = (desk(IN, 9, port(&app)), free.local_addr().expect("an address").to_string());
    drop(free);
    let mut tool = Command::new("systemd-socket-activate");
    tool.args(["--listen", &address, "--fdname", "in", env!("CARGO_BIN_EXE_portcullis"), "run", "-c", "c.toml"]);
    let mut child = tool.current_dir(desk.path("")).stderr(Stdio::piped()).spawn().expect("the tool");
    let mut said = said(&mut child);
    assert!(said.any(|line| line.contains("Listening on")), "it waits");
    let client = TcpStream::connect(&address).expect("connected");
    assert!(said.any(|line| line.contains("listening") && line.contains(&address)), "the program took the socket");
    drop(client);
    stop(child, said);
}

#[test]
fn check_says_which_sockets_it_cannot_see() {
    let desk = desk(IN, 9, 9);
    let run = desk.run("check -c c.toml");
    assert!(run.code == 0 && run.stderr.contains("systemd:in is looked for at the start"), "{}", run.shown());
    assert_eq!(desk.run("check -c c.toml --json").json()["sockets"], serde_json::json!(["in"]));
}
