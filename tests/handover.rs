//! Every form in which the application is told who its client is, together: each says the same of the same client, and
//! nothing of it can be forged. The token is verified by a library of others under the keys that are served.
#![cfg(feature = "simulator")]

#[path = "support/peers.rs"]
mod peers;
#[path = "support/web.rs"]
mod web;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use portcullis::attester::simulator::MEASUREMENT;
use portcullis::crypto::sha256;
use portcullis::evidence::leaf::Leaf;
use serde_json::Value;
use web::{Mirror, Pair, Setup, field, say};

const MODES: &str = "identity_headers = { modes = [\"structured\", \"token\", \"client-cert\", \"xfcc\", \"flashbots\"], audience = \"orders\", issuer = \"gate\" }\n\
                     [observe]\nbind = \"127.0.0.1:0\"\n";

/// Everything that we tell, in spellings that an application may take for it, and some of it twice.
const FORGED: &str = "Attested-Peer: forged\r\nattested_peer: forged\r\nATTESTED-TOKEN: forged\r\nAttested_Token: forged\r\nattested.token: forged\r\n\
                      Client-Cert: forged\r\nClient-Cert-Chain: forged\r\nclient_cert: forged\r\nX-Forwarded-Client-Cert: forged\r\n\
                      x_forwarded_client_cert: forged\r\nAttested-Peer: forged, twice\r\nX-Forwarded-Client-Cert: forged, twice\r\nX-Flashbots-Measurement: forged\r\nX-Flashbots-Attestation-Type: forged\r\nx_flashbots_measurement: forged\r\n";

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).expect("base64url")).expect("JSON")
}

async fn told(pair: &Pair, mirror: &Mirror, forged: &str) -> String {
    let request = format!("GET /who HTTP/1.1\r\nHost: a\r\n{forged}Connection: close, Attested-Token, Client-Cert\r\n\r\n");
    let answer = say(pair.entrance, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    mirror.last()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_form_tells_the_same_of_the_client_and_none_can_be_forged() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { server: MODES, ..Setup::default() }).await;
    for forged in ["", FORGED] {
        let head = told(&pair, &mirror, forged).await;
        assert!(!head.contains("forged"), "{head}");
        let of = |name: &str| field(&head, name).unwrap_or_else(|| panic!("no {name} in\n{head}"));
        // RFC 9440: a byte sequence of a structured field.
        let certificate = of("client-cert");
        let certificate = certificate.strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).expect("a byte sequence");
        let certificate = BASE64.decode(certificate.as_bytes()).expect("base64");
        let leaf = Leaf::read(&certificate).expect("a leaf");
        assert_eq!(of("x-forwarded-client-cert"), format!("Hash={};DNS=far.test", HEXLOWER.encode(&sha256(&[&certificate]))));
        let measured = format!("{{\"0\":\"{}\"}}", HEXLOWER.encode(&MEASUREMENT));
        assert_eq!((of("x-flashbots-measurement"), of("x-flashbots-attestation-type")), (measured, "sev-snp".to_owned()));
        let structured = format!("sev-snp; entry=\"web-1\"; policy=\"mesh\"; m=:{}:; age=", BASE64.encode(&MEASUREMENT));
        assert!(of("attested-peer").starts_with(&structured), "{head}");
        assert!(of("attested-peer").ends_with("; simulated") && !of("attested-peer").contains("observed"), "{head}");
        let claims = claims(&of("attested-token"));
        assert_eq!(claims["cnf"]["x5t#S256"], BASE64URL_NOPAD.encode(&sha256(&[&certificate])));
        let verified = &claims["submods"]["cpu0"];
        assert_eq!(verified["ear_attester_claims"]["portcullis"]["measurement"], HEXLOWER.encode(&MEASUREMENT));
        assert_eq!(verified["ear_verifier_claims"]["portcullis"]["entry"], "web-1");
        assert_eq!(verified["ear_verifier_claims"]["portcullis"]["freshness"], "session-mutual");
        assert_eq!(verified["ear_appraisal_policy_ids"][0], "mesh");
        // Whatever is simulated says so: no application takes it for a real machine's.
        assert_eq!((&verified["ear_status"], &verified["ear_trustworthiness_vector"]["hardware"]), (&"contraindicated".into(), &97.into()));
        let (issued, expires) = (claims["iat"].as_u64().expect("a time"), claims["exp"].as_u64().expect("a time"));
        assert!(issued < expires && expires <= issued + 300 && expires <= leaf.facts().not_after.0, "{claims}");
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_verified_by_a_library_of_others() {
    let Some(python) = peers::python() else { return };
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { server: MODES, ..Setup::default() }).await;
    let token = field(&told(&pair, &mirror, "").await, "attested-token").expect("a token");
    // One signature serves many requests.
    assert_eq!(field(&told(&pair, &mirror, FORGED).await, "attested-token").as_deref(), Some(token.as_str()));
    let url = format!("http://{}/.well-known/jwks.json", pair.server.observed_at().expect("an address"));
    let verify = async |audience: &str, token: &str| peers::ask(&python, "verify_token.py", &[&url, audience, token]).await;
    let verified: Value = serde_json::from_str(&verify("orders", &token).await).expect("claims");
    assert_eq!((&verified["eat_profile"], &verified["iss"]), (&"tag:ietf.org,2026:rats/ear#04".into(), &"gate".into()));
    assert_eq!(verified, claims(&token));
    // For another application, with another payload, without a signature, or signed by another sidecar it is nothing.
    assert_eq!(verify("bills", &token).await.trim(), "refused: InvalidAudienceError");
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims = claims(&token);
    claims["submods"]["cpu0"]["ear_status"] = "affirming".into();
    let payload = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
    assert_eq!(verify("orders", &format!("{}.{payload}.{}", parts[0], parts[2])).await.trim(), "refused: InvalidSignatureError");
    let kid: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[0].as_bytes()).expect("base64url")).expect("JSON");
    let none = BASE64URL_NOPAD.encode(serde_json::json!({ "alg": "none", "kid": kid["kid"] }).to_string().as_bytes());
    assert!(verify("orders", &format!("{none}.{payload}.")).await.starts_with("refused:"));
    let other = Pair::start(mirror.address, Setup { server: MODES, ..Setup::default() }).await;
    let foreign = field(&told(&other, &mirror, "").await, "attested-token").expect("a token");
    assert_eq!(verify("orders", &foreign).await.trim(), "refused: PyJWKClientError");
    other.end().await;
    pair.end().await;
}

/// Code that the policy does not have is let pass where it only observes: the application is not told that it was accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_client_that_was_only_observed_that_is_told() {
    let mirror = Mirror::start().await;
    let desk = web::desk();
    let app = format!("[[upstream]]\nname = \"app\"\ntargets = [\"http://{}\"]\n", mirror.address);
    let listener = "[policy.watch]\nfile = \"other.json\"\nmode = \"observe\"\ninsecure_observe = true\n\
                    [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\ncertificate = \"attested\"\nupstream = \"app\"\n\
                    clients = \"attested\"\npolicy = \"watch\"\ninsecure_allow_any_genuine_platform = true\n";
    let server = web::sidecar(&desk, &format!("{app}{listener}")).await;
    let far = format!(
        "[[upstream]]\nname = \"far\"\ntargets = [\"tls://{}\"]\nserver_name = \"far.test\"\ninsecure_allow_any_genuine_platform = true\n\
         attested = {{ policy = \"mesh\", freshness = \"session-mutual\" }}\n\
         [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\nupstream = \"far\"\n",
        server.tcp_address("in").expect("an address")
    );
    let client = web::sidecar(&desk, &far).await;
    let answer = say(client.tcp_address("out").expect("an address"), b"GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let peer = field(&mirror.last(), "attested-peer").expect("a field");
    assert!(peer.ends_with("; observed; simulated"), "{peer}");
    client.drain().await;
    server.drain().await;
}

/// A client that proved nothing is nobody, whatever it says and whatever is chosen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_client_that_proved_nothing_nothing_is_told() {
    let mirror = Mirror::start().await;
    let pair = Pair::start(mirror.address, Setup { mutual: false, ..Setup::default() }).await;
    let head = told(&pair, &mirror, FORGED).await.to_lowercase();
    for part in ["forged", "attested", "client-cert", "client_cert", "flashbots"] {
        assert!(!head.contains(part), "{head}");
    }
    pair.end().await;
}
