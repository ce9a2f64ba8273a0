//! The vendor's revocation list (X.509 CRL version 2), with every part settable.

use yasna::{Tag, construct_der};

use super::certificate::Trailer;
use super::der::{self, Criticality};
use crate::evidence::Timestamp;

/// What a revocation list says.
#[derive(Clone, Debug)]
pub struct RevocationList {
    /// `thisUpdate`.
    pub this_update: Timestamp,
    /// `nextUpdate`; `None` leaves it out.
    pub next_update: Option<Timestamp>,
    /// `cRLNumber`.
    pub number: u64,
    /// The serial numbers of revoked certificates, with the moment of revocation.
    pub revoked: Vec<(u64, Timestamp)>,
}

impl RevocationList {
    /// The list of a quiet vendor at `now`: a day old, good for 30 more, nothing revoked.
    #[must_use]
    pub const fn at(now: Timestamp) -> Self {
        const DAY: u64 = 86_400;
        Self { this_update: now.minus(DAY), next_update: Some(now.plus(30 * DAY)), number: 1, revoked: Vec::new() }
    }

    /// The body that `issuer` signs with the key of this identifier.
    pub(super) fn unsigned(&self, issuer: &str, key_identifier: &[u8]) -> Vec<u8> {
        construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_u8(1); // version 2
                der::pss_sha384(writer.next(), Trailer::Explicit);
                der::name(writer.next(), issuer);
                der::moment(writer.next(), self.this_update);
                if let Some(next_update) = self.next_update {
                    der::moment(writer.next(), next_update);
                }
                // An empty list of revoked certificates is left out (RFC 5280, 5.1.2.6).
                if !self.revoked.is_empty() {
                    writer.next().write_sequence(|writer| {
                        for (serial, when) in &self.revoked {
                            writer.next().write_sequence(|writer| {
                                der::integer(writer.next(), &serial.to_be_bytes());
                                der::moment(writer.next(), *when);
                            });
                        }
                    });
                }
                writer.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_sequence(|writer| {
                        der::extension(writer, &[2, 5, 29, 35], Criticality::Ordinary, &der::authority_key_identifier(key_identifier));
                        der::extension(writer, &[2, 5, 29, 20], Criticality::Ordinary, &construct_der(|writer| writer.write_u64(self.number)));
                    });
                });
            });
        })
    }
}
