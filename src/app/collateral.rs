//! The collateral of this process: built from the configuration, vouched for by the platforms, kept for the policies, and
//! stapled to this side's own evidence.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;

use super::Judges;
use crate::admin::health::Condition;
use crate::admin::metrics::Metrics;
use crate::attester::{Attester, Quote, Unavailable};
use crate::clock::Clock;
use crate::collateral::{self, Address, Collateral, Item, Kind, NotVouched, Pace, Place, Reach, Settings, Source, Vet};
use crate::config::{self, CollateralPlace, Config};
use crate::evidence::{Auxiliary, Challenge, Endorsement, EndorsementId, Endorsements, Timestamp};
use crate::platform::{self, PLATFORMS};
use crate::policy::{AppraisalPolicy, References, Revocation, Roots};
use crate::proxy::appraisal::{Memo, items};
use crate::verify::{Grounds, TrustAnchors};

/// Starts it, and asks for what the policies will need.
///
/// # Errors
/// The cache cannot be used, or an address is none.
pub fn start(settings: &config::Collateral, config: &Config, clock: &Clock, metrics: &Arc<Metrics>) -> anyhow::Result<Collateral> {
    let policies: Vec<&AppraisalPolicy> = config.policies.values().map(|policy| &*policy.policy).collect();
    let simulated = config.identity.as_ref().is_some_and(|identity| matches!(identity.provider, config::Provider::Simulator(_)));
    let roots = if simulated { Roots::VendorAndSimulator } else { Roots::Vendor };
    let vet = Arc::new(Vouching::by(&policies, roots));
    let collateral = Collateral::start(settings_of(settings)?, Some(vet), clock.clone(), Arc::clone(metrics));
    let collateral = collateral.with_context(|| match &settings.cache {
        Some(folder) => format!("collateral.cache {} cannot be used", folder.display()),
        None => "no collateral".to_owned(),
    })?;
    collateral.want(&foreseen(&policies));
    Ok(collateral)
}

/// What the configuration says, in the room's own words.
///
/// # Errors
/// An address is none.
pub fn settings_of(settings: &config::Collateral) -> anyhow::Result<Settings> {
    let address = |text: &str| Address::parse(text).map_err(|why| anyhow::anyhow!("collateral: {why}"));
    let source = |source: &config::CollateralSource| {
        let place = match &source.place {
            CollateralPlace::Bundle(path) => Place::Bundle(path.clone()),
            CollateralPlace::Folder(path) => Place::Folder(path.clone()),
            CollateralPlace::Mirror(text) => Place::Mirror(address(text)?),
            CollateralPlace::Vendor => Place::Vendor,
        };
        anyhow::Ok(Source { services: source.services.clone(), place })
    };
    let pace = Pace::default();
    let proxy = settings.proxy.as_deref().map(address).transpose()?;
    Ok(Settings {
        sources: settings.sources.iter().map(source).collect::<anyhow::Result<_>>()?,
        cache: settings.cache.clone(),
        reach: Reach { roots: settings.roots.clone(), proxy, timeout: settings.timeout.unwrap_or(Reach::default().timeout) },
        pace: Pace { wait: settings.wait.unwrap_or(pace.wait), refresh: settings.refresh.unwrap_or(pace.refresh), ..pace },
    })
}

/// What peers of these policies will need, as far as policies tell.
#[must_use]
pub fn foreseen(policies: &[&AppraisalPolicy]) -> Vec<Item> {
    let of_entry = |entry: &crate::policy::Entry| {
        let platform = platform::by_name(entry.tee)?;
        Some(items(platform, platform.verifier.foreseen(entry)))
    };
    let mut wanted: Vec<Item> = Vec::new();
    for item in policies.iter().flat_map(|policy| &policy.accept).filter_map(of_entry).flatten() {
        if !wanted.contains(&item) {
            wanted.push(item);
        }
    }
    wanted
}

/// Has live connections judged again whenever an item changes, while both are there.
pub(super) fn reconsider(collateral: &Collateral, policies: &Judges) {
    let (mut generation, policies) = (collateral.generation(), Arc::downgrade(policies));
    tokio::spawn(async move {
        while generation.changed().await.is_ok() {
            let Some(policies) = policies.upgrade() else { return };
            policies.load().values().for_each(|appraisals| appraisals.reconsider());
        }
    });
}

/// How it is doing. Never a reason not to be ready: what is at hand goes on serving.
pub(super) fn condition(collateral: &Collateral, clock: &Clock) -> Condition {
    let Ok(now) = clock.now() else { return Condition::MetBut("the clock cannot be right".to_owned()) };
    let lacking = collateral.lacking(now);
    if lacking.is_empty() {
        return Condition::Met;
    }
    let told = |(item, why): &(Item, Vec<(String, collateral::Failure)>)| {
        let why: Vec<_> = why.iter().map(|(source, failure)| format!("{source}: {failure}")).collect();
        format!("{} {}", item.id.path, if why.is_empty() { "not asked for yet".to_owned() } else { why.join(", ") })
    };
    Condition::MetBut(format!("not at hand: {}", lacking.iter().map(told).collect::<Vec<_>>().join("; ")))
}

/// Vouches by the platforms' own rules under the roots that any policy trusts.
pub struct Vouching {
    anchors: TrustAnchors,
    memo: Memo,
}

impl Vouching {
    /// Under the vendors' roots, and the simulators' where a policy names them or `roots` does.
    #[must_use]
    pub fn by(policies: &[&AppraisalPolicy], roots: Roots) -> Self {
        let named = policies.iter().map(|policy| policy.roots).find(|roots| *roots == Roots::VendorAndSimulator);
        let roots = named.unwrap_or(roots);
        let widest = AppraisalPolicy { roots, ..AppraisalPolicy::genuine(&platform::vocabularies()) };
        Self { anchors: platform::anchors(&widest), memo: Memo::new() }
    }
}

impl Vet for Vouching {
    fn vet(&self, item: &Item, endorsement: &Endorsement, others: &dyn Fn(&EndorsementId) -> Option<Endorsement>, now: Timestamp) -> Result<(), NotVouched> {
        let grounds = Grounds { anchors: &self.anchors, revocation: Revocation::Required, references: References::Required, memo: &self.memo, now };
        // An item at an address of its own is of whichever platform knows it.
        let shared = PLATFORMS.iter().any(|platform| platform.vendor_service == item.service);
        let rows = PLATFORMS.iter().filter(|platform| !shared || platform.vendor_service == item.service);
        let mut refused = NotVouched::Refused("no platform of this build has this service".to_owned());
        for row in rows {
            let missing = RefCell::new(None);
            let noted = |id: &EndorsementId| {
                let found = others(id);
                if found.is_none() {
                    missing.replace(Some(id.clone()));
                }
                found
            };
            match (row.verifier.vouch(&item.id, endorsement, &noted, &grounds), missing.take()) {
                (Ok(()), _) => return Ok(()),
                (Err(_), Some(missing)) => refused = NotVouched::Needs(missing),
                (Err(denied), None) => refused = NotVouched::Refused(denied.to_string()),
            }
        }
        Err(refused)
    }
}

/// An attester whose quotes carry what its verifiers need, kept fresh: what the hardware gave, completed and renewed from
/// this side's collateral.
pub(super) struct Endorsed {
    inner: Arc<dyn Attester>,
    collateral: Collateral,
    clock: Clock,
    runtime: tokio::runtime::Handle,
    /// Only the first quote waits for what was never seen.
    waited: AtomicBool,
}

impl Endorsed {
    pub(super) fn new(inner: Arc<dyn Attester>, collateral: Collateral, clock: Clock) -> Self {
        Self { inner, collateral, clock, runtime: tokio::runtime::Handle::current(), waited: AtomicBool::new(false) }
    }

    fn completed(&self, quote: &Quote, now: Timestamp) -> Option<Endorsements> {
        let platform = platform::of_evidence(&quote.evidence)?;
        let wanted = items(platform, platform.verifier.needs(&quote.evidence).ok()?);
        self.collateral.want(&wanted);
        let holds = |item: &&Item| !given(&quote.endorsements, item).is_some_and(|read| read.window.holds(now));
        let lacking: Vec<Item> = wanted.iter().filter(holds).cloned().collect();
        if !self.waited.swap(true, Ordering::Relaxed) && !lacking.is_empty() {
            self.runtime.block_on(self.collateral.get(&lacking, Duration::MAX));
        }
        let mut completed = Endorsements::default();
        for item in &wanted {
            let ours = self.collateral.find(item, now).and_then(|endorsement| collateral::endorsed(endorsement).ok());
            let theirs = given(&quote.endorsements, item);
            // The hardware's own certificate stands while it holds; of two lists the newer one says more.
            let chosen = match (ours, theirs) {
                (Some(ours), Some(theirs)) if theirs.window.holds(now) && (ours.kind == Kind::Certificate || theirs.window.from >= ours.window.from) => theirs,
                (Some(ours), _) => ours,
                (None, Some(theirs)) => theirs,
                (None, None) => continue,
            };
            completed.push(chosen.endorsement);
        }
        let rest = quote.endorsements.iter().filter(|endorsement| !wanted.iter().any(|item| item.id.name == endorsement.name));
        let rest: Vec<_> = rest.cloned().collect();
        completed.extend(rest);
        Some(completed)
    }
}

fn given(endorsements: &Endorsements, item: &Item) -> Option<collateral::Read> {
    let found = endorsements.iter().find(|endorsement| endorsement.name == item.id.name)?;
    collateral::endorsed(found.clone()).ok()
}

impl Attester for Endorsed {
    fn platform(&self) -> &'static str {
        self.inner.platform()
    }

    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let quote = self.inner.attest(challenge)?;
        let completed = self.clock.now().ok().and_then(|now| self.completed(&quote, now));
        Ok(match completed {
            Some(endorsements) => Quote { endorsements, ..quote },
            None => quote,
        })
    }

    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        self.inner.listed()
    }
}
