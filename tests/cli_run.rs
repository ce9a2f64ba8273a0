//! `check` and `run` as people and scripts meet them: what they print, how they end.
#![cfg(feature = "simulator")]

#[path = "support/program.rs"]
mod program;

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use program::Desk;

const POLICY: &str = r#"{ "version": 1, "name": "mesh", "accept": [] }"#;

/// A server whose evidence comes from `provider`, with these further lines under `[identity]`.
fn server(provider: &str, more: &str) -> String {
    format!(
        "version = 1\n[identity]\nprovider = \"{provider}\"\nnames = [\"localhost\"]\n{more}\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\n\
         certificate = \"attested\"\nclients = \"attested\"\npolicy = \"mesh\"\ninsecure_allow_any_genuine_platform = true\nupstream = \"app\"\n\
         [[upstream]]\nname = \"app\"\ntargets = [\"tcp://127.0.0.1:9\"]\n[policy.mesh]\nfile = \"mesh.json\"\n"
    )
}

fn desk(config: &str) -> Desk {
    let desk = Desk::new();
    desk.write("mesh.json", POLICY);
    desk.write("c.toml", config);
    desk
}

fn sha256(text: &str) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&portcullis::crypto::sha256(&[text.as_bytes()])))
}

#[test]
fn check_names_the_configuration_and_its_policies_by_their_digests() {
    let config = server("simulator", "");
    let desk = desk(&config);
    let document = desk.run("check -c c.toml --json").json();
    assert_eq!((document["ok"].as_bool(), document["digest"].as_str()), (Some(true), Some(sha256(&config).as_str())), "{document}");
    let policy = &document["policies"]["mesh"];
    assert_eq!(policy["digest"], sha256(POLICY).as_str());
    assert_eq!((policy["name"].as_str(), policy["mode"].as_str(), policy["entries"].as_u64()), (Some("mesh"), Some("enforce"), Some(0)));
    let text = desk.run("check -c c.toml").stdout;
    assert!(text.contains("ok: 1 listener, 1 upstream, 1 policy\n") && text.contains("(0 entries)"), "{text}");
    assert!(text.contains(&format!("config: {}", sha256(&config))) && text.contains(&format!("policy mesh: {}", sha256(POLICY))), "{text}");
}

#[test]
fn a_certificate_that_cannot_be_presented_is_told_by_its_file_and_what_is_wrong() {
    let config = server("none", "").replace(
        "certificate = \"attested\"\nclients = \"attested\"\npolicy = \"mesh\"\ninsecure_allow_any_genuine_platform = true",
        "protocol = \"http\"\ncertificate = \"files\"\nfiles = { chain = \"chain.pem\", key = \"key.pem\" }",
    );
    let config = config
        .replace("tcp://127.0.0.1:9\"]", "tls://127.0.0.1:9\"]\nattested = { policy = \"mesh\" }")
        .replace("[identity]\nprovider = \"none\"\nnames = [\"localhost\"]\n", "");
    let desk = desk(&config);
    let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let (one, other) = (key(), key());
    let good = rcgen::CertificateParams::new(vec!["app.test".to_owned()]).expect("a name").self_signed(&one).expect("a certificate").pem();
    let mut old = rcgen::CertificateParams::new(vec!["app.test".to_owned()]).expect("a name");
    (old.not_before, old.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2020, 2, 1));
    let old = old.self_signed(&one).expect("a certificate").pem();
    let (one, other) = (one.serialize_pem(), other.serialize_pem());
    for (chain, key, said) in [
        (&good, &one, "ok: "),
        (&good, &other, "no usable key: it is not the key of this certificate"),
        (&good, &good, "key.pem: no PEM private key is in it"),
        (&one, &one, "chain.pem: no PEM certificate is in it"),
        (&old, &one, "2020-02-01"),
    ] {
        desk.write("chain.pem", chain);
        desk.write("key.pem", key);
        let run = desk.run("check -c c.toml");
        assert!(run.shown().contains(said), "{said}: {}", run.shown());
        assert!(said == "ok: " || (run.code == 2 && run.stderr.contains("chain.pem)")), "{}", run.shown());
    }
}

#[test]
fn without_a_tee_run_ends_with_4_and_a_line_for_each_way_that_was_tried() {
    if ["/dev/sev-guest", "/dev/tpmrm0", "/sys/kernel/config/tsm/report"].iter().any(|way| std::path::Path::new(way).exists()) {
        program::skipped::cases(1, "this machine is a TEE: what is said without one");
        return;
    }
    let desk = desk(&server("auto", ""));
    let run = desk.run("run -c c.toml");
    assert_eq!(run.code, 4, "{}", run.shown());
    let told: Vec<_> = run.stderr.lines().skip_while(|line| !line.starts_with("error: ")).collect();
    assert_eq!(told[0], "error: no TEE of this machine gives evidence", "{}", run.shown());
    let (hint, ways) = told[1..].split_last().expect("lines");
    assert!(ways.len() > 2 && ways.iter().all(|line| line.starts_with("  ") && line.contains("; ")), "{}", run.shown());
    assert!(ways.iter().enumerate().all(|(at, line)| !ways[..at].contains(line)), "nothing is said twice: {}", run.shown());
    assert!(hint.contains("portcullis demo") && hint.contains("provider = \"simulator\""), "{hint}");
}

/// What the operator wrote wrong ends with 2, wherever it is found out.
#[test]
fn a_wrong_setting_is_not_a_missing_tee() {
    let desk = desk(&server("simulator", "endorsements = \"staples\""));
    std::fs::create_dir(desk.path("staples")).expect("a folder");
    let run = desk.run("run -c c.toml");
    assert!(run.code == 2 && run.stderr.contains("no file ends in .der"), "{}", run.shown());
    desk.write("staples/crl.der", "nonsense");
    let run = desk.run("run -c c.toml");
    assert!(run.code == 2 && run.stderr.contains("crl.der"), "{}", run.shown());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    desk.write("c.toml", server("simulator", "").replace("127.0.0.1:0", &address));
    let run = desk.run("run -c c.toml");
    assert!(run.code == 2 && run.stderr.contains(&address), "{}", run.shown());
}

#[test]
fn sigterm_ends_with_0_and_sigint_with_130() {
    let desk = desk(&server("simulator", ""));
    for (signal, code) in [(rustix::process::Signal::TERM, 0), (rustix::process::Signal::INT, 130)] {
        let mut child = desk.command(["run", "-c", "c.toml"], &[]).stderr(std::process::Stdio::piped()).spawn().expect("the program");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines().map(|line| line.expect("text"));
        assert!(log.any(|line| line.contains("listening")), "it starts");
        signalled(&child, signal);
        assert!(log.any(|line| line.contains("stopped")), "it drains");
        assert_eq!(child.wait().expect("its end").code(), Some(code));
    }
}

fn signalled(child: &std::process::Child, signal: rustix::process::Signal) {
    let id = i32::try_from(child.id()).expect("a process id");
    rustix::process::kill_process(rustix::process::Pid::from_raw(id).expect("not 0"), signal).expect("a signal");
}

/// The exit code, where there is one soon.
fn ended(child: &mut std::process::Child) -> Option<i32> {
    let by = std::time::Instant::now() + Duration::from_secs(20);
    while std::time::Instant::now() < by {
        if let Some(status) = child.try_wait().expect("its state") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// Sends this and reads to the end; nothing when no end comes soon.
fn answer(address: &str, sent: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(sent.as_bytes()).ok()?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        _ => Some(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// A pipe whose reader stands still takes some 64 KiB. Connections, probes and signals go on beyond that.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let desk = desk(&format!("{}[observe]\nbind = \"127.0.0.1:0\"\n", server("simulator", "")));
    let mut child = desk.command(["run", "-c", "c.toml"], &[]).stderr(std::process::Stdio::piped()).spawn().expect("the program");
    let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
    let (listener, observed) = (address(&mut log), address(&mut log));
    for number in 0..600 {
        assert!(answer(&listener, "this is no TLS\r\n").is_some(), "connection {number} has an end");
    }
    let lively = answer(&observed, "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(lively.as_ref().is_some_and(|answer| answer.starts_with("HTTP/1.1 200")), "{lively:?}");
    let counts = answer(&observed, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(counts.as_ref().is_some_and(|counts| counts.contains("portcullis_log_lines_dropped_total 0")), "a queue is behind the pipe: {counts:?}");
    signalled(&child, rustix::process::Signal::TERM);
    assert_eq!(ended(&mut child), Some(0), "it ends without its log being read");
}

#[test]
fn what_weakens_safety_is_told_at_every_level_of_the_log() {
    let config = server("simulator", "").replace("127.0.0.1:0", "unix:in.sock");
    let desk = desk(&format!("{config}[log]\nlevel = \"error\"\n"));
    let mut child = desk.command(["run", "-c", "c.toml"], &[]).stderr(std::process::Stdio::piped()).spawn().expect("the program");
    let by = std::time::Instant::now() + Duration::from_secs(20);
    while !desk.path("in.sock").exists() && std::time::Instant::now() < by {
        std::thread::sleep(Duration::from_millis(20));
    }
    signalled(&child, rustix::process::Signal::TERM);
    assert_eq!(ended(&mut child), Some(0));
    let mut log = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut log).expect("text");
    for option in ["identity.provider = \\\"simulator\\\"", "listener.in.insecure_allow_any_genuine_platform"] {
        assert!(log.lines().any(|line| line.contains(" WARN insecure: ") && line.contains(option)), "{option} is not in: {log}");
    }
    assert!(!log.contains("listening"), "the level holds for the rest: {log}");
}

/// The program under this limit of open files, soft and hard.
fn limited(desk: &Desk, soft: u32, hard: u32, words: &str) -> std::process::Command {
    let script = format!("ulimit -S -n {soft} && ulimit -H -n {hard} && exec \"$0\" {words}");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script.as_str(), env!("CARGO_BIN_EXE_portcullis")]).current_dir(desk.path("")).stderr(std::process::Stdio::piped());
    command
}

/// 300 descriptors are enough for 112 connections, half of them for one source: it takes what it can, and probes go on.
#[test]
fn one_source_does_not_take_every_descriptor() {
    let patient = server("simulator", "").replace("upstream = \"app\"", "limits = { handshake = \"60s\" }\nupstream = \"app\"");
    let desk = desk(&format!("{patient}[observe]\nbind = \"127.0.0.1:0\"\n"));
    let mut child = limited(&desk, 100, 300, "run -c c.toml").spawn().expect("the program");
    let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
    let (listener, observed) = (address(&mut log), address(&mut log));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("the process's limits");
    let files: Vec<_> = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line").split_whitespace().skip(3).take(2).collect();
    assert_eq!(files, ["300", "300"], "the soft limit is raised");
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(&listener).expect("the kernel takes it")).collect();
    let mut turned_away = None;
    for _ in 0..100 {
        let counts = answer(&observed, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap_or_default();
        turned_away = counts
            .lines()
            .find_map(|line| line.strip_prefix(r#"portcullis_limits_rejected_total{listener="in",limit="connections_per_source"} "#)?.parse().ok());
        if turned_away == Some(200 - 56) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(turned_away, Some(200 - 56));
    drop(silent);
    signalled(&child, rustix::process::Signal::TERM);
    assert_eq!(ended(&mut child), Some(0));
}

#[test]
fn limits_that_cannot_be_had_are_told_by_check() {
    let config = server("simulator", "").replace("upstream = \"app\"", "limits = { connections = 113 }\nupstream = \"app\"");
    let desk = desk(&config);
    let told = |hard, words| {
        let output = limited(&desk, 100, hard, words).output().expect("the program");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let short = "allow 113 connections, and a limit of 300 open files is enough for 112";
    assert!(told(300, "check -c c.toml").contains(short), "{}", told(300, "check -c c.toml"));
    assert!(told(300, "check -c c.toml --json").contains(short));
    assert!(!told(400, "check -c c.toml").contains("open files"));
}

/// What the start would refuse is refused before: a key of another certificate, and one that has ended.
#[test]
fn certificates_from_files_are_read_by_check_as_by_the_start() {
    let desk = desk(
        "version = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"files\"\n\
         files = { chain = \"chain.pem\", key = \"key.pem\" }\nupstream = \"far\"\n\
         [[upstream]]\nname = \"far\"\ntargets = [\"tls://far.test:8443\"]\nattested = { policy = \"mesh\" }\n[policy.mesh]\nfile = \"mesh.json\"\n",
    );
    let pair = |until: i32| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["web.test".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    };
    let (good, ended) = (pair(2100), pair(2021));
    for (chain, key, why) in [(&good.0, &good.1, ""), (&good.0, &ended.1, "listener web"), (&ended.0, &ended.1, "listener web")] {
        desk.write("chain.pem", chain);
        desk.write("key.pem", key);
        let (text, document) = (desk.run("check -c c.toml"), desk.run("check -c c.toml --json"));
        let code = if why.is_empty() { 0 } else { 2 };
        assert_eq!((text.code, document.code, document.json()["ok"].as_bool()), (code, code, Some(code == 0)), "{}{}", text.shown(), document.shown());
        assert!(text.stderr.contains(why), "{}", text.shown());
    }
}

/// The next address that is logged.
fn address(log: &mut impl std::io::BufRead) -> String {
    let told = log.by_ref().lines().map(|line| line.expect("text")).find_map(|line| Some(line.split_once("address=")?.1.to_owned()));
    told.expect("where it listens").split(' ').next().unwrap_or_default().to_owned()
}

/// A server that runs until it is dropped, and where it listens.
struct Serving(std::process::Child, String);

impl Serving {
    fn on(desk: &Desk) -> Self {
        Self::by(desk, &["server", "--listen", "127.0.0.1:0", "--target", "127.0.0.1:9", "--provider", "simulator"])
    }

    fn by(desk: &Desk, words: &[&str]) -> Self {
        let mut child = desk.command(words, &[]).stderr(std::process::Stdio::piped()).spawn().expect("the program");
        let log = BufReader::new(child.stderr.take().expect("a pipe")).lines().map(|line| line.expect("text"));
        let address = log.filter_map(|line| line.split("address=").nth(1).map(|rest| rest.split(' ').next().unwrap_or(rest).to_owned())).next();
        Self(child, address.expect("it listens"))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a listener carries makes no difference to a probe: nothing is said in it.
#[test]
fn a_listener_for_requests_is_probed_as_any_other() {
    let any = "clients = \"attested\"\npolicy = \"mesh\"\ninsecure_allow_any_genuine_platform = true\n";
    let desk = desk(&server("simulator", "").replace(any, "protocol = \"http\"\n").replace("tcp://", "http://"));
    desk.run("policy init lab.json --insecure-simulator");
    let server = Serving::by(&desk, &["run", "--config", "c.toml"]);
    for tier in ["session", "certificate"] {
        let refused = desk.run(&format!("probe {} --policy lab.json --freshness {tier}", server.1));
        assert!(refused.code == 1 && refused.stdout.contains("platform_not_allowed"), "{tier}: {}", refused.shown());
    }
}

#[test]
fn what_probe_saves_is_what_verify_reads() {
    let desk = Desk::new();
    desk.run("policy init lab.json --insecure-simulator");
    let server = Serving::on(&desk);
    let probe = |more: &str| desk.run(&format!("probe {} {more}", server.1));
    for tier in ["session", "certificate"] {
        let refused = probe(&format!("--policy lab.json --freshness {tier} --save {tier}"));
        assert!(refused.code == 1 && refused.stdout.contains("platform_not_allowed"), "also what is refused is saved: {}", refused.shown());
        assert!(refused.stdout.contains(&format!("saved to {tier}: report.bin")), "{}", refused.shown());
    }
    let added = desk.run("policy add lab.json --id one --from session/certificate.der --yes");
    assert_eq!(added.code, 0, "{}", added.shown());
    for tier in ["session", "certificate"] {
        let verified = desk.run(&format!("verify {tier} --policy lab.json --json"));
        let document = verified.json();
        let names: Vec<_> = document["results"].as_array().expect("two").iter().map(|result| result["subject"].as_str().unwrap_or_default()).collect();
        assert_eq!((verified.code, names), (0, vec![&*format!("{tier}/certificate.der"), &*format!("{tier}/report.bin")]), "{}", verified.shown());
    }
    let full = probe("--policy lab.json --save session");
    assert!(full.code == 2 && full.stderr.contains("is not empty"), "{}", full.shown());
    let saved = probe("--policy lab.json --save again --json");
    let document = saved.json();
    let mut files: Vec<_> = document["saved"].as_array().expect("files").iter().filter_map(serde_json::Value::as_str).collect();
    files.sort_unstable();
    assert_eq!(files, ["ask.der", "certificate.der", "crl.der", "report.bin", "vcek.der"], "{}", saved.shown());
}
