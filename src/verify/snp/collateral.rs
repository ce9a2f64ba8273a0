//! What is worth keeping of AMD's collateral, and what a policy will need of it.

use super::{authority_names, chain, of_root, path_of};
use crate::evidence::snp::{Product, Vek, VekKind};
use crate::evidence::{Endorsement, EndorsementId};
use crate::policy::{Accept, Entry};
use crate::refusal::Denied;
use crate::verify::Grounds;
use crate::verify::chain::{Revocations, SigningKey, untrusted};

/// The chain and the list of each product and kind of key that an entry accepts. A VCEK's path has the TCB in it, which
/// only its report tells.
pub(super) fn foreseen(entry: &Entry) -> Vec<EndorsementId> {
    let words = |key: &str| match entry.constraints.iter().find(|constraint| constraint.field.key == key).map(|constraint| &constraint.accept) {
        Some(Accept::Words(words)) => words.clone(),
        _ => Vec::new(),
    };
    let (products, keys) = (words("products"), words("signing_key"));
    let kinds = [VekKind::Vcek, VekKind::Vlek].into_iter().filter(|kind| keys.iter().any(|key| key.eq_ignore_ascii_case(kind.name())));
    let of = |kind: VekKind| {
        let products = Product::ALL.into_iter().filter(|product| products.iter().any(|name| name == product.name()));
        products.flat_map(move |product| [chain_id(kind, product), list_id(kind, product)]).collect::<Vec<_>>()
    };
    kinds.flat_map(of).collect()
}

/// Where the intermediate of a product and kind of key is.
pub(super) fn chain_id(kind: VekKind, product: Product) -> EndorsementId {
    EndorsementId { name: kind.issuer(), path: format!("/{}/v1/{}/cert_chain", kind.name(), product.vendor_name()) }
}

/// Where the root's revocation list is.
pub(super) fn list_id(kind: VekKind, product: Product) -> EndorsementId {
    EndorsementId { name: "crl", path: format!("/{}/v1/{}/crl", kind.name(), product.vendor_name()) }
}

/// Refuses what is not AMD's, or not what the path names.
pub(super) fn vouch(id: &EndorsementId, der: &[u8], others: &dyn Fn(&EndorsementId) -> Option<Endorsement>, grounds: &Grounds<'_>) -> Result<(), Denied> {
    let mut known = [VekKind::Vcek, VekKind::Vlek].into_iter().flat_map(|kind| Product::ALL.map(|product| (kind, product)));
    if let Some((kind, product)) = known.clone().find(|(kind, product)| chain_id(*kind, *product) == *id) {
        let intermediate = chain::certificate(id.name, der)?;
        authority_names(id.name, &intermediate, kind, product)?;
        return by_root(product, grounds, |root| chain::issued_by(id.name, &intermediate, root, grounds.memo, grounds.now));
    }
    if let Some((_, product)) = known.find(|(kind, product)| list_id(*kind, *product) == *id) {
        let current = |root: &SigningKey<'_>| Revocations::current("crl", der, |issuer| of_root(issuer, product), root, grounds.memo, grounds.now).map(drop);
        return by_root(product, grounds, current);
    }
    let certificate = chain::certificate(id.name, der)?;
    let vek = Vek::of(&certificate)?;
    let path = vek.hwid.as_ref().map(|hwid| path_of(hwid, vek.product, vek.tcb));
    if path.as_deref() != Some(&id.path) {
        return untrusted("vek", id.path.clone(), path.unwrap_or_else(|| vek.kind.name().to_owned()));
    }
    let Some(issuer) = others(&chain_id(vek.kind, vek.product)) else {
        return chain::unavailable(vek.kind.issuer(), "the issuer of the certificate", "none at hand");
    };
    let issuer = chain::certificate(vek.kind.issuer(), &issuer.bytes)?;
    chain::issued_by(id.name, &certificate, &SigningKey::of_certificate(&issuer), grounds.memo, grounds.now)
}

/// Whether any trusted root of the product will do.
fn by_root(product: Product, grounds: &Grounds<'_>, check: impl Fn(&SigningKey<'_>) -> Result<(), Denied>) -> Result<(), Denied> {
    let mut refused = None;
    for anchor in grounds.anchors.of("sev-snp", product.name()) {
        match SigningKey::of_spki("ark", &anchor.spki).and_then(|root| check(&root)) {
            Ok(()) => return Ok(()),
            Err(denied) => refused = Some(denied),
        }
    }
    refused.map_or_else(|| untrusted("ark", "a pinned root of this product", "none"), Err)
}
