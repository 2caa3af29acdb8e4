//! OTLP/JSON against the same request as protobuf, the odd spellings one by one, and what is refused.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::error::JsonReason;
use crate::ingest::{self, IngestLimits};
use crate::synthetic;
use crate::tempopb::table;

fn in_span(members: &str) -> String {
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{{members}}}]}}]}}]}}"#)
}

/// As prost writes it: our reader writes fields in the order of the text.
fn canonical(bytes: &[u8]) -> Vec<u8> {
    ExportTraceServiceRequest::decode(bytes).unwrap().encode_to_vec()
}

fn span(members: &str) -> Span {
    let bytes = export_request(in_span(members).as_bytes()).unwrap_or_else(|error| panic!("{members}: {error}"));
    ExportTraceServiceRequest::decode(&bytes[..]).unwrap().resource_spans[0].scope_spans[0].spans[0].clone()
}

fn attribute(value: &str) -> Option<Value> {
    let members = format!(r#""attributes":[{{"key":"k","value":{value}}}]"#);
    span(&members).attributes[0].value.clone().unwrap().value
}

fn reason(text: &str) -> JsonReason {
    match export_request(text.as_bytes()) {
        Err(Error::Json { reason, .. }) => reason,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn the_example_of_the_specification_is_read() {
    // Shaped like the example in the OTLP specification: hex ids, numbers as strings, kind as a number.
    let text = r#"{
      "resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "my.service"}}]},
        "scopeSpans": [{
          "scope": {"name": "my.library", "version": "1.0.0",
                    "attributes": [{"key": "my.scope.attribute", "value": {"stringValue": "some scope attribute"}}]},
          "spans": [{
            "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B174", "parentSpanId": "EEE19B7EC3C1B173",
            "name": "I'm a server span", "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000",
            "kind": 2, "attributes": [{"key": "my.span.attr", "value": {"stringValue": "some value"}}]
          }]
        }]
      }]
    }"#;
    let bytes = export_request(text.as_bytes()).unwrap();
    let scan = ingest::scan(&bytes, &IngestLimits::default(), |_| model::ShardId(0)).unwrap();
    assert_eq!((scan.span_count(), scan.outcome().rejected()), (1, 0));
    let request = ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
    let scope = &request.resource_spans[0].scope_spans[0];
    assert_eq!(scope.scope.as_ref().unwrap().version, "1.0.0");
    assert_eq!(scope.spans[0].trace_id[..3], [0x5b, 0x8e, 0xff]);
    assert_eq!(
        (scope.spans[0].kind, scope.spans[0].end_time_unix_nano),
        (2, 1_544_712_661_000_000_000)
    );
}

#[test]
fn the_same_request_as_json_and_as_protobuf_is_the_same() {
    for seed in 0..5 {
        let bytes = synthetic::request(seed, 120).encode_to_vec();
        // By our own writer, and by the serde of the public types.
        let mut ours = Vec::new();
        write(&table::TRACE, &bytes, Dialect::Otlp, &mut ours).unwrap();
        assert!(canonical(&export_request(&ours).unwrap()) == bytes);
        let theirs = serde_json::to_vec(&synthetic::request(seed, 120)).unwrap();
        let read = ExportTraceServiceRequest::decode(&export_request(&theirs).unwrap()[..]).unwrap();
        assert!(read == synthetic::request(seed, 120));
        // What we write is JSON by another's judgement, and reads the same there.
        let back: ExportTraceServiceRequest = serde_json::from_slice(&ours).unwrap();
        assert_eq!(back.resource_spans.len(), read.resource_spans.len());
    }
}

#[test]
fn integers_are_strings_or_numbers() {
    for text in ["7", "\"7\"", "7.0", "70e-1", "\"0.7e1\""] {
        assert_eq!(
            span(&format!(r#""startTimeUnixNano":{text}"#)).start_time_unix_nano,
            7,
            "{text}"
        );
        assert_eq!(
            span(&format!(r#""droppedEventsCount":{text}"#)).dropped_events_count,
            7,
            "{text}"
        );
        assert_eq!(span(&format!(r#""flags":{text}"#)).flags, 7, "{text}");
        assert_eq!(
            attribute(&format!(r#"{{"intValue":{text}}}"#)),
            Some(Value::IntValue(7)),
            "{text}"
        );
    }
    let max = span(r#""startTimeUnixNano":18446744073709551615,"endTimeUnixNano":"18446744073709551615""#);
    assert_eq!((max.start_time_unix_nano, max.end_time_unix_nano), (u64::MAX, u64::MAX));
    assert_eq!(
        attribute(r#"{"intValue":"-9223372036854775808"}"#),
        Some(Value::IntValue(i64::MIN))
    );
    let out_of_range = [
        r#""startTimeUnixNano":"18446744073709551616""#,
        r#""startTimeUnixNano":-1"#,
        r#""startTimeUnixNano":1.5"#,
        r#""flags":4294967296"#,
        r#""attributes":[{"value":{"intValue":9223372036854775808}}]"#,
        r#""attributes":[{"value":{"intValue":1e300}}]"#,
        r#""kind":3000000000"#,
    ];
    for members in out_of_range {
        assert!(matches!(reason(&in_span(members)), JsonReason::Range(_)), "{members}");
    }
    for text in ["\"\"", "\" 7\"", "\"+7\"", "\"0x7\"", "\"07\"", "true", "{}", "[]"] {
        let members = format!(r#""startTimeUnixNano":{text}"#);
        assert!(
            matches!(reason(&in_span(&members)), JsonReason::Type("startTimeUnixNano", _)),
            "{text}"
        );
    }
}

#[test]
fn enumerations_are_numbers_or_names() {
    assert_eq!(span(r#""kind":3"#).kind, 3);
    assert_eq!(span(r#""kind":"SPAN_KIND_CLIENT""#).kind, 3);
    assert_eq!(span(r#""kind":99"#).kind, 99);
    assert_eq!(
        span(r#""status":{"code":"STATUS_CODE_ERROR","message":"m"}"#)
            .status
            .unwrap()
            .code,
        2
    );
    assert_eq!(reason(&in_span(r#""kind":"CLIENT""#)), JsonReason::Enum("kind"));
}

#[test]
fn doubles_have_names_for_what_json_cannot_say() {
    for (text, value) in [
        ("1.5", 1.5),
        ("\"1.5\"", 1.5),
        ("-0.0", -0.0),
        ("3", 3.0),
        ("1e-7", 1e-7),
        ("0", 0.0),
    ] {
        let found = attribute(&format!(r#"{{"doubleValue":{text}}}"#));
        let Some(Value::DoubleValue(found)) = found else {
            panic!("{text}: {found:?}")
        };
        assert_eq!(found.to_bits(), f64::to_bits(value), "{text}");
    }
    for (text, check) in [
        ("NaN", f64::is_nan as fn(f64) -> bool),
        ("Infinity", |x| x == f64::INFINITY),
        ("-Infinity", |x| x == f64::NEG_INFINITY),
    ] {
        let Some(Value::DoubleValue(found)) = attribute(&format!(r#"{{"doubleValue":"{text}"}}"#)) else {
            panic!("{text}")
        };
        assert!(check(found), "{text}");
    }
    for text in [
        "NaN", "Infinity", "\"nan\"", "\"inf\"", "1e999", ".5", "1.", "01", "+1", "0x1",
    ] {
        assert!(
            export_request(in_span(&format!(r#""attributes":[{{"value":{{"doubleValue":{text}}}}}]"#)).as_bytes())
                .is_err(),
            "{text}"
        );
    }
}

#[test]
fn ids_are_hex_of_either_case_and_bytes_are_base64() {
    let ids = span(r#""traceId":"0AfF","spanId":"","parentSpanId":"00""#);
    assert_eq!(
        (&ids.trace_id[..], &ids.span_id[..], &ids.parent_span_id[..]),
        (&[0x0a, 0xff][..], &[][..], &[0][..])
    );
    for bad in ["0", "0g", "AAAA=", "+/=="] {
        assert_eq!(
            reason(&in_span(&format!(r#""traceId":"{bad}""#))),
            JsonReason::Hex("traceId")
        );
    }
    for good in ["+/8=", "-_8", "-_8="] {
        assert_eq!(
            attribute(&format!(r#"{{"bytesValue":"{good}"}}"#)),
            Some(Value::BytesValue(vec![0xfb, 0xff]))
        );
    }
    assert!(matches!(
        reason(&in_span(r#""attributes":[{"value":{"bytesValue":"!"}}]"#)),
        JsonReason::Base64(_)
    ));
}

#[test]
fn absent_null_and_unknown_fields() {
    assert_eq!(span(""), Span::default());
    assert_eq!(
        span(r#""name":null,"kind":null,"attributes":null,"status":null"#),
        Span::default()
    );
    assert_eq!(span(r#""status":{}"#).status, Some(Default::default()));
    let unknown =
        r#""new":{"a":[1,-2.5e3,"\u00e9",true,false,null,{"b":{}},[]]},"trace_id":"ff","name":"n","kindly":{}"#;
    assert_eq!(
        span(unknown),
        Span {
            name: "n".into(),
            ..Span::default()
        }
    );
    assert_eq!(export_request(b"{}").unwrap(), b"");
    assert_eq!(export_request(br#"{"resourceSpans":[]}"#).unwrap(), b"");
    assert_eq!(attribute("{}"), None);
    assert_eq!(attribute(r#"{"stringValue":null}"#), None);
    assert_eq!(attribute(r#"{"newValue":[{"x":1}]}"#), None);
    // The zero of a member is a value.
    assert_eq!(
        attribute(r#"{"stringValue":""}"#),
        Some(Value::StringValue(String::new()))
    );
    assert_eq!(attribute(r#"{"intValue":"0"}"#), Some(Value::IntValue(0)));
    assert_eq!(attribute(r#"{"boolValue":false}"#), Some(Value::BoolValue(false)));
}

#[test]
fn what_is_given_twice_is_refused() {
    assert_eq!(
        reason(&in_span(r#""name":"a","name":"b""#)),
        JsonReason::Duplicate("name")
    );
    assert_eq!(
        reason(&in_span(r#""attributes":[],"attributes":[]"#)),
        JsonReason::Duplicate("attributes")
    );
    let two = r#""attributes":[{"value":{"intValue":1,"stringValue":"a"}}]"#;
    assert_eq!(reason(&in_span(two)), JsonReason::Duplicate("stringValue"));
    // A null counts for nothing, an unknown field may repeat.
    assert_eq!(span(r#""name":null,"name":"b","x":1,"x":2"#).name, "b");
}

#[test]
fn strings_are_decoded() {
    let name = span(r#""name":"\"\\\/\b\f\n\r\t\u0000\u00e9\ud83d\ude00é😀""#).name;
    assert_eq!(name, "\"\\/\u{8}\u{c}\n\r\t\0é😀é😀");
    for bad in [
        r"\x",
        r"\u12",
        r"\u12g4",
        r"\ud83d",
        r"\ud83dx",
        r"\ud83d\u0041",
        r"\ude00",
    ] {
        assert_eq!(
            reason(&in_span(&format!(r#""name":"{bad}""#))),
            JsonReason::Escape,
            "{bad}"
        );
    }
    assert_eq!(reason(&in_span("\"name\":\"a\nb\"")), JsonReason::Control);
    let mut bytes = in_span(r#""name":"X""#).into_bytes();
    let place = bytes.iter().position(|byte| *byte == b'X').unwrap();
    bytes[place] = 0xff;
    assert!(
        matches!(export_request(&bytes), Err(Error::Json { reason: JsonReason::Utf8, position }) if position == place)
    );
}

#[test]
fn texts_that_are_not_json_are_refused() {
    for text in [
        "",
        " ",
        "[]",
        "null",
        "1",
        "\"a\"",
        "{",
        "{\"a\"",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{a:1}",
        "{}x",
        "{} {}",
        "{\"a\":tru}",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{'a':1}",
        "{\"resourceSpans\":{}}",
        "{\"resourceSpans\":[null]}",
        "{\"resourceSpans\":[1]}",
    ] {
        assert!(export_request(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn nesting_is_limited() {
    let nested = |levels: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    for (levels, fits) in [
        (lexer::DEPTH_MAX - 2, true),
        (lexer::DEPTH_MAX - 1, true),
        (lexer::DEPTH_MAX, false),
        (1_000_000, false),
    ] {
        assert_eq!(export_request(nested(levels).as_bytes()).is_ok(), fits, "{levels}");
    }
    // The deepest value that `ingest` takes fits, also as a map of maps.
    let mut value = r#"{"intValue":1}"#.to_owned();
    for _ in 1..ingest::VALUE_DEPTH_MAX {
        value = format!(r#"{{"kvlistValue":{{"values":[{{"key":"k","value":{value}}}]}}}}"#);
    }
    let bytes =
        export_request(in_span(&format!(r#""attributes":[{{"key":"k","value":{value}}}]"#)).as_bytes()).unwrap();
    assert!(ingest::scan(&bytes, &IngestLimits::default(), |_| model::ShardId(0)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What we take for JSON another parser takes for JSON too, and the other way round for anything it can hold.
    #[test]
    fn agrees_with_serde_on_damaged_texts(seed in 0u64..20, damage in prop::collection::vec((any::<prop::sample::Index>(), 0x20u8..0x7f), 1..4)) {
        let mut text = Vec::new();
        write(&table::TRACE, &synthetic::request(seed, 3).encode_to_vec(), Dialect::Otlp, &mut text).unwrap();
        for (place, byte) in &damage {
            let place = place.index(text.len());
            text[place] = *byte;
        }
        let theirs = serde_json::from_slice::<serde_json::Value>(&text);
        match export_request(&text) {
            Ok(bytes) => {
                prop_assert!(theirs.is_ok());
                prop_assert!(ExportTraceServiceRequest::decode(&bytes[..]).is_ok());
                prop_assert!(bytes.len() <= text.len() + 64);
            }
            Err(Error::Json { reason: JsonReason::Character | JsonReason::End | JsonReason::Trailing | JsonReason::Number | JsonReason::Escape, .. }) => {
                prop_assert!(theirs.is_err());
            }
            Err(_) => {}
        }
    }

    #[test]
    fn arbitrary_texts_never_panic(text in "[\\[\\]{}\",:0-9eE+.a-z\\\\ -]{0,80}") {
        crate::fuzzing::otlp_json(text.as_bytes());
    }

    /// JSON and back is the identity on bytes that prost wrote.
    #[test]
    fn json_and_back(seed in any::<u64>()) {
        let bytes = synthetic::request(seed, 20).encode_to_vec();
        for dialect in [Dialect::Otlp, Dialect::Tempo] {
            let mut text = Vec::new();
            write(&table::TRACE, &bytes, dialect, &mut text).unwrap();
            prop_assert!(canonical(&read(&table::TRACE, &text, dialect).unwrap()) == bytes);
        }
    }
}
