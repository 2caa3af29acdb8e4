//! Taking nodes in, and giving and taking votes: one change at a time, through the leader.

use std::collections::BTreeMap;

use super::{Act, Sight};
use crate::admin::{Command, Drain, Member, MemberState, RaftId, Role};

/// What the members need.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Joining {
    Do(&'static str, Act),
    Wait(String),
    Nothing,
}

/// The next change of members: an empty node in, a caught-up learner to vote, a surplus voter to follow.
pub(super) fn join(sight: &Sight<'_>) -> Joining {
    let (Some(ring), Some(leader)) = (sight.ring(), sight.leader()) else {
        return Joining::Nothing;
    };
    let tell = |step, command| {
        let pod = leader.to_owned();
        Joining::Do(step, Act::Tell { pod, command })
    };
    // One that is on its way is waited for: members change one at a time.
    let joining = ring
        .members
        .iter()
        .find(|member| member.state == MemberState::Joining && sight.has_disk(member));
    if let Some(member) = joining {
        // A learner that cannot be reached takes nothing from anybody, and must not keep others from joining.
        if member.reachable {
            return Joining::Wait(format!("{} catches up, {} entries behind", member.pod, member.lag));
        }
    }
    if let Some((pod, id)) = strays(sight).next() {
        let pod = pod.to_owned();
        let command = Command::Reset { member: id };
        return Joining::Do("Reset", Act::Tell { pod, command });
    }
    if let Some(pod) = empty(sight).next() {
        let node = sight.node(pod);
        let slot = sight.slot(pod);
        if let (Some(node), Some(slot)) = (node, slot) {
            let command = Command::AddLearner {
                pod: pod.to_owned(),
                incarnation: node.incarnation.clone(),
                zone: slot.zone.clone(),
            };
            return tell("AddLearner", command);
        }
    }
    let voters: Vec<&Member> = sight.voters().collect();
    let wanted = usize::try_from(sight.cluster.voters).unwrap_or(usize::MAX);
    if voters.len() < wanted
        && let Some(candidate) = candidate(sight)
    {
        return tell(
            "Promote",
            Command::Promote {
                member: candidate.raft_id,
            },
        );
    }
    if voters.len() > wanted
        && voters.iter().all(|voter| voter.is_caught_up())
        && let Some(surplus) = surplus(sight)
    {
        return tell(
            "Demote",
            Command::Demote {
                member: surplus.raft_id,
            },
        );
    }
    Joining::Nothing
}

/// Pods whose node is empty and may be taken in: there is no member of the same pod whose disk is gone, for that one has
/// to be replaced in order.
fn empty<'a>(sight: &'a Sight<'_>) -> impl Iterator<Item = &'a str> {
    let slots = sight.slots().iter();
    slots.map(|slot| slot.pod.as_str()).filter(|pod| {
        let is_blank = sight.node(pod).is_some_and(|node| node.is_blank());
        let is_here = sight.pod(pod).is_some_and(|pod| !pod.is_terminating);
        let has_ghost = sight
            .ring()
            .is_some_and(|ring| ring.members.iter().any(|member| member.pod == **pod));
        is_blank && is_here && !has_ghost
    })
}

/// Pods whose node believes in a membership that the ring has ended: removed nodes that come back with their disk.
fn strays<'a>(sight: &'a Sight<'_>) -> impl Iterator<Item = (&'a str, RaftId)> {
    let retired = &sight.observed.memory.retired;
    let slots = sight.slots().iter();
    slots.filter_map(move |slot| {
        let id = sight.node(&slot.pod)?.raft_id?;
        // Both have to say so: the ring, that it is no member, and we, that we have seen it go.
        (sight.member(id).is_none() && retired.contains(&id)).then_some((slot.pod.as_str(), id))
    })
}

/// A node that hands over although no operation asks it to: a command that came late, or an operation that was given up.
pub(super) fn stray_drain(sight: &Sight<'_>) -> Option<Act> {
    let ring = sight.ring()?;
    ring.members.iter().find_map(|member| {
        let undrain = |pod: &str| Act::Tell {
            pod: pod.to_owned(),
            command: Command::Undrain { member: member.raft_id },
        };
        if member.state == MemberState::Leaving {
            return sight.leader().map(undrain);
        }
        let node = sight
            .node(&member.pod)
            .filter(|node| node.raft_id == Some(member.raft_id))?;
        (node.drain != Drain::None).then(|| undrain(&member.pod))
    })
}

/// Voters by zone.
fn votes<'a>(sight: &'a Sight<'_>) -> BTreeMap<Option<&'a str>, usize> {
    let mut votes = BTreeMap::new();
    for voter in sight.voters() {
        *votes.entry(voter.zone.as_deref()).or_insert(0) += 1;
    }
    votes
}

/// The learner that votes next: caught up, its pod there to stay, in the zone with the fewest votes.
pub(super) fn candidate<'a>(sight: &'a Sight<'_>) -> Option<&'a Member> {
    let votes = votes(sight);
    let ring = sight.ring()?;
    let fit = ring.members.iter().filter(|member| {
        let is_here = sight.slot(&member.pod).is_some() && sight.has_disk(member) && sight.node(&member.pod).is_some();
        member.role == Role::Learner && member.is_caught_up() && is_here
    });
    fit.min_by_key(|member| (votes.get(&member.zone.as_deref()).copied().unwrap_or(0), member.raft_id))
}

/// The voter that follows next: not the leader, in the zone with the most votes, the youngest.
fn surplus<'a>(sight: &'a Sight<'_>) -> Option<&'a Member> {
    let votes = votes(sight);
    let voters = sight.voters().filter(|voter| !sight.is_leader(voter));
    voters.max_by_key(|voter| (votes.get(&voter.zone.as_deref()).copied().unwrap_or(0), voter.raft_id))
}

/// Another voter that could lead: caught up, and itself not on the way out.
pub(super) fn heir<'a>(sight: &'a Sight<'_>, except: RaftId) -> Option<&'a Member> {
    sight
        .voters()
        .filter(|voter| voter.raft_id != except && voter.is_caught_up() && sight.node(&voter.pod).is_some())
        .min_by_key(|voter| (voter.lag, voter.raft_id))
}
