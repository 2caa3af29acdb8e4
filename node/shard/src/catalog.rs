//! Which blocks exist and which parts of which logs they cover. Pure: commands in, state out, no IO, no clock.
//!
//! The ring replicates it; every node has the same one. Readers hold a [`CatalogView`], which never changes.
//!
//! What always holds:
//! - **Contiguity.** A flush covers (from, to] of one generation's log and is taken only if `from` is that generation's
//!   watermark, which then becomes `to`. So no entry is in two blocks and none is skipped, whoever flushed: a deposed
//!   leader, or one that lost the reply and tries again, is refused. This one rule gives fencing, crash safety and
//!   exactly-once visibility.
//! - **All or nothing.** [`Command::Replace`] is taken only if every old block is still there and every new one is new;
//!   otherwise nothing changes.
//! - **Nothing is deleted while it may be read.** An object leaves the catalog when no block is in it any more, and is
//!   then listed for deletion not before [`DELETE_GRACE_NANOS`] later. It is forgotten only after that.
//! - **An index is only an index.** Merged trace-id indexes are objects of a tenant beside its blocks. They come, go and are
//!   replaced without a block being any more or less visible, and leave with the tenant's last block.
//! - **Names do not wait.** A flush whose object was named more than [`NAME_AGE_MAX_NANOS`] ago is refused. The collector
//!   of orphans deletes objects of twice that age that are not in the catalog, so it can never race a slow upload.
//! - **Announced before uploaded.** Whoever uploads an object has announced it here first, after its content was complete.
//!   So an object in the bucket that was never announced was not uploaded under this catalog, but perhaps under a newer copy
//!   of it, and the collector leaves it alone ([`crate::collect`]).
//!
//! Not here: generations and their seals (the ring, which calls [`Catalog::open_group`] and [`Catalog::retire_group`]),
//! what is in a block (`block`), which blocks to merge or to delete (compaction, retention).

mod command;
mod encoding;
mod record;
mod view;

pub use self::command::{Change, Command, DeleteReason, Refusal};
pub use self::encoding::DecodeError;
pub use self::record::{
    AHEAD_NANOS, BlockRecord, ByteRange, LogRange, ObjectId, ObjectRecord, SplitTraces, TraceIndexRecord,
};
pub use self::view::{CatalogView, PendingObject, TenantBlocks};

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use model::{BlockId, Generation, LogIndex, ShardId, TenantId};
use plants::Plant;

/// How long an object is kept after no block is in it any more: the longest query plus as much again.
pub const DELETE_GRACE_NANOS: u64 = 3_600 * NANOS_PER_SECOND;
/// How old the name of a flushed object may be. Half of what the collector of orphans waits.
pub const NAME_AGE_MAX_NANOS: u64 = 12 * 3_600 * NANOS_PER_SECOND;
/// Most blocks a catalog holds: about 300 MB of state, far beyond where older records should have been folded away.
pub const BLOCKS_MAX: usize = 1_000_000;
/// Most trace-id indexes of one tenant: each costs a lookup one small read. Sizes double from one to the next, so twenty are
/// many.
pub const TRACE_INDEXES_MAX: usize = 64;
/// Most announced objects that were not named. Flushes that succeed leave none, so these are failed uploads of a day; beyond
/// it the oldest is forgotten, and its object, if there is one, is unknown: nothing is deleted until somebody has looked.
pub const ANNOUNCED_MAX: usize = 10_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// One generation of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// The shard.
    pub shard: ShardId,
    /// Its generation.
    pub generation: Generation,
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard, self.generation)
    }
}

/// The ring's time when a command is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingTime {
    /// Nanoseconds since the Unix epoch, never going backwards.
    pub unix_nanos: u64,
    /// `false` after a jump: then ages prove nothing, nothing may be deleted for its age, and names are not judged.
    pub is_trusted: bool,
}

/// The catalog's owner's side: the only place where it changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    view: Arc<CatalogView>,
}

impl Catalog {
    /// No groups, no blocks.
    pub fn new() -> Self {
        Self::default()
    }

    /// What readers see. Costs nothing; stays as it is while the catalog goes on.
    pub fn view(&self) -> &Arc<CatalogView> {
        &self.view
    }

    /// Starts to cover a generation's log, from its beginning. Says whether it was new.
    pub fn open_group(&mut self, group: GroupKey) -> bool {
        if self.view.watermarks.contains_key(&group) {
            return false;
        }
        let view = self.edit();
        view.watermarks.insert(group, LogIndex(0));
        true
    }

    /// Ends the coverage of a generation: everything up to its final entry is in blocks. From then on it is unknown.
    pub fn retire_group(&mut self, group: GroupKey, last: LogIndex) -> Result<(), Refusal> {
        let watermark = self.view.watermark(group).ok_or(Refusal::UnknownGroup { group })?;
        if watermark != last {
            return Err(Refusal::NotCovered { group, watermark, last });
        }
        self.edit().watermarks.remove(&group);
        Ok(())
    }

    /// Takes one command, or refuses it and changes nothing.
    pub fn apply(&mut self, command: Command, now: RingTime) -> Result<Change, Refusal> {
        match command {
            Command::AddBlock {
                group,
                from,
                to,
                object,
                records,
            } => self.add_block(LogRange { group, from, to }, object, records, now),
            Command::Replace { old, objects, records } => self.replace(&old, objects, records, now),
            Command::Delete { ids, reason: _ } => Ok(self.delete(&ids, now)),
            Command::PutTraceIndex { tenant, old, new } => self.put_trace_index(&tenant, &old, new, now),
            Command::Announce { object } => self.announce(object, now),
            Command::Withdraw { objects } => Ok(self.withdraw(&objects)),
            Command::ForgetObject { object } => self.forget(object, now),
        }
    }

    fn add_block(
        &mut self,
        range: LogRange,
        object: Option<ObjectRecord>,
        records: Vec<BlockRecord>,
        now: RingTime,
    ) -> Result<Change, Refusal> {
        let group = range.group;
        let watermark = self.view.watermark(group).ok_or(Refusal::UnknownGroup { group })?;
        if range.to <= range.from {
            return Err(Refusal::EmptyRange {
                from: range.from,
                to: range.to,
            });
        }
        if range.from != watermark && !plants::is(Plant::SkipContiguity) {
            return Err(Refusal::NotContiguous {
                group,
                watermark,
                from: range.from,
            });
        }
        let objects: Vec<ObjectRecord> = object.into_iter().collect();
        if let Some(object) = objects.first() {
            check_name_age(object.id, now)?;
        }
        self.check_new(&objects, &records, 0)?;
        let view = self.edit();
        view.watermarks.insert(group, range.to);
        let added = insert(view, objects, records, now, Some(range));
        Ok(Change {
            added,
            ..Change::default()
        })
    }

    fn replace(
        &mut self,
        old: &[BlockId],
        objects: Vec<ObjectRecord>,
        records: Vec<BlockRecord>,
        now: RingTime,
    ) -> Result<Change, Refusal> {
        let mut tenants = old
            .iter()
            .map(|id| self.view.tenant_of.get(id).ok_or(Refusal::NoSuchBlock { id: *id }));
        let tenant = tenants.next().ok_or(Refusal::NothingToReplace)??.clone();
        if tenants.any(|other| other != Ok(&tenant)) || records.iter().any(|record| record.tenant != tenant) {
            let missing = old.iter().find(|id| !self.view.tenant_of.contains_key(id));
            return Err(missing.map_or(Refusal::MixedTenants, |id| Refusal::NoSuchBlock { id: *id }));
        }
        let mut distinct = old.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() != old.len() {
            return Err(Refusal::DuplicateBlock);
        }
        objects.iter().try_for_each(|object| check_name_age(object.id, now))?;
        self.check_new(&objects, &records, old.len())?;
        let view = self.edit();
        let gone = if plants::is(Plant::MergeKeepsOld) { &[] } else { old };
        let removed = remove(view, gone, now);
        let added = insert(view, objects, records, now, None);
        Ok(Change {
            added,
            removed,
            ..Change::default()
        })
    }

    fn delete(&mut self, ids: &[BlockId], now: RingTime) -> Change {
        let there: Vec<BlockId> = ids
            .iter()
            .copied()
            .filter(|id| self.view.tenant_of.contains_key(id))
            .collect();
        if there.is_empty() {
            return Change::default();
        }
        let removed = remove(self.edit(), &there, now);
        Change {
            removed,
            ..Change::default()
        }
    }

    fn put_trace_index(
        &mut self,
        tenant: &TenantId,
        old: &[ObjectId],
        new: Option<TraceIndexRecord>,
        now: RingTime,
    ) -> Result<Change, Refusal> {
        if old.is_empty() && new.is_none() {
            return Err(Refusal::NothingToReplace);
        }
        let Some(blocks) = self.view.tenants.get(tenant) else {
            let tenant = tenant.clone();
            return Err(Refusal::NothingToIndex { tenant });
        };
        let mut gone = std::collections::BTreeSet::new();
        for object in old {
            if !blocks.indexes.contains_key(object) || !gone.insert(*object) {
                return Err(Refusal::NoSuchIndex { object: *object });
            }
        }
        if let Some(new) = &new {
            let object = new.object.id;
            check_name_age(object, now)?;
            if self.view.knows_object(object) {
                return Err(Refusal::DuplicateObject { object });
            }
            if new.tenant != *tenant || !new.is_plausible() {
                return Err(Refusal::ImplausibleIndex { object });
            }
            if blocks.indexes.len() - gone.len() >= TRACE_INDEXES_MAX {
                return Err(Refusal::TooManyIndexes {
                    tenant: tenant.clone(),
                    indexes_max: TRACE_INDEXES_MAX,
                });
            }
        }
        let view = self.edit();
        for object in gone {
            remove_index(view, tenant, object, now);
        }
        if let Some(new) = new {
            view.add_index(new);
        }
        Ok(Change::default())
    }

    fn announce(&mut self, object: ObjectId, now: RingTime) -> Result<Change, Refusal> {
        check_name_age(object, now)?;
        if self.view.knows_object(object) {
            return Err(Refusal::DuplicateObject { object });
        }
        if !self.view.is_announced(object) {
            let view = self.edit();
            view.announced.insert(object);
            if view.announced.len() > ANNOUNCED_MAX {
                view.announced.pop_first();
            }
        }
        Ok(Change::default())
    }

    fn withdraw(&mut self, objects: &[ObjectId]) -> Change {
        if objects.iter().any(|object| self.view.is_announced(*object)) {
            let view = self.edit();
            for object in objects {
                view.announced.remove(object);
            }
        }
        Change::default()
    }

    fn forget(&mut self, object: ObjectId, now: RingTime) -> Result<Change, Refusal> {
        let pending = self.view.pending.get(&object).ok_or(Refusal::NotPending { object })?;
        if now.unix_nanos < pending.not_before_unix_nanos {
            return Err(Refusal::TooEarly {
                object,
                not_before_unix_nanos: pending.not_before_unix_nanos,
            });
        }
        self.edit().pending.remove(&object);
        Ok(Change {
            forgotten: 1,
            ..Change::default()
        })
    }

    /// Everything that must be true of blocks that are to be added; `leaving` make room for them.
    fn check_new(&self, objects: &[ObjectRecord], records: &[BlockRecord], leaving: usize) -> Result<(), Refusal> {
        let view = &*self.view;
        check_room(view.tenant_of.len() - leaving, records.len())?;
        let mut named = BTreeMap::new();
        for object in objects {
            if view.knows_object(object.id) || named.insert(object.id, false).is_some() {
                return Err(Refusal::DuplicateObject { object: object.id });
            }
        }
        let mut ids = std::collections::BTreeSet::new();
        for record in records {
            if view.tenant_of.contains_key(&record.id) || !ids.insert(record.id) {
                return Err(Refusal::DuplicateBlock);
            }
            let Some(used) = named.get_mut(&record.object) else {
                return Err(Refusal::UnknownObject { object: record.object });
            };
            *used = true;
            if !record.is_plausible() {
                return Err(Refusal::Implausible { id: record.id });
            }
        }
        // An object without a block would never be deleted.
        match named.into_iter().find(|(_, used)| !used) {
            Some((object, _)) => Err(Refusal::UnusedObject { object }),
            None => Ok(()),
        }
    }

    /// Takes in what another catalog, or a part of one, names; what is known already stays as it is. For a catalog that is
    /// put together from the object store, before anybody uses it. Says how many blocks were new.
    ///
    /// Errors: [`Refusal::Full`], and nothing changed.
    pub fn absorb(&mut self, part: &CatalogView) -> Result<usize, Refusal> {
        let is_new = |id: &&BlockId| !self.view.tenant_of.contains_key(id);
        let new = part.tenant_of.keys().filter(is_new).count();
        check_room(self.view.tenant_of.len(), new)?;
        let revision = self.view.revision.max(part.revision);
        let view = self.edit();
        view.revision = revision + 1;
        for (group, watermark) in &part.watermarks {
            let known = view.watermarks.entry(*group).or_default();
            *known = (*known).max(*watermark);
        }
        for record in part.tenants.values().flat_map(|blocks| blocks.iter()) {
            if view.tenant_of.contains_key(&record.id) {
                continue;
            }
            if let Entry::Vacant(place) = view.objects.entry(record.object) {
                let record = Arc::clone(&part.objects[&record.object].record);
                place.insert(view::LiveObject { record, blocks: 0 });
            }
            view.add((**record).clone());
        }
        for index in part.tenants.values().flat_map(|blocks| blocks.indexes.values()) {
            if !view.index_tenants.contains_key(&index.object.id) && view.tenants.contains_key(&index.tenant) {
                view.add_index((**index).clone());
            }
        }
        for (object, pending) in &part.pending {
            view.pending.entry(*object).or_insert_with(|| pending.clone());
        }
        view.announced.extend(&part.announced);
        let CatalogView {
            objects,
            pending,
            announced,
            index_tenants,
            ..
        } = view;
        pending.retain(|object, _| !objects.contains_key(object));
        announced.retain(|object| {
            !(objects.contains_key(object) || pending.contains_key(object) || index_tenants.contains_key(object))
        });
        while announced.len() > ANNOUNCED_MAX {
            announced.pop_first();
        }
        Ok(new)
    }

    /// The state to change, under the next revision. Readers keep what they have.
    fn edit(&mut self) -> &mut CatalogView {
        let view = Arc::make_mut(&mut self.view);
        view.revision += 1;
        view
    }

    /// Names what `view` names and goes on from there.
    pub fn of(view: CatalogView) -> Self {
        Self { view: Arc::new(view) }
    }

    /// All of it as bytes; equal catalogs have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoding::encode_view(&self.view)
    }

    /// The reverse of [`Catalog::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            view: Arc::new(encoding::decode_view(bytes)?),
        })
    }
}

fn check_name_age(object: ObjectId, now: RingTime) -> Result<(), Refusal> {
    let named_unix_nanos = object.0.unix_millis().saturating_mul(NANOS_PER_MILLI);
    let age_nanos = now.unix_nanos.saturating_sub(named_unix_nanos);
    if now.is_trusted && age_nanos > NAME_AGE_MAX_NANOS {
        return Err(Refusal::NameTooOld { object, age_nanos });
    }
    Ok(())
}

/// Adds blocks that were checked; stamps what only the catalog knows.
fn check_room(staying: usize, coming: usize) -> Result<(), Refusal> {
    let (blocks, blocks_max) = (staying + coming, BLOCKS_MAX);
    if blocks > blocks_max {
        return Err(Refusal::Full { blocks, blocks_max });
    }
    Ok(())
}

fn insert(
    view: &mut CatalogView,
    objects: Vec<ObjectRecord>,
    records: Vec<BlockRecord>,
    now: RingTime,
    source: Option<LogRange>,
) -> usize {
    let added = records.len();
    for object in objects {
        view.announced.remove(&object.id);
        view.objects.insert(
            object.id,
            view::LiveObject {
                record: Arc::new(object),
                blocks: 0,
            },
        );
    }
    for mut record in records {
        record.source = source;
        record.created_unix_nanos = now.unix_nanos;
        view.add(record);
    }
    added
}

/// Takes blocks out that are there; objects that nobody needs any more wait for their deletion.
fn remove(view: &mut CatalogView, ids: &[BlockId], now: RingTime) -> usize {
    let mut removed = 0;
    for id in ids {
        let Some(tenant) = view.tenant_of.remove(id) else {
            continue;
        };
        let Entry::Occupied(mut blocks) = view.tenants.entry(tenant) else {
            unreachable!("every block is listed under its tenant");
        };
        let record = Arc::make_mut(blocks.get_mut())
            .blocks
            .remove(id)
            .expect("every block is listed under its tenant");
        if blocks.get().blocks.is_empty() {
            for index in blocks.remove().indexes.values() {
                view.index_tenants.remove(&index.object.id);
                put_aside(&mut view.pending, Arc::new(index.object.clone()), now);
            }
        }
        removed += 1;
        let Entry::Occupied(mut live) = view.objects.entry(record.object) else {
            unreachable!("every block is in an object");
        };
        live.get_mut().blocks -= 1;
        if live.get().blocks == 0 {
            put_aside(&mut view.pending, live.remove().record, now);
        }
    }
    removed
}

/// An object that nobody needs any more waits for its deletion.
fn put_aside(pending: &mut BTreeMap<ObjectId, PendingObject>, object: Arc<ObjectRecord>, now: RingTime) {
    let not_before_unix_nanos = now.unix_nanos.saturating_add(DELETE_GRACE_NANOS);
    pending.insert(
        object.id,
        PendingObject {
            object,
            not_before_unix_nanos,
        },
    );
}

fn remove_index(view: &mut CatalogView, tenant: &TenantId, object: ObjectId, now: RingTime) {
    view.index_tenants.remove(&object);
    let blocks = view.tenants.get_mut(tenant);
    if let Some(index) = blocks.and_then(|blocks| Arc::make_mut(blocks).indexes.remove(&object)) {
        put_aside(&mut view.pending, Arc::new(index.object.clone()), now);
    }
}

#[cfg(test)]
mod tests;
