//! The manifest's claims of COSE evidence (AWS Nitro, Arm CCA, PSA) in our words.

use portcullis::evidence::arm::key_names;
use portcullis::evidence::{Endorsements, Evidence};
use portcullis::platform::Platform;
use portcullis::policy::OperatorKey;
use serde_json::{Map, Value};

/// The public keys among `files`, listed for the device that the evidence names; none where a platform takes none.
pub(crate) fn keys<'a>(platform: &Platform, evidence: &Evidence, files: impl Iterator<Item = &'a [u8]>) -> Vec<OperatorKey> {
    let vocabulary = platform.verifier.vocabulary();
    let Ok(claims) = platform.verifier.read(evidence, &Endorsements::default()) else { return Vec::new() };
    let (Some(_), Some(implementation), Some(instance)) = (vocabulary.operator_key, claims.bytes("impl_id"), claims.bytes("instance_id")) else {
        return Vec::new();
    };
    let [name, _] = key_names(implementation, instance);
    let key = |file: &[u8]| {
        let text = std::str::from_utf8(file).ok()?.strip_prefix("-----BEGIN PUBLIC KEY-----")?;
        let text: String = text.split_once("-----END")?.0.split_whitespace().collect();
        Some(OperatorKey { tee: vocabulary.tee, name: name.clone(), spki: data_encoding::BASE64.decode(text.as_bytes()).expect("a PEM body") })
    };
    files.filter_map(key).collect()
}

/// The claims in our words; `None` for other platforms.
pub(crate) fn in_our_words(platform: &str, theirs: &Map<String, Value>) -> Option<Map<String, Value>> {
    match platform {
        "cca" => Some(cca(theirs)),
        "nitro" | "nitrotpm" => Some(nitro(theirs)),
        "psa" => Some(psa(theirs)),
        _ => None,
    }
}

fn nitro(theirs: &Map<String, Value>) -> Map<String, Value> {
    let word = |(name, value): (&String, &Value)| match name.as_str() {
        "debug" => ("mode".to_owned(), if value == true { "0x1" } else { "0x0" }.into()),
        "nitrotpm_pcrs" => ("pcrs".to_owned(), value.clone()),
        name => (name.to_owned(), value.clone()),
    };
    let is_tpm = theirs.contains_key("nitrotpm_pcrs");
    // What keys the document has is no claim, and an instance has no mode.
    let claims = theirs.iter().filter(|(name, _)| *name != "document_keys" && !(is_tpm && *name == "debug"));
    claims.map(word).collect()
}

fn cca(theirs: &Map<String, Value>) -> Map<String, Value> {
    let mut ours = Map::new();
    for (name, value) in theirs {
        match name.as_str() {
            "platform_alg" | "realm_alg" => drop(ours.insert(name.clone(), algorithm(value))),
            "platform" => ours.extend(renamed(value, platform_word)),
            "realm" => {
                ours.extend(renamed(value, realm_word));
                for (name, rem) in ["rem0", "rem1", "rem2", "rem3"].into_iter().zip(value["realm-extensible-measurements"].as_array().expect("a list")) {
                    ours.insert(name.to_owned(), rem.clone());
                }
            }
            _ => drop(ours.insert(name.clone(), value.clone())),
        }
    }
    ours
}

fn psa(theirs: &Map<String, Value>) -> Map<String, Value> {
    let mut ours = renamed(&theirs["claims"], |name| match name {
        "nonce/challenge" | "nonce" => Some("nonce"),
        "client-id" => Some("client_id"),
        "boot-seed" | "268" => Some("boot_seed"),
        "certification-reference" | "hardware-version" => Some("certification_reference"),
        "profile" => Some("profile"),
        name => platform_word(name),
    });
    ours.insert("alg".to_owned(), algorithm(&theirs["alg"]));
    let client = ours["client_id"].to_string();
    ours.insert("client_id".to_owned(), client.into());
    ours
}

fn algorithm(number: &Value) -> Value {
    match number.as_i64() {
        Some(-7) => "ES256".into(),
        Some(-35) => "ES384".into(),
        _ => panic!("algorithm {number}"),
    }
}

fn renamed(theirs: &Value, word: impl Fn(&str) -> Option<&'static str>) -> Map<String, Value> {
    let claims = theirs.as_object().expect("claims");
    let one = |(name, value): (&String, &Value)| {
        let value = if name == "sw-components" { components(value) } else { value.clone() };
        Some((word(name)?.to_owned(), value))
    };
    claims.iter().filter_map(one).collect()
}

fn platform_word(name: &str) -> Option<&'static str> {
    Some(match name {
        "profile" => "platform_profile",
        "nonce/challenge" => "platform_challenge",
        "implementation-id" => "impl_id",
        "instance-id" => "instance_id",
        "platform-config" => "platform_config",
        "lifecycle" => "lifecycle",
        "hash-algo" => "platform_hash_algo",
        "verification-service" => "verification_service",
        "sw-components" => "sw_components",
        other => panic!("a claim without our word: {other}"),
    })
}

fn realm_word(name: &str) -> Option<&'static str> {
    Some(match name {
        "profile" => "realm_profile",
        "nonce/challenge" => "challenge",
        "personalization-value" => "rpv",
        "realm-public-key" => "rak",
        "realm-hash-algo" => "realm_hash_algo",
        "realm-public-key-hash-algo" => "rak_hash_algo",
        "realm-initial-measurement" => "rim",
        // In order above; and what later profiles say of the realm's place, which we make nothing of.
        "realm-extensible-measurements" | "instance-id" | "44243" => return None,
        other => panic!("a claim without our word: {other}"),
    })
}

fn components(theirs: &Value) -> Value {
    let word = |(key, value): (&String, &Value)| {
        let name = match key.as_str() {
            "1" => "type",
            "2" => "measurement",
            "4" => "version",
            "5" => "signer",
            "6" => "algorithm",
            other => panic!("a part's claim without our word: {other}"),
        };
        (name.to_owned(), value.clone())
    };
    theirs.as_array().expect("parts").iter().map(|part| Value::Object(part.as_object().expect("a part").iter().map(word).collect())).collect()
}
