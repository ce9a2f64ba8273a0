//! Google's launch endorsement by another implementation: whatever this program says of one of the simulator's, sound,
//! wrong in one thing or with an octet changed, the other says too. No genuine one is at hand.
#![cfg(feature = "simulator")]

#[path = "support/second_opinion.rs"]
mod second_opinion;
#[path = "support/skipped.rs"]
mod skipped;

use data_encoding::{BASE64, HEXLOWER};
use portcullis::attester::Quote;
use portcullis::attester::simulator::{LaunchForge, LaunchHardware, LaunchSigner, MEASUREMENT, Simulation};
use portcullis::evidence::launch::{LaunchEndorsement, NAME};
use portcullis::evidence::{Challenge, Endorsement, Timestamp};
use portcullis::platform::{self, Platform};
use portcullis::policy::{AppraisalPolicy, References, Revocation};
use portcullis::refusal::Reason;
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Grounds, TrustAnchors};
use serde_json::{Value, json};

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);

const YEAR: u64 = 365 * 86_400;

/// A machine of Google's.
struct Machine {
    hardware: LaunchHardware,
    platform: &'static Platform,
    quote: Quote,
    /// What the other implementation calls its evidence.
    form: &'static str,
}

impl Machine {
    fn new(hardware: LaunchHardware) -> Self {
        let (name, product, form) = match hardware {
            LaunchHardware::SevSnp => ("sev-snp", "genoa-google", "report"),
            LaunchHardware::Tdx => ("intel-tdx", "tdx1.5-google", "quote"),
        };
        let platform = platform::by_name(name).expect("the platform");
        let simulation = Simulation { product: Some(product.to_owned()), ..Simulation::new(7, NOW) };
        let quote = platform.simulated.attester(&simulation).and_then(|machine| machine.attest(&Challenge::of(b"a challenge"))).expect("evidence");
        Self { hardware, platform, quote, form }
    }

    /// What this program says when this endorsement is in the place of the machine's own.
    fn judged(&self, endorsement: &[u8], anchors: &TrustAnchors) -> Result<(), Reason> {
        let exchanged = |item: Endorsement| if item.name == NAME { Endorsement { bytes: endorsement.to_vec(), ..item } } else { item };
        let endorsements = self.quote.endorsements.clone().into_iter().map(exchanged).collect();
        let grounds = Grounds { anchors, revocation: Revocation::WhenPresent, references: References::Required, memo: &NoMemo, now: NOW };
        self.platform.verifier.authenticate(&self.quote.evidence, &endorsements, &grounds).map(drop).map_err(|denied| denied.reason())
    }

    /// The same question for the other.
    fn line(&self, endorsement: &[u8]) -> Value {
        let hex = |octets: &[u8]| HEXLOWER.encode(octets);
        json!({
            "kind": "launch", "at": NOW.0, "endorsement": hex(endorsement), "root": hex(&LaunchForge::root_spki()),
            self.form: hex(&self.quote.evidence.bytes),
        })
    }
}

fn pem(der: &[u8]) -> Vec<u8> {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(der)).into_bytes()
}

/// A certificate that names itself as Google's root does, by a key of nobody's.
fn impostor() -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "GCE-cc-tcb-root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").der().to_vec()
}

type Change = fn(&mut LaunchForge);

/// One thing that is wrong, what this program calls it, and what the other does.
const WRONG: [(&str, Change, Reason, &str); 7] = [
    ("another key's signature", |forge| forge.signer = LaunchSigner::Other, Reason::SignatureInvalid, "signature"),
    ("other measurements", |forge| all(forge).for_each(|value| value[47] ^= 1), Reason::MeasurementUnknown, "measurement"),
    ("of other hardware", |forge| std::mem::swap(&mut forge.golden.sev_snp, &mut forge.golden.tdx), Reason::MeasurementUnknown, "measurement"),
    ("certificates of long ago", |forge| forge.now = NOW.minus(6 * YEAR), Reason::ChainUntrusted, "dates"),
    ("certificates of tomorrow", |forge| forge.now = NOW.plus(2 * 86_400), Reason::ChainUntrusted, "dates"),
    ("another root", |forge| forge.golden.ca_bundle = pem(&impostor()), Reason::ChainUntrusted, "another root"),
    ("a signer that the root did not certify", |forge| forge.golden.certificate = impostor(), Reason::ChainUntrusted, "chain"),
];

fn all(forge: &mut LaunchForge) -> impl Iterator<Item = &mut [u8; 48]> {
    let golden = &mut forge.golden;
    golden.sev_snp.iter_mut().chain(&mut golden.tdx).flat_map(|launches| &mut launches.measurements).map(|(_, value)| value)
}

/// What an endorsement with a changed octet may be refused for: all of it is signed, signs, or says where either ends.
const CHANGED: [Reason; 3] = [Reason::ChainUntrusted, Reason::EvidenceMalformed, Reason::SignatureInvalid];

#[test]
fn another_implementation_says_the_same_of_launch_endorsements() {
    let policy = br#"{ "version": 1, "name": "p", "insecure_roots": ["simulator"], "accept": [] }"#;
    let (policy, _) = AppraisalPolicy::load(policy, &platform::vocabularies()).unwrap_or_else(|problems| panic!("{problems:?}"));
    let anchors = platform::anchors(&policy);
    let (mut lines, mut expected) = (Vec::new(), Vec::new());
    for machine in [LaunchHardware::SevSnp, LaunchHardware::Tdx].map(Machine::new) {
        let forge = LaunchForge::new(machine.hardware, MEASUREMENT, NOW);
        let sound = forge.sign();
        let mut put = |name: &str, endorsement: &[u8], verdict: Result<(), &[Reason]>, word| {
            let (said, name) = (machine.judged(endorsement, &anchors), format!("{:?}: {name}", machine.hardware));
            let as_it_should = said.map_or_else(|reason| verdict.is_err_and(|reasons| reasons.contains(&reason)), |()| verdict.is_ok());
            assert!(as_it_should, "{name}: {said:?}");
            lines.push(machine.line(endorsement));
            expected.push((name, word));
        };
        put("sound", &sound, Ok(()), Some("good"));
        for (name, change, reason, word) in WRONG {
            let mut wrong = forge.clone();
            change(&mut wrong);
            put(name, &wrong.sign(), Err(&[reason]), Some(word));
        }
        let signature = sound.len() - LaunchEndorsement::parse(&sound).expect("an endorsement").signature.len();
        for at in (0..sound.len()).filter(|at| *at < 8 || at % 11 == 0) {
            let mut other = sound.clone();
            other[at] ^= 1 << (at % 8);
            let (reasons, word) = if at < signature { (CHANGED.as_slice(), None) } else { (&[Reason::SignatureInvalid][..], Some("signature")) };
            put(&format!("octet {at}"), &other, Err(reasons), word);
        }
    }
    let Some(words) = second_opinion::words(&lines) else { return };
    for ((name, expected), word) in expected.iter().zip(&words) {
        assert!(expected.map_or(word != "good", |expected| word == expected), "{name}: they say {word}");
    }
    println!("{} endorsements", words.len());
}
