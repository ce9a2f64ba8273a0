//! A TEE's device, open, and what to make of the numbers with which the kernel refuses. What is asked of it is the
//! platforms' own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Unavailable;

/// Which device.
#[derive(Debug)]
pub(super) struct Kind {
    /// The way's name in configuration.
    pub(super) provider: &'static str,
    /// What a person can do where there is none.
    pub(super) absent: &'static str,
    /// What a person can do where it is another one.
    pub(super) other: &'static str,
}

/// A device, open.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    path: PathBuf,
    kind: &'static Kind,
}

impl Device {
    /// Opens it for reading and writing. Asks it nothing.
    pub(super) fn open(path: &Path, kind: &'static Kind) -> Result<Self, Unavailable> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| kind.refused(path, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        Ok(Self { file, path: path.to_owned(), kind })
    }

    /// Refuses a plain file, which opens as well.
    pub(super) fn of_characters(self) -> Result<Self, Unavailable> {
        if self.file.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device()) {
            return Ok(self);
        }
        Err(self.unfit("not a character device".to_owned()))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it means that the kernel refused a request with this number.
    pub(super) fn refused(&self, errno: Errno) -> Unavailable {
        self.kind.refused(&self.path, errno)
    }

    /// It is not the device that it should be.
    pub(super) fn unfit(&self, why: String) -> Unavailable {
        Unavailable { what: self.kind.what(&self.path), why, fix: self.kind.other.to_owned(), transient: false }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Kind {
    fn what(&self, path: &Path) -> String {
        format!("{} at {}", self.provider, path.display())
    }

    fn refused(&self, path: &Path, errno: Errno) -> Unavailable {
        let fix = match errno {
            Errno::NOTTY | Errno::NOSYS => self.other,
            Errno::NOENT | Errno::NXIO | Errno::NODEV => self.absent,
            Errno::ACCESS | Errno::PERM => "run as root, or give this process the device (a group, or the device rule of its container)",
            _ => "look at the kernel's log (dmesg)",
        };
        Unavailable { what: self.what(path), why: io::Error::from(errno).to_string(), fix: fix.to_owned(), transient: is_transient(errno) }
    }
}

/// Whether the same request may succeed soon.
pub(super) const fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::BUSY | Errno::INTR | Errno::NOMEM | Errno::TIMEDOUT)
}
