//! What connections cost that share attested sessions (`multiplex`), beside one session each. Prints rates and ratios.
//!
//! `cargo bench --bench tunnel`. Applications, both sidecars and service run in one process on loopback, and the simulator
//! signs its quotes at once: real hardware takes 6 to 40 ms for each, which `one each` would pay too. Rounds of both ways
//! take turns, so that a busy moment hits both. Compare figures of one run only.

#[path = "../tests/support/sidecar.rs"]
mod sidecar;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::proxy::plan::{Limits, Multiplex};
use portcullis::tls::Tier;
use sidecar::{Machine, Tunnels, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ROUNDS: usize = 9;
const PERIOD: Duration = Duration::from_secs(2);
const BULK: usize = 128 << 20;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let machine = Machine::good(1);
        let each = World::one_way(Tier::Session, &machine).await;
        let tunnels = Tunnels { far: true, near: Some(Multiplex::default()), ..Tunnels::default() };
        let shared = World::tunnelled(&machine, Limits::default(), tunnels).await;
        let entrances = [each.entrance(), shared.entrance()];
        for clients in [1, 16] {
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (entrance, rates) in entrances.iter().zip(&mut rates) {
                    rates.push(short(*entrance, clients).await);
                }
            }
            compare(&format!("short connections/s, {clients} at a time"), rates);
        }
        for connections in [1, 8] {
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (entrance, rates) in entrances.iter().zip(&mut rates) {
                    rates.push(bulk(*entrance, connections).await);
                }
            }
            compare(&format!("bulk MB/s there and back, {connections} at a time"), rates);
        }
        each.end().await;
        shared.end().await;
    });
}

fn compare(what: &str, [each, shared]: [Vec<f64>; 2]) {
    let mut ratios: Vec<f64> = shared.iter().zip(&each).map(|(shared, each)| shared / each).collect();
    let [(a, b, c), (d, e, f), (g, h, i)] = [&mut each.clone(), &mut shared.clone(), &mut ratios].map(|values| {
        values.sort_by(f64::total_cmp);
        // The median, and the range without the best and the worst.
        (values[values.len() / 2], values[1], values[values.len() - 2])
    });
    println!("{what:<42} one each {a:8.1} ({b:.1} to {c:.1})   shared {d:8.1} ({e:.1} to {f:.1})   ratio {g:.2} ({h:.2} to {i:.2})");
}

/// Connections that carry five octets there and back, in a second.
async fn short(entrance: SocketAddr, clients: usize) -> f64 {
    let start = Instant::now();
    let client = || async move {
        let mut done = 0_u32;
        while start.elapsed() < PERIOD {
            let mut stream = TcpStream::connect(entrance).await.expect("a connection");
            stream.write_all(b"hello").await.expect("sent");
            stream.shutdown().await.expect("closed");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("an answer");
            assert_eq!(answer, sidecar::echoed(b"hello"));
            done += 1;
        }
        done
    };
    let clients: Vec<_> = (0..clients).map(|_| tokio::spawn(client())).collect();
    let mut done = 0;
    for client in clients {
        done += client.await.expect("no panic");
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

/// Megabytes in a second that go there and come back, over so many connections.
async fn bulk(entrance: SocketAddr, connections: usize) -> f64 {
    let (start, block) = (Instant::now(), Arc::new(vec![7_u8; 1 << 20]));
    let one = |block: Arc<Vec<u8>>| async move {
        let (mut reading, mut writing) = TcpStream::connect(entrance).await.expect("a connection").into_split();
        let sending = tokio::spawn(async move {
            for _ in 0..BULK / connections / block.len() {
                writing.write_all(&block).await.expect("sent");
            }
            writing.shutdown().await.expect("closed");
        });
        let (mut received, mut buffer) = (0, vec![0; 256 * 1024]);
        loop {
            match reading.read(&mut buffer).await.expect("an answer") {
                0 => break,
                count => received += count,
            }
        }
        sending.await.expect("no panic");
        received
    };
    let connections: Vec<_> = (0..connections).map(|_| tokio::spawn(one(Arc::clone(&block)))).collect();
    let mut received = 0_usize;
    for connection in connections {
        received += connection.await.expect("no panic");
    }
    assert_eq!(received, BULK);
    (BULK >> 20) as f64 * 1.048_576 / start.elapsed().as_secs_f64()
}
