//! Each source with each fault, cold and warm.

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::simulator::{Flaw, Service, ServiceFault, Shelf as _};
use portcullis::collateral::{Collateral, Item, Packed, Place, Source, endorsed, write_bundle};
use portcullis::evidence::{Endorsement, Timestamp};
use portcullis::proxy::Parts;
use portcullis::tls::Judge;

use crate::internet::Internet;
use crate::scene::{Client, PATIENCE, Server, appraisals, bare, bare_intel, collateral, collateral_by, mirror, needs, now, pcs, scene, vendor};

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

/// Whose service is asked, and for whose machines.
#[derive(Clone, Copy, Debug)]
enum Maker {
    Amd,
    Intel,
}

/// What stands between.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// A server with the vendor's paths.
    Mirror,
    /// The vendor's own service, by its name and over TLS, behind a proxy.
    Vendor,
}

/// A machine, and how its vendor is reached.
struct Pair {
    maker: Maker,
    way: Way,
    server: Server,
    forge: portcullis::attester::simulator::Forge,
    intel: IntelForge,
}

impl Pair {
    async fn new(maker: Maker, way: Way, seed: u64) -> Self {
        let (forge, intel) = (bare(seed), bare_intel(IntelForge::tdx15(seed, now())));
        let server = match maker {
            Maker::Amd => Server::start(&scene(), forge.clone()).await,
            Maker::Intel => Server::intel(&scene(), intel.clone()).await,
        };
        Self { maker, way, server, forge, intel }
    }

    /// The vendor's double, and a client's collateral from it.
    async fn vendor(&self, parts: &Parts) -> (Service, Collateral, Option<Internet>) {
        let service = match self.maker {
            Maker::Amd => vendor(std::slice::from_ref(&self.forge)).await.1,
            Maker::Intel => pcs(&self.intel).await.1,
        };
        match self.way {
            Way::Mirror => {
                let fresh = collateral(parts, vec![mirror(&service)]);
                (service, fresh, None)
            }
            Way::Vendor => {
                let internet = Internet::with(&service).await;
                let fresh = collateral_by(parts, vec![Source { services: Vec::new(), place: Place::Vendor }], internet.reach());
                (service, fresh, Some(internet))
            }
        }
    }

    /// Its own faults beside those that every server has.
    fn faults(&self) -> impl Iterator<Item = ServiceFault> {
        let own = match self.maker {
            Maker::Amd => None,
            Maker::Intel => Some(ServiceFault::Flawed(Flaw::Reordered)),
        };
        FAULTS.iter().copied().chain(own)
    }
}

/// Each fault before anything was ever had: the refusal says what is missing, and the next tries succeed.
async fn cold(maker: Maker, way: Way, seed: u64) {
    let pair = Pair::new(maker, way, seed).await;
    let told = match way {
        Way::Mirror => "from http://127.0.0.1",
        Way::Vendor => "from vendor",
    };
    for fault in pair.faults() {
        let parts = scene();
        let (vendor, fresh, _internet) = pair.vendor(&parts).await;
        let client = Client::start(&parts, appraisals(&parts, Some(fresh)), pair.server.address);
        vendor.misbehave(fault);
        let begun = Instant::now();
        assert!(!client.call().await, "{fault:?}");
        let took = begun.elapsed();
        let outcome = client.outcomes(1).await.swap_remove(0);
        assert_eq!((outcome.field("event"), outcome.field("reason")), ("refused", "collateral_unavailable"), "{fault:?}: {outcome:?}");
        assert!(outcome.field("fix").contains(told), "{fault:?}: the fix says what the source said: {outcome:?}");
        vendor.misbehave(ServiceFault::None);
        println!("cold {maker:?} {way:?} {fault:?}: refused after {} ms, accepted at try {}", took.as_millis(), 1 + recovers(&client).await);
    }
}

/// Each fault when all was had: no connection is refused, and none asks.
async fn warm(maker: Maker, way: Way, seed: u64) {
    const CALLS: usize = 10;
    let pair = Pair::new(maker, way, seed).await;
    let parts = scene();
    let (vendor, fresh, _internet) = pair.vendor(&parts).await;
    let client = Client::start(&parts, appraisals(&parts, Some(fresh.clone())), pair.server.address);
    recovers(&client).await;
    let timed = async |what: &str, delays: &mut Vec<Duration>| {
        for _ in 0..CALLS {
            let begun = Instant::now();
            assert!(client.call().await, "{what}");
            delays.push(begun.elapsed());
        }
    };
    let mut quiet = Vec::new();
    timed("no fault", &mut quiet).await;
    println!("warm {maker:?} {way:?}, no fault: {}", histogram(&quiet));
    for fault in pair.faults() {
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
        vendor.misbehave(fault);
        let asked = vendor.questions();
        let mut delays = Vec::new();
        timed(&format!("{fault:?}"), &mut delays).await;
        assert_eq!(vendor.questions(), asked, "{fault:?}: a connection caused a question");
        // And while the background asks and fails.
        fresh.hurry();
        timed(&format!("{fault:?}, while it is asked again"), &mut delays).await;
        println!("warm {maker:?} {way:?} {fault:?}: {}", histogram(&delays));
    }
    vendor.misbehave(ServiceFault::None);
}

/// A test for each vendor and way, cold and warm.
macro_rules! matrix {
    ($($name:ident: $what:ident($maker:ident, $way:ident, $seed:literal);)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $what(Maker::$maker, Way::$way, $seed).await;
        }
    )*};
}

matrix! {
    cold_a_fault_of_amds_mirror_refuses_and_the_next_try_succeeds: cold(Amd, Mirror, 1);
    cold_a_fault_of_amds_service_refuses_and_the_next_try_succeeds: cold(Amd, Vendor, 9);
    cold_a_fault_of_intels_mirror_refuses_and_the_next_try_succeeds: cold(Intel, Mirror, 10);
    cold_a_fault_of_intels_service_refuses_and_the_next_try_succeeds: cold(Intel, Vendor, 11);
    warm_no_fault_of_amds_mirror_refuses_or_delays_a_connection: warm(Amd, Mirror, 2);
    warm_no_fault_of_amds_service_refuses_or_delays_a_connection: warm(Amd, Vendor, 12);
    warm_no_fault_of_intels_mirror_refuses_or_delays_a_connection: warm(Intel, Mirror, 13);
    warm_no_fault_of_intels_service_refuses_or_delays_a_connection: warm(Intel, Vendor, 14);
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
