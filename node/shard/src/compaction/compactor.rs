//! Does merges: one claim at a time, several claims at once.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{Block, BlockSummary, MergeOptions};
use model::{BlockId, Clock, TenantId};
use parking_lot::Mutex;
use settings::CompactionSettings;
use tokio::sync::watch;

use super::choice::{Job, ROW_BYTES, Rules, choose, outstanding};
use super::rest::Resting;
use super::scratch::ScratchFile;
use super::splits;
use crate::blocks::{Blocks, OpenBlock};
use crate::catalog::{BlockRecord, ByteRange, CatalogView, Command, ObjectId, ObjectRecord, SplitTraces};
use crate::error::{Error, Result};
use crate::flush::byte_range;
use crate::housekeeping::{HousekeepingMetrics, count, show};
use crate::port::CatalogPort;
use crate::spool;
use crate::store::Store;

/// What a [`Compactor`] works with.
#[derive(Clone)]
pub struct CompactorOptions {
    /// How to merge.
    pub settings: CompactionSettings,
    /// Where results are written before they are uploaded. Belongs to the compactor alone; emptied at the start.
    pub scratch_dir: PathBuf,
    /// Where blocks are.
    pub store: Store,
    /// What they are.
    pub catalog: Arc<dyn CatalogPort>,
    /// To read them.
    pub blocks: Arc<Blocks>,
    /// Makes ids of objects and blocks: version 7 UUIDs.
    pub new_block_id: Arc<dyn Fn() -> BlockId + Send + Sync>,
    /// For rests after failures.
    pub clock: Arc<dyn Clock>,
    /// Where to count.
    pub metrics: Arc<HousekeepingMetrics>,
}

impl std::fmt::Debug for CompactorOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompactorOptions")
            .field("settings", &self.settings)
            .field("scratch_dir", &self.scratch_dir)
            .finish_non_exhaustive()
    }
}

/// Finds merges and does them. Share it: [`Compactor::next`] never hands out a block twice.
#[derive(Debug)]
pub struct Compactor {
    options: CompactorOptions,
    rules: Rules,
    merge: MergeOptions,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    busy: HashSet<BlockId>,
    /// Claims that are out.
    claims: u32,
    resting: Resting,
    /// Tenants take turns.
    last_tenant: Option<TenantId>,
}

/// A job that nobody else on this node does. Given back when dropped.
#[derive(Debug)]
pub struct Claim {
    job: Job,
    state: Arc<Mutex<State>>,
}

impl Claim {
    /// What is to be merged.
    pub fn job(&self) -> &Job {
        &self.job
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.claims -= 1;
        for input in &self.job.inputs {
            state.busy.remove(&input.id);
        }
    }
}

/// How a merge ended that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This block has taken the place of the inputs.
    Merged(BlockId),
    /// Another merge or retention took an input first. Nothing is left of this one.
    Lost,
    /// Told to stop. An object that nobody names may be left.
    Stopped,
}

/// A merged block on local disk.
struct Merged {
    file: ScratchFile,
    checksum: u64,
    summary: BlockSummary,
}

impl Compactor {
    /// Empties the scratch directory.
    pub fn new(options: CompactorOptions) -> Result<Self> {
        spool::clear(&options.scratch_dir).map_err(|source| Error::Spool {
            path: options.scratch_dir.clone(),
            source,
        })?;
        let rules = Rules::new(&options.settings);
        let batch_rows = options.settings.job_memory.bytes() / 4 / ROW_BYTES;
        let merge = MergeOptions {
            batch_rows: MergeOptions::default()
                .batch_rows
                .min(u32::try_from(batch_rows).unwrap_or(u32::MAX)),
        };
        Ok(Self {
            options,
            rules,
            merge,
            state: Arc::default(),
        })
    }

    /// The next merge to do, if any; tenants take turns. At most `jobs_max` claims are out at once: each holds memory and
    /// disk until it is dropped.
    pub fn next(&self) -> Option<Claim> {
        if !self.options.settings.enabled {
            return None;
        }
        let view = self.options.catalog.view();
        let now = self.options.clock.monotonic();
        let ring_now = self.options.catalog.now().unix_nanos;
        let mut state = self.state.lock();
        if state.claims >= self.options.settings.jobs_max {
            return None;
        }
        state.resting.retain(|id| view.block(id).is_some());
        let tenants: Vec<_> = view.tenants().collect();
        let after = state.last_tenant.as_ref();
        let turn = after.map_or(0, |last| tenants.partition_point(|(tenant, _)| *tenant <= last));
        for (tenant, blocks) in tenants[turn..].iter().chain(&tenants[..turn]) {
            let is_free = |record: &&Arc<BlockRecord>| {
                !state.busy.contains(&record.id) && !state.resting.contains(record.id, now)
            };
            let Some(job) = choose(blocks.iter().filter(is_free), &self.rules, ring_now) else {
                continue;
            };
            state.busy.extend(job.inputs.iter().map(|record| record.id));
            state.last_tenant = Some((*tenant).clone());
            state.claims += 1;
            let state = Arc::clone(&self.state);
            return Some(Claim { job, state });
        }
        None
    }

    /// Counts what waits and shows it in the metrics.
    pub fn measure_outstanding(&self) -> u64 {
        let view = self.options.catalog.view();
        let now = self.options.catalog.now().unix_nanos;
        let waiting = view
            .tenants()
            .map(|(_, blocks)| outstanding(blocks.iter(), &self.rules, now).blocks);
        let waiting = waiting.sum();
        show(&self.options.metrics.outstanding_blocks, waiting);
        waiting
    }

    /// Does a merge. `stop` ends it early when it becomes true, or when its sender is gone.
    ///
    /// Errors: the inputs rest, and [`Compactor::next`] comes back to them later. Whatever was uploaded is collected.
    /// Cancel: as after an error; the thread that merges stops at its next read.
    pub async fn run(&self, claim: Claim, mut stop: watch::Receiver<bool>) -> Result<Outcome> {
        let done = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(Outcome::Stopped),
            done = Box::pin(self.work(&claim.job)) => done,
        };
        let metrics = &self.options.metrics;
        match &done {
            Ok(Outcome::Merged(_)) => count(&metrics.merges_done, 1),
            Ok(Outcome::Lost) => count(&metrics.merges_lost, 1),
            Ok(Outcome::Stopped) => {}
            Err(error) => {
                count(&metrics.merges_failed, 1);
                self.rest(&claim.job, error);
            }
        }
        done
    }

    async fn work(&self, job: &Job) -> Result<Outcome> {
        let Some(inputs) = self.open(job).await? else {
            return Ok(Outcome::Lost);
        };
        let object = ObjectId((self.options.new_block_id)());
        let merged = self.merge(object, &inputs).await?;
        self.options.catalog.change(Command::Announce { object }).await?;
        let key = Store::merged_key(&job.tenant, object);
        let bytes = merged.summary.bytes;
        let etag = self.options.store.upload_file(&key, merged.file.path(), bytes).await?;
        let record = self.record(job, object, &inputs, &merged.summary).await?;
        let Some(record) = record else {
            return Err(Error::Ring("a merge of blocks with spans has none".to_owned()));
        };
        let (id, written) = (record.id, record.bytes);
        let object = ObjectRecord {
            id: object,
            path: Arc::from(key),
            bytes,
            // The footer follows the index section to the end of the object.
            footer: ByteRange {
                offset: record.index.offset + record.index.length,
                length: bytes - record.index.offset - record.index.length,
            },
            checksum: merged.checksum,
            etag,
        };
        let outcome = self.replace(job, object, record).await?;
        if outcome == Outcome::Merged(id) {
            let metrics = &self.options.metrics;
            count(&metrics.merged_blocks_in, job.inputs.len() as u64);
            count(&metrics.merged_blocks_out, 1);
            count(
                &metrics.merged_bytes_in,
                job.inputs.iter().map(|input| input.bytes).sum(),
            );
            count(&metrics.merged_bytes_out, written);
        }
        Ok(outcome)
    }

    /// The inputs, opened; `None` when one is gone.
    async fn open(&self, job: &Job) -> Result<Option<Vec<Arc<OpenBlock>>>> {
        let view = self.options.catalog.view();
        let mut inputs = Vec::with_capacity(job.inputs.len());
        for record in &job.inputs {
            if view.block(record.id).is_none() {
                return Ok(None);
            }
            inputs.push(self.options.blocks.open(&view, record).await?);
        }
        Ok(Some(inputs))
    }

    /// Merges into a scratch file, on a thread that may be busy for long.
    async fn merge(&self, object: ObjectId, inputs: &[Arc<OpenBlock>]) -> Result<Merged> {
        let inputs: Vec<Block> = inputs.iter().map(|open| open.block().clone()).collect();
        let (dir, options) = (self.options.scratch_dir.clone(), self.merge);
        // Whoever drops this future drops `here`, and the thread notices.
        let (here, mut gone) = watch::channel(());
        let runtime = tokio::runtime::Handle::current();
        let thread = tokio::task::spawn_blocking(move || {
            let (file, sink) = ScratchFile::create(&dir, object.0)?;
            let merged = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = gone.changed() => None,
                    merged = block::merge(&inputs, sink, options) => Some(merged),
                }
            });
            let Some(merged) = merged else { return Ok(None) };
            let (sink, summary) = merged?;
            let checksum = file.finish(sink)?;
            Ok::<_, Error>(Some(Merged {
                file,
                checksum,
                summary,
            }))
        });
        let merged = thread.await.expect("a merge does not panic")?;
        drop(here);
        Ok(merged.expect("a merge ends early only when nobody waits for it"))
    }

    async fn record(
        &self,
        job: &Job,
        object: ObjectId,
        inputs: &[Arc<OpenBlock>],
        summary: &BlockSummary,
    ) -> Result<Option<BlockRecord>> {
        let Some((section, (min_trace, max_trace))) = summary
            .sections
            .first()
            .and_then(|section| Some((section, section.traces?)))
        else {
            return Ok(None);
        };
        let view = self.options.catalog.view();
        let split_traces: SplitTraces =
            splits::of_result(&self.options.blocks, &view, job, inputs, &section.split_traces).await?;
        let level = job.inputs.iter().map(|input| input.level).max().unwrap_or(0);
        Ok(Some(BlockRecord {
            id: (self.options.new_block_id)(),
            tenant: job.tenant.clone(),
            object,
            row_groups: section.row_groups.clone(),
            bloom: byte_range(&section.bloom),
            index: byte_range(&section.index),
            bytes: section.data.end - section.data.start,
            spans: section.totals.spans,
            traces: section.totals.traces,
            min_unix_nanos: section.totals.min_start,
            max_unix_nanos: section.totals.max_end.max(section.totals.max_start),
            min_trace,
            max_trace,
            level: level.saturating_add(1),
            split_traces,
            source: None,
            created_unix_nanos: 0,
        }))
    }

    async fn replace(&self, job: &Job, object: ObjectRecord, record: BlockRecord) -> Result<Outcome> {
        let (id, object_id, key) = (record.id, object.id, Arc::clone(&object.path));
        let command = Command::Replace {
            old: job.inputs.iter().map(|input| input.id).collect(),
            objects: vec![object],
            records: vec![record],
        };
        let outcome = self.options.catalog.change(command).await;
        let view = self.options.catalog.view();
        if outcome.is_ok() || view.knows_object(object_id) {
            return Ok(Outcome::Merged(id));
        }
        if is_certainly_lost(&view, job, object_id) {
            // Deleting is a courtesy to the bucket; the collector would do it tomorrow.
            if let Err(error) = self.options.store.delete(&key).await {
                tracing::debug!(%key, %error, "cannot delete the result of a merge that came too late");
            }
            return Ok(Outcome::Lost);
        }
        outcome.map(|_| Outcome::Merged(id))
    }

    fn rest(&self, job: &Job, error: &Error) {
        let now = self.options.clock.monotonic();
        let view = self.options.catalog.view();
        let culprit = error.damaged_object();
        let path = |record: &BlockRecord| {
            view.object(record.object)
                .map(|object| self.options.store.path(&object.path))
        };
        let is_culprit = |record: &BlockRecord| {
            culprit.is_some_and(|culprit| path(record).is_some_and(|path| path.as_ref() == culprit))
        };
        let mut state = self.state.lock();
        if let Some(damaged) = job.inputs.iter().find(|record| is_culprit(record)) {
            state.resting.add_damaged(damaged.id, now);
            return;
        }
        for input in &job.inputs {
            state.resting.add(input.id, now);
        }
    }

    /// Where results are written before they are uploaded.
    pub fn scratch_dir(&self) -> &Path {
        &self.options.scratch_dir
    }
}

/// Whether this view proves that the catalog did not take the result and never will: an input is gone and the result is
/// not known, so somebody else took it. Had it been for the result, both would have changed in one step.
fn is_certainly_lost(view: &CatalogView, job: &Job, object: ObjectId) -> bool {
    let is_gone = job.inputs.iter().any(|input| view.block(input.id).is_none());
    is_gone && !view.knows_object(object)
}
