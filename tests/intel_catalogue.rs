//! The negative catalogue of Intel TDX and SGX: each case is a fixture that passes with one thing changed, and the one
//! code that the change is refused with. Evidence is forged under the simulator's roots, which the policy text names.

#![cfg(feature = "simulator")]

#[allow(dead_code, reason = "what other catalogues need")]
#[path = "support/bench.rs"]
mod bench;

use std::collections::BTreeMap;

use portcullis::attester::Quote;
use portcullis::attester::simulator::intel::{IntelCa, IntelForge};
use portcullis::attester::simulator::{MEASUREMENT, Patch};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::intel::Body;
use portcullis::evidence::intel::collateral::Signed;
use portcullis::evidence::intel::log::{Events, GuestEvent, LABEL, MEDIA_TYPE};
use portcullis::evidence::tpm::Hash;
use portcullis::evidence::{Auxiliary, Endorsement, ReportData, Timestamp};
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Appraisal, Appraiser, When};

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);
const DAY: u64 = 86_400;
const DATA: ReportData = ReportData([0x42; 64]);

/// Which fixture is changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Of {
    Sgx,
    Tdx10,
    Tdx15,
}

impl Of {
    fn forge(self) -> IntelForge {
        match self {
            Self::Sgx => IntelForge::sgx(7, NOW),
            Self::Tdx10 => IntelForge::tdx10(7, NOW),
            Self::Tdx15 => IntelForge::tdx15(7, NOW),
        }
    }

    fn platform(self) -> &'static str {
        if self == Self::Sgx { "intel-sgx" } else { "intel-tdx" }
    }

    /// What the entry pins: the measurement as a whole.
    fn pins(self) -> String {
        let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
        let forge = self.forge();
        match &forge.quote.body {
            Body::Enclave(report) => format!(r#""mrenclave": "{}""#, hex(&report.mr_enclave)),
            Body::TrustDomain(report) => format!(
                r#""mrtd": "{}", "rtmr0": "{}", "rtmr1": "{}", "rtmr2": "{}""#,
                hex(&MEASUREMENT),
                hex(&report.rtmr[0]),
                hex(&report.rtmr[1]),
                hex(&report.rtmr[2])
            ),
        }
    }
}

/// Changes that are made before everything is signed.
type Forging = fn(&mut IntelForge);

const FORGED: &[(&str, Of, Reason, Forging)] = &[
    // Trust domains.
    ("tdx-debug", Of::Tdx15, Reason::DebugEnabled, |forge| forge.trust_domain().td_attributes |= 1),
    ("tdx-septve-off", Of::Tdx15, Reason::GuestPolicyViolation, |forge| forge.trust_domain().td_attributes &= !(1 << 28)),
    ("tdx-migratable", Of::Tdx15, Reason::GuestPolicyViolation, |forge| forge.trust_domain().td_attributes |= 1 << 29),
    ("tdx-profiling", Of::Tdx10, Reason::GuestPolicyViolation, |forge| forge.trust_domain().td_attributes |= 1 << 5),
    ("tdx-hgs-profiling", Of::Tdx10, Reason::GuestPolicyViolation, |forge| forge.trust_domain().td_attributes |= 1 << 4),
    ("tdx-pmt-profiling", Of::Tdx10, Reason::GuestPolicyViolation, |forge| forge.trust_domain().td_attributes |= 1 << 6),
    ("tdx-reserved-attribute", Of::Tdx15, Reason::ReservedBitsSet, |forge| forge.trust_domain().td_attributes |= 1 << 40),
    ("tdx-xfam-beyond", Of::Tdx15, Reason::ReservedBitsSet, |forge| forge.trust_domain().xfam |= 1 << 60),
    ("tdx-xfam-without-x87", Of::Tdx15, Reason::ReservedBitsSet, |forge| forge.trust_domain().xfam &= !1),
    ("tdx-service-td", Of::Tdx15, Reason::GuestPolicyViolation, |forge| {
        forge.trust_domain().newer.as_mut().expect("TD 1.5").mr_service_td[47] = 1;
    }),
    ("tdx-wrong-mrtd", Of::Tdx15, Reason::MeasurementUnknown, |forge| forge.trust_domain().mr_td[0] ^= 1),
    ("tdx-wrong-rtmr1", Of::Tdx15, Reason::MeasurementUnknown, |forge| {
        forge.log = None;
        forge.trust_domain().rtmr[1][0] ^= 1;
    }),
    ("tdx-foreign-module", Of::Tdx15, Reason::PlatformNotAllowed, |forge| forge.trust_domain().mr_signer_seam[0] = 1),
    ("tdx-debug-module", Of::Tdx15, Reason::PlatformNotAllowed, |forge| forge.trust_domain().seam_attributes[0] = 1),
    ("tdx-unknown-module", Of::Tdx15, Reason::PlatformNotAllowed, |forge| forge.trust_domain().tee_tcb_svn[1] = 9),
    ("tdx-module-below-all", Of::Tdx10, Reason::TcbTooLow, |forge| forge.trust_domain().tee_tcb_svn[0] = 1),
    ("tdx-module-outofdate", Of::Tdx10, Reason::TcbTooLow, |forge| forge.trust_domain().tee_tcb_svn[0] = 4),
    ("tdx-rolled-back", Of::Tdx15, Reason::TcbTooLow, |forge| forge.trust_domain().newer.as_mut().expect("TD 1.5").tee_tcb_svn[0] = 4),
    ("tdx-relaunch-advised", Of::Tdx15, Reason::TcbTooLow, |forge| forge.trust_domain().tee_tcb_svn[0] = 4),
    ("tdx-running-module-unknown", Of::Tdx15, Reason::TcbTooLow, |forge| {
        forge.trust_domain().newer.as_mut().expect("TD 1.5").tee_tcb_svn[1] = 9;
    }),
    // The quoting enclave.
    ("qe-binding", Of::Tdx15, Reason::QuotingEnclaveInvalid, |forge| forge.binds_other_key = true),
    ("qe-rd-tail", Of::Tdx15, Reason::QuotingEnclaveInvalid, |forge| forge.qe_report_tail[31] = 1),
    ("qe-foreign", Of::Tdx15, Reason::QuotingEnclaveInvalid, |forge| forge.quote.qe_report.mr_signer[0] ^= 1),
    ("qe-other-product", Of::Sgx, Reason::QuotingEnclaveInvalid, |forge| forge.quote.qe_report.isv_prod_id = 9),
    ("qe-debug", Of::Sgx, Reason::QuotingEnclaveInvalid, |forge| forge.quote.qe_report.attributes[0] |= 2),
    ("qe-miscselect", Of::Sgx, Reason::QuotingEnclaveInvalid, |forge| forge.quote.qe_report.misc_select = 1),
    ("qe-outofdate", Of::Tdx15, Reason::TcbTooLow, |forge| forge.quote.qe_report.isv_svn = 5),
    ("qe-below-all", Of::Tdx15, Reason::TcbTooLow, |forge| forge.quote.qe_report.isv_svn = 1),
    ("sgx-qe-on-tdx", Of::Tdx15, Reason::QuotingEnclaveInvalid, |forge| {
        forge.collateral.qe_id = "QE";
        forge.collateral.isvprodid = 1;
    }),
    ("sgx-quote-of-td-qe", Of::Sgx, Reason::QuotingEnclaveInvalid, |forge| forge.quote.qe_report.isv_prod_id = 2),
    // The TCB.
    ("tcb-outofdate", Of::Tdx15, Reason::TcbTooLow, |forge| forge.pck.components[0] -= 1),
    ("tcb-below-all", Of::Tdx15, Reason::TcbTooLow, |forge| forge.pck.components[0] = 1),
    ("tcb-pce-below-all", Of::Sgx, Reason::TcbTooLow, |forge| forge.pck.pce_svn = 1),
    ("tcb-swhardening", Of::Sgx, Reason::TcbTooLow, |forge| forge.collateral.levels[0].status = "SWHardeningNeeded"),
    ("tcb-configuration", Of::Tdx15, Reason::TcbTooLow, |forge| forge.collateral.levels[0].status = "ConfigurationNeeded"),
    ("qe-swhardening", Of::Tdx15, Reason::TcbTooLow, |forge| forge.collateral.quoting_enclave[0].1 = "SWHardeningNeeded"),
    ("module-configuration", Of::Tdx15, Reason::TcbTooLow, |forge| forge.collateral.module[0].1 = "ConfigurationNeeded"),
    ("tcb-revoked", Of::Tdx15, Reason::TcbTooLow, |forge| forge.collateral.levels[0].status = "Revoked"),
    ("tcb-unknown-status", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.collateral.levels[0].status = "Splendid"),
    ("tcb-old-evaluation", Of::Tdx15, Reason::TcbTooLow, |forge| forge.collateral.number = 19),
    // Collateral.
    ("tcbinfo-fmspc", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.collateral.fmspc = [9; 6]),
    ("tcbinfo-pceid", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.collateral.pce_id = [0, 9]),
    ("tcbinfo-of-sgx", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.collateral.tcb_id = "SGX"),
    ("tcbinfo-stale", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.collateral.next_update = NOW.minus(1)),
    ("tcbinfo-future", Of::Sgx, Reason::CollateralUnavailable, |forge| forge.collateral.issued = NOW.plus(1)),
    ("collateral-of-impostor", Of::Tdx15, Reason::ChainUntrusted, |forge| forge.collateral_ca = IntelCa::impostor()),
    ("collateral-missing", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.unstapled = vec!["pck_crl"]),
    ("root-crl-missing", Of::Sgx, Reason::CollateralUnavailable, |forge| forge.unstapled = vec!["root_crl"]),
    ("tcbinfo-missing", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.unstapled = vec!["tcb_info"]),
    ("qe-identity-missing", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.unstapled = vec!["qe_identity"]),
    ("pck-crl-stale", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.pck_crl.next_update = NOW.minus(1)),
    ("root-crl-stale", Of::Tdx15, Reason::CollateralUnavailable, |forge| forge.root_crl.next_update = NOW.minus(1)),
    // Chains.
    ("wrong-root", Of::Tdx15, Reason::ChainUntrusted, |forge| forge.ca = IntelCa::impostor()),
    ("pck-revoked", Of::Tdx15, Reason::ChainRevoked, |forge| forge.pck_crl.revoked.push(forge.pck.serial)),
    ("pck-ca-revoked", Of::Sgx, Reason::ChainRevoked, |forge| forge.root_crl.revoked.push(IntelCa::new().serials().0)),
    ("signer-revoked", Of::Tdx15, Reason::ChainRevoked, |forge| forge.root_crl.revoked.push(IntelCa::new().serials().1)),
    ("pck-expired", Of::Tdx15, Reason::ChainUntrusted, |forge| forge.pck.not_after = NOW.minus(1)),
    ("no-pck-chain", Of::Sgx, Reason::EvidenceUnsupported, |forge| {
        forge.quote.certification_type = 3;
        forge.quote.certification = vec![0; 404];
    }),
    // Form.
    ("quote-nonzero-trailing", Of::Tdx15, Reason::EvidenceMalformed, |forge| forge.trailing = vec![1; 8]),
    ("body-size-lie", Of::Tdx15, Reason::EvidenceMalformed, |forge| forge.late_patches.push(patch(48, &[2, 0]))),
    ("body-size-of-the-other", Of::Tdx15, Reason::EvidenceMalformed, |forge| forge.late_patches.push(patch(50, &[0x48, 2]))),
    ("tdx-body-as-enclave", Of::Tdx15, Reason::EvidenceMalformed, |forge| forge.late_patches.push(patch(48, &[1, 0]))),
    ("version-6", Of::Tdx15, Reason::EvidenceUnsupported, |forge| forge.late_patches.push(patch(0, &[6]))),
    ("version-2", Of::Sgx, Reason::EvidenceUnsupported, |forge| forge.late_patches.push(patch(0, &[2]))),
    ("p384-attestation-key", Of::Tdx15, Reason::EvidenceUnsupported, |forge| forge.late_patches.push(patch(2, &[3]))),
    ("other-vendor", Of::Tdx15, Reason::EvidenceUnsupported, |forge| forge.late_patches.push(patch(12, &[0]))),
    ("other-tee", Of::Tdx15, Reason::EvidenceUnsupported, |forge| forge.late_patches.push(patch(4, &[0x82]))),
    ("reserved-in-enclave", Of::Sgx, Reason::ReservedBitsSet, |forge| forge.patches.push(patch(48 + 96, &[1]))),
    ("body-bitflip", Of::Tdx15, Reason::SignatureInvalid, |forge| forge.late_patches.push(patch(54 + 136, &[0x5a]))),
    ("svn-bitflip", Of::Tdx15, Reason::SignatureInvalid, |forge| forge.late_patches.push(patch(8, &[0x5a]))),
    // Enclaves.
    ("sgx-debug", Of::Sgx, Reason::DebugEnabled, |forge| forge.enclave().attributes[0] |= 2),
    ("sgx-not-initialised", Of::Sgx, Reason::GuestPolicyViolation, |forge| forge.enclave().attributes[0] &= !1),
    ("sgx-32-bit", Of::Sgx, Reason::GuestPolicyViolation, |forge| forge.enclave().attributes[0] &= !4),
    ("sgx-provision-key", Of::Sgx, Reason::GuestPolicyViolation, |forge| forge.enclave().attributes[0] |= 0x10),
    ("sgx-launch-key", Of::Sgx, Reason::GuestPolicyViolation, |forge| forge.enclave().attributes[0] |= 0x20),
    ("sgx-reserved-attribute", Of::Sgx, Reason::ReservedBitsSet, |forge| forge.enclave().attributes[0] |= 8),
    ("sgx-reserved-miscselect", Of::Sgx, Reason::ReservedBitsSet, |forge| forge.enclave().misc_select |= 1 << 2),
    ("sgx-wrong-mrenclave", Of::Sgx, Reason::MeasurementUnknown, |forge| forge.enclave().mr_enclave[0] ^= 1),
    // Event logs.
    ("rtmr-log-mismatch", Of::Tdx15, Reason::EventLogMismatch, |forge| log(forge).firmware.events[0].digests[0].1[0] ^= 1),
    ("log-event-dropped", Of::Tdx10, Reason::EventLogMismatch, |forge| drop(log(forge).firmware.events.pop())),
    ("log-foreign-register", Of::Tdx15, Reason::EventLogMismatch, |forge| log(forge).firmware.events[0].register = 5),
    ("log-unmeasured-event", Of::Tdx15, Reason::EventLogMismatch, |forge| log(forge).guest.push(event("app-id", b"1"))),
    ("log-colon-name", Of::Tdx15, Reason::EventLogMismatch, |forge| {
        // Measured as name `a` and payload `b:c`: the digest is the same.
        measure(forge, &event("a", b"b:c"));
        log(forge).guest = vec![event("a:b", b"c")];
    }),
    ("log-type-relabel", Of::Tdx15, Reason::EventLogMismatch, |forge| {
        measure(forge, &event("app-id", b"1"));
        log(forge).guest = vec![GuestEvent { kind: 6, ..event("app-id", b"1") }];
    }),
];

fn patch(offset: usize, octets: &[u8]) -> Patch {
    Patch { offset, octets: octets.to_vec() }
}

fn log(forge: &mut IntelForge) -> &mut Events {
    forge.log.as_mut().expect("the fixture has a log")
}

fn event(name: &str, payload: &[u8]) -> GuestEvent {
    GuestEvent { kind: 0x0800_0001, name: name.to_owned(), payload: payload.to_vec() }
}

/// Extends RTMR3 as the guest would.
fn measure(forge: &mut IntelForge, event: &GuestEvent) {
    let register = &mut forge.trust_domain().rtmr[3];
    *register = portcullis::crypto::sha384(&[register.as_slice(), &event.digest()]);
}

fn appraiser(of: Of, entry: &str, policy: &str) -> Appraiser {
    let text = format!(
        r#"{{ "version": 1, "name": "catalogue", "insecure_roots": ["simulator"]{policy}, "accept": [ {{ "id": "fixture", "tee": "{}", {entry} }} ] }}"#,
        of.platform()
    );
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let policy = match AppraisalPolicy::load(text.as_bytes(), &vocabularies) {
        Ok((policy, _)) => policy,
        Err(problems) => panic!("{problems:?}\n{text}"),
    };
    Appraiser { anchors: platform::anchors(&policy), policy }
}

fn made(forge: &IntelForge) -> Quote {
    let mut quote = forge.quote(&DATA);
    if let Some(log) = &forge.log {
        quote.evidence.auxiliary.push(Auxiliary { label: LABEL.to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes: log.encode() });
    }
    quote
}

fn judge(appraiser: &Appraiser, of: Of, quote: &Quote) -> Result<Appraisal, Denied> {
    let platform = platform::by_name(of.platform()).expect("a row");
    appraiser.examine(platform.verifier, &quote.evidence, &quote.endorsements, &NoMemo, NOW)
}

/// The verdict on a forge under what pins its fixture.
fn verdict(of: Of, change: impl FnOnce(&mut IntelForge)) -> Result<Appraisal, Denied> {
    let mut forge = of.forge();
    change(&mut forge);
    judge(&appraiser(of, &of.pins(), ""), of, &made(&forge))
}

#[test]
fn each_change_is_refused_with_its_code() {
    let mut wrong = BTreeMap::new();
    for (name, of, expect, change) in FORGED {
        match verdict(*of, change) {
            Err(denied) if denied.reason() == *expect => {}
            other => drop(wrong.insert(*name, format!("{expect} expected: {other:?}"))),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_fixture_passes() {
    for of in [Of::Sgx, Of::Tdx10, Of::Tdx15] {
        let appraisal = verdict(of, |_| {}).unwrap_or_else(|denied| panic!("{of:?}: {denied}"));
        assert!(appraisal.revocation_checked());
        assert!(appraisal.until() <= NOW.plus(29 * DAY), "the collateral's end bounds the verdict");
    }
}

#[test]
fn padding_of_zeros_and_an_absent_log_pass() {
    verdict(Of::Tdx15, |forge| forge.trailing = vec![0; 3000]).expect("zeros behind the quote");
    verdict(Of::Tdx15, |forge| forge.log = None).expect("no log");
    verdict(Of::Sgx, |forge| forge.quote.version = 4).expect("version 4 of an enclave");
    verdict(Of::Sgx, |forge| forge.quote.version = 5).expect("version 5 of an enclave");
}

#[test]
fn json_that_was_written_again_is_no_collateral() {
    let mut quote = made(&Of::Tdx15.forge());
    let again = |bytes: &[u8]| {
        let signed = Signed::decode("tcb_info", bytes).expect("minted");
        let text = std::str::from_utf8(signed.body).expect("JSON");
        // The same values; the first two keys of the info change places.
        let moved = text.replacen(r#""id":"TDX","version":3,"#, r#""version":3,"id":"TDX","#, 1);
        assert_ne!(moved, text);
        Signed { body: moved.as_bytes(), chain: signed.chain }.encode()
    };
    let change = |mut endorsement: Endorsement| {
        if endorsement.name == "tcb_info" {
            endorsement.bytes = again(&endorsement.bytes);
        }
        endorsement
    };
    quote.endorsements = quote.endorsements.into_iter().map(change).collect();
    let denied = judge(&appraiser(Of::Tdx15, &Of::Tdx15.pins(), ""), Of::Tdx15, &quote).expect_err("reserialised");
    assert_eq!(denied.reason(), Reason::CollateralUnavailable, "{denied}");
}

#[test]
fn a_compressed_log_is_refused_by_its_size() {
    let mut quote = made(&Of::Tdx15.forge());
    quote.evidence.auxiliary[0].bytes = [&[0x1f, 0x8b, 8, 0][..], &[0; 10_000]].concat();
    let denied = judge(&appraiser(Of::Tdx15, &Of::Tdx15.pins(), ""), Of::Tdx15, &quote).expect_err("compressed");
    assert_eq!(denied.reason(), Reason::EvidenceSize, "{denied}");
}

#[test]
fn a_quote_of_one_is_never_judged_as_the_other() {
    for (made_of, asked) in [(Of::Sgx, Of::Tdx15), (Of::Tdx15, Of::Sgx)] {
        let denied = judge(&appraiser(asked, &asked.pins(), ""), asked, &made(&made_of.forge())).expect_err("another TEE");
        assert_eq!(denied.reason(), Reason::EvidenceUnsupported, "{denied}");
    }
}

/// What an operator tolerates: a status with its advisories until a day, and nothing beyond.
#[test]
fn a_status_is_tolerated_as_far_as_it_is_written() {
    let tolerating = |advisory: &str, until: &str| {
        let key = format!(r#", "insecure_tcb_status": [ {{ "status": "OutOfDate", "advisories": ["{advisory}"], "until": "{until}" }} ]"#);
        let mut forge = Of::Tdx15.forge();
        forge.pck.components[0] -= 1;
        judge(&appraiser(Of::Tdx15, &(Of::Tdx15.pins() + &key), ""), Of::Tdx15, &made(&forge))
    };
    let accepted = tolerating("INTEL-SA-00001", "2026-12-03T00:00:00Z").expect("tolerated");
    assert_eq!(accepted.until(), NOW.plus(2 * DAY), "the verdict ends with the tolerance");
    for (advisory, until) in [("INTEL-SA-00002", "2026-12-03T00:00:00Z"), ("INTEL-SA-00001", "2026-11-30T00:00:00Z")] {
        assert_eq!(tolerating(advisory, until).map(drop).map_err(|denied| denied.reason()), Err(Reason::TcbTooLow), "{advisory} {until}");
    }
}

#[test]
fn events_are_believed_when_the_register_has_them() {
    let judged = |wanted: &str| {
        let mut forge = Of::Tdx15.forge();
        for (name, payload) in [("app-id", &b"\x01\x02"[..]), ("system-ready", b"")] {
            measure(&mut forge, &event(name, payload));
            log(&mut forge).guest.push(event(name, payload));
        }
        let entry = format!(r#"{}, "rtmr3_events": ["{wanted}"]"#, Of::Tdx15.pins());
        judge(&appraiser(Of::Tdx15, &entry, ""), Of::Tdx15, &made(&forge)).map(drop).map_err(|denied| denied.reason())
    };
    assert_eq!(judged("app-id=0102"), Ok(()));
    assert_eq!(judged("system-ready="), Ok(()));
    assert_eq!(judged("app-id=0103"), Err(Reason::MeasurementUnknown));
}

/// RTMR3 takes whatever runs later: an application that is not wanted cannot say that it is the one that is.
#[test]
fn an_event_with_two_values_tells_of_neither() {
    let judged = |payloads: &[&[u8]], wanted: &str| {
        let mut forge = Of::Tdx15.forge();
        for payload in payloads {
            measure(&mut forge, &event("app-id", payload));
            log(&mut forge).guest.push(event("app-id", payload));
        }
        let entry = format!(r#"{}, "rtmr3_events": [{wanted}]"#, Of::Tdx15.pins());
        judge(&appraiser(Of::Tdx15, &entry, ""), Of::Tdx15, &made(&forge)).map(drop).map_err(|denied| denied.reason())
    };
    assert_eq!(judged(&[b"\x01"], r#""app-id=01""#), Ok(()));
    assert_eq!(judged(&[b"\x66", b"\x01"], r#""app-id=01""#), Err(Reason::MeasurementUnknown));
    assert_eq!(judged(&[b"\x01", b"\x66"], r#""app-id=01""#), Err(Reason::MeasurementUnknown));
    assert_eq!(judged(&[b"\x66", b"\x01"], r#""app-id=01", "app-id=66""#), Ok(()), "both are wanted");
}

/// An event that is not told is not judged either: what went before cannot be hidden among the firmware's, whose events are
/// digests without a name.
#[test]
fn an_event_of_the_guest_is_not_hidden_in_the_firmwares_log() {
    let judged = |hidden: bool| {
        let mut forge = Of::Tdx15.forge();
        for payload in [&b"\x66"[..], b"\x01"] {
            measure(&mut forge, &event("app-id", payload));
        }
        let mut unwanted = log(&mut forge).firmware.events[0].clone();
        unwanted.register = 4;
        unwanted.digests = vec![(Hash::Sha384.id(), event("app-id", b"\x66").digest().to_vec())];
        match hidden {
            true => log(&mut forge).firmware.events.push(unwanted),
            false => log(&mut forge).guest.push(event("app-id", b"\x66")),
        }
        log(&mut forge).guest.push(event("app-id", b"\x01"));
        let entry = format!(r#"{}, "rtmr3_events": ["app-id=01"]"#, Of::Tdx15.pins());
        judge(&appraiser(Of::Tdx15, &entry, ""), Of::Tdx15, &made(&forge)).map(drop).map_err(|denied| denied.reason())
    };
    assert_eq!(judged(false), Err(Reason::MeasurementUnknown), "told");
    assert_eq!(judged(true), Err(Reason::EventLogMismatch), "hidden");
}

/// A connection stays open past the end of a tolerance, or into the days of a higher floor: it is judged by the present.
#[test]
fn a_live_connection_is_judged_by_the_tolerances_and_floors_of_the_present() {
    let (bind, binding) = bench::session();
    let judged = |later: u64, keys: &str, change: Forging| {
        let mut forge = Of::Tdx15.forge();
        forge.collateral.next_update = NOW.plus(30 * DAY);
        change(&mut forge);
        let quote = forge.quote(&binding.expected().long);
        let tdx = platform::by_name("intel-tdx").expect("the platform").verifier;
        let presented = Collection { tee: quote.evidence, bind: bind.clone(), endorsements: quote.endorsements };
        let when = When { since: NOW, now: NOW.plus(later) };
        let appraiser = appraiser(Of::Tdx15, &(Of::Tdx15.pins() + keys), "");
        appraiser.reconsider(tdx, &presented, &binding, &NoMemo, when).map(drop).map_err(|denied| denied.reason())
    };
    let tolerated = r#", "insecure_tcb_status": [ { "status": "OutOfDate", "advisories": ["INTEL-SA-00001"], "until": "2026-12-01T12:00:00Z" } ]"#;
    let old: Forging = |forge| forge.pck.components[0] -= 1;
    assert_eq!(judged(DAY / 4, tolerated, old), Ok(()));
    assert_eq!(judged(DAY * 3 / 4, tolerated, old), Err(Reason::TcbTooLow));
}

#[test]
fn a_signer_is_pinned_with_product_and_version() {
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    let signer = hex(&Of::Sgx.forge().enclave().mr_signer);
    let judged = |product: u16, version: u16| {
        let entry = format!(r#""mrsigner": "{signer}", "isvprodid": [{product}], "isvsvn": {version}"#);
        judge(&appraiser(Of::Sgx, &entry, ""), Of::Sgx, &made(&Of::Sgx.forge())).map(drop).map_err(|denied| denied.reason())
    };
    assert_eq!(judged(1, 1), Ok(()));
    assert_eq!(judged(2, 1), Err(Reason::MeasurementUnknown), "sgx-mrsigner-only");
    assert_eq!(judged(1, 2), Err(Reason::MeasurementUnknown));
}

/// Policies that would accept too much are refused when they are loaded.
#[test]
fn an_entry_that_pins_half_is_no_policy() {
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let zero = "0".repeat(96);
    let one = "1".repeat(96);
    let signer = "1".repeat(64);
    for (tee, entry) in [
        ("intel-tdx", format!(r#""mrtd": "{one}""#)),
        ("intel-tdx", format!(r#""rtmr0": "{one}", "rtmr1": "{one}", "rtmr2": "{one}""#)),
        ("intel-tdx", format!(r#""insecure_any_measurement": true, "mrconfigid": "{zero}""#)),
        ("intel-tdx", r#""insecure_any_measurement": true, "td_attributes": { "debug": true }"#.to_owned()),
        (
            "intel-tdx",
            r#""insecure_any_measurement": true, "insecure_tcb_status": [ { "status": "Revoked", "advisories": [], "until": "2027-01-01T00:00:00Z" } ]"#
                .to_owned(),
        ),
        ("intel-tdx", r#""insecure_any_measurement": true, "insecure_tcb_status": [ { "status": "OutOfDate", "advisories": [] } ]"#.to_owned()),
        ("intel-sgx", String::from(r#""isvprodid": [1]"#)),
        ("intel-sgx", format!(r#""mrsigner": "{signer}""#)),
        ("intel-sgx", format!(r#""mrsigner": "{signer}", "isvprodid": [1]"#)),
    ] {
        let text = format!(r#"{{ "version": 1, "name": "half", "accept": [ {{ "id": "half", "tee": "{tee}", {entry} }} ] }}"#);
        assert!(AppraisalPolicy::load(text.as_bytes(), &vocabularies).is_err(), "{text}");
    }
}
