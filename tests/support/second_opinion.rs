//! What `tests/second_opinions/hardware.py` says of each line; `None`, and counted as skipped, without its libraries.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::skipped;

pub(crate) fn words(lines: &[Value]) -> Option<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `tests/run` installs it; whoever has the library anyway needs nothing.
    let installed = root.join(".cache/tools/cose/bin/python");
    let python = if installed.exists() { installed } else { PathBuf::from("python3") };
    let there = Command::new(&python).args(["-c", "import cryptography"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        skipped::cases(lines.len(), "python3 with cryptography is not installed: second opinions on hardware reports");
        return None;
    }
    let mut child = Command::new(&python)
        .arg(root.join("tests/second_opinions/hardware.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3");
    let mut stdin = child.stdin.take().expect("a pipe");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("its words");
    writing.join().expect("written").expect("written");
    let words: Vec<_> = String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect();
    assert_eq!(words.len(), lines.len(), "{words:?}");
    Some(words)
}
