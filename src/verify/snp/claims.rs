//! What a report says, by the vendor's names, in the order of the vendor's table.

use crate::evidence::snp::{Firmware, Product, Report, SigningKey, Tcb, Vek};
use crate::evidence::{ClaimValue, Claims};

/// The claims of a report; with its VEK certificate, also what that says.
pub(super) fn claims(report: &Report, vek: Option<&Vek>) -> Claims {
    let mut claims = Claims::default();
    let bit = |bit: u32| ClaimValue::Integer(u64::from(report.policy.checked_shr(bit).unwrap_or(0) & 1 != 0));
    let product = vek.map(|vek| vek.product).or_else(|| product(report));
    if let Some(product) = product {
        claims.push("product", ClaimValue::Text(product.name().to_owned()));
    }
    claims.push("version", ClaimValue::Integer(report.version.into()));
    claims.push("guest_svn", ClaimValue::Integer(report.guest_svn.into()));
    claims.push("policy", ClaimValue::Bits(report.policy));
    claims.push("policy_debug", bit(19));
    claims.push("policy_migrate_ma", bit(18));
    claims.push("policy_smt", bit(16));
    claims.push("vmpl", ClaimValue::Integer(report.vmpl.into()));
    claims.push("sig_algo", ClaimValue::Integer(report.sig_algo.into()));
    claims.push("platform_info", ClaimValue::Integer(report.platform_info));
    claims.push("signing_key", ClaimValue::Text(signing_key(report).to_owned()));
    claims.push("mask_chip_key", ClaimValue::Integer(report.chip_key_masked().into()));
    claims.push("author_key_en", ClaimValue::Integer(report.author_key_enabled().into()));
    for (name, octets) in [
        ("report_data", report.report_data.as_slice()),
        ("measurement", &report.measurement),
        ("host_data", &report.host_data),
        ("family_id", &report.family_id),
        ("image_id", &report.image_id),
        ("id_key_digest", &report.id_key_digest),
        ("author_key_digest", &report.author_key_digest),
        ("report_id", &report.report_id),
        ("report_id_ma", &report.report_id_ma),
        ("reported_tcb", &report.reported_tcb),
        ("current_tcb", &report.current_tcb),
        ("committed_tcb", &report.committed_tcb),
        ("launch_tcb", &report.launch_tcb),
    ] {
        claims.push(name, ClaimValue::Bytes(octets.to_vec()));
    }
    if let Some(cpuid) = report.cpuid {
        claims.push("cpuid_fam_model_step", ClaimValue::Bytes(cpuid.to_vec()));
    }
    claims.push("current_build_ver", firmware(report.current_firmware));
    claims.push("committed_build_ver", firmware(report.committed_firmware));
    claims.push("chip_id", ClaimValue::Bytes(report.chip_id.to_vec()));
    if report.version >= 5 {
        for (name, vector) in ["launch_mit_vector", "current_mit_vector"].into_iter().zip(report.mit_vectors) {
            claims.push(name, ClaimValue::Bytes(vector.to_le_bytes().to_vec()));
        }
    }
    if let Some(product) = product {
        for (name, raw) in [
            ("reported_tcb_parts", report.reported_tcb),
            ("current_tcb_parts", report.current_tcb),
            ("committed_tcb_parts", report.committed_tcb),
            ("launch_tcb_parts", report.launch_tcb),
        ] {
            if let Some(tcb) = Tcb::parse(raw, product) {
                claims.push(name, ClaimValue::Map(tcb.claims()));
            }
        }
    }
    if let Some(vek) = vek {
        certificate(vek, &mut claims);
    }
    claims
}

/// The product that the report itself names; version 2 names none.
pub(super) fn product(report: &Report) -> Option<Product> {
    report.cpuid.and_then(|[family, model, _]| Product::of_cpuid(family, model))
}

fn certificate(vek: &Vek, claims: &mut Claims) {
    let mut extensions = Claims::default();
    extensions.push("structVersion", ClaimValue::Integer(vek.struct_version));
    extensions.push("productName", ClaimValue::Text(vek.product_name.clone()));
    vek.tcb.claims().iter().for_each(|(name, value)| extensions.push(name, value.clone()));
    vek.spare.iter().for_each(|(name, value)| extensions.push(name, ClaimValue::Integer((*value).into())));
    if let Some(hwid) = &vek.hwid {
        extensions.push("hwid", ClaimValue::Bytes(hwid.clone()));
    }
    if let Some(csp_id) = &vek.csp_id {
        extensions.push("cspid", ClaimValue::Text(csp_id.clone()));
        claims.push("csp_id", ClaimValue::Text(csp_id.clone()));
    }
    claims.push("vek_extensions", ClaimValue::Map(extensions));
    claims.push("vek_validity", ClaimValue::Texts(vec![vek.not_before.to_string(), vek.not_after.to_string()]));
    let serial = data_encoding::HEXLOWER.encode(&vek.serial);
    claims.push("vek_serial", ClaimValue::Text(format!("0x{}", if serial.chars().all(|digit| digit == '0') { "0" } else { &serial })));
}

fn firmware(version: Firmware) -> ClaimValue {
    ClaimValue::Text(format!("{}.{}.{}", version.major, version.minor, version.build))
}

fn signing_key(report: &Report) -> &'static str {
    match report.signing_key() {
        Some(SigningKey::None) => "none",
        Some(SigningKey::Vcek) => "VCEK",
        Some(SigningKey::Vlek) => "VLEK",
        None => "undefined",
    }
}
