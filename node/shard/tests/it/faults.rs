//! What a flush leaves behind when something fails between two of its steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use model::{LogIndex, ManualClock, TenantId};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use shard::catalog::{CatalogView, Change, Command, RingTime, SplitTraces};
use shard::owner::{CutOutcome, Shard, ShardOptions};
use shard::port::{CatalogPort, LocalCatalog};
use tokio::sync::watch;

use crate::world::{NOW, World, append_command, group, ids, span};

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_looked_up_and_not_repeated() {
    let mut world = World::new();
    world.send(&[span(0, 0, 0, 0, 0)]);
    world.flusher.cut().await.unwrap();
    // Somebody flushed the same range: this node's own first try, whose reply did not come back.
    let range = world.shard.head().oldest_spooled().unwrap().range();
    let command = Command::AddBlock {
        group: group(),
        from: range.from,
        to: range.to,
        object: None,
        records: vec![],
    };
    world.catalog.change(command).await.unwrap();
    assert_eq!(world.flusher.flush_oldest().await.unwrap(), Some(range.to));
    assert_eq!(world.shard.head().spooled_blocks(), 0);
    assert_eq!(world.catalog.view().block_count(), 0);
}

/// A catalog that looks into the store before it takes anything.
struct Watchful {
    catalog: Arc<LocalCatalog>,
    store: Arc<InMemory>,
    announced: AtomicUsize,
}

impl CatalogPort for Watchful {
    fn view(&self) -> Arc<CatalogView> {
        self.catalog.view()
    }

    fn watch(&self) -> watch::Receiver<Arc<CatalogView>> {
        self.catalog.watch()
    }

    fn change(&self, command: Command) -> BoxFuture<'_, shard::Result<Change>> {
        Box::pin(async move {
            match &command {
                Command::Announce { object } => {
                    let keys: Vec<_> = self
                        .store
                        .list(None)
                        .map(|found| found.unwrap().location)
                        .collect()
                        .await;
                    let is_there = keys.iter().any(|key| key.as_ref().contains(&object.0.to_string()));
                    assert!(
                        !is_there || self.view().is_announced(*object),
                        "uploaded before: {keys:?}"
                    );
                    self.announced.fetch_add(1, Ordering::Relaxed);
                }
                Command::AddBlock { object, .. } => {
                    let object = object.as_ref().unwrap();
                    assert!(self.view().is_announced(object.id), "named and never announced");
                }
                other => panic!("a flush does not ask for {other:?}"),
            }
            self.catalog.change(command).await
        })
    }

    fn now(&self) -> RingTime {
        self.catalog.now()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_announces_before_it_uploads() {
    let store = Arc::new(InMemory::new());
    let mut world = World::over(Arc::clone(&store) as _);
    let watchful = Arc::new(Watchful {
        catalog: Arc::clone(&world.catalog),
        store,
        announced: AtomicUsize::new(0),
    });
    world.flusher.catalog = Arc::clone(&watchful) as _;
    for n in 0..3 {
        world.send(&[span(n, 0, 0, 0, 0)]);
        world.flush().await;
    }
    // Two entries in the ring a flush: this one and the block.
    assert_eq!(watchful.announced.load(Ordering::Relaxed), 3);
    assert_eq!(world.catalog.view().block_count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_waited_too_long_for_its_name_gets_another() {
    let mut world = World::new();
    world.send(&[span(0, 0, 0, 0, 0)]);
    world.flusher.cut().await.unwrap();
    let first = world.shard.head().oldest_spooled().unwrap().object();
    // The object store was away for half a day.
    let half_a_day = shard::catalog::NAME_AGE_MAX_NANOS + 1_000_000;
    let now = RingTime {
        unix_nanos: NOW + half_a_day,
        is_trusted: true,
    };
    world.catalog.set_now(now);
    let more = std::sync::atomic::AtomicU64::new(1);
    world.flusher.new_block_id = Arc::new(move || {
        model::BlockId::from_parts(
            (NOW + half_a_day) / 1_000_000,
            u128::from(more.fetch_add(1, Ordering::Relaxed)),
        )
    });
    assert_eq!(world.flusher.flush_oldest().await.unwrap(), Some(LogIndex(1)));
    let view = world.catalog.view();
    let object = view.objects().next().unwrap();
    assert_ne!(object.id, first);
    assert!(object.path.contains(&object.id.0.to_string()), "{}", object.path);
    assert_eq!(view.announced().count(), 0);
    assert_eq!(world.find("{}").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_wait_in_the_spool_and_are_read_there() {
    let mut world = World::new();
    for n in 0..3u8 {
        world.send(&[span(n, 0, 0, u64::from(n), n)]);
        assert!(world.flusher.cut().await.unwrap());
    }
    assert_eq!(world.shard.head().spooled_blocks(), 3);
    assert_eq!(world.shard.head().heap_bytes(), 0);
    assert_eq!(world.find("{}").await.len(), 3);
    // In order, oldest first, each once.
    let mut covered = Vec::new();
    while let Some(to) = world.flusher.flush_oldest().await.unwrap() {
        covered.push(to);
        assert_eq!(world.find("{}").await.len(), 3);
    }
    assert_eq!(covered, [LogIndex(1), LogIndex(2), LogIndex(3)]);
    assert_eq!(world.catalog.view().watermark(group()), Some(LogIndex(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_repeat_older_ones_move_the_watermark_without_a_block() {
    let mut world = World::new();
    let spans = [span(0, 0, 0, 0, 0)];
    assert_eq!(world.send(&spans).stored, 1);
    world.flush().await;
    assert_eq!(world.send(&spans).duplicates, 1);
    world.flush().await;
    assert_eq!(world.catalog.view().watermark(group()), Some(LogIndex(2)));
    assert_eq!(world.catalog.view().block_count(), 1);
    // The log is told, once.
    assert_eq!(world.flusher.unforgotten(), Some(LogIndex(2)));
    let told = shard::command::ShardCommand::Flushed { to: LogIndex(2) }.encode();
    world.shard.apply(LogIndex(3), &told, None).unwrap();
    assert_eq!(world.flusher.unforgotten(), None);
    assert_eq!(world.find("{}").await[0].spansets[0].matched, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_in_two_batches_counts_once_even_across_blocks() {
    let mut world = World::new();
    world.send(&[span(0, 0, 0, 0, 0), span(0, 1, 0, 1, 1)]);
    world.flush().await;
    world.send(&[span(0, 1, 0, 1, 1), span(0, 2, 0, 2, 2)]);
    assert_eq!(world.find("{}").await[0].spansets[0].matched, 3);
    world.flush().await;
    assert_eq!(world.find("{}").await[0].spansets[0].matched, 3);
    assert_eq!(world.trace(0).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_gone_is_named_and_the_rest_is_answered() {
    let store = Arc::new(InMemory::new());
    let mut world = World::over(Arc::clone(&store) as _);
    world.send(&[span(0, 0, 0, 0, 0)]);
    world.flush().await;
    let objects: Vec<_> = store.list(None).collect().await;
    for object in objects {
        store.delete(&object.unwrap().location).await.unwrap();
    }
    world.send(&[span(1, 0, 0, 0, 0)]);
    // The block's index is cached since the flush looked for split traces: only its spans are missing.
    let answer = world.search("{}", query::source::TimeRange::ALWAYS).await;
    assert_eq!(answer.traces.len(), 1);
    assert_eq!(answer.looked.missing.len(), 1, "{:?}", answer.looked.missing);
    assert!(answer.looked.jobs_done < answer.looked.jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_does_not_wait_for_a_damaged_block_and_nothing_is_missing_once_it_is_repaired() {
    for is_gone in [true, false] {
        let store = Arc::new(InMemory::new());
        let mut world = World::over(Arc::clone(&store) as _);
        // Of the three traces one is in both blocks.
        world.send(&[span(0, 0, 0, 0, 0), span(1, 0, 0, 0, 0)]);
        world.flush().await;
        let object = store.list(None).next().await.unwrap().unwrap().location;
        let whole = store.get(&object).await.unwrap().bytes().await.unwrap();
        if is_gone {
            store.delete(&object).await.unwrap();
        } else {
            let zeroes = vec![0; whole.len()];
            store.put(&object, zeroes.into()).await.unwrap();
        }
        world.send(&[span(0, 1, 0, 1, 1), span(2, 0, 0, 0, 0)]);
        world.flush().await;
        assert_eq!(world.blocks.unlistable(), 1);
        let view = world.catalog.view();
        assert_eq!(view.block_count(), 2);
        let newest = view.blocks_of(&world.tenant).last().unwrap();
        // Trace 2 is beyond the largest id of the damaged block.
        let expected = SplitTraces::Listed(Arc::from([crate::world::trace_id(0)]));
        assert_eq!(newest.split_traces, expected);

        store.put(&object, whole.into()).await.unwrap();
        let found = world.find("{}").await;
        let counts: Vec<_> = found
            .iter()
            .map(|trace| (trace.trace_id, trace.spansets[0].matched))
            .collect();
        let expected = [(2, 1), (1, 1), (0, 2)].map(|(trace, spans)| (crate::world::trace_id(trace), spans));
        assert_eq!(counts.len(), 3);
        for one in expected {
            assert!(counts.contains(&one), "{counts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_in_an_older_block_is_joined_although_the_newer_block_could_not_list_it() {
    let mut world = World::new();
    world.send(&[span(0, 0, 0, 0, 0), span(1, 0, 0, 0, 1)]);
    world.flush().await;
    world.send(&[span(0, 1, 0, 1, 1)]);
    world.flush().await;
    let newest = world.catalog.view().blocks_of(&world.tenant).last().unwrap().id;
    world.unlist(newest);
    let found = world.find("{} | count() > 1").await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].spansets[0].matched, 2);
    assert_eq!(world.find("{}").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_never_see_each_other() {
    let mut world = World::new();
    world.tenant = TenantId::new("a").unwrap();
    world.send(&[span(0, 0, 0, 0, 0)]);
    world.tenant = TenantId::new("b").unwrap();
    world.send(&[span(1, 0, 0, 0, 0)]);
    for flushed in [false, true] {
        if flushed {
            world.flush().await;
        }
        for (tenant, own, foreign) in [("a", 0, 1), ("b", 1, 0), ("c", 2, 0)] {
            world.tenant = TenantId::new(tenant).unwrap();
            let found: Vec<_> = world.find("{}").await.iter().map(|trace| trace.trace_id).collect();
            let expected = if tenant == "c" {
                vec![]
            } else {
                vec![crate::world::trace_id(own)]
            };
            assert_eq!(found, expected);
            assert!(world.trace(foreign).await.is_empty());
        }
    }
}

#[test]
fn replaying_the_log_above_the_watermark_rebuilds_what_was_live() {
    let (mut before, after) = (World::new(), World::new());
    let tenant = TenantId::single();
    let batches: Vec<Bytes> = (0..4u8)
        .map(|n| append_command(&tenant, &[span(n, 0, 0, 0, n), span(n, 1, 0, 0, n)]))
        .collect();
    for n in 0..4u8 {
        before.send(&[span(n, 0, 0, 0, n), span(n, 1, 0, 0, n)]);
    }
    // The catalog already names the first two entries; the snapshot of the log does not know that yet.
    after.shard.covered_to(LogIndex(2));
    for (position, batch) in batches.iter().enumerate() {
        after.shard.apply(LogIndex(position as u64 + 1), batch, None).unwrap();
    }
    assert_eq!(before.shard.head().spans(), 8);
    assert_eq!(after.shard.head().spans(), 4);
    let CutOutcome::Built(block) = after.shard.build_cut().unwrap() else {
        panic!("there are live spans")
    };
    assert_eq!((block.range().from, block.range().to), (LogIndex(2), LogIndex(4)));
}

#[test]
fn a_disk_that_takes_no_block_fails_no_entry_and_stops_a_log_that_is_read_back_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let waits = Arc::new(AtomicUsize::new(0));
    let options = ShardOptions {
        spool_dir: spool.clone(),
        live_bytes_max: 64 << 10,
        clock: Arc::new(ManualClock::at(NOW)),
        new_block_id: ids(),
        wait_for_disk: {
            let (waits, spool) = (Arc::clone(&waits), spool.clone());
            Arc::new(move || {
                // The third time somebody has made room.
                if waits.fetch_add(1, Ordering::Relaxed) == 2 {
                    std::fs::create_dir(&spool).unwrap();
                }
            })
        },
    };
    let shard = Shard::starting_after(group(), LogIndex(0), options);
    let tenant = TenantId::single();
    let (mut index, mut most) = (0, 0);
    while shard.head().spooled_blocks() == 0 {
        index += 1;
        assert!(index < 100_000, "a block is built at last");
        let spans = [span((index % 200) as u8, (index / 200 % 200) as u8, 0, index, 1)];
        let applied = shard.apply(LogIndex(index), &append_command(&tenant, &spans), None);
        assert_eq!(applied.unwrap().stored, 1);
        most = most.max(shard.head().heap_bytes());
    }
    assert_eq!(waits.load(Ordering::Relaxed), 3);
    assert!((128 << 10..192 << 10).contains(&most), "{most}");
    let spooled = shard.head().oldest_spooled().unwrap();
    assert_eq!(
        (spooled.range().from, spooled.range().to),
        (LogIndex(0), LogIndex(index - 1))
    );
    assert_eq!(shard.head().spans(), 1);
}

#[test]
fn the_replicated_state_survives_a_snapshot() {
    let mut world = World::new();
    world.send(&[span(0, 0, 0, 0, 0)]);
    world.send(&[span(1, 0, 0, 0, 0)]);
    let flushed = shard::command::ShardCommand::Flushed { to: LogIndex(1) }.encode();
    world.shard.apply(LogIndex(3), &flushed, None).unwrap();
    let (at, state) = world.shard.snapshot();
    assert_eq!(at, LogIndex(1));
    let other = World::new();
    other.shard.install(at, state).unwrap();
    // The first batch is known from the snapshot, the second comes again from the log and is new.
    let tenant = TenantId::single();
    let first = append_command(&tenant, &[span(0, 0, 0, 0, 0)]);
    let second = append_command(&tenant, &[span(1, 0, 0, 0, 0)]);
    assert_eq!(other.shard.apply(LogIndex(2), &second, None).unwrap().stored, 1);
    assert_eq!(other.shard.apply(LogIndex(4), &first, None).unwrap().duplicates, 1);
}
