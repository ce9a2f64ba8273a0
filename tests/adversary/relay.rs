//! 6.2, relays and diversions: genuine evidence of a genuine machine, forwarded by somebody in the middle.
//!
//! The relay has its own TLS to each side and, where it says so, the attested server's stolen leaf key and certificate.

use std::cell::RefCell;
use std::rc::Rc;

use portcullis::evidence::ReportData;
use portcullis::tls::Tier;
use tokio::net::TcpListener;

use crate::attack::{Adversary, Attacked, Failures, Heard, Listening, Target, on_client, on_server};
use crate::peer::{Holder, Tls, Wire};
use crate::records;
use crate::script::{self, Twist};
use crate::wire::{EVIDENCE, HELLO_C, Hello, frame, result};
use crate::world::{Client, Server, machine};

/// A genuine server sidecar whose leaf key somebody else has too.
async fn robbed(stolen: &Holder) -> Server {
    let mut target = Listening::session().await;
    target.plan.identity = target.house.stolen(stolen, machine(1)).await;
    Server::start(&target.house, target.plan).await
}

/// Two TLS sessions, one script: every frame goes through unchanged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_two_channels() {
    let stolen = Holder::plain();
    let mut failures = Failures::default();
    for (name, holder) in [("with the stolen leaf key", stolen.clone()), ("with a key of its own", Holder::plain())] {
        let genuine = robbed(&stolen).await;
        let attacked = on_client(Target::session(), &Tls::of(&holder), async |near: &mut Wire| {
            let mut far = Tls::anonymous().connect(genuine.dial().await).await.expect("the genuine server");
            let hello_c = near.receive().await.expect("HELLO_C");
            far.send(&hello_c.octets).await;
            let (hello_s, evidence) = (far.receive().await.expect("HELLO_S"), far.receive().await.expect("EVIDENCE"));
            assert_eq!(evidence.kind, EVIDENCE, "the genuine server attests");
            near.send(&[hello_s.octets, evidence.octets].concat()).await;
            let verdict = near.receive().await;
            assert_ne!(verdict.map(|frame| frame.octets), Some(result(0)), "the relayed evidence was believed");
            // The genuine server is told nothing: it lets nobody in without a verdict.
            drop(far);
        })
        .await;
        failures.check(&attacked, name, "binding_mismatch");
        assert_eq!(genuine.outcome().await.field("event"), "refused");
        assert_eq!(genuine.end().await, (0, 0), "the genuine server's service was reached");
    }
    failures.none();
}

/// The relay answers the genuine server itself; that proves nothing about the victim's connection, which stays shut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_in_the_certificate_tier_needs_the_key() {
    // What the tier's acknowledgement is about: with the stolen key a relay passes here, and only here. Without it:
    let genuine = Listening::attested(Tier::Certificate).await;
    let genuine = Server::start(&genuine.house, genuine.plan).await;
    let seen = Tls { alpn: Vec::new(), ..Tls::anonymous() }.connect(genuine.dial().await).await.expect("a handshake");
    let mut thief = Holder::plain();
    thief.leaf = seen.peer_leaf().expect("a certificate");
    drop(seen);
    let attacked = on_client(Target::certificate(), &Tls { alpn: Vec::new(), ..Tls::of(&thief) }, async |_: &mut Wire| {}).await;
    let mut failures = Failures::default();
    failures.check(&attacked, "relay-certificate", "possession_unproved");
    failures.none();
    assert_eq!(genuine.end().await, (0, 0));
}

/// A genuine, accepted machine in the middle of a mutual exchange passes the client's evidence on as its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_of_a_clients_evidence() {
    let (adversary, stolen, mut failures) = (Adversary::new(), Holder::plain(), Failures::default());
    for (name, holder) in [("with the client's stolen key", &stolen), ("with a key of its own", &adversary.holder)] {
        let mut victim = Target::mutual().await;
        victim.plan.identity = Some(victim.house.stolen(&stolen, machine(2)).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = Client::start(&victim.house, victim.plan, listener.local_addr().expect("an address"));
        let attacked = on_server(Listening::attested(Tier::SessionMutual).await, &Tls::of(holder), async |far: &mut Wire| {
            let near = async {
                let (tcp, _) = listener.accept().await.expect("the client connects");
                let tls = Tls { wants_client: true, ..adversary.tls() };
                let mut near = tls.accept(tcp).await.expect("a handshake");
                // The client believes the adversary's own genuine evidence and gives its own: diversion.
                let answers = script::serve(&mut near, &adversary.machine, &Twist::default()).await;
                drop(near);
                answers.into_iter().find(|frame| frame.kind == EVIDENCE).expect("the client's evidence").octets
            };
            let (evidence, _) = tokio::join!(near, client.application());
            let hello = Hello { authority: Some("app.example".to_owned()), ..Hello::new(0x11, 3) };
            far.send(&frame(HELLO_C, &hello.payload())).await;
            far.receive().await;
            far.receive().await;
            far.send(&[result(0), evidence].concat()).await;
            far.receive().await;
        })
        .await;
        failures.check(&attacked, name, "binding_mismatch");
        client.end().await;
    }
    failures.none();
}

/// Evidence of an earlier session between the same two keys, replayed whole, and its quote under claims of this session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_session_evidence() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    let target = Listening::attested(Tier::SessionMutual).await;
    let server = Server::start(&target.house, target.plan).await;
    let (frames, data) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(ReportData([0; 64]))));
    let keep_frames = {
        let kept = Rc::clone(&frames);
        move |frames: &mut Vec<Vec<u8>>| kept.borrow_mut().clone_from(frames)
    };
    let keep_data = {
        let kept = Rc::clone(&data);
        move |data: &mut ReportData, _: &[u8]| *kept.borrow_mut() = *data
    };
    let listen = Twist { frames: Some(Box::new(keep_frames)), report_data: Some(Box::new(keep_data)), ..Twist::default() };
    let mut wire = adversary.tls().connect(server.dial().await).await.expect("a handshake");
    let verdict = script::open(&mut wire, &adversary.machine, &listen).await.expect("a verdict");
    assert_eq!(verdict.octets, result(0), "it was good once");
    wire.finish().await;
    assert_eq!(server.service.connections(), 1);

    let old = frames.take();
    let replay = move |frames: &mut Vec<Vec<u8>>| frames.clone_from(&old);
    let quote = move |now: &mut ReportData, _: &[u8]| *now = *data.borrow();
    let rows = [
        ("old-session-evidence", Twist { frames: Some(Box::new(replay)), ..Twist::default() }),
        ("an old quote under new claims", Twist { report_data: Some(Box::new(quote)), ..Twist::default() }),
    ];
    for (place, (name, twist)) in rows.into_iter().enumerate() {
        // The same sidecar with the same key, as in the session before.
        let mut wire = adversary.tls().connect(server.dial().await).await.expect("a handshake");
        let told = script::open(&mut wire, &adversary.machine, &twist).await;
        assert_eq!(told.map(|frame| frame.octets), Some(result(1)), "{name}");
        let heard = Heard::Inside(wire.heard().await);
        let record = records::first(&server.name, place + 2).await.swap_remove(place + 1);
        failures.check(&Attacked { record, heard }, name, "binding_mismatch");
    }
    failures.none();
    assert_eq!(server.end().await, (1, 0), "the service was reached again");
}
