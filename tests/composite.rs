//! Composite evidence: a TEE's with a GPU's beside it, both for the same key. What a policy requires must be there, what is
//! there must be genuine, bound and in the state that its vendor describes, and a GPU alone is nothing.

#![cfg(feature = "simulator")]

#[path = "support/references.rs"]
mod references;

use std::collections::BTreeMap;

use data_encoding::{BASE64, HEXLOWER};
use portcullis::attester::simulator::gpu::GpuForge;
use portcullis::attester::simulator::{Forge, MEASUREMENT};
use portcullis::evidence::batch::Proof;
use portcullis::evidence::binding::{self, Binding, BindingClaims, Channel, Kind, Role};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::gpu::{Gpu, LABELS, MEDIA_TYPE};
use portcullis::evidence::snp::Product;
use portcullis::evidence::{Auxiliary, ClaimValue, Endorsement, KeyDigest, Timestamp};
use portcullis::platform;
use portcullis::policy::{AppraisalPolicy, Roots};
use portcullis::proxy::appraisal::Memo;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Appraisal, Appraiser, AttestationResult, SignatureMemo, gpu};

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);

/// A vendor of devices and the one that it made.
struct World {
    devices: GpuForge,
    /// Whose endorsements lie before its own.
    references: Option<GpuForge>,
    /// The nonce that the device is asked with, in place of the right one.
    nonce: Option<[u8; 32]>,
    policy: &'static str,
    /// What the policy says of revocation lists.
    revocation: &'static str,
}

impl World {
    fn new() -> Self {
        Self::of(GpuForge::new(3, 1, NOW))
    }

    fn of(devices: GpuForge) -> Self {
        Self { devices, references: None, nonce: None, policy: r#", "require": ["gpu/0"]"#, revocation: "" }
    }

    fn appraiser(&self) -> Appraiser {
        let text = format!(
            r#"{{ "version": 1, "name": "composite", "insecure_roots": ["simulator"],
                  "accept": [ {{ "id": "a", "tee": "sev-snp", "measurement": "{}"{} }} ]{} }}"#,
            HEXLOWER.encode(&MEASUREMENT),
            self.policy,
            self.revocation
        );
        let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).unwrap_or_else(|problems| panic!("{problems:?}"));
        Appraiser { anchors: platform::anchors(&policy), policy }
    }

    /// A session's evidence that `change` was done to before the claims were made, and `tamper` after.
    fn present(&self, change: impl Fn(&mut Vec<Auxiliary>), tamper: impl Fn(&mut Collection)) -> (Collection, Binding) {
        let (key, instance, nonce) = (KeyDigest([0x11; 48]), vec![0x33; 16], [1; 32]);
        let asked = self.nonce.unwrap_or_else(|| binding::device_nonce(&[&instance, &nonce]));
        let mut members = self.devices.members(&asked);
        change(&mut members);
        let claims = BindingClaims { kind: Kind::Session { hello: [0x22; 48] }, spki: key, instance, aux: binding::digests(&members), epoch: None, hpke: None };
        let bind = claims.encode();
        let channel = Channel {
            role: Role::Server,
            exporter: &[0xee; 32],
            nonce_peer: &nonce,
            nonce_self: &[2; 32],
            key_self: &key,
            key_peer: None,
            alpn: b"portcullis1/raw",
        };
        let binding = Binding::of_session(&bind, &channel, &[0x22; 48], &Proof { index: 0, size: 1, path: Vec::new() }).expect("a binding");
        let quote = Forge::new(Product::Genoa, 7, NOW).quote(&binding.expected().long);
        let mut presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
        presented.tee.auxiliary = members;
        presented.endorsements.extend(self.references.iter().chain([&self.devices]).flat_map(GpuForge::endorsements));
        tamper(&mut presented);
        (presented, binding)
    }

    /// The verdict on such a session.
    fn judge(&self, change: impl Fn(&mut Vec<Auxiliary>), tamper: impl Fn(&mut Collection)) -> Result<AttestationResult, Denied> {
        let (presented, binding) = self.present(change, tamper);
        judged(&self.appraiser(), &presented, &binding, &NoMemo)
    }

    fn reason(&self, change: impl Fn(&mut Vec<Auxiliary>), tamper: impl Fn(&mut Collection)) -> Option<Reason> {
        self.judge(change, tamper).err().map(|denied| denied.reason())
    }
}

fn judged(appraiser: &Appraiser, presented: &Collection, binding: &Binding, memo: &dyn SignatureMemo) -> Result<AttestationResult, Denied> {
    let verifier = platform::of_evidence(&presented.tee).expect("the platform").verifier;
    appraiser.judge(verifier, presented, binding, memo, NOW)
}

#[test]
fn a_gpu_beside_a_tee_is_judged_and_its_claims_stand_under_its_label() {
    let world = World::new();
    let result = world.judge(|_| {}, |_| {}).unwrap_or_else(|denied| panic!("{denied}"));
    let claims = result.appraisal().claims();
    let device = claims.map("gpu/0").expect("the device's claims");
    assert_eq!((device.text("driver_version"), device.text("vbios_version")), (Some("570.1.1"), Some("96.00.9F.00.01")));
    assert_eq!(claims.bytes("measurement"), Some(MEASUREMENT.as_slice()), "the TEE's own claims stay where they were");
    assert_eq!(LABELS.len(), 16);
}

#[test]
fn what_a_policy_requires_must_be_there() {
    let mut world = World::new();
    assert_eq!(world.reason(Vec::clear, |_| {}), Some(Reason::AuxiliaryUnbound), "required and absent");
    world.policy = "";
    assert_eq!(world.reason(Vec::clear, |_| {}), None, "not required and absent");
    assert_eq!(world.reason(|_| {}, |_| {}), None, "not required and there: judged all the same");
    world.policy = r#", "require": ["gpu/0", "gpu/1"]"#;
    assert_eq!(world.reason(|_| {}, |_| {}), Some(Reason::AuxiliaryUnbound), "one of two");
    let twice = |members: &mut Vec<Auxiliary>| members.push(Auxiliary { label: "gpu/1".to_owned(), ..members[0].clone() });
    assert_eq!(world.reason(twice, |_| {}), Some(Reason::EvidenceAmbiguous), "one that is shown as two");
    world.devices = GpuForge::new(3, 2, NOW);
    assert_eq!(world.reason(|_| {}, |_| {}), None, "two");
    for bad in
        [r#""require": []"#, r#""require": ["gpu"]"#, r#""require": ["gpu/16"]"#, r#""require": ["gpu/00"]"#, r#""require": ["tee"]"#, r#""require": [1]"#]
    {
        let text = format!(r#"{{ "version": 1, "name": "p", "accept": [ {{ "id": "a", "tee": "sev-snp", "measurement": "{}", {bad} }} ] }}"#, "11".repeat(48));
        assert!(AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).is_err(), "{bad}");
    }
}

#[test]
fn each_change_is_refused_with_its_code() {
    use Reason::*;
    let world = World::new();
    let rim = |collection: &mut Collection, change: fn(&mut Endorsement)| {
        let mut all: Vec<Endorsement> = collection.endorsements.iter().cloned().collect();
        all.iter_mut().filter(|one| one.name.starts_with(gpu::RIM)).for_each(change);
        collection.endorsements = all.into_iter().collect();
    };
    let nothing = |_: &mut Vec<Auxiliary>| {};
    assert_eq!(world.reason(nothing, |c| c.tee.auxiliary[0].bytes[100] ^= 1), Some(AuxiliaryUnbound), "changed after it was listed");
    assert_eq!(world.reason(nothing, |c| c.tee.auxiliary.clear()), Some(AuxiliaryUnbound), "listed and absent");
    assert_eq!(
        world.reason(nothing, |c| c.tee.auxiliary.push(Auxiliary { label: "gpu/1".to_owned(), ..c.tee.auxiliary[0].clone() })),
        Some(AuxiliaryUnbound),
        "not listed"
    );
    assert_eq!(world.reason(|m| m[0].label = "gpu/99".to_owned(), |_| {}), Some(AuxiliaryUnbound), "no such label");
    assert_eq!(world.reason(|m| m[0].media_type = "application/x".to_owned(), |_| {}), Some(EvidenceUnsupported), "another type");
    assert_eq!(world.reason(|m| m[0].bytes.push(0), |_| {}), Some(EvidenceMalformed), "octets behind");
    assert_eq!(world.reason(|m| m[0].bytes.resize(40_000, 0), |_| {}), Some(EvidenceSize), "too long");
    let report = |change: fn(&mut Vec<u8>)| {
        move |members: &mut Vec<Auxiliary>| {
            let mut gpu = Gpu::decode(&members[0].bytes).expect("a member");
            change(&mut gpu.report);
            members[0].bytes = gpu.encode();
        }
    };
    assert_eq!(world.reason(report(|r| r.push(0)), |_| {}), Some(EvidenceMalformed), "octets behind the signature");
    assert_eq!(world.reason(report(|r| r[3] = 1), |_| {}), Some(EvidenceUnsupported), "one measurement alone");
    assert_eq!(world.reason(report(|r| r[60] ^= 1), |_| {}), Some(SignatureInvalid), "a measurement");
    assert_eq!(world.reason(report(|r| *r.last_mut().expect("octets") ^= 1), |_| {}), Some(SignatureInvalid), "the signature");
    let chain = |change: fn(&mut Vec<Vec<u8>>)| {
        move |members: &mut Vec<Auxiliary>| {
            let mut gpu = Gpu::decode(&members[0].bytes).expect("a member");
            change(&mut gpu.chain);
            members[0].bytes = gpu.encode();
        }
    };
    assert_eq!(world.reason(chain(Vec::clear), |_| {}), Some(ChainUntrusted), "no certificates");
    assert_eq!(world.reason(chain(|c| c.truncate(2)), |_| {}), Some(ChainUntrusted), "without the root");
    assert_eq!(world.reason(chain(|c| c.swap(0, 1)), |_| {}), Some(ChainUntrusted), "another order");
    assert_eq!(world.reason(nothing, |c| rim(c, |one| one.name = "other".to_owned())), Some(CollateralUnavailable), "no reference measurements");
    assert_eq!(
        world.reason(nothing, |c| rim(c, |one| *one.bytes.iter_mut().find(|octet| **octet == b'z').expect("one") = b'y')),
        Some(CollateralUnavailable),
        "changed ones"
    );
    let mut stale = World::new();
    stale.nonce = Some([7; 32]);
    assert_eq!(stale.reason(nothing, |_| {}), Some(BindingMismatch), "asked by somebody else");
    let forge = || GpuForge::new(3, 1, NOW);
    for (devices, references, reason, why) in [
        (forge().measured(4, [0xdb; 48]), None, MeasurementUnknown, "a state without reference values"),
        (forge().cut_to(63), None, MeasurementUnknown, "a measurement that is not there"),
        (forge().impostor(), Some(forge()), ChainUntrusted, "another vendor"),
        (forge(), Some(forge().impostor()), ChainUntrusted, "another signer of references"),
        (GpuForge::new(3, 1, NOW.minus(3 * 86_400)), None, CollateralUnavailable, "OCSP responses beyond their grace"),
        (forge().revoked("ica"), None, ChainRevoked, "a certificate on hold"),
    ] {
        let world = World { references, ..World::of(devices) };
        assert_eq!(world.reason(nothing, |_| {}), Some(reason), "{why}");
    }
}

/// What has only files, and no policy, is told that a state was compared with nothing. Nobody else goes without references, and
/// nobody goes without those that are at hand.
#[test]
fn a_state_without_references_passes_in_files_without_a_policy_alone() {
    let genuine = AppraisalPolicy { roots: Roots::VendorAndSimulator, ..AppraisalPolicy::genuine(&platform::vocabularies()) };
    let genuine = Appraiser { anchors: platform::anchors(&genuine), policy: genuine };
    let examined = |appraiser: &Appraiser, world: &World, keep: fn(&str) -> bool| {
        let (mut presented, binding) = world.present(|_| {}, |_| {});
        presented.endorsements = presented.endorsements.iter().filter(|one| !one.name.starts_with(gpu::RIM) || keep(&one.name)).cloned().collect();
        let verifier = platform::of_evidence(&presented.tee).expect("the platform").verifier;
        let file = appraiser.examine(verifier, &presented.tee, &presented.endorsements, &NoMemo, NOW);
        let session = judged(appraiser, &presented, &binding, &NoMemo);
        (file, session.map(|result| result.appraisal().clone()))
    };
    let compared = |appraisal: &Appraisal| match appraisal.claims().map("gpu/0").and_then(|claims| claims.find("state_compared")) {
        Some(ClaimValue::Truth(compared)) => *compared,
        other => panic!("{other:?}"),
    };
    let said = |verdict: Result<Appraisal, Denied>| verdict.map(|appraisal| compared(&appraisal)).map_err(|denied| denied.reason());
    let (world, none, all): (_, fn(&str) -> bool, fn(&str) -> bool) = (World::new(), |_| false, |_| true);

    let (file, session) = examined(&genuine, &world, none);
    let file = file.unwrap_or_else(|denied| panic!("{denied}"));
    assert_eq!((file.uncompared(), compared(&file)), (&["gpu/0"][..], false));
    assert_eq!(said(session), Err(Reason::CollateralUnavailable), "a connection, whatever judges it");
    let (file, session) = examined(&genuine, &world, all);
    assert!(file.as_ref().is_ok_and(|file| file.uncompared().is_empty() && compared(file)) && said(session) == Ok(true));

    // A policy file, and one that does without revocation lists.
    let mut lenient = World::new();
    lenient.revocation = r#", "insecure_allow_missing_crl": true"#;
    for world in [&world, &lenient] {
        for verdict in <[_; 2]>::from(examined(&world.appraiser(), world, none)) {
            let denied = verdict.expect_err("no references");
            let [finding] = &denied.findings().collect::<Vec<_>>()[..] else { panic!("{denied}") };
            assert_eq!((finding.reason, finding.field.as_ref(), finding.found.as_str()), (Reason::CollateralUnavailable, "gpu.rim", "none at hand"));
        }
    }

    // With any reference at hand all are wanted, and what they say holds.
    let driver: fn(&str) -> bool = |name| name.ends_with("driver");
    assert_eq!(said(examined(&genuine, &world, driver).0), Err(Reason::CollateralUnavailable), "the firmware's are not there");
    let other = World::of(GpuForge::new(3, 1, NOW).measured(20, [0xdb; 48]));
    assert_eq!(said(examined(&genuine, &other, driver).0), Err(Reason::MeasurementUnknown), "the driver's are, and say another state");
    assert_eq!(said(examined(&genuine, &other, none).0), Ok(false), "the same with nothing to compare with");
    let foreign = World { references: Some(GpuForge::new(3, 1, NOW).impostor()), ..World::new() };
    assert_eq!(said(examined(&genuine, &foreign, all).0), Err(Reason::ChainUntrusted), "references of another signer");
    assert_eq!(said(examined(&genuine, &World::of(GpuForge::new(3, 1, NOW).impostor()), none).0), Err(Reason::ChainUntrusted), "another vendor's device");
}

/// A wrong code fails: for each region of the reference measurements and the responses that a peer staples, by the verdict on its
/// session.
#[test]
fn each_region_of_references_and_of_responses_has_its_code() {
    let world = World::new();
    let (appraiser, memo) = (world.appraiser(), Memo::new());
    let (presented, binding) = world.present(|_| {}, |_| {});
    let (mut wrong, mut told) = (Vec::new(), BTreeMap::<String, usize>::new());
    let all: Vec<Endorsement> = presented.endorsements.iter().cloned().collect();
    for (which, endorsement) in all.iter().enumerate() {
        let changes = match endorsement.name.as_str() {
            name if name.starts_with(gpu::RIM) => references::of_rim(&endorsement.bytes, 61),
            name if name.starts_with(gpu::OCSP) => references::of_ocsp(&endorsement.bytes, 41),
            _ => continue,
        };
        for changed in changes {
            let mut all = all.clone();
            all[which].bytes = changed.bytes;
            let other = Collection { endorsements: all.into_iter().collect(), ..presented.clone() };
            let denied = judged(&appraiser, &other, &binding, &memo).err();
            let found = denied.as_ref().and_then(|denied| denied.findings().next()).map(|finding| (finding.reason, finding.field.as_ref()));
            *told.entry(format!("{}: {} {}", changed.what, changed.refused.0, changed.refused.1)).or_default() += 1;
            if found != Some(changed.refused) {
                wrong.push(format!("{}: {}: {found:?}, not {:?}", endorsement.name, changed.what, changed.refused));
            }
        }
    }
    println!("{told:#?}");
    assert!(wrong.is_empty(), "{} octets: {wrong:#?}", wrong.len());
    assert_eq!(told.len(), 21, "{told:#?}");
}

/// Another value with the digest of the document that has it: what was signed is another digest.
#[test]
fn a_digest_that_was_made_anew_is_not_what_was_signed() {
    let forge = GpuForge::new(3, 1, NOW);
    for name in ["gpu-rim-driver", "gpu-rim-vbios"] {
        let good = String::from_utf8(forge.endorsements().find(name).expect("minted").to_vec()).expect("text");
        let digest = |text: &str| {
            let (head, _) = text.split_once("<ds:Signature ").expect("a signature");
            BASE64.encode(&portcullis::crypto::sha384(&[head.as_bytes(), b"</SoftwareIdentity>"]))
        };
        let value = good.split("active=\"True\"").nth(1).and_then(|rest| rest.split("Hash0=\"").nth(1)).expect("a value")[..96].to_owned();
        let other = good.replace(&value, &"db".repeat(48));
        let forged = other.replace(&digest(&good), &digest(&other));
        assert!(good.contains(&digest(&good)) && forged != other, "the simulator writes the canonical form");
        let denied = World::new().judge(
            |_| {},
            |presented| {
                let mut all: Vec<Endorsement> = presented.endorsements.iter().cloned().collect();
                all.iter_mut().find(|one| one.name == name).expect("stapled").bytes = forged.clone().into_bytes();
                presented.endorsements = all.into_iter().collect();
            },
        );
        let denied = denied.expect_err(name);
        assert_eq!(
            denied.findings().map(|finding| (finding.reason, finding.field.as_ref())).collect::<Vec<_>>(),
            [(Reason::SignatureInvalid, "gpu.rim.signature")]
        );
    }
}

#[test]
fn a_gpu_alone_is_nothing() {
    let gpu = World::new().devices.members(&[1; 32]).remove(0);
    let claims = BindingClaims { kind: Kind::Web, spki: KeyDigest([1; 48]), instance: vec![2; 16], aux: BTreeMap::new(), epoch: None, hpke: None };
    let tee = portcullis::evidence::Evidence::new(MEDIA_TYPE, gpu.bytes);
    let alone = Collection { tee: tee.clone(), bind: claims.encode(), endorsements: portcullis::evidence::Endorsements::default() };
    assert!(Collection::decode(&alone.encode()).is_ok_and(|read| platform::of_evidence(&read.tee).is_none()), "no platform takes it for a TEE's");
}
