//! What NVIDIA signs of its devices' states and certificates, with one octet changed in each of its regions, and the code that
//! the change has.

#[path = "signed.rs"]
pub(crate) mod signed;

use std::ops::Range;

use data_encoding::BASE64;
use portcullis::evidence::ocsp::Response;
use portcullis::refusal::Reason;
use signed::{certified, place};

/// A file with one octet changed.
pub(crate) struct Changed {
    /// The region.
    pub(crate) what: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// What it is refused with, and which field is told.
    pub(crate) refused: (Reason, &'static str),
}

/// A file that says nothing: it cannot be read, or its digest is of another.
pub(crate) const NO_REFERENCE: (Reason, &str) = (Reason::CollateralUnavailable, "gpu.rim");
const UNSIGNED: (Reason, &str) = (Reason::SignatureInvalid, "gpu.rim.signature");
const UNTRUSTED: (Reason, &str) = (Reason::ChainUntrusted, "gpu.rim.certificate");
const NO_RESPONSE: (Reason, &str) = (Reason::CollateralUnavailable, "gpu.ocsp");

/// Reference measurements: an octet of each kind of value, of the signature, and of what is certified; each `step`th of the longer
/// ones.
pub(crate) fn of_rim(xml: &[u8], step: usize) -> Vec<Changed> {
    let text = std::str::from_utf8(xml).expect("text");
    let mut changed = Vec::new();
    for (what, before) in [
        ("payload: a value", "Hash0=\""),
        ("payload: an index", "index=\""),
        ("payload: whether it counts", "active=\""),
        ("payload: how many values", "alternatives=\""),
        ("meta: version", "colloquialVersion=\""),
        ("meta: product", "product=\""),
        ("signature: an algorithm", "Algorithm=\""),
        ("signature: digest", "DigestValue>"),
    ] {
        let places: Vec<_> = text.match_indices(before).map(|(at, _)| at + before.len()).filter(|at| xml[*at] != b'<').collect();
        assert!(!places.is_empty(), "{before}");
        for at in places.iter().step_by(places.len().div_ceil(8)) {
            let mut bytes = xml.to_vec();
            // Another character that such values have.
            bytes[*at] = if bytes[*at] == b'1' { b'2' } else { b'1' };
            changed.push(Changed { what, bytes, refused: NO_REFERENCE });
        }
    }
    // White space is signed too.
    let spaced = text.replacen("SignedInfo>", "SignedInfo> ", 1);
    changed.push(Changed { what: "signature: SignedInfo", bytes: spaced.into_bytes(), refused: UNSIGNED });
    for place in inside(text, "SignatureValue") {
        let signature = base64(&text[place.clone()]);
        for at in (0..signature.len()).step_by(step) {
            changed.push(Changed { what: "signature: value", bytes: put(text, &place, &flipped(&signature, at)), refused: UNSIGNED });
        }
    }
    let certificates = inside(text, "X509Certificate");
    for (number, place) in certificates.iter().enumerate() {
        let der = base64(&text[place.clone()]);
        // The pinned key stands for the root: of its certificate the key and the name are what a chain leads to.
        let root = number + 1 == certificates.len();
        let (what, regions) = if root { ("root's name and key", rooted(&der)) } else { ("certificate", certified(&der)) };
        for at in regions.into_iter().flat_map(|region| region.step_by(step)) {
            changed.push(Changed { what, bytes: put(text, place, &flipped(&der, at)), refused: UNTRUSTED });
        }
    }
    changed
}

/// A response: each `step`th octet of what its responder signed, of the signature, and of what is certified of the responder.
pub(crate) fn of_ocsp(der: &[u8], step: usize) -> Vec<Changed> {
    let response = Response::parse(der).unwrap_or_else(|denied| panic!("{denied}"));
    let mut regions = vec![("response", place(der, response.signed)), ("signature", place(der, response.signature))];
    for single in &response.singles {
        let fields = [("hash", single.hash), ("issuer's name", single.issuer_name), ("issuer's key", single.issuer_key), ("serial number", single.serial)];
        regions.extend(fields.map(|(what, field)| (what, place(der, field))));
        // The status has no octets of its own but its tag, which is behind the serial number.
        let status = place(der, single.serial).end;
        regions.push(("status", status..status + 1));
        // The times behind it, at their last digits.
        let moments = der[status..].iter().enumerate().filter(|(_, octet)| **octet == b'Z').map(|(at, _)| status + at - 1);
        let signed = place(der, response.signed);
        regions.extend(moments.filter(|at| signed.contains(at)).map(|at| ("a time", at..at + 1)));
    }
    let responder = place(der, response.responder);
    regions.extend(certified(response.responder).into_iter().map(|part| ("responder", responder.start + part.start..responder.start + part.end)));
    let octets = regions.into_iter().flat_map(|(what, region)| region.step_by(step).map(move |at| (what, at)));
    octets.map(|(what, at)| Changed { what, bytes: flipped(der, at), refused: NO_RESPONSE }).collect()
}

/// What a chain leads to of a root that is pinned by its key.
pub(crate) fn rooted(der: &[u8]) -> [Range<usize>; 2] {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("a certificate");
    [place(der, certificate.subject().as_raw()), place(der, certificate.public_key().raw)]
}

fn flipped(octets: &[u8], at: usize) -> Vec<u8> {
    let mut flipped = octets.to_vec();
    flipped[at] ^= 1 << (at % 8);
    flipped
}

/// The contents of the elements of this name, which have no attributes.
fn inside(text: &str, element: &str) -> Vec<Range<usize>> {
    let tag = format!("{element}>");
    let starts: Vec<_> = text.match_indices(&tag).map(|(at, tag)| at + tag.len()).step_by(2).collect();
    assert!(!starts.is_empty(), "{element}");
    starts.into_iter().map(|start| start..start + text[start..].find('<').expect("an end")).collect()
}

fn base64(text: &str) -> Vec<u8> {
    let text: String = text.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    BASE64.decode(text.as_bytes()).expect("Base64")
}

fn put(text: &str, place: &Range<usize>, octets: &[u8]) -> Vec<u8> {
    [&text[..place.start], &BASE64.encode(octets), &text[place.end..]].concat().into_bytes()
}
