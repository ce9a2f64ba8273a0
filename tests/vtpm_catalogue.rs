//! What Google's cloud adds beside SEV-SNP and TDX evidence, the quote of its vTPM and its endorsement of the firmware: what
//! passes, and each change of it with the code it is refused with.

#![cfg(feature = "simulator")]

#[path = "support/session.rs"]
mod session;

use portcullis::attester::Quote;
use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::simulator::{Forge, LaunchForge, LaunchHardware, LaunchSigner, MEASUREMENT, VtpmAuthority, VtpmForge, ordinary_log};
use portcullis::evidence::binding::Binding;
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::launch;
use portcullis::evidence::snp::Product;
use portcullis::evidence::tpm::{self, Hash, Selection};
use portcullis::evidence::{Auxiliary, Endorsement, Evidence, ReportData, Timestamp};
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::proxy::appraisal::Memo;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Appraiser, AttestationResult, Grounds, Origin};
use session::binding;

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);

fn vtpm() -> VtpmForge {
    let mut vtpm = VtpmForge::new(7);
    vtpm.extras.certificates = VtpmAuthority::Google.certify(vtpm.key, "instance-7", NOW);
    vtpm.extras.log = Some(ordinary_log().encode());
    vtpm
}

/// The hardware that the cloud's additions lie beside.
const HARDWARE: [&str; 2] = ["sev-snp", "intel-tdx"];

fn appraiser(tee: &str, entry: &str) -> Appraiser {
    let measured = match tee {
        "sev-snp" => format!(r#""measurement": "{}""#, data_encoding::HEXLOWER.encode(&MEASUREMENT)),
        _ => r#""insecure_any_measurement": true"#.to_owned(),
    };
    let text =
        format!(r#"{{ "version": 1, "name": "google", "insecure_roots": ["simulator"], "accept": [ {{ "id": "vm", "tee": "{tee}", {measured}{entry} }} ] }}"#);
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &vocabularies).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    Appraiser { anchors: platform::anchors(&policy), policy }
}

/// Wants the vTPM, and the boot loader of the fixture.
fn wanted() -> String {
    format!(r#", "vtpm": ["google"], "pcrs": {{ "4": "{}" }}"#, data_encoding::HEXLOWER.encode(&vtpm().pcrs.values[&4]))
}

fn member(bytes: Vec<u8>) -> Auxiliary {
    Auxiliary { label: "vtpm".to_owned(), media_type: tpm::MEDIA_TYPE.to_owned(), bytes }
}

/// A trust domain without an event log, which the claims would have to list.
fn trust_domain() -> IntelForge {
    IntelForge { log: None, ..IntelForge::tdx15(7, NOW) }
}

fn hardware(tee: &str, report_data: &ReportData) -> Quote {
    if tee == "sev-snp" { Forge::new(Product::Genoa, 7, NOW).quote(report_data) } else { trust_domain().quote(report_data) }
}

fn quote(tee: &str, vtpm: &VtpmForge, binding: &Binding) -> Quote {
    let mut quote = hardware(tee, &binding.expected().long);
    quote.evidence.auxiliary.push(member(vtpm.quote(&binding.expected().short)));
    quote
}

fn judge_on(tee: &str, vtpm: &VtpmForge, tamper: impl Fn(&mut Quote), entry: &str) -> Result<AttestationResult, Denied> {
    let (bind, binding) = binding(&[]);
    let mut quote = quote(tee, vtpm, &binding);
    tamper(&mut quote);
    let presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
    appraiser(tee, entry).judge(platform::by_name(tee).expect("the platform").verifier, &presented, &binding, &NoMemo, NOW)
}

/// On both kinds of hardware, which must come to the same.
fn judge(vtpm: &VtpmForge, tamper: fn(&mut Quote), entry: &str) -> Result<(), Denied> {
    let [snp, tdx] = HARDWARE.map(|tee| judge_on(tee, vtpm, tamper, entry).map(drop));
    assert_eq!(snp.as_ref().map_err(Denied::reason), tdx.as_ref().map_err(Denied::reason));
    snp
}

#[test]
fn a_quote_beside_the_report_passes_and_may_be_missing_where_it_is_not_wanted() {
    judge(&vtpm(), |_| {}, &wanted()).expect("wanted and there");
    judge(&vtpm(), |_| {}, "").expect("not wanted and there");
    judge(&vtpm(), |quote| quote.evidence.auxiliary.clear(), "").expect("not wanted and not there");
    judge(&vtpm(), |_| {}, r#", "gce_instance_id": ["42"]"#).expect("the instance of the certificate");
}

#[test]
fn every_change_is_refused_with_its_code() {
    use Reason::*;
    type Change = fn(&mut VtpmForge);
    let forged: [(&str, Change, Reason); 11] = [
        ("another cloud's certificate", |vtpm| vtpm.extras.certificates = VtpmAuthority::Azure.certify(vtpm.key, "x", NOW), ChainUntrusted),
        ("no certificate", |vtpm| vtpm.extras.certificates.clear(), ChainUntrusted),
        ("no issuer", |vtpm| drop(vtpm.extras.certificates.pop()), ChainUntrusted),
        (
            "a certificate that has ended",
            |vtpm| vtpm.extras.certificates = VtpmAuthority::Google.certify(vtpm.key, "x", NOW.minus(800 * 86_400)),
            ChainUntrusted,
        ),
        (
            "the certificate of another key",
            |vtpm| {
                vtpm.extras.certificates = VtpmAuthority::Google.certify(VtpmForge::new(8).key, "x", NOW);
            },
            TpmQuoteInvalid,
        ),
        ("tpm-pcrselect", |vtpm| vtpm.selection = Some(Selection::of(Hash::Sha256, 0..9)), TpmQuoteInvalid),
        ("a digest of other registers", |vtpm| vtpm.digest = Some(vec![1; 32]), TpmQuoteInvalid),
        ("another boot, told by the log", |vtpm| drop(vtpm.pcrs.values.insert(4, vec![4; 32])), EventLogMismatch),
        (
            "another boot",
            |vtpm| {
                vtpm.extras.log = None;
                vtpm.pcrs.values.insert(4, vec![4; 32]);
            },
            MeasurementUnknown,
        ),
        ("a register that is wanted and not quoted", |vtpm| drop(vtpm.pcrs.values.remove(&4)), MeasurementUnknown),
        ("certificates without end", |vtpm| vtpm.extras.certificates = vec![vec![0x30]; 5], EvidenceMalformed),
    ];
    for (name, change, expected) in forged {
        let mut vtpm = vtpm();
        change(&mut vtpm);
        assert_eq!(judge(&vtpm, |_| {}, &wanted()).map_err(|denied| denied.reason()), Err(expected), "{name}");
    }
    let tampered: [(&str, fn(&mut Quote), Reason); 3] = [
        ("no quote", |quote| quote.evidence.auxiliary.clear(), AuxiliaryUnbound),
        ("a quote for another challenge", |quote| quote.evidence.auxiliary = vec![member(vtpm().quote(&[9; 48]))], BindingMismatch),
        (
            "a report for another challenge",
            |quote| {
                let tee = platform::of_evidence(&quote.evidence).expect("a platform").name;
                quote.evidence.bytes = hardware(tee, &ReportData([9; 64])).evidence.bytes;
            },
            BindingMismatch,
        ),
    ];
    for (name, change, expected) in tampered {
        assert_eq!(judge(&vtpm(), change, &wanted()).map_err(|denied| denied.reason()), Err(expected), "{name}");
    }
    let other = judge(&vtpm(), |_| {}, r#", "gce_instance_id": ["43"]"#);
    assert_eq!(other.map_err(|denied| denied.reason()), Err(PlatformNotAllowed));
}

#[test]
fn a_quote_that_the_claims_list_is_refused() {
    let (_, plain) = binding(&[]);
    for tee in HARDWARE {
        let (bind, listed) = binding(&quote(tee, &vtpm(), &plain).evidence.auxiliary);
        let quote = quote(tee, &vtpm(), &listed);
        let presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
        let verdict = appraiser(tee, "").judge(platform::by_name(tee).expect("the platform").verifier, &presented, &listed, &NoMemo, NOW);
        assert_eq!(verdict.map(drop).map_err(|denied| denied.reason()), Err(Reason::AuxiliaryUnbound));
    }
}

#[test]
fn a_quote_is_never_evidence_of_its_own() {
    assert!(platform::of_evidence(&Evidence::new(tpm::MEDIA_TYPE, vtpm().quote(&[0; 48]))).is_none());
}

/// The endorsement of what the fixture's machine started with.
fn endorsed(tee: &str) -> LaunchForge {
    if tee == "sev-snp" { LaunchForge::new(LaunchHardware::SevSnp, MEASUREMENT, NOW) } else { LaunchForge::new(LaunchHardware::Tdx, mrtd(), NOW) }
}

fn mrtd() -> [u8; 48] {
    match trust_domain().quote.body {
        portcullis::evidence::intel::Body::TrustDomain(report) => report.mr_td,
        other => panic!("{}", other.kind()),
    }
}

const REQUIRED: &str = r#", "endorsement_required": true, "min_firmware_svn": 2"#;

#[test]
fn an_endorsement_of_the_firmware_is_judged_wherever_it_is_and_required_where_the_policy_says_so() {
    for tee in HARDWARE {
        let with = |endorsement: Endorsement| move |quote: &mut Quote| quote.endorsements.push(endorsement.clone());
        let result = judge_on(tee, &vtpm(), with(endorsed(tee).endorsement()), REQUIRED).expect("required and there");
        let claims = result.appraisal().claims();
        assert_eq!((claims.text("launch_endorsement"), claims.number("firmware_svn")), (Some("google"), Some(2)), "{tee}");
        assert_eq!(result.appraisal().origin(), Origin::Simulator);
        judge_on(tee, &vtpm(), with(endorsed(tee).endorsement()), "").expect("not required and there");
        judge_on(tee, &vtpm(), |_| {}, r#", "endorsement_required": false"#).expect("not required and not there");
        let missing = judge_on(tee, &vtpm(), |_| {}, r#", "endorsement_required": true"#).map(drop);
        assert_eq!(missing.map_err(|denied| denied.reason()), Err(Reason::CollateralUnavailable), "{tee}");
        let old = judge_on(tee, &vtpm(), with(endorsed(tee).endorsement()), r#", "min_firmware_svn": 3"#).map(drop);
        assert_eq!(old.map_err(|denied| denied.reason()), Err(Reason::TcbTooLow), "{tee}");
    }
}

#[test]
fn every_change_of_an_endorsement_is_refused_with_its_code_whatever_the_policy_wants() {
    use Reason::*;
    type Change = fn(&mut LaunchForge);
    let pem = |ders: &[Vec<u8>]| {
        let block = |der: &Vec<u8>| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(der));
        ders.iter().map(block).collect::<String>().into_bytes()
    };
    let strangers = VtpmAuthority::Google.certify(vtpm().key, "x", NOW);
    let forged: [(&str, Change, Reason); 5] = [
        (
            "of other measurements",
            |launch| [&mut launch.golden.sev_snp, &mut launch.golden.tdx].into_iter().flatten().for_each(|part| part.measurements.truncate(1)),
            MeasurementUnknown,
        ),
        ("of the other hardware", |launch| std::mem::swap(&mut launch.golden.sev_snp, &mut launch.golden.tdx), MeasurementUnknown),
        ("signed by another key", |launch| launch.signer = LaunchSigner::Other, SignatureInvalid),
        ("of certificates that have ended", |launch| launch.now = NOW.minus(10 * 365 * 86_400), ChainUntrusted),
        ("of certificates to come", |launch| launch.now = NOW.plus(10 * 365 * 86_400), ChainUntrusted),
    ];
    for tee in HARDWARE {
        let refused = |what: &str, bytes: Vec<u8>, expected: Reason| {
            for entry in if what == "signed by another key" { &["", REQUIRED][..] } else { &[""] } {
                let push = |quote: &mut Quote| quote.endorsements.push(Endorsement { bytes: bytes.clone(), ..endorsed(tee).endorsement() });
                let verdict = judge_on(tee, &vtpm(), push, entry).map(drop);
                assert_eq!(verdict.map_err(|denied| denied.reason()), Err(expected), "{tee}: {what}");
            }
        };
        for (what, change, expected) in forged {
            let mut launch = endorsed(tee);
            change(&mut launch);
            refused(what, launch.sign(), expected);
        }
        let [root, signer] = endorsed(tee).certificates();
        let bundled = |certificates: &[Vec<u8>]| {
            let mut launch = endorsed(tee);
            launch.golden.ca_bundle = pem(certificates);
            launch.sign()
        };
        refused("under another root", bundled(&strangers[1..]), ChainUntrusted);
        refused("with the signer for a root", bundled(std::slice::from_ref(&signer)), ChainUntrusted);
        refused("with a signer above the signer", bundled(&[root.clone(), signer.clone()]), ChainUntrusted);
        refused("with a chain without end", bundled(&vec![root.clone(); 4]), ChainUntrusted);
        let mut foreign = endorsed(tee);
        foreign.golden.certificate = strangers[0].clone();
        refused("with another's certificate", foreign.sign(), ChainUntrusted);
        let whole = endorsed(tee).sign();
        refused("cut off", whole[..whole.len() - 1].to_vec(), EvidenceMalformed);
        refused("without end", vec![0; 64 * 1024 + 1], EvidenceSize);
        refused("of something else", b"not an endorsement".to_vec(), EvidenceMalformed);
    }
}

#[test]
fn every_octet_of_an_endorsement_counts() {
    for tee in HARDWARE {
        let whole = endorsed(tee).sign();
        let (bind, binding) = binding(&[]);
        let quote = quote(tee, &vtpm(), &binding);
        let (appraiser, verifier, memo) = (appraiser(tee, ""), platform::by_name(tee).expect("the platform").verifier, Memo::new());
        for at in (0..whole.len()).step_by(11).chain([whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let mut endorsements = quote.endorsements.clone();
            endorsements.push(Endorsement { name: launch::NAME.to_owned(), media_type: launch::MEDIA_TYPE.to_owned(), bytes });
            let presented = Collection { tee: quote.evidence.clone(), bind: bind.clone(), endorsements };
            let denied = appraiser.judge(verifier, &presented, &binding, &memo, NOW).expect_err("an octet changed");
            let told = [Reason::SignatureInvalid, Reason::ChainUntrusted, Reason::EvidenceMalformed, Reason::MeasurementUnknown];
            assert!(told.contains(&denied.reason()), "{tee}, octet {at}: {denied}");
        }
    }
}

#[test]
fn what_google_publishes_is_asked_for_by_its_measurement_and_kept_only_if_it_is_googles() {
    for tee in HARDWARE {
        let verifier = platform::by_name(tee).expect("the platform").verifier;
        let (_, binding) = binding(&[]);
        let in_cloud = quote(tee, &vtpm(), &binding).evidence;
        let bare = Evidence { auxiliary: Vec::new(), ..in_cloud.clone() };
        let of = |evidence: &Evidence| verifier.needs(evidence).expect("readable").into_iter().find(|id| id.name == launch::NAME);
        assert_eq!(of(&bare), None, "other clouds' machines need nothing of Google's");
        let id = of(&in_cloud).expect("Google's");
        let (folder, measurement) = if tee == "sev-snp" { ("sevsnp", MEASUREMENT) } else { ("tdx", mrtd()) };
        let hex = data_encoding::HEXLOWER.encode(&measurement);
        assert_eq!(id.path, format!("https://storage.googleapis.com/gce_tcb_integrity/ovmf_x64_csm/{folder}/{hex}.binarypb"));
        let pinned = if tee == "sev-snp" { REQUIRED.to_owned() } else { format!(r#"{REQUIRED}, "mrtd": "{hex}""#) };
        let policies = appraiser(tee, &pinned).policy;
        assert!(
            policies.accept.iter().flat_map(|entry| verifier.foreseen(entry)).any(|foreseen| foreseen == id),
            "pinned and required: got before it is needed"
        );
        let policies = appraiser(tee, "").policy;
        assert!(policies.accept.iter().flat_map(|entry| verifier.foreseen(entry)).all(|foreseen| foreseen.name != launch::NAME));

        let item = |bytes: Vec<u8>| portcullis::collateral::read(launch::NAME, &bytes, None).expect("an endorsement");
        let read = item(endorsed(tee).sign());
        assert!(read.window.holds(NOW) && read.endorsement.media_type == launch::MEDIA_TYPE);
        assert!(portcullis::collateral::read(launch::NAME, b"<html>", None).is_err());
        let anchors = &appraiser(tee, "").anchors;
        let grounds = Grounds {
            anchors,
            revocation: portcullis::policy::Revocation::Required,
            references: portcullis::policy::References::Required,
            memo: &NoMemo,
            now: NOW,
        };
        let at = portcullis::evidence::EndorsementId { path: id.place("").1.to_owned(), ..id.clone() };
        let vouched = |launch: &LaunchForge| verifier.vouch(&at, &item(launch.sign()).endorsement, &|_| None, &grounds).map_err(|denied| denied.reason());
        assert_eq!(vouched(&endorsed(tee)), Ok(()));
        assert_eq!(vouched(&LaunchForge::new(LaunchHardware::Tdx, [8; 48], NOW)), Err(Reason::MeasurementUnknown));
        assert_eq!(vouched(&LaunchForge { signer: LaunchSigner::Other, ..endorsed(tee) }), Err(Reason::SignatureInvalid));
    }
}

#[test]
fn a_simulated_machine_of_googles_gives_what_its_policy_wants_and_another_does_not() {
    use portcullis::attester::simulator::Simulation;
    for (tee, product) in [("sev-snp", "genoa-google"), ("intel-tdx", "tdx1.5-google")] {
        let platform = platform::by_name(tee).expect("the platform");
        assert!(platform.simulated.products().contains(&product));
        let (bind, binding) = binding(&[]);
        let judged = |product: Option<&str>| {
            let machine = platform.simulated.attester(&Simulation { product: product.map(str::to_owned), ..Simulation::new(7, NOW) }).expect("a machine");
            let Quote { evidence: tee, endorsements } = machine.attest(binding.expected()).expect("evidence");
            let presented = Collection { tee, bind: bind.clone(), endorsements };
            appraiser(platform.name, &format!("{}{REQUIRED}", wanted())).judge(platform.verifier, &presented, &binding, &NoMemo, NOW)
        };
        let result = judged(Some(product)).expect("all of it");
        assert_eq!(result.appraisal().claims().text("gce_instance_name"), Some("simulated-7"), "{tee}");
        let other = judged(None).expect_err("no cloud");
        let mut reasons: Vec<_> = other.findings().map(|finding| finding.reason).collect();
        reasons.sort_by_key(|reason| format!("{reason:?}"));
        reasons.dedup();
        assert!(reasons.contains(&Reason::AuxiliaryUnbound) && reasons.contains(&Reason::CollateralUnavailable), "{tee}: {reasons:?}");
    }
}
