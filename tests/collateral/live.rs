//! Live connections: they end when what they stand on is withdrawn, and notice nothing otherwise.

use std::sync::Arc;

use portcullis::attester::simulator::{Forge, RevocationList, Role, SimulatedVendor};
use portcullis::evidence::snp::Product;
use portcullis::evidence::{KeyDigest, Timestamp};
use portcullis::policy::{Denial, DenyList};
use portcullis::refusal::Reason;

use crate::scene::{Client, Live, Server, appraisals, appraiser, bare, collateral, mirror, now, policy, scene, vendor};

fn turin(seed: u64) -> Forge {
    let mut forge = Forge::new(Product::Turin, seed, now());
    forge.unstapled = vec!["vcek", "ask", "crl"];
    forge
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intermediate_on_the_vendors_list_ends_its_connections_and_no_others() {
    let (genoa, turin) = (bare(40), turin(41));
    let (near, far) = (Server::start(&scene(), genoa.clone()).await, Server::start(&scene(), turin.clone()).await);
    let parts = scene();
    let (kds, vendor) = vendor(&[genoa, turin]).await;
    let fresh = collateral(&parts, vec![mirror(&vendor)]);
    let judge = appraisals(&parts, Some(fresh.clone()));
    let (client, other) = (Client::start(&parts, judge.clone(), near.address), Client::start(&parts, judge, far.address));
    let mut live = Live::open(&client).await.expect("accepted");
    let mut stays = Live::open(&other).await.expect("accepted");

    // A newer list that names nobody changes nothing.
    kds.publish(RevocationList { this_update: now().minus(50), number: 2, ..RevocationList::at(now()) });
    fresh.hurry();
    fetched(&vendor, 8).await;
    assert!(live.speaks().await && stays.speaks().await);

    let serial = SimulatedVendor::new(Product::Genoa).serial(Role::Ask);
    kds.publish(RevocationList { this_update: now().minus(10), number: 3, revoked: vec![(serial, now().minus(20))], ..RevocationList::at(now()) });
    fresh.hurry();
    live.ended().await;
    let outcome = client.outcomes(1).await.swap_remove(0);
    assert_eq!((outcome.field("event"), outcome.field("reason"), outcome.field("refused")), ("withdrawn", "chain_revoked", "upstream"));
    assert!(stays.speaks().await, "another product's connection notices nothing");
    assert!(!client.call().await, "and nobody new is let in");
    assert!(parts.metrics.text().contains(r#"connections_withdrawn_total{listener=""#));
}

/// Waits until the vendor was asked so often.
async fn fetched(vendor: &portcullis::attester::simulator::Service, questions: u64) {
    let waiting = async {
        while vendor.questions() < questions {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::scene::PATIENCE, waiting).await.expect("it asks again");
}

fn list(number: u64, expires: Timestamp, chip: Option<&[u8]>, key: Option<KeyDigest>) -> Arc<DenyList> {
    let denial = |chip: &[u8]| Denial { claim: "chip_id", value: chip.to_vec(), why: "sold".to_owned(), reason: Reason::PlatformNotAllowed };
    Arc::new(DenyList {
        number,
        expires,
        claims: chip.map(denial).into_iter().collect(),
        keys: key.map(|key| (key, "stolen".to_owned())).into_iter().collect(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chip_on_the_operators_list_loses_its_connections_and_another_keeps_them() {
    let (denied, kept) = (Forge::new(Product::Genoa, 42, now()), Forge::new(Product::Genoa, 43, now()));
    let (near, far) = (Server::start(&scene(), denied.clone()).await, Server::start(&scene(), kept).await);
    let parts = scene();
    let judge = appraisals(&parts, None);
    let (client, other) = (Client::start(&parts, judge.clone(), near.address), Client::start(&parts, judge.clone(), far.address));
    let live = Live::open(&client).await.expect("accepted");
    let mut stays = Live::open(&other).await.expect("accepted");
    let mut narrowed = policy("");
    narrowed.deny_list = Some(list(1, now().plus(3600), Some(&denied.report.chip_id), None));
    judge.replace(appraiser(narrowed));
    live.ended().await;
    let outcome = client.outcomes(1).await.swap_remove(0);
    assert_eq!((outcome.field("event"), outcome.field("reason")), ("withdrawn", "platform_not_allowed"));
    assert!(outcome.field("fix").contains("sold"), "{outcome:?}");
    assert!(stays.speaks().await);
    assert!(!client.call().await && other.call().await);

    // A list that nobody renewed: it is not known what the newer one says.
    let mut stale = policy("");
    stale.deny_list = Some(list(2, now().minus(1), None, None));
    judge.replace(appraiser(stale));
    stays.ended().await;
    assert_eq!(other.outcomes(2).await[1].field("reason"), "policy_invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrower_policy_ends_what_it_no_longer_accepts() {
    let server = Server::start(&scene(), Forge::new(Product::Genoa, 44, now())).await;
    let parts = scene();
    let judge = appraisals(&parts, None);
    let client = Client::start(&parts, judge.clone(), server.address);
    let mut live = Live::open(&client).await.expect("accepted");
    judge.replace(appraiser(policy("")));
    assert!(live.speaks().await, "the same policy again is noticed by nobody");
    let mut narrow = policy("");
    narrow.accept.clear();
    judge.replace(appraiser(narrow));
    live.ended().await;
    assert_eq!(client.outcomes(1).await[0].field("event"), "withdrawn");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offline_verifier_accepts_what_is_stapled_until_the_second_its_list_ends() {
    let mut forge = Forge::new(Product::Genoa, 45, now());
    let end = now().plus(600);
    forge.crl.next_update = Some(end);
    let parts = scene();
    let server = Server::start(&parts, forge).await;
    let client = Client::start(&parts, appraisals(&parts, None), server.address);
    assert!(client.call().await);
    parts.clock.set(end.minus(1));
    assert!(client.call().await, "in the second before");
    parts.clock.set(end.plus(1));
    assert!(!client.call().await);
    assert_eq!(client.outcomes(3).await[2].field("reason"), "collateral_unavailable");
}

/// A connection whose list ends goes on when a newer one is at hand, and ends when there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_list_gives_a_connection_more_time() {
    let (kept, cut) = (bare(46), {
        let mut forge = Forge::new(Product::Genoa, 47, now());
        forge.crl.next_update = Some(now().plus(2));
        forge
    });
    let parts = scene();
    let (far, near) = (Server::start(&parts, kept.clone()).await, Server::start(&parts, cut).await);
    let (kds, vendor) = vendor(&[kept]).await;
    kds.publish(RevocationList { next_update: Some(now().plus(2)), ..RevocationList::at(now()) });
    let fresh = collateral(&parts, vec![mirror(&vendor)]);
    let stays = Client::start(&parts, appraisals(&parts, Some(fresh.clone())), far.address);
    let mut live = Live::open(&stays).await.expect("accepted");
    let ends = Client::start(&parts, appraisals(&parts, None), near.address);
    let short = Live::open(&ends).await.expect("accepted");
    kds.publish(RevocationList { this_update: now().minus(1), ..RevocationList::at(now()) });
    fresh.hurry();
    fetched(&vendor, 6).await;
    short.ended().await;
    assert_eq!(ends.outcomes(1).await[0].field("ended"), "at the end of its permitted life");
    assert!(live.speaks().await, "the newer list counts");
}

/// A peer chooses which list it staples: an older one that still holds does not keep the newer one from being asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_a_peer_chose_stands_only_until_the_latest_is_here() {
    let forge = Forge::new(Product::Genoa, 48, now());
    let server = Server::start(&scene(), forge.clone()).await;
    let parts = scene();
    let (kds, vendor) = vendor(&[forge]).await;
    let serial = SimulatedVendor::new(Product::Genoa).serial(Role::Ask);
    kds.publish(RevocationList { this_update: now().minus(10), number: 3, revoked: vec![(serial, now().minus(20))], ..RevocationList::at(now()) });
    let client = Client::start(&parts, appraisals(&parts, Some(collateral(&parts, vec![mirror(&vendor)]))), server.address);
    if let Some(live) = Live::open(&client).await {
        live.ended().await;
    }
    let outcome = client.outcomes(1).await.swap_remove(0);
    assert_eq!(outcome.field("reason"), "chain_revoked", "{outcome:?}");
    assert!(!client.call().await, "and nobody is let in again on what it staples");
    assert_eq!(vendor.questions(), 1, "nothing but the list was asked for");
}

/// Evidence of a machine that the policy names no entry for costs the vendor no question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_about_a_machine_that_could_not_be_accepted() {
    let forge = bare(49);
    let server = Server::start(&scene(), forge.clone()).await;
    let parts = scene();
    let (_, vendor) = vendor(&[forge]).await;
    let judge = appraisals(&parts, Some(collateral(&parts, vec![mirror(&vendor)])));
    let mut narrow = policy("");
    narrow.accept.clear();
    judge.replace(appraiser(narrow));
    let client = Client::start(&parts, judge, server.address);
    assert!(!client.call().await);
    assert_eq!(vendor.questions(), 0);
}

/// A host whose table still has the certificate of an earlier TCB, or of another chip, keeps nobody from asking for the
/// right one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_chip_is_as_good_as_none() {
    let mut forge = Forge::new(Product::Genoa, 50, now());
    forge.unstapled = vec!["vcek"];
    let other = Forge::new(Product::Genoa, 51, now());
    let wrong = other.endorsements().iter().find(|endorsement| endorsement.name == "vcek").cloned().expect("minted");
    forge.further.push(wrong);
    let server = Server::start(&scene(), forge.clone()).await;
    let parts = scene();
    let (_, vendor) = vendor(&[forge]).await;
    let client = Client::start(&parts, appraisals(&parts, Some(collateral(&parts, vec![mirror(&vendor)]))), server.address);
    assert!(client.call().await, "{:?}", client.outcomes(1).await);
}
