//! Whether this process can do its work: conditions as data, asked for when somebody asks.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// How one condition stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// It holds.
    Met,
    /// It holds, and this is worth knowing.
    MetBut(String),
    /// It holds until this moment, in seconds since 1970.
    Until(u64),
    /// It does not hold, and why.
    Unmet(String),
}

/// One line of a report.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// The condition's name.
    pub name: String,
    /// Whether it holds.
    pub met: bool,
    /// What else there is to say; may be empty.
    pub detail: String,
}

/// All conditions at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The conditions, in the order they were added.
    pub lines: Vec<Line>,
}

impl Report {
    /// Whether every condition holds. None at all is not ready: nothing has started.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(|line| line.met)
    }
}

impl fmt::Display for Report {
    /// `[+]` and `[-]` lines, then the sum.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            let (mark, gap) = (if line.met { '+' } else { '-' }, if line.detail.is_empty() { "" } else { ": " });
            writeln!(f, "[{mark}]{}{gap}{}", line.name, line.detail)?;
        }
        f.write_str(if self.ready() { "ready\n" } else { "not ready\n" })
    }
}

type Probe = Box<dyn Fn() -> Condition + Send + Sync>;

/// The conditions of this process.
#[derive(Default)]
pub struct Health {
    probes: Mutex<Vec<(String, Probe)>>,
}

impl Health {
    /// No conditions yet: not ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, or replaces the one of that name. `probe` must be quick.
    pub fn watch(&self, name: impl Into<String>, probe: impl Fn() -> Condition + Send + Sync + 'static) {
        let (name, probe): (String, Probe) = (name.into(), Box::new(probe));
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        match probes.iter_mut().find(|(known, _)| *known == name) {
            Some(place) => place.1 = probe,
            None => probes.push((name, probe)),
        }
    }

    /// Sets a condition that changes only when it is set again.
    pub fn set(&self, name: impl Into<String>, condition: Condition) {
        self.watch(name, move || condition.clone());
    }

    /// Takes a condition away.
    pub fn forget(&self, name: &str) {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != name);
    }

    /// How all stand at `now`, in seconds since 1970; `None` when the clock cannot be right.
    #[must_use]
    pub fn report(&self, now: Option<u64>) -> Report {
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<_> = probes.iter().map(|(name, probe)| line(name, probe(), now)).collect();
        if now.is_none() {
            lines.push(Line { name: "clock".to_owned(), met: false, detail: "the clock cannot be right".to_owned() });
        }
        Report { lines }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

fn line(name: &str, condition: Condition, now: Option<u64>) -> Line {
    let (met, detail) = match condition {
        Condition::Met => (true, String::new()),
        Condition::MetBut(detail) => (true, detail),
        Condition::Until(until) => match now {
            Some(now) if now <= until => (true, format!("for another {} s", until - now)),
            _ => (false, "expired".to_owned()),
        },
        Condition::Unmet(why) => (false, why),
    };
    Line { name: name.to_owned(), met, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_every_condition_and_at_least_one() {
        let health = Health::new();
        assert!(!health.report(Some(10)).ready());
        health.set("listeners", Condition::Met);
        health.set("identity", Condition::Until(20));
        assert!(health.report(Some(20)).ready());
        assert!(!health.report(Some(21)).ready());
        assert!(!health.report(None).ready());
        health.set("listeners", Condition::Unmet("draining".into()));
        assert_eq!(health.report(Some(10)).to_string(), "[-]listeners: draining\n[+]identity: for another 10 s\nnot ready\n");
    }
}
