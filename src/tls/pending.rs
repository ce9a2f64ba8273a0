//! A finished handshake whose stream stays locked: only frames of the exchange go over it until a verdict opens it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsConnector, TlsStream};
use zeroize::Zeroizing;

use super::buffer::ReadAhead;
use super::certificate::Leaf;
use super::challenge::Asked;
use super::config::Shows;
use super::{ClientSide, Credential, ServerSide, failure};
use crate::evidence::binding::{EXPORTER_LABEL, Role, exporter_context};
use crate::evidence::{KeyDigest, Timestamp};
use crate::refusal::{Denied, Finding, Reason};
use crate::session::frame::{Frame, Header, Kind};
use crate::verify::AttestationResult;

/// A refused peer is told so for no longer than this.
const FAREWELL: Duration = Duration::from_secs(2);

/// So many KiB of a refused peer are read and thrown away at most.
const MAX_IGNORED: usize = 64;

/// As much plaintext as one write may queue; see [`super::buffer`].
const SEND_BUFFER: usize = 512 * 1024;

/// A finished TLS handshake with a peer nothing is known about but its key.
///
/// The stream inside cannot be reached without a verdict about this very key:
///
/// ```compile_fail
/// fn early(pending: portcullis::tls::Pending<tokio::net::TcpStream>) {
///     let stream = pending.stream;
/// }
/// ```
///
/// and no verdict can be had but from an appraisal:
///
/// ```compile_fail
/// fn early(pending: portcullis::tls::Pending<tokio::net::TcpStream>, now: portcullis::evidence::Timestamp) {
///     let stream = pending.open(&Default::default(), now);
/// }
/// ```
pub struct Pending<S> {
    stream: Box<TlsStream<ReadAhead<S>>>,
    chain: Vec<CertificateDer<'static>>,
    peer: Option<Leaf>,
    own: Option<Arc<Credential>>,
    alpn: Option<Vec<u8>>,
}

/// Why a stream may be opened without an attestation result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unattested {
    /// The listener lets any client in, and our own evidence was offered or accepted before.
    AnyClient,
}

/// Serves the handshake on `io`.
///
/// Establishes that the handshake is a full one of TLS 1.3 and that the peer, if it presented a certificate, holds its
/// key. Nothing is known about evidence. The caller sets the deadline.
///
/// # Errors
/// `tls_unacceptable`, `alpn_mismatch`, `certificate_invalid`, `possession_unproved`; `evidence_stale` when our own
/// credential has expired.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(side: &ServerSide, io: S) -> Result<Pending<S>, Denied> {
    let (own, config) = side.ready()?;
    let accepting = TlsAcceptor::from(config).accept_with(ReadAhead::new(io), |connection| connection.set_buffer_limit(Some(SEND_BUFFER)));
    let stream = accepting.await.map_err(|error| failure::of_handshake(&error))?;
    Pending::checked(TlsStream::Server(stream), Some(own), &side.protocols)
}

/// As [`accept`]; a CA that looks for the answer to a challenge gets it, and then there is nothing to forward: `None`.
///
/// # Errors
/// As [`accept`]; `alpn_mismatch` for a challenge that nobody set.
pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(side: &ServerSide, io: S) -> Result<Option<Pending<S>>, Denied> {
    let Some(challenges) = &side.challenges else { return accept(side, io).await.map(Some) };
    let greeted = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), ReadAhead::new(io)).await.map_err(|error| failure::of_handshake(&error))?;
    let asked = challenges.asked(&greeted.client_hello());
    match asked {
        Asked::Challenge(config) => {
            let mut stream = greeted.into_stream(config).await.map_err(|error| failure::of_handshake(&error))?;
            // It has seen the certificate; how it leaves changes nothing.
            let _ = tokio::time::timeout(FAREWELL, stream.shutdown()).await;
            Ok(None)
        }
        Asked::NoChallenge => Err(failure::of_tls(&rustls::Error::NoApplicationProtocol)),
        Asked::Ordinary => {
            let (own, config) = side.ready()?;
            let accepting = greeted.into_stream_with(config, |connection| connection.set_buffer_limit(Some(SEND_BUFFER)));
            let stream = accepting.await.map_err(|error| failure::of_handshake(&error))?;
            Pending::checked(TlsStream::Server(stream), Some(own), &side.protocols).map(Some)
        }
    }
}

/// Makes the handshake on `io`, as [`accept`] does for the other end.
///
/// # Errors
/// As [`accept`]; also `certificate_invalid` when the server presents none.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(side: &ClientSide, io: S) -> Result<Pending<S>, Denied> {
    let own = side.credential()?;
    let mut config = side.base.clone();
    let shows = own.as_ref().map(|own| Arc::new(Shows { key: Arc::clone(&own.certified), shown: false.into() }));
    if let Some(shows) = &shows {
        config.client_auth_cert_resolver = Arc::<Shows>::clone(shows);
    }
    let name = side.settings.server_name.clone();
    let connecting = TlsConnector::from(Arc::new(config)).connect_with(name, ReadAhead::new(io), |connection| connection.set_buffer_limit(Some(SEND_BUFFER)));
    let stream = connecting.await.map_err(|error| failure::of_connecting(&error, &side.protocols))?;
    let shown = shows.is_some_and(|shows| shows.shown.load(std::sync::atomic::Ordering::SeqCst));
    let pending = Pending::checked(TlsStream::Client(stream), own.filter(|_| shown), &side.protocols)?;
    if pending.peer.is_none() {
        return Finding::new(Reason::CertificateInvalid, "handshake.certificate", "a certificate of the server", "none").refuse();
    }
    Ok(pending)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pending<S> {
    fn checked(stream: TlsStream<ReadAhead<S>>, own: Option<Arc<Credential>>, protocols: &[Vec<u8>]) -> Result<Self, Denied> {
        let (_, state) = stream.get_ref();
        assert_kind(state)?;
        if let TlsStream::Client(client) = &stream
            && client.get_ref().1.is_early_data_accepted()
        {
            return Finding::new(Reason::TlsUnacceptable, "handshake.early_data", "none", "accepted").refuse();
        }
        let alpn = state.alpn_protocol().map(<[u8]>::to_vec);
        let ours = |id: &Vec<u8>| protocols.contains(id);
        // With protocols of ours exactly one of them must be negotiated. The certificate tier has none of ours: a client
        // that names none speaks what the listener takes for the oldest.
        let foreign = !protocols.iter().any(|id| id.starts_with(b"portcullis1/"));
        if !alpn.as_ref().map_or(foreign, |id| protocols.is_empty() || ours(id)) {
            let found = alpn.map_or_else(|| "none".to_owned(), |id| String::from_utf8_lossy(&id).into_owned());
            let expected = protocols.iter().map(|id| String::from_utf8_lossy(id)).collect::<Vec<_>>().join(" or ");
            return Finding::new(Reason::AlpnMismatch, "handshake.alpn", expected, found)
                .fix("the other side is no Portcullis of a session tier: point this side at its attested listener")
                .refuse();
        }
        let chain = state.peer_certificates().unwrap_or_default().to_vec();
        let peer = chain.first().map(|leaf| Leaf::read(leaf)).transpose()?;
        Ok(Self { stream: Box::new(stream), chain, peer, own, alpn })
    }

    /// The peer's leaf, whose key it holds.
    #[must_use]
    pub const fn peer(&self) -> Option<&Leaf> {
        self.peer.as_ref()
    }

    /// The peer's certificates, the leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// What we presented in this handshake.
    #[must_use]
    pub fn own_key(&self) -> Option<&KeyDigest> {
        self.own.as_deref().map(Credential::key)
    }

    /// The negotiated protocol id; empty when there is none.
    #[must_use]
    pub fn alpn(&self) -> &[u8] {
        self.alpn.as_deref().unwrap_or_default()
    }

    /// 32 octets of the exporter for the attesting side `role`. Never logged, zeroed when dropped.
    ///
    /// # Errors
    /// `tls_unacceptable` when rustls gives none.
    pub fn exporter(&self, role: Role, nonce_client: &[u8; 32], nonce_server: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, Denied> {
        let context = exporter_context(role, nonce_client, nonce_server);
        let secret = Zeroizing::new([0; 32]);
        let made = match &*self.stream {
            TlsStream::Client(client) => client.get_ref().1.export_keying_material(secret, EXPORTER_LABEL, Some(&context)),
            TlsStream::Server(server) => server.get_ref().1.export_keying_material(secret, EXPORTER_LABEL, Some(&context)),
        };
        made.map_err(|error| failure::of_tls(&error))
    }

    /// Sends encoded frames.
    ///
    /// # Errors
    /// `exchange_out_of_order` when the peer has gone.
    pub async fn send(&mut self, frames: &[u8]) -> Result<(), Denied> {
        let sent = async {
            self.stream.write_all(frames).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| gone("a peer that reads", &error))
    }

    /// Receives one frame of the kind `expected`, or a RESULT in its place, with a payload of at most `limit` octets;
    /// reads not one octet behind it.
    ///
    /// # Errors
    /// `evidence_size` for a longer frame and `exchange_out_of_order` for another kind, before anything is allocated;
    /// `exchange_out_of_order` for a peer that has gone.
    pub async fn receive(&mut self, expected: Kind, limit: usize) -> Result<Frame, Denied> {
        let header = self.announced(expected, limit).await?;
        self.rest(header).await
    }

    /// The first part of [`Pending::receive`]: what is announced.
    ///
    /// # Errors
    /// As [`Pending::receive`].
    pub async fn announced(&mut self, expected: Kind, limit: usize) -> Result<Header, Denied> {
        let mut header = [0; Header::LENGTH];
        self.read(&mut header).await?;
        Header::read(header, expected, limit)
    }

    /// The second part of [`Pending::receive`]: the payload that was announced.
    ///
    /// # Errors
    /// `exchange_out_of_order` for a peer that has gone.
    pub async fn rest(&mut self, header: Header) -> Result<Frame, Denied> {
        let mut payload = vec![0; header.length];
        self.read(&mut payload).await?;
        Ok(Frame::new(header.kind, payload))
    }

    async fn read(&mut self, into: &mut [u8]) -> Result<(), Denied> {
        self.stream.read_exact(into).await.map(drop).map_err(|error| gone("a frame", &error))
    }

    /// Whether the peer has sent nothing beyond what was received, as far as it has come.
    ///
    /// # Errors
    /// `exchange_out_of_order` when there are bytes that the exchange did not ask for, or the peer has gone.
    pub async fn quiet(&mut self) -> Result<(), Denied> {
        let mut octet = [0];
        let mut more = ReadBuf::new(&mut octet);
        // What is read ahead of rustls and what the system has is looked at too; it is not waited for.
        match poll_fn(|cx| Poll::Ready(Pin::new(&mut *self.stream).poll_read(cx, &mut more))).await {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(error)) => Err(gone("a peer that waits for the verdict", &error)),
            // It has closed its direction, and says nothing more.
            Poll::Ready(Ok(())) if more.filled().is_empty() => Ok(()),
            Poll::Ready(Ok(())) => Finding::new(Reason::ExchangeOutOfOrder, "exchange", "nothing before the verdict", "bytes that it did not ask for").refuse(),
        }
    }

    /// Gives up the stream for a verdict about this very peer's key that holds at `now`.
    ///
    /// # Errors
    /// The handshake, still locked, with `binding_mismatch` for a verdict about another key or `evidence_stale` for one
    /// that no longer holds.
    pub fn open(self, result: &AttestationResult, now: Timestamp) -> Result<TlsStream<ReadAhead<S>>, (Box<Self>, Denied)> {
        match self.opens(result, now) {
            Ok(()) => Ok(opened(*self.stream)),
            Err(denied) => Err((Box::new(self), denied)),
        }
    }

    fn opens(&self, result: &AttestationResult, now: Timestamp) -> Result<(), Denied> {
        let key = self.peer.as_ref().map(Leaf::key);
        if !key.is_some_and(|key| crate::crypto::same(&key.0, &result.key().0)) {
            return Finding::new(Reason::BindingMismatch, "verdict.key", "a verdict about this peer's key", "one about another").refuse();
        }
        let until = result.appraisal().until();
        if now > until {
            return Finding::new(Reason::EvidenceStale, "verdict.until", format!("{now} or later"), until.to_string()).refuse();
        }
        Ok(())
    }

    /// Gives up the stream without a verdict: the one by-pass, for peers that configuration allows without evidence.
    #[must_use]
    pub fn open_unattested(self, why: Unattested) -> TlsStream<ReadAhead<S>> {
        match why {
            Unattested::AnyClient => opened(*self.stream),
        }
    }

    /// Tells the peer `frame` as far as it listens, ends the TLS connection and waits a little for the peer to do the
    /// same, so that a reset does not overtake the frame. Gives back what is below TLS.
    pub async fn refuse(mut self, frame: Option<&[u8]>) -> S {
        let farewell = async {
            if let Some(frame) = frame {
                self.stream.write_all(frame).await?;
            }
            self.stream.shutdown().await?;
            let mut ignored = [0; 1024];
            for _ in 0..MAX_IGNORED {
                if self.stream.read(&mut ignored).await? == 0 {
                    break;
                }
            }
            io::Result::Ok(())
        };
        // The peer may be gone or hostile; there is nothing to do about either.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        match *self.stream {
            TlsStream::Client(stream) => stream.into_inner().0.into_inner(),
            TlsStream::Server(stream) => stream.into_inner().0.into_inner(),
        }
    }
}

fn opened<S>(mut stream: TlsStream<ReadAhead<S>>) -> TlsStream<ReadAhead<S>> {
    match &mut stream {
        TlsStream::Client(client) => client.get_mut().0.widen(),
        TlsStream::Server(server) => server.get_mut().0.widen(),
    }
    stream
}

impl<S> std::fmt::Debug for Pending<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("alpn", &self.alpn).finish_non_exhaustive()
    }
}

/// Resumption shows no evidence, and older versions have no such exporter. Both are off; this is the second lock.
fn assert_kind(state: &CommonState) -> Result<(), Denied> {
    if state.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        let found = format!("{:?}", state.protocol_version());
        return Finding::new(Reason::TlsUnacceptable, "handshake.version", "TLS 1.3", found).refuse();
    }
    match state.handshake_kind() {
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) => Ok(()),
        other => Finding::new(Reason::TlsUnacceptable, "handshake.kind", "a full handshake", format!("{other:?}")).refuse(),
    }
}

fn gone(expected: &'static str, error: &io::Error) -> Denied {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => failure::of_tls(error),
        None => Finding::new(Reason::ExchangeOutOfOrder, "exchange", expected, format!("the connection ended: {error}")).into(),
    }
}
