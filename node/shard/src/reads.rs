//! Reads of blocks, watched over: a store that does not answer is asked seldom, and what was damaged is counted.
//!
//! While a store is away every read would wait for its retries to run out, and a question reads hundreds of times. So
//! after [`FAILURES_MAX`] reads in a row that got no answer, reads fail at once, except for a few now and then that try
//! whether the store is back: a few, because opening a block takes two reads at once and gives up when one is refused. Questions then answer with what is live and name the rest as missing.
//!
//! What always holds: only silence counts. An object that is not there, or that may not be read, is an answer.
//!
//! Not here: how long one read is tried (the client of the store), who looks a second time at damaged bytes (`block`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use block::{Error, Kind, RangeReader};
use bytes::Bytes;
use futures::future::BoxFuture;
use model::Clock;
use parking_lot::Mutex;

/// Reads without an answer, one after the other, that make a store count as away. A store that fails one read in ten gives
/// three such reads in a row once in a thousand, after the client's own retries.
pub const FAILURES_MAX: u32 = 3;
/// How long a store is left alone first, and at most. It doubles with each try in vain.
pub const REST_MIN: Duration = Duration::from_secs(1);
/// Reads that may try at once whether the store is back.
pub const TRIALS_MAX: u32 = 8;
/// See [`REST_MIN`].
pub const REST_MAX: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub struct WatchedReader {
    inner: Arc<dyn RangeReader>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    ranges: AtomicU64,
    bytes: AtomicU64,
    looked_again: AtomicU64,
    damaged: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    away: Option<Away>,
}

#[derive(Debug, Clone, Copy)]
struct Away {
    /// Monotonic time before which nobody asks.
    until: Duration,
    rest: Duration,
    /// Reads under way that try whether the store is back.
    trials: u32,
}

impl std::fmt::Debug for WatchedReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchedReader")
            .field("inner", &self.inner)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// A read that was let through. Dropped without an outcome, it leaves things as they were.
struct Turn<'a> {
    of: &'a WatchedReader,
    is_trial: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.is_trial
            && let Some(away) = &mut self.of.state.lock().away
        {
            away.trials = away.trials.saturating_sub(1);
        }
    }
}

impl WatchedReader {
    /// Watches over `inner`.
    pub fn new(inner: Arc<dyn RangeReader>, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner,
            clock,
            state: Mutex::default(),
            ranges: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            looked_again: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Ranges the store was asked for, a request each.
    pub fn ranges(&self) -> u64 {
        self.ranges.load(Ordering::Relaxed)
    }

    /// Bytes it answered.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Reads that were made again because bytes did not match their checksums.
    pub fn looked_again(&self) -> u64 {
        self.looked_again.load(Ordering::Relaxed)
    }

    /// Of those, the ones that were wrong again.
    pub fn damaged_count(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Reads that failed at once because the store was away.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the store counts as away.
    pub fn is_away(&self) -> bool {
        self.state.lock().away.is_some()
    }

    fn enter(&self) -> Option<Turn<'_>> {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        let is_trial = match &mut state.away {
            None => false,
            Some(away) if away.trials >= TRIALS_MAX || now < away.until => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Some(away) => {
                away.trials += 1;
                true
            }
        };
        Some(Turn { of: self, is_trial })
    }

    fn leave<T>(&self, turn: Turn<'_>, outcome: &Result<T, Error>) {
        let is_silence = matches!(outcome, Err(error) if error.kind() == Kind::Unavailable);
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        if !is_silence {
            if state.away.is_some() {
                tracing::info!("the object store answers again");
            }
            *state = State::default();
        } else {
            state.failures = state.failures.saturating_add(1);
            let is_enough = state.failures >= FAILURES_MAX;
            match &mut state.away {
                // Those that try together fail together, which is one try in vain.
                Some(away) if turn.is_trial && away.until <= now => {
                    away.rest = (away.rest * 2).min(REST_MAX);
                    away.until = now + away.rest;
                }
                None if is_enough => {
                    tracing::warn!("the object store does not answer; reads fail at once until it does");
                    state.away = Some(Away {
                        until: now + REST_MIN,
                        rest: REST_MIN,
                        trials: 0,
                    });
                }
                _ => {}
            }
        }
        drop(state);
        drop(turn);
    }

    async fn watched<'a>(
        &'a self,
        object: &'a Arc<str>,
        ranges: &'a [Range<u64>],
        read: BoxFuture<'a, Result<Vec<Bytes>, Error>>,
    ) -> Result<Vec<Bytes>, Error> {
        let Some(turn) = self.enter() else {
            return Err(Error::Store {
                object: Arc::clone(object),
                start: ranges.first().map_or(0, |range| range.start),
                end: ranges.last().map_or(0, |range| range.end),
                source: Arc::new(object_store::Error::Generic {
                    store: "object store",
                    source: "it did not answer the reads before this one".into(),
                }),
            });
        };
        self.ranges.fetch_add(ranges.len() as u64, Ordering::Relaxed);
        let outcome = read.await;
        let bytes = outcome.iter().flatten().map(|part| part.len() as u64).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.leave(turn, &outcome);
        outcome
    }
}

impl RangeReader for WatchedReader {
    fn read<'a>(&'a self, object: &'a Arc<str>, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
        Box::pin(self.watched(object, ranges, self.inner.read(object, ranges)))
    }

    fn read_again<'a>(
        &'a self,
        object: &'a Arc<str>,
        ranges: &'a [Range<u64>],
    ) -> BoxFuture<'a, Result<Vec<Bytes>, Error>> {
        self.looked_again.fetch_add(1, Ordering::Relaxed);
        Box::pin(self.watched(object, ranges, self.inner.read_again(object, ranges)))
    }

    fn damaged(&self, error: &Error) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::error!(error = error as &dyn std::error::Error, "stored bytes are damaged");
        self.inner.damaged(error);
    }
}

#[cfg(test)]
mod tests;
