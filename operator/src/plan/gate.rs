//! The one gate before anything that disturbs a node that is well.

use super::Sight;
use crate::admin::{Drain, MemberState, StorageProblem, StorageView};

/// Why no node may be disturbed now, or nothing if one may. `except` is the node in question: its own troubles do not count.
///
/// Closed while there is no quorum, a voter is behind, a shard lacks a copy or is on its way, the bucket cannot be used, or
/// any other node is not entirely well. Pods that are not members yet hold nothing and do not count.
pub fn closed(sight: &Sight<'_>, except: Option<&str>) -> Option<String> {
    // One node that is to become one of several is restarted once to do so; nobody else is there to be hurt.
    if sight.cluster.is_single || (sight.was_alone() && sight.ring().is_none()) {
        return None;
    }
    let Some(ring) = sight.ring() else {
        return Some("no leader hears a majority".to_owned());
    };
    let is_other = |pod: &str| except != Some(pod);
    if let Some(voter) = sight
        .voters()
        .find(|voter| is_other(&voter.pod) && !voter.is_caught_up())
    {
        return Some(format!("voter {} is not caught up", voter.pod));
    }
    let shards = &ring.shards;
    if shards.unavailable > 0 || shards.under_replicated > 0 || shards.moving > 0 {
        return Some(format!(
            "of {} shards {} lack a copy, {} a majority, and {} are on their way",
            shards.total, shards.under_replicated, shards.unavailable, shards.moving
        ));
    }
    for member in ring.members.iter().filter(|member| is_other(&member.pod)) {
        let pod = sight.pod(&member.pod);
        if !pod.is_some_and(|pod| pod.is_ready && !pod.is_terminating) {
            return Some(format!("pod {} is not ready", member.pod));
        }
        if member.state != MemberState::Active || !member.reachable || !sight.has_disk(member) {
            return Some(format!("node {} is not at work", member.pod));
        }
        match sight.node(&member.pod) {
            None => return Some(format!("node {} does not answer", member.pod)),
            Some(node) if node.drain != Drain::None => return Some(format!("node {} is handing over", member.pod)),
            Some(node) => {
                // Keys that are refused are mended by restarting nodes with others; that must not wait for itself.
                if let StorageView::Unusable { problem, message } = &node.storage
                    && *problem != StorageProblem::AccessDenied
                {
                    return Some(format!("node {} cannot use the bucket: {message}", member.pod));
                }
            }
        }
    }
    None
}
