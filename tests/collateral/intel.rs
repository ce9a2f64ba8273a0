//! Intel's items from a server of its protocol: the signer's chain comes in headers, the root's list from elsewhere.

use std::time::Duration;

use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::simulator::{Flaw, Pcs, Service, ServiceFault};
use portcullis::collateral::{Collateral, Item, NotVouched, Vet as _};
use portcullis::evidence::{Endorsement, EndorsementId, ReportData};
use portcullis::platform;
use portcullis::proxy::appraisal::items;

use crate::scene::{PATIENCE, collateral, mirror, now, scene};

fn needs(forge: &IntelForge) -> Vec<Item> {
    let evidence = forge.quote(&ReportData([0; 64])).evidence;
    let platform = platform::of_evidence(&evidence).expect("a known platform");
    items(platform, platform.verifier.needs(&evidence).expect("a readable quote"))
}

async fn gets(collateral: &Collateral, items: &[Item]) {
    let getting = async {
        while !items.iter().all(|item| collateral.find(item, now()).is_some()) {
            collateral.get(items, PATIENCE).await;
        }
    };
    tokio::time::timeout(PATIENCE, getting).await.unwrap_or_else(|_| panic!("{:?}", items.iter().map(|item| collateral.why(item)).collect::<Vec<_>>()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_intels_protocol_gives_what_a_verdict_needs_and_faults_of_its_are_not_believed() {
    for forge in [IntelForge::tdx15(60, now()), IntelForge::sgx(61, now())] {
        let wanted = needs(&forge);
        assert_eq!(wanted.len(), 4);
        // The root's list is at the vendor's other address, and at a mirror's own path.
        let path = |item: &Item| if item.id.name == "root_crl" { "/sgx/certification/v4/rootcacrl".to_owned() } else { item.id.path.clone() };
        let paths = wanted.iter().map(|item| (item.id.name, path(item))).collect();
        let pcs = Service::start(Pcs::new(forge.clone(), paths)).await.expect("a port");
        pcs.misbehave(ServiceFault::Flawed(Flaw::Reordered));
        let parts = scene();
        let fresh = collateral(&parts, vec![mirror(&pcs)]);
        fresh.get(&wanted, Duration::from_millis(200)).await;
        for item in wanted.iter().filter(|item| matches!(item.id.name, "tcb_info" | "qe_identity")) {
            assert!(fresh.find(item, now()).is_none(), "{}: in another order than was signed", item.id.name);
        }
        pcs.misbehave(ServiceFault::None);
        gets(&fresh, &wanted).await;
        let evidence = forge.quote(&ReportData([0; 64])).evidence;
        let endorsements = wanted.iter().filter_map(|item| fresh.find(item, now())).collect();
        let judge = crate::scene::appraiser(crate::scene::policy(""));
        let platform = platform::of_evidence(&evidence).expect("a known platform");
        let grounds = portcullis::verify::Grounds {
            anchors: &judge.anchors,
            revocation: portcullis::policy::Revocation::Required,
            memo: &portcullis::verify::memo::NoMemo,
            now: now(),
        };
        let standing = platform.verifier.standing(&evidence, &endorsements, &grounds);
        assert_eq!(standing.expect("judged by what was fetched").status, "UpToDate");
    }
}

/// Intel signs several evaluations anew every day: dates alone do not say which one is the later.
#[test]
fn an_older_evaluation_displaces_no_newer_one_whatever_its_date() {
    let vouching = crate::scene::vouching();
    for forge in [IntelForge::tdx15(62, now()), IntelForge::sgx(63, now())] {
        let mut older = forge.clone();
        older.collateral.number -= 1;
        older.collateral.issued = now().minus(1);
        for item in needs(&forge).iter().filter(|item| matches!(item.id.name, "tcb_info" | "qe_identity")) {
            let of = |forge: &IntelForge| {
                let bytes = forge.endorsements().find(item.id.name).expect("minted").to_vec();
                Endorsement { name: item.id.name.to_owned(), media_type: String::new(), bytes }
            };
            let vet = |new: &IntelForge, at_hand: Option<&IntelForge>| {
                let others = |id: &EndorsementId| at_hand.filter(|_| *id == item.id).map(of);
                vouching.vet(item, &of(new), &others, now())
            };
            assert_eq!((vet(&forge, None), vet(&older, None)), (Ok(()), Ok(())));
            assert_eq!((vet(&forge, Some(&older)), vet(&forge, Some(&forge))), (Ok(()), Ok(())));
            assert!(matches!(vet(&older, Some(&forge)), Err(NotVouched::Refused(_))), "{}", item.id.name);
        }
    }
}

/// Genuine, current, and at another item's path: kept under it, it would have every peer refused.
#[test]
fn what_is_at_another_items_path_is_not_kept() {
    let vouching = crate::scene::vouching();
    let (tdx, sgx) = (IntelForge::tdx15(64, now()), IntelForge::sgx(65, now()));
    for (ours, theirs) in [(&tdx, &sgx), (&sgx, &tdx)] {
        for item in &needs(ours) {
            for name in ["tcb_info", "qe_identity", "root_crl", "pck_crl"] {
                let bytes = theirs.endorsements().find(name).expect("minted").to_vec();
                let endorsement = Endorsement { name: item.id.name.to_owned(), media_type: String::new(), bytes };
                // The lists are of Intel's authorities, whichever machine asks.
                let same = name == item.id.name && name.ends_with("_crl");
                assert_eq!(vouching.vet(item, &endorsement, &|_| None, now()).is_ok(), same, "{name} at {}", item.id.path);
            }
        }
    }
}
