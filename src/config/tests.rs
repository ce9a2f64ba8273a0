use super::*;

const CLIENT: &str = r#"
version = 1
[[listener]]
name = "db"
bind = "127.0.0.1:15432"
upstream = "db"
[[upstream]]
name = "db"
targets = ["tls://db.data.svc:8443"]
attested = { policy = "db" }
[policy.db]
file = "db.json"
"#;

const POLICY: &str = r#"{ "version": 1, "name": "db", "accept": [ { "id": "db-1", "tee": "sev-snp", "measurement": "MM" } ] }"#;

/// The configuration with a policy file `db.json` beside it.
fn parse(text: &str) -> Result<Config, String> {
    parse_with(text, &POLICY.replace("MM", &"ab".repeat(48)))
}

fn parse_with(text: &str, policy: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("db.json"), policy).unwrap();
    let shown = |error: ConfigError| error.to_string().replace(&folder.path().display().to_string(), "FOLDER");
    Config::parse("portcullis.toml", text.trim_start(), folder.path()).map_err(shown)
}

/// The messages of the errors, without their places.
fn errors(text: &str) -> Vec<String> {
    let error = parse(text).expect_err("should be refused");
    error.lines().filter_map(|line| line.strip_prefix("error: ")).map(str::to_owned).collect()
}

#[test]
fn a_client_sidecar_is_read() {
    let config = parse(CLIENT).unwrap();
    let dial = config.upstreams["db"].attested.as_ref().unwrap();
    assert_eq!(dial.server_name.to_str(), "db.data.svc");
    assert_eq!(dial.freshness, Freshness::Session);
    assert_eq!(config.listeners[0].bind, Bind::Tcp("127.0.0.1:15432".parse().unwrap()));
    assert!(config.identity.is_none() && config.insecure.is_empty() && config.warnings.is_empty());
}

#[test]
fn a_socket_of_systemds_is_one_listeners_and_says_who_may_reach_it() {
    let plain = CLIENT.replace("127.0.0.1:15432", "systemd:db");
    let listener = |text: &str| parse(text).unwrap().listeners[0].clone();
    assert_eq!((listener(&plain).bind, listener(&plain).here_alone), (Bind::Systemd("db".to_owned()), true));
    assert!(!listener(&plain.replace("systemd:db\"", "systemd:db\"\ninsecure_remote_listener = true")).here_alone);
    let two = format!("{plain}[[listener]]\nname = \"more\"\nbind = \"systemd:db\"\nupstream = \"db\"\n");
    assert_eq!(errors(&two), ["systemd:db is taken by listener \"db\""]);
}

#[test]
fn every_error_is_shown_at_once_with_its_place() {
    let text = CLIENT.replace("bind", "bnd").replace("policy = \"db\"", "policy = \"dbb\"").replace("version = 1", "version = 2");
    let error = parse(&text).unwrap_err();
    for part in [
        "this program reads version 1\n --> portcullis.toml:1:11",
        "unknown key `bnd` in [[listener]]\n --> portcullis.toml:4:1",
        "= help: did you mean `bind`?",
        "no policy is called \"dbb\"\n --> portcullis.toml:9:23",
        "= help: did you mean \"db\"?",
        "`bind` is missing in [[listener]]",
        "4 errors",
    ] {
        assert!(error.contains(part), "{part}\n{error}");
    }
}

#[test]
fn a_broken_policy_is_shown_with_its_own_file() {
    let error = parse_with(CLIENT, &POLICY.replace("measurement", "messurement")).unwrap_err();
    assert!(error.contains("--> FOLDER/db.json:1:"), "{error}");
    assert!(error.contains("messurement"), "{error}");
}

#[test]
fn plain_bytes_stay_on_the_machine_unless_an_insecure_key_says_so() {
    let remote = CLIENT.replace("127.0.0.1:15432", "0.0.0.0:15432");
    assert_eq!(errors(&remote), ["a plain listener on 0.0.0.0:15432 can be reached from beyond this machine"]);
    let allowed = remote.replace("upstream = \"db\"", "upstream = \"db\"\ninsecure_remote_listener = true");
    assert_eq!(parse(&allowed).unwrap().insecure, ["listener.db.insecure_remote_listener"]);
    let plain = SERVER.replace("tcp://127.0.0.1:8080", "tcp://10.0.0.1:8080");
    assert_eq!(errors(&plain), ["plain bytes would leave this machine for 10.0.0.1"]);
    let allowed = plain.replace("name = \"app\"", "name = \"app\"\ninsecure_remote_upstream = true");
    assert_eq!(parse(&allowed).unwrap().insecure, ["upstream.app.insecure_remote_upstream"]);
}

/// A context id, that of this machine included, says nothing about who is there.
#[test]
fn over_vsock_everybody_is_beyond_this_machine() {
    let listener = CLIENT.replace("127.0.0.1:15432", "vsock:1:5432");
    assert_eq!(errors(&listener), ["a plain listener on vsock:1:5432 can be reached from beyond this machine"]);
    let allowed = listener.replace("upstream = \"db\"", "upstream = \"db\"\ninsecure_remote_listener = true");
    assert_eq!(parse(&allowed).unwrap().insecure, ["listener.db.insecure_remote_listener"]);
    let target = SERVER.replace("tcp://127.0.0.1:8080", "vsock://1:8080");
    assert_eq!(errors(&target), ["plain bytes would leave this machine over vsock, for 1"]);
    let allowed = target.replace("name = \"app\"", "name = \"app\"\ninsecure_remote_upstream = true");
    assert_eq!(parse(&allowed).unwrap().insecure, ["upstream.app.insecure_remote_upstream"]);
    // What is attested needs no leave.
    assert!(parse(&SERVER.replace("0.0.0.0:8443", "vsock:any:8443")).unwrap().insecure.is_empty());
    let attested = CLIENT.replace("tls://db.data.svc:8443", "tls+vsock://2:8443");
    assert_eq!(errors(&attested), ["a tls+vsock:// target without `server_name`"]);
    let named = parse(&attested.replace("attested =", "server_name = \"db.data.svc\"\nattested =")).unwrap();
    assert_eq!(named.upstreams["db"].targets, [Target { transport: Transport::Attested, place: Place::Vsock { cid: 2, port: 8443 } }]);
    assert!(named.insecure.is_empty());
}

#[test]
fn a_vsock_port_is_one_listeners() {
    let at = |one: &str, other: &str| {
        let second = format!("[[listener]]\nname = \"more\"\nbind = \"{other}\"\ncertificate = \"attested\"\nupstream = \"app\"\n");
        parse(&(SERVER.replace("0.0.0.0:8443", one) + &second))
    };
    for (one, other) in [("vsock:any:1", "vsock:any:1"), ("vsock:any:1", "vsock:3:1"), ("vsock:3:1", "vsock:any:1"), ("vsock:3:1", "vsock:3:1")] {
        assert!(at(one, other).unwrap_err().contains(&format!("{other} is taken by listener \"in\"")), "{one} {other}");
    }
    assert!(at("vsock:3:1", "vsock:4:1").is_ok() && at("vsock:any:1", "vsock:any:2").is_ok());
}

const SERVER: &str = r#"
version = 1
[identity]
provider = "auto"
names = ["app.example"]
[[listener]]
name = "in"
bind = "0.0.0.0:8443"
certificate = "attested"
upstream = "app"
[[upstream]]
name = "app"
targets = ["tcp://127.0.0.1:8080"]
"#;

#[test]
fn a_server_sidecar_serves_sessions_to_anybody_by_default() {
    let config = parse(SERVER).unwrap();
    let serve = config.listeners[0].attested.as_ref().unwrap();
    assert!(serve.clients.is_none());
    assert_eq!(serve.freshness, Freshness::Session);
    assert_eq!(config.identity.unwrap().life, Duration::from_secs(3600));
}

#[test]
fn session_mutual_wants_to_know_who_the_peer_is() {
    let mutual = SERVER.replace("certificate = \"attested\"", "certificate = \"attested\"\nclients = \"attested\"\npolicy = \"db\"")
        + "[policy.db]\nfile = \"db.json\"\n";
    assert_eq!(errors(&mutual), ["session-mutual without knowing who the peer is: any genuine machine that runs the code would do"]);
    let pinned = format!("peer = {{ spki_pins = [\"sha256:{}\"] }}\nupstream = \"app\"", "0a".repeat(32));
    assert_eq!(parse(&mutual.replace("upstream = \"app\"", &pinned)).unwrap().listeners[0].attested.as_ref().unwrap().freshness, Freshness::SessionMutual);
    let any = parse(&mutual.replace("upstream = \"app\"", "insecure_allow_any_genuine_platform = true\nupstream = \"app\"")).unwrap();
    assert_eq!(any.insecure, ["listener.in.insecure_allow_any_genuine_platform"]);
    let chips = POLICY.replace("MM", &"ab".repeat(48)).replace("\"tee\"", &format!("\"chip_id\": \"{}\", \"tee\"", "cd".repeat(64)));
    assert!(parse_with(&mutual, &chips).is_ok());
    // PCR4 is the parent instance of an enclave, and of an instance with a NitroTPM the boot loader.
    let register = |tee: &str, others: [&str; 2]| {
        let pins: String = ["pcr4", others[0], others[1]].iter().map(|key| format!(", \"{key}\": \"{}\"", "ab".repeat(48))).collect();
        format!(r#"{{ "version": 1, "name": "db", "accept": [ {{ "id": "one", "tee": "{tee}"{pins} }} ] }}"#)
    };
    let enclave = register("nitro", ["pcr0", "pcr1"]).replace("\"pcr1\"", "\"pcr2\": \"PP\", \"pcr1\"").replace("PP", &"ab".repeat(48));
    assert!(parse_with(&mutual, &enclave).is_ok());
    assert!(parse_with(&mutual, &register("nitrotpm", ["pcr7", "pcr12"])).unwrap_err().contains("without knowing who the peer is"));
}

#[test]
fn the_certificate_tier_wants_its_acknowledgement() {
    let weak = SERVER.replace("upstream = \"app\"", "freshness = \"certificate\"\nupstream = \"app\"");
    assert_eq!(errors(&weak), ["the certificate tier does not stop replay or relay"]);
    assert!(parse(&weak.replace("upstream = \"app\"", "insecure_accept_replay_risk = true\nupstream = \"app\"")).is_ok());
}

#[test]
fn addresses_and_names_do_not_clash() {
    let second = "[[listener]]\nname = \"db\"\nbind = \"127.0.0.1:15432\"\nupstream = \"db\"\n[observe]\nbind = \"0.0.0.0:15432\"\n";
    assert_eq!(
        errors(&format!("{CLIENT}{second}")),
        [
            "two listeners are called \"db\"",
            "127.0.0.1:15432 is taken by listener \"db\" (127.0.0.1:15432)",
            "0.0.0.0:15432 is taken by listener \"db\" (127.0.0.1:15432)"
        ]
    );
}

#[test]
fn what_would_do_nothing_is_refused() {
    let text = CLIENT.replace("upstream = \"db\"", "clients = \"attested\"\npeer = {}\nupstream = \"db\"");
    assert_eq!(errors(&text), ["`clients` without certificate = \"attested\"", "`peer` without certificate = \"attested\""]);
    assert_eq!(errors(&CLIENT.replace("attested =", "server_name = \"x\"\n#")), ["a tls:// target without `attested`", "`server_name` without `attested`"]);
    assert_eq!(errors(&CLIENT.replace("tls://", "tcp://")), ["a plain target in an upstream with `attested`"]);
    let ends = CLIENT.replace("tls://db.data.svc", "tcp://localhost").replace("attested", "#");
    assert_eq!(errors(&ends), ["nothing is attested between this listener and upstream \"db\""]);
}

#[test]
fn a_limit_that_would_not_hold_is_refused() {
    let limits = "limits = { rate = 1, requests = 1, header = \"1KiB\", body = \"1KiB\", request_header = \"1s\", request_body = \"1s\", streams = 1 }";
    let text = CLIENT.replace("upstream = \"db\"", &format!("{limits}\nupstream = \"db\""));
    let of_requests = ["rate", "requests", "header", "body", "request_header", "request_body"].map(|key| format!("`{key}` without protocol = \"http\""));
    let mut expected = of_requests.to_vec();
    expected.push("`streams` without protocol = \"http\" or multiplex = true".to_owned());
    assert_eq!(errors(&text), expected);
    assert!(parse(&text.replace("limits", "protocol = \"http\"\nlimits")).is_ok());
}

#[test]
fn what_counts_by_address_wants_clients_that_have_one() {
    let more = "protocol = \"http\"\ntrusted_proxies = [\"10.0.0.1\"]\nlimits = { connections_per_source = 1, handshakes_per_source = 1 }";
    let text = CLIENT.replace("bind = \"127.0.0.1:15432\"", &format!("bind = \"unix:/run/in.sock\"\n{more}"));
    let keys = ["trusted_proxies", "connections_per_source", "handshakes_per_source"];
    let expected = |needed: &str| keys.map(|key| format!("`{key}` without {needed}"));
    assert_eq!(errors(&text), expected("a bind to \"ADDRESS:PORT\", or proxy_protocol_from = [\"unix\"]"));
    assert!(parse(&text.replace("limits", "proxy_protocol_from = [\"unix\"]\nlimits")).is_ok());
    let guests = text.replace("unix:/run/in.sock\"", "vsock:any:8443\"\ninsecure_remote_listener = true");
    assert_eq!(errors(&guests), expected("a bind to \"ADDRESS:PORT\""));
}

#[test]
fn what_is_told_by_the_proxy_protocol_has_a_plain_upstream_to_go_to() {
    let text = CLIENT.replace("upstream = \"db\"", "proxy_protocol_to = \"v2\"\nupstream = \"db\"");
    assert_eq!(errors(&text), ["`proxy_protocol_to`, and every upstream is attested"]);
}

#[test]
fn no_upgrade_hides_requests_from_routes_and_rules() {
    let upgrade = |word: &str| parse(&CLIENT.replace("upstream = \"db\"", &format!("protocol = \"http\"\nupgrades = [\"{word}\"]\nupstream = \"db\"")));
    for word in ["h2c", "H2C", "h2", "http/2.0", "HTTP/1.1", "tls/1.0", "TLS"] {
        let error = upgrade(word).expect_err("it hides requests");
        assert!(error.contains(&format!("an upgrade to \"{word}\" hides requests")), "{error}");
    }
    for word in ["websocket", "chat", "spdy-like", "tlsish"] {
        assert!(upgrade(word).is_ok(), "{word}");
    }
}

#[test]
fn a_host_that_no_handshake_can_name_wants_a_server_name() {
    for host in ["-a", "a-.b"] {
        let text = CLIENT.replace("db.data.svc", host);
        assert_eq!(errors(&text), [format!("\"{host}\" is no name for a handshake")]);
        assert!(parse(&text.replace("attested =", "server_name = \"db.data.svc\"\nattested =")).is_ok());
    }
}

#[test]
fn names_without_roots_vouch_for_nothing() {
    let peer = |peer: &str| errors(&CLIENT.replace("attested =", &format!("peer = {peer}\nattested =")));
    assert_eq!(peer("{ spiffe_ids = [\"spiffe://mesh/db\"] }"), ["`spiffe_ids` without `pki_roots`"]);
    assert_eq!(peer("{ pki_names = [\"db\"] }"), ["`pki_names` without `pki_roots`"]);
    assert_eq!(peer("{}"), ["`peer` is empty"]);
    assert_eq!(peer("{ spki_pins = [] }"), ["`spki_pins` is empty"]);
    assert!(peer("{ pki_roots = \"none.pem\", pki_names = [\"db\"] }")[0].contains("none.pem cannot be read"));
}

#[test]
fn the_simulator_is_named_and_listed() {
    let text = SERVER.replace("\"auto\"", "\"simulator\"") + "[identity.simulator]\nseed = 7\nproduct = \"turin\"\nquote_delay = \"40ms\"\n";
    let config = parse(&text).unwrap();
    assert_eq!(config.insecure, ["identity.provider = \"simulator\""]);
    let expected = Simulator { seed: 7, product: Some("turin".to_owned()), quote_delay: Duration::from_millis(40), ..Simulator::default() };
    assert_eq!(config.identity.unwrap().provider, Provider::Simulator(expected));
    assert_eq!(errors(&text.replace("\"simulator\"", "\"auto\"")), ["[identity.simulator] without provider \"simulator\""]);
}

#[test]
fn unused_parts_are_warned_of() {
    let config = parse(&format!("{CLIENT}[policy.other]\nfile = \"db.json\"\n[[upstream]]\nname = \"x\"\ntargets = [\"unix:/x\"]\n")).unwrap();
    let warnings = config.warnings[0].warnings();
    assert!(warnings.contains("policy \"other\" is used by nothing") && warnings.contains("upstream \"x\" is used by no listener"), "{warnings}");
}

#[test]
fn what_an_upstream_says_of_requests_that_never_come_is_warned_of() {
    let keys = "multiplex = true\nbalance = \"hash\"\nfirst_byte = \"1s\"\nejection = \"1s\"\nhealth = { path = \"/\" }\nattested =";
    let bytes = CLIENT.replace("attested =", keys);
    let warned = |text: &str| {
        let warnings = parse(text).unwrap().warnings.iter().map(Report::warnings).collect::<String>();
        ["balance", "health", "first_byte", "ejection", "multiplex"].map(|key| warnings.contains(&format!("`{key}` does nothing")))
    };
    assert_eq!(warned(&bytes), [true, true, true, true, false]);
    let requests = bytes.replace("bind =", "protocol = \"http\"\nbind =");
    assert_eq!(warned(&requests), [false, false, false, false, true]);
    let both = format!("{requests}[[listener]]\nname = \"bytes\"\nbind = \"127.0.0.1:15433\"\nupstream = \"db\"\n");
    assert_eq!(warned(&both), [false; 5]);
}

#[test]
fn a_rule_for_an_entry_that_there_is_not_is_warned_of() {
    let pinned = format!("peer = {{ spki_pins = [\"sha256:{}\"] }}", "0a".repeat(32));
    let rules = |entry: &str| {
        let listener =
            format!("certificate = \"attested\"\nprotocol = \"http\"\nclients = \"attested\"\npolicy = \"db\"\n{pinned}\nallow = [{{ entry = \"{entry}\" }}]");
        let text = SERVER.replace("certificate = \"attested\"", &listener).replace("tcp://", "http://") + "[policy.db]\nfile = \"db.json\"\n";
        parse(&text).unwrap().warnings.iter().map(Report::warnings).collect::<String>()
    };
    let id = parse(CLIENT).unwrap().policies["db"].policy.accept[0].id.clone();
    let (first, rest) = id.split_at(1);
    for good in [id.as_str(), &format!("{first}*"), "*"] {
        assert_eq!(rules(good), "", "{good}");
    }
    for bad in [&format!("{id}x"), rest, "nobody-*"] {
        assert!(rules(bad).contains(&format!("no entry of policy \"db\" is called \"{bad}\"")), "{bad}: {}", rules(bad));
    }
}

#[test]
fn a_key_of_the_file_behind_a_table_is_told_where_it_belongs() {
    let error = parse(&format!("{CLIENT}drain_grace = \"5s\"\n")).expect_err("it is no key of a policy");
    assert!(error.contains("`drain_grace` stands at the top of the file"), "{error}");
}

#[test]
fn hostile_texts_are_errors_and_never_panics() {
    for text in [
        "",
        "=",
        "[",
        "version = 1\n[[listener]]\nname = 3\nbind = []\nupstream = {}",
        "version = 0x1\nlistener = 1\nupstream = [1]\npolicy = 2\nidentity = 3",
        "\u{0}",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    for end in 0..SERVER.len() {
        let _ = parse(&SERVER[..end]);
    }
}

#[test]
fn the_reference_page_is_the_schema() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap_or_default();
    let made = schema::reference();
    if page != made && std::env::var_os("PORTCULLIS_REGENERATE").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md"), &made).unwrap();
        return;
    }
    assert_eq!(page, made, "run the tests with PORTCULLIS_REGENERATE=1");
}
