//! The configuration file as an operator meets it: the defaults that the page prints are those that hold, and every
//! error has its words, its place and its advice.
#![cfg(feature = "cli")]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use portcullis::attester::batch::BatchSettings;
use portcullis::attester::devices::DeviceSettings;
use portcullis::collateral::{Pace, Reach};
use portcullis::config::{AcmeChallenge, CollateralSource, Config, Forward, Freshness, Log, LogFormat, Simulator, schema};
use portcullis::policy::Mode;
use portcullis::proxy::http::plan::{Backend, Balance, HttpLimits, Site, Speaks};
use portcullis::proxy::plan::{self, Originate, Upstream};

const POLICY: &str = r#"{ "version": 1, "name": "p", "accept": [] }"#;

/// The least that says anything: a server, and a client with a policy.
const LEAST: &str = r#"version = 1
[identity]
provider = "auto"
names = ["app.example"]
[[listener]]
name = "in"
bind = "unix:in.sock"
certificate = "attested"
upstream = "app"
[[upstream]]
name = "app"
targets = ["tcp://127.0.0.1:8080"]
[[listener]]
name = "out"
bind = "127.0.0.1:0"
upstream = "far"
[[upstream]]
name = "far"
targets = ["tls://far.example:8443"]
attested = { policy = "p" }
[policy.p]
file = "p.json"
"#;

fn parse(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("p.json"), POLICY).expect("a policy");
    std::fs::write(folder.path().join("broken.json"), "{").expect("a file");
    std::fs::write(folder.path().join("text.pem"), "hello").expect("a file");
    let config = Config::parse("c.toml", text, folder.path());
    config.map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "FOLDER"))
}

/// A duration as the page writes it.
fn span(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (0, milliseconds) => format!("\"{milliseconds}ms\""),
        (seconds, 0) if seconds % 86_400 == 0 => format!("\"{}d\"", seconds / 86_400),
        (seconds, 0) if seconds % 3600 == 0 => format!("\"{}h\"", seconds / 3600),
        (seconds, 0) => format!("\"{seconds}s\""),
        other => panic!("{other:?} has no short form"),
    }
}

/// What holds where the file says nothing, out of the types that are used.
fn defaults() -> Vec<(&'static str, &'static str, String)> {
    let config = parse(LEAST).expect("a good file");
    let (identity, quoting, limits) = (config.identity.expect("one"), BatchSettings::default(), plan::Limits::default());
    assert_eq!((identity.batch_window, identity.batch_queue), (None, None), "the attester's own default holds");
    let gpus = parse(&LEAST.replace("names =", "gpus = { socket = \"gpu.sock\" }\nnames =")).expect("a good file").identity.and_then(|identity| identity.gpus);
    assert_eq!(gpus.map(|gpus| (gpus.timeout, gpus.at_once, gpus.endorsements)), Some((None, None, None)), "the devices' own defaults hold");
    let devices = DeviceSettings::default();
    let (simulator, log) = (Simulator::default(), Log::default());
    let collateral = parse(&format!("{LEAST}[collateral]\n")).expect("a good file").collateral.expect("one");
    assert_eq!((collateral.timeout, collateral.wait, collateral.refresh), (None, None, None), "the collateral's own defaults hold");
    let pace = Pace::default();
    let http = LEAST.replace(
        "certificate = \"attested\"",
        "certificate = \"attested\"\nprotocol = \"http\"\nclients = \"attested\"\npolicy = \"p\"\ninsecure_allow_any_genuine_platform = true\nevidence = {}",
    );
    let checked = parse(&http.replace("tcp://127.0.0.1:8080\"]", "http://127.0.0.1:8080\"]\nhealth = { path = \"/\" }")).expect("a good file");
    let Forward::Http(asked) = &checked.listeners[0].forward else { panic!("not HTTP") };
    let endpoint = asked.evidence.as_ref().expect("one");
    let plain = Upstream {
        name: String::new(),
        targets: Vec::new(),
        originate: Originate::Plain,
        connect_timeout: Duration::ZERO,
        refresh: Duration::ZERO,
        multiplex: None,
    };
    assert_eq!(limits.streams, HttpLimits::default().streams, "one key speaks for both");
    let (backend, requests) = (Backend::of(Arc::new(plain), Speaks::Http1), HttpLimits::default());
    let backed = Site::to(Backend::of(Arc::clone(&backend.upstream), Speaks::Http1));
    let source = |source: &CollateralSource| format!("{:?}", format!("{:?}", source.place).to_lowercase());
    let public = LEAST.replace("certificate = \"attested\"", "certificate = \"webpki\"\nnames = [\"a.example\"]\nprotocol = \"http\"\nevidence = {}");
    let public = format!("{public}[acme]\ndirectory = \"https://ca.example/d\"\nagree_tos = true\nstate_dir = \"s\"\n");
    let public = parse(&public.replace("tcp://127.0.0.1:8080", "http://127.0.0.1:8080")).expect("a good file");
    let quoted = |text: &str| format!("\"{text}\"");
    let far = &config.upstreams["far"];
    let served = config.listeners[0].attested.as_ref().expect("attested");
    vec![
        ("the file", "drain_grace", span(config.drain_grace)),
        ("[identity]", "life", span(identity.life)),
        ("[identity]", "batch_window", span(quoting.window)),
        ("[identity]", "batch_queue", quoting.queue.to_string()),
        ("[identity.gpus]", "timeout", span(devices.limit)),
        ("[identity.gpus]", "at_once", devices.at_once.to_string()),
        ("[identity.simulator]", "gpus", simulator.gpus.to_string()),
        ("[identity.simulator]", "seed", simulator.seed.to_string()),
        ("[identity.simulator]", "platform", quoted(&simulator.platform)),
        ("[identity.simulator]", "quote_delay", span(simulator.quote_delay)),
        ("[[listener]]", "protocol", quoted(if matches!(config.listeners[0].forward, Forward::Tcp(_)) { "tcp" } else { "http" })),
        // What no route fits is always refused: there is no other word.
        ("[[listener]]", "default", quoted("deny")),
        ("[[listener]]", "upgrades", format!("{:?}", backed.upgrades)),
        ("[listener.identity_headers]", "modes", format!("{:?}", asked.identity.iter().map(|form| form.name()).collect::<Vec<_>>())),
        ("[listener.evidence]", "path", quoted(&endpoint.path)),
        ("[listener.evidence]", "per_source", endpoint.per_source.to_string()),
        ("[listener.evidence]", "total", endpoint.total.to_string()),
        ("[listener.limits]", "header", format!("\"{}KiB\"", requests.header / 1024)),
        ("[listener.limits]", "request_header", span(requests.request_header)),
        ("[listener.limits]", "request_body", span(requests.request_body)),
        ("[listener.limits]", "streams", requests.streams.to_string()),
        ("[listener.limits]", "requests", requests.requests.to_string()),
        ("[[upstream]]", "balance", quoted(if backend.balance == Balance::RoundRobin { "round-robin" } else { "another" })),
        ("[[upstream]]", "ejection", span(backend.ejection)),
        ("[upstream.health]", "every", span(checked.upstreams["app"].http.health.as_ref().expect("one").1)),
        ("[[listener]]", "clients", quoted(if served.clients.is_none() { "any" } else { "attested" })),
        ("[[listener]]", "freshness", quoted(served.freshness.name())),
        ("[[listener]]", "mode", format!("\"{:04o}\"", config.listeners[0].mode)),
        ("[[listener]]", "reuse_port", config.listeners[0].reuse_port.to_string()),
        ("[listener.limits]", "handshake", span(limits.handshake)),
        ("[listener.limits]", "exchange", span(limits.exchange)),
        ("[listener.limits]", "idle", span(limits.idle)),
        ("[listener.limits]", "max_connection", span(limits.max_connection)),
        ("[listener.limits]", "connections", limits.connections.to_string()),
        ("[listener.limits]", "connections_per_source", limits.connections_per_source.to_string()),
        ("[listener.limits]", "handshakes", limits.handshakes.to_string()),
        ("[listener.limits]", "handshakes_per_source", limits.handshakes_per_source.to_string()),
        ("[collateral]", "sources", format!("[{}]", collateral.sources.iter().map(source).collect::<Vec<_>>().join(", "))),
        ("[collateral]", "timeout", span(Reach::default().timeout)),
        ("[collateral]", "wait", span(pace.wait)),
        ("[collateral]", "refresh", span(pace.refresh)),
        ("[[upstream]]", "connect_timeout", span(far.connect_timeout)),
        ("[[upstream]]", "dns_refresh", span(far.dns_refresh)),
        ("[upstream.attested]", "freshness", quoted(far.attested.as_ref().expect("attested").freshness.name())),
        ("[policy.NAME]", "mode", quoted(config.policies["p"].policy.mode.name())),
        ("[acme]", "challenge", quoted(if public.acme.expect("one").challenge == AcmeChallenge::TlsAlpn01 { "tls-alpn-01" } else { "another" })),
        ("[log]", "format", quoted(if log.format == LogFormat::Text { "text" } else { "json" })),
        ("[log]", "level", quoted(log.level)),
    ]
}

/// A literal default on the page that no line above speaks for is a failure, and so is one that differs.
#[test]
fn the_defaults_on_the_page_are_those_that_hold() {
    let held = defaults();
    let mut wrong = Vec::new();
    for section in schema::SECTIONS {
        for key in section.keys {
            // `false` is what every flag is that nobody wrote.
            let Some(printed) = key.default.strip_prefix('`').and_then(|rest| rest.split('`').next()).filter(|printed| *printed != "false") else { continue };
            match held.iter().find(|(name, known, _)| (*name, *known) == (section.name, key.key)) {
                Some((_, _, value)) if value == printed => {}
                other => wrong.push(format!("{} {}: the page says {printed}, in force is {:?}", section.name, key.key, other.map(|(_, _, value)| value))),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let config = parse(LEAST).expect("a good file");
    assert!(config.insecure.is_empty() && config.listeners[0].attested.as_ref().expect("attested").freshness == Freshness::Session);
    assert_eq!(config.policies["p"].policy.mode, Mode::Enforce);
}

/// One change of a good file, and the words it is refused with.
struct Wrong(&'static str, &'static str, &'static str);

const FILE: &[Wrong] = &[
    Wrong("not TOML", "bind = \"unix:in.sock\"", "bind = unix:in.sock"),
    Wrong("a key twice", "provider = \"auto\"", "provider = \"auto\"\nprovider = \"auto\""),
    Wrong("no version", "version = 1\n", ""),
    Wrong("another version", "version = 1\n", "version = 2\n"),
    Wrong("an unknown key", "version = 1\n", "version = 1\ndrain_grase = \"1s\"\n"),
    Wrong("a number for a duration", "version = 1\n", "version = 1\ndrain_grace = 30\n"),
    Wrong("a duration without a unit", "version = 1\n", "version = 1\ndrain_grace = \"30\"\n"),
    Wrong("a duration out of bounds", "version = 1\n", "version = 1\ndrain_grace = \"2h\"\n"),
    Wrong("a table for a list", "[[upstream]]\nname = \"app\"", "[upstream]\nname = \"app\""),
    Wrong("a string for a table", "version = 1\n", "version = 1\nlog = \"json\"\n"),
    Wrong("an unknown log format", "[policy.p]", "[log]\nformat = \"xml\"\n[policy.p]"),
    Wrong("an unknown log level", "[policy.p]", "[log]\nlevel = \"loud\"\n[policy.p]"),
    Wrong("a name to observe at", "[policy.p]", "[observe]\nbind = \"localhost:9464\"\n[policy.p]"),
    Wrong("nothing to observe at", "[policy.p]", "[observe]\n[policy.p]"),
    Wrong("an address taken", "[policy.p]", "[observe]\nbind = \"127.0.0.1:15432\"\n[policy.p]"),
];

const IDENTITY: &[Wrong] = &[
    Wrong("no names", "names = [\"app.example\"]\n", ""),
    Wrong("an empty list", "[\"app.example\"]", "[]"),
    Wrong("a name in capitals", "app.example", "App.Example"),
    Wrong("a name twice", "[\"app.example\"]", "[\"app.example\", \"app.example\"]"),
    Wrong("a number among names", "[\"app.example\"]", "[1]"),
    Wrong("too long a life", "provider = \"auto\"", "provider = \"auto\"\nlife = \"2d\""),
    Wrong("an absent folder", "provider = \"auto\"", "provider = \"auto\"\nendorsements = \"absent\""),
    Wrong("a certificate without its key", "provider = \"auto\"", "provider = \"auto\"\ncertificate = \"text.pem\""),
    Wrong("a key without its certificate", "provider = \"auto\"", "provider = \"auto\"\nkey = \"text.pem\""),
    Wrong("an absent key", "provider = \"auto\"", "provider = \"auto\"\ncertificate = \"text.pem\"\nkey = \"absent.pem\""),
    Wrong("a queue for nobody", "provider = \"auto\"", "provider = \"auto\"\nbatch_queue = 0"),
    Wrong("a simulator that is not asked for", "names =", "simulator = { seed = 1 }\nnames ="),
    Wrong("GPUs without a service", "names =", "gpus = { at_once = 2 }\nnames ="),
    Wrong("too many GPUs at once", "names =", "gpus = { socket = \"s\", at_once = 17 }\nnames ="),
    Wrong("no time for GPUs", "names =", "gpus = { socket = \"s\", timeout = \"1ms\" }\nnames ="),
    Wrong("GPUs without a TEE", "\"auto\"", "\"none\"\ngpus = { socket = \"s\" }"),
    Wrong("simulated GPUs beside others", "\"auto\"", "\"simulator\"\nsimulator = { gpus = 1 }\ngpus = { socket = \"s\" }"),
    Wrong("a short measurement", "\"auto\"", "\"simulator\"\nsimulator = { measurement = \"00\" }"),
    Wrong("a negative seed", "\"auto\"", "\"simulator\"\nsimulator = { seed = -1 }"),
];

const LISTENER: &[Wrong] = &[
    Wrong("none", "[[listener]]", "[[lisstener]]"),
    Wrong("no name", "name = \"in\"\n", ""),
    Wrong("a name with a space", "name = \"in\"", "name = \"i n\""),
    Wrong("two of a name", "name = \"out\"", "name = \"in\""),
    Wrong("no place", "bind = \"unix:in.sock\"\n", ""),
    Wrong("a place taken", "127.0.0.1:0", "unix:in.sock"),
    Wrong("an address without a port", "127.0.0.1:0", "127.0.0.1"),
    Wrong("a socket without a path", "unix:in.sock", "unix:"),
    Wrong("a mode for TCP", "127.0.0.1:0\"", "127.0.0.1:0\"\nmode = \"0600\""),
    Wrong("a socket of systemd's without a name", "unix:in.sock", "systemd:"),
    Wrong("a mode for a socket of systemd's", "unix:in.sock\"", "systemd:in\"\nmode = \"0600\""),
    Wrong("a vsock address without a context id", "unix:in.sock", "vsock:8443"),
    Wrong("a vsock port that is none", "unix:in.sock", "vsock:any:0"),
    Wrong("a mode for a vsock port", "unix:in.sock\"", "vsock:any:8443\"\nmode = \"0600\""),
    Wrong("a plain listener over vsock", "127.0.0.1:0", "vsock:1:8443"),
    Wrong("an owner that is none", "unix:in.sock\"", "unix:in.sock\"\nowner = \":\""),
    Wrong("an unknown user", "unix:in.sock\"", "unix:in.sock\"\nowner = \"no-such-user:0\""),
    Wrong("an unknown group", "unix:in.sock\"", "unix:in.sock\"\nowner = \":no-such-group\""),
    Wrong("a user beyond all numbers", "unix:in.sock\"", "unix:in.sock\"\nowner = \"4294967295\""),
    Wrong("an owner for TCP", "127.0.0.1:0\"", "127.0.0.1:0\"\nowner = \"0\""),
    Wrong("an owner for a socket of systemd's", "unix:in.sock\"", "systemd:in\"\nowner = \"0:0\""),
    Wrong("a shared Unix socket", "unix:in.sock\"", "unix:in.sock\"\nreuse_port = true"),
    Wrong("a shared vsock port", "unix:in.sock\"", "vsock:any:8443\"\nreuse_port = true"),
    Wrong("a shared socket of systemd's", "unix:in.sock\"", "systemd:in\"\nreuse_port = true"),
    Wrong("a shared port that is not known", "127.0.0.1:0\"", "127.0.0.1:0\"\nreuse_port = true"),
    Wrong("addresses in front of a Unix socket", "unix:in.sock\"", "unix:in.sock\"\nproxy_protocol_from = [\"127.0.0.1\"]"),
    Wrong("a Unix socket in front of an address", "127.0.0.1:0\"", "127.0.0.1:0\"\nproxy_protocol_from = [\"unix\"]"),
    Wrong("a proxy over vsock", "unix:in.sock\"", "vsock:any:8443\"\nproxy_protocol_from = [\"unix\", \"10.0.0.0/8\"]"),
    Wrong("a mode that is none", "unix:in.sock\"", "unix:in.sock\"\nmode = \"rw\""),
    Wrong("an unknown certificate", "certificate = \"attested\"", "certificate = \"none\""),
    Wrong("a certificate from no files", "\"attested\"", "\"files\""),
    Wrong("files without a key", "\"attested\"", "\"files\"\nfiles = { chain = \"text.pem\" }"),
    Wrong("files for a plain listener", "127.0.0.1:0\"", "127.0.0.1:0\"\nfiles = { chain = \"text.pem\", key = \"text.pem\" }"),
    Wrong(
        "the public's clients attested",
        "\"attested\"",
        "\"files\"\nfiles = { chain = \"text.pem\", key = \"text.pem\" }\nclients = \"attested\"\npolicy = \"p\"",
    ),
    Wrong("nothing that the public can see", "\"attested\"", "\"files\"\nfiles = { chain = \"text.pem\", key = \"text.pem\" }\nprotocol = \"http\""),
    Wrong(
        "evidence without an identity",
        "[identity]\nprovider = \"auto\"\nnames = [\"app.example\"]\n[[listener]]\nname = \"in\"\nbind = \"unix:in.sock\"\ncertificate = \"attested\"\n",
        "[[listener]]\nname = \"in\"\nbind = \"unix:in.sock\"\ncertificate = \"files\"\nfiles = { chain = \"text.pem\", key = \"text.pem\" }\nprotocol = \"http\"\nevidence = {}\n",
    ),
    Wrong(
        "a CA's certificate without a CA",
        "certificate = \"attested\"",
        "certificate = \"webpki\"\nprotocol = \"http\"\nevidence = {}\nnames = [\"a.example\"]",
    ),
    Wrong("a CA's certificate without names", "certificate = \"attested\"", "certificate = \"webpki\""),
    Wrong("a CA's certificate for many", "certificate = \"attested\"", "certificate = \"webpki\"\nnames = [\"*.a.example\"]"),
    Wrong("a CA for nobody", "[policy.p]", "[acme]\ndirectory = \"https://ca.example/d\"\nagree_tos = true\nstate_dir = \"s\"\n[policy.p]"),
    Wrong("a CA in a hurry", "[policy.p]", "[acme]\ndirectory = \"http://ca.example/d\"\ncontact = [\"ops\"]\nchallenge = \"dns-01\"\n[policy.p]"),
    Wrong(
        "tokens for nobody, under keys that nobody can get",
        "certificate = \"attested\"",
        "certificate = \"attested\"\nprotocol = \"http\"\nclients = \"attested\"\npolicy = \"p\"\ninsecure_allow_any_genuine_platform = true\nidentity_headers = { modes = [\"token\"] }",
    ),
    Wrong(
        "tokens under keys that nobody can get",
        "certificate = \"attested\"",
        "certificate = \"attested\"\nprotocol = \"http\"\nclients = \"attested\"\npolicy = \"p\"\ninsecure_allow_any_genuine_platform = true\nidentity_headers = { modes = [\"token\"], audience = \"a\" }",
    ),
    Wrong("no upstream of the name", "upstream = \"app\"", "upstream = \"ap\""),
    Wrong("nothing attested on the way", "upstream = \"far\"", "upstream = \"app\""),
    Wrong("a plain listener for the world", "127.0.0.1:0", "0.0.0.0:15432"),
    Wrong("attested without an identity", "[identity]\nprovider = \"auto\"\nnames = [\"app.example\"]\n", ""),
    Wrong("unknown clients", "certificate = \"attested\"", "certificate = \"attested\"\nclients = \"some\""),
    Wrong("an unknown freshness", "certificate = \"attested\"", "certificate = \"attested\"\nfreshness = \"today\""),
    Wrong("mutual with anybody", "certificate = \"attested\"", "certificate = \"attested\"\nfreshness = \"session-mutual\""),
    Wrong(
        "attested clients without evidence",
        "certificate = \"attested\"",
        "certificate = \"attested\"\nclients = \"attested\"\npolicy = \"p\"\nfreshness = \"session\"",
    ),
    Wrong("attested clients without a policy", "certificate = \"attested\"", "certificate = \"attested\"\nclients = \"attested\""),
    Wrong("a policy for anybody", "certificate = \"attested\"", "certificate = \"attested\"\npolicy = \"p\""),
    Wrong("the certificate tier in silence", "certificate = \"attested\"", "certificate = \"attested\"\nfreshness = \"certificate\""),
    Wrong("clients of a plain listener", "127.0.0.1:0\"", "127.0.0.1:0\"\nclients = \"any\""),
    Wrong("sessions of many connections over plain bytes", "127.0.0.1:0\"", "127.0.0.1:0\"\nmultiplex = true"),
    Wrong("sessions of many connections that are requests", "certificate = \"attested\"", "certificate = \"attested\"\nprotocol = \"http\"\nmultiplex = true"),
    Wrong(
        "sessions where there are none",
        "certificate = \"attested\"",
        "certificate = \"attested\"\nfreshness = \"certificate\"\ninsecure_accept_replay_risk = true\nmultiplex = true",
    ),
    Wrong("a limit out of bounds", "unix:in.sock\"", "unix:in.sock\"\nlimits = { handshake = \"1ms\", connections = 0 }"),
];

/// Listeners whose clients say where they want to go: made of the plain one.
const CHOICE: &[Wrong] = &[
    Wrong("a client that may go nowhere", "upstream = \"far\"", "protocol = \"socks5\""),
    Wrong(
        "an upstream beside destinations",
        "upstream = \"far\"",
        "upstream = \"far\"\nprotocol = \"socks5\"\ndestination = [{ to = \"a.b\", upstream = \"far\" }]",
    ),
    Wrong("a destination without a host", "upstream = \"far\"", "protocol = \"socks5\"\ndestination = [{ upstream = \"far\" }]"),
    Wrong("a destination without an upstream", "upstream = \"far\"", "protocol = \"socks5\"\ndestination = [{ to = \"a.b:1\" }]"),
    Wrong("everywhere", "upstream = \"far\"", "protocol = \"socks5\"\ndestination = [{ to = \"*\", upstream = \"far\" }]"),
    Wrong("port 0", "upstream = \"far\"", "protocol = \"socks5\"\ndestination = [{ to = \"a.b:0\", upstream = \"far\" }]"),
    Wrong("a name in capitals", "upstream = \"far\"", "protocol = \"socks5\"\ndestination = [{ to = \"A.b\", upstream = \"far\" }]"),
    Wrong("too many bits", "upstream = \"far\"", "protocol = \"socks5\"\ndestination = [{ to = \"10.0.0.0/33:80\", upstream = \"far\" }]"),
    Wrong("an address without its bracket", "upstream = \"far\"", "protocol = \"socks5\"\ndestination = [{ to = \"[::1:80\", upstream = \"far\" }]"),
    Wrong("nothing attested on the way", "upstream = \"far\"", "protocol = \"socks5\"\ndestination = [{ to = \"a.b\", upstream = \"app\" }]"),
    Wrong("tunnels to nothing attested", "upstream = \"far\"", "protocol = \"http\"\ndestination = [{ to = \"a.b\", upstream = \"app\" }]"),
    Wrong(
        "SOCKS for the world",
        "127.0.0.1:0\"\nupstream = \"far\"",
        "0.0.0.0:1080\"\nprotocol = \"socks5\"\ndestination = [{ to = \"a.b\", upstream = \"far\" }]",
    ),
    Wrong(
        "SOCKS with a certificate",
        "certificate = \"attested\"\nupstream = \"app\"",
        "certificate = \"attested\"\nprotocol = \"socks5\"\ndestination = [{ to = \"a.b\", upstream = \"app\" }]",
    ),
    Wrong("accounts for no SOCKS", "upstream = \"far\"", "upstream = \"far\"\nusers_file = \"users\""),
    Wrong("absent accounts", "upstream = \"far\"", "protocol = \"socks5\"\nusers_file = \"absent\"\ndestination = [{ to = \"a.b\", upstream = \"far\" }]"),
    Wrong(
        "accounts without passwords",
        "upstream = \"far\"",
        "protocol = \"socks5\"\nusers_file = \"text.pem\"\ndestination = [{ to = \"a.b\", upstream = \"far\" }]",
    ),
    Wrong("destinations that nobody asks for", "upstream = \"far\"", "upstream = \"far\"\ndestination = [{ to = \"a.b\", upstream = \"far\" }]"),
    Wrong("an unknown capture", "upstream = \"far\"", "capture = \"bpf\"\ndestination = [{ to = \"a.b\", upstream = \"far\" }]"),
    Wrong(
        "a capture at a socket of systemd's",
        "127.0.0.1:0\"\nupstream = \"far\"",
        "systemd:out\"\ncapture = \"redirect\"\ndestination = [{ to = \"a.b:1\", upstream = \"far\" }]",
    ),
    Wrong(
        "a capture at a vsock port",
        "127.0.0.1:0\"\nupstream = \"far\"",
        "vsock:any:1\"\ninsecure_remote_listener = true\ncapture = \"redirect\"\ndestination = [{ to = \"a.b:1\", upstream = \"far\" }]",
    ),
    Wrong("a capture of requests", "upstream = \"far\"", "capture = \"tproxy\"\nprotocol = \"http\"\nupstream = \"far\""),
    Wrong("a server name with a port", "upstream = \"far\"", "protocol = \"tls-passthrough\"\ndestination = [{ to = \"a.b:443\", upstream = \"far\" }]"),
    Wrong(
        "a server name that is an address",
        "certificate = \"attested\"\nupstream = \"app\"",
        "certificate = \"attested\"\ndestination = [{ to = \"10.0.0.1\", upstream = \"app\" }]",
    ),
    Wrong(
        "CONNECT for peers",
        "certificate = \"attested\"\nupstream = \"app\"",
        "certificate = \"attested\"\nprotocol = \"http\"\ndestination = [{ to = \"a.b\", upstream = \"app\" }]",
    ),
];

const UPSTREAM: &[Wrong] = &[
    Wrong("none", "[[upstream]]", "[[upstreem]]"),
    Wrong("two of a name", "name = \"far\"", "name = \"app\""),
    Wrong("no targets", "targets = [\"tcp://127.0.0.1:8080\"]\n", ""),
    Wrong("a target without a scheme", "tcp://127.0.0.1:8080", "127.0.0.1:8080"),
    Wrong("another scheme", "tcp://127.0.0.1:8080", "ftp://127.0.0.1:8080"),
    Wrong("a target without a port", "tcp://127.0.0.1:8080", "tcp://127.0.0.1"),
    Wrong("a vsock target that is everybody", "tcp://127.0.0.1:8080", "vsock://any:8080"),
    Wrong("a vsock target by a name", "tls://far.example:8443", "tls+vsock://host:8443"),
    Wrong("plain bytes over vsock", "tcp://127.0.0.1:8080", "vsock://2:8080"),
    Wrong("an attested vsock target without a name", "tls://far.example:8443", "tls+vsock://2:8443"),
    Wrong("plain bytes for another machine", "tcp://127.0.0.1:8080", "tcp://10.0.0.1:8080"),
    Wrong("a plain target that is attested", "tls://far.example:8443", "tcp://127.0.0.1:8443"),
    Wrong("an attested target without a policy", "attested = { policy = \"p\" }\n", ""),
    Wrong("no policy of the name", "policy = \"p\" }", "policy = \"q\" }"),
    Wrong("a key that does nothing", "tcp://127.0.0.1:8080\"]", "tcp://127.0.0.1:8080\"]\nserver_name = \"x\""),
    Wrong("no server name", "policy = \"p\" }", "policy = \"p\" }\nserver_name = \"a b\""),
    Wrong("the certificate tier in silence", "policy = \"p\" }", "policy = \"p\", freshness = \"certificate\" }"),
    Wrong("an empty peer", "policy = \"p\" }", "policy = \"p\" }\npeer = {}"),
    Wrong("roots without names", "policy = \"p\" }", "policy = \"p\" }\npeer = { pki_roots = \"text.pem\" }"),
    Wrong("names without roots", "policy = \"p\" }", "policy = \"p\" }\npeer = { pki_names = [\"far.example\"] }"),
    Wrong("ids without roots", "policy = \"p\" }", "policy = \"p\" }\npeer = { spiffe_ids = [\"spiffe://td/far\"] }"),
    Wrong("an id without a path", "policy = \"p\" }", "policy = \"p\" }\npeer = { pki_roots = \"absent.pem\", spiffe_ids = [\"spiffe://td\"] }"),
    Wrong("a pin that is none", "policy = \"p\" }", "policy = \"p\" }\npeer = { spki_pins = [\"sha256:00\"] }"),
    Wrong("sessions with a plain target", "tcp://127.0.0.1:8080\"]", "tcp://127.0.0.1:8080\"]\nmultiplex = true"),
    Wrong(
        "sessions where there are none",
        "policy = \"p\" }",
        "policy = \"p\", freshness = \"certificate\" }\ninsecure_accept_replay_risk = true\nmultiplex = true",
    ),
    Wrong("impatience", "policy = \"p\" }", "policy = \"p\" }\nconnect_timeout = \"1ms\"\ndns_refresh = \"999ms\""),
];

const POLICIES: &[Wrong] = &[
    Wrong("no file", "file = \"p.json\"\n", ""),
    Wrong("an absent file", "p.json", "absent.json"),
    Wrong("a file that is no policy", "p.json", "broken.json"),
    Wrong("an unknown mode", "file = \"p.json\"", "file = \"p.json\"\nmode = \"report\""),
    Wrong("observing in silence", "file = \"p.json\"", "file = \"p.json\"\nmode = \"observe\""),
    Wrong("a name with a space", "[policy.p]", "[policy.\"p q\"]"),
    Wrong("no table", "[policy.p]\nfile", "[policy]\np"),
];

/// Every error with its words, its place and its advice.
#[test]
fn a_wrong_file_is_refused_with_the_place_and_what_to_write() {
    for (group, cases) in [("file", FILE), ("identity", IDENTITY), ("listener", LISTENER), ("choice", CHOICE), ("upstream", UPSTREAM), ("policies", POLICIES)] {
        let mut told = String::new();
        for Wrong(name, from, to) in cases {
            assert!(LEAST.contains(from), "{name}: {from} is not in the file");
            let text = LEAST.replace("127.0.0.1:0", if *name == "an address taken" { "127.0.0.1:15432" } else { "127.0.0.1:0" }).replace(from, to);
            let error = parse(&text).err().unwrap_or_else(|| panic!("{group}, {name}: was taken"));
            told += &format!("## {name}\n\n{}\n\n", error.trim_end());
        }
        insta::assert_snapshot!(group, told);
    }
}

/// One rule for every secret: refused where others may write it, a warning where they may read it.
#[test]
fn secrets_are_their_owners() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("p.json"), POLICY).expect("a policy");
    std::fs::write(path("chain.pem"), "chain").expect("a file");
    std::fs::write(path("secret"), "me:password").expect("a file");
    let socks = "[[listener]]\nname = \"socks\"\nbind = \"127.0.0.1:1\"\nprotocol = \"socks5\"\nusers_file = \"secret\"\ndestination = [{ to = \"a:1\", upstream = \"far\" }]\n[policy.p]";
    for (what, text) in [
        ("a key of [identity]", LEAST.replace("names =", "certificate = \"chain.pem\"\nkey = \"secret\"\nnames =")),
        (
            "a key of a listener",
            LEAST.replace("\"attested\"", "\"files\"\nprotocol = \"http\"\nevidence = {}\nfiles = { chain = \"chain.pem\", key = \"secret\" }"),
        ),
        ("accounts", LEAST.replace("[policy.p]", socks)),
    ] {
        let read = |mode: u32| {
            std::fs::set_permissions(path("secret"), std::fs::Permissions::from_mode(mode)).expect("a mode");
            let config = Config::parse("c.toml", &text, folder.path()).map_err(|error| error.to_string())?;
            // There are others, about the policy.
            Ok::<_, String>(config.warnings.iter().map(portcullis::config::Report::warnings).filter(|warning| warning.contains("secret")).collect::<String>())
        };
        for mode in [0o600, 0o400] {
            assert_eq!(read(mode).as_deref().map_err(String::as_str), Ok(""), "{what} {mode:o}");
        }
        for (mode, told) in [(0o644, "mode 0644: every user of this machine may read it"), (0o640, "mode 0640: its group may read it")] {
            let warnings = read(mode).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(warnings.contains(told) && warnings.contains("\"secret\"") && warnings.contains("= help: chmod 0600"), "{what}: {warnings}");
        }
        for (mode, told) in [(0o660, "mode 0660: its group may write it"), (0o602, "mode 0602: every user of this machine may write it")] {
            let error = read(mode).expect_err("others may write it");
            assert!(error.contains(told) && error.contains("^^^^") && error.contains("= help: chmod 0600"), "{what}: {error}");
        }
    }
}

/// What is known grows with the platforms: the lists are not written down twice.
#[test]
fn a_wrong_word_is_told_those_that_are_known() {
    let providers = [&["auto"][..], &portcullis::platform::providers(), &["simulator", "none"]].concat();
    let error = parse(&LEAST.replace("\"auto\"", "\"tdx\"")).expect_err("unknown");
    assert!(error.contains("unknown provider \"tdx\"") && providers.iter().all(|name| error.contains(&format!("\"{name}\""))), "{error}");
    for (from, to, told) in [
        ("provider = \"auto\"\n", "", "`provider` is missing in [identity]"),
        ("certificate = ", "clients = \"attested\"\npolicy = \"p\"\ncertificate = ", "session-mutual without knowing who the peer is"),
        ("policy = \"p\" }", "policy = \"p\", freshness = \"session-mutual\" }", "session-mutual without knowing who the peer is"),
        ("\"auto\"", "\"simulator\"\nsimulator = { platform = \"vax\" }", "unknown platform \"vax\""),
        ("\"auto\"", "\"simulator\"\nsimulator = { product = \"rome\" }", "unknown product \"rome\""),
        ("certificate = ", "protocol = \"udp\"\ncertificate = ", "unknown protocol \"udp\""),
    ] {
        let error = parse(&LEAST.replace(from, to)).expect_err(told);
        assert!(error.contains(told) && error.contains("= help: "), "{error}");
    }
}
