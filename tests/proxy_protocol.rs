//! The PROXY protocol with HAProxy at the other end, in front of a listener and behind one.
#![cfg(feature = "simulator")]

#[path = "support/peers.rs"]
mod peers;
#[path = "support/told.rs"]
mod told;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::process::Command;

use told::told;
use web::{Mirror, curl, desk, field, say, sidecar};

async fn haproxy(folder: &std::path::Path, sections: &str, address: SocketAddr) -> Option<peers::Peer> {
    let program = peers::installed("haproxy")?;
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, format!("defaults\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n{sections}")).expect("written");
    let mut command = Command::new(program);
    command.arg("-f").arg(&file).arg("-db");
    Some(peers::start(command, address).await)
}

const ATTESTED: &str = "certificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\nupstream = \"app\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_in_front_tells_who_connected() {
    let mirror = Mirror::start().await;
    let desk = desk();
    let app = format!("[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n", mirror.address);
    let listener = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nproxy_protocol_from = [\"127.0.0.1/32\"]\n";
    let server = sidecar(&desk, &format!("{app}{listener}{ATTESTED}")).await;
    let inner = server.tcp_address("in").expect("an address");
    for version in ["send-proxy", "send-proxy-v2"] {
        let front = peers::free();
        let sections = format!("listen front\n  mode tcp\n  bind {front}\n  server us {inner} {version}\n");
        let Some(_haproxy) = haproxy(desk.path(), &sections, front).await else { return };
        let answer = curl(&["-k", "--interface", "127.0.0.2", &format!("https://{front}/")]).await;
        assert!(answer.contains(" 200"), "{version}: {answer}");
        assert_eq!(field(&mirror.last(), "x-forwarded-for").as_deref(), Some("127.0.0.2"), "{version}");
    }
    // A listed source has to announce; one that is not listed may not.
    let before = mirror.heads().len();
    assert_eq!(say(inner, b"\x16\x03\x01\x00\x05hello, this is no announcement").await, "");
    let forged = web::program("curl", &["-sk", "--interface", "127.0.0.3", "--haproxy-protocol", &format!("https://{inner}/")]).await;
    assert!(!forged.status.success());
    assert_eq!(mirror.heads().len(), before);
    told(server.metrics(), "limits_rejected_total{listener=\"in\",limit=\"proxy_protocol\"}").await;
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_upstream_is_told_who_connected() {
    let mirror = Mirror::start().await;
    let desk = desk();
    let behind = peers::free();
    let sections = format!(
        "listen behind\n  mode http\n  bind {behind} accept-proxy\n  http-request set-header x-src %[src]\n  http-request set-header x-name %[fc_pp_authority]\n\
         \x20 http-request set-header x-id %[fc_pp_unique_id,hex]\n  server app {}\n",
        mirror.address
    );
    let Some(_haproxy) = haproxy(desk.path(), &sections, behind).await else { return };
    let app = format!("[[upstream]]\nname = \"app\"\ntargets = [\"tcp://{behind}\"]\n");
    let listener = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nproxy_protocol_to = \"v2\"\n";
    let server = sidecar(&desk, &format!("{app}{listener}{ATTESTED}")).await;
    let port = server.tcp_address("in").expect("an address").port();
    let resolve = format!("far.test:{port}:127.0.0.1");
    let answer = curl(&["-k", "--interface", "127.0.0.2", "--resolve", &resolve, &format!("https://far.test:{port}/")]).await;
    assert!(answer.contains(" 200"), "{answer}");
    let head = mirror.last();
    assert_eq!(field(&head, "x-src").as_deref(), Some("127.0.0.2"));
    assert_eq!(field(&head, "x-name").as_deref(), Some("far.test"));
    assert_eq!(field(&head, "x-id").map(|id| id.len()), Some(32));
    server.drain().await;
}
