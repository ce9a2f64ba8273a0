//! PSA attestation tokens (RFC 9783): of Arm TrustZone devices, signed by the device's initial attestation key.

use super::arm::{self, DIGESTS, Fields, Part, malformed};
use super::cbor::foreign::{Item, Map};
use super::cose::{self, Sign1, Tagging};
use super::saved::Saved;
use super::{ClaimValue, Claims};
use crate::refusal::{Denied, Finding, Reason};

/// The media type of a token (RFC 9783, 10.2).
pub const MEDIA_TYPE: &str = "application/eat+cwt; eat_profile=\"tag:psacertified.org,2023:psa#tfm\"";

/// A token longer than this is not read; those seen have up to 548 octets.
pub const MAX_TOKEN: usize = 8 * 1024;

/// A token in a file.
pub const SAVED: Saved =
    Saved { evidence: "psa-token.cbor", endorsements: &[], is_evidence: |bytes| Token::parse(bytes).is_ok(), endorsement: |_| None, assemble: |_| None };

/// A profile with the keys of its claims.
#[derive(Debug, Eq, PartialEq)]
pub struct Profile {
    /// Its name in tokens.
    pub name: &'static str,
    profile: i64,
    nonce: i64,
    instance: i64,
    implementation: i64,
    client: i64,
    lifecycle: i64,
    boot_seed: i64,
    components: i64,
    service: i64,
    certification: i64,
}

/// The profiles that are read: RFC 9783's, and the two that devices had before it.
pub static PROFILES: [Profile; 3] = [
    Profile { name: "tag:psacertified.org,2023:psa#tfm", boot_seed: 268, ..PSA_2 },
    PSA_2,
    Profile {
        name: "PSA_IOT_PROFILE_1",
        profile: -75_000,
        nonce: -75_008,
        instance: -75_009,
        implementation: -75_003,
        client: -75_001,
        lifecycle: -75_002,
        boot_seed: -75_004,
        components: -75_006,
        service: -75_010,
        certification: -75_005,
    },
];

const PSA_2: Profile = Profile {
    name: "http://arm.com/psa/2.0.0",
    profile: 265,
    nonce: 10,
    instance: 256,
    implementation: 2396,
    client: 2394,
    lifecycle: 2395,
    boot_seed: 2397,
    components: 2399,
    service: 2400,
    certification: 2398,
};

/// What a token says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    /// Its profile.
    pub profile: &'static Profile,
    /// The nonce: 32, 48 or 64 octets.
    pub nonce: Vec<u8>,
    /// The instance id: 0x01 and 32 octets.
    pub instance: [u8; 33],
    /// The implementation id.
    pub implementation: [u8; 32],
    /// The client id of whoever asked: positive from the secure side, negative from the other.
    pub client: i32,
    /// The security lifecycle.
    pub lifecycle: u16,
    /// The boot seed: the same for one boot.
    pub boot_seed: Option<Vec<u8>>,
    /// The parts of the firmware.
    pub components: Vec<Part>,
    /// A verification service: a hint that is never followed.
    pub service: Option<String>,
    /// The certification reference, or in the oldest profile the hardware's version.
    pub certification: Option<String>,
}

impl Token {
    /// Reads the COSE_Sign1 and the claims in it.
    ///
    /// # Errors
    /// `evidence_size`; `evidence_unsupported` for a COSE_Mac0 or a profile that is not listed; else `evidence_malformed`.
    pub fn parse(bytes: &[u8]) -> Result<(Sign1<'_>, Self), Denied> {
        if bytes.len() > MAX_TOKEN {
            return Finding::new(Reason::EvidenceSize, WHAT, format!("at most {MAX_TOKEN} octets"), bytes.len().to_string()).refuse();
        }
        let sign1 = Sign1::decode(WHAT, bytes)?;
        let map = match Item::decode(sign1.payload) {
            Ok(Item::Map(map)) => map,
            Ok(_) => return malformed(WHAT, "a map of claims", "another item"),
            Err(error) => return malformed(WHAT, "a map of claims", error),
        };
        Ok((sign1, Self::of_map(&map)?))
    }

    fn of_map(map: &Map<'_>) -> Result<Self, Denied> {
        let named = PROFILES.iter().find_map(|profile| map.of(profile.profile)).and_then(Item::text);
        let Some(profile) = PROFILES.iter().find(|profile| named == Some(profile.name)) else {
            let known: Vec<_> = PROFILES.iter().map(|profile| profile.name).collect();
            return Finding::new(Reason::EvidenceUnsupported, "token.profile", known.join(" or "), named.unwrap_or("none")).refuse();
        };
        let mut fields = Fields::new(WHAT, map);
        fields.required(profile.profile)?;
        let boot_seed = match fields.optional(profile.boot_seed) {
            None => None,
            Some(Item::Bytes(seed)) if (8..=32).contains(&seed.len()) => Some(seed.to_vec()),
            Some(_) => return malformed(WHAT, "a boot seed of 8 to 32 octets", "another value"),
        };
        let client = fields.int(profile.client)?;
        let Some(client) = i32::try_from(client).ok().filter(|client| *client != 0) else {
            return malformed(WHAT, "a client id of 32 bits that is not zero", client);
        };
        let token = Self {
            profile,
            nonce: fields.bytes(profile.nonce, DIGESTS)?,
            instance: fields.array_of(profile.instance)?,
            implementation: fields.array_of(profile.implementation)?,
            client,
            lifecycle: fields.lifecycle(profile.lifecycle)?,
            boot_seed,
            components: arm::parts(WHAT, fields.required(profile.components)?)?,
            service: fields.optional_text(profile.service)?,
            certification: fields.optional_text(profile.certification)?,
        };
        fields.finish()?;
        Ok(token)
    }

    /// The claims that the device's key signs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let profile = self.profile;
        let mut pairs = vec![
            (Item::of_int(profile.nonce), Item::Bytes(&self.nonce)),
            (Item::of_int(profile.instance), Item::Bytes(&self.instance)),
            (Item::of_int(profile.profile), Item::Text(profile.name)),
            (Item::of_int(profile.implementation), Item::Bytes(&self.implementation)),
            (Item::of_int(profile.client), Item::of_int(self.client.into())),
            (Item::of_int(profile.lifecycle), Item::Uint(self.lifecycle.into())),
        ];
        pairs.extend(self.boot_seed.as_ref().map(|seed| (Item::of_int(profile.boot_seed), Item::Bytes(seed))));
        pairs.extend(self.certification.as_ref().map(|text| (Item::of_int(profile.certification), Item::Text(text))));
        pairs.push((Item::of_int(profile.components), arm::parts_item(&self.components)));
        pairs.extend(self.service.as_ref().map(|text| (Item::of_int(profile.service), Item::Text(text))));
        Item::Map(Map::new(pairs)).encode()
    }

    /// On which side of TrustZone the token was asked for.
    #[must_use]
    pub const fn caller(&self) -> &'static str {
        if self.client > 0 { "secure" } else { "non-secure" }
    }

    /// What it says. The names are those of the policy keys where there is one.
    #[must_use]
    pub fn claims(&self, sign1: &Sign1<'_>) -> Claims {
        let mut claims = Claims::default();
        let text = |text: &str| ClaimValue::Text(text.to_owned());
        claims.push("profile", text(self.profile.name));
        claims.push("alg", ClaimValue::Text(sign1.algorithm_name()));
        claims.push("nonce", ClaimValue::Bytes(self.nonce.clone()));
        claims.push("impl_id", ClaimValue::Bytes(self.implementation.to_vec()));
        claims.push("instance_id", ClaimValue::Bytes(self.instance.to_vec()));
        claims.push("client_id", ClaimValue::Text(self.client.to_string()));
        claims.push("caller", text(self.caller()));
        claims.push("lifecycle", ClaimValue::Integer(self.lifecycle.into()));
        claims.push("lifecycle_state", text(arm::lifecycle(self.lifecycle)));
        if let Some(seed) = &self.boot_seed {
            claims.push("boot_seed", ClaimValue::Bytes(seed.clone()));
        }
        for (name, value) in [("certification_reference", &self.certification), ("verification_service", &self.service)] {
            if let Some(value) = value {
                claims.push(name, text(value));
            }
        }
        claims.push("sw_components", arm::parts_claims(&self.components));
        claims
    }
}

/// A signed token, under its tag.
#[must_use]
pub fn envelope(protected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    cose::encode(Tagging::Tagged, protected, payload, signature)
}

const WHAT: &str = "token";
