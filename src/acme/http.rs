//! How a CA's server is spoken to: TLS 1.3 under the roots that are trusted, one request a connection, bounded in octets
//! and time.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::{ServerName, TrustAnchor};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// No answer of a CA is longer: a chain of certificates has some KiB.
const MOST: usize = 256 * 1024;

/// One request takes no longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A longer pause than this is not taken from a CA while an order is open; the order then fails and is tried again later.
const LONGEST_PAUSE: u64 = 60;

/// Speaks to a CA.
#[derive(Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(roots: Option<Vec<TrustAnchor<'static>>>) -> Result<Self, rustls::Error> {
        let roots = rustls::RootCertStore { roots: roots.unwrap_or_else(|| webpki_roots::TLS_SERVER_ROOTS.to_vec()) };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }

    async fn asked(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (request, host, port) = directed(request)?;
        let connection = TcpStream::connect((host.as_str(), port)).await.map_err(|error| other(format!("{host}:{port}: {error}")))?;
        let name = ServerName::try_from(host.clone()).map_err(|error| other(format!("{host}: {error}")))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, connection).await.map_err(|error| other(format!("{host}:{port}: {error}")))?;
        let broken = |error: hyper::Error| other(format!("{host}:{port}: {error}"));
        let (mut sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let answer = async {
            let (mut parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
            bound(&mut parts.headers);
            let body = Limited::new(body, MOST).collect().await.map_err(|error| other(format!("{host}:{port}: {error}")))?;
            Ok(BytesResponse { parts, body: Box::new(body.to_bytes()) })
        };
        let answer = answer.await;
        connection.abort();
        answer
    }
}

impl HttpClient for Client {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let asked = self.clone().asked(request);
        Box::pin(async { tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(other(format!("no answer within {} s", PATIENCE.as_secs())))) })
    }
}

/// The request as a server takes it, and where that is.
fn directed(mut request: Request<BodyWrapper<Bytes>>) -> Result<(Request<BodyWrapper<Bytes>>, String, u16), Error> {
    let uri = std::mem::take(request.uri_mut());
    let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(other(format!("{uri} is no https:// address")));
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let field = HeaderValue::try_from(authority.as_str()).map_err(|error| other(error.to_string()))?;
    request.headers_mut().insert(HOST, field);
    *request.uri_mut() = uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    Ok((request, host, authority.port_u16().unwrap_or(443)))
}

/// Pauses are bounded before anybody adds them to the time.
fn bound(fields: &mut HeaderMap) {
    let pause = fields.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse::<u64>().ok());
    match pause {
        Some(seconds) => drop(fields.insert(RETRY_AFTER, HeaderValue::from(seconds.min(LONGEST_PAUSE)))),
        None => drop(fields.remove(RETRY_AFTER)),
    }
}

fn other(why: String) -> Error {
    Error::Other(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_is_asked_and_by_its_host() {
        let of = |uri: &str| directed(Request::builder().uri(uri).body(BodyWrapper::default()).expect("a request"));
        let (request, host, port) = of("https://ca.example:9443/acme/new?x=1").expect("an address");
        assert_eq!((request.uri().to_string().as_str(), host.as_str(), port), ("/acme/new?x=1", "ca.example", 9443));
        assert_eq!(request.headers()[HOST], "ca.example:9443");
        assert!(of("https://[::1]/").is_ok_and(|(_, host, port)| host == "::1" && port == 443));
        assert!(of("http://ca.example/").is_err() && of("/acme").is_err());
    }

    #[test]
    fn a_pause_is_bounded_and_a_date_is_none() {
        for (written, kept) in [("5", Some("5")), ("18446744073709551615", Some("60")), ("99999999999999999999", None), ("Fri, 31 Dec 9999 23:59:59 GMT", None)]
        {
            let mut fields = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(written))]);
            bound(&mut fields);
            assert_eq!(fields.get(RETRY_AFTER).map(|value| value.to_str().expect("text")), kept, "{written}");
        }
    }
}
