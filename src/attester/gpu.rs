//! NVIDIA GPUs through a local service that the operator names, since their reports are had from NVIDIA's library alone.
//!
//! The service listens on a Unix socket, one connection for each question. We write the nonce, 64 hexadecimal digits and a
//! line feed, and close our direction; it writes the document of NVIDIA's `nvattest collect-evidence` (JSON, at most 512 KiB)
//! and closes. See docs/platforms/nvidia-gpu.md for a unit that does so.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::Unavailable;
use super::devices::{Attested, Attesting, DeviceAttester};
use crate::evidence::gpu::saved::endorsement;
use crate::evidence::gpu::{Gpu, LABELS, MAX_DOCUMENT, MEDIA_TYPE, RIM, Report, of_document};
use crate::evidence::ocsp::Response;
use crate::evidence::rim::{MAX_RIM, Rim};
use crate::evidence::saved::SavedFile;
use crate::evidence::{Auxiliary, Endorsement};
use crate::refusal::Denied;

const PROVIDER: &str = "gpu service";

/// The service, and the folder of what a verifier needs beside its answers.
#[derive(Debug)]
pub struct Service {
    socket: PathBuf,
    endorsements: Option<PathBuf>,
}

impl Service {
    /// Looks at the folder; the service is not asked.
    ///
    /// # Errors
    /// [`Unavailable`] for a folder without any reference measurements or OCSP response, or with a file that is neither: one
    /// that does nothing is a mistake.
    pub fn new(socket: PathBuf, endorsements: Option<PathBuf>) -> Result<Self, Unavailable> {
        if let Some(folder) = &endorsements {
            let found = folder_of(folder).map_err(|error| unusable(folder, &error.to_string()))?;
            if found.is_empty() {
                return Err(unusable(folder, "no file is called *.xml or gpu-ocsp*.der"));
            }
            for endorsement in found {
                readable(&endorsement).map_err(|denied| unusable(folder, &format!("{}: {denied}", endorsement.name)))?;
            }
        }
        Ok(Self { socket, endorsements })
    }

    async fn asked(&self, nonce: [u8; 32]) -> Result<Attested, Unavailable> {
        let answer = self.ask(nonce).await.map_err(|error| self.silent(&error))?;
        let devices = of_document(&answer).map_err(|denied| self.wrong(denied.to_string()))?;
        let members: Result<Vec<_>, _> = devices.iter().zip(LABELS).map(|(gpu, label)| self.member(gpu, label, &nonce)).collect();
        let (members, folder) = (members?, self.endorsements.clone());
        let endorsements = match folder {
            Some(folder) => tokio::task::spawn_blocking(move || folder_of(&folder)).await.unwrap_or_else(|_| Err(io::Error::other("a panic"))),
            None => Ok(Vec::new()),
        };
        let endorsements = endorsements.unwrap_or_else(|error| {
            tracing::warn!(target: "devices", %error, "endorsements of devices cannot be read: peers need their own");
            Vec::new()
        });
        Ok(Attested { members, endorsements: endorsements.into_iter().collect() })
    }

    async fn ask(&self, nonce: [u8; 32]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(format!("{}\n", data_encoding::HEXLOWER.encode(&nonce)).as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut answer).await?;
        Ok(answer)
    }

    /// A device's member, looked at as a peer will: what answers another nonce is told here and not by every peer.
    fn member(&self, gpu: &Gpu, label: &str, nonce: &[u8; 32]) -> Result<Auxiliary, Unavailable> {
        let (report, _) = Report::parse(&gpu.report).map_err(|denied| self.wrong(denied.to_string()))?;
        if report.nonce != *nonce {
            return Err(self.wrong(format!("{label} answers another nonce than was asked")));
        }
        Ok(Auxiliary { label: label.to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes: gpu.encode() })
    }

    fn wrong(&self, why: String) -> Unavailable {
        let fix = "the service must answer as docs/platforms/nvidia-gpu.md says, for this nonce".to_owned();
        Unavailable { what: format!("{PROVIDER} at {}", self.socket.display()), why, fix, transient: false }
    }

    fn silent(&self, error: &io::Error) -> Unavailable {
        let fix = "start the service that identity.gpus.socket names, and let this user reach it: see docs/platforms/nvidia-gpu.md".to_owned();
        Unavailable { what: format!("{PROVIDER} at {}", self.socket.display()), why: error.to_string(), fix, transient: true }
    }
}

impl DeviceAttester for Service {
    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn media_type(&self) -> &'static str {
        MEDIA_TYPE
    }

    fn attest(&self, nonce: [u8; 32]) -> Attesting<'_> {
        Box::pin(self.asked(nonce))
    }
}

/// Driver and firmware of a few products, and an OCSP response for each certificate.
const MAX_FILES: usize = 48;

fn folder_of(folder: &Path) -> io::Result<Vec<Endorsement>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else { continue };
        if endorsement(&SavedFile { name: name.to_owned(), bytes: Vec::new() }).is_none() {
            continue;
        }
        let mut bytes = Vec::new();
        crate::file::open(&path)?.take(MAX_RIM as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_RIM || found.len() >= MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files, or one of more than {MAX_RIM} octets")));
        }
        found.extend(endorsement(&SavedFile { name: name.to_owned(), bytes }));
    }
    found.sort_unstable_by(|a: &Endorsement, b| a.name.cmp(&b.name));
    Ok(found)
}

fn readable(endorsement: &Endorsement) -> Result<(), Denied> {
    if endorsement.name.starts_with(RIM) { Rim::parse(&endorsement.bytes).map(drop) } else { Response::parse(&endorsement.bytes).map(drop) }
}

fn unusable(folder: &Path, why: &str) -> Unavailable {
    Unavailable {
        what: format!("endorsements of GPUs in {}", folder.display()),
        why: why.to_owned(),
        fix: "put NVIDIA's reference measurements (*.xml) and OCSP responses (gpu-ocsp*.der) there, or leave identity.gpus.endorsements out".to_owned(),
        transient: false,
    }
}
