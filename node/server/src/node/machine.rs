//! A shard as a state machine of its group: consensus calls, the shard does.

use std::sync::Arc;

use bytes::Bytes;
use consensus::{Applied, Machine, MachineError, MachineSnapshot, Payload, SnapshotPoint};
use model::LogIndex;
use shard::owner::{Appended, Shard};
use wire::frame::SubBatch;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ShardMachine {
    shard: Arc<Shard>,
}

impl ShardMachine {
    pub(super) fn new(shard: Arc<Shard>) -> Self {
        Self { shard }
    }
}

impl Machine for ShardMachine {
    type Response = Appended;

    fn apply(&mut self, at: Applied, payload: Payload) -> Result<Appended, MachineError> {
        let hint = payload.hint::<Vec<SubBatch>>();
        let hint = hint.as_ref().map(|sub_batches| sub_batches.as_slice());
        self.shard
            .apply(at.index, payload.data(), hint)
            .map_err(|error| MachineError(error.into()))
    }

    fn publish(&mut self, applied: LogIndex) {
        self.shard.pass(applied);
    }

    fn snapshot(&self) -> MachineSnapshot {
        let (at, state) = self.shard.snapshot();
        MachineSnapshot {
            point: SnapshotPoint::At(at),
            state,
        }
    }

    fn install(&mut self, at: LogIndex, state: Bytes) -> Result<(), MachineError> {
        self.shard
            .install(at, state)
            .map_err(|error| MachineError(error.into()))
    }
}
