//! Header fields on their way through: those of one hop stay behind, forwarding fields are set anew.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::HeaderMap;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, VIA};

/// Fields that belong to one hop (RFC 9110 7.6.1), beside those that `Connection` names.
static HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that tell of the way a request came, or of another target than its own; believed of nobody but a trusted proxy.
/// Compared as applications may fold them.
const FORWARDING: &[&str] = &["forwarded", "true-client-ip", "x-client-ip", "x-cluster-client-ip", "x-real-ip", "x-rewrite-url"];

/// Beginnings of such names.
const FORWARDING_BEGINNINGS: &[&str] = &["x-envoy-original-", "x-forwarded-", "x-original-"];

/// Fields that many frameworks take for the method, in its place.
const METHODS: &[&str] = &["x-http-method", "x-http-method-override", "x-method-override"];

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Removes what belongs to one hop. `TE` keeps `trailers`, which gRPC needs.
pub(super) fn strip_hop(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = words(fields, &CONNECTION).filter_map(|word| HeaderName::from_bytes(word.as_bytes()).ok()).collect();
    let trailers = words(fields, &TE).any(|word| word.eq_ignore_ascii_case("trailers"));
    // What frames a message or says where it goes is no hop's to remove.
    let kept = |name: &HeaderName| matches!(name.as_str(), "host" | "content-length" | "content-type" | "authorization");
    remove(fields, |name| HOP.contains(name) || *name == TE || (named.contains(name) && !kept(name)));
    if trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes the fields of a kind: most messages have few fields and none of them, so each is looked at once.
fn remove(fields: &mut HeaderMap, of_kind: impl Fn(&HeaderName) -> bool) {
    let found: Vec<HeaderName> = fields.keys().filter(|name| of_kind(name)).cloned().collect();
    found.iter().for_each(|name| drop(fields.remove(name)));
}

fn tells_way(name: &HeaderName) -> bool {
    FORWARDING.iter().any(|known| folds_to(name.as_str(), known)) || FORWARDING_BEGINNINGS.iter().any(|beginning| begins_as(name.as_str(), beginning))
}

/// Whether an application may take another method than the request's for what is asked.
pub(super) fn overrides_method(fields: &HeaderMap) -> bool {
    fields.keys().any(|name| METHODS.iter().any(|known| folds_to(name.as_str(), known)))
}

/// Whether an application may take `name` for `known`: CGI and its heirs turn every other character into one and the same.
pub(super) fn folds_to(name: &str, known: &str) -> bool {
    name.len() == known.len() && folded(name).eq(folded(known))
}

/// Whether an application may take the beginning of `name` for that.
pub(super) fn begins_as(name: &str, beginning: &str) -> bool {
    name.get(..beginning.len()).is_some_and(|begin| folds_to(begin, beginning))
}

fn folded(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|octet| if octet.is_ascii_alphanumeric() { octet.to_ascii_lowercase() } else { b'-' })
}

/// Removes from trailers what belongs into a head (RFC 9110 6.5.1).
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    strip_hop(trailers);
    remove(trailers, tells_way);
    for name in [
        "authorization",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "host",
        "set-cookie",
        "te",
        "trailer",
        "via",
    ] {
        trailers.remove(name);
    }
}

/// The comma-separated words of a field, however many lines it has.
pub(super) fn words<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = fields.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// Whether an HTTP/1.1 request says that a body follows.
pub(super) fn announce_body(fields: &HeaderMap) -> bool {
    fields.contains_key(TRANSFER_ENCODING) || fields.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// Whether a message says its length more than once. HTTP/2 lets the same number stand twice, and who reads it in HTTP/1.1
/// may take that for anything.
pub(super) fn repeats_length(fields: &HeaderMap) -> bool {
    fields.get_all(CONTENT_LENGTH).iter().nth(1).is_some()
}

/// The protocol that an HTTP/1.1 client asks to switch to, in lower case.
pub(super) fn wanted_upgrade(fields: &HeaderMap) -> Option<String> {
    let asked = words(fields, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    asked.then(|| words(fields, &UPGRADE).next().map(str::to_ascii_lowercase)).flatten()
}

/// The client of a connection, as forwarding fields tell of it.
#[derive(Debug)]
pub(super) struct Client {
    scheme: HeaderValue,
    /// An element of `Forwarded`, without the host.
    element: String,
    /// None over a Unix socket.
    address: Option<HeaderValue>,
}

impl Client {
    /// One that came from this address, over TLS or not.
    pub(super) fn new(from: Option<IpAddr>, secure: bool) -> Self {
        let scheme = if secure { "https" } else { "http" };
        let from = from.map(|address| address.to_canonical());
        let node = match from {
            Some(IpAddr::V4(address)) => address.to_string(),
            Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
            None => "unknown".to_owned(),
        };
        let address = from.and_then(|address| HeaderValue::try_from(address.to_string()).ok());
        Self { scheme: HeaderValue::from_static(scheme), element: format!("for={node};proto={scheme}"), address }
    }
}

/// The way a request came to us.
pub(super) struct Came<'a> {
    pub(super) client: &'a Client,
    /// The host it asked for.
    pub(super) host: &'a str,
    /// Whether what it says of the way before is kept.
    pub(super) trusted: bool,
}

/// Sets the forwarding fields.
pub(super) fn set_forwarding(fields: &mut HeaderMap, came: &Came<'_>) {
    if came.trusted {
        // In its own spelling alone: what stands there in another was said by somebody before it.
        remove(fields, |name| tells_way(name) && name.as_str().bytes().any(|octet| !octet.is_ascii_alphanumeric() && octet != b'-'));
    } else {
        remove(fields, tells_way);
    }
    let quotable = !came.host.is_empty() && came.host.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'"' && octet != b'\\');
    let element = &came.client.element;
    let whole = if quotable { HeaderValue::try_from(format!("{element};host=\"{}\"", came.host)) } else { HeaderValue::from_str(element) };
    if let Ok(whole) = whole {
        append(fields, &FORWARDED, whole);
    }
    if let Some(address) = &came.client.address {
        append(fields, &FORWARDED_FOR, address.clone());
    }
    for (name, value) in [(FORWARDED_PROTO, Ok(came.client.scheme.clone())), (FORWARDED_HOST, HeaderValue::from_str(came.host))] {
        if let (false, Ok(value)) = (came.trusted && fields.contains_key(&name), value) {
            fields.insert(name, value);
        }
    }
}

/// Adds to a list field, in one line.
fn append(fields: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    let before = words(fields, name).collect::<Vec<_>>().join(", ");
    let whole = if before.is_empty() { Ok(value) } else { HeaderValue::from_bytes(&[before.as_bytes(), b", ", value.as_bytes()].concat()) };
    if let Ok(whole) = whole {
        fields.insert(name, whole);
    }
}

/// A listener's name in `Via`.
#[derive(Debug)]
pub(super) struct Pseudonym {
    name: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Pseudonym {
    /// A name that no other has, as far as `random` is.
    pub(super) fn of(random: &[u8]) -> Self {
        let name = format!("portcullis-{}", data_encoding::HEXLOWER.encode(random));
        let via = |version: &str| HeaderValue::try_from(format!("{version} {name}")).unwrap_or_else(|_| HeaderValue::from_static("1.1 portcullis"));
        Self { http10: via("1.0"), http11: via("1.1"), http2: via("2"), name }
    }
}

/// Whether this listener's pseudonym is already in `Via`: the message goes round in a circle.
pub(super) fn looped(fields: &HeaderMap, pseudonym: &Pseudonym) -> bool {
    words(fields, &VIA).any(|word| word.split_whitespace().nth(1) == Some(pseudonym.name.as_str()))
}

/// Adds ourselves to `Via`.
pub(super) fn add_via(fields: &mut HeaderMap, version: hyper::Version, pseudonym: &Pseudonym) {
    let via = match version {
        hyper::Version::HTTP_2 => &pseudonym.http2,
        hyper::Version::HTTP_10 => &pseudonym.http10,
        _ => &pseudonym.http11,
    };
    append(fields, &VIA, via.clone());
}

/// Makes request ids that nobody can foretell or count by: a keyed hash of a number, which asks the system for nothing.
#[derive(Debug, Default)]
pub(super) struct Ids {
    keys: [RandomState; 2],
    last: AtomicU64,
}

impl Ids {
    fn fresh(&self) -> HeaderValue {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let [high, low] = [&self.keys[0], &self.keys[1]].map(|key| key.hash_one(number));
        HeaderValue::try_from(format!("{high:016x}{low:016x}")).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

/// Keeps a request id that may stand in a log, or makes one.
pub(super) fn request_id(fields: &mut HeaderMap, keep: bool, ids: &Ids) -> HeaderValue {
    let good = |value: &&HeaderValue| (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    let one = fields.get_all(&REQUEST_ID).iter().count() == 1;
    let id = fields.get(&REQUEST_ID).filter(|_| keep && one).filter(good).cloned().unwrap_or_else(|| ids.fresh());
    fields.insert(REQUEST_ID, id.clone());
    id
}

/// What a request's `Host` and target say together: one authority, or why it is refused.
///
/// # Errors
/// A sentence for the client.
pub(super) fn authority(parts: &hyper::http::request::Parts) -> Result<String, &'static str> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err("more than one Host field");
    }
    let host = host.map(|host| host.to_str().map_err(|_| "a Host field that is no text")).transpose()?;
    let target = parts.uri.authority().map(hyper::http::uri::Authority::as_str);
    let authority = match (target, host) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => return Err("a Host field that differs from the target"),
        (Some(authority), _) | (None, Some(authority)) => authority,
        (None, None) if parts.version == hyper::Version::HTTP_10 => "",
        (None, None) => return Err("no Host field"),
    };
    let plain = authority.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._:[]~".contains(&octet));
    let read = authority.is_empty() || authority.parse::<hyper::http::uri::Authority>().is_ok();
    if plain && read { Ok(authority.to_ascii_lowercase()) } else { Err("an authority that is none") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().expect("a name"), value.parse::<HeaderValue>().expect("a value"));
        list.iter().map(pair).collect()
    }

    #[test]
    fn what_belongs_to_one_hop_stays_behind() {
        let mut some = fields(&[
            ("connection", "close, X-Private"),
            ("connection", "content-length"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "secret"),
            ("te", "gzip, trailers;q=0.5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
            ("x-public", "2"),
        ]);
        strip_hop(&mut some);
        let mut left: Vec<_> = some.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default())).collect();
        // The order of fields with different names says nothing (RFC 9110 5.3), and removing one changes it.
        left.sort_unstable();
        assert_eq!(left, [("content-length", "3"), ("te", "trailers"), ("x-public", "2")]);
    }

    #[test]
    fn forwarding_fields_are_made_anew_unless_the_proxy_is_trusted() {
        let sent = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded.proto", "spoofed"),
            ("x_original-url", "/admin"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("x-forwarded-proto", "ftp"),
            ("x-forwarded-uri", "/admin"),
            ("x_forwarded_method", "DELETE"),
            ("x-original-uri", "/admin"),
        ];
        let odd = |fields: &HeaderMap| {
            fields.keys().any(|name| ["x_forwarded_for", "x-forwarded.proto", "x_original-url", "x_forwarded_method"].contains(&name.as_str()))
        };
        let client = Client::new("2001:db8::1".parse().ok(), true);
        let came = |trusted| Came { client: &client, host: "a.example:8443", trusted };
        let mut some = fields(&sent);
        set_forwarding(&mut some, &came(false));
        let text = |fields: &HeaderMap, name: &str| fields.get(name).and_then(|value| value.to_str().ok().map(str::to_owned));
        assert_eq!(text(&some, "x-forwarded-for").as_deref(), Some("2001:db8::1"));
        assert_eq!(text(&some, "forwarded").as_deref(), Some("for=\"[2001:db8::1]\";proto=https;host=\"a.example:8443\""));
        assert_eq!((text(&some, "x-forwarded-proto").as_deref(), text(&some, "x-real-ip")), (Some("https"), None));
        assert_eq!((text(&some, "x-forwarded-uri"), text(&some, "x-original-uri")), (None, None));
        assert!(!odd(&some), "an application that folds names believes what the client says");
        let mut some = fields(&sent);
        set_forwarding(&mut some, &came(true));
        assert!(!odd(&some), "the proxy that is trusted has not said that");
        assert_eq!(text(&some, "x-forwarded-for").as_deref(), Some("1.2.3.4, 2001:db8::1"));
        assert_eq!(text(&some, "x-forwarded-proto").as_deref(), Some("ftp"));
    }

    #[test]
    fn a_circle_is_noticed() {
        let mut some = fields(&[("via", "1.1 other, 2 somebody")]);
        let (one, another) = (Pseudonym::of(&[1]), Pseudonym::of(&[2]));
        assert!(!looped(&some, &one));
        add_via(&mut some, hyper::Version::HTTP_2, &one);
        assert_eq!(some[VIA], "1.1 other, 2 somebody, 2 portcullis-01");
        assert!(looped(&some, &one) && !looped(&some, &another));
    }

    #[test]
    fn a_request_id_is_kept_from_whom_it_is_believed_and_else_new() {
        let ids = Ids::default();
        let mut some = fields(&[("x-request-id", "theirs")]);
        assert_eq!(request_id(&mut some, true, &ids), "theirs");
        let (one, two) = (request_id(&mut some, false, &ids), request_id(&mut some, false, &ids));
        assert_eq!((one.len(), &some[REQUEST_ID]), (32, &two));
        assert!(one != two && Ids::default().fresh() != Ids::default().fresh(), "nobody can foretell them");
    }

    #[test]
    fn one_authority_or_none() {
        let judged = |uri: &str, list: &[(&str, &str)]| {
            let mut request = hyper::Request::new(());
            *request.uri_mut() = uri.parse().expect("a target");
            *request.headers_mut() = fields(list);
            authority(&request.into_parts().0)
        };
        assert_eq!(judged("/", &[("host", "A.example:80")]), Ok("a.example:80".to_owned()));
        assert_eq!(judged("http://a.example/", &[("host", "a.EXAMPLE")]), Ok("a.example".to_owned()));
        for (uri, list) in [
            ("/", &[][..]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("http://a/", &[("host", "b")]),
            ("/", &[("host", "user@a")]),
            ("/", &[("host", "a b")]),
            ("/", &[("host", "a/b")]),
            ("/", &[("host", "a,b")]),
        ] {
            assert!(judged(uri, list).is_err(), "{uri} {list:?}");
        }
    }
}
