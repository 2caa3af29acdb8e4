//! Orphans go, everything else stays, whatever a listing says.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use model::{BlockId, Generation, LogIndex, ShardId, TenantId};
use proptest::prelude::*;
use settings::Period;

use super::*;
use crate::Kind;
use crate::catalog::{GroupKey, LogRange};
use crate::housekeeping::bed::faults::{Lose, Refuse};
use crate::housekeeping::bed::{Bed, DAY, HOUR, SECOND, START, tenant};

const MILLI: u64 = 1_000_000;

#[test]
fn only_keys_that_we_would_write_are_ours() {
    let object = ObjectId(BlockId::from_parts(START / MILLI, 77));
    let range = LogRange {
        group: GroupKey {
            shard: ShardId(3),
            generation: Generation(12),
        },
        from: LogIndex(0),
        to: LogIndex(u64::MAX),
    };
    let tenant = TenantId::new("a*b").unwrap();
    let ours = [
        Store::flushed_key(range, object),
        Store::merged_key(&tenant, object),
        Store::trace_index_key(&tenant, object.0),
    ];
    for key in &ours {
        assert_eq!(object_of(key), Some(object), "{key}");
    }
    let id = object.0.to_string();
    let from_to = "00000000000000000001-00000000000000000002";
    for foreign in [
        format!("blocks/a/{}.parquet", id.to_uppercase()),
        format!("blocks/a/old-{id}.parquet"),
        format!("blocks/a/{id}.index"),
        format!("blocks/a/b/{id}.parquet"),
        format!("blocks/{id}.parquet"),
        format!("traces/a/{id}.parquet"),
        format!("traces/a/{id}"),
        format!("backup/a/{id}.parquet"),
        format!("l0/3-12/{id}.parquet"),
        format!("l0/3-12/1-2-{id}.parquet"),
        format!("l0/03-12/{from_to}-{id}.parquet"),
        format!("l0/3/{from_to}-{id}.parquet"),
        format!("l0/3-12/{from_to}_{id}.parquet"),
        "blocks/a/00000000-0000-4000-8000-000000000000.parquet".to_owned(),
        "blocks/a/00000000-0000-0000-0000-000000000000.parquet".to_owned(),
        "blocks/readme.txt".to_owned(),
        String::new(),
    ] {
        assert_eq!(object_of(&foreign), None, "{foreign}");
    }
}

proptest! {
    #[test]
    fn no_key_makes_it_panic(key in "(l0|blocks|traces)?/?[-0-9a-fé./]{0,60}(.parquet|.index)?") {
        let _ = object_of(&key);
    }
}

/// An object nobody names.
async fn orphan(bed: &Bed, of: &str) -> String {
    let object = ObjectId(bed.names.next());
    bed.announce(object).await;
    let key = Store::merged_key(&tenant(of), object);
    bed.store.upload(&key, "orphan".into()).await.unwrap();
    key
}

#[tokio::test]
async fn an_orphan_goes_when_it_is_old_enough() {
    let bed = Bed::new();
    // Its folder is percent-encoded, and once more by the store.
    orphan(&bed, "a*(b)").await;
    let collector = bed.collector();
    bed.advance(DAY);
    assert_eq!(collector.run().await.unwrap().orphans_deleted, 0);
    bed.advance(MILLI);
    let run = collector.run().await.unwrap();
    assert_eq!((run.objects, run.orphans_deleted, run.foreign), (1, 1, 0));
    assert!(bed.objects().is_empty());
    assert_eq!(bed.metrics.orphans_deleted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_run_deletes_up_to_a_bound() {
    for (drops_max, expected) in [(2, 2), (3, 3), (4, 3)] {
        let bed = Bed::new();
        for of in ["a", "b", "c"] {
            orphan(&bed, of).await;
        }
        bed.advance(2 * DAY);
        let mut collector = bed.collector();
        collector.settings.drops_per_run_max = drops_max;
        let run = collector.run().await.unwrap();
        assert_eq!((run.objects, run.orphans_deleted), (3, expected));
        assert_eq!(collector.run().await.unwrap().orphans_deleted, 3 - expected);
    }
}

#[tokio::test]
async fn settings_cannot_make_it_race_a_slow_upload() {
    let bed = Bed::new();
    let mut collector = bed.collector();
    collector.settings.orphan_age = Period::minutes(1);
    let a = tenant("a");
    let uploaded = bed.upload(&[(&a, &[(1, 1, START)])]).await;
    bed.advance(NAME_AGE_MAX_NANOS);
    assert_eq!(collector.run().await.unwrap().orphans_deleted, 0);
    bed.name(uploaded).await.unwrap();
    let late = bed.upload(&[(&a, &[(2, 1, START)])]).await;
    bed.advance(NAME_AGE_MAX_NANOS + NAME_MARGIN_NANOS + MILLI);
    assert_eq!(collector.run().await.unwrap().orphans_deleted, 1);
    assert_eq!(
        bed.name(late).await.unwrap_err().kind(),
        Kind::Fenced,
        "nobody can name it any more"
    );
    assert_eq!(bed.traces(&a).await.len(), 1);
}

#[tokio::test]
async fn what_the_catalog_knows_stays() {
    let bed = Bed::new();
    let a = tenant("a");
    bed.flush(&[(&a, &[(1, 1, START)])]).await;
    let gone = bed.flush(&[(&a, &[(2, 1, START)])]).await;
    let reason = DeleteReason::Operator;
    bed.catalog.change(Command::Delete { ids: gone, reason }).await.unwrap();
    bed.advance(30 * DAY);
    assert_eq!(bed.collector().run().await.unwrap().orphans_deleted, 0);
    assert_eq!(bed.objects().len(), 2, "one is read, the other waits for its deletion");
}

#[tokio::test]
async fn foreign_objects_are_counted_and_never_touched() {
    let bed = Bed::new();
    let foreign = ["l0/notes.txt", "blocks/a/mine.parquet", "traces/x/y/z"];
    for key in foreign.iter().chain(&["cluster.json"]) {
        bed.store.upload(key, "theirs".into()).await.unwrap();
    }
    orphan(&bed, "a").await;
    bed.advance(300 * DAY);
    let run = bed.collector().run().await.unwrap();
    assert_eq!((run.foreign, run.orphans_deleted), (3, 1));
    assert_eq!(bed.metrics.foreign_objects.load(Ordering::Relaxed), 3);
    assert_eq!(bed.objects().len(), 4);
}

#[tokio::test]
async fn an_object_that_is_named_while_it_is_listed_stays() {
    let bed = Arc::new(Bed::new());
    let a = tenant("a");
    let uploaded = bed.upload(&[(&a, &[(1, 1, START)])]).await;
    // Time is trusted by the collector, but not yet by the one who names.
    bed.advance(2 * DAY);
    let now = bed.catalog.now();
    let naming = Arc::clone(&bed);
    *bed.inner.after_list.lock() = Some(Box::new(move || {
        let distrust = RingTime {
            is_trusted: false,
            ..now
        };
        naming.catalog.inner.set_now(distrust);
        naming.name(uploaded).now_or_never().unwrap().unwrap();
        naming.catalog.inner.set_now(now);
    }));
    assert_eq!(bed.collector().run().await.unwrap().orphans_deleted, 0);
    assert_eq!(bed.traces(&a).await.len(), 1);
}

#[tokio::test]
async fn a_node_that_has_fallen_behind_deletes_nothing_that_is_named() {
    let bed = Bed::new();
    let a = tenant("a");
    let stale = bed.view();
    bed.flush(&[(&a, &[(1, 1, START)])]).await;
    bed.advance(2 * DAY);
    *bed.catalog.stale.lock() = Some(Arc::clone(&stale));
    assert_eq!(bed.collector().run().await.unwrap().orphans_deleted, 0);
    assert_eq!(bed.traces(&a).await.len(), 1);
    // Nor does one that cannot reach the ring.
    orphan(&bed, "a").await;
    bed.advance(2 * DAY);
    *bed.catalog.stale.lock() = Some(stale);
    *bed.catalog.lose.lock() = Lose::Command;
    assert_eq!(bed.collector().run().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(bed.objects().len(), 2);
}

#[tokio::test]
async fn a_store_that_refuses_is_an_error_and_nothing_goes() {
    let bed = Bed::new();
    orphan(&bed, "a").await;
    bed.advance(2 * DAY);
    let collector = bed.collector();
    for refuse in [Refuse::Lists, Refuse::Deletes] {
        *bed.inner.refuse.lock() = refuse;
        assert_eq!(collector.run().await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(bed.objects().len(), 1);
    }
    assert_eq!(
        *bed.inner.deletes.lock(),
        1,
        "a listing that fails deletes nothing of what it gave before"
    );
    assert_eq!(bed.metrics.runs_failed.load(Ordering::Relaxed), 2);
    *bed.inner.refuse.lock() = Refuse::Nothing;
    assert_eq!(collector.run().await.unwrap().orphans_deleted, 1);
}

#[tokio::test]
async fn brakes_hold_before_and_during_a_run() {
    let bed = Arc::new(Bed::new());
    orphan(&bed, "a").await;
    bed.advance(2 * DAY);
    let collector = bed.collector();
    let now = bed.catalog.now();
    let distrust = RingTime {
        is_trusted: false,
        ..now
    };
    bed.catalog.inner.set_now(distrust);
    assert_eq!(collector.run().await.unwrap().held, Some(Brake::TimeUntrusted));
    bed.catalog.inner.set_now(now);
    let jumping = Arc::clone(&bed);
    *bed.inner.after_list.lock() = Some(Box::new(move || jumping.clock.jump_to(START + 10 * 365 * DAY)));
    assert!(matches!(
        collector.run().await.unwrap().held,
        Some(Brake::ClockJumped { .. })
    ));
    assert_eq!(bed.objects().len(), 1);
    assert_eq!(bed.metrics.runs_held.load(Ordering::Relaxed), 2);
    bed.clock.jump_to(now.unix_nanos + HOUR + SECOND);
    assert!(collector.run().await.unwrap().held.is_some(), "until the node restarts");
}
