//! The kernel's side of configfs-tsm, as a FUSE file system: folders that bring their attributes, generations, reports
//! made when they are read. After Linux 6.7 to 6.16, drivers/virt/coco (tsm.c, sev-guest.c) and fs/configfs/file.c:
//!
//! - `inblob` takes effect when it is closed, and an error of that is lost
//! - `privlevel` is taken at once, between the floor and 3
//! - reading `outblob` or `auxblob` makes a report when something was written since the last one
//! - `rmdir` takes a folder with its attributes

#[path = "skipped.rs"]
mod skipped;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

/// Makes a report over report data at a VMPL.
pub(super) type Maker = Box<dyn Fn(&[u8; 64], u32) -> Vec<u8> + Send>;

/// What the pretended driver does. Numbers count down to good behaviour.
pub(super) struct Driver {
    /// What `provider` says; `None`: no driver is loaded.
    pub(super) provider: Option<&'static str>,
    /// Makes a report over report data at a VMPL.
    pub(super) report: Maker,
    /// The host's certificate table.
    pub(super) auxblob: Vec<u8>,
    /// Attributes that this driver does not show.
    pub(super) hidden: Vec<&'static str>,
    /// `privlevel_floor`.
    pub(super) floor: u32,
    /// Folders cannot be made, with this error.
    pub(super) mkdir_fails: Option<Errno>,
    /// So many requests fail with this error.
    pub(super) requests_fail: (usize, Errno),
    /// So many times, somebody else writes another `inblob` between ours and the report.
    pub(super) intruders_before: usize,
    /// So many times, somebody else writes another `inblob` after the report, before the generation is read again.
    pub(super) intruders_after: usize,
    /// So many closings of `inblob` are refused, of which nobody hears.
    pub(super) lost_writes: usize,
    /// How many reports were made.
    pub(super) reports: usize,
}

impl Driver {
    /// A sev-guest driver that works.
    pub(super) fn good(report: impl Fn(&[u8; 64], u32) -> Vec<u8> + Send + 'static) -> Self {
        Self {
            provider: Some("sev_guest"),
            report: Box::new(report),
            auxblob: Vec::new(),
            hidden: Vec::new(),
            floor: 0,
            mkdir_fails: None,
            requests_fail: (0, Errno::EAGAIN),
            intruders_before: 0,
            intruders_after: 0,
            lost_writes: 0,
            reports: 0,
        }
    }
}

/// One request's folder.
struct Entry {
    name: String,
    made: SystemTime,
    written: u64,
    read: u64,
    inblob: Vec<u8>,
    privlevel: u32,
    outblob: Option<Vec<u8>>,
}

struct State {
    driver: Driver,
    entries: BTreeMap<u64, Entry>,
    next: u64,
    open_inblobs: BTreeMap<u64, (u64, Vec<u8>)>,
    next_handle: u64,
}

/// A mounted report folder; unmounted when dropped.
pub(super) struct FakeTsm {
    state: Arc<Mutex<State>>,
    folder: tempfile::TempDir,
    _session: BackgroundSession,
}

impl FakeTsm {
    /// Mounts it. `None`, with a line that says so, where FUSE cannot be used.
    pub(super) fn mount(driver: Driver) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = State { driver, entries: BTreeMap::new(), next: 1, open_inblobs: BTreeMap::new(), next_handle: 1 };
        let state = Arc::new(Mutex::new(state));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("fake-configfs-tsm".to_owned()), MountOption::DefaultPermissions];
        match fuser::spawn_mount(Kernel(Arc::clone(&state)), folder.path(), &config) {
            Ok(session) => Some(Self { state, folder, _session: session }),
            Err(error) => {
                skipped::cases(1, &format!("configfs-tsm needs FUSE to be faked: {error}"));
                None
            }
        }
    }

    /// The report folder.
    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Changes what the driver does.
    pub(super) fn driver<T>(&self, change: impl FnOnce(&mut Driver) -> T) -> T {
        change(&mut self.state.lock().unwrap().driver)
    }

    /// The names of the folders that are there.
    pub(super) fn entries(&self) -> Vec<String> {
        self.state.lock().unwrap().entries.values().map(|entry| entry.name.clone()).collect()
    }

    /// Leaves a folder behind, as a crashed process would.
    pub(super) fn leave_behind(&self, name: &str, age: Duration) {
        self.state.lock().unwrap().make(name, now() - age);
    }
}

impl State {
    fn make(&mut self, name: &str, made: SystemTime) -> u64 {
        let ino = self.next * STRIDE + 2;
        self.next += 1;
        let entry = Entry { name: name.to_owned(), made, written: 0, read: 0, inblob: Vec::new(), privlevel: 0, outblob: None };
        self.entries.insert(ino, entry);
        ino
    }

    fn folder_called(&self, name: &str) -> Option<u64> {
        self.entries.iter().find(|(_, entry)| entry.name == name).map(|(ino, _)| *ino)
    }

    fn visible(&self, attribute: &str) -> bool {
        !self.driver.hidden.contains(&attribute)
    }

    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let (kind, perm, made) = if ino == 1 {
            (FileType::Directory, 0o755, SystemTime::UNIX_EPOCH)
        } else if let Some(entry) = self.entries.get(&ino) {
            (FileType::Directory, 0o755, entry.made)
        } else {
            let (folder, _, perm) = place(ino)?;
            (FileType::RegularFile, perm, self.entries.get(&folder)?.made)
        };
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Some(FileAttr {
            ino: INodeNo(ino),
            size: 0,
            blocks: 0,
            atime: made,
            mtime: made,
            ctime: made,
            crtime: made,
            kind,
            perm,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// What the attribute says, made now where it has to be.
    fn value(&mut self, ino: u64) -> Result<Vec<u8>, Errno> {
        let (folder, attribute, _) = place(ino).ok_or(Errno::ENOENT)?;
        let Self { driver, entries, .. } = self;
        let entry = entries.get_mut(&folder).ok_or(Errno::ENOENT)?;
        match attribute {
            "generation" => {
                if entry.outblob.is_some() && driver.intruders_after > 0 {
                    driver.intruders_after -= 1;
                    entry.intrude();
                }
                Ok(format!("{}\n", entry.written).into_bytes())
            }
            "provider" => Ok(format!("{}\n", driver.provider.ok_or(Errno::ENXIO)?).into_bytes()),
            "privlevel_floor" => Ok(format!("{}\n", driver.floor).into_bytes()),
            "outblob" => entry.report(driver),
            "auxblob" => entry.report(driver).map(|_| driver.auxblob.clone()),
            _ => Err(Errno::EACCES),
        }
    }

    fn store(&mut self, ino: u64, data: &[u8]) -> Result<(), Errno> {
        let (folder, _, _) = place(ino).ok_or(Errno::ENOENT)?;
        let floor = self.driver.floor;
        let entry = self.entries.get_mut(&folder).ok_or(Errno::ENOENT)?;
        let level: u32 = std::str::from_utf8(data).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)?;
        if level < floor || level > 3 {
            return Err(Errno::EINVAL);
        }
        entry.written += 1;
        entry.privlevel = level;
        Ok(())
    }

    fn close_inblob(&mut self, ino: u64, data: Vec<u8>) {
        let Some((folder, "inblob", _)) = place(ino) else { return };
        if self.driver.lost_writes > 0 {
            self.driver.lost_writes -= 1;
            return;
        }
        if let Some(entry) = self.entries.get_mut(&folder) {
            entry.written += 1;
            entry.inblob = data;
        }
    }
}

impl Entry {
    fn intrude(&mut self) {
        self.written += 1;
        self.inblob = vec![0xee; 64];
    }

    fn report(&mut self, driver: &mut Driver) -> Result<Vec<u8>, Errno> {
        if let (Some(outblob), true) = (&self.outblob, self.read == self.written) {
            return Ok(outblob.clone());
        }
        if self.inblob.is_empty() {
            return Err(Errno::EINVAL);
        }
        if driver.requests_fail.0 > 0 {
            driver.requests_fail.0 -= 1;
            return Err(driver.requests_fail.1);
        }
        if driver.intruders_before > 0 {
            driver.intruders_before -= 1;
            self.intrude();
        }
        let inblob: [u8; 64] = self.inblob.as_slice().try_into().map_err(|_| Errno::EINVAL)?;
        let outblob = (driver.report)(&inblob, self.privlevel);
        driver.reports += 1;
        self.outblob = Some(outblob.clone());
        self.read = self.written;
        Ok(outblob)
    }
}

/// The fake kernel's time, which stands still.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

const STRIDE: u64 = 16;

const ATTRIBUTES: [(&str, u16); 7] =
    [("generation", 0o444), ("provider", 0o444), ("privlevel", 0o200), ("privlevel_floor", 0o444), ("inblob", 0o200), ("outblob", 0o400), ("auxblob", 0o400)];

/// The folder, name and mode of an attribute.
fn place(ino: u64) -> Option<(u64, &'static str, u16)> {
    let beyond = ino.checked_sub(2)?;
    let (name, mode) = *ATTRIBUTES.get(usize::try_from(beyond % STRIDE).ok()?.checked_sub(1)?)?;
    Some((beyond / STRIDE * STRIDE + 2, name, mode))
}

struct Kernel(Arc<Mutex<State>>);

impl Filesystem for Kernel {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.0.lock().unwrap();
        let name = name.to_str().unwrap_or("");
        let found = if parent == INodeNo::ROOT {
            state.folder_called(name)
        } else {
            let number = ATTRIBUTES.iter().position(|(attribute, _)| *attribute == name && state.visible(attribute));
            number.filter(|_| state.entries.contains_key(&parent.0)).map(|number| parent.0 + 1 + number as u64)
        };
        match found.and_then(|ino| state.attr(ino)) {
            Some(attr) => reply.entry(&Duration::ZERO, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().unwrap().attr(ino.0) {
            Some(attr) => reply.attr(&Duration::ZERO, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let mut state = self.0.lock().unwrap();
        if let Some(errno) = state.driver.mkdir_fails.or(state.driver.provider.is_none().then_some(Errno::ENXIO)) {
            return reply.error(errno);
        }
        let ino = state.make(name.to_str().unwrap_or(""), now());
        match state.attr(ino) {
            Some(attr) => reply.entry(&Duration::ZERO, &attr, Generation(0)),
            None => reply.error(Errno::EIO),
        }
    }

    fn rmdir(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.0.lock().unwrap();
        match name.to_str().and_then(|name| state.folder_called(name)) {
            Some(ino) => {
                state.entries.remove(&ino);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.0.lock().unwrap();
        if ino == INodeNo::ROOT {
            for (number, (ino, entry)) in state.entries.iter().enumerate().skip(usize::try_from(offset).unwrap_or(0)) {
                if reply.add(INodeNo(*ino), number as u64 + 1, FileType::Directory, &entry.name) {
                    break;
                }
            }
        }
        reply.ok();
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut state = self.0.lock().unwrap();
        let handle = state.next_handle;
        state.next_handle += 1;
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
        if matches!(place(ino.0), Some((_, "inblob", _))) {
            state.open_inblobs.insert(handle, (ino.0, Vec::new()));
        }
    }

    fn read(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        match self.0.lock().unwrap().value(ino.0) {
            Ok(value) => {
                let rest = value.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
                reply.data(&rest[..rest.len().min(size as usize)]);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, data: &[u8], _: WriteFlags, _: OpenFlags, _: Option<LockOwner>, reply: ReplyWrite) {
        let mut state = self.0.lock().unwrap();
        if let Some((_, buffer)) = state.open_inblobs.get_mut(&fh.0) {
            if offset as usize + data.len() > 64 {
                return reply.error(Errno::EFBIG);
            }
            buffer.truncate(offset as usize);
            buffer.extend(data);
            return reply.written(data.len() as u32);
        }
        match state.store(ino.0, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    /// The closing of a descriptor, which the kernel waits for (it does not for `release`).
    fn flush(&self, _: &Request, _: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let mut state = self.0.lock().unwrap();
        if let Some((ino, data)) = state.open_inblobs.remove(&fh.0) {
            state.close_inblob(ino, data);
        }
        reply.ok();
    }
}
