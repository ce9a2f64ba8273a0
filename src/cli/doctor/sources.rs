//! Collateral: what each source says when it is asked, how long that takes, and where it is kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::super::output::counted;
use super::{Line, State};
use crate::admin::metrics::Metrics;
use crate::app::collateral::{Vouching, foreseen, settings_of};
use crate::clock::Clock;
use crate::collateral::{self, Collateral, Failure, Item, Place, Settings, Source};
use crate::config::{Config, Provider};
use crate::policy::Roots;

const PART: &str = "collateral";

/// A line for each source and one for the cache. Sources are asked for real, one question for each service that they speak
/// for, and their answers are believed as little as ever.
pub(super) async fn lines(config: &Config) -> anyhow::Result<Vec<Line>> {
    let Some(configured) = &config.collateral else {
        let found = "no [collateral]: only what peers staple is there to judge with";
        return Ok(vec![Line::new(PART, "sources", State::Note, found)]);
    };
    let policies: Vec<_> = config.policies.values().map(|policy| &*policy.policy).collect();
    let simulated = config.identity.as_ref().is_some_and(|identity| matches!(identity.provider, Provider::Simulator(_)));
    let vouching = Vouching::by(&policies, if simulated { Roots::VendorAndSimulator } else { Roots::Vendor });
    let wanted = foreseen(&policies);
    let settings = settings_of(configured)?;
    let mut lines = Vec::new();
    // The cache is looked at by itself: what it holds must not answer for a source.
    let asking = Settings { cache: None, ..settings.clone() };
    let collateral = Collateral::start(asking, Some(Arc::new(vouching)), Clock::system(), Arc::new(Metrics::new()))?;
    let mut questions = JoinSet::new();
    for (index, source) in settings.sources.iter().enumerate() {
        let items = questions_for(source, &wanted);
        if items.is_empty() {
            let found = "no policy says what it could be asked for before a peer comes";
            lines.push((
                index,
                Line::new(PART, source.to_string(), State::Note, found).fix("portcullis collateral fetch --for EVIDENCE asks for what a machine needs"),
            ));
        }
        for item in items {
            let (collateral, source, behind) =
                (collateral.clone(), source.clone(), settings.sources[index.saturating_add(1)..].iter().any(|other| other.serves(&item)));
            questions.spawn(async move { (index, asked(&collateral, &source, &item, behind).await) });
        }
    }
    while let Some(answered) = questions.join_next().await {
        lines.push(answered?);
    }
    lines.sort_by(|(a, one), (b, other)| (a, &one.about).cmp(&(b, &other.about)));
    let mut lines: Vec<Line> = lines.into_iter().map(|(_, line)| line).collect();
    lines.push(cache(settings.cache.as_deref()));
    Ok(lines)
}

/// One item for each service: of what changes, for that is what will be asked for again.
fn questions_for(source: &Source, wanted: &[Item]) -> Vec<Item> {
    let mut chosen: Vec<Item> = Vec::new();
    let lists_first = wanted.iter().filter(|item| item.id.name.contains("crl")).chain(wanted.iter().filter(|item| !item.id.name.contains("crl")));
    for item in lists_first.filter(|item| source.serves(item)) {
        if !chosen.iter().any(|known| known.service == item.service) {
            chosen.push(item.clone());
        }
    }
    chosen
}

async fn asked(collateral: &Collateral, source: &Source, item: &Item, behind: bool) -> Line {
    let begun = Instant::now();
    let answer = collateral.ask(source, item).await;
    let took = begun.elapsed().as_millis();
    let about = match source.place {
        Place::Vendor => format!("{source} ({})", item.service),
        Place::Bundle(_) | Place::Folder(_) | Place::Mirror(_) => format!("{source} (for {})", item.service),
    };
    match answer {
        Ok(read) => Line::new(PART, about, State::Good, format!("{} in {took} ms, holds until {}", item.id.name, read.window.until)),
        Err(failure) => {
            let (state, fix) = advice(source, &failure, behind);
            Line::new(PART, about, state, format!("{}{}: {failure}, after {took} ms", item.id.name, path_of(source, item))).fix(fix)
        }
    }
}

/// Where the item was looked for.
fn path_of(source: &Source, item: &Item) -> String {
    if source.is_remote() { String::new() } else { format!(" at {}", item.id.path) }
}

fn advice(source: &Source, failure: &Failure, behind: bool) -> (State, &'static str) {
    match failure {
        Failure::Absent if behind => (State::Note, "a source behind it may have it"),
        Failure::Absent if source.is_remote() => (State::Undecided, "see that it serves the vendor's paths, or name a source behind it that has it"),
        Failure::Absent => (State::Undecided, "portcullis collateral pack makes a bundle of what the policies need; or name a source behind it that has it"),
        Failure::Connection(_) => (
            State::Undecided,
            "see that this machine reaches it: name resolution, firewall or network policy, a proxy (collateral.proxy), TLS 1.3 and its roots (collateral.roots)",
        ),
        Failure::File(_) => (State::Bad, "let the user of the proxy read it, and make it again if it is torn"),
        Failure::Refused(_) => (State::Bad, "it wants something else than the vendor's paths: check the address, and what it says to curl"),
        Failure::Resting(_) | Failure::Throttled(_) => {
            (State::Undecided, "AMD's service gives about one certificate in ten seconds to an address: put a mirror or a bundle before it")
        }
        Failure::Server(..) => (State::Undecided, "it is in trouble: try later, and name a second source"),
        Failure::Timeout(_) => (State::Undecided, "see what is slow on the way; raise collateral.timeout, or name a nearer source before it"),
        Failure::Unusable(_) => {
            (State::Bad, "what it serves has ended or is not the vendor's: renew it there, or take the source out; and see that this clock is right")
        }
    }
}

fn cache(folder: Option<&Path>) -> Line {
    let Some(folder) = folder else {
        return Line::new(PART, "cache", State::Note, "none on disk: everything is fetched anew at each start").fix("name a folder in collateral.cache");
    };
    let line = |state, found| Line::new(PART, format!("cache ({})", folder.display()), state, found);
    match collateral::look(folder) {
        Ok(looked) if !looked.writable => line(State::Bad, "this user cannot write there".to_owned())
            .fix("let the user of the proxy write it (chown, chmod u+rwx; for a container, a writable volume)"),
        Ok(looked) if !looked.made => line(State::Good, "not there yet, and can be made".to_owned()),
        Ok(looked) => {
            let now = Clock::system().now().ok();
            let ended = looked.ends.iter().filter(|end| now.is_some_and(|now| **end < now)).count();
            line(
                State::Good,
                format!(
                    "{}, {ended} of them ended; {} none",
                    counted(looked.ends.len(), "item", "items"),
                    counted(looked.foreign, "file that is", "files that are")
                ),
            )
        }
        Err(error) => line(State::Bad, error.to_string()).fix("name a folder of the proxy's own"),
    }
}
