//! Reads Rust source just well enough to check house rules: comments and literals blanked out, test modules cut away,
//! the paths that begin in this crate listed with their lines.

use std::path::{Path, PathBuf};

/// One source file of the crate.
pub(crate) struct Source {
    /// Its path below `src`, with forward slashes.
    pub(crate) path: String,
    /// Its module path: `["verify", "snp"]`, empty for the crate's roots.
    pub(crate) module: Vec<String>,
    /// Its text without comments; literals are kept.
    pub(crate) uncommented: String,
    /// The same with literals and test modules blanked: code and nothing else, line for line. Empty for a `tests.rs`.
    pub(crate) code: String,
}

/// A path into this crate.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Import {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// Its segments behind the crate: `["verify", "AttestationResult"]`, at most two.
    pub(crate) segments: Vec<String>,
}

/// Every `.rs` file below `root`, by path.
pub(crate) fn below(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("source in UTF-8");
                found.push(Source::new(relative(root, &path), &text));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn relative(root: &Path, path: &Path) -> String {
    let parts: PathBuf = path.strip_prefix(root).expect("a path below the root").to_path_buf();
    parts.to_string_lossy().replace('\\', "/")
}

impl Source {
    /// The file at `path` (below `src`) with this text.
    pub(crate) fn new(path: String, text: &str) -> Self {
        let uncommented = blank(text, Literals::Kept);
        let of_tests = path.ends_with("/tests.rs");
        let code = if of_tests { String::new() } else { without_test_modules(&blank(text, Literals::Blanked)) };
        Self { module: module_of(&path), path, uncommented, code }
    }

    /// The room the file is in: the first segment of its module path, or the root's own name (`main`, `lib`).
    pub(crate) fn room(&self) -> &str {
        self.module.first().map_or_else(|| self.path.trim_end_matches(".rs"), String::as_str)
    }

    /// The lines, from 1, on which `word` stands in the code as a whole word. A word may be a path.
    pub(crate) fn lines_with(&self, word: &str) -> Vec<usize> {
        words(&self.code, word).map(|at| line_of(&self.code, at)).collect()
    }

    /// Every path that begins with `crate::`, `portcullis::` or enough `super::` to reach the crate's root.
    pub(crate) fn imports(&self) -> Vec<Import> {
        let mut found = Vec::new();
        for start in ["crate::", "portcullis::"] {
            for at in words(&self.code, start.trim_end_matches(':')) {
                if self.code[at..].starts_with(start) {
                    self.expand(at + start.len(), at, &mut found);
                }
            }
        }
        let climb = "super::".repeat(self.module.len());
        if !climb.is_empty() {
            for at in words(&self.code, "super").filter(|at| !self.code[..*at].ends_with("::")) {
                if self.code[at..].starts_with(&climb) {
                    self.expand(at + climb.len(), at, &mut found);
                }
            }
        }
        found.sort_by_key(|import| import.line);
        found
    }

    /// The path or the group of paths at `from`, told under the line of `at` or, in a group, of each member.
    fn expand(&self, from: usize, at: usize, found: &mut Vec<Import>) {
        let rest = &self.code[from..];
        if !rest.starts_with('{') {
            let segments: Vec<String> = leading_path(rest);
            if !segments.is_empty() {
                found.push(Import { line: line_of(&self.code, at), segments });
            }
            return;
        }
        let mut depth = 0_usize;
        let mut member_follows = false;
        for (offset, character) in rest.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if member_follows && !character.is_whitespace() {
                found.push(Import { line: line_of(&self.code, from + offset), segments: leading_path(&rest[offset..]) });
                member_follows = false;
            }
            member_follows |= depth == 1 && matches!(character, '{' | ',');
        }
        found.retain(|import| !import.segments.is_empty());
    }
}

/// The module path of a file below `src`.
fn module_of(path: &str) -> Vec<String> {
    let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
    if matches!(stem, "lib" | "main") { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

/// The first two segments of the path that `text` begins with.
fn leading_path(text: &str) -> Vec<String> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    text[..end].split("::").filter(|segment| !segment.is_empty()).take(2).map(str::to_owned).collect()
}

/// Where `word` stands in `text` with no letter, digit or underscore beside it.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let joined = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(joined) && !after.is_some_and(joined)
    })
}

/// The line of an offset, from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[derive(Clone, Copy, PartialEq)]
enum Literals {
    Blanked,
    Kept,
}

/// `text` with comments, and literals if asked, replaced by spaces. Newlines stay, so that lines keep their numbers.
fn blank(text: &str, literals: Literals) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let (length, hidden) = token(&characters[at..], characters[..at].last().copied(), literals);
        for character in &characters[at..at + length] {
            out.push(if hidden && *character != '\n' { ' ' } else { *character });
        }
        at += length;
    }
    out
}

/// The length of the token at the front of `rest` and whether it is to be hidden.
fn token(rest: &[char], before: Option<char>, literals: Literals) -> (usize, bool) {
    let literal = literals == Literals::Blanked;
    match rest {
        ['/', '/', ..] => (rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()), true),
        ['/', '*', ..] => (block_comment(rest), true),
        ['"', ..] => (quoted(rest), literal),
        ['r', '"' | '#', ..] if !before.is_some_and(|c| c.is_alphanumeric() || c == '_') => match raw_string(rest) {
            Some(length) => (length, literal),
            None => (1, false),
        },
        ['\'', '\\', ..] => (3 + rest[3..].iter().position(|c| *c == '\'').unwrap_or(0), literal),
        ['\'', _, '\'', ..] => (3, literal),
        _ => (1, false),
    }
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

fn quoted(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    let open = 1 + hashes;
    if rest.get(open) != Some(&'"') {
        return None;
    }
    let closes = |at: &usize| rest[*at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    let close = (open + 1..rest.len()).find(closes).unwrap_or(rest.len() - 1 - hashes);
    Some(close + 1 + hashes)
}

/// `code` with each `#[cfg(test)] mod … { … }` blanked: tests may look into every room.
fn without_test_modules(code: &str) -> String {
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = out[from..].find("#[cfg(test)]") {
        let start = from + found;
        let end = test_module_end(&out, start).unwrap_or(start + 1);
        let blanked: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        if out[start..end].contains("mod ") {
            out.replace_range(start..end, &blanked);
        }
        from = start + 1;
    }
    out
}

/// Where the item behind `#[cfg(test)]` at `start` ends: its closing brace, or its semicolon.
fn test_module_end(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, character) in code[start..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth <= 1 => return Some(start + offset + 1),
            '}' => depth -= 1,
            ';' if depth == 0 => return Some(start + offset + 1),
            _ => {}
        }
    }
    None
}
