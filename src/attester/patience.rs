//! Asking again while the kernel or the host is busy, for as long as patience lasts.

use std::time::{Duration, Instant};

/// The pause before the second try; it doubles with each further one, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);

/// What `attempt` gives, tried again after a transient failure. Blocks.
///
/// # Errors
/// The first failure that is not transient, or the last one when `patience` is over.
pub(super) fn patiently<T, F>(patience: Duration, mut attempt: impl FnMut() -> Result<T, F>, transient: impl Fn(&F) -> bool) -> Result<T, F> {
    let deadline = Instant::now() + patience;
    let mut pause = FIRST;
    loop {
        match attempt() {
            Err(failure) if transient(&failure) && Instant::now() + pause < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST);
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again_and_not_for_ever() {
        let busy = |times: u32, transient: bool| {
            let mut tries = 0;
            let outcome = patiently(
                Duration::from_millis(40),
                || {
                    tries += 1;
                    if tries > times { Ok(tries) } else { Err("busy") }
                },
                |_| transient,
            );
            (outcome, tries)
        };
        assert_eq!(busy(0, true), (Ok(1), 1));
        assert_eq!(busy(2, true), (Ok(3), 3));
        assert_eq!(busy(2, false), (Err("busy"), 1));
        let (outcome, tries) = busy(u32::MAX, true);
        assert!(outcome == Err("busy") && (2..=4).contains(&tries), "{tries} tries in 40 ms");
    }
}
