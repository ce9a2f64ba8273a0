//! rustls configurations: TLS 1.3 only, hybrid key exchange first, nothing that could be resumed.

use std::sync::{Arc, LazyLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, Error, ServerConfig, SignatureScheme};

use super::side::{Clients, ServerSettings, Tier};
use super::verifier::Possession;
use super::{Credential, failure};
use crate::clock::Clock;
use crate::refusal::Denied;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
});

/// For clients of the public: TLS 1.3 as browsers and libraries speak it, the older curves too.
static PUBLIC: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    let groups = [aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1, aws_lc_rs::kx_group::SECP384R1];
    provider.kx_groups = groups.to_vec();
    Arc::new(provider)
});

/// The cryptography of every connection between sidecars.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Whether rustls takes our provider for TLS 1.3.
pub(super) fn check() -> Result<(), Error> {
    ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]).map(drop)
}

/// The serving configuration that presents `credential`.
pub(super) fn server(settings: &ServerSettings, protocols: &[Vec<u8>], credential: &Arc<Credential>, clock: &Clock) -> Result<ServerConfig, Denied> {
    let cryptography = if settings.tier == Tier::Web { Arc::clone(&PUBLIC) } else { provider() };
    let builder = ServerConfig::builder_with_details(cryptography, time(clock)).with_protocol_versions(&[&rustls::version::TLS13]);
    let builder = builder.map_err(|error| failure::of_tls(&error))?;
    let builder = match settings.clients {
        Clients::Any => builder.with_no_client_auth(),
        Clients::Attested(_) => builder.with_client_cert_verifier(Possession::new(provider().signature_verification_algorithms)),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Presents(Arc::clone(&credential.certified))));
    config.alpn_protocols = protocols.to_vec();
    Ok(unresumed(config))
}

/// The serving configuration that answers a challenge with `certified`.
pub(super) fn challenge(certified: Arc<CertifiedKey>, clock: &Clock) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_details(Arc::clone(&PUBLIC), time(clock)).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(Presents(certified)));
    config.alpn_protocols = vec![super::challenge::ALPN_ACME.to_vec()];
    Ok(unresumed(config))
}

/// Neither tickets nor early data.
fn unresumed(mut config: ServerConfig) -> ServerConfig {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config
}

/// The connecting configuration, without a certificate of ours.
pub(super) fn client(protocols: &[Vec<u8>], clock: &Clock) -> Result<ClientConfig, Error> {
    let verifier = Possession::new(provider().signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // the name of rustls for a verifier of one's own; this one proves possession, appraisal follows
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = protocols.to_vec();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// Presents one certificate, whatever is asked for.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesServerCert for Presents {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Shows one certificate when the server asks, and remembers that it did: the key then goes into the hashes.
#[derive(Debug)]
pub(super) struct Shows {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) shown: std::sync::atomic::AtomicBool,
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key.key.choose_scheme(schemes)?;
        self.shown.store(true, std::sync::atomic::Ordering::SeqCst);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Our clock, for rustls.
#[derive(Debug)]
struct Time(Clock);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.now().ok().map(|now| UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.0)))
    }
}

fn time(clock: &Clock) -> Arc<dyn TimeProvider> {
    Arc::new(Time(clock.clone()))
}
