//! Produces evidence on this machine: the hardware's, or the simulator's where the operator named it.
//!
//! Detection reports what it found and never falls back: no TEE is an error. Nothing here judges evidence.

pub mod azure;
pub mod batch;
pub mod cca;
mod device;
pub mod devices;
mod document;
pub mod google;
pub mod gpu;
mod imds;
mod intel;
pub mod kernel;
pub mod keystone;
pub mod nitro;
mod nsm;
mod patience;
pub mod psa;
pub mod qgs;
mod queue;
mod sev_guest;
pub mod sgx;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod snp;
pub mod stapled;
pub mod tdx;
mod tdx_guest;
pub mod tpm;
pub mod tsm;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::evidence::{Auxiliary, Challenge, Endorsements, Evidence};
use kernel::Kernel;
pub use kernel::{Sign, Weight};

/// Something that makes evidence that carries a challenge of ours. Blocking; one call at a time.
pub trait Attester: Send + Sync {
    /// The platform's name.
    fn platform(&self) -> &'static str;

    /// Where the evidence comes from, for people: `configfs-tsm`, `sev-guest`, `simulator`.
    fn provider(&self) -> &'static str;

    /// Makes evidence that carries `challenge`, with what endorsements the hardware has at hand.
    ///
    /// # Errors
    /// [`Unavailable`] when the hardware or its driver does not answer as it should.
    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable>;

    /// The auxiliary members whose digests the binding claims list (an event log): read before the claims are made.
    ///
    /// # Errors
    /// [`Unavailable`] when there is such a member on this platform and it cannot be read.
    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        Ok(Vec::new())
    }
}

impl<A: Attester + ?Sized> Attester for std::sync::Arc<A> {
    fn platform(&self) -> &'static str {
        (**self).platform()
    }

    fn provider(&self) -> &'static str {
        (**self).provider()
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        (**self).attest(challenge)
    }

    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        (**self).listed()
    }
}

/// Evidence with its stapled endorsements.
#[derive(Clone, Debug)]
pub struct Quote {
    /// The TEE's evidence.
    pub evidence: Evidence,
    /// What came with it.
    pub endorsements: Endorsements,
}

/// How a platform's evidence is had on this machine.
pub trait Provider: Sync {
    /// The names of the ways it knows, as configuration writes them.
    fn names(&self) -> &'static [&'static str];

    /// Looks for the hardware's ways to evidence, best first, and says what stands in the way of each.
    fn detect(&self, places: &Places) -> Vec<Detected>;

    /// The device that the kernel makes for this TEE, where it makes one for it alone.
    fn device(&self) -> Option<Place> {
        None
    }

    /// What shows that this machine has this TEE, whether or not a way to its evidence works. Where there is proof, and no
    /// way, nothing weaker is taken in its place.
    fn signs(&self, _places: &Places) -> Vec<Sign> {
        Vec::new()
    }
}

/// An interface of some machines, by its usual place below their root. Each is named once, beside what uses it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place(&'static str);

/// Where this machine's interfaces are: the usual places, but for those that were moved.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
    moved: Vec<(Place, PathBuf)>,
}

impl Default for Places {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

impl Places {
    /// The usual places in the tree below `root`: another machine's file systems, mounted here.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), moved: Vec::new() }
    }

    /// The same with this interface elsewhere, in place of any earlier word on it: a faithful copy, a socket.
    #[must_use]
    pub fn moved(mut self, place: Place, to: impl Into<PathBuf>) -> Self {
        self.moved.insert(0, (place, to.into()));
        self
    }

    /// Where this interface is.
    #[must_use]
    pub fn of(&self, place: Place) -> PathBuf {
        self.moved.iter().find(|(moved, _)| *moved == place).map_or_else(|| self.root.join(place.0), |(_, to)| to.clone())
    }

    /// What the kernel shows there.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        Kernel::new(self.root.join("sys"), self.root.join("proc"))
    }
}

/// One way to evidence that was looked for.
pub struct Detected {
    /// Its name in configuration (`configfs-tsm`, `sev-guest`).
    pub provider: &'static str,
    /// The attester, or what stands in the way.
    pub outcome: Result<Box<dyn Attester>, Unavailable>,
}

/// Why evidence could not be made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unavailable {
    /// What was tried.
    pub what: String,
    /// What happened.
    pub why: String,
    /// What a person can do.
    pub fix: String,
    /// Whether a later try may succeed.
    pub transient: bool,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.what, self.why, self.fix)
    }
}

impl std::error::Error for Unavailable {}
