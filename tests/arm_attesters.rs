//! Tokens of a CCA realm through configfs-tsm, against the kernel's side of it in FUSE.
#![cfg(all(feature = "simulator", target_os = "linux"))]

#[path = "support/tsm.rs"]
#[allow(dead_code, reason = "written for SEV-SNP, which has more to go wrong")]
mod fake;

use fake::{Driver, FakeTsm};
use portcullis::attester::cca::Cca;
use portcullis::attester::simulator::cca::CcaForge;
use portcullis::attester::{Attester, Places, Provider as _, Unavailable, tsm};
use portcullis::evidence::{Challenge, ReportData, cca};

const ASKED: Challenge = Challenge { long: ReportData([7; 64]), short: [0; 48] };

/// An arm_cca_guest driver: no privilege levels, nothing beside the token.
fn driver(provider: &'static str, token: impl Fn(&[u8; 64]) -> Vec<u8> + Send + 'static) -> Driver {
    let mut driver = Driver::good(move |challenge, _| token(challenge));
    driver.provider = Some(provider);
    driver.hidden = vec!["auxblob", "privlevel", "privlevel_floor"];
    driver
}

fn realm(fake: &FakeTsm) -> Result<Box<dyn Attester>, Unavailable> {
    Cca.detect(&Places::default().moved(tsm::ROOT, fake.root())).pop().expect("configfs-tsm is looked for").outcome
}

#[test]
fn a_token_of_a_realm_comes_through_configfs_tsm() {
    let Some(fake) = FakeTsm::mount(driver("arm_cca_guest", |challenge| CcaForge::new(1).token(&ReportData(*challenge)))) else { return };
    let attester = realm(&fake).expect("the driver works");
    assert_eq!((attester.platform(), attester.provider()), ("cca", "configfs-tsm"));
    let quote = attester.attest(&ASKED).expect("a token");
    assert_eq!(cca::Token::parse(&quote.evidence.bytes).expect("a token").realm.challenge, [7; 64]);
}

#[test]
fn what_is_no_token_of_ours_is_not_published() {
    for (why, token) in [
        ("its challenge is not what was asked for", (|_: &[u8; 64]| CcaForge::new(1).token(&ReportData([9; 64]))) as fn(&[u8; 64]) -> Vec<u8>),
        ("evidence_malformed", |_| vec![4, 0, 2, 0]),
        ("evidence_malformed", |_| Vec::new()),
    ] {
        let Some(fake) = FakeTsm::mount(driver("arm_cca_guest", token)) else { return };
        let refused = realm(&fake).expect("the driver works").attest(&ASKED).expect_err(why);
        assert!(refused.why.contains(why), "{refused}");
    }
    let Some(fake) = FakeTsm::mount(driver("tdx_guest", |challenge| CcaForge::new(1).token(&ReportData(*challenge)))) else { return };
    assert!(realm(&fake).is_err_and(|error| error.why.contains("expected arm_cca_guest")));
}
