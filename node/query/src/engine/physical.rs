//! Values as they stand in columns, turned into the language's values.

use std::rc::Rc;

use model::column::{ColumnCow, ColumnView, DictView, NULL_ID, Rows, Values, slice_at};
use model::{SpanId, TraceId, Value};

use crate::value::{SpanKind, Static, Status};

/// The physical columns of one [`crate::source::ColumnRef`], kept for the time a chunk is looked at.
pub(crate) type Physical<'c> = Rc<Vec<ColumnCow<'c>>>;

/// What the numbers in a column mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Themselves.
    #[default]
    Plain,
    /// Nanoseconds, negative read as 0.
    Duration,
    /// Nanoseconds of either sign.
    SignedDuration,
    /// OTLP status codes.
    Status,
    /// OTLP span kinds.
    Kind,
}

impl Meaning {
    pub(crate) fn of_int(self, value: i64) -> Static {
        match self {
            Meaning::Plain => Static::Int(value),
            Meaning::Duration => Static::Duration(value.max(0)),
            Meaning::SignedDuration => Static::Duration(value),
            Meaning::Status => Static::Status(Status::from_code(value)),
            Meaning::Kind => Static::Kind(SpanKind::from_code(value)),
        }
    }
}

/// The positions of `row` among a view's values.
pub(crate) fn positions(view: &ColumnView<'_>, row: u32) -> std::ops::Range<usize> {
    match view.rows {
        Rows::All => {
            let at = row as usize;
            if at < view.values.len() { at..at + 1 } else { 0..0 }
        }
        Rows::Sparse(rows) => {
            let first = rows.partition_point(|r| *r < row);
            let count = rows[first..].iter().take_while(|r| **r == row).count();
            first..first + count
        }
    }
}

/// The value at a position; nil for a null.
pub(crate) fn value_at(values: &Values<'_>, at: usize, meaning: Meaning) -> Static {
    match values {
        Values::Dict { ids, dict } => match ids.get(at) {
            Some(&NULL_ID) | None => Static::Nil,
            Some(id) => dict_value(dict, *id as usize, meaning),
        },
        Values::Bytes { offsets, bytes } => text(slice_at(offsets, bytes, at)),
        Values::Int(values) => values.get(at).map_or(Static::Nil, |v| meaning.of_int(*v)),
        Values::Double(values) => values.get(at).map_or(Static::Nil, |v| Static::Float(*v)),
        Values::Bool(values) => values.get(at).map_or(Static::Nil, |v| Static::Bool(*v)),
        Values::Fixed8(values) => values.get(at).map_or(Static::Nil, |id| span_id_value(*id)),
        Values::Fixed16(values) => values
            .get(at)
            .map_or(Static::Nil, |id| Static::str(&TraceId(*id).to_string())),
        Values::Raw { offsets, bytes } => raw_value(slice_at(offsets, bytes, at)),
    }
}

/// Hex of a span id; the zero id is no id.
pub(crate) fn span_id_value(id: [u8; 8]) -> Static {
    if id == [0; 8] {
        Static::Nil
    } else {
        Static::str(&SpanId(id).to_string())
    }
}

pub(crate) fn dict_value(dict: &DictView<'_>, id: usize, meaning: Meaning) -> Static {
    match dict {
        DictView::Bytes { offsets, bytes } => text(slice_at(offsets, bytes, id)),
        DictView::Values(values) => match values.get(id) {
            Some(Some(Value::Int(v))) => meaning.of_int(*v),
            Some(Some(value)) => plain_value(value),
            _ => Static::Nil,
        },
    }
}

fn text(bytes: &[u8]) -> Static {
    Static::Str(String::from_utf8_lossy(bytes).into())
}

/// An `AnyValue` message.
pub(crate) fn raw_value(message: &[u8]) -> Static {
    Value::from_any_value(message).map_or(Static::Nil, |value| plain_value(&value))
}

/// A value as the language sees it: lists of one scalar type are lists, other nested values are their JSON text, bytes
/// are hex text.
pub(crate) fn plain_value(value: &Value) -> Static {
    match value {
        Value::Empty => Static::Nil,
        Value::String(text) => Static::str(text),
        Value::Bool(v) => Static::Bool(*v),
        Value::Int(v) => Static::Int(*v),
        Value::Double(v) => Static::Float(*v),
        Value::Array(items) => {
            let simple: Option<Vec<Static>> = items.iter().map(scalar).collect();
            match simple {
                Some(list) if list.is_empty() => Static::Nil,
                Some(list) if list.iter().all(|item| item.ty() == list[0].ty()) => Static::List(list.into()),
                _ => Static::Str(json(value).into()),
            }
        }
        Value::KvList(_) => Static::Str(json(value).into()),
        Value::Bytes(bytes) => Static::Str(
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                .into(),
        ),
    }
}

fn scalar(value: &Value) -> Option<Static> {
    match value {
        Value::String(_) | Value::Bool(_) | Value::Int(_) | Value::Double(_) => Some(plain_value(value)),
        _ => None,
    }
}

fn json(value: &Value) -> String {
    match value {
        Value::Empty => "null".to_owned(),
        Value::String(text) => Static::str(text).to_string(),
        Value::Bool(v) => v.to_string(),
        Value::Int(v) => v.to_string(),
        Value::Double(v) => v.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(",")),
        Value::KvList(pairs) => {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(k, v)| format!("{}:{}", Static::str(k), json(v)))
                .collect();
            format!("{{{}}}", pairs.join(","))
        }
        Value::Bytes(_) => plain_value(value).to_string(),
    }
}

/// All values of `row` in the columns of one field, as they stand; sorted if they come from several columns, whose order
/// among each other says nothing.
pub(crate) fn row_values(columns: &[ColumnCow<'_>], row: u32, meaning: Meaning) -> Static {
    let mut found: Vec<Static> = Vec::new();
    let mut sources = 0;
    for column in columns {
        let view = column.view();
        let before = found.len();
        for at in positions(&view, row) {
            match value_at(&view.values, at, meaning) {
                Static::Nil => {}
                Static::List(items) => found.extend(items.iter().cloned()),
                value => found.push(value),
            }
        }
        sources += usize::from(found.len() > before);
    }
    if sources > 1 {
        found.sort_by(Static::total_order);
    }
    match found.len() {
        0 => Static::Nil,
        1 => found.remove(0),
        _ => Static::List(found.into()),
    }
}
