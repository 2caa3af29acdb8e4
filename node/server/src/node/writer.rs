//! From a request's bytes to committed sub-batches: scan, split by shard, submit, wait for all.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use model::table::TraceSize;
use model::{ShardId, TenantId};
use settings::Limits;
use settings::limits::Oversize;
use shard::owner::Shard;
use wire::frame::BatchHash;
use wire::ingest::{IngestLimits, Outcome, Routed, TraceLimits, scan};

use super::lane::Lane;
use crate::app::Common;
use crate::ingest::{Ingest, IngestOutcome};
use crate::refusal::{Kind, Refusal};

/// Bodies up to this size are scanned where they are: a third of a microsecond per span.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// The way in.
pub(super) struct Writer {
    pub(super) common: Common,
    /// In the order of their numbers, as are the lanes.
    pub(super) shards: Vec<Arc<Shard>>,
    pub(super) lanes: Vec<Lane>,
    pub(super) heads_max: usize,
}

impl Ingest for Writer {
    fn ingest(&self, tenant: TenantId, body: Bytes) -> BoxFuture<'_, Result<IngestOutcome, Refusal>> {
        Box::pin(self.write(tenant, body))
    }
}

impl Writer {
    async fn write(&self, tenant: TenantId, body: Bytes) -> Result<IngestOutcome, Refusal> {
        let live: usize = self.shards.iter().map(|shard| shard.head().heap_bytes()).sum();
        if live >= self.heads_max {
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
        let is_small = body.len() <= INLINE_BYTES_MAX;
        let split = {
            let (limits, shards) = (limits.clone(), self.shards.clone());
            move || split(&tenant, &body, &limits, &traces, largest, &shards)
        };
        let (outcome, routed) = if is_small {
            split()?
        } else {
            self.common.cpu.run(split).await??
        };
        let submissions = routed.into_iter().map(|routed| async move {
            match self.lanes.get(routed.shard.0 as usize) {
                Some(lane) => lane.submit(routed.sub_batch).await,
                None => Err(Refusal::new(Kind::Internal, "a span of a shard that is not here")),
            }
        });
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
        for shard in &self.shards {
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

fn split(
    tenant: &TenantId,
    body: &[u8],
    limits: &IngestLimits,
    traces: &TraceLimits,
    largest: TraceSize,
    shards: &[Arc<Shard>],
) -> Result<(Outcome, Vec<Routed>), wire::Error> {
    let count = u32::try_from(shards.len()).unwrap_or(u32::MAX);
    let mut scan = scan(body, limits, |trace| ShardId::of(tenant.placement_hash(trace), count))?;
    scan.limit_traces(traces, largest, |shard, traces| {
        let shard = shards.get(shard.0 as usize);
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
