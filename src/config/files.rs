//! The files a configuration names, read under bounds.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, TrustAnchor};

use super::tree::{Section, Wrong};
use crate::file::Exposure;

/// More root certificates than this are a mistake.
const MAX_ROOTS: usize = 256;
/// A file of root certificates is not read beyond this.
const MAX_PEM: usize = 1 << 20;

/// The whole of a file of at most `bound` octets.
pub(super) fn read(path: &Path, bound: usize) -> Result<Vec<u8>, Wrong> {
    read_looking(path, bound).map(|(bytes, _)| bytes)
}

/// The path and the content of the secret that `key` names. One that others may write is refused; where they may read it,
/// a warning is noted.
pub(super) fn secret(section: &Section<'_>, key: &str, folder: &Path, bound: usize) -> Option<(PathBuf, Vec<u8>)> {
    let written = section.string(key)?;
    let path = folder.join(written.value);
    let (bytes, exposure) = section.faults.keep(&written.span, read_looking(&path, bound))?;
    let help = format!("chmod 0600 {} (a mounted Secret: defaultMode: 0400)", path.display());
    match exposure {
        Some(Exposure::Written(how)) => {
            section.wrong(&written.span, format!("{} is a secret of others too: {how}", path.display()), help);
            None
        }
        Some(Exposure::Read(how)) => {
            section.faults.warn(&written.span, format!("{} is no secret: {how}", path.display()), help);
            Some((path, bytes))
        }
        None => Some((path, bytes)),
    }
}

fn read_looking(path: &Path, bound: usize) -> Result<(Vec<u8>, Option<Exposure>), Wrong> {
    let unreadable = |error: std::io::Error| Wrong::new(format!("{} cannot be read: {error}", path.display()), "check the path and its permissions");
    let file = crate::file::open(path).map_err(unreadable)?;
    let exposure = crate::file::exposure(&file.metadata().map_err(unreadable)?);
    let mut bytes = Vec::new();
    let limit = u64::try_from(bound).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > bound {
        return Err(Wrong::new(format!("{} is larger than {bound} octets", path.display()), "no such file is read beyond that"));
    }
    Ok((bytes, exposure))
}

/// The roots in a PEM file, at least one.
pub(super) fn roots(path: &Path) -> Result<Vec<TrustAnchor<'static>>, Wrong> {
    let bytes = read(path, MAX_PEM)?;
    let name = path.display();
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).take(MAX_ROOTS + 1).collect();
    let certificates = certificates.map_err(|error| Wrong::new(format!("{name} is not PEM: {error}"), "name a file of CERTIFICATE blocks"))?;
    if certificates.is_empty() || certificates.len() > MAX_ROOTS {
        return Err(Wrong::new(format!("{name} has {} certificates", certificates.len()), format!("it needs 1 to {MAX_ROOTS} CERTIFICATE blocks")));
    }
    let anchor = |certificate: &CertificateDer<'static>| webpki::anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned());
    let anchors: Result<Vec<_>, _> = certificates.iter().map(anchor).collect();
    anchors.map_err(|error| Wrong::new(format!("{name} has a certificate that cannot be a root: {error}"), "name X.509 CA certificates"))
}

/// Whether a folder is there.
pub(super) fn folder(path: &Path) -> Result<(), Wrong> {
    match std::fs::read_dir(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(Wrong::new(format!("{} cannot be read: {error}", path.display()), "name a folder of .der files")),
    }
}
