//! Metrics queries at the door: answers byte for byte, questions as they reach the querier.

use model::TraceId;
use prost::Message as _;
use query::metrics::{Series, SeriesExemplar};
use query::value::{Static, Status};
use serde_json::{Value, json};
use server::querier::{MetricsAnswer, Stats};
use wire::tempopb;

use crate::door::{Door, open};

const SECOND: u64 = 1_000_000_000;

fn found() -> MetricsAnswer {
    MetricsAnswer {
        series: vec![
            Series {
                labels: vec![
                    ("resource.service.name".into(), Static::str("cart")),
                    ("span.http.status_code".into(), Static::Int(500)),
                    ("status".into(), Static::Status(Status::from_word("error").unwrap())),
                ],
                samples: vec![(10 * SECOND, 0.5), (20 * SECOND, 2.0)],
                exemplars: vec![SeriesExemplar {
                    trace_id: TraceId([7; 16]),
                    unix_nanos: 12 * SECOND,
                    value: 2.0,
                }],
            },
            Series {
                labels: vec![
                    ("__name__".into(), Static::str("rate")),
                    ("p".into(), Static::Float(0.9)),
                ],
                samples: vec![(20 * SECOND, 0.0)],
                exemplars: vec![],
            },
        ],
        stats: Stats {
            inspected_spans: 9,
            inspected_bytes: 100,
            jobs: 4,
            jobs_done: 3,
            row_groups: 2,
            row_groups_skipped: 1,
            ..Stats::default()
        },
        ..MetricsAnswer::default()
    }
}

async fn json(door: &Door, path: &str) -> Value {
    let answer = door.get(path, &[]).await;
    assert_eq!(answer.status(), 200, "{path}");
    assert_eq!(answer.headers()["content-type"], "application/json");
    answer.json().await.unwrap()
}

const RANGE: &str = "/api/metrics/query_range?q=%7B%7D|rate()by(resource.service.name)";

#[tokio::test]
async fn a_range_answer_is_tempos() {
    let door = open("").await;
    *door.script.metrics.lock() = found();
    let text = |text: &str| json!({"stringValue": text});
    let expected = json!({
        "series": [
            {
                "labels": [
                    {"key": "resource.service.name", "value": text("cart")},
                    {"key": "span.http.status_code", "value": {"intValue": "500"}},
                    {"key": "status", "value": text("error")},
                ],
                "samples": [{"value": 0.5, "timestampMs": "10000"}, {"value": 2, "timestampMs": "20000"}],
                "exemplars": [{
                    "labels": [
                        {"key": "resource.service.name", "value": text("cart")},
                        {"key": "span.http.status_code", "value": {"intValue": "500"}},
                        {"key": "status", "value": text("error")},
                        {"key": "trace:id", "value": text(&"07".repeat(16))},
                    ],
                    "value": 2, "timestampMs": "12000",
                }],
            },
            {
                "labels": [{"key": "__name__", "value": text("rate")}, {"key": "p", "value": {"doubleValue": 0.9}}],
                "samples": [{"timestampMs": "20000"}],
            },
        ],
        "metrics": {
            "inspectedBytes": "100", "completedJobs": 3, "totalJobs": 4, "inspectedSpans": "9",
            "additionalMetrics": {"rowGroupsInspected": "2", "rowGroupsSkipped": "1"},
        },
    });
    assert_eq!(json(&door, RANGE).await, expected);
    let binary = door.get(RANGE, &[("accept", "application/protobuf")]).await;
    let message = tempopb::QueryRangeResponse::decode(binary.bytes().await.unwrap()).unwrap();
    assert_eq!((message.series.len(), message.series[1].samples.len()), (2, 1));
}

#[tokio::test]
async fn an_instant_answer_is_tempos() {
    let door = open("").await;
    *door.script.metrics.lock() = found();
    let answer = json(&door, "/api/metrics/query?query=%7B%7D|rate()&start=10&end=20").await;
    let values: Vec<_> = answer["series"]
        .as_array()
        .unwrap()
        .iter()
        .map(|series| &series["value"])
        .collect();
    assert_eq!(
        values,
        [&json!(2), &Value::Null],
        "the last sample, and zeros are left out"
    );
    assert!(!answer.to_string().contains("exemplars"), "{answer}");
    let asked = door.script.measured.lock();
    let window = asked[0].plan.intervals().window();
    assert_eq!(
        (window.start_unix_nanos, window.end_unix_nanos),
        (10 * SECOND, 20 * SECOND)
    );
}

#[tokio::test]
async fn what_an_answer_lacks_is_in_it() {
    let door = open("").await;
    *door.script.metrics.lock() = MetricsAnswer {
        is_cut: true,
        missing: vec!["block 1: away".into()],
        ..found()
    };
    let answer = door.get(&format!("{RANGE}&maxSeries=2"), &[]).await;
    assert_eq!(answer.headers()["x-vivace-partial"], "block 1: away");
    let answer = answer.json::<Value>().await.unwrap();
    assert_eq!(answer["status"], "PARTIAL");
    assert_eq!(
        answer["message"],
        "block 1: away; more than 2 series (metrics_series_max); those with the smallest labels are returned"
    );
    assert_eq!(door.script.measured.lock()[0].series_max, 2);
}

#[tokio::test]
async fn a_metrics_query_is_asked_as_it_was_meant() {
    let door =
        open("limits: {defaults: {query_bytes_max: 7MiB, query_memory_max: 8MiB, queries_memory_max: 9MiB}}").await;
    json(&door, &format!("{RANGE}&start=100&end=200&step=10")).await;
    {
        let asked = door.script.measured.lock();
        assert_eq!(asked[0].plan.text(), "{ } | rate() by(resource.service.name)");
        let intervals = asked[0].plan.intervals();
        assert_eq!((intervals.count(), intervals.step_nanos()), (11, 10 * SECOND));
        let allowance = asked[0].allowance;
        assert_eq!(
            (allowance.bytes_max, allowance.memory_max, allowance.tenant_memory_max),
            (7 << 20, 8 << 20, 9 << 20)
        );
    }
    for (path, words) in [
        ("/api/metrics/query_range", "invalid q"),
        (
            "/api/metrics/query_range?q=%7B",
            "invalid TraceQL query: parse error at line 1, col 2",
        ),
        (
            "/api/metrics/query_range?q=%7B%7D",
            "invalid TraceQL query: not a metrics query",
        ),
        (
            "/api/metrics/query_range?q=%7B%7D|rate()&step=0.000001",
            "metrics_intervals_max",
        ),
        (
            "/api/metrics/query?q=%7B%7D|rate()&start=7&end=7",
            "start must be before end",
        ),
    ] {
        let (status, body) = door.page(path).await;
        assert!(status == 400 && body.contains(words), "{path}: {status} {body}");
    }
}

#[tokio::test]
async fn a_metrics_query_is_explained_instead_of_answered() {
    let door = open("").await;
    *door.script.metrics.lock() = found();
    let (status, page) = door.page(&format!("{RANGE}&explain=1")).await;
    assert_eq!(status, 200);
    for words in [
        "metrics { } | rate()",
        "found: 2 series, 3 samples",
        "row groups: 2 read, 1 skipped",
    ] {
        assert!(page.contains(words), "{page}");
    }
}

#[tokio::test]
async fn a_metrics_query_has_a_deadline() {
    let door = open("query: {metrics_timeout: 50ms}").await;
    *door.script.gate.lock() = Some(std::sync::Arc::default());
    assert_eq!(
        door.page(RANGE).await,
        (504, "query exceeds query.metrics_timeout: 50ms".into())
    );
}
