//! What a query sees of stored spans: typed columns over the rows of one chunk, borrowed from a head or a decoded block.
//!
//! A predicate is evaluated once per dictionary value and then on ids; the view therefore shows dictionaries as they are
//! stored and never one string per row.

use crate::value::Value;

/// The id that stands for "no value" in a dictionary column that has one entry per row.
pub const NULL_ID: u32 = u32::MAX;

/// Which rows of the chunk the values belong to.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Value `i` belongs to row `i`; there are as many values as rows.
    All,
    /// Value `i` belongs to row `rows[i]`. Ascending. A row repeats where it has several values: events, links, arrays.
    Sparse(&'a [u32]),
}

/// Distinct values of a dictionary column; value `i` is `get(i)`.
#[derive(Debug, Clone, Copy)]
pub enum DictView<'a> {
    /// Byte strings, end to end. `offsets` has one entry more than there are values.
    Bytes {
        /// Where value `i` starts; the last entry is the length of `bytes`.
        offsets: &'a [u32],
        /// The values.
        bytes: &'a [u8],
    },
    /// Values of any type, as resource and scope attributes are. `None`: absent there. Values may repeat.
    Values(&'a [Option<Value>]),
}

/// The values of a column.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// Ids into a dictionary; [`NULL_ID`] where a row of [`Rows::All`] has none.
    Dict {
        /// One per value.
        ids: &'a [u32],
        /// What the ids mean.
        dict: DictView<'a>,
    },
    /// Text that was not worth a dictionary.
    Bytes {
        /// Where value `i` starts; the last entry is the length of `bytes`.
        offsets: &'a [u32],
        /// The values.
        bytes: &'a [u8],
    },
    /// Signed integers, durations in nanoseconds, and times as `u64` bits.
    Int(&'a [i64]),
    /// Doubles.
    Double(&'a [f64]),
    /// Truth values.
    Bool(&'a [bool]),
    /// Span ids.
    Fixed8(&'a [[u8; 8]]),
    /// Trace ids.
    Fixed16(&'a [[u8; 16]]),
    /// `AnyValue` messages of everything nested: arrays, maps, bytes, empty.
    Raw {
        /// Where value `i` starts; the last entry is the length of `bytes`.
        offsets: &'a [u32],
        /// The messages.
        bytes: &'a [u8],
    },
}

/// One physical column of a chunk, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct ColumnView<'a> {
    /// Which rows.
    pub rows: Rows<'a>,
    /// Which values.
    pub values: Values<'a>,
}

impl<'a> DictView<'a> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes { offsets, .. } => offsets.len().saturating_sub(1),
            Self::Values(values) => values.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Entry `index` of values laid end to end; empty when there is no such entry.
#[inline]
pub fn slice_at<'a>(offsets: &[u32], bytes: &'a [u8], index: usize) -> &'a [u8] {
    let bounds = offsets.get(index).zip(offsets.get(index + 1));
    bounds
        .and_then(|(start, end)| bytes.get(*start as usize..*end as usize))
        .unwrap_or_default()
}

impl Values<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Dict { ids, .. } => ids.len(),
            Self::Bytes { offsets, .. } | Self::Raw { offsets, .. } => offsets.len().saturating_sub(1),
            Self::Int(values) => values.len(),
            Self::Double(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Fixed8(values) => values.len(),
            Self::Fixed16(values) => values.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Owned dictionary.
#[derive(Debug, Clone)]
pub enum Dict {
    /// See [`DictView::Bytes`].
    Bytes {
        /// One more than there are values.
        offsets: Vec<u32>,
        /// The values.
        bytes: Vec<u8>,
    },
    /// See [`DictView::Values`].
    Values(Vec<Option<Value>>),
}

/// Owned values, see [`Values`].
#[derive(Debug, Clone)]
pub enum OwnedValues {
    /// Ids into a dictionary that several columns may share.
    Dict {
        /// One per value.
        ids: Vec<u32>,
        /// What the ids mean.
        dict: std::sync::Arc<Dict>,
    },
    /// Text.
    Bytes {
        /// One more than there are values.
        offsets: Vec<u32>,
        /// The values.
        bytes: Vec<u8>,
    },
    /// Signed integers.
    Int(Vec<i64>),
    /// Doubles.
    Double(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Span ids.
    Fixed8(Vec<[u8; 8]>),
    /// Trace ids.
    Fixed16(Vec<[u8; 16]>),
    /// `AnyValue` messages.
    Raw {
        /// One more than there are values.
        offsets: Vec<u32>,
        /// The messages.
        bytes: Vec<u8>,
    },
}

/// One physical column of a chunk, owned: what a block reader decodes, or what is gathered from events and links.
#[derive(Debug, Clone)]
pub struct Column {
    /// `None`: one value per row of the chunk.
    pub rows: Option<Vec<u32>>,
    /// The values.
    pub values: OwnedValues,
}

impl Dict {
    /// Bytes it holds on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Bytes { offsets, bytes } => offsets.len() * 4 + bytes.len(),
            Self::Values(values) => values.len() * size_of::<Option<Value>>(),
        }
    }

    /// Borrows it.
    pub fn view(&self) -> DictView<'_> {
        match self {
            Self::Bytes { offsets, bytes } => DictView::Bytes { offsets, bytes },
            Self::Values(values) => DictView::Values(values),
        }
    }
}

impl Column {
    /// Bytes it holds on the heap, a dictionary's included: it is mostly this column's alone.
    pub fn heap_bytes(&self) -> usize {
        let rows = self.rows.as_ref().map_or(0, |rows| rows.len() * 4);
        rows + match &self.values {
            OwnedValues::Dict { ids, dict } => ids.len() * 4 + dict.heap_bytes(),
            OwnedValues::Bytes { offsets, bytes } | OwnedValues::Raw { offsets, bytes } => {
                offsets.len() * 4 + bytes.len()
            }
            OwnedValues::Int(values) => values.len() * 8,
            OwnedValues::Double(values) => values.len() * 8,
            OwnedValues::Bool(values) => values.len(),
            OwnedValues::Fixed8(values) => values.len() * 8,
            OwnedValues::Fixed16(values) => values.len() * 16,
        }
    }

    /// Borrows it.
    pub fn view(&self) -> ColumnView<'_> {
        let rows = self.rows.as_deref().map_or(Rows::All, Rows::Sparse);
        let values = match &self.values {
            OwnedValues::Dict { ids, dict } => Values::Dict { ids, dict: dict.view() },
            OwnedValues::Bytes { offsets, bytes } => Values::Bytes { offsets, bytes },
            OwnedValues::Int(values) => Values::Int(values),
            OwnedValues::Double(values) => Values::Double(values),
            OwnedValues::Bool(values) => Values::Bool(values),
            OwnedValues::Fixed8(values) => Values::Fixed8(values),
            OwnedValues::Fixed16(values) => Values::Fixed16(values),
            OwnedValues::Raw { offsets, bytes } => Values::Raw { offsets, bytes },
        };
        ColumnView { rows, values }
    }
}

/// A column that is either borrowed from the chunk or was gathered for this query.
#[derive(Debug, Clone)]
pub enum ColumnCow<'a> {
    /// Stands in the chunk as it is.
    Borrowed(ColumnView<'a>),
    /// Gathered.
    Owned(std::sync::Arc<Column>),
}

impl ColumnCow<'_> {
    /// Borrows it.
    pub fn view(&self) -> ColumnView<'_> {
        match self {
            Self::Borrowed(view) => *view,
            Self::Owned(column) => column.view(),
        }
    }
}
