//! Intel's items from a server of its protocol: the signer's chain comes in headers, the root's list from elsewhere.

use std::time::Duration;

use portcullis::attester::simulator::intel::{CrlList, IntelCa, IntelForge};
use portcullis::attester::simulator::{Flaw, Patch, ServiceFault};
use portcullis::collateral::{Collateral, Item, NotVouched, Vet as _};
use portcullis::evidence::{Endorsement, EndorsementId, ReportData};
use portcullis::platform;

use crate::scene::{Client, Live, PATIENCE, Server, appraisals, bare_intel, collateral, intel_needs as needs, mirror, now, pcs, scene};

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
        let (_, pcs) = pcs(&forge).await;
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
            references: portcullis::policy::References::Required,
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

/// Whose signature a list of PCK certificates has is told by the chain that came with it.
#[test]
fn a_list_of_pck_certificates_that_its_authority_did_not_sign_is_not_kept() {
    let vouching = crate::scene::vouching();
    let forge = IntelForge::tdx15(66, now());
    let item = needs(&forge).into_iter().find(|item| item.id.name == "pck_crl").expect("a list is needed");
    let (ours, impostor) = (IntelCa::new(), IntelCa::impostor());
    let vet = |list: Vec<u8>, beside: Option<Vec<u8>>| {
        let endorsement = Endorsement { name: item.id.name.to_owned(), media_type: String::new(), bytes: list };
        let others = |id: &EndorsementId| {
            let bytes = beside.clone().filter(|_| id.name == EndorsementId::ISSUER_CHAIN && id.path == item.id.path)?;
            Some(Endorsement { name: id.name.to_owned(), media_type: String::new(), bytes })
        };
        vouching.vet(&item, &endorsement, &others, now())
    };
    let list = &forge.pck_crl;
    assert_eq!(vet(ours.pck_crl(list), Some(ours.intermediate_chain())), Ok(()));
    assert_eq!(vet(ours.pck_crl(list), None), Ok(()), "an operator's file");
    for (what, list, beside) in [
        ("another's signature", impostor.pck_crl(list), ours.intermediate_chain()),
        ("another's chain", impostor.pck_crl(list), impostor.intermediate_chain()),
        ("a chain that is not the list's", ours.pck_crl(list), ours.signer_chain()),
        ("no chain", ours.pck_crl(list), Vec::new()),
        ("a chain that is none", ours.pck_crl(list), b"-----BEGIN CERTIFICATE-----".to_vec()),
        ("the root's list", ours.root_crl(list), ours.intermediate_chain()),
    ] {
        assert!(matches!(vet(list, Some(beside)), Err(NotVouched::Refused(_) | NotVouched::Needs(_))), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_certificate_is_revoked_loses_its_connections_and_another_keeps_them() {
    for (revoked, kept) in [(IntelForge::tdx15(70, now()), IntelForge::tdx15(71, now())), (IntelForge::sgx(72, now()), IntelForge::sgx(73, now()))] {
        let (revoked, kept) = (bare_intel(revoked), bare_intel(kept));
        let (near, far) = (Server::intel(&scene(), revoked.clone()).await, Server::intel(&scene(), kept).await);
        let parts = scene();
        // The two are of one kind: one service has what both need.
        let (service, vendor) = pcs(&revoked).await;
        let fresh = collateral(&parts, vec![mirror(&vendor)]);
        let judge = appraisals(&parts, Some(fresh.clone()));
        let (client, other) = (Client::start(&parts, judge.clone(), near.address), Client::start(&parts, judge, far.address));
        let mut live = Live::open(&client).await.expect("accepted");
        let mut stays = Live::open(&other).await.expect("accepted");
        let newer = CrlList { this_update: now().minus(10), ..revoked.pck_crl.clone() };

        // Forged, it does not count.
        vendor.misbehave(ServiceFault::Flawed(Flaw::WrongIssuer));
        service.publish(CrlList { revoked: vec![revoked.pck.serial], ..newer.clone() });
        fresh.hurry();
        let list = needs(&revoked).into_iter().find(|item| item.id.name == "pck_crl").expect("a list is needed");
        let told = async {
            while fresh.why(&list).is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("the forged list is refused");
        assert!(live.speaks().await && stays.speaks().await, "a forged list ends nothing");

        vendor.misbehave(ServiceFault::None);
        fresh.hurry();
        live.ended().await;
        let outcome = client.outcomes(1).await.swap_remove(0);
        assert_eq!((outcome.field("event"), outcome.field("reason"), outcome.field("refused")), ("withdrawn", "chain_revoked", "upstream"), "{outcome:?}");
        assert!(outcome.field("field") == "pck" && stays.speaks().await, "{outcome:?}");
        assert!(!client.call().await && other.call().await, "nobody new is let in, and the other is");
    }
}

/// A quote brings its own chain, and the questions depend on what its certificate says: whoever makes one up is refused, and
/// gets no question asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_on_the_word_of_a_quote_that_is_forged() {
    let forging: [fn(&mut IntelForge); 3] = [
        |forge| forge.ca = IntelCa::impostor(),
        |forge| forge.binds_other_key = true,
        |forge| forge.late_patches.push(Patch { offset: 54 + 136, octets: vec![0x5a] }),
    ];
    for (change, reason) in forging.into_iter().zip(["chain_untrusted", "quoting_enclave_invalid", "signature_invalid"]) {
        let genuine = bare_intel(IntelForge::tdx15(74, now()));
        let mut forged = genuine.clone();
        change(&mut forged);
        let server = Server::intel(&scene(), forged).await;
        let parts = scene();
        let (_, vendor) = pcs(&genuine).await;
        let client = Client::start(&parts, appraisals(&parts, Some(collateral(&parts, vec![mirror(&vendor)]))), server.address);
        assert!(!client.call().await, "{reason}");
        assert_eq!(client.outcomes(1).await.swap_remove(0).field("reason"), reason);
        assert_eq!(vendor.questions(), 0, "{reason}");
        assert_eq!(server.reached(), 0, "{reason}");
    }
}
