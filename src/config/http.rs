//! What `protocol = "http"` adds to listeners and upstreams.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::choice::{self, Destination};
use super::listener::Kind;
use super::sides::{Collected, needs, reference, something_attested};
use super::tree::{Section, Wrong};
use super::values::{self, one_of};
use super::{Transport, schema};

/// What is done with the requests of a listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Site {
    /// The first that fits decides.
    pub routes: Vec<Route>,
    /// What attested clients may call; empty for everything.
    pub allow: Vec<Allow>,
    /// How the application is told who its client is.
    pub identity: Vec<IdentityHeader>,
    /// How tokens are made out; with `token` among the forms.
    pub tokens: Option<Tokens>,
    /// Further fields to remove, in lower case.
    pub strip: Vec<String>,
    /// Addresses whose forwarding fields are kept, with the number of bits that count.
    pub trusted_proxies: Vec<(IpAddr, u8)>,
    /// What connections may be upgraded to, in lower case.
    pub upgrades: Vec<String>,
    /// Where applications may CONNECT to.
    pub destinations: Vec<Destination>,
    /// Evidence for browsers.
    pub evidence: Option<Evidence>,
    /// Bounds; what is `None` has the proxy's default.
    pub limits: Limits,
}

/// A form in which an application is told who its client is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "named as in the file")]
pub enum IdentityHeader {
    ClientCert,
    Flashbots,
    Structured,
    Token,
    Xfcc,
}

impl IdentityHeader {
    /// Its spelling in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        MODES.iter().find(|(_, form)| *form == Some(self)).map_or("", |(name, _)| name)
    }
}

/// How the file spells them, in the order in which they are offered; `none` tells nothing.
const MODES: [(&str, Option<IdentityHeader>); 6] = [
    ("structured", Some(IdentityHeader::Structured)),
    ("token", Some(IdentityHeader::Token)),
    ("client-cert", Some(IdentityHeader::ClientCert)),
    ("xfcc", Some(IdentityHeader::Xfcc)),
    ("flashbots", Some(IdentityHeader::Flashbots)),
    ("none", None),
];

/// What tokens say of themselves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tokens {
    /// Whom they are for.
    pub audience: String,
    /// Who made them.
    pub issuer: Option<String>,
}

/// See `[listener.evidence]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// Where it is served.
    pub path: String,
    /// Answers to one address in a second.
    pub per_source: u32,
    /// Answers in a second.
    pub total: u32,
}

/// Requests of a kind and where they go; what is empty fits all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// In lower case, `*.` for what is below.
    pub host: Option<String>,
    /// Paths, an asterisk at the end for anything.
    pub paths: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// Where they go.
    pub to: To,
}

/// Where a route leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum To {
    /// To the same address by https.
    RedirectToHttps,
    /// To the upstream of this name; it exists.
    Upstream(String),
}

/// What clients of a policy entry may call; what is empty fits all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Allow {
    /// The entry's id, an asterisk at the end for anything.
    pub entry: String,
    /// Methods.
    pub methods: Vec<String>,
    /// Paths.
    pub paths: Vec<String>,
}

/// See `[listener.limits]`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "named as in the file")]
pub struct Limits {
    pub header: Option<usize>,
    pub body: Option<u64>,
    pub request_header: Option<Duration>,
    pub request_body: Option<Duration>,
    pub streams: Option<u32>,
    pub requests: Option<usize>,
    pub rate: Option<u32>,
}

/// What an upstream is for HTTP.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Upstream {
    /// How a request finds its target; `None` for the default.
    pub balance: Option<Balance>,
    /// The path to ask for, and how often.
    pub health: Option<(String, Duration)>,
    /// How long the head of an answer may take.
    pub first_byte: Option<Duration>,
    /// How long a failed target is left out.
    pub ejection: Option<Duration>,
}

/// How a request finds its target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Balance {
    /// By the client's address and the host asked for.
    Hash,
    /// The one with the fewest requests.
    LeastRequest,
    /// Each in turn.
    RoundRobin,
}

/// How the file spells them.
const BALANCES: [(&str, Balance); 3] = [("round-robin", Balance::RoundRobin), ("least-request", Balance::LeastRequest), ("hash", Balance::Hash)];

type Upstreams = BTreeMap<String, Option<super::Upstream>>;

pub(super) fn upstream(section: &Section<'_>) -> Upstream {
    let health = section.table("health", &schema::HEALTH).and_then(|health| {
        health.required("path");
        let path = health.parsed("path", path)?;
        Some((path.value, health.within("every", Duration::from_millis(100), Duration::from_secs(3600)).unwrap_or(Duration::from_secs(5))))
    });
    Upstream {
        balance: section.parsed("balance", |text| one_of(text, "balance", &BALANCES)).map(|balance| balance.value),
        health,
        first_byte: section.within("first_byte", Duration::from_millis(10), Duration::from_secs(86_400)),
        ejection: section.within("ejection", Duration::from_millis(10), Duration::from_secs(3600)),
    }
}

/// `kind`: what is presented to clients; `attested`: whether they prove themselves.
pub(super) fn site(section: &Section<'_>, upstreams: &Upstreams, (kind, attested): (Kind, bool), collected: &mut Collected) -> Option<Site> {
    // A certificate for the public attests nothing by itself.
    let vouched = kind == Kind::Attested || (kind != Kind::Plain && section.has("evidence").is_some());
    let mut whole = true;
    let mut routes = Vec::new();
    for route in section.tables("route", &schema::ROUTE) {
        let host = route.parsed("host", host).map(|host| host.value);
        let (paths, methods) = (patterns(&route), methods(&route));
        let to = to(&route, upstreams, vouched, collected);
        whole &= to.is_some();
        routes.extend(to.map(|to| Route { host, paths, methods, to }));
    }
    let routed = section.has("route").is_some();
    let destinations = choice::tunnels(section, upstreams, kind, collected);
    whole &= destinations.is_some();
    let tunnels_alone = section.has("destination").is_some() && !routed;
    if section.has("upstream").is_some() || section.has("redirect").is_some() || !(routed || tunnels_alone) {
        let to = to(section, upstreams, vouched, collected);
        whole &= to.is_some();
        routes.extend(to.map(|to| Route { host: None, paths: Vec::new(), methods: Vec::new(), to }));
    }
    if let Some(default) = section.parsed("default", |text| one_of(text, "default", &[("deny", ())])) {
        if !routed {
            needs(section, "default", "`route`");
        } else if section.has("upstream").is_some() {
            section.wrong(&default.span, "`default` beside `upstream`", "leave one of them out: the upstream takes what no route fits");
        }
    }
    let allow = allow(section, attested);
    let (identity, tokens) = identity(section, attested);
    let evidence = evidence(section, kind != Kind::Plain);
    let limits = section.table("limits", &schema::LIMITS).map_or_else(Limits::default, |limits| self::limits(&limits));
    let plain = |values: Vec<super::tree::At<String>>| values.into_iter().map(|value| value.value).collect::<Vec<_>>();
    let upgrades = if section.has("upgrades").is_some() { plain(section.parsed_list("upgrades", upgrade)) } else { vec!["websocket".to_owned()] };
    let trusted_proxies = section.parsed_list("trusted_proxies", values::network).into_iter().map(|network| network.value).collect();
    let strip = plain(section.parsed_list("strip_headers", token));
    whole.then_some(Site {
        routes,
        allow,
        identity,
        tokens,
        strip,
        trusted_proxies,
        upgrades,
        destinations: destinations.unwrap_or_default(),
        evidence,
        limits,
    })
}

fn to(section: &Section<'_>, upstreams: &Upstreams, vouched: bool, collected: &mut Collected) -> Option<To> {
    if let Some(redirect) = section.parsed("redirect", |text| one_of(text, "redirect", &[("https", ())])) {
        if section.has("upstream").is_some() {
            section.wrong(&redirect.span, "`redirect` beside `upstream`", "leave one of them out");
        }
        return Some(To::RedirectToHttps);
    }
    let upstream = reference(section, "upstream", "upstream", upstreams)?;
    collected.used_upstreams.push(upstream.value.clone());
    something_attested(section, &upstream, upstreams, vouched);
    if let Some(Some(far)) = upstreams.get(&upstream.value) {
        let first = far.targets.first().map(|target| target.transport);
        let kind = |transport: &Transport| (*transport == Transport::Http2, *transport == Transport::Attested);
        if far.targets.iter().any(|target| first.as_ref().map(kind) != Some(kind(&target.transport))) {
            section.wrong(&upstream.span, format!("the targets of upstream \"{}\" speak different HTTP", far.name), "make an upstream of each kind");
        }
    }
    Some(To::Upstream(upstream.value))
}

fn allow(section: &Section<'_>, attested: bool) -> Vec<Allow> {
    if !attested {
        needs(section, "allow", "clients = \"attested\"");
    }
    let read = |rule: &Section<'_>| {
        let entry = rule.required("entry")?;
        Some(Allow { entry: entry.value.to_owned(), methods: methods(rule), paths: patterns(rule) })
    };
    section.tables("allow", &schema::ALLOW).iter().filter_map(read).collect()
}

fn identity(section: &Section<'_>, attested: bool) -> (Vec<IdentityHeader>, Option<Tokens>) {
    if !attested {
        needs(section, "identity_headers", "clients = \"attested\"");
        return (Vec::new(), None);
    }
    let Some(table) = section.table("identity_headers", &schema::IDENTITY_HEADERS) else { return (vec![IdentityHeader::Structured], None) };
    let modes = table.parsed_list("modes", |text| one_of(text, "mode", &MODES));
    if let Some(none) = modes.iter().find(|mode| mode.value.is_none() && modes.len() > 1) {
        table.wrong(&none.span, "\"none\" beside others", "leave one of them out");
    }
    let mut tokens = None;
    if modes.iter().any(|mode| mode.value == Some(IdentityHeader::Token)) {
        let audience = table.required("audience").map(|audience| audience.value.to_owned());
        let issuer = table.string("issuer").map(|issuer| issuer.value.to_owned());
        tokens = audience.map(|audience| Tokens { audience, issuer });
    } else {
        for key in ["audience", "issuer"] {
            needs(&table, key, "\"token\" among `modes`");
        }
    }
    if table.has("modes").is_none() {
        return (vec![IdentityHeader::Structured], None);
    }
    (modes.into_iter().filter_map(|mode| mode.value).collect(), tokens)
}

fn evidence(section: &Section<'_>, tls: bool) -> Option<Evidence> {
    if !tls {
        needs(section, "evidence", "`certificate`");
    }
    let table = section.table("evidence", &schema::EVIDENCE)?;
    let path = table.parsed("path", path).map_or_else(|| "/.well-known/portcullis/v1/evidence".to_owned(), |path| path.value);
    let count = |key, default| table.number(key, 1..=1_000_000).and_then(|count| u32::try_from(count).ok()).unwrap_or(default);
    Some(Evidence { path, per_source: count("per_source", 5), total: count("total", 100) })
}

fn limits(section: &Section<'_>) -> Limits {
    let time = |key| section.within(key, Duration::from_millis(100), Duration::from_secs(86_400));
    let size = |key, least: u64, most: u64| {
        let bounded = |text: &str| {
            let size = values::size(text)?;
            let help = format!("write at least {least} B and at most {} KiB", most >> 10);
            if (least..=most).contains(&size) { Ok(size) } else { Err(Wrong::new(format!("\"{text}\" is out of bounds"), help)) }
        };
        section.parsed(key, bounded).map(|size| size.value)
    };
    let count = |key, most| section.number(key, 1..=most).and_then(|count| u32::try_from(count).ok());
    Limits {
        header: size("header", 1 << 10, 1 << 20).and_then(|size| usize::try_from(size).ok()),
        body: size("body", 0, 1 << 50),
        request_header: time("request_header"),
        request_body: time("request_body"),
        streams: count("streams", 65_536),
        requests: count("requests", 1 << 24).and_then(|count| usize::try_from(count).ok()),
        rate: count("rate", 1 << 30),
    }
}

fn patterns(section: &Section<'_>) -> Vec<String> {
    let pattern = |text: &str| {
        let body = text.strip_suffix('*').unwrap_or(text);
        let good = text.starts_with('/') && !body.contains('*') && body.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'?' && octet != b'#');
        let help = "write a path that begins with /; an asterisk may stand at its end: \"/api/*\"";
        if good { Ok(text.to_owned()) } else { Err(Wrong::new(format!("\"{text}\" is not a path"), help)) }
    };
    section.parsed_list("paths", pattern).into_iter().map(|path| path.value).collect()
}

fn methods(section: &Section<'_>) -> Vec<String> {
    let method = |text: &str| {
        let good = !text.is_empty() && text.len() <= 32 && text.bytes().all(|octet| octet.is_ascii_uppercase() || octet == b'-');
        if good { Ok(text.to_owned()) } else { Err(Wrong::new(format!("\"{text}\" is not a method"), "write it in capitals: \"GET\", \"POST\"")) }
    };
    section.parsed_list("methods", method).into_iter().map(|method| method.value).collect()
}

fn path(text: &str) -> Result<String, Wrong> {
    let good = text.starts_with('/') && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'#');
    if good { Ok(text.to_owned()) } else { Err(Wrong::new(format!("\"{text}\" is not a path"), "write a path that begins with /")) }
}

fn host(text: &str) -> Result<String, Wrong> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let good =
        !name.is_empty() && name.len() <= 253 && name.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"-._:[]".contains(&octet));
    let help = "write a name in lower case without a port: \"orders.shop\", \"*.shop\"";
    if good { Ok(text.to_owned()) } else { Err(Wrong::new(format!("\"{text}\" is not a host"), help)) }
}

/// A protocol that connections may be upgraded to. Requests within it would be routed, allowed and stripped by nobody.
fn upgrade(text: &str) -> Result<String, Wrong> {
    let word = token(text)?;
    let name = word.split('/').next().unwrap_or_default();
    if ["h2", "h2c", "h3", "http", "tls"].contains(&name) {
        let help = "leave it out: HTTP/1.1 and HTTP/2 are taken without an upgrade, and each of their requests is looked at";
        return Err(Wrong::new(format!("an upgrade to \"{text}\" hides requests: no route, `allow` rule or identity field would hold for them"), help));
    }
    Ok(word)
}

/// A word that may stand in a header, in lower case.
fn token(text: &str) -> Result<String, Wrong> {
    let good = !text.is_empty() && text.len() <= 64 && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_.+/".contains(&octet));
    if good { Ok(text.to_ascii_lowercase()) } else { Err(Wrong::new(format!("\"{text}\" is not a word"), "write letters, digits, and - _ . + /")) }
}
