//! 6.1, after the handshake: frames out of order, missing, malformed, too long, too slow.

use std::time::Duration;

use portcullis::tls::Tier;
use tokio::net::TcpListener;

use crate::attack::{Adversary, Failures, Listening, Target, on_client, on_server};
use crate::peer::{Tls, Wire};
use crate::script::{self, Twist};
use crate::wire::{self, EVIDENCE, HELLO_C, HELLO_S, Hello, RESULT, frame, indefinite_map_of, map_of};
use crate::world::{BAIT, Client, SECRET, Server};

/// Short, for the cases that wait it out.
const SHORT: Duration = Duration::from_millis(300);

/// The scripts are honest when nothing is twisted: what the cases below refuse is what they change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_script_is_admitted_from_either_end() {
    for target in [Target::session(), Target::mutual().await] {
        let adversary = Adversary::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = Client::start(&target.house, target.plan, listener.local_addr().expect("an address"));
        let serving = async {
            let (tcp, _) = listener.accept().await.expect("the sidecar connects");
            let tls = Tls { wants_client: true, ..adversary.tls() };
            let mut wire = tls.accept(tcp).await.expect("a handshake");
            let answers = script::serve(&mut wire, &adversary.machine, &Twist::default()).await;
            if answers.len() == 2 {
                wire.send(&wire::result(0)).await;
            }
            let said = wire.read_some(SECRET.len()).await;
            wire.send(BAIT).await;
            wire.finish().await;
            said
        };
        let (read, said) = tokio::join!(client.application(), serving);
        assert_eq!(said, SECRET);
        assert_eq!(read, BAIT);
        assert_eq!(client.outcome().await.field("event"), "forwarded");
        client.end().await;
    }
    let adversary = Adversary::new();
    let target = Listening::attested(Tier::SessionMutual).await;
    let server = Server::start(&target.house, target.plan).await;
    let mut wire = adversary.tls().connect(server.dial().await).await.expect("a handshake");
    let result = script::open(&mut wire, &adversary.machine, &Twist::default()).await.expect("a verdict");
    assert_eq!(result.octets, wire::result(0));
    wire.send(SECRET).await;
    assert_eq!(wire.read_some(SECRET.len()).await, SECRET);
    wire.finish().await;
    assert_eq!(server.outcome().await.field("event"), "forwarded");
    assert_eq!(server.end().await, (1, SECRET.len()));
}

/// A server's frames otherwise than they should be: name, code, change.
type Row = (&'static str, &'static str, fn() -> Twist);

fn frames(change: fn(&mut Vec<Vec<u8>>)) -> Twist {
    Twist { frames: Some(Box::new(change)), ..Twist::default() }
}

fn hello(change: fn(&mut Hello)) -> Twist {
    Twist { hello: Some(Box::new(change)), ..Twist::default() }
}

/// More than rustls takes at a time, so that some is not yet read when the evidence is.
fn behind() -> Twist {
    Twist { behind: vec![b'G'; 8000], ..Twist::default() }
}

const SERVER: &[Row] = &[
    ("early-app-byte", "exchange_out_of_order", || frames(|frames| frames.insert(1, b"G".to_vec()))),
    ("early-app-byte before HELLO_S", "exchange_out_of_order", || frames(|frames| frames.insert(0, b"HTTP/1.1 200 OK\r\n".to_vec()))),
    ("early-app-byte behind EVIDENCE", "exchange_out_of_order", || frames(|frames| frames.push(b"G".to_vec()))),
    ("early-app-byte not yet read", "exchange_out_of_order", behind),
    ("result-first", "exchange_out_of_order", || frames(|frames| frames.insert(1, wire::result(0)))),
    ("result before HELLO_S", "exchange_out_of_order", || frames(|frames| frames.insert(0, wire::result(0)))),
    ("result in place of evidence", "exchange_out_of_order", || frames(|frames| frames[1] = wire::result(0))),
    ("HELLO_S twice", "exchange_out_of_order", || frames(|frames| frames.insert(1, frames[0].clone()))),
    ("EVIDENCE first", "exchange_out_of_order", || frames(|frames| frames.swap(0, 1))),
    ("EVIDENCE twice", "exchange_out_of_order", || frames(|frames| frames.push(frames[1].clone()))),
    ("the client's HELLO echoed", "exchange_out_of_order", || frames(|frames| frames[0][0] = HELLO_C)),
    ("drop-server-bit", "exchange_out_of_order", || hello(|hello| hello.attest = 0)),
    ("add-client-bit", "exchange_out_of_order", || hello(|hello| hello.attest = 3)),
    ("attest bits without a meaning", "evidence_malformed", || hello(|hello| hello.attest = 5)),
    ("oversize-frame", "evidence_size", || frames(|frames| frames[1] = [EVIDENCE, 0xff, 0xff, 0xff, 0xff].to_vec())),
    ("oversize-frame HELLO_S", "evidence_size", || frames(|frames| frames[0] = [HELLO_S, 0, 0, 0x10, 1].to_vec())),
    ("oversize-frame beyond what was offered", "evidence_size", || frames(|frames| frames[1] = frame(EVIDENCE, &vec![0; 256 * 1024 + 1]))),
    ("an unknown frame", "exchange_out_of_order", || frames(|frames| frames.insert(1, frame(5, b"")))),
    ("hello-version", "evidence_malformed", || hello(|hello| hello.version = 2)),
    ("hello-authority of a server", "evidence_malformed", || hello(|hello| hello.authority = Some("app.example".to_owned()))),
    ("short-nonce", "evidence_malformed", || hello(|hello| hello.nonce.truncate(31))),
    ("short-nonce empty", "evidence_malformed", || hello(|hello| hello.nonce.clear())),
    ("long-nonce", "evidence_malformed", || hello(|hello| hello.nonce.push(0))),
    ("hello-no-types", "evidence_malformed", || hello(|hello| hello.types.clear())),
    ("empty evidence", "evidence_malformed", || frames(|frames| frames[1] = frame(EVIDENCE, b""))),
    ("trailing octet in EVIDENCE", "evidence_malformed", || {
        frames(|frames| {
            let payload = [&frames[1][5..], b"\0"].concat();
            frames[1] = frame(EVIDENCE, &payload);
        })
    }),
    ("busy", "attester_busy", || frames(|frames| frames[1] = wire::result(2))),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_breaks_the_exchange_is_refused() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    for (name, code, twist) in SERVER {
        let attacked = on_client(Target::session(), &adversary.tls(), async |wire: &mut Wire| {
            script::serve(wire, &adversary.machine, &twist()).await;
        })
        .await;
        failures.check(&attacked, name, code);
    }
    let tls = Tls { wants_client: true, ..adversary.tls() };
    for bits in [0, 1, 2] {
        let attacked = on_client(Target::mutual().await, &tls, async |wire: &mut Wire| {
            let hello: Box<dyn Fn(&mut Hello)> = Box::new(move |hello| hello.attest = bits);
            script::serve(wire, &adversary.machine, &Twist { hello: Some(hello), ..Twist::default() }).await;
        })
        .await;
        failures.check(&attacked, &format!("drop-client-bit: {bits} agreed of 3"), "exchange_out_of_order");
    }
    failures.none();
}

/// Ways to write a HELLO that are not the one way: name, change of its encoded pairs.
type Spelling = (&'static str, fn(Vec<Vec<u8>>) -> Vec<u8>);

const SPELLINGS: &[Spelling] = &[
    ("hello-dup-key", |mut pairs| {
        pairs.insert(2, pairs[1].clone());
        map_of(&pairs)
    }),
    ("hello-indef", |pairs| indefinite_map_of(&pairs)),
    ("unknown-hello-key", |mut pairs| {
        pairs.push(vec![9, 0]);
        map_of(&pairs)
    }),
    ("hello-missing-key", |mut pairs| {
        pairs.remove(1);
        map_of(&pairs)
    }),
    ("hello-order", |mut pairs| {
        pairs.swap(0, 1);
        map_of(&pairs)
    }),
    ("hello-long-integer", |mut pairs| {
        pairs[0] = vec![1, 0x18, 1];
        map_of(&pairs)
    }),
    ("hello-trailing", |pairs| [map_of(&pairs), vec![0]].concat()),
    ("hello-truncated", |pairs| {
        let mut whole = map_of(&pairs);
        whole.pop();
        whole
    }),
    ("hello-empty", |_| Vec::new()),
    ("hello-endless-types", |mut pairs| {
        pairs[3] = vec![4, 0x9a, 0xff, 0xff, 0xff, 0xff];
        map_of(&pairs)
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_has_one_spelling() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    for (name, spelling) in SPELLINGS {
        let attacked = on_client(Target::session(), &adversary.tls(), async |wire: &mut Wire| {
            wire.receive().await;
            wire.send(&frame(HELLO_S, &spelling(Hello::new(0x22, 1).pairs()))).await;
        })
        .await;
        failures.check(&attacked, name, "evidence_malformed");
        let attacked = on_server(Listening::session().await, &Tls::anonymous(), async |wire: &mut Wire| {
            wire.send(&frame(HELLO_C, &spelling(client_hello().pairs()))).await;
        })
        .await;
        failures.check(&attacked, name, "evidence_malformed");
    }
    failures.none();
}

fn client_hello() -> Hello {
    Hello { authority: Some("app.example".to_owned()), ..Hello::new(0x11, 1) }
}

fn opening() -> Vec<u8> {
    frame(HELLO_C, &client_hello().payload())
}

/// What a client sends to a server sidecar that lets any client in: name, code, octets. All at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_breaks_the_exchange_is_refused() {
    let with = |change: fn(&mut Hello)| {
        let mut hello = client_hello();
        change(&mut hello);
        frame(HELLO_C, &hello.payload())
    };
    let rows: Vec<(&str, &str, Vec<u8>)> = vec![
        ("dup-hello", "exchange_out_of_order", [opening(), opening()].concat()),
        ("early-app-byte", "exchange_out_of_order", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("early-app-byte behind HELLO", "exchange_out_of_order", [opening(), b"GET".to_vec()].concat()),
        ("result-first", "exchange_out_of_order", wire::result(0)),
        ("evidence-first", "exchange_out_of_order", frame(EVIDENCE, b"\xa0")),
        ("the server's HELLO", "exchange_out_of_order", frame(HELLO_S, &Hello::new(0x11, 1).payload())),
        ("evidence in place of a verdict", "exchange_out_of_order", [opening(), frame(EVIDENCE, b"\xa0")].concat()),
        ("no evidence asked for", "exchange_out_of_order", with(|hello| hello.attest = 0)),
        ("attest bits without a meaning", "evidence_malformed", with(|hello| hello.attest = 4)),
        ("short-nonce", "evidence_malformed", with(|hello| hello.nonce.truncate(31))),
        ("short-nonce empty", "evidence_malformed", with(|hello| hello.nonce.clear())),
        ("no authority", "evidence_malformed", with(|hello| hello.authority = None)),
        ("hello-version", "evidence_malformed", with(|hello| hello.version = 0)),
        ("oversize-frame", "evidence_size", [HELLO_C, 0xff, 0xff, 0xff, 0xff].to_vec()),
        ("oversize-frame RESULT", "evidence_size", [opening(), vec![RESULT, 0, 0, 0, 65]].concat()),
        ("a verdict without a meaning", "evidence_malformed", [opening(), wire::result(9)].concat()),
        ("a refusal", "peer_refused", [opening(), wire::result(1)].concat()),
        ("types that are not ours", "evidence_unsupported", with(|hello| hello.types = vec!["application/x".to_owned()])),
        ("room for no evidence", "evidence_size", with(|hello| hello.max_evidence = 100)),
    ];
    let mut failures = Failures::default();
    for (name, code, octets) in rows {
        let attacked = on_server(Listening::session().await, &Tls::anonymous(), async |wire: &mut Wire| wire.send(&octets).await).await;
        failures.check(&attacked, name, code);
    }
    failures.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_must_attest_and_does_not_is_refused() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    let rows: Vec<(&str, &str, Twist)> = vec![
        ("result-without-evidence", "timeout", frames(|frames| frames.truncate(1))),
        ("evidence-without-result", "exchange_out_of_order", frames(|frames| *frames = frames.split_off(1))),
        ("evidence before the result", "exchange_out_of_order", frames(|frames| frames.reverse())),
        ("result twice", "exchange_out_of_order", frames(|frames| frames[1] = frames[0].clone())),
        ("early-app-byte", "exchange_out_of_order", frames(|frames| frames.insert(1, SECRET.to_vec()))),
        ("early-app-byte behind the evidence", "exchange_out_of_order", frames(|frames| frames.push(b"G".to_vec()))),
        ("early-app-byte not yet read", "exchange_out_of_order", behind()),
        ("no evidence offered", "evidence_unsupported", hello(|hello| hello.attest = 1)),
    ];
    for (name, code, twist) in rows {
        let mut target = Listening::attested(Tier::SessionMutual).await;
        if code == "timeout" {
            target.plan.limits.exchange = SHORT;
        }
        let attacked = on_server(target, &adversary.tls(), async |wire: &mut Wire| {
            script::open(wire, &adversary.machine, &twist).await;
        })
        .await;
        failures.check(&attacked, name, code);
    }
    let attacked = on_server(Listening::attested(Tier::SessionMutual).await, &Tls::anonymous(), async |_: &mut Wire| {}).await;
    failures.check(&attacked, "no certificate at all", "evidence_unsupported");
    failures.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_or_dawdles_is_cut_off() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    for (name, say) in [("never-evidence", true), ("never-hello", false)] {
        let mut target = Target::session();
        target.plan.limits.exchange = SHORT;
        let attacked = on_client(target, &adversary.tls(), async |wire: &mut Wire| {
            wire.receive().await;
            if say {
                wire.send(&frame(HELLO_S, &Hello::new(0x22, 1).payload())).await;
            }
            while wire.receive().await.is_some() {}
        })
        .await;
        failures.check(&attacked, name, "timeout");
    }
    for (name, count) in [("slowloris", usize::MAX), ("half a HELLO_C", 20), ("nothing", 0), ("no verdict", opening().len())] {
        let mut target = Listening::session().await;
        target.plan.limits.exchange = SHORT;
        let attacked = on_server(target, &Tls::anonymous(), async |wire: &mut Wire| {
            if count == usize::MAX {
                // One octet at a time, until the victim has had enough.
                for octet in opening() {
                    wire.send(&[octet]).await;
                    tokio::time::sleep(SHORT / 20).await;
                }
            } else {
                wire.send(&opening()[..count]).await;
            }
            while wire.receive().await.is_some() {}
        })
        .await;
        failures.check(&attacked, name, "timeout");
    }
    failures.none();
}
