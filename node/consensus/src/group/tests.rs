//! One voter: what a laptop runs, and what every shard of a single node is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::{LogIndex, NodeId};
use tokio::time::Instant;
use wal::SimVfs;
use wal::sim_vfs::Crash;

use crate::harness::{JournalMachine, Node, SOON, propose, single, until};
use crate::{ConsensusError, ENTRY_BYTES_MAX, GroupId, GroupsOptions, Kind, MemoryNetwork, Payload, Timing};

/// In simulated time, with a node's own patience: an election timeout takes 1.5 to 3 s, openraft's own clock ticks every
/// 100 ms.
#[tokio::test(start_paused = true)]
async fn a_group_of_one_leads_at_once() {
    let at_once = Duration::from_millis(50);
    let options = GroupsOptions {
        timing: Timing::default(),
        ..Node::options(NodeId(1))
    };
    let node = Node::start_simulated(options.clone(), SimVfs::new(1), &MemoryNetwork::new());
    let (group, _) = node.open().await;
    let started = Instant::now();
    group.found(&BTreeSet::from([node.id])).await.unwrap();
    assert!(group.is_leader());
    assert!(started.elapsed() < at_once, "founding took {:?}", started.elapsed());
    propose(&group, "before").await.unwrap();
    let node = Node::start_simulated(options, node.stop().await, &MemoryNetwork::new());
    let started = Instant::now();
    let (group, journal) = node.open().await;
    group.wait_recovered(SOON).await.unwrap();
    assert!(started.elapsed() < at_once, "coming back took {:?}", started.elapsed());
    assert_eq!(journal.texts(), ["before"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_is_answered_when_it_can_be_read() {
    let (node, group, journal) = single().await;
    let first = propose(&group, "a").await.unwrap();
    let (second, count) = group.propose(Payload::new("b")).await.unwrap();
    assert!(second > first);
    assert_eq!(count, 2);
    assert!(group.read_index().await.unwrap() >= second);
    assert_eq!(journal.texts(), ["a", "b"]);
    assert!(journal.published() >= second, "published before it was answered");
    let status = group.status();
    assert_eq!(status.voters, BTreeSet::from([node.id]));
    assert_eq!((status.leadership.leader, group.is_leader()), (Some(node.id), true));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founding_twice_changes_nothing() {
    let (node, group, journal) = single().await;
    propose(&group, "a").await.unwrap();
    group.found(&BTreeSet::from([node.id])).await.unwrap();
    propose(&group, "b").await.unwrap();
    assert_eq!(journal.texts(), ["a", "b"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submitted_entries_keep_their_order() {
    let (node, group, journal) = single().await;
    let mut outcomes = Vec::new();
    for n in 0..200 {
        outcomes.push(group.submit(Payload::new(n.to_string())).await.unwrap());
    }
    for outcome in outcomes {
        outcome.outcome().await.unwrap();
    }
    assert_eq!(journal.texts(), (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proposer_gets_its_hint_back() {
    let (node, group, journal) = single().await;
    let hint = Arc::new(String::from("decoded"));
    group
        .propose(Payload::with_hint("encoded", hint.clone()))
        .await
        .unwrap();
    assert_eq!(journal.with_hint(), 1);
    until("letting go of the hint", || Arc::strong_count(&hint) == 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_bounded_one_by_one_and_together() {
    let options = GroupsOptions {
        group_in_flight_bytes_max: 2 * ENTRY_BYTES_MAX,
        ..Node::options(NodeId(1))
    };
    let node = Node::start_with(options, SimVfs::new(1), &MemoryNetwork::new());
    let (group, _) = node.open().await;
    // Not founded: nothing can be committed, but the budget is asked first.
    let largest = vec![7; ENTRY_BYTES_MAX];
    let refused = group
        .propose(Payload::new(vec![7; ENTRY_BYTES_MAX + 1]))
        .await
        .unwrap_err();
    assert!(matches!(refused, ConsensusError::EntryTooLarge { .. }));
    assert_eq!(refused.kind(), Kind::Rejected);
    for fits in [vec![7; ENTRY_BYTES_MAX - 1], largest] {
        let refused = group.propose(Payload::new(fits)).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::NotLeader);
    }
    assert_eq!(node.groups.in_flight_bytes(), 0, "a refused proposal holds no budget");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_does_not_understand_stops_the_group() {
    let (node, group, journal) = single().await;
    propose(&group, "a").await.unwrap();
    let error = propose(&group, "poison").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal, "{error:?}");
    let error = propose(&group, "b").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal, "{error:?}");
    assert_eq!(journal.texts(), ["a"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_can_be_read_back_above_the_watermark() {
    let (node, group, _) = single().await;
    let mut indexes = Vec::new();
    for text in ["a", "b", "c", "d"] {
        indexes.push(propose(&group, text).await.unwrap());
    }
    let (entries, reached) = group.committed_entries(indexes[0], indexes[3], usize::MAX).unwrap();
    let texts: Vec<_> = entries
        .iter()
        .map(|(at, payload)| (at.index, payload.data().clone()))
        .collect();
    assert_eq!(
        texts,
        [
            (indexes[1], "b".into()),
            (indexes[2], "c".into()),
            (indexes[3], "d".into())
        ]
    );
    assert_eq!(reached, indexes[3]);
    let (entries, reached) = group.committed_entries(indexes[0], indexes[3], 1).unwrap();
    assert_eq!(
        (entries.len(), reached),
        (1, indexes[1]),
        "at least one entry, whatever the bound"
    );
    let (entries, reached) = group.committed_entries(LogIndex(0), indexes[3], usize::MAX).unwrap();
    assert_eq!(
        (entries.len(), reached),
        (4, indexes[3]),
        "entries without payload are skipped"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_below_the_end_leaves_the_tail_in_the_log() {
    let (node, group, journal) = single().await;
    let mut indexes = Vec::new();
    for n in 0..20 {
        indexes.push(propose(&group, &n.to_string()).await.unwrap());
    }
    journal.snapshot_at(indexes[9]);
    let reached = group.snapshot_and_purge(indexes[4], SOON).await.unwrap();
    assert_eq!(reached, indexes[9]);
    until("purge", || group.status().purged == indexes[4]).await;
    let refused = group
        .committed_entries(indexes[3], indexes[19], usize::MAX)
        .unwrap_err();
    assert!(matches!(refused, ConsensusError::Purged { .. }), "{refused:?}");
    let (entries, _) = group.committed_entries(indexes[4], indexes[19], usize::MAX).unwrap();
    assert_eq!(entries.len(), 15);
    // Nothing newer to keep: the same snapshot, more of the log.
    assert_eq!(group.snapshot_and_purge(indexes[19], SOON).await.unwrap(), indexes[9]);
    until("purge", || group.status().purged == indexes[9]).await;

    let disk = node.disk_after(Crash::DropUnsynced);
    node.stop().await;
    let node = Node::start(1, disk, &MemoryNetwork::new());
    let (group, journal) = node.open().await;
    group.wait_recovered(SOON).await.unwrap();
    assert_eq!(journal.installs(), [indexes[9]]);
    assert_eq!(journal.applied_here(), 10, "the tail is applied on top of the snapshot");
    assert_eq!(journal.texts(), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_room_for_a_snapshot_stops_no_group() {
    let (node, group, journal) = single().await;
    let first = propose(&group, "a").await.unwrap();
    journal.snapshot_at(first);
    group.snapshot_and_purge(first, SOON).await.unwrap();
    let second = propose(&group, "b").await.unwrap();
    journal.snapshot_at(second);
    node.vfs.set_capacity(Some(node.vfs.used_bytes()));
    let within = Duration::from_millis(300);
    let error = group.snapshot_and_purge(second, within).await.unwrap_err();
    assert!(
        matches!(
            error,
            ConsensusError::TimedOut {
                awaited: "snapshot",
                ..
            }
        ),
        "{error:?}"
    );
    // It goes on, keeps what it has, and takes the snapshot when there is room.
    let third = propose(&group, "c").await.unwrap();
    assert_eq!(group.status().snapshot, first);
    node.vfs.set_capacity(None);
    assert_eq!(group.snapshot_and_purge(second, SOON).await.unwrap(), second);
    let disk = node.disk_after(Crash::DropUnsynced);
    node.stop().await;
    let node = Node::start(1, disk, &MemoryNetwork::new());
    let (group, journal) = node.open().await;
    group.wait_recovered(SOON).await.unwrap();
    assert_eq!(journal.installs(), [second]);
    assert_eq!(journal.texts(), ["a", "b", "c"]);
    assert!(group.status().applied >= third);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_nothing_is_not_taken() {
    let (node, group, journal) = single().await;
    propose(&group, "a").await.unwrap();
    journal.snapshot_at(LogIndex(0));
    assert_eq!(
        group.snapshot_and_purge(LogIndex(100), SOON).await.unwrap(),
        LogIndex(0)
    );
    assert_eq!(group.status().purged, LogIndex(0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_group_says_so() {
    let (node, group, _) = single().await;
    group.shutdown().await;
    assert_eq!(propose(&group, "a").await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(group.read_index().await.unwrap_err().kind(), Kind::Fenced);
    node.groups.close(GroupId::Ring).await;
    let reopened = node
        .groups
        .open(GroupId::Ring, JournalMachine(Default::default()))
        .await
        .unwrap();
    reopened.wait_recovered(SOON).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_is_kept_short() {
    let (node, group, _) = single().await;
    let mut shortened = Vec::new();
    for n in 1..=30u64 {
        let index = propose(&group, &n.to_string()).await.unwrap();
        until("the metrics", || group.status().applied == index).await;
        if group.shorten_log(10, SOON).await.unwrap() {
            assert_eq!(group.status().snapshot, index);
            shortened.push(index.0);
        }
    }
    assert!(
        shortened.windows(2).all(|pair| pair[1] - pair[0] == 11),
        "{shortened:?}"
    );
    assert_eq!(shortened.len(), 2);
    node.stop().await;
}
