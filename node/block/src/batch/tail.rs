//! The tail column: raw `attributes` fields of everything that has no column of its own.

use model::column::{DictView, Values};
use model::{ValueRef, ValueType};

use super::Batch;
use crate::bloom;
use crate::encode::EncodedColumn;
use crate::error::{Error, Result};
use crate::order::NONE;
use crate::page::Extent;
use crate::rows::{AttributeView, TextView, value_at};
use crate::schema::{AttributeKey, Schema};

/// One source's column that goes into the tail.
struct TailColumn<'a> {
    base: u32,
    view: AttributeView<'a>,
    number: Option<u32>,
    seed: u64,
}

impl<'a> Batch<'a> {
    pub(super) fn tail(&mut self, schema: &Schema) -> Result<EncodedColumn> {
        let columns = self.tail_columns(schema);
        let raw = columns.len() as u32;
        // (position, column, place in the column): fields of a span stand in key order whatever the sources' order was.
        let mut entries: Vec<(u32, u32, u32)> = Vec::new();
        for (c, column) in columns.iter().enumerate() {
            let position = &self.layout.position[column.base as usize..];
            for (place, row) in column.view.rows().iter().enumerate() {
                entries.push((position[*row as usize], c as u32, place as u32));
            }
        }
        for (s, (base, source)) in self.bases.iter().zip(self.sources).enumerate() {
            for (place, row) in source.tail.rows.iter().enumerate() {
                entries.push((
                    self.layout.position[(base + row) as usize],
                    raw + s as u32,
                    place as u32,
                ));
            }
        }
        entries.retain(|e| e.0 != NONE);
        entries.sort_unstable();

        let mut column = EncodedColumn::default();
        let mut rest = entries.as_slice();
        for g in 0..self.layout.groups.len() {
            let group = self.layout.groups[g];
            let (here, later) = rest.split_at(rest.partition_point(|e| e.0 < group.end));
            rest = later;
            let mut text = crate::rows::Text::default();
            self.rows.clear();
            let mut keys = Vec::new();
            for (at, &(position, c, place)) in here.iter().enumerate() {
                match columns.get(c as usize) {
                    Some(tail) => self.tail_value(tail, place as usize, g, &mut keys, &mut text.bytes),
                    None => {
                        let source = &self.sources[(c - raw) as usize];
                        let fields = source.tail.text.get(place as usize);
                        text.bytes.extend_from_slice(fields);
                        self.tail_fields(fields, g, &mut keys)?;
                    }
                }
                if here.get(at + 1).is_none_or(|next| next.0 != position) {
                    text.offsets.push(text.bytes.len() as u32);
                    self.rows.push(position - group.start);
                }
            }
            keys.sort_unstable();
            keys.dedup();
            self.facts[g].tail_keys = keys;
            let view = text.view();
            let values: Vec<&[u8]> = (0..view.len()).map(|i| view.get(i)).collect();
            let places: Vec<u32> = (0..values.len() as u32).collect();
            let rows = group.end - group.start;
            self.chunker
                .blobs(Extent::optional(rows, &self.rows), &places, &values, &mut column)?;
        }
        Ok(column)
    }

    /// The sources' columns that have none in the file, by key; counted in the catalogue.
    fn tail_columns(&mut self, schema: &Schema) -> Vec<TailColumn<'a>> {
        let promoted: hashbrown::HashSet<(&[u8], ValueType)> = schema
            .attributes()
            .iter()
            .map(|d| (&*d.attribute.key, d.attribute.value_type))
            .collect();
        let mut found: Vec<(u32, AttributeView<'a>)> = Vec::new();
        for (base, source) in self.bases.iter().zip(self.sources) {
            let tail = source
                .attributes
                .iter()
                .filter(|a| !promoted.contains(&(a.key, a.value_type)));
            found.extend(tail.filter(|a| !a.rows().is_empty()).map(|a| (*base, *a)));
        }
        found.sort_by(|(_, a), (_, b)| (a.key, a.value_type).cmp(&(b.key, b.value_type)));
        let catalogue = &mut self.section.catalogue;
        found
            .into_iter()
            .map(|(base, view)| {
                let number = catalogue.number(view.key, view.value_type);
                if let Values::Dict {
                    dict: DictView::Bytes { offsets, bytes },
                    ..
                }
                | Values::Bytes { offsets, bytes } = view.column.values
                {
                    let text = TextView { offsets, bytes };
                    catalogue.count_texts(number, 0, text.len() as u64, (0..text.len()).map(|i| text.get(i)));
                }
                let seed = AttributeKey::new(view.key, view.value_type).seed();
                TailColumn {
                    base,
                    view,
                    number,
                    seed,
                }
            })
            .collect()
    }

    fn tail_value(&mut self, tail: &TailColumn<'a>, place: usize, g: usize, keys: &mut Vec<u32>, out: &mut Vec<u8>) {
        let Some(value) = value_at(&tail.view.column.values, place) else {
            return;
        };
        model::table::write_attribute(out, tail.view.key, value);
        self.section.catalogue.count_others(tail.number, 1, None);
        self.note_tail_key(tail.number, g, keys);
        if let ValueRef::String(text) = value {
            self.section.tail_hashes.push(bloom::hash(tail.seed, text));
        }
    }

    /// Takes note of the keys and texts in raw fields: duplicates of a key, and keys beyond the table's bound.
    fn tail_fields(&mut self, fields: &[u8], g: usize, keys: &mut Vec<u32>) -> Result<()> {
        let mut walk = model::proto::Fields::new(fields);
        while let Some(entry) = walk.next_field().map_err(Error::Model)? {
            let pair = model::otlp::read_key_value(entry.bytes().map_err(Error::Model)?).map_err(Error::Model)?;
            let (key, value) = (pair.key, ValueRef::from_any_value(pair.value).map_err(Error::Model)?);
            let value_type = ValueType::of(value);
            let number = self.section.catalogue.number(key, value_type);
            match value {
                ValueRef::String(text) => {
                    self.section.catalogue.count_texts(number, 1, 1, std::iter::once(text));
                    self.section
                        .tail_hashes
                        .push(bloom::hash(AttributeKey::new(key, value_type).seed(), text));
                }
                _ => self.section.catalogue.count_others(number, 1, None),
            }
            self.note_tail_key(number, g, keys);
        }
        Ok(())
    }

    fn note_tail_key(&mut self, number: Option<u32>, g: usize, keys: &mut Vec<u32>) {
        match number {
            Some(number) if keys.last() != Some(&number) => keys.push(number),
            Some(_) => {}
            None => self.facts[g].tail_is_open = true,
        }
    }
}
