//! Listeners and upstreams over vsock, through the built program. Connections need a kernel whose context id 1 is this machine.
#![cfg(feature = "simulator")]

#[path = "support/program.rs"]
mod program;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::process::{Child, Command, Stdio};

use program::{Desk, mesh, said, stop};
use socket2::{Domain, SockAddr, Socket, Type};

const HERE: u32 = 1;
const ANY: u32 = u32::MAX;

/// A port of vsock that the system chose, and who has it.
fn bound(cid: u32) -> std::io::Result<(Socket, u32)> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    socket.bind(&SockAddr::vsock(cid, ANY))?;
    let (_, port) = socket.local_addr()?.as_vsock_address().expect("an address of vsock");
    Ok((socket, port))
}

/// A plain listener over vsock whose connections go over vsock to an attested one, whose connections go over vsock to the
/// application.
fn desk(out: &str, far: (u32, u32), inward: &str, app: u32) -> Desk {
    let desk = Desk::new();
    desk.write("mesh.json", mesh());
    desk.write(
        "c.toml",
        format!(
            "version = 1\n[identity]\nprovider = \"simulator\"\nnames = [\"far.test\"]\n\
             [[listener]]\nname = \"out\"\nbind = \"{out}\"\ninsecure_remote_listener = true\nupstream = \"far\"\n\
             [[listener]]\nname = \"in\"\nbind = \"{inward}\"\ncertificate = \"attested\"\nupstream = \"app\"\n\
             [[upstream]]\nname = \"app\"\ntargets = [\"vsock://{HERE}:{app}\"]\ninsecure_remote_upstream = true\n\
             [[upstream]]\nname = \"far\"\ntargets = [\"tls+vsock://{}:{}\"]\nserver_name = \"far.test\"\nattested = {{ policy = \"mesh\" }}\n\
             [policy.mesh]\nfile = \"mesh.json\"\n",
            far.0, far.1
        ),
    );
    desk
}

fn start(desk: &Desk) -> (Child, impl Iterator<Item = String>) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let mut child = program.args(["run", "-c", "c.toml"]).current_dir(desk.path("")).stderr(Stdio::piped()).spawn().expect("the program");
    let said = said(&mut child);
    (child, said)
}

#[test]
fn bytes_go_over_vsock_to_who_is_attested_and_from_there_to_the_application() {
    let Ok((app, app_port)) = bound(HERE) else {
        program::skipped::cases(1, "no vsock within this machine (the module vsock_loopback)");
        return;
    };
    app.listen(8).expect("listening");
    let free = || bound(ANY).expect("a free port").1;
    let (out, inward) = (free(), free());
    let desk = desk(&format!("vsock:{HERE}:{out}"), (HERE, inward), &format!("vsock:any:{inward}"), app_port);
    let (child, mut said) = start(&desk);
    let expected = format!("vsock:any:{inward}");
    assert!(said.any(|line| line.contains("listening") && line.contains(&expected)), "it listens");
    let mut client = Socket::new(Domain::VSOCK, Type::STREAM, None).expect("a socket");
    client.connect(&SockAddr::vsock(HERE, out)).expect("connected");
    let asked: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let echo = std::thread::spawn(move || {
        let (mut served, _) = app.accept().expect("a connection");
        let mut got = Vec::new();
        served.read_to_end(&mut got).expect("bytes, and their end");
        served.write_all(&got).expect("written");
    });
    client.write_all(&asked).expect("written");
    client.shutdown(Shutdown::Write).expect("an end of one way");
    let mut answered = Vec::new();
    client.read_to_end(&mut answered).expect("read");
    echo.join().expect("the application ends");
    assert!(answered == asked, "{} octets of {}", answered.len(), asked.len());
    stop(child, said);
}

/// With or without vsock in the kernel: what cannot be is told at the start, with its fix.
#[test]
fn a_start_tells_what_the_kernel_has_not() {
    let (inward, refusal) = match bound(ANY) {
        Ok((_, port)) => (port, "the context id is not this machine's"),
        Err(_) => (9, "this kernel has no vsock"),
    };
    // Nobody's.
    let run = desk("127.0.0.1:0", (2, 9), &format!("vsock:{}:{inward}", ANY - 1), 9).run("run -c c.toml");
    assert!(run.code == 2 && run.stderr.contains(refusal), "{}", run.shown());
    if inward == 9 {
        let upstream = desk("127.0.0.1:0", (2, 9), "127.0.0.1:0", 9).run("run -c c.toml");
        assert!(upstream.code == 2 && upstream.stderr.contains("cannot be reached") && upstream.stderr.contains(refusal), "{}", upstream.shown());
        return;
    }
    let desk = desk("127.0.0.1:0", (2, 9), &format!("vsock:any:{inward}"), 9);
    let (child, mut said) = start(&desk);
    assert!(said.any(|line| line.contains("listening") && line.contains(&format!("vsock:any:{inward}"))), "it listens");
    stop(child, said);
}
