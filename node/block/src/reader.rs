//! Reads a block by range: opens a section, fetches column chunks, answers columns and traces.
//!
//! [`Block`] is cheap to make from a cached [`BlockIndex`]; it holds no bytes of the object. [`Block::row_group`] fetches
//! what is asked for, a range for each column, and gives a [`RowGroup`], from which columns are decoded
//! on demand, without further IO. A trace costs one request: the whole row group ([`Block::trace`]).
//!
//! Everything handed out was checked by CRC when it was decoded. Nothing is cached here.

mod assemble;
mod tail;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::column::{Column, Dict, OwnedValues};
use model::{Scope, TenantId, TraceId, Value, ValueType};

use crate::decode::{Bad, Chunk, Decoded, Dictionary, Plain};
use crate::error::{Error, Result};
use crate::filter::Filters;
use crate::format::PAGE_ROWS;
use crate::index::BlockIndex;
use crate::range::{Look, RangeReader, read_checked};
use crate::rows::{SpanRows, TextView};
use crate::schema::{AttributeKey, Field};
use crate::writer::SectionSummary;

/// One tenant's part of a block, ready to be read.
#[derive(Debug, Clone)]
pub struct Block {
    reader: Arc<dyn RangeReader>,
    object: Arc<str>,
    index: Arc<BlockIndex>,
}

/// Where a section lies in its object, as the catalog remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionLocation {
    /// Bytes of the index section.
    pub index: Range<u64>,
    /// Bytes of the bloom section.
    pub bloom: Range<u64>,
}

impl From<&SectionSummary> for SectionLocation {
    fn from(section: &SectionSummary) -> Self {
        Self {
            index: section.index.clone(),
            bloom: section.bloom.clone(),
        }
    }
}

/// Columns of a row group to fetch.
#[derive(Debug, Clone, Copy)]
pub enum Columns<'a> {
    /// The whole row group, one request.
    All,
    /// These file columns ([`Field::ordinal`], [`BlockIndex::attribute_column`]).
    Some(&'a [usize]),
}

impl Block {
    /// Reads the index of `tenant`'s section of `object`: one request.
    pub async fn open(
        reader: Arc<dyn RangeReader>,
        object: &str,
        location: &SectionLocation,
        tenant: &TenantId,
    ) -> Result<Self> {
        let object: Arc<str> = object.into();
        let index = read_checked(&reader, &object, location.index.clone(), |bytes| {
            BlockIndex::open(&object, location.index.start, &bytes, tenant)
        })
        .await?;
        Ok(Self {
            reader,
            object,
            index: Arc::new(index),
        })
    }

    /// A block whose index the caller has cached.
    pub fn with_index(reader: Arc<dyn RangeReader>, object: &str, index: Arc<BlockIndex>) -> Self {
        Self {
            reader,
            object: object.into(),
            index,
        }
    }

    /// The index, to be cached.
    pub fn index(&self) -> &Arc<BlockIndex> {
        &self.index
    }

    /// The object's path.
    pub fn object(&self) -> &Arc<str> {
        &self.object
    }

    /// Reads the filters: one request. To be cached.
    pub async fn filters(&self, location: &SectionLocation) -> Result<Filters> {
        Filters::read(&self.reader, &self.object, location.bloom.clone()).await
    }

    /// The object ranges that [`Block::row_group`] asks for, ascending: one for each column, so that caches keep columns
    /// and not whatever stood between them. [`crate::JoiningReader`] makes fewer reads of them.
    pub fn ranges(&self, group: usize, columns: Columns<'_>) -> Result<Vec<Range<u64>>> {
        let fence = self.index.fences().get(group).ok_or(Error::NoSuch {
            what: "row group",
            number: group as u64,
        })?;
        let whole = fence.offset..fence.offset + fence.length;
        let Columns::Some(columns) = columns else {
            return Ok(vec![whole]);
        };
        let mut wanted = Vec::with_capacity(columns.len());
        for &column in columns {
            let range = self.index.chunk_range(group, column);
            let range = range.ok_or(Error::NoSuch {
                what: "column",
                number: column as u64,
            })?;
            wanted.push(fence.offset + u64::from(range.start)..fence.offset + u64::from(range.end));
        }
        wanted.sort_by_key(|r| r.start);
        wanted.dedup();
        Ok(wanted)
    }

    /// Fetches columns of a row group and hands them to `read`, once more if they turn out to be damaged.
    pub async fn read_row_group<T>(
        &self,
        group: usize,
        columns: Columns<'_>,
        mut read: impl FnMut(&RowGroup) -> Result<T>,
    ) -> Result<T> {
        let first = self.fetch(group, columns, Look::First).await;
        let first = first.and_then(|rows| read(&rows));
        if !Look::First.is_not_enough(&self.reader, &first) {
            return first;
        }
        let again = self.fetch(group, columns, Look::Again).await;
        let again = again.and_then(|rows| read(&rows));
        Look::Again.is_not_enough(&self.reader, &again);
        again
    }

    /// Fetches columns of a row group. Nothing is checked before it is decoded; [`Block::read_row_group`] looks twice.
    pub async fn row_group(&self, group: usize, columns: Columns<'_>) -> Result<RowGroup> {
        self.fetch(group, columns, Look::First).await
    }

    /// The same once more, past whatever is kept: what came first turned out to be damaged.
    pub async fn row_group_again(&self, group: usize, columns: Columns<'_>) -> Result<RowGroup> {
        self.fetch(group, columns, Look::Again).await
    }

    /// Says that bytes read a second time are damaged too; for whoever decodes what [`Block::row_group_again`] gave.
    pub fn report<T>(&self, second_look: &Result<T>) {
        Look::Again.is_not_enough(&self.reader, second_look);
    }

    async fn fetch(&self, group: usize, columns: Columns<'_>, look: Look) -> Result<RowGroup> {
        let ranges = self.ranges(group, columns)?;
        let parts = look.read(&self.reader, &self.object, &ranges).await?;
        let base = self.index.fences()[group].offset;
        let parts = ranges.iter().map(|r| r.start - base).zip(parts).collect();
        Ok(RowGroup {
            object: self.object.clone(),
            index: self.index.clone(),
            group,
            parts,
        })
    }

    /// The ids of the traces in a row group, ascending: one request for the dictionary page of the trace ids.
    pub async fn trace_ids(&self, group: usize) -> Result<Vec<TraceId>> {
        let column = Field::TraceId.ordinal();
        let (fence, chunk) = self
            .index
            .fences()
            .get(group)
            .zip(self.index.chunk(group, column))
            .ok_or(Error::NoSuch {
                what: "row group",
                number: group as u64,
            })?;
        let (start, meta) = chunk;
        let at = fence.offset + u64::from(start);
        let corrupt = || Error::Corrupt {
            object: self.object.clone(),
            offset: at,
            what: "dictionary page",
        };
        let page = meta.dictionary.as_ref().ok_or_else(corrupt)?;
        let range = at..at + u64::from(page.header) + u64::from(page.stored);
        let ids = |bytes: Bytes| {
            let chunk = Chunk {
                meta: &meta,
                bytes: &bytes,
                form: Field::TraceId.form(),
                optional: false,
                rows: fence.rows,
            };
            match chunk.dictionary() {
                Ok(Some(Dictionary::Fixed16(ids))) => Ok(ids.into_iter().map(TraceId).collect()),
                _ => Err(corrupt()),
            }
        };
        read_checked(&self.reader, &self.object, range, ids).await
    }

    /// All spans of a trace, in preorder; empty when it is not here. One request, or one per piece of a trace that was
    /// cut. Ask [`Block::filters`] first.
    pub async fn trace(&self, trace: &TraceId) -> Result<Vec<SpanRows>> {
        let mut found = Vec::new();
        for group in self.index.groups_of_trace(trace) {
            found.extend(self.trace_in(group, trace).await?);
        }
        Ok(found)
    }

    /// The spans of a trace in one row group, in preorder; `None` when it is not there. One request.
    pub async fn trace_in(&self, group: usize, trace: &TraceId) -> Result<Option<SpanRows>> {
        self.read_row_group(group, Columns::All, |row_group| {
            let rows = row_group.trace_rows(trace)?;
            rows.map(|rows| row_group.spans(rows)).transpose()
        })
        .await
    }
}

/// Fetched columns of one row group. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct RowGroup {
    object: Arc<str>,
    index: Arc<BlockIndex>,
    group: usize,
    /// Offset in the row group and bytes, ascending.
    parts: Vec<(u64, Bytes)>,
}

impl RowGroup {
    /// A row group from the bytes of its whole range, fetched by the caller beside the index.
    pub fn from_bytes(object: &Arc<str>, index: Arc<BlockIndex>, group: usize, bytes: Bytes) -> Result<Self> {
        let fence = index.fences().get(group).ok_or(Error::NoSuch {
            what: "row group",
            number: group as u64,
        })?;
        if bytes.len() as u64 != fence.length {
            let offset = fence.offset + bytes.len() as u64;
            return Err(Error::Corrupt {
                object: object.clone(),
                offset,
                what: "end of row group",
            });
        }
        Ok(Self {
            object: object.clone(),
            index,
            group,
            parts: vec![(0, bytes)],
        })
    }

    /// The index it belongs to.
    pub fn index(&self) -> &Arc<BlockIndex> {
        &self.index
    }

    /// Its number in the section.
    pub fn number(&self) -> usize {
        self.group
    }

    /// Spans.
    pub fn len(&self) -> usize {
        self.index.fences()[self.group].rows as usize
    }

    /// Never: a row group holds at least one span.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether these columns are among those that were fetched.
    pub fn has(&self, columns: &[usize]) -> bool {
        columns.iter().all(|column| {
            let Some(wanted) = self.index.chunk_range(self.group, *column) else {
                return false;
            };
            self.parts
                .iter()
                .any(|(at, bytes)| *at <= u64::from(wanted.start) && u64::from(wanted.end) <= *at + bytes.len() as u64)
        })
    }

    /// Bytes fetched.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|(_, part)| part.len()).sum()
    }

    fn corrupt(&self, column: usize, bad: Bad) -> Error {
        let base = self.index.fences()[self.group].offset;
        let chunk = self.index.chunk_range(self.group, column).map_or(0, |r| r.start);
        Error::Corrupt {
            object: self.object.clone(),
            offset: base + u64::from(chunk) + u64::from(bad.at),
            what: bad.what,
        }
    }

    /// Runs `read` on a column's chunk.
    fn chunk<T>(&self, column: usize, read: impl FnOnce(&Chunk<'_>) -> Result<T, Bad>) -> Result<T> {
        let (start, meta) = self.index.chunk(self.group, column).ok_or_else(|| {
            self.corrupt(
                column,
                Bad {
                    at: 0,
                    what: "page list",
                },
            )
        })?;
        let (start, length) = (u64::from(start), meta.len());
        let part = self
            .parts
            .partition_point(|(at, _)| *at <= start)
            .checked_sub(1)
            .map(|i| &self.parts[i]);
        let bytes = part.and_then(|(at, bytes)| {
            let from = (start - at) as usize;
            bytes.get(from..from + length as usize)
        });
        let bytes = bytes.ok_or(Error::NoSuch {
            what: "fetched column",
            number: column as u64,
        })?;
        let schema = self.index.schema();
        let chunk = Chunk {
            meta: &meta,
            bytes,
            form: schema.form(column),
            optional: schema.is_optional(column),
            rows: self.len() as u32,
        };
        read(&chunk).map_err(|bad| self.corrupt(column, bad))
    }

    /// Checks every page of the columns that were fetched, which decoding does too but only for what it needs.
    pub fn verify(&self) -> Result<()> {
        for column in 0..self.index.schema().len() {
            match self.chunk(column, |chunk| chunk.verify()) {
                // Not among the columns that were asked for.
                Err(Error::NoSuch { .. }) => {}
                checked => checked?,
            }
        }
        Ok(())
    }

    fn decode(&self, column: usize) -> Result<Decoded> {
        self.chunk(column, |chunk| chunk.decode(0, chunk.meta.pages.len()))
    }

    /// The rows `rows` of a column, counted from `rows.start`. Decodes only the pages they lie in.
    fn decode_rows(&self, column: usize, rows: &Range<u32>) -> Result<Decoded> {
        if rows.start == 0 && rows.end as usize == self.len() {
            return self.decode(column);
        }
        let (from, to) = (rows.start / PAGE_ROWS, rows.end.div_ceil(PAGE_ROWS));
        let first = from * PAGE_ROWS;
        let decoded = self.chunk(column, |chunk| chunk.decode(from as usize, to as usize))?;
        Ok(decoded.trim(rows.start - first, rows.end - first))
    }

    /// A file column as it is stored. The column must have been fetched.
    pub fn column(&self, column: usize) -> Result<Column> {
        Ok(self.decode(column)?.into_column(self.index.schema().form(column)))
    }

    /// A file column, only for the pages that hold `rows` (ascending). The answer may hold more rows, never fewer; rows
    /// are those of the row group, always listed.
    pub fn column_at(&self, column: usize, rows: &[u32]) -> Result<Column> {
        let form = self.index.schema().form(column);
        let pages = pages_of(rows);
        Ok(self.chunk(column, |chunk| chunk.decode_some(&pages))?.into_column(form))
    }

    /// The distinct values of a dictionary column without its ids: one page instead of nine. `None` when the chunk has no
    /// dictionary of text. A value that is not here is in no row.
    pub fn distinct_texts(&self, column: usize) -> Result<Option<Dict>> {
        Ok(match self.chunk(column, |chunk| chunk.dictionary())? {
            Some(Dictionary::Text(text)) => Some(Dict::Bytes {
                offsets: text.offsets,
                bytes: text.bytes,
            }),
            _ => None,
        })
    }

    /// A fixed column in the query's terms: [`Field::Start`] as absolute times (needs [`Field::TraceStart`] too),
    /// [`Field::Status`] with no value where the span has no status, all others as stored.
    pub fn field(&self, field: Field) -> Result<Column> {
        match field {
            Field::Start => {
                let starts = self.starts(&(0..self.len() as u32))?;
                let values = starts.into_iter().map(u64::cast_signed).collect();
                Ok(Column {
                    rows: None,
                    values: OwnedValues::Int(values),
                })
            }
            Field::Status => Ok(without_absent_status(self.column(field.ordinal())?)),
            _ => self.column(field.ordinal()),
        }
    }

    /// [`RowGroup::field`] for the pages that hold `rows` only (ascending). The answer may hold more rows, never fewer;
    /// rows are those of the row group, always listed.
    pub fn field_at(&self, field: Field, rows: &[u32]) -> Result<Column> {
        let column = match field {
            Field::Start => {
                let pages = pages_of(rows);
                let (listed, mut starts) = self.numbers_at(field, &pages)?;
                let (also_listed, bases) = self.numbers_at(Field::TraceStart, &pages)?;
                if listed != also_listed {
                    let column = Field::TraceStart.ordinal();
                    return Err(self.corrupt(column, Bad { at: 0, what: "numbers" }));
                }
                for (start, base) in starts.iter_mut().zip(bases) {
                    *start = start.wrapping_add(base);
                }
                Column {
                    rows: Some(listed),
                    values: OwnedValues::Int(starts.into_iter().map(u64::cast_signed).collect()),
                }
            }
            _ => self.column_at(field.ordinal(), rows)?,
        };
        Ok(if field == Field::Status {
            without_absent_status(column)
        } else {
            column
        })
    }

    /// [`RowGroup::attribute`] for the pages that hold `rows` only, as far as the attribute has columns of its own.
    pub fn attribute_at(&self, key: &[u8], rows: &[u32]) -> Result<Vec<Column>> {
        let mut columns = Vec::new();
        let mut in_tail = false;
        for attribute in attribute_types(key) {
            if let Some(column) = self.index.attribute_column(&attribute) {
                let column = self.column_at(column, rows)?;
                if column.values_len() > 0 {
                    columns.push(column);
                }
            }
            in_tail |= self.index.tail_may_hold(self.group, &attribute);
        }
        if in_tail {
            columns.extend(self.tail_columns(key)?);
        }
        Ok(columns)
    }

    /// Rows of these pages and a required column's numbers there.
    fn numbers_at(&self, field: Field, pages: &[usize]) -> Result<(Vec<u32>, Vec<u64>)> {
        let decoded = self.chunk(field.ordinal(), |chunk| chunk.decode_some(pages))?;
        let rows = decoded.rows.unwrap_or_default();
        let numbers = decoded
            .values
            .into_numbers()
            .filter(|numbers| numbers.len() == rows.len());
        let numbers = numbers.ok_or_else(|| self.corrupt(field.ordinal(), Bad { at: 0, what: "numbers" }))?;
        Ok((rows, numbers))
    }

    /// Per row: index of its trace, and the trace ids by index, ascending.
    pub fn traces(&self) -> Result<(Vec<u32>, Vec<TraceId>)> {
        self.traces_in(&(0..self.len() as u32))
    }

    fn traces_in(&self, rows: &Range<u32>) -> Result<(Vec<u32>, Vec<TraceId>)> {
        let column = Field::TraceId.ordinal();
        match self.decode_rows(column, rows)?.values {
            Plain::Ids {
                ids,
                dictionary: Dictionary::Fixed16(values),
            } => Ok((ids, values.into_iter().map(TraceId).collect())),
            _ => Err(self.corrupt(
                column,
                Bad {
                    at: 0,
                    what: "trace ids",
                },
            )),
        }
    }

    /// Earliest start of each trace of [`RowGroup::traces`], by index. Needs [`Field::TraceStart`].
    ///
    /// Of a trace that was cut, the earliest of all its pieces.
    pub fn trace_starts(&self) -> Result<Vec<u64>> {
        let column = Field::TraceStart.ordinal();
        match self.chunk(column, |chunk| chunk.dictionary())? {
            Some(Dictionary::Numbers(starts)) => Ok(starts),
            _ => Err(self.corrupt(
                column,
                Bad {
                    at: 0,
                    what: "starts of traces",
                },
            )),
        }
    }

    /// Per row: rows of the subtree below, and distance up to the parent (0 for roots and orphans).
    pub fn structure(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let rows = 0..self.len() as u32;
        Ok((
            self.numbers32(Field::Descendants, &rows)?,
            self.numbers32(Field::ParentDistance, &rows)?,
        ))
    }

    /// A required column of whole numbers, dictionary resolved.
    fn numbers(&self, field: Field, rows: &Range<u32>) -> Result<Vec<u64>> {
        let decoded = self.decode_rows(field.ordinal(), rows)?;
        let complete = decoded.values.into_numbers().filter(|n| n.len() == rows.len());
        complete.ok_or_else(|| self.corrupt(field.ordinal(), Bad { at: 0, what: "numbers" }))
    }

    fn numbers32(&self, field: Field, rows: &Range<u32>) -> Result<Vec<u32>> {
        let decoded = self.decode_rows(field.ordinal(), rows)?;
        let complete = decoded.values.into_numbers32().filter(|n| n.len() == rows.len());
        complete.ok_or_else(|| self.corrupt(field.ordinal(), Bad { at: 0, what: "numbers" }))
    }

    fn starts(&self, rows: &Range<u32>) -> Result<Vec<u64>> {
        let mut starts = self.numbers(Field::Start, rows)?;
        let column = Field::TraceStart.ordinal();
        let bases = self.decode_rows(column, rows)?.values;
        let corrupt = || self.corrupt(column, Bad { at: 0, what: "numbers" });
        if let Plain::Ids {
            ids,
            dictionary: Dictionary::Numbers(bases),
        } = &bases
        {
            // As the writer has it. Without a list of the bases, which would be as long as that of the starts.
            if ids.len() != starts.len() {
                return Err(corrupt());
            }
            for (start, id) in starts.iter_mut().zip(ids) {
                *start = start.wrapping_add(bases[*id as usize]);
            }
            return Ok(starts);
        }
        let bases = bases.into_numbers().filter(|bases| bases.len() == starts.len());
        for (start, base) in starts.iter_mut().zip(bases.ok_or_else(corrupt)?) {
            *start = start.wrapping_add(base);
        }
        Ok(starts)
    }

    /// The rows of a trace; `None` when it is not in this row group. Needs [`Field::TraceId`].
    pub fn trace_rows(&self, trace: &TraceId) -> Result<Option<Range<u32>>> {
        let (ordinals, ids) = self.traces()?;
        let Ok(ordinal) = ids.binary_search(trace) else {
            return Ok(None);
        };
        let ordinal = ordinal as u32;
        let start = ordinals.partition_point(|o| *o < ordinal) as u32;
        let end = ordinals.partition_point(|o| *o <= ordinal) as u32;
        Ok((start < end).then_some(start..end))
    }

    /// The physical columns of an attribute of spans: its own, and what stands in the tail. Empty when no row has it.
    /// Needs the columns of [`RowGroup::attribute_columns`].
    pub fn attribute(&self, key: &[u8]) -> Result<Vec<Column>> {
        let mut columns = self.attribute_outside_tail(key)?;
        if attribute_types(key).any(|attribute| self.index.tail_may_hold(self.group, &attribute)) {
            columns.extend(self.tail_columns(key)?);
        }
        Ok(columns)
    }

    /// The same without what is in the tail, which then need not have been read.
    pub fn attribute_outside_tail(&self, key: &[u8]) -> Result<Vec<Column>> {
        let mut columns = Vec::new();
        for attribute in attribute_types(key) {
            if let Some(column) = self.index.attribute_column(&attribute) {
                let column = self.column(column)?;
                if column.values_len() > 0 {
                    columns.push(column);
                }
            }
        }
        Ok(columns)
    }

    /// The file columns that [`RowGroup::attribute`] reads for `key` in a row group.
    pub fn attribute_columns(index: &BlockIndex, group: usize, key: &[u8]) -> Vec<usize> {
        let mut columns: Vec<usize> = attribute_types(key)
            .filter_map(|a| index.attribute_column(&a))
            .collect();
        if attribute_types(key).any(|a| index.tail_may_hold(group, &a)) {
            columns.push(Field::Tail.ordinal());
        }
        columns
    }

    /// An attribute of resources or of instrumentation scopes as a dictionary over the owners' ids: a predicate is
    /// evaluated once per owner. Needs [`Field::Resource`] or [`Field::Scope`].
    pub fn owner_attribute(&self, scope: Scope, key: &[u8]) -> Result<Option<Column>> {
        let Some(dict) = self.index.owner_values(scope, key)? else {
            return Ok(None);
        };
        let field = if scope == Scope::Resource {
            Field::Resource
        } else {
            Field::Scope
        };
        self.owner_column(field, dict).map(Some)
    }

    /// A column over the ids of resources or scopes with a dictionary of one value per owner.
    pub fn owner_column(&self, field: Field, dict: Arc<Dict>) -> Result<Column> {
        let ids = self.numbers32(field, &(0..self.len() as u32))?;
        let owners = dict.view().len() as u32;
        if ids.iter().copied().max().is_some_and(|id| id >= owners) {
            return Err(self.corrupt(
                field.ordinal(),
                Bad {
                    at: 0,
                    what: "owner id",
                },
            ));
        }
        Ok(Column {
            rows: None,
            values: OwnedValues::Dict { ids, dict },
        })
    }
}

/// The pages that hold `rows` (ascending), each once.
fn pages_of(rows: &[u32]) -> Vec<usize> {
    let mut pages: Vec<usize> = rows.iter().map(|row| (row / PAGE_ROWS) as usize).collect();
    pages.dedup();
    pages
}

/// Turns the stored -1 into "no value".
fn without_absent_status(mut column: Column) -> Column {
    match &mut column.values {
        OwnedValues::Dict { dict, .. } => {
            if let Dict::Values(values) = Arc::make_mut(dict) {
                values
                    .iter_mut()
                    .filter(|v| matches!(v, Some(Value::Int(-1))))
                    .for_each(|v| *v = None);
            }
        }
        OwnedValues::Int(values) => {
            // Never written so (few values always make a dictionary), but the format allows it.
            values.iter_mut().filter(|v| **v == -1).for_each(|v| *v = 0);
        }
        _ => {}
    }
    column
}

fn attribute_types(key: &[u8]) -> impl Iterator<Item = AttributeKey> {
    [
        ValueType::String,
        ValueType::Int,
        ValueType::Double,
        ValueType::Bool,
        ValueType::Raw,
    ]
    .into_iter()
    .map(move |t| AttributeKey::new(key, t))
}

impl BlockIndex {
    /// The values of a resource or scope attribute by owner id, `None` where an owner lacks it; `None` altogether when
    /// none has it. Decode once per query and block.
    pub fn owner_values(&self, scope: Scope, key: &[u8]) -> Result<Option<Arc<Dict>>> {
        let (owners, number) = match scope {
            Scope::Resource => (&self.owners().resources, 1),
            Scope::Instrumentation => (&self.owners().scopes, 3),
            Scope::Span | Scope::Event | Scope::Link => return Ok(None),
        };
        let view: TextView<'_> = owners.view();
        let mut values: Vec<Option<Value>> = Vec::with_capacity(view.len());
        for at in 0..view.len() {
            let (message, _) = model::table::read_owner(view.get(at)).map_err(Error::Model)?;
            let mut value = None;
            for pair in model::otlp::attributes(message.unwrap_or_default(), number) {
                let (name, any) = pair.map_err(Error::Model)?;
                if name == key {
                    value = Some(Value::from_any_value(any).map_err(Error::Model)?);
                    break;
                }
            }
            values.push(value);
        }
        let some = values.iter().any(Option::is_some);
        Ok(some.then(|| Arc::new(Dict::Values(values))))
    }
}

/// Number of values of an owned column.
pub(crate) trait ValuesLen {
    fn values_len(&self) -> usize;
}

impl ValuesLen for Column {
    fn values_len(&self) -> usize {
        self.view().values.len()
    }
}
