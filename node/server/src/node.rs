//! A node behind its doors: log, ring, shards, blocks, and the tasks that move spans between them.
//!
//! Owns [`Node`]. [`Node::open`] builds the rooms in the order in which they need each other and comes back when
//! everything acknowledged before is there again; [`Node::backend`] is what the doors talk to.
//!
//! ```text
//! receiver ─► writer ─► router ─┬► lane (one per shard led here: gathers, compresses, proposes) ─► consensus ─► shard
//!                               └► peer ─► desk of the leader ─► its lane
//! api ─► frontend ─► reader (here or at a leader) ─► snapshot of catalog and tails ─► shard::search, shard::trace
//!                                                       tails led elsewhere are mirrored here ([`tails`])
//! flusher (one per generation): cut ─► spool ─► bucket ─► ring ─► log forgets
//! ```
//!
//! | task | owns | born | dies |
//! |---|---|---|---|
//! | units of [`shards`]: lane, lead, flush | their shard | map names them | map drops them, or close |
//! | proposal | one entry under way | lane | outcome |
//! | keep of [`shards`] | the units | open | stop token |
//! | keep and hand-over of [`members`] | nothing | open, with peers | stop token |
//! | admin port, one per connection | sockets | open | stop token |
//! | peers' door, one per connection | sockets | open, with peers | close |
//! | tidy of [`tails`] | nothing | open, with peers | stop token |
//! | ring clock, catalog watch | nothing | open | stop token |
//! | merges, retention, orphans | nothing | open | stop token; see [`housekeeping`] |
//!
//! What always holds: success is answered only when every sub-batch of the request is committed, which means synced on a
//! majority of voters; a node that is alone is the same with groups of one voter.

mod admin;
mod behind;
mod desk;
mod flusher;
mod frontend;
mod gauges;
mod housekeeping;
mod identity;
mod lane;
mod machine;
mod members;
pub mod observer;
mod owner;
mod plan;
mod reader;
mod ring;
mod route;
mod shards;
mod tags;
mod tails;
mod writer;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use block::{RangeReader, StoreReader};
use consensus::ring::{Body, HashRange, NodeRecord, NodeState, RingMachine, RingView, ShardRecord};
use consensus::{GroupId, Groups, GroupsOptions, NoPeers, PeerNetwork};
use futures::future::BoxFuture;
use model::{BlockId, Clock, Generation, NodeId, ShardId};
use object_store::ObjectStore;
use parking_lot::Mutex;
use settings::{ByteSize, NodeSettings};
use shard::blocks::Blocks;
use shard::column_cache::ColumnCache;
use shard::decoded_cache::DecodedCache;
use shard::disk_cache::DiskCache;
use shard::housekeeping::HousekeepingMetrics;
use shard::port::CatalogPort;
use shard::reads::WatchedReader;
use shard::store::Store;
use shard::turns::Turns;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wal::{RealVfs, Vfs, Wal, WalOptions};

use crate::app::{Backend, Common};
use crate::peer::accept::PeerDoor;
use crate::peer::tls::PeerTls;
use crate::peer::{PeerIdentity, PeerTransport, Security};
use admin::Admin;
pub use admin::AdminCommand;
use desk::{DeskRooms, NodeDesk};
use frontend::Frontend;
use gauges::Gauges;
use housekeeping::{Caches, Housekeeping};
use members::Card;
use observer::Observer;
use owner::{Owned, OwnedStore};
use ring::RingPort;
use route::Router;
use shards::{ShardRooms, Shards};
use tails::Tails;

/// The newest feature level this program understands.
pub const FEATURE_LEVEL: u32 = 0;
/// How long leaderships may take to be taken over when the node stops.
const RESIGN_WITHIN: Duration = Duration::from_secs(2);
/// How long a log may take to be read back before the node gives up on starting.
const RECOVERY_MAX: Duration = Duration::from_secs(600);
/// Time a start waits to hear whose prefix of the object store it is.
const OWNER_WITHIN: Duration = Duration::from_secs(5);
/// Budget of live spans where settings leave it open: a quarter of the memory we may use, within these.
const HEADS_MIN: u64 = ByteSize::mib(128).0;
const HEADS_MAX: u64 = ByteSize::gib(2).0;
/// Memory for columns of blocks where settings leave it open: an eighth, within these.
const COLUMNS_MIN: u64 = ByteSize::mib(16).0;
const COLUMNS_MAX: u64 = ByteSize::mib(512).0;

/// A node that is open.
pub struct Node {
    common: Common,
    groups: Groups,
    wal: Wal,
    shards: Arc<Shards>,
    router: Arc<Router>,
    ring: Arc<RingPort>,
    tails: Arc<Tails>,
    blocks: Arc<Blocks>,
    turns: Arc<Turns>,
    heads_max: usize,
    peers: Option<Peers>,
    admin_address: Option<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The way to the other nodes.
struct Peers {
    transport: PeerTransport,
    desk: Arc<NodeDesk>,
    listener: Option<TcpListener>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.ring.node())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Opens what is in the data directory. An empty one joins the cluster that the settings name, or founds one.
    ///
    /// Errors: in one sentence, what could not be opened and why.
    pub async fn open(common: Common, objects: Arc<dyn ObjectStore>) -> anyhow::Result<Self> {
        let settings = Arc::clone(&common.settings);
        let data_dir = settings.node.data_dir.as_path();
        let (spool_dir, snapshot_dir) = (data_dir.join("spool"), data_dir.join("snapshots"));
        for dir in [data_dir, &spool_dir, &snapshot_dir] {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        }
        // The spool is a cache of the log.
        shard::spool::clear(&spool_dir).with_context(|| format!("cannot clear {}", spool_dir.display()))?;
        let id = identity::load_or_make(data_dir)?;
        let vfs: Arc<dyn Vfs> = Arc::new(RealVfs);
        let wal = open_wal(&common, id, Arc::clone(&vfs), &data_dir.join("wal"))?;
        let prefix = crate::storage::prefix(&settings);
        if identity::cluster(data_dir)? == 0 && settings.cluster.join.is_empty() {
            owner::vacant(&*objects, &prefix).await?;
        }
        let mut peers = Peers::open(&settings, id, identity::cluster(data_dir)?).await?;
        let network: Arc<dyn PeerNetwork> = match &peers {
            Some(peers) => Arc::new(peers.transport.clone()),
            None => Arc::new(NoPeers),
        };
        let mut options = GroupsOptions::new(id, settings.node.cluster.clone(), snapshot_dir);
        options.group_in_flight_bytes_max = settings.memory.in_flight_per_shard.as_usize();
        options.node_in_flight_bytes_max = settings.memory.in_flight.as_usize();
        let groups = Groups::new(options, wal.clone(), vfs, network)?;
        if let Some(peers) = &mut peers {
            peers.serve(groups.clone());
        }

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let ring = open_ring(&common, &groups, peers.as_ref(), &stop, &tasks).await?;
        let state = Arc::clone(&ring.ring_view());
        let count = u32::try_from(state.state.map.shards.len()).unwrap_or(u32::MAX);
        if count != settings.shards.count {
            tracing::warn!(
                count,
                asked = settings.shards.count,
                "shards.count is fixed once a cluster has data; keeping it"
            );
        }

        let for_admin = Arc::clone(&objects);
        let owned = OwnedStore::new(Arc::clone(&objects), &prefix, state.state.cluster);
        confirm_owner(&owned).await?;
        let store = Store::new(Arc::new(Owned(owned)), prefix.clone());
        let cache = settings.memory.block_cache.bytes();
        let for_reads = crate::storage::for_reads(&settings, objects)?;
        let reads = Arc::new(WatchedReader::new(
            Arc::new(StoreReader::new(for_reads)),
            Arc::clone(&common.clock),
        ));
        let on_disk = disk_cache(&settings, Arc::clone(&reads) as _)?;
        let (stored_max, decoded_max) = columns_budget(settings.memory.column_cache);
        let columns = Arc::new(ColumnCache::new(
            on_disk
                .clone()
                .map_or_else(|| Arc::clone(&reads) as _, |cache| cache as _),
            stored_max,
        ));
        let decoded = Arc::new(DecodedCache::new(decoded_max));
        let blocks = Arc::new(Blocks::new(
            store.clone(),
            Arc::clone(&columns) as _,
            Arc::clone(&decoded),
            &spool_dir,
            cache,
        )?);
        let heads_max = heads_budget(settings.memory.heads);
        let new_block_id = block_ids(Arc::clone(&common.clock));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = Arc::new(Shards::new(ShardRooms {
            common: common.clone(),
            groups: groups.clone(),
            wal: wal.clone(),
            ring: Arc::clone(&ring),
            store: store.clone(),
            blocks: Arc::clone(&blocks),
            new_block_id: Arc::clone(&new_block_id),
            spool_dir: spool_dir.clone(),
            heads_max,
            builds: Arc::new(Semaphore::new((threads / 2).max(1))),
        }));
        shards.reconcile().await;
        shards.wait_for_own(RECOVERY_MAX).await?;
        tasks.spawn(Arc::clone(&shards).keep(stop.clone()));
        let turns = reader::turns(&settings, Arc::clone(&common.clock));
        let transport = peers.as_ref().map(|peers| peers.transport.clone());
        let router = Arc::new(Router::new(
            Arc::clone(&ring),
            Arc::clone(&shards),
            transport.clone(),
            heads_max,
            settings.memory.in_flight.as_usize(),
        ));
        let tails = Arc::new(Tails {
            ring: Arc::clone(&ring),
            shards: Arc::clone(&shards),
            peers: transport.clone(),
            clock: Arc::clone(&common.clock),
            spool_dir,
            new_block_id: Arc::clone(&new_block_id),
            // Half as much again as what is led here.
            bytes_max: heads_max / 2,
            slots: Mutex::default(),
        });
        if transport.is_some() {
            tasks.spawn(Arc::clone(&tails).tidy(stop.clone()));
        }
        if let Some(peers) = &peers {
            peers.desk.open(DeskRooms {
                ring: Arc::clone(&ring),
                router: Some(Arc::clone(&router)),
                reader: None,
                tails: Some(Arc::clone(&tails)),
                peers: peers.transport.clone(),
            });
        }
        if transport.is_some() {
            tasks.spawn(members::hand_over(Arc::clone(&ring), Arc::clone(&shards), stop.clone()));
        }
        let counted = Arc::new(HousekeepingMetrics::default());
        let caches = Caches {
            columns: Arc::clone(&columns),
            on_disk: on_disk.clone(),
        };
        common.metrics.register(|registry| {
            registry.register_collector(Box::new(Gauges {
                shards: Arc::clone(&shards),
                catalog: Arc::clone(&ring) as Arc<dyn CatalogPort>,
                blocks: Arc::clone(&blocks),
                reads: Arc::clone(&reads),
                columns,
                decoded,
                on_disk,
                wal: wal.clone(),
                housekeeping: Arc::clone(&counted),
            }));
        });
        let leads = ring.group().clone();
        let caretakers = Housekeeping {
            common: common.clone(),
            store,
            catalog: Arc::clone(&ring) as Arc<dyn CatalogPort>,
            blocks: Arc::clone(&blocks),
            new_block_id,
            metrics: counted,
            is_ours: Arc::new(move || leads.is_leader()),
            caches,
        };
        caretakers.start(data_dir, &stop, &tasks)?;
        let admin_address = match settings.listen.admin {
            None => None,
            Some(address) => {
                let listener = TcpListener::bind(address)
                    .await
                    .with_context(|| format!("listen.admin: cannot listen on {address}"))?;
                let bound = listener.local_addr()?;
                let admin = Arc::new(Admin {
                    common: common.clone(),
                    ring: Arc::clone(&ring),
                    shards: Arc::clone(&shards),
                    reads,
                    wal: wal.clone(),
                    objects: for_admin,
                    marker: prefix.join("cluster.json"),
                    is_restarting: AtomicBool::new(false),
                    peers: transport.clone(),
                    turns: Arc::clone(&turns),
                    looks: Mutex::default(),
                    seen_marker: Mutex::default(),
                });
                let tls = peers.as_ref().and_then(|peers| peers.transport.tls());
                tasks.spawn(admin::serve(admin, listener, tls, stop.clone()));
                Some(bound)
            }
        };
        let tenants = ring
            .view()
            .tenants()
            .map(|(tenant, _)| tenant.clone())
            .collect::<Vec<_>>();
        common.tenancy.know(
            tenants
                .into_iter()
                .chain(shards.live().iter().flat_map(|shard| shard.head().tenants())),
        );
        Ok(Self {
            common,
            groups,
            wal,
            shards,
            router,
            ring,
            tails,
            blocks,
            turns,
            heads_max,
            peers,
            admin_address,
            stop,
            tasks,
        })
    }

    /// Whether the data directory of these settings belongs to a cluster already: then there may be spans in it that are
    /// nowhere else, and it is opened whatever else is away.
    pub fn is_known(settings: &NodeSettings) -> bool {
        !matches!(identity::cluster(&settings.node.data_dir), Ok(0))
    }

    /// Where the admin API is; `None` when there is none.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Where peers reach this node; `None` when it is alone.
    pub fn peer_address(&self) -> Option<Arc<str>> {
        let peers = self.peers.as_ref()?;
        Some(Arc::clone(&peers.transport.identity().address))
    }

    /// A look at the cluster from here.
    pub fn observer(&self) -> Observer {
        Observer {
            ring: Arc::clone(&self.ring),
            shards: Arc::clone(&self.shards),
        }
    }

    /// What the doors talk to. Closing it closes the node.
    pub fn backend(self) -> Backend {
        let Self {
            common,
            groups,
            wal,
            shards,
            router,
            ring,
            tails,
            blocks,
            turns,
            heads_max,
            peers,
            admin_address: _,
            stop,
            tasks,
        } = self;
        let settings = Arc::clone(&common.settings);
        let writer = Arc::new(writer::Writer {
            common,
            ring: Arc::clone(&ring),
            shards: Arc::clone(&shards),
            router: Arc::clone(&router),
            heads_max,
        });
        let reader = Arc::new(reader::Reader::new(
            &settings,
            turns,
            Arc::clone(&ring),
            Arc::clone(&tails),
            blocks,
        ));
        let transport = peers.as_ref().map(|peers| peers.transport.clone());
        if let Some(peers) = &peers {
            peers.desk.open(DeskRooms {
                ring: Arc::clone(&ring),
                router: Some(Arc::clone(&router)),
                reader: Some(Arc::clone(&reader)),
                tails: Some(Arc::clone(&tails)),
                peers: peers.transport.clone(),
            });
        }
        let frontend = Frontend {
            local: reader,
            ring,
            router,
            peers: transport,
        };
        let close = move || -> BoxFuture<'static, ()> {
            Box::pin(async move {
                stop.cancel();
                tasks.close();
                tasks.wait().await;
                if peers.is_some() {
                    groups.resign(RESIGN_WITHIN).await;
                }
                shards.close().await;
                if let Some(peers) = peers {
                    peers.close().await;
                }
                groups.shutdown().await;
                wal.close();
            })
        };
        Backend {
            ingest: writer,
            querier: Arc::new(frontend),
            close: Box::new(close),
        }
    }
}

impl Peers {
    async fn open(settings: &NodeSettings, id: NodeId, cluster: u128) -> anyhow::Result<Option<Self>> {
        let Some(address) = settings.listen.peer else {
            return Ok(None);
        };
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen.peer: cannot listen on {address}"))?;
        let security = match &settings.cluster.tls {
            Some(tls) => Security::Tls(Arc::new(PeerTls::load(tls).context("cluster.tls")?)),
            None => Security::Plaintext,
        };
        let identity = PeerIdentity {
            node: id,
            address: settings.cluster.advertised(listener.local_addr()?).into(),
            feature_level: FEATURE_LEVEL,
        };
        let timeout = settings.cluster.connect_timeout.duration();
        Ok(Some(Self {
            transport: PeerTransport::new(identity, cluster, security, timeout),
            desk: Arc::default(),
            listener: Some(listener),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    fn serve(&mut self, groups: Groups) {
        if let Some(listener) = self.listener.take() {
            let door = PeerDoor::new(self.transport.clone(), groups, Arc::clone(&self.desk) as _);
            let serving = door.serve(listener, self.stop.clone(), self.tasks.clone());
            self.tasks.spawn(serving);
        }
    }

    async fn close(self) {
        self.desk.close();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.transport.retain(|_| false);
    }
}

/// Refuses the prefix of another cluster. A store that does not answer is asked again before the first write.
async fn confirm_owner(owned: &OwnedStore) -> anyhow::Result<()> {
    match tokio::time::timeout(OWNER_WITHIN, owned.confirm()).await {
        Ok(Err(error)) if owned.is_foreign() => Err(error.into()),
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "whose prefix of the object store it is cannot be read yet");
            Ok(())
        }
        Err(_) => {
            tracing::warn!("the object store does not answer; blocks wait until it does");
            Ok(())
        }
    }
}

fn open_wal(common: &Common, id: NodeId, vfs: Arc<dyn Vfs>, dir: &Path) -> anyhow::Result<Wal> {
    let settings = &common.settings.wal;
    let clock = Arc::clone(&common.clock);
    let options = WalOptions {
        segment_bytes: u32::try_from(settings.segment_bytes.bytes()).context("wal.segment_bytes is too large")?,
        quota_bytes: settings.quota_bytes.bytes(),
        // After a failed sync nobody knows what is on the disk: stop before anybody is told otherwise.
        on_fatal: Box::new(|error| {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "the log cannot be written; stopping at once"
            );
            std::process::abort();
        }),
        stopwatch: Box::new(move || clock.monotonic()),
        ..WalOptions::new(id.0)
    };
    let (wal, recovery) =
        Wal::open(vfs, dir, options).with_context(|| format!("cannot open the log in {}", dir.display()))?;
    tracing::info!(
        segments = recovery.segments,
        records = recovery.records,
        created = recovery.created,
        "log opened"
    );
    if let Some(torn) = &recovery.torn_tail {
        tracing::info!(
            segment = torn.segment,
            offset = torn.offset,
            "cut off records that nobody was told are durable"
        );
    }
    for damage in &recovery.damage {
        tracing::error!(?damage, "durable bytes of the log are damaged");
    }
    for lost in &recovery.lost_promises {
        tracing::error!(?lost, "a group may have lost what it promised to keep");
    }
    Ok(wal)
}

/// Opens the ring. A disk that belongs to no cluster joins the one that the settings name, or founds one.
async fn open_ring(
    common: &Common,
    groups: &Groups,
    peers: Option<&Peers>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<Arc<RingPort>> {
    let settings = &common.settings;
    let data_dir = settings.node.data_dir.as_path();
    let (machine, view) = RingMachine::new();
    let answers = machine.answers();
    let group = groups.open(GroupId::Ring, machine).await?;
    let id = group.node();
    let transport = peers.map(|peers| peers.transport.clone());
    let clock = Arc::clone(&common.clock);
    let port = Arc::new(RingPort::new(group.clone(), view, answers, clock, transport.clone()));
    if let Some(peers) = peers {
        // The ring is answered for before there are shards: a majority may need this node's vote.
        peers.desk.open(DeskRooms {
            ring: Arc::clone(&port),
            router: None,
            reader: None,
            tails: None,
            peers: peers.transport.clone(),
        });
    }
    let card = Card {
        name: match &settings.cluster.name {
            Some(name) => name.as_str().into(),
            None => format!("{:016x}", id.0).into(),
        },
        zone: settings.cluster.zone.as_str().into(),
    };
    let is_new = identity::cluster(data_dir)? == 0;
    let seeds: Vec<Arc<str>> = settings
        .cluster
        .join
        .iter()
        .map(|address| address.as_str().into())
        .collect();
    match &transport {
        Some(transport) if is_new && !seeds.is_empty() => {
            members::join(transport, &seeds, &card, stop).await?;
            identity::keep_cluster(data_dir, transport.cluster())?;
        }
        _ if is_new => {
            group.found(&BTreeSet::from([id])).await?;
            group.wait_recovered(RECOVERY_MAX).await?;
            if !port.ring_view().state.is_founded() {
                found_cluster(common, &port, transport.as_ref(), &card).await?;
            }
            let cluster = port.ring_view().state.cluster;
            identity::keep_cluster(data_dir, cluster)?;
            if let Some(transport) = &transport {
                transport.belongs_to(cluster);
            }
        }
        _ => {}
    }
    let finding = transport.as_ref().map(|transport| {
        for node in port.ring_view().state.nodes.values() {
            transport.book().record(node.id, &node.address);
        }
        tasks.spawn(members::find(Arc::clone(&port), transport.clone(), seeds, stop.clone()))
    });
    let mut views = port.views();
    let founded = tokio::time::timeout(RECOVERY_MAX, views.wait_for(|view| view.state.is_founded())).await;
    founded.context("the ring could not be read back: a majority of its voters is away")??;
    drop(views);
    if let Some(finding) = finding {
        finding.abort();
    }
    let known = port.ring_view().state.cluster;
    anyhow::ensure!(
        known == identity::cluster(data_dir)?,
        "the log is of another cluster than the folder it is in"
    );
    if transport.is_none() {
        group.wait_recovered(RECOVERY_MAX).await?;
    }
    tasks.spawn(ring::keep_time(Arc::clone(&port), stop.clone()));
    tasks.spawn(ring::forward_views(Arc::clone(&port), stop.clone()));
    if let Some(transport) = transport {
        tasks.spawn(members::announce(
            Arc::clone(&port),
            transport.clone(),
            card,
            stop.clone(),
        ));
        tasks.spawn(members::keep(
            Arc::clone(&port),
            transport,
            settings.cluster.replicas,
            stop.clone(),
        ));
    }
    Ok(port)
}

async fn found_cluster(
    common: &Common,
    port: &RingPort,
    transport: Option<&PeerTransport>,
    card: &Card,
) -> anyhow::Result<()> {
    let id = port.node();
    let count = common.settings.shards.count;
    let shard = |index| ShardRecord {
        id: ShardId(index),
        range: HashRange::of_shard(index, count),
        generation: Generation(1),
        members: BTreeSet::from([id]),
        preferred: id,
        inherits: false,
    };
    let node = NodeRecord {
        id,
        pod: Arc::clone(&card.name),
        zone: Arc::clone(&card.zone),
        address: match transport {
            Some(transport) => Arc::clone(&transport.identity().address),
            None => "alone".into(),
        },
        state: NodeState::Active,
        feature_level: FEATURE_LEVEL,
        joined_unix_nanos: 0,
    };
    port.propose(Body::Bootstrap {
        cluster: rand::random::<u128>() | 1,
        nodes: vec![node],
        shards: (0..count).map(shard).collect(),
    })
    .await?;
    Ok(())
}

/// Names of blocks sort by time and never repeat.
fn block_ids(clock: Arc<dyn Clock>) -> Arc<dyn Fn() -> BlockId + Send + Sync> {
    Arc::new(move || BlockId::from_parts(clock.unix_nanos() / 1_000_000, rand::random()))
}

fn heads_budget(asked: Option<ByteSize>) -> usize {
    let budget = match asked {
        Some(asked) => asked.bytes(),
        None => (memory_limit() / 4).clamp(HEADS_MIN, HEADS_MAX),
    };
    usize::try_from(budget).unwrap_or(usize::MAX)
}

/// Bytes of columns kept as they are stored, and as they are decoded. Half of each: what is decoded is several times as
/// long, but what is hot is little, and is not asked for as it is stored any more.
fn columns_budget(asked: Option<ByteSize>) -> (u64, u64) {
    let both = match asked {
        Some(asked) => asked.bytes(),
        None => (memory_limit() / 8).clamp(COLUMNS_MIN, COLUMNS_MAX),
    };
    (both / 2, both - both / 2)
}

/// A cache on this node's disk, where the store is somewhere else.
fn disk_cache(settings: &NodeSettings, reads: Arc<dyn RangeReader>) -> anyhow::Result<Option<Arc<DiskCache>>> {
    let capacity = settings.storage.read_cache_bytes();
    let dir = settings.node.data_dir.join("cache");
    if capacity == 0 {
        return Ok(None);
    }
    let disk = dir.clone();
    let free = Arc::new(move || RealVfs.free_bytes(&disk));
    let cache = DiskCache::open(reads, &dir, capacity, free);
    let cache = cache.with_context(|| format!("cannot open the cache in {}", dir.display()))?;
    Ok(Some(Arc::new(cache)))
}

/// Bytes this process may use: the cgroup's limit, or all memory of the machine.
fn memory_limit() -> u64 {
    let number = |path: &str| {
        std::fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    let cgroup = number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib << 10)
    });
    // Without a limit, version 1 of cgroups reports a number close to 2^63.
    cgroup
        .unwrap_or(u64::MAX)
        .min(machine.unwrap_or(ByteSize::gib(1).bytes()))
}

/// The whole state of the ring at some moment.
type View = Arc<RingView>;
