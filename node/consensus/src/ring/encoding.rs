//! The bytes of ring commands and of the ring's state: a format byte, then protobuf fields without a schema file.
//!
//! The rules are those of the catalog's encoding: fields are only added, unknown ones are passed over, equal values have
//! equal bytes. An unknown *command* is an error, because a member that skipped it would no longer be like the others; the
//! feature level keeps such commands from being proposed too early.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use model::proto::{Entry, Field, Fields, Malformed, write_bytes, write_fixed64, write_varint_field};
use model::{Generation, InvalidTenant, LogIndex, NodeId, ShardId, TenantId};
use shard::catalog::{self, Catalog, GroupKey};

use super::command::{Body, Guard, RingCommand};
use super::{
    HashRange, Lease, Leases, NodeRecord, NodeState, RingClock, RingState, Sealed, ShardMap, ShardRecord, TenantRecord,
};

const FORMAT: u8 = 1;

/// Why bytes are not a ring command or a ring state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingDecodeError {
    /// Not even well-formed fields.
    #[error("malformed")]
    Malformed(#[from] Malformed),
    /// Written by a newer program.
    #[error("format {found} is newer than {FORMAT}")]
    Format { found: u8 },
    /// Nothing at all.
    #[error("empty")]
    Empty,
    /// A required field is not there, or a command that this program does not know.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field holds what no version wrote.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// A tenant name that the door would have refused.
    #[error("bad tenant name")]
    Tenant(#[from] InvalidTenant),
    /// The catalog's part.
    #[error("bad catalog")]
    Catalog(#[from] catalog::DecodeError),
}

type Result<T> = std::result::Result<T, RingDecodeError>;

// Numbers of commands. Never reused.
const TICK: u32 = 10;
const BOOTSTRAP: u32 = 11;
const PUT_NODE: u32 = 12;
const REMOVE_NODE: u32 = 13;
const SET_SHARD_MAP: u32 = 14;
const SEAL: u32 = 15;
const RETIRE: u32 = 16;
const ABANDON: u32 = 17;
const PUT_TENANT: u32 = 18;
const REMOVE_TENANT: u32 = 19;
const ACQUIRE_LEASE: u32 = 20;
const RELEASE_LEASE: u32 = 21;
const RAISE_FEATURE_LEVEL: u32 = 22;
const RESET_CLOCK: u32 = 23;
const CATALOG: u32 = 24;
const RESTORE: u32 = 25;

impl RingCommand {
    /// A command without guard.
    pub fn new(stamp_unix_nanos: u64, body: Body) -> Self {
        Self {
            stamp_unix_nanos,
            guard: None,
            body,
        }
    }

    /// The command as it is proposed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        write_fixed64(&mut out, 1, self.stamp_unix_nanos);
        if let Some(guard) = &self.guard {
            message(&mut out, 2, |out| {
                put_held(out, &guard.lease, guard.holder, guard.fence)
            });
        }
        put_body(&mut out, &self.body);
        out
    }

    /// The reverse of [`RingCommand::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut stamp, mut guard, mut body) = (None, None, None);
        each(versioned(bytes)?, |entry| {
            match entry.number {
                1 => stamp = Some(entry.fixed64()?),
                2 => {
                    let (lease, holder, fence) = get_held(entry.bytes()?)?;
                    guard = Some(Guard { lease, holder, fence });
                }
                TICK..=RESTORE => body = Some(get_body(entry)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self {
            stamp_unix_nanos: stamp.ok_or(RingDecodeError::Missing("stamp"))?,
            guard,
            body: body.ok_or(RingDecodeError::Missing("command"))?,
        })
    }
}

fn put_body(out: &mut Vec<u8>, body: &Body) {
    match body {
        Body::Tick => write_bytes(out, TICK, &[]),
        Body::Bootstrap { cluster, nodes, shards } => message(out, BOOTSTRAP, |out| {
            write_bytes(out, 1, &cluster.to_be_bytes());
            nodes.iter().for_each(|node| message(out, 2, |out| put_node(out, node)));
            shards
                .iter()
                .for_each(|shard| message(out, 3, |out| put_shard(out, shard)));
        }),
        Body::PutNode(node) => message(out, PUT_NODE, |out| put_node(out, node)),
        Body::RemoveNode(node) => message(out, REMOVE_NODE, |out| write_fixed64(out, 1, node.0)),
        Body::SetShardMap { epoch, shards } => message(out, SET_SHARD_MAP, |out| {
            write_varint_field(out, 1, *epoch);
            shards
                .iter()
                .for_each(|shard| message(out, 2, |out| put_shard(out, shard)));
        }),
        Body::Seal { key, last } => message(out, SEAL, |out| {
            put_key(out, *key);
            write_varint_field(out, 3, last.0);
        }),
        Body::Retire(key) => message(out, RETIRE, |out| put_key(out, *key)),
        Body::Abandon(key) => message(out, ABANDON, |out| put_key(out, *key)),
        Body::PutTenant { tenant, settings } => message(out, PUT_TENANT, |out| {
            write_bytes(out, 1, tenant.as_str().as_bytes());
            write_bytes(out, 2, settings);
        }),
        Body::RemoveTenant(tenant) => message(out, REMOVE_TENANT, |out| {
            write_bytes(out, 1, tenant.as_str().as_bytes())
        }),
        Body::AcquireLease {
            lease,
            holder,
            duration_nanos,
        } => {
            message(out, ACQUIRE_LEASE, |out| put_held(out, lease, *holder, *duration_nanos));
        }
        Body::ReleaseLease { lease, holder, fence } => {
            message(out, RELEASE_LEASE, |out| put_held(out, lease, *holder, *fence));
        }
        Body::RaiseFeatureLevel(level) => {
            message(out, RAISE_FEATURE_LEVEL, |out| {
                write_varint_field(out, 1, u64::from(*level))
            });
        }
        Body::ResetClock { unix_nanos } => message(out, RESET_CLOCK, |out| write_fixed64(out, 1, *unix_nanos)),
        Body::Catalog(command) => write_bytes(out, CATALOG, &command.encode()),
        Body::Restore(part) => write_bytes(out, RESTORE, &part.encode()),
    }
}

fn get_body(entry: &Entry<'_>) -> Result<Body> {
    let bytes = entry.bytes()?;
    Ok(match entry.number {
        TICK => Body::Tick,
        BOOTSTRAP => {
            let (mut cluster, mut nodes, mut shards) = (None, Vec::new(), Vec::new());
            each(bytes, |entry| {
                match entry.number {
                    1 => cluster = Some(get_u128(entry, "cluster")?),
                    2 => nodes.push(get_node(entry.bytes()?)?),
                    3 => shards.push(get_shard(entry.bytes()?)?),
                    _ => {}
                }
                Ok(())
            })?;
            Body::Bootstrap {
                cluster: cluster.ok_or(RingDecodeError::Missing("cluster"))?,
                nodes,
                shards,
            }
        }
        PUT_NODE => Body::PutNode(get_node(bytes)?),
        REMOVE_NODE => Body::RemoveNode(NodeId(fixed(bytes, 1, "node")?)),
        SET_SHARD_MAP => {
            let mut shards = Vec::new();
            each(bytes, |entry| {
                if entry.number == 2 {
                    shards.push(get_shard(entry.bytes()?)?);
                }
                Ok(())
            })?;
            Body::SetShardMap {
                epoch: varint(bytes, 1, "epoch")?,
                shards,
            }
        }
        SEAL => Body::Seal {
            key: get_key(bytes)?,
            last: LogIndex(varint(bytes, 3, "last")?),
        },
        RETIRE => Body::Retire(get_key(bytes)?),
        ABANDON => Body::Abandon(get_key(bytes)?),
        PUT_TENANT => {
            let settings =
                Bytes::copy_from_slice(field(bytes, 2)?.ok_or(RingDecodeError::Missing("settings"))?.bytes()?);
            Body::PutTenant {
                tenant: get_tenant(bytes)?,
                settings,
            }
        }
        REMOVE_TENANT => Body::RemoveTenant(get_tenant(bytes)?),
        ACQUIRE_LEASE => {
            let (lease, holder, duration_nanos) = get_held(bytes)?;
            Body::AcquireLease {
                lease,
                holder,
                duration_nanos,
            }
        }
        RELEASE_LEASE => {
            let (lease, holder, fence) = get_held(bytes)?;
            Body::ReleaseLease { lease, holder, fence }
        }
        RAISE_FEATURE_LEVEL => {
            let level = u32::try_from(varint(bytes, 1, "level")?);
            Body::RaiseFeatureLevel(level.map_err(|_| RingDecodeError::OutOfRange("level"))?)
        }
        RESET_CLOCK => Body::ResetClock {
            unix_nanos: fixed(bytes, 1, "time")?,
        },
        CATALOG => Body::Catalog(catalog::Command::decode(bytes)?),
        RESTORE => Body::Restore(Catalog::decode(bytes)?),
        _ => return Err(RingDecodeError::Missing("command")),
    })
}

impl RingState {
    /// All of it as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        write_bytes(&mut out, 1, &self.cluster.to_be_bytes());
        write_fixed64(&mut out, 2, self.clock.unix_nanos);
        if let Some(jump) = self.clock.jumped_to_unix_nanos {
            write_fixed64(&mut out, 3, jump);
        }
        write_varint_field(&mut out, 4, u64::from(self.feature_level));
        for node in self.nodes.values() {
            message(&mut out, 5, |out| put_node(out, node));
        }
        message(&mut out, 6, |out| put_map(out, &self.map));
        write_varint_field(&mut out, 7, self.tenants_version);
        for (tenant, record) in self.tenants.iter() {
            message(&mut out, 8, |out| {
                write_bytes(out, 1, tenant.as_str().as_bytes());
                write_bytes(out, 2, &record.settings);
                write_varint_field(out, 3, record.version);
            });
        }
        write_varint_field(&mut out, 9, self.leases.last_fence);
        for (name, lease) in &self.leases.by_name {
            message(&mut out, 10, |out| {
                put_held(out, name, lease.holder, lease.fence);
                write_fixed64(out, 4, lease.expires_unix_nanos);
            });
        }
        write_bytes(&mut out, 11, &self.catalog.encode());
        out
    }

    /// The reverse of [`RingState::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut state = Self::default();
        let (mut nodes, mut tenants) = (BTreeMap::new(), BTreeMap::new());
        let (mut clock, mut leases) = (RingClock::default(), Leases::default());
        each(versioned(bytes)?, |entry| {
            match entry.number {
                1 => state.cluster = get_u128(entry, "cluster")?,
                2 => clock.unix_nanos = entry.fixed64()?,
                3 => clock.jumped_to_unix_nanos = Some(entry.fixed64()?),
                4 => state.feature_level = get_u32(entry, "feature level")?,
                5 => {
                    let node = get_node(entry.bytes()?)?;
                    nodes.insert(node.id, node);
                }
                6 => state.map = Arc::new(get_map(entry.bytes()?)?),
                7 => state.tenants_version = entry.varint()?,
                8 => {
                    let bytes = entry.bytes()?;
                    let settings = field(bytes, 2)?.ok_or(RingDecodeError::Missing("settings"))?;
                    let settings = Bytes::copy_from_slice(settings.bytes()?);
                    let version = varint(bytes, 3, "version")?;
                    tenants.insert(get_tenant(bytes)?, TenantRecord { settings, version });
                }
                9 => leases.last_fence = entry.varint()?,
                10 => {
                    let bytes = entry.bytes()?;
                    let (name, holder, fence) = get_held(bytes)?;
                    let expires_unix_nanos = fixed(bytes, 4, "expiry")?;
                    leases.by_name.insert(
                        name,
                        Lease {
                            holder,
                            fence,
                            expires_unix_nanos,
                        },
                    );
                }
                11 => state.catalog = Catalog::decode(entry.bytes()?)?,
                _ => {}
            }
            Ok(())
        })?;
        (state.clock, state.leases) = (clock, leases);
        (state.nodes, state.tenants) = (Arc::new(nodes), Arc::new(tenants));
        Ok(state)
    }
}

fn put_map(out: &mut Vec<u8>, map: &ShardMap) {
    write_varint_field(out, 1, map.epoch);
    for shard in map.shards.values() {
        message(out, 2, |out| put_shard(out, shard));
    }
    for (key, sealed) in &map.sealed {
        message(out, 3, |out| {
            put_key(out, *key);
            put_range(out, 3, sealed.range);
            put_nodes(out, 5, &sealed.members);
            if let Some(last) = sealed.last {
                write_varint_field(out, 6, last.0);
            }
        });
    }
    for (shard, generation) in &map.newest {
        message(out, 4, |out| {
            put_key(
                out,
                GroupKey {
                    shard: *shard,
                    generation: *generation,
                },
            )
        });
    }
}

fn get_map(bytes: &[u8]) -> Result<ShardMap> {
    let mut map = ShardMap::default();
    each(bytes, |entry| {
        match entry.number {
            1 => map.epoch = entry.varint()?,
            2 => {
                let shard = get_shard(entry.bytes()?)?;
                map.shards.insert(shard.id, shard);
            }
            3 => {
                let bytes = entry.bytes()?;
                let last = field(bytes, 6)?.map(|entry| entry.varint()).transpose()?.map(LogIndex);
                let sealed = Sealed {
                    range: get_range(bytes, 3)?,
                    members: get_nodes(bytes, 5)?,
                    last,
                };
                map.sealed.insert(get_key(bytes)?, sealed);
            }
            4 => {
                let key = get_key(entry.bytes()?)?;
                map.newest.insert(key.shard, key.generation);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(map)
}

fn put_shard(out: &mut Vec<u8>, shard: &ShardRecord) {
    put_key(out, shard.key());
    put_range(out, 3, shard.range);
    put_nodes(out, 5, &shard.members);
    write_fixed64(out, 6, shard.preferred.0);
    write_varint_field(out, 7, u64::from(shard.inherits));
}

fn get_shard(bytes: &[u8]) -> Result<ShardRecord> {
    let key = get_key(bytes)?;
    let inherits = match varint(bytes, 7, "inherits")? {
        0 => false,
        1 => true,
        _ => return Err(RingDecodeError::OutOfRange("inherits")),
    };
    Ok(ShardRecord {
        id: key.shard,
        range: get_range(bytes, 3)?,
        generation: key.generation,
        members: get_nodes(bytes, 5)?,
        preferred: NodeId(fixed(bytes, 6, "preferred")?),
        inherits,
    })
}

fn put_node(out: &mut Vec<u8>, node: &NodeRecord) {
    write_fixed64(out, 1, node.id.0);
    write_bytes(out, 2, node.pod.as_bytes());
    write_bytes(out, 3, node.zone.as_bytes());
    write_bytes(out, 4, node.address.as_bytes());
    let state = match node.state {
        NodeState::Active => 1,
        NodeState::Draining => 2,
        NodeState::Lost => 3,
    };
    write_varint_field(out, 5, state);
    write_varint_field(out, 6, u64::from(node.feature_level));
    write_fixed64(out, 7, node.joined_unix_nanos);
}

fn get_node(bytes: &[u8]) -> Result<NodeRecord> {
    let text = |number, what| get_text(field(bytes, number)?.ok_or(RingDecodeError::Missing(what))?);
    let state = match varint(bytes, 5, "node state")? {
        1 => NodeState::Active,
        2 => NodeState::Draining,
        3 => NodeState::Lost,
        _ => return Err(RingDecodeError::OutOfRange("node state")),
    };
    let feature_level = u32::try_from(varint(bytes, 6, "feature level")?);
    Ok(NodeRecord {
        id: NodeId(fixed(bytes, 1, "node")?),
        pod: text(2, "pod")?,
        zone: text(3, "zone")?,
        address: text(4, "address")?,
        state,
        feature_level: feature_level.map_err(|_| RingDecodeError::OutOfRange("feature level"))?,
        joined_unix_nanos: fixed(bytes, 7, "joined")?,
    })
}

fn put_key(out: &mut Vec<u8>, key: GroupKey) {
    write_varint_field(out, 1, u64::from(key.shard.0));
    write_varint_field(out, 2, key.generation.0);
}

fn get_key(bytes: &[u8]) -> Result<GroupKey> {
    let shard = u32::try_from(varint(bytes, 1, "shard")?).map_err(|_| RingDecodeError::OutOfRange("shard"))?;
    Ok(GroupKey {
        shard: ShardId(shard),
        generation: Generation(varint(bytes, 2, "generation")?),
    })
}

fn put_range(out: &mut Vec<u8>, number: u32, range: HashRange) {
    write_fixed64(out, number, range.first);
    write_fixed64(out, number + 1, range.last);
}

fn get_range(bytes: &[u8], number: u32) -> Result<HashRange> {
    Ok(HashRange {
        first: fixed(bytes, number, "range")?,
        last: fixed(bytes, number + 1, "range")?,
    })
}

fn put_nodes(out: &mut Vec<u8>, number: u32, nodes: &BTreeSet<NodeId>) {
    let bytes: Vec<u8> = nodes.iter().flat_map(|node| node.0.to_le_bytes()).collect();
    write_bytes(out, number, &bytes);
}

fn get_nodes(bytes: &[u8], number: u32) -> Result<BTreeSet<NodeId>> {
    let bytes = field(bytes, number)?
        .ok_or(RingDecodeError::Missing("members"))?
        .bytes()?;
    let (ids, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(RingDecodeError::OutOfRange("members"));
    }
    Ok(ids.iter().map(|id| NodeId(u64::from_le_bytes(*id))).collect())
}

/// A name, a node and a number: what guards and leases are made of.
fn put_held(out: &mut Vec<u8>, lease: &str, holder: NodeId, number: u64) {
    write_bytes(out, 1, lease.as_bytes());
    write_fixed64(out, 2, holder.0);
    write_varint_field(out, 3, number);
}

fn get_held(bytes: &[u8]) -> Result<(Arc<str>, NodeId, u64)> {
    let lease = get_text(field(bytes, 1)?.ok_or(RingDecodeError::Missing("lease"))?)?;
    Ok((lease, NodeId(fixed(bytes, 2, "holder")?), varint(bytes, 3, "fence")?))
}

fn get_tenant(bytes: &[u8]) -> Result<TenantId> {
    let name = get_text(field(bytes, 1)?.ok_or(RingDecodeError::Missing("tenant"))?)?;
    Ok(TenantId::new(&name)?)
}

fn get_u128(entry: &Entry<'_>, what: &'static str) -> Result<u128> {
    let bytes = entry
        .bytes()?
        .try_into()
        .map_err(|_| RingDecodeError::OutOfRange(what))?;
    Ok(u128::from_be_bytes(bytes))
}

fn get_u32(entry: &Entry<'_>, what: &'static str) -> Result<u32> {
    u32::try_from(entry.varint()?).map_err(|_| RingDecodeError::OutOfRange(what))
}

fn get_text(entry: Entry<'_>) -> Result<Arc<str>> {
    let text = std::str::from_utf8(entry.bytes()?).map_err(|_| Malformed::Utf8(entry.number))?;
    Ok(Arc::from(text))
}

/// The last field of this number; commands are small, so looking again for each field is cheap.
fn field(bytes: &[u8], number: u32) -> Result<Option<Entry<'_>>> {
    let mut fields = Fields::new(bytes);
    let mut found = None;
    while let Some(entry) = fields.next_field()? {
        if entry.number == number {
            found = Some(entry);
        }
    }
    Ok(found)
}

fn varint(bytes: &[u8], number: u32, what: &'static str) -> Result<u64> {
    match field(bytes, number)?.ok_or(RingDecodeError::Missing(what))?.value {
        Field::Varint(value) => Ok(value),
        _ => Err(RingDecodeError::Malformed(Malformed::WireType(number))),
    }
}

fn fixed(bytes: &[u8], number: u32, what: &'static str) -> Result<u64> {
    Ok(field(bytes, number)?.ok_or(RingDecodeError::Missing(what))?.fixed64()?)
}

fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    write_bytes(out, number, &inner);
}

fn each(bytes: &[u8], mut take: impl FnMut(&Entry<'_>) -> Result<()>) -> Result<()> {
    let mut fields = Fields::new(bytes);
    while let Some(entry) = fields.next_field()? {
        take(&entry)?;
    }
    Ok(())
}

fn versioned(bytes: &[u8]) -> Result<&[u8]> {
    match bytes {
        [] => Err(RingDecodeError::Empty),
        [FORMAT, body @ ..] => Ok(body),
        [found, ..] => Err(RingDecodeError::Format { found: *found }),
    }
}
