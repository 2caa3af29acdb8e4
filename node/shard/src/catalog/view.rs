//! The catalog as readers see it: a value that never changes, with a revision to compare by.
//!
//! A change copies the outer maps and the blocks of the tenants it touches, not those of others; records are shared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{BlockId, LogIndex, TenantId};

use super::{BlockRecord, GroupKey, ObjectId, ObjectRecord, SplitTraces, TraceIndexRecord};

/// What a block and its object take when encoded, without lists.
const RECORD_BYTES: usize = 400;

/// The catalog at one revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CatalogView {
    pub(super) revision: u64,
    pub(super) watermarks: BTreeMap<GroupKey, LogIndex>,
    pub(super) tenants: BTreeMap<TenantId, Arc<TenantBlocks>>,
    pub(super) objects: BTreeMap<ObjectId, LiveObject>,
    pub(super) pending: BTreeMap<ObjectId, PendingObject>,
    /// About to be uploaded, or uploaded and never named.
    pub(super) announced: BTreeSet<ObjectId>,
    /// Finds a block without knowing its tenant.
    pub(super) tenant_of: BTreeMap<BlockId, TenantId>,
    /// Finds a trace-id index without knowing its tenant.
    pub(super) index_tenants: BTreeMap<ObjectId, TenantId>,
}

/// An object that blocks are in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LiveObject {
    pub(super) record: Arc<ObjectRecord>,
    /// How many.
    pub(super) blocks: usize,
}

/// The blocks of one tenant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TenantBlocks {
    pub(super) blocks: BTreeMap<BlockId, Arc<BlockRecord>>,
    pub(super) indexes: BTreeMap<ObjectId, Arc<TraceIndexRecord>>,
}

/// An object that is no longer needed and may be deleted from some time on.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingObject {
    /// Which.
    pub object: Arc<ObjectRecord>,
    /// Ring time before which a query may still read it.
    pub not_before_unix_nanos: u64,
}

impl CatalogView {
    /// Whether something is, or may still be, in the object store by the catalog's account.
    pub fn names_objects(&self) -> bool {
        !(self.objects.is_empty() && self.pending.is_empty() && self.index_tenants.is_empty())
    }

    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Up to where blocks cover the generation's log; `None` if it is not open or was retired.
    pub fn watermark(&self, group: GroupKey) -> Option<LogIndex> {
        self.watermarks.get(&group).copied()
    }

    /// All generations that are covered, with their watermarks.
    pub fn watermarks(&self) -> impl Iterator<Item = (GroupKey, LogIndex)> {
        self.watermarks.iter().map(|(group, watermark)| (*group, *watermark))
    }

    /// Tenants that have blocks.
    pub fn tenants(&self) -> impl Iterator<Item = (&TenantId, &TenantBlocks)> {
        self.tenants.iter().map(|(tenant, blocks)| (tenant, &**blocks))
    }

    /// The blocks of a tenant, oldest id first.
    pub fn blocks_of<'a>(&'a self, tenant: &TenantId) -> impl Iterator<Item = &'a Arc<BlockRecord>> + use<'a> {
        self.tenants.get(tenant).into_iter().flat_map(|blocks| blocks.iter())
    }

    /// A block by its id.
    pub fn block(&self, id: BlockId) -> Option<&Arc<BlockRecord>> {
        self.tenants.get(self.tenant_of.get(&id)?)?.blocks.get(&id)
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> usize {
        self.tenant_of.len()
    }

    /// The object a block is in.
    pub fn object(&self, id: ObjectId) -> Option<&Arc<ObjectRecord>> {
        self.objects.get(&id).map(|live| &live.record)
    }

    /// Whether the catalog names this object. If not, it is an orphan if it was announced, and not this catalog's otherwise.
    pub fn knows_object(&self, id: ObjectId) -> bool {
        self.objects.contains_key(&id) || self.pending.contains_key(&id) || self.index_tenants.contains_key(&id)
    }

    /// Whether this object was announced and has not been named since.
    pub fn is_announced(&self, id: ObjectId) -> bool {
        self.announced.contains(&id)
    }

    /// Objects that were announced and not named, oldest name first.
    pub fn announced(&self) -> impl Iterator<Item = ObjectId> {
        self.announced.iter().copied()
    }

    /// The merged trace-id indexes of a tenant, oldest name first.
    pub fn trace_indexes_of<'a>(
        &'a self,
        tenant: &TenantId,
    ) -> impl Iterator<Item = &'a Arc<TraceIndexRecord>> + use<'a> {
        let blocks = self.tenants.get(tenant);
        blocks.into_iter().flat_map(|blocks| blocks.indexes.values())
    }

    /// How many merged trace-id indexes there are.
    pub fn trace_index_count(&self) -> usize {
        self.index_tenants.len()
    }

    /// Objects that blocks are in.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<ObjectRecord>> {
        self.objects.values().map(|live| &live.record)
    }

    /// Keys of all objects that are still read: of blocks and of trace-id indexes.
    pub fn object_keys(&self) -> impl Iterator<Item = &str> {
        let indexes = self.tenants.values().flat_map(|blocks| blocks.indexes.values());
        let indexes = indexes.map(|index| &*index.object.path);
        self.objects().map(|object| &*object.path).chain(indexes)
    }

    /// Whether this object waits for its deletion.
    pub fn is_pending(&self, id: ObjectId) -> bool {
        self.pending.contains_key(&id)
    }

    /// Objects that wait for their deletion.
    pub fn pending(&self) -> impl Iterator<Item = &PendingObject> {
        self.pending.values()
    }

    /// Some blocks of this catalog with their objects, and nothing else: neither a revision nor trace-id indexes.
    pub fn only<'a>(&self, records: impl IntoIterator<Item = &'a Arc<BlockRecord>>) -> Self {
        let mut part = Self::default();
        for record in records {
            let object = part.objects.entry(record.object);
            object.or_insert_with(|| LiveObject {
                record: Arc::clone(&self.objects[&record.object].record),
                blocks: 0,
            });
            part.add((**record).clone());
        }
        part
    }

    /// A catalog of one object and the blocks in it. Blocks that name another object, or none at all, make none.
    pub fn of_object(object: ObjectRecord, records: Vec<BlockRecord>) -> Self {
        let mut part = Self::default();
        let id = object.id;
        let mut records = records.into_iter().filter(|record| record.object == id).peekable();
        if records.peek().is_some() {
            let record = Arc::new(object);
            part.objects.insert(id, LiveObject { record, blocks: 0 });
        }
        records.for_each(|record| part.add(record));
        part
    }

    /// A catalog that knows nothing but that these objects may be in the bucket.
    pub fn of_announced(objects: impl IntoIterator<Item = ObjectId>) -> Self {
        Self {
            announced: objects.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The same catalog, covering no generation.
    pub fn without_watermarks(&self) -> Self {
        Self {
            watermarks: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// The same catalog, but for trace-id indexes, in parts for [`super::Catalog::absorb`]: each has as many blocks as make
    /// about `bytes` when encoded.
    pub fn parts(&self, bytes: usize) -> Vec<Self> {
        let mut parts = vec![self.with_only([])];
        let (mut records, mut size) = (Vec::new(), 0);
        for record in self.tenants().flat_map(|(_, blocks)| blocks.iter()) {
            records.push(record);
            size += match &record.split_traces {
                SplitTraces::Listed(traces) => RECORD_BYTES + size_of_val(&**traces),
                SplitTraces::All => RECORD_BYTES,
            };
            if size >= bytes {
                parts.push(self.only(records.drain(..)));
                size = 0;
            }
        }
        parts.push(self.only(records));
        parts
    }

    /// The same catalog with only some of its blocks and without trace-id indexes.
    pub fn with_only<'a>(&self, records: impl IntoIterator<Item = &'a Arc<BlockRecord>>) -> Self {
        Self {
            revision: self.revision,
            watermarks: self.watermarks.clone(),
            pending: self.pending.clone(),
            announced: self.announced.clone(),
            ..self.only(records)
        }
    }

    /// Lists a trace-id index of a tenant that has blocks.
    pub(super) fn add_index(&mut self, index: TraceIndexRecord) {
        self.announced.remove(&index.object.id);
        self.index_tenants.insert(index.object.id, index.tenant.clone());
        let blocks = self.tenants.entry(index.tenant.clone()).or_default();
        Arc::make_mut(blocks).indexes.insert(index.object.id, Arc::new(index));
    }

    /// Lists a block whose object is known.
    pub(super) fn add(&mut self, record: BlockRecord) {
        let object = self
            .objects
            .get_mut(&record.object)
            .expect("a block is added after its object");
        object.blocks += 1;
        self.tenant_of.insert(record.id, record.tenant.clone());
        let blocks = self.tenants.entry(record.tenant.clone()).or_default();
        Arc::make_mut(blocks).blocks.insert(record.id, Arc::new(record));
    }
}

impl TenantBlocks {
    /// The blocks, oldest id first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<BlockRecord>> {
        self.blocks.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there are none; a tenant without blocks is not listed.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}
