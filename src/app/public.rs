//! Certificates for the public: from files, or of a CA that is asked by ACME.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context as _;

use super::watched::Watched;
use super::{certificate, presented};
use crate::acme::{self, Answers, Authority, Tokens, Wanted};
use crate::admin::metrics::Metrics;
use crate::clock::Clock;
use crate::config::{self, AcmeChallenge, Config};
use crate::proxy::Parts;
use crate::tls::{Challenges, Clients, Identity, IdentitySettings, ServerSettings, ServerSide, Tier};

/// Keeps a certificate current until it is dropped.
#[derive(Debug)]
pub(super) enum Keeping {
    /// A CA is asked.
    Acme { _held: acme::Keeping },
    /// Files are looked at.
    Files { _held: certificate::Renewing },
    /// There is nothing to be done.
    Nothing,
}

/// The listeners' certificates for the public, by the listener's name.
pub(super) struct Publics {
    by_listener: BTreeMap<String, Arc<Public>>,
    challenges: Challenges,
    /// With [`AcmeChallenge::Http01`].
    tokens: Option<Tokens>,
    authority: Option<Authority>,
}

struct Public {
    written: config::Public,
    identity: Identity,
    /// Files as they were before they were read, until they are looked at again and again.
    files: Mutex<Option<Watched>>,
    /// Held, never used: what keeps it current.
    keeping: OnceLock<Keeping>,
}

impl Publics {
    /// Reads what comes from files; nothing is asked of a CA yet, and its listeners refuse handshakes until there is a
    /// certificate.
    pub(super) async fn start(config: &Config, own: Option<&Identity>, parts: &Parts) -> anyhow::Result<Self> {
        let tokens = config.acme.as_ref().filter(|acme| acme.challenge == AcmeChallenge::Http01).map(|_| Tokens::default());
        let authority = config.acme.as_ref().map(authority).transpose()?;
        Self { by_listener: BTreeMap::new(), challenges: Challenges::new(), tokens, authority }.renewed(config, own, parts).await
    }

    /// Those of another configuration; what did not change is what it was. Nothing that is said of them changes yet.
    pub(super) async fn renewed(&self, config: &Config, own: Option<&Identity>, parts: &Parts) -> anyhow::Result<Self> {
        let mut by_listener = BTreeMap::new();
        for listener in &config.listeners {
            let Some(written) = &listener.public else { continue };
            let public = match self.by_listener.get(&listener.name) {
                Some(known) if known.written == *written => Arc::clone(known),
                // What the CA gave for other names is presented until it has given another.
                Some(known) if known.asked() && matches!(written, config::Public::Acme(_)) => Arc::new(Public::of(written, known.identity.clone(), None)),
                _ => Arc::new(Public::read(written, own, parts).await.with_context(|| format!("the certificate of listener {}", listener.name))?),
            };
            by_listener.insert(listener.name.clone(), public);
        }
        Ok(Self { by_listener, challenges: self.challenges.clone(), tokens: self.tokens.clone(), authority: self.authority.clone() })
    }

    /// What the listener presents to the public.
    pub(super) fn identity(&self, listener: &str) -> Option<&Identity> {
        self.by_listener.get(listener).map(|public| &public.identity)
    }

    /// The serving end of a listener for the public; `None` for any other.
    pub(super) fn side(&self, listener: &str, alpn: Option<Vec<Vec<u8>>>, clock: &Clock) -> anyhow::Result<Option<ServerSide>> {
        let Some(public) = self.by_listener.get(listener) else { return Ok(None) };
        let settings = ServerSettings { identity: public.identity.clone(), tier: Tier::Web, clients: Clients::Any, alpn, max_evidence: None };
        let side = ServerSide::new(settings, clock.clone())?;
        let asked = public.asked() && self.tokens.is_none();
        Ok(Some(if asked { side.answering(self.challenges.clone()) } else { side }))
    }

    /// The answers that plain listeners give to a CA.
    pub(super) fn tokens(&self) -> Option<Tokens> {
        self.tokens.clone()
    }

    /// Keeps the certificates current, and says how they stand, no longer than this is held; those that only `before` had are
    /// not spoken of any more. After the listeners are bound: a CA looks at them.
    pub(super) fn keep(&self, before: Option<&Self>, Parts { clock, metrics, health }: &Parts) {
        for (listener, public) in &self.by_listener {
            public.keeping.get_or_init(|| {
                let (watched, at) = (public.identity.clone(), clock.clone());
                health.watch(condition(listener), move || presented(&watched, &at, "none yet: the CA is asked"));
                self.keeping(listener, public, clock, metrics)
            });
        }
        for listener in before.into_iter().flat_map(|before| before.by_listener.keys()).filter(|listener| !self.by_listener.contains_key(*listener)) {
            health.forget(&condition(listener));
            metrics.no_public_certificate(listener);
        }
    }

    fn keeping(&self, listener: &str, public: &Public, clock: &Clock, metrics: &Arc<Metrics>) -> Keeping {
        let (listener, identity, metrics) = (listener.to_owned(), public.identity.clone(), Arc::clone(metrics));
        let files = public.files.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (&public.written, files, &self.authority) {
            (config::Public::Files(_), Some(watched), _) => {
                let note = move |until: crate::evidence::Timestamp| metrics.public_certificate(&listener, until.0);
                Keeping::Files { _held: certificate::renew(watched, identity, note) }
            }
            (config::Public::Acme(names), _, Some(authority)) => {
                let answers = self.tokens.clone().map_or_else(|| Answers::TlsAlpn01(self.challenges.clone()), Answers::Http01);
                let wanted = Wanted { listener, names: names.clone(), identity, answers };
                Keeping::Acme { _held: acme::keep(authority.clone(), wanted, clock.clone(), metrics) }
            }
            // The loader holds this already.
            _ => Keeping::Nothing,
        }
    }
}

impl Public {
    async fn read(written: &config::Public, own: Option<&Identity>, parts: &Parts) -> anyhow::Result<Self> {
        let (files, settings) = match written {
            config::Public::Acme(_) => (None, IdentitySettings::Issued),
            config::Public::Files(files) => {
                let settings = IdentitySettings::PublicFiles { chain: files.chain.clone(), key: files.key.clone() };
                (Some(certificate::watch(files)), settings)
            }
        };
        let identity = Identity::beside(own, settings, parts.clock.clone(), Arc::clone(&parts.metrics))?;
        if files.is_some() {
            identity.renew().await?;
        }
        Ok(Self::of(written, identity, files))
    }

    fn of(written: &config::Public, identity: Identity, files: Option<Watched>) -> Self {
        Self { written: written.clone(), identity, files: Mutex::new(files), keeping: OnceLock::new() }
    }

    /// Whether a CA is asked for it.
    const fn asked(&self) -> bool {
        matches!(self.written, config::Public::Acme(_))
    }
}

fn condition(listener: &str) -> String {
    format!("certificate of {listener}")
}

fn authority(acme: &config::Acme) -> anyhow::Result<Authority> {
    let config::Acme { directory, roots, contact, state_dir, .. } = acme.clone();
    Ok(Authority::new(acme::Settings { directory, roots, contact, state: state_dir })?)
}
