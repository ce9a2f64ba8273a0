//! Chooses what makes this machine's evidence, and says what else there is. No TEE is an error; the simulator is chosen only by name.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tracing::info;

use crate::attester::stapled::Stapled;
use crate::attester::{Attester, Places, Sign, Unavailable, Weight};
use crate::clock::Clock;
use crate::config::Provider;
use crate::platform::{PLATFORMS, Platform};

/// What there is of one platform on this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// The platform's name.
    pub platform: &'static str,
    /// What shows that this machine has its TEE.
    pub signs: Vec<Sign>,
    /// Its ways to evidence, best first.
    pub ways: Vec<Way>,
}

/// A way to evidence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Way {
    /// Its name in configuration.
    pub provider: &'static str,
    /// What stands in the way, if anything does.
    pub outcome: Result<(), Unavailable>,
}

/// How a platform stands on this machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Nothing of it is to be seen.
    Absent,
    /// It is there, and no way to its evidence works.
    Hindered,
    /// It may be there: what was seen is on other machines too.
    Possible,
    /// A way to its evidence works.
    Works,
}

impl Seen {
    /// How the platform stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match () {
            () if self.ways.iter().any(|way| way.outcome.is_ok()) => Standing::Works,
            () if self.signs.iter().any(|sign| sign.weight == Weight::Proof) => Standing::Hindered,
            () if !self.signs.is_empty() => Standing::Possible,
            () => Standing::Absent,
        }
    }
}

/// What `auto` takes, or would not take.
#[must_use]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Choice {
    /// The platform's name.
    pub platform: &'static str,
    /// The name of its way.
    pub provider: &'static str,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.platform, self.provider)
    }
}

/// No way to evidence works here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoAttester {
    /// What was looked at, in order.
    pub seen: Vec<Seen>,
    /// What would have worked, and was not taken in place of a TEE that is there and hindered.
    pub spurned: Option<Choice>,
}

impl NoAttester {
    /// What was tried and what stood in the way: first of the TEEs that are there, then of all others.
    pub fn tried(&self) -> impl Iterator<Item = (&'static str, &Unavailable)> {
        let rank = |seen: &&Seen| match seen.standing() {
            Standing::Works | Standing::Hindered => 0,
            Standing::Possible => 1,
            Standing::Absent => 2,
        };
        let mut seen: Vec<&Seen> = self.seen.iter().collect();
        seen.sort_by_key(rank);
        seen.into_iter().flat_map(|seen| &seen.ways).filter_map(|way| Some((way.provider, way.outcome.as_ref().err()?)))
    }
}

impl fmt::Display for NoAttester {
    /// One line, then an indented one for each way that was tried.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (hindered(&self.seen), &self.spurned) {
            (Some(there), Some(spurned)) => write!(
                f,
                "this machine is {} and gives no evidence of it; {spurned} would work and is not taken in its place (name that provider to take it)",
                there.platform
            )?,
            (Some(there), None) => write!(f, "this machine is {} and gives no evidence of it", there.platform)?,
            (None, _) => f.write_str("no TEE of this machine gives evidence")?,
        }
        // Several platforms may lean on the same thing: it is said once.
        let mut said: Vec<&Unavailable> = Vec::new();
        for (_, unavailable) in self.tried() {
            if !said.contains(&unavailable) {
                let Unavailable { what, why, fix, .. } = unavailable;
                write!(f, "\n  {what}: {why}; {fix}")?;
                said.push(unavailable);
            }
        }
        Ok(())
    }
}

impl std::error::Error for NoAttester {}

/// The first of these that is there and gives no evidence.
fn hindered(seen: &[Seen]) -> Option<&Seen> {
    seen.iter().find(|seen| seen.standing() == Standing::Hindered)
}

/// The attester of this machine. `endorsements` is a folder of what to staple beside what the hardware gives.
///
/// # Errors
/// [`NoAttester`] with what stood in the way of each way that was tried; any other error is one of the settings.
pub fn choose(provider: &Provider, endorsements: Option<&Path>, clock: &Clock) -> anyhow::Result<Arc<dyn Attester>> {
    let attester = match provider {
        Provider::Auto => Arc::from(detect(&Places::default(), None)?),
        Provider::Named(name) => Arc::from(detect(&Places::default(), Some(name))?),
        Provider::Simulator(settings) => simulator(settings, clock)?,
    };
    match endorsements {
        Some(folder) => Ok(Arc::new(Stapled::new(attester, folder.to_owned())?)),
        None => Ok(attester),
    }
}

/// The best way to evidence, or the first of the name that is wanted. Platforms are looked at in their order, in which none
/// stands before one that says more of the same machine; once one is there and hindered, none behind it is taken unasked.
///
/// # Errors
/// [`NoAttester`].
pub fn detect(places: &Places, wanted: Option<&str>) -> Result<Box<dyn Attester>, NoAttester> {
    let mut all = Vec::new();
    for platform in PLATFORMS {
        let (seen, attester) = look(platform, places, wanted);
        let hindered = hindered(&all).is_some();
        all.push(seen);
        let Some(attester) = attester else { continue };
        let choice = Choice { platform: attester.platform(), provider: attester.provider() };
        if hindered && wanted.is_none() {
            return Err(NoAttester { seen: all, spurned: Some(choice) });
        }
        let ways = all.iter().flat_map(|seen| &seen.ways).filter(|way| way.outcome.is_err()).map(|way| way.provider).collect::<Vec<_>>();
        let signs = all.last().into_iter().flat_map(|seen| &seen.signs).map(|sign| sign.what.as_str()).collect::<Vec<_>>();
        let (asked, platform, provider) = (wanted.unwrap_or("auto"), choice.platform, choice.provider);
        info!(target: "attester", asked, platform, provider, signs = signs.join("; "), not_working = ways.join(","), "a way to evidence was found");
        return Ok(attester);
    }
    Err(NoAttester { seen: all, spurned: None })
}

/// Everything that there is of any platform, and what `auto` would take of it.
///
/// # Errors
/// In place of a choice, [`NoAttester`].
pub fn survey(places: &Places) -> (Vec<Seen>, Result<Choice, NoAttester>) {
    let seen: Vec<_> = PLATFORMS.iter().map(|platform| look(platform, places, None).0).collect();
    let choice = |seen: &Seen| seen.ways.iter().find(|way| way.outcome.is_ok()).map(|way| Choice { platform: seen.platform, provider: way.provider });
    let working = seen.iter().enumerate().find_map(|(index, seen)| choice(seen).map(|choice| (index, choice)));
    let chosen = match working {
        Some((index, choice)) if hindered(seen.get(..index).unwrap_or_default()).is_none() => Ok(choice),
        spurned => Err(NoAttester { seen: seen.clone(), spurned: spurned.map(|(_, choice)| choice) }),
    };
    (seen, chosen)
}

/// What there is of one platform, with its first way that works.
fn look(platform: &Platform, places: &Places, wanted: Option<&str>) -> (Seen, Option<Box<dyn Attester>>) {
    let mut first = None;
    let ways = platform.provider.detect(places).into_iter().filter(|way| wanted.is_none_or(|wanted| wanted == way.provider));
    let ways = ways.map(|way| {
        let outcome = way.outcome.map(|attester| {
            first.get_or_insert(attester);
        });
        Way { provider: way.provider, outcome }
    });
    let seen = Seen { platform: platform.name, ways: ways.collect(), signs: platform.provider.signs(places) };
    (seen, first)
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

    fn way(what: &str, fix: &str) -> Way {
        let refused = Unavailable { what: what.to_owned(), why: "No such file or directory".to_owned(), fix: fix.to_owned(), transient: false };
        Way { provider: "x", outcome: Err(refused) }
    }

    fn seen(platform: &'static str, ways: Vec<Way>, weight: Option<Weight>) -> Seen {
        Seen { platform, ways, signs: weight.map(|weight| Sign { what: "a sign".to_owned(), weight }).into_iter().collect() }
    }

    #[test]
    fn without_a_tee_each_way_that_was_tried_has_a_line_with_its_fix() {
        let ways = vec![way("configfs-tsm at /sys/x", "mount configfs"), way("sev-guest at /dev/x", "load the driver")];
        let error = NoAttester { seen: vec![seen("a", ways, None)], spurned: None };
        assert_eq!(
            error.to_string(),
            "no TEE of this machine gives evidence\n  configfs-tsm at /sys/x: No such file or directory; mount configfs\n  \
             sev-guest at /dev/x: No such file or directory; load the driver"
        );
    }

    #[test]
    fn a_tee_that_is_there_is_told_first_and_not_passed_over() {
        let absent = seen("a", vec![way("way of a", "be another machine")], None);
        let there = seen("b", vec![way("way of b", "load its driver")], Some(Weight::Proof));
        let spurned = Some(Choice { platform: "c", provider: "weak" });
        let error = NoAttester { seen: vec![absent, there], spurned };
        assert_eq!(
            error.to_string(),
            "this machine is b and gives no evidence of it; c by weak would work and is not taken in its place (name that provider to take it)\n  \
             way of b: No such file or directory; load its driver\n  way of a: No such file or directory; be another machine"
        );
    }

    #[test]
    fn a_platform_stands_as_what_was_seen_of_it() {
        let works = Way { provider: "x", outcome: Ok(()) };
        for (ways, weight, expected) in [
            (vec![way("x", "y"), works.clone()], None, Standing::Works),
            (vec![way("x", "y")], Some(Weight::Proof), Standing::Hindered),
            (vec![way("x", "y")], Some(Weight::Hint), Standing::Possible),
            (vec![way("x", "y")], None, Standing::Absent),
        ] {
            assert_eq!(seen("a", ways, weight).standing(), expected);
        }
    }
}
