//! An attack from either end, and what it must come to: a refusal with its code, and nobody touched.

use std::sync::Arc;

use portcullis::attester::Attester;
use portcullis::tls::{Identity, Tier};
use tokio::net::{TcpListener, TcpStream};

use crate::peer::{Holder, Tls, Wire};
use crate::records::Record;
use crate::wire::RESULT;
use crate::world::{BAIT, Client, ClientPlan, House, SECRET, Server, ServerPlan, anybody, limits, machine, policy};

/// Who the victim of a hostile server is.
pub struct Target {
    pub house: House,
    pub plan: ClientPlan,
}

impl Target {
    /// A client sidecar of the session tier, without an identity of its own.
    pub fn session() -> Self {
        Self::of(Tier::Session, None)
    }

    pub fn certificate() -> Self {
        Self::of(Tier::Certificate, None)
    }

    /// A client sidecar that attests too.
    pub async fn mutual() -> Self {
        let house = House::new();
        let identity = house.minted(machine(2)).await;
        Self::of(Tier::SessionMutual, Some(identity))
    }

    fn of(tier: Tier, identity: Option<Identity>) -> Self {
        let house = House::new();
        let peer = anybody(house.judge(policy("")));
        Self { plan: ClientPlan { tier, peer, identity, limits: limits() }, house }
    }
}

/// What an attack came to.
pub struct Attacked {
    /// What the victim told its operator.
    pub record: Record,
    /// Everything that the victim sent to the adversary.
    pub heard: Heard,
}

/// A hostile server: the client sidecar connects to it, and it follows `script` after the handshake.
///
/// Asserts that the application read nothing and that its words did not reach the adversary.
pub async fn on_client(target: Target, tls: &Tls, script: impl AsyncFnOnce(&mut Wire)) -> Attacked {
    on_client_raw(target, async |tcp: TcpStream| {
        let Ok(mut wire) = tls.accept(tcp).await else { return Heard::Outside(Vec::new()) };
        script(&mut wire).await;
        wire.send(BAIT).await;
        Heard::Inside(wire.heard().await)
    })
    .await
}

/// The same without TLS: `script` gives everything that it heard.
pub async fn on_client_raw(target: Target, script: impl AsyncFnOnce(TcpStream) -> Heard) -> Attacked {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = Client::start(&target.house, target.plan, listener.local_addr().expect("an address"));
    let adversary = async {
        let (tcp, _) = listener.accept().await.expect("the victim connects");
        script(tcp).await
    };
    let (read, heard) = tokio::join!(client.application(), adversary);
    let record = client.outcome().await;
    client.end().await;
    assert_eq!(read, b"", "the application read something: {record:?}");
    assert!(!contains(heard.octets(), SECRET), "the application's words reached the adversary: {record:?}");
    Attacked { record, heard }
}

/// Who the victim of a hostile client is.
pub struct Listening {
    pub house: House,
    pub plan: ServerPlan,
}

impl Listening {
    /// A server sidecar of the session tier that lets any client in.
    pub async fn session() -> Self {
        let house = House::new();
        let identity = house.minted(machine(1)).await;
        Self { plan: ServerPlan { tier: Tier::Session, clients: None, identity, limits: limits() }, house }
    }

    /// A server sidecar of this tier that lets attested clients in.
    pub async fn attested(tier: Tier) -> Self {
        let house = House::new();
        let (identity, clients) = (house.minted(machine(1)).await, Some(anybody(house.judge(policy("")))));
        Self { plan: ServerPlan { tier, clients, identity, limits: limits() }, house }
    }
}

/// A hostile client: connects to the server sidecar and follows `script` after the handshake.
///
/// Asserts that the service saw no connection.
pub async fn on_server(target: Listening, tls: &Tls, script: impl AsyncFnOnce(&mut Wire)) -> Attacked {
    on_server_raw(target, async |tcp: TcpStream| {
        let Ok(mut wire) = tls.connect(tcp).await else { return Heard::Outside(Vec::new()) };
        script(&mut wire).await;
        wire.send(BAIT).await;
        Heard::Inside(wire.heard().await)
    })
    .await
}

/// The same without TLS: `script` gives everything that it heard.
pub async fn on_server_raw(target: Listening, script: impl AsyncFnOnce(TcpStream) -> Heard) -> Attacked {
    let server = Server::start(&target.house, target.plan).await;
    // A refusal may be quicker than the connection: its reset is then the result of connecting.
    let heard = match TcpStream::connect(server.address).await {
        Ok(tcp) => script(tcp).await,
        Err(_) => Heard::Outside(Vec::new()),
    };
    let record = server.outcome().await;
    assert_eq!(server.end().await, (0, 0), "the service was reached: {record:?}");
    Attacked { record, heard }
}

impl Attacked {
    /// What differs from a refusal with this code, told in full to the operator and hardly to the adversary.
    fn wrong(&self, code: &str) -> Option<String> {
        let said = |name| self.record.field(name);
        if (said("event"), said("reason")) != ("refused", code) {
            return Some(format!("not refused as {code}"));
        }
        if ["field", "expected", "found"].iter().any(|name| said(name).is_empty()) {
            return Some("the operator is not told field, expected and found".to_owned());
        }
        self.heard.told_more()
    }

    /// The verdict that the adversary was told, if any.
    pub fn told(&self) -> Option<u8> {
        let frames = self.heard.frames().ok()?;
        frames.iter().rev().find(|(kind, _)| *kind == RESULT).and_then(|(_, payload)| payload.last().copied())
    }
}

/// What a victim said.
pub enum Heard {
    /// Inside TLS.
    Inside(Vec<u8>),
    /// Of TLS itself; nothing was inside.
    Outside(Vec<u8>),
}

impl Heard {
    fn octets(&self) -> &[u8] {
        match self {
            Self::Inside(octets) | Self::Outside(octets) => octets,
        }
    }

    /// The frames of the exchange, by type and payload; an error when there is anything else.
    fn frames(&self) -> Result<Vec<(u8, &[u8])>, String> {
        let Self::Inside(all) = self else { return Ok(Vec::new()) };
        let (mut frames, mut rest) = (Vec::new(), all.as_slice());
        while let [kind @ 1..=4, a, b, c, d, behind @ ..] = rest {
            let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).map_err(|error| error.to_string())?;
            let (payload, behind) = behind.split_at_checked(length).ok_or("a frame cut short")?;
            frames.push((*kind, payload));
            rest = behind;
        }
        if rest.is_empty() { Ok(frames) } else { Err(format!("{} octets that are no frame", rest.len())) }
    }

    /// What the victim said beyond its part of the exchange and one verdict in one of four codes.
    fn told_more(&self) -> Option<String> {
        let frames = match self.frames() {
            Ok(frames) => frames,
            Err(why) => return Some(why),
        };
        let verdicts: Vec<_> = frames.iter().filter(|(kind, _)| *kind == RESULT).map(|(_, payload)| *payload).collect();
        match verdicts.as_slice() {
            // A client accepts the server, then a server that goes on to break the exchange is refused.
            [] | [[0xa1, 1, 1..=3]] | [[0xa1, 1, 0]] | [[0xa1, 1, 0], [0xa1, 1, 1..=3]] => None,
            other => Some(format!("the adversary was told {other:?}")),
        }
    }
}

/// The cases of a table that came to something else.
#[derive(Default)]
pub struct Failures(Vec<String>);

impl Failures {
    pub fn check(&mut self, attacked: &Attacked, name: &str, code: &str) {
        match attacked.wrong(code) {
            None => println!("ok   {name}: {code}"),
            Some(why) => {
                println!("FAIL {name}: {why}: {:?}", attacked.record.fields);
                self.0.push(name.to_owned());
            }
        }
    }

    #[track_caller]
    pub fn none(self) {
        assert!(self.0.is_empty(), "failed: {:?}", self.0);
    }
}

pub fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

/// An adversary with a genuine TEE of an accepted guest: everything about it is right but what is twisted.
pub struct Adversary {
    pub machine: Arc<dyn Attester>,
    pub holder: Holder,
}

impl Adversary {
    pub fn new() -> Self {
        Self { machine: machine(3), holder: Holder::plain() }
    }

    pub fn tls(&self) -> Tls {
        Tls::of(&self.holder)
    }
}
