//! Whatever happened to a cluster, its bucket says what was flushed.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use settings::CompactionSettings;
use tokio::sync::watch;

use super::*;
use crate::catalog::{Command, DeleteReason};
use crate::housekeeping::bed::{Bed, DAY, HOUR, START, Span, tenant};
use crate::manifest::tests::dropped;
use crate::port::CatalogPort as _;
use crate::retention::Retention;

#[derive(Debug, Clone)]
enum Step {
    /// Spans of two tenants; first an upload of the same range that nobody names?
    Flush {
        twice: bool,
        both: bool,
    },
    /// A range without spans is covered.
    Empty,
    Merge,
    Fold,
    /// Hours pass, and objects whose time has come are deleted.
    Wait(u64),
    /// The oldest block of the first tenant is deleted.
    Drop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (any::<bool>(), any::<bool>()).prop_map(|(twice, both)| Step::Flush { twice, both }),
        1 => Just(Step::Empty),
        2 => Just(Step::Merge),
        3 => Just(Step::Fold),
        3 => (1u64..40).prop_map(Step::Wait),
        1 => Just(Step::Drop),
    ]
}

type Traces = BTreeMap<model::TraceId, Vec<Vec<u8>>>;

async fn traces(bed: &Bed) -> [Traces; 2] {
    [bed.traces(&tenant("a")).await, bed.traces(&tenant("b")).await]
}

fn spans(view: &CatalogView) -> u64 {
    let blocks = view.tenants().flat_map(|(_, blocks)| blocks.iter());
    blocks.map(|record| record.spans).sum()
}

async fn run(steps: &[Step], folds_at_end: bool) {
    let bed = Bed::new();
    let (a, b) = (tenant("a"), tenant("b"));
    let folder = bed.folder();
    let retention = Retention {
        is_dropped: dropped(&folder),
        ..bed.retention()
    };
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    let mut span = 0u8;
    let mut dropped = 0;
    for step in steps.iter().chain(folds_at_end.then_some(&Step::Fold)) {
        match step {
            Step::Flush { twice, both } => {
                span += 1;
                let spans: [Span; 2] = [(span % 7, span, START), (span % 5, span, START + 1)];
                let tenants: &[(_, &[Span])] = &[(&a, &spans), (&b, &spans)];
                let tenants = if *both { tenants } else { &tenants[..1] };
                if *twice {
                    bed.upload(tenants).await;
                }
                bed.flush(tenants).await;
            }
            Step::Empty => {
                let from = bed.view().watermark(crate::housekeeping::bed::GROUP).unwrap();
                let command = Command::AddBlock {
                    group: crate::housekeeping::bed::GROUP,
                    from,
                    to: LogIndex(from.0 + 3),
                    object: None,
                    records: Vec::new(),
                };
                bed.catalog.inner.change(command).await.unwrap();
            }
            Step::Merge => {
                let (_told, tell) = watch::channel(false);
                while let Some(claim) = compactor.next() {
                    compactor.run(claim, tell.clone()).await.unwrap();
                }
            }
            Step::Fold => {
                folder.run().await.unwrap();
            }
            Step::Wait(hours) => {
                bed.advance(hours * HOUR);
                retention.run(&|_| Duration::MAX).await.unwrap();
            }
            Step::Drop => {
                let ids: Vec<_> = bed.view().blocks_of(&a).map(|record| record.id).take(1).collect();
                dropped += ids.len();
                let reason = DeleteReason::Operator;
                bed.catalog.inner.change(Command::Delete { ids, reason }).await.unwrap();
            }
        }
    }
    let names = Arc::clone(&bed.names);
    let rebuilt = rebuild(&bed.store, 7, RebuildOptions::default(), &|| names.next()).await;
    let Rebuilt {
        catalog,
        next_generation,
        report,
    } = match rebuilt {
        Ok(rebuilt) => rebuilt,
        // Merges before the first fold, and nothing was deleted since.
        Err(Error::Folded { why, .. }) if why.starts_with("is empty") && !folds_at_end => return,
        Err(error) => panic!("{error}"),
    };
    assert_eq!((&report.lost, &report.unreadable), (&Vec::new(), &Vec::new()));
    assert!(next_generation.0 >= 2 || span == 0);
    let (there, then) = (spans(&bed.view()), traces(&bed).await);
    assert_eq!(report.spans, spans(catalog.view()));
    let again = Bed::with(&bed, catalog);
    let now = traces(&again).await;
    if folds_at_end || dropped == 0 {
        assert_eq!((report.spans, now), (there, then));
    } else {
        // What was dropped after the last fold is back; the rest is as it was.
        for (then, now) in then.iter().zip(&now) {
            for (trace, spans) in then {
                assert!(spans.iter().all(|span| now[trace].contains(span)));
            }
        }
    }
    // Nothing is unknown: what nobody names will be collected.
    assert_eq!(again.collector().run().await.unwrap().unknown, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_bucket_says_what_was_flushed(
        steps in prop::collection::vec(step(), 1..24),
        folds_at_end in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(&steps, folds_at_end));
    }

    #[test]
    fn no_choice_of_ranges_holds_more(
        ranges in prop::collection::vec((0u64..12, 1u64..6, 0u64..9), 0..9)
    ) {
        let ranges: Vec<_> = ranges.into_iter().map(|(from, length, weight)| (from..from + length, weight)).collect();
        let weight = |chosen: &BTreeSet<usize>| chosen.iter().map(|n| ranges[*n].1).sum::<u64>();
        let is_disjoint = |chosen: &BTreeSet<usize>| {
            let pairs = chosen.iter().flat_map(|one| chosen.iter().map(move |other| (*one, *other)));
            pairs.filter(|(one, other)| one != other).all(|(one, other)| {
                let (one, other) = (&ranges[one].0, &ranges[other].0);
                one.end <= other.start || other.end <= one.start
            })
        };
        let every = (0u32..1 << ranges.len()).map(|bits| (0..ranges.len()).filter(|n| bits >> n & 1 == 1).collect());
        let best = every.filter(is_disjoint).map(|chosen: BTreeSet<usize>| weight(&chosen)).max();
        let chosen = heaviest_disjoint(&ranges);
        prop_assert!(is_disjoint(&chosen));
        prop_assert_eq!(Some(weight(&chosen)), best);
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_and_kept() {
    let bed = Bed::new();
    let a = tenant("a");
    bed.flush(&[(&a, &[(1, 1, START)])]).await;
    let gone = bed.flush(&[(&a, &[(2, 1, START)])]).await[0];
    let view = bed.view();
    let gone = &view.object(view.block(gone).unwrap().object).unwrap().path;
    bed.store.upload(gone, "half a block".into()).await.unwrap();
    let names = Arc::clone(&bed.names);
    let rebuilt = rebuild(&bed.store, 7, RebuildOptions::default(), &|| names.next())
        .await
        .unwrap();
    assert_eq!(rebuilt.report.blocks_since, 1);
    let [(key, why)] = &rebuilt.report.unreadable[..] else {
        panic!("{:?}", rebuilt.report)
    };
    assert!(**key == **gone && why.contains("parquet footer"), "{key}: {why}");
    bed.advance(2 * DAY);
    let again = Bed::with(&bed, rebuilt.catalog);
    let run = again.collector().run().await.unwrap();
    assert_eq!((run.unknown, run.orphans_deleted), (1, 0));
}

#[tokio::test]
async fn without_a_root_merged_blocks_are_taken_only_on_demand() {
    let bed = Bed::new();
    let a = tenant("a");
    bed.flush(&[(&a, &[(1, 1, START)])]).await;
    bed.flush(&[(&a, &[(2, 1, START)])]).await;
    bed.advance(2 * HOUR);
    let compactor = bed.compactor(CompactionSettings::default(), "scratch");
    let (_told, tell) = watch::channel(false);
    compactor.run(compactor.next().unwrap(), tell).await.unwrap();
    let names = Arc::clone(&bed.names);
    let refused = rebuild(&bed.store, 7, RebuildOptions::default(), &|| names.next()).await;
    assert!(refused.unwrap_err().to_string().contains("merged blocks"));
    let options = RebuildOptions { without_root: true };
    let rebuilt = rebuild(&bed.store, 7, options, &|| names.next()).await.unwrap();
    assert_eq!(
        (rebuilt.report.blocks_since, rebuilt.report.spans),
        (3, 4),
        "both, and so twice"
    );
    let again = Bed::with(&bed, rebuilt.catalog);
    assert_eq!(bed.traces(&a).await, again.traces(&a).await);
}
