//! What is wrong in a text a person wrote: where, and what would be right. A leaf without dependencies or I/O.
//!
//! Configuration files and policies report every error at once in the one shape [`render`] gives. It judges nothing.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::ops::Range;

/// One thing that is wrong (or worth knowing) in a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// One line: what is wrong, with the value as written.
    pub message: String,
    /// The bytes of the text it is about; may be empty, and may lie at the text's end.
    pub span: Range<usize>,
    /// What to write instead; empty when there is nothing to add.
    pub help: String,
}

impl Diagnostic {
    /// A diagnostic without help.
    #[must_use]
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), span, help: String::new() }
    }

    /// The same with a help line.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// A text and the name people know it by.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file's path as the operator gave it, or what stands for one (`<stdin>`).
    pub name: &'a str,
    /// The whole text.
    pub text: &'a str,
}

/// Where a byte lies, counted as people count: from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

/// Every diagnostic as text, in the order of the text, each with its line and a caret under what it is about:
///
/// ```text
/// error: unknown key `lisen`
///  --> server.toml:4:1
///   |
/// 4 | lisen = "127.0.0.1:8443"
///   | ^^^^^
///   = help: did you mean `listen`?
/// ```
#[must_use]
pub fn render(source: &Source<'_>, diagnostics: &[Diagnostic]) -> String {
    render_as(source, "error", diagnostics)
}

/// As [`render`], with another word than `error` in front (`warning`).
#[must_use]
pub fn render_as(source: &Source<'_>, word: &str, diagnostics: &[Diagnostic]) -> String {
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
    let mut out = String::new();
    for (index, diagnostic) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        render_one(source, word, diagnostic, &mut out);
    }
    out
}

/// The line and column of a byte; a byte beyond the text is at its end.
#[must_use]
pub fn position(text: &str, byte: usize) -> Position {
    let before = text.get(..floor(text, byte)).unwrap_or_default();
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count().saturating_add(1);
    Position { line, column }
}

/// The candidate that `key` is probably a misspelling of: at most a third of its letters changed, added, lost or swapped.
#[must_use]
pub fn nearest<'a>(key: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let longest = key.chars().count().max(3);
    candidates
        .into_iter()
        .map(|candidate| (distance(key, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= longest.max(candidate.chars().count()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn render_one(source: &Source<'_>, word: &str, diagnostic: &Diagnostic, out: &mut String) {
    let start = floor(source.text, diagnostic.span.start);
    let Position { line, column } = position(source.text, start);
    let shown = source.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let number = line.to_string();
    let margin = " ".repeat(number.len());
    let (before, rest) = split_at_char(shown, column.saturating_sub(1));
    let covered = source.text.get(start..floor(source.text, diagnostic.span.end)).unwrap_or_default();
    let carets = covered.lines().next().unwrap_or_default().chars().count().min(rest.chars().count()).clamp(1, WIDEST_CARETS);
    // A tab stays a tab, so that the caret stands under its letter whatever the terminal makes of it.
    let indent: String = before.chars().map(|letter| if letter == '\t' { '\t' } else { ' ' }).collect();
    let _ = writeln!(out, "{word}: {}", diagnostic.message);
    let _ = writeln!(out, "{margin}--> {}:{line}:{column}", source.name);
    let _ = writeln!(out, "{margin} |");
    let _ = writeln!(out, "{number} | {}", printable(shown));
    let _ = writeln!(out, "{margin} | {indent}{}", "^".repeat(carets));
    for line in diagnostic.help.lines() {
        let _ = writeln!(out, "{margin} = help: {line}");
    }
}

/// The text with control characters shown as spaces: a file is not to drive the terminal.
fn printable(line: &str) -> String {
    let mut shown: String = line.chars().take(WIDEST_LINE).map(|letter| if letter.is_control() && letter != '\t' { ' ' } else { letter }).collect();
    if line.chars().nth(WIDEST_LINE).is_some() {
        shown.push('…');
    }
    shown
}

fn split_at_char(line: &str, count: usize) -> (&str, &str) {
    let at = line.char_indices().nth(count).map_or(line.len(), |(at, _)| at);
    line.split_at_checked(at).unwrap_or((line, ""))
}

/// The nearest character boundary at or before `byte`.
fn floor(text: &str, byte: usize) -> usize {
    let mut at = byte.min(text.len());
    while !text.is_char_boundary(at) {
        at = at.saturating_sub(1);
    }
    at
}

/// The optimal string alignment distance: one for a letter changed, added, lost, or swapped with its neighbour.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous: Option<char> = None;
    for (row, letter) in a.chars().enumerate() {
        let mut current = vec![row.saturating_add(1)];
        for (column, other) in b.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX);
            let next = column.saturating_add(1);
            let changed = at(&last, column).saturating_add(usize::from(letter != *other));
            let lost = at(&last, next).saturating_add(1);
            let added = at(&current, column).saturating_add(1);
            let mut best = changed.min(lost).min(added);
            if let Some(earlier) = column.checked_sub(1)
                && previous == Some(*other)
                && b.get(earlier) == Some(&letter)
            {
                best = best.min(at(&before_last, earlier).saturating_add(1));
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
        previous = Some(letter);
    }
    last.last().copied().unwrap_or_default()
}

/// A line longer than this is cut: a file may be one line.
const WIDEST_LINE: usize = 200;
/// Carets beyond this say nothing.
const WIDEST_CARETS: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version = 1\n\n[[listener]]\nlisen = \"127.0.0.1:8443\"\n\tköy = 2";

    fn shown(span: Range<usize>) -> String {
        render(&Source { name: "a.toml", text: TEXT }, &[Diagnostic::new(span, "wrong").help("do\nthis")])
    }

    #[test]
    fn the_caret_stands_under_the_key() {
        let at = TEXT.find("lisen").unwrap();
        assert_eq!(shown(at..at + 5), "error: wrong\n --> a.toml:4:1\n  |\n4 | lisen = \"127.0.0.1:8443\"\n  | ^^^^^\n  = help: do\n  = help: this\n");
    }

    #[test]
    fn spans_inside_letters_and_beyond_the_end_are_shown_not_fatal() {
        let at = TEXT.find('ö').unwrap();
        assert!(shown(at + 1..at + 2).contains(":5:3\n"));
        assert!(shown(9000..9001).contains(":5:9\n"));
        assert!(render(&Source { name: "e", text: "" }, &[Diagnostic::new(0..0, "empty")]).contains("e:1:1"));
        for start in 0..TEXT.len() + 2 {
            for end in 0..TEXT.len() + 2 {
                assert!(shown(start..end).contains('^'));
            }
        }
    }

    #[test]
    fn errors_come_in_the_order_of_the_text() {
        let both = [Diagnostic::new(20..21, "second"), Diagnostic::new(0..7, "first")];
        let text = render(&Source { name: "a", text: TEXT }, &both);
        assert!(text.find("first").unwrap() < text.find("second").unwrap());
    }

    #[test]
    fn a_misspelled_key_finds_its_neighbour_and_a_strange_one_nothing() {
        let keys = ["listen", "measurement", "tcb", "id"];
        assert_eq!(nearest("lisen", keys), Some("listen"));
        assert_eq!(nearest("measurment", keys), Some("measurement"));
        assert_eq!(nearest("measuremnet", keys), Some("measurement"));
        assert_eq!(nearest("bananas", keys), None);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }

    #[test]
    fn a_file_cannot_drive_the_terminal() {
        assert!(!render(&Source { name: "e", text: "a\u{1b}[2J" }, &[Diagnostic::new(0..1, "m")]).contains('\u{1b}'));
    }
}
