//! The commands about collateral, as an operator types them.
#![cfg(all(feature = "cli", feature = "simulator"))]
#![allow(clippy::disallowed_methods, reason = "tests read and write their own files")]

#[path = "support/program.rs"]
mod program;

use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::simulator::{Flaw, Forge, Kds, Pcs, Service, ServiceFault};
use portcullis::clock::Clock;
use portcullis::evidence::ReportData;
use portcullis::evidence::intel::collateral::Signed;
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

/// What cannot be reached is asked once, and each source has its reason; what asks for time is waited for, and that is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetching_says_who_is_asked_and_waits_only_for_whom_it_helps() {
    let (desk, vendor) = desk(3).await;
    vendor.misbehave(ServiceFault::Reset);
    let words = format!("collateral fetch --source {} --source http://127.0.0.1:1 --policy p.json --for report.bin", vendor.url());
    let run = desk.run(&format!("{words} --json"));
    assert_eq!(run.code, 3, "{}", run.shown());
    assert!(run.stderr.contains(&format!("asking for 3 items: {}, then http://127.0.0.1:1", vendor.url())), "{}", run.shown());
    for item in run.json()["items"].as_array().expect("items") {
        let failed: Vec<_> = item["failed"].as_array().expect("reasons").iter().map(|failed| failed["source"].as_str().expect("text")).collect();
        assert_eq!(failed, [vendor.url().as_str(), "http://127.0.0.1:1"], "{item}");
    }
    assert!(vendor.asked().values().all(|times| *times == 1), "{:?}", vendor.asked());

    vendor.misbehave(ServiceFault::Throttled(Some(1)));
    let before = vendor.questions();
    let running = tokio::task::spawn_blocking(move || desk.run(&words));
    while vendor.questions() == before {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    vendor.misbehave(ServiceFault::None);
    let run = running.await.expect("it ends");
    assert_eq!(run.code, 0, "{}", run.shown());
    assert!(run.stderr.contains("it asks for patience: 429, try again in 1 s") && run.stderr.contains("asked again in"), "{}", run.shown());
}

/// The same exit code as `probe` has: a later try may succeed.
#[test]
fn tcb_of_a_server_that_is_not_there_is_undecided() {
    let desk = Desk::new();
    for words in ["tcb 127.0.0.1:1", "probe 127.0.0.1:1"] {
        let run = desk.run(&format!("{words} --json"));
        assert_eq!(run.code, 3, "{}", run.shown());
        assert!(run.stdout.contains("\"timeout\"") && run.stdout.contains("a server that answers"), "{}", run.shown());
    }
}

/// Today's data set, and the one that is announced for later at another source: it is believed as little as today's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcb_tells_what_the_announced_data_set_will_ask_for() {
    let now = Clock::system().now().expect("a clock that is right");
    let mut machine = IntelForge::tdx15(80, now);
    machine.unstapled = vec!["tcb_info", "qe_identity", "pck_crl", "root_crl"];
    let evidence = machine.quote(&ReportData([7; 64])).evidence;
    let desk = Desk::new();
    desk.write("quote.bin", &evidence.bytes);
    desk.write("p.json", r#"{ "version": 1, "name": "p", "insecure_roots": ["simulator"], "accept": [] }"#);
    let needs = portcullis::platform::of_evidence(&evidence).expect("a known platform").verifier.needs(&evidence).expect("readable");
    let at = |update: &str| {
        let path = |path: &str| match path {
            "/IntelSGXRootCA.der" => "/sgx/certification/v4/rootcacrl".to_owned(),
            path if update.is_empty() => path.to_owned(),
            path => format!("{path}{}{update}", if path.contains('?') { '&' } else { '?' }),
        };
        needs.iter().map(|id| (id.name, path(&id.path))).collect::<Vec<_>>()
    };
    let mut next = machine.clone();
    next.collateral.number += 1;
    let mut newest = next.collateral.levels[0].clone();
    next.collateral.levels[0].status = "OutOfDate";
    next.collateral.levels[0].advisories = vec!["INTEL-SA-09999"];
    newest.sgx[0] += 2;
    next.collateral.levels.insert(0, newest);
    let today = Service::start(Pcs::new(machine, at(""))).await.expect("a port");
    let announced = Service::start(Pcs::new(next, at("update=early"))).await.expect("a port");
    let words = format!("tcb quote.bin --policy p.json --source {} --source {}", today.url(), announced.url());

    let run = desk.run(&format!("{words} --json"));
    assert_eq!((run.code, run.json()["today"]["status"].as_str()), (0, Some("UpToDate")), "{}", run.shown());
    assert_eq!(run.json()["early"], serde_json::Value::Null);

    let run = desk.run(&format!("{words} --early --json"));
    assert_eq!(run.code, 1, "short under the announced set: {}", run.shown());
    let (document, early) = (run.json(), run.json()["early"].clone());
    assert_eq!((document["today"]["status"].as_str(), document["today"]["edition"].as_str()), (Some("UpToDate"), Some("evaluation 21")));
    assert_eq!((early["status"].as_str(), early["edition"].as_str()), (Some("OutOfDate"), Some("evaluation 22")), "{}", run.shown());
    assert_eq!(early["advisories"], serde_json::json!(["INTEL-SA-09999"]));
    let short = early["short"].as_array().expect("components");
    assert_eq!(short.len(), 1, "{}", run.shown());
    assert!(short[0]["component"].as_str().is_some_and(|component| component.starts_with("sgx.1")), "{}", run.shown());
    assert_eq!((short[0]["found"].as_u64(), short[0]["needed"].as_u64()), (Some(11), Some(13)));
    let text = desk.run(&format!("{words} --early")).stdout;
    assert!(text.contains("UpToDate: quote.bin") && text.contains("OutOfDate: under the announced data set\n") && text.contains("short by  2"), "{text}");

    // Somebody else's signature, another order than was signed, and an end: not judged by, and today's verdict stays.
    for flaw in [Flaw::WrongIssuer, Flaw::Reordered, Flaw::Expired] {
        announced.misbehave(ServiceFault::Flawed(flaw));
        let run = desk.run(&format!("{words} --early --json"));
        assert!(run.code == 1 || run.code == 3, "{flaw:?}: {}", run.shown());
        assert_eq!(run.json()["today"]["status"], "UpToDate", "{flaw:?}");
        assert!(run.json()["early"]["status"].is_null() && run.json()["early"]["reason"].is_string(), "{flaw:?}: {}", run.shown());
    }
    announced.misbehave(ServiceFault::Absent);
    let run = desk.run(&format!("{words} --early --json"));
    assert_eq!((run.code, run.json()["early"]["reason"].as_str()), (3, Some("collateral_unavailable")), "{}", run.shown());
}

/// Intel's statements show what they say; what they are worth is not said.
#[test]
fn inspection_shows_intels_statements() {
    let forge = IntelForge::tdx15(81, Clock::system().now().expect("a clock that is right"));
    let desk = Desk::new();
    for name in ["tcb_info", "qe_identity"] {
        let endorsements = forge.endorsements();
        let signed = Signed::decode(name, endorsements.find(name).expect("minted")).expect("signed");
        desk.write(&format!("{name}.json"), signed.body);
        let fields = desk.run(&format!("inspect {name}.json --json")).json()["fields"].clone();
        assert_eq!(fields["evaluation"], 21, "{fields}");
        assert!(fields["next_update"].is_string() && fields["level 1"].as_str().is_some_and(|level| level.contains("OutOfDate")), "{fields}");
        assert!(fields["signature"].as_str().is_some_and(|signature| signature.starts_with("not checked")), "{fields}");
    }
    let fields = desk.run("inspect tcb_info.json --json").json()["fields"].clone();
    assert!(fields["fmspc"].is_string() && fields["level 1"].as_str().is_some_and(|level| level.contains("INTEL-SA-00001")), "{fields}");
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
