//! openraft's own suite for log stores, and the faults that other log stores had.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, StorageError};
use wal::sim_vfs::Crash;
use wal::{Drive, SimVfs, Vfs, Wal, WalOptions};

use super::*;
use crate::harness::{Journal, JournalMachine, SNAPSHOT_DIR, WAL_DIR};
use crate::payload::Payload;
use crate::raft::LeaderId;
use crate::snapshot::SnapshotFile;
use crate::state_machine::StateMachine;

fn open_wal(vfs: &SimVfs, drive: Drive) -> Wal {
    let options = WalOptions {
        segment_bytes: 1 << 20,
        quota_bytes: 64 << 20,
        drive,
        ..WalOptions::new(1)
    };
    Wal::open(Arc::new(vfs.clone()), Path::new(WAL_DIR), options).unwrap().0
}

fn open_store(wal: &Wal) -> LogStore {
    LogStore::open(wal.clone(), GroupId::Ring, Arc::new(EntryCache::new(1 << 20))).unwrap()
}

struct Builder;

impl StoreBuilder<Types, LogStore, StateMachine, Wal> for Builder {
    async fn build(&self) -> Result<(Wal, LogStore, StateMachine), StorageError<Types>> {
        let vfs = SimVfs::new(1);
        let wal = open_wal(&vfs, Drive::Threads);
        let cache = Arc::new(EntryCache::new(1 << 20));
        let store = LogStore::open(wal.clone(), GroupId::Ring, cache.clone()).unwrap();
        vfs.create_dir(Path::new(SNAPSHOT_DIR)).unwrap();
        let file = SnapshotFile::open(Arc::new(vfs), Path::new(SNAPSHOT_DIR), GroupId::Ring).unwrap();
        let machine = Box::new(JournalMachine(Journal::default()));
        Ok((
            wal,
            store,
            StateMachine::new(GroupId::Ring, machine, Arc::new(file), cache),
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 9 }, index)
}

fn entry(term: u64, index: u64, text: &str) -> Entry {
    Entry::new(log_id(term, index), EntryPayload::Normal(Payload::new(text.to_owned())))
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    indexes
        .map(|index| entry(term, index, &format!("{term}.{index}")))
        .collect()
}

async fn texts(store: &LogStore) -> Vec<String> {
    let entries = store.clone().try_get_log_entries(..).await.unwrap();
    let text = |entry: &Entry| match &entry.payload {
        EntryPayload::Normal(payload) => String::from_utf8_lossy(payload.data()).into_owned(),
        other => format!("{other}"),
    };
    entries.iter().map(text).collect()
}

/// One store called back before its write was on disk and one never synced what followed a rotation.
/// Here the log is driven by hand, so that the moment between the two can be looked at.
#[tokio::test]
async fn t90_the_callback_waits_for_the_sync() {
    let vfs = SimVfs::new(1);
    let wal = open_wal(&vfs, Drive::Manual);
    let mut store = open_store(&wal);
    let (done, mut durable) = Types::oneshot();
    store.append(entries(1, 0..3), IOFlushed::signal(done)).await.unwrap();
    assert_eq!(texts(&store).await.len(), 3, "readable before it is durable");
    assert!(durable.try_recv().is_err(), "called back before anything was written");
    let lost = open_store(&open_wal(&vfs.crashed_copy(1, Crash::DropUnsynced), Drive::Manual));
    assert_eq!(texts(&lost).await.len(), 0);
    while wal.drive() {}
    durable.try_recv().unwrap().unwrap();
    let kept = open_store(&open_wal(&vfs.crashed_copy(1, Crash::DropUnsynced), Drive::Manual));
    assert_eq!(texts(&kept).await, ["1.0", "1.1", "1.2"]);
}

#[tokio::test]
async fn t90_a_vote_is_saved_only_when_it_is_durable() {
    let vfs = SimVfs::new(1);
    let wal = open_wal(&vfs, Drive::Manual);
    let mut store = open_store(&wal);
    let vote = Vote {
        leader_id: LeaderId { term: 5, node_id: 2 },
        committed: false,
    };
    let saved = Arc::new(AtomicBool::new(false));
    let task = tokio::spawn({
        let (saved, mut store) = (saved.clone(), store.clone());
        async move {
            store.save_vote(&vote).await.unwrap();
            saved.store(true, Ordering::SeqCst);
        }
    });
    tokio::task::yield_now().await;
    assert!(!saved.load(Ordering::SeqCst), "said to be saved before it was written");
    while wal.drive() {}
    task.await.unwrap();
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    let mut after = open_store(&open_wal(&vfs.crashed_copy(1, Crash::DropUnsynced), Drive::Manual));
    assert_eq!(after.read_vote().await.unwrap(), Some(vote));
}

#[tokio::test]
async fn t90_a_failed_sync_is_told_and_remembered() {
    let vfs = SimVfs::new(1);
    let wal = open_wal(&vfs, Drive::Threads);
    let mut store = open_store(&wal);
    store.blocking_append(entries(1, 0..1)).await.unwrap();
    vfs.fail_sync(1);
    assert!(store.blocking_append(entries(1, 1..2)).await.is_err());
    assert_eq!(store.failure().unwrap().kind(), wal::ErrorKind::Fatal);
    assert!(
        store.blocking_append(entries(1, 2..3)).await.is_err(),
        "a later sync that works proves nothing"
    );
}

#[tokio::test]
async fn truncation_and_purge_survive_a_restart_and_leave_no_hole() {
    let vfs = SimVfs::new(1);
    let wal = open_wal(&vfs, Drive::Threads);
    let mut store = open_store(&wal);
    store.blocking_append(entries(1, 0..10)).await.unwrap();
    store.truncate_after(Some(log_id(1, 5))).await.unwrap();
    store.blocking_append(entries(2, 6..9)).await.unwrap();
    store.purge(log_id(1, 3)).await.unwrap();
    store.save_committed(Some(log_id(2, 7))).await.unwrap();
    store.blocking_append(entries(2, 9..10)).await.unwrap();
    let expected = ["1.4", "1.5", "2.6", "2.7", "2.8", "2.9"];
    assert_eq!(texts(&store).await, expected);
    let gap = store.blocking_append(entries(2, 12..13)).await;
    assert!(gap.is_err(), "a hole must be refused");
    assert_eq!(texts(&store).await, expected);

    let mut store = open_store(&open_wal(&vfs.crashed_copy(1, Crash::DropUnsynced), Drive::Threads));
    assert_eq!(texts(&store).await, expected);
    let state = store.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(log_id(1, 3)), Some(log_id(2, 9)))
    );
    assert_eq!(
        store.read_committed().await.unwrap(),
        Some(log_id(2, 7)),
        "with the node that led, not only the term"
    );
}

/// Found by the simulation: a member far behind was sent what was left, as if it followed what it had.
#[tokio::test]
async fn who_replicates_from_an_entry_that_is_purged_gets_none_behind_it() {
    let wal = open_wal(&SimVfs::new(1), Drive::Threads);
    let mut store = open_store(&wal);
    store.blocking_append(entries(1, 0..10)).await.unwrap();
    store.purge(log_id(1, 3)).await.unwrap();
    assert!(store.limited_get_log_entries(2, 10).await.unwrap().is_empty());
    let from_first = store.limited_get_log_entries(4, 10).await.unwrap();
    assert_eq!(from_first.first().map(|entry| entry.log_id.index), Some(4));
}

/// The commit position reaches the disk at leisure; it must never point behind the log.
#[tokio::test]
async fn a_commit_position_beyond_the_log_is_cut_to_it() {
    let wal = open_wal(&SimVfs::new(1), Drive::Threads);
    let mut store = open_store(&wal);
    assert_eq!(store.read_committed().await.unwrap(), None);
    store.blocking_append(entries(1, 0..3)).await.unwrap();
    store.save_committed(Some(log_id(1, 9))).await.unwrap();
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 2)));
}

#[tokio::test]
async fn a_message_is_capped_by_bytes_and_never_empty() {
    let wal = open_wal(&SimVfs::new(1), Drive::Threads);
    for cached in [true, false] {
        let mut store = open_store(&wal);
        let big = "x".repeat(READ_BYTES_MAX / 4);
        if cached {
            let many = (0..10).map(|index| entry(1, index, &big)).collect::<Vec<_>>();
            store.blocking_append(many).await.unwrap();
        }
        let read = store.limited_get_log_entries(2, 10).await.unwrap();
        let indexes: Vec<u64> = read.iter().map(|entry| entry.log_id.index).collect();
        assert!(
            indexes.len() >= 3 && indexes.len() <= 5,
            "{} entries of a quarter of the cap",
            indexes.len()
        );
        assert_eq!(indexes, (2..2 + indexes.len() as u64).collect::<Vec<_>>());
        assert_eq!(store.limited_get_log_entries(9, 10).await.unwrap().len(), 1);
        assert_eq!(
            store.try_get_log_entries(0..10).await.unwrap().len(),
            10,
            "the uncapped read returns all"
        );
        let mut stream = Box::pin(store.entries_stream(0..10).await);
        let mut streamed = 0;
        while let Some(entry) = stream.next().await {
            assert_eq!(entry.unwrap().log_id.index, streamed);
            streamed += 1;
        }
        assert_eq!(streamed, 10);
    }
}

#[test]
fn the_cache_keeps_what_is_not_applied_within_its_bound() {
    let size = entry_bytes(&entry(1, 0, "1.0"));
    let cache = EntryCache::new(4 * size);
    cache.append(entries(1, 0..4));
    assert_eq!((cache.bytes(), cache.tail(0, 9, usize::MAX).0), (4 * size, 0));
    cache.append(entries(1, 4..5));
    assert_eq!(cache.bytes(), 4 * size);
    assert_eq!(cache.tail(0, 9, usize::MAX).0, 1, "the oldest went");
    assert_eq!(cache.tail(3, 5, usize::MAX).1.len(), 2);
    assert_eq!(cache.tail(3, 5, 1).1.len(), 1);
    let (start, found) = cache.tail(5, 9, usize::MAX);
    assert_eq!((start, found.len()), (9, 0));
    cache.release(LogIndex(3));
    assert_eq!(cache.tail(0, 9, usize::MAX).0, 3);
    cache.truncate_after(Some(3));
    assert_eq!(cache.bytes(), size);
    cache.append(entries(2, 7..8));
    assert_eq!(cache.tail(0, 9, usize::MAX).0, 7, "a gap empties it");
    cache.truncate_after(None);
    assert_eq!(cache.bytes(), 0);
}

#[test]
fn group_keys_are_distinct_and_come_back() {
    let groups = [
        GroupId::Ring,
        GroupId::Shard(model::ShardId(0), model::Generation(0)),
        GroupId::Shard(model::ShardId(0), model::Generation(1)),
        GroupId::Shard(model::ShardId(1), model::Generation(1)),
        GroupId::Shard(model::ShardId(u32::MAX - 1), model::Generation(u64::from(u32::MAX))),
    ];
    let keys: Vec<_> = groups.iter().map(|group| group_key(*group).unwrap()).collect();
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(group_of(*key), Some(groups[index]));
        assert!(!keys[..index].contains(key));
    }
    assert_eq!(group_of(GroupKey(0)), None);
    assert!(group_key(GroupId::Shard(model::ShardId(u32::MAX), model::Generation(1))).is_err());
    assert!(group_key(GroupId::Shard(model::ShardId(1), model::Generation(1 << 32))).is_err());
}
