//! Time, handed in. `server` gives the system's clock, simulations give their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The two clocks a node may look at.
///
/// Safety never depends on either: elections and leases use [`Clock::monotonic`], names and retention use
/// [`Clock::unix_nanos`], and retention distrusts even that.
pub trait Clock: Send + Sync + 'static {
    /// Wall time in nanoseconds since the Unix epoch. May jump in both directions.
    fn unix_nanos(&self) -> u64;
    /// Time since an arbitrary start. Never goes backwards.
    fn monotonic(&self) -> Duration;
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    unix_nanos: AtomicU64,
    monotonic_nanos: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `unix_nanos` until it is moved.
    pub fn at(unix_nanos: u64) -> Self {
        Self {
            unix_nanos: AtomicU64::new(unix_nanos),
            monotonic_nanos: AtomicU64::new(0),
        }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.unix_nanos.fetch_add(nanos, Ordering::SeqCst);
        self.monotonic_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Moves the wall clock alone, as an administrator or a bad time server would.
    pub fn jump_to(&self, unix_nanos: u64) {
        self.unix_nanos.store(unix_nanos, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_nanos(&self) -> u64 {
        self.unix_nanos.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_nanos.load(Ordering::SeqCst))
    }
}
