//! Searching: one plan over every chunk of a snapshot, then over the traces that lie in several of them.
//!
//! ```text
//! snapshot ─► blocks opened ─► split set ─► jobs (row group, live table), newest first ─► workers ─┐
//!                                                                 split candidates ◄───────────────┤
//!                        whole traces, newest first ─► the same plan ─► top N ◄────────────────────┘
//! ```
//! Workers run on threads that may block. They share the newest finds so far: a chunk whose every span starts before the
//! oldest of enough finds is not looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{BlockId, TraceId};
use parking_lot::Mutex;
use query::answer::{Place, TopTraces, TraceMatch};
use query::budget::Budget;
use query::source::{Chunk, TimeRange};
use query::{ChunkFinds, Inspected, SearchPlan};

use crate::blocks::{Blocks, OpenBlock};
use crate::chunk::TableChunk;
use crate::chunk::row_group::RowGroupChunk;
use crate::error::Result;
use crate::head::HeadChunk;
use crate::snapshot::{Snapshot, SplitSet};
use crate::trace::{Places, chain, whole_trace};

/// What a search found and what it looked at.
#[derive(Debug, Default)]
pub struct SearchAnswer {
    /// Newest first.
    pub traces: Vec<TraceMatch>,
    /// Spans and traces looked at.
    pub inspected: Inspected,
    /// Bytes read from blocks.
    pub inspected_bytes: u64,
    /// Blocks of the tenant inside the window.
    pub blocks: u32,
    /// Their bytes.
    pub block_bytes: u64,
    /// Chunks that were to be looked at.
    pub jobs: u32,
    /// Chunks that were, or that could not matter.
    pub jobs_done: u32,
    /// What could not be read, for people; empty when the answer is complete.
    pub missing: Vec<String>,
}

/// One chunk to search.
#[derive(Debug)]
pub(crate) enum Job {
    /// A live table.
    Live(Arc<HeadChunk>),
    /// A row group of a block; the id is `None` for spooled ones.
    RowGroup(Arc<OpenBlock>, usize, Option<BlockId>),
}

impl Job {
    /// Start of its latest span, at most; no trace in it starts later.
    fn latest_start(&self) -> u64 {
        match self {
            Self::Live(_) => u64::MAX,
            Self::RowGroup(block, group, _) => block
                .index()
                .fences()
                .get(*group)
                .map_or(u64::MAX, |fence| fence.max_start),
        }
    }
}

/// What all workers share.
struct Shared {
    plan: Arc<SearchPlan>,
    split: SplitSet,
    jobs: Vec<Job>,
    next: AtomicUsize,
    budget: Arc<Budget>,
    found: Mutex<Found>,
    runtime: tokio::runtime::Handle,
}

struct Found {
    top: TopTraces,
    /// Earliest start seen of each trace that must be brought together.
    split: BTreeMap<TraceId, u64>,
    answer: SearchAnswer,
    failure: Option<query::Error>,
}

/// Opens what a snapshot names. Blocks that cannot be opened are named in `missing`.
pub(crate) async fn open_blocks(
    snapshot: &Snapshot,
    blocks: &Arc<Blocks>,
    missing: &mut Vec<String>,
) -> Vec<(Arc<crate::catalog::BlockRecord>, Arc<OpenBlock>)> {
    let mut open = Vec::new();
    for record in snapshot.blocks() {
        match blocks.open(&snapshot.view, &record).await {
            Ok(block) => open.push((record, block)),
            Err(error) => missing.push(format!("block {}: {}", record.id, chain(&error))),
        }
    }
    open
}

/// Searches a snapshot with `workers` threads.
///
/// Errors: those of the plan's budget; what could not be read is named in the answer instead.
pub async fn search(
    snapshot: Arc<Snapshot>,
    blocks: Arc<Blocks>,
    plan: Arc<SearchPlan>,
    budget: Arc<Budget>,
    workers: usize,
) -> Result<SearchAnswer> {
    let mut answer = SearchAnswer::default();
    let open = open_blocks(&snapshot, &blocks, &mut answer.missing).await;
    let by_id: Vec<_> = open
        .iter()
        .map(|(record, block)| (record.id, Arc::clone(block)))
        .collect();
    let split = snapshot.splits(&blocks, &by_id);
    let jobs = jobs(&snapshot, &blocks, &plan, &open, &split, &mut answer).await;
    let limit = plan.request().limit;
    let shared = Arc::new(Shared {
        plan: Arc::clone(&plan),
        split,
        jobs,
        next: AtomicUsize::new(0),
        budget: Arc::clone(&budget),
        found: Mutex::new(Found {
            top: TopTraces::new(limit),
            split: BTreeMap::new(),
            answer,
            failure: None,
        }),
        runtime: tokio::runtime::Handle::current(),
    });
    let workers: Vec<_> = (0..workers.max(1).min(shared.jobs.len()))
        .map(|_| {
            let shared = Arc::clone(&shared);
            tokio::task::spawn_blocking(move || shared.work())
        })
        .collect();
    for worker in workers {
        worker.await.expect("a search worker does not panic");
    }
    let shared = Arc::into_inner(shared).expect("all workers are done");
    let mut found = shared.found.into_inner();
    if let Some(error) = found.failure {
        return Err(error.into());
    }
    join(&snapshot, &blocks, &plan, &budget, &mut found).await?;
    found.answer.traces = found.top.into_vec();
    found.answer.missing.sort();
    found.answer.missing.dedup();
    Ok(found.answer)
}

async fn jobs(
    snapshot: &Snapshot,
    blocks: &Arc<Blocks>,
    plan: &SearchPlan,
    open: &[(Arc<crate::catalog::BlockRecord>, Arc<OpenBlock>)],
    split: &SplitSet,
    answer: &mut SearchAnswer,
) -> Vec<Job> {
    let window = plan.request().window;
    let mut jobs: Vec<Job> = snapshot
        .chunks()
        .map(|(_, chunk)| Job::Live(Arc::clone(chunk)))
        .collect();
    for spooled in snapshot.spooled() {
        let Some(section) = spooled.section_of(&snapshot.tenant) else {
            continue;
        };
        match blocks.open_spooled(spooled, section).await {
            Ok(block) => {
                let groups = 0..block.index().fences().len();
                jobs.extend(groups.map(|group| Job::RowGroup(Arc::clone(&block), group, None)));
            }
            Err(error) => answer
                .missing
                .push(format!("a block that waits for its upload: {}", chain(&error))),
        }
    }
    let mut row_groups = Vec::new();
    for (record, block) in open {
        let range = TimeRange {
            start_unix_nanos: record.min_unix_nanos,
            end_unix_nanos: record.max_unix_nanos,
        };
        if window.overlaps(&range) {
            answer.blocks += 1;
            answer.block_bytes += record.bytes;
        } else if split.is_empty() {
            continue;
        }
        let groups = 0..block.index().fences().len();
        row_groups.extend(groups.map(|group| Job::RowGroup(Arc::clone(block), group, Some(record.id))));
    }
    row_groups.sort_by_key(|job| std::cmp::Reverse(job.latest_start()));
    jobs.extend(row_groups);
    answer.jobs = u32::try_from(jobs.len() + answer.missing.len()).unwrap_or(u32::MAX);
    jobs
}

/// Looks at the traces that lie in several places, newest first, until no other can be among the newest.
async fn join(
    snapshot: &Snapshot,
    blocks: &Arc<Blocks>,
    plan: &SearchPlan,
    budget: &Budget,
    found: &mut Found,
) -> Result<()> {
    let mut candidates: Vec<_> = std::mem::take(&mut found.split)
        .into_iter()
        .map(|(trace, start)| (Place::new(start, trace), trace))
        .collect();
    candidates.sort_unstable();
    for (place, trace) in candidates {
        // The whole trace starts no later than the piece that was seen.
        if found.top.floor().is_some_and(|floor| place > floor) {
            break;
        }
        budget.check()?;
        let whole = whole_trace(snapshot, blocks, trace, Places::ALL, u64::MAX).await;
        budget.spend_bytes(usize::try_from(whole.inspected_bytes).unwrap_or(usize::MAX))?;
        found.answer.inspected_bytes += whole.inspected_bytes;
        found.answer.missing.extend(whole.missing);
        let finds = query::search_chunk(
            plan,
            &TableChunk::new(&whole.spans),
            &|_| false,
            found.top.floor(),
            budget,
        )?;
        for trace in finds.traces {
            found.top.push(trace);
        }
    }
    Ok(())
}

impl Shared {
    fn work(&self) {
        loop {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(next) else { return };
            let floor = self.found.lock().top.floor();
            let is_behind = floor.is_some_and(|floor| job.latest_start() < floor.start_unix_nanos());
            let outcome = if is_behind {
                Ok((ChunkFinds::default(), 0))
            } else {
                self.run(job, floor)
            };
            let mut found = self.found.lock();
            match outcome {
                Ok((finds, bytes)) => {
                    found.answer.jobs_done += 1;
                    found.answer.inspected.add(finds.inspected);
                    found.answer.inspected_bytes += bytes;
                    for trace in finds.traces {
                        found.top.push(trace);
                    }
                    for candidate in finds.split {
                        let start = found.split.entry(candidate.trace_id).or_insert(u64::MAX);
                        *start = (*start).min(candidate.start_unix_nanos);
                    }
                }
                Err(error) => match error.kind() {
                    query::Kind::Unavailable | query::Kind::Corrupt => found.answer.missing.push(chain(&error)),
                    _ => {
                        found.failure.get_or_insert(error);
                        // The others find no more work.
                        self.next.store(self.jobs.len(), Ordering::Relaxed);
                    }
                },
            }
        }
    }

    fn run(&self, job: &Job, floor: Option<Place>) -> query::Result<(ChunkFinds, u64)> {
        match job {
            Job::Live(chunk) => {
                let table = chunk.table();
                let chunk = TableChunk::new(&table);
                let is_split = |trace: &TraceId| self.split.contains(trace, None);
                Ok((self.run_chunk(&chunk, &is_split, floor)?, 0))
            }
            Job::RowGroup(block, group, id) => {
                let chunk = RowGroupChunk::new(Arc::clone(block), *group, self.runtime.clone());
                let is_split = |trace: &TraceId| self.split.contains(trace, *id);
                let finds = self.run_chunk(&chunk, &is_split, floor)?;
                let bytes = chunk.fetched_bytes();
                self.budget.spend_bytes(usize::try_from(bytes).unwrap_or(usize::MAX))?;
                Ok((finds, bytes))
            }
        }
    }

    fn run_chunk(
        &self,
        chunk: &dyn Chunk,
        is_split: &dyn Fn(&TraceId) -> bool,
        floor: Option<Place>,
    ) -> query::Result<ChunkFinds> {
        if !self.plan.may_match(chunk, !self.split.is_empty()) {
            return Ok(ChunkFinds::default());
        }
        query::search_chunk(&self.plan, chunk, is_split, floor, &self.budget)
    }
}
