//! Devices in files: as NVIDIA's tools leave them, and as this program writes them.

use super::{Gpu, LABELS, MEDIA_TYPE, OCSP, OCSP_TYPE, RIM, RIM_TYPE, of_document};
use crate::evidence::saved::SavedFile;
use crate::evidence::{Auxiliary, Endorsement};
use crate::refusal::Denied;

/// What a folder has of devices.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// Each device, or why it cannot be read.
    pub members: Vec<Result<Auxiliary, Denied>>,
    /// Reference measurements and OCSP responses.
    pub endorsements: Vec<Endorsement>,
    /// The names of the files that were used.
    pub used: Vec<String>,
}

/// A report as the driver gives it, beside [`CHAIN`].
const REPORT: &str = "attestation_report.bin";
const CHAIN: &str = "cert_chain.pem";
/// The document of NVIDIA's tools; beside [`REPORT`] it repeats it.
const DOCUMENT: &str = "evidence.json";

/// The name of the file of a member, `gpu-0.cbor`.
#[must_use]
pub fn file_name(label: &str) -> String {
    format!("{}.cbor", label.replace('/', "-"))
}

/// What these files hold of devices; files of a folder `ocsp` are named with it.
#[must_use]
pub fn assemble(files: &[SavedFile]) -> Devices {
    let mut devices = Devices::default();
    let named = |name: &str| files.iter().find(|file| file.name == name);
    let member = |gpu: Gpu, label: &str| Auxiliary { label: label.to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes: gpu.encode() };
    if let (Some(report), Some(chain)) = (named(REPORT), named(CHAIN)) {
        devices.members.push(Gpu::of_files(report.bytes.clone(), &chain.bytes).map(|gpu| member(gpu, LABELS[0])));
        devices.used.extend([REPORT, CHAIN].map(str::to_owned));
        devices.used.extend(named(DOCUMENT).map(|file| file.name.clone()));
    } else if let Some(document) = named(DOCUMENT) {
        match of_document(&document.bytes) {
            Ok(all) => devices.members.extend(all.into_iter().zip(LABELS).map(|(gpu, label)| Ok(member(gpu, label)))),
            Err(denied) => devices.members.push(Err(denied)),
        }
        devices.used.push(DOCUMENT.to_owned());
    }
    for label in LABELS {
        if let Some(file) = named(&file_name(label)).filter(|_| !devices.has(label)) {
            devices.members.push(Ok(Auxiliary { label: label.to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes: file.bytes.clone() }));
            devices.used.push(file.name.clone());
        }
    }
    for file in files {
        let Some(endorsement) = endorsement(file) else { continue };
        devices.endorsements.push(endorsement);
        devices.used.push(file.name.clone());
    }
    devices
}

/// The endorsement of a device that this file is by its name: XML of reference measurements, or an OCSP response that is
/// called so or lies in a folder `ocsp`.
#[must_use]
pub fn endorsement(file: &SavedFile) -> Option<Endorsement> {
    let of = |stem: &str, prefix: &str, media_type: &str| {
        let name = if stem.starts_with(prefix) { stem.to_owned() } else { format!("{prefix}-{stem}") };
        Some(Endorsement { name, media_type: media_type.to_owned(), bytes: file.bytes.clone() })
    };
    let called_ocsp = |stem: &&str| stem.starts_with(OCSP);
    match (file.name.strip_suffix(".xml"), file.name.strip_suffix(".der")) {
        (Some(stem), _) => of(stem, RIM, RIM_TYPE),
        (_, Some(stem)) => of(stem.strip_prefix("ocsp/").or_else(|| Some(stem).filter(called_ocsp))?, OCSP, OCSP_TYPE),
        _ => None,
    }
}

impl Devices {
    fn has(&self, label: &str) -> bool {
        self.members.iter().flatten().any(|member| member.label == label)
    }
}
