//! Restarts: what was acknowledged is applied again, once, in order.

use std::collections::BTreeSet;

use model::{Generation, LogIndex, ShardId};
use wal::SimVfs;
use wal::sim_vfs::Crash;

use crate::harness::{Journal, JournalMachine, Node, SNAPSHOT_DIR, SOON, propose, single, until};
use crate::{ConsensusError, GroupId, Kind, MemoryNetwork, Payload};

/// A single-node restart once came back with nothing applied: the committed log must be re-applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t90_a_single_node_applies_its_log_again_after_a_crash() {
    for crash in [Crash::DropUnsynced, Crash::KeepAll, Crash::Torn] {
        let (node, group, _) = single().await;
        let mut acknowledged = Vec::new();
        for n in 0..50 {
            propose(&group, &n.to_string()).await.unwrap();
            acknowledged.push(n.to_string());
        }
        let disk = node.disk_after(crash);
        node.stop().await;
        let node = Node::start(1, disk, &MemoryNetwork::new());
        assert_eq!(node.groups.on_disk(), [GroupId::Ring]);
        let (group, journal) = node.open().await;
        group.wait_recovered(SOON).await.unwrap();
        assert_eq!(journal.texts(), acknowledged, "after {crash:?}");
        assert_eq!(journal.applied_here(), 50);
        propose(&group, "after").await.unwrap();
        assert_eq!(journal.texts().last().unwrap(), "after");
        node.stop().await;
    }
}

/// The power goes while proposals are under way: those answered before are there, the others once or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_answered_before_the_power_went_is_there() {
    for seed in 0..8 {
        let (node, group, _) = single().await;
        let mut waiting = Vec::new();
        for n in 0..40u64 {
            waiting.push((n, group.submit(Payload::new(n.to_string())).await.unwrap()));
        }
        let mut answered = Vec::new();
        for (n, submitted) in waiting.drain(..5 * seed as usize) {
            submitted.outcome().await.unwrap();
            answered.push(n);
        }
        let disk = node.vfs.crashed_copy(seed, Crash::Torn);
        node.stop().await;
        let node = Node::start(1, disk, &MemoryNetwork::new());
        let (group, journal) = node.open().await;
        group.wait_recovered(SOON).await.unwrap();
        let found: Vec<u64> = journal.texts().iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(
            found,
            (0..found.len() as u64).collect::<Vec<_>>(),
            "once each, in order, seed {seed}"
        );
        assert!(found.len() >= answered.len(), "lost an answered entry, seed {seed}");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_one_log_do_not_mix() {
    let network = MemoryNetwork::new();
    let node = Node::start(1, SimVfs::new(1), &network);
    let ids = [
        GroupId::Ring,
        GroupId::Shard(ShardId(0), Generation(1)),
        GroupId::Shard(ShardId(1), Generation(3)),
    ];
    for id in ids {
        let group = node.groups.open(id, JournalMachine(Journal::default())).await.unwrap();
        group.found(&BTreeSet::from([node.id])).await.unwrap();
        for n in 0..5 {
            propose(&group, &format!("{id} {n}")).await.unwrap();
        }
    }
    let refused = node
        .groups
        .open(ids[1], JournalMachine(Journal::default()))
        .await
        .unwrap_err();
    assert!(matches!(refused, ConsensusError::AlreadyOpen { .. }));
    node.groups.forget(ids[1]).await.unwrap();
    let node = Node::start(1, node.stop().await, &network);
    assert_eq!(node.groups.on_disk(), [ids[0], ids[2]]);
    for id in node.groups.on_disk() {
        let journal = Journal::default();
        let group = node.groups.open(id, JournalMachine(journal.clone())).await.unwrap();
        group.wait_recovered(SOON).await.unwrap();
        assert_eq!(journal.texts(), (0..5).map(|n| format!("{id} {n}")).collect::<Vec<_>>());
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_group_leaves_no_snapshot() {
    let (node, group, _) = single().await;
    let index = propose(&group, "a").await.unwrap();
    group.snapshot_and_purge(index, SOON).await.unwrap();
    let snapshots = |vfs: &SimVfs| vfs.files().iter().filter(|path| path.starts_with(SNAPSHOT_DIR)).count();
    assert_eq!(snapshots(&node.vfs), 1);
    node.groups.forget(GroupId::Ring).await.unwrap();
    assert_eq!(snapshots(&node.vfs), 0);
    let (group, journal) = node.open().await;
    group.found(&BTreeSet::from([node.id])).await.unwrap();
    assert_eq!(journal.texts(), Vec::<String>::new());
    node.stop().await;
}

/// A log that lost a durable record may have promised a vote that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_keeps_its_group_closed() {
    let (node, group, _) = single().await;
    for text in ["before", "needle in the log", "after"] {
        propose(&group, text).await.unwrap();
    }
    let disk = node.stop().await;
    let needle = b"needle in the log";
    let position = |bytes: &[u8]| bytes.windows(needle.len()).position(|window| window == needle);
    let mut found = disk
        .files()
        .into_iter()
        .filter_map(|path| Some((position(&disk.contents(&path)?)?, path)));
    let (byte, segment) = found.next().expect("the entry is in some segment");
    disk.flip_bit(&segment, 8 * byte as u64);
    let node = Node::start(1, disk, &MemoryNetwork::new());
    let error = node
        .groups
        .open(GroupId::Ring, JournalMachine(Journal::default()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    node.groups.forget(GroupId::Ring).await.unwrap();
    let (group, _) = node.open().await;
    assert_eq!(group.status().last, LogIndex(0));
    node.stop().await;
}

/// Entries that left the log for a snapshot are gone; without the snapshot the group must not pretend to be new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_snapshot_keeps_its_group_closed() {
    let (node, group, _) = single().await;
    let index = propose(&group, "a").await.unwrap();
    group.snapshot_and_purge(index, SOON).await.unwrap();
    until("purge", || group.status().purged == index).await;
    let disk = node.stop().await;
    let snapshot = disk
        .files()
        .into_iter()
        .find(|path| path.starts_with(SNAPSHOT_DIR))
        .unwrap();
    wal::Vfs::remove(&disk, &snapshot).unwrap();
    let node = Node::start(1, disk, &MemoryNetwork::new());
    let error = node
        .groups
        .open(GroupId::Ring, JournalMachine(Journal::default()))
        .await
        .unwrap_err();
    assert!(matches!(error, ConsensusError::SnapshotMissing { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Corrupt);
    node.stop().await;
}
