//! Endorsements from a folder of the operator's, stapled before those that the hardware gave.

use std::collections::BTreeMap;
use std::fs::{self};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing::{info, warn};

use super::document::Document;
use super::{Attester, Quote, Unavailable};
use crate::evidence::{Auxiliary, Challenge, Endorsement, Endorsements};

/// An attester whose quotes carry the folder's files: `vcek.der`, `ask.pem`, `crl.der`, …; the name before the dot is the
/// endorsement's short name. Files are looked at for each quote and read again when they change; one that becomes
/// unreadable is logged, and what was last read of it goes on being stapled. Roots (`ark`) are not stapled.
pub struct Stapled<A> {
    inner: A,
    folder: PathBuf,
    files: Mutex<BTreeMap<PathBuf, Read>>,
}

/// A file as it was last read well.
struct Read {
    version: Version,
    endorsement: Endorsement,
}

/// Changes when the file does: inode, length, and when it was modified, in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Version(u64, u64, i64, i64);

impl Version {
    fn of(metadata: &fs::Metadata) -> Self {
        Self(metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
    }
}

impl<A: Attester> Stapled<A> {
    /// Reads the folder.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot be read, holds no endorsement, or one that is neither DER nor PEM: a folder that
    /// does nothing is a mistake.
    pub fn new(inner: A, folder: PathBuf) -> Result<Self, Unavailable> {
        let mut files = BTreeMap::new();
        for path in candidates(&folder).map_err(|error| unusable(&folder, error))? {
            let read = read(&path).map_err(|error| unusable(&path, error))?;
            files.insert(path, read);
        }
        if files.is_empty() {
            return Err(unusable(&folder, io::Error::other("no file ends in .der, .crt, .cer, .crl or .pem")));
        }
        Ok(Self { inner, folder, files: Mutex::new(files) })
    }

    /// The folder's endorsements as they are now.
    fn current(&self) -> Vec<Endorsement> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        match candidates(&self.folder) {
            Ok(paths) => {
                files.retain(|known, _| paths.contains(known));
                paths.into_iter().for_each(|path| refresh(&mut files, path));
            }
            Err(error) => warn!(folder = %self.folder.display(), %error, "endorsements cannot be looked at; the last ones are stapled"),
        }
        files.values().map(|file| file.endorsement.clone()).collect()
    }
}

impl<A: Attester> Attester for Stapled<A> {
    fn platform(&self) -> &'static str {
        self.inner.platform()
    }

    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let Quote { evidence, endorsements } = self.inner.attest(challenge)?;
        let mut stapled: Endorsements = self.current().into_iter().collect();
        for endorsement in endorsements {
            // One of each name: the operator's stands for the host's.
            if stapled.find(&endorsement.name).is_none() {
                stapled.push(endorsement);
            }
        }
        Ok(Quote { evidence, endorsements: stapled })
    }

    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        self.inner.listed()
    }
}

fn refresh(files: &mut BTreeMap<PathBuf, Read>, path: PathBuf) {
    let unchanged = |known: &Read| fs::metadata(&path).is_ok_and(|metadata| Version::of(&metadata) == known.version);
    if files.get(&path).is_some_and(unchanged) {
        return;
    }
    match read(&path) {
        Ok(read) => {
            info!(file = %path.display(), "endorsement read");
            files.insert(path, read);
        }
        Err(error) => warn!(file = %path.display(), %error, "endorsement cannot be read; the last one is stapled, if there was one"),
    }
}

/// The folder's files that may be endorsements, in order, no more than [`MAX_FILES`].
fn candidates(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let kind = path.extension().and_then(|extension| extension.to_str());
        let named = path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem != "ark" && !stem.starts_with('.'));
        if named && matches!(kind, Some("cer" | "crl" | "crt" | "der" | "pem")) {
            found.push(path);
        }
        if found.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn read(path: &Path) -> io::Result<Read> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or_else(|| io::Error::other("its name is not UTF-8"))?;
    let file = crate::file::open(path)?;
    let version = Version::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(io::Error::other(format!("longer than {MAX_FILE} octets")));
    }
    let document = Document::read(&bytes).ok_or_else(|| io::Error::other("not one certificate or revocation list in DER or PEM"))?;
    Ok(Read { version, endorsement: document.named(name) })
}

fn unusable(path: &Path, error: impl std::fmt::Display) -> Unavailable {
    Unavailable {
        what: format!("endorsements in {}", path.display()),
        why: error.to_string(),
        fix: "put vcek.der (or vlek.der), ask.der (or asvk.der) and crl.der there, DER or PEM, or leave identity.endorsements out".to_owned(),
        transient: false,
    }
}

/// A chain has three; a folder with more than this is some other folder.
const MAX_FILES: usize = 16;

/// Genuine certificates have some 1,700 octets, lists some thousands.
const MAX_FILE: u64 = 64 * 1024;
