//! Reads an export request once, whole, and sorts its spans by shard.
//!
//! [`scan`] borrows the decompressed body: every byte is checked before any span is accepted, so what is malformed
//! (wire types, UTF-8, nesting, number of values) refuses the request as a whole, while spans that are merely unwanted (bad
//! ids, too old, too large) are left out one by one and counted. Nothing is left out or cut silently:
//! [`Outcome::partial_success`] says it to the exporter, the counters in [`Outcome`] to the operator.
//!
//! What always holds afterwards: every accepted span is a well-formed OTLP `Span` whose strings are UTF-8 and whose ids have
//! the right length and are not zero. The rooms below rely on it and do not check again.
//!
//! Not here: decompression ([`crate::inflate`]), JSON ([`crate::json`]), rates and quotas (`server`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use model::otlp::{self, Fault, Owner, SpanView, Visit};
use model::proto::Malformed;
use model::{ShardId, SpanId, TenantId, TraceId};

use crate::error::Error;
use crate::frame::{
    BatchHash, BodyWriter, FrameSpan, PART_BYTES, SPAN_BYTES_CEILING, SharedTable, SubBatch, SubBatchHeader,
};

mod check;
mod limits;
mod rewrite;
mod traces;

use check::{Checked, Checker};
pub use limits::{Excess, IngestLimits, Outcome, Oversize, Rejection, VALUE_DEPTH_MAX};
pub use traces::TraceLimits;

/// A request that was read completely: its accepted spans by shard, and what became of the others.
#[derive(Debug)]
pub struct Scan<'a> {
    outcome: Outcome,
    resources: SharedTable<'a>,
    scopes: SharedTable<'a>,
    rows: Vec<Row<'a>>,
    /// Sorted by shard, part and trace id; those of one trace in the order of the request.
    runs: Vec<Run>,
    body_bytes: usize,
    /// Rows that no run has any more, and a hash of which they are.
    left_out: Option<(usize, u64)>,
}

/// One accepted span.
#[derive(Debug)]
struct Row<'a> {
    span: Cow<'a, [u8]>,
    /// Known when its `ResourceSpans` ends, as its scope is when the `ScopeSpans` does.
    resource: u32,
    scope: u32,
    start_unix_nanos: u64,
}

/// Neighbouring spans of one trace. Exporters mostly send a trace's spans together, so sorting runs is much cheaper than
/// sorting spans.
#[derive(Debug, Clone, Copy)]
struct Run {
    shard: ShardId,
    part: u32,
    trace_id: TraceId,
    first_row: u32,
    row_count: u32,
}

/// A sub-batch and the shard whose leader it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// The shard that owns every trace in it.
    pub shard: ShardId,
    /// The spans.
    pub sub_batch: SubBatch,
}

/// Reads `body`, an `ExportTraceServiceRequest`, under `limits`. `shard_of` places a trace.
///
/// Blocking CPU work of about 0.3 µs per span: callers run it on their CPU pool.
///
/// Errors: [`Error::Otlp`] when anything in the body is malformed; then none of it was accepted.
///
/// ```
/// use model::{ShardId, TenantId};
/// use wire::frame::BatchHash;
/// use wire::ingest::{IngestLimits, scan};
///
/// let tenant = TenantId::single();
/// let body = wire::json::export_request(
///     br#"{"resourceSpans":[{"scopeSpans":[{"spans":[
///         {"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","name":"kept"},
///         {"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"00","name":"rejected"}]}]}]}"#,
/// )?;
/// let limits = IngestLimits::default();
/// let scan = scan(&body, &limits, |trace| ShardId::of(tenant.placement_hash(trace), 16))?;
/// let (rejected, why) = scan.outcome().partial_success(&limits).expect("one span has no id");
/// assert_eq!((rejected, scan.span_count()), (1, 1));
/// assert_eq!(why, "rejected 1 of 2 spans, first: span id is not 8 bytes of which one is not zero");
/// let routed = scan.into_sub_batches(&tenant, BatchHash::of_request(&tenant, &body));
/// assert_eq!(routed[0].sub_batch.header().span_count, 1);
/// # Ok::<(), wire::Error>(())
/// ```
pub fn scan<'a>(
    body: &'a [u8],
    limits: &IngestLimits,
    shard_of: impl Fn(&TraceId) -> ShardId,
) -> Result<Scan<'a>, Error> {
    let mut scanner = Scanner {
        body,
        limits,
        shard_of,
        checker: Checker::new(limits),
        known: [BTreeMap::new(), BTreeMap::new()],
        seen: [0; 2],
        resource_began: Mark::default(),
        scope_began: Mark::default(),
        scan: Scan {
            outcome: Outcome::default(),
            resources: SharedTable::new(),
            scopes: SharedTable::new(),
            rows: Vec::with_capacity(body.len() / ROW_BODY_BYTES_GUESS),
            runs: Vec::new(),
            body_bytes: body.len(),
            left_out: None,
        },
    };
    otlp::walk(body, &mut scanner).map_err(|(place, source)| Error::Otlp {
        position: offset(body, place),
        source,
    })?;
    let mut scan = scanner.scan;
    scan.runs.sort_by_key(|run| (run.shard, run.part, run.trace_id));
    Ok(scan)
}

/// Different resources, and equally scopes, in one request. Real requests have tens; without a bound a request of tiny ones
/// would grow tenfold in memory.
const DISTINCT_MAX: usize = 1 << 17;

/// Spans are seldom smaller; a body of smaller ones makes the vector grow.
const ROW_BODY_BYTES_GUESS: usize = 256;

/// A resource or scope of the request: its index, or why none of its spans can be accepted.
type Shared = Result<u32, Rejection>;

/// What equal resources or scopes are recognised by: message and schema url.
type Name<'a> = (Option<&'a [u8]>, &'a [u8]);

/// The same before it has an index: the message as it is kept.
type Kept<'a> = Result<Option<Cow<'a, [u8]>>, Rejection>;

/// What resources and scopes differ in.
struct OwnerKind {
    number: usize,
    table: for<'s, 'a> fn(&'s mut Scan<'a>) -> &'s mut SharedTable<'a>,
    check: fn(&mut Checker<'_>, &[u8]) -> Result<Excess, Malformed>,
    cut: fn(&[u8], &IngestLimits) -> Result<Vec<u8>, Malformed>,
}

const RESOURCE: OwnerKind = OwnerKind {
    number: 0,
    table: |scan| &mut scan.resources,
    check: |checker, message| checker.resource(message),
    cut: rewrite::resource,
};
const SCOPE: OwnerKind = OwnerKind {
    number: 1,
    table: |scan| &mut scan.scopes,
    check: |checker, message| checker.scope(message),
    cut: rewrite::scope,
};

struct Scanner<'a, 'l, F> {
    body: &'a [u8],
    limits: &'l IngestLimits,
    shard_of: F,
    checker: Checker<'l>,
    /// By [`OwnerKind::number`].
    known: [BTreeMap<Name<'a>, Shared>; 2],
    /// Different ones so far, likewise.
    seen: [usize; 2],
    /// Where the present `ResourceSpans` and `ScopeSpans` began.
    resource_began: Mark,
    scope_began: Mark,
    scan: Scan<'a>,
}

/// How far a scan had come.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    rows: usize,
    runs: usize,
    cut: Excess,
}

impl<'a, F: Fn(&TraceId) -> ShardId> Visit<'a> for Scanner<'a, '_, F> {
    #[inline]
    fn span(&mut self, span: &'a [u8]) -> Result<(), Fault<'a>> {
        self.take(span)
    }

    fn scope_ends(&mut self, scope: Owner<'a>, place: &'a [u8]) -> Result<(), Fault<'a>> {
        match self.shared(scope, &SCOPE, place)? {
            Ok(scope) => {
                let rows = &mut self.scan.rows[self.scope_began.rows..];
                rows.iter_mut().for_each(|row| row.scope = scope);
            }
            Err(reason) => self.scan.take_back(self.scope_began, reason),
        }
        self.scope_began = self.scan.mark();
        Ok(())
    }

    fn resource_ends(&mut self, resource: Owner<'a>, place: &'a [u8]) -> Result<(), Fault<'a>> {
        match self.shared(resource, &RESOURCE, place)? {
            Ok(resource) => {
                let rows = &mut self.scan.rows[self.resource_began.rows..];
                rows.iter_mut().for_each(|row| row.resource = resource);
            }
            Err(reason) => self.scan.take_back(self.resource_began, reason),
        }
        self.resource_began = self.scan.mark();
        self.scope_began = self.resource_began;
        Ok(())
    }
}

impl<'a, F: Fn(&TraceId) -> ShardId> Scanner<'a, '_, F> {
    /// The index of a resource or scope. `place` is where it stands.
    fn shared(&mut self, owner: Owner<'a>, kind: &OwnerKind, place: &'a [u8]) -> Result<Shared, Fault<'a>> {
        let schema_url = owner.schema_url;
        check::text(schema_url, 3).map_err(|e| (schema_url, e))?;
        // Nobody sends owners in pieces, so equal ones of these are not recognised.
        let name = match &owner.message {
            None => Some((None, schema_url)),
            Some(Cow::Borrowed(message)) => Some((Some(*message), schema_url)),
            Some(Cow::Owned(_)) => None,
        };
        if let Some(known) = name.and_then(|name| self.known[kind.number].get(&name)) {
            return Ok(*known);
        }
        let kept = self.keep(owner.message, schema_url, place, kind)?;
        let table = (kind.table)(&mut self.scan);
        let shared = kept.map(|message| table.push(message, schema_url));
        self.known[kind.number].extend(name.map(|name| (name, shared)));
        Ok(shared)
    }

    /// Checks a resource or scope, and cuts or rejects one that is beyond the limits. `place` is where it stands.
    fn keep(
        &mut self,
        message: Option<Cow<'a, [u8]>>,
        schema_url: &[u8],
        place: &'a [u8],
        kind: &OwnerKind,
    ) -> Result<Kept<'a>, Fault<'a>> {
        let seen = &mut self.seen[kind.number];
        if *seen == DISTINCT_MAX {
            return Err((place, Malformed::TooMany));
        }
        *seen += 1;
        let excess = (kind.check)(&mut self.checker, message.as_deref().unwrap_or_default());
        let excess = excess.map_err(|e| (place, e))?;
        let Some(mut kept) = message else { return Ok(Ok(None)) };
        if !excess.is_none() {
            if self.limits.oversize == Oversize::Reject {
                return Ok(Err(excess.rejection()));
            }
            kept = Cow::Owned((kind.cut)(&kept, self.limits).map_err(|e| (place, e))?);
        }
        if kept.len() + schema_url.len() > self.span_bytes_max() {
            return Ok(Err(Rejection::SpanBytes));
        }
        self.scan.outcome.cut.add(&excess);
        Ok(Ok(Some(kept)))
    }

    #[inline]
    fn take(&mut self, raw: &'a [u8]) -> Result<(), Fault<'a>> {
        self.scan.outcome.received += 1;
        let Checked {
            view,
            excess,
            in_pieces,
        } = self.checker.span(raw).map_err(|e| (raw, e))?;
        let accepted = self.acceptable(&view).and_then(|trace_id| {
            if !excess.is_none() && self.limits.oversize == Oversize::Reject {
                return Err(excess.rejection());
            }
            Ok(trace_id)
        });
        let trace_id = match accepted {
            Ok(accepted) => accepted,
            Err(reason) => {
                self.scan.outcome.reject(reason, 1);
                return Ok(());
            }
        };
        let span = if excess.is_none() && !in_pieces {
            Cow::Borrowed(raw)
        } else {
            Cow::Owned(rewrite::span(raw, self.limits).map_err(|e| (raw, e))?)
        };
        if span.len() > self.span_bytes_max() {
            self.scan.outcome.reject(Rejection::SpanBytes, 1);
            return Ok(());
        }
        self.scan.outcome.cut.add(&excess);
        self.place(trace_id, (offset(self.body, raw) / PART_BYTES) as u32);
        self.scan.rows.push(Row {
            span,
            resource: u32::MAX,
            scope: u32::MAX,
            start_unix_nanos: view.start_unix_nanos,
        });
        Ok(())
    }

    #[inline]
    fn acceptable(&self, view: &SpanView<'_>) -> Result<TraceId, Rejection> {
        let trace_id = <[u8; 16]>::try_from(view.trace_id).map_err(|_| Rejection::TraceId)?;
        if trace_id == [0; 16] {
            return Err(Rejection::TraceId);
        }
        match <[u8; 8]>::try_from(view.span_id) {
            Ok(id) if !SpanId(id).is_zero() => {}
            _ => return Err(Rejection::SpanId),
        }
        let latest = view.start_unix_nanos.max(view.end_unix_nanos);
        if latest != 0 && latest < self.limits.oldest_unix_nanos {
            return Err(Rejection::TooOld);
        }
        Ok(TraceId(trace_id))
    }

    #[inline]
    fn place(&mut self, trace_id: TraceId, part: u32) {
        let scan = &mut self.scan;
        let first_row = scan.rows.len() as u32;
        match scan.runs.last_mut() {
            Some(run) if run.trace_id == trace_id && run.part == part => run.row_count += 1,
            _ => {
                let shard = (self.shard_of)(&trace_id);
                scan.runs.push(Run {
                    shard,
                    part,
                    trace_id,
                    first_row,
                    row_count: 1,
                });
            }
        }
    }

    fn span_bytes_max(&self) -> usize {
        self.limits.span_bytes_max.min(SPAN_BYTES_CEILING)
    }
}

impl<'a> Scan<'a> {
    fn mark(&self) -> Mark {
        Mark {
            rows: self.rows.len(),
            runs: self.runs.len(),
            cut: self.outcome.cut,
        }
    }

    /// Rejects the spans accepted since `began`: what they share cannot be.
    fn take_back(&mut self, began: Mark, reason: Rejection) {
        let spans = self.rows.len() - began.rows;
        self.outcome.cut = began.cut;
        self.outcome.reject(reason, spans as u64);
        self.rows.truncate(began.rows);
        self.runs.truncate(began.runs);
        if let Some(run) = self.runs.last_mut() {
            // It may have gone on past the mark.
            run.row_count = run.row_count.min(began.rows as u32 - run.first_row);
        }
    }

    /// What became of the spans.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Accepted spans.
    pub fn span_count(&self) -> usize {
        self.rows.len() - self.left_out.map_or(0, |(rows, _)| rows)
    }

    /// Packs the accepted spans: one sub-batch per shard, more when the request is larger than [`PART_BYTES`]. Copies each
    /// span once.
    ///
    /// Shape: sorted by shard; every sub-batch has its own hash, derived from `hash`; empty when nothing was accepted.
    pub fn into_sub_batches(mut self, tenant: &TenantId, hash: BatchHash) -> Vec<Routed> {
        let hash = self.left_out.map_or(hash, |(_, rows)| hash.without(rows));
        let mut writer = BodyWriter::new(&mut self.resources, &mut self.scopes);
        let same = |a: &Run, b: &Run| (a.shard, a.part) == (b.shard, b.part);
        let rows = &self.rows;
        let pack = |runs: &[Run]| {
            let members = runs.iter().flat_map(|run| rows_of(rows, run));
            let body = writer.write(members.clone().map(|row| FrameSpan {
                resource: row.resource,
                scope: row.scope,
                span: &row.span,
            }));
            let starts = || members.clone().map(|row| row.start_unix_nanos);
            let header = SubBatchHeader {
                tenant: tenant.clone(),
                hash: hash.of_part(runs[0].part),
                span_count: runs.iter().map(|run| run.row_count).sum(),
                start_min_unix_nanos: starts().min().unwrap_or_default(),
                start_max_unix_nanos: starts().max().unwrap_or_default(),
                body_bytes: u32::try_from(body.len()).expect("a part is bounded by PART_BYTES and SPAN_BYTES_CEILING"),
            };
            Routed {
                shard: runs[0].shard,
                sub_batch: SubBatch::from_body(header, &body),
            }
        };
        self.runs.chunk_by(same).map(pack).collect()
    }
}

fn rows_of<'r, 'a>(rows: &'r [Row<'a>], run: &Run) -> std::slice::Iter<'r, Row<'a>> {
    let first = run.first_row as usize;
    rows[first..first + run.row_count as usize].iter()
}

/// Where `part`, a slice of `body`, starts in it.
fn offset(body: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize)
        .saturating_sub(body.as_ptr() as usize)
        .min(body.len())
}

#[cfg(test)]
mod tests;
