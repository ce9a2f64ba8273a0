//! Opening files that people name. A leaf, free for every impure room.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// To whom a secret's file is open who need not be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Exposure {
    /// They may read it; how, for people.
    Read(String),
    /// They may write it, and so choose the secret.
    Written(String),
}

/// The one rule for files of secrets: their owner alone writes them, and their owner alone reads them. A file of another
/// user's may be read by its group, for that is how this process reads it (a Secret that Kubernetes mounts for `fsGroup`).
pub(crate) fn exposure(metadata: &Metadata) -> Option<Exposure> {
    exposed(metadata.mode() & 0o777, metadata.uid() == rustix::process::geteuid().as_raw())
}

fn exposed(mode: u32, ours: bool) -> Option<Exposure> {
    let told = |who: &str, what: &str| format!("mode {mode:04o}: {who} may {what} it");
    let (everybody, group) = ("every user of this machine", "its group");
    match mode {
        _ if mode & 0o002 != 0 => Some(Exposure::Written(told(everybody, "write"))),
        _ if mode & 0o020 != 0 => Some(Exposure::Written(told(group, "write"))),
        _ if mode & 0o004 != 0 => Some(Exposure::Read(told(everybody, "read"))),
        _ if mode & 0o040 != 0 && ours => Some(Exposure::Read(told(group, "read"))),
        _ => None,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_their_owners() {
        let (read, written) =
            (|mode, ours| matches!(exposed(mode, ours), Some(Exposure::Read(_))), |mode, ours| matches!(exposed(mode, ours), Some(Exposure::Written(_))));
        assert!([0o600, 0o400, 0o000, 0o711].iter().all(|mode| exposed(*mode, true).is_none() && exposed(*mode, false).is_none()));
        assert!(exposed(0o440, false).is_none() && read(0o440, true), "a group reads what is another user's");
        assert!([0o604, 0o644, 0o444].iter().all(|mode| read(*mode, true) && read(*mode, false)));
        assert!([0o620, 0o602, 0o660, 0o666, 0o777].iter().all(|mode| written(*mode, true) && written(*mode, false)));
    }
}
