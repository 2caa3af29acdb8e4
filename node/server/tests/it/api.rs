//! The query API: answers byte for byte, errors word for word, questions as they reach the querier.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use model::{Scope, SpanId, TraceId};
use prost::Message as _;
use query::answer::{Root, ServiceStats, SpanMatch, SpansetMatch, TraceMatch};
use query::metrics::Series;
use query::source::TimeRange;
use query::value::{Static, Status};
use serde_json::{Value, json};
use server::querier::{MetricsAnswer, Places, SearchAnswer, Stats, TagsAnswer, TraceAnswer, ValuesAnswer};
use server::refusal::{Kind, Refusal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use wire::tempopb;

use crate::door::{Door, framed, grpc_call, open};

const SECOND: u64 = 1_000_000_000;
const PROTOBUF: &[(&str, &str)] = &[("accept", "application/protobuf")];

/// ResourceSpans { scope_spans { spans { name "n", span id } } }
fn trace() -> Bytes {
    let span = [&[0x12, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0x2a, 1][..], b"n"].concat();
    let scope_spans = [&[0x12, span.len() as u8][..], &span].concat();
    let resource_spans = [&[0x12, scope_spans.len() as u8][..], &scope_spans].concat();
    [&[0x0a, resource_spans.len() as u8][..], &resource_spans]
        .concat()
        .into()
}

fn found() -> SearchAnswer {
    let span = SpanMatch {
        span_id: SpanId([0, 0, 0, 0, 0, 0, 0, 9]),
        name: "GET /".into(),
        start_unix_nanos: 5 * SECOND,
        duration_nanos: 1_500_000_000,
        attributes: vec![
            ("a".into(), Static::str("x")),
            ("n".into(), Static::Int(7)),
            ("f".into(), Static::Float(0.5)),
            ("b".into(), Static::Bool(true)),
            ("d".into(), Static::Duration(1_500_000_000)),
            ("s".into(), Static::Status(Status::from_word("error").unwrap())),
            ("l".into(), Static::List(Arc::from([Static::Int(1), Static::str("y")]))),
        ],
    };
    let trace = TraceMatch {
        trace_id: TraceId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0xbc]),
        start_unix_nanos: 5 * SECOND,
        duration_nanos: 2_345_678_901,
        root: Some(Root {
            service: "cart".into(),
            name: "GET /".into(),
        }),
        spansets: vec![SpansetMatch {
            matched: 3,
            spans: vec![span],
            attributes: vec![("count()".into(), Static::Int(3))],
        }],
        services: BTreeMap::from([(
            "cart".into(),
            ServiceStats {
                span_count: 3,
                error_count: 1,
            },
        )]),
    };
    let rootless = TraceMatch {
        root: None,
        spansets: vec![],
        services: BTreeMap::new(),
        ..trace.clone()
    };
    let stats = Stats {
        inspected_traces: 2,
        inspected_spans: 9,
        inspected_bytes: 100,
        jobs: 4,
        jobs_done: 3,
        ..Stats::default()
    };
    SearchAnswer {
        traces: vec![trace, rootless],
        stats,
        ..SearchAnswer::default()
    }
}

async fn asked_search(door: &Door, path: &str) -> (TimeRange, usize, usize, String) {
    let answer = door.get(path, &[]).await;
    assert_eq!(answer.status(), 200, "{path}: {}", answer.text().await.unwrap());
    let question = door.script.searches.lock().pop().unwrap();
    let request = question.plan.request();
    (
        request.window,
        request.limit,
        request.spans_per_spanset,
        question.plan.text().to_owned(),
    )
}

#[tokio::test]
async fn pages_without_a_question() {
    let door = open("").await;
    assert_eq!(door.page("/api/echo").await, (200, "echo".into()));
    let build = door
        .get("/api/status/buildinfo", &[])
        .await
        .json::<Value>()
        .await
        .unwrap();
    assert_eq!(build["version"], server::VERSION);
    assert_eq!(door.page("/ready").await, (503, "not ready".into()));
    door.readiness.set(true);
    assert_eq!(door.page("/ready").await, (200, "ready\n".into()));
    let (status, metrics) = door.page("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        metrics.contains(r#"vivace_request_duration_seconds_count{route="/ready",method="GET",status_code="503"} 1"#),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"));
    assert!(door.page("/status/config").await.1.contains("tail_age: 2m"));
    assert!(door.page("/status/endpoints").await.1.contains("/api/v2/search/tags"));
    for path in [
        "/status",
        "/status/version",
        "/status/services",
        "/status/overrides",
        "/status/overrides/acme",
    ] {
        assert_eq!(door.page(path).await.0, 200, "{path}");
    }
    assert_eq!(door.page("/nowhere").await, (404, "404 page not found".into()));
    let delete = reqwest::Client::new()
        .delete(format!("http://{}/api/search", door.api))
        .send()
        .await
        .unwrap();
    assert_eq!(delete.status(), 405);
}

#[tokio::test]
async fn a_trace_in_both_apis_and_both_forms() {
    let door = open("").await;
    *door.script.trace.lock() = TraceAnswer {
        trace: trace(),
        stats: Stats {
            inspected_bytes: 7,
            ..Stats::default()
        },
        ..TraceAnswer::default()
    };
    let spans = json!([{"scopeSpans": [{"spans": [{"spanId": "AQIDBAUGBwg=", "name": "n"}]}]}]);
    let v1 = door.get("/api/traces/ABC", &[]).await;
    assert_eq!(
        (v1.status().as_u16(), v1.headers()["content-type"].as_bytes()),
        (200, &b"application/json"[..])
    );
    assert_eq!(v1.json::<Value>().await.unwrap(), json!({"batches": spans}));
    let v1 = door.get("/api/traces/abc", PROTOBUF).await;
    assert_eq!(v1.headers()["content-type"], "application/protobuf");
    assert_eq!(v1.bytes().await.unwrap(), trace());
    let v2 = door.get("/api/v2/traces/abc?start=5&end=6&mode=recent", &[]).await;
    assert_eq!(
        v2.json::<Value>().await.unwrap(),
        json!({"trace": {"resourceSpans": spans}, "metrics": {"inspectedBytes": "7"}})
    );
    let v2 = tempopb::TraceByIdResponse::decode(door.get("/api/v2/traces/abc", PROTOBUF).await.bytes().await.unwrap())
        .unwrap();
    assert_eq!(v2.trace.unwrap().encode_to_vec(), trace());

    let asked = door.script.traces.lock().clone();
    assert_eq!(asked[0].trace_id.to_u128(), 0xabc);
    assert_eq!(
        (asked[0].window, asked[0].places, asked[0].bytes_max),
        (None, Places::All, 5_000_000)
    );
    let window = TimeRange {
        start_unix_nanos: 5 * SECOND,
        end_unix_nanos: 6 * SECOND,
    };
    assert_eq!((asked[2].window, asked[2].places), (Some(window), Places::Recent));
}

#[tokio::test]
async fn a_trace_that_is_not_there_is_too_large_or_partial() {
    let door = open("").await;
    assert_eq!(door.page("/api/traces/abc").await, (404, String::new()));
    let empty = door.get("/api/v2/traces/abc", &[]).await;
    assert_eq!(empty.status(), 200);
    assert_eq!(
        empty.json::<Value>().await.unwrap(),
        json!({"trace": {}, "metrics": {}})
    );

    *door.script.trace.lock() = TraceAnswer {
        trace: trace(),
        is_cut: true,
        ..TraceAnswer::default()
    };
    assert_eq!(
        door.page("/api/traces/abc").await,
        (422, "trace exceeds max size (max bytes: 5000000)".into())
    );
    let cut = door.get("/api/v2/traces/abc", &[]).await.json::<Value>().await.unwrap();
    assert_eq!(
        (cut["status"].as_str(), cut["message"].as_str()),
        (Some("PARTIAL"), Some("trace exceeds max size (max bytes: 5000000)"))
    );

    *door.script.trace.lock() = TraceAnswer {
        trace: trace(),
        missing: vec!["block 1: \u{e4}rger".into()],
        ..TraceAnswer::default()
    };
    let v1 = door.get("/api/traces/abc", &[]).await;
    assert_eq!(
        (v1.status().as_u16(), v1.headers()["x-vivace-partial"].as_bytes()),
        (200, &b"block 1: ?rger"[..])
    );
    let v2 = door.get("/api/v2/traces/abc", &[]).await.json::<Value>().await.unwrap();
    assert_eq!(
        (v2["status"].as_str(), v2["message"].as_str()),
        (Some("PARTIAL"), Some("block 1: \u{e4}rger"))
    );
}

#[tokio::test]
async fn ids_are_hex_of_any_case_and_length_up_to_32() {
    let door = open("").await;
    for (id, status) in [
        ("1".to_owned(), 404),
        ("a".repeat(31), 404),
        ("A".repeat(32), 404),
        ("a".repeat(33), 400),
        ("xyz".to_owned(), 400),
        ("%00".to_owned(), 400),
        ("a%2Fb".to_owned(), 400),
    ] {
        assert_eq!(door.page(&format!("/api/traces/{id}")).await.0, status, "{id}");
    }
    assert_eq!(door.page("/api/traces/1?start=6&end=5").await.0, 400);
}

#[tokio::test]
async fn a_search_answer_is_tempos() {
    let door = open("").await;
    *door.script.search.lock() = found();
    let set = json!({
        "spans": [{
            "spanID": "0000000000000009", "name": "GET /",
            "startTimeUnixNano": "5000000000", "durationNanos": "1500000000",
            "attributes": [
                {"key": "a", "value": {"stringValue": "x"}},
                {"key": "n", "value": {"intValue": "7"}},
                {"key": "f", "value": {"doubleValue": 0.5}},
                {"key": "b", "value": {"boolValue": true}},
                {"key": "d", "value": {"stringValue": "1.5s"}},
                {"key": "s", "value": {"stringValue": "error"}},
                {"key": "l", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "y"}]}}},
            ],
        }],
        "matched": 3,
        "attributes": [{"key": "count()", "value": {"intValue": "3"}}],
    });
    let expected = json!({
        "traces": [
            {
                "traceID": "00000000000000000000000000000abc", "rootServiceName": "cart", "rootTraceName": "GET /",
                "startTimeUnixNano": "5000000000", "durationMs": 2345,
                "spanSet": set, "spanSets": [set],
                "serviceStats": {"cart": {"spanCount": 3, "errorCount": 1}},
            },
            {
                "traceID": "00000000000000000000000000000abc", "rootServiceName": "<root span not yet received>",
                "startTimeUnixNano": "5000000000", "durationMs": 2345,
            },
        ],
        "metrics": {"inspectedTraces": 2, "inspectedBytes": "100", "completedJobs": 3, "totalJobs": 4, "inspectedSpans": "9"},
    });
    let answer = door.get("/api/search?q=%7B%7D", &[]).await;
    assert_eq!(answer.json::<Value>().await.unwrap(), expected);
    let answer = door.get("/api/search?q=%7B%7D", PROTOBUF).await.bytes().await.unwrap();
    assert_eq!(tempopb::SearchResponse::decode(answer).unwrap().traces.len(), 2);
    let trimmed = open("limits: {defaults: {trim_trace_ids: true}}").await;
    *trimmed.script.search.lock() = found();
    let answer = trimmed
        .get("/api/search?q=%7B%7D", &[])
        .await
        .json::<Value>()
        .await
        .unwrap();
    assert_eq!(answer["traces"][0]["traceID"], "abc");
    door.script.search.lock().missing.push("shard 3 is away".into());
    assert_eq!(
        door.get("/api/search?q=%7B%7D", &[]).await.headers()["x-vivace-partial"],
        "shard 3 is away"
    );
}

#[tokio::test]
async fn a_search_is_asked_as_it_was_meant() {
    let door = open("").await;
    let now = 1_700_000_000 * SECOND;
    let recent = TimeRange {
        start_unix_nanos: now - 3600 * SECOND,
        end_unix_nanos: u64::MAX,
    };
    assert_eq!(asked_search(&door, "/api/search").await, (recent, 20, 3, "{ }".into()));
    let window = TimeRange {
        start_unix_nanos: 100 * SECOND,
        end_unix_nanos: 200 * SECOND,
    };
    let asked = asked_search(&door, "/api/search?q=%7B+.a%3D1+%7D&start=100&end=200&limit=5&spss=7").await;
    assert_eq!(asked, (window, 5, 7, "{ .a = 1 }".into()));
    let asked = asked_search(&door, "/api/search?tags=service.name%3Dcart&minDuration=100ms").await;
    assert!(
        asked.3.contains("service.name") && asked.3.contains("100ms"),
        "{}",
        asked.3
    );
    for (path, text) in [
        (
            "/api/search?q=%7B",
            "invalid TraceQL query: parse error at line 1, col 2: ",
        ),
        (
            "/api/search?q=%7B+foo+%3D+1+%7D",
            "invalid TraceQL query: parse error at line 1, col 3: unknown identifier: foo",
        ),
        ("/api/search?limit=0", "invalid limit: must be a positive number"),
        (
            "/api/search?start=1",
            "please provide both http parameters start and end",
        ),
        ("/api/search?q=%7B%7D&q=%7B%7D", "invalid q: given twice"),
    ] {
        let (status, body) = door.page(path).await;
        assert!(status == 400 && body.starts_with(text), "{path}: {status} {body}");
    }
}

#[tokio::test]
async fn a_search_is_read_page_by_page() {
    let door = open("").await;
    *door.script.search.lock() = found();
    // Fewer than asked for: there is no more.
    let all = door.get("/api/search?limit=3", &[]).await;
    assert!(!all.headers().contains_key("x-vivace-cursor"));
    let page = door.get("/api/search?limit=2", &[]).await;
    let cursor = page.headers()["x-vivace-cursor"].to_str().unwrap().to_owned();
    assert_eq!(cursor, "5000000000-00000000000000000000000000000abc");
    door.get(&format!("/api/search?limit=2&cursor={cursor}"), &[]).await;
    let after = door.script.searches.lock().last().unwrap().plan.request().after;
    assert_eq!(after, Some(found().traces[1].place()));
    for bad in [
        "x",
        "5",
        "5-abc",
        "-00000000000000000000000000000abc",
        "x-00000000000000000000000000000abc",
    ] {
        let (status, body) = door.page(&format!("/api/search?cursor={bad}")).await;
        assert!(
            status == 400 && body.starts_with("invalid cursor"),
            "{bad}: {status} {body}"
        );
    }
}

#[tokio::test]
async fn a_search_is_explained_instead_of_answered() {
    let door = open("").await;
    *door.script.search.lock() = found();
    let (status, page) = door.page("/api/search?q=%7B+.a%3D1+%7D&explain=true").await;
    assert_eq!(status, 200);
    for words in [
        "search { .a = 1 }",
        "found: 2 traces",
        "jobs: 3 of 4",
        "spans looked at: 9",
        "read: 100 bytes",
    ] {
        assert!(page.contains(words), "{page}");
    }
    assert_eq!(door.page("/api/search?explain=maybe").await.0, 400);
}

#[tokio::test]
async fn similar_spans_are_folded_when_asked_for() {
    use wire::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span};
    let span = |id: u8, parent: u8| Span {
        trace_id: vec![1; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        name: "n".to_owned(),
        ..Span::default()
    };
    let spans = [span(1, 0)].into_iter().chain((2..8).map(|id| span(id, 1))).collect();
    let scope_spans = vec![ScopeSpans {
        spans,
        ..ScopeSpans::default()
    }];
    let whole = tempopb::Trace {
        resource_spans: vec![ResourceSpans {
            scope_spans,
            ..ResourceSpans::default()
        }],
    };
    let door = open("").await;
    *door.script.trace.lock() = TraceAnswer {
        trace: whole.encode_to_vec().into(),
        ..TraceAnswer::default()
    };
    let told = "similar spans are folded into summaries: without span_pruning all spans are returned";
    for (path, spans, message) in [
        ("/api/v2/traces/abc", 7, None),
        ("/api/v2/traces/abc?span_pruning=false", 7, None),
        ("/api/v2/traces/abc?span_pruning_min_spans=2", 7, None),
        ("/api/v2/traces/abc?span_pruning=true", 2, Some(told)),
        ("/api/v2/traces/abc?span_pruning=1&span_pruning_min_spans=7", 7, None),
        (
            "/api/v2/traces/abc?span_pruning=1&span_pruning_group_by=db.*,x",
            2,
            Some(told),
        ),
        (
            "/api/v2/traces/abc?span_pruning=1&span_pruning_max_parent_depth=-1",
            2,
            Some(told),
        ),
    ] {
        let answer = door.get(path, &[]).await.json::<Value>().await.unwrap();
        let listed = answer["trace"]["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array();
        assert_eq!(listed.map(Vec::len), Some(spans), "{path}: {answer}");
        assert_eq!(answer["message"].as_str(), message, "{path}");
        assert_eq!(answer["status"].as_str(), message.map(|_| "PARTIAL"), "{path}");
    }
    for (parameters, words) in [
        ("span_pruning=maybe", "invalid span_pruning"),
        ("span_pruning_group_by=%5B", "invalid span_pruning_group_by"),
        (
            "span_pruning_min_spans=1",
            "invalid span_pruning_min_spans: must be 2 or more",
        ),
        ("span_pruning_min_spans=x", "invalid span_pruning_min_spans"),
        (
            "span_pruning_max_parent_depth=-2",
            "invalid span_pruning_max_parent_depth: must be -1 or more",
        ),
    ] {
        let (status, body) = door.page(&format!("/api/v2/traces/abc?{parameters}")).await;
        assert!(status == 400 && body.contains(words), "{parameters}: {status} {body}");
    }
    // The first API does not fold, and does not look.
    let (status, body) = door.page("/api/traces/abc?span_pruning=maybe").await;
    assert!(status == 200 && body.matches("spanId").count() == 7, "{status} {body}");
}

#[tokio::test]
async fn spans_of_a_trace_are_picked_by_a_filter() {
    let door = open("").await;
    *door.script.trace.lock() = TraceAnswer {
        trace: trace(),
        is_picked: true,
        ..TraceAnswer::default()
    };
    let path = "/api/v2/traces/abc?q=%7Bstatus%3Derror%7D&keep_hierarchy=true&match_depth=2&ancestor_depth=1";
    let answer = door.get(path, &[]).await.json::<Value>().await.unwrap();
    assert_eq!(
        (answer["status"].as_str(), answer["message"].as_str()),
        (Some("PARTIAL"), Some("only the spans that q asks for are returned"))
    );
    let pick = |q: &str, above, below| query::SpanPick::new(&query::parse(q).unwrap(), above, below).unwrap();
    use query::Levels::{All, UpTo};
    for (parameters, expected) in [
        ("", None),
        ("q=+&keep_hierarchy=1", None),
        ("q=%7Bstatus%3Derror%7D", Some((UpTo(0), UpTo(0)))),
        ("q=%7Bstatus%3Derror%7D&ancestor_depth=9", Some((UpTo(0), UpTo(0)))),
        ("q=%7Bstatus%3Derror%7D&keep_hierarchy=1", Some((All, UpTo(0)))),
        ("q=%7Bstatus%3Derror%7D&match_depth=-1", Some((UpTo(0), All))),
        (
            "q=%7Bstatus%3Derror%7D&keep_hierarchy=t&match_depth=2&ancestor_depth=1",
            Some((UpTo(1), UpTo(2))),
        ),
    ] {
        assert_eq!(
            door.page(&format!("/api/v2/traces/abc?{parameters}")).await.0,
            200,
            "{parameters}"
        );
        let expected = expected.map(|(above, below)| pick("{ status = error }", above, below));
        assert_eq!(door.script.traces.lock().last().unwrap().pick, expected, "{parameters}");
    }
    for (parameters, words) in [
        ("q=%7Bstatus%3Derror%7D&match_depth=-2", "invalid match_depth"),
        ("q=%7Bstatus%3Derror%7D&match_depth=x", "invalid match_depth"),
        (
            "q=%7Bstatus%3Derror%7D&keep_hierarchy=1&ancestor_depth=-2",
            "invalid ancestor_depth",
        ),
        ("q=%7Bstatus%3Derror%7D&keep_hierarchy=x", "invalid keep_hierarchy"),
        ("q=%7B", "invalid TraceQL query"),
        ("q=%7B%7D|rate()", "single filter"),
        ("q=%7B%7D>>%7B%7D", "single filter"),
    ] {
        let (status, body) = door.page(&format!("/api/v2/traces/abc?{parameters}")).await;
        assert!(status == 400 && body.contains(words), "{parameters}: {status} {body}");
    }
    door.get("/api/traces/abc?q=%7B", &[]).await;
    assert_eq!(
        door.script.traces.lock().last().unwrap().pick,
        None,
        "the first API does not pick"
    );
}

#[tokio::test]
async fn tags_by_scope() {
    let door = open("").await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    *door.script.tag_names.lock() = TagsAnswer {
        scopes: vec![
            (Scope::Span, names(&["b", "a"])),
            (Scope::Resource, names(&["a"])),
            (Scope::Event, vec![]),
        ],
        ..TagsAnswer::default()
    };
    let v1 = door.get("/api/search/tags", &[]).await.json::<Value>().await.unwrap();
    assert_eq!(v1, json!({"tagNames": ["a", "b"], "metrics": {}}));
    let v2 = door
        .get("/api/v2/search/tags?limit=5000", &[])
        .await
        .json::<Value>()
        .await
        .unwrap();
    let scopes: Vec<_> = v2["scopes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|scope| scope["name"].as_str().unwrap())
        .collect();
    assert_eq!(scopes, ["span", "resource", "intrinsic"]);
    assert!(
        v2["scopes"][2]["tags"]
            .as_array()
            .unwrap()
            .contains(&json!("traceDuration"))
    );
    let v2 = door
        .get("/api/v2/search/tags?scope=span", &[])
        .await
        .json::<Value>()
        .await
        .unwrap();
    assert!(!v2.to_string().contains("intrinsic"));
    assert_eq!(door.script.tags.lock().last().unwrap().scope, Some(Scope::Span));
    let asked = door.script.tags.lock().len();
    let v2 = door
        .get("/api/v2/search/tags?scope=intrinsic", &[])
        .await
        .json::<Value>()
        .await
        .unwrap();
    assert_eq!(v2["scopes"].as_array().unwrap().len(), 1);
    assert_eq!(door.script.tags.lock().len(), asked, "nobody is asked for intrinsics");
    assert_eq!(
        door.page("/api/v2/search/tags?scope=x").await,
        (400, "invalid scope: x".into())
    );
    door.script.tag_names.lock().is_cut = true;
    assert_eq!(
        door.get("/api/search/tags", &[]).await.headers()["x-vivace-partial"],
        "there are more names than fit"
    );
}

#[tokio::test]
async fn tag_values_by_type() {
    let door = open("").await;
    *door.script.tag_values.lock() = ValuesAnswer {
        values: vec![
            Static::str("x"),
            Static::Int(7),
            Static::Float(0.5),
            Static::Bool(true),
            Static::Nil,
        ],
        ..ValuesAnswer::default()
    };
    let v1 = door
        .get("/api/search/tag/service.name/values", &[])
        .await
        .json::<Value>()
        .await
        .unwrap();
    assert_eq!(v1["tagValues"].as_array().unwrap().len(), 5);
    let v2 = door
        .get(
            "/api/v2/search/tag/resource.service.name/values?q=%7B+.a%3D&limit=9",
            &[],
        )
        .await;
    let expected = json!({"metrics": {}, "tagValues": [
        {"type": "string", "value": "x"}, {"type": "int", "value": "7"},
        {"type": "float", "value": "0.5"}, {"type": "bool", "value": "true"}]});
    assert_eq!(v2.json::<Value>().await.unwrap(), expected);
    {
        let asked = door.script.values.lock();
        assert_eq!(asked[0].field, query::field::Field::attribute(None, "service.name"));
        assert_eq!(asked[1].field, query::parse_field("resource.service.name").unwrap());
        assert_eq!((asked[1].values_max, asked[1].bytes_max), (9, 1_000_000));
    }
    // Encoded twice, once, and not at all.
    for path in ["span.a%252Fb", "span.a%2Fb", "span.a/b"] {
        assert_eq!(door.page(&format!("/api/v2/search/tag/{path}/values")).await.0, 200);
        assert_eq!(
            door.script.values.lock().last().unwrap().field,
            query::parse_field("span.a/b").unwrap()
        );
    }
    let (status, body) = door.page("/api/v2/search/tag/nonsense/values").await;
    assert!(
        status == 400 && body.starts_with("tag name is not valid"),
        "{status} {body}"
    );
    let asked = door.script.values.lock().len();
    let status = door
        .get("/api/v2/search/tag/status/values", &[])
        .await
        .json::<Value>()
        .await
        .unwrap();
    assert_eq!(status["tagValues"][0], json!({"type": "keyword", "value": "error"}));
    let kind = door
        .get("/api/v2/search/tag/kind/values", &[])
        .await
        .json::<Value>()
        .await
        .unwrap();
    assert_eq!(kind["tagValues"].as_array().unwrap().len(), 6);
    assert_eq!(
        door.page("/api/v2/search/tag/duration/values").await,
        (200, r#"{"metrics":{}}"#.into())
    );
    assert_eq!(
        door.script.values.lock().len(),
        asked,
        "nobody is asked for what is fixed"
    );
}

#[tokio::test]
async fn refusals_are_plain_text() {
    let door = open("").await;
    for (kind, status) in [
        (Kind::Throttled, 429),
        (Kind::Unavailable, 503),
        (Kind::TimedOut, 504),
        (Kind::AnswerTooLarge, 422),
        (Kind::Internal, 500),
    ] {
        *door.script.refusal.lock() = Some(Refusal::new(kind, "<b>why</b>"));
        let answer = door.get("/api/search", &[]).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        let comes_back = matches!(kind, Kind::Throttled | Kind::Unavailable);
        assert_eq!(answer.headers().contains_key("retry-after"), comes_back);
        assert_eq!(answer.text().await.unwrap(), "<b>why</b>");
    }
}

#[tokio::test]
async fn reads_are_for_the_tenants_of_the_header() {
    let door = open("{tenancy: {multitenancy_enabled: true}, limits: {tenants: {small: {trace_bytes_max: 9B}}}}").await;
    assert_eq!(door.page("/api/search").await, (401, "no org id".into()));
    for (tenant, status) in [("a", 200), ("b|a|b", 200), ("a/b", 401), ("", 401), ("a|", 401)] {
        assert_eq!(
            door.get("/api/search", &[("x-scope-orgid", tenant)]).await.status(),
            status,
            "{tenant}"
        );
    }
    let tenants: Vec<_> = door
        .script
        .searches
        .lock()
        .last()
        .unwrap()
        .tenants
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(tenants, ["a", "b"]);
    door.get("/api/traces/1", &[("x-scope-orgid", "small")]).await;
    assert_eq!(door.script.traces.lock().last().unwrap().bytes_max, 9);
    assert_eq!(door.get("/ready", &[]).await.status(), 503, "pages need no tenant");
}

#[tokio::test]
async fn answers_are_compressed_when_asked_for_and_worth_it() {
    let door = open("").await;
    let traces = found().traces;
    *door.script.search.lock() = SearchAnswer {
        traces: traces.iter().cycle().take(400).cloned().collect(),
        ..SearchAnswer::default()
    };
    let plain = door.get("/api/search", &[]).await;
    assert!(!plain.headers().contains_key("content-encoding"));
    let plain = plain.bytes().await.unwrap();
    for accept in ["gzip", "deflate, gzip;q=0.5", "GZIP"] {
        let zipped = door.get("/api/search", &[("accept-encoding", accept)]).await;
        assert_eq!(zipped.headers()["content-encoding"], "gzip", "{accept}");
        let mut out = Vec::new();
        let zipped = zipped.bytes().await.unwrap();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&zipped[..]), &mut out).unwrap();
        assert!(out == plain && zipped.len() < plain.len() / 4);
    }
    for accept in ["gzip;q=0", "br", "identity"] {
        let answer = door.get("/api/search", &[("accept-encoding", accept)]).await;
        assert!(!answer.headers().contains_key("content-encoding"), "{accept}");
    }
    assert!(
        !door
            .get("/api/echo", &[("accept-encoding", "gzip")])
            .await
            .headers()
            .contains_key("content-encoding")
    );
}

#[tokio::test]
async fn answers_at_the_limit_and_one_beside_it() {
    let door = open("query: {response_bytes_max: 64KiB}").await;
    for (length, status) in [(65_535, 200), (65_536, 200), (65_537, 422)] {
        *door.script.trace.lock() = TraceAnswer {
            trace: Bytes::from(vec![0; length]),
            ..TraceAnswer::default()
        };
        assert_eq!(door.get("/api/traces/1", PROTOBUF).await.status(), status, "{length}");
    }
    let refused = "answer exceeds query.response_bytes_max: 64KiB; ask for less";

    // What is too large is refused before it is written out, and what is large and fits is written elsewhere.
    for (samples, status) in [(500, 200), (8_000, 422), (1_000_000, 422)] {
        *door.script.metrics.lock() = MetricsAnswer {
            series: vec![Series {
                labels: vec![],
                samples: (0..samples).map(|at| (at * SECOND, 0.5)).collect(),
                exemplars: vec![],
            }],
            ..MetricsAnswer::default()
        };
        let (found, body) = door.page("/api/metrics/query_range?q=%7B%7D%7Crate()").await;
        assert_eq!(found, status, "{samples}");
        assert!(status == 200 || body == refused, "{body}");
    }
}

#[tokio::test]
async fn a_tenant_has_so_many_queries_at_once() {
    let door = open("limits: {defaults: {queries_concurrent_max: 2, queries_queued_max: 1}}").await;
    let gate = Arc::new(Notify::new());
    *door.script.gate.lock() = Some(gate.clone());
    let url = format!("http://{}/api/search", door.api);
    let ask = || tokio::spawn(reqwest::Client::new().get(&url).send());
    let running = [ask(), ask()];
    while door.script.searches.lock().len() < 2 {
        tokio::task::yield_now().await;
    }
    // Of two more, one waits and one is told to come back; which is which is theirs.
    let more = [ask(), ask()];
    let (first, _, rest) = futures::future::select_all(more).await;
    let refused = first.unwrap().unwrap();
    assert_eq!(
        (refused.status().as_u16(), refused.headers()["retry-after"].as_bytes()),
        (429, &b"1"[..])
    );
    *door.script.gate.lock() = None;
    gate.notify_waiters();
    for answer in running.into_iter().chain(rest) {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_query_has_a_deadline() {
    // The shorter of the node's and the tenant's.
    let door = open("{query: {search_timeout: 50ms}, limits: {defaults: {query_time_max: 60ms}}}").await;
    *door.script.gate.lock() = Some(Arc::new(Notify::new()));
    assert_eq!(
        door.page("/api/search").await,
        (504, "query exceeds query.search_timeout: 50ms".into())
    );
    assert_eq!(
        door.page("/api/traces/1").await,
        (504, "query exceeds query_time_max: 60ms".into())
    );
}

#[tokio::test]
async fn a_client_that_goes_away_gives_up_its_turn() {
    let door = open("limits: {defaults: {queries_concurrent_max: 1, queries_queued_max: 0}}").await;
    *door.script.gate.lock() = Some(Arc::new(Notify::new()));
    let asking = tokio::spawn(
        reqwest::Client::new()
            .get(format!("http://{}/api/search", door.api))
            .send(),
    );
    while door.script.searches.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    asking.abort();
    *door.script.gate.lock() = None;
    // Until the server has seen it, the turn is taken.
    while door.page("/api/search").await.0 == 429 {
        tokio::task::yield_now().await;
    }
    assert_eq!(door.page("/api/search").await.0, 200);
}

#[tokio::test]
async fn request_lines_that_are_too_long_are_refused() {
    let door = open("").await;
    for (length, status, reason) in [
        (65_533, 200, "echo"),
        (65_534, 200, "echo"),
        (65_535, 414, "the request line is longer than 65534 bytes"),
        (1 << 20, 431, "the head of the request is too large"),
    ] {
        let path = "/api/echo?x=";
        let head = format!(
            "GET {path}{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "a".repeat(length - path.len())
        );
        let stream = tokio::net::TcpStream::connect(door.api).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        // The peer answers before it has read all.
        let writing = tokio::spawn(async move { writing.write_all(head.as_bytes()).await });
        let mut answer = Vec::new();
        let _ = reading.read_to_end(&mut answer).await;
        writing.abort();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{length}: {answer}");
        assert!(answer.contains(reason), "{length}: {answer}");
    }
}

#[tokio::test]
async fn the_same_questions_over_grpc() {
    let door = open("{tenancy: {multitenancy_enabled: true}}").await;
    *door.script.search.lock() = found();
    let tenant = ("x-scope-orgid", "t");
    let search = tempopb::SearchRequest {
        query: "{ .a = 1 }".into(),
        start: 100,
        end: 200,
        limit: 5,
        ..Default::default()
    };
    let call = async |method: &str, headers: &[(&str, &str)], body: Vec<u8>| {
        grpc_call(
            door.api,
            &format!("/tempopb.StreamingQuerier/{method}"),
            headers,
            framed(false, &body),
        )
        .await
    };
    let answer = call("Search", &[tenant], search.encode_to_vec()).await;
    assert_eq!(answer.code, "0");
    let message = tempopb::SearchResponse::decode(answer.body).unwrap();
    assert_eq!((message.traces.len(), message.metrics.unwrap().total_jobs), (2, 4));
    {
        let asked = door.script.searches.lock();
        let request = asked[0].plan.request();
        assert_eq!(
            (
                request.window.start_unix_nanos,
                request.limit,
                request.spans_per_spanset
            ),
            (100 * SECOND, 5, 3)
        );
    }
    let bad = tempopb::SearchRequest {
        query: "{".into(),
        ..Default::default()
    };
    let answer = call("Search", &[tenant], bad.encode_to_vec()).await;
    assert!(
        answer.code == "3" && answer.message.starts_with("invalid%20TraceQL%20query"),
        "{answer:?}"
    );
    assert_eq!(call("Search", &[], search.encode_to_vec()).await.code, "16");
    *door.script.tag_values.lock() = ValuesAnswer {
        values: vec![Static::str("x")],
        ..ValuesAnswer::default()
    };
    let values = tempopb::SearchTagValuesRequest {
        tag_name: ".a".into(),
        ..Default::default()
    };
    let answer = call("SearchTagValuesV2", &[tenant], values.encode_to_vec()).await;
    assert_eq!(
        tempopb::SearchTagValuesV2Response::decode(answer.body)
            .unwrap()
            .tag_values[0]
            .value,
        "x"
    );
    let answer = call("SearchTagsV2", &[tenant], vec![]).await;
    assert_eq!(
        tempopb::SearchTagsV2Response::decode(answer.body).unwrap().scopes[0].name,
        "intrinsic"
    );
    assert_eq!(call("Nothing", &[tenant], vec![]).await.code, "12");
    assert_eq!(
        door.get("/api/echo", &[]).await.status(),
        200,
        "HTTP is on the same port"
    );
}
