//! Chunks: what queries scan. Here `block` and `query` are introduced to each other, and the head to both.
//!
//! A [`TableChunk`] shows a live table, or a table into which the pieces of split traces were brought together, as the
//! query crate wants to see it. Dense columns and attribute columns are borrowed as they stand; what is nested is gathered
//! for the query that asks.

pub mod nested;
pub mod row_group;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use model::column::{Column, ColumnCow, ColumnView, DictView, OwnedValues, Rows, Values};
use model::proto::Malformed;
use model::{Scope, SpanTable, ValueType};
use query::source::{Chunk, ColumnRef, TimeRange, TraceRows};
use query::value::Static;

use self::nested::{Nested, OwnerField, RawRows};

/// Where `Resource` keeps its attributes.
const RESOURCE_ATTRIBUTES: u32 = 1;
/// Where `InstrumentationScope` keeps its attributes.
const SCOPE_ATTRIBUTES: u32 = 3;
const SCOPE_NAME: u32 = 1;
const SCOPE_VERSION: u32 = 2;

const VALUE_TYPES: [ValueType; 5] = [
    ValueType::String,
    ValueType::Int,
    ValueType::Double,
    ValueType::Bool,
    ValueType::Raw,
];

/// A table as queries see it.
#[derive(Debug, Clone, Copy)]
pub struct TableChunk<'a> {
    table: &'a SpanTable,
}

impl<'a> TableChunk<'a> {
    /// Shows `table`, which must not change meanwhile.
    pub fn new(table: &'a SpanTable) -> Self {
        Self { table }
    }

    fn gathered(&self, column: &ColumnRef) -> Result<Vec<Column>, Malformed> {
        let table = self.table;
        let all = |values| vec![Column { rows: None, values }];
        Ok(match column {
            ColumnRef::Kind => all(OwnedValues::Int(
                table.kind().iter().map(|kind| i64::from(*kind)).collect(),
            )),
            ColumnRef::Status => {
                let codes = table.status().iter().map(|status| i64::from(status.saturating_sub(1)));
                all(OwnedValues::Int(codes.collect()))
            }
            ColumnRef::Start => all(OwnedValues::Int(
                table
                    .start_unix_nanos()
                    .iter()
                    .map(|start| start.cast_signed())
                    .collect(),
            )),
            ColumnRef::EventName => vec![nested::event_names(self.events())?],
            ColumnRef::EventTimeSinceStart => {
                let starts = table.start_unix_nanos();
                vec![nested::event_times(self.events(), |row| {
                    starts.get(row as usize).copied().unwrap_or(0)
                })?]
            }
            ColumnRef::LinkTraceId => vec![nested::link_trace_ids(self.links())?],
            ColumnRef::LinkSpanId => vec![nested::link_span_ids(self.links())?],
            ColumnRef::InstrumentationName => self.scope_column(OwnerField::Text(SCOPE_NAME))?,
            ColumnRef::InstrumentationVersion => self.scope_column(OwnerField::Text(SCOPE_VERSION))?,
            ColumnRef::Attribute(Scope::Span, key) => nested::tail_attribute(self.tail(), key.as_bytes())?,
            ColumnRef::Attribute(Scope::Event, key) => {
                nested::nested_attribute(self.events(), Nested::Events, key.as_bytes())?
            }
            ColumnRef::Attribute(Scope::Link, key) => {
                nested::nested_attribute(self.links(), Nested::Links, key.as_bytes())?
            }
            ColumnRef::Attribute(Scope::Resource, key) => {
                let wanted = OwnerField::Attribute {
                    number: RESOURCE_ATTRIBUTES,
                    key: key.as_bytes(),
                };
                let values = nested::owner_values(interned(table.resources()), wanted)?;
                nested::owner_column(table.resource().to_vec(), values)
                    .into_iter()
                    .collect()
            }
            ColumnRef::Attribute(Scope::Instrumentation, key) => self.scope_column(OwnerField::Attribute {
                number: SCOPE_ATTRIBUTES,
                key: key.as_bytes(),
            })?,
            ColumnRef::Name
            | ColumnRef::StatusMessage
            | ColumnRef::Duration
            | ColumnRef::TraceState
            | ColumnRef::SpanId
            | ColumnRef::ParentSpanId
            | ColumnRef::TraceId => Vec::new(),
        })
    }

    fn borrowed(&self, column: &ColumnRef) -> Vec<ColumnView<'a>> {
        let table = self.table;
        let all = |values| {
            vec![ColumnView {
                rows: Rows::All,
                values,
            }]
        };
        match column {
            ColumnRef::Name => all(Values::Dict {
                ids: table.name(),
                dict: table.names().view(),
            }),
            ColumnRef::Duration => all(Values::Int(table.duration_nanos())),
            ColumnRef::SpanId => all(Values::Fixed8(table.span_id())),
            ColumnRef::ParentSpanId => all(Values::Fixed8(table.parent_span_id())),
            ColumnRef::StatusMessage | ColumnRef::TraceState => {
                let text = match column {
                    ColumnRef::TraceState => table.trace_state(),
                    _ => table.status_message(),
                };
                let values = Values::Bytes {
                    offsets: text.offsets(),
                    bytes: text.bytes(),
                };
                vec![ColumnView {
                    rows: Rows::Sparse(text.rows()),
                    values,
                }]
            }
            ColumnRef::Attribute(Scope::Span, key) => {
                let columns = VALUE_TYPES
                    .iter()
                    .filter_map(|kind| table.attribute(key.as_bytes(), *kind));
                columns.map(|column| column.view()).collect()
            }
            _ => Vec::new(),
        }
    }

    fn scope_column(&self, wanted: OwnerField<'_>) -> Result<Vec<Column>, Malformed> {
        let values = nested::owner_values(interned(self.table.scopes()), wanted)?;
        Ok(nested::owner_column(self.table.scope().to_vec(), values)
            .into_iter()
            .collect())
    }

    fn events(&self) -> RawRows<'a> {
        raw_rows(self.table.events())
    }

    fn links(&self) -> RawRows<'a> {
        raw_rows(self.table.links())
    }

    fn tail(&self) -> RawRows<'a> {
        raw_rows(self.table.tail())
    }
}

fn raw_rows(column: &model::table::SparseBytes) -> RawRows<'_> {
    RawRows {
        rows: column.rows(),
        offsets: column.offsets(),
        bytes: column.bytes(),
    }
}

fn interned(interner: &model::table::Interner) -> impl Iterator<Item = &[u8]> {
    let DictView::Bytes { offsets, bytes } = interner.view() else {
        unreachable!("an interner shows bytes")
    };
    (0..interner.len()).map(move |id| model::column::slice_at(offsets, bytes, id))
}

/// A span's bytes contradict themselves although they passed the door: the log or a block is damaged.
pub(crate) fn corrupt(what: &str, error: Malformed) -> query::Error {
    query::Error::Source {
        what: what.to_owned(),
        corrupt: true,
        source: Box::new(error),
    }
}

impl Chunk for TableChunk<'_> {
    fn row_count(&self) -> usize {
        self.table.len()
    }

    fn time_range(&self) -> TimeRange {
        TimeRange {
            start_unix_nanos: self.table.min_start_unix_nanos(),
            end_unix_nanos: self.table.max_end_unix_nanos(),
        }
    }

    fn traces(&self) -> query::Result<TraceRows<'_>> {
        Ok(TraceRows {
            ordinals: self.table.trace(),
            ids: self.table.traces(),
            in_preorder: false,
        })
    }

    fn columns(&self, column: &ColumnRef) -> query::Result<Vec<ColumnCow<'_>>> {
        let borrowed = self.borrowed(column).into_iter().map(ColumnCow::Borrowed);
        let gathered = self.gathered(column).map_err(|error| corrupt("live spans", error))?;
        Ok(borrowed
            .chain(gathered.into_iter().map(|column| ColumnCow::Owned(Arc::new(column))))
            .collect())
    }

    fn may_contain(&self, column: &ColumnRef, value: &Static) -> bool {
        let Static::Str(text) = value else { return true };
        match column {
            ColumnRef::Name => self.table.names().find(text.as_bytes()).is_some(),
            ColumnRef::TraceId => model::TraceId::parse_hex(text).is_none_or(|id| self.table.find_trace(&id).is_some()),
            _ => true,
        }
    }

    fn attribute_keys(&self, scope: Scope) -> query::Result<Vec<Arc<str>>> {
        let keys = match scope {
            Scope::Span => nested::tail_keys(self.tail()).map(|mut keys| {
                let columns = self
                    .table
                    .attributes()
                    .iter()
                    .filter(|column| !column.rows().is_empty());
                keys.extend(columns.filter_map(|column| std::str::from_utf8(column.key()).ok().map(Arc::from)));
                keys.sort_unstable();
                keys.dedup();
                keys
            }),
            Scope::Resource => nested::owner_keys(interned(self.table.resources()), RESOURCE_ATTRIBUTES),
            Scope::Instrumentation => nested::owner_keys(interned(self.table.scopes()), SCOPE_ATTRIBUTES),
            Scope::Event => nested::nested_keys(self.events(), Nested::Events),
            Scope::Link => nested::nested_keys(self.links(), Nested::Links),
        };
        keys.map_err(|error| corrupt("live spans", error))
    }
}
