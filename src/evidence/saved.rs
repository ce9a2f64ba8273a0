//! How a platform's pieces are recognised in files: by name, by content, or several files together.

use super::{Auxiliary, Endorsement, Evidence};

/// A platform's pieces in files.
pub struct Saved {
    /// The name of the file with its raw evidence in a folder of pieces.
    pub evidence: &'static str,
    /// The short names of its endorsements, which are also their files' without the ending.
    pub endorsements: &'static [&'static str],
    /// Whether these octets may be its raw evidence.
    pub is_evidence: fn(&[u8]) -> bool,
    /// The short name of the endorsement that this DER may be.
    pub endorsement: fn(&[u8]) -> Option<&'static str>,
    /// What several files of a folder together make, where no file alone is a piece.
    pub assemble: fn(&[SavedFile]) -> Option<Assembled>,
}

/// A file of a folder.
#[derive(Clone, Debug)]
pub struct SavedFile {
    /// Its name, without the folder.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What files have of devices beside a TEE.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Each device, read no further than to find it.
    pub members: Vec<Auxiliary>,
    /// What their verdict needs.
    pub endorsements: Vec<Endorsement>,
    /// The names of the files that were used.
    pub used: Vec<String>,
}

/// Evidence that was put together from several files.
#[derive(Clone, Debug, Default)]
pub struct Assembled {
    /// The evidence with its auxiliary members, if the folder has it.
    pub evidence: Option<Evidence>,
    /// Its endorsements.
    pub endorsements: Vec<Endorsement>,
    /// The names of the files that were used; the others are looked at one by one.
    pub used: Vec<String>,
}
