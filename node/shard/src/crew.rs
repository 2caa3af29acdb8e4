//! The threads of one question: they look at its chunks, newest first, one job at a time.
//!
//! Owns [`Means`], what a question may use, and [`run`], which every kind of question goes through: searches, metrics,
//! names and values of attributes differ only in their [`Work`]. Threads may block; whoever computes holds a
//! [`crate::turns::Turn`]. There are as many threads as may compute, and one more whenever one of them has to wait for
//! the object store: where everything is at hand, more of them would only mean more parts to bring together.
//!
//! What always holds: a chunk that cannot be read is named in [`Looked::missing`] and the rest is looked at; every other
//! error ends the question, and the other threads stop at their next look at the budget.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use query::budget::Budget;
use query::source::Chunk;
use query::{Inspected, Kind};

use crate::blocks::Blocks;
use crate::chunk::TableChunk;
use crate::chunk::row_group::{Fetching, RowGroupChunk};
use crate::error::Result;
use crate::jobs::Job;
use crate::snapshot::Snapshot;
use crate::trace::{chain, whole_traces};
use crate::turns::Turns;

/// Traces brought together and looked at in one go. Enough that reading them overlaps, few enough that they fit in
/// memory whatever their size.
const WHOLE_TRACES: usize = 16;

/// What a question may use.
#[derive(Debug, Clone)]
pub struct Means {
    /// Blocks, opened.
    pub blocks: Arc<Blocks>,
    /// Whose turn it is to compute.
    pub turns: Arc<Turns>,
    /// Threads, most of which wait for the object store.
    pub threads: usize,
    /// What it may cost.
    pub budget: Budget,
}

/// What answering took, and what it could not look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// Spans and traces looked at.
    pub inspected: Inspected,
    /// Bytes read from blocks.
    pub bytes: u64,
    /// Reads they took.
    pub reads: u64,
    /// Blocks of the tenant inside the window.
    pub blocks: u32,
    /// Their bytes.
    pub block_bytes: u64,
    /// Blocks outside of it that were not looked at.
    pub blocks_outside: u32,
    /// Row groups that were read.
    pub row_groups: u32,
    /// Row groups that hold nothing, by what their index and filters say.
    pub row_groups_skipped: u32,
    /// Chunks that were to be looked at.
    pub jobs: u32,
    /// Chunks that were, or that could not matter.
    pub jobs_done: u32,
    /// Traces that were brought together from several places.
    pub joined: u64,
    /// What could not be read, for people; empty when the answer is complete.
    pub missing: Vec<String>,
}

impl Looked {
    /// Adds what another part took.
    pub fn add(&mut self, other: Looked) {
        self.inspected.add(other.inspected);
        self.bytes += other.bytes;
        self.reads += other.reads;
        self.blocks += other.blocks;
        self.block_bytes += other.block_bytes;
        self.blocks_outside += other.blocks_outside;
        self.row_groups += other.row_groups;
        self.row_groups_skipped += other.row_groups_skipped;
        self.jobs += other.jobs;
        self.jobs_done += other.jobs_done;
        self.joined += other.joined;
        self.missing.extend(other.missing);
        self.missing.sort();
        self.missing.dedup();
    }
}

/// Somebody who watches an answer grow.
pub trait Onlooker<T>: Send + Sync {
    /// Whether the answer so far is wanted now. Cheap; asked after every job.
    fn is_curious(&self) -> bool;
    /// Shows the answer so far.
    fn show(&self, so_far: T);
}

/// How far a question is.
pub(crate) struct Standing {
    pub(crate) looked: Looked,
    /// No chunk that is still to be looked at holds a span that starts later. `None`: all were looked at.
    pub(crate) horizon: Option<u64>,
}

/// What looking at a chunk came to.
pub(crate) enum Seen {
    /// It holds nothing, by what it knows without being read.
    Skipped,
    Inspected(Inspected),
}

/// One kind of question at work. Called from several threads at once.
pub(crate) trait Work: Send + Sync + 'static {
    /// What one thread collects.
    type Part: Default + Send;

    /// Whether the job cannot matter any more.
    fn is_over(&self, job: &Job) -> bool {
        let _ = job;
        false
    }

    /// Looks at one chunk.
    fn look(&self, job: &Job, chunk: &dyn Chunk, part: &mut Self::Part, budget: &Budget) -> query::Result<Seen>;

    /// Takes in what a thread has collected, when it has nothing more to do.
    fn hand_in(&self, part: Self::Part, budget: &Budget) -> query::Result<()>;

    /// Called after every job.
    fn progress(&self, part: &mut Self::Part, budget: &Budget, standing: &dyn Fn() -> Standing) -> query::Result<()> {
        let _ = (part, budget, standing);
        Ok(())
    }
}

struct Shared<W> {
    work: Arc<W>,
    snapshot: Arc<Snapshot>,
    means: Means,
    jobs: Vec<Job>,
    state: Mutex<State>,
    runtime: tokio::runtime::Handle,
    threads: Mutex<Threads>,
}

/// The threads of a question.
struct Threads {
    /// Not waited for yet.
    running: Vec<tokio::task::JoinHandle<()>>,
    started: usize,
    /// Most at once.
    most: usize,
}

struct State {
    next: usize,
    under_way: BTreeSet<usize>,
    looked: Looked,
    failure: Option<query::Error>,
}

/// What one job took.
#[derive(Default)]
struct Took {
    inspected: Inspected,
    bytes: u64,
    reads: u64,
    row_groups: u32,
    row_groups_skipped: u32,
    joined: u64,
    missing: Vec<String>,
}

/// Works through `jobs`, which stand newest first, and adds what that took to `looked`.
///
/// Cancel: dropping the future leaves the threads running until their next look at the budget; whoever drops it cancels
/// the budget.
/// Errors: those of the work that are neither unavailable nor corrupt.
pub(crate) async fn run<W: Work>(
    snapshot: &Arc<Snapshot>,
    means: &Means,
    work: &Arc<W>,
    jobs: Vec<Job>,
    looked: &mut Looked,
) -> Result<()> {
    looked.jobs = looked
        .jobs
        .saturating_add(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
    let count = means.threads.max(1).min(jobs.len());
    let shared = Arc::new(Shared {
        work: Arc::clone(work),
        snapshot: Arc::clone(snapshot),
        means: means.clone(),
        jobs,
        state: Mutex::new(State {
            next: 0,
            under_way: BTreeSet::new(),
            looked: std::mem::take(looked),
            failure: None,
        }),
        runtime: tokio::runtime::Handle::current(),
        threads: Mutex::new(Threads {
            running: Vec::new(),
            started: 0,
            most: count,
        }),
    });
    for _ in 0..means.turns.at_once().min(count) {
        shared.start_thread();
    }
    // A thread is waited for after it has started the last of its stand-ins, so when none is left, none will come.
    while let Some(thread) = { shared.threads.lock().running.pop() } {
        thread.await.expect("looking at chunks does not panic");
    }
    let mut state = shared.state.lock();
    *looked = std::mem::take(&mut state.looked);
    looked.missing.sort();
    looked.missing.dedup();
    match state.failure.take() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

impl<W: Work> Shared<W> {
    /// Starts a thread if there is something left for it to do and there are not too many.
    fn start_thread(self: &Arc<Self>) {
        let is_left = {
            let state = self.state.lock();
            state.failure.is_none() && state.next < self.jobs.len()
        };
        let mut threads = self.threads.lock();
        if is_left && threads.started < threads.most {
            threads.started += 1;
            let shared = Arc::clone(self);
            threads.running.push(self.means.turns.spawn(move || shared.work()));
        }
    }

    fn work(self: &Arc<Self>) {
        let stand_in = {
            let shared = Arc::clone(self);
            Box::new(move || shared.start_thread())
        };
        let turn = self.means.turns.of_one_who_calls(&self.snapshot.tenant, stand_in);
        let budget = {
            let turn = Arc::clone(&turn);
            self.means.budget.pausing(Arc::new(move || turn.breathe()))
        };
        let mut part = W::Part::default();
        while let Some(at) = self.take_job() {
            let job = &self.jobs[at];
            let outcome = if self.work.is_over(job) {
                Ok(Took::default())
            } else {
                self.run_job(job, &mut part, &budget, &turn)
            };
            let ended = self.end_job(at, outcome);
            if !ended {
                break;
            }
            let shown = self.work.progress(&mut part, &budget, &|| self.standing());
            if let Err(error) = shown {
                self.fail(error);
                break;
            }
        }
        turn.take();
        // Without pauses: what is handed in is brought together under a lock, for which others may be waiting.
        let handed_in = self.work.hand_in(part, &self.means.budget);
        turn.give_back();
        if let Err(error) = handed_in {
            self.fail(error);
        }
    }

    fn take_job(&self) -> Option<usize> {
        let mut state = self.state.lock();
        if state.failure.is_some() || state.next >= self.jobs.len() {
            return None;
        }
        let at = state.next;
        state.next += 1;
        state.under_way.insert(at);
        Some(at)
    }

    /// Whether the question goes on.
    fn end_job(&self, at: usize, outcome: query::Result<Took>) -> bool {
        let mut state = self.state.lock();
        state.under_way.remove(&at);
        match outcome {
            Ok(took) => {
                let looked = &mut state.looked;
                looked.jobs_done += 1;
                looked.inspected.add(took.inspected);
                looked.bytes += took.bytes;
                looked.reads += took.reads;
                looked.row_groups += took.row_groups;
                looked.row_groups_skipped += took.row_groups_skipped;
                looked.joined += took.joined;
                looked.missing.extend(took.missing);
                true
            }
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Corrupt) => {
                state.looked.missing.push(chain(&error));
                true
            }
            Err(error) => {
                drop(state);
                self.fail(error);
                false
            }
        }
    }

    fn fail(&self, error: query::Error) {
        self.state.lock().failure.get_or_insert(error);
        // The others need not finish what they are at.
        self.means.budget.cancel();
    }

    fn standing(&self) -> Standing {
        let state = self.state.lock();
        let first = state.under_way.first().copied().unwrap_or(state.next).min(state.next);
        let ahead = self.jobs.get(first..).unwrap_or_default().iter();
        Standing {
            looked: state.looked.clone(),
            horizon: ahead.map(Job::latest_start).max(),
        }
    }

    fn run_job(
        self: &Arc<Self>,
        job: &Job,
        part: &mut W::Part,
        budget: &Budget,
        turn: &Arc<crate::turns::Turn>,
    ) -> query::Result<Took> {
        budget.check()?;
        let mut took = Took::default();
        match job {
            Job::Live(chunk) => {
                turn.take();
                let table = chunk.table();
                // Without pauses: while the table is borrowed, nothing can be appended to it.
                let seen = self.work.look(job, &TableChunk::new(&table), part, &self.means.budget);
                drop(table);
                turn.give_back();
                if let Seen::Inspected(inspected) = seen? {
                    took.inspected = inspected;
                }
            }
            Job::RowGroup { block, group, .. } => {
                let fetching = Fetching {
                    runtime: self.runtime.clone(),
                    turn: Arc::clone(turn),
                    budget: budget.clone(),
                };
                let chunk = RowGroupChunk::new(Arc::clone(block), *group, fetching);
                turn.take();
                let seen = self.work.look(job, &chunk, part, budget);
                turn.give_back();
                (took.bytes, took.reads) = (chunk.fetched_bytes(), chunk.fetches());
                match seen? {
                    Seen::Skipped => took.row_groups_skipped = 1,
                    Seen::Inspected(inspected) => (took.row_groups, took.inspected) = (1, inspected),
                }
            }
            Job::Whole { traces, .. } => {
                for some in traces.chunks(WHOLE_TRACES) {
                    budget.check()?;
                    self.start_thread();
                    // Most of it is decoding: it goes on with the turn in hand, and gives it up whenever it waits.
                    let mut reading = std::pin::pin!(whole_traces(&self.snapshot, &self.means.blocks, some));
                    let whole = self.runtime.block_on(std::future::poll_fn(|context| {
                        turn.take();
                        let polled = reading.as_mut().poll(context);
                        turn.give_back();
                        polled
                    }));
                    took.bytes += whole.inspected_bytes;
                    took.reads += whole.reads;
                    took.joined += some.len() as u64;
                    took.missing.extend(whole.missing);
                    budget.spend_bytes(usize::try_from(whole.inspected_bytes).unwrap_or(usize::MAX))?;
                    let held = whole.spans.heap_bytes();
                    budget.hold(held)?;
                    turn.take();
                    let seen = self.work.look(job, &TableChunk::new(&whole.spans), part, budget);
                    turn.give_back();
                    budget.release(held);
                    if let Seen::Inspected(inspected) = seen? {
                        took.inspected.add(inspected);
                    }
                }
            }
        }
        Ok(took)
    }
}

#[cfg(test)]
mod tests;
