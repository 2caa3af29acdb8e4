//! A catalog that was restored from an older copy deletes nothing that only the newer one knows; one that goes on where it
//! was, after a crash at any step, deletes its orphans.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::{BlockId, LogIndex};
use object_store::memory::InMemory;
use object_store::path::Path;
use parking_lot::Mutex;
use settings::CompactionSettings;
use tokio::sync::watch;

use super::*;
use crate::catalog::Catalog;
use crate::housekeeping::bed::faults::Lose;
use crate::housekeeping::bed::{Bed, DAY, GROUP, HOUR, START, tenant};
use crate::port::LocalCatalog;
use crate::retention::Retention;
use crate::trace_index::UNCOVERED_MAX;

/// A node at some moment: what is on its disk and what is in the bucket.
struct Moment {
    catalog: Vec<u8>,
    /// Up to where its log goes.
    log_end: u64,
    bucket: InMemory,
    now: RingTime,
}

impl Moment {
    fn catalog(&self) -> Catalog {
        Catalog::decode(&self.catalog).unwrap()
    }
}

/// Five flushes, one of which crashed before its block was named; a merge of the first ones and its aftermath; a merge that
/// was lost. A moment after every change of the catalog and after every upload.
async fn a_life() -> Vec<Moment> {
    let bed = Arc::new(Bed::new());
    let (moments, log_end) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let looked = (Arc::downgrade(&bed), Arc::clone(&moments), Arc::clone(&log_end));
    *bed.catalog.onlooker.lock() = Some(Box::new(move |catalog: &LocalCatalog| {
        let (bed, moments, log_end) = &looked;
        let Some(bed) = bed.upgrade() else { return };
        moments.lock().push(Moment {
            catalog: catalog.edit(|catalog| catalog.encode()),
            log_end: log_end.load(Ordering::Relaxed),
            bucket: bed.inner.copy(),
            now: catalog.now(),
        });
    }));
    let uploads = Arc::downgrade(&bed);
    *bed.inner.after_put.lock() = Some(Box::new(move |_| {
        if let Some(bed) = uploads.upgrade() {
            bed.catalog.note();
        }
    }));
    let a = tenant("a");
    let flush = async |n: u8| {
        // What is cut is in the log before the block is announced.
        log_end.fetch_add(1, Ordering::Relaxed);
        bed.flush(&[(&a, &[(n, 1, START)])]).await;
        bed.advance(HOUR / 4);
    };
    flush(1).await;
    log_end.fetch_add(1, Ordering::Relaxed);
    bed.upload(&[(&a, &[(2, 1, START)])]).await;
    bed.flush(&[(&a, &[(2, 1, START)])]).await;
    bed.advance(2 * HOUR);
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    let (_told, tell) = watch::channel(false);
    let merged = compactor.run(compactor.next().unwrap(), tell.clone()).await.unwrap();
    assert!(matches!(merged, crate::compaction::Outcome::Merged(_)));
    let retention = bed.retention();
    bed.advance(2 * HOUR);
    assert_eq!(retention.run(&|_| Duration::MAX).await.unwrap().objects_deleted, 2);
    flush(3).await;
    flush(4).await;
    bed.advance(2 * HOUR);
    *bed.catalog.lose.lock() = Lose::Command;
    assert!(compactor.run(compactor.next().unwrap(), tell).await.is_err());
    bed.advance(2 * HOUR);
    flush(5).await;
    bed.catalog.onlooker.lock().take();
    let moments = std::mem::take(&mut *moments.lock());
    assert!(moments.len() > 20, "{}", moments.len());
    moments
}

fn keys(store: &InMemory) -> BTreeSet<String> {
    use futures::{FutureExt, StreamExt};
    let listed = object_store::ObjectStore::list(store, None).collect::<Vec<_>>();
    let listed = listed.now_or_never().expect("memory does not wait");
    let keys = listed.into_iter().map(|meta| meta.unwrap().location.to_string());
    keys.map(|key| key.strip_prefix("our/prefix/").unwrap().to_owned())
        .collect()
}

/// What a node with this catalog has made of the bucket two days later, and what it said.
async fn two_days_later(catalog: Catalog, at: &Moment) -> (BTreeSet<String>, CollectorRun) {
    let bed = Bed::new();
    let bucket = Arc::new(at.bucket.fork());
    let now = RingTime {
        unix_nanos: at.now.unix_nanos + 2 * DAY,
        is_trusted: true,
    };
    let catalog: Arc<dyn CatalogPort> = Arc::new(LocalCatalog::new(catalog, now));
    let store = Store::new(Arc::clone(&bucket) as _, Path::from("our/prefix"));
    let collector = Collector {
        store: store.clone(),
        catalog: Arc::clone(&catalog),
        ..bed.collector()
    };
    let retention = Retention {
        store,
        catalog,
        brakes: Arc::clone(&collector.brakes),
        ..bed.retention()
    };
    let run = collector.run().await.unwrap();
    retention.run(&|_| Duration::MAX).await.unwrap();
    collector.run().await.unwrap();
    (keys(&bucket), run)
}

/// (from, to] in the key of a flushed block.
fn range_of(key: &str) -> Option<(u64, u64)> {
    let name = key.strip_prefix("l0/0-1/")?;
    Some((name[..20].parse().unwrap(), name[21..41].parse().unwrap()))
}

#[tokio::test]
async fn an_older_copy_of_any_moment_deletes_nothing_that_it_has_not_itself() {
    let moments = a_life().await;
    let (mut unknown, mut lost, mut pairs) = (0, 0, 0);
    for (end, last) in moments.iter().enumerate() {
        let newest = last.catalog();
        let named: BTreeSet<String> = newest.view().object_keys().map(str::to_owned).collect();
        for (begin, copy) in moments[..end].iter().enumerate() {
            let restored = copy.catalog();
            let (left, run) = two_days_later(restored.clone(), last).await;
            let watermark = restored.view().watermark(GROUP).unwrap_or(LogIndex(0)).0;
            for key in named.difference(&left) {
                let Some((from, to)) = range_of(key) else {
                    // A merge: whoever has not taken part must still have all that went in.
                    let inputs: Vec<_> = restored
                        .view()
                        .objects()
                        .map(|object| object.path.to_string())
                        .collect();
                    assert!(
                        !inputs.is_empty() && inputs.iter().all(|input| left.contains(input)),
                        "{begin} of {end}: deleted {key} although {inputs:?} are gone"
                    );
                    continue;
                };
                assert!(
                    watermark <= from && to <= copy.log_end,
                    "{begin} of {end}: deleted {key}, has ({watermark}, {}] in its log",
                    copy.log_end
                );
            }
            if run.unknown > 0 {
                assert_eq!(left, keys(&last.bucket), "{begin} of {end}: nothing at all goes");
            }
            unknown += u32::from(run.unknown > 0);
            lost += u32::from(run.unknown == 0 && matches!(run.held, Some(Brake::Lost { .. })));
            pairs += 1;
        }
    }
    assert!(
        unknown > 50 && lost > 0,
        "of {pairs} pairs {unknown} unknown, {lost} lost"
    );
}

#[tokio::test]
async fn whoever_goes_on_after_a_crash_at_any_moment_collects_its_orphans() {
    for (n, moment) in a_life().await.iter().enumerate() {
        let catalog = moment.catalog();
        let (left, run) = two_days_later(catalog.clone(), moment).await;
        assert_eq!((run.unknown, run.lost, run.held), (0, 0, None), "{n}");
        let named: BTreeSet<String> = catalog.view().object_keys().map(str::to_owned).collect();
        assert_eq!(left, named, "{n}");
    }
}

#[tokio::test]
async fn what_merges_and_indexes_upload_was_announced() {
    let bed = Arc::new(Bed::new());
    let a = tenant("a");
    for n in 0..UNCOVERED_MAX as u8 {
        bed.flush(&[(&a, &[(n, 1, START)])]).await;
    }
    bed.advance(2 * HOUR);
    let (looking, uploads) = (Arc::downgrade(&bed), Arc::new(Mutex::new(Vec::new())));
    let uploaded = Arc::clone(&uploads);
    *bed.inner.after_put.lock() = Some(Box::new(move |path| {
        let bed = looking.upgrade().expect("the test is not over");
        let object = Store::object_of_key(path.as_ref()).expect("a key of ours");
        let folder = path.parts().nth(2).expect("a folder below the prefix");
        uploaded
            .lock()
            .push((folder.as_ref().to_owned(), bed.view().is_announced(object)));
    }));
    bed.indexer().run(&a).await.unwrap();
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    let (_told, tell) = watch::channel(false);
    compactor.run(compactor.next().unwrap(), tell).await.unwrap();
    let uploads = std::mem::take(&mut *uploads.lock());
    assert_eq!(uploads, [("traces".to_owned(), true), ("blocks".to_owned(), true)]);
}

#[tokio::test]
async fn an_unknown_object_keeps_everything_until_it_is_gone() {
    let bed = Bed::new();
    let a = tenant("a");
    let gone = bed.flush(&[(&a, &[(1, 1, START)])]).await;
    let reason = DeleteReason::Operator;
    bed.catalog.change(Command::Delete { ids: gone, reason }).await.unwrap();
    let unknown = Store::merged_key(&a, ObjectId(bed.names.next()));
    bed.store.upload(&unknown, "of another copy".into()).await.unwrap();
    let (collector, retention) = (bed.collector(), bed.retention());
    let retention = Retention {
        brakes: Arc::clone(&collector.brakes),
        ..retention
    };
    let run = collector.run().await.unwrap();
    assert_eq!(
        (run.unknown, run.an_unknown.as_deref()),
        (1, Some(unknown.as_str())),
        "at any age"
    );
    assert_eq!(bed.metrics.unknown_objects.load(Ordering::Relaxed), 1);
    bed.advance(2 * HOUR);
    let run = retention.run(&|_| Duration::MAX).await.unwrap();
    assert_eq!(
        (run.objects_deleted, run.held),
        (0, Some(Brake::OlderCopy { unknown: 1 }))
    );
    bed.advance(30 * DAY);
    assert_eq!(
        collector.run().await.unwrap().held,
        Some(Brake::OlderCopy { unknown: 1 })
    );
    assert_eq!(bed.objects().len(), 2);
    // Somebody has decided.
    bed.store.delete(&unknown).await.unwrap();
    let run = collector.run().await.unwrap();
    assert_eq!((run.unknown, run.held), (0, None));
    assert_eq!(bed.metrics.unknown_objects.load(Ordering::Relaxed), 0);
    assert_eq!(retention.run(&|_| Duration::MAX).await.unwrap().objects_deleted, 1);
    // Another node has looked after the store meanwhile.
    collector.brakes.forget_survey();
    let run = retention.run(&|_| Duration::MAX).await.unwrap();
    assert_eq!(run.held, Some(Brake::NotSurveyed));
}

#[tokio::test]
async fn an_upload_that_comes_while_the_store_is_listed_is_not_unknown() {
    use futures::FutureExt;
    let bed = Arc::new(Bed::new());
    bed.flush(&[(&tenant("a"), &[(1, 1, START)])]).await;
    let coming = Arc::clone(&bed);
    // The first folder is listed at its end; the object comes into the last.
    *bed.inner.after_list.lock() = Some(Box::new(move || {
        let object = ObjectId(coming.names.next());
        coming.announce(object).now_or_never().unwrap();
        let key = Store::trace_index_key(&tenant("a"), object.0);
        let uploaded = coming.store.upload(&key, "index".into());
        uploaded.now_or_never().unwrap().unwrap();
    }));
    let run = bed.collector().run().await.unwrap();
    assert_eq!((run.objects, run.unknown, run.held), (2, 0, None));
}

#[tokio::test]
async fn so_many_unknown_objects_are_looked_at_twice_and_all_are_counted() {
    for count in [UNKNOWN_MAX - 1, UNKNOWN_MAX, UNKNOWN_MAX + 1] {
        let bed = Bed::new();
        for _ in 0..count {
            let key = Store::merged_key(&tenant("a"), ObjectId(bed.names.next()));
            bed.store.upload(&key, "x".into()).await.unwrap();
        }
        let run = bed.collector().run().await.unwrap();
        assert_eq!(run.unknown, count as u64);
    }
}

#[tokio::test]
async fn an_announcement_without_an_object_is_withdrawn() {
    let bed = Bed::new();
    bed.announce(ObjectId(BlockId::from_parts(START / 1_000_000, 99))).await;
    let collector = bed.collector();
    bed.advance(DAY);
    collector.run().await.unwrap();
    assert_eq!(bed.view().announced().count(), 1);
    bed.advance(1_000_000);
    collector.run().await.unwrap();
    assert_eq!(bed.view().announced().count(), 0);
}
