//! Certificates and revocation lists signed by elliptic keys (X.509 versions 3 and 2).

use yasna::{Tag, construct_der};

use super::der::{self, Criticality};
use super::elliptic::EcKey;
use crate::evidence::Timestamp;

/// A distinguished name: the last arc of 2.5.4 and the value, in order.
pub(super) type Name = Vec<(u64, String)>;

/// A certificate to be signed.
pub(super) struct Certificate<'a> {
    pub(super) serial: Vec<u8>,
    pub(super) issuer: &'a Name,
    pub(super) subject: &'a Name,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// The certified key: DER SubjectPublicKeyInfo.
    pub(super) spki: Vec<u8>,
    /// Arcs, whether critical, and the DER value.
    pub(super) extensions: Vec<(&'static [u64], Criticality, Vec<u8>)>,
}

impl Certificate<'_> {
    /// The certificate, DER.
    pub(super) fn signed(&self, key: &EcKey) -> Vec<u8> {
        let body = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                der::integer(writer.next(), &self.serial);
                writer.next().write_sequence(|writer| der::oid(writer.next(), key.algorithm()));
                name(writer.next(), self.issuer);
                writer.next().write_sequence(|writer| {
                    der::moment(writer.next(), self.not_before);
                    der::moment(writer.next(), self.not_after);
                });
                name(writer.next(), self.subject);
                writer.next().write_der(&self.spki);
                writer.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|writer| {
                        for (arcs, criticality, value) in &self.extensions {
                            der::extension(writer, arcs, *criticality, value);
                        }
                    });
                });
            });
        });
        envelope(key, &body)
    }
}

/// An extension: its identifier, whether it must be understood, its value.
pub(super) type Extension = (&'static [u64], Criticality, Vec<u8>);

/// A revocation list, DER: current from `this_update` to `next_update`, naming these serial numbers, with further extensions.
pub(super) fn revocation_list(key: &EcKey, issuer: &Name, [this_update, next_update]: [Timestamp; 2], revoked: &[Vec<u8>], further: &[Extension]) -> Vec<u8> {
    let body = construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(1); // version 2
            writer.next().write_sequence(|writer| der::oid(writer.next(), key.algorithm()));
            name(writer.next(), issuer);
            der::moment(writer.next(), this_update);
            der::moment(writer.next(), next_update);
            // An empty list of revoked certificates is left out (RFC 5280, 5.1.2.6).
            if !revoked.is_empty() {
                writer.next().write_sequence(|writer| {
                    for serial in revoked {
                        writer.next().write_sequence(|writer| {
                            der::integer(writer.next(), serial);
                            der::moment(writer.next(), this_update);
                        });
                    }
                });
            }
            writer.next().write_tagged(Tag::context(0), |writer| {
                writer.write_sequence(|writer| {
                    let identifier = der::authority_key_identifier(&der::key_identifier(key.point()));
                    der::extension(writer, &[2, 5, 29, 35], Criticality::Ordinary, &identifier);
                    der::extension(writer, &[2, 5, 29, 20], Criticality::Ordinary, &construct_der(|writer| writer.write_u64(1)));
                    for (arcs, criticality, value) in further {
                        der::extension(writer, arcs, *criticality, value);
                    }
                });
            });
        });
    });
    envelope(key, &body)
}

/// basicConstraints, critical.
pub(super) fn authority(path_length: Option<u8>) -> (&'static [u64], Criticality, Vec<u8>) {
    let value = construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_bool(true);
            if let Some(length) = path_length {
                writer.next().write_u8(length);
            }
        });
    });
    (&[2, 5, 29, 19], Criticality::Critical, value)
}

/// basicConstraints of what is no authority, critical.
pub(super) fn end_entity() -> (&'static [u64], Criticality, Vec<u8>) {
    (&[2, 5, 29, 19], Criticality::Critical, construct_der(|writer| writer.write_sequence(|_| {})))
}

/// keyUsage by the octet of its first eight bits, from the left.
pub(super) fn key_usage(criticality: Criticality, octet: u8) -> (&'static [u64], Criticality, Vec<u8>) {
    let unused = octet.trailing_zeros().min(7).to_be_bytes()[3];
    (&[2, 5, 29, 15], criticality, vec![3, 2, unused, octet])
}

/// subjectKeyIdentifier of the certified key.
pub(super) fn subject_key(key: &EcKey) -> (&'static [u64], Criticality, Vec<u8>) {
    (&[2, 5, 29, 14], Criticality::Ordinary, construct_der(|writer| writer.write_bytes(&der::key_identifier(key.point()))))
}

/// authorityKeyIdentifier of the key that signs.
pub(super) fn authority_key(key: &EcKey) -> (&'static [u64], Criticality, Vec<u8>) {
    (&[2, 5, 29, 35], Criticality::Ordinary, der::authority_key_identifier(&der::key_identifier(key.point())))
}

/// cRLDistributionPoints with one address.
pub(super) fn list_at(address: &str) -> (&'static [u64], Criticality, Vec<u8>) {
    let value = construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_tagged_implicit(Tag::context(0), |writer| {
                        writer.write_sequence(|writer| {
                            writer.next().write_tagged_implicit(Tag::context(6), |writer| writer.write_ia5_string(address));
                        });
                    });
                });
            });
        });
    });
    (&[2, 5, 29, 31], Criticality::Ordinary, value)
}

/// A name's DER.
pub(super) fn encoded(of: &Name) -> Vec<u8> {
    construct_der(|writer| name(writer, of))
}

/// issuingDistributionPoint with one address, critical.
pub(super) fn issued_at(address: &str) -> (&'static [u64], Criticality, Vec<u8>) {
    let value = construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_tagged(Tag::context(0), |writer| {
                writer.write_tagged_implicit(Tag::context(0), |writer| {
                    writer.write_sequence(|writer| {
                        writer.next().write_tagged_implicit(Tag::context(6), |writer| writer.write_ia5_string(address));
                    });
                });
            });
        });
    });
    (&[2, 5, 29, 28], Criticality::Critical, value)
}

fn envelope(key: &EcKey, body: &[u8]) -> Vec<u8> {
    construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(body);
            writer.next().write_sequence(|writer| der::oid(writer.next(), key.algorithm()));
            der::bits(writer.next(), &key.sign_der(body));
        });
    })
}

fn name(writer: yasna::DERWriter<'_>, name: &Name) {
    writer.write_sequence(|writer| {
        for (arc, value) in name {
            writer.next().write_set(|writer| {
                writer.next().write_sequence(|writer| {
                    der::oid(writer.next(), &[2, 5, 4, *arc]);
                    // serialNumber and countryName are PrintableStrings by their definitions.
                    if [5, 6].contains(arc) { writer.next().write_printable_string(value) } else { writer.next().write_utf8_string(value) }
                });
            });
        }
    });
}
