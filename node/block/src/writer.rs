//! Writes a block: sections of one tenant each, row groups of whole traces, one object.
//!
//! Synchronous and CPU-bound; bytes leave through a `std::io::Write` as row groups are finished, so the caller decides
//! whether they go into memory, a file or the parts of an upload ([`Parts`]).
//!
//! ```
//! use block::{BlockWriter, Schema, BlockStats};
//! # fn main() -> block::Result<()> {
//! let table = model::SpanTable::new();
//! let tenant = model::TenantId::single();
//! let mut stats = BlockStats::default();
//! stats.add_table(&table);
//! let mut writer = BlockWriter::new(Vec::new(), Schema::choose(&stats))?;
//! writer.section(&tenant, &[&table])?;
//! let (bytes, block) = writer.finish()?;
//! assert_eq!(block.sections[0].totals.spans, 0);
//! assert_eq!(block.bytes, bytes.len() as u64);
//! # Ok(())
//! # }
//! ```
//!
//! What always holds: nothing of a span is lost; equal inputs give equal bytes; a failed writer has written nothing that
//! looks like a block, because the footer comes last.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::{SpanTable, TenantId, TraceId};
use parquet::basic::{Compression, Encoding as ParquetEncoding, PageType, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;

use crate::batch::{EncodedBatch, GroupFacts, encode_batch};
use crate::bloom;
use crate::encode::{Chunker, EncodedChunk};
use crate::error::{Error, Result};
use crate::format::{FOOTER_KEY, PAGE_ROWS, ROW_GROUPS_MAX, VERSION, ZSTD_LEVEL};
use crate::index::{Fence, Totals, put_chunks};
use crate::order::{self, Duplicates, Group, Layout};
use crate::page::{Compress, Encoding};
use crate::rows::RowsView;
use crate::schema::Schema;
use crate::section::{Section, TRACE_SEED};

/// In the form that Parquet's own version parser understands.
const CREATED_BY: &str = concat!("vivace version ", env!("CARGO_PKG_VERSION"), " (build block-1)");

/// Where one tenant's part of a block is: what the catalog remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionSummary {
    /// Whose spans.
    pub tenant: TenantId,
    /// Row groups of the object that belong to the section.
    pub row_groups: Range<u32>,
    /// Bytes of those row groups in the object.
    pub data: Range<u64>,
    /// Bytes of the index section.
    pub index: Range<u64>,
    /// Bytes of the bloom section.
    pub bloom: Range<u64>,
    /// Spans, traces, times.
    pub totals: Totals,
    /// Smallest and largest trace id; `None` for a section without spans.
    pub traces: Option<(TraceId, TraceId)>,
    /// Traces that were longer than a row group may be and so lie in several of this block.
    pub split_traces: Vec<TraceId>,
}

/// A finished block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSummary {
    /// Bytes of the whole object.
    pub bytes: u64,
    /// One per tenant, in the order written.
    pub sections: Vec<SectionSummary>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct BlockWriter<W: Write + Send> {
    file: SerializedFileWriter<Counted<W>>,
    schema: Schema,
    chunker: Chunker,
    open: Option<Section>,
    done: Vec<Section>,
    row_groups: usize,
}

impl<W: Write + Send> BlockWriter<W> {
    /// Starts a block with the given columns. They hold for all its sections.
    pub fn new(sink: W, schema: Schema) -> Result<Self> {
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_created_by(CREATED_BY.to_owned())
            .build();
        parquet::arrow::add_encoded_arrow_schema_to_metadata(&schema.arrow(), &mut properties);
        let file = SerializedFileWriter::new(Counted { sink, bytes: 0 }, schema.parquet()?, Arc::new(properties))?;
        Ok(Self {
            file,
            schema,
            chunker: Chunker::new()?,
            open: None,
            done: Vec::new(),
            row_groups: 0,
        })
    }

    /// Writes the whole section of one tenant: all rows of `tables`, each trace in one piece.
    pub fn section(&mut self, tenant: &TenantId, tables: &[&SpanTable]) -> Result<()> {
        self.begin(tenant);
        let sources: Vec<RowsView<'_>> = tables.iter().map(|t| RowsView::of_table(t)).collect();
        self.append(&sources, Duplicates::Keep)?;
        self.end();
        Ok(())
    }

    /// Starts the section of `tenant`; ends the one before.
    pub(crate) fn begin(&mut self, tenant: &TenantId) {
        self.end();
        self.open = Some(Section::new(tenant, &self.schema, self.row_groups));
    }

    /// Appends rows to the open section. Every trace must sort after those appended before.
    pub(crate) fn append(&mut self, sources: &[RowsView<'_>], duplicates: Duplicates) -> Result<()> {
        let rows: u64 = sources.iter().map(|s| s.len() as u64).sum();
        if rows >= u64::from(u32::MAX) {
            return Err(Error::TooLarge {
                what: "spans in one batch",
                found: rows,
                limit: u32::MAX.into(),
            });
        }
        let layout = order::lay_out(sources, duplicates);
        self.append_laid_out(sources, &layout)
    }

    /// Appends the rows that `layout` places.
    pub(crate) fn append_laid_out(&mut self, sources: &[RowsView<'_>], layout: &Layout) -> Result<()> {
        let section = self.open.as_mut().expect("a section is begun before rows are appended");
        if section.fences.len() + layout.groups.len() > ROW_GROUPS_MAX {
            let found = (section.fences.len() + layout.groups.len()) as u64;
            return Err(Error::TooLarge {
                what: "row groups in one section",
                found,
                limit: ROW_GROUPS_MAX as u64,
            });
        }
        let batch = encode_batch(sources, layout, &self.schema, section, &mut self.chunker)?;
        self.write_groups(layout, batch)
    }

    /// The columns of the block.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Ends the open section, if any.
    pub(crate) fn end(&mut self) {
        self.done.extend(self.open.take());
    }

    fn write_groups(&mut self, layout: &Layout, batch: EncodedBatch) -> Result<()> {
        let descriptor = self.file.schema_descr().clone();
        let mut columns: Vec<_> = batch
            .columns
            .into_iter()
            .map(|column| column.chunks.into_iter())
            .collect();
        for (group, facts) in layout.groups.iter().zip(batch.facts) {
            let offset = self.file.bytes_written() as u64;
            let mut row_group = self.file.next_row_group()?;
            let mut metas = Vec::with_capacity(columns.len());
            for (c, chunks) in columns.iter_mut().enumerate() {
                // Written chunks are freed here, one row group after the other.
                let chunk = chunks.next().expect("every column has a chunk for every row group");
                let close = close_result(&descriptor, c, &chunk, group.end - group.start)?;
                row_group.append_column(&chunk.bytes, close)?;
                metas.push(chunk.meta);
            }
            row_group.close()?;
            self.row_groups += 1;
            let length = self.file.bytes_written() as u64 - offset;
            if length > u64::from(u32::MAX) {
                return Err(Error::TooLarge {
                    what: "bytes of one row group",
                    found: length,
                    limit: u32::MAX.into(),
                });
            }
            let section = self.open.as_mut().expect("a section is begun before rows are appended");
            note_group(section, layout, group, facts, offset, length);
            let mut list = Vec::new();
            put_chunks(&metas, &mut list);
            section.chunk_lists.push(list);
        }
        Ok(())
    }

    /// Writes the sections and the footer.
    pub fn finish(mut self) -> Result<(W, BlockSummary)> {
        self.end();
        let mut sections = Vec::with_capacity(self.done.len());
        let mut blooms = Vec::with_capacity(self.done.len());
        for section in &mut self.done {
            let start = self.file.bytes_written() as u64;
            self.file.write_all(&section.blooms(&self.schema))?;
            blooms.push(start..self.file.bytes_written() as u64);
        }
        for (section, bloom) in std::mem::take(&mut self.done).into_iter().zip(blooms) {
            let start = self.file.bytes_written() as u64;
            let tenant = section.tenant.clone();
            let first = section.first_group as u32;
            let row_groups = first..first + section.fences.len() as u32;
            let data = match (section.fences.first(), section.fences.last()) {
                (Some(a), Some(b)) => a.offset..b.offset + b.length,
                _ => 0..0,
            };
            let traces = section
                .fences
                .first()
                .zip(section.fences.last())
                .map(|(a, b)| (a.first_trace, b.last_trace));
            let (bytes, totals, split_traces) = section.finish(&self.schema)?;
            self.file.write_all(&bytes)?;
            let index = start..self.file.bytes_written() as u64;
            sections.push(SectionSummary {
                tenant,
                row_groups,
                data,
                index,
                bloom,
                totals,
                traces,
                split_traces,
            });
        }
        let footer = KeyValue::new(FOOTER_KEY.to_owned(), footer_text(&sections));
        self.file.append_key_value_metadata(footer);
        // Writes the footer too.
        let Counted { sink, bytes } = self.file.into_inner()?;
        Ok((sink, BlockSummary { bytes, sections }))
    }
}

/// Counts what passes through, the footer included.
#[derive(Debug)]
struct Counted<W> {
    sink: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.sink.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}

/// Records a written row group in its section.
fn note_group(section: &mut Section, layout: &Layout, group: &Group, facts: GroupFacts, offset: u64, length: u64) {
    let slots = &layout.traces[group.first_trace as usize..group.end_trace as usize];
    for slot in slots {
        if section.last_trace == Some(slot.id) {
            if section.split_traces.last() != Some(&slot.id) {
                section.split_traces.push(slot.id);
            }
            continue;
        }
        section.last_trace = Some(slot.id);
        section.totals.traces += 1;
        section.trace_hashes.push(bloom::hash(TRACE_SEED, &slot.id.0));
    }
    let totals = &mut section.totals;
    totals.spans += u64::from(group.end - group.start);
    totals.min_start = totals.min_start.min(facts.min_start);
    totals.max_start = totals.max_start.max(facts.max_start);
    totals.max_end = totals.max_end.max(facts.max_end);
    section.fences.push(Fence {
        first_trace: slots.first().map_or(TraceId::default(), |s| s.id),
        last_trace: slots.last().map_or(TraceId::default(), |s| s.id),
        offset,
        length,
        rows: group.end - group.start,
        traces: slots.len() as u32,
        min_start: facts.min_start,
        max_start: facts.max_start,
        max_end: facts.max_end,
        tail_keys: facts.tail_keys,
        tail_is_open: facts.tail_is_open,
    });
}

/// What the crate needs to splice a chunk.
fn close_result(
    descriptor: &SchemaDescriptor,
    column: usize,
    chunk: &EncodedChunk,
    rows: u32,
) -> Result<ColumnCloseResult> {
    let EncodedChunk { compress, meta, .. } = chunk;
    let data_encoding = match meta.encoding {
        Encoding::Dict => ParquetEncoding::RLE_DICTIONARY,
        Encoding::Plain => ParquetEncoding::PLAIN,
        Encoding::Split => ParquetEncoding::BYTE_STREAM_SPLIT,
    };
    let mut encodings = vec![data_encoding, ParquetEncoding::RLE];
    let mut stats = Vec::new();
    let mut at = 0i64;
    let mut plain = 0i64;
    let mut dictionary_offset = None;
    if let Some(page) = &meta.dictionary {
        encodings.push(ParquetEncoding::PLAIN);
        stats.push(PageEncodingStats {
            page_type: PageType::DICTIONARY_PAGE,
            encoding: ParquetEncoding::PLAIN,
            count: 1,
        });
        dictionary_offset = Some(at);
        at += i64::from(page.header) + i64::from(page.stored);
        plain += i64::from(page.header) + i64::from(page.plain);
    }
    stats.push(PageEncodingStats {
        page_type: PageType::DATA_PAGE_V2,
        encoding: data_encoding,
        count: meta.pages.len() as i32,
    });
    let data_offset = at;
    let mut offsets = OffsetIndexBuilder::new();
    for (page, first_row) in meta.pages.iter().zip((0..).step_by(PAGE_ROWS as usize)) {
        let size = page.header + page.stored;
        offsets.append_offset_and_size(at, size as i32);
        offsets.append_row_count(i64::from(PAGE_ROWS.min(rows - first_row)));
        at += i64::from(size);
        plain += i64::from(page.header + page.levels + page.plain);
    }
    let compression = match compress {
        Compress::Nothing => Compression::UNCOMPRESSED,
        Compress::Dictionary | Compress::Everything => Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
    };
    let metadata = ColumnChunkMetaData::builder(descriptor.column(column))
        .set_compression(compression)
        .set_encodings(encodings)
        .set_num_values(rows.into())
        .set_total_compressed_size(at)
        .set_total_uncompressed_size(plain)
        .set_data_page_offset(data_offset)
        .set_dictionary_page_offset(dictionary_offset)
        .set_page_encoding_stats(stats)
        .build()?;
    Ok(ColumnCloseResult {
        bytes_written: at.cast_unsigned(),
        rows_written: rows.into(),
        metadata,
        bloom_filter: None,
        column_index: None,
        offset_index: Some(offsets.build()),
    })
}

/// The footer's description of the sections: the version, then per section
/// `tenant first_group end_group index_start index_end bloom_start bloom_end`, separated by line feeds.
fn footer_text(sections: &[SectionSummary]) -> String {
    let mut text = VERSION.to_string();
    for s in sections {
        text.push_str(&format!(
            "\n{} {} {} {} {} {} {}",
            s.tenant, s.row_groups.start, s.row_groups.end, s.index.start, s.index.end, s.bloom.start, s.bloom.end
        ));
    }
    text
}

/// A sink that cuts the stream into parts of one size, for a multipart upload: each full part is handed to `give`.
#[derive(Debug)]
pub struct Parts<F> {
    part_bytes: usize,
    buffer: Vec<u8>,
    give: F,
}

impl<F: FnMut(Bytes) -> std::io::Result<()>> Parts<F> {
    /// Parts of `part_bytes` each, the last one shorter.
    pub fn new(part_bytes: usize, give: F) -> Self {
        Self {
            part_bytes: part_bytes.max(1),
            buffer: Vec::new(),
            give,
        }
    }

    /// Hands over what is left. Without this call the last part is lost.
    pub fn finish(mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            (self.give)(Bytes::from(std::mem::take(&mut self.buffer)))
        }
    }
}

impl<F: FnMut(Bytes) -> std::io::Result<()>> Write for Parts<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let take = bytes.len().min(self.part_bytes - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..take]);
        if self.buffer.len() == self.part_bytes {
            let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(self.part_bytes));
            (self.give)(Bytes::from(full))?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
