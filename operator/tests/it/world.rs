//! A small world for the plan: an API server's objects, StatefulSets that make pods, disks, nodes with a ring, a bucket's
//! owner. It does what Kubernetes and nodes would do, in steps, and watches what the operator does to it: the first pod's node
//! makes the ring where the bucket belongs to nobody, empty nodes join it, the ring gives votes and moves shards; a node that
//! has not joined does not answer, and one that would lose data by a command refuses it.
//!
//! Acts are judged, not refused: what would be a disaster is noted as a [`Violation`], so that a planted bug shows. An act
//! is judged twice, by how things were when the operator began to look and by how they are; it is wrong only if it was wrong
//! both times, because nobody can see what happens a moment later.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use vivace_operator::admin::{
    Command, Drain, DrainMode, LAG_MAX, Member, MemberState, NodeStatus, RaftId, RingView, Role, Shards, StorageView,
};
use vivace_operator::certificates::CertificateState;
use vivace_operator::names;
use vivace_operator::observed::{Memory, Observed, ObservedClaim, ObservedPod, ObservedSet};
use vivace_operator::plan::Act;

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// A node that was well was disturbed while another was.
    TwoAtOnce,
    /// A StatefulSet shrank over a member of the ring.
    ShrankOverMember,
    /// A vote went before enough others were caught up.
    VoteTooEarly,
    /// The last whole copy of a shard went.
    DataLost,
    /// A shard or the ring lost its majority to a node that was well.
    MajorityLost,
    /// A volume was given up that might have come back in time.
    GivenUpTooEarly,
    /// The world did not come to rest.
    NoRest,
    /// It came to rest and was written to all the same.
    Restless,
}

#[derive(Debug, Clone)]
struct Set {
    uid: u64,
    replicas: u32,
    template: String,
    template_bytes: u64,
}

#[derive(Debug, Clone)]
struct Pod {
    uid: u64,
    hash: String,
    is_terminating: bool,
    /// Looks until it is up.
    starts_in: u32,
    ready_since: Option<Timestamp>,
    /// Somebody cut it off for so many steps.
    away: u32,
}

#[derive(Debug, Clone)]
struct Claim {
    uid: u64,
    disk: u64,
    made_at: Timestamp,
    is_lost: bool,
    /// It cannot be had for so many steps, as where the machine is away that it is bound to.
    away: u32,
    /// Since when it cannot be had.
    gone_since: Option<Timestamp>,
    is_terminating: bool,
    bytes: u64,
    retired: Option<String>,
    retired_at: Option<Timestamp>,
}

impl Claim {
    fn is_gone(&self) -> bool {
        self.is_lost || self.away > 0
    }
}

#[derive(Debug, Clone, Default)]
struct Disk {
    cluster: Option<String>,
    raft_id: Option<RaftId>,
    drain: Drain,
}

#[derive(Debug, Clone)]
struct Seat {
    id: RaftId,
    disk: u64,
    pod: String,
    zone: Option<String>,
    role: Role,
    state: MemberState,
    lag: u64,
    wal: u64,
}

impl Seat {
    /// Whether what it has goes elsewhere.
    fn goes(&self) -> bool {
        matches!(self.state, MemberState::Leaving | MemberState::Lost)
    }
}

/// A shard's copies: where, and whether whole.
#[derive(Debug, Clone)]
struct Copies(BTreeMap<RaftId, bool>);

#[derive(Debug, Clone, Default)]
struct Ring {
    cluster: String,
    term: u64,
    index: u64,
    leader: Option<RaftId>,
    seats: Vec<Seat>,
    shards: Vec<Copies>,
    format: u32,
}

/// How a disk is called: by the id of the node that was made with it.
fn incarnation(disk: u64) -> String {
    format!("{disk:016x}")
}

/// Everything that is the case.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) now: Timestamp,
    /// Counts writes of the resource; its status is [`World::memory`].
    pub(crate) version: u64,
    pub(crate) memory: Memory,
    sets: BTreeMap<String, Set>,
    pods: BTreeMap<String, Pod>,
    claims: BTreeMap<String, Claim>,
    disks: BTreeMap<u64, Disk>,
    /// The cluster that the bucket belongs to, and how often one was made.
    owner: Option<String>,
    made: u32,
    pub(crate) is_bucket_away: bool,
    ring: Ring,
    next: u64,
    /// Templates whose pods never come up.
    pub(crate) bad: BTreeSet<String>,
    replication: usize,
    shard_count: u32,
    /// How long a volume is waited for.
    patience: SignedDuration,
    /// The pod that the operator disturbed and that is not well again.
    disturbed: Option<String>,
    pub(crate) violations: BTreeSet<Violation>,
    pub(crate) log: Vec<String>,
}

impl World {
    pub(crate) fn new(replication: u32) -> Self {
        Self {
            now: "2026-11-22T00:00:00Z".parse().unwrap(),
            version: 1,
            memory: Memory::default(),
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            disks: BTreeMap::new(),
            owner: None,
            made: 0,
            is_bucket_away: false,
            ring: Ring::default(),
            next: 1,
            bad: BTreeSet::new(),
            replication: replication as usize,
            shard_count: 4,
            patience: SignedDuration::from_secs(60),
            disturbed: None,
            violations: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    /// The world as it is, without its story.
    pub(crate) fn clone_quietly(&mut self) -> Self {
        let log = std::mem::take(&mut self.log);
        let quiet = self.clone();
        self.log = log;
        quiet
    }

    /// Who sits in the ring and which pods there are, for people.
    pub(crate) fn told(&self) -> String {
        let seats = self
            .ring
            .seats
            .iter()
            .map(|seat| format!("\n  {seat:?} alive {}", self.is_alive(seat)));
        let pods = self.pods.iter().map(|(name, pod)| {
            format!(
                "\n  {name} {pod:?} ready {} disk {:?}",
                self.is_ready(name),
                self.disk_of(name).map(|id| (id, &self.disks[&id]))
            )
        });
        let claims = self.claims.iter().map(|(name, claim)| format!("\n  {name} {claim:?}"));
        let all: String = seats.chain(pods).chain(claims).collect();
        format!(
            "{all}\n  leader {:?} quorum {} retired {:?} {:?}",
            self.ring.leader,
            self.has_quorum(),
            self.memory.retired,
            self.sets
        )
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn note(&mut self, line: String) {
        self.log.push(line);
    }

    // ---- what is true

    fn disk_of(&self, pod: &str) -> Option<u64> {
        let claim = self.claims.get(&names::claim(pod)).filter(|claim| !claim.is_gone())?;
        Some(claim.disk)
    }

    fn is_up(&self, pod: &str) -> bool {
        self.pods
            .get(pod)
            .is_some_and(|it| it.starts_in == 0 && !it.is_terminating && it.away == 0 && !self.bad.contains(&it.hash))
            && self.disk_of(pod).is_some()
    }

    fn is_alive(&self, seat: &Seat) -> bool {
        self.is_up(&seat.pod) && self.disk_of(&seat.pod) == Some(seat.disk)
    }

    fn has_quorum(&self) -> bool {
        let voters: Vec<&Seat> = self.ring.seats.iter().filter(|seat| seat.role == Role::Voter).collect();
        let alive = voters.iter().filter(|seat| self.is_alive(seat)).count();
        !voters.is_empty() && alive * 2 > voters.len()
    }

    fn seat(&self, id: RaftId) -> Option<&Seat> {
        self.ring.seats.iter().find(|seat| seat.id == id)
    }

    fn is_caught_up(&self, seat: &Seat) -> bool {
        self.is_alive(seat) && seat.lag < LAG_MAX && seat.state == MemberState::Active
    }

    fn is_ready(&self, pod: &str) -> bool {
        let is_active = self
            .ring
            .seats
            .iter()
            .any(|seat| seat.pod == pod && self.is_alive(seat) && seat.lag < LAG_MAX);
        self.is_up(pod) && is_active
    }

    /// Whole copies of a shard on disks that exist.
    fn whole(&self, copies: &Copies, without: Option<u64>) -> usize {
        let on_disk = |id: &RaftId| {
            let seat = self.seat(*id);
            seat.is_some_and(|seat| self.disks.contains_key(&seat.disk) && Some(seat.disk) != without)
        };
        copies
            .0
            .iter()
            .filter(|(id, is_whole)| **is_whole && on_disk(id))
            .count()
    }

    fn shards(&self) -> Shards {
        let mut shards = Shards {
            total: u32::try_from(self.ring.shards.len()).unwrap(),
            ..Shards::default()
        };
        for copies in &self.ring.shards {
            let alive = |id: &RaftId| self.seat(*id).is_some_and(|seat| self.is_alive(seat));
            let live = copies.0.iter().filter(|(id, is_whole)| **is_whole && alive(id)).count();
            let want = self.replication;
            match live {
                _ if live * 2 <= want => shards.unavailable += 1,
                _ if live < want || copies.0.values().any(|is_whole| !is_whole) => shards.under_replicated += 1,
                _ => shards.healthy += 1,
            }
            let leaving = |id: &RaftId| self.seat(*id).is_some_and(Seat::goes);
            shards.moving += u32::from(copies.0.keys().any(leaving));
        }
        shards
    }

    // ---- what the operator sees

    pub(crate) fn observe(&self, fresh_id: &str) -> Observed {
        let pods = self.pods.iter().map(|(name, pod)| {
            let is_volume_lost = self.claims.get(&names::claim(name)).is_some_and(Claim::is_gone);
            let seen = ObservedPod {
                uid: pod.uid.to_string(),
                hash: Some(pod.hash.clone()),
                restarted_at: None,
                is_ready: self.is_ready(name),
                ready_since: pod.ready_since,
                is_terminating: pod.is_terminating,
                is_volume_lost,
                is_retire_wanted: false,
                ip: None,
                last_words: None,
            };
            (name.clone(), seen)
        });
        let claims = self.claims.iter().map(|(name, claim)| {
            let seen = ObservedClaim {
                made_at: Some(claim.made_at),
                uid: claim.uid.to_string(),
                requested_bytes: claim.bytes,
                capacity_bytes: Some(claim.bytes),
                is_lost: claim.is_lost,
                is_resize_pending: false,
                is_terminating: claim.is_terminating,
                retired: claim.retired.clone(),
                retired_at: claim.retired_at,
            };
            (name.clone(), seen)
        });
        let sets = self.sets.iter().map(|(name, set)| {
            let seen = ObservedSet {
                uid: set.uid.to_string(),
                replicas: set.replicas,
                template_bytes: Some(set.template_bytes),
                is_terminating: false,
            };
            (name.clone(), seen)
        });
        let nodes = self
            .pods
            .keys()
            // One that has not joined says nothing.
            .filter(|pod| self.is_up(pod) && self.disk_of(pod).is_some_and(|id| self.disks[&id].raft_id.is_some()))
            .map(|pod| (pod.clone(), self.status(pod)));
        Observed {
            now: self.now,
            fresh_id: fresh_id.to_owned(),
            memory: self.memory.clone(),
            sets: sets.collect(),
            pods: pods.collect(),
            claims: claims.collect(),
            nodes: nodes.collect(),
            expandable: Some(true),
            certificates: CertificateState::default(),
        }
    }

    fn status(&self, pod: &str) -> NodeStatus {
        let id = self.disk_of(pod).unwrap();
        let disk = &self.disks[&id];
        NodeStatus {
            version: "0.4.1".to_owned(),
            incarnation: incarnation(id),
            cluster_id: disk.cluster.clone(),
            raft_id: disk.raft_id.filter(|id| self.seat(*id).is_some()),
            ready: self.is_ready(pod),
            drain: disk.drain,
            formats: 1,
            storage: StorageView::Usable { used_bytes: None },
            view: disk.raft_id.map(|raft_id| self.view(raft_id)),
            signals: None,
            limits: None,
            trust: None,
            certificate: None,
        }
    }

    fn view(&self, of: RaftId) -> RingView {
        let members = self.ring.seats.iter().map(|seat| Member {
            raft_id: seat.id,
            incarnation: incarnation(seat.disk),
            pod: seat.pod.clone(),
            zone: seat.zone.clone(),
            role: seat.role,
            state: seat.state,
            reachable: self.is_alive(seat),
            lag: seat.lag,
            shards: u32::try_from(
                self.ring
                    .shards
                    .iter()
                    .filter(|copies| copies.0.contains_key(&seat.id))
                    .count(),
            )
            .unwrap(),
            shards_behind: u32::try_from(
                self.ring
                    .shards
                    .iter()
                    .filter(|copies| copies.0.get(&seat.id) == Some(&false))
                    .count(),
            )
            .unwrap(),
            wal_bytes: seat.wal,
            uploads: 0,
        });
        RingView {
            term: self.ring.term,
            commit_index: self.ring.index,
            last_index: self.ring.index,
            leader: self.ring.leader,
            has_quorum: self.has_quorum() && self.ring.leader == Some(of),
            format: self.ring.format,
            members: members.collect(),
            shards: self.shards(),
            tenants: BTreeMap::new(),
        }
    }

    // ---- what the operator does

    /// Applies StatefulSets as they are wanted; they never shrink by it.
    pub(crate) fn apply_set(&mut self, name: &str, replicas: u32, template: &str, template_bytes: u64) {
        let uid = self.number();
        let set = self.sets.entry(name.to_owned()).or_insert_with(|| Set {
            uid,
            replicas: 0,
            template: template.to_owned(),
            template_bytes,
        });
        let before = set.replicas;
        set.template = template.to_owned();
        set.replicas = replicas;
        if replicas < before {
            let now = self.clone_quietly();
            self.judge_shrink(name, replicas, before, &now);
        }
    }

    fn judge_shrink(&mut self, set: &str, replicas: u32, before: u32, began: &World) {
        for ordinal in replicas..before {
            let pod = format!("{set}-{ordinal}");
            let sits = |world: &World| world.ring.seats.iter().any(|seat| seat.pod == pod);
            if sits(self) && sits(began) {
                self.note(format!("VIOLATION: {set} shrinks over {pod}"));
                self.violations.insert(Violation::ShrankOverMember);
            }
        }
    }

    /// Does what was decided. `began` is the world when the operator began to look.
    pub(crate) fn act(&mut self, act: &Act, began: &World) {
        self.note(format!("act {act:?}"));
        for violation in self.wrong(act) {
            // What was right when the operator began to look is nobody's fault, unless somebody has written to the resource
            // since, which it could have known.
            let is_late = began.version + 1 < self.version;
            if is_late || began.wrong(act).contains(&violation) {
                self.note(format!("VIOLATION: {violation:?}"));
                self.violations.insert(violation);
            }
        }
        match act {
            Act::Evict { pod, uid } | Act::DeletePod { pod, uid } => {
                let was_well = self.is_ready(pod);
                if let Some(found) = self.pods.get_mut(pod).filter(|found| found.uid.to_string() == *uid) {
                    found.is_terminating = true;
                    if was_well {
                        self.disturbed = Some(pod.clone());
                    }
                }
            }
            Act::DeleteClaim { claim, uid } => {
                if let Some(found) = self.claims.get_mut(claim).filter(|found| found.uid.to_string() == *uid) {
                    found.is_terminating = true;
                }
            }
            Act::RetireClaim { claim, uid, member } => {
                let now = self.now;
                if let Some(found) = self.claims.get_mut(claim).filter(|found| found.uid.to_string() == *uid) {
                    found.retired = Some(member.map_or_else(String::new, |id| id.to_string()));
                    found.retired_at = Some(now);
                }
            }
            Act::GrowClaim { claim, uid, bytes } => {
                if let Some(found) = self.claims.get_mut(claim).filter(|found| found.uid.to_string() == *uid) {
                    found.bytes = *bytes;
                }
            }
            Act::ShrinkSet { set, uid, pods } => {
                if let Some(found) = self.sets.get_mut(set).filter(|found| found.uid.to_string() == *uid) {
                    let before = found.replicas;
                    found.replicas = *pods;
                    // A node that joined after the operator had looked has nothing yet that it could take along.
                    self.judge_shrink(set, *pods, before, began);
                }
            }
            Act::OrphanSet { set, uid } => {
                if self.sets.get(set).is_some_and(|found| found.uid.to_string() == *uid) {
                    self.sets.remove(set);
                }
            }
            Act::Tell { pod, command } => self.tell(pod, command),
            Act::Certificates(_) => {}
        }
    }

    /// Whether a shard or the ring would have no majority without the node in a pod, and has one with it.
    fn takes_a_majority(&self, pod: &str) -> bool {
        let is_here = |seat: &Seat| self.is_alive(seat) && seat.pod != pod;
        let owned = self.ring.shards.iter().any(|copies| {
            let live = |is_counted: &dyn Fn(&Seat) -> bool| {
                let whole = copies.0.iter().filter(|(_, is_whole)| **is_whole);
                whole.filter(|(id, _)| self.seat(**id).is_some_and(is_counted)).count()
            };
            let (with, without) = (live(&|seat| self.is_alive(seat)), live(&is_here));
            with * 2 > self.replication && without * 2 <= self.replication
        });
        let voters: Vec<&Seat> = self.ring.seats.iter().filter(|seat| seat.role == Role::Voter).collect();
        let without = voters.iter().filter(|seat| is_here(seat)).count();
        owned || (voters.len() > 1 && self.has_quorum() && without * 2 <= voters.len())
    }

    fn seats_on(&self, disk: u64) -> usize {
        self.ring.seats.iter().filter(|seat| seat.disk == disk).count()
    }

    /// The disk that the claim of a pod is bound to, whether it can be had or not.
    fn pod_disk(&self, pod: &str) -> Option<u64> {
        let claim = self.claims.get(&names::claim(pod))?;
        (!claim.is_lost).then_some(claim.disk)
    }

    /// What is wrong with doing this now.
    fn wrong(&self, act: &Act) -> BTreeSet<Violation> {
        let mut wrong = BTreeSet::new();
        match act {
            Act::Evict { pod, uid } | Act::DeletePod { pod, uid } => {
                let is_this = self.pods.get(pod).is_some_and(|found| found.uid.to_string() == *uid);
                let is_other = self.disturbed.as_ref().is_some_and(|disturbed| disturbed != pod);
                let leaves = self.ring.seats.iter().any(|seat| seat.goes() && seat.pod != *pod);
                if is_this && self.is_ready(pod) && (is_other || leaves) {
                    wrong.insert(Violation::TwoAtOnce);
                }
                if is_this && self.is_ready(pod) && self.takes_a_majority(pod) {
                    wrong.insert(Violation::MajorityLost);
                }
            }
            Act::DeleteClaim { claim, uid } => {
                let found = self.claims.get(claim).filter(|found| found.uid.to_string() == *uid);
                if let Some(found) = found
                    && self.disks.contains_key(&found.disk)
                    && found
                        .gone_since
                        .is_some_and(|since| self.now.duration_since(since) < self.patience)
                    && self.seats_on(found.disk) > 0
                {
                    wrong.insert(Violation::GivenUpTooEarly);
                }
                if let Some(found) = found
                    && self
                        .ring
                        .shards
                        .iter()
                        .any(|copies| self.whole(copies, None) > 0 && self.whole(copies, Some(found.disk)) == 0)
                {
                    wrong.insert(Violation::DataLost);
                }
            }
            Act::Tell { command, .. } => match command {
                Command::Drain {
                    member,
                    mode: DrainMode::Remove,
                } => {
                    let pod = self.seat(*member).map(|seat| seat.pod.as_str());
                    if self.disturbed.is_some() && self.disturbed.as_deref() != pod {
                        wrong.insert(Violation::TwoAtOnce);
                    }
                }
                Command::Remove { member, lost } => {
                    let Some(seat) = self.seat(*member) else {
                        return wrong;
                    };
                    let others = self
                        .ring
                        .seats
                        .iter()
                        .filter(|other| other.id != *member && other.role == Role::Voter);
                    let (others, caught_up) = others.fold((0, 0), |(others, caught_up), other| {
                        (others + 1, caught_up + usize::from(self.is_caught_up(other)))
                    });
                    // Those that are left have to be able to do without it.
                    if caught_up * 2 <= others || (seat.role == Role::Voter && !lost) {
                        wrong.insert(Violation::VoteTooEarly);
                    }
                    if *lost && self.pod_disk(&seat.pod) == Some(seat.disk) {
                        wrong.insert(Violation::GivenUpTooEarly);
                    }
                    let is_last = |copies: &Copies| {
                        copies.0.get(member) == Some(&true)
                            && self.disks.contains_key(&seat.disk)
                            && self.whole(copies, Some(seat.disk)) == 0
                    };
                    if self.ring.shards.iter().any(is_last) || (seat.wal > 0 && self.is_alive(seat)) {
                        wrong.insert(Violation::DataLost);
                    }
                }
                _ => {}
            },
            _ => {}
        }
        wrong
    }

    fn tell(&mut self, pod: &str, command: &Command) {
        if !self.is_up(pod) {
            return;
        }
        let disk_id = self.disk_of(pod).unwrap();
        let own = self.disks[&disk_id].raft_id;
        let leads = self.has_quorum() && own.is_some() && self.ring.leader == own;
        match command {
            Command::Remove { member, lost } if leads => {
                let member = *member;
                let has_copies = self.ring.shards.iter().any(|copies| copies.0.contains_key(&member));
                let Some(seat) = self.seat(member) else { return };
                let is_drained = seat.state == MemberState::Leaving && !has_copies && seat.role == Role::Learner;
                if *lost && !self.is_alive(seat) {
                    self.change(member, |seat| seat.state = MemberState::Lost);
                } else if !lost && is_drained {
                    self.ring.index += 1;
                    self.ring.seats.retain(|seat| seat.id != member);
                }
            }
            Command::Drain { member, mode } => match mode {
                DrainMode::Remove if leads => {
                    let is_active = |seat: &&Seat| seat.state == MemberState::Active;
                    let stay = self.ring.seats.iter().filter(is_active).any(|seat| seat.id != *member);
                    if stay && self.seat(*member).is_some_and(|seat| seat.state != MemberState::Lost) {
                        self.change(*member, |seat| seat.state = MemberState::Leaving);
                    }
                }
                DrainMode::Restart if own == Some(*member) && self.has_quorum() => {
                    // One at a time, and whoever is back has to say so.
                    let mut others = self.ring.seats.iter().filter(|seat| seat.id != *member);
                    let is_taken = others.any(|seat| {
                        let disk = self.disks.get(&seat.disk);
                        disk.is_some_and(|disk| disk.drain != Drain::None)
                    });
                    if !is_taken {
                        self.disks.get_mut(&disk_id).unwrap().drain = Drain::RestartReady;
                    }
                }
                _ => {}
            },
            Command::Undrain { member } => {
                if own == Some(*member) {
                    self.disks.get_mut(&disk_id).unwrap().drain = Drain::None;
                }
                if leads {
                    self.change(*member, |seat| {
                        if seat.state == MemberState::Leaving {
                            seat.state = MemberState::Active;
                        }
                    });
                }
            }
            Command::Finalize { format } if leads => self.ring.format = *format,
            _ => {}
        }
    }

    /// A disk becomes another disk: the claim keeps it, the incarnation is new.
    fn empty_disk(&mut self, disk: u64, pod: &str) {
        self.disks.remove(&disk);
        let fresh = self.number();
        self.disks.insert(fresh, Disk::default());
        if let Some(claim) = self.claims.get_mut(&names::claim(pod)) {
            claim.disk = fresh;
            claim.away = 0;
            claim.retired = None;
            claim.retired_at = None;
        }
    }

    /// Empty nodes that are up: the first pod's makes the ring where the bucket belongs to nobody, the others join it.
    fn tick_empty_nodes(&mut self) {
        let pods: Vec<String> = self.pods.keys().filter(|pod| self.is_up(pod)).cloned().collect();
        let founder = self.sets.keys().next().map(|set| format!("{set}-0"));
        for pod in pods {
            let disk = self.disk_of(&pod).unwrap();
            if self.disks[&disk].raft_id.is_some() {
                continue;
            }
            let id = RaftId(disk);
            let seat = |role, state, lag| Seat {
                id,
                disk,
                pod: pod.clone(),
                zone: None,
                role,
                state,
                lag,
                wal: 0,
            };
            if self.owner.is_none() {
                if Some(&pod) != founder.as_ref() || self.is_bucket_away {
                    continue;
                }
                self.owner = Some(format!("cluster-{disk}"));
                self.made += 1;
                self.ring = Ring {
                    cluster: format!("cluster-{disk}"),
                    term: 1,
                    index: 1,
                    leader: Some(id),
                    seats: vec![seat(Role::Voter, MemberState::Active, 0)],
                    shards: (0..self.shard_count).map(|_| Copies([(id, true)].into())).collect(),
                    format: 1,
                };
            } else if self.has_quorum() {
                self.ring.index += 1;
                self.ring.seats.push(seat(Role::Learner, MemberState::Joining, 1_000));
            } else {
                continue;
            }
            let cluster = self.ring.cluster.clone();
            let disk = self.disks.get_mut(&disk).unwrap();
            disk.raft_id = Some(id);
            disk.cluster = Some(cluster);
        }
    }

    /// The ring's leader gives votes and lets go of members that are lost and not needed.
    fn tick_members(&mut self) {
        let mut fit: Vec<(bool, RaftId)> = self
            .ring
            .seats
            .iter()
            .filter(|seat| seat.state == MemberState::Active)
            .filter(|seat| seat.role == Role::Voter || self.is_caught_up(seat))
            .map(|seat| (seat.role == Role::Learner, seat.id))
            .collect();
        fit.sort();
        let count = votes(fit.len());
        for seat in &mut self.ring.seats {
            let votes = fit.iter().take(count).any(|(_, id)| *id == seat.id);
            if count > 0 {
                seat.role = if votes { Role::Voter } else { Role::Learner };
            }
        }
        let shards = &self.ring.shards;
        self.ring.seats.retain(|seat| {
            let is_named = shards.iter().any(|copies| copies.0.contains_key(&seat.id));
            seat.state != MemberState::Lost || is_named || seat.role == Role::Voter
        });
    }

    fn change(&mut self, id: RaftId, change: impl FnOnce(&mut Seat)) {
        self.ring.index += 1;
        if let Some(seat) = self.ring.seats.iter_mut().find(|seat| seat.id == id) {
            change(seat);
        }
    }

    // ---- what happens by itself

    /// Kubernetes and the nodes go on a little.
    pub(crate) fn tick(&mut self) {
        self.now += SignedDuration::from_secs(7);
        let known = &self.memory.lost_since;
        for (name, claim) in &mut self.claims {
            claim.away = claim.away.saturating_sub(1);
            // That it was back between two looks nobody knows.
            if !claim.is_gone() && !known.contains_key(name.trim_start_matches("data-")) {
                claim.gone_since = None;
            }
        }
        self.tick_sets();
        self.tick_pods();
        self.tick_empty_nodes();
        self.tick_ring();
        if let Some(pod) = self.disturbed.clone() {
            let is_gone = !self
                .sets
                .iter()
                .any(|(set, it)| (0..it.replicas).any(|ordinal| format!("{set}-{ordinal}") == pod));
            let is_whole = self.ring.seats.iter().any(|seat| {
                seat.pod == pod
                    && self.is_caught_up(seat)
                    && self
                        .ring
                        .shards
                        .iter()
                        .all(|copies| copies.0.get(&seat.id) != Some(&false))
            });
            if is_gone || (self.is_ready(&pod) && is_whole) {
                self.disturbed = None;
            }
        }
    }

    fn tick_sets(&mut self) {
        let wanted: Vec<(String, String, u64)> = self
            .sets
            .iter()
            .flat_map(|(name, set)| {
                (0..set.replicas)
                    .map(move |ordinal| (format!("{name}-{ordinal}"), set.template.clone(), set.template_bytes))
            })
            .collect();
        for (pod, template, bytes) in &wanted {
            if self.pods.contains_key(pod) {
                continue;
            }
            let claim = names::claim(pod);
            match self.claims.get(&claim) {
                Some(found) if found.is_terminating => continue,
                Some(_) => {}
                None => {
                    let (uid, disk) = (self.number(), self.number());
                    self.disks.insert(disk, Disk::default());
                    let made = Claim {
                        uid,
                        disk,
                        made_at: self.now,
                        is_lost: false,
                        away: 0,
                        // Whoever knows of the loss of its predecessor has yet to see that it is there.
                        gone_since: self.memory.lost_since.contains_key(pod).then_some(self.now),
                        is_terminating: false,
                        bytes: *bytes,
                        retired: None,
                        retired_at: None,
                    };
                    self.claims.insert(claim, made);
                }
            }
            let uid = self.number();
            let made = Pod {
                uid,
                hash: template.clone(),
                is_terminating: false,
                starts_in: 2,
                ready_since: None,
                away: 0,
            };
            self.pods.insert(pod.clone(), made);
        }
        // Sets that were orphaned leave their pods alone.
        let names: BTreeSet<String> = self.sets.keys().cloned().collect();
        for (pod, found) in &mut self.pods {
            let set = pod.rsplit_once('-').map(|(set, _)| set.to_owned()).unwrap_or_default();
            if names.contains(&set) && !wanted.iter().any(|(wanted, ..)| wanted == pod) {
                found.is_terminating = true;
            }
        }
    }

    fn tick_pods(&mut self) {
        let ended: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.is_terminating)
            .map(|(name, _)| name.clone())
            .collect();
        for pod in ended {
            self.pods.remove(&pod);
        }
        let gone: Vec<String> = self
            .claims
            .iter()
            .filter(|(name, claim)| claim.is_terminating && !self.pods.contains_key(name.trim_start_matches("data-")))
            .map(|(name, _)| name.clone())
            .collect();
        for claim in gone {
            if let Some(found) = self.claims.remove(&claim) {
                self.disks.remove(&found.disk);
            }
        }
        let names: Vec<String> = self.pods.keys().cloned().collect();
        for name in names {
            let has_disk = self.disk_of(&name).is_some();
            let pod = self.pods.get_mut(&name).unwrap();
            pod.away = pod.away.saturating_sub(1);
            if has_disk {
                pod.starts_in = pod.starts_in.saturating_sub(1);
            }
            let is_ready = self.is_ready(&name);
            let now = self.now;
            let pod = self.pods.get_mut(&name).unwrap();
            pod.ready_since = is_ready.then(|| pod.ready_since.unwrap_or(now));
        }
    }

    fn tick_ring(&mut self) {
        if !self.has_quorum() {
            return;
        }
        let is_led = self
            .ring
            .leader
            .and_then(|id| self.seat(id))
            .is_some_and(|seat| self.is_alive(seat) && seat.role == Role::Voter);
        if !is_led {
            let voters = self
                .ring
                .seats
                .iter()
                .filter(|seat| seat.role == Role::Voter && self.is_alive(seat));
            self.ring.leader = voters.min_by_key(|seat| (seat.lag, seat.id)).map(|seat| seat.id);
            self.ring.term += 1;
        }
        let alive: BTreeSet<RaftId> = self
            .ring
            .seats
            .iter()
            .filter(|seat| self.is_alive(seat))
            .map(|seat| seat.id)
            .collect();
        for seat in &mut self.ring.seats {
            if alive.contains(&seat.id) {
                seat.lag = seat.lag.saturating_sub(400);
                if seat.state == MemberState::Joining && seat.lag < LAG_MAX {
                    seat.state = MemberState::Active;
                }
                match seat.state {
                    MemberState::Active => seat.wal = 64 << 20,
                    MemberState::Leaving => seat.wal = seat.wal.saturating_sub(40 << 20),
                    _ => {}
                }
            } else {
                seat.lag = (seat.lag + 20).min(1_000);
            }
        }
        self.tick_shards(&alive);
        self.tick_members();
    }

    /// One shard a step gets a missing copy, finishes one, or lets a leaving owner go. Before that every shard with a
    /// majority takes spans, which the others miss.
    fn tick_shards(&mut self, alive: &BTreeSet<RaftId>) {
        let wanted = self.replication;
        for copies in &mut self.ring.shards {
            let live = copies
                .0
                .iter()
                .filter(|(id, is_whole)| **is_whole && alive.contains(id))
                .count();
            if live * 2 > wanted.min(copies.0.len()) {
                for (id, is_whole) in &mut copies.0 {
                    *is_whole &= alive.contains(id);
                }
            }
        }
        let fit: Vec<RaftId> = self
            .ring
            .seats
            .iter()
            .filter(|seat| seat.state == MemberState::Active && alive.contains(&seat.id))
            .map(|seat| seat.id)
            .collect();
        let leaving: BTreeSet<RaftId> = self
            .ring
            .seats
            .iter()
            .filter(|seat| seat.goes())
            .map(|seat| seat.id)
            .collect();
        let load = |shards: &[Copies], id: RaftId| shards.iter().filter(|copies| copies.0.contains_key(&id)).count();
        for index in 0..self.ring.shards.len() {
            let copies = self.ring.shards[index].clone();
            let has_source = copies.0.iter().any(|(id, is_whole)| *is_whole && alive.contains(id));
            if let Some(behind) = copies
                .0
                .iter()
                .find(|(id, is_whole)| !**is_whole && alive.contains(id))
                .map(|(id, _)| *id)
            {
                if has_source {
                    self.ring.shards[index].0.insert(behind, true);
                    return;
                }
                continue;
            }
            let staying = copies.0.keys().filter(|id| !leaving.contains(id)).count();
            if staying < self.replication && has_source {
                let free = fit.iter().filter(|id| !copies.0.contains_key(id));
                if let Some(next) = free.min_by_key(|id| load(&self.ring.shards, **id)).copied() {
                    self.ring.shards[index].0.insert(next, false);
                    return;
                }
            }
            let whole = copies
                .0
                .iter()
                .filter(|(id, is_whole)| **is_whole && !leaving.contains(id))
                .count();
            if whole >= self.replication.min(fit.len())
                && let Some(leaver) = copies.0.keys().find(|id| leaving.contains(id)).copied()
            {
                self.ring.shards[index].0.remove(&leaver);
                return;
            }
        }
    }

    // ---- what befalls it

    pub(crate) fn pod_names(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }

    /// A pod is killed or its machine drained.
    pub(crate) fn kill(&mut self, pod: &str) {
        if let Some(found) = self.pods.get_mut(pod) {
            found.is_terminating = true;
            self.note(format!("fault: {pod} is killed"));
        }
    }

    /// A pod cannot be reached for a while.
    pub(crate) fn cut_off(&mut self, pod: &str, steps: u32) {
        if let Some(found) = self.pods.get_mut(pod) {
            found.away = steps;
            self.note(format!("fault: {pod} is cut off for {steps}"));
        }
    }

    /// A volume is gone for good, whatever else is the case.
    pub(crate) fn lose_volume(&mut self, pod: &str) {
        let now = self.now;
        let Some(claim) = self.claims.get_mut(&names::claim(pod)).filter(|claim| !claim.is_lost) else {
            return;
        };
        claim.is_lost = true;
        claim.gone_since.get_or_insert(now);
        let disk = claim.disk;
        self.disks.remove(&disk);
        if self.disturbed.as_deref() == Some(pod) {
            self.disturbed = None;
        }
        self.note(format!("fault: the volume of {pod} is gone"));
    }

    /// A volume cannot be had for a while, nor can its pod be placed.
    pub(crate) fn volume_away(&mut self, pod: &str, steps: u32) {
        let now = self.now;
        if let Some(claim) = self.claims.get_mut(&names::claim(pod)).filter(|claim| !claim.is_gone()) {
            claim.away = steps;
            claim.gone_since.get_or_insert(now);
            self.note(format!("fault: the volume of {pod} is away for {steps}"));
        }
    }

    /// Every volume is gone at once, and every claim is bound to a new empty one.
    pub(crate) fn lose_everything(&mut self) {
        let pods: Vec<String> = self.pods.keys().cloned().collect();
        for pod in pods {
            if let Some(disk) = self.disk_of(&pod) {
                self.empty_disk(disk, &pod);
            }
        }
        self.ring.leader = None;
        self.disturbed = None;
        self.note("fault: every disk is empty".to_owned());
    }

    /// Times that a ring was made under the prefix.
    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    /// Whether a volume may go for good and leave the ring and every shard a majority: what nobody can mend is not asked for.
    pub(crate) fn can_lose(&self, pod: &str) -> bool {
        let Some(disk) = self.pod_disk(pod) else {
            return true;
        };
        // A claim that is to go goes with its pod's next restart.
        let goes = |disk: u64| {
            self.claims
                .values()
                .any(|claim| claim.disk == disk && claim.is_terminating)
        };
        let stays = |disk: u64| self.disks.contains_key(&disk) && !goes(disk);
        let is_left = |seat: &&Seat| seat.disk != disk && stays(seat.disk);
        let voters: Vec<&Seat> = self.ring.seats.iter().filter(|seat| seat.role == Role::Voter).collect();
        let left = voters.iter().copied().filter(is_left).count();
        let is_kept = |copies: &Copies| {
            let on = |id: &RaftId| self.seat(*id).is_some_and(|seat| seat.disk != disk && stays(seat.disk));
            copies.0.iter().filter(|(id, is_whole)| **is_whole && on(id)).count() * 2 > copies.0.len()
        };
        self.seats_on(disk) == 0 || (left * 2 > voters.len() && self.ring.shards.iter().all(is_kept))
    }

    /// Somebody scales a StatefulSet by hand.
    pub(crate) fn scale_by_hand(&mut self, set: &str, replicas: u32) {
        if let Some(found) = self.sets.get_mut(set) {
            found.replicas = replicas;
            self.note(format!("fault: {set} is scaled to {replicas} by hand"));
        }
    }

    pub(crate) fn set_names(&self) -> Vec<String> {
        self.sets.keys().cloned().collect()
    }

    // ---- whether it is at rest

    /// Why it is not as it should be.
    pub(crate) fn unrest(&self, replicas: usize, template: &str) -> Option<String> {
        let seats = &self.ring.seats;
        let votes = seats.iter().filter(|seat| seat.role == Role::Voter).count();
        let (shards, voters) = (self.shards(), self::votes(replicas));
        if seats.len() != replicas || votes != voters {
            return Some(format!(
                "{} members and {votes} votes instead of {replicas} and {voters}",
                seats.len()
            ));
        }
        if self.pods.len() != replicas {
            return Some(format!("{} pods instead of {replicas}", self.pods.len()));
        }
        if let Some(seat) = seats.iter().find(|seat| !self.is_caught_up(seat)) {
            return Some(format!("{seat:?} is not well"));
        }
        // A claim that nobody uses and that says nothing would be taken for a node's by whoever starts from the volumes.
        let is_stray = |name: &str, claim: &Claim| {
            claim.retired.is_none() && !self.pods.contains_key(name.trim_start_matches("data-"))
        };
        if let Some((name, _)) = self.claims.iter().find(|(name, claim)| is_stray(name, claim)) {
            return Some(format!("{name} is left behind without a word"));
        }
        if let Some((name, _)) = self
            .pods
            .iter()
            .find(|(name, pod)| pod.hash != template || !self.is_ready(name))
        {
            return Some(format!("{name} is out of date or not ready"));
        }
        (shards.healthy != shards.total).then(|| format!("{shards:?}"))
    }
}

/// How many of so many members vote.
fn votes(members: usize) -> usize {
    [(9, 5), (3, 3), (1, 1)]
        .into_iter()
        .find(|(least, _)| members >= *least)
        .map_or(0, |(_, votes)| votes)
}
