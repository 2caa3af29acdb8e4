//! The life of a block: when a head is cut, how blocks are merged, when they go.
//!
//! Owns [`FlushSettings`], [`CompactionSettings`] and [`RetentionSettings`]. How long a tenant's spans are kept is a
//! limit of the tenant ([`crate::limits::Limits`]); here are the brakes that hold for all.

use crate::problem::Problems;
use crate::quantity::{ByteSize, Period};
use crate::section::section;

section! {
    /// When live spans become a block.
    pub struct FlushSettings {
        /// Compressed log bytes of a shard that are not in a block yet. 16 MiB are about 160,000 spans and 50 MB of memory; small
        /// cuts cost little, because their blocks are merged later and memory is used again while it is still warm.
        tail_bytes: ByteSize = ByteSize::mib(16),
        /// Age of the oldest of them.
        tail_age: Period = Period::minutes(2),
    }
}

section! {
    /// Merging small blocks into large ones.
    pub struct CompactionSettings {
        /// Off leaves blocks as they were flushed; queries stay right and become slower.
        enabled: bool = true,
        /// Merges that run at once on this node.
        jobs_max: u32 = 2,
        /// Memory of one merge.
        job_memory: ByteSize = ByteSize::mib(512),
        /// Blocks that one merge reads.
        input_blocks_max: u32 = 100,
        /// Size of an object that is not merged further.
        block_bytes_max: ByteSize = ByteSize::gib(1),
        /// Blocks are merged with neighbours in time: those that end in the same window of this length.
        window: Period = Period::hours(1),
        /// How often merges are looked for.
        interval: Period = Period::secs(30),
    }
}

section! {
    /// Deleting, and what keeps it from deleting too much.
    pub struct RetentionSettings {
        /// Time between leaving the catalog and being deleted from the object store; longer than the longest query.
        delete_grace: Period = Period::hours(1),
        /// How often blocks past their time are looked for.
        interval: Period = Period::minutes(10),
        /// A wall clock that moved more than this against the monotonic clock stops deletion until the node restarts.
        clock_jump_max: Period = Period::minutes(10),
        /// Blocks that one run may drop; the rest waits for the next run.
        drops_per_run_max: u32 = 1_000,
        /// An object that no catalog record names is deleted when it is older than this.
        orphan_age: Period = Period::hours(24),
    }
}

impl FlushSettings {
    pub(crate) fn check(&self, problems: &mut Problems, wal_quota: ByteSize) {
        problems.at_least("tail_bytes", self.tail_bytes, ByteSize::kib(64));
        problems.between("tail_age", self.tail_age, Period::secs(1), Period::hours(1));
        if self.tail_bytes.0 > wal_quota.0 / 2 {
            problems.add(
                "tail_bytes",
                "must be at most half of wal.quota_bytes, or the log fills before it is flushed",
            );
        }
    }
}

impl CompactionSettings {
    pub(crate) fn check(&self, problems: &mut Problems) {
        if self.jobs_max == 0 {
            problems.add("jobs_max", "must be at least 1; to stop merging say enabled: false");
        }
        if self.input_blocks_max < 2 {
            problems.add("input_blocks_max", "must be at least 2");
        }
        problems.at_least("job_memory", self.job_memory, ByteSize::mib(32));
        problems.at_least("block_bytes_max", self.block_bytes_max, ByteSize::mib(1));
        problems.between("window", self.window, Period::minutes(1), Period::days(7));
        problems.between("interval", self.interval, Period::secs(1), Period::hours(1));
    }
}

impl RetentionSettings {
    pub(crate) fn check(&self, problems: &mut Problems, longest_query: Period) {
        problems.between("interval", self.interval, Period::secs(1), Period::days(1));
        problems.at_least("clock_jump_max", self.clock_jump_max, Period::secs(10));
        problems.at_least("orphan_age", self.orphan_age, Period::minutes(1));
        if self.drops_per_run_max == 0 {
            problems.add("drops_per_run_max", "must be at least 1");
        }
        if self.delete_grace < longest_query {
            problems.add(
                "delete_grace",
                format!("must not be below the longest query, {longest_query}"),
            );
        }
    }
}
