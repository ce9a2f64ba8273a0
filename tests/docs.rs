//! The pages say what the program does: generated ones are what the tables give, copied ones are the files, links lead
//! somewhere, constants are those of the code. `PORTCULLIS_REGENERATE=1` writes the generated ones.

#[path = "support/skipped.rs"]
mod skipped;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use portcullis::refusal::{Reason, Turn};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_page_of_reasons_is_the_table() {
    let page = root().join("docs/reasons.md");
    let made = reasons();
    if std::env::var_os("PORTCULLIS_REGENERATE").is_some() {
        std::fs::write(&page, &made).expect("the page on disk");
    }
    assert_eq!(std::fs::read_to_string(&page).unwrap_or_default(), made, "run the tests with PORTCULLIS_REGENERATE=1");
}

/// Every copyable configuration in the README is a file of `configs/`, named in the line above its block.
#[test]
fn the_readmes_configurations_are_the_files() {
    let readme = text("README.md");
    let mut shown = Vec::new();
    let mut rest = readme.as_str();
    while let Some((before, behind)) = rest.split_once("```toml\n") {
        let (block, behind) = behind.split_once("```").expect("the end of a block");
        let line = before.trim_end().lines().last().unwrap_or_default();
        let name = line.split('`').find(|part| part.starts_with("configs/")).unwrap_or_else(|| panic!("no file is named above a block: {line}"));
        assert_eq!(without_comments(block), without_comments(&text(name)), "{name} in the README");
        shown.push(name.to_owned());
        rest = behind;
    }
    assert_eq!(shown, ["configs/server.toml", "configs/client.toml", "configs/mutual.toml"], "one configuration for each role");
}

/// What people copy is what the program reads. Files that a configuration names lie where it looks for them.
#[test]
#[cfg(feature = "cli")]
fn every_configuration_is_read_without_an_error() {
    let mut read = Vec::new();
    for folder in ["configs", "configs/simulator"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("the configurations") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let config = portcullis::config::Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
                let simulated = folder.ends_with("simulator");
                assert!(simulated || config.insecure.is_empty(), "{}: no example weakens anything: {:?}", path.display(), config.insecure);
                assert!(config.warnings.is_empty(), "{}: {:?}", path.display(), config.warnings);
                read.push(path);
            }
        }
    }
    assert_eq!(read.len(), 11, "{read:?}");
}

/// A configuration that is shown whole is one that the program reads, with the files that it names beside it.
#[test]
#[cfg(feature = "cli")]
fn whole_configurations_on_pages_are_read() {
    use std::os::unix::fs::OpenOptionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("tls")).expect("a folder");
    for name in ["tls/fullchain.pem", "tls/privkey.pem"] {
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.path().join(name)).expect("a file");
    }
    let mut read = Vec::new();
    for page in pages() {
        let text = text(&page);
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block) {
            if block.starts_with("version = 1") && page.starts_with("docs") {
                let config = portcullis::config::Config::parse(&page.display().to_string(), block, folder.path()).unwrap_or_else(|error| panic!("{error}"));
                assert!(config.warnings.is_empty() && config.insecure.is_empty(), "{}: {:?}", page.display(), config.warnings);
                read.push(page.display().to_string());
            }
        }
    }
    assert!(read.contains(&"docs/certificates.md".to_owned()), "{read:?}");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = text(&page);
        for (target, line) in links(&text) {
            let (file, _) = target.split_once('#').unwrap_or((target, ""));
            let there = page.parent().unwrap_or(Path::new("")).join(file);
            let elsewhere = target.contains("://") || target.starts_with('#');
            if !elsewhere && !root().join(&there).exists() {
                broken.push(format!("{}:{line}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_minimum_compiler_is_said_where_people_look() {
    let manifest = text("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("a rust-version").trim_matches('"');
    assert!(text("README.md").contains(&format!("Rust {version}")), "the README says another compiler than {version}");
}

/// The minimum is not checked by building with it, so at least nobody that is linked may ask for more.
#[test]
fn no_dependency_asks_for_a_newer_compiler() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let output = std::process::Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let parts = |version: &str| {
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).chain([0, 0]);
        [parts.next(), parts.next(), parts.next()].map(Option::unwrap_or_default)
    };
    let packages = metadata["packages"].as_array().expect("packages");
    let needs = |package: &serde_json::Value| Some((package["name"].as_str()?.to_owned(), parts(package["rust_version"].as_str()?)));
    let (_, ours) = packages.iter().filter_map(needs).find(|(name, _)| name == "portcullis").expect("our own package");
    let newer: Vec<_> = packages.iter().filter_map(needs).filter(|(_, needed)| *needed > ours).collect();
    assert!(newer.is_empty(), "rust-version is {ours:?}, but {newer:?}");
}

#[test]
fn the_protocol_page_has_the_codes_constants() {
    let page = text("docs/protocol.md");
    let label = String::from_utf8_lossy(portcullis::evidence::binding::EXPORTER_LABEL).into_owned();
    for constant in [
        portcullis::evidence::cmw::COLLECTION_TYPE,
        portcullis::evidence::cmw::BINDING_TYPE,
        portcullis::evidence::snp::MEDIA_TYPE,
        label.as_str(),
        "PORTCULLIS/1 cert-evidence",
        "PORTCULLIS/1 session-leaf",
        "PORTCULLIS/1 batch-root",
    ] {
        assert!(page.contains(constant), "{constant} is not in docs/protocol.md");
    }
    for (what, number) in [
        ("HELLO", portcullis::session::frame::MAX_HELLO),
        ("RESULT", portcullis::session::frame::MAX_RESULT),
        ("a report", portcullis::evidence::snp::REPORT_SIZE),
    ] {
        assert!(page.contains(&number.to_string()), "{what} is {number} octets in the code");
    }
}

/// What no committed text may hold: paths of a developer's machine.
#[test]
fn nothing_committed_names_a_machine() {
    let listed = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|output| output.status.success()) else {
        skipped::cases(1, "not a git checkout: what is committed is unknown");
        return;
    };
    let told = ["/ro", "/ho", "/wo"].map(|start| {
        start.to_owned()
            + match start {
                "/ro" => "ot/",
                "/ho" => "me/",
                _ => "rk/",
            }
    });
    let mut found = Vec::new();
    for name in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|name| !name.is_empty()) {
        let text = String::from_utf8_lossy(&std::fs::read(root().join(name)).unwrap_or_default()).into_owned();
        found.extend(told.iter().filter(|path| text.contains(path.as_str())).map(|path| format!("{name}: {path}")));
    }
    assert!(found.is_empty(), "{found:#?}");
}

fn reasons() -> String {
    let mut page = String::from(
        "# Reasons\n\nWhy something was refused: a closed set of stable codes, the same in logs, metrics, JSON and `portcullis explain CODE`.\nThis page is generated from `src/refusal.rs`; a test fails when they differ.\n\n| code | what happened | whose turn | may pass later |\n|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let later = if reason.undecided() { "yes" } else { "no" };
        writeln!(page, "| [`{reason}`](#{reason}) | {} | {} | {later} |", reason.summary(), turn(*reason)).expect("a line");
    }
    page.push_str(
        "\n\"May pass later\" means that no decision could be made: exit code 3 rather than 1 (see `portcullis verify --help`). The peer learns\none of three codes, never these.\n",
    );
    for reason in Reason::ALL {
        write!(page, "\n## {reason}\n\n{}.\n\n{}\n", capital(reason.summary()), reason.explanation()).expect("a section");
    }
    page
}

fn turn(reason: Reason) -> &'static str {
    match reason.turn() {
        Turn::Operator => "operator",
        Turn::Peer => "peer",
        Turn::Vendor => "vendor",
    }
}

fn capital(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn without_comments(text: &str) -> Vec<&str> {
    let bare = |line: &'_ str| line.split_once('#').map_or(line.len(), |(before, _)| before.len());
    text.lines().map(|line| line[..bare(line)].trim_end()).filter(|line| !line.is_empty()).collect()
}

/// Every page of the repository, relative to its root.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["", "docs", "container", "deploy", "configs"].iter().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).into_iter().flatten().flatten() {
            let path = folder.join(entry.file_name());
            if folder.as_os_str() == "docs" && entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() >= 5, "the pages were not found");
    found
}

/// The targets of `[text](target)` with their lines, code left out.
fn links(text: &str) -> impl Iterator<Item = (&str, usize)> {
    text.lines()
        .enumerate()
        .flat_map(|(at, line)| line.split("](").skip(1).filter_map(move |behind| behind.split_once(')').map(|(target, _)| (target, at + 1))))
}
