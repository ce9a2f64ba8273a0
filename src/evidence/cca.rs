//! Arm CCA attestation tokens: a platform token by the platform's key, and a realm token by the realm's, whose digest the
//! platform token carries as its challenge (draft-ffm-rats-cca-token; Arm, Realm Management Monitor specification).

use super::arm::{self, DIGESTS, Fields, Part, malformed};
use super::cbor::foreign::{Item, Map};
use super::cose::{self, Sign1, Tagging};
use super::saved::Saved;
use super::spki::EllipticKey;
use super::{ClaimValue, Claims};
use crate::crypto::{Scheme, sha256, sha384, sha512};
use crate::refusal::{Denied, Finding, Reason};

/// The media type of a token.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.cca-token";

/// A token longer than this is not read; those seen have up to 2,507 octets.
pub const MAX_TOKEN: usize = 16 * 1024;

/// The platform profiles that are read.
pub const PLATFORM_PROFILES: &[&str] = &["http://arm.com/CCA-SSD/1.0.0", "tag:arm.com,2023:cca_platform#1.0.0"];

/// The realm profiles that are read; older tokens name none.
pub const REALM_PROFILES: &[&str] = &["tag:arm.com,2023:realm#1.0.0", "tag:arm.com,2024:realm#2.0.0"];

/// A token in a file.
pub const SAVED: Saved =
    Saved { evidence: "cca-token.cbor", endorsements: &[], is_evidence: |bytes| Token::parse(bytes).is_ok(), endorsement: |_| None, assemble: |_| None };

const PLATFORM: u64 = 44_234;
const REALM: u64 = 44_241;
/// The content format of EAT in a CWT: what a record of the wrapper holds.
const EAT_CWT: u64 = 263;

const PROFILE: i64 = 265;
const CHALLENGE: i64 = 10;
const IMPLEMENTATION: i64 = 2396;
const INSTANCE: i64 = 256;
const CONFIG: i64 = 2401;
const LIFECYCLE: i64 = 2395;
const COMPONENTS: i64 = 2399;
const SERVICE: i64 = 2400;
const HASH: i64 = 2402;

const PERSONALIZATION: i64 = 44_235;
const REALM_HASH: i64 = 44_236;
const KEY: i64 = 44_237;
const INITIAL: i64 = 44_238;
const EXTENSIBLE: i64 = 44_239;
const KEY_HASH: i64 = 44_240;
/// Of the profiles that say on which machine a realm runs: read, and nothing is made of them.
const REALM_EXTRA: [i64; 2] = [256, 44_243];

/// How the two tokens are put together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// Tag 399: two byte strings.
    Collection,
    /// Tag 907: two records of a conceptual message wrapper.
    Wrapper,
}

impl Shape {
    const ALL: [Self; 2] = [Self::Collection, Self::Wrapper];

    /// Its CBOR tag.
    #[must_use]
    pub const fn tag(self) -> u64 {
        match self {
            Self::Collection => 399,
            Self::Wrapper => 907,
        }
    }
}

/// A token: both parts, read and not believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token<'a> {
    /// How they are put together.
    pub shape: Shape,
    /// The platform token's signature.
    pub platform_signed: Sign1<'a>,
    /// What the platform says.
    pub platform: Platform,
    /// The realm token's signature.
    pub realm_signed: Sign1<'a>,
    /// What the realm says.
    pub realm: Realm,
}

/// What the platform says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Platform {
    /// cca-platform-profile.
    pub profile: String,
    /// cca-platform-challenge: the digest of the realm's key.
    pub challenge: Vec<u8>,
    /// cca-platform-implementation-id.
    pub implementation: [u8; 32],
    /// cca-platform-instance-id: 0x01 and 32 octets.
    pub instance: [u8; 33],
    /// cca-platform-config.
    pub config: Vec<u8>,
    /// cca-platform-lifecycle.
    pub lifecycle: u16,
    /// cca-platform-sw-components.
    pub components: Vec<Part>,
    /// cca-platform-verification-service: a hint that is never followed.
    pub service: Option<String>,
    /// cca-platform-hash-algo-id.
    pub hash: String,
}

/// What the realm says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Realm {
    /// cca-realm-profile; older tokens have none.
    pub profile: Option<String>,
    /// cca-realm-challenge.
    pub challenge: [u8; 64],
    /// cca-realm-personalization-value.
    pub personalization: [u8; 64],
    /// cca-realm-public-key, as it stands in the token: a COSE_Key, or without a profile an uncompressed point.
    pub key: Vec<u8>,
    /// cca-realm-public-key-hash-algo-id.
    pub key_hash: Hash,
    /// cca-realm-hash-algo-id.
    pub hash: String,
    /// cca-realm-initial-measurement (RIM).
    pub initial: Vec<u8>,
    /// cca-realm-extensible-measurements (REM).
    pub extensible: [Vec<u8>; 4],
}

/// A digest algorithm.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hash {
    /// `sha-256`.
    Sha256,
    /// `sha-384`.
    Sha384,
    /// `sha-512`.
    Sha512,
}

impl Hash {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name in tokens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => sha256(&[bytes]).to_vec(),
            Self::Sha384 => sha384(&[bytes]).to_vec(),
            Self::Sha512 => sha512(&[bytes]).to_vec(),
        }
    }
}

impl<'a> Token<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// `evidence_size`, `evidence_malformed`, `evidence_unsupported` for a profile that is not listed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Denied> {
        if bytes.len() > MAX_TOKEN {
            return Finding::new(Reason::EvidenceSize, "token", format!("at most {MAX_TOKEN} octets"), bytes.len().to_string()).refuse();
        }
        let item = match Item::decode(bytes) {
            Ok(item) => item,
            Err(error) => return malformed("token", "one CBOR item", error),
        };
        let Item::Tag(tag, inner) = item else { return malformed("token", "tag 399 or 907", "none") };
        let Some(shape) = Shape::ALL.into_iter().find(|shape| shape.tag() == tag) else { return malformed("token", "tag 399 or 907", format!("tag {tag}")) };
        let Item::Map(map) = &*inner else { return malformed("token", "a map of two tokens", "another item") };
        let [(first, platform), (second, realm)] = map.pairs.as_slice() else {
            return malformed("token", "a platform and a realm token", format!("{} entries", map.pairs.len()));
        };
        let (platform, realm) = match (first, second) {
            (Item::Uint(PLATFORM), Item::Uint(REALM)) => (platform, realm),
            (Item::Uint(REALM), Item::Uint(PLATFORM)) => (realm, platform),
            _ => return malformed("token", "a platform (44234) and a realm (44241) token", "others"),
        };
        let platform_signed = Sign1::decode("token.platform", signed(shape, platform)?)?;
        let realm_signed = Sign1::decode("token.realm", signed(shape, realm)?)?;
        let (platform, realm) = (Platform::parse(platform_signed.payload)?, Realm::parse(realm_signed.payload)?);
        Ok(Self { shape, platform_signed, platform, realm_signed, realm })
    }

    /// What it says. The names are those of the policy keys where there is one.
    #[must_use]
    pub fn claims(&self) -> Claims {
        let mut claims = Claims::default();
        let (platform, realm) = (&self.platform, &self.realm);
        let bytes = |octets: &[u8]| ClaimValue::Bytes(octets.to_vec());
        let text = |text: &str| ClaimValue::Text(text.to_owned());
        claims.push("cbor_tag", ClaimValue::Integer(self.shape.tag()));
        claims.push("rim", bytes(&realm.initial));
        for (name, value) in ["rem0", "rem1", "rem2", "rem3"].into_iter().zip(&realm.extensible) {
            claims.push(name, bytes(value));
        }
        claims.push("rpv", bytes(&realm.personalization));
        claims.push("challenge", bytes(&realm.challenge));
        if let Some(profile) = &realm.profile {
            claims.push("realm_profile", text(profile));
        }
        claims.push("realm_alg", ClaimValue::Text(self.realm_signed.algorithm_name()));
        claims.push("realm_hash_algo", text(&realm.hash));
        claims.push("rak", bytes(&realm.key));
        claims.push("rak_hash_algo", text(realm.key_hash.name()));
        claims.push("platform_profile", text(&platform.profile));
        claims.push("platform_alg", ClaimValue::Text(self.platform_signed.algorithm_name()));
        claims.push("platform_challenge", bytes(&platform.challenge));
        claims.push("impl_id", bytes(&platform.implementation));
        claims.push("instance_id", bytes(&platform.instance));
        claims.push("lifecycle", ClaimValue::Integer(platform.lifecycle.into()));
        claims.push("lifecycle_state", text(arm::lifecycle(platform.lifecycle)));
        claims.push("platform_config", bytes(&platform.config));
        claims.push("platform_hash_algo", text(&platform.hash));
        if let Some(service) = &platform.service {
            claims.push("verification_service", text(service));
        }
        claims.push("sw_components", arm::parts_claims(&platform.components));
        claims
    }
}

/// Two signed tokens put together.
#[must_use]
pub fn encode(shape: Shape, platform: &[u8], realm: &[u8]) -> Vec<u8> {
    let record = |signed| match shape {
        Shape::Collection => Item::Bytes(signed),
        Shape::Wrapper => Item::Array(vec![Item::Uint(EAT_CWT), Item::Bytes(signed)]),
    };
    let map = Map::new(vec![(Item::Uint(PLATFORM), record(platform)), (Item::Uint(REALM), record(realm))]);
    Item::Tag(shape.tag(), Box::new(Item::Map(map))).encode()
}

/// The signed token in an entry.
fn signed<'a>(shape: Shape, item: &Item<'a>) -> Result<&'a [u8], Denied> {
    match (shape, item) {
        (Shape::Collection, Item::Bytes(signed)) => Ok(signed),
        (Shape::Wrapper, Item::Array(record)) => match record.as_slice() {
            [Item::Uint(EAT_CWT), Item::Bytes(signed)] => Ok(signed),
            _ => malformed("token", "a record of an EAT (content format 263)", "another"),
        },
        _ => malformed("token", "a signed token in each entry", "another item"),
    }
}

impl Platform {
    fn parse(payload: &[u8]) -> Result<Self, Denied> {
        const WHAT: &str = "token.platform";
        let map = map(WHAT, payload)?;
        let mut fields = Fields::new(WHAT, &map);
        let platform = Self {
            profile: listed(WHAT, fields.text(PROFILE)?, PLATFORM_PROFILES)?,
            challenge: fields.bytes(CHALLENGE, DIGESTS)?,
            implementation: fields.array_of(IMPLEMENTATION)?,
            instance: fields.array_of(INSTANCE)?,
            config: fields.bytes_up_to(CONFIG, 256)?,
            lifecycle: fields.lifecycle(LIFECYCLE)?,
            components: arm::parts(WHAT, fields.required(COMPONENTS)?)?,
            service: fields.optional_text(SERVICE)?,
            hash: fields.text(HASH)?,
        };
        fields.finish()?;
        Ok(platform)
    }

    /// The claims that the platform's key signs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut pairs = vec![
            (Item::of_int(PROFILE), Item::Text(&self.profile)),
            (Item::of_int(CHALLENGE), Item::Bytes(&self.challenge)),
            (Item::of_int(IMPLEMENTATION), Item::Bytes(&self.implementation)),
            (Item::of_int(INSTANCE), Item::Bytes(&self.instance)),
            (Item::of_int(CONFIG), Item::Bytes(&self.config)),
            (Item::of_int(LIFECYCLE), Item::Uint(self.lifecycle.into())),
            (Item::of_int(HASH), Item::Text(&self.hash)),
        ];
        pairs.extend(self.service.as_ref().map(|service| (Item::of_int(SERVICE), Item::Text(service))));
        pairs.push((Item::of_int(COMPONENTS), arm::parts_item(&self.components)));
        Item::Map(Map::new(pairs)).encode()
    }
}

impl Realm {
    const WHAT: &'static str = "token.realm";

    fn parse(payload: &[u8]) -> Result<Self, Denied> {
        let map = map(Self::WHAT, payload)?;
        let mut fields = Fields::new(Self::WHAT, &map);
        let profile = fields.optional_text(PROFILE)?.map(|profile| listed(Self::WHAT, profile, REALM_PROFILES)).transpose()?;
        let realm = Self {
            profile,
            challenge: fields.array_of(CHALLENGE)?,
            personalization: fields.array_of(PERSONALIZATION)?,
            key: fields.bytes_up_to(KEY, 256)?,
            key_hash: hash(&fields.text(KEY_HASH)?)?,
            hash: fields.text(REALM_HASH)?,
            initial: fields.bytes(INITIAL, DIGESTS)?,
            extensible: extensible(fields.required(EXTENSIBLE)?)?,
        };
        for key in REALM_EXTRA {
            fields.optional(key);
        }
        fields.finish()?;
        Ok(realm)
    }

    /// The claims that the realm's key signs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut pairs: Vec<_> = self.profile.iter().map(|profile| (Item::of_int(PROFILE), Item::Text(profile))).collect();
        pairs.extend([
            (Item::of_int(CHALLENGE), Item::Bytes(&self.challenge)),
            (Item::of_int(REALM_HASH), Item::Text(&self.hash)),
            (Item::of_int(KEY_HASH), Item::Text(self.key_hash.name())),
            (Item::of_int(PERSONALIZATION), Item::Bytes(&self.personalization)),
            (Item::of_int(KEY), Item::Bytes(&self.key)),
            (Item::of_int(INITIAL), Item::Bytes(&self.initial)),
            (Item::of_int(EXTENSIBLE), Item::Array(self.extensible.iter().map(|value| Item::Bytes(value)).collect())),
        ]);
        Item::Map(Map::new(pairs)).encode()
    }

    /// The realm's key: P-384.
    ///
    /// # Errors
    /// `evidence_malformed` for another key, or a point that is not on the curve.
    pub fn public_key(&self) -> Result<EllipticKey, Denied> {
        let key = match self.profile {
            Some(_) => cose::decode_key("token.realm.key", &self.key)?,
            None => cose::on_curve("token.realm.key", Scheme::EcdsaP384Sha384, self.key.clone())?,
        };
        if key.scheme == Scheme::EcdsaP384Sha384 { Ok(key) } else { malformed("token.realm.key", "a P-384 key", "another curve") }
    }
}

/// A signed token, under its tag.
#[must_use]
pub fn envelope(protected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    cose::encode(Tagging::Tagged, protected, payload, signature)
}

fn map<'a>(what: &'static str, payload: &'a [u8]) -> Result<Map<'a>, Denied> {
    match Item::decode(payload) {
        Ok(Item::Map(map)) => Ok(map),
        Ok(_) => malformed(what, "a map of claims", "another item"),
        Err(error) => malformed(what, "a map of claims", error),
    }
}

fn listed(what: &'static str, profile: String, known: &[&str]) -> Result<String, Denied> {
    if known.contains(&profile.as_str()) {
        return Ok(profile);
    }
    Finding::new(Reason::EvidenceUnsupported, format!("{what}.profile"), known.join(" or "), profile).refuse()
}

fn hash(name: &str) -> Result<Hash, Denied> {
    match Hash::ALL.into_iter().find(|hash| hash.name() == name) {
        Some(hash) => Ok(hash),
        None => malformed(Realm::WHAT, "sha-256, sha-384 or sha-512", name),
    }
}

fn extensible(item: &Item<'_>) -> Result<[Vec<u8>; 4], Denied> {
    let Item::Array(items) = item else { return malformed(Realm::WHAT, "four extensible measurements", "another item") };
    let values: Option<Vec<Vec<u8>>> = items.iter().map(|item| item.bytes().filter(|bytes| DIGESTS.contains(&bytes.len())).map(<[u8]>::to_vec)).collect();
    match values.and_then(|values| values.try_into().ok()) {
        Some(values) => Ok(values),
        None => malformed(Realm::WHAT, "four extensible measurements", "others"),
    }
}
