//! Intel's provisioning certification service, and servers of its protocol, for one simulated machine: TCB info, identities
//! and lists at their paths, the signer's chain in the headers.

use std::sync::{Arc, Mutex, PoisonError};

use super::intel_certificates::{CrlList, IntelCa};
use super::intel_forge::IntelForge;
use super::service::{Flaw, Page, Shelf};
use crate::evidence::intel::collateral::Signed;

/// What the service has. Clones share it.
#[derive(Clone)]
pub struct Pcs(Arc<Stock>);

struct Stock {
    machine: Mutex<IntelForge>,
    /// The paths by the short names of what is there.
    paths: Vec<(&'static str, String)>,
}

impl Pcs {
    /// A service that has what verdicts about this machine need, at these paths.
    #[must_use]
    pub fn new(machine: IntelForge, paths: Vec<(&'static str, String)>) -> Self {
        Self(Arc::new(Stock { machine: Mutex::new(machine), paths }))
    }

    /// Replaces the revocation list of PCK certificates.
    pub fn publish(&self, list: CrlList) {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner).pck_crl = list;
    }

    /// What it would serve of a machine with this flaw.
    fn flawed(&self, flaw: Flaw) -> IntelForge {
        let mut machine = self.0.machine.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match flaw {
            Flaw::Expired => {
                machine.collateral.next_update = machine.collateral.issued.plus(1);
                for list in [&mut machine.root_crl, &mut machine.pck_crl] {
                    list.next_update = list.this_update.plus(1);
                }
            }
            Flaw::WrongIssuer => (machine.ca, machine.collateral_ca) = (IntelCa::impostor(), IntelCa::impostor()),
            Flaw::None | Flaw::Reordered => {}
        }
        machine.unstapled.clear();
        machine
    }
}

impl Shelf for Pcs {
    fn page(&self, path: &str, flaw: Flaw) -> Option<Page> {
        let (name, _) = self.0.paths.iter().find(|(_, known)| known == path)?;
        let machine = self.flawed(flaw);
        let endorsements = machine.endorsements();
        let bytes = endorsements.find(name)?;
        let header = match *name {
            "tcb_info" => "TCB-Info-Issuer-Chain",
            "qe_identity" => "SGX-Enclave-Identity-Issuer-Chain",
            "pck_crl" => return Some(Page { headers: vec![("SGX-PCK-CRL-Issuer-Chain", encoded(&machine.ca.intermediate_chain()))], body: bytes.to_vec() }),
            _ => return Some(Page { headers: Vec::new(), body: bytes.to_vec() }),
        };
        let signed = Signed::decode(name, bytes).ok()?;
        let body = match flaw {
            Flaw::Reordered => reordered(signed.body)?,
            Flaw::Expired | Flaw::None | Flaw::WrongIssuer => signed.body.to_vec(),
        };
        Some(Page { headers: vec![(header, encoded(signed.chain))], body })
    }
}

/// The same JSON with the members of its statement in another order: the signature is over the first.
fn reordered(body: &[u8]) -> Option<Vec<u8>> {
    let mut document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let statement = document.as_object_mut()?.values_mut().find_map(serde_json::Value::as_object_mut)?;
    let (first, value) = statement.iter().next().map(|(key, value)| (key.clone(), value.clone()))?;
    statement.shift_remove(&first);
    statement.insert(first, value);
    serde_json::to_vec(&document).ok()
}

/// URL-encoded, as the service writes its chain headers.
fn encoded(pem: &[u8]) -> String {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~');
    pem.iter().map(|octet| if plain(*octet) { char::from(*octet).to_string() } else { format!("%{octet:02X}") }).collect()
}
