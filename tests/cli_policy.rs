//! `portcullis policy`: files that are begun, extended, checked and read back, and never harmed.
#![cfg(feature = "simulator")]

#[path = "support/program.rs"]
mod program;

use program::{AT, Desk};

fn simulated() -> Desk {
    let desk = Desk::new();
    assert_eq!(desk.run(&format!("simulate guest --at {AT}")).code, 0);
    desk
}

#[test]
fn a_new_policy_refuses_everyone_until_something_is_added() {
    let desk = simulated();
    assert_eq!(desk.run("policy init lab.json --insecure-simulator").code, 0);
    insta::assert_snapshot!("init", desk.text("lab.json"));
    insta::assert_snapshot!("init-lint", desk.run(&format!("policy lint lab.json --at {AT}")).shown());
    let run = desk.run(&format!("verify guest --policy lab.json --at {AT} --json"));
    assert_eq!((run.code, run.json()["reason"].as_str()), (1, Some("platform_not_allowed")));
    let no_entry = desk.run(&format!("verify guest --policy lab.json --at {AT}")).shown();
    assert!(no_entry.contains("`accept` is empty") && no_entry.contains("portcullis policy add"), "{no_entry}");
    let absent = desk.run("policy add none.json --id one --from guest");
    assert!(absent.code == 2 && absent.stderr.contains("portcullis policy init none.json"), "{}", absent.shown());
    let again = desk.run("policy init lab.json");
    assert_eq!(again.code, 2, "{}", again.shown());
    insta::assert_snapshot!("add", desk.run(&format!("policy add lab.json --id one --from guest --yes --at {AT} --pin min_tcb --pin chip_id")).shown());
    insta::assert_snapshot!("explain", desk.run("policy explain lab.json").shown());
    assert_eq!(desk.run(&format!("verify guest --policy lab.json --at {AT}")).code, 0);
}

#[test]
fn adding_changes_nothing_else_in_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let desk = simulated();
    let before = "{ \"version\":1,\r\n\t\"name\" : \"mine\",\n  \"accept\": [\n      { \"id\": \"old\", \"tee\": \"sev-snp\", \"measurement\": \"MEASUREMENT\" }\n  ]   ,\n\n\"insecure_roots\":[\"simulator\"] }";
    let before = before.replace("MEASUREMENT", &"1b".repeat(48));
    desk.write("target.json", &before);
    std::fs::set_permissions(desk.path("target.json"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("target.json", desk.path("link.json")).unwrap();
    let added = desk.run(&format!("policy add link.json --id new --from guest --yes --at {AT} --note by-hand"));
    assert_eq!(added.code, 0, "{}", added.shown());
    let after = desk.text("target.json");
    let (front, behind) = before.split_once(" }\n  ]").map(|(front, behind)| (format!("{front} }}"), format!("\n  ]{behind}"))).unwrap();
    assert!(after.starts_with(&front) && after.ends_with(&behind), "{after}");
    assert_eq!(std::fs::metadata(desk.path("target.json")).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(desk.path("link.json").is_symlink(), "the link stays a link");
    assert_eq!(std::fs::read_dir(desk.path("")).unwrap().count(), 3, "nothing is left beside");
}

#[test]
fn gpus_beside_the_evidence_are_told_of_and_can_be_asked_for() {
    let desk = Desk::new();
    assert_eq!(desk.run(&format!("simulate guest --gpus 2 --at {AT}")).code, 0);
    assert_eq!(desk.run(&format!("simulate alone --at {AT}")).code, 0);
    desk.run("policy init lab.json --insecure-simulator");
    let added = desk.run(&format!("policy add lab.json --id one --from guest --yes --at {AT}")).shown();
    let asked = "\"require\": [\"gpu/0\",\"gpu/1\"]";
    assert!(added.contains("gpu/0, gpu/1 beside it are not asked for") && added.contains(asked), "{added}");
    desk.write("lab.json", desk.text("lab.json").replace("\"tee\":", &format!("{asked}, \"tee\":")));
    assert_eq!(desk.run(&format!("verify guest --policy lab.json --at {AT}")).code, 0);
    assert_eq!(desk.run(&format!("verify alone --policy lab.json --at {AT}")).code, 1);
    desk.run("policy init other.json --insecure-simulator");
    assert!(!desk.run(&format!("policy add other.json --id one --from alone --yes --at {AT}")).shown().contains("devices"));
}

#[test]
fn what_is_not_agreed_to_or_not_genuine_is_not_added() {
    let desk = simulated();
    desk.run("policy init lab.json --insecure-simulator");
    desk.run("policy init strict.json");
    desk.run(&format!("simulate debugged --debug --at {AT}"));
    desk.run(&format!("simulate old --product milan --at {AT}"));
    let (lab, strict) = (desk.text("lab.json"), desk.text("strict.json"));
    for (words, code) in [
        ("policy add lab.json --id one --from guest", 2),
        ("policy add lab.json --id one --from debugged --yes", 1),
        ("policy add lab.json --id one --from old --yes", 2),
        ("policy add lab.json --id spaces! --from guest --yes", 2),
        ("policy add lab.json --id one --from guest --yes --pin mesurement", 2),
        ("policy add lab.json --id one --from guest --yes --pin guest_policy", 2),
        ("policy add lab.json --id one --from guest --yes --insecure insecure_nonsense", 2),
        ("policy add lab.json --id one --from localhost:8443 --yes", 2),
        ("policy add strict.json --id one --from guest --yes", 1),
        ("policy add absent.json --id one --from guest --yes", 2),
    ] {
        let run = desk.run(&format!("{words} --at {AT}"));
        assert_eq!(run.code, code, "{words}: {}", run.shown());
    }
    assert_eq!((desk.text("lab.json"), desk.text("strict.json")), (lab, strict));
}

#[test]
fn insecure_keys_are_written_out_and_the_evidence_then_fits() {
    let desk = simulated();
    desk.run("policy init lab.json --insecure-simulator");
    desk.run(&format!("simulate old --product milan --at {AT}"));
    let mut add: Vec<String> = format!("policy add lab.json --id old --from old --yes --at {AT} --insecure").split(' ').map(str::to_owned).collect();
    add.push("insecure_allow_milan=a laboratory".to_owned());
    let added = desk.run_words(&add, &[], None);
    assert_eq!(added.code, 0, "{}", added.shown());
    assert_eq!(desk.run(&format!("verify old --policy lab.json --at {AT}")).code, 0);
    let cloud = desk.run(&format!("simulate cloud --vlek cloud.example --at {AT}"));
    assert_eq!(cloud.code, 0);
    assert_eq!(desk.run(&format!("policy add lab.json --id cloud --from cloud --yes --at {AT}")).code, 0);
    assert_eq!(desk.run(&format!("verify cloud --policy lab.json --at {AT} --json")).json()["entry"], "cloud");
    assert_eq!(desk.run(&format!("verify guest --policy lab.json --at {AT}")).code, 1, "the cloud's key, not the chip's, and its name are pinned");
    insta::assert_snapshot!("insecure-lint", desk.run(&format!("policy lint lab.json --at {AT}")).shown());
}

#[test]
fn a_debug_guest_is_added_only_with_its_key() {
    let desk = simulated();
    desk.run("policy init lab.json --insecure-simulator");
    desk.run(&format!("simulate debugged --debug --at {AT}"));
    let before = desk.text("lab.json");
    let refused = desk.run(&format!("policy add lab.json --id debugged --from debugged --yes --at {AT}"));
    assert_eq!((refused.code, desk.text("lab.json") == before), (1, true), "{}", refused.shown());
    assert!(refused.stdout.contains("debug_enabled") && refused.stderr.contains("--insecure insecure_allow_debug"), "{}", refused.shown());
    let added = desk.run(&format!("policy add lab.json --id debugged --from debugged --yes --insecure insecure_allow_debug --at {AT}"));
    assert!(added.code == 0 && added.stdout.contains("insecure: insecure_allow_debug"), "{}", added.shown());
    assert!(desk.text("lab.json").contains("\"insecure_allow_debug\": true"));
    let verified = desk.run(&format!("verify debugged --policy lab.json --at {AT} --json"));
    assert_eq!((verified.code, verified.json()["entry"].as_str()), (0, Some("debugged")), "{}", verified.shown());
}

/// AMD KDS serves the list at a path of the product line's own.
const LIST: &str = "https://kdsintf.amd.com/vcek/v1/Genoa/crl";

#[test]
fn what_no_revocation_list_speaks_for_is_added_with_a_warning_and_the_lists_address() {
    let desk = simulated();
    desk.run("policy init lab.json --insecure-simulator");
    desk.run(&format!("simulate bare --without crl --at {AT}"));
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let added = desk.run(&format!("policy add lab.json --id bare --from bare --yes --at {AT}"));
    assert!(
        added.code == 0
            && flat(&added.stdout).contains(&format!("refused (collateral_unavailable): staple it there (identity.endorsements); crl.der is served at {LIST}")),
        "{}",
        added.shown()
    );
    let listed = desk.run(&format!("policy add lab.json --id listed --from guest --yes --at {AT}"));
    assert!(listed.code == 0 && !listed.stdout.contains("collateral_unavailable"), "{}", listed.shown());
    let refused = desk.run(&format!("verify bare --policy lab.json --at {AT} --json"));
    assert_eq!(refused.code, 3, "{}", refused.shown());
    let fix = refused.json()["findings"][0]["fix"].as_str().expect("a fix").to_owned();
    assert!(fix.contains("identity.endorsements") && fix.ends_with(LIST), "{fix}");
    desk.run(&format!("simulate keyless --without vcek --at {AT}"));
    let fix = desk.run(&format!("verify keyless --policy lab.json --at {AT} --json")).json()["findings"][0]["fix"].as_str().expect("a fix").to_owned();
    assert!(fix.contains("https://kdsintf.amd.com/vcek/v1/Genoa/") && fix.contains("blSPL="), "{fix}");
}

#[test]
fn lint_reports_everything_at_once_and_ends_with_2_for_errors_alone() {
    let desk = Desk::new();
    let measurement = "1b".repeat(48);
    desk.write("bad.json", format!("{{ \"version\": 1, \"name\": \"p\",\n  \"acept\": [],\n  \"accept\": [ {{ \"id\": \"a b\", \"tee\": \"sev-snp\", \"measurement\": \"{measurement}\",\n    \"vmpl\": \"0\" }} ] }}\n"));
    insta::assert_snapshot!("lint-errors", desk.run(&format!("policy lint bad.json --at {AT}")).shown());
    let entry = |id: &str, more: &str| format!("{{ \"id\": \"{id}\", \"tee\": \"sev-snp\", \"measurement\": \"{measurement}\"{more} }}");
    desk.write(
        "odd.json",
        format!(
            "{{ \"version\": 1, \"name\": \"p\", \"expires\": \"2026-11-01T00:00:00Z\",\n  \"accept\": [\n    {},\n    {},\n    {}\n  ],\n  \"deny\": [ {{ \"measurement\": \"{measurement}\", \"reason\": \"withdrawn\" }} ] }}\n",
            entry("a", ""),
            entry("b", ""),
            entry("c", ", \"not_after\": \"2026-11-01T00:00:00Z\", \"insecure_allow_debug\": true")
        ),
    );
    insta::assert_snapshot!("lint-warnings", desk.run(&format!("policy lint odd.json --at {AT}")).shown());
    let both = desk.run(&format!("policy lint odd.json bad.json --json --at {AT}"));
    assert_eq!(both.code, 2);
    let counts: Vec<_> =
        both.json().as_array().unwrap().iter().map(|file| (file["errors"].as_array().unwrap().len(), file["warnings"].as_array().unwrap().len())).collect();
    assert_eq!(counts, [(0, 6), (3, 0)], "{}", both.shown());
    for words in ["policy lint absent.json", "policy lint .", "policy explain bad.json"] {
        assert_eq!(desk.run(words).code, 2, "{words}");
    }
}
