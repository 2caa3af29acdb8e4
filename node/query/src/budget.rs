//! How much one question may cost.
//!
//! One budget is shared by all threads that work on one question on this node. Loops over rows call [`Budget::spend_spans`]
//! once per batch, so that cancelling takes effect within [`BATCH`] rows. Deadlines are kept by whoever owns a clock: it
//! raises the flag.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Rows between two looks at the budget: about 10 µs of work.
pub const BATCH: usize = 4096;

/// Limits, spending and the cancel flag of one question.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    spans: AtomicU64,
    bytes: AtomicU64,
    cancelled: AtomicBool,
}

/// The limits of a [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans looked at, counted once per chunk and filter stage.
    pub spans_max: u64,
    /// Bytes read by storage and held in answers.
    pub bytes_max: u64,
    /// Steps of structural operators in one trace. Linear in the spans of the trace for each operator.
    pub join_steps_max: u64,
    /// Series of a metrics query before second stages.
    pub series_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // 2 GiB per sub-query and 10 M join steps per trace: the reliability table. Spans: two billion is a minute of
        // scanning at the measured 30 ns per span of the dearest filters. Series: what a browser still draws, times 50.
        Limits {
            spans_max: 2_000_000_000,
            bytes_max: 2 << 30,
            join_steps_max: 10_000_000,
            series_max: 50_000,
        }
    }
}

impl Budget {
    /// A fresh budget.
    pub fn new(limits: Limits) -> Budget {
        Budget {
            limits,
            spans: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
        }
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Makes every further look at the budget fail with [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Fails if cancelled.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Counts spans looked at.
    pub fn spend_spans(&self, count: usize) -> Result<()> {
        self.check()?;
        spend(&self.spans, count as u64, self.limits.spans_max, "spans")
    }

    /// Counts bytes read or held.
    pub fn spend_bytes(&self, count: usize) -> Result<()> {
        self.check()?;
        spend(&self.bytes, count as u64, self.limits.bytes_max, "bytes")
    }

    /// Spans looked at so far.
    pub fn spans_spent(&self) -> u64 {
        self.spans.load(Ordering::Relaxed)
    }

    /// Bytes read so far.
    pub fn bytes_spent(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget::new(Limits::default())
    }
}

fn spend(spent: &AtomicU64, count: u64, limit: u64, what: &'static str) -> Result<()> {
    let before = spent.fetch_add(count, Ordering::Relaxed);
    if before.saturating_add(count) > limit {
        return Err(Error::Exhausted { what, limit });
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
                what: "spans",
                limit: 10
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
}
