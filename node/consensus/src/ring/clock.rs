//! The ring's time: wall time as stamped by whoever proposes, forced to never go backwards.

use shard::catalog::RingTime;

/// A step further than this is a jump. As long as objects are kept after their last use, so that a clock that is wrong by
/// less cannot delete anything too early.
pub const JUMP_NANOS: u64 = 3_600 * 1_000_000_000;

/// See the header of this file. The leader stamps at least one command per minute, so a calm clock never jumps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingClock {
    /// Nanoseconds since the Unix epoch; 0 before the first command.
    pub unix_nanos: u64,
    /// Where the last jump led to; `None` if there was none.
    pub jumped_to_unix_nanos: Option<u64>,
}

impl RingClock {
    /// Takes a stamp. An older one changes nothing: the proposer's clock is behind.
    pub(crate) fn advance(&mut self, stamp_unix_nanos: u64) {
        if stamp_unix_nanos <= self.unix_nanos {
            return;
        }
        let is_first = self.unix_nanos == 0;
        if !is_first && stamp_unix_nanos - self.unix_nanos > JUMP_NANOS {
            self.jumped_to_unix_nanos = Some(stamp_unix_nanos);
        }
        self.unix_nanos = stamp_unix_nanos;
    }

    /// An operator corrects it, in either direction. It must prove itself again.
    pub(crate) fn reset(&mut self, unix_nanos: u64) {
        *self = Self {
            unix_nanos,
            jumped_to_unix_nanos: Some(unix_nanos),
        };
    }

    /// Whether ages computed from it may be acted on.
    pub fn is_trusted(&self) -> bool {
        self.jumped_to_unix_nanos
            .is_none_or(|jump| self.unix_nanos.saturating_sub(jump) >= JUMP_NANOS)
    }

    /// As the catalog wants it.
    pub fn now(&self) -> RingTime {
        RingTime {
            unix_nanos: self.unix_nanos,
            is_trusted: self.is_trusted(),
        }
    }
}
