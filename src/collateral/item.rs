//! One item of collateral: how it is named, how it is read from what a source gave, and when it holds.
//!
//! Reading tells form and dates. Whether an item is genuine is for whoever judges with it.

use std::fmt;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::evidence::cbor::{Reader, Writer};
use crate::evidence::launch::{self, LaunchEndorsement};
use crate::evidence::{Endorsement, EndorsementId, Timestamp};

/// No item is read beyond this many octets: the largest genuine ones, TCB statements with their chains, have some tens of KiB.
pub const MAX_ITEM: usize = 1 << 20;

/// The name of an item: whose it is and where that vendor's own service has it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Item {
    /// The address of the vendor's service, without a trailing slash: part of the name, whatever source is asked.
    pub service: String,
    /// The item there.
    pub id: EndorsementId,
}

impl Item {
    /// The one text that names it: in the cache, in bundles, in logs.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}{}", self.service, self.id.path)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}{})", self.id.name, self.service, self.id.path)
    }
}

/// From when until when an item holds by its own dates, both included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// The first moment.
    pub from: Timestamp,
    /// The last moment.
    pub until: Timestamp,
}

impl Window {
    /// Whether it holds at `now`.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.from <= now && now <= self.until
    }
}

/// Whether a newer one may come before the dates say so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A certificate: what it says does not change.
    Certificate,
    /// A revocation list or a signed statement: the vendor may replace it any day.
    Statement,
}

/// An item as it was read, not judged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Read {
    /// The item as an endorsement, under its short name.
    pub endorsement: Endorsement,
    /// When it holds.
    pub window: Window,
    /// What it is.
    pub kind: Kind,
    /// The PEM chain that came beside it, which is no part of it: empty where a service gave none, `None` from elsewhere.
    pub beside: Option<Vec<u8>>,
}

/// Reads a source's answer: a certificate or list in DER, hex of it or PEM (of a PEM chain the first), or a signed JSON
/// document, for which `chain` is the PEM of its signer's certificates.
///
/// # Errors
/// What is wrong with it, for people.
pub fn read(name: &str, body: &[u8], chain: Option<&str>) -> Result<Read, String> {
    if body.len() > MAX_ITEM {
        return Err(format!("{} octets, more than the {MAX_ITEM} that are read", body.len()));
    }
    if name == launch::NAME {
        return launch_endorsement(name.to_owned(), body.to_vec());
    }
    if body.trim_ascii_start().starts_with(b"{") {
        let chain = chain.ok_or("a signed document without the chain of its signer")?;
        let mut writer = Writer::new();
        writer.array(2).bytes(body).bytes(chain.as_bytes());
        return signed(name, writer.finish());
    }
    let der = der(body).ok_or("neither a certificate, a revocation list nor a signed document")?;
    endorsed(Endorsement { name: name.to_owned(), media_type: String::new(), bytes: der })
}

/// Reads an endorsement as it is stapled, cached or bundled. Its media type is derived, not believed.
///
/// # Errors
/// What is wrong with it, for people.
pub fn endorsed(endorsement: Endorsement) -> Result<Read, String> {
    let Endorsement { name, bytes, .. } = endorsement;
    if bytes.len() > MAX_ITEM {
        return Err(format!("{} octets, more than the {MAX_ITEM} that are read", bytes.len()));
    }
    if name == launch::NAME {
        return launch_endorsement(name, bytes);
    }
    if let Ok((&[], certificate)) = X509Certificate::from_der(&bytes) {
        let window = window(certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
        return Ok(Read {
            endorsement: Endorsement { name, media_type: Endorsement::CERTIFICATE.to_owned(), bytes },
            window,
            kind: Kind::Certificate,
            beside: None,
        });
    }
    if let Ok((&[], list)) = CertificateRevocationList::from_der(&bytes) {
        let next = list.next_update().ok_or("a revocation list without a nextUpdate")?;
        let window = window(list.last_update().timestamp(), next.timestamp());
        return Ok(Read {
            endorsement: Endorsement { name, media_type: Endorsement::REVOCATION_LIST.to_owned(), bytes },
            window,
            kind: Kind::Statement,
            beside: None,
        });
    }
    signed(&name, bytes)
}

/// One holds from when it was signed for as long as the certificate of its signer.
fn launch_endorsement(name: String, bytes: Vec<u8>) -> Result<Read, String> {
    let golden = LaunchEndorsement::parse(&bytes).map_err(|denied| denied.to_string())?.golden;
    let (_, signer) = X509Certificate::from_der(&golden.certificate).map_err(|_| "a launch endorsement without the certificate of its signer")?;
    let window = Window { from: golden.signed_at, ..window(0, signer.validity().not_after.timestamp()) };
    Ok(Read { endorsement: Endorsement { name, media_type: launch::MEDIA_TYPE.to_owned(), bytes }, window, kind: Kind::Certificate, beside: None })
}

fn signed(name: &str, bytes: Vec<u8>) -> Result<Read, String> {
    let window = document(&bytes).and_then(dates).ok_or("neither a certificate, a revocation list nor a signed document with its dates")?;
    let endorsement = Endorsement { name: name.to_owned(), media_type: Endorsement::SIGNED_JSON.to_owned(), bytes };
    Ok(Read { endorsement, window, kind: Kind::Statement, beside: None })
}

/// The JSON body of an encoded `[body, chain]`.
fn document(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    if reader.array().ok()? != 2 {
        return None;
    }
    let body = reader.bytes().ok()?;
    reader.bytes().ok()?;
    reader.end().ok()?;
    Some(body)
}

/// `issueDate` and `nextUpdate` of the document's one statement.
fn dates(body: &[u8]) -> Option<Window> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let statement = document.as_object()?.values().find(|value| value.get("nextUpdate").is_some())?;
    let moment = |key: &str| Timestamp::parse(statement.get(key)?.as_str()?);
    Some(Window { from: moment("issueDate")?, until: moment("nextUpdate")? })
}

fn window(from: i64, until: i64) -> Window {
    let moment = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0));
    Window { from: moment(from), until: moment(until) }
}

/// DER as it is, in hex (as caching services give lists), or in the first block of PEM.
fn der(body: &[u8]) -> Option<Vec<u8>> {
    let text = body.trim_ascii();
    if text.starts_with(b"-----BEGIN ") {
        if let Ok(certificate) = CertificateDer::from_pem_slice(text) {
            return Some(certificate.to_vec());
        }
        return CertificateRevocationListDer::from_pem_slice(text).ok().map(|list| list.to_vec());
    }
    // A DER sequence begins with 0x30; so does hex of it, with an ASCII 3.
    if text.starts_with(b"30") && text.iter().all(u8::is_ascii_hexdigit) {
        return data_encoding::HEXLOWER_PERMISSIVE.decode(text).ok();
    }
    Some(body.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"tcbInfo":{"id":"TDX","issueDate":"2026-10-01T00:00:00Z","nextUpdate":"2026-10-31T00:00:00Z"},"signature":"00"}"#;

    #[test]
    fn a_signed_document_has_its_dates_and_needs_its_chain() {
        let read = read("tcb_info", BODY, Some("chain")).unwrap();
        assert_eq!((read.kind, read.endorsement.media_type.as_str()), (Kind::Statement, Endorsement::SIGNED_JSON));
        assert!(read.window.holds(Timestamp::parse("2026-10-31T00:00:00Z").unwrap()));
        assert!(!read.window.holds(Timestamp::parse("2026-10-31T00:00:01Z").unwrap()));
        assert_eq!(endorsed(read.endorsement.clone()).as_ref(), Ok(&read));
        assert!(super::read("tcb_info", BODY, None).is_err());
    }

    #[test]
    fn what_is_no_item_is_refused() {
        for body in [&b""[..], b"<html>503</html>", b"{}", b"3082zz", b"-----BEGIN CERTIFICATE-----\n", &[0x30, 0x82, 0xff, 0xff], b"{\"tcbInfo\":1}"] {
            assert!(read("crl", body, Some("chain")).is_err(), "{}", String::from_utf8_lossy(body));
        }
        assert!(read("crl", &vec![0; MAX_ITEM + 1], None).is_err());
    }
}
