//! A section's filters, opened: "is this trace, or this text, certainly not in the block?"

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::TraceId;

use crate::bloom;
use crate::error::{Error, Result};
use crate::index::BlockIndex;
use crate::range::{RangeReader, read_checked};
use crate::schema::AttributeKey;
use crate::section::{TAIL_SEED, TRACE_SEED, read_filters};

/// See the module's documentation. Meant to be cached; 2 bytes per trace and about 0.5 per span.
#[derive(Debug, Clone)]
pub struct Filters {
    bytes: Bytes,
    by_seed: Vec<(u64, Range<usize>)>,
}

impl Filters {
    /// Opens a bloom section. Every filter's CRC is checked here, once.
    pub fn open(object: &Arc<str>, offset: u64, bytes: Bytes) -> Result<Self> {
        let by_seed = read_filters(&bytes).ok_or_else(|| Error::Corrupt {
            object: object.clone(),
            offset,
            what: "bloom section",
        })?;
        Ok(Self { bytes, by_seed })
    }

    /// Reads a bloom section: one request, which needs no index and may go beside the one for it.
    pub async fn read(reader: &Arc<dyn RangeReader>, object: &str, range: Range<u64>) -> Result<Self> {
        let object: Arc<str> = object.into();
        let open = |bytes| Self::open(&object, range.start, bytes);
        read_checked(reader, &object, range.clone(), open).await
    }

    fn filter(&self, seed: u64) -> Option<&[u8]> {
        let (_, range) = self.by_seed.iter().find(|(s, _)| *s == seed)?;
        self.bytes.get(range.clone())
    }

    /// False only if the trace is not in the section.
    pub fn may_contain_trace(&self, trace: &TraceId) -> bool {
        self.filter(TRACE_SEED)
            .is_none_or(|f| bloom::may_contain(f, bloom::hash(TRACE_SEED, &trace.0)))
    }

    /// False only if no span of the section has `attribute` with the text `value`. Asks the filter of the attribute's
    /// column, the list of its values, or the filter of the tail, whichever knows.
    pub fn may_contain(&self, index: &BlockIndex, attribute: &AttributeKey, value: &[u8]) -> bool {
        let Some((number, entry)) = index.catalogue_entry(attribute) else {
            return !index.catalogue_is_whole();
        };
        if let Some(listed) = &entry.listed {
            return listed.binary_search_by(|v| (**v).cmp(value)).is_ok();
        }
        let seed = attribute.seed();
        let hash = bloom::hash(seed, value);
        let asked = |seed| self.filter(seed).is_none_or(|f| bloom::may_contain(f, hash));
        let in_column = index.attribute_column(attribute).is_some() && asked(seed);
        let tailed = || {
            index
                .fences()
                .iter()
                .any(|f| f.tail_is_open || f.tail_keys.binary_search(&number).is_ok())
        };
        in_column || (tailed() && asked(TAIL_SEED))
    }

    /// Bytes held on the heap.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len()
    }
}
