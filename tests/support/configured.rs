//! Whole sidecars, each from the text of its configuration, and a service behind them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::app::App;
use portcullis::clock::Clock;
use portcullis::config::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::program::Desk;

/// Long enough for a slow machine; nothing waits that long unless something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the program with these words, which must end well.
pub(crate) fn done(desk: &Desk, words: &str) {
    let run = desk.run(words);
    assert_eq!(run.code, 0, "{words}\n{}", run.shown());
}

pub(crate) async fn start(desk: &Desk, text: &str) -> App {
    tried(desk, text).await.unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A sidecar, or why there is none.
pub(crate) async fn tried(desk: &Desk, text: &str) -> Result<App, String> {
    desk.write("config.toml", text);
    let config = Config::load(&desk.path("config.toml")).unwrap_or_else(|error| panic!("{error}\n{text}"));
    App::start(&config, Clock::system()).await.map_err(|error| format!("{error:#}"))
}

/// What comes back for `text` through the listener `out`; `None` when the connection is closed before all of it did.
pub(crate) async fn exchange(through: &App, text: &str) -> Option<String> {
    let address = through.tcp_address("out").expect("TCP");
    let both_ways = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let (mut read, mut write) = stream.split();
        let sent = async {
            write.write_all(text.as_bytes()).await.ok()?;
            write.shutdown().await.ok()
        };
        let mut echoed = String::new();
        let (_, received) = tokio::join!(sent, read.read_to_string(&mut echoed));
        received.ok()?;
        (!echoed.is_empty()).then_some(echoed)
    };
    tokio::time::timeout(PATIENCE, both_ways).await.expect("an answer or an end")
}

/// A service that says back what it hears, and counts who connects.
pub(crate) async fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    (address, served)
}
