//! AMD's key distribution service for simulated machines: VCEK by chip and TCB, chains, revocation lists.

use std::sync::{Arc, Mutex, PoisonError};

use super::authority::{Role, SimulatedVendor};
use super::forge::Forge;
use super::revocation::RevocationList;
use super::service::{Flaw, Page, Shelf};
use crate::evidence::Timestamp;
use crate::evidence::snp::{Product, VekKind};

/// What the service has: the machines it knows, and one revocation list for each product. Clones share it.
#[derive(Clone)]
pub struct Kds(Arc<Stock>);

struct Stock {
    machines: Vec<Forge>,
    list: Mutex<RevocationList>,
}

impl Kds {
    /// A service that knows these machines, with the list of a quiet vendor at `now`.
    #[must_use]
    pub fn new(machines: Vec<Forge>, now: Timestamp) -> Self {
        Self(Arc::new(Stock { machines, list: Mutex::new(RevocationList::at(now)) }))
    }

    /// Replaces the revocation list of every product.
    pub fn publish(&self, list: RevocationList) {
        *self.0.list.lock().unwrap_or_else(PoisonError::into_inner) = list;
    }

    fn vcek(&self, product: Product, chip: &str, query: &str, flaw: Flaw) -> Option<Vec<u8>> {
        let of_chip = |forge: &&Forge| {
            forge.vek.product == product && forge.vek.kind == VekKind::Vcek && data_encoding::HEXLOWER.encode(&forge.vek.hwid) == chip.to_ascii_lowercase()
        };
        let mut machine = self.0.machines.iter().filter(of_chip).find(|forge| asks_for(forge, query))?.clone();
        match flaw {
            Flaw::Expired => machine.vek.not_after = machine.vek.not_before.plus(1),
            Flaw::WrongIssuer => machine.vendor = SimulatedVendor::impostor(product),
            Flaw::None | Flaw::Reordered => {}
        }
        Some(machine.vek_certificate())
    }

    fn list(&self, vendor: SimulatedVendor, flaw: Flaw) -> Vec<u8> {
        let mut list = self.0.list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if flaw == Flaw::Expired {
            list.next_update = Some(list.this_update.plus(1));
        }
        vendor.revoke(&list)
    }
}

impl Shelf for Kds {
    fn page(&self, path: &str, flaw: Flaw) -> Option<Page> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut parts = path.trim_start_matches('/').split('/');
        let (service, "v1", line, last, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
        let product = Product::ALL.into_iter().find(|product| product.vendor_name() == line)?;
        let vendor = if flaw == Flaw::WrongIssuer { SimulatedVendor::impostor(product) } else { SimulatedVendor::new(product) };
        let issuer = match service {
            "vcek" => Role::Ask,
            "vlek" => Role::Asvk,
            _ => return None,
        };
        let body = match (last, issuer) {
            ("cert_chain", _) => (pem(&vendor.certificate(issuer)) + &pem(&vendor.certificate(Role::Ark))).into_bytes(),
            ("crl", _) => self.list(vendor, flaw),
            (chip, Role::Ask) => self.vcek(product, chip, query, flaw)?,
            _ => return None,
        };
        Some(Page { headers: Vec::new(), body })
    }
}

/// Whether the query names this machine's TCB.
fn asks_for(machine: &Forge, query: &str) -> bool {
    let asked = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse::<u8>().ok());
    let tcb = machine.vek.tcb;
    let parts = [("blSPL", tcb.bootloader), ("teeSPL", tcb.tee), ("snpSPL", tcb.snp), ("ucodeSPL", tcb.microcode)];
    asked("fmcSPL") == tcb.fmc && parts.iter().all(|(key, value)| asked(key) == Some(*value))
}

fn pem(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
