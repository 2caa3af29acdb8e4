//! What Tempo's own clients and Grafana's data source ask, in the form in which they ask it, put to one node.
//!
//! The programs themselves cannot be had from a package registry. What they send and what they check is public; nothing of
//! them is here.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, TracesData};
use prost::Message as _;
use reqwest::StatusCode;
use serde_json::{Value, json};
use vivace_e2e::client::{Otlp, Reply, TENANT_HEADER, http_client, with_query};
use vivace_e2e::process::Node;

use crate::fixture::{Fixture, eventually, fixture};

const TENANT: &str = "canary";
/// A name with everything that has to survive two encodings.
const ODD_NAME: &str = "odd/name-100%";

/// A trace as a canary writes it: several batches, each with a resource of its own, some of them late.
struct Canary {
    trace_id: [u8; 16],
    /// Seconds, as queries say them.
    now: u64,
    batches: Vec<ResourceSpans>,
}

fn text(key: &str, value: &str) -> KeyValue {
    value_of(key, any_value::Value::StringValue(value.to_owned()))
}

fn value_of(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

impl Canary {
    fn new(number: u8) -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        // The first half is zero: shown in full or trimmed, it must be found.
        let mut trace_id = [0; 16];
        trace_id[8..].copy_from_slice(&(now << 8 | u64::from(number)).to_be_bytes());
        let batches = (1..=4u8).map(|batch| {
            let spans = (1..=3u8).map(|position| {
                let is_root = (batch, position) == (1, 1);
                let start = now * 1_000_000_000 + u64::from(batch) * 1_000_000 + u64::from(position) * 1_000;
                Span {
                    trace_id: trace_id.to_vec(),
                    span_id: vec![number, batch, position, 1, 1, 1, 1, 1],
                    parent_span_id: if is_root {
                        Vec::new()
                    } else {
                        vec![number, 1, 1, 1, 1, 1, 1, 1]
                    },
                    name: format!("canary-{position}"),
                    kind: i32::from(position) + 1,
                    start_time_unix_nano: start,
                    end_time_unix_nano: start + 57_000,
                    attributes: vec![
                        text("canary-0", &format!("needle-{number}-{batch}-{position}")),
                        value_of("canary-int", any_value::Value::IntValue(i64::from(batch) * 1000)),
                        text(ODD_NAME, "odd value"),
                    ],
                    // Present and empty is not the same as absent.
                    status: Some(Status::default()),
                    ..Span::default()
                }
            });
            ResourceSpans {
                resource: Some(Resource {
                    attributes: vec![
                        text("service.name", "canary"),
                        text("canary-process", &format!("process-{number}-{batch}")),
                        text("canary-blob", &"b".repeat(200)),
                    ],
                    ..Resource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(InstrumentationScope::default()),
                    spans: spans.collect(),
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }
        });
        Self {
            trace_id,
            now,
            batches: batches.collect(),
        }
    }

    fn hex(&self) -> String {
        vivace_e2e::client::hex(&self.trace_id)
    }

    fn window(&self) -> (String, String) {
        ((self.now - 1800).to_string(), (self.now + 1800).to_string())
    }
}

/// The order in which a canary compares.
fn sorted(mut batches: Vec<ResourceSpans>) -> Vec<ResourceSpans> {
    let by_key = |attributes: &mut Vec<KeyValue>| attributes.sort_by(|a, b| a.key.cmp(&b.key));
    for batch in &mut batches {
        batch
            .resource
            .iter_mut()
            .for_each(|resource| by_key(&mut resource.attributes));
        for scope in &mut batch.scope_spans {
            scope.spans.iter_mut().for_each(|span| by_key(&mut span.attributes));
            scope.spans.sort_by(|a, b| a.span_id.cmp(&b.span_id));
        }
    }
    batches.sort_by_key(|batch| {
        batch
            .scope_spans
            .first()
            .map(|scope| scope.spans.first().map(|span| span.span_id.clone()))
    });
    batches
}

struct Asker {
    client: reqwest::Client,
    url: String,
}

impl Asker {
    fn of(node: &Node) -> Self {
        Self {
            client: http_client().unwrap(),
            url: node.http_url(),
        }
    }

    async fn get(&self, path: &str, accept: &str) -> (StatusCode, bytes::Bytes) {
        let request = self.client.get(format!("{}{path}", self.url));
        let request = request
            .header("accept", accept)
            .header(TENANT_HEADER, TENANT)
            .header("Recent-Data-Target", "live-store")
            .basic_auth(TENANT, Some("token"));
        let response = request.send().await.unwrap();
        (response.status(), response.bytes().await.unwrap())
    }

    async fn json(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let path = with_query(path, parameters).unwrap();
        let (status, body) = self.get(&path, "application/json").await;
        assert!(
            status.is_success(),
            "{path}: {status}: {}",
            String::from_utf8_lossy(&body)
        );
        serde_json::from_slice(&body).unwrap()
    }
}

async fn write(otlp: &mut Otlp, batches: &[ResourceSpans]) {
    for batch in batches {
        let request = ExportTraceServiceRequest {
            resource_spans: vec![batch.clone()],
        };
        assert_eq!(otlp.export(request).await, Reply::Accepted);
    }
}

async fn started(test: &str) -> Option<(Fixture, Node)> {
    let fixture = fixture(test, json!({"tenancy": {"multitenancy_enabled": true}}))?;
    let node = fixture.start().await;
    Some((fixture, node))
}

/// A node that was told one canary.
struct Told {
    _fixture: Fixture,
    node: Node,
    asker: Asker,
    canary: Canary,
}

async fn told(test: &str) -> Option<Told> {
    let (fixture, node) = started(test).await?;
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), Some(TENANT)).unwrap();
    let canary = Canary::new(1);
    write(&mut otlp, &canary.batches).await;
    Some(Told {
        _fixture: fixture,
        asker: Asker::of(&node),
        node,
        canary,
    })
}

fn ids_of(answer: &Value) -> Vec<String> {
    let traces = answer["traces"].as_array().cloned().unwrap_or_default();
    let id = |trace: &Value| format!("{:0>32}", trace["traceID"].as_str().unwrap());
    traces.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_canary_writes_it_reads_back() {
    let Some((fixture, node)) = started("tempo_clients::canary").await else {
        return;
    };
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), Some(TENANT)).unwrap();
    let asker = Asker::of(&node);
    for number in 1..=3u8 {
        let canary = Canary::new(number);
        let (start, end) = canary.window();
        // The last batch comes when the others have been flushed.
        write(&mut otlp, &canary.batches[..3]).await;
        let blocks = fixture.parquet_files().len();
        eventually("a block", 60, async || fixture.parquet_files().len() > blocks).await;
        write(&mut otlp, &canary.batches[3..]).await;

        let path = format!("/api/traces/{}?start={start}&end={end}", canary.hex());
        let (status, body) = asker.get(&path, "application/protobuf").await;
        assert_eq!(status, StatusCode::OK);
        let found = TracesData::decode(body).unwrap().resource_spans;
        assert_eq!(sorted(found), sorted(canary.batches.clone()));

        let within = [("start", &*start), ("end", &*end)];
        let needle = format!("needle-{number}-4-2");
        let tag = format!("canary-0={needle}");
        let by_tags = [&within[..], &[("tags", &*tag)]].concat();
        assert_eq!(ids_of(&asker.json("/api/search", &by_tags).await), [canary.hex()]);
        let filter = format!("{{.canary-0=\"{needle}\"}}");
        let by_query = [&within[..], &[("q", &*filter)]].concat();
        let found = asker.json("/api/search", &by_query).await;
        assert_eq!(ids_of(&found), [canary.hex()]);

        let filter = format!("{{.canary-process=\"process-{number}-2\"}}");
        let found = asker
            .json("/api/search", &[&within[..], &[("q", &*filter)]].concat())
            .await;
        let sets = found["traces"][0]["spanSets"].as_array().unwrap();
        let matched: u64 = sets.iter().map(|set| set["matched"].as_u64().unwrap()).sum();
        let counted = format!("{filter} | count_over_time()");
        let range = [&within[..], &[("q", &*counted), ("step", "10s")]].concat();
        let series = asker.json("/api/metrics/query_range", &range).await;
        assert_eq!(series["series"].as_array().unwrap().len(), 1);
        let samples = series["series"][0]["samples"].as_array().unwrap();
        let sum: f64 = samples.iter().filter_map(|sample| sample["value"].as_f64()).sum();
        assert_eq!((sum, matched), (3.0, 3));
    }
    let (status, body) = asker.get("/api/traces/abc", "application/protobuf").await;
    assert_eq!((status, body.len()), (StatusCode::NOT_FOUND, 0));
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grafana_asks_is_answered() {
    let Some(told) = told("tempo_clients::grafana").await else {
        return;
    };
    let (asker, canary) = (&told.asker, &told.canary);
    let (start, end) = canary.window();

    let (_, echo) = asker.get("/api/echo", "*/*").await;
    assert_eq!(echo, "echo");
    assert!(asker.json("/api/status/buildinfo", &[]).await["version"].is_string());
    let (status, body) = asker
        .get(
            &format!("/api/v2/traces/{}?start={start}&end={end}", canary.hex()),
            "application/protobuf",
        )
        .await;
    assert!(status.is_success() && !body.is_empty());

    // The query builder. Names are encoded twice.
    let within = [("start", &*start), ("end", &*end)];
    let limited = [&within[..], &[("limit", "5000")]].concat();
    let tags = asker.json("/api/v2/search/tags", &limited).await.to_string();
    assert!(tags.contains("canary-int") && tags.contains(ODD_NAME), "{tags}");
    assert!(tags.contains("trace:rootService"), "{tags}");
    for (name, expected) in [
        ("resource.service.name", json!([{"type": "string", "value": "canary"}])),
        (
            "span.odd%252Fname-100%2525",
            json!([{"type": "string", "value": "odd value"}]),
        ),
        (
            "span.odd%2Fname-100%25",
            json!([{"type": "string", "value": "odd value"}]),
        ),
        ("event%253Aname", Value::Null),
    ] {
        let path = format!("/api/v2/search/tag/{name}/values?limit=5000&q=%7B%7D&start={start}&end={end}");
        let (status, body) = asker.get(&path, "application/json").await;
        assert!(status.is_success(), "{path}: {}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let found = answer.get("tagValues").cloned().unwrap_or(Value::Null);
        assert_eq!(found, expected, "{path}");
    }
    let status = asker.json("/api/v2/search/tag/status/values", &limited).await;
    assert_eq!(status["tagValues"][0]["type"], "keyword");

    // Explore, and the tabs of Traces Drilldown.
    let ask = |query: &str| {
        let query = query.to_owned();
        let parameters = [("limit", "200"), ("spss", "10"), ("start", &*start), ("end", &*end)];
        let mut parameters: Vec<(String, String)> = parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        parameters.push(("q".to_owned(), query));
        parameters
    };
    for query in [
        "{nestedSetParent<0 && true && resource.service.name != nil}",
        "{nestedSetParent<0} &>> { kind = client } | select(status, resource.service.name, name, nestedSetParent, nestedSetLeft, nestedSetRight)",
    ] {
        let parameters = ask(query);
        let parameters: Vec<(&str, &str)> = parameters.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            ids_of(&asker.json("/api/search", &parameters).await),
            [canary.hex()],
            "{query}"
        );
    }
    for query in [
        "{nestedSetParent<0 && true} | rate() by(resource.service.name)",
        "{nestedSetParent<0 && true} | histogram_over_time(duration)",
        "{nestedSetParent<0} | quantile_over_time(duration, 0.9) by(name)",
        "{true} | compare({status = error})",
    ] {
        for (path, name) in [
            ("/api/metrics/query_range", "q"),
            ("/api/metrics/query_range", "query"),
            ("/api/metrics/query", "q"),
        ] {
            let parameters = [&within[..], &[(name, query), ("step", "60s"), ("exemplars", "100")]].concat();
            let series = asker.json(path, &parameters).await;
            assert!(
                !series["series"].as_array().unwrap().is_empty(),
                "{path} {query}: {series}"
            );
        }
    }
    told.node.stop().await.unwrap();
}

/// tempo-cli reads bodies with a parser that refuses fields it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_hold_no_field_that_clients_do_not_know() {
    const KNOWN: &str = "traces traceID rootServiceName rootTraceName startTimeUnixNano durationMs spanSet spanSets spans \
        spanID name durationNanos attributes key value stringValue intValue doubleValue boolValue arrayValue values \
        matched serviceStats spanCount errorCount metrics inspectedTraces inspectedBytes totalBlocks completedJobs \
        totalJobs totalBlockBytes inspectedSpans backendReads backendBytes additionalMetrics series labels samples \
        timestampMs exemplars status message scopes tags tagNames tagValues type";
    let Some(told) = told("tempo_clients::fields").await else {
        return;
    };
    let (asker, canary) = (&told.asker, &told.canary);
    let (start, end) = canary.window();
    let within = [("start", &*start), ("end", &*end)];
    let mut found = BTreeSet::new();
    for (path, name, query) in [
        ("/api/search", "q", "{ } | by(name) | select(.canary-int)"),
        ("/api/search", "tags", "service.name=canary"),
        ("/api/v2/search/tags", "q", "{ }"),
        ("/api/search/tags", "scope", "span"),
        ("/api/v2/search/tag/.canary-int/values", "q", "{ }"),
        ("/api/search/tag/canary-int/values", "limit", "10"),
        ("/api/metrics/query_range", "q", "{ } | rate() by(name)"),
        ("/api/metrics/query", "q", "{ } | count_over_time()"),
    ] {
        let answer = asker.json(path, &[&within[..], &[(name, query)]].concat()).await;
        fields(&answer, &mut found);
    }
    // Keys of maps are data.
    found.retain(|field| {
        ![
            "canary",
            "rowGroupsInspected",
            "rowGroupsSkipped",
            "pagesInspected",
            "pagesSkipped",
        ]
        .contains(&&**field)
    });
    found.retain(|field| !["cacheHits", "cacheMisses", "cacheBytes", "engineBytes"].contains(&&**field));
    let known: BTreeSet<String> = KNOWN.split_whitespace().map(str::to_owned).collect();
    let unknown: Vec<&String> = found.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(found.len() > 25, "{found:?}");
    told.node.stop().await.unwrap();
}

fn fields(json: &Value, found: &mut BTreeSet<String>) {
    match json {
        Value::Array(items) => items.iter().for_each(|item| fields(item, found)),
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                fields(value, found);
            }
        }
        _ => {}
    }
}
