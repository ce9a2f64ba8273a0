//! Where one HTTP/1.1 request ends and the next begins, read strictly: whatever two parsers could read in two ways is
//! refused before hyper sees it.
//!
//! hyper parses what passes; this only follows along and vetoes. It is stricter than RFC 9112 allows a server to be:
//! one `Content-Length` or one `Transfer-Encoding: chunked`, never both, lines end in CRLF, no folding, no white space
//! where none belongs.

/// Why a connection's bytes are refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::proxy) enum Ambiguous {
    BareCarriageReturn,
    BareLineFeed,
    BothLengths,
    ChunkSize,
    ChunkEnd,
    ContentLength,
    ControlCharacter,
    EmptyLine,
    FieldName,
    Folding,
    FramingInTrailer,
    RepeatedContentLength,
    RequestLine,
    TransferEncoding,
}

impl Ambiguous {
    /// For the log and the metric label.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::BareCarriageReturn => "bare_cr",
            Self::BareLineFeed => "bare_lf",
            Self::BothLengths => "content_length_and_transfer_encoding",
            Self::ChunkSize => "chunk_size",
            Self::ChunkEnd => "chunk_end",
            Self::ContentLength => "content_length",
            Self::ControlCharacter => "control_character",
            Self::EmptyLine => "empty_line",
            Self::FieldName => "field_name",
            Self::Folding => "obsolete_folding",
            Self::FramingInTrailer => "framing_in_trailer",
            Self::RepeatedContentLength => "repeated_content_length",
            Self::RequestLine => "request_line",
            Self::TransferEncoding => "transfer_encoding",
        }
    }
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    at: At,
    section: Section,
    length: Option<u64>,
    chunked: bool,
    name: Token<NAME>,
    value: Token<VALUE>,
    line: usize,
    /// Requests that have begun.
    begun: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    /// Before a request.
    Start,
    RequestLine,
    RequestLineEnd,
    FieldStart,
    FieldName,
    FieldValue,
    FieldEnd,
    SectionEnd,
    Body(u64),
    ChunkSize(u64),
    ChunkExtension(u64),
    ChunkSizeEnd(u64),
    ChunkData(u64),
    ChunkDataEnd,
    ChunkDataEnded,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Section {
    Header,
    Trailer,
}

/// The longest field name that matters here, and one more.
const NAME: usize = 18;

/// The longest value of those fields that is good: 19 digits.
const VALUE: usize = 20;

/// A chunk's size line, extension included.
const CHUNK_LINE: usize = 256;

/// The first octets of a word, and whether there were more.
#[derive(Debug)]
struct Token<const N: usize> {
    octets: [u8; N],
    length: usize,
}

impl<const N: usize> Token<N> {
    const fn new() -> Self {
        Self { octets: [0; N], length: 0 }
    }

    const fn clear(&mut self) {
        self.length = 0;
    }

    fn push(&mut self, octet: u8) {
        if let Some(place) = self.octets.get_mut(self.length) {
            *place = octet.to_ascii_lowercase();
        }
        self.length = self.length.saturating_add(1);
    }

    /// The word; `None` when it was too long to be kept.
    fn word(&self) -> Option<&[u8]> {
        self.octets.get(..self.length)
    }
}

impl Framing {
    pub(super) const fn new() -> Self {
        Self { at: At::Start, section: Section::Header, length: None, chunked: false, name: Token::new(), value: Token::new(), line: 0, begun: 0 }
    }

    /// How many requests have begun.
    pub(super) const fn begun(&self) -> usize {
        self.begun
    }

    /// Whether the next octet begins a request.
    pub(super) fn between_requests(&self) -> bool {
        self.at == At::Start
    }

    /// Whether a head has begun and is not complete.
    pub(super) fn in_head(&self) -> bool {
        let line = matches!(self.at, At::RequestLine | At::RequestLineEnd);
        let field = matches!(self.at, At::FieldStart | At::FieldName | At::FieldValue | At::FieldEnd | At::SectionEnd);
        line || (field && self.section == Section::Header)
    }

    /// Follows `octets`.
    ///
    /// # Errors
    /// How many of them may still be passed on, and why no more.
    pub(super) fn follow(&mut self, octets: &[u8]) -> Result<(), (usize, Ambiguous)> {
        let mut at = 0;
        while let Some(rest) = octets.get(at..).filter(|rest| !rest.is_empty()) {
            let taken = match self.at {
                At::Body(left) => self.skip(rest.len(), left),
                At::ChunkData(left) => self.skip(rest.len(), left),
                _ => {
                    self.step(rest.first().copied().unwrap_or_default()).map_err(|why| (at, why))?;
                    1
                }
            };
            at += taken;
        }
        Ok(())
    }

    fn skip(&mut self, there: usize, left: u64) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(there);
        let left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
        self.at = match (self.at, left) {
            (At::ChunkData(_), 0) => At::ChunkDataEnd,
            (At::ChunkData(_), left) => At::ChunkData(left),
            (_, 0) => At::Start,
            (_, left) => At::Body(left),
        };
        taken
    }

    fn step(&mut self, octet: u8) -> Result<(), Ambiguous> {
        self.at = match self.at {
            At::Start => {
                self.length = None;
                self.chunked = false;
                self.section = Section::Header;
                match octet {
                    b'\r' | b'\n' => return Err(Ambiguous::EmptyLine),
                    octet if is_token(octet) => {
                        self.begun = self.begun.saturating_add(1);
                        At::RequestLine
                    }
                    _ => return Err(Ambiguous::RequestLine),
                }
            }
            At::RequestLine => match octet {
                b'\r' => At::RequestLineEnd,
                b'\n' => return Err(Ambiguous::BareLineFeed),
                0..=0x1f | 0x7f => return Err(Ambiguous::RequestLine),
                _ => At::RequestLine,
            },
            At::RequestLineEnd | At::FieldEnd => ended(octet, At::FieldStart)?,
            At::FieldStart => self.field_start(octet)?,
            At::FieldName => match octet {
                b':' => At::FieldValue,
                octet if is_token(octet) => {
                    self.name.push(octet);
                    At::FieldName
                }
                b'\n' => return Err(Ambiguous::BareLineFeed),
                _ => return Err(Ambiguous::FieldName),
            },
            At::FieldValue => match octet {
                b'\r' => {
                    self.field()?;
                    At::FieldEnd
                }
                b'\n' => return Err(Ambiguous::BareLineFeed),
                0..=8 | 10..=0x1f | 0x7f => return Err(Ambiguous::ControlCharacter),
                _ => {
                    // Space before the value does not count, space behind it is cut off when it is looked at.
                    if !matches!(octet, b' ' | b'\t') || self.value.length > 0 {
                        self.value.push(octet);
                    }
                    At::FieldValue
                }
            },
            At::SectionEnd => ended(octet, self.behind_section())?,
            At::ChunkSize(size) => self.chunk_size(octet, size)?,
            At::ChunkExtension(size) => {
                self.line = self.line.saturating_add(1);
                match octet {
                    b'\r' => At::ChunkSizeEnd(size),
                    _ if self.line > CHUNK_LINE => return Err(Ambiguous::ChunkSize),
                    0..=8 | 10..=0x1f | 0x7f => return Err(Ambiguous::ChunkSize),
                    _ => At::ChunkExtension(size),
                }
            }
            At::ChunkSizeEnd(0) => {
                self.section = Section::Trailer;
                ended(octet, At::FieldStart)?
            }
            At::ChunkSizeEnd(size) => ended(octet, At::ChunkData(size))?,
            At::ChunkDataEnd => match octet {
                b'\r' => At::ChunkDataEnded,
                _ => return Err(Ambiguous::ChunkEnd),
            },
            At::ChunkDataEnded => {
                self.line = 0;
                ended(octet, At::ChunkSize(0)).map_err(|_| Ambiguous::ChunkEnd)?
            }
            // Skipped in whole by `follow`.
            At::Body(_) | At::ChunkData(_) => self.at,
        };
        Ok(())
    }

    fn field_start(&mut self, octet: u8) -> Result<At, Ambiguous> {
        self.name.clear();
        self.value.clear();
        match octet {
            b'\r' => Ok(At::SectionEnd),
            b'\n' => Err(Ambiguous::BareLineFeed),
            b' ' | b'\t' => Err(Ambiguous::Folding),
            octet if is_token(octet) => {
                self.name.push(octet);
                Ok(At::FieldName)
            }
            _ => Err(Ambiguous::FieldName),
        }
    }

    /// A field is complete.
    fn field(&mut self) -> Result<(), Ambiguous> {
        let value = self.value.word().map(<[u8]>::trim_ascii_end);
        match (self.name.word().unwrap_or_default(), self.section) {
            (b"content-length" | b"transfer-encoding", Section::Trailer) => Err(Ambiguous::FramingInTrailer),
            (b"content-length", Section::Header) => {
                if self.length.is_some() {
                    return Err(Ambiguous::RepeatedContentLength);
                }
                self.length = Some(value.and_then(decimal).ok_or(Ambiguous::ContentLength)?);
                if self.chunked { Err(Ambiguous::BothLengths) } else { Ok(()) }
            }
            (b"transfer-encoding", Section::Header) => {
                if self.chunked || value != Some(b"chunked") {
                    return Err(Ambiguous::TransferEncoding);
                }
                self.chunked = true;
                if self.length.is_some() { Err(Ambiguous::BothLengths) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn behind_section(&mut self) -> At {
        self.line = 0;
        match (self.section, self.chunked, self.length) {
            (Section::Trailer, ..) | (Section::Header, false, None | Some(0)) => At::Start,
            (Section::Header, true, _) => At::ChunkSize(0),
            (Section::Header, false, Some(length)) => At::Body(length),
        }
    }

    fn chunk_size(&mut self, octet: u8, size: u64) -> Result<At, Ambiguous> {
        let digit = char::from(octet).to_digit(16).map(u64::from);
        let digits = self.line;
        self.line = self.line.saturating_add(1);
        match (digit, octet) {
            // 15 digits: no sum of sizes overflows.
            (Some(digit), _) if digits < 15 => Ok(At::ChunkSize((size << 4) | digit)),
            (None, b'\r') if digits > 0 => Ok(At::ChunkSizeEnd(size)),
            (None, b';') if digits > 0 => Ok(At::ChunkExtension(size)),
            (None, b'\n') if digits > 0 => Err(Ambiguous::BareLineFeed),
            _ => Err(Ambiguous::ChunkSize),
        }
    }
}

const fn ended(octet: u8, next: At) -> Result<At, Ambiguous> {
    match octet {
        b'\n' => Ok(next),
        _ => Err(Ambiguous::BareCarriageReturn),
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain
        .then_some(digits)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .filter(|length| *length <= i64::MAX as u64)
}

/// RFC 9110 5.6.2.
const fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(text: &str) -> Result<bool, Ambiguous> {
        let mut framing = Framing::new();
        framing.follow(text.as_bytes()).map_err(|(_, why)| why)?;
        Ok(framing.between_requests())
    }

    #[test]
    fn ordinary_requests_pass_one_after_the_other() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /x HTTP/1.1\r\nhost:a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding:\tChunked \r\n\r\n5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\nX: \r\n\r\n",
        ] {
            assert_eq!(judged(text), Ok(true), "{text:?}");
        }
        assert_eq!(judged("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET / \r\n"), Ok(false));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        use Ambiguous::*;
        let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let chunks = |body: &str| format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        for (text, why) in [
            (head("Content-Length: 3\r\nTransfer-Encoding: chunked"), BothLengths),
            (head("Transfer-Encoding: chunked\r\nContent-Length: 3"), BothLengths),
            (head("Content-Length: 3\r\nContent-Length: 3"), RepeatedContentLength),
            (head("Content-Length: 3, 3"), ContentLength),
            (head("Content-Length: +3"), ContentLength),
            (head("Content-Length: 0x3"), ContentLength),
            (head("Content-Length: -1"), ContentLength),
            (head("Content-Length:"), ContentLength),
            (head("Content-Length: 18446744073709551616"), ContentLength),
            (head("Content-Length: 99999999999999999999999999999"), ContentLength),
            (head("Transfer-Encoding: gzip, chunked"), TransferEncoding),
            (head("Transfer-Encoding: xchunked"), TransferEncoding),
            (head("Transfer-Encoding: chunked, identity"), TransferEncoding),
            (head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), TransferEncoding),
            (head("Transfer-Encoding: \"chunked\""), TransferEncoding),
            (head("Transfer-Encoding : chunked"), FieldName),
            (head("Content-Length : 3"), FieldName),
            (head("X: a\r\n folded"), Folding),
            (head("X: a\r\n\tfolded"), Folding),
            (head("X: a\nContent-Length: 3"), BareLineFeed),
            (head("X: a\rContent-Length: 3"), BareCarriageReturn),
            (head("X: a\0b"), ControlCharacter),
            (head(": empty name"), FieldName),
            (head("no colon"), FieldName),
            (head("X\u{e4}: 1"), FieldName),
            ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), BareLineFeed),
            ("\r\nGET / HTTP/1.1\r\n\r\n".to_owned(), EmptyLine),
            (" GET / HTTP/1.1\r\n\r\n".to_owned(), RequestLine),
            (chunks("0x5\r\nhello\r\n0\r\n\r\n"), ChunkSize),
            (chunks("5 \r\nhello\r\n0\r\n\r\n"), ChunkSize),
            (chunks("-5\r\nhello\r\n"), ChunkSize),
            (chunks("\r\nhello\r\n"), ChunkSize),
            (chunks("10000000000000000\r\n"), ChunkSize),
            (chunks("5\nhello\r\n0\r\n\r\n"), BareLineFeed),
            (chunks("5\r\nhelloX0\r\n\r\n"), ChunkEnd),
            (chunks("5\r\nhello\n0\r\n\r\n"), ChunkEnd),
            (chunks("5\r\nhello\rx"), ChunkEnd),
            (chunks("5;a\nb\r\nhello\r\n"), ChunkSize),
            (chunks(&format!("5;{}\r\nhello\r\n", "a".repeat(300))), ChunkSize),
            (chunks("0\r\nContent-Length: 5\r\n\r\n"), FramingInTrailer),
            (chunks("0\r\nTransfer-Encoding: chunked\r\n\r\n"), FramingInTrailer),
        ] {
            assert_eq!(judged(&text), Err(why), "{text:?}");
        }
    }

    proptest! {
        /// However the bytes are cut into reads, the judgement is the same; none panics.
        #[test]
        fn the_judgement_does_not_depend_on_the_reads(text in "[PGO]?(POST / HTTP/1.1\r\n)?(Content-Length: [0-9]{1,2}\r\n|Transfer-Encoding: chunked\r\n|X: \\PC{0,5}\r?\n){0,3}(\r\n)?([0-9a-f]{0,2}\r\n)?\\PC{0,20}", cut in 1_usize..7) {
            let whole = judged(&text);
            let mut framing = Framing::new();
            let pieces = text.as_bytes().chunks(cut).try_for_each(|piece| framing.follow(piece)).map_err(|(_, why)| why);
            prop_assert_eq!(whole, pieces.map(|()| framing.between_requests()));
        }
    }
}
