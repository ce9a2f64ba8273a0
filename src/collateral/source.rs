//! Where items come from: what the operator has on disk, mirrors, the vendors' services. A peer never names one.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::bundle;
use super::http::{Address, Client};
use super::item::{self, Item};
use crate::evidence::Timestamp;

/// One source, as the operator named it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// The services it speaks for, by their addresses; empty for all.
    pub services: Vec<String>,
    /// What it is.
    pub place: Place,
}

/// What a source is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// A bundle: one file with many items.
    Bundle(PathBuf),
    /// A folder in the shape of the vendor's service: `vcek/v1/Genoa/crl` is a file in it.
    Folder(PathBuf),
    /// A server that serves the vendor's paths.
    Mirror(Address),
    /// The service that the item belongs to.
    Vendor,
}

impl Source {
    /// Whether it may have this item.
    #[must_use]
    pub fn serves(&self, item: &Item) -> bool {
        // A vendor may serve its items at several names of one domain.
        let domain = |service: &str| service.split_once('.').map(|(_, domain)| domain.to_owned());
        self.services.is_empty() || self.services.iter().any(|service| *service == item.service || domain(service) == domain(&item.service))
    }

    /// Whether asking it leaves this machine.
    #[must_use]
    pub const fn is_remote(&self) -> bool {
        matches!(self.place, Place::Mirror(_) | Place::Vendor)
    }

    /// The label of its kind in metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.place {
            Place::Bundle(_) => "bundle",
            Place::Folder(_) => "folder",
            Place::Mirror(_) => "mirror",
            Place::Vendor => "vendor",
        }
    }

    /// Asks for an item.
    pub(super) async fn ask(&self, client: &Client, item: &Item, now: Timestamp) -> Result<item::Read, Failure> {
        let (name, path) = (item.id.name, item.id.path.as_str());
        match &self.place {
            Place::Bundle(file) => {
                let (file, item) = (file.clone(), item.clone());
                in_the_background(move || bundle::find(&file, &item)).await
            }
            Place::Folder(folder) => {
                let (folder, path) = (folder.clone(), path.to_owned());
                let body = in_the_background(move || bundle::file_of(&folder, &path)).await?;
                // A signed document lies there with its chain, as it is cached.
                let read = item::read(name, &body, None).or_else(|why| {
                    let media_type = String::new();
                    item::endorsed(crate::evidence::Endorsement { name: name.to_owned(), media_type, bytes: body }).map_err(|_| why)
                });
                read.map_err(Failure::Unusable)
            }
            Place::Mirror(address) => served(client, address, name, mirrored(path), now).await,
            Place::Vendor => {
                let address = Address::parse(&item.service).map_err(Failure::Unusable)?;
                served(client, &address, name, path, now).await
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Bundle(path) | Place::Folder(path) => write!(f, "{}", path.display()),
            Place::Mirror(address) => address.fmt(f),
            Place::Vendor => f.write_str("vendor"),
        }
    }
}

/// Why a source did not give an item.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// It does not have it.
    Absent,
    /// It could not be reached, or broke off.
    Connection(String),
    /// A file could not be read.
    File(String),
    /// It answered with this status, which trying again will not change.
    Refused(u16),
    /// It failed lately, for this reason, and is left alone for now.
    Resting(Box<Self>),
    /// It is in trouble: a status of 500 or more.
    Server(u16, Option<Duration>),
    /// It asks to be asked less.
    Throttled(Option<Duration>),
    /// It did not answer in time.
    Timeout(Duration),
    /// What it gave is no such item, does not hold now, or is not the vendor's.
    Unusable(String),
}

impl Failure {
    /// The label of its kind in metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Connection(_) => "connection",
            Self::File(_) => "file",
            Self::Refused(_) => "refused",
            Self::Resting(_) => "resting",
            Self::Server(..) => "server",
            Self::Throttled(_) => "throttled",
            Self::Timeout(_) => "timeout",
            Self::Unusable(_) => "unusable",
        }
    }

    /// Whether it is worth waiting: the source is there, and asks for time.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Resting(why) => why.is_passing(),
            Self::Server(..) | Self::Throttled(_) => true,
            _ => false,
        }
    }

    /// How long the source asks to be left alone, when the trouble is the source's and not the item's.
    pub(super) const fn of_source(&self) -> Option<Option<Duration>> {
        match self {
            Self::Throttled(wait) | Self::Server(_, wait) => Some(*wait),
            Self::Connection(_) | Self::Timeout(_) => Some(None),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wait = |wait: &Option<Duration>| wait.map(|wait| format!(", try again in {} s", wait.as_secs())).unwrap_or_default();
        match self {
            Self::Absent => f.write_str("it does not have it"),
            Self::Connection(why) => write!(f, "no connection: {why}"),
            Self::File(why) => f.write_str(why),
            Self::Refused(status) => write!(f, "it answered {status}"),
            Self::Resting(why) => write!(f, "left alone for now, after: {why}"),
            Self::Server(status, after) => write!(f, "it is in trouble: {status}{}", wait(after)),
            Self::Throttled(after) => write!(f, "it asks for patience: 429{}", wait(after)),
            Self::Timeout(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Self::Unusable(why) => write!(f, "unusable: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Where servers of the PCCS protocol have what the vendor serves at another address.
fn mirrored(path: &str) -> &str {
    if path == "/IntelSGXRootCA.der" { "/sgx/certification/v4/rootcacrl" } else { path }
}

async fn served(client: &Client, address: &Address, name: &str, path: &str, now: Timestamp) -> Result<item::Read, Failure> {
    let answer = client.ask(address, path, now).await?;
    let read = item::read(name, &answer.body, answer.chain.as_deref()).map_err(Failure::Unusable)?;
    Ok(item::Read { beside: Some(answer.chain.map(String::into_bytes).unwrap_or_default()), ..read })
}

async fn in_the_background<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Failure::File(error.to_string())))
}
