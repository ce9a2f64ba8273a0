//! `portcullis measure`: what hardware will measure of an image, from its files.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::Outcome;
use super::output::{BAD, DIM, GOOD, show, show_json};
use crate::measure::snp::{Direct, Hypervisor, Launch, VCPU_TYPES, signature};
use crate::measure::tdx::Order;
use crate::measure::{Measured, diff, eif, snp, tdx};

/// Compute from an image's files what hardware will measure, to pin what you built.
///
/// Nothing here asks a machine. The values are those that evidence will have, by the names that policies use.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The launch digest of an SEV-SNP guest: firmware, directly booted kernel, processors.
    Snp(SnpArgs),
    /// MRTD of a TDX guest, and RTMR1 and RTMR2 of a directly booted kernel.
    Tdx(TdxArgs),
    /// The PCRs of a Nitro enclave image.
    Nitro(NitroArgs),
    /// Which values differ between two results saved with --json, and which input changed each.
    Diff(DiffArgs),
}

#[derive(Debug, clap::Args)]
struct DirectArgs {
    /// The kernel that the firmware boots directly; without it the firmware boots from a disk that is not measured.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    append: Option<String>,
}

#[derive(Debug, clap::Args)]
struct SnpArgs {
    /// The OVMF image that the guest starts with.
    #[arg(long, value_name = "FILE")]
    ovmf: PathBuf,
    #[command(flatten)]
    direct: DirectArgs,
    /// How many processors the guest has.
    #[arg(long, value_name = "N")]
    vcpus: u32,
    /// The processor model that QEMU shows the guest.
    #[arg(long, value_name = "MODEL", value_parser = PossibleValuesParser::new(VCPU_TYPES.iter().map(|(name, _)| *name)), required_unless_present = "vcpu_signature")]
    vcpu_type: Option<String>,
    /// The processors' CPUID signature instead (0x…), for a model that is not in the list.
    #[arg(long, value_name = "0x…", value_parser = number, conflicts_with = "vcpu_type")]
    vcpu_signature: Option<u64>,
    /// The features that the host sets for the processors (SEV_FEATURES).
    #[arg(long, value_name = "0x…", value_parser = number, default_value = "0x1")]
    features: u64,
    /// Who starts the guest.
    #[arg(long, value_name = "NAME", default_value = "qemu", value_parser = PossibleValuesParser::new(Hypervisor::ALL.map(|(name, _)| name)))]
    hypervisor: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct TdxArgs {
    /// The firmware (TDVF, OVMF with TDX) that the guest starts with.
    #[arg(long, value_name = "FILE")]
    firmware: PathBuf,
    #[command(flatten)]
    direct: DirectArgs,
    /// Whether the host measures each page when it adds it, or a section once it is added.
    #[arg(long, value_name = "ORDER", default_value = "page", value_parser = PossibleValuesParser::new(Order::ALL.map(|(name, _)| name)))]
    order: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct NitroArgs {
    /// The enclave image (EIF).
    #[arg(value_name = "FILE")]
    image: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DiffArgs {
    /// The result before.
    before: PathBuf,
    /// The result after.
    after: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::Snp(args) => tell(&of_snp(args)?, args.json),
        Command::Tdx(args) => tell(&of_tdx(args)?, args.json),
        Command::Nitro(args) => tell(&eif::measure(&read(&args.image)?)?, args.json),
        Command::Diff(args) => compare(args),
    }
}

fn of_snp(args: &SnpArgs) -> anyhow::Result<Measured> {
    let (firmware, files) = (read(&args.ovmf)?, Files::read(&args.direct)?);
    let known = VCPU_TYPES.iter().find(|(name, _)| Some(*name) == args.vcpu_type.as_deref()).map(|(_, model)| signature(*model));
    let given = args.vcpu_signature.map(u32::try_from).transpose().context("--vcpu-signature has 32 bits")?;
    let hypervisor = Hypervisor::ALL.iter().find(|(name, _)| *name == args.hypervisor).context("unknown hypervisor")?.1;
    let launch = Launch {
        firmware: &firmware,
        direct: files.direct(),
        vcpus: args.vcpus,
        vcpu_signature: given.or(known).context("--vcpu-type or --vcpu-signature")?,
        hypervisor,
        features: args.features,
    };
    Ok(snp::measure(&launch)?)
}

fn of_tdx(args: &TdxArgs) -> anyhow::Result<Measured> {
    let (firmware, files) = (read(&args.firmware)?, Files::read(&args.direct)?);
    let order = Order::ALL.iter().find(|(name, _)| *name == args.order).context("unknown order")?.1;
    Ok(tdx::measure(&firmware, order, files.direct().as_ref())?)
}

/// What is booted directly, read.
struct Files {
    kernel: Option<Vec<u8>>,
    initrd: Vec<u8>,
    cmdline: String,
}

impl Files {
    fn read(args: &DirectArgs) -> anyhow::Result<Self> {
        Ok(Self {
            kernel: args.kernel.as_deref().map(read).transpose()?,
            initrd: args.initrd.as_deref().map(read).transpose()?.unwrap_or_default(),
            cmdline: args.append.clone().unwrap_or_default(),
        })
    }

    fn direct(&self) -> Option<Direct<'_>> {
        self.kernel.as_ref().map(|kernel| Direct { kernel, initrd: &self.initrd, cmdline: &self.cmdline })
    }
}

fn tell(measured: &Measured, json: bool) -> anyhow::Result<Outcome> {
    if json {
        show_json(&serde_json::to_value(measured)?)?;
        return Ok(Outcome::Done);
    }
    let mut out = format!("{}\n", measured.tee);
    let wide = measured.values.iter().map(|value| value.name.len()).max().unwrap_or_default();
    for value in &measured.values {
        let _ = writeln!(out, "  {GOOD}{:<wide$}{GOOD:#}  {}", value.name, value.value);
        let _ = writeln!(out, "  {:<wide$}  {DIM}from {}{DIM:#}", "", value.from.join(", "));
    }
    let wide = measured.inputs.iter().map(|input| input.name.len()).max().unwrap_or_default();
    out.push_str("inputs\n");
    for input in &measured.inputs {
        let _ = writeln!(out, "  {:<wide$}  {}", input.name, super::output::printable(&input.value));
    }
    show(&out)?;
    Ok(Outcome::Done)
}

fn compare(args: &DiffArgs) -> anyhow::Result<Outcome> {
    let load = |path: &Path| -> anyhow::Result<Measured> {
        serde_json::from_slice(&super::input::read(path)?).with_context(|| format!("{}: not a result of `portcullis measure … --json`", path.display()))
    };
    let (before, after) = (load(&args.before)?, load(&args.after)?);
    if before.tee != after.tee {
        bail!("one is of {}, the other of {}: nothing to compare", before.tee, after.tee);
    }
    let difference = diff::compare(&before, &after);
    let outcome = if difference.values.is_empty() { Outcome::Done } else { Outcome::Refused };
    if args.json {
        let sides = |before: &str, after: &str| json!({ "before": before, "after": after });
        let inputs: serde_json::Map<_, _> = difference.inputs.iter().map(|(name, before, after)| (name.clone(), sides(before, after))).collect();
        let values =
            difference.values.iter().map(|value| (value.name.clone(), json!({ "before": value.before, "after": value.after, "because": value.because })));
        show_json(&json!({ "inputs": inputs, "values": values.collect::<serde_json::Map<_, _>>() }))?;
        return Ok(outcome);
    }
    show(&told(&difference))?;
    Ok(outcome)
}

fn told(difference: &diff::Difference) -> String {
    let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { super::output::printable(text).to_string() };
    if difference.values.is_empty() {
        let unseen: Vec<_> = difference.inputs.iter().map(|(name, ..)| name.as_str()).collect();
        let unseen = if unseen.is_empty() { String::new() } else { format!(" (these inputs differ and change nothing: {})", unseen.join(", ")) };
        return format!("{GOOD}the same values{GOOD:#}{unseen}\n");
    }
    let mut out = String::new();
    for value in &difference.values {
        let because = if value.because.is_empty() { "no input that is told here".to_owned() } else { value.because.join(", ") };
        let _ = writeln!(out, "{BAD}{}{BAD:#} changed by {because}", value.name);
        let _ = writeln!(out, "  before  {}\n  after   {}", shown(&value.before), shown(&value.after));
    }
    out.push_str("inputs that differ\n");
    for (name, before, after) in &difference.inputs {
        let _ = writeln!(out, "  {name}\n    before  {}\n    after   {}", shown(before), shown(after));
    }
    out
}

/// Reads an artefact.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    crate::file::open(path)
        .with_context(|| path.display().to_string())?
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .with_context(|| path.display().to_string())?;
    match bytes.len() as u64 {
        0 => bail!("{}: the file is empty", path.display()),
        1..=LONGEST => Ok(bytes),
        _ => bail!("{}: more than {LONGEST} octets", path.display()),
    }
}

/// A number in decimal or, behind `0x`, in hex.
fn number(text: &str) -> Result<u64, String> {
    let read = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    read.map_err(|error| error.to_string())
}

/// Kernels with their RAM disks built in stay below this.
const LONGEST: u64 = 2 << 30;
