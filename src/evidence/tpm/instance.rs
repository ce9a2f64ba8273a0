//! Which machine of Google's a vTPM's attestation key belongs to, as its certificate says (extension
//! 1.3.6.1.4.1.11129.2.1.21, "GceInstanceIdentity"):
//!
//! ```text
//! SEQUENCE { zone UTF8String, project number INTEGER, project id UTF8String, instance id INTEGER, name UTF8String, … }
//! ```

use x509_parser::der_parser::ber::BerObjectContent;
use x509_parser::der_parser::der::parse_der_sequence;
use x509_parser::der_parser::{Oid, oid};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::refusal::{Denied, Finding, Reason};

/// An instance.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Instance {
    /// The zone.
    pub zone: String,
    /// The project's number.
    pub project_number: u64,
    /// The project's name.
    pub project_id: String,
    /// The instance's number.
    pub id: u64,
    /// The instance's name.
    pub name: String,
}

const EXTENSION: Oid<'_> = oid!(1.3.6.1.4.1.11129.2.1.21);
/// A certificate longer than this is not read.
const MAX_CERTIFICATE: usize = 8 * 1024;

impl Instance {
    /// The instance that a certificate names. Read, not believed.
    ///
    /// # Errors
    /// `chain_untrusted` when it is no certificate or does not name one.
    pub fn of_certificate(der: &[u8]) -> Result<Self, Denied> {
        let none = || Denied::from(Finding::new(Reason::ChainUntrusted, "vtpm.ak_certificate", "a certificate that names its instance", "another"));
        if der.len() > MAX_CERTIFICATE {
            return Err(none());
        }
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| none())?;
        let extension = certificate.get_extension_unique(&EXTENSION).ok().flatten().ok_or_else(none)?;
        Self::parse(extension.value).ok_or_else(none)
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (rest, sequence) = parse_der_sequence(value).ok()?;
        let [zone, project_number, project_id, id, name, ..] = sequence.as_sequence().ok()?.as_slice() else { return None };
        if !rest.is_empty() {
            return None;
        }
        let text = |content: &BerObjectContent<'_>| match content {
            BerObjectContent::UTF8String(text) => Some((*text).to_owned()),
            _ => None,
        };
        Some(Self {
            zone: text(&zone.content)?,
            project_number: project_number.as_u64().ok()?,
            project_id: text(&project_id.content)?,
            id: id.as_u64().ok()?,
            name: text(&name.content)?,
        })
    }
}
