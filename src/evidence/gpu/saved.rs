//! Devices in files: as NVIDIA's tools leave them, and as this program writes them.

use super::{Gpu, LABELS, MEDIA_TYPE, OCSP, OCSP_TYPE, RIM, RIM_TYPE, of_document};
use crate::evidence::saved::{Beside, SavedFile};
use crate::evidence::{Auxiliary, Endorsement};

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

/// What these files hold of devices; files of a folder `ocsp` are named with it. A report that cannot be read is taken as it
/// is, for the verdict to refuse.
#[must_use]
pub fn assemble(files: &[SavedFile]) -> Beside {
    let mut beside = Beside::default();
    let named = |name: &str| files.iter().find(|file| file.name == name);
    let member = |(gpu, label): (Gpu, &str)| Auxiliary { label: label.to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes: gpu.encode() };
    if let Some(report) = named(REPORT) {
        let chain = named(CHAIN).map(|chain| chain.bytes.as_slice()).unwrap_or_default();
        let gpu = Gpu::of_files(report.bytes.clone(), chain).unwrap_or_else(|_| Gpu { report: report.bytes.clone(), chain: Vec::new() });
        beside.members.extend([gpu].into_iter().zip(LABELS).map(member));
        beside.used.extend([REPORT, CHAIN, DOCUMENT].into_iter().filter(|name| named(name).is_some()).map(str::to_owned));
    } else if let Some(devices) = named(DOCUMENT).and_then(|document| of_document(&document.bytes).ok()) {
        beside.members.extend(devices.into_iter().zip(LABELS).map(member));
        beside.used.push(DOCUMENT.to_owned());
    }
    for label in LABELS {
        let known = beside.members.iter().any(|member| member.label == label);
        if let Some(file) = named(&file_name(label)).filter(|_| !known) {
            beside.members.push(Auxiliary { label: label.to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes: file.bytes.clone() });
            beside.used.push(file.name.clone());
        }
    }
    for file in files {
        let Some(endorsement) = endorsement(file) else { continue };
        beside.endorsements.push(endorsement);
        beside.used.push(file.name.clone());
    }
    beside
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
