//! SEV-SNP evidence through configfs-tsm, against the kernel's side of it in FUSE.
#![cfg(all(feature = "simulator", target_os = "linux"))]

#[path = "support/tsm.rs"]
mod fake;

use std::sync::Arc;
use std::time::Duration;

use fake::{Driver, FakeTsm, Maker};
use fuser::Errno;
use portcullis::attester::simulator::{Forge, Role};
use portcullis::attester::snp::{self, Snp};
use portcullis::attester::tsm::{self, Tsm};
use portcullis::attester::{Attester, Places, Provider as _, Quote, Unavailable};
use portcullis::evidence::snp::{Product, Report};
use portcullis::evidence::{Challenge, ReportData, Timestamp};

const NOW: Timestamp = Timestamp(1_790_812_800);
const DATA: ReportData = ReportData([7; 64]);

fn forge() -> Forge {
    Forge::new(Product::Genoa, 1, NOW)
}

fn working() -> Driver {
    Driver::good(|report_data, vmpl| {
        let mut forge = forge();
        forge.report.vmpl = vmpl;
        forge.report_over(&ReportData(*report_data))
    })
}

fn places(fake: &FakeTsm) -> Places {
    Places::default().moved(tsm::ROOT, fake.root()).moved(snp::DEVICE, fake.root().join("no-device"))
}

fn detect(fake: &FakeTsm, privlevel: Option<u8>) -> Result<Box<dyn Attester>, Unavailable> {
    let found = Snp { privlevel }.detect(&places(fake)).into_iter().find(|found| found.provider == "configfs-tsm");
    found.expect("configfs-tsm is looked for").outcome
}

fn attest(fake: &FakeTsm) -> Result<Quote, Unavailable> {
    detect(fake, None)?.attest(&Challenge { long: DATA, short: [0; 48] })
}

fn bound(quote: &Quote) -> ReportData {
    Report::parse(&quote.evidence.bytes).expect("a report").bound_data()
}

/// A GHCB certificate table.
fn table(entries: &[(u128, &[u8])]) -> Vec<u8> {
    let mut offset = 24 * (entries.len() + 1);
    let (mut head, mut body) = (Vec::new(), Vec::new());
    for (guid, bytes) in entries {
        head.extend(guid.to_be_bytes());
        head.extend(u32::try_from(offset).unwrap().to_le_bytes());
        head.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        body.extend_from_slice(bytes);
        offset += bytes.len();
    }
    head.extend([0; 24]);
    [head, body].concat()
}

const ARK: u128 = 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae;
const ASK: u128 = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782;
const CRL: u128 = 0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea;
const VCEK: u128 = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd;
const VLEK: u128 = 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1;

#[test]
fn a_report_comes_with_the_hosts_certificates() {
    let mut driver = working();
    let forge = forge();
    let endorsements = forge.endorsements();
    let of = |name: &str| endorsements.find(name).expect("minted").to_vec();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(&of("ask")));
    driver.auxblob =
        table(&[(VCEK, &of("vcek")), (ASK, pem.as_bytes()), (ARK, &forge.vendor.certificate(Role::Ark)), (CRL, &of("crl")), (1, b"something else")]);
    let Some(fake) = FakeTsm::mount(driver) else { return };
    let quote = attest(&fake).expect("a quote");
    assert_eq!(bound(&quote), DATA);
    assert_eq!(quote.evidence.media_type, portcullis::evidence::snp::MEDIA_TYPE);
    let named: Vec<_> = quote.endorsements.iter().map(|endorsement| (endorsement.name.as_str(), endorsement.bytes.clone())).collect();
    assert_eq!(named, ["vcek", "ask", "crl"].map(|name| (name, of(name))));
    assert_eq!(fake.entries(), Vec::<String>::new(), "the entry is removed");
    assert_eq!(fake.driver(|driver| driver.reports), 1);
}

#[test]
fn the_intermediate_of_a_vlek_is_told_by_its_name() {
    let mut driver = working();
    let endorsements = forge().vlek("CN=cloud.test").endorsements();
    let of = |name: &str| endorsements.find(name).expect("minted");
    driver.auxblob = table(&[(VLEK, of("vlek")), (ASK, of("asvk"))]);
    let Some(fake) = FakeTsm::mount(driver) else { return };
    let names: Vec<_> = attest(&fake).expect("a quote").endorsements.into_iter().map(|endorsement| endorsement.name).collect();
    assert_eq!(names, ["vlek", "asvk"]);
}

#[test]
fn a_hostile_table_costs_its_certificates_and_nothing_else() {
    let Some(fake) = FakeTsm::mount(working()) else { return };
    let vcek = forge().vek_certificate();
    let mut beyond = table(&[(VCEK, &vcek)]);
    beyond.truncate(beyond.len() - 1);
    let mut inside = table(&[(VCEK, &vcek)]);
    inside[16..20].copy_from_slice(&8_u32.to_le_bytes());
    for (name, blob) in [
        ("points beyond the blob", beyond),
        ("points into the table", inside),
        ("no end", vec![0xff; 24 * 40]),
        ("not a certificate", table(&[(VCEK, b"memory of somebody else")])),
        ("octets behind the certificate", table(&[(VCEK, &[vcek.as_slice(), b"!"].concat())])),
    ] {
        fake.driver(|driver| driver.auxblob = blob);
        let quote = attest(&fake).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(quote.endorsements.iter().count(), 0, "{name}");
    }
    fake.driver(|driver| driver.auxblob = vec![0; 64 * 1024 + 1]);
    let refused = attest(&fake).expect_err("an oversize table");
    assert!(refused.why.contains("auxblob: expected at most 65536 octets"), "{refused}");
    fake.driver(|driver| driver.hidden = vec!["auxblob"]);
    assert!(attest(&fake).is_ok(), "a driver without certificates");
    assert_eq!(fake.entries(), Vec::<String>::new());
}

#[test]
fn another_writer_never_gets_its_report_into_our_hands() {
    let Some(fake) = FakeTsm::mount(working()) else { return };
    let changes: [fn(&mut Driver); 2] = [|driver| driver.intruders_before = 3, |driver| driver.intruders_after = 3];
    for change in changes {
        fake.driver(change);
        assert_eq!(bound(&attest(&fake).expect("a quote after retries")), DATA);
    }
    let patient = Tsm { patience: Duration::from_millis(50), ..Tsm::new(fake.root().to_owned(), "sev_guest", None) };
    fake.driver(|driver| driver.intruders_before = usize::MAX);
    let refused = patient.report(&DATA.0).expect_err("an intruder without end");
    assert!(refused.transient && refused.why.contains("generation: expected 1, found 2"), "{refused}");
    assert_eq!(fake.entries(), Vec::<String>::new());
}

#[test]
fn a_write_that_was_lost_at_closing_is_not_taken_for_done() {
    let Some(fake) = FakeTsm::mount(working()) else { return };
    fake.driver(|driver| driver.lost_writes = 2);
    assert_eq!(bound(&attest(&fake).expect("a quote after retries")), DATA);
    assert_eq!(fake.driver(|driver| driver.reports), 1, "nothing is asked of the hardware for a lost write");
}

#[test]
fn throttling_is_waited_for_and_then_called_by_its_name() {
    let Some(fake) = FakeTsm::mount(working()) else { return };
    for errno in [Errno::EAGAIN, Errno::EBUSY, Errno::EIO, Errno::ETIMEDOUT, Errno::ENOSPC] {
        fake.driver(|driver| driver.requests_fail = (3, errno));
        assert_eq!(bound(&attest(&fake).expect("a quote after retries")), DATA);
    }
    let patient = Tsm { patience: Duration::from_millis(50), ..Tsm::new(fake.root().to_owned(), "sev_guest", None) };
    fake.driver(|driver| driver.requests_fail = (usize::MAX, Errno::EAGAIN));
    let refused = patient.report(&DATA.0).expect_err("throttled without end");
    assert!(refused.transient && refused.fix.contains("busy"), "{refused}");
    fake.driver(|driver| driver.requests_fail = (usize::MAX, Errno::ENOTTY));
    let refused = patient.report(&DATA.0).expect_err("the driver gave up its key");
    assert!(!refused.transient && refused.fix.contains("restart the guest"), "{refused}");
    assert_eq!(fake.entries(), Vec::<String>::new());
}

#[test]
fn what_is_no_report_is_refused() {
    let Some(fake) = FakeTsm::mount(working()) else { return };
    let cases: [(&str, Maker, &str); 5] = [
        ("short", Box::new(|data, _| forge().report_over(&ReportData(*data))[..1183].to_vec()), "expected 1184 octets, found 1183"),
        ("long", Box::new(|data, _| [forge().report_over(&ReportData(*data)), vec![0]].concat()), "expected 1184 octets, found 1185"),
        ("endless", Box::new(|_, _| vec![0; 40_000]), "outblob: expected at most 32768 octets"),
        ("of another time", Box::new(|_, _| forge().report_over(&ReportData([9; 64]))), "not what was asked for"),
        ("of a version to come", Box::new(|data, _| forge().version(9).report_over(&ReportData(*data))), "evidence_unsupported"),
    ];
    for (name, report, expected) in cases {
        fake.driver(|driver| driver.report = report);
        let refused = attest(&fake).expect_err(name);
        assert!(refused.why.contains(expected), "{name}: {refused}");
    }
    assert_eq!(fake.entries(), Vec::<String>::new());
}

#[test]
fn the_privilege_level_is_asked_for_as_configured_or_as_the_kernel_allows() {
    let Some(fake) = FakeTsm::mount(working()) else { return };
    let vmpl = |quote: &Quote| Report::parse(&quote.evidence.bytes).expect("a report").vmpl;
    let attest = |level| detect(&fake, level).and_then(|attester| attester.attest(&Challenge { long: DATA, short: [0; 48] }));
    assert_eq!(vmpl(&attest(None).expect("a quote")), 0);
    assert_eq!(vmpl(&attest(Some(2)).expect("a quote")), 2);
    fake.driver(|driver| driver.floor = 2);
    assert_eq!(vmpl(&attest(None).expect("a quote")), 2);
    assert_eq!(vmpl(&attest(Some(3)).expect("a quote")), 3);
    let refused = attest(Some(1)).expect_err("below the floor");
    assert!(refused.why.contains("privlevel: Invalid argument") && refused.fix.contains("privilege level"), "{refused}");
    fake.driver(|driver| driver.hidden = vec!["privlevel", "privlevel_floor"]);
    assert_eq!(vmpl(&attest(None).expect("a quote")), 0);
    let refused = attest(Some(1)).expect_err("no privlevel attribute");
    assert!(refused.why.contains("privlevel: No such file") && refused.fix.contains("privilege level"), "{refused}");
    assert_eq!(fake.entries(), Vec::<String>::new());
}

#[test]
fn detection_says_what_stands_in_the_way() {
    let Some(fake) = FakeTsm::mount(working()) else { return };
    let found = Snp { privlevel: None }.detect(&places(&fake));
    assert_eq!(found.iter().map(|found| found.provider).collect::<Vec<_>>(), ["configfs-tsm", "sev-guest", "google-vtpm"]);
    assert!(found[0].outcome.as_ref().is_ok_and(|attester| attester.platform() == "sev-snp" && attester.provider() == "configfs-tsm"));
    assert!(found[1].outcome.as_ref().is_err_and(|refused| refused.what.contains("sev-guest")));
    assert_eq!(fake.driver(|driver| driver.reports), 0, "detection asks the hardware nothing");

    let refused = |change: fn(&mut Driver)| {
        fake.driver(change);
        let refused = detect(&fake, None).err().expect("something stands in the way");
        assert!(!refused.fix.is_empty());
        refused
    };
    let other = refused(|driver| driver.provider = Some("tdx_guest"));
    assert!(other.why.contains("expected sev_guest, found tdx_guest") && other.fix.contains("another kind"), "{other}");
    let none = refused(|driver| driver.provider = None);
    assert!(none.fix.contains("modprobe sev-guest"), "{none}");
    let denied = refused(|driver| driver.mkdir_fails = Some(Errno::EACCES));
    assert!(denied.fix.contains("run as root"), "{denied}");

    let nowhere = places(&fake).moved(tsm::ROOT, fake.root().join("nowhere"));
    let missing = Snp { privlevel: None }.detect(&nowhere).remove(0).outcome.err().expect("no folder");
    assert!(missing.fix.contains("mount -t configfs"), "{missing}");
    let plain = tempfile::tempdir().expect("a temporary folder");
    let plain_folder = places(&fake).moved(tsm::ROOT, plain.path());
    let unlike = Snp { privlevel: None }.detect(&plain_folder).remove(0).outcome.err().expect("a plain folder");
    assert!(unlike.fix.contains("not configfs-tsm"), "{unlike}");
    assert_eq!(std::fs::read_dir(plain.path()).expect("a folder").count(), 0, "nothing is left in a plain folder");
}

#[test]
fn only_what_a_crashed_process_of_ours_left_is_removed() {
    let Some(fake) = FakeTsm::mount(working()) else { return };
    fake.leave_behind("portcullis-00000000000000aa", Duration::from_secs(3600));
    fake.leave_behind("portcullis-00000000000000bb", Duration::from_secs(5));
    fake.leave_behind("somebody-else", Duration::from_secs(3600));
    detect(&fake, None).expect("a way");
    assert_eq!(fake.entries(), ["portcullis-00000000000000bb", "somebody-else"]);
}

#[test]
fn requests_at_once_do_not_mix() {
    let Some(fake) = FakeTsm::mount(working()) else { return };
    let attester: Arc<dyn Attester> = Arc::from(detect(&fake, None).expect("a way"));
    let threads: Vec<_> = (0..8_u8)
        .map(|number| {
            let attester = Arc::clone(&attester);
            std::thread::spawn(move || {
                bound(&attester.attest(&Challenge { long: ReportData([number; 64]), short: [0; 48] }).expect("a quote")) == ReportData([number; 64])
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().expect("no panic")));
    assert_eq!(fake.entries(), Vec::<String>::new());
}
