//! The CMW collection: no panic, and what is read has one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::evidence::cmw::Collection;

fuzz_target!(|data: &[u8]| {
    if let Ok(collection) = Collection::decode(data) {
        // Members of an unknown order of equal labels cannot occur, so writing gives the same octets.
        assert_eq!(collection.encode(), data);
    }
});
