//! What the ring holds of each kind: limit - 1, limit, limit + 1.

use super::*;
use crate::ring::node::NAME_BYTES_MAX;

/// Of a cluster with nodes 1 to `count`.
fn founded_with(count: u64) -> RingState {
    let mut state = founded();
    for id in 4..=count {
        assert_eq!(apply(&mut state, Body::PutNode(node(id))), Ok(RingChange::Done), "{id}");
    }
    state
}

#[test]
fn a_ring_has_so_many_nodes() {
    let mut state = founded_with(NODES_MAX as u64 - 1);
    assert_eq!(apply(&mut state, Body::PutNode(node(5_000))), Ok(RingChange::Done));
    assert_eq!(
        apply(&mut state, Body::PutNode(node(5_001))),
        Err(RingRefusal::BadNode { node: NodeId(5_001) })
    );
    // Those that are in may still say where they are.
    let mut moved = node(5_000);
    moved.address = Arc::from("10.1.1.1:7946");
    assert_eq!(apply(&mut state, Body::PutNode(moved)), Ok(RingChange::Done));
    assert_eq!(apply(&mut state, Body::RemoveNode(NodeId(5_000))), Ok(RingChange::Done));
    assert_eq!(apply(&mut state, Body::PutNode(node(5_001))), Ok(RingChange::Done));
}

#[test]
fn names_of_nodes_are_so_long() {
    for (length, fits) in [
        (NAME_BYTES_MAX - 1, true),
        (NAME_BYTES_MAX, true),
        (NAME_BYTES_MAX + 1, false),
    ] {
        let name: Arc<str> = "n".repeat(length).into();
        let by_pod = NodeRecord {
            pod: Arc::clone(&name),
            ..node(4)
        };
        let by_zone = NodeRecord {
            zone: Arc::clone(&name),
            ..node(5)
        };
        let by_address = NodeRecord {
            address: name,
            ..node(6)
        };
        for named in [by_pod, by_zone, by_address] {
            assert_eq!(apply(&mut founded(), Body::PutNode(named)).is_ok(), fits, "{length}");
        }
    }
}

#[test]
fn a_ring_has_so_many_shards() {
    for (count, fits) in [(SHARDS_MAX - 1, true), (SHARDS_MAX, true), (SHARDS_MAX + 1, false)] {
        let body = Body::Bootstrap {
            cluster: CLUSTER,
            nodes: vec![node(1)],
            shards: shards(count as u32, 1, &[1]),
        };
        let expected = if fits {
            Ok(RingChange::Done)
        } else {
            Err(RingRefusal::BadPartition)
        };
        assert_eq!(apply(&mut RingState::default(), body), expected, "{count}");
    }
}

#[test]
fn a_shard_has_so_many_members() {
    let mut state = founded_with(MEMBERS_MAX as u64 + 1);
    for (generation, count) in [(2, MEMBERS_MAX - 1), (3, MEMBERS_MAX), (4, MEMBERS_MAX + 1)] {
        let members: Vec<u64> = (1..=count as u64).collect();
        let body = Body::SetShardMap {
            epoch: state.map.epoch,
            shards: shards(2, generation, &members),
        };
        let expected = if count <= MEMBERS_MAX {
            Ok(RingChange::Done)
        } else {
            Err(RingRefusal::BadMembers { shard: ShardId(0) })
        };
        assert_eq!(apply(&mut state, body), expected, "{count}");
    }
}

#[test]
fn a_ring_has_so_many_tenants() {
    let mut state = founded();
    let put = |n: usize, settings: &'static [u8]| Body::PutTenant {
        tenant: TenantId::new(&format!("t{n}")).unwrap(),
        settings: Bytes::from_static(settings),
    };
    for n in 1..TENANTS_MAX {
        apply(&mut state, put(n, b"x")).unwrap();
    }
    assert_eq!(state.tenants.len(), TENANTS_MAX - 1);
    assert_eq!(apply(&mut state, put(TENANTS_MAX, b"x")), Ok(RingChange::Done));
    let tenant = TenantId::new(&format!("t{}", TENANTS_MAX + 1)).unwrap();
    assert_eq!(
        apply(&mut state, put(TENANTS_MAX + 1, b"x")),
        Err(RingRefusal::TenantTooLarge { tenant })
    );
    assert_eq!(
        apply(&mut state, put(1, b"y")),
        Ok(RingChange::Done),
        "a known one changes"
    );
}

#[test]
fn leases_are_so_long_and_last_so_long() {
    let acquire = |length: usize, duration_nanos| Body::AcquireLease {
        lease: "l".repeat(length).into(),
        holder: NodeId(1),
        duration_nanos,
    };
    for (length, fits) in [
        (lease::NAME_BYTES_MAX - 1, true),
        (lease::NAME_BYTES_MAX, true),
        (lease::NAME_BYTES_MAX + 1, false),
    ] {
        assert_eq!(apply(&mut founded(), acquire(length, SECOND)).is_ok(), fits, "{length}");
    }
    for asked in [
        lease::DURATION_NANOS_MAX - 1,
        lease::DURATION_NANOS_MAX,
        lease::DURATION_NANOS_MAX + 1,
        u64::MAX,
    ] {
        let RingChange::Leased(lease) = apply(&mut founded(), acquire(1, asked)).unwrap() else {
            panic!("no lease")
        };
        let lasts = lease.expires_unix_nanos - START;
        assert_eq!(lasts, asked.min(lease::DURATION_NANOS_MAX), "{asked}");
    }
}
