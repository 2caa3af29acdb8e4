//! Three members over a network in memory, in simulated time: leaders come and go, nothing acknowledged does.

use std::collections::BTreeSet;
use std::time::Duration;

use model::{LogIndex, NodeId};
use wal::SimVfs;
use wal::sim_vfs::Crash;

use super::{Link, MemoryNetwork};
use crate::harness::{Journal, JournalMachine, Node, SOON, propose, until};
use crate::{ConsensusError, Group, GroupId, Kind, Payload};

struct Member {
    node: Node,
    ring: Group<JournalMachine>,
    journal: Journal,
}

struct Cluster {
    network: MemoryNetwork,
    members: Vec<Member>,
    /// What was answered with success.
    acknowledged: Vec<String>,
}

impl Cluster {
    /// Members 1 to `count`, all of them voters, with a leader.
    async fn of(count: u64) -> Self {
        let network = MemoryNetwork::new();
        let mut cluster = Self {
            network,
            members: Vec::new(),
            acknowledged: Vec::new(),
        };
        for id in 1..=count {
            cluster.start(id, SimVfs::new(id)).await;
        }
        let voters: BTreeSet<NodeId> = (1..=count).map(NodeId).collect();
        cluster.members[0].ring.found(&voters).await.unwrap();
        cluster.leader().await;
        cluster
    }

    async fn start(&mut self, id: u64, disk: SimVfs) {
        let node = Node::start_simulated(Node::options(NodeId(id)), disk, &self.network);
        let (ring, journal) = node.open().await;
        self.members.push(Member { node, ring, journal });
    }

    fn member(&self, id: NodeId) -> &Member {
        self.members.iter().find(|member| member.node.id == id).unwrap()
    }

    /// Takes a member down; what it acknowledged to its leader is on the disk that is returned, and nothing else.
    async fn lose_power(&mut self, id: NodeId) -> SimVfs {
        let position = self.members.iter().position(|member| member.node.id == id).unwrap();
        let member = self.members.remove(position);
        self.network.detach(id);
        let disk = member.node.disk_after(Crash::DropUnsynced);
        member.node.stop().await;
        disk
    }

    /// The leader that a majority follows.
    async fn leader(&self) -> NodeId {
        let mut found = None;
        let leads = |id: &NodeId| {
            let followers = self
                .members
                .iter()
                .filter(|member| member.ring.leader() == Some(*id))
                .count();
            followers * 2 > self.members.len() && self.member(*id).ring.is_leader()
        };
        until("a leader", || {
            found = self.members.iter().map(|member| member.node.id).find(leads);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Proposes wherever the leader is until it is acknowledged.
    async fn write(&mut self, text: &str) {
        loop {
            let leader = self.leader().await;
            let proposal = propose(&self.member(leader).ring, text);
            match tokio::time::timeout(Duration::from_secs(3), proposal).await {
                Ok(Ok(_)) => break,
                // Nothing was accepted, so it may be tried again.
                Ok(Err(ConsensusError::NotLeader { .. } | ConsensusError::NoQuorum { .. })) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(Err(error)) => panic!("a second try could double it: {error:?}"),
                Err(_) => panic!("no answer from a leader with a majority"),
            }
        }
        self.acknowledged.push(text.to_owned());
    }

    async fn write_many(&mut self, name: &str, count: usize) {
        for n in 0..count {
            self.write(&format!("{name}{n}")).await;
        }
    }

    /// Every member applies everything acknowledged, in one order, once.
    async fn converge(&self) {
        for member in &self.members {
            until(&format!("member {} having everything", member.node.id), || {
                member.journal.texts().len() >= self.acknowledged.len()
            })
            .await;
        }
        let expected = self.members[0].journal.texts();
        let mut distinct = BTreeSet::new();
        assert!(
            expected.iter().all(|text| distinct.insert(text.clone())),
            "something was applied twice"
        );
        assert!(
            self.acknowledged.iter().all(|text| distinct.contains(text)),
            "something acknowledged is gone"
        );
        for member in &self.members {
            assert_eq!(member.journal.texts(), expected, "member {}", member.node.id);
        }
    }

    async fn stop(self) {
        for member in self.members {
            member.node.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t10_three_members_apply_the_same() {
    let mut cluster = Cluster::of(3).await;
    cluster.write_many("a", 30).await;
    cluster.converge().await;
    let leader = cluster.leader().await;
    let follower = cluster.members.iter().find(|member| member.node.id != leader).unwrap();
    let error = propose(&follower.ring, "elsewhere").await.unwrap_err();
    let ConsensusError::NotLeader { leader: hint, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(hint, Some(leader));
    let error = follower.ring.read_index().await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotLeader);
    let status = cluster.member(leader).ring.status();
    assert_eq!(status.voters.len(), 3);
    assert_eq!(status.matched.len(), 3);
    cluster.stop().await;
}

/// Several members may found a group if they name the same voters.
#[tokio::test(start_paused = true)]
async fn t10_all_members_may_found_at_once() {
    let mut cluster = Cluster {
        network: MemoryNetwork::new(),
        members: Vec::new(),
        acknowledged: Vec::new(),
    };
    for id in 1..=3 {
        cluster.start(id, SimVfs::new(id)).await;
    }
    let voters: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
    for member in &cluster.members {
        member.ring.found(&voters).await.unwrap();
    }
    cluster.write_many("a", 5).await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn t20_the_leader_dies_and_comes_back() {
    let mut cluster = Cluster::of(3).await;
    cluster.write_many("before", 10).await;
    let first = cluster.leader().await;
    let disk = cluster.lose_power(first).await;
    cluster.write_many("without", 10).await;
    assert_ne!(cluster.leader().await, first);
    cluster.start(first.0, disk).await;
    cluster.member(first).ring.wait_recovered(SOON).await.unwrap();
    cluster.write_many("after", 5).await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn t20_all_lose_power_at_once() {
    let mut cluster = Cluster::of(3).await;
    cluster.write_many("before", 20).await;
    let disks: Vec<_> = cluster
        .members
        .iter()
        .map(|member| (member.node.id, member.node.disk_after(Crash::DropUnsynced)))
        .collect();
    for member in cluster.members.drain(..) {
        cluster.network.detach(member.node.id);
        member.node.stop().await;
    }
    for (id, disk) in disks {
        cluster.start(id.0, disk).await;
    }
    for member in &cluster.members {
        member.ring.wait_recovered(SOON).await.unwrap();
    }
    cluster.write_many("after", 3).await;
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn t20_leadership_is_handed_over() {
    let mut cluster = Cluster::of(3).await;
    cluster.write_many("a", 5).await;
    let first = cluster.leader().await;
    let heir = cluster
        .members
        .iter()
        .map(|member| member.node.id)
        .find(|id| *id != first)
        .unwrap();
    cluster.member(first).ring.transfer_leader(heir, SOON).await.unwrap();
    assert_eq!(cluster.leader().await, heir);
    cluster.member(heir).ring.transfer_leader(heir, SOON).await.unwrap();
    let refused = cluster
        .member(first)
        .ring
        .transfer_leader(first, SOON)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::NotLeader);
    cluster.write_many("b", 5).await;
    // For a planned stop: whoever is furthest takes over, and the one that goes does not stand again.
    cluster.member(heir).node.groups.resign(SOON).await;
    assert!(!cluster.member(heir).ring.is_leader());
    cluster.write_many("c", 5).await;
    assert_ne!(cluster.leader().await, heir);
    cluster.converge().await;
    cluster.stop().await;
}

/// A leader that was cut off can neither acknowledge nor prove that it leads; what it took in the meantime is void.
#[tokio::test(start_paused = true)]
async fn t50_a_leader_without_majority_answers_nothing() {
    let mut cluster = Cluster::of(3).await;
    cluster.write_many("before", 5).await;
    let cut_off = cluster.leader().await;
    cluster.network.set_all_links(cut_off, Link::Cut);
    let old = cluster.member(cut_off).ring.clone();
    let lost = old.submit(Payload::new("lost")).await.unwrap();
    let refused = old.read_index().await.unwrap_err();
    assert!(
        matches!(refused.kind(), Kind::Unavailable | Kind::NotLeader),
        "{refused:?}"
    );
    let others: Vec<NodeId> = cluster
        .members
        .iter()
        .map(|m| m.node.id)
        .filter(|id| *id != cut_off)
        .collect();
    until("another leader", || {
        others.iter().any(|id| cluster.member(*id).ring.is_leader())
    })
    .await;
    let leader = *others.iter().find(|id| cluster.member(**id).ring.is_leader()).unwrap();
    // A new leader first has to hear from a majority; a reader or proposer that comes earlier is told so.
    while let Err(error) = cluster.member(leader).ring.read_index().await {
        assert!(matches!(error, ConsensusError::NoQuorum { .. }), "{error:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for n in 0..5 {
        propose(&cluster.member(leader).ring, &format!("without{n}"))
            .await
            .unwrap();
        cluster.acknowledged.push(format!("without{n}"));
    }
    let refused = old.propose(Payload::new("refused")).await.unwrap_err();
    assert!(
        matches!(refused.kind(), Kind::Unavailable | Kind::NotLeader),
        "{refused:?}"
    );
    cluster.network.set_all_links(cut_off, Link::Up);
    let outcome = lost.outcome().await.unwrap_err();
    assert_eq!(outcome.kind(), Kind::Unavailable, "its leader cannot know: {outcome:?}");
    cluster.write_many("after", 3).await;
    cluster.converge().await;
    assert!(!cluster.members[0].journal.texts().contains(&String::from("lost")));
    cluster.stop().await;
}

/// One direction cut: the leader hears nothing, or is not heard. Either way writes go on within seconds.
#[tokio::test(start_paused = true)]
async fn t50_one_way_cuts_do_not_stop_writes() {
    for towards_leader in [true, false] {
        let mut cluster = Cluster::of(3).await;
        cluster.write("before").await;
        let leader = cluster.leader().await;
        for id in (1..=3).map(NodeId).filter(|id| *id != leader) {
            let (from, to) = if towards_leader { (id, leader) } else { (leader, id) };
            cluster.network.set_link(from, to, Link::Cut);
        }
        until("another leader", || {
            cluster
                .members
                .iter()
                .any(|member| member.node.id != leader && member.ring.is_leader())
        })
        .await;
        cluster.network.set_all_links(leader, Link::Up);
        cluster.write_many("after", 3).await;
        cluster.converge().await;
        cluster.stop().await;
    }
}

/// The cluster, the disk of a member that was away for longer than the log reaches, and what the snapshot covers.
async fn without_one_that_missed_the_log() -> (Cluster, NodeId, SimVfs, LogIndex) {
    let mut cluster = Cluster::of(3).await;
    cluster.write_many("a", 10).await;
    cluster.converge().await;
    let leader = cluster.leader().await;
    let away = cluster
        .members
        .iter()
        .map(|member| member.node.id)
        .find(|id| *id != leader)
        .unwrap();
    let disk = cluster.lose_power(away).await;
    cluster.write_many("b", 20).await;
    let mut reached = LogIndex(0);
    for member in &cluster.members {
        until("applying", || member.journal.texts().len() == 30).await;
        let upto = LogIndex(member.ring.status().applied.0 - 5);
        member.journal.snapshot_at(upto);
        reached = member.ring.snapshot_and_purge(upto, SOON).await.unwrap();
        assert_eq!(reached, upto);
    }
    until("purge", || {
        cluster
            .members
            .iter()
            .all(|member| member.ring.status().purged == reached)
    })
    .await;
    (cluster, away, disk, reached)
}

/// A member that was away for longer than the log reaches gets the snapshot, which is older than what was applied, and
/// the tail.
#[tokio::test(start_paused = true)]
async fn t30_a_member_that_missed_the_log_gets_snapshot_and_tail() {
    let (mut cluster, away, disk, reached) = without_one_that_missed_the_log().await;
    cluster.start(away.0, disk).await;
    cluster.converge().await;
    let journal = &cluster.member(away).journal;
    assert_eq!(journal.installs().last(), Some(&reached));
    cluster.write_many("c", 3).await;
    cluster.converge().await;
    cluster.stop().await;
}

/// A disk that has no room for the leader's snapshot refuses it, and takes it once there is room: the group does not die
/// of it.
#[tokio::test(start_paused = true)]
async fn t30_a_snapshot_that_finds_no_room_comes_again() {
    let (mut cluster, away, disk, reached) = without_one_that_missed_the_log().await;
    cluster.start(away.0, disk).await;
    let full = &cluster.member(away).node.vfs;
    full.set_capacity(Some(full.used_bytes()));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let ring = &cluster.member(away).ring;
    assert!(ring.status().is_running, "the group died of a full disk");
    assert!(ring.status().applied < reached, "there was room after all");
    full.set_capacity(None);
    cluster.converge().await;
    assert_eq!(cluster.member(away).journal.installs().last(), Some(&reached));
    let disk = cluster.lose_power(away).await;
    cluster.start(away.0, disk).await;
    cluster.write_many("c", 3).await;
    cluster.converge().await;
    cluster.stop().await;
}

/// Growth of the ring: one voter, then three by joint consensus, then another three.
#[tokio::test(start_paused = true)]
async fn t30_the_ring_grows_and_moves() {
    let mut cluster = Cluster::of(1).await;
    cluster.write_many("alone", 10).await;
    for id in 2..=4 {
        cluster.start(id, SimVfs::new(id)).await;
        cluster.members[0].ring.add_learner(NodeId(id), SOON).await.unwrap();
    }
    let first = cluster.members[0].ring.clone();
    assert_eq!(first.status().learners, BTreeSet::from([2, 3, 4].map(NodeId)));
    let refused = first.set_voters(&BTreeSet::from([1, 9].map(NodeId))).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Rejected, "{refused:?}");
    first.set_voters(&BTreeSet::from([1, 2, 3].map(NodeId))).await.unwrap();
    cluster.write_many("three", 5).await;
    let others = BTreeSet::from([2, 3, 4].map(NodeId));
    let own = first.set_voters(&others).await.unwrap_err();
    assert_eq!(own.kind(), Kind::Rejected, "{own:?}");
    first.transfer_leader(NodeId(2), SOON).await.unwrap();
    let second = cluster.member(NodeId(2)).ring.clone();
    second.set_voters(&others).await.unwrap();
    assert_eq!(second.status().learners, BTreeSet::from([NodeId(1)]));
    second.remove_learner(NodeId(1)).await.unwrap();
    cluster.members.remove(0).node.stop().await;
    cluster.network.detach(NodeId(1));
    cluster.write_many("moved", 5).await;
    cluster.converge().await;
    let leader = cluster.leader().await;
    assert_eq!(
        cluster.member(leader).ring.status().voters,
        BTreeSet::from([2, 3, 4].map(NodeId))
    );
    cluster.stop().await;
}

/// Appends are pipelined: a hundred entries over a slow link take a few round trips, not a hundred.
#[tokio::test(start_paused = true)]
async fn t40_a_slow_link_costs_latency_not_throughput() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let one_way = Duration::from_millis(20);
    cluster.network.set_all_links(leader, Link::Slow(one_way));
    let ring = cluster.member(leader).ring.clone();
    propose(&ring, "warm").await.unwrap();
    let started = tokio::time::Instant::now();
    let mut outcomes = Vec::new();
    for n in 0..100 {
        outcomes.push(ring.submit(Payload::new(n.to_string())).await.unwrap());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for outcome in outcomes {
        outcome.outcome().await.unwrap();
    }
    let took = started.elapsed();
    assert!(
        took < Duration::from_millis(100) + 6 * one_way,
        "100 entries, one per millisecond, took {took:?}"
    );
    cluster.stop().await;
}

/// Data is neither lost nor doubled while leadership moves under load.
#[tokio::test(start_paused = true)]
async fn t50_transfers_under_load() {
    let mut cluster = Cluster::of(3).await;
    for round in 0..6u64 {
        cluster.write_many(&format!("round{round}-"), 5).await;
        let leader = cluster.leader().await;
        let ring = cluster.member(leader).ring.clone();
        let mut waiting = Vec::new();
        for n in 0..10 {
            let text = format!("burst{round}-{n}");
            if let Ok(submitted) = ring.submit(Payload::new(text.clone())).await {
                waiting.push((text, submitted));
            }
        }
        let heir = NodeId(1 + (leader.0 + round) % 3);
        let _ = ring.transfer_leader(heir, SOON).await;
        for (text, submitted) in waiting {
            match submitted.outcome().await {
                Ok(_) => cluster.acknowledged.push(text),
                Err(error) => assert!(matches!(error.kind(), Kind::NotLeader | Kind::Unavailable), "{error:?}"),
            }
        }
    }
    cluster.write("end").await;
    for member in &cluster.members {
        until("the end", || {
            member.journal.texts().last().is_some_and(|text| text == "end")
        })
        .await;
    }
    cluster.converge().await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn t50_a_group_that_is_not_open_refuses() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let closed = cluster.members.iter().find(|member| member.node.id != leader).unwrap();
    closed.node.groups.close(GroupId::Ring).await;
    propose(&cluster.member(leader).ring, "two of three").await.unwrap();
    cluster.stop().await;
}

/// A connection that was opened before there was anything to send skipped openraft's waiting between tries: a peer that
/// was down was tried as fast as the processor could.
#[tokio::test(start_paused = true)]
async fn t90_a_peer_that_is_down_is_tried_now_and_then() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let down = cluster
        .members
        .iter()
        .map(|member| member.node.id)
        .find(|id| *id != leader)
        .unwrap();
    cluster.lose_power(down).await;
    cluster.write_many("a", 5).await;
    let before = cluster.network.attempts();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let attempts = cluster.network.attempts() - before;
    // Heartbeats to both, every 100 ms, and at most one try per second or so for the entries.
    assert!(attempts < 300, "{attempts} attempts in ten quiet seconds");
    cluster.stop().await;
}

/// A follower whose log is full says no at the door and goes on when there is room; its group does not die of it.
#[tokio::test(start_paused = true)]
async fn t50_a_full_follower_waits_for_room() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let full = cluster
        .members
        .iter()
        .map(|member| member.node.id)
        .find(|id| *id != leader)
        .unwrap();
    // Another group of that node fills the log.
    let key = wal::GroupKey(99);
    let wal = cluster.member(full).node.wal.clone();
    let mut index = 1;
    while wal.level() < wal::Level::ReservedOnly {
        let entry = wal::EntryRecord {
            index,
            term: 1,
            payload: vec![7; 200_000].into(),
        };
        if wal.append(key, vec![entry], Box::new(|_| ())).is_err() {
            break;
        }
        index += 1;
    }
    while wal.drive() {}
    cluster.write_many("while full", 20).await;
    assert!(cluster.member(full).ring.status().is_running);
    let behind = cluster.member(full).journal.texts().len();
    assert!(behind < 20, "the full log took entries: {behind}");
    wal.drop_group(key, Box::new(|_| ())).unwrap();
    cluster.write_many("after", 3).await;
    cluster.converge().await;
    cluster.stop().await;
}

/// A leader with nothing to do keeps its lease by heartbeats alone, also one that never proposed anything.
#[tokio::test(start_paused = true)]
async fn t50_a_quiet_leader_keeps_its_majority() {
    for seconds in [2, 30] {
        let cluster = Cluster::of(3).await;
        let leader = cluster.leader().await;
        let ring = &cluster.member(leader).ring;
        let term = ring.status().leadership.term;
        for text in ["first", "second"] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            propose(ring, text).await.unwrap();
        }
        assert_eq!(ring.status().leadership.term, term, "somebody stood for election");
        cluster.stop().await;
    }
}
