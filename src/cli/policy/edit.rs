//! Changing a policy file: an entry more in `accept`, every other octet as it was; written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use jsonc_parser::ast::Value as Node;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::Value;

/// The text with `entry` behind the others of `accept`; `None` when there is no such list.
pub(super) fn with_entry(text: &str, entry: &Value) -> Option<String> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default()).ok()?;
    let Node::Object(policy) = parsed.value? else { return None };
    let property = policy.properties.iter().find(|property| property.name.as_str() == "accept")?;
    let Node::Array(list) = &property.value else { return None };
    let (open, close) = (list.range.start.checked_add(1)?, list.range.end.checked_sub(1)?);
    let outer = indent_at(text, property.range.start);
    let (at, lead, indent) = match list.elements.last() {
        Some(last) => (last.range().end, ",\n", indent_at(text, last.range().start).to_owned()),
        None => (open, "\n", format!("{outer}  ")),
    };
    let shown = format!("{entry:#}").replace('\n', &format!("\n{indent}"));
    let before = text.get(..at)?;
    let behind = if list.elements.is_empty() { format!("\n{outer}{}", text.get(close..)?) } else { text.get(at..)?.to_owned() };
    Some(format!("{before}{lead}{indent}{shown}{behind}"))
}

/// The spaces and tabs that the line of an octet begins with.
fn indent_at(text: &str, at: usize) -> &str {
    let line = text.get(..at).and_then(|before| before.rsplit('\n').next()).unwrap_or_default();
    let blank = line.len() - line.trim_start_matches([' ', '\t']).len();
    line.get(..blank).unwrap_or_default()
}

/// Writes a file so that at every moment either the old or the new text is there, whole: a new file beside it, synced,
/// then renamed over it. Follows symbolic links; keeps the old file's permissions.
///
/// # Errors
/// What the system says. The old file is as it was.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().with_context(|| format!("{} is not the name of a file", path.display()))?.to_owned();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = std::ffi::OsString::from(".");
    beside.push(&name);
    beside.push(format!(".{}.new", std::process::id()));
    let beside = folder.join(beside);
    let written = replace(&path, &beside, folder, text);
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn replace(path: &Path, beside: &Path, folder: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(beside)?;
    if let Ok(old) = fs::metadata(path) {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_put_behind_the_others_and_the_rest_stays() {
        let entry = json!({ "id": "b" });
        let old = "{\n\t\"name\" :\"p\",\n\t\"accept\": [\n\t\t{ \"id\":\"a\" }\n\t],  \"x\": [1,\n 2]\n}\n";
        let new = "{\n\t\"name\" :\"p\",\n\t\"accept\": [\n\t\t{ \"id\":\"a\" },\n\t\t{\n\t\t  \"id\": \"b\"\n\t\t}\n\t],  \"x\": [1,\n 2]\n}\n";
        assert_eq!(with_entry(old, &entry).as_deref(), Some(new));
        assert_eq!(with_entry("{\n  \"accept\": []\n}", &entry).as_deref(), Some("{\n  \"accept\": [\n    {\n      \"id\": \"b\"\n    }\n  ]\n}"));
        assert_eq!(with_entry("{}", &entry), None);
        assert_eq!(with_entry("[", &entry), None);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.json");
        write(&file, "old").unwrap();
        write(&file, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(write(&folder.path().join("none/p.json"), "x").is_err());
        assert!(write(folder.path(), "x").is_err());
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["p.json"]);
    }
}
