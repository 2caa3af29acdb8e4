//! Nodes for tests: a simulated disk that survives the node, a network in memory, and a machine that keeps a journal.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{LogIndex, NodeId};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use wal::sim_vfs::Crash;
use wal::{Drive, SimVfs, Vfs, Wal, WalOptions};

use crate::{
    Applied, ConsensusError, Group, GroupId, Groups, GroupsOptions, Machine, MachineError, MachineSnapshot,
    MemoryNetwork, Payload, SnapshotPoint, Timing,
};

pub(crate) const WAL_DIR: &str = "/data/wal";
pub(crate) const SNAPSHOT_DIR: &str = "/data/snapshots";
/// For everything that should take milliseconds; only a failing test waits this long.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What one machine has seen. The test keeps a clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// Payloads in the order they were applied; from a snapshot or one by one.
    entries: Vec<(u64, Bytes)>,
    /// How many of them this machine applied itself.
    applied: usize,
    with_hint: usize,
    published: LogIndex,
    installs: Vec<LogIndex>,
    snapshot_at: Option<LogIndex>,
}

impl Journal {
    pub(crate) fn texts(&self) -> Vec<String> {
        self.0
            .lock()
            .entries
            .iter()
            .map(|(_, data)| String::from_utf8_lossy(data).into_owned())
            .collect()
    }

    pub(crate) fn applied_here(&self) -> usize {
        self.0.lock().applied
    }

    pub(crate) fn with_hint(&self) -> usize {
        self.0.lock().with_hint
    }

    pub(crate) fn published(&self) -> LogIndex {
        self.0.lock().published
    }

    pub(crate) fn installs(&self) -> Vec<LogIndex> {
        self.0.lock().installs.clone()
    }

    /// From now on snapshots are taken at this index instead of at the end.
    pub(crate) fn snapshot_at(&self, index: LogIndex) {
        self.0.lock().snapshot_at = Some(index);
    }
}

/// Keeps everything, answers with how much there is. Refuses to understand "poison".
pub(crate) struct JournalMachine(pub(crate) Journal);

impl Machine for JournalMachine {
    type Response = usize;

    fn apply(&mut self, at: Applied, payload: Payload) -> Result<usize, MachineError> {
        if payload.data() == "poison" {
            return Err(MachineError("an entry of a newer program".into()));
        }
        let mut seen = self.0.0.lock();
        let last = seen.entries.last().map_or(0, |(index, _)| *index);
        assert!(at.index.0 > last, "entry {} applied after {last}", at.index);
        seen.with_hint += usize::from(payload.hint::<String>().is_some());
        seen.applied += 1;
        seen.entries.push((at.index.0, payload.data().clone()));
        Ok(seen.entries.len())
    }

    fn publish(&mut self, applied: LogIndex) {
        self.0.0.lock().published = applied;
    }

    fn snapshot(&self) -> MachineSnapshot {
        let seen = self.0.0.lock();
        let point = seen.snapshot_at.map_or(SnapshotPoint::Applied, SnapshotPoint::At);
        let mut state = Vec::new();
        for (index, data) in &seen.entries {
            if seen.snapshot_at.is_none_or(|at| *index <= at.0) {
                state.extend_from_slice(&index.to_le_bytes());
                state.extend_from_slice(&(data.len() as u64).to_le_bytes());
                state.extend_from_slice(data);
            }
        }
        MachineSnapshot {
            point,
            state: state.into(),
        }
    }

    fn install(&mut self, at: LogIndex, state: Bytes) -> Result<(), MachineError> {
        let mut entries = Vec::new();
        let mut rest = &state[..];
        while !rest.is_empty() {
            let index = u64::from_le_bytes(rest[..8].try_into().unwrap());
            let length = u64::from_le_bytes(rest[8..16].try_into().unwrap()) as usize;
            entries.push((index, Bytes::copy_from_slice(&rest[16..16 + length])));
            rest = &rest[16 + length..];
        }
        let mut seen = self.0.0.lock();
        seen.entries = entries;
        seen.installs.push(at);
        Ok(())
    }
}

/// One node that is up.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) vfs: SimVfs,
    pub(crate) wal: Wal,
    pub(crate) groups: Groups,
    /// Writes the log when time is simulated; `None` when the log has threads of its own.
    driver: Option<JoinHandle<()>>,
}

/// Fast, but not so fast that a busy machine deposes leaders.
pub(crate) fn quick() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(400),
        election_max: Duration::from_millis(800),
    }
}

impl Node {
    pub(crate) fn options(id: NodeId) -> GroupsOptions {
        GroupsOptions {
            timing: quick(),
            ..GroupsOptions::new(id, "test", SNAPSHOT_DIR)
        }
    }

    /// Starts a node on this disk.
    pub(crate) fn start(id: u64, vfs: SimVfs, network: &MemoryNetwork) -> Self {
        Self::start_with(Self::options(NodeId(id)), vfs, network)
    }

    pub(crate) fn start_with(options: GroupsOptions, vfs: SimVfs, network: &MemoryNetwork) -> Self {
        Self::start_driven(options, vfs, network, Drive::Threads)
    }

    /// Starts a node whose log is written by a task, once per simulated millisecond: with paused time nothing depends on
    /// how busy the machine is.
    pub(crate) fn start_simulated(options: GroupsOptions, vfs: SimVfs, network: &MemoryNetwork) -> Self {
        let mut node = Self::start_driven(options, vfs, network, Drive::Manual);
        let wal = node.wal.clone();
        node.driver = Some(tokio::spawn(async move {
            loop {
                while wal.drive() {}
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }));
        node
    }

    fn start_driven(options: GroupsOptions, vfs: SimVfs, network: &MemoryNetwork, drive: Drive) -> Self {
        let id = options.node;
        let shared: Arc<dyn Vfs> = Arc::new(vfs.clone());
        let wal_options = WalOptions {
            segment_bytes: 1 << 20,
            quota_bytes: 64 << 20,
            drive,
            ..WalOptions::new(id.0)
        };
        let (wal, _) = Wal::open(shared.clone(), Path::new(WAL_DIR), wal_options).unwrap();
        shared.create_dir(Path::new(SNAPSHOT_DIR)).unwrap();
        let groups = Groups::new(options, wal.clone(), shared, network.of(id)).unwrap();
        network.attach(id, &groups);
        Self {
            id,
            vfs,
            wal,
            groups,
            driver: None,
        }
    }

    /// Opens the ring with a new machine.
    pub(crate) async fn open(&self) -> (Group<JournalMachine>, Journal) {
        let journal = Journal::default();
        let group = self
            .groups
            .open(GroupId::Ring, JournalMachine(journal.clone()))
            .await
            .unwrap();
        (group, journal)
    }

    /// What the disk holds if the power goes now.
    pub(crate) fn disk_after(&self, crash: Crash) -> SimVfs {
        self.vfs.crashed_copy(1, crash)
    }

    /// Ends the node as a test that is done with it does.
    pub(crate) async fn stop(self) -> SimVfs {
        self.groups.shutdown().await;
        if let Some(driver) = self.driver {
            driver.abort();
        }
        self.wal.close();
        self.vfs
    }
}

/// A node that is alone, with its ring founded.
pub(crate) async fn single() -> (Node, Group<JournalMachine>, Journal) {
    let node = Node::start(1, SimVfs::new(1), &MemoryNetwork::new());
    let (group, journal) = node.open().await;
    group.found(&BTreeSet::from([node.id])).await.unwrap();
    (node, group, journal)
}

pub(crate) async fn propose(group: &Group<JournalMachine>, text: &str) -> Result<LogIndex, ConsensusError> {
    group
        .propose(Payload::new(text.to_owned()))
        .await
        .map(|(index, _)| index)
}

/// Waits for a condition that some task will make true.
pub(crate) async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let waiting = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(SOON, waiting).await.is_ok(),
        "{what} did not come true"
    );
}
