//! One trace, whole: its pieces from every block and every tail, each span once.

use std::sync::Arc;

use model::{SpanTable, TraceId};

use crate::blocks::{Blocks, OpenBlock};
use crate::error::{Error, Result};
use crate::snapshot::Snapshot;

/// A trace brought together.
#[derive(Debug, Default)]
pub struct WholeTrace {
    /// Its spans, in no particular order. Holds no other trace.
    pub spans: SpanTable,
    /// Bytes read from blocks for it.
    pub inspected_bytes: u64,
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
}

impl Places {
    /// Everywhere.
    pub const ALL: Self = Self {
        blocks: true,
        recent: true,
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
    let mut whole = WholeTrace {
        spans: SpanTable::new(),
        ..WholeTrace::default()
    };
    if places.recent {
        for (_, chunk) in snapshot.chunks() {
            let table = chunk.table();
            if let Some(found) = table.find_trace(&trace)
                && let Err(error) = copy_live(&table, found, &mut whole, bytes_max)
            {
                whole.missing.push(format!("live spans: {error}"));
            }
        }
        for spooled in snapshot.spooled() {
            let Some(section) = spooled.section_of(&snapshot.tenant) else {
                continue;
            };
            if !spooled.holds_trace(&snapshot.tenant, &trace) {
                continue;
            }
            let read = async {
                let open = blocks.open_spooled(spooled, section).await?;
                copy_block(&open, trace, &mut whole, bytes_max).await
            };
            if let Err(error) = read.await {
                whole
                    .missing
                    .push(format!("a block that waits for its upload: {}", chain(&error)));
            }
        }
    }
    if places.blocks {
        for record in snapshot.blocks() {
            if !record.may_contain(&trace) {
                continue;
            }
            let read = async {
                let open = blocks.open(&snapshot.view, &record).await?;
                if open.may_contain_trace(&trace) {
                    copy_block(&open, trace, &mut whole, bytes_max).await?;
                }
                Ok::<_, Error>(())
            };
            if let Err(error) = read.await {
                whole.missing.push(format!("block {}: {}", record.id, chain(&error)));
            }
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

async fn copy_block(open: &OpenBlock, trace: TraceId, whole: &mut WholeTrace, bytes_max: u64) -> Result<()> {
    for group in open.index().groups_of_trace(&trace) {
        if let Some(fence) = open.index().fences().get(group) {
            whole.inspected_bytes += fence.length;
        }
    }
    let pieces = open.block().trace(&trace).await?;
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
