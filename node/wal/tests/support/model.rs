//! What a log should be: maps. With a history, since after a crash any state between what was durable and what was
//! accepted is right.

use std::collections::BTreeMap;

use bytes::Bytes;
use vivace_wal::{EntryRecord, GroupState, PurgeMark};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelGroup {
    pub entries: BTreeMap<u64, (u64, Bytes)>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<PurgeMark>,
}

pub type Model = BTreeMap<u64, ModelGroup>;

impl ModelGroup {
    pub fn next_index(&self) -> Option<u64> {
        let last = self.entries.last_key_value().map(|(index, _)| *index);
        last.or(self.purged.as_ref().map(|mark| mark.index))
            .map(|index| index + 1)
    }

    pub fn state(&self) -> GroupState {
        GroupState {
            vote: self.vote.clone(),
            committed: self.committed.clone(),
            purged: self.purged.clone(),
            first: self.entries.first_key_value().map(|(index, _)| *index),
            last: self.entries.last_key_value().map(|(index, (term, _))| (*index, *term)),
            lost_promise: false,
        }
    }

    pub fn records(&self) -> Vec<EntryRecord> {
        self.entries
            .iter()
            .map(|(index, (term, payload))| EntryRecord {
                index: *index,
                term: *term,
                payload: payload.clone(),
            })
            .collect()
    }
}

/// Every state the log went through since the last one known to be durable.
#[derive(Debug)]
pub struct History {
    versions: Vec<Model>,
    durable: usize,
}

impl History {
    pub fn new() -> Self {
        Self {
            versions: vec![Model::new()],
            durable: 0,
        }
    }

    pub fn now(&self) -> &Model {
        self.versions.last().unwrap()
    }

    /// Makes a change; returns the number of the version after it.
    pub fn change(&mut self, change: impl FnOnce(&mut Model)) -> usize {
        let mut next = self.now().clone();
        change(&mut next);
        next.retain(|_, group| *group != ModelGroup::default());
        self.versions.push(next);
        self.versions.len() - 1
    }

    pub fn durable(&mut self, version: usize) {
        assert!(
            version >= self.durable,
            "completions out of order: {version} after {}",
            self.durable
        );
        self.durable = version;
    }

    /// Checks that `found` is a version at or after the durable one, and goes on from there.
    pub fn restart_from(&mut self, found: Model) {
        let matching = self.versions[self.durable..].contains(&found);
        assert!(
            matching,
            "after the crash the log is in no state between durable and accepted:\nfound    {found:?}\ndurable  {:?}\naccepted {:?}",
            self.versions[self.durable],
            self.now()
        );
        *self = Self {
            versions: vec![found],
            durable: 0,
        };
    }
}
