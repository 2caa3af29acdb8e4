//! More nodes and fewer.
//!
//! Up: a group gets a pod, whose empty node asks to be let in and is given shards, all by itself; the lock is held only while
//! groups grow, so that pods that wait for a machine hold up nobody. Down: the node is told to hand over everything; when the
//! ring has taken its vote and its shards are elsewhere it is taken out, and only then its group shrinks; until it has left,
//! a change of mind takes it back.

use std::time::Duration;

use crds::cluster::placement::VolumePolicy;
use crds::cluster::status::OperationKind;

use super::sight::Slot;
use super::{Act, Due, Next, Sight, Target, gate, is_forced};
use crate::admin::{Command, DrainMode, MemberState, RaftId, Role};
use crate::names;
use crate::observed::Memory;

/// How long a node may take to hand over before a person is told.
const DRAIN_MAX: Duration = Duration::from_secs(2 * 3600);
/// How long the volume of a removed node is kept.
const CLAIM_GRACE: Duration = Duration::from_secs(3600);

pub(super) fn up_due(sight: &Sight<'_>) -> Due {
    let cluster = sight.cluster;
    let pods = sight.observed.memory.pods();
    if cluster.is_single && pods == cluster.replicas {
        return Due::No;
    }
    if sight.ring().is_none() {
        return Due::No;
    }
    if pods < cluster.replicas {
        return Due::begin(
            OperationKind::ScaleUp,
            format!("from {pods} to {} nodes", cluster.replicas),
        );
    }
    Due::No
}

pub(super) fn up(sight: &Sight<'_>, memory: &Memory) -> Next {
    if sight.ring().is_none() {
        return Next::Wait(
            "WaitingForLeader",
            "the ring has no leader that hears a majority".to_owned(),
        );
    }
    // Pods that somebody asked for by hand, and whose nodes are no members, make room for ours.
    if let Some(act) = surplus_pods(sight, memory) {
        return Next::Do("ShrinkSet", act);
    }
    let cluster = sight.cluster;
    let step = u32::try_from(cluster.spec.autoscaling.scale_up.max_step)
        .unwrap_or(1)
        .max(1);
    let missing = cluster.replicas.saturating_sub(memory.pods()).min(step);
    if missing == 0 {
        return Next::Done(Box::new(memory.clone()));
    }
    let mut memory = memory.clone();
    for _ in 0..missing {
        let Some(group) = smallest(sight, &memory) else {
            break;
        };
        let ordinal = memory.groups.get(&group).copied().unwrap_or_default();
        let pod = names::pod(&cluster.name, &group, ordinal);
        // The claim of a node that was removed from here before: its pod would come back with the old disk.
        if let Some(claim) = sight.claim(&pod).filter(|claim| claim.retired.is_some()) {
            if claim.is_terminating {
                return Next::Wait("DeleteClaim", format!("the old claim of {pod} is going"));
            }
            let (name, uid) = (names::claim(&pod), claim.uid.clone());
            if cluster.spec.persistence.when_scaled == VolumePolicy::Delete {
                return Next::Do("DeleteClaim", Act::DeleteClaim { claim: name, uid });
            }
            return Next::stall(
                "VolumeKept",
                format!(
                    "{pod} would come up with the volume of a node that has left the cluster, and its spans are elsewhere: kubectl \
                     delete pvc {name}, or set spec.persistence.whenScaled to Delete"
                ),
            );
        }
        memory.groups.insert(group, ordinal + 1);
    }
    Next::Remember("Grow", Box::new(memory))
}

/// The group with the fewest pods, the first of several.
fn smallest(sight: &Sight<'_>, memory: &Memory) -> Option<String> {
    let groups = sight.cluster.groups.iter();
    let least = groups.min_by_key(|group| memory.groups.get(&group.name).copied().unwrap_or_default())?;
    Some(least.name.clone())
}

pub(super) fn down_due(sight: &Sight<'_>) -> Due {
    let cluster = sight.cluster;
    let pods = sight.observed.memory.pods();
    if pods <= cluster.replicas.max(cluster.floor()) || sight.ring().is_none() {
        return Due::No;
    }
    let Some(slot) = goes(sight) else {
        return Due::No;
    };
    let member = sight.member_in(&slot.pod);
    // One that never joined holds nothing, and may go whatever the others do.
    if member.is_some()
        && let Some(reason) = gate::closed(sight, Some(&slot.pod))
    {
        return Due::Blocked(super::Stall {
            reason: "ScaleDownWaits",
            message: format!(
                "{} would go, but {reason}; it goes on by itself when that is over",
                slot.pod
            ),
        });
    }
    let target = Target {
        pod: Some(slot.pod.clone()),
        member: member.map(|member| member.raft_id),
        uid: None,
    };
    let message = format!(
        "from {pods} to {} nodes: {} hands over and goes",
        cluster.replicas, slot.pod
    );
    Due::about(OperationKind::ScaleDown, target, message)
}

/// The pod that goes: the last of the group with the most pods; of several such groups one whose last pod a person has
/// marked, else the last.
fn goes<'a>(sight: &'a Sight<'_>) -> Option<&'a Slot> {
    let groups = &sight.observed.memory.groups;
    let most = sight
        .cluster
        .groups
        .iter()
        .filter_map(|group| groups.get(&group.name))
        .max()
        .copied()?;
    let last = sight
        .slots()
        .iter()
        .filter(|slot| groups.get(&slot.group) == Some(&most) && slot.ordinal + 1 == most);
    last.max_by_key(|slot| sight.pod(&slot.pod).is_some_and(|pod| pod.is_retire_wanted))
}

pub(super) fn down(sight: &Sight<'_>, memory: &Memory) -> Next {
    let Some(pod) = memory.operation.target.as_deref() else {
        return Next::Done(Box::new(memory.clone()));
    };
    let Some(slot) = sight.slot(pod) else {
        // The group has shrunk already; the pod is on its way out.
        return match (surplus_pods(sight, memory), sight.pod(pod)) {
            (Some(act), _) => Next::Do("ShrinkSet", act),
            // Somebody scaled the set up by hand, and nodes have joined behind it: they are taken in first.
            (None, Some(_)) if super::bootstrap::uninvited(sight).is_some() => Next::Done(Box::new(memory.clone())),
            (None, Some(_)) => Next::Wait("ShrinkSet", format!("{pod} ends")),
            (None, None) => Next::Done(Box::new(memory.clone())),
        };
    };
    let Some(leader) = sight.leader() else {
        return Next::Wait(
            "WaitingForLeader",
            "the ring has no leader that hears a majority".to_owned(),
        );
    };
    let id = memory
        .operation
        .target_id
        .as_deref()
        .and_then(|id| id.parse().ok())
        .map(RaftId);
    let Some(member) = id.and_then(|id| sight.member(id)) else {
        // Another member in the same pod would be one that joined meanwhile; it is looked at afresh.
        if sight
            .ring()
            .is_some_and(|ring| ring.members.iter().any(|member| member.pod == pod))
        {
            return Next::Done(Box::new(memory.clone()));
        }
        return shrink(sight, memory, slot, id);
    };
    let tell = |pod: &str, step, command| {
        let pod = pod.to_owned();
        Next::Do(step, Act::Tell { pod, command })
    };
    if memory.pods() <= sight.cluster.replicas && member.state != MemberState::Lost {
        return match member.state {
            MemberState::Leaving => tell(leader, "Undrain", Command::Undrain { member: member.raft_id }),
            _ => Next::Done(Box::new(memory.clone())),
        };
    }
    if member.state == MemberState::Lost {
        return Next::Wait(
            "Remove",
            format!("{pod} was given up; its shards are made anew elsewhere"),
        );
    }
    let is_given_up = is_forced(sight.cluster, pod) && !member.reachable;
    if is_given_up {
        let command = Command::Remove {
            member: member.raft_id,
            lost: true,
        };
        return tell(leader, "Remove", command);
    }
    if member.state != MemberState::Leaving {
        return tell(
            leader,
            "Drain",
            Command::Drain {
                member: member.raft_id,
                mode: DrainMode::Remove,
            },
        );
    }
    if !member.is_drained() || member.role == Role::Voter {
        let left = format!(
            "{pod} hands over: {} shards, {} bytes of log and {} blocks are left",
            member.shards, member.wal_bytes, member.uploads
        );
        if sight.observed.operation_age() > DRAIN_MAX {
            let hint = format!(
                "{left}; look at its log. If it is gone for good, give up what is on it: kubectl annotate trc {} {}={pod}",
                sight.cluster.name,
                names::FORCE_REMOVE
            );
            return Next::stall("DrainStuck", hint);
        }
        return Next::Wait("Drain", left);
    }
    // Its vote went to others; they have to be able to do without its log. One of them may be lost: its replacement waits for
    // this to end.
    let voters = sight.voters().count();
    let caught_up = sight.voters().filter(|voter| voter.is_caught_up()).count();
    if caught_up * 2 <= voters {
        return Next::Wait("Drain", format!("{caught_up} of {voters} voters are caught up"));
    }
    let command = Command::Remove {
        member: member.raft_id,
        lost: false,
    };
    tell(leader, "Remove", command)
}

/// The node is no member any more: that is noted on its claim, and its group shrinks.
fn shrink(sight: &Sight<'_>, memory: &Memory, slot: &Slot, id: Option<RaftId>) -> Next {
    if memory.groups.get(&slot.group).copied().unwrap_or_default() != slot.ordinal + 1 {
        return Next::Done(Box::new(memory.clone()));
    }
    if memory.pods() <= sight.cluster.replicas && id.is_none() {
        return Next::Done(Box::new(memory.clone()));
    }
    if let Some(claim) = sight.claim(&slot.pod).filter(|claim| claim.retired.is_none()) {
        let act = Act::RetireClaim {
            claim: names::claim(&slot.pod),
            uid: claim.uid.clone(),
            member: id,
        };
        return Next::Do("RetireClaim", act);
    }
    let mut memory = memory.clone();
    memory.groups.insert(slot.group.clone(), slot.ordinal);
    if let Some(id) = id {
        memory.retire(id);
    }
    Next::Remember("Shrink", Box::new(memory))
}

/// A StatefulSet with more pods than its group shall have: after a node has left, and where somebody scaled it by hand. It
/// shrinks only while the ring says that nobody lives in the pods that go.
pub(super) fn surplus_pods(sight: &Sight<'_>, memory: &Memory) -> Option<Act> {
    let cluster = sight.cluster;
    cluster.groups.iter().find_map(|group| {
        let name = names::set(&cluster.name, &group.name);
        let set = sight.observed.sets.get(&name)?;
        let pods = memory.groups.get(&group.name).copied()?;
        let mut going = (pods..set.replicas).map(|ordinal| names::pod(&cluster.name, &group.name, ordinal));
        // Only who has joined is ready: the ring that was seen may be older than the pod. Not so where the claim says that its
        // node has left.
        let has_joined = |pod: &str| {
            let claim = sight.claim(pod).and_then(|claim| claim.retired.as_deref());
            claim.is_none_or(str::is_empty) && sight.pod(pod).is_some_and(|pod| pod.is_ready)
        };
        let is_empty = match sight.ring() {
            Some(ring) => going.all(|pod| !has_joined(&pod) && !ring.members.iter().any(|member| member.pod == pod)),
            None => cluster.is_single,
        };
        (set.replicas > pods && is_empty).then(|| Act::ShrinkSet {
            set: name,
            uid: set.uid.clone(),
            pods,
        })
    })
}

/// Pods that a StatefulSet is applied with: never fewer than it has, see [`Act::ShrinkSet`].
pub fn applied_pods(pods: u32, seen: Option<u32>) -> u32 {
    pods.max(seen.unwrap_or(0))
}

/// A claim that a pod beyond its group has left behind: the StatefulSet was scaled by hand and has been put back. It is noted
/// on the claim that no node of ours lives on it, or it would count as a node where everything is made anew around the
/// volumes ([`super::bootstrap::groups`]).
pub(super) fn stray_claim(sight: &Sight<'_>) -> Option<Act> {
    let cluster = sight.cluster;
    let memory = &sight.observed.memory;
    let (name, claim) = sight.observed.claims.iter().find(|(name, claim)| {
        let Some(pod) = name.strip_prefix("data-") else {
            return false;
        };
        // A set that is not seen, or that still asks for the pod, may bring it back.
        let is_beyond = cluster.groups.iter().any(|group| {
            let set = sight.observed.sets.get(&names::set(&cluster.name, &group.name));
            let (Some(set), Some(pods)) = (set, memory.groups.get(&group.name).copied()) else {
                return false;
            };
            names::ordinal(&cluster.name, &group.name, pod)
                .is_some_and(|ordinal| ordinal >= pods && ordinal >= set.replicas)
        });
        let is_empty = match sight.ring() {
            Some(ring) => !ring.members.iter().any(|member| member.pod == pod),
            None => cluster.is_single,
        };
        claim.retired.is_none() && !claim.is_terminating && is_beyond && is_empty && sight.pod(pod).is_none()
    })?;
    Some(Act::RetireClaim {
        claim: name.clone(),
        uid: claim.uid.clone(),
        member: None,
    })
}

/// A claim whose node was removed an hour ago. The note on it is the proof; a claim without one is never deleted here.
pub(super) fn surplus_claim(sight: &Sight<'_>) -> Option<Act> {
    // A node that is a whole cluster has no ring to say that nothing is on a volume: there a person deletes it.
    if sight.cluster.spec.persistence.when_scaled != VolumePolicy::Delete || sight.cluster.is_single {
        return None;
    }
    let (name, claim) = sight.observed.claims.iter().find(|(name, claim)| {
        let pod = name.strip_prefix("data-").unwrap_or(name);
        let is_old = claim.retired_at.is_some_and(|at| {
            Duration::try_from(sight.observed.now.duration_since(at)).is_ok_and(|age| age > CLAIM_GRACE)
        });
        claim.retired.is_some()
            && is_old
            && !claim.is_terminating
            && sight.slot(pod).is_none()
            && sight.pod(pod).is_none()
    })?;
    Some(Act::DeleteClaim {
        claim: name.clone(),
        uid: claim.uid.clone(),
    })
}
