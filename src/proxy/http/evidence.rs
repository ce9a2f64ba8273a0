//! The evidence endpoint (PROTOCOL 3.9): fresh evidence for a nonce of a browser's, about the key of this very connection.
//!
//! Whoever holds the TLS key can relay it: this tier does not resist a stolen key.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};

use super::answer::Problem;
use super::body::{self, Body};
use super::plan::WebEvidence;
use crate::attester::batch::{BatchedQuote, QuoteError};
use crate::evidence::KeyDigest;
use crate::evidence::binding::{self, BindingClaims, Kind};
use crate::evidence::cmw::Collection;
use crate::proxy::limits::network;

/// Nonces of these lengths are answered, in octets.
const NONCE: std::ops::RangeInclusive<usize> = 32..=64;

/// So many sources are told apart at a time; beyond, new ones share a count.
const SOURCES: usize = 4096;

const SECOND: Duration = Duration::from_secs(1);

/// How many were answered in this second.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    since: Option<Instant>,
    all: u32,
    by_source: HashMap<Option<IpAddr>, u32>,
}

impl Pace {
    fn room(&self, source: Option<IpAddr>, plan: &WebEvidence) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if counts.since.is_none_or(|since| now.saturating_duration_since(since) >= SECOND) {
            *counts = Counts { since: Some(now), ..Counts::default() };
        }
        let source = source.map(network);
        let source = if counts.by_source.len() < SOURCES || counts.by_source.contains_key(&source) { source } else { None };
        let of_source = counts.by_source.entry(source).or_default();
        *of_source = of_source.saturating_add(1);
        let within = *of_source <= plan.per_source;
        counts.all = counts.all.saturating_add(u32::from(within));
        within && counts.all <= plan.total
    }
}

/// Who asks, and for what.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) query: Option<&'a str>,
    pub(super) source: Option<IpAddr>,
    /// The host and port that the browser shows.
    pub(super) authority: &'a str,
    /// The key that this connection was made with.
    pub(super) key: Option<&'a KeyDigest>,
}

/// Answers with evidence, or why there is none.
pub(super) async fn answer(plan: &WebEvidence, pace: &Pace, asked: Asked<'_>) -> Result<Response<Body>, Problem> {
    if asked.method != Method::GET {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return Ok(response);
    }
    let nonce =
        nonce(asked.query).ok_or_else(|| Problem::request(StatusCode::BAD_REQUEST, "one nonce of 32 to 64 octets is wanted, base64url without padding"))?;
    if !pace.room(asked.source, plan) {
        return Err(Problem::full(StatusCode::TOO_MANY_REQUESTS, "too many questions for evidence in this second"));
    }
    let unavailable = |why: String| Problem { retry_after: Some(1), ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "proxy_internal_error", why) };
    let (Some(attester), Some(key)) = (plan.identity.attester(), asked.key) else {
        return Err(unavailable("this side has no attester, or this connection no key of ours".to_owned()));
    };
    let refused = |error: QuoteError| unavailable(error.to_string());
    let origin = format!("https://{}", asked.authority.strip_suffix(":443").unwrap_or(asked.authority));
    let listed = attester.listed().await.map_err(refused)?;
    let claims =
        BindingClaims { kind: Kind::Web, spki: *key, instance: plan.identity.instance().to_vec(), aux: binding::digests(&listed), epoch: None, hpke: None };
    let bind = claims.encode();
    let BatchedQuote { quote, proof, .. } = attester.quote(binding::web_leaf(&nonce, key, &origin, &bind), asked.source.map(network)).await.map_err(refused)?;
    let mut tee = quote.evidence.clone();
    tee.auxiliary.extend_from_slice(&listed);
    let collection = Collection { tee, bind: bind.clone(), endorsements: quote.endorsements.clone() };
    let text = |octets: &[u8]| data_encoding::BASE64URL_NOPAD.encode(octets);
    let path: Vec<String> = proof.path.iter().map(|node| text(node)).collect();
    let document =
        serde_json::json!({ "v": 1, "cmw": text(&collection.encode()), "cb": text(&bind), "proof": [proof.index, proof.size, path], "origin": origin });
    let mut response = Response::new(body::full(document.to_string()));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}

/// The one nonce of a query that has nothing else in it.
fn nonce(query: Option<&str>) -> Option<Vec<u8>> {
    let text = query?.strip_prefix("nonce=")?;
    // 64 octets are 86 letters.
    if text.len() > 86 {
        return None;
    }
    data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok().filter(|nonce| NONCE.contains(&nonce.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_of_ipv6_is_its_network() {
        let clock = crate::clock::Clock::system();
        let identity = crate::tls::Identity::beside(None, crate::tls::IdentitySettings::Issued, clock, std::sync::Arc::default());
        let plan = WebEvidence { path: "/".to_owned(), identity: identity.expect("an identity"), per_source: 2, total: 100 };
        let (pace, mut answered) = (Pace::default(), 0);
        for last in 1..=50_u16 {
            answered += u32::from(pace.room(format!("2001:db8::{last:x}").parse().ok(), &plan));
        }
        assert_eq!(answered, 2, "a host with a network of its own takes what is for all");
        assert!(pace.room("2001:db8:0:1::1".parse().ok(), &plan));
    }

    #[test]
    fn nonces_have_a_length_and_one_spelling() {
        let of = |octets: usize| format!("nonce={}", data_encoding::BASE64URL_NOPAD.encode(&vec![7; octets]));
        for (query, good) in [
            (of(31), false),
            (of(32), true),
            (of(64), true),
            (of(65), false),
            (format!("{}=", of(32)), false),
            (format!("{}&x=1", of(32)), false),
            (format!("x=1&{}", of(32)), false),
            ("nonce=".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(nonce(Some(&query)).is_some(), good, "{query}");
        }
        assert_eq!(nonce(None), None);
    }
}
