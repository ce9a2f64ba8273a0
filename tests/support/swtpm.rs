//! A software TPM of this test's own, with what a cloud's vTPM has from its paravisor: an attestation key at a persistent
//! handle and content in its memory.

#[path = "skipped.rs"]
mod skipped;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis::attester::tpm::{Authorised, ENDORSEMENT, OWNER, Tpm};

/// A running `swtpm`; ends with this value.
pub(crate) struct SoftwareTpm {
    child: Child,
    folder: tempfile::TempDir,
}

impl SoftwareTpm {
    /// Starts one; `None`, said aloud, where the program is not installed.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let (state, socket) = (folder.path().join("state"), folder.path().join("tpm"));
        std::fs::create_dir(&state).expect("a folder");
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            skipped::cases(1, "swtpm is not installed (apt-get install swtpm): what is tested against a software TPM");
            return None;
        };
        let tpm = Self { child, folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !tpm.path().exists() {
            assert!(Instant::now() < deadline, "swtpm makes no socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(tpm)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("tpm")
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// TPM_CC_EvictControl, TPM_CC_NV_DefineSpace, TPM_CC_NV_Write, TPM_CC_PCR_Extend.
const EVICT_CONTROL: u32 = 0x0120;
const NV_DEFINE_SPACE: u32 = 0x012a;
const NV_WRITE: u32 = 0x0137;
const PCR_EXTEND: u32 = 0x0182;

/// The template of a restricted signing key: RSA-2048 with RSASSA and SHA-256.
pub(crate) fn rsa_template() -> Vec<u8> {
    let mut template = vec![0, 0x01, 0, 0x0b]; // RSA, named by SHA-256
    template.extend(ATTRIBUTES.to_be_bytes());
    template.extend([0, 0]); // no policy
    template.extend([0, 0x10]); // no symmetric algorithm
    template.extend([0, 0x14, 0, 0x0b]); // RSASSA, SHA-256
    template.extend(2048_u16.to_be_bytes());
    template.extend([0; 4]); // the default exponent
    template.extend([0, 0]); // unique
    template
}

/// The same on P-256 with ECDSA and SHA-256.
pub(crate) fn ecc_template() -> Vec<u8> {
    let mut template = vec![0, 0x23, 0, 0x0b];
    template.extend(ATTRIBUTES.to_be_bytes());
    template.extend([0, 0, 0, 0x10, 0, 0x18, 0, 0x0b]); // no policy, no symmetric algorithm, ECDSA, SHA-256
    template.extend([0, 0x03, 0, 0x10]); // P-256, no key derivation
    template.extend([0; 4]); // unique
    template
}

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
const ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 18;

/// Makes the key of a template and keeps it at a persistent handle. Returns its public area.
pub(crate) fn persistent(tpm: &Tpm, template: &[u8], handle: u32) -> Vec<u8> {
    let made = tpm.create_primary(ENDORSEMENT, template).expect("a key");
    tpm.run_code(EVICT_CONTROL, &[OWNER, made], Authorised::FirstHandle, &handle.to_be_bytes()).expect("a persistent key");
    tpm.flush(made).expect("flushed");
    tpm.public(handle).expect("a public area")
}

/// Defines an NV index that the owner writes and reads, and writes it.
pub(crate) fn remember(tpm: &Tpm, index: u32, content: &[u8]) {
    const OWNER_WRITE_READ_NO_DA: u32 = 1 << 1 | 1 << 17 | 1 << 25;
    let size = u16::try_from(content.len()).expect("a small content");
    let mut public = index.to_be_bytes().to_vec();
    public.extend([0, 0x0b]);
    public.extend(OWNER_WRITE_READ_NO_DA.to_be_bytes());
    public.extend([0, 0]);
    public.extend(size.to_be_bytes());
    let mut parameters = vec![0, 0]; // no password
    parameters.extend(u16::try_from(public.len()).expect("short").to_be_bytes());
    parameters.extend(public);
    tpm.run_code(NV_DEFINE_SPACE, &[OWNER], Authorised::FirstHandle, &parameters).expect("an NV index");
    for (at, chunk) in content.chunks(512).enumerate() {
        let mut parameters = u16::try_from(chunk.len()).expect("short").to_be_bytes().to_vec();
        parameters.extend(chunk);
        parameters.extend(u16::try_from(at * 512).expect("small").to_be_bytes());
        tpm.run_code(NV_WRITE, &[OWNER, index], Authorised::FirstHandle, &parameters).expect("written");
    }
}

/// Extends a register of the SHA-256 bank.
pub(crate) fn extend(tpm: &Tpm, register: u32, digest: &[u8; 32]) {
    let mut parameters = vec![0, 0, 0, 1, 0, 0x0b];
    parameters.extend(digest);
    tpm.run_code(PCR_EXTEND, &[register], Authorised::FirstHandle, &parameters).expect("extended");
}

/// The modulus in the public area of an RSA key.
pub(crate) fn modulus(public: &[u8]) -> Vec<u8> {
    public[public.len() - 256..].to_vec()
}

/// Whether a path is a TPM of this process's making.
pub(crate) fn opened(path: &Path) -> Tpm {
    Tpm::open(path).expect("a TPM")
}
