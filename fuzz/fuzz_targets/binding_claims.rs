//! Binding claims: no panic, and what is read has one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::evidence::binding::BindingClaims;

fuzz_target!(|data: &[u8]| {
    if let Ok(claims) = BindingClaims::decode(data) {
        assert_eq!(claims.encode(), data);
    }
});
