//! The TEE of this machine: every platform's ways to evidence, and what `auto` makes of them.

use serde_json::{Value, json};

use super::{Line, State};
use crate::app::attester::{NoAttester, Seen, Standing, Way, survey};
use crate::attester::Places;
use crate::config::{Identity, Provider};

const PART: &str = "machine";

/// What this machine is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wanted {
    /// Evidence, by the best way.
    Auto,
    /// Evidence, by this way.
    Named(&'static str),
    /// None; why, for people.
    Nothing(&'static str),
}

impl Wanted {
    /// What a configuration wants.
    pub(super) const fn by(identity: Option<&Identity>) -> Self {
        match identity {
            Some(Identity { provider: Provider::Auto, .. }) => Self::Auto,
            Some(Identity { provider: Provider::Named(name), .. }) => Self::Named(name),
            Some(Identity { provider: Provider::Simulator(_), .. }) => Self::Nothing("the configuration names the simulator"),
            None => Self::Nothing("the configuration makes no evidence"),
        }
    }
}

/// A line for every platform, one for what is taken of them, and all of it as JSON.
pub(super) fn lines(places: &Places, wanted: Wanted, verbose: bool) -> (Vec<Line>, Value) {
    let (seen, chosen) = survey(places);
    let works = match wanted {
        Wanted::Named(name) => seen.iter().flat_map(|seen| &seen.ways).any(|way| way.provider == name && way.outcome.is_ok()),
        Wanted::Auto | Wanted::Nothing(_) => chosen.is_ok(),
    };
    // Whoever gets evidence, or wants none, need not read how each other way could be had.
    let settled = works || matches!(wanted, Wanted::Nothing(_));
    let mut lines: Vec<Line> = seen.iter().map(|seen| line(seen, settled, verbose)).collect();
    let auto = match &chosen {
        Ok(choice) => {
            let signs = seen.iter().find(|seen| seen.platform == choice.platform).map(signs).unwrap_or_default();
            let because = if signs.is_empty() { String::new() } else { format!("; {signs}") };
            Line::new(PART, AUTO, State::Good, format!("takes {choice}: the first in order that works{because}"))
        }
        Err(none) => {
            let (state, why) = match wanted {
                Wanted::Auto => (State::NoTee, String::new()),
                Wanted::Named(_) => (State::Note, "; the configuration names another way".to_owned()),
                Wanted::Nothing(why) => (State::Note, format!("; {why}")),
            };
            let found = none.to_string().lines().next().unwrap_or_default().to_owned() + &why;
            Line::new(PART, AUTO, state, found).fix(if state == State::NoTee { advice(none) } else { String::new() })
        }
    };
    lines.push(auto);
    if let Wanted::Named(name) = wanted {
        let about = format!("provider = \"{name}\"");
        lines.push(match works {
            true => Line::new(PART, about, State::Good, "works"),
            false => Line::new(PART, about, State::NoTee, "the way that the configuration names does not work here").fix("see its lines above"),
        });
    }
    let document = json!({
        "seen": seen.iter().map(document).collect::<Vec<_>>(),
        "auto": chosen.as_ref().ok().map(|choice| json!({ "platform": choice.platform, "provider": choice.provider })),
    });
    (lines, document)
}

const AUTO: &str = "provider = \"auto\"";

fn line(seen: &Seen, settled: bool, verbose: bool) -> Line {
    let standing = seen.standing();
    let told = verbose || standing != Standing::Absent || !settled;
    let of_way = |way: &Way| match &way.outcome {
        Ok(()) => Some(format!("{} works", way.provider)),
        Err(unavailable) => told.then(|| format!("{}: {}", unavailable.what, unavailable.why)),
    };
    let (state, head) = match standing {
        Standing::Works => (State::Good, None),
        Standing::Hindered => (if settled { State::Note } else { State::Bad }, Some(format!("it is there, and gives no evidence: {}", signs(seen)))),
        Standing::Possible => (State::Note, Some(format!("it may be there: {}", signs(seen)))),
        Standing::Absent => (State::Note, Some("nothing of it is to be seen".to_owned())),
    };
    let found: Vec<String> = head.into_iter().chain(seen.ways.iter().filter_map(of_way)).collect();
    let mut fixes: Vec<&str> = seen.ways.iter().filter_map(|way| way.outcome.as_ref().err()).map(|unavailable| unavailable.fix.as_str()).collect();
    fixes.dedup();
    let fix = if told && (standing != Standing::Works || verbose) { fixes.join("\n") } else { String::new() };
    Line::new(PART, seen.platform, state, found.join("\n")).fix(fix)
}

fn signs(seen: &Seen) -> String {
    seen.signs.iter().map(|sign| sign.what.as_str()).collect::<Vec<_>>().join("; ")
}

fn advice(none: &NoAttester) -> String {
    match (none.seen.iter().find(|seen| seen.standing() == Standing::Hindered), &none.spurned) {
        (Some(there), Some(spurned)) => {
            format!("mend what stands in the way of {}; or, to do with less, name the way: provider = \"{}\"", there.platform, spurned.provider)
        }
        (Some(there), None) => format!("mend what stands in the way of {}", there.platform),
        (None, _) => "run on a machine with a TEE; to try things out without one: portcullis demo, portcullis simulate".to_owned(),
    }
}

fn document(seen: &Seen) -> Value {
    let way = |way: &Way| match &way.outcome {
        Ok(()) => json!({ "provider": way.provider, "works": true }),
        Err(unavailable) => json!({
            "provider": way.provider, "works": false, "what": unavailable.what, "why": unavailable.why, "fix": unavailable.fix, "transient": unavailable.transient,
        }),
    };
    let standing = match seen.standing() {
        Standing::Absent => "absent",
        Standing::Hindered => "hindered",
        Standing::Possible => "possible",
        Standing::Works => "works",
    };
    json!({
        "platform": seen.platform,
        "standing": standing,
        "signs": seen.signs.iter().map(|sign| sign.what.as_str()).collect::<Vec<_>>(),
        "ways": seen.ways.iter().map(way).collect::<Vec<_>>(),
    })
}
