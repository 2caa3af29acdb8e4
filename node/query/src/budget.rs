//! How much one question may cost.
//!
//! One budget is shared by all threads that work on one question on this node. Loops over rows call [`Budget::spend_spans`]
//! once per batch, so that cancelling takes effect within [`BATCH`] rows. Deadlines are kept by whoever owns a clock: it
//! raises the flag. The same look lets a thread make room for others ([`Budget::pausing`]).
//!
//! What always holds: every refusal names the limit as settings do, so that its reader knows what to change.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Rows between two looks at the budget: about 10 µs of work.
pub const BATCH: usize = 4096;

/// Limits, spending and the cancel flag of one question. Cloning shares all three.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: Limits,
    spent: Arc<Spent>,
    pause: Option<Pause>,
}

#[derive(Debug)]
struct Spent {
    spans: AtomicU64,
    bytes: AtomicU64,
    held: AtomicU64,
    held_most: AtomicU64,
    cancelled: AtomicBool,
    /// What other questions hold too: of the same asker, of everybody.
    shared: Vec<Arc<SharedMemory>>,
}

impl Spent {
    fn beside(shared: Vec<Arc<SharedMemory>>) -> Spent {
        Spent {
            spans: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            held: AtomicU64::new(0),
            held_most: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            shared,
        }
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        // A question that was stopped leaves what it held to nobody else.
        for shared in &self.shared {
            shared.held.fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
        }
    }
}

/// Called at every look at the budget.
#[derive(Clone)]
struct Pause(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pause")
    }
}

/// The limits of a [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans looked at, counted once per chunk and filter stage.
    pub spans_max: u64,
    /// Bytes read by storage.
    pub bytes_max: u64,
    /// Bytes of memory held at once: columns, joined traces, answers.
    pub memory_max: u64,
    /// Steps of structural operators in one trace. Linear in the spans of the trace for each operator.
    pub join_steps_max: u64,
    /// Series of a metrics query before second stages.
    pub series_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // 2 GiB per sub-query and 10 M join steps per trace: the reliability table. Spans: two billion is a minute of
        // scanning at the measured 30 ns per span of the dearest filters. Series: what a browser still draws, times 50.
        // Memory: a row group of 64 k spans with all its columns decoded takes some 60 MiB, and a question looks at
        // several at once.
        Limits {
            spans_max: 2_000_000_000,
            bytes_max: 2 << 30,
            memory_max: 512 << 20,
            join_steps_max: 10_000_000,
            series_max: 50_000,
        }
    }
}

/// Memory that several questions hold together.
#[derive(Debug)]
pub struct SharedMemory {
    held: AtomicU64,
    limit: AtomicU64,
    name: &'static str,
}

impl SharedMemory {
    /// At most `limit` bytes; `name` is what settings call it.
    pub fn new(limit: u64, name: &'static str) -> SharedMemory {
        SharedMemory {
            held: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
            name,
        }
    }

    /// Changes the limit; what is held already stays.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn hold(&self, bytes: u64) -> Result<()> {
        let limit = self.limit.load(Ordering::Relaxed);
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limit {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Error::Exhausted {
                what: "bytes of memory together with other queries",
                limit,
                name: self.name,
            });
        }
        Ok(())
    }
}

impl Budget {
    /// A fresh budget.
    pub fn new(limits: Limits) -> Budget {
        Budget {
            limits,
            spent: Arc::new(Spent::beside(Vec::new())),
            pause: None,
        }
    }

    /// A fresh budget, with what is held also counted in each of `shared`.
    pub fn sharing(limits: Limits, shared: Vec<Arc<SharedMemory>>) -> Budget {
        Budget {
            limits,
            spent: Arc::new(Spent::beside(shared)),
            pause: None,
        }
    }

    /// The same budget for one thread, which calls `pause` at every look at it.
    pub fn pausing(&self, pause: Arc<dyn Fn() + Send + Sync>) -> Budget {
        Budget {
            pause: Some(Pause(pause)),
            ..self.clone()
        }
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Makes every further look at the budget fail with [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.spent.cancelled.store(true, Ordering::Relaxed);
    }

    /// Fails if cancelled.
    pub fn check(&self) -> Result<()> {
        if self.spent.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if let Some(Pause(pause)) = &self.pause {
            pause();
        }
        Ok(())
    }

    /// Counts spans looked at.
    pub fn spend_spans(&self, count: usize) -> Result<()> {
        self.check()?;
        spend(
            &self.spent.spans,
            count as u64,
            self.limits.spans_max,
            "spans",
            "query_spans_max",
        )
    }

    /// Counts bytes read.
    pub fn spend_bytes(&self, count: usize) -> Result<()> {
        self.check()?;
        spend(
            &self.spent.bytes,
            count as u64,
            self.limits.bytes_max,
            "bytes read",
            "query_bytes_max",
        )
    }

    /// Counts memory that is held from now on; [`Budget::release`] gives it back. Nothing is counted if it is refused.
    pub fn hold(&self, bytes: usize) -> Result<()> {
        let bytes = bytes as u64;
        let held = &self.spent.held;
        let now = held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if now > self.limits.memory_max {
            held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Error::Exhausted {
                what: "bytes of memory",
                limit: self.limits.memory_max,
                name: "query_memory_max",
            });
        }
        for (at, shared) in self.spent.shared.iter().enumerate() {
            if let Err(error) = shared.hold(bytes) {
                held.fetch_sub(bytes, Ordering::Relaxed);
                for earlier in &self.spent.shared[..at] {
                    earlier.held.fetch_sub(bytes, Ordering::Relaxed);
                }
                return Err(error);
            }
        }
        self.spent.held_most.fetch_max(now, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what [`Budget::hold`] counted.
    pub fn release(&self, bytes: usize) {
        self.spent.held.fetch_sub(bytes as u64, Ordering::Relaxed);
        for shared in &self.spent.shared {
            shared.held.fetch_sub(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Spans looked at so far.
    pub fn spans_spent(&self) -> u64 {
        self.spent.spans.load(Ordering::Relaxed)
    }

    /// Bytes read so far.
    pub fn bytes_spent(&self) -> u64 {
        self.spent.bytes.load(Ordering::Relaxed)
    }

    /// The most memory that was held at once so far.
    pub fn held_most(&self) -> u64 {
        self.spent.held_most.load(Ordering::Relaxed)
    }

    /// Memory held now.
    pub fn held(&self) -> u64 {
        self.spent.held.load(Ordering::Relaxed)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget::new(Limits::default())
    }
}

fn spend(spent: &AtomicU64, count: u64, limit: u64, what: &'static str, name: &'static str) -> Result<()> {
    let before = spent.fetch_add(count, Ordering::Relaxed);
    if before.saturating_add(count) > limit {
        return Err(Error::Exhausted { what, limit, name });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_bind_at_the_limit() {
        let budget = Budget::new(Limits {
            spans_max: 10,
            ..Limits::default()
        });
        assert!(budget.spend_spans(9).is_ok());
        assert!(budget.spend_spans(1).is_ok());
        assert!(matches!(
            budget.spend_spans(1),
            Err(Error::Exhausted {
                limit: 10,
                name: "query_spans_max",
                ..
            })
        ));
    }

    #[test]
    fn cancelling_stops_all_spending() {
        let budget = Budget::default();
        budget.cancel();
        assert!(matches!(budget.spend_spans(1), Err(Error::Cancelled)));
        assert!(matches!(budget.spend_bytes(0), Err(Error::Cancelled)));
    }

    #[test]
    fn memory_binds_at_the_limit_and_comes_back() {
        let budget = Budget::new(Limits {
            memory_max: 10,
            ..Limits::default()
        });
        assert!(budget.hold(9).is_ok());
        assert!(budget.hold(1).is_ok());
        let error = budget.hold(1).unwrap_err().to_string();
        assert_eq!(error, "query exceeds query_memory_max: 10 bytes of memory");
        budget.release(10);
        assert_eq!((budget.held(), budget.held_most()), (0, 10));
        assert!(budget.hold(10).is_ok());
    }

    #[test]
    fn memory_of_one_asker_binds_over_all_questions() {
        let node = Arc::new(SharedMemory::new(100, "memory.queries"));
        let shared = Arc::new(SharedMemory::new(10, "queries_memory_max"));
        let budget = || Budget::sharing(Limits::default(), vec![Arc::clone(&node), Arc::clone(&shared)]);
        let (one, other) = (budget(), budget());
        assert!(one.hold(6).is_ok());
        let error = other.hold(5).unwrap_err().to_string();
        assert!(
            error.starts_with("query exceeds queries_memory_max: 10 bytes"),
            "{error}"
        );
        assert_eq!((other.held(), shared.held(), node.held()), (0, 6, 6));
        assert!(other.hold(4).is_ok());
        one.release(6);
        shared.set_limit(4);
        assert!(one.hold(1).is_err());
        assert_eq!(shared.held(), 4);
        drop(other);
        assert_eq!(
            (shared.held(), node.held()),
            (0, 0),
            "what a stopped question held is given back"
        );
    }

    #[test]
    fn a_look_at_the_budget_lets_others_go_first() {
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let budget = Budget::default();
        let pausing = budget.pausing(Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        pausing.spend_spans(5).unwrap();
        assert_eq!((calls.load(Ordering::Relaxed), budget.spans_spent()), (1, 5));
        budget.cancel();
        assert!(pausing.check().is_err());
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
