//! Captured connections, in two network namespaces that the test makes: an application that knows nothing reaches an attested
//! service, and reaches nothing else.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/peers.rs"]
mod peers;
#[path = "support/skipped.rs"]
mod skipped;

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use portcullis::attester::simulator::MEASUREMENT;

/// Two namespaces with a cable between them: 10.77.0.1 in `a`, 10.77.0.2 in `b`, and everything else from `a` by way of `b`.
struct Net {
    a: String,
    b: String,
    folder: tempfile::TempDir,
}

/// A program in a namespace; ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in [&self.a, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", space]).status();
        }
    }
}

impl Net {
    /// `None`, said aloud, where namespaces cannot be made.
    fn make(name: &str) -> Option<Self> {
        for program in ["ip", "nft", "curl", "python3", "setpriv"] {
            peers::installed(program)?;
        }
        let (a, b) = (format!("{name}-a-{}", std::process::id()), format!("{name}-b-{}", std::process::id()));
        let folder = tempfile::tempdir().expect("a folder");
        let made = Command::new("ip").args(["netns", "add", &a]).output().expect("ip runs");
        if !made.status.success() {
            skipped::cases(1, "network namespaces need root");
            return None;
        }
        let net = Self { a, b, folder };
        run(Command::new("ip").args(["netns", "add", &net.b]));
        run(Command::new("ip").args(["-n", &net.a, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", &net.b]));
        for (space, address) in [(&net.a, "10.77.0.1/24"), (&net.b, "10.77.0.2/24")] {
            run(Command::new("ip").args(["-n", space, "link", "set", "lo", "up"]));
            run(Command::new("ip").args(["-n", space, "link", "set", "wire", "up"]));
            run(Command::new("ip").args(["-n", space, "addr", "add", address, "dev", "wire"]));
        }
        run(Command::new("ip").args(["-n", &net.a, "route", "add", "default", "via", "10.77.0.2"]));
        // The sidecar of an ordinary user reads what is here.
        run(Command::new("chmod").arg("755").arg(net.folder.path()));
        let policy = format!(
            r#"{{ "version": 1, "name": "mesh", "insecure_roots": ["simulator"], "accept": [ {{ "id": "web-1", "tee": "sev-snp", "measurement": "{}" }} ] }}"#,
            data_encoding::HEXLOWER.encode(&MEASUREMENT)
        );
        std::fs::write(net.folder.path().join("mesh.json"), policy).expect("written");
        std::fs::write(net.folder.path().join("index.html"), "behind\n").expect("written");
        Some(net)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn inside(space: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", space]).args(words).stdin(Stdio::null());
        command
    }

    /// A service in `b` that answers with "behind" and logs who asks.
    fn service(&self) -> Running {
        let log = std::fs::File::create(self.path("service.log")).expect("a log");
        let folder = self.folder.path().display().to_string();
        let mut command = Self::inside(&self.b, &["python3", "-m", "http.server", "8080", "--bind", "127.0.0.1", "--directory", &folder]);
        let running = Running(command.stdout(Stdio::null()).stderr(log).spawn().expect("Python runs"));
        until("the service", || Self::inside(&self.b, &["curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:8080/"]).status().expect("curl runs").success());
        running
    }

    fn served(&self) -> usize {
        std::fs::read_to_string(self.path("service.log")).unwrap_or_default().matches("\"GET /wanted ").count()
    }

    /// A sidecar in a namespace, ready; as an ordinary user, whom the rules let out, or as root.
    fn sidecar(&self, space: &str, name: &str, user: &[&str], text: &str) -> Running {
        let file = self.path(name).with_extension("toml");
        std::fs::write(&file, format!("version = 1\n{text}\n[policy.mesh]\nfile = \"mesh.json\"\n[observe]\nbind = \"127.0.0.1:9464\"\n")).expect("written");
        let log = std::fs::File::create(self.path(name).with_extension("log")).expect("a log");
        let (program, file) = (env!("CARGO_BIN_EXE_portcullis").to_owned(), file.display().to_string());
        let words = [user, &[&program, "run", "--config", &file]].concat();
        let running = Running(Self::inside(space, &words).stdout(Stdio::null()).stderr(log).spawn().expect("the program runs"));
        let ready = || Self::inside(space, &["curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:9464/readyz"]).status().expect("curl runs").success();
        until(name, ready);
        running
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name).with_extension("log")).unwrap_or_default()
    }

    /// Whether the log tells this, at once or soon: it is written after the connection ended.
    fn tells(&self, name: &str, what: &str) -> bool {
        let told = || self.log(name).contains(what);
        (0..100).any(|_| {
            told() || {
                std::thread::sleep(Duration::from_millis(50));
                false
            }
        })
    }

    fn rules(&self, space: &str, text: &str) {
        std::fs::write(self.path("rules"), text).expect("written");
        run(&mut Self::inside(space, &["nft", "-f", &self.path("rules").display().to_string()]));
    }

    /// curl in `a`, which is told of nothing.
    fn curl(&self, url: &str) -> Output {
        Self::inside(&self.a, &["curl", "-sS", "--max-time", "10", url]).output().expect("curl runs")
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn until(what: &str, mut good: impl FnMut() -> bool) {
    for _ in 0..200 {
        if good() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what} is not ready");
}

/// The answer of the service is python's: a file that is not there is asked for, so that the log tells those requests apart.
fn reached(output: &Output) -> bool {
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains("File not found")
}

const SERVER: &str = "[identity]\nprovider = \"simulator\"\nnames = [\"far.test\"]\n[[upstream]]\nname = \"app\"\ntargets = [\"tcp://127.0.0.1:8080\"]\n\
     [[listener]]\nname = \"in\"\nbind = \"10.77.0.2:8443\"\ncertificate = \"attested\"\nupstream = \"app\"\n";

const FAR: &str = "[[upstream]]\nname = \"far\"\ntargets = [\"tls://10.77.0.2:8443\"]\nserver_name = \"far.test\"\nattested = { policy = \"mesh\" }\n";

const NOBODY: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];

#[test]
fn redirected_applications_reach_an_attested_service_knowing_nothing() {
    let Some(net) = Net::make("redirect") else { return };
    let _service = net.service();
    let server = net.sidecar(&net.b, "server", &[], SERVER);
    let captured = format!(
        "{FAR}[[listener]]\nname = \"captured\"\nbind = \"127.0.0.1:15001\"\ncapture = \"redirect\"\n\
         destination = [{{ to = \"10.99.0.0/16:80\", upstream = \"far\" }}, {{ to = \"10.77.0.2:8443\", upstream = \"far\" }}]\n\
         [[listener]]\nname = \"both\"\nbind = \"[::]:15002\"\ninsecure_remote_listener = true\ncapture = \"redirect\"\n\
         destination = [{{ to = \"127.0.0.0/8\", upstream = \"far\" }}]\n"
    );
    net.rules(
        &net.a,
        "table ip capture {\n chain out {\n  type nat hook output priority -100;\n  meta skuid 65534 return\n  ip daddr 127.0.0.0/8 return\n  tcp dport { 80, 8443 } redirect to :15001\n }\n}\n",
    );
    let client = net.sidecar(&net.a, "client", NOBODY, &captured);
    let answer = net.curl("http://10.99.1.1/wanted");
    assert!(reached(&answer), "{answer:?}\n{}", net.log("client"));
    assert_eq!(net.served(), 1);
    assert!(net.tells("client", "10.99.1.1:80"), "{}", net.log("client"));

    // Not in the table, though somebody listens there; and the capturing port itself.
    for (url, reason) in [("http://10.77.0.2/wanted", "destination_unknown"), ("http://127.0.0.1:15001/wanted", "proxy_loop")] {
        let answer = net.curl(url);
        assert!(!answer.status.success(), "{url}: {answer:?}");
        assert!(net.tells("client", reason), "{url}: {}", net.log("client"));
    }
    assert_eq!(net.served(), 1);
    // A port for both families sees IPv4 as a part of IPv6, and the system tells where it was going as IPv4.
    let answer = net.curl("http://127.0.0.1:15002/wanted");
    assert!(!answer.status.success() && net.served() == 1, "{answer:?}\n{}", net.log("client"));
    drop(client);

    // A sidecar that the rules capture as they do others: its own connection comes back to it, and that is the end of it.
    let _looped = net.sidecar(&net.a, "looped", &[], &captured);
    let answer = net.curl("http://10.99.1.1/wanted");
    assert!(!answer.status.success(), "{answer:?}");
    assert!(net.tells("looped", "proxy_loop"), "{}", net.log("looped"));
    assert_eq!(net.served(), 1);
    drop(server);
}

#[test]
fn connections_handed_over_as_they_are_reach_an_attested_service() {
    let Some(net) = Net::make("tproxy") else { return };
    let _service = net.service();
    let both = format!(
        "{SERVER}{FAR}[[listener]]\nname = \"captured\"\nbind = \"127.0.0.1:15002\"\ncapture = \"tproxy\"\n\
         destination = [{{ to = \"10.99.0.0/16:80\", upstream = \"far\" }}]\n"
    );
    // Without the capability nothing starts, and the fix is told.
    let file = net.path("powerless.toml");
    std::fs::write(&file, format!("version = 1\n{both}\n[policy.mesh]\nfile = \"mesh.json\"\n")).expect("written");
    let file = file.display().to_string();
    let words = [NOBODY, &[env!("CARGO_BIN_EXE_portcullis"), "run", "--config", &file]].concat();
    let output = Net::inside(&net.b, &words).output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("CAP_NET_ADMIN"), "{said}");

    run(Command::new("ip").args(["-n", &net.b, "rule", "add", "fwmark", "1", "lookup", "100"]));
    run(Command::new("ip").args(["-n", &net.b, "route", "add", "local", "default", "dev", "lo", "table", "100"]));
    net.rules(
        &net.b,
        "table ip capture {\n chain pre {\n  type filter hook prerouting priority mangle;\n  ip daddr 10.96.0.0/12 tcp dport 80 tproxy to 127.0.0.1:15002 meta mark set 1 accept\n }\n}\n",
    );
    let _sidecar = net.sidecar(&net.b, "gateway", &[], &both);
    let answer = net.curl("http://10.99.1.1/wanted");
    assert!(reached(&answer), "{answer:?}\n{}", net.log("gateway"));
    assert_eq!(net.served(), 1);
    let answer = net.curl("http://10.98.1.1/wanted");
    assert!(!answer.status.success(), "{answer:?}");
    assert!(net.tells("gateway", "destination_unknown") && net.tells("gateway", "10.98.1.1:80"), "{}", net.log("gateway"));
    assert_eq!(net.served(), 1);
}
