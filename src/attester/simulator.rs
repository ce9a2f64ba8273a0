//! A simulated vendor and its machines: genuine SEV-SNP formats under published roots.
//!
//! For tests, the demo and trying things out. Everything that AMD signs is signed here too, with the names, extensions,
//! algorithms and encodings of the real certificates, but with keys that anybody has (see `keys/README.md`). Evidence
//! made here proves nothing; it is accepted only where a policy names the simulator in an `insecure_` key.
//!
//! Not for: judging anything. No clock is read: the present is an argument.

mod authority;
mod azure;
pub mod cca;
mod certificate;
mod der;
pub mod elliptic;
mod forge;
mod google;
pub mod gpu;
pub mod intel;
mod intel_certificates;
mod intel_collateral;
mod intel_forge;
mod kds;
mod keys;
mod keystone;
mod machine;
pub mod nitro;
mod pcs;
mod pki;
pub mod psa;
mod revocation;
mod service;
mod steady;
mod vtpm;

use std::time::Duration;

use super::{Attester, Unavailable};
use crate::evidence::Timestamp;
use crate::evidence::snp::Product;

pub use authority::{Role, SimulatedVendor};
pub use azure::{AzureForge, AzureHardware, SimulatedAzureSnp, SimulatedAzureTdx};
pub use certificate::{Trailer, VekCertificate, VekExtension};
pub use forge::{Forge, Patch};
pub use google::{LaunchForge, LaunchHardware, LaunchSigner};
pub use kds::Kds;
pub use keystone::{KeystoneForge, KeystoneKey, SimulatedKeystone};
pub use machine::{Fault, SimulatedAttester};
pub use pcs::Pcs;
pub use revocation::RevocationList;
pub use service::{Flaw, Page, Service, ServiceFault, Shelf};
pub use vtpm::{AttestationKey, VtpmAuthority, VtpmForge, ordinary_log};

/// The launch measurement of a simulated guest when none is set: ASCII text, so that it is known when it is seen.
pub const MEASUREMENT: [u8; 48] = *b"portcullis simulator: this measures nothing real";

/// A platform's simulator: genuine formats under published keys.
pub trait Simulated: Sync {
    /// The products it can be, the default first.
    fn products(&self) -> &'static [&'static str];

    /// The claims that can be set to a measurement or any value, by their names in `inspect`; the first is what
    /// `measurement` sets.
    fn settable(&self) -> &'static [&'static str];

    /// The published roots, by name: DER SubjectPublicKeyInfo.
    fn roots(&self) -> Vec<(String, Vec<u8>)>;

    /// A machine.
    ///
    /// # Errors
    /// [`Unavailable`] for a product or a claim that it does not know, or a value that does not fit.
    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable>;
}

/// What a simulated machine is to be.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// One of the platform's products; its first when not set.
    pub product: Option<String>,
    /// Makes the machine: its keys and identifiers follow from it.
    pub seed: u64,
    /// Claims and their values, numbers or hex.
    pub set: Vec<(String, String)>,
    /// How long one quote takes.
    pub quote_delay: Duration,
    /// When it is made.
    pub now: Timestamp,
}

impl Simulation {
    /// The machine of this seed, with the platform's own claims.
    #[must_use]
    pub const fn new(seed: u64, now: Timestamp) -> Self {
        Self { product: None, seed, set: Vec::new(), quote_delay: Duration::ZERO, now }
    }
}

/// Why a simulation cannot be.
pub(super) fn impossible(why: String) -> Unavailable {
    Unavailable { what: "simulator".to_owned(), why, fix: "correct it and start again".to_owned(), transient: false }
}

/// The simulator of SEV-SNP.
#[derive(Debug)]
pub struct SimulatedSnp;

impl Simulated for SimulatedSnp {
    fn products(&self) -> &'static [&'static str] {
        &["genoa", "milan", "turin", "genoa-google", "milan-google"]
    }

    fn settable(&self) -> &'static [&'static str] {
        &["measurement"]
    }

    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        let google = [("google-ekak".to_owned(), VtpmAuthority::Google.root_spki()), ("gce-cc-tcb-root".to_owned(), LaunchForge::root_spki())];
        roots().map(|(product, spki)| (product.name().to_owned(), spki)).into_iter().chain(google).collect()
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        let name = simulation.product.as_deref().unwrap_or("genoa");
        let (name, in_google) = name.strip_suffix(google::SUFFIX).map_or((name, false), |name| (name, true));
        let product = Product::ALL.into_iter().find(|product| product.name() == name);
        let mut forge = Forge::new(product.ok_or_else(|| impossible(format!("unknown product {name}")))?, simulation.seed, simulation.now);
        for (claim, value) in &simulation.set {
            let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok();
            match (claim.as_str(), octets.and_then(|octets| octets.try_into().ok())) {
                ("measurement", Some(measurement)) => forge = forge.measurement(measurement),
                ("measurement", None) => return Err(impossible(format!("measurement: expected 96 hex digits, found \"{value}\""))),
                _ => return Err(impossible(format!("unknown claim {claim}"))),
            }
        }
        let launch = LaunchForge::new(LaunchHardware::SevSnp, forge.report.measurement, simulation.now);
        let machine = Box::new(forge.attester().slowed(simulation.quote_delay));
        if in_google {
            return Ok(Box::new(google::GoogleMachine::new(machine, simulation.seed, &launch)));
        }
        Ok(machine)
    }
}

/// The published root keys: DER SubjectPublicKeyInfo, by product.
#[must_use]
pub fn roots() -> [(Product, Vec<u8>); 3] {
    Product::ALL.map(|product| (product, SimulatedVendor::new(product).root_spki()))
}
