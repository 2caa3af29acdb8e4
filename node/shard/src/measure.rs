//! Metrics: spans measured over time, over every chunk of a snapshot.
//!
//! Each thread adds up what its chunks contribute; the sums are added at the end, in any order, to the same. Only if the
//! plan looks at more than single spans are traces that lie in several places left out of the chunks, brought together
//! and measured once. Otherwise spans of such traces are remembered, because a span that was sent again after its first
//! copy was flushed stands in two places.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashSet;
use model::TraceId;
use parking_lot::Mutex;
use query::budget::Budget;
use query::metrics::{Elsewhere, MetricsPartial, MetricsPlan, SpanKey, metrics_chunk};
use query::source::Chunk;

use crate::crew::{self, Looked, Means, Onlooker, Seen, Standing, Work};
use crate::error::Result;
use crate::jobs::{self, Job, Joining, Listed};
use crate::snapshot::{Snapshot, SplitSet};

/// Traces to be joined in one job.
const JOINED_AT_ONCE: usize = 64;

/// Sums, and what it took to make them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsAnswer {
    /// To be finished once the parts of all tenants are merged.
    pub partial: MetricsPartial,
    /// What that took.
    pub looked: Looked,
    /// Spans that start up to here may still be added. `None`: none.
    pub unfinished_to: Option<u64>,
}

/// Watches a metrics query. What it is shown are sums of a part of the chunks.
pub type MetricsOnlooker = Arc<dyn Onlooker<MetricsAnswer>>;

struct Measuring {
    plan: Arc<MetricsPlan>,
    joining: Joining,
    split: SplitSet,
    /// Spans that were counted and may stand elsewhere too.
    seen: Mutex<Counted>,
    sums: Mutex<Sums>,
    onlooker: Option<MetricsOnlooker>,
}

#[derive(Default)]
struct Counted {
    spans: HashSet<SpanKey>,
    /// Its memory, counted in the budget.
    held: usize,
}

impl Counted {
    /// Bytes it has grown by since the last time.
    fn growth(&mut self) -> usize {
        let before = self.held;
        self.held = self.spans.allocation_size();
        self.held - before
    }
}

struct Sums {
    partial: MetricsPartial,
    /// Its memory, counted in the budget.
    held: usize,
    /// Traces to be brought together.
    joins: BTreeSet<TraceId>,
}

/// What one thread has added up.
#[derive(Default)]
struct Part {
    partial: MetricsPartial,
    /// Memory counted in the budget for it; as merging adds up what is the same series, the exact number is taken again
    /// when it has doubled.
    held: usize,
    held_exactly: usize,
    joins: BTreeSet<TraceId>,
}

/// Measures a snapshot.
///
/// Errors: those of the budget; what could not be read is named in the answer instead.
pub async fn measure(
    snapshot: &Arc<Snapshot>,
    plan: &Arc<MetricsPlan>,
    means: &Means,
    onlooker: Option<MetricsOnlooker>,
) -> Result<MetricsAnswer> {
    let joining = if plan.needs_whole_trace() {
        Joining::Whole
    } else {
        Joining::Once
    };
    let window = plan.intervals().window();
    let Listed {
        jobs,
        split,
        mut looked,
    } = jobs::list(snapshot, &means.blocks, window, joining).await;
    let measuring = Arc::new(Measuring {
        plan: Arc::clone(plan),
        joining,
        split,
        seen: Mutex::default(),
        sums: Mutex::new(Sums {
            partial: MetricsPartial::new(plan),
            held: 0,
            joins: BTreeSet::new(),
        }),
        onlooker,
    });
    crew::run(snapshot, means, &measuring, jobs, &mut looked).await?;
    let joins: Vec<TraceId> = std::mem::take(&mut measuring.sums.lock().joins).into_iter().collect();
    if !joins.is_empty() {
        let job = |traces: &[TraceId]| Job::Whole {
            traces: traces.to_vec(),
            latest_start: u64::MAX,
        };
        let jobs = joins.chunks(JOINED_AT_ONCE).map(job).collect();
        crew::run(snapshot, means, &measuring, jobs, &mut looked).await?;
    }
    means.budget.release(measuring.seen.lock().held);
    let partial = std::mem::take(&mut measuring.sums.lock().partial);
    Ok(MetricsAnswer {
        partial,
        looked,
        unfinished_to: None,
    })
}

impl Part {
    fn add(&mut self, other: MetricsPartial, held: usize, budget: &Budget) {
        self.partial.merge(other, budget.limits().series_max);
        self.held += held;
        if self.held > 2 * self.held_exactly.max(64 << 10) {
            self.held_exactly = self.partial.held_bytes();
            budget.release(self.held.saturating_sub(self.held_exactly));
            self.held = self.held.min(self.held_exactly);
        }
    }
}

impl Measuring {
    fn take_in(&self, part: &mut Part, budget: &Budget) -> query::Result<()> {
        let part = std::mem::take(part);
        let mut sums = self.sums.lock();
        sums.partial.merge(part.partial, budget.limits().series_max);
        sums.joins.extend(part.joins);
        let (before, now) = (sums.held + part.held, sums.partial.held_bytes());
        sums.held = now;
        // Under the lock, so that nobody gives back what another has yet to count.
        budget.release(before.saturating_sub(now));
        budget.hold(now.saturating_sub(before))
    }
}

impl Work for Measuring {
    type Part = Part;

    fn look(&self, job: &Job, chunk: &dyn Chunk, part: &mut Part, budget: &Budget) -> query::Result<Seen> {
        let home = job.home();
        let has_split = match (job, self.joining) {
            (Job::Whole { .. }, _) | (_, Joining::Apart) => false,
            (_, Joining::Whole) => !self.split.is_empty(),
            (Job::RowGroup { block, group, .. }, Joining::Once) => self.split.has_suspects(home, Some((block, *group))),
            (Job::Live(_), Joining::Once) => self.split.has_suspects(home, None),
        };
        if !self.plan.may_match(chunk, has_split) {
            return Ok(Seen::Skipped);
        }
        let elsewhere = Elsewhere {
            is_split: &|trace| match self.joining {
                Joining::Whole => self.split.contains(trace, home),
                Joining::Once | Joining::Apart => self.split.is_suspect(trace, home),
            },
            is_first: &|span| self.seen.lock().spans.insert(span),
        };
        let found = metrics_chunk(
            &self.plan,
            chunk,
            has_split.then_some(&elsewhere),
            Some(&part.partial),
            budget,
        )?;
        let grown = self.seen.lock().growth();
        budget.hold(grown)?;
        part.joins
            .extend(found.split.iter().map(|candidate| candidate.trace_id));
        part.add(found.partial, found.held_bytes, budget);
        if self.onlooker.is_some() {
            // Before the job counts as done, so that what is shown lacks nothing that it should have.
            self.take_in(part, budget)?;
        }
        Ok(Seen::Inspected(found.inspected))
    }

    fn hand_in(&self, mut part: Part, budget: &Budget) -> query::Result<()> {
        self.take_in(&mut part, budget)
    }

    fn progress(&self, _: &mut Part, _: &Budget, standing: &dyn Fn() -> Standing) -> query::Result<()> {
        if let Some(onlooker) = self.onlooker.as_ref().filter(|onlooker| onlooker.is_curious()) {
            let Standing { looked, horizon } = standing();
            let partial = self.sums.lock().partial.clone();
            let unfinished_to = match self.joining {
                Joining::Once | Joining::Apart => horizon,
                // Traces that are still to be joined may be of any time.
                Joining::Whole => Some(u64::MAX),
            };
            onlooker.show(MetricsAnswer {
                partial,
                looked,
                unfinished_to,
            });
        }
        Ok(())
    }
}
