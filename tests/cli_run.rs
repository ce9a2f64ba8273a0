//! `check` and `run` as people and scripts meet them: what they print, how they end.
#![cfg(feature = "simulator")]

#[path = "support/program.rs"]
mod program;

use program::Desk;

const POLICY: &str = r#"{ "version": 1, "name": "mesh", "accept": [] }"#;

/// A server whose evidence comes from `provider`, with these further lines under `[identity]`.
fn server(provider: &str, more: &str) -> String {
    format!(
        "version = 1\n[identity]\nprovider = \"{provider}\"\nnames = [\"localhost\"]\n{more}\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\n\
         certificate = \"attested\"\nclients = \"attested\"\npolicy = \"mesh\"\ninsecure_allow_any_genuine_platform = true\nupstream = \"app\"\n\
         [[upstream]]\nname = \"app\"\ntargets = [\"tcp://127.0.0.1:9\"]\n[policy.mesh]\nfile = \"mesh.json\"\n"
    )
}

fn desk(config: &str) -> Desk {
    let desk = Desk::new();
    desk.write("mesh.json", POLICY);
    desk.write("c.toml", config);
    desk
}

fn sha256(text: &str) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&portcullis::crypto::sha256(&[text.as_bytes()])))
}

#[test]
fn check_names_the_configuration_and_its_policies_by_their_digests() {
    let config = server("simulator", "");
    let desk = desk(&config);
    let document = desk.run("check -c c.toml --json").json();
    assert_eq!((document["ok"].as_bool(), document["digest"].as_str()), (Some(true), Some(sha256(&config).as_str())), "{document}");
    let policy = &document["policies"]["mesh"];
    assert_eq!(policy["digest"], sha256(POLICY).as_str());
    assert_eq!((policy["name"].as_str(), policy["mode"].as_str(), policy["entries"].as_u64()), (Some("mesh"), Some("enforce"), Some(0)));
    let text = desk.run("check -c c.toml").stdout;
    assert!(text.contains(&format!("config: {}", sha256(&config))) && text.contains(&format!("policy mesh: {}", sha256(POLICY))), "{text}");
}
