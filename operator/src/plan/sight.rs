//! What was seen, put together: which pods there shall be, who is a member, what the ring says.
//!
//! Owns [`Sight`]. **Always holds:** the ring is taken from a leader that hears a majority and belongs to this cluster, or
//! there is none; a member is matched with a pod by incarnation where the node answers, so that an empty disk under an old
//! name is never taken for the old node.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::admin::{Member, NodeStatus, RaftId, RingView, Role};
use crate::names;
use crate::observed::{Memory, Observed, ObservedClaim, ObservedPod};
use crate::validate::Cluster;

/// Hash of the pod template by group.
pub type Hashes = BTreeMap<String, String>;

/// One pod that there shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub pod: String,
    pub group: String,
    pub zone: Option<String>,
    pub ordinal: u32,
}

/// What was seen, put together.
#[derive(Debug)]
pub struct Sight<'a> {
    pub cluster: &'a Cluster,
    pub observed: &'a Observed,
    hashes: &'a Hashes,
    slots: Vec<Slot>,
    ring: Option<&'a RingView>,
}

impl<'a> Sight<'a> {
    pub fn new(cluster: &'a Cluster, observed: &'a Observed, hashes: &'a Hashes) -> Self {
        let mut slots = Vec::new();
        for group in &cluster.groups {
            for ordinal in 0..observed.memory.groups.get(&group.name).copied().unwrap_or_default() {
                slots.push(Slot {
                    pod: names::pod(&cluster.name, &group.name, ordinal),
                    group: group.name.clone(),
                    zone: group.zone.clone(),
                    ordinal,
                });
            }
        }
        Self {
            ring: ring(cluster, observed),
            cluster,
            observed,
            hashes,
            slots,
        }
    }

    /// Pods there shall be, in the order of groups and ordinals.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn slot(&self, pod: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.pod == pod)
    }

    /// The ring, from a leader that hears a majority.
    pub fn ring(&self) -> Option<&'a RingView> {
        self.ring
    }

    /// The ring as the best informed node knows it, also without a quorum: for people only.
    pub fn best_view(&self) -> Option<&'a RingView> {
        let views = self.observed.nodes.values().filter_map(|node| node.view.as_ref());
        self.ring
            .or_else(|| views.max_by_key(|view| (view.term, view.commit_index)))
    }

    pub fn pod(&self, pod: &str) -> Option<&'a ObservedPod> {
        self.observed.pods.get(pod)
    }

    pub fn claim(&self, pod: &str) -> Option<&'a ObservedClaim> {
        self.observed.claims.get(&names::claim(pod))
    }

    /// What the node in a pod says, if it answers.
    pub fn node(&self, pod: &str) -> Option<&'a NodeStatus> {
        self.observed.nodes.get(pod)
    }

    /// Whether the cluster was one node so far, without a ring, and is to be several: what was remembered as its id is the
    /// resource's (`admin::standalone`).
    pub fn was_alone(&self) -> bool {
        !self.cluster.is_single && was_alone(self.cluster, self.observed)
    }

    /// A member by id.
    pub fn member(&self, id: RaftId) -> Option<&'a Member> {
        self.ring?.members.iter().find(|member| member.raft_id == id)
    }

    /// The member that lives in a pod now: the one with the incarnation that the node shows, or where the node does not
    /// answer the youngest that was there.
    pub fn member_in(&self, pod: &str) -> Option<&'a Member> {
        let members = self.ring?.members.iter().filter(|member| member.pod == pod);
        match self.node(pod) {
            Some(node) => members
                .into_iter()
                .find(|member| member.incarnation == node.incarnation),
            None => members.max_by_key(|member| member.raft_id),
        }
    }

    /// Members whose disk is gone although their pod shall be there: the node answers with another disk. Those that were given
    /// up already are among them.
    pub fn members_without_disk(&self) -> impl Iterator<Item = &'a Member> + '_ {
        let members = self.ring.into_iter().flat_map(|ring| &ring.members);
        members.filter(|member| {
            let node = self.node(&member.pod);
            node.is_some_and(|node| node.incarnation != member.incarnation)
        })
    }

    /// The pod that leads.
    pub fn leader(&self) -> Option<&'a str> {
        let leader = self.ring?.leader?;
        self.member(leader).map(|member| member.pod.as_str())
    }

    pub fn is_leader(&self, member: &Member) -> bool {
        self.ring.is_some_and(|ring| ring.leader == Some(member.raft_id))
    }

    /// Members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &'a Member> + '_ {
        let members = self.ring.into_iter().flat_map(|ring| &ring.members);
        members.filter(|member| member.role == Role::Voter)
    }

    /// Whether a member's disk is where it should be, as far as one can see.
    pub fn has_disk(&self, member: &Member) -> bool {
        self.node(&member.pod)
            .is_none_or(|node| node.incarnation == member.incarnation)
    }

    /// Whether a pod is of the template that is wanted now.
    pub fn is_current(&self, slot: &Slot) -> Option<bool> {
        let wanted = self.hashes.get(&slot.group)?;
        Some(self.pod(&slot.pod)?.hash.as_ref() == Some(wanted))
    }

    /// Whether the pod of a slot has been seen without a volume.
    pub fn is_volume_lost(&self, pod: &str) -> bool {
        self.pod(pod).is_some_and(|pod| pod.is_volume_lost) || self.claim(pod).is_some_and(|claim| claim.is_lost)
    }

    /// The memory with what was noticed: since when volumes are gone.
    pub(super) fn noticed(&self) -> Memory {
        let mut memory = self.observed.memory.clone();
        let now = self.observed.now;
        let mut lost: BTreeMap<String, Timestamp> = BTreeMap::new();
        for slot in &self.slots {
            let known = memory.lost_since.get(&slot.pod).copied();
            // What cannot be seen stays as it was: not to see a pod is no sign that its volume is back.
            let is_seen = self.pod(&slot.pod).is_some() || self.claim(&slot.pod).is_some();
            if self.is_volume_lost(&slot.pod) || (known.is_some() && !is_seen) {
                lost.insert(slot.pod.clone(), known.unwrap_or(now));
            }
        }
        memory.lost_since = lost;
        memory
    }

    /// Whether nothing is on its way: every pod is ready and current and every node a member.
    pub(crate) fn is_settled(&self) -> bool {
        self.slots.iter().all(|slot| {
            let is_ready = self
                .pod(&slot.pod)
                .is_some_and(|pod| pod.is_ready && !pod.is_terminating);
            let is_member = self.cluster.is_single || self.member_in(&slot.pod).is_some_and(Member::is_caught_up);
            is_ready && is_member && self.is_current(slot) == Some(true)
        })
    }
}

/// The view of a leader that hears a majority, of this cluster. Of two that claim it the one of the later term.
fn ring<'a>(cluster: &Cluster, observed: &'a Observed) -> Option<&'a RingView> {
    // Before an id is remembered there is nothing to compare with.
    let is_unknown = observed.memory.cluster_id.is_none() || was_alone(cluster, observed);
    let ours = observed
        .nodes
        .values()
        .filter(|node| is_unknown || node.cluster_id == observed.memory.cluster_id);
    ours.filter_map(|node| {
        let view = node.view.as_ref()?;
        (view.has_quorum && view.leader.is_some() && view.leader == node.raft_id).then_some(view)
    })
    .max_by_key(|view| (view.term, view.commit_index))
}

fn was_alone(cluster: &Cluster, observed: &Observed) -> bool {
    observed.memory.cluster_id.as_ref() == Some(&cluster.uid)
}
