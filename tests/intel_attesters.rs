//! TDX quotes through configfs-tsm, against the kernel's side of it in FUSE; SGX quotes through Gramine's attestation
//! files, against pipes that behave as they do.
#![cfg(all(feature = "simulator", target_os = "linux"))]

#[path = "support/tsm.rs"]
#[allow(dead_code, reason = "written for SEV-SNP, which has more to go wrong")]
mod fake;

use std::fs::{self, File};
use std::io::Write as _;
use std::thread::JoinHandle;

use fake::{Driver, FakeTsm};
use portcullis::attester::sgx::{GRAMINE, Sgx};
use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::{Attester, Places, Provider, Quote, Unavailable, tdx::Tdx, tsm};
use portcullis::evidence::intel;
use portcullis::evidence::{Challenge, ReportData, Timestamp};

const NOW: Timestamp = Timestamp(1_796_083_200);

fn challenge(octet: u8) -> Challenge {
    Challenge { long: ReportData([octet; 64]), short: [0; 48] }
}

fn bound(quote: &Quote) -> ReportData {
    intel::Quote::parse(&quote.evidence.bytes).expect("a quote").bound_data()
}

/// A tdx_guest driver: no privilege levels, nothing beside the quote.
fn driver(quote: impl Fn(&[u8; 64]) -> Vec<u8> + Send + 'static) -> Driver {
    let mut driver = Driver::good(move |report_data, _| quote(report_data));
    driver.provider = Some("tdx_guest");
    driver.hidden = vec!["auxblob", "privlevel", "privlevel_floor"];
    driver
}

fn trust_domain(places: &Places) -> Result<Box<dyn Attester>, Unavailable> {
    Tdx.detect(places).into_iter().find(|found| found.provider == "configfs-tsm").expect("configfs-tsm is looked for").outcome
}

fn places(fake: &FakeTsm) -> Places {
    Places::default().moved(tsm::ROOT, fake.root())
}

#[test]
fn a_quote_of_a_trust_domain_comes_through_configfs_tsm() {
    let Some(fake) = FakeTsm::mount(driver(|report_data| IntelForge::tdx15(1, NOW).sign(&ReportData(*report_data)))) else { return };
    let attester = trust_domain(&places(&fake)).expect("the driver works");
    assert_eq!((attester.platform(), attester.provider()), ("intel-tdx", "configfs-tsm"));
    for octet in [1, 2] {
        let quote = attester.attest(&challenge(octet)).expect("a quote");
        assert_eq!(bound(&quote), ReportData([octet; 64]));
        assert_eq!(quote.evidence.media_type, intel::MEDIA_TYPE);
    }
}

#[test]
fn what_is_no_quote_of_ours_is_not_published() {
    for (why, quote) in [
        ("report data", (|_: &[u8; 64]| IntelForge::tdx15(1, NOW).sign(&ReportData([9; 64]))) as fn(&[u8; 64]) -> Vec<u8>),
        ("of sgx", |report_data| IntelForge::sgx(1, NOW).sign(&ReportData(*report_data))),
        ("evidence_size", |_| vec![4, 0, 2, 0]),
        ("empty", |_| Vec::new()),
    ] {
        let Some(fake) = FakeTsm::mount(driver(quote)) else { return };
        let refused = trust_domain(&places(&fake)).expect("the driver works").attest(&challenge(1)).expect_err(why);
        assert!(refused.why.contains(why), "{refused}");
    }
}

#[test]
fn another_tees_driver_is_told_from_ours() {
    let mut snp = driver(|_| Vec::new());
    snp.provider = Some("sev_guest");
    let Some(fake) = FakeTsm::mount(snp) else { return };
    let refused = trust_domain(&places(&fake)).err().expect("no trust domain");
    assert!(refused.why.contains("expected tdx_guest, found sev_guest"), "{refused}");
}

/// Gramine's files: the quote is made when it is opened, over what was last written.
struct Gramine {
    folder: tempfile::TempDir,
    enclave: JoinHandle<()>,
}

impl Gramine {
    /// An enclave that makes so many quotes.
    fn running(kind: &str, quotes: usize, quote: fn(&ReportData) -> Vec<u8>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("attestation_type"), kind).expect("a file");
        fs::write(folder.path().join("user_report_data"), [0; 64]).expect("a file");
        let pipe = folder.path().join("quote");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).expect("a pipe");
        let data = folder.path().join("user_report_data");
        let enclave = std::thread::spawn(move || {
            for _ in 0..quotes {
                // Waits for somebody to open the other end.
                let mut pipe = File::options().write(true).open(&pipe).expect("the pipe");
                let data = fs::read(&data).expect("report data").try_into().expect("64 octets");
                pipe.write_all(&quote(&ReportData(data))).expect("a reader");
            }
        });
        Self { folder, enclave }
    }

    fn places(&self) -> Places {
        Places::default().moved(GRAMINE, self.folder.path())
    }
}

fn enclave(places: &Places) -> Result<Box<dyn Attester>, Unavailable> {
    Sgx.detect(places).into_iter().find(|found| found.provider == "gramine").expect("Gramine is looked for").outcome
}

#[test]
fn a_quote_of_an_enclave_comes_through_gramines_files() {
    let gramine = Gramine::running("dcap", 1, |data| IntelForge::sgx(1, NOW).sign(data));
    let attester = enclave(&gramine.places()).expect("an enclave");
    assert_eq!((attester.platform(), attester.provider()), ("intel-sgx", "gramine"));
    let quote = attester.attest(&challenge(3)).expect("a quote");
    assert_eq!(bound(&quote), ReportData([3; 64]));
    gramine.enclave.join().expect("the enclave ends");
}

#[test]
fn a_quote_over_other_data_is_not_published() {
    let gramine = Gramine::running("dcap", 1, |_| IntelForge::sgx(1, NOW).sign(&ReportData([9; 64])));
    let refused = enclave(&gramine.places()).expect("an enclave").attest(&challenge(3)).expect_err("foreign data");
    assert!(refused.why.contains("report data") && refused.transient, "{refused}");
    gramine.enclave.join().expect("the enclave ends");
}

#[test]
fn an_enclave_without_dcap_and_a_machine_without_gramine_say_what_to_do() {
    let none = Gramine::running("none", 0, |_| Vec::new());
    let refused = enclave(&none.places()).err().expect("no attestation");
    assert!(refused.why.contains("expected dcap, found none") && refused.fix.contains("sgx.remote_attestation"), "{refused}");
    let nowhere = Places::default().moved(GRAMINE, "/nonexistent");
    assert!(enclave(&nowhere).err().expect("no Gramine").fix.contains("inside an enclave"));
}
