//! The machine's clocks, the only place where a node reads them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::Clock;

/// Wall time and monotonic time of this machine.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn unix_nanos(&self) -> u64 {
        // A clock before 1970 is as good as the epoch: nothing of ours depends on wall time being right.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}
