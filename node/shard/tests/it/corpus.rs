//! The corpus of the fuzz targets (`fuzz/corpus`), replayed and mutated.

use model::{LogIndex, TenantId};
use shard::catalog::{Command, DeleteReason};
use shard::command::ShardCommand;
use shard::fuzzing;
use shard::manifest::fold;
use shard::port::CatalogPort;

use crate::replay::replay;
use crate::world::{World, append_command, group, span};

/// Some tenths of a second each in a build that is not optimised.
const ROUNDS: u32 = 2_000;

/// A world with two blocks, the second of which lists a trace of the first.
fn world() -> World {
    let mut world = World::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for n in 0..2 {
            world.send(&[span(n, 0, 0, 0, 0), span(7, n, 0, 0, 0)]);
            world.flush().await;
        }
    });
    world
}

#[test]
fn catalog() {
    replay("catalog", fuzzing::catalog, ROUNDS, || {
        let world = world();
        let encode = || world.catalog.edit(|catalog| catalog.encode());
        let whole = encode();
        let view = world.catalog.view();
        let delete = Command::Delete {
            ids: view.blocks_of(&world.tenant).map(|record| record.id).collect(),
            reason: DeleteReason::Retention,
        };
        let now = world.catalog.now();
        world.catalog.edit(|catalog| catalog.apply(delete, now)).unwrap();
        vec![whole, encode()]
    });
}

#[test]
fn catalog_root() {
    replay("catalog_root", fuzzing::catalog_root, ROUNDS, || {
        let world = world();
        // All blocks are recent, or none is.
        [0, u64::MAX]
            .map(|now| fold(7, &world.catalog.view(), now).root.encode_plain())
            .to_vec()
    });
}

#[test]
fn catalog_command() {
    replay("catalog_command", fuzzing::catalog_command, ROUNDS, || {
        let world = world();
        let view = world.catalog.view();
        let records: Vec<_> = view.blocks_of(&world.tenant).map(|record| (**record).clone()).collect();
        let object = (**view.object(records[0].object).unwrap()).clone();
        let ids: Vec<_> = records.iter().map(|record| record.id).collect();
        let add = Command::AddBlock {
            group: group(),
            from: LogIndex(0),
            to: LogIndex(4),
            object: Some(object.clone()),
            records: records[..1].to_vec(),
        };
        let replace = Command::Replace {
            old: ids.clone(),
            objects: vec![object.clone()],
            records: records[..1].to_vec(),
        };
        let delete = Command::Delete {
            ids,
            reason: DeleteReason::Operator,
        };
        let forget = Command::ForgetObject { object: object.id };
        let announce = Command::Announce { object: object.id };
        let withdraw = Command::Withdraw {
            objects: vec![object.id],
        };
        [add, replace, delete, forget, announce, withdraw]
            .iter()
            .map(Command::encode)
            .collect()
    });
}

#[test]
fn shard_command() {
    replay("shard_command", fuzzing::shard_command, ROUNDS, || {
        let spans = [span(0, 0, 0, 0, 0), span(1, 1, 0, 1, 4)];
        vec![
            append_command(&TenantId::single(), &spans).to_vec(),
            ShardCommand::Flushed { to: LogIndex(9) }.encode().to_vec(),
        ]
    });
}

#[test]
fn shard_snapshot() {
    replay("shard_snapshot", fuzzing::shard_snapshot, ROUNDS, || {
        let mut world = World::new();
        for n in 0..3 {
            world.send(&[span(n, 0, 0, 0, 0)]);
        }
        let flushed = ShardCommand::Flushed { to: LogIndex(3) }.encode();
        world.shard.apply(LogIndex(4), &flushed, None).unwrap();
        vec![world.shard.snapshot().1.to_vec()]
    });
}
