//! The first look: taking stock of what is there, and knowing the cluster that its nodes have made.
//!
//! The nodes make the ring themselves. Settings name one of them as the founder ([`super::founder`]); whether it may found is
//! decided by the bucket, where `owner.json` is written only while there is none (`server::node::owner`). So nothing here can
//! make a second ring: what comes up empty where a cluster lives asks to join it. What is left to do is to remember whose
//! cluster it is, and to say what is missing.

use std::collections::{BTreeMap, BTreeSet};

use crds::cluster::status::OperationKind;

use super::{Due, Next, Sight, replace};
use crate::admin::NodeStatus;
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

/// It is due again where the id was never remembered (a status that was lost), and where the one node that was a whole cluster
/// has become one of several and says its ring's id.
pub(super) fn due(sight: &Sight<'_>) -> Due {
    let is_alone_no_more = sight.was_alone() && our_nodes(sight).next().is_some();
    if sight.observed.memory.cluster_id.is_some() && !is_alone_no_more {
        return Due::No;
    }
    Due::begin(OperationKind::Bootstrap, "the nodes make their ring")
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
        None => Next::Wait(
            "WaitingForNodes",
            match empty_handed(sight, memory) {
                Some(next) => return next,
                None => format!(
                    "{} makes the ring, and the others join it",
                    super::founder(sight.cluster)
                ),
            },
        ),
    }
}

/// Some node belongs to a cluster.
fn adopt(sight: &Sight<'_>, memory: &Memory, id: &String) -> Next {
    match &memory.cluster_id {
        Some(known) if known != id && !sight.was_alone() => Next::stall(
            "ClusterIDMismatch",
            format!("the volumes belong to cluster {id}, the status to {known}; delete the claims, or the resource"),
        ),
        known if known.as_ref() != Some(id) || !memory.bootstrapped => {
            if !sight.cluster.is_single && sight.ring().is_none() {
                return Next::Wait(
                    "WaitingForLeader",
                    "the ring has no leader that hears a majority".to_owned(),
                );
            }
            let mut memory = memory.clone();
            memory.cluster_id = Some(id.clone());
            memory.bootstrapped = true;
            Next::Remember("Adopt", Box::new(memory))
        }
        // Whoever has not joined by now joins later; waiting for it here would hold up its replacement.
        _ => Next::Done(Box::new(memory.clone())),
    }
}

/// Volumes may be lost before there is a ring. While there has been none, nothing was acknowledged, and they are made anew.
fn empty_handed(sight: &Sight<'_>, memory: &Memory) -> Option<Next> {
    let mut slots = sight.slots().iter().map(|slot| slot.pod.as_str());
    let pod = slots.find(|pod| replace::is_long_gone(sight, pod))?;
    (!memory.bootstrapped && !sight.cluster.is_single).then(|| replace::give_up(sight, pod))
}

/// A pod beyond its group in which a member of the ring lives: somebody scaled the StatefulSet by hand, and its node has
/// joined. It is taken into the group, and goes like every other node that is too many.
pub(super) fn uninvited(sight: &Sight<'_>) -> Option<(String, u32)> {
    let memory = &sight.observed.memory;
    let members = sight.ring()?.members.iter();
    members
        .filter(|member| !memory.retired.contains(&member.raft_id))
        .find_map(|member| {
            sight.cluster.groups.iter().find_map(|group| {
                let ordinal = names::ordinal(&sight.cluster.name, &group.name, &member.pod)?;
                let pods = memory.groups.get(&group.name).copied().unwrap_or_default();
                (ordinal >= pods).then(|| (group.name.clone(), ordinal + 1))
            })
        })
}

/// A claim whose node has left and whose pod is back before it could go: what was on it is elsewhere, and the node on it is no
/// member any more and never will be.
pub(super) fn left_behind<'a>(sight: &'a Sight<'_>) -> Option<&'a str> {
    let ring = sight.ring()?;
    let retired = &sight.observed.memory.retired;
    let slots = sight.slots().iter();
    let mut left = slots.filter(|slot| {
        let Some(node) = sight.node(&slot.pod) else {
            return false;
        };
        // Both have to say so: the ring, that it is no member, and we, that we have seen it go.
        let is_member = ring.members.iter().any(|member| member.incarnation == node.incarnation);
        !is_member && retired.iter().any(|id| node.is(*id))
    });
    left.next().map(|slot| slot.pod.as_str())
}
