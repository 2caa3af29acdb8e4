//! Spans in, one trace out: grouped, without duplicates, bounded.

use prost::Message;

use super::*;
use crate::synthetic;
use crate::tempopb::{Trace, TraceByIdResponse};
use opentelemetry_proto::tonic::trace::v1::{Span, TracesData};

fn blob<'a>(message: Option<&'a [u8]>, schema_url: &'a str) -> Blob<'a> {
    Blob {
        message,
        schema_url: schema_url.as_bytes(),
    }
}

fn span(id: u8, name: &str) -> Vec<u8> {
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![id; 8],
        name: name.into(),
        start_time_unix_nano: 9,
        ..Span::default()
    };
    span.encode_to_vec()
}

fn names(trace: &AssembledTrace) -> Vec<Vec<Vec<String>>> {
    let data = TracesData::decode(&trace.bytes[..]).unwrap();
    let of_scope = |scope: &opentelemetry_proto::tonic::trace::v1::ScopeSpans| {
        scope.spans.iter().map(|s| s.name.clone()).collect()
    };
    data.resource_spans
        .iter()
        .map(|resource| resource.scope_spans.iter().map(of_scope).collect())
        .collect()
}

#[test]
fn a_trace_taken_apart_comes_back_equal() {
    let sent = synthetic::request(1, 200);
    let mut assembler = TraceAssembler::new(usize::MAX);
    for resource in &sent.resource_spans {
        let message = resource.resource.as_ref().unwrap().encode_to_vec();
        for scope in &resource.scope_spans {
            let scope_message = scope.scope.as_ref().unwrap().encode_to_vec();
            for span in &scope.spans {
                let owner = blob(Some(&message), &resource.schema_url);
                assembler
                    .push(
                        owner,
                        blob(Some(&scope_message), &scope.schema_url),
                        &span.encode_to_vec(),
                    )
                    .unwrap();
            }
        }
    }
    let estimate = assembler.bytes();
    let trace = assembler.finish();
    assert_eq!(
        (trace.span_count, trace.duplicate_count, trace.truncated),
        (200, 0, false)
    );
    assert_eq!(trace.bytes, sent.encode_to_vec());
    assert!(trace.bytes.len() <= estimate && estimate < trace.bytes.len() + 40 * sent.resource_spans.len());
}

#[test]
fn equal_owners_are_grouped_in_the_order_they_came() {
    let mut assembler = TraceAssembler::new(usize::MAX);
    let (a, b) = (b"\x10\x01".as_slice(), b"\x10\x02".as_slice());
    let pushes = [
        (Some(a), "", "s1", 1, "one"),
        (Some(b), "", "s1", 2, "two"),
        (Some(a), "", "s2", 3, "three"),
        (Some(a), "", "s1", 4, "four"),
        (None, "", "s1", 5, "absent"),
        (Some(&[][..]), "", "s1", 6, "empty"),
        (Some(a), "url", "s1", 7, "other url"),
    ];
    for (resource, url, scope, id, name) in pushes {
        assembler
            .push(blob(resource, url), blob(Some(b""), scope), &span(id, name))
            .unwrap();
    }
    let trace = assembler.finish();
    let expected: &[&[&[&str]]] = &[
        &[&["one", "four"], &["three"]],
        &[&["two"]],
        &[&["absent"]],
        &[&["empty"]],
        &[&["other url"]],
    ];
    assert_eq!(names(&trace), expected);
    let data = TracesData::decode(&trace.bytes[..]).unwrap();
    assert!(data.resource_spans[2].resource.is_none() && data.resource_spans[3].resource.is_some());
    assert!(data.resource_spans[0].scope_spans[0].scope.is_some());
}

#[test]
fn the_same_span_counts_once_however_its_fields_are_ordered() {
    let mut assembler = TraceAssembler::new(usize::MAX);
    let owner = blob(Some(b"\x10\x01"), "");
    let original = span(1, "op");
    let mut fields = Vec::new();
    let mut reader = Fields::new(&original);
    while let Some(entry) = reader.next_field().unwrap() {
        fields.push(entry.raw.to_vec());
    }
    fields.reverse();
    let mut reordered = fields.concat();
    proto::write_varint_field(&mut reordered, span_field::KIND, 0);
    write_bytes(&mut reordered, span_field::TRACE_STATE, b"");
    assembler.push(owner, owner, &original).unwrap();
    assembler.push(owner, owner, &original).unwrap();
    assembler.push(owner, owner, &reordered).unwrap();
    // These differ: another name, a status where there was none, another resource.
    assembler.push(owner, owner, &span(1, "other")).unwrap();
    let mut with_status = original.clone();
    write_bytes(&mut with_status, span_field::STATUS, b"");
    assembler.push(owner, owner, &with_status).unwrap();
    assembler.push(blob(None, ""), owner, &original).unwrap();
    let trace = assembler.finish();
    assert_eq!((trace.span_count, trace.duplicate_count), (4, 2));
}

#[test]
fn a_trace_has_a_size() {
    let fill = |bytes_max: usize| {
        let mut assembler = TraceAssembler::new(bytes_max);
        for id in 1..=10 {
            assembler
                .push(blob(Some(b"\x10\x01"), "u"), blob(None, ""), &span(id, "operation"))
                .unwrap();
        }
        (assembler.bytes(), assembler.finish())
    };
    let (needed, whole) = fill(usize::MAX);
    assert!(!whole.truncated && whole.bytes.len() <= needed);
    for (bytes_max, kept, truncated) in [
        (needed - 1, 9, true),
        (needed, 10, false),
        (needed + 1, 10, false),
        (0, 0, true),
    ] {
        let trace = fill(bytes_max).1;
        assert_eq!((trace.span_count, trace.truncated), (kept, truncated));
        assert!(trace.bytes.len() <= bytes_max);
        assert_eq!(names(&trace).concat().concat().len(), kept);
    }
    // Once a span was left out none is added: what is there is a beginning, not a selection.
    let mut assembler = TraceAssembler::new(200);
    for (id, length) in [(1, 10), (2, 500), (3, 10)] {
        assembler
            .push(blob(None, ""), blob(None, ""), &span(id, &"n".repeat(length)))
            .unwrap();
    }
    assert_eq!(assembler.finish().span_count, 1);
}

#[test]
fn both_trace_apis_spell_the_same_trace() {
    let resource = crate::tempopb::common::v1::Resource::default();
    let mut assembler = TraceAssembler::new(usize::MAX);
    assembler
        .push(
            blob(Some(&resource.encode_to_vec()), ""),
            blob(None, ""),
            &span(2, "op"),
        )
        .unwrap();
    let trace = assembler.finish();
    let groups = r#"[{"resource":{},"scopeSpans":[{"spans":[{"traceId":"AQEBAQEBAQEBAQEBAQEBAQ==","spanId":"AgICAgICAgI=","name":"op","startTimeUnixNano":"9"}]}]}]"#;
    let text = |json: Vec<u8>| String::from_utf8(json).unwrap();
    assert_eq!(
        text(trace_v1_json(&trace.bytes).unwrap()),
        format!(r#"{{"batches":{groups}}}"#)
    );
    assert_eq!(text(trace_v1_json(&[]).unwrap()), "{}");

    let answer = TraceAnswer {
        trace: &trace.bytes,
        metrics: TraceByIdMetrics {
            inspected_bytes: 77,
            ..TraceByIdMetrics::default()
        },
        status: PartialStatus::Partial,
        message: "trace exceeds max size",
    };
    let expected = format!(
        r#"{{"trace":{{"resourceSpans":{groups}}},"metrics":{{"inspectedBytes":"77"}},"status":"PARTIAL","message":"trace exceeds max size"}}"#
    );
    assert_eq!(text(answer.to_json().unwrap()), expected);
    let decoded = TraceByIdResponse::decode(&answer.to_protobuf()[..]).unwrap();
    assert_eq!(decoded.trace, Some(Trace::decode(&trace.bytes[..]).unwrap()));
    let missing = TraceAnswer {
        trace: &[],
        status: PartialStatus::Complete,
        message: "",
        ..answer
    };
    assert_eq!(
        text(missing.to_json().unwrap()),
        r#"{"trace":{},"metrics":{"inspectedBytes":"77"}}"#
    );
}
