//! AMD SEV-SNP on this machine: through configfs-tsm, or the sev-guest device where the kernel has no configfs-tsm.

use std::path::Path;

use tracing::warn;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::document::Document;
use super::kernel::Driver;
use super::sev_guest::{self, SevGuest};
use super::tsm::{self, Tsm};
use super::{Attester, Detected, Place, Places, Provider, Quote, Sign, Unavailable, Weight, google};
use crate::evidence::snp::table::{self, Kind};
use crate::evidence::snp::{MEDIA_TYPE, REPORT_SIZE, Report};
use crate::evidence::{Challenge, Endorsement, Endorsements, Evidence, ReportData, launch};

/// The platform's provider.
#[derive(Debug)]
pub struct Snp {
    /// The privilege level (VMPL) to ask from: the least that the kernel allows when not set. A verifier's policy must allow
    /// it too.
    pub privlevel: Option<u8>,
}

/// The sev-guest device.
pub const DEVICE: Place = Place("dev/sev-guest");

impl Provider for Snp {
    fn names(&self) -> &'static [&'static str] {
        &[google::PROVIDER, tsm::PROVIDER, sev_guest::PROVIDER]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        let tsm = Tsm::new(places.of(tsm::ROOT), "sev_guest", self.privlevel);
        let boxed = |way: Way| Box::new(SnpAttester { way }) as Box<dyn Attester>;
        let (kernel, device) = (places.kernel(), places.of(DEVICE));
        let by_folder = || tsm.probe().map_err(|unavailable| kernel.explain_tsm(unavailable, &tsm.root, TSM)).map(|()| boxed(Way::Tsm(tsm.clone())));
        let open = || SevGuest::open(&device, self.privlevel).map(|device| boxed(Way::Device(device)));
        let by_device = || open().map_err(|unavailable| kernel.explain_device(unavailable, &device, DRIVER));
        let ways = vec![Detected { provider: tsm::PROVIDER, outcome: by_folder() }, Detected { provider: sev_guest::PROVIDER, outcome: by_device() }];
        google::beside(ways, places, || by_folder().or_else(|first| by_device().map_err(|_| first)))
    }

    fn device(&self) -> Option<Place> {
        Some(DEVICE)
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        let kernel = places.kernel();
        let guest = kernel.shows("bus/platform/devices/sev-guest", "the kernel made the device of an SEV-SNP guest", Weight::Proof);
        let level = kernel.shows("devices/system/cpu/sev/vmpl", "the kernel runs at a privilege level of SEV-SNP", Weight::Proof);
        guest.into_iter().chain(level).collect()
    }
}

/// The driver with its own device (Linux 5.19), and with a folder of configfs-tsm (6.7).
const DRIVER: Driver = Driver { module: "sev-guest", device: "class/misc/sev-guest", since: (5, 19) };
const TSM: Driver = Driver { since: (6, 7), ..DRIVER };

struct SnpAttester {
    way: Way,
}

enum Way {
    Device(SevGuest),
    Tsm(Tsm),
}

impl Attester for SnpAttester {
    fn platform(&self) -> &'static str {
        "sev-snp"
    }

    fn provider(&self) -> &'static str {
        match self.way {
            Way::Device(_) => sev_guest::PROVIDER,
            Way::Tsm(_) => tsm::PROVIDER,
        }
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let (bytes, table, place) = match &self.way {
            Way::Device(device) => device.report(&challenge.long.0).map(|extended| (extended.report, extended.table, device.path()))?,
            Way::Tsm(tsm) => tsm.report(&challenge.long.0).map(|blobs| (blobs.outblob, blobs.auxblob, tsm.root.as_path()))?,
        };
        self.expect_ours(&bytes, &challenge.long, place)?;
        Ok(Quote { evidence: Evidence::new(MEDIA_TYPE, bytes), endorsements: endorsements(&table) })
    }
}

impl SnpAttester {
    /// Refuses what is not a report over our data: better here than at every peer.
    fn expect_ours(&self, bytes: &[u8], report_data: &ReportData, place: &Path) -> Result<(), Unavailable> {
        let unfit = |why: String, fix: &str, transient| {
            let what = format!("{} at {}", self.provider(), place.display());
            Err(Unavailable { what, why, fix: fix.to_owned(), transient })
        };
        if bytes.len() != REPORT_SIZE {
            return unfit(format!("report: expected {REPORT_SIZE} octets, found {}", bytes.len()), "the kernel's driver is not sev-guest as we know it", false);
        }
        match Report::parse(bytes) {
            Ok(report) if report.bound_data() == *report_data => Ok(()),
            Ok(_) => unfit("report: its report data is not what was asked for".to_owned(), "another process writes to our requests: find it and stop it", true),
            Err(denied) => unfit(format!("report: {denied}"), "this firmware is newer than this program: look for a newer release", false),
        }
    }
}

/// The certificates of the host's table by the names under which they are stapled. What cannot be read is left out: the
/// report is genuine without it, and operators may staple their own.
fn endorsements(blob: &[u8]) -> Endorsements {
    let entries = table::parse(blob).unwrap_or_else(|denied| {
        warn!(%denied, "the host's certificate table cannot be read");
        Vec::new()
    });
    entries.into_iter().filter_map(|entry| endorsement(entry.kind, entry.bytes)).collect()
}

fn endorsement(kind: Kind, bytes: &[u8]) -> Option<Endorsement> {
    let name = match kind {
        Kind::Ark | Kind::Other => return None, // verifiers have their own roots
        Kind::Ask => "ask",
        Kind::Crl => "crl",
        Kind::Launch => return Some(Endorsement { name: launch::NAME.to_owned(), media_type: launch::MEDIA_TYPE.to_owned(), bytes: bytes.to_vec() }),
        Kind::Vcek => "vcek",
        Kind::Vlek => "vlek",
    };
    let Some(document) = Document::read(bytes) else {
        warn!(name, octets = bytes.len(), "an entry of the host's certificate table is neither DER nor PEM");
        return None;
    };
    // The table has one GUID for both intermediates.
    let name = if kind == Kind::Ask && is_asvk(&document.der) { "asvk" } else { name };
    Some(document.named(name))
}

fn is_asvk(der: &[u8]) -> bool {
    X509Certificate::from_der(der)
        .is_ok_and(|(_, certificate)| certificate.subject().iter_common_name().any(|name| name.as_str().is_ok_and(|name| name.starts_with("SEV-VLEK-"))))
}
