//! `portcullis probe`: connects as a client sidecar would, judges, says why, and sends no application byte.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::ServerName;

use super::judging::{Judged, advised, lists, moment, standing};
use super::output::{self, Detail, Marks};
use super::policy::{self, Loaded};
use super::{Outcome, saving, verify};
use crate::admin::metrics::Metrics;
use crate::clock::Clock;
use crate::evidence::Timestamp;
use crate::evidence::binding::{AgeRule, Binding};
use crate::evidence::cmw::Collection;
use crate::evidence::leaf::Leaf;
use crate::platform;
use crate::proxy::appraisal::{Appraisals, Memo};
use crate::proxy::{self, Answer};
use crate::refusal::{Denied, Finding, Reason};
use crate::tls::{ALPN_H2, ALPN_HTTP1, ALPN_RAW, ClientSettings, ClientSide, Judge, Peer, PeerIdentity, Tier};
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
    /// Save what the server presents into this new folder, for `verify`: evidence, endorsements and its certificate.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
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
    // A folder that cannot be used is known before anybody is asked.
    args.save.as_deref().map_or(Ok(()), saving::fresh)?;
    let (judged, presented, leaf) = asked(&args.address, args.sni.as_deref(), tier, &loaded)?;
    let evidence = presented.as_ref().map(|presented| (&presented.tee, &presented.endorsements));
    let saved = args.save.as_deref().map(|folder| saving::presented(folder, evidence, leaf.as_deref())).transpose()?;
    if args.json {
        let mut document = verify::single(&judged, &loaded, now);
        if let Some(saved) = saved {
            document["saved"] = saved.into();
        }
        output::show_json(&document)?;
    } else {
        let mut text = verify::text(&judged, &loaded, now, Detail::of(args.verbose), Marks::here());
        if let (Some(files), Some(folder)) = (&saved, &args.save) {
            let files = if files.is_empty() { "nothing was presented".to_owned() } else { files.join(", ") };
            let _ = writeln!(text, "  saved to {}: {files}", folder.display());
        }
        output::show(&text)?;
    }
    Ok(verify::outcome(&judged))
}

/// Judges the server at an address, over a connection that is closed again.
pub(super) fn connected(address: &str, sni: Option<&str>, tier: Tier, loaded: &Loaded) -> anyhow::Result<Judged> {
    asked(address, sni, tier, loaded).map(|(judged, ..)| judged)
}

/// What a server presents, whatever is made of it; or why there is nothing.
pub(super) fn presented(address: &str, tier: Tier) -> anyhow::Result<Result<Collection, Denied>> {
    let (judged, presented, _) = asked(address, None, tier, &Loaded::genuine())?;
    match (presented, judged.verdict) {
        (Some(presented), _) => Ok(Ok(presented)),
        (None, Err(denied)) => Ok(Err(denied)),
        (None, Ok(_)) => anyhow::bail!("{address} presented no evidence"),
    }
}

/// What is made of a server, with the evidence and the certificate it presented.
type Asked = (Judged, Option<Collection>, Option<Vec<u8>>);

fn asked(address: &str, sni: Option<&str>, tier: Tier, loaded: &Loaded) -> anyhow::Result<Asked> {
    let (host, _) = crate::config::host_and_port(address).map_err(|why| anyhow::anyhow!("{address}: {why}"))?;
    let name = sni.map_or(host, str::to_owned);
    let name = ServerName::try_from(name.clone()).ok().with_context(|| format!("{name} is neither a DNS name nor an address"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let metrics = Arc::new(Metrics::new());
    let inner = Appraisals::new(Arc::new(loaded.appraiser()), Arc::new(Memo::new()), Arc::clone(&metrics));
    let judge = Arc::new(Witness { inner, presented: Mutex::default() });
    let Answer { chain, verdict } = runtime.block_on(ask(address, name, tier, Arc::<Witness>::clone(&judge), &metrics))?;
    let presented = judge.presented.lock().unwrap_or_else(PoisonError::into_inner).take();
    let leaf = chain.first().map(|leaf| leaf.to_vec());
    Ok((judged(address, loaded, verdict, presented.clone()), presented, leaf))
}

/// Judges as the policy says, and keeps what was presented: also what is refused is to be looked at.
struct Witness {
    inner: Appraisals,
    presented: Mutex<Option<Collection>>,
}

impl Witness {
    fn keep(&self, presented: Option<Collection>) {
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) = presented;
    }
}

impl Judge for Witness {
    fn accepts(&self) -> Vec<String> {
        self.inner.accepts()
    }

    fn age_rule(&self) -> AgeRule {
        self.inner.age_rule()
    }

    fn policy(&self) -> String {
        self.inner.policy()
    }

    fn policy_digest(&self) -> [u8; 32] {
        self.inner.policy_digest()
    }

    fn certificate(&self, leaf: &[u8], now: Timestamp) -> Result<Arc<AttestationResult>, Denied> {
        self.keep(Leaf::read(leaf).and_then(|leaf| leaf.evidence()).ok());
        self.inner.certificate(leaf, now)
    }

    fn session(&self, presented: &Collection, binding: &Binding, now: Timestamp) -> Result<AttestationResult, Denied> {
        self.keep(Some(presented.clone()));
        self.inner.session(presented, binding, now)
    }
}

async fn ask(address: &str, server_name: ServerName<'static>, tier: Tier, judge: Arc<Witness>, metrics: &Metrics) -> anyhow::Result<Answer> {
    let peer = Peer { judge, identity: PeerIdentity::default() };
    // Whatever a listener speaks inside: nothing is said in it.
    let alpn = tier.has_exchange().then(|| [ALPN_RAW, ALPN_H2, ALPN_HTTP1].map(<[u8]>::to_vec).to_vec());
    let settings = ClientSettings { identity: None, tier, server_name, peer, alpn, max_evidence: None };
    let side = ClientSide::new(settings, Clock::system())?;
    let unreachable = |found: String| Answer {
        chain: Vec::new(),
        verdict: Finding::new(Reason::Timeout, "connection", "a server that answers", found).fix("is the address right, and the server up?").refuse(),
    };
    let socket = match tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Ok(unreachable(error.to_string())),
        Err(_) => return Ok(unreachable(format!("no connection within {} s", CONNECT.as_secs()))),
    };
    Ok(proxy::ask(&side, socket, &Clock::system(), metrics).await)
}

fn judged(address: &str, loaded: &Loaded, verdict: Result<Arc<AttestationResult>, Denied>, presented: Option<Collection>) -> Judged {
    let verdict = verdict.map(|result| result.appraisal().clone()).map_err(|denied| advised(denied, loaded, address));
    let platform = presented.as_ref().and_then(|presented| platform::of_evidence(&presented.tee));
    let mut warnings = Vec::new();
    if loaded.path.is_none() && verdict.is_ok() {
        warnings.push("genuine only: no --policy was given, so nothing was pinned; this does not say that it is yours".to_owned());
    }
    if let Ok(appraisal) = &verdict
        && !appraisal.revocation_checked()
    {
        let place = platform.zip(presented.as_ref()).map(|(platform, presented)| lists(platform, &presented.tee)).unwrap_or_default();
        warnings.push(format!("revocation was not checked: no current revocation list was stapled{place}"));
    }
    warnings.extend(verdict.iter().flat_map(|appraisal| standing(appraisal, loaded)));
    let claims = match (&verdict, platform, &presented) {
        (Ok(appraisal), ..) => Some(appraisal.claims().clone()),
        (Err(_), Some(platform), Some(presented)) => platform.verifier.read(&presented.tee, &presented.endorsements).ok(),
        _ => None,
    };
    let evidence = presented.map(|presented| presented.tee);
    Judged { name: address.to_owned(), verdict, evidence, platform, claims, warnings, ignored: Vec::new() }
}
