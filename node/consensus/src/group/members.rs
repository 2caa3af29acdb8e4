//! Who is in a group. Shard groups are told once, at their birth; only the ring changes its members later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::impls::EmptyNode;

use super::Group;
use crate::error::ConsensusError;
use crate::state_machine::Machine;

/// A learner this close to the leader's last entry has caught up.
const CAUGHT_UP_ENTRIES: u64 = 8;

impl<M: Machine> Group<M> {
    /// Founds the group with these voters, of which this node must be one; nothing happens if it has been founded.
    ///
    /// One voter is enough to call it, the others learn of it from the first leader. Several may call it if they name
    /// the same voters. A group of one voter leads when this returns, within milliseconds.
    pub async fn found(&self, voters: &BTreeSet<NodeId>) -> Result<(), ConsensusError> {
        let core = &self.core;
        let members: BTreeMap<u64, EmptyNode> = voters.iter().map(|node| (node.0, EmptyNode {})).collect();
        match core.raft.initialize(members).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => return Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(source))) => {
                return Err(ConsensusError::Members {
                    group: core.id,
                    source: Box::new(source),
                });
            }
            Err(RaftError::Fatal(fatal)) => return Err(core.fatal(fatal)),
        }
        core.elect().await?;
        if voters.len() == 1 {
            let within = Duration::from_secs(10);
            let led = tokio::time::timeout(within, self.leadership().wait_for(|now| now.is_leader)).await;
            let timed_out = ConsensusError::TimedOut {
                group: core.id,
                awaited: "election of the only voter",
                within,
            };
            led.map_err(|_| timed_out)?.ok_or_else(|| core.stopped())?;
        }
        Ok(())
    }

    /// Adds a member without a vote and waits until it lacks at most eight entries of the log.
    ///
    /// openraft's own waiting is not used: it returned for a learner that had nothing at all.
    pub async fn add_learner(&self, node: NodeId, within: Duration) -> Result<(), ConsensusError> {
        let core = &self.core;
        let added = core.raft.add_learner(node.0, EmptyNode {}, false).await;
        added.map_err(|error| match error {
            RaftError::APIError(error) => core.write_error(error),
            RaftError::Fatal(fatal) => core.fatal(fatal),
        })?;
        let mut metrics = core.raft.metrics();
        let caught_up = async {
            loop {
                let status = core.status();
                if !status.leadership.is_leader {
                    return Err(ConsensusError::NotLeader {
                        group: core.id,
                        leader: status.leadership.leader,
                    });
                }
                let matched = status.matched.get(&node).map_or(0, |matched| matched.0);
                if matched > 0 && matched + CAUGHT_UP_ENTRIES >= status.last.0 {
                    return Ok(());
                }
                if metrics.changed().await.is_err() {
                    return Err(core.stopped());
                }
            }
        };
        let timed_out = ConsensusError::TimedOut {
            group: core.id,
            awaited: "catching up of the learner",
            within,
        };
        tokio::time::timeout(within, caught_up).await.map_err(|_| timed_out)?
    }

    /// Makes these nodes, and no others, the voters; they must be members already. Former voters stay as learners.
    ///
    /// Errors: `Rejected` when this node is not one of them. openraft lets a leader without a vote lead on, and panics at
    /// its next change of members: such a leader hands over first.
    pub async fn set_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), ConsensusError> {
        let core = &self.core;
        if !voters.contains(&core.node) {
            return Err(ConsensusError::OwnVote { group: core.id });
        }
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        let changed = core.raft.change_membership(voters, true).await;
        changed.map(|_| ()).map_err(|error| match error {
            RaftError::APIError(error) => core.write_error(error),
            RaftError::Fatal(fatal) => core.fatal(fatal),
        })
    }

    /// Removes a member without a vote.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), ConsensusError> {
        let core = &self.core;
        let change = openraft::ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let changed = core.raft.change_membership(change, false).await;
        changed.map(|_| ()).map_err(|error| match error {
            RaftError::APIError(error) => core.write_error(error),
            RaftError::Fatal(fatal) => core.fatal(fatal),
        })
    }
}
