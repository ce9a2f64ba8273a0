//! What an operator has on disk: a folder in the shape of a vendor's service, or one bundle file for a machine without
//! a network. Everything in them is judged like anything fetched.

use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::item::{self, Item, MAX_ITEM, Read};
use super::source::Failure;
use crate::evidence::{Endorsement, Timestamp};

/// No bundle is read beyond this many octets.
pub const MAX_BUNDLE: usize = 64 << 20;

/// One item of a bundle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packed {
    /// The vendor's service.
    pub service: String,
    /// The path there.
    pub path: String,
    /// What it says of itself.
    pub read: Read,
}

/// A bundle file: JSON, sorted, so that equal contents are equal files.
#[must_use]
pub fn write(items: &[Packed], made: Timestamp) -> String {
    let mut items: Vec<&Packed> = items.iter().collect();
    items.sort_by_key(|packed| (&packed.service, &packed.path));
    let entry = |packed: &&Packed| {
        let Endorsement { name, media_type, bytes } = &packed.read.endorsement;
        json!({
            "service": packed.service, "path": packed.path, "name": name, "media_type": media_type,
            "from": packed.read.window.from.to_string(), "until": packed.read.window.until.to_string(),
            "sha256": data_encoding::HEXLOWER.encode(&crate::crypto::sha256(&[bytes])), "data": data_encoding::BASE64.encode(bytes),
        })
    };
    let document = json!({ "version": 1, "made": made.to_string(), "items": items.iter().map(entry).collect::<Vec<_>>() });
    // A value of strings and numbers is always JSON.
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

/// Reads a bundle. Dates and kinds come from the items themselves, not from what the file says of them.
///
/// # Errors
/// What is wrong with it, for people: one bad item spoils the file.
pub fn read(bytes: &[u8]) -> Result<Vec<Packed>, String> {
    let document: Value = serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))?;
    if document["version"] != 1 {
        return Err("no bundle of version 1".to_owned());
    }
    let items = document["items"].as_array().ok_or("no items")?;
    items.iter().enumerate().map(|(index, item)| packed(item).map_err(|why| format!("item {index}: {why}"))).collect()
}

fn packed(item: &Value) -> Result<Packed, String> {
    let text = |key: &str| item[key].as_str().map(str::to_owned).ok_or_else(|| format!("no {key}"));
    let (service, path, name, sha256, data) = (text("service")?, text("path")?, text("name")?, text("sha256")?, text("data")?);
    let bytes = data_encoding::BASE64.decode(data.as_bytes()).map_err(|error| format!("{path}: data: {error}"))?;
    if data_encoding::HEXLOWER.encode(&crate::crypto::sha256(&[&bytes])) != sha256 {
        return Err(format!("{path}: its SHA-256 is another than the one written beside it"));
    }
    let read = item::endorsed(Endorsement { name, media_type: String::new(), bytes }).map_err(|why| format!("{path}: {why}"))?;
    Ok(Packed { service, path, read })
}

/// The items of a bundle file.
///
/// # Errors
/// As [`read`], or what keeps the file from being read.
pub fn load(file: &Path) -> Result<Vec<Packed>, String> {
    let bytes = bounded(file, MAX_BUNDLE).map_err(|error| format!("{}: {error}", file.display()))?;
    read(&bytes).map_err(|why| format!("{}: {why}", file.display()))
}

/// An item of a bundle file.
pub(super) fn find(file: &Path, item: &Item) -> Result<Read, Failure> {
    let items = load(file).map_err(Failure::File)?;
    let found = items.into_iter().find(|packed| packed.service == item.service && packed.path == item.id.path);
    let mut read = found.map(|packed| packed.read).ok_or(Failure::Absent)?;
    item.id.name.clone_into(&mut read.endorsement.name);
    Ok(read)
}

/// The file of a folder that an item's path names. Nothing outside the folder is ever one.
pub(super) fn file_of(folder: &Path, path: &str) -> Result<Vec<u8>, Failure> {
    let inside = PathBuf::from(path.trim_start_matches('/'));
    if inside.components().any(|component| !matches!(component, Component::Normal(_))) {
        return Err(Failure::Absent);
    }
    let file = folder.join(inside);
    match bounded(&file, MAX_ITEM) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::Absent),
        Err(error) => Err(Failure::File(format!("{}: {error}", file.display()))),
    }
}

/// The whole of a file of at most `bound` octets.
pub(super) fn bounded(path: &Path, bound: usize) -> std::io::Result<Vec<u8>> {
    let file = crate::file::open(path)?;
    let mut bytes = Vec::new();
    fs::File::take(file, u64::try_from(bound).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > bound {
        return Err(std::io::Error::other(format!("more than {bound} octets")));
    }
    Ok(bytes)
}
