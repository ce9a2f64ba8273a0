//! A simulated PSA device: tokens signed by a published key, everything in them settable.

use super::cca::IMPLEMENTATION;
use super::elliptic::{Curve, EcKey};
use super::steady::steady;
use super::{MEASUREMENT, Simulated, Simulation, impossible};
use crate::attester::{Attester, Quote, Unavailable};
use crate::crypto::sha256;
use crate::evidence::arm::Part;
use crate::evidence::psa::{MEDIA_TYPE, PROFILES, Token, envelope};
use crate::evidence::{Endorsements, Evidence, cose};

/// Everything that goes into a token. [`PsaForge::new`] gives one that the default rules accept.
#[derive(Debug)]
pub struct PsaForge {
    /// What the token says. Its nonce is written when it is made.
    pub token: Token,
    /// The device's key (IAK); the published one at first.
    pub key: EcKey,
    /// `alg` of the protected header; the signature is the key's own whatever it says.
    pub algorithm: i64,
}

impl PsaForge {
    /// The device of this seed, asked from the secure side.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut instance = [1; 33];
        instance[1..].copy_from_slice(&sha256(&[b"portcullis simulator: psa instance", &seed.to_be_bytes()]));
        let signer = sha256(&[b"portcullis simulator: signer"]).to_vec();
        let part = |(kind, measurement): (&str, Vec<u8>)| Part {
            kind: Some(kind.to_owned()),
            measurement,
            version: Some("1.0.0".to_owned()),
            signer: signer.clone(),
            algorithm: None,
        };
        let firmware = sha256(&[b"portcullis simulator: firmware", b"BL"]).to_vec();
        let token = Token {
            profile: &PROFILES[0],
            nonce: Vec::new(),
            instance,
            implementation: IMPLEMENTATION,
            client: 3002,
            lifecycle: 0x3000,
            boot_seed: Some(sha256(&[b"portcullis simulator: boot seed", &seed.to_be_bytes()]).to_vec()),
            components: [("BL", firmware), ("SPE", MEASUREMENT.to_vec())].map(part).to_vec(),
            service: None,
            certification: None,
        };
        Self { token, key: published_key(), algorithm: -7 }
    }

    /// The token over `nonce`.
    #[must_use]
    pub fn token(&self, nonce: &[u8]) -> Vec<u8> {
        let payload = Token { nonce: nonce.to_vec(), ..self.token.clone() }.encode();
        let protected = cose::protected(self.algorithm);
        envelope(&protected, &payload, &self.key.sign(&cose::to_be_signed(&protected, &payload)))
    }

    /// The token as evidence.
    #[must_use]
    pub fn quote(&self, nonce: &[u8]) -> Quote {
        Quote { evidence: Evidence::new(MEDIA_TYPE, self.token(nonce)), endorsements: Endorsements::default() }
    }
}

/// The key that all simulated devices share.
fn published_key() -> EcKey {
    EcKey::derive(Curve::P256, &[b"psa device"])
}

/// The simulator of PSA devices.
#[derive(Debug)]
pub struct SimulatedPsa;

impl Simulated for SimulatedPsa {
    fn products(&self) -> &'static [&'static str] {
        &["device"]
    }

    fn settable(&self) -> &'static [&'static str] {
        &["measurement", "client_id", "lifecycle"]
    }

    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        vec![(data_encoding::HEXLOWER.encode(&IMPLEMENTATION), published_key().spki())]
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        if let Some(product) = simulation.product.as_deref().filter(|product| *product != "device") {
            return Err(impossible(format!("unknown product {product}")));
        }
        let mut forge = PsaForge::new(simulation.seed);
        for (claim, value) in &simulation.set {
            set(&mut forge.token, claim, value)?;
        }
        Ok(steady("psa", simulation.quote_delay, Vec::new(), move |challenge| forge.quote(&challenge.long.0)))
    }
}

fn set(token: &mut Token, claim: &str, value: &str) -> Result<(), Unavailable> {
    let wrong = |expected: &str| impossible(format!("{claim}: expected {expected}, found \"{value}\""));
    match claim {
        "measurement" => {
            let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok().filter(|octets| [32, 48, 64].contains(&octets.len()));
            let octets = octets.ok_or_else(|| wrong("hex of 32, 48 or 64 octets"))?;
            if let Some(part) = token.components.last_mut() {
                part.measurement = octets;
            }
        }
        "client_id" => token.client = value.parse().map_err(|_| wrong("a number of 32 bits"))?,
        "lifecycle" => token.lifecycle = value.parse().map_err(|_| wrong("a number of 16 bits"))?,
        _ => return Err(impossible(format!("unknown claim {claim}"))),
    }
    Ok(())
}
