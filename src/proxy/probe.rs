//! Asks a server for its evidence and gives the verdict, as a client sidecar would come to it; nothing is forwarded.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::{admit, deadline, plan};
use crate::admin::metrics::Metrics;
use crate::clock::Clock;
use crate::refusal::{Denied, Finding, Reason};
use crate::tls;
use crate::verify::AttestationResult;

/// What a server answered when it was asked.
#[derive(Debug)]
pub struct Answer {
    /// The certificates it presented, the leaf first; none where the handshake failed.
    pub chain: Vec<CertificateDer<'static>>,
    /// The verdict about it, or its refusal, as the admission of a server: every code there is.
    pub verdict: Result<Arc<AttestationResult>, Denied>,
}

/// Connects as a client sidecar would and gives the verdict about the server, in the time a default listener allows.
/// No application byte goes either way; the connection is closed.
pub async fn ask(side: &tls::ClientSide, socket: tokio::net::TcpStream, clock: &Clock, metrics: &Metrics) -> Answer {
    let limits = plan::Limits::default();
    let pending = match deadline::in_time("handshake", limits.handshake, tls::connect(side, socket)).await {
        Ok(pending) => pending,
        Err(denied) => return Answer { chain: Vec::new(), verdict: Err(denied) },
    };
    let chain = pending.chain().to_vec();
    let around = admit::Surroundings { clock, metrics, limit: limits.exchange, source: None };
    let verdict = match admit::server(side, pending, around).await {
        Ok((admitted, mut stream)) => {
            // The verdict is made; a peer that is gone before the goodbye changes nothing.
            let _ = tokio::time::timeout(limits.handshake, tokio::io::AsyncWriteExt::shutdown(&mut *stream)).await;
            match admitted.ground {
                admit::Ground::Attested(_, result) => Ok(result),
                admit::Ground::AnyClient(_) | admit::Ground::Local => {
                    Finding::new(Reason::EvidenceUnsupported, "peer", "a verdict about evidence", "none").refuse()
                }
            }
        }
        Err(refused) => Err(refused.denied),
    };
    Answer { chain, verdict }
}
