//! The certificate of the key that signs reports: VCEK (of a chip) or VLEK (loaded by a cloud).
//!
//! Source: AMD "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification", table of
//! extensions under 1.3.6.1.4.1.3704.1. Read, not believed.

use x509_parser::der_parser::asn1_rs::{FromDer as _, Ia5String, Integer, OctetString};
use x509_parser::oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384};
use x509_parser::prelude::X509Certificate;

use super::{Product, Tcb};
use crate::evidence::Timestamp;
use crate::refusal::{Denied, Finding, Reason};

/// A certificate longer than this is not read. Genuine ones have some 1,300 octets.
pub const MAX_CERTIFICATE: usize = 8 * 1024;

/// Which of the two keys a certificate is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VekKind {
    /// Versioned chip endorsement key: names a chip.
    Vcek,
    /// Versioned loaded endorsement key: names a cloud.
    Vlek,
}

impl VekKind {
    /// The endorsement's short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
        }
    }

    /// The short name of the intermediate that issues it.
    #[must_use]
    pub const fn issuer(self) -> &'static str {
        match self {
            Self::Vcek => "ask",
            Self::Vlek => "asvk",
        }
    }
}

/// What a VEK certificate says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vek {
    /// Which kind it is, by its subject.
    pub kind: VekKind,
    /// `structVersion`.
    pub struct_version: u64,
    /// `productName` as it stands, with its stepping.
    pub product_name: String,
    /// The product line.
    pub product: Product,
    /// The TCB that the key is derived from.
    pub tcb: Tcb,
    /// The spare security versions by their number (`spl4` to `spl7`), as far as they are there.
    pub spare: Vec<(&'static str, u8)>,
    /// `hwID`: 64 octets, Turin 8; VCEK only.
    pub hwid: Option<Vec<u8>>,
    /// `cspID`; VLEK only.
    pub csp_id: Option<String>,
    /// The P-384 public key as an uncompressed point, 97 octets.
    pub key: Vec<u8>,
    /// First moment of validity.
    pub not_before: Timestamp,
    /// Last moment of validity.
    pub not_after: Timestamp,
    /// The serial number, big-endian.
    pub serial: Vec<u8>,
}

impl Vek {
    /// Reads a DER certificate.
    ///
    /// # Errors
    /// `chain_untrusted` for anything that is not a VEK certificate with each extension once.
    pub fn parse(der: &[u8]) -> Result<Self, Denied> {
        if der.len() > MAX_CERTIFICATE {
            return Err(unlike("vek", format!("at most {MAX_CERTIFICATE} octets"), der.len().to_string()));
        }
        match X509Certificate::from_der(der) {
            Ok((&[], certificate)) => Self::of(&certificate),
            Ok((rest, _)) => Err(unlike("vek", "one DER certificate", format!("{} octets behind it", rest.len()))),
            Err(error) => Err(unlike("vek", "one DER certificate", error.to_string())),
        }
    }

    /// Reads the extensions of a certificate that was parsed.
    ///
    /// # Errors
    /// As [`Vek::parse`].
    pub fn of(certificate: &X509Certificate<'_>) -> Result<Self, Denied> {
        let kind = kind(certificate)?;
        let extensions = Extensions(certificate);
        let product_name = extensions.product_name()?;
        let product = Product::of_product_name(&product_name).ok_or_else(|| unlike("vek.productName", "Milan, Genoa or Turin", product_name.clone()))?;
        let tcb = Tcb {
            fmc: if product == Product::Turin { Some(extensions.spl(9, "fmcSPL")?) } else { None },
            bootloader: extensions.spl(1, "blSPL")?,
            tee: extensions.spl(2, "teeSPL")?,
            snp: extensions.spl(3, "snpSPL")?,
            microcode: extensions.spl(8, "ucodeSPL")?,
        };
        let mut spare = Vec::new();
        for (arc, name) in [(4, "spl4"), (5, "spl5"), (6, "spl6"), (7, "spl7")] {
            if extensions.find(&[3, arc], name)?.is_some() {
                spare.push((name, extensions.spl(arc, name)?));
            }
        }
        let (hwid, csp_id) = match kind {
            VekKind::Vcek => (Some(extensions.hwid(product)?), None),
            VekKind::Vlek => (None, Some(extensions.csp_id()?)),
        };
        let (not_before, not_after) = (certificate.validity().not_before, certificate.validity().not_after);
        let moment = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            kind,
            struct_version: extensions.integer(&[1], "structVersion")?,
            product_name,
            product,
            tcb,
            spare,
            hwid,
            csp_id,
            key: key(certificate)?,
            not_before: moment(not_before.timestamp()),
            not_after: moment(not_after.timestamp()),
            serial: certificate.raw_serial().to_vec(),
        })
    }
}

/// 1.3.6.1.4.1.3704.1, the arc of AMD's extensions, in DER.
const AMD_ARC: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01];
const POINT: usize = 97;

struct Extensions<'a>(&'a X509Certificate<'a>);

impl<'a> Extensions<'a> {
    /// The content of AMD's extension with these further arcs, each below 128.
    fn find(&self, arcs: &[u8], name: &str) -> Result<Option<&'a [u8]>, Denied> {
        let mut found = self.0.extensions().iter().filter(|extension| extension.oid.as_bytes().strip_prefix(AMD_ARC) == Some(arcs));
        match (found.next(), found.next()) {
            (first, None) => Ok(first.map(|extension| extension.value)),
            _ => Err(unlike("vek", format!("extension {name} once"), "several")),
        }
    }

    fn wanted(&self, arcs: &[u8], name: &str) -> Result<&'a [u8], Denied> {
        self.find(arcs, name)?.ok_or_else(|| unlike("vek", format!("extension {name}"), "none"))
    }

    fn integer(&self, arcs: &[u8], name: &str) -> Result<u64, Denied> {
        match Integer::from_der(self.wanted(arcs, name)?) {
            Ok((&[], integer)) => integer.as_u64().map_err(|_| unlike("vek", format!("{name} as a small INTEGER"), "another number")),
            _ => Err(unlike("vek", format!("{name} as one DER INTEGER"), "other octets")),
        }
    }

    fn spl(&self, arc: u8, name: &str) -> Result<u8, Denied> {
        let value = self.integer(&[3, arc], name)?;
        u8::try_from(value).map_err(|_| unlike("vek", format!("{name} of 0 to 255"), value.to_string()))
    }

    fn product_name(&self) -> Result<String, Denied> {
        match Ia5String::from_der(self.wanted(&[2], "productName")?) {
            Ok((&[], name)) => Ok(name.string()),
            _ => Err(unlike("vek", "productName as one IA5String", "other octets")),
        }
    }

    /// Raw octets, or wrapped in an OCTET STRING as in some issuances.
    fn hwid(&self, product: Product) -> Result<Vec<u8>, Denied> {
        let value = self.wanted(&[4], "hwID")?;
        let length = if product == Product::Turin { 8 } else { 64 };
        let wrapped = match OctetString::from_der(value) {
            Ok((&[], octets)) if octets.as_ref().len() == length => Some(octets.as_ref().to_vec()),
            _ => None,
        };
        let raw = (value.len() == length).then(|| value.to_vec());
        raw.or(wrapped).ok_or_else(|| unlike("vek.hwID", format!("{length} octets"), value.len().to_string()))
    }

    fn csp_id(&self) -> Result<String, Denied> {
        match Ia5String::from_der(self.wanted(&[5], "cspID")?) {
            Ok((&[], name)) if !name.as_ref().is_empty() => Ok(name.string()),
            _ => Err(unlike("vek", "cspID as one IA5String", "other octets")),
        }
    }
}

fn kind(certificate: &X509Certificate<'_>) -> Result<VekKind, Denied> {
    let mut names = certificate.subject().iter_common_name().map(|name| name.as_str().unwrap_or_default());
    match (names.next(), names.next()) {
        (Some("SEV-VCEK"), None) => Ok(VekKind::Vcek),
        (Some("SEV-VLEK"), None) => Ok(VekKind::Vlek),
        (name, _) => Err(unlike("vek.subject", "CN=SEV-VCEK or CN=SEV-VLEK", name.unwrap_or("none"))),
    }
}

fn key(certificate: &X509Certificate<'_>) -> Result<Vec<u8>, Denied> {
    let spki = certificate.public_key();
    let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let point: &[u8] = &spki.subject_public_key.data;
    let p384 = spki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_NIST_EC_P384);
    if p384 && point.len() == POINT && point.first() == Some(&4) {
        return Ok(point.to_vec());
    }
    Err(unlike("vek.key", "an uncompressed P-384 point", "another key"))
}

fn unlike(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Denied {
    Finding::new(Reason::ChainUntrusted, field, expected, found).into()
}
