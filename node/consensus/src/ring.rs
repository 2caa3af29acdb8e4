//! The ring: the one group that knows who is in the cluster, who has which shard, and which blocks exist.
//!
//! [`RingState`] is pure: a command and the time stamp that came with it in, a changed state or a refusal out, the same
//! on every member. [`RingMachine`] lets a [`crate::Group`] replicate it and gives readers an immutable copy after every
//! run of commands. The ring is not on the path of a write: without it, spans are still taken and recent queries still
//! answered; only flushes and changes of the map wait.
//!
//! What always holds:
//! - The shards' ranges partition the hash space. A generation number is used once per shard, ever.
//! - A generation that was replaced stays listed as [`Sealed`] until blocks cover its log up to its last entry, so readers
//!   never lose sight of entries that an unaware leader still acknowledged.
//! - Ring time never goes backwards by itself. A jump of more than [`JUMP_NANOS`] makes it untrusted until it has gone on
//!   calmly for as long: then nothing may be deleted for its age.
//! - Whoever holds a lease has a fence number that nobody had before.
//! - A command that carries a [`Guard`] does nothing once that lease has passed on.
//! - Equal states encode to equal bytes; a snapshot taken and installed changes nothing.
//!
//! Not here: who decides what to propose (`server`), the catalog's rules ([`shard::catalog`]).

mod clock;
mod command;
mod encoding;
mod lease;
mod map;
mod node;
mod state;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use model::LogIndex;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::clock::{JUMP_NANOS, RingClock};
pub use self::command::{Body, Guard, RingChange, RingCommand, RingRefusal};
pub use self::encoding::RingDecodeError;
pub use self::lease::{LEASES_MAX, Lease, LeaseName, Leases};
pub use self::map::{HashRange, MEMBERS_MAX, SHARDS_MAX, Sealed, ShardMap, ShardRecord};
pub use self::node::{NODES_MAX, NodeRecord, NodeState};
pub use self::state::{RingState, SETTINGS_BYTES_MAX, TENANTS_MAX, TenantRecord};
use crate::payload::{Applied, Payload};
use crate::state_machine::{Machine, MachineError, MachineSnapshot, SnapshotPoint};

/// What the ring answers to a command.
pub type RingResponse = Result<RingChange, RingRefusal>;

/// The ring's state at some point of its log.
#[derive(Debug, Clone, Default)]
pub struct RingView {
    /// Which entries are in it.
    pub applied: LogIndex,
    /// What they add up to.
    pub state: RingState,
}

/// Answers that a member remembers. Whoever had a command proposed by the leader waits for it here for seconds; the ring
/// agrees on some tens of commands in a second.
const ANSWERS_MAX: usize = 4_096;

/// What the ring answered to its latest commands, on this member.
///
/// The same commands give the same answers everywhere, so a node that had another one propose for it learns the answer by
/// applying the command itself; then its own view shows the change too.
#[derive(Debug, Clone, Default)]
pub struct RingAnswers {
    latest: Arc<Mutex<VecDeque<(LogIndex, RingResponse)>>>,
}

impl RingAnswers {
    /// The answer to the command at `index`. `None` when it was not applied here yet, came with a snapshot, or was too
    /// long ago.
    pub fn at(&self, index: LogIndex) -> Option<RingResponse> {
        let latest = self.latest.lock();
        let at = latest.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        latest.get(at).map(|(_, response)| response.clone())
    }

    fn push(&self, index: LogIndex, response: &RingResponse) {
        let mut latest = self.latest.lock();
        if latest.len() == ANSWERS_MAX {
            latest.pop_front();
        }
        latest.push_back((index, response.clone()));
    }
}

/// The machine of [`crate::GroupId::Ring`].
#[derive(Debug)]
pub struct RingMachine {
    state: RingState,
    readers: watch::Sender<Arc<RingView>>,
    answers: RingAnswers,
}

impl RingMachine {
    /// An empty ring, and the view that readers keep. The view follows the state, also over installs of snapshots.
    pub fn new() -> (Self, watch::Receiver<Arc<RingView>>) {
        let (readers, view) = watch::channel(Arc::default());
        (
            Self {
                state: RingState::default(),
                readers,
                answers: RingAnswers::default(),
            },
            view,
        )
    }

    /// The latest answers, from now on.
    pub fn answers(&self) -> RingAnswers {
        self.answers.clone()
    }
}

impl Machine for RingMachine {
    type Response = RingResponse;

    fn apply(&mut self, at: Applied, payload: Payload) -> Result<RingResponse, MachineError> {
        let command = RingCommand::decode(payload.data()).map_err(|error| MachineError(error.into()))?;
        let response = self.state.apply(command);
        self.answers.push(at.index, &response);
        Ok(response)
    }

    fn publish(&mut self, applied: LogIndex) {
        self.readers.send_replace(Arc::new(RingView {
            applied,
            state: self.state.clone(),
        }));
    }

    fn snapshot(&self) -> MachineSnapshot {
        MachineSnapshot {
            point: SnapshotPoint::Applied,
            state: self.state.encode().into(),
        }
    }

    fn install(&mut self, _: LogIndex, state: Bytes) -> Result<(), MachineError> {
        self.state = RingState::decode(&state).map_err(|error| MachineError(error.into()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
