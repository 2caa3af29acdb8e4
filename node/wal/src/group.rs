//! The index of one group: where each of its entries is, and its newest state records.
//!
//! Owned by [`crate::state::State`], under its lock. What always holds: the entries are contiguous, from `first` on,
//! and above the purge mark. Removing something returns what it took in its segment, so that the segment can be given
//! free later, when the removal is durable.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::format::{Position, record_size};
use crate::record::{GroupState, PurgeMark};

/// One entry. `payload` is there while the entry is not durable, and while the cache has room for it.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) at: Position,
    pub(crate) len: u32,
    pub(crate) term: u64,
    pub(crate) payload: Option<Bytes>,
}

/// The newest record of a state kind.
#[derive(Debug, Clone)]
pub(crate) struct Small {
    pub(crate) at: Position,
    pub(crate) payload: Bytes,
}

/// Bytes that become free in segments, in the order they were collected.
#[derive(Debug, Default)]
pub(crate) struct Releases(Vec<(u64, u64)>);

impl Releases {
    pub(crate) fn add(&mut self, at: Position, payload_len: usize) {
        let size = record_size(payload_len);
        match self.0.last_mut() {
            Some((segment, bytes)) if *segment == at.segment => *bytes += size,
            _ => self.0.push((at.segment, size)),
        }
    }

    fn add_small(&mut self, small: &Option<Small>) {
        if let Some(small) = small {
            self.add(small.at, small.payload.len());
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Index of `slots[0]`; without meaning when there is none.
    pub(crate) first: u64,
    pub(crate) slots: VecDeque<Slot>,
    pub(crate) vote: Option<Small>,
    pub(crate) committed: Option<Small>,
    pub(crate) purged: Option<(PurgeMark, Position)>,
    /// Where the damage is, and the record that remembers it.
    pub(crate) lost: Option<(Position, Small)>,
    /// Entries below this index may have been copied forward; from it on, places grow with the index.
    pub(crate) moved_below: u64,
    /// Number of the group's next record.
    pub(crate) next_seq: u32,
}

impl Group {
    pub(crate) fn last(&self) -> Option<(u64, u64)> {
        let slot = self.slots.back()?;
        Some((self.first + self.slots.len() as u64 - 1, slot.term))
    }

    /// Returns the only index an append may start with; `None` when any will do.
    pub(crate) fn next_index(&self) -> Option<u64> {
        match (self.last(), &self.purged) {
            (Some((index, _)), _) => Some(index + 1),
            (None, Some((mark, _))) => Some(mark.index + 1),
            (None, None) => None,
        }
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots
            .get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Lists the entries that lie in segments before `segment`, without walking all of them: copies are made of the
    /// oldest entries, so they are a prefix, and what follows lies in order.
    pub(crate) fn slots_before(&self, segment: u64) -> impl Iterator<Item = (u64, &Slot)> {
        let indexed = (self.first..).zip(&self.slots);
        indexed
            .take_while(move |(index, slot)| *index < self.moved_below || slot.at.segment < segment)
            .filter(move |(_, slot)| slot.at.segment < segment)
    }

    pub(crate) fn push(&mut self, index: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.first = index;
        }
        self.slots.push_back(slot);
    }

    /// Removes the entries above `index`, all for `None`; says whether there were any.
    pub(crate) fn truncate_after(&mut self, index: Option<u64>, releases: &mut Releases) -> bool {
        let keep = match index {
            Some(index) if index >= self.first => (index - self.first).saturating_add(1),
            _ => 0,
        };
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(self.slots.len());
        let removed = self.slots.len() > keep;
        for slot in self.slots.drain(keep..) {
            releases.add(slot.at, slot.len as usize);
        }
        removed
    }

    /// Removes the entries up to and including `index`.
    pub(crate) fn purge_to(&mut self, index: u64, releases: &mut Releases) {
        while self.first <= index
            && let Some(slot) = self.slots.pop_front()
        {
            releases.add(slot.at, slot.len as usize);
            self.first += 1;
        }
    }

    /// Collects everything the group has, for its removal.
    pub(crate) fn release_all(&self, releases: &mut Releases) {
        for slot in &self.slots {
            releases.add(slot.at, slot.len as usize);
        }
        releases.add_small(&self.vote);
        releases.add_small(&self.committed);
        if let Some((mark, at)) = &self.purged {
            releases.add(*at, mark.payload.len());
        }
        if let Some((_, small)) = &self.lost {
            releases.add(small.at, small.payload.len());
        }
    }

    /// Says whether there is nothing to remember. Such a group may be forgotten with the last segment it wrote to.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
            && self.vote.is_none()
            && self.committed.is_none()
            && self.purged.is_none()
            && self.lost.is_none()
    }

    pub(crate) fn state(&self) -> GroupState {
        GroupState {
            vote: self.vote.as_ref().map(|small| small.payload.clone()),
            committed: self.committed.as_ref().map(|small| small.payload.clone()),
            purged: self.purged.as_ref().map(|(mark, _)| mark.clone()),
            first: (!self.slots.is_empty()).then_some(self.first),
            last: self.last(),
            lost_promise: self.lost.is_some(),
        }
    }
}
