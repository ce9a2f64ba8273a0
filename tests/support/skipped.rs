//! Cases that a test could not run, said aloud: on its output, and for `tests/run`, which sums them up, in the file that
//! `PORTCULLIS_SKIPPED` names, because the output of a test that passes is shown to nobody.

use std::io::Write as _;

/// Says that `count` cases did not run.
pub(crate) fn cases(count: usize, why: &str) {
    println!("SKIPPED: {count} {}: {why}", if count == 1 { "case" } else { "cases" });
    if let Some(path) = std::env::var_os("PORTCULLIS_SKIPPED").filter(|_| count > 0) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        // One write, so that lines of tests that run at once do not mix.
        file.and_then(|mut file| file.write_all(format!("{count}\t{why}\n").as_bytes())).expect("the list of skipped cases can be written");
    }
}
