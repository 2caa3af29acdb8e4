//! Columns that do not stand as columns: attributes of events and links, attributes in the tail, attributes of resources
//! and instrumentation scopes. Gathered from raw OTLP for the query that asks, from a head and from a block alike.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::column::{Column, Dict, OwnedValues};
use model::proto::{Field, Fields, Malformed};
use model::{Value, ValueRef, otlp};

/// Field numbers inside `Event` and `Link`.
mod field {
    pub(super) const EVENT_TIME: u32 = 1;
    pub(super) const EVENT_NAME: u32 = 2;
    pub(super) const EVENT_ATTRIBUTES: u32 = 3;
    pub(super) const LINK_TRACE_ID: u32 = 1;
    pub(super) const LINK_SPAN_ID: u32 = 2;
    pub(super) const LINK_ATTRIBUTES: u32 = 4;
}

/// Raw fields per row: events, links, or tail attributes, tags included.
#[derive(Debug, Clone, Copy)]
pub struct RawRows<'a> {
    /// Ascending.
    pub rows: &'a [u32],
    /// One more than there are rows.
    pub offsets: &'a [u32],
    /// The fields end to end.
    pub bytes: &'a [u8],
}

/// What the raw fields are, which decides where their attributes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nested {
    /// `Event` messages.
    Events,
    /// `Link` messages.
    Links,
}

impl<'a> RawRows<'a> {
    /// Every message in every row.
    fn messages(&self) -> impl Iterator<Item = Result<(u32, &'a [u8]), Malformed>> + use<'a> {
        let Self { rows, offsets, bytes } = *self;
        rows.iter().enumerate().flat_map(move |(position, row)| {
            let mut fields = Fields::new(model::column::slice_at(offsets, bytes, position));
            std::iter::from_fn(move || {
                let entry = fields.next_field().transpose()?;
                Some(entry.and_then(|entry| Ok((*row, entry.bytes()?))))
            })
        })
    }
}

/// Values of all types under one key, sorted by type as they come.
#[derive(Debug, Default)]
struct Typed {
    text: (Vec<u32>, Vec<u32>, Vec<u8>),
    int: (Vec<u32>, Vec<i64>),
    double: (Vec<u32>, Vec<f64>),
    bool: (Vec<u32>, Vec<bool>),
    raw: (Vec<u32>, Vec<u32>, Vec<u8>),
}

impl Typed {
    fn push(&mut self, row: u32, value: ValueRef<'_>) {
        match value {
            ValueRef::String(text) => push_bytes(&mut self.text, row, text),
            ValueRef::Raw(message) => push_bytes(&mut self.raw, row, message),
            ValueRef::Int(value) => {
                self.int.0.push(row);
                self.int.1.push(value);
            }
            ValueRef::Double(value) => {
                self.double.0.push(row);
                self.double.1.push(value);
            }
            ValueRef::Bool(value) => {
                self.bool.0.push(row);
                self.bool.1.push(value);
            }
        }
    }

    fn into_columns(self) -> Vec<Column> {
        let all = [
            (
                self.text.0,
                OwnedValues::Bytes {
                    offsets: self.text.1,
                    bytes: self.text.2,
                },
            ),
            (self.int.0, OwnedValues::Int(self.int.1)),
            (self.double.0, OwnedValues::Double(self.double.1)),
            (self.bool.0, OwnedValues::Bool(self.bool.1)),
            (
                self.raw.0,
                OwnedValues::Raw {
                    offsets: self.raw.1,
                    bytes: self.raw.2,
                },
            ),
        ];
        let present = all.into_iter().filter(|(rows, _)| !rows.is_empty());
        present
            .map(|(rows, values)| Column {
                rows: Some(rows),
                values,
            })
            .collect()
    }
}

fn push_bytes((rows, offsets, bytes): &mut (Vec<u32>, Vec<u32>, Vec<u8>), row: u32, value: &[u8]) {
    if offsets.is_empty() {
        offsets.push(0);
    }
    rows.push(row);
    bytes.extend_from_slice(value);
    // The input's own offsets are 32 bits wide and this is part of it.
    offsets.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
}

/// The attribute `key` of events or links, one column per physical type.
pub fn nested_attribute(raw: RawRows<'_>, nested: Nested, key: &[u8]) -> Result<Vec<Column>, Malformed> {
    let number = attributes_field(nested);
    let mut typed = Typed::default();
    for message in raw.messages() {
        let (row, message) = message?;
        for pair in otlp::attributes(message, number) {
            let (name, value) = pair?;
            if name == key {
                typed.push(row, ValueRef::from_any_value(value)?);
            }
        }
    }
    Ok(typed.into_columns())
}

/// The attribute `key` where it stands in the tail, one column per physical type.
pub fn tail_attribute(raw: RawRows<'_>, key: &[u8]) -> Result<Vec<Column>, Malformed> {
    let mut typed = Typed::default();
    for message in raw.messages() {
        let (row, message) = message?;
        let pair = otlp::read_key_value(message)?;
        if pair.key == key {
            typed.push(row, ValueRef::from_any_value(pair.value)?);
        }
    }
    Ok(typed.into_columns())
}

/// Keys of all attributes of events or links, each once.
pub fn nested_keys(raw: RawRows<'_>, nested: Nested) -> Result<Vec<Arc<str>>, Malformed> {
    let number = attributes_field(nested);
    let mut keys = Keys::default();
    for message in raw.messages() {
        let (_, message) = message?;
        for pair in otlp::attributes(message, number) {
            keys.add(pair?.0);
        }
    }
    Ok(keys.finish())
}

/// Keys of all attributes in the tail, each once.
pub fn tail_keys(raw: RawRows<'_>) -> Result<Vec<Arc<str>>, Malformed> {
    let mut keys = Keys::default();
    for message in raw.messages() {
        keys.add(otlp::read_key_value(message?.1)?.key);
    }
    Ok(keys.finish())
}

fn attributes_field(nested: Nested) -> u32 {
    match nested {
        Nested::Events => field::EVENT_ATTRIBUTES,
        Nested::Links => field::LINK_ATTRIBUTES,
    }
}

/// Distinct keys, ascending. What bounds them is the chunk they come from: they are a part of its bytes. Who asks says how
/// many it wants and whether there were more; a list that ends early without saying so would be taken for all of them.
#[derive(Debug, Default)]
struct Keys(BTreeSet<Arc<str>>);

impl Keys {
    fn add(&mut self, key: &[u8]) {
        if let Ok(key) = std::str::from_utf8(key)
            && !self.0.contains(key)
        {
            self.0.insert(Arc::from(key));
        }
    }

    fn finish(self) -> Vec<Arc<str>> {
        self.0.into_iter().collect()
    }
}

/// Names of events, one per event.
pub fn event_names(raw: RawRows<'_>) -> Result<Column, Malformed> {
    let mut names = (Vec::new(), vec![0], Vec::new());
    for message in raw.messages() {
        let (row, message) = message?;
        push_bytes(&mut names, row, bytes_field(message, field::EVENT_NAME)?);
    }
    Ok(Column {
        rows: Some(names.0),
        values: OwnedValues::Bytes {
            offsets: names.1,
            bytes: names.2,
        },
    })
}

/// Time of each event since the start of its span, in nanoseconds; `start` gives the start of a row's span.
pub fn event_times(raw: RawRows<'_>, start: impl Fn(u32) -> u64) -> Result<Column, Malformed> {
    let (mut rows, mut times) = (Vec::new(), Vec::new());
    for message in raw.messages() {
        let (row, message) = message?;
        let mut time = 0;
        let mut fields = Fields::new(message);
        while let Some(entry) = fields.next_field()? {
            if let (field::EVENT_TIME, Field::Fixed64(nanos)) = (entry.number, entry.value) {
                time = nanos;
            }
        }
        rows.push(row);
        times.push(time.wrapping_sub(start(row)).cast_signed());
    }
    Ok(Column {
        rows: Some(rows),
        values: OwnedValues::Int(times),
    })
}

/// Trace ids of links; a link without a well-formed one is left out.
pub fn link_trace_ids(raw: RawRows<'_>) -> Result<Column, Malformed> {
    let (rows, ids) = fixed(raw, field::LINK_TRACE_ID)?;
    Ok(Column {
        rows: Some(rows),
        values: OwnedValues::Fixed16(ids),
    })
}

/// Span ids of links; a link without a well-formed one is left out.
pub fn link_span_ids(raw: RawRows<'_>) -> Result<Column, Malformed> {
    let (rows, ids) = fixed(raw, field::LINK_SPAN_ID)?;
    Ok(Column {
        rows: Some(rows),
        values: OwnedValues::Fixed8(ids),
    })
}

fn fixed<const N: usize>(raw: RawRows<'_>, number: u32) -> Result<(Vec<u32>, Vec<[u8; N]>), Malformed> {
    let (mut rows, mut ids) = (Vec::new(), Vec::new());
    for message in raw.messages() {
        let (row, message) = message?;
        if let Ok(id) = <[u8; N]>::try_from(bytes_field(message, number)?) {
            rows.push(row);
            ids.push(id);
        }
    }
    Ok((rows, ids))
}

fn bytes_field(message: &[u8], number: u32) -> Result<&[u8], Malformed> {
    let mut found = &[][..];
    let mut fields = Fields::new(message);
    while let Some(entry) = fields.next_field()? {
        if let (true, Field::Bytes(bytes)) = (entry.number == number, entry.value) {
            found = bytes;
        }
    }
    Ok(found)
}

/// What a resource or scope table knows about one field of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerField<'a> {
    /// An attribute of the `Resource` (field 1) or `InstrumentationScope` (field 3).
    Attribute {
        /// Where the message keeps its attributes.
        number: u32,
        /// Which one.
        key: &'a [u8],
    },
    /// A string field of the `InstrumentationScope`: name 1, version 2.
    Text(u32),
}

/// One value per owner blob, in the order of ids.
pub fn owner_values<'a>(
    blobs: impl Iterator<Item = &'a [u8]>,
    wanted: OwnerField<'_>,
) -> Result<Vec<Option<Value>>, Malformed> {
    blobs
        .map(|blob| owner_value(model::table::read_owner(blob)?.0.unwrap_or_default(), wanted))
        .collect()
}

fn owner_value(message: &[u8], wanted: OwnerField<'_>) -> Result<Option<Value>, Malformed> {
    match wanted {
        OwnerField::Text(number) => {
            let text = bytes_field(message, number)?;
            Ok((!text.is_empty()).then(|| Value::String(String::from_utf8_lossy(text).into_owned())))
        }
        OwnerField::Attribute { number, key } => {
            for pair in otlp::attributes(message, number) {
                let (name, value) = pair?;
                if name == key {
                    return Value::from_any_value(value).map(Some);
                }
            }
            Ok(None)
        }
    }
}

/// Keys of the attributes of all owner blobs, each once; `number` says where the messages keep them.
pub fn owner_keys<'a>(blobs: impl Iterator<Item = &'a [u8]>, number: u32) -> Result<Vec<Arc<str>>, Malformed> {
    let mut keys = Keys::default();
    for blob in blobs {
        for pair in otlp::attributes(model::table::read_owner(blob)?.0.unwrap_or_default(), number) {
            keys.add(pair?.0);
        }
    }
    Ok(keys.finish())
}

/// A column that gives each row the value of its owner.
pub fn owner_column(ids: Vec<u32>, values: Vec<Option<Value>>) -> Option<Column> {
    if values.iter().all(Option::is_none) {
        return None;
    }
    let dict = Arc::new(Dict::Values(values));
    Some(Column {
        rows: None,
        values: OwnedValues::Dict { ids, dict },
    })
}
