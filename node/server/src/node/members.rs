//! Coming into the cluster, and what the ring's leader does for it: members, voters, the shard map.
//!
//! The duties are done by whoever leads the ring, one step per look, each step a command that the ring may refuse or a
//! change of its members. A leader that is deposed half-way leaves a state from which the next one goes on.
//!
//! What always holds: nothing is done from a view that was not confirmed by the step itself (`SetShardMap` names the epoch
//! it is from); a node is removed from the ring's members only after its record is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use consensus::ring::{Body, LeaseName, NodeRecord, NodeState, RingRefusal, RingView};
use consensus::{Group, Machine};
use model::NodeId;
use settings::NodeSettings;
use tokio_util::sync::CancellationToken;
use wal::{Level, Wal};

use super::plan;
use super::ring::RingPort;
use super::shards::Shards;
use crate::peer::PeerTransport;
use crate::peer::question::{Question, Reply};

const LOOK: Duration = Duration::from_millis(500);
const ANNOUNCE_EVERY: Duration = Duration::from_secs(5);
const JOIN_PAUSE: Duration = Duration::from_millis(500);
const ASK_WITHIN: Duration = Duration::from_secs(10);
const LEARN_WITHIN: Duration = Duration::from_secs(5);
/// A member whose log lacks at most this many entries of the ring may vote.
const READY_ENTRIES: u64 = 100;
/// How long a leader that is not preferred looks on before it hands over; so long must the preferred one have kept up.
const HAND_OVER_AFTER: Duration = Duration::from_secs(10);
const HAND_OVER_WITHIN: Duration = Duration::from_secs(3);
const KEPT_UP_ENTRIES: u64 = 16;
/// So long a disk is full before others lead in its place: a flush or a merge may make room sooner.
const FULL_FOR: Duration = Duration::from_secs(2);

/// How long a node may be away for a restart before the others stop sparing it.
pub(super) const RESTART_NANOS: u64 = 600 * 1_000_000_000;
const RESTART: &str = "restart/";
/// A node that is about to be restarted is rid of what it leads as fast as others take it.
const GIVE_AWAY_EVERY: Duration = Duration::from_millis(500);

/// The lease by which a node is known to be about to be restarted.
pub(super) fn restart_lease(node: NodeId) -> LeaseName {
    format!("{RESTART}{:016x}", node.0).into()
}

/// Nodes that are about to be restarted: nobody hands them anything to lead.
#[derive(Debug, Default)]
pub(super) struct Restarts(BTreeSet<NodeId>);

impl Restarts {
    pub(super) fn of(view: &RingView) -> Self {
        let now = view.state.clock.unix_nanos;
        let held = view
            .state
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires_unix_nanos > now);
        let nodes = held.filter_map(|(name, _)| u64::from_str_radix(name.strip_prefix(RESTART)?, 16).ok());
        Self(nodes.map(NodeId).collect())
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }
}

/// How this node presents itself.
#[derive(Debug, Clone)]
pub(super) struct Card {
    pub(super) name: Arc<str>,
    pub(super) zone: Arc<str>,
}

impl Card {
    pub(super) fn of(settings: &NodeSettings, id: NodeId) -> Self {
        Self {
            name: match &settings.cluster.name {
                Some(name) => name.as_str().into(),
                None => format!("{:016x}", id.0).into(),
            },
            zone: settings.cluster.zone.as_str().into(),
        }
    }
}

/// Asks the nodes at `addresses` in turn until one of them, or the leader they name, takes this node in.
///
/// Errors: it was refused for good.
pub(super) async fn join(
    peers: &PeerTransport,
    addresses: &[Arc<str>],
    card: &Card,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut said = vec![String::new(); addresses.len()];
    loop {
        for (address, said) in addresses.iter().zip(&mut said) {
            let outcome = ask_to_join(peers, address, card).await;
            let problem = match outcome {
                Ok(Reply::Done) => return Ok(()),
                Ok(Reply::Refused(refusal)) if refusal.kind == crate::refusal::Kind::Rejected => {
                    anyhow::bail!("the cluster does not take this node: {refusal}")
                }
                Ok(reply) => format!("{address}: {reply:?}"),
                Err(error) => format!("{address}: {error:#}"),
            };
            if problem != *said {
                tracing::warn!(problem, "cannot join yet; trying on");
                *said = problem;
            }
        }
        tokio::select! {
            () = stop.cancelled() => anyhow::bail!("stopped while joining"),
            () = tokio::time::sleep(JOIN_PAUSE) => {}
        }
    }
}

async fn ask_to_join(peers: &PeerTransport, address: &Arc<str>, card: &Card) -> anyhow::Result<Reply> {
    let them = peers.who_is_at(address).await?;
    let mut at = them.node;
    anyhow::ensure!(at != peers.identity().node, "this is our own address");
    peers.belongs_to(them.cluster);
    let identity = peers.identity();
    let question = Question::Join {
        name: Arc::clone(&card.name),
        zone: Arc::clone(&card.zone),
        address: Arc::clone(&identity.address),
        feature_level: identity.feature_level,
    };
    // Once to whoever answers, once to the leader it names.
    for _ in 0..2 {
        let reply = Reply::decode(peers.ask(at, question.encode(), ASK_WITHIN).await?)?;
        let Reply::NotLeader {
            leader: Some(leader),
            address: Some(address),
        } = &reply
        else {
            return Ok(reply);
        };
        peers.book().hear(*leader, address);
        at = *leader;
    }
    anyhow::bail!("the leader is just changing")
}

/// Finds out who lives at the addresses of the settings, for a node that has restarted and knows nobody: then all nodes
/// may have. Ends when the ring is known.
pub(super) async fn find(ring: Arc<RingPort>, peers: PeerTransport, addresses: Vec<Arc<str>>, stop: CancellationToken) {
    while !ring.ring_view().state.is_founded() {
        for address in &addresses {
            // Who answers is remembered; who does not is asked again.
            let _ = peers.who_is_at(address).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(JOIN_PAUSE) => {}
        }
    }
}

/// Tells the ring where this node is, when what it records is something else: names, zones and addresses change between
/// two starts.
pub(super) async fn announce(ring: Arc<RingPort>, peers: PeerTransport, card: Card, stop: CancellationToken) {
    let mut views = ring.views();
    loop {
        let view = ring.ring_view();
        let identity = peers.identity();
        if let Some(known) = view.state.nodes.get(&identity.node) {
            let mut record = known.clone();
            record.pod = Arc::clone(&card.name);
            record.zone = Arc::clone(&card.zone);
            record.address = Arc::clone(&identity.address);
            record.feature_level = identity.feature_level;
            if record != *known
                && let Err(error) = ring.propose(Body::PutNode(record)).await
            {
                tracing::warn!(%error, "cannot tell the ring where this node is; trying again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ANNOUNCE_EVERY) => {}
            changed = views.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the settings ask of whoever leads the ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Copies of every shard.
    pub(super) replicas: u32,
    /// Members that vote; `None`: by the number of nodes.
    pub(super) voters: Option<u32>,
}

/// Keeps addresses and connections as the ring records them, and does the leader's duties while this node leads the ring.
pub(super) async fn keep(ring: Arc<RingPort>, peers: PeerTransport, wanted: Wanted, stop: CancellationToken) {
    let mut views = ring.views();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
        let view = ring.ring_view();
        for node in view.state.nodes.values() {
            peers.book().record(node.id, &node.address);
        }
        if view.state.is_founded() {
            peers.switched_on(view.state.feature_level);
        }
        if ring.group().is_leader()
            && let Err(error) = duty(&ring, wanted).await
        {
            tracing::warn!(
                error = format!("{error:#}"),
                "a duty of the ring's leader failed; trying again"
            );
        }
    }
}

/// The next step that is due, if any.
async fn duty(ring: &RingPort, wanted: Wanted) -> anyhow::Result<()> {
    let view = ring.ring_view();
    let status = ring.group().status();
    if !status.voters.contains(&ring.node()) {
        // Deposed already, only not told yet.
        return Ok(());
    }
    let nodes: BTreeSet<NodeId> = view.state.nodes.keys().copied().collect();
    let members: BTreeSet<NodeId> = status.voters.union(&status.learners).copied().collect();
    if let Some(new) = nodes.difference(&members).next() {
        ring.group().add_learner(*new, LEARN_WITHIN).await?;
        tracing::info!(node = %new, "a node follows the ring");
        return Ok(());
    }
    let is_ready = |node: &NodeId| {
        let matched = status.matched.get(node).map_or(0, |matched| matched.0);
        *node == ring.node() || (matched > 0 && matched + READY_ENTRIES >= status.last.0)
    };
    let ready = members.iter().copied().filter(is_ready).collect();
    let voters = plan::ring_voters(&view.state, &status.voters, &ready, wanted.voters);
    if !voters.is_empty() && voters != status.voters {
        let step = plan::voters_step(&status.voters, &voters, ring.node());
        let voters = match step {
            plan::VotersStep::Set(voters) => voters,
            plan::VotersStep::HandOverTo(heirs) => {
                let heir = heirs.into_iter().max_by_key(|node| status.matched.get(node).copied());
                if let Some(heir) = heir {
                    ring.group().transfer_leader(heir, HAND_OVER_WITHIN).await?;
                    tracing::info!(to = %heir, "the ring's leader will vote no more and has handed over");
                }
                return Ok(());
            }
        };
        let former: Vec<NodeId> = status.voters.difference(&voters).copied().collect();
        ring.group().set_voters(&voters).await?;
        tracing::info!(?voters, ?former, "the ring has other voters");
        return Ok(());
    }
    if let Some(gone) = status.learners.difference(&nodes).next() {
        ring.group().remove_learner(*gone).await?;
        return Ok(());
    }
    let is_over = |node: &&NodeRecord| node.state == NodeState::Lost && !view.state.map.uses(node.id);
    if let Some(lost) = view.state.nodes.values().find(is_over) {
        ring.propose(Body::RemoveNode(lost.id)).await?;
        tracing::info!(node = %lost.id, "a lost node is out: nothing of it is needed any more");
        return Ok(());
    }
    if let Some(shards) = plan::shard_map(&view.state, wanted.replicas) {
        let epoch = view.state.map.epoch;
        match ring.command(Body::SetShardMap { epoch, shards }).await? {
            Ok(_) => tracing::info!(epoch = epoch + 1, "the shard map has changed"),
            Err(RingRefusal::WrongEpoch { .. }) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(())
}

/// Hands generations that are led here to whoever is preferred, once that one has kept up for a while; one at a time.
/// A node whose disk is full gives everything away: it can neither take nor flush spans, and others may.
pub(super) async fn hand_over(ring: Arc<RingPort>, shards: Arc<Shards>, wal: Wal, stop: CancellationToken) {
    let (mut calm, mut full) = (0, 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GIVE_AWAY_EVERY) => {}
        }
        let view = ring.ring_view();
        let me = ring.node();
        let restarts = Restarts::of(&view);
        if restarts.has(me) {
            give_away(&ring, &shards).await;
            continue;
        }
        let usage = wal.usage();
        full = if usage.disk_full && usage.level >= Level::RejectWrites {
            full + 1
        } else {
            0
        };
        if GIVE_AWAY_EVERY * full >= FULL_FOR {
            tracing::warn!("the disk is full: whoever can takes over what is led here");
            give_away(&ring, &shards).await;
            // The others' disks may be full too; what is led is not passed around faster than this.
            full = 0;
            calm = 0;
            let pause = tokio::time::sleep(HAND_OVER_AFTER);
            tokio::select! {
                () = stop.cancelled() => return,
                () = pause => {}
            }
            continue;
        }
        calm += 1;
        if GIVE_AWAY_EVERY * calm < HAND_OVER_AFTER {
            continue;
        }
        calm = 0;
        for unit in shards.all() {
            let Some(record) = view.state.map.shards.get(&unit.key.shard) else {
                continue;
            };
            let status = unit.group.status();
            let is_wanted = record.key() == unit.key && record.preferred != me && status.leadership.is_leader;
            let matched = status.matched.get(&record.preferred).map_or(0, |matched| matched.0);
            if !is_wanted || restarts.has(record.preferred) || matched == 0 || matched + KEPT_UP_ENTRIES < status.last.0
            {
                continue;
            }
            match unit.group.transfer_leader(record.preferred, HAND_OVER_WITHIN).await {
                Ok(()) => tracing::info!(shard = %unit.key, to = %record.preferred, "handed over"),
                Err(error) => tracing::warn!(shard = %unit.key, %error, "could not hand over"),
            }
            break;
        }
    }
}

/// Gives every leadership to whoever has kept up best.
async fn give_away(ring: &RingPort, shards: &Shards) {
    for unit in shards.all() {
        give_one(&unit.group).await;
    }
    give_one(ring.group()).await;
}

async fn give_one<M: Machine>(group: &Group<M>) {
    let status = group.status();
    if !status.leadership.is_leader {
        return;
    }
    let others = status
        .matched
        .iter()
        .filter(|(node, _)| status.voters.contains(node) && **node != group.node());
    let Some((heir, _)) = others.max_by_key(|(_, matched)| **matched) else {
        return;
    };
    if let Err(error) = group.transfer_leader(*heir, HAND_OVER_WITHIN).await {
        tracing::warn!(group = %group.id(), %heir, %error, "could not hand over");
    }
}
