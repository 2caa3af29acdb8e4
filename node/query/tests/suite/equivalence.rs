//! The engine over chunks cut anywhere answers what the naive evaluator answers over all spans at once.

use std::collections::{BTreeMap, BTreeSet};

use model::TraceId;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use query::answer::{Place, TopTraces, TraceMatch};
use query::ast::{Body, Query};
use query::budget::Budget;
use query::source::TimeRange;
use query::{SearchPlan, SearchRequest, search_chunk};

use crate::chunk::MemoryChunk;
use crate::naive;
use crate::random::{any_query, any_spans};
use crate::spans::{Span, trace_id};

/// What the executor does, over chunks in memory.
pub(crate) fn execute(query: &Query, request: SearchRequest, chunks: &[Vec<Span>]) -> Vec<TraceMatch> {
    let plan = SearchPlan::new(query, request).unwrap();
    let again = query::parse(plan.text()).unwrap();
    assert_eq!(again, *query, "a peer plans the same query");
    let mut homes: BTreeMap<u8, BTreeSet<usize>> = BTreeMap::new();
    for (at, chunk) in chunks.iter().enumerate() {
        chunk.iter().for_each(|span| {
            homes.entry(span.trace).or_default().insert(at);
        });
    }
    let split: BTreeSet<_> = homes
        .iter()
        .filter(|(_, at)| at.len() > 1)
        .map(|(trace, _)| trace_id(*trace))
        .collect();
    let budget = Budget::default();
    let mut top = TopTraces::new(request.limit);
    let mut marked: BTreeMap<TraceId, (u64, query::Marks)> = BTreeMap::new();
    for (at, spans) in chunks.iter().enumerate() {
        let make = if at % 2 == 0 {
            MemoryChunk::preorder
        } else {
            MemoryChunk::arrival
        };
        let chunk = make(spans.clone());
        let has_split = spans.iter().any(|span| split.contains(&trace_id(span.trace)));
        if !plan.may_match(&chunk, has_split) {
            continue;
        }
        let finds = search_chunk(&plan, &chunk, &|id| split.contains(id), top.floor(), &budget).unwrap();
        finds.traces.into_iter().for_each(|found| {
            top.push(found);
        });
        for candidate in finds.split {
            assert!(split.contains(&candidate.trace_id));
            let known = marked.entry(candidate.trace_id);
            let (start, marks) = known.or_insert((u64::MAX, Default::default()));
            *start = candidate.start_unix_nanos.min(*start);
            marks.add(candidate.marks);
        }
    }
    marked.retain(|_, (_, marks)| plan.may_join(*marks));
    let joins: BTreeSet<Place> = marked.iter().map(|(id, (start, _))| Place::new(*start, *id)).collect();
    for place in joins {
        if top.floor().is_some_and(|floor| place > floor) {
            continue;
        }
        let whole: Vec<Span> = chunks
            .iter()
            .flatten()
            .filter(|span| trace_id(span.trace) == place.trace_id())
            .cloned()
            .collect();
        let chunk = MemoryChunk::arrival(whole);
        let finds = search_chunk(&plan, &chunk, &|_| false, top.floor(), &budget).unwrap();
        assert!(finds.split.is_empty());
        finds.traces.into_iter().for_each(|found| {
            top.push(found);
        });
    }
    top.into_vec()
}

/// Cuts spans into chunks at the given places.
pub(crate) fn cut(spans: &[Span], cuts: &[prop::sample::Index]) -> Vec<Vec<Span>> {
    let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut.index(spans.len() + 1)).collect();
    bounds.extend([0, spans.len()]);
    bounds.sort_unstable();
    bounds.windows(2).map(|pair| spans[pair[0]..pair[1]].to_vec()).collect()
}

/// A question over spans that are cut into chunks.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    spans: Vec<Span>,
    text: String,
    cuts: Vec<prop::sample::Index>,
    limit: usize,
    spans_per_spanset: usize,
    window: TimeRange,
}

pub(crate) fn any_case() -> impl Strategy<Value = Case> {
    let window = prop_oneof![
        2 => Just(TimeRange::ALWAYS),
        1 => (0..8u64, 0..4u64).prop_map(|(start, length)| TimeRange {
            start_unix_nanos: 998 + start,
            end_unix_nanos: 998 + start + length,
        }),
    ];
    let cuts = proptest::collection::vec(any::<prop::sample::Index>(), 0..3);
    (any_spans(), any_query(), cuts, 1..5usize, 0..3usize, window).prop_map(
        |(spans, text, cuts, limit, spans_per_spanset, window)| Case {
            spans,
            text,
            cuts,
            limit,
            spans_per_spanset,
            window,
        },
    )
}

/// The engine's answer and the naive one, and those of the page behind.
pub(crate) fn check(case: &Case) -> Result<(), TestCaseError> {
    let text = &case.text;
    let Ok(query) = query::parse(text) else {
        // by() without coalesce() before a spanset operator: refused on purpose.
        return Ok(());
    };
    let mut request = SearchRequest {
        window: case.window,
        limit: case.limit,
        spans_per_spanset: case.spans_per_spanset,
        after: None,
    };
    let chunks = cut(&case.spans, &case.cuts);
    let expected = naive::search(&query, &request, &case.spans);
    prop_assert_eq!(&execute(&query, request, &chunks), &expected, "{}", text);
    request.after = expected.last().map(TraceMatch::place);
    let expected = naive::search(&query, &request, &case.spans);
    prop_assert_eq!(
        execute(&query, request, &chunks),
        expected,
        "{} after {:?}",
        text,
        request.after
    );
    Ok(())
}

/// Queries beyond it take the naive evaluator too long.
const FUZZED_TEXT_MAX: usize = 512;

/// The same for a fuzzer: eight bytes throw the dice for spans, cuts and window, the rest is the query. Text that is no
/// query stands for one that the dice choose.
pub(crate) fn traceql_eval_vs_naive(bytes: &[u8]) {
    let Some((dice, text)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(dice);
    let dice = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), dice);
    let Ok(tree) = any_case().new_tree(&mut runner) else {
        return;
    };
    let mut case = tree.current();
    if let Ok(text) = std::str::from_utf8(text)
        && text.len() <= FUZZED_TEXT_MAX
        && query::parse(text).is_ok_and(|query| matches!(query.body, Body::Search(_)))
    {
        case.text = text.to_owned();
    }
    if let Err(error) = check(&case) {
        panic!("{error}\n{case:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_over_any_cut_answers_what_the_naive_evaluator_answers(case in any_case()) {
        check(&case)?;
    }
}

/// Once enough was found, of a chunk with many traces only the few that are newer are looked at.
#[test]
fn the_few_new_traces_among_many_are_found() {
    let of_trace = |trace: u8| {
        (1..=3u8).map(move |id| Span {
            trace,
            id,
            parent: if id == 1 { 0 } else { 1 },
            start: 1_000 + u64::from(trace) * 37 % 181 * 10 + u64::from(id),
            duration: i64::from(trace % 7) * i64::from(id),
            name: format!("op-{id}"),
            ..Span::default()
        })
    };
    let spans: Vec<Span> = (1..=180).flat_map(of_trace).collect();
    // The first and the third stand in preorder.
    let chunks: Vec<Vec<Span>> = spans.chunks(3 * 60).map(<[Span]>::to_vec).collect();
    for text in [
        "{}",
        "{ name = \"op-2\" }",
        "{ duration > 5ns }",
        "{ name != \"op-2\" && duration > 5ns }",
        "{ name = \"op-1\" } >> { duration > 10ns }",
        "{ kind = internal } | count() > 2",
    ] {
        let query = query::parse(text).unwrap();
        for limit in [1, 3, 10] {
            let request = SearchRequest {
                window: TimeRange::ALWAYS,
                limit,
                spans_per_spanset: 0,
                after: None,
            };
            let expected = naive::search(&query, &request, &spans);
            assert_eq!(expected.len(), limit, "{text}");
            assert_eq!(execute(&query, request, &chunks), expected, "{text}");
        }
    }
}
