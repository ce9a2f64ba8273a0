//! What the program says to its operator: every event of the process, kept, and the outcome of a listener's connections.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{LazyLock, Mutex, Once, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// No outcome takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// One event.
#[derive(Clone, Debug)]
pub struct Record {
    pub target: String,
    pub fields: BTreeMap<&'static str, String>,
}

impl Record {
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

static RECORDS: Mutex<Vec<Record>> = Mutex::new(Vec::new());
static COUNT: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::channel(0).0);

/// From here on everything is kept, whatever its level.
pub fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Keeper);
        tracing::subscriber::set_global_default(subscriber).expect("nobody else in this program listens");
    });
}

/// Everything that was said.
pub fn all() -> Vec<Record> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What was recorded of the connections of the listener of this name, in order.
pub fn of(listener: &str) -> Vec<Record> {
    all().into_iter().filter(|record| record.target == "connection" && record.field("listener") == listener).collect()
}

/// The first `count` records of a listener's connections.
pub async fn first(listener: &str, count: usize) -> Vec<Record> {
    let mut changed = COUNT.subscribe();
    let waiting = async {
        loop {
            changed.borrow_and_update();
            let records = of(listener);
            if records.len() >= count {
                return records;
            }
            changed.changed().await.expect("the sender is static");
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{listener}: {count} outcomes wanted, so far {:?}", of(listener)))
}

struct Keeper;

impl<S: tracing::Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let record = Record { target: event.metadata().target().to_owned(), fields: fields.0 };
        RECORDS.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        COUNT.send_modify(|count| *count += 1);
    }
}

struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
