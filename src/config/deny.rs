//! `[deny]`: the operator's deny list with its signature, read and checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;

use super::check::Notes;
use super::tree::{Section, Wrong};
use super::{Report, files, schema};
use crate::policy::{DenyList, MAX_POLICY};

/// The operator's deny list with where it came from.
#[derive(Clone, Debug)]
pub struct Deny {
    /// The file.
    pub file: PathBuf,
    /// What it says; its signature was checked.
    pub list: Arc<DenyList>,
}

impl Deny {
    /// The file with its signature.
    #[must_use]
    pub fn signature(&self) -> PathBuf {
        signature_of(&self.file)
    }
}

/// A signature or a public key is shorter.
const MAX_KEY: usize = 64 * 1024;

/// Reads `[deny]`; `None` without one, and with errors.
pub(super) fn read(file: &Section<'_>, folder: &Path, notes: &mut Notes) -> Option<Deny> {
    let section = file.table("deny", &schema::DENY)?;
    section.required("key");
    let written = section.required("file")?;
    let key = section.parsed("key", |path| key(&folder.join(path)))?;
    let path = folder.join(written.value);
    let bytes = section.faults.keep(&written.span, files::read(&path, MAX_POLICY))?;
    let signature = section.faults.keep(&written.span, files::read(&signature_of(&path), MAX_KEY))?;
    match DenyList::load(&bytes, &signature, &key.value, &crate::platform::vocabularies()) {
        Ok(list) => Some(Deny { file: path, list: Arc::new(list) }),
        Err(diagnostics) => {
            notes.errors.push(Report { name: path.display().to_string(), text: String::from_utf8_lossy(&bytes).into_owned(), diagnostics });
            None
        }
    }
}

/// The signature lies beside the list.
pub(super) fn signature_of(list: &Path) -> PathBuf {
    let mut name = list.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

fn key(path: &Path) -> Result<Vec<u8>, Wrong> {
    let pem = files::read(path, MAX_KEY)?;
    let wrong = |_| Wrong::new(format!("{} is no public key in PEM", path.display()), "openssl pkey -in key.pem -pubout -out key.pub");
    SubjectPublicKeyInfoDer::from_pem_slice(&pem).map(|key| key.to_vec()).map_err(wrong)
}
