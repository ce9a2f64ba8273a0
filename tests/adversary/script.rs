//! The exchange as an honest peer makes it, with a hand on every step: what is twisted is one thing of an exchange that
//! would otherwise be accepted.

use std::sync::Arc;

use portcullis::attester::Attester;
use portcullis::crypto::sha384;
use portcullis::evidence::batch::{Node, Proof};
use portcullis::evidence::binding::BindingClaims;
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::{Challenge, ReportData};

use crate::peer::{Frame, Wire};
use crate::wire::{self, EXPORTER_LABEL, HELLO_C, HELLO_S, Hello, LeafParts, exporter_context, frame, session_claims};

type On<T> = Option<Box<dyn Fn(&mut T)>>;

/// What is done otherwise than an honest peer would. The default is an honest peer.
#[derive(Default)]
pub struct Twist {
    pub hello: On<Hello>,
    pub claims: On<BindingClaims>,
    /// Also given the connection and both nonces, client's first, to export something else.
    pub leaf: Option<Box<dyn Fn(&mut LeafParts, &Wire, [[u8; 32]; 2])>>,
    /// What the quote is over and the proof, for a leaf; alone in its batch by default.
    pub batch: Option<Box<dyn Fn(Node) -> (ReportData, Proof)>>,
    pub proof: On<Proof>,
    /// What the quote is over, with the claims as they are sent.
    pub report_data: Option<Box<dyn Fn(&mut ReportData, &[u8])>>,
    pub collection: On<Collection>,
    /// The collection's octets.
    pub octets: Option<Box<dyn Fn(&Collection) -> Vec<u8>>>,
    /// The claims beside the collection.
    pub beside: On<Vec<u8>>,
    /// A server's HELLO and EVIDENCE, or a client's RESULT and EVIDENCE.
    pub frames: On<Vec<Vec<u8>>>,
    /// Octets behind them, in a record of their own.
    pub behind: Vec<u8>,
}

fn apply<T>(on: &On<T>, to: &mut T) {
    if let Some(on) = on {
        on(to);
    }
}

/// One end's evidence for the session.
pub struct Session<'a> {
    pub role: u8,
    pub nonce_c: [u8; 32],
    pub nonce_s: [u8; 32],
    pub hello_c: &'a [u8],
    pub hello_s: &'a [u8],
}

/// An EVIDENCE frame.
pub fn attest(wire: &Wire, session: &Session<'_>, machine: &Arc<dyn Attester>, twist: &Twist) -> Vec<u8> {
    let key = wire.key_self.expect("who attests has a key");
    let mut claims = session_claims(key, sha384(&[session.hello_c, session.hello_s]));
    apply(&twist.claims, &mut claims);
    let encoded = claims.encode();
    let (nonce_self, nonce_peer) = if session.role == 2 { (session.nonce_s, session.nonce_c) } else { (session.nonce_c, session.nonce_s) };
    let context = exporter_context(session.role, &session.nonce_c, &session.nonce_s);
    let mut parts = LeafParts {
        label: b"PORTCULLIS/1 session-leaf".to_vec(),
        role: session.role,
        exporter: wire.exporter(EXPORTER_LABEL, Some(&context)),
        nonce_peer,
        nonce_self,
        key_self: key.0.to_vec(),
        key_peer: wire.key_peer.map_or_else(Vec::new, |key| key.0.to_vec()),
        alpn: wire::ALPN.to_vec(),
        claims: encoded.clone(),
    };
    if let Some(twist) = &twist.leaf {
        twist(&mut parts, wire, [session.nonce_c, session.nonce_s]);
    }
    let leaf = parts.leaf();
    let (mut report_data, mut proof) = twist.batch.as_ref().map_or_else(|| wire::alone(leaf), |batch| batch(leaf));
    apply(&twist.proof, &mut proof);
    if let Some(twist) = &twist.report_data {
        twist(&mut report_data, &encoded);
    }
    let quote = machine.attest(&Challenge { long: report_data, short: [0; 48] }).expect("a simulated quote");
    let mut collection = Collection { tee: quote.evidence, bind: encoded.clone(), endorsements: quote.endorsements };
    apply(&twist.collection, &mut collection);
    let octets = twist.octets.as_ref().map_or_else(|| collection.encode(), |octets| octets(&collection));
    let mut beside = collection.bind;
    apply(&twist.beside, &mut beside);
    wire::evidence(&octets, &beside, &proof)
}

/// Serves the exchange up to the client's verdict; gives that, and what followed it in a mutual exchange.
pub async fn serve(wire: &mut Wire, machine: &Arc<dyn Attester>, twist: &Twist) -> Vec<Frame> {
    let Some(hello_c) = wire.receive().await.filter(|frame| frame.kind == HELLO_C) else { return Vec::new() };
    let (nonce_c, attest_bits) = Hello::read(&hello_c.payload);
    let mut hello = Hello::new(0x22, attest_bits);
    apply(&twist.hello, &mut hello);
    let hello_s = frame(HELLO_S, &hello.payload());
    let nonce_s = hello.nonce.as_slice().try_into().unwrap_or([0; 32]);
    let session = Session { role: 2, nonce_c, nonce_s, hello_c: &hello_c.octets, hello_s: &hello_s };
    let mut frames = vec![hello_s.clone(), attest(wire, &session, machine, twist)];
    apply(&twist.frames, &mut frames);
    wire.send_with(&frames.concat(), &twist.behind).await;
    let mut answers = Vec::new();
    let wanted = if attest_bits & 2 == 0 { 1 } else { 2 };
    while answers.len() < wanted
        && let Some(answer) = wire.receive().await
    {
        answers.push(answer);
    }
    answers
}

/// Opens the exchange as a client that attests too. The server's evidence is believed; gives its last frame.
pub async fn open(wire: &mut Wire, machine: &Arc<dyn Attester>, twist: &Twist) -> Option<Frame> {
    let mut hello = Hello { authority: Some("app.example".to_owned()), ..Hello::new(0x11, 3) };
    apply(&twist.hello, &mut hello);
    let hello_c = frame(HELLO_C, &hello.payload());
    wire.send(&hello_c).await;
    let hello_s = wire.receive().await?;
    let _evidence = wire.receive().await?;
    let (nonce_s, _) = Hello::read(&hello_s.payload);
    let nonce_c = hello.nonce.as_slice().try_into().unwrap_or([0; 32]);
    let session = Session { role: 1, nonce_c, nonce_s, hello_c: &hello_c, hello_s: &hello_s.octets };
    let mut frames = vec![wire::result(0), attest(wire, &session, machine, twist)];
    apply(&twist.frames, &mut frames);
    wire.send_with(&frames.concat(), &twist.behind).await;
    wire.receive().await
}
