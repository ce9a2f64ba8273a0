//! Intel TDX on this machine: through configfs-tsm, or the tdx_guest device and a quote service on the host where the
//! kernel has no configfs-tsm.

use std::path::Path;

use super::kernel::Driver;
use super::tsm::{self, Tsm};
use super::{Attester, Detected, Places, Provider, Quote, Sign, Unavailable, Weight, google};
use crate::evidence::intel::{self, Body, MEDIA_TYPE};
use crate::evidence::{Challenge, Endorsements, Evidence, ReportData};

/// The platform's provider.
#[derive(Debug)]
pub struct Tdx;

impl Provider for Tdx {
    fn names(&self) -> &'static [&'static str] {
        &[google::PROVIDER, tsm::PROVIDER]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        // A trust domain has no privilege levels: the setting is another platform's.
        let tsm = Tsm::new(places.tsm_root.clone(), "tdx_guest", None);
        let explained = |unavailable| places.kernel().explain_tsm(unavailable, &places.tsm_root, DRIVER);
        let by_folder = || tsm.probe().map_err(explained).map(|()| Box::new(TdxAttester { tsm: tsm.clone() }) as Box<dyn Attester>);
        google::beside(vec![Detected { provider: tsm::PROVIDER, outcome: by_folder() }], places, by_folder)
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        let kernel = places.kernel();
        let device = kernel.shows(DRIVER.device, "the kernel has the device of a trust domain", Weight::Proof);
        kernel.flag("tdx_guest").into_iter().chain(device).collect()
    }
}

/// The driver with a folder of configfs-tsm.
const DRIVER: Driver = Driver { module: "tdx-guest", device: "class/misc/tdx_guest", since: (6, 7) };

struct TdxAttester {
    tsm: Tsm,
}

impl Attester for TdxAttester {
    fn platform(&self) -> &'static str {
        "intel-tdx"
    }

    fn provider(&self) -> &'static str {
        tsm::PROVIDER
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let quote = self.tsm.report(&challenge.long.0)?.outblob;
        ours(&quote, &challenge.long, |body| matches!(body, Body::TrustDomain(_)), tsm::PROVIDER, &self.tsm.root)?;
        Ok(Quote { evidence: Evidence::new(MEDIA_TYPE, quote), endorsements: Endorsements::default() })
    }
}

/// Refuses what is not a quote over our data: better here than at every peer.
pub(super) fn ours(bytes: &[u8], data: &ReportData, is_body: fn(&Body) -> bool, provider: &str, place: &Path) -> Result<(), Unavailable> {
    let unfit = |why: String, fix: &str, transient| {
        let what = format!("{provider} at {}", place.display());
        Err(Unavailable { what, why, fix: fix.to_owned(), transient })
    };
    if bytes.is_empty() {
        return unfit("quote: empty".to_owned(), "the host's quote service gave none: look at its log, and at its PCCS", true);
    }
    match intel::Quote::parse(bytes) {
        Ok(quote) if !is_body(&quote.body) => unfit(format!("quote: of {}", quote.body.kind()), "this machine's TEE is of another kind", false),
        Ok(quote) if quote.bound_data() == *data => Ok(()),
        Ok(_) => unfit("quote: its report data is not what was asked for".to_owned(), "another process writes to our requests: find it and stop it", true),
        Err(denied) => unfit(format!("quote: {denied}"), "the host's quote service is newer than this program: look for a newer release", false),
    }
}
