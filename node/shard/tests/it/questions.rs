//! Questions while they are answered: what an onlooker sees, pages, what is looked at, what is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::Scope;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use parking_lot::Mutex;
use query::SearchRequest;
use query::answer::TraceMatch;
use query::budget::{Budget, Limits};
use query::source::{Chunk, TimeRange};
use query::tags::{TagFilter, TagNames, collect_tag_names};
use shard::crew::Onlooker;
use shard::search::SearchAnswer;

use crate::world::{NOW, SECOND, World, span, text, trace_id};

#[derive(Default)]
struct Seen {
    asked: AtomicUsize,
    answers: Mutex<Vec<SearchAnswer>>,
}

impl Onlooker<SearchAnswer> for Seen {
    fn is_curious(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        true
    }
    fn show(&self, so_far: SearchAnswer) {
        self.answers.lock().push(so_far);
    }
}

fn request(limit: usize) -> SearchRequest {
    SearchRequest {
        window: TimeRange::ALWAYS,
        limit,
        spans_per_spanset: 3,
        after: None,
    }
}

/// Twelve traces of three spans, every third of them split between blocks or a block and the live spans.
async fn busy() -> World {
    let mut world = World::new();
    for trace in 0..12u8 {
        let start = u64::from(trace) * 10;
        world.send(&[span(trace, 0, 0, start, trace), span(trace, 1, 0, start + 1, trace)]);
        if trace % 3 == 0 {
            world.flush().await;
        }
        world.send(&[span(trace, 2, 0, start + 2, trace + 1)]);
        if trace % 2 == 0 {
            world.flush().await;
        }
    }
    world
}

fn ids(traces: &[TraceMatch]) -> Vec<u8> {
    traces.iter().map(|found| found.trace_id.0[0] - 1).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shown_stays_in_the_answer_where_it_was() {
    let world = busy().await;
    for limit in [3, 20] {
        let seen = Arc::new(Seen::default());
        let answer = world.ask("{ }", request(limit), Some(Arc::clone(&seen) as _)).await;
        assert_eq!(answer.traces.len(), limit.min(12));
        let shown = seen.answers.lock();
        assert_eq!(shown.len(), seen.asked.load(Ordering::Relaxed));
        for so_far in shown.iter() {
            assert_eq!(so_far.traces, answer.traces[..so_far.traces.len()]);
            assert!(so_far.looked.jobs_done <= answer.looked.jobs);
        }
        let most = shown.iter().map(|so_far| so_far.traces.len()).max().unwrap();
        assert!(most > 1, "the newest are known long before the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_one_after_the_other_are_the_whole_answer() {
    let world = busy().await;
    let whole = world.ask("{ }", request(20), None).await.traces;
    assert_eq!(ids(&whole), (0..12).rev().collect::<Vec<_>>());
    for limit in [1, 5] {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let page = world
                .ask(
                    "{ }",
                    SearchRequest {
                        after,
                        ..request(limit)
                    },
                    None,
                )
                .await
                .traces;
            after = page.last().map(TraceMatch::place);
            if page.is_empty() {
                break;
            }
            pages.extend(page);
        }
        assert_eq!(pages, whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_outside_the_window_is_read_only_for_parts_of_traces_inside() {
    let mut world = World::new();
    // Far before the window: one trace that ends there, one that goes on inside it.
    world.send(&[span(0, 0, 0, 0, 4), span(1, 0, 0, 0, 4)]);
    world.flush().await;
    world.send(&[span(2, 0, 0, 1, 4)]);
    world.flush().await;
    // Inside: the second part of the one, and another.
    world.send(&[span(1, 1, 0, 500, 5), span(3, 0, 0, 501, 4)]);
    world.flush().await;
    let window = TimeRange {
        start_unix_nanos: NOW + 400 * SECOND,
        end_unix_nanos: NOW + 600 * SECOND,
    };
    let both = world.search("{ status = error } >> { kind = consumer }", window).await;
    assert_eq!(ids(&both.traces), [1]);
    assert_eq!((both.looked.blocks, both.looked.blocks_outside), (1, 1));
    assert_eq!(both.looked.row_groups, 2, "the block of trace 2 is not read");
    assert_eq!(both.looked.joined, 1);
    let all = world.search("{ }", window).await;
    assert_eq!(ids(&all.traces), [3, 1]);
    // The same while the second part is live.
    world.send(&[span(2, 1, 0, 502, 5)]);
    let all = world.search("{ }", window).await;
    assert_eq!(ids(&all.traces), [3, 2, 1]);
    assert_eq!(all.looked.blocks_outside, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_asked_for_by_id_is_looked_up_and_not_searched_for() {
    let world = busy().await;
    let query = format!("{{ trace:id = \"{}\" }}", trace_id(3));
    let answer = world.search(&query, TimeRange::ALWAYS).await;
    assert_eq!(ids(&answer.traces), [3]);
    assert_eq!(answer.traces[0].spansets[0].matched, 3);
    assert_eq!((answer.looked.jobs, answer.looked.joined), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_ends_the_question_and_says_which() {
    let world = busy().await;
    let snapshot = world.snapshot().await;
    let exploding = "({ } >> { }) ~ (({ } !> { }) &~ ({ } << { })) && ({ } !~ ({ } &>> { }))";
    for (limits, text, name) in [
        (
            Limits {
                bytes_max: 1,
                ..Limits::default()
            },
            "{ name != \"x\" }",
            "query_bytes_max",
        ),
        (
            Limits {
                memory_max: 1,
                ..Limits::default()
            },
            "{ name != \"x\" }",
            "query_memory_max",
        ),
        (
            Limits {
                spans_max: 1,
                ..Limits::default()
            },
            "{ name != \"x\" }",
            "query_spans_max",
        ),
        (
            Limits {
                join_steps_max: 1,
                ..Limits::default()
            },
            exploding,
            "join_steps",
        ),
    ] {
        let plan = query::parse(text).unwrap();
        let plan = Arc::new(query::SearchPlan::new(&plan, request(20)).unwrap());
        let means = world.means(Budget::new(limits));
        let error = shard::search::search(&snapshot, &plan, &means, None).await.unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// The names of attributes of spans and events, and whether there are more.
async fn tag_names(world: &World) -> (Vec<String>, Vec<String>, bool) {
    let wanted = TagFilter::new(TimeRange::ALWAYS, None).unwrap();
    let work = move |chunk: &dyn Chunk, names: &mut TagNames, budget: &Budget| {
        collect_tag_names(&wanted, &[Scope::Span, Scope::Event], chunk, names, budget)
    };
    let snapshot = world.snapshot().await;
    let means = world.means(Budget::default());
    let scanned = shard::scan::scan(&snapshot, TimeRange::ALWAYS, &means, None, work)
        .await
        .unwrap();
    assert_eq!(scanned.looked.missing, Vec::<String>::new());
    let mut names = TagNames::default();
    scanned.parts.into_iter().for_each(|part| names.merge(part));
    let of = |scope| names.names(scope).map(str::to_owned).collect();
    (of(Scope::Span), of(Scope::Event), names.is_cut())
}

/// More names than a block's catalogue lists, than a live table has columns, and than an answer holds.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_whole_or_said_to_be_cut_before_a_flush_and_after() {
    const PER_SPAN: usize = 100;
    let most = query::limits::TAG_NAMES_MAX;
    for count in [4_095, 4_096, 4_097, 8_193, most, most + 1] {
        let mut world = World::new();
        let names: Vec<String> = (0..count).map(|n| format!("key-{n:05}")).collect();
        let spans: Vec<_> = names
            .chunks(PER_SPAN)
            .enumerate()
            .map(|(n, names)| {
                let mut one = span(n as u8, 0, 0, 0, 1);
                let attributes: Vec<_> = names.iter().map(|name| text(name, "x".to_owned())).collect();
                one.events = vec![Event {
                    attributes: attributes.clone(),
                    ..Default::default()
                }];
                one.attributes = attributes;
                one
            })
            .collect();
        world.send(&spans);
        let kept = names[..count.min(most)].to_vec();
        let expected = (kept.clone(), kept, count > most);
        assert!(tag_names(&world).await == expected, "{count} live");
        world.flush().await;
        assert!(tag_names(&world).await == expected, "{count} flushed");
    }
}
