//! The engine over chunks cut anywhere answers what the naive evaluator answers over all spans at once.

use std::collections::{BTreeMap, BTreeSet};

use model::{TraceId, Value};
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
use crate::spans::{Event, Link, Span, trace_id};

fn any_value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        4 => (0..4i64).prop_map(Value::Int),
        4 => proptest::sample::select(vec!["a", "b", "ab"]).prop_map(|t| Value::String(t.to_owned())),
        1 => proptest::sample::select(vec![0.5, 1.0, 2.0]).prop_map(Value::Double),
        1 => any::<bool>().prop_map(Value::Bool),
    ];
    let list = prop_oneof![
        proptest::collection::vec((0..4i64).prop_map(Value::Int), 0..3),
        proptest::collection::vec(
            proptest::sample::select(vec!["a", "b", "ab"]).prop_map(|t| Value::String(t.to_owned())),
            0..3
        ),
    ];
    prop_oneof![8 => scalar, 1 => list.prop_map(Value::Array)]
}

fn any_attributes() -> impl Strategy<Value = Vec<(String, Value)>> {
    let key = proptest::sample::select(vec!["x", "yy", "z"]);
    proptest::collection::btree_map(key, any_value(), 0..3)
        .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn any_span() -> impl Strategy<Value = Span> {
    let ids = (1..5u8, 0..9u8);
    let time = (0..6u64, -1..5i64);
    let core = (
        proptest::sample::select(vec!["a", "b", "ab"]),
        0..6i64,
        0..3i64,
        prop_oneof![Just(""), Just("a")],
    );
    let event = (proptest::sample::select(vec!["a", "b"]), -1..3i64, any_attributes()).prop_map(
        |(name, since_start, attributes)| Event {
            name: name.to_owned(),
            since_start,
            attributes,
        },
    );
    let link = (1..3u8, 1..3u8, any_attributes()).prop_map(|(trace, span, attributes)| Link {
        trace,
        span,
        attributes,
    });
    let owners = (0..3usize, 0..2usize, any_attributes());
    let lists = (
        proptest::collection::vec(event, 0..3),
        proptest::collection::vec(link, 0..2),
    );
    (ids, time, core, any_attributes(), owners, lists).prop_map(
        |((trace, parent), (start, duration), (name, kind, status, message), attributes, owners, (events, links))| {
            let (resource, library, library_attributes) = owners;
            let service = |name: &str| ("service.name".to_owned(), Value::String(name.to_owned()));
            let resource = match resource {
                0 => vec![],
                1 => vec![service("a"), ("x".to_owned(), Value::Int(1))],
                _ => vec![service("b"), ("yy".to_owned(), Value::String("b".to_owned()))],
            };
            Span {
                trace,
                id: 0,
                parent,
                start: 1_000 + start,
                duration,
                name: name.to_owned(),
                kind,
                status,
                message: message.to_owned(),
                attributes,
                resource,
                library: if library == 0 {
                    (String::new(), String::new())
                } else {
                    ("a".into(), "b".into())
                },
                library_attributes: if library == 0 { vec![] } else { library_attributes },
                events,
                links,
            }
        },
    )
}

/// Up to 24 spans in up to four traces, with roots, orphans, cycles and the odd double root. Ids differ within a trace.
pub(crate) fn any_spans() -> impl Strategy<Value = Vec<Span>> {
    proptest::collection::vec(any_span(), 1..24).prop_map(|mut spans| {
        let mut next: BTreeMap<u8, u8> = BTreeMap::new();
        for span in &mut spans {
            let id = next.entry(span.trace).or_insert(0);
            *id += 1;
            span.id = *id;
        }
        spans
    })
}

fn any_term() -> impl Strategy<Value = String> {
    let field = proptest::sample::select(vec![
        ".x",
        ".yy",
        "span.x",
        "span.yy",
        "resource.x",
        "event.x",
        "link.yy",
        "instrumentation.x",
        "parent.x",
        "parent.span.yy",
        ".z",
    ]);
    let literal = proptest::sample::select(vec!["0", "1", "2", "1.0", "0.5", "\"a\"", "\"b\"", "true", "2ns"]);
    let op = proptest::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let fixed = proptest::sample::select(vec![
        "true",
        "name = \"a\"",
        "name != \"a\"",
        "name =~ \"a.*\"",
        "name !~ \".*b\"",
        "kind = server",
        "kind != client",
        "status = error",
        "status != unset",
        "duration > 1ns",
        "duration = 0s",
        "duration * 2 > 3ns",
        ".x =~ \"a|b\"",
        ".yy !~ \"a\"",
        "event.yy !~ \"a\"",
        ".x = nil",
        "span.x != nil",
        "event.x = nil",
        "event:name = \"a\"",
        "event:name != \"a\"",
        "event:timeSinceStart > 0s",
        "event:timeSinceStart * 2 < 2ns",
        "link:spanID = \"1\"",
        "link:traceID != nil",
        "nestedSetParent < 0",
        "nestedSetParent = -1",
        "nestedSetLeft > 2",
        "nestedSetRight < 6",
        "span:childCount > 0",
        "parent = nil",
        "parent != nil",
        "span:parentID = nil",
        "name != nil",
        "nil != status",
        "kind != nil",
        "statusMessage != nil",
        "duration != nil",
        "rootName != nil",
        "nestedSetLeft != nil",
        "instrumentation:version != nil",
        "resource.service.name != nil",
        "span:parentID != nil",
        "span:id != \"b000000000000001\"",
        "span:id = \"b000000000000002\"",
        "rootName = \"a\"",
        "rootServiceName != \"b\"",
        "traceDuration > 4ns",
        "trace:id = \"a0a0a0a0a0a0a0a0a0a0a0a0a0a0a002\"",
        "statusMessage = \"a\"",
        "statusMessage != \"a\"",
        "instrumentation:name = \"a\"",
        "instrumentation:version != \"b\"",
        ".x",
        "!.x",
        ".x + 1 = span.yy",
        ".x > resource.x",
        "span.x = span.yy",
        "span.x != .z",
        "-.x < 0",
        ".x ^ 2 > 1",
        ".x / 2 = 1",
        ".x % 2 = 0",
        "parent.span:name = \"a\"",
        "parent.span:duration < duration",
        "parent.resource.service.name != resource.service.name",
        "parent.x = nil",
        "(.x = 1) = (.yy = 1)",
        "resource.service.name = \"a\" || resource.service.name = \"b\"",
        "1 < .x",
        "kind = 2",
        "status > 0 || status = 2",
    ]);
    prop_oneof![
        2 => (field, op, literal).prop_map(|(f, o, l)| format!("{f} {o} {l}")),
        3 => fixed.prop_map(str::to_owned),
    ]
}

pub(crate) fn any_filter() -> impl Strategy<Value = String> {
    let term = any_term();
    let negated = (any::<bool>(), term).prop_map(|(not, term)| if not { format!("!({term})") } else { term });
    let joined = negated.prop_recursive(2, 4, 2, |inner| {
        (inner.clone(), any::<bool>(), inner)
            .prop_map(|(a, and, b)| format!("({a}) {} ({b})", if and { "&&" } else { "||" }))
    });
    prop_oneof![1 => Just("{ }".to_owned()), 6 => joined.prop_map(|inner| format!("{{ {inner} }}"))]
}

fn any_scalar_filter() -> impl Strategy<Value = String> {
    let aggregate = prop_oneof![
        Just("count()".to_owned()),
        (
            proptest::sample::select(vec!["min", "max", "avg", "sum"]),
            proptest::sample::select(vec![
                ".x",
                "duration",
                "span.yy",
                "event.x",
                "duration + 1ns",
                "parent.x"
            ])
        )
            .prop_map(|(f, e)| format!("{f}({e})")),
        any_filter().prop_map(|filter| format!("({filter} | count())")),
        any_filter().prop_map(|filter| format!("({filter} | max(duration))")),
    ];
    let op = proptest::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let rhs = prop_oneof![
        3 => proptest::sample::select(vec!["0", "1", "2", "1.5", "2ns"]).prop_map(str::to_owned),
        1 => aggregate.clone(),
    ];
    let plus = proptest::option::of(proptest::sample::select(vec!["+ 1", "* 2", "- 1", "/ 2"]));
    (aggregate, plus, op, rhs).prop_map(|(a, plus, op, rhs)| format!("{a} {} {op} {rhs}", plus.unwrap_or_default()))
}

pub(crate) fn any_query() -> impl Strategy<Value = String> {
    let spanset = any_filter().prop_recursive(2, 3, 2, |inner| {
        let op = crate::language::any_spanset_op().prop_map(|op| op.symbol());
        prop_oneof![
            3 => (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
            1 => (inner, any_scalar_filter()).prop_map(|(a, s)| format!("({a} | {s})")),
        ]
    });
    let by = proptest::sample::select(vec![
        "by(name)",
        "by(.x)",
        "by(resource.service.name)",
        "by(status)",
        "by(duration + 1ns)",
        "by(parent.x)",
        "by(event.x)",
    ]);
    let stage = prop_oneof![
        2 => spanset.clone(),
        2 => by.prop_map(str::to_owned),
        1 => Just("coalesce()".to_owned()),
        1 => Just("select(.x, kind, event:name, parent.span:name, nestedSetParent)".to_owned()),
        3 => any_scalar_filter(),
    ];
    let first = prop_oneof![4 => spanset, 1 => any_scalar_filter(), 1 => Just("by(name)".to_owned())];
    (first, proptest::collection::vec(stage, 0..3)).prop_map(|(first, more)| {
        let stages: Vec<String> = std::iter::once(first).chain(more).collect();
        stages.join(" | ")
    })
}

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
