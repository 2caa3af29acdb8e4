//! The corpus of the fuzz targets (`fuzz/corpus`), replayed and mutated.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use model::{Generation, LogIndex, NodeId, ShardId, TenantId};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::{EntryPayload, entry::RaftEntry};
use shard::catalog;

use super::*;
use crate::raft::{Entry, LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote};
use crate::ring::{Body, HashRange, NodeRecord, NodeState, ShardRecord};

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

/// Some tenths of a second each in a build that is not optimised.
const ROUNDS: u32 = 2_000;
const START: u64 = 1_700_000_000_000_000_000;

fn bodies() -> Vec<Body> {
    let members = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
    let node = |id| NodeRecord {
        id: NodeId(id),
        pod: Arc::from("pod"),
        zone: Arc::from("zone"),
        address: Arc::from("10.0.0.1:7946"),
        state: NodeState::Active,
        feature_level: 1,
        joined_unix_nanos: START,
    };
    let shard = |index| ShardRecord {
        id: ShardId(index),
        range: HashRange::of_shard(index, 2),
        generation: Generation(1),
        preferred: NodeId(1),
        members: members.clone(),
        inherits: false,
    };
    let add = catalog::Command::AddBlock {
        group: catalog::GroupKey {
            shard: ShardId(0),
            generation: Generation(1),
        },
        from: LogIndex(0),
        to: LogIndex(4),
        object: None,
        records: vec![],
    };
    vec![
        Body::Tick,
        Body::Bootstrap {
            cluster: 77,
            nodes: vec![node(1), node(2), node(3)],
            shards: vec![shard(0), shard(1)],
        },
        Body::PutNode(node(4)),
        Body::RemoveNode(NodeId(3)),
        Body::SetShardMap {
            epoch: 1,
            shards: vec![shard(0), shard(1)],
        },
        Body::PutTenant {
            tenant: TenantId::single(),
            settings: Bytes::from_static(b"settings"),
        },
        Body::AcquireLease {
            lease: Arc::from("compaction/acme"),
            holder: NodeId(1),
            duration_nanos: 7,
        },
        Body::Catalog(add),
        Body::Restore(catalog::Catalog::new()),
    ]
}

#[test]
fn ring_command() {
    replay("ring_command", super::ring_command, ROUNDS, || {
        let encode = |body| RingCommand::new(START, body).encode();
        bodies().into_iter().map(encode).collect()
    });
}

#[test]
fn ring_state() {
    replay("ring_state", super::ring_state, ROUNDS, || {
        let mut state = RingState::default();
        let founded = bodies().into_iter().skip(1);
        for body in founded {
            let _ = state.apply(RingCommand::new(START, body));
        }
        vec![state.encode(), RingState::default().encode()]
    });
}

fn log_id() -> LogId {
    LogId::new(LeaderId { term: 3, node_id: 1 }, 7)
}

fn vote() -> Vote {
    Vote {
        leader_id: LeaderId { term: 3, node_id: 1 },
        committed: true,
    }
}

fn membership() -> Membership {
    let nodes = BTreeSet::from([1, 2, 3]);
    Membership::new(vec![nodes.clone()], nodes).unwrap()
}

fn entries() -> Vec<Entry> {
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Payload::new("data")),
        EntryPayload::Normal(Payload::control("control")),
        EntryPayload::Membership(membership()),
    ];
    payloads.map(|payload| Entry::new(log_id(), payload)).into()
}

#[test]
fn log_entry() {
    replay("log_entry", super::log_entry, ROUNDS, || {
        let mut seeds: Vec<Vec<u8>> = entries().iter().map(|entry| encode_entry(entry).to_vec()).collect();
        seeds.push(encode_vote(&vote()).to_vec());
        seeds.push(encode_log_id(&log_id()).to_vec());
        seeds
    });
}

#[test]
fn snapshot() {
    replay("snapshot", super::snapshot, ROUNDS, || {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id()),
            last_membership: StoredMembership::new(Some(log_id()), membership()),
        };
        let without_checksum = |group| {
            let bytes = encode_snapshot(group, &meta, b"state");
            bytes[..bytes.len() - 4].to_vec()
        };
        vec![
            without_checksum(GroupId::Ring),
            without_checksum(GroupId::Shard(ShardId(1), Generation(2))),
        ]
    });
}

#[test]
fn peer_message() {
    replay("peer_message", super::peer_message, ROUNDS, || {
        let requests = [
            Request::Vote(VoteRequest::new(vote(), Some(log_id()))),
            Request::PreVote(VoteRequest::new(vote(), None)),
            Request::Append(AppendEntriesRequest {
                vote: vote(),
                prev_log_id: Some(log_id()),
                entries: entries()[..1].to_vec(),
                leader_commit: Some(log_id()),
            }),
            Request::Snapshot {
                vote: vote(),
                snapshot: Bytes::from_static(b"snapshot"),
            },
            Request::TransferLeader(TransferLeaderRequest::new(vote(), 2, Some(log_id()))),
        ];
        let flat = |request: &Request| {
            let message = request.encode();
            let part = message.parts.first().cloned().unwrap_or_default();
            [&[message.head.len() as u8][..], &message.head, &part].concat()
        };
        requests.iter().map(flat).collect()
    });
}
