//! Devices whose keys an operator lists: there is no root of all, so the policy's own keys are the anchors.

use super::chain::untrusted;
use super::roots::{Anchor, Origin};
use super::{Grounds, Timestamp};
use crate::evidence::cose::Sign1;
use crate::evidence::spki::EllipticKey;
use crate::refusal::{Denied, Finding, Reason};

/// Until when a verdict holds that nothing in the evidence bounds: the last moment that certificates can tell. What the
/// operator takes off the list is refused from then on.
pub(super) const UNBOUNDED: Timestamp = Timestamp(253_402_300_799);

/// Proves that a token is signed by a key that is listed under the first of `names` that any is listed under: the most exact
/// stands first, and whoever has the key of a family does not speak for a device with a key of its own.
pub(super) fn signed(what: &'static str, platform: &'static str, names: &[String], sign1: &Sign1<'_>, grounds: &Grounds<'_>) -> Result<Origin, Denied> {
    let mut refused = None;
    let listed = names.iter().find(|name| grounds.anchors.of(platform, name).next().is_some());
    for anchor in listed.into_iter().flat_map(|name| grounds.anchors.of(platform, name)) {
        match one(what, anchor, sign1) {
            Ok(()) => return Ok(anchor.origin),
            Err(denied) => refused = Some(denied),
        }
    }
    let wanted = names.first().cloned().unwrap_or_default();
    Err(refused.unwrap_or_else(|| {
        let fix = format!("if the device is yours, add to the policy's keys: {{ \"tee\": \"{platform}\", \"name\": \"{wanted}\", \"key\": \"<PEM>\" }}");
        Finding::new(Reason::ChainUntrusted, "policy.keys", "a key for this device", "none").fix(fix).into()
    }))
}

fn one(what: &'static str, anchor: &Anchor, sign1: &Sign1<'_>) -> Result<(), Denied> {
    match EllipticKey::of_spki(&anchor.spki) {
        Some(key) => sign1.verifies(what, &key),
        None => untrusted("policy.keys", "an elliptic key with its point on its curve", "another key"),
    }
}
