//! Making the ring, once.
//!
//! The real guard is the marker in the bucket, not the number of pods: pending means that nobody has lived there, live that
//! somebody does. The id stands in the status before the marker is written, and the marker before the ring is made, so that
//! whoever takes over finds its own id.

use std::collections::{BTreeMap, BTreeSet};

use crds::cluster::status::OperationKind;

use super::membership::{self, Joining};
use super::{Act, Due, Next, Sight, asked, is_forced, replace};
use crate::admin::{Command, Marker, NodeStatus, StorageView};
use crate::names;
use crate::observed::Memory;

/// How many pods each group shall have in the beginning. What is there already is taken over, even where the resource asks
/// for less: nodes go only by handing over.
pub(super) fn groups(sight: &Sight<'_>) -> BTreeMap<String, u32> {
    let cluster = sight.cluster;
    let found: BTreeMap<String, u32> = cluster
        .groups
        .iter()
        .map(|group| {
            let set = sight.observed.sets.get(&names::set(&cluster.name, &group.name));
            let claims = sight
                .observed
                .claims
                .iter()
                .filter(|(_, claim)| claim.retired.is_none());
            let claimed = claims.filter_map(|(name, _)| {
                let pod = name.strip_prefix("data-")?;
                names::ordinal(&cluster.name, &group.name, pod).map(|ordinal| ordinal + 1)
            });
            let most = claimed.max().unwrap_or(0).max(set.map_or(0, |set| set.replicas));
            (group.name.clone(), most)
        })
        .collect();
    if found.values().any(|pods| *pods > 0) {
        return found;
    }
    let spread = cluster.spread(cluster.replicas);
    cluster
        .groups
        .iter()
        .map(|group| group.name.clone())
        .zip(spread)
        .collect()
}

/// Bootstrap is due again where the id was never remembered (a status that was lost), and where enough nodes answer and all
/// of them are empty: then it says what has happened.
pub(super) fn due(sight: &Sight<'_>) -> Due {
    let answering = our_nodes(sight).count();
    let needed = usize::try_from(sight.cluster.voters)
        .unwrap_or(usize::MAX)
        .min(sight.slots().len())
        .max(1);
    let is_empty = answering >= needed && our_nodes(sight).all(|(_, node)| node.is_blank());
    if sight.observed.memory.cluster_id.is_some() && !is_empty {
        return Due::No;
    }
    Due::begin(OperationKind::Bootstrap, "making the ring")
}

fn our_nodes<'a>(sight: &'a Sight<'_>) -> impl Iterator<Item = (&'a str, &'a NodeStatus)> {
    let slots = sight.slots().iter();
    slots.filter_map(|slot| Some((slot.pod.as_str(), sight.node(&slot.pod)?)))
}

pub(super) fn step(sight: &Sight<'_>, memory: &Memory) -> Next {
    let ids: BTreeSet<&String> = our_nodes(sight)
        .filter_map(|(_, node)| node.cluster_id.as_ref())
        .collect();
    match ids.first() {
        Some(id) if ids.len() == 1 => adopt(sight, memory, id),
        Some(_) => Next::stall(
            "ClusterIDMismatch",
            format!(
                "volumes of different clusters are mixed: {ids:?}; delete the claims of all pods but one cluster's"
            ),
        ),
        None => make(sight, memory),
    }
}

/// Some node belongs to a cluster already.
fn adopt(sight: &Sight<'_>, memory: &Memory, id: &String) -> Next {
    match &memory.cluster_id {
        None => {
            let mut memory = memory.clone();
            memory.cluster_id = Some(id.clone());
            return Next::Remember("Adopt", Box::new(memory));
        }
        Some(known) if known != id => {
            return Next::stall(
                "ClusterIDMismatch",
                format!(
                    "the volumes belong to cluster {id}, the status to {known}; delete the claims, or the resource"
                ),
            );
        }
        Some(_) => {}
    }
    if sight.cluster.is_single {
        let mut memory = memory.clone();
        memory.bootstrapped = true;
        return Next::Done(Box::new(memory));
    }
    let Some(leader) = sight.leader() else {
        return Next::Wait(
            "WaitingForLeader",
            "the ring has no leader that hears a majority".to_owned(),
        );
    };
    if !memory.bootstrapped {
        let mut memory = memory.clone();
        memory.bootstrapped = true;
        return Next::Remember("Adopt", Box::new(memory));
    }
    // The marker itself is turned whatever goes on, see `mark`. An unknown one is no reason not to take nodes in.
    match sight.node(leader).map(|node| &node.marker) {
        Some(Marker::Live { cluster, .. } | Marker::Pending { cluster }) if cluster != id => return owned_by(cluster),
        _ => {}
    }
    match membership::join(sight) {
        Joining::Do(step, act) => Next::Do(step, act),
        Joining::Wait(message) => Next::Wait("CatchingUp", message),
        // Whoever has not answered by now is taken in by scaling up; waiting for it here would hold up its replacement.
        Joining::Nothing => Next::Done(Box::new(memory.clone())),
    }
}

/// The bucket's marker follows the ring: live once the ring is made, and written again where somebody deleted it. Under any
/// operation, because nodes take no spans without it.
pub(super) fn mark(sight: &Sight<'_>) -> Option<Act> {
    let memory = &sight.observed.memory;
    let id = memory
        .cluster_id
        .as_ref()
        .filter(|_| memory.bootstrapped && !sight.cluster.is_single)?;
    let leader = sight.leader()?;
    let command = match &sight.node(leader)?.marker {
        Marker::Absent => Command::PutMarker { cluster: id.clone() },
        Marker::Pending { cluster } if cluster == id => Command::MarkLive { cluster: id.clone() },
        _ => return None,
    };
    let pod = leader.to_owned();
    Some(Act::Tell { pod, command })
}

/// Every node that answers is empty.
fn make(sight: &Sight<'_>, memory: &Memory) -> Next {
    let wanted = usize::try_from(sight.cluster.voters)
        .unwrap_or(usize::MAX)
        .min(sight.slots().len())
        .max(1);
    let blank = our_nodes(sight).filter(|(_, node)| node.is_blank()).count();
    let first = sight
        .slots()
        .first()
        .and_then(|slot| Some((slot.pod.as_str(), sight.node(&slot.pod)?)));
    let (Some((pod, node)), true) = (first, blank >= wanted) else {
        if let Some(next) = empty_handed(sight, memory) {
            return next;
        }
        return Next::Wait(
            "WaitingForNodes",
            format!("{blank} of the {wanted} nodes that are needed answer, and the first one of them has to"),
        );
    };
    match &node.marker {
        Marker::Unknown => match &node.storage {
            StorageView::Unusable { problem, message } => Next::Stall(super::Stall {
                reason: crate::status::storage_reason(*problem),
                message: format!("the bucket cannot be used: {message}"),
            }),
            _ => Next::Wait(
                "WaitingForBucket",
                "the node has not read the bucket's marker yet".to_owned(),
            ),
        },
        // Blocks may have been deleted by hand; a ring that was made is not made again because of that.
        Marker::Absent if memory.bootstrapped => Next::Wait(
            "WaitingForNodes",
            "every node that answers is empty, although a ring was made".to_owned(),
        ),
        Marker::Absent => match &memory.cluster_id {
            None => {
                let mut memory = memory.clone();
                memory.cluster_id = Some(sight.observed.fresh_id.clone());
                Next::Remember("Mint", Box::new(memory))
            }
            Some(id) => tell(pod, "PutMarker", Command::PutMarker { cluster: id.clone() }),
        },
        Marker::Pending { cluster } if memory.cluster_id.as_ref() == Some(cluster) && memory.bootstrapped => {
            again(sight, memory, pod, cluster, None)
        }
        Marker::Pending { cluster } if memory.cluster_id.as_ref() == Some(cluster) => {
            initialize(sight, pod, cluster, None)
        }
        Marker::Live { cluster, epoch } => again(sight, memory, pod, cluster, Some(*epoch)),
        Marker::Pending { cluster } => owned_by(cluster),
    }
}

/// Volumes may be lost before there is a ring. While there has been none, nothing was acknowledged, and they are made anew;
/// later a person has to say that they are lost for good.
fn empty_handed(sight: &Sight<'_>, memory: &Memory) -> Option<Next> {
    let mut slots = sight.slots().iter().map(|slot| slot.pod.as_str());
    let pod = slots.find(|pod| replace::is_long_gone(sight, pod))?;
    if !memory.bootstrapped || is_forced(sight.cluster, pod) {
        return Some(replace::give_up(sight, pod));
    }
    Some(Next::Stall(replace::lost_for_good(sight, pod)))
}

/// All disks that answer are empty, and the bucket or the status says that a ring was made.
fn again(sight: &Sight<'_>, memory: &Memory, pod: &str, cluster: &String, epoch: Option<u64>) -> Next {
    if memory.cluster_id.as_ref().is_some_and(|known| known != cluster) {
        return owned_by(cluster);
    }
    if asked(sight.cluster, names::ALLOW_REBOOTSTRAP) != Some(cluster.as_str()) {
        return Next::stall(
            "AllNodesBlank",
            format!(
                "every volume is empty, but cluster {cluster} lives under this prefix; spans that were not in the bucket yet are \
                 lost. To go on with what the bucket holds: kubectl annotate trc {} {}={cluster}",
                sight.cluster.name,
                names::ALLOW_REBOOTSTRAP
            ),
        );
    }
    if memory.cluster_id.is_none() {
        let mut memory = memory.clone();
        memory.cluster_id = Some(cluster.clone());
        return Next::Remember("Adopt", Box::new(memory));
    }
    initialize(sight, pod, cluster, epoch)
}

fn initialize(sight: &Sight<'_>, pod: &str, cluster: &str, rebuild: Option<u64>) -> Next {
    let command = Command::Initialize {
        cluster: cluster.to_owned(),
        shards: sight.observed.memory.shards.unwrap_or(sight.cluster.shards),
        rebuild,
    };
    tell(pod, "Initialize", command)
}

fn owned_by(cluster: &str) -> Next {
    Next::stall(
        "PrefixOwnedByOther",
        format!(
            "another cluster ({cluster}) lives under this bucket and prefix, and two would delete each other's blocks; delete \
             this resource and make it anew with another spec.storage.prefix"
        ),
    )
}

fn tell(pod: &str, step: &'static str, command: Command) -> Next {
    let pod = pod.to_owned();
    Next::Do(step, Act::Tell { pod, command })
}
