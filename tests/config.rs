//! The configuration file as an operator meets it: the defaults that the page prints are those that hold, and every
//! error has its words, its place and its advice.
#![cfg(feature = "cli")]

use std::time::Duration;

use portcullis::attester::batch::BatchSettings;
use portcullis::config::{Config, Freshness, Log, LogFormat, Simulator, schema};
use portcullis::policy::Mode;
use portcullis::proxy::plan;

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
    let (simulator, log) = (Simulator::default(), Log::default());
    let quoted = |text: &str| format!("\"{text}\"");
    let far = &config.upstreams["far"];
    let served = config.listeners[0].attested.as_ref().expect("attested");
    vec![
        ("the file", "drain_grace", span(config.drain_grace)),
        ("[identity]", "life", span(identity.life)),
        ("[identity]", "batch_window", span(quoting.window)),
        ("[identity]", "batch_queue", quoting.queue.to_string()),
        ("[identity.simulator]", "seed", simulator.seed.to_string()),
        ("[identity.simulator]", "platform", quoted(&simulator.platform)),
        ("[identity.simulator]", "quote_delay", span(simulator.quote_delay)),
        // There is no other yet.
        ("[[listener]]", "protocol", quoted("tcp")),
        ("[[listener]]", "clients", quoted(if served.clients.is_none() { "any" } else { "attested" })),
        ("[[listener]]", "freshness", quoted(served.freshness.name())),
        ("[[listener]]", "mode", format!("\"{:04o}\"", config.listeners[0].mode)),
        ("[listener.limits]", "handshake", span(limits.handshake)),
        ("[listener.limits]", "exchange", span(limits.exchange)),
        ("[listener.limits]", "idle", span(limits.idle)),
        ("[listener.limits]", "max_connection", span(limits.max_connection)),
        ("[listener.limits]", "connections", limits.connections.to_string()),
        ("[listener.limits]", "handshakes", limits.handshakes.to_string()),
        ("[listener.limits]", "handshakes_per_source", limits.handshakes_per_source.to_string()),
        ("[[upstream]]", "connect_timeout", span(far.connect_timeout)),
        ("[upstream.attested]", "freshness", quoted(far.attested.as_ref().expect("attested").freshness.name())),
        ("[policy.NAME]", "mode", quoted(config.policies["p"].policy.mode.name())),
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
