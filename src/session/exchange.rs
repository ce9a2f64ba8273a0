//! The order of the exchange, for both sides: every step consumes itself and gives the next.
//!
//! ```text
//! client                                      server
//! AwaitHelloServer --- HELLO_C -------------> AwaitHelloClient
//! Agreed           <-- HELLO_S, EVIDENCE_S -- Agreed
//! AwaitEvidence
//!   (appraises) ------ RESULT[, EVIDENCE_C] -> AwaitResult, then AwaitEvidence if mutual
//! AwaitResult      <-- RESULT (mutual) ------   (appraises)
//! ```

use super::frame::{Frame, Kind};
use super::message::{Attest, Code, EvidenceMessage, Hello};
use crate::evidence::binding::{Binding, BindingClaims, Channel, Kind as ClaimsKind, Role, device_nonce, digests, hello_digest};
use crate::evidence::cmw::Collection;
use crate::evidence::{Auxiliary, Endorsements, Evidence, KeyDigest};
use crate::refusal::{Denied, Finding, Reason};

/// What a side brings to the exchange.
#[derive(Clone, Debug)]
pub struct Offer {
    /// 32 fresh random octets.
    pub nonce: [u8; 32],
    /// Whether this side must have the client's evidence.
    pub client: ClientEvidence,
    /// The evidence this side accepts.
    pub accepts: Vec<String>,
    /// The most octets of evidence this side takes.
    pub max_evidence: usize,
}

/// What a side makes of evidence of the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientEvidence {
    /// The client has none to give; the server wants none.
    None,
    /// The client gives it if it is wanted. A server treats this as [`ClientEvidence::None`].
    Offered,
    /// Without it there is no connection.
    Required,
}

/// The client has sent HELLO_C.
#[derive(Debug)]
pub struct AwaitHelloServer {
    offer: Offer,
    hello: Frame,
}

impl AwaitHelloServer {
    /// Opens the exchange with the name that was dialled.
    #[must_use]
    pub fn open(offer: Offer, authority: &str) -> Self {
        let hello = Hello {
            nonce: offer.nonce,
            attest: Attest { server: true, client: offer.client != ClientEvidence::None },
            accepts: offer.accepts.clone(),
            max_evidence: u64::try_from(offer.max_evidence).unwrap_or(u64::MAX),
            authority: Some(authority.to_owned()),
        };
        Self { hello: Frame::new(Kind::HelloClient, hello.encode()), offer }
    }

    /// HELLO_C, to be sent.
    #[must_use]
    pub fn hello(&self) -> &Frame {
        &self.hello
    }

    /// Takes HELLO_S.
    ///
    /// # Errors
    /// `exchange_out_of_order` for another frame, or when the server drops an attestation that is required or adds one;
    /// `evidence_malformed`; the peer's refusal if it sent RESULT.
    pub fn answered(self, frame: &Frame) -> Result<AwaitEvidence, Denied> {
        let hello = Hello::decode_server(expect(frame, Kind::HelloServer)?)?;
        let Self { offer, hello: own } = self;
        let wanted = Attest { server: true, client: offer.client != ClientEvidence::None };
        let dropped_client = offer.client == ClientEvidence::Required && !hello.attest.client;
        if !hello.attest.server || dropped_client || (hello.attest.client && !wanted.client) {
            return Finding::new(Reason::ExchangeOutOfOrder, "HELLO_S.attest", format!("{wanted}, as asked"), hello.attest.to_string())
                .fix("the server will not attest what this side requires: compare the tiers of both sides")
                .refuse();
        }
        let digest = hello_digest(own.octets(), frame.octets());
        let agreed = Agreed::new(Role::Client, &offer, hello, digest);
        Ok(AwaitEvidence(agreed))
    }
}

/// The server awaits HELLO_C.
#[derive(Debug)]
pub struct AwaitHelloClient(Offer);

impl AwaitHelloClient {
    /// Awaits a client.
    #[must_use]
    pub const fn new(offer: Offer) -> Self {
        Self(offer)
    }

    /// Takes HELLO_C; gives HELLO_S to be sent, and what was agreed.
    ///
    /// # Errors
    /// `exchange_out_of_order` for another frame or a client that does not ask for the server's evidence,
    /// `evidence_unsupported` when the client's evidence is required and not offered, `evidence_malformed`.
    pub fn greeted(self, frame: &Frame) -> Result<(Frame, Agreed), Denied> {
        let Self(offer) = self;
        let hello = Hello::decode_client(expect(frame, Kind::HelloClient)?)?;
        if !hello.attest.server {
            return Finding::new(Reason::ExchangeOutOfOrder, "HELLO_C.attest", "the server's evidence asked for", hello.attest.to_string()).refuse();
        }
        let client = offer.client == ClientEvidence::Required;
        if client && !hello.attest.client {
            return Finding::new(Reason::EvidenceUnsupported, "HELLO_C.attest", "a client that gives evidence", "a client that gives none")
                .fix("this listener lets only attested clients in: give the client's side an identity, or let any client in")
                .refuse();
        }
        let answer = Hello {
            nonce: offer.nonce,
            attest: Attest { server: true, client },
            accepts: offer.accepts.clone(),
            max_evidence: u64::try_from(offer.max_evidence).unwrap_or(u64::MAX),
            authority: None,
        };
        let answer = Frame::new(Kind::HelloServer, answer.encode());
        let digest = hello_digest(frame.octets(), answer.octets());
        let agreed = Agreed::new(Role::Server, &offer, Hello { attest: Attest { server: true, client }, ..hello }, digest);
        Ok((answer, agreed))
    }
}

/// What both HELLOs settled.
#[derive(Clone, Debug)]
pub struct Agreed {
    role: Role,
    nonce_client: [u8; 32],
    nonce_server: [u8; 32],
    attest: Attest,
    hello: [u8; 48],
    peer_accepts: Vec<String>,
    peer_max: usize,
    own_max: usize,
    authority: Option<String>,
}

impl Agreed {
    fn new(role: Role, offer: &Offer, peer: Hello, hello: [u8; 48]) -> Self {
        let (nonce_client, nonce_server) = match role {
            Role::Client => (offer.nonce, peer.nonce),
            Role::Server => (peer.nonce, offer.nonce),
        };
        let peer_max = usize::try_from(peer.max_evidence).unwrap_or(usize::MAX);
        Self {
            role,
            nonce_client,
            nonce_server,
            attest: peer.attest,
            hello,
            peer_accepts: peer.accepts,
            peer_max,
            own_max: offer.max_evidence,
            authority: peer.authority,
        }
    }

    /// Whether the client attests too.
    #[must_use]
    pub const fn mutual(&self) -> bool {
        self.attest.client
    }

    /// The client's nonce.
    #[must_use]
    pub const fn nonce_client(&self) -> &[u8; 32] {
        &self.nonce_client
    }

    /// The server's nonce.
    #[must_use]
    pub const fn nonce_server(&self) -> &[u8; 32] {
        &self.nonce_server
    }

    /// The name the client dialled, where this is the server.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The bound to receive the next frame under.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.own_max
    }

    /// Which side we are.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Whether the peer takes evidence of this type.
    #[must_use]
    pub fn takes(&self, media_type: &str) -> bool {
        self.peer_accepts.iter().any(|accepted| accepted == media_type)
    }

    /// The nonce that devices beside our TEE have to answer.
    #[must_use]
    pub fn device_nonce(&self, instance: &[u8]) -> [u8; 32] {
        let peer = match self.role {
            Role::Client => &self.nonce_server,
            Role::Server => &self.nonce_client,
        };
        device_nonce(&[instance, peer])
    }

    /// The encoded claims for our own evidence, which has these members beside the quote.
    #[must_use]
    pub fn claims(&self, own: &KeyDigest, instance: &[u8], listed: &[Auxiliary]) -> Vec<u8> {
        let claims = BindingClaims {
            kind: ClaimsKind::Session { hello: self.hello },
            spki: *own,
            instance: instance.to_vec(),
            aux: digests(listed),
            epoch: None,
            hpke: None,
        };
        claims.encode()
    }

    /// The channel as the attesting side `role` sees it, with both keys and that role's exporter.
    #[must_use]
    pub fn channel<'a>(&'a self, attesting: Attesting<'a>) -> Channel<'a> {
        let (nonce_self, nonce_peer) = match attesting.role {
            Role::Client => (&self.nonce_client, &self.nonce_server),
            Role::Server => (&self.nonce_server, &self.nonce_client),
        };
        let Attesting { role, exporter, key_self, key_peer, alpn } = attesting;
        Channel { role, exporter, nonce_peer, nonce_self, key_self, key_peer, alpn }
    }

    /// Our EVIDENCE, for a peer that takes evidence of this type and size.
    ///
    /// # Errors
    /// `evidence_unsupported` when the peer does not list the type, `evidence_size` when it takes less.
    pub fn evidence(&self, tee: &Evidence, endorsements: &Endorsements, message: OwnClaims<'_>) -> Result<Frame, Denied> {
        if !self.takes(&tee.media_type) {
            return Finding::new(Reason::EvidenceUnsupported, "HELLO.types", tee.media_type.clone(), self.peer_accepts.join(", "))
                .fix("the other side does not accept this side's kind of evidence: its policy has to name the platform")
                .refuse();
        }
        let OwnClaims { claims, listed, proof } = message;
        let mut tee = tee.clone();
        tee.auxiliary.extend_from_slice(listed);
        let collection = Collection { tee, bind: claims.clone(), endorsements: endorsements.clone() };
        let payload = EvidenceMessage { collection: collection.encode(), claims, proof }.encode();
        let most = self.peer_max.min(super::frame::MAX_EVIDENCE_FRAME);
        if payload.len() > most {
            return Finding::new(Reason::EvidenceSize, "EVIDENCE", format!("at most {most} octets, which the peer takes"), payload.len().to_string()).refuse();
        }
        Ok(Frame::new(Kind::Evidence, payload))
    }
}

/// Who attests on this connection, and by which keys and exporter.
#[derive(Clone, Copy, Debug)]
pub struct Attesting<'a> {
    /// Which side.
    pub role: Role,
    /// That role's exporter.
    pub exporter: &'a [u8; 32],
    /// The attesting side's key.
    pub key_self: &'a KeyDigest,
    /// The other side's, when it presented a certificate.
    pub key_peer: Option<&'a KeyDigest>,
    /// The negotiated protocol.
    pub alpn: &'a [u8],
}

/// The claims that were bound, and their place in the quote's batch.
#[derive(Clone, Debug)]
pub struct OwnClaims<'a> {
    /// Encoded.
    pub claims: Vec<u8>,
    /// The members that they list.
    pub listed: &'a [Auxiliary],
    /// The leaf's proof.
    pub proof: crate::evidence::batch::Proof,
}

/// This side has yet to see the peer's evidence.
#[derive(Debug)]
pub struct AwaitEvidence(Agreed);

impl AwaitEvidence {
    /// The server, in a mutual exchange, after the client's RESULT.
    #[must_use]
    pub(super) const fn after_result(agreed: Agreed) -> Self {
        Self(agreed)
    }

    /// What was agreed.
    #[must_use]
    pub const fn agreed(&self) -> &Agreed {
        &self.0
    }

    /// Takes the peer's EVIDENCE, read and not believed.
    ///
    /// # Errors
    /// `exchange_out_of_order` for another frame, the codes of form, the peer's refusal if it sent RESULT.
    pub fn given(self, frame: &Frame) -> Result<Presented, Denied> {
        let message = EvidenceMessage::decode(expect(frame, Kind::Evidence)?)?;
        let collection = Collection::decode(&message.collection)?;
        if collection.bind != message.claims {
            return Finding::new(Reason::EvidenceMalformed, "EVIDENCE", "the same binding claims in the collection and beside it", "others").refuse();
        }
        Ok(Presented { agreed: self.0, collection, message })
    }
}

/// The peer's evidence, read.
#[derive(Debug)]
pub struct Presented {
    agreed: Agreed,
    collection: Collection,
    message: EvidenceMessage,
}

impl Presented {
    /// The evidence.
    #[must_use]
    pub const fn collection(&self) -> &Collection {
        &self.collection
    }

    /// What was agreed.
    #[must_use]
    pub const fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// What the evidence has to be bound to, from this side's own facts about the connection.
    ///
    /// # Errors
    /// As [`Binding::of_session`].
    pub fn binding(&self, attesting: Attesting<'_>) -> Result<Binding, Denied> {
        Binding::of_session(&self.message.claims, &self.agreed.channel(attesting), &self.agreed.hello, &self.message.proof)
    }

    /// The client goes on to wait for the server's verdict, if that has one to make.
    #[must_use]
    pub fn accepted(self) -> Option<AwaitResult> {
        (self.agreed.role == Role::Client && self.agreed.mutual()).then_some(AwaitResult(self.agreed))
    }
}

/// This side has given its evidence and waits for the verdict.
#[derive(Debug)]
pub struct AwaitResult(Agreed);

/// What comes after an accepting RESULT.
#[derive(Debug)]
pub enum Next {
    /// Nothing: both sides are content.
    Done,
    /// The client's evidence.
    Evidence(AwaitEvidence),
}

impl AwaitResult {
    /// The server, having sent HELLO_S and EVIDENCE.
    #[must_use]
    pub const fn of_server(agreed: Agreed) -> Self {
        Self(agreed)
    }

    /// The bound to receive the next frame under.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.0.limit()
    }

    /// Takes the peer's RESULT.
    ///
    /// # Errors
    /// `exchange_out_of_order` for another frame, the peer's refusal, `evidence_malformed`.
    pub fn judged(self, frame: &Frame) -> Result<Next, Denied> {
        match Code::decode(frame.expect(Kind::Result)?)? {
            Code::Ok if self.0.role == Role::Server && self.0.mutual() => Ok(Next::Evidence(AwaitEvidence::after_result(self.0))),
            Code::Ok => Ok(Next::Done),
            refused => Err(peer_refused(refused)),
        }
    }
}

/// The payload of a frame of this kind; a refusing RESULT in its place is the peer's verdict, not a broken order.
fn expect(frame: &Frame, kind: Kind) -> Result<&[u8], Denied> {
    if frame.kind() == Kind::Result && kind != Kind::Result {
        match Code::decode(frame.payload())? {
            Code::Ok => {}
            refused => return Err(peer_refused(refused)),
        }
    }
    frame.expect(kind)
}

fn peer_refused(code: Code) -> Denied {
    let (reason, fix) = match code {
        Code::Busy => (Reason::AttesterBusy, "try again; if it lasts, see why the other side's TEE is slow to give quotes"),
        _ => (Reason::PeerRefused, "the other side's log has the reason, field, expected and found"),
    };
    Finding::new(reason, "RESULT", Code::Ok.to_string(), code.to_string()).fix(fix).into()
}
