//! The files of a configuration: policies and how long they hold, the deny list, keys and who may read them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::output::counted;
use super::{Line, State};
use crate::clock::Clock;
use crate::config::choice::{By, Choice};
use crate::config::{CertificateFiles, Config, Deny, Forward, Policy, Public};
use crate::evidence::Timestamp;
use crate::file::{Exposure, exposure};
use crate::policy::{Accept, Entry};

const PART: &str = "configuration";

/// What ends within this time is worth a word.
const SOON: u64 = 14 * 86_400;

/// A line for each file, and one for what weakens safety.
pub(super) fn lines(config: &Config) -> Vec<Line> {
    // A clock that cannot be right is told elsewhere; by it, all ends later.
    let now = Clock::system().now().unwrap_or(Timestamp(0));
    let mut lines: Vec<Line> = config.policies.iter().map(|(name, policy)| of_policy(name, policy, now)).collect();
    lines.extend(config.deny.as_ref().map(|deny| of_deny(deny, now)));
    if let Some(CertificateFiles { chain, key }) = config.identity.as_ref().and_then(|identity| identity.certificate.as_ref()) {
        lines.push(of_chain(chain, now));
        lines.push(of_secret("private key", key));
    }
    for listener in &config.listeners {
        if let Some(Public::Files(CertificateFiles { chain, key })) = &listener.public {
            lines.push(of_chain(chain, now));
            lines.push(of_secret("private key", key));
        }
        if let Forward::Chosen(Choice { by: By::Socks5(Some(accounts)), .. }) = &listener.forward {
            lines.push(of_secret("accounts", &accounts.file));
        }
    }
    for option in &config.insecure {
        lines.push(Line::new(PART, option, State::Note, "weakens what is checked, and is in force"));
    }
    lines
}

fn of_policy(name: &str, Policy { file, policy }: &Policy, now: Timestamp) -> Line {
    let line = |state, found: String| Line::new(PART, format!("policy {name} ({})", file.display()), state, found);
    if let Some(writers) = writable_by_others(file) {
        return line(State::Bad, writers).fix(format!("chmod go-w {}: whoever writes it decides who is accepted", file.display()));
    }
    let mut ends: Vec<(Timestamp, String)> = policy.expires.map(|end| (end, "the policy".to_owned())).into_iter().collect();
    ends.extend(policy.accept.iter().flat_map(ends_of));
    ends.sort();
    let ended: Vec<_> = ends.iter().filter(|(end, _)| *end < now).map(|(end, what)| format!("{what} ended {end}")).collect();
    if !ended.is_empty() {
        let whole = policy.expires.is_some_and(|end| end < now);
        let state = if whole || policy.accept.iter().all(|entry| entry.not_after.is_some_and(|end| end < now)) { State::Bad } else { State::Note };
        return line(state, ended.join("; ")).fix("write a later day, or take out what has ended: what has ended accepts nobody");
    }
    let entries = counted(policy.accept.len(), "entry", "entries");
    match ends.first() {
        None => line(State::Good, format!("{entries}, no end")),
        Some((end, what)) if *end < now.plus(SOON) => {
            line(State::Note, format!("{entries}; {what} ends {end}, in {} days", end.0.saturating_sub(now.0) / 86_400)).fix("renew it before then")
        }
        Some((end, what)) => line(State::Good, format!("{entries}; {what} ends first, {end}")),
    }
}

/// What of an entry ends, and when.
fn ends_of(entry: &Entry) -> Vec<(Timestamp, String)> {
    let tolerated = entry.constraints.iter().flat_map(|constraint| match &constraint.accept {
        Accept::TcbStatus(tolerated) => tolerated.as_slice(),
        _ => &[],
    });
    let tolerated = tolerated.map(|tolerated| (tolerated.until, format!("entry {}: the tolerance of {}", entry.id, tolerated.status)));
    entry.not_after.map(|end| (end, format!("entry {}", entry.id))).into_iter().chain(tolerated).collect()
}

fn of_deny(deny: &Deny, now: Timestamp) -> Line {
    let (number, expires) = (deny.list.number, deny.list.expires);
    let line = |state, found| Line::new(PART, format!("deny list ({})", deny.file.display()), state, found);
    if expires < now {
        return line(State::Bad, format!("edition {number} ended {expires}: nobody is accepted")).fix("sign and publish a newer edition");
    }
    if expires < now.plus(SOON) {
        return line(State::Note, format!("edition {number} ends {expires}; then nobody is accepted")).fix("sign and publish a newer edition before then");
    }
    line(State::Good, format!("edition {number}, signed, until {expires}"))
}

fn of_chain(path: &Path, now: Timestamp) -> Line {
    let line = |state, found| Line::new(PART, format!("certificate ({})", path.display()), state, found);
    let mend = "name a readable file of CERTIFICATE blocks in PEM, the leaf first";
    let leaf = match CertificateDer::from_pem_file(path) {
        Ok(leaf) => leaf,
        Err(error) => return line(State::Bad, error.to_string()).fix(mend),
    };
    let Ok((_, certificate)) = X509Certificate::from_der(&leaf) else { return line(State::Bad, "its first block is no certificate".to_owned()).fix(mend) };
    let end = Timestamp(u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0));
    if end < now {
        return line(State::Bad, format!("it ended {end}")).fix("have it issued again; files are read again while the proxy runs");
    }
    line(State::Good, format!("until {end}"))
}

fn of_secret(what: &str, path: &Path) -> Line {
    let line = |state, found| Line::new(PART, format!("{what} ({})", path.display()), state, found);
    let metadata = match fs::metadata(path).and_then(|metadata| fs::File::open(path).map(|_| metadata)) {
        Ok(metadata) => metadata,
        Err(error) => return line(State::Bad, error.to_string()).fix("name the file, and let the user of the proxy read it"),
    };
    if let Some(Exposure::Read(how) | Exposure::Written(how)) = exposure(&metadata) {
        return line(State::Bad, how).fix(format!("chmod 0600 {} (a mounted Secret: defaultMode: 0400)", path.display()));
    }
    let mode = metadata.mode() & 0o7777;
    line(State::Good, format!("mode {mode:04o}, owner {}, group {}", metadata.uid(), metadata.gid()))
}

fn writable_by_others(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.mode() & 0o7777;
    (mode & 0o002 != 0).then(|| format!("mode {mode:04o}: every user of this machine may write it"))
}
