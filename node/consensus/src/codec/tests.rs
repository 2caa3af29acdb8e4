//! What is written is read back; nothing else panics. One line of each form is frozen.

use std::collections::BTreeSet;

use bytes::Bytes;
use model::{Generation, LogIndex, ShardId};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, TransferLeaderError, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use openraft::{EntryPayload, Vote as RaftVote};
use proptest::prelude::*;

use super::wire::*;
use super::*;

fn log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>(), 0..u64::MAX - 1)
        .prop_map(|(term, node_id, index)| LogId::new(LeaderId { term, node_id }, index))
}

fn vote() -> impl Strategy<Value = Vote> {
    (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node_id, committed)| RaftVote {
        leader_id: LeaderId { term, node_id },
        committed,
    })
}

fn membership() -> impl Strategy<Value = Membership> {
    let nodes = || proptest::collection::btree_set(any::<u64>(), 1..5);
    (proptest::collection::vec(nodes(), 0..3), nodes()).prop_map(|(configs, learners)| {
        let voters = configs.iter().flatten().copied();
        let nodes: BTreeSet<u64> = voters.chain(learners).collect();
        Membership::new(configs, nodes).unwrap()
    })
}

fn payload() -> impl Strategy<Value = EntryPayload<Payload, u64, openraft::EmptyNode>> {
    let data = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        Just(EntryPayload::Blank),
        data().prop_map(|data| EntryPayload::Normal(Payload::new(data))),
        data().prop_map(|data| EntryPayload::Normal(Payload::control(data))),
        membership().prop_map(EntryPayload::Membership),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (log_id(), payload()).prop_map(|(log_id, payload)| Entry::new(log_id, payload))
}

/// Entries have no equality of their own: payloads are compared by kind, bytes and members.
fn same(a: &Entry, b: &Entry) -> bool {
    a.log_id == b.log_id && entry_parts(a) == entry_parts(b)
}

proptest! {
    #[test]
    fn entries_come_back(entry in entry()) {
        let bytes = encode_entry(&entry);
        let back = decode_entry(index_of(Some(&entry.log_id)), entry.log_id.leader_id.term, &bytes).unwrap();
        prop_assert!(same(&entry, &back));
    }

    #[test]
    fn votes_and_log_ids_come_back(vote in vote(), log_id in log_id()) {
        prop_assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        prop_assert_eq!(decode_log_id(&encode_log_id(&log_id)), Ok(log_id));
    }

    #[test]
    fn snapshots_come_back_whole_or_not_at_all(
        last_log_id in proptest::option::of(log_id()),
        membership_log_id in proptest::option::of(log_id()),
        membership in membership(),
        state in proptest::collection::vec(any::<u8>(), 0..300),
        shard in any::<u32>(),
        at_byte in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let group = GroupId::Shard(ShardId(shard), Generation(3));
        let last_membership = StoredMembership::new(membership_log_id, membership);
        let meta = SnapshotMeta { last_log_id, last_membership };
        let bytes = encode_snapshot(group, &meta, &state);
        prop_assert_eq!(decode_snapshot(group, &bytes), Ok((meta, Bytes::from(state))));
        prop_assert_eq!(decode_snapshot(GroupId::Ring, &bytes), Err(CodecError::OtherGroup));
        let mut damaged = bytes.to_vec();
        let position = at_byte.index(damaged.len());
        damaged[position] ^= flip;
        prop_assert_eq!(decode_snapshot(group, &damaged.into()), Err(CodecError::Checksum));
        prop_assert!(decode_snapshot(group, &bytes.slice(..position)).is_err());
    }

    #[test]
    fn requests_come_back(
        vote in vote(),
        previous in proptest::option::of(log_id()),
        committed in proptest::option::of(log_id()),
        entries in proptest::collection::vec(entry(), 0..5),
        leadership_transfer in any::<bool>(),
        target in any::<u64>(),
        snapshot in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut asked = VoteRequest::new(vote, previous);
        asked.leadership_transfer = leadership_transfer;
        match Request::decode(&Request::Vote(asked.clone()).encode()).unwrap() {
            Request::Vote(back) => prop_assert_eq!(&back, &asked),
            other => prop_assert!(false, "{other:?}"),
        }
        match Request::decode(&Request::PreVote(asked.clone()).encode()).unwrap() {
            Request::PreVote(back) => prop_assert_eq!(back, asked),
            other => prop_assert!(false, "{other:?}"),
        }
        let append = AppendEntriesRequest { vote, prev_log_id: previous, entries, leader_commit: committed };
        match Request::decode(&Request::Append(append.clone()).encode()).unwrap() {
            Request::Append(back) => {
                prop_assert_eq!((back.vote, back.prev_log_id, back.leader_commit), (vote, previous, committed));
                prop_assert_eq!(back.entries.len(), append.entries.len());
                prop_assert!(back.entries.iter().zip(&append.entries).all(|(a, b)| same(a, b)));
            }
            other => prop_assert!(false, "{other:?}"),
        }
        let snapshot = Bytes::from(snapshot);
        match Request::decode(&Request::Snapshot { vote, snapshot: snapshot.clone() }.encode()).unwrap() {
            Request::Snapshot { vote: back, snapshot: bytes } => prop_assert_eq!((back, bytes), (vote, snapshot)),
            other => prop_assert!(false, "{other:?}"),
        }
        let transfer = TransferLeaderRequest::new(vote, target, committed);
        match Request::decode(&Request::TransferLeader(transfer.clone()).encode()).unwrap() {
            Request::TransferLeader(back) => prop_assert_eq!(back, transfer),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn responses_come_back(
        vote in vote(),
        other in vote(),
        some in proptest::option::of(log_id()),
        conflict in log_id(),
        granted in any::<bool>(),
    ) {
        let response = VoteResponse::new(vote, some, granted);
        prop_assert_eq!(decode_vote_response(&encode_vote_response(&response)), Ok(response));
        for response in [
            Ok(some),
            Err(StreamAppendError::Conflict(conflict)),
            Err(StreamAppendError::HigherVote(vote)),
        ] {
            prop_assert_eq!(decode_append_response(&encode_append_response(&response)), Ok(response));
        }
        let response = SnapshotResponse::new(vote);
        prop_assert_eq!(decode_snapshot_response(&encode_snapshot_response(&response)), Ok(response));
        for response in [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: vote, actual: other }),
            Err(TransferLeaderError::LogNotFlushed { expected: some, actual: Some(conflict) }),
        ] {
            prop_assert_eq!(decode_transfer_response(&encode_transfer_response(&response)), Ok(response));
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic(
        head in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0..8u8,
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4),
    ) {
        let bytes = Bytes::from(head.clone());
        let _ = decode_entry(LogIndex(1), 1, &bytes);
        let _ = decode_vote(&bytes);
        let _ = decode_log_id(&bytes);
        let _ = decode_snapshot(GroupId::Ring, &bytes);
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        // With a valid start the rest of each decoder is reached too.
        for start in [vec![], vec![FORMAT], vec![FORMAT, kind]] {
            let head = Bytes::from([start, head.clone()].concat());
            let _ = decode_entry(LogIndex(1), 1, &head);
            let message = PeerMessage { head, parts: parts.clone() };
            let _ = Request::decode(&message);
            let _ = decode_vote_response(&message);
            let _ = decode_append_response(&message);
            let _ = decode_snapshot_response(&message);
            let _ = decode_transfer_response(&message);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Written by version 1. These bytes are on disks: they must read the same for ever.
#[test]
fn the_bytes_of_version_1_stay() {
    let leader = LeaderId {
        term: 3,
        node_id: 0x0102,
    };
    let log_id = LogId::new(leader, 6);
    let normal = Entry::new(log_id, EntryPayload::Normal(Payload::new("data")));
    assert_eq!(hex(&encode_entry(&normal)), "0101020100000000000064617461");
    let control = Entry::new(log_id, EntryPayload::Normal(Payload::control("seal")));
    assert_eq!(hex(&encode_entry(&control)), "010302010000000000007365616c");
    let blank = Entry::new(log_id, EntryPayload::Blank);
    assert_eq!(hex(&encode_entry(&blank)), "01000201000000000000");
    let members = Membership::new(vec![BTreeSet::from([1, 2])], BTreeSet::from([1, 2, 3])).unwrap();
    let membership = Entry::new(log_id, EntryPayload::Membership(members));
    let expected = "010202010000000000000100020001000000000000000200000000000000\
                    0300010000000000000002000000000000000300000000000000";
    assert_eq!(hex(&encode_entry(&membership)), expected);
    let vote = RaftVote {
        leader_id: leader,
        committed: true,
    };
    assert_eq!(hex(&encode_vote(&vote)), "010300000000000000020100000000000001");
    assert_eq!(
        hex(&encode_log_id(&log_id)),
        "01070000000000000003000000000000000201000000000000"
    );
    let meta = SnapshotMeta {
        last_log_id: Some(log_id),
        last_membership: StoredMembership::default(),
    };
    let expected = "564956534e415001010200000005000000000000000700000000000000030000000000000002010000000000000000000000\
                    000000000000000000000000000000000000000000000002000000000000006879ee52fe44";
    let group = GroupId::Shard(ShardId(2), Generation(5));
    assert_eq!(hex(&encode_snapshot(group, &meta, b"hy")), expected);
}

#[test]
fn newer_formats_are_named_as_such() {
    let bytes = Bytes::from_static(&[9; 40]);
    assert_eq!(
        decode_entry(LogIndex(1), 1, &bytes).unwrap_err(),
        CodecError::Format { found: 9 }
    );
    assert_eq!(decode_vote(&bytes), Err(CodecError::Format { found: 9 }));
    assert_eq!(decode_log_id(&bytes), Err(CodecError::Format { found: 9 }));
}
