//! Where this machine's interfaces are, as it can be typed.

use std::path::PathBuf;

use crate::attester::{Places, snp, tpm, tsm};

/// Places that are not the usual ones.
#[derive(Debug, clap::Args)]
pub(super) struct Typed {
    /// Look below this folder in place of `/`: a machine's file systems, mounted into a container.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where the kernel's TSM reports are, when not in the usual place.
    #[arg(long, value_name = "DIR")]
    tsm_root: Option<PathBuf>,
    /// The TEE's guest device, when not in the usual place.
    #[arg(long, value_name = "FILE")]
    device: Option<PathBuf>,
    /// Where the TPM is, a device or a socket, when not in the usual place.
    #[arg(long, value_name = "FILE")]
    tpm: Option<PathBuf>,
}

impl Typed {
    /// The usual places with what was typed.
    pub(super) fn places(&self) -> Places {
        let usual = self.root.as_deref().map_or_else(Places::default, Places::below);
        let typed = [(&self.tsm_root, tsm::ROOT), (&self.device, snp::DEVICE), (&self.tpm, tpm::DEVICE)];
        typed.into_iter().filter_map(|(to, place)| Some((to.as_ref()?, place))).fold(usual, |places, (to, place)| places.moved(place, to))
    }
}
