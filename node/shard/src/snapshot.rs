//! What one question reads: the catalog at one revision and, above its watermarks, the tails of the shards.
//!
//! The order is the point. The catalog is taken first; then each shard is asked for what lies above that catalog's
//! watermark. Blocks and tails then partition the log: no span is missing and none is there twice, wherever a flush stands.
//! A shard that has already forgotten what this catalog does not name says so, and a newer catalog is taken.

use std::collections::HashSet;
use std::sync::Arc;

use model::{BlockId, TenantId, TraceId};

use crate::blocks::{Blocks, OpenBlock, PartKey};
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
}

/// Traces of which a chunk may hold only a part.
#[derive(Debug, Clone, Default)]
pub struct SplitSet {
    listed: Arc<HashSet<TraceId>>,
    tail: HashSet<TraceId>,
    /// Blocks whose record says that it could not list them.
    unlisted: HashSet<BlockId>,
}

impl SplitSet {
    /// Whether the trace may also be elsewhere. `block` is where it was found; `None` for live spans.
    pub fn contains(&self, trace: &TraceId, block: Option<BlockId>) -> bool {
        self.listed.contains(trace)
            || self.tail.contains(trace)
            || block.is_some_and(|block| self.unlisted.contains(&block))
    }

    /// Whether there is no such trace at all.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.tail.is_empty() && self.unlisted.is_empty()
    }
}

impl Snapshot {
    /// Takes the catalog, then the tails of `shards`.
    ///
    /// Errors: [`Error::Stale`] when shards keep forgetting faster than catalogs arrive.
    pub async fn take(catalog: &dyn CatalogPort, shards: &[Arc<Shard>], tenant: &TenantId) -> Result<Self> {
        let mut watch = catalog.watch();
        for _ in 0..ATTEMPTS {
            let view = catalog.view();
            let tails: Result<Vec<_>, StaleCatalog> = shards
                .iter()
                .map(|shard| {
                    let watermark = view.watermark(shard.group()).unwrap_or_default();
                    Ok((Arc::clone(shard), shard.head().tail(tenant, watermark)?))
                })
                .collect();
            match tails {
                Ok(tails) => {
                    return Ok(Self {
                        view,
                        tenant: tenant.clone(),
                        tails,
                    });
                }
                Err(stale) => {
                    if watch.changed().await.is_err() {
                        return Err(stale.into());
                    }
                }
            }
        }
        Err(Error::Ring("the catalog keeps falling behind the shards".to_owned()))
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

    /// Finds the traces that lie in several places, given every block of the tenant opened.
    pub fn splits(&self, blocks: &Blocks, open: &[(BlockId, Arc<OpenBlock>)]) -> SplitSet {
        let unlisted = self
            .view
            .blocks_of(&self.tenant)
            .filter(|record| record.split_traces == SplitTraces::All);
        let mut set = SplitSet {
            listed: blocks.listed_splits(&self.view, &self.tenant),
            tail: HashSet::new(),
            unlisted: unlisted.map(|record| record.id).collect(),
        };
        for (shard, tail) in &self.tails {
            self.tail_splits(shard, tail, blocks, open, &mut set.tail);
        }
        set
    }

    fn tail_splits(
        &self,
        shard: &Shard,
        tail: &Tail,
        blocks: &Blocks,
        open: &[(BlockId, Arc<OpenBlock>)],
        split: &mut HashSet<TraceId>,
    ) {
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
            blocks.check_part(&key(spooled.range().from), open, traces, split);
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
            blocks.check_part(&key(chunk.from()), open, table.traces(), split);
            for later in tail.chunks.iter().skip(position + 1) {
                let later = later.table();
                split.extend(table.traces().iter().filter(|trace| later.find_trace(trace).is_some()));
            }
        }
    }
}
