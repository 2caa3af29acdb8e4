//! Where randomness comes from in a simulation: the seed, for everything in the process.
//!
//! Keys of hash maps, the choices of `select!`, openraft's election timeouts and our own ids all begin at the C library's
//! `getrandom`. It is replaced in this binary by numbers that follow from the seed, so no code has to be told. What is drawn
//! depends on how often was drawn before, and that is the same in every run because only one thread runs at a time
//! ([`crate::host`]).

use std::sync::atomic::{AtomicU64, Ordering};

static SEED: AtomicU64 = AtomicU64::new(0);
static DRAWN: AtomicU64 = AtomicU64::new(0);

/// From now on everything random follows from `seed`. Called once, first.
pub(crate) fn seed(seed: u64) {
    SEED.store(mix(seed), Ordering::SeqCst);
    DRAWN.store(0, Ordering::SeqCst);
}

/// How often was drawn: part of what two runs must have in common.
pub(crate) fn drawn() -> u64 {
    DRAWN.load(Ordering::SeqCst)
}

/// A bijection that leaves no pattern (SplitMix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The C library's `getrandom`, as std, tokio and rand call it.
#[expect(
    unsafe_code,
    reason = "the one function that everything random in the process comes from"
)]
mod replaced {
    use super::{DRAWN, Ordering, SEED, mix};

    /// # Safety
    /// `buffer` points to `length` bytes that may be written, as for the function of the same name in the C library.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
        let base = SEED.load(Ordering::SeqCst);
        for at in 0..length {
            if at % 8 == 0 {
                DRAWN.fetch_add(1, Ordering::SeqCst);
            }
            let word = mix(base ^ DRAWN.load(Ordering::SeqCst).wrapping_mul(0xa076_1d64_78bd_642f));
            // SAFETY: `at` is below `length`, and the caller owns that many bytes at `buffer`.
            unsafe { *buffer.add(at) = word.to_le_bytes()[at % 8] };
        }
        isize::try_from(length).unwrap_or(isize::MAX)
    }
}

/// Numbers for the simulation itself: what happens when, and to whom.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice of one purpose; another `purpose` gives others, so that a change of one story leaves the rest as it was.
    pub(crate) fn of(seed: u64, purpose: &str) -> Self {
        Self(mix(seed ^ twox_hash::XxHash3_64::oneshot(purpose.as_bytes())))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// Below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// From `from` up to and including `to`.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True in `parts` of a thousand cases.
    pub(crate) fn per_mille(&mut self, parts: u64) -> bool {
        self.below(1000) < parts
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        let at = self.below(from.len() as u64);
        from.get(usize::try_from(at).unwrap_or(0)).copied()
    }
}
