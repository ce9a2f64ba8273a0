//! AWS Nitro attestation documents: of enclaves (Nitro Secure Module) and of EC2 instances with a NitroTPM.
//!
//! One COSE_Sign1 around one CBOR map, signed by a certificate of some three hours that comes along with its chain. The two
//! kinds differ in the name of their registers alone.

pub mod saved;

use super::cbor::Writer;
use super::cbor::foreign::{Item, Length, Map};
use super::cose::{Sign1, Tagging};
use super::{ClaimValue, Claims, Timestamp};
use crate::refusal::{Denied, Finding, Reason};

/// The media type of an enclave's document.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.nitro-doc";

/// The media type of an instance's document.
pub const TPM_MEDIA_TYPE: &str = "application/vnd.portcullis.nitrotpm-doc";

/// A document longer than this is not read: the answer of the security module has at most 0x3000 octets.
pub const MAX_DOCUMENT: usize = 0x3000;

/// The length of a register: SHA-384.
pub const REGISTER: usize = 48;

/// The algorithm that documents are signed with: ES384.
pub const ALGORITHM: i64 = -35;

// The bounds of AWS's own verification rules (aws-nitro-enclaves-nsm-api, docs/attestation_process.md).
const MAX_REGISTERS: usize = 32;
const MAX_CERTIFICATE: usize = 1024;
const MAX_PUBLIC_KEY: usize = 1024;
const MAX_USER_DATA: usize = 512;
const MAX_MODULE_ID: usize = 256;
/// Chains seen have four.
const MAX_BUNDLE: usize = 8;

/// Whose document it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An enclave's.
    Enclave,
    /// An EC2 instance's with a NitroTPM.
    Tpm,
}

impl Kind {
    /// The media type of its documents.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Enclave => MEDIA_TYPE,
            Self::Tpm => TPM_MEDIA_TYPE,
        }
    }

    /// The key under which its registers stand.
    #[must_use]
    pub const fn registers(self) -> &'static str {
        match self {
            Self::Enclave => "pcrs",
            Self::Tpm => "nitrotpm_pcrs",
        }
    }

    /// How many registers there can be.
    const fn most(self) -> usize {
        match self {
            Self::Enclave => MAX_REGISTERS,
            Self::Tpm => 24,
        }
    }
}

/// What a document says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Document {
    /// Whose it is.
    pub kind: Kind,
    /// `module_id`: the instance and its enclave or TPM.
    pub module_id: String,
    /// `timestamp`: when it was made, in milliseconds since 1970.
    pub timestamp: u64,
    /// The registers with their numbers, in the order of the document.
    pub registers: Vec<(u8, [u8; REGISTER])>,
    /// `certificate`: of the key that signs it, DER.
    pub certificate: Vec<u8>,
    /// `cabundle`: the chain above, the root first, DER.
    pub cabundle: Vec<Vec<u8>>,
    /// `public_key`, which the asker gave.
    pub public_key: Option<Vec<u8>>,
    /// `user_data`, which the asker gave.
    pub user_data: Option<Vec<u8>>,
    /// `nonce`, which the asker gave.
    pub nonce: Option<Vec<u8>>,
    /// How the end of the map is told: by a count up to 2023, by a break since.
    pub length: Length,
}

impl Document {
    /// Reads the COSE_Sign1 and the document in it. The kind is told by the name of the registers.
    ///
    /// # Errors
    /// `evidence_size`, `evidence_malformed`.
    pub fn parse(bytes: &[u8]) -> Result<(Sign1<'_>, Self), Denied> {
        if bytes.len() > MAX_DOCUMENT {
            return Finding::new(Reason::EvidenceSize, "document", format!("at most {MAX_DOCUMENT} octets"), bytes.len().to_string()).refuse();
        }
        let sign1 = Sign1::decode("document", bytes)?;
        let document = match Item::decode(sign1.payload) {
            Ok(Item::Map(map)) => Self::of_map(&map)?,
            Ok(_) => return malformed("a map", "another item"),
            Err(error) => return malformed("one CBOR map", error),
        };
        Ok((sign1, document))
    }

    fn of_map(map: &Map<'_>) -> Result<Self, Denied> {
        let mut fields = Fields { map, taken: Vec::new() };
        let kind = if fields.find(Kind::Tpm.registers()).is_some() { Kind::Tpm } else { Kind::Enclave };
        if fields.text("digest", 16)? != "SHA384" {
            return malformed("digest SHA384", "another digest");
        }
        let document = Self {
            kind,
            module_id: fields.text("module_id", MAX_MODULE_ID)?.to_owned(),
            timestamp: fields.number("timestamp")?,
            registers: registers(fields.required(kind.registers())?, kind)?,
            certificate: octets("certificate", fields.required("certificate")?, 1, MAX_CERTIFICATE)?,
            cabundle: bundle(fields.required("cabundle")?)?,
            public_key: fields.optional("public_key", 1, MAX_PUBLIC_KEY)?,
            user_data: fields.optional("user_data", 0, MAX_USER_DATA)?,
            nonce: fields.optional("nonce", 0, MAX_USER_DATA)?,
            length: map.length,
        };
        fields.finish()?;
        Ok(document)
    }

    /// The map as AWS writes it: what is signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let register = |(index, value): &(u8, [u8; REGISTER])| (u64::from(*index), value.to_vec());
        let registers: Vec<_> = self.registers.iter().map(register).collect();
        let registers = registers.iter().map(|(index, value)| (Item::Uint(*index), Item::Bytes(value))).collect();
        let pairs = vec![
            (Item::Text("module_id"), Item::Text(&self.module_id)),
            (Item::Text("digest"), Item::Text("SHA384")),
            (Item::Text("timestamp"), Item::Uint(self.timestamp)),
            (Item::Text(self.kind.registers()), Item::Map(Map::new(registers))),
            (Item::Text("certificate"), Item::Bytes(&self.certificate)),
            (Item::Text("cabundle"), Item::Array(self.cabundle.iter().map(|der| Item::Bytes(der)).collect())),
            (Item::Text("public_key"), or_null(self.public_key.as_ref())),
            (Item::Text("user_data"), or_null(self.user_data.as_ref())),
            (Item::Text("nonce"), or_null(self.nonce.as_ref())),
        ];
        Item::Map(Map { pairs, length: self.length }).encode()
    }

    /// When it was made.
    #[must_use]
    pub const fn made(&self) -> Timestamp {
        Timestamp(self.timestamp / 1000)
    }

    /// The register of this number.
    #[must_use]
    pub fn register(&self, index: u8) -> Option<&[u8; REGISTER]> {
        self.registers.iter().find(|(known, _)| *known == index).map(|(_, value)| value)
    }

    /// Whether the enclave runs in debug mode: its console is open and its measurements are zero.
    #[must_use]
    pub fn debug(&self) -> bool {
        self.kind == Kind::Enclave && self.register(0).is_none_or(|value| value.iter().all(|octet| *octet == 0))
    }

    /// What it says, by AWS's names.
    #[must_use]
    pub fn claims(&self) -> Claims {
        let mut claims = Claims::default();
        let made = self.made();
        claims.push("module_id", ClaimValue::Text(self.module_id.clone()));
        claims.push("digest", ClaimValue::Text("SHA384".to_owned()));
        claims.push("timestamp", ClaimValue::Text(made.to_string()));
        claims.push("timestamp_ms", ClaimValue::Integer(self.timestamp));
        claims.push("timestamp_s", ClaimValue::Integer(made.0));
        if self.kind == Kind::Enclave {
            claims.push("mode", ClaimValue::Bits(u64::from(self.debug())));
        }
        let mut all = Claims::default();
        for (index, value) in &self.registers {
            if let Some(name) = NAMES.get(usize::from(*index)) {
                all.push(name, ClaimValue::Bytes(value.to_vec()));
            }
        }
        claims.push("pcrs", ClaimValue::Map(all));
        for (index, name) in PINNED {
            if let Some(value) = self.register(index) {
                claims.push(name, ClaimValue::Bytes(value.to_vec()));
            }
        }
        for (name, value) in [("user_data", &self.user_data), ("nonce", &self.nonce), ("public_key", &self.public_key)] {
            claims.push(name, ClaimValue::Bytes(value.clone().unwrap_or_default()));
        }
        claims.push("cabundle_len", ClaimValue::Integer(u64::try_from(self.cabundle.len()).unwrap_or(u64::MAX)));
        if let Some(root) = self.cabundle.first() {
            claims.push("root_sha256", ClaimValue::Bytes(crate::crypto::sha256(&[root]).to_vec()));
        }
        claims
    }
}

/// The registers by name.
pub const NAMES: [&str; MAX_REGISTERS] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20", "21", "22", "23", "24", "25", "26",
    "27", "28", "29", "30", "31",
];

/// The registers that have claims of their own: those that the hypervisor fills, and for an instance its boot.
const PINNED: [(u8, &str); 8] = [(0, "pcr0"), (1, "pcr1"), (2, "pcr2"), (3, "pcr3"), (4, "pcr4"), (7, "pcr7"), (8, "pcr8"), (12, "pcr12")];

/// The map's values, each taken once.
struct Fields<'m, 'a> {
    map: &'m Map<'a>,
    taken: Vec<&'static str>,
}

impl<'m, 'a> Fields<'m, 'a> {
    fn find(&self, key: &str) -> Option<&'m Item<'a>> {
        self.map.pairs.iter().find(|(found, _)| found.text() == Some(key)).map(|(_, value)| value)
    }

    fn required(&mut self, key: &'static str) -> Result<&'m Item<'a>, Denied> {
        self.taken.push(key);
        match self.find(key) {
            Some(value) => Ok(value),
            None => malformed(&format!("{key} in it"), "none"),
        }
    }

    fn text(&mut self, key: &'static str, most: usize) -> Result<&'a str, Denied> {
        match self.required(key)?.text().filter(|text| (1..=most).contains(&text.len())) {
            Some(text) => Ok(text),
            None => malformed(&format!("{key} of 1 to {most} octets of text"), "another value"),
        }
    }

    fn number(&mut self, key: &'static str) -> Result<u64, Denied> {
        match self.required(key)? {
            Item::Uint(number @ 1..) => Ok(*number),
            _ => malformed(&format!("{key}, a number above zero"), "another value"),
        }
    }

    fn optional(&mut self, key: &'static str, least: usize, most: usize) -> Result<Option<Vec<u8>>, Denied> {
        self.taken.push(key);
        match self.find(key) {
            None | Some(Item::Null) => Ok(None),
            Some(value) => octets(key, value, least, most).map(Some),
        }
    }

    fn finish(self) -> Result<(), Denied> {
        let unknown = self.map.pairs.iter().find(|(key, _)| key.text().is_none_or(|key| !self.taken.contains(&key)));
        match unknown {
            None => Ok(()),
            Some((key, _)) => malformed("no key that is not known", key.text().unwrap_or("a key that is no text")),
        }
    }
}

fn or_null(value: Option<&Vec<u8>>) -> Item<'_> {
    value.map_or(Item::Null, |value| Item::Bytes(value))
}

fn registers(item: &Item<'_>, kind: Kind) -> Result<Vec<(u8, [u8; REGISTER])>, Denied> {
    let Item::Map(map) = item else { return malformed("a map of registers", "another item") };
    if map.pairs.is_empty() || map.pairs.len() > kind.most() || map.length == Length::Indefinite {
        return malformed(&format!("1 to {} registers", kind.most()), map.pairs.len());
    }
    let register = |(index, value): &(Item<'_>, Item<'_>)| {
        let index = index.int().and_then(|index| u8::try_from(index).ok()).filter(|index| usize::from(*index) < kind.most());
        let value = value.bytes().and_then(|value| value.try_into().ok());
        match index.zip(value) {
            Some(register) => Ok(register),
            None => malformed(&format!("registers 0 to {} of {REGISTER} octets", kind.most().saturating_sub(1)), "another"),
        }
    };
    map.pairs.iter().map(register).collect()
}

fn bundle(item: &Item<'_>) -> Result<Vec<Vec<u8>>, Denied> {
    match item {
        Item::Array(items) if (1..=MAX_BUNDLE).contains(&items.len()) => items.iter().map(|item| octets("cabundle", item, 1, MAX_CERTIFICATE)).collect(),
        _ => malformed(&format!("cabundle with 1 to {MAX_BUNDLE} certificates"), "another value"),
    }
}

fn octets(key: &str, item: &Item<'_>, least: usize, most: usize) -> Result<Vec<u8>, Denied> {
    match item.bytes().filter(|bytes| (least..=most).contains(&bytes.len())) {
        Some(bytes) => Ok(bytes.to_vec()),
        None => malformed(&format!("{key} of {least} to {most} octets"), "another value"),
    }
}

fn malformed<T>(expected: &str, found: impl ToString) -> Result<T, Denied> {
    Finding::new(Reason::EvidenceMalformed, "document", expected, found.to_string()).refuse()
}

/// The request to the security module for a document over these octets (`nsm_api::Request::Attestation`).
#[must_use]
pub fn request(user_data: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.map(1).text("Attestation").map(3).text("user_data").bytes(user_data);
    let mut request = writer.finish();
    for key in ["nonce", "public_key"] {
        request.extend([Item::Text(key).encode(), Item::Null.encode()].concat());
    }
    request
}

/// The document in the security module's answer (`nsm_api::Response`), or what it says instead.
///
/// # Errors
/// The module's word for its refusal (`InvalidOperation`, `InputTooLarge`, …), or that the answer is not one.
pub fn response(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let Ok(Item::Map(answer)) = Item::decode(bytes) else { return Err("an answer that is no CBOR map".to_owned()) };
    let [(Item::Text(word), value)] = answer.pairs.as_slice() else { return Err("an answer of another shape".to_owned()) };
    match (*word, value) {
        ("Attestation", Item::Map(inner)) => match inner.pairs.as_slice() {
            [(Item::Text("document"), Item::Bytes(document))] => Ok(document.to_vec()),
            _ => Err("an answer without a document".to_owned()),
        },
        ("Error", Item::Text(word)) => Err((*word).to_owned()),
        (word, _) => Err(format!("an answer to another request ({word})")),
    }
}

/// The answer of a security module around a document.
#[must_use]
pub fn answer(document: &[u8]) -> Vec<u8> {
    let inner = Item::Map(Map::new(vec![(Item::Text("document"), Item::Bytes(document))]));
    Item::Map(Map::new(vec![(Item::Text("Attestation"), inner)])).encode()
}

/// A document as AWS sends it: an untagged COSE_Sign1.
#[must_use]
pub fn envelope(protected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    super::cose::encode(Tagging::Untagged, protected, payload, signature)
}
