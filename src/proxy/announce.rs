//! The PROXY protocol: who really connected, told ahead of the bytes (version 1 and 2 in, version 2 out).
//!
//! Whoever may send it may say anything: it is read from sources that the operator listed and from nobody else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::admit::{Admitted, Ground};
use super::plan::Onward;
use crate::evidence::cbor::Writer;
use crate::verify::Origin;

/// The first octets of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// A line of version 1 is no longer (section 2.1).
const LINE: usize = 107;

/// What follows the 16 octets of version 2: addresses and a few certificates' worth of fields.
const MOST: usize = 4096;

/// Our own claims, in the range for applications (section 2.2.7).
const TYPE_CLAIMS: u8 = 0xe0;
const TYPE_ALPN: u8 = 0x01;
const TYPE_AUTHORITY: u8 = 0x02;
const TYPE_UNIQUE_ID: u8 = 0x05;
const TYPE_SSL: u8 = 0x20;
const TYPE_SSL_VERSION: u8 = 0x21;
const TYPE_SSL_CLIENT_CERT: u8 = 0x28;

/// `PP2_CLIENT_SSL`; `PP2_CLIENT_CERT_CONN` and `PP2_CLIENT_CERT_SESS`, which are one where no session is resumed.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT: u8 = 0x02 | 0x04;

/// So much of a certificate leaves room in the header for all else.
const CERTIFICATE: usize = 60 * 1024;

/// Why there is no announcement.
#[derive(Debug)]
pub(super) enum Unannounced {
    Late,
    Lost(io::Error),
    Malformed(&'static str),
}

impl std::fmt::Display for Unannounced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Late => f.write_str("none in time"),
            Self::Lost(error) => write!(f, "the connection ended: {error}"),
            Self::Malformed(what) => f.write_str(what),
        }
    }
}

/// Where a connection came from, and where it came to.
type Announced = (SocketAddr, SocketAddr);

/// Reads an announcement, and not one octet behind it. `None`: the proxy speaks for itself.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), limit: Duration) -> Result<Option<Announced>, Unannounced> {
    tokio::time::timeout(limit, unhurried(stream)).await.unwrap_or(Err(Unannounced::Late))
}

async fn unhurried(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Announced>, Unannounced> {
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await.map_err(Unannounced::Lost)?;
    if begin == SIGNATURE {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.map_err(Unannounced::Lost)?;
        let [command, family, high, low] = head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MOST {
            return Err(Unannounced::Malformed("a version 2 header that is too long"));
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await.map_err(Unannounced::Lost)?;
        return version2(command, family, &rest).map_err(Unannounced::Malformed);
    }
    let mut line = begin.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LINE || !line.starts_with(b"PROXY ") {
            return Err(Unannounced::Malformed("no PROXY header, and this source has to send one"));
        }
        line.push(stream.read_u8().await.map_err(Unannounced::Lost)?);
    }
    version1(&line).map_err(Unannounced::Malformed)
}

fn version1(line: &[u8]) -> Result<Option<Announced>, &'static str> {
    let malformed = "a version 1 header that is none";
    let text = std::str::from_utf8(line).map_err(|_| malformed)?.strip_suffix("\r\n").ok_or(malformed)?;
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, target, port, target_port] => {
            let address: IpAddr = source.parse().map_err(|_| malformed)?;
            let target: IpAddr = target.parse().map_err(|_| malformed)?;
            let number = |port: &str| port.parse::<u16>().ok().filter(|number| number.to_string() == port);
            let (Some(port), Some(target_port)) = (number(port), number(target_port)) else { return Err(malformed) };
            let right = (*family == "TCP4") == address.is_ipv4() && address.is_ipv4() == target.is_ipv4();
            if right { Ok(Some((SocketAddr::new(address, port), SocketAddr::new(target, target_port)))) } else { Err(malformed) }
        }
        _ => Err(malformed),
    }
}

fn version2(command: u8, family: u8, rest: &[u8]) -> Result<Option<Announced>, &'static str> {
    let port = |at: usize| rest.get(at..)?.first_chunk::<2>().map(|octets| u16::from_be_bytes(*octets));
    let v4 = |at: usize| rest.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
    let v6 = |at: usize| rest.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
    let both = |source: Option<IpAddr>, target: Option<IpAddr>, ports: usize| {
        Some((SocketAddr::new(source?, port(ports)?), SocketAddr::new(target?, port(ports.saturating_add(2))?)))
    };
    let lacking = "a version 2 header without its addresses";
    match (command, family) {
        // LOCAL: a health check of the proxy's own.
        (0x20, _) => Ok(None),
        (0x21, 0x11) => both(v4(0), v4(4), 8).map(Some).ok_or(lacking),
        (0x21, 0x21) => both(v6(0), v6(16), 32).map(Some).ok_or(lacking),
        (0x21, _) => Ok(None),
        _ => Err("a version 2 header of another version or command"),
    }
}

/// What an application is told of a connection.
pub(super) struct Told<'a> {
    pub(super) form: Onward,
    pub(super) source: Option<SocketAddr>,
    pub(super) target: Option<SocketAddr>,
    pub(super) alpn: Option<&'a [u8]>,
    pub(super) server_name: Option<&'a str>,
    pub(super) admitted: &'a Admitted,
}

/// The header of version 2, with what is verified about the client.
pub(super) fn write(told: &Told<'_>) -> Vec<u8> {
    // A listener for both families sees IPv4 as a part of IPv6.
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (family, addresses) = match (told.source.map(canonical), told.target.map(canonical)) {
        (Some(SocketAddr::V4(source)), Some(SocketAddr::V4(target))) => {
            (0x11, [&source.ip().octets()[..], &target.ip().octets(), &source.port().to_be_bytes(), &target.port().to_be_bytes()].concat())
        }
        (Some(source), Some(target)) => {
            let wide = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            (0x21, [&wide(source.ip())[..], &wide(target.ip()), &source.port().to_be_bytes(), &target.port().to_be_bytes()].concat())
        }
        // A local application over a Unix socket: no address to tell.
        _ => (0x00, Vec::new()),
    };
    let mut rest = addresses;
    if let Some(alpn) = told.alpn {
        field(&mut rest, TYPE_ALPN, alpn);
    }
    if let Some(name) = told.server_name {
        field(&mut rest, TYPE_AUTHORITY, name.as_bytes());
    }
    let id = crate::tls::nonce().unwrap_or_default();
    field(&mut rest, TYPE_UNIQUE_ID, id.get(..16).unwrap_or_default());
    if !matches!(told.admitted.ground, Ground::Local) {
        let client = if told.admitted.certificate.is_some() { CLIENT_SSL | CLIENT_CERT } else { CLIENT_SSL };
        // Zero says that the certificate was verified; that is so only for one whose evidence was.
        let verified = u32::from(told.admitted.certificate.is_none());
        let mut tls = [&[client][..], &verified.to_be_bytes()].concat();
        field(&mut tls, TYPE_SSL_VERSION, b"TLSv1.3");
        if let (Onward::WithCertificate, Some(certificate)) = (told.form, told.admitted.certificate.as_deref().filter(|leaf| leaf.len() <= CERTIFICATE)) {
            field(&mut tls, TYPE_SSL_CLIENT_CERT, certificate);
        }
        field(&mut rest, TYPE_SSL, &tls);
    }
    if let Ground::Attested(tier, result) = &told.admitted.ground {
        let appraisal = result.appraisal();
        let mut claims = Writer::new();
        // What only looks like a verdict of an enforced policy about a real machine says so.
        let marks = [(!appraisal.observed().is_empty(), "observed"), (appraisal.origin() == Origin::Simulator, "simulated")];
        let marks: Vec<_> = marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| *mark).collect();
        claims.map(if marks.is_empty() { 5 } else { 6 }).uint(1).text(appraisal.platform()).uint(2).text(appraisal.entry()).uint(3).text(appraisal.policy());
        claims.uint(4).bytes(appraisal.policy_digest()).uint(5).text(tier.name());
        if !marks.is_empty() {
            claims.uint(6).array(marks.len());
            for mark in marks {
                claims.text(mark);
            }
        }
        field(&mut rest, TYPE_CLAIMS, &claims.finish());
    }
    let length = u16::try_from(rest.len()).unwrap_or(0);
    rest.truncate(length.into());
    [&SIGNATURE[..], &[0x21, family], &length.to_be_bytes(), &rest].concat()
}

fn field(into: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // What does not fit is not told.
    let Ok(length) = u16::try_from(value.len()) else { return };
    into.push(kind);
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::admit;

    async fn told(bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, usize) {
        let mut rest = bytes;
        let told = read(&mut rest, Duration::from_secs(1)).await.map_err(|error| error.to_string());
        (told.map(|both| both.map(|(source, _)| source)), rest.len())
    }

    #[tokio::test]
    async fn both_versions_are_read_to_their_end_and_no_further() {
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        assert_eq!(told(b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\nGET /").await, (Ok(address("192.0.2.1:1234")), 5));
        assert_eq!(told(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\nx").await, (Ok(address("[2001:db8::1]:1")), 1));
        assert_eq!(told(b"PROXY UNKNOWN\r\nx").await, (Ok(None), 1));
        for source in ["192.0.2.1:1234", "[2001:db8::1]:9"] {
            let admitted = admit::local();
            let source = address(source);
            let header = write(&Told { form: Onward::Plain, source, target: source, alpn: Some(b"h2"), server_name: Some("a.example"), admitted: &admitted });
            assert_eq!(told(&[&header[..], b"rest"].concat()).await, (Ok(source), 4));
        }
        // IPv4 at a listener for both families is told as IPv4.
        let (admitted, mapped) = (admit::local(), address("[::ffff:192.0.2.1]:1234"));
        let header = write(&Told { form: Onward::Plain, source: mapped, target: mapped, alpn: None, server_name: None, admitted: &admitted });
        assert_eq!((header[13], told(&header).await), (0x11, (Ok(address("192.0.2.1:1234")), 0)));
        // Where it came to is read too.
        let both = address("192.0.2.1:1").zip(address("192.0.2.2:443"));
        assert_eq!(read(&mut &b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n"[..], Duration::from_secs(1)).await.ok(), Some(both));
        let header = write(&Told {
            form: Onward::Plain,
            source: both.map(|both| both.0),
            target: both.map(|both| both.1),
            alpn: None,
            server_name: None,
            admitted: &admitted,
        });
        assert_eq!(read(&mut &header[..], Duration::from_secs(1)).await.ok(), Some(both));
        // A check of the proxy's own.
        assert_eq!(told(&[&SIGNATURE[..], &[0x20, 0, 0, 0], b"x"].concat()).await, (Ok(None), 1));
    }

    #[tokio::test]
    async fn what_is_no_announcement_is_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PROXY TCP4 1.2.3.4\r\n                    ",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n",
            b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            &[b'P'; 200],
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\x01\x02\x03\x04",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
            b"",
        ] {
            assert!(told(bytes).await.0.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(command in any::<u8>(), family in any::<u8>(), rest in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = version2(command, family, &rest);
            let _ = version1(&rest);
        }
    }
}
