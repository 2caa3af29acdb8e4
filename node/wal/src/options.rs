//! What the owner of the log decides once, before opening it.

use std::fmt;
use std::time::Duration;

use crate::WalError;
use crate::format::SEGMENT_HEADER_BYTES;

/// Who runs the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// Two threads of the log: one writes and syncs, one pre-writes segments.
    Threads,
    /// Nobody: each [`crate::Wal::drive`] writes one batch. For simulations, where every step must be repeatable.
    Manual,
}

/// Knobs of the log. There is no default for the incarnation, hence no `Default`.
pub struct WalOptions {
    /// Identity of this node on this disk. Segments of any other incarnation are refused.
    pub incarnation: u64,
    /// Size of one segment file. 32 MiB: rotation costs two extra syncs, which vanish at this size.
    pub segment_bytes: u32,
    /// How much disk live and spare segments may take together.
    pub quota_bytes: u64,
    /// Segments that only votes, truncations, purges and reserved entries may open.
    pub reserved_segments: u32,
    /// How many pre-written segments to keep at hand once the log is in use; at least `reserved_segments + 2`.
    pub pool_segments: u32,
    /// Freed segments above this number are removed instead of kept for reuse.
    pub pool_segments_max: u32,
    /// How often to try again after the file system had no room for a new segment.
    pub pool_retry: Duration,
    /// Bound of bytes accepted but not yet synced; appends above it wait.
    pub queue_bytes_max: usize,
    /// How much one write and sync takes at most. 8 MiB: more only adds to the latency of the first caller.
    pub batch_bytes_max: usize,
    /// Bound of recent entries kept in memory after they are durable, for followers that are almost up to date.
    pub cache_bytes_max: usize,
    /// Who runs the writer.
    pub drive: Drive,
    /// Called once, before any caller hears of it, when a write or sync failed. A process that serves should abort
    /// here: after a failed sync nobody knows what is on the disk.
    pub on_fatal: Box<dyn Fn(&WalError) + Send + Sync>,
    /// Monotonic time for the sync metrics; the log itself never asks what time it is.
    pub stopwatch: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl WalOptions {
    /// Returns options fit for a node, with a quota of 8 GiB.
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            segment_bytes: 32 << 20,
            quota_bytes: 8 << 30,
            reserved_segments: 2,
            pool_segments: 4,
            pool_segments_max: 16,
            pool_retry: Duration::from_secs(1),
            queue_bytes_max: 32 << 20,
            batch_bytes_max: 8 << 20,
            cache_bytes_max: 64 << 20,
            drive: Drive::Threads,
            on_fatal: Box::new(|_| {}),
            stopwatch: Box::new(|| Duration::ZERO),
        }
    }

    /// How many segments the quota holds.
    pub(crate) fn segments_max(&self) -> usize {
        (self.quota_bytes / u64::from(self.segment_bytes.max(1))) as usize
    }

    pub(crate) fn validate(&self) -> Result<(), WalError> {
        let reason = if self.segment_bytes < 2 * SEGMENT_HEADER_BYTES || !self.segment_bytes.is_multiple_of(4096) {
            "segment_bytes must be a multiple of 4096 and at least 8192"
        } else if self.segment_bytes > 1 << 30 {
            "segment_bytes must be at most 1 GiB"
        } else if self.pool_segments < self.reserved_segments + 2 {
            "pool_segments must exceed reserved_segments by 2"
        } else if self.pool_segments_max < self.pool_segments {
            "pool_segments_max must be at least pool_segments"
        } else if self.segments_max() < self.reserved_segments as usize + 4 {
            "quota_bytes must hold at least reserved_segments + 4 segments"
        } else {
            return Ok(());
        };
        Err(WalError::InvalidOptions { reason })
    }
}

impl fmt::Debug for WalOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalOptions")
            .field("incarnation", &self.incarnation)
            .field("segment_bytes", &self.segment_bytes)
            .field("quota_bytes", &self.quota_bytes)
            .field("drive", &self.drive)
            .finish_non_exhaustive()
    }
}
