//! The ring's rules, one by one and then in random order, and the ring as a replicated machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use model::{BlockId, Generation, LogIndex, NodeId, ShardId, TenantId};
use proptest::prelude::*;
use shard::catalog::{self, GroupKey};
use wal::SimVfs;

use super::*;
use crate::harness::{Node, SOON};
use crate::{GroupId, MemoryNetwork, Payload};

mod bounds;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_000 * SECOND;
const CLUSTER: u128 = 77;

fn node(id: u64) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        pod: Arc::from(format!("pod-{id}")),
        zone: Arc::from(format!("zone-{}", id % 3)),
        address: Arc::from(format!("10.0.0.{id}:7946")),
        state: NodeState::Active,
        feature_level: 1,
        joined_unix_nanos: 0,
    }
}

fn shards(count: u32, generation: u64, members: &[u64]) -> Vec<ShardRecord> {
    let members: BTreeSet<NodeId> = members.iter().map(|id| NodeId(*id)).collect();
    let record = |index| ShardRecord {
        id: ShardId(index),
        range: HashRange::of_shard(index, count),
        generation: Generation(generation),
        preferred: *members.first().unwrap(),
        members: members.clone(),
        inherits: generation > 1,
    };
    (0..count).map(record).collect()
}

fn key(shard: u32, generation: u64) -> GroupKey {
    GroupKey {
        shard: ShardId(shard),
        generation: Generation(generation),
    }
}

fn apply(state: &mut RingState, body: Body) -> RingResponse {
    let stamp = state.clock.unix_nanos.max(START);
    state.apply(RingCommand::new(stamp, body))
}

fn bootstrap() -> Body {
    Body::Bootstrap {
        cluster: CLUSTER,
        nodes: vec![node(1), node(2), node(3)],
        shards: shards(2, 1, &[1, 2, 3]),
    }
}

fn founded() -> RingState {
    let mut state = RingState::default();
    assert_eq!(apply(&mut state, bootstrap()), Ok(RingChange::Done));
    state
}

#[test]
fn a_cluster_is_founded_once() {
    let mut state = RingState::default();
    assert_eq!(
        apply(&mut state, Body::RemoveNode(NodeId(1))),
        Err(RingRefusal::NotFounded)
    );
    let bad = Body::Bootstrap {
        cluster: CLUSTER,
        nodes: vec![node(1)],
        shards: shards(2, 1, &[1, 2]),
    };
    assert_eq!(
        apply(&mut state, bad),
        Err(RingRefusal::BadMembers { shard: ShardId(0) })
    );
    assert_eq!(state.nodes.len(), 0, "a refused bootstrap leaves nothing behind");
    assert_eq!(apply(&mut state, bootstrap()), Ok(RingChange::Done));
    let before = state.clone();
    assert_eq!(apply(&mut state, bootstrap()), Ok(RingChange::AlreadyDone));
    let other = Body::Bootstrap {
        cluster: 78,
        nodes: Vec::new(),
        shards: Vec::new(),
    };
    assert_eq!(
        apply(&mut state, other),
        Err(RingRefusal::OtherCluster { cluster: CLUSTER })
    );
    assert_eq!(state, before);
    assert_eq!((state.map.epoch, state.map.shards.len()), (1, 2));
    assert_eq!(state.catalog.view().watermark(key(1, 1)), Some(LogIndex(0)));
}

#[test]
fn ranges_agree_with_the_placement_of_traces() {
    for count in [1, 2, 3, 5, 16, 4096] {
        for index in 0..count {
            let range = HashRange::of_shard(index, count);
            assert_eq!(ShardId::of(range.first, count), ShardId(index));
            assert_eq!(ShardId::of(range.last, count), ShardId(index));
        }
    }
    let state = founded();
    assert_eq!(state.map.shard_of(u64::MAX / 4).unwrap().id, ShardId(0));
    assert_eq!(state.map.shard_of(u64::MAX).unwrap().id, ShardId(1));
}

#[test]
fn a_generation_is_sealed_covered_and_retired() {
    let mut state = founded();
    let epoch = state.map.epoch;
    let mut next = shards(2, 1, &[1, 2, 3]);
    next[0] = ShardRecord {
        generation: Generation(2),
        ..next[0].clone()
    };
    let stale = Body::SetShardMap {
        epoch: epoch - 1,
        shards: next.clone(),
    };
    assert_eq!(apply(&mut state, stale), Err(RingRefusal::WrongEpoch { epoch }));
    assert_eq!(
        apply(
            &mut state,
            Body::SetShardMap {
                epoch,
                shards: next.clone()
            }
        ),
        Ok(RingChange::Done)
    );
    assert_eq!(state.map.epoch, epoch + 1);
    assert_eq!(
        state.map.live_generations().map(|(key, _)| key).collect::<Vec<_>>(),
        [key(0, 2), key(1, 1), key(0, 1)]
    );
    let refused = apply(&mut state, Body::Retire(key(0, 1)));
    assert_eq!(
        refused,
        Err(RingRefusal::NotSealed { key: key(0, 1) }),
        "its last entry is not known yet"
    );
    assert_eq!(
        apply(
            &mut state,
            Body::Seal {
                key: key(0, 1),
                last: LogIndex(9)
            }
        ),
        Ok(RingChange::Done)
    );
    assert_eq!(
        apply(
            &mut state,
            Body::Seal {
                key: key(0, 1),
                last: LogIndex(9)
            }
        ),
        Ok(RingChange::AlreadyDone)
    );
    let elsewhere = apply(
        &mut state,
        Body::Seal {
            key: key(0, 1),
            last: LogIndex(8),
        },
    );
    assert_eq!(
        elsewhere,
        Err(RingRefusal::SealedElsewhere {
            key: key(0, 1),
            last: LogIndex(9)
        })
    );
    assert!(matches!(
        apply(&mut state, Body::Retire(key(0, 1))),
        Err(RingRefusal::Catalog(catalog::Refusal::NotCovered { .. }))
    ));
    let flush = catalog::Command::AddBlock {
        group: key(0, 1),
        from: LogIndex(0),
        to: LogIndex(9),
        object: None,
        records: Vec::new(),
    };
    assert!(matches!(
        apply(&mut state, Body::Catalog(flush)),
        Ok(RingChange::Catalog(_))
    ));
    assert_eq!(apply(&mut state, Body::Retire(key(0, 1))), Ok(RingChange::Done));
    assert!(state.map.sealed.is_empty());
    let (epoch, again) = (state.map.epoch, shards(2, 1, &[1, 2]));
    let reused = apply(&mut state, Body::SetShardMap { epoch, shards: again });
    assert_eq!(
        reused,
        Err(RingRefusal::GenerationUsed {
            shard: ShardId(0),
            newest: Generation(2)
        })
    );
}

#[test]
fn shards_can_be_split() {
    let mut state = founded();
    let epoch = state.map.epoch;
    assert_eq!(
        apply(
            &mut state,
            Body::SetShardMap {
                epoch,
                shards: shards(4, 2, &[1, 2, 3])
            }
        ),
        Ok(RingChange::Done)
    );
    assert_eq!(
        state.map.sealed.keys().copied().collect::<Vec<_>>(),
        [key(0, 1), key(1, 1)]
    );
    assert_eq!(state.map.shards.len(), 4);
    let gap = shards(4, 3, &[1]).into_iter().skip(1).collect();
    let epoch = state.map.epoch;
    assert_eq!(
        apply(&mut state, Body::SetShardMap { epoch, shards: gap }),
        Err(RingRefusal::BadPartition)
    );
    let mut overlap = shards(2, 3, &[1]);
    overlap[1].range.first -= 1;
    assert_eq!(
        apply(&mut state, Body::SetShardMap { epoch, shards: overlap }),
        Err(RingRefusal::BadPartition)
    );
}

#[test]
fn nodes_leave_only_when_nothing_needs_them() {
    let mut state = founded();
    assert_eq!(apply(&mut state, Body::PutNode(node(4))), Ok(RingChange::Done));
    assert_eq!(state.nodes[&NodeId(4)].joined_unix_nanos, START);
    assert_eq!(apply(&mut state, Body::PutNode(node(4))), Ok(RingChange::AlreadyDone));
    assert_eq!(
        apply(&mut state, Body::RemoveNode(NodeId(3))),
        Err(RingRefusal::NodeInUse { node: NodeId(3) })
    );
    let epoch = state.map.epoch;
    apply(
        &mut state,
        Body::SetShardMap {
            epoch,
            shards: shards(2, 2, &[1, 2, 4]),
        },
    )
    .unwrap();
    let refused = apply(&mut state, Body::RemoveNode(NodeId(3)));
    assert_eq!(
        refused,
        Err(RingRefusal::NodeInUse { node: NodeId(3) }),
        "it still has what is not in blocks"
    );
    for shard in 0..2 {
        assert_eq!(apply(&mut state, Body::Abandon(key(shard, 1))), Ok(RingChange::Done));
    }
    assert_eq!(apply(&mut state, Body::RemoveNode(NodeId(3))), Ok(RingChange::Done));
    assert_eq!(
        apply(&mut state, Body::RemoveNode(NodeId(3))),
        Ok(RingChange::AlreadyDone)
    );
    let nameless = NodeRecord {
        address: Arc::from(""),
        ..node(5)
    };
    assert_eq!(
        apply(&mut state, Body::PutNode(nameless)),
        Err(RingRefusal::BadNode { node: NodeId(5) })
    );
}

#[test]
fn the_feature_level_waits_for_the_last_node() {
    let mut state = founded();
    let old = RingRefusal::NodeTooOld {
        node: NodeId(1),
        level: 1,
    };
    assert_eq!(apply(&mut state, Body::RaiseFeatureLevel(2)), Err(old));
    for id in 1..=3 {
        apply(
            &mut state,
            Body::PutNode(NodeRecord {
                feature_level: 2,
                ..node(id)
            }),
        )
        .unwrap();
    }
    assert_eq!(apply(&mut state, Body::RaiseFeatureLevel(2)), Ok(RingChange::Done));
    assert_eq!(
        apply(&mut state, Body::RaiseFeatureLevel(1)),
        Ok(RingChange::AlreadyDone)
    );
    let late = apply(&mut state, Body::PutNode(node(9)));
    assert_eq!(
        late,
        Err(RingRefusal::NodeTooOld {
            node: NodeId(9),
            level: 1
        })
    );
}

#[test]
fn tenants_have_versions_and_bounds() {
    let mut state = founded();
    let tenant = TenantId::new("a").unwrap();
    let put = |settings: &'static [u8]| Body::PutTenant {
        tenant: TenantId::new("a").unwrap(),
        settings: Bytes::from_static(settings),
    };
    assert_eq!(apply(&mut state, put(b"x")), Ok(RingChange::Done));
    assert_eq!(apply(&mut state, put(b"x")), Ok(RingChange::AlreadyDone));
    assert_eq!(apply(&mut state, put(b"y")), Ok(RingChange::Done));
    assert_eq!((state.tenants_version, state.tenants[&tenant].version), (2, 2));
    for (length, fits) in [
        (SETTINGS_BYTES_MAX - 1, true),
        (SETTINGS_BYTES_MAX, true),
        (SETTINGS_BYTES_MAX + 1, false),
    ] {
        let settings = Bytes::from(vec![7; length]);
        let put = apply(
            &mut state,
            Body::PutTenant {
                tenant: tenant.clone(),
                settings,
            },
        );
        assert_eq!(put.is_ok(), fits, "{length} bytes");
    }
    assert_eq!(
        apply(&mut state, Body::RemoveTenant(tenant.clone())),
        Ok(RingChange::Done)
    );
    assert_eq!(
        apply(&mut state, Body::RemoveTenant(tenant)),
        Ok(RingChange::AlreadyDone)
    );
}

#[test]
fn a_lease_has_one_holder_and_fences_the_last_one() {
    let mut state = founded();
    let acquire = |holder| Body::AcquireLease {
        lease: Arc::from("compaction/a"),
        holder: NodeId(holder),
        duration_nanos: 30 * SECOND,
    };
    let RingChange::Leased(first) = apply(&mut state, acquire(1)).unwrap() else {
        panic!("no lease")
    };
    let held = RingRefusal::LeaseHeld {
        lease: Arc::from("compaction/a"),
        holder: Some(NodeId(1)),
    };
    assert_eq!(apply(&mut state, acquire(2)), Err(held));
    let RingChange::Leased(renewed) = apply(&mut state, acquire(1)).unwrap() else {
        panic!("no lease")
    };
    assert_eq!(renewed.fence, first.fence);
    let guarded = |holder, fence| RingCommand {
        guard: Some(Guard {
            lease: Arc::from("compaction/a"),
            holder: NodeId(holder),
            fence,
        }),
        ..RingCommand::new(START, Body::Tick)
    };
    assert_eq!(state.apply(guarded(1, first.fence)), Ok(RingChange::Done));
    // Expired, but nobody took it: no harm done.
    let later = START + 31 * SECOND;
    assert_eq!(
        state.apply(RingCommand {
            stamp_unix_nanos: later,
            ..guarded(1, first.fence)
        }),
        Ok(RingChange::Done)
    );
    let RingChange::Leased(second) = apply(&mut state, acquire(2)).unwrap() else {
        panic!("no lease")
    };
    assert!(second.fence > first.fence);
    let fenced = Err(RingRefusal::Fenced {
        lease: Arc::from("compaction/a"),
    });
    assert_eq!(state.apply(guarded(1, first.fence)), fenced);
    assert_eq!(state.apply(guarded(2, first.fence)), fenced);
    let release = |holder, fence| Body::ReleaseLease {
        lease: Arc::from("compaction/a"),
        holder: NodeId(holder),
        fence,
    };
    assert_eq!(apply(&mut state, release(1, first.fence)), Ok(RingChange::AlreadyDone));
    assert_eq!(apply(&mut state, release(2, second.fence)), Ok(RingChange::Done));
    let RingChange::Leased(third) = apply(&mut state, acquire(2)).unwrap() else {
        panic!("no lease")
    };
    assert!(third.fence > second.fence, "a fence is never given twice");
}

#[test]
fn leases_are_bounded() {
    let mut state = founded();
    let acquire = |n: usize| Body::AcquireLease {
        lease: Arc::from(format!("job/{n}")),
        holder: NodeId(1),
        duration_nanos: SECOND,
    };
    for n in 0..LEASES_MAX {
        apply(&mut state, acquire(n)).unwrap();
    }
    assert!(matches!(
        apply(&mut state, acquire(LEASES_MAX)),
        Err(RingRefusal::LeaseHeld { holder: None, .. })
    ));
    let later = RingCommand::new(START + 2 * SECOND, acquire(LEASES_MAX));
    assert!(state.apply(later).is_ok(), "expired ones make room");
    assert_eq!(state.leases.iter().count(), 1);
}

#[test]
fn ring_time_never_goes_back_and_distrusts_jumps() {
    let mut state = founded();
    let mut stamp = |at: u64| {
        state.apply(RingCommand::new(at, Body::Tick)).unwrap();
        (state.clock.unix_nanos, state.clock.is_trusted())
    };
    assert_eq!(stamp(START + 10), (START + 10, true));
    assert_eq!(stamp(START), (START + 10, true), "a proposer whose clock is behind");
    let calm = START + 10 + JUMP_NANOS;
    assert_eq!(stamp(calm), (calm, true));
    let jumped = calm + JUMP_NANOS + 1;
    assert_eq!(stamp(jumped), (jumped, false));
    assert_eq!(stamp(jumped + JUMP_NANOS - 1), (jumped + JUMP_NANOS - 1, false));
    assert_eq!(
        stamp(jumped + JUMP_NANOS),
        (jumped + JUMP_NANOS, true),
        "it went on calmly"
    );
    apply(&mut state, Body::ResetClock { unix_nanos: START }).unwrap();
    assert_eq!((state.clock.unix_nanos, state.clock.is_trusted()), (START, false));
}

#[test]
fn unknown_commands_are_errors_and_unknown_fields_are_not() {
    let mut bytes = RingCommand::new(START, Body::RemoveNode(NodeId(7))).encode();
    let command = RingCommand::decode(&bytes).unwrap();
    model::proto::write_bytes(&mut bytes, 200, b"from the future");
    assert_eq!(RingCommand::decode(&bytes), Ok(command));
    let mut bytes = vec![1];
    model::proto::write_fixed64(&mut bytes, 1, START);
    model::proto::write_bytes(&mut bytes, 150, b"a command from the future");
    assert_eq!(RingCommand::decode(&bytes), Err(RingDecodeError::Missing("command")));
    assert_eq!(RingCommand::decode(&[2]), Err(RingDecodeError::Format { found: 2 }));
}

/// One of each kind; what `testdata/v1/ring.txt` says, line by line.
fn one_of_each() -> Vec<Body> {
    let tenant = || TenantId::new("team-a").unwrap();
    let lease = || Arc::from("compaction/team-a");
    let flush = catalog::Command::AddBlock {
        group: key(0, 1),
        from: LogIndex(0),
        to: LogIndex(4),
        object: None,
        records: Vec::new(),
    };
    vec![
        bootstrap(),
        Body::Tick,
        Body::PutNode(node(4)),
        Body::SetShardMap {
            epoch: 1,
            shards: shards(2, 2, &[2, 3, 4]),
        },
        Body::Seal {
            key: key(0, 1),
            last: LogIndex(9),
        },
        Body::Catalog(flush),
        Body::PutTenant {
            tenant: tenant(),
            settings: Bytes::from_static(b"settings"),
        },
        Body::AcquireLease {
            lease: lease(),
            holder: NodeId(2),
            duration_nanos: 7 * SECOND,
        },
        Body::RaiseFeatureLevel(1),
        Body::Retire(key(1, 1)),
        Body::Abandon(key(0, 1)),
        Body::RemoveNode(NodeId(1)),
        Body::ReleaseLease {
            lease: lease(),
            holder: NodeId(2),
            fence: 1,
        },
        Body::RemoveTenant(tenant()),
        Body::ResetClock {
            unix_nanos: START + SECOND,
        },
        Body::Restore(restored()),
    ]
}

/// A catalog as it is put together from the object store: here one that knows an object that nobody names.
fn restored() -> catalog::Catalog {
    let object = catalog::ObjectId(BlockId::from_parts(START / 1_000_000, 5));
    catalog::Catalog::of(catalog::CatalogView::of_announced([object]))
}

#[test]
fn a_catalog_is_restored_before_its_cluster_is_founded() {
    let mut state = RingState::default();
    for _ in 0..2 {
        assert_eq!(apply(&mut state, Body::Restore(restored())), Ok(RingChange::Done));
    }
    assert!(!state.is_founded());
    assert_eq!(apply(&mut state, bootstrap()), Ok(RingChange::Done));
    assert_eq!(state.catalog.view().announced().count(), 1);
    assert_eq!(
        state.catalog.view().watermarks().count(),
        2,
        "of the new cluster's generations"
    );
    let before = state.clone();
    assert_eq!(apply(&mut state, Body::Restore(restored())), Err(RingRefusal::Founded));
    assert_eq!(state, before);
}

/// The commands are in logs and the state is in snapshots: lines of `testdata/v1` are never written again, and a new kind
/// of command gets a new line. `WRITE_TESTDATA=1` writes the file where there is none.
#[test]
fn commands_and_states_of_version_1_are_read_and_written_for_ever() {
    let mut state = RingState::default();
    let mut written = Vec::new();
    for (number, body) in one_of_each().into_iter().enumerate() {
        let command = RingCommand::new(START + number as u64, body);
        let bytes = command.encode();
        assert_eq!(RingCommand::decode(&bytes).as_ref(), Ok(&command));
        written.push(format!("command {}", hex(&bytes)));
        // In the middle everything is there: a generation that is sealed, a tenant, a lease, a watermark.
        let answer = state.apply(command);
        assert!(number > 8 || answer.is_ok(), "command {number}: {answer:?}");
        if number == 8 {
            assert_eq!(RingState::decode(&state.encode()).as_ref(), Ok(&state));
            written.push(format!("state {}", hex(&state.encode())));
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1/ring.txt");
    if std::env::var_os("WRITE_TESTDATA").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, written.join("\n") + "\n").unwrap();
    }
    let frozen = std::fs::read_to_string(path).unwrap();
    let frozen: Vec<&str> = frozen.lines().collect();
    assert_eq!(written, frozen);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Commands of every kind, most of them sensible.
fn body() -> impl Strategy<Value = Body> {
    let ids = || 1..6u64;
    let members = proptest::collection::btree_set(1..6u64, 1..4).prop_map(|set| set.into_iter().collect::<Vec<_>>());
    let flush = (0..4u32, 1..4u64, 0..6u64, 0..4u64).prop_map(|(shard, generation, from, length)| {
        Body::Catalog(catalog::Command::AddBlock {
            group: key(shard, generation),
            from: LogIndex(from),
            to: LogIndex(from + length),
            object: None,
            records: Vec::new(),
        })
    });
    let delete = ids().prop_map(|id| {
        let ids = vec![BlockId(u128::from(id))];
        Body::Catalog(catalog::Command::Delete {
            ids,
            reason: catalog::DeleteReason::Operator,
        })
    });
    prop_oneof![
        Just(Body::Tick),
        Just(bootstrap()),
        (ids(), 1..3u32).prop_map(|(id, feature_level)| Body::PutNode(NodeRecord {
            feature_level,
            ..node(id)
        })),
        ids().prop_map(|id| Body::RemoveNode(NodeId(id))),
        (0..6u64, 0..3u32, 1..5u64, members).prop_map(|(epoch, power, generation, members)| Body::SetShardMap {
            epoch,
            shards: shards(1 << power, generation, &members),
        }),
        (0..4u32, 1..4u64, 0..6u64).prop_map(|(shard, generation, last)| Body::Seal {
            key: key(shard, generation),
            last: LogIndex(last),
        }),
        (0..4u32, 1..4u64).prop_map(|(shard, generation)| Body::Retire(key(shard, generation))),
        (0..4u32, 1..4u64).prop_map(|(shard, generation)| Body::Abandon(key(shard, generation))),
        (0..3u8, any::<u8>()).prop_map(|(tenant, setting)| Body::PutTenant {
            tenant: TenantId::new(&format!("tenant-{tenant}")).unwrap(),
            settings: Bytes::copy_from_slice(&[setting]),
        }),
        (0..3u8).prop_map(|tenant| Body::RemoveTenant(TenantId::new(&format!("tenant-{tenant}")).unwrap())),
        (0..3u8, ids(), 0..100u64).prop_map(|(lease, holder, seconds)| Body::AcquireLease {
            lease: Arc::from(format!("job/{lease}")),
            holder: NodeId(holder),
            duration_nanos: seconds * SECOND,
        }),
        (0..3u8, ids(), 0..9u64).prop_map(|(lease, holder, fence)| Body::ReleaseLease {
            lease: Arc::from(format!("job/{lease}")),
            holder: NodeId(holder),
            fence,
        }),
        (0..4u32).prop_map(Body::RaiseFeatureLevel),
        (0..100u64).prop_map(|seconds| Body::ResetClock {
            unix_nanos: START + seconds * SECOND
        }),
        flush,
        delete,
    ]
}

fn command() -> impl Strategy<Value = RingCommand> {
    let guard = (0..3u8, 1..6u64, 0..9u64).prop_map(|(lease, holder, fence)| Guard {
        lease: Arc::from(format!("job/{lease}")),
        holder: NodeId(holder),
        fence,
    });
    (0..10_000u64, proptest::option::weighted(0.1, guard), body()).prop_map(|(seconds, guard, body)| RingCommand {
        stamp_unix_nanos: START + seconds * SECOND,
        guard,
        body,
    })
}

fn check_invariants(state: &RingState, fences: &BTreeMap<LeaseName, u64>) {
    if !state.is_founded() {
        return;
    }
    for hash in [0, 1, u64::MAX / 3, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX] {
        let owners = state
            .map
            .shards
            .values()
            .filter(|shard| shard.range.contains(hash))
            .count();
        assert_eq!(owners, 1, "hash {hash} has {owners} owners");
    }
    for (key, members) in state.map.live_generations() {
        assert!(state.catalog.view().watermark(key).is_some(), "nobody covers {key}");
        assert!(
            members.iter().all(|member| state.nodes.contains_key(member)),
            "a member of {key} is unknown"
        );
    }
    assert_eq!(
        state.catalog.view().watermarks().count(),
        state.map.live_generations().count()
    );
    for shard in state.map.shards.values() {
        assert!(
            !state.map.sealed.contains_key(&shard.key()),
            "{} is current and sealed",
            shard.key()
        );
    }
    for (name, lease) in state.leases.iter() {
        assert!(
            fences.get(name).is_none_or(|last| *last <= lease.fence),
            "the fence of {name} went back"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_commands_keep_every_promise(commands in proptest::collection::vec(command(), 1..80)) {
        let mut state = RingState::default();
        let mut replica = RingState::default();
        let mut fences = BTreeMap::new();
        for command in commands {
            let decoded = RingCommand::decode(&command.encode()).unwrap();
            assert_eq!(decoded, command);
            let (before, time) = (state.clone(), state.clock.unix_nanos);
            let is_reset = matches!(command.body, Body::ResetClock { .. });
            let answer = state.apply(command);
            if answer.is_err() {
                let unchanged = RingState { clock: state.clock, ..before };
                assert_eq!(state, unchanged, "a refusal changes nothing but the clock");
            }
            assert!(is_reset || state.clock.unix_nanos >= time, "ring time went back");
            // The other member is restarted from a snapshot before every command.
            replica = RingState::decode(&replica.encode()).unwrap();
            assert_eq!(replica.apply(decoded), answer);
            assert_eq!(replica.digest(), state.digest());
            check_invariants(&state, &fences);
            fences.extend(state.leases.iter().map(|(name, lease)| (name.clone(), lease.fence)));
        }
        assert_eq!(replica, state);
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = RingCommand::decode(&bytes);
        let _ = RingState::decode(&bytes);
        let mut versioned = vec![1];
        versioned.extend(bytes);
        let _ = RingCommand::decode(&versioned);
        let _ = RingState::decode(&versioned);
    }

    #[test]
    fn damaged_snapshots_are_refused_or_differ(at_byte in 0..2_000usize, flip in 1..=255u8) {
        let mut bytes = founded().encode();
        let position = at_byte % bytes.len();
        bytes[position] ^= flip;
        if let Ok(state) = RingState::decode(&bytes) {
            let _ = state.encode();
        }
    }
}

#[test]
fn the_latest_answers_are_remembered_by_their_place_in_the_log() {
    let (mut machine, _view) = RingMachine::new();
    let answers = machine.answers();
    let tick = || Payload::new(RingCommand::new(START, Body::Tick).encode());
    let mut apply = |index: u64, payload| {
        let at = Applied {
            index: LogIndex(index),
            term: 1,
        };
        machine.apply(at, payload).unwrap()
    };
    let refused = Payload::new(RingCommand::new(START, Body::RemoveNode(NodeId(1))).encode());
    assert_eq!(apply(2, tick()), Ok(RingChange::Done));
    assert_eq!(apply(5, refused), Err(RingRefusal::NotFounded));
    assert_eq!(answers.at(LogIndex(2)), Some(Ok(RingChange::Done)));
    assert_eq!(answers.at(LogIndex(5)), Some(Err(RingRefusal::NotFounded)));
    assert_eq!(answers.at(LogIndex(3)), None, "a leader's first entry has no answer");
    for index in 6..6 + ANSWERS_MAX as u64 - 1 {
        apply(index, tick()).unwrap();
    }
    assert_eq!(
        (answers.at(LogIndex(2)), answers.at(LogIndex(5)).is_some()),
        (None, true)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_is_replicated_and_comes_back() {
    let network = MemoryNetwork::new();
    let start = |vfs| Node::start(1, vfs, &network);
    let node = start(SimVfs::new(1));
    let (machine, view) = RingMachine::new();
    let ring = node.groups.open(GroupId::Ring, machine).await.unwrap();
    ring.found(&BTreeSet::from([node.id])).await.unwrap();
    let propose = async |body| {
        let payload = Payload::new(RingCommand::new(START, body).encode());
        ring.propose(payload).await.unwrap()
    };
    let founding = Body::Bootstrap {
        cluster: CLUSTER,
        nodes: vec![tests::node(1)],
        shards: shards(2, 1, &[1]),
    };
    let (index, answer) = propose(founding.clone()).await;
    assert_eq!(answer, Ok(RingChange::Done));
    assert!(
        view.borrow().applied >= index,
        "readers see it before the proposer is answered"
    );
    assert_eq!(view.borrow().state.cluster, CLUSTER);
    ring.snapshot_and_purge(index, SOON).await.unwrap();
    let (_, answer) = propose(Body::PutNode(tests::node(2))).await;
    assert_eq!(answer, Ok(RingChange::Done));
    let digest = view.borrow().state.digest();

    let node = start(node.stop().await);
    let (machine, view) = RingMachine::new();
    let ring = node.groups.open(GroupId::Ring, machine).await.unwrap();
    ring.wait_recovered(SOON).await.unwrap();
    assert_eq!(view.borrow().state.digest(), digest);
    let payload = Payload::new(RingCommand::new(START, founding).encode());
    assert_eq!(ring.propose(payload).await.unwrap().1, Ok(RingChange::AlreadyDone));
    node.stop().await;
}
