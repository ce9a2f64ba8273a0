//! PSA tokens on this machine: from whatever the platform has between its processes and the secure side, by a socket or a
//! folder of two files.
//!
//! The socket (a Unix stream): we write the length of the challenge (one octet) and the challenge; the service writes the
//! length of the token (four octets, big-endian) and the token, or a length of zero when it has none; then both close.
//! The folder: we write the challenge to `challenge` and read the token from `token`, as one request at a time.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Attester, Detected, Place, Places, Provider, Quote, Sign, Unavailable, Weight};
use crate::evidence::psa::{MAX_TOKEN, MEDIA_TYPE, Token};
use crate::evidence::{Challenge, Endorsements, Evidence};

/// The platform's provider.
#[derive(Debug)]
pub struct Psa;

/// The name under which configuration knows this way.
const PROVIDER: &str = "psa-tokens";

/// The socket of the service that gives tokens, or the folder of its files.
const SERVICE: Place = Place("run/psa-tokens");

/// A secure side answers in milliseconds; longer than this is no answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Provider for Psa {
    fn names(&self) -> &'static [&'static str] {
        &[PROVIDER]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        let path = &places.of(SERVICE);
        let service = fs::metadata(path).and_then(|metadata| match metadata.file_type() {
            kind if kind.is_socket() => UnixStream::connect(path).map(|_| Way::Socket),
            kind if kind.is_dir() => fs::metadata(path.join(TOKEN)).map(|_| Way::Folder(Mutex::default())),
            _ => Err(io::Error::other("neither a socket nor a folder")),
        });
        let outcome = match service {
            Ok(way) => Ok(Box::new(Service { path: path.clone(), way }) as Box<dyn Attester>),
            Err(error) => Err(places.kernel().explain_path(unavailable(path, &error), path)),
        };
        vec![Detected { provider: PROVIDER, outcome }]
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        Sign::at(&places.of(SERVICE), "there is a service of PSA tokens", Weight::Proof).into_iter().collect()
    }
}

const CHALLENGE: &str = "challenge";
const TOKEN: &str = "token";

struct Service {
    path: PathBuf,
    way: Way,
}

enum Way {
    /// One request at a time.
    Folder(Mutex<()>),
    Socket,
}

impl Attester for Service {
    fn platform(&self) -> &'static str {
        "psa"
    }

    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let asked = match &self.way {
            Way::Folder(one_at_a_time) => {
                let _held = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
                self.folder(&challenge.long.0)
            }
            Way::Socket => self.socket(&challenge.long.0),
        };
        let bytes = asked.map_err(|error| unavailable(&self.path, &error))?;
        let unfit = |why: String, fix: &str, transient| Err(Unavailable { what: what(&self.path), why, fix: fix.to_owned(), transient });
        match Token::parse(&bytes).map(|(_, token)| token.nonce == challenge.long.0) {
            Ok(true) => Ok(Quote { evidence: Evidence::new(MEDIA_TYPE, bytes), endorsements: Endorsements::default() }),
            Ok(false) => {
                unfit("token: its nonce is not what was asked for".to_owned(), "something else asks this service too: keep it for the sidecar alone", true)
            }
            Err(denied) => unfit(format!("token: {denied}"), "the service gives other tokens than RFC 9783's", false),
        }
    }
}

impl Service {
    fn socket(&self, challenge: &[u8; 64]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[64])?;
        stream.write_all(challenge)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length == 0 {
            return Err(io::Error::other("the service has no token"));
        }
        if length > MAX_TOKEN {
            return Err(io::Error::other(format!("a token of {length} octets, more than {MAX_TOKEN}")));
        }
        let mut token = vec![0; length];
        stream.read_exact(&mut token)?;
        Ok(token)
    }

    fn folder(&self, challenge: &[u8; 64]) -> io::Result<Vec<u8>> {
        fs::OpenOptions::new().write(true).truncate(true).open(self.path.join(CHALLENGE))?.write_all(challenge)?;
        let mut token = Vec::new();
        File::open(self.path.join(TOKEN))?.take(MAX_TOKEN as u64 + 1).read_to_end(&mut token)?;
        Ok(token)
    }
}

fn what(path: &Path) -> String {
    format!("{PROVIDER} at {}", path.display())
}

fn unavailable(path: &Path, error: &io::Error) -> Unavailable {
    let transient = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
    let fix = "a service of the platform must give tokens there: see docs/platforms/psa.md";
    Unavailable { what: what(path), why: error.to_string(), fix: fix.to_owned(), transient }
}

#[cfg(all(test, feature = "simulator"))]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::attester::simulator::psa::PsaForge;
    use crate::evidence::ReportData;

    const ASKED: Challenge = Challenge { long: ReportData([7; 64]), short: [7; 48] };

    fn only(path: &Path) -> Result<Box<dyn Attester>, Unavailable> {
        Psa.detect(&Places::default().moved(SERVICE, path)).pop().expect("one way").outcome
    }

    /// A service for one probe and one request.
    fn serve(path: &Path, answer: impl FnOnce(Vec<u8>) -> Vec<u8> + Send + 'static) {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 65];
            stream.read_exact(&mut asked).unwrap();
            assert_eq!(asked.remove(0), 64);
            stream.write_all(&answer(asked)).unwrap();
        });
    }

    fn framed(token: &[u8]) -> Vec<u8> {
        [&u32::try_from(token.len()).unwrap().to_be_bytes(), token].concat()
    }

    #[test]
    fn a_socket_is_asked_and_its_answer_looked_at() {
        type Answer = fn(Vec<u8>) -> Vec<u8>;
        let folder = tempfile::tempdir().unwrap();
        let cases: [(&str, Answer, &str); 5] = [
            ("good", |asked| framed(&PsaForge::new(1).token(&asked)), ""),
            ("other", |_| framed(&PsaForge::new(1).token(&[8; 64])), "not what was asked for"),
            ("none", |_| vec![0; 4], "has no token"),
            ("long", |_| vec![0xff; 4], "more than"),
            ("broken", |_| framed(b"no token"), "evidence_malformed"),
        ];
        for (name, answer, why) in cases {
            let path = folder.path().join(name);
            serve(&path, answer);
            match only(&path).expect("a service").attest(&ASKED) {
                Ok(quote) => assert!(why.is_empty() && quote.evidence.media_type == MEDIA_TYPE, "{name}"),
                Err(error) => assert!(!why.is_empty() && error.why.contains(why), "{name}: {error}"),
            }
        }
    }

    #[test]
    fn a_folder_is_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(only(folder.path()).is_err());
        for (name, content) in [(CHALLENGE, Vec::new()), (TOKEN, PsaForge::new(1).token(&ASKED.long.0))] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        only(folder.path()).expect("a folder").attest(&ASKED).expect("a token");
        assert_eq!(fs::read(folder.path().join(CHALLENGE)).unwrap(), [7; 64]);
        fs::write(folder.path().join(TOKEN), vec![0; 100_000]).unwrap();
        assert!(only(folder.path()).expect("a folder").attest(&ASKED).unwrap_err().why.contains("at most"));
        assert!(only(&folder.path().join(TOKEN)).err().unwrap().why.contains("neither a socket nor a folder"));
        assert!(only(&folder.path().join("nowhere")).err().unwrap().fix.contains("psa.md"));
    }
}
