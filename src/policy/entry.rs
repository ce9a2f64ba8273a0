//! One entry of a policy: the platform's vocabulary, filled with the operator's words or the defaults.

use jsonc_parser::ast::Value;

use super::json::{DIGESTS, Problems, Table, array, duration, hex, number};
use super::vocabulary::{Always, Field, Flag, Meaning, Product, Rule, Unset, Vocabulary, Written, Zero};
use super::{Accept, Constraint, FirmwarePart, Tolerated};
use crate::evidence::Timestamp;

/// The constraints and the loosening keys of one entry.
pub(super) fn constraints(table: &mut Table<'_, '_>, vocabulary: &'static Vocabulary, problems: &mut Problems) -> (Vec<Constraint>, Vec<&'static str>) {
    let mut loosened = loosening(table, vocabulary, problems);
    let present: Vec<&'static str> = vocabulary.fields.iter().map(|field| field.key).filter(|key| table.take(key).is_some()).collect();
    loosened.extend(present.iter().filter(|key| key.starts_with("insecure_")));
    let mut reader = EntryReader { loosened: &loosened, present: &present, problems };
    let constraints = vocabulary.fields.iter().filter_map(|field| Some(Constraint { field, accept: reader.field(table, field)? })).collect();
    (constraints, loosened)
}

/// What holds of a platform's evidence when nothing is pinned.
pub(super) fn genuine(vocabulary: &'static Vocabulary) -> Vec<Constraint> {
    vocabulary
        .fields
        .iter()
        .filter(|field| field.always == Always::Genuine)
        .filter_map(|field| match &field.rule {
            Rule::Flags { flags, .. } => {
                let (set, clear) = bits(flags.iter().filter(|flag| flag.always == Always::Genuine).map(|flag| (flag, strict(flag.meaning))));
                Some(Constraint { field, accept: Accept::Bits { set, clear } })
            }
            Rule::Words { default, .. } => Some(Constraint { field, accept: Accept::Words(default.iter().map(|word| (*word).to_owned()).collect()) }),
            Rule::Rising { .. } => Some(Constraint { field, accept: Accept::Rising { least: 0, shipped: true } }),
            Rule::TcbStatus { .. } => Some(Constraint { field, accept: Accept::TcbStatus(Vec::new()) }),
            _ => None,
        })
        .collect()
}

fn loosening(table: &mut Table<'_, '_>, vocabulary: &'static Vocabulary, problems: &mut Problems) -> Vec<&'static str> {
    let mut written = Vec::new();
    for loosening in vocabulary.loosening {
        match (table.take(loosening.key), loosening.written) {
            (None, Written::Needed) => problems.at(
                table.place(),
                format!("{} is off unless the entry says {}", vocabulary.tee, loosening.key),
                format!("it {}; if you know that, write the key with the reason", loosening.doc),
            ),
            (None, _) => {}
            (Some(Value::BooleanLit(value)), Written::True) if value.value => written.push(loosening.key),
            (Some(Value::StringLit(why)), Written::Needed | Written::Why) if !why.value.trim().is_empty() => written.push(loosening.key),
            (Some(other), Written::True) => problems.at(other, format!("{} can only be true", loosening.key), "leave it out to stay safe"),
            (Some(other), Written::Needed | Written::Why) => {
                problems.at(other, format!("{} must be a text that says why", loosening.key), "leave it out to stay safe");
            }
        }
    }
    written
}

struct EntryReader<'p> {
    loosened: &'p [&'static str],
    present: &'p [&'static str],
    problems: &'p mut Problems,
}

impl EntryReader<'_> {
    fn field(&mut self, table: &mut Table<'_, '_>, field: &'static Field) -> Option<Accept> {
        let value = table.take(field.key);
        if value.is_none() {
            match field.unset {
                Unset::Default => {}
                Unset::Unjudged => return None,
                Unset::Beside { key } if !self.present.contains(&key) => return None,
                Unset::Beside { key } => {
                    self.problems.at(table.place(), format!("{key} without {}", field.key), format!("{key} alone accepts too much: {}", field.doc));
                    return None;
                }
                Unset::Instead { of, unless } if self.present.contains(&of) || self.loosened.contains(&unless) => return None,
                Unset::Refused { unless } if self.loosened.contains(&unless) => return None,
                Unset::Instead { unless, .. } | Unset::Refused { unless } => {
                    self.problems.at(
                        table.place(),
                        format!("no {}: this entry would accept anything", field.key),
                        format!("list what you trust, or write \"{unless}\": true"),
                    );
                    return None;
                }
            }
        }
        match &field.rule {
            Rule::Bytes { length, zero, beside, .. } => {
                self.beside(value?, field, *beside);
                self.bytes(value?, field, std::slice::from_ref(length), *zero)
            }
            Rule::Components { .. } => self.components(value?, field),
            Rule::Digest { zero, .. } => self.bytes(value?, field, DIGESTS, *zero),
            Rule::Flags { flags, .. } => Some(self.flags(value, field, flags)),
            Rule::MaxAge { default, most, .. } => Some(Accept::MaxAge(duration(table, field.key, *default, *most, self.problems))),
            Rule::Includes { .. } => self.includes(value?, field),
            Rule::Mask { .. } => self.mask(value?, field),
            Rule::Minimum { beside, .. } => {
                self.beside(value?, field, *beside);
                number(value?, field.key, self.problems).map(Accept::Minimum)
            }
            Rule::Numbers { default, .. } => self.numbers(value, field, default),
            Rule::Registers { length, names, .. } => self.registers(value?, field, *length, names),
            Rule::Required { .. } => self.required(value?, field),
            Rule::Rising { lowered_by, .. } => {
                let least = value.and_then(|value| number(value, field.key, self.problems));
                Some(Accept::Rising { least: least.unwrap_or_default(), shipped: least.is_none() || !self.loosened.contains(lowered_by) })
            }
            Rule::Same { loosened_by, .. } => self.same(value, field, loosened_by),
            Rule::Tcb { products, lowered_by, .. } => Some(self.tcb(value, field, products, lowered_by)),
            Rule::TcbStatus { tolerable, .. } => Some(Accept::TcbStatus(self.tolerated(value, field, tolerable))),
            Rule::Version { default, lowered_by, .. } => Some(self.version(value, field, default, lowered_by)),
            Rule::Words { .. } => self.words(value, field),
        }
    }

    fn beside(&mut self, value: &Value<'_>, field: &Field, beside: Option<&str>) {
        if let Some(key) = beside.filter(|key| !self.present.contains(key)) {
            self.problems.at(
                value,
                format!("{} means nothing without {key}", field.key),
                format!("whoever launches the guest chooses it; pin {key} in the same entry"),
            );
        }
    }

    fn bytes(&mut self, value: &Value<'_>, field: &Field, lengths: &[usize], zero: Zero) -> Option<Accept> {
        let values: Vec<&Value<'_>> = match value {
            Value::Object(_) => {
                let mut table = Table::of(value, field.key, self.problems)?;
                let list = table.take("any_of");
                table.finish(self.problems);
                let Some(list) = list else {
                    self.problems.at(value, format!("{} needs any_of", field.key), "{ \"any_of\": [\"<hex>\", …] }, or one hex string");
                    return None;
                };
                array(list, "any_of", self.problems)?.elements.iter().collect()
            }
            other => vec![other],
        };
        if values.is_empty() {
            self.problems.at(value, format!("{} is an empty list", field.key), "an empty list accepts nothing; list what you trust");
            return None;
        }
        let mut accepted = Vec::new();
        for value in values {
            let Some(octets) = hex(value, field.key, lengths, self.problems) else { continue };
            if zero == Zero::Refused && octets.iter().all(|octet| *octet == 0) {
                self.problems.at(value, format!("{} is all zero", field.key), "zero is what the hardware reports when nothing was set; pin a real value");
                continue;
            }
            accepted.push(octets);
        }
        Some(Accept::Bytes(accepted))
    }

    fn components(&mut self, value: &Value<'_>, field: &Field) -> Option<Accept> {
        let list = array(value, field.key, self.problems)?;
        if list.elements.is_empty() {
            self.problems.at(value, format!("{} is an empty list", field.key), "an empty list accepts nothing; list what you trust");
        }
        let mut parts = Vec::new();
        for value in &list.elements {
            let Some(mut table) = Table::of(value, "a part of the firmware", self.problems) else { continue };
            let kind = table.text("type", self.problems).map(|(kind, _)| kind.to_owned());
            let (measurement, signer) = (table.take("measurement"), table.take("signer"));
            table.finish(self.problems);
            let (Some(measurement), Some(signer)) = (measurement, signer) else {
                self.problems.at(value, "measurement and signer say which part it is", "{ \"type\": …, \"measurement\": \"<hex>\", \"signer\": \"<hex>\" }");
                continue;
            };
            let measurement = hex(measurement, "measurement", DIGESTS, self.problems);
            if let (Some(measurement), Some(signer)) = (measurement, hex(signer, "signer", DIGESTS, self.problems)) {
                parts.push(FirmwarePart { kind, measurement, signer });
            }
        }
        Some(Accept::Components(parts))
    }

    fn registers(&mut self, value: &Value<'_>, field: &Field, length: usize, names: &'static [&'static str]) -> Option<Accept> {
        let mut table = Table::of(value, field.key, self.problems)?;
        let written: Vec<_> = names.iter().filter_map(|name| Some((*name, table.take(name)?))).collect();
        table.finish(self.problems);
        if written.is_empty() {
            self.problems.at(value, format!("{} names no register", field.key), "{ \"0\": \"<hex>\", … }");
            return None;
        }
        let mut registers = Vec::new();
        for (name, value) in written {
            if let Some(Accept::Bytes(values)) = self.bytes(value, field, &[length], Zero::Allowed) {
                registers.push((name, values));
            }
        }
        Some(Accept::Registers(registers))
    }

    fn flags(&mut self, value: Option<&Value<'_>>, field: &Field, flags: &'static [Flag]) -> Accept {
        let mut table = value.and_then(|value| Table::of(value, field.key, self.problems));
        let mut chosen = Vec::new();
        for flag in flags {
            let written = table.as_mut().and_then(|table| table.take(flag.key));
            chosen.push((flag, self.flag(flag, written)));
        }
        if let Some(table) = table {
            table.finish(self.problems);
        }
        let (set, clear) = bits(chosen.into_iter());
        Accept::Bits { set, clear }
    }

    fn flag(&mut self, flag: &Flag, written: Option<&Value<'_>>) -> bool {
        let (default, unless, loose) = match flag.meaning {
            Meaning::Weakens { default, unless } => (default, unless, true),
            Meaning::Strengthens { default, unless } => (default, unless, false),
        };
        if unless.is_some_and(|key| self.loosened.contains(&key)) {
            return loose;
        }
        match (written, unless) {
            (None, _) => default,
            (Some(Value::BooleanLit(value)), Some(key)) if value.value == loose => {
                self.problems.at(value, format!("{} cannot be {loose} here", flag.key), format!("if you mean it, write {key} in the entry instead"));
                default
            }
            (Some(Value::BooleanLit(value)), _) => value.value,
            (Some(other), _) => {
                self.problems.at(other, format!("{} must be true or false", flag.key), flag.doc);
                default
            }
        }
    }

    fn mask(&mut self, value: &Value<'_>, field: &Field) -> Option<Accept> {
        let text = value.as_string_lit().and_then(|text| text.value.strip_prefix("0x"));
        let mask = text.and_then(|digits| u64::from_str_radix(digits, 16).ok()).filter(|mask| *mask != 0);
        if mask.is_none() {
            self.problems.at(value, format!("{} must be a bit mask", field.key), "such as \"0x3\"; not zero");
        }
        mask.map(|set| Accept::Bits { set, clear: 0 })
    }

    fn numbers(&mut self, value: Option<&Value<'_>>, field: &Field, default: &[u64]) -> Option<Accept> {
        let Some(value) = value else { return Some(Accept::Numbers(default.to_vec())) };
        let list = array(value, field.key, self.problems)?;
        if list.elements.is_empty() {
            self.problems.at(value, format!("{} is an empty list", field.key), "an empty list accepts nothing");
        }
        Some(Accept::Numbers(list.elements.iter().filter_map(|value| number(value, field.key, self.problems)).collect()))
    }

    fn required(&mut self, value: &Value<'_>, field: &Field) -> Option<Accept> {
        match value {
            Value::BooleanLit(value) => value.value.then_some(Accept::Present),
            other => {
                self.problems.at(other, format!("{} must be true or false", field.key), field.doc);
                None
            }
        }
    }

    fn same(&mut self, value: Option<&Value<'_>>, field: &Field, loosened_by: &str) -> Option<Accept> {
        match value {
            None => {}
            Some(Value::BooleanLit(value)) if value.value => {}
            Some(other) => {
                self.problems.at(other, format!("{} can only be true", field.key), format!("if you mean it, write {loosened_by} in the entry instead"));
            }
        }
        (!self.loosened.contains(&loosened_by)).then_some(Accept::Same)
    }

    fn tcb(&mut self, value: Option<&Value<'_>>, field: &Field, products: &'static [Product], lowered_by: &str) -> Accept {
        let mut table = value.and_then(|value| Table::of(value, field.key, self.problems));
        let mut floors = Vec::new();
        for product in products {
            let written = table.as_mut().and_then(|table| table.take(product.name));
            let mut components = written.and_then(|value| Table::of(value, product.name, self.problems));
            let mut floor = Vec::new();
            for component in product.components {
                let value = components.as_mut().and_then(|components| components.take(component.key));
                floor.push(value.map_or(component.floor, |value| self.component(value, component.key, component.floor, lowered_by)));
            }
            if let Some(components) = components {
                components.finish(self.problems);
            }
            floors.push((product, floor));
        }
        if let Some(table) = table {
            table.finish(self.problems);
        }
        Accept::Tcb(floors)
    }

    fn component(&mut self, value: &Value<'_>, key: &str, shipped: u8, lowered_by: &str) -> u8 {
        let Some(written) = number(value, key, self.problems) else { return shipped };
        let Ok(written) = u8::try_from(written) else {
            self.problems.at(value, format!("{key} is above 255"), "security versions are one octet");
            return shipped;
        };
        if written < shipped && !self.loosened.contains(&lowered_by) {
            self.problems.at(
                value,
                format!("{key} {written} is below the shipped floor {shipped}"),
                format!("raise it, or write {lowered_by} in the entry with the reason"),
            );
            return shipped;
        }
        written
    }

    fn includes(&mut self, value: &Value<'_>, field: &Field) -> Option<Accept> {
        let list = array(value, field.key, self.problems)?;
        if list.elements.is_empty() {
            self.problems.at(list, format!("{} is an empty list", field.key), "leave it out to ask for nothing");
        }
        let mut words = Vec::new();
        for value in &list.elements {
            match value.as_string_lit() {
                Some(text) => words.push(text.value.to_string()),
                None => self.problems.at(value, format!("{} takes strings", field.key), field.doc),
            }
        }
        Some(Accept::Includes(words))
    }

    fn tolerated(&mut self, value: Option<&Value<'_>>, field: &Field, tolerable: &[&str]) -> Vec<Tolerated> {
        let Some(list) = value.and_then(|value| array(value, field.key, self.problems)) else { return Vec::new() };
        if list.elements.is_empty() {
            self.problems.at(list, format!("{} is an empty list", field.key), "leave it out to stay safe");
        }
        list.elements.iter().filter_map(|value| self.one_tolerated(value, field, tolerable)).collect()
    }

    fn one_tolerated(&mut self, value: &Value<'_>, field: &Field, tolerable: &[&str]) -> Option<Tolerated> {
        let mut table = Table::of(value, field.key, self.problems)?;
        let status = table.text("status", self.problems);
        let until = table.text("until", self.problems);
        let advisories = table.take("advisories");
        table.finish(self.problems);
        let (Some((status, place)), Some((until, moment)), Some(advisories)) = (status, until, advisories) else {
            let shape = "{ \"status\": WORD, \"advisories\": [ID, …], \"until\": TIME }";
            self.problems.at(value, format!("{} needs status, advisories and until", field.key), shape);
            return None;
        };
        if !tolerable.contains(&status) {
            self.problems.at(place, format!("{status} cannot be tolerated"), format!("one of {}", tolerable.join(", ")));
            return None;
        }
        let parsed = Timestamp::parse(until);
        if parsed.is_none() {
            self.problems.at(moment, "until must be an RFC 3339 time".to_owned(), "such as \"2027-01-31T00:00:00Z\"");
        }
        let mut tolerated = Vec::new();
        for advisory in &array(advisories, "advisories", self.problems)?.elements {
            match advisory.as_string_lit() {
                Some(text) => tolerated.push(text.value.to_string()),
                None => self.problems.at(advisory, "advisories takes strings".to_owned(), "write each as its vendor calls it"),
            }
        }
        Some(Tolerated { status: status.to_owned(), advisories: tolerated, until: parsed? })
    }

    fn version(&mut self, value: Option<&Value<'_>>, field: &Field, default: &[u64], lowered_by: &str) -> Accept {
        let Some(value) = value else { return Accept::Version(default.to_vec()) };
        let text = value.as_string_lit().map(|text| text.value.as_ref()).unwrap_or_default();
        let parsed: Option<Vec<u64>> = text.split('.').map(|part| part.parse().ok()).collect();
        let Some(version) = parsed.filter(|version| (2..=3).contains(&version.len())) else {
            self.problems.at(value, format!("{} must be a version", field.key), "such as \"1.55\" or \"1.55.43\"");
            return Accept::Version(default.to_vec());
        };
        if version.as_slice() < default && !self.loosened.contains(&lowered_by) {
            let shipped: Vec<_> = default.iter().map(u64::to_string).collect();
            self.problems.at(
                value,
                format!("{} {text} is below the shipped {}", field.key, shipped.join(".")),
                format!("raise it, or write {lowered_by} in the entry with the reason"),
            );
            return Accept::Version(default.to_vec());
        }
        Accept::Version(version)
    }

    fn words(&mut self, value: Option<&Value<'_>>, field: &Field) -> Option<Accept> {
        let Rule::Words { known, default, guarded, needs, .. } = &field.rule else { return None };
        let Some(value) = value else { return Some(Accept::Words(default.iter().map(|word| (*word).to_owned()).collect())) };
        let list = array(value, field.key, self.problems)?;
        if list.elements.is_empty() {
            self.problems.at(value, format!("{} is an empty list", field.key), "an empty list accepts nothing");
        }
        let mut words = Vec::new();
        for value in &list.elements {
            let Some(word) = value.as_string_lit().map(|text| text.value.as_ref()) else {
                self.problems.at(value, format!("{} takes strings", field.key), "");
                continue;
            };
            if !known.is_empty() && !known.contains(&word) {
                let near = crate::diagnostic::nearest(word, known.iter().copied());
                self.problems.at(
                    value,
                    format!("unknown value {word}"),
                    near.map_or_else(|| format!("one of {}", known.join(", ")), |near| format!("did you mean {near}?")),
                );
                continue;
            }
            if let Some((_, key)) = guarded.iter().find(|(guarded, key)| *guarded == word && !self.loosened.contains(key)) {
                self.problems.at(value, format!("{word} is not accepted without {key}"), "write that key in the entry with the reason");
                continue;
            }
            if let Some((_, key)) = needs.iter().find(|(needy, key)| *needy == word && !self.present.contains(key)) {
                self.problems.at(value, format!("{word} needs {key} in the same entry"), "say whose");
                continue;
            }
            words.push(word.to_owned());
        }
        Some(Accept::Words(words))
    }
}

fn strict(meaning: Meaning) -> bool {
    matches!(meaning, Meaning::Strengthens { .. })
}

/// The masks of chosen flags: the stricter word constrains, the other does not.
fn bits<'f>(chosen: impl Iterator<Item = (&'f Flag, bool)>) -> (u64, u64) {
    chosen.fold((0, 0), |(set, clear), (flag, value)| {
        let bit = 1_u64.checked_shl(flag.bit).unwrap_or(0);
        match (flag.meaning, value) {
            (Meaning::Strengthens { .. }, true) => (set | bit, clear),
            (Meaning::Weakens { .. }, false) => (set, clear | bit),
            _ => (set, clear),
        }
    })
}
