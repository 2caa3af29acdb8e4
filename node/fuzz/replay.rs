//! Replays a fuzzer's corpus in a plain test and mutates it a little, so that what was once found stays found and a parser
//! that breaks is noticed without a fuzzer. Each crate's corpus test includes this file.
//!
//! The corpus of a target lies in `fuzz/corpus/<target>` of the crate. Mutations are the same in every run.
//! `WRITE_TESTDATA=1` writes the first seeds where a target has none; `FUZZ_ROUNDS=100000` looks longer.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Inputs do not grow beyond this.
const BYTES_MAX: usize = 256 << 10;

/// Feeds `parse` the corpus of `target`, then `rounds` mutations of it. `parse` panics on a bug only.
pub(crate) fn replay(target: &str, parse: fn(&[u8]), rounds: u32, seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    if std::env::var_os("WRITE_TESTDATA").is_some() && !folder.exists() {
        fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
    }
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has a corpus");
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for (file, bytes) in files.iter().zip(&corpus) {
        check(target, parse, bytes, &file.display().to_string());
    }
    let rounds = std::env::var("FUZZ_ROUNDS").map_or(rounds, |text| text.parse().unwrap());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..rounds {
        let bytes = mutate(&mut random, &corpus);
        check(target, parse, &bytes, &format!("mutation {round}"));
    }
}

/// Keeps the input of a panic, then lets it go on.
fn check(target: &str, parse: fn(&[u8]), bytes: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| parse(bytes))) {
        let kept = std::env::temp_dir().join(format!("{target}-{}", what.rsplit('/').next().unwrap_or("input")));
        let kept = kept.display().to_string().replace(' ', "-");
        fs::write(&kept, bytes).unwrap();
        eprintln!("{target}: {what} of {} bytes, kept as {kept}", bytes.len());
        resume_unwind(panic);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % end.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 12] = [0, 1, 2, 8, 0x0a, 0x20, 0x22, 0x7f, 0x80, 0xfe, 0xff, b'\\'];
        match self.below(2) {
            0 => TELLING[self.below(TELLING.len())],
            _ => self.below(256) as u8,
        }
    }

    /// A range of at most `most` bytes in `length`.
    fn range(&mut self, length: usize, most: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = most.min(length - start);
        start..start + self.below(most + 1)
    }
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 | 2 if !bytes.is_empty() => bytes[at] = random.byte(),
            3 => {
                let new: Vec<u8> = (0..=random.below(8)).map(|_| random.byte()).collect();
                bytes.splice(at..at, new);
            }
            4 => {
                let gone = random.range(bytes.len(), 32);
                bytes.drain(gone);
            }
            5 => {
                let copied = random.range(bytes.len(), 64);
                let copy = bytes[copied].to_vec();
                bytes.splice(at..at, copy);
            }
            6 if random.below(4) == 0 => bytes.truncate(at),
            7 => {
                let other = &corpus[random.below(corpus.len())];
                let range = random.range(other.len(), 256);
                bytes.splice(at..at, other[range].to_vec());
            }
            _ => {}
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}
