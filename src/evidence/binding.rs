//! The binding claims and the report data made from them: what ties evidence to one TLS key and one session.

use std::collections::BTreeMap;

use super::batch::{self, Node, Proof};
use super::cbor::{NotCanonical, Reader, Writer};
use super::{Auxiliary, Challenge, KeyDigest, Timestamp};
use crate::crypto::sha384;
use crate::refusal::{Denied, Finding, Reason};

/// The label of the TLS exporter (RFC 8446 section 7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL-PORTCULLIS-1";

/// Binding claims longer than this are not read. Names dominate: 64 of 253 octets.
pub const MAX_CLAIMS: usize = 20 * 1024;

/// Certificate evidence is never valid for longer than this from its issue, in seconds.
pub const MAX_LIFETIME: u64 = 24 * 3600;

const MAX_NAMES: usize = 64;
const MAX_AUX: usize = 32;

/// Which side of a connection attests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The TLS client, 0x01 in hashes.
    Client,
    /// The TLS server, 0x02 in hashes.
    Server,
}

impl Role {
    /// The octet that stands for it in hashes and in the attest bits of a HELLO.
    #[must_use]
    pub const fn octet(self) -> u8 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }
}

/// What the claims are about, with what only that kind carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Evidence in a certificate.
    Certificate {
        /// When it was made, by the attester's clock.
        issued: Timestamp,
        /// Until when it may be believed.
        expires: Timestamp,
        /// The certificate's subject alternative names: sorted, unique.
        names: Vec<String>,
    },
    /// Evidence made for one session.
    Session {
        /// SHA-384 of both HELLO frames, the client's first.
        hello: [u8; 48],
    },
    /// Evidence fetched over HTTP with a nonce.
    Web,
}

/// The claims that evidence is bound to (the map `CB` of the protocol).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BindingClaims {
    /// What they are about.
    pub kind: Kind,
    /// The key the evidence speaks for.
    pub spki: KeyDigest,
    /// Random per boot, 16 to 64 octets.
    pub instance: Vec<u8>,
    /// SHA-384 of the value of every further evidence member, by its label.
    pub aux: BTreeMap<String, [u8; 48]>,
    /// Proof that the evidence is not older than a public unpredictable value: media type and value.
    pub epoch: Option<(String, Vec<u8>)>,
    /// A body-encryption key for browsers: HPKE KEM id and public key.
    pub hpke: Option<(u64, Vec<u8>)>,
}

impl BindingClaims {
    /// The one encoding of these claims.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        let of_kind = match &self.kind {
            Kind::Certificate { .. } => 3,
            Kind::Session { .. } => 1,
            Kind::Web => 0,
        };
        let optional = [!self.aux.is_empty(), self.epoch.is_some(), self.hpke.is_some()].into_iter().filter(|there| *there).count();
        w.map([4, of_kind, optional].into_iter().sum());
        w.uint(1).uint(1).uint(2).uint(self.kind_number()).uint(3).bytes(&self.spki.0);
        if let Kind::Certificate { issued, expires, names } = &self.kind {
            w.uint(4).uint(issued.0).uint(5).uint(expires.0).uint(6).array(names.len());
            for name in names {
                w.text(name);
            }
        }
        w.uint(7).bytes(&self.instance);
        if let Kind::Session { hello } = &self.kind {
            w.uint(8).bytes(hello);
        }
        if !self.aux.is_empty() {
            // Deterministic order is by encoded key: shorter names first, then bytewise.
            let mut aux: Vec<_> = self.aux.iter().collect();
            aux.sort_by_key(|(name, _)| (name.len(), name.as_bytes()));
            w.uint(9).map(aux.len());
            for (name, digest) in aux {
                w.text(name).bytes(digest);
            }
        }
        if let Some((media_type, value)) = &self.epoch {
            w.uint(10).array(2).text(media_type).bytes(value);
        }
        if let Some((kem, key)) = &self.hpke {
            w.uint(11).array(2).uint(*kem).bytes(key);
        }
        w.finish()
    }

    /// Reads claims; the bytes must be their one encoding.
    ///
    /// # Errors
    /// `evidence_size` beyond [`MAX_CLAIMS`], else `evidence_malformed`.
    pub fn decode(bytes: &[u8]) -> Result<Self, Denied> {
        if bytes.len() > MAX_CLAIMS {
            return Finding::new(Reason::EvidenceSize, "bind", format!("at most {MAX_CLAIMS} octets"), bytes.len().to_string()).refuse();
        }
        let mut raw = RawClaims::default();
        read(bytes, &mut raw).map_err(|error| malformed("deterministic CBOR of the binding claims", error.to_string()))?;
        raw.check()
    }

    const fn kind_number(&self) -> u64 {
        match self.kind {
            Kind::Certificate { .. } => 1,
            Kind::Session { .. } => 2,
            Kind::Web => 3,
        }
    }
}

/// The facts of one TLS connection, as the attesting side `role` sees them.
#[derive(Clone, Copy, Debug)]
pub struct Channel<'a> {
    /// Which side attests.
    pub role: Role,
    /// 32 octets of the exporter for that role.
    pub exporter: &'a [u8; 32],
    /// The nonce of the side that verifies.
    pub nonce_peer: &'a [u8; 32],
    /// The nonce of the side that attests.
    pub nonce_self: &'a [u8; 32],
    /// The attesting side's key.
    pub key_self: &'a KeyDigest,
    /// The verifying side's key, when it presented a certificate.
    pub key_peer: Option<&'a KeyDigest>,
    /// The negotiated protocol.
    pub alpn: &'a [u8],
}

impl Channel<'_> {
    /// The tree leaf that stands for this session and these encoded binding claims.
    #[must_use]
    pub fn leaf(&self, claims: &[u8]) -> Node {
        let mut input = vec![0];
        input.extend(length_prefixed(b"PORTCULLIS/1 session-leaf"));
        input.push(self.role.octet());
        let key_peer: &[u8] = self.key_peer.map_or(&[], |key| &key.0);
        for part in [self.exporter.as_slice(), self.nonce_peer, self.nonce_self, &self.key_self.0, key_peer, self.alpn, claims] {
            input.extend(length_prefixed(part));
        }
        sha384(&[&input])
    }
}

/// The exporter context for `role`: the role's octet and both nonces.
#[must_use]
pub fn exporter_context(role: Role, nonce_client: &[u8; 32], nonce_server: &[u8; 32]) -> [u8; 65] {
    let mut context = [role.octet(); 65];
    let nonces = nonce_client.iter().chain(nonce_server);
    context.iter_mut().skip(1).zip(nonces).for_each(|(place, octet)| *place = *octet);
    context
}

/// SHA-384 of both HELLO frames as they were on the wire.
#[must_use]
pub fn hello_digest(hello_client: &[u8], hello_server: &[u8]) -> [u8; 48] {
    sha384(&[hello_client, hello_server])
}

/// What the claims list of these auxiliary members: the SHA-384 of each value by its label.
#[must_use]
pub fn digests(members: &[Auxiliary]) -> BTreeMap<String, [u8; 48]> {
    members.iter().map(|member| (member.label.clone(), sha384(&[&member.bytes]))).collect()
}

/// What certificate evidence with these encoded claims carries.
#[must_use]
pub fn certificate_challenge(claims: &[u8]) -> Challenge {
    Challenge::of(&certificate_preimage(claims))
}

/// The nonce for devices beside the TEE: over the instance and the verifier's nonce in a session; in a certificate over the
/// binding claims without their list of members, which holds the digest of the answer.
#[must_use]
pub fn device_nonce(parts: &[&[u8]]) -> [u8; 32] {
    let prefixed: Vec<Vec<u8>> = std::iter::once(b"PORTCULLIS/1 gpu".as_slice()).chain(parts.iter().copied()).map(length_prefixed).collect();
    crate::crypto::sha256(&[&prefixed.concat()])
}

/// The tree leaf of evidence fetched over HTTP for `origin`.
#[must_use]
pub fn web_leaf(nonce: &[u8], key_self: &KeyDigest, origin: &str, claims: &[u8]) -> Node {
    let mut input = vec![0];
    for part in [b"PORTCULLIS/1 web-leaf".as_slice(), nonce, &key_self.0, origin.as_bytes(), claims] {
        input.extend(length_prefixed(part));
    }
    sha384(&[&input])
}

/// A proven tie between evidence and a key of ours to judge: what the report data must be, and what follows from it.
///
/// Made only from facts that the caller observed itself ([`Binding::of_certificate`], [`Binding::of_session`]).
/// It establishes nothing about the evidence until `verify` has compared the report data and the signature.
#[derive(Clone, Debug)]
pub struct Binding {
    claims: BindingClaims,
    expected: Challenge,
    device_nonce: [u8; 32],
    until: Option<Timestamp>,
}

/// What a verifier observed of a leaf certificate.
#[derive(Clone, Debug)]
pub struct LeafFacts {
    /// The leaf's key.
    pub key: KeyDigest,
    /// Its validity.
    pub not_before: Timestamp,
    /// Its validity.
    pub not_after: Timestamp,
    /// Its subject alternative names, sorted and unique.
    pub names: Vec<String>,
}

/// How old certificate evidence may be.
#[derive(Clone, Copy, Debug)]
pub struct AgeRule {
    /// From issue to now, in seconds.
    pub max_age: u64,
    /// From issue to expiry, in seconds.
    pub max_lifetime: u64,
    /// How far the two clocks may differ, in seconds.
    pub skew: u64,
}

impl Binding {
    /// The tie between evidence and the certificate it was found in.
    ///
    /// # Errors
    /// `evidence_malformed` for claims of another kind, `binding_mismatch` for another key, `name_mismatch`,
    /// `evidence_stale`.
    pub fn of_certificate(claims: &[u8], leaf: &LeafFacts, rule: AgeRule, now: Timestamp) -> Result<Self, Denied> {
        let decoded = BindingClaims::decode(claims)?;
        let Kind::Certificate { issued, expires, names } = &decoded.kind else {
            return Err(malformed("binding claims of kind 1 (certificate)", format!("kind {}", decoded.kind_number())));
        };
        same_key(&decoded, &leaf.key)?;
        if *names != leaf.names {
            let shown = |names: &[String]| if names.is_empty() { "no names".to_owned() } else { names.join(", ") };
            return Finding::new(Reason::NameMismatch, "bind.names", shown(&leaf.names), shown(names)).refuse();
        }
        let stale = |field: &'static str, expected: String, found: Timestamp| {
            Finding::new(Reason::EvidenceStale, field, expected, found.to_string())
                .fix("compare the clocks of both sides, then see why the attesting side did not rotate its certificate")
                .refuse()
        };
        if now.plus(rule.skew) < *issued {
            return stale("bind.iat", format!("not after {now} (clock skew {} s)", rule.skew), *issued);
        }
        if now > *expires {
            return stale("bind.exp", format!("not before {now}"), *expires);
        }
        if now > issued.plus(rule.max_age) {
            return stale("bind.iat", format!("at most {} s before {now}", rule.max_age), *issued);
        }
        if *expires > issued.plus(rule.max_lifetime) {
            return stale("bind.exp", format!("at most {} s after bind.iat {issued}", rule.max_lifetime), *expires);
        }
        if leaf.not_after > *expires {
            return stale("leaf.not_after", format!("at most bind.exp {expires}"), leaf.not_after);
        }
        if leaf.not_before < issued.minus(600) {
            return stale("leaf.not_before", format!("at most 600 s before bind.iat {issued}"), leaf.not_before);
        }
        let until = Some((*expires).min(issued.plus(rule.max_age)));
        let device_nonce = device_nonce(&[&BindingClaims { aux: BTreeMap::new(), ..decoded.clone() }.encode()]);
        Ok(Self { expected: certificate_challenge(claims), device_nonce, claims: decoded, until })
    }

    /// The tie between evidence and the session that `channel` describes, through a batch proof.
    ///
    /// # Errors
    /// `evidence_malformed` for claims of another kind, `binding_mismatch` for another key or HELLO,
    /// `batch_proof_invalid` for a proof of the wrong shape.
    pub fn of_session(claims: &[u8], channel: &Channel<'_>, hello: &[u8; 48], proof: &Proof) -> Result<Self, Denied> {
        let decoded = BindingClaims::decode(claims)?;
        let Kind::Session { hello: claimed } = &decoded.kind else {
            return Err(malformed("binding claims of kind 2 (session)", format!("kind {}", decoded.kind_number())));
        };
        same_key(&decoded, channel.key_self)?;
        if channel.key_peer == Some(channel.key_self) {
            return Finding::new(Reason::BindingMismatch, "bind.spki", "another key than ours", "our own key").refuse();
        }
        if !crate::crypto::same(claimed, hello) {
            return Finding::new(Reason::BindingMismatch, "bind.hello", "the digest of this connection's HELLO frames", "another").refuse();
        }
        let root = batch::fold(&channel.leaf(claims), proof)?;
        let device_nonce = device_nonce(&[&decoded.instance, channel.nonce_peer]);
        Ok(Self { expected: batch::challenge(proof.size, &root), device_nonce, claims: decoded, until: None })
    }

    /// The tie between evidence and the connection it was fetched over: its key, our nonce, the origin we asked.
    ///
    /// # Errors
    /// As [`Binding::of_session`].
    pub fn of_web(claims: &[u8], key: &KeyDigest, nonce: &[u8], origin: &str, proof: &Proof) -> Result<Self, Denied> {
        let decoded = BindingClaims::decode(claims)?;
        if decoded.kind != Kind::Web {
            return Err(malformed("binding claims of kind 3 (web)", format!("kind {}", decoded.kind_number())));
        }
        same_key(&decoded, key)?;
        let root = batch::fold(&web_leaf(nonce, key, origin, claims), proof)?;
        let device_nonce = device_nonce(&[&decoded.instance, nonce]);
        Ok(Self { expected: batch::challenge(proof.size, &root), device_nonce, claims: decoded, until: None })
    }

    /// Whether `claims` are the encoded claims that this was made from.
    #[must_use]
    pub fn is_of(&self, claims: &[u8]) -> bool {
        self.claims.encode() == claims
    }

    /// The claims that were bound.
    #[must_use]
    pub const fn claims(&self) -> &BindingClaims {
        &self.claims
    }

    /// The nonce that the attestation of a device beside the TEE (`gpu/0`) must answer.
    #[must_use]
    pub const fn device_nonce(&self) -> &[u8; 32] {
        &self.device_nonce
    }

    /// What the evidence must carry.
    #[must_use]
    pub const fn expected(&self) -> &Challenge {
        &self.expected
    }

    /// The key this is about.
    #[must_use]
    pub const fn key(&self) -> &KeyDigest {
        &self.claims.spki
    }

    /// Until when the tie holds; `None` when the connection alone bounds it.
    #[must_use]
    pub const fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

/// `u32be(length) ‖ bytes`.
pub(super) fn length_prefixed(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [length.as_slice(), bytes].concat()
}

fn certificate_preimage(claims: &[u8]) -> Vec<u8> {
    [length_prefixed(b"PORTCULLIS/1 cert-evidence"), length_prefixed(claims)].concat()
}

fn same_key(claims: &BindingClaims, key: &KeyDigest) -> Result<(), Denied> {
    if crate::crypto::same(&claims.spki.0, &key.0) {
        return Ok(());
    }
    let hex = |key: &KeyDigest| data_encoding::HEXLOWER.encode(&key.0);
    Finding::new(Reason::BindingMismatch, "bind.spki", format!("the key of this connection's leaf, {}", hex(key)), hex(&claims.spki)).refuse()
}

fn malformed(expected: impl Into<String>, found: impl Into<String>) -> Denied {
    Finding::new(Reason::EvidenceMalformed, "bind", expected, found).into()
}

#[derive(Default)]
struct RawClaims {
    version: Option<u64>,
    kind: Option<u64>,
    spki: Option<[u8; 48]>,
    issued: Option<u64>,
    expires: Option<u64>,
    names: Option<Vec<String>>,
    instance: Option<Vec<u8>>,
    hello: Option<[u8; 48]>,
    aux: BTreeMap<String, [u8; 48]>,
    epoch: Option<(String, Vec<u8>)>,
    hpke: Option<(u64, Vec<u8>)>,
}

fn read(bytes: &[u8], raw: &mut RawClaims) -> Result<(), NotCanonical> {
    let mut reader = Reader::new(bytes);
    reader.each_pair(Reader::uint, |key, offset, r| {
        match key {
            1 => raw.version = Some(r.uint()?),
            2 => raw.kind = Some(r.uint()?),
            3 => raw.spki = Some(r.array_of()?),
            4 => raw.issued = Some(r.uint()?),
            5 => raw.expires = Some(r.uint()?),
            6 => raw.names = Some(names(r)?),
            7 => raw.instance = Some(r.bytes()?.to_vec()),
            8 => raw.hello = Some(r.array_of()?),
            9 => aux(r, &mut raw.aux)?,
            10 => raw.epoch = Some(pair(r, |r| r.text().map(str::to_owned))?),
            11 => raw.hpke = Some(pair(r, Reader::uint)?),
            _ => return Err(NotCanonical { offset, expected: "key of the binding claims" }),
        }
        Ok(())
    })?;
    reader.end()
}

fn names(r: &mut Reader<'_>) -> Result<Vec<String>, NotCanonical> {
    let offset = r.offset();
    let count = r.array()?;
    if !(1..=MAX_NAMES).contains(&count) {
        return Err(NotCanonical { offset, expected: "list of 1 to 64 names" });
    }
    let mut names: Vec<String> = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = r.offset();
        let name = r.text()?;
        if names.last().is_some_and(|last| last.as_str() >= name) {
            return Err(NotCanonical { offset, expected: "name greater than the one before" });
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn aux(r: &mut Reader<'_>, into: &mut BTreeMap<String, [u8; 48]>) -> Result<(), NotCanonical> {
    let offset = r.offset();
    r.each_pair(
        |r| r.text().map(str::to_owned),
        |label, _, r| {
            into.insert(label, r.array_of()?);
            Ok(())
        },
    )?;
    if (1..=MAX_AUX).contains(&into.len()) { Ok(()) } else { Err(NotCanonical { offset, expected: "map of 1 to 32 members" }) }
}

fn pair<'a, T>(r: &mut Reader<'a>, first: impl FnOnce(&mut Reader<'a>) -> Result<T, NotCanonical>) -> Result<(T, Vec<u8>), NotCanonical> {
    let offset = r.offset();
    if r.array()? != 2 {
        return Err(NotCanonical { offset, expected: "array of two" });
    }
    Ok((first(r)?, r.bytes()?.to_vec()))
}

impl RawClaims {
    fn check(self) -> Result<BindingClaims, Denied> {
        if self.version != Some(1) {
            return Err(malformed("version 1", format!("{:?}", self.version)));
        }
        let kind = match (self.kind, self.issued, self.expires, self.names, self.hello) {
            (Some(1), Some(issued), Some(expires), Some(names), None) => Kind::Certificate { issued: Timestamp(issued), expires: Timestamp(expires), names },
            (Some(2), None, None, None, Some(hello)) => Kind::Session { hello },
            (Some(3), None, None, None, None) => Kind::Web,
            (kind, ..) => return Err(malformed("exactly the members of kind 1, 2 or 3", format!("kind {kind:?} with other members"))),
        };
        let spki = self.spki.ok_or_else(|| malformed("member 3 (spki)", "none"))?;
        let instance = self.instance.filter(|instance| (16..=64).contains(&instance.len()));
        let instance = instance.ok_or_else(|| malformed("member 7 (instance) of 16 to 64 octets", "none or another length"))?;
        Ok(BindingClaims { kind, spki: KeyDigest(spki), instance, aux: self.aux, epoch: self.epoch, hpke: self.hpke })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp(1_790_812_800);
    const RULE: AgeRule = AgeRule { max_age: 3600, max_lifetime: 86_400, skew: 120 };

    fn certificate() -> BindingClaims {
        BindingClaims {
            kind: Kind::Certificate { issued: NOW, expires: NOW.plus(3600), names: vec!["app.example".to_owned()] },
            spki: KeyDigest([1; 48]),
            instance: vec![3; 16],
            aux: BTreeMap::new(),
            epoch: None,
            hpke: None,
        }
    }

    fn leaf() -> LeafFacts {
        LeafFacts { key: KeyDigest([1; 48]), not_before: NOW.minus(300), not_after: NOW.plus(3600), names: vec!["app.example".to_owned()] }
    }

    fn session() -> BindingClaims {
        BindingClaims { kind: Kind::Session { hello: [8; 48] }, ..certificate() }
    }

    fn of_certificate(claims: &BindingClaims, leaf: &LeafFacts, now: Timestamp) -> Result<Binding, Reason> {
        Binding::of_certificate(&claims.encode(), leaf, RULE, now).map_err(|denied| denied.reason())
    }

    #[test]
    fn a_certificate_that_agrees_with_its_claims_binds() {
        let binding = of_certificate(&certificate(), &leaf(), NOW).unwrap();
        assert_eq!(*binding.expected(), certificate_challenge(&certificate().encode()));
        assert_eq!(binding.until(), Some(NOW.plus(3600)));
        assert!(binding.is_of(&certificate().encode()) && !binding.is_of(&session().encode()));
    }

    #[test]
    fn a_certificate_that_differs_from_its_claims_is_refused() {
        let refused = |leaf: LeafFacts, now| of_certificate(&certificate(), &leaf, now).unwrap_err();
        assert_eq!(refused(LeafFacts { key: KeyDigest([2; 48]), ..leaf() }, NOW), Reason::BindingMismatch);
        assert_eq!(refused(LeafFacts { names: vec!["app.example".to_owned(), "b.example".to_owned()], ..leaf() }, NOW), Reason::NameMismatch, "cert-names-add");
        assert_eq!(refused(LeafFacts { not_after: NOW.plus(3601), ..leaf() }, NOW), Reason::EvidenceStale, "cert-notafter-extended");
        assert_eq!(refused(LeafFacts { not_before: NOW.minus(601), ..leaf() }, NOW), Reason::EvidenceStale);
        assert_eq!(refused(leaf(), NOW.plus(3601)), Reason::EvidenceStale, "cert-expired-evidence");
        assert_eq!(refused(leaf(), NOW.minus(600)), Reason::EvidenceStale, "iat-future");
        of_certificate(&certificate(), &leaf(), NOW.minus(120)).unwrap();
    }

    #[test]
    fn claims_that_live_or_are_too_long_are_stale() {
        let kind = Kind::Certificate { issued: NOW, expires: NOW.plus(86_401), names: vec!["app.example".to_owned()] };
        assert_eq!(of_certificate(&BindingClaims { kind, ..certificate() }, &leaf(), NOW).unwrap_err(), Reason::EvidenceStale);
        let kind = Kind::Certificate { issued: NOW.minus(3601), expires: NOW.plus(3600), names: vec!["app.example".to_owned()] };
        let old = LeafFacts { not_before: NOW.minus(3700), ..leaf() };
        assert_eq!(of_certificate(&BindingClaims { kind, ..certificate() }, &old, NOW).unwrap_err(), Reason::EvidenceStale);
    }

    #[test]
    fn claims_of_the_other_kind_are_malformed() {
        assert_eq!(of_certificate(&session(), &leaf(), NOW).unwrap_err(), Reason::EvidenceMalformed, "session-evidence-in-cert");
        assert_eq!(of_session(&certificate(), |_| {}).unwrap_err(), Reason::EvidenceMalformed, "cert-evidence-in-session");
    }

    /// The binding a verifier computes for the sample session after `change` to what it observed.
    fn of_session(claims: &BindingClaims, change: impl FnOnce(&mut Channel<'static>)) -> Result<Binding, Reason> {
        const KEY: &KeyDigest = &KeyDigest([1; 48]);
        const PEER: &KeyDigest = &KeyDigest([2; 48]);
        let mut channel = Channel {
            role: Role::Server,
            exporter: &[0xee; 32],
            nonce_peer: &[4; 32],
            nonce_self: &[5; 32],
            key_self: KEY,
            key_peer: Some(PEER),
            alpn: b"portcullis1/raw",
        };
        change(&mut channel);
        let proof = Proof { index: 0, size: 1, path: Vec::new() };
        Binding::of_session(&claims.encode(), &channel, &[8; 48], &proof).map_err(|denied| denied.reason())
    }

    #[test]
    fn every_fact_of_the_channel_changes_the_report_data() {
        let good = *of_session(&session(), |_| {}).unwrap().expected();
        type Change = fn(&mut Channel<'static>);
        let changes: [(&str, Change); 7] = [
            ("relay-two-channels", |channel| channel.exporter = &[0xef; 32]),
            ("wrong-role", |channel| channel.role = Role::Client),
            ("nonce-swap", |channel| (channel.nonce_peer, channel.nonce_self) = (channel.nonce_self, channel.nonce_peer)),
            ("old-session-evidence", |channel| channel.nonce_peer = &[6; 32]),
            ("client-cert-missing-in-hash", |channel| channel.key_peer = None),
            ("another client", |channel| channel.key_peer = Some(&KeyDigest([3; 48]))),
            ("alpn-mismatch-in-leaf", |channel| channel.alpn = b"portcullis1/h2"),
        ];
        for (name, change) in changes {
            assert_ne!(*of_session(&session(), change).unwrap().expected(), good, "{name}");
        }
    }

    #[test]
    fn a_foreign_key_our_own_key_and_another_hello_are_refused() {
        assert_eq!(of_session(&session(), |channel| channel.key_self = &KeyDigest([9; 48])).unwrap_err(), Reason::BindingMismatch);
        assert_eq!(of_session(&session(), |channel| channel.key_peer = Some(channel.key_self)).unwrap_err(), Reason::BindingMismatch);
        let other = BindingClaims { kind: Kind::Session { hello: [7; 48] }, ..session() };
        assert_eq!(of_session(&other, |_| {}).unwrap_err(), Reason::BindingMismatch, "hello-tamper");
    }

    #[test]
    fn web_evidence_is_not_session_evidence() {
        let claims = BindingClaims { kind: Kind::Web, ..session() };
        let leaf = web_leaf(&[4; 32], &KeyDigest([1; 48]), "https://app.example", &claims.encode());
        let session = of_session(&session(), |_| {}).unwrap();
        assert_ne!(batch::challenge(1, &leaf), *session.expected(), "web-leaf-as-session");
        assert_eq!(of_session(&claims, |_| {}).unwrap_err(), Reason::EvidenceMalformed);
    }

    proptest! {
        #[test]
        fn what_is_read_has_one_encoding(at in any::<prop::sample::Index>(), value in any::<u8>(), full in any::<bool>()) {
            let mut claims = if full { certificate() } else { session() };
            if full {
                claims.aux = [("log".to_owned(), [1; 48]), ("gpu/0".to_owned(), [2; 48])].into();
                claims.epoch = Some(("application/x".to_owned(), vec![1]));
                claims.hpke = Some((32, vec![2; 32]));
            }
            prop_assert_eq!(BindingClaims::decode(&claims.encode()).unwrap(), claims.clone());
            let mut octets = claims.encode();
            let at = at.index(octets.len());
            octets[at] = value;
            if let Ok(read) = BindingClaims::decode(&octets) {
                prop_assert_eq!(read.encode(), octets);
            }
        }
    }
}
