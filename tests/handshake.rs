//! Handshakes alone: possession of the key, the kind of handshake and the protocol, each refused with its reason
//! before any exchange, appraisal or dialling.
#![cfg(feature = "simulator")]

#[path = "support/sidecar.rs"]
mod sidecar;

use std::sync::Arc;

use portcullis::refusal::{Denied, Reason};
use portcullis::tls::{self, ALPN_RAW, ClientSettings, ClientSide, Clients, Peer, PeerIdentity, ServerSettings, ServerSide, Tier};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P521_SHA512, SignatureAlgorithm};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::ResolvesServerCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use sidecar::{Machine, judge, parts};
use tokio::io::{DuplexStream, duplex};

fn certificate(kind: &'static SignatureAlgorithm) -> (CertificateDer<'static>, KeyPair) {
    let key = KeyPair::generate_for(kind).expect("a key");
    let params = CertificateParams::new(vec!["service.test".to_owned()]).expect("names");
    (params.self_signed(&key).expect("a certificate").der().clone(), key)
}

/// The certificates with a key that need not be theirs.
fn certified(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<CertifiedKey> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Arc::new(CertifiedKey::new(chain, aws_lc_rs::sign::any_supported_type(&der).expect("a signing key")))
}

fn server_config(presented: Arc<CertifiedKey>, alpn: &[&[u8]]) -> ServerConfig {
    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(presented));
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let mut config = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
    config
}

fn client_side(tier: Tier) -> ClientSide {
    let parts = parts();
    let peer = Peer { judge: judge(&parts), identity: PeerIdentity::default() };
    let server_name = ServerName::try_from("service.test").expect("a name");
    let settings = ClientSettings { identity: None, tier, server_name, peer, alpn: None, max_evidence: None };
    ClientSide::new(settings, parts.clock).unwrap_or_else(|error| panic!("{error}"))
}

async fn server_side(clients: Clients) -> ServerSide {
    let parts = parts();
    let identity = Machine::good(1).identity(&parts).await;
    let settings = ServerSettings { identity, tier: Tier::Session, clients, alpn: None, max_evidence: None };
    ServerSide::new(settings, parts.clock).unwrap_or_else(|error| panic!("{error}"))
}

/// What our client makes of a server with this configuration.
async fn meets(side: &ClientSide, config: ServerConfig) -> Result<tls::Pending<DuplexStream>, Denied> {
    let (near, far) = duplex(1 << 16);
    let serving = tokio::spawn(tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(far).into_fallible());
    let met = tls::connect(side, near).await;
    serving.abort();
    met
}

/// What our server makes of a client with this configuration.
async fn met_by(side: &ServerSide, config: ClientConfig) -> Result<tls::Pending<DuplexStream>, Denied> {
    let (near, far) = duplex(1 << 16);
    let name = ServerName::try_from("service.test").expect("a name");
    let connecting = tokio::spawn(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, far).into_fallible());
    let met = tls::accept(side, near).await;
    connecting.abort();
    met
}

fn reason<T: std::fmt::Debug>(refused: Result<T, Denied>) -> Reason {
    refused.expect_err("a refusal").reason()
}

#[tokio::test]
async fn a_server_without_the_key_of_its_certificate_is_refused() {
    let side = client_side(Tier::Session);
    let (victims, key) = certificate(&PKCS_ECDSA_P256_SHA256);
    assert!(meets(&side, server_config(certified(vec![victims.clone()], &key), &[ALPN_RAW])).await.is_ok());
    let (_, other) = certificate(&PKCS_ECDSA_P256_SHA256);
    let thief = server_config(certified(vec![victims], &other), &[ALPN_RAW]);
    assert_eq!(reason(meets(&side, thief).await), Reason::PossessionUnproved);
}

#[tokio::test]
async fn a_client_without_the_key_of_its_certificate_is_refused() {
    let peer = Peer { judge: judge(&parts()), identity: PeerIdentity::default() };
    let side = server_side(Clients::Attested(peer)).await;
    let (victims, key) = certificate(&PKCS_ECDSA_P256_SHA256);
    let (_, other) = certificate(&PKCS_ECDSA_P256_SHA256);
    let config = |key: &KeyPair| {
        let mut config = sidecar::careless_client(&[ALPN_RAW]);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified(vec![victims.clone()], key)));
        config
    };
    assert!(met_by(&side, config(&key)).await.is_ok_and(|pending| pending.peer().is_some()));
    assert_eq!(reason(met_by(&side, config(&other)).await), Reason::PossessionUnproved);
}

#[tokio::test]
async fn certificates_of_other_form_are_refused() {
    let side = client_side(Tier::Session);
    let (odd, key) = certificate(&PKCS_ECDSA_P521_SHA512);
    let reason_for = |chain: Vec<CertificateDer<'static>>, key| reason_of(&side, chain, key);
    let odd_kind = reason_for(vec![odd], &key).await;
    assert!(matches!(odd_kind, Reason::CertificateInvalid | Reason::TlsUnacceptable), "{odd_kind}");
    let (leaf, key) = certificate(&PKCS_ECDSA_P256_SHA256);
    assert_eq!(reason_for(vec![leaf.clone(); 6], &key).await, Reason::CertificateInvalid, "a long chain");
    let broken = CertificateDer::from([leaf.as_ref(), &[0]].concat());
    assert_eq!(reason_for(vec![broken], &key).await, Reason::CertificateInvalid, "octets behind the certificate");
}

async fn reason_of(side: &ClientSide, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Reason {
    reason(meets(side, server_config(certified(chain, key), &[ALPN_RAW])).await)
}

#[tokio::test]
async fn another_protocol_or_none_is_refused() {
    let (leaf, key) = certificate(&PKCS_ECDSA_P256_SHA256);
    let presented = certified(vec![leaf], &key);
    let side = client_side(Tier::Session);
    for alpn in [&[][..], &[&b"h2"[..]], &[&b"http/1.1"[..], b"portcullis1"]] {
        assert_eq!(reason(meets(&side, server_config(Arc::clone(&presented), alpn)).await), Reason::AlpnMismatch, "{alpn:?}");
    }
    let side = server_side(Clients::Any).await;
    for alpn in [&[][..], &[&b"h2"[..]], &[&b"portcullis1/h2"[..]]] {
        assert_eq!(reason(met_by(&side, sidecar::careless_client(alpn)).await), Reason::AlpnMismatch, "{alpn:?}");
    }
}

/// The peer offers tickets, or asks to resume: there is never more than full handshakes, each with its proof.
#[tokio::test]
async fn nothing_is_ever_resumed() {
    let (leaf, key) = certificate(&PKCS_ECDSA_P256_SHA256);
    let mut tempting = server_config(certified(vec![leaf], &key), &[ALPN_RAW]);
    tempting.send_tls13_tickets = 4;
    tempting.max_early_data_size = 1 << 14;
    let tempting = Arc::new(tempting);
    let side = client_side(Tier::Session);
    for _ in 0..3 {
        assert!(meets(&side, (*tempting).clone()).await.is_ok());
    }
    let side = server_side(Clients::Any).await;
    // One configuration, which keeps what it may resume.
    let eager = sidecar::careless_client(&[ALPN_RAW]);
    for _ in 0..3 {
        let (near, far) = duplex(1 << 16);
        let name = ServerName::try_from("service.test").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(eager.clone()));
        let (met, stream) = tokio::join!(tls::accept(&side, near), connector.connect(name, far));
        assert!(met.is_ok());
        let kind = stream.expect("a connection").get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn what_is_no_tls_is_refused() {
    use tokio::io::AsyncWriteExt as _;
    let side = server_side(Clients::Any).await;
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", &[0x16, 3, 1, 0xff, 0xff], &[0x80, 0x2e, 1, 0, 2]] {
        let (near, mut far) = duplex(1 << 16);
        far.write_all(words).await.expect("written");
        drop(far);
        assert_eq!(reason(tls::accept(&side, near).await), Reason::TlsUnacceptable, "{words:?}");
    }
}

/// A SPIFFE id without the PKI that vouches for it, a session without an attester, a foreign protocol: not started.
#[tokio::test]
async fn settings_that_do_not_fit_are_refused_at_start() {
    let parts = parts();
    let identity = Machine::good(1).identity(&parts).await;
    let settings = |tier, clients, alpn| ServerSettings { identity: identity.clone(), tier, clients, alpn, max_evidence: None };
    let refused = |settings| ServerSide::new(settings, parts.clock.clone()).err();
    let spiffe = PeerIdentity { spiffe_ids: vec!["spiffe://td/x".to_owned()], ..PeerIdentity::default() };
    let attested = Clients::Attested(Peer { judge: judge(&parts), identity: spiffe });
    assert_eq!(refused(settings(Tier::Session, attested, None)), Some(tls::SideError::SpiffeWithoutPki));
    assert_eq!(refused(settings(Tier::SessionMutual, Clients::Any, None)), Some(tls::SideError::NotMutual));
    let foreign = settings(Tier::Session, Clients::Any, Some(vec![b"h2".to_vec()]));
    assert_eq!(refused(foreign), Some(tls::SideError::Alpn("h2".to_owned())));
    assert_eq!(refused(settings(Tier::Session, Clients::Any, Some(Vec::new()))), Some(tls::SideError::Alpn(String::new())));
    assert_eq!(refused(settings(Tier::Certificate, Clients::Any, Some(vec![b"h2".to_vec()]))), None);
}
