//! What a SOCKS5 client sends (RFC 1928, RFC 1929), and the answers to it. Pure: octets in, octets out.
//!
//! Each reader is given all that came of its message and says how much more it needs, so that not one octet behind the
//! message is read. No message is longer than 513 octets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::destination::{Host, Wanted};

/// What a reader makes of the octets that are there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step<T> {
    /// The message is whole.
    Done(T),
    /// At least so many octets are missing; never 0.
    More(usize),
}

/// Why a message is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// Another version than 5 (or of the account's message than 1).
    Version(u8),
    /// A request for something else than CONNECT.
    Command(u8),
    /// An address that is of no known type.
    AddressType(u8),
    /// A name that is none, or port 0.
    Destination,
    /// A length of 0 where something must be.
    Empty,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(4) => f.write_str("SOCKS4, which has no names and no accounts"),
            // The first letters of CONNECT, GET, HEAD, OPTIONS, POST and PUT.
            Self::Version(letter) if b"CGHOP".contains(letter) => f.write_str("what looks like HTTP"),
            Self::Version(22) => f.write_str("what looks like TLS"),
            Self::Version(version) => write!(f, "version {version}"),
            Self::Command(command) => write!(f, "command {command}, and there is CONNECT (1) alone"),
            Self::AddressType(kind) => write!(f, "an address of type {kind}"),
            Self::Destination => f.write_str("a destination that is none"),
            Self::Empty => f.write_str("an empty field"),
        }
    }
}

/// No account is asked for.
pub const NO_ACCOUNT: u8 = 0x00;
/// A user and a password are.
pub const ACCOUNT: u8 = 0x02;
/// None of the methods a client offers will do.
pub const NO_METHOD: u8 = 0xff;

/// A reply's code (RFC 1928 section 6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "named as in the RFC")]
pub enum Code {
    Succeeded = 0x00,
    GeneralFailure = 0x01,
    NotAllowed = 0x02,
    NetworkUnreachable = 0x03,
    HostUnreachable = 0x04,
    ConnectionRefused = 0x05,
    CommandNotSupported = 0x07,
    AddressTypeNotSupported = 0x08,
}

impl Code {
    /// The whole reply. The address that was bound is nobody's business and told as zeros.
    #[must_use]
    pub const fn reply(self) -> [u8; 10] {
        [5, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }

    /// For a request that could not be read.
    #[must_use]
    pub const fn of(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Command(_) => Self::CommandNotSupported,
            Malformed::AddressType(_) => Self::AddressTypeNotSupported,
            Malformed::Version(_) | Malformed::Destination | Malformed::Empty => Self::GeneralFailure,
        }
    }
}

/// Reads the methods that a client offers.
///
/// # Errors
/// [`Malformed`].
pub fn methods(octets: &[u8]) -> Result<Step<Vec<u8>>, Malformed> {
    version(octets, 5)?;
    let Some((_, rest)) = octets.split_at_checked(1) else { return Ok(Step::More(2)) };
    match counted(rest)? {
        Step::Done((methods, _)) => Ok(Step::Done(methods.to_vec())),
        Step::More(more) => Ok(Step::More(more)),
    }
}

/// A user and a password.
#[derive(Clone, Eq, PartialEq)]
pub struct Account {
    /// 1 to 255 octets.
    pub user: Vec<u8>,
    /// 1 to 255 octets.
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an account")
    }
}

/// Reads a user and a password.
///
/// # Errors
/// [`Malformed`].
pub fn account(octets: &[u8]) -> Result<Step<Account>, Malformed> {
    version(octets, 1)?;
    let Some((_, rest)) = octets.split_at_checked(1) else { return Ok(Step::More(2)) };
    let (user, rest) = match counted(rest)? {
        Step::Done(read) => read,
        Step::More(more) => return Ok(Step::More(more)),
    };
    match counted(rest)? {
        Step::Done((password, _)) => Ok(Step::Done(Account { user: user.to_vec(), password: password.to_vec() })),
        Step::More(more) => Ok(Step::More(more)),
    }
}

/// Reads where a client wants to go.
///
/// # Errors
/// [`Malformed`].
pub fn request(octets: &[u8]) -> Result<Step<Wanted>, Malformed> {
    version(octets, 5)?;
    let Some((head, rest)) = octets.split_at_checked(4) else { return Ok(Step::More(4_usize.saturating_sub(octets.len()))) };
    // The third octet is reserved, and many clients leave something there.
    let &[_, command, _, kind] = head else { return Ok(Step::More(1)) };
    if command != 1 {
        return Err(Malformed::Command(command));
    }
    let (length, skipped) = match kind {
        1 => (4, 0),
        3 => match rest.first() {
            None => return Ok(Step::More(1)),
            Some(0) => return Err(Malformed::Empty),
            Some(length) => (usize::from(*length), 1),
        },
        4 => (16, 0),
        other => return Err(Malformed::AddressType(other)),
    };
    let whole = skipped + length + 2;
    let Some((address, port)) = rest.get(skipped..whole).and_then(|rest| rest.split_at_checked(length)) else {
        return Ok(Step::More(whole.saturating_sub(rest.len())));
    };
    let host = match kind {
        1 => address.first_chunk::<4>().map(|octets| Host::Address(IpAddr::V4(Ipv4Addr::from(*octets)))),
        4 => address.first_chunk::<16>().map(|octets| Host::Address(IpAddr::V6(Ipv6Addr::from(*octets)).to_canonical())),
        _ => std::str::from_utf8(address).ok().and_then(Host::read),
    };
    let port = port.first_chunk::<2>().map(|octets| u16::from_be_bytes(*octets)).filter(|port| *port != 0);
    let (Some(host), Some(_)) = (host, port) else { return Err(Malformed::Destination) };
    Ok(Step::Done(Wanted { host, port }))
}

fn version(octets: &[u8], wanted: u8) -> Result<(), Malformed> {
    match octets.first() {
        Some(version) if *version != wanted => Err(Malformed::Version(*version)),
        _ => Ok(()),
    }
}

/// A field, and what follows.
type Field<'a> = (&'a [u8], &'a [u8]);

/// A field behind its length.
fn counted(octets: &[u8]) -> Result<Step<Field<'_>>, Malformed> {
    let Some((length, rest)) = octets.split_first() else { return Ok(Step::More(1)) };
    let length = usize::from(*length);
    if length == 0 {
        return Err(Malformed::Empty);
    }
    match rest.split_at_checked(length) {
        Some(both) => Ok(Step::Done(both)),
        None => Ok(Step::More(length.saturating_sub(rest.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a reader as much as it asks for, from what is there.
    fn fed<T>(message: &[u8], read: impl Fn(&[u8]) -> Result<Step<T>, Malformed>) -> Result<(T, usize), Option<Malformed>> {
        let mut there = 0;
        loop {
            match read(message.get(..there).ok_or(None)?).map_err(Some)? {
                Step::Done(done) => return Ok((done, there)),
                Step::More(more) => {
                    assert!(more > 0, "asks for nothing at {there}");
                    there += more;
                }
            }
        }
    }

    #[test]
    fn requests_are_read_to_their_last_octet_and_no_further() {
        let told = |message: &[u8]| fed(message, request).map(|(wanted, taken)| (wanted.to_string(), taken));
        assert_eq!(told(b"\x05\x01\x00\x01\x0a\x01\x02\x03\x00\x50rest"), Ok(("10.1.2.3:80".to_owned(), 10)));
        assert_eq!(told(b"\x05\x01\x00\x03\x07db.SHOP\x15\x38rest"), Ok(("db.shop:5432".to_owned(), 14)));
        assert_eq!(told(b"\x05\x01\x00\x03\x0810.1.2.3\x00\x50"), Ok(("10.1.2.3:80".to_owned(), 15)));
        let six = [&b"\x05\x01\x00\x04"[..], &Ipv6Addr::LOCALHOST.octets(), b"\x01\xbb"].concat();
        assert_eq!(told(&six), Ok(("[::1]:443".to_owned(), 22)));
        for (message, why) in [
            (&b"\x04\x01\x00\x50\x0a\x01\x02\x03\x00"[..], Malformed::Version(4)),
            (b"CONNECT a:80 HTTP/1.1\r\n\r\n", Malformed::Version(b'C')),
            (b"\x05\x02\x00\x01\x0a\x01\x02\x03\x00\x50", Malformed::Command(2)),
            (b"\x05\x03\x00\x01\x0a\x01\x02\x03\x00\x50", Malformed::Command(3)),
            (b"\x05\x01\x00\x02\x0a\x01\x02\x03\x00\x50", Malformed::AddressType(2)),
            (b"\x05\x01\x00\x03\x00\x00\x50", Malformed::Empty),
            (b"\x05\x01\x00\x03\x03a b\x00\x50", Malformed::Destination),
            (b"\x05\x01\x00\x03\x03a\n.\x00\x50", Malformed::Destination),
            (b"\x05\x01\x00\x03\x01a\x00\x00", Malformed::Destination),
            (b"\x05\x01\x00\x03\x01\xff\x00\x50", Malformed::Destination),
        ] {
            assert_eq!(told(message), Err(Some(why)), "{message:02x?}");
        }
        for cut in 0..14 {
            assert_eq!(told(&b"\x05\x01\x00\x03\x07db.SHOP\x15\x38"[..cut]), Err(None), "{cut}");
        }
    }

    #[test]
    fn methods_and_accounts_are_read() {
        assert_eq!(fed(b"\x05\x02\x00\x02rest", methods), Ok((vec![0, 2], 4)));
        assert_eq!(fed(b"\x05\x00", methods), Err(Some(Malformed::Empty)));
        assert_eq!(fed(b"\x01\x02me\x03keyrest", account), Ok((Account { user: b"me".to_vec(), password: b"key".to_vec() }, 8)));
        assert_eq!(fed(b"\x01\x00\x00", account), Err(Some(Malformed::Empty)));
        assert_eq!(fed(b"\x05\x02me\x03key", account), Err(Some(Malformed::Version(5))));
    }
}
