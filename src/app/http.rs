//! HTTP listeners and upstreams, from what was configured to what the proxy is told.

use std::sync::Arc;

use anyhow::Context as _;

use crate::config::{self, Transport};
use crate::proxy::http::plan::{Allow, Backend, Balance, HealthCheck, HttpLimits, IdentityHeader, Pattern, Route, Site, Speaks, To, WebEvidence};
use crate::proxy::http::token::{Signer, Tokens};
use crate::proxy::plan;
use crate::tls::Identity;

/// What is done with the requests of a listener. `backend` makes the upstream of a name, `raw` the same for bytes.
///
/// # Errors
/// Those of `backend`; a value that the loader should have refused.
pub(super) fn site(
    site: &config::http::Site,
    (identity, signer): (Option<&Identity>, Option<&Arc<Signer>>),
    mut backend: impl FnMut(&str) -> anyhow::Result<Arc<Backend>>,
    raw: impl FnMut(&str) -> anyhow::Result<Arc<plan::Upstream>>,
) -> anyhow::Result<Site> {
    let mut routes = Vec::with_capacity(site.routes.len());
    for route in &site.routes {
        let to = match &route.to {
            config::http::To::RedirectToHttps => To::RedirectToHttps,
            config::http::To::Upstream(name) => To::Backend(backend(name)?),
        };
        routes.push(Route { hosts: route.host.iter().cloned().collect(), paths: patterns(&route.paths)?, methods: methods(&route.methods)?, to });
    }
    let allow = |rule: &config::http::Allow| anyhow::Ok(Allow { entry: rule.entry.clone(), methods: methods(&rule.methods)?, paths: patterns(&rule.paths)? });
    let web = |evidence: &config::http::Evidence| {
        let identity = identity.cloned().context("evidence is served, and there is no [identity]")?;
        anyhow::Ok(WebEvidence { path: evidence.path.clone(), identity, per_source: evidence.per_source, total: evidence.total })
    };
    let tokens = |written: &config::http::Tokens| {
        let signer = signer.cloned().context("tokens are told, and nothing signs them")?;
        anyhow::Ok(Tokens { signer, audience: written.audience.clone(), issuer: written.issuer.clone() })
    };
    let identity_header = |form: &config::http::IdentityHeader| match form {
        config::http::IdentityHeader::ClientCert => IdentityHeader::ClientCert,
        config::http::IdentityHeader::Flashbots => IdentityHeader::Flashbots,
        config::http::IdentityHeader::Structured => IdentityHeader::Structured,
        config::http::IdentityHeader::Token => IdentityHeader::Token,
        config::http::IdentityHeader::Xfcc => IdentityHeader::Xfcc,
    };
    Ok(Site {
        routes,
        allow: site.allow.iter().map(allow).collect::<anyhow::Result<_>>()?,
        identity: site.identity.iter().map(identity_header).collect(),
        tokens: site.tokens.as_ref().map(tokens).transpose()?,
        strip: site.strip.clone(),
        trusted_proxies: site.trusted_proxies.iter().map(|(address, bits)| plan::Network { address: *address, bits: *bits }).collect(),
        upgrades: site.upgrades.clone(),
        challenges: None,
        destinations: super::choice::destinations(&site.destinations, raw)?,
        evidence: site.evidence.as_ref().map(web).transpose()?,
        limits: limits(site.limits),
    })
}

/// An upstream that speaks HTTP.
pub(super) fn backend(written: &config::Upstream, upstream: Arc<plan::Upstream>) -> Backend {
    let speaks = if written.targets.iter().all(|target| target.transport == Transport::Http2) { Speaks::Http2 } else { Speaks::Http1 };
    let default = Backend::of(upstream, speaks);
    let balance = match written.http.balance {
        Some(config::http::Balance::Hash) => Balance::Hash,
        Some(config::http::Balance::LeastRequest) => Balance::LeastRequest,
        Some(config::http::Balance::RoundRobin) | None => Balance::RoundRobin,
    };
    let health = written.http.health.clone().map(|(path, every)| HealthCheck { path, every });
    let ejection = written.http.ejection.unwrap_or(default.ejection);
    Backend { balance, health, ejection, first_byte: written.http.first_byte, ..default }
}

fn patterns(written: &[String]) -> anyhow::Result<Vec<Pattern>> {
    written.iter().map(|text| Pattern::read(text).with_context(|| format!("{text:?} is no path"))).collect()
}

fn methods(written: &[String]) -> anyhow::Result<Vec<hyper::Method>> {
    written.iter().map(|text| text.parse().with_context(|| format!("{text:?} is no method"))).collect()
}

fn limits(written: config::http::Limits) -> HttpLimits {
    let default = HttpLimits::default();
    HttpLimits {
        header: written.header.unwrap_or(default.header),
        body: written.body.or(default.body),
        request_header: written.request_header.unwrap_or(default.request_header),
        request_body: written.request_body.unwrap_or(default.request_body),
        streams: written.streams.unwrap_or(default.streams),
        requests: written.requests.unwrap_or(default.requests),
        rate: written.rate.or(default.rate),
    }
}
