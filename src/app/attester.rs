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
    /// One line, then an indented one for each way that was tried.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no TEE of this machine gives evidence")?;
        self.tried.iter().try_for_each(|Unavailable { what, why, fix, .. }| write!(f, "\n  {what}: {why}; {fix}"))
    }
}

impl std::error::Error for NoAttester {}

/// The attester of this machine. `endorsements` is a folder of what to staple beside what the hardware gives.
///
/// # Errors
/// [`NoAttester`] with what stood in the way of each way that was tried; any other error is one of the settings.
pub fn choose(provider: &Provider, endorsements: Option<&Path>, clock: &Clock) -> anyhow::Result<Arc<dyn Attester>> {
    let attester = match provider {
        Provider::Auto => detect(None)?,
        Provider::Named(name) => detect(Some(name))?,
        Provider::Simulator(settings) => simulator(settings, clock)?,
    };
    match endorsements {
        Some(folder) => Ok(Arc::new(Stapled::new(attester, folder.to_owned())?)),
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
fn simulator(settings: &crate::config::Simulator, clock: &Clock) -> anyhow::Result<Arc<dyn Attester>> {
    use anyhow::Context as _;

    use crate::attester::simulator::Simulation;

    let platform = crate::platform::by_name(&settings.platform).with_context(|| format!("there is no platform {} to simulate", settings.platform))?;
    let measurement = settings.measurement.as_ref().zip(platform.simulated.settable().first());
    let simulation = Simulation {
        product: settings.product.clone(),
        seed: settings.seed,
        set: measurement.map(|(measurement, claim)| ((*claim).to_owned(), data_encoding::HEXLOWER.encode(measurement))).into_iter().collect(),
        quote_delay: settings.quote_delay,
        now: clock.now()?,
    };
    Ok(platform.simulated.attester(&simulation).map(Arc::from)?)
}

#[cfg(not(feature = "simulator"))]
fn simulator(_: &crate::config::Simulator, _: &Clock) -> anyhow::Result<Arc<dyn Attester>> {
    anyhow::bail!("this build has no simulator: use provider \"auto\" in a TEE, or a build for tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tee_each_way_that_was_tried_has_a_line_with_its_fix() {
        let way =
            |what: &str, fix: &str| Unavailable { what: what.to_owned(), why: "No such file or directory".to_owned(), fix: fix.to_owned(), transient: false };
        let error = NoAttester { tried: vec![way("configfs-tsm at /sys/x", "mount configfs"), way("sev-guest at /dev/x", "load the driver")] };
        assert_eq!(
            error.to_string(),
            "no TEE of this machine gives evidence\n  configfs-tsm at /sys/x: No such file or directory; mount configfs\n  \
             sev-guest at /dev/x: No such file or directory; load the driver"
        );
    }
}
