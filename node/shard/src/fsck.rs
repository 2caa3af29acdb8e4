//! Whether the object store holds what the catalog in it says: a look from outside, while nodes run or when none is left.
//!
//! The newest root ([`crate::manifest`]) is what the store is compared with, so what was flushed, merged or deleted since is
//! not judged. Nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::sync::Arc;

use block::{Block, Columns, RangeReader, SectionLocation, StoreReader};
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use twox_hash::XxHash3_64;

use crate::catalog::{BlockRecord, ByteRange, CatalogView, GroupKey, LogRange, ObjectRecord};
use crate::collect::{FOLDERS, object_of};
use crate::error::{Error, Result};
use crate::manifest;
use crate::rebuild::sentence;
use crate::store::Store;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Lists: that every named object is there in its length.
    Names,
    /// Every byte of every named object: its checksum, its index, each page.
    Bytes,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Revision and time (nanoseconds since the Unix epoch, the ring's clock) of the newest root. `None`: nothing was folded
    /// into the store yet, and there is nothing to compare with.
    pub root: Option<(u64, u64)>,
    /// Blocks that the catalog names.
    pub blocks: usize,
    /// Objects they are in.
    pub objects: usize,
    /// Bytes of those.
    pub bytes: u64,
    /// Spans in those.
    pub spans: u64,
    /// Objects in our form that the root does not name: what came since, what waits for its deletion, orphans.
    pub unnamed: u64,
    /// Objects among ours that are not ours.
    pub foreign: u64,
    /// What is wrong: the object's key, and why.
    pub problems: Vec<(String, String)>,
}

/// Compares the store with the newest root of `cluster` in it.
///
/// Errors: the store's. A root or manifest that cannot be used is a finding.
pub async fn fsck(store: &Store, cluster: u128, depth: Depth) -> Result<Findings> {
    let mut findings = Findings::default();
    let newest = match manifest::read_newest(store, cluster).await {
        Ok(Some(newest)) => newest,
        Ok(None) => return Ok(findings),
        Err(Error::Folded { path, why }) => {
            findings.problems.push((path, why));
            return Ok(findings);
        }
        Err(Error::Store {
            path,
            source: object_store::Error::NotFound { .. },
            ..
        }) => {
            findings
                .problems
                .push((path, "is named by the newest root and not there".to_owned()));
            return Ok(findings);
        }
        Err(error) => return Err(error),
    };
    let view = newest.catalog.view();
    findings.root = Some((newest.root.recent.view().revision(), newest.root.taken_unix_nanos));
    let mut lengths = BTreeMap::new();
    for folder in FOLDERS {
        let mut listed = store.list(folder);
        while let Some((key, meta)) = listed.try_next().await? {
            match object_of(&key) {
                Some(object) if view.object(object).is_some() => {
                    lengths.insert(key, meta.size);
                }
                Some(_) => findings.unnamed += 1,
                None => findings.foreign += 1,
            }
        }
    }
    let mut blocks: BTreeMap<_, Vec<&Arc<BlockRecord>>> = BTreeMap::new();
    for record in view.tenants().flat_map(|(_, blocks)| blocks.iter()) {
        blocks.entry(record.object).or_default().push(record);
        findings.blocks += 1;
        findings.spans += record.spans;
    }
    let reader: Arc<dyn RangeReader> = Arc::new(StoreReader::new(Arc::clone(store.inner())));
    for object in view.objects() {
        findings.objects += 1;
        findings.bytes += object.bytes;
        let key = object.path.to_string();
        match lengths.get(&key) {
            None => findings.problems.push((key, "is named and not there".to_owned())),
            Some(found) if *found != object.bytes => {
                let why = format!("has {found} bytes, expected {}", object.bytes);
                findings.problems.push((key, why));
            }
            Some(_) if depth == Depth::Bytes => match read_whole(store, &reader, object, &blocks[&object.id]).await {
                Ok(problems) => findings
                    .problems
                    .extend(problems.into_iter().map(|why| (key.clone(), why))),
                // Reading on would only find the same again.
                Err(error) => return Err(error),
            },
            Some(_) => {}
        }
    }
    findings.problems.extend(overlaps(view));
    Ok(findings)
}

/// What is wrong with the bytes of an object.
async fn read_whole(
    store: &Store,
    reader: &Arc<dyn RangeReader>,
    object: &ObjectRecord,
    blocks: &[&Arc<BlockRecord>],
) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let path: Arc<str> = store.path(&object.path).to_string().into();
    let failed = |source| Error::Store {
        operation: "read",
        path: path.to_string(),
        source,
    };
    let mut hash = XxHash3_64::new();
    let read = store.inner().get(&store.path(&object.path)).await.map_err(failed)?;
    let mut parts = read.into_stream();
    while let Some(part) = parts.try_next().await.map_err(failed)? {
        hash.write(&part);
    }
    if hash.finish() != object.checksum {
        problems.push("its checksum is not the one it was written with".to_owned());
    }
    for record in blocks {
        if let Err(error) = read_block(reader, &path, record).await {
            match error.kind() {
                block::Kind::Unavailable => return Err(error.into()),
                _ => problems.push(sentence(&error.into())),
            }
        }
    }
    Ok(problems)
}

async fn read_block(reader: &Arc<dyn RangeReader>, path: &Arc<str>, record: &BlockRecord) -> block::Result<()> {
    let range = |range: ByteRange| range.offset..range.offset + range.length;
    let location = SectionLocation {
        index: range(record.index),
        bloom: range(record.bloom),
    };
    let block = Block::open(Arc::clone(reader), path, &location, &record.tenant).await?;
    block.filters(&location).await?;
    for group in 0..block.index().fences().len() {
        block.row_group(group, Columns::All).await?.verify()?;
    }
    Ok(())
}

/// Flushes of one log that hold the same entries, or entries beyond the watermark.
fn overlaps(view: &CatalogView) -> Vec<(String, String)> {
    let mut ranges: BTreeMap<GroupKey, BTreeSet<(u64, u64, Arc<str>)>> = BTreeMap::new();
    for record in view.tenants().flat_map(|(_, blocks)| blocks.iter()) {
        let Some(LogRange { group, from, to }) = record.source else {
            continue;
        };
        let path = view.object(record.object).map(|object| Arc::clone(&object.path));
        let ranges = ranges.entry(group).or_default();
        ranges.insert((from.0, to.0, path.unwrap_or_default()));
    }
    let mut problems = Vec::new();
    for (group, ranges) in ranges {
        let watermark = view.watermark(group).map_or(u64::MAX, |watermark| watermark.0);
        let mut covered = 0;
        for (from, to, path) in ranges {
            if from < covered {
                let why =
                    format!("holds entries of generation {group} from {from} on, which others hold up to {covered}");
                problems.push((path.to_string(), why));
            } else if to > watermark {
                let why = format!("holds entries of generation {group} up to {to}, which is covered up to {watermark}");
                problems.push((path.to_string(), why));
            }
            covered = covered.max(to);
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    //! A store is spoiled; what is found.

    use bytes::Bytes;

    use super::*;
    use crate::catalog::{Catalog, Command};
    use crate::housekeeping::bed::{Bed, GROUP, START, tenant};
    use crate::port::CatalogPort as _;

    /// Puts the object's true checksum and footer into its record, which the bed does not know.
    async fn flush(bed: &Bed, trace: u8) -> Arc<str> {
        let a = tenant("a");
        let (mut object, records) = bed.upload(&[(&a, &[(trace, 1, START), (trace, 2, START)])]).await;
        object.checksum = XxHash3_64::oneshot(&bed.store.get(&object.path).await.unwrap());
        let path = Arc::clone(&object.path);
        bed.name((object, records)).await.unwrap();
        path
    }

    async fn found(bed: &Bed, depth: Depth) -> Findings {
        fsck(&bed.store, 7, depth).await.unwrap()
    }

    #[tokio::test]
    async fn a_whole_store_is_found_whole() {
        let bed = Bed::new();
        assert_eq!(found(&bed, Depth::Bytes).await, Findings::default());
        flush(&bed, 1).await;
        flush(&bed, 2).await;
        bed.folder().run().await.unwrap();
        flush(&bed, 3).await;
        bed.store
            .upload("l0/notes.txt", Bytes::from_static(b"x"))
            .await
            .unwrap();
        let findings = found(&bed, Depth::Bytes).await;
        assert_eq!((findings.blocks, findings.objects, findings.spans), (2, 2, 4));
        assert_eq!((findings.unnamed, findings.foreign), (1, 1));
        assert_eq!(findings.problems, []);
        assert_eq!(
            findings.root.unwrap().0,
            bed.view().revision() - 2,
            "before the last flush"
        );
    }

    #[tokio::test]
    async fn what_is_gone_short_or_changed_is_found() {
        let bed = Bed::new();
        let [gone, short, changed] = [flush(&bed, 1).await, flush(&bed, 2).await, flush(&bed, 3).await];
        bed.folder().run().await.unwrap();
        bed.store.delete(&gone).await.unwrap();
        let whole = bed.store.get(&short).await.unwrap();
        bed.store.upload(&short, whole.slice(1..)).await.unwrap();
        let mut whole = bed.store.get(&changed).await.unwrap().to_vec();
        let view = bed.view();
        let mut records = view.tenants().flat_map(|(_, blocks)| blocks.iter());
        let index = records
            .find(|record| view.object(record.object).unwrap().path == changed)
            .unwrap()
            .index;
        whole[index.offset as usize + 90] ^= 4;
        bed.store.upload(&changed, whole.into()).await.unwrap();
        let keys = |findings: Findings| -> Vec<String> { findings.problems.into_iter().map(|(key, _)| key).collect() };
        assert_eq!(keys(found(&bed, Depth::Names).await), [&*gone, &*short]);
        let findings = found(&bed, Depth::Bytes).await;
        let whys: Vec<&str> = findings.problems[2..].iter().map(|(_, why)| why.as_str()).collect();
        assert!(whys[0].contains("checksum") && whys[1].contains("block"), "{whys:?}");
        assert_eq!(keys(findings), [&*gone, &*short, &*changed, &*changed]);
    }

    #[tokio::test]
    async fn entries_that_are_there_twice_are_found() {
        let bed = Bed::new();
        flush(&bed, 1).await;
        flush(&bed, 2).await;
        let view = bed.view();
        let objects: Vec<_> = view.objects().cloned().collect();
        let records = view.tenants().flat_map(|(_, blocks)| blocks.iter());
        let part = |record: &BlockRecord, from: u64, to: u64| {
            let source = Some(LogRange {
                group: GROUP,
                from: model::LogIndex(from),
                to: model::LogIndex(to),
            });
            let record = BlockRecord {
                source,
                ..record.clone()
            };
            let object = objects.iter().find(|object| object.id == record.object).unwrap();
            CatalogView::of_object((**object).clone(), vec![record])
        };
        let mut catalog = Catalog::of(view.with_only([]));
        for (record, (from, to)) in records.zip([(0, 2), (1, 2)]) {
            catalog.absorb(&part(record, from, to)).unwrap();
        }
        let spoiled = Bed::with(&bed, catalog);
        let unchanged = Command::Withdraw { objects: Vec::new() };
        spoiled.catalog.change(unchanged).await.unwrap();
        spoiled.folder().run().await.unwrap();
        let findings = found(&bed, Depth::Names).await;
        assert_eq!(findings.problems.len(), 1, "{findings:?}");
        assert!(findings.problems[0].1.contains("others hold up to 2"), "{findings:?}");
    }
}
