//! From a request's bytes to committed sub-batches: scan, split by shard, submit, wait for all.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use model::table::TraceSize;
use model::{ShardId, TenantId};
use settings::Limits;
use settings::limits::Oversize;
use wire::frame::BatchHash;
use wire::ingest::{IngestLimits, Outcome, Routed, TraceLimits, scan};

use super::ring::RingPort;
use super::route::Router;
use super::shards::Shards;
use crate::app::Common;
use crate::ingest::{Ingest, IngestOutcome};
use crate::refusal::{Kind, Refusal};

/// Bodies up to this size are scanned where they are: a third of a microsecond per span.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// The way in.
pub(super) struct Writer {
    pub(super) common: Common,
    pub(super) ring: Arc<RingPort>,
    pub(super) shards: Arc<Shards>,
    pub(super) router: Arc<Router>,
    pub(super) heads_max: usize,
}

impl Ingest for Writer {
    fn ingest(&self, tenant: TenantId, body: Bytes) -> BoxFuture<'_, Result<IngestOutcome, Refusal>> {
        Box::pin(self.write(tenant, body))
    }
}

impl Writer {
    async fn write(&self, tenant: TenantId, body: Bytes) -> Result<IngestOutcome, Refusal> {
        if self.shards.heap_bytes() >= self.heads_max {
            return Err(Refusal::new(
                Kind::Throttled,
                "live spans fill their memory; blocks are being written",
            ));
        }
        let limits = self.common.limits.load().of(tenant.as_str());
        let largest = self.check_live_traces(&tenant, &limits)?;
        let traces = TraceLimits {
            bytes_max: limits.trace_bytes_max.bytes(),
            spans_max: u64::from(limits.trace_spans_max),
        };
        let limits = ingest_limits(&limits, self.common.clock.unix_nanos());
        let places = Places::of(&self.ring);
        let is_small = body.len() <= INLINE_BYTES_MAX;
        let split = {
            let (limits, live) = (limits.clone(), self.shards.live());
            move || split(&tenant, &body, &limits, &traces, largest, (&places, &live))
        };
        let (outcome, routed) = if is_small {
            split()?
        } else {
            self.common.cpu.run(split).await??
        };
        let submissions = routed
            .into_iter()
            .map(|routed| self.router.store(routed.shard, routed.sub_batch));
        // If one fails, what the others stored is recognised when the client sends it again.
        try_join_all(submissions).await?;
        let (rejected_spans, message) = outcome.partial_success(&limits).unwrap_or_default();
        Ok(IngestOutcome {
            accepted_spans: outcome.received - outcome.rejected(),
            rejected_spans,
            message,
            reasons: outcome
                .reasons()
                .map(|(reason, count)| (reason.label(), count))
                .collect(),
            cut: outcome
                .cut
                .parts()
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
        })
    }

    /// Refuses when a shard has as many of the tenant's traces as it may. Gives the bounds of the largest one.
    fn check_live_traces(&self, tenant: &TenantId, limits: &Limits) -> Result<TraceSize, Refusal> {
        let max = limits.live_traces_max as usize;
        let mut largest = TraceSize::default();
        for shard in self.shards.live() {
            let live = shard.head().live_traces(tenant);
            if live.count >= max {
                return Err(Refusal::new(
                    Kind::Throttled,
                    format!("{max} live traces of this tenant in one shard, as many as there may be"),
                ));
            }
            largest.bytes = largest.bytes.max(live.largest.bytes);
            largest.spans = largest.spans.max(live.largest.spans);
        }
        Ok(largest)
    }
}

/// Which hash belongs to which shard.
struct Places {
    /// Last hash of each shard, ascending.
    ends: Vec<(u64, ShardId)>,
}

impl Places {
    fn of(ring: &RingPort) -> Self {
        let view = ring.ring_view();
        let shards = view.state.map.shards.values();
        let mut ends: Vec<_> = shards.map(|record| (record.range.last, record.id)).collect();
        ends.sort_unstable();
        Self { ends }
    }

    fn shard_of(&self, hash: u64) -> ShardId {
        let at = self.ends.partition_point(|(last, _)| *last < hash);
        // Ranges cover every hash.
        self.ends.get(at).map_or(ShardId(0), |(_, shard)| *shard)
    }
}

fn split(
    tenant: &TenantId,
    body: &[u8],
    limits: &IngestLimits,
    traces: &TraceLimits,
    largest: TraceSize,
    (places, live): (&Places, &[Arc<shard::owner::Shard>]),
) -> Result<(Outcome, Vec<Routed>), wire::Error> {
    let mut scan = scan(body, limits, |trace| places.shard_of(tenant.placement_hash(trace)))?;
    scan.limit_traces(traces, largest, |shard, traces| {
        let shard = live.iter().rev().find(|live| live.group().shard == shard);
        shard.map_or_else(Vec::new, |shard| shard.head().live_sizes(tenant, traces))
    });
    let outcome = scan.outcome().clone();
    let hash = BatchHash::of_request(tenant, body);
    Ok((outcome, scan.into_sub_batches(tenant, hash)))
}

fn ingest_limits(limits: &Limits, now_unix_nanos: u64) -> IngestLimits {
    let retention = u64::try_from(limits.retention.duration().as_nanos()).unwrap_or(u64::MAX);
    IngestLimits {
        attributes_max: limits.attributes_max as usize,
        events_max: limits.events_max as usize,
        links_max: limits.links_max as usize,
        key_bytes_max: limits.attribute_key_bytes_max.as_usize(),
        value_bytes_max: limits.attribute_value_bytes_max.as_usize(),
        oversize: match limits.attribute_oversize {
            Oversize::Truncate => wire::ingest::Oversize::Truncate,
            Oversize::Reject => wire::ingest::Oversize::Reject,
        },
        oldest_unix_nanos: now_unix_nanos.saturating_sub(retention),
        ..IngestLimits::default()
    }
}
