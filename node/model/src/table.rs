//! The columnar table of spans of one tenant: what the head keeps live and what the block writer turns into pages.
//!
//! A row is appended straight from OTLP bytes, once. Traces, resources, scopes, names and repeated attribute values are
//! interned, so that a predicate looks at each distinct value once, and so that the block writer gets its dictionaries for
//! nothing. Attributes are sparse: a column exists per (key, type) and lists only the rows that have it; that is half the
//! cost of one dense builder per key and a fifth of the memory of owned structs.
//!
//! What always holds:
//! - every dense column has [`SpanTable::len`] entries; every sparse column's rows ascend and stay below it;
//! - nothing of a span is lost: what has no column stands raw in `tail` (attributes) or `extra` (other fields);
//! - a failed append leaves the table as it was.
//!
//! Not here: locks (`shard::head`), sort order and pages (`block`).

pub mod attribute;
pub mod interner;
pub mod sparse;

#[cfg(test)]
mod tests;

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

pub use self::attribute::{AttributeColumn, AttributeData, ValueType};
pub use self::interner::Interner;
pub use self::sparse::{SparseBytes, SparseCounts};
use crate::ids::{SpanId, TraceId};
use crate::otlp::{self, KIND_MAX, Repeated, SpanParts, SpanView, span_field};
use crate::proto::{self, Malformed};
use crate::value::ValueRef;

/// Attribute columns one table may have. A sender that invents keys fills the tail instead of memory: real services have
/// a few hundred keys (447 in the data set the layout was measured on).
pub const ATTRIBUTE_COLUMNS_MAX: usize = 4096;

/// Who an attribute belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scope {
    /// The span itself.
    Span = 1,
    /// What produced the span: a process, a pod.
    Resource = 2,
    /// The instrumentation library.
    Instrumentation = 3,
    /// An event of the span.
    Event = 4,
    /// A link of the span.
    Link = 5,
}

/// How much of one trace a table holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceSize {
    /// OTLP bytes of its spans.
    pub bytes: u64,
    /// Its spans.
    pub spans: u32,
}

const NO_COLUMN: u32 = u32::MAX;

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct SpanTable {
    traces: Vec<TraceId>,
    /// Per trace: OTLP bytes and spans so far, for the limit on one trace.
    trace_sizes: Vec<TraceSize>,
    /// No trace has more bytes, and none more spans.
    largest_trace: TraceSize,
    trace_index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    trace: Vec<u32>,
    /// Rows by (trace, span id). A row may be missing where two spans of a trace share an id; see [`SpanTable::find_spans`].
    span_index: HashTable<u32>,
    span_id: Vec<[u8; 8]>,
    parent_span_id: Vec<[u8; 8]>,
    start: Vec<u64>,
    duration: Vec<i64>,
    kind: Vec<u8>,
    status: Vec<u8>,
    flags: Vec<u32>,
    name: Vec<u32>,
    names: Interner,
    resource: Vec<u32>,
    resources: Interner,
    scope: Vec<u32>,
    scopes: Interner,
    trace_state: SparseBytes,
    status_message: SparseBytes,
    dropped_attributes: SparseCounts,
    dropped_events: SparseCounts,
    dropped_links: SparseCounts,
    events: SparseBytes,
    links: SparseBytes,
    tail: SparseBytes,
    extra: SparseBytes,
    attributes: Vec<AttributeColumn>,
    attribute_index: HashTable<u32>,
    /// Which column followed column `i - 1` last time; entry 0 is for a span's first attribute. SDKs send the same keys in
    /// the same order, so one comparison replaces one hash in nine cases of ten.
    next_column: Vec<u32>,
    /// OTLP bytes of all rows, for the size a log range will have.
    otlp_bytes: u64,
    min_start: u64,
    max_end: u64,
}

impl SpanTable {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            min_start: u64::MAX,
            next_column: vec![NO_COLUMN],
            ..Self::default()
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.trace.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.trace.is_empty()
    }

    /// The id of a resource: its message (`None` when the sender left it out) and schema URL.
    pub fn intern_resource(&mut self, message: Option<&[u8]>, schema_url: &[u8]) -> u32 {
        intern_owner(&mut self.resources, message, schema_url)
    }

    /// The id of an instrumentation scope, likewise.
    pub fn intern_scope(&mut self, message: Option<&[u8]>, schema_url: &[u8]) -> u32 {
        intern_owner(&mut self.scopes, message, schema_url)
    }

    /// Appends one span, given as an OTLP `Span` message that passed the door, and returns its row.
    ///
    /// Errors: [`Malformed`] when the bytes are not a span with a 16-byte trace id and an 8-byte span id; the table is then
    /// unchanged.
    pub fn append(&mut self, resource: u32, scope: u32, span: &[u8]) -> Result<u32, Malformed> {
        let row = u32::try_from(self.len()).map_err(|_| Malformed::TooMany)?;
        let mut previous = 0usize;
        let read = otlp::read_span(span, |repeated| match repeated {
            Repeated::Attribute(entry) => self.append_attribute(row, entry.bytes()?, entry.raw, &mut previous),
            Repeated::Event(entry) => {
                self.events.extend(row, entry.raw);
                Ok(())
            }
            Repeated::Link(entry) => {
                self.links.extend(row, entry.raw);
                Ok(())
            }
            Repeated::Unknown(entry) => {
                self.extra.extend(row, entry.raw);
                Ok(())
            }
            // The last one counts. A status in pieces was joined at the door.
            Repeated::Again { .. } => Ok(()),
        });
        match read.and_then(|view| self.append_fields(row, resource, scope, &view)) {
            Ok(()) => {
                self.otlp_bytes += span.len() as u64;
                if let Some(size) = self
                    .trace
                    .last()
                    .and_then(|trace| self.trace_sizes.get_mut(*trace as usize))
                {
                    size.bytes += span.len() as u64;
                    size.spans += 1;
                    self.largest_trace.bytes = self.largest_trace.bytes.max(size.bytes);
                    self.largest_trace.spans = self.largest_trace.spans.max(size.spans);
                }
                Ok(row)
            }
            Err(error) => {
                self.forget(row);
                Err(error)
            }
        }
    }

    /// Appends one span unless the table already holds an equal one: the same trace, span id, and every other field. A
    /// sender that repeats a span in another batch, after a lost answer, is thereby counted once.
    ///
    /// Returns the new row, or `None` for a span that was there. Errors as [`SpanTable::append`].
    pub fn append_distinct(&mut self, resource: u32, scope: u32, span: &[u8]) -> Result<Option<u32>, Malformed> {
        let row = self.append(resource, scope, span)?;
        let hash = self.span_hash(row);
        let twin = self
            .span_index
            .find(hash, |other| self.is_same_id(*other, row))
            .copied();
        if let Some(twin) = twin
            && self
                .find_spans(twin)
                .any(|other| other != row && self.is_equal_span(other, row))
        {
            self.take_back(row, span.len());
            return Ok(None);
        }
        let Self {
            span_index,
            hasher,
            trace,
            span_id,
            ..
        } = self;
        span_index.insert_unique(hash, row, |row| span_hash(hasher, trace, span_id, *row));
        Ok(Some(row))
    }

    /// Rows appended by [`SpanTable::append_distinct`] that share trace and span id with `row`.
    fn find_spans(&self, row: u32) -> impl Iterator<Item = u32> + '_ {
        let hash = self.span_hash(row);
        self.span_index
            .iter_hash(hash)
            .copied()
            .filter(move |other| self.is_same_id(*other, row))
    }

    fn span_hash(&self, row: u32) -> u64 {
        span_hash(&self.hasher, &self.trace, &self.span_id, row)
    }

    fn is_same_id(&self, a: u32, b: u32) -> bool {
        self.trace[a as usize] == self.trace[b as usize] && self.span_id[a as usize] == self.span_id[b as usize]
    }

    fn is_equal_span(&self, a: u32, b: u32) -> bool {
        let (x, y) = (a as usize, b as usize);
        let cheap = self.start[x] == self.start[y]
            && self.duration[x] == self.duration[y]
            && self.kind[x] == self.kind[y]
            && self.name[x] == self.name[y]
            && self.resource[x] == self.resource[y]
            && self.scope[x] == self.scope[y];
        if !cheap {
            return false;
        }
        let (mut one, mut other) = (Vec::new(), Vec::new());
        self.write_span(a, &mut one);
        self.write_span(b, &mut other);
        one == other
    }

    /// Removes the last row, whose trace, name and attribute values stand in earlier rows too.
    fn take_back(&mut self, row: u32, otlp_bytes: usize) {
        self.forget(row);
        if let Some(size) = self
            .trace
            .pop()
            .and_then(|trace| self.trace_sizes.get_mut(trace as usize))
        {
            size.bytes -= otlp_bytes as u64;
            size.spans -= 1;
        }
        self.span_id.pop();
        self.parent_span_id.pop();
        self.start.pop();
        self.duration.pop();
        self.kind.pop();
        self.status.pop();
        self.flags.pop();
        self.name.pop();
        self.resource.pop();
        self.scope.pop();
        for column in [
            &mut self.dropped_attributes,
            &mut self.dropped_events,
            &mut self.dropped_links,
        ] {
            column.forget(row);
        }
        self.otlp_bytes -= otlp_bytes as u64;
    }

    fn append_fields(&mut self, row: u32, resource: u32, scope: u32, view: &SpanView<'_>) -> Result<(), Malformed> {
        let trace_id: [u8; 16] = view
            .trace_id
            .try_into()
            .map_err(|_| Malformed::WireType(span_field::TRACE_ID))?;
        let span_id: [u8; 8] = view
            .span_id
            .try_into()
            .map_err(|_| Malformed::WireType(span_field::SPAN_ID))?;
        let status = match view.status {
            None => 0,
            Some(message) => self.append_status(row, message)?,
        };
        let parent_span_id = match <[u8; 8]>::try_from(view.parent_span_id) {
            Ok(id) if id != [0; 8] => id,
            _ => {
                if !view.parent_span_id.is_empty() {
                    self.append_extra_bytes(row, span_field::PARENT_SPAN_ID, view.parent_span_id);
                }
                [0; 8]
            }
        };
        let kind = match u8::try_from(view.kind) {
            Ok(kind) if kind <= KIND_MAX => kind,
            _ => {
                let mut raw = Vec::new();
                proto::write_varint_field(&mut raw, span_field::KIND, view.kind);
                self.extra.extend(row, &raw);
                0
            }
        };
        self.append_count(row, span_field::DROPPED_ATTRIBUTES, view.dropped_attributes);
        self.append_count(row, span_field::DROPPED_EVENTS, view.dropped_events);
        self.append_count(row, span_field::DROPPED_LINKS, view.dropped_links);
        if !view.trace_state.is_empty() {
            self.trace_state.extend(row, view.trace_state);
        }
        let trace = self.intern_trace(TraceId(trace_id));
        self.trace.push(trace);
        self.span_id.push(span_id);
        self.parent_span_id.push(parent_span_id);
        self.start.push(view.start_unix_nanos);
        self.duration
            .push(view.end_unix_nanos.wrapping_sub(view.start_unix_nanos).cast_signed());
        self.kind.push(kind);
        self.status.push(status);
        self.flags.push(view.flags);
        self.name.push(self.names.intern(view.name));
        self.resource.push(resource);
        self.scope.push(scope);
        self.min_start = self.min_start.min(view.start_unix_nanos);
        self.max_end = self.max_end.max(view.end_unix_nanos.max(view.start_unix_nanos));
        Ok(())
    }

    /// The status byte: code plus one, or 0 with the message kept raw when it says more than a code and a text.
    fn append_status(&mut self, row: u32, message: &[u8]) -> Result<u8, Malformed> {
        let status = otlp::read_status(message)?;
        if status.code > 2 || status.has_unknown {
            self.append_extra_bytes(row, span_field::STATUS, message);
            return Ok(0);
        }
        if !status.message.is_empty() {
            self.status_message.extend(row, status.message);
        }
        Ok(status.code as u8 + 1)
    }

    fn append_extra_bytes(&mut self, row: u32, number: u32, value: &[u8]) {
        let mut raw = Vec::with_capacity(value.len() + 4);
        proto::write_bytes(&mut raw, number, value);
        self.extra.extend(row, &raw);
    }

    fn append_count(&mut self, row: u32, number: u32, count: u64) {
        let column = match number {
            span_field::DROPPED_ATTRIBUTES => &mut self.dropped_attributes,
            span_field::DROPPED_EVENTS => &mut self.dropped_events,
            _ => &mut self.dropped_links,
        };
        // protobuf's uint32 keeps the low 32 bits of a longer varint, as every decoder does.
        let count = (count & u64::from(u32::MAX)) as u32;
        if count != 0 {
            column.push(row, count);
        }
    }

    #[inline]
    fn append_attribute(&mut self, row: u32, pair: &[u8], raw: &[u8], previous: &mut usize) -> Result<(), Malformed> {
        let pair = otlp::read_key_value(pair)?;
        let key = pair.key;
        let value = ValueRef::from_any_value(pair.value)?;
        if !pair.is_plain {
            self.tail.extend(row, raw);
            return Ok(());
        }
        let value_type = ValueType::of(value);
        let predicted = self.next_column.get(*previous).copied().unwrap_or(NO_COLUMN);
        let hit = self
            .attributes
            .get(predicted as usize)
            .is_some_and(|column| column.matches(key, value_type));
        let index = if hit {
            Some(predicted)
        } else {
            self.column_index(key, value_type)
        };
        let Some(index) = index else {
            self.tail.extend(row, raw);
            return Ok(());
        };
        if !hit && let Some(next) = self.next_column.get_mut(*previous) {
            *next = index;
        }
        *previous = index as usize + 1;
        if !self
            .attributes
            .get_mut(index as usize)
            .is_some_and(|column| column.push(row, value))
        {
            // A second value under the same key: kept, but not in the column.
            self.tail.extend(row, raw);
        }
        Ok(())
    }

    fn column_index(&mut self, key: &[u8], value_type: ValueType) -> Option<u32> {
        let hash = self.hasher.hash_one((key, value_type as u8));
        let Self {
            attributes,
            attribute_index,
            hasher,
            next_column,
            ..
        } = self;
        let at = |index: &u32| attributes.get(*index as usize);
        if let Some(index) = attribute_index.find(hash, |index| at(index).is_some_and(|c| c.matches(key, value_type))) {
            return Some(*index);
        }
        if attributes.len() >= ATTRIBUTE_COLUMNS_MAX {
            return None;
        }
        let index = u32::try_from(attributes.len()).ok()?;
        attributes.push(AttributeColumn::new(key, value_type));
        next_column.push(NO_COLUMN);
        let rehash = |index: &u32| {
            let column = attributes.get(*index as usize);
            column.map_or(0, |column| hasher.hash_one((column.key(), column.value_type() as u8)))
        };
        attribute_index.insert_unique(hash, index, rehash);
        Some(index)
    }

    fn intern_trace(&mut self, id: TraceId) -> u32 {
        // Spans of a trace arrive in runs.
        if let Some(last) = self.trace.last()
            && self.traces.get(*last as usize) == Some(&id)
        {
            return *last;
        }
        let Self {
            traces,
            trace_index,
            hasher,
            ..
        } = self;
        let hash = hasher.hash_one(id);
        if let Some(index) = trace_index.find(hash, |index| traces.get(*index as usize) == Some(&id)) {
            return *index;
        }
        let index = u32::try_from(traces.len()).expect("a table has fewer than 2^32 rows");
        traces.push(id);
        self.trace_sizes.push(TraceSize::default());
        trace_index.insert_unique(hash, index, |index| {
            hasher.hash_one(traces.get(*index as usize).copied().unwrap_or_default())
        });
        index
    }

    /// Takes back what a failed append left behind in sparse columns of bytes.
    fn forget(&mut self, row: u32) {
        self.attributes.iter_mut().for_each(|column| column.forget(row));
        for column in [
            &mut self.events,
            &mut self.links,
            &mut self.tail,
            &mut self.extra,
            &mut self.trace_state,
            &mut self.status_message,
        ] {
            column.forget(row);
        }
    }

    /// The traces in the order first seen; [`SpanTable::trace`] indexes into it.
    pub fn traces(&self) -> &[TraceId] {
        &self.traces
    }

    /// The index of `id` in [`SpanTable::traces`].
    pub fn find_trace(&self, id: &TraceId) -> Option<u32> {
        let hash = self.hasher.hash_one(*id);
        self.trace_index
            .find(hash, |index| self.traces.get(*index as usize) == Some(id))
            .copied()
    }

    /// How much of the trace with index `trace` is here.
    pub fn trace_size(&self, trace: u32) -> TraceSize {
        self.trace_sizes.get(trace as usize).copied().unwrap_or_default()
    }

    /// Bounds of [`SpanTable::trace_size`]: no trace has more bytes, and none more spans. They may be of two traces, and one
    /// span too high where a repeated span was taken back.
    pub fn largest_trace(&self) -> TraceSize {
        self.largest_trace
    }

    /// Per row: which trace.
    pub fn trace(&self) -> &[u32] {
        &self.trace
    }

    /// Per row: the span's id.
    pub fn span_id(&self) -> &[[u8; 8]] {
        &self.span_id
    }

    /// Per row: the parent's id, all zero for a root.
    pub fn parent_span_id(&self) -> &[[u8; 8]] {
        &self.parent_span_id
    }

    /// Per row: start in nanoseconds since the epoch.
    pub fn start_unix_nanos(&self) -> &[u64] {
        &self.start
    }

    /// Per row: end minus start, wrapping; negative when the sender's end lies before its start.
    pub fn duration_nanos(&self) -> &[i64] {
        &self.duration
    }

    /// Per row: `SpanKind`, 0 to 5.
    pub fn kind(&self) -> &[u8] {
        &self.kind
    }

    /// Per row: 0 when the span has no status, else `StatusCode` plus one.
    pub fn status(&self) -> &[u8] {
        &self.status
    }

    /// Per row: W3C flags.
    pub fn flags(&self) -> &[u32] {
        &self.flags
    }

    /// Per row: index into [`SpanTable::names`].
    pub fn name(&self) -> &[u32] {
        &self.name
    }

    /// Distinct span names.
    pub fn names(&self) -> &Interner {
        &self.names
    }

    /// Per row: index into [`SpanTable::resources`].
    pub fn resource(&self) -> &[u32] {
        &self.resource
    }

    /// Distinct resources, each an owner blob; see [`read_owner`].
    pub fn resources(&self) -> &Interner {
        &self.resources
    }

    /// Per row: index into [`SpanTable::scopes`].
    pub fn scope(&self) -> &[u32] {
        &self.scope
    }

    /// Distinct instrumentation scopes, each an owner blob; see [`read_owner`].
    pub fn scopes(&self) -> &Interner {
        &self.scopes
    }

    /// W3C `tracestate` of the rows that have one.
    pub fn trace_state(&self) -> &SparseBytes {
        &self.trace_state
    }

    /// Status text of the rows that have one.
    pub fn status_message(&self) -> &SparseBytes {
        &self.status_message
    }

    /// Attributes the sender dropped.
    pub fn dropped_attributes(&self) -> &SparseCounts {
        &self.dropped_attributes
    }

    /// Events the sender dropped.
    pub fn dropped_events(&self) -> &SparseCounts {
        &self.dropped_events
    }

    /// Links the sender dropped.
    pub fn dropped_links(&self) -> &SparseCounts {
        &self.dropped_links
    }

    /// Raw `events` fields of a span, tags included.
    pub fn events(&self) -> &SparseBytes {
        &self.events
    }

    /// Raw `links` fields of a span, tags included.
    pub fn links(&self) -> &SparseBytes {
        &self.links
    }

    /// Raw `attributes` fields that have no column, tags included.
    pub fn tail(&self) -> &SparseBytes {
        &self.tail
    }

    /// Raw fields that have no column, tags included.
    pub fn extra(&self) -> &SparseBytes {
        &self.extra
    }

    /// Attribute columns in the order first seen.
    pub fn attributes(&self) -> &[AttributeColumn] {
        &self.attributes
    }

    /// The column of one key and type.
    pub fn attribute(&self, key: &[u8], value_type: ValueType) -> Option<&AttributeColumn> {
        let hash = self.hasher.hash_one((key, value_type as u8));
        let at = |index: &u32| self.attributes.get(*index as usize);
        let index = self
            .attribute_index
            .find(hash, |index| at(index).is_some_and(|c| c.matches(key, value_type)))?;
        at(index)
    }

    /// Earliest start; `u64::MAX` when the table is empty.
    pub fn min_start_unix_nanos(&self) -> u64 {
        self.min_start
    }

    /// Latest end; 0 when the table is empty.
    pub fn max_end_unix_nanos(&self) -> u64 {
        self.max_end
    }

    /// Bytes of the OTLP spans appended.
    pub fn otlp_bytes(&self) -> u64 {
        self.otlp_bytes
    }

    /// Writes `row` as an OTLP `Span` message.
    ///
    /// Cost: one binary search per attribute column of the table; for many rows walk the columns instead.
    pub fn write_span(&self, row: u32, out: &mut Vec<u8>) {
        let parts = self.parts(row);
        otlp::write_span(out, &parts, |out| {
            for column in &self.attributes {
                if let Some(value) = column.value(row) {
                    write_attribute(out, column.key(), value);
                }
            }
            out.extend_from_slice(self.tail.get(row));
        });
    }

    /// The single-valued fields of `row`. `row` must be below [`SpanTable::len`].
    pub fn parts(&self, row: u32) -> SpanParts<'_> {
        let at = row as usize;
        SpanParts {
            trace_id: self.traces[self.trace[at] as usize].0,
            span_id: self.span_id[at],
            parent_span_id: self.parent_span_id[at],
            trace_state: self.trace_state.get(row),
            name: self.names.get(self.name[at]),
            kind: self.kind[at],
            start_unix_nanos: self.start[at],
            duration_nanos: self.duration[at],
            dropped_attributes: self.dropped_attributes.get(row),
            dropped_events: self.dropped_events.get(row),
            dropped_links: self.dropped_links.get(row),
            status: self.status[at],
            status_message: self.status_message.get(row),
            flags: self.flags[at],
            events: self.events.get(row),
            links: self.links.get(row),
            extra: self.extra.get(row),
        }
    }

    /// The id of the span in `row`.
    pub fn span_id_at(&self, row: u32) -> SpanId {
        SpanId(self.span_id[row as usize])
    }

    /// Rows of the trace with index `trace`, ascending.
    pub fn rows_of_trace(&self, trace: u32) -> impl Iterator<Item = u32> + '_ {
        let rows = self.trace.iter().enumerate().filter(move |(_, t)| **t == trace);
        rows.map(|(row, _)| u32::try_from(row).unwrap_or(u32::MAX))
    }

    /// Bytes held on the heap, capacity included.
    pub fn heap_bytes(&self) -> usize {
        let dense = self.trace.capacity() * 4
            + self.span_id.capacity() * 8
            + self.parent_span_id.capacity() * 8
            + self.start.capacity() * 8
            + self.duration.capacity() * 8
            + self.kind.capacity()
            + self.status.capacity()
            + (self.flags.capacity() + self.name.capacity() + self.resource.capacity() + self.scope.capacity()) * 4;
        let interned = self.traces.capacity() * 16
            + self.trace_sizes.capacity() * 16
            + self.trace_index.allocation_size()
            + self.span_index.allocation_size()
            + self.attribute_index.allocation_size()
            + self.names.heap_bytes()
            + self.resources.heap_bytes()
            + self.scopes.heap_bytes();
        let sparse = [
            &self.trace_state,
            &self.status_message,
            &self.events,
            &self.links,
            &self.tail,
            &self.extra,
        ];
        let counts = [&self.dropped_attributes, &self.dropped_events, &self.dropped_links];
        dense
            + interned
            + sparse.iter().map(|column| column.heap_bytes()).sum::<usize>()
            + counts.iter().map(|column| column.heap_bytes()).sum::<usize>()
            + self.attributes.iter().map(AttributeColumn::heap_bytes).sum::<usize>()
    }
}

fn span_hash(hasher: &DefaultHashBuilder, trace: &[u32], span_id: &[[u8; 8]], row: u32) -> u64 {
    let (trace, span_id) = (trace[row as usize], span_id[row as usize]);
    hasher.hash_one((trace, u64::from_le_bytes(span_id)))
}

/// Writes one `attributes` field of a span.
pub fn write_attribute(out: &mut Vec<u8>, key: &[u8], value: ValueRef<'_>) {
    let mut any = Vec::with_capacity(16);
    value.write_any_value(&mut any);
    let pair_length =
        2 + key.len() + any.len() + proto::varint_len(key.len() as u64) + proto::varint_len(any.len() as u64);
    proto::write_varint(out, u64::from(span_field::ATTRIBUTES) << 3 | 2);
    proto::write_varint(out, pair_length as u64);
    proto::write_bytes(out, 1, key);
    proto::write_bytes(out, 2, &any);
}

/// An owner blob: `[0|1 message present][varint length of schema url][schema url][message]`.
fn intern_owner(interner: &mut Interner, message: Option<&[u8]>, schema_url: &[u8]) -> u32 {
    let blob = owner_blob(message, schema_url);
    interner.intern(&blob)
}

/// The bytes under which a resource or scope is interned; [`read_owner`] takes them apart.
pub fn owner_blob(message: Option<&[u8]>, schema_url: &[u8]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(3 + schema_url.len() + message.map_or(0, <[u8]>::len));
    blob.push(u8::from(message.is_some()));
    proto::write_varint(&mut blob, schema_url.len() as u64);
    blob.extend_from_slice(schema_url);
    blob.extend_from_slice(message.unwrap_or_default());
    blob
}

/// Takes an owner blob apart: the `Resource` or `InstrumentationScope` message (`None` when the sender left it out) and the
/// schema URL.
pub fn read_owner(blob: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Malformed> {
    let (present, rest) = blob.split_first().ok_or(Malformed::Truncated)?;
    let mut length = 0u64;
    for (position, byte) in rest.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            let rest = rest.get(position + 1..).ok_or(Malformed::Truncated)?;
            let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
            let (schema_url, message) = rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
            return match (*present, message.is_empty()) {
                (0, true) => Ok((None, schema_url)),
                (1, _) => Ok((Some(message), schema_url)),
                _ => Err(Malformed::Tag),
            };
        }
    }
    Err(Malformed::Varint)
}
