//! The house's walls: who may import whom, where a platform may be named, where time and `unsafe` may be.
//!
//! A failure names the file, the line and the rule. The rules are tables; change a table only together with
//! `docs/architecture.md`.

#[path = "support/source.rs"]
mod source;

use std::path::Path;
use std::sync::OnceLock;

use source::Source;

/// What one room may import, beside itself.
struct Room {
    name: &'static str,
    may: &'static [&'static str],
    rule: &'static str,
}

/// Free for every room, the core included; they import nothing.
const LEAVES: &[&str] = &["crypto", "diagnostic", "refusal"];

/// Free for every room outside the core; they import nothing but leaves.
const IMPURE_LEAVES: &[&str] = &["admin::health", "admin::jwks", "admin::metrics", "clock", "file"];

/// Pure: no I/O, no clock, no async runtime.
const CORE: &[&str] = &["crypto", "diagnostic", "evidence", "policy", "refusal", "session", "verify"];

const ROOMS: &[Room] = &[
    Room { name: "crypto", may: &[], rule: "a leaf imports nothing" },
    Room { name: "diagnostic", may: &[], rule: "a leaf imports nothing" },
    Room { name: "refusal", may: &[], rule: "a leaf imports nothing" },
    Room { name: "file", may: &[], rule: "opening files is a leaf" },
    Room { name: "clock", may: &["evidence"], rule: "the clock gives a Timestamp and imports nothing else" },
    Room { name: "evidence", may: &[], rule: "evidence imports no other room" },
    Room { name: "measure", may: &[], rule: "measurements are computed from artefacts alone" },
    Room { name: "policy", may: &["evidence"], rule: "policy imports evidence alone" },
    Room { name: "verify", may: &["evidence", "policy"], rule: "verify imports evidence and policy alone" },
    Room { name: "attester", may: &["evidence"], rule: "attester imports evidence alone" },
    Room { name: "collateral", may: &["evidence"], rule: "collateral imports evidence alone" },
    Room { name: "platform", may: &["attester", "evidence", "policy", "verify"], rule: "platform imports evidence, policy, verify and attester alone" },
    Room { name: "session", may: &["evidence"], rule: "session imports evidence alone: it has no sockets and no verdicts" },
    Room {
        name: "tls",
        may: &["attester", "evidence", "session", "verify::AttestationResult"],
        rule: "tls imports evidence, attester, session, and of verify only AttestationResult",
    },
    Room { name: "acme", may: &["evidence", "tls"], rule: "acme imports evidence and tls alone" },
    Room { name: "admin", may: &[], rule: "admin shows what its leaves hold and imports no room" },
    Room {
        name: "proxy",
        may: &["acme", "attester", "collateral", "evidence", "platform", "policy", "session", "tls", "verify"],
        rule: "proxy imports the rooms above it, and of admin only the leaves",
    },
    Room { name: "config", may: &["evidence", "platform", "policy"], rule: "config imports evidence, policy and platform alone" },
    Room {
        name: "app",
        may: &["acme", "admin", "attester", "collateral", "config", "evidence", "platform", "policy", "proxy", "session", "tls", "verify"],
        rule: "app imports every room but cli",
    },
    Room { name: "cli", may: &["*"], rule: "" },
    Room { name: "main", may: &["cli"], rule: "main imports cli alone" },
    Room { name: "lib", may: &[], rule: "lib.rs lists the modules and holds no code" },
];

/// Where a platform may be named, by path prefix, and why; beside the files of `evidence` and `verify` that are called after one.
const PLATFORM_PLACES: &[(&str, &str)] = &[
    ("attester/", "evidence is made here, one file per platform and the simulator"),
    ("cli/demo.rs", "sets the simulated guests of the demo"),
    ("cli/inspect.rs", "what the signed statements say that one vendor publishes"),
    ("cli/measure.rs", "the files that each is measured from"),
    ("cli/simulate.rs", "what a forger of SEV-SNP reports may set"),
    ("cli/tcb.rs", "whose vendor announces data sets"),
    ("collateral/source.rs", "where mirrors have what one vendor serves at another address"),
    ("config/schema.rs", "examples in the documentation of the keys"),
    ("evidence/hcl", "the hardware report inside is its"),
    ("evidence/launch.rs", "its firmware is endorsed there"),
    ("measure/", "what each measures of an image"),
    ("platform.rs", "its row"),
    ("verify/launch.rs", "endorses its firmware"),
    ("verify/vtpm.rs", "speaks beside it"),
];

/// What platforms are called beside their names.
const OTHER_NAMES: [&str; 3] = ["google", "vcek", "vlek"];

/// The places of hand-written system calls.
const UNSAFE_PLACES: &[&str] = &["attester/nsm.rs", "attester/sev_guest.rs", "attester/tdx_guest.rs"];

#[test]
fn imports_follow_the_table() {
    report(&every(&rooms_of_the_table));
}

#[test]
fn the_core_does_no_io_and_knows_no_runtime() {
    report(&every(&core_is_pure));
}

#[test]
fn unsafe_code_is_in_its_places() {
    report(&every(&unsafe_is_confined));
}

#[test]
fn wall_time_has_one_reader() {
    report(&every(&clock_is_confined));
}

#[test]
fn a_platform_is_named_in_its_rooms_and_its_row_alone() {
    report(&every(&platforms_are_confined));
}

#[test]
fn a_platform_takes_nothing_of_another() {
    report(&every(&siblings_are_apart));
}

#[test]
fn files_are_named_after_what_they_hold() {
    report(&every(&names_say_something));
}

#[test]
fn only_test_modules_are_compiled_for_tests_alone() {
    report(&every(&no_test_switches));
}

/// The checker itself: each rule catches a violation, and none cries at good code.
#[test]
fn a_violation_is_told_with_its_line_and_rule() {
    let told = |path: &str, text: &str, check: &dyn Fn(&Source) -> Vec<String>| check(&Source::new(path.to_owned(), text)).join("\n");
    let imports = |path, text| told(path, text, &rooms_of_the_table);
    assert_eq!(imports("evidence/new.rs", "// x\nuse crate::verify::Verifier;\n"), "src/evidence/new.rs:2: crate::verify: evidence imports no other room");
    assert_eq!(
        imports("tls/mod.rs", "use crate::{\n  evidence::Claims,\n  verify::{Appraiser},\n};"),
        "src/tls/mod.rs:3: crate::verify: tls imports evidence, attester, session, and of verify only AttestationResult"
    );
    assert_eq!(imports("policy.rs", "fn f() { super::verify::g() }"), "src/policy.rs:1: crate::verify: policy imports evidence alone");
    assert_eq!(imports("verify/new.rs", "use super::super::proxy;"), "src/verify/new.rs:1: crate::proxy: verify imports evidence and policy alone");
    assert_eq!(
        imports("proxy/mod.rs", "use crate::admin::server;"),
        "src/proxy/mod.rs:1: crate::admin: proxy imports the rooms above it, and of admin only the leaves"
    );
    assert_eq!(imports("main.rs", "portcullis::app::run();"), "src/main.rs:1: crate::app: main imports cli alone");
    assert_eq!(imports("shed.rs", "use crate::crypto;"), "src/shed.rs:1: a room must have its row in tests/layers.rs");
    for (path, text) in [
        ("tls/mod.rs", "use crate::verify::AttestationResult;\nuse crate::refusal::Denied;\nuse crate::clock::Clock;"),
        ("evidence/new.rs", "/// See [`crate::verify`].\nconst S: &str = \"crate::verify\"; // crate::verify"),
        ("evidence/new.rs", "#[cfg(test)]\nmod tests {\n  use crate::verify::x; fn f() { {} }\n}\n"),
        ("verify/new.rs", "use super::Verifier;\nuse super::super::evidence;"),
        ("proxy/mod.rs", "use crate::admin::metrics::Metrics;"),
    ] {
        assert_eq!(imports(path, text), "", "{path}");
    }
    assert!(told("verify/x.rs", "use std::fs;", &core_is_pure).contains("src/verify/x.rs:1: std::fs"));
    assert!(told("tls/x.rs", "let r#type = r\"unsafe\"; unsafe {}", &unsafe_is_confined).contains("src/tls/x.rs:1"));
    assert!(told("tls/x.rs", "// unsafe\nlet c = '\"'; let s = \"unsafe\";", &unsafe_is_confined).is_empty());
    assert!(told("proxy/x.rs", "\n\nSystemTime::now()", &clock_is_confined).contains("src/proxy/x.rs:3"));
    assert!(told("evidence/x.rs", "Instant::now()", &clock_is_confined).contains("src/evidence/x.rs:1"));
    assert!(told("proxy/x.rs", "Instant::now()", &clock_is_confined).is_empty());
    assert!(told("proxy/x.rs", "match p { \"sev-snp\" => 1 }", &platforms_are_confined).contains("src/proxy/x.rs:1"));
    for line in ["use crate::verify::Tdx;", "const ALL_PSA: u8 = 0;", "f(\"/IntelSGXRootCA.der\")"] {
        assert!(told("collateral/x.rs", line, &platforms_are_confined).contains("src/collateral/x.rs:1"), "{line}");
        assert!(told("verify/tdx/x.rs", line, &platforms_are_confined).is_empty(), "{line}");
    }
    for line in ["// as sev-snp does", "fn occasion(several: Intelligence) {}"] {
        assert!(told("proxy/x.rs", line, &platforms_are_confined).is_empty(), "{line}");
    }
    assert_eq!(
        told("verify/sgx.rs", "use super::tdx::foreseen;\nuse super::intel;\nlet tdx = 1;", &siblings_are_apart),
        "src/verify/sgx.rs:1: tdx: a platform imports a sibling only where its evidence contains the sibling's"
    );
    assert!(told("verify/azure.rs", "use super::{snp, tdx};", &siblings_are_apart).is_empty());
    assert!(told("proxy/utils.rs", "", &names_say_something).contains("src/proxy/utils.rs:1"));
    assert!(told("proxy/x.rs", "#[cfg(not(test))]\nfn f() {}", &no_test_switches).contains("src/proxy/x.rs:1"));
    assert!(told("proxy/x.rs", "#[cfg(test)]\nmod tests { fn f() {} }", &no_test_switches).is_empty());
}

/// Every source file of the crate through `check`.
fn every(check: &dyn Fn(&Source) -> Vec<String>) -> Vec<String> {
    let sources = source::below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 10, "the sources were not found");
    sources.iter().flat_map(check).collect()
}

fn report(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn told(source: &Source, line: usize, sentence: &str) -> String {
    format!("src/{}:{line}: {sentence}", source.path)
}

fn rooms_of_the_table(source: &Source) -> Vec<String> {
    let Some(room) = ROOMS.iter().find(|room| room.name == source.room()) else {
        return vec![told(source, 1, "a room must have its row in tests/layers.rs")];
    };
    let known = |name: &str| ROOMS.iter().any(|room| room.name == name);
    let imports = source.imports().into_iter().filter(|import| import.segments.first().is_some_and(|first| known(first)));
    imports
        .filter(|import| !allowed(room, &import.segments))
        .map(|import| told(source, import.line, &format!("crate::{}: {}", import.segments[0], room.rule)))
        .collect()
}

fn allowed(room: &Room, segments: &[String]) -> bool {
    let (first, whole) = (segments[0].as_str(), segments.join("::"));
    let impure = !CORE.contains(&room.name) && IMPURE_LEAVES.iter().any(|leaf| *leaf == first || *leaf == whole);
    first == room.name || LEAVES.contains(&first) || impure || room.may.iter().any(|may| *may == "*" || *may == first || *may == whole)
}

fn core_is_pure(source: &Source) -> Vec<String> {
    if !CORE.contains(&source.room()) {
        return Vec::new();
    }
    let forbidden =
        ["std::fs", "std::net", "std::env", "std::process", "std::thread", "std::time", "tokio", "tracing", "hyper", "rustls", "println", "eprintln"];
    let lines = forbidden.iter().flat_map(|word| source.lines_with(word).into_iter().map(move |line| (line, *word)));
    lines.map(|(line, word)| told(source, line, &format!("{word}: the core does no I/O, reads no clock and knows no runtime"))).collect()
}

fn unsafe_is_confined(source: &Source) -> Vec<String> {
    let lines = if UNSAFE_PLACES.contains(&source.path.as_str()) { Vec::new() } else { source.lines_with("unsafe") };
    lines.into_iter().map(|line| told(source, line, &format!("unsafe code is in {} alone", UNSAFE_PLACES.join(" and ")))).collect()
}

fn clock_is_confined(source: &Source) -> Vec<String> {
    let mut words = vec!["SystemTime::now", "UNIX_EPOCH", "now_utc", "now_local"];
    if source.path == "clock.rs" {
        words.clear();
    }
    if CORE.contains(&source.room()) {
        words.push("Instant");
    }
    let lines = words.iter().flat_map(|word| source.lines_with(word));
    lines.map(|line| told(source, line, "wall time is read in clock.rs alone; the core is given its time")).collect()
}

fn platforms_are_confined(source: &Source) -> Vec<String> {
    let is_name = |word: &str| platform_names().iter().any(|name| name == word);
    let mut path = source.path.trim_end_matches(".rs").split('/');
    let own = matches!(path.next(), Some("evidence" | "verify")) && path.next().is_some_and(is_name);
    if own || PLATFORM_PLACES.iter().any(|(place, _)| source.path.starts_with(place)) {
        return Vec::new();
    }
    let declares_module = |line: &str| line.trim_start().trim_start_matches("pub ").starts_with("mod ");
    let names_platform = |line: &&str| !declares_module(line) && words(line).iter().any(|word| is_name(word));
    // Test modules are cut from `code`, and literals are kept in `uncommented`: a line must be in both.
    let lines = source.uncommented.lines().zip(source.code.lines()).enumerate();
    let named = lines.filter(|(_, (text, code))| !code.trim().is_empty() && names_platform(text));
    named.map(|(at, _)| told(source, at + 1, "a platform is named in evidence, verify, attester and its row in platform.rs alone")).collect()
}

/// Platforms whose evidence contains that of others, and those.
const CONTAINS: [(&str, &[&str]); 1] = [("azure", &["snp", "tdx"])];

fn siblings_are_apart(source: &Source) -> Vec<String> {
    let mut path = source.path.trim_end_matches(".rs").split('/');
    let (Some("attester" | "evidence" | "verify"), Some(own)) = (path.next(), path.next()) else { return Vec::new() };
    // What two platforms have in common is called after their vendor.
    if own == "intel" || !platform_names().iter().any(|name| name == own) {
        return Vec::new();
    }
    let contained = CONTAINS.iter().find(|(name, _)| *name == own).map_or(&[][..], |(_, contained)| contained);
    let others = platform_names().iter().filter(|name| *name != own && !["google", "intel"].contains(&name.as_str()) && !contained.contains(&name.as_str()));
    let is_path = |line: &usize| source.code.lines().nth(line - 1).is_some_and(|text| text.contains("super::") || text.contains("crate::"));
    let lines = others.flat_map(|other| source.lines_with(other).into_iter().filter(is_path).map(move |line| (line, other)));
    lines.map(|(line, other)| told(source, line, &format!("{other}: a platform imports a sibling only where its evidence contains the sibling's"))).collect()
}

/// The words of which the names in the rows of `platform.rs` are made, and [`OTHER_NAMES`].
fn platform_names() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let rows = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/platform.rs")).expect("the platforms");
        let names = rows.lines().filter_map(|line| line.trim().strip_prefix("name: \"")?.strip_suffix("\","));
        let mut names: Vec<String> = names.flat_map(|name| name.split('-')).chain(OTHER_NAMES).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        assert!(["snp", "tdx", "psa"].iter().all(|known| names.iter().any(|name| name == known)), "the rows were not found: {names:?}");
        names
    })
}

/// The words of a line in lower case, those within names too: `SimulatedSnp` and `ALL_SNP` are two each.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for letter in line.chars() {
        if !letter.is_alphanumeric() || (letter.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if letter.is_alphanumeric() {
            words.last_mut().expect("one").extend(letter.to_lowercase());
        }
        before = letter;
    }
    words
}

fn names_say_something(source: &Source) -> Vec<String> {
    let empty = ["common", "helpers", "manager", "misc", "util", "utils"];
    let named = source.path.trim_end_matches(".rs").split('/').any(|part| empty.contains(&part));
    let deep = source.path.matches('/').count() > 2;
    let mut broken = Vec::new();
    if named {
        broken.push(told(source, 1, "no utils, common, helpers or manager: name the thing"));
    }
    if deep {
        broken.push(told(source, 1, "the tree has two levels"));
    }
    broken
}

fn no_test_switches(source: &Source) -> Vec<String> {
    let uses = ["cfg(test)", "cfg(not(test))", "cfg!(test)"];
    let lines = source.code.lines().enumerate().filter(|(_, line)| uses.iter().any(|word| line.contains(word)));
    lines.map(|(at, _)| told(source, at + 1, "what is tested is what runs: cfg(test) stands before a test module alone")).collect()
}
