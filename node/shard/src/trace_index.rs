//! Merged trace-id indexes: made when many blocks of a tenant would have to be asked one by one for a trace.
//!
//! With them a lookup reads one small page per index instead of the index and filter of every block. An index is only an
//! index: losing one costs time and never an answer, and whoever finds a trace through it still asks the catalog whether
//! the block is there ([`crate::trace`]).
//!
//! [`choose`] says what to index: pure. [`Indexer`] does it:
//!
//! ```text
//! coverage (directories) ─► choose ─► trace ids of the blocks ─► index ─► Announce, upload ─► PutTraceIndex{old, new}
//! ```
//!
//! What always holds:
//! - Indexes grow by doubling: a new one takes in those that are not larger than itself. So a tenant has few, and a trace id
//!   is written about once per doubling.
//! - Nobody needs to know who else indexes: [`Command::PutTraceIndex`] is all or nothing.
//! - A crash or an error between any two steps leaves at most an object that nobody names, which [`crate::collect`]
//!   deletes.
//!
//! Not here: the bytes of an index ([`block::tindex`]), when is looked (`server`).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use block::SectionLocation;
use block::tindex::{BLOCKS_MAX, ENTRIES_MAX, TraceIndexWriter};
use bytes::Bytes;
use model::{BlockId, TenantId};
use parking_lot::Mutex;
use twox_hash::XxHash3_64;

use crate::blocks::Blocks;
use crate::catalog::{BlockRecord, ByteRange, CatalogView, Command, ObjectId, ObjectRecord, Refusal, TraceIndexRecord};
use crate::error::{Error, Result};
use crate::housekeeping::{HousekeepingMetrics, count};
use crate::port::CatalogPort;
use crate::store::Store;

/// Blocks without an index that make one worth while. Fewer are asked one by one, all at once: two small reads each, or
/// none while they are in the cache, as those are that this node has flushed itself.
pub const UNCOVERED_MAX: usize = 16;

/// An index of the catalog, and which of its blocks are still there.
#[derive(Debug, Clone)]
pub struct Covered {
    /// Its name.
    pub object: ObjectId,
    /// Blocks of the catalog that it covers.
    pub blocks: Vec<Arc<BlockRecord>>,
}

/// An index to be made, and those it replaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Superfluous afterwards.
    pub old: Vec<ObjectId>,
    /// Blocks to cover; none when there is nothing to make.
    pub blocks: Vec<Arc<BlockRecord>>,
}

/// What to index of a tenant's `blocks`; `None` when all is well.
pub fn choose(blocks: &[Arc<BlockRecord>], indexes: &[Covered]) -> Option<Choice> {
    let covered: HashSet<BlockId> = indexes
        .iter()
        .flat_map(|index| &index.blocks)
        .map(|record| record.id)
        .collect();
    let mut uncovered: Vec<_> = blocks
        .iter()
        .filter(|record| !covered.contains(&record.id) && entries(record) <= ENTRIES_MAX as u64)
        .collect();
    let mut choice = Choice {
        old: indexes
            .iter()
            .filter(|index| index.blocks.is_empty())
            .map(|index| index.object)
            .collect(),
        blocks: Vec::new(),
    };
    if uncovered.len() < UNCOVERED_MAX {
        return (!choice.old.is_empty()).then_some(choice);
    }
    // The small ones first: each saves one question. What does not fit waits for the next index.
    uncovered.sort_by_key(|record| (entries(record), record.id));
    let mut room = Room::default();
    for record in uncovered {
        if room.take(1, entries(record)) {
            choice.blocks.push(Arc::clone(record));
        }
    }
    let size = |index: &Covered| index.blocks.iter().map(|record| entries(record)).sum::<u64>();
    let mut smaller: Vec<_> = indexes.iter().filter(|index| !index.blocks.is_empty()).collect();
    smaller.sort_by_key(|index| (size(index), index.object));
    for index in smaller {
        if size(index) > room.entries || !room.take(index.blocks.len(), size(index)) {
            break;
        }
        choice.old.push(index.object);
        choice.blocks.extend(index.blocks.iter().map(Arc::clone));
    }
    choice.blocks.sort_by_key(|record| record.id);
    Some(choice)
}

/// What one index has taken in.
#[derive(Debug, Default)]
struct Room {
    blocks: usize,
    entries: u64,
}

impl Room {
    fn take(&mut self, blocks: usize, entries: u64) -> bool {
        let fits = self.blocks + blocks <= BLOCKS_MAX && self.entries + entries <= ENTRIES_MAX as u64;
        if fits {
            self.blocks += blocks;
            self.entries += entries;
        }
        fits
    }
}

/// Entries of a block: a trace that was cut stands in several row groups, once in each.
fn entries(record: &BlockRecord) -> u64 {
    record.traces + u64::from(record.row_groups.end.saturating_sub(record.row_groups.start))
}

/// How a look at a tenant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Nothing,
    /// An index over so many blocks has taken the place of so many others.
    Indexed { blocks: usize, replaced: usize },
    /// Indexes of blocks that are all gone were dropped.
    Dropped(usize),
    /// Somebody else was faster.
    Lost,
}

/// Makes indexes. See the module's documentation.
#[derive(Clone)]
pub struct Indexer {
    /// Where indexes go.
    pub store: Store,
    /// Who names them.
    pub catalog: Arc<dyn CatalogPort>,
    /// To read blocks and directories.
    pub blocks: Arc<Blocks>,
    /// Makes names: version 7 UUIDs.
    pub new_block_id: Arc<dyn Fn() -> BlockId + Send + Sync>,
    /// Where to count.
    pub metrics: Arc<HousekeepingMetrics>,
    /// Blocks whose traces could not be read. They are asked one by one, as before.
    pub damaged: Arc<Mutex<HashSet<BlockId>>>,
}

impl std::fmt::Debug for Indexer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Indexer").finish_non_exhaustive()
    }
}

impl Indexer {
    /// Looks at a tenant, and makes an index if it is worth while. Reads the directories of the tenant's indexes into
    /// memory on the way, where lookups find them.
    ///
    /// Errors: nothing has changed; an object that nobody names may be left.
    /// Cancel: the same.
    pub async fn run(&self, tenant: &TenantId) -> Result<Outcome> {
        let view = self.catalog.view();
        let indexes = self.coverage(&view, tenant).await?;
        let blocks: Vec<_> = {
            let mut damaged = self.damaged.lock();
            damaged.retain(|id| view.block(*id).is_some());
            let is_whole = |record: &&Arc<BlockRecord>| !damaged.contains(&record.id);
            view.blocks_of(tenant).filter(is_whole).map(Arc::clone).collect()
        };
        let Some(Choice { old, blocks }) = choose(&blocks, &indexes) else {
            return Ok(Outcome::Nothing);
        };
        let replaced = old.len();
        let new = self.make(&view, tenant, &blocks).await?;
        let outcome = match &new {
            Some(new) => Outcome::Indexed {
                blocks: new.blocks as usize,
                replaced,
            },
            None => Outcome::Dropped(replaced),
        };
        if new.is_none() && old.is_empty() {
            return Ok(Outcome::Nothing);
        }
        let object = new.as_ref().map(|new| new.object.id);
        let tenant = tenant.clone();
        match self.catalog.change(Command::PutTraceIndex { tenant, old, new }).await {
            Ok(_) => {}
            // The reply may have been lost; the name tells.
            Err(_) if object.is_some_and(|object| self.catalog.view().knows_object(object)) => {}
            Err(Error::Refused(Refusal::NoSuchIndex { .. } | Refusal::NothingToIndex { .. })) => {
                return Ok(Outcome::Lost);
            }
            Err(error) => return Err(error),
        }
        if object.is_some() {
            count(&self.metrics.trace_indexes_written, 1);
        }
        Ok(outcome)
    }

    /// The tenant's indexes with their blocks that are still there. One that is damaged covers nothing.
    async fn coverage(&self, view: &CatalogView, tenant: &TenantId) -> Result<Vec<Covered>> {
        let mut indexes = Vec::new();
        for record in view.trace_indexes_of(tenant) {
            let blocks = match self.blocks.open_index(record).await {
                Ok(index) => {
                    let there = view.blocks_of(tenant).filter(|block| index.number_of(block).is_some());
                    there.map(Arc::clone).collect()
                }
                Err(error) if error.damaged_object().is_some() => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a trace index is damaged; it is replaced"
                    );
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            let object = record.object.id;
            indexes.push(Covered { object, blocks });
        }
        Ok(indexes)
    }

    /// Writes and uploads an index; `None` when no block is left to cover.
    async fn make(
        &self,
        view: &CatalogView,
        tenant: &TenantId,
        blocks: &[Arc<BlockRecord>],
    ) -> Result<Option<TraceIndexRecord>> {
        let mut writer = TraceIndexWriter::new(tenant);
        let mut entries_by_block = BTreeMap::new();
        for record in blocks {
            match self.add(view, record, &mut writer).await {
                Ok(()) => {
                    entries_by_block.insert(record.id, entries(record));
                }
                Err(error) if error.damaged_object().is_some() => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        block = %record.id,
                        "the traces of a damaged block cannot be indexed"
                    );
                    self.damaged.lock().insert(record.id);
                }
                Err(error) => return Err(error),
            }
        }
        if entries_by_block.is_empty() {
            return Ok(None);
        }
        let written = tokio::task::spawn_blocking(move || writer.finish());
        let (body, directory) = written.await.expect("writing an index does not panic")?;
        let id = ObjectId((self.new_block_id)());
        self.catalog.change(Command::Announce { object: id }).await?;
        let key = Store::trace_index_key(tenant, id.0);
        let bytes = body.len() as u64;
        let checksum = XxHash3_64::oneshot(&body);
        let etag = self.store.upload(&key, Bytes::from(body)).await?;
        Ok(Some(TraceIndexRecord {
            tenant: tenant.clone(),
            object: ObjectRecord {
                id,
                path: Arc::from(key),
                bytes,
                footer: ByteRange {
                    offset: directory,
                    length: bytes - directory,
                },
                checksum,
                etag,
            },
            blocks: u32::try_from(entries_by_block.len()).unwrap_or(u32::MAX),
            entries: entries_by_block.values().sum(),
        }))
    }

    async fn add(&self, view: &CatalogView, record: &BlockRecord, writer: &mut TraceIndexWriter) -> Result<()> {
        let open = self.blocks.open(view, record).await?;
        let location = SectionLocation {
            index: record.index.offset..record.index.offset + record.index.length,
            bloom: record.bloom.offset..record.bloom.offset + record.bloom.length,
        };
        Ok(writer.add(open.block(), &location).await?)
    }
}

#[cfg(test)]
mod tests;
