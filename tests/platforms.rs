//! What holds of every platform of this build, by its row alone: its simulator's evidence makes a policy, two sidecars
//! carry traffic under it, with one of them attested and with both, a policy for one platform refuses every other, and one
//! policy for all accepts each.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/configured.rs"]
#[allow(dead_code, reason = "shared with another test program")]
mod configured;
#[path = "support/program.rs"]
mod program;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use configured::{PATIENCE, done, echo, exchange, start};
use portcullis::app::App;
use portcullis::platform::{PLATFORMS, Platform};
use portcullis::policy::Written;
use program::Desk;

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

/// A simulated machine: a platform, and which of its products where that is not the first.
#[derive(Clone, Copy)]
struct Machine(&'static str, Option<&'static str>);

impl Machine {
    fn identity(self) -> String {
        let product = self.1.map(|product| format!("product = \"{product}\"\n")).unwrap_or_default();
        format!("[identity]\nprovider = \"simulator\"\nnames = [\"localhost\"]\n[identity.simulator]\nplatform = \"{}\"\n{product}", self.0)
    }

    /// A server whose listener `in` lets anybody in, and whose others want clients attested under the policy of their name.
    fn server(self, service: SocketAddr, policies: &[&str]) -> String {
        let listener = |name: &str, clients: &str| {
            format!("[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\nupstream = \"app\"\n{clients}")
        };
        let mutual = |policy: &&str| {
            let clients = format!("clients = \"attested\"\npolicy = \"{policy}\"\ninsecure_allow_any_genuine_platform = true\n");
            format!("{}[policy.\"{policy}\"]\nfile = \"{policy}.json\"\n", listener(policy, &clients))
        };
        format!(
            "version = 1\ndrain_grace = \"1s\"\n{}{}{}[[upstream]]\nname = \"app\"\ntargets = [\"tcp://{service}\"]\n",
            self.identity(),
            listener("in", ""),
            policies.iter().map(mutual).collect::<String>()
        )
    }

    /// A client that shows its evidence to this listener of a server, and judges the server's.
    fn client(self, policy: &str, server: &App, listener: &str) -> String {
        let mutual = ", freshness = \"session-mutual\" }\ninsecure_allow_any_genuine_platform = true";
        client(policy, server, listener).replace(" }", mutual) + &self.identity()
    }
}

/// A client without evidence of its own.
fn client(policy: &str, server: &App, listener: &str) -> String {
    let address = server.tcp_address(listener).expect("TCP");
    format!(
        "version = 1\ndrain_grace = \"1s\"\n[policy.p]\nfile = \"{policy}.json\"\n\
         [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nupstream = \"far\"\n\
         [[upstream]]\nname = \"far\"\ntargets = [\"tls://{address}\"]\nattested = {{ policy = \"p\" }}\n"
    )
}

/// Whether `text` comes back whole through a client.
async fn carried(desk: &Desk, config: &str, text: &str) -> bool {
    let client = start(desk, config).await;
    let echoed = exchange(&client, text).await;
    client.drain().await;
    echoed.is_some_and(|echoed| echoed == text)
}

/// A client gets nothing through, and either side counts one of these reasons for it.
async fn refused(desk: &Desk, config: &str, server: &App, reasons: &[&str]) {
    let before = refusals(server, reasons);
    let client = start(desk, config).await;
    assert_eq!(exchange(&client, "refused").await, None, "{config}");
    let begun = Instant::now();
    while refusals(&client, reasons) + refusals(server, reasons) == before {
        assert!(begun.elapsed() < PATIENCE, "{reasons:?} is not why\n{config}\n{}\n{}", client.metrics().text(), server.metrics().text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.drain().await;
}

fn refusals(app: &App, reasons: &[&str]) -> u64 {
    let of_these = |line: &&str| line.contains("connections_refused_total") && reasons.iter().any(|reason| line.contains(&format!("reason=\"{reason}\"")));
    let text = app.metrics().text();
    text.lines().filter(of_these).filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// How evidence of another platform is refused: by its name, or because nothing of the policy knows its form.
const OF_ANOTHER: &[&str] = &["platform_not_allowed", "evidence_unsupported"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sidecars_carry_traffic_on_every_platform() {
    let desk = desk();
    let (service, served) = echo().await;
    for platform in PLATFORMS {
        let server = start(&desk, &Machine(platform.name, None).server(service, &[])).await;
        let text = format!("both ways on {}", platform.name).repeat(10_000);
        assert!(carried(&desk, &client(platform.name, &server, "in"), &text).await, "{}", platform.name);

        let before = served.load(Ordering::SeqCst);
        for other in PLATFORMS.iter().filter(|other| other.name != platform.name) {
            refused(&desk, &client(other.name, &server, "in"), &server, OF_ANOTHER).await;
        }
        assert_eq!(served.load(Ordering::SeqCst), before, "the service saw a connection that was refused");

        assert!(carried(&desk, &client("fleet", &server, "in"), "mixed fleet").await, "{}", platform.name);
        server.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sidecars_are_attested_on_every_platform() {
    let desk = desk();
    let (service, served) = echo().await;
    for (platform, other) in PLATFORMS.iter().zip(PLATFORMS.iter().cycle().skip(1)) {
        let (name, here, there) = (platform.name, Machine(platform.name, None), Machine(other.name, None));
        let server = start(&desk, &here.server(service, &[name, "fleet"])).await;
        let text = format!("both ways on {name}").repeat(10_000);
        assert!(carried(&desk, &here.client(name, &server, name), &text).await, "{name}");
        let confirmed = r#"connections_confirmed_total{tier="session-mutual",direction="inbound"} 1"#;
        assert!(server.metrics().text().contains(confirmed), "{name}: {}", server.metrics().text());

        let before = served.load(Ordering::SeqCst);
        refused(&desk, &there.client(name, &server, name), &server, OF_ANOTHER).await;
        refused(&desk, &client(name, &server, name), &server, &["evidence_unsupported"]).await;
        assert_eq!(served.load(Ordering::SeqCst), before, "the service saw a connection that was refused");

        assert!(carried(&desk, &there.client("fleet", &server, "fleet"), "mixed fleet").await, "{name} and {}", other.name);
        server.drain().await;
    }
}

/// The products whose evidence has a cloud's word beside the hardware's, each with the same hardware without it.
fn in_a_cloud() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let products = PLATFORMS.iter().flat_map(|platform| platform.simulated.products().iter().map(move |product| (platform.name, *product)));
    products.filter_map(|(name, product)| Some((name, product, product.strip_suffix("-google")?)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cloud_adds_is_carried_both_ways_and_missed_where_a_policy_wants_it() {
    let (service, served) = echo().await;
    assert_eq!(in_a_cloud().count(), 3, "SEV-SNP on two products, and TDX");
    for (platform, product, bare) in in_a_cloud() {
        let desk = Desk::new();
        done(&desk, &format!("simulate evidence-{product} --platform {platform} --product {product}"));
        let known = if bare == "milan" { " --insecure insecure_allow_milan=test" } else { "" };
        for (policy, pins) in
            [("whole", " --pin vtpm --pin endorsement_required --pin min_firmware_svn"), ("endorsed", " --pin endorsement_required"), ("plain", "")]
        {
            done(&desk, &format!("policy init {policy}.json --insecure-simulator"));
            done(&desk, &format!("policy add {policy}.json --id vm --from evidence-{product} --yes{pins}{known}"));
        }
        let later = desk.text("whole.json").replace("\"min_firmware_svn\": 2", "\"min_firmware_svn\": 3");
        desk.write("later.json", later);

        let (cloud, bare) = (Machine(platform, Some(product)), Machine(platform, Some(bare)));
        let server = start(&desk, &cloud.server(service, &["whole", "endorsed"])).await;
        let text = format!("both ways on {product}").repeat(10_000);
        assert!(carried(&desk, &cloud.client("whole", &server, "whole"), &text).await, "{product}");

        let before = served.load(Ordering::SeqCst);
        for (config, reason) in [
            (cloud.client("later", &server, "whole"), "tcb_too_low"),
            (bare.client("whole", &server, "whole"), "auxiliary_unbound"),
            (bare.client("whole", &server, "endorsed"), "collateral_unavailable"),
        ] {
            refused(&desk, &config, &server, &[reason]).await;
        }
        let alone = start(&desk, &bare.server(service, &[])).await;
        refused(&desk, &client("whole", &alone, "in"), &alone, &["auxiliary_unbound"]).await;
        refused(&desk, &client("endorsed", &alone, "in"), &alone, &["collateral_unavailable"]).await;
        assert_eq!(served.load(Ordering::SeqCst), before, "the service saw a connection that was refused");
        assert!(carried(&desk, &client("plain", &alone, "in"), "without a cloud").await, "{product}");
        alone.drain().await;
        server.drain().await;
    }
}
