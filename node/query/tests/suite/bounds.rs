//! Budgets, cancelling, and merging of answers at their limits.

use query::answer::{Place, ServiceStats, TopTraces, TraceMatch};
use query::budget::{Budget, Limits};
use query::source::TimeRange;
use query::{ChunkFinds, Error, Kind, Result, SearchPlan, SearchRequest, search_chunk};

use crate::chunk::MemoryChunk;
use crate::spans::{Span, trace_id};

/// One trace of `n` spans, each the child of the one before.
fn chain(n: u8) -> Vec<Span> {
    (1..=n)
        .map(|id| Span {
            id,
            parent: id - 1,
            start: 1000 + u64::from(id),
            ..Span::default()
        })
        .collect()
}

fn request(limit: usize) -> SearchRequest {
    SearchRequest {
        window: TimeRange::ALWAYS,
        limit,
        spans_per_spanset: 3,
        after: None,
    }
}

fn search(text: &str, spans: Vec<Span>, budget: &Budget) -> Result<ChunkFinds> {
    let plan = SearchPlan::new(&query::parse(text)?, request(20))?;
    search_chunk(&plan, &MemoryChunk::preorder(spans), &|_| false, None, budget)
}

#[test]
fn a_cancelled_question_stops() {
    let budget = Budget::default();
    budget.cancel();
    let error = search("{ name = \"op\" }", chain(3), &budget).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
}

#[test]
fn spans_looked_at_are_bounded() {
    let of = |spans_max: u64| {
        let budget = Budget::new(Limits {
            spans_max,
            ..Limits::default()
        });
        search("{ name = \"op\" }", chain(9), &budget).map(|finds| finds.traces.len())
    };
    assert_eq!(of(10).unwrap(), 1);
    assert_eq!(of(9).unwrap(), 1);
    let error = of(8).unwrap_err();
    assert_eq!(error.kind(), Kind::TooExpensive);
    assert_eq!(error.to_string(), "query exceeds query_spans_max: 8 spans");
}

#[test]
fn join_steps_are_bounded_per_trace() {
    let of = |join_steps_max: u64| {
        let budget = Budget::new(Limits {
            join_steps_max,
            ..Limits::default()
        });
        search("{ } >> { } >> { }", chain(10), &budget).map(|finds| finds.traces.len())
    };
    assert_eq!(of(21).unwrap(), 1);
    assert_eq!(of(20).unwrap(), 1);
    assert!(matches!(
        of(19),
        Err(Error::Exhausted {
            what: "join steps in one trace",
            limit: 19,
            ..
        })
    ));
}

#[test]
fn answers_are_bounded() {
    let finds = search("{ }", chain(9), &Budget::default()).unwrap();
    assert_eq!(finds.traces[0].spansets[0].matched, 9);
    assert_eq!(finds.traces[0].spansets[0].spans.len(), 3);
    let budget = Budget::new(Limits {
        memory_max: 100,
        ..Limits::default()
    });
    assert_eq!(search("{ }", chain(9), &budget).unwrap_err().kind(), Kind::TooExpensive);
}

#[test]
fn requests_out_of_bounds_are_refused() {
    let query = query::parse("{ }").unwrap();
    let refused = |request| SearchPlan::new(&query, request).unwrap_err().to_string();
    assert_eq!(refused(request(0)), "limit: must be at least 1");
    let window = TimeRange {
        start_unix_nanos: 2,
        end_unix_nanos: 1,
    };
    assert_eq!(
        refused(SearchRequest { window, ..request(1) }),
        "end: must not be before start"
    );
}

#[test]
fn a_trace_that_cannot_be_elsewhere_is_known() {
    let only = |text: &str| {
        SearchPlan::new(&query::parse(text).unwrap(), request(1))
            .unwrap()
            .only_trace()
    };
    let id = trace_id(7);
    assert_eq!(
        only(&format!("{{ trace:id = \"{id}\" && name = \"x\" }} | count() > 1")),
        Some(id)
    );
    assert_eq!(only(&format!("{{ trace:id = \"{id}\" || name = \"x\" }}")), None);
    assert_eq!(only(&format!("{{ trace:id = \"{id}\" }} || {{ name = \"x\" }}")), None);
}

fn found(n: u8, start_unix_nanos: u64) -> TraceMatch {
    TraceMatch {
        trace_id: trace_id(n),
        start_unix_nanos,
        duration_nanos: u64::from(n),
        root: None,
        spansets: Vec::new(),
        services: [(
            "a".to_owned(),
            ServiceStats {
                span_count: u32::from(n),
                error_count: 1,
            },
        )]
        .into(),
    }
}

#[test]
fn the_newest_traces_stay_in_any_order() {
    let of = |order: &[(u8, u64)]| {
        let mut top = TopTraces::new(2);
        for (n, start) in order {
            top.push(found(*n, *start));
        }
        assert_eq!(top.floor(), Some(Place::new(7, trace_id(2))));
        top.into_vec().iter().map(|t| t.trace_id.0[15]).collect::<Vec<_>>()
    };
    // Equal starts go by id.
    assert_eq!(of(&[(1, 5), (2, 7), (3, 7), (4, 9)]), [4, 2]);
    assert_eq!(of(&[(4, 9), (3, 7), (2, 7), (1, 5)]), [4, 2]);
    let mut few = TopTraces::new(2);
    assert!(few.push(found(1, 5)));
    assert_eq!(few.floor(), None);
}

#[test]
fn two_finds_of_one_trace_become_one() {
    let mut top = TopTraces::new(2);
    top.push(found(1, 5));
    let mut other = found(1, 3);
    other.duration_nanos = 9;
    other.services.insert(
        "b".to_owned(),
        ServiceStats {
            span_count: 2,
            error_count: 0,
        },
    );
    top.push(other);
    let all = top.into_vec();
    assert_eq!(all.len(), 1);
    assert_eq!(
        (all[0].start_unix_nanos, all[0].duration_nanos, all[0].services.len()),
        (3, 9, 2)
    );
}
