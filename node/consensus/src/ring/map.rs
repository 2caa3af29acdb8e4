//! Which shard owns which hashes, who has it, and what is left of former generations.

use std::collections::{BTreeMap, BTreeSet};

use model::{Generation, LogIndex, NodeId, ShardId};
use shard::catalog::GroupKey;

use super::command::RingRefusal;

/// Most shards: 50 million spans per second at 512, with room.
pub const SHARDS_MAX: usize = 4_096;
/// Most members of one shard.
pub const MEMBERS_MAX: usize = 7;

/// Placement hashes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashRange {
    /// Lowest.
    pub first: u64,
    /// Highest.
    pub last: u64,
}

impl HashRange {
    /// Whether the hash is in it.
    pub fn contains(self, hash: u64) -> bool {
        self.first <= hash && hash <= self.last
    }

    /// The share of shard `index` when the space is split into `count` equal ranges, as [`ShardId::of`] does.
    pub fn of_shard(index: u32, count: u32) -> Self {
        let bound = |index: u32| (u128::from(index) << 64).div_ceil(u128::from(count));
        let last = bound(index + 1) - 1;
        Self {
            first: u64::try_from(bound(index)).unwrap_or(u64::MAX),
            last: u64::try_from(last).unwrap_or(u64::MAX),
        }
    }
}

/// One shard as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRecord {
    /// Which.
    pub id: ShardId,
    /// What it owns.
    pub range: HashRange,
    /// Its current generation.
    pub generation: Generation,
    /// The voters of that generation, for as long as it lives.
    pub members: BTreeSet<NodeId>,
    /// Who should lead when all is well; one of the members.
    pub preferred: NodeId,
    /// Whether the generation takes over its predecessor's dedup set. Not if the predecessor could not be asked.
    pub inherits: bool,
}

impl ShardRecord {
    /// The shard with its generation.
    pub fn key(&self) -> GroupKey {
        GroupKey {
            shard: self.id,
            generation: self.generation,
        }
    }
}

/// A generation that takes nothing new but may still hold entries that no block covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What it owned.
    pub range: HashRange,
    /// Who has its log.
    pub members: BTreeSet<NodeId>,
    /// Its final entry; `None` until its seal is known to be committed.
    pub last: Option<LogIndex>,
}

/// The shard map. Its epoch grows with every change, so that an old copy is recognised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardMap {
    /// 0 before the ring is founded.
    pub epoch: u64,
    /// The current generations.
    pub shards: BTreeMap<ShardId, ShardRecord>,
    /// Former generations that readers must still ask.
    pub sealed: BTreeMap<GroupKey, Sealed>,
    /// The highest generation number used by each shard, also by shards that are no more.
    pub(crate) newest: BTreeMap<ShardId, Generation>,
}

impl ShardMap {
    /// The shard that owns a placement hash; `None` before the ring is founded.
    pub fn shard_of(&self, hash: u64) -> Option<&ShardRecord> {
        self.shards.values().find(|shard| shard.range.contains(hash))
    }

    /// Every generation that may hold entries outside blocks: the current ones and the sealed ones.
    pub fn live_generations(&self) -> impl Iterator<Item = (GroupKey, &BTreeSet<NodeId>)> {
        let current = self.shards.values().map(|shard| (shard.key(), &shard.members));
        current.chain(self.sealed.iter().map(|(key, sealed)| (*key, &sealed.members)))
    }

    /// Whether the node has, or may have, entries of some shard.
    pub fn uses(&self, node: NodeId) -> bool {
        self.live_generations().any(|(_, members)| members.contains(&node))
    }

    /// Replaces the whole map; returns the generations that are new. Shards that stay as they are keep their generation,
    /// all others must bring a number that was never used.
    pub(crate) fn replace(
        &mut self,
        shards: Vec<ShardRecord>,
        is_node: impl Fn(NodeId) -> bool,
    ) -> Result<Vec<GroupKey>, RingRefusal> {
        check_partition(&shards)?;
        let mut next = BTreeMap::new();
        let mut opened = Vec::new();
        for shard in shards {
            let members_ok = !shard.members.is_empty()
                && shard.members.len() <= MEMBERS_MAX
                && shard.members.contains(&shard.preferred)
                && shard.members.iter().all(|member| is_node(*member));
            if !members_ok {
                return Err(RingRefusal::BadMembers { shard: shard.id });
            }
            let stays = self.shards.get(&shard.id).is_some_and(|now| {
                (now.range, now.generation, &now.members) == (shard.range, shard.generation, &shard.members)
            });
            if !stays {
                let newest = self.newest.get(&shard.id).copied().unwrap_or_default();
                if shard.generation <= newest {
                    return Err(RingRefusal::GenerationUsed {
                        shard: shard.id,
                        newest,
                    });
                }
                opened.push(shard.key());
            }
            if next.insert(shard.id, shard.clone()).is_some() {
                return Err(RingRefusal::BadPartition);
            }
        }
        for (id, old) in &self.shards {
            if next.get(id).is_none_or(|new| new.generation != old.generation) {
                let sealed = Sealed {
                    range: old.range,
                    members: old.members.clone(),
                    last: None,
                };
                self.sealed.insert(old.key(), sealed);
            }
        }
        for key in &opened {
            self.newest.insert(key.shard, key.generation);
        }
        self.shards = next;
        self.epoch += 1;
        Ok(opened)
    }

    /// A former generation is final at `last`.
    pub(crate) fn seal(&mut self, key: GroupKey, last: LogIndex) -> Result<(), RingRefusal> {
        let sealed = self.sealed.get_mut(&key).ok_or(RingRefusal::NotSealed { key })?;
        match sealed.last {
            Some(known) if known != last => Err(RingRefusal::SealedElsewhere { key, last: known }),
            _ => {
                sealed.last = Some(last);
                Ok(())
            }
        }
    }
}

/// Ranges must cover every hash once.
fn check_partition(shards: &[ShardRecord]) -> Result<(), RingRefusal> {
    if shards.is_empty() || shards.len() > SHARDS_MAX {
        return Err(RingRefusal::BadPartition);
    }
    let mut ranges: Vec<HashRange> = shards.iter().map(|shard| shard.range).collect();
    ranges.sort_unstable_by_key(|range| range.first);
    let mut next = Some(0);
    for range in ranges {
        if next != Some(range.first) || range.last < range.first {
            return Err(RingRefusal::BadPartition);
        }
        next = range.last.checked_add(1);
    }
    if next.is_some() {
        Err(RingRefusal::BadPartition)
    } else {
        Ok(())
    }
}
