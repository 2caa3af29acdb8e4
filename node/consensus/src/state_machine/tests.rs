//! What a snapshot below the end is labelled with, and that its file never goes back.

use std::collections::BTreeSet;
use std::path::Path;

use openraft::entry::RaftEntry;
use openraft::storage::RaftStateMachine;
use proptest::prelude::*;
use wal::sim_vfs::Crash;
use wal::{SimVfs, Vfs};

use super::*;
use crate::harness::{Journal, JournalMachine, SNAPSHOT_DIR};
use crate::raft::Membership;

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(
        LeaderId {
            term,
            node_id: term * 10,
        },
        index,
    )
}

fn open_file(vfs: &SimVfs) -> Arc<SnapshotFile> {
    vfs.create_dir(Path::new(SNAPSHOT_DIR)).unwrap();
    Arc::new(SnapshotFile::open(Arc::new(vfs.clone()), Path::new(SNAPSHOT_DIR), GroupId::Ring).unwrap())
}

fn open_machine(file: &Arc<SnapshotFile>) -> (StateMachine, Journal) {
    let journal = Journal::default();
    let machine = Box::new(JournalMachine(journal.clone()));
    (
        StateMachine::new(GroupId::Ring, machine, file.clone(), Arc::new(EntryCache::new(1024))),
        journal,
    )
}

fn entry(log_id: LogId, voters: Option<u64>) -> Entry {
    match voters {
        Some(voter) => {
            let members = Membership::new(vec![BTreeSet::from([voter])], BTreeSet::from([voter])).unwrap();
            Entry::new(log_id, EntryPayload::Membership(members))
        }
        None => Entry::new(log_id, EntryPayload::Normal(Payload::new(format!("{log_id}")))),
    }
}

async fn feed(machine: &mut StateMachine, entries: &[Entry]) {
    let items: Vec<_> = entries.iter().map(|entry| Ok((entry.clone(), None))).collect();
    machine.apply(futures::stream::iter(items)).await.unwrap();
}

async fn snapshot_at(machine: &mut StateMachine, journal: &Journal, index: u64) -> Option<SnapshotMeta> {
    journal.snapshot_at(LogIndex(index));
    let mut builder = machine.try_create_snapshot_builder(false).await?;
    Some(builder.build_snapshot().await.unwrap().meta)
}

proptest! {
    /// Whatever leaders and members came and went, a snapshot at any applied index carries that entry's leader and the
    /// members in force there, also after earlier snapshots trimmed the history.
    #[test]
    fn a_snapshot_is_labelled_with_what_held_there(
        terms in proptest::collection::vec(0..2u64, 1..30),
        members in proptest::collection::vec(proptest::option::weighted(0.2, 1..9u64), 30),
        points in proptest::collection::vec(1..31u64, 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let file = open_file(&SimVfs::new(1));
            let (mut machine, journal) = open_machine(&file);
            let mut term = 1;
            let mut entries = Vec::new();
            for (index, step) in terms.iter().enumerate() {
                term += step;
                entries.push(entry(log_id(term, index as u64), members[index]));
            }
            feed(&mut machine, &entries).await;
            let mut newest = 0;
            for point in points {
                let point = point.min(entries.len() as u64);
                let meta = snapshot_at(&mut machine, &journal, point).await;
                if point <= newest {
                    assert!(meta.is_none(), "nothing newer to keep");
                    continue;
                }
                newest = point;
                let meta = meta.unwrap();
                assert_eq!(meta.last_log_id, Some(entries[point as usize - 1].log_id));
                let in_force = entries[..point as usize].iter().rev().find_map(|entry| match &entry.payload {
                    EntryPayload::Membership(members) => {
                        Some(StoredMembership::new(Some(entry.log_id), members.clone()))
                    }
                    _ => None,
                });
                assert_eq!(meta.last_membership, in_force.unwrap_or_default());
            }
        });
    }
}

#[tokio::test]
async fn a_slow_builder_does_not_undo_an_installed_snapshot() {
    let vfs = SimVfs::new(1);
    let file = open_file(&vfs);
    let (mut machine, journal) = open_machine(&file);
    let entries: Vec<_> = (0..4).map(|index| entry(log_id(1, index), None)).collect();
    feed(&mut machine, &entries).await;
    journal.snapshot_at(LogIndex(3));
    let mut slow = machine.try_create_snapshot_builder(false).await.unwrap();
    let from_leader = SnapshotMeta {
        last_log_id: Some(log_id(2, 9)),
        ..SnapshotMeta::default()
    };
    machine.install_snapshot(&from_leader, Bytes::new()).await.unwrap();
    let built = slow.build_snapshot().await.unwrap();
    assert_eq!(built.meta, from_leader, "the newer one stays");
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(2, 9)));
    let reopened = open_file(&vfs.crashed_copy(1, Crash::DropUnsynced));
    assert_eq!(reopened.current(), Some(from_leader));
}

/// Power lost at every step of the replacement leaves the old snapshot or the new one, whole.
#[tokio::test]
async fn a_snapshot_is_replaced_whole() {
    for crash in [Crash::DropUnsynced, Crash::Torn, Crash::KeepAll] {
        for fail_at in 1..4 {
            let vfs = SimVfs::new(7);
            let file = open_file(&vfs);
            let meta = |index| SnapshotMeta {
                last_log_id: Some(log_id(1, index)),
                ..SnapshotMeta::default()
            };
            file.store(&meta(1), b"old").unwrap();
            match fail_at {
                1 => vfs.fail_write(1),
                2 => vfs.fail_sync(1),
                _ => {}
            }
            let stored = file.store(&meta(2), b"new").is_ok();
            let survivor = open_file(&vfs.crashed_copy(fail_at, crash));
            let (found, state) = survivor.read().unwrap().unwrap();
            if stored {
                assert_eq!((found, &state[..]), (meta(2), &b"new"[..]), "{crash:?}");
            } else {
                assert_eq!((found, &state[..]), (meta(1), &b"old"[..]), "{crash:?} at {fail_at}");
                file.store(&meta(2), b"new").unwrap();
            }
        }
    }
}

#[test]
fn a_damaged_snapshot_is_not_used() {
    let vfs = SimVfs::new(1);
    let file = open_file(&vfs);
    file.store(
        &SnapshotMeta {
            last_log_id: Some(log_id(1, 1)),
            ..SnapshotMeta::default()
        },
        b"state",
    )
    .unwrap();
    let path = vfs
        .files()
        .into_iter()
        .find(|path| path.starts_with(SNAPSHOT_DIR))
        .unwrap();
    vfs.flip_bit(&path, 300);
    let opened = SnapshotFile::open(Arc::new(vfs), Path::new(SNAPSHOT_DIR), GroupId::Ring);
    assert_eq!(opened.unwrap_err().kind(), crate::Kind::Corrupt);
}
