//! A simulated Intel and its machines: genuine quotes of trust domains and enclaves, with genuine collateral, under
//! published keys. Everything that Intel signs is signed here too, in the forms of the real documents.

use std::time::Duration;

use super::steady::steady;
use super::{LaunchForge, LaunchHardware, Simulated, Simulation, google, impossible, intel_forge as forge};
use crate::attester::{Attester, Unavailable};
use crate::evidence::intel::log::{self, Events};
use crate::evidence::intel::{Body, Quote as Quoted};
use crate::evidence::{Auxiliary, Challenge};

pub use super::intel_certificates::{CrlList, IntelCa, PckCertificate};
pub use super::intel_collateral::{IntelCollateral, Level};
pub use super::intel_forge::IntelForge;

/// The simulator of Intel TDX.
#[derive(Debug)]
pub struct SimulatedTdx;

/// The simulator of Intel SGX.
#[derive(Debug)]
pub struct SimulatedSgx;

impl Simulated for SimulatedTdx {
    fn products(&self) -> &'static [&'static str] {
        &["tdx1.5", "tdx1.0", "tdx1.5-google"]
    }

    fn settable(&self) -> &'static [&'static str] {
        forge::TDX_CLAIMS
    }

    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        roots()
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        let forge = match simulation.product.as_deref() {
            None | Some("tdx1.5" | "tdx1.5-google") => IntelForge::tdx15(simulation.seed, simulation.now),
            Some("tdx1.0") => IntelForge::tdx10(simulation.seed, simulation.now),
            Some(other) => return Err(impossible(format!("unknown product {other}"))),
        };
        let machine = machine("intel-tdx", forge, simulation)?;
        if !simulation.product.as_deref().is_some_and(|product| product.ends_with(google::SUFFIX)) {
            return Ok(machine);
        }
        let launch = LaunchForge::new(LaunchHardware::Tdx, measured(&*machine)?, simulation.now);
        Ok(Box::new(google::GoogleMachine::new(machine, simulation.seed, &launch)))
    }
}

/// The MRTD of a machine.
fn measured(machine: &dyn Attester) -> Result<[u8; 48], Unavailable> {
    let quote = machine.attest(&Challenge::of(b""))?.evidence.bytes;
    match Quoted::parse(&quote).map(|quote| quote.body) {
        Ok(Body::TrustDomain(report)) => Ok(report.mr_td),
        _ => Err(impossible("a quote of another kind".to_owned())),
    }
}

impl Simulated for SimulatedSgx {
    fn products(&self) -> &'static [&'static str] {
        &["sgx"]
    }

    fn settable(&self) -> &'static [&'static str] {
        forge::SGX_CLAIMS
    }

    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        roots()
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        match simulation.product.as_deref() {
            None | Some("sgx") => machine("intel-sgx", IntelForge::sgx(simulation.seed, simulation.now), simulation),
            Some(other) => Err(impossible(format!("unknown product {other}"))),
        }
    }
}

/// The published root, by the name that the real one has.
fn roots() -> Vec<(String, Vec<u8>)> {
    vec![("Intel SGX Root CA".to_owned(), IntelCa::new().root_spki())]
}

fn machine(platform: &'static str, mut forge: IntelForge, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
    for (claim, value) in &simulation.set {
        forge.set(claim, value).map_err(impossible)?;
    }
    Ok(attester(platform, forge, simulation.quote_delay))
}

impl IntelForge {
    /// The machine as an attester.
    #[must_use]
    pub fn attester(self) -> Box<dyn Attester> {
        let platform = match self.quote.body {
            Body::Enclave(_) => "intel-sgx",
            Body::TrustDomain(_) => "intel-tdx",
        };
        attester(platform, self, Duration::ZERO)
    }
}

fn attester(platform: &'static str, forge: IntelForge, quote_delay: Duration) -> Box<dyn Attester> {
    let member = |log: &Events| Auxiliary { label: log::LABEL.to_owned(), media_type: log::MEDIA_TYPE.to_owned(), bytes: log.encode() };
    let listed = forge.log.iter().map(member).collect();
    steady(platform, quote_delay, listed, move |challenge| forge.quote(&challenge.long))
}
