//! configfs-tsm: the kernel's way to reports, the same for every TEE (Linux, Documentation/ABI/testing/configfs-tsm).
//!
//! A request is a folder of its own below the report folder. Writing `inblob` (or an option) advances `generation`;
//! reading `outblob` makes the report. A binary attribute takes effect when it is closed, and an error of that is not
//! told: only the generation shows that what was read belongs to what was written.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand;
use rustix::io::Errno;
use tracing::warn;

use super::patience::patiently;
use super::{Place, Unavailable};
use crate::evidence::snp::table::MAX_TABLE;

/// The name under which configuration knows this way.
pub(super) const PROVIDER: &str = "configfs-tsm";

/// The report folder.
pub const ROOT: Place = Place("sys/kernel/config/tsm/report");

/// The report folder with what is asked of it.
#[derive(Clone, Debug)]
pub struct Tsm {
    /// The report folder.
    pub root: PathBuf,
    /// What the `provider` attribute must say: `sev_guest`, `tdx_guest`.
    pub provider: &'static str,
    /// The privilege level (VMPL) to ask from; the lowest number that the kernel allows when not set.
    pub privlevel: Option<u8>,
    /// How long a busy or throttled kernel is asked again. A request under way is not broken off: the kernel itself
    /// waits up to a minute for a host that throttles.
    pub patience: Duration,
}

/// What the kernel gave for one request.
#[derive(Clone, Debug)]
pub struct Blobs {
    /// The report.
    pub outblob: Vec<u8>,
    /// What came with it: for SEV-SNP the host's certificate table. Empty when there is none.
    pub auxblob: Vec<u8>,
}

impl Tsm {
    /// `root` with a patience of ten seconds.
    #[must_use]
    pub const fn new(root: PathBuf, provider: &'static str, privlevel: Option<u8>) -> Self {
        Self { root, provider, privlevel, patience: Duration::from_secs(10) }
    }

    /// Whether a request could be made: the folder is there, may be used, and belongs to this TEE's driver. Asks the
    /// hardware nothing. Removes what a crashed predecessor left.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn probe(&self) -> Result<(), Unavailable> {
        let probed = Entry::make(&self.root).and_then(|entry| {
            entry.expect_provider(self.provider)?;
            entry.remove_abandoned(&self.root);
            Ok(())
        });
        probed.map_err(|failure| failure.explain(&self.root))
    }

    /// A report over `inblob`, and what came with it. Retries while `patience` lasts.
    ///
    /// # Errors
    /// [`Unavailable`], transient when the kernel or the host was busy to the end.
    pub fn report(&self, inblob: &[u8; 64]) -> Result<Blobs, Unavailable> {
        patiently(self.patience, || self.attempt(inblob), Failure::is_transient).map_err(|failure| failure.explain(&self.root))
    }

    fn attempt(&self, inblob: &[u8; 64]) -> Result<Blobs, Failure> {
        let entry = Entry::make(&self.root)?;
        entry.expect_provider(self.provider)?;
        let before = entry.generation()?;
        let mut writes = 1;
        if let Some(level) = self.privlevel_to_write(&entry)? {
            entry.write("privlevel", level.to_string().as_bytes())?;
            writes += 1;
        }
        entry.write("inblob", inblob)?;
        // Before the hardware is asked: was the write taken, and is it alone? And after: is it still?
        entry.expect_generation(before.wrapping_add(writes))?;
        let outblob = entry.read("outblob", MAX_OUTBLOB)?;
        let auxblob = entry.read_if_there("auxblob", MAX_TABLE)?.unwrap_or_default();
        entry.expect_generation(before.wrapping_add(writes))?;
        Ok(Blobs { outblob, auxblob })
    }

    /// The configured level, or the kernel's floor where 0, the default, lies below it.
    fn privlevel_to_write(&self, entry: &Entry) -> Result<Option<u8>, Failure> {
        if self.privlevel.is_some() {
            return Ok(self.privlevel);
        }
        let Some(floor) = entry.read_if_there("privlevel_floor", MAX_TEXT)? else { return Ok(None) };
        number::<u8>("privlevel_floor", &floor).map(|floor| Some(floor).filter(|floor| *floor > 0))
    }
}

/// A request's folder; gone when dropped.
struct Entry {
    path: PathBuf,
}

impl Entry {
    fn make(root: &Path) -> Result<Self, Failure> {
        let mut name = [0; 8];
        rand::fill(&mut name).map_err(|_| Failure::Unfit { attribute: "mkdir", expected: "random octets for a name".into(), found: "none".into() })?;
        let path = root.join(format!("{PREFIX}{}", data_encoding::HEXLOWER.encode(&name)));
        fs::create_dir(&path).map_err(|error| Failure::Io { attribute: "mkdir", error })?;
        Ok(Self { path })
    }

    fn expect_provider(&self, expected: &str) -> Result<(), Failure> {
        let found = self.read("provider", MAX_TEXT)?;
        if found.trim_ascii() == expected.as_bytes() {
            return Ok(());
        }
        let found = found.trim_ascii().escape_ascii().to_string();
        Err(Failure::Unfit { attribute: "provider", expected: expected.to_owned(), found })
    }

    fn generation(&self) -> Result<u64, Failure> {
        number("generation", &self.read("generation", MAX_TEXT)?)
    }

    fn expect_generation(&self, expected: u64) -> Result<(), Failure> {
        let found = self.generation()?;
        if found == expected { Ok(()) } else { Err(Failure::Raced { expected, found }) }
    }

    fn read(&self, attribute: &'static str, limit: usize) -> Result<Vec<u8>, Failure> {
        let io = |error| Failure::Io { attribute, error };
        let file = File::open(self.path.join(attribute)).map_err(io)?;
        let mut bytes = Vec::new();
        file.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() > limit {
            return Err(Failure::Unfit { attribute, expected: format!("at most {limit} octets"), found: "more".to_owned() });
        }
        Ok(bytes)
    }

    fn read_if_there(&self, attribute: &'static str, limit: usize) -> Result<Option<Vec<u8>>, Failure> {
        match self.read(attribute, limit) {
            Err(Failure::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// In one write, and closed: that is when the kernel takes it.
    fn write(&self, attribute: &'static str, value: &[u8]) -> Result<(), Failure> {
        let io = |error| Failure::Io { attribute, error };
        let mut file = OpenOptions::new().write(true).open(self.path.join(attribute)).map_err(io)?;
        match file.write(value).map_err(io)? {
            written if written == value.len() => Ok(()),
            written => Err(Failure::Unfit { attribute, expected: format!("{} octets taken", value.len()), found: written.to_string() }),
        }
    }

    /// Removes entries of ours that are much older than this one: no request lasts that long.
    fn remove_abandoned(&self, root: &Path) {
        const LONG: Duration = Duration::from_secs(600);
        let made = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let (Some(now), Ok(entries)) = (made(&self.path), fs::read_dir(root)) else { return };
        for entry in entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())) {
            let age = made(&entry.path()).and_then(|made| now.duration_since(made).ok());
            if age.is_some_and(|age| age > LONG) && fs::remove_dir(entry.path()).is_ok() {
                warn!(entry = %entry.path().display(), "removed a configfs-tsm entry that a crashed process left");
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            warn!(entry = %self.path.display(), %error, "a configfs-tsm entry could not be removed");
        }
    }
}

fn number<T: std::str::FromStr>(attribute: &'static str, text: &[u8]) -> Result<T, Failure> {
    let read = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
    read.ok_or_else(|| Failure::Unfit { attribute, expected: "a number".to_owned(), found: text.escape_ascii().to_string() })
}

#[derive(Debug)]
enum Failure {
    /// The kernel refused, or the file system is not what it should be.
    Io { attribute: &'static str, error: io::Error },
    /// Somebody else wrote to our entry.
    Raced { expected: u64, found: u64 },
    /// An attribute said what it should not.
    Unfit { attribute: &'static str, expected: String, found: String },
}

impl Failure {
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Io { error, .. } => Errno::from_io_error(error),
            Self::Raced { .. } | Self::Unfit { .. } => None,
        }
    }

    /// Whether the same request may succeed soon.
    fn is_transient(&self) -> bool {
        match self {
            Self::Raced { .. } => true,
            Self::Unfit { .. } => false,
            Self::Io { .. } => {
                matches!(self.errno(), Some(Errno::AGAIN | Errno::BUSY | Errno::INTR | Errno::IO | Errno::NOMEM | Errno::NOSPC | Errno::TIMEDOUT))
            }
        }
    }

    fn fix(&self) -> &'static str {
        match (self, self.errno()) {
            (Self::Raced { .. }, _) => "another process with the same rights writes to entries that are not its own: find it and stop it",
            (Self::Unfit { attribute: "provider", .. }, _) => "this machine's TEE is of another kind: name the platform it has",
            (Self::Unfit { .. }, _) => "the folder is not configfs-tsm, or the kernel's is of a kind that this program does not know",
            (Self::Io { attribute: "mkdir", .. }, Some(Errno::NOENT)) => {
                "mount configfs (mount -t configfs none /sys/kernel/config) and load the driver (modprobe sev-guest, tdx-guest or arm-cca-guest); it needs Linux 6.7 or later inside a confidential guest"
            }
            (Self::Io { attribute: "privlevel", .. }, Some(Errno::NOENT | Errno::INVAL)) => {
                "this kernel does not take that privilege level: leave it out, or ask for one from privlevel_floor to 3"
            }
            (_, Some(Errno::NXIO | Errno::NOTTY)) => {
                "no TEE driver answers: load it (modprobe sev-guest or tdx-guest). If it is loaded, it has given up its key to the firmware after a failed exchange: restart the guest"
            }
            (_, Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
                "run as root, or give this process the folder (chown, and a writable mount in its container); SELinux may need a rule"
            }
            (_, Some(Errno::NOENT | Errno::NOTDIR)) => "the folder is not configfs-tsm: mount configfs and name its tsm/report folder",
            (_, Some(Errno::INVAL)) => "the kernel does not take the request: it may be for another TEE or another privilege level",
            (_, Some(Errno::AGAIN | Errno::BUSY | Errno::INTR | Errno::TIMEDOUT)) => {
                "the kernel or the host is busy with other requests; try again, and find out what else on this machine asks for reports"
            }
            (_, Some(Errno::IO)) => "the host or its firmware refused; look at the kernel's log (dmesg), and ask the host's operator if it lasts",
            (_, Some(Errno::NOMEM | Errno::NOSPC)) => "the guest has no memory left for the report: give it more",
            (Self::Io { .. }, _) => "look at the kernel's log (dmesg)",
        }
    }

    fn explain(&self, root: &Path) -> Unavailable {
        Unavailable { what: format!("{PROVIDER} at {}", root.display()), why: self.to_string(), fix: self.fix().to_owned(), transient: self.is_transient() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { attribute, error } => write!(f, "{attribute}: {error}"),
            Self::Raced { expected, found } => write!(f, "generation: expected {expected}, found {found}: a write was lost, or somebody else wrote"),
            Self::Unfit { attribute, expected, found } => write!(f, "{attribute}: expected {expected}, found {found}"),
        }
    }
}

/// What our entries' names begin with.
const PREFIX: &str = "portcullis-";

/// The kernel's own bound (TSM_REPORT_OUTBLOB_MAX of Linux 6.7).
const MAX_OUTBLOB: usize = 32 * 1024;

/// Numbers and names are short.
const MAX_TEXT: usize = 64;
