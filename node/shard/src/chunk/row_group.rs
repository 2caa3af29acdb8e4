//! One row group of a block as queries see it.
//!
//! Columns are fetched when they are first asked for, or before in one go where the question says what it will read
//! ([`Chunk::expect`]), and kept decoded while the chunk lives, so a filter that finds nothing costs only its own column;
//! longer in the [`crate::decoded_cache`], where others find them. Fetching waits for the object store: a chunk is
//! therefore used on a thread that may block, never on the async runtime's own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use block::{AttributeKey, Columns, Field, RowGroup};
use futures::FutureExt as _;
use hashbrown::HashMap;
use model::column::{Column, ColumnCow, Dict, OwnedValues};
use model::{Scope, TraceId, Value, ValueType};
use parking_lot::Mutex;
use query::budget::Budget;
use query::source::{Chunk, ColumnRef, Expected, Note, Preorder, TimeRange, TraceRows};
use query::value::Static;

use super::nested::{self, Nested, OwnerField, RawRows};
use super::{SCOPE_NAME, SCOPE_VERSION, corrupt};
use crate::blocks::OpenBlock;
use crate::decoded_cache::{Decoded, Key, Part, Traces, Trees};
use crate::turns::Turn;

/// Of a column of which no more pages are wanted than one part in so many, only those are decoded; else all, and kept.
const FEW_PAGES: usize = 2;

/// Attributes of the tail that are looked for one by one, which reads all of it each time. A question that wants more, as
/// compare() does, has it taken apart once: hundreds of keys would otherwise cost as many times the tail.
const TAIL_KEYS_ALONE: usize = 4;

/// Attributes without a column of their own, by their keys.
type TailAttributes = HashMap<Vec<u8>, Vec<Column>>;

/// How a chunk gets at its bytes.
#[derive(Debug, Clone)]
pub struct Fetching {
    /// Drives the fetches.
    pub runtime: tokio::runtime::Handle,
    /// Given up while a fetch is waited for.
    pub turn: Arc<Turn>,
    /// Pays for the bytes, and for the memory of what is decoded.
    pub budget: Budget,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct RowGroupChunk {
    block: Arc<OpenBlock>,
    group: usize,
    fetching: Fetching,
    traces: OnceLock<Arc<Traces>>,
    trees: OnceLock<Arc<Trees>>,
    columns: Mutex<BTreeMap<ColumnRef, Arc<[Arc<Column>]>>>,
    tail: OnceLock<TailAttributes>,
    /// How many attributes of the tail were wanted.
    tail_asked: AtomicUsize,
    /// Fetched before it was asked for, as it is stored.
    ahead: Mutex<Vec<RowGroup>>,
    /// Bytes fetched.
    fetched: AtomicU64,
    fetches: AtomicU64,
    /// Bytes of the columns that were decoded, whenever they were fetched: what a column costs.
    decoded: AtomicU64,
    /// Memory counted in the budget.
    held: AtomicUsize,
}

impl Drop for RowGroupChunk {
    fn drop(&mut self) {
        self.fetching.budget.release(*self.held.get_mut());
    }
}

impl RowGroupChunk {
    /// Row group `group` of a block's section.
    pub fn new(block: Arc<OpenBlock>, group: usize, fetching: Fetching) -> Self {
        Self {
            block,
            group,
            fetching,
            traces: OnceLock::new(),
            trees: OnceLock::new(),
            columns: Mutex::default(),
            tail: OnceLock::new(),
            tail_asked: AtomicUsize::new(0),
            ahead: Mutex::default(),
            fetched: AtomicU64::new(0),
            fetches: AtomicU64::new(0),
            decoded: AtomicU64::new(0),
            held: AtomicUsize::new(0),
        }
    }

    /// Bytes fetched so far.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Reads so far.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Waits for a read, without the turn unless the bytes are at hand.
    fn wait(&self, reading: impl Future<Output = block::Result<RowGroup>>) -> query::Result<RowGroup> {
        let mut reading = std::pin::pin!(reading);
        let at_once = {
            // What is at hand is not worth giving up the turn for.
            let _guard = self.fetching.runtime.enter();
            reading.as_mut().now_or_never()
        };
        let fetched = match at_once {
            Some(fetched) => fetched,
            None => self.fetching.turn.outside(|| self.fetching.runtime.block_on(reading)),
        };
        let row_group = fetched.map_err(read_error)?;
        self.fetches.fetch_add(1, Ordering::Relaxed);
        self.spend(row_group.bytes() as u64)?;
        Ok(row_group)
    }

    fn spend(&self, bytes: u64) -> query::Result<()> {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.fetching
            .budget
            .spend_bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// A part as it is kept by the block's cache, at the price of reading it; None if it is not.
    fn kept(&self, part: &Part) -> query::Result<Option<Decoded>> {
        let Some((cache, key)) = self.block.decoded().zip(self.key(part)) else {
            return Ok(None);
        };
        let Some(kept) = cache.get(&key) else { return Ok(None) };
        self.spend(kept.read_bytes)?;
        Ok(Some(kept.decoded))
    }

    /// A part that had to be decoded when [`RowGroupChunk::decoded_bytes`] were `before`.
    fn keep(&self, part: &Part, decoded: Decoded, before: u64) {
        if let Some((cache, key)) = self.block.decoded().zip(self.key(part)) {
            cache.keep(key, decoded, self.decoded_bytes() - before);
        }
    }

    fn decoded_bytes(&self) -> u64 {
        self.decoded.load(Ordering::Relaxed)
    }

    fn key(&self, part: &Part) -> Option<Key> {
        let fence = self.block.index().fences().get(self.group)?;
        Some(Key {
            object: Arc::clone(self.block.block().object()),
            offset: fence.offset,
            part: part.clone(),
        })
    }

    /// Fetches columns and decodes them; fetches them once more if they turn out to be damaged.
    fn fetch<T>(&self, columns: &[usize], decode: impl Fn(&RowGroup) -> block::Result<T>) -> query::Result<T> {
        let (block, wanted) = (self.block.block(), Columns::Some(columns));
        let ranges = block.ranges(self.group, wanted).map_err(read_error)?;
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        self.decoded.fetch_add(bytes, Ordering::Relaxed);
        let ahead = self.ahead.lock().iter().find(|ahead| ahead.has(columns)).cloned();
        let first = decode(&match ahead {
            Some(ahead) => ahead,
            None => self.wait(block.row_group(self.group, wanted))?,
        });
        match first {
            Err(error) if error.kind() == block::Kind::Corrupt => {
                let again = decode(&self.wait(block.row_group_again(self.group, wanted))?);
                block.report(&again);
                again.map_err(read_error)
            }
            decoded => decoded.map_err(read_error),
        }
    }

    fn hold(&self, bytes: usize) -> query::Result<()> {
        self.fetching.budget.hold(bytes)?;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn fetch_fields<T>(&self, fields: &[Field], decode: impl Fn(&RowGroup) -> block::Result<T>) -> query::Result<T> {
        let ordinals: Vec<usize> = fields.iter().map(|field| field.ordinal()).collect();
        self.fetch(&ordinals, decode)
    }

    fn field(&self, field: Field) -> query::Result<Vec<Column>> {
        Ok(vec![self.fetch_fields(&[field], |row_group| row_group.field(field))?])
    }

    /// For each row, what the resource or scope it belongs to has.
    fn owner_field(&self, field: Field, owners: &Arc<Dict>) -> query::Result<Vec<Column>> {
        let read = |row_group: &RowGroup| row_group.owner_column(field, Arc::clone(owners));
        Ok(vec![self.fetch_fields(&[field], read)?])
    }

    fn read(&self, column: &ColumnRef) -> query::Result<Vec<Column>> {
        match column {
            ColumnRef::Name => self.field(Field::Name),
            ColumnRef::Kind => self.field(Field::Kind),
            ColumnRef::Status => self.field(Field::Status),
            ColumnRef::StatusMessage => self.field(Field::StatusMessage),
            ColumnRef::Duration => Ok(self.field(Field::Duration)?.into_iter().map(plain_ints).collect()),
            ColumnRef::SpanId => self.field(Field::SpanId),
            ColumnRef::ParentSpanId => self.field(Field::ParentSpanId),
            ColumnRef::Start => {
                let fields = [Field::TraceStart, Field::Start];
                Ok(vec![
                    self.fetch_fields(&fields, |row_group| row_group.field(Field::Start))?,
                ])
            }
            ColumnRef::EventName
            | ColumnRef::EventTimeSinceStart
            | ColumnRef::Attribute(Scope::Event, _)
            | ColumnRef::LinkTraceId
            | ColumnRef::LinkSpanId
            | ColumnRef::Attribute(Scope::Link, _) => self.read_nested(column),
            ColumnRef::InstrumentationName => self.scope_text(SCOPE_NAME),
            ColumnRef::InstrumentationVersion => self.scope_text(SCOPE_VERSION),
            ColumnRef::TraceState => self.field(Field::TraceState),
            ColumnRef::Attribute(Scope::Span, key) => {
                let columns = RowGroup::attribute_columns(self.block.index(), self.group, key.as_bytes());
                match columns.split_last() {
                    None => Ok(Vec::new()),
                    Some((last, others)) if *last == Field::Tail.ordinal() && self.wants_whole_tail() => {
                        let mut found = match others {
                            [] => Vec::new(),
                            others => {
                                self.fetch(others, |row_group| row_group.attribute_outside_tail(key.as_bytes()))?
                            }
                        };
                        let in_tail = self.tail()?.get(key.as_bytes());
                        found.extend(in_tail.into_iter().flatten().cloned());
                        Ok(found)
                    }
                    Some(_) => self.fetch(&columns, |row_group| row_group.attribute(key.as_bytes())),
                }
            }
            ColumnRef::Attribute(scope @ (Scope::Resource | Scope::Instrumentation), key) => {
                let field = if *scope == Scope::Resource {
                    Field::Resource
                } else {
                    Field::Scope
                };
                match self.block.owner_values(*scope, key)? {
                    Some(owners) => self.owner_field(field, &owners),
                    None => Ok(Vec::new()),
                }
            }
            ColumnRef::TraceId => Ok(Vec::new()),
        }
    }

    /// Whether one more attribute of the tail is wanted than it pays to read the tail for again and again.
    fn wants_whole_tail(&self) -> bool {
        self.tail_asked.fetch_add(1, Ordering::Relaxed) >= TAIL_KEYS_ALONE
    }

    /// The tail, taken apart.
    fn tail(&self) -> query::Result<&TailAttributes> {
        if self.tail.get().is_none() {
            let tail = self.fetch_fields(&[Field::Tail], RowGroup::tail_attributes)?;
            let of = |(key, columns): (&Vec<u8>, &Vec<Column>)| {
                key.len() + 64 + columns.iter().map(Column::heap_bytes).sum::<usize>()
            };
            self.hold(tail.iter().map(of).sum())?;
            // Another thread may have been faster; both read the same.
            let _ = self.tail.set(tail);
        }
        self.tail.get().ok_or(query::Error::Inconsistent {
            what: "the tail was just loaded",
        })
    }

    /// Whether no event or link here has an attribute of this key, by what was seen before.
    fn lacks_nested(&self, scope: Scope, key: &Arc<str>) -> bool {
        let known = self.block.nested_keys(self.group, scope);
        known.is_some_and(|keys| !keys.contains(key))
    }

    /// Keys of events' or links' attributes; remembered, because everything of theirs has to be read for it.
    fn nested_keys(&self, scope: Scope) -> query::Result<Vec<Arc<str>>> {
        if let Some(known) = self.block.nested_keys(self.group, scope) {
            return Ok(known.to_vec());
        }
        let (field, nested) = match scope {
            Scope::Event => (Field::Events, Nested::Events),
            _ => (Field::Links, Nested::Links),
        };
        let messages = self.fetch_fields(&[field], |row_group| row_group.column(field.ordinal()))?;
        let plain = plain_bytes(&messages.values);
        let rows: Vec<u32> = (0..plain.0.len().saturating_sub(1) as u32).collect();
        let raw = RawRows {
            rows: &rows,
            offsets: &plain.0,
            bytes: &plain.1,
        };
        let keys = nested::nested_keys(raw, nested).map_err(|error| corrupt("events or links of a block", error))?;
        self.block.know_nested_keys(self.group, scope, &keys);
        Ok(keys)
    }

    /// Keys in the tail, if some of them found no room in the block's catalogue.
    fn open_tail_keys(&self) -> query::Result<Vec<Arc<str>>> {
        let fence = self.block.index().fences().get(self.group);
        if !fence.is_some_and(|fence| fence.tail_is_open) {
            return Ok(Vec::new());
        }
        let fields = self.fetch_fields(&[Field::Tail], |row_group| row_group.column(Field::Tail.ordinal()))?;
        self.fetching.budget.check()?;
        let (offsets, bytes) = plain_bytes(&fields.values);
        let rows: Vec<u32> = (0..offsets.len().saturating_sub(1) as u32).collect();
        let raw = RawRows {
            rows: &rows,
            offsets: &offsets,
            bytes: &bytes,
        };
        nested::tail_keys(raw).map_err(|error| corrupt("attributes of a block", error))
    }

    fn read_nested(&self, column: &ColumnRef) -> query::Result<Vec<Column>> {
        if let ColumnRef::Attribute(scope @ (Scope::Event | Scope::Link), key) = column
            && !self.nested_keys(*scope)?.contains(key)
        {
            return Ok(Vec::new());
        }
        let is_event = matches!(
            column,
            ColumnRef::EventName | ColumnRef::EventTimeSinceStart | ColumnRef::Attribute(Scope::Event, _)
        );
        let field = if is_event { Field::Events } else { Field::Links };
        let messages = self.fetch_fields(&[field], |row_group| row_group.column(field.ordinal()))?;
        let all_rows: Vec<u32>;
        let rows = match &messages.rows {
            Some(rows) => rows.as_slice(),
            None => {
                all_rows = (0..self.row_count() as u32).collect();
                &all_rows
            }
        };
        let plain = plain_bytes(&messages.values);
        let raw = RawRows {
            rows,
            offsets: &plain.0,
            bytes: &plain.1,
        };
        let damaged = |error| corrupt("events or links of a block", error);
        match column {
            ColumnRef::EventName => nested::event_names(raw).map(|column| vec![column]),
            ColumnRef::EventTimeSinceStart => {
                let starts = self.columns(&ColumnRef::Start)?;
                let start = |row: u32| match starts.first().map(|column| column.view().values) {
                    Some(model::Values::Int(starts)) => starts.get(row as usize).map_or(0, |s| s.cast_unsigned()),
                    _ => 0,
                };
                nested::event_times(raw, start).map(|column| vec![column])
            }
            ColumnRef::LinkTraceId => nested::link_trace_ids(raw).map(|column| vec![column]),
            ColumnRef::LinkSpanId => nested::link_span_ids(raw).map(|column| vec![column]),
            ColumnRef::Attribute(Scope::Event, key) => nested::nested_attribute(raw, Nested::Events, key.as_bytes()),
            ColumnRef::Attribute(_, key) => nested::nested_attribute(raw, Nested::Links, key.as_bytes()),
            _ => Ok(Vec::new()),
        }
        .map_err(damaged)
    }

    fn scope_text(&self, number: u32) -> query::Result<Vec<Column>> {
        let scopes = self.block.index().owners().scopes.view();
        let blobs = (0..scopes.len()).map(|id| scopes.get(id));
        let values = nested::owner_values(blobs, OwnerField::Text(number));
        let values = values.map_err(|error| corrupt("instrumentation scopes of a block", error))?;
        if values.iter().all(Option::is_none) {
            return Ok(Vec::new());
        }
        self.owner_field(Field::Scope, &Arc::new(Dict::Values(values)))
    }

    fn load_traces(&self) -> query::Result<Traces> {
        self.fetch_fields(&[Field::TraceId, Field::TraceStart], |row_group| {
            let (ordinals, ids) = row_group.traces()?;
            let starts = row_group.trace_starts()?;
            Ok(Traces { ordinals, ids, starts })
        })
    }

    fn load_trees(&self) -> query::Result<Trees> {
        self.fetch_fields(&[Field::Descendants, Field::ParentDistance], |row_group| {
            let (descendants, parent_distance) = row_group.structure()?;
            Ok(Trees {
                descendants,
                parent_distance,
            })
        })
    }

    fn loaded_traces(&self) -> query::Result<&Traces> {
        if self.traces.get().is_none() {
            let loaded = match self.kept(&Part::Traces)? {
                Some(Decoded::Traces(traces)) => traces,
                _ => {
                    let before = self.decoded_bytes();
                    let loaded = Arc::new(self.load_traces()?);
                    self.keep(&Part::Traces, Decoded::Traces(Arc::clone(&loaded)), before);
                    loaded
                }
            };
            self.hold(loaded.heap_bytes())?;
            // Another thread may have been faster; both read the same.
            let _ = self.traces.set(loaded);
        }
        self.traces
            .get()
            .map(|traces| &**traces)
            .ok_or(query::Error::Inconsistent {
                what: "traces were just loaded",
            })
    }

    /// A column that was decoded before, by this chunk or by another of the same row group.
    fn whole_if_kept(&self, column: &ColumnRef) -> query::Result<Option<Arc<[Arc<Column>]>>> {
        if let Some(known) = self.columns.lock().get(column) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(Decoded::Columns(columns)) = self.kept(&Part::Column(column.clone()))? else {
            return Ok(None);
        };
        self.take_in(column, &columns)?;
        Ok(Some(columns))
    }

    fn take_in(&self, column: &ColumnRef, columns: &Arc<[Arc<Column>]>) -> query::Result<()> {
        self.hold(columns.iter().map(|column| column.heap_bytes()).sum())?;
        self.columns.lock().insert(column.clone(), Arc::clone(columns));
        Ok(())
    }

    fn is_kept(&self, part: &Part) -> bool {
        let place = self.block.decoded().zip(self.key(part));
        place.is_some_and(|(cache, key)| cache.has(&key))
    }

    /// The file's columns that will be decoded for `column`, as far as they are sure to be: not the tail, nor events and
    /// links, which are large and may not have to be looked at.
    fn stored_columns(&self, column: &ColumnRef, out: &mut Vec<usize>) -> query::Result<()> {
        let field = match column {
            ColumnRef::Name => Field::Name,
            ColumnRef::Kind => Field::Kind,
            ColumnRef::Status => Field::Status,
            ColumnRef::StatusMessage => Field::StatusMessage,
            ColumnRef::Duration => Field::Duration,
            ColumnRef::SpanId => Field::SpanId,
            ColumnRef::ParentSpanId => Field::ParentSpanId,
            ColumnRef::TraceState => Field::TraceState,
            ColumnRef::Start => {
                out.push(Field::TraceStart.ordinal());
                Field::Start
            }
            ColumnRef::Attribute(Scope::Span, key) => {
                let columns = RowGroup::attribute_columns(self.block.index(), self.group, key.as_bytes());
                out.extend(columns.into_iter().filter(|column| *column != Field::Tail.ordinal()));
                return Ok(());
            }
            ColumnRef::Attribute(scope @ (Scope::Resource | Scope::Instrumentation), key) => {
                if self.block.owner_values(*scope, key)?.is_none() {
                    return Ok(());
                }
                match scope {
                    Scope::Resource => Field::Resource,
                    _ => Field::Scope,
                }
            }
            ColumnRef::InstrumentationName | ColumnRef::InstrumentationVersion => Field::Scope,
            _ => return Ok(()),
        };
        out.push(field.ordinal());
        Ok(())
    }

    /// The pages of a column that hold `rows`, where that is worth while and the column has pages of its own.
    fn read_at(&self, column: &ColumnRef, rows: &[u32]) -> query::Result<Option<Vec<Column>>> {
        if rows.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let pages = rows
            .chunk_by(|a, b| a / block::PAGE_ROWS == b / block::PAGE_ROWS)
            .count();
        if pages * FEW_PAGES > self.row_count().div_ceil(block::PAGE_ROWS as usize) {
            return Ok(None);
        }
        let fields: &[Field] = match column {
            ColumnRef::Name => &[Field::Name],
            ColumnRef::Kind => &[Field::Kind],
            ColumnRef::Status => &[Field::Status],
            ColumnRef::Duration => &[Field::Duration],
            ColumnRef::SpanId => &[Field::SpanId],
            ColumnRef::ParentSpanId => &[Field::ParentSpanId],
            ColumnRef::Start => &[Field::Start, Field::TraceStart],
            ColumnRef::Attribute(Scope::Span, key) => {
                let columns = RowGroup::attribute_columns(self.block.index(), self.group, key.as_bytes());
                if columns.is_empty() {
                    return Ok(Some(Vec::new()));
                }
                let read = |row_group: &RowGroup| row_group.attribute_at(key.as_bytes(), rows);
                return self.fetch(&columns, read).map(Some);
            }
            _ => return Ok(None),
        };
        let read = |row_group: &RowGroup| row_group.field_at(fields[0], rows);
        let mut read = self.fetch_fields(fields, read)?;
        if matches!(column, ColumnRef::Duration) {
            read = plain_ints(read);
        }
        Ok(Some(vec![read]))
    }
}

fn owned(columns: &[Arc<Column>]) -> Vec<ColumnCow<'static>> {
    columns
        .iter()
        .map(|column| ColumnCow::Owned(Arc::clone(column)))
        .collect()
}

/// A column of integers, dictionary resolved: the writer chooses a dictionary where few values repeat.
fn plain_ints(column: Column) -> Column {
    let OwnedValues::Dict { ids, dict } = &column.values else {
        return column;
    };
    let Dict::Values(values) = &**dict else { return column };
    let value = |id: &u32| match values.get(*id as usize) {
        Some(Some(Value::Int(value))) => *value,
        _ => 0,
    };
    let values = OwnedValues::Int(ids.iter().map(value).collect());
    Column {
        rows: column.rows,
        values,
    }
}

/// The bytes of a binary column, dictionary resolved.
fn plain_bytes(values: &OwnedValues) -> (Vec<u32>, Vec<u8>) {
    match values {
        OwnedValues::Bytes { offsets, bytes } | OwnedValues::Raw { offsets, bytes } => (offsets.clone(), bytes.clone()),
        OwnedValues::Dict { ids, dict } => {
            let (mut offsets, mut bytes) = (vec![0], Vec::new());
            for id in ids {
                if let Dict::Bytes {
                    offsets: starts,
                    bytes: text,
                } = &**dict
                {
                    bytes.extend_from_slice(model::column::slice_at(starts, text, *id as usize));
                }
                offsets.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            }
            (offsets, bytes)
        }
        _ => (vec![0], Vec::new()),
    }
}

/// A block that cannot be read, as a query sees it.
pub(crate) fn read_error(error: block::Error) -> query::Error {
    let is_corrupt = matches!(
        error.kind(),
        block::Kind::Corrupt | block::Kind::TooNew | block::Kind::Internal
    );
    query::Error::Source {
        what: "a block".to_owned(),
        corrupt: is_corrupt,
        source: Box::new(error),
    }
}

impl Chunk for RowGroupChunk {
    fn row_count(&self) -> usize {
        self.block
            .index()
            .fences()
            .get(self.group)
            .map_or(0, |fence| fence.rows as usize)
    }

    fn time_range(&self) -> TimeRange {
        let fence = self.block.index().fences().get(self.group);
        fence.map_or(TimeRange::ALWAYS, |fence| TimeRange {
            start_unix_nanos: fence.min_start,
            end_unix_nanos: fence.max_end,
        })
    }

    fn start_range(&self) -> TimeRange {
        let fence = self.block.index().fences().get(self.group);
        fence.map_or(TimeRange::ALWAYS, |fence| TimeRange {
            start_unix_nanos: fence.min_start,
            end_unix_nanos: fence.max_start,
        })
    }

    fn expect(&self, expected: &Expected) -> query::Result<()> {
        let mut columns = Vec::new();
        if expected.traces && self.traces.get().is_none() && !self.is_kept(&Part::Traces) {
            columns.extend([Field::TraceId.ordinal(), Field::TraceStart.ordinal()]);
        }
        if expected.structure && self.trees.get().is_none() && !self.is_kept(&Part::Trees) {
            columns.extend([Field::Descendants.ordinal(), Field::ParentDistance.ordinal()]);
        }
        for column in &expected.columns {
            if !self.columns.lock().contains_key(column) && !self.is_kept(&Part::Column(column.clone())) {
                self.stored_columns(column, &mut columns)?;
            }
        }
        columns.sort_unstable();
        columns.dedup();
        let is_ahead = |column: &usize| self.ahead.lock().iter().any(|ahead| ahead.has(&[*column]));
        columns.retain(|column| !is_ahead(column));
        // One column is as well fetched when it is asked for.
        if columns.len() > 1 {
            let fetched = self.wait(self.block.block().row_group(self.group, Columns::Some(&columns)))?;
            self.hold(fetched.bytes())?;
            self.ahead.lock().push(fetched);
        }
        Ok(())
    }

    fn traces(&self) -> query::Result<TraceRows<'_>> {
        let traces = self.loaded_traces()?;
        Ok(TraceRows {
            ordinals: &traces.ordinals,
            ids: &traces.ids,
            in_preorder: true,
        })
    }

    fn preorder(&self) -> query::Result<Option<Preorder<'_>>> {
        if self.trees.get().is_none() {
            let loaded = match self.kept(&Part::Trees)? {
                Some(Decoded::Trees(trees)) => trees,
                _ => {
                    let before = self.decoded_bytes();
                    let loaded = Arc::new(self.load_trees()?);
                    self.keep(&Part::Trees, Decoded::Trees(Arc::clone(&loaded)), before);
                    loaded
                }
            };
            self.hold(loaded.heap_bytes())?;
            let _ = self.trees.set(loaded);
        }
        Ok(self.trees.get().map(|trees| Preorder {
            descendants: &trees.descendants,
            parent_distance: &trees.parent_distance,
        }))
    }

    fn trace_starts(&self) -> query::Result<Option<Cow<'_, [u64]>>> {
        Ok(Some(Cow::Borrowed(&self.loaded_traces()?.starts)))
    }

    fn columns_at(&self, column: &ColumnRef, rows: &[u32]) -> query::Result<Vec<ColumnCow<'_>>> {
        let read = match self.whole_if_kept(column)? {
            Some(columns) => return Ok(owned(&columns)),
            None => self.read_at(column, rows)?,
        };
        match read {
            None => self.columns(column),
            Some(read) => Ok(read
                .into_iter()
                .map(|column| ColumnCow::Owned(Arc::new(column)))
                .collect()),
        }
    }

    fn columns(&self, column: &ColumnRef) -> query::Result<Vec<ColumnCow<'_>>> {
        if let Some(columns) = self.whole_if_kept(column)? {
            return Ok(owned(&columns));
        }
        let before = self.decoded_bytes();
        let read: Arc<[Arc<Column>]> = self.read(column)?.into_iter().map(Arc::new).collect();
        let part = Part::Column(column.clone());
        self.keep(&part, Decoded::Columns(Arc::clone(&read)), before);
        self.take_in(column, &read)?;
        Ok(owned(&read))
    }

    fn may_contain(&self, column: &ColumnRef, value: &Static) -> bool {
        let (index, filters) = (self.block.index(), self.block.filters());
        match (column, value) {
            (ColumnRef::Attribute(scope @ (Scope::Event | Scope::Link), key), _) => !self.lacks_nested(*scope, key),
            (ColumnRef::Attribute(Scope::Span, key), _)
                if RowGroup::attribute_columns(index, self.group, key.as_bytes()).is_empty() =>
            {
                false
            }
            (ColumnRef::TraceId, Static::Str(text)) => TraceId::parse_hex(text).is_none_or(|trace| {
                index.groups_of_trace(&trace).contains(&self.group) && filters.may_contain_trace(&trace)
            }),
            (ColumnRef::Attribute(Scope::Span, key), Static::Str(text)) => {
                let attribute = AttributeKey::new(key.as_bytes(), ValueType::String);
                let raw = AttributeKey::new(key.as_bytes(), ValueType::Raw);
                // An array may hold the text; arrays have no filter.
                filters.may_contain(index, &attribute, text.as_bytes()) || index.catalogue_entry(&raw).is_some()
            }
            (ColumnRef::Attribute(scope @ (Scope::Resource | Scope::Instrumentation), key), value) => {
                let Ok(values) = self.block.owner_values(*scope, key) else {
                    return true;
                };
                values.is_some_and(|dict| match (&*dict, value) {
                    (Dict::Values(values), Static::Str(text)) => values.iter().any(|owner| match owner {
                        Some(Value::String(owner)) => *owner == **text,
                        Some(Value::Array(_)) => true,
                        _ => false,
                    }),
                    _ => true,
                })
            }
            (ColumnRef::Name, Static::Str(text)) => index
                .names()
                .is_none_or(|names| names.binary_search_by(|name| (**name).cmp(text.as_bytes())).is_ok()),
            _ => true,
        }
    }

    fn recall(&self, name: &str) -> query::Result<Option<Note>> {
        Ok(match self.kept(&Part::Note(name.into()))? {
            Some(Decoded::Note { note, .. }) => Some(note),
            _ => None,
        })
    }

    fn remember(&self, name: &str, note: Note, bytes: usize) {
        self.keep(&Part::Note(name.into()), Decoded::Note { note, bytes }, 0);
    }

    fn attribute_keys(&self, scope: Scope) -> query::Result<Vec<Arc<str>>> {
        let index = self.block.index();
        let text = |key: &[u8]| std::str::from_utf8(key).ok().map(Arc::from);
        match scope {
            Scope::Span => {
                let catalogue = index.catalogue().iter();
                let mut keys: Vec<Arc<str>> = catalogue.filter_map(|entry| text(&entry.attribute.key)).collect();
                if !index.catalogue_is_whole() {
                    keys.extend(index.attribute_columns().filter_map(|attribute| text(&attribute.key)));
                    keys.extend(self.open_tail_keys()?);
                }
                keys.sort_unstable();
                keys.dedup();
                Ok(keys)
            }
            Scope::Resource | Scope::Instrumentation => {
                let (owners, number) = match scope {
                    Scope::Resource => (&index.owners().resources, super::RESOURCE_ATTRIBUTES),
                    _ => (&index.owners().scopes, super::SCOPE_ATTRIBUTES),
                };
                let view = owners.view();
                let blobs = (0..view.len()).map(|id| view.get(id));
                nested::owner_keys(blobs, number).map_err(|error| corrupt("owners of a block", error))
            }
            Scope::Event | Scope::Link => self.nested_keys(scope),
        }
    }
}
