//! The runtime claims of an HCL report: JSON that the paravisor wrote.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use serde::Deserialize;

use crate::refusal::{Denied, Finding, Reason};

/// What the paravisor says of the vTPM and the VM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuntimeClaims {
    /// `HCLAkPub`: the attestation key that the vTPM's quotes are signed with.
    pub attestation_key: RsaKey,
    /// The names of the keys that are listed.
    pub keys: Vec<String>,
    /// `secure-boot`.
    pub secure_boot: Option<bool>,
    /// `tpm-enabled`.
    pub tpm_enabled: Option<bool>,
    /// `tpm-persisted`.
    pub tpm_persisted: Option<bool>,
    /// `console-enabled`.
    pub console_enabled: Option<bool>,
    /// `filtered-vpci-devices-allowed`.
    pub filtered_vpci_devices_allowed: Option<bool>,
    /// `vmUniqueId`.
    pub vm_unique_id: Option<String>,
    /// `root-cert-thumbprint`.
    pub root_cert_thumbprint: Option<String>,
    /// `user-data`: what the guest wrote to NV index 0x01400002. Any of its processes may have.
    pub user_data: Option<Vec<u8>>,
}

/// An RSA public key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RsaKey {
    /// The modulus, big-endian, without leading zeros.
    pub modulus: Vec<u8>,
    /// The exponent, big-endian, without leading zeros.
    pub exponent: Vec<u8>,
}

impl RsaKey {
    /// The key as a DER RSAPublicKey (PKCS#1).
    #[must_use]
    pub fn to_pkcs1(&self) -> Vec<u8> {
        sequence(&[integer(&self.modulus), integer(&self.exponent)].concat())
    }
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    keys: Vec<Jwk<'a>>,
    #[serde(rename = "vm-configuration")]
    vm_configuration: Option<VmConfiguration>,
    #[serde(rename = "user-data")]
    user_data: Option<String>,
}

#[derive(Deserialize)]
struct Jwk<'a> {
    #[serde(borrow)]
    kid: std::borrow::Cow<'a, str>,
    kty: String,
    n: Option<String>,
    e: Option<String>,
}

#[derive(Deserialize)]
struct VmConfiguration {
    #[serde(rename = "secure-boot")]
    secure_boot: Option<bool>,
    #[serde(rename = "tpm-enabled")]
    tpm_enabled: Option<bool>,
    #[serde(rename = "tpm-persisted")]
    tpm_persisted: Option<bool>,
    #[serde(rename = "console-enabled")]
    console_enabled: Option<bool>,
    #[serde(rename = "filtered-vpci-devices-allowed")]
    filtered_vpci_devices_allowed: Option<bool>,
    #[serde(rename = "vmUniqueId")]
    vm_unique_id: Option<String>,
    #[serde(rename = "root-cert-thumbprint")]
    root_cert_thumbprint: Option<String>,
}

const ATTESTATION_KEY: &str = "HCLAkPub";

impl RuntimeClaims {
    /// Reads the claims of a report.
    ///
    /// # Errors
    /// `evidence_malformed` when they are not JSON of the known shape, name a member twice, or have not exactly one RSA
    /// attestation key.
    pub fn parse(json: &[u8]) -> Result<Self, Denied> {
        let malformed = |found: String| Denied::from(Finding::new(Reason::EvidenceMalformed, "hcl.claims", "runtime claims as JSON", found));
        let text: Text<'_> = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
        let mut named = text.keys.iter().filter(|key| key.kid == ATTESTATION_KEY);
        let (Some(key), None) = (named.next(), named.next()) else {
            return Err(malformed(format!("not exactly one key {ATTESTATION_KEY}")));
        };
        let attestation_key = key.rsa().ok_or_else(|| malformed(format!("{ATTESTATION_KEY} is no RSA key of 2048 to 4096 bits")))?;
        let user_data = match text.user_data {
            Some(hex) => Some(HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|error| malformed(format!("user-data: {error}")))?),
            None => None,
        };
        let vm = text.vm_configuration;
        let word = |of: fn(&VmConfiguration) -> &Option<String>| vm.as_ref().and_then(|vm| of(vm).clone());
        let flag = |of: fn(&VmConfiguration) -> Option<bool>| vm.as_ref().and_then(of);
        Ok(Self {
            attestation_key,
            keys: text.keys.iter().map(|key| key.kid.to_string()).collect(),
            secure_boot: flag(|vm| vm.secure_boot),
            tpm_enabled: flag(|vm| vm.tpm_enabled),
            tpm_persisted: flag(|vm| vm.tpm_persisted),
            console_enabled: flag(|vm| vm.console_enabled),
            filtered_vpci_devices_allowed: flag(|vm| vm.filtered_vpci_devices_allowed),
            vm_unique_id: word(|vm| &vm.vm_unique_id),
            root_cert_thumbprint: word(|vm| &vm.root_cert_thumbprint),
            user_data,
        })
    }
}

impl Jwk<'_> {
    fn rsa(&self) -> Option<RsaKey> {
        let number = |text: &Option<String>| BASE64URL_NOPAD.decode(text.as_deref()?.as_bytes()).ok();
        let (modulus, exponent) = (number(&self.n)?, number(&self.e)?);
        let sound = self.kty == "RSA" && (256..=512).contains(&modulus.len()) && (1..=4).contains(&exponent.len());
        let minimal = [&modulus, &exponent].iter().all(|octets| octets.first().is_some_and(|octet| *octet != 0));
        (sound && minimal).then_some(RsaKey { modulus, exponent })
    }
}

fn integer(octets: &[u8]) -> Vec<u8> {
    let positive: &[u8] = if octets.first().is_some_and(|octet| octet & 0x80 != 0) { &[0] } else { &[] };
    tagged(0x02, &[positive, octets].concat())
}

fn sequence(content: &[u8]) -> Vec<u8> {
    tagged(0x30, content)
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head = match length {
        [0, short] if short < 0x80 => vec![tag, short],
        [0, octet] => vec![tag, 0x81, octet],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [head.as_slice(), content].concat()
}
