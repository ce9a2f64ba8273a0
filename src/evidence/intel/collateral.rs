//! What Intel signs about machines: TCB info and quoting enclave identities, as its PCS serves them (version 4), with the
//! certificates of whoever signed them.
//!
//! The signature is over the octets of the inner JSON value as they were received; nothing is written again.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::evidence::Timestamp;
use crate::evidence::cbor::{NotCanonical, Reader, Writer};
use crate::refusal::{Denied, Finding, Reason};

/// A response longer than this is not read: genuine ones have up to 20 KiB.
pub const MAX_RESPONSE: usize = 128 * 1024;

/// A list of levels or advisories longer than this is not used.
const MAX_LEVELS: usize = 256;

/// A PCS response with the chain from its header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signed<'a> {
    /// The body: JSON with a `signature` in hex.
    pub body: &'a [u8],
    /// The signer's certificates in PEM, the root last.
    pub chain: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Its one encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(2).bytes(self.body).bytes(self.chain);
        writer.finish()
    }

    /// Reads an endorsement called `what`.
    ///
    /// # Errors
    /// `collateral_unavailable`: one that cannot be read is as good as none.
    pub fn decode(what: &'static str, bytes: &'a [u8]) -> Result<Self, Denied> {
        if bytes.len() > MAX_RESPONSE {
            return unavailable(what, format!("at most {MAX_RESPONSE} octets"), bytes.len().to_string());
        }
        let read = || -> Result<Self, NotCanonical> {
            let mut reader = Reader::new(bytes);
            let offset = reader.offset();
            if reader.array()? != 2 {
                return Err(NotCanonical { offset, expected: "array of body and issuer chain" });
            }
            let signed = Self { body: reader.bytes()?, chain: reader.bytes()? };
            reader.end()?;
            Ok(signed)
        };
        read().or_else(|error| unavailable(what, "deterministic CBOR of body and issuer chain", error.to_string()))
    }
}

/// The octets that are signed, and the signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sealed<'a> {
    /// The inner JSON value as it was received.
    pub message: &'a [u8],
    /// ECDSA P-256: `r ‖ s`, big-endian.
    pub signature: [u8; 64],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcbInfoResponse<'a> {
    #[serde(borrow, rename = "tcbInfo")]
    info: &'a RawValue,
    signature: Hex<64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityResponse<'a> {
    #[serde(borrow, rename = "enclaveIdentity")]
    identity: &'a RawValue,
    signature: Hex<64>,
}

/// Octets written in hex.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "std::borrow::Cow<'_, str>")]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> TryFrom<std::borrow::Cow<'_, str>> for Hex<N> {
    type Error = String;

    fn try_from(text: std::borrow::Cow<'_, str>) -> Result<Self, String> {
        let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        octets.and_then(|octets| octets.try_into().ok()).map(Self).ok_or_else(|| format!("expected {N} octets in hex"))
    }
}

/// A date and time.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "std::borrow::Cow<'_, str>")]
pub struct Date(pub Timestamp);

impl TryFrom<std::borrow::Cow<'_, str>> for Date {
    type Error = String;

    fn try_from(text: std::borrow::Cow<'_, str>) -> Result<Self, String> {
        Timestamp::parse(&text).map(Self).ok_or_else(|| "expected an RFC 3339 time".to_owned())
    }
}

/// A TCB status, as Intel spells it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[expect(missing_docs, reason = "the vendor's words, one by one")]
pub enum Status {
    ConfigurationAndSWHardeningNeeded,
    ConfigurationNeeded,
    OutOfDate,
    OutOfDateConfigurationNeeded,
    Revoked,
    SWHardeningNeeded,
    /// Not in collateral: the module was updated under a running trust domain, and the one it was launched with is old.
    #[serde(skip)]
    TDRelaunchAdvised,
    /// The same, and configuration is needed.
    #[serde(skip)]
    TDRelaunchAdvisedConfigurationNeeded,
    UpToDate,
}

impl Status {
    /// Its spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::Revoked => "Revoked",
            Self::SWHardeningNeeded => "SWHardeningNeeded",
            Self::TDRelaunchAdvised => "TDRelaunchAdvised",
            Self::TDRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
            Self::UpToDate => "UpToDate",
        }
    }
}

/// TCB info, version 3: the security versions that machines of one FMSPC have had, newest first.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TcbInfo {
    /// `SGX` or `TDX`.
    pub id: String,
    /// 3.
    pub version: u32,
    /// When it was issued.
    pub issue_date: Date,
    /// Until when it may be used.
    pub next_update: Date,
    /// The machines it is for.
    pub fmspc: Hex<6>,
    /// The provisioning certification enclave it is for.
    pub pce_id: Hex<2>,
    /// Grows with every TCB recovery.
    pub tcb_evaluation_data_number: u64,
    /// TDX: the module of major version 0.
    pub tdx_module: Option<TdxModule>,
    /// TDX: the modules of other major versions.
    #[serde(default)]
    pub tdx_module_identities: Vec<TdxModuleIdentity>,
    /// The levels, newest first.
    pub tcb_levels: Vec<TcbLevel>,
}

/// Who signs a TDX module, and what its attributes are.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TdxModule {
    /// MRSIGNERSEAM.
    pub mrsigner: Hex<48>,
    /// SEAMATTRIBUTES under the mask.
    pub attributes: Hex<8>,
    /// The bits of SEAMATTRIBUTES that are compared.
    pub attributes_mask: Hex<8>,
}

/// A TDX module of one major version.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TdxModuleIdentity {
    /// `TDX_` and the major version in two hex digits.
    pub id: String,
    /// MRSIGNERSEAM.
    pub mrsigner: Hex<48>,
    /// SEAMATTRIBUTES under the mask.
    pub attributes: Hex<8>,
    /// The bits of SEAMATTRIBUTES that are compared.
    pub attributes_mask: Hex<8>,
    /// Its security versions, newest first.
    pub tcb_levels: Vec<EnclaveLevel>,
}

/// One level of a machine's TCB.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TcbLevel {
    /// What a machine of this level has at least.
    pub tcb: Tcb,
    /// What this level is up to.
    pub tcb_date: Date,
    /// What Intel says about it.
    pub tcb_status: Status,
    /// What a machine of this level is open to.
    #[serde(default, rename = "advisoryIDs")]
    pub advisory_ids: Vec<String>,
}

/// Security versions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Tcb {
    /// The sixteen of the processor and its firmware.
    #[serde(rename = "sgxtcbcomponents")]
    pub sgx: [Component; 16],
    /// The provisioning certification enclave's.
    #[serde(rename = "pcesvn")]
    pub pce_svn: u16,
    /// The sixteen of TDX.
    #[serde(rename = "tdxtcbcomponents")]
    pub tdx: Option<[Component; 16]>,
}

/// One security version.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Component {
    /// The version.
    pub svn: u8,
    /// Who brings it: `BIOS`, `OS/VMM`.
    #[serde(default)]
    pub category: String,
    /// What it is of.
    #[serde(default, rename = "type")]
    pub kind: String,
}

/// The identity of a quoting enclave, version 2.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QeIdentity {
    /// `QE` for SGX, `TD_QE` for TDX.
    pub id: String,
    /// 2.
    pub version: u32,
    /// When it was issued.
    pub issue_date: Date,
    /// Until when it may be used.
    pub next_update: Date,
    /// Grows with every TCB recovery.
    pub tcb_evaluation_data_number: u64,
    /// MISCSELECT under the mask, big-endian.
    pub miscselect: Hex<4>,
    /// The bits of MISCSELECT that are compared.
    pub miscselect_mask: Hex<4>,
    /// ATTRIBUTES under the mask.
    pub attributes: Hex<16>,
    /// The bits of ATTRIBUTES that are compared.
    pub attributes_mask: Hex<16>,
    /// MRSIGNER.
    pub mrsigner: Hex<32>,
    /// ISVPRODID.
    pub isvprodid: u16,
    /// Its security versions, newest first.
    pub tcb_levels: Vec<EnclaveLevel>,
}

/// One security version of an enclave or a module.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnclaveLevel {
    /// The version.
    pub tcb: EnclaveTcb,
    /// What this level is up to.
    pub tcb_date: Date,
    /// What Intel says about it.
    pub tcb_status: Status,
    /// What it is open to.
    #[serde(default, rename = "advisoryIDs")]
    pub advisory_ids: Vec<String>,
}

/// The security version of an enclave.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct EnclaveTcb {
    /// ISVSVN.
    pub isvsvn: u16,
}

impl TcbInfo {
    /// Reads the body of a TCB info response.
    ///
    /// # Errors
    /// `collateral_unavailable` when it cannot be read.
    pub fn read(body: &[u8]) -> Result<(Self, Sealed<'_>), Denied> {
        let response: TcbInfoResponse<'_> = json("tcb_info", body)?;
        let info: Self = json("tcb_info", response.info.get().as_bytes())?;
        if info.version != 3 {
            return unavailable("tcb_info", "version 3", info.version.to_string());
        }
        let lists = [info.tcb_levels.len(), info.tdx_module_identities.len()];
        let inner = info.tcb_levels.iter().map(|level| level.advisory_ids.len());
        let modules = info.tdx_module_identities.iter().map(|module| module.tcb_levels.len());
        if lists.into_iter().chain(inner).chain(modules).any(|length| length > MAX_LEVELS) {
            return unavailable("tcb_info", format!("lists of at most {MAX_LEVELS}"), "longer ones");
        }
        Ok((info, Sealed { message: response.info.get().as_bytes(), signature: response.signature.0 }))
    }
}

impl QeIdentity {
    /// Reads the body of an enclave identity response.
    ///
    /// # Errors
    /// `collateral_unavailable` when it cannot be read.
    pub fn read(body: &[u8]) -> Result<(Self, Sealed<'_>), Denied> {
        let response: IdentityResponse<'_> = json("qe_identity", body)?;
        let identity: Self = json("qe_identity", response.identity.get().as_bytes())?;
        if identity.version != 2 || identity.tcb_levels.len() > MAX_LEVELS {
            return unavailable("qe_identity", format!("version 2, at most {MAX_LEVELS} levels"), format!("version {}", identity.version));
        }
        Ok((identity, Sealed { message: response.identity.get().as_bytes(), signature: response.signature.0 }))
    }
}

fn json<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, Denied> {
    if body.len() > MAX_RESPONSE {
        return unavailable(what, format!("at most {MAX_RESPONSE} octets"), body.len().to_string());
    }
    serde_json::from_slice(body).or_else(|error| unavailable(what, "the JSON that the PCS serves", error.to_string()))
}

fn unavailable<T>(what: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Result<T, Denied> {
    Finding::new(Reason::CollateralUnavailable, what, expected, found).refuse()
}
