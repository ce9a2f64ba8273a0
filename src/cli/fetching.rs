//! Collateral for commands: where a configuration, or the command line, says it comes from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::input::{self, Subject};
use super::judging::opened;
use super::output;
use super::policy::Loaded;
use crate::admin::metrics::Metrics;
use crate::app::collateral::{Vouching, foreseen, settings_of};
use crate::clock::Clock;
use crate::collateral::{Collateral, Item, Pace, Place, Settings, Source};
use crate::config::{self, Config};
use crate::evidence::{Endorsements, Evidence, Timestamp};
use crate::platform;
use crate::policy::{AppraisalPolicy, Roots};
use crate::proxy::appraisal::items;
use crate::verify::Appraiser;

/// How long a source that asks for time is waited for, over all items.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where collateral comes from.
#[derive(Debug, clap::Args)]
pub(super) struct From {
    /// Take `[collateral]` and the policies of this configuration.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask these, in this order, as in collateral.sources.
    #[arg(long = "source", value_name = "SOURCE", conflicts_with = "config")]
    sources: Vec<String>,
    /// Keep what is got in this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    cache: Option<PathBuf>,
    /// What peers of this policy need, under the roots that it names.
    #[arg(long = "policy", value_name = "FILE")]
    policies: Vec<PathBuf>,
    /// What a verdict about this evidence needs.
    #[arg(long = "for", value_name = "FILE|DIR")]
    evidence: Vec<PathBuf>,
}

/// What was named, ready to be asked.
pub(super) struct Named {
    pub(super) settings: Settings,
    pub(super) wanted: Vec<Item>,
    policies: Vec<AppraisalPolicy>,
}

impl From {
    /// Reads all that is named. `default` is asked where neither a configuration nor a source is.
    pub(super) fn read(&self, default: &[&str]) -> anyhow::Result<Named> {
        let (settings, mut policies) = match &self.config {
            Some(path) => {
                let config = Config::load(path)?;
                let collateral = config.collateral.as_ref().with_context(|| format!("{} has no [collateral]", path.display()))?;
                (settings_of(collateral)?, config.policies.into_values().map(|policy| (*policy.policy).clone()).collect::<Vec<_>>())
            }
            None => (self.typed(default)?, Vec::new()),
        };
        for path in &self.policies {
            policies.push(config::load_policy(path)?.0);
        }
        let mut wanted = foreseen(&policies.iter().collect::<Vec<_>>());
        if !self.evidence.is_empty() {
            for Subject { form, endorsements, .. } in input::subjects(&self.evidence)? {
                let at_hand = opened(form, endorsements)?;
                for item in needs(&at_hand.evidence)? {
                    if !wanted.contains(&item) {
                        wanted.push(item);
                    }
                }
            }
        }
        Ok(Named { settings, wanted, policies })
    }

    /// The sources of the command line, by the rules of the configuration.
    fn typed(&self, default: &[&str]) -> anyhow::Result<Settings> {
        let sources: Vec<&str> = if self.sources.is_empty() { default.to_vec() } else { self.sources.iter().map(String::as_str).collect() };
        if sources.is_empty() {
            return Ok(Settings { cache: self.cache.clone(), ..Settings::default() });
        }
        let read = config::collateral_of(&sources, self.cache.as_deref())?;
        settings_of(&read)
    }
}

/// The items that a verdict about this evidence needs.
pub(super) fn needs(evidence: &Evidence) -> anyhow::Result<Vec<Item>> {
    let platform = platform::of_evidence(evidence).with_context(|| format!("{} is of no platform of this build", evidence.media_type))?;
    Ok(items(platform, platform.verifier.needs(evidence)?))
}

impl Named {
    /// What proves evidence genuine, under the roots that the policies name.
    pub(super) fn genuine(&self) -> Appraiser {
        let simulated = self.policies.iter().find(|policy| policy.roots == Roots::VendorAndSimulator);
        simulated.map_or_else(Loaded::genuine, Loaded::genuine_under).appraiser()
    }

    /// Begins; there must be a runtime.
    pub(super) fn start(self, clock: &Clock) -> anyhow::Result<(Collateral, Vec<Item>)> {
        let vouching = Vouching::by(&self.policies.iter().collect::<Vec<_>>(), Roots::Vendor);
        let pace = Pace { wait: PATIENCE, ..self.settings.pace };
        let settings = Settings { pace, ..self.settings };
        let collateral = Collateral::start(settings, Some(Arc::new(vouching)), clock.clone(), Arc::new(Metrics::new())).context("the cache cannot be used")?;
        Ok((collateral, self.wanted))
    }
}

/// Evidence with what it needs: what came along, completed from the sources.
pub(super) async fn completed(collateral: &Collateral, evidence: &Evidence, along: &Endorsements, now: Timestamp) -> anyhow::Result<Endorsements> {
    let wanted = needs(evidence)?;
    let lacking: Vec<Item> = wanted.into_iter().filter(|item| along.find(item.id.name).is_none()).collect();
    fetched(collateral, &lacking).await;
    let mut all: Endorsements = lacking.iter().filter_map(|item| collateral.find(item, now)).collect();
    all.extend(along.iter().cloned());
    Ok(all)
}

/// Gets the items, and says on stderr who is asked and who is waited for. What cannot be reached is not waited for; a
/// source that asks for patience is, for a minute in all.
pub(super) async fn fetched(collateral: &Collateral, items: &[Item]) {
    let now = Clock::system().now().ok();
    let lacking: Vec<_> = items.iter().filter(|item| now.is_none_or(|now| collateral.find(item, now).is_none())).collect();
    let mut services: Vec<_> = lacking.iter().map(|item| item.service.as_str()).collect();
    services.sort_unstable();
    services.dedup();
    let named = |source: &Source| match source.place {
        Place::Vendor => format!("the vendor ({})", services.join(", ")),
        _ => source.to_string(),
    };
    let sources: Vec<_> = collateral.sources().map(named).collect();
    if !lacking.is_empty() && !sources.is_empty() {
        output::note(&format!("asking for {}: {}", output::counted(lacking.len(), "item", "items"), sources.join(", then ")));
    }
    let waits = |item: &Item, pause: Duration| {
        let why: Vec<_> = collateral.why(item).iter().map(|(source, failure)| format!("{source}: {failure}")).collect();
        output::note(&format!("{}: {}; asked again in {} s", item.id.path, why.join("; "), pause.as_secs().max(1)));
    };
    collateral.fetch(items, PATIENCE, &waits).await;
}

/// A runtime for one command.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")
}

/// A path that a person typed may also be an address: it is one when there is no such file.
pub(super) fn is_address(text: &str) -> bool {
    !Path::new(text).exists() && config::host_and_port(text).is_ok()
}
