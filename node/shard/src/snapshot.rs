//! What one question reads: the catalog at one revision and, above its watermarks, the tails of the shards.
//!
//! The order is the point. The catalog is taken first; then each shard is asked for what lies above that catalog's
//! watermark. Blocks and tails then partition the log: no span is missing and none is there twice, wherever a flush stands.
//! A shard that has already forgotten what this catalog does not name says so, and a newer catalog is taken.

use std::collections::HashSet;
use std::sync::Arc;

use hashbrown::HashMap;
use model::{BlockId, TenantId, TraceId};

use crate::blocks::{Blocks, OpenBlock, PartKey, SharedTraces};
use crate::catalog::{BlockRecord, CatalogView, SplitTraces};
use crate::error::{Error, Result};
use crate::head::{HeadChunk, StaleCatalog, Tail};
use crate::owner::Shard;
use crate::port::CatalogPort;
use crate::spool::SpooledBlock;

/// How often a newer catalog is taken before giving up. A flush takes seconds and forgets once, so twice is already rare.
const ATTEMPTS: usize = 16;

/// See the module's documentation.
#[derive(Debug)]
pub struct Snapshot {
    /// The catalog.
    pub view: Arc<CatalogView>,
    /// Whose spans.
    pub tenant: TenantId,
    /// Per shard: what the catalog does not name.
    pub tails: Vec<(Arc<Shard>, Tail)>,
    /// Live spans that could not be asked for, for people; part of what every answer from this snapshot lacks.
    pub missing: Vec<String>,
}

/// Traces of which a chunk may hold only a part.
#[derive(Debug, Clone, Default)]
pub struct SplitSet {
    listed: Arc<HashSet<TraceId>>,
    /// Of live and spooled spans.
    tail: HashSet<TraceId>,
    /// Which of those may be in which block.
    tail_homes: HashMap<BlockId, Vec<TraceId>>,
    /// Blocks whose record could not list them: each of their traces may also be elsewhere, so each is asked.
    unlisted: Vec<(BlockId, Arc<OpenBlock>)>,
    /// Per block: traces whose spans may also stand elsewhere. Only known where that is asked.
    suspects: HashMap<BlockId, Suspects>,
}

/// Traces of one block whose spans may also stand elsewhere.
#[derive(Debug, Clone)]
pub enum Suspects {
    /// These.
    Listed(HashSet<TraceId>),
    /// Any.
    All,
}

impl Default for Suspects {
    fn default() -> Self {
        Self::Listed(HashSet::new())
    }
}

impl Suspects {
    /// Adds what two blocks share.
    pub(crate) fn add(&mut self, shared: &SharedTraces) {
        match (&mut *self, shared) {
            (Self::All, _) => {}
            (Self::Listed(listed), SharedTraces::Listed(traces)) => listed.extend(traces.iter().copied()),
            (Self::Listed(_), SharedTraces::Unknown) => *self = Self::All,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Listed(listed) if listed.is_empty())
    }

    fn contains(&self, trace: &TraceId) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => listed.contains(trace),
        }
    }
}

impl SplitSet {
    /// Whether the trace may also be elsewhere. `block` is where it was found; `None` for live spans.
    ///
    /// The traces of a block without a list count as split wherever they are found: a piece that lies in an older block is
    /// listed by nobody else.
    pub fn contains(&self, trace: &TraceId, block: Option<BlockId>) -> bool {
        let may_hold = |(id, open): &(BlockId, Arc<OpenBlock>)| block == Some(*id) || open.may_contain_trace(trace);
        self.listed.contains(trace) || self.tail.contains(trace) || self.unlisted.iter().any(may_hold)
    }

    /// Whether there is no such trace at all.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.tail.is_empty() && self.unlisted.is_empty()
    }

    pub(crate) fn know_suspects(&mut self, suspects: HashMap<BlockId, Suspects>) {
        self.suspects = suspects;
    }

    /// Whether spans of the trace may also stand elsewhere; for [`SplitSet::know_suspects`].
    pub(crate) fn is_suspect(&self, trace: &TraceId, block: Option<BlockId>) -> bool {
        match block {
            None => self.tail.contains(trace),
            Some(block) => self
                .suspects
                .get(&block)
                .is_some_and(|suspects| suspects.contains(trace)),
        }
    }

    /// Whether any trace of this row group may have spans that also stand elsewhere.
    pub(crate) fn has_suspects(&self, block: Option<BlockId>, group: Option<(&OpenBlock, usize)>) -> bool {
        let is_here =
            |trace: &TraceId| group.is_none_or(|(open, group)| open.index().groups_of_trace(trace).contains(&group));
        match block {
            None => self.tail.iter().any(is_here),
            Some(block) => match self.suspects.get(&block) {
                None => false,
                Some(Suspects::All) => true,
                Some(Suspects::Listed(listed)) => listed.iter().any(is_here),
            },
        }
    }

    /// Traces of live and spooled spans that may also be in this block.
    pub fn tail_traces_in(&self, block: BlockId) -> &[TraceId] {
        self.tail_homes.get(&block).map_or(&[], Vec::as_slice)
    }
}

impl Snapshot {
    /// Takes the catalog, then the tails of `shards`.
    ///
    /// Errors: [`Error::Stale`] when shards keep forgetting faster than catalogs arrive.
    pub async fn take(catalog: &dyn CatalogPort, shards: &[Arc<Shard>], tenant: &TenantId) -> Result<Self> {
        let mut watch = catalog.watch();
        for _ in 0..ATTEMPTS {
            match Self::take_now(catalog, shards, tenant) {
                Ok(snapshot) => return Ok(snapshot),
                Err(stale) => {
                    if watch.changed().await.is_err() {
                        return Err(stale.into());
                    }
                }
            }
        }
        Err(Error::Ring("the catalog keeps falling behind the shards".to_owned()))
    }

    /// [`Snapshot::take`] without waiting: whoever asks has to bring the shards up to the catalog, not only the catalog up to
    /// the shards.
    pub fn take_now(catalog: &dyn CatalogPort, shards: &[Arc<Shard>], tenant: &TenantId) -> Result<Self, StaleCatalog> {
        let view = catalog.view();
        let tails: Result<Vec<_>, StaleCatalog> = shards
            .iter()
            .map(|shard| {
                let watermark = view.watermark(shard.group()).unwrap_or_default();
                Ok((Arc::clone(shard), shard.head().tail(tenant, watermark)?))
            })
            .collect();
        Ok(Self {
            view,
            tenant: tenant.clone(),
            tails: tails?,
            missing: Vec::new(),
        })
    }

    /// The tenant's blocks, newest first by their latest span, then by id.
    pub fn blocks(&self) -> Vec<Arc<BlockRecord>> {
        let mut records: Vec<_> = self.view.blocks_of(&self.tenant).map(Arc::clone).collect();
        records.sort_by(|a, b| b.max_unix_nanos.cmp(&a.max_unix_nanos).then(b.id.cmp(&a.id)));
        records
    }

    /// Live tables, newest last within a shard.
    pub fn chunks(&self) -> impl Iterator<Item = (&Arc<Shard>, &Arc<HeadChunk>)> {
        self.tails
            .iter()
            .flat_map(|(shard, tail)| tail.chunks.iter().map(move |chunk| (shard, chunk)))
    }

    /// Blocks on local disk.
    pub fn spooled(&self) -> impl Iterator<Item = &Arc<SpooledBlock>> {
        self.tails.iter().flat_map(|(_, tail)| tail.spooled.iter())
    }

    /// Finds the traces that lie in several places, given every block of the tenant opened. One that cannot be opened is
    /// not read either, and its pieces are named as missing.
    pub fn splits(&self, blocks: &Blocks, open: &[(BlockId, Arc<OpenBlock>)]) -> SplitSet {
        let is_unlisted = |id: &BlockId| {
            let record = self.view.block(*id);
            record.is_some_and(|record| record.split_traces == SplitTraces::All)
        };
        let mut set = SplitSet {
            listed: blocks.listed_splits(&self.view, &self.tenant),
            tail: HashSet::new(),
            tail_homes: HashMap::new(),
            suspects: HashMap::new(),
            unlisted: open.iter().filter(|(id, _)| is_unlisted(id)).cloned().collect(),
        };
        for (shard, tail) in &self.tails {
            self.tail_splits(shard, tail, blocks, open, &mut set);
        }
        let SplitSet { tail, tail_homes, .. } = &mut set;
        tail.extend(tail_homes.values().flatten().copied());
        set
    }

    fn tail_splits(
        &self,
        shard: &Shard,
        tail: &Tail,
        blocks: &Blocks,
        open: &[(BlockId, Arc<OpenBlock>)],
        set: &mut SplitSet,
    ) {
        let SplitSet {
            tail: split,
            tail_homes: homes,
            ..
        } = set;
        // Only parts of one shard can share traces: a trace is in one shard.
        let key = |from| -> PartKey { (shard.group(), from, self.tenant.clone()) };
        for (position, spooled) in tail.spooled.iter().enumerate() {
            let Some(section) = spooled.section_of(&self.tenant) else {
                continue;
            };
            let traces = spooled.traces(section);
            // A trace too long for one row group lies in several of the same block.
            split.extend(
                spooled
                    .summary()
                    .sections
                    .get(section)
                    .into_iter()
                    .flat_map(|section| &section.split_traces),
            );
            blocks.check_part(&key(spooled.range().from), open, traces, homes);
            for later in tail.spooled.iter().skip(position + 1) {
                split.extend(traces.iter().filter(|trace| later.holds_trace(&self.tenant, trace)));
            }
            for chunk in &tail.chunks {
                let table = chunk.table();
                split.extend(traces.iter().filter(|trace| table.find_trace(trace).is_some()));
            }
        }
        for (position, chunk) in tail.chunks.iter().enumerate() {
            let table = chunk.table();
            blocks.check_part(&key(chunk.from()), open, table.traces(), homes);
            for later in tail.chunks.iter().skip(position + 1) {
                let later = later.table();
                split.extend(table.traces().iter().filter(|trace| later.find_trace(trace).is_some()));
            }
        }
    }
}
