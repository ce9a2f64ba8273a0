//! Answers of our own. The local application behind a plain listener is told everything; a peer is told a status.

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Method, Response, StatusCode};

use super::body::{self, Body, Fate};
use super::pool::Failure;
use crate::refusal::Denied;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a request was not answered by an upstream.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// The error type of RFC 9209 2.3.
    pub(super) error: &'static str,
    /// A sentence for people.
    pub(super) detail: String,
    /// The reason codes, when the far end was refused.
    pub(super) reasons: Vec<&'static str>,
    /// Seconds.
    pub(super) retry_after: Option<u64>,
}

/// Who is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Audience {
    /// The application on this machine that uses us.
    Application,
    /// Somebody who connected from elsewhere.
    Peer,
}

/// What its reader understands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// A gRPC client reads its status from fields, and takes other HTTP statuses for noise.
    Grpc,
    Plain,
}

impl Form {
    /// That of the answers to a request with this method and these fields. A refused CONNECT is never answered with the 200 of
    /// gRPC: it would say that there is a tunnel.
    pub(super) fn of(method: &Method, request: &HeaderMap) -> Self {
        let grpc = *method != Method::CONNECT && request.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if grpc { Self::Grpc } else { Self::Plain }
    }
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: &'static str, detail: impl Into<String>) -> Self {
        Self { status, error, detail: detail.into(), reasons: Vec::new(), retry_after: None }
    }

    /// The request itself is wrong.
    pub(super) fn request(status: StatusCode, detail: impl Into<String>) -> Self {
        Self::new(status, "http_request_error", detail)
    }

    /// The request is not allowed.
    pub(super) fn denied(status: StatusCode, detail: impl Into<String>) -> Self {
        Self::new(status, "http_request_denied", detail)
    }

    /// There is no room now.
    pub(super) fn full(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(status, "connection_limit_reached", detail) }
    }

    /// The client may not go where it wants to.
    pub(super) fn forbidden(denied: &Denied) -> Self {
        let reasons = denied.findings().map(|finding| finding.reason.code()).collect();
        Self { reasons, ..Self::denied(StatusCode::FORBIDDEN, denied.to_string()) }
    }

    fn refused(denied: &Denied) -> Self {
        let reasons = denied.findings().map(|finding| finding.reason.code()).collect();
        let undecided = denied.reason().undecided();
        let status = if undecided { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY };
        let retry_after = undecided.then_some(5);
        Self { reasons, retry_after, ..Self::new(status, "tls_certificate_error", denied.to_string()) }
    }

    /// What a failed try at an upstream means for the client. The body may be what failed.
    pub(super) fn of(failure: &Failure, fate: &Fate) -> Self {
        if fate.too_large() {
            return Self::request(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than this listener allows (limits.body)");
        }
        if fate.slow() {
            return Self::request(StatusCode::REQUEST_TIMEOUT, "the body stood still for too long");
        }
        if fate.broken() {
            return Self::request(StatusCode::BAD_REQUEST, "the body is broken");
        }
        match failure {
            Failure::Full => Self::full(StatusCode::SERVICE_UNAVAILABLE, "as many connections to upstreams are open as this process may have"),
            Failure::Refused(denied) => Self::refused(denied),
            Failure::Unreachable(tried) => {
                let said = tried.iter().map(|(target, error)| format!("{target}: {error}")).collect::<Vec<_>>().join("; ");
                let timed_out = !tried.is_empty() && tried.iter().all(|(_, error)| error.kind() == std::io::ErrorKind::TimedOut);
                let (status, error) =
                    if timed_out { (StatusCode::GATEWAY_TIMEOUT, "connection_timeout") } else { (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable") };
                Self { retry_after: (!timed_out).then_some(1), ..Self::new(status, error, format!("no target can be reached: {said}")) }
            }
            Failure::Lost(error) => Self::new(StatusCode::BAD_GATEWAY, "connection_terminated", format!("the upstream broke off: {error}")),
            Failure::Late => Self::new(StatusCode::GATEWAY_TIMEOUT, "http_response_timeout", "the upstream did not answer in time"),
            Failure::NoUpgrade => Self::new(StatusCode::BAD_GATEWAY, "http_upgrade_failed", "the upstream does not take extended CONNECT (RFC 8441)"),
        }
    }

    /// The answer, in the form its reader understands.
    pub(super) fn answer(&self, audience: Audience, form: Form) -> Response<Body> {
        let mut response = match form {
            Form::Grpc => self.grpc(audience),
            Form::Plain => self.plain(audience),
        };
        let fields = response.headers_mut();
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            fields.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if audience == Audience::Application
            && let Ok(status) = HeaderValue::try_from(self.proxy_status())
        {
            fields.insert(PROXY_STATUS, status);
        }
        response
    }

    /// RFC 9209.
    fn proxy_status(&self) -> String {
        match self.reasons.as_slice() {
            [] => format!("portcullis; error={}", self.error),
            reasons => format!("portcullis; error={}; details=\"{}\"", self.error, reasons.join(",")),
        }
    }

    /// RFC 9457 for the application; words of the status alone for a peer.
    fn plain(&self, audience: Audience) -> Response<Body> {
        let title = self.status.canonical_reason().unwrap_or("refused");
        let (kind, text) = match audience {
            Audience::Peer => ("text/plain; charset=utf-8", format!("{title}\n")),
            Audience::Application => {
                let mut problem = serde_json::json!({
                    "type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail, "error": self.error,
                });
                if let (Some(first), Some(object)) = (self.reasons.first(), problem.as_object_mut()) {
                    object.insert("reason".to_owned(), (*first).into());
                    object.insert("reasons".to_owned(), self.reasons.clone().into());
                }
                ("application/problem+json", format!("{problem}\n"))
            }
        };
        let mut response = Response::new(body::full(text));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }

    fn grpc(&self, audience: Audience) -> Response<Body> {
        let code = match self.status.as_u16() {
            400 | 408 => "13",
            401 => "16",
            403 => "7",
            404 | 405 | 421 => "12",
            413 | 429 => "8",
            504 => "4",
            _ => "14",
        };
        let message = match audience {
            Audience::Peer => self.status.canonical_reason().unwrap_or("refused").to_owned(),
            Audience::Application if self.reasons.is_empty() => self.detail.clone(),
            Audience::Application => format!("{}: {}", self.reasons.join(","), self.detail),
        };
        let mut response = Response::new(body::empty());
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert(GRPC_STATUS, HeaderValue::from_static(code));
        fields.extend(HeaderValue::try_from(percent_encoded(&message)).ok().map(|message| (GRPC_MESSAGE, message)));
        response
    }
}

/// 308 to `target`.
pub(super) fn redirect(target: &str) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().extend(HeaderValue::from_str(target).ok().map(|target| (LOCATION, target)));
    response
}

/// As gRPC writes its messages: printable ASCII but the percent sign stands for itself.
fn percent_encoded(text: &str) -> String {
    let write = |octet: u8| if (b' '..=b'~').contains(&octet) && octet != b'%' { char::from(octet).to_string() } else { format!("%{octet:02X}") };
    text.bytes().take(1024).map(write).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::{Finding, Reason};

    fn refusal() -> Problem {
        let denied: Denied = Finding::new(Reason::MeasurementUnknown, "report.measurement", "1b8c", "9f31").into();
        Problem::of(&Failure::Refused(denied), &Fate::default())
    }

    #[test]
    fn the_application_learns_the_reason_and_a_peer_does_not() {
        let told = refusal().answer(Audience::Application, Form::Plain);
        assert_eq!(
            (told.status().as_u16(), told.headers()["proxy-status"].to_str().ok()),
            (502, Some("portcullis; error=tls_certificate_error; details=\"measurement_unknown\""))
        );
        assert_eq!(told.headers()["content-type"], "application/problem+json");
        let told = refusal().answer(Audience::Peer, Form::Plain);
        assert_eq!((told.status().as_u16(), told.headers().get("proxy-status")), (502, None));
    }

    #[test]
    fn grpc_clients_get_their_own_form() {
        let request: HeaderMap = [(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"))].into_iter().collect();
        assert_eq!((Form::of(&Method::POST, &request), Form::of(&Method::POST, &HeaderMap::new())), (Form::Grpc, Form::Plain));
        assert_eq!(Form::of(&Method::CONNECT, &request), Form::Plain, "a refused tunnel that is told as one");
        let told = refusal().answer(Audience::Application, Form::Grpc);
        assert_eq!((told.status().as_u16(), &told.headers()["grpc-status"]), (200, &HeaderValue::from_static("14")));
        assert!(told.headers()["grpc-message"].to_str().is_ok_and(|message| message.starts_with("measurement_unknown")));
        let told = refusal().answer(Audience::Peer, Form::Grpc);
        assert_eq!(told.headers()["grpc-message"], "Bad Gateway");
        assert_eq!(percent_encoded("50% \u{e4}\n"), "50%25 %C3%A4%0A");
    }
}
