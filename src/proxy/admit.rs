//! The relying party's decision: a finished handshake in, an opened stream or a refusal out.
//!
//! What makes [`Admitted`] is here alone, and nothing is dialled or forwarded without one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsStream;

use super::deadline::in_time;
use super::limits::network;
use super::standing::{Ended, Kept, Standing};
use crate::admin::metrics::{Direction, Metrics};
use crate::attester::batch::{BatchedQuote, QuoteError};
use crate::attester::devices::Attested;
use crate::clock::Clock;
use crate::evidence::binding::Role;
use crate::evidence::{KeyDigest, Timestamp};
use crate::refusal::{Denied, Finding, Reason};
use crate::session::exchange::{Attesting, ClientEvidence, Next, OwnClaims};
use crate::session::{Agreed, AwaitHelloClient, AwaitHelloServer, AwaitResult, Code, Frame, Kind, Offer};
use crate::tls::certificate::Leaf;
use crate::tls::peer::PeerRole;
use crate::tls::{ClientSide, Clients, Identity, Peer, Pending, ReadAhead, ServerSide, Tier, Unattested};
use crate::verify::AttestationResult;

/// The proof that one end of a connection may be forwarded. Made only by this module.
#[derive(Debug)]
pub(super) struct Admitted {
    /// What it was admitted for.
    pub(super) ground: Ground,
    /// What the verdict stands on; `None` for a peer that nothing is known about.
    standing: Option<Standing>,
    /// When it was admitted; zero for a local application.
    pub(super) since: Timestamp,
    /// The certificate whose key its evidence speaks for.
    pub(super) certificate: Option<Arc<[u8]>>,
    /// The key of ours that the connection was made with.
    pub(super) own: Option<KeyDigest>,
    /// The names in it. Self-made certificates carry what their owner likes.
    pub(super) names: Vec<String>,
}

/// On what ground a peer was admitted.
#[derive(Clone, Debug)]
pub(super) enum Ground {
    /// A client of a listener that lets any in.
    AnyClient(Tier),
    /// Its evidence.
    Attested(Tier, Arc<AttestationResult>),
    /// A local application at a plain listener, which configuration allows.
    Local,
}

impl Ground {
    /// The tier and the policy's entry, as logs have them; empty where there is none.
    pub(super) fn told(&self) -> (&'static str, &str) {
        match self {
            Self::AnyClient(tier) => (tier.name(), ""),
            Self::Attested(tier, result) => (tier.name(), result.appraisal().entry()),
            Self::Local => ("", ""),
        }
    }
}

impl Admitted {
    const fn of(ground: Ground, since: Timestamp) -> Self {
        Self { ground, standing: None, since, certificate: None, own: None, names: Vec::new() }
    }

    /// Until when the verdict holds, and the certificate it is about; later judgements may give it more.
    pub(super) fn until(&self) -> Option<Timestamp> {
        match (&self.standing, &self.ground) {
            (Some(standing), Ground::Attested(_, result)) => Some(standing.until().unwrap_or_else(|| standing.end(result))),
            _ => None,
        }
    }

    /// When this end may be forwarded no longer, unless later judgements give it more: before [`Admitted::until`], by what
    /// clocks may differ.
    pub(super) fn ends(&self, now: Timestamp) -> Option<Timestamp> {
        self.standing.as_ref().zip(self.until()).map(|(standing, until)| standing.alarm(until, now))
    }

    /// Returns when this end may be forwarded no longer: never, for a peer that nothing is known about.
    pub(super) async fn ended(&self, clock: &Clock) -> Ended {
        match (&self.standing, &self.ground) {
            // Boxed: hardly ever polled, and every connection would have room for it that needs none.
            (Some(standing), Ground::Attested(_, result)) => Box::pin(standing.ended(result, clock)).await,
            _ => std::future::pending().await,
        }
    }
}

/// What admission needs beside the two sides.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) clock: &'a Clock,
    pub(super) metrics: &'a Metrics,
    /// The whole exchange takes no longer.
    pub(super) limit: Duration,
    /// Where a client comes from: sources share the quotes of an overdue TEE.
    pub(super) source: Option<IpAddr>,
}

/// A refused peer's socket, told as much as it may know; to be closed.
pub(super) struct Refused<S> {
    pub(super) denied: Denied,
    pub(super) socket: S,
}

/// What may be forwarded, and why.
pub(super) type Opened<S> = (Admitted, Box<TlsStream<ReadAhead<S>>>);

enum Verdict {
    AnyClient,
    Attested(Arc<AttestationResult>, Standing),
}

/// Admits what comes in at a plain listener: the operator decided by configuring it.
pub(super) const fn local() -> Admitted {
    Admitted::of(Ground::Local, Timestamp(0))
}

/// Decides about a client that connected to us.
pub(super) async fn client<S: AsyncRead + AsyncWrite + Unpin>(
    side: &ServerSide,
    mut pending: Pending<S>,
    around: Surroundings<'_>,
) -> Result<Opened<S>, Refused<S>> {
    let settings = side.settings();
    let peer = match &settings.clients {
        Clients::Any => None,
        Clients::Attested(peer) => Some(peer),
    };
    let verdict = in_time("exchange", around.limit, async {
        if let Some(peer) = peer {
            ready(peer, &pending, PeerRole::Client, around.clock)?;
        }
        match (settings.tier, peer) {
            (Tier::Certificate | Tier::Web, None) => Ok(Verdict::AnyClient),
            (Tier::Certificate | Tier::Web, Some(peer)) => by_certificate(peer, &pending, around).await,
            (Tier::Session | Tier::SessionMutual, _) => serve_exchange(side, peer, &mut pending, around).await,
        }
    })
    .await;
    conclude(pending, verdict, peer, settings.tier, Direction::Inbound, around).await
}

/// Decides about the server that we connected to.
pub(super) async fn server<S: AsyncRead + AsyncWrite + Unpin>(
    side: &ClientSide,
    mut pending: Pending<S>,
    around: Surroundings<'_>,
) -> Result<Opened<S>, Refused<S>> {
    let settings = side.settings();
    let verdict = in_time("exchange", around.limit, async {
        ready(&settings.peer, &pending, PeerRole::Server, around.clock)?;
        match settings.tier {
            Tier::Certificate | Tier::Web => by_certificate(&settings.peer, &pending, around).await,
            Tier::Session | Tier::SessionMutual => open_exchange(side, &mut pending, around).await,
        }
    })
    .await;
    conclude(pending, verdict, Some(&settings.peer), settings.tier, Direction::Outbound, around).await
}

/// Opens the stream for a verdict, or tells the peer what it may know.
async fn conclude<S: AsyncRead + AsyncWrite + Unpin>(
    pending: Pending<S>,
    verdict: Result<Verdict, Denied>,
    peer: Option<&Peer>,
    tier: Tier,
    direction: Direction,
    around: Surroundings<'_>,
) -> Result<Opened<S>, Refused<S>> {
    let opened = open(pending, verdict, tier, around.clock);
    if let Some(peer) = peer {
        let outcome = opened.as_ref().map(|(admitted, _)| &admitted.ground).map_err(|(_, denied)| denied);
        record(peer, outcome, direction, around.metrics);
    }
    match opened {
        Ok(opened) => {
            around.metrics.confirmed(tier.name(), direction);
            Ok(opened)
        }
        Err((pending, denied)) => Err(refuse(*pending, tier, denied).await),
    }
}

/// Opens the stream for a verdict that holds, or gives the locked stream back.
fn open<S: AsyncRead + AsyncWrite + Unpin>(
    pending: Pending<S>,
    verdict: Result<Verdict, Denied>,
    tier: Tier,
    clock: &Clock,
) -> Result<Opened<S>, (Box<Pending<S>>, Denied)> {
    let (result, standing, now) = match verdict.and_then(|verdict| clock.now().map(|now| (verdict, now))) {
        Ok((Verdict::AnyClient, now)) => {
            let admitted = Admitted { own: pending.own_key().copied(), ..Admitted::of(Ground::AnyClient(tier), now) };
            return Ok((admitted, Box::new(pending.open_unattested(Unattested::AnyClient))));
        }
        Ok((Verdict::Attested(result, standing), now)) => (result, standing, now),
        Err(denied) => return Err((Box::new(pending), denied)),
    };
    if let Err(denied) = current(&pending, &result, now) {
        return Err((Box::new(pending), denied));
    }
    let certificate = standing.certificate().or_else(|| pending.chain().first().map(|leaf| Arc::from(leaf.as_ref())));
    let own = pending.own_key().copied();
    let names = pending.peer().map(|leaf| leaf.facts().names.clone()).unwrap_or_default();
    let stream = pending.open(&result, now)?;
    let admitted = Admitted { standing: Some(standing), certificate, own, names, ..Admitted::of(Ground::Attested(tier, result), now) };
    Ok((admitted, Box::new(stream)))
}

async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(pending: Pending<S>, tier: Tier, denied: Denied) -> Refused<S> {
    // A peer of the certificate tier speaks no frames; one that refused us needs no answer.
    let told = tier.has_exchange() && !matches!(denied.reason(), Reason::PeerRefused);
    let frame = told.then(|| Frame::new(Kind::Result, Code::of(denied.reason()).encode()));
    let socket = pending.refuse(frame.as_ref().map(Frame::octets)).await;
    Refused { denied, socket }
}

/// Refuses a verdict that ran out while it was made, by evidence, collateral, policy or certificate.
fn current<S: AsyncRead + AsyncWrite + Unpin>(pending: &Pending<S>, result: &AttestationResult, now: Timestamp) -> Result<(), Denied> {
    let not_after = pending.peer().map_or(Timestamp(0), |leaf| leaf.facts().not_after);
    let end = result.appraisal().until().min(not_after);
    if now > end {
        return Finding::new(Reason::EvidenceStale, "verdict.until", format!("after {now}"), end.to_string()).refuse();
    }
    Ok(())
}

/// READY: everything about the peer's certificate that can refuse before a quote is spent.
fn ready<S: AsyncRead + AsyncWrite + Unpin>(peer: &Peer, pending: &Pending<S>, role: PeerRole, clock: &Clock) -> Result<(), Denied> {
    let leaf = certificate(pending)?;
    let now = clock.now()?;
    leaf.current(now, peer.judge.age_rule().skew)?;
    if pending.own_key() == Some(leaf.key()) {
        return Finding::new(Reason::BindingMismatch, "peer.key", "another key than ours", "our own key").refuse();
    }
    peer.identity.check(leaf, pending.chain(), role, now)
}

fn certificate<S: AsyncRead + AsyncWrite + Unpin>(pending: &Pending<S>) -> Result<&Leaf, Denied> {
    pending.peer().ok_or_else(|| {
        Finding::new(Reason::EvidenceUnsupported, "peer.certificate", "a certificate, whose key evidence can speak for", "none")
            .fix("this listener lets only attested clients in: give the client's side an identity, or let any client in")
            .into()
    })
}

async fn by_certificate<S: AsyncRead + AsyncWrite + Unpin>(peer: &Peer, pending: &Pending<S>, around: Surroundings<'_>) -> Result<Verdict, Denied> {
    let not_after = certificate(pending)?.facts().not_after;
    let leaf = pending.chain().first().map_or(&[][..], |leaf| leaf.as_ref());
    verdict(Standing::new(&peer.judge, Kept::Certificate(leaf.into()), not_after, around.clock.now()?), around).await
}

/// The verdict about what was presented, once what it needs is at hand or plainly is not to be had in time.
async fn verdict(standing: Standing, around: Surroundings<'_>) -> Result<Verdict, Denied> {
    // Half of the exchange's time, so that the refusal says what is missing and not that time is over.
    standing.gather(around.limit / 2).await;
    let result = standing.first()?;
    Ok(Verdict::Attested(result, standing))
}

/// The server's part of the exchange.
async fn serve_exchange<S: AsyncRead + AsyncWrite + Unpin>(
    side: &ServerSide,
    peer: Option<&Peer>,
    pending: &mut Pending<S>,
    around: Surroundings<'_>,
) -> Result<Verdict, Denied> {
    let settings = side.settings();
    let wanted = if peer.is_some() { ClientEvidence::Required } else { ClientEvidence::None };
    let accepts = peer.map_or_else(|| vec![NO_TYPE.to_owned()], |peer| peer.judge.accepts());
    let offer = Offer { nonce: crate::tls::nonce()?, client: wanted, accepts, max_evidence: side.max_evidence() };
    let hello = pending.receive(Kind::HelloClient, side.max_evidence()).await?;
    let (answer, agreed) = AwaitHelloClient::new(offer).greeted(&hello)?;
    let evidence = own_evidence(&settings.identity, &agreed, pending, around).await?;
    pending.send(&[answer.octets(), evidence.octets()].concat()).await?;
    let waiting = AwaitResult::of_server(agreed);
    let result = pending.receive(Kind::Result, waiting.limit()).await?;
    match (waiting.judged(&result)?, peer) {
        (Next::Done, None) => Ok(Verdict::AnyClient),
        (Next::Evidence(waiting), Some(peer)) => {
            let header = pending.announced(Kind::Evidence, waiting.agreed().limit()).await?;
            let _room = side.room().take(header.length, around.source.map(network)).await;
            let frame = pending.rest(header).await?;
            let presented = waiting.given(&frame)?;
            let verdict = judge(peer, &presented, pending, around).await?;
            pending.quiet().await?;
            pending.send(Frame::new(Kind::Result, Code::Ok.encode()).octets()).await?;
            Ok(verdict)
        }
        _ => Finding::new(Reason::ExchangeOutOfOrder, "exchange", "evidence exactly where it was agreed", "another agreement").refuse(),
    }
}

/// The client's part of the exchange.
async fn open_exchange<S: AsyncRead + AsyncWrite + Unpin>(side: &ClientSide, pending: &mut Pending<S>, around: Surroundings<'_>) -> Result<Verdict, Denied> {
    let settings = side.settings();
    let attests = settings.identity.as_ref().filter(|identity| identity.attester().is_some());
    let client = match (settings.tier, attests) {
        (Tier::SessionMutual, _) => ClientEvidence::Required,
        (_, Some(_)) => ClientEvidence::Offered,
        (_, None) => ClientEvidence::None,
    };
    let accepts = settings.peer.judge.accepts();
    let offer = Offer { nonce: crate::tls::nonce()?, client, accepts, max_evidence: side.max_evidence() };
    let opening = AwaitHelloServer::open(offer, &authority(&settings.server_name));
    pending.send(opening.hello().octets()).await?;
    let waiting = opening.answered(&pending.receive(Kind::HelloServer, side.max_evidence()).await?)?;
    let presented = waiting.given(&pending.receive(Kind::Evidence, side.max_evidence()).await?)?;
    let verdict = judge(&settings.peer, &presented, pending, around).await?;
    pending.quiet().await?;
    let accepted = Frame::new(Kind::Result, Code::Ok.encode());
    if !presented.agreed().mutual() {
        pending.send(accepted.octets()).await?;
        return Ok(verdict);
    }
    let Some(identity) = attests else {
        return Finding::new(Reason::ExchangeOutOfOrder, "HELLO_S.attest", "the server alone", "both sides").refuse();
    };
    let evidence = own_evidence(identity, presented.agreed(), pending, around).await?;
    pending.send(&[accepted.octets(), evidence.octets()].concat()).await?;
    if let Some(waiting) = presented.accepted() {
        let result = pending.receive(Kind::Result, waiting.limit()).await?;
        waiting.judged(&result)?;
    }
    Ok(verdict)
}

/// Judges the evidence the peer gave for this session.
async fn judge<S: AsyncRead + AsyncWrite + Unpin>(
    peer: &Peer,
    presented: &crate::session::Presented,
    pending: &Pending<S>,
    around: Surroundings<'_>,
) -> Result<Verdict, Denied> {
    let agreed = presented.agreed();
    let role = match agreed.role() {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    };
    let leaf = certificate(pending)?;
    let binding = {
        let exporter = pending.exporter(role, agreed.nonce_client(), agreed.nonce_server())?;
        presented.binding(Attesting { role, exporter: &exporter, key_self: leaf.key(), key_peer: pending.own_key(), alpn: pending.alpn() })?
    };
    let kept = Kept::Session(Box::new((presented.collection().clone(), binding)));
    verdict(Standing::new(&peer.judge, kept, leaf.facts().not_after, around.clock.now()?), around).await
}

/// Our evidence for this session.
async fn own_evidence<S: AsyncRead + AsyncWrite + Unpin>(
    identity: &Identity,
    agreed: &Agreed,
    pending: &Pending<S>,
    around: Surroundings<'_>,
) -> Result<Frame, Denied> {
    let (Some(attester), Some(key)) = (identity.attester(), pending.own_key()) else {
        let expected = "a certificate of ours, which the server asks for, and an attester";
        return Finding::new(Reason::ExchangeOutOfOrder, "exchange.own_evidence", expected, "none").refuse();
    };
    let begun = tokio::time::Instant::now();
    let beside = match attester.devices().filter(|devices| agreed.takes(devices.media_type())) {
        Some(devices) => within(begun, around, devices.attest(agreed.device_nonce(identity.instance()), around.source)).await?,
        None => Attested::default(),
    };
    let listed: Vec<_> = within(begun, around, attester.listed()).await?.iter().cloned().chain(beside.members).collect();
    let claims = agreed.claims(key, identity.instance(), &listed);
    let leaf = {
        let exporter = pending.exporter(agreed.role(), agreed.nonce_client(), agreed.nonce_server())?;
        let key_peer: Option<&KeyDigest> = pending.peer().map(Leaf::key);
        let attesting = Attesting { role: agreed.role(), exporter: &exporter, key_self: key, key_peer, alpn: pending.alpn() };
        agreed.channel(attesting).leaf(&claims)
    };
    let BatchedQuote { quote, proof, .. } = within(begun, around, attester.quote(leaf, around.source)).await?;
    let mut endorsements = quote.endorsements.clone();
    endorsements.extend(beside.endorsements);
    agreed.evidence(&quote.evidence, &endorsements, OwnClaims { claims, listed: &listed, proof })
}

/// What comes before half of the exchange's time is over since `begun`.
async fn within<T>(begun: tokio::time::Instant, around: Surroundings<'_>, made: impl Future<Output = Result<T, QuoteError>>) -> Result<T, Denied> {
    tokio::time::timeout_at(begun + around.limit / 2, made).await.unwrap_or(Err(QuoteError::Busy)).map_err(no_quote)
}

/// Whatever kept us from a quote, the peer hears "busy".
fn no_quote(error: QuoteError) -> Denied {
    let expected = "evidence of this side's TEE and what is beside it";
    match error {
        QuoteError::Busy => Finding::new(Reason::AttesterBusy, "own.quote", expected, "none in time: too many are waiting, or the hardware is slow").into(),
        QuoteError::Unavailable(why) => Finding::new(Reason::AttesterBusy, "own.quote", expected, format!("{}: {}", why.what, why.why)).fix(why.fix).into(),
    }
}

fn authority(name: &ServerName<'static>) -> String {
    name.to_str().into_owned()
}

/// Counts and logs what became of a peer: let through is said when it was. Detail goes here and not to the peer.
fn record(peer: &Peer, outcome: Result<&Ground, &Denied>, direction: Direction, metrics: &Metrics) {
    let (policy, digest) = (peer.judge.policy(), data_encoding::HEXLOWER.encode(&peer.judge.policy_digest()));
    match outcome {
        Ok(Ground::Attested(_, result)) => {
            let appraisal = result.appraisal();
            metrics.appraised(direction, &policy, appraisal.platform(), None);
            tracing::info!(
                target: "audit", event = "peer.appraised", result = "allow", direction = direction.name(), tee = appraisal.platform(),
                entry = appraisal.entry(), policy, policy_digest = %digest, until = %appraisal.until(), observed = appraisal.observed().len(),
                revocation_checked = appraisal.revocation_checked(), origin = appraisal.origin().name(),
            );
            for finding in appraisal.observed() {
                tracing::warn!(target: "audit", event = "peer.observed", policy, policy_digest = %digest, %finding);
            }
        }
        Ok(Ground::AnyClient(_) | Ground::Local) => {}
        Err(denied) => {
            metrics.appraised(direction, &policy, "", Some(denied.reason().code()));
            let reasons = denied.findings().map(|finding| finding.reason.code()).collect::<Vec<_>>().join(",");
            tracing::warn!(
                target: "audit", event = "peer.appraised", result = "deny", direction = direction.name(), reasons, policy,
                policy_digest = %digest, detail = denied.to_string(),
            );
        }
    }
}

/// In the HELLO of a server that wants no evidence the list of accepted types may not be empty.
const NO_TYPE: &str = "application/vnd.portcullis.none";
