//! What to do next: a pure function of what is wanted and what was seen.
//!
//! Owns [`decide`], which gives a [`Decision`]: what to remember and at most one thing to do. One screen of order, the rest
//! is in the rooms below, one per operation.
//!
//! | the nodes | the operator |
//! |---|---|
//! | one founds the ring, where the bucket belongs to nobody (`owner.json`); an empty disk asks the others to let it in | names the founder and whom to ask, once, in the settings |
//! | the ring's leader lets nodes follow, gives and takes votes, hands leadership on | waits |
//! | shards move to nodes that came, and away from nodes that hand over or are lost, one generation after the other | says which node hands over, to come back or for good; says which is lost |
//! | a node that is about to be restarted gives its leaderships away; only one at a time may be | says which, evicts its pod, and says that it is back |
//! | a member that has handed over, or is lost and not needed, leaves the ring | takes it out, then lets its pod and its volume go |
//!
//! **Always holds:**
//! - One lock. A disruption is done only under an operation that stands in the status already; a new one begins only when
//!   there is none.
//! - One thing. A decision has at most one [`Act`], and every act names what it expects to find (a uid, a raft id), so that
//!   one that comes late does nothing.
//! - Nothing is concluded from what was not seen. Groups shrink only after the ring, with a quorum, has taken the node out.
//! - A node goes only when all it had is elsewhere and the others that vote are caught up.
//! - What to do within an operation is read off the world and not off the step's name: whoever takes over goes on wherever
//!   things are. The name is for people.
//!
//! Not here: doing it (`apply`), objects that disturb nobody ([`crate::objects`]), certificates of nodes.

mod bootstrap;
mod gate;
mod membership;
mod replace;
mod resize;
mod rotate;
mod scale;
mod sight;
mod upgrade;
pub mod version;
pub mod window;

use std::time::Duration;

use crds::cluster::status::OperationKind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::admin::{Command, RaftId};
use crate::certificates::CertificateStep;
use crate::names;
use crate::observed::{Memory, Observed};
use crate::validate::Cluster;

pub use gate::closed as gate_closed;
pub use scale::applied_pods;
pub use sight::{Hashes, Sight, Slot};

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Tell the node in a pod something.
    Tell {
        pod: String,
        command: Command,
    },
    /// Let a pod end, if the disruption budget allows it.
    Evict {
        pod: String,
        uid: String,
    },
    /// Let a pod end that holds nothing up.
    DeletePod {
        pod: String,
        uid: String,
    },
    DeleteClaim {
        claim: String,
        uid: String,
    },
    /// Note on a claim whose node it was, now that the node is gone.
    RetireClaim {
        claim: String,
        uid: String,
        member: Option<RaftId>,
    },
    GrowClaim {
        claim: String,
        uid: String,
        bytes: u64,
    },
    /// Let a StatefulSet have fewer pods. It is an act and not part of applying objects, which only ever let sets grow:
    /// whoever has seen an older memory must not take pods away.
    ShrinkSet {
        set: String,
        uid: String,
        pods: u32,
    },
    /// Delete a StatefulSet and leave its pods; it is made anew at once.
    OrphanSet {
        set: String,
        uid: String,
    },
    /// Take a step in changing certificates.
    Certificates(CertificateStep),
}

/// What became of one look.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What to remember; written before anything is done.
    pub memory: Memory,
    /// What to do, once that is written.
    pub act: Option<Act>,
    /// What is going on, for people.
    pub message: String,
    /// What needs a person: a reason for the condition, and what to do.
    pub stalled: Option<Stall>,
    /// When to look again even if nothing is seen to change.
    pub look_again: Duration,
}

/// Something that goes on only when a person has done something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// CamelCase, for the condition and the event.
    pub reason: &'static str,
    /// What is wrong, and at the end what to do.
    pub message: String,
}

/// What an operation wants next.
#[derive(Debug, Clone, PartialEq)]
enum Next {
    /// Do this; the name says which step it is.
    Do(&'static str, Act),
    /// Nothing can be done now.
    Wait(&'static str, String),
    /// Nothing can be done until a person has done something.
    Stall(Stall),
    /// Remember this and look again.
    Remember(&'static str, Box<Memory>),
    /// The operation is finished; what it leaves is remembered.
    Done(Box<Memory>),
}

impl Next {
    fn stall(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Stall(Stall {
            reason,
            message: message.into(),
        })
    }
}

/// Something happens, look soon.
const SOON: Duration = Duration::from_secs(5);
/// Nothing happens; watches tell of changes, this is for what they cannot see.
const RARELY: Duration = Duration::from_secs(300);

/// The pod whose node founds the cluster where the bucket belongs to nobody: the first of the first group.
pub(crate) fn founder(cluster: &Cluster) -> String {
    let group = cluster.groups.first().map_or(names::POOL, |group| &group.name);
    names::pod(&cluster.name, group, 0)
}

/// What to do next.
pub fn decide(cluster: &Cluster, observed: &Observed, hashes: &Hashes) -> Decision {
    let sight = Sight::new(cluster, observed, hashes);
    let now = observed.now;
    let mut memory = sight.noticed();
    if cluster.is_paused() {
        return Decision {
            memory: observed.memory.clone(),
            act: None,
            message: "paused: nothing is changed until spec.paused or the annotation is taken back".to_owned(),
            stalled: None,
            look_again: RARELY,
        };
    }
    if memory.groups.is_empty() {
        memory.groups = bootstrap::groups(&sight);
        memory.shards = memory.shards.or(Some(cluster.shards));
        memory.begin(OperationKind::Bootstrap, None, now);
        return remembered(memory, "taking stock of what is there".to_owned());
    }
    // Zones that were added start empty.
    for group in &cluster.groups {
        memory.groups.entry(group.name.clone()).or_insert(0);
    }
    if let Some(act) = upgrade::refresh(&sight) {
        return acting(memory, "Refresh", act, observed);
    }
    let next = match memory.operation.kind {
        OperationKind::None => return idle(&sight, memory),
        OperationKind::Bootstrap => bootstrap::step(&sight, &memory),
        OperationKind::ScaleUp => scale::up(&sight, &memory),
        OperationKind::ScaleDown => scale::down(&sight, &memory),
        OperationKind::Upgrade => upgrade::step(&sight, &memory),
        OperationKind::Replace => replace::step(&sight, &memory),
        OperationKind::Resize => resize::step(&sight, &memory),
        OperationKind::RotateCA => rotate::step(&sight, &memory),
    };
    match next {
        Next::Do(step, act) => acting(memory, step, act, observed),
        Next::Wait(step, message) => Decision {
            memory: at_step(memory, step, observed),
            act: None,
            message,
            stalled: None,
            look_again: SOON,
        },
        Next::Stall(stalled) => Decision {
            memory,
            act: None,
            message: stalled.message.clone(),
            stalled: Some(stalled),
            look_again: SOON * 6,
        },
        Next::Remember(step, remembered_memory) => {
            let message = format!("{:?}: {step}", remembered_memory.operation.kind);
            remembered(at_step(*remembered_memory, step, observed), message)
        }
        Next::Done(mut finished) => {
            let message = format!("{:?} is finished", finished.operation.kind);
            finished.end();
            remembered(*finished, message)
        }
    }
}

/// Nothing is going on: what is most urgent begins, or nothing is to be done.
fn idle(sight: &Sight<'_>, mut memory: Memory) -> Decision {
    let now = sight.observed.now;
    if let Some(restart) = upgrade::restart_asked(sight) {
        memory.restarted_at = Some(restart);
        return remembered(memory, "restarting every node, as asked".to_owned());
    }
    if let Some(act) = membership::stray_drain(sight) {
        return acting(memory, "Undrain", act, sight.observed);
    }
    if let Some((group, pods)) = bootstrap::uninvited(sight) {
        memory.groups.insert(group, pods);
        return remembered(memory, "a node joined in a pod that nobody asked for".to_owned());
    }
    // In the order of urgency. Each says what to begin, why it cannot begin, or nothing.
    let asked = [
        bootstrap::due(sight),
        replace::due(sight),
        rotate::due(sight),
        scale::up_due(sight),
        upgrade::due(sight),
        resize::due(sight),
        scale::down_due(sight),
    ];
    let mut stalled = None;
    for due in asked {
        match due {
            Due::Begin { kind, target, message } => {
                memory.begin(kind, target.pod, now);
                memory.operation.target_id = target.member.map(|id| id.to_string());
                memory.operation.target_uid = target.uid;
                return remembered(memory, message);
            }
            Due::Blocked(stall) => stalled = stalled.or(Some(stall)),
            Due::No => {}
        }
    }
    if let Some((pod, format)) = upgrade::finalize_due(sight) {
        let command = Command::Finalize { format };
        memory.finalized_version = Some(sight.cluster.version.clone());
        return acting(memory, "Finalize", Act::Tell { pod, command }, sight.observed);
    }
    if let Some(act) = scale::surplus_pods(sight, &memory) {
        return acting(memory, "ShrinkSet", act, sight.observed);
    }
    if let Some(act) = scale::stray_claim(sight) {
        return acting(memory, "RetireClaim", act, sight.observed);
    }
    if let Some(act) = scale::surplus_claim(sight) {
        return acting(memory, "DeleteClaim", act, sight.observed);
    }
    Decision {
        memory,
        act: None,
        message: stalled
            .as_ref()
            .map_or_else(|| "nothing to do".to_owned(), |stall: &Stall| stall.message.clone()),
        stalled,
        look_again: if sight.is_settled() { RARELY } else { SOON },
    }
}

/// Whether an operation is due.
#[derive(Debug, Clone, PartialEq)]
enum Due {
    No,
    /// It would be, but something has to be done first that only a person can do.
    Blocked(Stall),
    Begin {
        kind: OperationKind,
        target: Target,
        message: String,
    },
}

/// What an operation is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Target {
    pod: Option<String>,
    member: Option<RaftId>,
    uid: Option<String>,
}

impl Due {
    fn begin(kind: OperationKind, message: impl Into<String>) -> Self {
        Self::about(kind, Target::default(), message)
    }

    fn about(kind: OperationKind, target: Target, message: impl Into<String>) -> Self {
        Self::Begin {
            kind,
            target,
            message: message.into(),
        }
    }
}

fn remembered(memory: Memory, message: String) -> Decision {
    Decision {
        memory,
        act: None,
        message,
        stalled: None,
        look_again: Duration::ZERO,
    }
}

/// An act is counted before it happens: the count makes the memory differ, so that writing it fails for whoever has seen an
/// older one, and only one of two operators acts.
fn acting(memory: Memory, step: &'static str, act: Act, observed: &Observed) -> Decision {
    let mut memory = at_step(memory, step, observed);
    memory.operation.attempts += 1;
    Decision {
        message: format!("{:?}: {step}", memory.operation.kind),
        memory,
        act: Some(act),
        stalled: None,
        look_again: SOON,
    }
}

/// Notes the step, and since when, if it is another one.
fn at_step(mut memory: Memory, step: &'static str, observed: &Observed) -> Memory {
    if memory.operation.kind != OperationKind::None && memory.operation.step.as_deref() != Some(step) {
        memory.operation.step = Some(step.to_owned());
        memory.operation.step_started_at = Some(Time(observed.now));
    }
    memory
}

/// Name of the pod an annotation asks for.
fn asked<'a>(cluster: &'a Cluster, annotation: &str) -> Option<&'a str> {
    cluster
        .annotations
        .get(annotation)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

/// Whether a person has said that a node may be given up with what is on it.
fn is_forced(cluster: &Cluster, pod: &str) -> bool {
    asked(cluster, names::FORCE_REMOVE) == Some(pod)
}
