//! The Azure instance metadata service: what only the host can add to evidence. Plain HTTP to a link-local address, as
//! the service offers it; nothing that it says is believed here or anywhere without a signature.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use data_encoding::{BASE64URL, BASE64URL_NOPAD};
use serde::Deserialize;

use super::Unavailable;
use super::document::Document;
use crate::evidence::{Endorsement, Endorsements};

/// Where the service is on every Azure machine.
pub(super) const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254)), 80);

const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read: a TD quote in base64 is 8 KiB, certificates as PEM less.
const MAX_ANSWER: u64 = 64 * 1024;

/// The service at an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Imds(pub(super) SocketAddr);

#[derive(Deserialize)]
struct Certification {
    #[serde(rename = "vcekCert")]
    vcek: String,
    #[serde(rename = "certificateChain")]
    chain: String,
}

#[derive(Deserialize)]
struct TdQuote {
    quote: String,
}

impl Imds {
    /// The VCEK of this machine's chip and TCB, with its issuer.
    ///
    /// # Errors
    /// [`Unavailable`], always transient: the service comes and goes with the host.
    pub(super) fn certification(self) -> Result<Endorsements, Unavailable> {
        let body = self.ask("GET /metadata/THIM/amd/certification", b"")?;
        let certification: Certification = serde_json::from_slice(&body).map_err(|error| self.failed(error.to_string()))?;
        // The chain is ASK, then ARK, which verifiers have themselves.
        let parts = [("vcek", certification.vcek), ("ask", certification.chain)];
        let named = parts.into_iter().map(|(name, pem)| Document::read(pem.as_bytes()).map(|document: Document| -> Endorsement { document.named(name) }));
        named.collect::<Option<_>>().ok_or_else(|| self.failed("certificates that are neither DER nor PEM".to_owned()))
    }

    /// A TD quote over a TDREPORT of this machine.
    ///
    /// # Errors
    /// As [`Imds::certification`].
    pub(super) fn td_quote(self, tdreport: &[u8]) -> Result<Vec<u8>, Unavailable> {
        let request = serde_json::json!({ "report": BASE64URL_NOPAD.encode(tdreport) }).to_string();
        let body = self.ask("POST /acc/tdquote", request.as_bytes())?;
        let answer: TdQuote = serde_json::from_slice(&body).map_err(|error| self.failed(error.to_string()))?;
        let quote = answer.quote.as_bytes();
        BASE64URL_NOPAD.decode(quote).or_else(|_| BASE64URL.decode(quote)).map_err(|error| self.failed(error.to_string()))
    }

    fn ask(self, what: &str, body: &[u8]) -> Result<Vec<u8>, Unavailable> {
        self.exchange(what, body).and_then(|answer| content(&answer)).map_err(|error| self.failed(error.to_string()))
    }

    fn exchange(self, what: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.0, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let length = body.len();
        let head = format!(
            "{what} HTTP/1.1\r\nHost: {}\r\nMetadata: true\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
            self.0.ip()
        );
        stream.write_all(&[head.as_bytes(), body].concat())?;
        // One deadline for all of it: a time limit for each read would let a host drip for days.
        let (deadline, mut answer) = (Instant::now() + PATIENCE, Vec::new());
        let mut stream = stream.take(MAX_ANSWER);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.get_ref().set_read_timeout(Some(left))?;
            let mut some = [0; 4096];
            match stream.read(&mut some) {
                Ok(0) => return Ok(answer),
                Ok(count) => answer.extend(some.iter().take(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn failed(self, why: String) -> Unavailable {
        let fix = "see that the guest may reach its host's metadata service; or staple the certificates with identity.endorsements".to_owned();
        Unavailable { what: format!("instance metadata service at {}", self.0), why, fix, transient: true }
    }
}

/// The body of a successful answer.
fn content(answer: &[u8]) -> io::Result<Vec<u8>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let end = answer.windows(4).position(|octets| octets == b"\r\n\r\n").ok_or_else(|| wrong("no HTTP answer"))?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase(), &answer[end + 4..]);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !head.starts_with("http/1.") || status != "200" {
        return Err(wrong(&format!("status {}", head.lines().next().unwrap_or_default())));
    }
    if head.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked")) {
        return unchunked(body).ok_or_else(|| wrong("chunks that are cut off"));
    }
    Ok(body.to_vec())
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|octets| octets == b"\r\n")?;
        let size = std::str::from_utf8(rest.get(..end)?).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = rest.get(end + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend(rest.get(..size)?);
        rest = rest.get(size.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_in_chunks() {
        assert_eq!(content(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}").unwrap(), b"{}");
        assert_eq!(content(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\nd\r\n0\r\n\r\n").unwrap(), b"abcd");
        for wrong in ["", "HTTP/1.1 404 no\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", "junk\r\n\r\n"] {
            assert!(content(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
