//! `portcullis policy explain`: a policy in words, with what it does not check.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::lint::meaning;
use super::{Loaded, load};
use crate::cli::Outcome;
use crate::cli::output::{DIM, Detail, Marks, WARN, show, value, wrapped};
use crate::platform;
use crate::policy::{Accept, Constraint, Entry, Field, FirmwarePart, Mode, Product, Revocation, Roots, Rule};

/// Say in words what each entry checks, and what it does not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The policy file.
    file: PathBuf,
    /// Show whole values.
    #[arg(long, short)]
    verbose: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let loaded = load(&args.file)?;
    let page = Page { detail: Detail::of(args.verbose), marks: Marks::here() };
    let mut out = page.policy(&loaded);
    for entry in &loaded.appraiser.policy.accept {
        out.push_str(&page.entry(entry));
    }
    show(&out)?;
    Ok(Outcome::Done)
}

#[derive(Clone, Copy)]
struct Page {
    detail: Detail,
    marks: Marks,
}

impl Page {
    fn policy(self, loaded: &Loaded) -> String {
        let policy = &loaded.appraiser.policy;
        let mut out = format!("policy \"{}\"  {}\n", policy.name, loaded.digest());
        let mut line = |text: String| {
            for (index, part) in wrapped(&value(&text, self.detail, self.marks), WIDE).into_iter().enumerate() {
                let _ = writeln!(out, "{} {part}", if index == 0 { "  -" } else { "   " });
            }
        };
        line(match policy.accept.len() {
            0 => "It accepts nobody: accept is empty.".to_owned(),
            1 => "A peer must fit its one entry wholly.".to_owned(),
            several => format!("A peer must fit one of its {several} entries wholly."),
        });
        line(match policy.roots {
            Roots::Vendor => "Evidence must be signed under a hardware vendor's pinned root.".to_owned(),
            Roots::VendorAndSimulator => "Evidence may be signed under a vendor's root OR THE SIMULATOR'S, whose keys anybody has.".to_owned(),
        });
        line(match policy.revocation {
            Revocation::Required => "A current revocation list must be at hand and must not name the chain.".to_owned(),
            Revocation::WhenPresent => "A revocation list is used when there is one; without one, revoked chains pass.".to_owned(),
        });
        line(format!("Evidence in a certificate is believed for {} s, with clocks up to {} s apart.", policy.max_evidence_age, policy.clock_skew));
        if policy.mode == Mode::Observe {
            line("OBSERVE MODE: mismatches of reference values (measurement and the like) are only recorded.".to_owned());
        }
        line(policy.expires.map_or_else(|| "It does not expire.".to_owned(), |expires| format!("After {expires} it accepts nobody.")));
        for denial in &policy.deny {
            line(format!("Refused whatever the entries say: {} {} ({}).", denial.claim, data_encoding::HEXLOWER.encode(&denial.value), denial.why));
        }
        out
    }

    fn entry(self, entry: &Entry) -> String {
        let mut out = format!("\nentry \"{}\" accepts {} evidence when all of this holds\n", entry.id, entry.tee);
        if let Some(end) = entry.not_after {
            self.row(&mut out, "not_after", &format!("it is not later than {end}"));
        }
        for constraint in &entry.constraints {
            let said = said(constraint, entry);
            if !said.is_empty() {
                self.row(&mut out, constraint.field.key, &said);
            }
        }
        let open = unchecked(entry);
        if !open.is_empty() {
            let _ = writeln!(out, "  NOT checked");
            open.iter().for_each(|(key, doc)| self.row(&mut out, key, doc));
        }
        for key in &entry.insecure {
            let _ = writeln!(out, "  {WARN}insecure{WARN:#}  {key}: {}", meaning(key).unwrap_or_default());
        }
        out
    }

    fn row(self, out: &mut String, name: &str, text: &str) {
        let mut name = name;
        for line in text.lines().flat_map(|line| wrapped(&value(line, self.detail, self.marks), WIDE)) {
            let _ = writeln!(out, "    {DIM}{name:<19}{DIM:#}  {line}");
            name = "";
        }
    }
}

/// What a constraint demands, in words; empty when it demands nothing.
fn said(constraint: &Constraint, entry: &Entry) -> String {
    match (&constraint.accept, &constraint.field.rule) {
        (Accept::Bytes(values), _) => is_one_of(values.iter().map(|value| data_encoding::HEXLOWER.encode(value))),
        (Accept::Bits { set, clear }, Rule::Flags { flags, .. }) => {
            let wanted = flags.iter().filter_map(|flag| {
                let bit = 1_u64.checked_shl(flag.bit)?;
                let value = if set & bit != 0 { 1 } else { (clear & bit != 0).then_some(0)? };
                Some(format!("{} is {value} ({}: {})", flag.key, if value == 1 { "required" } else { "refused" }, flag.doc))
            });
            wanted.collect::<Vec<_>>().join("\n")
        }
        (Accept::Bits { set, .. }, _) => format!("has the bits {set:#x}"),
        (Accept::Components(parts), _) => {
            let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
            let one = |part: &FirmwarePart| {
                format!("{}: measurement {}, signed by {}", part.kind.as_deref().unwrap_or("(no type)"), hex(&part.measurement), hex(&part.signer))
            };
            format!("each part is one of these, and each type is there\n{}", parts.iter().map(one).collect::<Vec<_>>().join("\n"))
        }
        (Accept::Includes(words), _) => format!("has {}", words.join(", ")),
        (Accept::MaxAge(most), _) => format!("is at most {most} s old"),
        (Accept::Minimum(least), _) => format!("is at least {least}"),
        (Accept::Numbers(values), _) => is_one_of(values.iter().map(u64::to_string)),
        (Accept::Present, _) => "is there".to_owned(),
        (Accept::Registers(registers), _) => {
            let one = |(name, values): &(&str, Vec<Vec<u8>>)| format!("{name} {}", is_one_of(values.iter().map(|value| data_encoding::HEXLOWER.encode(value))));
            registers.iter().map(one).collect::<Vec<_>>().join("\n")
        }
        (Accept::Rising { least, shipped: false }, _) => format!("is at least {least}"),
        (Accept::Rising { least, .. }, Rule::Rising { floors, .. }) => {
            let shipped: Vec<_> = floors.iter().map(|floor| format!("from {} at least {}", crate::evidence::Timestamp(floor.from), floor.number)).collect();
            if *least > 0 { format!("is at least {least}; {}", shipped.join("; ")) } else { shipped.join("; ") }
        }
        (Accept::Rising { .. }, _) => String::new(),
        (Accept::Same, Rule::Same { claim, other, .. }) => format!("{claim} equals {other}"),
        (Accept::Same, _) => String::new(),
        (Accept::Tcb(floors), _) => {
            let products = accepted_products(entry);
            let asked = |product: &Product| products.is_none_or(|accepted| accepted.iter().any(|name| name == product.name));
            floors.iter().filter(|(product, _)| asked(product)).map(|(product, floor)| floor_said(product, floor)).collect::<Vec<_>>().join("\n")
        }
        (Accept::TcbStatus(tolerated), Rule::TcbStatus { claim, good, .. }) => {
            let good = format!("{claim} is {good}");
            let others = tolerated.iter().map(|other| {
                let advisories = if other.advisories.is_empty() { "no advisory".to_owned() } else { other.advisories.join(", ") };
                format!("or {} until {}, open to nothing but {advisories}", other.status, other.until)
            });
            std::iter::once(good).chain(others).collect::<Vec<_>>().join("\n")
        }
        (Accept::TcbStatus(_), _) => String::new(),
        (Accept::Version(least), _) => format!("is at least {}", least.iter().map(u64::to_string).collect::<Vec<_>>().join(".")),
        (Accept::Words(words), _) => is_one_of(words.iter().cloned()),
    }
}

fn floor_said(product: &Product, floor: &[u8]) -> String {
    let parts = product.components.iter().zip(floor).filter(|(_, least)| **least > 0).map(|(part, least)| format!("{} >= {least}", part.key));
    let parts: Vec<_> = parts.collect();
    format!("{}: {}", product.name, if parts.is_empty() { "any version".to_owned() } else { parts.join(", ") })
}

/// The products that the entry's floors are about.
fn accepted_products(entry: &Entry) -> Option<&[String]> {
    let product = entry.constraints.iter().find_map(|constraint| match &constraint.field.rule {
        Rule::Tcb { product, .. } => Some(*product),
        _ => None,
    })?;
    entry.constraints.iter().find_map(|constraint| match (&constraint.field.rule, &constraint.accept) {
        (Rule::Words { claim, .. }, Accept::Words(words)) if *claim == product => Some(words.as_slice()),
        _ => None,
    })
}

/// The keys that the entry leaves open, and what each would check.
fn unchecked(entry: &Entry) -> Vec<(&'static str, String)> {
    let Some(platform) = platform::by_name(entry.tee) else { return Vec::new() };
    let mut open = Vec::new();
    for field in platform.verifier.vocabulary().fields {
        match entry.constraints.iter().find(|constraint| constraint.field.key == field.key) {
            None => open.push((field.key, field.doc.to_owned())),
            Some(constraint) => open.extend(open_bits(field, &constraint.accept)),
        }
    }
    open
}

fn open_bits(field: &'static Field, accept: &Accept) -> Option<(&'static str, String)> {
    let (Rule::Flags { flags, .. }, Accept::Bits { set, clear }) = (&field.rule, accept) else { return None };
    let free = flags.iter().filter(|flag| 1_u64.checked_shl(flag.bit).is_some_and(|bit| (set | clear) & bit == 0));
    let free: Vec<_> = free.map(|flag| format!("{} ({})", flag.key, flag.doc)).collect();
    (!free.is_empty()).then(|| (field.key, format!("either way: {}", free.join(", "))))
}

fn is_one_of(values: impl Iterator<Item = String>) -> String {
    let values: Vec<_> = values.collect();
    match values.as_slice() {
        [one] => format!("is {one}"),
        several => format!("is one of {}: {}", several.len(), several.join(", ")),
    }
}

const WIDE: usize = 96;
