//! 6.1 and 6.5, what is not one peer's doing: a stalled or panicking appraisal, the clock, caches, a busy attester, the
//! end of a connection's life, and what the log may not say.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use portcullis::attester::simulator::{Forge, SimulatedVendor};
use portcullis::attester::{Attester, Quote, Unavailable};
use portcullis::crypto::sha384;
use portcullis::evidence::binding::{AgeRule, Binding};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::snp::Product;
use portcullis::evidence::{Challenge, Endorsement, ReportData, Timestamp};
use portcullis::platform::PLATFORMS;
use portcullis::policy::{AppraisalPolicy, Vocabulary};
use portcullis::refusal::Denied;
use portcullis::tls::{Judge, Tier};
use portcullis::verify::AttestationResult;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::attack::{Adversary, Attacked, Failures, Heard, Listening, Target, contains, on_client, on_server};
use crate::peer::{Tls, Wire};
use crate::records;
use crate::script::{self, Twist};
use crate::wire::{self, EXPORTER_LABEL, HELLO_C, Hello, exporter_context, frame};
use crate::world::{House, NOW, PATIENCE, SECRET, Server, anybody, machine, policy};

/// Judges as `inner` does, once `before` has returned.
struct Hooked {
    inner: Arc<dyn Judge>,
    before: Box<dyn Fn() + Send + Sync>,
}

impl Judge for Hooked {
    fn policy(&self) -> String {
        self.inner.policy()
    }

    fn accepts(&self) -> Vec<String> {
        self.inner.accepts()
    }

    fn age_rule(&self) -> AgeRule {
        self.inner.age_rule()
    }

    fn policy_digest(&self) -> [u8; 32] {
        self.inner.policy_digest()
    }

    fn certificate(&self, leaf: &[u8], now: Timestamp) -> Result<Arc<AttestationResult>, Denied> {
        (self.before)();
        self.inner.certificate(leaf, now)
    }

    fn session(&self, presented: &Collection, binding: &Binding, now: Timestamp) -> Result<AttestationResult, Denied> {
        (self.before)();
        self.inner.session(presented, binding, now)
    }

    fn session_again(&self, presented: &Collection, binding: &Binding, since: Timestamp, now: Timestamp) -> Result<AttestationResult, Denied> {
        self.inner.session_again(presented, binding, since, now)
    }
}

/// While the appraiser thinks, nobody dials; when it says yes, somebody does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn upstream_before_confirm() {
    let adversary = Adversary::new();
    let mut target = Listening::attested(Tier::SessionMutual).await;
    let (asked, when_asked) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let before = move || {
        asked.send(()).expect("the test waits");
        // Tells the runtime, so that nothing else of this process waits with it.
        tokio::task::block_in_place(|| released.lock().expect("one connection").recv_timeout(PATIENCE)).expect("the test releases");
    };
    target.plan.clients = Some(anybody(Arc::new(Hooked { inner: target.house.judge(policy("")), before: Box::new(before) })));
    let server = Server::start(&target.house, target.plan).await;
    let mut wire = adversary.tls().connect(server.dial().await).await.expect("a handshake");
    let opening = async {
        let verdict = script::open(&mut wire, &adversary.machine, &Twist::default()).await;
        (verdict, wire)
    };
    let stalled = async {
        tokio::task::spawn_blocking(move || when_asked.recv_timeout(PATIENCE).expect("asked")).await.expect("asked");
        // A connection of ours through the service's queue: one of the sidecar's would have been counted before it.
        let mut probe = TcpStream::connect(server.service.address).await.expect("the service listens");
        probe.shutdown().await.expect("closed");
        probe.read_to_end(&mut Vec::new()).await.expect("its end");
        let seen = server.service.connections();
        release.send(()).expect("the appraiser waits");
        seen
    };
    let ((verdict, mut wire), seen) = tokio::join!(opening, stalled);
    assert_eq!(seen, 1, "the service was dialled before the verdict");
    assert_eq!(verdict.map(|frame| frame.octets), Some(wire::result(0)));
    wire.send(SECRET).await;
    assert_eq!(wire.read_some(SECRET.len()).await, SECRET);
    wire.finish().await;
    assert_eq!(server.end().await.0, 2, "the probe and the admitted client");
}

/// A panic while judging refuses the peer; the listener goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verifier_panic() {
    let adversary = Adversary::new();
    let mut target = Listening::attested(Tier::SessionMutual).await;
    let times = AtomicUsize::new(0);
    let before = move || assert!(times.fetch_add(1, Ordering::SeqCst) > 0, "injected, as a fault of a parser would be");
    target.plan.clients = Some(anybody(Arc::new(Hooked { inner: target.house.judge(policy("")), before: Box::new(before) })));
    let server = Server::start(&target.house, target.plan).await;
    let mut wire = adversary.tls().connect(server.dial().await).await.expect("a handshake");
    let told = script::open(&mut wire, &adversary.machine, &Twist::default()).await;
    assert_ne!(told.map(|frame| frame.octets), Some(wire::result(0)));
    wire.heard().await;
    assert_eq!(server.service.connections(), 0);
    let mut wire = adversary.tls().connect(server.dial().await).await.expect("a handshake");
    let told = script::open(&mut wire, &adversary.machine, &Twist::default()).await;
    assert_eq!(told.map(|frame| frame.octets), Some(wire::result(0)), "the next peer is judged");
    wire.finish().await;
    let record = server.outcome().await;
    assert_eq!((record.field("event"), record.field("reason")), ("refused", "evidence_malformed"), "{record:?}");
    assert_eq!(server.end().await, (1, 0));
}

/// A verdict that has run out when the stream should open lets nobody in, and is not on record as if it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_that_opens_nothing_is_recorded_as_a_refusal() {
    let adversary = Adversary::new();
    let mut target = Listening::attested(Tier::SessionMutual).await;
    let clock = target.house.parts.clock.clone();
    let before = move || clock.set(NOW.plus(30 * 86_400));
    target.plan.clients = Some(anybody(Arc::new(Hooked { inner: target.house.judge(policy("")), before: Box::new(before) })));
    let server = Server::start(&target.house, target.plan).await;
    let mut wire = adversary.tls().connect(server.dial().await).await.expect("a handshake");
    script::open(&mut wire, &adversary.machine, &Twist::default()).await;
    wire.heard().await;
    let record = server.outcome().await;
    assert_eq!((record.field("event"), record.field("reason")), ("refused", "evidence_stale"), "{record:?}");
    let shown = target.house.parts.metrics.text();
    assert!(shown.contains(r#"result="refused",reason="evidence_stale"} 1"#) && !shown.contains(r#"result="accepted""#), "{shown}");
    assert!(!shown.contains("portcullis_connections_confirmed_total{"), "{shown}");
    assert_eq!(server.end().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_before_build() {
    let (adversary, mut failures) = (Adversary::new(), Failures::default());
    let target = Listening::attested(Tier::SessionMutual).await;
    target.house.parts.clock.set(Timestamp(3600));
    let attacked = on_server(target, &adversary.tls(), async |wire: &mut Wire| {
        script::open(wire, &adversary.machine, &Twist::default()).await;
    })
    .await;
    failures.check(&attacked, "clock-before-build of a server", "clock_invalid");
    for target in [Target::session(), Target::certificate()] {
        target.house.parts.clock.set(Timestamp(3600));
        let attacked = on_client(target, &adversary.tls(), async |wire: &mut Wire| {
            script::serve(wire, &adversary.machine, &Twist::default()).await;
        })
        .await;
        failures.check(&attacked, "clock-before-build of a client", "clock_invalid");
    }
    failures.none();
}

/// The evidence of an otherwise accepted machine, with other endorsements than its vendor's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_staples_is_no_authority_and_fetches_nothing() {
    let (mut failures, probe) = (Failures::default(), TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    let address = probe.local_addr().expect("an address");
    let url = Arc::new(format!("http://{address}/crl"));
    let der = |name: &str, bytes| Endorsement { name: name.to_owned(), media_type: "application/pkix-cert".to_owned(), bytes };
    let ark = SimulatedVendor::impostor(Product::Genoa).certificate(portcullis::attester::simulator::Role::Ark);
    let own_root = Twist { collection: Some(Box::new(move |collection| collection.endorsements.push(der("ark", ark.clone())))), ..Twist::default() };
    let stapled_url = Twist {
        collection: Some(Box::new(move |collection| {
            let all = std::mem::take(&mut collection.endorsements).into_iter();
            collection.endorsements = all.map(|e| if e.name == "crl" { Endorsement { bytes: url.as_bytes().to_vec(), ..e } } else { e }).collect();
        })),
        ..Twist::default()
    };
    let without_crl = Twist {
        collection: Some(Box::new(|collection| {
            collection.endorsements = std::mem::take(&mut collection.endorsements).into_iter().filter(|e| e.name != "crl").collect();
        })),
        ..Twist::default()
    };
    let genuine = machine(3);
    let mut forge = Forge::new(Product::Genoa, 3, NOW);
    forge.vendor = SimulatedVendor::impostor(Product::Genoa);
    let impostor: Arc<dyn Attester> = Arc::new(forge.attester());
    for (name, code, machine, twist) in [
        ("peer-endorsement-root", "chain_untrusted", &genuine, &own_root),
        ("peer-endorsement-root with its chain", "chain_untrusted", &impostor, &Twist::default()),
        ("peer-pccs-url", "collateral_unavailable", &genuine, &stapled_url),
        ("no revocation list", "collateral_unavailable", &genuine, &without_crl),
    ] {
        let adversary = Adversary { machine: Arc::clone(machine), ..Adversary::new() };
        let attacked = on_client(Target::session(), &adversary.tls(), async |wire: &mut Wire| {
            script::serve(wire, machine, twist).await;
        })
        .await;
        failures.check(&attacked, name, code);
        let attacked = on_server(Listening::attested(Tier::SessionMutual).await, &adversary.tls(), async |wire: &mut Wire| {
            script::open(wire, machine, twist).await;
        })
        .await;
        failures.check(&attacked, name, code);
    }
    failures.none();
    // Whoever would have come is in the queue before us.
    let ours = TcpStream::connect(address).await.expect("a connection");
    let (_, from) = probe.accept().await.expect("a connection");
    assert_eq!(from, ours.local_addr().expect("an address"), "somebody fetched what a peer named");
}

/// A genuine machine that is not wanted: each kind of "not wanted", through the whole program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn genuine_and_unwanted() {
    let rows: [(&str, &str, fn(&mut Forge)); 7] = [
        ("measurement-unlisted", "measurement_unknown", |forge| forge.report.measurement = [1; 48]),
        ("debug", "debug_enabled", |forge| forge.report.policy |= 1 << 19),
        ("vmpl1", "vmpl_not_allowed", |forge| forge.report.vmpl = 1),
        ("tcb-below-floor", "tcb_too_low", |forge| forge.report.launch_tcb[6] = 0x15),
        ("ask-revoked", "chain_revoked", |forge| {
            let serial = forge.vendor.serial(portcullis::attester::simulator::Role::Ask);
            forge.crl.revoked.push((serial, NOW.minus(60)));
        }),
        ("alias-check-missing", "guest_policy_violation", |forge| forge.report.platform_info &= !(1 << 5)),
        ("reserved-nonzero", "reserved_bits_set", |forge| forge.report.policy |= 1 << 40),
    ];
    let mut failures = Failures::default();
    for (name, code, change) in rows {
        let mut forge = Forge::new(Product::Genoa, 3, NOW);
        change(&mut forge);
        let machine: Arc<dyn Attester> = Arc::new(forge.attester());
        let adversary = Adversary { machine: Arc::clone(&machine), ..Adversary::new() };
        let attacked = on_client(Target::session(), &adversary.tls(), async |wire: &mut Wire| {
            script::serve(wire, &machine, &Twist::default()).await;
        })
        .await;
        failures.check(&attacked, name, code);
        let attacked = on_server(Listening::attested(Tier::SessionMutual).await, &adversary.tls(), async |wire: &mut Wire| {
            script::open(wire, &machine, &Twist::default()).await;
        })
        .await;
        failures.check(&attacked, name, code);
    }
    failures.none();
}

/// A machine that is quick until it is told to hang, and then hangs until it is let go.
struct Hanging {
    inner: Arc<dyn Attester>,
    hang: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
    begun: mpsc::Sender<()>,
}

impl Attester for Hanging {
    fn platform(&self) -> &'static str {
        self.inner.platform()
    }

    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        if let Some(release) = self.hang.lock().expect("one at a time").take() {
            let _ = self.begun.send(());
            let _ = release.recv_timeout(PATIENCE);
        }
        self.inner.attest(challenge)
    }
}

/// With one quote in the works and the queue full, the next client is told so at once and closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn attester_busy() {
    let mut target = Listening::session().await;
    let hang = Arc::new(Mutex::new(None));
    let (begun, has_begun) = mpsc::channel();
    let slow = Hanging { inner: machine(1), hang: Arc::clone(&hang), begun };
    let names = vec!["app.example".to_owned()];
    let settings = portcullis::tls::IdentitySettings::Minted { names, lifetime: Duration::from_secs(3600), provider: "simulator".to_owned() };
    target.plan.identity = target.house.identity(settings, House::batcher(Arc::new(slow), 1)).await;
    let server = Server::start(&target.house, target.plan).await;
    let (release, released) = mpsc::channel();
    *hang.lock().expect("free") = Some(released);
    let opening = frame(HELLO_C, &Hello { authority: Some("app.example".to_owned()), ..Hello::new(0x11, 1) }.payload());
    let mut first = Tls::anonymous().connect(server.dial().await).await.expect("a handshake");
    first.send(&opening).await;
    tokio::task::spawn_blocking(move || has_begun.recv_timeout(PATIENCE).expect("a quote is made")).await.expect("a quote is made");
    // One waits in the queue's one place; whoever finds it taken hears "busy", and that first.
    let mut waiting = [const { None }; 2];
    for place in &mut waiting {
        let mut next = Tls::anonymous().connect(server.dial().await).await.expect("a handshake");
        next.send(&opening).await;
        *place = Some(next);
    }
    let [Some(mut second), Some(mut third)] = waiting else { panic!("two more") };
    let (told, wire, other) = tokio::select! {
        told = second.receive() => (told, second, third),
        told = third.receive() => (told, third, second),
        () = tokio::time::sleep(PATIENCE) => panic!("the queue has no end"),
    };
    assert_eq!(told.map(|frame| frame.octets), Some(wire::result(2)));
    let (record, mut failures) = (server.outcome().await, Failures::default());
    failures.check(&Attacked { record, heard: Heard::Inside(wire.heard().await) }, "attester-busy", "attester_busy");
    failures.none();
    assert_eq!(server.service.connections(), 0);
    release.send(()).expect("the attester hangs");
    for mut wire in [first, other] {
        assert_eq!(wire.receive().await.map(|frame| frame.kind), Some(wire::HELLO_S), "those that waited are served");
        drop(wire);
    }
    assert_eq!(server.end().await, (0, 0));
}

/// One leaf, two policies: what the wide one accepted the narrow one judges anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cache_cross_policy() {
    let (house, adversary) = (House::new(), Adversary::new());
    let holder = crate::certificates::honest_leaf(&adversary.machine);
    let tls = Tls { alpn: Vec::new(), ..Tls::of(&holder) };
    let mut failures = Failures::default();
    let wide = house.judge(policy(""));
    let narrow = house.judge(policy(&format!(r#", "host_data": "{}""#, "5a".repeat(32))));
    let plan = async |judge: Arc<dyn Judge>| Listening { plan: Listening::attested(Tier::Certificate).await.plan.judged_by(judge), house: house.clone() };
    for round in 0..2 {
        let target = plan(Arc::clone(&wide)).await;
        let server = Server::start(&target.house, target.plan).await;
        let mut wire = tls.connect(server.dial().await).await.expect("a handshake");
        wire.send(SECRET).await;
        assert_eq!(wire.read_some(SECRET.len()).await, SECRET, "round {round}: the wide policy accepts");
        wire.finish().await;
        server.end().await;
        let attacked = on_server(plan(Arc::clone(&narrow)).await, &tls, async |_: &mut Wire| {}).await;
        failures.check(&attacked, "cache-cross-policy", "measurement_unknown");
    }
    failures.none();
    // A remembered verdict ends with the evidence, whatever the memory says.
    house.parts.clock.set(NOW.plus(3200));
    let target = plan(wide).await;
    let attacked = on_server(target, &tls, async |_: &mut Wire| {}).await;
    let mut failures = Failures::default();
    failures.check(&attacked, "cache beyond the evidence", "certificate_invalid");
    failures.none();
}

/// However lively, a connection ends at its limit, and with its evidence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifetime() {
    for by_evidence in [false, true] {
        let adversary = Adversary::new();
        let mut target = Listening::attested(Tier::SessionMutual).await;
        if by_evidence {
            // One second is left of the client's endorsements; its own clock alone counts then.
            target.plan.clients = Some(anybody(target.house.judge(policy_until(NOW.plus(1)))));
        } else {
            target.plan.limits.max_connection = Duration::from_millis(300);
        }
        let server = Server::start(&target.house, target.plan).await;
        let mut wire = adversary.tls().connect(server.dial().await).await.expect("a handshake");
        let verdict = script::open(&mut wire, &adversary.machine, &Twist::default()).await;
        assert_eq!(verdict.map(|frame| frame.octets), Some(wire::result(0)));
        // Speaks as long as it is answered.
        loop {
            wire.send(SECRET).await;
            if wire.read_some(SECRET.len()).await.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let record = server.outcome().await;
        assert_eq!((record.field("event"), record.field("ended")), ("forwarded", "at the end of its permitted life"), "{record:?}");
        server.end().await;
    }
}

fn policy_until(moment: Timestamp) -> portcullis::verify::Appraiser {
    let mut appraiser = policy("");
    appraiser.policy.expires = Some(moment);
    appraiser
}

/// What an operator may not even load: nothing unset means "anything".
#[test]
fn policies_that_are_refused_at_load() {
    let vocabularies: Vec<&'static Vocabulary> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let measurement = "ab".repeat(48);
    let entry = |keys: &str| format!(r#"{{ "version": 1, "name": "p", "accept": [ {{ "id": "a", "tee": "sev-snp", {keys} }} ] }}"#);
    let measured = |keys: &str| entry(&format!(r#""measurement": "{measurement}", {keys}"#));
    assert!(AppraisalPolicy::load(measured(r#""note": "x""#).as_bytes(), &vocabularies).is_ok());
    for (name, text) in [
        ("empty-measurements", entry(r#""measurement": { "any_of": [] }"#)),
        ("no measurement", entry(r#""note": "x""#)),
        ("unknown-policy-key", measured(r#""messurements": []"#)),
        ("zero-pin", measured(&format!(r#""host_data": "{}""#, "00".repeat(32)))),
        ("zero measurement", entry(&format!(r#""measurement": "{}""#, "00".repeat(48)))),
        ("debug without its key", measured(r#""guest_policy": { "debug": true }"#)),
        ("a root nobody knows", r#"{ "version": 1, "name": "p", "accept": [], "insecure_roots": ["mine"] }"#.to_owned()),
    ] {
        let refused = AppraisalPolicy::load(text.as_bytes(), &vocabularies);
        assert!(refused.as_ref().is_err_and(|problems| !problems.is_empty()), "{name} was loaded: {refused:?}");
    }
}

/// A failure and a success, everything logged at every level: neither exporter, nor leaf, nor key, nor inner byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_secrecy() {
    let (adversary, secrets) = (Adversary::new(), Mutex::new(Vec::<Vec<u8>>::new()));
    let keep = |wire: &Wire, nonces: [[u8; 32]; 2]| {
        let [nonce_c, nonce_s] = nonces;
        let exporters = [1, 2].map(|role| wire.exporter(EXPORTER_LABEL, Some(&exporter_context(role, &nonce_c, &nonce_s))).to_vec());
        secrets.lock().expect("free").extend(exporters);
    };
    for wrong in [false, true] {
        let target = Listening::attested(Tier::SessionMutual).await;
        let server = Server::start(&target.house, target.plan).await;
        let mut wire = adversary.tls().connect(server.dial().await).await.expect("a handshake");
        let hello_c = frame(HELLO_C, &Hello { authority: Some("app.example".to_owned()), ..Hello::new(0x11, 3) }.payload());
        wire.send(&hello_c).await;
        let hello_s = wire.receive().await.expect("HELLO_S");
        wire.receive().await.expect("EVIDENCE");
        let (nonce_s, _) = Hello::read(&hello_s.payload);
        keep(&wire, [[0x11; 32], nonce_s]);
        let session = script::Session { role: 1, nonce_c: [0x11; 32], nonce_s, hello_c: &hello_c, hello_s: &hello_s.octets };
        let spoil = move |data: &mut ReportData, _: &[u8]| data.0[0] ^= u8::from(wrong);
        let evidence = script::attest(&wire, &session, &adversary.machine, &Twist { report_data: Some(Box::new(spoil)), ..Twist::default() });
        wire.send(&[wire::result(0), evidence].concat()).await;
        assert_eq!(wire.receive().await.map(|frame| frame.octets), Some(wire::result(u64::from(wrong))));
        if wrong {
            wire.heard().await;
        } else {
            wire.send(SECRET).await;
            assert_eq!(wire.read_some(SECRET.len()).await, SECRET);
            wire.finish().await;
        }
        server.outcome().await;
        server.end().await;
    }
    let mut secrets = secrets.into_inner().expect("free");
    secrets.push(sha384(&[b"a control that is logged nowhere"]).to_vec());
    secrets.push(SECRET.to_vec());
    let said = records::all().into_iter().flat_map(|record| record.fields.into_values()).collect::<Vec<_>>().join("\n").into_bytes();
    assert!(contains(&said, b"binding_mismatch"), "the failure was logged");
    for secret in &secrets {
        let listed = format!("{secret:?}");
        for spelling in [
            secret.clone(),
            data_encoding::HEXLOWER.encode(secret).into_bytes(),
            data_encoding::HEXUPPER.encode(secret).into_bytes(),
            data_encoding::BASE64_NOPAD.encode(secret).into_bytes(),
            data_encoding::BASE64URL_NOPAD.encode(secret).into_bytes(),
            listed.trim_matches(['[', ']']).as_bytes().to_vec(),
        ] {
            assert!(!contains(&said, &spelling), "a secret is in the log");
        }
    }
}
