//! NVIDIA's reference measurements: a signed SWID tag in XML, read under bounds, with the octets that its signature covers.
//!
//! Of XML only what these files use: elements, attributes in double quotes, text, namespaces. No document type, no entities,
//! comments, instructions or sections of raw text: each refuses, so that nothing is read that was not written out. What is
//! signed is the canonical form (Canonical XML 1.1, the whole document without its signature), made here from what was read,
//! so that what is judged is what was signed.

mod xml;

use xml::Element;

use crate::crypto::sha384;
use crate::refusal::{Denied, Finding, Reason};

/// A file longer than this is not read: they have about 20 KiB.
pub const MAX_RIM: usize = 256 * 1024;

/// Reference measurements, read and not believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rim {
    /// The version of the driver or of the firmware that they are of.
    pub version: String,
    /// The product.
    pub product: String,
    /// The measurements that are to be compared: their index, and the values that are good.
    pub golden: Vec<(usize, Vec<[u8; 48]>)>,
    /// The signer's certificates in DER, its own first.
    pub chain: Vec<Vec<u8>>,
    /// The canonical octets of `SignedInfo`: what the signature covers.
    pub signed: Vec<u8>,
    /// `r ‖ s`, big-endian.
    pub signature: Vec<u8>,
}

impl Rim {
    /// Reads a file and compares the digest in it with the document.
    ///
    /// Establishes nothing about the signature: that is `verify`'s.
    ///
    /// # Errors
    /// `collateral_unavailable` for a file that cannot be read or whose digest is of another document.
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        if bytes.len() > MAX_RIM {
            return unusable(format!("at most {MAX_RIM} octets"), bytes.len().to_string());
        }
        let Some(root) = xml::parse(bytes) else { return unusable("XML of reference measurements, without entities or comments", "other octets") };
        match Self::of(&root) {
            Ok(rim) => Ok(rim),
            Err(expected) => unusable(expected, "none, several or another"),
        }
    }

    fn of(root: &Element) -> Result<Self, &'static str> {
        let signature = root.only(DSIG, "Signature").ok_or("one signature")?;
        let info = signature.only(DSIG, "SignedInfo").ok_or("one SignedInfo")?;
        let algorithm = |parent: &Element, name: &str| Some(parent.only(DSIG, name)?.attribute("Algorithm")?.to_owned());
        let reference = info.only(DSIG, "Reference").ok_or("one reference")?;
        let transforms: Vec<_> = reference
            .only(DSIG, "Transforms")
            .map(|list| list.all(DSIG, "Transform").filter_map(|one| one.attribute("Algorithm")).collect())
            .unwrap_or_default();
        let known = algorithm(info, "CanonicalizationMethod").as_deref() == Some(C14N)
            && algorithm(info, "SignatureMethod").as_deref() == Some("http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384")
            && algorithm(reference, "DigestMethod").as_deref() == Some("http://www.w3.org/2001/04/xmldsig-more#sha384")
            && reference.attribute("URI") == Some("")
            && transforms == ["http://www.w3.org/2000/09/xmldsig#enveloped-signature", C14N];
        if !known {
            return Err("ECDSA with SHA-384 over the canonical document (C14N 1.1, enveloped)");
        }
        let digest = reference.only(DSIG, "DigestValue").and_then(Element::base64).ok_or("one digest in Base64")?;
        if digest != sha384(&[&root.canonical(Some(signature))]) {
            return Err("the digest of this document");
        }
        let certificates = signature.only(DSIG, "KeyInfo").and_then(|info| info.only(DSIG, "X509Data")).ok_or("certificates")?;
        let chain: Option<Vec<_>> = certificates.all(DSIG, "X509Certificate").map(Element::base64).collect();
        let meta = root.only(SWID, "Meta").ok_or("one Meta")?;
        let attribute = |name: &str| meta.attribute(name).map(str::to_owned);
        Ok(Self {
            version: attribute("colloquialVersion").ok_or("a version")?,
            product: attribute("product").ok_or("a product")?,
            golden: golden(root.only(SWID, "Payload").ok_or("one Payload")?).ok_or("measurements with an index and values of 48 octets, each once")?,
            chain: chain.filter(|chain| (1..=MAX_CHAIN).contains(&chain.len())).ok_or("1 to 8 certificates in Base64")?,
            signed: info.canonical(None),
            signature: signature.only(DSIG, "SignatureValue").and_then(Element::base64).ok_or("one signature value in Base64")?,
        })
    }
}

const MAX_CHAIN: usize = 8;
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";

fn golden(payload: &Element) -> Option<Vec<(usize, Vec<[u8; 48]>)>> {
    let mut golden: Vec<(usize, Vec<[u8; 48]>)> = Vec::new();
    for resource in payload.all(SWID, "Resource").filter(|resource| resource.attribute("type") == Some("Measurement")) {
        match resource.attribute("active")? {
            "True" => {}
            "False" => continue,
            _ => return None,
        }
        let index: usize = resource.attribute("index")?.parse().ok()?;
        let alternatives: usize = resource.attribute("alternatives")?.parse().ok().filter(|count| (1..=16).contains(count))?;
        let value = |at: usize| -> Option<[u8; 48]> {
            let text = resource.local(&format!("Hash{at}"))?;
            data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
        };
        let values: Option<Vec<_>> = (0..alternatives).map(value).collect();
        if golden.iter().any(|(known, _)| *known == index) {
            return None;
        }
        golden.push((index, values?));
    }
    Some(golden)
}

fn unusable<T>(expected: impl Into<String>, found: impl Into<String>) -> Result<T, Denied> {
    Finding::new(Reason::CollateralUnavailable, "gpu.rim", expected, found).refuse()
}
