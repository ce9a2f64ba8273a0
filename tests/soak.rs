//! Many connections, one after another and at once, with bodies of one octet to many: every byte arrives, and after the
//! drain no descriptor and no task is left.
//!
//! A short round runs with the others; `PORTCULLIS_SOAK=full` runs 10,000 connections in sequence, 500 at once and
//! bodies up to 100 MiB (build with `--release`).
#![cfg(feature = "simulator")]

#[path = "support/sidecar.rs"]
mod sidecar;

use std::time::Duration;

use portcullis::tls::Tier;
use sidecar::{Machine, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

struct Plan {
    sequential: usize,
    concurrent: usize,
    sizes: &'static [usize],
}

const SHORT: Plan = Plan { sequential: 200, concurrent: 50, sizes: &[1, 1000, 70_000, 1 << 20] };
const FULL: Plan = Plan { sequential: 10_000, concurrent: 500, sizes: &[1, 1000, 70_000, 1 << 20, 100 << 20] };

#[test]
fn nothing_is_lost_and_nothing_is_left() {
    let plan = if std::env::var_os("PORTCULLIS_SOAK").is_some_and(|value| value == "full") { FULL } else { SHORT };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let world = World::one_way(Tier::Session, &Machine::good(1)).await;
        let (before, tasks) = (descriptors(), tokio::runtime::Handle::current().metrics().num_alive_tasks());
        for size in plan.sizes {
            exchange(world.entrance(), *size).await;
        }
        println!("bodies of {:?} octets, resident {} KiB", plan.sizes, resident());
        for round in 0..plan.sequential {
            exchange(world.entrance(), round % 2000 + 1).await;
        }
        println!("{} in sequence, resident {} KiB", plan.sequential, resident());
        let at_once: Vec<_> = (0..plan.concurrent).map(|n| tokio::spawn(exchange(world.entrance(), (n * 997) % 100_000 + 1))).collect();
        for one in at_once {
            one.await.expect("an exchange");
        }
        println!("{} at once, resident {} KiB", plan.concurrent, resident());
        let settled = async {
            while (descriptors(), tokio::runtime::Handle::current().metrics().num_alive_tasks()) != (before, tasks) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), settled).await;
        let now = (descriptors(), tokio::runtime::Handle::current().metrics().num_alive_tasks());
        assert!(in_time.is_ok(), "descriptors and tasks before {:?}, after {now:?}", (before, tasks));
        world.end().await;
    });
}

async fn exchange(entrance: std::net::SocketAddr, size: usize) {
    let request: Vec<u8> = (0_u32..).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).take(size).collect();
    let mut stream = TcpStream::connect(entrance).await.expect("a connection");
    let (mut reading, mut writing) = stream.split();
    let send = async {
        writing.write_all(&request).await.expect("a request that is taken");
        writing.shutdown().await.expect("an end of the request");
    };
    let mut answer = Vec::with_capacity(size);
    let (_, read) = tokio::join!(send, reading.read_to_end(&mut answer));
    read.expect("an answer");
    assert!(answer == sidecar::echoed(&request), "{size} octets came back as {}", answer.len());
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
