//! RISC-V Keystone on this machine: the enclave's runtime answers on a socket.
//!
//! Keystone itself gives enclaves no file, only a call of the runtime (`attest_enclave`): what serves it to processes is
//! the runtime's builder's. The least that can be asked of it: connect, write the 64 octets of report data, read the
//! report of 1352 octets to the end.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Attester, Detected, Place, Places, Provider, Quote, Sign, Unavailable, Weight};
use crate::evidence::keystone::{MEDIA_TYPE, REPORT_SIZE, Report};
use crate::evidence::{Bound, Challenge, Endorsements, Evidence};

/// The way's name in configuration.
pub const PROVIDER: &str = "keystone-socket";

/// The socket of the runtime's attestation service.
const SOCKET: Place = Place("run/keystone/attestation.sock");

/// The monitor signs in software, in milliseconds; longer than this is no answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The platform's provider.
#[derive(Debug)]
pub struct Keystone;

impl Provider for Keystone {
    fn names(&self) -> &'static [&'static str] {
        &[PROVIDER]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        let socket = places.of(SOCKET);
        let outcome = match connect(&socket) {
            Ok(_) => Ok(Box::new(KeystoneAttester { socket }) as Box<dyn Attester>),
            Err(error) => Err(places.kernel().explain_path(unavailable(&socket, &error), &socket)),
        };
        vec![Detected { provider: PROVIDER, outcome }]
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        Sign::at(&places.of(SOCKET), "there is a Keystone runtime's socket", Weight::Proof).into_iter().collect()
    }
}

#[derive(Debug)]
struct KeystoneAttester {
    socket: PathBuf,
}

impl Attester for KeystoneAttester {
    fn platform(&self) -> &'static str {
        "keystone"
    }

    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let bytes = self.ask(&challenge.long.0).map_err(|error| unavailable(&self.socket, &error))?;
        let unfit = |why: String, fix: &str| Unavailable { what: what(&self.socket), why, fix: fix.to_owned(), transient: false };
        match Report::parse(&bytes) {
            Ok(report) if report.bound() == Bound::Long(challenge.long) => {
                Ok(Quote { evidence: Evidence::new(MEDIA_TYPE, bytes), endorsements: Endorsements::default() })
            }
            Ok(_) => Err(unfit("report: its data is not what was asked for".to_owned(), "the service must sign the 64 octets it is sent, as they are")),
            Err(denied) => Err(unfit(format!("report: {denied}"), "the service must answer with Keystone's struct report, 1352 octets")),
        }
    }
}

impl KeystoneAttester {
    fn ask(&self, data: &[u8; 64]) -> io::Result<Vec<u8>> {
        let mut stream = connect(&self.socket)?;
        stream.write_all(data)?;
        let mut bytes = Vec::new();
        let most = u64::try_from(REPORT_SIZE).unwrap_or(u64::MAX).saturating_add(1);
        stream.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn what(socket: &Path) -> String {
    format!("{PROVIDER} at {}", socket.display())
}

fn unavailable(socket: &Path, error: &io::Error) -> Unavailable {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied, TimedOut, WouldBlock};
    let (fix, transient) = match error.kind() {
        NotFound => ("only inside a Keystone enclave: its runtime must offer the attestation call on this socket", false),
        ConnectionRefused => ("nothing listens there: start the runtime's attestation service", true),
        PermissionDenied => ("let the sidecar's user write to the socket, and nobody else", false),
        TimedOut | WouldBlock => ("the service does not answer: look at its log", true),
        _ => ("look at the runtime's attestation service", true),
    };
    Unavailable { what: what(socket), why: error.to_string(), fix: fix.to_owned(), transient }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::evidence::ReportData;

    const ASKED: Challenge = Challenge { long: ReportData([7; 64]), short: [8; 48] };

    /// What comes of a service that answers a request of 64 octets with what `answer` makes of it.
    fn served(answer: fn(Vec<u8>) -> Vec<u8>) -> Result<Quote, Unavailable> {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("attest");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let service = thread::spawn(move || {
            // The probe of `detect` connects and asks nothing.
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut data = vec![0; 64];
                if stream.read_exact(&mut data).is_ok() {
                    let _ = stream.write_all(&answer(data));
                }
            }
        });
        let places = Places::default().moved(SOCKET, socket);
        let attester = Keystone.detect(&places).remove(0).outcome.unwrap_or_else(|error| panic!("{error}"));
        let quote = attester.attest(&ASKED);
        service.join().expect("the service ends");
        quote
    }

    fn report(data: Vec<u8>) -> Vec<u8> {
        let (hash, key) = ([1; 64], [2; 32]);
        let report =
            Report { enclave_hash: hash, data, enclave_signature: hash, sm_hash: hash, sm_public_key: key, sm_signature: hash, device_public_key: key };
        report.encode()
    }

    #[test]
    fn the_answer_is_evidence_when_it_is_a_report_over_what_was_asked() {
        assert_eq!(served(report).expect("evidence").evidence.bytes, report(vec![7; 64]));
        for (answer, said) in [
            ((|_| report(vec![9; 64])) as fn(Vec<u8>) -> Vec<u8>, "not what was asked for"),
            (|data| report(data)[..1351].to_vec(), "evidence_size"),
            (|data| [report(data), vec![0; 9_000]].concat(), "evidence_size"),
            (|_| Vec::new(), "evidence_size"),
        ] {
            let error = served(answer).expect_err("no evidence");
            assert!(error.why.contains(said), "{error}");
        }
    }

    #[test]
    fn outside_an_enclave_there_is_a_reason_and_a_fix() {
        let places = Places::default().moved(SOCKET, "/nowhere/attest");
        let Err(error) = Keystone.detect(&places).remove(0).outcome else { panic!("evidence from nowhere") };
        assert!(error.to_string().starts_with("keystone-socket at /nowhere/attest: No such file"), "{error}");
        assert!(error.fix.contains("inside a Keystone enclave") && !error.transient);
    }
}
