//! JSON with places: every mismatch becomes a message about a span of the file, and reading goes on.

use jsonc_parser::ast::{Array, Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};

use crate::diagnostic::{Diagnostic, nearest};

/// The strict grammar of RFC 8259.
const STRICT: ParseOptions = ParseOptions {
    allow_bare_decimal_point_numbers: false,
    allow_comments: false,
    allow_extended_string_escapes: false,
    allow_hexadecimal_numbers: false,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_non_finite_numbers: false,
    allow_single_quoted_strings: false,
    allow_trailing_commas: false,
    allow_unary_plus_numbers: false,
};

/// Weakening keys of the whole policy.
const TOP_LEVEL: [&str; 2] = ["insecure_allow_missing_crl", "insecure_roots"];

/// The messages of one file so far.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Diagnostic>);

impl Problems {
    pub(super) fn at(&mut self, what: &impl Ranged, message: impl Into<String>, help: impl Into<String>) {
        let range = what.range();
        self.0.push(Diagnostic::new(range.start..range.end, message).help(help));
    }
}

/// Parses a whole file.
pub(super) fn parse(text: &str) -> Result<Value<'_>, Diagnostic> {
    let collect = CollectOptions { comments: CommentCollectionStrategy::Off, tokens: false };
    match parse_to_ast(text, &collect, &STRICT) {
        Ok(parsed) => parsed.value.ok_or_else(|| Diagnostic::new(0..text.len(), "the file is empty").help("a policy is a JSON object")),
        Err(error) => {
            let range = error.range();
            Err(Diagnostic::new(range.start..range.end, format!("not JSON: {}", error.kind())))
        }
    }
}

/// An object whose keys are taken one by one; what is left at the end is unknown.
pub(super) struct Table<'v, 'a> {
    object: &'v Object<'a>,
    known: Vec<&'static str>,
}

impl<'v, 'a> Table<'v, 'a> {
    pub(super) fn of(value: &'v Value<'a>, what: &str, problems: &mut Problems) -> Option<Self> {
        match value {
            Value::Object(object) => Some(Self { object, known: Vec::new() }),
            other => {
                problems.at(other, format!("{what} must be an object"), "");
                None
            }
        }
    }

    /// The object itself, for messages about something that is missing.
    pub(super) fn place(&self) -> &'v Object<'a> {
        self.object
    }

    /// Declares a key and takes its value.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'v Value<'a>> {
        self.known.push(key);
        self.object.properties.iter().find(|property| property.name.as_str() == key).map(|property| &property.value)
    }

    pub(super) fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<(&'v str, &'v Value<'a>)> {
        let value = self.take(key)?;
        match value {
            Value::StringLit(text) => Some((text.value.as_ref(), value)),
            other => {
                problems.at(other, format!("{key} must be a string"), "");
                None
            }
        }
    }

    /// Reports keys that were not declared, and keys that stand twice.
    pub(super) fn finish(self, problems: &mut Problems) {
        let mut seen: Vec<&str> = Vec::new();
        for ObjectProp { name, range, .. } in &self.object.properties {
            let key = name.as_str();
            let place = range.start..range.start.saturating_add(key.len()).saturating_add(2).min(range.end);
            if seen.contains(&key) {
                problems.0.push(Diagnostic::new(place, format!("{key} stands twice")).help("keep one"));
            } else if !self.known.contains(&key) {
                let mut known = self.known.clone();
                known.sort_unstable();
                known.dedup();
                let near = nearest(key, known.iter().copied());
                let help = match (TOP_LEVEL.contains(&key), near) {
                    (true, _) => format!("{key} stands at the top of a policy, not in an entry"),
                    (_, Some(near)) => format!("did you mean {near}?"),
                    (_, None) => format!("known here: {}", known.join(", ")),
                };
                problems.0.push(Diagnostic::new(place, format!("unknown key {key}")).help(help));
            }
            seen.push(key);
        }
    }
}

/// An array, or a message.
pub(super) fn array<'v, 'a>(value: &'v Value<'a>, what: &str, problems: &mut Problems) -> Option<&'v Array<'a>> {
    match value {
        Value::Array(array) => Some(array),
        other => {
            problems.at(other, format!("{what} must be a list"), "");
            None
        }
    }
}

/// A whole number, or a message.
pub(super) fn number(value: &Value<'_>, what: &str, problems: &mut Problems) -> Option<u64> {
    let number = match value {
        Value::NumberLit(number) => number.value.parse().ok(),
        _ => None,
    };
    if number.is_none() {
        problems.at(value, format!("{what} must be a whole number"), "");
    }
    number
}

/// The lengths of digests.
pub(super) const DIGESTS: &[usize] = &[32, 48, 64];

/// Octets in hex, as many as one of `lengths`, or a message.
pub(super) fn hex(value: &Value<'_>, what: &str, lengths: &[usize], problems: &mut Problems) -> Option<Vec<u8>> {
    let alternatives = |scale: usize| lengths.iter().map(|length| length.saturating_mul(scale).to_string()).collect::<Vec<_>>().join(" or ");
    let wanted = || format!("{} octets, {} digits", alternatives(1), alternatives(2));
    let Value::StringLit(text) = value else {
        problems.at(value, format!("{what} must be a hex string"), wanted());
        return None;
    };
    match data_encoding::HEXLOWER_PERMISSIVE.decode(text.value.as_bytes()) {
        Ok(octets) if lengths.contains(&octets.len()) => Some(octets),
        Ok(octets) => {
            let help = format!("it must have {}: values are compared, never padded or cut", alternatives(1));
            problems.at(value, format!("{what} has {} octets", octets.len()), help);
            None
        }
        Err(_) => {
            problems.at(value, format!("{what} is not hex"), wanted());
            None
        }
    }
}

/// A duration with its unit in seconds, or a message.
pub(super) fn duration(table: &mut Table<'_, '_>, key: &'static str, default: u64, most: u64, problems: &mut Problems) -> u64 {
    let Some((text, value)) = table.text(key, problems) else { return default };
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds = digits.parse::<u64>().ok().zip(scale).and_then(|(number, scale)| number.checked_mul(scale));
    match seconds {
        Some(seconds) if seconds <= most => seconds,
        Some(_) => {
            problems.at(value, format!("{key} is too long"), format!("at most {most} s"));
            default
        }
        None => {
            problems.at(value, format!("{key} must be a number with a unit"), "such as \"90s\", \"10m\", \"24h\"");
            default
        }
    }
}
