//! Google's confidential machines: the evidence of their hardware, with a quote of the cloud's vTPM beside it over the same
//! challenge. The vTPM's memory holds the template of its attestation key and the certificate that Google made for it.

use tracing::warn;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::tpm::{DEVICE, ENDORSEMENT, Tpm};
use super::{Attester, Detected, Places, Quote, Unavailable};
use crate::evidence::tpm::{Extras, Hash, MEDIA_TYPE, Member};
use crate::evidence::{Auxiliary, Challenge};

/// The name under which configuration knows this way.
pub(super) const PROVIDER: &str = "google-vtpm";

/// An attestation key's NV indexes: its certificate and its template.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Indexes {
    /// The certificate, DER; zeros may follow.
    pub certificate: u32,
    /// The template, a TPMT_PUBLIC.
    pub template: u32,
}

/// The P-256 key: its quotes are the shortest.
pub const ECC: Indexes = Indexes { certificate: 0x01c1_0002, template: 0x01c1_0003 };
/// The RSA key, which older machines have alone.
pub const RSA: Indexes = Indexes { certificate: 0x01c1_0000, template: 0x01c1_0001 };

/// The vTPM of one of Google's machines, its attestation key loaded.
#[derive(Debug)]
pub struct GoogleVtpm {
    tpm: Tpm,
    key: u32,
    certificate: Vec<u8>,
}

impl GoogleVtpm {
    /// The vTPM at hand. Makes the key from its template anew, which gives the same key each time, and loads it.
    ///
    /// # Errors
    /// What stands in the way: no TPM, one that is not Google's, or a key that is not the certificate's.
    pub fn open(places: &Places) -> Result<Self, Unavailable> {
        let tpm = Tpm::open(&places.of(DEVICE))?;
        let mut why = None;
        for indexes in [ECC, RSA] {
            match tpm.nv(indexes.certificate).and_then(|content| Ok((content, tpm.nv(indexes.template)?))) {
                Ok((content, template)) => return Self::with(tpm, &content, &template),
                Err(unavailable) => why = Some(unavailable),
            }
        }
        let why = why.map_or_else(String::new, |unavailable| unavailable.why);
        Err(unfit(places, &format!("its memory has no certificate of an attestation key: {why}")))
    }

    fn with(tpm: Tpm, content: &[u8], template: &[u8]) -> Result<Self, Unavailable> {
        let certificate = whole(content).ok_or_else(|| broken("its memory holds no certificate where Google puts one"))?;
        let key = tpm.create_primary(ENDORSEMENT, template)?;
        let vtpm = Self { tpm, key, certificate };
        let public = vtpm.tpm.public(key)?;
        if !is_of(&vtpm.certificate, &public) {
            return Err(broken("the key of its template is not the one that its certificate is of"));
        }
        Ok(vtpm)
    }

    /// A quote over the challenge, as a member of evidence.
    ///
    /// # Errors
    /// As [`Tpm::quote`].
    pub fn quote(&self, challenge: &Challenge) -> Result<Auxiliary, Unavailable> {
        let quoted = self.tpm.quote(self.key, &challenge.short, Hash::Sha256)?;
        let extras = Extras { certificates: vec![self.certificate.clone()], log: None };
        let bytes = Member::encode(&quoted.attest, &quoted.signature, &quoted.pcrs, &extras);
        Ok(Auxiliary { label: "vtpm".to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes })
    }

    /// Says where the certificate of the issuer is: verifiers need it, and the vTPM has it not.
    fn tell_issuer(&self) {
        if let Some(address) = issuer(&self.certificate) {
            warn!(
                address,
                "verifiers need the certificate of the vTPM key's issuer: put it into the folder of identity.endorsements as vtpm_ca.der, if it is not there"
            );
        }
    }
}

impl Drop for GoogleVtpm {
    fn drop(&mut self) {
        // A device forgets it with the last of its openers; a socket would keep it.
        let _ = self.tpm.flush(self.key);
    }
}

/// Evidence of the hardware with the vTPM's quote beside it.
pub(super) struct WithVtpm {
    inner: Box<dyn Attester>,
    vtpm: GoogleVtpm,
}

/// Adds the hardware's own way with the vTPM's quote beside it: in front of the others where it works, for it says more; else
/// behind them, for most machines are not Google's. The vTPM is looked at first: on another machine nothing is asked of the
/// hardware.
pub(super) fn beside(mut others: Vec<Detected>, places: &Places, hardware: impl FnOnce() -> Result<Box<dyn Attester>, Unavailable>) -> Vec<Detected> {
    let vtpm = GoogleVtpm::open(places);
    let outcome = vtpm.and_then(|vtpm| Ok(WithVtpm { inner: hardware()?, vtpm })).map(|both| {
        both.vtpm.tell_issuer();
        Box::new(both) as Box<dyn Attester>
    });
    let place = if outcome.is_ok() { 0 } else { others.len() };
    others.insert(place, Detected { provider: PROVIDER, outcome });
    others
}

impl Attester for WithVtpm {
    fn platform(&self) -> &'static str {
        self.inner.platform()
    }

    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let mut quote = self.inner.attest(challenge)?;
        quote.evidence.auxiliary.push(self.vtpm.quote(challenge)?);
        Ok(quote)
    }

    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        self.inner.listed()
    }
}

/// The certificate at the front of an NV index, which is longer.
fn whole(content: &[u8]) -> Option<Vec<u8>> {
    let (rest, _) = X509Certificate::from_der(content).ok()?;
    content.get(..content.len().checked_sub(rest.len())?).map(<[u8]>::to_vec)
}

/// Whether a certificate is of the key with this public area (TPMT_PUBLIC), which ends in the key itself.
fn is_of(certificate: &[u8], public: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let sized = |octets: &[u8]| [&u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes(), octets].concat();
    let unique = match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => sized(key.modulus.iter().skip_while(|octet| **octet == 0).copied().collect::<Vec<_>>().as_slice()),
        Ok(PublicKey::EC(point)) => match point.data().split_first() {
            Some((4, coordinates)) => {
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                [sized(x), sized(y)].concat()
            }
            _ => return false,
        },
        _ => return false,
    };
    public.ends_with(&unique)
}

/// Where a certificate says that its issuer's is.
fn issuer(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => access.accessdescs.iter().find_map(|described| match described.access_location {
            GeneralName::URI(address) if described.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS => Some(address.to_owned()),
            _ => None,
        }),
        _ => None,
    })
}

fn unfit(places: &Places, why: &str) -> Unavailable {
    let fix = "this is no confidential machine of Google's: nothing is wrong if it is another cloud's".to_owned();
    Unavailable { what: format!("{PROVIDER} at {}", places.of(DEVICE).display()), why: why.to_owned(), fix, transient: false }
}

fn broken(why: &str) -> Unavailable {
    let fix = "the vTPM is not as Google makes it: replace the machine, or name another provider".to_owned();
    Unavailable { what: PROVIDER.to_owned(), why: why.to_owned(), fix, transient: false }
}
