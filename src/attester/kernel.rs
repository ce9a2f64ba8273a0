//! What the kernel shows of this machine below `/sys` and `/proc`: signs of a TEE, and what keeps this process from its
//! ways to evidence. Only looks; what cannot be read is taken for not there.
//!
//! Not here: which signs are whose. Each platform's provider knows its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use super::Unavailable;

/// One machine's kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    sys: PathBuf,
    proc: PathBuf,
}

/// A driver of the kernel's that a way to evidence needs.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    /// Its name for `modprobe`; empty where it may be one of several.
    pub module: &'static str,
    /// Where the kernel lists its device once it works, below `/sys`; empty when it has none.
    pub device: &'static str,
    /// The first Linux that has it.
    pub since: (u32, u32),
}

/// Something that shows which TEE this machine is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sign {
    /// What was seen, for people.
    pub what: String,
    /// How much it says.
    pub weight: Weight,
}

/// How much a sign says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Weight {
    /// Other machines have it too.
    Hint,
    /// Only a machine with this TEE has it.
    Proof,
}

/// What keeps this process from something that is there, or should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hindrance {
    /// What is in the way.
    pub why: String,
    /// What a person can do, where it is another thing than whoever complains knows by itself.
    pub fix: Option<String>,
}

impl Kernel {
    /// The kernel whose file systems are mounted there.
    #[must_use]
    pub const fn new(sys: PathBuf, proc: PathBuf) -> Self {
        Self { sys, proc }
    }

    /// A sign, when there is such a path below `/sys`.
    #[must_use]
    pub fn shows(&self, path: &str, what: &str, weight: Weight) -> Option<Sign> {
        let place = self.sys.join(path);
        place.exists().then(|| Sign { what: format!("{what} ({})", place.display()), weight })
    }

    /// Proof, when the processor has this flag.
    #[must_use]
    pub fn flag(&self, flag: &str) -> Option<Sign> {
        let place = self.proc.join("cpuinfo");
        let text = read(&place)?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'))?.1;
        let there = flags.split_ascii_whitespace().any(|word| word == flag);
        there.then(|| Sign { what: format!("the processor's flag {flag} ({})", place.display()), weight: Weight::Proof })
    }

    /// A hint, when the firmware says this of the machine (`sys_vendor`, `chassis_asset_tag`).
    #[must_use]
    pub fn firmware_says(&self, field: &str, value: &str) -> Option<Sign> {
        let place = self.sys.join("class/dmi/id").join(field);
        (read(&place)?.trim() == value).then(|| Sign { what: format!("{field} is {value} ({})", place.display()), weight: Weight::Hint })
    }

    /// Proof, when a virtio device of this kind is on the bus.
    #[must_use]
    pub fn virtio(&self, kind: &str, what: &str) -> Option<Sign> {
        let devices = fs::read_dir(self.sys.join("bus/virtio/devices")).ok()?;
        let device = devices.flatten().take(MAX_DEVICES).find(|device| read(&device.path().join("device")).is_some_and(|found| found.trim() == kind))?;
        Some(Sign { what: format!("{what} ({})", device.path().display()), weight: Weight::Proof })
    }

    /// The same complaint about the device at `path`, with the cause that can be seen from here in place of the guess.
    #[must_use]
    pub fn explain_device(&self, unavailable: Unavailable, path: &Path, driver: Driver) -> Unavailable {
        let hindrance = if path.exists() { self.in_the_way(path) } else { self.in_the_way(path).or_else(|| self.lacks_device(path, driver)) };
        unavailable.because(hindrance)
    }

    /// The same complaint about the configfs-tsm folder.
    #[must_use]
    pub fn explain_tsm(&self, unavailable: Unavailable, root: &Path, driver: Driver) -> Unavailable {
        let hindrance = if root.exists() { self.in_the_way(root) } else { self.lacks_tsm(driver) };
        unavailable.because(hindrance)
    }

    /// The same complaint about something at `path` that is no device of the kernel's: a service's socket, a folder.
    #[must_use]
    pub fn explain_path(&self, unavailable: Unavailable, path: &Path) -> Unavailable {
        unavailable.because(self.in_the_way(path))
    }

    /// What keeps this process from using `path`, so far as it can be seen: owner and mode, a mount that is read-only, the
    /// device cgroup, a security module. `None` when it is not there, or nothing is seen.
    #[must_use]
    pub fn in_the_way(&self, path: &Path) -> Option<Hindrance> {
        let me = Process::read(&self.proc)?;
        for folder in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
            let metadata = fs::metadata(folder).ok()?;
            if !me.may(&metadata, SEARCH) {
                return Some(me.denied(folder, &metadata));
            }
        }
        let metadata = fs::metadata(path).ok()?;
        let kind = metadata.file_type();
        let wanted = if kind.is_dir() { WRITE | SEARCH } else { READ | WRITE };
        if !me.may(&metadata, wanted) {
            return Some(me.denied(path, &metadata));
        }
        if kind.is_dir()
            && let Some(mount) = self.mount_of(path).filter(|mount| mount.read_only)
        {
            return Some(Hindrance {
                why: format!("{} is mounted read-only", mount.at),
                fix: Some(format!("mount it for writing (mount -o remount,rw {0}); for a container, a writable mount of {1}", mount.at, path.display())),
            });
        }
        let refused = if kind.is_char_device() {
            OpenOptions::new().read(true).write(true).open(path).err().and_then(|error| Errno::from_io_error(&error))
        } else {
            rustix::fs::access(path, if kind.is_dir() { Access::WRITE_OK | Access::EXEC_OK } else { Access::WRITE_OK }).err()
        };
        match refused? {
            Errno::PERM if kind.is_char_device() => Some(device_cgroup(path)),
            Errno::ACCESS => self.security_module(path),
            _ => None,
        }
    }

    /// Why a device that should be there is not.
    fn lacks_device(&self, path: &Path, driver: Driver) -> Option<Hindrance> {
        if !driver.device.is_empty() && self.sys.join(driver.device).exists() {
            return Some(Hindrance {
                why: format!("the kernel has the device ({}), and there is no {} here", self.sys.join(driver.device).display(), path.display()),
                fix: Some(format!(
                    "give it to this container: podman or docker run --device {0}, in Kubernetes a device plugin's resource, for systemd DeviceAllow={0} rw",
                    path.display()
                )),
            });
        }
        self.lacks_driver(driver)
    }

    /// Why there is no configfs-tsm folder.
    fn lacks_tsm(&self, driver: Driver) -> Option<Hindrance> {
        let mounts = read(&self.proc.join("self/mounts"))?;
        if let Some(old) = self.older_than(driver) {
            return Some(old);
        }
        if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("configfs")) {
            return Some(Hindrance { why: "configfs is not mounted".to_owned(), fix: None });
        }
        self.lacks_driver(driver).map(|hindrance| Hindrance { why: format!("configfs is mounted and has no tsm/report: {}", hindrance.why), ..hindrance })
    }

    fn lacks_driver(&self, driver: Driver) -> Option<Hindrance> {
        if let Some(old) = self.older_than(driver) {
            return Some(old);
        }
        let module = driver.module;
        self.release().filter(|_| !module.is_empty())?;
        if self.sys.join("module").join(module.replace('-', "_")).exists() {
            let fix = format!("see what the kernel's log says of {module} (dmesg | grep -i {module})");
            return Some(Hindrance { why: format!("the driver {module} is loaded and offers nothing"), fix: Some(fix) });
        }
        Some(Hindrance { why: format!("no driver {module} is at work"), fix: None })
    }

    fn older_than(&self, driver: Driver) -> Option<Hindrance> {
        let ((major, minor), (since_major, since_minor)) = (self.release()?, driver.since);
        ((major, minor) < driver.since).then(|| Hindrance {
            why: format!("Linux {major}.{minor} is too old: {} came with {since_major}.{since_minor}", driver.module),
            fix: Some(format!("boot this guest with Linux {since_major}.{since_minor} or later")),
        })
    }

    fn release(&self) -> Option<(u32, u32)> {
        let text = read(&self.proc.join("sys/kernel/osrelease"))?;
        let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// What is in the way when owner, mode and mounts are not: a security module, where one is at work.
    fn security_module(&self, path: &Path) -> Option<Hindrance> {
        let label = read(&self.proc.join("self/attr/current")).map(|label| label.trim_matches(['\0', '\n']).to_owned()).unwrap_or_default();
        if read(&self.sys.join("fs/selinux/enforce")).is_some_and(|enforce| enforce.trim() == "1") {
            let fix = format!(
                "see what was denied (ausearch -m avc -ts recent), and allow it by a policy module, or in a container by a label that may use {}",
                path.display()
            );
            return Some(Hindrance { why: format!("SELinux is enforcing, and owner and mode would allow it; this process is {label}"), fix: Some(fix) });
        }
        let confined = !label.is_empty() && label != "unconfined" && self.sys.join("kernel/security/apparmor").exists();
        confined.then(|| Hindrance {
            why: format!("owner and mode would allow it, and this process is confined by AppArmor ({label})"),
            fix: Some(format!("add `{} rw,` to the profile, or run with another one", path.display())),
        })
    }

    /// The mount that a path is on.
    fn mount_of(&self, path: &Path) -> Option<Mount> {
        let mounts = read(&self.proc.join("self/mounts"))?;
        let mount = |line: &str| {
            let mut words = line.split(' ').skip(1);
            let (at, _, options) = (words.next()?, words.next()?, words.next()?);
            path.starts_with(at).then(|| Mount { at: at.to_owned(), read_only: options.split(',').any(|option| option == "ro") })
        };
        // The longest is the nearest; of equal ones the last is on top.
        mounts.lines().filter_map(mount).max_by_key(|mount| mount.at.len())
    }
}

impl Unavailable {
    /// The same with a cause that was seen.
    #[must_use]
    pub fn because(self, hindrance: Option<Hindrance>) -> Self {
        match hindrance {
            Some(Hindrance { why, fix }) => Self { why: format!("{} ({why})", self.why), fix: fix.unwrap_or(self.fix), ..self },
            None => self,
        }
    }
}

impl Sign {
    /// A sign, when something is at this path.
    #[must_use]
    pub fn at(path: &Path, what: &str, weight: Weight) -> Option<Self> {
        path.exists().then(|| Self { what: format!("{what} ({})", path.display()), weight })
    }
}

struct Mount {
    at: String,
    read_only: bool,
}

fn device_cgroup(path: &Path) -> Hindrance {
    Hindrance {
        why: "owner and mode allow it: the device cgroup of this container or unit does not".to_owned(),
        fix: Some(format!(
            "allow the device: podman or docker run --device {0}, in Kubernetes a device plugin's resource (a hostPath does not do), for systemd DeviceAllow={0} rw",
            path.display()
        )),
    }
}

/// Who this process is to the kernel.
struct Process {
    user: u32,
    groups: Vec<u32>,
    capabilities: u64,
    /// Not the machine's own users: what belongs to nobody here is out of reach of root too.
    user_namespace: bool,
}

impl Process {
    fn read(proc: &Path) -> Option<Self> {
        let status = read(&proc.join("self/status"))?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::split_ascii_whitespace);
        let group = field("Gid:")?.nth(1)?.parse().ok()?;
        let groups = field("Groups:").into_iter().flatten().filter_map(|group| group.parse().ok());
        let identity = |map: &str| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        Some(Self {
            user: field("Uid:")?.nth(1)?.parse().ok()?,
            groups: std::iter::once(group).chain(groups).collect(),
            capabilities: field("CapEff:").and_then(|mut field| u64::from_str_radix(field.next()?, 16).ok()).unwrap_or(0),
            user_namespace: read(&proc.join("self/uid_map")).is_some_and(|map| !identity(&map)),
        })
    }

    fn may(&self, metadata: &fs::Metadata, wanted: u32) -> bool {
        let (owner, group, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
        if self.capabilities & CAP_DAC_OVERRIDE != 0 && !(self.user_namespace && owner == NOBODY) {
            return true;
        }
        let granted = match () {
            () if self.user == owner => mode >> 6,
            () if self.groups.contains(&group) => mode >> 3,
            () => mode,
        };
        granted & wanted == wanted
    }

    fn denied(&self, path: &Path, metadata: &fs::Metadata) -> Hindrance {
        let (path, mode, owner, group) = (path.display(), metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        if self.user_namespace && owner == NOBODY {
            return Hindrance {
                why: format!("{path} belongs to a user of the machine that this user namespace does not have"),
                fix: Some(
                    "run without a user namespace (not rootless), or give the group of it to this process (podman run --group-add keep-groups)".to_owned(),
                ),
            };
        }
        let groups: Vec<_> = self.groups.iter().map(u32::to_string).collect();
        Hindrance {
            why: format!("{path} has mode {mode:04o}, owner {owner}, group {group}; this process is user {}, groups {}", self.user, groups.join(" ")),
            fix: Some(format!("chgrp {} {path} and chmod g+rwX {path} (for good by a udev rule), or run as user {owner}", self.groups.first().unwrap_or(&0))),
        }
    }
}

const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

/// Bit 1 of a capability set.
const CAP_DAC_OVERRIDE: u64 = 1 << 1;

/// Who owns what no user of this namespace owns (/proc/sys/kernel/overflowuid).
const NOBODY: u32 = 65534;

/// A virtual machine has a few.
const MAX_DEVICES: usize = 256;

/// /proc/cpuinfo has some 1,500 octets a processor, and its first is enough; the other files are shorter.
const MAX_FILE: u64 = 64 * 1024;

fn read(path: &Path) -> Option<String> {
    let whole = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    whole().ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A tree with a `sys` and a `proc`, as a process of user 1000 sees it.
    struct Tree(tempfile::TempDir);

    const STATUS: &str = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t1000 44\nCapEff:\t0000000000000000\n";
    const MOUNTS: &str = "sysfs /sys sysfs rw,nosuid 0 0\nconfigfs /sys/kernel/config configfs rw 0 0\n";

    impl Tree {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let tree = Self(folder);
            tree.write("proc/self/status", STATUS);
            tree.write("proc/self/uid_map", "         0          0 4294967295\n");
            tree.write("proc/self/mounts", MOUNTS);
            tree.write("proc/sys/kernel/osrelease", "6.12.3-amd64\n");
            tree
        }

        fn write(&self, path: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn kernel(&self) -> Kernel {
            Kernel::new(self.0.path().join("sys"), self.0.path().join("proc"))
        }

        fn explained(&self, path: &Path) -> Unavailable {
            let guess = Unavailable { what: "x".to_owned(), why: "it failed".to_owned(), fix: "a guess".to_owned(), transient: false };
            self.kernel().explain_device(guess, path, DRIVER)
        }

        fn tsm(&self, path: &Path) -> Unavailable {
            let guess = Unavailable { what: "x".to_owned(), why: "it failed".to_owned(), fix: "a guess".to_owned(), transient: false };
            self.kernel().explain_tsm(guess, path, Driver { since: (6, 7), ..DRIVER })
        }
    }

    const DRIVER: Driver = Driver { module: "sev-guest", device: "class/misc/sev-guest", since: (5, 19) };

    fn expect(found: &Unavailable, why: &str, fix: &str) {
        assert!(found.why.contains(why) && found.fix.contains(fix), "expected {why} / {fix}, found {found:?}");
    }

    #[test]
    fn a_device_that_is_not_there_has_its_cause() {
        let tree = Tree::new();
        let device = tree.write("dev/null-is-a-folder", "").with_file_name("sev-guest");
        expect(&tree.explained(&device), "no driver sev-guest is at work", "a guess");
        tree.write("proc/sys/kernel/osrelease", "5.15.0-1052-azure\n");
        expect(&tree.explained(&device), "Linux 5.15 is too old: sev-guest came with 5.19", "boot this guest with Linux 5.19");
        tree.write("proc/sys/kernel/osrelease", "6.12.3\n");
        tree.write("sys/module/sev_guest/refcnt", "0");
        expect(&tree.explained(&device), "is loaded and offers nothing", "dmesg");
        tree.write("sys/class/misc/sev-guest/dev", "10:100");
        expect(&tree.explained(&device), "the kernel has the device", "--device");
    }

    #[test]
    fn a_device_that_may_not_be_used_has_its_cause() {
        let tree = Tree::new();
        let device = tree.write("dev/sev-guest", "");
        fs::set_permissions(&device, fs::Permissions::from_mode(0o600)).unwrap();
        let owner = fs::metadata(&device).unwrap().uid();
        if owner != 1000 {
            expect(&tree.explained(&device), &format!("has mode 0600, owner {owner}"), "chgrp 1000");
            expect(&tree.explained(&device), "this process is user 1000, groups 1000 1000 44", "chmod g+rwX");
        }
        fs::set_permissions(device.parent().unwrap(), fs::Permissions::from_mode(0o600)).unwrap();
        if owner != 1000 {
            expect(&tree.explained(&device), "dev has mode 0600", "chmod g+rwX");
        }
        fs::set_permissions(device.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(tree.explained(&device).fix, "a guess", "nothing is seen");
    }

    #[test]
    fn a_security_module_is_named_when_it_is_at_work() {
        let tree = Tree::new();
        let named = || tree.kernel().security_module(Path::new("/dev/x"));
        assert_eq!(named(), None);
        tree.write("proc/self/attr/current", "unconfined\n");
        tree.write("sys/kernel/security/apparmor/profiles", "");
        assert_eq!(named(), None);
        tree.write("proc/self/attr/current", "docker-default (enforce)\n");
        assert!(
            named().is_some_and(|found| found.why.contains("AppArmor (docker-default (enforce))") && found.fix.is_some_and(|fix| fix.contains("/dev/x rw")))
        );
        tree.write("proc/self/attr/current", "system_u:system_r:container_t:s0:c1,c2\0");
        tree.write("sys/fs/selinux/enforce", "1");
        assert!(named().is_some_and(|found| found.why.contains("container_t:s0:c1,c2") && found.fix.is_some_and(|fix| fix.contains("ausearch"))));
    }

    #[test]
    fn a_device_that_opens_is_not_in_the_way() {
        let tree = Tree::new();
        tree.write("sys/fs/selinux/enforce", "1");
        let device = tree.0.path().join("null");
        symlink("/dev/null", &device).unwrap();
        assert_eq!(tree.kernel().in_the_way(&device), None);
        expect(
            &Unavailable { what: String::new(), why: "EPERM".to_owned(), fix: String::new(), transient: false }.because(Some(device_cgroup(&device))),
            "device cgroup",
            "device plugin",
        );
    }

    #[test]
    fn a_folder_of_configfs_that_is_not_there_has_its_cause() {
        let tree = Tree::new();
        let root = tree.0.path().join("sys/kernel/config/tsm/report");
        expect(&tree.tsm(&root), "configfs is mounted and has no tsm/report: no driver sev-guest is at work", "a guess");
        tree.write("proc/self/mounts", "sysfs /sys sysfs rw 0 0\n");
        expect(&tree.tsm(&root), "configfs is not mounted", "a guess");
        tree.write("proc/sys/kernel/osrelease", "6.6.1\n");
        expect(&tree.tsm(&root), "Linux 6.6 is too old", "boot this guest with Linux 6.7");
        fs::create_dir_all(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        tree.write("proc/self/mounts", &format!("configfs {} configfs ro,relatime 0 0\n", tree.0.path().join("sys/kernel/config").display()));
        expect(&tree.tsm(&root), "is mounted read-only", "remount,rw");
    }

    #[test]
    fn root_of_a_user_namespace_is_not_root() {
        let me = |map: &str, capabilities: &str| {
            let tree = Tree::new();
            tree.write("proc/self/status", &STATUS.replace("1000", "0").replace("CapEff:\t0000000000000000", &format!("CapEff:\t{capabilities}")));
            tree.write("proc/self/uid_map", map);
            Process::read(&tree.0.path().join("proc")).unwrap()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o000)).unwrap();
        let metadata = fs::metadata(file.path()).unwrap();
        assert!(me("0 0 4294967295", "000001ffffffffff").may(&metadata, READ));
        let rootless = me("0 1000 1", "000001ffffffffff");
        assert!(rootless.user_namespace && rootless.may(&metadata, READ), "its own files are");
        assert!(!me("0 0 4294967295", "0").may(&metadata, READ));
    }

    #[test]
    fn signs_are_read_and_nothing_hostile_matters() {
        let tree = Tree::new();
        let kernel = tree.kernel();
        assert_eq!(kernel.flag("tdx_guest"), None);
        tree.write("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu tdx_guest ssse3\n");
        assert_eq!(kernel.flag("tdx_guest").unwrap().weight, Weight::Proof);
        assert_eq!(kernel.flag("tdx"), None, "whole words");
        tree.write("sys/class/dmi/id/sys_vendor", "Amazon EC2\n");
        assert!(kernel.firmware_says("sys_vendor", "Amazon EC2").is_some() && kernel.firmware_says("sys_vendor", "Amazon").is_none());
        tree.write("sys/bus/virtio/devices/virtio3/device", "0x0021\n");
        assert!(kernel.virtio("0x0021", "nsm").unwrap().what.contains("virtio3") && kernel.virtio("0x0001", "net").is_none());
        tree.write("proc/self/status", &"\u{fffd}".repeat(100_000));
        assert_eq!(kernel.in_the_way(tree.0.path()), None);
    }
}
