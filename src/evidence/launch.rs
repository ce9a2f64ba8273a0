//! Google's endorsement of the firmware that its confidential machines start with: which measurements the firmware of one
//! build comes to, signed. Protocol buffers (`google/gce-tcb-verifier`, proto/endorsement.proto):
//!
//! ```text
//! VMLaunchEndorsement { 1: VMGoldenMeasurement as octets, 2: signature }
//! VMGoldenMeasurement { 1: { 1: seconds }, 2: cl_spec, 3: commit, 4: certificate DER, 5: SHA-384 of the image,
//!                       6: certificates PEM, 7: VMSevSnp, 8: VMTdx }
//! VMSevSnp { 1: svn, 2: { 1: processors, 2: measurement }*, 5: policy }
//! VMTdx { 1: svn, 2: { 1: GiB, 2: early accept, 3: MRTD }* }
//! ```
//!
//! The signature is over the inner octets as they were received; nothing is written again. Fields that are not listed here
//! are skipped, as the format wants it: they are signed, and say nothing that is used.

use super::Timestamp;
use crate::refusal::{Denied, Finding, Reason};

/// The short name under which one is stapled.
pub const NAME: &str = "launch_endorsement";

/// Its media type.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.gce-launch-endorsement";

/// An endorsement longer than this is not read: genuine ones have some 10 KiB.
pub const MAX_ENDORSEMENT: usize = 64 * 1024;

/// More measurements than this are not read: genuine ones have one for each number of processors, or of memory sizes.
const MAX_MEASUREMENTS: usize = 1024;

/// An endorsement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaunchEndorsement {
    /// The inner message as received: what the signature is over.
    pub signed: Vec<u8>,
    /// The inner message as read.
    pub golden: Golden,
    /// The signature.
    pub signature: Vec<u8>,
}

/// What is endorsed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Golden {
    /// When it was signed.
    pub signed_at: Timestamp,
    /// The number of the change that the firmware was built from.
    pub cl_spec: u64,
    /// The commit that it was built from.
    pub commit: Vec<u8>,
    /// The certificate of the key that signed, DER.
    pub certificate: Vec<u8>,
    /// SHA-384 of the firmware's image.
    pub digest: Vec<u8>,
    /// The certificates above, PEM, the root first.
    pub ca_bundle: Vec<u8>,
    /// What it comes to with SEV-SNP.
    pub sev_snp: Option<Launches>,
    /// What it comes to with TDX.
    pub tdx: Option<Launches>,
}

/// What one firmware comes to on one kind of hardware.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Launches {
    /// Google's security version of the firmware there.
    pub svn: u64,
    /// The measurements, each with the number that it is for: processors, or GiB of memory.
    pub measurements: Vec<(u64, [u8; 48])>,
}

impl LaunchEndorsement {
    /// Reads an endorsement of at most [`MAX_ENDORSEMENT`] octets.
    ///
    /// # Errors
    /// `evidence_size`, `evidence_malformed`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        if bytes.len() > MAX_ENDORSEMENT {
            return Finding::new(Reason::EvidenceSize, NAME, format!("at most {MAX_ENDORSEMENT} octets"), bytes.len().to_string()).refuse();
        }
        let (mut signed, mut signature) = (None, None);
        for field in Fields(bytes) {
            match field? {
                // Nobody signed the outer message: a part of it stands there once, or it means two things.
                (1, Value::Octets(octets)) if signed.is_none() => signed = Some(octets),
                (2, Value::Octets(octets)) if signature.is_none() => signature = Some(octets),
                (number, _) => return Err(malformed(format!("a message and its signature, each once; not field {number}"))),
            }
        }
        let (Some(signed), Some(signature)) = (signed, signature) else { return Err(malformed("no message or no signature")) };
        Ok(Self { signed: signed.to_vec(), golden: Golden::parse(signed)?, signature: signature.to_vec() })
    }

    /// The endorsement of these octets: the inverse of [`LaunchEndorsement::parse`].
    #[must_use]
    pub fn encode(signed: &[u8], signature: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        octets(&mut out, 1, signed);
        octets(&mut out, 2, signature);
        out
    }
}

impl Golden {
    /// Reads the inner message.
    ///
    /// # Errors
    /// As [`LaunchEndorsement::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        let mut golden = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, Value::Octets(time)) => golden.signed_at = seconds(time)?,
                (2, Value::Number(number)) => golden.cl_spec = number,
                (3, Value::Octets(commit)) => golden.commit = commit.to_vec(),
                (4, Value::Octets(certificate)) => golden.certificate = certificate.to_vec(),
                (5, Value::Octets(digest)) => golden.digest = digest.to_vec(),
                (6, Value::Octets(bundle)) => golden.ca_bundle = bundle.to_vec(),
                (7, Value::Octets(launches)) => golden.sev_snp = Some(Launches::parse(launches, 2)?),
                (8, Value::Octets(launches)) => golden.tdx = Some(Launches::parse(launches, 3)?),
                (1..=8, _) => return Err(malformed("a field of another kind than its number says")),
                _ => {}
            }
        }
        Ok(golden)
    }

    /// Its octets, in the order of the numbers, without what is empty.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut time = Vec::new();
        number(&mut time, 1, self.signed_at.0);
        octets(&mut out, 1, &time);
        number(&mut out, 2, self.cl_spec);
        for (field, value) in [(3, &self.commit), (4, &self.certificate), (5, &self.digest), (6, &self.ca_bundle)] {
            if !value.is_empty() {
                octets(&mut out, field, value);
            }
        }
        for (field, launches, place) in [(7, &self.sev_snp, 2), (8, &self.tdx, 3)] {
            if let Some(launches) = launches {
                octets(&mut out, field, &launches.encode(place));
            }
        }
        out
    }
}

impl Launches {
    /// Reads either message: both have the version first, and each measurement under the number `place`.
    fn parse(bytes: &[u8], place: u64) -> Result<Self, Denied> {
        let mut launches = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, Value::Number(svn)) => launches.svn = svn,
                (2, Value::Octets(entry)) => {
                    if launches.measurements.len() >= MAX_MEASUREMENTS {
                        return Finding::new(Reason::EvidenceSize, NAME, format!("at most {MAX_MEASUREMENTS} measurements"), "more").refuse();
                    }
                    launches.measurements.push(measurement(entry, place)?);
                }
                (1..=2, _) => return Err(malformed("a field of another kind than its number says")),
                _ => {}
            }
        }
        Ok(launches)
    }

    fn encode(&self, place: u64) -> Vec<u8> {
        let mut out = Vec::new();
        number(&mut out, 1, self.svn);
        for (of, value) in &self.measurements {
            let mut entry = Vec::new();
            number(&mut entry, 1, *of);
            octets(&mut entry, place, value);
            octets(&mut out, 2, &entry);
        }
        out
    }
}

fn measurement(entry: &[u8], place: u64) -> Result<(u64, [u8; 48]), Denied> {
    let (mut of, mut value) = (0, None);
    for field in Fields(entry) {
        match field? {
            (1, Value::Number(number)) => of = number,
            (at, Value::Octets(octets)) if at == place => value = <[u8; 48]>::try_from(octets).ok(),
            _ => {}
        }
    }
    value.map(|value| (of, value)).ok_or_else(|| malformed("a measurement that has not 48 octets"))
}

fn seconds(time: &[u8]) -> Result<Timestamp, Denied> {
    let mut moment = Timestamp::default();
    for field in Fields(time) {
        if let (1, Value::Number(number)) = field? {
            moment = Timestamp(number);
        }
    }
    Ok(moment)
}

/// A field's value.
enum Value<'a> {
    /// Of a fixed width: nothing that is read here has one.
    Fixed,
    /// A variable-length number.
    Number(u64),
    /// Octets, text or a message.
    Octets(&'a [u8]),
}

/// The fields of a message, each with its number.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Denied>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or_else(|| malformed("a field that is cut off or of a kind that there is not"));
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Octets(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((key >> 3, value)).filter(|(number, _)| *number > 0)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number in groups of seven bits, the lowest first; at most ten of them.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for group in 0..10_u32 {
            let (octet, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(octet & 0x7f);
            let shift = group.checked_mul(7)?;
            let placed = bits.checked_shl(shift)?;
            if placed.checked_shr(shift)? != bits {
                return None;
            }
            value |= placed;
            if octet & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        varint(out, field << 3);
        varint(out, value);
    }
}

fn octets(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, u64::try_from(value.len()).unwrap_or(u64::MAX));
    out.extend(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

fn malformed(found: impl Into<String>) -> Denied {
    Finding::new(Reason::EvidenceMalformed, NAME, "a launch endorsement of Google's", found).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Golden {
        Golden {
            signed_at: Timestamp(1_772_000_000),
            cl_spec: 300,
            commit: vec![1; 20],
            certificate: vec![2; 200],
            digest: vec![3; 48],
            ca_bundle: b"PEM".to_vec(),
            sev_snp: Some(Launches { svn: 2, measurements: vec![(1, [4; 48]), (2, [5; 48])] }),
            tdx: Some(Launches { svn: 3, measurements: vec![(0, [6; 48]), (88, [7; 48])] }),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let signed = sample().encode();
        let whole = LaunchEndorsement::encode(&signed, &[9; 512]);
        assert_eq!(LaunchEndorsement::parse(&whole), Ok(LaunchEndorsement { signed, golden: sample(), signature: vec![9; 512] }));
        assert_eq!(Golden::parse(&[]), Ok(Golden::default()));
    }

    #[test]
    fn fields_of_later_versions_are_skipped_and_those_that_are_known_are_of_their_kind() {
        let signed = sample().encode();
        // Number 99 as a number, octets and both fixed widths.
        for later in [&[0x98, 6, 5][..], &[0x9a, 6, 1, 7], &[0x99, 6, 0, 0, 0, 0, 0, 0, 0, 0], &[0x9d, 6, 0, 0, 0, 0]] {
            assert_eq!(Golden::parse(&[&signed, later].concat()), Ok(sample()));
        }
        for wrong in [&[0x20, 1][..], &[0x0b], &[0x0a, 0xff], &[0x80], &[0x02, 0], &[0xff; 11]] {
            assert!(Golden::parse(&[&signed, wrong].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_outer_message_means_one_thing() {
        let whole = LaunchEndorsement::encode(&sample().encode(), &[9; 512]);
        let reason = |bytes: &[u8]| LaunchEndorsement::parse(bytes).map_err(|denied| denied.reason()).map(drop);
        assert_eq!(reason(&[whole.as_slice(), &[0x0a, 0]].concat()), Err(Reason::EvidenceMalformed), "two messages");
        assert_eq!(reason(&[whole.as_slice(), &[0x1a, 0]].concat()), Err(Reason::EvidenceMalformed), "something else");
        assert_eq!(reason(&vec![0; MAX_ENDORSEMENT + 1]), Err(Reason::EvidenceSize));
        assert!((0..whole.len()).all(|end| reason(whole.get(..end).unwrap_or_default()).is_err()));
    }
}
