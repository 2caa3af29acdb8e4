//! Keeps one trace from growing without end: spans beyond what a trace may hold while it is live are rejected one by one.
//!
//! A request whose spans would all fit into the largest live trace is let through without looking at any trace: nearly all
//! are. Requests that are under way at the same time do not see each other, so a trace may become larger by what is in
//! flight.
//!
//! Not here: what is live (`shard`), which is asked by whoever calls.

use std::hash::Hasher as _;

use model::table::TraceSize;
use model::{ShardId, TraceId};
use twox_hash::XxHash3_64;

use super::{Rejection, Run, Scan, rows_of};

/// How much of one trace may be live. Both maxima are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceLimits {
    /// OTLP bytes of its spans.
    pub bytes_max: u64,
    /// Its spans.
    pub spans_max: u64,
}

impl Scan<'_> {
    /// Rejects the spans that would make a trace larger than `limits` allow. Earlier spans of the request are kept before
    /// later ones.
    ///
    /// No live trace is larger than `largest`. `live` says how large some traces of one shard are, in their order; what it
    /// leaves out counts as nothing.
    pub fn limit_traces(
        &mut self,
        limits: &TraceLimits,
        largest: TraceSize,
        mut live: impl FnMut(ShardId, &[TraceId]) -> Vec<TraceSize>,
    ) {
        let spans = u64::from(largest.spans) + self.rows.len() as u64;
        if spans <= limits.spans_max && largest.bytes + self.body_bytes as u64 <= limits.bytes_max {
            return;
        }
        let Self { rows, runs, .. } = self;
        let (mut rejected, mut which) = (0, XxHash3_64::new());
        for runs in runs.chunk_by_mut(|a, b| a.shard == b.shard) {
            let mut traces: Vec<TraceId> = runs.iter().map(|run| run.trace_id).collect();
            traces.sort_unstable();
            traces.dedup();
            let mut sizes = live(runs[0].shard, &traces);
            sizes.resize(traces.len(), TraceSize::default());
            for run in runs {
                let Ok(at) = traces.binary_search(&run.trace_id) else {
                    continue;
                };
                let kept = rows_of(rows, run)
                    .take_while(|row| takes(&mut sizes[at], row.span.len(), limits))
                    .count();
                let kept = u32::try_from(kept).unwrap_or(u32::MAX);
                if kept < run.row_count {
                    which.write_u32(run.first_row + kept);
                    which.write_u32(run.row_count - kept);
                    rejected += (run.row_count - kept) as usize;
                    run.row_count = kept;
                }
            }
        }
        if rejected > 0 {
            runs.retain(|run: &Run| run.row_count > 0);
            self.left_out = Some((rejected, which.finish()));
            self.outcome.reject(Rejection::TraceSize, rejected as u64);
        }
    }
}

/// Adds a span to a trace if it fits. A trace that was full once takes nothing more of the request.
fn takes(size: &mut TraceSize, span_bytes: usize, limits: &TraceLimits) -> bool {
    let (bytes, spans) = (
        size.bytes.saturating_add(span_bytes as u64),
        size.spans.saturating_add(1),
    );
    let fits = bytes <= limits.bytes_max && u64::from(spans) <= limits.spans_max;
    *size = if fits {
        TraceSize { bytes, spans }
    } else {
        TraceSize {
            bytes: u64::MAX,
            spans: u32::MAX,
        }
    };
    fits
}
