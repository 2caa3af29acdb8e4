//! Metrics: golden files, and the engine over any cut against a naive count.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::prelude::*;
use query::ast::Query;
use query::budget::{Budget, Limits};
use query::metrics::{
    Elsewhere, Intervals, MetricsPartial, MetricsPlan, MetricsRequest, Series, SeriesSet, metrics_chunk,
};
use query::{Error, limits};

use crate::chunk::MemoryChunk;
use crate::golden::check_file;
use crate::span_text::read_spans;
use crate::spans::{Span, trace_id};
use crate::{equivalence, random, series};

/// What the executor does, over chunks in memory.
fn execute(query: &Query, request: MetricsRequest, chunks: &[Vec<Span>]) -> SeriesSet {
    let plan = MetricsPlan::new(query, request).unwrap();
    let mut homes: BTreeMap<u8, BTreeSet<usize>> = BTreeMap::new();
    for (at, chunk) in chunks.iter().enumerate() {
        for span in chunk {
            homes.entry(span.trace).or_default().insert(at);
        }
    }
    let split: BTreeSet<_> = homes
        .iter()
        .filter(|(_, at)| at.len() > 1)
        .map(|(trace, _)| trace_id(*trace))
        .collect();
    let budget = Budget::default();
    let mut partial = MetricsPartial::new(&plan);
    let mut joins = BTreeSet::new();
    let seen = RefCell::new(BTreeSet::new());
    let elsewhere = Elsewhere {
        is_split: &|id| split.contains(id),
        is_first: &|span| seen.borrow_mut().insert(span),
    };
    for (at, spans) in chunks.iter().enumerate() {
        let make = if at % 2 == 0 {
            MemoryChunk::preorder
        } else {
            MemoryChunk::arrival
        };
        let chunk = make(spans.clone());
        let has_split = spans.iter().any(|span| split.contains(&trace_id(span.trace)));
        if plan.may_match(&chunk, has_split) {
            let elsewhere = has_split.then_some(&elsewhere);
            let found = metrics_chunk(&plan, &chunk, elsewhere, Some(&partial), &budget).unwrap();
            assert!(plan.needs_whole_trace() || found.split.is_empty());
            partial.merge(found.partial, usize::MAX);
            joins.extend(found.split.iter().map(|candidate| candidate.trace_id));
        }
    }
    for id in joins {
        let mut once = BTreeSet::new();
        let whole = chunks
            .iter()
            .flatten()
            .filter(|span| trace_id(span.trace) == id && once.insert((span.trace, span.id)))
            .cloned()
            .collect();
        let found = metrics_chunk(&plan, &MemoryChunk::arrival(whole), None, None, &budget).unwrap();
        partial.merge(found.partial, usize::MAX);
    }
    partial.finish(&plan, &budget).unwrap()
}

fn describe(series: &[Series]) -> String {
    let mut out = String::new();
    for one in series {
        let labels: Vec<String> = one.labels.iter().map(|(k, v)| format!("{k}={}", v.display())).collect();
        let _ = write!(out, "{{{}}}", labels.join(", "));
        for (at, value) in &one.samples {
            let _ = write!(out, " {at}:{value}");
        }
        for exemplar in &one.exemplars {
            let _ = write!(
                out,
                " #{}@{}={}",
                exemplar.trace_id.0[15], exemplar.unix_nanos, exemplar.value
            );
        }
        out.push('\n');
    }
    if out.is_empty() { "nothing".to_owned() } else { out }
}

#[test]
fn metrics() {
    check_file("metrics.txt", measured);
}

#[test]
fn metrics_of_what_was_sampled() {
    check_file("sampled.txt", measured);
}

fn measured(data: &str, text: &str) -> String {
    let query = match query::parse(text) {
        Ok(query) => query,
        Err(error) => return error.to_string(),
    };
    let (intervals, exemplars) = match query.hints.iter().find(|hint| hint.key == "instant") {
        Some(_) => (Intervals::instant(900, 3100).unwrap(), 0),
        None => (Intervals::range(1000, 3000, 1000).unwrap(), 0),
    };
    match MetricsPlan::new(&query, MetricsRequest { intervals, exemplars }) {
        Ok(_) => {}
        Err(error) => return error.to_string(),
    }
    let request = MetricsRequest { intervals, exemplars };
    describe(&execute(&query, request, &[read_spans(data)]).series)
}

#[test]
fn intervals_are_right_closed_and_aligned() {
    let range = Intervals::range(25, 41, 10).unwrap();
    let stamps: Vec<u64> = (0..range.count()).map(|i| range.timestamp_unix_nanos(i)).collect();
    assert_eq!(stamps, [20, 30, 40, 50]);
    let index = |t| range.index(t);
    assert_eq!(
        [index(10), index(11), index(20), index(21), index(30)],
        [None, Some(0), Some(0), Some(1), Some(1)]
    );
    assert_eq!([index(50), index(51)], [Some(3), None]);
    assert_eq!(range.window().start_unix_nanos..=range.window().end_unix_nanos, 11..=50);
    let instant = Intervals::instant(25, 41).unwrap();
    assert_eq!(
        [24, 25, 41, 42].map(|t| instant.index(t)),
        [None, Some(0), Some(0), None]
    );
    assert_eq!(instant.timestamp_unix_nanos(0), 41);
}

#[test]
fn the_number_of_intervals_is_bounded() {
    let of = |count: u64| Intervals::range(0, count - 1, 1);
    assert!(of(limits::INTERVALS_MAX as u64 - 1).is_ok());
    assert!(of(limits::INTERVALS_MAX as u64).is_ok());
    assert!(matches!(
        of(limits::INTERVALS_MAX as u64 + 1),
        Err(Error::Parameter { parameter: "step", .. })
    ));
    assert!(Intervals::range(5, 5, 1).is_err());
    assert!(Intervals::range(5, 6, 0).is_err());
    assert!(Intervals::range(0, u64::MAX, u64::MAX).is_ok());
}

#[test]
fn a_step_is_chosen_by_the_length_of_the_range() {
    const S: u64 = 1_000_000_000;
    let auto = |seconds: u64| Intervals::auto_step_nanos(S, S + seconds * S);
    assert_eq!([auto(1), auto(30)], [50_000_000, 100_000_000]);
    assert_eq!(
        [auto(60), auto(3600), auto(6 * 3600)],
        [S, 15 * S, 60 * S + 30 * S - 30 * S]
    );
    assert_eq!(
        [auto(86_400), auto(7 * 86_400), auto(240 * 3600)],
        [300 * S, 2400 * S, 3600 * S]
    );
}

#[test]
fn too_many_series_leave_the_smallest_labels_in_any_order() {
    let query = query::parse("{ } | count_over_time() by(span.n)").unwrap();
    let intervals = Intervals::range(1000, 2000, 1000).unwrap();
    let plan = MetricsPlan::new(
        &query,
        MetricsRequest {
            intervals,
            exemplars: 0,
        },
    )
    .unwrap();
    let budget = Budget::default();
    let part = |n: u8| {
        let spans = read_spans(&format!("{n}.1 1000+1 a span.n={n}"));
        metrics_chunk(&plan, &MemoryChunk::arrival(spans), None, None, &budget)
            .unwrap()
            .partial
    };
    let answer = |order: [u8; 5]| {
        let mut all = MetricsPartial::new(&plan);
        order.iter().for_each(|n| all.merge(part(*n), 2));
        let set = all.finish(&plan, &budget).unwrap();
        (describe(&set.series), set.is_cut)
    };
    let expected = ("{span.n=1} 1000:2 2000:0\n{span.n=2} 1000:1 2000:0\n".to_owned(), true);
    assert_eq!(answer([1, 2, 3, 4, 1]), expected);
    assert_eq!(answer([4, 1, 3, 1, 2]), expected);
    let mut few = MetricsPartial::new(&plan);
    for (n, is_cut) in [(1, false), (2, false), (3, true)] {
        few.merge(part(n), 2);
        assert_eq!(few.is_cut(), is_cut, "{n}");
    }
}

#[test]
fn series_are_made_within_the_memory_of_the_query() {
    let spans = read_spans(
        &(1..=5)
            .map(|n| format!("{n}.1 1000+1 a span.n={n}\n"))
            .collect::<String>(),
    );
    let query = query::parse("{ } | count_over_time() by(span.n)").unwrap();
    let request = MetricsRequest {
        intervals: Intervals::range(1000, 2000, 10).unwrap(),
        exemplars: 0,
    };
    let plan = MetricsPlan::new(&query, request).unwrap();
    let found = metrics_chunk(&plan, &MemoryChunk::arrival(spans), None, None, &Budget::default()).unwrap();
    let points = request.intervals.count() as u64;
    let finish = |memory_max: u64| {
        let budget = Budget::new(Limits {
            memory_max,
            ..Limits::default()
        });
        let made = found.partial.finish(&plan, &budget).map(|set| set.series.len());
        made.map_err(|error| error.to_string())
    };
    let needed = 5 * points * 24;
    assert_eq!((finish(needed + 1), finish(needed)), (Ok(5), Ok(5)));
    let refused = format!("query exceeds query_memory_max: {} bytes of memory", needed - 1);
    assert_eq!(finish(needed - 1), Err(refused));
}

#[test]
fn exemplars_do_not_depend_on_the_cut() {
    let text: String = (1..20)
        .map(|n| format!("{n}.1 {}+{n} a span.n={}\n", 1000 + n * 50, n % 2))
        .collect();
    let spans = read_spans(&text);
    let request = MetricsRequest {
        intervals: Intervals::range(1000, 2000, 100).unwrap(),
        exemplars: 4,
    };
    for text in [
        "{ } | rate() by(span.n)",
        "{ } | quantile_over_time(duration, 0.1, 0.9)",
        "{ } | max_over_time(duration)",
    ] {
        let query = query::parse(text).unwrap();
        let whole = execute(&query, request, std::slice::from_ref(&spans));
        let shown: usize = whole.series.iter().map(|one| one.exemplars.len()).sum();
        assert_eq!(shown, 4, "{text}");
        let parts: Vec<Vec<Span>> = spans.chunks(3).map(<[Span]>::to_vec).collect();
        assert_eq!(execute(&query, request, &parts), whole, "{text}");
    }
}

/// Puts spans into one more chunk each: they were sent twice, and far enough apart.
fn double(mut chunks: Vec<Vec<Span>>, spans: &[Span], doubles: &[prop::sample::Index]) -> Vec<Vec<Span>> {
    for double in doubles {
        let span = &spans[double.index(spans.len())];
        let is_same = |other: &Span| (other.trace, other.id) == (span.trace, span.id);
        if let Some(chunk) = chunks.iter_mut().find(|chunk| !chunk.iter().any(is_same)) {
            chunk.push(span.clone());
        }
    }
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, ..ProptestConfig::default() })]

    #[test]
    fn metrics_over_any_cut_are_what_a_naive_count_gives(
        spans in random::any_spans(),
        text in random::any_metrics(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..3),
        doubles in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        step in 1..4u64,
    ) {
        let Ok(query) = query::parse(&text) else { return Ok(()) };
        let intervals = Intervals::range(1001, 1004, step).unwrap();
        let chunks = double(equivalence::cut(&spans, &cuts), &spans, &doubles);
        let answer = execute(&query, MetricsRequest { intervals, exemplars: 0 }, &chunks);
        let expected = series::series(&query, &intervals, &spans);
        series::compare(&text, answer.series, expected).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn compare_histograms_and_maths_do_not_depend_on_the_cut(
        spans in random::any_spans(),
        filter in random::any_filter(),
        selection in random::any_filter(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 1..3),
        doubles in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        form in 0..4usize,
    ) {
        let text = match form {
            0 => format!("{filter} | compare({selection}, 3)"),
            1 => format!("{filter} | histogram_over_time(duration) by(name)"),
            2 => format!("({filter} | rate() by(name)) / ({selection} | rate() by(name)) | topk(2)"),
            _ => format!("({filter} | count_over_time() by(.x)) - 2 * ({selection} | count_over_time()) > -3"),
        };
        let Ok(query) = query::parse(&text) else { return Ok(()) };
        let request = MetricsRequest { intervals: Intervals::range(1001, 1004, 2).unwrap(), exemplars: 2 };
        let whole = execute(&query, request, std::slice::from_ref(&spans));
        let chunks = double(equivalence::cut(&spans, &cuts), &spans, &doubles);
        prop_assert_eq!(execute(&query, request, &chunks), whole, "{}", text);
    }
}
