//! The node itself: its name, its disk, its memory, its shards, its log lines.
//!
//! Owns [`IdentitySettings`], [`MemorySettings`], [`ShardSettings`], [`ReplicationSettings`], [`WalSettings`] and
//! [`LogSettings`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::problem::Problems;
use crate::quantity::{ByteSize, Period};
use crate::section::section;

section! {
    /// Who this node is.
    pub struct IdentitySettings {
        /// Name of the cluster, kept beside its blocks when it is founded: a node that is set to another name does not join it and
        /// does not start.
        cluster: String = String::from("vivace"),
        /// Folder of everything this node keeps on disk.
        data_dir: PathBuf = PathBuf::from("./data"),
    }
}

section! {
    /// Budgets of memory. Each is counted by us in bytes held, not measured by the allocator.
    pub struct MemorySettings {
        /// Live spans of all shards in their columnar form; above it 429. Absent: a quarter of the cgroup's limit, or of
        /// the machine's memory where no limit is set, at most 2 GiB.
        #[serde(skip_serializing_if = "Option::is_none")]
        heads: Option<ByteSize> = None,
        /// Requests that are received but not answered, decompressed; above it 429.
        in_flight: ByteSize = ByteSize::mib(256),
        /// The part of `in_flight` that one shard may hold.
        in_flight_per_shard: ByteSize = ByteSize::mib(32),
        /// Indexes and filters of blocks.
        block_cache: ByteSize = ByteSize::mib(128),
        /// Columns of blocks as they are stored, read by questions before. Absent: an eighth of the cgroup's limit, or of
        /// the machine's memory where no limit is set, at most 512 MiB.
        #[serde(skip_serializing_if = "Option::is_none")]
        column_cache: Option<ByteSize> = None,
        /// What all queries of this node may hold together; a query that does not fit waits or answers PARTIAL.
        queries: ByteSize = ByteSize::mib(512),
    }
}

section! {
    /// How spans are spread.
    pub struct ShardSettings {
        /// Number of shards, a power of two; fixed once the cluster has data. Two suit one node of two to four cores.
        count: u32 = 2,
    }
}

section! {
    /// How batches become log entries.
    pub struct ReplicationSettings {
        /// How long the leader waits for more batches before it proposes an entry.
        linger: Period = Period::millis(10),
        /// Uncompressed bytes at which it proposes without waiting.
        batch_bytes: ByteSize = ByteSize::mib(1),
    }
}

section! {
    /// The segmented log that all groups of this node share.
    pub struct WalSettings {
        /// Size of one pre-written, recycled segment file.
        segment_bytes: ByteSize = ByteSize::mib(32),
        /// Disk the log may take. Above 70 % of it heads are flushed early, above 85 % new spans are refused with 503.
        quota_bytes: ByteSize = ByteSize::gib(8),
        /// How often what the log holds is read again, to find damage while its spans are still in memory. 0s: never.
        scrub_interval: Period = Period::secs(600),
        /// Bytes per second that this reads.
        scrub_rate: ByteSize = ByteSize::mib(8),
    }
}

/// What may stand alone as a level.
const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Form of the log lines on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

section! {
    /// What the node says about itself.
    pub struct LogSettings {
        /// Least level that is printed: error, warn, info, debug or trace, or directives such as `info,shard=debug`.
        level: String = String::from("info"),
        /// text or json.
        format: LogFormat = LogFormat::Text,
        /// Lines of one kind per minute; further ones are counted and summed up.
        repeats_per_minute: u32 = 20,
    }
}

impl IdentitySettings {
    pub(crate) fn check(&self, problems: &mut Problems) {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=63).contains(&self.cluster.len()) || !self.cluster.bytes().all(allowed) {
            problems.add("cluster", "must be 1 to 63 of a-z, 0-9 and -");
        }
        if self.data_dir.as_os_str().is_empty() {
            problems.add("data_dir", "is missing");
        }
    }
}

impl MemorySettings {
    pub(crate) fn check(&self, problems: &mut Problems) {
        if let Some(heads) = self.heads {
            problems.at_least("heads", heads, ByteSize::mib(16));
        }
        problems.at_least("in_flight", self.in_flight, ByteSize::mib(1));
        problems.at_least("in_flight_per_shard", self.in_flight_per_shard, ByteSize::mib(1));
        problems.at_least("block_cache", self.block_cache, ByteSize::mib(1));
        if let Some(columns) = self.column_cache {
            problems.at_least("column_cache", columns, ByteSize::mib(1));
        }
        problems.at_least("queries", self.queries, ByteSize::mib(1));
        if self.in_flight < self.in_flight_per_shard {
            problems.add("in_flight_per_shard", "must not be above in_flight");
        }
    }
}

impl ShardSettings {
    pub(crate) fn check(&self, problems: &mut Problems) {
        if !self.count.is_power_of_two() || self.count > 1024 {
            problems.add("count", "must be a power of two from 1 to 1024");
        }
    }
}

impl ReplicationSettings {
    pub(crate) fn check(&self, problems: &mut Problems) {
        problems.at_most("linger", self.linger, Period::secs(1));
        problems.at_least("batch_bytes", self.batch_bytes, ByteSize::kib(1));
        problems.at_most("batch_bytes", self.batch_bytes, ByteSize::mib(4));
    }
}

impl WalSettings {
    pub(crate) fn check(&self, problems: &mut Problems) {
        // Two of the largest entries, 4 MiB each.
        problems.at_least("segment_bytes", self.segment_bytes, ByteSize::mib(8));
        problems.at_most("segment_bytes", self.segment_bytes, ByteSize::gib(1));
        if !self.segment_bytes.0.is_multiple_of(4096) {
            problems.add("segment_bytes", "must be a multiple of 4 KiB");
        }
        // Two segments are held back for votes and seals, so fewer than eight would leave little for spans.
        if self.quota_bytes.0 / 8 < self.segment_bytes.0 {
            problems.add("quota_bytes", "must be at least eight segments");
        }
        if self.scrub_interval != Period::secs(0) {
            problems.at_least("scrub_interval", self.scrub_interval, Period::secs(1));
        }
        problems.at_least("scrub_rate", self.scrub_rate, ByteSize::kib(64));
    }
}

impl LogSettings {
    pub(crate) fn check(&self, problems: &mut Problems) {
        // Directives are the subscriber's own language, so the server reads them.
        let is_level = |name| self.level.eq_ignore_ascii_case(name);
        if self.level.trim().is_empty() {
            problems.add("level", "is missing: use error, warn, info, debug or trace");
        } else if !self.level.contains(['=', ',']) && !LOG_LEVELS.into_iter().any(is_level) {
            problems.add(
                "level",
                format!("{:?} is not a level: use error, warn, info, debug or trace", self.level),
            );
        }
        if self.repeats_per_minute == 0 {
            problems.add("repeats_per_minute", "must be at least 1");
        }
    }
}
