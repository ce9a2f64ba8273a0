//! The cache on disk: one file an item, written beside and renamed, with a digest over everything in it.
//!
//! Several processes may share a folder: a file is always whole, and the last writer of an item wins. What is torn,
//! foreign or changed is not believed and is removed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::Access;

use super::bundle::bounded;
use super::item::{self, Item, MAX_ITEM, Read};
use crate::crypto::sha256;
use crate::evidence::cbor::{Reader, Writer};
use crate::evidence::{Endorsement, Timestamp};

/// What a file of the cache begins with. Another version begins otherwise and is read as none.
const MAGIC: &[u8] = b"portcullis collateral 1\n";

/// No folder holds more items; the longest unused go first.
const MAX_ITEMS: usize = 4096;

/// Their octets together.
const MAX_TOTAL: u64 = 256 << 20;

/// An item with when it was got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Kept {
    pub(super) service: String,
    pub(super) path: String,
    pub(super) read: Read,
    pub(super) got: Timestamp,
}

/// A folder of cached items.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    /// When it was opened, by the file system's own clock.
    opened: SystemTime,
}

impl Disk {
    /// The folder, made when it is not there.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        // Before anybody relies on it: a folder that cannot be written is a mistake.
        let probe = beside(folder);
        let opened = File::create_new(&probe)?.metadata()?.modified()?;
        fs::remove_file(&probe)?;
        Ok(Self { folder: folder.to_owned(), opened })
    }

    /// Everything that can be believed to be what was written.
    pub(super) fn load(&self) -> io::Result<Vec<Kept>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("item") => files.push((fs::metadata(&path).and_then(|metadata| Ok((metadata.modified()?, metadata.len()))), path)),
                // Left by a process that died while it wrote; another that writes now renames within seconds.
                Some("part") if self.stale(&path) => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        files.sort_by_key(|(when, _)| std::cmp::Reverse(when.as_ref().ok().map(|(modified, _)| *modified)));
        let mut total = 0_u64;
        let mut kept = Vec::new();
        for (index, (metadata, path)) in files.into_iter().enumerate() {
            total = total.saturating_add(metadata.map_or(0, |(_, length)| length));
            let item = if index < MAX_ITEMS && total <= MAX_TOTAL { bounded(&path, 2 * MAX_ITEM).ok().and_then(|bytes| decode(&bytes)) } else { None };
            match item {
                Some(item) => kept.push(item),
                None => drop(fs::remove_file(&path)),
            }
        }
        Ok(kept)
    }

    /// The item, when another process put it here.
    pub(super) fn find(&self, item: &Item) -> Option<Kept> {
        let bytes = bounded(&self.file(&item.key()), 2 * MAX_ITEM).ok()?;
        decode(&bytes).filter(|kept| kept.service == item.service && kept.path == item.id.path)
    }

    /// Writes an item: whole or not at all, whenever the process ends.
    pub(super) fn store(&self, kept: &Kept) -> io::Result<()> {
        let part = beside(&self.folder);
        let written = File::create_new(&part).and_then(|mut file| {
            file.write_all(&encode(kept))?;
            file.sync_all()
        });
        let renamed = written.and_then(|()| fs::rename(&part, self.file(&format!("{}{}", kept.service, kept.path))));
        if renamed.is_err() {
            drop(fs::remove_file(&part));
        }
        renamed.and_then(|()| File::open(&self.folder)?.sync_all())
    }

    /// Removes an item that memory no longer holds.
    pub(super) fn remove(&self, key: &str) {
        drop(fs::remove_file(self.file(key)));
    }

    fn file(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{}.item", data_encoding::HEXLOWER.encode(&sha256(&[key.as_bytes()]))))
    }

    fn stale(&self, path: &Path) -> bool {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        modified.and_then(|modified| self.opened.duration_since(modified).ok()).is_some_and(|age| age.as_secs() > 60)
    }
}

/// What a look at a folder shows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Looked {
    /// Whether it is there.
    pub made: bool,
    /// Whether this process could write it, or make it.
    pub writable: bool,
    /// When each item in it ends.
    pub ends: Vec<Timestamp>,
    /// Files in it that are no items, or no longer.
    pub foreign: usize,
}

/// Looks at a cache's folder and changes nothing.
///
/// # Errors
/// It is there and cannot be read.
pub fn look(folder: &Path) -> io::Result<Looked> {
    let nearest = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let nearest = if nearest.as_os_str().is_empty() { Path::new(".") } else { nearest };
    let writable = nearest.is_dir() && rustix::fs::access(nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    let mut looked = Looked { made: folder.exists(), writable, ends: Vec::new(), foreign: 0 };
    if !looked.made {
        return Ok(looked);
    }
    for entry in fs::read_dir(folder)?.take(MAX_ITEMS) {
        match bounded(&entry?.path(), 2 * MAX_ITEM).ok().and_then(|bytes| decode(&bytes)) {
            Some(kept) => looked.ends.push(kept.read.window.until),
            None => looked.foreign += 1,
        }
    }
    Ok(looked)
}

/// A name that no other writer has.
fn beside(folder: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    folder.join(format!("{}-{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Magic, SHA-256 of what follows, and `[service, path, name, got, bytes]`.
fn encode(kept: &Kept) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.array(5).text(&kept.service).text(&kept.path).text(&kept.read.endorsement.name).uint(kept.got.0).bytes(&kept.read.endorsement.bytes);
    let body = writer.finish();
    [MAGIC, &sha256(&[&body]), &body].concat()
}

fn decode(bytes: &[u8]) -> Option<Kept> {
    let (digest, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
    if digest != sha256(&[body]) {
        return None;
    }
    let mut reader = Reader::new(body);
    if reader.array().ok()? != 5 {
        return None;
    }
    let (service, path) = (reader.text().ok()?.to_owned(), reader.text().ok()?.to_owned());
    let (name, got, bytes) = (reader.text().ok()?.to_owned(), Timestamp(reader.uint().ok()?), reader.bytes().ok()?.to_vec());
    reader.end().ok()?;
    let read = item::endorsed(Endorsement { name, media_type: String::new(), bytes }).ok()?;
    Some(Kept { service, path, read, got })
}
