//! Evidence into a folder, in the shape that `verify` reads.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::evidence::{Endorsements, Evidence, launch};
use crate::platform::{self, AUXILIARY};
use crate::verify::auxiliary;

/// Writes the evidence and each endorsement under its short name. The folder is made when it is not there; one with
/// files in it is left alone, so that pieces of different evidence never mix. Returns the names written.
///
/// # Errors
/// A folder with files in it, evidence of no known platform, or what the system says.
pub(super) fn save(folder: &Path, evidence: &Evidence, endorsements: &Endorsements) -> anyhow::Result<Vec<String>> {
    fresh(folder)?;
    pieces(folder, evidence, endorsements)
}

/// Writes what a peer presented: its evidence as [`save`] does, into a folder that [`fresh`] made, and beside it the
/// certificate of its connection, which may carry evidence of its own.
///
/// # Errors
/// As [`save`].
pub(super) fn presented(folder: &Path, evidence: Option<(&Evidence, &Endorsements)>, leaf: Option<&[u8]>) -> anyhow::Result<Vec<String>> {
    let mut written = evidence.map_or_else(|| Ok(Vec::new()), |(evidence, endorsements)| pieces(folder, evidence, endorsements))?;
    if let Some(leaf) = leaf {
        write(&folder.join(CERTIFICATE), leaf)?;
        written.push(CERTIFICATE.to_owned());
    }
    Ok(written)
}

/// Makes a folder, or takes an empty one.
///
/// # Errors
/// A folder with files in it, or what the system says.
pub(super) fn fresh(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    fs::create_dir_all(folder).with_context(|| shown.to_string())?;
    if fs::read_dir(folder).with_context(|| shown.to_string())?.next().is_some() {
        bail!("{shown} is not empty: name a new folder, so that pieces of different evidence do not mix");
    }
    Ok(())
}

fn pieces(folder: &Path, evidence: &Evidence, endorsements: &Endorsements) -> anyhow::Result<Vec<String>> {
    let platform = platform::of_evidence(evidence).with_context(|| format!("evidence of an unknown kind, {}", evidence.media_type))?;
    let mut written = vec![platform.saved.evidence.to_owned()];
    write(&folder.join(platform.saved.evidence), &evidence.bytes)?;
    for endorsement in endorsements.iter() {
        // Names come from a peer where evidence is saved from a connection: only known ones become files.
        if !platform.saved.endorsements.contains(&endorsement.name.as_str()) {
            continue;
        }
        let ending = match endorsement.media_type.as_str() {
            launch::MEDIA_TYPE => "binarypb",
            signed if signed.ends_with("+cbor") => "cbor",
            _ => "der",
        };
        let name = format!("{}.{ending}", endorsement.name);
        if !written.contains(&name) {
            write(&folder.join(&name), &endorsement.bytes)?;
            written.push(name);
        }
    }
    for member in platform.verifier.members().iter().filter_map(|known| evidence.member(known.label)) {
        let name = format!("{}.bin", member.label);
        write(&folder.join(&name), &member.bytes)?;
        written.push(name);
    }
    for member in &evidence.auxiliary {
        if let Some((_, label)) = auxiliary::of(member) {
            let name = format!("{}.cbor", label.replace('/', "-"));
            write(&folder.join(&name), &member.bytes)?;
            written.push(name);
        }
    }
    for (prefix, ending) in AUXILIARY.iter().flat_map(|kind| kind.endorsements) {
        // A peer chose the rest of the name.
        for (number, endorsement) in (1_u32..).zip(endorsements.iter().filter(|endorsement| endorsement.name.starts_with(prefix))) {
            let name = format!("{prefix}-{number}.{ending}");
            write(&folder.join(&name), &endorsement.bytes)?;
            written.push(name);
        }
    }
    Ok(written)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(bytes)).with_context(|| path.display().to_string())
}

/// The file of the certificate that a peer's connection showed.
const CERTIFICATE: &str = "certificate.der";
