//! Raw ends of a connection over rustls, with none of the program's own TLS: either end, any certificate, any key.

use std::sync::{Arc, Mutex};

use portcullis::evidence::KeyDigest;
use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, HandshakeKind, ServerConfig, SignatureAlgorithm, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::world::NOW;

/// A key with a certificate, as an adversary holds it.
#[derive(Clone)]
pub struct Holder {
    pub key: Arc<KeyPair>,
    pub leaf: CertificateDer<'static>,
}

/// What a self-made certificate says.
pub struct Leaf {
    pub names: Vec<String>,
    pub not_before: u64,
    pub not_after: u64,
    pub extensions: Vec<(Vec<u64>, Vec<u8>)>,
    pub common_name: String,
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            names: vec!["app.example".to_owned()],
            not_before: NOW.0 - 300,
            not_after: NOW.0 + 3000,
            extensions: Vec::new(),
            common_name: "adversary".to_owned(),
        }
    }
}

pub fn new_key() -> Arc<KeyPair> {
    Arc::new(KeyPair::generate().expect("a P-256 key"))
}

pub fn spki(key: &KeyPair) -> Vec<u8> {
    use rcgen::PublicKeyData as _;
    key.subject_public_key_info()
}

impl Holder {
    /// A new key with a certificate that carries no evidence.
    pub fn plain() -> Self {
        Self::with(new_key(), &Leaf::default())
    }

    pub fn with(key: Arc<KeyPair>, leaf: &Leaf) -> Self {
        let date = |seconds: u64| time::OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).expect("a date")).expect("a date");
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (date(leaf.not_before), date(leaf.not_after));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, leaf.common_name.clone());
        let name = |name: &String| {
            let name = rcgen::string::Ia5String::try_from(name.clone()).expect("a name");
            if name.as_str().contains("://") { SanType::URI(name) } else { SanType::DnsName(name) }
        };
        params.subject_alt_names = leaf.names.iter().map(name).collect();
        params.custom_extensions = leaf.extensions.iter().map(|(oid, value)| CustomExtension::from_oid_content(oid, value.clone())).collect();
        let leaf = params.self_signed(&*key).expect("a certificate").der().clone();
        Self { key, leaf }
    }

    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of_spki(&spki(&self.key))
    }

    /// This certificate and its key as PEM: what the program reads from files.
    pub fn pem(&self) -> (String, String) {
        let body = data_encoding::BASE64.encode(&self.leaf);
        (format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"), self.key.serialize_pem())
    }

    fn certified(&self) -> CertifiedKey {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        CertifiedKey::new(vec![self.leaf.clone()], any_supported_type(&der).expect("a key that rustls takes"))
    }
}

/// How the CertificateVerify signature is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Possession {
    Proved,
    /// One bit of the signature is wrong.
    BitFlipped,
}

/// What an end negotiates.
#[derive(Clone)]
pub struct Tls {
    pub holder: Option<Holder>,
    pub alpn: Vec<Vec<u8>>,
    pub possession: Possession,
    pub tickets: usize,
    pub wants_client: bool,
    pub resumption: Option<Resumption>,
}

impl Tls {
    pub fn of(holder: &Holder) -> Self {
        Self { holder: Some(holder.clone()), ..Self::anonymous() }
    }

    /// A client without a certificate.
    pub fn anonymous() -> Self {
        Self { holder: None, alpn: vec![crate::wire::ALPN.to_vec()], possession: Possession::Proved, tickets: 0, wants_client: false, resumption: None }
    }

    fn resolver(&self) -> Option<Arc<Presents>> {
        let mut certified = self.holder.as_ref()?.certified();
        if self.possession == Possession::BitFlipped {
            certified.key = Arc::new(BadSigner(certified.key));
        }
        Some(Arc::new(Presents(Arc::new(certified))))
    }

    pub fn server_config(&self) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions().expect("versions");
        let builder = if self.wants_client { builder.with_client_cert_verifier(Arc::new(Anybody)) } else { builder.with_no_client_auth() };
        let mut config = builder.with_cert_resolver(self.resolver().expect("a server has a certificate"));
        config.alpn_protocols.clone_from(&self.alpn);
        config.send_tls13_tickets = self.tickets;
        Arc::new(config)
    }

    pub fn client_config(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions().expect("versions");
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match self.resolver() {
            Some(resolver) => builder.with_client_cert_resolver(resolver),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = self.resumption.clone().unwrap_or_else(Resumption::disabled);
        Arc::new(config)
    }

    /// Serves one handshake.
    pub async fn accept(&self, tcp: TcpStream) -> std::io::Result<Wire> {
        self.accept_with(self.server_config(), tcp).await
    }

    /// The same with a configuration that several share (for tickets).
    pub async fn accept_with(&self, config: Arc<ServerConfig>, tcp: TcpStream) -> std::io::Result<Wire> {
        let _ = tcp.set_nodelay(true);
        let stream = TlsAcceptor::from(config).accept(tcp).await?;
        Ok(Wire::new(TlsStream::Server(stream), self.holder.as_ref()))
    }

    /// Makes one handshake.
    pub async fn connect(&self, tcp: TcpStream) -> std::io::Result<Wire> {
        Self::connect_with(self.client_config(), self.holder.as_ref(), tcp).await
    }

    /// Makes one handshake with a configuration that several share (for tickets).
    pub async fn connect_with(config: Arc<ClientConfig>, holder: Option<&Holder>, tcp: TcpStream) -> std::io::Result<Wire> {
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from("app.example").expect("a name");
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Wire::new(TlsStream::Client(stream), holder))
    }
}

/// An open TLS connection to a victim, spoken by hand. Everything that the victim ever sends is kept.
pub struct Wire {
    stream: TlsStream<TcpStream>,
    pub key_self: Option<KeyDigest>,
    pub key_peer: Option<KeyDigest>,
    heard: Vec<u8>,
}

impl Wire {
    fn new(stream: TlsStream<TcpStream>, holder: Option<&Holder>) -> Self {
        let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let key_peer = peer.map(|leaf| {
            let (_, leaf) = x509_parser::parse_x509_certificate(leaf).expect("the victim's certificate");
            KeyDigest::of_spki(leaf.public_key().raw)
        });
        Self { key_self: holder.map(Holder::digest), key_peer, stream, heard: Vec::new() }
    }

    pub fn kind(&self) -> Option<HandshakeKind> {
        self.stream.get_ref().1.handshake_kind()
    }

    /// The victim's certificate.
    pub fn peer_leaf(&self) -> Option<CertificateDer<'static>> {
        self.stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned())
    }

    pub fn exporter(&self, label: &[u8], context: Option<&[u8]>) -> [u8; 32] {
        let out = match &self.stream {
            TlsStream::Client(stream) => stream.get_ref().1.export_keying_material([0; 32], label, context),
            TlsStream::Server(stream) => stream.get_ref().1.export_keying_material([0; 32], label, context),
        };
        out.expect("a finished handshake exports")
    }

    /// Sends these octets. A victim that has gone is no failure here: what it did is judged elsewhere.
    pub async fn send(&mut self, octets: &[u8]) {
        let _ = async {
            self.stream.write_all(octets).await?;
            self.stream.flush().await
        }
        .await;
    }

    /// Sends these octets, and with them others in a record of their own, where there are any.
    pub async fn send_with(&mut self, octets: &[u8], behind: &[u8]) {
        if behind.is_empty() {
            return self.send(octets).await;
        }
        for octets in [octets, behind] {
            let mut writer = match &mut self.stream {
                TlsStream::Client(stream) => stream.get_mut().1.writer(),
                TlsStream::Server(stream) => stream.get_mut().1.writer(),
            };
            std::io::Write::write_all(&mut writer, octets).expect("room for it");
        }
        self.send(b"").await;
    }

    /// One frame: its type, its payload, the whole of it. `None` when the victim has closed.
    pub async fn receive(&mut self) -> Option<Frame> {
        let mut header = [0; 5];
        self.read_exact(&mut header).await?;
        let [kind, length @ ..] = header;
        let length = usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| *length <= 1 << 20)?;
        let mut payload = vec![0; length];
        self.read_exact(&mut payload).await?;
        Some(Frame { kind, octets: [header.as_slice(), &payload].concat(), payload })
    }

    /// Octets of the inner protocol, up to `most`.
    pub async fn read_some(&mut self, most: usize) -> Vec<u8> {
        let mut octets = vec![0; most];
        let count = self.stream.read(&mut octets).await.unwrap_or(0);
        octets.truncate(count);
        self.heard.extend(&octets);
        octets
    }

    async fn read_exact(&mut self, into: &mut [u8]) -> Option<()> {
        let read = self.stream.read_exact(into).await;
        if read.is_ok() {
            self.heard.extend(into.iter());
        }
        read.ok().map(drop)
    }

    /// Ends in good order: closes this direction and waits for the other.
    pub async fn finish(mut self) {
        let _ = self.stream.shutdown().await;
        let _ = self.stream.read_to_end(&mut Vec::new()).await;
    }

    /// Listens until the victim closes, and gives everything that it ever sent.
    pub async fn heard(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
        self.heard.extend(rest);
        self.heard
    }
}

/// A frame that a victim sent.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub payload: Vec<u8>,
    pub octets: Vec<u8>,
}

/// Remembers nothing, believes everything.
#[derive(Debug)]
struct Anybody;

fn schemes() -> Vec<SignatureScheme> {
    aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesServerCert for Presents {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Signs, then flips the last bit.
#[derive(Debug)]
struct BadSigner(Arc<dyn SigningKey>);

impl SigningKey for BadSigner {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(offered).map(|signer| Box::new(BadSignature(Mutex::new(signer))) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct BadSignature(Mutex<Box<dyn Signer>>);

impl Signer for BadSignature {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut signature = self.0.lock().expect("one thread").sign(message)?;
        if let Some(last) = signature.last_mut() {
            *last ^= 1;
        }
        Ok(signature)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.lock().expect("one thread").scheme()
    }
}
