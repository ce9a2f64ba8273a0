//! Intel SGX on this machine: inside an enclave of Gramine, through its attestation files
//! (`/dev/attestation/{attestation_type,user_report_data,quote}`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::intel::ours;
use super::{Attester, Detected, Place, Places, Provider, Quote, Sign, Unavailable, Weight};
use crate::evidence::intel::{Body, MAX_QUOTE, MEDIA_TYPE};
use crate::evidence::{Challenge, Endorsements, Evidence};

/// The name under which configuration knows this way.
const PROVIDER: &str = "gramine";

/// The folder of Gramine's attestation files.
pub const GRAMINE: Place = Place("dev/attestation");

/// The kind of attestation that the enclave's manifest must name (`sgx.remote_attestation`).
const DCAP: &str = "dcap";

/// The platform's provider.
#[derive(Debug)]
pub struct Sgx;

impl Provider for Sgx {
    fn names(&self) -> &'static [&'static str] {
        &[PROVIDER]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        let gramine = Gramine { folder: places.of(GRAMINE), turn: Mutex::new(()) };
        let outcome = gramine.probe().map(|()| Box::new(gramine) as Box<dyn Attester>);
        vec![Detected { provider: PROVIDER, outcome }]
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        let inside = Sign::at(&places.of(GRAMINE), "Gramine offers its attestation files", Weight::Proof);
        let outside = places.kernel().shows("class/misc/sgx_enclave", "the processor has SGX, and this process is not in an enclave", Weight::Hint);
        inside.map_or_else(|| outside.into_iter().collect(), |inside| vec![inside])
    }
}

struct Gramine {
    folder: PathBuf,
    /// The report data and the quote are two files of one enclave: whoever writes the one must read the other.
    turn: Mutex<()>,
}

impl Attester for Gramine {
    fn platform(&self) -> &'static str {
        "intel-sgx"
    }

    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.write("user_report_data", &challenge.long.0)?;
        let quote = self.read("quote", MAX_QUOTE)?;
        ours(&quote, &challenge.long, |body| matches!(body, Body::Enclave(_)), PROVIDER, &self.folder)?;
        Ok(Quote { evidence: Evidence::new(MEDIA_TYPE, quote), endorsements: Endorsements::default() })
    }
}

impl Gramine {
    /// Whether a quote could be had: the files are there, and of the kind whose quotes others can verify.
    fn probe(&self) -> Result<(), Unavailable> {
        let kind = self.read("attestation_type", 64)?;
        let kind = String::from_utf8_lossy(kind.trim_ascii()).into_owned();
        if kind == DCAP {
            return Ok(());
        }
        Err(Unavailable {
            what: self.what("attestation_type"),
            why: format!("expected {DCAP}, found {kind}"),
            fix: "write sgx.remote_attestation = \"dcap\" in the enclave's manifest, and sign it again".to_owned(),
            transient: false,
        })
    }

    fn read(&self, name: &str, most: usize) -> Result<Vec<u8>, Unavailable> {
        let read = || {
            let mut bytes = Vec::new();
            File::open(self.folder.join(name))?.take(most as u64 + 1).read_to_end(&mut bytes)?;
            if bytes.len() > most { Err(io::Error::other(format!("longer than {most} octets"))) } else { Ok(bytes) }
        };
        read().map_err(|error| self.failed(name, &error))
    }

    fn write(&self, name: &str, value: &[u8]) -> Result<(), Unavailable> {
        let write = || match OpenOptions::new().write(true).open(self.folder.join(name))?.write(value)? {
            written if written == value.len() => Ok(()),
            written => Err(io::Error::other(format!("took {written} of {} octets", value.len()))),
        };
        write().map_err(|error| self.failed(name, &error))
    }

    fn what(&self, name: &str) -> String {
        format!("{PROVIDER} at {}", Path::join(&self.folder, name).display())
    }

    fn failed(&self, name: &str, error: &io::Error) -> Unavailable {
        let (fix, transient) = match error.kind() {
            io::ErrorKind::NotFound => ("run inside an enclave of Gramine whose manifest has sgx.remote_attestation = \"dcap\"", false),
            io::ErrorKind::PermissionDenied => ("the enclave's manifest does not let this process use the attestation files", false),
            _ => ("look at the AESM service and the quote provider of the host", true),
        };
        Unavailable { what: self.what(name), why: error.to_string(), fix: fix.to_owned(), transient }
    }
}
