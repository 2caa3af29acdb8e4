//! A node behind its doors: log, ring, shards, blocks, and the tasks that move spans between them.
//!
//! Owns [`Node`]. [`Node::open`] builds the rooms in the order in which they need each other and comes back when
//! everything acknowledged before is there again; [`Node::backend`] is what the doors talk to.
//!
//! ```text
//! receiver ─► writer ─► lane (one per shard: gathers, compresses, proposes) ─► consensus ─► shard
//! api ─► reader ─► snapshot of catalog and tails ─► shard::search, shard::trace
//! flusher (one per shard): cut ─► spool ─► bucket ─► ring ─► log forgets
//! ```
//!
//! | task | owns | born | dies |
//! |---|---|---|---|
//! | lane per shard | entries being gathered | open | its queue closes |
//! | proposal | one entry under way | lane | outcome |
//! | flusher per shard | nothing | open | stop token |
//! | ring clock, catalog watch | nothing | open | stop token |
//! | merges, retention, orphans | nothing | open | stop token; see [`housekeeping`] |
//!
//! What always holds: success is answered only when every sub-batch of the request is committed, which here means synced
//! on a majority of voters; a single node is the same with groups of one voter.
//!
//! Not here: peers. All groups of this node have this node as their only voter.

mod flusher;
mod gauges;
mod housekeeping;
mod identity;
mod lane;
mod machine;
mod reader;
mod ring;
mod tags;
mod writer;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use block::{RangeReader, StoreReader};
use consensus::ring::{Body, HashRange, NodeRecord, NodeState, RingMachine, RingView, ShardRecord};
use consensus::{GroupId, Groups, GroupsOptions, NoPeers};
use futures::future::BoxFuture;
use model::{BlockId, Clock, Generation, NodeId, ShardId};
use object_store::ObjectStore;
use settings::{ByteSize, NodeSettings};
use shard::blocks::Blocks;
use shard::catalog::GroupKey;
use shard::column_cache::ColumnCache;
use shard::decoded_cache::DecodedCache;
use shard::disk_cache::DiskCache;
use shard::flush::Flusher;
use shard::housekeeping::HousekeepingMetrics;
use shard::owner::{Shard, ShardOptions};
use shard::port::CatalogPort;
use shard::reads::WatchedReader;
use shard::store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wal::{RealVfs, Vfs, Wal, WalOptions};

use crate::app::{Backend, Common};
use gauges::Gauges;
use housekeeping::Housekeeping;
use lane::Lane;
use machine::ShardMachine;
use ring::RingPort;

/// How long a log may take to be read back before the node gives up on starting.
const RECOVERY_MAX: Duration = Duration::from_secs(600);
/// How long a log that is being read back waits for a full disk before it tries again.
const WAIT_FOR_DISK: Duration = Duration::from_secs(1);
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
    shards: Vec<Arc<Shard>>,
    lanes: Vec<Lane>,
    ring: Arc<RingPort>,
    blocks: Arc<Blocks>,
    heads_max: usize,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("shards", &self.shards.len())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Opens what is in the data directory, or founds a cluster of one node there.
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
        let mut options = GroupsOptions::new(id, settings.node.cluster.clone(), snapshot_dir);
        options.group_in_flight_bytes_max = settings.memory.in_flight_per_shard.as_usize();
        options.node_in_flight_bytes_max = settings.memory.in_flight.as_usize();
        let groups = Groups::new(options, wal.clone(), vfs, Arc::new(NoPeers))?;

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let ring = open_ring(&common, &groups, id, &stop, &tasks).await?;
        let state = Arc::clone(&ring.ring_view());
        let count = u32::try_from(state.state.map.shards.len()).unwrap_or(u32::MAX);
        if count != settings.shards.count {
            tracing::warn!(
                count,
                asked = settings.shards.count,
                "shards.count is fixed once a cluster has data; keeping it"
            );
        }

        let store = Store::new(Arc::clone(&objects), crate::storage::prefix(&settings));
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
        let builds = Arc::new(Semaphore::new((threads / 2).max(1)));
        let (mut shards, mut lanes) = (Vec::new(), Vec::new());
        for record in state
            .state
            .map
            .shards
            .values()
            .filter(|record| record.members.contains(&id))
        {
            let key = GroupKey {
                shard: record.id,
                generation: record.generation,
            };
            let watermark = ring.view().watermark(key).unwrap_or_default();
            let options = ShardOptions {
                spool_dir: spool_dir.clone(),
                live_bytes_max: heads_max / count.max(1) as usize,
                wait_for_disk: Arc::new(|| std::thread::sleep(WAIT_FOR_DISK)),
                clock: Arc::clone(&common.clock),
                new_block_id: Arc::clone(&new_block_id),
            };
            let shard = Arc::new(Shard::starting_after(key, watermark, options));
            let machine = ShardMachine::new(Arc::clone(&shard));
            let group = groups.open(GroupId::Shard(key.shard, key.generation), machine).await?;
            group.found(&BTreeSet::from([id])).await?;
            group.wait_recovered(RECOVERY_MAX).await?;
            let flusher = Flusher {
                shard: Arc::clone(&shard),
                store: store.clone(),
                catalog: Arc::clone(&ring) as Arc<dyn CatalogPort>,
                blocks: Arc::clone(&blocks),
                new_block_id: Arc::clone(&new_block_id),
            };
            tasks.spawn(flusher::run(
                flusher,
                group.clone(),
                common.clone(),
                wal.clone(),
                // Half of the shard's share: the other half fills while this one is built.
                heads_max / count.max(1) as usize / 2,
                Arc::clone(&builds),
                stop.clone(),
            ));
            lanes.push(Lane::open(
                group,
                &settings.replication,
                Arc::clone(&common.clock),
                common.cpu.clone(),
                &tasks,
            ));
            shards.push(shard);
        }
        let counted = Arc::new(HousekeepingMetrics::default());
        common.metrics.register(|registry| {
            registry.register_collector(Box::new(Gauges {
                shards: shards.clone(),
                catalog: Arc::clone(&ring) as Arc<dyn CatalogPort>,
                blocks: Arc::clone(&blocks),
                reads,
                columns,
                decoded,
                on_disk,
                wal: wal.clone(),
                housekeeping: Arc::clone(&counted),
            }));
        });
        let caretakers = Housekeeping {
            common: common.clone(),
            store,
            catalog: Arc::clone(&ring) as Arc<dyn CatalogPort>,
            blocks: Arc::clone(&blocks),
            new_block_id,
            metrics: counted,
        };
        caretakers.start(data_dir, &stop, &tasks)?;
        let tenants = ring
            .view()
            .tenants()
            .map(|(tenant, _)| tenant.clone())
            .collect::<Vec<_>>();
        common.tenancy.know(
            tenants
                .into_iter()
                .chain(shards.iter().flat_map(|shard| shard.head().tenants())),
        );
        Ok(Self {
            common,
            groups,
            wal,
            shards,
            lanes,
            ring,
            blocks,
            heads_max,
            stop,
            tasks,
        })
    }

    /// What the doors talk to. Closing it closes the node.
    pub fn backend(self) -> Backend {
        let Self {
            common,
            groups,
            wal,
            shards,
            lanes,
            ring,
            blocks,
            heads_max,
            stop,
            tasks,
        } = self;
        let (settings, clock) = (Arc::clone(&common.settings), Arc::clone(&common.clock));
        let writer = Arc::new(writer::Writer {
            common,
            shards: shards.clone(),
            lanes,
            heads_max,
        });
        let reader = reader::Reader::new(&settings, clock, ring, shards, blocks);
        let close = {
            let writer = Arc::clone(&writer);
            move || -> BoxFuture<'static, ()> {
                Box::pin(async move {
                    stop.cancel();
                    for lane in &writer.lanes {
                        lane.close();
                    }
                    tasks.close();
                    tasks.wait().await;
                    groups.shutdown().await;
                    wal.close();
                })
            }
        };
        Backend {
            ingest: writer,
            querier: Arc::new(reader),
            close: Box::new(close),
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

/// Opens the ring and founds the cluster if there is none.
async fn open_ring(
    common: &Common,
    groups: &Groups,
    id: NodeId,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<Arc<RingPort>> {
    let (machine, view) = RingMachine::new();
    let group = groups.open(GroupId::Ring, machine).await?;
    group.found(&BTreeSet::from([id])).await?;
    group.wait_recovered(RECOVERY_MAX).await?;
    let port = Arc::new(RingPort::new(group, view, Arc::clone(&common.clock)));
    if !port.ring_view().state.is_founded() {
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
            pod: Arc::from(common.settings.node.cluster.as_str()),
            zone: Arc::from(""),
            address: Arc::from(common.settings.listen.http.to_string()),
            state: NodeState::Active,
            feature_level: 0,
            joined_unix_nanos: 0,
        };
        let cluster = rand::random::<u128>() | 1;
        port.propose(Body::Bootstrap {
            cluster,
            nodes: vec![node],
            shards: (0..count).map(shard).collect(),
        })
        .await?;
    }
    tasks.spawn(ring::keep_time(Arc::clone(&port), stop.clone()));
    tasks.spawn(ring::forward_views(Arc::clone(&port), stop.clone()));
    Ok(port)
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
