//! Stage 1 of SEV-SNP over a hostile report, certificates and revocation list: no panic, and nothing is accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::evidence::snp::{MEDIA_TYPE, REPORT_SIZE};
use portcullis::evidence::{Endorsement, Endorsements, Evidence, Timestamp};
use portcullis::platform;
use portcullis::policy::AppraisalPolicy;
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Appraiser, TrustAnchors};

// The report, then endorsements, each behind an octet for its name and two for its length.
fuzz_target!(|data: &[u8]| {
    let (report, mut rest) = data.split_at(data.len().min(REPORT_SIZE));
    let mut endorsements = Endorsements::default();
    while let [name, high, low, tail @ ..] = rest {
        let name = ["vcek", "vlek", "ask", "asvk", "ark", "crl"][usize::from(*name) % 6].to_owned();
        let (bytes, tail) = tail.split_at(tail.len().min(usize::from(*high) << 8 | usize::from(*low)));
        endorsements.push(Endorsement { name, media_type: "application/pkix-cert".to_owned(), bytes: bytes.to_vec() });
        rest = tail;
    }
    let Some(snp) = platform::by_name("sev-snp") else { return };
    let evidence = Evidence { media_type: MEDIA_TYPE.to_owned(), bytes: report.to_vec() };
    let _ = snp.verifier.read(&evidence, &endorsements);
    let _ = snp.verifier.needs(&evidence);
    let appraiser = Appraiser { policy: AppraisalPolicy::genuine(&[snp.verifier.vocabulary()]), anchors: TrustAnchors::vendor() };
    let now = Timestamp(1_764_547_200);
    assert!(appraiser.examine(snp.verifier, &evidence, &endorsements, &NoMemo, now).is_err());
});
