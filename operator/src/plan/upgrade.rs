//! Bringing pods to the template that is wanted: a new version, new static settings, a restart that was asked for.
//!
//! One node at a time, each behind the gate; what is broken and out of date goes first and needs no gate, or a bad release
//! could never be replaced by a good one; then those that only follow, then voters, the leader last. The lock is given back
//! between two nodes, so that what is more urgent comes first. A node that does not come up stops everything.

use std::time::Duration;

use crds::cluster::status::OperationKind;
use crds::cluster::upgrade::{Finalize, UpgradeStrategy};
use jiff::Timestamp;

use super::sight::Slot;
use super::{Act, Due, Next, Sight, Stall, Target, asked, gate, version, window};
use crate::admin::{Command, Drain, DrainMode, Member, Role};
use crate::names;
use crate::observed::Memory;

/// How long a node may take to give its leaderships away before it is restarted anyway; its log has everything.
const HAND_OVER_MAX: Duration = Duration::from_secs(60);

/// The restart that people ask for, where it is another one than pods are to carry.
pub(super) fn restart_asked(sight: &Sight<'_>) -> Option<String> {
    let ours = asked(sight.cluster, names::RESTART);
    let kubectl = asked(sight.cluster, names::KUBECTL_RESTART);
    // Both are times as a rule, and the later one wins; any other text works as long as it is another.
    let wanted = ours.into_iter().chain(kubectl).max()?;
    (sight.observed.memory.restarted_at.as_deref() != Some(wanted)).then(|| wanted.to_owned())
}

/// A pod that is out of date and down anyway: it is made anew whatever else goes on, or a bad image could never be replaced
/// by a good one.
pub(super) fn refresh(sight: &Sight<'_>) -> Option<Act> {
    sight.slots().iter().find_map(|slot| {
        let pod = sight.pod(&slot.pod)?;
        let is_down = !pod.is_ready && !pod.is_terminating && sight.node(&slot.pod).is_none();
        (is_down && sight.is_current(slot) == Some(false)).then(|| Act::DeletePod {
            pod: slot.pod.clone(),
            uid: pod.uid.clone(),
        })
    })
}

fn is_broken(sight: &Sight<'_>, slot: &Slot) -> bool {
    sight
        .pod(&slot.pod)
        .is_some_and(|pod| !pod.is_ready && !pod.is_terminating)
}

/// Whether a pod is one of those that are to be replaced now.
fn is_outdated(sight: &Sight<'_>, slot: &Slot) -> bool {
    if sight.is_current(slot) != Some(false) {
        return false;
    }
    match sight.cluster.spec.upgrade.strategy {
        UpgradeStrategy::Automatic => true,
        // Only those that have not seen the restart that was asked for.
        UpgradeStrategy::Manual => {
            let wanted = sight.observed.memory.restarted_at.as_ref();
            wanted.is_some()
                && sight
                    .pod(&slot.pod)
                    .is_some_and(|pod| pod.restarted_at.as_ref() != wanted)
        }
    }
}

/// Where a pod stands in the order: broken ones, followers, voters, the leader; of equals the last of the first group.
fn order(sight: &Sight<'_>, slot: &Slot) -> (u8, usize, u32) {
    let class = match sight.member_in(&slot.pod) {
        _ if is_broken(sight, slot) => 0,
        Some(member) if sight.is_leader(member) => 3,
        Some(member) if member.role == Role::Voter => 2,
        _ => 1,
    };
    let group = sight.cluster.groups.iter().position(|group| group.name == slot.group);
    (class, group.unwrap_or(usize::MAX), u32::MAX - slot.ordinal)
}

pub(super) fn due(sight: &Sight<'_>) -> Due {
    let mut outdated: Vec<&Slot> = sight.slots().iter().filter(|slot| is_outdated(sight, slot)).collect();
    outdated.sort_by_key(|slot| order(sight, slot));
    let Some(next) = outdated.first() else {
        return Due::No;
    };
    if let Some(stall) = blocked(sight) {
        return Due::Blocked(stall);
    }
    let kept_back = usize::try_from(sight.cluster.spec.upgrade.partition).unwrap_or_default();
    let is_broken = is_broken(sight, next);
    if !is_broken {
        if outdated.len() <= kept_back {
            return Due::No;
        }
        if let Some(spec) = &sight.cluster.spec.upgrade.maintenance_window {
            match window::is_open(spec, sight.observed.now) {
                Ok(true) => {}
                Ok(false) => return Due::No,
                Err(message) => {
                    return Due::Blocked(Stall {
                        reason: "MaintenanceWindowInvalid",
                        message,
                    });
                }
            }
        }
        if let Some(reason) = gate::closed(sight, Some(&next.pod)) {
            return Due::Blocked(Stall {
                reason: "UpgradeWaits",
                message: format!(
                    "{} would be restarted, but {reason}; it goes on by itself when that is over",
                    next.pod
                ),
            });
        }
    }
    let target = Target {
        pod: Some(next.pod.clone()),
        member: None,
        uid: sight.pod(&next.pod).map(|pod| pod.uid.clone()),
    };
    Due::about(
        OperationKind::Upgrade,
        target,
        format!("{} is brought up to date", next.pod),
    )
}

/// Why the version that is wanted cannot be had from the one that runs.
fn blocked(sight: &Sight<'_>) -> Option<Stall> {
    let wanted = &sight.cluster.version;
    let running = sight
        .observed
        .nodes
        .values()
        .map(|node| node.version.as_str())
        .min_by_key(|text| version::order(text))?;
    let finalized = sight.observed.memory.finalized_version.as_deref();
    version::refused(running, wanted, finalized).map(|message| Stall {
        reason: "UpgradeBlocked",
        message,
    })
}

pub(super) fn step(sight: &Sight<'_>, memory: &Memory) -> Next {
    let Some(slot) = memory.operation.target.as_deref().and_then(|pod| sight.slot(pod)) else {
        return Next::Done(Box::new(memory.clone()));
    };
    let deadline = sight
        .cluster
        .spec
        .upgrade
        .progress_deadline
        .duration()
        .unwrap_or(Duration::from_secs(1_800));
    let late = |what: String| {
        if sight.observed.operation_age() <= deadline {
            return Next::Wait("Restart", what);
        }
        Next::stall(
            "ProgressDeadlineExceeded",
            format!(
                "{what}, for longer than spec.upgrade.progressDeadline; nothing else is restarted. Look at the pod's events and \
                 log, then correct the version, the image or the settings: a broken pod is replaced at once"
            ),
        )
    };
    let Some(pod) = sight.pod(&slot.pod) else {
        return late(format!("{} is being made anew", slot.pod));
    };
    if pod.is_terminating {
        return late(format!("{} ends", slot.pod));
    }
    match sight.is_current(slot) {
        Some(false) => replace(sight, memory, slot, &pod.uid),
        _ => come_back(sight, memory, slot, pod.ready_since, pod.is_ready, late),
    }
}

/// The pod is out of date: it hands over and goes.
fn replace(sight: &Sight<'_>, memory: &Memory, slot: &Slot, uid: &str) -> Next {
    let node = sight.node(&slot.pod);
    let member = sight.member_in(&slot.pod);
    let tell = |pod: &str, step, command| {
        let pod = pod.to_owned();
        Next::Do(step, Act::Tell { pod, command })
    };
    if !is_broken(sight, slot) && !sight.cluster.is_single {
        // Things may have changed since this began; the last moment to leave the node alone.
        if gate::closed(sight, Some(&slot.pod)).is_some() || blocked(sight).is_some() {
            return match (node.map(|node| node.drain), member) {
                (Some(Drain::Restart | Drain::RestartReady), Some(member)) => {
                    tell(&slot.pod, "Undrain", Command::Undrain { member: member.raft_id })
                }
                _ => Next::Done(Box::new(memory.clone())),
            };
        }
        if let Some(member) = member {
            match node.map(|node| node.drain) {
                Some(Drain::None) => {
                    return tell(
                        &slot.pod,
                        "Drain",
                        Command::Drain {
                            member: member.raft_id,
                            mode: DrainMode::Restart,
                        },
                    );
                }
                Some(Drain::Restart) if sight.observed.step_age() < HAND_OVER_MAX => {
                    return Next::Wait("Drain", format!("{} gives its leaderships away", slot.pod));
                }
                _ => {}
            }
        }
    }
    Next::Do(
        "Evict",
        Act::Evict {
            pod: slot.pod.clone(),
            uid: uid.to_owned(),
        },
    )
}

/// The pod is of the template that is wanted: it has to be well, and stay so for a while.
fn come_back(
    sight: &Sight<'_>,
    memory: &Memory,
    slot: &Slot,
    ready_since: Option<Timestamp>,
    is_ready: bool,
    late: impl Fn(String) -> Next,
) -> Next {
    let answers = sight.node(&slot.pod).is_some();
    if !sight.cluster.is_single && answers && sight.ring().is_some() && sight.member_in(&slot.pod).is_none() {
        // It has not joined, or has another disk now, and so cannot become ready: that is for other operations to mend.
        return Next::Done(Box::new(memory.clone()));
    }
    if !sight.cluster.is_single && super::replace::is_long_gone(sight, &slot.pod) {
        // It waits for a volume that does not come, which is for its replacement to mend.
        return Next::Done(Box::new(memory.clone()));
    }
    if !is_ready {
        return late(format!("{} is not ready", slot.pod));
    }
    if !sight.cluster.is_single {
        if !answers {
            return late(format!("{} does not answer", slot.pod));
        }
        match sight.member_in(&slot.pod) {
            Some(member) if member.is_caught_up() && member.shards_behind == 0 => {}
            Some(Member { lag, shards_behind, .. }) => {
                return late(format!(
                    "{} is {lag} entries and {shards_behind} shards behind",
                    slot.pod
                ));
            }
            None => return late("the ring has no leader that hears a majority".to_owned()),
        }
    }
    let soak = Duration::from_secs(u64::try_from(sight.cluster.spec.upgrade.min_ready_seconds).unwrap_or_default());
    let well = ready_since.and_then(|since| Duration::try_from(sight.observed.now.duration_since(since)).ok());
    if well.is_none_or(|well| well < soak) {
        return Next::Wait("Soak", format!("{} is watched for {} s", slot.pod, soak.as_secs()));
    }
    Next::Done(Box::new(memory.clone()))
}

/// The leader and the level of formats to switch on: every node knows it, runs the version that is wanted, and nobody asked
/// to wait.
pub(super) fn finalize_due(sight: &Sight<'_>) -> Option<(String, u32)> {
    let cluster = sight.cluster;
    let ring = sight.ring().filter(|_| !cluster.is_single)?;
    let is_wanted = match cluster.spec.upgrade.finalize {
        Finalize::Automatic => true,
        Finalize::Manual => asked(cluster, names::FINALIZE) == Some(cluster.version.as_str()),
    };
    let mut nodes = ring.members.iter().map(|member| sight.node(&member.pod));
    let least = nodes.try_fold(u32::MAX, |least, node| {
        let node = node.filter(|node| version::is_same(&node.version, &cluster.version))?;
        Some(least.min(node.formats))
    })?;
    (is_wanted && least > ring.format && least != u32::MAX && sight.is_settled())
        .then(|| Some((sight.leader()?.to_owned(), least)))
        .flatten()
}
