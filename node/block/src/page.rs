//! One Parquet column chunk, encoded by hand from values that are already interned.
//!
//! The crate's own writers hash every value again to build a dictionary; the table has done that once already. So pages
//! are written here: DataPage V2, 8,192 rows, CRC-32 on every page, and the finished bytes are spliced into the file by
//! `SerializedRowGroupWriter::append_column`. A chunk uses one of three encodings: dictionary ids, PLAIN, or
//! BYTE_STREAM_SPLIT for eight-byte numbers; all are as old as pyarrow, DuckDB and Spark need.
//!
//! Page headers are Thrift compact structs, written with literal field tags: they are three shapes of a dozen bytes.
//! Our reader does not parse them: what it needs is in [`ChunkMeta`], which goes into the index section under its
//! checksum, so that a flipped bit in a header can confuse nobody but foreign readers (who have the page CRC).

use crate::format::{PAGE_ROWS, ZSTD_LEVEL};
use crate::{rle, split};

/// How a chunk's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// A dictionary page, then ids.
    Dict,
    /// Values one after the other; byte arrays with a four-byte length.
    Plain,
    /// BYTE_STREAM_SPLIT.
    Split,
}

/// Where one page lies and what it takes to decode it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PageMeta {
    /// Bytes of the Thrift header before the page.
    pub header: u32,
    /// Bytes of the page after the header.
    pub stored: u32,
    /// Bytes of definition levels at the page's front, never compressed.
    pub levels: u32,
    /// Bytes of the values once decompressed.
    pub plain: u32,
    /// Values that are not null.
    pub values: u32,
    /// Whether the values are compressed.
    pub zstd: bool,
    /// CRC-32 (the zlib one, as Parquet says) over the `stored` bytes.
    pub crc: u32,
}

/// Everything the reader needs to know of one column chunk. `None` dictionary for other encodings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChunkMeta {
    pub encoding: Encoding,
    pub dictionary: Option<PageMeta>,
    pub pages: Vec<PageMeta>,
}

impl ChunkMeta {
    /// Bytes of the whole chunk, headers included.
    pub(crate) fn len(&self) -> u64 {
        self.dictionary
            .iter()
            .chain(&self.pages)
            .map(|p| u64::from(p.header) + u64::from(p.stored))
            .sum()
    }

    /// Values that are not null.
    pub(crate) fn values(&self) -> u64 {
        self.pages.iter().map(|p| u64::from(p.values)).sum()
    }
}

/// The CRC of a page or of an index part.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// Which rows of the row group hold a value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Presence<'a> {
    /// Every row of a required column: no definition levels at all.
    Required,
    /// These rows of an optional column, ascending.
    Optional(&'a [u32]),
}

/// The rows of a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent<'a> {
    /// How many.
    pub rows: u32,
    /// Which of them hold a value.
    pub presence: Presence<'a>,
}

impl<'a> Extent<'a> {
    /// All rows hold a value.
    pub(crate) fn required(rows: u32) -> Self {
        Self {
            rows,
            presence: Presence::Required,
        }
    }

    /// The rows `present` hold a value.
    pub(crate) fn optional(rows: u32, present: &'a [u32]) -> Self {
        Self {
            rows,
            presence: Presence::Optional(present),
        }
    }
}

/// The values of a chunk, one per present row.
pub(crate) enum Data<'a> {
    /// Ids below `distinct` and the dictionary page's bytes in PLAIN encoding.
    Dict {
        ids: &'a [u32],
        distinct: u32,
        dictionary: &'a [u8],
    },
    /// Byte strings by their end offsets in `bytes`; written with lengths.
    Bytes { ends: &'a [u32], bytes: &'a [u8] },
    /// Fixed-size values of `width` bytes, back to back.
    Fixed { bytes: &'a [u8], width: usize },
    /// Eight-byte numbers for BYTE_STREAM_SPLIT.
    Split(&'a [u64]),
    /// Truth values, a bit each.
    Bits(&'a [bool]),
}

/// Where zstd is used in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compress {
    /// Nowhere: hot columns.
    Nothing,
    /// Only in the dictionary page; ids stay as they are (DataPage V2 says so page by page).
    Dictionary,
    /// Everywhere it pays.
    Everything,
}

/// Encodes chunks one after the other, keeping its scratch buffers.
pub(crate) struct ChunkEncoder {
    zstd: zstd::bulk::Compressor<'static>,
    values: Vec<u8>,
    packed: Vec<u8>,
    page: Vec<u8>,
    levels_rows: Vec<u32>,
}

impl std::fmt::Debug for ChunkEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkEncoder").finish_non_exhaustive()
    }
}

impl ChunkEncoder {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            values: Vec::new(),
            packed: Vec::new(),
            page: Vec::new(),
            levels_rows: Vec::new(),
        })
    }

    /// Appends the chunk of a column with `rows` rows to `out` and answers how to read it back.
    pub(crate) fn encode(
        &mut self,
        extent: Extent<'_>,
        data: &Data<'_>,
        compress: Compress,
        out: &mut Vec<u8>,
    ) -> std::io::Result<ChunkMeta> {
        let Extent { rows, presence } = extent;
        let (encoding, dictionary) = match data {
            Data::Dict {
                distinct, dictionary, ..
            } => {
                let page = self.dictionary_page(*distinct, dictionary, compress != Compress::Nothing, out)?;
                (Encoding::Dict, Some(page))
            }
            Data::Bytes { .. } | Data::Fixed { .. } | Data::Bits(_) => (Encoding::Plain, None),
            Data::Split(_) => (Encoding::Split, None),
        };
        let mut meta = ChunkMeta {
            encoding,
            dictionary,
            pages: Vec::new(),
        };
        let (mut first_row, mut first_value) = (0u32, 0usize);
        loop {
            let end_row = (first_row + PAGE_ROWS).min(rows);
            let page_rows = end_row - first_row;
            self.page.clear();
            let end_value = match presence {
                Presence::Required => end_row as usize,
                Presence::Optional(present) => {
                    let end_value = first_value + present[first_value..].partition_point(|r| *r < end_row);
                    self.levels_rows.clear();
                    self.levels_rows
                        .extend(present[first_value..end_value].iter().map(|r| r - first_row));
                    rle::encode_rows(&self.levels_rows, page_rows as usize, &mut self.page);
                    end_value
                }
            };
            let levels = self.page.len();
            self.values.clear();
            gather(data, first_value, end_value, &mut self.values);
            let mut page = PageMeta {
                levels: levels as u32,
                plain: self.values.len() as u32,
                values: (end_value - first_value) as u32,
                ..PageMeta::default()
            };
            if compress == Compress::Everything && self.pack()? {
                page.zstd = true;
                self.page.extend_from_slice(&self.packed);
            } else {
                self.page.extend_from_slice(&self.values);
            }
            page.stored = self.page.len() as u32;
            page.crc = crc32(&self.page);
            let before = out.len();
            data_header(&page, page_rows, encoding, out);
            page.header = (out.len() - before) as u32;
            out.extend_from_slice(&self.page);
            meta.pages.push(page);
            (first_row, first_value) = (end_row, end_value);
            if first_row >= rows {
                return Ok(meta);
            }
        }
    }

    /// Compresses `values` into `packed`; false when that would not save at least a sixteenth.
    fn pack(&mut self) -> std::io::Result<bool> {
        if self.values.len() < 32 {
            return Ok(false);
        }
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.values.len()));
        self.zstd.compress_to_buffer(&self.values, &mut self.packed)?;
        Ok(self.packed.len() + self.values.len() / 16 < self.values.len())
    }

    fn dictionary_page(
        &mut self,
        distinct: u32,
        dictionary: &[u8],
        compress: bool,
        out: &mut Vec<u8>,
    ) -> std::io::Result<PageMeta> {
        // A dictionary page has no flag of its own: when the chunk's codec is zstd it must be compressed.
        let stored: &[u8] = if compress {
            self.packed.clear();
            self.packed.reserve(zstd::zstd_safe::compress_bound(dictionary.len()));
            self.zstd.compress_to_buffer(dictionary, &mut self.packed)?;
            &self.packed
        } else {
            dictionary
        };
        let mut page = PageMeta {
            header: 0,
            stored: stored.len() as u32,
            levels: 0,
            plain: dictionary.len() as u32,
            values: distinct,
            zstd: compress,
            crc: crc32(stored),
        };
        let before = out.len();
        dictionary_header(&page, out);
        page.header = (out.len() - before) as u32;
        out.extend_from_slice(stored);
        Ok(page)
    }
}

/// Appends the encoded values `from..to` of `data`.
fn gather(data: &Data<'_>, from: usize, to: usize, out: &mut Vec<u8>) {
    match data {
        Data::Dict { ids, distinct, .. } => {
            let width = rle::bit_width(distinct.saturating_sub(1));
            out.push(width);
            rle::encode(&ids[from..to], width, out);
        }
        Data::Bytes { ends, bytes } => {
            let mut start = if from == 0 { 0 } else { ends[from - 1] as usize };
            out.reserve(ends[from..to].last().map_or(0, |e| *e as usize - start) + 4 * (to - from));
            for &end in &ends[from..to] {
                let value = &bytes[start..end as usize];
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
                start = end as usize;
            }
        }
        Data::Fixed { bytes, width } => out.extend_from_slice(&bytes[from * width..to * width]),
        Data::Split(values) => split::encode(&values[from..to], out),
        Data::Bits(values) => out.extend(values[from..to].chunks(8).map(|eight| {
            eight
                .iter()
                .enumerate()
                .fold(0u8, |byte, (bit, value)| byte | u8::from(*value) << bit)
        })),
    }
}

// Thrift compact protocol: a field is one byte (distance to the previous field number << 4 | type) and its value.
const I32: u8 = 5;
const STRUCT: u8 = 12;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const STOP: u8 = 0;

fn field(distance: u8, kind: u8, out: &mut Vec<u8>) {
    out.push(distance << 4 | kind);
}

fn i32_field(distance: u8, value: i32, out: &mut Vec<u8>) {
    field(distance, I32, out);
    let mut zigzag = ((value << 1) ^ (value >> 31)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// `PageHeader` fields 1 to 4: type, uncompressed size, compressed size, crc.
fn page_header(page_type: i32, page: &PageMeta, out: &mut Vec<u8>) {
    i32_field(1, page_type, out);
    i32_field(1, (page.levels + page.plain).cast_signed(), out);
    i32_field(1, page.stored.cast_signed(), out);
    i32_field(1, page.crc.cast_signed(), out);
}

fn dictionary_header(page: &PageMeta, out: &mut Vec<u8>) {
    page_header(2, page, out);
    field(3, STRUCT, out); // 7: dictionary_page_header
    i32_field(1, page.values.cast_signed(), out);
    i32_field(1, 0, out); // PLAIN
    out.push(STOP);
    out.push(STOP);
}

fn data_header(page: &PageMeta, rows: u32, encoding: Encoding, out: &mut Vec<u8>) {
    page_header(3, page, out);
    field(4, STRUCT, out); // 8: data_page_header_v2
    i32_field(1, rows.cast_signed(), out);
    i32_field(1, (rows - page.values).cast_signed(), out);
    i32_field(1, rows.cast_signed(), out);
    let code = match encoding {
        Encoding::Plain => 0,
        Encoding::Dict => 8,
        Encoding::Split => 9,
    };
    i32_field(1, code, out);
    i32_field(1, page.levels.cast_signed(), out);
    i32_field(1, 0, out); // repetition levels
    field(1, if page.zstd { TRUE } else { FALSE }, out);
    out.push(STOP);
    out.push(STOP);
}
