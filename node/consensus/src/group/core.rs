//! What a group is made of, whatever its machine, and what openraft's errors mean to us.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardReason, ForwardToLeader};
use wal::Wal;

use super::proposal::Budget;
use super::{GroupStatus, LeadershipWatch, Raft, SNAPSHOT_ASK_AGAIN};
use crate::error::ConsensusError;
use crate::log_store::LogStore;
use crate::payload::GroupId;
use crate::raft::{LogId, Types, index_of};
use crate::snapshot::SnapshotFile;

/// What a group is made of, whatever its machine.
pub(crate) struct Core {
    pub(crate) id: GroupId,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) wal: Wal,
    pub(crate) snapshots: Arc<SnapshotFile>,
    /// Snapshots from leaders are received one at a time.
    pub(crate) receiving: tokio::sync::Mutex<()>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) node_budget: Arc<Budget>,
    /// Somebody asked for the end; without it, an end is a failure.
    pub(crate) closing: AtomicBool,
}

impl Core {
    pub(crate) async fn shutdown(&self) {
        self.closing.store(true, Ordering::Release);
        if self.raft.shutdown().await.is_err() {
            tracing::warn!(group = %self.id, "the group's task ended badly");
        }
    }

    pub(crate) fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        GroupStatus::new(&metrics, self.budget.in_flight_bytes())
    }

    /// The same, asked of the group itself: right after opening, the metrics are not filled yet.
    pub(crate) async fn knows_it_is_sole_voter(&self) -> Result<bool, ConsensusError> {
        let node = self.node.0;
        let only_me = move |state: &openraft::RaftState<Types>| {
            state.membership_state.effective().membership().voter_ids().eq([node])
        };
        self.raft
            .with_raft_state(only_me)
            .await
            .map_err(|fatal| self.fatal(fatal))
    }

    /// Gives leadership to the voter that is furthest, if there is another one.
    pub(crate) async fn resign(&self, within: Duration) {
        let status = self.status();
        self.raft.runtime_config().elect(false);
        if !status.leadership.is_leader {
            return;
        }
        let others = status
            .matched
            .iter()
            .filter(|(node, _)| status.voters.contains(node) && **node != self.node);
        let Some((heir, _)) = others.max_by_key(|(_, matched)| **matched) else {
            return;
        };
        let mut leadership = LeadershipWatch::new(self.node, self.raft.server_metrics());
        if self.raft.trigger().transfer_leader(heir.0).await.is_ok()
            && tokio::time::timeout(within, leadership.wait_for(|now| !now.is_leader))
                .await
                .is_err()
        {
            tracing::warn!(group = %self.id, %heir, "leadership was not taken over in time");
        }
    }

    /// Stands for election now instead of after a timeout.
    pub(crate) async fn elect(&self) -> Result<(), ConsensusError> {
        self.raft
            .trigger()
            .elect(false)
            .await
            .map_err(|fatal| self.fatal(fatal))
    }

    pub(crate) async fn wait_for_snapshot(
        &self,
        offered: Option<LogId>,
        within: Duration,
    ) -> Result<(), ConsensusError> {
        let wanted = index_of(offered.as_ref());
        let reached = async {
            while self.status().snapshot < wanted {
                self.raft
                    .trigger()
                    .snapshot()
                    .await
                    .map_err(|fatal| self.fatal(fatal))?;
                let mut metrics = self.raft.metrics();
                let is_there = async {
                    while index_of(metrics.borrow_watched().snapshot.as_ref()) < wanted {
                        if metrics.changed().await.is_err() {
                            return Err(self.stopped());
                        }
                    }
                    Ok(())
                };
                if let Ok(is_there) = tokio::time::timeout(SNAPSHOT_ASK_AGAIN, is_there).await {
                    is_there?;
                }
            }
            Ok(())
        };
        let timed_out = ConsensusError::TimedOut {
            group: self.id,
            awaited: "snapshot",
            within,
        };
        tokio::time::timeout(within, reached).await.map_err(|_| timed_out)?
    }

    pub(crate) fn write_error(&self, error: ClientWriteError<Types>) -> ConsensusError {
        match error {
            ClientWriteError::ForwardToLeader(forward) => self.not_leader(&forward),
            ClientWriteError::LogEntryDiscarded(forward) => ConsensusError::OutcomeUnknown {
                group: self.id,
                leader: forward.leader_id.map(NodeId),
            },
            ClientWriteError::ChangeMembershipError(source) => ConsensusError::Members {
                group: self.id,
                source: Box::new(source),
            },
            ClientWriteError::PreconditionFailed(source) => ConsensusError::Members {
                group: self.id,
                source: Box::new(source),
            },
        }
    }

    pub(crate) fn not_leader(&self, forward: &ForwardToLeader<Types>) -> ConsensusError {
        match forward.reason {
            ForwardReason::LeaseExpired => ConsensusError::NoQuorum { group: self.id },
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => ConsensusError::NotLeader {
                group: self.id,
                leader: forward.leader_id.map(NodeId),
            },
        }
    }

    pub(crate) fn fatal(&self, fatal: Fatal<Types>) -> ConsensusError {
        match fatal {
            Fatal::Stopped => self.stopped(),
            fatal => stopped_by(self.id, &self.log, fatal),
        }
    }

    /// Why the group no longer runs: it was told to stop, or it failed.
    pub(crate) fn stopped(&self) -> ConsensusError {
        if self.closing.load(Ordering::Acquire) {
            return ConsensusError::Closed { group: self.id };
        }
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        stopped_by(self.id, &self.log, state.err().unwrap_or(Fatal::Stopped))
    }
}

/// Why a group stopped by itself. openraft keeps only the text of what the log said, so the log is asked.
pub(crate) fn stopped_by(group: GroupId, log: &LogStore, fatal: Fatal<Types>) -> ConsensusError {
    match log.failure() {
        Some(source) => ConsensusError::Log { group, source },
        None => ConsensusError::Stopped {
            group,
            source: Box::new(fatal),
        },
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.id)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
