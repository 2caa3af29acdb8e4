//! The corpus of the fuzz targets (`fuzz/corpus`), replayed and mutated.

use server::fuzzing;

use crate::replay::replay;

#[test]
fn http_params() {
    replay("http_params", fuzzing::http_params, 5_000, || {
        [
            "/api/search?q=%7B+status+%3D+error+%7D&limit=5&spss=1&start=1700000000&end=1700000100",
            "/api/search?tags=service.name%3D%22a%20b%22+http.status_code%3D500&minDuration=10ms&maxDuration=1h30m",
            "/api/search?service.name=a&x=1&since=15m",
            "/api/v2/search/tag/span.a%252Fb/values?q=%7B.a%3D%60b%60%7D&limit=10&maxStaleValues=3",
            "/api/v2/search/tags?scope=resource&limit=0&start=0&end=0",
            "/api/v2/traces/0af7651916cd43dd8448eb211c80319c?mode=blocks&start=1&end=2",
            "/status/overrides/acme?",
            "?limit=99999999999&limit=1&%00=%ff&a=%zz",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    });
}

#[test]
fn tenant_header() {
    replay("tenant_header", fuzzing::tenant_header, 5_000, || {
        [
            "acme",
            "a|b|a",
            "ok-1_2.3!*'()",
            "..",
            "a/b",
            "",
            &"x".repeat(151),
            "a\u{fc}",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    });
}

#[test]
fn grpc_framing() {
    replay("grpc_framing", fuzzing::grpc_framing, 5_000, || {
        [
            &b"\0\0\0\0\0\0"[..],
            b"\0\0\0\0\0\x03abc",
            b"\x02\x01\0\0\0\x02ab",
            b"\0\x01\0\0\0\x02ab",
            b"\x03\x02\0\0\0\0",
            b"\x04\0\xff\xff\xff\xffab",
            b"\x05\0\0\0\0\x01a\0\0\0\0\x01b",
        ]
        .iter()
        .map(|bytes| bytes.to_vec())
        .collect()
    });
}

#[test]
fn streaming_request() {
    use prost::Message as _;
    use wire::tempopb::{
        QueryInstantRequest, QueryRangeRequest, SearchRequest, SearchTagValuesRequest, SearchTagsRequest,
    };

    replay("streaming_request", fuzzing::streaming_request, 5_000, || {
        let by_tags = SearchRequest {
            tags: [("service.name".to_owned(), "a \"b\"".to_owned())].into(),
            min_duration_ms: 5,
            max_duration_ms: 500,
            ..Default::default()
        };
        let by_query = SearchRequest {
            query: "{ status = error } >> { .a = 1 }".into(),
            start: 100,
            end: 200,
            limit: 20,
            spans_per_span_set: 3,
            ..Default::default()
        };
        let tags = SearchTagsRequest {
            scope: "resource".into(),
            query: "{ .a = ".into(),
            ..Default::default()
        };
        let values = SearchTagValuesRequest {
            tag_name: "span.a".into(),
            ..Default::default()
        };
        let range = QueryRangeRequest {
            query: "{ } | rate()".into(),
            start: 1,
            end: 2,
            step: 3,
            ..Default::default()
        };
        let instant = QueryInstantRequest {
            query: "{ } | rate()".into(),
            start: 1,
            end: 2,
        };
        let messages = [
            (0, by_tags.encode_to_vec()),
            (0, by_query.encode_to_vec()),
            (1, tags.encode_to_vec()),
            (4, values.encode_to_vec()),
            (5, range.encode_to_vec()),
            (6, instant.encode_to_vec()),
        ];
        messages
            .iter()
            .map(|(method, message)| [&[*method], &message[..]].concat())
            .collect()
    });
}

#[test]
fn mcp_message() {
    replay("mcp_message", fuzzing::mcp_message, 1_000, || {
        [
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#,
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"traceql-search","arguments":{"query":"{ .a = 1 }","start":"2024-01-02T03:04:05Z","end":"1704168305"}}}"#,
            r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"get-trace","arguments":{"trace_id":"0af7"}}}"#,
            r#"{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"trace-diff","arguments":{"base_trace_id":"1","compare_trace_id":"2","format":"x"}}}"#,
            r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"get-attribute-values","arguments":{"name":"span.a","filter-query":"{"}}}"#,
            r#"{"jsonrpc":"2.0","id":6,"method":"resources/read","params":{"uri":"docs://traceql/basic"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}]"#,
            r#"{"jsonrpc":"2.0","id":{"a":[null,1e400]},"method":7"#,
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    });
}
