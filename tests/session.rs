//! The exchange without sockets: the protocol's vectors, and every frame that comes at the wrong time or in the wrong
//! form.

#[path = "support/skipped.rs"]
mod skipped;

use std::path::PathBuf;

use data_encoding::HEXLOWER;
use portcullis::evidence::batch::{self, Node, Proof};
use portcullis::evidence::binding::{BindingClaims, Channel, Kind as ClaimsKind, Role, certificate_challenge, hello_digest, web_leaf};
use portcullis::evidence::cbor::Writer;
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::{Endorsements, Evidence, KeyDigest, Timestamp};
use portcullis::refusal::{Denied, Reason};
use portcullis::session::exchange::{Attesting, ClientEvidence, Next, OwnClaims};
use portcullis::session::frame::Header;
use portcullis::session::{Agreed, Attest, AwaitHelloClient, AwaitHelloServer, AwaitResult, Code, EvidenceMessage, Frame, Hello, Kind, Offer};
use serde_json::Value;

const TYPE: &str = "application/vnd.amd.sev-snp.attestation-report";

fn vectors() -> Option<Value> {
    let folder = std::env::var_os("PORTCULLIS_VECTORS").map_or_else(|| PathBuf::from("../shared/vectors"), PathBuf::from);
    let path = folder.join("../protocol-vectors.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        skipped::cases(1, "no protocol vectors: they lie beside the folder that PORTCULLIS_VECTORS names");
        return None;
    };
    Some(serde_json::from_str(&text).expect("JSON"))
}

fn bytes(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().expect("a hex string").as_bytes()).expect("hex")
}

fn octets<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("its length")
}

fn frame(octets: &[u8]) -> Frame {
    let (header, payload) = octets.split_first_chunk::<{ Header::LENGTH }>().expect("a header");
    let kind = Kind::of_octet(header[0]).expect("a known kind");
    let header = Header::read(*header, kind, 1 << 20).expect("a good header");
    assert_eq!(header.length, payload.len());
    Frame::new(header.kind, payload.to_vec())
}

#[test]
fn the_vectors_of_the_protocol_are_reproduced() {
    let Some(all) = vectors() else { return };
    let (inputs, session, cert, web) = (&all["inputs"], &all["session"], &all["cert"], &all["web"]);
    let (first, second) = (KeyDigest::of_spki(&bytes(&inputs["spki_d1"])), KeyDigest::of_spki(&bytes(&inputs["spki_d2"])));
    assert_eq!((first.0, second.0), (octets(&inputs["sha384_spki_d1"]), octets(&inputs["sha384_spki_d2"])));
    let (nonce_c, nonce_s): ([u8; 32], [u8; 32]) = (octets(&inputs["nonce_c"]), octets(&inputs["nonce_s"]));
    let instance = bytes(&inputs["instance"]);
    let claims = |kind| BindingClaims { kind, spki: first, instance: instance.clone(), aux: Default::default(), epoch: None, hpke: None };

    let hello = |nonce, authority: Option<&str>| Hello {
        nonce,
        attest: Attest { server: true, client: false },
        accepts: vec![TYPE.to_owned()],
        max_evidence: 262_144,
        authority: authority.map(str::to_owned),
    };
    let names = inputs["names"].as_array().expect("names");
    let authority = names[0].as_str();
    let hello_c = Frame::new(Kind::HelloClient, hello(nonce_c, authority).encode());
    let hello_s = Frame::new(Kind::HelloServer, hello(nonce_s, None).encode());
    assert_eq!(hello_c.octets(), bytes(&session["hello_c"]));
    assert_eq!(hello_s.octets(), bytes(&session["hello_s"]));
    assert_eq!(Hello::decode_client(frame(&bytes(&session["hello_c"])).payload()), Ok(hello(nonce_c, authority)));
    assert_eq!(Hello::decode_server(frame(&bytes(&session["hello_s"])).payload()), Ok(hello(nonce_s, None)));
    let digest = hello_digest(hello_c.octets(), hello_s.octets());
    assert_eq!(digest, octets(&session["hello"]));
    let encoded = claims(ClaimsKind::Session { hello: digest }).encode();
    assert_eq!(encoded, bytes(&session["cb"]));

    // Through the state machines of both sides, as a connection does.
    let (answer, server) = AwaitHelloClient::new(offer(nonce_s, ClientEvidence::None)).greeted(&hello_c).expect("a good HELLO_C");
    assert_eq!(answer, hello_s);
    assert_eq!(server.claims(&first, &instance, &[]), encoded);
    let exporter: [u8; 32] = octets(&inputs["exporter"]);
    let alpn = inputs["alpn"].as_str().expect("a protocol").as_bytes();
    let leaf = |key_peer| server.channel(Attesting { role: Role::Server, exporter: &exporter, key_self: &first, key_peer, alpn }).leaf(&encoded);
    let (one_way, mutual) = (leaf(None), leaf(Some(&second)));
    assert_eq!((one_way, mutual), (octets(&session["leaf_one_way"]), octets(&session["leaf_mutual"])));
    let root = |leaves: &[Node]| batch::build(leaves).expect("a batch").0;
    assert_eq!(batch::challenge(1, &root(&[one_way])).long.0, octets(&session["rd_one_way"]));
    assert_eq!(batch::challenge(1, &root(&[one_way])).short, octets(&session["rd48_one_way"]));
    assert_eq!(root(&[one_way, mutual]), octets(&session["root_of_both"]));
    assert_eq!(batch::challenge(2, &root(&[one_way, mutual])).long.0, octets(&session["rd_of_both"]));

    let number = |key: &str| Timestamp(inputs[key].as_u64().expect("a number"));
    let names = names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let of_certificate = claims(ClaimsKind::Certificate { issued: number("iat"), expires: number("exp"), names }).encode();
    assert_eq!(of_certificate, bytes(&cert["cb"]));
    assert_eq!(certificate_challenge(&of_certificate).long.0, octets(&cert["rd"]));
    assert_eq!(certificate_challenge(&of_certificate).short, octets(&cert["rd48"]));

    let of_web = claims(ClaimsKind::Web).encode();
    assert_eq!(of_web, bytes(&web["cb"]));
    let leaf = web_leaf(&nonce_c, &first, inputs["origin"].as_str().expect("an origin"), &of_web);
    assert_eq!(leaf, octets(&web["leaf"]));
    assert_eq!(batch::challenge(1, &leaf).long.0, octets(&web["rd"]));

    let leaves: Vec<Node> = all["batch"]["leaves"].as_array().expect("leaves").iter().map(octets).collect();
    let (root, proofs) = batch::build(&leaves).expect("a batch");
    assert_eq!(root, octets(&all["batch"]["root"]));
    assert_eq!(batch::challenge(7, &root).long.0, octets(&all["batch"]["rd"]));
    for (proof, wanted) in proofs.iter().zip(all["batch"]["proofs"].as_array().expect("proofs")) {
        let path = wanted["path"].as_array().expect("a path").iter().map(octets).collect();
        let number = |key: &str| wanted[key].as_u64().expect("a number");
        assert_eq!(*proof, Proof { index: number("index"), size: number("size"), path });
    }
}

fn offer(nonce: [u8; 32], client: ClientEvidence) -> Offer {
    Offer { nonce, client, accepts: vec![TYPE.to_owned()], max_evidence: 262_144 }
}

fn client(wish: ClientEvidence) -> AwaitHelloServer {
    AwaitHelloServer::open(offer([1; 32], wish), "service.test")
}

fn server(wish: ClientEvidence) -> AwaitHelloClient {
    AwaitHelloClient::new(offer([2; 32], wish))
}

const OWN: KeyDigest = KeyDigest([7; 48]);
const PEER: KeyDigest = KeyDigest([8; 48]);
const EXPORTER: [u8; 32] = [9; 32];

const fn attesting(role: Role) -> Attesting<'static> {
    match role {
        Role::Client => Attesting { role, exporter: &EXPORTER, key_self: &PEER, key_peer: Some(&OWN), alpn: b"portcullis1/raw" },
        Role::Server => Attesting { role, exporter: &EXPORTER, key_self: &OWN, key_peer: Some(&PEER), alpn: b"portcullis1/raw" },
    }
}

/// EVIDENCE of the side that `attesting` describes; the report is not looked at here.
fn evidence(agreed: &Agreed, attesting: Attesting<'_>) -> Frame {
    let claims = agreed.claims(attesting.key_self, &[3; 16], &[]);
    let (_, proofs) = batch::build(&[agreed.channel(attesting).leaf(&claims)]).expect("a batch");
    let tee = Evidence::new(TYPE, vec![0; 1184]);
    let proof = proofs.into_iter().next().expect("a proof");
    agreed.evidence(&tee, &Endorsements::default(), OwnClaims { claims, listed: &[], proof }).expect("evidence that the peer takes")
}

fn result(code: Code) -> Frame {
    Frame::new(Kind::Result, code.encode())
}

fn reason<T: std::fmt::Debug>(refused: Result<T, Denied>) -> Reason {
    refused.expect_err("a refusal").reason()
}

#[test]
fn a_one_way_exchange_ends_in_agreement() {
    let opening = client(ClientEvidence::Offered);
    let (answer, of_server) = server(ClientEvidence::None).greeted(opening.hello()).expect("agreed");
    assert_eq!(of_server.authority(), Some("service.test"));
    let frame = evidence(&of_server, attesting(Role::Server));
    let waiting = opening.answered(&answer).expect("agreed");
    assert!(!waiting.agreed().mutual() && !of_server.mutual());
    let presented = waiting.given(&frame).expect("read");
    let binding = presented.binding(attesting(Role::Server)).expect("bound");
    assert_eq!(binding.key(), &OWN);
    assert!(presented.accepted().is_none());
    assert!(matches!(AwaitResult::of_server(of_server).judged(&result(Code::Ok)), Ok(Next::Done)));
}

#[test]
fn a_mutual_exchange_ends_in_agreement() {
    let opening = client(ClientEvidence::Required);
    let (answer, of_server) = server(ClientEvidence::Required).greeted(opening.hello()).expect("agreed");
    let presented = opening.answered(&answer).and_then(|waiting| waiting.given(&evidence(&of_server, attesting(Role::Server)))).expect("read");
    assert!(presented.binding(attesting(Role::Server)).is_ok());
    let of_client = evidence(presented.agreed(), attesting(Role::Client));
    let waiting = presented.accepted().expect("the server's verdict is awaited");
    let Ok(Next::Evidence(next)) = AwaitResult::of_server(of_server).judged(&result(Code::Ok)) else { panic!("the client's evidence is next") };
    let presented = next.given(&of_client).expect("read");
    assert_eq!(presented.binding(attesting(Role::Client)).expect("bound").key(), &PEER);
    assert!(presented.accepted().is_none());
    assert!(matches!(waiting.judged(&result(Code::Ok)), Ok(Next::Done)));
}

#[test]
fn frames_out_of_order_are_refused() {
    let hello = || client(ClientEvidence::None).hello().clone();
    let agreed = || server(ClientEvidence::None).greeted(&hello()).expect("agreed");
    let awaiting = || client(ClientEvidence::None).answered(&agreed().0).expect("agreed");
    let out_of_order = Reason::ExchangeOutOfOrder;
    // dup-hello
    assert_eq!(reason(AwaitResult::of_server(agreed().1).judged(&hello())), out_of_order);
    assert_eq!(reason(awaiting().given(&agreed().0)), out_of_order);
    // result-first
    assert_eq!(reason(awaiting().given(&result(Code::Ok))), out_of_order);
    assert_eq!(reason(client(ClientEvidence::None).answered(&result(Code::Ok))), out_of_order);
    assert_eq!(reason(server(ClientEvidence::None).greeted(&result(Code::Ok))), out_of_order);
    // evidence before HELLO_S, HELLO_S to a server
    let early = evidence(&agreed().1, attesting(Role::Server));
    assert_eq!(reason(client(ClientEvidence::None).answered(&early)), out_of_order);
    assert_eq!(reason(server(ClientEvidence::None).greeted(&agreed().0)), out_of_order);
    // result-without-evidence
    let mutual = client(ClientEvidence::Required);
    let (_, of_server) = server(ClientEvidence::Required).greeted(mutual.hello()).expect("agreed");
    let Ok(Next::Evidence(next)) = AwaitResult::of_server(of_server).judged(&result(Code::Ok)) else { panic!("the client's evidence is next") };
    assert_eq!(reason(next.given(&result(Code::Ok))), out_of_order);
}

#[test]
fn an_attestation_that_is_required_is_not_dropped() {
    // drop-client-bit: the server wants no evidence of a client that must give it
    let opening = client(ClientEvidence::Required);
    let (answer, _) = server(ClientEvidence::None).greeted(opening.hello()).expect("the server does not mind");
    assert_eq!(reason(opening.answered(&answer)), Reason::ExchangeOutOfOrder);
    // the server drops its own, or wants what was not offered
    let with = |server, client| Hello { nonce: [2; 32], attest: Attest { server, client }, accepts: vec![TYPE.to_owned()], max_evidence: 9, authority: None };
    for (server, given) in [(false, false), (true, true)] {
        let answer = Frame::new(Kind::HelloServer, with(server, given).encode());
        assert_eq!(reason(client(ClientEvidence::None).answered(&answer)), Reason::ExchangeOutOfOrder);
    }
    // a client that does not ask for the server's evidence, one that has none where it must
    let lax = Hello { authority: Some("x".to_owned()), ..with(false, false) };
    assert_eq!(reason(server(ClientEvidence::None).greeted(&Frame::new(Kind::HelloClient, lax.encode()))), Reason::ExchangeOutOfOrder);
    assert_eq!(reason(server(ClientEvidence::Required).greeted(client(ClientEvidence::None).hello())), Reason::EvidenceUnsupported);
}

#[test]
fn the_peers_refusal_is_told_from_a_broken_order() {
    for (code, wanted) in [(Code::Rejected, Reason::PeerRefused), (Code::ProtocolError, Reason::PeerRefused), (Code::Busy, Reason::AttesterBusy)] {
        assert_eq!(reason(client(ClientEvidence::None).answered(&result(code))), wanted);
        let (_, agreed) = server(ClientEvidence::None).greeted(client(ClientEvidence::None).hello()).expect("agreed");
        assert_eq!(reason(AwaitResult::of_server(agreed).judged(&result(code))), wanted);
    }
}

/// Writes one value.
type Write<'a> = &'a dyn Fn(&mut Writer) -> &mut Writer;

/// A HELLO_C with these members, in this order.
fn hello_of(members: &[(u64, Write<'_>)]) -> Frame {
    let mut w = Writer::new();
    w.map(members.len());
    for (key, write) in members {
        w.uint(*key);
        write(&mut w);
    }
    Frame::new(Kind::HelloClient, w.finish())
}

#[test]
fn a_hello_of_any_other_form_is_malformed() {
    let version: Write<'_> = &|w| w.uint(1);
    let nonce: Write<'_> = &|w| w.bytes(&[1; 32]);
    let bits: Write<'_> = &|w| w.uint(1);
    let types: Write<'_> = &|w| w.array(1).text(TYPE);
    let most: Write<'_> = &|w| w.uint(1000);
    let name: Write<'_> = &|w| w.text("x");
    let good: [(u64, Write<'_>); 6] = [(1, version), (2, nonce), (3, bits), (4, types), (5, most), (6, name)];
    assert!(server(ClientEvidence::None).greeted(&hello_of(&good)).is_ok());
    let refused = |what: &str, frame: &Frame| assert_eq!(reason(server(ClientEvidence::None).greeted(frame)), Reason::EvidenceMalformed, "{what}");
    let replaced = |place: usize, with: Write<'_>| {
        let mut members = good;
        members[place].1 = with;
        hello_of(&members)
    };
    refused("hello-dup-key", &hello_of(&[(1, version), (2, nonce), (2, nonce), (3, bits), (4, types), (5, most), (6, name)]));
    refused("unknown-hello-key", &hello_of(&[(1, version), (2, nonce), (3, bits), (4, types), (5, most), (6, name), (9, name)]));
    refused("keys out of order", &hello_of(&[(2, nonce), (1, version), (3, bits), (4, types), (5, most), (6, name)]));
    refused("short-nonce", &replaced(1, &|w| w.bytes(&[1; 31])));
    refused("no nonce", &replaced(1, &|w| w.bytes(&[])));
    refused("version 2", &replaced(0, &|w| w.uint(2)));
    refused("attest bits", &replaced(2, &|w| w.uint(4)));
    refused("no types", &replaced(3, &|w| w.array(0)));
    refused("too many types", &replaced(3, &|w| (0..33).fold(w.array(33), |w, _| w.text("x"))));
    refused("long authority", &replaced(5, &|w| w.text(&"x".repeat(256))));
    for missing in 0..good.len() {
        let members: Vec<_> = good.iter().enumerate().filter(|(place, _)| *place != missing).map(|(_, member)| *member).collect();
        refused("a member missing", &hello_of(&members));
    }
    let payload = hello_of(&good).payload().to_vec();
    let indefinite = [&[0xbf], payload.get(1..).expect("a map"), &[0xff]].concat();
    refused("hello-indef", &Frame::new(Kind::HelloClient, indefinite));
    refused("trailing", &Frame::new(Kind::HelloClient, [payload.as_slice(), &[0]].concat()));
    for end in 0..payload.len() {
        refused("cut short", &Frame::new(Kind::HelloClient, payload[..end].to_vec()));
    }
    // A server's HELLO names no authority.
    assert_eq!(reason(client(ClientEvidence::None).answered(&Frame::new(Kind::HelloServer, payload))), Reason::EvidenceMalformed);
}

/// What a verifier makes of session evidence that was made over other facts.
#[test]
fn evidence_over_other_facts_does_not_bind() {
    let opening = client(ClientEvidence::Required);
    let (answer, of_server) = server(ClientEvidence::Required).greeted(opening.hello()).expect("agreed");
    let agreed = opening.answered(&answer).expect("agreed").agreed().clone();
    let truth = attesting(Role::Server);
    let claims = of_server.claims(truth.key_self, &[3; 16], &[]);
    let expected = |attesting: Attesting<'_>| {
        let leaf = of_server.channel(attesting).leaf(&claims);
        batch::challenge(1, &batch::fold(&leaf, &Proof { index: 0, size: 1, path: Vec::new() }).expect("a root")).long
    };
    let honest = expected(truth);
    let lies = [
        ("wrong-exporter", Attesting { exporter: &[0; 32], ..truth }),
        ("wrong-role", Attesting { role: Role::Client, ..truth }),
        ("spki-hash-only-point", Attesting { key_self: &PEER, ..truth }),
        ("client-cert-missing-in-hash", Attesting { key_peer: None, ..truth }),
        ("alpn-mismatch-in-leaf", Attesting { alpn: b"portcullis1/h2", ..truth }),
    ];
    for (case, lie) in lies {
        assert_ne!(expected(lie), honest, "{case}");
    }
    let swapped = Channel {
        role: Role::Server,
        exporter: &EXPORTER,
        nonce_peer: agreed.nonce_server(),
        nonce_self: agreed.nonce_client(),
        key_self: &OWN,
        key_peer: Some(&PEER),
        alpn: b"portcullis1/raw",
    };
    assert_ne!(swapped.leaf(&claims), of_server.channel(truth).leaf(&claims), "nonce-swap");
}

#[test]
fn an_evidence_frame_that_contradicts_itself_is_refused() {
    let start = || {
        let opening = client(ClientEvidence::None);
        let (answer, of_server) = server(ClientEvidence::None).greeted(opening.hello()).expect("agreed");
        (opening.answered(&answer).expect("agreed"), of_server)
    };
    let changed = |change: &dyn Fn(&mut EvidenceMessage, &Agreed)| {
        let (waiting, of_server) = start();
        let mut message = EvidenceMessage::decode(evidence(&of_server, attesting(Role::Server)).payload()).expect("EVIDENCE");
        change(&mut message, &of_server);
        waiting.given(&Frame::new(Kind::Evidence, message.encode())).and_then(|presented| presented.binding(attesting(Role::Server)))
    };
    let rebound = |message: &mut EvidenceMessage, claims: Vec<u8>| {
        let collection = Collection::decode(&message.collection).expect("a collection");
        message.collection = Collection { bind: claims.clone(), ..collection }.encode();
        message.claims = claims;
    };
    let of_kind = |kind, spki| BindingClaims { kind, spki, instance: vec![3; 16], aux: Default::default(), epoch: None, hpke: None }.encode();
    assert!(changed(&|_, _| {}).is_ok());
    assert_eq!(reason(changed(&|message, _| message.claims.push(0))), Reason::EvidenceMalformed, "other claims beside the collection");
    let certificate = ClaimsKind::Certificate { issued: Timestamp(1), expires: Timestamp(2), names: vec!["x".to_owned()] };
    let in_session = changed(&|message, _| rebound(message, of_kind(certificate.clone(), OWN)));
    assert_eq!(reason(in_session), Reason::EvidenceMalformed, "cert-evidence-in-session");
    let tampered = changed(&|message, _| rebound(message, of_kind(ClaimsKind::Session { hello: [0; 48] }, OWN)));
    assert_eq!(reason(tampered), Reason::BindingMismatch, "hello-tamper");
    let foreign = changed(&|message, agreed| rebound(message, agreed.claims(&PEER, &[3; 16], &[])));
    assert_eq!(reason(foreign), Reason::BindingMismatch, "another key");
    assert_eq!(reason(changed(&|message, _| message.proof.size = 2)), Reason::BatchProofInvalid, "proof-short");
    assert_eq!(reason(changed(&|message, _| message.proof.index = 1)), Reason::BatchProofInvalid, "index-out-of-range");
    let long = changed(&|message, _| message.proof = Proof { index: 0, size: 1, path: vec![[0; 48]; 17] });
    assert_eq!(reason(long), Reason::BatchProofInvalid, "a path for no batch");
}

#[test]
fn a_peer_with_our_own_key_is_refused() {
    let opening = client(ClientEvidence::None);
    let (answer, of_server) = server(ClientEvidence::None).greeted(opening.hello()).expect("agreed");
    let mirror = Attesting { key_peer: Some(&OWN), ..attesting(Role::Server) };
    let presented = opening.answered(&answer).and_then(|waiting| waiting.given(&evidence(&of_server, mirror))).expect("read");
    assert_eq!(reason(presented.binding(mirror)), Reason::BindingMismatch);
}

#[test]
fn evidence_is_sent_only_to_a_peer_that_takes_it() {
    let narrow = AwaitHelloServer::open(Offer { max_evidence: 1000, ..offer([1; 32], ClientEvidence::None) }, "x");
    let (_, agreed) = server(ClientEvidence::None).greeted(narrow.hello()).expect("agreed");
    let tee = |media_type: &str| Evidence::new(media_type, vec![0; 1184]);
    let own = || OwnClaims { claims: agreed.claims(&OWN, &[3; 16], &[]), listed: &[], proof: Proof { index: 0, size: 1, path: Vec::new() } };
    assert_eq!(reason(agreed.evidence(&tee(TYPE), &Endorsements::default(), own())), Reason::EvidenceSize);
    assert_eq!(reason(agreed.evidence(&tee("application/else"), &Endorsements::default(), own())), Reason::EvidenceUnsupported);
}

#[test]
fn results_are_one_of_four() {
    for code in [Code::Ok, Code::Rejected, Code::Busy, Code::ProtocolError] {
        assert_eq!(Code::decode(&code.encode()), Ok(code));
    }
    for bad in [&[][..], &[0xa0], &[0xa1, 1, 4], &[0xa1, 2, 0], &[0xa1, 1, 0, 0], &[0xa2, 1, 0, 1, 0], &[0xa1, 1, 0x18, 0]] {
        assert_eq!(reason(Code::decode(bad)), Reason::EvidenceMalformed, "{bad:?}");
    }
    // Detail stays here: every reason of a verdict is the same to the peer.
    assert_eq!(Code::of(Reason::MeasurementUnknown), Code::of(Reason::ChainRevoked));
}
