//! The reference of policy files, generated from the platforms' tables: `docs/policy.md`.

use std::fmt::Write as _;

use crate::evidence::Timestamp;
use crate::platform::vocabularies;
use crate::policy::{Field, Flag, Meaning, RisingFloor, Rule, Unset, Vocabulary, Written, Zero};

/// The Markdown page that `docs/policy.md` must equal.
#[must_use]
pub fn policy_reference() -> String {
    let mut out = String::from(HEAD);
    for vocabulary in vocabularies() {
        platform(&mut out, vocabulary);
    }
    out.push_str(TAIL);
    out
}

fn platform(out: &mut String, vocabulary: &Vocabulary) {
    let _ = write!(out, "\n## Entries for `{}`\n\n| Key | Value | When absent | Refusal | |\n|---|---|---|---|---|\n", vocabulary.tee);
    for field in vocabulary.fields {
        let _ = writeln!(out, "| `{}` | {} | {} | `{}` | {} |", field.key, written(field), absent(field), field.reason, field.doc);
    }
    for field in vocabulary.fields {
        match &field.rule {
            Rule::Flags { flags, .. } => bits(out, field, flags),
            Rule::Rising { floors, .. } => rising(out, field, floors),
            Rule::Tcb { products, .. } => {
                let _ = write!(out, "\n### `{}`: the shipped floors\n\n| Product | Components |\n|---|---|\n", field.key);
                for product in *products {
                    let parts: Vec<_> = product.components.iter().map(|part| format!("`{}` {}", part.key, part.floor)).collect();
                    let _ = writeln!(out, "| `{}` | {} |", product.name, parts.join(", "));
                }
            }
            _ => {}
        }
    }
    let _ = write!(
        out,
        "\n### Keys that loosen an entry\n\nEach is logged at start and shown by `policy lint`.\n\n| Key | Value | What it does |\n|---|---|---|\n"
    );
    for key in vocabulary.loosening {
        let value = match key.written {
            Written::Needed => "a text that says why; without it the file is refused",
            Written::True => "`true`",
            Written::Why => "a text that says why",
        };
        let _ = writeln!(out, "| `{}` | {value} | {} |", key.key, key.doc);
    }
}

fn bits(out: &mut String, field: &Field, flags: &[Flag]) {
    let _ = write!(out, "\n### `{}`: the bits\n\n| Name | Bit | When absent | |\n|---|---|---|---|\n", field.key);
    for flag in flags {
        let (default, rule) = match flag.meaning {
            Meaning::Weakens { default, unless } => (default, format!("`false` requires it clear{}", instead(unless, "true"))),
            Meaning::Strengthens { default, unless } => (default, format!("`true` requires it set{}", instead(unless, "false"))),
        };
        let _ = writeln!(out, "| `{}` | {} | `{default}` | {}; {rule} |", flag.key, flag.bit, flag.doc);
    }
}

fn rising(out: &mut String, field: &Field, floors: &[RisingFloor]) {
    let _ = write!(out, "\n### `{}`: the shipped numbers\n\n| From | At least |\n|---|---|\n", field.key);
    for floor in floors {
        let _ = writeln!(out, "| {} | {} |", Timestamp(floor.from), floor.number);
    }
}

fn instead(unless: Option<&str>, loose: &str) -> String {
    unless.map(|key| format!("; instead of `{loose}` write `{key}` in the entry")).unwrap_or_default()
}

fn written(field: &Field) -> String {
    match &field.rule {
        Rule::Bytes { length, zero, beside, .. } => {
            let zero = if *zero == Zero::Refused { ", not all zero" } else { "" };
            let beside = beside.map(|key| format!("; with `{key}`")).unwrap_or_default();
            format!("hex of {length} octets{zero}, or `{{ \"any_of\": [hex, …] }}`{beside}")
        }
        Rule::Components { .. } => {
            "a list of `{ \"type\": text, \"measurement\": hex, \"signer\": hex }`; each part of the evidence is one of them, each type of them is there, and each without a type"
                .to_owned()
        }
        Rule::Digest { zero, .. } => {
            let zero = if *zero == Zero::Refused { ", not all zero" } else { "" };
            format!("hex of 32, 48 or 64 octets{zero}, or `{{ \"any_of\": [hex, …] }}`")
        }
        Rule::Flags { .. } => "an object of names with `true` or `false`".to_owned(),
        Rule::Includes { .. } => "a list of texts".to_owned(),
        Rule::MaxAge { most, .. } => format!("a duration, at most `{most}s`"),
        Rule::Mask { .. } => "`\"0x…\"`".to_owned(),
        Rule::Minimum { beside, .. } => format!("a number{}", beside.map(|key| format!("; with `{key}`")).unwrap_or_default()),
        Rule::Numbers { .. } => "a list of numbers".to_owned(),
        Rule::Registers { length, names, .. } => {
            let names = match names {
                [first, .., last] => format!("`{first}` to `{last}`"),
                _ => names.join(", "),
            };
            format!("an object of {names} with hex of {length} octets, or `{{ \"any_of\": [hex, …] }}`, each")
        }
        Rule::Required { .. } => "`true` or `false`".to_owned(),
        Rule::Rising { lowered_by, .. } => format!("a number, beside the shipped ones; with `{lowered_by}` instead of them"),
        Rule::Same { .. } => "`true`".to_owned(),
        Rule::Tcb { .. } => "an object of products, each an object of components".to_owned(),
        Rule::TcbStatus { tolerable, .. } => {
            let words: Vec<_> = tolerable.iter().map(|word| format!("`{word}`")).collect();
            format!("a list of `{{ \"status\": WORD, \"advisories\": [ID, …], \"until\": TIME }}`, WORD one of {}", words.join(", "))
        }
        Rule::Version { .. } => "`\"major.minor\"` or `\"major.minor.build\"`".to_owned(),
        Rule::Words { known: [], .. } => "a list of texts".to_owned(),
        Rule::Words { known, .. } => format!("a list of {}", known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")),
    }
}

fn absent(field: &Field) -> String {
    match (field.unset, &field.rule) {
        (Unset::Beside { key }, _) => format!("not checked; the file is refused where `{key}` is there"),
        (Unset::Instead { of, unless }, _) => format!("the file is refused, unless `{of}` is there, or `{unless}`"),
        (Unset::Default, Rule::TcbStatus { good, .. }) => format!("`{good}` alone"),
        (Unset::Refused { unless }, _) => format!("the file is refused, unless `{unless}`"),
        (Unset::Unjudged, _) => "not checked".to_owned(),
        (Unset::Default, Rule::Numbers { default, .. }) => format!("`{default:?}`"),
        (Unset::Default, Rule::Words { default, .. }) => format!("`{default:?}`"),
        (Unset::Default, Rule::Version { default, .. }) => format!("`{}`", default.iter().map(u64::to_string).collect::<Vec<_>>().join(".")),
        (Unset::Default, Rule::MaxAge { default, .. }) => format!("`{default}s`"),
        (Unset::Default, Rule::Same { .. }) => "`true`".to_owned(),
        (Unset::Default, _) => "see below".to_owned(),
    }
}

const HEAD: &str = "# Policy files

Generated from the tables that the program reads policies with; a test fails when it differs.

A policy is one JSON object (RFC 8259: no comments, no trailing commas), at most 1 MiB. Unknown keys, keys that stand
twice and empty lists are errors, and all errors are reported at once with their place. Values are compared, never
padded or cut. The SHA-256 of the file is its identity in every log line. Work with it by `portcullis policy`:
`init` begins a file, `add` takes an entry from evidence, `lint` checks, `explain` says it in words.

```json
{
  \"version\": 1,
  \"name\": \"orders\",
  \"accept\": [
    { \"id\": \"orders-2026.11\", \"tee\": \"…\", \"measurement\": \"<hex>\" }
  ]
}
```

## The file

| Key | Value | When absent | |
|---|---|---|---|
| `version` | `1` | an error | |
| `name` | a text | an error | What logs and metrics call the policy. |
| `accept` | a list of entries | an error | A peer must fit one entry wholly; the first that fits is named in the log. An empty list refuses everyone. |
| `deny` | a list of `{ KEY: hex, \"reason\": text }` | nothing is denied | Refused whatever `accept` says. KEY is any key of an entry whose value is hex. |
| `expires` | an RFC 3339 time | it does not expire | After this moment the policy accepts nobody. |
| `max_evidence_age` | a duration, at most `24h` | `1h` | How old evidence in a certificate may be. |
| `clock_skew` | a duration, at most `10m` | `2m` | How far two clocks may differ. |
| `keys` | a list of `{ \"tee\": name, \"name\": text, \"key\": PEM or hex }` | none | Trust anchors of your own, DER SubjectPublicKeyInfo, for platforms whose vendors have no public root. What `name` is, the platform's table says. |
| `insecure_allow_missing_crl` | `true` | a current revocation list is required | Accepts evidence whose revocation cannot be checked. |
| `insecure_roots` | `[\"simulator\"]` | the vendors' roots alone | Trusts the simulator's published roots too: anybody can forge evidence under them. |
| `note`, `$schema` | anything | | For people and editors; not read. |

## Every entry

| Key | Value | When absent | |
|---|---|---|---|
| `id` | 1 to 64 letters, digits, `.`, `-`, `_` | an error | What logs, metrics and rules call the entry. |
| `tee` | a platform's name | an error | Which of the tables below applies. |
| `not_after` | an RFC 3339 time | the entry does not expire | After this moment the entry accepts nobody. |
| `require` | a list of `log`, `vtpm`, `gpu/0` to `gpu/15` | the TEE's evidence is enough | Members that must be there beside the TEE's evidence. Whatever is there is judged, required or not. |
| `note` | anything | | For people; not read. |
";

const TAIL: &str = "
## What a policy cannot loosen

The signature over the evidence, the chain to a pinned root, the binding to the connection's key, reserved bits and the
order of TCB versions are judged before any policy, in all of them. No key turns these off.
";
