//! What is told of connections in one session: to the application behind, to the operator, and what a change of policy
//! does to them.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/lines.rs"]
mod lines;
#[path = "support/web.rs"]
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lines::Lines;
use portcullis::app::App;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use web::{PATIENCE, configured, desk, sidecar};

const MUTUAL: &str = "insecure_allow_any_genuine_platform = true\nmultiplex = true\n";

/// What is written of an event at a listener.
fn records(lines: &Lines, event: &str, listener: &str) -> Vec<serde_json::Value> {
    lines.of("listener", listener).into_iter().filter(|fields| fields["event"] == event).collect()
}

struct World {
    desk: tempfile::TempDir,
    /// The server's configuration.
    written: String,
    service: TcpListener,
    server: App,
    client: App,
    entrance: SocketAddr,
}

impl World {
    async fn new() -> Self {
        let (desk, service) = (desk(), TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        let app = service.local_addr().expect("an address");
        let written = format!(
            "[[upstream]]\nname = \"app\"\ntargets = [\"tcp://{app}\"]\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\n\
                 clients = \"attested\"\npolicy = \"mesh\"\nupstream = \"app\"\nproxy_protocol_to = \"v2\"\n{MUTUAL}"
        );
        let server = sidecar(&desk, &written).await;
        let attested = server.tcp_address("in").expect("an address");
        let client = sidecar(
            &desk,
            &format!(
                "[[upstream]]\nname = \"far\"\ntargets = [\"tls://{attested}\"]\nserver_name = \"far.test\"\nattested = {{ policy = \"mesh\", freshness = \"session-mutual\" }}\n{MUTUAL}\
                 [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nupstream = \"far\"\n"
            ),
        )
        .await;
        let entrance = client.tcp_address("out").expect("an address");
        Self { desk, written, service, server, client, entrance }
    }

    /// A connection's two ends, and what the application was told of it.
    async fn open(&self) -> (TcpStream, TcpStream, Told) {
        let client = TcpStream::connect(self.entrance).await.expect("a connection");
        let (mut server, _) = tokio::time::timeout(PATIENCE, self.service.accept()).await.expect("in time").expect("a connection");
        let told = Told::read(&mut server).await;
        (client, server, told)
    }
}

/// The header of the PROXY protocol: the source, and the fields by their type.
struct Told {
    source: SocketAddr,
    fields: BTreeMap<u8, Vec<u8>>,
}

impl Told {
    async fn read(stream: &mut TcpStream) -> Self {
        let mut head = [0; 16];
        stream.read_exact(&mut head).await.expect("a header");
        assert_eq!((&head[..12], head[12], head[13]), (&b"\r\n\r\n\0\r\nQUIT\n"[..], 0x21, 0x11));
        let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
        stream.read_exact(&mut rest).await.expect("its rest");
        let source = SocketAddr::from(([rest[0], rest[1], rest[2], rest[3]], u16::from_be_bytes([rest[8], rest[9]])));
        let (mut fields, mut left) = (BTreeMap::new(), &rest[12..]);
        while let [kind, high, low, more @ ..] = left {
            let (value, after) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            fields.insert(*kind, value.to_vec());
            left = after;
        }
        Self { source, fields }
    }
}

/// Whether the other side resets it.
async fn is_cut(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("an end").is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_connection_of_a_session_is_told_of_and_a_policy_that_narrows_ends_them_all() {
    let lines = Lines::begin();
    let world = World::new().await;

    // The application learns of each who is at the far end of it.
    let (mut one, mut one_far, told) = world.open().await;
    let (mut two, mut two_far, again) = world.open().await;
    assert_eq!(told.source, again.source, "both come in the session of the same peer");
    assert_eq!(told.fields[&0x01], b"portcullis1/tunnel");
    assert_eq!(told.fields[&0x02], b"far.test");
    assert_ne!(told.fields[&0x05], again.fields[&0x05], "connections have names of their own");
    // Over TLS, with a certificate that is verified.
    assert_eq!(told.fields[&0x20][..5], [7, 0, 0, 0, 0]);
    let claims = &told.fields[&0xe0];
    assert!(claims.windows(5).any(|word| word == b"web-1") && claims.windows(14).any(|word| word == b"session-mutual"), "{claims:?}");
    assert_eq!(claims, &again.fields[&0xe0]);

    // The operator has one record of each, at both ends.
    one.write_all(b"hello").await.expect("written");
    one.shutdown().await.expect("closed");
    let mut heard = Vec::new();
    one_far.read_to_end(&mut heard).await.expect("the end");
    assert_eq!(heard, b"hello");
    one_far.write_all(b"goodbye").await.expect("written");
    drop(one_far);
    heard.clear();
    one.read_to_end(&mut heard).await.expect("the end");
    assert_eq!(heard, b"goodbye");
    let both = async {
        while ["in", "out"].iter().any(|listener| records(&lines, "forwarded", listener).is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("a record at each end");
    for (listener, upstream) in [("in", "app"), ("out", "far")] {
        let records = records(&lines, "forwarded", listener);
        let [record] = records.as_slice() else { panic!("{records:?}") };
        let told = ["upstream", "tier", "entry", "ended"].map(|key| record[key].as_str().unwrap_or_default());
        assert_eq!(told, [upstream, "session-mutual", "web-1", "finished"], "{record}");
        assert_eq!((record["bytes_received"].as_u64(), record["bytes_sent"].as_u64()), (Some(5), Some(7)), "{record}");
    }
    assert!(records(&lines, "session", "in").is_empty(), "the session goes on");

    // What would no longer be let in goes, with all that is in it.
    let (mut three, mut three_far, _) = world.open().await;
    let text = std::fs::read_to_string(world.desk.path().join("mesh.json")).expect("a policy");
    let measurement = data_encoding::HEXLOWER.encode(&portcullis::attester::simulator::MEASUREMENT);
    let denied = text.replacen("\"accept\"", &format!(r#""deny": [ {{ "measurement": "{measurement}", "reason": "withdrawn" }} ], "accept""#), 1);
    std::fs::write(world.desk.path().join("mesh.json"), denied).expect("written");
    world.server.reload(Ok(configured(&world.desk, &world.written))).await;
    for stream in [&mut two, &mut three, &mut two_far, &mut three_far] {
        assert!(is_cut(stream).await, "it outlives the policy");
    }
    let recorded = async {
        while records(&lines, "withdrawn", "in").len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, recorded).await.expect("a record of each, and of the session");
    assert!(records(&lines, "withdrawn", "in").iter().all(|record| record["reason"] == "measurement_unknown" && record["refused"] == "downstream"));
    let metrics = world.server.metrics().text();
    assert!(metrics.contains(r#"connections_withdrawn_total{listener="in",side="downstream",reason="measurement_unknown"} 3"#), "{metrics}");
    assert!(metrics.contains(r#"tunnel_sessions_active{listener="in",direction="inbound"} 0"#), "{metrics}");
    world.client.drain().await;
    world.server.drain().await;
}
