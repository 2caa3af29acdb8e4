//! What all machines of a run share: the time, and the record of what happened.
//!
//! Owns [`World`]. Its [`World::fingerprint`] is what two runs of one seed must agree on: every message between machines,
//! every write of a log, every object, every line that a node logs, every answer, in order and with its time.

use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use model::Clock;
use parking_lot::Mutex;
use twox_hash::XxHash3_64;

/// When the simulated world begins.
const START_UNIX_MILLIS: u64 = 1_767_225_600_000;

/// See the module's documentation.
pub(crate) struct World {
    now_millis: AtomicU64,
    record: Mutex<Record>,
    verbosity: u8,
}

struct Record {
    hash: XxHash3_64,
    events: u64,
    /// The first thing that must never happen.
    broken: Option<String>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn new(verbosity: u8) -> Arc<Self> {
        let record = Record {
            hash: XxHash3_64::new(),
            events: 0,
            broken: None,
        };
        Arc::new(Self {
            now_millis: AtomicU64::new(0),
            record: Mutex::new(record),
            verbosity,
        })
    }

    /// Since the beginning.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_millis(self.now_millis.load(Ordering::Relaxed))
    }

    pub(crate) fn now_millis(&self) -> u64 {
        self.now_millis.load(Ordering::Relaxed)
    }

    pub(crate) fn tick(&self) {
        self.now_millis.fetch_add(1, Ordering::Relaxed);
    }

    /// Wall time of a clock that is right.
    pub(crate) fn unix_nanos(&self) -> u64 {
        (START_UNIX_MILLIS + self.now_millis()) * 1_000_000
    }

    /// Something happened that is too frequent to be read.
    pub(crate) fn count(&self, what: u8, a: u64, b: u64) {
        let mut record = self.record.lock();
        record.hash.write_u64(self.now_millis());
        record.hash.write_u8(what);
        record.hash.write_u64(a);
        record.hash.write_u64(b);
        record.events += 1;
        if self.verbosity > 1 {
            println!(
                "{:6} {} {a} {b} {}",
                self.now_millis(),
                char::from(what),
                crate::entropy::drawn()
            );
        }
    }

    /// Something happened.
    pub(crate) fn note(&self, who: &str, what: &str) {
        let mut record = self.record.lock();
        record.hash.write_u64(self.now_millis());
        record.hash.write(who.as_bytes());
        record.hash.write(what.as_bytes());
        record.events += 1;
        if self.verbosity > 0 {
            let now = self.now_millis();
            println!("{:6}.{:03} {who}: {what}", now / 1000, now % 1000);
        }
    }

    /// Something happened that must never happen. The first one counts.
    pub(crate) fn broken(&self, what: impl Into<String>) {
        let what = what.into();
        self.note("BROKEN", &what);
        self.record.lock().broken.get_or_insert(what);
    }

    /// What must never happen and did.
    pub(crate) fn verdict(&self) -> Option<String> {
        self.record.lock().broken.clone()
    }

    /// Hash and number of everything that happened.
    pub(crate) fn fingerprint(&self) -> (u64, u64) {
        let record = self.record.lock();
        (record.hash.finish(), record.events)
    }
}

/// The clocks of one machine: monotonic as the world's, wall time as wrong as somebody set it.
#[derive(Debug)]
pub(crate) struct MachineClock {
    world: Arc<World>,
    wrong_by_millis: AtomicI64,
}

impl MachineClock {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self {
            world,
            wrong_by_millis: AtomicI64::new(0),
        }
    }

    pub(crate) fn set_wrong_by(&self, millis: i64) {
        self.wrong_by_millis.store(millis, Ordering::Relaxed);
    }
}

impl Clock for MachineClock {
    fn unix_nanos(&self) -> u64 {
        let right = i64::try_from(self.world.unix_nanos()).unwrap_or(i64::MAX);
        let wrong_by = self.wrong_by_millis.load(Ordering::Relaxed) * 1_000_000;
        u64::try_from(right.saturating_add(wrong_by)).unwrap_or(0)
    }

    fn monotonic(&self) -> Duration {
        self.world.now()
    }
}
