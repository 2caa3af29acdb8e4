//! One trace, whole: its pieces from every block and every tail, each span once.
//!
//! Blocks are read side by side, so that a trace in many takes no longer than the slowest of them.

mod lookup;

use std::sync::Arc;

use block::SpanRows;
use futures::StreamExt as _;
use model::{SpanTable, TraceId};
use query::source::TimeRange;

use self::lookup::Lookup;
use crate::blocks::Blocks;
use crate::error::Result;
use crate::snapshot::Snapshot;

/// A trace brought together.
#[derive(Debug, Default)]
pub struct WholeTrace {
    /// Its spans, in no particular order. Holds no other trace.
    pub spans: SpanTable,
    /// Bytes read from blocks for it.
    pub inspected_bytes: u64,
    /// Reads they took.
    pub reads: u64,
    /// What could not be read, for people; empty when the trace is complete.
    pub missing: Vec<String>,
    /// Whether spans were left out because the trace is larger than asked for.
    pub is_cut: bool,
}

/// Which pieces to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Blocks the catalog names.
    pub blocks: bool,
    /// Live and spooled spans.
    pub recent: bool,
    /// Only blocks that overlap it.
    pub window: TimeRange,
}

impl Places {
    /// Everywhere.
    pub const ALL: Self = Self {
        blocks: true,
        recent: true,
        window: TimeRange::ALWAYS,
    };
}

/// Brings `trace` together, up to about `bytes_max` of OTLP.
///
/// A block that cannot be read is named in [`WholeTrace::missing`]; the rest is returned.
pub async fn whole_trace(
    snapshot: &Snapshot,
    blocks: &Arc<Blocks>,
    trace: TraceId,
    places: Places,
    bytes_max: u64,
) -> WholeTrace {
    read(snapshot, blocks, &[trace], places, bytes_max).await
}

/// Brings several traces together in one table, whole.
pub async fn whole_traces(snapshot: &Snapshot, blocks: &Arc<Blocks>, traces: &[TraceId]) -> WholeTrace {
    read(snapshot, blocks, traces, Places::ALL, u64::MAX).await
}

async fn read(
    snapshot: &Snapshot,
    blocks: &Arc<Blocks>,
    traces: &[TraceId],
    places: Places,
    bytes_max: u64,
) -> WholeTrace {
    let mut whole = WholeTrace {
        spans: SpanTable::new(),
        ..WholeTrace::default()
    };
    if places.recent {
        whole.missing.extend(snapshot.missing.iter().cloned());
        for (_, chunk) in snapshot.chunks() {
            let table = chunk.table();
            for found in traces.iter().filter_map(|trace| table.find_trace(trace)) {
                if let Err(error) = copy_live(&table, found, &mut whole, bytes_max) {
                    whole.missing.push(format!("live spans: {error}"));
                }
            }
        }
    }
    let lookup = Lookup {
        snapshot,
        blocks,
        traces,
    };
    let mut pieces = std::pin::pin!(lookup.pieces(places).await);
    while let Some(piece) = pieces.next().await {
        let copied = piece.and_then(|piece| {
            whole.inspected_bytes += piece.bytes;
            whole.reads += piece.reads;
            copy_rows(&piece.rows, &mut whole, bytes_max).map_err(|error| chain(&error))
        });
        if let Err(reason) = copied {
            whole.missing.push(reason);
        }
        if whole.is_cut {
            break;
        }
    }
    whole
}

fn copy_live(table: &SpanTable, trace: u32, whole: &mut WholeTrace, bytes_max: u64) -> Result<()> {
    let mut span = Vec::new();
    for row in table.rows_of_trace(trace) {
        if whole.spans.otlp_bytes() > bytes_max {
            whole.is_cut = true;
            break;
        }
        let at = row as usize;
        let resource = table.resources().get(table.resource()[at]);
        let scope = table.scopes().get(table.scope()[at]);
        span.clear();
        table.write_span(row, &mut span);
        append(&mut whole.spans, resource, scope, &span)?;
    }
    Ok(())
}

fn copy_rows(pieces: &[SpanRows], whole: &mut WholeTrace, bytes_max: u64) -> Result<()> {
    let mut span = Vec::new();
    for piece in pieces {
        let view = piece.view();
        for row in 0..view.len() {
            if whole.spans.otlp_bytes() > bytes_max {
                whole.is_cut = true;
                return Ok(());
            }
            let resource = view.resources.get(view.resource[row] as usize);
            let scope = view.scopes.get(view.scope[row] as usize);
            span.clear();
            view.write_span(u32::try_from(row).unwrap_or(u32::MAX), &mut span);
            append(&mut whole.spans, resource, scope, &span)?;
        }
    }
    Ok(())
}

fn append(table: &mut SpanTable, resource: &[u8], scope: &[u8], span: &[u8]) -> Result<()> {
    let (message, schema_url) = model::table::read_owner(resource)?;
    let resource = table.intern_resource(message, schema_url);
    let (message, schema_url) = model::table::read_owner(scope)?;
    let scope = table.intern_scope(message, schema_url);
    table.append_distinct(resource, scope, span)?;
    Ok(())
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
