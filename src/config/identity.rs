//! `[identity]`: what is meant, and how it is read out of what was typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tree::{Section, Wrong};
use super::{schema, values};
use crate::platform::PLATFORMS;

/// How this side proves itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Where evidence comes from.
    pub provider: Provider,
    /// How long a certificate and its evidence are good.
    pub life: Duration,
    /// Names in the self-made certificate.
    pub names: Vec<String>,
    /// A folder of endorsements to staple.
    pub endorsements: Option<PathBuf>,
    /// An issued certificate in place of the self-made one.
    pub certificate: Option<CertificateFiles>,
    /// How long sessions are collected for one quote; `None` for the attester's default.
    pub batch_window: Option<Duration>,
    /// How many sessions may wait for a quote; `None` for the attester's default.
    pub batch_queue: Option<usize>,
    /// GPUs beside the TEE.
    pub gpus: Option<Gpus>,
}

/// GPUs beside the TEE, through a local service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gpus {
    /// The service's socket.
    pub socket: PathBuf,
    /// A folder of what verifiers need to judge its answers.
    pub endorsements: Option<PathBuf>,
    /// How long an answer may take; `None` for the default.
    pub timeout: Option<Duration>,
    /// How many sessions are answered at a time; `None` for the default.
    pub at_once: Option<usize>,
}

/// Where evidence comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Provider {
    /// The first way that works on this machine; never the simulator.
    Auto,
    /// This way of the hardware, one of [`crate::platform::providers`].
    Named(&'static str),
    /// Forged under published keys.
    Simulator(Simulator),
}

/// What simulated evidence claims.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Simulator {
    /// Makes the chip.
    pub seed: u64,
    /// The platform.
    pub platform: String,
    /// Which of the platform's products, by its name in policies; `None` for the simulator's own choice.
    pub product: Option<String>,
    /// The measurement; `None` for the simulator's own.
    pub measurement: Option<Vec<u8>>,
    /// How long one report takes.
    pub quote_delay: Duration,
    /// How many GPUs are beside it.
    pub gpus: usize,
}

impl Default for Simulator {
    fn default() -> Self {
        Self { seed: 1, platform: PLATFORMS[0].name.to_owned(), product: None, measurement: None, quote_delay: Duration::ZERO, gpus: 0 }
    }
}

/// An issued certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    /// PEM chain, leaf first.
    pub chain: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// The life of a certificate when nothing else is said.
const LIFE: Duration = Duration::from_secs(3600);

/// Reads `[identity]`; `None` without one, or with provider `none`.
pub(super) fn read(file: &Section<'_>, folder: &Path, insecure: &mut Vec<String>) -> Option<Identity> {
    let section = file.table("identity", &schema::IDENTITY)?;
    let simulated = section.table("simulator", &schema::SIMULATOR);
    let named = section.required("provider");
    let provider = match named.as_ref().map(|provider| provider.value) {
        Some("auto") => Some(Provider::Auto),
        Some("simulator") => {
            insecure.push("identity.provider = \"simulator\"".to_owned());
            Some(Provider::Simulator(simulator(simulated.as_ref())))
        }
        Some(text) => crate::platform::providers().into_iter().find(|name| *name == text).map(Provider::Named),
        None => None,
    };
    if let Some(named) = &named {
        if provider.is_none() && named.value != "none" {
            let names = [&["auto"], &*crate::platform::providers(), &["simulator", "none"]].concat();
            section.wrong(&named.span, format!("unknown provider \"{}\"", named.value), one_of(&names));
        }
        if named.value == "simulator" && !cfg!(feature = "simulator") {
            section.wrong(&named.span, "this build has no simulator", "use \"auto\" in a TEE, or a build for tests");
        }
        if let Some(simulated) = simulated.filter(|_| named.value != "simulator") {
            section.wrong(&simulated.span, "[identity.simulator] without provider \"simulator\"", "leave it out: it would do nothing");
        }
    }
    let gpus = section.table("gpus", &schema::GPUS).map(|gpus| (gpus.span.clone(), self::gpus(&gpus, folder)));
    if let Some((span, _)) = &gpus {
        let twice = matches!(&provider, Some(Provider::Simulator(simulator)) if simulator.gpus > 0);
        if twice || named.as_ref().is_some_and(|named| named.value == "none") {
            section.wrong(
                span,
                "[identity.gpus] without a TEE, or beside simulated GPUs",
                "GPUs stand beside a TEE; name a provider, and leave identity.simulator.gpus out",
            );
        }
    }
    let identity = Identity {
        gpus: gpus.and_then(|(_, gpus)| gpus),
        provider: provider.clone().unwrap_or(Provider::Auto),
        life: section.within("life", Duration::from_secs(60), Duration::from_secs(86_400)).unwrap_or(LIFE),
        names: names(&section),
        endorsements: section.parsed("endorsements", |path| super::files::folder(&folder.join(path)).map(|()| folder.join(path))).map(|path| path.value),
        certificate: certificate(&section, folder),
        batch_window: section.within("batch_window", Duration::ZERO, Duration::from_secs(1)),
        batch_queue: section.number("batch_queue", 1..=65_536).and_then(|queue| usize::try_from(queue).ok()),
    };
    if provider.is_some() && section.has("names").is_none() && section.has("certificate").is_none() {
        section.missing("names");
    }
    provider.map(|_| identity)
}

fn simulator(section: Option<&Section<'_>>) -> Simulator {
    let default = Simulator::default();
    let Some(section) = section else { return default };
    let platform = section.parsed("platform", known_platform).map_or(default.platform, |platform| platform.value);
    let product = section.parsed("product", |text| known_product(&platform, text)).map(|product| product.value);
    Simulator {
        seed: section.number("seed", 0..=u64::MAX).unwrap_or(default.seed),
        product,
        measurement: section.parsed("measurement", values::measurement).map(|measurement| measurement.value),
        quote_delay: section.within("quote_delay", Duration::ZERO, Duration::from_secs(10)).unwrap_or(default.quote_delay),
        gpus: section.number("gpus", 0..=16).and_then(|gpus| usize::try_from(gpus).ok()).unwrap_or(default.gpus),
        platform,
    }
}

fn gpus(section: &Section<'_>, folder: &Path) -> Option<Gpus> {
    let endorsements = section.parsed("endorsements", |path| super::files::folder(&folder.join(path)).map(|()| folder.join(path)));
    let timeout = section.within("timeout", Duration::from_millis(100), Duration::from_secs(60));
    let at_once = section.number("at_once", 1..=16).and_then(|at_once| usize::try_from(at_once).ok());
    let socket = section.required("socket").map(|socket| folder.join(socket.value))?;
    Some(Gpus { socket, endorsements: endorsements.map(|path| path.value), timeout, at_once })
}

fn known_platform(text: &str) -> Result<String, Wrong> {
    let names: Vec<_> = PLATFORMS.iter().map(|platform| platform.name).collect();
    if names.contains(&text) { Ok(text.to_owned()) } else { Err(Wrong::new(format!("unknown platform \"{text}\""), one_of(&names))) }
}

#[cfg(feature = "simulator")]
fn known_product(platform: &str, text: &str) -> Result<String, Wrong> {
    let products = crate::platform::by_name(platform).map_or(&[][..], |platform| platform.simulated.products());
    if products.contains(&text) { Ok(text.to_owned()) } else { Err(Wrong::new(format!("unknown product \"{text}\""), one_of(products))) }
}

#[cfg(not(feature = "simulator"))]
fn known_product(_: &str, text: &str) -> Result<String, Wrong> {
    Ok(text.to_owned())
}

fn one_of(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("one of {}", quoted.join(", "))
}

fn names(section: &Section<'_>) -> Vec<String> {
    let read = section.parsed_list("names", values::certificate_name);
    let mut names: Vec<String> = Vec::new();
    for name in read {
        if names.contains(&name.value) {
            section.wrong(&name.span, format!("the name \"{}\" stands twice", name.value), "write it once");
        }
        names.push(name.value);
    }
    names
}

fn certificate(section: &Section<'_>, folder: &Path) -> Option<CertificateFiles> {
    let readable = |path: &str| super::files::read(&folder.join(path), 1 << 20).map(|_| folder.join(path));
    let (chain, key) = (section.parsed("certificate", readable), super::files::secret(section, "key", folder, 1 << 20));
    match (section.has("certificate"), section.has("key")) {
        (Some(span), None) => section.wrong(&span, "`certificate` without `key`", "write both, or neither for a self-made certificate"),
        (None, Some(span)) => section.wrong(&span, "`key` without `certificate`", "write both, or neither for a self-made certificate"),
        _ => {}
    }
    Some(CertificateFiles { chain: chain?.value, key: key?.0 })
}
