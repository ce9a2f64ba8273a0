//! Simulated Keystone machines: genuine reports under one published device key.
//!
//! The device's key signs the monitor's hash and key, the monitor's key the enclave's hash and data, as boot ROM and
//! security monitor do it. Unlike Keystone's boot ROM, all of the seed and of the monitor's hash go into the monitor's key.

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};

use super::steady::steady;
use super::{Simulated, Simulation, impossible};
use crate::attester::{Attester, Quote, Unavailable};
use crate::crypto::sha3_512;
use crate::evidence::keystone::{MEDIA_TYPE, Report, spki};
use crate::evidence::{Challenge, Endorsements, Evidence};

/// The platform's simulator.
#[derive(Debug)]
pub struct SimulatedKeystone;

impl Simulated for SimulatedKeystone {
    fn products(&self) -> &'static [&'static str] {
        &["keystone"]
    }

    fn settable(&self) -> &'static [&'static str] {
        &["enclave_hash", "sm_hash", "data"]
    }

    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        vec![("simulator".to_owned(), spki(&KeystoneKey::device().public()))]
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        if let Some(product) = simulation.product.as_ref().filter(|product| *product != "keystone") {
            return Err(impossible(format!("unknown product {product}")));
        }
        let mut forge = KeystoneForge::new(simulation.seed);
        for (claim, value) in &simulation.set {
            let Ok(octets) = data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()) else {
                return Err(impossible(format!("{claim}: expected hex, found \"{value}\"")));
            };
            let hash = || octets.as_slice().try_into().map_err(|_| impossible(format!("{claim}: expected 128 hex digits, found {}", value.len())));
            match claim.as_str() {
                "data" => forge.data = Some(octets),
                "enclave_hash" => forge.enclave_hash = hash()?,
                "sm_hash" => forge.sm_hash = hash()?,
                _ => return Err(impossible(format!("unknown claim {claim}"))),
            }
        }
        let quote = move |challenge: &Challenge| {
            let evidence = Evidence::new(MEDIA_TYPE, forge.report(&challenge.long.0).encode());
            Quote { evidence, endorsements: Endorsements::default() }
        };
        Ok(steady("keystone", simulation.quote_delay, Vec::new(), quote))
    }
}

/// A machine whose reports say what it is told to.
#[derive(Clone, Debug)]
pub struct KeystoneForge {
    /// The device's key.
    pub device: KeystoneKey,
    /// The monitor's key.
    pub monitor: KeystoneKey,
    /// The enclave's hash.
    pub enclave_hash: [u8; 64],
    /// The monitor's hash.
    pub sm_hash: [u8; 64],
    /// Data in place of what is asked for.
    pub data: Option<Vec<u8>>,
}

impl KeystoneForge {
    /// The machine of this seed, with the published device key.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let sm_hash = sha3_512(&[b"portcullis simulator: Keystone security monitor"]);
        Self {
            device: KeystoneKey::device(),
            monitor: KeystoneKey::derive(&[b"monitor", &seed.to_be_bytes(), &sm_hash]),
            enclave_hash: sha3_512(&[b"portcullis simulator: Keystone enclave"]),
            sm_hash,
            data: None,
        }
    }

    /// A signed report over `data`.
    #[must_use]
    pub fn report(&self, data: &[u8]) -> Report {
        let data = self.data.as_deref().unwrap_or(data);
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX).to_le_bytes();
        let monitor = self.monitor.public();
        Report {
            enclave_hash: self.enclave_hash,
            data: data.to_vec(),
            enclave_signature: self.monitor.sign(&[&self.enclave_hash, &length, data]),
            sm_hash: self.sm_hash,
            sm_public_key: monitor,
            sm_signature: self.device.sign(&[&self.sm_hash, &monitor]),
            device_public_key: self.device.public(),
        }
    }
}

/// An Ed25519 key that hashes with SHA3-512.
#[derive(Clone, Debug)]
pub struct KeystoneKey {
    scalar: Scalar,
    prefix: [u8; 32],
}

impl KeystoneKey {
    /// The device key that is published by being derived here.
    #[must_use]
    pub fn device() -> Self {
        Self::derive(&[b"device"])
    }

    /// The key that belongs to `origin`.
    #[must_use]
    pub fn derive(origin: &[&[u8]]) -> Self {
        let mut parts = vec![b"portcullis simulator: Keystone".as_slice()];
        parts.extend(origin);
        let expanded = sha3_512(&[&sha3_512(&parts)[..32]]);
        let (scalar, prefix) = expanded.split_at(32);
        let (scalar, prefix) = (scalar.try_into().expect("32 of 64 octets"), prefix.try_into().expect("32 of 64 octets"));
        Self { scalar: Scalar::from_bytes_mod_order(clamp_integer(scalar)), prefix }
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        EdwardsPoint::mul_base(&self.scalar).compress().to_bytes()
    }

    /// `R ‖ S` over the concatenated parts.
    #[must_use]
    pub fn sign(&self, message: &[&[u8]]) -> [u8; 64] {
        let hashed = |front: &[&[u8]]| Scalar::from_bytes_mod_order_wide(&sha3_512(&[front, message].concat()));
        let nonce = hashed(&[&self.prefix]);
        let point = EdwardsPoint::mul_base(&nonce).compress().to_bytes();
        let challenge = hashed(&[&point, &self.public()]);
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&point);
        signature[32..].copy_from_slice((nonce + challenge * self.scalar).as_bytes());
        signature
    }
}
