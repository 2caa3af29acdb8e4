//! The state of the ring and what commands do to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use model::{NodeId, TenantId};
use shard::catalog::{Catalog, GroupKey};

use super::command::{Body, RingChange, RingCommand, RingRefusal};
use super::{Leases, NODES_MAX, NodeRecord, RingClock, ShardMap, ShardRecord};

/// Most tenants with settings of their own.
pub const TENANTS_MAX: usize = 20_000;
/// Longest settings of one tenant.
pub const SETTINGS_BYTES_MAX: usize = 64 << 10;

/// A tenant's settings and when they changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRecord {
    /// Means something to `server` only.
    pub settings: Bytes,
    /// The value of [`RingState::tenants_version`] when they were set.
    pub version: u64,
}

/// Everything the ring knows. Cloning it is cheap: what is large is shared until it changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RingState {
    /// 0 before bootstrap.
    pub cluster: u128,
    /// The ring's time.
    pub clock: RingClock,
    /// What every node understands.
    pub feature_level: u32,
    /// Who is in the cluster.
    pub nodes: Arc<BTreeMap<NodeId, NodeRecord>>,
    /// Who has what.
    pub map: Arc<ShardMap>,
    /// Settings of tenants that have their own.
    pub tenants: Arc<BTreeMap<TenantId, TenantRecord>>,
    /// Grows with every change of a tenant.
    pub tenants_version: u64,
    /// Who does which job.
    pub leases: Leases,
    /// Which blocks exist.
    pub catalog: Catalog,
}

impl RingState {
    /// Whether the cluster is founded.
    pub fn is_founded(&self) -> bool {
        self.cluster != 0
    }

    /// Takes a command or refuses it. Depends on nothing but the state and the command.
    pub fn apply(&mut self, command: RingCommand) -> Result<RingChange, RingRefusal> {
        self.clock.advance(command.stamp_unix_nanos);
        if let Some(guard) = command.guard
            && !self.leases.is_held(&guard.lease, guard.holder, guard.fence)
        {
            return Err(RingRefusal::Fenced { lease: guard.lease });
        }
        if !self.is_founded() && !matches!(command.body, Body::Bootstrap { .. } | Body::Restore(_) | Body::Tick) {
            return Err(RingRefusal::NotFounded);
        }
        match command.body {
            Body::Tick => Ok(RingChange::Done),
            Body::Bootstrap { cluster, nodes, shards } => self.bootstrap(cluster, nodes, shards),
            Body::PutNode(node) => self.put_node(node),
            Body::RemoveNode(node) => self.remove_node(node),
            Body::SetShardMap { epoch, shards } => self.set_shard_map(epoch, shards),
            Body::Seal { key, last } => {
                let mut map = (*self.map).clone();
                map.seal(key, last)?;
                Ok(self.changed_map(map))
            }
            Body::Retire(key) => self.retire(key),
            Body::Abandon(key) => self.abandon(key),
            Body::PutTenant { tenant, settings } => self.put_tenant(tenant, settings),
            Body::RemoveTenant(tenant) => Ok(self.remove_tenant(&tenant)),
            Body::AcquireLease {
                lease,
                holder,
                duration_nanos,
            } => {
                let now = self.clock.unix_nanos;
                match self.leases.acquire(lease.clone(), holder, duration_nanos, now) {
                    Some(given) => Ok(RingChange::Leased(given)),
                    None => {
                        let holder = self.leases.get(&lease).map(|held| held.holder);
                        Err(RingRefusal::LeaseHeld { lease, holder })
                    }
                }
            }
            Body::ReleaseLease { lease, holder, fence } => {
                let was_held = self.leases.release(&lease, holder, fence);
                Ok(if was_held {
                    RingChange::Done
                } else {
                    RingChange::AlreadyDone
                })
            }
            Body::RaiseFeatureLevel(level) => self.raise_feature_level(level),
            Body::ResetClock { unix_nanos } => {
                self.clock.reset(unix_nanos);
                Ok(RingChange::Done)
            }
            Body::Catalog(command) => Ok(RingChange::Catalog(self.catalog.apply(command, self.clock.now())?)),
            Body::Restore(_) if self.is_founded() => Err(RingRefusal::Founded),
            Body::Restore(part) => {
                self.catalog.absorb(part.view())?;
                Ok(RingChange::Done)
            }
        }
    }

    fn bootstrap(
        &mut self,
        cluster: u128,
        nodes: Vec<NodeRecord>,
        shards: Vec<ShardRecord>,
    ) -> Result<RingChange, RingRefusal> {
        if self.is_founded() {
            let is_same = self.cluster == cluster;
            return if is_same {
                Ok(RingChange::AlreadyDone)
            } else {
                Err(self.other_cluster())
            };
        }
        if cluster == 0 {
            return Err(self.other_cluster());
        }
        // All or nothing: a refused bootstrap leaves an empty ring.
        let mut founded = Self {
            cluster,
            clock: self.clock,
            // Restored from the object store, or empty.
            catalog: self.catalog.clone(),
            ..Self::default()
        };
        for node in nodes {
            founded.put_node(node)?;
        }
        founded.set_shard_map(0, shards)?;
        *self = founded;
        Ok(RingChange::Done)
    }

    fn other_cluster(&self) -> RingRefusal {
        RingRefusal::OtherCluster { cluster: self.cluster }
    }

    fn put_node(&mut self, mut node: NodeRecord) -> Result<RingChange, RingRefusal> {
        let known = self.nodes.get(&node.id);
        node.joined_unix_nanos = known.map_or(self.clock.unix_nanos, |known| known.joined_unix_nanos);
        if known == Some(&node) {
            return Ok(RingChange::AlreadyDone);
        }
        let has_room = known.is_some() || self.nodes.len() < NODES_MAX;
        if !node.is_plausible() || !has_room {
            return Err(RingRefusal::BadNode { node: node.id });
        }
        // A node that cannot follow must not join; it would stop at the first command it does not know.
        if node.feature_level < self.feature_level {
            return Err(RingRefusal::NodeTooOld {
                node: node.id,
                level: node.feature_level,
            });
        }
        Arc::make_mut(&mut self.nodes).insert(node.id, node);
        Ok(RingChange::Done)
    }

    fn remove_node(&mut self, node: NodeId) -> Result<RingChange, RingRefusal> {
        if !self.nodes.contains_key(&node) {
            return Ok(RingChange::AlreadyDone);
        }
        if self.map.uses(node) {
            return Err(RingRefusal::NodeInUse { node });
        }
        Arc::make_mut(&mut self.nodes).remove(&node);
        Ok(RingChange::Done)
    }

    fn set_shard_map(&mut self, epoch: u64, shards: Vec<ShardRecord>) -> Result<RingChange, RingRefusal> {
        if epoch != self.map.epoch {
            return Err(RingRefusal::WrongEpoch { epoch: self.map.epoch });
        }
        let mut map = (*self.map).clone();
        let opened = map.replace(shards, |node| self.nodes.contains_key(&node))?;
        for key in opened {
            self.catalog.open_group(key);
        }
        Ok(self.changed_map(map))
    }

    fn retire(&mut self, key: GroupKey) -> Result<RingChange, RingRefusal> {
        let sealed = self.map.sealed.get(&key).ok_or(RingRefusal::NotSealed { key })?;
        let last = sealed.last.ok_or(RingRefusal::NotSealed { key })?;
        self.catalog.retire_group(key, last)?;
        Ok(self.dropped(key))
    }

    fn abandon(&mut self, key: GroupKey) -> Result<RingChange, RingRefusal> {
        if !self.map.sealed.contains_key(&key) {
            return Err(RingRefusal::NotSealed { key });
        }
        if let Some(watermark) = self.catalog.view().watermark(key) {
            self.catalog.retire_group(key, watermark)?;
        }
        Ok(self.dropped(key))
    }

    fn dropped(&mut self, key: GroupKey) -> RingChange {
        let mut map = (*self.map).clone();
        map.sealed.remove(&key);
        self.changed_map(map)
    }

    fn changed_map(&mut self, map: ShardMap) -> RingChange {
        if *self.map == map {
            return RingChange::AlreadyDone;
        }
        self.map = Arc::new(map);
        RingChange::Done
    }

    fn put_tenant(&mut self, tenant: TenantId, settings: Bytes) -> Result<RingChange, RingRefusal> {
        let known = self.tenants.get(&tenant);
        if known.is_some_and(|known| known.settings == settings) {
            return Ok(RingChange::AlreadyDone);
        }
        let has_room = known.is_some() || self.tenants.len() < TENANTS_MAX;
        if settings.len() > SETTINGS_BYTES_MAX || !has_room {
            return Err(RingRefusal::TenantTooLarge { tenant });
        }
        self.tenants_version += 1;
        // A copy: the bytes are a slice of a whole log entry otherwise.
        let record = TenantRecord {
            settings: Bytes::copy_from_slice(&settings),
            version: self.tenants_version,
        };
        Arc::make_mut(&mut self.tenants).insert(tenant, record);
        Ok(RingChange::Done)
    }

    fn remove_tenant(&mut self, tenant: &TenantId) -> RingChange {
        if !self.tenants.contains_key(tenant) {
            return RingChange::AlreadyDone;
        }
        self.tenants_version += 1;
        Arc::make_mut(&mut self.tenants).remove(tenant);
        RingChange::Done
    }

    fn raise_feature_level(&mut self, level: u32) -> Result<RingChange, RingRefusal> {
        if level <= self.feature_level {
            return Ok(RingChange::AlreadyDone);
        }
        if let Some(old) = self.nodes.values().find(|node| node.feature_level < level) {
            return Err(RingRefusal::NodeTooOld {
                node: old.id,
                level: old.feature_level,
            });
        }
        self.feature_level = level;
        Ok(RingChange::Done)
    }

    /// A number that is equal on members whose states are equal; to be compared at equal positions.
    pub fn digest(&self) -> u64 {
        checksum(CrcAlgorithm::Crc64Nvme, &self.encode())
    }
}
