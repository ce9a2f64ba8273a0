//! Opening files that people name. A leaf, free for every impure room.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Opens a regular file to read. A pipe, a device or a socket is refused, and never waited for; the caller bounds what
/// it reads.
///
/// # Errors
/// The system's; `InvalidInput` for what is no regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let kind = file.metadata()?.file_type();
    match (kind.is_file(), kind.is_dir()) {
        (true, _) => Ok(file),
        (_, true) => Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder")),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file")),
    }
}

/// Changes when a file does: inode, length, and when it was modified, in seconds and nanoseconds. None for no file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Version(Option<(u64, u64, i64, i64)>);

impl Version {
    /// The version of the file at `path`.
    pub(crate) fn of(path: &Path) -> Self {
        let version = |metadata: std::fs::Metadata| (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        Self(std::fs::metadata(path).ok().map(version))
    }
}
