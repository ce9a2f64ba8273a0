//! Reads a TOML tree against the [`super::schema`]: every error is noted with its place, none ends the reading.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{schema, values};
use crate::diagnostic::{Diagnostic, nearest};

/// A value with the bytes of the file it was read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<T> At<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> At<U> {
        At { value: change(self.value), span: self.span }
    }
}

/// What was found wrong so far, and what is worth knowing.
#[derive(Debug, Default)]
pub(super) struct Faults {
    errors: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
}

impl Faults {
    /// Notes an error; a value that is looked at twice has it once.
    pub(super) fn note(&self, diagnostic: Diagnostic) {
        let mut noted = self.errors.borrow_mut();
        if !noted.contains(&diagnostic) {
            noted.push(diagnostic);
        }
    }

    /// Notes what an operator should look at; it stops nothing.
    pub(super) fn warn(&self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.warnings.borrow_mut().push(Diagnostic::new(span.clone(), message).help(help));
    }

    /// The errors and the warnings.
    pub(super) fn into_both(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        (self.errors.into_inner(), self.warnings.into_inner())
    }

    /// The value, or `None` with the error noted at `span`.
    pub(super) fn keep<T>(&self, span: &Range<usize>, result: Result<T, Wrong>) -> Option<T> {
        result.map_err(|wrong| self.note(Diagnostic { message: wrong.message, span: span.clone(), help: wrong.help })).ok()
    }
}

/// What is wrong with a value, its place yet unknown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: String,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// One table of the file, being read.
#[derive(Clone)]
pub(super) struct Section<'a> {
    schema: &'static schema::Section,
    table: &'a DeTable<'a>,
    /// Where the table begins: errors about what is absent stand here.
    pub(super) span: Range<usize>,
    pub(super) faults: &'a Faults,
}

impl<'a> Section<'a> {
    /// Begins reading a table; keys that the schema does not have are noted.
    pub(super) fn open(schema: &'static schema::Section, table: &'a DeTable<'a>, span: Range<usize>, faults: &'a Faults) -> Self {
        for (key, _) in table {
            let name = key.get_ref().as_ref();
            if !schema.keys.iter().any(|known| known.key == name) {
                faults.note(unknown(schema, name, key.span()));
            }
        }
        Self { schema, table, span, faults }
    }

    /// Notes an error about a value of this table.
    pub(super) fn wrong(&self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.faults.note(Diagnostic::new(span.clone(), message).help(help));
    }

    /// Notes that a required key is absent.
    pub(super) fn missing(&self, key: &str) {
        let value = self.value_of(key);
        // A value in code is written as it stands; what is only described is not.
        let help = if value.starts_with('`') { format!("write {key} = {}", value.replace('`', "")) } else { format!("write {key}: it takes a {value}") };
        self.wrong(&self.span, format!("`{key}` is missing in {}", self.schema.name), help);
    }

    /// What is written behind a key, as the reference describes it.
    fn value_of(&self, key: &str) -> &'static str {
        self.schema.keys.iter().find(|known| known.key == key).map_or("", |known| known.value)
    }

    /// Whether the key is written at all.
    pub(super) fn has(&self, key: &str) -> Option<Range<usize>> {
        self.value(key).map(Spanned::span)
    }

    pub(super) fn string(&self, key: &str) -> Option<At<&'a str>> {
        let value = self.value(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(At { value: text, span: value.span() }),
            None => self.mistyped(key, "a string", value),
        }
    }

    pub(super) fn required(&self, key: &str) -> Option<At<&'a str>> {
        if self.value(key).is_none() {
            self.missing(key);
        }
        self.string(key)
    }

    /// A string that `read` makes sense of.
    pub(super) fn parsed<T>(&self, key: &str, read: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<At<T>> {
        let text = self.string(key)?;
        let value = self.faults.keep(&text.span, read(text.value))?;
        Some(At { value, span: text.span })
    }

    /// The keys here that are on and weaken safety, behind `label`: all that the schema has, so that none is forgotten.
    pub(super) fn insecure(&self, label: &str) -> Vec<String> {
        let on = self.schema.keys.iter().filter(|known| known.key.starts_with("insecure_") && self.flag(known.key));
        on.map(|known| format!("{label}.{}", known.key)).collect()
    }

    /// A duration from `least` to `most`.
    pub(super) fn within(&self, key: &str, least: Duration, most: Duration) -> Option<Duration> {
        self.parsed(key, values::duration_within(least, most)).map(|duration| duration.value)
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        let Some(value) = self.value(key) else { return false };
        value.get_ref().as_bool().or_else(|| self.mistyped(key, "true or false", value)).unwrap_or(false)
    }

    /// A number within `range`.
    pub(super) fn number(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(key)?;
        let Some(number) = value.get_ref().as_integer() else { return self.mistyped(key, "a number", value) };
        let read = u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok().filter(|number| range.contains(number));
        if read.is_none() {
            self.wrong(&value.span(), format!("`{key}` is {}", number.as_str()), format!("write a number from {} to {}", range.start(), range.end()));
        }
        read
    }

    /// A list of strings; an absent or empty list is empty, and an empty one that is written is noted.
    pub(super) fn strings(&self, key: &str) -> Vec<At<&'a str>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.mistyped::<()>(key, "a list of strings", value);
            return Vec::new();
        };
        if list.is_empty() {
            self.wrong(&value.span(), format!("`{key}` is empty"), "an empty list does not mean \"any\": write what is meant, or leave the key out");
        }
        let read = |item: &'a Spanned<DeValue<'a>>| match item.get_ref().as_str() {
            Some(text) => Some(At { value: text, span: item.span() }),
            None => self.mistyped(key, "a list of strings", item),
        };
        list.iter().filter_map(read).collect()
    }

    /// A list whose strings `read` makes sense of.
    pub(super) fn parsed_list<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, Wrong>) -> Vec<At<T>> {
        let keep = |text: At<&str>| self.faults.keep(&text.span, read(text.value)).map(|value| At { value, span: text.span });
        self.strings(key).into_iter().filter_map(keep).collect()
    }

    pub(super) fn table(&self, key: &str, schema: &'static schema::Section) -> Option<Self> {
        let value = self.value(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Self::open(schema, table, value.span(), self.faults)),
            None => self.mistyped(key, "a table", value),
        }
    }

    /// The tables of `[[key]]`.
    pub(super) fn tables(&self, key: &str, schema: &'static schema::Section) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.mistyped::<()>(key, &format!("a list of tables, [[{key}]]"), value);
            return Vec::new();
        };
        let read = |item: &'a Spanned<DeValue<'a>>| match item.get_ref().as_table() {
            Some(table) => Some(Self::open(schema, table, item.span(), self.faults)),
            None => self.mistyped(key, &format!("a list of tables, [[{key}]]"), item),
        };
        list.iter().filter_map(read).collect()
    }

    /// The tables of `[key.NAME]`.
    pub(super) fn named(&self, key: &str, schema: &'static schema::Section) -> Vec<(At<&'a str>, Self)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(tables) = value.get_ref().as_table() else {
            self.mistyped::<()>(key, &format!("tables by name, [{key}.NAME]"), value);
            return Vec::new();
        };
        let read = |(name, value): (&'a Spanned<std::borrow::Cow<'a, str>>, &'a Spanned<DeValue<'a>>)| match value.get_ref().as_table() {
            Some(table) => Some((At { value: name.get_ref().as_ref(), span: name.span() }, Self::open(schema, table, value.span(), self.faults))),
            None => self.mistyped(key, "a table", value),
        };
        tables.iter().filter_map(read).collect()
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(self.schema.keys.iter().any(|known| known.key == key), "{key} is read and not in the schema of {}", self.schema.name);
        self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    fn mistyped<T>(&self, key: &str, wanted: &str, value: &Spanned<DeValue<'_>>) -> Option<T> {
        let unit = if self.value_of(key).starts_with("duration") { ", with its unit: \"30s\"" } else { "" };
        self.wrong(&value.span(), format!("`{key}` is {}, not {wanted}", kind(value.get_ref())), format!("`{key}` takes: {}{unit}", self.value_of(key)));
        None
    }
}

fn unknown(schema: &schema::Section, name: &str, span: Range<usize>) -> Diagnostic {
    let keys = schema.keys.iter().map(|key| key.key);
    // What is written behind the first table is that table's.
    let of_file = schema.name != schema::FILE.name && schema::FILE.keys.iter().any(|key| key.key == name && !key.value.contains("table"));
    let help = match nearest(name, keys.clone()) {
        _ if of_file => format!("`{name}` stands at the top of the file, before the first [table]"),
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", keys.collect::<Vec<_>>().join(", ")),
    };
    Diagnostic::new(span, format!("unknown key `{name}` in {}", schema.name)).help(help)
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
