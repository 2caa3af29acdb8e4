//! What is old goes, what is not stays, and a wrong clock deletes nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use block::StoreReader;
use model::{BlockId, Clock, LogIndex, ManualClock};
use proptest::prelude::*;

use super::*;
use crate::blocks::Blocks;
use crate::catalog::{BlockRecord, ByteRange, Catalog, ObjectId, ObjectRecord, SplitTraces};
use crate::decoded_cache::DecodedCache;
use crate::disk_cache::{DiskCache, FreeBytes};
use crate::housekeeping::bed::faults::{Lose, Refuse};
use crate::housekeeping::bed::{Bed, DAY, GROUP, HOUR, SECOND, START, Span, tenant, trace};
use crate::kept::Objects;

const YEAR: u64 = 365 * DAY;

fn days(n: u64) -> impl Fn(&TenantId) -> Duration + Sync {
    move |_| Duration::from_nanos(n * DAY)
}

/// A catalog of blocks that end when they are said to, and were stored then.
fn catalog_of(blocks: &[(&str, u64)]) -> Catalog {
    let stored: Vec<_> = blocks
        .iter()
        .map(|(name, end)| (*name, *end, (*end).max(START)))
        .collect();
    catalog_stored(&stored)
}

/// A catalog of blocks of a tenant that end at one time and were stored at another.
fn catalog_stored(blocks: &[(&str, u64, u64)]) -> Catalog {
    let mut catalog = Catalog::new();
    catalog.open_group(GROUP);
    for (n, (name, end, stored)) in blocks.iter().enumerate() {
        let n = n as u64;
        let id = BlockId::from_parts(stored / 1_000_000, u128::from(n));
        let object = ObjectRecord {
            id: ObjectId(id),
            path: Arc::from(format!("l0/{n}")),
            bytes: 1,
            footer: ByteRange::default(),
            checksum: 0,
            etag: None,
        };
        let record = BlockRecord {
            id,
            tenant: tenant(name),
            object: ObjectId(id),
            row_groups: 0..1,
            bloom: ByteRange::default(),
            index: ByteRange::default(),
            bytes: 1,
            spans: 1,
            traces: 1,
            min_unix_nanos: 0,
            max_unix_nanos: *end,
            min_trace: trace(0),
            max_trace: trace(255),
            level: 0,
            split_traces: SplitTraces::default(),
            source: None,
            created_unix_nanos: 0,
        };
        let command = Command::AddBlock {
            group: GROUP,
            from: LogIndex(n),
            to: LogIndex(n + 1),
            object: Some(object),
            records: vec![record],
        };
        catalog.apply(command, at(*stored)).unwrap();
    }
    catalog
}

fn at(unix_nanos: u64) -> RingTime {
    RingTime {
        unix_nanos,
        is_trusted: true,
    }
}

fn calm() -> (Arc<ManualClock>, Brakes) {
    let clock = Arc::new(ManualClock::at(START));
    let brakes = Brakes::new(clock.clone(), Duration::from_secs(600));
    (clock, brakes)
}

#[test]
fn a_block_goes_when_its_latest_span_is_older_than_the_tenant_keeps() {
    let now = START + YEAR;
    let kept = now - 14 * DAY;
    let blocks = [
        ("long", kept - 1, now),
        ("short", now - 2 * DAY - 1, now),
        ("short", now - 2 * DAY, now),
        ("long", kept, now),
        ("long", now + DAY, now),
        ("long", u64::MAX, now),
        // Impossible when they were stored, and stored too long ago.
        ("short", now, now - 3 * DAY),
        ("long", u64::MAX, kept - 1),
        // Just possible when it was stored.
        ("short", now - 2 * DAY, now - 3 * DAY),
        ("for", 0, now),
    ];
    let catalog = catalog_stored(&blocks);
    let retention_of = |of: &TenantId| match of.as_str() {
        "short" => Duration::from_nanos(2 * DAY),
        "for" => Duration::MAX,
        _ => Duration::from_nanos(14 * DAY),
    };
    let (_, brakes) = calm();
    let gone = expired(catalog.view(), &retention_of, at(now), &brakes, 100).unwrap();
    let ends: Vec<_> = gone
        .ids
        .iter()
        .map(|id| catalog.view().block(*id).unwrap().max_unix_nanos)
        .collect();
    assert_eq!(ends, [u64::MAX, kept - 1, now, now - 2 * DAY - 1]);
    assert_eq!(gone.left, 0);
}

#[test]
fn a_run_drops_the_oldest_up_to_a_bound() {
    let blocks: Vec<_> = (0..10u64)
        .map(|n| (["a", "b"][n as usize % 2], START + (n * 7) % 10))
        .collect();
    let catalog = catalog_of(&blocks);
    let (_, brakes) = calm();
    for (drops_max, expected, left) in [(9, 9, 1), (10, 10, 0), (11, 10, 0)] {
        let gone = expired(catalog.view(), &days(1), at(START + 2 * DAY), &brakes, drops_max).unwrap();
        assert_eq!((gone.ids.len(), gone.left), (expected, left));
        let ends = gone
            .ids
            .iter()
            .map(|id| catalog.view().block(*id).unwrap().max_unix_nanos);
        assert!(ends.eq((0..expected as u64).map(|n| START + n)));
    }
}

#[test]
fn time_that_is_not_trusted_deletes_nothing_until_it_is() {
    let catalog = catalog_of(&[("a", START)]);
    let (_, brakes) = calm();
    let jumped = RingTime {
        unix_nanos: START + 10 * YEAR,
        is_trusted: false,
    };
    let held = expired(catalog.view(), &days(14), jumped, &brakes, 10);
    assert_eq!(held, Err(Brake::TimeUntrusted));
    assert_eq!(
        expired(catalog.view(), &days(14), at(START + YEAR), &brakes, 10)
            .unwrap()
            .ids
            .len(),
        1
    );
}

#[test]
fn a_wall_clock_that_jumps_holds_until_the_node_restarts() {
    let catalog = catalog_of(&[("a", START)]);
    let minute = 60 * SECOND;
    let jumps: [(i64, bool); 8] = [
        (3_600, true),
        (-3_600, true),
        (315_360_000, true),
        (-315_360_000, true),
        (601, true),
        (-601, true),
        (600, false),
        (-600, false),
    ];
    for (seconds, is_held) in jumps {
        let (clock, brakes) = calm();
        let run = || expired(catalog.view(), &days(14), at(START + YEAR), &brakes, 10);
        clock.advance(Duration::from_nanos(YEAR));
        assert!(run().is_ok());
        let before = clock.unix_nanos();
        clock.jump_to(before.checked_add_signed(seconds * 1_000_000_000).unwrap());
        let moved = Duration::from_secs(seconds.unsigned_abs());
        let expected = Brake::ClockJumped { moved };
        assert_eq!(run().err(), is_held.then_some(expected), "{seconds}");
        // Coming back does not help: which of the two was right?
        clock.jump_to(before);
        clock.advance(Duration::from_nanos(minute));
        assert_eq!(run().err(), is_held.then_some(expected));
        let restarted = Brakes::new(clock, Duration::from_secs(600));
        assert!(expired(catalog.view(), &days(14), at(START + YEAR), &restarted, 10).is_ok());
    }
}

#[test]
fn small_jumps_add_up() {
    let (clock, brakes) = calm();
    clock.jump_to(START + 400 * SECOND);
    assert!(brakes.check(at(START)).is_ok());
    clock.jump_to(START + 800 * SECOND);
    assert!(brakes.check(at(START)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_younger_than_its_retention_ever_goes(
        ends in proptest::collection::vec((0..3usize, 0..40 * DAY), 1..60),
        kept in proptest::array::uniform3(HOUR..30 * DAY),
        steps in proptest::collection::vec((0..10 * DAY, -40i64..40, any::<bool>(), 1..20usize), 1..8),
    ) {
        let names = ["a", "b", "c"];
        let blocks: Vec<_> = ends.iter().map(|(of, end)| (names[*of], START + end)).collect();
        let mut catalog = catalog_of(&blocks);
        let (clock, brakes) = calm();
        let by_tenant: BTreeMap<_, _> = names.iter().zip(kept).map(|(name, kept)| (tenant(name), kept)).collect();
        let retention_of = |of: &TenantId| Duration::from_nanos(by_tenant[of]);
        let mut now = START;
        let mut has_jumped = false;
        for (nanos, jump_minutes, is_trusted, drops_max) in steps {
            now += nanos;
            clock.advance(Duration::from_nanos(nanos));
            let wall = clock.unix_nanos().checked_add_signed(jump_minutes * 60 * 1_000_000_000).unwrap();
            clock.jump_to(wall);
            has_jumped |= wall.abs_diff(now) > 600 * SECOND;
            let ring = RingTime { unix_nanos: now, is_trusted };
            let before = catalog.clone();
            match expired(before.view(), &retention_of, ring, &brakes, drops_max) {
                Err(_) => assert!(has_jumped || !is_trusted),
                Ok(Expired { ids, left }) => {
                    assert!(is_trusted && !has_jumped && ids.len() <= drops_max);
                    let reason = DeleteReason::Retention;
                    catalog.apply(Command::Delete { ids: ids.clone(), reason }, ring).unwrap();
                    let is_old = |record: &BlockRecord| record.ages_from_unix_nanos() + by_tenant[&record.tenant] < now;
                    assert!(ids.iter().all(|id| is_old(before.view().block(*id).unwrap())));
                    let old = catalog.view().tenants().flat_map(|(_, blocks)| blocks.iter()).filter(|block| is_old(block));
                    assert_eq!(old.count(), left);
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_deleted_leaves_the_catalog_then_the_store_and_stays_away() {
    let bed = Bed::new();
    let (a, b) = (tenant("a"), tenant("b"));
    let uploaded = bed.upload(&[(&a, &[(1, 1, START)]), (&b, &[(2, 1, START)])]).await;
    bed.name(uploaded.clone()).await.unwrap();
    bed.advance(2 * DAY + 12 * HOUR);
    bed.flush(&[(&a, &[(3, 1, START + 3 * DAY + 6 * HOUR)])]).await;
    let retention_of = |of: &TenantId| Duration::from_nanos(if of.as_str() == "a" { 2 * DAY } else { 4 * DAY });
    let retention = bed.retention();
    bed.advance(12 * HOUR);
    let run = retention.run(&retention_of).await.unwrap();
    assert_eq!((run.blocks_expired, run.objects_deleted), (1, 0));
    assert_eq!(bed.traces(&a).await.keys().copied().collect::<Vec<_>>(), [trace(3)]);
    assert_eq!(
        bed.traces(&b).await.keys().copied().collect::<Vec<_>>(),
        [trace(2)],
        "still in the same object"
    );
    bed.advance(2 * DAY);
    assert_eq!(retention.run(&retention_of).await.unwrap().blocks_expired, 1);
    assert_eq!(bed.objects().len(), 2, "a query may still read it");
    bed.advance(DELETE_GRACE_NANOS - 1);
    assert_eq!(retention.run(&retention_of).await.unwrap().objects_deleted, 0);
    bed.advance(1);
    assert_eq!(retention.run(&retention_of).await.unwrap().objects_deleted, 1);
    assert_eq!((bed.objects().len(), bed.view().pending().count()), (1, 0));
    assert_eq!(retention.run(&retention_of).await.unwrap(), RetentionRun::default());
    // A deposed leader tries to name it again.
    let from_the_start = Command::AddBlock {
        group: GROUP,
        from: LogIndex(0),
        to: LogIndex(1),
        object: Some(uploaded.0),
        records: uploaded.1,
    };
    assert!(bed.catalog.change(from_the_start).await.is_err());
    assert!(bed.traces(&b).await.is_empty());
    assert_eq!(bed.metrics.blocks_expired.load(Ordering::Relaxed), 2);
    assert_eq!(bed.metrics.objects_deleted.load(Ordering::Relaxed), 1);
}

async fn one_old_block(bed: &Bed) {
    let spans: [Span; 1] = [(1, 1, START)];
    bed.flush(&[(&tenant("a"), &spans)]).await;
    bed.advance(20 * DAY);
}

#[tokio::test]
async fn a_store_that_refuses_deletions_keeps_the_object_and_its_record() {
    let bed = Bed::new();
    one_old_block(&bed).await;
    let retention = bed.retention();
    retention.run(&days(14)).await.unwrap();
    bed.advance(2 * HOUR);
    *bed.inner.refuse.lock() = Refuse::Deletes;
    assert_eq!(
        retention.run(&days(14)).await.unwrap_err().kind(),
        crate::Kind::Unavailable
    );
    assert_eq!((bed.objects().len(), bed.view().pending().count()), (1, 1));
    assert_eq!(bed.metrics.runs_failed.load(Ordering::Relaxed), 1);
    *bed.inner.refuse.lock() = Refuse::Nothing;
    assert_eq!(retention.run(&days(14)).await.unwrap().objects_deleted, 1);
    assert!(bed.objects().is_empty());
}

#[tokio::test]
async fn an_object_that_is_gone_already_is_forgotten() {
    let bed = Bed::new();
    one_old_block(&bed).await;
    let retention = bed.retention();
    retention.run(&days(14)).await.unwrap();
    bed.advance(2 * HOUR);
    // A crash between deleting and forgetting.
    *bed.catalog.lose.lock() = Lose::Command;
    assert!(retention.run(&days(14)).await.is_err());
    assert_eq!((bed.objects().len(), bed.view().pending().count()), (0, 1));
    assert_eq!(retention.run(&days(14)).await.unwrap().objects_deleted, 1);
    assert_eq!(bed.view().pending().count(), 0);
}

#[tokio::test]
async fn while_a_brake_is_on_neither_blocks_nor_objects_go() {
    let bed = Bed::new();
    one_old_block(&bed).await;
    one_old_block(&bed).await;
    let retention = bed.retention();
    retention.run(&days(14)).await.unwrap();
    bed.advance(2 * HOUR);
    let pending = bed.view().pending().count();
    assert!(pending > 0);
    bed.flush(&[(&tenant("a"), &[(1, 1, START)])]).await;
    let now = bed.catalog.now();
    bed.catalog.inner.set_now(RingTime {
        is_trusted: false,
        ..now
    });
    let held = retention.run(&days(14)).await.unwrap();
    assert_eq!(
        (held.held, held.blocks_expired, held.objects_deleted),
        (Some(Brake::TimeUntrusted), 0, 0)
    );
    assert_eq!(bed.metrics.is_held.load(Ordering::Relaxed), 1);
    assert_eq!((*bed.inner.deletes.lock(), bed.view().pending().count()), (0, pending));
    bed.catalog.inner.set_now(now);
    retention.run(&days(14)).await.unwrap();
    assert_eq!(bed.metrics.is_held.load(Ordering::Relaxed), 0);
    assert!(*bed.inner.deletes.lock() > 0);
}

#[tokio::test]
async fn settings_may_ask_for_a_longer_wait_but_not_for_a_shorter_one() {
    for (grace, waits) in [(0, DELETE_GRACE_NANOS), (3 * HOUR, 3 * HOUR)] {
        let bed = Bed::new();
        one_old_block(&bed).await;
        let mut retention = bed.retention();
        retention.settings.delete_grace = settings::Period(Duration::from_nanos(grace));
        retention.run(&days(14)).await.unwrap();
        bed.advance(waits - 1);
        assert_eq!(retention.run(&days(14)).await.unwrap().objects_deleted, 0);
        bed.advance(1);
        assert_eq!(retention.run(&days(14)).await.unwrap().objects_deleted, 1);
    }
}

/// What a question left on the node's disk goes when the catalog forgets the object, and nothing else does.
#[tokio::test]
async fn cached_parts_of_what_was_forgotten_go_too() {
    let bed = Bed::new();
    let a = tenant("a");
    let old = bed.flush(&[(&a, &[(1, 1, START)])]).await;
    bed.flush(&[(&a, &[(2, 1, START + DAY)])]).await;
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn object_store::ObjectStore> = bed.inner.clone();
    let free: FreeBytes = Arc::new(|| Ok(u64::MAX));
    let cache = DiskCache::open(Arc::new(StoreReader::new(store)), dir.path(), 1 << 30, free).unwrap();
    let cache = Arc::new(cache);
    let decoded = Arc::new(DecodedCache::new(1 << 20));
    let reader = Arc::clone(&cache) as _;
    let blocks = Blocks::new(bed.store.clone(), reader, decoded, bed.dir.path(), 1 << 20).unwrap();
    for record in bed.view().blocks_of(&a) {
        blocks.open(&bed.view(), record).await.unwrap();
    }
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    // Index and filter of each, once what writes them is done.
    while files() < 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cache.keep_only(Objects::named(&bed.view(), &bed.store)).await, 0);
    let reason = DeleteReason::Retention;
    bed.catalog.change(Command::Delete { ids: old, reason }).await.unwrap();
    assert_eq!(cache.keep_only(Objects::named(&bed.view(), &bed.store)).await, 2);
    assert_eq!(files(), 2);
}
