//! What the catalog knows about a block: enough to plan a query and to read the block without opening its footer.

use std::ops::Range;
use std::sync::Arc;

use model::{BlockId, LogIndex, TenantId, TraceId};

use super::GroupKey;

/// A block that ends this much later than it was stored has spans with impossible times.
pub const AHEAD_NANOS: u64 = 24 * 3_600 * 1_000_000_000;

/// Names an object in the bucket for ever. A version 7 UUID, so its name says when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectId(pub BlockId);

/// Bytes of an object, from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl ByteRange {
    /// The first byte after it; `None` beyond 64 bits.
    pub fn end(self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }
}

/// Entries of one generation's log: above `from`, up to and including `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRange {
    /// Whose log.
    pub group: GroupKey,
    /// Exclusive.
    pub from: LogIndex,
    /// Inclusive.
    pub to: LogIndex,
}

/// One object in the bucket. A flush puts the blocks of all its tenants into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Its name's unique part.
    pub id: ObjectId,
    /// Its key in the bucket, relative to the cluster's prefix.
    pub path: Arc<str>,
    /// Its length.
    pub bytes: u64,
    /// Where its Parquet footer is.
    pub footer: ByteRange,
    /// xxh3-64 of all its bytes, as its writer computed it.
    pub checksum: u64,
    /// What the store called this version of it; `None` for stores that do not say.
    pub etag: Option<Arc<str>>,
}

/// Traces of a block that may also be in other blocks, so that a query knows what it has to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitTraces {
    /// These, sorted. May name traces that are not split after all.
    Listed(Arc<[TraceId]>),
    /// Too many to list: every trace of the block has to be looked for in the others.
    All,
}

impl Default for SplitTraces {
    fn default() -> Self {
        Self::Listed(Arc::from([]))
    }
}

/// One tenant's spans in one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRecord {
    /// Names the block for ever.
    pub id: BlockId,
    /// Whose spans.
    pub tenant: TenantId,
    /// The object it is in.
    pub object: ObjectId,
    /// Its row groups in the object; they hold no other tenant.
    pub row_groups: Range<u32>,
    /// Its part of the bloom section.
    pub bloom: ByteRange,
    /// Its part of the index section.
    pub index: ByteRange,
    /// Bytes of its row groups; what compaction and quotas count.
    pub bytes: u64,
    /// How many spans.
    pub spans: u64,
    /// How many distinct traces.
    pub traces: u64,
    /// Start of its earliest span.
    pub min_unix_nanos: u64,
    /// End of its latest span.
    pub max_unix_nanos: u64,
    /// Its smallest trace id.
    pub min_trace: TraceId,
    /// Its largest trace id.
    pub max_trace: TraceId,
    /// 0 as flushed, one more for each merge.
    pub level: u8,
    /// What must be joined with other blocks.
    pub split_traces: SplitTraces,
    /// Which entries it covers; `None` for merged blocks. Set by the catalog.
    pub source: Option<LogRange>,
    /// Ring time when it became visible. Set by the catalog.
    pub created_unix_nanos: u64,
}

/// A merged trace-id index over many blocks of one tenant. Which blocks stands in the object: those of them that have left
/// the catalog are passed over, and those that came later are asked one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceIndexRecord {
    /// Whose.
    pub tenant: TenantId,
    /// The object it is. Its `footer` goes from the start of the index's directory to the end of the object.
    pub object: ObjectRecord,
    /// How many blocks it was made of.
    pub blocks: u32,
    /// How many (trace, row group) pairs it holds.
    pub entries: u64,
}

impl TraceIndexRecord {
    /// Whether its numbers agree with each other.
    pub(super) fn is_plausible(&self) -> bool {
        let footer = self.object.footer;
        self.blocks > 0 && footer.length > 0 && footer.end() == Some(self.object.bytes)
    }
}

impl BlockRecord {
    /// Whether any of its spans may overlap `[start, end]`.
    pub fn overlaps(&self, start_unix_nanos: u64, end_unix_nanos: u64) -> bool {
        self.min_unix_nanos <= end_unix_nanos && self.max_unix_nanos >= start_unix_nanos
    }

    /// Whether its latest span has an impossible time: more than [`AHEAD_NANOS`] after the block became visible.
    pub fn is_ahead(&self) -> bool {
        self.max_unix_nanos > self.created_unix_nanos.saturating_add(AHEAD_NANOS)
    }

    /// From when on its age counts: its latest span's end, or when it became visible if that end is impossible. Otherwise
    /// one span with a wrong clock would keep its block for ever.
    pub fn ages_from_unix_nanos(&self) -> u64 {
        if self.is_ahead() {
            self.created_unix_nanos
        } else {
            self.max_unix_nanos
        }
    }

    /// Whether the trace may be in it, by its id alone.
    pub fn may_contain(&self, trace: &TraceId) -> bool {
        self.min_trace <= *trace && *trace <= self.max_trace
    }

    /// Whether its numbers agree with each other. A record that fails this was not made by a block writer.
    pub(super) fn is_plausible(&self) -> bool {
        self.spans > 0
            && self.traces > 0
            && self.traces <= self.spans
            && self.min_unix_nanos <= self.max_unix_nanos
            && self.min_trace <= self.max_trace
            && self.row_groups.start < self.row_groups.end
    }
}
