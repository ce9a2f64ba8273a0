//! How quotes and their collateral look in files: the names that Intel's tools and the PCS responses suggest.

use super::collateral::Signed;
use super::{MEDIA_TYPE, is_sgx_quote, is_tdx_quote, log};
use crate::evidence::saved::{Assembled, Saved, SavedFile};
use crate::evidence::{Auxiliary, Endorsement, Evidence, launch};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

/// The name of a saved quote.
pub const QUOTE_FILE: &str = "quote.bin";

/// The short names of the endorsements.
pub const ENDORSEMENTS: &[&str] = &["pck_crl", "qe_identity", "root_crl", "tcb_info"];

/// Those of a trust domain, with what Google's cloud adds.
const WITH_CLOUD: &[&str] = &["pck_crl", "qe_identity", "root_crl", "tcb_info", launch::NAME, "gce_root", "vtpm_ca"];

/// The pieces of a trust domain.
pub const TDX: Saved =
    Saved { evidence: QUOTE_FILE, endorsements: WITH_CLOUD, is_evidence: is_tdx_quote, endorsement: revocation_list, assemble: assemble_tdx };

/// The pieces of an enclave.
pub const SGX: Saved =
    Saved { evidence: QUOTE_FILE, endorsements: ENDORSEMENTS, is_evidence: is_sgx_quote, endorsement: revocation_list, assemble: assemble_sgx };

/// The short name of the endorsement that this revocation list would be, by its issuer. Anybody can write these names.
fn revocation_list(der: &[u8]) -> Option<&'static str> {
    const MAX_CRL: usize = 64 * 1024;
    if der.len() > MAX_CRL {
        return None;
    }
    let Ok((&[], list)) = CertificateRevocationList::from_der(der) else { return None };
    match list.issuer().iter_common_name().next()?.as_str().ok()? {
        "Intel SGX Root CA" => Some("root_crl"),
        "Intel SGX PCK Platform CA" | "Intel SGX PCK Processor CA" => Some("pck_crl"),
        _ => None,
    }
}

fn assemble_tdx(files: &[SavedFile]) -> Option<Assembled> {
    assemble(files, is_tdx_quote)
}

fn assemble_sgx(files: &[SavedFile]) -> Option<Assembled> {
    assemble(files, is_sgx_quote)
}

/// A quote with the JSON of the PCS and the chain of its signer, which make endorsements only together.
fn assemble(files: &[SavedFile], is_ours: fn(&[u8]) -> bool) -> Option<Assembled> {
    let mut used: Vec<&SavedFile> = Vec::new();
    let named = |names: &[&str]| files.iter().find(|file| names.contains(&file.name.as_str()));
    let quote = named(&[QUOTE_FILE, "td_quote.bin"]).filter(|file| is_ours(&file.bytes))?;
    used.push(quote);
    let mut evidence = Evidence::new(MEDIA_TYPE, quote.bytes.clone());
    if let Some(ccel) = named(&["ccel_data.bin"]).filter(|_| is_tdx_quote(&quote.bytes)) {
        evidence.auxiliary.push(Auxiliary {
            label: log::LABEL.to_owned(),
            media_type: log::MEDIA_TYPE.to_owned(),
            bytes: log::Events::of_firmware(&ccel.bytes).map_or_else(|_| ccel.bytes.clone(), |events| events.encode()),
        });
        used.push(ccel);
    }
    let mut endorsements = Vec::new();
    let mut endorse =
        |name: &str, media_type: &str, bytes: Vec<u8>| endorsements.push(Endorsement { name: name.to_owned(), media_type: media_type.to_owned(), bytes });
    if let Some(chain) = named(&["tcb_signing_chain.pem"]) {
        used.push(chain);
        for (name, file) in [("tcb_info", named(&["tcb_info.json"])), ("qe_identity", named(&["qe_identity.json"]))] {
            if let Some(file) = file {
                used.push(file);
                endorse(name, Endorsement::SIGNED_JSON, Signed { body: &file.bytes, chain: &chain.bytes }.encode());
            }
        }
    }
    for (name, file) in [("pck_crl", named(&["pck_crl.der"])), ("root_crl", named(&["root_ca_crl.der", "root_crl.der"]))] {
        if let Some(file) = file {
            used.push(file);
            endorse(name, Endorsement::REVOCATION_LIST, file.bytes.clone());
        }
    }
    // The chain of the PCK's revocation list is in the quote too.
    used.extend(named(&["pck_crl_issuer_chain.pem"]));
    Some(Assembled { evidence: Some(evidence), endorsements, used: used.into_iter().map(|file| file.name.clone()).collect() })
}
