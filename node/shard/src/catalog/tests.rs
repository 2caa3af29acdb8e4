//! The catalog's rules, one by one and then in random order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{BlockId, Generation, LogIndex, ShardId, TenantId, TraceId};
use proptest::prelude::*;

use super::*;

const HOUR_NANOS: u64 = 3_600 * NANOS_PER_SECOND;
const START_NANOS: u64 = 1_700_000_000 * NANOS_PER_SECOND;

fn at(unix_nanos: u64) -> RingTime {
    RingTime {
        unix_nanos,
        is_trusted: true,
    }
}

fn group(shard: u32, generation: u64) -> GroupKey {
    GroupKey {
        shard: ShardId(shard),
        generation: Generation(generation),
    }
}

fn tenant(n: u8) -> TenantId {
    TenantId::new(&format!("tenant-{n}")).unwrap()
}

fn object_id(n: u64) -> ObjectId {
    object_named(n, START_NANOS)
}

fn object_named(n: u64, unix_nanos: u64) -> ObjectId {
    ObjectId(BlockId::from_parts(unix_nanos / NANOS_PER_MILLI, u128::from(n)))
}

fn object(id: ObjectId) -> ObjectRecord {
    ObjectRecord {
        id,
        path: Arc::from(format!("l0/{}", id.0)),
        bytes: 1_000,
        footer: ByteRange {
            offset: 900,
            length: 100,
        },
        checksum: 42,
        etag: Some(Arc::from("etag")),
    }
}

fn block_id(n: u64) -> BlockId {
    BlockId(u128::from(n))
}

fn block(id: u64, of: u8, in_object: ObjectId) -> BlockRecord {
    BlockRecord {
        id: block_id(id),
        tenant: tenant(of),
        object: in_object,
        row_groups: 0..2,
        bloom: ByteRange {
            offset: 100,
            length: 10,
        },
        index: ByteRange {
            offset: 110,
            length: 20,
        },
        bytes: 100,
        spans: 10,
        traces: 2,
        min_unix_nanos: 5,
        max_unix_nanos: 9,
        min_trace: TraceId([1; 16]),
        max_trace: TraceId([2; 16]),
        level: 0,
        split_traces: SplitTraces::Listed(Arc::from([TraceId([1; 16])])),
        source: None,
        created_unix_nanos: 0,
    }
}

fn flush(of: GroupKey, from: u64, to: u64, n: u64, tenants: &[u8]) -> Command {
    let id = object_id(n);
    let records = tenants
        .iter()
        .map(|of| block(n * 100 + u64::from(*of), *of, id))
        .collect();
    Command::AddBlock {
        group: of,
        from: LogIndex(from),
        to: LogIndex(to),
        object: Some(object(id)),
        records,
    }
}

fn merge(old: &[u64], n: u64, of: u8) -> Command {
    let id = object_id(n);
    Command::Replace {
        old: old.iter().map(|id| block_id(*id)).collect(),
        objects: vec![object(id)],
        records: vec![BlockRecord {
            level: 1,
            ..block(n * 100 + u64::from(of), of, id)
        }],
    }
}

fn trace_index(n: u64, of: u8, named_unix_nanos: u64) -> TraceIndexRecord {
    TraceIndexRecord {
        tenant: tenant(of),
        object: object(object_named(n, named_unix_nanos)),
        blocks: 3,
        entries: 70,
    }
}

fn opened() -> Catalog {
    let mut catalog = Catalog::new();
    assert!(catalog.open_group(group(0, 1)));
    catalog
}

fn ids(catalog: &Catalog, of: u8) -> Vec<u128> {
    catalog.view().blocks_of(&tenant(of)).map(|block| block.id.0).collect()
}

#[test]
fn a_flush_moves_the_watermark_and_shows_its_blocks() {
    let mut catalog = opened();
    let before = catalog.view().clone();
    let change = catalog
        .apply(flush(group(0, 1), 0, 10, 1, &[1, 2]), at(START_NANOS))
        .unwrap();
    assert_eq!(change.added, 2);
    assert_eq!(catalog.view().watermark(group(0, 1)), Some(LogIndex(10)));
    assert_eq!((ids(&catalog, 1), ids(&catalog, 2)), (vec![101], vec![102]));
    let record = catalog.view().block(block_id(101)).unwrap();
    let range = LogRange {
        group: group(0, 1),
        from: LogIndex(0),
        to: LogIndex(10),
    };
    assert_eq!((record.source, record.created_unix_nanos), (Some(range), START_NANOS));
    assert!(catalog.view().revision() > before.revision());
    assert_eq!(before.block_count(), 0, "a reader's view stays as it was");
}

#[test]
fn a_flush_must_start_at_the_watermark() {
    let mut catalog = opened();
    let of = group(0, 1);
    catalog.apply(flush(of, 0, 10, 1, &[1]), at(START_NANOS)).unwrap();
    let state = catalog.clone();
    for (from, to) in [(0, 10), (0, 20), (9, 20), (11, 20)] {
        let refused = catalog
            .apply(flush(of, from, to, 2, &[1]), at(START_NANOS))
            .unwrap_err();
        assert_eq!(
            refused,
            Refusal::NotContiguous {
                group: of,
                watermark: LogIndex(10),
                from: LogIndex(from)
            }
        );
    }
    for to in [9, 10] {
        let refused = catalog.apply(flush(of, 10, to, 2, &[1]), at(START_NANOS)).unwrap_err();
        assert!(matches!(refused, Refusal::EmptyRange { .. }));
    }
    assert_eq!(catalog, state, "a refusal changes nothing");
    catalog.apply(flush(of, 10, 11, 2, &[1]), at(START_NANOS)).unwrap();
}

#[test]
fn entries_without_spans_move_the_watermark_alone() {
    let mut catalog = opened();
    let (from, to) = (LogIndex(0), LogIndex(3));
    let command = Command::AddBlock {
        group: group(0, 1),
        from,
        to,
        object: None,
        records: Vec::new(),
    };
    catalog.apply(command, at(START_NANOS)).unwrap();
    assert_eq!(catalog.view().watermark(group(0, 1)), Some(to));
    assert_eq!(catalog.view().objects().count(), 0);
}

#[test]
fn only_open_generations_are_covered() {
    let mut catalog = opened();
    let unknown = Refusal::UnknownGroup { group: group(0, 2) };
    assert_eq!(
        catalog
            .apply(flush(group(0, 2), 0, 1, 1, &[1]), at(START_NANOS))
            .unwrap_err(),
        unknown
    );
    assert!(!catalog.open_group(group(0, 1)), "opening twice keeps the watermark");
    catalog
        .apply(flush(group(0, 1), 0, 10, 1, &[1]), at(START_NANOS))
        .unwrap();
    let too_early = catalog.retire_group(group(0, 1), LogIndex(11)).unwrap_err();
    assert!(matches!(too_early, Refusal::NotCovered { .. }));
    catalog.retire_group(group(0, 1), LogIndex(10)).unwrap();
    let retired = Refusal::UnknownGroup { group: group(0, 1) };
    assert_eq!(
        catalog
            .apply(flush(group(0, 1), 10, 11, 2, &[1]), at(START_NANOS))
            .unwrap_err(),
        retired
    );
    assert_eq!(ids(&catalog, 1), [101], "its blocks stay");
}

#[test]
fn names_do_not_wait() {
    let age = |age_nanos: u64, is_trusted| {
        let mut catalog = opened();
        let now = RingTime {
            unix_nanos: START_NANOS + age_nanos,
            is_trusted,
        };
        catalog.apply(flush(group(0, 1), 0, 1, 1, &[1]), now).is_ok()
    };
    assert!(age(NAME_AGE_MAX_NANOS, true));
    assert!(!age(NAME_AGE_MAX_NANOS + 1, true));
    assert!(
        age(10 * NAME_AGE_MAX_NANOS, false),
        "a clock that jumped does not stop flushes"
    );
}

#[test]
fn a_replacement_is_all_or_nothing() {
    let mut catalog = opened();
    catalog
        .apply(flush(group(0, 1), 0, 10, 1, &[1, 2]), at(START_NANOS))
        .unwrap();
    catalog
        .apply(flush(group(0, 1), 10, 20, 2, &[1]), at(START_NANOS))
        .unwrap();
    let state = catalog.clone();
    let refusals = [
        (merge(&[101, 999], 3, 1), Refusal::NoSuchBlock { id: block_id(999) }),
        (merge(&[999, 101], 3, 1), Refusal::NoSuchBlock { id: block_id(999) }),
        (merge(&[101, 102], 3, 1), Refusal::MixedTenants),
        (merge(&[101, 201], 3, 2), Refusal::MixedTenants),
        (merge(&[101, 101], 3, 1), Refusal::DuplicateBlock),
        (merge(&[], 3, 1), Refusal::NothingToReplace),
        (
            merge(&[101, 201], 1, 1),
            Refusal::DuplicateObject { object: object_id(1) },
        ),
    ];
    for (command, expected) in refusals {
        assert_eq!(catalog.apply(command, at(START_NANOS)).unwrap_err(), expected);
        assert_eq!(catalog, state);
    }
    let change = catalog.apply(merge(&[101, 201], 3, 1), at(START_NANOS)).unwrap();
    assert_eq!((change.added, change.removed), (1, 2));
    assert_eq!((ids(&catalog, 1), ids(&catalog, 2)), (vec![301], vec![102]));
    let merged = catalog.view().block(block_id(301)).unwrap();
    assert_eq!((merged.level, merged.source), (1, None));
    assert_eq!(
        catalog.apply(merge(&[101, 201], 4, 1), at(START_NANOS)),
        Err(Refusal::NoSuchBlock { id: block_id(101) })
    );
}

#[test]
fn an_object_waits_until_nobody_can_be_reading_it() {
    let mut catalog = opened();
    catalog
        .apply(flush(group(0, 1), 0, 10, 1, &[1, 2]), at(START_NANOS))
        .unwrap();
    let delete = |ids: &[u64]| Command::Delete {
        ids: ids.iter().map(|id| block_id(*id)).collect(),
        reason: DeleteReason::Retention,
    };
    catalog.apply(delete(&[101]), at(START_NANOS)).unwrap();
    assert_eq!(
        catalog.view().pending().count(),
        0,
        "the other tenant's block is still in it"
    );
    let change = catalog.apply(delete(&[101, 102]), at(START_NANOS)).unwrap();
    assert_eq!(change.removed, 1);
    let not_before_unix_nanos = START_NANOS + DELETE_GRACE_NANOS;
    let pending: Vec<_> = catalog
        .view()
        .pending()
        .map(|p| (p.object.id, p.not_before_unix_nanos))
        .collect();
    assert_eq!(pending, [(object_id(1), not_before_unix_nanos)]);
    assert!(
        catalog.view().knows_object(object_id(1)),
        "the collector of orphans must leave it alone"
    );
    let forget = Command::ForgetObject { object: object_id(1) };
    let early = catalog
        .apply(forget.clone(), at(not_before_unix_nanos - 1))
        .unwrap_err();
    assert_eq!(
        early,
        Refusal::TooEarly {
            object: object_id(1),
            not_before_unix_nanos
        }
    );
    catalog.apply(forget.clone(), at(not_before_unix_nanos)).unwrap();
    assert!(!catalog.view().knows_object(object_id(1)));
    assert_eq!(
        catalog.apply(forget, at(not_before_unix_nanos)),
        Err(Refusal::NotPending { object: object_id(1) })
    );
}

#[test]
fn what_is_announced_is_remembered_until_it_is_named() {
    let mut catalog = opened();
    let announce = |n: u64| Command::Announce { object: object_id(n) };
    for n in [1, 2, 3, 1] {
        catalog.apply(announce(n), at(START_NANOS)).unwrap();
    }
    let announced = |catalog: &Catalog| catalog.view().announced().collect::<Vec<_>>();
    assert_eq!(announced(&catalog), [1, 2, 3].map(object_id));
    assert!(!catalog.view().knows_object(object_id(1)), "it is not named");
    assert_eq!(Catalog::decode(&catalog.encode()).as_ref(), Ok(&catalog));
    // Each of the three ways to be named.
    catalog
        .apply(flush(group(0, 1), 0, 10, 1, &[1]), at(START_NANOS))
        .unwrap();
    catalog.apply(merge(&[101], 2, 1), at(START_NANOS)).unwrap();
    let index = Command::PutTraceIndex {
        tenant: tenant(1),
        old: Vec::new(),
        new: Some(TraceIndexRecord {
            object: object(object_id(3)),
            ..trace_index(3, 1, START_NANOS)
        }),
    };
    catalog.apply(index, at(START_NANOS)).unwrap();
    assert_eq!(announced(&catalog), []);
    for n in 1..=3 {
        let object = object_id(n);
        let refused = catalog.apply(announce(n), at(START_NANOS));
        assert_eq!(
            refused,
            Err(Refusal::DuplicateObject { object }),
            "named or waiting for its deletion"
        );
    }
    catalog.apply(announce(4), at(START_NANOS)).unwrap();
    let revision = catalog.view().revision();
    let withdraw = Command::Withdraw {
        objects: [1, 4, 5].map(object_id).to_vec(),
    };
    catalog.apply(withdraw.clone(), at(START_NANOS)).unwrap();
    assert_eq!(announced(&catalog), []);
    catalog.apply(withdraw, at(START_NANOS)).unwrap();
    assert_eq!(
        catalog.view().revision(),
        revision + 1,
        "the second time nothing changed"
    );
    let late = at(START_NANOS + NAME_AGE_MAX_NANOS + 1_000_000_000);
    let refused = catalog.apply(announce(5), late);
    assert!(matches!(refused, Err(Refusal::NameTooOld { .. })), "{refused:?}");
}

#[test]
fn a_catalog_has_so_many_blocks() {
    assert_eq!(check_room(BLOCKS_MAX - 3, 2), Ok(()));
    assert_eq!(check_room(BLOCKS_MAX - 2, 2), Ok(()));
    let (blocks, blocks_max) = (BLOCKS_MAX + 1, BLOCKS_MAX);
    assert_eq!(check_room(BLOCKS_MAX - 1, 2), Err(Refusal::Full { blocks, blocks_max }));
}

#[test]
fn so_many_objects_are_announced_at_once() {
    let mut catalog = opened();
    for n in 0..=ANNOUNCED_MAX as u64 {
        catalog
            .apply(Command::Announce { object: object_id(n) }, at(START_NANOS))
            .unwrap();
        let expected = (n + 1).min(ANNOUNCED_MAX as u64);
        if n + 2 >= ANNOUNCED_MAX as u64 {
            assert_eq!(catalog.view().announced().count() as u64, expected);
        }
    }
    assert!(!catalog.view().is_announced(object_id(0)), "the oldest was forgotten");
    assert!(catalog.view().is_announced(object_id(1)));
}

#[test]
fn records_must_make_sense() {
    let refuse = |change: fn(&mut ObjectRecord, &mut Vec<BlockRecord>)| {
        let mut catalog = opened();
        let (mut object, mut records) = (object(object_id(1)), vec![block(1, 1, object_id(1))]);
        change(&mut object, &mut records);
        let (from, to) = (LogIndex(0), LogIndex(1));
        let command = Command::AddBlock {
            group: group(0, 1),
            from,
            to,
            object: Some(object),
            records,
        };
        catalog.apply(command, at(START_NANOS)).unwrap_err()
    };
    assert_eq!(
        refuse(|_, records| records.clear()),
        Refusal::UnusedObject { object: object_id(1) }
    );
    assert_eq!(
        refuse(|_, records| records.push(records[0].clone())),
        Refusal::DuplicateBlock
    );
    let elsewhere = refuse(|_, records| records[0].object = object_id(2));
    assert_eq!(elsewhere, Refusal::UnknownObject { object: object_id(2) });
    let implausible = Refusal::Implausible { id: block_id(1) };
    assert_eq!(refuse(|_, records| records[0].spans = 0), implausible);
    assert_eq!(refuse(|_, records| records[0].traces = 11), implausible);
    assert_eq!(refuse(|_, records| records[0].min_unix_nanos = 10), implausible);
    assert_eq!(refuse(|_, records| records[0].row_groups = 2..2), implausible);
}

/// A command in terms that a shrinker can make smaller.
#[derive(Debug, Clone)]
enum Step {
    Flush {
        shard: u32,
        from_watermark: bool,
        length: u64,
        tenants: Vec<u8>,
        age_hours: u64,
    },
    Merge {
        of: u8,
        first: usize,
        count: usize,
    },
    Delete {
        of: u8,
        first: usize,
    },
    Index {
        of: u8,
        old: usize,
        with_new: bool,
    },
    Forget {
        nth: usize,
        after_hours: u64,
    },
    Open {
        shard: u32,
        generation: u64,
    },
    Retire {
        shard: u32,
        behind: u64,
    },
    /// The object of a step that comes later, or of none.
    Announce {
        ahead: u64,
    },
    Withdraw {
        nth: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let tenants = proptest::collection::btree_set(0..3u8, 0..3).prop_map(|set| set.into_iter().collect::<Vec<_>>());
    prop_oneof![
        6 => (0..3u32, proptest::bool::weighted(0.8), 0..5u64, tenants, 0..14u64).prop_map(
            |(shard, from_watermark, length, tenants, age_hours)| Step::Flush {
                shard, from_watermark, length, tenants, age_hours
            }
        ),
        3 => (0..3u8, 0..4usize, 0..4usize).prop_map(|(of, first, count)| Step::Merge { of, first, count }),
        1 => (0..3u8, 0..4usize).prop_map(|(of, first)| Step::Delete { of, first }),
        2 => (0..3u8, 0..3usize, proptest::bool::weighted(0.8)).prop_map(
            |(of, old, with_new)| Step::Index { of, old, with_new }
        ),
        2 => (0..3usize, 0..3u64).prop_map(|(nth, after_hours)| Step::Forget { nth, after_hours }),
        2 => (0..3u64).prop_map(|ahead| Step::Announce { ahead }),
        1 => (0..3usize).prop_map(|nth| Step::Withdraw { nth }),
        1 => (0..3u32, 1..3u64).prop_map(|(shard, generation)| Step::Open { shard, generation }),
        1 => (0..3u32, 0..2u64).prop_map(|(shard, behind)| Step::Retire { shard, behind }),
    ]
}

/// What the test keeps beside the catalog: which entries have ever been covered, and which spans each tenant has.
#[derive(Default)]
struct Model {
    now: u64,
    next: u64,
    covered: BTreeMap<GroupKey, BTreeSet<u64>>,
    retired: BTreeSet<GroupKey>,
}

impl Model {
    fn newest(&self, catalog: &Catalog, shard: u32) -> GroupKey {
        let open = catalog
            .view()
            .watermarks()
            .filter(|(key, _)| key.shard == ShardId(shard))
            .last();
        open.map_or(group(shard, 1), |(key, _)| key)
    }

    fn command(&mut self, catalog: &Catalog, step: &Step) -> Option<Command> {
        self.next += 1;
        let n = self.next;
        Some(match step {
            Step::Flush {
                shard,
                from_watermark,
                length,
                tenants,
                age_hours,
            } => {
                let key = self.newest(catalog, *shard);
                let watermark = catalog.view().watermark(key).map_or(0, |w| w.0);
                let from = if *from_watermark {
                    watermark
                } else {
                    watermark.saturating_sub(1)
                };
                let id = object_named(n, self.now.saturating_sub(age_hours * HOUR_NANOS));
                let records: Vec<_> = tenants
                    .iter()
                    .map(|of| block(n * 100 + u64::from(*of), *of, id))
                    .collect();
                let object = (!records.is_empty()).then(|| object(id));
                let (from, to) = (LogIndex(from), LogIndex(from + length));
                Command::AddBlock {
                    group: key,
                    from,
                    to,
                    object,
                    records,
                }
            }
            Step::Merge { of, first, count } => {
                let there = catalog.view().blocks_of(&tenant(*of)).skip(*first).take(*count);
                let old: Vec<_> = there.map(|block| block.id).collect();
                let id = object_named(n, self.now);
                Command::Replace {
                    old,
                    objects: vec![object(id)],
                    records: vec![block(n * 100, *of, id)],
                }
            }
            Step::Delete { of, first } => {
                let ids = catalog
                    .view()
                    .blocks_of(&tenant(*of))
                    .skip(*first)
                    .map(|block| block.id)
                    .collect();
                Command::Delete {
                    ids,
                    reason: DeleteReason::Retention,
                }
            }
            Step::Index { of, old, with_new } => {
                let there = catalog.view().trace_indexes_of(&tenant(*of)).take(*old);
                Command::PutTraceIndex {
                    tenant: tenant(*of),
                    old: there.map(|index| index.object.id).collect(),
                    new: with_new.then(|| trace_index(n, *of, self.now)),
                }
            }
            Step::Forget { nth, after_hours } => {
                self.now += after_hours * HOUR_NANOS;
                Command::ForgetObject {
                    object: catalog.view().pending().nth(*nth)?.object.id,
                }
            }
            Step::Announce { ahead } => Command::Announce {
                object: object_named(n + ahead, self.now),
            },
            Step::Withdraw { nth } => Command::Withdraw {
                objects: catalog.view().announced().skip(*nth).collect(),
            },
            Step::Open { .. } | Step::Retire { .. } => return None,
        })
    }
}

fn check_invariants(view: &CatalogView) {
    let mut blocks_in = BTreeMap::<ObjectId, usize>::new();
    let mut covered = BTreeMap::<GroupKey, Vec<(u64, u64)>>::new();
    let mut counted = 0;
    for (tenant, blocks) in view.tenants() {
        assert!(!blocks.is_empty(), "a tenant without blocks is listed");
        for block in blocks.iter() {
            assert_eq!(&block.tenant, tenant);
            assert_eq!(view.tenant_of.get(&block.id), Some(tenant));
            *blocks_in.entry(block.object).or_default() += 1;
            counted += 1;
            if let Some(source) = block.source {
                let ranges = covered.entry(source.group).or_default();
                if !ranges.contains(&(source.from.0, source.to.0)) {
                    ranges.push((source.from.0, source.to.0));
                }
            }
        }
    }
    assert_eq!(counted, view.block_count());
    let mut indexes = 0;
    for (tenant, blocks) in view.tenants() {
        for index in blocks.indexes.values() {
            assert_eq!(&index.tenant, tenant);
            assert_eq!(view.index_tenants.get(&index.object.id), Some(tenant));
            assert!(!view.pending.contains_key(&index.object.id) && !view.objects.contains_key(&index.object.id));
            indexes += 1;
        }
    }
    assert_eq!(indexes, view.trace_index_count());
    assert!(
        !view.announced().any(|object| view.knows_object(object)),
        "announced and named"
    );
    let live: BTreeMap<_, _> = view.objects.iter().map(|(id, live)| (*id, live.blocks)).collect();
    assert_eq!(
        live, blocks_in,
        "every object is listed with its blocks, and none without"
    );
    for pending in view.pending() {
        assert!(
            !live.contains_key(&pending.object.id),
            "an object that is read must not be deleted"
        );
    }
    for (group, mut ranges) in covered {
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{group}: {pair:?} overlap");
        }
        if let Some(watermark) = view.watermark(group) {
            assert!(
                ranges.iter().all(|(_, to)| *to <= watermark.0),
                "{group} is covered beyond its watermark"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_commands_keep_every_promise(steps in proptest::collection::vec(step(), 1..60)) {
        let mut catalog = Catalog::new();
        let mut replica = Catalog::new();
        let mut model = Model { now: START_NANOS, ..Model::default() };
        for shard in 0..3 {
            for member in [&mut catalog, &mut replica] {
                member.open_group(group(shard, 1));
            }
        }
        for step in steps {
            let before = catalog.clone();
            let view = catalog.view().clone();
            match &step {
                Step::Open { shard, generation } => {
                    let key = group(*shard, *generation);
                    if !model.retired.contains(&key) {
                        assert_eq!(catalog.open_group(key), replica.open_group(key));
                    }
                }
                Step::Retire { shard, behind } => {
                    let key = model.newest(&catalog, *shard);
                    let last = LogIndex(view.watermark(key).unwrap_or_default().0 + behind);
                    let retired = catalog.retire_group(key, last);
                    assert_eq!(retired, replica.retire_group(key, last));
                    if retired.is_ok() {
                        assert_eq!(*behind, 0);
                        model.retired.insert(key);
                    }
                }
                _ => {
                    let Some(command) = model.command(&catalog, &step) else { continue };
                    let decoded = Command::decode(&command.encode()).unwrap();
                    assert_eq!(decoded, command);
                    let answer = catalog.apply(command.clone(), at(model.now));
                    // The other member goes through bytes at every step: serialise then apply equals apply then
                    // serialise.
                    replica = Catalog::decode(&replica.encode()).unwrap();
                    assert_eq!(replica.apply(decoded, at(model.now)), answer);
                    if let Ok(change) = answer {
                        if let Command::AddBlock { group, from, to, .. } = &command {
                            assert_eq!(Some(*from), view.watermark(*group));
                            assert_eq!(Some(*to), catalog.view().watermark(*group));
                            let covered = model.covered.entry(*group).or_default();
                            for index in from.0 + 1..=to.0 {
                                assert!(covered.insert(index), "entry {index} of {group} is covered twice");
                            }
                            assert_eq!(covered.len() as u64, to.0, "an entry of {group} was skipped");
                        }
                        assert_eq!(
                            catalog.view().block_count(),
                            view.block_count() + change.added - change.removed
                        );
                    }
                }
            }
            if catalog == before {
                assert_eq!(catalog.view().revision(), view.revision());
            } else {
                assert_eq!(catalog.view().revision(), view.revision() + 1, "one change, one revision");
            }
            assert_eq!(catalog.encode(), replica.encode(), "members are byte for byte equal");
            check_invariants(catalog.view());
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Command::decode(&bytes);
        let _ = Catalog::decode(&bytes);
        let mut versioned = vec![1];
        versioned.extend(bytes);
        let _ = Command::decode(&versioned);
        let _ = Catalog::decode(&versioned);
    }

    #[test]
    fn damaged_commands_are_refused_or_differ(at_byte in 0..400usize, flip in 1..=255u8) {
        let mut bytes = flush(group(0, 1), 0, 10, 1, &[1, 2]).encode();
        let position = at_byte % bytes.len();
        bytes[position] ^= flip;
        if let Ok(command) = Command::decode(&bytes) {
            let _ = opened().apply(command, at(START_NANOS));
        }
    }
}

#[test]
fn a_catalog_without_its_objects_is_refused() {
    let mut catalog = opened();
    catalog
        .apply(flush(group(0, 1), 0, 10, 1, &[1]), at(START_NANOS))
        .unwrap();
    let bytes = catalog.encode();
    assert_eq!(Catalog::decode(&bytes).unwrap(), catalog);
    assert_eq!(Catalog::decode(&[]), Err(DecodeError::Empty));
    assert_eq!(Catalog::decode(&[9]), Err(DecodeError::Format { found: 9 }));
    for length in 1..bytes.len() {
        if let Ok(shorter) = Catalog::decode(&bytes[..length]) {
            check_invariants(shorter.view());
        }
    }
}

#[test]
fn a_trace_index_comes_is_replaced_and_goes_with_the_last_block() {
    let mut catalog = opened();
    let now = at(START_NANOS);
    let put = |old: &[u64], new: Option<TraceIndexRecord>| Command::PutTraceIndex {
        tenant: tenant(1),
        old: old.iter().map(|n| object_id(*n)).collect(),
        new,
    };
    let first = || Some(trace_index(50, 1, START_NANOS));
    assert_eq!(
        catalog.apply(put(&[], first()), now),
        Err(Refusal::NothingToIndex { tenant: tenant(1) })
    );
    catalog.apply(flush(group(0, 1), 0, 10, 1, &[1, 2]), now).unwrap();
    assert_eq!(catalog.apply(put(&[], first()), now), Ok(Change::default()));
    let names = |catalog: &Catalog| -> Vec<ObjectId> {
        let indexes = catalog.view().trace_indexes_of(&tenant(1));
        indexes.map(|index| index.object.id).collect()
    };
    assert_eq!(names(&catalog), [object_id(50)]);
    assert!(catalog.view().knows_object(object_id(50)));
    assert_eq!(catalog.view().trace_indexes_of(&tenant(2)).count(), 0);

    // What is refused changes nothing.
    let before = catalog.clone();
    let contradicting = TraceIndexRecord {
        blocks: 0,
        ..trace_index(51, 1, START_NANOS)
    };
    let too_short = {
        let mut index = trace_index(51, 1, START_NANOS);
        index.object.bytes -= 1;
        index
    };
    let too_old = object_named(51, START_NANOS - NAME_AGE_MAX_NANOS - NANOS_PER_SECOND);
    for (command, refusal) in [
        (put(&[], None), Refusal::NothingToReplace),
        (put(&[], first()), Refusal::DuplicateObject { object: object_id(50) }),
        (put(&[49], None), Refusal::NoSuchIndex { object: object_id(49) }),
        (put(&[50, 50], None), Refusal::NoSuchIndex { object: object_id(50) }),
        // An object of blocks is not an index.
        (put(&[1], None), Refusal::NoSuchIndex { object: object_id(1) }),
        (
            put(&[], Some(contradicting)),
            Refusal::ImplausibleIndex { object: object_id(51) },
        ),
        (
            put(&[], Some(too_short)),
            Refusal::ImplausibleIndex { object: object_id(51) },
        ),
        (
            put(&[], Some(trace_index(51, 2, START_NANOS))),
            Refusal::ImplausibleIndex { object: object_id(51) },
        ),
        (
            put(
                &[],
                Some(TraceIndexRecord {
                    object: object(too_old),
                    ..trace_index(51, 1, START_NANOS)
                }),
            ),
            Refusal::NameTooOld {
                object: too_old,
                age_nanos: NAME_AGE_MAX_NANOS + NANOS_PER_SECOND,
            },
        ),
    ] {
        assert_eq!(catalog.apply(command, now), Err(refusal));
        assert_eq!(catalog, before);
    }

    catalog
        .apply(put(&[50], Some(trace_index(52, 1, START_NANOS))), now)
        .unwrap();
    assert_eq!(names(&catalog), [object_id(52)]);
    let waiting =
        |catalog: &Catalog| -> Vec<ObjectId> { catalog.view().pending().map(|pending| pending.object.id).collect() };
    assert_eq!(waiting(&catalog), [object_id(50)]);
    // A name is given once, also while its object waits for its deletion.
    assert_eq!(
        catalog.apply(put(&[], first()), now),
        Err(Refusal::DuplicateObject { object: object_id(50) })
    );
    assert_eq!(Catalog::decode(&catalog.encode()).unwrap(), catalog);
    let delete = Command::Delete {
        ids: vec![block_id(101)],
        reason: DeleteReason::Retention,
    };
    catalog.apply(delete, now).unwrap();
    assert_eq!(names(&catalog), []);
    assert_eq!(waiting(&catalog), [object_id(50), object_id(52)]);
    check_invariants(catalog.view());
}

#[test]
fn a_tenant_has_so_many_trace_indexes() {
    let mut catalog = opened();
    let now = at(START_NANOS);
    catalog.apply(flush(group(0, 1), 0, 10, 1, &[1]), now).unwrap();
    let put = |old: Vec<ObjectId>, n: u64| Command::PutTraceIndex {
        tenant: tenant(1),
        old,
        new: Some(trace_index(n, 1, START_NANOS)),
    };
    for n in 0..TRACE_INDEXES_MAX as u64 {
        catalog.apply(put(vec![], 100 + n), now).unwrap();
    }
    assert!(matches!(
        catalog.apply(put(vec![], 1000), now),
        Err(Refusal::TooManyIndexes { .. })
    ));
    catalog.apply(put(vec![object_id(100)], 1000), now).unwrap();
    assert_eq!(catalog.view().trace_index_count(), TRACE_INDEXES_MAX);
}

/// Files of `testdata/v1` are never written again.
#[test]
fn catalogs_of_earlier_programs_open() {
    let open = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1");
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let catalog = Catalog::decode(&bytes).unwrap();
        assert!(catalog.encode() == bytes, "{name} is written as it was read");
        catalog
    };
    // From before objects were announced.
    let catalog = open("catalog.bin");
    let view = catalog.view();
    assert_eq!((view.block_count(), view.objects().count()), (2, 2));
    assert_eq!(view.announced().count(), 0);
    let announced = open("catalog-announced.bin");
    assert_eq!(announced.view().block_count(), 2);
    let names = [0x63, 0x64].map(|n| ObjectId(BlockId(0x018b_cfe5_6800_7000_8000_0000_0000_0000 + n)));
    assert_eq!(announced.view().announced().collect::<Vec<_>>(), names);
}

/// What the ring's log holds of the catalog, one line per command; a new kind of command gets a new line.
/// `WRITE_TESTDATA=1` writes the file where there is none.
#[test]
fn commands_of_version_1_are_read_and_written_for_ever() {
    let all_split = match merge(&[101, 201], 3, 1) {
        Command::Replace { old, objects, records } => Command::Replace {
            old,
            objects,
            records: records
                .into_iter()
                .map(|record| BlockRecord {
                    split_traces: SplitTraces::All,
                    ..record
                })
                .collect(),
        },
        other => other,
    };
    let commands = [
        flush(group(0, 1), 0, 4, 1, &[1, 2]),
        merge(&[101, 201], 3, 1),
        all_split,
        Command::Delete {
            ids: vec![block_id(101)],
            reason: DeleteReason::Retention,
        },
        Command::Delete {
            ids: vec![block_id(102)],
            reason: DeleteReason::TenantRemoved,
        },
        Command::PutTraceIndex {
            tenant: tenant(1),
            old: vec![object_id(7)],
            new: Some(trace_index(8, 1, START_NANOS)),
        },
        Command::Announce { object: object_id(9) },
        Command::Withdraw {
            objects: vec![object_id(9), object_id(10)],
        },
        Command::ForgetObject { object: object_id(1) },
    ];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut written = Vec::new();
    for command in &commands {
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        written.push(hex(&bytes));
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1/catalog-commands.txt");
    if std::env::var_os("WRITE_TESTDATA").is_some() && !path.exists() {
        std::fs::write(&path, written.join("\n") + "\n").unwrap();
    }
    let frozen = std::fs::read_to_string(path).unwrap();
    assert_eq!(written, frozen.lines().collect::<Vec<_>>());
}
