//! Intel TDX on this machine: through configfs-tsm, or the tdx_guest device and a quote service on the host where the
//! kernel has no configfs-tsm.

use super::intel::ours;
use super::kernel::Driver;
use super::qgs::{self, QuoteService};
use super::tdx_guest::{self, TdxGuest};
use super::tsm::{self, Tsm};
use super::{Attester, Detected, Place, Places, Provider, Quote, Sign, Unavailable, Weight, google};
use crate::evidence::intel::{Body, MEDIA_TYPE};
use crate::evidence::{Challenge, Endorsements, Evidence};

/// The platform's provider.
#[derive(Debug)]
pub struct Tdx;

impl Provider for Tdx {
    fn names(&self) -> &'static [&'static str] {
        &[google::PROVIDER, tdx_guest::PROVIDER, tsm::PROVIDER]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        // A trust domain has no privilege levels.
        let (tsm, device) = (Tsm::new(places.of(tsm::ROOT), "tdx_guest", None), places.of(DEVICE));
        let explained = |unavailable| places.kernel().explain_tsm(unavailable, &tsm.root, TSM);
        let boxed = |way: Way| Box::new(TdxAttester { way }) as Box<dyn Attester>;
        let by_folder = || tsm.probe().map_err(explained).map(|()| boxed(Way::Tsm(tsm.clone())));
        let service = QuoteService { place: places.of(qgs::SERVICE) };
        let opened = TdxGuest::open(&device).map_err(|unavailable| places.kernel().explain_device(unavailable, &device, DRIVER));
        let device = opened.and_then(|device| service.probe().map(|()| boxed(Way::Device(device, service))));
        let ways = vec![Detected { provider: tsm::PROVIDER, outcome: by_folder() }, Detected { provider: tdx_guest::PROVIDER, outcome: device }];
        google::beside(ways, places, by_folder)
    }

    fn device(&self) -> Option<Place> {
        Some(DEVICE)
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        let kernel = places.kernel();
        let device = kernel.shows(DRIVER.device, "the kernel has the device of a trust domain", Weight::Proof);
        kernel.flag("tdx_guest").into_iter().chain(device).collect()
    }
}

/// The tdx_guest device.
pub const DEVICE: Place = Place("dev/tdx_guest");

/// The driver with its own device (Linux 6.2), and with a folder of configfs-tsm (6.7).
const DRIVER: Driver = Driver { module: "tdx-guest", device: "class/misc/tdx_guest", since: (6, 2) };
const TSM: Driver = Driver { since: (6, 7), ..DRIVER };

struct TdxAttester {
    way: Way,
}

enum Way {
    Device(TdxGuest, QuoteService),
    Tsm(Tsm),
}

impl Attester for TdxAttester {
    fn platform(&self) -> &'static str {
        "intel-tdx"
    }

    fn provider(&self) -> &'static str {
        match self.way {
            Way::Device(..) => tdx_guest::PROVIDER,
            Way::Tsm(_) => tsm::PROVIDER,
        }
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let (quote, place) = match &self.way {
            Way::Device(device, service) => (service.quote(&device.report(&challenge.long.0)?)?, device.path()),
            Way::Tsm(tsm) => (tsm.report(&challenge.long.0)?.outblob, tsm.root.as_path()),
        };
        ours(&quote, &challenge.long, |body| matches!(body, Body::TrustDomain(_)), self.provider(), place)?;
        Ok(Quote { evidence: Evidence::new(MEDIA_TYPE, quote), endorsements: Endorsements::default() })
    }
}
