//! A trace-id index over many blocks: which blocks, and which row group of each, hold a trace.
//!
//! Ids are random, so no range of ids excludes a block; without this index a lookup asks the filter of every block. With
//! it a lookup reads one page of about 16 KB and then the row groups that really hold the trace. Written by the compactor
//! for a set of blocks of one tenant; it is only an index, so it may be lost and written again.
//!
//! ```text
//! file ── page 0 … n   entries sorted by hash: delta of the 40-bit hash, block ordinal, row group (LEB128 each)
//!       │ directory    zstd of: blocks (object, index range, bloom range, row-group ranges), pages (first hash, end, crc)
//!       └ tail         directory offset:u64 stored:u32 plain:u32 crc:u32 version:u16 reserved:u16 "VTIX"
//! ```
//! A hash, not a prefix of the id: 64-bit ids padded with zeros share their first half. Forty bits give a wrong hit for
//! one absent trace in fifteen thousand among 74 million indexed ones; a wrong hit costs one row group read for nothing.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use model::{TenantId, TraceId};
use twox_hash::XxHash3_64;

use crate::cursor::{Cursor, put_bytes, put_varint};
use crate::error::{Error, Result};
use crate::format::{ROW_GROUPS_MAX, ZSTD_LEVEL, part_is_sane};
use crate::page::crc32;
use crate::range::{RangeReader, read_checked};
use crate::reader::{Block, SectionLocation};

/// Entries of one index, at most: 16 bytes each while it is built, 128 MiB together. Split the set of blocks beyond that.
pub const ENTRIES_MAX: usize = 8 << 20;
/// Blocks of one index, at most.
pub const BLOCKS_MAX: usize = 4_096;

/// Bytes of a page, about: one cheap request, and a thousandth of a row group.
const PAGE_BYTES: usize = 16 << 10;
const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"VTIX";
const TAIL_BYTES: u64 = 28;
const HASH_BITS: u32 = 40;

fn hash_of(trace: &TraceId) -> u64 {
    XxHash3_64::oneshot(&trace.0) >> (64 - HASH_BITS)
}

/// Collects the traces of blocks and writes the index.
#[derive(Debug)]
pub struct TraceIndexWriter {
    tenant: TenantId,
    blocks: Vec<u8>,
    block_count: u32,
    /// Hash, block, row group.
    entries: Vec<(u64, u32, u32)>,
}

impl TraceIndexWriter {
    /// An index of `tenant`'s blocks.
    pub fn new(tenant: &TenantId) -> Self {
        Self {
            tenant: tenant.clone(),
            blocks: Vec::new(),
            block_count: 0,
            entries: Vec::new(),
        }
    }

    /// Adds a block: reads the trace ids of its row groups, which is about 40 KB per row group.
    ///
    /// Errors: `Rejected` when the index would grow beyond its bounds; then nothing was added.
    pub async fn add(&mut self, block: &Block, location: &SectionLocation) -> Result<()> {
        if *block.index().tenant() != self.tenant {
            return Err(Error::WrongTenant {
                object: block.object().clone(),
                offset: location.index.start,
            });
        }
        if self.block_count as usize >= BLOCKS_MAX {
            let (found, limit) = (u64::from(self.block_count) + 1, BLOCKS_MAX as u64);
            return Err(Error::TooLarge {
                what: "blocks in a trace index",
                found,
                limit,
            });
        }
        let traces: u64 = block.index().fences().iter().map(|f| u64::from(f.traces)).sum();
        let found = self.entries.len() as u64 + traces;
        if found > ENTRIES_MAX as u64 {
            return Err(Error::TooLarge {
                what: "traces in a trace index",
                found,
                limit: ENTRIES_MAX as u64,
            });
        }
        let mut added = Vec::with_capacity(traces as usize);
        for group in 0..block.index().fences().len() {
            for trace in block.trace_ids(group).await? {
                added.push((hash_of(&trace), self.block_count, group as u32));
            }
        }
        self.entries.append(&mut added);
        put_bytes(&mut self.blocks, block.object().as_bytes());
        for n in [
            location.index.start,
            location.index.end,
            location.bloom.start,
            location.bloom.end,
        ] {
            put_varint(&mut self.blocks, n);
        }
        put_varint(&mut self.blocks, block.index().fences().len() as u64);
        for fence in block.index().fences() {
            put_varint(&mut self.blocks, fence.offset);
            put_varint(&mut self.blocks, fence.length);
        }
        self.block_count += 1;
        Ok(())
    }

    /// The bytes of the index, and where its directory starts in them: remember it, it is what [`TraceIndex::open`] reads.
    pub fn finish(mut self) -> Result<(Vec<u8>, u64)> {
        self.entries.sort_unstable();
        self.entries.dedup();
        let mut out = Vec::with_capacity(self.entries.len() * 5);
        let mut pages: Vec<u8> = Vec::new();
        let mut page_count = 0u64;
        let mut at = 0;
        while at < self.entries.len() {
            let (start, first) = (out.len(), self.entries[at].0);
            let mut last = first;
            while at < self.entries.len() {
                let (hash, block, group) = self.entries[at];
                // Equal hashes stay in one page, so that a lookup never needs its neighbour.
                if out.len() - start >= PAGE_BYTES && hash != last {
                    break;
                }
                for n in [hash - last, block.into(), group.into()] {
                    put_varint(&mut out, n);
                }
                last = hash;
                at += 1;
            }
            put_varint(&mut pages, first);
            put_varint(&mut pages, (out.len() - start) as u64);
            pages.extend_from_slice(&crc32(&out[start..]).to_le_bytes());
            page_count += 1;
        }
        let mut directory = Vec::new();
        put_bytes(&mut directory, self.tenant.as_str().as_bytes());
        put_varint(&mut directory, self.block_count.into());
        directory.extend_from_slice(&self.blocks);
        put_varint(&mut directory, page_count);
        directory.extend_from_slice(&pages);
        let stored = zstd::bulk::compress(&directory, ZSTD_LEVEL)?;
        let offset = out.len() as u64;
        out.extend_from_slice(&stored);
        let tail_start = out.len();
        out.extend_from_slice(&offset.to_le_bytes());
        for n in [stored.len() as u32, directory.len() as u32, crc32(&stored)] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&MAGIC);
        debug_assert_eq!((out.len() - tail_start) as u64, TAIL_BYTES);
        Ok((out, offset))
    }
}

/// A block the index knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedBlock {
    /// The object's path.
    pub object: Arc<str>,
    /// Where its section lies.
    pub location: SectionLocation,
    /// Where its row groups lie: fetch one beside the block's index, without waiting for it.
    pub row_groups: Vec<Range<u64>>,
}

/// A place where a trace may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the block in [`TraceIndex::blocks`].
    pub block: u32,
    /// Row group of its section.
    pub row_group: u32,
}

/// An opened trace-id index: its directory, to be cached (about 12 bytes per page of three thousand traces).
#[derive(Debug, Clone)]
pub struct TraceIndex {
    reader: Arc<dyn RangeReader>,
    object: Arc<str>,
    blocks: Vec<IndexedBlock>,
    /// First hash, byte range, crc; ascending.
    pages: Vec<(u64, Range<u64>, u32)>,
}

impl TraceIndex {
    /// Opens an index in `object`. `range` goes from the start of its directory to its end: one request.
    pub async fn open(
        reader: Arc<dyn RangeReader>,
        object: &str,
        range: Range<u64>,
        tenant: &TenantId,
    ) -> Result<Self> {
        let object: Arc<str> = object.into();
        let offset = range.start;
        let (owner, blocks, pages) =
            read_checked(&reader, &object, range, |bytes| open_directory(&object, offset, &bytes)).await?;
        if owner != *tenant {
            return Err(Error::WrongTenant { object, offset });
        }
        Ok(Self {
            reader,
            object,
            blocks,
            pages,
        })
    }

    /// Bytes it holds in memory.
    pub fn memory_bytes(&self) -> usize {
        let of_block = |block: &IndexedBlock| 96 + block.object.len() + 16 * block.row_groups.len();
        self.blocks.iter().map(of_block).sum::<usize>() + 40 * self.pages.len()
    }

    /// The blocks it covers.
    pub fn blocks(&self) -> &[IndexedBlock] {
        &self.blocks
    }

    /// Where a trace may be: one request of about 16 KB. Empty: in none of the blocks.
    pub async fn find(&self, trace: &TraceId) -> Result<Vec<Place>> {
        let hash = hash_of(trace);
        let Some(at) = self.pages.partition_point(|(first, ..)| *first <= hash).checked_sub(1) else {
            return Ok(Vec::new());
        };
        let (first, range, crc) = &self.pages[at];
        let corrupt = || Error::Corrupt {
            object: self.object.clone(),
            offset: range.start,
            what: "trace index page",
        };
        let bytes = read_checked(&self.reader, &self.object, range.clone(), |bytes: Bytes| {
            if crc32(&bytes) == *crc {
                Ok(bytes)
            } else {
                Err(corrupt())
            }
        })
        .await?;
        let mut places = Vec::new();
        let mut c = Cursor::new(&bytes);
        let mut here = *first;
        while !c.is_empty() && here <= hash {
            let entry = (|| Some((c.varint()?, c.varint32()?, c.varint32()?)))().ok_or_else(corrupt)?;
            here = here.checked_add(entry.0).ok_or_else(corrupt)?;
            if here == hash {
                let place = Place {
                    block: entry.1,
                    row_group: entry.2,
                };
                let block = self.blocks.get(place.block as usize).ok_or_else(corrupt)?;
                if place.row_group as usize >= block.row_groups.len() {
                    return Err(corrupt());
                }
                places.push(place);
            }
        }
        Ok(places)
    }
}

/// Takes apart what stands from the directory's start at `offset` to the end of the index.
fn open_directory(object: &Arc<str>, offset: u64, bytes: &[u8]) -> Result<Directory> {
    let corrupt = |at: usize, what| Error::Corrupt {
        object: object.clone(),
        offset: offset + at as u64,
        what,
    };
    let start = bytes.len().saturating_sub(TAIL_BYTES as usize);
    let (packed, tail) = bytes.split_at(start);
    let mut c = Cursor::new(tail);
    let mut head = || {
        Some((
            c.u64()?,
            c.u32()?,
            c.u32()?,
            c.u32()?,
            c.u16()?,
            c.u16()?,
            c.array::<4>()?,
        ))
    };
    let (directory, stored, plain, crc, version, _, magic) =
        head().ok_or_else(|| corrupt(start, "trace index tail"))?;
    if magic == MAGIC && version > VERSION {
        return Err(Error::TooNew {
            object: object.clone(),
            found: version,
            known: VERSION,
        });
    }
    let is_sane = magic == MAGIC
        && version != 0
        && directory == offset
        && stored as usize == packed.len()
        && part_is_sane(stored as usize, plain);
    if !is_sane {
        return Err(corrupt(start, "trace index tail"));
    }
    let directory = if crc32(packed) == crc {
        zstd::bulk::decompress(packed, plain as usize).ok()
    } else {
        None
    };
    let opened = directory.as_deref().and_then(|d| read_directory(d, offset));
    opened.ok_or_else(|| corrupt(0, "trace index directory"))
}

type Directory = (TenantId, Vec<IndexedBlock>, Vec<(u64, Range<u64>, u32)>);

fn read_directory(bytes: &[u8], pages_end: u64) -> Option<Directory> {
    let mut c = Cursor::new(bytes);
    let tenant = TenantId::new(std::str::from_utf8(c.bytes()?).ok()?).ok()?;
    let mut blocks = Vec::new();
    for _ in 0..c.count(BLOCKS_MAX)? {
        let object: Arc<str> = std::str::from_utf8(c.bytes()?).ok()?.into();
        let location = SectionLocation {
            index: c.varint()?..c.varint()?,
            bloom: c.varint()?..c.varint()?,
        };
        let groups = c.count(ROW_GROUPS_MAX)?;
        let row_groups = (0..groups)
            .map(|_| {
                let (offset, length) = (c.varint()?, c.varint()?);
                Some(offset..offset.checked_add(length)?)
            })
            .collect::<Option<Vec<_>>>()?;
        blocks.push(IndexedBlock {
            object,
            location,
            row_groups,
        });
    }
    let mut pages: Vec<(u64, Range<u64>, u32)> = Vec::new();
    let mut at = 0u64;
    for _ in 0..c.count(ENTRIES_MAX)? {
        let (first, length, crc) = (c.varint()?, c.varint()?, c.u32()?);
        let end = at.checked_add(length)?;
        if end > pages_end || pages.last().is_some_and(|(before, ..)| *before >= first) {
            return None;
        }
        pages.push((first, at..end, crc));
        at = end;
    }
    c.is_empty().then_some((tenant, blocks, pages))
}
