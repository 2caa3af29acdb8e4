//! A node whose volume is gone becomes a new node under the old name.
//!
//! The new disk is a new id. It joins by itself and catches up; then the old id is said to be lost, the ring gives its vote and
//! its shards to others, and it leaves when nothing names it any more. By itself this happens only where nothing is lost by
//! it: every shard has a majority elsewhere. Otherwise a person is told what to write.

use crds::cluster::status::OperationKind;

use super::{Act, Due, Next, Sight, Target, is_forced};
use crate::admin::{Command, Member, MemberState, RaftId, RingView, Role};
use crate::names;
use crate::observed::Memory;

pub(super) fn due(sight: &Sight<'_>) -> Due {
    let Some(ring) = sight.ring() else {
        return without_ring(sight);
    };
    let gone: Vec<&Member> = sight.members_without_disk().chain(without_volume(sight)).collect();
    let mut blocked = None;
    for member in gone {
        let target = Target {
            pod: Some(member.pod.clone()),
            member: Some(member.raft_id),
            uid: sight.claim(&member.pod).map(|claim| claim.uid.clone()),
        };
        if is_forced(sight.cluster, &member.pod) {
            let message = format!("{} is replaced as asked, with what was only on it given up", member.pod);
            return Due::about(OperationKind::Replace, target, message);
        }
        match in_the_way(sight, ring, member) {
            None => {
                let message = format!("{} has lost its volume and becomes a new node", member.pod);
                return Due::about(OperationKind::Replace, target, message);
            }
            Some(reason) => {
                blocked = blocked.or(Some(volume_lost(sight, member, &reason)));
            }
        }
    }
    if let Some(pod) = super::bootstrap::left_behind(sight) {
        let target = Target {
            pod: Some(pod.to_owned()),
            member: None,
            uid: sight.claim(pod).map(|claim| claim.uid.clone()),
        };
        let message = format!("{pod} is back with the volume of a node that has left, and gets a new one");
        return Due::about(OperationKind::Replace, target, message);
    }
    if let Some(pod) = empty_without_volume(sight) {
        let target = Target {
            pod: Some(pod.to_owned()),
            member: None,
            uid: sight.claim(pod).map(|claim| claim.uid.clone()),
        };
        return Due::about(
            OperationKind::Replace,
            target,
            format!("{pod} has lost its volume before it joined"),
        );
    }
    blocked.map_or(Due::No, Due::Blocked)
}

/// Why a member is not given up without a person.
fn in_the_way(sight: &Sight<'_>, ring: &RingView, member: &Member) -> Option<String> {
    let others = sight
        .voters()
        .filter(|voter| voter.raft_id != member.raft_id && voter.reachable)
        .count();
    let votes = sight.voters().count();
    if sight.cluster.replication_factor < 2 && member.shards > 0 {
        Some("there is no second copy of what was on it".to_owned())
    } else if ring.shards.unavailable > 0 {
        Some(format!(
            "{} shards have no majority without it",
            ring.shards.unavailable
        ))
    } else if others * 2 <= votes && member.role == Role::Voter {
        Some(format!("only {others} of {votes} voters are there without it"))
    } else {
        None
    }
}

fn volume_lost(sight: &Sight<'_>, member: &Member, reason: &str) -> super::Stall {
    let message = format!(
        "{} has lost its volume, and {reason}. If the volume cannot be brought back, give it up: kubectl annotate trc {} {}={}",
        member.pod,
        sight.cluster.name,
        names::FORCE_REMOVE,
        member.pod
    );
    super::Stall {
        reason: "VolumeLost",
        message,
    }
}

/// Without a majority nothing is known of what is lost with a volume, and nobody can go on: a person has to bring it back.
fn without_ring(sight: &Sight<'_>) -> Due {
    if sight.cluster.is_single || sight.was_alone() || !sight.observed.memory.bootstrapped {
        return Due::No;
    }
    let slots = sight.slots().iter().map(|slot| slot.pod.as_str());
    let gone: Vec<&str> = slots
        .filter(|pod| sight.is_volume_lost(pod) && sight.node(pod).is_none())
        .collect();
    if gone.is_empty() {
        return Due::No;
    }
    Due::Blocked(super::Stall {
        reason: "QuorumLost",
        message: format!(
            "the ring has no majority, and the volumes of {gone:?} cannot be had: bring back enough of them. If they are gone for \
             good, only the bucket is left: make a new resource with another spec.storage.prefix, and keep the old prefix"
        ),
    })
}

/// Whether a pod has been seen without its volume for long enough, or a person has said so.
pub(super) fn is_long_gone(sight: &Sight<'_>, pod: &str) -> bool {
    let after = sight
        .cluster
        .spec
        .persistence
        .auto_replace_after
        .duration()
        .unwrap_or_default();
    let since = sight.observed.memory.lost_since.get(pod).copied();
    // What is remembered may be of the volume that was there before.
    let since = since.max(since.and(sight.claim(pod)).and_then(|claim| claim.made_at));
    let is_long = since.is_some_and(|since| {
        let age = sight.observed.now.duration_since(since);
        !after.is_zero() && std::time::Duration::try_from(age).is_ok_and(|age| age >= after)
    });
    sight.is_volume_lost(pod) && sight.node(pod).is_none() && (is_long || is_forced(sight.cluster, pod))
}

/// A pod without a volume and without a member: there is nothing that could be lost.
fn empty_without_volume<'a>(sight: &'a Sight<'_>) -> Option<&'a str> {
    let ring = sight.ring()?;
    let slots = sight.slots().iter().map(|slot| slot.pod.as_str());
    slots
        .into_iter()
        .find(|pod| !ring.members.iter().any(|member| member.pod == *pod) && is_long_gone(sight, pod))
}

/// Members that do not answer and whose pod has been seen without a volume for long enough.
fn without_volume<'a>(sight: &'a Sight<'_>) -> impl Iterator<Item = &'a Member> {
    let members = sight.ring().into_iter().flat_map(|ring| &ring.members);
    members.filter(|member| !member.reachable && sight.slot(&member.pod).is_some() && is_long_gone(sight, &member.pod))
}

pub(super) fn step(sight: &Sight<'_>, memory: &Memory) -> Next {
    let operation = &memory.operation;
    let Some(pod) = operation.target.as_deref() else {
        return Next::Done(Box::new(memory.clone()));
    };
    let id = operation.target_id.as_deref().and_then(|id| id.parse().ok());
    let Some(id) = id.map(RaftId) else {
        // No member lives there: a new volume is all it needs, the rest it does itself.
        let claim = sight.claim(pod).map(|claim| claim.uid.as_str());
        let is_old = claim.is_some() && claim == operation.target_uid.as_deref();
        let is_left_behind = super::bootstrap::left_behind(sight) == Some(pod);
        let Some(ring) = sight.ring() else {
            return Next::Wait(
                "WaitingForLeader",
                "the ring has no leader that hears a majority".to_owned(),
            );
        };
        let is_member = ring.members.iter().any(|member| member.pod == pod);
        if is_old && is_left_behind {
            return give_up(sight, pod);
        }
        if sight.node(pod).is_some() || !is_old || is_member {
            return Next::Done(Box::new(memory.clone()));
        }
        return make_way(sight, memory, pod);
    };
    let (Some(ring), Some(leader)) = (sight.ring(), sight.leader()) else {
        return Next::Wait(
            "WaitingForLeader",
            "the ring has no leader that hears a majority".to_owned(),
        );
    };
    let Some(old) = sight.member(id) else {
        let mut memory = memory.clone();
        memory.retire(id);
        return Next::Done(Box::new(memory));
    };
    let tell = |step, command| {
        let pod = leader.to_owned();
        Next::Do(step, Act::Tell { pod, command })
    };
    let node = sight.node(pod);
    if node.is_some_and(|node| node.incarnation == old.incarnation) {
        // The volume has come back by itself.
        return Next::Done(Box::new(memory.clone()));
    }
    let new = ring
        .members
        .iter()
        .filter(|member| member.pod == pod && member.raft_id != id)
        .find(|member| node.is_some_and(|node| node.incarnation == member.incarnation));
    let lost = |step| {
        let command = Command::Remove { member: id, lost: true };
        tell(step, command)
    };
    if old.state == MemberState::Lost {
        // The shards that it had are made anew where there is room; the lock stays taken meanwhile.
        return match node {
            None if sight.is_volume_lost(pod) => make_way(sight, memory, pod),
            _ => Next::Wait("Remove", format!("{} shards that {pod} had are made anew", old.shards)),
        };
    }
    match (node, new) {
        (Some(_), Some(new)) => {
            // A person who has given it up does not wait for others.
            let is_forced = is_forced(sight.cluster, pod);
            if let Some(reason) = in_the_way(sight, ring, old).filter(|_| !is_forced) {
                return Next::Stall(volume_lost(sight, old, &reason));
            }
            if new.state == MemberState::Joining || !new.is_caught_up() {
                return Next::Wait("CatchingUp", format!("{pod} catches up, {} entries behind", new.lag));
            }
            // The old id is a vote that nobody casts any more. Others may be lost too, and wait for their turn: more than
            // half of those that are left have to be well.
            let others = sight.voters().filter(|voter| voter.raft_id != id).count();
            let caught_up = sight
                .voters()
                .filter(|voter| voter.raft_id != id && voter.is_caught_up())
                .count();
            if old.role == Role::Voter && caught_up * 2 <= others {
                return Next::Wait(
                    "CatchingUp",
                    format!("{caught_up} of {others} other voters are caught up"),
                );
            }
            lost("Remove")
        }
        (Some(node), None) => Next::stall(
            "ForeignVolume",
            format!(
                "{pod} has come up with the disk of another node ({}); delete the claim {} and the pod",
                node.incarnation,
                names::claim(pod)
            ),
        ),
        (None, _) => make_way(sight, memory, pod),
    }
}

/// The dead volume goes, if it is still the one that is meant and still dead.
fn make_way(sight: &Sight<'_>, memory: &Memory, pod: &str) -> Next {
    let old_uid = memory.operation.target_uid.as_deref();
    let claim = sight.claim(pod);
    if let Some(claim) = claim.filter(|claim| Some(claim.uid.as_str()) != old_uid && is_long_gone(sight, pod)) {
        // The volume that came instead is gone too.
        let mut memory = memory.clone();
        memory.operation.target_uid = Some(claim.uid.clone());
        return Next::Remember("WaitingForNode", Box::new(memory));
    }
    if claim.is_some_and(|claim| Some(claim.uid.as_str()) == old_uid) {
        // It may have been back since this began, and only be away again.
        if !is_long_gone(sight, pod) {
            return Next::Wait(
                "WaitingForNode",
                format!(
                    "{pod} has its volume again, or has been without it for a moment only, and does not answer yet"
                ),
            );
        }
        return give_up(sight, pod);
    }
    Next::Wait("WaitingForNode", format!("{pod} comes up with a new volume"))
}

/// A volume's claim and its pod go, in this order: a claim that a pod uses waits for the pod.
pub(super) fn give_up(sight: &Sight<'_>, pod: &str) -> Next {
    match (sight.claim(pod), sight.pod(pod)) {
        (Some(claim), _) if !claim.is_terminating => {
            let (claim, uid) = (names::claim(pod), claim.uid.clone());
            Next::Do("DeleteClaim", Act::DeleteClaim { claim, uid })
        }
        (_, Some(seen)) if !seen.is_terminating => Next::Do(
            "DeletePod",
            Act::DeletePod {
                pod: pod.to_owned(),
                uid: seen.uid.clone(),
            },
        ),
        _ => Next::Wait("DeletePod", format!("{pod} and its claim are going")),
    }
}
