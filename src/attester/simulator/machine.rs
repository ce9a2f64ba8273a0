//! A simulated machine as an attester, with the hardware's manners: slow, one report at a time, sometimes failing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::forge::{Forge, evidence};
use super::keys::VekKey;
use crate::attester::{Attester, Quote, Unavailable};
use crate::evidence::{Challenge, Endorsements, ReportData};

/// Makes evidence of one [`Forge`]. Its endorsements are minted once.
#[derive(Debug)]
pub struct SimulatedAttester {
    forge: Forge,
    key: VekKey,
    endorsements: Endorsements,
    quote_delay: Duration,
    fault: Mutex<Fault>,
    hardware: Mutex<()>,
    quotes: AtomicU64,
}

/// How a simulated machine misbehaves.
#[derive(Clone, Copy, Debug, Default)]
pub enum Fault {
    /// Says for good that it cannot.
    Broken,
    /// Says that its host throttles it.
    Busy,
    /// Does not.
    #[default]
    None,
    /// Signs report data that nobody asked for.
    OtherReportData,
    /// Panics.
    Panic,
    /// Changes what it made.
    Tampered(fn(&mut Quote)),
}

impl SimulatedAttester {
    pub(super) fn new(forge: Forge) -> Self {
        let key = forge.key();
        let endorsements = forge.staple(&key);
        Self { forge, key, endorsements, quote_delay: Duration::ZERO, fault: Mutex::default(), hardware: Mutex::default(), quotes: AtomicU64::new(0) }
    }

    /// The same machine, each report taking at least this long.
    #[must_use]
    pub const fn slowed(mut self, quote_delay: Duration) -> Self {
        self.quote_delay = quote_delay;
        self
    }

    /// From now on misbehaves like this.
    pub fn misbehave(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// How many times evidence was asked for.
    #[must_use]
    pub fn quotes(&self) -> u64 {
        self.quotes.load(Ordering::Relaxed)
    }
}

impl Attester for SimulatedAttester {
    fn platform(&self) -> &'static str {
        "sev-snp"
    }

    fn provider(&self) -> &'static str {
        "simulator"
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let _one_at_a_time = self.hardware.lock().unwrap_or_else(PoisonError::into_inner);
        self.quotes.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.quote_delay);
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let refuse = |why: &str, transient| {
            let fix = "it was told to fail: see simulator::Fault".to_owned();
            Err(Unavailable { what: "simulator".to_owned(), why: why.to_owned(), fix, transient })
        };
        let other = ReportData([0x5a; 64]);
        let report_data = match fault {
            Fault::Broken => return refuse("the simulated hardware is broken", false),
            Fault::Busy => return refuse("the simulated host throttles", true),
            Fault::OtherReportData => &other,
            Fault::Panic => panic!("the simulated attester was told to panic"),
            Fault::None | Fault::Tampered(_) => &challenge.long,
        };
        let mut quote = Quote { evidence: evidence(self.forge.sign(&self.key, report_data)), endorsements: self.endorsements.clone() };
        if let Fault::Tampered(tamper) = fault {
            tamper(&mut quote);
        }
        Ok(quote)
    }
}
