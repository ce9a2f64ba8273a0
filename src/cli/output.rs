//! What the terminal sees: exit codes, colours, marks, findings as text and as JSON.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use serde_json::{Value, json};

use crate::attester::Unavailable;
use crate::refusal::{Denied, Finding, Turn};

/// How a subcommand ended, and with it the exit code. In the order of what weighs more over several subjects.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// Accepted, or all good: 0.
    Done,
    /// This machine has no TEE that makes evidence: 4.
    NoTee,
    /// Something that the decision needs is missing; a later try may succeed: 3.
    Undecided,
    /// Refused, or a check failed: 1.
    Refused,
    /// Wrong usage, wrong configuration, unreadable input: 2.
    Unusable,
    /// Stopped by SIGINT: 130.
    Interrupted,
    /// Cut short by a second signal, SIGTERM: 143.
    Terminated,
}

impl Outcome {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NoTee => 4,
            Self::Undecided => 3,
            Self::Refused => 1,
            Self::Unusable => 2,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// How a refusal ends: undecided where a later try may pass.
    pub(super) fn of_denied(denied: &Denied) -> Self {
        if denied.reason().undecided() { Self::Undecided } else { Self::Refused }
    }

    /// How it ends when this machine gave no evidence.
    pub(super) const fn of_unavailable(why: &Unavailable) -> Self {
        if why.transient { Self::Undecided } else { Self::NoTee }
    }
}

/// An error that is a finished text of several lines (diagnostics with their carets).
#[derive(Debug)]
pub(super) struct Rendered(pub(super) String);

impl fmt::Display for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.trim_end())
    }
}

impl std::error::Error for Rendered {}

/// Sets the colour rule of the whole process.
pub(super) fn colour(choice: ColorChoice) {
    match choice {
        ColorChoice::Always => anstream::ColorChoice::AlwaysAnsi,
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// Writes a result to stdout, at once. A reader that went away is not an error.
///
/// # Errors
/// Any other failure of stdout, such as a full disk.
pub(super) fn show(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(anyhow::Error::new(error).context("cannot write the result")),
        _ => Ok(()),
    }
}

/// Writes one JSON document to stdout.
///
/// # Errors
/// As [`show`].
pub(super) fn show_json(document: &Value) -> anyhow::Result<()> {
    show(&format!("{document:#}\n"))
}

/// Writes a note for people to stderr.
pub(super) fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", text.trim_end());
}

/// A number of things, in the words for one and for several.
pub(super) fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// Writes an error to stderr.
pub(super) fn complain(error: &anyhow::Error) {
    match (error.downcast_ref::<Rendered>(), error.downcast_ref::<crate::config::ConfigError>()) {
        (Some(rendered), _) => note(&rendered.to_string()),
        (_, Some(config)) => note(&config.to_string()),
        _ => note(&format!("{BAD}error:{BAD:#} {}", printable(&format!("{error:#}")))),
    }
}

/// Good news.
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Bad news.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What asks for attention.
pub(super) const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// Names of fields.
pub(super) const DIM: Style = Style::new().dimmed();

/// The signs of this terminal: plain ASCII where it or the locale does not show others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    pub(super) good: &'static str,
    pub(super) bad: &'static str,
    pub(super) unknown: &'static str,
    pub(super) cut: &'static str,
}

impl Marks {
    /// By TERM and the locale.
    pub(super) fn here() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| environment(name).filter(|value| !value.is_empty()));
        let unicode = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        if unicode && environment("TERM").as_deref() != Some("dumb") { Self::UNICODE } else { Self::ASCII }
    }

    const ASCII: Self = Self { good: "[ok]", bad: "[x]", unknown: "[?]", cut: "..." };
    const UNICODE: Self = Self { good: "✓", bad: "✗", unknown: "?", cut: "…" };
}

/// How much of long values is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Detail {
    /// Hex of more than 16 octets is cut to its first 8 and last 4 digits.
    Short,
    /// Everything.
    Whole,
}

impl Detail {
    /// By the flag `-v`.
    pub(super) const fn of(verbose: bool) -> Self {
        if verbose { Self::Whole } else { Self::Short }
    }
}

/// A value for the terminal: no control characters, long hex as `detail` says.
pub(super) fn value(text: &str, detail: Detail, marks: Marks) -> String {
    let text = printable(text);
    match detail {
        Detail::Short => shorten(&text, marks),
        Detail::Whole => text,
    }
}

/// Every finding as text, in the shape that people know from all subcommands.
pub(super) fn findings<'a>(findings: impl Iterator<Item = &'a Finding>, detail: Detail, marks: Marks) -> String {
    let (mut out, mut before) = (String::new(), "");
    for finding in findings {
        let _ = writeln!(out, "  {BAD}{}{BAD:#}", finding.reason);
        for (name, text) in [("field", finding.field.as_ref()), ("expected", &finding.expected), ("found", &finding.found)] {
            row(&mut out, name, &value(text, detail, marks));
        }
        let advice = finding.advice();
        if advice == before {
            row(&mut out, "fix", "as above");
            continue;
        }
        before = advice;
        for (index, line) in advice.lines().enumerate() {
            row(&mut out, if index == 0 { "fix" } else { "" }, &value(line, Detail::Whole, marks));
        }
    }
    out
}

/// One `name  value` line under a header, wrapped.
pub(super) fn row(out: &mut String, name: &str, text: &str) {
    let wide = width().saturating_sub(14).max(40);
    let mut name = name;
    for line in wrapped(text, wide) {
        let _ = writeln!(out, "    {DIM}{name:<8}{DIM:#}  {line}");
        name = "";
    }
}

/// `sha256:` and a digest's hex digits: how files are named by what they hold.
pub(super) fn digest(octets: &[u8; 32]) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(octets))
}

/// A finding as JSON; hex is whole.
pub(super) fn finding_json(finding: &Finding) -> Value {
    json!({
        "reason": finding.reason.code(),
        "field": finding.field,
        "expected": finding.expected,
        "found": finding.found,
        "fix": finding.advice(),
        "turn": match finding.reason.turn() { Turn::Operator => "operator", Turn::Peer => "peer", Turn::Vendor => "vendor" },
    })
}

/// Breaks a text at spaces so that lines have at most `wide` characters where words allow it.
pub(super) fn wrapped(text: &str, wide: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= wide {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// The text with control characters shown as what they are: evidence is not to drive the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() && letter != '\n' { '\u{fffd}' } else { letter }).collect()
}

/// Cuts every run of 33 or more hex digits to its first 8 and last 4.
fn shorten(text: &str, marks: Marks) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_hexdigit()).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(digits);
        match (run.get(..8), run.get(run.len().saturating_sub(4)..)) {
            (Some(first), Some(last)) if run.len() > LONGEST_HEX => {
                let _ = write!(out, "{first}{}{last}", marks.cut);
            }
            _ => out.push_str(run),
        }
        let other = behind.find(|letter: char| letter.is_ascii_hexdigit()).unwrap_or(behind.len());
        let (between, next) = behind.split_at(other);
        out.push_str(between);
        rest = next;
    }
    out
}

/// The terminal's width as the shell tells it, within reason.
fn width() -> usize {
    environment("COLUMNS").and_then(|columns| columns.parse().ok()).map_or(100, |columns: usize| columns.clamp(60, 160))
}

#[allow(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Hex digits of 16 octets.
const LONGEST_HEX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_hex_is_cut_and_nothing_else() {
        let long = "9f31aa02".repeat(12);
        let shown = |text: &str| value(text, Detail::Short, Marks::UNICODE);
        assert_eq!(shown(&format!("one of {long}, {long}")), "one of 9f31aa02…aa02, 9f31aa02…aa02");
        assert_eq!(shown("decade 0123456789abcdef0123456789abcdef"), "decade 0123456789abcdef0123456789abcdef");
        assert_eq!(shown("\u{1b}[2Jünde"), "\u{fffd}[2Jünde");
        assert_eq!(value(&long, Detail::Whole, Marks::ASCII), long);
    }

    #[test]
    fn text_is_broken_at_spaces_only() {
        assert_eq!(wrapped("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrapped("abcdef g", 3), ["abcdef", "g"]);
        assert_eq!(wrapped("", 3), [""]);
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [Outcome::Done, Outcome::Refused, Outcome::Unusable, Outcome::Undecided, Outcome::NoTee].map(Outcome::code);
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        assert_eq!([Outcome::Interrupted, Outcome::Terminated].map(Outcome::code), [130, 143]);
        assert_eq!([Outcome::Done, Outcome::Undecided, Outcome::Refused].into_iter().max(), Some(Outcome::Refused));
    }
}
