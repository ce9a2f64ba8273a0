//! Arm CCA on this machine: through configfs-tsm, whose driver asks the realm management monitor.

use super::kernel;
use super::tsm::{self, Tsm};
use super::{Attester, Detected, Places, Provider, Quote, Sign, Unavailable, Weight};
use crate::evidence::cca::{MEDIA_TYPE, Token};
use crate::evidence::{Challenge, Endorsements, Evidence};

/// The platform's provider.
#[derive(Debug)]
pub struct Cca;

/// What the kernel's driver calls itself (Linux, drivers/virt/coco/arm-cca-guest).
const DRIVER: &str = "arm_cca_guest";

/// The driver as modprobe knows it.
const MODULE: kernel::Driver = kernel::Driver { module: "arm-cca-guest", device: "", since: (6, 13) };

impl Provider for Cca {
    fn names(&self) -> &'static [&'static str] {
        &[tsm::PROVIDER]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        // A realm has no privilege levels.
        let tsm = Tsm::new(places.of(tsm::ROOT), DRIVER, None);
        let probed = tsm.probe().map_err(|unavailable| places.kernel().explain_tsm(unavailable, &tsm.root, MODULE));
        vec![Detected { provider: tsm::PROVIDER, outcome: probed.map(|()| Box::new(Realm { tsm }) as Box<dyn Attester>) }]
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        places.kernel().shows("bus/platform/devices/arm-cca-dev", "the kernel made the device of a realm", Weight::Proof).into_iter().collect()
    }
}

struct Realm {
    tsm: Tsm,
}

impl Attester for Realm {
    fn platform(&self) -> &'static str {
        "cca"
    }

    fn provider(&self) -> &'static str {
        tsm::PROVIDER
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let bytes = self.tsm.report(&challenge.long.0)?.outblob;
        let unfit = |why: String, fix: &str, transient| {
            let what = format!("{} at {}", tsm::PROVIDER, self.tsm.root.display());
            Err(Unavailable { what, why, fix: fix.to_owned(), transient })
        };
        match Token::parse(&bytes).map(|token| token.realm.challenge == challenge.long.0) {
            Ok(true) => Ok(Quote { evidence: Evidence::new(MEDIA_TYPE, bytes), endorsements: Endorsements::default() }),
            Ok(false) => {
                unfit("token: its challenge is not what was asked for".to_owned(), "another process writes to our requests: find it and stop it", true)
            }
            Err(denied) => unfit(format!("token: {denied}"), "this platform's firmware is newer than this program: look for a newer release", false),
        }
    }
}
