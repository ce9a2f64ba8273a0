//! An entry made from claims: this code, on the products seen, and what else the operator wants pinned.

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use crate::diagnostic::nearest;
use crate::evidence::Claims;
use crate::policy::{Field, Rule, Unset, Vocabulary};

/// What an operator says about a new entry.
pub(super) struct Draft<'a> {
    /// Its name.
    pub(super) id: &'a str,
    /// A note for people.
    pub(super) note: Option<&'a str>,
    /// Keys to pin beyond the least.
    pub(super) pin: &'a [String],
    /// Loosening keys: `KEY` or `KEY=WHY`.
    pub(super) insecure: &'a [String],
}

impl Draft<'_> {
    /// The entry as JSON. Whether it is right is for the loader.
    ///
    /// # Errors
    /// A key that the platform does not have, or that the claims say nothing about.
    pub(super) fn entry(&self, vocabulary: &Vocabulary, claims: &Claims) -> anyhow::Result<Value> {
        self.only_known_pins(vocabulary)?;
        let mut entry = Map::new();
        entry.insert("id".to_owned(), self.id.into());
        entry.extend(self.note.map(|note| ("note".to_owned(), note.into())));
        entry.insert("tee".to_owned(), vocabulary.tee.into());
        for key in self.insecure {
            let (key, value) = key.split_once('=').map_or((key.as_str(), Value::Bool(true)), |(key, why)| (key, why.into()));
            entry.insert(key.to_owned(), value);
        }
        let mut needed: Vec<&str> = Vec::new();
        let mut values: Vec<(&str, Value)> = Vec::new();
        for field in vocabulary.fields {
            let asked = self.pin.iter().any(|key| key == field.key) || needed.contains(&field.key);
            let let_go = matches!(field.unset, Unset::Instead { unless, .. } | Unset::Refused { unless } if entry.contains_key(unless));
            let value = match (asked, let_go) {
                (true, _) => Some(pinned(field, claims)?),
                (false, false) => narrowed(field, claims),
                (false, true) => None,
            };
            if let (Some(Value::Array(words)), Rule::Words { needs, .. }) = (&value, &field.rule) {
                needed.extend(needs.iter().filter(|(word, _)| words.iter().any(|found| found == word)).map(|(_, key)| *key));
            }
            values.extend(value.map(|value| (field.key, value)));
        }
        entry.extend(values.into_iter().map(|(key, value)| (key.to_owned(), value)));
        Ok(Value::Object(entry))
    }

    fn only_known_pins(&self, vocabulary: &Vocabulary) -> anyhow::Result<()> {
        let known = || vocabulary.fields.iter().map(|field| field.key);
        match self.pin.iter().find(|key| !known().any(|known| known == key.as_str())) {
            None => Ok(()),
            Some(key) => match nearest(key, known()) {
                Some(near) => bail!("--pin {key}: {} has no such key; did you mean {near}?", vocabulary.tee),
                None => bail!("--pin {key}: {} has no such key; it has {}", vocabulary.tee, known().collect::<Vec<_>>().join(", ")),
            },
        }
    }
}

/// The value without which the entry would accept more, or other, than what was seen; `None` where the default does.
fn narrowed(field: &Field, claims: &Claims) -> Option<Value> {
    match (&field.rule, field.unset) {
        (Rule::Bytes { claim, .. } | Rule::Digest { claim, .. }, Unset::Instead { .. } | Unset::Refused { .. }) => {
            claims.bytes(claim).map(|octets| hex(octets).into())
        }
        (Rule::Components { .. } | Rule::Registers { .. }, Unset::Refused { .. }) => pinned(field, claims).ok(),
        (Rule::Numbers { claim, default }, Unset::Default) => claims.number(claim).filter(|found| *default != [*found]).map(|found| json!([found])),
        (Rule::Words { claim, default, .. }, Unset::Default) => claims.text(claim).filter(|found| *default != [*found]).map(|found| json!([found])),
        _ => None,
    }
}

/// The value that was seen, for a key that is asked for.
fn pinned(field: &Field, claims: &Claims) -> anyhow::Result<Value> {
    let value = match &field.rule {
        Rule::Bytes { claim, .. } | Rule::Digest { claim, .. } => claims.bytes(claim).map(|octets| hex(octets).into()),
        Rule::Components { claim } => claims.list(claim).map(|parts| parts.iter().map(part).collect()),
        Rule::Minimum { claim, .. } | Rule::Rising { claim, .. } => claims.number(claim).map(Value::from),
        Rule::Required { claim } => claims.find(claim).map(|_| json!(true)),
        Rule::Numbers { claim, .. } => claims.number(claim).map(|found| json!([found])),
        Rule::Includes { claim } => claims.texts(claim).map(Value::from),
        Rule::Words { claim, .. } => claims.text(claim).map(|found| json!([found])),
        Rule::Tcb { claims: wanted, product, products, .. } => {
            let product = products.iter().find(|known| claims.text(product) == Some(known.name));
            product.map(|product| {
                let least = |claim: &str| wanted.iter().filter_map(|tcb| claims.map(tcb.claim)?.number(claim)).min();
                let floor: Map<_, _> = product.components.iter().filter_map(|part| Some((part.key.to_owned(), least(part.claim)?.into()))).collect();
                json!({ product.name: floor })
            })
        }
        Rule::Version { claims: wanted, .. } => {
            let parts = |text: &str| text.split('.').filter_map(|part| part.parse().ok()).collect::<Vec<u64>>();
            wanted.iter().filter_map(|claim| claims.text(claim)).min_by_key(|text| parts(text)).map(Value::from)
        }
        Rule::Registers { claim, names, .. } => claims.map(claim).map(|registers| {
            let named = names.iter().filter_map(|name| Some(((*name).to_owned(), hex(registers.bytes(name)?).into())));
            Value::Object(named.collect())
        }),
        Rule::Flags { .. } | Rule::Mask { .. } | Rule::MaxAge { .. } | Rule::Same { .. } | Rule::TcbStatus { .. } => {
            bail!("--pin {}: write this key into the file; its values are choices, not measurements", field.key)
        }
    };
    value.with_context(|| format!("--pin {}: the evidence does not say", field.key))
}

fn part(part: &Claims) -> Value {
    let mut object = Map::new();
    object.extend(part.text("type").map(|kind| ("type".to_owned(), kind.into())));
    let digest = |name: &str| Some((name.to_owned(), hex(part.bytes(name)?).into()));
    object.extend(["measurement", "signer"].into_iter().filter_map(digest));
    Value::Object(object)
}

fn hex(octets: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(octets)
}
