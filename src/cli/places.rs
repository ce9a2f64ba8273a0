//! Where this machine's interfaces are, as it can be typed.

use std::path::PathBuf;

use crate::attester::{Places, tpm, tsm};
use crate::platform::PLATFORMS;

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
        // Only the TEE that this machine has will know the device for its own.
        let devices = PLATFORMS.iter().filter_map(|platform| platform.provider.device()).map(|place| (&self.device, place));
        let typed = [(&self.tsm_root, tsm::ROOT), (&self.tpm, tpm::DEVICE)].into_iter().chain(devices);
        typed.filter_map(|(to, place)| Some((to.as_ref()?, place))).fold(usual, |places, (to, place)| places.moved(place, to))
    }
}
