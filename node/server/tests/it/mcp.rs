//! Questions in bodies: the Model Context Protocol, and two traces side by side.

use query::metrics::Series;
use query::value::Static;
use serde_json::{Value, json};
use server::querier::{MetricsAnswer, SearchAnswer, TagsAnswer, TraceAnswer, ValuesAnswer};

use crate::door::{Door, open};

const SECOND: u64 = 1_000_000_000;

async fn mcp() -> Door {
    open("query: {mcp_enabled: true}").await
}

async fn call(door: &Door, method: &str, params: Value) -> Value {
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let answer = door.ask("/api/mcp", &message).await;
    assert_eq!(answer.status(), 200);
    let answer = answer.json::<Value>().await.unwrap();
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(7)));
    answer
}

/// What a tool says, and whether it is a complaint.
async fn tool(door: &Door, name: &str, arguments: Value) -> (String, bool) {
    let answer = call(door, "tools/call", json!({"name": name, "arguments": arguments})).await;
    let content = &answer["result"]["content"][0];
    assert_eq!(content["type"], "text", "{answer}");
    (
        content["text"].as_str().unwrap().to_owned(),
        answer["result"]["isError"].as_bool().unwrap(),
    )
}

/// A trace of one span of service "cart".
fn trace() -> bytes::Bytes {
    use prost::Message as _;
    use wire::tempopb::common::v1::any_value::Value::StringValue;
    use wire::tempopb::common::v1::{AnyValue, KeyValue, Resource};
    use wire::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span};
    let name = KeyValue {
        key: "service.name".into(),
        value: Some(AnyValue {
            value: Some(StringValue("cart".into())),
        }),
    };
    let span = Span {
        trace_id: vec![0xab; 16],
        span_id: vec![1; 8],
        name: "GET /".into(),
        kind: 2,
        start_time_unix_nano: 5 * SECOND,
        end_time_unix_nano: 5 * SECOND + 1_500_000,
        ..Default::default()
    };
    let spans = ResourceSpans {
        resource: Some(Resource {
            attributes: vec![name],
            ..Default::default()
        }),
        scope_spans: vec![ScopeSpans {
            spans: vec![span],
            ..Default::default()
        }],
        ..Default::default()
    };
    wire::tempopb::Trace {
        resource_spans: vec![spans],
    }
    .encode_to_vec()
    .into()
}

#[tokio::test]
async fn it_is_not_there_unless_it_was_switched_on() {
    let door = open("").await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(door.ask("/api/mcp", &ping).await.status(), 404);
    let door = mcp().await;
    assert_eq!(door.ask("/api/mcp", &ping).await.status(), 200);
    assert_eq!(door.page("/api/mcp").await.0, 405, "there is no stream to listen to");
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    let said = async |door: &Door, path: &str, headers: &[(&str, &str)]| {
        let mut request = reqwest::Client::new().post(format!("http://{}{path}", door.api));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(ping.clone()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let door = mcp().await;
    let own = format!("http://{}", door.api);
    assert_eq!(said(&door, "/api/mcp", &[("origin", &own)]).await.0, 200);
    let (status, text) = said(&door, "/api/mcp", &[("origin", "https://tools.example")]).await;
    assert_eq!(status, 403);
    assert!(text.contains("query.mcp_origins"), "{text}");
    // A name that was made to point here: the browser takes page and node for the same host.
    let rebound = [("origin", "http://evil.example:3200"), ("host", "evil.example:3200")];
    assert_eq!(said(&door, "/api/mcp", &rebound).await.0, 403);

    let door = open("query: {mcp_enabled: true, mcp_origins: ['https://tools.example']}").await;
    assert_eq!(
        said(&door, "/api/mcp", &[("origin", "https://tools.example")]).await.0,
        200
    );
    assert_eq!(said(&door, "/api/mcp", &rebound).await.0, 403);

    let door = open("").await;
    assert_eq!(
        said(&door, "/api/mcp", &rebound).await.0,
        404,
        "it is not there for anybody"
    );
}

#[tokio::test]
async fn the_protocol_is_spoken() {
    let door = mcp().await;
    let hello = call(&door, "initialize", json!({"protocolVersion": "2025-03-26"})).await;
    assert_eq!(hello["result"]["protocolVersion"], "2025-03-26");
    assert_eq!(hello["result"]["serverInfo"]["name"], "vivace");
    let hello = call(&door, "initialize", json!({"protocolVersion": "1999-01-01"})).await;
    assert_eq!(hello["result"]["protocolVersion"], "2025-06-18");
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let accepted = door.ask("/api/mcp", &notification).await;
    assert_eq!(
        (accepted.status().as_u16(), accepted.text().await.unwrap()),
        (202, String::new())
    );
    let tools = call(&door, "tools/list", json!({})).await;
    let names: Vec<_> = tools["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| &tool["name"])
        .collect();
    assert_eq!(
        names,
        [
            "traceql-search",
            "traceql-metrics-instant",
            "traceql-metrics-range",
            "get-trace",
            "trace-diff",
            "get-attribute-names",
            "get-attribute-values",
            "docs-traceql",
            "docs-config"
        ]
    );
    assert_eq!(tools["result"]["tools"][0]["inputSchema"]["required"], json!(["query"]));
    let resources = call(&door, "resources/list", json!({})).await;
    for resource in resources["result"]["resources"].as_array().unwrap() {
        let read = call(&door, "resources/read", json!({"uri": resource["uri"]})).await;
        assert!(
            read["result"]["contents"][0]["text"].as_str().unwrap().len() > 100,
            "{resource}"
        );
    }
    for (body, code) in [
        (json!([1]), -32600),
        (json!({"jsonrpc": "1.0", "id": 1, "method": "ping"}), -32600),
        (json!({"jsonrpc": "2.0", "id": 1, "method": "x/y"}), -32601),
        (
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "rm"}}),
            -32602,
        ),
        (
            json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "file:///"}}),
            -32002,
        ),
    ] {
        let answer = door.ask("/api/mcp", &body).await.json::<Value>().await.unwrap();
        assert_eq!(answer["error"]["code"], code, "{body}");
    }
    let url = format!("http://{}/api/mcp", door.api);
    let broken = reqwest::Client::new().post(url).body("{").send().await.unwrap();
    assert_eq!(broken.json::<Value>().await.unwrap()["error"]["code"], -32700);
}

#[tokio::test]
async fn tools_ask_what_their_arguments_say() {
    let door = mcp().await;
    *door.script.search.lock() = SearchAnswer {
        missing: vec!["block 1: away".into()],
        ..SearchAnswer::default()
    };
    let window = json!({"query": "{ status = error }", "start": "1970-01-01T00:01:40Z", "end": "200"});
    let (found, failed) = tool(&door, "traceql-search", window).await;
    assert_eq!(
        (found.as_str(), failed),
        ("{\"metrics\":{}}\nincomplete: block 1: away", false)
    );
    {
        let asked = door.script.searches.lock();
        let window = asked[0].plan.request().window;
        assert_eq!(
            (window.start_unix_nanos, window.end_unix_nanos),
            (100 * SECOND, 200 * SECOND)
        );
    }
    let (why, failed) = tool(&door, "traceql-search", json!({"query": "{ } | rate()"})).await;
    assert!(failed && why.contains("traceql-metrics-range"), "{why}");
    let (why, failed) = tool(&door, "traceql-search", json!({"query": "{"})).await;
    assert!(failed && why.contains("parse error at line 1"), "{why}");
    let (why, failed) = tool(&door, "traceql-search", json!({})).await;
    assert!(failed && why == "query is missing", "{why}");

    *door.script.metrics.lock() = MetricsAnswer {
        series: vec![Series {
            labels: vec![("__name__".into(), Static::str("rate"))],
            samples: vec![(7 * SECOND, 0.5)],
            exemplars: vec![],
        }],
        ..MetricsAnswer::default()
    };
    for name in ["traceql-metrics-range", "traceql-metrics-instant"] {
        let (found, failed) = tool(&door, name, json!({"query": "{ } | rate()"})).await;
        assert!(!failed && found.contains("0.5"), "{found}");
    }
    *door.script.tag_names.lock() = TagsAnswer {
        scopes: vec![(model::Scope::Span, vec!["http.route".into()])],
        ..TagsAnswer::default()
    };
    let (found, _) = tool(&door, "get-attribute-names", json!({"scope": "span"})).await;
    assert_eq!(found, r#"{"span":["http.route"]}"#);
    *door.script.tag_values.lock() = ValuesAnswer {
        values: vec![Static::str("/cart"), Static::Int(7)],
        ..ValuesAnswer::default()
    };
    let arguments = json!({"name": "span.http.route", "filter-query": "{ status = error }"});
    let (found, _) = tool(&door, "get-attribute-values", arguments).await;
    assert_eq!(found, r#"{"int":["7"],"string":["/cart"]}"#);
    assert!(door.script.values.lock()[0].filter.is_some());
    let (page, failed) = tool(&door, "docs-traceql", json!({"name": "metrics"})).await;
    assert!(!failed && page.contains("quantile_over_time"));
    let (page, failed) = tool(&door, "docs-config", json!({"name": "reference"})).await;
    assert!(!failed && page.contains("mcp_enabled"));
    assert!(tool(&door, "docs-traceql", json!({"name": "x"})).await.1);
}

#[tokio::test]
async fn a_trace_is_told_in_few_words() {
    let door = mcp().await;
    let (why, failed) = tool(&door, "get-trace", json!({"trace_id": "abc"})).await;
    assert!(failed && why.contains("there is no trace"), "{why}");
    *door.script.trace.lock() = TraceAnswer {
        trace: trace(),
        ..TraceAnswer::default()
    };
    let expected = json!({
        "traceId": "ab".repeat(16),
        "startTimeUnixNano": "5000000000",
        "services": {"cart": {"service.name": "cart"}},
        "spans": [{"spanId": "01".repeat(8), "service": "cart", "name": "GET /", "kind": "server",
            "startMs": 0.0, "durationMs": 1.5}],
    });
    let (found, _) = tool(&door, "get-trace", json!({"trace_id": "abc"})).await;
    assert_eq!(serde_json::from_str::<Value>(&found).unwrap(), expected);
    // The same over HTTP for whoever asks for that form.
    let answer = door
        .get("/api/v2/traces/abc", &[("accept", "application/vnd.grafana.llm")])
        .await;
    assert_eq!(answer.headers()["content-type"], "application/vnd.grafana.llm+json");
    assert_eq!(answer.json::<Value>().await.unwrap(), expected);
}

#[tokio::test]
async fn two_traces_are_compared() {
    let door = mcp().await;
    let body = json!({"base": {"traceId": "a", "start": 1, "end": 2}, "compare": {"traceId": "b"}});
    assert_eq!(door.ask("/api/v2/traces/diff", &body).await.status(), 404);
    assert_eq!(door.page("/api/v2/traces/diff").await.0, 405);
    door.script.traces.lock().clear();
    *door.script.trace.lock() = TraceAnswer {
        trace: trace(),
        ..TraceAnswer::default()
    };
    let patch = door
        .ask("/api/v2/traces/diff", &body)
        .await
        .json::<Value>()
        .await
        .unwrap();
    assert_eq!(
        (&patch["version"], &patch["stats"]["matchedSpans"]),
        (&json!("trace-patch-v0"), &json!(1))
    );
    {
        let asked = door.script.traces.lock();
        let windows: Vec<_> = asked.iter().map(|question| question.window.is_some()).collect();
        assert_eq!(windows, [true, false]);
    }
    let arguments = json!({"base_trace_id": "a", "compare_trace_id": "b"});
    let (composed, failed) = tool(&door, "trace-diff", arguments).await;
    assert!(!failed && composed.contains("trace-summary-v0-composed"), "{composed}");
    for (body, words) in [
        (json!({"base": {"traceId": "a"}}), "missing field `compare`"),
        (
            json!({"base": {"traceId": "x!"}, "compare": {"traceId": "b"}}),
            "base.traceId",
        ),
        (
            json!({"base": {"traceId": "a"}, "compare": {"traceId": "b", "start": 5, "end": 5}}),
            "compare: start and end",
        ),
        (
            json!({"base": {"traceId": "a"}, "compare": {"traceId": "b"}, "format": "x"}),
            "invalid format",
        ),
    ] {
        let answer = door.ask("/api/v2/traces/diff", &body).await;
        assert_eq!(answer.status(), 400);
        let text = answer.text().await.unwrap();
        assert!(text.contains(words), "{text}");
    }
    door.script.trace.lock().missing = vec!["block 1: away".into()];
    let partial = door.ask("/api/v2/traces/diff", &body).await;
    assert_eq!(partial.status(), 422);
    let small = open("limits: {defaults: {trace_bytes_max: 100B}}").await;
    *small.script.trace.lock() = TraceAnswer {
        trace: trace(),
        ..TraceAnswer::default()
    };
    let refused = small.ask("/api/v2/traces/diff", &body).await;
    assert_eq!(refused.status(), 422);
    assert!(refused.text().await.unwrap().contains("max bytes: 100"));
    let large = json!({"base": "x".repeat(1 << 20)});
    assert_eq!(door.ask("/api/v2/traces/diff", &large).await.status(), 413);
}
