//! One sequence of operations, any store: the differential test.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proptest::prelude::*;
use vivace_wal::sim_vfs::Crash;
use vivace_wal::{Completion, ErrorKind, GroupKey, SimVfs, Wal, WalError};

use super::file_per_group::FilePerGroup;
use super::model::{History, Model, ModelGroup};
use super::{drain, entry, open, payload, read_all, tiny};

#[derive(Debug, Clone)]
pub enum Op {
    Append {
        group: u64,
        count: u64,
        len: usize,
    },
    Vote {
        group: u64,
    },
    Committed {
        group: u64,
    },
    /// Parts of 16 of the entries to keep; 0 removes all, by `None`.
    Truncate {
        group: u64,
        keep: u64,
    },
    /// Parts of 16 of the entries to purge; 17 purges beyond the end.
    Purge {
        group: u64,
        parts: u64,
    },
    Drop {
        group: u64,
    },
    Drive {
        batches: usize,
    },
    Check {
        group: u64,
    },
    Reopen,
    Crash {
        how: Crash,
    },
    /// The power goes in the middle of something, this many writes and syncs later.
    CrashLater {
        operations: u64,
        how: Crash,
    },
}

fn how() -> impl Strategy<Value = Crash> {
    prop_oneof![1 => Just(Crash::DropUnsynced), 2 => Just(Crash::Torn), 1 => Just(Crash::KeepAll)]
}

pub fn ops() -> impl Strategy<Value = Vec<Op>> {
    let group = 0..4u64;
    let op = prop_oneof![
        12 => (group.clone(), 1..5u64, 0..900usize).prop_map(|(group, count, len)| Op::Append { group, count, len }),
        2 => group.clone().prop_map(|group| Op::Vote { group }),
        2 => group.clone().prop_map(|group| Op::Committed { group }),
        2 => (group.clone(), 0..16u64).prop_map(|(group, keep)| Op::Truncate { group, keep }),
        6 => (group.clone(), 4..18u64).prop_map(|(group, parts)| Op::Purge { group, parts }),
        1 => group.clone().prop_map(|group| Op::Drop { group }),
        10 => (1..4usize).prop_map(|batches| Op::Drive { batches }),
        3 => group.prop_map(|group| Op::Check { group }),
        1 => Just(Op::Reopen),
        2 => how().prop_map(|how| Op::Crash { how }),
        2 => (1..12u64, how()).prop_map(|(operations, how)| Op::CrashLater { operations, how }),
    ];
    prop::collection::vec(op, 1..220)
}

/// What both stores can do. `Err` of kind `Full` means refused, nothing changed.
pub trait Store: Sized {
    /// Says whether the store stands a crash in the middle of a call; the simple one would only panic.
    const DIES_WELL: bool;
    /// `None` when the machine went down meanwhile.
    fn open(vfs: &SimVfs) -> Option<Self>;
    fn append(&mut self, group: u64, entries: Vec<vivace_wal::EntryRecord>, done: Completion) -> Result<(), WalError>;
    fn save_vote(&mut self, group: u64, payload: Bytes, done: Completion) -> Result<(), WalError>;
    fn save_committed(&mut self, group: u64, payload: Bytes) -> Result<(), WalError>;
    fn truncate_after(&mut self, group: u64, index: Option<u64>, done: Completion) -> Result<(), WalError>;
    fn purge_to(&mut self, group: u64, index: u64, term: u64, mark: Bytes, done: Completion) -> Result<(), WalError>;
    fn drop_group(&mut self, group: u64, done: Completion) -> Result<(), WalError>;
    fn drive(&mut self, batches: usize);
    fn close(self);
    fn model(&self) -> Model;
}

impl Store for Wal {
    const DIES_WELL: bool = true;

    fn open(vfs: &SimVfs) -> Option<Self> {
        let (wal, recovery) = match open(vfs, tiny()) {
            Err(_) if vfs.is_dead() => return None,
            opened => opened.unwrap(),
        };
        assert_eq!(recovery.damage, [], "nothing damaged the disk");
        assert_eq!(recovery.lost_promises, [], "nothing damaged the disk");
        Some(wal)
    }

    fn append(&mut self, group: u64, entries: Vec<vivace_wal::EntryRecord>, done: Completion) -> Result<(), WalError> {
        Wal::append(self, GroupKey(group), entries, done)
    }

    fn save_vote(&mut self, group: u64, payload: Bytes, done: Completion) -> Result<(), WalError> {
        Wal::save_vote(self, GroupKey(group), payload, done)
    }

    fn save_committed(&mut self, group: u64, payload: Bytes) -> Result<(), WalError> {
        Wal::save_committed(self, GroupKey(group), payload)
    }

    fn truncate_after(&mut self, group: u64, index: Option<u64>, done: Completion) -> Result<(), WalError> {
        Wal::truncate_after(self, GroupKey(group), index, done)
    }

    fn purge_to(&mut self, group: u64, index: u64, term: u64, mark: Bytes, done: Completion) -> Result<(), WalError> {
        Wal::purge_to(self, GroupKey(group), index, term, mark, done)
    }

    fn drop_group(&mut self, group: u64, done: Completion) -> Result<(), WalError> {
        Wal::drop_group(self, GroupKey(group), done)
    }

    fn drive(&mut self, batches: usize) {
        for _ in 0..batches {
            Wal::drive(self);
        }
    }

    fn close(self) {
        drain(&self);
        Wal::close(self);
    }

    fn model(&self) -> Model {
        let mut model = Model::new();
        for key in self.groups() {
            let state = self.state(key);
            let group = model.entry(key.0).or_default();
            group.vote = state.vote.clone();
            group.committed = state.committed.clone();
            group.purged = state.purged.clone();
            for entry in read_all(self, key.0).unwrap() {
                assert_eq!(self.term_at(key, entry.index), Some(entry.term));
                group.entries.insert(entry.index, (entry.term, entry.payload));
            }
            assert_eq!(group.state(), state);
        }
        model
    }
}

/// Runs the operations on a store and on the model; they must agree throughout.
pub fn check<S: Store>(seed: u64, ops: &[Op]) {
    let vfs = SimVfs::new(seed);
    let mut store = restart::<S>(&vfs);
    let mut history = History::new();
    let completed = Arc::new(Mutex::new(Vec::new()));
    let mut term = 1;
    let refused = |result: Result<(), WalError>| match result {
        Ok(()) => false,
        Err(error) if error.kind() == ErrorKind::Full || vfs.is_dead() => true,
        Err(error) => panic!("{error}"),
    };
    for (step, op) in ops.iter().enumerate() {
        let next_version = history.change(|_| {});
        let mut crashed = false;
        let done = |version: usize| -> Completion {
            let completed = Arc::clone(&completed);
            Box::new(move |result| {
                if result.is_ok() {
                    completed.lock().unwrap().push(version);
                }
            })
        };
        let current = |group: &u64| history.now().get(group).cloned().unwrap_or_default();
        match op {
            Op::Append { group, count, len } => {
                let first = current(group).next_index().unwrap_or(step as u64 % 3);
                let entries: Vec<_> = (first..first + count)
                    .map(|index| entry(*group, index, term, *len))
                    .collect();
                if !refused(store.append(*group, entries.clone(), done(next_version + *count as usize))) {
                    for entry in entries {
                        history.change(|model| {
                            let entries = &mut model.entry(*group).or_default().entries;
                            entries.insert(entry.index, (entry.term, entry.payload));
                        });
                    }
                }
            }
            Op::Vote { group } => {
                term += 1;
                let vote = payload(*group, step as u64, term, 20);
                if !refused(store.save_vote(*group, vote.clone(), done(next_version + 1))) {
                    history.change(|model| model.entry(*group).or_default().vote = Some(vote));
                }
            }
            Op::Committed { group } => {
                let committed = payload(*group, step as u64, 0, 9);
                if !refused(store.save_committed(*group, committed.clone())) {
                    history.change(|model| model.entry(*group).or_default().committed = Some(committed));
                }
            }
            Op::Truncate { group, keep } => {
                let indexes: Vec<u64> = current(group).entries.into_keys().collect();
                let kept = indexes.len() as u64 * keep / 16;
                let last = indexes.get((kept as usize).wrapping_sub(1)).copied();
                if !refused(store.truncate_after(*group, last, done(next_version + 1))) {
                    history.change(|model| {
                        if let Some(group) = model.get_mut(group) {
                            group.entries.retain(|index, _| last.is_some_and(|last| *index <= last));
                        }
                    });
                }
            }
            Op::Purge { group, parts } => {
                let now = current(group);
                let Some(next) = now.next_index() else { continue };
                let count = now.entries.len() as u64;
                let index = if *parts == 17 {
                    next + 3
                } else {
                    (next - count + count * parts / 16).saturating_sub(1)
                };
                let mark = payload(*group, index, 0, 12);
                if !refused(store.purge_to(*group, index, term, mark.clone(), done(next_version + 1))) {
                    history.change(|model| {
                        let group = model.entry(*group).or_default();
                        if group.purged.as_ref().is_none_or(|mark| mark.index < index) {
                            group.entries.retain(|entry, _| *entry > index);
                            group.purged = Some(vivace_wal::PurgeMark {
                                index,
                                term,
                                payload: mark,
                            });
                        }
                    });
                }
            }
            Op::Drop { group } => {
                if !refused(store.drop_group(*group, done(next_version + 1))) {
                    history.change(|model| {
                        model.remove(group);
                    });
                }
            }
            Op::Drive { batches } => store.drive(*batches),
            Op::Check { group } => assert_eq!(store.model().get(group), history.now().get(group)),
            Op::Reopen => {
                store.close();
                if !vfs.is_dead() {
                    store = restart::<S>(&vfs);
                    assert_eq!(&store.model(), history.now());
                    continue;
                }
                crashed = true;
                store = restart::<S>(&vfs);
            }
            Op::Crash { how } => {
                vfs.crash(*how);
                crashed = true;
                store = restart::<S>(&vfs);
            }
            Op::CrashLater { operations, how } if S::DIES_WELL => vfs.crash_in(*operations, *how),
            Op::CrashLater { .. } => {}
        }
        if vfs.is_dead() {
            crashed = true;
            store = restart::<S>(&vfs);
        }
        if crashed {
            for version in std::mem::take(&mut *completed.lock().unwrap()) {
                history.durable(version);
            }
            history.restart_from(store.model());
        }
    }
    assert_eq!(&store.model(), history.now());
    vfs.crash(Crash::DropUnsynced);
    for version in std::mem::take(&mut *completed.lock().unwrap()) {
        history.durable(version);
    }
    history.restart_from(restart::<S>(&vfs).model());
}

/// Opens the store, again and again while the machine goes down.
fn restart<S: Store>(vfs: &SimVfs) -> S {
    loop {
        vfs.restart();
        if let Some(store) = S::open(vfs) {
            return store;
        }
    }
}

impl Store for FilePerGroup {
    const DIES_WELL: bool = false;

    fn open(vfs: &SimVfs) -> Option<Self> {
        Some(FilePerGroup::open(vfs.clone()))
    }

    fn append(&mut self, group: u64, entries: Vec<vivace_wal::EntryRecord>, done: Completion) -> Result<(), WalError> {
        FilePerGroup::append(self, group, entries);
        done(Ok(()));
        Ok(())
    }

    fn save_vote(&mut self, group: u64, payload: Bytes, done: Completion) -> Result<(), WalError> {
        FilePerGroup::save_vote(self, group, payload);
        done(Ok(()));
        Ok(())
    }

    fn save_committed(&mut self, group: u64, payload: Bytes) -> Result<(), WalError> {
        FilePerGroup::save_committed(self, group, payload);
        Ok(())
    }

    fn truncate_after(&mut self, group: u64, index: Option<u64>, done: Completion) -> Result<(), WalError> {
        FilePerGroup::truncate_after(self, group, index);
        done(Ok(()));
        Ok(())
    }

    fn purge_to(&mut self, group: u64, index: u64, term: u64, mark: Bytes, done: Completion) -> Result<(), WalError> {
        FilePerGroup::purge_to(self, group, index, term, mark);
        done(Ok(()));
        Ok(())
    }

    fn drop_group(&mut self, group: u64, done: Completion) -> Result<(), WalError> {
        FilePerGroup::drop_group(self, group);
        done(Ok(()));
        Ok(())
    }

    fn drive(&mut self, _batches: usize) {}

    fn close(self) {}

    fn model(&self) -> Model {
        let groups = FilePerGroup::model(self).clone().into_iter();
        groups.filter(|(_, group)| *group != ModelGroup::default()).collect()
    }
}
