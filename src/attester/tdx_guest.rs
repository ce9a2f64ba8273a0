//! The tdx_guest device: a trust domain's report for its own machine (Linux, include/uapi/linux/tdx-guest.h). Somebody on
//! the machine has to make a quote of it.
//!
//! A file with `unsafe` in it: an ioctl takes an address. The structure handed over lives, unmoved, until the call is over,
//! and has the size that the kernel copies.
#![allow(unsafe_code, reason = "an ioctl hands an address to the kernel")]

use std::path::Path;

use rustix::ioctl::{Updater, ioctl, opcode};

use super::Unavailable;
use super::device::{Device, Kind};

/// The name under which configuration knows this way.
pub(super) const PROVIDER: &str = "tdx-guest";

/// TDX_REPORT_LEN.
pub(super) const TDREPORT_SIZE: usize = 1024;
/// REPORTDATA in the REPORTMACSTRUCT in front of a TDREPORT.
const REPORT_DATA: std::ops::Range<usize> = 128..192;

const KIND: Kind = Kind {
    provider: PROVIDER,
    absent: "load the driver (modprobe tdx-guest); it works only inside a trust domain",
    other: "this is not the tdx_guest device: check its path",
};

/// The device, open.
#[derive(Debug)]
pub(super) struct TdxGuest(Device);

impl TdxGuest {
    /// Opens the device and asks it for a report, which takes no host.
    pub(super) fn open(path: &Path) -> Result<Self, Unavailable> {
        let guest = Self(Device::open(path, &KIND)?);
        guest.report(&[0; 64]).map(|_| guest)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A report over `report_data`.
    pub(super) fn report(&self, report_data: &[u8; 64]) -> Result<[u8; TDREPORT_SIZE], Unavailable> {
        let mut request = Request { report_data: *report_data, report: [0; TDREPORT_SIZE] };
        // SAFETY: the opcode is TDX_CMD_GET_REPORT0 with its own structure, which outlives the call; the kernel reads and
        // writes as many octets as it has.
        let done = unsafe { ioctl(&self.0, Updater::<TDX_CMD_GET_REPORT0, _>::new(&mut request)) };
        done.map_err(|errno| self.0.refused(errno))?;
        if request.report.get(REPORT_DATA) == Some(report_data.as_slice()) {
            return Ok(request.report);
        }
        Err(self.0.unfit("its report is not over what was asked for".to_owned()))
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
