//! The session that a catalogue's evidence is made for: always the same one.

use portcullis::evidence::batch::Proof;
use portcullis::evidence::binding::{Binding, BindingClaims, Channel, Kind, Role, digests};
use portcullis::evidence::{Auxiliary, KeyDigest};

/// Its claims, which list these members, and what they bind.
pub(crate) fn binding(members: &[Auxiliary]) -> (Vec<u8>, Binding) {
    let (key, hello) = (KeyDigest([0x11; 48]), [0x22; 48]);
    let claims = BindingClaims { kind: Kind::Session { hello }, spki: key, instance: vec![0x33; 16], aux: digests(members), epoch: None, hpke: None }.encode();
    let channel = Channel {
        role: Role::Server,
        exporter: &[0xee; 32],
        nonce_peer: &[1; 32],
        nonce_self: &[2; 32],
        key_self: &key,
        key_peer: None,
        alpn: b"portcullis1/raw",
    };
    let binding = Binding::of_session(&claims, &channel, &hello, &Proof { index: 0, size: 1, path: Vec::new() }).expect("a binding");
    (claims, binding)
}
