//! What Intel says of a machine's TCB: the level that it has, and by how much it is short of one that is up to date.
//!
//! The rules are those of Intel's quote verification library: the first level whose security versions are all reached
//! is the machine's; a module or a quoting enclave that is out of date makes the whole so; a trust domain that was
//! launched under an old module, where the machine has since got a newer one, is advised to be launched again.

use crate::evidence::Timestamp;
use crate::evidence::intel::collateral::{Component, EnclaveLevel, QeIdentity, Status, TcbInfo, TcbLevel, TdxModuleIdentity};
use crate::evidence::intel::{Body, Pck, Quote, TdReport};
use crate::refusal::{Denied, Finding, Reason};

/// What was found of a machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evaluation {
    /// The whole, the worst of the parts.
    pub status: Option<Status>,
    /// Every advisory that the machine is open to.
    pub advisories: Vec<String>,
    /// The level of processor, firmware and provisioning enclave (and TDX microcode); `None` when it is below every level.
    pub platform: Option<Graded>,
    /// The level of the TDX module, where the TCB info grades modules apart.
    pub module: Module,
    /// The level of the quoting enclave; `None` when it is below every level.
    pub quoting_enclave: Option<Graded>,
    /// What is missing to the newest level of all that Intel knows, component by component.
    pub short: Vec<Shortfall>,
}

/// What was found of a TDX module.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Module {
    /// It has this level.
    Graded(Graded),
    /// It is graded with the platform, or there is none.
    None,
    /// The TCB info has no such module, or it is below every level.
    Unknown,
}

/// A level.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Graded {
    /// Intel's word.
    pub status: Status,
    /// What it is open to.
    pub advisories: Vec<String>,
    /// What it is up to.
    pub date: Timestamp,
}

/// A component that is older than the newest level wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shortfall {
    /// Which one: `sgx.1`, `pcesvn`, `tdx.2`, `tdx_module`, `qe`; with what the TCB info says of it.
    pub component: String,
    /// The machine's.
    pub found: u16,
    /// The newest level's.
    pub needed: u16,
}

impl Evaluation {
    /// Refuses what no policy may accept: no level at all, and what is revoked.
    pub(in crate::verify) fn genuine(&self) -> Result<(), Denied> {
        let short: Vec<_> = self.short.iter().map(|short| format!("{} {} < {}", short.component, short.found, short.needed)).collect();
        let refuse = |found: String| {
            Finding::new(Reason::TcbTooLow, "tcb_status", "a level of the TCB info", found)
                .fix(format!("update the host's firmware, microcode and TDX module; behind the newest level: {}", short.join(", ")))
                .refuse()
        };
        match self.status {
            None => refuse("no level: older than all that Intel knows".to_owned()),
            Some(Status::Revoked) => refuse("Revoked".to_owned()),
            Some(_) => Ok(()),
        }
    }
}

/// Grades the machine that made `quote`. The collateral must have been proven to be Intel's and of this machine.
#[must_use]
pub fn evaluate(quote: &Quote, pck: &Pck, info: &TcbInfo, identity: &QeIdentity) -> Evaluation {
    let quoting_enclave = first(&identity.tcb_levels, quote.qe_report.isv_svn).map(graded_enclave);
    let launched = Part::of(pck, info, versions(quote).map(|(launch, _)| launch));
    let running = versions(quote).and_then(|(_, now)| now).map(|now| Part::of(pck, info, Some(now)));
    let mut advisories: Vec<String> = Vec::new();
    let [platform, module] = running.as_ref().map(|part| [part.platform.as_ref(), part.module.graded()]).unwrap_or_default();
    let parts = [launched.platform.as_ref(), launched.module.graded(), quoting_enclave.as_ref(), platform, module];
    for advisory in parts.into_iter().flatten().flat_map(|graded| &graded.advisories) {
        if !advisories.contains(advisory) {
            advisories.push(advisory.clone());
        }
    }
    let whole = |part: &Part| part.status().zip(quoting_enclave.as_ref()).map(|(status, enclave)| converge(status, enclave.status));
    let status = match (whole(&launched), running.as_ref().map(whole)) {
        (Some(launched), Some(Some(running))) => Some(relaunch(launched, running)),
        (_, Some(None)) | (None, _) => None,
        (launched, None) => launched,
    };
    Evaluation { status, advisories, short: short(quote, pck, info, identity), platform: launched.platform, module: launched.module, quoting_enclave }
}

/// Platform and module under one set of TDX security versions.
struct Part {
    platform: Option<Graded>,
    module: Module,
}

impl Part {
    fn of(pck: &Pck, info: &TcbInfo, tee: Option<&[u8; 16]>) -> Self {
        let platform = info.tcb_levels.iter().find(|level| missing(level, pck, tee).next().is_none()).map(graded);
        Self { platform, module: tee.map_or(Module::None, |tee| module(info, tee)) }
    }

    fn status(&self) -> Option<Status> {
        let platform = self.platform.as_ref()?.status;
        match &self.module {
            Module::Graded(module) => Some(converge(platform, module.status)),
            Module::None => Some(platform),
            Module::Unknown => None,
        }
    }
}

impl Module {
    const fn graded(&self) -> Option<&Graded> {
        match self {
            Self::Graded(graded) => Some(graded),
            Self::None | Self::Unknown => None,
        }
    }
}

/// TEE_TCB_SVN at launch, and now.
fn versions(quote: &Quote) -> Option<(&[u8; 16], Option<&[u8; 16]>)> {
    match &quote.body {
        Body::Enclave(_) => None,
        Body::TrustDomain(TdReport { tee_tcb_svn, newer, .. }) => Some((tee_tcb_svn, newer.as_ref().map(|newer| &newer.tee_tcb_svn))),
    }
}

fn module(info: &TcbInfo, tee: &[u8; 16]) -> Module {
    let [svn, version, ..] = tee;
    if *version == 0 {
        return Module::None;
    }
    let level = identity_of(info, *version).and_then(|identity| first(&identity.tcb_levels, u16::from(*svn)));
    level.map_or(Module::Unknown, |level| Module::Graded(graded_enclave(level)))
}

/// The identity of modules of this major version.
pub(in crate::verify) fn identity_of(info: &TcbInfo, version: u8) -> Option<&TdxModuleIdentity> {
    let name = format!("TDX_{version:02x}");
    info.tdx_module_identities.iter().find(|identity| identity.id.eq_ignore_ascii_case(&name))
}

fn first(levels: &[EnclaveLevel], svn: u16) -> Option<&EnclaveLevel> {
    levels.iter().find(|level| svn >= level.tcb.isvsvn)
}

fn graded(level: &TcbLevel) -> Graded {
    Graded { status: level.tcb_status, advisories: level.advisory_ids.clone(), date: level.tcb_date.0 }
}

fn graded_enclave(level: &EnclaveLevel) -> Graded {
    Graded { status: level.tcb_status, advisories: level.advisory_ids.clone(), date: level.tcb_date.0 }
}

/// The components that are below a level's.
fn missing<'a>(level: &'a TcbLevel, pck: &'a Pck, tee: Option<&'a [u8; 16]>) -> impl Iterator<Item = Shortfall> + 'a {
    // A module that has a major version is graded by its identity; its octets 0 and 1 say nothing to the level.
    let skipped = if tee.is_some_and(|tee| tee.get(1).is_some_and(|version| *version > 0)) { 2 } else { 0 };
    let sgx = level.tcb.sgx.iter().zip(pck.components).zip(1_usize..).filter_map(|((wanted, found), place)| below("sgx", place, wanted, found));
    let pce = (pck.pce_svn < level.tcb.pce_svn).then(|| Shortfall { component: "pcesvn".to_owned(), found: pck.pce_svn, needed: level.tcb.pce_svn });
    let tdx = tee.map(|tee| {
        let components = level.tcb.tdx.as_ref().map(<[Component; 16]>::as_slice).unwrap_or_default();
        let graded = components.iter().zip(tee).zip(0_usize..).skip(skipped).filter_map(|((wanted, found), place)| below("tdx", place, wanted, *found));
        // A level of TDX without TDX components fits nothing.
        let none = components.is_empty().then(|| Shortfall { component: "tdx components".to_owned(), found: 0, needed: 1 });
        none.into_iter().chain(graded)
    });
    sgx.chain(pce).chain(tdx.into_iter().flatten())
}

fn below(of: &str, place: usize, wanted: &Component, found: u8) -> Option<Shortfall> {
    let said: Vec<&str> = [wanted.category.as_str(), wanted.kind.as_str()].into_iter().filter(|text| !text.is_empty()).collect();
    let said = if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) };
    (found < wanted.svn).then(|| Shortfall { component: format!("{of}.{place}{said}"), found: u16::from(found), needed: u16::from(wanted.svn) })
}

/// What is missing to the newest levels.
fn short(quote: &Quote, pck: &Pck, info: &TcbInfo, identity: &QeIdentity) -> Vec<Shortfall> {
    let tee = versions(quote).map(|(launch, _)| launch);
    let mut short: Vec<_> = info.tcb_levels.first().into_iter().flat_map(|level| missing(level, pck, tee)).collect();
    if let Some([svn, version, ..]) = tee
        && let Some(newest) = identity_of(info, *version).and_then(|module| module.tcb_levels.first())
        && u16::from(*svn) < newest.tcb.isvsvn
    {
        short.push(Shortfall { component: "tdx_module".to_owned(), found: u16::from(*svn), needed: newest.tcb.isvsvn });
    }
    if let Some(newest) = identity.tcb_levels.first()
        && quote.qe_report.isv_svn < newest.tcb.isvsvn
    {
        short.push(Shortfall { component: "qe".to_owned(), found: quote.qe_report.isv_svn, needed: newest.tcb.isvsvn });
    }
    short
}

/// A platform with a module or a quoting enclave of this status.
const fn converge(platform: Status, part: Status) -> Status {
    match (part, platform) {
        (Status::Revoked, _) => Status::Revoked,
        (Status::OutOfDate | Status::OutOfDateConfigurationNeeded, Status::UpToDate | Status::SWHardeningNeeded) => Status::OutOfDate,
        (Status::OutOfDate | Status::OutOfDateConfigurationNeeded, Status::ConfigurationNeeded | Status::ConfigurationAndSWHardeningNeeded) => {
            Status::OutOfDateConfigurationNeeded
        }
        // Intel gives parts no other; should it, they count as the platform's.
        (part, Status::UpToDate) => part,
        (Status::SWHardeningNeeded | Status::ConfigurationAndSWHardeningNeeded, Status::ConfigurationNeeded)
        | (Status::ConfigurationNeeded | Status::ConfigurationAndSWHardeningNeeded, Status::SWHardeningNeeded) => Status::ConfigurationAndSWHardeningNeeded,
        (_, platform) => platform,
    }
}

/// A trust domain that was launched on one level and runs on another; on a worse one, that counts.
const fn relaunch(launched: Status, running: Status) -> Status {
    match (launched, running) {
        (_, Status::Revoked) => Status::Revoked,
        (Status::UpToDate, running)
        | (
            Status::SWHardeningNeeded | Status::ConfigurationNeeded | Status::ConfigurationAndSWHardeningNeeded,
            running @ (Status::OutOfDate | Status::OutOfDateConfigurationNeeded),
        ) => running,
        (Status::OutOfDate, Status::UpToDate | Status::SWHardeningNeeded) => Status::TDRelaunchAdvised,
        (Status::OutOfDate | Status::OutOfDateConfigurationNeeded, Status::ConfigurationNeeded | Status::ConfigurationAndSWHardeningNeeded)
        | (Status::OutOfDateConfigurationNeeded, Status::UpToDate | Status::SWHardeningNeeded) => Status::TDRelaunchAdvisedConfigurationNeeded,
        (launched, running) => converge(launched, running),
    }
}
