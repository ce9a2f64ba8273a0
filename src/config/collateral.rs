//! `[collateral]`: what is meant, and how it is read out of what was typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tree::{Section, Wrong};
use super::{files, schema, values};
use crate::platform;

/// A bundle of collateral is not read beyond this many octets.
const MAX_BUNDLE: usize = 64 << 20;

/// Where endorsements come from, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Collateral {
    /// Asked in this order.
    pub sources: Vec<CollateralSource>,
    /// The folder of the cache on disk.
    pub cache: Option<PathBuf>,
    /// Roots of servers beside the public ones.
    pub roots: Vec<rustls::pki_types::TrustAnchor<'static>>,
    /// An HTTP proxy, by its address.
    pub proxy: Option<String>,
    /// How long one question may take; what is `None` here has the collateral's own default.
    pub timeout: Option<Duration>,
    /// How long a connection waits for what was never seen.
    pub wait: Option<Duration>,
    /// How often lists are asked for again.
    pub refresh: Option<Duration>,
}

/// One source of endorsements.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CollateralSource {
    /// The vendors' services it stands for; empty for all.
    pub services: Vec<String>,
    /// What it is.
    pub place: CollateralPlace,
}

/// What a source of endorsements is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CollateralPlace {
    /// A bundle file.
    Bundle(PathBuf),
    /// A folder in the shape of the vendor's service.
    Folder(PathBuf),
    /// A server with the vendor's paths, by its address.
    Mirror(String),
    /// The vendor's own service.
    Vendor,
}

/// Reads `[collateral]`; `None` without one.
pub(super) fn read(file: &Section<'_>, folder: &Path, insecure: &mut Vec<String>) -> Option<Collateral> {
    let section = file.table("collateral", &schema::COLLATERAL)?;
    insecure.extend(section.insecure("collateral"));
    let plain = section.flag("insecure_plain_sources");
    let written = section.parsed_list("sources", |text| source(text, folder, plain));
    let sources = match section.has("sources") {
        None => vec![CollateralSource { services: Vec::new(), place: CollateralPlace::Vendor }],
        Some(_) => written.into_iter().map(|source| source.value).collect(),
    };
    let least = Duration::from_millis(10);
    Some(Collateral {
        sources,
        cache: section.string("cache").map(|path| folder.join(path.value)),
        roots: section.parsed("roots", |path| files::roots(&folder.join(path))).map(|roots| roots.value).unwrap_or_default(),
        proxy: section.parsed("proxy", proxy).map(|proxy| proxy.value),
        timeout: section.within("timeout", least, Duration::from_secs(120)),
        wait: section.within("wait", Duration::ZERO, Duration::from_secs(60)),
        refresh: section.within("refresh", Duration::from_secs(60), Duration::from_secs(30 * 86_400)),
    })
}

/// The same from the command line.
pub(super) fn typed(sources: &[&str], cache: Option<&Path>) -> Result<Collateral, Wrong> {
    let sources = sources.iter().map(|text| source(text, Path::new("."), false)).collect::<Result<_, _>>()?;
    Ok(Collateral { sources, cache: cache.map(Path::to_owned), roots: Vec::new(), proxy: None, timeout: None, wait: None, refresh: None })
}

/// `[PLATFORM=]vendor`, an address, or a path.
fn source(text: &str, folder: &Path, plain: bool) -> Result<CollateralSource, Wrong> {
    let (services, what) = match text.split_once('=').filter(|(name, _)| !name.contains(['/', ':', '.'])) {
        None => (Vec::new(), text),
        Some((name, what)) => {
            let Some(platform) = platform::by_name(name).filter(|platform| !platform.vendor_service.is_empty()) else {
                let known: Vec<_> = platform::PLATFORMS.iter().filter(|row| !row.vendor_service.is_empty()).map(|row| row.name).collect();
                return Err(Wrong::new(format!("no platform \"{name}\" has a service"), format!("one of {}, or no prefix for all of them", known.join(", "))));
            };
            (vec![platform.vendor_service.to_owned()], what)
        }
    };
    let place = match what {
        "vendor" => CollateralPlace::Vendor,
        _ if what.contains("://") => CollateralPlace::Mirror(address(what, plain)?),
        _ if what.ends_with(".json") => {
            let path = folder.join(what);
            files::read(&path, MAX_BUNDLE)?;
            CollateralPlace::Bundle(path)
        }
        _ => {
            let path = folder.join(what);
            files::folder(&path)?;
            CollateralPlace::Folder(path)
        }
    };
    Ok(CollateralSource { services, place })
}

fn address(text: &str, plain: bool) -> Result<String, Wrong> {
    let wrong = |message: String| Wrong::new(message, "write \"https://HOST[:PORT][/PATH]\"");
    let uri: hyper::Uri = text.parse().map_err(|error| wrong(format!("\"{text}\" is no address: {error}")))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if values::is_local(host) || plain => {}
        Some("http") => {
            let help = "use https://; insecure_plain_sources = true accepts that whoever is on the way can withhold what is new";
            return Err(Wrong::new(format!("collateral would be fetched from {host} without TLS"), help));
        }
        _ => return Err(wrong(format!("\"{text}\" is neither https:// nor http://"))),
    }
    if host.is_empty() || uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong(format!("\"{text}\" is not a host, a port and a path")));
    }
    Ok(text.to_owned())
}

fn proxy(text: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::new(format!("\"{text}\" is not the address of a proxy"), "write \"http://HOST:PORT\": it is asked to CONNECT");
    let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
    values::host_and_port(rest.trim_end_matches('/')).map(|_| text.to_owned()).map_err(|_| wrong())
}
