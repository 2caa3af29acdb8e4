//! One attribute column of a table: the values of one key and one type, for the rows that have it.

use super::interner::Interner;
use super::sparse::SparseBytes;
use crate::column::{ColumnView, Rows, Values};
use crate::value::ValueRef;

/// The physical type of an attribute column. One key may have several columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ValueType {
    /// UTF-8 text.
    String = 1,
    /// Signed integers.
    Int = 2,
    /// Doubles.
    Double = 3,
    /// Truth values.
    Bool = 4,
    /// Anything nested or empty, as `AnyValue` messages.
    Raw = 5,
}

impl ValueType {
    /// The type a value is stored as.
    pub fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::String(_) => Self::String,
            ValueRef::Int(_) => Self::Int,
            ValueRef::Double(_) => Self::Double,
            ValueRef::Bool(_) => Self::Bool,
            ValueRef::Raw(_) => Self::Raw,
        }
    }
}

/// A text column is looked at once, after this many values …
const INTERN_SAMPLE: usize = 8192;
/// … and stops being a dictionary when more than one in this many of them was new.
const INTERN_DISTINCT_DIVISOR: usize = 2;

/// The values of an attribute column, beside [`AttributeColumn::rows`].
#[derive(Debug, Clone)]
pub enum AttributeData {
    /// Text with repetition.
    Dict {
        /// One per value.
        ids: Vec<u32>,
        /// What the ids mean.
        dict: Interner,
    },
    /// Text that hardly repeats. The rows stand in here.
    Plain(SparseBytes),
    /// Signed integers.
    Int(Vec<i64>),
    /// Doubles.
    Double(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// `AnyValue` messages. The rows stand in here.
    Raw(SparseBytes),
}

/// The values of one (key, type).
#[derive(Debug, Clone)]
pub struct AttributeColumn {
    key: Box<[u8]>,
    value_type: ValueType,
    rows: Vec<u32>,
    data: AttributeData,
}

impl AttributeColumn {
    pub(super) fn new(key: &[u8], value_type: ValueType) -> Self {
        let data = match value_type {
            ValueType::String => AttributeData::Dict {
                ids: Vec::new(),
                dict: Interner::default(),
            },
            ValueType::Int => AttributeData::Int(Vec::new()),
            ValueType::Double => AttributeData::Double(Vec::new()),
            ValueType::Bool => AttributeData::Bool(Vec::new()),
            ValueType::Raw => AttributeData::Raw(SparseBytes::default()),
        };
        Self {
            key: key.into(),
            value_type,
            rows: Vec::new(),
            data,
        }
    }

    /// The attribute's key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The type of all its values.
    pub fn value_type(&self) -> ValueType {
        self.value_type
    }

    /// Rows that have a value, ascending, each once.
    pub fn rows(&self) -> &[u32] {
        match &self.data {
            AttributeData::Plain(values) | AttributeData::Raw(values) => values.rows(),
            _ => &self.rows,
        }
    }

    /// The values, beside [`AttributeColumn::rows`].
    pub fn data(&self) -> &AttributeData {
        &self.data
    }

    #[inline]
    pub(super) fn matches(&self, key: &[u8], value_type: ValueType) -> bool {
        self.value_type == value_type && *self.key == *key
    }

    /// Adds a value of the column's own type; says no when `row` already has one.
    #[inline]
    pub(super) fn push(&mut self, row: u32, value: ValueRef<'_>) -> bool {
        if self.rows().last() == Some(&row) {
            return false;
        }
        match (&mut self.data, value) {
            (AttributeData::Dict { ids, dict }, ValueRef::String(text)) => {
                ids.push(dict.intern(text));
                self.rows.push(row);
                if ids.len() == INTERN_SAMPLE && dict.len() > INTERN_SAMPLE / INTERN_DISTINCT_DIVISOR {
                    self.stop_interning();
                }
                return true;
            }
            (AttributeData::Plain(values), ValueRef::String(text)) => values.extend(row, text),
            (AttributeData::Raw(values), ValueRef::Raw(message)) => values.extend(row, message),
            (AttributeData::Int(values), ValueRef::Int(value)) => values.push(value),
            (AttributeData::Double(values), ValueRef::Double(value)) => values.push(value),
            (AttributeData::Bool(values), ValueRef::Bool(value)) => values.push(value),
            _ => return false,
        }
        if !matches!(self.data, AttributeData::Plain(_) | AttributeData::Raw(_)) {
            self.rows.push(row);
        }
        true
    }

    fn stop_interning(&mut self) {
        if let AttributeData::Dict { ids, dict } = &self.data {
            let mut values = SparseBytes::default();
            for (row, id) in self.rows.iter().zip(ids) {
                values.extend(*row, dict.get(*id));
            }
            self.data = AttributeData::Plain(values);
            self.rows = Vec::new();
        }
    }

    /// The value at `position` in [`AttributeColumn::rows`].
    pub fn value_at(&self, position: usize) -> Option<ValueRef<'_>> {
        match &self.data {
            AttributeData::Dict { ids, dict } => ids.get(position).map(|id| ValueRef::String(dict.get(*id))),
            AttributeData::Plain(values) if position < values.rows().len() => {
                Some(ValueRef::String(values.at(position)))
            }
            AttributeData::Raw(values) if position < values.rows().len() => Some(ValueRef::Raw(values.at(position))),
            AttributeData::Plain(_) | AttributeData::Raw(_) => None,
            AttributeData::Int(values) => values.get(position).copied().map(ValueRef::Int),
            AttributeData::Double(values) => values.get(position).copied().map(ValueRef::Double),
            AttributeData::Bool(values) => values.get(position).copied().map(ValueRef::Bool),
        }
    }

    /// The value of `row`, if it has one.
    pub fn value(&self, row: u32) -> Option<ValueRef<'_>> {
        self.rows()
            .binary_search(&row)
            .ok()
            .and_then(|position| self.value_at(position))
    }

    /// The column as queries see it.
    pub fn view(&self) -> ColumnView<'_> {
        let values = match &self.data {
            AttributeData::Dict { ids, dict } => Values::Dict { ids, dict: dict.view() },
            AttributeData::Plain(text) => Values::Bytes {
                offsets: text.offsets(),
                bytes: text.bytes(),
            },
            AttributeData::Raw(raw) => Values::Raw {
                offsets: raw.offsets(),
                bytes: raw.bytes(),
            },
            AttributeData::Int(values) => Values::Int(values),
            AttributeData::Double(values) => Values::Double(values),
            AttributeData::Bool(values) => Values::Bool(values),
        };
        ColumnView {
            rows: Rows::Sparse(self.rows()),
            values,
        }
    }

    pub(super) fn forget(&mut self, row: u32) {
        if self.rows().last() != Some(&row) {
            return;
        }
        match &mut self.data {
            AttributeData::Dict { ids, .. } => drop(ids.pop()),
            AttributeData::Plain(values) | AttributeData::Raw(values) => values.forget(row),
            AttributeData::Int(values) => drop(values.pop()),
            AttributeData::Double(values) => drop(values.pop()),
            AttributeData::Bool(values) => drop(values.pop()),
        }
        if !matches!(self.data, AttributeData::Plain(_) | AttributeData::Raw(_)) {
            self.rows.pop();
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let data = match &self.data {
            AttributeData::Dict { ids, dict } => ids.capacity() * 4 + dict.heap_bytes(),
            AttributeData::Plain(values) | AttributeData::Raw(values) => values.heap_bytes(),
            AttributeData::Int(values) => values.capacity() * 8,
            AttributeData::Double(values) => values.capacity() * 8,
            AttributeData::Bool(values) => values.capacity(),
        };
        data + self.rows.capacity() * 4 + self.key.len() + size_of::<Self>()
    }
}
