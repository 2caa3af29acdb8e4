//! What the three caretakers of stored blocks count: [`crate::compaction`], [`crate::retention`], [`crate::collect`].
//!
//! Plain atomics; the server reads them and gives them names. How many blocks a tenant has is not here: the catalog
//! knows that.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start, and a few states as of the last run.
#[derive(Debug, Default)]
pub struct HousekeepingMetrics {
    /// Merges whose result the catalog took.
    pub merges_done: AtomicU64,
    /// Merges that came too late: another merge or retention took an input.
    pub merges_lost: AtomicU64,
    /// Merges that failed and are tried again.
    pub merges_failed: AtomicU64,
    /// Blocks that finished merges replaced.
    pub merged_blocks_in: AtomicU64,
    /// Blocks they made.
    pub merged_blocks_out: AtomicU64,
    /// Bytes of row groups they read.
    pub merged_bytes_in: AtomicU64,
    /// Bytes of row groups they wrote.
    pub merged_bytes_out: AtomicU64,
    /// State: blocks that merges should take now. Grows without end when merging is slower than ingest.
    pub outstanding_blocks: AtomicU64,
    /// Blocks that left the catalog because of their age.
    pub blocks_expired: AtomicU64,
    /// State: blocks past their time that the last run left to the next one.
    pub expired_blocks_left: AtomicU64,
    /// Runs that a brake kept from deleting.
    pub runs_held: AtomicU64,
    /// State: 1 while a brake is on.
    pub is_held: AtomicU64,
    /// Objects that no block was in any more, deleted from the store.
    pub objects_deleted: AtomicU64,
    /// Objects that the catalog never named, deleted from the store.
    pub orphans_deleted: AtomicU64,
    /// State: objects below our prefix that are not ours. They are never touched.
    pub foreign_objects: AtomicU64,
    /// State: objects in our form that the catalog neither named nor announced. While there are any, nothing is deleted.
    pub unknown_objects: AtomicU64,
    /// State: objects that the catalog names and that are not in the store.
    pub lost_objects: AtomicU64,
    /// Runs of retention, collection, indexing or folding that stopped at an error.
    pub runs_failed: AtomicU64,
    /// Times the catalog was folded into the store.
    pub catalogs_folded: AtomicU64,
    /// Merged trace-id indexes that the catalog took.
    pub trace_indexes_written: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

pub(crate) fn show(state: &AtomicU64, value: u64) {
    state.store(value, Ordering::Relaxed);
}

#[cfg(test)]
pub(crate) mod bed;
