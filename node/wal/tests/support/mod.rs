//! What the tests share: a small log on a simulated disk, and shorthand for records.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

pub mod file_per_group;
pub mod model;
pub mod store;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use vivace_wal::{Completion, Drive, EntryRecord, GroupKey, Recovery, SimVfs, Wal, WalError, WalOptions};

pub const INCARNATION: u64 = 0xfeed_beef;

pub fn dir() -> &'static Path {
    Path::new("/data/wal")
}

/// 8 KiB segments, a quota of 24: everything that takes gigabytes in life happens within kilobytes.
pub fn tiny() -> WalOptions {
    WalOptions {
        segment_bytes: 8 << 10,
        quota_bytes: 24 * (8 << 10),
        reserved_segments: 4,
        pool_segments: 6,
        pool_segments_max: 8,
        queue_bytes_max: 64 << 10,
        batch_bytes_max: 6 << 10,
        cache_bytes_max: 4 << 10,
        drive: Drive::Manual,
        ..WalOptions::new(INCARNATION)
    }
}

/// As [`tiny`] with 64 KiB segments, threads, and a fatal hook that panics nobody.
pub fn threaded() -> WalOptions {
    WalOptions {
        segment_bytes: 64 << 10,
        quota_bytes: 32 * (64 << 10),
        batch_bytes_max: 48 << 10,
        queue_bytes_max: 256 << 10,
        pool_retry: std::time::Duration::from_millis(5),
        drive: Drive::Threads,
        ..tiny()
    }
}

pub fn open(vfs: &SimVfs, options: WalOptions) -> Result<(Wal, Recovery), WalError> {
    Wal::open(Arc::new(vfs.clone()), dir(), options)
}

pub fn open_ok(vfs: &SimVfs, options: WalOptions) -> (Wal, Recovery) {
    open(vfs, options).unwrap()
}

/// A payload that names its entry, so that a wrong one is seen.
pub fn payload(group: u64, index: u64, term: u64, len: usize) -> Bytes {
    let tag = format!("g{group} i{index} t{term} ");
    let mut bytes = tag.clone().into_bytes();
    while bytes.len() < len {
        bytes.push(b'a' + ((bytes.len() as u64 * 7 + index * 3 + term) % 26) as u8);
    }
    bytes.truncate(len.max(tag.len()));
    Bytes::from(bytes)
}

pub fn entry(group: u64, index: u64, term: u64, len: usize) -> EntryRecord {
    EntryRecord {
        index,
        term,
        payload: payload(group, index, term, len),
    }
}

/// A completion nobody waits for.
pub fn ignore() -> Completion {
    Box::new(|_| {})
}

/// A completion and the channel it answers on.
pub fn waiter() -> (Completion, mpsc::Receiver<Result<(), WalError>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| sender.send(result).unwrap_or(())), receiver)
}

/// A completion that counts its success.
pub fn counter(count: &Arc<AtomicU64>) -> Completion {
    let count = Arc::clone(count);
    Box::new(move |result| {
        if result.is_ok() {
            count.fetch_add(1, SeqCst);
        }
    })
}

/// Appends one entry and, under manual drive, makes it durable.
pub fn append(wal: &Wal, group: u64, index: u64, len: usize) {
    wal.append(GroupKey(group), vec![entry(group, index, 1, len)], ignore())
        .unwrap();
}

pub fn drain(wal: &Wal) {
    while wal.drive() {}
}

/// Reads everything a group has.
pub fn read_all(wal: &Wal, group: u64) -> Result<Vec<EntryRecord>, WalError> {
    let key = GroupKey(group);
    let state = wal.state(key);
    let (Some(first), Some((last, _))) = (state.first, state.last) else {
        return Ok(Vec::new());
    };
    let mut entries = Vec::new();
    let mut next = first;
    while next <= last {
        let piece = wal.read(key, next..last + 1, 3000)?;
        assert!(!piece.is_empty(), "group {group} says it has {next}..={last}");
        next += piece.len() as u64;
        entries.extend(piece);
    }
    Ok(entries)
}
