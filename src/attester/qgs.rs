//! Intel's quote generation service on the host, asked as Intel's own library asks it: over vsock, each message behind its
//! length (four octets, big-endian). The messages are little-endian (`qgs_msg_lib.h`, version 1.1):
//!
//! ```text
//! header        { u16 major, u16 minor, u32 type, u32 size of the whole message, u32 error }
//! GET_QUOTE_REQ  header, u32 size of the report, u32 size of the key identifiers, the report
//! GET_QUOTE_RESP header, u32 size of the chosen identifier, u32 size of the quote, the identifier, the quote
//! ```
//!
//! The host is nobody's friend: an answer is read under bounds, and whether it is a quote of ours is for others to say.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Place, Unavailable};

/// Intel's file that names the port of the host's service, or the Unix socket of one.
pub const SERVICE: Place = Place("etc/tdx-attest.conf");

/// The service where Intel's configuration file says, or behind a Unix socket.
#[derive(Clone, Debug)]
pub(super) struct QuoteService {
    /// The file or the socket.
    pub(super) place: PathBuf,
}

/// How long an answer may take as a whole: the first quote after a host's start has its keys made.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer that is read: a quote has some 5 KiB.
const MAX_ANSWER: usize = 64 * 1024;
/// The longest configuration file.
const MAX_FILE: u64 = 16 * 1024;
/// The port where the file says none, and VMADDR_CID_HOST.
const PORT: u32 = 4050;
const HOST: u32 = 2;

const GET_QUOTE_REQ: u32 = 0;
const GET_QUOTE_RESP: u32 = 1;
const HEADER: usize = 16;

impl QuoteService {
    /// Whether somebody listens there. Asks nothing.
    pub(super) fn probe(&self) -> Result<(), Unavailable> {
        self.connect().map(drop).map_err(|error| self.explain(&error))
    }

    /// A quote of a TDREPORT.
    pub(super) fn quote(&self, tdreport: &[u8]) -> Result<Vec<u8>, Unavailable> {
        let answered = self.exchange(&request(tdreport)).map_err(|error| self.explain(&error))?;
        answer(&answered).map_err(|why| Unavailable {
            what: self.name(),
            why,
            fix: "look at the quote generation service's log on the host, and at its PCCS".to_owned(),
            transient: true,
        })
    }

    fn exchange(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut line = self.connect()?;
        let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        line.write_all(&[&length.to_be_bytes(), message].concat())?;
        let (mut length, end) = ([0; 4], Instant::now() + PATIENCE);
        fill(&mut *line, &mut length, end)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer of {length} octets")));
        }
        let mut answer = vec![0; length];
        fill(&mut *line, &mut answer, end)?;
        Ok(answer)
    }

    fn connect(&self) -> io::Result<Box<dyn Line>> {
        if std::fs::metadata(&self.place).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            let socket = UnixStream::connect(&self.place)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            return Ok(Box::new(socket));
        }
        let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&SockAddr::vsock(HOST, port(&self.place)?))?;
        Ok(Box::new(socket))
    }

    fn name(&self) -> String {
        format!("quote generation service by {}", self.place.display())
    }

    fn explain(&self, error: &io::Error) -> Unavailable {
        let fix = match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                "what answers is not Intel's quote generation service, or it broke off: look at its log on the host"
            }
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "the service does not answer: look at its log on the host",
            _ => {
                "have the host's operator start Intel's quote generation service (qgsd) and give this guest a vsock device; a port other than 4050 stands in /etc/tdx-attest.conf"
            }
        };
        Unavailable { what: self.name(), why: error.to_string(), fix: fix.to_owned(), transient: true }
    }
}

trait Line: Read + Write {
    /// Reads wait no longer than this.
    fn wait(&self, most: Duration) -> io::Result<()>;
}

impl Line for UnixStream {
    fn wait(&self, most: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(most))
    }
}

impl Line for Socket {
    fn wait(&self, most: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(most))
    }
}

/// Reads all of `octets` before `end`, however few come at a time.
fn fill(line: &mut dyn Line, mut octets: &mut [u8], end: Instant) -> io::Result<()> {
    while !octets.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        line.wait(left)?;
        match line.read(octets) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => octets = octets.get_mut(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The port that Intel's configuration file names (`port=4050`), or the usual one where there is no such file or line.
fn port(path: &Path) -> io::Result<u32> {
    let mut text = String::new();
    match crate::file::open(path) {
        Ok(file) => file.take(MAX_FILE).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PORT),
        Err(error) => return Err(error),
    };
    let named = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == "port");
    let Some((_, port)) = named else { return Ok(PORT) };
    port.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("port {:?}", port.trim())))
}

fn request(tdreport: &[u8]) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let mut message = Vec::new();
    message.extend([1, 0, 1, 0]);
    message.extend(GET_QUOTE_REQ.to_le_bytes());
    message.extend(number(HEADER + 8 + tdreport.len()));
    message.extend([0; 4]);
    message.extend(number(tdreport.len()));
    message.extend([0; 4]); // any key
    message.extend(tdreport);
    message
}

/// The quote of an answer.
///
/// # Errors
/// What is wrong with it, for people.
pub fn answer(message: &[u8]) -> Result<Vec<u8>, String> {
    let number = |at: usize| message.get(at..)?.first_chunk().copied().map(u32::from_le_bytes).and_then(|number| usize::try_from(number).ok());
    let fields = || Some((number(4)?, number(8)?, number(12)?));
    let (Some([1, 0, _, _]), Some((kind, size, error))) = (message.first_chunk(), fields()) else {
        return Err("an answer that is cut off or of another version".to_owned());
    };
    if error != 0 {
        return Err(format!("it made no quote: error {error:#x}"));
    }
    if kind != usize::try_from(GET_QUOTE_RESP).unwrap_or_default() || size != message.len() {
        return Err(format!("an answer of type {kind} that says {size} octets, of {}", message.len()));
    }
    let quote = || {
        let (identifier, quote) = (number(HEADER)?, number(HEADER + 4)?);
        let start = (HEADER + 8).checked_add(identifier)?;
        message.get(start..).filter(|rest| rest.len() == quote)
    };
    quote().map(<[u8]>::to_vec).ok_or_else(|| "an answer whose lengths do not add up".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_files_or_the_usual_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tdx-attest.conf");
        assert_eq!(port(&file).unwrap(), 4050);
        for (text, expected) in [("# nothing\n", Some(4050)), (" port = 5050 \n", Some(5050)), ("port=\n", None), ("port=70000000000\n", None)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(port(&file).ok(), expected, "{text}");
        }
    }

    /// A host that gives an octet now and then would otherwise hold the one thread that asks for quotes.
    #[test]
    fn an_answer_has_one_deadline_and_not_one_for_each_octet() {
        let (mut line, mut host) = UnixStream::pair().unwrap();
        let host = std::thread::spawn(move || {
            while host.write_all(&[7]).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let ended = fill(&mut line, &mut [0; MAX_ANSWER], Instant::now() + Duration::from_millis(100)).unwrap_err();
        assert!(matches!(ended.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{ended}");
        drop(line);
        host.join().unwrap();
    }

    #[test]
    fn answers_are_read_whole_or_refused() {
        let message = |kind: u32, error: u32, identifier: &[u8], quote: &[u8]| {
            let number = |length: usize| u32::try_from(length).unwrap().to_le_bytes();
            let body = [&number(identifier.len()), &number(quote.len()), identifier, quote].concat();
            [&[1, 0, 1, 0][..], &kind.to_le_bytes(), &number(HEADER + body.len()), &error.to_le_bytes(), &body].concat()
        };
        assert_eq!(answer(&message(1, 0, b"", b"quote")), Ok(b"quote".to_vec()));
        assert_eq!(answer(&message(1, 0, &[7; 16], b"quote")), Ok(b"quote".to_vec()));
        assert!(answer(&message(1, 0x1_2001, b"", b"")).unwrap_err().contains("0x12001"));
        assert!(answer(&message(3, 0, b"", b"quote")).is_err());
        let good = message(1, 0, &[7; 16], b"quote");
        assert!((0..good.len()).all(|end| answer(&good[..end]).is_err()));
        assert!(answer(&[good.as_slice(), b"!"].concat()).is_err());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = 0xff;
            let _ = answer(&bad);
        }
        assert_eq!(request(&[9; 1024]).len(), 1048);
    }
}
