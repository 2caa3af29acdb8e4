//! The simplest storage side: spans in memory, columns made when asked for.
//!
//! The physical form of a column is varied by its name, so that all forms the trait allows are read somewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::column::{Column, ColumnCow, Dict, NULL_ID, OwnedValues};
use model::{Scope, TraceId, Value};
use query::Result;
use query::source::{Chunk, ColumnRef, Preorder, TimeRange, TraceRows};
use query::value::Static;

use crate::naive::parents;
use crate::spans::{Span, span_id, trace_id};

pub(crate) struct MemoryChunk {
    spans: Vec<Span>,
    ordinals: Vec<u32>,
    ids: Vec<TraceId>,
    preorder: Option<(Vec<u32>, Vec<u32>)>,
    /// Whether `may_contain` answers from the data, as a perfect bloom filter would.
    pub(crate) knows_values: bool,
}

impl MemoryChunk {
    /// Spans as they come, as in a head.
    pub(crate) fn arrival(spans: Vec<Span>) -> MemoryChunk {
        let mut ids = Vec::new();
        let mut ordinals = Vec::new();
        for span in &spans {
            let id = trace_id(span.trace);
            let ordinal = ids.iter().position(|known| *known == id).unwrap_or_else(|| {
                ids.push(id);
                ids.len() - 1
            });
            ordinals.push(ordinal as u32);
        }
        MemoryChunk {
            spans,
            ordinals,
            ids,
            preorder: None,
            knows_values: true,
        }
    }

    /// Trace and span of a row.
    pub(crate) fn ids(&self, row: u32) -> (u8, u8) {
        let span = &self.spans[row as usize];
        (span.trace, span.id)
    }

    /// Spans sorted by trace and depth first, as in a block.
    pub(crate) fn preorder(mut spans: Vec<Span>) -> MemoryChunk {
        spans.sort_by_key(|span| (span.trace, span.start, span.id));
        let mut traces: BTreeMap<u8, Vec<Span>> = BTreeMap::new();
        spans
            .into_iter()
            .for_each(|span| traces.entry(span.trace).or_default().push(span));
        let (mut sorted, mut descendants, mut distances) = (Vec::new(), Vec::new(), Vec::new());
        for spans in traces.into_values() {
            let parents = parents(&spans);
            for top in (0..spans.len()).filter(|at| parents[*at].is_none()) {
                place(
                    &spans,
                    &parents,
                    top,
                    None,
                    &mut sorted,
                    &mut descendants,
                    &mut distances,
                );
            }
        }
        let mut chunk = MemoryChunk::arrival(sorted);
        chunk.preorder = Some((descendants, distances));
        chunk
    }

    fn sparse(&self, values: Vec<(u32, Value)>, salt: usize) -> Vec<Column> {
        let mut forms: BTreeMap<u8, Vec<(u32, Value)>> = BTreeMap::new();
        for (row, value) in values {
            let form = match &value {
                Value::String(_) => 0,
                Value::Int(_) => 1,
                Value::Double(_) => 2,
                Value::Bool(_) => 3,
                _ => 4,
            };
            forms.entry(form).or_default().push((row, value));
        }
        forms.into_values().map(|values| column(values, salt)).collect()
    }

    fn scope_columns(&self, scope: Scope, key: &str) -> Vec<Column> {
        match scope {
            Scope::Resource | Scope::Instrumentation => {
                let mut owners: Vec<Option<Value>> = Vec::new();
                let mut ids = Vec::new();
                for span in &self.spans {
                    let value = span.in_scope(scope, key).first().map(|v| (*v).clone());
                    let id = owners.iter().position(|known| *known == value).unwrap_or_else(|| {
                        owners.push(value);
                        owners.len() - 1
                    });
                    ids.push(id as u32);
                }
                if owners.iter().all(Option::is_none) {
                    return Vec::new();
                }
                let dict = Arc::new(Dict::Values(owners));
                vec![Column {
                    rows: None,
                    values: OwnedValues::Dict { ids, dict },
                }]
            }
            _ => {
                let mut values = Vec::new();
                for (row, span) in self.spans.iter().enumerate() {
                    for value in span.in_scope(scope, key) {
                        match value {
                            // Arrays may also stand as rows that repeat.
                            Value::Array(items) if scope == Scope::Span && key.len().is_multiple_of(2) => {
                                values.extend(items.iter().map(|item| (row as u32, item.clone())));
                            }
                            value => values.push((row as u32, value.clone())),
                        }
                    }
                }
                self.sparse(values, key.len())
            }
        }
    }

    fn texts(&self, text: impl Fn(&Span) -> &str, salt: usize) -> Vec<Column> {
        let values = self
            .spans
            .iter()
            .enumerate()
            .map(|(row, s)| (row as u32, Value::String(text(s).to_owned())));
        let mut column = column(values.collect(), salt);
        column.rows = None;
        vec![column]
    }

    fn ints(&self, value: impl Fn(&Span) -> i64) -> Vec<Column> {
        vec![Column {
            rows: None,
            values: OwnedValues::Int(self.spans.iter().map(value).collect()),
        }]
    }
}

fn place(
    spans: &[Span],
    parents: &[Option<usize>],
    at: usize,
    parent_place: Option<usize>,
    sorted: &mut Vec<Span>,
    descendants: &mut Vec<u32>,
    distances: &mut Vec<u32>,
) {
    let here = sorted.len();
    sorted.push(spans[at].clone());
    descendants.push(0);
    distances.push(parent_place.map_or(0, |parent| (here - parent) as u32));
    for child in 0..spans.len() {
        if parents[child] == Some(at) {
            place(spans, parents, child, Some(here), sorted, descendants, distances);
        }
    }
    descendants[here] = (sorted.len() - here - 1) as u32;
}

/// A sparse column of values of one type; text becomes a dictionary or not by `salt`.
fn column(values: Vec<(u32, Value)>, salt: usize) -> Column {
    let rows = values.iter().map(|(row, _)| *row).collect();
    let bytes_of = |value: &Value| match value {
        Value::String(text) => text.clone().into_bytes(),
        other => {
            let mut out = Vec::new();
            other.write_any_value(&mut out);
            out
        }
    };
    let pack = |items: &[Vec<u8>]| {
        let (mut offsets, mut bytes) = (vec![0u32], Vec::new());
        for item in items {
            bytes.extend_from_slice(item);
            offsets.push(bytes.len() as u32);
        }
        (offsets, bytes)
    };
    let values: Vec<Value> = values.into_iter().map(|(_, value)| value).collect();
    let values = match values.first() {
        Some(Value::Int(_)) => OwnedValues::Int(
            values
                .iter()
                .map(|v| if let Value::Int(v) = v { *v } else { 0 })
                .collect(),
        ),
        Some(Value::Double(_)) => OwnedValues::Double(
            values
                .iter()
                .map(|v| if let Value::Double(v) = v { *v } else { 0.0 })
                .collect(),
        ),
        Some(Value::Bool(_)) => OwnedValues::Bool(values.iter().map(|v| matches!(v, Value::Bool(true))).collect()),
        Some(Value::String(_)) if salt.is_multiple_of(2) => {
            let mut distinct: Vec<Vec<u8>> = Vec::new();
            let mut ids = Vec::new();
            for value in &values {
                let bytes = bytes_of(value);
                let id = distinct.iter().position(|known| *known == bytes).unwrap_or_else(|| {
                    distinct.push(bytes);
                    distinct.len() - 1
                });
                ids.push(id as u32);
            }
            let (offsets, bytes) = pack(&distinct);
            OwnedValues::Dict {
                ids,
                dict: Arc::new(Dict::Bytes { offsets, bytes }),
            }
        }
        Some(Value::String(_)) => {
            let (offsets, bytes) = pack(&values.iter().map(bytes_of).collect::<Vec<_>>());
            OwnedValues::Bytes { offsets, bytes }
        }
        _ => {
            let (offsets, bytes) = pack(&values.iter().map(bytes_of).collect::<Vec<_>>());
            OwnedValues::Raw { offsets, bytes }
        }
    };
    Column {
        rows: Some(rows),
        values,
    }
}

impl Chunk for MemoryChunk {
    fn row_count(&self) -> usize {
        self.spans.len()
    }

    fn time_range(&self) -> TimeRange {
        TimeRange {
            start_unix_nanos: self.spans.iter().map(|s| s.start).min().unwrap_or(u64::MAX),
            end_unix_nanos: self.spans.iter().map(Span::end).max().unwrap_or(0),
        }
    }

    fn traces(&self) -> Result<TraceRows<'_>> {
        Ok(TraceRows {
            ordinals: &self.ordinals,
            ids: &self.ids,
            in_preorder: self.preorder.is_some(),
        })
    }

    fn preorder(&self) -> Result<Option<Preorder<'_>>> {
        let preorder = self.preorder.as_ref();
        Ok(preorder.map(|(descendants, parent_distance)| Preorder {
            descendants,
            parent_distance,
        }))
    }

    fn columns(&self, column_ref: &ColumnRef) -> Result<Vec<ColumnCow<'_>>> {
        let columns = match column_ref {
            ColumnRef::Name => self.texts(|s| &s.name, 0),
            ColumnRef::StatusMessage => {
                let with_text = self.spans.iter().enumerate().filter(|(_, s)| !s.message.is_empty());
                self.sparse(
                    with_text
                        .map(|(row, s)| (row as u32, Value::String(s.message.clone())))
                        .collect(),
                    1,
                )
            }
            // The tests write it like an attribute.
            ColumnRef::TraceState => {
                let said = self.spans.iter().enumerate().filter_map(|(row, span)| {
                    let said = span.attributes.iter().find(|(key, _)| key == "tracestate");
                    said.map(|(_, value)| (row as u32, value.clone()))
                });
                self.sparse(said.collect(), 1)
            }
            ColumnRef::InstrumentationName => self.texts(|s| &s.library.0, 0),
            ColumnRef::InstrumentationVersion => self.texts(|s| &s.library.1, 1),
            ColumnRef::Kind => self.ints(|s| s.kind),
            ColumnRef::Status => {
                let dict = Arc::new(Dict::Values(vec![
                    Some(Value::Int(1)),
                    Some(Value::Int(2)),
                    Some(Value::Int(0)),
                ]));
                let id = |s: &Span| match s.status {
                    1 => 0,
                    2 => 1,
                    _ if s.id.is_multiple_of(2) => 2,
                    _ => NULL_ID,
                };
                let ids = self.spans.iter().map(id).collect();
                vec![Column {
                    rows: None,
                    values: OwnedValues::Dict { ids, dict },
                }]
            }
            ColumnRef::Start => self.ints(|s| s.start.cast_signed()),
            ColumnRef::Duration => self.ints(|s| s.duration),
            ColumnRef::SpanId => {
                let ids = self.spans.iter().map(|s| span_id(s.id).0).collect();
                vec![Column {
                    rows: None,
                    values: OwnedValues::Fixed8(ids),
                }]
            }
            ColumnRef::ParentSpanId => match &self.preorder {
                None => {
                    let ids = self.spans.iter().map(|s| span_id(s.parent).0).collect();
                    vec![Column {
                        rows: None,
                        values: OwnedValues::Fixed8(ids),
                    }]
                }
                // As in a block: only where it cannot be told from the tree.
                Some((_, distances)) => {
                    let rows: Vec<u32> = (0..self.spans.len() as u32)
                        .filter(|row| distances[*row as usize] == 0 && self.spans[*row as usize].parent != 0)
                        .collect();
                    let ids = rows
                        .iter()
                        .map(|row| span_id(self.spans[*row as usize].parent).0)
                        .collect();
                    vec![Column {
                        rows: Some(rows),
                        values: OwnedValues::Fixed8(ids),
                    }]
                }
            },
            ColumnRef::EventName => {
                let names = self.spans.iter().enumerate().flat_map(|(row, s)| {
                    s.events
                        .iter()
                        .map(move |e| (row as u32, Value::String(e.name.clone())))
                });
                self.sparse(names.collect(), 0)
            }
            ColumnRef::EventTimeSinceStart => {
                let times = self
                    .spans
                    .iter()
                    .enumerate()
                    .flat_map(|(row, s)| s.events.iter().map(move |e| (row as u32, Value::Int(e.since_start))));
                self.sparse(times.collect(), 0)
            }
            ColumnRef::LinkTraceId | ColumnRef::LinkSpanId => {
                let links = || {
                    self.spans
                        .iter()
                        .enumerate()
                        .flat_map(|(row, s)| s.links.iter().map(move |l| (row as u32, l)))
                };
                let rows = Some(links().map(|(row, _)| row).collect());
                let values = match column_ref {
                    ColumnRef::LinkTraceId => OwnedValues::Fixed16(links().map(|(_, l)| trace_id(l.trace).0).collect()),
                    _ => OwnedValues::Fixed8(links().map(|(_, l)| span_id(l.span).0).collect()),
                };
                vec![Column { rows, values }]
            }
            ColumnRef::Attribute(scope, key) => self.scope_columns(*scope, key),
            ColumnRef::TraceId => Vec::new(),
        };
        Ok(columns
            .into_iter()
            .map(|column| ColumnCow::Owned(Arc::new(column)))
            .collect())
    }

    /// Answers rubbish for rows that were not asked for, as the trait allows.
    fn columns_at(&self, column: &ColumnRef, rows: &[u32]) -> Result<Vec<ColumnCow<'_>>> {
        assert!(
            rows.windows(2).all(|pair| pair[0] < pair[1]),
            "rows ascend without repeats"
        );
        let spoil = |owned: &mut Column| {
            if let (None, OwnedValues::Dict { ids, .. }) = (&owned.rows, &mut owned.values) {
                let wanted = |row: usize| rows.binary_search(&(row as u32)).is_ok();
                ids.iter_mut()
                    .enumerate()
                    .filter(|(row, _)| !wanted(*row))
                    .for_each(|(_, id)| *id = NULL_ID);
            }
        };
        let mut columns = self.columns(column)?;
        for column in &mut columns {
            if let ColumnCow::Owned(owned) = column {
                spoil(Arc::make_mut(owned));
            }
        }
        Ok(columns)
    }

    fn may_contain(&self, column: &ColumnRef, value: &Static) -> bool {
        if !self.knows_values {
            return true;
        }
        match (column, value) {
            (ColumnRef::TraceId, Static::Str(text)) => self.ids.iter().any(|id| id.to_string() == **text),
            (ColumnRef::SpanId, Static::Str(text)) => self.spans.iter().any(|s| span_id(s.id).to_string() == **text),
            (ColumnRef::Attribute(scope, key), Static::Str(text)) => self
                .spans
                .iter()
                .flat_map(|s| s.in_scope(*scope, key))
                .any(|v| matches!(v, Value::Array(_)) || *v == Value::String(text.to_string())),
            _ => true,
        }
    }

    fn attribute_keys(&self, scope: Scope) -> Result<Vec<Arc<str>>> {
        let mut keys: Vec<Arc<str>> = Vec::new();
        for span in &self.spans {
            let lists: Vec<&Vec<(String, Value)>> = match scope {
                Scope::Span => vec![&span.attributes],
                Scope::Resource => vec![&span.resource],
                Scope::Instrumentation => vec![&span.library_attributes],
                Scope::Event => span.events.iter().map(|e| &e.attributes).collect(),
                Scope::Link => span.links.iter().map(|l| &l.attributes).collect(),
            };
            for (key, _) in lists.into_iter().flatten() {
                if !keys.iter().any(|known| **known == **key) {
                    keys.push(key.as_str().into());
                }
            }
        }
        Ok(keys)
    }
}
