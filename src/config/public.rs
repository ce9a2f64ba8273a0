//! The certificate of a listener for the public, from files or of a CA.

use super::listener::Kind;
use super::peer::{ANY_PLATFORM, REPLAY};
use super::sides::{Known, needs, plain_values};
use super::tree::Section;
use super::tree::Wrong;
use super::{CertificateFiles, files, schema, values};

/// The certificate of a listener for the public.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Public {
    /// Of a CA, for these names; there is an [`Acme`](super::Acme).
    Acme(Vec<String>),
    /// From files.
    Files(CertificateFiles),
}

/// A listener for clients that are no sidecars: browsers, `curl`.
pub(super) fn public(section: &Section<'_>, known: &Known<'_>, kind: Kind) -> Option<Public> {
    for key in ["freshness", "policy", "peer", REPLAY, ANY_PLATFORM] {
        needs(section, key, "certificate = \"attested\"");
    }
    if let Some(clients) = section.string("clients").filter(|clients| clients.value != "any") {
        let help = "leave it out: browsers show no evidence; or write certificate = \"attested\" for sidecars";
        section.wrong(&clients.span, format!("clients \"{}\" with a certificate for the public", clients.value), help);
    }
    if let (Some(evidence), None) = (section.has("evidence"), known.identity) {
        section.wrong(&evidence, "`evidence`, and [identity] has no provider", "write [identity] provider = \"auto\" (or \"simulator\" to try it)");
    }
    match kind {
        Kind::WebPki => {
            needs(section, "files", "certificate = \"files\"");
            if section.has("names").is_none() {
                section.missing("names");
            }
            let names = plain_values(section.parsed_list("names", dns_name));
            (!names.is_empty()).then_some(Public::Acme(names))
        }
        _ => {
            needs(section, "names", "certificate = \"webpki\"");
            if section.has("files").is_none() {
                section.missing("files");
            }
            let table = section.table("files", &schema::LISTENER_FILES)?;
            let readable = |path: &str| files::read(&known.folder.join(path), 1 << 20).map(|_| known.folder.join(path));
            table.required("chain");
            table.required("key");
            let (chain, key) = (table.parsed("chain", readable), files::secret(&table, "key", known.folder, 1 << 20));
            Some(Public::Files(CertificateFiles { chain: chain?.value, key: key?.0 }))
        }
    }
}

/// A name that a CA can look for.
fn dns_name(text: &str) -> Result<String, Wrong> {
    let help = "write DNS names in lower case, without asterisks: these challenges prove single hosts";
    let name = values::certificate_name(text).ok().filter(|name| !name.contains(['/', '*', ':']));
    name.ok_or_else(|| Wrong::new(format!("\"{text}\" is not the name of a host"), help))
}
