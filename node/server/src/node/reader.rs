//! Questions to the node's own shards and blocks.
//!
//! Each question takes one snapshot per tenant: the catalog first, then the tails above it, so that nothing is missed or
//! doubled. A dropped question cancels its budget, which stops its threads within a few thousand rows.

use std::sync::Arc;

use futures::future::BoxFuture;
use model::TenantId;
use query::SearchPlan;
use query::answer::TopTraces;
use query::budget::{Budget, Limits};
use settings::NodeSettings;
use shard::blocks::Blocks;
use shard::owner::Shard;
use shard::snapshot::Snapshot;
use wire::assemble::TraceAssembler;
use wire::frame::Blob;

use super::ring::RingPort;
use crate::querier::{
    Places, Querier, SearchAnswer, SearchQuestion, Stats, TagsAnswer, TagsQuestion, TraceAnswer, TraceQuestion,
    ValuesAnswer, ValuesQuestion,
};
use crate::refusal::{Kind, Refusal};

/// The way out.
pub(super) struct Reader {
    ring: Arc<RingPort>,
    shards: Vec<Arc<Shard>>,
    pub(super) blocks: Arc<Blocks>,
    scan_bytes_max: u64,
    workers: usize,
}

/// Stops the threads of a question that nobody waits for any more.
pub(super) struct CancelOnDrop(Arc<Budget>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Reader {
    pub(super) fn new(
        settings: &NodeSettings,
        ring: Arc<RingPort>,
        shards: Vec<Arc<Shard>>,
        blocks: Arc<Blocks>,
    ) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            ring,
            shards,
            blocks,
            scan_bytes_max: settings.query.scan_bytes_max.bytes(),
            workers: settings.query.threads.map_or(cpus, |threads| threads as usize),
        }
    }

    pub(super) async fn snapshot(&self, tenant: &TenantId) -> Result<Arc<Snapshot>, Refusal> {
        Ok(Arc::new(Snapshot::take(&*self.ring, &self.shards, tenant).await?))
    }

    /// What a question may cost, and what stops it when it is dropped.
    pub(super) fn budget(&self) -> (Arc<Budget>, CancelOnDrop) {
        let budget = Arc::new(Budget::new(Limits {
            bytes_max: self.scan_bytes_max,
            ..Limits::default()
        }));
        let cancel = CancelOnDrop(Arc::clone(&budget));
        (budget, cancel)
    }

    /// Threads one question may use.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    pub(super) async fn run_search(
        &self,
        tenants: &[TenantId],
        plan: &Arc<SearchPlan>,
    ) -> Result<SearchAnswer, Refusal> {
        let (budget, _cancel) = self.budget();
        let mut top = TopTraces::new(plan.request().limit);
        let mut answer = SearchAnswer::default();
        for tenant in tenants {
            let snapshot = self.snapshot(tenant).await?;
            let (blocks, plan, budget) = (Arc::clone(&self.blocks), Arc::clone(plan), Arc::clone(&budget));
            let found = shard::search::search(snapshot, blocks, plan, budget, self.workers).await?;
            for trace in found.traces {
                top.push(trace);
            }
            let stats = &mut answer.stats;
            stats.inspected_bytes += found.inspected_bytes;
            stats.inspected_spans += found.inspected.spans;
            stats.inspected_traces = stats
                .inspected_traces
                .saturating_add(u32::try_from(found.inspected.traces).unwrap_or(u32::MAX));
            stats.blocks += found.blocks;
            stats.block_bytes += found.block_bytes;
            stats.jobs += found.jobs;
            stats.jobs_done += found.jobs_done;
            answer.missing.extend(found.missing);
        }
        answer.traces = top.into_vec();
        Ok(answer)
    }

    async fn read_trace(&self, question: TraceQuestion) -> Result<TraceAnswer, Refusal> {
        let mut answer = TraceAnswer::default();
        let bytes_max = usize::try_from(question.bytes_max).unwrap_or(usize::MAX);
        let mut assembler = TraceAssembler::new(bytes_max);
        for tenant in question.tenants.iter() {
            let snapshot = self.snapshot(tenant).await?;
            let places = shard::trace::Places {
                blocks: question.places != Places::Recent,
                recent: question.places != Places::Blocks,
            };
            let whole =
                shard::trace::whole_trace(&snapshot, &self.blocks, question.trace_id, places, question.bytes_max).await;
            answer.is_cut |= whole.is_cut;
            answer.stats = add(
                answer.stats,
                Stats {
                    inspected_bytes: whole.inspected_bytes,
                    ..Stats::default()
                },
            );
            answer.missing.extend(whole.missing);
            assemble(&whole.spans, &mut assembler).map_err(|error| Refusal::new(Kind::Internal, error.to_string()))?;
        }
        let assembled = assembler.finish();
        answer.is_cut |= assembled.truncated;
        answer.trace = assembled.bytes.into();
        Ok(answer)
    }
}

fn assemble(spans: &model::SpanTable, into: &mut TraceAssembler) -> Result<(), model::proto::Malformed> {
    let mut rows: Vec<u32> = (0..u32::try_from(spans.len()).unwrap_or(u32::MAX)).collect();
    // The same trace looks the same however its pieces were found.
    rows.sort_by_key(|row| (spans.start_unix_nanos()[*row as usize], spans.span_id()[*row as usize]));
    let mut span = Vec::new();
    for row in rows {
        let at = row as usize;
        let (message, schema_url) = model::table::read_owner(spans.resources().get(spans.resource()[at]))?;
        let resource = Blob { message, schema_url };
        let (message, schema_url) = model::table::read_owner(spans.scopes().get(spans.scope()[at]))?;
        let scope = Blob { message, schema_url };
        span.clear();
        spans.write_span(row, &mut span);
        into.push(resource, scope, &span)?;
    }
    Ok(())
}

fn add(a: Stats, b: Stats) -> Stats {
    Stats {
        inspected_bytes: a.inspected_bytes + b.inspected_bytes,
        ..a
    }
}

impl Querier for Reader {
    fn trace_by_id(&self, question: TraceQuestion) -> BoxFuture<'_, Result<TraceAnswer, Refusal>> {
        Box::pin(self.read_trace(question))
    }

    fn search(&self, question: SearchQuestion) -> BoxFuture<'_, Result<SearchAnswer, Refusal>> {
        Box::pin(async move { self.run_search(&question.tenants, &question.plan).await })
    }

    fn tags(&self, question: TagsQuestion) -> BoxFuture<'_, Result<TagsAnswer, Refusal>> {
        Box::pin(self.read_tags(question))
    }

    fn tag_values(&self, question: ValuesQuestion) -> BoxFuture<'_, Result<ValuesAnswer, Refusal>> {
        Box::pin(self.read_values(question))
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
