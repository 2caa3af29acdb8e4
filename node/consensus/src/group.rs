//! The handle of one Raft group: propose, read, watch who leads, keep the log short.
//!
//! Owned by whoever opened it through [`crate::Groups`]; clones share it. What always holds:
//! - [`Group::propose`] answers after the entry is synced on a majority and applied here.
//! - An error says whether the entry may be committed all the same ([`ConsensusError::may_have_taken_effect`]); then a
//!   second try needs its own way to be recognised.
//! - No bytes are accepted without a share of the budgets of the group and the node.
//! - Entries leave the log only in [`Group::snapshot_and_purge`], and only below a snapshot that is on disk.
//!
//! Not here: how peers are reached ([`crate::network`]), what entries mean ([`crate::Machine`]), who should lead.

mod core;
mod inbound;
mod members;
pub(crate) mod proposal;
mod watch;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use model::{LogIndex, NodeId};
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::metrics::WaitError;
use openraft::raft::ClientWriteResult;
use openraft::{EntryPayload, ReadPolicy};
use tokio::sync::oneshot;

pub(crate) use self::core::{Core, stopped_by};
use self::proposal::{Permit, ProposalResponder};
pub use self::watch::{GroupStatus, Leadership, LeadershipWatch};
use crate::error::ConsensusError;
use crate::log_store::first_above;
use crate::payload::{Applied, GroupId, Payload};
use crate::raft::{Types, index_of, raft_index};
use crate::state_machine::{Machine, StateMachine};

/// Longest an entry may be. Longer requests are split by who proposes them.
pub const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Bytes of proposals a group may have under way.
pub const GROUP_IN_FLIGHT_BYTES_MAX: usize = 32 << 20;
/// Bytes of proposals a node may have under way in all its groups.
pub const NODE_IN_FLIGHT_BYTES_MAX: usize = 256 << 20;
/// What an entry costs beyond its data: headers in memory, log and messages. Keeps a flood of empty entries bounded.
const ENTRY_OVERHEAD_BYTES: usize = 512;
/// How long to wait for openraft to take a snapshot before asking again; it ignores a request while one is being built.
const SNAPSHOT_ASK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) type Raft = openraft::Raft<Types, StateMachine>;

/// A handle of one group whose machine is `M`.
pub struct Group<M> {
    pub(crate) core: Arc<Core>,
    machine: PhantomData<fn() -> M>,
}

impl<M> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
            machine: PhantomData,
        }
    }
}

impl<M> fmt::Debug for Group<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.core.id)
            .field("node", &self.core.node)
            .finish()
    }
}

/// A proposal that was handed over in its turn and whose outcome is still open.
///
/// Cancel: dropping it loses the outcome, not the entry.
#[derive(Debug)]
pub struct Submitted<M> {
    group: Group<M>,
    outcome: oneshot::Receiver<ClientWriteResult<Types>>,
}

impl<M: Machine> Submitted<M> {
    /// Waits until the entry is committed and applied here.
    ///
    /// Errors: see [`Group::propose`]. It may wait for as long as there is no majority: set a deadline.
    pub async fn outcome(self) -> Result<(LogIndex, M::Response), ConsensusError> {
        let core = &self.group.core;
        let written = self.outcome.await.map_err(|_| core.stopped())?;
        let written = written.map_err(|error| core.write_error(error))?;
        let answer = written.data.0.and_then(|answer| answer.downcast::<M::Response>().ok());
        let response = answer.expect("a normal entry is answered by this group's machine");
        Ok((index_of(Some(&written.log_id)), *response))
    }
}

impl<M> Group<M> {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            machine: PhantomData,
        }
    }

    /// Which group this is.
    pub fn id(&self) -> GroupId {
        self.core.id
    }

    /// The node it lives on.
    pub fn node(&self) -> NodeId {
        self.core.node
    }
}

impl<M: Machine> Group<M> {
    /// Commits an entry; returns its index and the machine's response to it.
    ///
    /// Errors: `Rejected` (larger than [`ENTRY_BYTES_MAX`]), `Throttled` (a budget or the log is full), `NotLeader`,
    /// `Unavailable` (no majority, also on a leader that was just elected and has not heard from one yet; or the leader
    /// changed while the entry was under way), `Fenced` (closed).
    ///
    /// Cancel: the entry may be committed all the same.
    pub async fn propose(&self, payload: Payload) -> Result<(LogIndex, M::Response), ConsensusError> {
        self.submit(payload).await?.outcome().await
    }

    /// Hands an entry over without waiting for it: entries submitted one after the other are in the log in that order.
    pub async fn submit(&self, payload: Payload) -> Result<Submitted<M>, ConsensusError> {
        let core = &self.core;
        let bytes = payload.data().len();
        if bytes > ENTRY_BYTES_MAX {
            return Err(ConsensusError::EntryTooLarge {
                bytes,
                bytes_max: ENTRY_BYTES_MAX,
            });
        }
        let cost = bytes + ENTRY_OVERHEAD_BYTES;
        let permit = Permit::take(core.id, &core.budget, &core.node_budget, cost)?;
        if !payload.is_control() {
            core.wal
                .admit_beside(cost, core.node_budget.in_flight_bytes())
                .map_err(|source| ConsensusError::LogThrottled { source })?;
        }
        let (responder, outcome) = ProposalResponder::new(permit);
        core.raft
            .client_write_ff(payload, Some(responder))
            .await
            .map_err(|fatal| core.fatal(fatal))?;
        Ok(Submitted {
            group: self.clone(),
            outcome,
        })
    }

    /// Waits until everything acknowledged before this call is applied here, and returns how far that is.
    ///
    /// One round to a majority, shared by all calls that are waiting. On a leader that was just elected it also waits
    /// for the entries of its predecessors.
    pub async fn read_index(&self) -> Result<LogIndex, ConsensusError> {
        let core = &self.core;
        let barrier = core
            .raft
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await
            .map_err(|error| match error {
                RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => core.not_leader(&forward),
                RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => {
                    ConsensusError::NoQuorum { group: core.id }
                }
                RaftError::Fatal(fatal) => core.fatal(fatal),
            })?;
        let ready = barrier
            .await_ready(&core.raft)
            .await
            .map_err(|fatal| core.fatal(fatal))?;
        Ok(LogIndex(ready.read_log_id().index() + 1))
    }

    /// Committed entries above `after`, up to and including `upto`, oldest first, and how far they reach: all of them,
    /// or the first ones up to about `bytes_max`. Entries without payload are skipped but count as reached.
    ///
    /// `upto` must not be above what was applied; what was handed to [`Machine::publish`] is not.
    ///
    /// Errors: `Rejected` when entries above `after` were purged.
    pub fn committed_entries(
        &self,
        after: LogIndex,
        upto: LogIndex,
        bytes_max: usize,
    ) -> Result<(Vec<(Applied, Payload)>, LogIndex), ConsensusError> {
        let core = &self.core;
        let status = core.status();
        if after < status.purged {
            return Err(ConsensusError::Purged {
                group: core.id,
                purged: status.purged,
            });
        }
        let read = core.log.read(first_above(after), first_above(upto), bytes_max);
        let entries = read.map_err(|source| match core.log.failure() {
            Some(source) => ConsensusError::Log { group: core.id, source },
            None => ConsensusError::Stopped {
                group: core.id,
                source: Box::new(source),
            },
        })?;
        if entries
            .first()
            .is_some_and(|entry| entry.log_id.index != first_above(after))
        {
            // Purged between the two looks.
            return Err(ConsensusError::Purged {
                group: core.id,
                purged: core.status().purged,
            });
        }
        let reached = entries.last().map_or(after, |entry| index_of(Some(&entry.log_id)));
        let with_payload = entries.into_iter().filter_map(|entry| match entry.payload {
            EntryPayload::Normal(payload) => {
                let at = Applied {
                    index: index_of(Some(&entry.log_id)),
                    term: entry.log_id.leader_id.term,
                };
                Some((at, payload))
            }
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        });
        Ok((with_payload.collect(), reached))
    }

    /// Takes a snapshot of the machine if it has anything newer to keep, and lets entries up to `upto` leave the log as
    /// far as the snapshot covers them. Returns how far the snapshot reaches.
    ///
    /// Every member does this for itself. Entries above `upto` but below the snapshot stay readable.
    pub async fn snapshot_and_purge(&self, upto: LogIndex, within: Duration) -> Result<LogIndex, ConsensusError> {
        let core = &self.core;
        let offered = core
            .raft
            .with_state_machine(|machine| {
                let offered = machine.offered_snapshot();
                Box::pin(async move { offered })
            })
            .await
            .map_err(|fatal| core.fatal(fatal))?;
        core.wait_for_snapshot(offered, within).await?;
        if let Some(upto) = raft_index(upto) {
            core.raft
                .trigger()
                .purge_log(upto)
                .await
                .map_err(|fatal| core.fatal(fatal))?;
        }
        Ok(core.status().snapshot)
    }

    /// [`Group::snapshot_and_purge`] of everything, but only when more than `entries_max` entries were applied since the
    /// last snapshot; says whether it did. To be called now and then for a group like the ring, whose log nobody reads.
    pub async fn shorten_log(&self, entries_max: u64, within: Duration) -> Result<bool, ConsensusError> {
        let status = self.status();
        if status.applied.0 - status.snapshot.0.min(status.applied.0) <= entries_max {
            return Ok(false);
        }
        self.snapshot_and_purge(status.applied, within).await?;
        Ok(true)
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leadership().current().leader
    }

    /// Whether this node leads. A leader that lost its majority finds out within an election timeout; only
    /// [`Group::read_index`] and [`Group::propose`] prove leadership.
    pub fn is_leader(&self) -> bool {
        self.leadership().current().is_leader
    }

    /// A view of who leads that can be awaited.
    pub fn leadership(&self) -> LeadershipWatch {
        LeadershipWatch::new(self.core.node, self.core.raft.server_metrics())
    }

    /// Positions and members, for metrics and decisions.
    pub fn status(&self) -> GroupStatus {
        self.core.status()
    }

    /// Waits until the machine has everything that this node may have applied before it was restarted. To be awaited
    /// once before serving. Needs a leader, hence a majority.
    pub async fn wait_recovered(&self, within: Duration) -> Result<(), ConsensusError> {
        let core = &self.core;
        match core.raft.wait_for_recovery(Some(within)).await {
            Ok(_) => Ok(()),
            Err(WaitError::Timeout(..)) => Err(ConsensusError::TimedOut {
                group: core.id,
                awaited: "recovery",
                within,
            }),
            Err(WaitError::ShuttingDown) => Err(core.stopped()),
        }
    }

    /// Gives leadership to `to`, which must be a voter, and waits until it leads.
    pub async fn transfer_leader(&self, to: NodeId, within: Duration) -> Result<(), ConsensusError> {
        let core = &self.core;
        let now = self.leadership().current();
        if now.leader == Some(to) {
            return Ok(());
        }
        if !now.is_leader {
            return Err(ConsensusError::NotLeader {
                group: core.id,
                leader: now.leader,
            });
        }
        core.raft
            .trigger()
            .transfer_leader(to.0)
            .await
            .map_err(|fatal| core.fatal(fatal))?;
        let mut leadership = self.leadership();
        let changed = tokio::time::timeout(within, leadership.wait_for(|now| now.leader == Some(to))).await;
        match changed {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(core.stopped()),
            Err(_) => Err(ConsensusError::TimedOut {
                group: core.id,
                awaited: "transfer of leadership",
                within,
            }),
        }
    }

    /// Stops taking part. What was proposed and not answered yet has an unknown outcome.
    pub async fn shutdown(&self) {
        self.core.shutdown().await;
    }
}

#[cfg(test)]
mod tests;
