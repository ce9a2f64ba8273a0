//! The manifest's claims of COSE evidence (AWS Nitro, Arm CCA, PSA) in our words.

use serde_json::{Map, Value};

/// The claims in our words; `None` for other platforms.
pub(crate) fn in_our_words(platform: &str, theirs: &Map<String, Value>) -> Option<Map<String, Value>> {
    match platform {
        "nitro" | "nitrotpm" => Some(nitro(theirs)),
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
