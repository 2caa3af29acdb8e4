//! A catalog into the bucket and back, and what that keeps from being deleted.

use std::time::Duration;

use settings::CompactionSettings;
use tokio::sync::watch;

use super::*;
use crate::catalog::{Command, DeleteReason, ObjectId};
use crate::housekeeping::bed::faults::Refuse;
use crate::housekeeping::bed::{Bed, DAY, HOUR, START, tenant};
use crate::retention::Retention;

/// What a rebuild would start from.
async fn newest(bed: &Bed) -> Newest {
    read_newest(&bed.store, 7).await.unwrap().unwrap()
}

/// What retention asks.
pub(crate) fn dropped(folder: &Folder) -> Arc<dyn Fn(ObjectId) -> bool + Send + Sync> {
    let copy = Arc::clone(&folder.copy);
    Arc::new(move |object| copy.has_dropped(object))
}

fn manifests(bed: &Bed) -> Vec<String> {
    let mut keys = bed.objects();
    keys.retain(|key| key.contains("/manifests/"));
    keys
}

#[tokio::test]
async fn what_was_folded_is_read_back() {
    let bed = Bed::new();
    let (a, b) = (tenant("a*"), tenant("b"));
    for day in 0..5 {
        let start = START + day * DAY;
        bed.flush(&[(&a, &[(1, 1, start)]), (&b, &[(2, 1, start)])]).await;
        bed.advance(DAY);
    }
    let folder = bed.folder();
    assert_eq!(folder.run().await.unwrap(), Outcome::Folded { manifests: 8 });
    let kept = newest(&bed).await;
    assert_eq!(kept.root.manifests.len(), 8, "four older days of two tenants");
    assert_eq!(kept.root.recent.view().block_count(), 2);
    let view = bed.view();
    assert_eq!(kept.root.recent.view().revision(), view.revision());
    let rest = |view: &CatalogView| {
        let watermarks: Vec<_> = view.watermarks().collect();
        let pending: Vec<_> = view.pending().cloned().collect();
        (watermarks, pending, view.announced().collect::<Vec<_>>())
    };
    assert_eq!(rest(kept.catalog.view()), rest(&view));
    let blocks = |view: &CatalogView| -> Vec<_> {
        let blocks = view.tenants().flat_map(|(_, blocks)| blocks.iter());
        blocks.map(|record| (**record).clone()).collect()
    };
    assert_eq!(blocks(kept.catalog.view()), blocks(&view));
    assert!(
        view.objects()
            .all(|object| kept.catalog.view().object(object.id) == Some(object))
    );
    assert_eq!(folder.run().await.unwrap(), Outcome::Unchanged);
    // A day later only what is new is written, and a leader that follows finds it.
    bed.flush(&[(&a, &[(3, 1, START + 5 * DAY)])]).await;
    let next = bed.folder();
    assert_eq!(folder.run().await.unwrap(), Outcome::Folded { manifests: 0 });
    assert_eq!(next.run().await.unwrap(), Outcome::Unchanged);
}

#[tokio::test]
async fn an_older_copy_never_hides_a_newer_one() {
    let bed = Bed::new();
    let a = tenant("a");
    bed.flush(&[(&a, &[(1, 1, START)])]).await;
    let older = bed.view();
    bed.flush(&[(&a, &[(2, 1, START)])]).await;
    let folder = bed.folder();
    folder.run().await.unwrap();
    let revision = bed.view().revision();
    let other = Bed::with(&bed, Catalog::of((*older).clone()));
    assert_eq!(other.folder().run().await.unwrap(), Outcome::Newer { revision });
    // The same number of changes, but other ones.
    let gone = other.view().blocks_of(&a).map(|record| record.id).collect();
    let reason = DeleteReason::Operator;
    other
        .catalog
        .inner
        .change(Command::Delete { ids: gone, reason })
        .await
        .unwrap();
    while other.view().revision() < revision {
        other.announce(ObjectId(other.names.next())).await;
    }
    assert_eq!(other.folder().run().await.unwrap(), Outcome::Newer { revision });
    assert_eq!(newest(&bed).await.catalog.view().block_count(), 2);
}

#[tokio::test]
async fn nothing_is_deleted_that_the_newest_root_needs() {
    let bed = Bed::new();
    let a = tenant("a");
    bed.flush(&[(&a, &[(1, 1, START)])]).await;
    bed.flush(&[(&a, &[(2, 1, START)])]).await;
    let folder = bed.folder();
    let retention = Retention {
        is_dropped: dropped(&folder),
        ..bed.retention()
    };
    folder.run().await.unwrap();
    bed.advance(2 * HOUR);
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    let (_told, tell) = watch::channel(false);
    compactor.run(compactor.next().unwrap(), tell).await.unwrap();
    bed.advance(2 * HOUR);
    assert_eq!(retention.run(&|_| Duration::MAX).await.unwrap().objects_deleted, 0);
    *bed.inner.refuse.lock() = Refuse::Puts;
    assert!(folder.run().await.is_err());
    assert_eq!(retention.run(&|_| Duration::MAX).await.unwrap().objects_deleted, 0);
    *bed.inner.refuse.lock() = Refuse::Nothing;
    folder.run().await.unwrap();
    assert_eq!(retention.run(&|_| Duration::MAX).await.unwrap().objects_deleted, 2);
    folder.copy.forget();
    let gone = bed.view().blocks_of(&a).map(|record| record.id).collect();
    let reason = DeleteReason::Operator;
    bed.catalog.change(Command::Delete { ids: gone, reason }).await.unwrap();
    bed.advance(2 * HOUR);
    assert_eq!(retention.run(&|_| Duration::MAX).await.unwrap().objects_deleted, 0);
}

#[tokio::test]
async fn old_roots_and_manifests_go() {
    let bed = Bed::new();
    let a = tenant("a");
    let folder = bed.folder();
    // The store stamps with the machine's clock, which is years ahead of the test's.
    let mut first = Vec::new();
    for day in 0..8 {
        first.extend(bed.flush(&[(&a, &[(1, 1, START + day * DAY)])]).await);
        bed.advance(DAY);
        folder.run().await.unwrap();
    }
    let roots = bed.objects().into_iter().filter(|key| key.contains("/roots/"));
    assert_eq!(roots.count(), ROOTS_KEPT);
    assert_eq!(manifests(&bed).len(), 7);
    // Every day's manifest changes; the former ones stay until they are old by the store's clock.
    let ids = first.split_off(6);
    let reason = DeleteReason::Operator;
    bed.catalog
        .change(Command::Delete { ids: first, reason })
        .await
        .unwrap();
    folder.run().await.unwrap();
    assert_eq!((manifests(&bed).len(), newest(&bed).await.root.manifests.len()), (7, 1));
    bed.advance(60 * 365 * DAY);
    for id in ids {
        let (ids, reason) = (vec![id], DeleteReason::Operator);
        bed.catalog.change(Command::Delete { ids, reason }).await.unwrap();
        folder.run().await.unwrap();
    }
    bed.announce(ObjectId(bed.names.next())).await;
    folder.run().await.unwrap();
    assert_eq!(newest(&bed).await.root.manifests, []);
    assert!(
        manifests(&bed).len() <= 2,
        "what the kept roots name: {:?}",
        manifests(&bed)
    );
}

#[tokio::test]
async fn damage_is_told() {
    let bed = Bed::new();
    bed.flush(&[(&tenant("a"), &[(1, 1, START)])]).await;
    bed.advance(5 * DAY);
    bed.folder().run().await.unwrap();
    assert!(
        read_newest(&bed.store, 8)
            .await
            .unwrap_err()
            .to_string()
            .contains("is of cluster")
    );
    let root = Root::key(bed.view().revision());
    for key in [manifests(&bed)[0].strip_prefix("our/prefix/").unwrap(), &root] {
        let whole = bed.store.get(key).await.unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.to_vec();
            broken[at] ^= 1 << (at % 8);
            bed.store.upload(key, broken.into()).await.unwrap();
            let error = read_newest(&bed.store, 7).await.unwrap_err();
            assert!(matches!(error, Error::Folded { .. }), "byte {at}: {error}");
        }
        bed.store.upload(key, whole).await.unwrap();
    }
    assert_eq!(newest(&bed).await.catalog.view().block_count(), 1);
}
