//! Blocks that exist, opened: indexes and filters in a bounded cache, and which traces lie in more than one place.
//!
//! What always holds: what is cached belongs to a block or index by its name, and neither ever changes, so nothing here goes
//! stale; a section opened for a tenant was checked to be that tenant's.

use std::collections::HashSet;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::tindex::{Place, TraceIndex};
use block::{Block, BlockIndex, Filters, RangeReader, SectionLocation, StoreReader};
use futures::stream::{self, StreamExt};
use hashbrown::HashMap;
use model::column::Dict;
use model::{BlockId, Scope, TenantId, TraceId};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::catalog::{BlockRecord, CatalogView, ObjectId, SplitTraces, TraceIndexRecord};
use crate::chunk::row_group::read_error;
use crate::decoded_cache::DecodedCache;
use crate::error::{Error, Result};
use crate::spool::SpooledBlock;
use crate::store::Store;

/// Ids a catalog record lists; beyond, every trace of the block counts as split. 16 bytes each make 256 KiB.
pub const SPLIT_TRACES_MAX: usize = 16 * 1024;

/// Blocks opened at once. Most are in the cache already.
const OPENS_IN_FLIGHT: usize = 16;

/// Per scope and key: one value per owner, or `None` when no owner has the attribute.
type OwnerValues = HashMap<(Scope, Arc<str>), Option<Arc<Dict>>>;

/// Keys of the attributes of events or links, by row group.
type NestedKeys = HashMap<(usize, Scope), Arc<[Arc<str>]>>;

/// Keys of resources and scopes, asked for and remembered at once, of one block.
const OWNER_KEYS_MAX: usize = 256;
/// Longer lists of keys are not remembered.
const NESTED_KEYS_MAX: usize = 1024;

/// A catalog revision, and the traces its records list as split.
type Listed = (u64, Arc<HashSet<TraceId>>);

/// One tenant's section of a block, ready to be searched.
#[derive(Debug)]
pub struct OpenBlock {
    block: Block,
    filters: Filters,
    owner_values: Mutex<OwnerValues>,
    nested_keys: Mutex<NestedKeys>,
    /// `None` for a spooled block, which is another object in a moment.
    decoded: Option<Arc<DecodedCache>>,
    /// Keeps the file of a spooled block.
    _spooled: Option<Arc<SpooledBlock>>,
}

impl OpenBlock {
    /// For reads.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// What is where.
    pub fn index(&self) -> &Arc<BlockIndex> {
        self.block.index()
    }

    /// What is certainly not here.
    pub fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Values of a resource or scope attribute per owner, decoded once.
    pub fn owner_values(&self, scope: Scope, key: &Arc<str>) -> query::Result<Option<Arc<Dict>>> {
        if let Some(known) = self.owner_values.lock().get(&(scope, Arc::clone(key))) {
            return Ok(known.clone());
        }
        let values = self.index().owner_values(scope, key.as_bytes()).map_err(read_error)?;
        let mut known = self.owner_values.lock();
        // Questions choose the keys: somebody who asks for ever new ones does not fill the memory.
        if known.len() >= OWNER_KEYS_MAX {
            known.clear();
        }
        known.insert((scope, Arc::clone(key)), values.clone());
        Ok(values)
    }

    /// Keys of the attributes of a row group's events or links, if they were looked through before.
    pub fn nested_keys(&self, group: usize, scope: Scope) -> Option<Arc<[Arc<str>]>> {
        self.nested_keys.lock().get(&(group, scope)).map(Arc::clone)
    }

    /// Remembers such keys. Row groups of a block mostly have the same ones, which are kept once.
    pub fn know_nested_keys(&self, group: usize, scope: Scope, keys: &[Arc<str>]) {
        if keys.len() > NESTED_KEYS_MAX {
            return;
        }
        let mut known = self.nested_keys.lock();
        let same = known.values().find(|others| ***others == *keys).map(Arc::clone);
        known.insert((group, scope), same.unwrap_or_else(|| keys.into()));
    }

    /// Where what is decoded of it stays.
    pub(crate) fn decoded(&self) -> Option<&DecodedCache> {
        self.decoded.as_deref()
    }

    /// Whether the trace may be here.
    pub fn may_contain_trace(&self, trace: &TraceId) -> bool {
        !self.index().groups_of_trace(trace).is_empty() && self.filters.may_contain_trace(trace)
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<BlockId, Arc<OpenBlock>> for ByBytes {
    fn weight(&self, _: &BlockId, block: &Arc<OpenBlock>) -> u64 {
        (block.index().memory_bytes() + block.filters.memory_bytes() + 1024) as u64
    }
}

/// A merged trace-id index, ready to be asked.
#[derive(Debug)]
pub struct OpenIndex {
    index: TraceIndex,
    /// Number of each block, by its object and where its index section starts.
    numbers: HashMap<(ObjectId, u64), u32>,
}

impl OpenIndex {
    /// The number that [`OpenIndex::find`] gives the block; `None` when it is not covered.
    pub fn number_of(&self, record: &BlockRecord) -> Option<u32> {
        self.numbers.get(&(record.object, record.index.offset)).copied()
    }

    /// Where a trace may be: one small read. Some of the blocks may have left the catalog.
    pub async fn find(&self, trace: &TraceId) -> Result<Vec<Place>> {
        Ok(self.index.find(trace).await?)
    }

    /// Bytes of a row group of a block, to be fetched before the block is opened.
    pub fn row_group(&self, place: Place) -> Option<std::ops::Range<u64>> {
        let block = self.index.blocks().get(place.block as usize)?;
        block.row_groups.get(place.row_group as usize).cloned()
    }
}

#[derive(Debug, Clone)]
struct IndexByBytes;

impl Weighter<ObjectId, Arc<OpenIndex>> for IndexByBytes {
    fn weight(&self, _: &ObjectId, index: &Arc<OpenIndex>) -> u64 {
        (index.index.memory_bytes() + 48 * index.numbers.len() + 1024) as u64
    }
}

/// What is known of a live table or spooled block against the blocks of the catalog: per block how many of its traces
/// were checked, and which of those may be in it too.
type Checked = HashMap<BlockId, (usize, Vec<TraceId>)>;

/// Two blocks, the smaller id first.
type Pair = (BlockId, BlockId);

/// Traces that two blocks may share.
#[derive(Debug, Clone)]
pub enum SharedTraces {
    /// These.
    Listed(Arc<[TraceId]>),
    /// Any: one of the blocks has too many split traces to list.
    Unknown,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Blocks {
    store: Store,
    reader: Arc<dyn RangeReader>,
    spool: Arc<dyn RangeReader>,
    decoded: Arc<DecodedCache>,
    open: Cache<BlockId, Arc<OpenBlock>, ByBytes>,
    indexes: Cache<ObjectId, Arc<OpenIndex>, IndexByBytes>,
    /// Per tenant: the union of what the records of one catalog revision list.
    listed: Mutex<HashMap<TenantId, Listed>>,
    /// Per part of a tail, by its address-free identity (group, first log index, tenant).
    checked: Mutex<HashMap<PartKey, Checked>>,
    /// What two blocks share.
    pairs: Mutex<HashMap<Pair, Arc<[TraceId]>>>,
    unlistable: AtomicU64,
}

/// Identity of a part of a shard's tail.
pub type PartKey = (crate::catalog::GroupKey, model::LogIndex, TenantId);

/// Pairs of blocks remembered at most, about 100 bytes each: 64 blocks inside a window against a thousand outside.
const PAIRS_MAX: usize = 64 * 1024;

/// Parts of tails remembered at most; a node has a few per shard and tenant.
const CHECKED_MAX: usize = 4096;

impl Blocks {
    /// Blocks in `store` and in the spool directory, with at most `cache_bytes` of indexes and filters in memory.
    pub fn new(
        store: Store,
        reader: Arc<dyn RangeReader>,
        decoded: Arc<DecodedCache>,
        spool_dir: &FilePath,
        cache_bytes: u64,
    ) -> Result<Self> {
        let local = LocalFileSystem::new_with_prefix(spool_dir);
        let local: Arc<dyn ObjectStore> = Arc::new(local.map_err(|source| Error::Store {
            operation: "open",
            path: spool_dir.display().to_string(),
            source,
        })?);
        Ok(Self {
            store,
            reader,
            spool: Arc::new(StoreReader::new(local)),
            decoded,
            // About 300 KB per block of a million spans.
            open: Cache::with_weighter((cache_bytes / (256 << 10)).max(64) as usize, cache_bytes, ByBytes),
            // Beside it: some 40 KB per million traces.
            indexes: Cache::with_weighter(256, (cache_bytes / 4).max(1 << 20), IndexByBytes),
            listed: Mutex::default(),
            checked: Mutex::default(),
            pairs: Mutex::default(),
            unlistable: AtomicU64::new(0),
        })
    }

    /// The block, if it is open already.
    pub fn cached(&self, id: BlockId) -> Option<Arc<OpenBlock>> {
        self.open.get(&id)
    }

    /// Opens a trace-id index the catalog names: one read, or none when it is cached.
    pub async fn open_index(&self, record: &TraceIndexRecord) -> Result<Arc<OpenIndex>> {
        let load = async {
            let path = self.store.path(&record.object.path);
            let footer = record.object.footer;
            let range = footer.offset..footer.end().unwrap_or(record.object.bytes);
            let reader = Arc::clone(&self.reader);
            let index = TraceIndex::open(reader, path.as_ref(), range, &record.tenant).await?;
            let numbers = (0..).zip(index.blocks()).filter_map(|(number, block)| {
                let object = Store::object_of_key(&block.object)?;
                Some(((object, block.location.index.start), number))
            });
            let numbers = numbers.collect();
            Ok(Arc::new(OpenIndex { index, numbers }))
        };
        self.indexes.get_or_insert_async(&record.object.id, load).await
    }

    /// Reads bytes of a block's object, unchecked.
    pub(crate) async fn read_raw(
        &self,
        view: &CatalogView,
        record: &BlockRecord,
        range: std::ops::Range<u64>,
    ) -> Result<(Arc<str>, bytes::Bytes)> {
        let path: Arc<str> = self.path_of(view, record)?.as_ref().into();
        let mut parts = self.reader.read(&path, std::slice::from_ref(&range)).await?;
        let bytes = parts.pop().unwrap_or_default();
        Ok((path, bytes))
    }

    fn path_of(&self, view: &CatalogView, record: &BlockRecord) -> Result<object_store::path::Path> {
        let object = view.object(record.object);
        let object = object.ok_or_else(|| Error::Ring("block without object".to_owned()))?;
        Ok(self.store.path(&object.path))
    }

    /// Opens a block the catalog names: two small reads at the same time, or none when it is cached.
    pub async fn open(&self, view: &CatalogView, record: &BlockRecord) -> Result<Arc<OpenBlock>> {
        let load = async {
            let path = self.path_of(view, record)?;
            let location = SectionLocation {
                index: record.index.offset..record.index.offset + record.index.length,
                bloom: record.bloom.offset..record.bloom.offset + record.bloom.length,
            };
            self.open_at(&self.reader, path.as_ref(), &location, &record.tenant, None)
                .await
        };
        self.open.get_or_insert_async(&record.id, load).await
    }

    /// Opens a tenant's section of a spooled block.
    pub async fn open_spooled(&self, spooled: &Arc<SpooledBlock>, section: usize) -> Result<Arc<OpenBlock>> {
        let section = spooled.summary().sections.get(section);
        let section = section.ok_or_else(|| Error::Ring("spooled block without section".to_owned()))?;
        let name = spooled
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let location = SectionLocation::from(section);
        self.open_at(&self.spool, name, &location, &section.tenant, Some(Arc::clone(spooled)))
            .await
    }

    async fn open_at(
        &self,
        reader: &Arc<dyn RangeReader>,
        path: &str,
        location: &SectionLocation,
        tenant: &TenantId,
        spooled: Option<Arc<SpooledBlock>>,
    ) -> Result<Arc<OpenBlock>> {
        let block = Block::open(Arc::clone(reader), path, location, tenant);
        let filters = Filters::read(reader, path, location.bloom.clone());
        let (block, filters) = futures::try_join!(block, filters)?;
        Ok(Arc::new(OpenBlock {
            block,
            filters,
            owner_values: Mutex::default(),
            nested_keys: Mutex::default(),
            decoded: spooled.is_none().then(|| Arc::clone(&self.decoded)),
            _spooled: spooled,
        }))
    }

    /// Which of `traces` may also be in a block the catalog names: what a new block's record lists, together with those
    /// that lie in several of its own row groups.
    ///
    /// A damaged block may hold anything in its range of ids: nobody's flush waits until it is repaired. Errors: the store
    /// cannot be asked now; try again.
    pub async fn split_traces(
        &self,
        view: &CatalogView,
        tenant: &TenantId,
        traces: &[TraceId],
        cut_within: &[TraceId],
    ) -> Result<SplitTraces> {
        let mut split: HashSet<TraceId> = cut_within.iter().copied().collect();
        let opened = stream::iter(view.blocks_of(tenant).map(Arc::clone));
        let mut opened = opened
            .map(|record| async move { (self.open(view, &record).await, record) })
            .buffer_unordered(OPENS_IN_FLIGHT);
        while let Some((block, record)) = opened.next().await {
            let block = match block {
                Ok(block) => Some(block),
                Err(error) if error.damaged_object().is_some() => {
                    self.unlistable.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a damaged block may hold parts of any trace"
                    );
                    None
                }
                Err(error) => return Err(error),
            };
            let may_hold = |trace: &TraceId| block.as_ref().is_none_or(|block| block.may_contain_trace(trace));
            let both = |trace: &&TraceId| record.may_contain(trace) && may_hold(trace);
            split.extend(traces.iter().filter(both));
        }
        let mut listed: Vec<TraceId> = split.into_iter().collect();
        listed.sort_unstable();
        Ok(if listed.len() > SPLIT_TRACES_MAX {
            SplitTraces::All
        } else {
            SplitTraces::Listed(listed.into())
        })
    }

    /// Traces that records of the tenant list as split.
    pub fn listed_splits(&self, view: &CatalogView, tenant: &TenantId) -> Arc<HashSet<TraceId>> {
        let mut listed = self.listed.lock();
        if let Some((revision, set)) = listed.get(tenant)
            && *revision == view.revision()
        {
            return Arc::clone(set);
        }
        let mut set = HashSet::new();
        for record in view.blocks_of(tenant) {
            if let SplitTraces::Listed(traces) = &record.split_traces {
                set.extend(traces.iter().copied());
            }
        }
        let set = Arc::new(set);
        listed.insert(tenant.clone(), (view.revision(), Arc::clone(&set)));
        set
    }

    /// Finds the traces of a part of the tail that may also be in blocks of the catalog, by block. `traces` are the part's,
    /// in the order they came, so that only new ones are checked again.
    pub fn check_part(
        &self,
        key: &PartKey,
        blocks: &[(BlockId, Arc<OpenBlock>)],
        traces: &[TraceId],
        homes: &mut HashMap<BlockId, Vec<TraceId>>,
    ) {
        let mut parts = self.checked.lock();
        if parts.len() >= CHECKED_MAX && !parts.contains_key(key) {
            parts.clear();
        }
        let checked = parts.entry(key.clone()).or_default();
        if checked.len() > 2 * blocks.len() + 64 {
            // Blocks that were merged away.
            checked.retain(|id, _| blocks.iter().any(|(known, _)| known == id));
        }
        for (id, block) in blocks {
            // A block that was checked before needs a look only at what came since.
            let (seen, found) = checked.entry(*id).or_default();
            found.extend(traces.iter().skip(*seen).filter(|trace| block.may_contain_trace(trace)));
            *seen = traces.len();
            if !found.is_empty() {
                homes.entry(*id).or_default().extend(found.iter().copied());
            }
        }
    }

    /// Traces that two blocks may share. Of two blocks that share a trace the one made later lists it, so that each is
    /// asked for what the other lists. Remembered, as neither ever changes.
    pub fn shared_traces(&self, one: (&BlockRecord, &OpenBlock), other: (&BlockRecord, &OpenBlock)) -> SharedTraces {
        let (SplitTraces::Listed(of_one), SplitTraces::Listed(of_other)) = (&one.0.split_traces, &other.0.split_traces)
        else {
            return SharedTraces::Unknown;
        };
        let key = (one.0.id.min(other.0.id), one.0.id.max(other.0.id));
        if let Some(known) = self.pairs.lock().get(&key) {
            return SharedTraces::Listed(Arc::clone(known));
        }
        let held_by = |record: &BlockRecord, block: &OpenBlock, traces: &[TraceId]| -> Vec<TraceId> {
            let held = |trace: &&TraceId| record.may_contain(trace) && block.may_contain_trace(trace);
            traces.iter().filter(held).copied().collect()
        };
        let mut shared = held_by(other.0, other.1, of_one);
        shared.extend(held_by(one.0, one.1, of_other));
        shared.sort_unstable();
        shared.dedup();
        let shared: Arc<[TraceId]> = shared.into();
        let mut pairs = self.pairs.lock();
        if pairs.len() >= PAIRS_MAX {
            pairs.clear();
        }
        pairs.insert(key, Arc::clone(&shared));
        SharedTraces::Listed(shared)
    }

    /// How often a damaged block had to be taken for one that may hold any trace.
    pub fn unlistable(&self) -> u64 {
        self.unlistable.load(Ordering::Relaxed)
    }

    /// Bytes of indexes and filters in memory.
    pub fn cached_bytes(&self) -> u64 {
        self.open.weight() + self.indexes.weight()
    }
}
