//! Runs one piece of work over every chunk of a snapshot, on threads that may block.
//!
//! For questions that need no joining of split traces: names and values of attributes. Searching has its own loop
//! ([`crate::search`]) because it stops early and brings traces together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use query::source::{Chunk, TimeRange};

use crate::blocks::Blocks;
use crate::chunk::TableChunk;
use crate::chunk::row_group::RowGroupChunk;
use crate::error::Result;
use crate::search::{Job, open_blocks};
use crate::snapshot::Snapshot;
use crate::trace::chain;

/// What came out of a scan.
#[derive(Debug, Default)]
pub struct Scanned<T> {
    /// One per worker, in no particular order.
    pub parts: Vec<T>,
    /// Chunks that were to be looked at.
    pub jobs: u32,
    /// Chunks that were.
    pub jobs_done: u32,
    /// Bytes read from blocks.
    pub inspected_bytes: u64,
    /// What could not be read, for people.
    pub missing: Vec<String>,
}

/// Calls `work` for every chunk that overlaps `window`, each worker with its own `T`.
///
/// Errors: the first one of `work` that is neither of kind unavailable nor corrupt; those are named in the result instead.
pub async fn scan<T, F>(
    snapshot: &Arc<Snapshot>,
    blocks: &Arc<Blocks>,
    window: TimeRange,
    workers: usize,
    work: F,
) -> Result<Scanned<T>>
where
    T: Default + Send + 'static,
    F: Fn(&dyn Chunk, &mut T) -> query::Result<()> + Send + Sync + 'static,
{
    let mut scanned = Scanned::default();
    let jobs = Arc::new(jobs(snapshot, blocks, window, &mut scanned.missing).await);
    scanned.jobs = u32::try_from(jobs.len() + scanned.missing.len()).unwrap_or(u32::MAX);
    let (next, work) = (Arc::new(AtomicUsize::new(0)), Arc::new(work));
    let outcome = Arc::new(Mutex::new((scanned, None)));
    let threads: Vec<_> = (0..workers.max(1).min(jobs.len()))
        .map(|_| {
            let (jobs, next, work) = (Arc::clone(&jobs), Arc::clone(&next), Arc::clone(&work));
            let (outcome, runtime) = (Arc::clone(&outcome), tokio::runtime::Handle::current());
            tokio::task::spawn_blocking(move || {
                let mut mine = T::default();
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (done, bytes) = run(job, &runtime, &*work, &mut mine);
                    let mut outcome = outcome.lock();
                    outcome.0.inspected_bytes += bytes;
                    match done {
                        Ok(()) => outcome.0.jobs_done += 1,
                        Err(error) if matches!(error.kind(), query::Kind::Unavailable | query::Kind::Corrupt) => {
                            outcome.0.missing.push(chain(&error));
                        }
                        Err(error) => {
                            outcome.1.get_or_insert(error);
                            next.store(jobs.len(), Ordering::Relaxed);
                        }
                    }
                }
                outcome.lock().0.parts.push(mine);
            })
        })
        .collect();
    for thread in threads {
        thread.await.expect("a scan does not panic");
    }
    let (mut scanned, failure) = Arc::into_inner(outcome).expect("all workers are done").into_inner();
    if let Some(error) = failure {
        return Err(error.into());
    }
    scanned.missing.sort();
    scanned.missing.dedup();
    Ok(scanned)
}

fn run<T>(
    job: &Job,
    runtime: &tokio::runtime::Handle,
    work: &(dyn Fn(&dyn Chunk, &mut T) -> query::Result<()> + Send + Sync),
    into: &mut T,
) -> (query::Result<()>, u64) {
    match job {
        Job::Live(chunk) => (work(&TableChunk::new(&chunk.table()), into), 0),
        Job::RowGroup(block, group, _) => {
            let chunk = RowGroupChunk::new(Arc::clone(block), *group, runtime.clone());
            let done = work(&chunk, into);
            (done, chunk.fetched_bytes())
        }
    }
}

async fn jobs(snapshot: &Snapshot, blocks: &Arc<Blocks>, window: TimeRange, missing: &mut Vec<String>) -> Vec<Job> {
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
            Err(error) => missing.push(format!("a block that waits for its upload: {}", chain(&error))),
        }
    }
    for (record, block) in open_blocks(snapshot, blocks, missing).await {
        let range = TimeRange {
            start_unix_nanos: record.min_unix_nanos,
            end_unix_nanos: record.max_unix_nanos,
        };
        if window.overlaps(&range) {
            let groups = 0..block.index().fences().len();
            jobs.extend(groups.map(|group| Job::RowGroup(Arc::clone(&block), group, Some(record.id))));
        }
    }
    jobs
}
