//! What the policy keys of Arm's tokens (CCA, PSA) share.

use crate::evidence::arm::LIFECYCLES;
use crate::policy::Rule;

/// The key that lets lifecycle states in which a device can be debugged, or is not yet what it will be.
pub(super) const UNSECURED: &str = "insecure_allow_unsecured";

/// The lifecycle states: `secured`, unless others are named and let.
pub(super) const LIFECYCLE: Rule = Rule::Words {
    claim: "lifecycle_state",
    known: LIFECYCLES,
    default: &["secured"],
    guarded: &[
        ("assembly-and-test", UNSECURED),
        ("decommissioned", UNSECURED),
        ("non-rot-debug", UNSECURED),
        ("recoverable-rot-debug", UNSECURED),
        ("rot-provisioning", UNSECURED),
        ("undefined", UNSECURED),
        ("unknown", UNSECURED),
    ],
    needs: &[],
    optional: false,
};
