//! The certificate of the key that signs reports, as the vendor writes it, with every part settable.

use yasna::{Tag, construct_der};

use super::der::{self, Criticality};
use crate::evidence::Timestamp;
use crate::evidence::snp::{Product, Tcb, VekKind};

/// What a VCEK or VLEK certificate says.
#[derive(Clone, Debug)]
pub struct VekCertificate {
    /// Which of the two it is: its subject, its issuer, and whether it names a chip or a cloud.
    pub kind: VekKind,
    /// The product whose set of extensions it has.
    pub product: Product,
    /// `productName`: `Milan-B0` in VCEKs of Milan, the line's name elsewhere.
    pub product_name: String,
    /// The TCB it is for.
    pub tcb: Tcb,
    /// `hwID`, as it stands in the extension; in VCEKs only.
    pub hwid: Vec<u8>,
    /// `cspID`; in VLEKs only.
    pub csp_id: String,
    /// First moment of validity.
    pub not_before: Timestamp,
    /// Last moment of validity.
    pub not_after: Timestamp,
    /// Extensions that are left out.
    pub omit: Vec<VekExtension>,
    /// Extensions that are there twice.
    pub repeat: Vec<VekExtension>,
    /// How the signature's parameters are written.
    pub trailer: Trailer,
}

/// How RSASSA-PSS parameters say that the trailer field is 1. Both forms are in genuine certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trailer {
    /// Left out, as DER wants a default: VEKs since 2024.
    Default,
    /// Written out: all roots and intermediates, revocation lists, VEKs up to 2023.
    Explicit,
}

/// An extension of a VEK certificate, under 1.3.6.1.4.1.3704.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the vendor's names, one by one")]
pub enum VekExtension {
    BlSpl,
    CspId,
    FmcSpl,
    HwId,
    ProductName,
    SnpSpl,
    Spl4,
    Spl5,
    Spl6,
    Spl7,
    StructVersion,
    TeeSpl,
    UcodeSpl,
}

impl VekExtension {
    const fn arcs(self) -> &'static [u64] {
        match self {
            Self::StructVersion => &[1],
            Self::ProductName => &[2],
            Self::BlSpl => &[3, 1],
            Self::TeeSpl => &[3, 2],
            Self::SnpSpl => &[3, 3],
            Self::Spl4 => &[3, 4],
            Self::Spl5 => &[3, 5],
            Self::Spl6 => &[3, 6],
            Self::Spl7 => &[3, 7],
            Self::UcodeSpl => &[3, 8],
            Self::FmcSpl => &[3, 9],
            Self::HwId => &[4],
            Self::CspId => &[5],
        }
    }

    /// The extensions of a product's certificates, in the vendor's order.
    fn all(product: Product, kind: VekKind) -> Vec<Self> {
        let mut all = vec![Self::StructVersion, Self::ProductName];
        all.extend(match product {
            Product::Genoa | Product::Milan => {
                [Self::BlSpl, Self::TeeSpl, Self::Spl4, Self::Spl5, Self::Spl6, Self::Spl7, Self::SnpSpl, Self::UcodeSpl].as_slice()
            }
            Product::Turin => [Self::FmcSpl, Self::BlSpl, Self::TeeSpl, Self::SnpSpl, Self::Spl5, Self::Spl6, Self::Spl7, Self::UcodeSpl].as_slice(),
        });
        all.push(match kind {
            VekKind::Vcek => Self::HwId,
            VekKind::Vlek => Self::CspId,
        });
        all
    }
}

impl VekCertificate {
    /// The body that `issuer` signs, for a P-384 public key.
    pub(super) fn unsigned(&self, issuer: &str, point: &[u8]) -> Vec<u8> {
        let subject = match self.kind {
            VekKind::Vcek => "SEV-VCEK",
            VekKind::Vlek => "SEV-VLEK",
        };
        construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                writer.next().write_u8(0); // every genuine VEK has the serial number 0
                der::pss_sha384(writer.next(), self.trailer);
                der::name(writer.next(), issuer);
                writer.next().write_sequence(|writer| {
                    der::moment(writer.next(), self.not_before);
                    der::moment(writer.next(), self.not_after);
                });
                der::name(writer.next(), subject);
                writer.next().write_der(&der::p384_spki(point));
                writer.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|writer| {
                        for extension in self.extensions() {
                            let arcs = [&[1, 3, 6, 1, 4, 1, 3704, 1], extension.arcs()].concat();
                            der::extension(writer, &arcs, Criticality::Ordinary, &self.value(extension));
                        }
                    });
                });
            });
        })
    }

    fn extensions(&self) -> impl Iterator<Item = VekExtension> {
        let times = |extension| if self.repeat.contains(&extension) { 2 } else { 1 };
        let present = VekExtension::all(self.product, self.kind).into_iter().filter(|extension| !self.omit.contains(extension));
        present.flat_map(move |extension| std::iter::repeat_n(extension, times(extension)))
    }

    fn value(&self, extension: VekExtension) -> Vec<u8> {
        let spl = |number: u8| construct_der(|writer| writer.write_u8(number));
        match extension {
            VekExtension::StructVersion => spl(u8::from(self.product == Product::Turin)),
            VekExtension::ProductName => construct_der(|writer| writer.write_ia5_string(&self.product_name)),
            VekExtension::BlSpl => spl(self.tcb.bootloader),
            VekExtension::TeeSpl => spl(self.tcb.tee),
            VekExtension::SnpSpl => spl(self.tcb.snp),
            VekExtension::UcodeSpl => spl(self.tcb.microcode),
            VekExtension::FmcSpl => spl(self.tcb.fmc.unwrap_or(0)),
            VekExtension::Spl4 | VekExtension::Spl5 | VekExtension::Spl6 | VekExtension::Spl7 => spl(0),
            // The octets themselves, not an OCTET STRING of them: so are genuine ones.
            VekExtension::HwId => self.hwid.clone(),
            VekExtension::CspId => construct_der(|writer| writer.write_ia5_string(&self.csp_id)),
        }
    }
}
