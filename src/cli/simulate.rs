//! `portcullis simulate`: forged evidence with any claim, under keys that are published.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::judging::moment;
use super::output::{BAD, note};
use super::{Outcome, saving};
use crate::attester::Quote;
use crate::attester::simulator::gpu::GpuForge;
use crate::attester::simulator::{Forge, Role, SimulatedVendor, Simulation};
use crate::evidence::snp::{Product, Report, Tcb};
use crate::evidence::{Challenge, Endorsement, ReportData, Timestamp};
use crate::platform::{self, PLATFORMS};

/// Forge evidence files with any claim, under the simulator's published keys.
///
/// Without options: an ordinary guest that the default rules accept, in the shape that `verify` reads. Nothing believes
/// it but a policy that names the simulator in insecure_roots.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The new folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The platform to simulate.
    #[arg(long, value_name = "NAME", default_value = PLATFORMS[0].name, value_parser = clap::builder::PossibleValuesParser::new(names()))]
    platform: String,
    /// The product, such as the processor line; the platform's first when not given.
    #[arg(long)]
    product: Option<String>,
    /// The report's version (SEV-SNP).
    #[arg(long, value_name = "N", default_value_t = 5)]
    report_version: u32,
    /// The machine: its keys and identifiers follow from this number.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// A field of the report and its value, a number or hex: measurement, host_data, report_data, policy, vmpl, guest_svn,
    /// platform_info, chip_id and the others that `inspect` shows, and key_info; may be repeated.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// A component of the TCB in report and certificate: fmc, bootloader, tee, snp, microcode; may be repeated.
    #[arg(long, value_name = "COMPONENT=N")]
    tcb: Vec<String>,
    /// A component of the TCB in the certificate alone; may be repeated.
    #[arg(long, value_name = "COMPONENT=N")]
    certificate_tcb: Vec<String>,
    /// Let the host debug the guest.
    #[arg(long)]
    debug: bool,
    /// Sign with the key of a cloud (VLEK) of this name instead of the chip's.
    #[arg(long, value_name = "CSP_ID")]
    vlek: Option<String>,
    /// Issue everything under a root that nobody trusts.
    #[arg(long)]
    impostor: bool,
    /// Let the revocation list name the intermediate.
    #[arg(long)]
    revoked: bool,
    /// Let the signing key's certificate have expired.
    #[arg(long)]
    expired: bool,
    /// Let the revocation list be out of date.
    #[arg(long)]
    stale_crl: bool,
    /// Leave out an endorsement: vcek, vlek, ask, asvk, ark or crl; may be repeated.
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// How many simulated NVIDIA GPUs stand beside it; their nonce is zero.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=16))]
    gpus: u8,
    /// Flip a bit of the finished report's octet at this offset.
    #[arg(long, value_name = "OFFSET")]
    flip: Option<usize>,
    /// Cut the finished report to this many octets, or lengthen it with zeros.
    #[arg(long, value_name = "OCTETS")]
    length: Option<usize>,
    /// The moment at which all of it is made (RFC 3339), instead of now.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let now = moment(args.at.as_deref())?;
    // What a cloud adds is not in the report's forger.
    let in_cloud = args.product.as_deref().is_some_and(|product| product.contains('-'));
    let mut quote = if args.platform == PLATFORMS[0].name && !in_cloud { snp(args, now)? } else { other(args, now)? };
    damage(args, &mut quote)?;
    let gpus = GpuForge::new(args.seed, args.gpus.into(), now);
    if args.gpus > 0 {
        quote.evidence.auxiliary.extend(gpus.members(&[0; 32]));
        quote.endorsements.extend(gpus.endorsements());
    }
    let files = saving::save(&args.folder, &quote.evidence, &quote.endorsements)?;
    let folder = args.folder.display();
    note(&format!(
        "{BAD}SIMULATED{BAD:#}: anybody can forge this; only a policy with insecure_roots believes it\n\
         written to {folder}: {}\n\
         next: portcullis inspect {folder}/{}\n      \
         portcullis verify {folder}\n      \
         portcullis policy init laboratory.json --insecure-simulator",
        files.join(", "),
        files.first().map_or("", String::as_str)
    ));
    Ok(Outcome::Done)
}

fn names() -> Vec<&'static str> {
    PLATFORMS.iter().map(|platform| platform.name).collect()
}

/// A report of SEV-SNP, whose forger knows the most.
fn snp(args: &Args, now: Timestamp) -> anyhow::Result<Quote> {
    let mut report_data = unbound().long;
    let forge = forge(args, now, &mut report_data)?;
    let mut quote = forge.quote(&report_data);
    if !args.without.iter().any(|name| name == Role::Ark.name()) {
        let bytes = forge.vendor.certificate(Role::Ark);
        quote.endorsements.push(Endorsement { name: Role::Ark.name().to_owned(), media_type: Endorsement::CERTIFICATE.to_owned(), bytes });
    }
    Ok(quote)
}

/// Evidence of another platform, with the claims that its simulator lets be set.
fn other(args: &Args, now: Timestamp) -> anyhow::Result<Quote> {
    let foreign = [
        ("--tcb", !args.tcb.is_empty()),
        ("--certificate-tcb", !args.certificate_tcb.is_empty()),
        ("--debug", args.debug),
        ("--vlek", args.vlek.is_some()),
        ("--impostor", args.impostor),
        ("--revoked", args.revoked),
        ("--expired", args.expired),
        ("--stale-crl", args.stale_crl),
    ];
    if let Some((flag, _)) = foreign.iter().find(|(_, given)| *given) {
        bail!("{flag} is of {} alone; use --set CLAIM=VALUE", PLATFORMS[0].name);
    }
    let platform = platform::by_name(&args.platform).context("unknown platform")?;
    let set = |set: &String| {
        let (claim, value) = set.split_once('=').with_context(|| format!("--set {set}: CLAIM=VALUE"))?;
        Ok((claim.to_owned(), value.to_owned()))
    };
    let set = args.set.iter().map(set).collect::<anyhow::Result<_>>()?;
    let simulation = Simulation { product: args.product.clone(), set, ..Simulation::new(args.seed, now) };
    let machine = platform.simulated.attester(&simulation).with_context(|| {
        let settable = platform.simulated.settable().join(", ");
        format!("the products of {} are {}; what can be set: {settable}", platform.name, platform.simulated.products().join(", "))
    })?;
    let mut quote = machine.attest(&unbound())?;
    quote.evidence.auxiliary.extend(machine.listed()?);
    quote.endorsements = quote.endorsements.into_iter().filter(|endorsement| !args.without.contains(&endorsement.name)).collect();
    Ok(quote)
}

/// What evidence in files carries: that it is bound to nothing.
fn unbound() -> Challenge {
    let (mut long, mut short) = ([0; 64], [0; 48]);
    let text = b"portcullis simulate: bound to no key";
    long.iter_mut().zip(text).for_each(|(place, octet)| *place = *octet);
    short.iter_mut().zip(text).for_each(|(place, octet)| *place = *octet);
    Challenge { long: ReportData(long), short }
}

fn forge(args: &Args, now: Timestamp, report_data: &mut ReportData) -> anyhow::Result<Forge> {
    const DAY: u64 = 86_400;
    let name = args.product.as_deref().unwrap_or("genoa");
    let product = Product::ALL.into_iter().find(|product| product.name() == name).with_context(|| format!("--product {name}: one of genoa, milan, turin"))?;
    let mut forge = Forge::new(product, args.seed, now).version(args.report_version);
    if let Some(csp_id) = &args.vlek {
        forge = forge.vlek(csp_id);
    }
    if !args.tcb.is_empty() {
        let tcb = changed(forge.vek.tcb, &args.tcb)?;
        forge = forge.tcb(tcb);
    }
    forge.vek.tcb = changed(forge.vek.tcb, &args.certificate_tcb)?;
    if args.debug {
        forge.report.policy |= DEBUG;
    }
    for set in &args.set {
        let (field, value) = set.split_once('=').with_context(|| format!("--set {set}: FIELD=VALUE, such as vmpl=1"))?;
        assign(&mut forge.report, report_data, field, value).with_context(|| format!("--set {set}"))?;
    }
    if args.impostor {
        forge.vendor = SimulatedVendor::impostor(product);
    }
    if args.revoked {
        let serial = forge.vendor.serial(Role::issuing(forge.vek.kind));
        forge.crl.revoked.push((serial, now.minus(DAY)));
    }
    if args.expired {
        (forge.vek.not_before, forge.vek.not_after) = (now.minus(30 * DAY), now.minus(DAY));
    }
    if args.stale_crl {
        (forge.crl.this_update, forge.crl.next_update) = (now.minus(30 * DAY), Some(now.minus(DAY)));
    }
    for name in &args.without {
        let known = crate::evidence::snp::saved::ENDORSEMENTS;
        let name = known.iter().find(|known| *known == name).with_context(|| format!("--without {name}: one of {}", known.join(", ")))?;
        forge.unstapled.push(name);
    }
    Ok(forge)
}

/// What happens to the report after it was signed.
fn damage(args: &Args, quote: &mut Quote) -> anyhow::Result<()> {
    let report = &mut quote.evidence.bytes;
    if let Some(offset) = args.flip {
        let length = report.len();
        *report.get_mut(offset).with_context(|| format!("--flip {offset}: the report has {length} octets"))? ^= 1;
    }
    if let Some(length) = args.length {
        if length > LONGEST {
            bail!("--length {length}: at most {LONGEST}");
        }
        report.resize(length, 0);
    }
    Ok(())
}

fn changed(mut tcb: Tcb, changes: &[String]) -> anyhow::Result<Tcb> {
    for change in changes {
        let (component, value) = change.split_once('=').with_context(|| format!("{change}: COMPONENT=N, such as snp=3"))?;
        let value: u8 = value.parse().with_context(|| format!("{change}: a number from 0 to 255"))?;
        match component {
            "fmc" if tcb.fmc.is_some() => tcb.fmc = Some(value),
            "bootloader" => tcb.bootloader = value,
            "tee" => tcb.tee = value,
            "snp" => tcb.snp = value,
            "microcode" => tcb.microcode = value,
            _ => bail!("{change}: this product's components are {}bootloader, tee, snp, microcode", if tcb.fmc.is_some() { "fmc, " } else { "" }),
        }
    }
    Ok(tcb)
}

/// Sets a field of the report alone, by the name that `inspect` shows.
fn assign(report: &mut Report, report_data: &mut ReportData, field: &str, value: &str) -> anyhow::Result<()> {
    match field {
        "policy" => report.policy = number(value)?,
        "platform_info" => report.platform_info = number(value)?,
        "guest_svn" => report.guest_svn = u32::try_from(number(value)?)?,
        "key_info" => report.key_info = u32::try_from(number(value)?)?,
        "sig_algo" => report.sig_algo = u32::try_from(number(value)?)?,
        "version" => report.version = u32::try_from(number(value)?)?,
        "vmpl" => report.vmpl = u32::try_from(number(value)?)?,
        "author_key_digest" => fill(&mut report.author_key_digest, value)?,
        "chip_id" => fill(&mut report.chip_id, value)?,
        "committed_tcb" => fill(&mut report.committed_tcb, value)?,
        "current_tcb" => fill(&mut report.current_tcb, value)?,
        "family_id" => fill(&mut report.family_id, value)?,
        "host_data" => fill(&mut report.host_data, value)?,
        "id_key_digest" => fill(&mut report.id_key_digest, value)?,
        "image_id" => fill(&mut report.image_id, value)?,
        "launch_tcb" => fill(&mut report.launch_tcb, value)?,
        "measurement" => fill(&mut report.measurement, value)?,
        "report_data" => fill(&mut report_data.0, value)?,
        "report_id" => fill(&mut report.report_id, value)?,
        "report_id_ma" => fill(&mut report.report_id_ma, value)?,
        "reported_tcb" => fill(&mut report.reported_tcb, value)?,
        _ => bail!("no such field: `portcullis inspect` shows the names"),
    }
    Ok(())
}

fn number(value: &str) -> anyhow::Result<u64> {
    let read = value.strip_prefix("0x").map_or_else(|| value.parse(), |digits| u64::from_str_radix(digits, 16));
    read.context("a number, such as 3 or 0x30000")
}

fn fill<const N: usize>(place: &mut [u8; N], value: &str) -> anyhow::Result<()> {
    let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok();
    *place = octets.and_then(|octets| octets.try_into().ok()).with_context(|| format!("hex of {N} octets"))?;
    Ok(())
}

/// The guest policy bit that lets the host debug the guest.
const DEBUG: u64 = 1 << 19;

/// No file is read beyond this.
const LONGEST: usize = 1 << 20;
