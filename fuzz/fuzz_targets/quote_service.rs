#![no_main]

#[allow(dead_code, reason = "a target feeds one parser of the table")]
#[path = "../../tests/support/parsers.rs"]
mod parsers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    parsers::quote_service(data);
});
