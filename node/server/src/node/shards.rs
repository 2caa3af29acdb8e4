//! The generations this node is a member of: opened when the map names them, closed when it does not any more.
//!
//! Owns [`Shards`] and [`Unit`]. A unit is a shard, its group, its lane and two tasks:
//!
//! | task | does | born | dies |
//! |---|---|---|---|
//! | lead | makes the shard live when its group is led here, lets go when it is not | open | unit closes |
//! | flush | cut, upload, seal, purge ([`super::flusher`]) | open | unit closes |
//! | keep | opens and closes units as the map changes | [`Shards::keep`] | stop token |
//!
//! What always holds: a generation is forgotten only if the ring's view names a newer one of the same shard and not this
//! one; a view older than our disk forgets nothing.
//!
//! Not here: who may read a shard ([`super::tails`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use consensus::{Group, GroupId, Groups};
use model::{BlockId, NodeId};
use parking_lot::RwLock;
use plants::Plant;
use shard::blocks::Blocks;
use shard::catalog::GroupKey;
use shard::flush::Flusher;
use shard::owner::{Shard, ShardOptions};
use shard::port::CatalogPort;
use shard::store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wal::Wal;

use super::flusher::{self, FlushRoom};
use super::lane::Lane;
use super::machine::ShardMachine;
use super::ring::RingPort;
use super::scrub::DamagedLog;
use crate::app::Common;

/// How often is looked even if the ring says nothing, so that what failed is tried again.
const LOOK: Duration = Duration::from_secs(1);
/// Who is not preferred lets the preferred node found a generation, for this long.
const FOUND_AFTER: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(100);
/// How long a log that is being read back waits for a full disk before it tries again.
const WAIT_FOR_DISK: Duration = Duration::from_secs(1);
/// Bytes read back from the log at once.
const FILL_BYTES: usize = 8 << 20;

/// One generation on this node.
pub(super) struct Unit {
    pub(super) key: GroupKey,
    pub(super) shard: Arc<Shard>,
    pub(super) group: Group<ShardMachine>,
    pub(super) lane: Lane,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What all units share.
pub(super) struct ShardRooms {
    pub(super) common: Common,
    pub(super) groups: Groups,
    pub(super) wal: Wal,
    pub(super) damaged_log: Arc<DamagedLog>,
    pub(super) ring: Arc<RingPort>,
    pub(super) store: Store,
    pub(super) blocks: Arc<Blocks>,
    pub(super) new_block_id: Arc<dyn Fn() -> BlockId + Send + Sync>,
    pub(super) spool_dir: PathBuf,
    pub(super) heads_max: usize,
    pub(super) builds: Arc<Semaphore>,
}

/// See the module's documentation.
pub(super) struct Shards {
    rooms: ShardRooms,
    units: RwLock<BTreeMap<GroupKey, Arc<Unit>>>,
}

impl Shards {
    pub(super) fn new(rooms: ShardRooms) -> Self {
        Self {
            rooms,
            units: RwLock::default(),
        }
    }

    pub(super) fn get(&self, key: GroupKey) -> Option<Arc<Unit>> {
        self.units.read().get(&key).cloned()
    }

    /// All units, in the order of their keys.
    pub(super) fn all(&self) -> Vec<Arc<Unit>> {
        self.units.read().values().cloned().collect()
    }

    /// Shards that hold live spans here.
    pub(super) fn live(&self) -> Vec<Arc<Shard>> {
        let units = self.units.read();
        let live = units.values().filter(|unit| unit.shard.is_live());
        live.map(|unit| Arc::clone(&unit.shard)).collect()
    }

    /// Bytes of live spans.
    pub(super) fn heap_bytes(&self) -> usize {
        self.units
            .read()
            .values()
            .map(|unit| unit.shard.head().heap_bytes())
            .sum()
    }

    /// Opens what the map names and this node lacks, closes and forgets what is gone.
    pub(super) async fn reconcile(&self) {
        let view = self.rooms.ring.ring_view();
        let me = self.rooms.ring.node();
        let map = &view.state.map;
        let mine: Vec<(GroupKey, BTreeSet<NodeId>)> = map
            .live_generations()
            .filter(|(_, members)| members.contains(&me))
            .map(|(key, members)| (key, members.clone()))
            .collect();
        for (key, members) in &mine {
            if self.get(*key).is_none()
                && let Err(error) = self.open(*key, members).await
            {
                let error = crate::storage::chain(&*error);
                tracing::error!(shard = %key, error, "a generation cannot be opened");
            }
        }
        let is_over = |key: GroupKey| {
            let current = map.shards.get(&key.shard);
            current.is_some_and(|record| record.generation > key.generation)
                && (!mine.iter().any(|(live, _)| *live == key) || plants::is(Plant::ForgetSealed))
        };
        for group in self.rooms.groups.on_disk() {
            let GroupId::Shard(shard, generation) = group else {
                continue;
            };
            let key = GroupKey { shard, generation };
            if !is_over(key) {
                continue;
            }
            let unit = self.units.write().remove(&key);
            if let Some(unit) = unit {
                unit.close().await;
            }
            match self.rooms.groups.forget(group).await {
                Ok(()) => tracing::info!(shard = %key, "a generation is over and forgotten"),
                Err(error) => {
                    let error = crate::storage::chain(&error);
                    tracing::error!(shard = %key, error, "a generation cannot be forgotten");
                }
            }
        }
    }

    async fn open(&self, key: GroupKey, members: &BTreeSet<NodeId>) -> anyhow::Result<()> {
        let rooms = &self.rooms;
        let view = rooms.ring.ring_view();
        let count = view.state.map.shards.len().max(1);
        let options = ShardOptions {
            spool_dir: rooms.spool_dir.clone(),
            live_bytes_max: rooms.heads_max / count,
            wait_for_disk: Arc::new(|| std::thread::sleep(WAIT_FOR_DISK)),
            clock: Arc::clone(&rooms.common.clock),
            new_block_id: Arc::clone(&rooms.new_block_id),
        };
        let shard = Arc::new(Shard::following(key, options));
        let machine = ShardMachine::new(Arc::clone(&shard));
        let group = rooms
            .groups
            .open(GroupId::Shard(key.shard, key.generation), machine)
            .await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let preferred = view.state.map.shards.get(&key.shard).map(|record| record.preferred);
        if members.len() == 1 || preferred == Some(rooms.ring.node()) {
            group.found(members).await?;
        } else {
            let (group, members, stop) = (group.clone(), members.clone(), stop.clone());
            tasks.spawn(async move {
                let mut leadership = group.leadership();
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = leadership.wait_for(|now| now.leader.is_some()) => return,
                    () = tokio::time::sleep(FOUND_AFTER) => {}
                }
                if let Err(error) = group.found(&members).await {
                    tracing::warn!(%error, shard = %key, "cannot found a generation");
                }
            });
        }
        let flusher = Flusher {
            shard: Arc::clone(&shard),
            store: rooms.store.clone(),
            catalog: Arc::clone(&rooms.ring) as Arc<dyn CatalogPort>,
            blocks: Arc::clone(&rooms.blocks),
            new_block_id: Arc::clone(&rooms.new_block_id),
        };
        let room = FlushRoom {
            flusher,
            group: group.clone(),
            ring: Arc::clone(&rooms.ring),
            common: rooms.common.clone(),
            wal: rooms.wal.clone(),
            damaged_log: Arc::clone(&rooms.damaged_log),
            // Half of the shard's share: the other half fills while this one is built.
            heads_high: rooms.heads_max / count / 2,
            builds: Arc::clone(&rooms.builds),
        };
        tasks.spawn(flusher::run(room, stop.clone()));
        tasks.spawn(lead(
            Arc::clone(&shard),
            group.clone(),
            Arc::clone(&rooms.ring),
            stop.clone(),
        ));
        let lane = Lane::open(
            group.clone(),
            &rooms.common.settings.replication,
            Arc::clone(&rooms.common.clock),
            rooms.common.cpu.clone(),
            &tasks,
        );
        let unit = Unit {
            key,
            shard,
            group,
            lane,
            stop,
            tasks,
        };
        self.units.write().insert(key, Arc::new(unit));
        Ok(())
    }

    /// Waits until every generation that has no other member is live: a node that is alone serves at once.
    pub(super) async fn wait_for_own(&self, within: Duration) -> anyhow::Result<()> {
        let waiting = async {
            for unit in self.all() {
                let view = self.rooms.ring.ring_view();
                let members = view.state.map.live_generations().find(|(key, _)| *key == unit.key);
                if members.is_some_and(|(_, members)| members.len() > 1) {
                    continue;
                }
                unit.group.wait_recovered(within).await?;
                while !unit.shard.is_live() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(within, waiting).await?
    }

    /// Follows the map until stopped.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut views = self.rooms.ring.views();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = views.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
            self.reconcile().await;
        }
    }

    /// Closes all units; their groups stay open.
    pub(super) async fn close(&self) {
        let units = std::mem::take(&mut *self.units.write());
        futures::future::join_all(units.values().map(|unit| unit.close())).await;
    }
}

impl Unit {
    async fn close(&self) {
        self.stop.cancel();
        self.lane.close();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Keeps the shard live for as long as it is led here.
async fn lead(shard: Arc<Shard>, group: Group<ShardMachine>, ring: Arc<RingPort>, stop: CancellationToken) {
    let mut leadership = group.leadership();
    let mut views = ring.views();
    loop {
        let now = leadership.current();
        let watermark = ring.watermark(shard.group());
        let fits = shard.head().fits(watermark);
        if now.is_leader && (!shard.is_live() || !fits) {
            let filled = tokio::select! {
                () = stop.cancelled() => return,
                filled = fill(&shard, &group, &ring) => filled,
            };
            match filled {
                Ok(true) => tracing::info!(shard = %shard.group(), term = now.term, "live spans are here"),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), shard = %shard.group(), "cannot read the tail back yet");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
            continue;
        }
        if !now.is_leader && shard.is_live() {
            let shard = Arc::clone(&shard);
            let let_go = tokio::task::spawn_blocking(move || shard.follow());
            if let_go.await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leadership.changed_from(now) => if changed.is_none() { return },
            changed = views.changed() => if changed.is_err() { return },
        }
    }
}

/// Reads the tail back from the log. What earlier leaders committed is applied before it begins.
async fn fill(shard: &Arc<Shard>, group: &Group<ShardMachine>, ring: &Arc<RingPort>) -> anyhow::Result<bool> {
    group.read_index().await?;
    let (shard, group, watermark) = (Arc::clone(shard), group.clone(), ring.watermark(shard.group()));
    let filling = tokio::task::spawn_blocking(move || {
        let read = |after, upto| {
            let (entries, reached) = group.committed_entries(after, upto, FILL_BYTES)?;
            let entries = entries
                .into_iter()
                .map(|(at, payload)| (at.index, payload.data().clone()));
            anyhow::Ok((entries.collect(), reached))
        };
        shard.fill(watermark, read, || group.is_leader())
    });
    filling.await?
}
