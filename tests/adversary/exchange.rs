//! 6.1, after the handshake: frames out of order, missing, malformed, too long, too slow.

use crate::attack::{Adversary, Listening, Target};
use crate::peer::Tls;
use crate::script::{self, Twist};
use crate::world::{BAIT, Client, SECRET, Server};
use portcullis::tls::Tier;
use tokio::net::TcpListener;

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
                wire.send(&crate::wire::result(0)).await;
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
    assert_eq!(result.octets, crate::wire::result(0));
    wire.send(SECRET).await;
    assert_eq!(wire.read_some(SECRET.len()).await, SECRET);
    wire.finish().await;
    assert_eq!(server.outcome().await.field("event"), "forwarded");
    assert_eq!(server.end().await, (1, SECRET.len()));
}
