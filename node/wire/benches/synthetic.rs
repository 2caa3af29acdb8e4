//! Seeded export requests that look like real ones: a dozen services, Kubernetes resources, HTTP, RPC and database spans with
//! the attributes that the usual instrumentations set, a few events and links.
#![allow(
    dead_code,
    reason = "shared by the benchmark and the tests, which use different parts"
)]

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

/// SplitMix64: enough for test data, the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

pub(crate) fn text(value: impl Into<String>) -> Value {
    Value::StringValue(value.into())
}

pub(crate) fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

const SERVICES: [&str; 12] = [
    "frontend",
    "cart",
    "checkout",
    "payment",
    "shipping",
    "catalog",
    "recommendation",
    "ads",
    "email",
    "currency",
    "quote",
    "accounting",
];

/// One request of about `span_count` spans: whole traces, grouped by service as a Collector's batch processor leaves them.
pub(crate) fn request(seed: u64, span_count: usize) -> ExportTraceServiceRequest {
    let mut random = Seeded(seed);
    let mut by_service: Vec<Vec<Span>> = vec![Vec::new(); SERVICES.len()];
    let mut made = 0;
    while made < span_count {
        let length = (8 + random.below(24) as usize).min(span_count - made);
        made += length;
        let trace = [random.next().to_be_bytes(), random.next().to_be_bytes()].concat();
        let base = 1_700_000_000_000_000_000 + random.below(30_000_000_000);
        let mut parents: Vec<Vec<u8>> = Vec::new();
        for place in 0..length {
            let service = if place == 0 {
                0
            } else {
                random.below(SERVICES.len() as u64) as usize
            };
            let parent = if place == 0 {
                Vec::new()
            } else {
                parents[random.below(parents.len() as u64) as usize].clone()
            };
            let id = random.next().to_be_bytes().to_vec();
            parents.push(id.clone());
            let span = span(&mut random, &trace, id, parent, base + place as u64 * 350_000);
            by_service[service].push(span);
        }
    }
    let resource_spans = SERVICES.iter().zip(by_service).filter(|(_, spans)| !spans.is_empty());
    ExportTraceServiceRequest {
        resource_spans: resource_spans
            .map(|(name, spans)| service_spans(&mut random, name, spans))
            .collect(),
    }
}

fn service_spans(random: &mut Seeded, service: &str, spans: Vec<Span>) -> ResourceSpans {
    let pod = format!("{service}-7d9f8c6b5-{:05x}", random.below(1 << 20));
    let resource = Resource {
        attributes: vec![
            pair("service.name", text(service)),
            pair("service.namespace", text("shop")),
            pair("service.version", text("1.18.3")),
            pair("k8s.namespace.name", text("production")),
            pair("k8s.pod.name", text(pod)),
            pair("k8s.node.name", text(format!("node-{}", random.below(40)))),
            pair("telemetry.sdk.language", text("java")),
            pair("telemetry.sdk.version", text("1.44.1")),
            pair("process.pid", Value::IntValue(random.below(60_000) as i64)),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "io.opentelemetry.tomcat-10.0".to_owned(),
        version: "2.10.0-alpha".to_owned(),
        ..InstrumentationScope::default()
    };
    let schema_url = "https://opentelemetry.io/schemas/1.24.0".to_owned();
    let scope_spans = ScopeSpans {
        scope: Some(scope),
        spans,
        schema_url: String::new(),
    };
    ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![scope_spans],
        schema_url,
    }
}

fn span(random: &mut Seeded, trace: &[u8], span_id: Vec<u8>, parent_span_id: Vec<u8>, start: u64) -> Span {
    let route = [
        "/api/cart",
        "/api/products/{id}",
        "/api/checkout",
        "/api/recommendations",
        "/health",
    ][random.below(5) as usize];
    let failed = random.below(50) == 0;
    let shared = [
        pair("thread.id", Value::IntValue(random.below(200) as i64)),
        pair("thread.name", text(format!("http-nio-8080-exec-{}", random.below(50)))),
        pair("app.user.id", text(format!("{:016x}", random.next()))),
        pair("app.synthetic", Value::BoolValue(random.below(2) == 0)),
    ];
    let (name, kind, mut attributes) = match random.below(3) {
        0 => (format!("GET {route}"), 2, http(random, route, failed)),
        1 => ("oteldemo.CartService/GetCart".to_owned(), 3, rpc(random)),
        _ => ("SELECT shop.orders".to_owned(), 3, database(random)),
    };
    attributes.extend(shared);
    let mut span = Span {
        trace_id: trace.to_vec(),
        span_id,
        parent_span_id,
        flags: 0x101,
        name,
        kind,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 40_000 + random.below(90_000_000),
        attributes,
        status: Some(Status {
            code: if failed { 2 } else { 0 },
            ..Status::default()
        }),
        ..Span::default()
    };
    if failed {
        let stack = "java.lang.IllegalStateException: cart is empty\n\tat shop.Cart.total(Cart.java:117)\n".repeat(4);
        let attributes = vec![
            pair("exception.type", text("IllegalStateException")),
            pair("exception.stacktrace", text(stack)),
        ];
        let time_unix_nano = start + 30_000;
        span.events.push(Event {
            time_unix_nano,
            name: "exception".to_owned(),
            attributes,
            ..Event::default()
        });
    }
    if random.below(100) == 0 {
        let id = [random.next().to_be_bytes(), random.next().to_be_bytes()].concat();
        span.links.push(Link {
            trace_id: id,
            span_id: random.next().to_be_bytes().to_vec(),
            ..Link::default()
        });
    }
    span
}

fn http(random: &mut Seeded, route: &str, failed: bool) -> Vec<KeyValue> {
    let status = if failed { 500 } else { 200 };
    vec![
        pair("http.request.method", text("GET")),
        pair("http.route", text(route)),
        pair("url.path", text(route.replace("{id}", &random.below(2000).to_string()))),
        pair("url.scheme", text("http")),
        pair("http.response.status_code", Value::IntValue(status)),
        pair("network.protocol.version", text("1.1")),
        pair("server.address", text("shop.example.com")),
        pair(
            "client.address",
            text(format!("10.4.{}.{}", random.below(256), random.below(256))),
        ),
        pair(
            "user_agent.original",
            text("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/131.0"),
        ),
    ]
}

fn rpc(random: &mut Seeded) -> Vec<KeyValue> {
    vec![
        pair("rpc.system", text("grpc")),
        pair("rpc.service", text("oteldemo.CartService")),
        pair("rpc.method", text("GetCart")),
        pair("rpc.grpc.status_code", Value::IntValue(0)),
        pair("network.peer.address", text(format!("10.4.7.{}", random.below(256)))),
        pair("network.peer.port", Value::IntValue(7070)),
        pair(
            "app.cart.total",
            Value::DoubleValue(random.below(100_000) as f64 / 100.0),
        ),
    ]
}

fn database(random: &mut Seeded) -> Vec<KeyValue> {
    vec![
        pair("db.system", text("postgresql")),
        pair("db.name", text("shop")),
        pair("db.operation", text("SELECT")),
        pair("db.sql.table", text("orders")),
        pair(
            "db.statement",
            text("SELECT id, user_id, total FROM orders WHERE user_id = ? ORDER BY id DESC LIMIT 20"),
        ),
        pair("db.rows", Value::IntValue(random.below(20) as i64)),
        pair("server.address", text("orders-db.production.svc.cluster.local")),
        pair("server.port", Value::IntValue(5432)),
    ]
}
