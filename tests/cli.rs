//! The program as people and scripts meet it: what it prints, what it writes, how it ends.
#![cfg(feature = "simulator")]

#[path = "support/program.rs"]
mod program;

use portcullis::attester::simulator::Forge;
use portcullis::evidence::binding::{self, BindingClaims, Kind};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::eventlog::{Event, Log};
use portcullis::evidence::snp::Product;
use portcullis::evidence::tpm::Hash;
use portcullis::evidence::{KeyDigest, Timestamp};
use portcullis::tls::certificate::{Statement, issue};
use program::{AT, Desk, vectors};

/// A laboratory: a policy that trusts the simulator and accepts the guest of the folder `guest`.
fn laboratory() -> Desk {
    let desk = Desk::new();
    assert_eq!(desk.run(&format!("simulate guest --at {AT}")).code, 0);
    assert_eq!(desk.run("policy init lab.json --insecure-simulator").code, 0);
    let added = desk.run(&format!("policy add lab.json --id one --from guest --yes --at {AT}"));
    assert_eq!(added.code, 0, "{}", added.shown());
    desk
}

#[test]
fn genuine_evidence_that_the_policy_wants_is_accepted() {
    let desk = laboratory();
    insta::assert_snapshot!("accepted", desk.run(&format!("verify guest --policy lab.json --at {AT}")).shown());
    insta::assert_snapshot!("accepted-json", desk.run(&format!("verify guest --policy lab.json --at {AT} --json")).shown());
    insta::assert_snapshot!("accepted-verbose", desk.run(&format!("verify -v guest --policy lab.json --at {AT}")).shown());
}

#[test]
fn a_refusal_names_every_mismatch_with_its_field_and_fix() {
    let desk = laboratory();
    let other = "ab".repeat(48);
    desk.run(&format!("simulate other --seed 2 --set measurement={other} --set vmpl=2 --tcb snp=21 --set platform_info=0 --at {AT}"));
    insta::assert_snapshot!("refused", desk.run(&format!("verify other --policy lab.json --at {AT}")).shown());
    let document = desk.run(&format!("verify other --policy lab.json --at {AT} --json")).json();
    assert_eq!(document["findings"][0]["found"], other.as_str(), "hex is whole in JSON");
    assert_eq!(document["claims_authentic"], false);
    assert_eq!(document["claims"]["measurement"], other.as_str());
}

#[test]
fn simulated_evidence_is_nothing_without_a_policy_that_names_its_roots() {
    let desk = laboratory();
    let run = desk.run(&format!("verify guest --at {AT} --json"));
    assert_eq!((run.code, run.json()["reason"].as_str()), (1, Some("chain_untrusted")));
    let named = desk.text("lab.json");
    desk.write(
        "plain.json",
        named.replace("\"insecure_roots\"", "\"note \"").replace("\"note \": [\n    \"simulator\"\n  ]", "\"expires\": \"2030-01-01T00:00:00Z\""),
    );
    let run = desk.run(&format!("verify guest --policy plain.json --at {AT} --json"));
    assert_eq!((run.code, run.json()["reason"].as_str()), (1, Some("chain_untrusted")), "{}", run.shown());
}

/// A broken chain is not one trouble but several, and each has its own way out.
#[test]
fn a_chain_that_does_not_hold_is_told_with_what_to_do_about_this_one() {
    let desk = laboratory();
    let bytes = |name: &str| std::fs::read(desk.path(name)).expect("a file");
    desk.run(&format!("simulate turin --product turin --at {AT}"));
    desk.run(&format!("simulate other --seed 2 --at {AT}"));
    desk.run(&format!("simulate cloud --vlek cloud.example --at {AT}"));
    let cut = bytes("guest/vcek.der").split_at(600).0.to_vec();
    for (name, file, content) in [
        ("cut", "vcek.der", cut),
        ("line", "ask.der", bytes("turin/ask.der")),
        ("chip", "vcek.der", bytes("other/vcek.der")),
        ("kind", "vcek.der", bytes("cloud/vlek.der")),
    ] {
        std::fs::create_dir(desk.path(name)).expect("a folder");
        for piece in ["report.bin", "vcek.der", "ask.der", "crl.der"] {
            desk.write(&format!("{name}/{piece}"), if piece == file { content.clone() } else { bytes(&format!("guest/{piece}")) });
        }
    }
    let general = portcullis::refusal::Reason::ChainUntrusted.explanation();
    for (words, told) in [
        (format!("verify guest --at {AT}"), "insecure_roots"),
        (format!("verify cut --policy lab.json --at {AT}"), "cut short"),
        (format!("verify line --policy lab.json --at {AT}"), "another processor line"),
        (format!("verify chip --policy lab.json --at {AT}"), "another chip"),
        (format!("verify kind --policy lab.json --at {AT}"), "vcek"),
        ("verify guest --policy lab.json --at 2099-01-01T00:00:00Z".to_owned(), "has expired"),
        ("verify guest --policy lab.json --at 2000-01-01T00:00:00Z".to_owned(), "machine's clock"),
    ] {
        let run = desk.run(&format!("{words} --json"));
        let finding = run.json()["findings"][0].clone();
        let fix = finding["fix"].as_str().unwrap_or_default();
        assert_eq!((run.code, finding["reason"].as_str()), (1, Some("chain_untrusted")), "{words}: {}", run.shown());
        assert!(fix.contains(told) && fix != general, "{words}: {fix}");
    }
}

/// Each forgery changes one thing of a guest that is accepted.
#[test]
fn every_forgery_is_refused_with_its_reason_and_exit_code() {
    let desk = laboratory();
    let measurement = format!("--set measurement={}", "ab".repeat(48));
    let no_agent = format!("--set report_id_ma={}", "00".repeat(32));
    let masked = format!("--set chip_id={}", "00".repeat(64));
    for (index, (options, reason, exit)) in [
        (measurement.as_str(), "measurement_unknown", 1),
        ("--debug", "debug_enabled", 1),
        ("--set policy=0x70000", "guest_policy_violation", 1),
        ("--set policy=0x10000", "reserved_bits_set", 1),
        ("--set vmpl=1", "vmpl_not_allowed", 1),
        ("--set vmpl=4294967295", "vmpl_not_allowed", 1),
        ("--set version=99", "evidence_unsupported", 1),
        ("--set sig_algo=2", "evidence_unsupported", 1),
        ("--set key_info=28", "chain_untrusted", 1),
        ("--set platform_info=0", "guest_policy_violation", 1),
        (&no_agent, "guest_policy_violation", 1),
        (&masked, "chain_untrusted", 1),
        ("--tcb snp=21", "tcb_too_low", 1),
        ("--certificate-tcb snp=20", "tcb_too_low", 1),
        ("--set committed_tcb=0a00000000001853", "tcb_too_low", 1),
        ("--vlek cloud.example", "platform_not_allowed", 1),
        ("--product milan", "platform_not_allowed", 1),
        ("--impostor", "chain_untrusted", 1),
        ("--revoked", "chain_revoked", 1),
        ("--expired", "chain_untrusted", 1),
        ("--stale-crl", "collateral_unavailable", 3),
        ("--without crl", "collateral_unavailable", 3),
        ("--without vcek", "collateral_unavailable", 3),
        ("--without ask", "collateral_unavailable", 3),
        ("--flip 144", "signature_invalid", 1),
        ("--flip 672", "signature_invalid", 1),
        ("--length 1183", "evidence_size", 1),
        ("--length 1185", "evidence_size", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = format!("forged-{index}");
        let made = desk.run(&format!("simulate {folder} {options} --at {AT}"));
        assert_eq!(made.code, 0, "{options}: {}", made.shown());
        let run = desk.run(&format!("verify {folder} --policy lab.json --at {AT} --json"));
        let document = run.json();
        let verdict = if exit == 3 { "undecided" } else { "reject" };
        assert_eq!((run.code, document["reason"].as_str(), document["verdict"].as_str()), (exit, Some(reason), Some(verdict)), "{options}: {}", run.shown());
        assert_eq!(document["findings"][0]["reason"], reason, "{options}");
        for part in ["field", "expected", "found", "fix", "turn"] {
            assert!(document["findings"][0][part].as_str().is_some_and(|text| !text.is_empty()), "{options}: no {part}");
        }
    }
}

#[test]
fn several_subjects_end_as_the_worst_of_them() {
    let desk = laboratory();
    desk.run(&format!("simulate open --without crl --at {AT}"));
    desk.run(&format!("simulate debugged --debug --at {AT}"));
    let run = |subjects: &str| desk.run(&format!("verify {subjects} --policy lab.json --at {AT} --json"));
    assert_eq!((run("guest open").code, run("guest open").json()["verdict"].as_str()), (3, Some("undecided")));
    let all = run("guest open debugged");
    assert_eq!((all.code, all.json()["verdict"].as_str()), (1, Some("reject")));
    let verdicts: Vec<_> = all.json()["results"].as_array().unwrap().iter().map(|result| result["verdict"].as_str().unwrap().to_owned()).collect();
    assert_eq!(verdicts, ["accept", "undecided", "reject"]);
}

#[test]
fn evidence_is_found_in_files_of_any_name_in_pem_and_on_stdin() {
    let desk = laboratory();
    let der = |name: &str| std::fs::read(desk.path("guest").join(name)).unwrap();
    desk.write("a", der("report.bin"));
    desk.write("chain", pem("CERTIFICATE", &der("vcek.der")) + &pem("CERTIFICATE", &der("ask.der")) + &pem("CERTIFICATE", &der("ark.der")));
    desk.write("list", pem("X509 CRL", &der("crl.der")));
    assert_eq!(desk.run(&format!("verify list a chain --policy lab.json --at {AT}")).code, 0);
    let piped = desk.run_with(&format!("verify - chain list --policy lab.json --at {AT}"), &[], Some(&der("report.bin")));
    assert_eq!(piped.code, 0, "{}", piped.shown());
    assert!(piped.stdout.contains("<stdin>"), "{}", piped.stdout);
    std::fs::create_dir(desk.path("endorsements")).unwrap();
    desk.write("endorsements/anything", desk.text("chain") + &desk.text("list"));
    assert_eq!(desk.run(&format!("verify a endorsements --policy lab.json --at {AT}")).code, 0, "a folder of endorsements helps the file beside it");
}

/// A certificate with simulated evidence bound to its key, as a server would show it; the collection in it.
fn certificate(names: &[&str], said: &[&str]) -> (Vec<u8>, Collection) {
    let now = Timestamp::parse(AT).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let claims = BindingClaims {
        kind: Kind::Certificate { issued: now, expires: now.plus(3600), names: owned(said) },
        spki: KeyDigest::of_spki(&rcgen::PublicKeyData::subject_public_key_info(&key)),
        instance: vec![1; 16],
        aux: std::collections::BTreeMap::new(),
        epoch: None,
        hpke: None,
    };
    let bind = claims.encode();
    let quote = Forge::new(Product::Genoa, 1, now).quote(&binding::certificate_challenge(&bind).long);
    let collection = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
    let names = owned(names);
    let statement = Statement { names: &names, not_before: now.minus(300), not_after: now.plus(3600), evidence: &collection };
    (issue(&key, &statement).unwrap().to_vec(), collection)
}

#[test]
fn evidence_in_a_certificate_is_judged_with_its_key_names_and_age() {
    let desk = laboratory();
    let (leaf, collection) = certificate(&["app.example"], &["app.example"]);
    desk.write("leaf.der", &leaf);
    desk.write("leaf.pem", pem("CERTIFICATE", &leaf));
    desk.write("renamed.der", certificate(&["evil.example"], &["app.example"]).0);
    desk.write("collection.cbor", collection.encode());
    desk.write("mixed.cbor", Collection { bind: certificate(&["b.example"], &["b.example"]).1.bind, ..collection.clone() }.encode());
    desk.write("torn.cbor", &collection.encode()[..200]);
    let bare = rcgen::CertificateParams::new(vec!["app.example".to_owned()]).unwrap().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    desk.write("bare.pem", bare.pem());
    for (file, at, code, reason) in [
        ("leaf.der", AT, 0, None),
        ("leaf.pem", AT, 0, None),
        ("leaf.der", "2026-12-01T02:00:00Z", 1, Some("certificate_invalid")),
        ("leaf.der", "2026-11-30T23:50:00Z", 1, Some("certificate_invalid")),
        ("leaf.der", "2026-12-01T01:01:00Z", 1, Some("evidence_stale")),
        ("renamed.der", AT, 1, Some("name_mismatch")),
        ("collection.cbor", AT, 0, None),
        ("mixed.cbor", AT, 1, Some("binding_mismatch")),
        ("torn.cbor", AT, 1, Some("evidence_malformed")),
        ("bare.pem", AT, 1, Some("evidence_unsupported")),
    ] {
        let run = desk.run(&format!("verify {file} --policy lab.json --at {at} --json"));
        assert_eq!((run.code, run.json()["reason"].as_str()), (code, reason), "{file} at {at}: {}", run.shown());
    }
    let shown = desk.run("inspect leaf.pem --json").json();
    assert_eq!(shown["is"], "a certificate with evidence");
    assert_eq!(shown["fields"]["binding"]["names"][0], "app.example");
    assert!(shown["fields"]["end/vcek"]["subject"].as_str().unwrap().ends_with("CN=SEV-VCEK"), "{shown}");
    assert_eq!(desk.run(&format!("policy add lab.json --id again --from leaf.pem --yes --at {AT}")).code, 0);
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn unreadable_input_is_an_error_and_never_a_verdict() {
    let desk = laboratory();
    desk.write("empty", "");
    desk.write("large", vec![b'x'; (1 << 20) + 1]);
    desk.write("text", "hello");
    desk.write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
    std::fs::create_dir(desk.path("nothing")).unwrap();
    std::fs::create_dir(desk.path("guest/inner")).unwrap();
    let mut shown = String::new();
    for words in [
        "verify absent",
        "verify empty large text broken.pem",
        "verify nothing",
        "verify guest/vcek.der",
        "verify guest --at yesterday",
        "verify guest --policy absent.json",
        "verify guest --policy guest/report.bin",
        "verify",
        "verify guest --json --quiet",
        "inspect absent",
        "simulate guest",
        "simulate new --set vmpl",
        "simulate new --set nonsense=1",
        "simulate new --set measurement=00",
        "simulate new --tcb fmc=1",
        "simulate new --without everything",
        "frobnicate",
        "--color blue version",
    ] {
        let run = desk.run(words);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{words}: {}", run.shown());
        shown += &format!("$ portcullis {words}\n{}\n", run.stderr);
    }
    insta::assert_snapshot!("unusable", shown);
    assert!(!desk.path("new").exists(), "what cannot be made leaves nothing");
}

#[test]
fn inspection_shows_and_never_judges() {
    let desk = laboratory();
    desk.run(&format!("simulate debugged --debug --flip 144 --at {AT}"));
    let run = desk.run("inspect debugged/report.bin debugged/vcek.der debugged/crl.der");
    let words = run.stdout.to_lowercase();
    for word in ["accept", "refuse", "reject", "genuine", "trusted", "valid ", "invalid", "✓", "✗"] {
        assert!(!words.contains(word), "{word}: {}", run.stdout);
    }
    // The signing key's certificate is signed with a salt: its digest differs from run to run.
    let steady: Vec<_> = run.shown().lines().filter(|line| !line.trim_start().starts_with("sha256")).map(str::to_owned).collect();
    insta::assert_snapshot!("inspect", steady.join("\n"));
    let document = desk.run("inspect debugged/report.bin --json").json();
    assert_eq!((document["is"].as_str(), document["fields"]["policy_debug"].as_u64()), (Some("a raw sev-snp report"), Some(1)));
    desk.write("short/report.bin".split('/').next_back().unwrap(), vec![2; 100]);
    assert_eq!(desk.run("inspect report.bin").code, 2, "what cannot be decoded is unreadable input");
}

/// An event log proves nothing by itself, and is shown line by line.
#[test]
fn an_event_log_is_shown_line_by_line() {
    let desk = Desk::new();
    let mut log = Log::empty(&[Hash::Sha384]);
    let digest = portcullis::crypto::sha384(&[b"kernel"]).to_vec();
    log.events.push(Event { register: 3, kind: 0xd, digests: vec![(Hash::Sha384.id(), digest.clone())], data: b"kernel\x1b[2J".to_vec() });
    log.events.push(Event { register: 3, kind: 4, digests: vec![(Hash::Sha384.id(), digest)], data: vec![0; 4] });
    desk.write("ccel_data.bin", [log.encode(), vec![0xff; 64]].concat());
    let run = desk.run("inspect ccel_data.bin");
    assert_eq!(run.code, 0, "{}", run.shown());
    assert!(run.stdout.contains("an event log, which proves nothing by itself") && run.stdout.contains("register 3 EV_SEPARATOR"), "{}", run.shown());
    let fields = desk.run("inspect ccel_data.bin --json").json()["fields"].clone();
    assert_eq!(fields["register 3 replayed"], data_encoding::HEXLOWER.encode(&log.replay(Hash::Sha384).expect("replayed")[&3]));
    assert!(fields["event 0"].as_str().is_some_and(|line| line.contains("EV_IPL") && !line.contains('\u{1b}')), "{fields}");
    assert_eq!(desk.run("verify ccel_data.bin").code, 2, "it is no evidence");
}

/// One sentence about what is missing, in place of one about each certificate that lies there.
#[test]
fn a_vtpm_alone_is_no_evidence_of_a_tee() {
    let Some(vectors) = vectors() else { return };
    for case in ["gcp-cvm/vtpm-on-amd-sev", "gcp-cvm/vtpm-cos85-eventlog"] {
        let run = Desk::new().run(&format!("verify {}", vectors.join(case).display()));
        assert_eq!((run.code, run.stderr.lines().count()), (2, 1), "{}", run.shown());
        assert!(run.stderr.contains("holds a vTPM's quote and no evidence of a TEE") && run.stderr.contains("missing is the TEE's report"), "{}", run.shown());
    }
    for case in ["gcp-cvm/snp-milan-v5", "az-snp-vtpm/milan-v3-live"] {
        let run = Desk::new().run(&format!("verify {}", vectors.join(case).display()));
        assert!(!run.stderr.contains("no evidence of a TEE"), "{}", run.shown());
    }
}

#[test]
fn signs_and_colours_follow_the_terminal() {
    let desk = laboratory();
    let words = format!("verify guest --policy lab.json --at {AT}");
    let first = |environment: &[(&str, &str)], words: &str| desk.run_with(words, environment, None).stdout.lines().next().unwrap_or_default().to_owned();
    assert!(first(&[], &words).starts_with("✓ accepted"));
    assert!(first(&[("TERM", "dumb")], &words).starts_with("[ok] accepted"));
    assert!(first(&[("LC_ALL", "POSIX")], &words).starts_with("[ok] accepted"));
    assert!(first(&[("LC_ALL", ""), ("LANG", "de_DE.UTF-8")], &words).starts_with("✓ accepted"));
    let coloured = |environment: &[(&str, &str)], more: &str| first(environment, &format!("{more} {words}")).contains('\u{1b}');
    assert!(!coloured(&[], ""), "no terminal, no colour");
    assert!(coloured(&[("CLICOLOR_FORCE", "1")], ""));
    assert!(coloured(&[], "--color always"));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1")], "--color never"));
    assert!(!coloured(&[("NO_COLOR", "1")], "--color auto"));
}

#[test]
fn a_reader_that_goes_away_does_not_change_the_verdict() {
    let desk = laboratory();
    let words = format!("verify -v guest --policy lab.json --at {AT}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = desk.command(words.split_whitespace(), &[]).stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = desk.command(words.split_whitespace(), &[]).stdout(full).stderr(std::process::Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(2), "a verdict that cannot be told is an error");
}

#[test]
fn quiet_says_all_by_the_exit_code() {
    let desk = laboratory();
    desk.run(&format!("simulate debugged --debug --at {AT}"));
    for (folder, code) in [("guest", 0), ("debugged", 1)] {
        let run = desk.run(&format!("verify {folder} --quiet --policy lab.json --at {AT}"));
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (code, "", ""));
    }
}

#[test]
fn every_code_is_explained_and_a_misspelled_one_finds_its_neighbour() {
    let desk = Desk::new();
    insta::assert_snapshot!("explain-one", desk.run("explain measurement_unknown").shown());
    insta::assert_snapshot!("explain-wrong", desk.run("explain mesurement_unknown").shown() + &desk.run("explain bananas").shown());
    assert_eq!(desk.run("explain MEASUREMENT_UNKNOWN").stdout, desk.run("explain measurement_unknown").stdout);
    let all = desk.run("explain").stdout;
    let documents = desk.run("explain --json").json();
    for reason in portcullis::refusal::Reason::ALL {
        assert!(all.lines().any(|line| line.starts_with(reason.code())), "{reason}");
        assert!(documents.as_array().unwrap().iter().any(|document| document["reason"] == reason.code()), "{reason}");
    }
}

#[test]
fn without_a_tee_evidence_ends_with_4_and_what_was_tried() {
    let desk = Desk::new();
    let words = "evidence --root nowhere --tsm-root no-tsm";
    let shown = desk.run(words).shown();
    let tried = shown.matches("\n    tried ").count();
    for part in ["found", "fix"] {
        assert_eq!(shown.matches(&format!("\n    {part} ")).count(), tried, "each way has its {part}: {shown}");
    }
    // A way that several platforms have is told once.
    assert_eq!(shown.matches("\n    tried     configfs-tsm ").count(), 1, "{shown}");
    // The first way stands for all: each platform adds its own.
    let lines: Vec<_> = shown.lines().collect();
    insta::assert_snapshot!("no-tee", [&lines[..7], &lines[lines.len() - 1..]].concat().join("\n"));
    let run = desk.run(&format!("{words} --json --out made"));
    assert_eq!((run.code, run.json()["tried"].as_array().map(Vec::len)), (4, Some(tried)), "{}", run.shown());
    assert!(!desk.path("made").exists());
}

#[test]
fn completions_and_man_pages_cover_every_subcommand() {
    let desk = Desk::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = desk.run(&format!("completions {shell}"));
        assert!(script.code == 0 && script.stdout.contains("verify"), "{shell}");
    }
    assert_eq!(desk.run("man pages").code, 0);
    for page in ["portcullis", "portcullis-run", "portcullis-verify", "portcullis-policy-add", "portcullis-demo"] {
        let text = desk.text(&format!("pages/{page}.1"));
        assert!(text.contains(".SH NAME") && text.contains(&page.replace('-', "\\-")), "{page}: {text}");
    }
    let version = desk.run("version --json").json();
    assert_eq!((version["version"].as_str(), version["simulator"].as_bool()), (Some(env!("CARGO_PKG_VERSION")), Some(true)));
}

/// The manifest's verdict and claims, out of the program's own mouth.
#[test]
fn captured_evidence_gives_the_manifests_verdict_and_claims() {
    let Some(folder) = vectors() else { return };
    let desk = Desk::new();
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("MANIFEST.json")).unwrap()).unwrap();
    let mut judged = 0;
    for case in manifest["cases"].as_array().unwrap().iter().filter(|case| case["platform"] == "snp") {
        let id = case["id"].as_str().unwrap();
        let run = desk.run_words(["verify", folder.join(id).to_str().unwrap(), "--json", "--offline", "--at", case["verify_at"].as_str().unwrap()], &[], None);
        let document = run.json();
        assert_eq!(document["verdict"], case["expected"]["verdict"], "{id}: {}", run.shown());
        assert_eq!(run.code, i32::from(document["verdict"] != "accept"), "{id}");
        assert_eq!(document["claims"]["measurement"], case["claims"]["measurement"], "{id}");
        assert_eq!(document["claims"]["reported_tcb_parts"], case["claims"]["reported_tcb_parts"], "{id}");
        if document["verdict"] == "accept" {
            assert!(document["warnings"][0].as_str().unwrap().starts_with("genuineness only"), "{id}");
            assert_eq!(document["revocation_checked"], false, "{id}: no list came along");
        }
        judged += 1;
    }
    println!("{judged} cases judged");
    assert!(judged > 0);
}

/// What a quick start prints is what `check` takes, and it refuses what it would not run.
#[test]
fn quick_starts_print_configurations_that_check_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |line: &str| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_portcullis")).args(line.split(' ')).current_dir(folder.path()).output().expect("the program");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let chip = "01".repeat(64);
    let policy = format!(
        r#"{{ "version": 1, "name": "p", "accept": [ {{ "id": "a", "tee": "sev-snp", "measurement": "{}", "chip_id": "{chip}" }} ] }}"#,
        "ab".repeat(48)
    );
    std::fs::write(folder.path().join("p.json"), policy).expect("a file");
    for line in [
        "server --listen 127.0.0.1:18443 --target 127.0.0.1:8080",
        "server --listen 127.0.0.1:18443 --target tcp://127.0.0.1:8080 --policy p.json",
        "client --listen 127.0.0.1:14140 --target db.example:8443 --policy p.json",
        "client --listen unix:app.sock --target tls://db.example:8443 --policy p.json",
    ] {
        let (code, printed, complained) = run(&format!("{line} --print-config"));
        assert_eq!(code, Some(0), "{line}: {complained}");
        std::fs::write(folder.path().join("c.toml"), &printed).expect("a file");
        let (code, _, complained) = run("check -c c.toml");
        assert_eq!(code, Some(0), "{line}\n{printed}\n{complained}");
    }
    let (code, _, complained) = run("client --listen 127.0.0.1:0 --target db.example:8443 --policy absent.json --print-config");
    assert_eq!(code, Some(2));
    assert!(complained.contains("absent.json") && !complained.contains("error: error:"), "{complained}");
}

/// A pipe that nobody writes to is no file, and is not waited for.
#[test]
fn a_pipe_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    for line in ["verify pipe", "inspect pipe", "policy lint pipe", "check -c pipe"] {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_portcullis")).args(line.split(' ')).current_dir(folder.path()).output().expect("the program");
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("is no regular file"), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
