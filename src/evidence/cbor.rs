//! Deterministic CBOR (RFC 8949 section 4.2.1), the part of it that the protocol uses.
//!
//! Definite lengths, minimal integers, no tags, no floats, no negative numbers; map keys in bytewise order of their
//! encoding, each once. The reader refuses everything else, so that every value has exactly one encoding. What others
//! write is read by [`foreign`].

pub mod foreign;

use std::fmt;

/// Why bytes are not the one encoding of a value of the expected shape. The number is the offset of the item.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotCanonical {
    /// Where the item begins, in octets.
    pub offset: usize,
    /// What would have been accepted there.
    pub expected: &'static str,
}

impl fmt::Display for NotCanonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} at offset {}", self.expected, self.offset)
    }
}

impl std::error::Error for NotCanonical {}

const UINT: u8 = 0;
const BSTR: u8 = 2;
const TSTR: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

/// Reads items from the front of a byte string. Lengths are compared with what is left before anything is taken.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { all: bytes, at: 0 }
    }

    /// An unsigned integer in its shortest form.
    ///
    /// # Errors
    /// [`NotCanonical`] for anything else.
    pub fn uint(&mut self) -> Result<u64, NotCanonical> {
        self.head(UINT, "unsigned integer in shortest form")
    }

    /// A byte string of definite length.
    ///
    /// # Errors
    /// [`NotCanonical`] for anything else, also when fewer bytes are left than it claims.
    pub fn bytes(&mut self) -> Result<&'a [u8], NotCanonical> {
        self.string(BSTR, "byte string of definite length")
    }

    /// A byte string of exactly `N` octets.
    ///
    /// # Errors
    /// [`NotCanonical`] for anything else.
    pub fn array_of<const N: usize>(&mut self) -> Result<[u8; N], NotCanonical> {
        let offset = self.at;
        self.bytes()?.try_into().map_err(|_| NotCanonical { offset, expected: "byte string of the fixed length" })
    }

    /// A UTF-8 text string of definite length.
    ///
    /// # Errors
    /// [`NotCanonical`] for anything else.
    pub fn text(&mut self) -> Result<&'a str, NotCanonical> {
        let offset = self.at;
        let bytes = self.string(TSTR, "text string of definite length")?;
        std::str::from_utf8(bytes).map_err(|_| NotCanonical { offset, expected: "text string in UTF-8" })
    }

    /// The head of an array; returns how many items follow, at most as many as octets are left.
    ///
    /// # Errors
    /// [`NotCanonical`] for anything else.
    pub fn array(&mut self) -> Result<usize, NotCanonical> {
        self.count(ARRAY, "array of definite length")
    }

    /// The head of a map; returns how many pairs follow, at most as many as octets are left.
    ///
    /// # Errors
    /// [`NotCanonical`] for anything else.
    pub fn map(&mut self) -> Result<usize, NotCanonical> {
        self.count(MAP, "map of definite length")
    }

    /// Reads a whole map: calls `entry` with the reader behind each key. Keys are read by `key`, must stand in bytewise
    /// order of their encoding and occur once.
    ///
    /// # Errors
    /// [`NotCanonical`] of the map, a key or an entry.
    pub fn each_pair<K>(
        &mut self,
        mut key: impl FnMut(&mut Self) -> Result<K, NotCanonical>,
        mut entry: impl FnMut(K, usize, &mut Self) -> Result<(), NotCanonical>,
    ) -> Result<(), NotCanonical> {
        let pairs = self.map()?;
        let mut previous: &[u8] = &[];
        for _ in 0..pairs {
            let offset = self.at;
            let name = key(self)?;
            let encoded = self.all.get(offset..self.at).unwrap_or_default();
            if encoded <= previous {
                return Err(NotCanonical { offset, expected: "map key greater than the one before" });
            }
            previous = encoded;
            entry(name, offset, self)?;
        }
        Ok(())
    }

    /// The next octet, left where it is.
    fn peek(&self) -> Option<u8> {
        self.all.get(self.at).copied()
    }

    /// Passes over one octet.
    fn skip(&mut self) {
        self.take(1);
    }

    /// Where the next item begins, in octets.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`NotCanonical`] when bytes are left.
    pub fn end(self) -> Result<(), NotCanonical> {
        if self.at == self.all.len() { Ok(()) } else { Err(NotCanonical { offset: self.at, expected: "end of input" }) }
    }

    fn count(&mut self, major: u8, expected: &'static str) -> Result<usize, NotCanonical> {
        let offset = self.at;
        let count = usize::try_from(self.head(major, expected)?).ok();
        let left = self.all.len().saturating_sub(self.at);
        count.filter(|count| *count <= left).ok_or(NotCanonical { offset, expected })
    }

    fn string(&mut self, major: u8, expected: &'static str) -> Result<&'a [u8], NotCanonical> {
        let offset = self.at;
        let length = usize::try_from(self.head(major, expected)?).ok();
        length.and_then(|length| self.take(length)).ok_or(NotCanonical { offset, expected })
    }

    fn head(&mut self, major: u8, expected: &'static str) -> Result<u64, NotCanonical> {
        let offset = self.at;
        let error = NotCanonical { offset, expected };
        let first = self.take(1).and_then(<[u8]>::first).copied().ok_or(error)?;
        if first >> 5 != major {
            self.at = offset;
            return Err(error);
        }
        let (width, least) = match first & 0x1f {
            short @ 0..=23 => return Ok(u64::from(short)),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            _ => return Err(error),
        };
        let value = self.take(width).ok_or(error)?.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        if value < least { Err(error) } else { Ok(value) }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.all.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }
}

/// Writes items behind one another. The caller writes map keys in order.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty writer.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Writes an unsigned integer.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.head(UINT, value)
    }

    /// Writes a byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.string(BSTR, value)
    }

    /// Writes a text string.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.string(TSTR, value.as_bytes())
    }

    /// Writes the head of an array of `items` items.
    pub fn array(&mut self, items: usize) -> &mut Self {
        self.head(ARRAY, u64::try_from(items).unwrap_or(u64::MAX))
    }

    /// Writes the head of a map of `pairs` pairs.
    pub fn map(&mut self, pairs: usize) -> &mut Self {
        self.head(MAP, u64::try_from(pairs).unwrap_or(u64::MAX))
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn string(&mut self, major: u8, value: &[u8]) -> &mut Self {
        self.head(major, u64::try_from(value.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(value);
        self
    }

    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        let bytes = value.to_be_bytes();
        match value {
            0..=23 => self.0.extend(bytes.last().map(|byte| major | byte)),
            24..=0xff => self.long(major | 24, bytes.last_chunk::<1>()),
            0x100..=0xffff => self.long(major | 25, bytes.last_chunk::<2>()),
            0x1_0000..=0xffff_ffff => self.long(major | 26, bytes.last_chunk::<4>()),
            _ => self.long(major | 27, Some(&bytes)),
        }
        self
    }

    fn long<const N: usize>(&mut self, first: u8, rest: Option<&[u8; N]>) {
        self.0.push(first);
        self.0.extend(rest.into_iter().flatten());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new();
        writer.map(2).uint(1).bytes(b"abc").uint(500).array(2).text("x").uint(u64::MAX);
        writer.finish()
    }

    fn read(bytes: &[u8]) -> Result<(), NotCanonical> {
        let mut reader = Reader::new(bytes);
        reader.each_pair(Reader::uint, |key, _, reader| {
            match key {
                1 => assert_eq!(reader.bytes()?, b"abc"),
                _ => {
                    assert_eq!(reader.array()?, 2);
                    reader.text()?;
                    reader.uint()?;
                }
            }
            Ok(())
        })?;
        reader.end()
    }

    #[test]
    fn what_is_written_is_read() {
        read(&sample()).unwrap();
        for value in [0, 23, 24, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            let mut writer = Writer::new();
            writer.uint(value);
            let bytes = writer.finish();
            assert_eq!(Reader::new(&bytes).uint(), Ok(value));
        }
    }

    #[test]
    fn every_cut_and_every_tail_is_refused() {
        let whole = sample();
        for end in 0..whole.len() {
            read(&whole[..end]).unwrap_err();
        }
        read(&[whole.as_slice(), &[0]].concat()).unwrap_err();
    }

    #[test]
    fn other_encodings_of_the_same_value_are_refused() {
        for hex in [
            "1801",   // 1 in two octets
            "190017", // 23 in three
            "1b00000000ffffffff",
            "5f41614162ff", // indefinite byte string
            "9fff",
            "bfff", // indefinite array, map
            "20",   // negative
            "c100",
            "f4",
            "f97c00",
            "1c",
            "1f",
        ] {
            let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
            assert!(Reader::new(&bytes).uint().is_err(), "{hex}");
            assert!(Reader::new(&bytes).bytes().is_err(), "{hex}");
            assert!(Reader::new(&bytes).map().is_err(), "{hex}");
            assert!(Reader::new(&bytes).array().is_err(), "{hex}");
        }
    }

    #[test]
    fn keys_must_rise() {
        for hex in ["a201000100", "a202000100"] {
            let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
            Reader::new(&bytes).each_pair(Reader::uint, |_, _, reader| reader.uint().map(drop)).unwrap_err();
        }
    }

    #[test]
    fn a_claimed_length_beyond_the_input_is_refused_before_it_is_used() {
        assert!(Reader::new(&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).bytes().is_err());
        assert!(Reader::new(&[0x9a, 0xff, 0xff, 0xff, 0xff]).array().is_err());
    }
}
