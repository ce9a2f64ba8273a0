//! What hardware will measure of an image, computed from the artefacts: operators pin what they built, not what they met.
//!
//! Pure: octets in, values out; each value says which inputs it is made of. Not for: judging evidence.

pub mod diff;
pub mod eif;
pub mod ovmf;
pub mod snp;
pub mod tdx;

use serde::{Deserialize, Serialize};

/// The values that one set of artefacts comes to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The platform.
    pub tee: String,
    /// What went in, in the order asked for.
    pub inputs: Vec<Input>,
    /// What comes out.
    pub values: Vec<Value>,
}

/// Something that is measured.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its name: `kernel`, `vcpus`.
    pub name: String,
    /// A file by its SHA-256, else the setting itself.
    pub value: String,
}

/// A value that evidence will have.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Its name in evidence and, where a policy has it, in policies.
    pub name: String,
    /// Lower-case hex.
    pub value: String,
    /// The inputs it is made of.
    pub from: Vec<String>,
}

impl Input {
    /// A file.
    #[must_use]
    pub fn file(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), value: format!("sha256:{}", hex(&crate::crypto::sha256(&[bytes]))) }
    }

    /// A setting.
    #[must_use]
    pub fn setting(name: &str, value: impl std::fmt::Display) -> Self {
        Self { name: name.to_owned(), value: value.to_string() }
    }
}

impl Value {
    /// A digest made of these inputs.
    #[must_use]
    pub fn new(name: &str, octets: &[u8], from: &[&str]) -> Self {
        Self { name: name.to_owned(), value: hex(octets), from: from.iter().map(|name| (*name).to_owned()).collect() }
    }
}

/// Why an artefact cannot be measured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unfit {
    /// Which artefact.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Unfit {
    pub(crate) fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self { what, why: why.into() }
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Unfit {}

fn hex(octets: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(octets)
}
