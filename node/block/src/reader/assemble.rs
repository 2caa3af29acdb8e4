//! Puts rows of a row group back together: all columns of a range of rows as [`SpanRows`].

use std::ops::Range;

use model::ValueType;

use super::RowGroup;
use crate::decode::{Bad, Decoded, Dictionary, Plain};
use crate::error::Result;
use crate::rows::{Attribute, SpanRows, Text};
use crate::schema::Field;

impl RowGroup {
    /// All spans of the row group. Needs every column.
    pub fn all_spans(&self) -> Result<SpanRows> {
        self.spans(0..self.len() as u32)
    }

    /// The spans `rows`, which must be whole traces as [`RowGroup::trace_rows`] gives them. Decodes only the pages they lie
    /// in. Needs every column.
    pub fn spans(&self, rows: Range<u32>) -> Result<SpanRows> {
        let rows = &rows;
        let (trace, traces) = self.traces_in(rows)?;
        let span_id = self.span_ids(rows)?;
        let parent_span_id = self.parents(rows, &span_id)?;
        let (name, names) = self.names(rows)?;
        let attributes = self.attributes(rows)?;
        let small = |field: Field, shift: i64| -> Result<Vec<u8>> {
            let numbers = self
                .numbers(field, rows)?
                .into_iter()
                .map(|n| u8::try_from(n.cast_signed() + shift));
            numbers
                .collect::<Result<Vec<u8>, _>>()
                .map_err(|_| self.bad(field, "small number"))
        };
        let dropped = |field| -> Result<(Vec<u32>, Vec<u32>)> {
            let decoded = self.decode_rows(field as usize, rows)?;
            let numbers = decoded.values.into_numbers().ok_or_else(|| self.bad(field, "counts"))?;
            let counts = numbers.into_iter().map(|n| n as u32).collect();
            Ok((decoded.rows.unwrap_or_else(|| (0..rows.len() as u32).collect()), counts))
        };
        let owners = self.index.owners().clone();
        let (resource, scope) = (
            self.numbers32(Field::Resource, rows)?,
            self.numbers32(Field::Scope, rows)?,
        );
        let (resources, scopes) = (owners.resources.view().len(), owners.scopes.view().len());
        if resource.iter().any(|r| *r as usize >= resources) || scope.iter().any(|s| *s as usize >= scopes) {
            return Err(self.bad(Field::Resource, "owner id"));
        }
        Ok(SpanRows {
            traces,
            trace,
            span_id,
            parent_span_id,
            start: self.starts(rows)?,
            duration: self
                .numbers(Field::Duration, rows)?
                .into_iter()
                .map(u64::cast_signed)
                .collect(),
            kind: small(Field::Kind, 0)?,
            status: small(Field::Status, 1)?,
            flags: self.numbers32(Field::Flags, rows)?,
            name,
            names,
            resource,
            scope,
            owners,
            trace_state: self.sparse(Field::TraceState, rows)?,
            status_message: self.sparse(Field::StatusMessage, rows)?,
            events: self.sparse(Field::Events, rows)?,
            links: self.sparse(Field::Links, rows)?,
            extra: self.sparse(Field::Extra, rows)?,
            tail: self.sparse(Field::Tail, rows)?,
            dropped: [
                dropped(Field::DroppedAttributes)?,
                dropped(Field::DroppedEvents)?,
                dropped(Field::DroppedLinks)?,
            ],
            attributes,
        })
    }

    fn bad(&self, field: Field, what: &'static str) -> crate::Error {
        self.corrupt(field.ordinal(), Bad { at: 0, what })
    }

    fn span_ids(&self, rows: &Range<u32>) -> Result<Vec<[u8; 8]>> {
        match self.decode_rows(Field::SpanId.ordinal(), rows)?.values {
            Plain::Fixed8(ids) if ids.len() == rows.len() => Ok(ids),
            _ => Err(self.bad(Field::SpanId, "span ids")),
        }
    }

    /// Parent ids: those of the parent's row, or the explicit ones of orphans.
    fn parents(&self, rows: &Range<u32>, span_id: &[[u8; 8]]) -> Result<Vec<[u8; 8]>> {
        let distances = self.numbers32(Field::ParentDistance, rows)?;
        let mut parents = Vec::with_capacity(span_id.len());
        for (at, distance) in distances.iter().enumerate() {
            let parent = match distance {
                0 => Some([0; 8]),
                up => at.checked_sub(*up as usize).map(|row| span_id[row]),
            };
            parents.push(parent.ok_or_else(|| self.bad(Field::ParentDistance, "parent distance"))?);
        }
        let orphans = self.decode_rows(Field::ParentSpanId.ordinal(), rows)?;
        let Plain::Fixed8(ids) = orphans.values else {
            return Err(self.bad(Field::ParentSpanId, "parent ids"));
        };
        match orphans.rows {
            Some(listed) => listed
                .into_iter()
                .zip(ids)
                .for_each(|(row, id)| parents[row as usize] = id),
            None => parents.copy_from_slice(&ids),
        }
        Ok(parents)
    }

    fn names(&self, rows: &Range<u32>) -> Result<(Vec<u32>, Text)> {
        let (ids, names) = match self.decode_rows(Field::Name.ordinal(), rows)?.values {
            Plain::Ids {
                ids,
                dictionary: Dictionary::Text(text),
            } => (ids, text),
            Plain::Text(text) => ((0..text.view().len() as u32).collect(), text),
            _ => return Err(self.bad(Field::Name, "names")),
        };
        if ids.len() != rows.len() {
            return Err(self.bad(Field::Name, "names"));
        }
        Ok((ids, names))
    }

    fn attributes(&self, rows: &Range<u32>) -> Result<Vec<Attribute>> {
        let mut attributes = Vec::with_capacity(self.index.schema().attributes().len());
        for (at, def) in self.index.schema().attributes().iter().enumerate() {
            let column = Field::ALL.len() + at;
            // A column without a value in the whole row group is not worth decoding: common in merged and shared blocks.
            if self.chunk(column, |chunk| Ok(chunk.meta.values()))? == 0 {
                continue;
            }
            let decoded = self.decode_rows(column, rows)?;
            let decoded = materialize(decoded, def.attribute.value_type).ok_or_else(|| {
                self.corrupt(
                    column,
                    Bad {
                        at: 0,
                        what: "attribute",
                    },
                )
            })?;
            let mut column = decoded.into_column(self.index.schema().form(column));
            let listed = column.rows.take().unwrap_or_else(|| (0..rows.len() as u32).collect());
            if !listed.is_empty() {
                column.rows = Some(listed);
                attributes.push(Attribute {
                    key: def.attribute.clone(),
                    column,
                });
            }
        }
        Ok(attributes)
    }
}

/// Numbers out of their dictionary; text stays in it.
fn materialize(decoded: Decoded, value_type: ValueType) -> Option<Decoded> {
    Some(match (&decoded.values, value_type) {
        (
            Plain::Ids {
                dictionary: Dictionary::Numbers(_),
                ..
            },
            ValueType::Int,
        ) => {
            let values = Plain::Numbers(decoded.values.into_numbers()?);
            Decoded {
                rows: decoded.rows,
                values,
            }
        }
        (
            Plain::Ids {
                dictionary: Dictionary::Text(_),
                ..
            }
            | Plain::Text(_),
            ValueType::String,
        )
        | (Plain::Text(_), ValueType::Raw)
        | (Plain::Numbers(_), ValueType::Int | ValueType::Double)
        | (Plain::Bits(_), ValueType::Bool) => decoded,
        _ => return None,
    })
}
