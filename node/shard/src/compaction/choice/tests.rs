//! The choice alone: hand-made records, merges that only add up.

use std::collections::{BTreeMap, BTreeSet};

use model::TraceId;
use proptest::prelude::*;

use super::*;
use crate::catalog::{ByteRange, ObjectId, SplitTraces};
use crate::housekeeping::bed::{DAY, HOUR, SECOND, START, tenant};

fn rules() -> Rules {
    Rules::new(&CompactionSettings::default())
}

/// A block of `spans` spans that ends `at` after the start and was flushed a minute later.
fn record(id: u128, spans: u64, at: u64) -> Arc<BlockRecord> {
    Arc::new(BlockRecord {
        id: BlockId(id),
        tenant: tenant("a"),
        object: ObjectId(BlockId(id)),
        row_groups: 0..u32::try_from(spans.div_ceil(65_536)).unwrap(),
        bloom: ByteRange::default(),
        index: ByteRange::default(),
        bytes: spans * 55,
        spans,
        traces: 1,
        min_unix_nanos: START,
        max_unix_nanos: START + at,
        min_trace: TraceId([0; 16]),
        max_trace: TraceId([255; 16]),
        level: 0,
        split_traces: SplitTraces::default(),
        source: None,
        created_unix_nanos: START + at + 60 * SECOND,
    })
}

/// What a merge of these would give.
fn merged(id: u128, job: &Job, now: u64) -> Arc<BlockRecord> {
    let sum = |of: fn(&BlockRecord) -> u64| job.inputs.iter().map(|input| of(input)).sum::<u64>();
    let spans = sum(|input| input.spans);
    Arc::new(BlockRecord {
        id: BlockId(id),
        bytes: sum(|input| input.bytes),
        spans,
        row_groups: 0..u32::try_from(spans.div_ceil(65_536)).unwrap(),
        max_unix_nanos: job.inputs.iter().map(|input| input.max_unix_nanos).max().unwrap(),
        level: job.inputs.iter().map(|input| input.level).max().unwrap() + 1,
        created_unix_nanos: now,
        ..(*job.inputs[0]).clone()
    })
}

fn ids(job: Option<Job>) -> Vec<u128> {
    job.map(|job| job.inputs.iter().map(|input| input.id.0).collect())
        .unwrap_or_default()
}

const OPEN: u64 = START + HOUR / 2;
const CLOSED: u64 = START + HOUR + CLOSING_NANOS;

#[test]
fn an_open_window_waits_for_eight_of_a_size() {
    let mut blocks: Vec<_> = (0..7).map(|n| record(n, 100_000, SECOND)).collect();
    blocks.push(record(7, 5_000, SECOND));
    assert_eq!(ids(choose(&blocks, &rules(), OPEN)), []);
    assert_eq!(outstanding(&blocks, &rules(), OPEN), Outstanding::default());
    blocks.push(record(8, 90_000, SECOND));
    assert_eq!(ids(choose(&blocks, &rules(), OPEN)), [0, 1, 2, 3, 4, 5, 6, 8]);
    assert_eq!(outstanding(&blocks, &rules(), OPEN).blocks, 8);
}

#[test]
fn a_window_is_closed_some_time_after_its_end_and_then_merged_fully() {
    let blocks: Vec<_> = (0..3)
        .map(|n| record(n, 100_000, HOUR - 1 - u64::try_from(n).unwrap()))
        .collect();
    assert_eq!(ids(choose(&blocks, &rules(), CLOSED - 1)), []);
    assert_eq!(ids(choose(&blocks, &rules(), CLOSED)), [0, 1, 2]);
    let next = [record(0, 100_000, HOUR - 1), record(1, 100_000, HOUR)];
    assert_eq!(ids(choose(&next, &rules(), CLOSED + HOUR)), [], "two windows");
}

#[test]
fn a_merge_takes_so_many_blocks() {
    assert_eq!(CompactionSettings::default().input_blocks_max, 100);
    for (blocks, taken) in [(99, 99), (100, 100), (101, 100)] {
        let blocks: Vec<_> = (0..blocks).map(|n| record(n, 10, 0)).collect();
        assert_eq!(ids(choose(&blocks, &rules(), CLOSED)).len(), taken);
    }
}

#[test]
fn a_merge_takes_so_much_memory() {
    let blocks: Vec<_> = (0..10).map(|n| record(n, 1_000, 0)).collect();
    let five = 5 * input_memory(&blocks[0]);
    for (inputs, taken) in [(five - 1, 4), (five, 5), (five + 1, 5)] {
        // Half of a job's memory is for its inputs.
        let rules = Rules::new(&CompactionSettings {
            job_memory: settings::ByteSize(2 * inputs),
            ..CompactionSettings::default()
        });
        assert_eq!(ids(choose(&blocks, &rules, CLOSED)).len(), taken, "{inputs}");
    }
}

#[test]
fn large_blocks_are_left_alone() {
    let half = BLOCK_SPANS_MAX / 2;
    let spans = [record(0, half, 0), record(1, half, 0), record(2, half - 1, 0)];
    assert_eq!(ids(choose(&spans, &rules(), CLOSED)), []);
    let by_bytes = |id, bytes| {
        Arc::new(BlockRecord {
            bytes,
            ..(*record(id, 10, 0)).clone()
        })
    };
    let half = rules().block_bytes_max / 2;
    assert_eq!(
        ids(choose(&[by_bytes(0, half), by_bytes(1, half)], &rules(), CLOSED)),
        []
    );
    let smaller = [by_bytes(0, half - 200), by_bytes(1, half - 200)];
    assert_eq!(ids(choose(&smaller, &rules(), CLOSED)), [0, 1]);
}

#[test]
fn a_few_stragglers_do_not_rewrite_a_large_block() {
    let mut blocks = vec![record(0, 4_000_000, 0), record(1, 100_000, 0), record(2, 100_000, 0)];
    assert_eq!(ids(choose(&blocks, &rules(), CLOSED)), [1, 2]);
    blocks.push(record(3, 900_000, 0));
    assert_eq!(
        ids(choose(&blocks, &rules(), CLOSED)),
        [1, 2],
        "900,000 is more than four times 200,000"
    );
    blocks.push(record(4, 700_000, 0));
    assert_eq!(ids(choose(&blocks, &rules(), CLOSED)), [0, 1, 2, 3, 4]);
}

#[test]
fn bounds_hold_at_their_edges() {
    let blocks: Vec<_> = (0..101).map(|n| record(n, 1_000, 0)).collect();
    for (inputs_max, expected) in [(2, 2), (99, 99), (100, 100)] {
        let rules = Rules { inputs_max, ..rules() };
        assert_eq!(ids(choose(&blocks, &rules, CLOSED)).len(), expected);
        assert_eq!(
            ids(choose(&blocks, &rules, OPEN)).len(),
            expected,
            "waiting would not help"
        );
    }
    let four: Vec<_> = (0..4).map(|n| record(n, 2_500_000, 0)).collect();
    for (spans, expected) in [(9_999_999, 3), (10_000_000, 4), (10_000_001, 4)] {
        let rules = Rules {
            block_spans_max: spans,
            block_bytes_max: u64::MAX,
            ..rules()
        };
        assert_eq!(ids(choose(&four, &rules, CLOSED)).len(), expected, "{spans}");
    }
    let each = input_memory(&four[0]);
    for (input_memory, expected) in [(0, 2), (3 * each - 1, 2), (3 * each, 3), (4 * each, 4)] {
        let rules = Rules {
            input_memory,
            ..rules()
        };
        assert_eq!(ids(choose(&four, &rules, CLOSED)).len(), expected);
    }
}

#[test]
fn blocks_from_an_impossible_future_stay_among_themselves() {
    let ahead = |id| {
        Arc::new(BlockRecord {
            max_unix_nanos: u64::MAX - u64::try_from(id).unwrap() * HOUR,
            ..(*record(id, 1_000, 0)).clone()
        })
    };
    let blocks = [ahead(0), ahead(1), record(2, 1_000, 0), record(3, 1_000, 0)];
    assert_eq!(rules().window_of(&blocks[1]), Window::Ahead);
    assert_eq!(ids(choose(&blocks, &rules(), OPEN)), [0, 1]);
    assert_eq!(
        ids(choose(&blocks, &rules(), CLOSED)),
        [2, 3],
        "well-dated blocks come first"
    );
}

#[test]
fn the_oldest_closed_window_comes_first() {
    let blocks = [
        record(0, 10, 2 * HOUR),
        record(1, 10, 2 * HOUR),
        record(2, 10, HOUR),
        record(3, 10, HOUR),
    ];
    assert_eq!(ids(choose(&blocks, &rules(), CLOSED + 2 * HOUR)), [2, 3]);
    assert_eq!(outstanding(&blocks, &rules(), CLOSED + 2 * HOUR).blocks, 4);
}

/// Merges until nothing is left to do. Answers the blocks and how many spans were written.
fn settle(mut blocks: Vec<Arc<BlockRecord>>, rules: &Rules, now: u64) -> (Vec<Arc<BlockRecord>>, u64) {
    let mut written = 0;
    let mut id = (1 << 64) + u128::from(now);
    while let Some(job) = choose(&blocks, rules, now) {
        assert!(outstanding(&blocks, rules, now).blocks >= job.inputs.len() as u64);
        check(&blocks, &job, rules);
        let before = blocks.len();
        id += 1;
        let result = merged(id, &job, now);
        written += result.spans;
        blocks.retain(|block| !job.inputs.contains(block));
        blocks.push(result);
        assert!(blocks.len() < before, "every merge leaves fewer blocks");
    }
    assert_eq!(outstanding(&blocks, rules, now), Outstanding::default());
    (blocks, written)
}

fn check(blocks: &[Arc<BlockRecord>], job: &Job, rules: &Rules) {
    assert!((2..=rules.inputs_max).contains(&job.inputs.len()));
    let windows: BTreeSet<_> = job.inputs.iter().map(|input| rules.window_of(input)).collect();
    assert_eq!(windows.len(), 1, "windows are not mixed");
    let distinct: BTreeSet<_> = job.inputs.iter().map(|input| input.id).collect();
    assert_eq!(distinct.len(), job.inputs.len());
    let sum = |of: fn(&BlockRecord) -> u64| job.inputs.iter().map(|input| of(input)).sum::<u64>();
    assert!(sum(|input| input.spans) <= rules.block_spans_max);
    assert!(sum(|input| input.bytes) <= rules.block_bytes_max + 2 * job.inputs.len() as u64 * 110);
    let is_large = |input: &BlockRecord| 2 * input.spans >= rules.block_spans_max;
    assert!(!job.inputs.iter().any(|input| is_large(input)), "large blocks stay");
    let backwards: Vec<_> = blocks.iter().rev().cloned().collect();
    assert_eq!(
        choose(&backwards, rules, CLOSED + DAY),
        choose(blocks, rules, CLOSED + DAY)
    );
}

prop_compose! {
    fn some_block()(spans in prop_oneof![1..100u64, 1_000..200_000u64, 1_000_000..9_000_000u64], at in 0..3 * HOUR)
        -> (u64, u64) { (spans, at) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_ends_with_few_blocks(
        drawn in proptest::collection::vec(some_block(), 0..300),
        inputs_max in prop_oneof![Just(2), Just(3), Just(10), Just(100)],
        memory in prop_oneof![Just(0), Just(64 << 20), Just(256 << 20)],
        all_closed: bool,
    ) {
        let rules = Rules { inputs_max, input_memory: memory, ..rules() };
        let blocks: Vec<_> = drawn.iter().enumerate().map(|(n, (spans, at))| record(n as u128, *spans, *at)).collect();
        let total: u64 = blocks.iter().map(|block| block.spans).sum();
        let now = if all_closed { CLOSED + DAY } else { CLOSED };
        let (left, _) = settle(blocks, &rules, now);
        assert_eq!(left.iter().map(|block| block.spans).sum::<u64>(), total);
        let mut windows = BTreeMap::<_, Vec<u64>>::new();
        for block in &left {
            windows.entry(rules.window_of(block)).or_default().push(block.spans);
        }
        for (window, mut sizes) in windows {
            sizes.sort_unstable();
            let small: Vec<_> = sizes.iter().filter(|size| 2 * **size < rules.block_spans_max).collect();
            if rules.is_closed(window, now) {
                for pair in small.windows(2) {
                    assert!(pair[1] / STRAGGLER_DIVISOR > *pair[0], "{sizes:?} could be fewer");
                }
                assert!(small.len() <= 12);
            } else {
                // Seven of each of eight size classes.
                assert!(small.len() <= 7 * 8, "{sizes:?}");
            }
        }
    }
}

#[test]
fn a_day_of_traffic_is_written_about_twice() {
    let rules = rules();
    let mut blocks = Vec::new();
    let (mut flushed, mut written, mut most) = (0u64, 0u64, 0usize);
    for minute in 0..24 * 60u64 {
        let now = START + minute * 60 * SECOND;
        // Sixteen shards flush every two minutes, 23,000 spans a second together.
        for shard in 0..8u64 {
            let spans = 120_000 + shard * 15_000;
            flushed += spans;
            blocks.push(record(u128::from(minute * 100 + shard), spans, minute * 60 * SECOND));
        }
        // And a straggler of a random hour.
        let late = (minute * 7_919) % (minute + 1);
        blocks.push(record(u128::from(minute * 100 + 99), 50, late * 60 * SECOND));
        let (settled, more) = settle(blocks, &rules, now);
        blocks = settled;
        written += more;
        most = most.max(blocks.len());
    }
    let factor = written as f64 / flushed as f64;
    // 23,000 spans a second are 83 million an hour: at best 8 blocks, at worst 17 half full ones and a few small ones.
    assert!(factor < 2.5, "{factor}");
    assert!(most < 24 * 17 + 56, "{most}");
}
