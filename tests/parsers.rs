//! Every parser against a bounded number of deterministic mutations of what it accepts: none panics, none asks for more
//! memory than a small multiple of its input. The fuzz targets search further with the same entries.

#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/parsers.rs"]
mod parsers;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::catch_unwind;

use parsers::PARSERS;

/// How many mutants of each seed are tried.
const MUTANTS: u64 = 2_000;

/// A parser may not ask for a block larger than this many times its input, or than the floor.
const BLOCK_FACTOR: usize = 64;
const BLOCK_FLOOR: usize = 256 * 1024;

#[global_allocator]
static WATCHED: Watched = Watched;

thread_local! {
    /// The largest block that this thread asked for since it was last reset.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with the largest block kept in [`LARGEST`].
struct Watched;

impl Watched {
    fn note(size: usize) {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
    }
}

#[allow(unsafe_code, reason = "an allocator is an unsafe trait; every call goes to the system's unchanged")]
// SAFETY: each method hands its arguments to `System` unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System` with this `layout`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(size);
        // SAFETY: as for `dealloc`; `size` is the caller's.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[test]
fn no_parser_panics_or_allocates_beyond_its_input() {
    for parser in PARSERS {
        let seeds = (parser.seeds)();
        assert!(!seeds.is_empty(), "{}: no seeds", parser.name);
        let mut accepted = 0_u64;
        for (at, seed) in seeds.iter().enumerate() {
            assert!((parser.feed)(seed), "{}: its seed {at} is refused", parser.name);
            let mut random = Random::new(at as u64 + 1);
            for round in 0..MUTANTS {
                let mutant = mutate(seed, &seeds, &mut random);
                LARGEST.set(0);
                let outcome = catch_unwind(|| (parser.feed)(&mutant));
                let largest = LARGEST.get();
                let told = || format!("{}: seed {at}, round {round}: {}", parser.name, data_encoding::HEXLOWER.encode(&mutant));
                accepted += u64::from(outcome.unwrap_or_else(|_| panic!("panicked: {}", told())));
                assert!(largest <= BLOCK_FLOOR.max(BLOCK_FACTOR * mutant.len()), "asked for {largest} octets: {}", told());
            }
        }
        println!("{}: {} seeds, {} mutants, {accepted} of them accepted", parser.name, seeds.len(), seeds.len() as u64 * MUTANTS);
    }
}

#[test]
fn every_parser_has_its_fuzz_target() {
    let targets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    for parser in PARSERS {
        let text = std::fs::read_to_string(targets.join(parser.name).with_extension("rs")).unwrap_or_else(|error| panic!("{}: {error}", parser.name));
        assert!(text.contains(&format!("parsers::{}(", parser.name)), "{}: the target feeds another parser", parser.name);
    }
    let files = std::fs::read_dir(&targets).expect("the targets").count();
    assert_eq!(files, PARSERS.len(), "a fuzz target without its parser in tests/support/parsers.rs");
}

/// Writes the seeds where the fuzz targets look for them.
#[test]
#[ignore = "writes fuzz/corpus; fuzz/run runs it"]
fn write_the_seed_corpus() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for parser in PARSERS {
        let folder = corpus.join(parser.name);
        std::fs::create_dir_all(&folder).expect("a folder for the corpus");
        for (at, seed) in (parser.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{at}")), seed).expect("a seed on disk");
        }
    }
}

/// One to four changes of the kinds that break parsers: bits, magic numbers, lengths, cuts, repeats, foreign parts.
fn mutate(seed: &[u8], seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.magic()),
            2 => bytes.insert(at, random.magic()),
            3 => drop(bytes.drain(at..(at + 1 + random.below(4)).min(bytes.len()))),
            4 => bytes.truncate(at),
            5 => {
                let part = bytes[at..(at + random.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let part = other[from..(from + random.below(64)).min(other.len())].to_vec();
                let end = (at + part.len()).min(bytes.len());
                bytes.splice(at..end, part);
            }
            _ => {
                let length = random.next().to_be_bytes();
                bytes.iter_mut().skip(at).zip(length).take(1 + random.below(8)).for_each(|(byte, new)| *byte = new);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

/// xorshift64*: small, seeded, the same on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn magic(&mut self) -> u8 {
        let values = [0, 1, 0x1f, 0x20, 0x5f, 0x7f, 0x80, 0x9f, 0xbf, 0xff, b'"', b'{', b'[', b'\\', b'\n', self.next() as u8];
        values[self.below(values.len())]
    }
}
