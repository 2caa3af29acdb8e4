//! One machine of a run: its disk, its clock, and a whole node on it, which starts, stops, crashes and comes back.
//!
//! The node is the real one, from [`Node::open_on`] on; what is simulated is what it stands on. Its log and snapshots are on a
//! [`SimVfs`], which forgets what was not synced; its id, its spool and its caches are files in a folder of the real machine,
//! which lose nothing (the spool is emptied at every start, the id is synced before it is used).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use model::{NodeId, TenantId};
use parking_lot::Mutex;
use server::app::Common;
use server::cpu::CpuPool;
use server::ingest::IngestOutcome;
use server::node::Node;
use server::node::ground::{Ground, LogKeeper};
use server::node::observer::Observer;
use server::querier::{MetricsAnswer, MetricsQuestion, TraceAnswer, TraceQuestion};
use server::refusal::Refusal;
use settings::NodeSettings;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use wal::sim_vfs::Crash;
use wal::{SimVfs, Wal, WalError};

use crate::bucket::Bucket;
use crate::entropy::Dice;
use crate::host::Host;
use crate::net::{Net, Place};
use crate::world::{MachineClock, World};

/// Requests on their way into a node; more than clients ever have.
const DOOR: usize = 1024;

/// What a client or operator asks of a node.
#[derive(Debug)]
pub(crate) enum Request {
    Ingest {
        tenant: TenantId,
        body: Bytes,
        done: oneshot::Sender<Result<IngestOutcome, Refusal>>,
    },
    Trace {
        question: TraceQuestion,
        done: oneshot::Sender<Result<TraceAnswer, Refusal>>,
    },
    Metrics {
        question: MetricsQuestion,
        done: oneshot::Sender<Result<MetricsAnswer, Refusal>>,
    },
    /// An operator says that this node is lost for good.
    GiveUp(NodeId),
    /// Ends the node in an orderly way.
    Stop,
}

/// What all machines of a run have in common.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) world: Arc<World>,
    pub(crate) net: Net,
    pub(crate) bucket: Bucket,
    pub(crate) settings: NodeSettings,
    pub(crate) seed: u64,
}

/// How the log of a node is written: when the simulation says so.
#[derive(Default)]
struct Keeper {
    wal: Mutex<Option<Wal>>,
    has_failed: AtomicBool,
}

impl LogKeeper for Keeper {
    fn keep(&self, wal: Wal) {
        *self.wal.lock() = Some(wal);
    }

    fn failed(&self, _: &WalError) {
        self.has_failed.store(true, Ordering::Relaxed);
    }
}

/// What a running node shows.
#[derive(Default)]
struct Shown {
    observer: Mutex<Option<Observer>>,
    is_over: AtomicBool,
}

/// A process.
struct Life {
    host: Host,
    keeper: Arc<Keeper>,
    shown: Arc<Shown>,
    door: mpsc::Sender<Request>,
}

/// See the module's documentation.
pub(crate) struct Machine {
    pub(crate) place: Place,
    pub(crate) clock: Arc<MachineClock>,
    around: Surroundings,
    address: SocketAddr,
    disk: SimVfs,
    folder: TempDir,
    dice: Dice,
    life: Option<Life>,
    /// While it stands still, as by SIGSTOP.
    stopped_since: Option<u64>,
    next_write: u64,
    /// How long a write and sync of the log takes.
    pub(crate) sync_millis: (u64, u64),
    /// Whom an empty disk asks to be let in.
    pub(crate) join: Vec<SocketAddr>,
}

impl Machine {
    /// A machine with an empty disk, switched off.
    pub(crate) fn new(place: Place, around: Surroundings) -> anyhow::Result<Self> {
        let mut dice = Dice::of(around.seed, &format!("machine {place}"));
        Ok(Self {
            place,
            clock: Arc::new(MachineClock::new(Arc::clone(&around.world))),
            address: address_of(place),
            disk: SimVfs::new(dice.next()),
            folder: tempfile::Builder::new().prefix("vivace-sim-").tempdir()?,
            dice,
            life: None,
            stopped_since: None,
            next_write: 0,
            sync_millis: (1, 4),
            join: Vec::new(),
            around,
        })
    }

    fn note(&self, what: &str) {
        self.around.world.note(&format!("machine {}", self.place), what);
    }

    pub(crate) fn is_up(&self) -> bool {
        self.life.is_some()
    }

    /// What the node knows, once it is open.
    pub(crate) fn observer(&self) -> Option<Observer> {
        self.life.as_ref()?.shown.observer.lock().clone()
    }

    /// Starts the node on what is on the disk.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        if self.is_up() {
            return Ok(());
        }
        self.note("starts");
        self.disk.restart();
        let host = Host::new()?;
        let nic = self.around.net.nic(self.place, self.address);
        self.around.net.forget_former(self.place);
        let (keeper, shown) = (Arc::<Keeper>::default(), Arc::<Shown>::default());
        let (door, requests) = mpsc::channel(DOOR);
        let ground = Ground {
            vfs: Arc::new(self.disk.clone()),
            wires: Arc::new(nic),
            keeper: Some(Arc::clone(&keeper) as _),
        };
        let mut settings = self.around.settings.clone();
        settings.listen.peer = Some(self.address);
        settings.cluster.name = Some(format!("node-{}", self.place));
        settings.cluster.zone = format!("zone-{}", self.place % 3);
        settings.cluster.join = self.join.iter().map(ToString::to_string).collect();
        settings.node.data_dir = self.folder.path().to_owned();
        let mut common = Common::new(settings, Arc::clone(&self.clock) as _);
        // As many as the machine has would make runs differ between machines.
        common.cpu = CpuPool::new(2);
        let life = live(
            ground,
            common,
            self.around.bucket.clone(),
            requests,
            Arc::clone(&shown),
            Arc::clone(&self.around.world),
            self.place,
        );
        host.spawn(life);
        self.life = Some(Life {
            host,
            keeper,
            shown,
            door,
        });
        Ok(())
    }

    /// Ends the process at once. With `how` the power may go too.
    pub(crate) fn crash(&mut self, how: Crash) {
        let Some(life) = self.life.take() else { return };
        self.note(&format!("crashes, {how:?}"));
        self.stopped_since = None;
        self.around.net.vanish(self.place, how == Crash::KeepAll);
        self.disk.crash(how);
        drop(life);
    }

    /// Loses power in the middle of one of the next writes.
    pub(crate) fn crash_while_writing(&mut self, how: Crash) {
        let nth = self.dice.between(1, 6);
        self.disk.crash_in(nth, how);
    }

    /// The disk comes back empty: another node.
    pub(crate) fn wipe(&mut self) -> anyhow::Result<()> {
        self.crash(Crash::DropUnsynced);
        self.note("has an empty disk");
        self.disk = SimVfs::new(self.dice.next());
        // The same path: what is on it is new.
        for entry in std::fs::read_dir(self.folder.path())? {
            let path = entry?.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path)?
            } else {
                std::fs::remove_file(path)?
            }
        }
        Ok(())
    }

    /// Fails one of the next syncs.
    pub(crate) fn fail_sync(&mut self) {
        let nth = self.dice.between(1, 3);
        self.disk.fail_sync(nth);
    }

    /// Stands still from now on.
    pub(crate) fn stop_clock(&mut self) {
        if self.is_up() {
            self.note("stands still");
            self.stopped_since.get_or_insert(self.around.world.now_millis());
        }
    }

    /// Goes on, with all the time that has passed.
    pub(crate) fn go_on(&mut self) {
        if let (Some(since), Some(life)) = (self.stopped_since.take(), &self.life) {
            self.note("goes on");
            let missed = self.around.world.now_millis() - since;
            life.host.oversleep(Duration::from_millis(missed));
        }
    }

    /// Hands a request to the node; says whether there is one to take it.
    pub(crate) fn ask(&self, request: Request) -> bool {
        let life = self.life.as_ref();
        life.is_some_and(|life| life.door.try_send(request).is_ok())
    }

    /// One millisecond of its life.
    pub(crate) fn tick(&mut self) {
        if self.stopped_since.is_some() {
            return;
        }
        let Some(life) = &self.life else { return };
        let now = self.around.world.now_millis();
        if now >= self.next_write {
            let wal = life.keeper.wal.lock().clone();
            if let Some(wal) = wal
                && wal.drive()
            {
                self.around.world.count(b'w', self.place as u64, 0);
                self.next_write = now + self.dice.between(self.sync_millis.0, self.sync_millis.1);
            }
        }
        if self.disk.is_dead() {
            self.note("loses power while it writes");
            self.lose_power();
            return;
        }
        if life.keeper.has_failed.load(Ordering::Relaxed) {
            self.note("cannot write its log and ends");
            self.crash(Crash::KeepAll);
            return;
        }
        life.host.run(Duration::from_millis(1));
        if life.host.was_stuck() {
            self.around
                .world
                .broken("harness: runtime and threads waited for each other");
        }
        if life.shown.is_over.load(Ordering::Relaxed) {
            self.note("process ends");
            self.crash(Crash::KeepAll);
        }
    }

    fn lose_power(&mut self) {
        self.around.net.vanish(self.place, false);
        self.life = None;
    }
}

/// Where a machine is.
pub(crate) fn address_of(place: Place) -> SocketAddr {
    let last = u8::try_from(place + 1).unwrap_or(u8::MAX);
    SocketAddr::from(([127, 0, 0, last], 7946))
}

/// A node from its start to its end.
async fn live(
    ground: Ground,
    common: Common,
    bucket: Bucket,
    mut requests: mpsc::Receiver<Request>,
    shown: Arc<Shown>,
    world: Arc<World>,
    place: Place,
) {
    let node = match Node::open_on(ground, common, Arc::new(bucket)).await {
        Ok(node) => node,
        Err(error) => {
            world.note(&format!("machine {place}"), &format!("cannot open: {error:#}"));
            shown.is_over.store(true, Ordering::Relaxed);
            return;
        }
    };
    let observer = node.observer();
    *shown.observer.lock() = Some(observer.clone());
    let backend = node.backend();
    world.note(&format!("machine {place}"), "is open");
    while let Some(request) = requests.recv().await {
        match request {
            Request::Ingest { tenant, body, done } => {
                let ingest = Arc::clone(&backend.ingest);
                tokio::spawn(async move {
                    let _ = done.send(ingest.ingest(tenant, body).await);
                });
            }
            Request::Trace { question, done } => {
                let querier = Arc::clone(&backend.querier);
                tokio::spawn(async move {
                    let _ = done.send(querier.trace_by_id(question).await);
                });
            }
            Request::Metrics { question, done } => {
                let querier = Arc::clone(&backend.querier);
                tokio::spawn(async move {
                    let _ = done.send(querier.metrics(question, None).await);
                });
            }
            Request::GiveUp(node) => {
                let observer = observer.clone();
                tokio::spawn(async move {
                    // Who wants it asks again until it is so.
                    let _ = observer.give_up(node).await;
                });
            }
            Request::Stop => break,
        }
    }
    *shown.observer.lock() = None;
    drop(observer);
    (backend.close)().await;
    shown.is_over.store(true, Ordering::Relaxed);
}
