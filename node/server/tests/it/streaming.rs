//! Streams: what is said before the end, what at the end, and what happens when nobody listens any more.

use std::sync::Arc;

use model::TraceId;
use prost::Message as _;
use query::answer::TraceMatch;
use query::metrics::Series;
use query::value::Static;
use server::querier::{MetricsAnswer, SearchAnswer, Stats};
use tokio::sync::Notify;
use wire::tempopb;

use crate::door::{Door, GrpcAnswer, compressed, framed, grpc_call, open};

const SECOND: u64 = 1_000_000_000;

async fn call(door: &Door, method: &str, request: &impl prost::Message) -> GrpcAnswer {
    let path = format!("/tempopb.StreamingQuerier/{method}");
    grpc_call(door.api, &path, &[], framed(false, &request.encode_to_vec())).await
}

fn searched(traces: &[u8], jobs_done: u32) -> SearchAnswer {
    let found = |id: &u8| TraceMatch {
        trace_id: TraceId([*id; 16]),
        start_unix_nanos: u64::from(*id) * SECOND,
        duration_nanos: 1,
        root: None,
        spansets: vec![],
        services: Default::default(),
    };
    SearchAnswer {
        traces: traces.iter().map(found).collect(),
        stats: Stats {
            jobs: 9,
            jobs_done,
            ..Stats::default()
        },
        ..SearchAnswer::default()
    }
}

#[tokio::test]
async fn a_search_says_what_is_new_as_it_goes() {
    let door = open("").await;
    *door.script.search_previews.lock() = vec![searched(&[9, 8], 3), searched(&[9, 8], 5), searched(&[9, 8, 7], 6)];
    *door.script.search.lock() = searched(&[9, 8, 7, 5], 9);
    let answer = call(&door, "Search", &tempopb::SearchRequest::default()).await;
    assert_eq!(answer.code, "0");
    let said: Vec<_> = answer
        .messages
        .iter()
        .map(|message| {
            let message = tempopb::SearchResponse::decode(&message[..]).unwrap();
            let ids: Vec<_> = message
                .traces
                .iter()
                .map(|trace| trace.trace_id[..2].to_owned())
                .collect();
            (ids, message.metrics.unwrap().completed_jobs)
        })
        .collect();
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        said,
        [
            (ids(&["09", "08"]), 3),
            (ids(&[]), 5),
            (ids(&["07"]), 6),
            (ids(&["05"]), 9)
        ]
    );
}

fn measured(samples: &[u64], unfinished_to: Option<u64>) -> MetricsAnswer {
    MetricsAnswer {
        series: vec![Series {
            labels: vec![("__name__".into(), Static::str("rate"))],
            samples: samples.iter().map(|at| (at * SECOND, *at as f64)).collect(),
            exemplars: vec![],
        }],
        unfinished_to: unfinished_to.map(|at| at * SECOND),
        ..MetricsAnswer::default()
    }
}

#[tokio::test]
async fn samples_are_said_when_they_are_certain_and_all_at_the_end() {
    let door = open("").await;
    let all = [110, 120, 130, 140, 150];
    *door.script.metrics_previews.lock() = vec![
        measured(&all, Some(u64::MAX / SECOND)),
        measured(&all, Some(135)),
        measured(&all, Some(110)),
    ];
    *door.script.metrics.lock() = measured(&all, None);
    let request = tempopb::QueryRangeRequest {
        query: "{ } | rate()".into(),
        start: 100 * SECOND,
        end: 150 * SECOND,
        step: 10 * SECOND,
        ..Default::default()
    };
    let answer = call(&door, "MetricsQueryRange", &request).await;
    assert_eq!(answer.code, "0", "{}", answer.message);
    let said: Vec<Vec<i64>> = answer
        .messages
        .iter()
        .map(|message| {
            let message = tempopb::QueryRangeResponse::decode(&message[..]).unwrap();
            let samples = message.series.iter().flat_map(|series| &series.samples);
            samples.map(|sample| sample.timestamp_ms / 1000).collect()
        })
        .collect();
    assert_eq!(
        said,
        [vec![], vec![150], vec![120, 130, 140], vec![110, 120, 130, 140, 150]]
    );
    let asked = door.script.measured.lock();
    assert_eq!(
        (
            asked[0].plan.intervals().count(),
            asked[0].plan.intervals().step_nanos()
        ),
        (6, 10 * SECOND)
    );
}

#[tokio::test]
async fn an_instant_query_streams_its_progress_and_then_its_values() {
    let door = open("").await;
    *door.script.metrics_previews.lock() = vec![measured(&[150], Some(0))];
    *door.script.metrics.lock() = measured(&[150], None);
    let request = tempopb::QueryInstantRequest {
        query: "{ } | rate()".into(),
        start: 100 * SECOND,
        end: 150 * SECOND,
    };
    let answer = call(&door, "MetricsQueryInstant", &request).await;
    let said: Vec<usize> = answer
        .messages
        .iter()
        .map(|message| {
            tempopb::QueryInstantResponse::decode(&message[..])
                .unwrap()
                .series
                .len()
        })
        .collect();
    assert_eq!(said, [0, 1]);
    // One that is no metrics query is refused before anything is streamed.
    let request = tempopb::QueryInstantRequest {
        query: "{ }".into(),
        ..request
    };
    assert_eq!(call(&door, "MetricsQueryInstant", &request).await.code, "3");
}

#[tokio::test]
async fn large_answers_are_cut_into_messages_that_clients_take() {
    let door = open("").await;
    let mut answer = searched(&[9], 9);
    answer.traces[0].root = Some(query::answer::Root {
        service: "x".repeat(400_000),
        name: String::new(),
    });
    answer.traces = vec![answer.traces[0].clone(); 9];
    *door.script.search.lock() = answer;
    let answer = call(&door, "Search", &tempopb::SearchRequest::default()).await;
    let traces: Vec<_> = answer
        .messages
        .iter()
        .map(|message| tempopb::SearchResponse::decode(&message[..]).unwrap().traces.len())
        .collect();
    assert_eq!(traces, [2, 2, 2, 2, 1]);
}

#[tokio::test]
async fn a_listener_that_goes_away_gives_up_its_turn() {
    let door = open("limits: {defaults: {queries_concurrent_max: 1, queries_queued_max: 0}}").await;
    *door.script.gate.lock() = Some(Arc::new(Notify::new()));
    let api = door.api;
    let listening = tokio::spawn(async move {
        let path = "/tempopb.StreamingQuerier/Search";
        grpc_call(api, path, &[], framed(false, &[])).await
    });
    while door.script.searches.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let refused = call(&door, "Search", &tempopb::SearchRequest::default()).await;
    assert_eq!(refused.code, "8", "the turn is taken");
    listening.abort();
    *door.script.gate.lock() = None;
    // Until the server has seen it.
    while call(&door, "Search", &tempopb::SearchRequest::default()).await.code == "8" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_not_a_call_is_refused() {
    let door = open("").await;
    let search = tempopb::SearchRequest {
        query: "{ }".into(),
        ..Default::default()
    };
    let search = search.encode_to_vec();
    let call = async |method: &str, headers: &[(&str, &str)], body: bytes::Bytes| {
        let path = format!("/tempopb.StreamingQuerier/{method}");
        grpc_call(door.api, &path, headers, body).await
    };
    for method in [
        "Search",
        "SearchTags",
        "SearchTagsV2",
        "SearchTagValues",
        "SearchTagValuesV2",
        "MetricsQueryRange",
        "MetricsQueryInstant",
    ] {
        let answer = call(method, &[], framed(false, b"garbage")).await;
        assert_eq!(answer.code, "3", "{method} {answer:?}");
        assert!(
            answer.message.starts_with("not a message of this method"),
            "{}",
            answer.message
        );
    }
    for (headers, body, code) in [
        (&[][..], framed(true, &search), "13"),
        (&[("grpc-encoding", "identity")][..], framed(true, &search), "13"),
        (&[("grpc-encoding", "br")][..], framed(true, &search), "12"),
        (&[("grpc-encoding", "gzip")][..], framed(true, b"not gzip"), "3"),
        (&[][..], bytes::Bytes::new(), "3"),
        (&[][..], framed(false, &vec![0; 1 << 20]), "8"),
        (
            &[("grpc-encoding", "gzip")][..],
            framed(true, &compressed("gzip", &vec![0; (1 << 20) + 1])),
            "8",
        ),
    ] {
        let answer = call("Search", headers, body).await;
        assert_eq!(answer.code, code, "{headers:?} {answer:?}");
        assert!(!answer.message.is_empty());
        if code == "12" {
            assert_eq!(
                answer.headers["grpc-accept-encoding"],
                "identity,gzip,zstd,deflate,snappy"
            );
        }
    }
    assert_eq!(call("Nothing", &[], framed(false, b"")).await.code, "12");
    assert!(door.script.searches.lock().is_empty());
    for encoding in ["gzip", "zstd", "snappy", "deflate"] {
        let body = framed(true, &compressed(encoding, &search));
        assert_eq!(
            call("Search", &[("grpc-encoding", encoding)], body).await.code,
            "0",
            "{encoding}"
        );
    }
    assert_eq!(
        call("Search", &[("grpc-encoding", "gzip")], framed(false, &search))
            .await
            .code,
        "0"
    );
    assert_eq!(door.script.searches.lock().len(), 5);
}
