//! What keeps a wrong clock, or an old copy of the catalog, from deleting anything.

use std::sync::Arc;
use std::time::Duration;

use model::Clock;
use parking_lot::Mutex;

use crate::catalog::RingTime;

/// Why nothing is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Brake {
    /// Ring time jumped and has not gone on calmly for long enough. Goes off by itself.
    #[error("ring time has jumped and is not trusted yet")]
    TimeUntrusted,
    /// This node's wall clock moved against its monotonic clock. Stays on until the node restarts.
    #[error("the wall clock moved by {moved:?} against the monotonic clock")]
    ClockJumped {
        /// How far, in either direction, when it was noticed.
        moved: Duration,
    },
    /// Nobody has compared the store with the catalog since this node began to look after it.
    #[error("the object store was not looked through yet")]
    NotSurveyed,
    /// The store holds objects that the catalog should know and does not. Goes off when they are gone.
    #[error(
        "the object store holds {unknown} objects of this cluster that its catalog has never heard of, so the data directory \
         seems to be older than they are"
    )]
    OlderCopy {
        /// How many.
        unknown: u64,
    },
    /// The catalog names objects that are not in the store. Goes off when they are back, or named no more.
    #[error("the catalog names {lost} objects that are not in the object store")]
    Lost {
        /// How many.
        lost: u64,
    },
}

/// Looks at the clocks, and at what was found in the store, before anything is deleted. One per node, made at its start and shared by all who delete.
pub struct Brakes {
    clock: Arc<dyn Clock>,
    jump_max: Duration,
    /// Wall clock at the start of the monotonic clock, as of when this was made.
    origin_unix_nanos: i128,
    jumped: Mutex<Option<Duration>>,
    /// Objects that the catalog did not know when the store was last looked through. `None` before the first time.
    unknown: Mutex<Option<u64>>,
}

impl std::fmt::Debug for Brakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Brakes")
            .field("jump_max", &self.jump_max)
            .field("jumped", &self.jumped)
            .finish_non_exhaustive()
    }
}

impl Brakes {
    /// Compares the clocks from now on; a jump beyond `jump_max` in sum is one.
    pub fn new(clock: Arc<dyn Clock>, jump_max: Duration) -> Self {
        Self {
            origin_unix_nanos: origin(&*clock),
            clock,
            jump_max,
            jumped: Mutex::default(),
            unknown: Mutex::default(),
        }
    }

    /// The store was looked through and holds so many objects that the catalog should know and does not.
    pub fn surveyed(&self, unknown: u64) {
        *self.unknown.lock() = Some(unknown);
    }

    /// Somebody else looks after the store from now on; what was found is not to be relied on later.
    pub fn forget_survey(&self) {
        *self.unknown.lock() = None;
    }

    /// Whether anything may be deleted from the store.
    pub fn check_store(&self, now: RingTime) -> Result<(), Brake> {
        self.check(now)?;
        match *self.unknown.lock() {
            None => Err(Brake::NotSurveyed),
            Some(0) => Ok(()),
            Some(unknown) => Err(Brake::OlderCopy { unknown }),
        }
    }

    /// Whether ages may be acted on.
    pub fn check(&self, now: RingTime) -> Result<(), Brake> {
        let mut jumped = self.jumped.lock();
        if jumped.is_none() {
            let moved = (origin(&*self.clock) - self.origin_unix_nanos).unsigned_abs();
            let moved = Duration::from_nanos(u64::try_from(moved).unwrap_or(u64::MAX));
            if moved > self.jump_max {
                tracing::warn!(
                    ?moved,
                    "the wall clock jumped: nothing is deleted until this node restarts"
                );
                *jumped = Some(moved);
            }
        }
        match *jumped {
            Some(moved) => Err(Brake::ClockJumped { moved }),
            None if !now.is_trusted => Err(Brake::TimeUntrusted),
            None => Ok(()),
        }
    }
}

fn origin(clock: &dyn Clock) -> i128 {
    let monotonic = i128::try_from(clock.monotonic().as_nanos()).unwrap_or(i128::MAX);
    i128::from(clock.unix_nanos()) - monotonic
}
