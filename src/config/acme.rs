//! `[acme]`: what is meant, and how it is read out of what was typed.

use std::path::{Path, PathBuf};

use super::tree::{Section, Wrong};
use super::values::one_of;
use super::{files, schema};

/// A CA that gives certificates by ACME.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Acme {
    /// The address of its directory, `https://`.
    pub directory: String,
    /// The only roots of its server; `None` for the public ones.
    pub roots: Option<Vec<rustls::pki_types::TrustAnchor<'static>>>,
    /// `mailto:` addresses.
    pub contact: Vec<String>,
    /// The folder of the account's key.
    pub state_dir: PathBuf,
    /// How names are proved.
    pub challenge: AcmeChallenge,
}

/// How it is proved to a CA that a name leads here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AcmeChallenge {
    /// At port 80, by listeners with `redirect`.
    Http01,
    /// At port 443, by the listener that wants the certificate.
    TlsAlpn01,
}

/// Reads `[acme]`; `None` without one.
pub(super) fn read(file: &Section<'_>, folder: &Path) -> Option<Acme> {
    let section = file.table("acme", &schema::ACME)?;
    section.required("directory");
    let directory = section.parsed("directory", directory);
    let state_dir = section.required("state_dir").map(|path| folder.join(path.value));
    let contact = section.parsed_list("contact", contact).into_iter().map(|contact| contact.value).collect();
    let roots = section.parsed("ca_file", |path| files::roots(&folder.join(path))).map(|roots| roots.value);
    if !section.flag("agree_tos") {
        let span = section.has("agree_tos").unwrap_or_else(|| section.span.clone());
        section.wrong(&span, "the CA's terms of service are not agreed to", "read them, then write agree_tos = true");
    }
    let challenges = [("tls-alpn-01", AcmeChallenge::TlsAlpn01), ("http-01", AcmeChallenge::Http01)];
    let challenge = section.parsed("challenge", |text| one_of(text, "challenge", &challenges)).map_or(AcmeChallenge::TlsAlpn01, |challenge| challenge.value);
    Some(Acme { directory: directory?.value, roots, contact, state_dir: state_dir?, challenge })
}

fn directory(text: &str) -> Result<String, Wrong> {
    let uri: Option<hyper::Uri> = text.parse().ok();
    let good = uri.is_some_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty()) && !text.contains('@'));
    if good { Ok(text.to_owned()) } else { Err(Wrong::new(format!("\"{text}\" is not the address of a directory"), "write \"https://HOST[:PORT]/PATH\"")) }
}

fn contact(text: &str) -> Result<String, Wrong> {
    let good = text.strip_prefix("mailto:").is_some_and(|address| address.contains('@') && address.bytes().all(|octet| octet.is_ascii_graphic()));
    if good { Ok(text.to_owned()) } else { Err(Wrong::new(format!("\"{text}\" is no contact"), "write \"mailto:NAME@HOST\"")) }
}
