//! The attester of Google's machines: hardware evidence through the kernel's side of configfs-tsm in FUSE, and a software
//! TPM of others that has in its memory what Google puts there. Skipped, aloud, where either is missing.

#![cfg(all(feature = "simulator", target_os = "linux"))]

#[path = "support/tsm.rs"]
#[allow(dead_code, reason = "written for SEV-SNP alone, which has more to go wrong")]
mod fake;
#[path = "support/swtpm.rs"]
#[allow(dead_code, reason = "written for Azure's machines too")]
mod swtpm;

use fake::{Driver, FakeTsm};
use portcullis::attester::google::{ECC, GoogleVtpm, Indexes, RSA};
use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::simulator::{Forge, LaunchForge, LaunchHardware, MEASUREMENT, VtpmAuthority};
use portcullis::attester::snp::{self, Snp};
use portcullis::attester::{Attester, Places, Provider, Unavailable, tdx::Tdx, tpm::DEVICE, tsm};
use portcullis::evidence::snp::Product;
use portcullis::evidence::{Challenge, Endorsement, Endorsements, ReportData, Timestamp, tpm};
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::Reason;
use portcullis::verify::Appraiser;
use portcullis::verify::memo::NoMemo;
use swtpm::SoftwareTpm;

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);

/// The key in a public area, for certificates.
struct Certified(Vec<u8>, &'static rcgen::SignatureAlgorithm);

impl rcgen::PublicKeyData for Certified {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.1
    }
}

fn certified(public: &[u8], indexes: Indexes) -> Certified {
    if indexes == ECC {
        let (x, y) = (&public[public.len() - 66..public.len() - 34], &public[public.len() - 32..]);
        return Certified([&[4], x, y].concat(), &rcgen::PKCS_ECDSA_P256_SHA256);
    }
    let modulus = [&[0x02, 0x82, 1, 1, 0][..], &swtpm::modulus(public)].concat();
    let content = [modulus, vec![0x02, 3, 1, 0, 1]].concat();
    Certified([&[0x30, 0x82][..], &u16::try_from(content.len()).unwrap().to_be_bytes(), &content].concat(), &rcgen::PKCS_RSA_SHA256)
}

/// Puts a template and its certificate where Google does, the certificate of this key or of the template's. Returns the issuer's.
fn provision(software: &SoftwareTpm, indexes: Indexes, template: &[u8], other: Option<&[u8]>) -> Vec<u8> {
    let tpm = swtpm::opened(&software.path());
    let key = tpm.create_primary(portcullis::attester::tpm::ENDORSEMENT, other.unwrap_or(template)).expect("a key");
    let public = tpm.public(key).expect("a public area");
    tpm.flush(key).expect("flushed");
    let mut chain = VtpmAuthority::Google.certify_key(&certified(&public, indexes), "instance-7", NOW);
    let issuer = chain.pop().expect("the issuer");
    swtpm::remember(&tpm, indexes.certificate, &[chain.remove(0), vec![0; 40]].concat());
    swtpm::remember(&tpm, indexes.template, template);
    issuer
}

const SNP: Snp = Snp { privlevel: None };

fn places(software: &SoftwareTpm, fake: Option<&FakeTsm>) -> Places {
    let nowhere = std::path::Path::new("/nonexistent");
    let tsm = fake.map_or(nowhere, FakeTsm::root);
    Places::default().moved(DEVICE, software.path()).moved(tsm::ROOT, tsm).moved(snp::DEVICE, nowhere)
}

fn detected(provider: &dyn Provider, places: &Places) -> Result<Box<dyn Attester>, Unavailable> {
    let mut ways = provider.detect(places);
    let at = ways.iter().position(|way| way.provider == "google-vtpm").expect("it is looked for");
    let way = ways.remove(at);
    assert_eq!(way.outcome.is_ok(), at == 0, "where it works it is taken before those that say less");
    way.outcome
}

fn appraiser(tee: &str, entry: &str) -> Appraiser {
    let text = format!(r#"{{ "version": 1, "name": "google", "insecure_roots": ["simulator"], "accept": [ {{ "id": "vm", "tee": "{tee}", {entry} }} ] }}"#);
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &vocabularies).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    Appraiser { anchors: platform::anchors(&policy), policy }
}

/// The endorsement that a folder or a service would add.
fn named(name: &str, bytes: Vec<u8>) -> Endorsement {
    Endorsement { name: name.to_owned(), media_type: "application/pkix-cert".to_owned(), bytes }
}

#[test]
fn a_trust_domain_in_googles_cloud_has_the_vtpms_quote_beside_its_own() {
    let Some(software) = SoftwareTpm::start() else { return };
    let issuer = provision(&software, ECC, &swtpm::ecc_template(), None);
    swtpm::extend(&swtpm::opened(&software.path()), 4, &[7; 32]);
    let mut driver = Driver::good(|report_data, _| IntelForge::tdx15(7, NOW).sign(&ReportData(*report_data)));
    driver.provider = Some("tdx_guest");
    driver.hidden = vec!["auxblob", "privlevel", "privlevel_floor"];
    let Some(fake) = FakeTsm::mount(driver) else { return };
    let attester = detected(&Tdx, &places(&software, Some(&fake))).expect("an attester");
    assert_eq!((attester.platform(), attester.provider()), ("intel-tdx", "google-vtpm"));
    let challenge = Challenge::of(b"a challenge");
    for _ in 0..2 {
        let mut quote = attester.attest(&challenge).expect("evidence");
        let platform = platform::by_name("intel-tdx").expect("the platform");
        assert!(platform.verifier.bound(&quote.evidence).expect("a quote").answers(&challenge));
        let member = quote.evidence.member("vtpm").expect("the vTPM's quote");
        assert_eq!(tpm::Member::parse(&member.bytes).expect("a member").quote.extra_data, challenge.short);
        let mut endorsements: Endorsements = IntelForge::tdx15(7, NOW).endorsements();
        let mrtd = endorsements_of(&quote.evidence.bytes);
        endorsements.push(named("vtpm_ca", issuer.clone()));
        endorsements.push(LaunchForge::new(LaunchHardware::Tdx, mrtd, NOW).endorsement());
        let entry = r#""insecure_any_measurement": true, "vtpm": ["google"], "endorsement_required": true, "min_firmware_svn": 2, "gce_instance_id": ["42"],
            "pcrs": { "4": "PCR4" }"#;
        let pcr4 = portcullis::crypto::sha256(&[&[0; 32], &[7; 32]]);
        let appraiser = appraiser("intel-tdx", &entry.replace("PCR4", &data_encoding::HEXLOWER.encode(&pcr4)));
        let appraisal = appraiser.examine(platform.verifier, &quote.evidence, &endorsements, &NoMemo, NOW).expect("accepted");
        assert_eq!(appraisal.claims().text("gce_instance_name"), Some("instance-7"));
        // Without the issuer nobody knows whose the key is.
        let bare: Endorsements = endorsements.iter().filter(|endorsement| endorsement.name != "vtpm_ca").cloned().collect();
        let refused = appraiser.examine(platform.verifier, &quote.evidence, &bare, &NoMemo, NOW).expect_err("no issuer");
        assert_eq!(refused.reason(), Reason::ChainUntrusted);
        let last = quote.evidence.auxiliary[0].bytes.len() - 1;
        quote.evidence.auxiliary[0].bytes[last] ^= 1;
        assert!(appraiser.examine(platform.verifier, &quote.evidence, &endorsements, &NoMemo, NOW).is_err());
    }
}

fn endorsements_of(quote: &[u8]) -> [u8; 48] {
    match portcullis::evidence::intel::Quote::parse(quote).expect("a quote").body {
        portcullis::evidence::intel::Body::TrustDomain(report) => report.mr_td,
        other => panic!("{}", other.kind()),
    }
}

#[test]
fn an_snp_guest_in_googles_cloud_staples_the_endorsement_that_its_host_gave() {
    const LAUNCH: u128 = 0x9f41_16cd_c503_4f5a_8f6f_fb68_882f_4ce2;
    let Some(software) = SoftwareTpm::start() else { return };
    let issuer = provision(&software, RSA, &swtpm::rsa_template(), None);
    let endorsement = LaunchForge::new(LaunchHardware::SevSnp, MEASUREMENT, NOW).endorsement();
    let mut driver = Driver::good(|report_data, _| Forge::new(Product::Genoa, 7, NOW).report_over(&ReportData(*report_data)));
    let mut table = LAUNCH.to_be_bytes().to_vec();
    table.extend(48_u32.to_le_bytes());
    table.extend(u32::try_from(endorsement.bytes.len()).unwrap().to_le_bytes());
    table.extend([0; 24]);
    table.extend(&endorsement.bytes);
    driver.auxblob = table;
    let Some(fake) = FakeTsm::mount(driver) else { return };
    let attester = detected(&SNP, &places(&software, Some(&fake))).expect("an attester");
    let quote = attester.attest(&Challenge::of(b"x")).expect("evidence");
    assert_eq!(quote.endorsements.find("launch_endorsement"), Some(endorsement.bytes.as_slice()));
    let mut endorsements = Forge::new(Product::Genoa, 7, NOW).endorsements();
    endorsements.extend(quote.endorsements.clone());
    endorsements.push(named("vtpm_ca", issuer));
    let platform = platform::by_name("sev-snp").expect("the platform");
    let entry = r#""insecure_any_measurement": true, "endorsement_required": true, "require": ["vtpm"]"#;
    appraiser("sev-snp", entry).examine(platform.verifier, &quote.evidence, &endorsements, &NoMemo, NOW).expect("accepted");
}

#[test]
fn a_machine_of_another_kind_says_what_is_missing() {
    let Some(software) = SoftwareTpm::start() else { return };
    let bare = GoogleVtpm::open(&places(&software, None)).expect_err("no certificate");
    assert!(bare.why.contains("no certificate") && bare.fix.contains("no confidential machine of Google's"), "{bare}");
    // A key in the template that the certificate is not of: somebody else's certificate, or another TPM's.
    provision(&software, ECC, &swtpm::ecc_template(), Some(&other_template()));
    let other = GoogleVtpm::open(&places(&software, None)).expect_err("another key");
    assert!(other.why.contains("not the one that its certificate is of"), "{other}");
}

#[test]
fn the_vtpm_alone_makes_no_evidence() {
    let Some(software) = SoftwareTpm::start() else { return };
    provision(&software, ECC, &swtpm::ecc_template(), None);
    for provider in [&SNP as &dyn Provider, &Tdx] {
        let refused = detected(provider, &places(&software, None)).err().expect("no hardware");
        assert!(refused.what.contains("configfs-tsm"), "{refused}");
    }
}

/// Another key: `unique` is part of what a primary key is made from.
fn other_template() -> Vec<u8> {
    let mut template = swtpm::ecc_template();
    template.truncate(template.len() - 4);
    template.extend([0, 1, 5, 0, 1, 6]);
    template
}
