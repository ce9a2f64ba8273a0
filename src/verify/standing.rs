//! How a machine's TCB stands, for people: what the vendor, or the floors shipped here, say of it, and what it is short of.

use crate::evidence::Timestamp;

/// What is said of a genuine machine's TCB. Not a verdict: which standing is accepted is a policy's business.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// The vendor's word, or `below the floor` and `not below the floor` where the vendor publishes none.
    pub status: String,
    /// The edition of the data it was judged by.
    pub edition: String,
    /// Until when that data holds.
    pub until: Option<Timestamp>,
    /// What the machine is open to.
    pub advisories: Vec<String>,
    /// What is missing, component by component.
    pub short: Vec<Short>,
}

/// A component that is older than wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Short {
    /// Which one.
    pub component: String,
    /// The machine's security version.
    pub found: u64,
    /// The wanted one.
    pub needed: u64,
    /// Where the wanted number comes from.
    pub source: String,
    /// What raises it.
    pub raised_by: &'static str,
}
