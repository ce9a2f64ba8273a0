//! The TPM side against a software TPM that others wrote: our client, what it quotes, and the attester of an Azure VM on
//! top of it. Skipped, aloud, where `swtpm` is not installed.

#![cfg(feature = "simulator")]

#[path = "support/swtpm.rs"]
mod swtpm;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use portcullis::attester::azure::{self, Azure, KEY_HANDLE, REPORT_INDEX};
use portcullis::attester::simulator::{AzureForge, Role, ordinary_log};
use portcullis::attester::{Attester, Places, Provider as _, tpm};
use portcullis::evidence::snp::Product;
use portcullis::evidence::tpm::{Attest, Extras, Hash, Member, Selection, Signature};
use portcullis::evidence::{Challenge, Endorsements, Timestamp};
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::Reason;
use portcullis::verify::Appraiser;
use portcullis::verify::memo::NoMemo;
use swtpm::SoftwareTpm;

/// The largest NV index of this software TPM; of Azure's it is 2600.
const LARGEST_INDEX: usize = 2048;

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);

#[test]
fn quotes_are_read_and_their_registers_are_those_of_the_tpm() {
    let Some(software) = SoftwareTpm::start() else { return };
    let tpm = swtpm::opened(&software.path());
    for (handle, template) in [(0x8101_0001, swtpm::rsa_template()), (0x8101_0002, swtpm::ecc_template())] {
        swtpm::persistent(&tpm, &template, handle);
        for (extra, bank) in [(&b""[..], Hash::Sha256), (&[7; 48], Hash::Sha256), (&[8; 48], Hash::Sha384)] {
            let quoted = tpm.quote(handle, extra, bank).expect("a quote");
            let attest = Attest::parse(&quoted.attest).expect("a TPMS_ATTEST");
            assert_eq!(attest.encode(), quoted.attest, "one encoding");
            assert_eq!((attest.extra_data.as_slice(), attest.selection), (extra, Selection::of(bank, 0..24)));
            let signature = Signature::parse(&quoted.signature).expect("a TPMT_SIGNATURE");
            assert_eq!(signature.encode(), quoted.signature, "one encoding");
            assert_eq!((quoted.pcrs.values.len(), quoted.pcrs.values[&0].len()), (24, bank.size()));
            let member = Member::encode(&quoted.attest, &quoted.signature, &quoted.pcrs, &Extras::default());
            assert_eq!(Member::parse(&member).expect("a member").quote, attest);
        }
    }
}

#[test]
fn a_log_replays_to_what_a_tpm_was_extended_with() {
    let Some(software) = SoftwareTpm::start() else { return };
    let tpm = swtpm::opened(&software.path());
    boot(&tpm);
    let pcrs = tpm.pcrs(Selection::of(Hash::Sha256, 0..8)).expect("registers");
    let replayed = ordinary_log().replay(Hash::Sha256).expect("a replay");
    assert_eq!(
        replayed.into_iter().map(|(index, value)| (u8::try_from(index).expect("small"), value)).collect::<std::collections::BTreeMap<_, _>>(),
        pcrs.values
    );
}

/// Extends a TPM as firmware that writes the ordinary log does.
fn boot(tpm: &tpm::Tpm) {
    for event in ordinary_log().events.iter().filter(|event| event.kind != 3) {
        swtpm::extend(tpm, event.register, event.digest(Hash::Sha256).expect("a digest").try_into().expect("32 octets"));
    }
}

#[test]
fn an_azure_vm_makes_evidence_that_its_policy_accepts() {
    let Some(software) = SoftwareTpm::start() else { return };
    let forge = provision(&software);
    let metadata = metadata_service(&forge);
    let attester = detected(&software, metadata).expect("an attester");
    let challenge = Challenge::of(b"a challenge");
    for _ in 0..2 {
        let mut quote = attester.attest(&challenge).expect("evidence");
        let names: Vec<_> = quote.endorsements.iter().map(|endorsement| endorsement.name.clone()).collect();
        assert_eq!(names, ["vcek", "ask"], "what the metadata service gives");
        let verifier = platform::by_name("azure-snp").expect("the platform").verifier;
        assert!(verifier.bound(&quote.evidence).expect("a quote").answers(&challenge));
        let mut endorsements: Endorsements = forge.hardware.endorsements().into_iter().filter(|endorsement| endorsement.name == "crl").collect();
        endorsements.extend(quote.endorsements);
        let examine = |evidence: &portcullis::evidence::Evidence| policy(&booted_pcr4()).examine(verifier, evidence, &endorsements, &NoMemo, NOW);
        let appraisal = examine(&quote.evidence).expect("accepted");
        assert_eq!(appraisal.claims().text("secure_boot"), Some("true"));
        let last = quote.evidence.auxiliary[0].bytes.len() - 1;
        quote.evidence.auxiliary[0].bytes[last] ^= 1;
        assert_eq!(examine(&quote.evidence).expect_err("a register changed").reason(), Reason::TpmQuoteInvalid);
    }
}

#[test]
fn a_machine_without_its_pieces_says_what_is_missing() {
    let Some(software) = SoftwareTpm::start() else { return };
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let empty = detected(&software, nowhere).err().expect("no NV index");
    assert!(empty.what.contains("NvReadPublic") && empty.why.contains("no such object"), "{empty}");
    let tpm = swtpm::opened(&software.path());
    swtpm::remember(&tpm, REPORT_INDEX, &[1; LARGEST_INDEX]);
    drop(tpm);
    let odd = detected(&software, nowhere).err().expect("no HCL report");
    assert!(odd.what.contains("0x1400001") && odd.why.contains("HCLA"), "{odd}");
    let gone = Places::default().moved(tpm::DEVICE, software.path().with_file_name("none"));
    let missing = azure::SNP.detect(&gone).remove(0).outcome.err().expect("no TPM");
    assert!(missing.fix.contains("no TPM"), "{missing}");
}

#[test]
fn evidence_is_made_when_the_metadata_service_is_silent() {
    let Some(software) = SoftwareTpm::start() else { return };
    provision(&software);
    let attester = detected(&software, SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).expect("an attester");
    let quote = attester.attest(&Challenge::of(b"x")).expect("evidence");
    assert_eq!(quote.endorsements.iter().count(), 0);
}

#[test]
fn an_azure_vm_on_tdx_has_its_quote_made_once_and_listed() {
    let Some(software) = SoftwareTpm::start() else { return };
    let tpm = swtpm::opened(&software.path());
    let public = swtpm::persistent(&tpm, &swtpm::rsa_template(), KEY_HANDLE);
    let mut forge = AzureForge::tdx(3, NOW);
    forge.claimed_key = Some(swtpm::modulus(&public));
    swtpm::remember(&tpm, REPORT_INDEX, &forge.report().encode());
    drop(tpm);
    let tdreport = forge.report().hardware[..1024].to_vec();
    let quote = forge.listed().remove(0).bytes;
    let body = serde_json::json!({ "quote": data_encoding::BASE64URL_NOPAD.encode(&quote) }).to_string();
    let asked = data_encoding::BASE64URL_NOPAD.encode(&tdreport);
    // One answer: a second request would find nobody.
    let service = service(1, body, move |request| request.starts_with("POST /acc/tdquote HTTP/1.1\r\n") && request.contains(&asked));
    let places = Places::default().moved(tpm::DEVICE, software.path());
    assert!(azure::SNP.detect(&places).remove(0).outcome.is_err(), "the report is of other hardware");
    let silent = Azure { imds: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), ..azure::TDX };
    let refused = silent.detect(&places).remove(0).outcome.err().expect("no metadata service");
    assert!(refused.what.contains("metadata service") && refused.transient, "{refused}");
    let attester = Azure { imds: service, ..azure::TDX }.detect(&places).remove(0).outcome.expect("an attester");
    for _ in 0..2 {
        let listed = attester.listed().expect("a TD quote");
        assert_eq!((listed.len(), &listed[0].bytes), (1, &quote));
    }
    let challenge = Challenge::of(b"a challenge");
    let mut evidence = attester.attest(&challenge).expect("evidence").evidence;
    evidence.auxiliary.extend(attester.listed().expect("a TD quote"));
    let verifier = platform::by_name("azure-tdx").expect("the platform").verifier;
    assert!(verifier.bound(&evidence).expect("a quote").answers(&challenge));
    let text = r#"{ "version": 1, "name": "swtpm", "insecure_roots": ["simulator"], "accept": [ { "id": "vm", "tee": "azure-tdx",
        "insecure_any_measurement": true, "insecure_any_pcrs": true } ] }"#;
    let appraiser = appraiser(text);
    appraiser.examine(verifier, &evidence, &forge.hardware.endorsements(), &NoMemo, NOW).expect("accepted");
}

/// Gives the TPM what the paravisor would: its key, and a report of simulated hardware that vouches for that key.
fn provision(software: &SoftwareTpm) -> AzureForge {
    let tpm = swtpm::opened(&software.path());
    let public = swtpm::persistent(&tpm, &swtpm::rsa_template(), KEY_HANDLE);
    let mut forge = AzureForge::new(Product::Genoa, 3, NOW);
    forge.claimed_key = Some(swtpm::modulus(&public));
    let mut report = forge.report();
    report.padding = LARGEST_INDEX - report.encode().len();
    swtpm::remember(&tpm, REPORT_INDEX, &report.encode());
    boot(&tpm);
    forge
}

fn detected(software: &SoftwareTpm, imds: SocketAddr) -> Result<Box<dyn Attester>, portcullis::attester::Unavailable> {
    let places = Places::default().moved(tpm::DEVICE, software.path());
    Azure { imds, ..azure::SNP }.detect(&places).remove(0).outcome
}

fn booted_pcr4() -> String {
    let replayed = ordinary_log().replay(Hash::Sha256).expect("a replay");
    data_encoding::HEXLOWER.encode(&replayed[&4])
}

fn policy(pcr4: &str) -> Appraiser {
    let text = format!(
        r#"{{ "version": 1, "name": "swtpm", "insecure_roots": ["simulator"], "accept": [ {{ "id": "vm", "tee": "azure-snp",
            "insecure_any_measurement": true, "pcrs": {{ "4": "{pcr4}" }} }} ] }}"#
    );
    appraiser(&text)
}

fn appraiser(text: &str) -> Appraiser {
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &vocabularies).unwrap_or_else(|problems| panic!("{problems:?}"));
    Appraiser { anchors: platform::anchors(&policy), policy }
}

/// The metadata service's answer about the chip.
fn metadata_service(forge: &AzureForge) -> SocketAddr {
    let pem = |der: &[u8]| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(der));
    let vcek = pem(&forge.hardware.vek_certificate());
    let chain = [Role::Ask, Role::Ark].map(|role| pem(&forge.hardware.vendor.certificate(role))).concat();
    let body = serde_json::json!({ "vcekCert": vcek, "tcbm": "00", "certificateChain": chain, "cacheControl": "86400" }).to_string();
    service(2, body, |request| request.starts_with("GET /metadata/THIM/amd/certification HTTP/1.1\r\n"))
}

/// A service that gives this answer so many times, to those who ask as it wants to be asked.
fn service(times: usize, body: String, rightly: impl Fn(&str) -> bool + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().take(times) {
            let mut stream = stream.expect("a connection");
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).expect("a request");
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let status = if rightly(&request) && request.contains("\r\nMetadata: true\r\n") { "200 OK" } else { "400 Bad Request" };
            let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).expect("answered");
        }
    });
    address
}
