//! The simulator: what it mints by default is accepted, everything can be forged, and the formats are the vendor's.
#![cfg(feature = "simulator")]
#![allow(clippy::disallowed_methods, reason = "a test finds its vectors by the environment and reads them whole")]

#[path = "support/skipped.rs"]
mod skipped;

use std::path::PathBuf;
use std::process::Command;

use portcullis::attester::Attester as _;
use portcullis::attester::simulator::{Fault, Forge, MEASUREMENT, Patch, Role, SimulatedVendor, Trailer, VekExtension};
use portcullis::evidence::snp::{Product, Report, Tcb};
use portcullis::evidence::{Challenge, ReportData, Timestamp};
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::Reason;
use portcullis::verify::memo::NoMemo;
use portcullis::verify::roots::Origin;
use portcullis::verify::{Appraisal, Appraiser};

const NOW: Timestamp = Timestamp(1_790_812_800); // 2026-10-01T00:00:00Z
const DATA: ReportData = ReportData([7; 64]);

fn appraiser(keys: &str) -> Appraiser {
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    let policy = format!(
        r#"{{ "version": 1, "insecure_roots": ["simulator"], "name": "p", "accept": [ {{ "id": "a", "tee": "sev-snp", "measurement": "{measurement}",
             "insecure_allow_milan": "a test", "products": ["genoa", "milan", "turin"] {keys} }} ] }}"#
    );
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let (policy, _) = AppraisalPolicy::load(policy.as_bytes(), &vocabularies).unwrap_or_else(|problems| panic!("{problems:?}"));
    Appraiser { anchors: platform::anchors(&policy), policy }
}

fn judge(forge: &Forge, keys: &str) -> Result<Appraisal, Reason> {
    let quote = forge.quote(&DATA);
    let platform = platform::of_evidence(&quote.evidence).expect("a known platform");
    let denied = |denied: portcullis::refusal::Denied| denied.reason();
    appraiser(keys).examine(platform.verifier, &quote.evidence, &quote.endorsements, &NoMemo, NOW).map_err(denied)
}

#[test]
fn the_default_machine_is_accepted_in_every_product_and_version() {
    for product in Product::ALL {
        for version in 2..=5 {
            let appraisal = judge(&Forge::new(product, 1, NOW).version(version), "").unwrap_or_else(|reason| panic!("{product:?} v{version}: {reason}"));
            assert_eq!(appraisal.origin(), Origin::Simulator);
            assert!(appraisal.revocation_checked());
        }
        let vlek = Forge::new(product, 1, NOW).vlek("CN=cloud.test");
        assert!(judge(&vlek, r#", "signing_key": ["VLEK"], "csp_id": ["CN=cloud.test"]"#).is_ok(), "{product:?}");
    }
}

/// What a forge makes of the cases that `tests/snp_catalogue.rs` lists.
#[test]
fn every_forgery_of_the_catalogue_is_refused_for_its_reason() {
    let genoa = || Forge::new(Product::Genoa, 1, NOW);
    let turin = || Forge::new(Product::Turin, 1, NOW);
    let forged = |mut forge: Forge, change: fn(&mut Forge)| {
        change(&mut forge);
        forge
    };
    let cases = [
        ("measurement-unlisted", genoa().measurement([1; 48]), Reason::MeasurementUnknown),
        ("debug", forged(genoa(), |forge| forge.report.policy |= 1 << 19), Reason::DebugEnabled),
        ("migrate-ma", forged(genoa(), |forge| forge.report.policy |= 1 << 18), Reason::GuestPolicyViolation),
        ("vmpl1", forged(genoa(), |forge| forge.report.vmpl = 1), Reason::VmplNotAllowed),
        ("version-1", forged(genoa(), |forge| forge.report.version = 1), Reason::EvidenceUnsupported),
        ("version-99", forged(genoa(), |forge| forge.report.version = 99), Reason::EvidenceUnsupported),
        ("reserved-nonzero", forged(genoa(), |forge| forge.patches.push(Patch { offset: 0x4c, octets: vec![1] })), Reason::ReservedBitsSet),
        ("tcb-mismatch-vek", forged(genoa(), |forge| forge.vek.tcb.snp -= 1), Reason::TcbTooLow),
        ("tcb-below-floor-launch", forged(genoa(), |forge| forge.report.launch_tcb[6] = 0x15), Reason::TcbTooLow),
        ("vlek-signed-as-vcek", forged(genoa(), |forge| forge.report.key_info = 1 << 2), Reason::ChainUntrusted),
        ("key-none", forged(genoa(), |forge| forge.report.key_info = 7 << 2), Reason::ChainUntrusted),
        ("vek-hwid-mismatch", forged(genoa(), |forge| forge.vek.hwid[0] ^= 1), Reason::ChainUntrusted),
        ("chip-id-masked", genoa().chip([0; 64]), Reason::ChainUntrusted),
        ("turin-hwid-length", forged(turin(), |forge| forge.report.chip_id[8] = 1), Reason::ChainUntrusted),
        ("vek-ext-missing", forged(genoa(), |forge| forge.vek.omit.push(VekExtension::UcodeSpl)), Reason::ChainUntrusted),
        ("vek-ext-twice", forged(genoa(), |forge| forge.vek.repeat.push(VekExtension::SnpSpl)), Reason::ChainUntrusted),
        ("wrong-root", forged(genoa(), |forge| forge.vendor = SimulatedVendor::impostor(Product::Genoa)), Reason::ChainUntrusted),
        ("ask-revoked", forged(genoa(), |forge| forge.crl.revoked.push((forge.vendor.serial(Role::Ask), NOW.minus(1)))), Reason::ChainRevoked),
        ("crl-expired", forged(genoa(), |forge| forge.crl.next_update = Some(NOW.minus(1))), Reason::CollateralUnavailable),
        ("crl-endless", forged(genoa(), |forge| forge.crl.next_update = None), Reason::CollateralUnavailable),
        ("crl-unstapled", forged(genoa(), |forge| forge.unstapled.push("crl")), Reason::CollateralUnavailable),
        ("vek-expired", forged(genoa(), |forge| forge.vek.not_after = NOW.minus(1)), Reason::ChainUntrusted),
        ("alias-check-missing", forged(genoa(), |forge| forge.report.platform_info &= !(1 << 5)), Reason::GuestPolicyViolation),
    ];
    for (name, forge, expected) in cases {
        assert_eq!(judge(&forge, "").err(), Some(expected), "{name}");
    }
    let low = Tcb { fmc: Some(200), bootloader: 1, tee: 0, snp: 1, microcode: 71 };
    let floor = r#", "min_tcb": { "turin": { "snp": 2 } }"#;
    assert_eq!(judge(&turin().tcb(low), floor).err(), Some(Reason::TcbTooLow), "turin-tcb-as-milan");
}

#[test]
fn a_seed_is_a_machine() {
    let of = |seed| Forge::new(Product::Genoa, seed, NOW);
    let key = |forge: &Forge| {
        let certificate = forge.vek_certificate();
        portcullis::evidence::snp::Vek::parse(&certificate).expect("a VEK certificate").key
    };
    assert_eq!(of(1).report, of(1).report);
    assert_eq!(key(&of(1)), key(&of(1)));
    assert_ne!(key(&of(1)), key(&of(2)));
    assert_ne!(of(1).report.chip_id, of(2).report.chip_id);
}

#[test]
fn an_attester_misbehaves_as_told() {
    let attester = Forge::new(Product::Turin, 3, NOW).attester();
    let bound = |attester: &portcullis::attester::simulator::SimulatedAttester| {
        let quote = attester.attest(&Challenge { long: DATA, short: [0; 48] }).expect("a quote");
        Report::parse(&quote.evidence.bytes).expect("a report").bound_data()
    };
    assert_eq!(bound(&attester), DATA);
    attester.misbehave(Fault::OtherReportData);
    assert_ne!(bound(&attester), DATA);
    attester.misbehave(Fault::Busy);
    assert!(attester.attest(&Challenge { long: DATA, short: [0; 48] }).is_err_and(|error| error.transient));
    attester.misbehave(Fault::Broken);
    assert!(attester.attest(&Challenge { long: DATA, short: [0; 48] }).is_err_and(|error| !error.transient));
    attester.misbehave(Fault::Tampered(|quote| quote.evidence.bytes.truncate(1)));
    assert_eq!(attester.attest(&Challenge { long: DATA, short: [0; 48] }).expect("a quote").evidence.bytes.len(), 1);
    attester.misbehave(Fault::None);
    assert_eq!(bound(&attester), DATA);
    assert_eq!(attester.quotes(), 6);
}

/// One element of a DER structure: how deep, its tag, and its contents where they are not this certificate's own.
type Element = (usize, u8, Option<Vec<u8>>);

fn elements(der: &[u8], depth: usize, out: &mut Vec<Element>) {
    let mut rest = der;
    while let [tag, first, after @ ..] = rest {
        let (length, after) = match first {
            0..=0x7f => (usize::from(*first), after),
            0x81 => (usize::from(after[0]), &after[1..]),
            0x82 => (usize::from(after[0]) << 8 | usize::from(after[1]), &after[2..]),
            _ => panic!("a length of 64 KiB and more"),
        };
        let (content, after) = after.split_at(length);
        let constructed = tag & 0x20 != 0;
        // Booleans, nulls, identifiers, strings and bit strings as short as a key usage are kept; numbers, dates, keys
        // and signatures are a certificate's own.
        let kept = matches!(tag, 0x01 | 0x05 | 0x06 | 0x0c | 0x13 | 0x16 | 0x86) || *tag == 0x03 && length == 2;
        out.push((depth, *tag, kept.then(|| content.to_vec())));
        let nested = *tag == 0x04 && matches!(content, [0x02..=0x30, length, inner @ ..] if usize::from(*length) == inner.len());
        if constructed || nested {
            elements(content, depth + 1, out);
        }
        rest = after;
    }
}

/// The elements, one a line.
fn shape(der: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    elements(der, 0, &mut out);
    out.into_iter()
        .map(|(depth, tag, content)| format!("{depth} {tag:02x} {}", content.map_or_else(String::new, |content| content.escape_ascii().to_string())))
        .collect()
}

fn assert_same_shape(what: &str, minted: &[u8], genuine: &[u8]) {
    let (minted, genuine) = (shape(minted), shape(genuine));
    let differing: Vec<_> = minted.iter().zip(&genuine).filter(|(minted, genuine)| minted != genuine).collect();
    assert!(differing.is_empty() && minted.len() == genuine.len(), "{what}: {} and {} elements, {differing:#?}", minted.len(), genuine.len());
}

#[test]
fn certificates_have_the_shape_of_captured_ones() {
    let folder = std::env::var_os("PORTCULLIS_VECTORS").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), PathBuf::from);
    let captured = |file: &str| std::fs::read(folder.join(file));
    if captured("roots/amd_ark_genoa.der").is_err() {
        skipped::cases(1, "no captured evidence: name its folder in PORTCULLIS_VECTORS");
        return;
    }
    let captured = |file: &str| captured(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    for product in Product::ALL {
        for role in [Role::Ark, Role::Ask, Role::Asvk] {
            let file = format!("roots/amd_{}_{}.der", role.name(), product.name());
            assert_same_shape(&file, &SimulatedVendor::new(product).certificate(role), &captured(&file));
        }
    }
    let milan_now = |mut forge: Forge| {
        forge.vek.trailer = Trailer::Default;
        forge
    };
    for (file, forge) in [
        ("snp/genoa-v5-vcek-oak/vcek.der", Forge::new(Product::Genoa, 1, NOW)),
        ("snp/turin-v5-vcek-oak/vcek.der", Forge::new(Product::Turin, 1, NOW)),
        ("snp/milan-v2-vcek-azure-aci/vcek.der", Forge::new(Product::Milan, 1, NOW)),
        ("snp/milan-v3-vcek-oak/vcek.der", milan_now(Forge::new(Product::Milan, 1, NOW))),
        ("snp/milan-v3-vlek-aws/vlek.der", milan_now(Forge::new(Product::Milan, 1, NOW).vlek("CN=cc-us-east-2.amazonaws.com"))),
    ] {
        assert_same_shape(file, &forge.vek_certificate(), &captured(file));
    }
}

#[test]
fn openssl_takes_the_chain_and_the_revocation_list() {
    if Command::new("openssl").arg("version").output().is_err() {
        skipped::cases(1, "no openssl, whose opinion is asked");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pem = |label: &str, der: &[u8]| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", data_encoding::BASE64.encode(der));
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a writable folder");
        path
    };
    for product in Product::ALL {
        let mut forge = Forge::new(product, 1, NOW);
        let vendor = forge.vendor;
        let ark = write("ark", pem("CERTIFICATE", &vendor.certificate(Role::Ark)));
        let ask = write("ask", pem("CERTIFICATE", &vendor.certificate(Role::Ask)));
        let vek = write("vek", pem("CERTIFICATE", &forge.vek_certificate()));
        let verify = |crl: &PathBuf| {
            // The list covers the intermediate, as the vendor's does: the leaf has no list of its own, so that check is the ASK's.
            let at = NOW.0.to_string();
            let leaf = Command::new("openssl").args(["verify", "-attime", &at, "-CAfile"]).arg(&ark).arg("-untrusted").arg(&ask).arg(&vek).output();
            let middle =
                Command::new("openssl").args(["verify", "-attime", &at, "-crl_check", "-CAfile"]).arg(&ark).arg("-CRLfile").arg(crl).arg(&ask).output();
            [leaf, middle]
                .map(|output| output.expect("openssl runs"))
                .map(|output| (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
        };
        let quiet = write("crl", pem("X509 CRL", &vendor.revoke(&forge.crl)));
        let [leaf, middle] = verify(&quiet);
        assert!(leaf.0 && middle.0, "{product:?}: {leaf:?} {middle:?}");
        forge.crl.revoked.push((vendor.serial(Role::Ask), NOW.minus(60)));
        let revoking = write("crl", pem("X509 CRL", &vendor.revoke(&forge.crl)));
        let [_, middle] = verify(&revoking);
        assert!(!middle.0 && middle.1.contains("revoked"), "{product:?}: {middle:?}");
    }
}

#[test]
#[ignore = "prints how long starting and quoting take"]
fn time_to_start() {
    for product in Product::ALL {
        let begin = std::time::Instant::now();
        let attester = Forge::new(product, 1, NOW).attester();
        let started = begin.elapsed();
        attester.attest(&Challenge { long: DATA, short: [0; 48] }).expect("a quote");
        println!("{product:?}: start {started:?}, with the first report {:?}", begin.elapsed());
    }
}
