//! Counters of the log, plain atomics for the server to export. Nothing here decides anything.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of [`WalMetrics::sync_micros_buckets`]; the last bucket has none.
pub const SYNC_MICROS_BOUNDS: [u64; 11] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000,
];

/// Counters since the log was opened, and gauges.
#[derive(Debug, Default)]
pub struct WalMetrics {
    /// Bytes written to segments: records and headers, without pre-writing.
    pub written_bytes: AtomicU64,
    /// Records written.
    pub records: AtomicU64,
    /// Batches, each one write and one sync.
    pub batches: AtomicU64,
    /// Syncs of segments in use; more than `batches` by two for each rotation.
    pub syncs: AtomicU64,
    /// Time spent in the final sync of each batch, by the owner's stopwatch.
    pub sync_micros_sum: AtomicU64,
    /// How many of these syncs took at most the bound at the same place; not cumulative.
    pub sync_micros_buckets: [AtomicU64; SYNC_MICROS_BOUNDS.len() + 1],
    /// Gauge: bytes accepted and not yet durable.
    pub queue_bytes: AtomicU64,
    /// Gauge: segments that hold records.
    pub segments_live: AtomicU64,
    /// Gauge: pre-written segments at hand.
    pub segments_pool: AtomicU64,
    /// Segments pre-written by this process.
    pub segments_created: AtomicU64,
    /// Attempts to pre-write a segment that failed, usually for lack of room.
    pub segments_refused: AtomicU64,
    /// Bytes copied forward so that a quiet group does not pin a segment.
    pub moved_bytes: AtomicU64,
    /// Calls refused for lack of space.
    pub refused_full: AtomicU64,
    /// Reads that met bytes which are not what was written.
    pub corrupt_reads: AtomicU64,
    /// Bytes of sealed segments that were read again to find damage.
    pub scrubbed_bytes: AtomicU64,
}

impl WalMetrics {
    pub(crate) fn observe_sync(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sync_micros_sum.fetch_add(micros, Relaxed);
        let bucket = SYNC_MICROS_BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.sync_micros_buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
    }
}
