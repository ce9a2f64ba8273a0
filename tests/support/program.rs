//! The built program as a process, in a folder of its own, with an environment that does not change.

#![allow(dead_code, reason = "each test program uses a part of this")]

#[path = "skipped.rs"]
pub(crate) mod skipped;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A moment at which everything the tests make is current.
pub(crate) const AT: &str = "2026-12-01T00:00:00Z";

/// A folder to run the program in.
pub(crate) struct Desk(tempfile::TempDir);

/// What a run of the program left.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).expect("a writable folder");
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a text file")
    }

    /// Runs the program with these words.
    pub(crate) fn run(&self, words: &str) -> Run {
        self.run_with(words, &[], None)
    }

    /// Runs it with further environment and with this on stdin.
    pub(crate) fn run_with(&self, words: &str, environment: &[(&str, &str)], stdin: Option<&[u8]>) -> Run {
        self.run_words(words.split_whitespace(), environment, stdin)
    }

    /// Runs it with these arguments, which may hold spaces.
    pub(crate) fn run_words(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>, environment: &[(&str, &str)], stdin: Option<&[u8]>) -> Run {
        let mut child = self.command(words, environment).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
        // A program that does not read its stdin is no error here.
        let _ = child.stdin.take().expect("a pipe").write_all(stdin.unwrap_or_default());
        Run::of(child.wait_with_output().expect("the program ends"))
    }

    /// The program with these arguments, not yet running.
    pub(crate) fn command(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>, environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(words).current_dir(self.0.path()).env_clear().env("LC_ALL", "C.UTF-8").env("TERM", "xterm").envs(environment.iter().copied());
        command
    }
}

impl Run {
    fn of(output: Output) -> Self {
        let text = |octets: Vec<u8>| String::from_utf8(octets).expect("the program writes text");
        Self { code: output.status.code().expect("no signal ended it"), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The document on stdout.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// All of it, as a snapshot shows it.
    pub(crate) fn shown(&self) -> String {
        let part = |name: &str, text: &str| if text.is_empty() { String::new() } else { format!("--- {name}\n{text}") };
        format!("exit {}\n{}{}", self.code, part("stdout", &self.stdout), part("stderr", &self.stderr))
    }
}

/// What a running program says on its stderr, line by line.
pub(crate) fn said(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok)
}

/// Tells a running program to stop: it says that it has, and ends well.
pub(crate) fn stop(mut child: Child, mut said: impl Iterator<Item = String>) {
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).expect("a signal");
    assert!(said.any(|line| line.contains("stopped")), "it ends");
    assert_eq!(child.wait().expect("its end").code(), Some(0));
}

/// A policy that accepts the simulator's guest.
#[cfg(feature = "simulator")]
pub(crate) fn mesh() -> String {
    let measurement = data_encoding::HEXLOWER.encode(&portcullis::attester::simulator::MEASUREMENT);
    format!(
        r#"{{ "version": 1, "name": "mesh", "insecure_roots": ["simulator"], "accept": [{{ "id": "a", "tee": "sev-snp", "measurement": "{measurement}" }}] }}"#
    )
}

/// The folder of captured evidence; `None`, said aloud, where it is absent.
pub(crate) fn vectors() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    let folder = std::env::var_os("PORTCULLIS_VECTORS").map_or_else(default, PathBuf::from);
    if folder.join("MANIFEST.json").is_file() {
        return Some(folder);
    }
    skipped::cases(1, "no captured evidence: name its folder in PORTCULLIS_VECTORS");
    None
}
