//! The simulated vendor: root, intermediates, and what they sign.

use x509_parser::prelude::{FromDer as _, X509Certificate};
use yasna::{Tag, construct_der};

use super::certificate::{Trailer, VekCertificate};
use super::der::{self, Criticality};
use super::keys::RsaKey;
use super::revocation::RevocationList;
use crate::evidence::Timestamp;
use crate::evidence::snp::{Product, VekKind};

/// A key of the vendor's that signs certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The root: signs intermediates and the revocation list.
    Ark,
    /// Signs VCEKs.
    Ask,
    /// Signs VLEKs.
    Asvk,
}

impl Role {
    /// The short name of its certificate: `ark`, `ask`, `asvk`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ark => "ark",
            Self::Ask => "ask",
            Self::Asvk => "asvk",
        }
    }

    /// The intermediate that signs keys of this kind.
    #[must_use]
    pub const fn issuing(kind: VekKind) -> Self {
        match kind {
            VekKind::Vcek => Self::Ask,
            VekKind::Vlek => Self::Asvk,
        }
    }
}

/// A vendor for one product line.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedVendor {
    product: Product,
    /// Whose keys it signs with: its product's, unless it is an impostor.
    keys: Product,
}

impl SimulatedVendor {
    /// The vendor whose roots are published in [`super::roots`].
    #[must_use]
    pub const fn new(product: Product) -> Self {
        Self { product, keys: product }
    }

    /// A vendor of the same names under other keys, which no policy trusts for this product.
    #[must_use]
    pub const fn impostor(product: Product) -> Self {
        let keys = match product {
            Product::Genoa => Product::Milan,
            Product::Milan => Product::Turin,
            Product::Turin => Product::Genoa,
        };
        Self { product, keys }
    }

    /// The product line.
    #[must_use]
    pub const fn product(&self) -> Product {
        self.product
    }

    /// The root's DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn root_spki(&self) -> Vec<u8> {
        let ark = published(self.keys, Role::Ark);
        let (_, ark) = X509Certificate::from_der(ark).expect("the compiled-in certificates can be read");
        ark.tbs_certificate.subject_pki.raw.to_vec()
    }

    /// The certificate of the root or an intermediate, DER.
    #[must_use]
    pub fn certificate(&self, role: Role) -> Vec<u8> {
        if self.keys == self.product {
            return published(self.product, role).to_vec();
        }
        der::signed(self.key(Role::Ark), Trailer::Explicit, &self.unsigned(role))
    }

    /// The serial number of the root's or an intermediate's certificate: what a revocation list names.
    #[must_use]
    pub const fn serial(&self, role: Role) -> u64 {
        // As the vendor numbers its own: line, kind, count.
        let line = match self.product {
            Product::Milan => 0x01_0000,
            Product::Genoa => 0x02_0000,
            Product::Turin => 0x03_0000,
        };
        match role {
            Role::Ark => line,
            Role::Ask => line + 0x0001,
            Role::Asvk => line + 0x0101,
        }
    }

    /// Signs a VCEK or VLEK certificate for `point`, a P-384 public key as an uncompressed point.
    #[must_use]
    pub fn endorse(&self, certificate: &VekCertificate, point: &[u8]) -> Vec<u8> {
        let role = Role::issuing(certificate.kind);
        der::signed(self.key(role), certificate.trailer, &certificate.unsigned(&self.common_name(role), point))
    }

    /// Signs a revocation list, DER.
    #[must_use]
    pub fn revoke(&self, list: &RevocationList) -> Vec<u8> {
        let root = self.key(Role::Ark);
        der::signed(root, Trailer::Explicit, &list.unsigned(&self.common_name(Role::Ark), &der::key_identifier(&root.public())))
    }

    const fn key(&self, role: Role) -> RsaKey {
        RsaKey::new(self.keys, role)
    }

    fn common_name(&self, role: Role) -> String {
        let product = self.product.vendor_name();
        match role {
            Role::Ark => format!("ARK-{product}"),
            Role::Ask => format!("SEV-{product}"),
            Role::Asvk => format!("SEV-VLEK-{product}"),
        }
    }

    /// The body of the root's or an intermediate's certificate.
    fn unsigned(&self, role: Role) -> Vec<u8> {
        let (public, root) = (self.key(role).public(), self.key(Role::Ark).public());
        let (not_before, not_after) = self.validity(role);
        construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                writer.next().write_u64(self.serial(role));
                der::pss_sha384(writer.next(), Trailer::Explicit);
                der::name(writer.next(), &self.common_name(Role::Ark));
                writer.next().write_sequence(|writer| {
                    der::moment(writer.next(), not_before);
                    der::moment(writer.next(), not_after);
                });
                der::name(writer.next(), &self.common_name(role));
                writer.next().write_der(&der::rsa_spki(&public));
                writer.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|writer| {
                        for (arc, criticality, value) in self.extensions(role, &public, &root) {
                            der::extension(writer, &[2, 5, 29, arc], criticality, &value);
                        }
                    });
                });
            });
        })
    }

    /// The extensions by the last arc of their identifiers, in the vendor's order.
    fn extensions(&self, role: Role, public: &[u8], root: &[u8]) -> Vec<(u64, Criticality, Vec<u8>)> {
        const AUTHORITY: u64 = 35;
        const CONSTRAINTS: u64 = 19;
        const DISTRIBUTION: u64 = 31;
        const SUBJECT: u64 = 14;
        const USAGE: u64 = 15;
        let subject = construct_der(|writer| writer.write_bytes(&der::key_identifier(public)));
        let distribution = self.distribution_point(role);
        match role {
            Role::Ark => vec![
                (USAGE, Criticality::Critical, construct_der(|writer| writer.write_bitvec_bytes(&[0b0000_0110], 7))),
                (SUBJECT, Criticality::Ordinary, subject),
                (CONSTRAINTS, Criticality::Critical, construct_der(|writer| writer.write_sequence(|writer| writer.next().write_bool(true)))),
                (DISTRIBUTION, Criticality::Ordinary, distribution),
            ],
            Role::Ask | Role::Asvk => {
                let leaves_only = construct_der(|writer| {
                    writer.write_sequence(|writer| {
                        writer.next().write_bool(true);
                        writer.next().write_u8(0);
                    });
                });
                vec![
                    (SUBJECT, Criticality::Ordinary, subject),
                    (AUTHORITY, Criticality::Ordinary, der::authority_key_identifier(&der::key_identifier(root))),
                    (CONSTRAINTS, Criticality::Critical, leaves_only),
                    // Strict DER would leave out the seventh bit too; genuine intermediates have it.
                    (USAGE, Criticality::Critical, construct_der(|writer| writer.write_bitvec_bytes(&[0b0000_0100], 7))),
                    (DISTRIBUTION, Criticality::Ordinary, distribution),
                ]
            }
        }
    }

    fn distribution_point(&self, role: Role) -> Vec<u8> {
        let service = if role == Role::Asvk { "vlek" } else { "vcek" };
        let address = format!("https://kdsintf.amd.com/{service}/v1/{}/crl", self.product.vendor_name());
        construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    writer.next().write_tagged(Tag::context(0), |writer| {
                        writer.write_tagged_implicit(Tag::context(0), |writer| {
                            writer.write_sequence(|writer| {
                                writer.next().write_tagged_implicit(Tag::context(6), |writer| writer.write_bytes(address.as_bytes()));
                            });
                        });
                    });
                });
            });
        })
    }

    /// 25 years from the day the product's real root was made; intermediates an hour later.
    const fn validity(&self, role: Role) -> (Timestamp, Timestamp) {
        let (begin, end) = match self.product {
            Product::Milan => (Timestamp(1_603_324_800), Timestamp(2_392_243_200)), // 2020-10-22
            Product::Genoa => (Timestamp(1_643_155_200), Timestamp(2_432_073_600)), // 2022-01-26
            Product::Turin => (Timestamp(1_684_108_800), Timestamp(2_473_113_600)), // 2023-05-15
        };
        match role {
            Role::Ark => (begin, end),
            Role::Ask | Role::Asvk => (begin.plus(3_600), end.plus(3_600)),
        }
    }
}

const fn published(product: Product, role: Role) -> &'static [u8] {
    match (product, role) {
        (Product::Genoa, Role::Ark) => include_bytes!("keys/ark-genoa.der"),
        (Product::Genoa, Role::Ask) => include_bytes!("keys/ask-genoa.der"),
        (Product::Genoa, Role::Asvk) => include_bytes!("keys/asvk-genoa.der"),
        (Product::Milan, Role::Ark) => include_bytes!("keys/ark-milan.der"),
        (Product::Milan, Role::Ask) => include_bytes!("keys/ask-milan.der"),
        (Product::Milan, Role::Asvk) => include_bytes!("keys/asvk-milan.der"),
        (Product::Turin, Role::Ark) => include_bytes!("keys/ark-turin.der"),
        (Product::Turin, Role::Ask) => include_bytes!("keys/ask-turin.der"),
        (Product::Turin, Role::Asvk) => include_bytes!("keys/asvk-turin.der"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 3] = [Role::Ark, Role::Ask, Role::Asvk];

    #[test]
    fn the_published_certificates_are_what_the_code_mints() {
        for product in Product::ALL {
            let vendor = SimulatedVendor::new(product);
            for role in ROLES {
                let der = vendor.certificate(role);
                let (rest, published) = X509Certificate::from_der(&der).unwrap();
                assert!(rest.is_empty());
                assert_eq!(published.tbs_certificate.as_ref(), vendor.unsigned(role), "{product:?} {role:?}");
            }
        }
    }

    #[test]
    fn an_impostor_has_the_names_and_other_keys() {
        let (genuine, impostor) = (SimulatedVendor::new(Product::Genoa), SimulatedVendor::impostor(Product::Genoa));
        assert_ne!(genuine.root_spki(), impostor.root_spki());
        let (genuine, impostor) = (genuine.certificate(Role::Ask), impostor.certificate(Role::Ask));
        let names = |der: &[u8]| {
            let (_, certificate) = X509Certificate::from_der(der).unwrap();
            (certificate.subject().to_string(), certificate.issuer().to_string())
        };
        assert_eq!(names(&genuine), names(&impostor));
    }

    #[test]
    #[ignore = "writes src/attester/simulator/keys/*.der"]
    fn mint_the_published_certificates() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/attester/simulator/keys");
        for product in Product::ALL {
            let vendor = SimulatedVendor::new(product);
            for role in ROLES {
                let certificate = der::signed(vendor.key(Role::Ark), Trailer::Explicit, &vendor.unsigned(role));
                std::fs::write(folder.join(format!("{}-{}.der", role.name(), product.name())), certificate).unwrap();
            }
        }
    }
}
