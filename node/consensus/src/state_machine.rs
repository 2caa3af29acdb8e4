//! From openraft's state machine to ours.
//!
//! A [`Machine`] is a plain synchronous object that turns committed entries into state, in order, once each. This file
//! feeds it: in runs, giving the runtime back between them, and answering proposers only after the machine had the
//! chance to publish a run to its readers, so that whoever was answered can read what was written.
//!
//! A snapshot may describe an older state than the one applied ([`SnapshotPoint::At`]): a shard's snapshot stands at its
//! flush watermark and the log keeps the live tail above it. To label such a snapshot, [`History`] remembers which
//! leader wrote which range since the last snapshot, and which membership held.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use model::LogIndex;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, Snapshot};
use parking_lot::Mutex;

use crate::log_store::EntryCache;
use crate::payload::{Applied, GroupId, Payload};
use crate::raft::{Entry, LeaderId, LogId, SnapshotMeta, StoredMembership, Types, index_of};
use crate::snapshot::SnapshotFile;

/// After this many bytes applied in one go the runtime gets a turn: a machine that decodes spends about 2 ms on them.
const RUN_BYTES: usize = 512 << 10;
/// And after this many entries.
const RUN_ENTRIES: usize = 64;

/// What a group replicates.
///
/// Called from one task at a time, always in log order. After a restart the machine is new: it gets
/// [`Machine::install`] with the last snapshot if there is one, then every committed entry above it again.
pub trait Machine: Send + 'static {
    /// What [`crate::Group::propose`] answers.
    type Response: Send + Sync + 'static;

    /// Takes in one committed entry. Must depend on nothing but the state and the arguments.
    ///
    /// Errors stop the group for good, on every member alike: they are for entries that cannot be understood, such as
    /// those of a newer program. A command that is understood but refused is a response.
    fn apply(&mut self, at: Applied, payload: Payload) -> Result<Self::Response, MachineError>;

    /// Makes everything up to `applied` visible to readers; called after every run of entries, before their proposers
    /// are answered, and after [`Machine::install`]. `applied` also counts entries that carry no payload.
    fn publish(&mut self, applied: LogIndex) {
        let _ = applied;
    }

    /// The state to keep. Everything at or below the point may then leave the log.
    fn snapshot(&self) -> MachineSnapshot;

    /// Replaces the state by a snapshot that was taken at `at`.
    fn install(&mut self, at: LogIndex, state: Bytes) -> Result<(), MachineError>;
}

/// A machine's state at some point of its log.
#[derive(Debug, Clone)]
pub struct MachineSnapshot {
    /// Which entries are in it.
    pub point: SnapshotPoint,
    /// The state, in the machine's own versioned bytes.
    pub state: Bytes,
}

/// Which entries a snapshot contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPoint {
    /// All that were applied.
    Applied,
    /// Those up to this index and none above; must not be above what was applied. Index 0 means that there is nothing
    /// to keep yet.
    At(LogIndex),
}

/// A committed entry or a snapshot that the machine does not understand.
#[derive(Debug, thiserror::Error)]
#[error("machine cannot go on")]
pub struct MachineError(#[source] pub Box<dyn Error + Send + Sync + 'static>);

/// A response whose type only the group's handle knows. `None` for entries without payload.
#[derive(Debug)]
pub(crate) struct Answer(pub(crate) Option<Box<dyn Any + Send + Sync>>);

/// A machine whose response type is erased, so that openraft is compiled once for all groups.
pub(crate) trait ErasedMachine: Send {
    fn apply(&mut self, at: Applied, payload: Payload) -> Result<Answer, MachineError>;
    fn publish(&mut self, applied: LogIndex);
    fn snapshot(&self) -> MachineSnapshot;
    fn install(&mut self, at: LogIndex, state: Bytes) -> Result<(), MachineError>;
}

impl<M: Machine> ErasedMachine for M {
    fn apply(&mut self, at: Applied, payload: Payload) -> Result<Answer, MachineError> {
        let response = Machine::apply(self, at, payload)?;
        Ok(Answer(Some(Box::new(response))))
    }

    fn publish(&mut self, applied: LogIndex) {
        Machine::publish(self, applied);
    }

    fn snapshot(&self) -> MachineSnapshot {
        Machine::snapshot(self)
    }

    fn install(&mut self, at: LogIndex, state: Bytes) -> Result<(), MachineError> {
        Machine::install(self, at, state)
    }
}

/// Which leader wrote what, and who the members were, from the last snapshot to the last applied entry.
#[derive(Debug, Default)]
struct History {
    /// (first openraft index, leader), ascending. Grows by one per change of leader.
    leaders: Vec<(u64, LeaderId)>,
    /// Memberships in force, ascending by their own position. The first may be older than the snapshot.
    memberships: Vec<StoredMembership>,
}

impl History {
    fn note(&mut self, entry: &Entry) {
        if self
            .leaders
            .last()
            .is_none_or(|(_, leader)| *leader != entry.log_id.leader_id)
        {
            self.leaders.push((entry.log_id.index, entry.log_id.leader_id));
        }
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.memberships
                .push(StoredMembership::new(Some(entry.log_id), membership.clone()));
        }
    }

    fn restart(&mut self, meta: &SnapshotMeta) {
        self.leaders = meta.last_log_id.iter().map(|id| (id.index, id.leader_id)).collect();
        self.memberships = vec![meta.last_membership.clone()];
    }

    fn log_id(&self, raft_index: u64) -> Option<LogId> {
        let after = self.leaders.partition_point(|(first, _)| *first <= raft_index);
        let (_, leader) = self.leaders.get(after.checked_sub(1)?)?;
        Some(LogId::new(*leader, raft_index))
    }

    fn membership(&self, raft_index: u64) -> StoredMembership {
        let in_force = |m: &&StoredMembership| m.log_id().is_none_or(|id| id.index <= raft_index);
        self.memberships
            .iter()
            .take_while(in_force)
            .last()
            .cloned()
            .unwrap_or_default()
    }

    /// Forgets what lies below a snapshot.
    fn trim(&mut self, raft_index: u64) {
        let leaders = self
            .leaders
            .partition_point(|(first, _)| *first <= raft_index)
            .saturating_sub(1);
        self.leaders.drain(..leaders);
        let below = |m: &StoredMembership| m.log_id().is_none_or(|id| id.index <= raft_index);
        let memberships = self
            .memberships
            .iter()
            .take_while(|m| below(m))
            .count()
            .saturating_sub(1);
        self.memberships.drain(..memberships);
    }
}

/// The adapter: one per group, owned by openraft's worker task.
pub(crate) struct StateMachine {
    group: GroupId,
    /// A mutex only because openraft wants `Sync`; it is never contended.
    machine: Mutex<Box<dyn ErasedMachine>>,
    applied: Option<LogId>,
    history: History,
    file: Arc<SnapshotFile>,
    cache: Arc<EntryCache>,
}

impl StateMachine {
    pub(crate) fn new(
        group: GroupId,
        machine: Box<dyn ErasedMachine>,
        file: Arc<SnapshotFile>,
        cache: Arc<EntryCache>,
    ) -> Self {
        Self {
            group,
            machine: Mutex::new(machine),
            applied: None,
            history: History::default(),
            file,
            cache,
        }
    }

    fn apply_entry(&mut self, entry: Entry) -> io::Result<Answer> {
        self.history.note(&entry);
        let log_id = entry.log_id;
        let answer = match entry.payload {
            EntryPayload::Blank | EntryPayload::Membership(_) => Answer(None),
            EntryPayload::Normal(payload) => {
                let at = Applied {
                    index: index_of(Some(&log_id)),
                    term: log_id.leader_id.term,
                };
                self.machine
                    .get_mut()
                    .apply(at, payload)
                    .map_err(|error| self.stop(at.index, error))?
            }
        };
        self.applied = Some(log_id);
        Ok(answer)
    }

    fn stop(&self, index: LogIndex, error: MachineError) -> io::Error {
        tracing::error!(group = %self.group, %index, error = ?error, "the group stops: its machine cannot go on");
        io::Error::other(error)
    }

    fn finish_run(&mut self, run: &mut Vec<(ApplyResponder<Types>, Answer)>) {
        let applied = index_of(self.applied.as_ref());
        self.machine.get_mut().publish(applied);
        self.cache.release(applied);
        run.drain(..).for_each(|(responder, answer)| responder.send(answer));
    }

    /// Up to where a snapshot taken now, or the current one, reaches.
    pub(crate) fn offered_snapshot(&mut self) -> Option<LogId> {
        let next = self.next_snapshot().and_then(|(meta, _)| meta.last_log_id);
        next.or_else(|| self.file.current().and_then(|meta| meta.last_log_id))
    }

    /// What a snapshot taken now would be; `None` if it would not be newer than the current one.
    fn next_snapshot(&mut self) -> Option<(SnapshotMeta, Bytes)> {
        let taken = self.machine.get_mut().snapshot();
        let applied = self.applied?;
        let last_log_id = match taken.point {
            SnapshotPoint::Applied => applied,
            SnapshotPoint::At(index) => {
                let raft_index = crate::raft::raft_index(index)?;
                assert!(
                    raft_index <= applied.index,
                    "a snapshot must not be ahead of what was applied"
                );
                self.history.log_id(raft_index)?
            }
        };
        if let Some(current) = self.file.current().and_then(|meta| meta.last_log_id) {
            if current.index >= last_log_id.index {
                return None;
            }
            self.history.trim(current.index);
        }
        let last_membership = self.history.membership(last_log_id.index);
        Some((
            SnapshotMeta {
                last_log_id: Some(last_log_id),
                last_membership,
            },
            taken.state,
        ))
    }
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine")
            .field("group", &self.group)
            .field("applied", &self.applied)
            .finish()
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let membership = self.history.memberships.last().cloned().unwrap_or_default();
        Ok((self.applied, membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        let mut run = Vec::new();
        let (mut entries_in_run, mut bytes_in_run) = (0, 0);
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            entries_in_run += 1;
            if let EntryPayload::Normal(payload) = &entry.payload {
                bytes_in_run += payload.data().len();
            }
            let answer = self.apply_entry(entry)?;
            run.extend(responder.map(|responder| (responder, answer)));
            if entries_in_run >= RUN_ENTRIES || bytes_in_run >= RUN_BYTES {
                self.finish_run(&mut run);
                (entries_in_run, bytes_in_run) = (0, 0);
                tokio::task::yield_now().await;
            }
        }
        self.finish_run(&mut run);
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        let next = self.next_snapshot();
        if next.is_none() && !force {
            return None;
        }
        Some(SnapshotBuilder {
            file: self.file.clone(),
            next,
        })
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let next = self.next_snapshot();
        SnapshotBuilder {
            file: self.file.clone(),
            next,
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, state: Bytes) -> io::Result<()> {
        let at = index_of(meta.last_log_id.as_ref());
        self.file.install(meta, &state)?;
        self.machine
            .get_mut()
            .install(at, state)
            .map_err(|error| self.stop(at, error))?;
        self.applied = meta.last_log_id;
        self.history.restart(meta);
        self.machine.get_mut().publish(at);
        self.cache.release(at);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<LeaderId, u64, openraft::EmptyNode, Bytes>>> {
        Ok(self.file.read()?.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Writes a snapshot whose content was taken when the builder was made.
pub(crate) struct SnapshotBuilder {
    file: Arc<SnapshotFile>,
    /// `None` when there is nothing newer than what the file holds.
    next: Option<(SnapshotMeta, Bytes)>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = Bytes;

    /// Writes on a thread that may wait for the disk: a few megabytes and a sync would hold up one of few workers.
    ///
    /// A disk that does not take the snapshot is no error: to openraft that would be the end of the group, and all that is
    /// lost is that the log stays as long as it is. Whoever waits for the snapshot asks again.
    async fn build_snapshot(&mut self) -> io::Result<Snapshot<LeaderId, u64, openraft::EmptyNode, Bytes>> {
        let (file, next) = (self.file.clone(), self.next.take());
        let write = move || {
            if let Some((meta, snapshot)) = next {
                match file.store(&meta, &snapshot) {
                    Ok(stored) if stored == meta => return Ok(Snapshot { meta, snapshot }),
                    Ok(_) => {}
                    Err(error) => tracing::error!(%error, file = ?file, "cannot write a snapshot; the old one stays"),
                }
            }
            // Without any, the snapshot of the beginning: openraft asks for one when it opens a log that was purged.
            // Ours was not, or `Groups::open` would have refused it.
            let (meta, snapshot) = file.read()?.unwrap_or_else(|| (SnapshotMeta::default(), Bytes::new()));
            Ok(Snapshot { meta, snapshot })
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests;
