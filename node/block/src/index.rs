//! The index section: all a reader needs to know of one tenant's part of a block, so that it never reads the footer.
//!
//! [`BlockIndex`] is opened from the section's bytes, holds the small parts decoded and the per-chunk page lists as
//! bytes that are looked into on demand (about 0.15 bytes per span), and is meant to be cached by the caller
//! ([`BlockIndex::memory_bytes`]). The byte layout is drawn in [`crate::format`].
//!
//! What always holds after [`BlockIndex::open`]: fences ascend by trace id and by offset, lie inside the row-group
//! range, and every page list was bounds-checked when it was looked up.

use std::collections::HashMap;
use std::sync::Arc;

use model::{TenantId, TraceId, ValueType};

use crate::cursor::{Cursor, put_bytes, put_varint};
use crate::error::{Error, Result};
use crate::format::{
    CATALOGUE_KEYS_MAX, CATALOGUE_VALUES_MAX, COLUMNS_MAX, INDEX_HEAD_BYTES, INDEX_MAGIC, PART_BYTES_MAX,
    ROW_GROUPS_MAX, TRACE_ROWS_MAX, VERSION, ZSTD_LEVEL, part_is_sane,
};
use crate::page::{ChunkMeta, Encoding, PageMeta, crc32};
use crate::rows::{Owners, Text};
use crate::schema::{AttributeDef, AttributeKey, BlockStats, ColumnStats, Field, Schema};

/// What one row group holds and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Smallest trace id.
    pub first_trace: TraceId,
    /// Largest trace id.
    pub last_trace: TraceId,
    /// First byte in the object.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Spans.
    pub rows: u32,
    /// Traces.
    pub traces: u32,
    /// Earliest start of a span, nanoseconds since the epoch.
    pub min_start: u64,
    /// Latest start of a span.
    pub max_start: u64,
    /// Latest end of a span (its start where the end lies before it).
    pub max_end: u64,
    /// Catalogue entries whose attributes occur in the tail column here, ascending.
    pub tail_keys: Vec<u32>,
    /// Whether the tail also holds attributes the catalogue had no room for.
    pub tail_is_open: bool,
}

/// What the block knows of one attribute of spans.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogueEntry {
    /// Which attribute.
    pub attribute: AttributeKey,
    /// Spans that have it.
    pub values: u64,
    /// Distinct values: exact when [`CatalogueEntry::listed`], else those of each row group added up, which is what decides
    /// whether a column looks like ids. 0 for other types than text.
    pub distinct: u64,
    /// Bytes of those distinct values together (text).
    pub distinct_bytes: u64,
    /// All distinct values of a text column, sorted; `None` when there are too many.
    pub listed: Option<Vec<Box<[u8]>>>,
    /// Smallest and largest number; `None` for other types and for a column of NaNs.
    pub range: Option<(f64, f64)>,
}

/// Totals of a section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Spans.
    pub spans: u64,
    /// Traces, those cut into pieces counted once.
    pub traces: u64,
    /// Earliest start, nanoseconds since the epoch.
    pub min_start: u64,
    /// Latest start.
    pub max_start: u64,
    /// Latest end.
    pub max_end: u64,
}

/// One tenant's part of a block, opened.
#[derive(Debug, Clone)]
pub struct BlockIndex {
    tenant: TenantId,
    totals: Totals,
    schema: Schema,
    columns: HashMap<AttributeKey, usize>,
    fences: Vec<Fence>,
    owners: Arc<Owners>,
    services: Vec<Box<[u8]>>,
    names: Option<Vec<Box<[u8]>>>,
    catalogue: Vec<CatalogueEntry>,
    catalogue_by_key: HashMap<AttributeKey, usize>,
    catalogue_is_whole: bool,
    chunks: Vec<u8>,
    /// Where each row group's page lists start in `chunks`; one entry more than there are row groups.
    chunk_starts: Vec<u32>,
}

/// What the writer hands over to become a section.
#[derive(Debug)]
pub(crate) struct IndexParts<'a> {
    pub tenant: &'a TenantId,
    pub totals: Totals,
    pub schema: &'a Schema,
    pub fences: &'a [Fence],
    pub owners: &'a Owners,
    pub services: Vec<&'a [u8]>,
    /// `None` when there were too many to list.
    pub names: Option<Vec<&'a [u8]>>,
    pub catalogue: &'a [CatalogueEntry],
    /// Whether no attribute was left out of the catalogue.
    pub catalogue_is_whole: bool,
    /// Per row group, what [`put_chunks`] wrote.
    pub chunks: &'a [Vec<u8>],
}

impl IndexParts<'_> {
    /// The section's bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let parts = [
            self.core(),
            self.owners_part(),
            self.catalogue_part(),
            self.chunks_part(),
        ];
        let mut head = Vec::with_capacity(INDEX_HEAD_BYTES);
        head.extend_from_slice(&INDEX_MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&0u16.to_le_bytes());
        let mut body = Vec::new();
        for plain in parts {
            if plain.len() as u64 > u64::from(PART_BYTES_MAX) {
                let found = plain.len() as u64;
                return Err(Error::TooLarge {
                    what: "index part bytes",
                    found,
                    limit: PART_BYTES_MAX.into(),
                });
            }
            let stored = zstd::bulk::compress(&plain, ZSTD_LEVEL)?;
            let offset = INDEX_HEAD_BYTES + body.len();
            for number in [offset, stored.len(), plain.len()] {
                head.extend_from_slice(&(number as u32).to_le_bytes());
            }
            head.extend_from_slice(&crc32(&stored).to_le_bytes());
            body.extend_from_slice(&stored);
        }
        head.extend_from_slice(&crc32(&head).to_le_bytes());
        head.extend_from_slice(&body);
        Ok(head)
    }

    fn core(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, self.tenant.as_str().as_bytes());
        let Totals {
            spans,
            traces,
            min_start,
            max_start,
            max_end,
        } = self.totals;
        for n in [spans, traces, min_start, max_start, max_end] {
            put_varint(&mut out, n);
        }
        put_varint(&mut out, Field::ALL.len() as u64);
        put_varint(&mut out, self.schema.attributes().len() as u64);
        for def in self.schema.attributes() {
            put_attribute(&mut out, &def.attribute);
            out.push(u8::from(def.hot) | u8::from(def.id_like) << 1);
        }
        put_varint(&mut out, self.fences.len() as u64);
        for f in self.fences {
            out.extend_from_slice(&f.first_trace.0);
            out.extend_from_slice(&f.last_trace.0);
            for n in [
                f.offset,
                f.length,
                f.rows.into(),
                f.traces.into(),
                f.min_start,
                f.max_start,
                f.max_end,
            ] {
                put_varint(&mut out, n);
            }
            out.push(u8::from(f.tail_is_open));
            put_varint(&mut out, f.tail_keys.len() as u64);
            let mut last = 0;
            for &key in &f.tail_keys {
                put_varint(&mut out, u64::from(key - last));
                last = key;
            }
        }
        out
    }

    fn owners_part(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for text in [&self.owners.resources, &self.owners.scopes] {
            let view = text.view();
            put_varint(&mut out, view.len() as u64);
            (0..view.len()).for_each(|i| put_bytes(&mut out, view.get(i)));
        }
        out
    }

    fn catalogue_part(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_list(&mut out, &self.services);
        out.push(u8::from(self.names.is_some()));
        if let Some(names) = &self.names {
            put_list(&mut out, names);
        }
        out.push(u8::from(self.catalogue_is_whole));
        put_varint(&mut out, self.catalogue.len() as u64);
        for entry in self.catalogue {
            put_attribute(&mut out, &entry.attribute);
            for n in [entry.values, entry.distinct, entry.distinct_bytes] {
                put_varint(&mut out, n);
            }
            out.push(u8::from(entry.listed.is_some()) | u8::from(entry.range.is_some()) << 1);
            if let Some(values) = &entry.listed {
                let values: Vec<&[u8]> = values.iter().map(|v| &**v).collect();
                put_list(&mut out, &values);
            }
            if let Some((low, high)) = entry.range {
                out.extend_from_slice(&low.to_le_bytes());
                out.extend_from_slice(&high.to_le_bytes());
            }
        }
        out
    }

    fn chunks_part(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.chunks.iter().map(|c| c.len() + 4).sum());
        for group in self.chunks {
            put_varint(&mut out, group.len() as u64);
        }
        self.chunks.iter().for_each(|group| out.extend_from_slice(group));
        out
    }
}

fn put_attribute(out: &mut Vec<u8>, attribute: &AttributeKey) {
    out.push(attribute.value_type as u8);
    put_bytes(out, &attribute.key);
}

fn put_list(out: &mut Vec<u8>, values: &[&[u8]]) {
    put_varint(out, values.len() as u64);
    values.iter().for_each(|v| put_bytes(out, v));
}

/// Appends the page lists of one row group: for each column the end of its bytes in the row group and of its list here,
/// four bytes each so that one column is found without reading the others, then the lists.
pub(crate) fn put_chunks(metas: &[ChunkMeta], out: &mut Vec<u8>) {
    let (mut bytes_end, mut lists) = (0u32, Vec::new());
    for meta in metas {
        bytes_end += meta.len() as u32;
        put_chunk(meta, &mut lists);
        out.extend_from_slice(&bytes_end.to_le_bytes());
        out.extend_from_slice(&(lists.len() as u32).to_le_bytes());
    }
    out.extend_from_slice(&lists);
}

fn put_chunk(meta: &ChunkMeta, out: &mut Vec<u8>) {
    let encoding = match meta.encoding {
        Encoding::Dict => 0u8,
        Encoding::Plain => 1,
        Encoding::Split => 2,
    };
    out.push(encoding | u8::from(meta.dictionary.is_some()) << 2);
    put_varint(out, meta.pages.len() as u64);
    for page in meta.dictionary.iter().chain(&meta.pages) {
        // Whether the page is compressed rides on the header length, which is about a dozen.
        put_varint(out, u64::from(page.header) << 1 | u64::from(page.zstd));
        for n in [page.stored, page.levels, page.plain, page.values] {
            put_varint(out, u64::from(n));
        }
        out.extend_from_slice(&page.crc.to_le_bytes());
    }
}

pub(crate) fn read_chunk(bytes: &[u8]) -> Option<ChunkMeta> {
    let mut c = Cursor::new(bytes);
    let head = c.byte()?;
    let encoding = match head & 3 {
        0 => Encoding::Dict,
        1 => Encoding::Plain,
        2 => Encoding::Split,
        _ => return None,
    };
    let pages = c.count(TRACE_ROWS_MAX as usize)?;
    let dictionary = if head & 4 != 0 { Some(read_page(&mut c)?) } else { None };
    let pages = (0..pages).map(|_| read_page(&mut c)).collect::<Option<Vec<_>>>()?;
    (c.is_empty() && (encoding == Encoding::Dict) == dictionary.is_some()).then_some(ChunkMeta {
        encoding,
        dictionary,
        pages,
    })
}

fn read_page(c: &mut Cursor<'_>) -> Option<PageMeta> {
    let head = c.varint32()?;
    let page = PageMeta {
        header: head >> 1,
        zstd: head & 1 != 0,
        stored: c.varint32()?,
        levels: c.varint32()?,
        plain: c.varint32()?,
        values: c.varint32()?,
        crc: c.u32()?,
    };
    (page.levels <= page.stored).then_some(page)
}

impl BlockIndex {
    /// Opens a section. `offset` is where `bytes` start in `object`; both are only for error messages.
    ///
    /// Errors: `Corrupt` when any byte is not what was written, `TooNew` for a later version, `Corrupt` too
    /// ([`Error::WrongTenant`]) when the section is another tenant's than the catalog believes.
    pub fn open(object: &Arc<str>, offset: u64, bytes: &[u8], tenant: &TenantId) -> Result<Self> {
        let index = Self::open_any(object, offset, bytes)?;
        if index.tenant != *tenant {
            return Err(Error::WrongTenant {
                object: object.clone(),
                offset,
            });
        }
        Ok(index)
    }

    /// Opens a section of whatever tenant.
    pub(crate) fn open_any(object: &Arc<str>, offset: u64, bytes: &[u8]) -> Result<Self> {
        let corrupt = |what, at: usize| Error::Corrupt {
            object: object.clone(),
            offset: offset + at as u64,
            what,
        };
        let head = bytes.get(..INDEX_HEAD_BYTES).ok_or_else(|| corrupt("index head", 0))?;
        let (checked, crc) = head.split_at(INDEX_HEAD_BYTES - 4);
        let mut c = Cursor::new(checked);
        if c.array() != Some(INDEX_MAGIC) {
            return Err(corrupt("index head", 0));
        }
        // The version is looked at before the checksum: a later version may well check another way.
        let version = c.u16().unwrap_or_default();
        if version > VERSION {
            return Err(Error::TooNew {
                object: object.clone(),
                found: version,
                known: VERSION,
            });
        }
        if crc != crc32(checked).to_le_bytes() || version == 0 || c.u16().is_none() {
            return Err(corrupt("index head", 0));
        }
        let mut parts: [Vec<u8>; 4] = Default::default();
        for (part, what) in parts
            .iter_mut()
            .zip(["index core", "index owners", "index catalogue", "index chunks"])
        {
            let mut number = || c.u32().unwrap_or_default();
            let (at, stored, plain, crc) = (number() as usize, number() as usize, number(), number());
            let slice = bytes
                .get(at..at.saturating_add(stored))
                .ok_or_else(|| corrupt(what, at))?;
            if crc32(slice) != crc || !part_is_sane(stored, plain) {
                return Err(corrupt(what, at));
            }
            *part = zstd::bulk::decompress(slice, plain as usize).map_err(|_| corrupt(what, at))?;
            if part.len() != plain as usize {
                return Err(corrupt(what, at));
            }
        }
        let [core, owners, catalogue, chunks] = parts;
        let mut index = Self::read_core(&core).ok_or_else(|| corrupt("index core", INDEX_HEAD_BYTES))?;
        index.owners = Arc::new(read_owners(&owners).ok_or_else(|| corrupt("index owners", INDEX_HEAD_BYTES))?);
        index
            .read_catalogue(&catalogue)
            .ok_or_else(|| corrupt("index catalogue", INDEX_HEAD_BYTES))?;
        index
            .read_chunks(chunks)
            .ok_or_else(|| corrupt("index chunks", INDEX_HEAD_BYTES))?;
        Ok(index)
    }

    fn read_core(bytes: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(bytes);
        let tenant = TenantId::new(std::str::from_utf8(c.bytes()?).ok()?).ok()?;
        let totals = Totals {
            spans: c.varint()?,
            traces: c.varint()?,
            min_start: c.varint()?,
            max_start: c.varint()?,
            max_end: c.varint()?,
        };
        if c.varint()? != Field::ALL.len() as u64 {
            return None;
        }
        let attributes = c.count(COLUMNS_MAX)?;
        let attributes = (0..attributes)
            .map(|_| {
                let attribute = read_attribute(&mut c)?;
                let flags = c.byte()?;
                Some(AttributeDef {
                    attribute,
                    hot: flags & 1 != 0,
                    id_like: flags & 2 != 0,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let groups = c.count(ROW_GROUPS_MAX)?;
        let fences = (0..groups).map(|_| read_fence(&mut c)).collect::<Option<Vec<_>>>()?;
        let ascending = fences.windows(2).all(|w| {
            w[0].last_trace <= w[1].first_trace
                && w[0].offset.checked_add(w[0].length).is_some_and(|e| e <= w[1].offset)
        });
        let sane = fences.iter().all(|f| f.first_trace <= f.last_trace && f.rows > 0);
        if !ascending || !sane || !c.is_empty() {
            return None;
        }
        let columns = attributes
            .iter()
            .enumerate()
            .map(|(i, def)| (def.attribute.clone(), Field::ALL.len() + i))
            .collect();
        Some(Self {
            tenant,
            totals,
            schema: Schema::of(attributes),
            columns,
            fences,
            owners: Arc::default(),
            services: Vec::new(),
            names: None,
            catalogue: Vec::new(),
            catalogue_by_key: HashMap::new(),
            catalogue_is_whole: false,
            chunks: Vec::new(),
            chunk_starts: Vec::new(),
        })
    }

    fn read_catalogue(&mut self, bytes: &[u8]) -> Option<()> {
        let mut c = Cursor::new(bytes);
        self.services = read_list(&mut c)?;
        self.names = if c.byte()? != 0 { Some(read_list(&mut c)?) } else { None };
        self.catalogue_is_whole = c.byte()? != 0;
        let entries = c.count(CATALOGUE_KEYS_MAX)?;
        for at in 0..entries {
            let attribute = read_attribute(&mut c)?;
            let (values, distinct, distinct_bytes) = (c.varint()?, c.varint()?, c.varint()?);
            let flags = c.byte()?;
            let listed = if flags & 1 != 0 { Some(read_list(&mut c)?) } else { None };
            let range = if flags & 2 != 0 {
                Some((f64::from_le_bytes(c.array()?), f64::from_le_bytes(c.array()?)))
            } else {
                None
            };
            self.catalogue_by_key.insert(attribute.clone(), at);
            self.catalogue.push(CatalogueEntry {
                attribute,
                values,
                distinct,
                distinct_bytes,
                listed,
                range,
            });
        }
        c.is_empty().then_some(())
    }

    fn read_chunks(&mut self, bytes: Vec<u8>) -> Option<()> {
        let mut c = Cursor::new(&bytes);
        let lengths = self.fences.iter().map(|_| c.varint32()).collect::<Option<Vec<_>>>()?;
        let mut at = bytes.len() - c.len();
        let directory = self.schema.len() * 8;
        self.chunk_starts.push(at as u32);
        for length in lengths {
            at += length as usize;
            if at > bytes.len() || (length as usize) < directory {
                return None;
            }
            self.chunk_starts.push(at as u32);
        }
        self.chunks = bytes;
        (at == self.chunks.len()).then_some(())
    }

    /// Where a column's bytes lie, relative to its row group, and its pages. `None`: the index contradicts itself.
    pub(crate) fn chunk(&self, group: usize, column: usize) -> Option<(u32, ChunkMeta)> {
        let bytes = self.group_chunks(group)?;
        let start = self.chunk_start(bytes, column)?;
        let list_start = if column == 0 {
            0
        } else {
            directory_entry(bytes, column - 1)?.1
        };
        let list_end = directory_entry(bytes, column)?.1;
        let lists = bytes.get(self.schema.len() * 8..)?;
        let meta = read_chunk(lists.get(list_start as usize..list_end as usize)?)?;
        let end = directory_entry(bytes, column)?.0;
        (u64::from(start) + meta.len() == u64::from(end)).then_some((start, meta))
    }

    /// The bytes of a column, relative to its row group.
    pub(crate) fn chunk_range(&self, group: usize, column: usize) -> Option<std::ops::Range<u32>> {
        let bytes = self.group_chunks(group)?;
        let range = self.chunk_start(bytes, column)?..directory_entry(bytes, column)?.0;
        (range.start <= range.end && u64::from(range.end) <= self.fences.get(group)?.length).then_some(range)
    }

    fn group_chunks(&self, group: usize) -> Option<&[u8]> {
        self.chunks
            .get(*self.chunk_starts.get(group)? as usize..*self.chunk_starts.get(group + 1)? as usize)
    }

    fn chunk_start(&self, bytes: &[u8], column: usize) -> Option<u32> {
        if column >= self.schema.len() {
            return None;
        }
        if column == 0 {
            Some(0)
        } else {
            directory_entry(bytes, column - 1).map(|e| e.0)
        }
    }

    /// Whose spans these are.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Totals of the section.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The columns.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The row groups.
    pub fn fences(&self) -> &[Fence] {
        &self.fences
    }

    /// Resources and scopes as they arrived.
    pub fn owners(&self) -> &Arc<Owners> {
        &self.owners
    }

    /// Distinct `service.name`s, sorted.
    pub fn services(&self) -> &[Box<[u8]>] {
        &self.services
    }

    /// Distinct span names, sorted; `None` when there are too many to list.
    pub fn names(&self) -> Option<&[Box<[u8]>]> {
        self.names.as_deref()
    }

    /// What is known of each attribute of spans.
    pub fn catalogue(&self) -> &[CatalogueEntry] {
        &self.catalogue
    }

    /// Whether [`BlockIndex::catalogue`] names every attribute that occurs.
    pub fn catalogue_is_whole(&self) -> bool {
        self.catalogue_is_whole
    }

    /// The catalogue entry of an attribute and its number, as used by [`Fence::tail_keys`].
    pub fn catalogue_entry(&self, attribute: &AttributeKey) -> Option<(u32, &CatalogueEntry)> {
        let at = *self.catalogue_by_key.get(attribute)?;
        Some((at as u32, &self.catalogue[at]))
    }

    /// The file column of an attribute; `None` when it is in the tail or nowhere.
    pub fn attribute_column(&self, attribute: &AttributeKey) -> Option<usize> {
        self.columns.get(attribute).copied()
    }

    /// The attributes that have a file column, in no order.
    pub fn attribute_columns(&self) -> impl Iterator<Item = &AttributeKey> {
        self.columns.keys()
    }

    /// Whether an attribute can occur in the tail of a row group.
    pub fn tail_may_hold(&self, group: usize, attribute: &AttributeKey) -> bool {
        let Some(fence) = self.fences.get(group) else {
            return false;
        };
        match self.catalogue_entry(attribute) {
            Some((at, _)) => fence.tail_keys.binary_search(&at).is_ok(),
            None => fence.tail_is_open,
        }
    }

    /// The row groups that can hold a trace: one, or several neighbours for a trace cut into pieces.
    pub fn groups_of_trace(&self, trace: &TraceId) -> std::ops::Range<usize> {
        let start = self.fences.partition_point(|f| f.last_trace < *trace);
        let mut end = start;
        while self.fences.get(end).is_some_and(|f| f.first_trace <= *trace) {
            end += 1;
        }
        start..end
    }

    /// Adds this section's attributes to the statistics of a block it will be merged into.
    pub fn add_stats(&self, stats: &mut BlockStats) {
        stats.spans += self.totals.spans;
        for entry in &self.catalogue {
            let numbers = ColumnStats {
                values: entry.values,
                distinct: entry.distinct,
                distinct_bytes: entry.distinct_bytes,
            };
            stats.add(entry.attribute.clone(), numbers);
        }
    }

    /// Bytes held on the heap, near enough for a cache budget.
    pub fn memory_bytes(&self) -> usize {
        let text = |t: &Text| t.bytes.len() + t.offsets.len() * 4;
        let list = |l: &[Box<[u8]>]| l.iter().map(|v| v.len() + 16).sum::<usize>();
        let entries: usize = self
            .catalogue
            .iter()
            .map(|e| 2 * e.attribute.key.len() + 200 + e.listed.as_deref().map_or(0, list))
            .sum();
        let fences: usize = self
            .fences
            .iter()
            .map(|f| size_of::<Fence>() + f.tail_keys.len() * 4)
            .sum();
        self.chunks.len()
            + fences
            + entries
            + list(&self.services)
            + self.names.as_deref().map_or(0, list)
            + text(&self.owners.resources)
            + text(&self.owners.scopes)
    }
}

fn directory_entry(bytes: &[u8], column: usize) -> Option<(u32, u32)> {
    let mut c = Cursor::new(bytes.get(column * 8..column * 8 + 8)?);
    Some((c.u32()?, c.u32()?))
}

fn read_fence(c: &mut Cursor<'_>) -> Option<Fence> {
    let (first_trace, last_trace) = (TraceId(c.array()?), TraceId(c.array()?));
    let (offset, length) = (c.varint()?, c.varint()?);
    let (rows, traces) = (c.varint32()?, c.varint32()?);
    let (min_start, max_start, max_end) = (c.varint()?, c.varint()?, c.varint()?);
    let tail_is_open = c.byte()? != 0;
    let count = c.count(CATALOGUE_KEYS_MAX)?;
    let mut last = 0u32;
    let mut tail_keys = Vec::with_capacity(count);
    for _ in 0..count {
        last = last.checked_add(c.varint32()?)?;
        tail_keys.push(last);
    }
    Some(Fence {
        first_trace,
        last_trace,
        offset,
        length,
        rows,
        traces,
        min_start,
        max_start,
        max_end,
        tail_keys,
        tail_is_open,
    })
}

fn read_attribute(c: &mut Cursor<'_>) -> Option<AttributeKey> {
    let value_type = match c.byte()? {
        1 => ValueType::String,
        2 => ValueType::Int,
        3 => ValueType::Double,
        4 => ValueType::Bool,
        5 => ValueType::Raw,
        _ => return None,
    };
    Some(AttributeKey::new(c.bytes()?, value_type))
}

fn read_list(c: &mut Cursor<'_>) -> Option<Vec<Box<[u8]>>> {
    let n = c.count(usize::MAX)?;
    (0..n).map(|_| c.bytes().map(Into::into)).collect()
}

fn read_owners(bytes: &[u8]) -> Option<Owners> {
    let mut c = Cursor::new(bytes);
    let mut owners = Owners::default();
    for text in [&mut owners.resources, &mut owners.scopes] {
        let n = c.count(usize::MAX)?;
        for _ in 0..n {
            let blob = c.bytes()?;
            model::table::read_owner(blob).ok()?;
            text.push(blob);
        }
    }
    c.is_empty().then_some(owners)
}

/// The decoders behind the parts' checksums, for the fuzzer.
pub(crate) fn fuzz_parts(bytes: &[u8]) {
    let _ = read_owners(bytes);
    let Some((cut, rest)) = bytes.split_first() else { return };
    let (core, others) = rest.split_at(usize::from(*cut).min(rest.len()));
    if let Some(mut index) = BlockIndex::read_core(core) {
        let _ = index.read_catalogue(others);
        if index.read_chunks(others.to_vec()).is_some() {
            for column in 0..index.schema.len() {
                let _ = (index.chunk(0, column), index.chunk_range(0, column));
            }
        }
    }
}

/// The bound that [`BlockIndex::names`] and the services list share with catalogue values.
pub(crate) const LISTED_NAMES_MAX: usize = 4 * CATALOGUE_VALUES_MAX;
