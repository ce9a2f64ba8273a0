//! SEV-SNP reports: no panic, and what is read is written back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::evidence::snp::Report;

fuzz_target!(|data: &[u8]| {
    if let Ok(report) = Report::parse(data) {
        assert_eq!(report.encode(), data);
        let _ = report.signature_be();
    }
});
