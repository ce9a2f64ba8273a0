//! HTTP/2 frames that cost a server more than their sender, counted against budgets.
//!
//! hyper and h2 bound memory (streams, header lists, pending resets); this bounds how much of their time one connection
//! may take with frames that carry nothing: CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-27983 and their like.

use std::time::{Duration, Instant};

/// What a connection did too often.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::proxy) enum Abuse {
    Continuation,
    EmptyData,
    Ping,
    Priority,
    RapidReset,
    Settings,
    Unknown,
    WindowUpdate,
}

impl Abuse {
    /// For the log and the metric label.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Continuation => "continuation_flood",
            Self::EmptyData => "empty_data_flood",
            Self::Ping => "ping_flood",
            Self::Priority => "priority_flood",
            Self::RapidReset => "rapid_reset",
            Self::Settings => "settings_flood",
            Self::Unknown => "unknown_frame_flood",
            Self::WindowUpdate => "window_update_flood",
        }
    }

    /// How many frames of the kind a connection may send in one [`PERIOD`]. An honest client sends a few PINGs and one
    /// or two SETTINGS; a busy one resets what its users abandon, and updates windows for what it reads.
    const fn budget(self) -> u32 {
        match self {
            Self::Continuation => 64,
            Self::EmptyData | Self::Unknown => 200,
            Self::Ping => 500,
            Self::Priority => 1000,
            Self::RapidReset => 1000,
            Self::Settings => 50,
            Self::WindowUpdate => 200_000,
        }
    }
}

/// How many resets a session of connections may send in one [`PERIOD`]: applications end connections so, health checks
/// of balancers all of theirs. Those that are reset before they are answered are counted elsewhere.
const CONNECTION_RESETS: u32 = 20_000;

const PERIOD: Duration = Duration::from_secs(10);
const HEADER: usize = 9;
const KINDS: usize = 8;

/// Follows the frames that a client sends.
#[derive(Debug)]
pub(super) struct Frames {
    preface: usize,
    header: [u8; HEADER],
    have: usize,
    skip: u32,
    counts: [u32; KINDS],
    since: Option<Instant>,
    resets: u32,
    /// Frames that were not yet told of.
    seen: u32,
}

impl Frames {
    pub(super) const fn new() -> Self {
        let (preface, resets) = (super::wire::PREFACE.len(), Abuse::RapidReset.budget());
        Self { preface, header: [0; HEADER], have: 0, skip: 0, counts: [0; KINDS], since: None, resets, seen: 0 }
    }

    /// Of streams that are connections.
    pub(super) const fn of_connections() -> Self {
        Self { resets: CONNECTION_RESETS, ..Self::new() }
    }

    /// How many frames came since this was asked.
    pub(super) const fn seen(&mut self) -> u32 {
        std::mem::replace(&mut self.seen, 0)
    }

    /// Follows `octets`, which came at `now`.
    ///
    /// # Errors
    /// What was done too often; the connection is to be closed.
    pub(super) fn follow(&mut self, mut octets: &[u8], now: Instant) -> Result<(), Abuse> {
        while !octets.is_empty() {
            octets = self.pass(octets);
            let Some((octet, rest)) = octets.split_first() else { return Ok(()) };
            octets = rest;
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *octet;
            }
            self.have += 1;
            if self.have == HEADER {
                self.have = 0;
                self.frame(now)?;
            }
        }
        Ok(())
    }

    /// Skips the preface and payloads.
    fn pass<'a>(&mut self, octets: &'a [u8]) -> &'a [u8] {
        let preface = self.preface.min(octets.len());
        self.preface -= preface;
        let octets = octets.get(preface..).unwrap_or_default();
        let payload = usize::try_from(self.skip).unwrap_or(usize::MAX).min(octets.len());
        self.skip = self.skip.saturating_sub(u32::try_from(payload).unwrap_or(u32::MAX));
        octets.get(payload..).unwrap_or_default()
    }

    fn frame(&mut self, now: Instant) -> Result<(), Abuse> {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = length;
        self.seen = self.seen.saturating_add(1);
        let abuse = match kind {
            // END_STREAM on an empty frame ends a body: that happens once a stream.
            0 if length == 0 && flags & 1 == 0 => Abuse::EmptyData,
            0 | 1 => return Ok(()),
            2 => Abuse::Priority,
            3 => Abuse::RapidReset,
            4 => Abuse::Settings,
            6 => Abuse::Ping,
            8 => Abuse::WindowUpdate,
            9 => Abuse::Continuation,
            _ => Abuse::Unknown,
        };
        if self.since.is_none_or(|since| now.saturating_duration_since(since) > PERIOD) {
            self.since = Some(now);
            self.counts = [0; KINDS];
        }
        let Some(count) = self.counts.get_mut(abuse as usize) else { return Ok(()) };
        *count = count.saturating_add(1);
        let budget = if abuse == Abuse::RapidReset { self.resets } else { abuse.budget() };
        if *count > budget { Err(abuse) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.extend(std::iter::repeat_n(7, length.into()));
        frame
    }

    /// Sends the same frame until it is refused.
    fn flood(frame: &[u8], most: u32) -> Option<(u32, Abuse)> {
        let (mut frames, now) = (Frames::new(), Instant::now());
        frames.follow(super::super::wire::PREFACE, now).expect("a preface");
        (1..=most).find_map(|count| frames.follow(frame, now).err().map(|abuse| (count, abuse)))
    }

    #[test]
    fn floods_of_each_kind_end_at_their_budget() {
        for (kind, length, abuse) in [
            (9, 20, Abuse::Continuation),
            (0, 0, Abuse::EmptyData),
            (6, 8, Abuse::Ping),
            (2, 5, Abuse::Priority),
            (3, 4, Abuse::RapidReset),
            (4, 0, Abuse::Settings),
            (99, 3, Abuse::Unknown),
            (8, 4, Abuse::WindowUpdate),
        ] {
            assert_eq!(flood(&frame(kind, 0, length), 300_000), Some((abuse.budget() + 1, abuse)));
        }
        // What carries something is counted by nobody.
        assert_eq!(flood(&frame(0, 0, 200), 300_000), None);
        assert_eq!(flood(&frame(1, 4, 200), 300_000), None);
        assert_eq!(flood(&frame(0, 1, 0), 300_000), None);
    }

    #[test]
    fn budgets_are_for_a_period_and_reads_may_cut_anywhere() {
        let (mut frames, mut now) = (Frames::new(), Instant::now());
        frames.follow(super::super::wire::PREFACE, now).expect("a preface");
        for _ in 0..20 {
            let pings: Vec<u8> = (0..Abuse::Ping.budget()).flat_map(|_| frame(6, 0, 8)).collect();
            for piece in pings.chunks(7) {
                frames.follow(piece, now).expect("within the budget");
            }
            now += PERIOD * 2;
        }
    }
}
