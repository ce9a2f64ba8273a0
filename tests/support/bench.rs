//! A relying party's view of forged evidence, for the catalogues of platforms: a session, a policy, a verdict.

use std::collections::BTreeMap;

use portcullis::attester::Quote;
use portcullis::evidence::batch::Proof;
use portcullis::evidence::binding::{Binding, BindingClaims, Channel, Kind, Role};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::{Endorsements, KeyDigest, Timestamp};
use portcullis::platform;
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::Appraiser;
use portcullis::verify::memo::NoMemo;

/// 2026-12-01T00:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp(1_796_083_200);

/// An appraiser for one entry of `tee` with these keys, under further keys of the policy.
pub(crate) fn appraiser(tee: &str, entry: &str, policy: &str) -> Appraiser {
    let text = format!(r#"{{ "version": 1, "name": "catalogue"{policy}, "accept": [ {{ "id": "fixture", "tee": "{tee}"{entry} }} ] }}"#);
    let policy = match AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()) {
        Ok((policy, _)) => policy,
        Err(problems) => panic!("{problems:?}\n{text}"),
    };
    Appraiser { anchors: platform::anchors(&policy), policy }
}

/// The session that evidence is made for.
pub(crate) fn session() -> (Vec<u8>, Binding) {
    let key = KeyDigest([0x11; 48]);
    let kind = Kind::Session { hello: [0x22; 48] };
    let claims = BindingClaims { kind, spki: key, instance: vec![0x33; 16], aux: BTreeMap::new(), epoch: None, hpke: None }.encode();
    let (exporter, nonce_peer, nonce_self) = (&[0xee; 32], &[1; 32], &[2; 32]);
    let channel = Channel { role: Role::Server, exporter, nonce_peer, nonce_self, key_self: &key, key_peer: None, alpn: b"portcullis1/raw" };
    let binding = Binding::of_session(&claims, &channel, &[0x22; 48], &Proof { index: 0, size: 1, path: Vec::new() }).expect("a binding");
    (claims, binding)
}

/// The verdict on evidence presented in [`session`], and the reason of the same evidence examined as a file.
pub(crate) fn verdicts(tee: &str, quote: Quote, appraiser: &Appraiser) -> (Result<(), Denied>, Result<(), Reason>) {
    let verifier = platform::by_name(tee).expect("the platform").verifier;
    let (bind, binding) = session();
    let examined = appraiser.examine(verifier, &quote.evidence, &quote.endorsements, &NoMemo, NOW);
    let endorsements: Endorsements = quote.endorsements.into_iter().collect();
    let presented = Collection { tee: quote.evidence, bind, endorsements };
    let judged = appraiser.judge(verifier, &presented, &binding, &NoMemo, NOW);
    (judged.map(drop), examined.map(drop).map_err(|denied| denied.reason()))
}

/// Asserts that a fixture passes and that what it becomes is refused with `expect`, from a session as from a file.
pub(crate) fn refused(tee: &str, name: &str, good: Result<(), Denied>, (judged, examined): (Result<(), Denied>, Result<(), Reason>), expect: Reason) {
    assert!(good.is_ok(), "{tee} {name}: the fixture is refused: {good:?}");
    let denied = judged.expect_err(name);
    assert_eq!(denied.reason(), expect, "{tee} {name}: {denied}");
    if expect != Reason::BindingMismatch {
        assert_eq!(examined, Err(expect), "{tee} {name}: examined as a file");
    }
    for finding in denied.findings() {
        assert!(!finding.field.is_empty() && !finding.expected.is_empty() && !finding.found.is_empty() && !finding.advice().is_empty(), "{name}: {finding}");
    }
}
