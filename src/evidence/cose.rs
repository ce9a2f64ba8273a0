//! COSE_Sign1 (RFC 9052, 4.2) and COSE_Key (RFC 9053, 7.1.1) as attesters write them: one signer, one algorithm, an attached
//! payload. The signature is over the octets as received, never over something written anew.

use super::cbor::Writer;
use super::cbor::foreign::{Item, Map};
use super::spki::EllipticKey;
use crate::crypto::Scheme;
use crate::refusal::{Denied, Finding, Reason};

/// Header parameters and key parameters by their labels.
const ALG: i64 = 1;
const CRIT: i64 = 2;
const KTY: i64 = 1;
const EC2: i64 = 2;
const CRV: i64 = -1;
const X: i64 = -2;
const Y: i64 = -3;

/// The tag of COSE_Sign1; some attesters leave it out.
pub const SIGN1_TAG: u64 = 18;

/// The tag of COSE_Mac0: known so that it can be refused by name.
const MAC0_TAG: u64 = 17;

/// The signature algorithms, by their numbers in the COSE registry.
const ALGORITHMS: [(i64, &str, Scheme); 3] =
    [(-7, "ES256", Scheme::EcdsaP256Sha256), (-35, "ES384", Scheme::EcdsaP384Sha384), (-36, "ES512", Scheme::EcdsaP521Sha512)];

/// The curves, by their numbers in the COSE registry.
const CURVES: [(i64, Scheme); 3] = [(1, Scheme::EcdsaP256Sha256), (2, Scheme::EcdsaP384Sha384), (3, Scheme::EcdsaP521Sha512)];

/// The number of a scheme in the COSE registry; `None` for RSA.
#[must_use]
pub fn algorithm(scheme: Scheme) -> Option<i64> {
    ALGORITHMS.iter().find_map(|(number, _, known)| (*known == scheme).then_some(*number))
}

/// Whether a COSE_Sign1 stands under its tag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tagging {
    /// It does.
    Tagged,
    /// It does not.
    Untagged,
}

/// A signed payload: read, not believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sign1<'a> {
    /// Whether it stands under its tag.
    pub tagging: Tagging,
    /// The protected header, as it is signed.
    pub protected: &'a [u8],
    /// `alg` of the protected header.
    pub alg: i64,
    /// The payload, as it is signed.
    pub payload: &'a [u8],
    /// `r ‖ s`, big-endian.
    pub signature: &'a [u8],
}

impl<'a> Sign1<'a> {
    /// Reads one COSE_Sign1 that fills `bytes`; `what` is what findings call it.
    ///
    /// Establishes nothing: see [`Sign1::verifies`]. The unprotected header must be a map and is ignored.
    ///
    /// # Errors
    /// `evidence_unsupported` for a COSE_Mac0, whose key the verifier would share; `evidence_malformed` for other octets, a
    /// detached payload, a missing algorithm, or a header that says it must be understood.
    pub fn decode(what: &'static str, bytes: &'a [u8]) -> Result<Self, Denied> {
        match Item::decode(bytes) {
            Ok(item) => Self::of_item(what, &item),
            Err(error) => malformed(what, "one COSE_Sign1", error),
        }
    }

    fn of_item(what: &'static str, item: &Item<'a>) -> Result<Self, Denied> {
        let (tagging, parts) = match item {
            Item::Array(parts) => (Tagging::Untagged, parts),
            Item::Tag(SIGN1_TAG, item) if matches!(**item, Item::Array(_)) => match &**item {
                Item::Array(parts) => (Tagging::Tagged, parts),
                _ => return malformed(what, "a COSE_Sign1", "another item under its tag"),
            },
            Item::Tag(MAC0_TAG, _) => {
                let finding = Finding::new(Reason::EvidenceUnsupported, what, "a COSE_Sign1", "a COSE_Mac0");
                return finding.fix("whoever can check a MAC can forge it: let the device sign with its private key").refuse();
            }
            Item::Tag(tag, _) => return malformed(what, "a COSE_Sign1 (tag 18)", format!("tag {tag}")),
            _ => return malformed(what, "a COSE_Sign1", "another item"),
        };
        let [Item::Bytes(protected), Item::Map(_), Item::Bytes(payload), Item::Bytes(signature)] = parts.as_slice() else {
            return malformed(what, "[protected header, unprotected header, payload, signature]", "another list");
        };
        let alg = header(what, protected)?;
        Ok(Self { tagging, protected, alg, payload, signature })
    }

    /// The scheme that its algorithm names.
    #[must_use]
    pub fn scheme(&self) -> Option<Scheme> {
        ALGORITHMS.iter().find_map(|(number, _, scheme)| (*number == self.alg).then_some(*scheme))
    }

    /// The name of its algorithm.
    #[must_use]
    pub fn algorithm_name(&self) -> String {
        ALGORITHMS.iter().find(|(number, ..)| *number == self.alg).map_or_else(|| format!("algorithm {}", self.alg), |(_, name, _)| (*name).to_owned())
    }

    /// The octets that the signature is over: `Sig_structure` with no external data.
    #[must_use]
    pub fn to_be_signed(&self) -> Vec<u8> {
        to_be_signed(self.protected, self.payload)
    }

    /// Proves that the signature is by `key`, whose curve its algorithm must be for.
    ///
    /// # Errors
    /// `signature_invalid`.
    pub fn verifies(&self, what: &'static str, key: &EllipticKey) -> Result<(), Denied> {
        if self.scheme() != Some(key.scheme) {
            let expected = ALGORITHMS.iter().find(|(.., scheme)| *scheme == key.scheme).map_or("none", |(_, name, _)| name);
            return Finding::new(Reason::SignatureInvalid, what, format!("{expected}, of the key's curve"), self.algorithm_name()).refuse();
        }
        if !crate::crypto::verifies(key.scheme, &key.point, &self.to_be_signed(), self.signature) {
            return Finding::new(Reason::SignatureInvalid, what, "a signature by its key", "none that verifies").refuse();
        }
        Ok(())
    }
}

/// The protected header that names `alg` alone.
#[must_use]
pub fn protected(alg: i64) -> Vec<u8> {
    Item::Map(Map::new(vec![(Item::of_int(ALG), Item::of_int(alg))])).encode()
}

/// The octets that a signature is over.
#[must_use]
pub fn to_be_signed(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.array(4).text("Signature1").bytes(protected).bytes(&[]).bytes(payload);
    writer.finish()
}

/// A COSE_Sign1 with an empty unprotected header.
#[must_use]
pub fn encode(tagging: Tagging, protected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    let list = Item::Array(vec![Item::Bytes(protected), Item::Map(Map::new(Vec::new())), Item::Bytes(payload), Item::Bytes(signature)]);
    match tagging {
        Tagging::Tagged => Item::Tag(SIGN1_TAG, Box::new(list)).encode(),
        Tagging::Untagged => list.encode(),
    }
}

/// Reads a COSE_Key of type EC2 with both coordinates.
///
/// # Errors
/// `evidence_malformed` for other octets, key types and curves, compressed points, and points that are not on the curve.
pub fn decode_key(what: &'static str, bytes: &[u8]) -> Result<EllipticKey, Denied> {
    let item = match Item::decode(bytes) {
        Ok(Item::Map(map)) => map,
        Ok(_) => return malformed(what, "a COSE_Key", "another item"),
        Err(error) => return malformed(what, "a COSE_Key", error),
    };
    if item.of(KTY).and_then(Item::int) != Some(EC2) {
        return malformed(what, "a COSE_Key of type EC2", "another type");
    }
    let curve = item.of(CRV).and_then(Item::int);
    let Some(scheme) = CURVES.iter().find_map(|(number, scheme)| (Some(*number) == curve).then_some(*scheme)) else {
        return malformed(what, "curve P-256, P-384 or P-521", curve.map_or_else(|| "none".to_owned(), |curve| format!("curve {curve}")));
    };
    let (Some(x), Some(y)) = (item.of(X).and_then(Item::bytes), item.of(Y).and_then(Item::bytes)) else {
        return malformed(what, "both coordinates", "others");
    };
    if Some(x.len()) != scheme.half() || Some(y.len()) != scheme.half() {
        return malformed(what, "coordinates of the curve's length", format!("{} and {} octets", x.len(), y.len()));
    }
    on_curve(what, scheme, [&[4], x, y].concat())
}

/// A COSE_Key of an uncompressed point; `None` for RSA or a point of another length.
#[must_use]
pub fn encode_key(key: &EllipticKey) -> Option<Vec<u8>> {
    let curve = CURVES.iter().find_map(|(number, scheme)| (*scheme == key.scheme).then_some(*number))?;
    let (x, y) = key.point.get(1..)?.split_at_checked(key.scheme.half()?)?;
    let pair = |label: i64, value| (Item::of_int(label), value);
    let pairs = vec![pair(KTY, Item::of_int(EC2)), pair(CRV, Item::of_int(curve)), pair(X, Item::Bytes(x)), pair(Y, Item::Bytes(y))];
    Some(Item::Map(Map::new(pairs)).encode())
}

/// An uncompressed point as a key.
///
/// # Errors
/// `evidence_malformed` when it is not on the curve.
pub fn on_curve(what: &'static str, scheme: Scheme, point: Vec<u8>) -> Result<EllipticKey, Denied> {
    match EllipticKey::of_point(scheme, point) {
        Some(key) => Ok(key),
        None => malformed(what, "a point on its curve", "another point"),
    }
}

/// `alg` of a protected header.
fn header(what: &'static str, protected: &[u8]) -> Result<i64, Denied> {
    let header = match Item::decode(protected) {
        Ok(Item::Map(header)) => header,
        Ok(_) => return malformed(what, "a map as protected header", "another item"),
        Err(error) => return malformed(what, "a map as protected header", error),
    };
    if header.of(CRIT).is_some() {
        return malformed(what, "no header parameter that must be understood", "crit");
    }
    match header.of(ALG).and_then(Item::int) {
        Some(alg) => Ok(alg),
        None => malformed(what, "an algorithm in the protected header", "none"),
    }
}

fn malformed<T>(what: &'static str, expected: &str, found: impl ToString) -> Result<T, Denied> {
    Finding::new(Reason::EvidenceMalformed, what, expected, found.to_string()).refuse()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// The signed example of RFC 9052, C.2.1 (`sign1-tests/sign-pass-01` of its examples), with its key "11".
    const EXAMPLE: &str = "d28443a10126a10442313154546869732069732074686520636f6e74656e742e58408eb33e4ca31d1c465ab05aac34cc6b23d58fef5c083106c4d25a91aef0b0117e2af9a291aa32e14ab834dc56ed2a223444547e01f11d3b0916e5a4c345cacb36";
    const X: &str = "bac5b11cad8f99f9c72b05cf4b9e26d244dc189f745228255a219a86d6a09eff";
    const Y: &str = "20138bf82dc1b6d562be0fa54ab7804a3a64b6d72ccfed6b6fb6ed28bbfc117e";

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    fn key() -> EllipticKey {
        EllipticKey::of_point(Scheme::EcdsaP256Sha256, [vec![4], hex(X), hex(Y)].concat()).unwrap()
    }

    #[test]
    fn the_standards_example_verifies_and_nothing_changed_does() {
        let bytes = hex(EXAMPLE);
        let sign1 = Sign1::decode("example", &bytes).unwrap();
        assert_eq!((sign1.tagging, sign1.alg, sign1.payload), (Tagging::Tagged, -7, b"This is the content.".as_slice()));
        sign1.verifies("example", &key()).unwrap();
        for part in ["protected", "payload", "signature"] {
            let mut changed = [sign1.protected.to_vec(), sign1.payload.to_vec(), sign1.signature.to_vec()];
            let place = ["protected", "payload", "signature"].iter().position(|name| *name == part).unwrap();
            *changed[place].last_mut().unwrap() ^= 1;
            let [protected, payload, signature] = &changed;
            let changed = Sign1 { protected, payload, signature, ..sign1.clone() };
            assert_eq!(changed.verifies("example", &key()).unwrap_err().reason(), Reason::SignatureInvalid, "{part}");
        }
        let other = Sign1 { alg: -35, ..sign1 };
        assert_eq!(other.verifies("example", &key()).unwrap_err().reason(), Reason::SignatureInvalid);
    }

    #[test]
    fn what_is_encoded_is_read() {
        for tagging in [Tagging::Tagged, Tagging::Untagged] {
            let bytes = encode(tagging, &protected(-35), b"payload", &[7; 96]);
            let sign1 = Sign1::decode("x", &bytes).unwrap();
            assert_eq!((sign1.tagging, sign1.alg, sign1.payload, sign1.signature), (tagging, -35, b"payload".as_slice(), [7; 96].as_slice()));
        }
        assert_eq!(decode_key("x", &encode_key(&key()).unwrap()).unwrap(), key());
    }

    #[test]
    fn other_shapes_are_refused_with_their_reason() {
        for (text, reason) in [
            ("d18443a10105a0404100", Reason::EvidenceUnsupported),     // COSE_Mac0
            ("d28443a10126a0f64100", Reason::EvidenceMalformed),       // detached payload
            ("d28440a0404100", Reason::EvidenceMalformed),             // no protected header
            ("d28441a0a0404100", Reason::EvidenceMalformed),           // no algorithm
            ("d28447a2012602810ba0404100", Reason::EvidenceMalformed), // crit
            ("d28343a1012640404100", Reason::EvidenceMalformed),
            ("d3a0", Reason::EvidenceMalformed),
            ("d28443a10126a040410000", Reason::EvidenceMalformed), // octets behind it
        ] {
            assert_eq!(Sign1::decode("x", &hex(text)).unwrap_err().reason(), reason, "{text}");
        }
    }

    #[test]
    fn a_key_off_its_curve_is_refused() {
        let mut bytes = encode_key(&key()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(decode_key("x", &bytes).unwrap_err().reason(), Reason::EvidenceMalformed);
        assert!(decode_key("x", &hex("a0")).is_err() && decode_key("x", b"").is_err());
    }
}
