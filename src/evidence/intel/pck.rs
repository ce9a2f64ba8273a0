//! The certificate of the key that signs quoting enclaves (PCK), and the PEM chains that Intel's certificates come in.

use x509_parser::der_parser::der::{DerObject, parse_der_sequence};
use x509_parser::der_parser::{Oid, oid};
use x509_parser::prelude::X509Certificate;

use crate::evidence::Timestamp;
use crate::refusal::{Denied, Finding, Reason};

/// A chain has three certificates: leaf, intermediate, root.
const MAX_CERTIFICATES: usize = 4;

/// What a PCK certificate says about its machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pck {
    /// PPID: the platform's identifier.
    pub ppid: [u8; 16],
    /// SGX TCB component security versions 1 to 16.
    pub components: [u8; 16],
    /// PCESVN.
    pub pce_svn: u16,
    /// CPUSVN.
    pub cpu_svn: [u8; 16],
    /// PCE-ID.
    pub pce_id: [u8; 2],
    /// FMSPC: family, model, stepping, platform type and custom SKU.
    pub fmspc: [u8; 6],
    /// Platform Instance ID: of platforms that a multi-package CA certified.
    pub instance_id: Option<[u8; 16]>,
    /// The issuer's common name: `Intel SGX PCK Platform CA` or `Intel SGX PCK Processor CA`.
    pub issuer: String,
    /// First moment of validity.
    pub not_before: Timestamp,
    /// Last moment of validity.
    pub not_after: Timestamp,
}

const EXTENSIONS: Oid<'_> = oid!(1.2.840.113741.1.13.1);
const PPID: Oid<'_> = oid!(1.2.840.113741.1.13.1.1);
const TCB: Oid<'_> = oid!(1.2.840.113741.1.13.1.2);
const PCE_ID: Oid<'_> = oid!(1.2.840.113741.1.13.1.3);
const FMSPC: Oid<'_> = oid!(1.2.840.113741.1.13.1.4);
const INSTANCE_ID: Oid<'_> = oid!(1.2.840.113741.1.13.1.6);
/// The last arcs below [`TCB`] of PCESVN and CPUSVN; 1 to 16 are the components.
const PCE_SVN_ARC: u64 = 17;
const CPU_SVN_ARC: u64 = 18;

impl Pck {
    /// Reads the SGX extensions of a certificate: each that matters exactly once.
    ///
    /// # Errors
    /// `chain_untrusted` when one is absent, there twice, or of another form.
    pub fn of(certificate: &X509Certificate<'_>) -> Result<Self, Denied> {
        let mut found = certificate.extensions().iter().filter(|extension| extension.oid == EXTENSIONS);
        let (Some(extension), None) = (found.next(), found.next()) else {
            return Err(unreadable("the SGX extensions, once"));
        };
        let parts = pairs_of(extension.value).ok_or_else(|| unreadable("SGX extensions as the profile has them"))?;
        let tcb = once(&parts, &TCB).and_then(pairs).ok_or_else(|| unreadable("TCB, once"))?;
        let moment = |at: i64| Timestamp(u64::try_from(at).unwrap_or(0));
        let issuer = certificate.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Self {
            ppid: octets(once(&parts, &PPID)).ok_or_else(|| unreadable("PPID, 16 octets, once"))?,
            components: components(&tcb).ok_or_else(|| unreadable("TCB components 1 to 16, each once and one octet"))?,
            pce_svn: arc(&tcb, PCE_SVN_ARC).and_then(number).ok_or_else(|| unreadable("PCESVN, once"))?,
            cpu_svn: octets(arc(&tcb, CPU_SVN_ARC)).ok_or_else(|| unreadable("CPUSVN, 16 octets, once"))?,
            pce_id: octets(once(&parts, &PCE_ID)).ok_or_else(|| unreadable("PCE-ID, 2 octets, once"))?,
            fmspc: octets(once(&parts, &FMSPC)).ok_or_else(|| unreadable("FMSPC, 6 octets, once"))?,
            instance_id: octets(once(&parts, &INSTANCE_ID)),
            issuer: issuer.unwrap_or_default().to_owned(),
            not_before: moment(certificate.validity().not_before.timestamp()),
            not_after: moment(certificate.validity().not_after.timestamp()),
        })
    }
}

type Pair<'a> = (Oid<'a>, DerObject<'a>);

fn pairs_of(der: &[u8]) -> Option<Vec<Pair<'_>>> {
    match parse_der_sequence(der) {
        Ok((&[], sequence)) => pairs(&sequence),
        _ => None,
    }
}

/// SEQUENCE OF SEQUENCE { identifier, value }.
fn pairs<'a>(object: &DerObject<'a>) -> Option<Vec<Pair<'a>>> {
    let pair = |object: &DerObject<'a>| match object.as_sequence().ok()?.as_slice() {
        [name, value] => Some((name.as_oid().ok()?.clone(), value.clone())),
        _ => None,
    };
    object.as_sequence().ok()?.iter().map(pair).collect()
}

fn once<'p, 'a>(pairs: &'p [Pair<'a>], name: &Oid<'_>) -> Option<&'p DerObject<'a>> {
    let mut found = pairs.iter().filter(|(known, _)| known == name);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Some(value),
        _ => None,
    }
}

/// The value below [`TCB`] with this last arc.
fn arc<'p, 'a>(tcb: &'p [Pair<'a>], last: u64) -> Option<&'p DerObject<'a>> {
    let wanted = [1, 2, 840, 113_741, 1, 13, 1, 2, last];
    let mut found = tcb.iter().filter(|(name, _)| name.iter().is_some_and(|arcs| arcs.eq(wanted)));
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Some(value),
        _ => None,
    }
}

fn components(tcb: &[Pair<'_>]) -> Option<[u8; 16]> {
    let mut components = [0; 16];
    for (component, last) in components.iter_mut().zip(1..) {
        *component = u8::try_from(number(arc(tcb, last)?)?).ok()?;
    }
    Some(components)
}

fn number(object: &DerObject<'_>) -> Option<u16> {
    u16::try_from(object.as_u32().ok()?).ok()
}

fn octets<const N: usize>(object: Option<&DerObject<'_>>) -> Option<[u8; N]> {
    object?.content.as_slice().ok()?.try_into().ok()
}

fn unreadable(expected: &'static str) -> Denied {
    Finding::new(Reason::ChainUntrusted, "pck", expected, "another content").into()
}

/// The certificates of a PEM chain in DER, in its order: PEM blocks alone, at most four, and a NUL behind the last as
/// C programs leave it. `what` is the chain's name in findings.
///
/// # Errors
/// `chain_untrusted` for anything else.
pub fn chain(what: &'static str, pem: &[u8]) -> Result<Vec<Vec<u8>>, Denied> {
    let broken = |found: &str| Finding::new(Reason::ChainUntrusted, what, "PEM certificates and nothing else", found);
    let pem = pem.strip_suffix(&[0]).unwrap_or(pem);
    let mut rest = std::str::from_utf8(pem).map_err(|_| broken("octets that are no text"))?.trim_ascii();
    let mut certificates = Vec::new();
    while !rest.is_empty() {
        if certificates.len() >= MAX_CERTIFICATES {
            return broken("more than four").refuse();
        }
        let block = rest.strip_prefix("-----BEGIN CERTIFICATE-----").and_then(|rest| rest.split_once("-----END CERTIFICATE-----"));
        let Some((body, behind)) = block else { return broken("other text").refuse() };
        let digits: String = body.split_ascii_whitespace().collect();
        certificates.push(data_encoding::BASE64.decode(digits.as_bytes()).map_err(|_| broken("a block that is no base64"))?);
        rest = behind.trim_ascii_start();
    }
    Ok(certificates)
}
