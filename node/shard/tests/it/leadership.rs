//! A shard that is followed, led, deposed and sealed: whoever leads has exactly what the log has.

use bytes::Bytes;
use model::{LogIndex, TenantId};
use shard::command::ShardCommand;
use shard::owner::{CutOutcome, Shard};

use crate::world::{World, append_command, span};

/// A log: entry `n` has two spans of trace `n`; entry 3 repeats entry 1.
fn log() -> Vec<Bytes> {
    let tenant = TenantId::single();
    let batch = |n: u8| append_command(&tenant, &[span(n, 0, 0, 0, n), span(n, 1, 0, 0, n)]);
    vec![batch(1), batch(2), batch(1), batch(4)]
}

fn apply(shard: &Shard, log: &[Bytes], from: usize) {
    for (position, command) in log.iter().enumerate().skip(from) {
        shard.apply(LogIndex(position as u64 + 1), command, None).unwrap();
    }
}

/// Reads the log back one entry at a time, as a reader with a small budget would.
fn fill(shard: &Shard, log: &[Bytes], watermark: u64) -> bool {
    let read = |after: LogIndex, upto: LogIndex| {
        assert!(after < upto);
        let next = LogIndex(after.0 + 1);
        Ok::<_, shard::Error>((vec![(next, log[after.0 as usize].clone())], next))
    };
    shard.fill(LogIndex(watermark), read, || true).unwrap()
}

#[test]
fn a_follower_keeps_headers_and_a_leader_reads_the_tail_back() {
    let (led, world) = (World::new().shard, World::new());
    let followed = &world.shard;
    followed.follow();
    let log = log();
    apply(&led, &log, 0);
    apply(followed, &log, 0);
    assert_eq!((led.head().spans(), followed.head().spans()), (6, 0));
    assert!(!followed.is_live());
    assert!(matches!(followed.build_cut().unwrap(), CutOutcome::Nothing));

    assert!(fill(followed, &log, 0));
    assert_eq!(
        followed.head().spans(),
        led.head().spans(),
        "what was a repeat is one again"
    );
    // From now on entries fill the head as they come.
    let more = append_command(&TenantId::single(), &[span(9, 0, 0, 0, 0)]);
    assert_eq!(followed.apply(LogIndex(5), &more, None).unwrap().spans, 1);
    assert_eq!(followed.head().spans(), 7);
    let CutOutcome::Built(block) = followed.build_cut().unwrap() else {
        panic!("there are live spans")
    };
    assert_eq!((block.range().from, block.range().to), (LogIndex(0), LogIndex(5)));
    drop(block);
    followed.follow();
    assert_eq!((followed.head().spans(), followed.head().spooled_blocks()), (0, 0));
}

#[test]
fn a_new_leader_starts_above_what_blocks_cover() {
    let shard = World::new().shard;
    shard.follow();
    let log = log();
    apply(&shard, &log, 0);
    assert!(fill(&shard, &log, 2));
    // Entry 3 repeats one that is in a block; entry 4 is new.
    assert_eq!(shard.head().spans(), 2);
}

#[test]
fn reading_back_stops_when_nobody_wants_it_and_when_it_fails() {
    let shard = World::new().shard;
    shard.follow();
    apply(&shard, &log(), 0);
    let nothing = |_, upto| Ok::<_, shard::Error>((Vec::new(), upto));
    assert!(!shard.fill(LogIndex(0), nothing, || false).unwrap());
    let failing = |_, _| Err(shard::Error::Ring("away".to_owned()));
    assert!(shard.fill(LogIndex(0), failing, || true).is_err());
    assert!(!shard.is_live());
    assert!(fill(&shard, &log(), 0));
}

#[test]
fn a_late_flush_of_a_former_leader_is_noticed_and_read_around() {
    let shard = World::new().shard;
    let tenant = TenantId::single();
    shard.follow();
    let log = log();
    apply(&shard, &log, 0);
    assert!(fill(&shard, &log, 0));
    // The former leader's block (0, 2] enters the catalog after we read the tail back from 0.
    assert!(shard.head().fits(LogIndex(0)));
    assert!(!shard.head().fits(LogIndex(2)));
    assert!(
        shard.head().tail(&tenant, LogIndex(2)).is_err(),
        "never a tail with a hole"
    );
    assert!(fill(&shard, &log, 2));
    let tail = shard.head().tail(&tenant, LogIndex(2)).unwrap();
    let spans: usize = tail.chunks.iter().map(|chunk| chunk.table().len()).sum();
    assert_eq!(spans, 2);
    assert!(shard.head().fits(LogIndex(2)));
}

#[test]
fn a_late_flush_that_ends_where_the_tail_does_takes_no_later_entry_with_it() {
    let world = World::new();
    let shard = &world.shard;
    shard.follow();
    let log = log();
    apply(shard, &log, 0);
    assert!(fill(shard, &log, 0));
    // The former leader's block (0, 4] enters the catalog and our flusher hears of it, while entry 5 comes in.
    assert!(!shard.head().fits(LogIndex(4)), "the chunk is open and may grow");
    shard.covered_to(LogIndex(4));
    let more = append_command(&TenantId::single(), &[span(9, 0, 0, 0, 0)]);
    shard.apply(LogIndex(5), &more, None).unwrap();
    // A cut from here would have everything twice.
    assert!(matches!(shard.build_cut().unwrap(), CutOutcome::Nothing));
    let whole = [log, vec![more]].concat();
    assert!(fill(shard, &whole, 4));
    assert_eq!(shard.head().spans(), 1);
    let CutOutcome::Built(block) = shard.build_cut().unwrap() else {
        panic!("there is a live span")
    };
    assert_eq!((block.range().from, block.range().to), (LogIndex(4), LogIndex(5)));
}

#[test]
fn nothing_is_taken_behind_a_seal_and_blocks_end_at_it() {
    let world = World::new();
    let shard = &world.shard;
    let log = log();
    apply(shard, &log[..2], 0);
    let seal = ShardCommand::Seal { epoch: 7 }.encode();
    shard.apply(LogIndex(3), &seal, None).unwrap();
    let late = shard.apply(LogIndex(4), &log[3], None).unwrap();
    assert!(late.is_sealed && late.stored == 0, "{late:?}");
    // A second seal changes nothing.
    shard.apply(LogIndex(5), &seal, None).unwrap();
    assert_eq!((shard.sealed(), shard.head().spans()), (Some(LogIndex(3)), 4));
    let CutOutcome::Built(block) = shard.build_cut().unwrap() else {
        panic!("there are live spans")
    };
    assert_eq!((block.range().from, block.range().to), (LogIndex(0), LogIndex(3)));

    // Also after it has left the log.
    let flushed = ShardCommand::Flushed { to: LogIndex(3) }.encode();
    shard.apply(LogIndex(6), &flushed, None).unwrap();
    let (at, state) = shard.snapshot();
    let other = World::new().shard;
    other.install(at, state).unwrap();
    assert_eq!(other.sealed(), Some(LogIndex(3)));
    assert!(other.apply(LogIndex(7), &log[3], None).unwrap().is_sealed);
}

#[tokio::test]
async fn the_end_of_a_sealed_log_is_covered_although_it_holds_no_spans() {
    let mut world = World::new();
    world.send(&[span(1, 0, 0, 0, 0)]);
    world.flush().await;
    let seal = ShardCommand::Seal { epoch: 7 }.encode();
    world.shard.apply(LogIndex(2), &seal, None).unwrap();
    world.flush().await;
    world.flusher.cover_rest(LogIndex(2)).await.unwrap();
    let covered = world
        .catalog
        .edit(|catalog| catalog.view().watermark(crate::world::group()));
    assert_eq!(covered, Some(LogIndex(2)));
    assert_eq!(world.trace(1).await.len(), 1);
}

#[test]
fn an_empty_log_makes_a_shard_live_at_once() {
    let shard = World::new().shard;
    shard.follow();
    let read = |_, _| -> shard::Result<_> { unreachable!("there is nothing to read") };
    assert!(shard.fill(LogIndex(0), read, || true).unwrap());
}
