//! TDX quotes on machines without configfs-tsm: the kernel's tdx_guest device, as a file whose ioctl is answered through FUSE,
//! and Intel's quote generation service, as a Unix socket that speaks its messages.
#![cfg(all(feature = "simulator", target_os = "linux"))]

#[path = "support/skipped.rs"]
mod skipped;

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags, MountOption, OpenFlags,
    ReplyAttr, ReplyEntry, ReplyIoctl, ReplyOpen, Request,
};
use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::tdx::{self, Tdx};
use portcullis::attester::{Attester, Places, Provider as _, Unavailable, qgs, tpm, tsm};
use portcullis::evidence::{Challenge, ReportData, Timestamp, intel};

const NOW: Timestamp = Timestamp(1_796_083_200);

/// _IOWR('T', 1, 1088 octets).
const GET_REPORT: u32 = 0xc440_5401;

/// How the driver is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mood {
    Fails(i32),
    Good,
    OtherData,
}

/// The driver: one file, one command.
struct Driver(Mood);

fn attributes(ino: INodeNo, kind: FileType) -> FileAttr {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: if kind == FileType::Directory { 0o755 } else { 0o600 },
        nlink: 1,
        uid,
        gid,
        rdev: 0,
        blksize: 512,
        flags: 0,
    }
}

const FILE: INodeNo = INodeNo(2);

impl Filesystem for Driver {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "tdx_guest" {
            return reply.entry(&Duration::ZERO, &attributes(FILE, FileType::RegularFile), Generation(0));
        }
        reply.error(Errno::ENOENT);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let kind = if ino == FILE { FileType::RegularFile } else { FileType::Directory };
        reply.attr(&Duration::ZERO, &attributes(ino, kind));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::empty());
    }

    fn ioctl(&self, _: &Request, _: INodeNo, _: FileHandle, _: IoctlFlags, command: u32, input: &[u8], size: u32, reply: ReplyIoctl) {
        match self.0 {
            _ if command != GET_REPORT || input.len() != 1088 || size != 1088 => reply.error(Errno::ENOTTY),
            Mood::Fails(errno) => reply.error(Errno::from_i32(errno)),
            mood => {
                let mut answer = input.to_vec();
                answer[64 + 128..64 + 192].copy_from_slice(if mood == Mood::Good { &input[..64] } else { &[0x5a; 64] });
                reply.ioctl(0, &answer);
            }
        }
    }
}

/// A mounted device; unmounted when dropped.
struct Device {
    folder: tempfile::TempDir,
    _session: BackgroundSession,
}

impl Device {
    fn mount(mood: Mood) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("fake-tdx-guest".to_owned())];
        match fuser::spawn_mount(Driver(mood), folder.path(), &config) {
            Ok(session) => Some(Self { folder, _session: session }),
            Err(error) => {
                skipped::cases(1, &format!("the tdx_guest device needs FUSE to be faked: {error}"));
                None
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tdx_guest")
    }
}

/// A service that answers so many requests. It reads as the real one does and says nothing to what is not a request for a quote.
fn service(folder: &Path, requests: usize, answer: impl Fn(&ReportData) -> Vec<u8> + Send + 'static) -> PathBuf {
    let path = folder.join("qgs.socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        let mut answered = 0;
        while answered < requests {
            let (mut line, _) = listener.accept().expect("somebody");
            let mut length = [0; 4];
            // Whoever only looks whether somebody listens asks nothing.
            let Ok(()) = line.read_exact(&mut length) else { continue };
            let mut message = vec![0; u32::from_be_bytes(length) as usize];
            line.read_exact(&mut message).expect("a message");
            let expected = [&[1, 0, 1, 0][..], &[0; 4], &1048_u32.to_le_bytes(), &[0; 4], &1024_u32.to_le_bytes(), &[0; 4]].concat();
            assert_eq!((&message[..24], message.len()), (expected.as_slice(), 1048), "a request of version 1.1 for a quote of one TDREPORT");
            let data = ReportData(message[24 + 128..24 + 192].try_into().expect("64 octets"));
            let answer = answer(&data);
            line.write_all(&[&u32::try_from(answer.len()).expect("short").to_be_bytes(), answer.as_slice()].concat()).expect("a reader");
            answered += 1;
        }
    });
    path
}

/// An answer with a quote, behind an identifier of the key.
fn answer(error: u32, quote: &[u8]) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).expect("short").to_le_bytes();
    let body = [&number(16), &number(quote.len()), &[7; 16][..], quote].concat();
    [&[1, 0, 1, 0][..], &1_u32.to_le_bytes(), &number(16 + body.len()), &error.to_le_bytes(), &body].concat()
}

fn detected(device: PathBuf, quotes: PathBuf) -> Result<Box<dyn Attester>, Unavailable> {
    let nowhere = "/nonexistent";
    let places = Places::default().moved(tdx::DEVICE, device).moved(qgs::SERVICE, quotes).moved(tsm::ROOT, nowhere).moved(tpm::DEVICE, nowhere);
    Tdx.detect(&places).into_iter().find(|way| way.provider == "tdx-guest").expect("it is looked for").outcome
}

#[test]
fn a_quote_comes_by_the_device_and_the_hosts_service() {
    let Some(device) = Device::mount(Mood::Good) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let quotes = service(folder.path(), 2, |data| answer(0, &IntelForge::tdx15(1, NOW).sign(data)));
    let attester = detected(device.path(), quotes).expect("a trust domain");
    assert_eq!((attester.platform(), attester.provider()), ("intel-tdx", "tdx-guest"));
    for octet in [1, 2] {
        let quote = attester.attest(&Challenge { long: ReportData([octet; 64]), short: [0; 48] }).expect("a quote");
        assert_eq!(intel::Quote::parse(&quote.evidence.bytes).expect("a quote").bound_data(), ReportData([octet; 64]));
        assert_eq!(quote.evidence.media_type, intel::MEDIA_TYPE);
    }
}

#[test]
fn a_host_that_answers_otherwise_is_not_believed() {
    let Some(device) = Device::mount(Mood::Good) else { return };
    let whole = |data: &ReportData| answer(0, &IntelForge::tdx15(1, NOW).sign(data));
    type Answer = Box<dyn Fn(&ReportData) -> Vec<u8> + Send>;
    let cases: [(&str, Answer); 6] = [
        ("error 0x12001", Box::new(|_| answer(0x1_2001, b""))),
        ("report data", Box::new(|_| answer(0, &IntelForge::tdx15(1, NOW).sign(&ReportData([9; 64]))))),
        ("of sgx", Box::new(|data| answer(0, &IntelForge::sgx(1, NOW).sign(data)))),
        ("octets, of", Box::new(move |data| [whole(data), vec![0]].concat())),
        ("cut off", Box::new(|_| vec![1, 0, 1, 0])),
        ("an answer of 65537 octets", Box::new(|_| vec![0; 65537])),
    ];
    for (why, answer) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let attester = detected(device.path(), service(folder.path(), 1, answer)).expect("a trust domain");
        let refused = attester.attest(&Challenge { long: ReportData([1; 64]), short: [0; 48] }).expect_err(why);
        assert!(refused.why.contains(why), "{refused}");
    }
}

#[test]
fn what_stands_in_the_way_is_told() {
    let nowhere = PathBuf::from("/nonexistent/tdx_guest");
    let missing = detected(nowhere.clone(), nowhere.clone()).err().expect("no device");
    assert!(missing.what.contains("tdx-guest"), "{missing}");
    let Some(device) = Device::mount(Mood::Good) else { return };
    // A socket file that nobody listens at.
    let folder = tempfile::tempdir().expect("a folder");
    let dead = folder.path().join("dead.socket");
    drop(UnixListener::bind(&dead).expect("a socket"));
    let silent = detected(device.path(), dead).err().expect("no service");
    assert!(silent.fix.contains("quote generation service") && silent.transient, "{silent}");
    for (mood, told) in [(Mood::OtherData, "not over what was asked for"), (Mood::Fails(5), "Input/output"), (Mood::Fails(25), "Inappropriate ioctl")] {
        let Some(device) = Device::mount(mood) else { return };
        let refused = detected(device.path(), nowhere.clone()).err().expect("no report");
        assert!(refused.why.contains(told), "{mood:?}: {refused}");
    }
}
