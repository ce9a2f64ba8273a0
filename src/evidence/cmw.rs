//! The conceptual message wrapper (RFC 9999) in the one shape the protocol uses: a CBOR collection of records.

use super::cbor::{NotCanonical, Reader, Writer};
use super::{Auxiliary, Endorsement, Endorsements, Evidence};
use crate::refusal::{Denied, Finding, Reason};

/// The collection type of native evidence (`__cmwc_t`).
pub const COLLECTION_TYPE: &str = "2.25.120115747379330477659647502367075000153";

/// The media type of binding claims.
pub const BINDING_TYPE: &str = "application/vnd.portcullis.binding+cbor";

/// A collection longer than this is not read: the most an EVIDENCE frame may carry.
pub const MAX_COLLECTION: usize = 1 << 20;

const MAX_MEMBERS: usize = 64;
const MAX_LABEL: usize = 64;
const MAX_TYPE: usize = 128;
const INDICATES_ENDORSEMENT: u64 = 2;
const INDICATES_EVIDENCE: u64 = 4;

/// The evidence of one peer with what belongs to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Collection {
    /// The TEE's evidence, with what rides along.
    pub tee: Evidence,
    /// The encoded binding claims.
    pub bind: Vec<u8>,
    /// Stapled endorsements: inputs, never authority.
    pub endorsements: Endorsements,
}

impl Collection {
    /// The one encoding of this collection.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut members: Vec<(String, &str, &[u8], u64)> = vec![
            ("tee".to_owned(), &self.tee.media_type, &self.tee.bytes, INDICATES_EVIDENCE),
            ("bind".to_owned(), BINDING_TYPE, &self.bind, INDICATES_EVIDENCE),
        ];
        members.extend(self.endorsements.iter().map(|e| (format!("end/{}", e.name), e.media_type.as_str(), e.bytes.as_slice(), INDICATES_ENDORSEMENT)));
        members.extend(self.tee.auxiliary.iter().map(|a| (a.label.clone(), a.media_type.as_str(), a.bytes.as_slice(), INDICATES_EVIDENCE)));
        members.push(("__cmwc_t".to_owned(), COLLECTION_TYPE, &[], 0));
        members.sort_by(|(a, ..), (b, ..)| (a.len(), a.as_bytes()).cmp(&(b.len(), b.as_bytes())));
        let mut w = Writer::new();
        w.map(members.len());
        for (label, media_type, bytes, indicator) in members {
            w.text(&label);
            match indicator {
                0 => w.text(media_type),
                _ => w.array(3).text(media_type).bytes(bytes).uint(indicator),
            };
        }
        w.finish()
    }

    /// Reads a collection: exactly one `tee`, one `bind`, endorsements under `end/`, the rest auxiliary.
    ///
    /// # Errors
    /// `evidence_size` beyond [`MAX_COLLECTION`], `evidence_unsupported` without a `tee`, `evidence_ambiguous` for a
    /// second hardware report, else `evidence_malformed`.
    pub fn decode(bytes: &[u8]) -> Result<Self, Denied> {
        if bytes.len() > MAX_COLLECTION {
            return Finding::new(Reason::EvidenceSize, "cmw", format!("at most {MAX_COLLECTION} octets"), bytes.len().to_string()).refuse();
        }
        let mut raw = Raw::default();
        raw.read(bytes).map_err(|error| malformed("deterministic CBOR of a collection", error.to_string()))?;
        raw.check()
    }
}

#[derive(Default)]
struct Raw<'a> {
    collection_type: Option<&'a str>,
    members: Vec<Member<'a>>,
}

struct Member<'a> {
    label: &'a str,
    media_type: &'a str,
    bytes: &'a [u8],
    indicator: u64,
}

impl<'a> Raw<'a> {
    fn read(&mut self, bytes: &'a [u8]) -> Result<(), NotCanonical> {
        let mut reader = Reader::new(bytes);
        reader.each_pair(Reader::text, |label, offset, r| {
            if self.members.len() >= MAX_MEMBERS || label.len() > MAX_LABEL {
                return Err(NotCanonical { offset, expected: "at most 64 members with labels of at most 64 octets" });
            }
            if label == "__cmwc_t" {
                self.collection_type = Some(r.text()?);
                return Ok(());
            }
            let offset = r.offset();
            if r.array()? != 3 {
                return Err(NotCanonical { offset, expected: "record of type, value and indicator" });
            }
            let offset = r.offset();
            let media_type = r.text()?;
            if media_type.len() > MAX_TYPE {
                return Err(NotCanonical { offset, expected: "media type of at most 128 octets" });
            }
            let bytes = r.bytes()?;
            self.members.push(Member { label, media_type, bytes, indicator: r.uint()? });
            Ok(())
        })?;
        reader.end()
    }

    fn check(self) -> Result<Collection, Denied> {
        if self.collection_type != Some(COLLECTION_TYPE) {
            return Err(malformed(format!("__cmwc_t {COLLECTION_TYPE}"), self.collection_type.unwrap_or("none")));
        }
        let (mut tee, mut bind, mut endorsements, mut auxiliary) = (None, None, Endorsements::default(), Vec::new());
        for Member { label, media_type, bytes, indicator } in self.members {
            let (media_type, bytes) = (media_type.to_owned(), bytes.to_vec());
            match (label.strip_prefix("end/"), label, indicator) {
                (Some(name), _, INDICATES_ENDORSEMENT) => endorsements.push(Endorsement { name: name.to_owned(), media_type, bytes }),
                (None, "tee", INDICATES_EVIDENCE) => tee = Some(Evidence::new(media_type, bytes)),
                (None, "bind", INDICATES_EVIDENCE) if media_type == BINDING_TYPE => bind = Some(bytes),
                (None, "tee" | "bind", _) => return Err(malformed("tee and bind as evidence of their types", format!("{label} {media_type} ind {indicator}"))),
                (None, _, INDICATES_EVIDENCE) if label.starts_with("tee") => {
                    return Finding::new(Reason::EvidenceAmbiguous, "cmw", "one tee member", format!("also {label}")).refuse();
                }
                (None, _, INDICATES_EVIDENCE) => auxiliary.push(Auxiliary { label: label.to_owned(), media_type, bytes }),
                _ => return Err(malformed("indicator 4 for evidence, 2 for end/*", format!("{label} ind {indicator}"))),
            }
        }
        let Some(mut tee) = tee else {
            return Finding::new(Reason::EvidenceUnsupported, "cmw.tee", "evidence of a TEE", "none").refuse();
        };
        let bind = bind.ok_or_else(|| malformed("a bind member", "none"))?;
        tee.auxiliary = auxiliary;
        Ok(Collection { tee, bind, endorsements })
    }
}

fn malformed(expected: impl Into<String>, found: impl Into<String>) -> Denied {
    Finding::new(Reason::EvidenceMalformed, "cmw", expected, found).into()
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Collection {
        let endorsement = |name: &str| Endorsement { name: name.to_owned(), media_type: Endorsement::CERTIFICATE.to_owned(), bytes: vec![9; 300] };
        Collection {
            tee: Evidence {
                auxiliary: vec![Auxiliary { label: "log".to_owned(), media_type: "application/x".to_owned(), bytes: vec![1] }],
                ..Evidence::new("application/vnd.amd.sev-snp.attestation-report", [7; 1184])
            },
            bind: vec![0xa0],
            endorsements: ["vcek", "ask", "crl"].into_iter().map(endorsement).collect(),
        }
    }

    /// A collection of these members: label, type, value, indicator.
    fn encoded(members: &[(&str, &str, u64)]) -> Vec<u8> {
        let mut w = Writer::new();
        w.map(members.len() + 1);
        let mut members: Vec<_> = members.to_vec();
        members.push(("__cmwc_t", COLLECTION_TYPE, 0));
        members.sort_by_key(|(label, ..)| (label.len(), label.as_bytes()));
        for (label, media_type, indicator) in members {
            w.text(label);
            if label == "__cmwc_t" {
                w.text(media_type)
            } else {
                w.array(3).text(media_type).bytes(&[1]).uint(indicator)
            };
        }
        w.finish()
    }

    fn reason(members: &[(&str, &str, u64)]) -> Reason {
        Collection::decode(&encoded(members)).unwrap_err().reason()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut read = Collection::decode(&sample().encode()).unwrap();
        assert_eq!(read.encode(), sample().encode());
        assert_eq!(read.endorsements.find("ask"), Some([9; 300].as_slice()));
        // The wire orders members by label; precedence among endorsements of different names has no meaning.
        read.endorsements = sample().endorsements;
        assert_eq!(read, sample());
    }

    #[test]
    fn what_is_not_one_tee_and_one_binding_is_refused() {
        let (tee, bind) = (("tee", "t", 4), ("bind", BINDING_TYPE, 4));
        Collection::decode(&encoded(&[tee, bind])).unwrap();
        assert_eq!(reason(&[bind]), Reason::EvidenceUnsupported, "null-verifier");
        assert_eq!(reason(&[bind, ("gpu/0", "g", 4)]), Reason::EvidenceUnsupported, "gpu-only");
        assert_eq!(reason(&[tee]), Reason::EvidenceMalformed);
        assert_eq!(reason(&[tee, bind, ("tee2", "t", 4)]), Reason::EvidenceAmbiguous, "cmw-two-tee");
        assert_eq!(reason(&[("tee", "t", 0), bind]), Reason::EvidenceMalformed, "cmw-ind-zero");
        assert_eq!(reason(&[tee, ("bind", "other", 4)]), Reason::EvidenceMalformed);
        assert_eq!(reason(&[tee, bind, ("end/vcek", "c", 4)]), Reason::EvidenceMalformed);
        assert_eq!(reason(&[tee, bind, ("log", "l", 2)]), Reason::EvidenceMalformed);
    }

    #[test]
    fn a_foreign_or_missing_collection_type_is_refused() {
        let text = String::from_utf8_lossy(&sample().encode()).into_owned();
        assert!(text.contains(COLLECTION_TYPE));
        let mut foreign = sample().encode();
        let at = foreign.windows(4).position(|window| window == b"2.25").unwrap();
        foreign[at] = b'1';
        assert_eq!(Collection::decode(&foreign).unwrap_err().reason(), Reason::EvidenceMalformed);
    }

    #[test]
    fn a_collection_beyond_the_bound_is_not_read() {
        assert_eq!(Collection::decode(&vec![0; MAX_COLLECTION + 1]).unwrap_err().reason(), Reason::EvidenceSize);
    }

    proptest! {
        #[test]
        fn no_octets_panic_and_what_is_read_has_one_encoding(mut octets in Just(sample().encode()), at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let at = at.index(octets.len());
            octets[at] = value;
            if let Ok(read) = Collection::decode(&octets) {
                prop_assert_eq!(read.encode(), octets);
            }
        }
    }
}
