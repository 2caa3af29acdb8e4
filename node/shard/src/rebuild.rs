//! The catalog from the object store alone, for the day on which every disk is lost.
//!
//! ```text
//! newest root + manifests ─► what was known then ─┐
//! list of l0/, blocks/, traces/                   ├─► catalog, and what nobody names
//! footers and indexes of flushed objects since ───┘
//! ```
//! Why that is all of it: nothing was deleted before the newest root said that it is not needed ([`crate::manifest`]), so
//! merges, retention and replacements after it can be left out: their inputs are still there. Only flushes since then
//! brought new spans, and their objects say which range of which log they hold.
//!
//! What always holds:
//! - Of two objects that hold the same entries only one is taken (a deposed leader may have uploaded one that nobody ever
//!   named): those are chosen that hold the most spans without overlapping. What a log holds at an index is agreed on, so
//!   any such choice is right.
//! - Nothing is written. An object that cannot be read is reported and not announced, so nothing is deleted from the store
//!   until somebody has looked ([`crate::retention::Brake::OlderCopy`]).
//! - Without a root, flushes alone say what there is; merged blocks, which may hold the same spans as flushed ones, are
//!   refused unless the caller accepts doubles.
//!
//! Lost with the disks is what was not flushed yet; it was in their logs only.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use block::{Block, MemoryReader};
use bytes::Bytes;
use futures::TryStreamExt as _;
use model::{BlockId, Generation, LogIndex, ShardId};
use twox_hash::XxHash3_64;

use crate::catalog::{
    BlockRecord, ByteRange, Catalog, CatalogView, GroupKey, LogRange, ObjectId, ObjectRecord, SplitTraces,
};
use crate::collect::object_of;
use crate::error::{Error, Result};
use crate::flush::byte_range;
use crate::manifest;
use crate::store::Store;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// What a caller accepts.
#[derive(Debug, Clone, Copy, Default)]
pub struct RebuildOptions {
    /// Do without a root although there are merged blocks, or although the newest root cannot be used: spans of blocks that
    /// were merged less than an hour before the end are counted twice.
    pub without_root: bool,
}

/// A catalog that was found, and how.
#[derive(Debug)]
pub struct Rebuilt {
    /// It. Covers no generation: their logs are gone.
    pub catalog: Catalog,
    /// The first generation that no object of the bucket is of, whatever its shard.
    pub next_generation: Generation,
    /// For whoever asked.
    pub report: Report,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Revision and time (nanoseconds since the Unix epoch, the ring's clock) of the root that was used.
    pub root: Option<(u64, u64)>,
    /// Blocks that the root and its manifests name.
    pub blocks_of_root: usize,
    /// Blocks of flushes that came later.
    pub blocks_since: usize,
    /// Spans in all of them.
    pub spans: u64,
    /// Objects that nothing names any more; announced, so that they are collected after a day.
    pub unnamed: usize,
    /// Keys that the root names and that are not there.
    pub lost: Vec<Arc<str>>,
    /// Objects that hold spans of nobody knows whom, and why.
    pub unreadable: Vec<(String, String)>,
}

/// A flushed object that the root does not know.
struct Flush {
    range: LogRange,
    object: ObjectRecord,
    records: Vec<BlockRecord>,
}

/// Reads the bucket. `cluster` is whose it is; `new_block_id` names blocks.
///
/// Errors: the store's; [`Error::Folded`] for a root or manifest that cannot be used, and for merged blocks without a root,
/// unless the options say otherwise.
pub async fn rebuild(
    store: &Store,
    cluster: u128,
    options: RebuildOptions,
    new_block_id: &(dyn Fn() -> BlockId + Sync),
) -> Result<Rebuilt> {
    let newest = match manifest::read_newest(store, cluster).await {
        Err(Error::Folded { .. }) if options.without_root => None,
        newest => newest?,
    };
    let mut report = Report::default();
    let mut catalog = Catalog::new();
    if let Some(newest) = &newest {
        catalog.absorb(newest.catalog.view())?;
        report.root = Some((newest.root.recent.view().revision(), newest.root.taken_unix_nanos));
        report.blocks_of_root = newest.catalog.view().block_count();
    }
    let known = newest.map(|newest| newest.catalog).unwrap_or_default();
    let known = known.view();
    let mut listed = list(store).await?;
    let next_generation = next_generation(known, listed.keys());
    report.lost = known
        .objects()
        .filter(|object| !listed.contains_key(&*object.path))
        .map(|object| Arc::clone(&object.path))
        .collect();
    listed.retain(|_, object| !known.knows_object(*object));

    let mut flushes: BTreeMap<GroupKey, Vec<Flush>> = BTreeMap::new();
    let mut merged = Vec::new();
    for (key, object) in &listed {
        let is_merged = key.starts_with("blocks/");
        let range = flushed_range(key).filter(|range| is_beyond(known, range));
        if range.is_none() && !(is_merged && report.root.is_none()) {
            continue;
        }
        let bytes = store.get(key).await?;
        match read_object(store, key, *object, &bytes, new_block_id).await {
            Err(error) => report.unreadable.push((key.clone(), sentence(&error))),
            Ok((object, records)) => match range {
                Some(range) => flushes
                    .entry(range.group)
                    .or_default()
                    .push(Flush { range, object, records }),
                None => merged.push((object, records)),
            },
        }
    }
    if !merged.is_empty() && !options.without_root {
        return Err(Error::Folded {
            path: store.path(manifest::ROOTS).to_string(),
            why: format!(
                "is empty, and there are {} merged blocks: which flushed blocks they replace is not known",
                merged.len()
            ),
        });
    }
    let mut taken = BTreeSet::new();
    let mut parts = merged;
    for group in flushes.into_values() {
        let spans = |flush: &Flush| flush.records.iter().map(|record| record.spans).sum::<u64>();
        let ranges: Vec<_> = group
            .iter()
            .map(|flush| (flush.range.from.0..flush.range.to.0, spans(flush)))
            .collect();
        let chosen = heaviest_disjoint(&ranges);
        let flushes = group.into_iter().enumerate();
        for (_, flush) in flushes.filter(|(position, _)| chosen.contains(position)) {
            let mut records = flush.records;
            records.iter_mut().for_each(|record| record.source = Some(flush.range));
            parts.push((flush.object, records));
        }
    }
    for (object, records) in parts.into_iter().filter(|(_, records)| !records.is_empty()) {
        taken.insert(object.id);
        report.blocks_since += records.len();
        let part = CatalogView::of_object(object, records);
        catalog.absorb(&part)?;
    }
    let unreadable: BTreeSet<&str> = report.unreadable.iter().map(|(key, _)| key.as_str()).collect();
    let unnamed: Vec<ObjectId> = listed
        .iter()
        .filter(|(key, object)| !taken.contains(object) && !unreadable.contains(key.as_str()))
        .map(|(_, object)| *object)
        .collect();
    report.unnamed = unnamed.len();
    catalog.absorb(&CatalogView::of_announced(unnamed))?;
    let catalog = Catalog::of(catalog.view().without_watermarks());
    let blocks = catalog.view().tenants().flat_map(|(_, blocks)| blocks.iter());
    report.spans = blocks.map(|record| record.spans).sum();
    Ok(Rebuilt {
        catalog,
        next_generation,
        report,
    })
}

/// Objects of ours that hold spans or index them: their keys and names.
async fn list(store: &Store) -> Result<BTreeMap<String, ObjectId>> {
    let mut found = BTreeMap::new();
    for folder in crate::collect::FOLDERS {
        let mut listed = store.list(folder);
        while let Some((key, _)) = listed.try_next().await? {
            if let Some(object) = object_of(&key) {
                found.insert(key, object);
            }
        }
    }
    Ok(found)
}

fn next_generation<'a>(known: &CatalogView, keys: impl Iterator<Item = &'a String>) -> Generation {
    let of_keys = keys.filter_map(|key| Some(flushed_range(key)?.group.generation));
    let of_watermarks = known.watermarks().map(|(group, _)| group.generation);
    let last = of_keys.chain(of_watermarks).max().unwrap_or_default();
    Generation(last.0 + 1)
}

/// Whether a flush came after everything that is known.
fn is_beyond(known: &CatalogView, range: &LogRange) -> bool {
    let group = range.group;
    match known.watermark(group) {
        Some(watermark) => range.from >= watermark,
        // Retired, unless it was opened later than all that are known.
        None => {
            let mut of_shard = known.watermarks().filter(|(known, _)| known.shard == group.shard);
            of_shard.all(|(known, _)| known.generation < group.generation)
        }
    }
}

/// The range in the key of a flushed object.
pub(crate) fn flushed_range(key: &str) -> Option<LogRange> {
    let mut parts = key.strip_prefix("l0/")?.split('/');
    let (shard, generation) = parts.next()?.split_once('-')?;
    let name = parts.next()?;
    Some(LogRange {
        group: GroupKey {
            shard: ShardId(shard.parse().ok()?),
            generation: Generation(generation.parse().ok()?),
        },
        from: LogIndex(name.get(..20)?.parse().ok()?),
        to: LogIndex(name.get(21..41)?.parse().ok()?),
    })
}

/// Which of some weighted ranges to take, so that they do not overlap and weigh the most; positions.
fn heaviest_disjoint(ranges: &[(Range<u64>, u64)]) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|position| {
        let (range, weight) = &ranges[*position];
        (range.end, range.start, *weight)
    });
    // The best of the first n in that order: its weight, and whether it has the last of them.
    let mut best = vec![(0u64, false)];
    let before = |n: usize| {
        let start = ranges[order[n]].0.start;
        order[..n].partition_point(|position| ranges[*position].0.end <= start)
    };
    for n in 0..order.len() {
        let with = best[before(n)].0 + ranges[order[n]].1;
        let without = best[n].0;
        best.push(if with > without { (with, true) } else { (without, false) });
    }
    let mut chosen = BTreeSet::new();
    let mut n = order.len();
    while n > 0 {
        if best[n].1 {
            chosen.insert(order[n - 1]);
            n = before(n - 1);
        } else {
            n -= 1;
        }
    }
    chosen
}

/// What the catalog would say of an object.
async fn read_object(
    store: &Store,
    key: &str,
    object: ObjectId,
    bytes: &Bytes,
    new_block_id: &(dyn Fn() -> BlockId + Sync),
) -> Result<(ObjectRecord, Vec<BlockRecord>)> {
    let path: Arc<str> = store.path(key).to_string().into();
    let reader: Arc<MemoryReader> = Arc::new(MemoryReader::new(bytes.clone()));
    let mut records = Vec::new();
    let mut footer = 0;
    let level = u8::from(key.starts_with("blocks/"));
    for section in block::sections(&path, bytes)? {
        let opened = Block::open(reader.clone(), &path, &section.location, &section.tenant).await?;
        footer = footer.max(section.location.index.end);
        let index = opened.index();
        let (Some(first), Some(last)) = (index.fences().first(), index.fences().last()) else {
            continue;
        };
        let totals = index.totals();
        records.push(BlockRecord {
            id: new_block_id(),
            tenant: section.tenant.clone(),
            object,
            row_groups: section.row_groups,
            bloom: byte_range(&section.location.bloom),
            index: byte_range(&section.location.index),
            bytes: last.offset + last.length - first.offset,
            spans: totals.spans,
            traces: totals.traces,
            min_unix_nanos: totals.min_start,
            max_unix_nanos: totals.max_end.max(totals.max_start),
            min_trace: first.first_trace,
            max_trace: last.last_trace,
            level,
            // Which traces are in other blocks too was in the lost catalog.
            split_traces: SplitTraces::All,
            source: None,
            created_unix_nanos: object.0.unix_millis().saturating_mul(NANOS_PER_MILLI),
        });
    }
    let length = bytes.len() as u64;
    let record = ObjectRecord {
        id: object,
        path: Arc::from(key),
        bytes: length,
        footer: ByteRange {
            offset: footer,
            length: length - footer,
        },
        checksum: XxHash3_64::oneshot(bytes),
        etag: None,
    };
    Ok((record, records))
}

pub(crate) fn sentence(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
