//! Columns of blocks kept as they are decoded: what questions look at again and again.
//!
//! Decoding is most of what a scan costs: checksums, decompression, unpacking, and fresh memory for it. So what a chunk
//! decodes whole stays here, by object and row group, until its room is needed. Columns of which only some pages were
//! wanted are not kept.
//!
//! What always holds: objects never change and only what passed its checksum is decoded, so nothing here goes stale; what
//! is kept never exceeds the capacity.
//!
//! Beside the columns of a row group stand notes: what questions worked out from all of it, as the sorted values of an
//! attribute.
//!
//! Not here: bytes as they are stored (`column_cache`), indexes and filters (`blocks`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::TraceId;
use model::column::Column;
use query::source::{ColumnRef, Note};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What an entry costs beside its values.
const ENTRY_BYTES: usize = 256;
/// For the first guess of how many entries there will be: a column of 64k rows.
const TYPICAL_BYTES: u64 = 256 << 10;

/// Which trace each row of a row group belongs to, and when each starts.
#[derive(Debug)]
pub(crate) struct Traces {
    pub(crate) ordinals: Vec<u32>,
    pub(crate) ids: Vec<TraceId>,
    pub(crate) starts: Vec<u64>,
}

/// The trees of a row group.
#[derive(Debug)]
pub(crate) struct Trees {
    pub(crate) descendants: Vec<u32>,
    pub(crate) parent_distance: Vec<u32>,
}

impl Traces {
    pub(crate) fn heap_bytes(&self) -> usize {
        self.ordinals.len() * 4 + self.ids.len() * 16 + self.starts.len() * 8
    }
}

impl Trees {
    pub(crate) fn heap_bytes(&self) -> usize {
        self.descendants.len() * 4 + self.parent_distance.len() * 4
    }
}

/// Something decoded. Cloning shares it.
#[derive(Clone)]
pub(crate) enum Decoded {
    Columns(Arc<[Arc<Column>]>),
    Traces(Arc<Traces>),
    Trees(Arc<Trees>),
    Note { note: Note, bytes: usize },
}

impl std::fmt::Debug for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoded")
            .field("bytes", &self.heap_bytes())
            .finish_non_exhaustive()
    }
}

impl Decoded {
    fn heap_bytes(&self) -> usize {
        match self {
            Decoded::Columns(columns) => columns.iter().map(|column| column.heap_bytes()).sum(),
            Decoded::Traces(traces) => traces.heap_bytes(),
            Decoded::Trees(trees) => trees.heap_bytes(),
            Decoded::Note { bytes, .. } => *bytes,
        }
    }
}

/// What is kept: the thing, and what reading it took, which a question that finds it here pays all the same, so that
/// whether it stays within its limits does not depend on who asked before.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) decoded: Decoded,
    pub(crate) read_bytes: u64,
}

/// Which thing of a row group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Column(ColumnRef),
    Traces,
    Trees,
    Note(Arc<str>),
}

/// A part of a row group, which its place in the object names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) object: Arc<str>,
    pub(crate) offset: u64,
    pub(crate) part: Part,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Key, Kept> for ByBytes {
    fn weight(&self, _: &Key, kept: &Kept) -> u64 {
        (kept.decoded.heap_bytes() + ENTRY_BYTES) as u64
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct DecodedCache {
    kept: Cache<Key, Kept, ByBytes>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl DecodedCache {
    /// Keeps at most `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let entries = usize::try_from(capacity / TYPICAL_BYTES).unwrap_or(usize::MAX).max(64);
        Self {
            kept: Cache::with_weighter(entries, capacity, ByBytes),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Bytes kept.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.weight()
    }

    /// Parts of row groups that were at hand.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Parts that had to be decoded.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// What is kept under `key`. Counted as a miss only by whoever then decodes it.
    pub(crate) fn get(&self, key: &Key) -> Option<Kept> {
        let kept = self.kept.get(key);
        self.hits.fetch_add(u64::from(kept.is_some()), Ordering::Relaxed);
        kept
    }

    /// Whether `key` is kept; not counted, and no use of it.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.kept.contains_key(key)
    }

    /// Keeps what had to be decoded.
    pub(crate) fn keep(&self, key: Key, decoded: Decoded, read_bytes: u64) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.kept.insert(key, Kept { decoded, read_bytes });
    }
}

#[cfg(test)]
mod tests {
    use model::column::OwnedValues;

    use super::*;

    fn key(object: &str, offset: u64, part: Part) -> Key {
        Key {
            object: object.into(),
            offset,
            part,
        }
    }

    fn column(rows: usize) -> Decoded {
        let column = Column {
            rows: None,
            values: OwnedValues::Int(vec![7; rows]),
        };
        Decoded::Columns([Arc::new(column)].into())
    }

    #[test]
    fn parts_are_told_apart_by_object_row_group_and_column() {
        let cache = DecodedCache::new(1 << 20);
        cache.keep(key("a", 4, Part::Column(ColumnRef::Start)), column(10), 33);
        let kept = cache.get(&key("a", 4, Part::Column(ColumnRef::Start))).unwrap();
        assert_eq!(kept.read_bytes, 33);
        for other in [
            key("b", 4, Part::Column(ColumnRef::Start)),
            key("a", 5, Part::Column(ColumnRef::Start)),
            key("a", 4, Part::Column(ColumnRef::Duration)),
            key("a", 4, Part::Traces),
            key("a", 4, Part::Trees),
            key("a", 4, Part::Note("Start".into())),
        ] {
            assert!(cache.get(&other).is_none(), "{other:?}");
        }
        assert_eq!((cache.hits(), cache.misses()), (1, 1));
    }

    #[test]
    fn it_stays_within_its_capacity() {
        let capacity = 1 << 20;
        let cache = DecodedCache::new(capacity);
        for offset in 0..2_000 {
            cache.keep(key("a", offset, Part::Column(ColumnRef::Start)), column(1_000), 0);
        }
        assert!(
            (capacity / 4..=capacity).contains(&cache.kept_bytes()),
            "{}",
            cache.kept_bytes()
        );
        // More than all the room there is.
        cache.keep(key("b", 0, Part::Traces), column(1 << 20), 0);
        assert!(cache.kept_bytes() <= capacity);
    }
}
