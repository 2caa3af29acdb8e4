//! All groups of one node: one log, one directory of snapshots, one budget, one door for peers.
//!
//! After a restart [`Groups::on_disk`] says which groups this node was a member of; each is opened with a new machine and
//! comes back as far as it can alone. A group whose log was damaged refuses to open with [`crate::Kind::Corrupt`]: it
//! may have promised a vote that is gone, so it must not take part again, see [`Groups::forget`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::BoxStream;
use model::NodeId;
use parking_lot::Mutex;
use wal::{Vfs, Wal};

use crate::error::ConsensusError;
use crate::group::proposal::Budget;
use crate::group::{Core, GROUP_IN_FLIGHT_BYTES_MAX, Group, NODE_IN_FLIGHT_BYTES_MAX, Raft, stopped_by};
use crate::log_store::{EntryCache, LogStore, group_key, group_of};
use crate::network::{PeerError, PeerMessage, PeerNetwork, Peers, StreamLimits};
use crate::payload::GroupId;
use crate::raft::{Timing, index_of};
use crate::snapshot::SnapshotFile;
use crate::state_machine::{Machine, StateMachine};

/// Bytes of entries kept as objects until they are applied, per group. As much as may be proposed and not answered.
const ENTRY_CACHE_BYTES_MAX: usize = GROUP_IN_FLIGHT_BYTES_MAX;
/// For a whole snapshot, at 2 MB/s for the largest ring.
const SNAPSHOT_TRANSFER_MAX: Duration = Duration::from_secs(30);

/// What a node decides once about its groups.
#[derive(Debug, Clone)]
pub struct GroupsOptions {
    /// This node.
    pub node: NodeId,
    /// Named in telemetry.
    pub cluster: String,
    /// Where snapshots live; beside the log, on the same disk. Must exist.
    pub snapshot_dir: PathBuf,
    /// How patient the groups are.
    pub timing: Timing,
    /// Bytes of proposals under way in one group.
    pub group_in_flight_bytes_max: usize,
    /// Bytes of proposals under way in all groups.
    pub node_in_flight_bytes_max: usize,
}

impl GroupsOptions {
    /// The defaults for a node.
    pub fn new(node: NodeId, cluster: impl Into<String>, snapshot_dir: impl Into<PathBuf>) -> Self {
        Self {
            node,
            cluster: cluster.into(),
            snapshot_dir: snapshot_dir.into(),
            timing: Timing::default(),
            group_in_flight_bytes_max: GROUP_IN_FLIGHT_BYTES_MAX,
            node_in_flight_bytes_max: NODE_IN_FLIGHT_BYTES_MAX,
        }
    }
}

/// The groups of one node. Clones share them.
#[derive(Clone)]
pub struct Groups {
    inner: Arc<Inner>,
}

struct Inner {
    options: GroupsOptions,
    config: Arc<openraft::Config>,
    wal: Wal,
    vfs: Arc<dyn Vfs>,
    network: Arc<dyn PeerNetwork>,
    budget: Arc<Budget>,
    open: Mutex<BTreeMap<GroupId, Slot>>,
}

/// A group that is being opened holds its place, so that it is opened once.
enum Slot {
    Opening,
    Open(Arc<Core>),
}

impl Groups {
    /// Groups on this log; none is open yet.
    pub fn new(
        options: GroupsOptions,
        wal: Wal,
        vfs: Arc<dyn Vfs>,
        network: Arc<dyn PeerNetwork>,
    ) -> Result<Self, ConsensusError> {
        let config = options.timing.config(options.cluster.clone());
        let config = config.map_err(|source| ConsensusError::Timing {
            source: Box::new(source),
        })?;
        let budget = Budget::new(options.node_in_flight_bytes_max);
        let open = Mutex::new(BTreeMap::new());
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                config,
                wal,
                vfs,
                network,
                budget,
                open,
            }),
        })
    }

    /// Groups that this node's log knows, open or not.
    pub fn on_disk(&self) -> Vec<GroupId> {
        self.inner.wal.groups().into_iter().filter_map(group_of).collect()
    }

    /// Groups that are open.
    pub fn open_groups(&self) -> Vec<GroupId> {
        self.inner.open.lock().keys().copied().collect()
    }

    /// Bytes of proposals under way in all groups.
    pub fn in_flight_bytes(&self) -> usize {
        self.inner.budget.in_flight_bytes()
    }

    /// Opens a group: installs its snapshot into `machine`, applies what is known to be committed, and takes part.
    ///
    /// A group that never was is empty and waits for [`Group::found`] or for a leader. A group of one voter leads, with
    /// everything applied, within milliseconds; await [`Group::wait_recovered`] before serving from any group.
    ///
    /// Errors: `Corrupt` when its log or snapshot was damaged.
    ///
    /// Cancel: do not; the group would stay half open until the node restarts.
    pub async fn open<M: Machine>(&self, id: GroupId, machine: M) -> Result<Group<M>, ConsensusError> {
        match self.inner.open.lock().entry(id) {
            Entry::Occupied(_) => return Err(ConsensusError::AlreadyOpen { group: id }),
            Entry::Vacant(place) => place.insert(Slot::Opening),
        };
        let built = self.build(id, machine).await;
        let mut open = self.inner.open.lock();
        match built {
            Ok(core) => {
                open.insert(id, Slot::Open(core.clone()));
                Ok(Group::new(core))
            }
            Err(error) => {
                open.remove(&id);
                Err(error)
            }
        }
    }

    async fn build<M: Machine>(&self, id: GroupId, machine: M) -> Result<Arc<Core>, ConsensusError> {
        let inner = &*self.inner;
        let cache = Arc::new(EntryCache::new(ENTRY_CACHE_BYTES_MAX));
        let log = LogStore::open(inner.wal.clone(), id, cache.clone())?;
        let file = Arc::new(SnapshotFile::open(inner.vfs.clone(), &inner.options.snapshot_dir, id)?);
        let snapshot = index_of(file.current().and_then(|meta| meta.last_log_id).as_ref());
        let purged = log.purged();
        if snapshot < purged {
            return Err(ConsensusError::SnapshotMissing {
                group: id,
                purged,
                snapshot,
            });
        }
        let machine = StateMachine::new(id, Box::new(machine), file.clone(), cache);
        let limits = StreamLimits {
            stall_max: inner.options.timing.election_max,
            snapshot_max: SNAPSHOT_TRANSFER_MAX,
        };
        let peers = Peers {
            network: inner.network.clone(),
            group: id,
            limits,
        };
        let node = inner.options.node;
        let raft = Raft::new(node.0, inner.config.clone(), peers, log.clone(), machine).await;
        let raft = raft.map_err(|fatal| stopped_by(id, &log, fatal))?;
        let core = Arc::new(Core {
            id,
            node,
            raft,
            log,
            wal: inner.wal.clone(),
            snapshots: file,
            receiving: tokio::sync::Mutex::new(()),
            budget: Budget::new(inner.options.group_in_flight_bytes_max),
            node_budget: inner.budget.clone(),
            closing: AtomicBool::new(false),
        });
        if core.knows_it_is_sole_voter().await? {
            core.elect().await?;
        }
        Ok(core)
    }

    fn find(&self, id: GroupId) -> Option<Arc<Core>> {
        match self.inner.open.lock().get(&id)? {
            Slot::Open(core) => Some(core.clone()),
            Slot::Opening => None,
        }
    }

    /// Answers a peer.
    pub async fn answer(&self, to: GroupId, message: PeerMessage) -> Result<PeerMessage, PeerError> {
        self.reached(to)?.answer(message).await
    }

    /// Answers a stream of appends from a peer, in order; ends when the requests end.
    pub fn answer_stream(
        &self,
        to: GroupId,
        messages: BoxStream<'static, PeerMessage>,
    ) -> Result<BoxStream<'static, Result<PeerMessage, PeerError>>, PeerError> {
        Ok(self.reached(to)?.answer_stream(messages))
    }

    fn reached(&self, to: GroupId) -> Result<Arc<Core>, PeerError> {
        self.find(to)
            .ok_or_else(|| PeerError::Refused(ConsensusError::NotOpen { group: to }.into()))
    }

    /// Gives away every leadership that another voter can take; for a planned stop. Groups that nobody can take, such
    /// as those of one voter, keep it.
    pub async fn resign(&self, within: Duration) {
        let cores = self.cores();
        join_all(cores.iter().map(|core| core.resign(within))).await;
    }

    /// Closes one group; its data stays.
    pub async fn close(&self, id: GroupId) {
        let slot = self.inner.open.lock().remove(&id);
        if let Some(Slot::Open(core)) = slot {
            core.shutdown().await;
        }
    }

    /// Closes a group and removes it from this node for good: a generation that was retired, or one whose log is damaged.
    pub async fn forget(&self, id: GroupId) -> Result<(), ConsensusError> {
        self.close(id).await;
        let inner = &*self.inner;
        let key = group_key(id)?;
        // The log first: a snapshot without a log is found and removed here again, a log without its snapshot could not
        // be opened.
        let (done, durable) = tokio::sync::oneshot::channel();
        let log_error = |source| ConsensusError::Log { group: id, source };
        let completion = Box::new(move |result| {
            let _ = done.send(result);
        });
        inner.wal.drop_group(key, completion).map_err(log_error)?;
        durable
            .await
            .map_err(|_| log_error(wal::WalError::Closed))?
            .map_err(log_error)?;
        SnapshotFile::remove(&*inner.vfs, &inner.options.snapshot_dir, id)
    }

    /// Closes all groups. The log stays open: it belongs to who opened it.
    pub async fn shutdown(&self) {
        let slots = std::mem::take(&mut *self.inner.open.lock());
        let cores = slots.into_values().filter_map(|slot| match slot {
            Slot::Open(core) => Some(core),
            Slot::Opening => None,
        });
        join_all(cores.map(|core| async move { core.shutdown().await })).await;
    }

    fn cores(&self) -> Vec<Arc<Core>> {
        let open = self.inner.open.lock();
        let cores = open.values().filter_map(|slot| match slot {
            Slot::Open(core) => Some(core.clone()),
            Slot::Opening => None,
        });
        cores.collect()
    }

    /// A handle that does not keep the groups alive.
    pub(crate) fn downgrade(&self) -> WeakGroups {
        WeakGroups {
            inner: Arc::downgrade(&self.inner),
        }
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups")
            .field("node", &self.inner.options.node)
            .field("open", &self.open_groups())
            .finish()
    }
}

/// See [`Groups::downgrade`].
#[derive(Clone)]
pub(crate) struct WeakGroups {
    inner: Weak<Inner>,
}

impl WeakGroups {
    pub(crate) fn upgrade(&self) -> Option<Groups> {
        Some(Groups {
            inner: self.inner.upgrade()?,
        })
    }
}

#[cfg(test)]
mod tests;
