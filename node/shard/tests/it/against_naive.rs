//! The store's own path against the naive evaluator: random spans are sent, cut, spooled and flushed anywhere, random
//! queries go through snapshot, plan, jobs, blooms and joins, and the answers are what a walk over all spans gives.
//!
//! The dice start at a fixed place, so that every run asks the same. `RANDOM_CASES=20000 RANDOM_SEED=7` looks longer and
//! elsewhere.

use model::Value;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use prost::Message;
use query::SearchRequest;
use query::answer::TraceMatch;
use query::metrics::Intervals;
use query::source::TimeRange;
use shard::port::CatalogPort;

use crate::random::{any_metrics, any_query, any_spans};
use crate::spans::{Span, span_id, trace_id};
use crate::world::World;
use crate::{naive, series};

/// Chosen so that all cases together take under a minute of a debug build on two busy cores.
const CASES: u32 = 120;

/// What happens after a batch.
#[derive(Debug, Clone, Copy)]
enum Step {
    Nothing,
    /// The block stays in the spool: the object store is away.
    Cut,
    Flush,
}

#[derive(Debug, Clone)]
struct Question {
    text: String,
    limit: usize,
    spans_per_spanset: usize,
    window: TimeRange,
}

#[derive(Debug, Clone)]
struct Case {
    spans: Vec<Span>,
    /// Where the spans are cut into requests, and what happens after each.
    requests: Vec<(Index, Step)>,
    /// Spans that come once more, by another request, at the end.
    again: Vec<Index>,
    /// One bit per block, oldest first: it could not list which of its traces are split.
    unlisted: u8,
    searches: Vec<Question>,
    /// With the step in nanoseconds.
    metrics: Vec<(String, u64)>,
}

fn any_case() -> impl Strategy<Value = Case> {
    let step = prop_oneof![2 => Just(Step::Nothing), 1 => Just(Step::Cut), 2 => Just(Step::Flush)];
    let window = prop_oneof![
        2 => Just(TimeRange::ALWAYS),
        1 => (0..8u64, 0..4u64).prop_map(|(start, length)| TimeRange {
            start_unix_nanos: 998 + start,
            end_unix_nanos: 998 + start + length,
        }),
    ];
    let question =
        (any_query(), 1..5usize, 0..3usize, window).prop_map(|(text, limit, spans_per_spanset, window)| Question {
            text,
            limit,
            spans_per_spanset,
            window,
        });
    (
        any_spans(),
        proptest::collection::vec((any::<Index>(), step), 1..5),
        proptest::collection::vec(any::<Index>(), 0..3),
        prop_oneof![Just(0u8), any::<u8>()],
        proptest::collection::vec(question, 8),
        proptest::collection::vec((any_metrics(), 1..4u64), 4),
    )
        .prop_map(|(spans, requests, again, unlisted, searches, metrics)| Case {
            spans,
            requests,
            again,
            unlisted,
            searches,
            metrics,
        })
}

fn any_value(value: &Value) -> AnyValue {
    use any_value::Value as V;
    let value = match value {
        Value::String(text) => V::StringValue(text.clone()),
        Value::Bool(v) => V::BoolValue(*v),
        Value::Int(v) => V::IntValue(*v),
        Value::Double(v) => V::DoubleValue(*v),
        Value::Array(items) => V::ArrayValue(ArrayValue {
            values: items.iter().map(any_value).collect(),
        }),
        other => panic!("the dice have no {other:?}"),
    };
    AnyValue { value: Some(value) }
}

fn attributes(list: &[(String, Value)]) -> Vec<KeyValue> {
    let one = |(key, value): &(String, Value)| KeyValue {
        key: key.clone(),
        value: Some(any_value(value)),
        ..Default::default()
    };
    list.iter().map(one).collect()
}

fn id_bytes(n: u8) -> Vec<u8> {
    if n == 0 { Vec::new() } else { span_id(n).0.to_vec() }
}

fn otlp(span: &Span) -> OtlpSpan {
    let event = |event: &crate::spans::Event| Event {
        time_unix_nano: span.start.saturating_add_signed(event.since_start),
        name: event.name.clone(),
        attributes: attributes(&event.attributes),
        ..Default::default()
    };
    let link = |link: &crate::spans::Link| Link {
        trace_id: trace_id(link.trace).0.to_vec(),
        span_id: id_bytes(link.span),
        attributes: attributes(&link.attributes),
        ..Default::default()
    };
    OtlpSpan {
        trace_id: trace_id(span.trace).0.to_vec(),
        span_id: id_bytes(span.id),
        parent_span_id: id_bytes(span.parent),
        name: span.name.clone(),
        kind: span.kind as i32,
        start_time_unix_nano: span.start,
        end_time_unix_nano: span.start.saturating_add_signed(span.duration),
        attributes: attributes(&span.attributes),
        events: span.events.iter().map(event).collect(),
        links: span.links.iter().map(link).collect(),
        // A status that says nothing is as good as none.
        status: (span.status != 0 || !span.message.is_empty() || span.id.is_multiple_of(2)).then(|| Status {
            code: span.status as i32,
            message: span.message.clone(),
        }),
        ..Default::default()
    }
}

/// One request of these spans, neighbours of one resource and scope together.
fn body<'a>(spans: impl IntoIterator<Item = &'a Span>) -> Vec<u8> {
    let spans: Vec<&Span> = spans.into_iter().collect();
    let resource_spans = spans
        .chunk_by(|a, b| a.resource == b.resource)
        .map(|spans| ResourceSpans {
            resource: Some(Resource {
                attributes: attributes(&spans[0].resource),
                ..Default::default()
            }),
            scope_spans: spans
                .chunk_by(|a, b| a.library == b.library && a.library_attributes == b.library_attributes)
                .map(|spans| ScopeSpans {
                    scope: (!spans[0].library.0.is_empty()).then(|| InstrumentationScope {
                        name: spans[0].library.0.clone(),
                        version: spans[0].library.1.clone(),
                        attributes: attributes(&spans[0].library_attributes),
                        ..Default::default()
                    }),
                    spans: spans.iter().map(|span| otlp(span)).collect(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        })
        .collect();
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

async fn world(case: &Case) -> World {
    let mut world = World::new();
    let mut requests: Vec<(usize, Step)> = case
        .requests
        .iter()
        .map(|(at, step)| (at.index(case.spans.len() + 1), *step))
        .collect();
    requests.sort_by_key(|(at, _)| *at);
    let mut from = 0;
    for (to, step) in requests {
        if from < to {
            let appended = world.send_body(&body(&case.spans[from..to]));
            assert_eq!(appended.duplicates, 0);
            from = to;
        }
        match step {
            Step::Nothing => {}
            Step::Cut => {
                world.flusher.cut().await.unwrap();
            }
            Step::Flush => world.flush().await,
        }
    }
    if from < case.spans.len() {
        world.send_body(&body(&case.spans[from..]));
    }
    for again in &case.again {
        world.send_body(&body([again.get(&case.spans)]));
    }
    let records: Vec<_> = world.catalog.view().blocks_of(&world.tenant).map(|r| r.id).collect();
    for (position, id) in records.into_iter().enumerate() {
        if case.unlisted >> (position % 8) & 1 == 1 {
            world.unlist(id);
        }
    }
    world
}

async fn check(case: &Case) -> Result<(), TestCaseError> {
    let world = world(case).await;
    for question in &case.searches {
        let text = &question.text;
        let Ok(query) = query::parse(text) else {
            // by() without coalesce() before a spanset operator: refused on purpose.
            continue;
        };
        let mut request = SearchRequest {
            window: question.window,
            limit: question.limit,
            spans_per_spanset: question.spans_per_spanset,
            after: None,
        };
        for page in 0..2 {
            let expected = naive::search(&query, &request, &case.spans);
            let answer = world.ask(text, request, None).await;
            prop_assert_eq!(answer.looked.missing, Vec::<String>::new());
            prop_assert_eq!(&answer.traces, &expected, "page {} of {}", page, text);
            request.after = expected.last().map(TraceMatch::place);
        }
    }
    for (text, step) in &case.metrics {
        let Ok(query) = query::parse(text) else {
            continue;
        };
        for intervals in [
            Intervals::range(1001, 1004, *step).unwrap(),
            Intervals::range(998, 1010, 1000).unwrap(),
        ] {
            let expected = series::series(&query, &intervals, &case.spans);
            let (found, answer) = world.measure(text, intervals).await;
            prop_assert_eq!(answer.looked.missing, Vec::<String>::new());
            series::compare(text, found.series, expected).map_err(TestCaseError::fail)?;
        }
    }
    Ok(())
}

fn number(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn blocks_spool_and_live_spans_answer_what_the_naive_evaluator_answers() {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&number("RANDOM_SEED", 1).to_le_bytes());
    let config = ProptestConfig {
        cases: number("RANDOM_CASES", CASES),
        failure_persistence: None,
        max_shrink_iters: 4_000,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Err(error) = runner.run(&any_case(), |case| runtime.block_on(check(&case))) {
        panic!("{error}");
    }
}
