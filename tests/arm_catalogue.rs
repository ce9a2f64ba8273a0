//! The negative catalogue of Arm's tokens (CCA, PSA): each case is a fixture that passes with one thing changed, and the one
//! code that the change is refused with. Tokens are forged under the simulator's keys, which the policy names.

#![cfg(feature = "simulator")]

#[path = "support/bench.rs"]
mod bench;

use bench::{appraiser, refused, session, verdicts};
use portcullis::attester::Quote;
use portcullis::attester::simulator::cca::{CcaForge, IMPLEMENTATION};
use portcullis::attester::simulator::elliptic::{Curve, EcKey};
use portcullis::attester::simulator::psa::PsaForge;
use portcullis::evidence::arm::{Part, key_names};
use portcullis::evidence::cca::{self, Shape};
use portcullis::evidence::psa::{PROFILES, Token};
use portcullis::evidence::{Bound, Challenge, Evidence, cose};
use portcullis::platform;
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::Appraiser;

const SIMULATED: &str = r#", "insecure_roots": ["simulator"]"#;

type Verdicts = (Result<(), Denied>, Result<(), Reason>);

fn asked() -> Challenge {
    *session().1.expected()
}

fn hex(octets: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(octets)
}

fn components(parts: &[Part]) -> String {
    let one = |part: &Part| {
        let kind = part.kind.as_ref().map(|kind| format!(r#""type": "{kind}", "#)).unwrap_or_default();
        format!(r#"{{ {kind}"measurement": "{}", "signer": "{}" }}"#, hex(&part.measurement), hex(&part.signer))
    };
    format!(r#", "sw_components": [ {} ]"#, parts.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn realm() -> CcaForge {
    CcaForge::new(7)
}

fn cca_entry() -> String {
    format!(r#", "rim": "{}"{}"#, hex(&realm().realm.initial), components(&realm().platform.components))
}

fn cca(quote: Quote, entry: &str, policy: &str) -> Verdicts {
    verdicts("cca", quote, &appraiser("cca", &[&cca_entry(), entry].concat(), policy))
}

fn good_cca() -> Result<(), Denied> {
    cca(realm().quote(&asked().long), "", SIMULATED).0
}

#[test]
fn what_is_forged_of_cca_is_refused_for_its_reason() {
    type Case = (&'static str, Reason, fn(&mut CcaForge));
    let cases: &[Case] = &[
        ("cca-rak", Reason::ChainUntrusted, |forge| forge.platform_challenge = Some(vec![7; 32])),
        ("cca-rak-other-hash", Reason::ChainUntrusted, |forge| forge.platform_challenge = Some(portcullis::crypto::sha512(&[&forge.realm.key]).to_vec())),
        ("cca-realm-signer", Reason::SignatureInvalid, |forge| forge.realm_key = EcKey::derive(Curve::P384, &[b"another realm"])),
        ("cca-cpak", Reason::SignatureInvalid, |forge| forge.platform_key = EcKey::derive(Curve::P384, &[b"an impostor"])),
        ("cca-cpak-curve", Reason::SignatureInvalid, |forge| forge.platform_key = EcKey::derive(Curve::P256, &[b"an impostor"])),
        ("cca-platform-alg", Reason::SignatureInvalid, |forge| forge.algorithms[0] = -7),
        ("cca-realm-alg", Reason::SignatureInvalid, |forge| forge.algorithms[1] = -36),
        ("cca-device-unlisted", Reason::ChainUntrusted, |forge| forge.platform.implementation[0] = 0),
        ("cca-lifecycle", Reason::GuestPolicyViolation, |forge| forge.platform.lifecycle = 0x2000),
        ("cca-lifecycle-debug", Reason::GuestPolicyViolation, |forge| forge.platform.lifecycle = 0x4000),
        ("cca-lifecycle-above", Reason::GuestPolicyViolation, |forge| forge.platform.lifecycle = 0x3100),
        ("cca-rim", Reason::MeasurementUnknown, |forge| forge.realm.initial = vec![9; 48]),
        ("cca-rim-length", Reason::MeasurementUnknown, |forge| forge.realm.initial.truncate(32)),
        ("cca-component-measurement", Reason::MeasurementUnknown, |forge| forge.platform.components[0].measurement[0] ^= 1),
        ("cca-component-signer", Reason::MeasurementUnknown, |forge| forge.platform.components[3].signer[0] ^= 1),
        ("cca-component-missing", Reason::MeasurementUnknown, |forge| drop(forge.platform.components.pop())),
        ("cca-component-unlisted", Reason::MeasurementUnknown, |forge| {
            let part = Part { kind: Some("EXTRA".to_owned()), ..forge.platform.components[0].clone() };
            forge.platform.components.push(part);
        }),
        ("cca-component-untyped", Reason::MeasurementUnknown, |forge| forge.platform.components[0].kind = None),
        ("cca-platform-profile", Reason::EvidenceUnsupported, |forge| forge.platform.profile = "tag:arm.com,2026:cca_platform#2.0.0".to_owned()),
        ("cca-realm-profile", Reason::EvidenceUnsupported, |forge| forge.realm.profile = Some("tag:arm.com,2026:realm#2.0.0".to_owned())),
        ("cca-key-without-profile", Reason::EvidenceMalformed, |forge| forge.realm.profile = None),
        ("cca-key-off-curve", Reason::EvidenceMalformed, |forge| *forge.realm.key.last_mut().expect("a key") ^= 1),
        ("cca-key-p256", Reason::EvidenceMalformed, |forge| {
            forge.realm_key = EcKey::derive(Curve::P256, &[b"small"]);
            forge.realm.key = cose::encode_key(&forge.realm_key.public()).expect("a key");
        }),
        ("cca-rem-length", Reason::EvidenceMalformed, |forge| forge.realm.extensible[2].push(0)),
        ("cca-no-components", Reason::EvidenceMalformed, |forge| forge.platform.components.clear()),
    ];
    for (name, expect, change) in cases {
        let mut bad = realm();
        change(&mut bad);
        refused("cca", name, good_cca(), cca(bad.quote(&asked().long), "", SIMULATED), *expect);
    }
    refused("cca", "simulated-key-unnamed", good_cca(), cca(realm().quote(&asked().long), "", ""), Reason::ChainUntrusted);
    let other = portcullis::evidence::ReportData([5; 64]);
    refused("cca", "another session's", good_cca(), cca(realm().quote(&other), "", SIMULATED), Reason::BindingMismatch);
    let (rem, rpv) = (format!(r#", "rem1": "{}""#, "11".repeat(48)), format!(r#", "rpv": "{}""#, "22".repeat(64)));
    refused("cca", "rem", good_cca(), cca(realm().quote(&asked().long), &rem, SIMULATED), Reason::MeasurementUnknown);
    refused("cca", "rpv", good_cca(), cca(realm().quote(&asked().long), &rpv, SIMULATED), Reason::MeasurementUnknown);
    let instance = format!(r#", "instance_id": "{}""#, hex(&CcaForge::new(8).platform.instance));
    refused("cca", "instance-unlisted", good_cca(), cca(realm().quote(&asked().long), &instance, SIMULATED), Reason::PlatformNotAllowed);
}

#[test]
fn every_shape_of_a_cca_token_is_read_and_no_other() {
    let mut forge = realm();
    forge.shape = Shape::Wrapper;
    assert!(cca(forge.quote(&asked().long), "", SIMULATED).0.is_ok());
    let mut legacy = realm();
    (legacy.realm.profile, legacy.realm.key) = (None, legacy.realm_key.point().to_vec());
    assert!(cca(legacy.quote(&asked().long), "", SIMULATED).0.is_ok(), "a realm key as a point");
    let token = realm().token(&asked().long);
    let with = |bytes: Vec<u8>| Quote { evidence: Evidence::new(cca::MEDIA_TYPE, bytes), endorsements: Default::default() };
    let untagged = with(token[3..].to_vec());
    refused("cca", "untagged", good_cca(), cca(untagged, "", SIMULATED), Reason::EvidenceMalformed);
    refused("cca", "trailing", good_cca(), cca(with([token.as_slice(), &[0]].concat()), "", SIMULATED), Reason::EvidenceMalformed);
    refused("cca", "too long", good_cca(), cca(with(vec![0; cca::MAX_TOKEN + 1]), "", SIMULATED), Reason::EvidenceSize);
    let read = cca::Token::parse(&token).expect("a token");
    let again = |signed: &cose::Sign1<'_>, payload: &[u8]| cca::envelope(signed.protected, payload, signed.signature);
    let (platform, realm) = (again(&read.platform_signed, &read.platform.encode()), again(&read.realm_signed, &read.realm.encode()));
    assert_eq!(cca::encode(read.shape, &platform, &realm), token, "what is read is written");
    refused("cca", "twice the realm", good_cca(), cca(with(cca::encode(Shape::Collection, &realm, &realm)), "", SIMULATED), Reason::EvidenceUnsupported);
}

#[test]
fn one_octet_changed_anywhere_in_a_token_is_refused() {
    let (realm, device) = (realm().quote(&asked().long), device().quote(&asked().long.0));
    for (tee, quote, appraiser) in [("cca", realm, appraiser("cca", &cca_entry(), SIMULATED)), ("psa", device, appraiser("psa", &psa_entry(), SIMULATED))] {
        assert!(verdicts(tee, quote.clone(), &appraiser).0.is_ok());
        for at in (0..quote.evidence.bytes.len()).step_by(5) {
            let mut bad = quote.clone();
            bad.evidence.bytes[at] ^= 0x10;
            assert!(verdicts(tee, bad, &appraiser).0.is_err(), "{tee}: octet {at}");
        }
        let mut bad = quote;
        *bad.evidence.bytes.last_mut().expect("octets") ^= 1;
        assert_eq!(verdicts(tee, bad, &appraiser).0.map_err(|denied| denied.reason()), Err(Reason::SignatureInvalid), "{tee}");
    }
}

fn device() -> PsaForge {
    PsaForge::new(7)
}

fn psa_entry() -> String {
    components(&device().token.components)
}

fn psa(quote: Quote, entry: &str, policy: &str) -> Verdicts {
    verdicts("psa", quote, &appraiser("psa", &[&psa_entry(), entry].concat(), policy))
}

fn good_psa() -> Result<(), Denied> {
    psa(device().quote(&asked().long.0), "", SIMULATED).0
}

#[test]
fn what_is_forged_of_psa_is_refused_for_its_reason() {
    type Case = (&'static str, Reason, fn(&mut PsaForge));
    let cases: &[Case] = &[
        ("psa-key", Reason::SignatureInvalid, |forge| forge.key = EcKey::derive(Curve::P256, &[b"an impostor"])),
        ("psa-alg", Reason::SignatureInvalid, |forge| forge.algorithm = -35),
        ("psa-device-unlisted", Reason::ChainUntrusted, |forge| forge.token.implementation[31] = 0),
        ("psa-lifecycle", Reason::GuestPolicyViolation, |forge| forge.token.lifecycle = 0x2fff),
        ("psa-lifecycle-debug", Reason::GuestPolicyViolation, |forge| forge.token.lifecycle = 0x5000),
        ("psa-non-secure", Reason::GuestPolicyViolation, |forge| forge.token.client = -1),
        ("psa-component", Reason::MeasurementUnknown, |forge| forge.token.components[1].measurement[0] ^= 1),
        ("psa-component-missing", Reason::MeasurementUnknown, |forge| drop(forge.token.components.pop())),
        ("psa-client-zero", Reason::EvidenceMalformed, |forge| forge.token.client = 0),
        ("psa-boot-seed", Reason::EvidenceMalformed, |forge| forge.token.boot_seed = Some(vec![1; 7])),
    ];
    for (name, expect, change) in cases {
        let mut bad = device();
        change(&mut bad);
        refused("psa", name, good_psa(), psa(bad.quote(&asked().long.0), "", SIMULATED), *expect);
    }
    refused("psa", "another session's", good_psa(), psa(device().quote(&[5; 64]), "", SIMULATED), Reason::BindingMismatch);
    refused("psa", "a challenge of 32 octets", good_psa(), psa(device().quote(&asked().long.0[..32]), "", SIMULATED), Reason::BindingMismatch);
    refused("psa", "a challenge of 63 octets", good_psa(), psa(device().quote(&[5; 63]), "", SIMULATED), Reason::EvidenceMalformed);
    assert!(psa(device().quote(&asked().short), "", SIMULATED).0.is_ok(), "a device that takes 48 octets");
    refused("psa", "client-unlisted", good_psa(), psa(device().quote(&asked().long.0), r#", "client_id": ["1"]"#, SIMULATED), Reason::GuestPolicyViolation);
    let mut mac = device().quote(&asked().long.0);
    mac.evidence.bytes[0] = 0xd1;
    refused("psa", "psa-mac0", good_psa(), psa(mac, "", SIMULATED), Reason::EvidenceUnsupported);
    for profile in &PROFILES {
        let mut forge = device();
        forge.token.profile = profile;
        let token = forge.token(&asked().long.0);
        assert!(psa(forge.quote(&asked().long.0), "", SIMULATED).0.is_ok(), "{}", profile.name);
        let (sign1, read) = Token::parse(&token).expect("a token");
        assert_eq!(read.encode(), sign1.payload, "what is read is written");
    }
    let laboratory = appraiser(
        "psa",
        r#", "insecure_any_measurement": true, "caller": ["non-secure"], "insecure_allow_non_secure": "a laboratory", "lifecycle": ["non-rot-debug"], "insecure_allow_unsecured": "a laboratory""#,
        SIMULATED,
    );
    let mut open = device();
    (open.token.client, open.token.lifecycle) = (-5, 0x4000);
    assert!(verdicts("psa", open.quote(&asked().long.0), &laboratory).0.is_ok());
}

/// A device of the operator's own, by its key in the policy.
#[test]
fn a_device_is_known_by_its_own_key_alone() {
    let mut forge = device();
    forge.key = EcKey::derive(Curve::P256, &[b"the operator's device"]);
    forge.token.implementation = [3; 32];
    let [exact, family] = key_names(&forge.token.implementation, &forge.token.instance);
    let keys = |name: &str, key: &EcKey| format!(r#", "keys": [ {{ "tee": "psa", "name": "{name}", "key": "{}" }} ]"#, hex(&key.spki()));
    let judged = |policy: &str| psa(forge.quote(&asked().long.0), "", policy).0.map_err(|denied| denied.reason());
    assert_eq!((judged(&keys(&exact, &forge.key)), judged(&keys(&family, &forge.key))), (Ok(()), Ok(())));
    assert_eq!(judged(&keys(&exact, &EcKey::derive(Curve::P256, &[b"another"]))), Err(Reason::SignatureInvalid));
    assert_eq!(judged(&keys(&exact, &EcKey::derive(Curve::P384, &[b"another"]))), Err(Reason::SignatureInvalid));
    let [other, _] = key_names(&forge.token.implementation, &[1; 33]);
    assert_eq!(judged(&keys(&other, &forge.key)), Err(Reason::ChainUntrusted));
    let of_cca = keys(&exact, &forge.key).replace("\"psa\"", "\"cca\"");
    assert_eq!(judged(&of_cca), Err(Reason::ChainUntrusted), "a key for another platform");
}

/// A key that all instances share speaks for those without a key of their own: whoever has it is not every device.
#[test]
fn a_device_with_a_key_of_its_own_is_not_spoken_for_by_the_shared_one() {
    let named = |name: &str| EcKey::derive(Curve::P256, &[name.as_bytes()]);
    let (own, shared) = ("the device's own", "every other's");
    let mut forge = device();
    forge.token.implementation = [3; 32];
    let [exact, family] = key_names(&forge.token.implementation, &forge.token.instance);
    let key = |name: &str, key: &str| format!(r#"{{ "tee": "psa", "name": "{name}", "key": "{}" }}"#, hex(&named(key).spki()));
    let both = format!(r#", "keys": [ {}, {} ]"#, key(&exact, own), key(&family, shared));
    let judged = |by: &str, instance: Option<[u8; 33]>| {
        let mut forge = device();
        (forge.token.implementation, forge.key) = ([3; 32], named(by));
        forge.token.instance = instance.unwrap_or(forge.token.instance);
        psa(forge.quote(&asked().long.0), "", &both).0.map_err(|denied| denied.reason())
    };
    assert_eq!(judged(own, None), Ok(()));
    assert_eq!(judged(shared, Some([1; 33])), Ok(()), "a device without a key of its own");
    assert_eq!(judged(shared, None), Err(Reason::SignatureInvalid), "another device in its name");
}

/// Parts without a type cannot be told apart by it: each that is listed is wanted.
#[test]
fn a_part_without_a_type_is_missed() {
    let untyped = |count: usize| {
        let mut forge = device();
        forge.token.components.iter_mut().for_each(|part| part.kind = None);
        forge.token.components.truncate(count);
        forge
    };
    let all = device().token.components.len();
    assert!(all > 1);
    let appraiser = appraiser("psa", &components(&untyped(all).token.components), SIMULATED);
    let judged = |count: usize| verdicts("psa", untyped(count).quote(&asked().long.0), &appraiser).0.map_err(|denied| denied.reason());
    assert_eq!((judged(all), judged(all - 1)), (Ok(()), Err(Reason::MeasurementUnknown)));
}

/// The published trust anchor whose point is not on its curve, and its like, are refused where they are loaded.
#[test]
fn a_key_off_its_curve_is_no_anchor() {
    let mut spki = EcKey::derive(Curve::P384, &[b"a key"]).spki();
    let text = |spki: &[u8]| {
        let text = format!(
            r#"{{ "version": 1, "name": "p", "accept": [], "keys": [ {{ "tee": "cca", "name": "{}", "key": "{}" }} ] }}"#,
            hex(&IMPLEMENTATION),
            hex(spki)
        );
        AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).map(drop)
    };
    assert!(text(&spki).is_ok());
    *spki.last_mut().expect("octets") ^= 1;
    let problems = text(&spki).expect_err("a point off its curve");
    assert!(format!("{problems:?}").contains("not a public key"), "{problems:?}");
    assert!(text(b"").is_err());
}

#[test]
fn what_a_token_carries_is_told_by_its_length() {
    let verifier = platform::by_name("psa").expect("the platform").verifier;
    let bound = |nonce: &[u8]| verifier.bound(&device().quote(nonce).evidence).expect("a token");
    assert!(matches!(bound(&[7; 64]), Bound::Long(_)) && matches!(bound(&[7; 48]), Bound::Short(_)) && matches!(bound(&[7; 32]), Bound::Other(_)));
    let Appraiser { policy, .. } = appraiser("cca", &cca_entry(), SIMULATED);
    assert_eq!(policy.accept.len(), 1);
}

#[test]
fn lists_of_firmware_are_checked_when_they_are_loaded() {
    for (list, said) in [
        ("[]", "empty list"),
        (r#"[ { "type": "BL" } ]"#, "measurement and signer"),
        (r#"[ { "measurement": "00", "signer": "00" } ]"#, "octets"),
        (r#"[ { "measurment": "00" } ]"#, "unknown key"),
        (r#""BL""#, "must be a list"),
    ] {
        let text = format!(r#"{{ "version": 1, "name": "p", "accept": [ {{ "id": "a", "tee": "psa", "sw_components": {list} }} ] }}"#);
        let problems = AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).expect_err(list);
        assert!(format!("{problems:?}").contains(said), "{list}: {problems:?}");
    }
}
