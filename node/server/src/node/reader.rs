//! Questions to the node's own shards and blocks.
//!
//! Each question takes one snapshot per tenant: the catalog first, then the tails above it, so that nothing is missed or
//! doubled. A dropped question cancels its budget, which stops its threads within a few thousand rows.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use model::{TenantId, TraceId};
use parking_lot::Mutex;
use plants::Plant;
use query::answer::TopTraces;
use query::budget::{Budget, Limits, SharedMemory};
use query::metrics::MetricsPartial;
use query::source::TimeRange;
use settings::NodeSettings;
use shard::blocks::Blocks;
use shard::chunk::TableChunk;
use shard::crew::{Looked, Means, Onlooker};
use shard::snapshot::Snapshot;
use shard::turns::Turns;
use wire::assemble::TraceAssembler;
use wire::frame::Blob;

use super::ring::RingPort;
use super::tails::Tails;
use crate::app::Common;
use crate::preview::{Preview, Watching};
use crate::querier::{
    Allowance, Held, MetricsAnswer, MetricsQuestion, Places, Querier, SearchAnswer, SearchQuestion, Stats, TagsAnswer,
    TagsQuestion, TraceAnswer, TraceQuestion, ValuesAnswer, ValuesQuestion,
};
use crate::refusal::{Kind, Refusal};

/// Threads of one question per CPU: most of them wait for the object store, whose answers take tens of milliseconds.
const THREADS_PER_CPU: usize = 4;
/// Threads of one question at most.
const THREADS_MAX: usize = 32;
/// Tenants whose memory is remembered although none of their questions runs.
const MEMORIES_TIDY: usize = 1_000;

/// How often a tail may have been flushed between being read and being named by the catalog; a flush takes seconds.
const STALE_MAX: u32 = 40;
const STALE_PAUSE: Duration = Duration::from_millis(50);

/// The way out.
pub(super) struct Reader {
    ring: Arc<RingPort>,
    tails: Arc<Tails>,
    pub(super) blocks: Arc<Blocks>,
    turns: Arc<Turns>,
    threads: usize,
    memory: Arc<SharedMemory>,
    memories: Mutex<HashMap<TenantId, Weak<SharedMemory>>>,
}

/// Stops the threads of a question that nobody waits for any more.
pub(super) struct CancelOnDrop(Budget);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Threads of all questions that compute at once.
fn at_once(settings: &NodeSettings) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    settings.query.threads.map_or(cpus, |threads| threads as usize)
}

/// Who computes when.
pub(super) fn turns(common: &Common) -> Arc<Turns> {
    Turns::on(
        common.computing.clone(),
        at_once(&common.settings),
        Arc::clone(&common.clock),
    )
}

impl Reader {
    pub(super) fn new(
        settings: &NodeSettings,
        turns: Arc<Turns>,
        ring: Arc<RingPort>,
        tails: Arc<Tails>,
        blocks: Arc<Blocks>,
    ) -> Self {
        Self {
            ring,
            tails,
            blocks,
            turns,
            threads: (at_once(settings) * THREADS_PER_CPU).min(THREADS_MAX),
            memory: Arc::new(SharedMemory::new(settings.memory.queries.bytes(), "memory.queries")),
            memories: Mutex::default(),
        }
    }

    pub(super) async fn snapshot(&self, tenant: &TenantId) -> Result<Arc<Snapshot>, Refusal> {
        self.snapshot_for(tenant, None).await
    }

    /// A snapshot for one trace asks its shard alone.
    async fn snapshot_for(&self, tenant: &TenantId, trace: Option<&TraceId>) -> Result<Arc<Snapshot>, Refusal> {
        let hash = trace.map(|trace| tenant.placement_hash(trace));
        let mut tries = 0;
        loop {
            let readable = self.tails.readable(hash).await;
            // Alone, the shards are never behind their catalog, and the catalog catches up by itself.
            let snapshot = if self.tails.is_alone() {
                Ok(Snapshot::take(&*self.ring, &readable.shards, tenant).await?)
            } else {
                Snapshot::take_now(&*self.ring, &readable.shards, tenant)
            };
            match snapshot {
                // A shard that is led elsewhere from now on has forgotten its spans, perhaps before it was looked at.
                Ok(mut snapshot) if readable.is_whole() => {
                    if plants::is(Plant::LiveBeforeCatalog) {
                        tokio::time::sleep(STALE_PAUSE).await;
                        snapshot.view = Arc::clone(self.ring.ring_view().state.catalog.view());
                    }
                    snapshot.missing = readable.missing;
                    return Ok(Arc::new(snapshot));
                }
                Err(stale) if tries == STALE_MAX => return Err(shard::Error::from(stale).into()),
                Ok(_) if tries == STALE_MAX => {
                    let message = "live spans keep moving to other nodes";
                    return Err(Refusal::new(Kind::Unavailable, message));
                }
                Ok(_) | Err(_) => {
                    tries += 1;
                    tokio::time::sleep(STALE_PAUSE).await;
                }
            }
        }
    }

    /// What a question may use, and what stops it when it is dropped. What federated tenants hold counts for the first.
    pub(super) fn means(
        &self,
        tenants: &[TenantId],
        allowance: Allowance,
        series_max: Option<usize>,
    ) -> (Means, CancelOnDrop) {
        let defaults = Limits::default();
        let limits = Limits {
            bytes_max: allowance.bytes_max,
            memory_max: allowance.memory_max,
            series_max: series_max.unwrap_or(defaults.series_max),
            ..defaults
        };
        let mut shared = vec![Arc::clone(&self.memory)];
        shared.extend(
            tenants
                .first()
                .map(|tenant| self.tenant_memory(tenant, allowance.tenant_memory_max)),
        );
        let budget = Budget::sharing(limits, shared);
        let cancel = CancelOnDrop(budget.clone());
        let means = Means {
            blocks: Arc::clone(&self.blocks),
            turns: Arc::clone(&self.turns),
            threads: self.threads,
            budget,
        };
        (means, cancel)
    }

    fn tenant_memory(&self, tenant: &TenantId, limit: u64) -> Arc<SharedMemory> {
        let mut memories = self.memories.lock();
        if memories.len() >= MEMORIES_TIDY {
            memories.retain(|_, memory| memory.strong_count() > 0);
        }
        let known = memories.get(tenant).and_then(Weak::upgrade);
        let memory = known.unwrap_or_else(|| Arc::new(SharedMemory::new(limit, "queries_memory_max")));
        memory.set_limit(limit);
        memories.insert(tenant.clone(), Arc::downgrade(&memory));
        memory
    }

    async fn run_search(
        &self,
        question: SearchQuestion,
        watching: Watching<SearchAnswer>,
    ) -> Result<SearchAnswer, Refusal> {
        let (means, _cancel) = self.means(&question.tenants, question.allowance, None);
        let mut top = TopTraces::new(question.plan.request().limit);
        let mut answer = SearchAnswer::default();
        // What one tenant shows as the newest could be pushed out by the next one's.
        let onlooker = watching
            .filter(|_| question.tenants.len() == 1)
            .map(|preview| preview as _);
        for tenant in question.tenants.iter() {
            let snapshot = self.snapshot(tenant).await?;
            let found = shard::search::search(&snapshot, &question.plan, &means, Option::clone(&onlooker)).await?;
            for trace in found.traces {
                top.push(trace);
            }
            answer.take(found.looked);
        }
        answer.stats.memory_bytes = means.budget.held_most();
        answer.traces = top.into_vec();
        answer.held = means.budget.into();
        Ok(answer)
    }

    async fn run_metrics(
        &self,
        question: MetricsQuestion,
        watching: Watching<MetricsAnswer>,
    ) -> Result<MetricsAnswer, Refusal> {
        let (means, _cancel) = self.means(&question.tenants, question.allowance, Some(question.series_max));
        let mut sums = MetricsPartial::new(&question.plan);
        let mut looked = Looked::default();
        let watcher = watching
            .filter(|_| question.tenants.len() == 1)
            .map(|preview| MetricsWatcher {
                preview,
                plan: Arc::clone(&question.plan),
                limits: *means.budget.limits(),
            });
        let onlooker = watcher.map(|watcher| Arc::new(watcher) as _);
        for tenant in question.tenants.iter() {
            let snapshot = self.snapshot(tenant).await?;
            let found = shard::measure::measure(&snapshot, &question.plan, &means, Option::clone(&onlooker)).await?;
            sums.merge(found.partial, question.series_max);
            looked.add(found.looked);
        }
        // Thousands of series make this up to seconds of work, which is done in turns with others as all of it.
        let turn = question.tenants.first().map(|tenant| self.turns.of(tenant));
        let budget = means.budget.clone();
        let finishing = self.turns.spawn(move || {
            let budget = match turn {
                None => budget,
                Some(turn) => {
                    turn.take();
                    budget.pausing(Arc::new(move || turn.breathe()))
                }
            };
            finish(&sums, &question.plan, looked, None, &budget)
        });
        let mut answer = finishing
            .await
            .map_err(|_| Refusal::new(Kind::Internal, "finishing a metrics query was lost"))??;
        answer.stats.memory_bytes = means.budget.held_most();
        answer.held = means.budget.into();
        Ok(answer)
    }

    async fn read_trace(&self, question: TraceQuestion) -> Result<TraceAnswer, Refusal> {
        let mut answer = TraceAnswer::default();
        let places = shard::trace::Places {
            blocks: question.places != Places::Recent,
            recent: question.places != Places::Blocks,
            window: question.window.unwrap_or(TimeRange::ALWAYS),
        };
        let mut found = Vec::new();
        for tenant in question.tenants.iter() {
            let snapshot = self.snapshot_for(tenant, Some(&question.trace_id)).await?;
            let (blocks, bytes_max) = (&self.blocks, question.bytes_max);
            let whole = shard::trace::whole_trace(&snapshot, blocks, question.trace_id, places, bytes_max).await;
            answer.is_cut |= whole.is_cut;
            answer.stats.add(Stats {
                inspected_bytes: whole.inspected_bytes,
                backend_bytes: whole.inspected_bytes,
                backend_reads: whole.reads,
                ..Stats::default()
            });
            answer.missing.extend(whole.missing);
            found.push(whole.spans);
        }
        let bytes_max = usize::try_from(question.bytes_max).unwrap_or(usize::MAX);
        // A trace of megabytes takes milliseconds to put together.
        let assembling = self.turns.spawn(move || {
            let mut assembler = TraceAssembler::new(bytes_max);
            let mut is_picked = false;
            for spans in &found {
                is_picked |= assemble(spans, question.pick.as_ref(), &mut assembler)?;
            }
            Ok::<_, Refusal>((assembler.finish(), is_picked))
        });
        let (assembled, is_picked) = assembling
            .await
            .map_err(|_| Refusal::new(Kind::Internal, "putting a trace together was lost"))??;
        answer.is_cut |= assembled.truncated;
        answer.is_picked = is_picked;
        answer.trace = assembled.bytes.into();
        Ok(answer)
    }
}

/// Whether spans were left out because `pick` does not want them.
fn assemble(
    spans: &model::SpanTable,
    pick: Option<&query::SpanPick>,
    into: &mut TraceAssembler,
) -> Result<bool, Refusal> {
    let mut rows: Vec<u32> = match pick {
        None => (0..u32::try_from(spans.len()).unwrap_or(u32::MAX)).collect(),
        Some(pick) => query::pick_spans(pick, &TableChunk::new(spans), &Budget::default())?,
    };
    // The same trace looks the same however its pieces were found.
    rows.sort_by_key(|row| (spans.start_unix_nanos()[*row as usize], spans.span_id()[*row as usize]));
    let malformed = |error: model::proto::Malformed| Refusal::new(Kind::Internal, error.to_string());
    let mut span = Vec::new();
    for row in &rows {
        let at = *row as usize;
        let owner = |blob| model::table::read_owner(blob).map_err(malformed);
        let (message, schema_url) = owner(spans.resources().get(spans.resource()[at]))?;
        let resource = Blob { message, schema_url };
        let (message, schema_url) = owner(spans.scopes().get(spans.scope()[at]))?;
        let scope = Blob { message, schema_url };
        span.clear();
        spans.write_span(*row, &mut span);
        into.push(resource, scope, &span).map_err(malformed)?;
    }
    Ok(rows.len() < spans.len())
}

fn finish(
    sums: &MetricsPartial,
    plan: &query::metrics::MetricsPlan,
    looked: Looked,
    unfinished_to: Option<u64>,
    budget: &Budget,
) -> Result<MetricsAnswer, Refusal> {
    let set = sums.finish(plan, budget)?;
    Ok(MetricsAnswer {
        series: set.series,
        is_cut: set.is_cut,
        unfinished_to,
        stats: stats(&looked),
        missing: looked.missing,
        held: Held::default(),
    })
}

pub(super) fn stats(looked: &Looked) -> Stats {
    Stats {
        inspected_traces: u32::try_from(looked.inspected.traces).unwrap_or(u32::MAX),
        inspected_spans: looked.inspected.spans,
        inspected_bytes: looked.bytes,
        blocks: looked.blocks,
        block_bytes: looked.block_bytes,
        jobs: looked.jobs,
        jobs_done: looked.jobs_done,
        backend_reads: looked.reads,
        backend_bytes: looked.bytes,
        blocks_outside: looked.blocks_outside,
        row_groups: looked.row_groups,
        row_groups_skipped: looked.row_groups_skipped,
        joined_traces: looked.joined,
        memory_bytes: 0,
    }
}

impl Stats {
    /// Adds what another part took.
    pub(super) fn add(&mut self, other: Stats) {
        self.inspected_traces = self.inspected_traces.saturating_add(other.inspected_traces);
        self.inspected_spans += other.inspected_spans;
        self.inspected_bytes += other.inspected_bytes;
        self.blocks += other.blocks;
        self.block_bytes += other.block_bytes;
        self.jobs += other.jobs;
        self.jobs_done += other.jobs_done;
        self.backend_reads += other.backend_reads;
        self.backend_bytes += other.backend_bytes;
        self.blocks_outside += other.blocks_outside;
        self.row_groups += other.row_groups;
        self.row_groups_skipped += other.row_groups_skipped;
        self.joined_traces += other.joined_traces;
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
    }
}

impl SearchAnswer {
    fn take(&mut self, looked: Looked) {
        self.stats.add(stats(&looked));
        self.missing.extend(looked.missing);
    }
}

impl Onlooker<shard::search::SearchAnswer> for Preview<SearchAnswer> {
    fn is_curious(&self) -> bool {
        self.is_wanted()
    }

    fn show(&self, so_far: shard::search::SearchAnswer) {
        let mut answer = SearchAnswer {
            traces: so_far.traces,
            ..SearchAnswer::default()
        };
        answer.take(so_far.looked);
        Self::show(self, answer);
    }
}

/// Makes series of the sums so far.
struct MetricsWatcher {
    preview: Arc<Preview<MetricsAnswer>>,
    plan: Arc<query::metrics::MetricsPlan>,
    /// Of one preview, which goes before the next is made.
    limits: Limits,
}

impl Onlooker<shard::measure::MetricsAnswer> for MetricsWatcher {
    fn is_curious(&self) -> bool {
        self.preview.is_wanted()
    }

    fn show(&self, so_far: shard::measure::MetricsAnswer) {
        // What cannot be finished now cannot be finished at the end either, and is refused there.
        let budget = Budget::new(self.limits);
        let (plan, unfinished_to) = (&self.plan, so_far.unfinished_to);
        if let Ok(answer) = finish(&so_far.partial, plan, so_far.looked, unfinished_to, &budget) {
            self.preview.show(answer);
        }
    }
}

impl Querier for Reader {
    fn trace_by_id(&self, question: TraceQuestion) -> BoxFuture<'_, Result<TraceAnswer, Refusal>> {
        Box::pin(self.read_trace(question))
    }

    fn search(
        &self,
        question: SearchQuestion,
        watching: Watching<SearchAnswer>,
    ) -> BoxFuture<'_, Result<SearchAnswer, Refusal>> {
        Box::pin(self.run_search(question, watching))
    }

    fn metrics(
        &self,
        question: MetricsQuestion,
        watching: Watching<MetricsAnswer>,
    ) -> BoxFuture<'_, Result<MetricsAnswer, Refusal>> {
        Box::pin(self.run_metrics(question, watching))
    }

    fn tags(
        &self,
        question: TagsQuestion,
        watching: Watching<TagsAnswer>,
    ) -> BoxFuture<'_, Result<TagsAnswer, Refusal>> {
        Box::pin(self.read_tags(question, watching))
    }

    fn tag_values(
        &self,
        question: ValuesQuestion,
        watching: Watching<ValuesAnswer>,
    ) -> BoxFuture<'_, Result<ValuesAnswer, Refusal>> {
        Box::pin(self.read_values(question, watching))
    }
}

impl From<shard::Error> for Refusal {
    fn from(error: shard::Error) -> Self {
        if let shard::Error::Query(error) = error {
            return error.into();
        }
        let kind = match error.kind() {
            shard::Kind::Rejected => Kind::Rejected,
            shard::Kind::Throttled => Kind::Throttled,
            shard::Kind::Unavailable | shard::Kind::Fenced => Kind::Unavailable,
            shard::Kind::Corrupt | shard::Kind::Internal => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}
