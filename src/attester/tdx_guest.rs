//! The tdx_guest device: a trust domain's report for its own machine (Linux, include/uapi/linux/tdx-guest.h). Somebody on
//! the machine has to make a quote of it.
//!
//! A file with `unsafe` in it: an ioctl takes an address. The structure handed over lives, unmoved, until the call is over,
//! and has the size that the kernel copies.
#![allow(unsafe_code, reason = "an ioctl hands an address to the kernel")]

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};

use super::Unavailable;

/// The name under which configuration knows this way.
pub(super) const PROVIDER: &str = "tdx-guest";

/// TDX_REPORT_LEN.
pub(super) const TDREPORT_SIZE: usize = 1024;
/// REPORTDATA in the REPORTMACSTRUCT in front of a TDREPORT.
const REPORT_DATA: std::ops::Range<usize> = 128..192;

/// The device, open.
#[derive(Debug)]
pub(super) struct TdxGuest {
    file: File,
    path: PathBuf,
}

impl TdxGuest {
    /// Opens the device and asks it for a report, which takes no host.
    pub(super) fn open(path: &Path) -> Result<Self, Unavailable> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| explain(path, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        let device = Self { file, path: path.to_owned() };
        device.report(&[0; 64]).map(|_| device)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A report over `report_data`.
    pub(super) fn report(&self, report_data: &[u8; 64]) -> Result<[u8; TDREPORT_SIZE], Unavailable> {
        let mut request = Request { report_data: *report_data, report: [0; TDREPORT_SIZE] };
        // SAFETY: the opcode is TDX_CMD_GET_REPORT0 with its own structure, which outlives the call; the kernel reads and
        // writes as many octets as it has.
        let done = unsafe { ioctl(&self.file, Updater::<TDX_CMD_GET_REPORT0, _>::new(&mut request)) };
        done.map_err(|errno| explain(&self.path, errno))?;
        if request.report.get(REPORT_DATA) == Some(report_data.as_slice()) {
            return Ok(request.report);
        }
        let what = format!("{PROVIDER} at {}", self.path.display());
        let (why, fix) = ("its report is not over what was asked for".to_owned(), "this is not the kernel's device: check its path".to_owned());
        Err(Unavailable { what, why, fix, transient: false })
    }
}

/// `struct tdx_report_req`.
#[repr(C)]
struct Request {
    report_data: [u8; 64],
    report: [u8; TDREPORT_SIZE],
}

const _: () = assert!(size_of::<Request>() == 1088);

const TDX_CMD_GET_REPORT0: rustix::ioctl::Opcode = opcode::read_write::<Request>(b'T', 1);

fn explain(path: &Path, errno: Errno) -> Unavailable {
    let fix = match errno {
        Errno::NOTTY | Errno::NOSYS => "this is not the tdx_guest device: check its path",
        Errno::NOENT | Errno::NXIO | Errno::NODEV => "load the driver (modprobe tdx-guest); it works only inside a trust domain",
        Errno::ACCESS | Errno::PERM => "run as root, or give this process the device (a group, or the device rule of its container)",
        _ => "look at the kernel's log (dmesg)",
    };
    let transient = matches!(errno, Errno::AGAIN | Errno::BUSY | Errno::INTR | Errno::TIMEDOUT);
    Unavailable { what: format!("{PROVIDER} at {}", path.display()), why: io::Error::from(errno).to_string(), fix: fix.to_owned(), transient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opcode_is_the_kernels() {
        // _IOWR('T', 1, 1088 octets): direction 3 << 30, size << 16, type << 8, number.
        assert_eq!(TDX_CMD_GET_REPORT0, 0xc440_5401);
    }

    #[test]
    fn a_plain_file_and_another_device_are_clean_errors() {
        let plain = tempfile::NamedTempFile::new().unwrap();
        for path in [plain.path(), Path::new("/dev/null")] {
            assert!(TdxGuest::open(path).unwrap_err().fix.contains("not the tdx_guest device"));
        }
        assert!(TdxGuest::open(&plain.path().with_extension("missing")).unwrap_err().fix.contains("modprobe tdx-guest"));
    }
}
