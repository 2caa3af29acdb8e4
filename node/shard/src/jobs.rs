//! Which chunks a question has to look at: live tables, row groups of spooled and uploaded blocks, traces to be joined.
//!
//! A block outside the question's window matters only where it holds a part of a trace that may also stand inside; then
//! only the row groups with that part are looked at.

use std::sync::Arc;

use futures::StreamExt as _;
use hashbrown::HashMap;
use model::{BlockId, TraceId};
use query::source::TimeRange;

use crate::blocks::{Blocks, OpenBlock, SharedTraces};
use crate::catalog::{BlockRecord, SplitTraces};
use crate::crew::Looked;
use crate::head::HeadChunk;
use crate::snapshot::{Snapshot, SplitSet, Suspects};
use crate::trace::chain;

/// Blocks opened at once. Two small reads each.
const OPENED_AT_ONCE: usize = 32;

/// One piece of work.
#[derive(Debug)]
pub(crate) enum Job {
    /// A live table.
    Live(Arc<HeadChunk>),
    /// A row group of a block.
    RowGroup {
        block: Arc<OpenBlock>,
        group: usize,
        /// `None` for spooled ones.
        id: Option<BlockId>,
    },
    /// Traces that lie in several places.
    Whole {
        traces: Vec<TraceId>,
        /// Latest start, at most, of any of them.
        latest_start: u64,
    },
}

impl Job {
    /// No span in it starts later, and no trace.
    pub(crate) fn latest_start(&self) -> u64 {
        match self {
            Self::Live(chunk) => chunk.table().max_end_unix_nanos(),
            Self::RowGroup { block, group, .. } => block
                .index()
                .fences()
                .get(*group)
                .map_or(u64::MAX, |fence| fence.max_start),
            Self::Whole { latest_start, .. } => *latest_start,
        }
    }

    /// Where its spans stand: the block's id, or `None` for what no record names.
    pub(crate) fn home(&self) -> Option<BlockId> {
        match self {
            Self::RowGroup { id, .. } => *id,
            Self::Live(_) | Self::Whole { .. } => None,
        }
    }
}

/// What is to be done about traces that lie in several places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joining {
    /// They are brought together.
    Whole,
    /// Every chunk answers for its own spans, but one that stands in two counts once.
    Once,
    /// Nothing: an answer twice is an answer.
    Apart,
}

/// What a question starts with.
pub(crate) struct Listed {
    /// Newest first.
    pub(crate) jobs: Vec<Job>,
    pub(crate) split: SplitSet,
    pub(crate) looked: Looked,
}

type Opened = (Arc<BlockRecord>, Arc<OpenBlock>);

/// Lists what a question about `window` has to look at. What cannot be opened is named in [`Looked::missing`].
pub(crate) async fn list(snapshot: &Snapshot, blocks: &Arc<Blocks>, window: TimeRange, joining: Joining) -> Listed {
    let mut looked = Looked {
        missing: snapshot.missing.clone(),
        ..Looked::default()
    };
    let (inside, outside): (Vec<_>, Vec<_>) = snapshot
        .blocks()
        .into_iter()
        .partition(|record| record.overlaps(window.start_unix_nanos, window.end_unix_nanos));
    let inside = open(snapshot, blocks, inside, &mut looked.missing).await;
    looked.blocks = u32::try_from(inside.len()).unwrap_or(u32::MAX);
    looked.block_bytes = inside.iter().map(|(record, _)| record.bytes).sum();
    looked.blocks_outside = u32::try_from(outside.len()).unwrap_or(u32::MAX);
    let mut jobs: Vec<Job> = Vec::new();
    for (record, block) in &inside {
        jobs.extend(groups(block, Some(record.id), 0..block.index().fences().len()));
    }
    let mut split = SplitSet::default();
    if joining == Joining::Once {
        let all: Vec<_> = inside
            .iter()
            .map(|(record, block)| (record.id, Arc::clone(block)))
            .collect();
        split = snapshot.splits(blocks, &all);
        split.know_suspects(suspects(blocks, &split, &inside));
    }
    if joining == Joining::Whole {
        let outside = open(snapshot, blocks, outside, &mut looked.missing).await;
        let all: Vec<_> = inside
            .iter()
            .chain(&outside)
            .map(|(record, block)| (record.id, Arc::clone(block)))
            .collect();
        split = snapshot.splits(blocks, &all);
        for (record, block) in &outside {
            let wanted = parts_outside(blocks, &split, &inside, record, block);
            looked.blocks_outside -= u32::from(!wanted.is_empty());
            jobs.extend(groups(block, Some(record.id), wanted));
        }
    }
    for spooled in snapshot.spooled() {
        let Some(section) = spooled.section_of(&snapshot.tenant) else {
            continue;
        };
        match blocks.open_spooled(spooled, section).await {
            Ok(block) => jobs.extend(groups(&block, None, 0..block.index().fences().len())),
            Err(error) => looked
                .missing
                .push(format!("a block that waits for its upload: {}", chain(&error))),
        }
    }
    jobs.extend(snapshot.chunks().map(|(_, chunk)| Job::Live(Arc::clone(chunk))));
    jobs.sort_by_key(|job| std::cmp::Reverse(job.latest_start()));
    // What could not be opened was to be looked at too.
    looked.jobs = u32::try_from(looked.missing.len()).unwrap_or(u32::MAX);
    Listed { jobs, split, looked }
}

fn groups(
    block: &Arc<OpenBlock>,
    id: Option<BlockId>,
    groups: impl IntoIterator<Item = usize>,
) -> impl Iterator<Item = Job> {
    let block = Arc::clone(block);
    groups.into_iter().map(move |group| Job::RowGroup {
        block: Arc::clone(&block),
        group,
        id,
    })
}

async fn open(
    snapshot: &Snapshot,
    blocks: &Arc<Blocks>,
    records: Vec<Arc<BlockRecord>>,
    missing: &mut Vec<String>,
) -> Vec<Opened> {
    let opening = futures::stream::iter(records).map(|record| async move {
        let opened = blocks.open(&snapshot.view, &record).await;
        (record, opened)
    });
    let mut opening = std::pin::pin!(opening.buffered(OPENED_AT_ONCE));
    let mut open = Vec::new();
    while let Some((record, opened)) = opening.next().await {
        match opened {
            Ok(block) => open.push((record, block)),
            Err(error) => missing.push(format!("block {}: {}", record.id, chain(&error))),
        }
    }
    open
}

/// The row groups of a block outside the window that hold parts of traces which may also stand inside, ascending.
fn parts_outside(
    blocks: &Blocks,
    split: &SplitSet,
    inside: &[Opened],
    record: &Arc<BlockRecord>,
    block: &Arc<OpenBlock>,
) -> Vec<usize> {
    let mut wanted = Vec::new();
    let mut want = |trace: &TraceId| wanted.extend(block.index().groups_of_trace(trace));
    split.tail_traces_in(record.id).iter().for_each(&mut want);
    for (other, other_block) in inside {
        match blocks.shared_traces((record, block), (other, other_block)) {
            SharedTraces::Listed(traces) => traces.iter().for_each(&mut want),
            SharedTraces::Unknown => return (0..block.index().fences().len()).collect(),
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// Per block the traces of which another block, or the tail, may hold spans of the same time.
fn suspects(blocks: &Blocks, split: &SplitSet, inside: &[Opened]) -> HashMap<BlockId, Suspects> {
    let lists = |record: &BlockRecord| record.split_traces != SplitTraces::default();
    let mut suspects: HashMap<BlockId, Suspects> = HashMap::new();
    for (record, _) in inside {
        let of_tail = split.tail_traces_in(record.id);
        if !of_tail.is_empty() {
            suspects.insert(record.id, Suspects::Listed(of_tail.iter().copied().collect()));
        }
    }
    for (i, (record, block)) in inside.iter().enumerate() {
        for (other, other_block) in &inside[i + 1..] {
            // Of two blocks that share a trace the one made later lists it; spans of one start are in both their ranges.
            if !(lists(record) || lists(other)) || !record.overlaps(other.min_unix_nanos, other.max_unix_nanos) {
                continue;
            }
            let shared = blocks.shared_traces((record, block), (other, other_block));
            for id in [record.id, other.id] {
                suspects.entry(id).or_default().add(&shared);
            }
        }
        if matches!(&record.split_traces, SplitTraces::All) {
            suspects.insert(record.id, Suspects::All);
        }
        // Traces too long for one row group stand in several of the same block, but no span of theirs does.
    }
    suspects.retain(|_, suspects| !suspects.is_empty());
    suspects
}
