//! Each source with each fault, cold and warm.

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis::attester::simulator::{Flaw, ServiceFault, Shelf as _};
use portcullis::collateral::{Collateral, Item, Packed, Place, Source, endorsed, write_bundle};
use portcullis::evidence::{Endorsement, Timestamp};
use portcullis::tls::Judge;

use crate::scene::{Client, PATIENCE, Server, appraisals, bare, collateral, mirror, needs, now, scene, vendor};

const FAULTS: &[ServiceFault] = &[
    ServiceFault::Absent,
    ServiceFault::Throttled(None),
    ServiceFault::Throttled(Some(1)),
    ServiceFault::Server(500),
    ServiceFault::Server(503),
    ServiceFault::Truncated,
    ServiceFault::Oversized,
    ServiceFault::Flawed(Flaw::Expired),
    ServiceFault::Flawed(Flaw::WrongIssuer),
    ServiceFault::Reset,
    ServiceFault::Hang,
    ServiceFault::Slow(Duration::from_secs(2)),
];

/// Calls until one succeeds: nothing is restarted.
async fn recovers(client: &Client) -> usize {
    let calling = async {
        let mut tries = 1;
        while !client.call().await {
            tries += 1;
        }
        tries
    };
    tokio::time::timeout(PATIENCE, calling).await.expect("the next tries succeed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cold_a_fault_refuses_for_want_of_collateral_and_the_next_try_succeeds() {
    let forge = bare(1);
    let server = Server::start(&scene(), forge.clone()).await;
    for fault in FAULTS {
        let parts = scene();
        let (_, vendor) = vendor(std::slice::from_ref(&forge)).await;
        let client = Client::start(&parts, appraisals(&parts, Some(collateral(&parts, vec![mirror(&vendor)]))), server.address);
        vendor.misbehave(*fault);
        let begun = Instant::now();
        assert!(!client.call().await, "{fault:?}");
        let took = begun.elapsed();
        let outcome = client.outcomes(1).await.swap_remove(0);
        assert_eq!((outcome.field("event"), outcome.field("reason")), ("refused", "collateral_unavailable"), "{fault:?}: {outcome:?}");
        assert!(outcome.field("fix").contains("from http://127.0.0.1"), "{fault:?}: the fix says what the source said: {outcome:?}");
        vendor.misbehave(ServiceFault::None);
        println!("cold {fault:?}: refused after {} ms, accepted at try {}", took.as_millis(), 1 + recovers(&client).await);
    }
    // The service saw no connection that was refused: each fault ends with one that was accepted.
    assert!(server.service.address().port() != 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_no_fault_refuses_or_delays_a_connection() {
    const CALLS: usize = 15;
    let forge = bare(2);
    let server = Server::start(&scene(), forge.clone()).await;
    let parts = scene();
    let (_, vendor) = vendor(std::slice::from_ref(&forge)).await;
    let fresh = collateral(&parts, vec![mirror(&vendor)]);
    let judge = appraisals(&parts, Some(fresh.clone()));
    let client = Client::start(&parts, judge, server.address);
    assert!(client.call().await, "the first connection fetches");
    let mut quiet = Vec::new();
    for _ in 0..CALLS {
        let begun = Instant::now();
        assert!(client.call().await);
        quiet.push(begun.elapsed());
    }
    println!("warm, no fault: {}", histogram(&quiet));
    for fault in FAULTS {
        // Quiet again: everything was asked for anew and had.
        vendor.misbehave(ServiceFault::None);
        let before = vendor.asked();
        fresh.hurry();
        let quiet = async {
            while !before.iter().all(|(path, count)| vendor.asked()[path] > *count) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        tokio::time::timeout(PATIENCE, quiet).await.expect("it is asked for");
        vendor.misbehave(*fault);
        let asked = vendor.questions();
        let mut delays = Vec::new();
        for _ in 0..CALLS {
            let begun = Instant::now();
            assert!(client.call().await, "{fault:?}");
            delays.push(begun.elapsed());
        }
        assert_eq!(vendor.questions(), asked, "{fault:?}: a connection caused a question");
        // And while the background asks and fails.
        fresh.hurry();
        for _ in 0..CALLS {
            let begun = Instant::now();
            assert!(client.call().await, "{fault:?}, while it is asked again");
            delays.push(begun.elapsed());
        }
        println!("warm {fault:?}: {}", histogram(&delays));
    }
    vendor.misbehave(ServiceFault::None);
}

/// How many delays are below each bound.
fn histogram(delays: &[Duration]) -> String {
    let bounds = [10, 20, 50, 100, 200, 500, 5000];
    let below = |bound: u128| delays.iter().filter(|delay| delay.as_millis() < bound).count();
    bounds.map(|bound| format!("<{bound} ms: {}", below(bound))).join("  ")
}

/// Past the deadline nothing is waited for either: an item that was seen and ended refuses at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_that_ended_is_not_waited_for() {
    let forge = bare(3);
    let server = Server::start(&scene(), forge.clone()).await;
    let parts = scene();
    let (_, vendor) = vendor(std::slice::from_ref(&forge)).await;
    let fresh = collateral(&parts, vec![mirror(&vendor)]);
    let judge = appraisals(&parts, Some(fresh.clone()));
    let client = Client::start(&parts, judge, server.address);
    assert!(client.call().await);
    vendor.misbehave(ServiceFault::Hang);
    let list = needs(&forge).into_iter().find(|item| item.id.name == "crl").expect("a list is needed");
    let end = fresh.show().into_iter().find(|shown| shown.key == list.key()).and_then(|shown| shown.held).expect("it was fetched").0.window.until;
    assert!(fresh.find(&list, end).is_some() && fresh.find(&list, end.plus(1)).is_none(), "it holds until its last second");
    assert_eq!(fresh.unseen(needs(&forge)), Vec::new(), "nothing is left to wait for");
}

/// What the vendor's double serves, by path.
fn page(forge: &portcullis::attester::simulator::Forge, item: &Item, flaw: Flaw) -> Vec<u8> {
    let kds = portcullis::attester::simulator::Kds::new(vec![forge.clone()], now());
    kds.page(&item.id.path, flaw).expect("a page").body
}

async fn got(collateral: &Collateral, items: &[Item]) -> bool {
    collateral.get(items, PATIENCE).await;
    items.iter().all(|item| collateral.find(item, now()).is_some())
}

async fn gets(collateral: &Collateral, items: &[Item]) {
    let getting = async {
        while !got(collateral, items).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, getting).await.expect("it is had once the source is mended");
}

fn put(folder: &Path, item: &Item, bytes: &[u8]) {
    let file = folder.join(item.id.path.trim_start_matches('/'));
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
    std::fs::write(file, bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_with_faults_is_believed_when_it_is_mended_and_trusted_while_it_is_broken() {
    let (forge, parts) = (bare(4), scene());
    let items = needs(&forge);
    let spoil: [(&str, fn(&portcullis::attester::simulator::Forge, &Item) -> Option<Vec<u8>>); 6] = [
        ("absent", |_, _| None),
        ("truncated", |forge, item| Some(page(forge, item, Flaw::None)[..100].to_vec())),
        ("html", |_, _| Some(b"<html>".to_vec())),
        ("oversized", |_, _| Some(vec![b' '; 2 << 20])),
        ("expired", |forge, item| Some(page(forge, item, if item.id.name == "ask" { Flaw::WrongIssuer } else { Flaw::Expired }))),
        ("of others", |forge, item| Some(page(forge, item, Flaw::WrongIssuer))),
    ];
    for (fault, spoil) in spoil {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Source { services: Vec::new(), place: Place::Folder(folder.path().to_owned()) };
        let cold = collateral(&parts, vec![source]);
        for item in &items {
            if let Some(bytes) = spoil(&forge, item) {
                put(folder.path(), item, &bytes);
            }
        }
        assert!(!got(&cold, &items).await, "{fault}");
        assert!(items.iter().all(|item| cold.find(item, now()).is_none()), "{fault}: nothing of it is believed");
        assert!(items.iter().all(|item| !cold.why(item).is_empty()), "{fault}: it is said why");
        items.iter().for_each(|item| put(folder.path(), item, &page(&forge, item, Flaw::None)));
        gets(&cold, &items).await;
        // Warm: spoilt again, and looked at again.
        for item in &items {
            match spoil(&forge, item) {
                Some(bytes) => put(folder.path(), item, &bytes),
                None => std::fs::remove_file(folder.path().join(item.id.path.trim_start_matches('/'))).expect("removed"),
            }
        }
        cold.hurry();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(items.iter().all(|item| cold.find(item, now()).is_some()), "{fault}: what was had is kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_serves_a_machine_without_a_network_and_one_bad_item_spoils_it() {
    let (forge, parts) = (bare(5), scene());
    let items = needs(&forge);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bundle.json");
    let packed: Vec<_> = items
        .iter()
        .map(|item| {
            let read = portcullis::collateral::read(item.id.name, &page(&forge, item, Flaw::None), None).expect("an item");
            Packed { service: item.service.clone(), path: item.id.path.clone(), read }
        })
        .collect();
    let good = write_bundle(&packed, now());
    for bad in ["{}", "", "{\"version\":1,\"items\":[{}]}", &good.replacen("\"data\": \"MII", "\"data\": \"MIJ", 1), &good[..good.len() / 2]] {
        std::fs::write(&file, bad).expect("written");
        let source = Source { services: Vec::new(), place: Place::Bundle(file.clone()) };
        let cold = collateral(&parts, vec![source]);
        assert!(!got(&cold, &items).await, "{bad:.40}");
        std::fs::write(&file, &good).expect("written");
        gets(&cold, &items).await;
    }
}

/// The vendor's own service as the last resort behind a source that fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_are_asked_in_the_operators_order() {
    let (forge, parts) = (bare(6), scene());
    let (_, first) = vendor(&[]).await;
    let (_, second) = vendor(std::slice::from_ref(&forge)).await;
    let fresh = collateral(&parts, vec![mirror(&first), mirror(&second)]);
    let items = needs(&forge);
    assert!(got(&fresh, &items).await);
    let vcek = items.iter().find(|item| item.id.name == "vcek").expect("a VCEK is needed");
    assert_eq!(first.asked().get(&vcek.id.path), Some(&1), "the first is asked first");
    assert_eq!(second.asked().get(&vcek.id.path), Some(&1), "the second for what the first has not");
    assert_eq!(second.questions(), 1, "and for nothing else");
    let elsewhere = Source { services: vec!["https://another.example".to_owned()], ..mirror(&second) };
    let none = collateral(&parts, vec![elsewhere]);
    assert!(!got(&none, &items).await && second.questions() == 1, "a source for another vendor is not asked");
}

/// A peer's evidence decides what is asked for, never where: paths come from a report's numbers alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_asked_of_a_source_that_the_operator_did_not_name() {
    let (forge, parts) = (bare(7), scene());
    let (_, vendor) = vendor(std::slice::from_ref(&forge)).await;
    let server = Server::start(&scene(), forge.clone()).await;
    let offline = appraisals(&parts, Some(collateral(&parts, Vec::new())));
    let client = Client::start(&parts, offline, server.address);
    assert!(!client.call().await);
    assert_eq!(client.outcomes(1).await[0].field("reason"), "collateral_unavailable");
    assert_eq!(vendor.questions(), 0);
}

/// An endorsement that a peer staples is no authority: a root of its own, or a list of another issuer.
#[test]
fn what_a_peer_staples_is_read_with_its_own_dates_alone() {
    let forge = bare(8);
    let crl = forge.vendor.revoke(&forge.crl);
    let read = endorsed(Endorsement { name: "crl".to_owned(), media_type: "text/plain".to_owned(), bytes: crl }).expect("a list");
    assert_eq!(read.endorsement.media_type, "application/pkix-crl", "the media type is derived");
    assert_eq!(Some(read.window.until), forge.crl.next_update);
    assert!(!read.window.holds(Timestamp(0)));
    let parts = scene();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let judge = appraisals(&parts, Some(collateral(&parts, Vec::new())));
        assert!(judge.changes().has_changed().is_ok());
    });
}
