//! A test that needs privileged ports and names of its own runs in network and mount namespaces that are made for it: the
//! test's program is run again inside, for this one test.
#![allow(dead_code, reason = "shared by several tests, each of which uses its part")]

use std::process::{Command, Stdio};

use crate::skipped;

const INSIDE: &str = "PORTCULLIS_TEST_INSIDE";

/// Runs `test`, whose name is `name`, where `hosts` is `/etc/hosts`, only the loopback device is up, and every port is
/// free. Where a program is missing, or the system makes no namespaces, the case is counted as skipped.
pub(crate) fn inside<F: Future<Output = ()>>(name: &str, hosts: &str, programs: &[&str], test: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        return runtime.block_on(test());
    }
    for program in ["ip", "unshare"].iter().chain(programs) {
        if !Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status().is_ok_and(|status| status.success()) {
            return skipped::cases(1, &format!("{program} is not installed"));
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hosts");
    std::fs::write(&file, hosts).expect("written");
    let enter = "ip link set lo up && mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let within = |program: &[&std::ffi::OsStr]| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--mount", "sh", "-c", enter]).arg(&file).args(program).stdin(Stdio::null());
        command
    };
    if !within(&["true".as_ref()]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skipped::cases(1, "this system makes no network namespaces for us");
    }
    let program = std::env::current_exe().expect("a program");
    let run = within(&[program.as_os_str(), "--exact".as_ref(), name.as_ref(), "--nocapture".as_ref()]).env(INSIDE, "1").output().expect("it runs");
    let (told, wrong) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && told.contains("1 passed"), "inside the namespace:\n{told}\n{wrong}");
}
