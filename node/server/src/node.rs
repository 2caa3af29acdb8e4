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
mod disk;
mod flusher;
mod founding;
mod frontend;
mod gauges;
pub mod ground;
mod housekeeping;
mod identity;
mod lane;
mod machine;
mod members;
mod memory;
pub mod observer;
mod owner;
mod peers;
mod plan;
mod reader;
mod ring;
mod route;
mod scrub;
mod shards;
mod tags;
mod tails;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use block::{JoiningReader, RangeReader, StoreReader};
use consensus::ring::RingView;
use consensus::{Groups, GroupsOptions, NoPeers, PeerNetwork};
use futures::future::BoxFuture;
use model::{BlockId, Clock};
use object_store::ObjectStore;
use parking_lot::Mutex;
use settings::NodeSettings;
use settings::storage::StorageType;
use shard::blocks::Blocks;
use shard::column_cache::ColumnCache;
use shard::decoded_cache::DecodedCache;
use shard::housekeeping::HousekeepingMetrics;
use shard::port::CatalogPort;
use shard::reads::WatchedReader;
use shard::rebuild::Rebuilt;
use shard::store::Store;
use shard::turns::Turns;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wal::Wal;

use crate::app::{Backend, Common};
use admin::Admin;
pub use admin::AdminCommand;
use desk::DeskRooms;
use frontend::Frontend;
use gauges::Gauges;
use ground::Ground;
use housekeeping::{Caches, Housekeeping};
use observer::Observer;
use owner::{Comer, Owned, OwnedStore};
use peers::Peers;
use ring::RingPort;
use route::Router;
use scrub::DamagedLog;
use shards::{ShardRooms, Shards};
use tails::Tails;

/// The newest feature level this program understands.
pub const FEATURE_LEVEL: u32 = 0;
/// How long leaderships may take to be taken over when the node stops.
const RESIGN_WITHIN: Duration = Duration::from_secs(2);
/// How long a log may take to be read back before the node gives up on starting.
const RECOVERY_MAX: Duration = Duration::from_secs(600);
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
        Self::open_on(Ground::machine(), common, objects).await
    }

    /// The same on other ground than this machine.
    pub async fn open_on(ground: Ground, common: Common, objects: Arc<dyn ObjectStore>) -> anyhow::Result<Self> {
        let settings = Arc::clone(&common.settings);
        let data_dir = settings.node.data_dir.as_path();
        let (spool_dir, snapshot_dir) = (data_dir.join("spool"), data_dir.join("snapshots"));
        for dir in [data_dir, &spool_dir, &snapshot_dir] {
            shard::private::folder(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        }
        // The spool is a cache of the log.
        shard::spool::clear(&spool_dir).with_context(|| format!("cannot clear {}", spool_dir.display()))?;
        let id = identity::load_or_make(data_dir)?;
        let vfs = Arc::clone(&ground.vfs);
        vfs.create_dir(&snapshot_dir)
            .with_context(|| format!("cannot make the folder {}", snapshot_dir.display()))?;
        let wal = disk::open_wal(&common, id, &ground, &data_dir.join("wal"))?;
        let prefix = crate::storage::prefix(&settings);
        let mut founding = None;
        if identity::cluster(data_dir)? == 0 {
            let cluster = &settings.cluster;
            if cluster.join.is_empty() {
                owner::vacant(&*objects, &prefix).await?;
                founding = Some(identity::new_cluster());
            } else if cluster.founder.is_some() && cluster.founder == cluster.name {
                // Written down first: whoever crashes between becoming the owner and founding goes on with the same id.
                let id = identity::founding(data_dir)?;
                let is_owner = owner::take(&objects, &prefix, id, &settings.node.cluster).await?;
                founding = is_owner.then_some(id);
            } else {
                owner::is_named(&*objects, &prefix, &settings.node.cluster).await?;
            }
        }
        let mut peers = Peers::open(&settings, &ground, id, identity::cluster(data_dir)?).await?;
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
        let ring = founding::open_ring(&common, &groups, peers.as_ref(), founding, &stop, &tasks).await?;
        let state = Arc::clone(&ring.ring_view());
        let count = u32::try_from(state.state.map.shards.len()).unwrap_or(u32::MAX);
        if count != settings.shards.count {
            tracing::warn!(
                count,
                asked = settings.shards.count,
                "shards.count is fixed once a cluster has data; keeping it"
            );
        }

        let catalog = Arc::clone(&ring);
        let comer = Comer {
            cluster: state.state.cluster,
            name: settings.node.cluster.clone(),
            has_objects: Box::new(move || catalog.view().names_objects()),
            may_vanish: settings.storage.r#type == StorageType::Filesystem,
        };
        let owned = OwnedStore::new(Arc::clone(&objects), &prefix, comer);
        owner::confirm_at_start(&owned).await?;
        let store = Store::new(Arc::new(Owned(owned)), prefix.clone());
        let cache = settings.memory.block_cache.bytes();
        let for_reads = crate::storage::for_reads(&settings, objects)?;
        let reads = Arc::new(WatchedReader::new(
            Arc::new(StoreReader::new(for_reads)),
            Arc::clone(&common.clock),
        ));
        let joining: Arc<dyn RangeReader> = Arc::new(JoiningReader::new(Arc::clone(&reads) as _));
        let on_disk = disk::cache(&settings, Arc::clone(&joining))?;
        let (stored_max, decoded_max) = memory::columns_budget(settings.memory.column_cache);
        let columns = Arc::new(ColumnCache::new(
            on_disk.clone().map_or(joining, |cache| cache as _),
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
        let heads_max = memory::heads_budget(settings.memory.heads);
        let new_block_id = Self::block_ids(Arc::clone(&common.clock));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let damaged_log = Arc::<DamagedLog>::default();
        let shards = Arc::new(Shards::new(ShardRooms {
            common: common.clone(),
            groups: groups.clone(),
            wal: wal.clone(),
            damaged_log: Arc::clone(&damaged_log),
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
        let turns = reader::turns(&common);
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
            let (ring, shards) = (Arc::clone(&ring), Arc::clone(&shards));
            tasks.spawn(members::hand_over(ring, shards, wal.clone(), stop.clone()));
        }
        // A simulated node has no threads of its own.
        if ground.keeper.is_none() {
            let scrub = scrub::run(common.clone(), wal.clone(), Arc::clone(&damaged_log), stop.clone());
            tasks.spawn(scrub);
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
                damaged_log,
                housekeeping: Arc::clone(&counted),
            }));
        });
        let leads = ring.group().clone();
        let caretakers = Housekeeping {
            common: common.clone(),
            store,
            catalog: Arc::clone(&ring) as Arc<dyn CatalogPort>,
            cluster: state.state.cluster,
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
                    is_restarting: AtomicBool::new(false),
                    peers: transport.clone(),
                    turns: Arc::clone(&turns),
                    looks: Mutex::default(),
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

    /// Founds the cluster of `cluster` again in the empty data directory of these settings, from what its object store was
    /// found to hold ([`shard::rebuild`]). The next [`Node::open`] goes on with it.
    ///
    /// Errors: in one sentence, why not. Repeating it goes on where it was.
    pub async fn found_again(common: &Common, cluster: u128, rebuilt: &Rebuilt) -> anyhow::Result<()> {
        let ground = Ground::machine();
        let settings = &common.settings;
        let data_dir = settings.node.data_dir.as_path();
        let snapshot_dir = data_dir.join("snapshots");
        for dir in [data_dir, &snapshot_dir] {
            shard::private::folder(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        }
        let id = identity::load_or_make(data_dir)?;
        let wal = disk::open_wal(common, id, &ground, &data_dir.join("wal"))?;
        let options = GroupsOptions::new(id, settings.node.cluster.clone(), snapshot_dir);
        let groups = Groups::new(options, wal.clone(), ground.vfs, Arc::new(NoPeers))?;
        let founded = founding::found_again(common, &groups, cluster, rebuilt).await;
        groups.shutdown().await;
        wal.close();
        founded
    }

    /// Whose the prefix of the object store is: its cluster's id.
    ///
    /// Errors: it is nobody's, or that of a cluster by another name than these settings', or the store cannot be asked.
    pub async fn owner_of(settings: &NodeSettings, objects: &dyn ObjectStore) -> anyhow::Result<u128> {
        owner::of(objects, &crate::storage::prefix(settings), &settings.node.cluster).await
    }

    /// Names of blocks sort by time and never repeat.
    pub fn block_ids(clock: Arc<dyn Clock>) -> Arc<dyn Fn() -> BlockId + Send + Sync> {
        Arc::new(move || BlockId::from_parts(clock.unix_nanos() / 1_000_000, rand::random()))
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

/// The whole state of the ring at some moment.
type View = Arc<RingView>;
