//! What `[[listener]]` and `[[upstream]]` have in common: what they are checked against, and how they name each other.

use std::collections::BTreeMap;
use std::path::Path;

use super::tree::{At, Section};
use super::{Policy, Transport, Upstream, values};
use crate::diagnostic::nearest;

/// What both kinds of table are checked against.
pub(super) struct Known<'a> {
    pub(super) folder: &'a Path,
    pub(super) policies: &'a BTreeMap<String, Option<Policy>>,
    pub(super) identity: Option<&'a super::Identity>,
}

/// What reading the tables collects.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) insecure: Vec<String>,
    pub(super) used_policies: Vec<String>,
    pub(super) used_upstreams: Vec<String>,
}

/// A plain listener leads to attested upstreams alone: otherwise nothing is attested.
pub(super) fn something_attested(section: &Section<'_>, upstream: &At<String>, upstreams: &BTreeMap<String, Option<Upstream>>, tls: bool) {
    if let (Some(Some(far)), false) = (upstreams.get(&upstream.value), tls)
        && far.attested.is_none()
        && far.targets.iter().all(|target| target.transport != Transport::Attested)
    {
        let message = format!("nothing is attested between this listener and upstream \"{}\"", far.name);
        let help = "give the listener certificate = \"attested\" (a listener for the public: evidence = {}), or the upstream tls:// targets with `attested`";
        section.wrong(&upstream.span, message, help);
    }
}

/// A name that must be among `known`.
pub(super) fn reference<T>(section: &Section<'_>, key: &str, what: &str, known: &BTreeMap<String, T>) -> Option<At<String>> {
    let name = section.required(key)?;
    if known.contains_key(name.value) {
        return Some(name.map(str::to_owned));
    }
    let names = known.keys().map(String::as_str);
    let help = match (nearest(name.value, names.clone()), known.is_empty()) {
        (Some(near), _) => format!("did you mean \"{near}\"?"),
        (None, true) => format!("there is no {what} in this file"),
        (None, false) => format!("one of {}", names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")),
    };
    section.wrong(&name.span, format!("no {what} is called \"{}\"", name.value), help);
    None
}

pub(super) fn name(section: &Section<'_>) -> Option<At<String>> {
    if section.has("name").is_none() {
        section.missing("name");
    }
    section.parsed("name", values::word)
}

/// Notes a key that would do nothing.
pub(super) fn needs(section: &Section<'_>, key: &str, what: &str) {
    if let Some(span) = section.has(key) {
        section.wrong(&span, format!("`{key}` without {what}"), format!("write {what} too, or leave `{key}` out: it would do nothing"));
    }
}

pub(super) fn plain_values<T>(values: Vec<At<T>>) -> Vec<T> {
    values.into_iter().map(|value| value.value).collect()
}
