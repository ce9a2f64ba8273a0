//! What Intel's two platforms have in common: a quote is looked at before it is shown to anybody.

use std::path::Path;

use super::Unavailable;
use crate::evidence::ReportData;
use crate::evidence::intel::{self, Body};

/// Refuses what is not a quote over our data: better here than at every peer.
pub(super) fn ours(bytes: &[u8], data: &ReportData, is_body: fn(&Body) -> bool, provider: &str, place: &Path) -> Result<(), Unavailable> {
    let unfit = |why: String, fix: &str, transient| {
        let what = format!("{provider} at {}", place.display());
        Err(Unavailable { what, why, fix: fix.to_owned(), transient })
    };
    if bytes.is_empty() {
        return unfit("quote: empty".to_owned(), "the host's quote service gave none: look at its log, and at its PCCS", true);
    }
    match intel::Quote::parse(bytes) {
        Ok(quote) if !is_body(&quote.body) => unfit(format!("quote: of {}", quote.body.kind()), "this machine's TEE is of another kind", false),
        Ok(quote) if quote.bound_data() == *data => Ok(()),
        Ok(_) => unfit("quote: its report data is not what was asked for".to_owned(), "another process writes to our requests: find it and stop it", true),
        Err(denied) => unfit(format!("quote: {denied}"), "the host's quote service is newer than this program: look for a newer release", false),
    }
}
