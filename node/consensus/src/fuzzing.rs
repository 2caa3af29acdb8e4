//! One entry per reader of stored or received bytes, for the fuzzer (`fuzz/`) and for the test that replays its corpus.
//!
//! Each takes any bytes, must not panic, and holds what was read to a property of its own. Checksums would turn nearly
//! every mutation away, so they are made right.

use bytes::Bytes;
use model::{Generation, LogIndex, ShardId};

use crate::codec::wire::{
    Request, decode_append_response, decode_snapshot_response, decode_transfer_response, decode_vote_response,
};
use crate::codec::{
    crc32c, decode_entry, decode_log_id, decode_snapshot, decode_vote, encode_entry, encode_log_id, encode_snapshot,
    encode_vote,
};
use crate::network::PeerMessage;
use crate::payload::{Applied, GroupId, Payload};
use crate::ring::{RingCommand, RingMachine, RingState};
use crate::state_machine::Machine;

/// A command of the ring; what was read is written and read as the same, and is taken or refused.
pub fn ring_command(bytes: &[u8]) {
    let Ok(command) = RingCommand::decode(bytes) else {
        return;
    };
    let again = command.encode();
    assert_eq!(RingCommand::decode(&again).expect("we wrote it").encode(), again);
    let (mut machine, _view) = RingMachine::new();
    let at = Applied {
        index: LogIndex(1),
        term: 1,
    };
    let applied = machine.apply(at, Payload::new(again));
    assert!(applied.is_ok(), "a command that can be read stops no group");
    ring_state(&machine.snapshot().state);
}

/// The ring's state; what was read is written and read as the same.
pub fn ring_state(bytes: &[u8]) {
    let Ok(state) = RingState::decode(bytes) else { return };
    let again = state.encode();
    assert_eq!(RingState::decode(&again).expect("we wrote it").encode(), again);
}

/// What the log keeps: an entry, a vote, a position.
pub fn log_entry(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(entry) = decode_entry(LogIndex(7), 3, &bytes) {
        let again = encode_entry(&entry);
        assert_eq!(
            encode_entry(&decode_entry(LogIndex(7), 3, &again).expect("we wrote it")),
            again
        );
    }
    if let Ok(vote) = decode_vote(&bytes) {
        assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
    }
    if let Ok(log_id) = decode_log_id(&bytes) {
        assert_eq!(decode_log_id(&encode_log_id(&log_id)), Ok(log_id));
    }
}

/// A snapshot file, without its checksum.
pub fn snapshot(bytes: &[u8]) {
    let bytes = Bytes::from([bytes, &crc32c(bytes).to_le_bytes()].concat());
    for group in [GroupId::Ring, GroupId::Shard(ShardId(1), Generation(2))] {
        if let Ok((meta, state)) = decode_snapshot(group, &bytes) {
            let again = encode_snapshot(group, &meta, &state);
            assert_eq!(decode_snapshot(group, &again), Ok((meta, state)));
        }
    }
}

/// A message of a peer: `[length of the head][head][part]`, as a request and as each kind of answer.
pub fn peer_message(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else {
        return;
    };
    let (head, part) = rest.split_at(usize::from(*length).min(rest.len()));
    let message = PeerMessage {
        head: Bytes::copy_from_slice(head),
        parts: vec![Bytes::copy_from_slice(part)],
    };
    if let Ok(request) = Request::decode(&message) {
        let again = request.encode();
        assert!(Request::decode(&again).is_ok(), "we wrote it");
    }
    let _ = decode_vote_response(&message);
    let _ = decode_append_response(&message);
    let _ = decode_snapshot_response(&message);
    let _ = decode_transfer_response(&message);
}

#[cfg(test)]
mod tests;
