//! Chooses what makes this machine's evidence. No TEE is an error; the simulator is chosen only by name.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::attester::stapled::Stapled;
use crate::attester::{Attester, Places, Unavailable};
use crate::clock::Clock;
use crate::config::Provider;
use crate::platform::PLATFORMS;

/// No way to evidence works here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoAttester {
    /// What was tried and what stood in the way, best first.
    pub tried: Vec<Unavailable>,
}

impl fmt::Display for NoAttester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no evidence can be made here")?;
        self.tried.iter().try_for_each(|tried| write!(f, "; {tried}"))
    }
}

impl std::error::Error for NoAttester {}

/// The attester of this machine. `endorsements` is a folder of what to staple beside what the hardware gives.
///
/// # Errors
/// [`NoAttester`] with what stood in the way of each way that was tried.
pub fn choose(provider: &Provider, endorsements: Option<&Path>, clock: &Clock) -> Result<Arc<dyn Attester>, NoAttester> {
    let attester = match provider {
        Provider::Auto => detect(None)?,
        Provider::Named(name) => detect(Some(name))?,
        Provider::Simulator(settings) => simulator(settings, clock)?,
    };
    match endorsements {
        Some(folder) => Ok(Arc::new(Stapled::new(attester, folder.to_owned()).map_err(|unavailable| NoAttester { tried: vec![unavailable] })?)),
        None => Ok(attester),
    }
}

fn detect(wanted: Option<&str>) -> Result<Arc<dyn Attester>, NoAttester> {
    let mut tried = Vec::new();
    let detected = PLATFORMS.iter().flat_map(|platform| platform.provider.detect(&Places::default()));
    for way in detected.filter(|way| wanted.is_none_or(|wanted| wanted == way.provider)) {
        match way.outcome {
            Ok(attester) => return Ok(Arc::from(attester)),
            Err(unavailable) => tried.push(unavailable),
        }
    }
    if tried.is_empty() {
        let what = wanted.unwrap_or("auto").to_owned();
        tried.push(Unavailable { what, why: "this build has no such provider".to_owned(), fix: "use a build with it".to_owned(), transient: false });
    }
    Err(NoAttester { tried })
}

#[cfg(feature = "simulator")]
fn simulator(settings: &crate::config::Simulator, clock: &Clock) -> Result<Arc<dyn Attester>, NoAttester> {
    use crate::attester::simulator::Simulation;

    let alone = |unavailable| NoAttester { tried: vec![unavailable] };
    let unavailable = |why| alone(Unavailable { what: "simulator".to_owned(), why, fix: "correct it and start again".to_owned(), transient: false });
    let now = clock.now().map_err(|denied| unavailable(denied.to_string()))?;
    let Some(platform) = crate::platform::by_name(&settings.platform) else {
        return Err(unavailable(format!("unknown platform {}", settings.platform)));
    };
    let measurement = settings.measurement.as_ref().zip(platform.simulated.settable().first());
    let simulation = Simulation {
        product: settings.product.clone(),
        seed: settings.seed,
        set: measurement.map(|(measurement, claim)| ((*claim).to_owned(), data_encoding::HEXLOWER.encode(measurement))).into_iter().collect(),
        quote_delay: settings.quote_delay,
        now,
    };
    platform.simulated.attester(&simulation).map(Arc::from).map_err(alone)
}

#[cfg(not(feature = "simulator"))]
fn simulator(_: &crate::config::Simulator, _: &Clock) -> Result<Arc<dyn Attester>, NoAttester> {
    let unavailable = Unavailable {
        what: "simulator".to_owned(),
        why: "this build has none".to_owned(),
        fix: "use provider \"auto\" in a TEE, or a build for tests".to_owned(),
        transient: false,
    };
    Err(NoAttester { tried: vec![unavailable] })
}
