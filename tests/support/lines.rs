//! The log of a test's own process, as it is written.

use std::io::Write;
use std::sync::{Arc, Mutex};

/// What was written so far.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// From now on, everything of the process. Once in it.
    pub(crate) fn begin() -> Self {
        let lines = Self::default();
        let writer = lines.clone();
        tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO).with_writer(move || writer.clone()).init();
        lines
    }

    /// The fields of all that is written of a listener (`key` "listener") or an upstream.
    pub(crate) fn of(&self, key: &str, name: &str) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text");
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["fields"].clone());
        lines.filter(|fields| fields[key] == name).collect()
    }
}
