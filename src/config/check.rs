//! The whole file: its tables in the order in which they need each other, then what holds between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::http::To;
use super::listener::{self, Placed};
use super::sides::{Collected, Known};
use super::tree::{At, Faults, Section};
use super::{
    Acme, AcmeChallenge, Bind, Config, ConfigError, Deny, Forward, Log, LogFormat, Policy, Public, Report, Upstream, deny, files, identity, schema, upstream,
    values,
};
use crate::diagnostic::{Diagnostic, nearest};
use crate::policy::{MAX_POLICY, Mode};

/// How long open connections may finish when nothing else is said.
const DRAIN_GRACE: Duration = Duration::from_secs(30);

pub(super) fn read(name: &str, text: &str, folder: &Path) -> Result<Config, ConfigError> {
    let faults = Faults::default();
    let mut notes = Notes::default();
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        faults.note(Diagnostic::new(error.span().unwrap_or(0..0), format!("not TOML: {}", error.message().lines().collect::<Vec<_>>().join(", "))));
    }
    // A tree with holes gives errors that are none.
    let config = if errors.is_empty() { file(&Section::open(&schema::FILE, table.get_ref(), 0..0, &faults), folder, &mut notes) } else { None };
    let mut reports = notes.errors;
    let (diagnostics, warnings) = faults.into_both();
    if !diagnostics.is_empty() {
        reports.insert(0, Report { name: name.to_owned(), text: text.to_owned(), diagnostics });
    }
    let mut config = match config {
        Some(config) if reports.is_empty() => config,
        _ => return Err(ConfigError(reports)),
    };
    if !warnings.is_empty() {
        config.warnings.push(Report { name: name.to_owned(), text: text.to_owned(), diagnostics: warnings });
    }
    config.warnings.extend(notes.warnings);
    config.digest = crate::crypto::sha256(&[text.as_bytes()]);
    Ok(config)
}

/// What is found beside the file's own errors.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) errors: Vec<Report>,
    warnings: Vec<Report>,
}

fn file(file: &Section<'_>, folder: &Path, notes: &mut Notes) -> Option<Config> {
    version(file);
    let mut collected = Collected::default();
    let identity = identity::read(file, folder, &mut collected.insecure);
    let deny = deny::read(file, folder, notes);
    let policies = policies(file, folder, (deny.as_ref(), notes), &mut collected.insecure);
    let known: BTreeMap<_, _> = policies.iter().map(|(name, policy)| (name.value.clone(), policy.clone())).collect();
    let against = Known { folder, policies: &known, identity: identity.as_ref() };
    let upstreams = upstreams(file, &against, &mut collected);
    let acme = super::acme::read(file, folder);
    let listeners = listeners(file, &against, &upstreams, &mut collected);
    proofs(file, acme.as_ref(), &listeners);
    keys(file, &listeners);
    let collateral = super::collateral::read(file, folder, &mut collected.insecure);
    let observe = file.table("observe", &schema::OBSERVE).and_then(|observe| {
        observe.required("bind");
        observe.parsed("bind", values::address)
    });
    clashes(file, &listeners, observe.as_ref());
    unused(file, &policies, &collected);
    idle(file, &listeners, &collected);
    let drain_grace = file.within("drain_grace", Duration::ZERO, Duration::from_secs(3600)).unwrap_or(DRAIN_GRACE);
    let log = log(file);
    Some(Config {
        identity,
        listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
        upstreams: upstreams.into_iter().filter_map(|(name, upstream)| Some((name, upstream?))).collect(),
        policies: known.into_iter().filter_map(|(name, policy)| Some((name, policy?))).collect(),
        deny,
        acme,
        collateral,
        observe: observe.map(|observe| observe.value),
        log,
        drain_grace,
        insecure: collected.insecure,
        warnings: Vec::new(),
        digest: [0; 32],
    })
}

fn version(file: &Section<'_>) {
    match file.has("version") {
        None => file.wrong(&(0..0), "`version` is missing", "begin the file with version = 1"),
        Some(span) => {
            if file.number("version", 0..=u64::MAX).is_some_and(|version| version != 1) {
                file.wrong(&span, "this program reads version 1", "write version = 1");
            }
        }
    }
}

/// The policies by name; `None` for one that has errors.
fn policies<'a>(
    file: &Section<'a>,
    folder: &Path,
    (deny, notes): (Option<&Deny>, &mut Notes),
    insecure: &mut Vec<String>,
) -> Vec<(At<String>, Option<Policy>)> {
    let mut read = |(name, section): (At<&'a str>, Section<'a>)| {
        section.faults.keep(&name.span, values::word(name.value));
        let mode = mode(&section);
        if mode == Mode::Observe {
            insecure.push(format!("policy.{}.insecure_observe", name.value));
        }
        let policy = policy(&section, folder, mode, (deny, notes));
        if let Some(policy) = &policy {
            insecure.extend(policy.policy.insecure.iter().map(|key| format!("policy.{}: {key}", name.value)));
        }
        (name.map(str::to_owned), policy)
    };
    file.named("policy", &schema::POLICY).into_iter().map(&mut read).collect()
}

fn mode(section: &Section<'_>) -> Mode {
    let acknowledged = section.flag("insecure_observe");
    match section.string("mode").map(|mode| (mode.value, mode.span)) {
        None | Some(("enforce", _)) => Mode::Enforce,
        Some(("observe", _)) if acknowledged => Mode::Observe,
        Some(("observe", span)) => {
            section.wrong(&span, "mode \"observe\" lets any code in".to_owned(), "if you mean it, write insecure_observe = true beside it");
            Mode::Enforce
        }
        Some((other, span)) => {
            section.wrong(&span, format!("unknown mode \"{other}\""), "one of \"enforce\", \"observe\"");
            Mode::Enforce
        }
    }
}

fn policy(section: &Section<'_>, folder: &Path, mode: Mode, (deny, notes): (Option<&Deny>, &mut Notes)) -> Option<Policy> {
    let written = section.required("file")?;
    let file = folder.join(written.value);
    let bytes = section.faults.keep(&written.span, files::read(&file, MAX_POLICY))?;
    match super::read_policy(file.display().to_string(), &bytes) {
        Ok((mut policy, warnings)) => {
            if !warnings.diagnostics.is_empty() {
                notes.warnings.push(warnings);
            }
            policy.mode = mode;
            policy.deny_list = deny.map(|deny| Arc::clone(&deny.list));
            Some(Policy { file, policy: Arc::new(policy) })
        }
        Err(ConfigError(reports)) => {
            notes.errors.extend(reports);
            None
        }
    }
}

/// The upstreams by name; `None` for one that has errors.
fn upstreams(file: &Section<'_>, known: &Known<'_>, collected: &mut Collected) -> BTreeMap<String, Option<Upstream>> {
    let mut upstreams = BTreeMap::new();
    let sections = file.tables("upstream", &schema::UPSTREAM);
    if sections.is_empty() {
        file.wrong(&(0..0), "there is no upstream", "write [[upstream]] with name and targets");
    }
    for section in sections {
        let upstream = upstream::read(&section, known, collected);
        let Some(name) = section.string("name") else { continue };
        if upstreams.insert(name.value.to_owned(), upstream).is_some() {
            section.wrong(&name.span, format!("two upstreams are called \"{}\"", name.value), "choose another name");
        }
    }
    upstreams
}

fn listeners(file: &Section<'_>, known: &Known<'_>, upstreams: &BTreeMap<String, Option<Upstream>>, collected: &mut Collected) -> Vec<Placed> {
    let mut names: Vec<String> = Vec::new();
    let mut listeners = Vec::new();
    let sections = file.tables("listener", &schema::LISTENER);
    if sections.is_empty() {
        file.wrong(&(0..0), "there is no listener", "write [[listener]] with name, bind and upstream");
    }
    for section in sections {
        listeners.extend(listener::read(&section, known, upstreams, collected));
        unmet(&section, known);
        let Some(name) = section.string("name") else { continue };
        if names.iter().any(|other| other == name.value) {
            section.wrong(&name.span, format!("two listeners are called \"{}\"", name.value), "choose another name");
        }
        names.push(name.value.to_owned());
    }
    listeners
}

/// What a CA is asked for and what it may ask for.
fn proofs(file: &Section<'_>, acme: Option<&Acme>, listeners: &[Placed]) {
    let wanting: Vec<_> = listeners.iter().filter(|(listener, _)| matches!(listener.public, Some(Public::Acme(_)))).collect();
    match (acme, file.has("acme"), wanting.first()) {
        (Some(acme), Some(span), Some(_)) if acme.challenge == AcmeChallenge::Http01 && !listeners.iter().any(|(listener, _)| listener.redirects()) => {
            let help = "write a plain [[listener]] with protocol = \"http\" and redirect = \"https\", which port 80 of the names leads to; or challenge = \"tls-alpn-01\"";
            file.wrong(&span, "no listener answers the challenge \"http-01\"", help);
        }
        (_, Some(span), None) => file.wrong(&span, "[acme] without a listener that has certificate = \"webpki\"", "leave it out: it would do nothing"),
        (_, None, Some((_, span))) => {
            file.wrong(
                span,
                "certificate = \"webpki\" without [acme]",
                "write [acme] with directory, agree_tos and state_dir: the CA that gives the certificate",
            );
        }
        _ => {}
    }
}

/// Tokens are worth nothing to an application that cannot get the keys.
fn keys(file: &Section<'_>, listeners: &[Placed]) {
    let signs = |listener: &super::Listener| matches!(&listener.forward, Forward::Http(site) if site.tokens.is_some());
    if let (Some((_, span)), None) = (listeners.iter().find(|(listener, _)| signs(listener)), file.has("observe")) {
        file.wrong(
            span,
            "tokens without [observe]: nobody could get the keys that they are signed with",
            "write [observe] with bind: the keys are at /.well-known/jwks.json",
        );
    }
}

fn clashes(file: &Section<'_>, listeners: &[Placed], observe: Option<&At<SocketAddr>>) {
    let mut tcp: Vec<(String, SocketAddr)> = Vec::new();
    let mut unix: Vec<(&str, &Path)> = Vec::new();
    let mut passed: Vec<(&str, &str)> = Vec::new();
    let mut vsock: Vec<(&str, Option<u32>, u32)> = Vec::new();
    let mut add = |what: String, address: SocketAddr, span: &Range<usize>| {
        if let Some((other, taken)) = tcp.iter().find(|(_, taken)| clash(taken, &address)) {
            file.wrong(span, format!("{address} is taken by {other} ({taken})"), "choose another port or address");
        }
        tcp.push((what, address));
    };
    for (listener, span) in listeners {
        match &listener.bind {
            Bind::Tcp(address) => add(format!("listener \"{}\"", listener.name), *address, span),
            Bind::Systemd(name) => {
                if let Some((other, _)) = passed.iter().find(|(_, taken)| taken == name) {
                    let help = "pass another socket: a .socket unit of its own with another FileDescriptorName=";
                    file.wrong(span, format!("systemd:{name} is taken by listener \"{other}\""), help);
                }
                passed.push((&listener.name, name));
            }
            Bind::Unix(path) => {
                if let Some((other, _)) = unix.iter().find(|(_, taken)| taken == path) {
                    file.wrong(span, format!("{} is taken by listener \"{other}\"", path.display()), "choose another path");
                }
                unix.push((&listener.name, path));
            }
            Bind::Vsock { cid, port } => {
                let same = |(_, other, taken): &&(_, Option<u32>, u32)| taken == port && (other == cid || other.is_none() || cid.is_none());
                if let Some((other, ..)) = vsock.iter().find(same) {
                    file.wrong(span, format!("{} is taken by listener \"{other}\"", listener.bind), "choose another port");
                }
                vsock.push((&listener.name, *cid, *port));
            }
        }
    }
    if let Some(observe) = observe {
        add("[observe]".to_owned(), observe.value, &observe.span);
    }
}

/// Whether two addresses cannot be bound at once.
fn clash(one: &SocketAddr, other: &SocketAddr) -> bool {
    let wild = |address: &SocketAddr| address.ip().is_unspecified();
    let same_family = one.is_ipv4() == other.is_ipv4();
    let dual = |address: &SocketAddr| address.is_ipv6() && wild(address);
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || (same_family && (wild(one) || wild(other))) || dual(one) || dual(other))
}

/// Warns of rules for an entry that the policy does not have: clients that they were meant for are answered with 403.
fn unmet(listener: &Section<'_>, known: &Known<'_>) {
    let Some(name) = listener.string("policy") else { return };
    let Some(Some(policy)) = known.policies.get(name.value) else { return };
    let ids: Vec<&str> = policy.policy.accept.iter().map(|entry| entry.id.as_str()).collect();
    for rule in listener.tables("allow", &schema::ALLOW) {
        let Some(entry) = rule.string("entry") else { continue };
        let meant = |id: &&str| entry.value.strip_suffix('*').map_or(*id == entry.value, |beginning| id.starts_with(beginning));
        if !ids.is_empty() && !ids.iter().any(meant) {
            let message = format!("no entry of policy \"{}\" is called \"{}\": this rule lets nobody do anything", name.value, entry.value);
            let help = match nearest(entry.value, ids.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("its entries are {}", ids.join(", ")),
            };
            listener.faults.warn(&entry.span, message, help);
        }
    }
}

fn unused(file: &Section<'_>, policies: &[(At<String>, Option<Policy>)], collected: &Collected) {
    for (name, _) in policies.iter().filter(|(name, _)| !collected.used_policies.contains(&name.value)) {
        file.faults.warn(&name.span, format!("policy \"{}\" is used by nothing", name.value), "remove it, or name it where it is meant");
    }
    for section in file.tables("upstream", &schema::UPSTREAM) {
        if let Some(name) = section.string("name").filter(|name| !collected.used_upstreams.iter().any(|used| used == name.value)) {
            let message = format!("upstream \"{}\" is used by no listener", name.value);
            file.faults.warn(&name.span, message, "remove it, or name it where it is meant");
        }
    }
}

/// Warns of what an upstream says of requests where none go there, and of sessions where nothing but requests does.
fn idle(file: &Section<'_>, listeners: &[Placed], collected: &Collected) {
    let (mut requests, mut bytes) = (Vec::new(), Vec::new());
    for (listener, _) in listeners {
        match &listener.forward {
            Forward::Chosen(choice) => bytes.extend(choice.among.iter().map(|line| &line.upstream)),
            Forward::Tcp(upstream) => bytes.push(upstream),
            Forward::Http(site) => {
                bytes.extend(site.destinations.iter().map(|line| &line.upstream));
                requests.extend(site.routes.iter().filter_map(|route| if let To::Upstream(name) = &route.to { Some(name) } else { None }));
            }
        }
    }
    for section in file.tables("upstream", &schema::UPSTREAM) {
        let Some(name) = section.string("name").filter(|name| collected.used_upstreams.iter().any(|used| used == name.value)) else { continue };
        let led = |there: &[&String]| there.iter().any(|upstream| *upstream == name.value);
        let warn = |key: &str, what: &str| {
            if let Some(span) = section.has(key) {
                let message = format!("`{key}` does nothing: {what} upstream \"{}\"", name.value);
                file.faults.warn(&span, message, "leave it out, or look whether the listener's `protocol` is the one that is meant");
            }
        };
        if !led(&requests) {
            ["balance", "health", "first_byte", "ejection"].iter().for_each(|key| warn(key, "no listener of protocol \"http\" sends requests to"));
        }
        if !led(&bytes) {
            warn("multiplex", "requests share sessions always, and nothing else goes to");
        }
    }
}

fn log(file: &Section<'_>) -> Log {
    let Some(log) = file.table("log", &schema::LOG) else { return Log::default() };
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels = ["error", "warn", "info", "debug"].map(|level| (level, level));
    let default = Log::default();
    Log {
        format: log.parsed("format", |text| values::one_of(text, "format", &formats)).map_or(default.format, |format| format.value),
        level: log.parsed("level", |text| values::one_of(text, "level", &levels)).map_or(default.level, |level| level.value),
    }
}
