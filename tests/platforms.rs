//! What holds of every platform of this build, by its row alone: its simulator's evidence makes a policy, two sidecars
//! carry traffic under it, a policy for one platform refuses every other, and one policy for all accepts each.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/program.rs"]
mod program;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::app::App;
use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::platform::{PLATFORMS, Platform};
use portcullis::policy::Written;
use program::Desk;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Long enough for a slow machine; nothing waits that long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with evidence of every platform, a policy for each and one for all.
fn desk() -> Desk {
    let desk = Desk::new();
    for platform in PLATFORMS {
        let name = platform.name;
        done(&desk, &format!("simulate evidence-{name} --platform {name}"));
        for policy in [name, "fleet"] {
            if !desk.path(&format!("{policy}.json")).exists() {
                done(&desk, &format!("policy init {policy}.json --insecure-simulator"));
            }
            let needed: String = needed(platform).map(|key| format!(" --insecure {key}=test")).collect();
            done(&desk, &format!("policy add {policy}.json --id {name} --from evidence-{name} --yes{needed}"));
        }
    }
    desk
}

/// The keys without which no policy has an entry of this platform.
fn needed(platform: &Platform) -> impl Iterator<Item = &'static str> {
    let loosening = platform.verifier.vocabulary().loosening.iter();
    loosening.filter(|loosening| loosening.written == Written::Needed).map(|loosening| loosening.key)
}

#[test]
fn a_platform_that_is_off_unless_named_is_off_unless_named() {
    let desk = Desk::new();
    for platform in PLATFORMS.iter().filter(|platform| needed(platform).next().is_some()) {
        let name = platform.name;
        done(&desk, &format!("simulate evidence-{name} --platform {name}"));
        done(&desk, &format!("policy init {name}.json --insecure-simulator"));
        let run = desk.run(&format!("policy add {name}.json --id {name} --from evidence-{name} --yes"));
        assert!(run.code != 0 && run.stderr.contains(&format!("{name} is off unless the entry says")), "{}", run.shown());
    }
}

fn done(desk: &Desk, words: &str) {
    let run = desk.run(words);
    assert_eq!(run.code, 0, "{words}\n{}", run.shown());
}

#[test]
fn a_policy_for_one_platform_refuses_every_other_and_one_for_all_accepts_each() {
    let desk = desk();
    for made in PLATFORMS {
        for wanted in PLATFORMS {
            let run = desk.run(&format!("verify evidence-{} --policy {}.json --json", made.name, wanted.name));
            if made.name == wanted.name {
                assert_eq!(run.code, 0, "{}", run.shown());
                continue;
            }
            assert_ne!(run.code, 0, "a policy for {} accepts {}", wanted.name, made.name);
            let reason = if made.media_type == wanted.media_type || run.stdout.contains("platform_not_allowed") {
                "platform_not_allowed"
            } else {
                "evidence_unsupported"
            };
            assert!(run.stdout.contains(reason), "{} under {}: {}", made.name, wanted.name, run.shown());
        }
        done(&desk, &format!("verify evidence-{} --policy fleet.json", made.name));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_carry_traffic_on_every_platform() {
    let desk = desk();
    let (service, served) = echo().await;
    for platform in PLATFORMS {
        let server = start(&desk, &server_config(platform.name, service)).await;
        let client = start(&desk, &client_config(platform.name, &server)).await;
        let text = format!("both ways on {}", platform.name).repeat(10_000);
        let echoed = exchange(client.tcp_address("out").expect("TCP"), &text).await;
        assert!(echoed.as_deref() == Some(text.as_str()), "{}: {} octets came back", platform.name, echoed.map_or(0, |echoed| echoed.len()));
        client.drain().await;

        let before = served.load(Ordering::SeqCst);
        for other in PLATFORMS.iter().filter(|other| other.name != platform.name) {
            let client = start(&desk, &client_config(other.name, &server)).await;
            assert_eq!(exchange(client.tcp_address("out").expect("TCP"), "refused").await, None, "{} under a policy for {}", platform.name, other.name);
            client.drain().await;
        }
        assert_eq!(served.load(Ordering::SeqCst), before, "the service saw a connection that was refused");

        let client = start(&desk, &client_config("fleet", &server)).await;
        assert_eq!(exchange(client.tcp_address("out").expect("TCP"), "mixed fleet").await.as_deref(), Some("mixed fleet"), "{}", platform.name);
        client.drain().await;
        server.drain().await;
    }
}

fn server_config(platform: &str, service: SocketAddr) -> String {
    format!(
        "version = 1\ndrain_grace = \"1s\"\n[identity]\nprovider = \"simulator\"\nnames = [\"localhost\"]\n[identity.simulator]\nplatform = \"{platform}\"\n\
         [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nupstream = \"app\"\n\
         [[upstream]]\nname = \"app\"\ntargets = [\"tcp://{service}\"]\n"
    )
}

fn client_config(policy: &str, server: &App) -> String {
    let address = server.tcp_address("in").expect("TCP");
    format!(
        "version = 1\ndrain_grace = \"1s\"\n[policy.p]\nfile = \"{policy}.json\"\n\
         [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nupstream = \"far\"\n\
         [[upstream]]\nname = \"far\"\ntargets = [\"tls://{address}\"]\nattested = {{ policy = \"p\" }}\n"
    )
}

async fn start(desk: &Desk, text: &str) -> App {
    let path = desk.path("config.toml");
    desk.write("config.toml", text);
    let config = load(&path);
    App::start(&config, Clock::system()).await.unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

fn load(path: &Path) -> Config {
    Config::load(path).unwrap_or_else(|error| panic!("{error}"))
}

/// What comes back for `text`; `None` when the connection is closed before all of it did.
async fn exchange(address: SocketAddr, text: &str) -> Option<String> {
    let both_ways = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let (mut read, mut write) = stream.split();
        let sent = async {
            write.write_all(text.as_bytes()).await.ok()?;
            write.shutdown().await.ok()
        };
        let mut echoed = String::new();
        let (_, received) = tokio::join!(sent, read.read_to_string(&mut echoed));
        received.ok()?;
        (!echoed.is_empty()).then_some(echoed)
    };
    tokio::time::timeout(PATIENCE, both_ways).await.expect("an answer or an end")
}

/// A service that says back what it hears, and counts who connects.
async fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    (address, served)
}
