//! The negative catalogue of AWS Nitro documents: each case is a fixture that passes with one thing changed, and the one
//! code that the change is refused with. Documents are forged under the simulator's root, which the policy names.

#![cfg(feature = "simulator")]

#[path = "support/bench.rs"]
mod bench;

use std::collections::BTreeMap;
use std::sync::Arc;

use bench::{NOW, appraiser, refused, session, verdicts};
use portcullis::admin::metrics::Metrics;
use portcullis::attester::Quote;
use portcullis::attester::simulator::nitro::{Link, NitroForge, NitroRoot};
use portcullis::evidence::binding::{BindingClaims, Kind as Bound, certificate_challenge};
use portcullis::evidence::cbor::foreign::{Item, Length};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::nitro::{Document, Kind};
use portcullis::evidence::{Endorsement, KeyDigest, cose};
use portcullis::proxy::appraisal::{Appraisals, Memo};
use portcullis::refusal::{Denied, Reason};
use portcullis::tls::Judge as _;
use portcullis::tls::certificate::{Statement, issue};
use rcgen::{KeyPair, PublicKeyData as _};

const HOUR: u64 = 3600;
const SIMULATED: &str = r#", "insecure_roots": ["simulator"]"#;

fn forge(kind: Kind) -> NitroForge {
    NitroForge::new(kind, 7, NOW)
}

const fn tee(kind: Kind) -> &'static str {
    match kind {
        Kind::Enclave => "nitro",
        Kind::Tpm => "nitrotpm",
    }
}

/// The entry that pins what the fixture says.
fn pinned(kind: Kind) -> String {
    let document = forge(kind).document;
    let indices: &[u8] = match kind {
        Kind::Enclave => &[0, 1, 2],
        Kind::Tpm => &[4, 7],
    };
    indices.iter().map(|index| format!(r#", "pcr{index}": "{}""#, data_encoding::HEXLOWER.encode(document.register(*index).expect("a register")))).collect()
}

fn quoted(forge: &NitroForge) -> Quote {
    forge.quote(&session().1.expected().long.0)
}

fn judged(kind: Kind, quote: Quote, entry: &str, policy: &str) -> (Result<(), Denied>, Result<(), Reason>) {
    verdicts(tee(kind), quote, &appraiser(tee(kind), &[&pinned(kind), entry].concat(), policy))
}

fn good(kind: Kind) -> Result<(), Denied> {
    judged(kind, quoted(&forge(kind)), "", SIMULATED).0
}

/// A name, the code, and what is changed.
type Forgery<T> = (&'static str, Reason, fn(&mut T));

#[test]
fn what_is_forged_is_refused_for_its_reason() {
    let cases: &[Forgery<NitroForge>] = &[
        ("nitro-wrong-alg", Reason::SignatureInvalid, |forge| forge.algorithm = -7),
        ("nitro-unknown-alg", Reason::SignatureInvalid, |forge| forge.algorithm = -8),
        ("nitro-stale", Reason::EvidenceStale, |forge| forge.document.timestamp -= 2 * HOUR * 1000),
        ("nitro-future", Reason::EvidenceStale, |forge| forge.document.timestamp += 61_000),
        ("nitro-root", Reason::ChainUntrusted, |forge| forge.root = NitroRoot::Impostor),
        ("nitro-leaf-expired", Reason::ChainUntrusted, |forge| forge.validity[4].1 = NOW.minus(1)),
        ("nitro-leaf-not-yet", Reason::ChainUntrusted, |forge| forge.validity[4].0 = NOW.plus(1)),
        ("nitro-zone-expired", Reason::ChainUntrusted, |forge| forge.validity[2].1 = NOW.minus(1)),
        ("nitro-root-expired", Reason::ChainUntrusted, |forge| forge.validity[0].1 = NOW.minus(1)),
        ("nitro-path-length", Reason::ChainUntrusted, |forge| forge.path_lengths[1] = Some(1)),
        ("nitro-region-revoked", Reason::ChainRevoked, |forge| forge.revoked.push(Link::Region)),
        ("nitro-zone-revoked", Reason::ChainRevoked, |forge| forge.revoked.push(Link::Zone)),
        ("nitro-crl-stale", Reason::CollateralUnavailable, |forge| forge.next_update = NOW.minus(1)),
        ("nitro-crl-missing", Reason::CollateralUnavailable, |forge| forge.unstapled.push("nitro-crl")),
        ("nitro-region-crl-missing", Reason::CollateralUnavailable, |forge| forge.unstapled.push("nitro-region-crl")),
        ("nitro-public-key", Reason::BindingMismatch, |forge| forge.document.public_key = Some(vec![1])),
        ("nitro-nonce", Reason::BindingMismatch, |forge| forge.document.nonce = Some(Vec::new())),
    ];
    for kind in [Kind::Enclave, Kind::Tpm] {
        for (name, expect, change) in cases {
            let mut bad = forge(kind);
            change(&mut bad);
            refused(tee(kind), name, good(kind), judged(kind, quoted(&bad), "", SIMULATED), *expect);
        }
        let mut other = forge(kind);
        other.document.kind = if kind == Kind::Enclave { Kind::Tpm } else { Kind::Enclave };
        other.document.registers.truncate(16);
        refused(tee(kind), "the other kind", good(kind), judged(kind, quoted(&other), "", SIMULATED), Reason::EvidenceUnsupported);
        refused(tee(kind), "simulated-root-unnamed", good(kind), judged(kind, quoted(&forge(kind)), "", ""), Reason::ChainUntrusted);
    }
}

#[test]
fn registers_are_what_the_policy_lists() {
    let of = |forge: NitroForge, entry: &str| judged(Kind::Enclave, quoted(&forge), entry, SIMULATED);
    let enclave = || forge(Kind::Enclave);
    let debug = [0, 1, 2].into_iter().fold(enclave(), |forge, index| forge.register(index, [0; 48]));
    refused("nitro", "nitro-debug", good(Kind::Enclave), of(debug.clone(), ""), Reason::DebugEnabled);
    for index in [0, 1, 2] {
        refused("nitro", "measurement-unlisted", good(Kind::Enclave), of(enclave().register(index, [9; 48]), ""), Reason::MeasurementUnknown);
    }
    let role = format!(r#", "pcr3": "{}""#, "11".repeat(48));
    refused("nitro", "role-unlisted", good(Kind::Enclave), of(enclave(), &role), Reason::PlatformNotAllowed);
    assert!(of(enclave().register(3, [0x11; 48]), &role).0.is_ok());
    let further = format!(r#", "pcrs": {{ "16": "{}" }}"#, "22".repeat(48));
    refused("nitro", "register-absent", good(Kind::Enclave), of(enclave(), &further), Reason::MeasurementUnknown);
    assert!(of(enclave().register(16, [0x22; 48]), &further).0.is_ok());
    // A laboratory's enclave, with every word for it.
    let laboratory = appraiser("nitro", r#", "insecure_allow_debug": true, "insecure_any_measurement": true"#, SIMULATED);
    assert!(verdicts("nitro", quoted(&debug), &laboratory).0.is_ok());
    let tpm = judged(Kind::Tpm, quoted(&forge(Kind::Tpm).register(7, [9; 48])), "", SIMULATED);
    refused("nitrotpm", "secure-boot-policy", good(Kind::Tpm), tpm, Reason::MeasurementUnknown);
}

#[test]
fn a_document_for_another_session_is_refused() {
    let other = forge(Kind::Enclave).quote(&[5; 64]);
    refused("nitro", "other-report-data", good(Kind::Enclave), judged(Kind::Enclave, other, "", SIMULATED), Reason::BindingMismatch);
    for length in [0, 48, 63, 65, 512] {
        let short = forge(Kind::Enclave).quote(&vec![7; length]);
        refused("nitro", "report data of another length", good(Kind::Enclave), judged(Kind::Enclave, short, "", SIMULATED), Reason::BindingMismatch);
    }
}

#[test]
fn one_octet_changed_anywhere_is_refused() {
    let quote = quoted(&forge(Kind::Enclave));
    let appraiser = appraiser("nitro", &pinned(Kind::Enclave), SIMULATED);
    for at in (0..quote.evidence.bytes.len()).step_by(13) {
        let mut bad = quote.clone();
        bad.evidence.bytes[at] ^= 0x20;
        assert!(verdicts("nitro", bad, &appraiser).0.is_err(), "octet {at}");
    }
    for (name, expect, from_end) in [("signature", Reason::SignatureInvalid, 1), ("signature, first half", Reason::SignatureInvalid, 96)] {
        let mut bad = quote.clone();
        let at = bad.evidence.bytes.len() - from_end;
        bad.evidence.bytes[at] ^= 1;
        refused("nitro", name, good(Kind::Enclave), verdicts("nitro", bad, &appraiser), expect);
    }
    // A claim, a register, the chain and the asker's octets, each inside the signed payload.
    let (_, document) = Document::parse(&quote.evidence.bytes).expect("a document");
    let changes: [Forgery<Document>; 5] = [
        ("module_id", Reason::SignatureInvalid, |document| document.module_id.push('x')),
        ("timestamp", Reason::SignatureInvalid, |document| document.timestamp += 1),
        ("register", Reason::SignatureInvalid, |document| document.registers[9].1[0] = 1),
        ("certificate", Reason::ChainUntrusted, |document| *document.certificate.last_mut().expect("octets") ^= 1),
        ("cabundle", Reason::ChainUntrusted, |document| *document.cabundle[2].last_mut().expect("octets") ^= 1),
    ];
    for (name, expect, change) in changes {
        let (sign1, mut changed) = (cose::Sign1::decode("x", &quote.evidence.bytes).expect("a signature"), document.clone());
        change(&mut changed);
        let mut bad = quote.clone();
        bad.evidence.bytes = cose::encode(sign1.tagging, sign1.protected, &changed.encode(), sign1.signature);
        refused("nitro", name, good(Kind::Enclave), verdicts("nitro", bad, &appraiser), expect);
    }
}

#[test]
fn other_shapes_are_refused() {
    let forge = forge(Kind::Enclave);
    let document = forge.certified(Some(session().1.expected().long.0.to_vec()));
    let payload = document.encode();
    let Ok(Item::Map(map)) = Item::decode(&payload) else { panic!("a map") };
    let signed = |payload: &[u8]| forge.signed(payload);
    let with = |change: &dyn Fn(&mut portcullis::evidence::cbor::foreign::Map<'_>)| {
        let mut map = map.clone();
        change(&mut map);
        signed(&Item::Map(map).encode())
    };
    let shapes: Vec<(&str, Quote)> = vec![
        ("a key that is not known", with(&|map| map.pairs.push((Item::Text("extra"), Item::Null)))),
        ("a key that is missing", with(&|map| drop(map.pairs.remove(0)))),
        ("another digest", with(&|map| map.pairs[1].1 = Item::Text("SHA512"))),
        (
            "a register of another length",
            with(&|map| map.pairs[3].1 = Item::Map(portcullis::evidence::cbor::foreign::Map::new(vec![(Item::Uint(0), Item::Bytes(&[0; 32]))]))),
        ),
        ("no register", with(&|map| map.pairs[3].1 = Item::Map(portcullis::evidence::cbor::foreign::Map::new(Vec::new())))),
        ("user data that is too long", with(&|map| map.pairs[7].1 = Item::Bytes(&[0; 513]))),
        ("no certificates above", with(&|map| map.pairs[5].1 = Item::Array(Vec::new()))),
        ("octets behind the map", signed(&[payload.as_slice(), &[0]].concat())),
        ("a list", signed(&[0x80])),
    ];
    for (name, quote) in shapes {
        refused("nitro", name, good(Kind::Enclave), judged(Kind::Enclave, quote, "", SIMULATED), Reason::EvidenceMalformed);
    }
    let twice = {
        let mut octets = payload.clone();
        octets.splice(1..1, Item::Text("nonce").encode().into_iter().chain(Item::Null.encode()));
        signed(&octets)
    };
    refused("nitro", "a key twice", good(Kind::Enclave), judged(Kind::Enclave, twice, "", SIMULATED), Reason::EvidenceMalformed);
    let mut large = quoted(&forge);
    large.evidence.bytes.resize(0x3001, 0);
    refused("nitro", "longer than the module answers", good(Kind::Enclave), judged(Kind::Enclave, large, "", SIMULATED), Reason::EvidenceSize);
    let mut mac = quoted(&forge);
    mac.evidence.bytes.insert(0, 0xd1);
    refused("nitro", "a MAC", good(Kind::Enclave), judged(Kind::Enclave, mac, "", SIMULATED), Reason::EvidenceUnsupported);
    // The two ways in which AWS ends the map are both read.
    let mut old = forge;
    old.document.length = Length::Definite;
    assert!(judged(Kind::Enclave, quoted(&old), "", SIMULATED).0.is_ok());
}

#[test]
fn lists_of_another_issuer_are_as_good_as_none() {
    let mut quote = quoted(&forge(Kind::Enclave));
    let lists: Vec<Endorsement> = quote.endorsements.iter().cloned().collect();
    quote.endorsements = lists.iter().zip(lists.iter().rev()).map(|(to, from)| Endorsement { bytes: from.bytes.clone(), ..to.clone() }).collect();
    refused("nitro", "lists exchanged", good(Kind::Enclave), judged(Kind::Enclave, quote, "", SIMULATED), Reason::CollateralUnavailable);
}

/// With the root in the bundle twice, every certificate below it would be looked for in the list above its own.
#[test]
fn a_root_that_stands_twice_hides_no_revoked_zone() {
    let mut revoked = forge(Kind::Enclave);
    revoked.revoked.push(Link::Zone);
    let mut document = revoked.certified(Some(session().1.expected().long.0.to_vec()));
    document.cabundle.insert(0, document.cabundle[0].clone());
    let mut quote = revoked.signed(&document.encode());
    let root = quote.endorsements.find("nitro-crl").expect("the root's list").to_vec();
    let named = |name: &str| Endorsement { name: name.to_owned(), media_type: "application/pkix-crl".to_owned(), bytes: root.clone() };
    quote.endorsements = ["nitro-crl", "nitro-region-crl"].into_iter().map(named).collect();
    refused("nitro", "the root twice", good(Kind::Enclave), judged(Kind::Enclave, quote, "", SIMULATED), Reason::ChainUntrusted);
}

/// An issuer may spread what it revoked over several lists: one of another part says nothing about a certificate.
#[test]
fn a_list_of_another_part_says_nothing() {
    let of = |address: &str| {
        let mut forge = forge(Kind::Enclave);
        forge.list_for = Some(address.to_owned());
        judged(Kind::Enclave, quoted(&forge), "", SIMULATED)
    };
    assert!(of("http://nitro-crl.simulator.invalid/crl/zone.crl").0.is_ok());
    refused("nitro", "another part", good(Kind::Enclave), of("http://nitro-crl.simulator.invalid/crl/other.crl"), Reason::CollateralUnavailable);
}

/// A verdict about a certificate is remembered for the next connections, and no longer than the document in it is young enough.
#[test]
fn a_remembered_verdict_does_not_outlive_the_age_that_the_policy_allows() {
    let (key, names) = (KeyPair::generate().expect("a key"), vec!["app.example".to_owned()]);
    let bind = BindingClaims {
        kind: Bound::Certificate { issued: NOW, expires: NOW.plus(HOUR), names: names.clone() },
        spki: KeyDigest::of_spki(&key.subject_public_key_info()),
        instance: vec![1; 16],
        aux: BTreeMap::new(),
        epoch: None,
        hpke: None,
    };
    let quote = forge(Kind::Enclave).quote(&certificate_challenge(&bind.encode()).long.0);
    let evidence = Collection { tee: quote.evidence, bind: bind.encode(), endorsements: quote.endorsements };
    let leaf = issue(&key, &Statement { names: &names, not_before: NOW, not_after: NOW.plus(HOUR), evidence: &evidence }).expect("issued");
    let judge = Appraisals::new(
        Arc::new(appraiser("nitro", &[&pinned(Kind::Enclave), r#", "max_age": "5m""#].concat(), SIMULATED)),
        Arc::new(Memo::new()),
        Arc::new(Metrics::new()),
    );
    let verdict = |later: u64| judge.certificate(&leaf, NOW.plus(later)).map(drop).map_err(|denied| denied.reason());
    assert_eq!((verdict(0), verdict(299)), (Ok(()), Ok(())));
    assert_eq!(verdict(301), Err(Reason::EvidenceStale));
}
