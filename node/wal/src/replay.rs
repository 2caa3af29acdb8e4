//! From records, in log order, to groups. Pure: no file is touched here.
//!
//! A hole in the log hides records of unknown groups. The numbers in `group_seq` say afterwards whose: a group whose
//! next record carries the expected number lost nothing. One that does not, or that never writes again, lost its
//! promise; so did one whose newest vote or purge mark has bad bytes.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::format::{FLAG_ALL, FLAG_MOVED, Kind, Position};
use crate::group::{Group, Slot, Small};
use crate::record::{GroupKey, PurgeMark};
use crate::scan::Scanned;

#[derive(Debug, Default)]
pub(crate) struct Replay {
    groups: BTreeMap<GroupKey, Replaying>,
    last_hole: Option<Position>,
    pub(crate) records: u64,
}

/// A state record; `None` for bad bytes.
type Saved = (Position, Option<Bytes>);

#[derive(Debug, Default)]
struct Replaying {
    slots: BTreeMap<u64, Slot>,
    vote: Option<Saved>,
    committed: Option<Saved>,
    purged: Option<(u64, u64, Saved)>,
    lost: Option<(Position, Position)>,
    moved_below: u64,
    next_seq: Option<u32>,
    /// There was a hole since the group's last record.
    suspect: Option<Position>,
    /// Something of the group is missing.
    damaged: Option<Position>,
}

impl Replay {
    /// Takes note that records may be missing here.
    pub(crate) fn hole(&mut self, at: Position) {
        self.last_hole = Some(at);
        for group in self.groups.values_mut() {
            group.suspect.get_or_insert(at);
        }
    }

    pub(crate) fn record(&mut self, record: Scanned) {
        let Scanned {
            header,
            offset,
            payload,
        } = record;
        let at = Position {
            segment: header.segment,
            offset,
        };
        self.records += 1;
        if header.kind == Kind::Mark {
            return;
        }
        let key = GroupKey(header.group);
        let group = self.groups.entry(key).or_default();
        match group.next_seq {
            Some(expected) if expected == header.group_seq => group.suspect = None,
            Some(_) => group.damaged = group.damaged.or(group.suspect).or(Some(at)),
            // What an unknown group wrote before may have been freed, or lie in a hole.
            None if header.group_seq != 0 => group.damaged = self.last_hole,
            None => {}
        }
        group.next_seq = Some(header.group_seq.wrapping_add(1));
        match header.kind {
            Kind::Entry => {
                if group.purged.as_ref().is_none_or(|(index, _, _)| *index < header.index) {
                    let slot = Slot {
                        at,
                        len: header.len,
                        term: header.term,
                        payload: None,
                    };
                    group.slots.insert(header.index, slot);
                    if header.flags & FLAG_MOVED != 0 {
                        group.moved_below = group.moved_below.max(header.index.saturating_add(1));
                    }
                }
            }
            Kind::Vote => group.vote = Some((at, payload)),
            Kind::Committed => group.committed = Some((at, payload)),
            Kind::TruncateAfter if header.flags & FLAG_ALL != 0 => group.slots.clear(),
            Kind::TruncateAfter => {
                if let Some(first_gone) = header.index.checked_add(1) {
                    group.slots.split_off(&first_gone);
                }
            }
            Kind::PurgeTo => {
                group.purged = Some((header.index, header.term, (at, payload)));
                group.slots = match header.index.checked_add(1) {
                    Some(first_kept) => group.slots.split_off(&first_kept),
                    None => BTreeMap::new(),
                };
            }
            Kind::LostPromise => {
                let hole = Position {
                    segment: header.term,
                    offset: header.index as u32,
                };
                group.lost = Some((hole, at));
            }
            Kind::GroupDrop => {
                self.groups.remove(&key);
            }
            Kind::Mark => {}
        }
    }

    /// Returns the groups, and which of them turned out to be damaged and where, without those known before.
    pub(crate) fn finish(self) -> (BTreeMap<GroupKey, Group>, Vec<(GroupKey, Position)>) {
        let mut groups = BTreeMap::new();
        let mut damaged = Vec::new();
        for (key, replaying) in self.groups {
            let (group, damage) = replaying.finish();
            if let Some(at) = damage
                && group.lost.is_none()
            {
                damaged.push((key, at));
            }
            groups.insert(key, group);
        }
        (groups, damaged)
    }
}

impl Replaying {
    fn finish(self) -> (Group, Option<Position>) {
        let mut damage = self.damaged.or(self.suspect);
        let mut group = Group {
            next_seq: self.next_seq.unwrap_or(0),
            ..Group::default()
        };
        for (index, slot) in self.slots {
            // Entries are contiguous unless records are missing; then what follows the gap is of no use.
            if group.next_entry_is(index) {
                group.push(index, slot);
            } else {
                damage = damage.or(Some(slot.at));
                break;
            }
        }
        let mut small = |saved: Option<Saved>| {
            let (at, payload) = saved?;
            if payload.is_none() {
                damage = damage.or(Some(at));
            }
            Some(Small { at, payload: payload? })
        };
        group.vote = small(self.vote);
        group.committed = small(self.committed);
        if let Some((index, term, saved)) = self.purged {
            // The mark counts even when what the caller wanted to remember with it is gone.
            let at = saved.0;
            let payload = small(Some(saved)).map(|small| small.payload).unwrap_or_default();
            group.purged = Some((PurgeMark { index, term, payload }, at));
        }
        group.lost = self.lost.map(|(hole, at)| {
            (
                hole,
                Small {
                    at,
                    payload: Bytes::new(),
                },
            )
        });
        group.slots = VecDeque::from_iter(group.slots);
        (group, damage)
    }
}

impl Group {
    fn next_entry_is(&self, index: u64) -> bool {
        self.next_index().is_none_or(|next| next == index)
    }
}
