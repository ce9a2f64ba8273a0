//! The verified identity of a client, handed to the application; and everything that could be taken for one, removed
//! first, from requests and responses, heads and trailers.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::fields::{begins_as, folds_to};
use super::plan::IdentityHeader;
use super::token::{Token, Tokens};
use crate::evidence::Timestamp;
use crate::proxy::admit::{Admitted, Ground};
use crate::refusal::{Denied, Finding, Reason};
use crate::verify::Origin;

/// Fields by which an application may be told who its client is: ours, and those of other proxies. Compared as applications
/// may fold them.
const NAMES: &[&str] = &[
    "client-cert",
    "client-cert-chain",
    "l5d-client-id",
    "ssl-client-cert",
    "x-amzn-mtls-clientcert",
    "x-arr-clientcert",
    "x-client-dn",
    "x-client-verify",
    "x-forwarded-client-cert",
    "x-peer-certificate",
    "x-spiffe-id",
    "x-ssl-cert",
];

/// Beginnings of such names.
const BEGINNINGS: &[&str] = &[
    "attested-",
    "ssl-client-",
    "x-amzn-mtls-",
    "x-attested-",
    "x-client-cert",
    "x-flashbots-",
    "x-forwarded-tls-client-cert",
    "x-portcullis-",
    "x-ratls-",
    "x-ssl-client-",
    "x-tls-client-",
];

const PEER: HeaderName = HeaderName::from_static("attested-peer");
const TOKEN: HeaderName = HeaderName::from_static("attested-token");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FLASHBOTS_MEASUREMENT: HeaderName = HeaderName::from_static("x-flashbots-measurement");
const FLASHBOTS_TYPE: HeaderName = HeaderName::from_static("x-flashbots-attestation-type");

/// The fields that say it here: each has a label of its own where it is counted, and all others one together.
static OURS: [HeaderName; 6] = [PEER, TOKEN, CLIENT_CERT, XFCC, FLASHBOTS_MEASUREMENT, FLASHBOTS_TYPE];

/// Whether a field could be taken for somebody's identity. `more` are names the operator added.
fn tells_identity(name: &HeaderName, more: &[String]) -> bool {
    let name = name.as_str();
    let is = |known: &str| folds_to(name, known);
    NAMES.iter().any(|known| is(known)) || BEGINNINGS.iter().any(|beginning| begins_as(name, beginning)) || more.iter().any(|more| is(more))
}

/// Removes every such field; gives the names of those that were there.
pub(super) fn strip(fields: &mut HeaderMap, more: &[String]) -> Vec<HeaderName> {
    let found: Vec<HeaderName> = fields.keys().filter(|name| tells_identity(name, more)).cloned().collect();
    found.iter().for_each(|name| drop(fields.remove(name)));
    found
}

/// How a field that was removed is called where it is counted: clients choose names.
pub(super) fn label(name: &HeaderName) -> &'static str {
    OURS.iter().find(|ours| *ours == name).map_or("other", HeaderName::as_str)
}

/// What of the client is told, made once for a connection.
#[derive(Debug, Default)]
pub(super) struct Introduction {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// What comes before the age of the verdict, when it was made, and what comes behind.
    structured: Option<(String, Timestamp, String)>,
    /// With [`IdentityHeader::Token`], for a client that proved itself: `Some(None)` when none can be made out for its key.
    token: Option<Option<Token>>,
}

impl Introduction {
    /// What is told of `admitted`; nothing of a client that proved nothing.
    pub(super) fn of(admitted: &Admitted, forms: &[IdentityHeader], tokens: Option<&Tokens>) -> Arc<Self> {
        let Ground::Attested(_, result) = &admitted.ground else { return Arc::default() };
        let appraisal = result.appraisal();
        let measurement = appraisal.claims().find("measurement");
        let octets = measurement.map(ToString::to_string).and_then(|hex| data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok());
        let mut told = Self::default();
        for form in forms {
            match form {
                IdentityHeader::Structured => {
                    let measured = octets.as_ref().map(|octets| format!("; m=:{}:", data_encoding::BASE64.encode(octets))).unwrap_or_default();
                    let peer = format!("{}; entry={}; policy={}{measured}", appraisal.platform(), quoted(appraisal.entry()), quoted(appraisal.policy()));
                    // What only looks like a verdict of an enforced policy about a real machine says so.
                    let marks = [(!appraisal.observed().is_empty(), "; observed"), (appraisal.origin() == Origin::Simulator, "; simulated")];
                    let marks = marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| *mark).collect();
                    told.structured = Some((peer, admitted.since, marks));
                }
                IdentityHeader::ClientCert => {
                    let der = admitted.certificate.as_ref().map(|leaf| format!(":{}:", data_encoding::BASE64.encode(leaf)));
                    told.add(CLIENT_CERT, der);
                }
                IdentityHeader::Xfcc => {
                    let hash = admitted.certificate.as_ref().map(|leaf| data_encoding::HEXLOWER.encode(&crate::crypto::sha256(&[leaf])));
                    told.add(XFCC, hash.map(|hash| xfcc(&hash, &admitted.names)));
                }
                IdentityHeader::Flashbots => {
                    let measured = octets.as_ref().map(|octets| format!("{{\"0\":\"{}\"}}", data_encoding::HEXLOWER.encode(octets)));
                    told.add(FLASHBOTS_MEASUREMENT, measured);
                    told.add(FLASHBOTS_TYPE, Some(appraisal.platform().to_owned()));
                }
                IdentityHeader::Token => told.token = Some(tokens.and_then(|tokens| Token::of(admitted, tokens))),
            }
        }
        Arc::new(told)
    }

    fn add(&mut self, name: HeaderName, value: Option<String>) {
        self.fields.extend(value.and_then(|value| HeaderValue::try_from(value).ok()).map(|value| (name, value)));
    }

    /// Tells the application. After [`strip`], and after the fields of a hop are gone.
    ///
    /// # Errors
    /// When the application wants a token and there can be none.
    pub(super) fn tell(&self, fields: &mut HeaderMap, admitted: &Admitted, now: Timestamp) -> Result<(), Denied> {
        for (name, value) in &self.fields {
            fields.insert(name, value.clone());
        }
        if let Some((peer, since, marks)) = &self.structured
            && let Ok(value) = HeaderValue::try_from(format!("{peer}; age={}{marks}", now.0.saturating_sub(since.0)))
        {
            fields.insert(PEER, value);
        }
        if let Some(token) = &self.token {
            let missing = || Finding::new(Reason::TlsUnacceptable, "identity.token", "a token about the client's key", "none for a key of this kind");
            let token = token.as_ref().ok_or_else(missing)?;
            fields.insert(TOKEN, token.value(now, admitted.until().unwrap_or(now))?);
        }
        Ok(())
    }
}

/// A string of a structured field (RFC 9651 3.3.3); what it cannot say is left out.
fn quoted(text: &str) -> String {
    let escaped: String = text.chars().filter(|letter| (' '..='~').contains(letter)).fold(String::new(), |mut whole, letter| {
        if matches!(letter, '"' | '\\') {
            whole.push('\\');
        }
        whole.push(letter);
        whole
    });
    format!("\"{escaped}\"")
}

/// One element as Envoy writes it. Names come from a certificate and may hold anything.
fn xfcc(hash: &str, names: &[String]) -> String {
    let safe = |name: &&String| name.chars().all(|letter| letter.is_ascii_graphic() && !"\",;=\\".contains(letter));
    let part = |name: &String| if name.contains("://") { format!(";URI={name}") } else { format!(";DNS={name}") };
    let names: String = names.iter().filter(safe).map(part).collect();
    format!("Hash={hash}{names}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_could_be_an_identity_stays() {
        let mut fields = HeaderMap::new();
        for name in [
            "Attested-Peer",
            "ATTESTED_PEER",
            "attested.peer",
            "Attested-Token",
            "X-Attested-Anything",
            "client-cert",
            "Client_Cert",
            "Client-Cert-Chain",
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "X-Flashbots-Measurement",
            "x-flashbots_attestation-type",
            "X-SSL-Client-Verify",
            "l5d-client-id",
            "X-Ours",
            "x~ours",
        ] {
            fields.append(name.parse::<HeaderName>().expect("a name"), HeaderValue::from_static("forged"));
            fields.append(name.parse::<HeaderName>().expect("a name"), HeaderValue::from_static("twice"));
        }
        fields.insert("x-client", HeaderValue::from_static("kept"));
        let stripped = strip(&mut fields, &["x-ours".to_owned()]);
        assert_eq!(stripped.len(), 16);
        assert_eq!(fields.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-client"]);
    }

    #[test]
    fn strings_of_structured_fields_cannot_be_broken_out_of() {
        assert_eq!(quoted("a\"; admin=?1; x=\"\\\r\n\u{e4}"), r#""a\"; admin=?1; x=\"\\""#);
        assert_eq!(xfcc("ab", &["a.example".to_owned(), "evil;Hash=cd".to_owned(), "spiffe://mesh/a".to_owned()]), "Hash=ab;DNS=a.example;URI=spiffe://mesh/a");
    }
}
