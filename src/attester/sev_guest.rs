//! The sev-guest device: the kernel's older way to SEV-SNP reports (Linux, include/uapi/linux/sev-guest.h).
//!
//! A file with `unsafe` in it: an ioctl takes addresses. Each structure handed over lives, unmoved, until the call
//! is over, and has the size that the kernel copies; the host's table lands in a buffer of ours and is read elsewhere.
#![allow(unsafe_code, reason = "an ioctl hands addresses to the kernel")]

use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};

use super::Unavailable;
use super::device::{self, Device, Kind};
use super::patience::patiently;
use crate::evidence::snp::REPORT_SIZE;

/// The name under which configuration knows this way.
pub(super) const PROVIDER: &str = "sev-guest";

const KIND: Kind = Kind {
    provider: PROVIDER,
    absent: "load the driver (modprobe sev-guest); it works only inside an SEV-SNP guest",
    other: "this is not the sev-guest device, or its driver has given up its key after a failed exchange: check its path, then restart the guest",
};

/// The device, open.
#[derive(Debug)]
pub(super) struct SevGuest {
    device: Device,
    vmpl: u32,
    patience: Duration,
}

/// A report with the host's certificate table, empty when it gave none.
pub(super) struct Extended {
    pub(super) report: Vec<u8>,
    pub(super) table: Vec<u8>,
}

impl SevGuest {
    /// Opens the device. Asks the hardware nothing. Requests are made for VMPL 0 unless another is named.
    pub(super) fn open(path: &Path, vmpl: Option<u8>) -> Result<Self, Unavailable> {
        let device = Device::open(path, &KIND)?.of_characters()?;
        Ok(Self { device, vmpl: vmpl.unwrap_or(0).into(), patience: Duration::from_secs(10) })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.device.path()
    }

    /// A report over `user_data`. Retries while the host is busy and ten seconds last.
    pub(super) fn report(&self, user_data: &[u8; 64]) -> Result<Extended, Unavailable> {
        patiently(self.patience, || self.attempt(user_data), Failure::is_transient).map_err(|failure| self.explained(&failure))
    }

    fn attempt(&self, user_data: &[u8; 64]) -> Result<Extended, Failure> {
        match self.extended(user_data) {
            // The host's certificates are more than the kernel takes: do without them.
            Err(Failure::Request { vmm: VMM_INVALID_LEN, .. }) => Ok(Extended { report: self.plain(user_data)?, table: Vec::new() }),
            other => other,
        }
    }

    fn plain(&self, user_data: &[u8; 64]) -> Result<Vec<u8>, Failure> {
        let request = ReportRequest { user_data: *user_data, vmpl: self.vmpl, reserved: [0; 28] };
        let mut response = Response([0; 4000]);
        let mut message = Message::new(&raw const request as u64, &raw mut response as u64);
        // SAFETY: the opcode is SNP_GET_REPORT with its own structure; both addresses in it are of locals that outlive
        // the call and have the sizes that the kernel reads and writes.
        let done = unsafe { ioctl(&self.device, Updater::<SNP_GET_REPORT, _>::new(&mut message)) };
        finish(done, &message, &response)
    }

    fn extended(&self, user_data: &[u8; 64]) -> Result<Extended, Failure> {
        let mut table = vec![0_u8; MAX_CERTIFICATES];
        let report = ReportRequest { user_data: *user_data, vmpl: self.vmpl, reserved: [0; 28] };
        let length = u32::try_from(table.len()).unwrap_or(0);
        let request = ExtendedRequest { report, certs_address: table.as_mut_ptr() as u64, certs_len: length };
        let mut response = Response([0; 4000]);
        let mut message = Message::new(&raw const request as u64, &raw mut response as u64);
        // SAFETY: as above, with SNP_GET_EXT_REPORT; `certs_address` is of a buffer of `certs_len` octets that outlives the call.
        let done = unsafe { ioctl(&self.device, Updater::<SNP_GET_EXT_REPORT, _>::new(&mut message)) };
        let report = finish(done, &message, &response)?;
        Ok(Extended { report, table })
    }

    fn explained(&self, failure: &Failure) -> Unavailable {
        let refused = match failure {
            Failure::Errno(errno) | Failure::Request { errno, .. } => self.device.refused(*errno),
            Failure::Response { status, size } => {
                self.device.unfit(format!("report: expected status 0 and {REPORT_SIZE} octets, found status {status:#x} and {size}"))
            }
        };
        let why = match failure {
            Failure::Request { firmware, vmm, .. } => format!("{}: firmware error {firmware:#x}, hypervisor error {vmm:#x}", refused.why),
            _ => refused.why,
        };
        Unavailable { what: refused.what, why, fix: failure.fix().map_or(refused.fix, str::to_owned), transient: failure.is_transient() }
    }
}

/// The report out of a response: status u32, size u32, 24 reserved octets, the report (SEV-SNP ABI, MSG_REPORT_RSP).
fn finish(done: Result<(), Errno>, message: &Message, Response(response): &Response) -> Result<Vec<u8>, Failure> {
    let (firmware, vmm) = (message.exitinfo2 & 0xffff_ffff, message.exitinfo2 >> 32);
    done.map_err(|errno| if message.exitinfo2 == 0 { Failure::Errno(errno) } else { Failure::Request { errno, firmware, vmm } })?;
    let number = |at: usize| response.get(at..).and_then(<[u8]>::first_chunk).map_or(u32::MAX, |octets| u32::from_le_bytes(*octets));
    let size = usize::try_from(number(4)).unwrap_or(usize::MAX);
    if number(0) != 0 || size != REPORT_SIZE {
        return Err(Failure::Response { status: number(0), size });
    }
    response.get(32..32 + REPORT_SIZE).map(<[u8]>::to_vec).ok_or(Failure::Response { status: 0, size })
}

/// `struct snp_report_req`.
#[repr(C)]
struct ReportRequest {
    user_data: [u8; 64],
    vmpl: u32,
    reserved: [u8; 28],
}

/// `struct snp_ext_report_req`.
#[repr(C)]
struct ExtendedRequest {
    report: ReportRequest,
    certs_address: u64,
    certs_len: u32,
}

/// `struct snp_report_resp`.
#[repr(C)]
struct Response([u8; 4000]);

/// `struct snp_guest_request_ioctl`.
#[repr(C)]
struct Message {
    msg_version: u8,
    req_data: u64,
    resp_data: u64,
    exitinfo2: u64,
}

impl Message {
    const fn new(req_data: u64, resp_data: u64) -> Self {
        Self { msg_version: 1, req_data, resp_data, exitinfo2: 0 }
    }
}

const _: () = {
    assert!(size_of::<ReportRequest>() == 96);
    assert!(size_of::<ExtendedRequest>() == 112);
    assert!(size_of::<Response>() == 4000);
    assert!(size_of::<Message>() == 32);
};

const SNP_GET_REPORT: rustix::ioctl::Opcode = opcode::read_write::<Message>(b'S', 0);
const SNP_GET_EXT_REPORT: rustix::ioctl::Opcode = opcode::read_write::<Message>(b'S', 2);

/// SEV_FW_BLOB_MAX_SIZE: what the kernel takes of the host at most.
const MAX_CERTIFICATES: usize = 0x4000;

/// SNP_GUEST_VMM_ERR_INVALID_LEN.
const VMM_INVALID_LEN: u64 = 1;

/// SNP_GUEST_VMM_ERR_BUSY.
const VMM_BUSY: u64 = 2;

#[derive(Debug)]
enum Failure {
    Errno(Errno),
    /// The firmware or the hypervisor refused, with their numbers.
    Request {
        errno: Errno,
        firmware: u64,
        vmm: u64,
    },
    Response {
        status: u32,
        size: usize,
    },
}

impl Failure {
    const fn is_transient(&self) -> bool {
        match self {
            Self::Errno(errno) => device::is_transient(*errno),
            Self::Request { vmm, .. } => *vmm == VMM_BUSY,
            Self::Response { .. } => false,
        }
    }

    /// What a person can do, where that is not the same for every device.
    const fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Errno(Errno::INVAL) => Some("the kernel does not take the request: the privilege level may be below this guest's own"),
            Self::Request { vmm: VMM_BUSY, .. } | Self::Errno(Errno::AGAIN | Errno::BUSY | Errno::INTR | Errno::TIMEDOUT) => {
                Some("the host throttles requests; try again, and find out what else on this machine asks for reports")
            }
            Self::Request { .. } | Self::Response { .. } => {
                Some("the firmware or the host refused; look at the kernel's log (dmesg), and ask the host's operator if it lasts")
            }
            Self::Errno(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_those_of_the_kernel() {
        // _IOWR('S', n, 32 octets): direction 3 << 30, size << 16, type << 8, number.
        assert_eq!(SNP_GET_REPORT, 0xc020_5300);
        assert_eq!(SNP_GET_EXT_REPORT, 0xc020_5302);
    }

    #[test]
    fn a_plain_file_and_another_device_are_clean_errors() {
        let plain = tempfile::NamedTempFile::new().unwrap();
        assert!(SevGuest::open(plain.path(), None).unwrap_err().why.contains("not a character device"));
        let null = SevGuest::open(Path::new("/dev/null"), None).unwrap();
        let refused = null.report(&[0; 64]).err().unwrap();
        assert!(refused.fix.contains("not the sev-guest device") && !refused.transient, "{refused}");
        let missing = SevGuest::open(&plain.path().with_extension("missing"), None).unwrap_err();
        assert!(missing.fix.contains("modprobe sev-guest"), "{missing}");
    }

    fn response(status: u32, size: u32) -> Response {
        let mut response = Response([0; 4000]);
        response.0[..4].copy_from_slice(&status.to_le_bytes());
        response.0[4..8].copy_from_slice(&size.to_le_bytes());
        response.0[32] = 5;
        response
    }

    #[test]
    fn responses_are_read_and_numbers_told_apart() {
        let answered = |exitinfo2, done, response: &Response| finish(done, &Message { exitinfo2, ..Message::new(0, 0) }, response);
        let report = answered(0, Ok(()), &response(0, 1184)).unwrap();
        assert_eq!((report.len(), report[0]), (1184, 5));
        for (status, size) in [(0x16, 1184), (0, 1183), (0, u32::MAX)] {
            assert!(matches!(answered(0, Ok(()), &response(status, size)), Err(Failure::Response { .. })));
        }
        let busy = answered(VMM_BUSY << 32, Err(Errno::IO), &response(0, 0)).unwrap_err();
        assert!(busy.is_transient() && busy.fix().is_some_and(|fix| fix.contains("throttles")));
        let long = answered(VMM_INVALID_LEN << 32, Err(Errno::IO), &response(0, 0)).unwrap_err();
        assert!(matches!(long, Failure::Request { vmm: VMM_INVALID_LEN, .. }) && !long.is_transient());
        let firmware = answered(0x16, Err(Errno::IO), &response(0, 0)).unwrap_err();
        assert!(matches!(firmware, Failure::Request { firmware: 0x16, vmm: 0, .. }) && !firmware.is_transient());
    }
}
