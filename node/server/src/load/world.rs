//! A made-up company: its services, their pods, what they call and what they say about it.
//!
//! Owns [`World`], the source of template traces. Everything follows from the seed. Modelled on what SDKs send: 44
//! services with 12 to 18 operations each, pods with Kubernetes resource attributes, HTTP, RPC, database and messaging
//! spans with the semantic conventions' attribute names, 2 % errors with exception events, a few links, and a tail of
//! `app.*` attributes of every value type that no two services share.

use super::piece::{Piece, mix};

/// Services, each with its own language, pods and operations.
const SERVICES: [&str; 44] = [
    "frontend",
    "mobile-gateway",
    "partner-gateway",
    "admin-gateway",
    "graphql",
    "auth",
    "session",
    "user-profile",
    "address-book",
    "cart",
    "checkout",
    "order",
    "order-history",
    "payment",
    "payment-router",
    "fraud",
    "ledger",
    "invoice",
    "tax",
    "currency",
    "pricing",
    "promotion",
    "coupon",
    "catalogue",
    "product-search",
    "recommendation",
    "review",
    "rating",
    "image-proxy",
    "inventory",
    "warehouse",
    "shipping",
    "carrier-adapter",
    "tracking",
    "notification",
    "email",
    "sms",
    "push",
    "webhook",
    "feature-flags",
    "experiment",
    "audit",
    "export",
    "scheduler",
];
const LANGUAGES: [(&str, &str, &str); 6] = [
    ("java", "1.49.0", "io.opentelemetry.spring-webmvc-6.0"),
    (
        "go",
        "1.38.0",
        "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp",
    ),
    ("nodejs", "2.1.0", "@opentelemetry/instrumentation-http"),
    ("python", "1.37.0", "opentelemetry.instrumentation.fastapi"),
    ("dotnet", "1.12.0", "OpenTelemetry.Instrumentation.AspNetCore"),
    ("rust", "0.31.0", "tower-http-otel"),
];
const NOUNS: [&str; 12] = [
    "items", "users", "orders", "quotes", "carts", "labels", "events", "jobs", "prices", "stock", "tokens", "reports",
];
const VERBS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "GET", "GET"];
const TABLES: [&str; 8] = [
    "orders",
    "users",
    "line_items",
    "stock",
    "prices",
    "sessions",
    "events",
    "outbox",
];
const EXCEPTIONS: [(&str, &str); 5] = [
    ("java.net.SocketTimeoutException", "Read timed out after 2000 ms"),
    ("io.grpc.StatusRuntimeException", "UNAVAILABLE: connection refused"),
    ("org.postgresql.util.PSQLException", "ERROR: deadlock detected"),
    ("TypeError", "Cannot read properties of undefined (reading 'id')"),
    ("ValidationError", "quantity must be positive"),
];

/// OTLP's span kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

/// A small random source; the same seed gives the same company and the same traces.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
    /// 0 to `sides` - 1.
    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.roll() % sides.max(1)
    }
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
}

/// A running copy of a service. Its resource is encoded once.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) service: usize,
    /// `Resource` message.
    pub(crate) resource: Piece,
    /// `InstrumentationScope` message.
    pub(crate) scope: Piece,
}

/// The company.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) pods: Vec<Pod>,
    /// Pods of each service, as a range of `pods`.
    first_pod: Vec<usize>,
}

impl World {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let mut pods = Vec::new();
        let mut first_pod = Vec::new();
        for (service, name) in SERVICES.iter().enumerate() {
            first_pod.push(pods.len());
            for replica in 0..4 + dice.below(20) {
                pods.push(pod(dice, service, name, replica));
            }
        }
        first_pod.push(pods.len());
        Self { pods, first_pod }
    }

    pub(crate) fn services(&self) -> usize {
        SERVICES.len()
    }

    pub(crate) fn any_pod_of(&self, service: usize, dice: &mut Dice) -> usize {
        let (first, end) = (self.first_pod[service], self.first_pod[service + 1]);
        first + dice.index(end - first)
    }

    /// Attributes and everything else of a span that says what it does; ids and times are the caller's.
    pub(crate) fn describe(
        &self,
        span: &mut Piece,
        dice: &mut Dice,
        kind: Kind,
        service: usize,
        peer: usize,
        unique: u32,
    ) {
        let operation = dice.index(12 + service % 7);
        let noun = NOUNS[(operation + service) % NOUNS.len()];
        let verb = VERBS[operation % VERBS.len()];
        let route = format!(
            "/api/v{}/{noun}/{{id}}{}",
            1 + service % 3,
            ["", "/lines", "/history"][operation % 3]
        );
        let is_error = dice.chance(2);
        match kind {
            Kind::Server => {
                span.text(5, &format!("{verb} {route}"));
                text(span, "http.request.method", verb);
                text(span, "http.route", &route);
                text(
                    span,
                    "url.path",
                    &route.replace("{id}", &(10_000 + dice.below(90_000)).to_string()),
                );
                text(span, "url.scheme", "https");
                int(
                    span,
                    "http.response.status_code",
                    if is_error { 500 } else { 200 + dice.below(2) },
                );
                int(span, "http.request.body.size", dice.below(4096));
                text(span, "network.protocol.version", "1.1");
                text(
                    span,
                    "server.address",
                    &format!("{}.svc.cluster.local", SERVICES[service]),
                );
                int(span, "server.port", 8080);
                text(
                    span,
                    "client.address",
                    &format!("10.{}.{}.{}", service, dice.below(256), dice.below(256)),
                );
                text(span, "user_agent.original", "okhttp/4.12.0");
                if dice.chance(30) {
                    text(span, "user.id", &format!("u-{:06}", dice.below(200_000)));
                }
                if dice.chance(15) {
                    attribute(span, 9, "http.request.header.x-request-id", |value| {
                        value.unique_text(1, unique)
                    });
                }
            }
            Kind::Client if dice.chance(50) => {
                span.text(5, &format!("{verb} {route}"));
                text(span, "http.request.method", verb);
                text(
                    span,
                    "url.full",
                    &format!("https://{}.svc.cluster.local{route}", SERVICES[peer]),
                );
                text(span, "server.address", &format!("{}.svc.cluster.local", SERVICES[peer]));
                int(span, "server.port", 8443);
                int(span, "http.response.status_code", if is_error { 503 } else { 200 });
                int(span, "network.peer.port", 32_768 + dice.below(28_000));
                text(span, "peer.service", SERVICES[peer]);
            }
            Kind::Client => {
                let table = dice.pick(&TABLES);
                span.text(5, &format!("SELECT {table}"));
                text(span, "db.system.name", "postgresql");
                text(span, "db.namespace", SERVICES[service]);
                text(span, "db.operation.name", "SELECT");
                text(span, "db.collection.name", table);
                let columns = "id, state, total_cents, currency, created_at, updated_at, version";
                text(
                    span,
                    "db.query.text",
                    &format!("SELECT {columns} FROM {table} WHERE tenant_id = $1 AND id = ANY($2)"),
                );
                int(span, "db.response.returned_rows", dice.below(200));
                text(span, "server.address", &format!("pg-{}.db.internal", service % 6));
                int(span, "server.port", 5432);
            }
            Kind::Producer | Kind::Consumer => {
                let is_producer = kind == Kind::Producer;
                span.text(
                    5,
                    &format!("{noun} {}", if is_producer { "publish" } else { "process" }),
                );
                text(span, "messaging.system", "kafka");
                text(span, "messaging.destination.name", noun);
                text(
                    span,
                    "messaging.operation.type",
                    if is_producer { "send" } else { "process" },
                );
                int(span, "messaging.kafka.message.offset", dice.below(1 << 40));
                text(span, "messaging.destination.partition.id", &dice.below(48).to_string());
                int(span, "messaging.message.body.size", 200 + dice.below(4000));
                attribute(span, 9, "messaging.message.id", |value| value.unique_text(1, unique));
            }
            Kind::Internal => {
                span.text(
                    5,
                    &format!(
                        "{}.{noun}",
                        ["validate", "enrich", "render", "map", "score"][operation % 5]
                    ),
                );
                text(
                    span,
                    "code.function.name",
                    &format!("com.example.{}.{noun}Handler", SERVICES[service]),
                );
                int(span, "code.line.number", 20 + dice.below(400));
                text(span, "thread.name", &format!("worker-{}", dice.below(16)));
                int(span, "thread.id", dice.below(64));
            }
        }
        self.private_attributes(span, dice, service);
        if is_error {
            exception(span, dice, unique);
            let mut status = Piece::default();
            status.text(2, "request failed");
            status.varint(3, 2);
            span.message(15, &status);
        } else if kind == Kind::Server && dice.chance(20) {
            let mut status = Piece::default();
            status.varint(3, 1);
            span.message(15, &status);
        }
    }

    /// `app.*`: nine keys per service, of every type that OTLP knows.
    fn private_attributes(&self, span: &mut Piece, dice: &mut Dice, service: usize) {
        for _ in 0..1 + dice.below(3) {
            let slot = dice.below(9);
            let key = format!("app.{}.field_{slot}", SERVICES[service]);
            match slot {
                0 => text(span, &key, dice.pick(&["gold", "silver", "bronze", "none"])),
                1 => int(span, &key, dice.below(1000)),
                2 => attribute(span, 9, &key, |value| value.double(4, dice.below(100_000) as f64 / 7.0)),
                3 => attribute(span, 9, &key, |value| value.varint(2, dice.below(2))),
                4 => attribute(span, 9, &key, |value| {
                    let mut list = Piece::default();
                    for tag in 0..1 + dice.below(3) {
                        let mut item = Piece::default();
                        item.text(1, ["eu", "beta", "b2b", "vip"][(tag as usize + service) % 4]);
                        list.message(1, &item);
                    }
                    value.message(5, &list);
                }),
                5 => attribute(span, 9, &key, |value| {
                    let mut map = Piece::default();
                    text_in(&mut map, 1, "plan", "pro");
                    attribute(&mut map, 1, "seats", |seats| seats.varint(3, dice.below(50)));
                    value.message(6, &map);
                }),
                6 => attribute(span, 9, &key, |value| {
                    let raw = dice.roll().to_be_bytes();
                    model::proto::write_bytes(&mut value.bytes, 7, &raw);
                }),
                7 => int(span, &key, dice.below(1 << 50)),
                _ => text(span, &key, &format!("{:x}", dice.below(1 << 24))),
            }
        }
    }
}

fn pod(dice: &mut Dice, service: usize, name: &str, replica: u64) -> Pod {
    let (language, version, library) = LANGUAGES[service % LANGUAGES.len()];
    let hash = format!("{:010x}", dice.below(1 << 40));
    let pod_name = format!("{name}-{}-{:05x}", &hash[..8], dice.below(1 << 20));
    let mut resource = Piece::default();
    for (key, value) in [
        ("service.name", name),
        (
            "service.namespace",
            ["shop", "money", "logistics", "platform"][service % 4],
        ),
        (
            "service.version",
            &format!("{}.{}.{}", 1 + service % 4, service % 30, replica % 2),
        ),
        ("service.instance.id", &format!("{:016x}", dice.roll())),
        ("deployment.environment.name", "production"),
        ("telemetry.sdk.language", language),
        ("telemetry.sdk.name", "opentelemetry"),
        ("telemetry.sdk.version", version),
        ("k8s.cluster.name", ["eu-1", "us-1"][service % 2]),
        (
            "k8s.namespace.name",
            ["shop", "money", "logistics", "platform"][service % 4],
        ),
        ("k8s.deployment.name", name),
        ("k8s.pod.name", &pod_name),
        (
            "k8s.node.name",
            &format!("ip-10-0-{}-{}.internal", dice.below(8), dice.below(250)),
        ),
        ("host.name", &pod_name),
        ("cloud.region", ["eu-west-1", "us-east-1"][service % 2]),
    ] {
        text_in(&mut resource, 1, key, value);
    }
    attribute(&mut resource, 1, "process.pid", |value| {
        value.varint(3, 1 + dice.below(200))
    });
    let mut scope = Piece::default();
    scope.text(1, library);
    scope.text(2, version);
    Pod {
        service,
        resource,
        scope,
    }
}

fn exception(span: &mut Piece, dice: &mut Dice, unique: u32) {
    let (kind, message) = dice.pick(&EXCEPTIONS);
    let frames: String = (0..12)
        .map(|depth| {
            let noun = NOUNS[(depth + unique as usize) % NOUNS.len()];
            format!(
                "\tat com.example.{noun}.{noun}Service.handle{depth}({noun}Service.java:{})\n",
                40 + depth * 17
            )
        })
        .collect();
    let mut event = Piece::default();
    event.time(1, super::template::SPREAD_NANOS);
    event.text(2, "exception");
    text_in(&mut event, 3, "exception.type", kind);
    text_in(&mut event, 3, "exception.message", message);
    text_in(
        &mut event,
        3,
        "exception.stacktrace",
        &format!("{kind}: {message}\n{frames}"),
    );
    span.message(11, &event);
}

fn text(span: &mut Piece, key: &str, value: &str) {
    text_in(span, 9, key, value);
}

fn text_in(into: &mut Piece, number: u32, key: &str, value: &str) {
    attribute(into, number, key, |any| any.text(1, value));
}

fn int(span: &mut Piece, key: &str, value: u64) {
    attribute(span, 9, key, |any| any.varint(3, value));
}

/// `KeyValue {1: key, 2: AnyValue}`
fn attribute(into: &mut Piece, number: u32, key: &str, fill: impl FnOnce(&mut Piece)) {
    let mut value = Piece::default();
    fill(&mut value);
    let mut pair = Piece::default();
    pair.text(1, key);
    pair.message(2, &value);
    into.message(number, &pair);
}
