//! Who leads and how far everyone is, without openraft's names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use model::{LogIndex, NodeId};
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{RaftMetrics, ServerState};

use crate::raft::{Types, index_of};

/// Who leads a group, as one node sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    /// `None` while an election is on, or when the leader has not been heard of yet.
    pub leader: Option<NodeId>,
    /// The term this is true for. Together with `leader` it names one reign.
    pub term: u64,
    /// Whether the leader is this node.
    pub is_leader: bool,
}

/// A view of [`Leadership`] that can be awaited.
#[derive(Clone)]
pub struct LeadershipWatch {
    node: NodeId,
    metrics: WatchReceiverOf<Types, RaftServerMetrics<Types>>,
}

impl LeadershipWatch {
    pub(crate) fn new(node: NodeId, metrics: WatchReceiverOf<Types, RaftServerMetrics<Types>>) -> Self {
        Self { node, metrics }
    }

    /// What is true now.
    pub fn current(&self) -> Leadership {
        let metrics = self.metrics.borrow_watched();
        let leader = metrics.current_leader.map(NodeId);
        let is_leader = metrics.state == ServerState::Leader && leader == Some(self.node);
        Leadership {
            leader,
            term: metrics.vote.leader_id.term,
            is_leader,
        }
    }

    /// Waits until `wanted` holds, which may be at once; `None` when the group is shut down.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(Leadership) -> bool) -> Option<Leadership> {
        loop {
            let now = self.current();
            if wanted(now) {
                return Some(now);
            }
            self.metrics.changed().await.ok()?;
        }
    }

    /// Waits until it differs from `known`; `None` when the group is shut down.
    pub async fn changed_from(&mut self, known: Leadership) -> Option<Leadership> {
        self.wait_for(|now| now != known).await
    }
}

impl fmt::Debug for LeadershipWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeadershipWatch")
            .field("current", &self.current())
            .finish()
    }
}

/// Where a group stands on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Who leads.
    pub leadership: Leadership,
    /// The last entry in the log here.
    pub last: LogIndex,
    /// Up to where a majority has it, as far as this node heard.
    pub committed: LogIndex,
    /// Up to where the machine has it.
    pub applied: LogIndex,
    /// Up to where the snapshot on disk reaches.
    pub snapshot: LogIndex,
    /// Up to where entries have left the log.
    pub purged: LogIndex,
    /// Who votes, in both halves of a change that is under way.
    pub voters: BTreeSet<NodeId>,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
    /// How far each other member has the log on disk; only on the leader.
    pub matched: BTreeMap<NodeId, LogIndex>,
    /// For how long nothing has been heard of each member; only on the leader.
    pub silent: BTreeMap<NodeId, Duration>,
    /// Bytes proposed here and not answered yet.
    pub in_flight_bytes: usize,
    /// Whether the group still works; it stops when its storage fails.
    pub is_running: bool,
}

impl GroupStatus {
    pub(crate) fn new(metrics: &RaftMetrics<Types>, in_flight_bytes: usize) -> Self {
        let leader = metrics.current_leader.map(NodeId);
        let is_leader = metrics.state == ServerState::Leader && leader == Some(NodeId(metrics.id));
        let membership = metrics.membership_config.membership();
        let replication = metrics.replication.iter().flatten();
        let heard = metrics.heartbeat.iter().flatten();
        Self {
            leadership: Leadership {
                leader,
                term: metrics.current_term,
                is_leader,
            },
            last: LogIndex(metrics.last_log_index.map_or(0, |index| index + 1)),
            committed: index_of(metrics.cluster_committed.as_ref().max(metrics.local_committed.as_ref())),
            applied: index_of(metrics.last_applied.as_ref()),
            snapshot: index_of(metrics.snapshot.as_ref()),
            purged: index_of(metrics.purged.as_ref()),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            matched: replication
                .map(|(node, matched)| (NodeId(*node), index_of(matched.as_ref())))
                .collect(),
            silent: heard
                .map(|(node, at)| (NodeId(*node), at.as_ref().map_or(Duration::MAX, |at| at.elapsed())))
                .collect(),
            in_flight_bytes,
            is_running: metrics.running_state.is_ok(),
        }
    }
}
