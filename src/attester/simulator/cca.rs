//! A simulated Arm CCA platform: tokens signed by a published platform key and a realm's own, everything in them settable.

use super::elliptic::{Curve, EcKey};
use super::steady::steady;
use super::{MEASUREMENT, Simulated, Simulation, impossible};
use crate::attester::{Attester, Quote, Unavailable};
use crate::crypto::sha256;
use crate::evidence::arm::Part;
use crate::evidence::cca::{Hash, MEDIA_TYPE, PLATFORM_PROFILES, Platform, REALM_PROFILES, Realm, Shape, encode, envelope};
use crate::evidence::{Endorsements, Evidence, ReportData, cose};

/// Everything that goes into a token. [`CcaForge::new`] gives one that the default rules accept.
#[derive(Debug)]
pub struct CcaForge {
    /// How the two tokens are put together.
    pub shape: Shape,
    /// What the platform says. Its challenge is the realm key's digest, unless [`CcaForge::platform_challenge`] is set.
    pub platform: Platform,
    /// What the realm says. Its challenge is written when the token is made.
    pub realm: Realm,
    /// Written in place of the realm key's digest.
    pub platform_challenge: Option<Vec<u8>>,
    /// The platform's key (CPAK); the published one at first.
    pub platform_key: EcKey,
    /// The realm's key (RAK).
    pub realm_key: EcKey,
    /// `alg` of the protected headers, platform first; the signatures are the keys' own whatever they say.
    pub algorithms: [i64; 2],
}

impl CcaForge {
    /// A realm on the machine of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let realm_key = EcKey::derive(Curve::P384, &[b"cca realm", &seed.to_be_bytes()]);
        let part = |kind: &str| Part {
            kind: Some(kind.to_owned()),
            measurement: sha256(&[b"portcullis simulator: firmware", kind.as_bytes()]).to_vec(),
            version: Some("1.0.0".to_owned()),
            signer: sha256(&[b"portcullis simulator: signer"]).to_vec(),
            algorithm: Some("sha-256".to_owned()),
        };
        let platform = Platform {
            profile: PLATFORM_PROFILES[1].to_owned(),
            challenge: Vec::new(),
            implementation: IMPLEMENTATION,
            instance: instance(seed),
            config: vec![0xcf; 4],
            lifecycle: 0x3000,
            components: ["RSE_BL1_2", "RSE_BL2", "AP_BL31", "RMM"].map(part).to_vec(),
            service: None,
            hash: "sha-256".to_owned(),
        };
        let realm = Realm {
            profile: Some(REALM_PROFILES[0].to_owned()),
            challenge: [0; 64],
            personalization: [0; 64],
            key: cose::encode_key(&realm_key.public()).unwrap_or_default(),
            key_hash: Hash::Sha256,
            hash: "sha-384".to_owned(),
            initial: MEASUREMENT.to_vec(),
            extensible: [0, 1, 2, 3].map(|_| vec![0; 48]),
        };
        Self { shape: Shape::Collection, platform, realm, platform_challenge: None, platform_key: published_key(), realm_key, algorithms: [-35, -35] }
    }

    /// The token over `challenge`.
    #[must_use]
    pub fn token(&self, challenge: &ReportData) -> Vec<u8> {
        let realm = Realm { challenge: challenge.0, ..self.realm.clone() };
        let digest = || self.realm.key_hash.digest(&self.realm.key);
        let platform = Platform { challenge: self.platform_challenge.clone().unwrap_or_else(digest), ..self.platform.clone() };
        let [platform_algorithm, realm_algorithm] = self.algorithms;
        let platform = signed(&self.platform_key, platform_algorithm, &platform.encode());
        encode(self.shape, &platform, &signed(&self.realm_key, realm_algorithm, &realm.encode()))
    }

    /// The token as evidence.
    #[must_use]
    pub fn quote(&self, challenge: &ReportData) -> Quote {
        Quote { evidence: Evidence::new(MEDIA_TYPE, self.token(challenge)), endorsements: Endorsements::default() }
    }
}

fn signed(key: &EcKey, algorithm: i64, payload: &[u8]) -> Vec<u8> {
    let protected = cose::protected(algorithm);
    envelope(&protected, payload, &key.sign(&cose::to_be_signed(&protected, payload)))
}

/// The implementation of every simulated platform: ASCII text, so that it is known when it is seen.
pub const IMPLEMENTATION: [u8; 32] = *b"portcullis simulator: no device.";

fn instance(seed: u64) -> [u8; 33] {
    let mut instance = [1; 33];
    instance[1..].copy_from_slice(&sha256(&[b"portcullis simulator: cca instance", &seed.to_be_bytes()]));
    instance
}

/// The platform key that all simulated platforms share.
fn published_key() -> EcKey {
    EcKey::derive(Curve::P384, &[b"cca platform"])
}

/// The simulator of Arm CCA.
#[derive(Debug)]
pub struct SimulatedCca;

impl Simulated for SimulatedCca {
    fn products(&self) -> &'static [&'static str] {
        &["realm"]
    }

    fn settable(&self) -> &'static [&'static str] {
        &["rim", "rem0", "rem1", "rem2", "rem3", "rpv", "lifecycle"]
    }

    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        vec![(data_encoding::HEXLOWER.encode(&IMPLEMENTATION), published_key().spki())]
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        if let Some(product) = simulation.product.as_deref().filter(|product| *product != "realm") {
            return Err(impossible(format!("unknown product {product}")));
        }
        let mut forge = CcaForge::new(simulation.seed);
        for (claim, value) in &simulation.set {
            set(&mut forge, claim, value)?;
        }
        Ok(steady("cca", simulation.quote_delay, Vec::new(), move |challenge| forge.quote(&challenge.long)))
    }
}

fn set(forge: &mut CcaForge, claim: &str, value: &str) -> Result<(), Unavailable> {
    let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok();
    let digest = octets.clone().filter(|octets| [32, 48, 64].contains(&octets.len()));
    let rem = claim.strip_prefix("rem").and_then(|index| index.parse::<usize>().ok());
    match (claim, rem.and_then(|index| forge.realm.extensible.get_mut(index))) {
        (_, Some(rem)) => *rem = digest.ok_or_else(|| impossible(format!("{claim}: expected hex of 32, 48 or 64 octets, found \"{value}\"")))?,
        ("rim", _) => forge.realm.initial = digest.ok_or_else(|| impossible(format!("rim: expected hex of 32, 48 or 64 octets, found \"{value}\"")))?,
        ("rpv", _) => {
            let octets = octets.and_then(|octets| octets.try_into().ok());
            forge.realm.personalization = octets.ok_or_else(|| impossible(format!("rpv: expected 128 hex digits, found \"{value}\"")))?;
        }
        ("lifecycle", _) => forge.platform.lifecycle = value.parse().map_err(|_| impossible(format!("lifecycle: expected a number, found \"{value}\"")))?,
        _ => return Err(impossible(format!("unknown claim {claim}"))),
    }
    Ok(())
}
