//! What a quote says, by the vendor's names, in the order of the vendor's tables.

use super::tcb::{Evaluation, Graded, Module};
use crate::evidence::intel::{Body, EnclaveReport, Pck, Quote, TdReport};
use crate::evidence::{ClaimValue, Claims};

/// The claims of a quote; with its PCK certificate, also what that says; with collateral, also what Intel says of both.
pub(in crate::verify) fn claims(quote: &Quote, pck: Option<&Pck>, evaluated: Option<(&Evaluation, u64)>) -> Claims {
    let mut claims = Claims::default();
    claims.push("quote_version", ClaimValue::Integer(quote.version.into()));
    claims.push("tee_type", ClaimValue::Text(format!("{:08x}", quote.body.tee_type())));
    claims.push("kind", ClaimValue::Text(quote.body.kind().to_owned()));
    claims.push("cert_data_type", ClaimValue::Integer(quote.certification_type.into()));
    claims.push("signed_bytes", ClaimValue::Integer(count(quote.signed_size())));
    claims.push("trailing_bytes", ClaimValue::Integer(count(quote.padding)));
    match &quote.body {
        Body::Enclave(report) => enclave(report, &mut claims),
        Body::TrustDomain(report) => trust_domain(report, &mut claims),
    }
    claims.push("qe_report", ClaimValue::Map(quoting_enclave(&quote.qe_report)));
    if let Some(pck) = pck {
        certificate(pck, &mut claims);
    }
    if let Some((evaluation, number)) = evaluated {
        graded(evaluation, number, &mut claims);
    }
    claims
}

fn trust_domain(report: &TdReport, claims: &mut Claims) {
    let bytes = |octets: &[u8]| ClaimValue::Bytes(octets.to_vec());
    claims.push("tee_tcb_svn", bytes(&report.tee_tcb_svn));
    claims.push("tdx_module", ClaimValue::Text(module_name(&report.tee_tcb_svn)));
    claims.push("tee_tcb_svn_parts", ClaimValue::Map(versions(&report.tee_tcb_svn)));
    claims.push("mrseam", bytes(&report.mr_seam));
    claims.push("mrsignerseam", bytes(&report.mr_signer_seam));
    claims.push("seam_attributes", bytes(&report.seam_attributes));
    claims.push("td_attributes", bytes(&report.td_attributes.to_le_bytes()));
    claims.push("debug", ClaimValue::Truth(report.td_attributes & 1 != 0));
    claims.push("xfam", bytes(&report.xfam.to_le_bytes()));
    claims.push("mrtd", bytes(&report.mr_td));
    claims.push("mr_config_id", bytes(&report.mr_config_id));
    claims.push("mr_owner", bytes(&report.mr_owner));
    claims.push("mr_owner_config", bytes(&report.mr_owner_config));
    for (name, register) in ["rtmr0", "rtmr1", "rtmr2", "rtmr3"].into_iter().zip(&report.rtmr) {
        claims.push(name, bytes(register));
    }
    claims.push("report_data", bytes(&report.report_data));
    let mut bound = 0;
    if let Some(newer) = &report.newer {
        claims.push("tee_tcb_svn2", bytes(&newer.tee_tcb_svn));
        claims.push("mrservicetd", bytes(&newer.mr_service_td));
        bound = u64::from(newer.mr_service_td.iter().any(|octet| *octet != 0));
    }
    claims.push("service_td", ClaimValue::Bits(bound));
}

/// The name by which TCB info knows a module.
fn module_name([_, version, ..]: &[u8; 16]) -> String {
    format!("TDX_{version:02}")
}

fn versions([module, _, microcode, ..]: &[u8; 16]) -> Claims {
    let mut claims = Claims::default();
    claims.push("module", ClaimValue::Integer((*module).into()));
    claims.push("microcode", ClaimValue::Integer((*microcode).into()));
    claims
}

fn enclave(report: &EnclaveReport, claims: &mut Claims) {
    let bytes = |octets: &[u8]| ClaimValue::Bytes(octets.to_vec());
    claims.push("cpu_svn", bytes(&report.cpu_svn));
    claims.push("misc_select", ClaimValue::Bits(report.misc_select.into()));
    claims.push("cet_attributes", ClaimValue::Integer(report.cet_attributes.into()));
    claims.push("attributes", bytes(&report.attributes));
    claims.push("attribute_flags", ClaimValue::Bits(report.flags()));
    claims.push("debug", ClaimValue::Truth(report.flags() & super::DEBUG != 0));
    claims.push("mrenclave", bytes(&report.mr_enclave));
    claims.push("mrsigner", bytes(&report.mr_signer));
    claims.push("isv_prod_id", ClaimValue::Integer(report.isv_prod_id.into()));
    claims.push("isv_svn", ClaimValue::Integer(report.isv_svn.into()));
    claims.push("config_id", bytes(&report.config_id));
    claims.push("config_svn", ClaimValue::Integer(report.config_svn.into()));
    claims.push("isv_family_id", bytes(&report.isv_family_id));
    claims.push("isv_ext_prod_id", bytes(&report.isv_ext_prod_id));
    claims.push("report_data", bytes(&report.report_data));
}

fn quoting_enclave(report: &EnclaveReport) -> Claims {
    let mut claims = Claims::default();
    claims.push("mrenclave", ClaimValue::Bytes(report.mr_enclave.to_vec()));
    claims.push("mrsigner", ClaimValue::Bytes(report.mr_signer.to_vec()));
    claims.push("isv_prod_id", ClaimValue::Integer(report.isv_prod_id.into()));
    claims.push("isv_svn", ClaimValue::Integer(report.isv_svn.into()));
    claims.push("cpu_svn", ClaimValue::Bytes(report.cpu_svn.to_vec()));
    claims
}

fn certificate(pck: &Pck, claims: &mut Claims) {
    claims.push("fmspc", ClaimValue::Bytes(pck.fmspc.to_vec()));
    claims.push("ppid", ClaimValue::Bytes(pck.ppid.to_vec()));
    if let Some(instance) = pck.instance_id {
        claims.push("platform_instance_id", ClaimValue::Bytes(instance.to_vec()));
    }
    claims.push("pck_issuer", ClaimValue::Text(pck.issuer.clone()));
    claims.push("pck_validity", ClaimValue::Texts(vec![pck.not_before.to_string(), pck.not_after.to_string()]));
}

fn graded(evaluation: &Evaluation, number: u64, claims: &mut Claims) {
    let word = |graded: Option<&Graded>| ClaimValue::Text(graded.map_or("no matching TCB level", |graded| graded.status.name()).to_owned());
    claims.push("tcb_status", ClaimValue::Text(evaluation.status.map_or("no matching TCB level", |status| status.name()).to_owned()));
    claims.push("tcb_advisories", ClaimValue::Texts(evaluation.advisories.clone()));
    claims.push("tcb_evaluation_data_number", ClaimValue::Integer(number));
    claims.push("platform_tcb", word(evaluation.platform.as_ref()));
    match &evaluation.module {
        Module::Graded(module) => claims.push("tdx_module_tcb", word(Some(module))),
        Module::None => {}
        Module::Unknown => claims.push("tdx_module_tcb", word(None)),
    }
    claims.push("qe_tcb", word(evaluation.quoting_enclave.as_ref()));
    if let Some(platform) = &evaluation.platform {
        claims.push("tcb_date", ClaimValue::Text(platform.date.to_string()));
    }
    if !evaluation.short.is_empty() {
        let short = evaluation.short.iter().map(|short| format!("{}: {} < {}", short.component, short.found, short.needed));
        claims.push("tcb_short_of_newest", ClaimValue::Texts(short.collect()));
    }
}

fn count(octets: usize) -> u64 {
    u64::try_from(octets).unwrap_or(u64::MAX)
}
