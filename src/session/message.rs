//! What the frames carry: deterministic CBOR, read in the one form there is.

use crate::evidence::batch::Proof;
use crate::evidence::cbor::{NotCanonical, Reader, Writer};
use crate::refusal::{Denied, Finding, Reason};

/// A list of evidence types longer than this is not read.
const MAX_TYPES: usize = 32;

/// A media type is at most this long.
const MAX_TYPE: usize = 128;

/// An authority is at most this long: a DNS name, an address or a URI host.
const MAX_AUTHORITY: usize = 255;

/// The longest proof a batch of 65,536 leaves needs.
const MAX_PATH: usize = 16;

/// Which sides attest: bit 0 the server, bit 1 the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attest {
    /// The server gives evidence.
    pub server: bool,
    /// The client gives evidence.
    pub client: bool,
}

impl Attest {
    const fn bits(self) -> u64 {
        match (self.server, self.client) {
            (false, false) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (true, true) => 3,
        }
    }

    const fn of_bits(bits: u64) -> Option<Self> {
        match bits {
            0..=3 => Some(Self { server: bits % 2 == 1, client: bits >= 2 }),
            _ => None,
        }
    }
}

impl std::fmt::Display for Attest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.server, self.client) {
            (false, false) => "neither side",
            (true, false) => "the server",
            (false, true) => "the client",
            (true, true) => "both sides",
        })
    }
}

/// HELLO_C and HELLO_S.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// Random, from the sender.
    pub nonce: [u8; 32],
    /// Asked for by the client, agreed to by the server.
    pub attest: Attest,
    /// The media types of the evidence the sender accepts; at least one.
    pub accepts: Vec<String>,
    /// The most octets of evidence the sender takes.
    pub max_evidence: u64,
    /// The name the client dialled; in HELLO_C only.
    pub authority: Option<String>,
}

impl Hello {
    /// The one encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.map(if self.authority.is_some() { 6 } else { 5 });
        w.uint(1).uint(1).uint(2).bytes(&self.nonce).uint(3).uint(self.attest.bits()).uint(4).array(self.accepts.len());
        for media_type in &self.accepts {
            w.text(media_type);
        }
        w.uint(5).uint(self.max_evidence);
        if let Some(authority) = &self.authority {
            w.uint(6).text(authority);
        }
        w.finish()
    }

    /// Reads HELLO_C.
    ///
    /// # Errors
    /// `evidence_malformed`.
    pub fn decode_client(payload: &[u8]) -> Result<Self, Denied> {
        let hello = Self::decode(payload).map_err(|error| malformed("HELLO_C", &error))?;
        match hello.authority {
            Some(_) => Ok(hello),
            None => Finding::new(Reason::EvidenceMalformed, "HELLO_C", "member 6 (authority)", "none").refuse(),
        }
    }

    /// Reads HELLO_S.
    ///
    /// # Errors
    /// `evidence_malformed`.
    pub fn decode_server(payload: &[u8]) -> Result<Self, Denied> {
        let hello = Self::decode(payload).map_err(|error| malformed("HELLO_S", &error))?;
        match hello.authority {
            None => Ok(hello),
            Some(_) => Finding::new(Reason::EvidenceMalformed, "HELLO_S", "members 1 to 5", "member 6").refuse(),
        }
    }

    fn decode(payload: &[u8]) -> Result<Self, NotCanonical> {
        let (mut version, mut nonce, mut attest, mut accepts, mut max_evidence, mut authority) = (None, None, None, None, None, None);
        let mut reader = Reader::new(payload);
        reader.each_pair(Reader::uint, |key, offset, r| {
            let value = r.offset();
            match key {
                1 => version = Some(r.uint()?),
                2 => nonce = Some(r.array_of()?),
                3 => attest = Some(Attest::of_bits(r.uint()?).ok_or(NotCanonical { offset: value, expected: "attest bits of 0 to 3" })?),
                4 => accepts = Some(types(r)?),
                5 => max_evidence = Some(r.uint()?),
                6 => authority = Some(text(r, MAX_AUTHORITY)?),
                _ => return Err(NotCanonical { offset, expected: "key of a HELLO" }),
            }
            Ok(())
        })?;
        reader.end()?;
        let missing = |expected| NotCanonical { offset: payload.len(), expected };
        if version != Some(1) {
            return Err(missing("version 1"));
        }
        Ok(Self {
            nonce: nonce.ok_or(missing("nonce"))?,
            attest: attest.ok_or(missing("attest bits"))?,
            accepts: accepts.ok_or(missing("list of evidence types"))?,
            max_evidence: max_evidence.ok_or(missing("bound on evidence"))?,
            authority,
        })
    }
}

/// EVIDENCE.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EvidenceMessage {
    /// The encoded collection.
    pub collection: Vec<u8>,
    /// The encoded binding claims.
    pub claims: Vec<u8>,
    /// That the session's leaf is in the quote's batch.
    pub proof: Proof,
}

impl EvidenceMessage {
    /// The one encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.map(3).uint(1).bytes(&self.collection).uint(2).bytes(&self.claims);
        w.uint(3).array(3).uint(self.proof.index).uint(self.proof.size).array(self.proof.path.len());
        for node in &self.proof.path {
            w.bytes(node);
        }
        w.finish()
    }

    /// Reads it.
    ///
    /// # Errors
    /// `evidence_malformed`; `batch_proof_invalid` for a proof longer than any batch needs.
    pub fn decode(payload: &[u8]) -> Result<Self, Denied> {
        let (mut collection, mut claims, mut proof) = (None, None, None);
        let mut reader = Reader::new(payload);
        let read = reader.each_pair(Reader::uint, |key, offset, r| {
            match key {
                1 => collection = Some(r.bytes()?.to_vec()),
                2 => claims = Some(r.bytes()?.to_vec()),
                3 => proof = Some(read_proof(r)?),
                _ => return Err(NotCanonical { offset, expected: "key of EVIDENCE" }),
            }
            Ok(())
        });
        read.and_then(|()| reader.end()).map_err(|error| malformed("EVIDENCE", &error))?;
        match (collection, claims, proof) {
            (Some(collection), Some(claims), Some(Ok(proof))) => Ok(Self { collection, claims, proof }),
            (Some(_), Some(_), Some(Err(long))) => {
                let expected = format!("at most {MAX_PATH} hashes");
                Finding::new(Reason::BatchProofInvalid, "proof.path", expected, long.to_string()).refuse()
            }
            _ => Finding::new(Reason::EvidenceMalformed, "EVIDENCE", "members 1, 2 and 3", "fewer").refuse(),
        }
    }
}

/// What a side tells the other of its verdict; the detail stays in its own log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// 2: too many quotes waiting; try again.
    Busy,
    /// 0: accepted.
    Ok,
    /// 3: the exchange was broken.
    ProtocolError,
    /// 1: refused.
    Rejected,
}

impl Code {
    /// What the peer is told of a refusal for this reason.
    #[must_use]
    pub const fn of(reason: Reason) -> Self {
        match reason {
            Reason::AttesterBusy => Self::Busy,
            Reason::EvidenceMalformed | Reason::EvidenceSize | Reason::ExchangeOutOfOrder | Reason::Timeout => Self::ProtocolError,
            _ => Self::Rejected,
        }
    }

    /// The one encoding.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut w = Writer::new();
        w.map(1).uint(1).uint(match self {
            Self::Ok => 0,
            Self::Rejected => 1,
            Self::Busy => 2,
            Self::ProtocolError => 3,
        });
        w.finish()
    }

    /// Reads it.
    ///
    /// # Errors
    /// `evidence_malformed`.
    pub fn decode(payload: &[u8]) -> Result<Self, Denied> {
        let mut code = None;
        let mut reader = Reader::new(payload);
        let read = reader.each_pair(Reader::uint, |key, offset, r| {
            let value = r.offset();
            code = Some(match (key, r.uint()?) {
                (1, 0) => Self::Ok,
                (1, 1) => Self::Rejected,
                (1, 2) => Self::Busy,
                (1, 3) => Self::ProtocolError,
                (1, _) => return Err(NotCanonical { offset: value, expected: "code of 0 to 3" }),
                _ => return Err(NotCanonical { offset, expected: "key of RESULT" }),
            });
            Ok(())
        });
        read.and_then(|()| reader.end()).map_err(|error| malformed("RESULT", &error))?;
        code.ok_or_else(|| Finding::new(Reason::EvidenceMalformed, "RESULT", "member 1", "none").into())
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ok => "0 (ok)",
            Self::Rejected => "1 (rejected)",
            Self::Busy => "2 (busy)",
            Self::ProtocolError => "3 (protocol error)",
        })
    }
}

fn types(r: &mut Reader<'_>) -> Result<Vec<String>, NotCanonical> {
    let offset = r.offset();
    let count = r.array()?;
    if !(1..=MAX_TYPES).contains(&count) {
        return Err(NotCanonical { offset, expected: "list of 1 to 32 evidence types" });
    }
    (0..count).map(|_| text(r, MAX_TYPE)).collect()
}

fn text(r: &mut Reader<'_>, most: usize) -> Result<String, NotCanonical> {
    let offset = r.offset();
    let text = r.text()?;
    if text.len() > most { Err(NotCanonical { offset, expected: "shorter text" }) } else { Ok(text.to_owned()) }
}

/// A proof, or the length of one that is too long for any batch.
fn read_proof(r: &mut Reader<'_>) -> Result<Result<Proof, usize>, NotCanonical> {
    let offset = r.offset();
    if r.array()? != 3 {
        return Err(NotCanonical { offset, expected: "array of index, size and path" });
    }
    let (index, size, length) = (r.uint()?, r.uint()?, r.array()?);
    let mut path = Vec::with_capacity(length.min(MAX_PATH));
    for _ in 0..length {
        let node = r.array_of()?;
        if path.len() < MAX_PATH {
            path.push(node);
        }
    }
    Ok(if length > MAX_PATH { Err(length) } else { Ok(Proof { index, size, path }) })
}

fn malformed(field: &'static str, error: &NotCanonical) -> Denied {
    Finding::new(Reason::EvidenceMalformed, field, "its one deterministic encoding", error.to_string()).into()
}
