//! CBOR that others write (COSE, EAT, AWS): not deterministic, but bounded, and as narrow as what was seen of it.
//!
//! Keys in any order, each once; integers in their shortest form; strings and arrays of definite length; maps of definite
//! or indefinite length. No floats, no further simple values. What is read encodes to the same octets.

use super::{ARRAY, BSTR, MAP, NotCanonical, Reader, TSTR, UINT, Writer};

const NEGATIVE: u8 = 1;
const TAG: u8 = 6;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const BREAK: u8 = 0xff;
const INDEFINITE_MAP: u8 = 0xbf;

/// Arrays and maps longer than this are not read; a Nitro document has 32 registers, a CCA token some 20 components.
const MAX_ITEMS: usize = 64;

/// Items inside items: a CCA collection has a tag, a map, a record; a token a map, a list, a map.
const MAX_DEPTH: usize = 5;

/// One item.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item<'a> {
    /// A list.
    Array(Vec<Self>),
    /// `true` or `false`.
    Bool(bool),
    /// Octets.
    Bytes(&'a [u8]),
    /// Pairs, in the order of the sender.
    Map(Map<'a>),
    /// The integer −1 − n.
    Negative(u64),
    /// Nothing.
    Null,
    /// An item with its tag.
    Tag(u64, Box<Self>),
    /// UTF-8 text.
    Text(&'a str),
    /// A non-negative integer.
    Uint(u64),
}

/// Pairs with keys that differ.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Map<'a> {
    /// In the order of the sender.
    pub pairs: Vec<(Item<'a>, Item<'a>)>,
    /// How its end is told.
    pub length: Length,
}

/// How the end of a map is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Length {
    /// By the number of pairs in front.
    Definite,
    /// By a break behind.
    Indefinite,
}

impl<'a> Item<'a> {
    /// Reads one item that fills `bytes`.
    ///
    /// # Errors
    /// [`NotCanonical`] for any other octets.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, NotCanonical> {
        let mut reader = Reader::new(bytes);
        let item = read(&mut reader, MAX_DEPTH)?;
        reader.end()?;
        Ok(item)
    }

    /// The octets it was read from.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.finish()
    }

    /// An integer in the range that COSE and CWT use.
    #[must_use]
    pub const fn of_int(value: i64) -> Self {
        if value < 0 { Self::Negative(!value.cast_unsigned() & (u64::MAX >> 1)) } else { Self::Uint(value.cast_unsigned()) }
    }

    /// The integer, if it is one of 64 signed bits.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Uint(value) => i64::try_from(*value).ok(),
            Self::Negative(value) => i64::try_from(*value).ok().map(|value| !value),
            _ => None,
        }
    }

    /// The octets, if it is a byte string.
    #[must_use]
    pub const fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The text, if it is one.
    #[must_use]
    pub const fn text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Array(items) => {
                writer.array(items.len());
                items.iter().for_each(|item| item.write(writer));
            }
            Self::Bool(value) => writer.0.push(if *value { TRUE } else { FALSE }),
            Self::Bytes(bytes) => drop(writer.bytes(bytes)),
            Self::Map(map) => {
                match map.length {
                    Length::Definite => drop(writer.map(map.pairs.len())),
                    Length::Indefinite => writer.0.push(INDEFINITE_MAP),
                }
                for (key, value) in &map.pairs {
                    key.write(writer);
                    value.write(writer);
                }
                if map.length == Length::Indefinite {
                    writer.0.push(BREAK);
                }
            }
            Self::Negative(value) => drop(writer.head(NEGATIVE, *value)),
            Self::Null => writer.0.push(NULL),
            Self::Tag(tag, item) => {
                writer.head(TAG, *tag);
                item.write(writer);
            }
            Self::Text(text) => drop(writer.text(text)),
            Self::Uint(value) => drop(writer.uint(*value)),
        }
    }
}

impl<'a> Map<'a> {
    /// A map of definite length.
    #[must_use]
    pub const fn new(pairs: Vec<(Item<'a>, Item<'a>)>) -> Self {
        Self { pairs, length: Length::Definite }
    }

    /// The value behind the integer `key`.
    #[must_use]
    pub fn of(&self, key: i64) -> Option<&Item<'a>> {
        self.pairs.iter().find(|(found, _)| found.int() == Some(key)).map(|(_, value)| value)
    }
}

fn read<'a>(reader: &mut Reader<'a>, depth: usize) -> Result<Item<'a>, NotCanonical> {
    let offset = reader.offset();
    let inside = || depth.checked_sub(1).ok_or(NotCanonical { offset, expected: "shallower nesting" });
    let first = reader.peek().ok_or(NotCanonical { offset, expected: "item" })?;
    match first >> 5 {
        UINT => reader.uint().map(Item::Uint),
        NEGATIVE => reader.head(NEGATIVE, "negative integer in shortest form").map(Item::Negative),
        BSTR => reader.bytes().map(Item::Bytes),
        TSTR => reader.text().map(Item::Text),
        ARRAY => {
            let count = within(reader.array()?, offset)?;
            let depth = inside()?;
            (0..count).map(|_| read(reader, depth)).collect::<Result<_, _>>().map(Item::Array)
        }
        MAP => map(reader, inside()?).map(Item::Map),
        TAG => {
            let tag = reader.head(TAG, "tag in shortest form")?;
            Ok(Item::Tag(tag, Box::new(read(reader, inside()?)?)))
        }
        _ => {
            let item = match first {
                FALSE => Item::Bool(false),
                TRUE => Item::Bool(true),
                NULL => Item::Null,
                _ => return Err(NotCanonical { offset, expected: "false, true or null" }),
            };
            reader.skip();
            Ok(item)
        }
    }
}

fn map<'a>(reader: &mut Reader<'a>, depth: usize) -> Result<Map<'a>, NotCanonical> {
    let offset = reader.offset();
    let length = if reader.peek() == Some(INDEFINITE_MAP) { Length::Indefinite } else { Length::Definite };
    let count = match length {
        Length::Definite => within(reader.map()?, offset)?,
        Length::Indefinite => {
            reader.skip();
            MAX_ITEMS
        }
    };
    let mut pairs: Vec<(Item<'a>, Item<'a>)> = Vec::new();
    let ends = |reader: &Reader<'_>| length == Length::Indefinite && reader.peek() == Some(BREAK);
    for _ in 0..count {
        if ends(reader) {
            break;
        }
        let offset = reader.offset();
        let key = read(reader, depth)?;
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(NotCanonical { offset, expected: "map key that does not stand twice" });
        }
        pairs.push((key, read(reader, depth)?));
    }
    if length == Length::Indefinite {
        if !ends(reader) {
            return Err(NotCanonical { offset, expected: "map of at most 64 pairs" });
        }
        reader.skip();
    }
    Ok(Map { pairs, length })
}

fn within(count: usize, offset: usize) -> Result<usize, NotCanonical> {
    if count > MAX_ITEMS { Err(NotCanonical { offset, expected: "array or map of at most 64 items" }) } else { Ok(count) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_others_write_is_read_and_written_back() {
        for text in ["00", "20", "3822", "3a000124ff", "d28440a04040", "bf6161f6ff", "bfff", "a2020101f5", "82f401", "d9018fa119acca41ff", "3bffffffffffffffff"]
        {
            let bytes = hex(text);
            assert_eq!(Item::decode(&bytes).unwrap().encode(), bytes, "{text}");
        }
    }

    #[test]
    fn integers_are_those_of_the_standard() {
        for (text, value) in [("00", 0), ("20", -1), ("26", -7), ("3822", -35), ("3a000124ff", -75_008), ("3b7fffffffffffffff", i64::MIN)] {
            let bytes = hex(text);
            assert_eq!(Item::decode(&bytes).unwrap().int(), Some(value));
            assert_eq!(Item::of_int(value).encode(), bytes);
        }
        assert_eq!(Item::decode(&hex("3bffffffffffffffff")).unwrap().int(), None);
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "a20100",     // a pair is missing
            "a201000100", // a key stands twice
            "bf01000100ff",
            "bf0100", // no end
            "bf01ff",
            "9fff", // indefinite array and strings
            "5f4101ff",
            "1801", // not the shortest
            "3801",
            "d81201",
            "f7", // undefined, simple values, floats
            "e0",
            "f90000",
            "ff",
            "0000",
            "818181818181818100", // too deep
        ] {
            assert!(Item::decode(&hex(text)).is_err(), "{text}");
        }
        let long = [vec![0x98, 65], vec![0; 65]].concat();
        assert!(Item::decode(&long).is_err());
        let long: Vec<u8> = [vec![INDEFINITE_MAP], (0..65).flat_map(|key| [0x18, key + 24, 0]).collect(), vec![BREAK]].concat();
        assert!(Item::decode(&long).is_err());
    }
}
