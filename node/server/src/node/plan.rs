//! Who should vote in the ring, and who should have which shard: pure, from the ring's state alone.
//!
//! What always holds:
//! - the same state gives the same plan, so a new leader of the ring goes on where the old one stopped;
//! - a plan that is carried out is empty afterwards: nothing moves to and fro;
//! - a node that is draining, lost or gone gets nothing, and what it has goes elsewhere;
//! - copies of a shard are in as many zones as there are;
//! - at most [`MOVES_MAX`] generations are on their way out at once.
//!
//! Not here: carrying it out ([`super::members`]).

use std::collections::{BTreeMap, BTreeSet};

use consensus::ring::{NodeRecord, NodeState, RingState, ShardRecord};
use model::{Generation, NodeId, ShardId};

/// Generations that may wait for their last flush before another shard is moved: each flushes a tail early.
const MOVES_MAX: usize = 2;
/// From this many nodes on the ring has five voters.
const FIVE_VOTERS_FROM: usize = 9;

/// How many copies `nodes` nodes can sensibly hold: an even number survives no more losses than one fewer.
fn sensible(wanted: usize, nodes: usize) -> usize {
    [7, 5, 3, 1]
        .into_iter()
        .find(|n| *n <= wanted && *n <= nodes)
        .unwrap_or(0)
}

/// The voters the ring should have, as many as are `asked` for, or by the number of nodes. `ready` are members whose copy of the
/// log is close to the leader's.
pub(super) fn ring_voters(
    state: &RingState,
    voters: &BTreeSet<NodeId>,
    ready: &BTreeSet<NodeId>,
    asked: Option<u32>,
) -> BTreeSet<NodeId> {
    let may =
        |node: &&NodeRecord| node.state == NodeState::Active && (voters.contains(&node.id) || ready.contains(&node.id));
    let candidates: Vec<&NodeRecord> = state.nodes.values().filter(may).collect();
    let by_size = if candidates.len() >= FIVE_VOTERS_FROM { 5 } else { 3 };
    let wanted = asked.map_or(by_size, |asked| asked as usize);
    let count = sensible(wanted, candidates.len());
    // Who votes already goes on if zones allow.
    spread(&candidates, count, |node| (!voters.contains(&node.id), node.id.0, 0))
}

/// What the ring's leader does next to have other voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VotersStep {
    /// It makes these the voters.
    Set(BTreeSet<NodeId>),
    /// It is not to be one of them and lets one of these lead, who goes on.
    HandOverTo(BTreeSet<NodeId>),
}

/// The step from the voters there are to the `wanted` ones. A leader never takes its own vote.
pub(super) fn voters_step(now: &BTreeSet<NodeId>, wanted: &BTreeSet<NodeId>, leader: NodeId) -> VotersStep {
    if wanted.contains(&leader) {
        return VotersStep::Set(wanted.clone());
    }
    let heirs: BTreeSet<NodeId> = now.intersection(wanted).copied().collect();
    if heirs.is_empty() {
        return VotersStep::Set(now.union(wanted).copied().collect());
    }
    VotersStep::HandOverTo(heirs)
}

/// The shard map there should be next; `None` when all is well or enough is moving.
pub(super) fn shard_map(state: &RingState, replicas: u32) -> Option<Vec<ShardRecord>> {
    let active: Vec<&NodeRecord> = state
        .nodes
        .values()
        .filter(|node| node.state == NodeState::Active)
        .collect();
    let count = sensible(replicas as usize, active.len());
    let mut moves = MOVES_MAX
        .checked_sub(state.map.sealed.len())
        .filter(|moves| *moves > 0)?;
    if count == 0 {
        return None;
    }
    let is_active = |node: &NodeId| active.iter().any(|active| active.id == *node);
    let mut load = Load::of(state, &active);
    let mut next: BTreeMap<ShardId, ShardRecord> = state.map.shards.clone();
    let mut has_changed = false;
    // First those that lack copies, then those that make the load uneven.
    for record in state.map.shards.values() {
        let kept = record.members.iter().filter(|member| is_active(member)).count();
        // Fewer copies than before only where nodes left; a replica count that was lowered waits for the next move.
        let lacks = kept < record.members.len() || kept < count;
        if lacks && moves > 0 {
            let members = place(record, &active, count, &load);
            if members != record.members {
                load.moved(&record.members, &members);
                reopen(&mut next, record, members, &mut load);
                (moves, has_changed) = (moves - 1, true);
            }
        }
    }
    if !has_changed && let Some((record, members)) = even_out(state, &active, &load) {
        load.moved(&record.members, &members);
        reopen(&mut next, record, members, &mut load);
        has_changed = true;
    }
    has_changed |= prefer_evenly(&mut next, &is_active);
    has_changed.then(|| next.into_values().collect())
}

/// Copies per node.
#[derive(Debug, Clone)]
struct Load {
    copies: BTreeMap<NodeId, usize>,
}

impl Load {
    fn of(state: &RingState, active: &[&NodeRecord]) -> Self {
        let mut copies: BTreeMap<NodeId, usize> = active.iter().map(|node| (node.id, 0)).collect();
        for member in state.map.shards.values().flat_map(|record| &record.members) {
            *copies.entry(*member).or_default() += 1;
        }
        Self { copies }
    }

    fn on(&self, node: NodeId) -> usize {
        self.copies.get(&node).copied().unwrap_or_default()
    }

    fn moved(&mut self, from: &BTreeSet<NodeId>, to: &BTreeSet<NodeId>) {
        for node in from.difference(to) {
            let copies = self.copies.entry(*node).or_default();
            *copies = copies.saturating_sub(1);
        }
        for node in to.difference(from) {
            *self.copies.entry(*node).or_default() += 1;
        }
    }
}

/// Members for a shard: who has it stays, the least loaded come, ties go by rendezvous.
fn place(record: &ShardRecord, active: &[&NodeRecord], count: usize, load: &Load) -> BTreeSet<NodeId> {
    spread(active, count, |node| {
        let is_new = !record.members.contains(&node.id);
        let load = if is_new { load.on(node.id) as u64 } else { 0 };
        (is_new, load, rendezvous(record.id, node.id))
    })
}

/// Takes `count` nodes in the order of `rank`, but first from zones that have given fewest.
fn spread<K: Ord>(nodes: &[&NodeRecord], count: usize, rank: impl Fn(&NodeRecord) -> K) -> BTreeSet<NodeId> {
    let mut left: Vec<&NodeRecord> = nodes.to_vec();
    let mut given: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chosen = BTreeSet::new();
    while chosen.len() < count {
        let best = left.iter().enumerate().min_by_key(|(_, node)| {
            let zone = given.get(&*node.zone).copied().unwrap_or_default();
            (zone, rank(node))
        });
        let Some((at, _)) = best else { break };
        let node = left.swap_remove(at);
        *given.entry(&*node.zone).or_default() += 1;
        chosen.insert(node.id);
    }
    chosen
}

/// One move from the node with the most copies to the one with the fewest, when they differ by two or more and the zones
/// of the shard get no fewer.
fn even_out<'a>(
    state: &'a RingState,
    active: &[&NodeRecord],
    load: &Load,
) -> Option<(&'a ShardRecord, BTreeSet<NodeId>)> {
    let most = active.iter().max_by_key(|node| (load.on(node.id), node.id))?;
    let fewest = active.iter().min_by_key(|node| (load.on(node.id), node.id))?;
    if load.on(most.id) < load.on(fewest.id) + 2 {
        return None;
    }
    let zone_of = |node: NodeId| state.nodes.get(&node).map(|record| &*record.zone);
    let zones = |members: &BTreeSet<NodeId>| {
        members
            .iter()
            .filter_map(|node| zone_of(*node))
            .collect::<BTreeSet<_>>()
            .len()
    };
    let movable = state
        .map
        .shards
        .values()
        .filter(|record| record.members.contains(&most.id) && !record.members.contains(&fewest.id));
    movable
        .map(|record| {
            let mut members = record.members.clone();
            members.remove(&most.id);
            members.insert(fewest.id);
            (record, members)
        })
        .find(|(record, members)| zones(members) >= zones(&record.members))
}

fn reopen(next: &mut BTreeMap<ShardId, ShardRecord>, old: &ShardRecord, members: BTreeSet<NodeId>, _: &mut Load) {
    let preferred = members
        .iter()
        .copied()
        .min_by_key(|node| rendezvous(old.id, *node))
        .unwrap_or(old.preferred);
    let record = ShardRecord {
        generation: Generation(old.generation.0 + 1),
        members,
        preferred,
        inherits: false,
        ..old.clone()
    };
    next.insert(old.id, record);
}

/// Spreads leaders: moves a preference from the node that has most to the one that has fewest, where that helps. Costs a
/// transfer of leadership and no new generation.
fn prefer_evenly(next: &mut BTreeMap<ShardId, ShardRecord>, is_active: &impl Fn(&NodeId) -> bool) -> bool {
    let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
    for record in next.values() {
        for member in &record.members {
            led.entry(*member).or_default();
        }
        *led.entry(record.preferred).or_default() += 1;
    }
    let mut has_changed = false;
    for record in next.values_mut() {
        let now = led.get(&record.preferred).copied().unwrap_or_default();
        let best = record
            .members
            .iter()
            .filter(|member| is_active(member))
            .min_by_key(|member| {
                (
                    led.get(member).copied().unwrap_or_default(),
                    rendezvous(record.id, **member),
                )
            });
        let Some(best) = best.copied() else { continue };
        let least = led.get(&best).copied().unwrap_or_default();
        if !is_active(&record.preferred) || now > least + 1 {
            *led.entry(record.preferred).or_default() -= 1;
            *led.entry(best).or_default() += 1;
            record.preferred = best;
            has_changed = true;
        }
    }
    has_changed
}

/// A number per shard and node that looks random and never changes.
fn rendezvous(shard: ShardId, node: NodeId) -> u64 {
    // The finaliser of splitmix64.
    let mut mixed = node.0 ^ (u64::from(shard.0).wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    //! Nodes and shards in, who gets what out.

    use std::sync::Arc;

    use consensus::ring::{Body, HashRange, RingCommand};

    use super::*;

    fn node(id: u64, zone: &str, state: NodeState) -> NodeRecord {
        NodeRecord {
            id: NodeId(id),
            pod: format!("node-{id}").into(),
            zone: Arc::from(zone),
            address: format!("node-{id}:1").into(),
            state,
            feature_level: 0,
            joined_unix_nanos: 0,
        }
    }

    fn founded(count: u32) -> RingState {
        let mut state = RingState::default();
        let shard = |index| ShardRecord {
            id: ShardId(index),
            range: HashRange::of_shard(index, count),
            generation: Generation(1),
            members: BTreeSet::from([NodeId(1)]),
            preferred: NodeId(1),
            inherits: false,
        };
        let body = Body::Bootstrap {
            cluster: 1,
            nodes: vec![node(1, "a", NodeState::Active)],
            shards: (0..count).map(shard).collect(),
        };
        state.apply(RingCommand::new(1, body)).unwrap();
        state
    }

    #[test]
    fn a_leader_never_takes_its_own_vote() {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let step = |now: &[u64], wanted: &[u64]| voters_step(&ids(now), &ids(wanted), NodeId(1));
        assert_eq!(step(&[1], &[1, 2, 3]), VotersStep::Set(ids(&[1, 2, 3])));
        assert_eq!(step(&[1, 2, 3], &[2, 3, 4]), VotersStep::HandOverTo(ids(&[2, 3])));
        // Nobody who stays votes yet: the new one is let in first.
        assert_eq!(step(&[1], &[2]), VotersStep::Set(ids(&[1, 2])));
        assert_eq!(step(&[1, 2], &[2]), VotersStep::HandOverTo(ids(&[2])));
    }

    fn put(state: &mut RingState, record: NodeRecord) {
        state.apply(RingCommand::new(1, Body::PutNode(record))).unwrap();
    }

    /// Carries plans out until there is none, with every sealed generation flushed at once; returns how many it took.
    fn settle(state: &mut RingState, replicas: u32) -> usize {
        for round in 0..200 {
            let Some(shards) = shard_map(state, replicas) else {
                return round;
            };
            let epoch = state.map.epoch;
            state
                .apply(RingCommand::new(1, Body::SetShardMap { epoch, shards }))
                .unwrap();
            let sealed: Vec<_> = state.map.sealed.keys().copied().collect();
            assert!(sealed.len() <= MOVES_MAX);
            for key in sealed {
                state.apply(RingCommand::new(1, Body::Abandon(key))).unwrap();
            }
        }
        panic!("plans never end");
    }

    fn copies(state: &RingState) -> BTreeMap<u64, usize> {
        let mut copies = BTreeMap::new();
        for member in state.map.shards.values().flat_map(|record| &record.members) {
            *copies.entry(member.0).or_default() += 1;
        }
        copies
    }

    fn leaders(state: &RingState) -> Vec<usize> {
        let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
        for record in state.map.shards.values() {
            *led.entry(record.preferred).or_default() += 1;
        }
        led.into_values().collect()
    }

    #[test]
    fn a_cluster_grows_and_shrinks_evenly_and_comes_to_rest() {
        let mut state = founded(16);
        assert_eq!(settle(&mut state, 3), 0, "one node has nothing to plan");
        put(&mut state, node(2, "b", NodeState::Active));
        settle(&mut state, 3);
        assert_eq!(
            copies(&state),
            BTreeMap::from([(1, 8), (2, 8)]),
            "two nodes share, without copies"
        );
        put(&mut state, node(3, "c", NodeState::Active));
        settle(&mut state, 3);
        assert_eq!(copies(&state), BTreeMap::from([(1, 16), (2, 16), (3, 16)]));
        assert!(
            leaders(&state).iter().all(|led| (5..=6).contains(led)),
            "{:?}",
            leaders(&state)
        );
        put(&mut state, node(4, "a", NodeState::Active));
        put(&mut state, node(5, "b", NodeState::Active));
        settle(&mut state, 3);
        assert!(
            copies(&state).values().all(|copies| (7..=16).contains(copies)),
            "{:?}",
            copies(&state)
        );
        for id in [4, 5] {
            put(
                &mut state,
                node(id, if id == 4 { "a" } else { "b" }, NodeState::Draining),
            );
        }
        settle(&mut state, 3);
        assert_eq!(copies(&state), BTreeMap::from([(1, 16), (2, 16), (3, 16)]));
        for id in [4, 5] {
            assert!(!state.map.uses(NodeId(id)));
        }
    }

    #[test]
    fn copies_are_in_different_zones_where_there_are_any() {
        let mut state = founded(8);
        for (id, zone) in [(2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")] {
            put(&mut state, node(id, zone, NodeState::Active));
        }
        settle(&mut state, 3);
        for record in state.map.shards.values() {
            let zones: BTreeSet<_> = record.members.iter().map(|id| &*state.nodes[id].zone).collect();
            assert_eq!(zones.len(), 3, "{record:?}");
        }
        assert!(
            copies(&state).values().all(|copies| (3..=5).contains(copies)),
            "{:?}",
            copies(&state)
        );
    }

    #[test]
    fn a_lost_node_is_replaced_and_one_that_is_merely_away_is_not() {
        let mut state = founded(4);
        for id in 2..=4 {
            put(&mut state, node(id, "", NodeState::Active));
        }
        settle(&mut state, 3);
        assert!(shard_map(&state, 3).is_none());
        put(&mut state, node(2, "", NodeState::Lost));
        settle(&mut state, 3);
        assert!(state.map.shards.values().all(|record| record.members.len() == 3));
        assert!(!state.map.uses(NodeId(2)));
    }

    #[test]
    fn the_ring_has_one_three_or_five_voters_in_different_zones() {
        let mut state = founded(1);
        let ids = |range: std::ops::RangeInclusive<u64>| range.map(NodeId).collect::<BTreeSet<_>>();
        let voters = ids(1..=1);
        assert_eq!(ring_voters(&state, &voters, &ids(1..=9), None), voters);
        put(&mut state, node(2, "a", NodeState::Active));
        assert_eq!(
            ring_voters(&state, &voters, &ids(1..=9), None),
            voters,
            "two would be worse than one"
        );
        put(&mut state, node(3, "b", NodeState::Active));
        put(&mut state, node(4, "c", NodeState::Active));
        let three = BTreeSet::from([1, 3, 4].map(NodeId));
        assert_eq!(ring_voters(&state, &voters, &ids(1..=9), None), three);
        assert_eq!(
            ring_voters(&state, &three, &ids(1..=9), None),
            three,
            "it comes to rest"
        );
        // Who is not ready waits.
        assert_eq!(ring_voters(&state, &voters, &ids(1..=2), None), voters);
        for id in 5..=9 {
            put(&mut state, node(id, "c", NodeState::Active));
        }
        assert_eq!(ring_voters(&state, &three, &ids(1..=9), None).len(), 5);
        for (asked, wanted) in [(1, 1), (3, 3), (7, 7)] {
            assert_eq!(ring_voters(&state, &three, &ids(1..=9), Some(asked)).len(), wanted);
        }
        put(&mut state, node(3, "b", NodeState::Draining));
        assert!(!ring_voters(&state, &three, &ids(1..=9), None).contains(&NodeId(3)));
    }
}
