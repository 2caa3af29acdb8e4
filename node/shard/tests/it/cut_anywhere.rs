//! The answer does not depend on where the cut falls: the same spans, live, spooled, in one block or in many, and traces
//! split between all of these, give the same answers.

use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::*;
use query::metrics::Intervals;
use query::source::TimeRange;
use shard::port::CatalogPort;

use crate::world::{NOW, SECOND, World, span};

/// What happens after a batch.
#[derive(Debug, Clone, Copy)]
enum Step {
    Nothing,
    /// The block stays in the spool: the object store is away.
    Cut,
    Flush,
}

const QUERIES: [&str; 12] = [
    "{}",
    "{ status = error }",
    "{ name = \"op-1\" && duration > 5ms }",
    "{ .flavour =~ \"f[12]\" }",
    "{ resource.service.name = \"service-0\" }",
    "{ rootName = \"op-0\" }",
    "{ traceDuration > 3s && kind = server }",
    "{ status = error } >> { name = \"op-1\" }",
    "{ .flavour = \"f1\" } && { .flavour = \"f2\" }",
    "{ name = \"op-0\" } | count() > 2",
    "{ kind != client } | by(.flavour) | count() > 1",
    "{ name = \"op-2\" } !> { status = error }",
];

const METRICS: [&str; 14] = [
    "{} | rate()",
    "{ status = error } | count_over_time() by(name, resource.service.name)",
    "{} | min_over_time(duration) by(kind)",
    "{} | max_over_time(duration)",
    "{} | sum_over_time(duration) by(span.flavour)",
    "{ kind != client } | avg_over_time(duration)",
    "{} | quantile_over_time(duration, .5, .99) by(name)",
    "{} | histogram_over_time(duration)",
    "{ rootName = \"op-0\" } | count_over_time() by(rootServiceName)",
    "{ status = error } >> { name = \"op-1\" } | count_over_time() by(span.flavour)",
    "{} | count_over_time() by(parent.span:name) | topk(2)",
    "{ .flavour = \"f1\" } && { .flavour = \"f2\" } | rate()",
    "{} | compare({ status = error }, 3)",
    "({ status = error } | count_over_time() by(name)) / ({} | count_over_time() by(name))",
];

/// A span is a function of its trace and number, so that a number drawn twice is a span sent twice. A tenth of the parents
/// never come, and children come before their parents as often as after.
fn spans() -> impl Strategy<Value = Vec<Span>> {
    let one = (0u8..6, 0u8..14).prop_map(|(trace, id)| {
        let parent = if id % 5 == 4 { 40 } else { (id ^ trace) % 14 };
        span(
            trace,
            id,
            parent,
            u64::from(trace) * 3 % 11 + u64::from(id) * 7 % 13,
            trace.wrapping_mul(5) ^ id,
        )
    });
    proptest::collection::vec(one, 1..8)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => Just(Step::Nothing), 1 => Just(Step::Cut), 1 => Just(Step::Flush)]
}

/// `unlisted`: one bit per block, oldest first; those blocks could not list which of their traces are split.
async fn check(batches: Vec<(Vec<Span>, Step)>, window: TimeRange, unlisted: u8) -> Result<(), TestCaseError> {
    let (mut plain, mut cut) = (World::new(), World::new());
    for (spans, step) in &batches {
        let one = plain.send(spans);
        let other = cut.send(spans);
        prop_assert_eq!((one.stored, one.duplicates), (other.stored, other.duplicates));
        match step {
            Step::Nothing => {}
            Step::Cut => {
                cut.flusher.cut().await.unwrap();
            }
            Step::Flush => cut.flush().await,
        }
    }
    let blocks: Vec<_> = cut
        .catalog
        .view()
        .blocks_of(&cut.tenant)
        .map(|record| record.id)
        .collect();
    for (position, id) in blocks.into_iter().enumerate() {
        if unlisted >> (position % 8) & 1 == 1 {
            cut.unlist(id);
        }
    }
    for trace in 0..6 {
        prop_assert_eq!(plain.trace(trace).await, cut.trace(trace).await, "trace {}", trace);
    }
    for query in QUERIES {
        let expected = plain.search(query, window).await;
        let found = cut.search(query, window).await;
        prop_assert_eq!(found.looked.missing, Vec::<String>::new());
        prop_assert_eq!(expected.traces, found.traces, "{}", query);
    }
    let (start, end) = (
        window.start_unix_nanos.max(NOW),
        window.end_unix_nanos.min(NOW + 40 * SECOND),
    );
    let range = Intervals::range(start, end.max(start + 1), 4 * SECOND).unwrap();
    let instant = Intervals::instant(start, end.max(start + 1)).unwrap();
    for query in METRICS {
        for intervals in [range, instant] {
            let (expected, _) = plain.measure(query, intervals).await;
            let (found, took) = cut.measure(query, intervals).await;
            prop_assert_eq!(took.looked.missing, Vec::<String>::new());
            prop_assert_eq!(expected, found, "{}", query);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn answers_are_the_same_wherever_the_cut_falls(
        batches in proptest::collection::vec((spans(), step()), 1..10),
        unlisted in prop_oneof![Just(0u8), any::<u8>()],
        window in prop_oneof![Just(None), (0u64..20, 0u64..6).prop_map(Some)],
    ) {
        let window = window.map_or(TimeRange::ALWAYS, |(start, length)| TimeRange {
            start_unix_nanos: NOW + start * SECOND,
            end_unix_nanos: NOW + (start + length) * SECOND,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(check(batches, window, unlisted))?;
    }
}
