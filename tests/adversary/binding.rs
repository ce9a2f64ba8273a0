//! 6.2, session evidence: genuine quotes of an accepted machine that do not speak for this connection.
//!
//! Every row is tried by a hostile server against a client sidecar and by a hostile client against a server sidecar.

use std::sync::LazyLock;

use portcullis::attester::simulator::gpu::GpuForge;
use portcullis::crypto::{sha384, sha512};
use portcullis::evidence::batch::{self, Node};
use portcullis::evidence::binding::{BindingClaims, Kind, certificate_challenge, digests, web_leaf};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::{Auxiliary, Evidence, KeyDigest, ReportData, Timestamp};
use portcullis::tls::Tier;

use crate::attack::{Adversary, Failures, Listening, Target, on_client, on_server};
use crate::peer::{Holder, Tls, Wire, spki};
use crate::script::{self, Twist};
use crate::wire::{self, EXPORTER_LABEL, LeafParts, exporter_context};
use crate::world::NOW;

/// A device of the simulator that answered another nonce than this session's.
static GPU: LazyLock<Auxiliary> = LazyLock::new(|| GpuForge::new(1, 1, NOW).members(&[9; 32]).remove(0));

type Row = (&'static str, &'static str, fn() -> Twist);

fn leaf(change: fn(&mut LeafParts)) -> Twist {
    Twist { leaf: Some(Box::new(move |parts, _, _| change(parts))), ..Twist::default() }
}

fn exported(export: fn(&Wire, &LeafParts, [[u8; 32]; 2]) -> [u8; 32]) -> Twist {
    Twist { leaf: Some(Box::new(move |parts, wire, nonces| parts.exporter = export(wire, parts, nonces))), ..Twist::default() }
}

fn claims(change: fn(&mut BindingClaims)) -> Twist {
    Twist { claims: Some(Box::new(change)), ..Twist::default() }
}

fn collection(change: fn(&mut Collection)) -> Twist {
    Twist { collection: Some(Box::new(change)), ..Twist::default() }
}

fn report_data(change: fn(&mut ReportData, &[u8])) -> Twist {
    Twist { report_data: Some(Box::new(change)), ..Twist::default() }
}

/// In a batch, with the proof changed.
fn batched(index: usize, size: usize, change: fn(&mut batch::Proof)) -> Twist {
    Twist { batch: Some(Box::new(move |leaf: Node| wire::among(leaf, index, size))), proof: Some(Box::new(change)), ..Twist::default() }
}

/// The collection with other octets for some.
fn replaced(of: fn(&Collection) -> (Vec<u8>, Vec<u8>)) -> Twist {
    let octets = move |collection: &Collection| {
        let (old, new) = of(collection);
        let whole = collection.encode();
        let at = whole.windows(old.len()).position(|window| window == old).expect("what is to be replaced");
        [&whole[..at], &new, &whole[at + old.len()..]].concat()
    };
    Twist { octets: Some(Box::new(octets)), ..Twist::default() }
}

fn auxiliary(label: &str) -> Auxiliary {
    Auxiliary { label: label.to_owned(), media_type: "application/vnd.veraison.nvidia-gpu-evidence+json".to_owned(), bytes: b"{}".to_vec() }
}

fn with_auxiliary(listed: Option<[u8; 48]>) -> Twist {
    let list = move |claims: &mut BindingClaims| {
        if let Some(digest) = listed {
            claims.aux.insert("gpu/0".to_owned(), digest);
        }
    };
    Twist { claims: Some(Box::new(list)), ..collection(|collection| collection.tee.auxiliary.push(auxiliary("gpu/0"))) }
}

const ROWS: &[Row] = &[
    ("wrong-exporter-label", "binding_mismatch", || exported(|wire, _, _| wire.exporter(b"EXPORTER-Channel-Binding", None))),
    ("wrong-exporter-label with our context", "binding_mismatch", || {
        exported(|wire, parts, [c, s]| wire.exporter(b"EXPORTER-Channel-Binding", Some(&exporter_context(parts.role, &c, &s))))
    }),
    ("wrong-exporter-context none", "binding_mismatch", || exported(|wire, _, _| wire.exporter(EXPORTER_LABEL, None))),
    ("wrong-exporter-context nonces exchanged", "binding_mismatch", || {
        exported(|wire, parts, [c, s]| wire.exporter(EXPORTER_LABEL, Some(&exporter_context(parts.role, &s, &c))))
    }),
    ("wrong-exporter-context role", "binding_mismatch", || {
        exported(|wire, parts, [c, s]| wire.exporter(EXPORTER_LABEL, Some(&exporter_context(3 - parts.role, &c, &s))))
    }),
    ("no exporter", "binding_mismatch", || leaf(|parts| parts.exporter = [0; 32])),
    ("wrong-role", "binding_mismatch", || leaf(|parts| parts.role = 3 - parts.role)),
    ("wrong-role everywhere", "binding_mismatch", || Twist {
        leaf: Some(Box::new(|parts, wire, [c, s]| {
            parts.role = 3 - parts.role;
            parts.exporter = wire.exporter(EXPORTER_LABEL, Some(&exporter_context(parts.role, &c, &s)));
        })),
        ..Twist::default()
    }),
    ("nonce-swap", "binding_mismatch", || leaf(|parts| std::mem::swap(&mut parts.nonce_peer, &mut parts.nonce_self))),
    ("an old nonce", "binding_mismatch", || leaf(|parts| parts.nonce_peer = [0x44; 32])),
    ("alpn-mismatch-in-leaf", "binding_mismatch", || leaf(|parts| parts.alpn = b"portcullis1/h2".to_vec())),
    ("alpn-missing-in-leaf", "binding_mismatch", || leaf(|parts| parts.alpn.clear())),
    ("label", "binding_mismatch", || leaf(|parts| parts.label = b"PORTCULLIS/1 web-leaf".to_vec())),
    ("hello-tamper", "binding_mismatch", || claims(|claims| claims.kind = Kind::Session { hello: [0x55; 48] })),
    ("claims other than those in the leaf", "binding_mismatch", || leaf(|parts| *parts.claims.last_mut().expect("claims") ^= 1)),
    ("another instance than in the leaf", "binding_mismatch", || {
        leaf(|parts| parts.claims = parts.claims.iter().map(|octet| if *octet == 0x33 { 0x34 } else { *octet }).collect())
    }),
    ("spki of another key", "binding_mismatch", || claims(|claims| claims.spki = KeyDigest([0x66; 48]))),
    ("key of another in the leaf", "binding_mismatch", || leaf(|parts| parts.key_self = vec![0x66; 48])),
    ("peer of another in the leaf", "binding_mismatch", || leaf(|parts| parts.key_peer = vec![0x66; 48])),
    ("keys exchanged in the leaf", "binding_mismatch", || leaf(|parts| std::mem::swap(&mut parts.key_self, &mut parts.key_peer))),
    ("rd-tail", "binding_mismatch", || report_data(|data, _| data.0[63] ^= 1)),
    ("rd-head", "binding_mismatch", || report_data(|data, _| data.0[0] ^= 1)),
    ("rd-head-48", "binding_mismatch", || report_data(|data, _| data.0[48..].fill(0))),
    ("rd-head-32", "binding_mismatch", || report_data(|data, _| data.0[32..].fill(0))),
    ("rd zero", "binding_mismatch", || report_data(|data, _| data.0.fill(0))),
    ("proof-short", "batch_proof_invalid", || batched(0, 2, |proof| proof.path.clear())),
    ("proof-long", "batch_proof_invalid", || batched(0, 2, |proof| proof.path.push([7; 48]))),
    ("proof for nobody", "batch_proof_invalid", || batched(0, 1, |proof| proof.path.push([7; 48]))),
    ("index-out-of-range", "batch_proof_invalid", || batched(1, 2, |proof| proof.index = 2)),
    ("size zero", "batch_proof_invalid", || batched(0, 1, |proof| proof.size = 0)),
    ("size beyond the most", "batch_proof_invalid", || batched(0, 1, |proof| (proof.size, proof.path) = (65_537, vec![[7; 48]; 17]))),
    ("size-lie", "batch_proof_invalid", || batched(2, 3, |proof| proof.size = 4)),
    // The same shape and so the same root: the size is part of the report data.
    ("size-lie of the same shape", "binding_mismatch", || batched(0, 3, |proof| proof.size = 4)),
    ("another place in the batch", "binding_mismatch", || batched(0, 2, |proof| proof.index = 1)),
    ("another sibling", "binding_mismatch", || batched(3, 5, |proof| proof.path[1] = [7; 48])),
    ("siblings exchanged", "binding_mismatch", || batched(3, 5, |proof| proof.path.swap(0, 1))),
    ("the batch's root for a leaf", "binding_mismatch", || Twist {
        batch: Some(Box::new(|leaf| (batch::challenge(2, &leaf).long, wire::alone(leaf).1))),
        ..Twist::default()
    }),
    ("no Merkle prefix", "binding_mismatch", || Twist {
        batch: Some(Box::new(|leaf| (ReportData(sha512(&[&leaf])), wire::alone(leaf).1))),
        ..Twist::default()
    }),
    ("cert-evidence-in-session", "evidence_malformed", || Twist {
        claims: Some(Box::new(|claims| claims.kind = certificate_kind())),
        report_data: Some(Box::new(|data, claims| *data = certificate_challenge(claims).long)),
        ..Twist::default()
    }),
    ("certificate report data for session claims", "binding_mismatch", || report_data(|data, claims| *data = certificate_challenge(claims).long)),
    ("web-leaf-as-session", "evidence_malformed", || Twist {
        claims: Some(Box::new(|claims| claims.kind = Kind::Web)),
        leaf: Some(Box::new(|_, _, _| {})),
        ..Twist::default()
    }),
    ("claims beside the collection are others", "evidence_malformed", || Twist {
        beside: Some(Box::new(|claims| *claims.last_mut().expect("claims") ^= 1)),
        ..Twist::default()
    }),
    ("claims that are no map", "evidence_malformed", || collection(|collection| collection.bind = vec![0x80])),
    ("claims with a trailing octet", "evidence_malformed", || collection(|collection| collection.bind.push(0))),
    ("claims without a hello", "evidence_malformed", || {
        claims(|claims| claims.kind = Kind::Certificate { issued: NOW, expires: NOW.plus(60), names: Vec::new() })
    }),
    ("cmw-ind-zero", "evidence_malformed", || replaced(|collection| ([&collection.tee.bytes[..], &[4]].concat(), [&collection.tee.bytes[..], &[0]].concat()))),
    ("cmw-ind of an endorsement for the tee", "evidence_malformed", || {
        replaced(|collection| ([&collection.tee.bytes[..], &[4]].concat(), [&collection.tee.bytes[..], &[2]].concat()))
    }),
    ("cmw of another collection type", "evidence_malformed", || replaced(|_| (b"2.25.1201".to_vec(), b"2.25.1202".to_vec()))),
    ("null-verifier", "evidence_unsupported", || replaced(|_| (b"\x63tee".to_vec(), b"\x63gpu".to_vec()))),
    ("gpu-only", "evidence_unsupported", || Twist {
        collection: Some(Box::new(|collection| collection.tee.auxiliary.push(auxiliary("gpu/0")))),
        ..replaced(|_| (b"\x63tee".to_vec(), b"\x63log".to_vec()))
    }),
    ("no binding", "evidence_malformed", || replaced(|_| (b"\x64bind".to_vec(), b"\x64bond".to_vec()))),
    ("cmw-two-tee", "evidence_ambiguous", || {
        collection(|collection| {
            let Evidence { media_type, bytes, .. } = collection.tee.clone();
            collection.tee.auxiliary.push(Auxiliary { label: "tee2".to_owned(), media_type, bytes });
        })
    }),
    ("cmw-two-tee under another label", "evidence_ambiguous", || {
        collection(|collection| {
            let Evidence { media_type, bytes, .. } = collection.tee.clone();
            collection.tee.auxiliary.push(Auxiliary { label: "log".to_owned(), media_type, bytes });
        })
    }),
    ("gpu-unlisted", "auxiliary_unbound", || collection(|collection| collection.tee.auxiliary.push(GPU.clone()))),
    ("gpu-other-nonce", "binding_mismatch", || Twist {
        claims: Some(Box::new(|claims| claims.aux = digests(std::slice::from_ref(&GPU)))),
        collection: Some(Box::new(|collection| collection.tee.auxiliary.push(GPU.clone()))),
        ..Twist::default()
    }),
    ("gpu-altered", "auxiliary_unbound", || Twist {
        claims: Some(Box::new(|claims| claims.aux = digests(std::slice::from_ref(&GPU)))),
        collection: Some(Box::new(|collection| {
            let mut altered = GPU.clone();
            altered.bytes[100] ^= 1;
            collection.tee.auxiliary.push(altered);
        })),
        ..Twist::default()
    }),
    ("gpu-as-tee", "evidence_unsupported", || collection(|collection| collection.tee = Evidence::new(GPU.media_type.as_str(), GPU.bytes.as_slice()))),
    ("cmw-unlisted-aux", "auxiliary_unbound", || with_auxiliary(None)),
    ("cmw-aux-hash-mismatch", "auxiliary_unbound", || with_auxiliary(Some([1; 48]))),
    ("cmw-aux-listed and not there", "auxiliary_unbound", || claims(|claims| claims.aux.extend([("gpu/0".to_owned(), sha384(&[b"{}"]))]))),
    ("a type that nobody knows", "evidence_unsupported", || collection(|collection| collection.tee.media_type = "application/x".to_owned())),
    ("a report cut short", "evidence_size", || collection(|collection| collection.tee.bytes.truncate(1183))),
    ("a report with a flipped bit", "signature_invalid", || collection(|collection| collection.tee.bytes[0x90] ^= 1)),
    ("no endorsements", "collateral_unavailable", || collection(|collection| collection.endorsements = Default::default())),
];

fn certificate_kind() -> Kind {
    let (issued, expires) = (NOW, Timestamp(NOW.0 + 3000));
    Kind::Certificate { issued, expires, names: vec!["app.example".to_owned()] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_that_does_not_speak_for_the_connection_is_refused_by_a_client() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    for (name, code, twist) in ROWS {
        let attacked = on_client(Target::session(), &adversary.tls(), async |wire: &mut Wire| {
            script::serve(wire, &adversary.machine, &twist()).await;
        })
        .await;
        failures.check(&attacked, name, code);
    }
    failures.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_that_does_not_speak_for_the_connection_is_refused_by_a_server() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    for (name, code, twist) in ROWS {
        let attacked = on_server(Listening::attested(Tier::SessionMutual).await, &adversary.tls(), async |wire: &mut Wire| {
            script::open(wire, &adversary.machine, &twist()).await;
        })
        .await;
        failures.check(&attacked, name, code);
        // Of form or of substance; no more is said.
        assert!(matches!(attacked.told(), Some(1 | 3)), "{name}: told {:?}", attacked.told());
    }
    failures.none();
}

/// Rows that need the adversary's key, or both ends' certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_bound_whole_and_on_both_sides() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    let whole = spki(&adversary.holder.key);
    // The point is the last 65 octets of a P-256 SubjectPublicKeyInfo.
    let point = sha384(&[&whole[whole.len() - 65..]]);
    let in_leaf = || Twist { leaf: Some(Box::new(move |parts, _, _| parts.key_self = point.to_vec())), ..Twist::default() };
    let in_both = || Twist { claims: Some(Box::new(move |claims| claims.spki = KeyDigest(point))), ..in_leaf() };
    let bare = || Twist { leaf: Some(Box::new(|parts, _, _| parts.key_peer.clear())), ..Twist::default() };
    // Genuine evidence of a web endpoint over a nonce of the adversary's choice, shown as a session's.
    let key = adversary.holder.digest();
    let web = || Twist {
        report_data: Some(Box::new(move |data, claims| *data = wire::alone(web_leaf(&[0x22; 32], &key, "https://app.example", claims)).0)),
        ..Twist::default()
    };
    let rows: [(&str, &dyn Fn() -> Twist); 4] = [
        ("spki-hash-only-point", &in_leaf),
        ("spki-hash-only-point in the claims too", &in_both),
        ("client-cert-missing-in-hash", &bare),
        ("web-leaf-as-session", &web),
    ];
    for (name, twist) in rows {
        let tls = Tls { wants_client: true, ..adversary.tls() };
        let attacked = on_client(Target::mutual().await, &tls, async |wire: &mut Wire| {
            script::serve(wire, &adversary.machine, &twist()).await;
        })
        .await;
        failures.check(&attacked, name, "binding_mismatch");
        let attacked = on_server(Listening::attested(Tier::SessionMutual).await, &adversary.tls(), async |wire: &mut Wire| {
            script::open(wire, &adversary.machine, &twist()).await;
        })
        .await;
        failures.check(&attacked, name, "binding_mismatch");
    }
    failures.none();
}

/// Who has stolen a side's key cannot show that side its own face.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_our_own_key_is_refused() {
    let (stolen, mut failures) = (Holder::plain(), Failures::default());
    let adversary = Adversary { holder: stolen.clone(), ..Adversary::new() };
    let mut target = Listening::attested(Tier::SessionMutual).await;
    target.plan.identity = target.house.stolen(&stolen, crate::world::machine(1)).await;
    let attacked = on_server(target, &adversary.tls(), async |wire: &mut Wire| {
        script::open(wire, &adversary.machine, &Twist::default()).await;
    })
    .await;
    failures.check(&attacked, "own key at a server", "binding_mismatch");
    let mut target = Target::mutual().await;
    target.plan.identity = Some(target.house.stolen(&stolen, crate::world::machine(2)).await);
    let tls = Tls { wants_client: true, ..adversary.tls() };
    let attacked = on_client(target, &tls, async |wire: &mut Wire| {
        script::serve(wire, &adversary.machine, &Twist::default()).await;
    })
    .await;
    failures.check(&attacked, "own key at a client", "binding_mismatch");
    failures.none();
}
