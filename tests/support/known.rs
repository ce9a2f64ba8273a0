//! A memory of signatures, for tables whose rows judge one chain again and again.

use std::collections::HashSet;
use std::sync::Mutex;

use portcullis::verify::SignatureMemo;

/// Signatures that verified, so that a chain is not computed again for each octet.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashSet<[u8; 32]>>);

impl SignatureMemo for Known {
    fn knows(&self, check: &[u8; 32]) -> bool {
        self.0.lock().expect("whole").contains(check)
    }

    fn learn(&self, check: [u8; 32]) {
        self.0.lock().expect("whole").insert(check);
    }
}
