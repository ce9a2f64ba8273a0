//! Leaf certificates and the evidence in them: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::evidence::Timestamp;
use portcullis::evidence::binding::{AgeRule, Binding};
use portcullis::evidence::leaf;

fuzz_target!(|data: &[u8]| {
    if let Ok((leaf, evidence)) = leaf::read(data) {
        let rule = AgeRule { max_age: 3600, max_lifetime: 86_400, skew: 120 };
        let _ = Binding::of_certificate(&evidence.bind, leaf.facts(), rule, Timestamp(1_790_812_800));
    }
});
