//! `portcullis doctor`: machines as trees of files, and configurations with what they lean on.
#![cfg(all(feature = "cli", feature = "simulator", target_os = "linux"))]
#![allow(clippy::disallowed_methods, reason = "tests read and write their own files")]

#[allow(dead_code, reason = "shared with another test program")]
#[path = "support/tsm.rs"]
mod fake;
#[path = "support/program.rs"]
mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use fake::{Driver, FakeTsm};
use portcullis::attester::simulator::{Flaw, Forge, Kds, Service, ServiceFault};
use portcullis::clock::Clock;
use portcullis::evidence::snp::Product;
use portcullis::evidence::{ReportData, Timestamp};
use portcullis::platform::PLATFORMS;
use program::{Desk, Run};
use serde_json::Value;

/// A machine: files below `m`, as a process of root sees them.
fn machine(files: &[(&str, &str)]) -> Desk {
    let desk = Desk::new();
    let common = [
        ("proc/self/status", "Uid:\t0 0 0 0\nGid:\t0 0 0 0\nGroups:\t0\nCapEff:\t000001ffffffffff\n"),
        ("proc/self/uid_map", "0 0 4294967295\n"),
        ("proc/self/mounts", "configfs /sys/kernel/config configfs rw 0 0\n"),
        ("proc/sys/kernel/osrelease", "6.12.3\n"),
    ];
    for (path, text) in common.iter().chain(files) {
        place(&desk, path, text, 0o644);
    }
    desk
}

fn place(desk: &Desk, path: &str, text: &str, mode: u32) {
    let path = desk.path("m").join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

const SNP_DEVICE: (&str, &str) = ("sys/bus/platform/devices/sev-guest/modalias", "platform:sev-guest\n");
const UNPRIVILEGED: &str = "Uid:\t1000 1000 1000 1000\nGid:\t1000 1000 1000 1000\nGroups:\t1000\nCapEff:\t0000000000000000\n";

/// The lines about one thing.
fn about<'a>(document: &'a Value, about: &str) -> Vec<&'a Value> {
    let is = |found: &str| found == about || found.strip_prefix(about).is_some_and(|rest| rest.starts_with(' '));
    document["lines"].as_array().expect("lines").iter().filter(|line| is(line["about"].as_str().expect("text"))).collect()
}

fn one<'a>(document: &'a Value, name: &str) -> (&'a str, &'a str, &'a str) {
    let lines = about(document, name);
    assert_eq!(lines.len(), 1, "{name}: {}", document["lines"]);
    let text = |key: &str| lines[0][key].as_str().expect("text");
    (text("state"), text("found"), text("fix"))
}

fn doctor(desk: &Desk, words: &str) -> (i32, Value) {
    let run = desk.run(&format!("doctor --root m --json {words}"));
    (run.code, run.json())
}

/// Every line that is bad, or of no TEE, says what to do.
fn fixes(document: &Value) {
    for line in document["lines"].as_array().expect("lines") {
        let bad = ["bad", "no_tee", "undecided"].contains(&line["state"].as_str().expect("text"));
        assert!(!bad || !line["fix"].as_str().expect("text").is_empty(), "{line}");
    }
    for way in document["platforms"]["seen"].as_array().expect("platforms").iter().flat_map(|seen| seen["ways"].as_array().expect("ways")) {
        assert!(way["works"] == true || !way["fix"].as_str().expect("text").is_empty(), "{way}");
    }
}

#[test]
fn a_machine_without_a_tee_says_so_of_every_platform() {
    let desk = machine(&[]);
    let (code, document) = doctor(&desk, "");
    assert_eq!(code, 4, "{document:#}");
    fixes(&document);
    for platform in PLATFORMS {
        assert!(one(&document, platform.name).1.starts_with("nothing of it is to be seen\n"), "{}", platform.name);
    }
    for way in document["platforms"]["seen"].as_array().expect("platforms").iter().flat_map(|seen| seen["ways"].as_array().expect("ways")) {
        assert!(way["what"].as_str().expect("text").contains(" at m/"), "not below the root: {way}");
    }
    assert_eq!(document["platforms"]["auto"], Value::Null);
    assert!(one(&document, "provider").2.contains("portcullis demo"));
    assert_eq!(one(&document, "clock").0, "good");
    assert_eq!(one(&document, "open files").0, "good");
}

#[test]
fn what_stands_in_the_way_of_a_tee_that_is_there_is_named() {
    // The device is not given to the container.
    let desk = machine(&[SNP_DEVICE, ("sys/class/misc/sev-guest/dev", "10:123\n"), ("sys/module/sev_guest/refcnt", "0")]);
    let shown = |desk: &Desk| {
        let shown = desk.run("doctor --root m").shown();
        shown.lines().take_while(|line| !line.starts_with("process")).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!("hindered", hindered(&shown(&desk)));
    let (code, document) = doctor(&desk, "");
    assert_eq!(code, 1, "{document:#}");
    fixes(&document);
    let (state, found, fix) = one(&document, "sev-snp");
    assert!(state == "bad" && found.contains("devices/sev-guest") && fix.contains("--device"), "{found} {fix}");
    assert!(one(&document, "provider").1.contains("this machine is sev-snp and gives no evidence of it"));

    // The driver, the kernel, the mode.
    let desk = machine(&[SNP_DEVICE]);
    assert!(one(&doctor(&desk, "").1, "sev-snp").1.contains("no driver sev-guest is at work"));
    let desk = machine(&[SNP_DEVICE, ("proc/sys/kernel/osrelease", "5.15.0-1052\n")]);
    let (_, document) = doctor(&desk, "");
    let (_, found, fix) = one(&document, "sev-snp");
    assert!(
        found.contains("Linux 5.15 is too old") && fix.contains("boot this guest with Linux 6.7 or later\nboot this guest with Linux 5.19 or later"),
        "{found} {fix}"
    );
    let desk = machine(&[SNP_DEVICE, ("proc/self/status", UNPRIVILEGED)]);
    fs::set_permissions(desk.path("."), fs::Permissions::from_mode(0o755)).expect("a mode");
    place(&desk, "dev/sev-guest", "", 0o600);
    let (_, document) = doctor(&desk, "");
    let (_, found, fix) = one(&document, "sev-snp");
    assert!(found.contains("has mode 0600, owner") && fix.contains("chgrp 1000"), "{found} {fix}");

    // Other TEEs by their own signs.
    for (platform, sign) in [
        ("intel-tdx", ("proc/cpuinfo", "flags : fpu tdx_guest\n")),
        ("cca", ("sys/bus/platform/devices/arm-cca-dev/modalias", "x")),
        ("nitro", ("sys/bus/virtio/devices/virtio0/device", "0x0021\n")),
        ("keystone", ("run/keystone/attestation.sock", "")),
        ("psa", ("run/psa-tokens", "")),
        ("intel-sgx", ("dev/attestation/attestation_type", "none")),
    ] {
        let (code, document) = doctor(&machine(&[sign]), "");
        assert_eq!((code, one(&document, platform).0), (1, "bad"), "{platform}: {document:#}");
        fixes(&document);
    }
}

/// The lines of what is there, and what `auto` makes of it.
fn hindered(shown: &str) -> String {
    let lines: Vec<_> = shown.lines().collect();
    let at = |text: &str| lines.iter().position(|line| line.contains(text)).expect("a line");
    [&lines[..at("azure-snp")], &lines[at("provider =")..]].concat().join("\n")
}

#[test]
fn nothing_weaker_is_taken_in_place_of_a_tee_that_is_there() {
    let desk = machine(&[SNP_DEVICE, ("sys/class/dmi/id/sys_vendor", "Amazon EC2\n")]);
    place(&desk, "usr/bin/nitro-tpm-attest", "#!/bin/sh\nexit 1\n", 0o755);
    let (code, document) = doctor(&desk, "");
    let (state, found, fix) = one(&document, "provider");
    assert!(code == 1 && state == "no_tee", "{document:#}");
    assert!(found.contains("nitrotpm by nitro-tpm-attest would work and is not taken in its place"), "{found}");
    assert!(fix.contains("provider = \"nitro-tpm-attest\""), "{fix}");
    let evidence = desk.run("evidence --root m");
    assert!(evidence.code == 4 && evidence.stdout.contains("not taken in its place"), "{}", evidence.shown());

    // Named, it is.
    desk.write("c.toml", CONFIG.replace("PROVIDER", "nitro-tpm-attest"));
    desk.write("p.json", POLICY);
    let (_, document) = doctor(&desk, "--config c.toml");
    assert_eq!(one(&document, "provider = \"nitro-tpm-attest\"").0, "good", "{document:#}");
    assert_eq!(one(&document, "provider = \"auto\"").0, "note");
    assert_eq!(one(&document, "sev-snp").0, "note");
    // And where SEV-SNP is not, auto takes it.
    fs::remove_dir_all(desk.path("m/sys/bus")).expect("a folder");
    assert_eq!(doctor(&desk, "").1["platforms"]["auto"]["provider"], "nitro-tpm-attest");
}

#[test]
fn a_machine_whose_tee_answers_is_good() {
    let maker = |report_data: &[u8; 64], _: u32| Forge::new(Product::Genoa, 1, Timestamp(1_796_083_200)).report_over(&ReportData(*report_data));
    let Some(fake) = FakeTsm::mount(Driver::good(maker)) else { return };
    let desk = machine(&[SNP_DEVICE]);
    let (code, document) = doctor(&desk, &format!("--tsm-root {}", fake.root().display()));
    assert_eq!(code, 0, "{document:#}");
    assert_eq!(document["platforms"]["auto"]["provider"], "configfs-tsm");
    let (state, found, _) = one(&document, "provider");
    assert!(state == "good" && found.contains("takes sev-snp by configfs-tsm: the first in order that works; the kernel made the device"), "{found}");
    assert_eq!(fake.driver(|driver| driver.reports), 0, "the hardware is asked for nothing");
    assert_eq!(fake.entries(), Vec::<String>::new(), "nothing is left");
}

#[test]
fn a_device_in_another_place_is_looked_for_there_and_nowhere_else() {
    let desk = machine(&[("dev/sev-guest", ""), ("elsewhere", "")]);
    let (_, document) = doctor(&desk, "--device m/elsewhere");
    let seen = document["platforms"]["seen"].as_array().expect("platforms");
    let ways: Vec<&Value> = seen.iter().flat_map(|seen| seen["ways"].as_array().expect("ways")).collect();
    for provider in ["nsm", "sev-guest", "tdx-guest"] {
        let way = ways.iter().find(|way| way["provider"] == provider).expect("it is looked for");
        assert_eq!(way["what"], format!("{provider} at m/elsewhere"), "{way}");
    }
    assert!(!document.to_string().contains("m/dev/sev-guest"), "{document:#}");
}

const CONFIG: &str = r#"version = 1
[identity]
provider = "PROVIDER"
names = ["a.test"]
[policy.p]
file = "p.json"
[[upstream]]
name = "far"
targets = ["tls://192.0.2.1:443"]
attested = { policy = "p" }
[[listener]]
name = "in"
bind = "127.0.0.1:1"
upstream = "far"
"#;

const POLICY: &str = r#"{ "version": 1, "name": "p", "accept": [ { "id": "a", "tee": "sev-snp", "products": ["genoa"], "insecure_any_measurement": true } ] }"#;

/// A desk with a client of simulated guests, and its vendor.
async fn client(more: &str) -> (Desk, Service) {
    let now = Clock::system().now().expect("a clock that is right");
    let vendor = Service::start(Kds::new(vec![Forge::new(Product::Genoa, 1, now)], now)).await.expect("a port");
    let desk = machine(&[]);
    let config = CONFIG.replace("[identity]\nprovider = \"PROVIDER\"\nnames = [\"a.test\"]\n", "");
    desk.write("c.toml", config + &more.replace("VENDOR", &vendor.url()));
    desk.write("p.json", POLICY.replace("\"accept\"", "\"insecure_roots\": [\"simulator\"], \"accept\""));
    (desk, vendor)
}

fn asked(desk: &Desk) -> (i32, String, String, String) {
    let (code, document) = doctor(desk, "--config c.toml");
    fixes(&document);
    let line = document["lines"].as_array().expect("lines").iter().find(|line| line["part"] == "collateral").expect("a source").clone();
    let text = |key: &str| line[key].as_str().expect("text").to_owned();
    (code, text("state"), text("found"), text("fix"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_has_a_line_with_what_it_answered() {
    let (desk, vendor) = client("[collateral]\nsources = [\"VENDOR\"]\ntimeout = \"500ms\"\ncache = \"cache\"\n").await;
    let (code, state, found, _) = asked(&desk);
    assert!(code == 0 && state == "good" && found.starts_with("crl in ") && found.contains(" ms, holds until "), "{code} {found}");
    assert!(!desk.path("cache").exists(), "a look makes nothing");
    for (fault, code, state, told, fix) in [
        (ServiceFault::Absent, 3, "undecided", "it does not have it", "serves the vendor's paths"),
        (ServiceFault::Hang, 3, "undecided", "no answer within 500 ms", "collateral.timeout"),
        (ServiceFault::Reset, 3, "undecided", "no connection", "collateral.proxy"),
        (ServiceFault::Server(503), 3, "undecided", "it is in trouble: 503", "a second source"),
        (ServiceFault::Throttled(Some(60)), 3, "undecided", "429, try again in 60 s", "a mirror or a bundle"),
        (ServiceFault::Truncated, 3, "undecided", "no connection", "reaches it"),
        (ServiceFault::Oversized, 1, "bad", "unusable", "renew it there"),
        (ServiceFault::Flawed(Flaw::Expired), 1, "bad", "it holds from", "renew it there"),
        (ServiceFault::Flawed(Flaw::WrongIssuer), 1, "bad", "unusable", "not the vendor's"),
        (ServiceFault::Slow(Duration::from_millis(100)), 0, "good", "crl in 1", ""),
    ] {
        vendor.misbehave(fault);
        let found = asked(&desk);
        assert!(found.0 == code && found.1 == state && found.2.contains(told) && found.3.contains(fix), "{fault:?}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_on_disk_has_its_lines() {
    let (desk, vendor) = client("[collateral]\nsources = [\"bundle.json\", \"folder\", \"VENDOR\"]\ncache = \"p.json/cache\"\n").await;
    fs::create_dir(desk.path("folder")).expect("a folder");
    let packed = desk.run(&format!("collateral pack --source {} --policy p.json --out bundle.json", vendor.url()));
    assert_eq!(packed.code, 0, "{}", packed.shown());
    let (code, document) = doctor(&desk, "--config c.toml");
    assert_eq!(code, 1, "{document:#}");
    fixes(&document);
    assert_eq!(about(&document, "bundle.json")[0]["state"], "good");
    assert_eq!(about(&document, "folder")[0]["state"], "note", "another source behind it has it");
    let (state, found, fix) = one(&document, "cache");
    assert!(state == "bad" && found.contains("cannot write") && fix.contains("writable volume"), "{found} {fix}");
    fs::remove_file(desk.path("bundle.json")).expect("a file");
    let (code, document) = doctor(&desk, "--config c.toml");
    assert!(code == 2 && document["errors"].as_str().is_some_and(|errors| errors.contains("bundle.json")), "{document:#}");

    let run = desk.run(&format!("collateral fetch --source {} --policy p.json --cache good", vendor.url()));
    assert_eq!(run.code, 0, "{}", run.shown());
    let text = desk.text("c.toml").replace("p.json/cache", "good").replace("\"bundle.json\", ", "");
    desk.write("c.toml", text);
    desk.write("good/torn.item", "half");
    let (code, document) = doctor(&desk, "--config c.toml");
    assert!(code == 0 && one(&document, "cache").1 == "2 items, 0 of them ended; 1 file that is none", "{document:#}");
    assert!(desk.path("good/torn.item").exists(), "a look removes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_and_keys_are_looked_at() {
    let (desk, _vendor) = client("").await;
    let fine: Run = desk.run("doctor --root m --config c.toml");
    let shown = fine.shown();
    let lines: Vec<_> = shown.lines().skip_while(|line| !line.starts_with("- provider =")).filter(|line| !line.contains("later than when")).collect();
    insta::assert_snapshot!("configuration", lines.join("\n").replace(&open_files(&shown), "N at most, enough for N connections"));
    let policy = desk.text("p.json");
    let now = Clock::system().now().expect("a clock that is right");
    for (expires, code, state, told) in [
        (now.minus(1), 1, "bad", "the policy ended"),
        (now.plus(86_400 + 60), 0, "note", "in 1 days"),
        (now.plus(90 * 86_400), 0, "good", "the policy ends first"),
    ] {
        desk.write("p.json", policy.replace("\"accept\"", &format!("\"expires\": \"{expires}\", \"accept\"")));
        let (found_code, document) = doctor(&desk, "--config c.toml");
        let (found_state, found, _) = one(&document, "policy p");
        assert!((found_code, found_state) == (code, state) && found.contains(told), "{expires}: {found}");
        fixes(&document);
    }
    desk.write("p.json", &policy);
    fs::set_permissions(desk.path("p.json"), fs::Permissions::from_mode(0o666)).expect("a mode");
    let (code, document) = doctor(&desk, "--config c.toml");
    let (state, found, fix) = one(&document, "policy p");
    assert!(code == 1 && state == "bad" && found.contains("mode 0666") && fix.contains("chmod go-w"), "{found}");
    fs::set_permissions(desk.path("p.json"), fs::Permissions::from_mode(0o644)).expect("a mode");
    desk.write("key.pem", "");
    desk.write("chain.pem", "");
    let public = "[[listener]]\nname = \"site\"\nbind = \"127.0.0.1:2\"\nprotocol = \"http\"\ncertificate = \"files\"\nupstream = \"far\"\n";
    desk.write("c.toml", desk.text("c.toml") + public + "files = { chain = \"chain.pem\", key = \"key.pem\" }\n");
    for (mode, state) in [(0o644, "bad"), (0o600, "good")] {
        fs::set_permissions(desk.path("key.pem"), fs::Permissions::from_mode(mode)).expect("a mode");
        let (_, document) = doctor(&desk, "--config c.toml");
        let (found_state, found, _) = one(&document, "private key");
        assert!(found_state == state && found.contains(&format!("mode {mode:04o}")), "{found}");
    }
    desk.write("users", "me:password\n");
    let socks = "[[listener]]\nname = \"socks\"\nbind = \"127.0.0.1:3\"\nprotocol = \"socks5\"\nusers_file = \"users\"\n";
    desk.write("c.toml", desk.text("c.toml") + socks + "destination = [{ to = \"a:1\", upstream = \"far\" }]\n");
    for (mode, state) in [(0o644, "bad"), (0o600, "good")] {
        fs::set_permissions(desk.path("users"), fs::Permissions::from_mode(mode)).expect("a mode");
        let (_, document) = doctor(&desk, "--config c.toml");
        assert_eq!(one(&document, "accounts").0, state, "{document:#}");
    }
}

fn open_files(shown: &str) -> String {
    let line = shown.lines().find(|line| line.contains(" at most, enough for ")).expect("a line");
    line.trim_start_matches(|letter: char| !letter.is_ascii_digit()).to_owned()
}
