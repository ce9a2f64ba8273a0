//! The two ends of attested TLS as they are configured: what we present, what we want of the peer.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::pki_types::ServerName;

use super::{ALPN_PREFIX, ALPN_RAW, Challenges, Credential, Identity, Judge, PeerIdentity, Room, config};
use crate::clock::Clock;
use crate::refusal::Denied;
use crate::session::frame::MAX_EVIDENCE_FRAME;

/// The octets of evidence taken from a peer when nothing else is said: a quote with its endorsements has some tens of KiB.
pub const DEFAULT_EVIDENCE: usize = 256 * 1024;

/// The most octets of evidence that can be taken from a peer: the longest EVIDENCE frame.
pub const MAX_EVIDENCE: usize = MAX_EVIDENCE_FRAME;

/// How fresh a peer's evidence must be. The order is that of strength.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Tier {
    /// For the public: nothing in the handshake; whoever asks gets evidence about the key. It does not resist a stolen key.
    Web,
    /// Evidence in the certificate alone: replay and relay within its lifetime are possible.
    Certificate,
    /// Evidence made for this session by the side that must be attested.
    Session,
    /// Evidence made for this session by both sides, and an identity.
    SessionMutual,
}

impl Tier {
    /// The spelling in configuration, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Session => "session",
            Self::SessionMutual => "session-mutual",
            Self::Web => "web",
        }
    }

    /// Whether an exchange follows the handshake.
    #[must_use]
    pub const fn has_exchange(self) -> bool {
        !matches!(self, Self::Certificate | Self::Web)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wanted of a peer that must be attested.
#[derive(Clone)]
pub struct Peer {
    /// What decides about its evidence.
    pub judge: Arc<dyn Judge>,
    /// Who it must be, beside what it runs.
    pub identity: PeerIdentity,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Whom a server lets in.
#[derive(Clone, Debug)]
pub enum Clients {
    /// Anybody; clients are not asked for a certificate.
    Any,
    /// Clients that prove themselves by the listener's tier.
    Attested(Peer),
}

/// The settings of a [`ServerSide`].
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// What we present.
    pub identity: Identity,
    /// How fresh evidence is, ours and that of attested clients.
    pub tier: Tier,
    /// Whom we let in.
    pub clients: Clients,
    /// The protocol ids offered, best first; `None` for [`ALPN_RAW`] with an exchange and none without.
    pub alpn: Option<Vec<Vec<u8>>>,
    /// The most octets of evidence taken from a client, never more than [`MAX_EVIDENCE`]; `None` for [`DEFAULT_EVIDENCE`].
    pub max_evidence: Option<usize>,
}

/// The settings of a [`ClientSide`].
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// What we present when the server asks; `None` when this side is in no TEE and has no certificate.
    pub identity: Option<Identity>,
    /// How fresh the server's evidence must be.
    pub tier: Tier,
    /// The name sent as SNI, and as the authority in HELLO.
    pub server_name: ServerName<'static>,
    /// What is wanted of the server.
    pub peer: Peer,
    /// As in [`ServerSettings::alpn`].
    pub alpn: Option<Vec<Vec<u8>>>,
    /// The most octets of evidence taken from the server; as in [`ServerSettings::max_evidence`].
    pub max_evidence: Option<usize>,
}

impl Peer {
    /// Whether the same is wanted of a peer by both, and the same judge decides.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.judge), Arc::as_ptr(&other.judge)) && self.identity == other.identity
    }
}

impl Clients {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Attested(one), Self::Attested(other)) => one.same(other),
            _ => false,
        }
    }
}

impl ServerSettings {
    /// Whether both sides of a connection have proven the same under either: what is spoken may differ.
    #[must_use]
    pub fn prove_alike(&self, other: &Self) -> bool {
        // Taken apart, so that of a new setting it is decided whether it is proven.
        let Self { identity, tier, clients, alpn: _, max_evidence: _ } = self;
        identity.same(&other.identity) && *tier == other.tier && clients.same(&other.clients)
    }
}

impl ClientSettings {
    /// As [`ServerSettings::prove_alike`].
    #[must_use]
    pub fn prove_alike(&self, other: &Self) -> bool {
        let Self { identity, tier, server_name, peer, alpn: _, max_evidence: _ } = self;
        let identity = match (identity, &other.identity) {
            (None, None) => true,
            (Some(one), Some(other)) => one.same(other),
            _ => false,
        };
        identity && *tier == other.tier && *server_name == other.server_name && peer.same(&other.peer)
    }
}

/// Why a side cannot be set up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SideError {
    /// A tier with an exchange speaks `portcullis1/…` only.
    Alpn(String),
    /// This tier has to attest, and the identity has no attester.
    NoAttester(Tier),
    /// `session-mutual` attests both sides.
    NotMutual,
    /// SPIFFE ids mean nothing unless a PKI vouches for them.
    SpiffeWithoutPki,
    /// rustls refused the settings.
    Tls(String),
    /// The web tier is for servers that let anybody in: its clients show no evidence, and no peer is judged by it.
    Web,
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alpn(id) => write!(f, "protocol id {id:?} is none of portcullis1/*, which a session tier needs"),
            Self::NoAttester(tier) => write!(f, "tier {tier} has to make evidence, and this identity has no attester"),
            Self::NotMutual => f.write_str("tier session-mutual needs an identity with an attester on this side and attested peers on the other"),
            Self::SpiffeWithoutPki => f.write_str("SPIFFE ids need the PKI that vouches for them: name its roots"),
            Self::Tls(why) => write!(f, "TLS settings refused: {why}"),
            Self::Web => f.write_str("tier web is for listeners that let anybody in"),
        }
    }
}

impl std::error::Error for SideError {}

/// The serving end.
pub struct ServerSide {
    pub(super) settings: ServerSettings,
    pub(super) protocols: Vec<Vec<u8>>,
    clock: Clock,
    /// What a CA may ask for at this end.
    pub(super) challenges: Option<Challenges>,
    /// The rustls configuration of the credential in use; rebuilt when the identity publishes another.
    ready: ArcSwapOption<(Arc<Credential>, Arc<rustls::ServerConfig>)>,
    room: Room,
}

impl ServerSide {
    /// Checks that the settings fit one another.
    ///
    /// # Errors
    /// [`SideError`].
    pub fn new(settings: ServerSettings, clock: Clock) -> Result<Self, SideError> {
        let protocols = protocols(settings.tier, settings.alpn.as_deref())?;
        if settings.tier.has_exchange() && settings.identity.attester().is_none() {
            return Err(SideError::NoAttester(settings.tier));
        }
        if settings.tier == Tier::SessionMutual && matches!(settings.clients, Clients::Any) {
            return Err(SideError::NotMutual);
        }
        if let Clients::Attested(peer) = &settings.clients {
            vouched(&peer.identity)?;
            if settings.tier == Tier::Web {
                return Err(SideError::Web);
            }
        }
        config::check().map_err(|error| SideError::Tls(error.to_string()))?;
        Ok(Self { settings, protocols, clock, challenges: None, ready: ArcSwapOption::empty(), room: Room::default() })
    }

    /// The same, answering these challenges of a CA too.
    #[must_use]
    pub fn answering(self, challenges: Challenges) -> Self {
        Self { challenges: Some(challenges), ..self }
    }

    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// The most octets of evidence taken from a client.
    #[must_use]
    pub fn max_evidence(&self) -> usize {
        evidence_bound(self.settings.max_evidence)
    }

    /// Where clients' evidence has room until it is judged.
    #[must_use]
    pub const fn room(&self) -> &Room {
        &self.room
    }

    /// The credential in use and the rustls configuration that presents it.
    ///
    /// # Errors
    /// `evidence_stale` when our own credential has expired, `clock_invalid`, `tls_unacceptable`.
    pub(super) fn ready(&self) -> Result<(Arc<Credential>, Arc<rustls::ServerConfig>), Denied> {
        let credential = self.settings.identity.current(self.clock.now()?)?;
        if let Some(ready) = self.ready.load_full().filter(|ready| Arc::ptr_eq(&ready.0, &credential)) {
            return Ok((credential, Arc::clone(&ready.1)));
        }
        let config = Arc::new(config::server(&self.settings, &self.protocols, &credential, &self.clock)?);
        self.ready.store(Some(Arc::new((Arc::clone(&credential), Arc::clone(&config)))));
        Ok((credential, config))
    }
}

impl fmt::Debug for ServerSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSide").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The connecting end.
pub struct ClientSide {
    pub(super) settings: ClientSettings,
    pub(super) protocols: Vec<Vec<u8>>,
    clock: Clock,
    pub(super) base: rustls::ClientConfig,
}

impl ClientSide {
    /// Checks that the settings fit one another.
    ///
    /// # Errors
    /// [`SideError`].
    pub fn new(settings: ClientSettings, clock: Clock) -> Result<Self, SideError> {
        let protocols = protocols(settings.tier, settings.alpn.as_deref())?;
        if settings.tier == Tier::SessionMutual && settings.identity.as_ref().is_none_or(|identity| identity.attester().is_none()) {
            return Err(SideError::NotMutual);
        }
        vouched(&settings.peer.identity)?;
        if settings.tier == Tier::Web {
            return Err(SideError::Web);
        }
        let base = config::client(&protocols, &clock).map_err(|error| SideError::Tls(error.to_string()))?;
        Ok(Self { settings, protocols, clock, base })
    }

    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// The most octets of evidence taken from the server.
    #[must_use]
    pub fn max_evidence(&self) -> usize {
        evidence_bound(self.settings.max_evidence)
    }

    /// The credential to show should the server ask.
    ///
    /// # Errors
    /// As [`ServerSide::ready`].
    pub(super) fn credential(&self) -> Result<Option<Arc<Credential>>, Denied> {
        let Some(identity) = &self.settings.identity else { return Ok(None) };
        identity.current(self.clock.now()?).map(Some)
    }
}

impl fmt::Debug for ClientSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSide").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The protocol ids that are offered, as rustls takes them.
fn protocols(tier: Tier, configured: Option<&[Vec<u8>]>) -> Result<Vec<Vec<u8>>, SideError> {
    let Some(configured) = configured else {
        return Ok(if tier.has_exchange() { vec![ALPN_RAW.to_vec()] } else { Vec::new() });
    };
    if !tier.has_exchange() {
        return Ok(configured.to_vec());
    }
    match configured.iter().find(|id| !id.starts_with(ALPN_PREFIX)) {
        Some(id) => Err(SideError::Alpn(String::from_utf8_lossy(id).into_owned())),
        None if configured.is_empty() => Err(SideError::Alpn(String::new())),
        None => Ok(configured.to_vec()),
    }
}

/// Anybody can write any URI into a certificate of his own.
const fn vouched(identity: &PeerIdentity) -> Result<(), SideError> {
    if identity.spiffe_ids.is_empty() || identity.pki.is_some() { Ok(()) } else { Err(SideError::SpiffeWithoutPki) }
}

fn evidence_bound(configured: Option<usize>) -> usize {
    configured.unwrap_or(DEFAULT_EVIDENCE).min(MAX_EVIDENCE)
}
