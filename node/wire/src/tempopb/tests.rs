//! The JSON of every answer, as Grafana and tempo-cli read it.

use super::common::v1::any_value::Value;
use super::common::v1::{AnyValue, ArrayValue, KeyValue};
use super::*;

fn check<M: Tabled + Default + PartialEq>(message: M, expected: &str) {
    assert_eq!(String::from_utf8(to_json(&message)).unwrap(), expected);
    assert!(
        from_json::<M>(expected.as_bytes()).unwrap() == message,
        "reads back: {expected}"
    );
}

fn label(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

fn text(value: &str) -> Value {
    Value::StringValue(value.into())
}

#[test]
fn empty_answers_are_empty_objects() {
    check(SearchResponse::default(), "{}");
    check(SearchTagsResponse::default(), "{}");
    check(QueryRangeResponse::default(), "{}");
    check(
        SearchResponse {
            metrics: Some(SearchMetrics::default()),
            ..SearchResponse::default()
        },
        r#"{"metrics":{}}"#,
    );
}

#[test]
fn search() {
    let span = Span {
        span_id: "0102030405060708".into(),
        name: "GET /".into(),
        start_time_unix_nano: 1_700_000_000_000_000_000,
        duration_nanos: 1_500_000,
        attributes: vec![
            label("a.string", text("x")),
            label("a.int", Value::IntValue(-3)),
            label("a.double", Value::DoubleValue(0.25)),
            label("a.bool", Value::BoolValue(false)),
            label(
                "an.array",
                Value::ArrayValue(ArrayValue {
                    values: vec![AnyValue {
                        value: Some(Value::IntValue(0)),
                    }],
                }),
            ),
        ],
    };
    let set = SpanSet {
        spans: vec![span],
        matched: 4,
        attributes: vec![label("by(name)", text("GET /"))],
    };
    let trace = TraceSearchMetadata {
        trace_id: "abc".into(),
        root_service_name: "<root span not yet received>".into(),
        start_time_unix_nano: 1_700_000_000_000_000_000,
        duration_ms: 12,
        span_set: Some(set.clone()),
        span_sets: vec![set],
        service_stats: [
            (
                "web".into(),
                ServiceStats {
                    span_count: 2,
                    error_count: 0,
                },
            ),
            (
                "db".into(),
                ServiceStats {
                    span_count: 1,
                    error_count: 1,
                },
            ),
        ]
        .into(),
        ..TraceSearchMetadata::default()
    };
    let metrics = SearchMetrics {
        inspected_traces: 1,
        inspected_bytes: 2,
        total_blocks: 3,
        completed_jobs: 4,
        total_jobs: 5,
        total_block_bytes: 6,
        inspected_spans: 7,
        backend_reads: 8,
        backend_bytes: 9,
        additional_metrics: [("pagesInspected".into(), 10), ("cacheHits".into(), 0)].into(),
    };
    let set = r#"{"spans":[{"spanID":"0102030405060708","name":"GET /","startTimeUnixNano":"1700000000000000000","durationNanos":"1500000","attributes":[{"key":"a.string","value":{"stringValue":"x"}},{"key":"a.int","value":{"intValue":"-3"}},{"key":"a.double","value":{"doubleValue":0.25}},{"key":"a.bool","value":{"boolValue":false}},{"key":"an.array","value":{"arrayValue":{"values":[{"intValue":"0"}]}}}]}],"matched":4,"attributes":[{"key":"by(name)","value":{"stringValue":"GET /"}}]}"#;
    let expected = format!(
        r#"{{"traces":[{{"traceID":"abc","rootServiceName":"<root span not yet received>","startTimeUnixNano":"1700000000000000000","durationMs":12,"spanSet":{set},"spanSets":[{set}],"serviceStats":{{"db":{{"spanCount":1,"errorCount":1}},"web":{{"spanCount":2}}}}}}],"metrics":{{"inspectedTraces":1,"inspectedBytes":"2","totalBlocks":3,"completedJobs":4,"totalJobs":5,"totalBlockBytes":"6","inspectedSpans":"7","backendReads":"8","backendBytes":"9","additionalMetrics":{{"cacheHits":"0","pagesInspected":"10"}}}}}}"#
    );
    check(
        SearchResponse {
            traces: vec![trace],
            metrics: Some(metrics),
        },
        &expected,
    );
}

#[test]
fn tags() {
    check(
        SearchTagsResponse {
            tag_names: vec!["b".into(), "a\"b".into(), String::new()],
            metrics: None,
        },
        r#"{"tagNames":["b","a\"b",""]}"#,
    );
    let scope = |name: &str, tags: &[&str]| SearchTagsV2Scope {
        name: name.into(),
        tags: tags.iter().map(|t| (*t).into()).collect(),
    };
    let metrics = MetadataMetrics {
        inspected_bytes: 5,
        total_jobs: 1,
        ..MetadataMetrics::default()
    };
    check(
        SearchTagsV2Response {
            scopes: vec![scope("span", &["http.route"]), scope("resource", &[])],
            metrics: Some(metrics),
        },
        r#"{"scopes":[{"name":"span","tags":["http.route"]},{"name":"resource"}],"metrics":{"inspectedBytes":"5","totalJobs":1}}"#,
    );
    check(
        SearchTagValuesResponse {
            tag_values: vec!["v".into()],
            metrics: None,
        },
        r#"{"tagValues":["v"]}"#,
    );
    let value = TagValue {
        r#type: "keyword".into(),
        value: "error".into(),
    };
    check(
        SearchTagValuesV2Response {
            tag_values: vec![value],
            metrics: None,
        },
        r#"{"tagValues":[{"type":"keyword","value":"error"}]}"#,
    );
}

#[test]
fn metrics() {
    let series = TimeSeries {
        labels: vec![label("resource.service.name", text("web"))],
        samples: vec![
            Sample {
                timestamp_ms: 1_700_000_000_000,
                value: 1.0,
            },
            Sample {
                timestamp_ms: 1_700_000_015_000,
                value: 0.0,
            },
        ],
        exemplars: vec![Exemplar {
            labels: vec![label("trace:id", text("abc"))],
            value: 2.5,
            timestamp_ms: 1_700_000_000_001,
        }],
    };
    let message = "Response exceeds maximum series limit of 1".to_owned();
    let answer = QueryRangeResponse {
        series: vec![series],
        metrics: None,
        status: PartialStatus::Partial as i32,
        message,
    };
    check(
        answer,
        r#"{"series":[{"labels":[{"key":"resource.service.name","value":{"stringValue":"web"}}],"samples":[{"timestampMs":"1700000000000","value":1},{"timestampMs":"1700000015000"}],"exemplars":[{"labels":[{"key":"trace:id","value":{"stringValue":"abc"}}],"value":2.5,"timestampMs":"1700000000001"}]}],"status":"PARTIAL","message":"Response exceeds maximum series limit of 1"}"#,
    );
    let series = InstantSeries {
        labels: vec![label("p", Value::DoubleValue(0.99))],
        value: 1e21,
    };
    check(
        QueryInstantResponse {
            series: vec![series],
            ..QueryInstantResponse::default()
        },
        r#"{"series":[{"labels":[{"key":"p","value":{"doubleValue":0.99}}],"value":1e21}]}"#,
    );
}

#[test]
fn requests_have_the_names_of_tempo() {
    let request = SearchRequest {
        tags: [("service.name".into(), "web".into())].into(),
        min_duration_ms: 1,
        limit: 20,
        start: 5,
        query: "{}".into(),
        spans_per_span_set: 3,
        ..SearchRequest::default()
    };
    check(
        request,
        r#"{"Tags":{"service.name":"web"},"MinDurationMs":1,"Limit":20,"start":5,"Query":"{}","SpansPerSpanSet":3}"#,
    );
    check(
        QueryRangeRequest {
            instant: Some(false),
            ..QueryRangeRequest::default()
        },
        r#"{"instant":false}"#,
    );
}

#[test]
fn a_trace_keeps_what_is_present_but_empty() {
    use super::common::v1::{InstrumentationScope, Resource};
    use super::trace::v1::span::{Event, Link};
    use super::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
    let span = Span {
        trace_id: vec![0xfb; 16],
        span_id: vec![1; 8],
        parent_span_id: vec![2; 8],
        flags: 257,
        name: "op\n\u{1}é".into(),
        kind: 2,
        start_time_unix_nano: u64::MAX,
        attributes: vec![
            label("blob", Value::BytesValue(vec![0, 255])),
            KeyValue {
                key: "nothing".into(),
                value: Some(AnyValue::default()),
            },
            label("nan", Value::DoubleValue(f64::INFINITY)),
        ],
        events: vec![Event {
            time_unix_nano: 3,
            name: "e".into(),
            ..Event::default()
        }],
        links: vec![Link {
            trace_id: vec![3; 16],
            span_id: vec![4; 8],
            ..Link::default()
        }],
        dropped_links_count: 1,
        status: Some(Status::default()),
        ..Span::default()
    };
    let failed = Span {
        kind: 77,
        status: Some(Status {
            message: "m".into(),
            code: 2,
        }),
        ..Span::default()
    };
    let scope_spans = ScopeSpans {
        scope: Some(InstrumentationScope::default()),
        spans: vec![span, failed],
        schema_url: "s".into(),
    };
    let resource_spans = ResourceSpans {
        resource: Some(Resource::default()),
        scope_spans: vec![scope_spans],
        schema_url: "r".into(),
    };
    check(
        Trace {
            resource_spans: vec![resource_spans],
        },
        r#"{"resourceSpans":[{"resource":{},"scopeSpans":[{"scope":{},"spans":[{"traceId":"+/v7+/v7+/v7+/v7+/v7+w==","spanId":"AQEBAQEBAQE=","parentSpanId":"AgICAgICAgI=","flags":257,"name":"op\n\u0001é","kind":"SPAN_KIND_SERVER","startTimeUnixNano":"18446744073709551615","attributes":[{"key":"blob","value":{"bytesValue":"AP8="}},{"key":"nothing","value":{}},{"key":"nan","value":{"doubleValue":"Infinity"}}],"events":[{"timeUnixNano":"3","name":"e"}],"links":[{"traceId":"AwMDAwMDAwMDAwMDAwMDAw==","spanId":"BAQEBAQEBAQ="}],"droppedLinksCount":1,"status":{}},{"kind":77,"status":{"message":"m","code":"STATUS_CODE_ERROR"}}],"schemaUrl":"s"}],"schemaUrl":"r"}]}"#,
    );
}

#[test]
fn a_trace_is_an_otlp_request_byte_for_byte() {
    let body = prost::Message::encode_to_vec(&crate::synthetic::request(3, 60));
    let ours = Trace::decode(&body[..]).unwrap();
    assert!(ours.encode_to_vec() == body);
}
