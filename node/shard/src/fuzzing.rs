//! One entry per reader of stored bytes, for the fuzzer (`fuzz/`) and for the test that replays its corpus.
//!
//! Each takes any bytes, must not panic, and holds what was read to a property of its own.

use std::sync::Arc;

use bytes::Bytes;
use model::{BlockId, Generation, LogIndex, ManualClock, ShardId};

use crate::catalog::{Catalog, Command, GroupKey, RingTime};
use crate::command::ShardCommand;
use crate::manifest::Root;
use crate::owner::{Shard, ShardOptions};

const GROUP: GroupKey = GroupKey {
    shard: ShardId(0),
    generation: Generation(1),
};
const NOW: RingTime = RingTime {
    unix_nanos: 1_700_000_000_000_000_000,
    is_trusted: true,
};

/// A catalog; what was read is written and read as the same.
pub fn catalog(bytes: &[u8]) {
    let Ok(catalog) = Catalog::decode(bytes) else { return };
    let again = catalog.encode();
    assert_eq!(Catalog::decode(&again).expect("we wrote it").encode(), again);
    for (tenant, blocks) in catalog.view().tenants() {
        for record in blocks.iter() {
            assert!(record.tenant == *tenant && catalog.view().object(record.object).is_some());
        }
    }
}

/// A change of the catalog; what was read is written and read as the same, and is taken or refused.
pub fn catalog_command(bytes: &[u8]) {
    let Ok(command) = Command::decode(bytes) else { return };
    assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
    let mut state = Catalog::new();
    state.open_group(GROUP);
    let before = state.encode();
    match state.apply(command, NOW) {
        Ok(_) => catalog(&state.encode()),
        Err(_) => assert_eq!(state.encode(), before, "a refusal changes nothing"),
    }
}

/// The top of a catalog as it is kept in the object store, after its checksum; what was read is written and read as the same.
pub fn catalog_root(bytes: &[u8]) {
    let Ok(root) = Root::decode_plain(bytes) else { return };
    assert_eq!(Root::decode(&root.encode()).as_ref(), Ok(&root));
}

/// A log entry, applied. Its frame is `wire`'s.
pub fn shard_command(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(command) = ShardCommand::decode(&bytes) else {
        return;
    };
    assert_eq!(command.encode(), bytes);
    let shard = shard();
    if let Ok(applied) = shard.apply(LogIndex(1), &bytes, None) {
        assert_eq!(shard.head().spans(), applied.spans as usize);
    }
}

/// The replicated state of a shard.
pub fn shard_snapshot(bytes: &[u8]) {
    let shard = shard();
    if shard.install(LogIndex(9), Bytes::copy_from_slice(bytes)).is_ok() {
        let (at, again) = shard.snapshot();
        assert_eq!(at, shard.flushed());
        shard.install(LogIndex(9), again).expect("we wrote it");
    }
}

fn shard() -> Shard {
    let options = ShardOptions {
        spool_dir: "/nowhere".into(),
        live_bytes_max: usize::MAX,
        clock: Arc::new(ManualClock::at(NOW.unix_nanos)),
        new_block_id: Arc::new(|| BlockId::from_parts(0, 1)),
        wait_for_disk: Arc::new(|| {}),
    };
    Shard::starting_after(GROUP, LogIndex(0), options)
}
