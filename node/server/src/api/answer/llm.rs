//! Answers for programs that read as people do: few words, nothing twice, no nesting that says nothing.
//!
//! Tempo has this form for traces and values and promises nothing of its shape; ours is one object per span.

use std::collections::BTreeMap;

use prost::Message as _;
use query::field::scope_word;
use serde_json::{Map, Value, json};
use wire::tempopb::common::v1::any_value::Value as Any;
use wire::tempopb::common::v1::{AnyValue, KeyValue};
use wire::tempopb::trace::v1::Span;
use wire::tempopb::{SearchTagValuesV2Response, Trace};

use super::intrinsic_tags;
use crate::querier::{TagsAnswer, TraceAnswer};
use crate::refusal::{Kind, Refusal};

/// One object per span, by start; what a span does not have is left out.
pub(crate) fn trace(answer: &TraceAnswer) -> Result<Vec<u8>, Refusal> {
    let trace = Trace::decode(&answer.trace[..])
        .map_err(|error| Refusal::new(Kind::Internal, format!("cannot read the trace: {error}")))?;
    let mut spans: Vec<(u64, Value)> = Vec::new();
    let mut resources: BTreeMap<String, Value> = BTreeMap::new();
    let first = |span: &Span| span.start_time_unix_nano;
    let all = trace
        .resource_spans
        .iter()
        .flat_map(|r| &r.scope_spans)
        .flat_map(|s| &s.spans);
    let start = all.map(first).min().unwrap_or(0);
    let mut id = String::new();
    for resource_spans in &trace.resource_spans {
        let attributes = resource_spans
            .resource
            .as_ref()
            .map(|resource| plain_map(&resource.attributes));
        let attributes = attributes.unwrap_or_default();
        let service = attributes
            .get("service.name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        resources.entry(service.clone()).or_insert(Value::Object(attributes));
        for span in resource_spans.scope_spans.iter().flat_map(|scope| &scope.spans) {
            id = hex(&span.trace_id);
            spans.push((first(span), span_object(span, &service, start)));
        }
    }
    spans.sort_by_key(|(start, _)| *start);
    let spans: Vec<Value> = spans.into_iter().map(|(_, span)| span).collect();
    let body = json!({"traceId": id, "startTimeUnixNano": start.to_string(), "services": resources, "spans": spans});
    Ok(body.to_string().into_bytes())
}

fn span_object(span: &Span, service: &str, trace_start: u64) -> Value {
    let millis = |nanos: u64| nanos as f64 / 1e6;
    let mut out = Map::new();
    out.insert("spanId".into(), hex(&span.span_id).into());
    if !span.parent_span_id.is_empty() {
        out.insert("parentSpanId".into(), hex(&span.parent_span_id).into());
    }
    out.insert("service".into(), service.into());
    out.insert("name".into(), span.name.as_str().into());
    let kind = match span.kind {
        1 => Some("internal"),
        2 => Some("server"),
        3 => Some("client"),
        4 => Some("producer"),
        5 => Some("consumer"),
        _ => None,
    };
    out.extend(kind.map(|kind| ("kind".to_owned(), kind.into())));
    out.insert(
        "startMs".into(),
        millis(span.start_time_unix_nano.saturating_sub(trace_start)).into(),
    );
    let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    out.insert("durationMs".into(), millis(nanos).into());
    if let Some(status) = &span.status {
        if status.code == 2 {
            out.insert("status".into(), "error".into());
        }
        if !status.message.is_empty() {
            out.insert("statusMessage".into(), status.message.as_str().into());
        }
    }
    if !span.attributes.is_empty() {
        out.insert("attributes".into(), Value::Object(plain_map(&span.attributes)));
    }
    if !span.events.is_empty() {
        let event = |event: &wire::tempopb::trace::v1::span::Event| {
            let at = event.time_unix_nano.saturating_sub(span.start_time_unix_nano);
            json!({"name": event.name, "atMs": millis(at), "attributes": plain_map(&event.attributes)})
        };
        out.insert("events".into(), span.events.iter().map(event).collect());
    }
    if !span.links.is_empty() {
        let link = |link: &wire::tempopb::trace::v1::span::Link| json!({"traceId": hex(&link.trace_id), "spanId": hex(&link.span_id)});
        out.insert("links".into(), span.links.iter().map(link).collect());
    }
    Value::Object(out)
}

/// Values by type.
pub(super) fn values(found: &SearchTagValuesV2Response) -> Vec<u8> {
    let mut by_type: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for value in &found.tag_values {
        by_type.entry(&value.r#type).or_default().push(&value.value);
    }
    json!(by_type).to_string().into_bytes()
}

/// Names by scope.
pub(crate) fn names(found: &TagsAnswer, with_intrinsics: bool) -> Vec<u8> {
    let mut by_scope: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (scope, names) in found.scopes.iter().filter(|(_, names)| !names.is_empty()) {
        by_scope.insert(scope_word(*scope), names.clone());
    }
    if with_intrinsics {
        by_scope.insert("intrinsic", intrinsic_tags());
    }
    json!(by_scope).to_string().into_bytes()
}

fn plain_map(attributes: &[KeyValue]) -> Map<String, Value> {
    let pair = |pair: &KeyValue| (pair.key.clone(), pair.value.as_ref().map_or(Value::Null, plain));
    attributes.iter().map(pair).collect()
}

fn plain(value: &AnyValue) -> Value {
    match &value.value {
        None => Value::Null,
        Some(Any::StringValue(text)) => text.as_str().into(),
        Some(Any::BoolValue(value)) => (*value).into(),
        Some(Any::IntValue(value)) => (*value).into(),
        Some(Any::DoubleValue(value)) => (*value).into(),
        Some(Any::ArrayValue(items)) => items.values.iter().map(plain).collect(),
        Some(Any::KvlistValue(pairs)) => Value::Object(plain_map(&pairs.values)),
        Some(Any::BytesValue(bytes)) => hex(bytes).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
