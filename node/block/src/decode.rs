//! Decodes the pages of one column chunk into plain vectors.
//!
//! The index says where every page lies and what is in it, so page headers are not parsed. A page is believed only after
//! its CRC; ids are checked against the dictionary's size, text lengths against the page's end. What is decoded keeps its
//! dictionary: nothing here builds one string per row.

use model::Value;
use model::column::{Column, Dict, OwnedValues};

use crate::cursor::Cursor;
use crate::format::PAGE_ROWS;
use crate::page::{ChunkMeta, Encoding, PageMeta, crc32};
use crate::rows::Text;
use crate::schema::Form;
use crate::{rle, split};

/// Decompressed bytes of one page that are believed without looking at its stored size …
const PAGE_BYTES_FREE: u64 = 64 << 20;
/// … and per stored byte beyond that. Ordinary pages are below ten; a bomb is beyond.
const PAGE_RATIO_MAX: u64 = 4_096;

/// The bytes at this place of the chunk are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad {
    /// Offset in the chunk.
    pub at: u32,
    pub what: &'static str,
}

/// Values of some rows of a chunk.
#[derive(Debug, Clone)]
pub(crate) struct Decoded {
    /// The rows that have a value, relative to the first row decoded; `None`: all of them.
    pub rows: Option<Vec<u32>>,
    pub values: Plain,
}

/// Decoded values, not yet given a meaning.
#[derive(Debug, Clone)]
pub(crate) enum Plain {
    Ids { ids: Vec<u32>, dictionary: Dictionary },
    Text(Text),
    Numbers(Vec<u64>),
    Fixed8(Vec<[u8; 8]>),
    Fixed16(Vec<[u8; 16]>),
    Bits(Vec<bool>),
}

/// A decoded dictionary page.
#[derive(Debug, Clone)]
pub(crate) enum Dictionary {
    Text(Text),
    Numbers(Vec<u64>),
    Fixed16(Vec<[u8; 16]>),
}

impl Dictionary {
    fn len(&self) -> usize {
        match self {
            Dictionary::Text(text) => text.view().len(),
            Dictionary::Numbers(n) => n.len(),
            Dictionary::Fixed16(f) => f.len(),
        }
    }
}

/// One column chunk: its bytes and how to read them.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    pub meta: &'a ChunkMeta,
    pub bytes: &'a [u8],
    pub form: Form,
    pub optional: bool,
    /// Rows of the row group.
    pub rows: u32,
}

impl Chunk<'_> {
    /// The dictionary alone; `None` when the chunk has none.
    pub(crate) fn dictionary(&self) -> Result<Option<Dictionary>, Bad> {
        let Some(page) = &self.meta.dictionary else {
            return Ok(None);
        };
        let bad = Bad {
            at: 0,
            what: "dictionary page",
        };
        let stored = self.stored(0, page, bad)?;
        let mut plain = Vec::new();
        let bytes = values_of(page, stored, &mut plain).ok_or(bad)?;
        let n = page.values as usize;
        let dictionary = match self.form {
            Form::Text | Form::Bytes => Dictionary::Text(read_text(bytes, n).ok_or(bad)?),
            Form::Fixed16 => Dictionary::Fixed16(read_fixed(bytes, n).ok_or(bad)?),
            form => Dictionary::Numbers(read_numbers(bytes, form, n).ok_or(bad)?),
        };
        Ok(Some(dictionary))
    }

    /// Whether every page is what was written.
    pub(crate) fn verify(&self) -> Result<(), Bad> {
        let mut at = 0;
        for page in self.meta.dictionary.iter().chain(&self.meta.pages) {
            self.stored(at, page, Bad { at, what: "page" })?;
            at += page.header + page.stored;
        }
        Ok(())
    }

    /// The pages `from..to`. Rows count from page `from`'s first.
    pub(crate) fn decode(&self, from: usize, to: usize) -> Result<Decoded, Bad> {
        self.decode_pages(from..to, from as u32 * PAGE_ROWS, None)
    }

    /// These pages, ascending. Rows are listed and count from the chunk's first.
    pub(crate) fn decode_some(&self, pages: &[usize]) -> Result<Decoded, Bad> {
        self.decode_pages(pages.iter().copied(), 0, Some(Vec::new()))
    }

    /// `pages` ascend; rows count from `first_row`, and are listed behind `rows` if it is there or some have no value.
    fn decode_pages(
        &self,
        pages: impl Iterator<Item = usize> + Clone,
        first_row: u32,
        mut rows: Option<Vec<u32>>,
    ) -> Result<Decoded, Bad> {
        let known = self.meta.pages.as_slice();
        let bad = Bad {
            at: 0,
            what: "page list",
        };
        if known.len() as u32 != self.rows.div_ceil(PAGE_ROWS) {
            return Err(bad);
        }
        let dictionary = self.dictionary()?;
        let values: usize = pages
            .clone()
            .filter_map(|i| known.get(i))
            .map(|p| p.values as usize)
            .sum();
        let mut sink = Sink::new(self.form, dictionary, values);
        let mut at: u32 = self.meta.dictionary.iter().map(|p| p.header + p.stored).sum();
        let mut passed = 0;
        let mut scratch = Vec::new();
        for i in pages {
            let page = known.get(i).ok_or(bad)?;
            at += known
                .get(passed..i)
                .ok_or(bad)?
                .iter()
                .map(|p| p.header + p.stored)
                .sum::<u32>();
            passed = i + 1;
            let bad = Bad { at, what: "data page" };
            let page_row = i as u32 * PAGE_ROWS;
            let page_rows = PAGE_ROWS.min(self.rows - page_row);
            let stored = self.stored(at, page, bad)?;
            let (levels, _) = stored.split_at_checked(page.levels as usize).ok_or(bad)?;
            if page.values > page_rows || (!self.optional && (page.values != page_rows || !levels.is_empty())) {
                return Err(bad);
            }
            let base = page_row - first_row;
            if page.values < page_rows {
                let list = rows.get_or_insert_with(|| {
                    let mut list = Vec::with_capacity(values);
                    list.extend(0..base);
                    list
                });
                let present = rle::decode_rows(levels, page_rows as usize, base, list).map_err(|_| bad)?;
                if present != page.values as usize {
                    return Err(bad);
                }
            } else if let Some(list) = &mut rows {
                list.extend(base..base + page_rows);
            }
            let bytes = values_of(page, stored, &mut scratch).ok_or(bad)?;
            sink.push(bytes, page.values as usize, self.meta.encoding).ok_or(bad)?;
            at += page.header + page.stored;
        }
        Ok(Decoded {
            rows,
            values: sink.finish().ok_or(Bad {
                at: 0,
                what: "data page",
            })?,
        })
    }

    /// The bytes of a page whose header starts at `at`, checked.
    fn stored(&self, at: u32, page: &PageMeta, bad: Bad) -> Result<&[u8], Bad> {
        let start = at as usize + page.header as usize;
        let stored = self.bytes.get(start..start + page.stored as usize).ok_or(bad)?;
        if crc32(stored) != page.crc {
            Err(bad)
        } else {
            Ok(stored)
        }
    }
}

/// The values of a page behind its levels, decompressed if need be.
fn values_of<'a>(page: &PageMeta, stored: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let packed = stored.get(page.levels as usize..)?;
    if !page.zstd {
        return (packed.len() == page.plain as usize).then_some(packed);
    }
    if u64::from(page.plain) > PAGE_BYTES_FREE.max(u64::from(page.stored) * PAGE_RATIO_MAX) {
        return None;
    }
    scratch.clear();
    scratch.reserve(page.plain as usize);
    DECOMPRESSOR.with_borrow_mut(|d| d.as_mut()?.decompress_to_buffer(packed, scratch).ok())?;
    (scratch.len() == page.plain as usize).then_some(scratch.as_slice())
}

thread_local! {
    // A decompression context is 150 KiB that one thread can use again for every page.
    static DECOMPRESSOR: std::cell::RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        std::cell::RefCell::new(zstd::bulk::Decompressor::new().ok());
}

fn read_text(bytes: &[u8], n: usize) -> Option<Text> {
    let mut text = Text {
        offsets: Vec::with_capacity(n + 1),
        bytes: Vec::with_capacity(bytes.len()),
    };
    text.offsets.push(0);
    push_text(bytes, n, &mut text)?;
    Some(text)
}

fn push_text(bytes: &[u8], n: usize, text: &mut Text) -> Option<()> {
    let mut c = Cursor::new(bytes);
    text.bytes.reserve(bytes.len());
    for _ in 0..n {
        let length = c.u32()? as usize;
        text.bytes.extend_from_slice(c.take(length)?);
        text.offsets.push(u32::try_from(text.bytes.len()).ok()?);
    }
    c.is_empty().then_some(())
}

fn read_fixed<const N: usize>(bytes: &[u8], n: usize) -> Option<Vec<[u8; N]>> {
    let (values, rest) = bytes.as_chunks::<N>();
    (values.len() == n && rest.is_empty()).then(|| values.to_vec())
}

/// PLAIN numbers, sign-extended where the form is signed.
fn read_numbers(bytes: &[u8], form: Form, n: usize) -> Option<Vec<u64>> {
    match form {
        Form::Int32 => {
            let values = read_fixed::<4>(bytes, n)?;
            Some(
                values
                    .into_iter()
                    .map(|v| i64::from(i32::from_le_bytes(v)).cast_unsigned())
                    .collect(),
            )
        }
        Form::Unsigned32 => Some(
            read_fixed::<4>(bytes, n)?
                .into_iter()
                .map(|v| u32::from_le_bytes(v).into())
                .collect(),
        ),
        Form::Int64 | Form::Time | Form::Double => {
            Some(read_fixed::<8>(bytes, n)?.into_iter().map(u64::from_le_bytes).collect())
        }
        Form::Fixed8 | Form::Fixed16 | Form::Bool | Form::Text | Form::Bytes => None,
    }
}

/// Collects the values of pages.
enum Sink {
    Ids { ids: Vec<u32>, dictionary: Dictionary },
    Text(Text),
    Numbers(Vec<u64>, Form),
    Fixed8(Vec<[u8; 8]>),
    Fixed16(Vec<[u8; 16]>),
    Bits(Vec<bool>),
}

impl Sink {
    fn new(form: Form, dictionary: Option<Dictionary>, values: usize) -> Self {
        if let Some(dictionary) = dictionary {
            return Sink::Ids {
                ids: Vec::with_capacity(values + 8),
                dictionary,
            };
        }
        match form {
            Form::Text | Form::Bytes => Sink::Text(Text::default()),
            Form::Fixed8 => Sink::Fixed8(Vec::with_capacity(values)),
            Form::Fixed16 => Sink::Fixed16(Vec::with_capacity(values)),
            Form::Bool => Sink::Bits(Vec::with_capacity(values)),
            form => Sink::Numbers(Vec::with_capacity(values), form),
        }
    }

    fn push(&mut self, bytes: &[u8], n: usize, encoding: Encoding) -> Option<()> {
        match self {
            Sink::Ids { ids, .. } => {
                let (width, packed) = bytes.split_first()?;
                if n == 0 {
                    return packed.is_empty().then_some(());
                }
                rle::decode(packed, *width, n, ids).ok()
            }
            Sink::Text(text) => push_text(bytes, n, text),
            Sink::Numbers(values, form) => {
                if encoding == Encoding::Split {
                    let before = values.len();
                    return (split::decode(bytes, values) && values.len() - before == n).then_some(());
                }
                values.extend(read_numbers(bytes, *form, n)?);
                Some(())
            }
            Sink::Fixed8(values) => {
                values.extend(read_fixed::<8>(bytes, n)?);
                Some(())
            }
            Sink::Fixed16(values) => {
                values.extend(read_fixed::<16>(bytes, n)?);
                Some(())
            }
            Sink::Bits(values) => {
                values.extend((0..n).map_while(|i| Some(bytes.get(i / 8)? >> (i % 8) & 1 != 0)));
                (bytes.len() == n.div_ceil(8)).then_some(())
            }
        }
    }

    fn finish(self) -> Option<Plain> {
        Some(match self {
            Sink::Ids { ids, dictionary } => {
                let len = u32::try_from(dictionary.len()).ok()?;
                // Every id is looked at, which one loop without a way out does several at a time.
                if ids.iter().fold(false, |bad, id| bad | (*id >= len)) {
                    return None;
                }
                Plain::Ids { ids, dictionary }
            }
            Sink::Text(text) => Plain::Text(text),
            Sink::Numbers(values, _) => Plain::Numbers(values),
            Sink::Fixed8(values) => Plain::Fixed8(values),
            Sink::Fixed16(values) => Plain::Fixed16(values),
            Sink::Bits(values) => Plain::Bits(values),
        })
    }
}

impl Decoded {
    /// Keeps the rows `from..to` and counts them from `from`.
    pub(crate) fn trim(mut self, from: u32, to: u32) -> Self {
        let (start, end) = match &mut self.rows {
            None => (from as usize, to as usize),
            Some(rows) => {
                let start = rows.partition_point(|r| *r < from);
                let end = rows.partition_point(|r| *r < to);
                *rows = rows[start..end].iter().map(|r| r - from).collect();
                (start, end)
            }
        };
        match &mut self.values {
            Plain::Ids { ids, .. } => cut(ids, start, end),
            Plain::Numbers(values) => cut(values, start, end),
            Plain::Fixed8(values) => cut(values, start, end),
            Plain::Fixed16(values) => cut(values, start, end),
            Plain::Bits(values) => cut(values, start, end),
            Plain::Text(text) => {
                let view = text.view();
                let mut kept = Text::default();
                (start..end).for_each(|i| kept.push(view.get(i)));
                *text = kept;
            }
        }
        self
    }

    /// As a column of the query's vocabulary.
    pub(crate) fn into_column(self, form: Form) -> Column {
        let signed = |values: Vec<u64>| values.into_iter().map(u64::cast_signed).collect();
        let values = match self.values {
            Plain::Ids { ids, dictionary } => match dictionary {
                Dictionary::Text(Text { offsets, bytes }) => OwnedValues::Dict {
                    ids,
                    dict: Dict::Bytes { offsets, bytes }.into(),
                },
                Dictionary::Numbers(numbers) => {
                    let values = numbers.into_iter().map(|n| Some(Value::Int(n.cast_signed()))).collect();
                    OwnedValues::Dict {
                        ids,
                        dict: Dict::Values(values).into(),
                    }
                }
                Dictionary::Fixed16(values) => {
                    OwnedValues::Fixed16(ids.into_iter().map(|id| values[id as usize]).collect())
                }
            },
            Plain::Text(Text { offsets, bytes }) if form == Form::Text => OwnedValues::Bytes { offsets, bytes },
            Plain::Text(Text { offsets, bytes }) => OwnedValues::Raw { offsets, bytes },
            Plain::Numbers(values) if form == Form::Double => {
                OwnedValues::Double(values.into_iter().map(f64::from_bits).collect())
            }
            Plain::Numbers(values) => OwnedValues::Int(signed(values)),
            Plain::Fixed8(values) => OwnedValues::Fixed8(values),
            Plain::Fixed16(values) => OwnedValues::Fixed16(values),
            Plain::Bits(values) => OwnedValues::Bool(values),
        };
        Column {
            rows: self.rows,
            values,
        }
    }
}

impl Plain {
    /// The numbers, dictionary resolved. `None` when they are not numbers.
    pub(crate) fn into_numbers(self) -> Option<Vec<u64>> {
        match self {
            Plain::Numbers(values) => Some(values),
            Plain::Ids {
                ids,
                dictionary: Dictionary::Numbers(numbers),
            } => Some(ids.iter().map(|id| numbers[*id as usize]).collect()),
            _ => None,
        }
    }

    /// The same for numbers that fit in 32 bits; `None` when one does not.
    pub(crate) fn into_numbers32(self) -> Option<Vec<u32>> {
        let narrow = |wide: Vec<u64>| {
            wide.into_iter()
                .map(u32::try_from)
                .collect::<Result<Vec<u32>, _>>()
                .ok()
        };
        match self {
            Plain::Numbers(values) => narrow(values),
            Plain::Ids {
                mut ids,
                dictionary: Dictionary::Numbers(numbers),
            } => {
                let numbers = narrow(numbers)?;
                ids.iter_mut().for_each(|id| *id = numbers[*id as usize]);
                Some(ids)
            }
            _ => None,
        }
    }
}

fn cut<T>(values: &mut Vec<T>, start: usize, end: usize) {
    values.truncate(end);
    values.drain(..start.min(values.len()));
}
