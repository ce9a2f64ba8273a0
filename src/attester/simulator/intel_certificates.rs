//! Intel's certificates and revocation lists, and the keys under them. All keys are derived from published text.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::encoding::{AsBigEndian as _, EcPublicKeyUncompressedBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _};
use yasna::{DERWriter, Tag, construct_der};

use super::der::{self, Criticality};
use crate::crypto::sha256;
use crate::evidence::Timestamp;

const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10_045, 4, 3, 2];
const SGX_EXTENSIONS: &[u64] = &[1, 2, 840, 113_741, 1, 13, 1];
/// 2018-05-21, the day of the real root.
const FIRST_DAY: Timestamp = Timestamp(1_526_860_800);
/// 2049-12-31T23:59:59Z, the last of the real root.
const LAST_DAY: Timestamp = Timestamp(2_524_607_999);

/// A P-256 key that follows from text.
pub(super) struct Key {
    scalar: [u8; 32],
    public: Vec<u8>,
}

impl Key {
    pub(super) fn derive(origin: &[&[u8]]) -> Self {
        let mut parts = vec![b"portcullis simulator: Intel".as_slice()];
        parts.extend(origin);
        let mut scalar = sha256(&parts);
        loop {
            // Zero and numbers from the group's order upwards are not keys; if one turns up, take the next.
            if let Some(public) = public_of(&scalar) {
                return Self { scalar, public };
            }
            scalar = sha256(&[&scalar]);
        }
    }

    /// The key as an uncompressed point, 65 octets.
    pub(super) fn point(&self) -> &[u8] {
        &self.public
    }

    /// `r ‖ s`.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signature(&ECDSA_P256_SHA256_FIXED_SIGNING, message).try_into().expect("r and s of P-256 have 32 octets each")
    }

    fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        self.signature(&ECDSA_P256_SHA256_ASN1_SIGNING, message)
    }

    fn signature(&self, algorithm: &'static EcdsaSigningAlgorithm, message: &[u8]) -> Vec<u8> {
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &self.scalar, &self.public).expect("a derived key can be read");
        debug_assert_eq!(pair.public_key().as_ref(), self.public);
        pair.sign(&SystemRandom::new(), message).expect("a derived key can sign").as_ref().to_vec()
    }

    fn spki(&self) -> Vec<u8> {
        construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    der::oid(writer.next(), &[1, 2, 840, 10_045, 2, 1]);
                    der::oid(writer.next(), &[1, 2, 840, 10_045, 3, 1, 7]);
                });
                der::bits(writer.next(), &self.public);
            });
        })
    }
}

fn public_of(scalar: &[u8; 32]) -> Option<Vec<u8>> {
    let private = PrivateKey::from_private_key(&ECDH_P256, scalar).ok()?;
    let public: EcPublicKeyUncompressedBin<'_> = private.compute_public_key().ok()?.as_be_bytes().ok()?;
    Some(public.as_ref().to_vec())
}

/// A certificate authority with Intel's names: root, the PCK's intermediate, the signer of collateral.
#[derive(Clone, Copy, Debug)]
pub struct IntelCa {
    /// Part of what its keys are derived from.
    keys: &'static str,
}

impl IntelCa {
    /// The authority whose root is published.
    #[must_use]
    pub const fn new() -> Self {
        Self { keys: "published" }
    }

    /// One of the same names under other keys, which no policy trusts.
    #[must_use]
    pub const fn impostor() -> Self {
        Self { keys: "impostor" }
    }

    /// The root's DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn root_spki(&self) -> Vec<u8> {
        self.key(Role::Root).spki()
    }

    /// The root's certificate.
    #[must_use]
    pub fn root(&self) -> Vec<u8> {
        self.authority(Role::Root, Role::Root)
    }

    /// The intermediate's certificate, which signs PCK certificates.
    #[must_use]
    pub fn intermediate(&self) -> Vec<u8> {
        self.authority(Role::Intermediate, Role::Root)
    }

    /// The certificate of the signer of collateral.
    #[must_use]
    pub fn signer(&self) -> Vec<u8> {
        self.authority(Role::Signer, Role::Root)
    }

    /// The serial numbers of intermediate and signer: what the root's revocation list may name.
    #[must_use]
    pub const fn serials(&self) -> (u64, u64) {
        (Role::Intermediate.serial(), Role::Signer.serial())
    }

    /// The chain of collateral in PEM: signer, root.
    #[must_use]
    pub fn signer_chain(&self) -> Vec<u8> {
        pem(&[self.signer(), self.root()])
    }

    /// The chain of PCK certificates' revocation list in PEM: intermediate, root.
    #[must_use]
    pub fn intermediate_chain(&self) -> Vec<u8> {
        pem(&[self.intermediate(), self.root()])
    }

    /// The chain of a PCK certificate in PEM: leaf, intermediate, root.
    #[must_use]
    pub fn pck_chain(&self, pck: &PckCertificate, point: &[u8]) -> Vec<u8> {
        pem(&[self.pck(pck, point), self.intermediate(), self.root()])
    }

    /// Signs collateral.
    pub(super) fn seal(&self, message: &[u8]) -> [u8; 64] {
        self.key(Role::Signer).sign(message)
    }

    /// The root's revocation list.
    #[must_use]
    pub fn root_crl(&self, list: &CrlList) -> Vec<u8> {
        self.crl(Role::Root, list)
    }

    /// The intermediate's revocation list.
    #[must_use]
    pub fn pck_crl(&self, list: &CrlList) -> Vec<u8> {
        self.crl(Role::Intermediate, list)
    }

    fn key(&self, role: Role) -> Key {
        Key::derive(&[self.keys.as_bytes(), role.common_name().as_bytes()])
    }

    fn pck(&self, pck: &PckCertificate, point: &[u8]) -> Vec<u8> {
        let extension = pck.extension();
        self.certificate(
            &Subject { common_name: "Intel SGX PCK Certificate", point, serial: pck.serial, from: pck.not_before, until: pck.not_after },
            Role::Intermediate,
            &[(&[2, 5, 29, 19], Criticality::Critical, constraints(false)), (SGX_EXTENSIONS, Criticality::Ordinary, extension)],
        )
    }

    fn authority(&self, role: Role, issuer: Role) -> Vec<u8> {
        let key = self.key(role);
        // keyCertSign and cRLSign of authorities; digitalSignature and nonRepudiation of the signer.
        let usage = if role == Role::Signer { ([0b1100_0000], 2) } else { ([0b0000_0110], 7) };
        self.certificate(
            &Subject { common_name: role.common_name(), point: key.point(), serial: role.serial(), from: FIRST_DAY, until: LAST_DAY },
            issuer,
            &[
                (&[2, 5, 29, 14], Criticality::Ordinary, construct_der(|writer| writer.write_bytes(&der::key_identifier(key.point())))),
                (&[2, 5, 29, 15], Criticality::Critical, construct_der(|writer| writer.write_bitvec_bytes(&usage.0, usage.1))),
                (&[2, 5, 29, 19], Criticality::Critical, constraints(role != Role::Signer)),
            ],
        )
    }

    fn certificate(&self, subject: &Subject<'_>, issuer: Role, extensions: &[(&[u64], Criticality, Vec<u8>)]) -> Vec<u8> {
        let key = self.key(issuer);
        let spki = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    der::oid(writer.next(), &[1, 2, 840, 10_045, 2, 1]);
                    der::oid(writer.next(), &[1, 2, 840, 10_045, 3, 1, 7]);
                });
                der::bits(writer.next(), subject.point);
            });
        });
        let body = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                writer.next().write_u64(subject.serial);
                algorithm(writer.next());
                name(writer.next(), issuer.common_name());
                writer.next().write_sequence(|writer| {
                    der::moment(writer.next(), subject.from);
                    der::moment(writer.next(), subject.until);
                });
                name(writer.next(), subject.common_name);
                writer.next().write_der(&spki);
                writer.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|writer| {
                        let authority = der::authority_key_identifier(&der::key_identifier(key.point()));
                        der::extension(writer, &[2, 5, 29, 35], Criticality::Ordinary, &authority);
                        for (arcs, criticality, value) in extensions {
                            der::extension(writer, arcs, *criticality, value);
                        }
                    });
                });
            });
        });
        signed(&key, &body)
    }

    fn crl(&self, issuer: Role, list: &CrlList) -> Vec<u8> {
        let key = self.key(issuer);
        let body = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_u8(1);
                algorithm(writer.next());
                name(writer.next(), issuer.common_name());
                der::moment(writer.next(), list.this_update);
                der::moment(writer.next(), list.next_update);
                if !list.revoked.is_empty() {
                    writer.next().write_sequence(|writer| {
                        for serial in &list.revoked {
                            writer.next().write_sequence(|writer| {
                                writer.next().write_u64(*serial);
                                der::moment(writer.next(), list.this_update);
                            });
                        }
                    });
                }
                writer.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_sequence(|writer| {
                        let authority = der::authority_key_identifier(&der::key_identifier(key.point()));
                        der::extension(writer, &[2, 5, 29, 35], Criticality::Ordinary, &authority);
                        der::extension(writer, &[2, 5, 29, 20], Criticality::Ordinary, &construct_der(|writer| writer.write_u8(1)));
                    });
                });
            });
        });
        signed(&key, &body)
    }
}

impl Default for IntelCa {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Intermediate,
    Root,
    Signer,
}

impl Role {
    const fn common_name(self) -> &'static str {
        match self {
            Self::Intermediate => "Intel SGX PCK Platform CA",
            Self::Root => "Intel SGX Root CA",
            Self::Signer => "Intel SGX TCB Signing",
        }
    }

    const fn serial(self) -> u64 {
        match self {
            Self::Intermediate => 0x5101,
            Self::Root => 0x5100,
            Self::Signer => 0x5102,
        }
    }
}

struct Subject<'a> {
    common_name: &'a str,
    point: &'a [u8],
    serial: u64,
    from: Timestamp,
    until: Timestamp,
}

/// A revocation list.
#[derive(Clone, Debug)]
pub struct CrlList {
    /// `thisUpdate`.
    pub this_update: Timestamp,
    /// `nextUpdate`.
    pub next_update: Timestamp,
    /// The serial numbers of revoked certificates.
    pub revoked: Vec<u64>,
}

/// What a PCK certificate says.
#[derive(Clone, Debug)]
pub struct PckCertificate {
    /// Its serial number: what the intermediate's revocation list may name.
    pub serial: u64,
    /// PPID.
    pub ppid: [u8; 16],
    /// The components' security versions.
    pub components: [u8; 16],
    /// PCESVN.
    pub pce_svn: u16,
    /// PCE-ID.
    pub pce_id: [u8; 2],
    /// FMSPC.
    pub fmspc: [u8; 6],
    /// First moment of validity.
    pub not_before: Timestamp,
    /// Last moment of validity.
    pub not_after: Timestamp,
}

impl PckCertificate {
    fn extension(&self) -> Vec<u8> {
        let arcs = |rest: &[u64]| [SGX_EXTENSIONS, rest].concat();
        construct_der(|writer| {
            writer.write_sequence(|writer| {
                pair(writer.next(), &arcs(&[1]), |writer| writer.write_bytes(&self.ppid));
                pair(writer.next(), &arcs(&[2]), |writer| {
                    writer.write_sequence(|writer| {
                        for (component, arc) in self.components.iter().zip(1..) {
                            pair(writer.next(), &arcs(&[2, arc]), |writer| writer.write_u8(*component));
                        }
                        pair(writer.next(), &arcs(&[2, 17]), |writer| writer.write_u16(self.pce_svn));
                        pair(writer.next(), &arcs(&[2, 18]), |writer| writer.write_bytes(&self.components));
                    });
                });
                pair(writer.next(), &arcs(&[3]), |writer| writer.write_bytes(&self.pce_id));
                pair(writer.next(), &arcs(&[4]), |writer| writer.write_bytes(&self.fmspc));
                pair(writer.next(), &arcs(&[5]), |writer| writer.write_enum(1)); // scalable
                pair(writer.next(), &arcs(&[6]), |writer| writer.write_bytes(&self.ppid));
                pair(writer.next(), &arcs(&[7]), |writer| {
                    writer.write_sequence(|writer| {
                        for arc in 1..=3 {
                            pair(writer.next(), &arcs(&[7, arc]), |writer| writer.write_bool(false));
                        }
                    });
                });
            });
        })
    }
}

fn pair(writer: DERWriter<'_>, arcs: &[u64], value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|writer| {
        der::oid(writer.next(), arcs);
        value(writer.next());
    });
}

fn constraints(authority: bool) -> Vec<u8> {
    construct_der(|writer| {
        writer.write_sequence(|writer| {
            if authority {
                writer.next().write_bool(true);
            }
        });
    })
}

fn algorithm(writer: DERWriter<'_>) {
    writer.write_sequence(|writer| der::oid(writer.next(), ECDSA_WITH_SHA256));
}

/// Intel's name with this common name, its parts in Intel's order.
fn name(writer: DERWriter<'_>, common_name: &str) {
    let parts = [(3, common_name), (10, "Intel Corporation"), (7, "Santa Clara"), (8, "CA"), (6, "US")];
    writer.write_sequence(|writer| {
        for (arc, value) in parts {
            writer.next().write_set(|writer| {
                writer.next().write_sequence(|writer| {
                    der::oid(writer.next(), &[2, 5, 4, arc]);
                    if arc == 6 { writer.next().write_printable_string(value) } else { writer.next().write_utf8_string(value) }
                });
            });
        }
    });
}

fn signed(key: &Key, body: &[u8]) -> Vec<u8> {
    let signature = key.sign_der(body);
    construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(body);
            algorithm(writer.next());
            der::bits(writer.next(), &signature);
        });
    })
}

fn pem(certificates: &[Vec<u8>]) -> Vec<u8> {
    let mut out = String::new();
    for der in certificates {
        let digits = data_encoding::BASE64.encode(der);
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in digits.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out.into_bytes()
}
