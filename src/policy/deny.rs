//! The operator's deny list: machines, code and keys that are refused at once, whatever the policies say.
//!
//! A file of its own, signed and dated, so that it can be handed out to many sides without anybody on the way changing
//! it or holding back a newer one for longer than its own term.

use jsonc_parser::ast::Value;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::json::{Problems, Table, array, hex, number, parse};
use super::read::{deny, moment};
use super::{Denial, MAX_POLICY, Vocabulary};
use crate::crypto::{Scheme, ecdsa_fixed, verifies};
use crate::diagnostic::Diagnostic;
use crate::evidence::{KeyDigest, Timestamp};

/// What is refused everywhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DenyList {
    /// Grows with each edition.
    pub number: u64,
    /// After this moment nobody is accepted until there is a newer edition: what it would deny is not known.
    pub expires: Timestamp,
    /// By what evidence claims.
    pub claims: Vec<Denial>,
    /// TLS keys, with the operator's words.
    pub keys: Vec<(KeyDigest, String)>,
}

impl DenyList {
    /// Reads a deny list that is signed by `key`, a DER SubjectPublicKeyInfo on P-256 (over SHA-256) or P-384 (over
    /// SHA-384). `signature` is DER, as `openssl dgst -sign` writes it. Establishes nothing about its dates.
    ///
    /// # Errors
    /// Everything that is wrong with it; a signature that does not verify hides all else.
    pub fn load(bytes: &[u8], signature: &[u8], key: &[u8], vocabularies: &[&'static Vocabulary]) -> Result<Self, Vec<Diagnostic>> {
        let wrong = |message: String, help: &str| vec![Diagnostic::new(0..0, message).help(help)];
        if bytes.len() > MAX_POLICY {
            return Err(wrong(format!("the file has {} octets", bytes.len()), "a deny list is shorter"));
        }
        if !signed(bytes, signature, key) {
            return Err(wrong(
                "the signature beside it does not verify under the key".to_owned(),
                "openssl dgst -sha384 -sign key.pem -out deny.json.sig deny.json",
            ));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| wrong(format!("not UTF-8 text at octet {}", error.valid_up_to()), ""))?;
        let root = parse(text).map_err(|problem| vec![problem])?;
        let mut problems = Problems::default();
        let list = read(&root, vocabularies, &mut problems);
        match list {
            Some(list) if problems.0.is_empty() => Ok(list),
            _ => Err(problems.0),
        }
    }

    /// The operator's words about a TLS key that is denied.
    #[must_use]
    pub fn denies_key(&self, key: &KeyDigest) -> Option<&str> {
        self.keys.iter().find(|(denied, _)| denied == key).map(|(_, why)| why.as_str())
    }
}

fn read(root: &Value<'_>, vocabularies: &[&'static Vocabulary], problems: &mut Problems) -> Option<DenyList> {
    let mut table = Table::of(root, "a deny list", problems)?;
    table.take("note");
    let mut needed = |table: &mut Table<'_, '_>, key: &'static str, example: &str| match table.take(key) {
        Some(value) => number(value, key, problems),
        None => {
            problems.at(table.place(), format!("no {key}"), example.to_owned());
            None
        }
    };
    let version = needed(&mut table, "version", "\"version\": 1");
    let edition = needed(&mut table, "number", "\"number\": 7, one more with each edition");
    if version.is_some_and(|version| version != 1) {
        problems.at(table.place(), "this program reads version 1", "");
    }
    let expires = moment(&mut table, "expires", problems);
    if expires.is_none() {
        problems.at(table.place(), "no expires", "\"expires\": \"2027-01-01T00:00:00Z\": a list that nobody renews is not believed for ever");
    }
    let claims = deny(&mut table, vocabularies, problems);
    let keys = keys(&mut table, problems);
    table.finish(problems);
    Some(DenyList { number: edition?, expires: expires?, claims, keys })
}

fn keys(table: &mut Table<'_, '_>, problems: &mut Problems) -> Vec<(KeyDigest, String)> {
    let Some(list) = table.take("keys").and_then(|value| array(value, "keys", problems)) else { return Vec::new() };
    let mut keys = Vec::new();
    for value in &list.elements {
        let Some(mut table) = Table::of(value, "an entry of keys", problems) else { continue };
        let why = table.text("reason", problems).map(|(why, _)| why.to_owned());
        let digest = table.take("spki_sha384").and_then(|value| hex(value, "spki_sha384", &[48], problems)).and_then(|digest| digest.try_into().ok());
        match (digest, why) {
            (Some(digest), Some(why)) => keys.push((KeyDigest(digest), why)),
            _ => problems.at(value, "no denied key", "{ \"spki_sha384\": \"<96 hex digits>\", \"reason\": \"…\" }"),
        }
        table.finish(problems);
    }
    keys
}

fn signed(message: &[u8], signature: &[u8], key: &[u8]) -> bool {
    let Ok((&[], key)) = SubjectPublicKeyInfo::from_der(key) else { return false };
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let scheme = match curve {
        Some(curve) if key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256 => Scheme::EcdsaP256Sha256,
        Some(curve) if key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_NIST_EC_P384 => Scheme::EcdsaP384Sha384,
        _ => return false,
    };
    let fixed = scheme.half().and_then(|half| ecdsa_fixed(signature, half));
    fixed.is_some_and(|fixed| verifies(scheme, &key.subject_public_key.data, message, &fixed))
}
