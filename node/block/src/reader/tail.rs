//! Attributes without a column of their own, read out of the tail.

use hashbrown::HashMap;
use model::column::Column;
use model::{ValueRef, ValueType};

use super::RowGroup;
use crate::decode::{Bad, Plain};
use crate::error::Result;
use crate::rows::{Builder, Sparse};
use crate::schema::Field;

impl RowGroup {
    /// The values of `key` in the tail, one sparse column per type; a row that has several values of one type lists the
    /// further ones in further columns. Needs [`Field::Tail`].
    pub fn tail_columns(&self, key: &[u8]) -> Result<Vec<Column>> {
        let tail = self.sparse(Field::Tail, &(0..self.len() as u32))?;
        let mut builders: Vec<(ValueType, Builder)> = Vec::new();
        let view = tail.view();
        for (at, &row) in view.rows.iter().enumerate() {
            let fields = view.text.get(at);
            // Most rows of the tail lack the key: a substring search is cheaper than walking their fields.
            if !contains(fields, key) {
                continue;
            }
            let mut walk = model::proto::Fields::new(fields);
            while let Some(entry) = walk.next_field().map_err(|_| self.bad_tail())? {
                let pair = entry.bytes().map_err(|_| self.bad_tail())?;
                let pair = model::otlp::read_key_value(pair).map_err(|_| self.bad_tail())?;
                if pair.key == key {
                    push(
                        &mut builders,
                        row,
                        ValueRef::from_any_value(pair.value).map_err(|_| self.bad_tail())?,
                    );
                }
            }
        }
        Ok(builders.into_iter().map(|(_, b)| b.finish()).collect())
    }

    /// All attributes in the tail by their keys, each as [`RowGroup::tail_columns`] gives it: one walk for whoever wants
    /// many of them. Needs [`Field::Tail`].
    pub fn tail_attributes(&self) -> Result<HashMap<Vec<u8>, Vec<Column>>> {
        let tail = self.sparse(Field::Tail, &(0..self.len() as u32))?;
        let mut found: HashMap<Vec<u8>, Vec<(ValueType, Builder)>> = HashMap::new();
        let view = tail.view();
        for (at, &row) in view.rows.iter().enumerate() {
            let mut walk = model::proto::Fields::new(view.text.get(at));
            while let Some(entry) = walk.next_field().map_err(|_| self.bad_tail())? {
                let pair = entry.bytes().map_err(|_| self.bad_tail())?;
                let pair = model::otlp::read_key_value(pair).map_err(|_| self.bad_tail())?;
                let value = ValueRef::from_any_value(pair.value).map_err(|_| self.bad_tail())?;
                push(found.entry_ref(pair.key).or_default(), row, value);
            }
        }
        let finish = |builders: Vec<(ValueType, Builder)>| builders.into_iter().map(|(_, b)| b.finish()).collect();
        Ok(found
            .into_iter()
            .map(|(key, builders)| (key, finish(builders)))
            .collect())
    }

    fn bad_tail(&self) -> crate::Error {
        self.corrupt(
            Field::Tail.ordinal(),
            Bad {
                at: 0,
                what: "tail fields",
            },
        )
    }

    /// An optional column of bytes.
    pub(super) fn sparse(&self, field: Field, rows: &std::ops::Range<u32>) -> Result<Sparse> {
        let decoded = self.decode_rows(field.ordinal(), rows)?;
        let listed = decoded.rows.unwrap_or_else(|| (0..rows.len() as u32).collect());
        let text = match decoded.values {
            Plain::Text(text) => text,
            Plain::Ids {
                ids,
                dictionary: crate::decode::Dictionary::Text(dictionary),
            } => {
                let view = dictionary.view();
                let mut text = crate::rows::Text::default();
                ids.iter().for_each(|id| text.push(view.get(*id as usize)));
                text
            }
            _ => return Err(self.corrupt(field.ordinal(), Bad { at: 0, what: "text" })),
        };
        Ok(Sparse { rows: listed, text })
    }
}

fn push(builders: &mut Vec<(ValueType, Builder)>, row: u32, value: ValueRef<'_>) {
    let value_type = ValueType::of(value);
    for (_, builder) in builders.iter_mut().filter(|(t, _)| *t == value_type) {
        if builder.push(row, value) {
            return;
        }
    }
    let mut builder = Builder::new(value_type);
    builder.push(row, value);
    builders.push((value_type, builder));
}

/// Whether `needle` occurs in `hay`. Keys are short and the tail of a span is a few hundred bytes.
fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else {
        return true;
    };
    let mut from = hay;
    while let Some(at) = from.iter().position(|b| b == first) {
        if from[at + 1..].starts_with(rest) {
            return true;
        }
        from = &from[at + 1..];
    }
    false
}
