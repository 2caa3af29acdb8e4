//! What folding keeps, whatever the spans look like.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wire::tempopb::trace::v1::Status;

use super::*;

fn pruning(group_by: &str, spans_min: i64, parent_levels: i64) -> Pruning {
    Pruning::new(Some(group_by), Some(spans_min), Some(parent_levels)).unwrap()
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        }),
    }
}

/// A span of so many milliseconds that starts at its id.
fn span(id: u8, parent: u8, name: &str, millis: u64) -> Span {
    let id_of = |id: u8| {
        if id == 0 {
            Vec::new()
        } else {
            vec![0, 0, 0, 0, 0, 0, 0, id]
        }
    };
    let start = u64::from(id) * 1_000_000;
    Span {
        trace_id: vec![7; 16],
        span_id: id_of(id),
        parent_span_id: id_of(parent),
        name: name.to_owned(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + millis * 1_000_000,
        ..Span::default()
    }
}

fn failed(mut span: Span) -> Span {
    span.status = Some(Status {
        code: 2,
        message: String::new(),
    });
    span
}

fn with(mut span: Span, key: &str, value: &str) -> Span {
    span.attributes.push(text(key, value));
    span
}

fn trace(spans: Vec<Span>) -> Trace {
    let scope = ScopeSpans {
        spans,
        ..ScopeSpans::default()
    };
    Trace {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![scope],
            ..ResourceSpans::default()
        }],
    }
}

fn attribute<'a>(span: &'a Span, name: &str) -> Option<&'a Value> {
    let pair = span.attributes.iter().find(|pair| pair.key == name)?;
    pair.value.as_ref()?.value.as_ref()
}

fn count(span: &Span) -> Option<i64> {
    match attribute(span, "aggregation.span_count") {
        Some(Value::IntValue(count)) => Some(*count),
        _ => None,
    }
}

/// The tree as text: names, how many spans a summary stands for, what is below in brackets.
fn told(trace: &Trace) -> String {
    let mut below: BTreeMap<&[u8], Vec<&Span>> = BTreeMap::new();
    for span in spans(trace) {
        below.entry(&span.parent_span_id).or_default().push(span);
    }
    fn tell(of: &[u8], below: &BTreeMap<&[u8], Vec<&Span>>) -> String {
        let spans = below.get(of).map(Vec::as_slice).unwrap_or_default();
        let mut told: Vec<String> = spans
            .iter()
            .map(|span| {
                let error = if span.status.as_ref().is_some_and(|status| status.code == 2) {
                    "!"
                } else {
                    ""
                };
                let times = count(span).map_or(String::new(), |count| format!(" x{count}"));
                match tell(&span.span_id, below) {
                    inner if inner.is_empty() => format!("{}{error}{times}", span.name),
                    inner => format!("{}{error}{times}({inner})", span.name),
                }
            })
            .collect();
        told.sort();
        told.join(", ")
    }
    tell(&[], &below)
}

fn pruned(pruning: &Pruning, spans: Vec<Span>) -> String {
    let mut trace = trace(spans);
    pruning.apply(&mut trace);
    told(&trace)
}

#[test]
fn leaves_that_are_alike_become_one_that_says_how_many_and_how_long() {
    let mut trace = trace(vec![
        span(1, 0, "root", 400),
        span(2, 1, "SELECT", 5),
        with(span(3, 1, "SELECT", 150), "db.rows", "most"),
        span(4, 1, "SELECT", 15),
        span(5, 1, "SELECT", 25),
        span(6, 1, "SELECT", 75),
        span(7, 1, "INSERT", 9),
    ]);
    assert_eq!(Pruning::new(None, None, None).unwrap().apply(&mut trace), Pruned::Here);
    assert_eq!(told(&trace), "root(INSERT, SELECT x5)");
    let summary = spans(&trace).find(|span| count(span).is_some()).unwrap();
    assert_eq!(
        (summary.start_time_unix_nano, summary.end_time_unix_nano),
        (2_000_000, 153_000_000),
        "the window of all of them"
    );
    assert!(spans(&trace).filter(|span| span.span_id == summary.span_id).count() == 1 && summary.span_id.len() == 8);
    let int = |value: i64| Value::IntValue(value);
    for (name, value) in [
        ("db.rows", Value::StringValue("most".to_owned())),
        ("aggregation.is_summary", Value::BoolValue(true)),
        ("aggregation.span_count", int(5)),
        ("aggregation.duration_min_ns", int(5_000_000)),
        ("aggregation.duration_max_ns", int(150_000_000)),
        ("aggregation.duration_total_ns", int(270_000_000)),
        ("aggregation.duration_avg_ns", int(54_000_000)),
        (
            "aggregation.histogram_bucket_bounds_s",
            list([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0].map(Value::DoubleValue)),
        ),
        (
            "aggregation.histogram_bucket_counts",
            list([1, 1, 3, 3, 4, 5, 5, 5, 5, 5, 5, 5].map(int)),
        ),
    ] {
        assert_eq!(attribute(summary, name), Some(&value), "{name}");
    }
}

#[test]
fn what_must_be_the_same_for_spans_to_be_alike() {
    let of = |change: fn(Span) -> Span| {
        let leaves = [
            span(2, 1, "a", 1),
            span(3, 1, "a", 1),
            change(span(4, 1, "a", 1)),
            change(span(5, 1, "a", 1)),
        ];
        let spans = [span(1, 0, "root", 9)].into_iter().chain(leaves).collect();
        pruned(&pruning("db.*, http.method", 2, 0), spans)
    };
    assert_eq!(of(|span| span), "root(a x4)");
    assert_eq!(of(failed), "root(a x2, a! x2)");
    let apart = "root(a x2, a x2)";
    assert_eq!(of(|span| Span { kind: 3, ..span }), apart);
    assert_eq!(
        of(|span| Span {
            trace_state: "ot=th:8".to_owned(),
            ..span
        }),
        apart
    );
    assert_eq!(of(|span| with(span, "db.name", "x")), apart);
    assert_eq!(of(|span| with(span, "http.method", "GET")), apart);
    assert_eq!(
        of(|span| with(span, "http.methods", "GET")),
        "root(a x4)",
        "whole names"
    );
    assert_eq!(of(|span| with(span, "peer", "x")), "root(a x4)", "not asked for");
}

#[test]
fn so_many_are_folded_and_one_fewer_are_not() {
    let of = |leaves: u8, spans_min: Option<i64>| {
        let leaves = (2..2 + leaves).map(|id| span(id, 1, "a", 1));
        let spans = [span(1, 0, "root", 9)].into_iter().chain(leaves).collect();
        pruned(&Pruning::new(None, spans_min, None).unwrap(), spans)
    };
    assert_eq!(of(4, None), "root(a, a, a, a)");
    assert_eq!(of(5, None), "root(a x5)");
    assert_eq!(of(2, Some(3)), "root(a, a)");
    assert_eq!(of(3, Some(3)), "root(a x3)");
}

/// Two levels above ten leaves, and parents that must stay: a leaf that is not folded hangs below one of them.
#[test]
fn parents_whose_children_are_all_folded_are_folded_level_by_level() {
    let tree = || {
        let mut spans = vec![span(1, 0, "root", 90)];
        for at in 0..4 {
            spans.push(span(10 + at, 1, "batch", 20));
            spans.push(span(20 + at, 10 + at, "handler", 10));
            spans.push(span(30 + at, 20 + at, "SELECT", 1));
        }
        spans.push(span(40, 23, "odd", 1));
        spans.push(span(50, 1, "worker", 1));
        spans.push(span(51, 50, "SELECT", 1));
        spans
    };
    let of = |levels| pruned(&pruning("", 3, levels), tree());
    assert_eq!(
        of(0),
        "root(batch(handler(SELECT x4)), batch(handler(odd)), batch(handler), batch(handler), worker(SELECT))"
    );
    assert_eq!(
        of(1),
        "root(batch, batch, batch(handler x3(SELECT x4)), batch(handler(odd)), worker(SELECT))"
    );
    let all = "root(batch x3(handler x3(SELECT x4)), batch(handler(odd)), worker(SELECT))";
    assert_eq!(of(2), all);
    assert_eq!(of(-1), all, "the root stays");
}

#[test]
fn a_trace_that_holds_summaries_is_not_folded_again() {
    let leaves = || (2..9).map(|id| span(id, 1, "a", 1));
    let mut once = trace([span(1, 0, "root", 9)].into_iter().chain(leaves()).collect());
    let pruning = pruning("", 2, 1);
    assert_eq!(pruning.apply(&mut once), Pruned::Here);
    let mut twice = once.clone();
    assert_eq!(pruning.apply(&mut twice), Pruned::BeforeItCame);
    assert_eq!(once, twice);
    let mut few = trace(vec![span(1, 0, "root", 9), span(2, 1, "a", 1)]);
    assert_eq!(pruning.apply(&mut few), Pruned::Unchanged);
}

#[test]
fn what_is_asked_for_wrongly_is_named() {
    for (group_by, spans_min, levels, words) in [
        (Some("db.["), None, None, "span_pruning_group_by"),
        (None, Some(1), None, "span_pruning_min_spans"),
        (None, Some(-5), None, "span_pruning_min_spans"),
        (None, None, Some(-2), "span_pruning_max_parent_depth"),
    ] {
        let error = Pruning::new(group_by, spans_min, levels).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let patterns = |count: usize| vec!["a*"; count].join(",");
    Pruning::new(Some(&patterns(PATTERNS_MAX)), None, None).unwrap();
    Pruning::new(Some(&patterns(PATTERNS_MAX + 1)), None, None).unwrap_err();
}

fn any_spans() -> impl Strategy<Value = Vec<Span>> {
    let any = (1..24u8, 0..24u8, "[ab]", 0..200u64);
    prop::collection::vec(any, 0..40).prop_map(|spans| {
        let of = |(id, parent, name, millis): (u8, u8, String, u64)| span(id, parent, &name, millis);
        spans.into_iter().map(of).collect()
    })
}

proptest! {
    /// Ids that stand twice, circles, orphans: whatever the shape, every span is there or counted, once.
    #[test]
    fn every_span_is_there_or_counted(spans in any_spans(), spans_min in 2..5i64, levels in -1..3i64) {
        let (mut folded, mut again) = (trace(spans.clone()), trace(spans.clone()));
        let pruning = pruning("", spans_min, levels);
        let pruned = pruning.apply(&mut folded);
        pruning.apply(&mut again);
        prop_assert_eq!(&folded, &again);
        let counted: i64 = super::spans(&folded).map(|span| count(span).unwrap_or(1)).sum();
        prop_assert_eq!(counted as usize, spans.len());
        prop_assert_eq!(pruned == Pruned::Here, super::spans(&folded).any(|span| count(span).is_some()));
        // What a span hung below before, it or its summary hangs below now.
        let ids = |trace: &Trace| super::spans(trace).map(|span| span.span_id.clone()).collect::<HashSet<_>>();
        let (before, after) = (ids(&trace(spans)), ids(&folded));
        for span in super::spans(&folded) {
            prop_assert!(!before.contains(&span.parent_span_id) || after.contains(&span.parent_span_id));
        }
    }
}
