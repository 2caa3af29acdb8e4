//! Two traces in, a document out.

use serde_json::{Value, json};
use wire::tempopb::common::v1::any_value::Value as Any;
use wire::tempopb::common::v1::{AnyValue, KeyValue, Resource};
use wire::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::*;

const MILLI: u64 = 1_000_000;

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

fn span(id: u8, parent: u8, name: &str, from: u64, to: u64) -> Span {
    Span {
        trace_id: vec![7; 16],
        span_id: vec![id],
        parent_span_id: if parent == 0 { vec![] } else { vec![parent] },
        name: name.into(),
        kind: 2,
        start_time_unix_nano: (1000 + from) * MILLI,
        end_time_unix_nano: (1000 + to) * MILLI,
        ..Default::default()
    }
}

fn failed(mut span: Span) -> Span {
    span.status = Some(Status {
        code: 2,
        ..Default::default()
    });
    span
}

fn with(mut span: Span, key: &str, value: Any) -> Span {
    span.attributes.push(pair(key, value));
    span
}

fn trace(services: &[(&str, Vec<Span>)]) -> Trace {
    let of = |(service, spans): &(&str, Vec<Span>)| ResourceSpans {
        resource: Some(Resource {
            attributes: vec![pair("service.name", Any::StringValue((*service).into()))],
            ..Default::default()
        }),
        scope_spans: vec![ScopeSpans {
            spans: spans.clone(),
            ..Default::default()
        }],
        ..Default::default()
    };
    Trace {
        resource_spans: services.iter().map(of).collect(),
    }
}

fn diff(base: &Trace, compared: &Trace, format: &str) -> Value {
    let format = Format::from_word(format).unwrap();
    serde_json::from_slice(&document(base, compared, format).unwrap()).unwrap()
}

fn base() -> Trace {
    trace(&[
        ("shop", vec![span(1, 0, "GET /", 0, 100)]),
        (
            "db",
            vec![
                with(span(2, 1, "SELECT", 10, 20), "rows", Any::IntValue(5)),
                span(3, 1, "SELECT", 30, 40),
                span(4, 1, "COMMIT", 50, 60),
            ],
        ),
    ])
}

#[test]
fn a_trace_does_not_differ_from_itself_under_other_ids() {
    let mut other = base();
    for span in other
        .resource_spans
        .iter_mut()
        .flat_map(|r| &mut r.scope_spans)
        .flat_map(|s| &mut s.spans)
    {
        span.span_id[0] += 100;
        span.parent_span_id.iter_mut().for_each(|id| *id += 100);
        span.start_time_unix_nano += 5_000 * MILLI;
        span.end_time_unix_nano += 5_000 * MILLI;
    }
    let patch = diff(&base(), &other, "trace-patch-v0");
    assert_eq!(patch["stats"]["matchedSpans"], 4);
    assert_eq!(
        (&patch["modified"], &patch["added"], &patch["removed"]),
        (&json!([]), &json!([]), &json!([]))
    );
    let summary = diff(&base(), &other, "trace-summary-v0-native");
    assert_eq!(summary["changedServices"], json!([]));
    assert_eq!(
        summary["trust"],
        json!({"matchedSpanRatio": 1.0, "structureOverlap": 1.0})
    );
}

#[test]
fn a_patch_names_every_change() {
    let compared = trace(&[
        ("shop", vec![span(1, 0, "GET /", 0, 300)]),
        (
            "db",
            vec![
                with(span(2, 1, "SELECT", 10, 20), "rows", Any::StringValue("many".into())),
                failed(span(3, 1, "SELECT", 30, 40)),
            ],
        ),
        ("pay", vec![span(9, 3, "POST", 31, 39)]),
    ]);
    let patch = diff(&base(), &compared, "trace-patch-v0");
    let place = |path: Value, service: &str, name: &str| json!({"path": path, "service": service, "name": name, "kind": "server"});
    let expected = json!({
        "version": "trace-patch-v0",
        "base": {"traceId": "07".repeat(16), "spanCount": 4},
        "compare": {"traceId": "07".repeat(16), "spanCount": 4},
        "stats": {
            "spanCountA": 4, "spanCountB": 4, "matchedSpans": 3, "modifiedSpans": 3, "addedSpans": 1, "removedSpans": 1,
            "fieldChanges": 2, "attributeChanges": 1, "eventChanges": 0, "truncated": false,
        },
        "modified": [
            {"span": place(json!([0]), "shop", "GET /"), "changes": [{
                "op": "modify", "target": {"type": "field", "name": "duration_nanos"},
                "before": 100 * MILLI, "after": 300 * MILLI}]},
            {"span": place(json!([0, 0]), "db", "SELECT"), "changes": [{
                "op": "modify", "target": {"type": "attribute", "scope": "span", "key": "rows"},
                "before": 5, "after": "many"}]},
            {"span": place(json!([0, 1]), "db", "SELECT"), "changes": [{
                "op": "modify", "target": {"type": "field", "name": "status"}, "before": "unset", "after": "error"}]},
        ],
        "added": [{
            "target": {"type": "span", "parentPath": [0, 1], "index": 0},
            "span": {"path": [0, 1, 0], "service": "pay", "name": "POST", "kind": "server",
                "duration_nanos": 8 * MILLI, "status": "unset"},
        }],
        "removed": [{
            "target": {"type": "span", "path": [0, 2]},
            "span": {"path": [0, 2], "service": "db", "name": "COMMIT", "kind": "server",
                "duration_nanos": 10 * MILLI, "status": "unset"},
        }],
        "warnings": [],
    });
    assert_eq!(patch, expected);
    let summary = diff(&base(), &compared, "trace-summary-v0-native");
    assert_eq!(
        summary["signals"],
        json!({"traceLatency": "increased", "sumSpanDuration": "increased", "errors": "increased",
            "spanCount": "unchanged", "structure": "changed"})
    );
    assert_eq!(summary["changedServices"], json!(["db", "pay", "shop"]));
    assert_eq!(
        summary["services"][0],
        json!({"name": "shop", "sumSpanDurationDeltaMs": 200, "modified": 1, "added": 0, "removed": 0,
            "newErrors": 0, "resolvedErrors": 0})
    );
    assert_eq!(summary["services"][1]["newErrors"], 1);
    assert_eq!(summary["stats"]["traceLatencyDeltaMs"], 200);
}

#[test]
fn what_changes_from_run_to_run_is_no_change() {
    let sized = |to: u64, size: i64, count: i64| {
        let span = with(
            span(1, 0, "GET /", 0, to),
            "http.response.body.size",
            Any::IntValue(size),
        );
        trace(&[("shop", vec![with(span, "count", Any::IntValue(count))])])
    };
    let changes = |other: &Trace| diff(&sized(100, 1000, 100), other, "trace-patch-v0")["modified"].clone();
    assert_eq!(changes(&sized(120, 1050, 100)), json!([]));
    assert_ne!(changes(&sized(140, 1000, 100)), json!([]));
    assert_ne!(changes(&sized(100, 1060, 100)), json!([]));
    assert_ne!(
        changes(&sized(100, 1000, 101)),
        json!([]),
        "what does not measure is compared exactly"
    );
}

#[test]
fn a_patch_that_is_too_large_is_left_out_and_says_so() {
    let wide = |extra: u8| {
        let spans = (0..200u8)
            .map(|id| span(id, 250, &format!("{} {} {extra}", "long ".repeat(20), id % 100), 0, 10))
            .collect();
        trace(&[("shop", spans)])
    };
    let composed = diff(&wide(1), &wide(2), "trace-summary-v0-composed");
    assert_eq!(composed["version"], "trace-summary-v0-composed");
    assert_eq!(composed["patchOmitted"]["reason"], "over_budget");
    assert!(composed["patchOmitted"]["bytes"].as_u64().unwrap() > PATCH_BYTES_MAX as u64);
    let small = diff(&base(), &base(), "trace-summary-v0-composed");
    assert_eq!(small["patch"]["version"], "trace-patch-v0");
    assert!(small.get("patchOmitted").is_none());
}

#[test]
fn odd_traces_are_warned_of() {
    let codes = |other: &Trace| -> Vec<String> {
        let warnings = diff(&base(), other, "trace-patch-v0")["warnings"].clone();
        warnings
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w["code"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(codes(&Trace::default()), ["zero_span_trace"]);
    let twice = vec![span(1, 2, "a", 0, 1), span(1, 2, "b", 0, 1), span(2, 1, "c", 5, 4)];
    assert_eq!(
        codes(&trace(&[("x", twice)])),
        ["duplicate_span_id", "invalid_duration"]
    );
    let ids = |name: &str| codes(&trace(&[("x", vec![span(1, 0, name, 0, 1)])]));
    assert_eq!(ids("GET /users/1234567"), ["high_cardinality_span_name"]);
    assert_eq!(
        ids("GET /f/0af7651916cd43dd8448eb211c80319c"),
        ["high_cardinality_span_name"]
    );
    assert!(ids("GET /v2/users/{id}").is_empty());
    assert_eq!(Format::from_word("x"), None);
}
