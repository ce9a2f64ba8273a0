//! AWS Nitro on this machine: the security module's device inside an enclave, AWS's own command on an instance with a
//! NitroTPM.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::kernel::Driver;
use super::nsm::{self, Nsm};
use super::{Attester, Detected, Place, Places, Provider, Quote, Sign, Unavailable, Weight, tpm};
use crate::evidence::nitro::{Document, Kind, MAX_DOCUMENT, request, response};
use crate::evidence::{Challenge, Endorsements, Evidence};

/// The provider of enclaves.
#[derive(Debug)]
pub struct Enclave;

impl Provider for Enclave {
    fn names(&self) -> &'static [&'static str] {
        &[nsm::PROVIDER]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        let path = places.of(NSM);
        let explained = |unavailable| places.kernel().explain_device(unavailable, &path, DRIVER);
        let attester = Nsm::open(&path).map_err(explained).map(|device| {
            let place = format!("{} at {}", nsm::PROVIDER, device.path().display());
            Box::new(Module { place, ask: move |request: &[u8]| device.ask(request) }) as Box<dyn Attester>
        });
        vec![Detected { provider: nsm::PROVIDER, outcome: attester }]
    }

    fn device(&self) -> Option<Place> {
        Some(NSM)
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        places.kernel().virtio("0x0021", "a Nitro Secure Module is on the bus").into_iter().collect()
    }
}

/// The module's device, and its driver.
const NSM: Place = Place("dev/nsm");
const DRIVER: Driver = Driver { module: "nsm", device: "class/misc/nsm", since: (6, 8) };

/// A security module behind some way to ask it.
struct Module<F> {
    place: String,
    ask: F,
}

impl<F: Fn(&[u8]) -> Result<Vec<u8>, Unavailable> + Send + Sync> Attester for Module<F> {
    fn platform(&self) -> &'static str {
        "nitro"
    }

    fn provider(&self) -> &'static str {
        nsm::PROVIDER
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let answer = (self.ask)(&request(&challenge.long.0))?;
        let document = response(&answer).map_err(|word| {
            let fix = "the module does not do what is documented of it: look at the kernel's log (dmesg)".to_owned();
            Unavailable { what: self.place.clone(), why: format!("the module says {word}"), fix, transient: word == "InternalError" }
        })?;
        ours(&self.place, document, Kind::Enclave, challenge)
    }
}

/// The provider of instances with a NitroTPM.
#[derive(Debug)]
pub struct Tpm;

/// The name of AWS's command, and of this way in configuration.
const COMMAND: &str = "nitro-tpm-attest";

/// Where it is installed.
const INSTALLED: Place = Place("usr/bin/nitro-tpm-attest");

impl Provider for Tpm {
    fn names(&self) -> &'static [&'static str] {
        &[COMMAND]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        let path = &places.of(INSTALLED);
        let outcome = if path.is_file() {
            Ok(Box::new(Instance { path: path.clone(), patience: Duration::from_secs(10) }) as Box<dyn Attester>)
        } else {
            let fix = "on an EC2 instance with a NitroTPM install AWS's aws-nitro-tpm-tools".to_owned();
            Err(Unavailable { what: place(path), why: "no such file".to_owned(), fix, transient: false })
        };
        vec![Detected { provider: COMMAND, outcome }]
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        places.kernel().firmware_says("sys_vendor", "Amazon EC2").into_iter().chain(Sign::at(&places.of(tpm::DEVICE), "there is a TPM", Weight::Hint)).collect()
    }
}

/// An instance, asked by AWS's command. What to include comes by its standard input, the document by its output.
struct Instance {
    path: PathBuf,
    patience: Duration,
}

impl Attester for Instance {
    fn platform(&self) -> &'static str {
        "nitrotpm"
    }

    fn provider(&self) -> &'static str {
        COMMAND
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let document = self.run(&challenge.long.0)?;
        ours(&place(&self.path), document, Kind::Tpm, challenge)
    }
}

impl Instance {
    fn run(&self, user_data: &[u8]) -> Result<Vec<u8>, Unavailable> {
        let failed = |why: String, transient| {
            let fix = "run it by hand as this user; it needs the TPM's device (/dev/tpmrm0)".to_owned();
            Unavailable { what: place(&self.path), why, fix, transient }
        };
        let io = |error: std::io::Error| failed(error.to_string(), false);
        let mut command = Command::new(&self.path);
        command.args(["--user-data", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(io)?;
        if let Some(mut input) = child.stdin.take() {
            // A command that ends without reading says why by itself.
            let _ = input.write_all(user_data);
        }
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let limit = u64::try_from(MAX_DOCUMENT).unwrap_or(u64::MAX).saturating_add(1);
        let reader = std::thread::spawn(move || bounded(output, limit));
        let complaints = std::thread::spawn(move || bounded(errors, 1024));
        let deadline = Instant::now() + self.patience;
        let status = loop {
            match child.try_wait().map_err(io)? {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(failed(format!("no answer within {} s", self.patience.as_secs()), true));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let document = reader.join().unwrap_or_default();
        // A command that had too much to say may have died of not being heard.
        if !status.success() && document.len() <= MAX_DOCUMENT {
            let said = String::from_utf8_lossy(&complaints.join().unwrap_or_default()).trim().escape_debug().to_string();
            return Err(failed(format!("{status}: {said}"), false));
        }
        Ok(document)
    }
}

fn bounded(source: Option<impl std::io::Read>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(source) = source {
        // What was read before an error is what there is; a cut document is refused by its form.
        let _ = source.take(limit).read_to_end(&mut bytes);
    }
    bytes
}

fn place(path: &Path) -> String {
    format!("{COMMAND} at {}", path.display())
}

/// Refuses what is not a document of this kind over our data: better here than at every peer.
fn ours(place: &str, bytes: Vec<u8>, kind: Kind, challenge: &Challenge) -> Result<Quote, Unavailable> {
    let unfit = |why: String, fix: &str, transient| Err(Unavailable { what: place.to_owned(), why, fix: fix.to_owned(), transient });
    match Document::parse(&bytes) {
        Ok((_, document)) if document.kind != kind => unfit("a document of the other kind".to_owned(), "this way is not this machine's", false),
        Ok((_, document)) if document.user_data.as_deref() == Some(&challenge.long.0) => {
            Ok(Quote { evidence: Evidence::new(kind.media_type(), bytes), endorsements: Endorsements::default() })
        }
        Ok(_) => unfit("user_data is not what was asked for".to_owned(), "another process answers in its place: find it and stop it", true),
        Err(denied) => unfit(format!("document: {denied}"), "AWS changed its documents: look for a newer release", false),
    }
}

#[cfg(all(test, feature = "simulator"))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::attester::simulator::nitro::NitroForge;
    use crate::evidence::cbor::foreign::{Item, Map};
    use crate::evidence::nitro::answer;
    use crate::evidence::{ReportData, Timestamp};

    const CHALLENGE: Challenge = Challenge { long: ReportData([7; 64]), short: [7; 48] };

    fn forge(kind: Kind) -> NitroForge {
        NitroForge::new(kind, 1, Timestamp(1_790_812_800))
    }

    /// What the module reads out of a request: `user_data`, when it is the one thing that is given.
    fn asked(request: &[u8]) -> Option<Vec<u8>> {
        let Ok(Item::Map(map)) = Item::decode(request) else { return None };
        let [(Item::Text("Attestation"), Item::Map(Map { pairs, .. }))] = map.pairs.as_slice() else { return None };
        let [(Item::Text("user_data"), Item::Bytes(data)), (Item::Text("nonce"), Item::Null), (Item::Text("public_key"), Item::Null)] = pairs.as_slice() else {
            return None;
        };
        Some(data.to_vec())
    }

    fn module(ask: impl Fn(&[u8]) -> Result<Vec<u8>, Unavailable> + Send + Sync + 'static) -> Result<Quote, Unavailable> {
        Module { place: "a fake module".to_owned(), ask }.attest(&CHALLENGE)
    }

    #[test]
    fn a_module_is_asked_in_its_own_words_and_believed_when_it_answers_ours() {
        let genuine = |request: &[u8]| Ok(answer(&forge(Kind::Enclave).quote(&asked(request).expect("a request")).evidence.bytes));
        let quote = module(genuine).expect("a quote");
        let (_, document) = Document::parse(&quote.evidence.bytes).expect("a document");
        assert_eq!(document.user_data.as_deref(), Some([7; 64].as_slice()));
        let other = module(|_| Ok(answer(&forge(Kind::Enclave).quote(&[8; 64]).evidence.bytes))).unwrap_err();
        assert!(other.why.contains("not what was asked for") && other.transient, "{other}");
        let tpm = module(|request| Ok(answer(&forge(Kind::Tpm).quote(&asked(request).expect("a request")).evidence.bytes))).unwrap_err();
        assert!(tpm.why.contains("other kind"), "{tpm}");
    }

    #[test]
    fn what_a_module_says_instead_is_told() {
        for (said, why) in [
            (
                vec![0xa1, 0x65, b'E', b'r', b'r', b'o', b'r', 0x6d, b'I', b'n', b'p', b'u', b't', b'T', b'o', b'o', b'L', b'a', b'r', b'g', b'e'],
                "InputTooLarge",
            ),
            (b"\xa1\x69GetRandom\xa0".to_vec(), "another request"),
            (Vec::new(), "no CBOR map"),
            (answer(b"no document"), "evidence_malformed"),
        ] {
            let error = module(move |_| Ok(said.clone())).unwrap_err();
            assert!(error.why.contains(why), "{error}");
        }
    }

    /// AWS's command as a script that copies what it was given, or a finished document.
    fn command(folder: &Path, body: &str) -> Result<Quote, Unavailable> {
        let path = folder.join(COMMAND);
        if !path.exists() {
            let text = format!("#!/bin/sh\n[ \"$1\" = --user-data ] || exit 9\ncat \"$2\" > {0}/given\n. {0}/body\n", folder.display());
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(folder.join("body"), body).unwrap();
        Instance { path, patience: Duration::from_secs(2) }.attest(&CHALLENGE)
    }

    #[test]
    fn the_command_is_given_our_data_and_its_document_taken() {
        let folder = tempfile::tempdir().unwrap();
        let document = folder.path().join("document");
        fs::write(&document, forge(Kind::Tpm).quote(&[7; 64]).evidence.bytes).unwrap();
        let quote = command(folder.path(), &format!("cat {}", document.display())).expect("a quote");
        assert_eq!(fs::read(folder.path().join("given")).unwrap(), [7; 64]);
        assert_eq!(quote.evidence.media_type, Kind::Tpm.media_type());
        for (body, why) in [
            ("echo no TPM here >&2; exit 1", "no TPM here"),
            ("head -c 100000 /dev/zero", "at most"),
            ("exec sleep 60", "no answer within"),
            ("true", "evidence_malformed"),
        ] {
            let error = command(folder.path(), body).unwrap_err();
            assert!(error.why.contains(why), "{body}: {error}");
        }
        let nowhere = Tpm.detect(&Places::default().moved(INSTALLED, folder.path().join("nowhere")));
        assert!(nowhere.iter().all(|way| way.outcome.as_ref().is_err_and(|error| error.fix.contains("aws-nitro-tpm-tools"))));
    }
}
