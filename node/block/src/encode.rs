//! Turns the values of one column in one row group into its chunk: builds the dictionary local to the row group and
//! picks the encoding.
//!
//! Ids arrive numbered for the whole batch and are renumbered in order of appearance, so a row group's dictionary holds
//! only what occurs in it. Text that was not interned gets a try at a dictionary per row group: rows are sorted by trace,
//! so an id that was unique in arrival order repeats here. The choice between dictionary and PLAIN is made on the row
//! group's own values, never on a guess.

use bytes::Bytes;

use crate::format::{dictionary_pays, number_dictionary_pays};
use crate::order::NONE;
use crate::page::{ChunkEncoder, ChunkMeta, Compress, Data, Extent};
use crate::schema::Form;

/// Dictionaries up to this many bytes are not worth a decompression call.
const SMALL_DICTIONARY_BYTES: usize = 256;
/// Text is looked at this often before its dictionary may be given up early.
const TEXT_SAMPLE: usize = 2048;
/// Numbers that lie this close together are looked up by difference instead of by hash.
const DIRECT_RANGE: u64 = 1 << 16;

/// What is told about each distinct text of a chunk: the hash sink of a filter, if the column has one.
pub(crate) type OnDistinct<'a> = Option<&'a mut dyn FnMut(&[u8])>;

/// Encodes the chunks of one writer. Keeps every scratch buffer between chunks.
#[derive(Debug)]
pub(crate) struct Chunker {
    encoder: ChunkEncoder,
    ids: Vec<u32>,
    dictionary: Vec<u8>,
    local: Vec<u32>,
    touched: Vec<u32>,
    direct: Vec<u32>,
    table: Vec<u32>,
    distinct_numbers: Vec<u64>,
    ends: Vec<u32>,
    bytes: Vec<u8>,
    entry_starts: Vec<(u32, u32)>,
    chunk: Vec<u8>,
}

/// How scans use a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heat {
    /// Often: ids stay uncompressed.
    Hot,
    /// Seldom.
    Cold,
}

/// One column's chunks, one per row group of the batch.
#[derive(Debug, Default)]
pub(crate) struct EncodedColumn {
    pub chunks: Vec<EncodedChunk>,
}

/// A finished chunk. The bytes are exactly as long as they must be: thousands of chunks wait for their turn to be written.
#[derive(Debug)]
pub(crate) struct EncodedChunk {
    pub bytes: Bytes,
    pub compress: Compress,
    pub meta: ChunkMeta,
}

impl Chunker {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            encoder: ChunkEncoder::new()?,
            ids: Vec::new(),
            dictionary: Vec::new(),
            local: Vec::new(),
            touched: Vec::new(),
            direct: vec![NONE; DIRECT_RANGE as usize],
            table: Vec::new(),
            distinct_numbers: Vec::new(),
            ends: Vec::new(),
            bytes: Vec::new(),
            entry_starts: Vec::new(),
            chunk: Vec::new(),
        })
    }

    fn finish(
        &mut self,
        extent: Extent<'_>,
        what: Encoded<'_>,
        compress: Compress,
        out: &mut EncodedColumn,
    ) -> std::io::Result<()> {
        self.chunk.clear();
        let data = match what {
            Encoded::Ids(distinct) => Data::Dict {
                ids: &self.ids,
                distinct,
                dictionary: &self.dictionary,
            },
            Encoded::Bytes => Data::Bytes {
                ends: &self.ends,
                bytes: &self.bytes,
            },
            Encoded::Given(data) => data,
        };
        let meta = self.encoder.encode(extent, &data, compress, &mut self.chunk)?;
        let bytes = Bytes::copy_from_slice(&self.chunk);
        out.chunks.push(EncodedChunk { bytes, compress, meta });
        Ok(())
    }

    /// Where zstd goes for a dictionary chunk.
    fn compression(&self, heat: Heat) -> Compress {
        match heat {
            Heat::Hot if self.dictionary.len() <= SMALL_DICTIONARY_BYTES => Compress::Nothing,
            Heat::Hot => Compress::Dictionary,
            Heat::Cold => Compress::Everything,
        }
    }

    /// Text by ids into `values`. Answers how many distinct values the chunk has.
    pub(crate) fn interned(
        &mut self,
        extent: Extent<'_>,
        ids: &[u32],
        values: &[&[u8]],
        heat: Heat,
        on_distinct: OnDistinct<'_>,
        out: &mut EncodedColumn,
    ) -> std::io::Result<usize> {
        if self.local.len() < values.len() {
            self.local.resize(values.len(), NONE);
        }
        self.touched.clear();
        self.ids.clear();
        self.ids.reserve(ids.len());
        for &id in ids {
            let slot = &mut self.local[id as usize];
            if *slot == NONE {
                *slot = self.touched.len() as u32;
                self.touched.push(id);
            }
            self.ids.push(*slot);
        }
        let distinct = self.touched.len();
        self.dictionary.clear();
        for &id in &self.touched {
            self.local[id as usize] = NONE;
            let value = values[id as usize];
            self.dictionary.extend_from_slice(&(value.len() as u32).to_le_bytes());
            self.dictionary.extend_from_slice(value);
        }
        if let Some(told) = on_distinct {
            self.touched.iter().for_each(|id| told(values[*id as usize]));
        }
        if distinct > 0 && dictionary_pays(ids.len(), distinct) {
            let compress = self.compression(heat);
            self.finish(extent, Encoded::Ids(distinct as u32), compress, out)?;
        } else {
            self.plain_text(ids, values);
            self.finish(extent, Encoded::Bytes, Compress::Everything, out)?;
        }
        Ok(distinct)
    }

    /// Text that was not interned: `places` index into `values`. Answers how many distinct values the chunk has (all of
    /// them where counting was given up).
    pub(crate) fn text(
        &mut self,
        extent: Extent<'_>,
        places: &[u32],
        values: &[&[u8]],
        heat: Heat,
        on_distinct: OnDistinct<'_>,
        out: &mut EncodedColumn,
    ) -> std::io::Result<usize> {
        let distinct = self.number_texts(places, values);
        match distinct {
            Some(distinct) => {
                if let Some(told) = on_distinct {
                    self.entry_starts
                        .iter()
                        .for_each(|(from, to)| told(&self.dictionary[*from as usize..*to as usize]));
                }
                let compress = self.compression(heat);
                self.finish(extent, Encoded::Ids(distinct as u32), compress, out)?;
                Ok(distinct)
            }
            None => {
                if let Some(told) = on_distinct {
                    places.iter().for_each(|p| told(values[*p as usize]));
                }
                self.plain_text(places, values);
                self.finish(extent, Encoded::Bytes, Compress::Everything, out)?;
                Ok(places.len())
            }
        }
    }

    /// Byte strings that never repeat enough: events, links, nested values.
    pub(crate) fn blobs(
        &mut self,
        extent: Extent<'_>,
        places: &[u32],
        values: &[&[u8]],
        out: &mut EncodedColumn,
    ) -> std::io::Result<()> {
        self.plain_text(places, values);
        self.finish(extent, Encoded::Bytes, Compress::Everything, out)
    }

    fn plain_text(&mut self, places: &[u32], values: &[&[u8]]) {
        self.ends.clear();
        self.bytes.clear();
        for &place in places {
            self.bytes.extend_from_slice(values[place as usize]);
            self.ends.push(self.bytes.len() as u32);
        }
    }

    /// Builds ids and dictionary for text by hashing; `None` once a dictionary does not pay.
    fn number_texts(&mut self, places: &[u32], values: &[&[u8]]) -> Option<usize> {
        self.ids.clear();
        self.dictionary.clear();
        self.entry_starts.clear();
        self.clear_table(places.len());
        let mask = self.table.len() - 1;
        for (done, &place) in places.iter().enumerate() {
            let value = values[place as usize];
            let mut at = twox_hash::XxHash3_64::oneshot(value) as usize & mask;
            let id = loop {
                let slot = self.table[at];
                if slot == NONE {
                    let id = self.entry_starts.len() as u32;
                    self.table[at] = id;
                    self.dictionary.extend_from_slice(&(value.len() as u32).to_le_bytes());
                    let start = self.dictionary.len() as u32;
                    self.dictionary.extend_from_slice(value);
                    self.entry_starts.push((start, self.dictionary.len() as u32));
                    break id;
                }
                let (from, to) = self.entry_starts[slot as usize];
                if self.dictionary[from as usize..to as usize] == *value {
                    break slot;
                }
                at = (at + 1) & mask;
            };
            self.ids.push(id);
            if done == TEXT_SAMPLE && !dictionary_pays(done, self.entry_starts.len()) {
                return None;
            }
        }
        // A chunk without any value is PLAIN: no dictionary page to write.
        let distinct = self.entry_starts.len();
        (distinct > 0 && dictionary_pays(places.len(), distinct)).then_some(distinct)
    }

    fn clear_table(&mut self, entries: usize) {
        let slots = (entries * 2).next_power_of_two().max(64);
        self.table.clear();
        self.table.resize(slots, NONE);
    }

    /// Whole numbers: a dictionary where it pays, else BYTE_STREAM_SPLIT for eight bytes and PLAIN for four.
    pub(crate) fn numbers(
        &mut self,
        extent: Extent<'_>,
        values: &[u64],
        form: Form,
        heat: Heat,
        out: &mut EncodedColumn,
    ) -> std::io::Result<usize> {
        let width = form.width();
        let distinct = self.number_numbers(values);
        if let Some(distinct) = distinct {
            self.dictionary.clear();
            for v in &self.distinct_numbers {
                self.dictionary.extend_from_slice(&v.to_le_bytes()[..width]);
            }
            let compress = self.compression(heat);
            self.finish(extent, Encoded::Ids(distinct as u32), compress, out)?;
            return Ok(distinct);
        }
        if width == 8 {
            self.finish(extent, Encoded::Given(Data::Split(values)), Compress::Everything, out)?;
        } else {
            let bytes: Vec<u8> = values.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect();
            let data = Data::Fixed { bytes: &bytes, width };
            self.finish(extent, Encoded::Given(data), Compress::Everything, out)?;
        }
        Ok(values.len())
    }

    /// Builds ids for numbers; `None` once a dictionary does not pay.
    fn number_numbers(&mut self, values: &[u64]) -> Option<usize> {
        self.ids.clear();
        self.ids.reserve(values.len());
        self.distinct_numbers.clear();
        let (low, high) = values.iter().fold((i64::MAX, i64::MIN), |(low, high), v| {
            (low.min(v.cast_signed()), high.max(v.cast_signed()))
        });
        if !values.is_empty() && high.wrapping_sub(low).cast_unsigned() < DIRECT_RANGE {
            for v in values {
                let slot = &mut self.direct[v.wrapping_sub(low.cast_unsigned()) as usize];
                if *slot == NONE {
                    *slot = self.distinct_numbers.len() as u32;
                    self.distinct_numbers.push(*v);
                }
                self.ids.push(*slot);
            }
            for v in &self.distinct_numbers {
                self.direct[v.wrapping_sub(low.cast_unsigned()) as usize] = NONE;
            }
        } else {
            self.clear_table(values.len());
            let mask = self.table.len() - 1;
            for (done, v) in values.iter().enumerate() {
                let mut at = (v.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize & mask;
                let id = loop {
                    let slot = self.table[at];
                    if slot == NONE {
                        let id = self.distinct_numbers.len() as u32;
                        self.table[at] = id;
                        self.distinct_numbers.push(*v);
                        break id;
                    }
                    if self.distinct_numbers[slot as usize] == *v {
                        break slot;
                    }
                    at = (at + 1) & mask;
                };
                self.ids.push(id);
                if done == TEXT_SAMPLE && !dictionary_pays(done, self.distinct_numbers.len()) {
                    return None;
                }
            }
        }
        let distinct = self.distinct_numbers.len();
        (distinct > 0 && number_dictionary_pays(values.len(), distinct)).then_some(distinct)
    }

    /// Ids that are already local to the row group, with their dictionary page in PLAIN encoding.
    pub(crate) fn ready(
        &mut self,
        extent: Extent<'_>,
        ids: &[u32],
        distinct: u32,
        dictionary: &[u8],
        out: &mut EncodedColumn,
    ) -> std::io::Result<()> {
        let data = Data::Dict {
            ids,
            distinct,
            dictionary,
        };
        self.finish(extent, Encoded::Given(data), Compress::Nothing, out)
    }

    /// Values as they are.
    pub(crate) fn given(
        &mut self,
        extent: Extent<'_>,
        data: Data<'_>,
        compress: Compress,
        out: &mut EncodedColumn,
    ) -> std::io::Result<()> {
        self.finish(extent, Encoded::Given(data), compress, out)
    }
}

/// What [`Chunker::finish`] encodes: what stands in its scratch, or something handed in.
enum Encoded<'a> {
    Ids(u32),
    Bytes,
    Given(Data<'a>),
}
