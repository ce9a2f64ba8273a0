//! The commands about collateral, as an operator types them.
#![cfg(all(feature = "cli", feature = "simulator"))]
#![allow(clippy::disallowed_methods, reason = "tests read and write their own files")]

#[path = "support/program.rs"]
mod program;

use portcullis::attester::simulator::{Forge, Kds, Service, ServiceFault};
use portcullis::clock::Clock;
use portcullis::evidence::ReportData;
use portcullis::evidence::snp::Product;
use program::{Desk, vectors};

/// A desk with a policy for simulated guests, a machine's bare report, and its vendor.
async fn desk(seed: u64) -> (Desk, Service) {
    let now = Clock::system().now().expect("a clock that is right");
    let forge = Forge::new(Product::Genoa, seed, now);
    let desk = Desk::new();
    let text = r#"{ "version": 1, "name": "p", "insecure_roots": ["simulator"], "accept": [ { "id": "a", "tee": "sev-snp", "products": ["genoa"], "insecure_any_measurement": true } ] }"#;
    desk.write("p.json", text);
    desk.write("report.bin", forge.report_over(&ReportData([7; 64])));
    let vendor = Service::start(Kds::new(vec![forge], now)).await.expect("a port");
    (desk, vendor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fetched_is_shown_packed_and_checked() {
    let (desk, vendor) = desk(1).await;
    let source = vendor.url();
    let run = |words: String| desk.run(&words);
    let fetched = run(format!("collateral fetch --source {source} --policy p.json --for report.bin --cache cache --json"));
    assert_eq!(fetched.code, 0, "{}", fetched.shown());
    let items = fetched.json()["items"].as_array().expect("items").len();
    assert_eq!(items, 3, "chain, list and the chip's certificate: {}", fetched.shown());

    let asked = vendor.questions();
    let shown = run("collateral show --cache cache --json".to_owned());
    assert_eq!((shown.code, shown.json()["items"].as_array().expect("items").len()), (0, 3), "{}", shown.shown());
    let packed = run("collateral pack --source cache-is-enough --out bundle.json".to_owned());
    assert_eq!(packed.code, 2, "a source that is no folder: {}", packed.shown());
    let packed = run(format!("collateral pack --source {source} --cache cache --policy p.json --out bundle.json"));
    assert_eq!(packed.code, 0, "{}", packed.shown());
    assert!(packed.stderr.contains("3 items in bundle.json; the first ends"), "{}", packed.shown());
    assert_eq!(vendor.questions(), asked, "everything was in the cache");

    assert_eq!(run("collateral verify bundle.json --policy p.json".to_owned()).code, 0);
    let vendors_alone = run("collateral verify bundle.json".to_owned());
    assert_eq!(vendors_alone.code, 1, "simulated items are not the vendor's: {}", vendors_alone.shown());
    let later = run("collateral verify bundle.json --policy p.json --at 2031-01-01T00:00:00Z".to_owned());
    assert!(later.code == 1 || later.code == 3, "{}", later.shown());
    let text = desk.text("bundle.json");
    desk.write("torn.json", &text[..text.len() / 2]);
    assert_eq!(run("collateral verify torn.json".to_owned()).code, 2);

    // The bundle is a source.
    vendor.misbehave(ServiceFault::Hang);
    let offline = run("collateral fetch --source bundle.json --policy p.json --for report.bin".to_owned());
    assert_eq!(offline.code, 0, "{}", offline.shown());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_had_is_undecided_and_said_why() {
    let (desk, vendor) = desk(2).await;
    vendor.misbehave(ServiceFault::Throttled(Some(3600)));
    let run = desk.run(&format!("collateral fetch --source {} --policy p.json", vendor.url()));
    assert_eq!(run.code, 3, "{}", run.shown());
    assert!(run.stdout.contains("missing") && run.stdout.contains("429"), "{}", run.shown());
    let run = desk.run("collateral fetch --source bundle.json");
    assert_eq!(run.code, 2, "{}", run.shown());
}

/// A real quote that is out of date: which component is short, and by how much.
#[test]
fn tcb_says_which_component_is_short_and_by_how_much() {
    let Some(vectors) = vectors() else { return };
    let desk = Desk::new();
    let case = vectors.join("tdx/v4-cmc-outofdate");
    let run = desk.run(&format!("tcb {} --at 2026-04-01T04:32:04Z --json", case.display()));
    assert_eq!(run.code, 1, "{}", run.shown());
    let today = &run.json()["today"];
    assert_eq!(today["status"], "OutOfDate");
    assert!(today["advisories"].as_array().expect("advisories").iter().any(|id| id == "INTEL-SA-01111"), "{}", run.shown());
    let short = today["short"].as_array().expect("components");
    let module = short.iter().find(|short| short["component"].as_str().is_some_and(|name| name.starts_with("sgx.8"))).expect("SEAMLDR ACM is short");
    assert_eq!((module["found"].as_u64(), module["needed"].as_u64()), (Some(3), Some(6)));
    let good = desk.run(&format!("tcb {} --at 2026-03-05T13:50:07Z", vectors.join("tdx/v5-td15-uptodate").display()));
    assert_eq!(good.code, 0, "{}", good.shown());
    let ended = desk.run(&format!("tcb {} --at 2026-10-01T00:00:00Z", case.display()));
    assert_eq!(ended.code, 3, "collateral that ended: {}", ended.shown());
}
