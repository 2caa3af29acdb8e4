//! Merges of real blocks: what is found before is found after, whoever interferes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use model::BlockId;
use proptest::prelude::*;
use settings::CompactionSettings;
use tokio::sync::watch;

use super::*;
use crate::catalog::{BlockRecord, Command, DeleteReason, ObjectId, ObjectRecord, SplitTraces};
use crate::housekeeping::bed::faults::{Lose, Refuse};
use crate::housekeeping::bed::{Bed, DAY, HOUR, START, Span, tenant, trace};
use crate::port::CatalogPort;

fn never() -> watch::Receiver<bool> {
    let (sender, stop) = watch::channel(false);
    // The sender must outlive the merge; a test is short.
    std::mem::forget(sender);
    stop
}

async fn merge_all(compactor: &Compactor) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    while let Some(claim) = compactor.next() {
        outcomes.push(compactor.run(claim, never()).await.unwrap());
    }
    outcomes
}

fn listed(bed: &Bed, id: BlockId) -> Vec<model::TraceId> {
    match &bed.view().block(id).unwrap().split_traces {
        SplitTraces::Listed(traces) => traces.to_vec(),
        SplitTraces::All => panic!("could not be listed"),
    }
}

/// Gives a block another list: a copy of its record takes its place, because the catalog never changes one.
fn set_split(bed: &Bed, id: BlockId, split_traces: SplitTraces) {
    let view = bed.view();
    let record = (**view.block(id).unwrap()).clone();
    let object = (**view.object(record.object).unwrap()).clone();
    let copy = ObjectRecord {
        id: ObjectId(bed.names.next()),
        ..object
    };
    let changed = BlockRecord {
        object: copy.id,
        id: bed.names.next(),
        split_traces,
        ..record
    };
    let replace = Command::Replace {
        old: vec![id],
        objects: vec![copy],
        records: vec![changed],
    };
    bed.catalog
        .inner
        .edit(|catalog| catalog.apply(replace, bed.catalog.now()))
        .unwrap();
}

#[tokio::test]
async fn a_merged_block_answers_what_its_inputs_answered() {
    let bed = Bed::new();
    let (a, b) = (tenant("a"), tenant("b*"));
    // Trace 1 is in three flushes, one span of it in two of them; trace 9 is in both tenants.
    bed.flush(&[(&a, &[(1, 1, START), (2, 1, START)]), (&b, &[(9, 1, START)])])
        .await;
    bed.flush(&[(&a, &[(1, 1, START), (1, 2, START + 5), (9, 3, START)])])
        .await;
    bed.flush(&[(&a, &[(1, 4, START + 7), (3, 1, START)]), (&b, &[(9, 2, START)])])
        .await;
    let before = (bed.traces(&a).await, bed.traces(&b).await);
    assert_eq!(before.0[&trace(1)].len(), 3, "a span that is there twice counts once");
    bed.advance(2 * HOUR);
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    assert_eq!(compactor.measure_outstanding(), 5);
    let outcomes = merge_all(&compactor).await;
    assert_eq!(outcomes.len(), 2, "one merge per tenant");
    assert_eq!(before, (bed.traces(&a).await, bed.traces(&b).await));
    let view = bed.view();
    assert_eq!((view.block_count(), compactor.measure_outstanding()), (2, 0));
    let merged = view.blocks_of(&a).next().unwrap();
    assert_eq!(
        (merged.spans, merged.traces, merged.level, merged.source),
        (6, 4, 1, None)
    );
    assert_eq!(
        merged.split_traces,
        SplitTraces::default(),
        "all pieces are in one block now"
    );
    let object = view.object(merged.object).unwrap();
    assert_eq!(object.footer.end(), Some(object.bytes));
    assert_eq!(std::fs::read_dir(compactor.scratch_dir()).unwrap().count(), 0);
    assert_eq!(bed.metrics.merges_done.load(Ordering::Relaxed), 2);
    assert_eq!(bed.metrics.merged_blocks_in.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn the_checksum_is_that_of_the_object() {
    let bed = Bed::new();
    let a = tenant("a");
    bed.flush(&[(&a, &[(1, 1, START)])]).await;
    bed.flush(&[(&a, &[(2, 1, START)])]).await;
    bed.advance(2 * HOUR);
    merge_all(&bed.compactor(CompactionSettings::default(), "scratch")).await;
    let view = bed.view();
    let object = view.objects().next().unwrap();
    let path = bed.store.path(&object.path);
    let stored = object_store::ObjectStoreExt::get(bed.store.inner().as_ref(), &path)
        .await
        .unwrap();
    let bytes = stored.bytes().await.unwrap();
    assert_eq!(twox_hash::XxHash3_64::oneshot(&bytes), object.checksum);
}

#[tokio::test]
async fn traces_that_also_lie_elsewhere_stay_listed() {
    let bed = Bed::new();
    let a = tenant("a");
    // Trace 1 ends in the next window; trace 2 is in two blocks of this one.
    bed.flush(&[(&a, &[(1, 1, START), (2, 1, START)])]).await;
    bed.flush(&[(&a, &[(1, 2, START + 1), (2, 2, START + 1), (3, 1, START)])])
        .await;
    let later = bed.flush(&[(&a, &[(1, 3, START + HOUR), (4, 1, START + HOUR)])]).await[0];
    assert_eq!(listed(&bed, later), [trace(1)]);
    let before = bed.traces(&a).await;
    bed.advance(HOUR + HOUR / 2);
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    let outcomes = merge_all(&compactor).await;
    let [Outcome::Merged(merged)] = outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(listed(&bed, merged), [trace(1)]);
    assert_eq!(before, bed.traces(&a).await);
}

#[tokio::test]
async fn inputs_that_could_not_list_their_traces_are_asked_for_all_of_them() {
    let bed = Bed::new();
    let a = tenant("a");
    let first = bed.flush(&[(&a, &[(1, 1, START), (2, 1, START)])]).await[0];
    bed.flush(&[(&a, &[(3, 1, START)])]).await;
    let other = bed.flush(&[(&a, &[(2, 2, START + HOUR)])]).await[0];
    set_split(&bed, first, SplitTraces::All);
    set_split(&bed, other, SplitTraces::default());
    bed.advance(HOUR + HOUR / 2);
    let outcomes = merge_all(&bed.compactor(CompactionSettings::default(), "scratch")).await;
    let [Outcome::Merged(merged)] = outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(listed(&bed, merged), [trace(2)]);
}

async fn two_small_blocks(bed: &Bed) {
    let a = tenant("a");
    let spans: [&[Span]; 2] = [&[(1, 1, START)], &[(1, 2, START), (2, 1, START)]];
    for spans in spans {
        bed.flush(&[(&a, spans)]).await;
    }
    bed.advance(2 * HOUR);
}

#[tokio::test]
async fn of_two_compactors_one_wins_and_the_other_leaves_nothing() {
    let bed = Bed::new();
    two_small_blocks(&bed).await;
    let before = bed.traces(&tenant("a")).await;
    let settings = CompactionSettings::default;
    let (one, other) = (bed.compactor(settings(), "one"), bed.compactor(settings(), "other"));
    let claims = (one.next().unwrap(), other.next().unwrap());
    assert_eq!(claims.0.job(), claims.1.job());
    let outcomes = tokio::join!(one.run(claims.0, never()), other.run(claims.1, never()));
    let lost = [&outcomes.0, &outcomes.1].map(|outcome| matches!(outcome, Ok(Outcome::Lost)));
    assert_eq!(lost.iter().filter(|lost| **lost).count(), 1, "{outcomes:?}");
    assert_eq!(bed.view().block_count(), 1);
    assert_eq!(bed.traces(&tenant("a")).await, before);
    // Two inputs that wait for their deletion, one result.
    assert_eq!(bed.objects().len(), 3);
    assert_eq!(bed.metrics.merges_lost.load(Ordering::Relaxed), 1);
    for scratch in ["one", "other"] {
        assert_eq!(std::fs::read_dir(bed.dir.path().join(scratch)).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_crash_between_upload_and_replace_leaves_an_orphan_that_is_collected() {
    let bed = Bed::new();
    two_small_blocks(&bed).await;
    let before = bed.traces(&tenant("a")).await;
    let inputs = bed.objects();
    *bed.catalog.lose.lock() = Lose::Command;
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    let failed = compactor.run(compactor.next().unwrap(), never()).await;
    assert_eq!(failed.unwrap_err().kind(), crate::Kind::Unavailable);
    assert_eq!(
        bed.objects().len(),
        3,
        "nobody knows whether it was agreed on: it stays"
    );
    assert!(compactor.next().is_none(), "a merge that failed rests");

    // The next life.
    drop(compactor);
    let collector = bed.collector();
    assert_eq!(collector.run().await.unwrap().orphans_deleted, 0);
    bed.advance(DAY + 1_000_000);
    assert_eq!(collector.run().await.unwrap().orphans_deleted, 1);
    assert_eq!(bed.objects(), inputs);
    assert_eq!(bed.traces(&tenant("a")).await, before);
    let outcomes = merge_all(&bed.compactor(CompactionSettings::default(), "scratch")).await;
    assert!(matches!(outcomes[..], [Outcome::Merged(_)]));
    assert_eq!(bed.traces(&tenant("a")).await, before);
}

#[tokio::test]
async fn a_lost_reply_is_looked_up_in_the_catalog() {
    let bed = Bed::new();
    two_small_blocks(&bed).await;
    *bed.catalog.lose.lock() = Lose::Reply;
    let outcomes = merge_all(&bed.compactor(CompactionSettings::default(), "scratch")).await;
    let [Outcome::Merged(merged)] = outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert!(bed.view().block(merged).is_some());
    assert_eq!(bed.objects().len(), 3);
}

#[tokio::test]
async fn retention_may_take_an_input_while_it_is_merged() {
    let bed = Bed::new();
    two_small_blocks(&bed).await;
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    let claim = compactor.next().unwrap();
    let ids = vec![claim.job().inputs[0].id];
    let reason = DeleteReason::Retention;
    // Whether before it begins, or at its end.
    bed.catalog.change(Command::Delete { ids, reason }).await.unwrap();
    assert_eq!(compactor.run(claim, never()).await.unwrap(), Outcome::Lost);
    assert_eq!(bed.view().block_count(), 1, "what was deleted does not come back");
    assert_eq!(bed.objects().len(), 2);
}

#[tokio::test]
async fn a_result_is_deleted_only_when_the_catalog_proves_that_it_is_not_named() {
    let bed = Bed::new();
    two_small_blocks(&bed).await;
    let settings = CompactionSettings::default;
    let (one, other) = (bed.compactor(settings(), "one"), bed.compactor(settings(), "other"));
    let claims = (one.next().unwrap(), other.next().unwrap());
    // This node does not see what the other did.
    let stale = bed.view();
    one.run(claims.0, never()).await.unwrap();
    *bed.catalog.stale.lock() = Some(stale);
    let refused = other.run(claims.1, never()).await.unwrap_err();
    assert_eq!(refused.kind(), crate::Kind::Fenced);
    assert_eq!(bed.objects().len(), 4, "left to the collector");
}

fn scratch_files(compactor: &Compactor) -> usize {
    std::fs::read_dir(compactor.scratch_dir()).unwrap().count()
}

#[tokio::test]
async fn a_merge_stops_when_it_is_told_to_or_when_nobody_waits_for_it() {
    let bed = Bed::new();
    two_small_blocks(&bed).await;
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    // The inputs are open; their row groups never come.
    for record in bed.view().blocks_of(&tenant("a")) {
        bed.blocks.open(&bed.view(), record).await.unwrap();
    }
    bed.inner.hold_reads.send_replace(true);
    for is_told in [true, false] {
        let (sender, stop) = watch::channel(false);
        let mut run = Box::pin(compactor.run(compactor.next().unwrap(), stop));
        while scratch_files(&compactor) == 0 {
            assert!(futures::poll!(run.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        assert!(compactor.next().is_none(), "it is being done");
        if is_told {
            sender.send_replace(true);
            assert_eq!(run.await.unwrap(), Outcome::Stopped);
        } else {
            drop(run);
        }
        while scratch_files(&compactor) > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(compactor.next().is_some(), "the claim is given back");
    let (sender, stop) = watch::channel(false);
    drop(sender);
    let stopped = compactor.run(compactor.next().unwrap(), stop).await.unwrap();
    assert_eq!(stopped, Outcome::Stopped, "whoever could stop it is gone");
    assert_eq!((bed.view().block_count(), bed.objects().len()), (2, 2));
}

#[tokio::test]
async fn a_store_that_refuses_uploads_changes_nothing() {
    let bed = Bed::new();
    two_small_blocks(&bed).await;
    *bed.inner.refuse.lock() = Refuse::Puts;
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    assert!(compactor.run(compactor.next().unwrap(), never()).await.is_err());
    assert_eq!(bed.metrics.merges_failed.load(Ordering::Relaxed), 1);
    assert_eq!(bed.view().block_count(), 2);
    assert_eq!(std::fs::read_dir(compactor.scratch_dir()).unwrap().count(), 0);
    *bed.inner.refuse.lock() = Refuse::Nothing;
    assert!(compactor.next().is_none());
    bed.clock.advance(Duration::from_secs(30));
    let outcomes = merge_all(&compactor).await;
    assert!(matches!(outcomes[..], [Outcome::Merged(_)]));
}

#[tokio::test]
async fn a_damaged_block_does_not_keep_its_neighbours_from_being_merged() {
    let mut bed = Bed::new();
    two_small_blocks(&bed).await;
    let a = tenant("a");
    let damaged = bed.flush(&[(&a, &[(0, 1, START), (7, 1, START)])]).await[0];
    let view = bed.view();
    let object = view.object(view.block(damaged).unwrap().object).unwrap();
    bed.store.upload(&object.path, vec![0; 10_000].into()).await.unwrap();
    bed.close_blocks();
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    let error = compactor.run(compactor.next().unwrap(), never()).await.unwrap_err();
    assert_eq!(error.kind(), crate::Kind::Corrupt);
    // It may hold a piece of whatever its neighbours list.
    let listing = bed.view().blocks_of(&a).nth(1).unwrap().split_traces.clone();
    assert_eq!(listing, SplitTraces::Listed([trace(1)].into()));
    let outcome = compactor.run(compactor.next().unwrap(), never()).await.unwrap();
    let Outcome::Merged(merged) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(bed.view().block(damaged).is_some());
    assert_eq!(listed(&bed, merged), [trace(1)]);
    assert!(compactor.next().is_none());
    bed.clock.advance(rest::REST_MAX);
    assert!(compactor.next().is_some(), "somebody may have repaired it");
}

#[tokio::test]
async fn nothing_is_claimed_twice_and_tenants_take_turns() {
    let bed = Bed::new();
    let names = ["a", "b", "c"].map(tenant);
    for window in 0..2 {
        for n in 0..2 {
            let spans: [Span; 1] = [(n, 1, START + window * HOUR)];
            for name in &names {
                bed.flush(&[(name, &spans)]).await;
            }
        }
    }
    bed.advance(4 * HOUR);
    let settings = CompactionSettings {
        jobs_max: 6,
        ..CompactionSettings::default()
    };
    let compactor = bed.compactor(settings, "scratch");
    let mut claims = Vec::new();
    while let Some(claim) = compactor.next() {
        claims.push(claim);
    }
    let turns: Vec<_> = claims.iter().map(|claim| claim.job().tenant.as_str()).collect();
    assert_eq!(turns, ["a", "b", "c", "a", "b", "c"]);
    claims.pop();
    assert_eq!(compactor.next().unwrap().job().tenant, names[2]);
    let off = CompactionSettings {
        enabled: false,
        ..CompactionSettings::default()
    };
    assert!(bed.compactor(off, "off").next().is_none());
}

#[tokio::test]
async fn so_many_merges_are_done_at_once() {
    let bed = Bed::new();
    for name in ["a", "b", "c", "d"] {
        let of = tenant(name);
        for n in 0..2 {
            bed.flush(&[(&of, &[(n, 1, START)])]).await;
        }
    }
    bed.advance(2 * HOUR);
    for jobs_max in 1..=3 {
        let settings = CompactionSettings {
            jobs_max,
            ..CompactionSettings::default()
        };
        let compactor = bed.compactor(settings, "scratch");
        let mut claims: Vec<_> = std::iter::from_fn(|| compactor.next()).collect();
        assert_eq!(claims.len(), jobs_max as usize);
        claims.pop();
        claims.extend(compactor.next());
        assert_eq!(claims.len(), jobs_max as usize, "one is over");
        assert!(compactor.next().is_none());
    }
    assert_eq!(CompactionSettings::default().jobs_max, 2);
}

#[tokio::test]
async fn small_memory_merges_few_at_a_time_and_loses_nothing() {
    let bed = Bed::new();
    let a = tenant("a");
    for n in 0..12 {
        let spans: Vec<Span> = (0..20).map(|id| (id % 5, id + n, START + u64::from(n))).collect();
        bed.flush(&[(&a, &spans)]).await;
    }
    let before = bed.traces(&a).await;
    bed.advance(2 * HOUR);
    let settings = CompactionSettings {
        input_blocks_max: 2,
        ..CompactionSettings::default()
    };
    let outcomes = merge_all(&bed.compactor(settings, "scratch")).await;
    assert_eq!((outcomes.len(), bed.view().block_count()), (11, 1));
    assert_eq!(bed.traces(&a).await, before);
}

#[tokio::test]
async fn a_start_empties_the_scratch_directory() {
    let bed = Bed::new();
    let left = bed.dir.path().join("scratch");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("half.parquet"), b"PAR1").unwrap();
    bed.compactor(CompactionSettings::default(), "scratch");
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0);
}

/// What happens to a tenant's blocks, in any order.
#[derive(Debug, Clone)]
enum Step {
    /// Spans as (trace, span id, hour).
    Flush(Vec<(u8, u8, u64)>),
    /// A merge by one of two nodes that know nothing of each other, or by both at once.
    Merge { by_one: bool, by_other: bool },
    /// Time goes on.
    Wait { minutes: u64 },
    /// The oldest block goes.
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let span = (0..12u8, 0..4u8, 0..3u64);
    prop_oneof![
        5 => proptest::collection::vec(span, 1..8).prop_map(Step::Flush),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(by_one, by_other)| Step::Merge { by_one, by_other }),
        2 => (1..90u64).prop_map(|minutes| Step::Wait { minutes }),
        1 => Just(Step::Expire),
    ]
}

/// Every trace that is in several blocks is listed by one of them, or a query would not join it.
async fn check_splits(bed: &Bed, of: &model::TenantId) {
    let view = bed.view();
    let listed = bed.blocks.listed_splits(&view, of);
    for n in 0..12 {
        let mut places = 0;
        for record in view.blocks_of(of) {
            let open = bed.blocks.open(&view, record).await.unwrap();
            places += usize::from(!open.block().trace(&trace(n)).await.unwrap().is_empty());
        }
        assert!(
            places < 2 || listed.contains(&trace(n)),
            "trace {n} is in {places} blocks"
        );
    }
}

async fn live(steps: Vec<Step>) {
    let bed = Bed::new();
    let a = tenant("a");
    let compactors = [
        bed.compactor(CompactionSettings::default(), "one"),
        bed.compactor(CompactionSettings::default(), "other"),
    ];
    for step in steps {
        let mut before = bed.traces(&a).await;
        match step {
            Step::Flush(spans) => {
                let spans: Vec<Span> = spans
                    .iter()
                    .map(|(trace, id, hour)| (*trace, *id, START + hour * HOUR))
                    .collect();
                bed.flush(&[(&a, &spans)]).await;
                let after = bed.traces(&a).await;
                for (trace, spans) in &before {
                    assert!(spans.iter().all(|span| after[trace].contains(span)));
                }
                before = after;
            }
            Step::Merge { by_one, by_other } => {
                let claims = (
                    by_one.then(|| compactors[0].next()),
                    by_other.then(|| compactors[1].next()),
                );
                let run = |n: usize, claim: Option<Option<Claim>>| {
                    let compactor = &compactors[n];
                    async move {
                        if let Some(claim) = claim.flatten() {
                            compactor.run(claim, never()).await.unwrap();
                        }
                    }
                };
                tokio::join!(run(0, claims.0), run(1, claims.1));
            }
            Step::Wait { minutes } => bed.advance(minutes * HOUR / 60),
            Step::Expire => {
                let ids = bed.view().blocks_of(&a).take(1).map(|block| block.id).collect();
                let reason = DeleteReason::Retention;
                bed.catalog.change(Command::Delete { ids, reason }).await.unwrap();
                before = bed.traces(&a).await;
            }
        }
        assert_eq!(bed.traces(&a).await, before);
        check_splits(&bed, &a).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_order_of_flushes_merges_and_deletions_changes_an_answer(steps in proptest::collection::vec(step(), 1..20)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(live(steps));
    }
}
