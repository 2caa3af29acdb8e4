//! Encodes a batch of laid-out rows, column by column over all its row groups.
//!
//! Column by column, because only one column's values are then held beside the encoded bytes: about a tenth of the
//! OTLP bytes for the chunks and eight bytes per span for the column at hand.

use hashbrown::HashMap;
use model::ValueType;
use model::column::{DictView, Values};

use crate::bloom;
use crate::encode::{Chunker, EncodedColumn, Heat, OnDistinct};
use crate::error::{Error, Result};
use crate::format::duration;
use crate::gather::{Placed, dense};
use crate::order::{Group, Layout, NONE, bases};
use crate::page::{Compress, Data, Extent};
use crate::rows::{AttributeView, CountsView, RowsView, SparseView, TextView};
use crate::schema::{AttributeDef, Field, Form, Schema};
use crate::section::Section;

/// A batch encoded: its columns in file order, and per row group what its fence needs.
#[derive(Debug)]
pub(crate) struct EncodedBatch {
    pub columns: Vec<EncodedColumn>,
    pub facts: Vec<GroupFacts>,
}

/// What a batch learned of one row group.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupFacts {
    pub min_start: u64,
    pub max_start: u64,
    pub max_end: u64,
    pub tail_keys: Vec<u32>,
    pub tail_is_open: bool,
}

struct Batch<'a> {
    sources: &'a [RowsView<'a>],
    bases: Vec<u32>,
    layout: &'a Layout,
    section: &'a mut Section,
    chunker: &'a mut Chunker,
    columns: Vec<EncodedColumn>,
    facts: Vec<GroupFacts>,
    rows: Vec<u32>,
    payloads: Vec<u32>,
    numbers: Vec<u64>,
}

/// Encodes all rows of `sources` as laid out.
pub(crate) fn encode_batch<'a>(
    sources: &'a [RowsView<'a>],
    layout: &'a Layout,
    schema: &Schema,
    section: &'a mut Section,
    chunker: &'a mut Chunker,
) -> Result<EncodedBatch> {
    let mut batch = Batch {
        sources,
        bases: bases(sources),
        layout,
        section,
        chunker,
        columns: Vec::with_capacity(schema.len()),
        facts: vec![GroupFacts::default(); layout.groups.len()],
        rows: Vec::new(),
        payloads: Vec::new(),
        numbers: Vec::new(),
    };
    batch.identity()?;
    batch.structure()?;
    batch.times()?;
    batch.small_numbers()?;
    batch.names_and_owners()?;
    batch.sparse_fields()?;
    let mut attributes = Vec::with_capacity(schema.attributes().len());
    for (at, def) in schema.attributes().iter().enumerate() {
        attributes.push(batch.attribute(at, def)?);
    }
    let tail = batch.tail(schema)?;
    batch.columns.push(tail);
    batch.columns.append(&mut attributes);
    debug_assert_eq!(batch.columns.len(), schema.len());
    Ok(EncodedBatch {
        columns: batch.columns,
        facts: batch.facts,
    })
}

impl<'a> Batch<'a> {
    fn push(&mut self, field: Field, column: EncodedColumn) {
        debug_assert_eq!(self.columns.len(), field.ordinal(), "columns are encoded in file order");
        self.columns.push(column);
    }

    /// Tenant, trace id, span id. The other columns that follow the trace reuse the same ids.
    fn identity(&mut self) -> Result<()> {
        let tenant = self.section.tenant.clone();
        let mut column = EncodedColumn::default();
        let mut traces = EncodedColumn::default();
        for group in &self.layout.groups {
            let rows = group.end - group.start;
            self.payloads.clear();
            self.payloads.resize(rows as usize, 0);
            let values = [tenant.as_str().as_bytes()];
            self.chunker.interned(
                Extent::required(rows),
                &self.payloads,
                &values,
                Heat::Hot,
                None,
                &mut column,
            )?;
            let dictionary: Vec<u8> = self.slots(group).iter().flat_map(|t| t.id.0).collect();
            self.per_trace(group);
            let distinct = group.end_trace - group.first_trace;
            self.chunker.ready(
                Extent::required(rows),
                &self.payloads,
                distinct,
                &dictionary,
                &mut traces,
            )?;
        }
        self.push(Field::Tenant, column);
        self.push(Field::TraceId, traces);

        let ids = dense(self.sources, self.layout, |s| s.span_id, |_, id| id);
        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            let bytes = ids[group.start as usize..group.end as usize].as_flattened();
            let data = Data::Fixed { bytes, width: 8 };
            self.chunker.given(
                Extent::required(group.end - group.start),
                data,
                Compress::Nothing,
                &mut column,
            )?;
        }
        self.push(Field::SpanId, column);

        let parents = dense(self.sources, self.layout, |s| s.parent_span_id, |_, id| id);
        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            self.rows.clear();
            let mut bytes = Vec::new();
            for at in group.start..group.end {
                let parent = parents[at as usize];
                if self.layout.pdelta[at as usize] == 0 && parent != [0; 8] {
                    self.rows.push(at - group.start);
                    bytes.extend_from_slice(&parent);
                }
            }
            let data = Data::Fixed {
                bytes: &bytes,
                width: 8,
            };
            let extent = Extent::optional(group.end - group.start, &self.rows);
            self.chunker.given(extent, data, Compress::Nothing, &mut column)?;
        }
        self.push(Field::ParentSpanId, column);
        Ok(())
    }

    fn slots(&self, group: &Group) -> &'a [crate::order::TraceSlot] {
        &self.layout.traces[group.first_trace as usize..group.end_trace as usize]
    }

    /// Fills `payloads` with each row's trace, counted from the group's first.
    fn per_trace(&mut self, group: &Group) {
        self.payloads.clear();
        for (local, slot) in self.slots(group).iter().enumerate() {
            let rows = slot.end.min(group.end) - slot.start.max(group.start);
            self.payloads.resize(self.payloads.len() + rows as usize, local as u32);
        }
    }

    fn structure(&mut self) -> Result<()> {
        let layout = self.layout;
        self.required(Field::Descendants, Heat::Hot, |at| layout.desc[at].into())?;
        self.required(Field::ParentDistance, Heat::Hot, |at| layout.pdelta[at].into())
    }

    /// A required column of numbers, `value` by position.
    fn required(&mut self, field: Field, heat: Heat, value: impl Fn(usize) -> u64) -> Result<()> {
        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            self.numbers.clear();
            self.numbers
                .extend((group.start as usize..group.end as usize).map(&value));
            let rows = group.end - group.start;
            self.chunker
                .numbers(Extent::required(rows), &self.numbers, field.form(), heat, &mut column)?;
        }
        self.push(field, column);
        Ok(())
    }

    fn times(&mut self) -> Result<()> {
        let starts = dense(self.sources, self.layout, |s| s.start, |_, v| v);
        let durations = dense(self.sources, self.layout, |s| s.duration, |_, v| v);
        for (group, facts) in self.layout.groups.iter().zip(&mut self.facts) {
            facts.min_start = u64::MAX;
            for at in group.start as usize..group.end as usize {
                let start = starts[at];
                facts.min_start = facts.min_start.min(start);
                facts.max_start = facts.max_start.max(start);
                facts.max_end = facts.max_end.max(start.max(start.wrapping_add_signed(durations[at])));
            }
        }
        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            self.per_trace(group);
            let slots = self.slots(group);
            let dictionary: Vec<u8> = slots.iter().flat_map(|t| t.min_start.to_le_bytes()).collect();
            let rows = group.end - group.start;
            let distinct = slots.len() as u32;
            self.chunker.ready(
                Extent::required(rows),
                &self.payloads,
                distinct,
                &dictionary,
                &mut column,
            )?;
        }
        self.push(Field::TraceStart, column);

        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            self.numbers.clear();
            for slot in self.slots(group) {
                let range = slot.start.max(group.start) as usize..slot.end.min(group.end) as usize;
                self.numbers
                    .extend(starts[range].iter().map(|start| start.wrapping_sub(slot.min_start)));
            }
            let extent = Extent::required(group.end - group.start);
            self.chunker
                .given(extent, Data::Split(&self.numbers), Compress::Everything, &mut column)?;
        }
        self.push(Field::Start, column);
        self.required(Field::StartSeconds, Heat::Hot, |at| start_seconds(starts[at]).into())?;
        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            self.numbers.clear();
            self.numbers.extend(
                durations[group.start as usize..group.end as usize]
                    .iter()
                    .map(|d| d.cast_unsigned()),
            );
            let extent = Extent::required(group.end - group.start);
            self.chunker
                .given(extent, Data::Split(&self.numbers), Compress::Everything, &mut column)?;
        }
        self.push(Field::Duration, column);
        self.required(Field::DurationBucket, Heat::Hot, |at| {
            duration::bucket(durations[at]).into()
        })
    }

    fn small_numbers(&mut self) -> Result<()> {
        let kinds = dense(self.sources, self.layout, |s| s.kind, |_, v| v);
        self.required(Field::Kind, Heat::Hot, |at| kinds[at].into())?;
        let statuses = dense(self.sources, self.layout, |s| s.status, |_, v| v);
        self.required(Field::Status, Heat::Hot, |at| {
            (i64::from(statuses[at]) - 1).cast_unsigned()
        })?;
        let flags = dense(self.sources, self.layout, |s| s.flags, |_, v| v);
        self.required(Field::Flags, Heat::Hot, |at| flags[at].into())
    }

    fn names_and_owners(&mut self) -> Result<()> {
        let global = GlobalText::merge(self.sources.iter().map(|s| Some(s.names)));
        self.section.add_names(global.values.iter().copied());
        let names = dense(self.sources, self.layout, |s| s.name, |s, id| global.map(s, id));
        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            let ids = &names[group.start as usize..group.end as usize];
            let rows = group.end - group.start;
            self.chunker.interned(
                Extent::required(rows),
                ids,
                &global.values,
                Heat::Hot,
                None,
                &mut column,
            )?;
        }
        self.push(Field::Name, column);

        let resources = self.owner_ids(|s| (s.resource, s.resources), Section::resource)?;
        let services: Vec<u32> = resources.iter().map(|r| self.section.service_of[*r as usize]).collect();
        let service_values = self.section.services.clone();
        let service_values: Vec<&[u8]> = service_values.iter().map(|s| &**s).collect();
        let column = self.optional_ids(|_, at| services[at], &service_values)?;
        self.push(Field::Service, column);
        self.required(Field::Resource, Heat::Hot, |at| resources[at].into())?;
        let scopes = self.owner_ids(|s| (s.scope, s.scopes), |section, blob| Ok(section.scope(blob)))?;
        self.required(Field::Scope, Heat::Hot, |at| scopes[at].into())?;

        let root = |ids: &[u32], slot: &crate::order::TraceSlot| ids.get(slot.root as usize).copied().unwrap_or(NONE);
        let column = self.optional_ids(|slot, _| root(&services, slot), &service_values)?;
        self.push(Field::RootService, column);
        let column = self.optional_ids(|slot, _| root(&names, slot), &global.values)?;
        self.push(Field::RootName, column);
        Ok(())
    }

    /// Per position the section's number of an owner.
    fn owner_ids(
        &mut self,
        column: impl Fn(&'a RowsView<'a>) -> (&'a [u32], TextView<'a>),
        mut number: impl FnMut(&mut Section, &[u8]) -> Result<u32>,
    ) -> Result<Vec<u32>> {
        let mut maps: Vec<Vec<u32>> = Vec::with_capacity(self.sources.len());
        for source in self.sources {
            let (ids, blobs) = column(source);
            let mut map = vec![NONE; blobs.len()];
            for id in ids {
                let slot = map.get_mut(*id as usize).ok_or(Error::NoSuch {
                    what: "owner",
                    number: (*id).into(),
                })?;
                if *slot == NONE {
                    *slot = number(self.section, blobs.get(*id as usize))?;
                }
            }
            maps.push(map);
        }
        Ok(dense(
            self.sources,
            self.layout,
            |s| column(s).0,
            |s, id| maps[s][id as usize],
        ))
    }

    /// An optional column of interned text, ids by trace and position.
    fn optional_ids(
        &mut self,
        id: impl Fn(&crate::order::TraceSlot, usize) -> u32,
        values: &[&[u8]],
    ) -> Result<EncodedColumn> {
        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            self.rows.clear();
            self.payloads.clear();
            for slot in self.slots(group) {
                for at in slot.start.max(group.start)..slot.end.min(group.end) {
                    let id = id(slot, at as usize);
                    if id != NONE {
                        self.rows.push(at - group.start);
                        self.payloads.push(id);
                    }
                }
            }
            let extent = Extent::optional(group.end - group.start, &self.rows);
            self.chunker
                .interned(extent, &self.payloads, values, Heat::Hot, None, &mut column)?;
        }
        Ok(column)
    }

    fn sparse_fields(&mut self) -> Result<()> {
        for (field, pick) in [
            (
                Field::TraceState,
                (|s| s.trace_state) as fn(&RowsView<'a>) -> SparseView<'a>,
            ),
            (Field::StatusMessage, |s| s.status_message),
        ] {
            let column = self.sparse_text(pick, true)?;
            self.push(field, column);
        }
        for (field, which) in [
            (Field::DroppedAttributes, 0),
            (Field::DroppedEvents, 1),
            (Field::DroppedLinks, 2),
        ] {
            let columns: Vec<(u32, CountsView<'a>)> = self
                .bases
                .iter()
                .zip(self.sources)
                .map(|(b, s)| (*b, s.dropped[which]))
                .collect();
            let placed = Placed::new(
                self.layout,
                columns.iter().map(|(b, c)| (*b, c.rows, c.counts.iter().copied())),
            );
            let mut column = EncodedColumn::default();
            for group in &self.layout.groups {
                placed.group(group, &mut self.rows, &mut self.payloads);
                self.numbers.clear();
                self.numbers.extend(self.payloads.iter().map(|v| u64::from(*v)));
                let extent = Extent::optional(group.end - group.start, &self.rows);
                self.chunker
                    .numbers(extent, &self.numbers, field.form(), Heat::Cold, &mut column)?;
            }
            self.push(field, column);
        }
        for (field, pick) in [
            (Field::Events, (|s| s.events) as fn(&RowsView<'a>) -> SparseView<'a>),
            (Field::Links, |s| s.links),
            (Field::Extra, |s| s.extra),
        ] {
            let column = self.sparse_text(pick, false)?;
            self.push(field, column);
        }
        Ok(())
    }

    fn sparse_text(&mut self, pick: fn(&RowsView<'a>) -> SparseView<'a>, dictionary: bool) -> Result<EncodedColumn> {
        let columns: Vec<(u32, SparseView<'a>)> = self
            .bases
            .iter()
            .zip(self.sources)
            .map(|(b, s)| (*b, pick(s)))
            .collect();
        let values: Vec<&[u8]> = columns
            .iter()
            .flat_map(|(_, c)| (0..c.rows.len()).map(|i| c.text.get(i)))
            .collect();
        let placed = Placed::new(self.layout, numbered(columns.iter().map(|(b, c)| (*b, c.rows))));
        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            placed.group(group, &mut self.rows, &mut self.payloads);
            let extent = Extent::optional(group.end - group.start, &self.rows);
            if dictionary {
                self.chunker
                    .text(extent, &self.payloads, &values, Heat::Cold, None, &mut column)?;
            } else {
                self.chunker.blobs(extent, &self.payloads, &values, &mut column)?;
            }
        }
        Ok(column)
    }

    fn attribute(&mut self, at: usize, def: &AttributeDef) -> Result<EncodedColumn> {
        let key = &def.attribute;
        let found: Vec<Option<AttributeView<'a>>> = self
            .sources
            .iter()
            .map(|s| {
                s.attributes
                    .iter()
                    .find(|a| *a.key == *key.key && a.value_type == key.value_type)
                    .copied()
            })
            .collect();
        let heat = if def.hot { Heat::Hot } else { Heat::Cold };
        // Another tenant's column in the same object is no business of this section's catalogue.
        let occurs = found.iter().flatten().any(|a| !a.rows().is_empty());
        let number = if occurs {
            self.section.catalogue.number(&key.key, key.value_type)
        } else {
            None
        };
        match key.value_type {
            ValueType::String => self.text_attribute(at, def, &found, heat, number),
            ValueType::Int | ValueType::Double | ValueType::Bool | ValueType::Raw => {
                self.other_attribute(key.value_type, &found, heat, number)
            }
        }
    }

    fn text_attribute(
        &mut self,
        at: usize,
        def: &AttributeDef,
        found: &[Option<AttributeView<'a>>],
        heat: Heat,
        number: Option<u32>,
    ) -> Result<EncodedColumn> {
        let seed = def.attribute.seed();
        let mut hashes = std::mem::take(&mut self.section.value_hashes[at]);
        let mut told = |value: &[u8]| hashes.push(bloom::hash(seed, value));
        let mut column = EncodedColumn::default();
        let interned = found
            .iter()
            .flatten()
            .all(|a| matches!(a.column.values, Values::Dict { .. }));
        if interned {
            let global = GlobalText::merge(found.iter().map(|a| match a.as_ref()?.column.values {
                Values::Dict {
                    dict: DictView::Bytes { offsets, bytes },
                    ..
                } => Some(TextView { offsets, bytes }),
                _ => None,
            }));
            let columns = found.iter().zip(&self.bases).enumerate().filter_map(|(s, (a, base))| {
                let a = a.as_ref()?;
                let Values::Dict { ids, .. } = a.column.values else {
                    return None;
                };
                let global = &global;
                Some((*base, a.rows(), ids.iter().map(move |id| global.map(s, *id))))
            });
            let placed = Placed::new(self.layout, columns);
            let (mut count, mut distinct) = (0u64, 0u64);
            for group in &self.layout.groups {
                placed.group(group, &mut self.rows, &mut self.payloads);
                let extent = Extent::optional(group.end - group.start, &self.rows);
                let sink: OnDistinct<'_> = if def.id_like { Some(&mut told) } else { None };
                let values = &global.values;
                distinct +=
                    self.chunker
                        .interned(extent, &self.payloads, values, heat, sink, &mut column)? as u64;
                count += self.payloads.len() as u64;
            }
            self.section
                .catalogue
                .count_texts(number, count, distinct, global.values.iter().copied());
        } else {
            let values: Vec<&[u8]> = found.iter().flatten().flat_map(text_values).collect();
            let placed = Placed::new(self.layout, numbered(rows_of(&self.bases, found)));
            for group in &self.layout.groups {
                placed.group(group, &mut self.rows, &mut self.payloads);
                let extent = Extent::optional(group.end - group.start, &self.rows);
                let sink: OnDistinct<'_> = if def.id_like { Some(&mut told) } else { None };
                let distinct = self
                    .chunker
                    .text(extent, &self.payloads, &values, heat, sink, &mut column)?;
                let bytes: u64 = self.payloads.iter().map(|p| values[*p as usize].len() as u64).sum();
                let count = self.payloads.len() as u64;
                let distinct_bytes = (bytes * distinct as u64).checked_div(count).unwrap_or(0);
                self.section
                    .catalogue
                    .count_unlisted(number, count, distinct as u64, distinct_bytes);
            }
        }
        self.section.value_hashes[at] = hashes;
        Ok(column)
    }

    fn other_attribute(
        &mut self,
        value_type: ValueType,
        found: &[Option<AttributeView<'a>>],
        heat: Heat,
        number: Option<u32>,
    ) -> Result<EncodedColumn> {
        let placed = Placed::new(self.layout, numbered(rows_of(&self.bases, found)));
        let values = OtherValues::collect(value_type, found);
        let mut count = 0;
        let mut column = EncodedColumn::default();
        for group in &self.layout.groups {
            placed.group(group, &mut self.rows, &mut self.payloads);
            let extent = Extent::optional(group.end - group.start, &self.rows);
            match &values {
                OtherValues::Int(values) => {
                    self.numbers.clear();
                    self.numbers.extend(self.payloads.iter().map(|p| values[*p as usize]));
                    self.chunker
                        .numbers(extent, &self.numbers, Form::Int64, heat, &mut column)?;
                }
                OtherValues::Double(values) => {
                    self.numbers.clear();
                    self.numbers.extend(self.payloads.iter().map(|p| values[*p as usize]));
                    let data = Data::Split(&self.numbers);
                    self.chunker.given(extent, data, Compress::Everything, &mut column)?;
                }
                OtherValues::Bool(values) => {
                    let bits: Vec<bool> = self.payloads.iter().map(|p| values[*p as usize]).collect();
                    self.chunker
                        .given(extent, Data::Bits(&bits), Compress::Nothing, &mut column)?;
                }
                OtherValues::Raw(values) => {
                    self.chunker.blobs(extent, &self.payloads, values, &mut column)?;
                }
            }
            count += self.payloads.len() as u64;
        }
        self.section.catalogue.count_others(number, count, values.range());
        Ok(column)
    }
}

/// Rows of each source that has the attribute, with the source's first global row.
fn rows_of<'s, 'a: 's>(
    bases: &'s [u32],
    found: &'s [Option<AttributeView<'a>>],
) -> impl Iterator<Item = (u32, &'a [u32])> + Clone + 's {
    bases
        .iter()
        .zip(found)
        .filter_map(|(base, a)| Some((*base, a.as_ref()?.rows())))
}

/// Numbers the values of several columns through, as payloads for [`Placed::new`].
fn numbered<'a>(
    columns: impl Iterator<Item = (u32, &'a [u32])> + Clone,
) -> impl Iterator<Item = (u32, &'a [u32], std::ops::Range<u32>)> + Clone {
    columns.scan(0u32, |next, (base, rows)| {
        let first = *next;
        *next += rows.len() as u32;
        Some((base, rows, first..*next))
    })
}

fn text_values<'v, 'a>(attribute: &'v AttributeView<'a>) -> impl Iterator<Item = &'a [u8]> + 'v + use<'v, 'a> {
    let n = attribute.rows().len();
    (0..n).map(|at| match crate::rows::value_at(&attribute.column.values, at) {
        Some(model::ValueRef::String(text)) => text,
        _ => &[],
    })
}

/// The values of an attribute that is not text, all sources end to end. Numbers as their bits.
enum OtherValues<'a> {
    Int(Vec<u64>),
    Double(Vec<u64>),
    Bool(Vec<bool>),
    Raw(Vec<&'a [u8]>),
}

impl<'a> OtherValues<'a> {
    fn collect(value_type: ValueType, found: &[Option<AttributeView<'a>>]) -> Self {
        let found = || found.iter().flatten();
        match value_type {
            ValueType::Int => Self::Int(
                found()
                    .flat_map(|a| match a.column.values {
                        Values::Int(values) => values,
                        _ => &[],
                    })
                    .map(|v| v.cast_unsigned())
                    .collect(),
            ),
            ValueType::Double => Self::Double(
                found()
                    .flat_map(|a| match a.column.values {
                        Values::Double(values) => values,
                        _ => &[],
                    })
                    .map(|v| v.to_bits())
                    .collect(),
            ),
            ValueType::Bool => Self::Bool(
                found()
                    .flat_map(|a| match a.column.values {
                        Values::Bool(values) => values,
                        _ => &[],
                    })
                    .copied()
                    .collect(),
            ),
            ValueType::String | ValueType::Raw => Self::Raw(
                found()
                    .flat_map(|a| {
                        let (offsets, bytes) = match a.column.values {
                            Values::Raw { offsets, bytes } => (offsets, bytes),
                            _ => (&[0u32][..], &[][..]),
                        };
                        let text = TextView { offsets, bytes };
                        (0..text.len()).map(move |i| text.get(i))
                    })
                    .collect(),
            ),
        }
    }

    fn range(&self) -> Option<(f64, f64)> {
        let fold = |range: Option<(f64, f64)>, v: f64| {
            if v.is_nan() {
                return range;
            }
            Some(range.map_or((v, v), |(low, high)| (low.min(v), high.max(v))))
        };
        match self {
            Self::Int(values) => {
                let low = values.iter().map(|v| v.cast_signed()).min()?;
                let high = values.iter().map(|v| v.cast_signed()).max()?;
                // Rounded outwards, so that the range is never narrower than the values.
                Some(((low as f64).next_down(), (high as f64).next_up()))
            }
            Self::Double(values) => values.iter().map(|v| f64::from_bits(*v)).fold(None, fold),
            Self::Bool(_) | Self::Raw(_) => None,
        }
    }
}

/// The dictionaries of several sources as one.
pub(crate) struct GlobalText<'a> {
    pub values: Vec<&'a [u8]>,
    /// Per source; `None` when there is only one, whose ids then are the global ones.
    maps: Option<Vec<Vec<u32>>>,
}

impl<'a> GlobalText<'a> {
    fn merge(texts: impl Iterator<Item = Option<TextView<'a>>>) -> Self {
        let texts: Vec<Option<TextView<'a>>> = texts.collect();
        if texts.iter().flatten().count() <= 1 {
            let values = texts
                .into_iter()
                .flatten()
                .flat_map(|t| (0..t.len()).map(move |i| t.get(i)))
                .collect();
            return Self { values, maps: None };
        }
        let mut values = Vec::new();
        let mut by_value: HashMap<&'a [u8], u32> = HashMap::new();
        let maps = texts
            .into_iter()
            .map(|text| {
                let Some(text) = text else { return Vec::new() };
                (0..text.len())
                    .map(|i| {
                        let value = text.get(i);
                        *by_value.entry(value).or_insert_with(|| {
                            values.push(value);
                            values.len() as u32 - 1
                        })
                    })
                    .collect()
            })
            .collect();
        Self {
            values,
            maps: Some(maps),
        }
    }

    #[inline]
    fn map(&self, source: usize, id: u32) -> u32 {
        match &self.maps {
            None => id,
            Some(maps) => maps[source][id as usize],
        }
    }
}

/// Saturating whole seconds.
fn start_seconds(start_unix_nanos: u64) -> u32 {
    u32::try_from(start_unix_nanos / 1_000_000_000)
        .unwrap_or(u32::MAX)
        .min(i32::MAX as u32)
}

mod tail;
