//! The demo does what it tells, and its three next commands work as typed.
#![cfg(all(feature = "cli", feature = "simulator"))]

use std::path::Path;
use std::process::Command;

/// Where people's files are their group's too: the default of many systems.
fn portcullis(folder: &Path, line: &str) -> String {
    let program = ["-c", r#"umask 002 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_portcullis")];
    let output = Command::new("sh").args(program).args(line.split(' ')).current_dir(folder).output().expect("the program");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "portcullis {line}: {}\n{said}\n{complained}", output.status);
    said
}

#[test]
fn one_peer_is_accepted_three_are_refused_and_the_next_commands_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = portcullis(folder.path(), "demo");
    for code in ["measurement_unknown", "debug_enabled", "binding_mismatch"] {
        assert!(told.contains(code), "{code} is not told:\n{told}");
    }
    let (_, next) = told.split_once("Next:\n").expect("what to do next");
    let commands: Vec<&str> = next.lines().flat_map(|line| line.split(" && ")).map(|command| command.trim().trim_start_matches("portcullis ")).collect();
    assert_eq!(commands.len(), 4, "{next}");
    for command in commands {
        // At a terminal it asks; here nobody answers.
        let yes = if command.starts_with("policy add") { " --yes" } else { "" };
        portcullis(folder.path(), &format!("{command}{yes}"));
    }
}
