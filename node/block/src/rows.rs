//! Spans in columns, as the writer takes them: borrowed from a live table or from rows decoded out of a block.
//!
//! [`RowsView`] is the one input of the writer, so that a flush and a merge are the same code. [`SpanRows`] is its owned
//! form: what a row group decodes to. Both are lossless: [`SpanRows::write_span`] gives the OTLP span back, equal field
//! by field up to attribute order, which means nothing in OTLP.

use std::sync::Arc;

use model::column::{Column, ColumnView, Dict, DictView, OwnedValues, Rows, Values, slice_at};
use model::otlp::{self, SpanParts};
use model::{SpanTable, TraceId, ValueRef, ValueType};

use crate::schema::AttributeKey;

/// Byte strings end to end; `offsets` has one entry more than there are strings.
#[derive(Debug, Clone, Copy)]
pub struct TextView<'a> {
    /// Where string `i` starts.
    pub offsets: &'a [u32],
    /// The strings.
    pub bytes: &'a [u8],
}

impl<'a> TextView<'a> {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// String `index`; empty when there is none.
    pub fn get(&self, index: usize) -> &'a [u8] {
        slice_at(self.offsets, self.bytes, index)
    }
}

/// Byte strings of some rows, ascending.
#[derive(Debug, Clone, Copy)]
pub struct SparseView<'a> {
    /// Which rows.
    pub rows: &'a [u32],
    /// Their strings.
    pub text: TextView<'a>,
}

/// Numbers of some rows, ascending.
#[derive(Debug, Clone, Copy)]
pub struct CountsView<'a> {
    /// Which rows.
    pub rows: &'a [u32],
    /// Their numbers.
    pub counts: &'a [u32],
}

/// One attribute column: sparse, of one type.
#[derive(Debug, Clone, Copy)]
pub struct AttributeView<'a> {
    /// The attribute's key.
    pub key: &'a [u8],
    /// The type of its values.
    pub value_type: ValueType,
    /// Rows and values. Rows are sparse, each once.
    pub column: ColumnView<'a>,
}

/// Borrowed rows of one tenant.
#[derive(Debug, Clone)]
pub struct RowsView<'a> {
    /// Distinct traces, in any order.
    pub traces: &'a [TraceId],
    /// Per row: index into `traces`.
    pub trace: &'a [u32],
    /// Per row.
    pub span_id: &'a [[u8; 8]],
    /// Per row; all zero for a root.
    pub parent_span_id: &'a [[u8; 8]],
    /// Per row: nanoseconds since the epoch.
    pub start: &'a [u64],
    /// Per row: nanoseconds, wrapping.
    pub duration: &'a [i64],
    /// Per row.
    pub kind: &'a [u8],
    /// Per row: 0 for no status, else the code plus one.
    pub status: &'a [u8],
    /// Per row.
    pub flags: &'a [u32],
    /// Per row: index into `names`.
    pub name: &'a [u32],
    /// Distinct span names.
    pub names: TextView<'a>,
    /// Per row: index into `resources`.
    pub resource: &'a [u32],
    /// Owner blobs.
    pub resources: TextView<'a>,
    /// Per row: index into `scopes`.
    pub scope: &'a [u32],
    /// Owner blobs.
    pub scopes: TextView<'a>,
    /// W3C `tracestate`.
    pub trace_state: SparseView<'a>,
    /// Status text.
    pub status_message: SparseView<'a>,
    /// Raw fields.
    pub events: SparseView<'a>,
    /// Raw fields.
    pub links: SparseView<'a>,
    /// Raw fields.
    pub extra: SparseView<'a>,
    /// Raw `attributes` fields without a column.
    pub tail: SparseView<'a>,
    /// Attributes, events, links the sender dropped.
    pub dropped: [CountsView<'a>; 3],
    /// Attribute columns, in any order.
    pub attributes: Vec<AttributeView<'a>>,
}

fn sparse(column: &model::table::SparseBytes) -> SparseView<'_> {
    SparseView {
        rows: column.rows(),
        text: TextView {
            offsets: column.offsets(),
            bytes: column.bytes(),
        },
    }
}

fn counts(column: &model::table::SparseCounts) -> CountsView<'_> {
    CountsView {
        rows: column.rows(),
        counts: column.counts(),
    }
}

fn interned(interner: &model::table::Interner) -> TextView<'_> {
    TextView {
        offsets: interner.offsets(),
        bytes: interner.bytes(),
    }
}

impl<'a> RowsView<'a> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.trace.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.trace.is_empty()
    }

    /// The rows of a live table.
    pub fn of_table(table: &'a SpanTable) -> Self {
        Self {
            traces: table.traces(),
            trace: table.trace(),
            span_id: table.span_id(),
            parent_span_id: table.parent_span_id(),
            start: table.start_unix_nanos(),
            duration: table.duration_nanos(),
            kind: table.kind(),
            status: table.status(),
            flags: table.flags(),
            name: table.name(),
            names: interned(table.names()),
            resource: table.resource(),
            resources: interned(table.resources()),
            scope: table.scope(),
            scopes: interned(table.scopes()),
            trace_state: sparse(table.trace_state()),
            status_message: sparse(table.status_message()),
            events: sparse(table.events()),
            links: sparse(table.links()),
            extra: sparse(table.extra()),
            tail: sparse(table.tail()),
            dropped: [
                counts(table.dropped_attributes()),
                counts(table.dropped_events()),
                counts(table.dropped_links()),
            ],
            attributes: table
                .attributes()
                .iter()
                .map(|c| AttributeView {
                    key: c.key(),
                    value_type: c.value_type(),
                    column: c.view(),
                })
                .collect(),
        }
    }

    /// The row's fields that are not attributes.
    pub fn parts(&self, row: u32) -> SpanParts<'a> {
        let at = row as usize;
        SpanParts {
            trace_id: self.traces[self.trace[at] as usize].0,
            span_id: self.span_id[at],
            parent_span_id: self.parent_span_id[at],
            trace_state: self.trace_state.get(row),
            name: self.names.get(self.name[at] as usize),
            kind: self.kind[at],
            start_unix_nanos: self.start[at],
            duration_nanos: self.duration[at],
            dropped_attributes: self.dropped[0].get(row),
            dropped_events: self.dropped[1].get(row),
            dropped_links: self.dropped[2].get(row),
            status: self.status[at],
            status_message: self.status_message.get(row),
            flags: self.flags[at],
            events: self.events.get(row),
            links: self.links.get(row),
            extra: self.extra.get(row),
        }
    }

    /// Writes `row` as an OTLP `Span` message, its attributes in column order.
    pub fn write_span(&self, row: u32, out: &mut Vec<u8>) {
        otlp::write_span(out, &self.parts(row), |out| {
            for attribute in &self.attributes {
                if let Some(value) = attribute.value(row) {
                    model::table::write_attribute(out, attribute.key, value);
                }
            }
            out.extend_from_slice(self.tail.get(row));
        });
    }

    /// Bytes that are equal for equal spans whatever columns they stand in: the span with its attribute fields sorted,
    /// then resource and scope.
    pub(crate) fn canonical(&self, row: u32, out: &mut Vec<u8>) {
        otlp::write_span(out, &self.parts(row), |out| {
            let mut fields: Vec<Vec<u8>> = Vec::new();
            for attribute in &self.attributes {
                if let Some(value) = attribute.value(row) {
                    let mut field = Vec::new();
                    model::table::write_attribute(&mut field, attribute.key, value);
                    fields.push(field);
                }
            }
            let mut walk = model::proto::Fields::new(self.tail.get(row));
            while let Ok(Some(entry)) = walk.next_field() {
                fields.push(respell(&entry));
            }
            fields.sort_unstable();
            fields.iter().for_each(|f| out.extend_from_slice(f));
        });
        let at = row as usize;
        crate::cursor::put_bytes(out, self.resources.get(self.resource[at] as usize));
        crate::cursor::put_bytes(out, self.scopes.get(self.scope[at] as usize));
    }
}

/// An attribute field in the spelling of [`model::table::write_attribute`] where that loses nothing.
fn respell(entry: &model::proto::Entry<'_>) -> Vec<u8> {
    let plain = || {
        let pair = otlp::read_key_value(entry.bytes().ok()?).ok().filter(|p| p.is_plain)?;
        let mut field = Vec::new();
        model::table::write_attribute(&mut field, pair.key, ValueRef::from_any_value(pair.value).ok()?);
        Some(field)
    };
    plain().unwrap_or_else(|| entry.raw.to_vec())
}

impl<'a> SparseView<'a> {
    /// The string of `row`; empty when it has none.
    pub fn get(&self, row: u32) -> &'a [u8] {
        self.rows.binary_search(&row).map_or(&[], |at| self.text.get(at))
    }
}

impl CountsView<'_> {
    /// The number of `row`, 0 when it has none.
    pub fn get(&self, row: u32) -> u32 {
        self.rows
            .binary_search(&row)
            .ok()
            .and_then(|at| self.counts.get(at).copied())
            .unwrap_or(0)
    }
}

impl<'a> AttributeView<'a> {
    /// The rows that have a value, ascending.
    pub fn rows(&self) -> &'a [u32] {
        match self.column.rows {
            Rows::Sparse(rows) => rows,
            Rows::All => &[],
        }
    }

    /// The value of `row`, if it has one.
    pub fn value(&self, row: u32) -> Option<ValueRef<'a>> {
        let at = self.rows().binary_search(&row).ok()?;
        value_at(&self.column.values, at)
    }
}

/// Value `at` of a column of attributes.
pub(crate) fn value_at<'a>(values: &Values<'a>, at: usize) -> Option<ValueRef<'a>> {
    Some(match values {
        Values::Dict {
            ids,
            dict: DictView::Bytes { offsets, bytes },
        } => ValueRef::String(slice_at(offsets, bytes, *ids.get(at)? as usize)),
        Values::Bytes { offsets, bytes } => ValueRef::String(slice_at(offsets, bytes, at)),
        Values::Raw { offsets, bytes } => ValueRef::Raw(slice_at(offsets, bytes, at)),
        Values::Int(values) => ValueRef::Int(*values.get(at)?),
        Values::Double(values) => ValueRef::Double(*values.get(at)?),
        Values::Bool(values) => ValueRef::Bool(*values.get(at)?),
        Values::Dict {
            dict: DictView::Values(_),
            ..
        }
        | Values::Fixed8(_)
        | Values::Fixed16(_) => return None,
    })
}

/// Owned byte strings end to end.
#[derive(Debug, Clone)]
pub struct Text {
    /// Where string `i` starts; one entry more than there are strings.
    pub offsets: Vec<u32>,
    /// The strings.
    pub bytes: Vec<u8>,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            offsets: vec![0],
            bytes: Vec::new(),
        }
    }
}

impl Text {
    /// Adds a string.
    pub fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.offsets
            .push(u32::try_from(self.bytes.len()).expect("a row group's text is bounded far below 4 GiB"));
    }

    /// Borrows it.
    pub fn view(&self) -> TextView<'_> {
        TextView {
            offsets: &self.offsets,
            bytes: &self.bytes,
        }
    }
}

/// Owned byte strings of some rows.
#[derive(Debug, Clone, Default)]
pub struct Sparse {
    /// Which rows, ascending.
    pub rows: Vec<u32>,
    /// Their strings.
    pub text: Text,
}

impl Sparse {
    /// Borrows it.
    pub fn view(&self) -> SparseView<'_> {
        SparseView {
            rows: &self.rows,
            text: self.text.view(),
        }
    }
}

/// One owned attribute column. Its rows are always listed.
#[derive(Debug, Clone)]
pub struct Attribute {
    /// Which attribute.
    pub key: AttributeKey,
    /// Rows and values.
    pub column: Column,
}

/// Rows decoded from a row group: a few rows of one trace, or all of it.
#[derive(Debug, Clone)]
pub struct SpanRows {
    pub(crate) traces: Vec<TraceId>,
    pub(crate) trace: Vec<u32>,
    pub(crate) span_id: Vec<[u8; 8]>,
    pub(crate) parent_span_id: Vec<[u8; 8]>,
    pub(crate) start: Vec<u64>,
    pub(crate) duration: Vec<i64>,
    pub(crate) kind: Vec<u8>,
    pub(crate) status: Vec<u8>,
    pub(crate) flags: Vec<u32>,
    pub(crate) name: Vec<u32>,
    pub(crate) names: Text,
    pub(crate) resource: Vec<u32>,
    pub(crate) scope: Vec<u32>,
    pub(crate) owners: Arc<Owners>,
    pub(crate) trace_state: Sparse,
    pub(crate) status_message: Sparse,
    pub(crate) events: Sparse,
    pub(crate) links: Sparse,
    pub(crate) extra: Sparse,
    pub(crate) tail: Sparse,
    pub(crate) dropped: [(Vec<u32>, Vec<u32>); 3],
    pub(crate) attributes: Vec<Attribute>,
}

/// Resources and instrumentation scopes of one section, as owner blobs ([`model::table::read_owner`]).
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// By resource id.
    pub resources: Text,
    /// By scope id.
    pub scopes: Text,
}

impl SpanRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.trace.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.trace.is_empty()
    }

    /// The owner blob of the row's resource.
    pub fn resource(&self, row: u32) -> &[u8] {
        self.owners.resources.view().get(self.resource[row as usize] as usize)
    }

    /// The owner blob of the row's instrumentation scope.
    pub fn scope(&self, row: u32) -> &[u8] {
        self.owners.scopes.view().get(self.scope[row as usize] as usize)
    }

    /// The row's trace.
    pub fn trace_id(&self, row: u32) -> TraceId {
        self.traces[self.trace[row as usize] as usize]
    }

    /// Writes `row` as an OTLP `Span` message.
    pub fn write_span(&self, row: u32, out: &mut Vec<u8>) {
        self.view().write_span(row, out);
    }

    /// Appends every row to a live table, as if it had just arrived.
    pub fn append_to(&self, table: &mut SpanTable) -> crate::Result<()> {
        let view = self.view();
        let (mut resources, mut scopes) = (Ids::default(), Ids::default());
        let mut span = Vec::new();
        for row in 0..self.len() as u32 {
            let resource = resources.of(self.resource[row as usize], self.resource(row), |m, u| {
                table.intern_resource(m, u)
            })?;
            let scope = scopes.of(self.scope[row as usize], self.scope(row), |m, u| {
                table.intern_scope(m, u)
            })?;
            span.clear();
            view.write_span(row, &mut span);
            table.append(resource, scope, &span).map_err(crate::Error::Model)?;
        }
        Ok(())
    }

    /// Borrows them.
    pub fn view(&self) -> RowsView<'_> {
        let counts = |(rows, counts): &'_ (Vec<u32>, Vec<u32>)| -> (usize, usize) { (rows.len(), counts.len()) };
        debug_assert!(self.dropped.iter().all(|d| counts(d).0 == counts(d).1));
        RowsView {
            traces: &self.traces,
            trace: &self.trace,
            span_id: &self.span_id,
            parent_span_id: &self.parent_span_id,
            start: &self.start,
            duration: &self.duration,
            kind: &self.kind,
            status: &self.status,
            flags: &self.flags,
            name: &self.name,
            names: self.names.view(),
            resource: &self.resource,
            resources: self.owners.resources.view(),
            scope: &self.scope,
            scopes: self.owners.scopes.view(),
            trace_state: self.trace_state.view(),
            status_message: self.status_message.view(),
            events: self.events.view(),
            links: self.links.view(),
            extra: self.extra.view(),
            tail: self.tail.view(),
            dropped: [0, 1, 2].map(|i| CountsView {
                rows: &self.dropped[i].0,
                counts: &self.dropped[i].1,
            }),
            attributes: self
                .attributes
                .iter()
                .map(|a| AttributeView {
                    key: &a.key.key,
                    value_type: a.key.value_type,
                    column: a.column.view(),
                })
                .collect(),
        }
    }

    /// Moves the values of `wanted` out of the tail into columns of their own, because the block being written has such
    /// columns.
    pub(crate) fn expand_tail(&mut self, wanted: &dyn Fn(&[u8], ValueType) -> bool) -> crate::Result<()> {
        if self.tail.rows.is_empty() {
            return Ok(());
        }
        let bad = crate::Error::Model;
        let mut columns: Vec<(AttributeKey, Builder)> = Vec::new();
        let mut rest = Sparse::default();
        let view = self.tail.view();
        for (at, &row) in view.rows.iter().enumerate() {
            let mut left: Vec<u8> = Vec::new();
            let mut fields = model::proto::Fields::new(view.text.get(at));
            while let Some(entry) = fields.next_field().map_err(bad)? {
                let pair = otlp::read_key_value(entry.bytes().map_err(bad)?).map_err(bad)?;
                let (key, value) = (pair.key, ValueRef::from_any_value(pair.value).map_err(bad)?);
                let value_type = ValueType::of(value);
                let is_column = pair.is_plain
                    && wanted(key, value_type)
                    && !self
                        .attributes
                        .iter()
                        .any(|a| *a.key.key == *key && a.key.value_type == value_type);
                if is_column {
                    let place = columns
                        .iter()
                        .position(|(k, _)| *k.key == *key && k.value_type == value_type);
                    let place = place.unwrap_or_else(|| {
                        columns.push((AttributeKey::new(key, value_type), Builder::new(value_type)));
                        columns.len() - 1
                    });
                    if columns[place].1.push(row, value) {
                        continue;
                    }
                }
                left.extend_from_slice(entry.raw);
            }
            if !left.is_empty() {
                rest.rows.push(row);
                rest.text.push(&left);
            }
        }
        self.tail = rest;
        self.attributes.extend(columns.into_iter().map(|(key, b)| Attribute {
            key,
            column: b.finish(),
        }));
        Ok(())
    }
}

/// Remembers what a foreign id became.
#[derive(Default)]
struct Ids(Vec<Option<u32>>);

impl Ids {
    fn of(&mut self, id: u32, blob: &[u8], intern: impl FnOnce(Option<&[u8]>, &[u8]) -> u32) -> crate::Result<u32> {
        let at = id as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        if let Some(known) = self.0[at] {
            return Ok(known);
        }
        let (message, url) = model::table::read_owner(blob).map_err(crate::Error::Model)?;
        let new = intern(message, url);
        self.0[at] = Some(new);
        Ok(new)
    }
}

/// Collects one sparse attribute column value by value. Text is interned: a key that fell into the tail of one block
/// may be frequent, and few-valued, in the block it is merged into.
#[derive(Debug)]
pub(crate) struct Builder {
    rows: Vec<u32>,
    values: Building,
}

#[derive(Debug)]
enum Building {
    String {
        ids: Vec<u32>,
        dict: model::table::Interner,
    },
    Int(Vec<i64>),
    Double(Vec<f64>),
    Bool(Vec<bool>),
    Raw(Text),
}

impl Builder {
    pub(crate) fn new(value_type: ValueType) -> Self {
        let values = match value_type {
            ValueType::String => Building::String {
                ids: Vec::new(),
                dict: model::table::Interner::default(),
            },
            ValueType::Int => Building::Int(Vec::new()),
            ValueType::Double => Building::Double(Vec::new()),
            ValueType::Bool => Building::Bool(Vec::new()),
            ValueType::Raw => Building::Raw(Text::default()),
        };
        Self {
            rows: Vec::new(),
            values,
        }
    }

    /// Adds the value of `row`; no when that row has one already or the type differs.
    pub(crate) fn push(&mut self, row: u32, value: ValueRef<'_>) -> bool {
        if self.rows.last() == Some(&row) {
            return false;
        }
        match (&mut self.values, value) {
            (Building::String { ids, dict }, ValueRef::String(v)) => ids.push(dict.intern(v)),
            (Building::Raw(text), ValueRef::Raw(v)) => text.push(v),
            (Building::Int(values), ValueRef::Int(v)) => values.push(v),
            (Building::Double(values), ValueRef::Double(v)) => values.push(v),
            (Building::Bool(values), ValueRef::Bool(v)) => values.push(v),
            _ => return false,
        }
        self.rows.push(row);
        true
    }

    pub(crate) fn finish(self) -> Column {
        let values = match self.values {
            Building::String { ids, dict } => {
                let (offsets, bytes) = (dict.offsets().to_vec(), dict.bytes().to_vec());
                OwnedValues::Dict {
                    ids,
                    dict: Arc::new(Dict::Bytes { offsets, bytes }),
                }
            }
            Building::Int(values) => OwnedValues::Int(values),
            Building::Double(values) => OwnedValues::Double(values),
            Building::Bool(values) => OwnedValues::Bool(values),
            Building::Raw(Text { offsets, bytes }) => OwnedValues::Raw { offsets, bytes },
        };
        Column {
            rows: Some(self.rows),
            values,
        }
    }
}
