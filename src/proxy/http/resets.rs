//! A stream of HTTP/2 that was broken off is not one that ended.
//!
//! hyper reads RST_STREAM with CANCEL or NO_ERROR as the end of the bytes of an upgraded stream: what was cut would be passed on
//! as complete. Before hyper sees them, these two codes become another, unless the stream had come to its end (RFC 9113
//! 8.1: then it says that nothing more is wanted).
//!
//! The other way is not to be had: an upgraded stream that is dropped is ended by hyper with END_STREAM before it is reset, and
//! there is no call to reset it. Two sidecars that speak HTTP/2 pass a broken WebSocket on as one that ended; its own closing
//! handshake (RFC 6455 7.1.5) tells them apart. `proxy/tunnel`, which is h2 without hyper, resets.

/// Follows the frames of one side.
#[derive(Debug)]
pub(super) struct Resets {
    preface: usize,
    header: [u8; HEADER],
    have: usize,
    /// Octets of the payload that are to come.
    left: usize,
    /// Whether they are the code of a stream that had not ended, and all zero so far.
    code: bool,
    /// Streams that ended lately.
    ended: [u32; LATELY],
    next: usize,
}

const HEADER: usize = 9;

/// A reset that is no accident comes right behind the end.
const LATELY: usize = 64;

const NO_ERROR: u8 = 0;
const INTERNAL_ERROR: u8 = 2;
const CANCEL: u8 = 8;

impl Resets {
    /// What comes behind a preface of this length.
    pub(super) const fn behind(preface: usize) -> Self {
        Self { preface, header: [0; HEADER], have: 0, left: 0, code: false, ended: [0; LATELY], next: 0 }
    }

    /// Follows `octets`, and changes the codes.
    pub(super) fn follow(&mut self, mut octets: &mut [u8]) {
        while !octets.is_empty() {
            let skip = if self.preface > 0 { &mut self.preface } else { &mut self.left };
            if *skip > 0 && !self.code {
                let count = (*skip).min(octets.len());
                *skip -= count;
                octets = octets.split_at_mut(count).1;
                continue;
            }
            let Some((octet, rest)) = octets.split_first_mut() else { return };
            if self.left > 0 {
                self.left -= 1;
                if self.left == 0 {
                    self.code = false;
                    if matches!(*octet, NO_ERROR | CANCEL) {
                        *octet = INTERNAL_ERROR;
                    }
                } else {
                    self.code = *octet == 0;
                }
            } else {
                if let Some(place) = self.header.get_mut(self.have) {
                    *place = *octet;
                }
                self.have += 1;
                if self.have == HEADER {
                    self.frame();
                }
            }
            octets = rest;
        }
    }

    fn frame(&mut self) {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.have = 0;
        self.left = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        // DATA or HEADERS with END_STREAM.
        if matches!(kind, 0 | 1) && flags & 1 == 1 {
            if let Some(place) = self.ended.get_mut(self.next) {
                *place = stream;
            }
            self.next = (self.next + 1) % LATELY;
        }
        self.code = kind == 3 && self.left == 4 && !self.ended.contains(&stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn codes_that_look_like_an_end_become_others_where_there_was_none() {
        let reset = |stream: u32, code: u32| frame(3, 0, stream, &code.to_be_bytes());
        let data = |end: u8, stream: u32| frame(0, end, stream, &reset(7, 8));
        let (preface, settings) = (super::super::wire::PREFACE.to_vec(), frame(4, 0, 0, &[]));
        // Streams 3 and 5 have ended, 7 is named within data alone.
        let begin = [preface, settings, data(0, 1), data(1, 3), frame(1, 5, 5, &[0x82])].concat();
        let cases = [(1, 8, 2), (1, 0, 2), (1, 7, 7), (3, 8, 8), (5, 0, 0), (7, 8, 2), (9, 0x0100_0008, 0x0100_0008), (9, 0x0800, 0x0800)];
        let came: Vec<u8> = [begin.clone(), cases.iter().flat_map(|(stream, code, _)| reset(*stream, *code)).collect(), data(0, 9)].concat();
        let passed: Vec<u8> = [begin, cases.iter().flat_map(|(stream, _, code)| reset(*stream, *code)).collect(), data(0, 9)].concat();
        for cut in 1..40 {
            let (mut resets, mut octets) = (Resets::behind(super::super::wire::PREFACE.len()), came.clone());
            octets.chunks_mut(cut).for_each(|piece| resets.follow(piece));
            assert!(octets == passed, "in pieces of {cut}");
        }
        // What is no code by its length is left to h2, which refuses it.
        let mut wrong = [frame(3, 0, 1, &[0, 0, 0, 8, 8]), frame(3, 0, 1, &[8]), reset(1, 8)].concat();
        Resets::behind(0).follow(&mut wrong);
        assert_eq!(wrong, [frame(3, 0, 1, &[0, 0, 0, 8, 8]), frame(3, 0, 1, &[8]), reset(1, 2)].concat());
    }
}
