//! Reads a policy file: strict JSON, every error at once, each with its place.

use jsonc_parser::ast::Value;

use super::json::{DIGESTS, Problems, Table, array, duration, hex, number, parse};
use super::vocabulary::{Field, Rule, Vocabulary};
use super::{AppraisalPolicy, Denial, Entry, MAX_POLICY, Mode, OperatorKey, References, Revocation, Roots, entry};
use crate::crypto::sha256;
use crate::diagnostic::{Diagnostic, nearest};
use crate::evidence::{Timestamp, spki};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

impl AppraisalPolicy {
    /// Reads a policy file against the words of the platforms.
    ///
    /// Returns the policy with what an operator should look at. Establishes nothing about expiry: that is judged with
    /// each peer.
    ///
    /// # Errors
    /// Everything that is wrong with the file, in its order.
    pub fn load(bytes: &[u8], vocabularies: &[&'static Vocabulary]) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        if bytes.len() > MAX_POLICY {
            return Err(vec![Diagnostic::new(0..0, format!("the file has {} octets", bytes.len())).help(format!("at most {MAX_POLICY} are read"))]);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| vec![Diagnostic::new(error.valid_up_to()..error.valid_up_to(), "not UTF-8 text")])?;
        let root = parse(text).map_err(|problem| vec![problem])?;
        let mut problems = Problems::default();
        let mut warnings = Problems::default();
        let policy = read(&root, sha256(&[bytes]), vocabularies, &mut problems, &mut warnings);
        problems.0.sort_by_key(|problem| problem.span.start);
        match policy {
            Some(policy) if problems.0.is_empty() => Ok((policy, warnings.0)),
            _ => Err(problems.0),
        }
    }

    /// What `verify` judges by when no policy is given: any genuine, non-debug guest of the platforms. Nothing is pinned,
    /// a revocation list and a device's reference measurements are used only when there are any. Never for admitting a peer.
    #[must_use]
    pub fn genuine(vocabularies: &[&'static Vocabulary]) -> Self {
        let accept = |vocabulary: &&'static Vocabulary| Entry {
            id: format!("any-genuine-{}", vocabulary.tee),
            tee: vocabulary.tee,
            not_after: None,
            require: Vec::new(),
            constraints: entry::genuine(vocabulary),
            insecure: Vec::new(),
        };
        Self {
            name: "genuine".to_owned(),
            digest: sha256(&[b"built-in policy: genuine"]),
            expires: None,
            mode: Mode::Enforce,
            accept: vocabularies.iter().map(accept).collect(),
            deny: Vec::new(),
            max_evidence_age: DAY,
            clock_skew: 120,
            revocation: Revocation::WhenPresent,
            references: References::WhenPresent,
            insecure: Vec::new(),
            roots: Roots::Vendor,
            deny_list: None,
            keys: Vec::new(),
        }
    }
}

fn read(root: &Value<'_>, digest: [u8; 32], vocabularies: &[&'static Vocabulary], problems: &mut Problems, warnings: &mut Problems) -> Option<AppraisalPolicy> {
    let mut table = Table::of(root, "a policy", problems)?;
    table.take("$schema");
    table.take("note");
    table.take("note");
    version(&mut table, problems);
    let name = table.text("name", problems).map(|(name, _)| name.to_owned());
    if name.is_none() {
        problems.at(table.place(), "no name", "\"name\": \"…\" is what logs and metrics call this policy");
    }
    let mut insecure = Vec::new();
    let accept = accept(&mut table, vocabularies, &mut insecure, problems, warnings);
    let policy = AppraisalPolicy {
        name: name.unwrap_or_default(),
        digest,
        expires: moment(&mut table, "expires", problems),
        mode: Mode::Enforce,
        accept,
        deny: deny(&mut table, vocabularies, problems),
        max_evidence_age: duration(&mut table, "max_evidence_age", HOUR, DAY, problems),
        clock_skew: duration(&mut table, "clock_skew", 120, 600, problems),
        revocation: revocation(&mut table, &mut insecure, problems),
        references: References::Required,
        roots: roots(&mut table, &mut insecure, problems),
        keys: keys(&mut table, vocabularies, problems),
        deny_list: None,
        insecure,
    };
    table.finish(problems);
    Some(policy)
}

fn version(table: &mut Table<'_, '_>, problems: &mut Problems) {
    match table.take("version") {
        Some(value) => {
            if number(value, "version", problems).is_some_and(|version| version != 1) {
                problems.at(value, "this program reads version 1", "");
            }
        }
        None => problems.at(table.place(), "no version", "\"version\": 1"),
    }
}

pub(super) fn moment(table: &mut Table<'_, '_>, key: &'static str, problems: &mut Problems) -> Option<Timestamp> {
    let (text, value) = table.text(key, problems)?;
    let moment = Timestamp::parse(text);
    if moment.is_none() {
        problems.at(value, format!("{key} must be an RFC 3339 time"), "such as \"2027-03-01T00:00:00Z\"");
    }
    moment
}

fn accept(
    table: &mut Table<'_, '_>,
    vocabularies: &[&'static Vocabulary],
    insecure: &mut Vec<String>,
    problems: &mut Problems,
    warnings: &mut Problems,
) -> Vec<Entry> {
    let Some(value) = table.take("accept") else {
        problems.at(table.place(), "no accept", "\"accept\": [ { \"id\": …, \"tee\": …, \"measurement\": … } ]");
        return Vec::new();
    };
    let Some(list) = array(value, "accept", problems) else { return Vec::new() };
    if list.elements.is_empty() {
        warnings.at(value, "accept is empty: this policy refuses everyone", "");
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (index, value) in list.elements.iter().enumerate() {
        let Some(entry) = one(value, vocabularies, problems) else { continue };
        if entries.iter().any(|other| other.id == entry.id) {
            problems.at(value, format!("the id {} stands twice", entry.id), "ids name entries in logs and rules; choose another");
        }
        insecure.extend(entry.insecure.iter().map(|key| format!("accept[{index}].{key}")));
        entries.push(entry);
    }
    entries
}

fn one(value: &Value<'_>, vocabularies: &[&'static Vocabulary], problems: &mut Problems) -> Option<Entry> {
    let mut table = Table::of(value, "an entry of accept", problems)?;
    let id = table.text("id", problems).filter(|(id, value)| valid_id(id, value, problems)).map(|(id, _)| id.to_owned());
    if id.is_none() && table.take("id").is_none() {
        problems.at(table.place(), "no id", "\"id\": \"orders-2026.11\" is what logs, metrics and rules call this entry");
    }
    table.take("note");
    let not_after = moment(&mut table, "not_after", problems);
    let require = required(&mut table, problems);
    let (vocabulary, said) = tee(&mut table, vocabularies, problems)?;
    let (constraints, insecure) = entry::constraints(&mut table, vocabulary, problems);
    table.finish(problems);
    Some(Entry { id: id.filter(|_| said == Said::Rightly)?, tee: vocabulary.tee, not_after, require, constraints, insecure })
}

/// The labels of members that must be there.
fn required(table: &mut Table<'_, '_>, problems: &mut Problems) -> Vec<String> {
    let Some(list) = table.take("require").and_then(|value| array(value, "require", problems)) else { return Vec::new() };
    if list.elements.is_empty() {
        problems.at(list, "require is an empty list", "leave it out when the TEE's evidence is enough");
    }
    let mut labels = Vec::new();
    for value in &list.elements {
        let numbered = |label: &str| label.strip_prefix("gpu/").is_some_and(|number| number.parse::<u8>().is_ok_and(|at| at < 16 && at.to_string() == number));
        match value.as_string_lit().map(|text| text.value.as_ref()).filter(|label| ["log", "vtpm"].contains(label) || numbered(label)) {
            Some(label) => labels.push(label.to_owned()),
            None => problems.at(value, "not a member that evidence can have", "\"log\", \"vtpm\", or \"gpu/0\" to \"gpu/15\""),
        }
    }
    labels
}

/// Whether a platform was named, or is what was probably meant.
#[derive(Eq, PartialEq)]
enum Said {
    Rightly,
    Wrongly,
}

/// The words of the entry's platform. Where its name is wrong, those of the nearest name or of the most keys: so that the
/// entry's other errors are told too.
fn tee(table: &mut Table<'_, '_>, vocabularies: &[&'static Vocabulary], problems: &mut Problems) -> Option<(&'static Vocabulary, Said)> {
    let names = || vocabularies.iter().map(|vocabulary| vocabulary.tee);
    let all = || format!("one of {}", names().collect::<Vec<_>>().join(", "));
    let written = table.text("tee", problems);
    if let Some(vocabulary) = vocabularies.iter().find(|vocabulary| written.is_some_and(|(tee, _)| vocabulary.tee == tee)) {
        return Some((vocabulary, Said::Rightly));
    }
    let near = written.and_then(|(tee, _)| nearest(tee, names()));
    match written {
        Some((tee, place)) => problems.at(place, format!("unknown tee {tee}"), near.map_or_else(all, |near| format!("did you mean {near}?"))),
        None if table.take("tee").is_none() => problems.at(table.place(), "no tee", all()),
        None => {}
    }
    let written_keys = |vocabulary: &Vocabulary| {
        let known = |key: &str| vocabulary.fields.iter().any(|field| field.key == key) || vocabulary.loosening.iter().any(|loosening| loosening.key == key);
        table.place().properties.iter().filter(|property| known(property.name.as_str())).count()
    };
    let meant = match near {
        Some(near) => vocabularies.iter().find(|vocabulary| vocabulary.tee == near),
        None => vocabularies.iter().rev().filter(|vocabulary| written_keys(vocabulary) > 0).max_by_key(|vocabulary| written_keys(vocabulary)),
    };
    meant.map(|vocabulary| (*vocabulary, Said::Wrongly))
}

/// Ids go into logs, metric labels and rules.
fn valid_id(id: &str, value: &Value<'_>, problems: &mut Problems) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let valid = (1..=64).contains(&id.len()) && id.chars().all(plain);
    if !valid {
        problems.at(value, "an id has 1 to 64 letters, digits, dots, dashes or underscores", "");
    }
    valid
}

pub(super) fn deny(table: &mut Table<'_, '_>, vocabularies: &[&'static Vocabulary], problems: &mut Problems) -> Vec<Denial> {
    let Some(list) = table.take("deny").and_then(|value| array(value, "deny", problems)) else { return Vec::new() };
    let mut denials = Vec::new();
    for value in &list.elements {
        let Some(mut table) = Table::of(value, "an entry of deny", problems) else { continue };
        let why = table.text("reason", problems).map(|(why, _)| why.to_owned());
        if why.is_none() {
            problems.at(value, "no reason", "say why: it is shown with each refusal");
        }
        let before = denials.len();
        let mut seen: Vec<&str> = Vec::new();
        for field in vocabularies.iter().flat_map(|vocabulary| vocabulary.fields) {
            let Some((claim, _)) = octets_of(field) else { continue };
            // Platforms share keys (`measurement`), sometimes with values of another length.
            if seen.contains(&field.key) {
                continue;
            }
            seen.push(field.key);
            let Some(value) = table.take(field.key) else { continue };
            let same_key = vocabularies.iter().flat_map(|vocabulary| vocabulary.fields).filter(|other| other.key == field.key);
            let mut lengths: Vec<usize> = same_key.filter_map(octets_of).flat_map(|(_, lengths)| lengths).copied().collect();
            lengths.dedup();
            if let Some(octets) = hex(value, field.key, &lengths, problems) {
                denials.push(Denial { claim, value: octets, why: why.clone().unwrap_or_default(), reason: field.reason });
            }
        }
        if denials.len() == before && problems.0.is_empty() {
            problems.at(value, "denies nothing", "name a measurement, chip_id or the like");
        }
        table.finish(problems);
    }
    denials
}

/// The claim that a key with values in octets looks at, and how long they may be; `None` for another kind of key.
fn octets_of(field: &'static Field) -> Option<(&'static str, &'static [usize])> {
    match &field.rule {
        Rule::Bytes { claim, length, .. } => Some((claim, std::slice::from_ref(length))),
        Rule::Digest { claim, .. } => Some((claim, DIGESTS)),
        _ => None,
    }
}

/// The operator's own trust anchors.
fn keys(table: &mut Table<'_, '_>, vocabularies: &[&'static Vocabulary], problems: &mut Problems) -> Vec<OperatorKey> {
    let Some(list) = table.take("keys").and_then(|value| array(value, "keys", problems)) else { return Vec::new() };
    let mut keys: Vec<OperatorKey> = Vec::new();
    for value in &list.elements {
        let Some(mut table) = Table::of(value, "an entry of keys", problems) else { continue };
        table.take("note");
        let vocabulary = table.text("tee", problems).and_then(|(tee, place)| {
            let known = vocabularies.iter().copied().filter(|vocabulary| vocabulary.operator_key.is_some());
            let found = known.clone().find(|vocabulary| vocabulary.tee == tee);
            if found.is_none() {
                let names: Vec<_> = known.map(|vocabulary| vocabulary.tee).collect();
                let help = if names.is_empty() { "no platform of this build does".to_owned() } else { format!("one of {}", names.join(", ")) };
                problems.at(place, format!("{tee} takes no keys of the operator's"), help);
            }
            found
        });
        let name = table.text("name", problems).map(|(name, _)| name.to_owned());
        let spki = table.text("key", problems).and_then(|(text, place)| {
            let spki = public_key(text);
            if spki.is_none() {
                problems.at(place, "not a public key", "a SubjectPublicKeyInfo: PEM (-----BEGIN PUBLIC KEY-----) or the DER in hex, its point on its curve");
            }
            spki
        });
        for (missing, key) in [(name.is_none(), "name"), (spki.is_none(), "key"), (vocabulary.is_none(), "tee")] {
            if missing && problems.0.is_empty() {
                problems.at(value, format!("no {key}"), "{ \"tee\": …, \"name\": …, \"key\": … }");
            }
        }
        table.finish(problems);
        if let (Some(vocabulary), Some(name), Some(spki)) = (vocabulary, name, spki) {
            let key = OperatorKey { tee: vocabulary.tee, name, spki };
            if keys.contains(&key) {
                problems.at(value, "this key stands twice", "write it once");
            }
            keys.push(key);
        }
    }
    keys
}

/// A DER SubjectPublicKeyInfo, from PEM or hex; an elliptic one only with its point on its curve.
fn public_key(text: &str) -> Option<Vec<u8>> {
    let der = match x509_parser::pem::Pem::read(std::io::Cursor::new(text.as_bytes())) {
        Ok((pem, _)) if pem.label == "PUBLIC KEY" => pem.contents,
        _ => data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok()?,
    };
    spki::is_usable(&der).then_some(der)
}

fn revocation(table: &mut Table<'_, '_>, insecure: &mut Vec<String>, problems: &mut Problems) -> Revocation {
    const KEY: &str = "insecure_allow_missing_crl";
    match table.take(KEY) {
        None => Revocation::Required,
        Some(Value::BooleanLit(value)) if value.value => {
            insecure.push(KEY.to_owned());
            Revocation::WhenPresent
        }
        Some(other) => {
            problems.at(other, format!("{KEY} can only be true"), "leave it out to stay safe");
            Revocation::Required
        }
    }
}

fn roots(table: &mut Table<'_, '_>, insecure: &mut Vec<String>, problems: &mut Problems) -> Roots {
    const KEY: &str = "insecure_roots";
    let Some(list) = table.take(KEY).and_then(|value| array(value, KEY, problems)) else { return Roots::Vendor };
    for value in &list.elements {
        match value.as_string_lit().map(|text| text.value.as_ref()) {
            Some("simulator") if cfg!(feature = "simulator") => {}
            Some("simulator") => problems.at(value, "this build has no simulator", "it cannot trust the simulator's roots; use a build for tests"),
            _ => problems.at(value, "unknown root", "the only one that can be named is \"simulator\""),
        }
    }
    if list.elements.is_empty() {
        problems.at(list, format!("{KEY} is an empty list"), "leave it out to trust the vendors' roots alone");
        return Roots::Vendor;
    }
    insecure.push(KEY.to_owned());
    Roots::VendorAndSimulator
}
