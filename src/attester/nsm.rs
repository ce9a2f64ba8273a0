//! The Nitro Secure Module's device (Linux, include/uapi/linux/nsm.h): one ioctl that carries a request and its answer.
//!
//! A file with `unsafe` in it: an ioctl takes addresses. Both buffers live, unmoved, until the call is over; what the
//! kernel wrote is read elsewhere.
#![allow(unsafe_code, reason = "an ioctl hands addresses to the kernel")]

use std::path::Path;

use rustix::ioctl::{Updater, ioctl, opcode};

use super::Unavailable;
use super::device::{Device, Kind};
use crate::evidence::nitro::MAX_DOCUMENT;

/// The name under which configuration knows this way.
pub(super) const PROVIDER: &str = "nsm";

const KIND: Kind = Kind {
    provider: PROVIDER,
    absent: "load the driver (modprobe nsm, Linux 6.8 or later); it works only inside a Nitro enclave",
    other: "this is not the security module's device: check its path",
};

/// The device, open.
#[derive(Debug)]
pub(super) struct Nsm(Device);

impl Nsm {
    /// Opens the device. Asks the module nothing.
    pub(super) fn open(path: &Path) -> Result<Self, Unavailable> {
        Device::open(path, &KIND)?.of_characters().map(Self)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The module's answer to `request`.
    pub(super) fn ask(&self, request: &[u8]) -> Result<Vec<u8>, Unavailable> {
        let mut answer = vec![0_u8; MAX_DOCUMENT];
        let mut message = Message {
            request: Buffer { address: request.as_ptr() as u64, length: request.len() as u64 },
            response: Buffer { address: answer.as_mut_ptr() as u64, length: answer.len() as u64 },
        };
        // SAFETY: the opcode is NSM_IOCTL_RAW with its own structure; the addresses in it are of buffers of the lengths
        // beside them, which outlive the call. The kernel reads the first and writes the second.
        let done = unsafe { ioctl(&self.0, Updater::<NSM_IOCTL_RAW, _>::new(&mut message)) };
        done.map_err(|errno| self.0.refused(errno))?;
        // The kernel says how much it wrote.
        answer.truncate(usize::try_from(message.response.length).unwrap_or(0));
        Ok(answer)
    }
}

/// `struct nsm_iovec`.
#[repr(C)]
struct Buffer {
    address: u64,
    length: u64,
}

/// `struct nsm_raw`.
#[repr(C)]
struct Message {
    request: Buffer,
    response: Buffer,
}

const _: () = assert!(size_of::<Message>() == 32);

const NSM_IOCTL_RAW: rustix::ioctl::Opcode = opcode::read_write::<Message>(0x0a, 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opcode_is_the_kernels() {
        // _IOWR(0x0A, 0, 32 octets): direction 3 << 30, size << 16, type << 8, number.
        assert_eq!(NSM_IOCTL_RAW, 0xc020_0a00);
    }

    #[test]
    fn a_plain_file_and_another_device_are_clean_errors() {
        let plain = tempfile::NamedTempFile::new().unwrap();
        assert!(Nsm::open(plain.path()).unwrap_err().fix.contains("not the security module"));
        let null = Nsm::open(Path::new("/dev/null")).unwrap();
        assert!(null.ask(b"request").unwrap_err().fix.contains("not the security module"));
        assert!(Nsm::open(&plain.path().with_extension("missing")).unwrap_err().fix.contains("modprobe nsm"));
    }
}
