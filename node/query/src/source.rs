//! What the storage side must offer: spans in chunks of rows, seen as columns.
//!
//! A [`Chunk`] is one head table or one row group of a block. The shard crate implements it, this crate asks it; neither
//! this crate nor the block crate knows the other. A chunk borrows or decodes columns on demand, so the engine asks for as
//! few as it can, those of predicates first, those of answers last and only for the rows that are answered.
//!
//! What must always hold:
//! - a chunk does not change while it is borrowed, and asking twice gives the same;
//! - one tenant, no span twice (the same span id and kind in the same trace);
//! - every view has [`Chunk::row_count`] values, or ascending rows below it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use model::column::ColumnCow;
use model::{Scope, TraceId};

use crate::error::Result;
use crate::field::scope_word;
use crate::value::Static;

/// A column the engine may ask for. The physical forms accepted for each are listed; forms may be mixed in one answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ColumnRef {
    /// Span name: dictionary or bytes, every row.
    Name,
    /// Span kind as OTLP numbers: integers, or a dictionary whose values are integers.
    Kind,
    /// Status code as OTLP numbers 0 unset, 1 ok, 2 error: integers, or a dictionary of integers. No value means unset.
    Status,
    /// Status text: dictionary or bytes. Rows without a text may be left out; the empty text is then assumed.
    StatusMessage,
    /// Start in nanoseconds since the epoch: integers (`u64` bits), every row.
    Start,
    /// End minus start in nanoseconds: integers, every row. Negative is read as 0.
    Duration,
    /// Span id: `Fixed8`, every row.
    SpanId,
    /// Parent's span id: `Fixed8`; zero or no value means root. In a chunk with [`TraceRows::in_preorder`] it is only asked
    /// of rows at distance 0 (roots and orphans), so other rows may be left out.
    ParentSpanId,
    /// `name` of each event: dictionary or bytes, sparse, a row repeats per event.
    EventName,
    /// Time of each event minus start of its span: integers, sparse, a row repeats per event.
    EventTimeSinceStart,
    /// Trace id of each link: `Fixed16`, sparse, a row repeats per link.
    LinkTraceId,
    /// Span id of each link: `Fixed8`, sparse, a row repeats per link.
    LinkSpanId,
    /// Name of the instrumentation scope: dictionary or bytes.
    InstrumentationName,
    /// Version of the instrumentation scope: dictionary or bytes.
    InstrumentationVersion,
    /// `tracestate` of the span: dictionary or bytes. Rows without one may be left out.
    TraceState,
    /// An attribute. One view per physical type it has in this chunk: text, integer, double, bool, raw `AnyValue`.
    /// Resource and scope attributes are dictionaries whose ids are the resources, so that a predicate is evaluated once
    /// per resource. Of events and links a row repeats per value.
    Attribute(Scope, Arc<str>),
    /// Trace id. Never asked of [`Chunk::columns`] (see [`TraceRows::ids`]), only of [`Chunk::may_contain`].
    TraceId,
}

impl fmt::Display for ColumnRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnRef::Attribute(scope, key) => write!(f, "{}.{key}", scope_word(*scope)),
            other => write!(f, "{other:?}"),
        }
    }
}

/// An inclusive span of time in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// First instant.
    pub start_unix_nanos: u64,
    /// Last instant.
    pub end_unix_nanos: u64,
}

impl TimeRange {
    /// All of time.
    pub const ALWAYS: TimeRange = TimeRange {
        start_unix_nanos: 0,
        end_unix_nanos: u64::MAX,
    };

    /// Whether the two share an instant.
    pub fn overlaps(&self, other: &TimeRange) -> bool {
        self.start_unix_nanos <= other.end_unix_nanos && other.start_unix_nanos <= self.end_unix_nanos
    }

    /// Whether all of `other` lies inside.
    pub fn covers(&self, other: &TimeRange) -> bool {
        self.start_unix_nanos <= other.start_unix_nanos && other.end_unix_nanos <= self.end_unix_nanos
    }
}

/// Which trace each row belongs to.
#[derive(Clone, Copy, Debug)]
pub struct TraceRows<'a> {
    /// Per row: index into `ids`.
    pub ordinals: &'a [u32],
    /// Trace id by ordinal; each id once.
    pub ids: &'a [TraceId],
    /// Whether the rows of a trace stand together in depth-first order and ordinals ascend with the rows. If so, the chunk
    /// has a [`Chunk::preorder`].
    pub in_preorder: bool,
}

/// Shape of the trees of a chunk that stands in depth-first order.
///
/// The parent of a span is the span of its trace whose id is its parent id; where several share that id, the earliest, but
/// never the span itself. Spans whose parent is not in the trace, and the earliest span of every cycle, stand at
/// distance 0.
/// Siblings, roots and orphans stand by start, then span id. (The same rule as the block writer's.)
#[derive(Clone, Copy, Debug)]
pub struct Preorder<'a> {
    /// Per row: how many rows behind it are below it.
    pub descendants: &'a [u32],
    /// Per row: how many rows before it its parent stands; 0 for roots and orphans.
    pub parent_distance: &'a [u32],
}

/// What is about to be read of a chunk.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Columns, perhaps some twice.
    pub columns: Vec<ColumnRef>,
    /// Whether [`Chunk::traces`] or [`Chunk::trace_starts`] is.
    pub traces: bool,
    /// Whether [`Chunk::preorder`] is.
    pub structure: bool,
}

/// Something that was worked out from a chunk.
pub type Note = Arc<dyn std::any::Any + Send + Sync>;

/// One head table or one row group.
///
/// Errors of all methods: [`crate::Error::Source`] when bytes cannot be had or are wrong.
pub trait Chunk: Send + Sync {
    /// Number of spans.
    fn row_count(&self) -> usize;

    /// First start and last end of its spans; may be wider.
    fn time_range(&self) -> TimeRange;

    /// First and last start of its spans; may be wider.
    fn start_range(&self) -> TimeRange {
        self.time_range()
    }

    /// Says what will be asked for next, so that storage which is far away can fetch it in one go. A hint: it may be
    /// passed over, more may be asked for, and less.
    fn expect(&self, expected: &Expected) -> Result<()> {
        let _ = expected;
        Ok(())
    }

    /// Which trace each row belongs to.
    fn traces(&self) -> Result<TraceRows<'_>>;

    /// The shape of the trees; None unless [`TraceRows::in_preorder`].
    fn preorder(&self) -> Result<Option<Preorder<'_>>> {
        Ok(None)
    }

    /// By trace ordinal the earliest start of the trace's spans here, or an even earlier one elsewhere if the trace has
    /// spans elsewhere. None where storage does not know; then it is worked out from the starts.
    fn trace_starts(&self) -> Result<Option<Cow<'_, [u64]>>> {
        Ok(None)
    }

    /// The physical columns of `column`; empty when no row has it.
    fn columns(&self, column: &ColumnRef) -> Result<Vec<ColumnCow<'_>>>;

    /// Like [`Chunk::columns`], but only the values at `rows` (ascending, no repeats) will be looked at: what is answered
    /// for other rows does not matter. Storage that decodes page by page overrides this.
    fn columns_at(&self, column: &ColumnRef, rows: &[u32]) -> Result<Vec<ColumnCow<'_>>> {
        let _ = rows;
        self.columns(column)
    }

    /// False only if no row has this value in this column (blooms, dictionaries, min and max). Must be cheap: it is asked
    /// before anything is read. Values are text, integers, trace ids and span ids as hex text.
    fn may_contain(&self, column: &ColumnRef, value: &Static) -> bool {
        let _ = (column, value);
        true
    }

    /// What was left here under this name.
    fn recall(&self, name: &str) -> Result<Option<Note>> {
        let _ = name;
        Ok(None)
    }

    /// Leaves something that was worked out from all of this chunk and nothing else, which somebody who asks the same may
    /// find ([`Chunk::recall`]) or not. `bytes`: its memory. Storage whose spans never change overrides both.
    fn remember(&self, name: &str, note: Note, bytes: usize) {
        let _ = (name, note, bytes);
    }

    /// Keys of the attributes some row has in this scope. Each key once, in any order, and all of
    /// them. Must not read the columns of single attributes.
    fn attribute_keys(&self, scope: Scope) -> Result<Vec<Arc<str>>>;
}
