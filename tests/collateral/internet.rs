//! The internet as a side behind a proxy sees it: every name leads, over TLS, to one service of the test's.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis::attester::simulator::Service;
use portcullis::collateral::{Address, Reach};
use rustls::pki_types::{PrivateKeyDer, TrustAnchor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The vendors' own names.
const NAMES: [&str; 3] = ["kdsintf.amd.com", "api.trustedservices.intel.com", "certificates.trustedservices.intel.com"];

/// A proxy with everything behind it.
pub(crate) struct Internet {
    proxy: SocketAddr,
    root: TrustAnchor<'static>,
    serving: JoinHandle<()>,
}

impl Internet {
    pub(crate) async fn with(service: &Service) -> Self {
        let issued = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned).to_vec()).expect("a certificate");
        let certificate = issued.cert.der().clone();
        let root = webpki::anchor_from_trusted_cert(&certificate).expect("a root").to_owned();
        let key = PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).expect("a pair")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = listener.local_addr().expect("an address");
        let service: SocketAddr = service.url().trim_start_matches("http://").parse().expect("an address");
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move { drop(through(stream, acceptor, service).await) });
            }
        });
        Self { proxy, root, serving }
    }

    pub(crate) fn reach(&self) -> Reach {
        let proxy = Address::parse(&format!("http://{}", self.proxy)).expect("an address");
        Reach { roots: vec![self.root.clone()], proxy: Some(proxy), ..Reach::default() }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn through(mut stream: TcpStream, acceptor: TlsAcceptor, service: SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 4096 || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if !NAMES.iter().any(|name| head.starts_with(&format!("CONNECT {name}:443 "))) {
        return stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let mut near = acceptor.accept(stream).await?;
    let mut far = TcpStream::connect(service).await?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await.map(drop)
}
