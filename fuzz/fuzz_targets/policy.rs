//! Policy files: no panic, and every message lies inside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::diagnostic::{Source, render};
use portcullis::platform::PLATFORMS;
use portcullis::policy::AppraisalPolicy;

fuzz_target!(|data: &[u8]| {
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    if let (Err(problems), Ok(text)) = (AppraisalPolicy::load(data, &vocabularies), std::str::from_utf8(data)) {
        assert!(!problems.is_empty());
        let _ = render(&Source { name: "policy.json", text }, &problems);
    }
});
