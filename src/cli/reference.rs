//! The reference of the command line, generated from its definition: `docs/cli.md`.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// The Markdown page that `docs/cli.md` must equal.
#[must_use]
pub fn command_reference() -> String {
    let command = super::command();
    let mut out = String::from(HEAD);
    for below in command.get_subcommands() {
        section(&mut out, below, &format!("portcullis {}", below.get_name()));
    }
    out
}

fn section(out: &mut String, command: &Command, name: &str) {
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = write!(out, "\n## `{name}`\n\n{}\n", about.trim());
    let below: Vec<_> = command.get_subcommands().collect();
    if below.is_empty() {
        let usage = command.clone().render_usage().to_string();
        let _ = write!(out, "\n```text\n{}\n```\n", usage.trim_start_matches("Usage: ").trim());
        arguments(out, command);
    }
    for command in below {
        section(out, command, &format!("{name} {}", command.get_name()));
    }
}

fn arguments(out: &mut String, command: &Command) {
    let own = |arg: &&Arg| !arg.is_hide_set() && !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str());
    let mut rows = String::new();
    for arg in command.get_arguments().filter(own) {
        let help = arg.get_help().map(|help| format!("{help}.")).unwrap_or_default();
        let values: Vec<_> = arg.get_possible_values().iter().filter(|_| arg.get_action().takes_values()).map(|value| value.get_name().to_owned()).collect();
        let values = if values.is_empty() { String::new() } else { format!(" One of {}.", values.join(", ")) };
        let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        let default = if default.is_empty() || !arg.get_action().takes_values() { String::new() } else { format!(" Default `{}`.", default.join(" ")) };
        let _ = writeln!(rows, "| `{}` | {help}{values}{default} |", shown(arg).replace('|', "\\|"));
    }
    if !rows.is_empty() {
        let _ = write!(out, "\n| Argument | |\n|---|---|\n{rows}");
    }
}

fn shown(arg: &Arg) -> String {
    let values: Vec<_> = arg.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>")).collect();
    let values = if arg.get_action().takes_values() { values.join(" ") } else { String::new() };
    let flag = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => String::new(),
    };
    format!("{flag} {values}").trim().to_owned()
}

const HEAD: &str = "# The command line

Generated from the program's own definition; a test fails when it differs. The same text as man pages: `portcullis man DIR`.

Results go to stdout, notes and errors to stderr. `--color auto|always|never` (everywhere) and `NO_COLOR`, `CLICOLOR`,
`CLICOLOR_FORCE` choose colours; the marks `✓ ✗` become `[ok] [x]` where the locale or `TERM=dumb` asks for it.

| Exit code | Meaning |
|---|---|
| 0 | accepted, or done |
| 1 | refused, or a check failed |
| 2 | usage or configuration error, unreadable input |
| 3 | undecided: something that the decision needs is missing; a later try may succeed |
| 4 | no TEE or evidence provider on this machine |
| 130, 143 | ended by SIGINT or SIGTERM; `run`, `server` and `client` drain and end with 0 on SIGTERM |
";
