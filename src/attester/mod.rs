//! Produces evidence on this machine: the hardware's, or the simulator's where the operator named it.
//!
//! Detection reports what it found and never falls back: no TEE is an error. Nothing here judges evidence.

pub mod azure;
pub mod batch;
pub mod cca;
pub mod devices;
mod document;
pub mod google;
pub mod gpu;
mod imds;
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
use std::net::SocketAddr;
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

    /// What shows that this machine has this TEE, whether or not a way to its evidence works. Where there is proof, and no
    /// way, nothing weaker is taken in its place.
    fn signs(&self, _places: &Places) -> Vec<Sign> {
        Vec::new()
    }
}

/// Where the kernel's interfaces are; settings, so that tests can offer faithful copies.
#[derive(Clone, Debug)]
pub struct Places {
    /// The kernel's view of its devices.
    pub sys: PathBuf,
    /// The kernel's view of its processes.
    pub proc: PathBuf,
    /// The configfs-tsm report folder.
    pub tsm_root: PathBuf,
    /// The folder of Gramine's attestation files.
    pub gramine: PathBuf,
    /// AWS's command for documents of a NitroTPM.
    pub nitro_tpm_attest: PathBuf,
    /// The socket of the service that gives PSA tokens, or the folder of its files.
    pub psa_tokens: PathBuf,
    /// The Nitro Secure Module's device.
    pub nsm: PathBuf,
    /// The sev-guest device.
    pub sev_guest: PathBuf,
    /// The tdx_guest device.
    pub tdx_guest: PathBuf,
    /// Intel's file that names the port of the host's quote service, or the Unix socket of one.
    pub tdx_quotes: PathBuf,
    /// The TPM: a resource-managed device, or the socket of a software TPM.
    pub tpm: PathBuf,
    /// Azure's instance metadata service.
    pub imds: SocketAddr,
    /// The socket of a Keystone runtime's attestation service.
    pub keystone_socket: PathBuf,
    /// The privilege level (VMPL) to ask from: the least that the kernel allows when not set. A verifier's policy must
    /// allow it too.
    pub privlevel: Option<u8>,
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
        Self {
            sys: root.join("sys"),
            proc: root.join("proc"),
            tsm_root: root.join("sys/kernel/config/tsm/report"),
            nitro_tpm_attest: root.join("usr/bin/nitro-tpm-attest"),
            nsm: root.join("dev/nsm"),
            psa_tokens: root.join("run/psa-tokens"),
            sev_guest: root.join("dev/sev-guest"),
            tdx_guest: root.join("dev/tdx_guest"),
            tdx_quotes: root.join("etc/tdx-attest.conf"),
            tpm: root.join("dev/tpmrm0"),
            imds: imds::ADDRESS,
            gramine: root.join("dev/attestation"),
            keystone_socket: root.join("run/keystone/attestation.sock"),
            privlevel: None,
        }
    }

    /// What the kernel shows there.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        Kernel::new(self.sys.clone(), self.proc.clone())
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
