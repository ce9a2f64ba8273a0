//! Policy files: what is refused at load, with the words an operator reads.

use portcullis::diagnostic::{Source, render};
use portcullis::platform::PLATFORMS;
use portcullis::policy::{Accept, AppraisalPolicy, Revocation, Roots};

const MEASUREMENT: &str = "1b8cd6551b8cd6551b8cd6551b8cd6551b8cd6551b8cd6551b8cd6551b8cd6551b8cd6551b8cd6551b8cd6551b8cd655";

fn load(text: &str) -> Result<AppraisalPolicy, String> {
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    match AppraisalPolicy::load(text.as_bytes(), &vocabularies) {
        Ok((policy, _)) => Ok(policy),
        Err(problems) => Err(render(&Source { name: "p.json", text }, &problems)),
    }
}

/// A policy with one entry that has these further keys.
fn with_entry(keys: &str) -> String {
    format!("{{ \"version\": 1, \"name\": \"p\", \"accept\": [\n  {{ \"id\": \"a\", \"tee\": \"sev-snp\", {keys} }}\n] }}")
}

fn measured(keys: &str) -> String {
    with_entry(&format!("\n    \"measurement\": \"{MEASUREMENT}\"{}", keys.replacen(", ", ",\n    ", 1)))
}

#[test]
fn the_least_policy_has_the_safe_defaults() {
    let policy = load(&measured("")).expect("a good policy");
    assert_eq!((policy.revocation, policy.roots, policy.max_evidence_age, policy.clock_skew), (Revocation::Required, Roots::Vendor, 3600, 120));
    assert!(policy.insecure.is_empty());
    let of =
        |key: &str| policy.accept[0].constraints.iter().find(|constraint| constraint.field.key == key).map(|constraint| format!("{:?}", constraint.accept));
    assert_eq!(of("products").as_deref(), Some(r#"Words(["genoa", "turin"])"#));
    assert_eq!(of("signing_key").as_deref(), Some(r#"Words(["VCEK"])"#));
    assert_eq!(of("vmpl").as_deref(), Some("Numbers([0])"));
    assert_eq!(of("min_firmware").as_deref(), Some("Version([1, 55])"));
    assert_eq!(of("committed_firmware").as_deref(), Some("Same"));
    assert_eq!(of("guest_policy"), Some(format!("Bits {{ set: 0, clear: {} }}", 1_u64 << 19 | 1 << 18 | 1 << 21)));
    assert_eq!(of("platform_info"), Some(format!("Bits {{ set: {}, clear: 0 }}", 1_u64 << 5)));
    assert_eq!(of("chip_id"), None);
    let Some(Accept::Tcb(floors)) = policy.accept[0].constraints.iter().find(|constraint| constraint.field.key == "min_tcb").map(|c| &c.accept) else {
        panic!("no floors");
    };
    let floors: Vec<_> = floors.iter().map(|(product, floor)| (product.name, floor.as_slice())).collect();
    assert_eq!(floors, [("genoa", [0, 0, 0x16, 0].as_slice()), ("milan", &[0, 0, 0x17, 0]), ("turin", &[0, 0, 0, 0, 0])]);
}

#[test]
fn loosening_is_written_out_and_listed() {
    let policy = load(&with_entry(
        r#""insecure_any_measurement": true, "insecure_allow_debug": true, "insecure_allow_milan": "a laboratory", "products": ["milan"],
           "insecure_skip_alias_check": "old firmware", "insecure_lower_min_tcb": "old firmware", "min_tcb": { "milan": { "snp": 1 } }"#,
    ))
    .expect("a good policy");
    assert_eq!(policy.insecure.len(), 5, "{:?}", policy.insecure);
    assert!(policy.accept[0].constraints.iter().all(|constraint| constraint.field.key != "measurement"));
}

#[test]
fn what_the_catalogue_calls_invalid_is_refused_at_load() {
    for (name, text) in [
        ("empty-measurements", with_entry(r#""measurement": { "any_of": [] }"#)),
        ("no-measurement", with_entry(r#""note": "x""#)),
        ("unknown-policy-key", with_entry(&format!(r#""messurement": "{MEASUREMENT}""#))),
        ("zero-pin", with_entry(&format!(r#""measurement": "{}""#, "0".repeat(96)))),
        ("short", with_entry(r#""measurement": "1b8c""#)),
        ("milan-without-reason", measured(r#", "products": ["milan"]"#)),
        ("vlek-without-csp", measured(r#", "signing_key": ["VLEK"]"#)),
        ("debug", measured(r#", "guest_policy": { "debug": true }"#)),
        ("alias", measured(r#", "platform_info": { "alias_check_complete": false }"#)),
        ("floor", measured(r#", "min_tcb": { "genoa": { "snp": 3 } }"#)),
        ("firmware", measured(r#", "min_firmware": "1.51""#)),
        ("image-without-key", measured(r#", "image_id": "00000000000000000000000000000001""#)),
        ("svn-without-key", measured(r#", "guest_svn": 5"#)),
        ("loosening-false", measured(r#", "insecure_allow_debug": false"#)),
        ("twice", measured(r#", "note": "a", "note": "b""#)),
        ("no-version", r#"{ "name": "p", "accept": [] }"#.to_owned()),
        ("version-2", r#"{ "version": 2, "name": "p", "accept": [] }"#.to_owned()),
        ("trailing-comma", r#"{ "version": 1, "name": "p", "accept": [], }"#.to_owned()),
        ("comment", "{ // no\n }".to_owned()),
        ("not-json", "version = 1".to_owned()),
        ("empty", String::new()),
        ("deny-nothing", r#"{ "version": 1, "name": "p", "accept": [], "deny": [ { "reason": "x" } ] }"#.to_owned()),
        ("unknown-root", r#"{ "version": 1, "name": "p", "accept": [], "insecure_roots": ["mine"] }"#.to_owned()),
        ("long-skew", r#"{ "version": 1, "name": "p", "accept": [], "clock_skew": "1h" }"#.to_owned()),
    ] {
        let refused = load(&text).expect_err(name);
        insta::assert_snapshot!(name, refused);
    }
}

#[test]
fn every_error_is_reported_at_once() {
    let text = measured(r#", "vmpl": "0", "products": ["geneva"], "host_data": "xyz", "min_tcb": { "genoa": { "snp": 999 } }, "guest_polcy": {}"#);
    insta::assert_snapshot!("all-at-once", load(&text).expect_err("five errors"));
}

#[test]
fn a_wrong_tee_hides_no_other_error() {
    for (tee, told) in [
        (r#""tee": "sev-snpp","#, "unknown tee sev-snpp"),
        (r#""tee": "none of them","#, "unknown tee none of them"),
        ("", "no tee"),
        (r#""tee": 1,"#, "tee must be a string"),
    ] {
        let text = format!(
            "{{ \"version\": 1, \"name\": \"p\", \"accept\": [\n  {{ \"id\": \"a\", {tee}\n    \"measurement\": \"{MEASUREMENT}\", \"vmpl\": \"0\",\n    \
             \"guest_polcy\": {{}} }}\n] }}"
        );
        let page = load(&text).expect_err(told);
        assert_eq!(page.matches("error: ").count(), 3, "{page}");
        assert!([told, "vmpl must be a list", "did you mean guest_policy?"].iter().all(|part| page.contains(part)), "{page}");
    }
}

#[test]
fn a_file_beyond_the_bound_is_not_read() {
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let problems = AppraisalPolicy::load(&vec![b' '; portcullis::policy::MAX_POLICY + 1], &vocabularies).expect_err("too long");
    assert!(problems[0].message.contains("octets"), "{problems:?}");
}
