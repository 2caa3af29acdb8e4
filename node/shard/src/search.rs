//! Searching: one plan over every chunk of a snapshot, then over the traces that lie in several of them.
//!
//! ```text
//! snapshot ─► jobs (row group, live table), newest first ─► threads ─┐
//!                                split candidates ◄───────────────────┤
//!                whole traces, newest first ─► the same plan ─► top N ◄┘
//! ```
//! Threads share the newest finds so far: a chunk whose every span starts before the oldest of enough finds is not looked
//! at. While the search runs, an onlooker is shown those finds that are certain: traces that start later than anything
//! that is still to be looked at. So what was shown stays in the answer, at the place where it was shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::TraceId;
use parking_lot::Mutex;
use query::answer::{Place, TopTraces, TraceMatch};
use query::budget::Budget;
use query::source::Chunk;
use query::{ChunkFinds, Marks, SearchPlan};

use crate::crew::{self, Looked, Means, Onlooker, Seen, Standing, Work};
use crate::error::Result;
use crate::jobs::{self, Job, Joining, Listed};
use crate::snapshot::{Snapshot, SplitSet};

/// Traces to be joined in one job. Small, so that enough newer finds can make the rest needless.
const JOINED_AT_ONCE: usize = 16;

/// What a search found and what it looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SearchAnswer {
    /// Newest first.
    pub traces: Vec<TraceMatch>,
    /// What that took.
    pub looked: Looked,
}

/// Watches a search.
pub type SearchOnlooker = Arc<dyn Onlooker<SearchAnswer>>;

/// What all threads share.
struct Search {
    plan: Arc<SearchPlan>,
    split: SplitSet,
    found: Mutex<Found>,
    onlooker: Option<SearchOnlooker>,
}

struct Found {
    top: TopTraces,
    /// Earliest start seen of each trace that may have to be brought together, and its marks.
    split: BTreeMap<TraceId, (u64, Marks)>,
}

/// Searches a snapshot.
///
/// Errors: those of the budget; what could not be read is named in the answer instead.
pub async fn search(
    snapshot: &Arc<Snapshot>,
    plan: &Arc<SearchPlan>,
    means: &Means,
    onlooker: Option<SearchOnlooker>,
) -> Result<SearchAnswer> {
    let Listed {
        jobs,
        split,
        mut looked,
    } = match plan.only_trace() {
        Some(trace) => Listed {
            jobs: vec![Job::Whole {
                traces: vec![trace],
                latest_start: u64::MAX,
            }],
            split: SplitSet::default(),
            looked: Looked::default(),
        },
        None => jobs::list(snapshot, &means.blocks, plan.request().window, Joining::Whole).await,
    };
    let search = Arc::new(Search {
        plan: Arc::clone(plan),
        split,
        found: Mutex::new(Found {
            top: TopTraces::new(plan.request().limit),
            split: BTreeMap::new(),
        }),
        onlooker,
    });
    crew::run(snapshot, means, &search, jobs, &mut looked).await?;
    let joins = search.joins();
    if !joins.is_empty() {
        crew::run(snapshot, means, &search, joins, &mut looked).await?;
    }
    let traces = search.found.lock().top.iter().cloned().collect();
    Ok(SearchAnswer { traces, looked })
}

impl Search {
    /// The traces that lie in several places, newest first by what was seen of them; a whole trace starts no later.
    fn joins(&self) -> Vec<Job> {
        let mut found = self.found.lock();
        let mut candidates: Vec<Place> = std::mem::take(&mut found.split)
            .into_iter()
            .filter(|(_, (_, marks))| self.plan.may_join(*marks))
            .map(|(trace, (start, _))| Place::new(start, trace))
            .collect();
        candidates.sort_unstable();
        let job = |places: &[Place]| Job::Whole {
            traces: places.iter().map(Place::trace_id).collect(),
            latest_start: places.first().map_or(0, Place::start_unix_nanos),
        };
        candidates.chunks(JOINED_AT_ONCE).map(job).collect()
    }

    fn take_in(&self, finds: ChunkFinds, budget: &Budget) -> query::Result<()> {
        let mut found = self.found.lock();
        let before = found.top.held_bytes();
        for trace in finds.traces {
            found.top.push(trace);
        }
        for candidate in finds.split {
            let known = found.split.entry(candidate.trace_id);
            let (start, marks) = known.or_insert((u64::MAX, Marks::default()));
            *start = (*start).min(candidate.start_unix_nanos);
            marks.add(candidate.marks);
        }
        // From the finds of a chunk to the finds of the search; under the lock, so that nobody gives back what another
        // has yet to count.
        let (before, after) = (before + finds.held_bytes, found.top.held_bytes());
        budget.release(before.saturating_sub(after));
        budget.hold(after.saturating_sub(before))
    }

    /// The finds that nothing can come before any more.
    fn certain(&self, standing: Standing) -> SearchAnswer {
        let found = self.found.lock();
        // A trace that is still to be joined starts no later than the piece that was seen.
        let joined_later = found.split.values().map(|(start, _)| *start).max();
        let horizon = standing.horizon.max(joined_later);
        let is_certain = |trace: &&TraceMatch| horizon.is_none_or(|horizon| trace.start_unix_nanos > horizon);
        SearchAnswer {
            traces: found.top.iter().take_while(is_certain).cloned().collect(),
            looked: standing.looked,
        }
    }
}

impl Work for Search {
    type Part = ();

    fn is_over(&self, job: &Job) -> bool {
        let floor = self.found.lock().top.floor();
        floor.is_some_and(|floor| job.latest_start() < floor.start_unix_nanos())
    }

    fn look(&self, job: &Job, chunk: &dyn Chunk, (): &mut (), budget: &Budget) -> query::Result<Seen> {
        let floor = self.found.lock().top.floor();
        let is_whole = matches!(job, Job::Whole { .. });
        if !self.plan.may_match(chunk, !is_whole && !self.split.is_empty()) {
            return Ok(Seen::Skipped);
        }
        let home = job.home();
        let is_split = |trace: &TraceId| !is_whole && self.split.contains(trace, home);
        let finds = query::search_chunk(&self.plan, chunk, &is_split, floor, budget)?;
        let inspected = finds.inspected;
        self.take_in(finds, budget)?;
        Ok(Seen::Inspected(inspected))
    }

    fn hand_in(&self, (): (), _: &Budget) -> query::Result<()> {
        Ok(())
    }

    fn progress(&self, (): &mut (), _: &Budget, standing: &dyn Fn() -> Standing) -> query::Result<()> {
        if let Some(onlooker) = self.onlooker.as_ref().filter(|onlooker| onlooker.is_curious()) {
            onlooker.show(self.certain(standing()));
        }
        Ok(())
    }
}
