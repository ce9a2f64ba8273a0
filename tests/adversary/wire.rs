//! The wire protocol by hand, so that every octet can be wrong: frames, HELLO maps, session leaves as the protocol
//! writes them. Deliberately not the program's own `session`.

use portcullis::crypto::sha384;
use portcullis::evidence::batch::{self, Node, Proof};
use portcullis::evidence::binding::{BindingClaims, Kind};
use portcullis::evidence::cbor::{Reader, Writer};
use portcullis::evidence::{KeyDigest, ReportData};

pub const HELLO_C: u8 = 1;
pub const HELLO_S: u8 = 2;
pub const EVIDENCE: u8 = 3;
pub const RESULT: u8 = 4;

pub const ALPN: &[u8] = b"portcullis1/raw";
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL-PORTCULLIS-1";
pub const INSTANCE: [u8; 16] = [0x33; 16];

/// `type u8 ‖ length u32be ‖ payload`.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame below 4 GiB");
    [[kind].as_slice(), &length.to_be_bytes(), payload].concat()
}

pub fn result(code: u64) -> Vec<u8> {
    let mut w = Writer::new();
    w.map(1).uint(1).uint(code);
    frame(RESULT, &w.finish())
}

/// A HELLO of either side.
#[derive(Clone, Debug)]
pub struct Hello {
    pub version: u64,
    pub nonce: Vec<u8>,
    pub attest: u64,
    pub types: Vec<String>,
    pub max_evidence: u64,
    pub authority: Option<String>,
}

impl Hello {
    pub fn new(nonce: u8, attest: u64) -> Self {
        let types = vec!["application/vnd.amd.sev-snp.attestation-report".to_owned()];
        Self { version: 1, nonce: vec![nonce; 32], attest, types, max_evidence: 256 * 1024, authority: None }
    }

    /// The pairs, encoded, in order: so that a test can repeat, drop or add one.
    pub fn pairs(&self) -> Vec<Vec<u8>> {
        let pair = |key: u64, value: &dyn for<'w> Fn(&'w mut Writer) -> &'w mut Writer| {
            let mut w = Writer::new();
            w.uint(key);
            value(&mut w);
            w.finish()
        };
        let mut pairs = vec![
            pair(1, &|w| w.uint(self.version)),
            pair(2, &|w| w.bytes(&self.nonce)),
            pair(3, &|w| w.uint(self.attest)),
            pair(4, &|w| {
                w.array(self.types.len());
                self.types.iter().fold(w, |w, media_type| w.text(media_type))
            }),
            pair(5, &|w| w.uint(self.max_evidence)),
        ];
        pairs.extend(self.authority.as_ref().map(|authority| pair(6, &|w| w.text(authority))));
        pairs
    }

    pub fn payload(&self) -> Vec<u8> {
        map_of(&self.pairs())
    }

    /// The nonce and the attest bits of a HELLO that an honest peer sent.
    pub fn read(payload: &[u8]) -> ([u8; 32], u64) {
        let (mut nonce, mut attest) = ([0; 32], 0);
        let mut reader = Reader::new(payload);
        let read = reader.each_pair(Reader::uint, |key, _, r| {
            match key {
                2 => nonce = r.array_of()?,
                3 => attest = r.uint()?,
                4 => (0..r.array()?).try_for_each(|_| r.text().map(drop))?,
                6 => drop(r.text()?),
                _ => drop(r.uint()?),
            }
            Ok(())
        });
        read.expect("the program sends a HELLO in deterministic CBOR");
        (nonce, attest)
    }
}

/// A map of definite length with these encoded pairs.
pub fn map_of(pairs: &[Vec<u8>]) -> Vec<u8> {
    let mut w = Writer::new();
    w.map(pairs.len());
    [w.finish(), pairs.concat()].concat()
}

/// The same pairs in a map of indefinite length.
pub fn indefinite_map_of(pairs: &[Vec<u8>]) -> Vec<u8> {
    [vec![0xbf], pairs.concat(), vec![0xff]].concat()
}

/// `u32be(length) ‖ bytes`.
pub fn lp(bytes: &[u8]) -> Vec<u8> {
    [u32::try_from(bytes.len()).expect("short").to_be_bytes().as_slice(), bytes].concat()
}

/// The preimage of a session leaf, part by part.
#[derive(Clone, Debug)]
pub struct LeafParts {
    pub label: Vec<u8>,
    pub role: u8,
    pub exporter: [u8; 32],
    pub nonce_peer: [u8; 32],
    pub nonce_self: [u8; 32],
    pub key_self: Vec<u8>,
    pub key_peer: Vec<u8>,
    pub alpn: Vec<u8>,
    pub claims: Vec<u8>,
}

impl LeafParts {
    pub fn leaf(&self) -> Node {
        let mut input = vec![0];
        input.extend(lp(&self.label));
        input.push(self.role);
        for part in [self.exporter.as_slice(), &self.nonce_peer, &self.nonce_self, &self.key_self, &self.key_peer, &self.alpn, &self.claims] {
            input.extend(lp(part));
        }
        sha384(&[&input])
    }
}

/// The exporter context: role and both nonces.
pub fn exporter_context(role: u8, nonce_c: &[u8; 32], nonce_s: &[u8; 32]) -> Vec<u8> {
    [[role].as_slice(), nonce_c, nonce_s].concat()
}

/// A leaf alone in its batch: what the quote is over, and the proof.
pub fn alone(leaf: Node) -> (ReportData, Proof) {
    (batch::challenge(1, &leaf).long, Proof { index: 0, size: 1, path: Vec::new() })
}

/// A leaf in a batch of `size`, at `index`, the others made up.
pub fn among(leaf: Node, index: usize, size: usize) -> (ReportData, Proof) {
    let mut leaves: Vec<Node> = (0..size).map(|n| sha384(&[b"another session", &n.to_be_bytes()])).collect();
    leaves[index] = leaf;
    let (root, mut proofs) = batch::build(&leaves).expect("a batch");
    (batch::challenge(u64::try_from(size).expect("small"), &root).long, proofs.swap_remove(index))
}

/// Claims about a session, as an honest attester writes them.
pub fn session_claims(key: KeyDigest, hello: [u8; 48]) -> BindingClaims {
    BindingClaims { kind: Kind::Session { hello }, spki: key, instance: INSTANCE.to_vec(), aux: Default::default(), epoch: None, hpke: None }
}

/// An EVIDENCE payload.
pub fn evidence(collection: &[u8], claims: &[u8], proof: &Proof) -> Vec<u8> {
    let mut w = Writer::new();
    w.map(3).uint(1).bytes(collection).uint(2).bytes(claims).uint(3).array(3).uint(proof.index).uint(proof.size).array(proof.path.len());
    for node in &proof.path {
        w.bytes(node);
    }
    frame(EVIDENCE, &w.finish())
}
