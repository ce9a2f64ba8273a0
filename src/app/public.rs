//! Certificates for the public: from files, or of a CA that is asked by ACME.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;

use super::watched::Watched;
use super::{certificate, presented};
use crate::acme::{self, Answers, Authority, Tokens, Wanted};
use crate::admin::health::Health;
use crate::admin::metrics::Metrics;
use crate::clock::Clock;
use crate::config::{self, AcmeChallenge, Config};
use crate::tls::{Challenges, Clients, Identity, IdentitySettings, ServerSettings, ServerSide, Tier};

/// Keeps a certificate current until it is dropped.
#[derive(Debug)]
pub(super) enum Keeping {
    /// A CA is asked.
    Acme { _held: acme::Keeping },
    /// Files are looked at.
    Files { _held: certificate::Renewing },
}

/// The listeners' certificates for the public, by the listener's name.
pub(super) struct Publics {
    by_listener: BTreeMap<String, Public>,
    challenges: Challenges,
    /// With [`AcmeChallenge::Http01`].
    tokens: Option<Tokens>,
    authority: Option<Authority>,
}

struct Public {
    identity: Identity,
    from: From,
}

/// Where it comes from.
enum From {
    /// A CA, for these names.
    Acme(Vec<String>),
    /// Files that are watched.
    Files(Watched),
}

impl Publics {
    /// Reads what comes from files; nothing is asked of a CA yet, and its listeners refuse handshakes until there is a
    /// certificate.
    pub(super) async fn start(config: &Config, own: Option<&Identity>, clock: &Clock, metrics: &Arc<Metrics>, health: &Health) -> anyhow::Result<Self> {
        let mut by_listener = BTreeMap::new();
        for listener in &config.listeners {
            let Some(public) = &listener.public else { continue };
            let (from, settings) = match public {
                config::Public::Acme(names) => (From::Acme(names.clone()), IdentitySettings::Issued),
                config::Public::Files(files) => {
                    let settings = IdentitySettings::PublicFiles { chain: files.chain.clone(), key: files.key.clone() };
                    (From::Files(certificate::watch(files)), settings)
                }
            };
            let identity = Identity::beside(own, settings, clock.clone(), Arc::clone(metrics))?;
            if matches!(from, From::Files(_)) {
                identity.renew().await.with_context(|| format!("the certificate of listener {}", listener.name))?;
            }
            let (watched, clock) = (identity.clone(), clock.clone());
            health.watch(format!("certificate of {}", listener.name), move || presented(&watched, &clock, "none yet: the CA is asked"));
            by_listener.insert(listener.name.clone(), Public { identity, from });
        }
        let tokens = config.acme.as_ref().filter(|acme| acme.challenge == AcmeChallenge::Http01).map(|_| Tokens::default());
        let authority = config.acme.as_ref().map(authority).transpose()?;
        Ok(Self { by_listener, challenges: Challenges::new(), tokens, authority })
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
        let asked = matches!(public.from, From::Acme(_)) && self.tokens.is_none();
        Ok(Some(if asked { side.answering(self.challenges.clone()) } else { side }))
    }

    /// The answers that plain listeners give to a CA.
    pub(super) fn tokens(&self) -> Option<Tokens> {
        self.tokens.clone()
    }

    /// Begins to keep the certificates current. After the listeners are bound: a CA looks at them.
    pub(super) fn keep(self, clock: &Clock, metrics: &Arc<Metrics>) -> Vec<Keeping> {
        let mut keeping = Vec::new();
        for (listener, Public { identity, from }) in self.by_listener {
            let (clock, metrics) = (clock.clone(), Arc::clone(metrics));
            match (from, &self.authority) {
                (From::Files(watched), _) => {
                    let note = move |until: crate::evidence::Timestamp| metrics.public_certificate(&listener, until.0);
                    keeping.push(Keeping::Files { _held: certificate::renew(watched, identity, note) });
                }
                (From::Acme(names), Some(authority)) => {
                    let answers = self.tokens.clone().map_or_else(|| Answers::TlsAlpn01(self.challenges.clone()), Answers::Http01);
                    keeping.push(Keeping::Acme { _held: acme::keep(authority.clone(), Wanted { listener, names, identity, answers }, clock, metrics) });
                }
                // The loader holds this already.
                (From::Acme(_), None) => {}
            }
        }
        keeping
    }
}

fn authority(acme: &config::Acme) -> anyhow::Result<Authority> {
    let config::Acme { directory, roots, contact, state_dir, .. } = acme.clone();
    Ok(Authority::new(acme::Settings { directory, roots, contact, state: state_dir })?)
}
