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
use crate::evidence::intel::collateral::{QeIdentity, Signed, TcbInfo};
use crate::evidence::launch::{self, LaunchEndorsement};
use crate::evidence::{Auxiliary, Challenge, Endorsement, Endorsements};

/// An attester whose quotes carry the folder's files: `vcek.der`, `ask.pem`, `crl.der`, …; the name before the dot is the
/// endorsement's short name. Intel's signed documents are there as its service gives them (`tcb_info.json`, and the chain of
/// their signer in [`CHAIN`]) or as they are saved (`tcb_info.cbor`). Files are looked at for each quote and read again when
/// they change; one that becomes unreadable is logged, and what was last read of it goes on being stapled. Roots (`ark`) are
/// not stapled.
pub struct Stapled<A> {
    inner: A,
    folder: PathBuf,
    files: Mutex<BTreeMap<PathBuf, Read>>,
}

/// A file as it was last read well.
struct Read {
    version: Versions,
    endorsement: Endorsement,
}

/// The file's own version, and that of the chain where it needs one.
type Versions = (Version, Option<Version>);

/// The file with the certificates of whoever signed Intel's documents, PEM, the root last.
pub const CHAIN: &str = "tcb_signing_chain.pem";

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
            return Err(unusable(&folder, io::Error::other("no file ends in .der, .crt, .cer, .crl, .pem, .json, .cbor or .binarypb")));
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
    let unchanged = |known: &Read| versions(&path).is_ok_and(|version| version == known.version);
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
        let named = path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| !BESIDE.contains(&stem) && !stem.starts_with('.'));
        if named && matches!(kind, Some("binarypb" | "cbor" | "cer" | "crl" | "crt" | "der" | "json" | "pem")) {
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
    let stem = path.file_stem().and_then(|stem| stem.to_str()).ok_or_else(|| io::Error::other("its name is not UTF-8"))?;
    let name = ALIASES.iter().find(|(alias, _)| *alias == stem).map_or(stem, |(_, name)| *name);
    let version = versions(path)?;
    let bytes = bounded(path)?;
    let other = |media_type: &str, bytes: Vec<u8>| Endorsement { name: name.to_owned(), media_type: media_type.to_owned(), bytes };
    let endorsement = match path.extension().and_then(|extension| extension.to_str()) {
        Some("binarypb") => {
            LaunchEndorsement::parse(&bytes).map(|_| other(launch::MEDIA_TYPE, bytes)).map_err(|denied| io::Error::other(denied.to_string()))?
        }
        Some("json") => {
            let chain = bounded(&chain_beside(path)).map_err(|error| io::Error::new(error.kind(), format!("{CHAIN}, the chain of its signer: {error}")))?;
            signed(&bytes)?;
            other(Endorsement::SIGNED_JSON, Signed { body: &bytes, chain: &chain }.encode())
        }
        Some("cbor") => {
            let body = Signed::decode("document", &bytes).map_err(|denied| io::Error::other(denied.to_string()))?.body;
            signed(body)?;
            other(Endorsement::SIGNED_JSON, bytes)
        }
        _ => Document::read(&bytes).ok_or_else(|| io::Error::other("not one certificate or revocation list in DER or PEM"))?.named(name),
    };
    Ok(Read { version, endorsement })
}

/// Refuses what is not one of Intel's signed documents. Whether the signature is Intel's is for verifiers.
fn signed(body: &[u8]) -> io::Result<()> {
    if TcbInfo::read(body).is_ok() || QeIdentity::read(body).is_ok() {
        return Ok(());
    }
    Err(io::Error::other("neither TCB info nor a quoting enclave's identity, as Intel's service gives them"))
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    crate::file::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(io::Error::other(format!("longer than {MAX_FILE} octets")));
    }
    Ok(bytes)
}

fn versions(path: &Path) -> io::Result<Versions> {
    let of = |path: &Path| fs::metadata(path).map(|metadata| Version::of(&metadata));
    let chain = if path.extension().is_some_and(|extension| extension == "json") { of(&chain_beside(path)).ok() } else { None };
    Ok((of(path)?, chain))
}

fn chain_beside(path: &Path) -> PathBuf {
    path.with_file_name(CHAIN)
}

/// What lies in such folders and is no endorsement of its own: verifiers have the root, a document its signer's chain, and
/// the quote the chain of the list's issuer.
const BESIDE: &[&str] = &["ark", "tcb_signing_chain", "pck_crl_issuer_chain"];

/// Other names that files have.
const ALIASES: &[(&str, &str)] = &[("root_ca_crl", "root_crl")];

fn unusable(path: &Path, error: impl std::fmt::Display) -> Unavailable {
    Unavailable {
        what: format!("endorsements in {}", path.display()),
        why: error.to_string(),
        fix:
            "for SEV-SNP put vcek.der (or vlek.der), ask.der (or asvk.der) and crl.der there, DER or PEM; for TDX and SGX tcb_info.json, qe_identity.json with \
              tcb_signing_chain.pem, pck_crl.der and root_crl.der; or leave identity.endorsements out"
                .to_owned(),
        transient: false,
    }
}

/// A chain has three; a folder with more than this is some other folder.
const MAX_FILES: usize = 16;

/// Genuine certificates have some 1,700 octets, lists some thousands.
const MAX_FILE: u64 = 64 * 1024;
