//! `portcullis demo`: a service, two sidecars and the simulator on this machine; one peer accepted, three refused.
//!
//! Everything listens on loopback at free ports and ends with the demo. What is told is what was seen: the exit code is
//! 0 only when each step went as told.

mod relay;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::output::{self, Detail, Marks};
use super::{Outcome, policy};
use crate::admin::metrics::Metrics;
use crate::app::App;
use crate::attester::Attester;
use crate::attester::simulator::{Forge, MEASUREMENT};
use crate::clock::Clock;
use crate::config::Config;
use crate::evidence::Timestamp;
use crate::evidence::snp::Product;
use crate::proxy;
use crate::proxy::appraisal::{Appraisals, Memo};
use crate::refusal::Reason;
use crate::tls::{ClientSettings, ClientSide, Peer, PeerIdentity, Tier};

/// What can be typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Values whole.
    #[arg(short, long)]
    verbose: bool,
}

const STEP: Duration = Duration::from_secs(10);

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no runtime")?;
    let told = runtime.block_on(tell(Detail::of(args.verbose)));
    match told {
        Ok(()) => Ok(Outcome::Done),
        Err(error) => {
            output::complain(&error.context("the demo did not go as told"));
            Ok(Outcome::Refused)
        }
    }
}

async fn tell(detail: Detail) -> anyhow::Result<()> {
    let marks = Marks::here();
    let folder = scratch()?;
    let now = Clock::system().now()?;
    let policy = folder.path.join("policy.json");
    std::fs::write(&policy, policy_text()).with_context(|| format!("cannot write {}", policy.display()))?;
    let service = Service::start().await?;
    output::show("Portcullis demo. SIMULATED EVIDENCE: its roots are published and trusted here only because the demo's policy names them.\n\n")?;

    output::show("1. The guest that the policy lists\n")?;
    let good = server(&service, &folder.path, forge(now)).await?;
    let good_address = good.tcp_address("in").context("no address")?;
    let client = client(good_address, &policy).await?;
    let local = client.tcp_address("out").context("no address")?;
    for path in ["/", "/orders"] {
        let answer = get(local, path).await?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("you asked for {path}")), "the request for {path} was answered with {answer:?}");
        output::show(&format!("   {} GET {path} through both sidecars: 200, {} bytes\n", marks.good, answer.len()))?;
    }
    let result = verdict(good_address, &policy).await?.map_err(|denied| anyhow::anyhow!("{denied}"))?;
    let appraisal = result.appraisal();
    let mut text = String::from("   what was verified, for each connection anew:\n");
    for name in ["product", "measurement", "report_data", "policy_debug", "vmpl", "chip_id"] {
        let value = appraisal.claims().find(name).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "     {name:13} {}", output::value(&value, detail, marks));
    }
    let _ = writeln!(text, "     policy entry  {} (holds until {})", appraisal.entry(), appraisal.until());
    output::show(&text)?;

    let stranger = forge(now).measurement(*b"somebody else's code, signed by genuine hardware");
    refused("2. The same, running other code", &service, &folder.path, &policy, Box::new(stranger.attester()), Reason::MeasurementUnknown, detail).await?;
    let mut debug = forge(now);
    debug.report.policy |= 1 << 19;
    refused("3. A guest that its host may debug", &service, &folder.path, &policy, Box::new(debug.attester()), Reason::DebugEnabled, detail).await?;
    relayed(&service, &folder.path, &policy, forge(now), detail).await?;
    let (requests, expected) = (service.requests(), 2);
    ensure!(requests == expected, "the service saw {requests} requests in place of {expected}");
    output::show(&format!("\n{} The service saw {requests} requests: those of step 1 and not one byte of the others.\n", marks.good))?;
    drop((client, good));
    output::show(
        "\nNext:\n  portcullis policy init lab.json --insecure-simulator\n  portcullis simulate evidence && portcullis policy add lab.json --id guest --from evidence\n  portcullis verify evidence --policy lab.json\n",
    )
}

/// Starts a server sidecar on this evidence, asks through a client sidecar, and tells how it was refused.
async fn refused(
    title: &str,
    service: &Service,
    folder: &Path,
    policy: &Path,
    attester: Box<dyn Attester>,
    wanted: Reason,
    detail: Detail,
) -> anyhow::Result<()> {
    let server = start(&server_text(service.address, "names = [\"localhost\"]\n"), folder, Some(Arc::from(attester))).await?;
    let address = server.tcp_address("in").context("no address")?;
    asked_in_vain(title, service, (address, policy), wanted, detail).await
}

/// A genuine server whose key was stolen, and a relay in front of it that forwards its genuine evidence.
async fn relayed(service: &Service, folder: &Path, policy: &Path, forge: Forge, detail: Detail) -> anyhow::Result<()> {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).context("no certificate")?;
    // Whatever the umask lets others do: a key that its group may write is refused.
    let write = |name: &str, text: String| {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name));
        file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("cannot write {name}"))
    };
    write("server.pem", issued.cert.pem())?;
    write("server.key", issued.signing_key.serialize_pem())?;
    let attester: Arc<dyn Attester> = Arc::new(forge.attester());
    let genuine = start(&server_text(service.address, "certificate = \"server.pem\"\nkey = \"server.key\"\n"), folder, Some(Arc::clone(&attester))).await?;
    let genuine = (genuine.tcp_address("in").context("no address")?, genuine);
    let accepted = verdict(genuine.0, policy).await?;
    ensure!(accepted.is_ok(), "the genuine server was refused: {accepted:?}");
    let relay = relay::Relay::start(genuine.0, folder, attester, peer(policy)?).await?;
    asked_in_vain(
        "4. A relay in front of the right guest, with its stolen key and its genuine evidence",
        service,
        (relay.address, policy),
        Reason::BindingMismatch,
        detail,
    )
    .await
}

/// Asks a server through a client sidecar, and tells how it was refused.
async fn asked_in_vain(title: &str, service: &Service, (address, policy): (SocketAddr, &Path), wanted: Reason, detail: Detail) -> anyhow::Result<()> {
    let marks = Marks::here();
    let before = service.requests();
    let client = client(address, policy).await?;
    let answer = get(client.tcp_address("out").context("no address")?, "/").await;
    ensure!(answer.as_ref().map_or(true, String::is_empty), "the local application got an answer: {answer:?}");
    ensure!(service.requests() == before, "the service saw a request");
    let Err(denied) = verdict(address, policy).await? else { anyhow::bail!("it was accepted") };
    ensure!(denied.reason() == wanted, "it was refused with {denied} in place of {wanted}");
    let mut text = format!("\n{title}\n   {} refused: {}\n", marks.bad, wanted.summary());
    for line in output::findings(denied.findings(), detail, marks).lines() {
        let _ = writeln!(text, "   {line}");
    }
    text.push_str("   the local application got a closed connection, the service nothing\n");
    output::show(&text)
}

fn forge(now: Timestamp) -> Forge {
    Forge::new(Product::Genoa, 1, now)
}

fn policy_text() -> String {
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    format!(
        "{{\n  \"version\": 1,\n  \"name\": \"demo\",\n  \"insecure_roots\": [\"simulator\"],\n  \"accept\": [\n    {{ \"id\": \"demo-guest\", \"tee\": \"sev-snp\", \"measurement\": \"{measurement}\" }}\n  ]\n}}\n"
    )
}

fn server_text(service: SocketAddr, certificate: &str) -> String {
    format!(
        "version = 1\ndrain_grace = \"1s\"\n[identity]\nprovider = \"simulator\"\n{certificate}[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nupstream = \"app\"\n[[upstream]]\nname = \"app\"\ntargets = [\"tcp://{service}\"]\n"
    )
}

async fn server(service: &Service, folder: &Path, forge: Forge) -> anyhow::Result<App> {
    start(&server_text(service.address, "names = [\"localhost\"]\n"), folder, Some(Arc::new(forge.attester()))).await
}

async fn client(server: SocketAddr, policy: &Path) -> anyhow::Result<App> {
    let folder = policy.parent().context("no folder")?;
    let text = format!(
        "version = 1\ndrain_grace = \"1s\"\n[[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nupstream = \"server\"\n[[upstream]]\nname = \"server\"\ntargets = [\"tls://{server}\"]\nserver_name = \"localhost\"\nattested = {{ policy = \"demo\" }}\n[policy.demo]\nfile = \"policy.json\"\n"
    );
    start(&text, folder, None).await
}

async fn start(text: &str, folder: &Path, attester: Option<Arc<dyn Attester>>) -> anyhow::Result<App> {
    let config = Config::parse("the demo's configuration", text, folder)?;
    App::start_with(&config, Clock::system(), attester).await
}

/// The verdict about a server under the demo's policy, as a client sidecar comes to it.
async fn verdict(server: SocketAddr, file: &Path) -> anyhow::Result<Result<Arc<crate::verify::AttestationResult>, crate::refusal::Denied>> {
    let metrics = Metrics::new();
    let peer = peer(file)?;
    let server_name = rustls::pki_types::ServerName::try_from("localhost").context("a name")?;
    let settings = ClientSettings { identity: None, tier: Tier::Session, server_name, peer, alpn: None, max_evidence: None };
    let side = ClientSide::new(settings, Clock::system())?;
    let socket = TcpStream::connect(server).await.context("the server sidecar is gone")?;
    Ok(proxy::ask(&side, socket, &Clock::system(), &metrics).await.verdict)
}

/// What the demo's policy wants of a server.
fn peer(policy: &Path) -> anyhow::Result<Peer> {
    let judge = Appraisals::new(Arc::new(policy::load(policy)?.appraiser()), Arc::new(Memo::new()), Arc::new(Metrics::new()));
    Ok(Peer { judge: Arc::new(judge), identity: PeerIdentity::default() })
}

/// A plain HTTP service that counts what it is asked.
struct Service {
    address: SocketAddr,
    requests: Arc<std::sync::atomic::AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Service {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port on loopback")?;
        let address = listener.local_addr().context("no address")?;
        let requests = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let serving = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    let read = socket.read(&mut request).await.unwrap_or(0);
                    if read == 0 {
                        return; // the probe's connection: admitted, and nothing was asked
                    }
                    counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let head = String::from_utf8_lossy(request.get(..read).unwrap_or_default()).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or("nothing");
                    let body = format!("you asked for {path}\n");
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        Ok(Self { address, requests, serving })
    }

    fn requests(&self) -> usize {
        self.requests.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let asked = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    Ok(tokio::time::timeout(STEP, asked).await.context("no answer in time")??)
}

/// A folder that ends with the demo.
struct Scratch {
    path: std::path::PathBuf,
}

fn scratch() -> anyhow::Result<Scratch> {
    let path = std::env::temp_dir().join(format!("portcullis-demo-{}", std::process::id()));
    std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(Scratch { path })
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left-overs in the temporary folder are no reason to fail.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
