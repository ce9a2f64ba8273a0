//! The devices beside this machine's TEE that the settings name.

use crate::admin::metrics::DeviceMetrics;
use crate::attester::devices::{DeviceAttester, DeviceSettings, Devices};
use crate::attester::gpu;
use crate::clock::Clock;
use crate::config::{self, Provider};

/// The devices, asked once; `None` where the settings name none.
///
/// # Errors
/// They do not answer as they should.
pub(super) async fn start(identity: &config::Identity, clock: &Clock, counters: DeviceMetrics) -> anyhow::Result<Option<Devices>> {
    let default = DeviceSettings::default();
    let (attester, settings): (Box<dyn DeviceAttester>, _) = match (&identity.gpus, &identity.provider) {
        (Some(gpus), _) => {
            let settings = DeviceSettings { at_once: gpus.at_once.unwrap_or(default.at_once), limit: gpus.timeout.unwrap_or(default.limit) };
            (Box::new(gpu::Service::new(gpus.socket.clone(), gpus.endorsements.clone())?), settings)
        }
        (None, Provider::Simulator(simulator)) if simulator.gpus > 0 => (simulated(simulator, clock)?, default),
        (None, _) => return Ok(None),
    };
    Ok(Some(Devices::start(attester, settings, counters).await?))
}

#[cfg(feature = "simulator")]
fn simulated(settings: &config::Simulator, clock: &Clock) -> anyhow::Result<Box<dyn DeviceAttester>> {
    use crate::attester::simulator::gpu::{GpuForge, SimulatedGpus};
    Ok(Box::new(SimulatedGpus::new(GpuForge::new(settings.seed, settings.gpus, clock.now()?), settings.quote_delay)))
}

#[cfg(not(feature = "simulator"))]
fn simulated(_: &config::Simulator, _: &Clock) -> anyhow::Result<Box<dyn DeviceAttester>> {
    anyhow::bail!("this build has no simulator")
}
