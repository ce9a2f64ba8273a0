//! The demo's adversary: stands between the two sides with the server's stolen key, its own TLS to each, and forwards
//! the frames of the genuine exchange as they are.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};

use crate::admin::metrics::Metrics;
use crate::attester::Attester;
use crate::attester::batch::{BatchSettings, Batcher};
use crate::clock::Clock;
use crate::session::frame::{Kind, MAX_EVIDENCE_FRAME, MAX_HELLO};
use crate::tls::{self, ClientSettings, ClientSide, Clients, Identity, IdentitySettings, Peer, ServerSettings, ServerSide, Tier};

/// A relay that runs until it is dropped.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    relaying: tokio::task::JoinHandle<()>,
}

impl Relay {
    /// Stands in front of `genuine` with the certificate and key in `folder`; `peer` is what it needs to dial, and
    /// judges nothing, since it never gets that far.
    pub(super) async fn start(genuine: SocketAddr, folder: &Path, attester: Arc<dyn Attester>, peer: Peer) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let stolen = IdentitySettings::Files { chain: folder.join("server.pem"), key: folder.join("server.key") };
        let batcher = Batcher::start(attester, BatchSettings::default());
        let identity = Identity::start(stolen, Some(batcher), None, clock.clone(), Arc::new(Metrics::new())).await?;
        let serving = ServerSettings { identity, tier: Tier::Session, clients: Clients::Any, alpn: None, max_evidence: None };
        let serving = ServerSide::new(serving, clock.clone())?;
        let server_name = rustls::pki_types::ServerName::try_from("localhost").context("a name")?;
        let dialling = ClientSettings { identity: None, tier: Tier::Session, server_name, peer, alpn: None, max_evidence: None };
        let dialling = ClientSide::new(dialling, clock)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port on loopback")?;
        let address = listener.local_addr().context("no address")?;
        let relaying = tokio::spawn(async move {
            while let Ok((victim, _)) = listener.accept().await {
                // What becomes of one victim is the victim's to tell.
                let _ = relay(&serving, &dialling, victim, genuine).await;
            }
        });
        Ok(Self { address, relaying })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.relaying.abort();
    }
}

/// HELLO_C to the genuine server, its HELLO_S and EVIDENCE back, and whatever the victim says to that.
async fn relay(serving: &ServerSide, dialling: &ClientSide, victim: TcpStream, genuine: SocketAddr) -> anyhow::Result<()> {
    let mut victim = tls::accept(serving, victim).await?;
    let mut server = tls::connect(dialling, TcpStream::connect(genuine).await?).await?;
    let hello = victim.receive(Kind::HelloClient, MAX_HELLO).await?;
    server.send(hello.octets()).await?;
    for kind in [Kind::HelloServer, Kind::Evidence] {
        let frame = server.receive(kind, MAX_EVIDENCE_FRAME).await?;
        victim.send(frame.octets()).await?;
    }
    let result = victim.receive(Kind::Result, MAX_HELLO).await?;
    server.send(result.octets()).await?;
    Ok(())
}
