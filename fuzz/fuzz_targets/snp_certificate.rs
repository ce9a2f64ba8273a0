//! VEK certificates: no panic, no long reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::evidence::snp::Vek;

fuzz_target!(|data: &[u8]| {
    let _ = Vek::parse(data);
});
