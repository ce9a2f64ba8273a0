//! OCSP responses (RFC 6960), read under bounds: basic, successful, with what their signature covers.

use super::Timestamp;
use crate::refusal::{Denied, Finding, Reason};

/// A response longer than this is not read: with the responder's certificate they have about 1 KiB.
pub const MAX_RESPONSE: usize = 16 * 1024;

/// A response, read and not believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response<'a> {
    /// The signed octets.
    pub signed: &'a [u8],
    /// The signature's algorithm, DER.
    pub algorithm: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// The responder's certificate, DER.
    pub responder: &'a [u8],
    /// What is said of each certificate.
    pub singles: Vec<Single<'a>>,
}

/// What is said of one certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Single<'a> {
    /// The hash's identifier, the octets of the object identifier.
    pub hash: &'a [u8],
    /// The hash of the issuer's name.
    pub issuer_name: &'a [u8],
    /// The hash of the issuer's key.
    pub issuer_key: &'a [u8],
    /// The certificate's serial number, as its INTEGER's octets.
    pub serial: &'a [u8],
    /// What it is.
    pub status: Status,
    /// From when this holds.
    pub this_update: Timestamp,
    /// Until when.
    pub next_update: Option<Timestamp>,
}

/// The status of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Not revoked.
    Good,
    /// Revoked or on hold.
    Revoked,
    /// Not known to the responder.
    Unknown,
}

impl<'a> Response<'a> {
    /// Reads a response.
    ///
    /// # Errors
    /// `collateral_unavailable` for anything but a successful basic response with its responder's certificate.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Denied> {
        let unusable =
            || Finding::new(Reason::CollateralUnavailable, "ocsp", "a successful basic OCSP response with its responder's certificate", "other octets");
        if bytes.len() > MAX_RESPONSE {
            return unusable().refuse();
        }
        read(bytes).ok_or_else(|| unusable().into())
    }
}

const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;
const OCTETS: u8 = 0x04;
const INTEGER: u8 = 0x02;
const TIME: u8 = 0x18;
/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const MAX_SINGLES: usize = 16;

fn read(bytes: &[u8]) -> Option<Response<'_>> {
    let mut outer = only(bytes, SEQUENCE)?;
    if outer.take(0x0a)? != [0] {
        return None;
    }
    let mut basic = Der(only(outer.end(0xa0)?, SEQUENCE)?.0);
    if basic.take(OBJECT)? != BASIC {
        return None;
    }
    let mut basic = only(basic.end(OCTETS)?, SEQUENCE)?;
    let (signed, body) = basic.whole(SEQUENCE)?;
    let (algorithm, _) = basic.whole(SEQUENCE)?;
    let signature = basic.take(0x03)?.strip_prefix(&[0])?;
    let mut certificates = only(basic.end(0xa0)?, SEQUENCE)?;
    let (responder, _) = certificates.whole(SEQUENCE)?;
    Some(Response { signed, algorithm, signature, responder, singles: singles(Der(body))? })
}

fn singles(mut body: Der<'_>) -> Option<Vec<Single<'_>>> {
    // A version other than the default, and a responder by name or by key; the times of production.
    if body.peek() == Some(0xa0) {
        return None;
    }
    let by = body.peek().filter(|tag| matches!(tag, 0xa1 | 0xa2))?;
    body.take(by)?;
    body.take(TIME)?;
    let mut list = Der(body.take(SEQUENCE)?);
    let mut singles = Vec::new();
    while !list.0.is_empty() {
        if singles.len() >= MAX_SINGLES {
            return None;
        }
        let mut single = Der(list.take(SEQUENCE)?);
        let mut id = Der(single.take(SEQUENCE)?);
        let mut hash = Der(id.take(SEQUENCE)?);
        let hash = hash.take(OBJECT)?;
        let (issuer_name, issuer_key) = (id.take(OCTETS)?, id.take(OCTETS)?);
        let serial = id.end(INTEGER)?;
        let tag = single.peek()?;
        let status = match tag {
            0x80 => Status::Good,
            0xa1 => Status::Revoked,
            0x82 => Status::Unknown,
            _ => return None,
        };
        single.take(tag)?;
        let this_update = moment(single.take(TIME)?)?;
        let next_update = match single.peek() {
            Some(0xa0) => Some(moment(only(single.take(0xa0)?, TIME)?.0)?),
            _ => None,
        };
        singles.push(Single { hash, issuer_name, issuer_key, serial, status, this_update, next_update });
    }
    Some(singles)
}

/// `YYYYMMDDHHMMSSZ`.
fn moment(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let part = |from: usize, to: usize| text.get(from..to);
    if text.len() != 15 {
        return None;
    }
    Timestamp::parse(&format!("{}-{}-{}T{}:{}:{}{}", part(0, 4)?, part(4, 6)?, part(6, 8)?, part(8, 10)?, part(10, 12)?, part(12, 14)?, part(14, 15)?))
}

/// DER, read from the front: definite lengths in their shortest form, tags of one octet.
#[derive(Clone, Debug)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

impl<'a> Der<'a> {
    /// The tag of the next item.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The content of the next item, which has this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.whole(tag).map(|(_, content)| content)
    }

    /// The next item with and without its header.
    fn whole(&mut self, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
        let all = self.0;
        let (first, rest) = all.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(*length), rest),
            0x81 => rest.split_first().filter(|(octet, _)| **octet > 0x7f).map(|(octet, rest)| (usize::from(*octet), rest))?,
            0x82 => {
                rest.split_first_chunk::<2>().map(|(octets, rest)| (usize::from(u16::from_be_bytes(*octets)), rest)).filter(|(length, _)| *length > 0xff)?
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        let item = all.get(..all.len().checked_sub(rest.len())?)?;
        (*first == tag).then_some((item, content))
    }

    /// The content of the last item, which has this tag.
    fn end(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.take(tag).filter(|_| self.0.is_empty())
    }
}

/// The content of the one item that `bytes` are.
fn only(bytes: &[u8], tag: u8) -> Option<Der<'_>> {
    Der(bytes).end(tag).map(Der)
}
