//! `portcullis probe`: connects as a client sidecar would, judges, says why, and sends no application byte.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::ServerName;

use super::judging::{Judged, advised, moment, standing};
use super::output::{self, Detail, Marks};
use super::policy::{self, Loaded};
use super::{Outcome, verify};
use crate::admin::metrics::Metrics;
use crate::clock::Clock;
use crate::platform;
use crate::proxy;
use crate::proxy::appraisal::{Appraisals, Memo};
use crate::refusal::{Denied, Finding, Reason};
use crate::tls::{ClientSettings, ClientSide, Peer, PeerIdentity, Tier};
use crate::verify::AttestationResult;

/// What can be typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The attested server.
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// Judge by this policy; without one, only whether the evidence is genuine.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The name sent in the handshake, when it is not the host.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// How fresh the evidence must be: session (made for this connection) or certificate.
    #[arg(long, value_name = "TIER", default_value = "session", value_parser = ["session", "certificate"])]
    freshness: String,
    /// One JSON document in place of text.
    #[arg(long)]
    json: bool,
    /// Everything, values whole.
    #[arg(short, long)]
    verbose: bool,
}

const CONNECT: Duration = Duration::from_secs(10);

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let loaded = args.policy.as_deref().map_or_else(|| Ok(Loaded::genuine()), policy::load)?;
    let now = moment(None)?;
    let tier = if args.freshness == "certificate" { Tier::Certificate } else { Tier::Session };
    let judged = connected(&args.address, args.sni.as_deref(), tier, &loaded)?;
    if args.json {
        output::show_json(&verify::single(&judged, &loaded, now))?;
    } else {
        output::show(&verify::text(&judged, &loaded, now, Detail::of(args.verbose), Marks::here()))?;
    }
    Ok(verify::outcome(&judged))
}

/// Judges the server at an address, over a connection that is closed again.
pub(super) fn connected(address: &str, sni: Option<&str>, tier: Tier, loaded: &Loaded) -> anyhow::Result<Judged> {
    let (host, _) = crate::config::host_and_port(address).map_err(|why| anyhow::anyhow!("{address}: {why}"))?;
    let name = sni.map_or(host, str::to_owned);
    let name = ServerName::try_from(name.clone()).ok().with_context(|| format!("{name} is neither a DNS name nor an address"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let verdict = runtime.block_on(ask(address, name, tier, loaded))?;
    Ok(judged(address, loaded, verdict))
}

async fn ask(address: &str, server_name: ServerName<'static>, tier: Tier, loaded: &Loaded) -> anyhow::Result<Result<Arc<AttestationResult>, Denied>> {
    let metrics = Arc::new(Metrics::new());
    let judge = Appraisals::new(Arc::new(loaded.appraiser()), Arc::new(Memo::new()), Arc::clone(&metrics));
    let peer = Peer { judge: Arc::new(judge), identity: PeerIdentity::default() };
    let settings = ClientSettings { identity: None, tier, server_name, peer, alpn: Vec::new(), max_evidence: 0 };
    let side = ClientSide::new(settings, Clock::system())?;
    let unreachable =
        |found: String| Finding::new(Reason::Timeout, "connection", "a server that answers", found).fix("is the address right, and the server up?").refuse();
    let socket = match tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Ok(unreachable(error.to_string())),
        Err(_) => return Ok(unreachable(format!("no connection within {} s", CONNECT.as_secs()))),
    };
    Ok(proxy::ask(&side, socket, &Clock::system(), &metrics).await)
}

fn judged(address: &str, loaded: &Loaded, verdict: Result<Arc<AttestationResult>, Denied>) -> Judged {
    let verdict = verdict.map(|result| result.appraisal().clone()).map_err(|denied| advised(denied, loaded, address));
    let mut warnings = Vec::new();
    if loaded.path.is_none() && verdict.is_ok() {
        warnings.push("genuine only: no --policy was given, so nothing was pinned; this does not say that it is yours".to_owned());
    }
    if let Ok(appraisal) = &verdict
        && !appraisal.revocation_checked()
    {
        warnings.push("revocation was not checked: no current revocation list was at hand".to_owned());
    }
    warnings.extend(verdict.iter().flat_map(|appraisal| standing(appraisal, loaded)));
    let platform = verdict.as_ref().ok().and_then(|appraisal| platform::by_name(appraisal.platform()));
    let claims = verdict.as_ref().ok().map(|appraisal| appraisal.claims().clone());
    Judged { name: address.to_owned(), verdict, platform, claims, warnings, ignored: Vec::new() }
}
