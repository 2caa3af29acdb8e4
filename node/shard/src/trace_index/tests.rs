//! Which indexes are made, and that a lookup through them finds what a lookup without them does, in two steps.

use std::sync::atomic::Ordering;

use block::{Error as BlockError, RangeReader, StoreReader};
use futures::FutureExt;
use futures::future::BoxFuture;
use model::TraceId;
use object_store::ObjectStoreExt;
use tokio::sync::oneshot;

use super::*;
use crate::catalog::{DeleteReason, SplitTraces};
use crate::decoded_cache::DecodedCache;
use crate::housekeeping::bed::{Bed, HOUR, START, Span, tenant, trace};
use crate::snapshot::Snapshot;
use crate::trace::{Places, WholeTrace, whole_trace};

fn record(n: u64, traces: u64) -> Arc<BlockRecord> {
    let id = BlockId::from_parts(START / 1_000_000, u128::from(n));
    Arc::new(BlockRecord {
        id,
        tenant: tenant("a"),
        object: ObjectId(id),
        row_groups: 0..1,
        bloom: ByteRange::default(),
        index: ByteRange::default(),
        bytes: 1,
        spans: traces,
        traces,
        min_unix_nanos: 0,
        max_unix_nanos: 1,
        min_trace: trace(0),
        max_trace: trace(255),
        level: 0,
        split_traces: SplitTraces::default(),
        source: None,
        created_unix_nanos: 0,
    })
}

fn object(n: u64) -> ObjectId {
    ObjectId(BlockId::from_parts(1, u128::from(n)))
}

#[test]
fn an_index_is_made_when_many_blocks_have_none() {
    let blocks: Vec<_> = (0..UNCOVERED_MAX as u64).map(|n| record(n, 9)).collect();
    assert_eq!(choose(&blocks[1..], &[]), None);
    let choice = choose(&blocks, &[]).unwrap();
    assert_eq!((choice.old, choice.blocks), (vec![], blocks.clone()));
    let index = Covered {
        object: object(1),
        blocks: blocks[..1].to_vec(),
    };
    assert_eq!(choose(&blocks, &[index]), None, "one of them has an index");
}

#[test]
fn indexes_grow_by_doubling() {
    // What one run after the other does with blocks of equal size that keep coming.
    let (mut blocks, mut indexes): (Vec<Arc<BlockRecord>>, Vec<Covered>) = (Vec::new(), Vec::new());
    let (mut written, mut most) = (0, 0);
    for n in 0..1_024u64 {
        blocks.push(record(n, 9));
        let Some(choice) = choose(&blocks, &indexes) else {
            continue;
        };
        written += choice.blocks.len();
        indexes.retain(|index| !choice.old.contains(&index.object));
        indexes.push(Covered {
            object: object(n),
            blocks: choice.blocks,
        });
        most = most.max(indexes.len());
    }
    let covered: usize = indexes.iter().map(|index| index.blocks.len()).sum();
    assert_eq!(covered, 1_024);
    assert!(most <= 7, "{most} indexes");
    assert!(written <= 1_024 * 7, "{written} blocks written into indexes");
}

#[test]
fn an_index_has_bounds_and_what_is_gone_goes() {
    let large = |n: u64| record(n, ENTRIES_MAX as u64 / 4 - 1);
    let blocks: Vec<_> = (0..20).map(large).collect();
    assert_eq!(choose(&blocks, &[]).unwrap().blocks, blocks[..4]);
    let too_large: Vec<_> = (0..20).map(|n| record(n, ENTRIES_MAX as u64)).collect();
    assert_eq!(choose(&too_large, &[]), None, "it would never fit");
    let many: Vec<_> = (0..BLOCKS_MAX as u64 + 1).map(|n| record(n, 1)).collect();
    assert_eq!(choose(&many, &[]).unwrap().blocks.len(), BLOCKS_MAX);
    let dead = Covered {
        object: object(7),
        blocks: vec![],
    };
    let choice = choose(&blocks[..1], &[dead]).unwrap();
    assert_eq!((choice.old, choice.blocks), (vec![object(7)], vec![]));
}

/// Spans that are in every block: no range of ids excludes any of them.
fn ends(start: u64) -> [Span; 2] {
    [(0, 1, start), (254, 1, start)]
}

/// Flushes `count` blocks: trace 1 is in the first and in each `every`th, and each has one of two hundred others.
async fn flush_many(bed: &Bed, count: u64, every: u64) {
    let a = tenant("a");
    for n in 0..count {
        let own = 2 + (n % 200) as u8;
        let mut spans: Vec<Span> = vec![(own, (n / 200) as u8, START + n)];
        spans.extend(ends(START + n));
        if n % every == 0 {
            spans.push((1, (n / every) as u8, START + n));
        }
        bed.flush(&[(&a, &spans)]).await;
    }
}

async fn lookup(bed: &Bed, blocks: &Arc<Blocks>, of: TraceId) -> WholeTrace {
    let snapshot = Snapshot::take(&*bed.catalog, &[], &tenant("a")).await.unwrap();
    whole_trace(&snapshot, blocks, of, Places::ALL, u64::MAX).await
}

async fn index_all(indexer: &Indexer) -> usize {
    let mut made = 0;
    while indexer.run(&tenant("a")).await.unwrap() != Outcome::Nothing {
        made += 1;
    }
    made
}

/// A store that answers all reads that wait for it together, whenever nobody has anything else to do. So the number of
/// answers is the longest chain of reads of which each waited for the one before.
#[derive(Debug)]
struct InStep {
    inner: StoreReader,
    waiting: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    reads: Arc<std::sync::atomic::AtomicU64>,
}

impl RangeReader for InStep {
    fn read<'a>(
        &'a self,
        object: &'a Arc<str>,
        ranges: &'a [std::ops::Range<u64>],
    ) -> BoxFuture<'a, Result<Vec<Bytes>, BlockError>> {
        Box::pin(async move {
            let (turn, wait) = oneshot::channel();
            self.reads.fetch_add(ranges.len() as u64, Ordering::Relaxed);
            self.waiting.lock().push(turn);
            wait.await.unwrap();
            self.inner.read(object, ranges).await
        })
    }
}

/// Runs `question` and counts steps and reads.
async fn in_steps<T>(blocks_reader: &InStep, question: impl Future<Output = T>) -> (T, usize, u64) {
    let before = blocks_reader.reads.load(Ordering::Relaxed);
    let mut question = Box::pin(question);
    let mut steps = 0;
    loop {
        // The store is in memory: what can go on goes on at once.
        for _ in 0..64 {
            if let Some(answer) = (&mut question).now_or_never() {
                let reads = blocks_reader.reads.load(Ordering::Relaxed) - before;
                return (answer, steps, reads);
            }
            tokio::task::yield_now().await;
        }
        let waiting = std::mem::take(&mut *blocks_reader.waiting.lock());
        assert!(
            !waiting.is_empty(),
            "the question waits for something else than the store"
        );
        steps += 1;
        for turn in waiting {
            let _ = turn.send(());
        }
    }
}

fn slow_blocks(bed: &Bed) -> (Arc<Blocks>, Arc<InStep>) {
    let reader = Arc::new(InStep {
        inner: StoreReader::new(Arc::clone(bed.store.inner())),
        waiting: Arc::default(),
        reads: Arc::default(),
    });
    let blocks = Blocks::new(
        bed.store.clone(),
        Arc::clone(&reader) as _,
        Arc::new(DecodedCache::new(1 << 20)),
        bed.dir.path(),
        64 << 20,
    );
    (Arc::new(blocks.unwrap()), reader)
}

#[tokio::test]
async fn a_trace_among_a_thousand_blocks_costs_two_steps() {
    let mut bed = Bed::new();
    flush_many(&bed, 1_000, 200).await;
    bed.close_blocks();
    let indexer = bed.indexer();
    assert_eq!(index_all(&indexer).await, 1);
    assert_eq!(bed.view().trace_index_count(), 1);
    // Some come later, and have no index yet.
    let a = tenant("a");
    for n in 0..UNCOVERED_MAX as u64 - 1 {
        let start = START + HOUR + n;
        let mut spans: Vec<Span> = vec![(250, n as u8, start)];
        spans.extend(ends(start));
        if n == 3 {
            spans.push((1, 99, start));
        }
        bed.flush(&[(&a, &spans)]).await;
    }
    assert_eq!(index_all(&indexer).await, 0);

    // A node that has just started: only directories are in memory, as its housekeeping sees to.
    let (blocks, reader) = slow_blocks(&bed);
    let view = bed.view();
    let warm = async {
        for record in view.trace_indexes_of(&a) {
            blocks.open_index(record).await.unwrap();
        }
    };
    assert_eq!(in_steps(&reader, warm).await.1, 1, "a directory is one read");
    for (of, spans, reads_max) in [
        // Five blocks of the index and one without.
        (trace(1), 6, 1 + 5 * 3 + 2 * UNCOVERED_MAX as u64 + 1),
        // The others are open by now: a page, and five blocks.
        (trace(7), 5, 1 + 5 * 3),
        // In the cache.
        (trace(1), 6, 1 + 6),
        // Nowhere: a page.
        (trace(253), 0, 1),
    ] {
        let (whole, steps, reads) = in_steps(&reader, lookup(&bed, &blocks, of)).await;
        assert_eq!(whole.missing, Vec::<String>::new());
        assert_eq!(whole.spans.len(), spans, "{of}");
        assert!(steps <= 2, "{of} took {steps} steps");
        assert!(reads <= reads_max, "{of} took {reads} reads");
    }

    // Without an index the same lookup reads two thousand times; it is not wrong.
    let (blocks, reader) = slow_blocks(&bed);
    let indexes = bed.view().trace_indexes_of(&a).map(|index| index.object.id).collect();
    let drop_all = Command::PutTraceIndex {
        tenant: a.clone(),
        old: indexes,
        new: None,
    };
    bed.catalog.inner.change(drop_all).await.unwrap();
    let (whole, _, reads) = in_steps(&reader, lookup(&bed, &blocks, trace(1))).await;
    assert_eq!(whole.spans.len(), 6);
    assert!(reads > 2_000);
}

#[tokio::test]
async fn an_index_that_is_gone_or_damaged_costs_no_answer_and_is_made_again() {
    for is_gone in [true, false] {
        let mut bed = Bed::new();
        flush_many(&bed, 101, 100).await;
        assert_eq!(index_all(&bed.indexer()).await, 1);
        let view = bed.view();
        let index = view.trace_indexes_of(&tenant("a")).next().unwrap();
        let path = bed.store.path(&index.object.path);
        if is_gone {
            bed.store.inner().delete(&path).await.unwrap();
        } else {
            let zeroes = vec![0; index.object.bytes as usize];
            bed.store.inner().put(&path, zeroes.into()).await.unwrap();
        }
        bed.close_blocks();
        let whole = lookup(&bed, &bed.blocks, trace(1)).await;
        assert_eq!((whole.spans.len(), whole.missing.len()), (2, 0));
        assert_eq!(index_all(&bed.indexer()).await, 1);
        let view = bed.view();
        let again = view.trace_indexes_of(&tenant("a")).next().unwrap();
        assert_ne!(again.object.id, index.object.id);
        assert_eq!((view.trace_index_count(), again.blocks), (1, 101));
    }
}

#[tokio::test]
async fn blocks_that_have_left_the_catalog_are_passed_over() {
    let mut bed = Bed::new();
    let a = tenant("a");
    flush_many(&bed, 101, 100).await;
    let indexer = bed.indexer();
    index_all(&indexer).await;
    let view = bed.view();
    let first = view.blocks_of(&a).next().unwrap().id;
    let delete = |ids| Command::Delete {
        ids,
        reason: DeleteReason::Retention,
    };
    bed.catalog.change(delete(vec![first])).await.unwrap();
    bed.close_blocks();
    let whole = lookup(&bed, &bed.blocks, trace(1)).await;
    assert_eq!((whole.spans.len(), whole.missing.len()), (1, 0));
    assert_eq!(index_all(&indexer).await, 0, "it is still of use");

    // The others go, and a few new ones come: nothing the index knows is left.
    let others = view
        .blocks_of(&a)
        .map(|record| record.id)
        .filter(|id| *id != first)
        .collect();
    bed.flush(&[(&a, &[(1, 77, START)])]).await;
    bed.catalog.change(delete(others)).await.unwrap();
    assert_eq!(indexer.run(&a).await.unwrap(), Outcome::Dropped(1));
    assert_eq!(bed.view().trace_index_count(), 0);
    assert_eq!(lookup(&bed, &bed.blocks, trace(1)).await.spans.len(), 1);
}

#[tokio::test]
async fn a_damaged_block_is_left_out_and_still_asked() {
    let mut bed = Bed::new();
    let a = tenant("a");
    flush_many(&bed, 20, 100).await;
    let view = bed.view();
    let damaged = view.blocks_of(&a).nth(5).unwrap();
    let path = bed.store.path(&view.object(damaged.object).unwrap().path);
    let whole = bed.store.inner().get(&path).await.unwrap().bytes().await.unwrap();
    bed.store.inner().put(&path, vec![0; whole.len()].into()).await.unwrap();
    bed.close_blocks();
    let indexer = bed.indexer();
    let expected = Outcome::Indexed {
        blocks: 19,
        replaced: 0,
    };
    assert_eq!(indexer.run(&a).await.unwrap(), expected);
    assert_eq!(indexer.run(&a).await.unwrap(), Outcome::Nothing);
    let answer = lookup(&bed, &bed.blocks, trace(7)).await;
    assert_eq!(
        (answer.spans.len(), answer.missing.len()),
        (0, 1),
        "{:?}",
        answer.missing
    );
    bed.store.inner().put(&path, whole.into()).await.unwrap();
    assert_eq!(lookup(&bed, &bed.blocks, trace(7)).await.spans.len(), 1);
}

#[tokio::test]
async fn the_collector_keeps_an_index_and_takes_what_it_replaced() {
    let bed = Bed::new();
    let a = tenant("a");
    flush_many(&bed, 20, 100).await;
    let indexer = bed.indexer();
    index_all(&indexer).await;
    let view = bed.view();
    let some: Vec<_> = view.blocks_of(&a).take(3).map(Arc::clone).collect();
    let orphan = indexer.make(&view, &a, &some).await.unwrap().unwrap();
    let there = |bed: &Bed, key: &str| bed.objects().iter().any(|object| object.ends_with(key));
    let named = bed.view().trace_indexes_of(&a).next().unwrap().object.path.to_string();
    bed.advance(30 * HOUR);
    let brakes_settle = bed.collector();
    brakes_settle.run().await.unwrap();
    brakes_settle.run().await.unwrap();
    assert!(there(&bed, &named), "a named index stays");
    assert!(!there(&bed, &orphan.object.path), "one that nobody names goes");
}
