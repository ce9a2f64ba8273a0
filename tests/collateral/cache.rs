//! One question for a thousand, and a cache that no kill spoils.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use portcullis::attester::simulator::{Flaw, Kds, RevocationList, ServiceFault, Shelf as _};
use portcullis::collateral::{Collateral, Item, Pace, Place, Reach, Settings, Source};
use portcullis::evidence::EndorsementId;

use crate::scene::{Client, PATIENCE, Server, appraisals, bare, collateral, mirror, needs, now, pace, scene, vendor, vouching};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_first_connections_ask_once_for_each_item() {
    const CONNECTIONS: usize = 1000;
    let (forge, parts) = (bare(20), scene());
    let server = Server::start(&scene(), forge.clone()).await;
    let (_, vendor) = vendor(std::slice::from_ref(&forge)).await;
    // Slow enough that all of them wait together.
    vendor.misbehave(ServiceFault::Slow(Duration::from_millis(150)));
    let settings = Settings { sources: vec![mirror(&vendor)], pace: Pace { wait: PATIENCE, ..pace() }, reach: Reach::default(), cache: None };
    let fresh = Collateral::start(settings, Some(vouching()), parts.clock.clone(), Arc::clone(&parts.metrics)).expect("a start");
    let client = Arc::new(Client::start(&parts, appraisals(&parts, Some(fresh)), server.address));
    let calls: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            tokio::spawn({
                let client = Arc::clone(&client);
                async move { client.call().await }
            })
        })
        .collect();
    let mut accepted = 0;
    for call in calls {
        accepted += usize::from(call.await.expect("no panic"));
    }
    assert_eq!(accepted, CONNECTIONS);
    let asked = vendor.asked();
    assert_eq!(asked.len(), needs(&forge).len(), "{asked:?}");
    assert!(asked.values().all(|count| *count == 1), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_survives_a_restart_and_another_process_finds_what_this_one_fetched() {
    let (forge, parts) = (bare(21), scene());
    let (_, vendor) = vendor(std::slice::from_ref(&forge)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let start = |sources: Vec<Source>| {
        let settings = Settings { sources, pace: pace(), reach: Reach::default(), cache: Some(folder.path().join("cache")) };
        Collateral::start(settings, Some(vouching()), parts.clock.clone(), Arc::clone(&parts.metrics)).expect("a start")
    };
    let other = start(vec![mirror(&vendor)]); // started before anything is there
    let first = start(vec![mirror(&vendor)]);
    first.get(&needs(&forge), PATIENCE).await;
    let asked = vendor.questions();
    settled(|| stored(&folder.path().join("cache")) == needs(&forge).len()).await;
    other.get(&needs(&forge), PATIENCE).await;
    assert!(needs(&forge).iter().all(|item| other.find(item, now()).is_some()));
    assert_eq!(vendor.questions(), asked, "found on disk");
    drop((first, other));
    let offline = start(Vec::new());
    assert!(needs(&forge).iter().all(|item| offline.find(item, now()).is_some()), "read at the start");
}

async fn settled(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it settles");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_or_torn_file_of_the_cache_is_not_believed() {
    let (forge, parts) = (bare(22), scene());
    let (_, vendor) = vendor(std::slice::from_ref(&forge)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let start = |sources: Vec<Source>| {
        let settings = Settings { sources, pace: pace(), reach: Reach::default(), cache: Some(folder.path().to_owned()) };
        Collateral::start(settings, Some(vouching()), parts.clock.clone(), Arc::clone(&parts.metrics)).expect("a start")
    };
    let first = start(vec![mirror(&vendor)]);
    first.get(&needs(&forge), PATIENCE).await;
    settled(|| stored(folder.path()) == needs(&forge).len()).await;
    drop(first);
    let whole: Vec<(PathBuf, Vec<u8>)> = files(folder.path()).into_iter().map(|file| (file.clone(), std::fs::read(file).expect("a file"))).collect();
    for (file, bytes) in &whole {
        for at in [0, 10, 40, 80, bytes.len() / 2, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            for spoilt in [&changed[..], &bytes[..at]] {
                std::fs::write(file, spoilt).expect("written");
                let offline = start(Vec::new());
                assert_eq!(offline.show().len(), whole.len() - 1, "{at}");
                assert!(!file.exists(), "it is removed");
                whole.iter().for_each(|(file, bytes)| std::fs::write(file, bytes).expect("written"));
            }
        }
    }
    assert_eq!(start(Vec::new()).show().len(), whole.len());
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}

/// How many items are there, whole.
fn stored(folder: &Path) -> usize {
    files(folder).iter().filter(|file| file.extension().is_some_and(|kind| kind == "item")).count()
}

/// What the writer says before it writes.
const WRITING: &str = "now it writes";

const WRITER: &str = "PORTCULLIS_TEST_CACHE";
const SOURCE: &str = "PORTCULLIS_TEST_SOURCE";

/// Kill -9 during a write, a hundred times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_spoils_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let (forge, parts) = (bare(23), scene());
    let kds = Kds::new(vec![forge.clone()], now());
    let source = folder.path().join("source");
    // Minted once: signatures are salted.
    let minted = |item: &Item| {
        let page = kds.page(&item.id.path, Flaw::None).expect("a page").body;
        let file = source.join(item.id.path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
        std::fs::write(file, &page).expect("written");
        portcullis::collateral::read(item.id.name, &page, None).expect("an item").endorsement.bytes
    };
    let wanted: Vec<Vec<u8>> = needs(&forge).iter().map(minted).collect();
    let (mut most, mut parts_left) = (0, 0);
    for round in 0..100_u64 {
        let mut writer = Command::new(std::env::current_exe().expect("this program"))
            .args(["cache::writes_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(WRITER, &cache)
            .env(SOURCE, &source)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let said = BufReader::new(writer.stdout.take().expect("a pipe")).lines();
        assert!(said.map_while(Result::ok).any(|line| line.contains(WRITING)), "it writes");
        // However slow the machine, some are killed when there is something to spoil.
        if round % 10 == 0 {
            settled(|| cache.exists() && files(&cache).iter().any(|file| file.extension().is_none_or(|kind| kind != "part"))).await;
        }
        tokio::time::sleep(Duration::from_micros(round * 7919 % 120_000)).await;
        writer.kill().expect("killed");
        writer.wait().expect("an end");
        parts_left += if cache.exists() { files(&cache).iter().filter(|file| file.extension().is_some_and(|kind| kind == "part")).count() } else { 0 };
        let settings = Settings { sources: Vec::new(), pace: pace(), reach: Reach::default(), cache: Some(cache.clone()) };
        let read = Collateral::start(settings, None, parts.clock.clone(), Arc::clone(&parts.metrics)).expect("the cache loads");
        let shown = read.show();
        most = most.max(shown.len());
        for item in shown {
            let bytes = item.held.expect("held").0.endorsement.bytes;
            assert!(wanted.contains(&bytes), "round {round}: {} holds what nobody wrote", item.key);
        }
    }
    println!("after 100 kills: up to {most} items, {parts_left} unfinished files seen");
    assert!(most > 0, "nothing was ever written");
}

#[tokio::test]
#[ignore = "runs as a process of its own, to be killed"]
async fn writes_until_it_is_killed() {
    let (Some(cache), Some(folder)) = (std::env::var_os(WRITER), std::env::var_os(SOURCE)) else { return };
    let (forge, parts) = (bare(23), scene());
    let source = Source { services: Vec::new(), place: Place::Folder(folder.into()) };
    let settings = Settings { sources: vec![source], pace: pace(), reach: Reach::default(), cache: Some(cache.into()) };
    let fresh = Collateral::start(settings, None, parts.clock.clone(), Arc::clone(&parts.metrics)).expect("a start");
    for round in 0_u64.. {
        // From here on it is killed: not before anything could be written, however busy the machine is.
        if round == 1 {
            println!("{WRITING}");
        }
        let of = |item: Item| Item { service: format!("https://vendor-{}.example", round % 200), id: EndorsementId { ..item.id } };
        fresh.hurry();
        fresh.get(&needs(&forge).into_iter().map(of).collect::<Vec<_>>(), PATIENCE).await;
    }
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_stops_the_start() {
    let parts = scene();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let settings = Settings { cache: Some(file.path().join("cache")), ..Settings::default() };
    assert!(Collateral::start(settings, None, parts.clock.clone(), Arc::clone(&parts.metrics)).is_err());
    drop(collateral(&parts, Vec::new()));
}

/// A process beside this one, with a mirror that is behind, shares the folder: its older list does not displace the newer
/// one that is at hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_list_from_another_process_displaces_no_newer_one() {
    let (forge, parts) = (bare(24), scene());
    let (kds, behind) = vendor(std::slice::from_ref(&forge)).await;
    let (latest, ahead) = vendor(std::slice::from_ref(&forge)).await;
    kds.publish(RevocationList { this_update: now().minus(500), number: 1, ..RevocationList::at(now()) });
    latest.publish(RevocationList { this_update: now().minus(50), number: 2, ..RevocationList::at(now()) });
    let folder = tempfile::tempdir().expect("a folder");
    let start = |sources: Vec<Source>| {
        let settings = Settings { sources, pace: pace(), reach: Reach::default(), cache: Some(folder.path().to_owned()) };
        Collateral::start(settings, Some(vouching()), parts.clock.clone(), Arc::clone(&parts.metrics)).expect("a start")
    };
    let list: Vec<Item> = needs(&forge).into_iter().filter(|item| item.id.name == "crl").collect();
    let ours = start(vec![mirror(&ahead)]);
    ours.get(&list, PATIENCE).await;
    let issued = || portcullis::collateral::endorsed(ours.find(&list[0], now()).expect("a list")).expect("readable").window.from;
    assert_eq!(issued(), now().minus(50));
    settled(|| stored(folder.path()) == 1).await;
    // The other began before there was anything in the folder, and writes a second later.
    files(folder.path()).iter().for_each(|file| std::fs::remove_file(file).expect("removed"));
    parts.clock.set(now().plus(1));
    let other = start(vec![mirror(&behind)]);
    other.get(&list, PATIENCE).await;
    settled(|| stored(folder.path()) == 1).await;
    parts.clock.set(now().plus(2));
    let asked = ahead.questions();
    ours.hurry();
    settled(|| ahead.questions() > asked || issued() != now().minus(50)).await;
    assert_eq!(issued(), now().minus(50));
}

/// What was got while the clock was ahead is asked for again once it is right: it is not frozen until the clock catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_ahead_freezes_nothing() {
    let (forge, parts) = (bare(25), scene());
    let (kds, vendor) = vendor(std::slice::from_ref(&forge)).await;
    kds.publish(RevocationList { this_update: now().minus(500), next_update: Some(now().plus(400 * 86_400)), ..RevocationList::at(now()) });
    let folder = tempfile::tempdir().expect("a folder");
    let start = || {
        let settings = Settings { sources: vec![mirror(&vendor)], pace: pace(), reach: Reach::default(), cache: Some(folder.path().to_owned()) };
        Collateral::start(settings, Some(vouching()), parts.clock.clone(), Arc::clone(&parts.metrics)).expect("a start")
    };
    let list: Vec<Item> = needs(&forge).into_iter().filter(|item| item.id.name == "crl").collect();
    parts.clock.set(now().plus(300 * 86_400));
    let fresh = start();
    fresh.want(&list);
    fresh.get(&list, PATIENCE).await;
    let old = fresh.find(&list[0], now()).expect("a list").bytes;
    settled(|| stored(folder.path()) == 1).await;
    kds.publish(RevocationList { this_update: now().minus(50), number: 2, next_update: Some(now().plus(400 * 86_400)), ..RevocationList::at(now()) });
    parts.clock.set(now());
    settled(|| fresh.find(&list[0], now()).expect("a list").bytes != old).await;
    drop(fresh);
}

struct Panics(std::sync::atomic::AtomicU64);

impl portcullis::collateral::Vet for Panics {
    fn vet(
        &self,
        _: &Item,
        _: &portcullis::evidence::Endorsement,
        _: &dyn Fn(&EndorsementId) -> Option<portcullis::evidence::Endorsement>,
        _: portcullis::evidence::Timestamp,
    ) -> Result<(), portcullis::collateral::NotVouched> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        panic!("a fault of this program")
    }
}

/// An item on which the search itself fails is asked for no more often than one that its source does not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_panics_is_a_failure_like_others() {
    let (forge, parts) = (bare(26), scene());
    let (_, vendor) = vendor(std::slice::from_ref(&forge)).await;
    let settings = Settings { sources: vec![mirror(&vendor)], pace: Pace::default(), reach: Reach::default(), cache: None };
    let vet = Arc::new(Panics(0.into()));
    let fresh = Collateral::start(settings, Some(vet.clone()), parts.clock.clone(), Arc::clone(&parts.metrics)).expect("a start");
    fresh.get(&needs(&forge)[..1], Duration::from_millis(300)).await;
    assert_eq!(vet.0.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert!(fresh.find(&needs(&forge)[0], now()).is_none());
}
