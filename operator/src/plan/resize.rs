//! Growing volumes: every claim is asked to grow, then the StatefulSets are made anew around their pods, because a claim
//! template cannot be changed.

use crds::cluster::status::OperationKind;

use super::{Act, Due, Next, Sight, Stall};
use crate::names;
use crate::observed::{Memory, ObservedClaim, ObservedSet};

/// Claims of pods there shall be that ask for less than is wanted.
fn small<'a>(sight: &'a Sight<'_>) -> impl Iterator<Item = (String, &'a ObservedClaim)> {
    let wanted = sight.cluster.volume_bytes;
    let slots = sight.slots().iter();
    slots
        .filter_map(|slot| Some((names::claim(&slot.pod), sight.claim(&slot.pod)?)))
        .filter(move |(_, claim)| claim.requested_bytes < wanted && !claim.is_terminating)
}

/// Sets whose template asks for something else than is wanted. A template that asks for more stays: volumes never shrink.
fn old_templates<'a>(sight: &'a Sight<'_>) -> impl Iterator<Item = (&'a String, &'a ObservedSet)> {
    let wanted = sight.cluster.volume_bytes;
    sight
        .observed
        .sets
        .iter()
        .filter(move |(_, set)| set.template_bytes.is_some_and(|bytes| bytes < wanted))
}

pub(super) fn due(sight: &Sight<'_>) -> Due {
    if small(sight).next().is_none() && old_templates(sight).next().is_none() {
        return Due::No;
    }
    if small(sight).next().is_some() && sight.observed.expandable == Some(false) {
        return Due::Blocked(Stall {
            reason: "VolumeResizeFailed",
            message: "the storage class does not let volumes grow: set allowVolumeExpansion on it, or take \
                      spec.persistence.size back"
                .to_owned(),
        });
    }
    Due::begin(
        OperationKind::Resize,
        format!("volumes grow to {}", sight.cluster.volume.0),
    )
}

pub(super) fn step(sight: &Sight<'_>, memory: &Memory) -> Next {
    let bytes = sight.cluster.volume_bytes;
    if let Some((claim, seen)) = small(sight).next() {
        let uid = seen.uid.clone();
        return Next::Do("GrowClaim", Act::GrowClaim { claim, uid, bytes });
    }
    let grows = sight.slots().iter().find(|slot| {
        sight.claim(&slot.pod).is_some_and(|claim| {
            let has_grown = claim.capacity_bytes.is_some_and(|capacity| capacity >= bytes);
            // One that goes or is gone does not grow any more; what comes instead is made in the new size.
            let is_there = !claim.is_terminating && !sight.is_volume_lost(&slot.pod);
            is_there && !has_grown && !claim.is_resize_pending && claim.capacity_bytes.is_some()
        })
    });
    if let Some(slot) = grows {
        return Next::Wait("Growing", format!("the volume of {} grows", slot.pod));
    }
    if let Some((set, seen)) = old_templates(sight).next() {
        if seen.is_terminating {
            return Next::Wait("OrphanSet", format!("{set} is made anew"));
        }
        let (set, uid) = (set.clone(), seen.uid.clone());
        return Next::Do("OrphanSet", Act::OrphanSet { set, uid });
    }
    let missing = sight
        .cluster
        .groups
        .iter()
        .map(|group| names::set(&sight.cluster.name, &group.name));
    let missing: Vec<String> = missing.filter(|set| !sight.observed.sets.contains_key(set)).collect();
    if !missing.is_empty() {
        return Next::Wait("OrphanSet", format!("{missing:?} are made anew"));
    }
    Next::Done(Box::new(memory.clone()))
}
