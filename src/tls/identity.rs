//! Our key, evidence and certificate, and their rotation. Keys are made in this process and never leave it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroize as _;

use super::certificate::{self, Leaf, NotIssued, Statement};
use super::{Credential, Judge, config};
use crate::admin::metrics::Metrics;
use crate::attester::batch::{Batcher, QuoteError};
use crate::clock::Clock;
use crate::evidence::binding::{AgeRule, Binding, BindingClaims, Kind, certificate_challenge, digests};
use crate::evidence::cmw::Collection;
use crate::evidence::{KeyDigest, Timestamp};
use crate::file::Exposure;
use crate::refusal::Denied;

/// The longest life of a certificate of ours (docs/protocol.md, "Binding claims").
pub const MAX_LIFETIME: Duration = Duration::from_secs(crate::evidence::binding::MAX_LIFETIME);

/// How often the wall clock is looked at.
const LOOK: Duration = Duration::from_secs(30);

/// A certificate is valid from this long before its evidence was made, for peers whose clock is behind.
const BACKDATED: u64 = 300;

/// A listed member longer than this rides in session evidence alone: a certificate has 16 KiB for everything. The TD quote
/// beside a paravisor's report has 5 KiB, and the evidence is none without it.
const MAX_LISTED_MEMBER: usize = 8 * 1024;

/// Tries to renew are this far apart at first, and never further than [`SLOWEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(2);
const SLOWEST_RETRY: Duration = Duration::from_secs(60);

/// PEM files longer than this are not read.
const MAX_PEM: u64 = 256 * 1024;

/// Where our key and certificate come from.
#[derive(Clone, Debug)]
pub enum IdentitySettings {
    /// A CA's certificate and its key, from files. The certificate carries no evidence of ours; session evidence binds
    /// its key.
    Files {
        /// The leaf and what stands between it and its root, PEM.
        chain: PathBuf,
        /// The key, PEM.
        key: PathBuf,
    },
    /// A CA's certificate for a key that was made in this process, given by whoever asks the CA: [`Identity::publish`].
    Issued,
    /// Made here: a P-256 key, evidence for it and a self-signed certificate around both, renewed at half their life.
    Minted {
        /// The subject alternative names: DNS names in lower case or `spiffe://` and `https://` URIs; at least one.
        names: Vec<String>,
        /// How long a certificate lives, at most [`MAX_LIFETIME`].
        lifetime: Duration,
        /// Where the evidence comes from, for the metrics: [`crate::attester::Attester::provider`].
        provider: String,
    },
    /// As [`IdentitySettings::Files`], for clients of the public: the key may be RSA.
    PublicFiles {
        /// The leaf and what stands between it and its root, PEM.
        chain: PathBuf,
        /// The key, PEM.
        key: PathBuf,
    },
}

/// Why there is no identity.
#[derive(Clone, Debug)]
pub enum IdentityError {
    /// The certificate was not what a peer would accept.
    Check(Denied),
    /// The clock cannot be right.
    Clock(Denied),
    /// A file could not be used.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate could not be made.
    Issue(NotIssued),
    /// The key could not be made or used.
    Key(String),
    /// The lifetime is zero or longer than [`MAX_LIFETIME`].
    Lifetime(Duration),
    /// There are no names.
    NoNames,
    /// A minted identity needs an attester.
    NoAttester,
    /// The attester gave no evidence.
    Quote(QuoteError),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(denied) => write!(f, "our own certificate would be refused: {denied}"),
            Self::Clock(denied) => write!(f, "{denied}"),
            Self::File { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Issue(why) => write!(f, "{why}"),
            Self::Key(why) => write!(f, "no usable key: {why}"),
            Self::Lifetime(lifetime) => write!(f, "a lifetime of {} s is not between 1 s and {} s", lifetime.as_secs(), MAX_LIFETIME.as_secs()),
            Self::NoNames => f.write_str("a minted identity needs at least one name"),
            Self::NoAttester => f.write_str("a minted identity needs an attester"),
            Self::Quote(QuoteError::Busy) => f.write_str("the attester has too many quotes waiting"),
            Self::Quote(QuoteError::Unavailable(why)) => write!(f, "no evidence: {why}"),
        }
    }
}

impl std::error::Error for IdentityError {}

/// How an identity is doing, for health and metrics.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdentityState {
    /// When the credential in use was made.
    pub made: Option<Timestamp>,
    /// Until when it is presented.
    pub not_after: Option<Timestamp>,
    /// Why the last renewal failed, if it did.
    pub failed: Option<String>,
    /// How many credentials were published.
    pub published: u64,
}

/// What this side presents: a credential that is always the newest that passed the check a peer would make.
///
/// Clones share it. Renewal ends with the last clone.
#[derive(Clone)]
pub struct Identity(Arc<Shared>);

struct Shared {
    settings: IdentitySettings,
    attester: Option<Batcher>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// What a peer would say of our certificate, where this side's policy accepts its own kind.
    check: Option<Arc<dyn Judge>>,
    instance: [u8; 16],
    current: ArcSwapOption<Credential>,
    state: Mutex<IdentityState>,
}

impl Identity {
    /// Whether both are clones of one.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Makes or reads the first credential and, for a minted identity, keeps renewing it at half its life.
    ///
    /// `check`, where there is one, judges every credential as a peer would before it is published.
    ///
    /// # Errors
    /// [`IdentityError`]; nothing is published then.
    pub async fn start(
        settings: IdentitySettings,
        attester: Option<Batcher>,
        check: Option<Arc<dyn Judge>>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, IdentityError> {
        let identity = Self::empty(settings, attester, check, random()?, clock, metrics);
        identity.renew().await?;
        if matches!(identity.0.settings, IdentitySettings::Minted { .. }) {
            tokio::spawn(keep_renewing(Arc::downgrade(&identity.0)));
        }
        Ok(identity)
    }

    /// A certificate for the public, beside the identity whose evidence speaks for its key too; without one, nobody's
    /// does. There is nothing to present before [`Identity::renew`], or for [`IdentitySettings::Issued`] before
    /// [`Identity::publish`].
    ///
    /// # Errors
    /// [`IdentityError::Key`] without randomness.
    pub fn beside(other: Option<&Self>, settings: IdentitySettings, clock: Clock, metrics: Arc<Metrics>) -> Result<Self, IdentityError> {
        let attester = other.and_then(|other| other.attester().cloned());
        let instance = other.map_or_else(random, |other| Ok(other.0.instance))?;
        Ok(Self::empty(settings, attester, None, instance, clock, metrics))
    }

    fn empty(
        settings: IdentitySettings,
        attester: Option<Batcher>,
        check: Option<Arc<dyn Judge>>,
        instance: [u8; 16],
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = Mutex::new(IdentityState { made: None, not_after: None, failed: None, published: 0 });
        Self(Arc::new(Shared { settings, attester, clock, metrics, check, instance, current: ArcSwapOption::empty(), state }))
    }

    /// Presents `chain` from now on. Open connections keep what they were made with.
    ///
    /// # Errors
    /// [`IdentityError`] when the chain is not of `key`, or its leaf is not valid now; the old credential stays.
    pub fn publish(&self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), IdentityError> {
        let made = self.0.clock.now().map_err(IdentityError::Clock).and_then(|now| presentable(chain, key, Leaf::read_public, now));
        self.0.take(made)
    }

    /// Notes why there is no newer credential.
    pub fn failed(&self, why: String) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).failed = Some(why);
    }

    /// The credential to present at `now`.
    ///
    /// # Errors
    /// `evidence_stale` when renewal failed for so long that there is none.
    pub fn current(&self, now: Timestamp) -> Result<Arc<Credential>, Denied> {
        self.0.current(now)
    }

    /// What makes our session evidence.
    #[must_use]
    pub fn attester(&self) -> Option<&Batcher> {
        self.0.attester.as_ref()
    }

    /// Random, constant from start to end of this process: lets peers see a restart.
    #[must_use]
    pub fn instance(&self) -> &[u8] {
        &self.0.instance
    }

    /// How it is doing.
    #[must_use]
    pub fn state(&self) -> IdentityState {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the credential now. Open connections keep the old one.
    ///
    /// # Errors
    /// [`IdentityError`]; the old credential stays until it expires.
    pub async fn renew(&self) -> Result<(), IdentityError> {
        self.0.renew().await
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("settings", &self.0.settings).field("state", &self.state()).finish_non_exhaustive()
    }
}

/// Renews at half life while anybody holds the identity.
async fn keep_renewing(identity: std::sync::Weak<Shared>) {
    let mut retry = FIRST_RETRY;
    let mut wait = match identity.upgrade() {
        Some(identity) => identity.half_life(),
        None => return,
    };
    loop {
        // In steps: the timer does not see when the wall clock is set or the machine slept.
        while !wait.is_zero() {
            let step = wait.min(LOOK);
            tokio::time::sleep(step).await;
            wait = wait.saturating_sub(step);
            let Some(identity) = identity.upgrade() else { return };
            // A renewal that failed has its own pace.
            if retry == FIRST_RETRY && identity.is_due() {
                break;
            }
        }
        let Some(identity) = identity.upgrade() else { return };
        wait = match identity.renew().await {
            Ok(()) => {
                retry = FIRST_RETRY;
                identity.half_life()
            }
            Err(error) => {
                tracing::error!(%error, "identity not renewed; the old credential stays until it expires");
                retry = (retry * 2).min(SLOWEST_RETRY);
                retry
            }
        };
    }
}

impl Shared {
    /// Whether the credential has passed half of its life by the wall clock, or was made in the future.
    fn is_due(&self) -> bool {
        let (Ok(now), Some(credential)) = (self.clock.now(), self.current.load_full()) else { return false };
        let half = credential.not_after.0.saturating_sub(credential.made.0) / 2;
        now < credential.made || now >= credential.made.plus(half)
    }

    fn current(&self, now: Timestamp) -> Result<Arc<Credential>, Denied> {
        use crate::refusal::{Finding, Reason};
        let current = self.current.load_full();
        let until = current.as_ref().map(|credential| credential.not_after);
        if let Some(credential) = current.filter(|credential| now <= credential.not_after) {
            return Ok(credential);
        }
        let found = until.map_or_else(|| "none".to_owned(), |until| format!("one that ended {until}"));
        Finding::new(Reason::EvidenceStale, "identity.certificate", format!("a certificate of ours that holds at {now}"), found)
            .fix("see in this side's log why its certificate could not be renewed")
            .refuse()
    }

    fn half_life(&self) -> Duration {
        match &self.settings {
            IdentitySettings::Minted { lifetime, .. } => *lifetime / 2,
            IdentitySettings::Files { .. } | IdentitySettings::Issued | IdentitySettings::PublicFiles { .. } => MAX_LIFETIME,
        }
    }

    async fn renew(&self) -> Result<(), IdentityError> {
        let made = match &self.settings {
            IdentitySettings::Files { chain, key } => self.read(chain.clone(), key.clone(), Leaf::read).await,
            IdentitySettings::Issued => Err(IdentityError::Key("an issued certificate is published, not renewed".to_owned())),
            IdentitySettings::PublicFiles { chain, key } => self.read(chain.clone(), key.clone(), Leaf::read_public).await,
            IdentitySettings::Minted { names, lifetime, provider } => {
                let made = self.mint(names, *lifetime).await;
                self.metrics.minted(provider, made.as_ref().ok().map(|credential| credential.not_after.0));
                made
            }
        };
        self.take(made)
    }

    /// Publishes what was made; or keeps what there is, and why there is no other.
    fn take(&self, made: Result<Credential, IdentityError>) -> Result<(), IdentityError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(credential) => {
                state.made = Some(credential.made);
                state.not_after = Some(credential.not_after);
                state.failed = None;
                state.published = state.published.saturating_add(1);
                self.current.store(Some(Arc::new(credential)));
                Ok(())
            }
            Err(error) => {
                state.failed = Some(error.to_string());
                Err(error)
            }
        }
    }

    async fn mint(&self, names: &[String], lifetime: Duration) -> Result<Credential, IdentityError> {
        let attester = self.attester.as_ref().ok_or(IdentityError::NoAttester)?;
        if lifetime < Duration::from_secs(1) || lifetime > MAX_LIFETIME {
            return Err(IdentityError::Lifetime(lifetime));
        }
        let names = sorted(names)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| IdentityError::Key(error.to_string()))?;
        let issued = self.clock.now().map_err(IdentityError::Clock)?;
        let expires = issued.plus(lifetime.as_secs());
        let listed = attester.listed().await.map_err(IdentityError::Quote)?;
        let listed: Vec<_> = listed.iter().filter(|member| member.bytes.len() <= MAX_LISTED_MEMBER).cloned().collect();
        let claims = BindingClaims {
            kind: Kind::Certificate { issued, expires, names: names.clone() },
            spki: KeyDigest::of_spki(&key.subject_public_key_info()),
            instance: self.instance.to_vec(),
            aux: digests(&listed),
            epoch: None,
            hpke: None,
        };
        let bind = claims.encode();
        let quote = attester.single(certificate_challenge(&bind)).await.map_err(IdentityError::Quote)?;
        let mut tee = quote.evidence;
        tee.auxiliary.extend_from_slice(&listed);
        let (evidence, left_out) = fitted(Collection { tee, bind, endorsements: quote.endorsements });
        let statement = Statement { names: &names, not_before: issued.minus(BACKDATED), not_after: expires, evidence: &evidence };
        let leaf = certificate::issue(&key, &statement).map_err(IdentityError::Issue)?;
        self.pass(&leaf, lifetime, left_out).await?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        credential(vec![leaf], der, Leaf::read, issued)
    }

    /// The check a peer would make, before anything is published.
    async fn pass(&self, leaf: &[u8], lifetime: Duration, left_out: Vec<String>) -> Result<(), IdentityError> {
        let now = self.clock.now().map_err(IdentityError::Clock)?;
        let (read, evidence) = certificate::read(leaf).map_err(IdentityError::Check)?;
        let rule = AgeRule { max_age: lifetime.as_secs(), max_lifetime: lifetime.as_secs(), skew: 120 };
        Binding::of_certificate(&evidence.bind, read.facts(), rule, now).map_err(IdentityError::Check)?;
        let Some(judge) = &self.check else { return Ok(()) };
        if let Some(gathering) = judge.gather(super::Subject::Certificate(leaf), now) {
            gathering.await;
        }
        let verdict = match judge.certificate(leaf, now) {
            // Not to be decided without what had no room: session evidence carries it.
            Err(denied) if denied.reason().undecided() && !left_out.is_empty() => {
                tracing::warn!(
                    target: "identity", left_out = left_out.join(", "),
                    "the certificate has no room for these endorsements: peers that judge by it alone need collateral of their own",
                );
                return Ok(());
            }
            verdict => verdict.map_err(IdentityError::Check)?,
        };
        if !verdict.appraisal().revocation_checked() {
            tracing::warn!(
                target: "identity",
                "no current revocation list is stapled: peers refuse this side with collateral_unavailable unless their policy does without; \
                 put crl.der into the folder that identity.endorsements names",
            );
        }
        Ok(())
    }

    async fn read(&self, chain: PathBuf, key: PathBuf, reading: Reading) -> Result<Credential, IdentityError> {
        let now = self.clock.now().map_err(IdentityError::Clock)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bounded(&chain).await?).collect();
        let certificates = match certificates {
            Ok(none) if none.is_empty() => return Err(IdentityError::File { path: chain, why: "no PEM certificate is in it".to_owned() }),
            Ok(certificates) => certificates,
            Err(error) => return Err(IdentityError::File { path: chain, why: error.to_string() }),
        };
        let pem = zeroize::Zeroizing::new(secret(&key).await?);
        let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| IdentityError::File {
            path: key,
            why: match error {
                pem::Error::NoItemsFound => "no PEM private key is in it".to_owned(),
                error => error.to_string(),
            },
        })?;
        presentable(certificates, der, reading, now)
    }
}

/// The collection with as many endorsements as a certificate has room for, the largest left out first; with their names.
fn fitted(mut evidence: Collection) -> (Collection, Vec<String>) {
    let mut left_out = Vec::new();
    while evidence.encode().len() > certificate::MAX_EVIDENCE {
        let Some(largest) = evidence.endorsements.iter().max_by_key(|endorsement| endorsement.bytes.len()).map(|endorsement| endorsement.name.clone()) else {
            break;
        };
        evidence.endorsements = evidence.endorsements.into_iter().filter(|endorsement| endorsement.name != largest).collect();
        left_out.push(largest);
    }
    (evidence, left_out)
}

/// Which leaves are taken.
type Reading = fn(&[u8]) -> Result<Leaf, Denied>;

/// A credential that is valid at `now`.
fn presentable(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, reading: Reading, now: Timestamp) -> Result<Credential, IdentityError> {
    let credential = credential(chain, key, reading, now)?;
    let leaf = credential.leaf().map(|leaf| reading(leaf)).transpose().map_err(IdentityError::Check)?;
    leaf.map_or(Ok(()), |leaf| leaf.current(now, 0)).map_err(IdentityError::Check)?;
    Ok(credential)
}

fn credential(chain: Vec<CertificateDer<'static>>, mut key: PrivateKeyDer<'static>, reading: Reading, made: Timestamp) -> Result<Credential, IdentityError> {
    let leaf = chain.first().ok_or_else(|| IdentityError::Key("no certificate".to_owned()))?;
    let leaf = reading(leaf).map_err(IdentityError::Check)?;
    let unusable = |error: rustls::Error| IdentityError::Key(error.to_string());
    let signing = any_supported_type(&key);
    key.zeroize();
    let certified = CertifiedKey::new(chain, signing.map_err(unusable)?);
    certified.keys_match().map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => IdentityError::Key("it is not the key of this certificate".to_owned()),
        error => unusable(error),
    })?;
    Ok(Credential { certified: Arc::new(certified), key: *leaf.key(), not_after: leaf.facts().not_after, made })
}

fn sorted(names: &[String]) -> Result<Vec<String>, IdentityError> {
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    if names.is_empty() { Err(IdentityError::NoNames) } else { Ok(names) }
}

/// The file of a key: one that others may write is theirs. At the start the configuration has told where they may read it.
async fn secret(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |why: String| IdentityError::File { path: path.to_owned(), why };
    let file = crate::file::open(path).map_err(|error| failed(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| failed(error.to_string()))?;
    match crate::file::exposure(&metadata) {
        Some(Exposure::Written(how)) => Err(failed(format!("{how}: chmod 0600 it"))),
        Some(Exposure::Read(_)) | None => whole(path, file).await,
    }
}

async fn bounded(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = crate::file::open(path).map_err(|error| IdentityError::File { path: path.to_owned(), why: error.to_string() })?;
    whole(path, file).await
}

async fn whole(path: &Path, file: std::fs::File) -> Result<Vec<u8>, IdentityError> {
    use tokio::io::AsyncReadExt as _;
    let failed = |why: String| IdentityError::File { path: path.to_owned(), why };
    let mut bytes = Vec::new();
    let read = tokio::fs::File::from_std(file).take(MAX_PEM + 1).read_to_end(&mut bytes).await.map_err(|error| failed(error.to_string()))?;
    if u64::try_from(read).is_ok_and(|read| read <= MAX_PEM) { Ok(bytes) } else { Err(failed(format!("longer than {MAX_PEM} octets"))) }
}

fn random() -> Result<[u8; 16], IdentityError> {
    let mut bytes = [0; 16];
    config::provider().secure_random.fill(&mut bytes).map_err(|_| IdentityError::Key("no randomness".to_owned()))?;
    Ok(bytes)
}
