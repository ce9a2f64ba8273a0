//! GPUs beside a TEE, through whole sidecars: the simulator's and those of a local service. Traffic flows where a policy
//! requires them and they are there; a service that is wrong stops the start; one that is slow holds up nobody else.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/configured.rs"]
mod configured;
#[path = "support/program.rs"]
mod program;
#[path = "support/references.rs"]
mod references;
#[path = "support/sidecar.rs"]
mod sidecar;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use configured::{PATIENCE, done, echo, exchange, start, tried};
use data_encoding::{BASE64, HEXLOWER};
use portcullis::app::App;
use portcullis::attester::simulator::gpu::GpuForge;
use portcullis::clock::Clock;
use portcullis::evidence::gpu::Gpu;
use portcullis::evidence::leaf::Leaf;
use portcullis::tls::ALPN_RAW;
use program::Desk;
use references::Changed;
use rustls::pki_types::ServerName;
use sidecar::careless_client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::Semaphore;

/// A folder with a policy for the simulator's guest, and one for it with each of these sets of members.
fn desk() -> Desk {
    let desk = Desk::new();
    done(&desk, "simulate evidence");
    done(&desk, "policy init bare.json --insecure-simulator");
    done(&desk, "policy add bare.json --id guest --from evidence --yes");
    let bare = desk.text("bare.json");
    for (name, members) in [("one", r#""gpu/0""#), ("two", r#""gpu/0", "gpu/1""#), ("three", r#""gpu/0", "gpu/1", "gpu/2""#)] {
        let with = bare.replacen(r#""id": "guest""#, &format!(r#""id": "guest", "require": [{members}]"#), 1);
        assert_ne!(with, bare, "the policy has its entry written in another way: {bare}");
        desk.write(&format!("{name}.json"), with);
    }
    desk
}

/// A server sidecar with these lines of `[identity]`, before a service.
fn server(service: SocketAddr, identity: &str, clients: &str) -> String {
    format!(
        "version = 1\ndrain_grace = \"1s\"\n[identity]\nprovider = \"simulator\"\nnames = [\"localhost\"]\n{identity}\n\
         [policy.p]\nfile = \"one.json\"\n\
         [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nupstream = \"app\"\n{clients}\n\
         [[upstream]]\nname = \"app\"\ntargets = [\"tcp://{service}\"]\n"
    )
}

/// A client sidecar that judges by this policy.
fn client(policy: &str, identity: &str, server: &App) -> String {
    let address = server.tcp_address("in").expect("TCP");
    format!(
        "version = 1\ndrain_grace = \"1s\"\n{identity}\n[policy.p]\nfile = \"{policy}.json\"\n\
         [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nupstream = \"far\"\n\
         [[upstream]]\nname = \"far\"\ntargets = [\"tls://{address}\"]\nattested = {{ policy = \"p\" }}\n"
    )
}

const SIMULATED: &str = "[identity.simulator]\ngpus = 2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_flows_where_the_required_gpus_are_there_and_nowhere_else() {
    let (desk, (service, served)) = (desk(), echo().await);
    let with = start(&desk, &server(service, SIMULATED, "")).await;
    for policy in ["bare", "one", "two"] {
        let through = start(&desk, &client(policy, "", &with)).await;
        let text = format!("beside a TEE: {policy} ").repeat(10_000);
        assert!(exchange(&through, &text).await.is_some_and(|echoed| echoed == text), "{policy}");
        through.drain().await;
    }
    let before = served.load(Ordering::SeqCst);
    let without = start(&desk, &server(service, "", "")).await;
    for (policy, far) in [("three", &with), ("one", &without)] {
        let through = start(&desk, &client(policy, "", far)).await;
        assert_eq!(exchange(&through, "refused").await, None, "{policy}");
        assert!(through.metrics().text().contains("auxiliary_unbound"), "{policy}: {}", through.metrics().text());
        through.drain().await;
    }
    assert_eq!(served.load(Ordering::SeqCst), before, "the service saw a connection that was refused");
    // Only those that asked were given: two that require them, and one that requires more.
    assert!(with.metrics().text().contains("portcullis_device_evidence_total 3"), "{}", with.metrics().text());
    with.drain().await;
    without.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_shows_its_gpus_to_a_server_that_requires_them() {
    let (desk, (service, served)) = (desk(), echo().await);
    let clients = "clients = \"attested\"\npolicy = \"p\"\ninsecure_allow_any_genuine_platform = true\n";
    let far = start(&desk, &server(service, "", clients)).await;
    let identity = |gpus: &str| format!("[identity]\nprovider = \"simulator\"\nnames = [\"client.test\"]\n{gpus}");
    let through = start(&desk, &client("bare", &identity(SIMULATED), &far)).await;
    assert_eq!(exchange(&through, "mutual").await.as_deref(), Some("mutual"));
    through.drain().await;
    let before = served.load(Ordering::SeqCst);
    let through = start(&desk, &client("bare", &identity(""), &far)).await;
    assert_eq!(exchange(&through, "refused").await, None);
    assert_eq!(served.load(Ordering::SeqCst), before, "the service saw a connection that was refused");
    assert!(far.metrics().text().contains("auxiliary_unbound"), "{}", far.metrics().text());
    through.drain().await;
    far.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_carries_no_gpu() {
    let (desk, (service, _)) = (desk(), echo().await);
    let far = start(&desk, &server(service, SIMULATED, "")).await;
    let stream = TcpStream::connect(far.tcp_address("in").expect("TCP")).await.expect("a listener");
    let config = Arc::new(careless_client(&[ALPN_RAW]));
    let stream = tokio_rustls::TlsConnector::from(config).connect(ServerName::try_from("localhost").expect("a name"), stream).await.expect("TLS");
    let leaf = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
    let evidence = Leaf::read(&leaf).and_then(|leaf| leaf.evidence()).unwrap_or_else(|denied| panic!("{denied}"));
    assert!(leaf.len() < 16 * 1024 && evidence.tee.auxiliary.is_empty() && evidence.endorsements.iter().all(|one| !one.name.starts_with("gpu")));
    far.drain().await;
}

/// A local service of GPUs: answers what `answer` says, one connection after the other, where `turns` allow.
struct Service {
    socket: PathBuf,
    asked: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Service {
    fn start(folder: &Path, turns: Arc<Semaphore>, answer: impl Fn(&[u8; 32]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let socket = folder.join("gpu.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let asked = Arc::new(AtomicUsize::new(0));
        let (counter, answer) = (Arc::clone(&asked), Arc::new(answer));
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (counter, turns, answer) = (Arc::clone(&counter), Arc::clone(&turns), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut line = Vec::new();
                    let _ = stream.read_to_end(&mut line).await;
                    let nonce = line.strip_suffix(b"\n").and_then(|hex| HEXLOWER.decode(hex).ok()?.try_into().ok()).expect("64 digits and a line feed");
                    counter.fetch_add(1, Ordering::SeqCst);
                    let _turn = turns.acquire().await;
                    let _ = stream.write_all(&answer(&nonce)).await;
                });
            }
        });
        Self { socket, asked, serving }
    }

    fn identity(&self, further: &str) -> String {
        format!("[identity.gpus]\nsocket = \"{}\"\n{further}", self.socket.display())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What NVIDIA's command line prints of these devices.
fn document(forge: &GpuForge, nonce: &[u8; 32]) -> Vec<u8> {
    let device = |member: portcullis::evidence::Auxiliary| {
        let Gpu { report, chain } = Gpu::decode(&member.bytes).expect("a member");
        let pem = |der: &Vec<u8>| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(der));
        let pem: String = chain.iter().map(pem).collect();
        // The driver's buffer is longer than its report.
        let report = [report, vec![0; 64]].concat();
        serde_json::json!({ "arch": "HOPPER", "nonce": HEXLOWER.encode(nonce), "evidence": BASE64.encode(&report), "certificate": BASE64.encode(pem.as_bytes()) })
    };
    let devices: Vec<_> = forge.members(nonce).into_iter().map(device).collect();
    serde_json::json!({ "evidences": devices, "result_code": 0, "result_message": "Ok" }).to_string().into_bytes()
}

fn devices() -> GpuForge {
    GpuForge::new(7, 2, Clock::system().now().expect("a time"))
}

/// The folder that the operator keeps, as NVIDIA's files are called.
fn endorsements(desk: &Desk) -> String {
    std::fs::create_dir_all(desk.path("gpu")).expect("a folder");
    for endorsement in devices().endorsements().iter() {
        let ending = if endorsement.name.starts_with("gpu-rim") { "xml" } else { "der" };
        desk.write(&format!("gpu/{}.{ending}", endorsement.name), &endorsement.bytes);
    }
    "endorsements = \"gpu\"\n".to_owned()
}

fn free() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_service_answers_for_each_session_and_its_faults_are_told() {
    let (desk, (service, served)) = (desk(), echo().await);
    let folder = endorsements(&desk);
    let good = Service::start(&desk.path(""), free(), |nonce| document(&devices(), nonce));
    let far = start(&desk, &server(service, &good.identity(&folder), "")).await;
    let through = start(&desk, &client("two", "", &far)).await;
    for round in 1..=2 {
        assert_eq!(exchange(&through, "by the service").await.as_deref(), Some("by the service"));
        assert_eq!(good.asked.load(Ordering::SeqCst), 1 + round, "asked at the start and for each session");
    }
    // Now it goes wrong while the sidecars run: no evidence, and so no connection; sessions that need none go on.
    drop(good);
    let wrong = Service::start(&desk.path(""), free(), |_| document(&devices(), &[0; 32]));
    let before = served.load(Ordering::SeqCst);
    assert_eq!(exchange(&through, "refused").await, None);
    assert!(through.metrics().text().contains("attester_busy"), "{}", through.metrics().text());
    assert!(far.metrics().text().contains("portcullis_device_evidence_failures_total 1"), "{}", far.metrics().text());
    assert_eq!(served.load(Ordering::SeqCst), before, "the service saw a connection that was refused");
    let bare = start(&desk, &client("bare", "", &far)).await;
    assert_eq!(exchange(&bare, "needs none").await.as_deref(), Some("needs none"));
    for app in [bare, through, far] {
        app.drain().await;
    }
    drop(wrong);
}

/// What the operator's folder holds is judged by the peer, for each session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_and_responses_that_were_changed_let_nobody_through() {
    let (desk, (service, served)) = (desk(), echo().await);
    let folder = endorsements(&desk);
    let gpus = Service::start(&desk.path(""), free(), |nonce| document(&devices(), nonce));
    let far = start(&desk, &server(service, &gpus.identity(&folder), "")).await;
    let made = devices().endorsements();
    let octets = |name: &str| made.find(name).expect("minted");
    let changes = references::of_rim(octets("gpu-rim-vbios"), 61).into_iter().map(|changed| ("gpu-rim-vbios.xml", changed));
    let changes = changes.chain(references::of_ocsp(octets("gpu-ocsp-ica"), 41).into_iter().map(|changed| ("gpu-ocsp-ica.der", changed)));
    // One of each region. What cannot be read at all is not even stapled.
    let mut regions: Vec<(&str, Changed)> = Vec::new();
    for (file, changed) in changes.filter(|(_, changed)| changed.refused != references::NO_REFERENCE) {
        if !regions.iter().any(|(known, other)| (*known, other.what) == (file, changed.what)) {
            regions.push((file, changed));
        }
    }
    for (file, changed) in regions {
        let good = std::fs::read(desk.path("gpu").join(file)).expect("a file");
        desk.write(&format!("gpu/{file}"), &changed.bytes);
        let (through, before) = (start(&desk, &client("one", "", &far)).await, served.load(Ordering::SeqCst));
        assert!(!through.metrics().text().contains(changed.refused.0.code()), "no reason is there before its refusal");
        assert_eq!(exchange(&through, "refused").await, None, "{file}: {}", changed.what);
        let metrics = through.metrics().text();
        assert!(metrics.contains(changed.refused.0.code()), "{file}: {}: {metrics}", changed.what);
        assert_eq!(served.load(Ordering::SeqCst), before, "{file}: {}: the service saw a connection", changed.what);
        desk.write(&format!("gpu/{file}"), good);
        assert_eq!(exchange(&through, "as it was").await.as_deref(), Some("as it was"), "{file}: {}", changed.what);
        through.drain().await;
    }
    far.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_wrong_stops_the_start() {
    type Answer = fn(&[u8; 32]) -> Vec<u8>;
    let (desk, (service, _)) = (desk(), echo().await);
    let cases: [(&str, Answer, &str); 6] = [
        ("another nonce", |_| document(&devices(), &[0; 32]), "answers another nonce"),
        ("no document", |_| b"no JSON".to_vec(), "evidence_malformed"),
        ("no device", |_| br#"{ "evidences": [] }"#.to_vec(), "0 devices"),
        ("nothing", |_| Vec::new(), "evidence_malformed"),
        ("no end", |_| vec![b' '; 600 * 1024], "524289 octets"),
        ("no report", |_| br#"[{ "evidence": "AAAA", "certificate": "AAAA" }]"#.to_vec(), "evidence_malformed"),
    ];
    for (name, answer, why) in cases {
        let gpus = Service::start(&desk.path(""), free(), answer);
        let error = tried(&desk, &server(service, &gpus.identity(""), "")).await.err().unwrap_or_else(|| panic!("{name}: started"));
        assert!(error.contains(why) && error.contains("nvidia-gpu.md"), "{name}: {error}");
    }
    let silent = Service::start(&desk.path(""), Arc::new(Semaphore::new(0)), |_| Vec::new());
    let error = tried(&desk, &server(service, &silent.identity("timeout = \"100ms\""), "")).await.expect_err("no start");
    assert!(error.contains("no answer within 100 ms"), "{error}");
    drop(silent);
    std::fs::remove_file(desk.path("gpu.sock")).expect("the socket");
    let identity = format!("[identity.gpus]\nsocket = \"{}\"", desk.path("gpu.sock").display());
    assert!(tried(&desk, &server(service, &identity, "")).await.expect_err("no start").contains("start the service"));
    // A folder of endorsements that does nothing, or holds what is none.
    let good = Service::start(&desk.path(""), free(), |nonce| document(&devices(), nonce));
    std::fs::create_dir(desk.path("gpu")).expect("a folder");
    for (file, why) in [("notes.txt", "no file is called"), ("driver.xml", "collateral_unavailable")] {
        desk.write(&format!("gpu/{file}"), "nothing");
        let error = tried(&desk, &server(service, &good.identity("endorsements = \"gpu\""), "")).await.expect_err("no start");
        assert!(error.contains(why), "{file}: {error}");
    }
}

/// The devices answer nobody for now: who needs them waits, more than there is room for are told so at once, and who needs
/// none is served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_gpus_hold_up_only_those_who_need_them() {
    let (desk, (service, served)) = (desk(), echo().await);
    let (folder, turns) = (endorsements(&desk), Arc::new(Semaphore::new(1)));
    let gpus = Service::start(&desk.path(""), Arc::clone(&turns), |nonce| document(&devices(), nonce));
    let far = start(&desk, &server(service, &gpus.identity(&format!("{folder}timeout = \"30s\"")), "")).await;
    let needing = Arc::new(start(&desk, &client("one", "", &far)).await);
    let bare = start(&desk, &client("bare", "", &far)).await;
    let held = Arc::clone(&turns).acquire_owned().await.expect("open");
    // One is before the devices, and one source has eight of the sixteen places: the ninth finds none.
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let needing = Arc::clone(&needing);
            tokio::spawn(async move { exchange(&needing, "waits").await })
        })
        .collect();
    let begun = tokio::time::Instant::now();
    while !far.metrics().text().contains("device_evidence_busy_total 1") {
        assert!(begun.elapsed() < PATIENCE, "nobody is told that there is no room: {}", far.metrics().text());
        assert_eq!(exchange(&bare, "needs none").await.as_deref(), Some("needs none"), "while the devices answer nobody");
        if gpus.asked.load(Ordering::SeqCst) == 2 {
            let _ = tokio::time::timeout(Duration::from_millis(300), exchange(&needing, "no room")).await;
        }
    }
    drop(held);
    let mut echoed = 0;
    for waiting in waiting {
        echoed += usize::from(waiting.await.expect("no panic").as_deref() == Some("waits"));
    }
    assert!(echoed >= 1, "those who waited are served");
    assert!(served.load(Ordering::SeqCst) > echoed);
    drop(turns);
    bare.drain().await;
    far.drain().await;
}

/// The program's files: a TEE's evidence with GPUs beside it, made, judged and shown.
#[test]
fn gpus_beside_a_tee_in_files() {
    let desk = desk();
    done(&desk, "simulate both --gpus 2");
    for name in ["gpu-0.cbor", "gpu-1.cbor", "gpu-rim-1.xml", "gpu-ocsp-1.der"] {
        assert!(desk.path("both").join(name).exists(), "{name}");
    }
    let run = desk.run("verify both --policy two.json --json");
    assert!(run.code == 0 && run.stdout.contains("\"driver_version\": \"570.1.1\""), "{}", run.shown());
    let run = desk.run("verify both --policy three.json --json");
    assert!(run.code != 0 && run.stdout.contains("auxiliary_unbound"), "{}", run.shown());
    let run = desk.run("inspect both");
    assert!(run.code == 0 && run.stdout.contains("vbios_version") && run.stdout.contains("Good since"), "{}", run.shown());
    std::fs::copy(desk.path("both/gpu-0.cbor"), desk.path("both/gpu-1.cbor")).expect("a file");
    let run = desk.run("verify both --policy two.json --json");
    assert!(run.code != 0 && run.stdout.contains("evidence_ambiguous"), "one GPU as two: {}", run.shown());
    done(&desk, "simulate stateless --gpus 2");
    for entry in std::fs::read_dir(desk.path("stateless")).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.extension().is_some_and(|ending| ending == "xml") {
            std::fs::remove_file(entry).expect("a file");
        }
    }
    let run = desk.run("verify stateless --policy two.json --json");
    assert!(run.stdout.contains("\"undecided\"") && run.stdout.contains("\"gpu.rim\""), "no state without references: {}", run.shown());
    let run = desk.run("policy add bare.json --id stateless --from stateless --yes");
    assert!(run.code != 0 && !desk.text("bare.json").contains("stateless"), "{}", run.shown());
}
