//! TCB info and quoting enclave identities, with every part settable.

use serde_json::{Value, json};

use super::intel_certificates::IntelCa;
use crate::evidence::Timestamp;
use crate::evidence::intel::collateral::Signed;

/// The collateral of one machine.
#[derive(Clone, Debug)]
pub struct IntelCollateral {
    /// `id` of the TCB info: `TDX`, `SGX`.
    pub tcb_id: &'static str,
    /// `id` of the identity: `TD_QE`, `QE`.
    pub qe_id: &'static str,
    /// When both were issued.
    pub issued: Timestamp,
    /// Until when both may be used.
    pub next_update: Timestamp,
    /// The machines that the TCB info is for.
    pub fmspc: [u8; 6],
    /// The provisioning enclave that it is for.
    pub pce_id: [u8; 2],
    /// `tcbEvaluationDataNumber` of both.
    pub number: u64,
    /// The levels of the machine, newest first.
    pub levels: Vec<Level>,
    /// The levels of the TDX module of major version 1: security version and status.
    pub module: Vec<(u16, &'static str)>,
    /// The levels of the quoting enclave: security version and status.
    pub quoting_enclave: Vec<(u16, &'static str)>,
    /// MRSIGNER of the quoting enclave.
    pub mrsigner: [u8; 32],
    /// ISVPRODID of the quoting enclave.
    pub isvprodid: u16,
}

/// One level.
#[derive(Clone, Debug)]
pub struct Level {
    /// The components of processor and firmware.
    pub sgx: [u8; 16],
    /// PCESVN.
    pub pce_svn: u16,
    /// The components of TDX.
    pub tdx: [u8; 16],
    /// `tcbStatus`.
    pub status: &'static str,
    /// `advisoryIDs`.
    pub advisories: Vec<&'static str>,
}

impl IntelCollateral {
    /// The TCB info as it is signed.
    #[must_use]
    pub fn tcb_info(&self) -> Value {
        let hex = |octets: &[u8]| data_encoding::HEXUPPER.encode(octets);
        let mut info = json!({
            "id": self.tcb_id,
            "version": 3,
            "issueDate": self.issued.to_string(),
            "nextUpdate": self.next_update.to_string(),
            "fmspc": hex(&self.fmspc),
            "pceId": hex(&self.pce_id),
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.number,
        });
        if self.tcb_id == "TDX" {
            let module = json!({ "mrsigner": hex(&[0; 48]), "attributes": hex(&[0; 8]), "attributesMask": hex(&[0xff; 8]) });
            let levels: Vec<_> = self.module.iter().map(|(svn, status)| self.enclave_level(*svn, status)).collect();
            info["tdxModule"] = module.clone();
            info["tdxModuleIdentities"] = json!([{
                "id": "TDX_01",
                "mrsigner": module["mrsigner"],
                "attributes": module["attributes"],
                "attributesMask": module["attributesMask"],
                "tcbLevels": levels,
            }]);
        }
        info["tcbLevels"] = self.levels.iter().map(|level| self.level(level)).collect();
        info
    }

    /// The identity as it is signed.
    #[must_use]
    pub fn qe_identity(&self) -> Value {
        let levels: Vec<_> = self.quoting_enclave.iter().map(|(svn, status)| self.enclave_level(*svn, status)).collect();
        json!({
            "id": self.qe_id,
            "version": 2,
            "issueDate": self.issued.to_string(),
            "nextUpdate": self.next_update.to_string(),
            "tcbEvaluationDataNumber": self.number,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": data_encoding::HEXUPPER.encode(&self.mrsigner),
            "isvprodid": self.isvprodid,
            "tcbLevels": levels,
        })
    }

    /// The response with the TCB info, and its endorsement.
    #[must_use]
    pub fn signed_tcb_info(&self, ca: &IntelCa) -> Vec<u8> {
        endorsement(ca, &response(ca, "tcbInfo", &self.tcb_info()))
    }

    /// The response with the identity, and its endorsement.
    #[must_use]
    pub fn signed_qe_identity(&self, ca: &IntelCa) -> Vec<u8> {
        endorsement(ca, &response(ca, "enclaveIdentity", &self.qe_identity()))
    }

    fn level(&self, level: &Level) -> Value {
        let components = |svns: &[u8; 16]| -> Value { svns.iter().map(|svn| json!({ "svn": svn })).collect() };
        let mut tcb = json!({ "sgxtcbcomponents": components(&level.sgx), "pcesvn": level.pce_svn });
        if self.tcb_id == "TDX" {
            tcb["tdxtcbcomponents"] = components(&level.tdx);
        }
        let mut value = json!({ "tcb": tcb, "tcbDate": self.issued.to_string(), "tcbStatus": level.status });
        if !level.advisories.is_empty() {
            value["advisoryIDs"] = json!(level.advisories);
        }
        value
    }

    fn enclave_level(&self, svn: u16, status: &str) -> Value {
        json!({ "tcb": { "isvsvn": svn }, "tcbDate": self.issued.to_string(), "tcbStatus": status })
    }
}

/// A PCS response: the document under its name, and the signature over its octets.
pub(super) fn response(ca: &IntelCa, name: &str, document: &Value) -> Vec<u8> {
    let text = document.to_string();
    let signature = data_encoding::HEXLOWER.encode(&ca.seal(text.as_bytes()));
    format!("{{\"{name}\":{text},\"signature\":\"{signature}\"}}").into_bytes()
}

/// A response with the chain of its signer.
pub(super) fn endorsement(ca: &IntelCa, body: &[u8]) -> Vec<u8> {
    Signed { body, chain: &ca.signer_chain() }.encode()
}
