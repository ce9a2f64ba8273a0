//! What the evidence of an Azure VM says: the hardware's claims, then the paravisor's and the vTPM's.

use crate::evidence::hcl::{HclReport, REQUEST_TYPE, RuntimeClaims};
use crate::evidence::{ClaimValue, Claims, tpm};
use crate::verify::tpm as quote;

/// The attestation key's certificate leads to the cloud's root.
pub(super) const CERTIFIED: &str = "verified";
/// No certificate came along: the hardware's word for the key is all there is.
pub(super) const UNCERTIFIED: &str = "none";

/// The claims; `certificate` says what the attestation key's certificate came to.
pub(super) fn claims(hardware: Claims, report: &HclReport, runtime: &RuntimeClaims, vtpm: &tpm::Member, certificate: Option<&'static str>) -> Claims {
    let mut claims = hardware;
    claims.push("hcl", ClaimValue::Map(hcl(report, runtime)));
    for (name, said) in [("secure_boot", runtime.secure_boot), ("tpm_enabled", runtime.tpm_enabled), ("tpm_persisted", runtime.tpm_persisted)] {
        if let Some(said) = said {
            claims.push(name, ClaimValue::Text(said.to_string()));
        }
    }
    if let Some(id) = &runtime.vm_unique_id {
        claims.push("vm_unique_id", ClaimValue::Text(id.clone()));
    }
    claims.push("ak_certificate", ClaimValue::Text(certificate.unwrap_or(UNCERTIFIED).to_owned()));
    quote::claims(vtpm, &mut claims);
    claims
}

fn hcl(report: &HclReport, runtime: &RuntimeClaims) -> Claims {
    let mut hcl = Claims::default();
    hcl.push("version", ClaimValue::Integer(report.version.into()));
    hcl.push("request_type", ClaimValue::Integer(REQUEST_TYPE.into()));
    hcl.push("report_type", ClaimValue::Text(report.kind.name().to_owned()));
    hcl.push("hash_type", ClaimValue::Text("sha256".to_owned()));
    hcl.push("var_data_len", ClaimValue::Integer(u64::try_from(report.claims.len()).unwrap_or(u64::MAX)));
    hcl.push("report_data", ClaimValue::Bytes(report.expected_data().to_vec()));
    hcl.push("keys", ClaimValue::Texts(runtime.keys.clone()));
    hcl.push("vm_configuration", ClaimValue::Map(vm_configuration(runtime)));
    if let Some(user_data) = &runtime.user_data {
        hcl.push("user_data", ClaimValue::Bytes(user_data.clone()));
    }
    hcl
}

fn vm_configuration(runtime: &RuntimeClaims) -> Claims {
    let mut vm = Claims::default();
    for (name, said) in [
        ("console-enabled", runtime.console_enabled),
        ("secure-boot", runtime.secure_boot),
        ("tpm-enabled", runtime.tpm_enabled),
        ("tpm-persisted", runtime.tpm_persisted),
        ("filtered-vpci-devices-allowed", runtime.filtered_vpci_devices_allowed),
    ] {
        if let Some(said) = said {
            vm.push(name, ClaimValue::Truth(said));
        }
    }
    for (name, said) in [("root-cert-thumbprint", &runtime.root_cert_thumbprint), ("vmUniqueId", &runtime.vm_unique_id)] {
        if let Some(said) = said {
            vm.push(name, ClaimValue::Text(said.clone()));
        }
    }
    vm
}
