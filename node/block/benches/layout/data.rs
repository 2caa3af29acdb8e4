//! Seeded spans that look like a shop's: 40 services, 560 pods, trees of 27 spans on average, about 55 common attribute
//! keys and 390 rare ones, 2 % errors with stack traces, sent in SDK-like batches. The mix is that of the data set the
//! layout was chosen on.

#![allow(unreachable_pub, reason = "the module of a bench is reached by nobody else")]

use model::proto::{write_bytes, write_fixed64, write_varint_field};

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Exponential with the given mean.
    fn exponential(&mut self, mean: f64) -> f64 {
        let u = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        -mean * (1.0 - u).ln()
    }

    /// A small number that is small more often: the square of a uniform one.
    fn skewed(&mut self, n: u64) -> u64 {
        let u = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        ((u * u * n as f64) as u64).min(n - 1)
    }

    fn uuid(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            a >> 32,
            a >> 16 & 0xffff,
            a & 0xffff,
            b >> 48,
            b & 0xffff_ffff_ffff
        )
    }
}

pub const SERVICES: u64 = 40;
const PODS_PER_SERVICE: u64 = 14;
const NAMES_PER_SERVICE: u64 = 15;
const RARE_KEYS: u64 = 390;
const WINDOW_TRACES: usize = 2_000;
const BATCH_SPANS: usize = 48;
const BATCHES_PER_REQUEST: usize = 6;
/// When the first trace starts.
pub const START_NANOS: u64 = 1_760_000_000_000_000_000;
/// Traffic of 27 minutes whatever the number of spans.
pub const DURATION_NANOS: u64 = 27 * 60 * 1_000_000_000;

/// The requests and what the bench needs to know about them.
pub struct Data {
    pub requests: Vec<Vec<u8>>,
    pub spans: usize,
    pub traces: usize,
    pub bytes: usize,
    /// A `request.id` that exists.
    pub request_id: String,
    /// Some trace ids that exist.
    pub trace_ids: Vec<[u8; 16]>,
}

pub fn service_name(service: u64) -> String {
    const WORDS: [&str; 10] = [
        "cart",
        "checkout",
        "payment",
        "shipping",
        "catalog",
        "search",
        "user",
        "inventory",
        "email",
        "gateway",
    ];
    format!(
        "{}-{}",
        WORDS[(service % 10) as usize],
        ["api", "worker", "store", "edge"][(service / 10) as usize]
    )
}

fn text(out: &mut Vec<u8>, number: u32, key: &str, value: &str) {
    let mut any = Vec::with_capacity(value.len() + 8);
    write_bytes(&mut any, 1, value.as_bytes());
    pair(out, number, key, &any);
}

fn int(out: &mut Vec<u8>, number: u32, key: &str, value: i64) {
    let mut any = Vec::with_capacity(12);
    write_varint_field(&mut any, 3, value.cast_unsigned());
    pair(out, number, key, &any);
}

fn double(out: &mut Vec<u8>, number: u32, key: &str, value: f64) {
    let mut any = Vec::with_capacity(12);
    write_fixed64(&mut any, 4, value.to_bits());
    pair(out, number, key, &any);
}

fn boolean(out: &mut Vec<u8>, number: u32, key: &str, value: bool) {
    let mut any = Vec::with_capacity(4);
    write_varint_field(&mut any, 2, value.into());
    pair(out, number, key, &any);
}

fn pair(out: &mut Vec<u8>, number: u32, key: &str, any: &[u8]) {
    let mut message = Vec::with_capacity(key.len() + any.len() + 8);
    write_bytes(&mut message, 1, key.as_bytes());
    write_bytes(&mut message, 2, any);
    write_bytes(out, number, &message);
}

fn resource(service: u64, pod: u64) -> Vec<u8> {
    let mut random = Random(service * 1000 + pod);
    let name = service_name(service);
    let mut out = Vec::new();
    text(&mut out, 1, "service.name", &name);
    text(&mut out, 1, "service.namespace", "shop");
    text(
        &mut out,
        1,
        "service.version",
        &format!("1.{}.{}", service % 7, pod % 3),
    );
    text(&mut out, 1, "service.instance.id", &random.uuid());
    text(&mut out, 1, "deployment.environment.name", "production");
    text(&mut out, 1, "k8s.cluster.name", "eu-west-1a");
    text(&mut out, 1, "k8s.namespace.name", "shop");
    text(&mut out, 1, "k8s.deployment.name", &name);
    text(
        &mut out,
        1,
        "k8s.pod.name",
        &format!("{name}-{:010x}-{:05x}", random.next() >> 24, random.next() >> 44),
    );
    text(&mut out, 1, "k8s.pod.uid", &random.uuid());
    text(
        &mut out,
        1,
        "k8s.node.name",
        &format!("ip-10-0-{}-{}.eu-west-1.compute.internal", pod, random.below(250)),
    );
    text(&mut out, 1, "cloud.region", "eu-west-1");
    text(&mut out, 1, "os.type", "linux");
    text(&mut out, 1, "telemetry.sdk.name", "opentelemetry");
    text(
        &mut out,
        1,
        "telemetry.sdk.language",
        ["java", "go", "nodejs", "python"][(service % 4) as usize],
    );
    text(&mut out, 1, "telemetry.sdk.version", "1.42.1");
    out
}

fn scope(service: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_bytes(
        &mut out,
        1,
        format!(
            "io.opentelemetry.{}",
            ["tomcat-10.0", "net/http", "express", "flask"][(service % 4) as usize]
        )
        .as_bytes(),
    );
    write_bytes(&mut out, 2, b"2.9.0-alpha");
    out
}

struct Made {
    service: u64,
    pod: u64,
    end: u64,
    bytes: Vec<u8>,
}

/// Generates about `spans` spans.
pub fn generate(spans: usize, seed: u64) -> Data {
    let mut random = Random(seed);
    let traces = (spans / 27).max(1);
    let mut data = Data {
        requests: Vec::new(),
        spans: 0,
        traces: 0,
        bytes: 0,
        request_id: String::new(),
        trace_ids: Vec::new(),
    };
    let mut batches: Vec<Vec<u8>> = Vec::new();
    let mut window: Vec<Made> = Vec::new();
    for t in 0..traces {
        let start = START_NANOS + DURATION_NANOS / traces as u64 * t as u64;
        trace(&mut random, start, &mut window, &mut data);
        if (t + 1) % WINDOW_TRACES == 0 || t + 1 == traces {
            send(&mut random, &mut window, &mut batches, &mut data);
        }
    }
    data
}

/// Groups a window's spans by pod, cuts them into batches by end, mixes the batches into requests.
fn send(random: &mut Random, window: &mut Vec<Made>, batches: &mut Vec<Vec<u8>>, data: &mut Data) {
    window.sort_by_key(|m| (m.service, m.pod, m.end));
    for pod in window.chunk_by(|a, b| (a.service, a.pod) == (b.service, b.pod)) {
        for batch in pod.chunks(BATCH_SPANS) {
            let mut spans = Vec::new();
            write_bytes(&mut spans, 1, &scope(batch[0].service));
            batch.iter().for_each(|m| write_bytes(&mut spans, 2, &m.bytes));
            let mut owner = Vec::new();
            write_bytes(&mut owner, 1, &resource(batch[0].service, batch[0].pod));
            write_bytes(&mut owner, 2, &spans);
            batches.push(owner);
        }
    }
    window.clear();
    for i in (1..batches.len()).rev() {
        batches.swap(i, random.below(i as u64 + 1) as usize);
    }
    for chunk in batches.chunks(BATCHES_PER_REQUEST) {
        let mut request = Vec::new();
        chunk.iter().for_each(|batch| write_bytes(&mut request, 1, batch));
        data.bytes += request.len();
        data.requests.push(request);
    }
    batches.clear();
}

fn trace(random: &mut Random, start: u64, window: &mut Vec<Made>, data: &mut Data) {
    let mut trace_id = [0u8; 16];
    trace_id[..8].copy_from_slice(&random.next().to_be_bytes());
    trace_id[8..].copy_from_slice(&random.next().to_be_bytes());
    let request_id = random.uuid();
    let n = 1 + random.exponential(26.0) as usize;
    let mut placed: Vec<(u64, u64, u64, u64)> = Vec::with_capacity(n); // id, start, duration, service
    for i in 0..n {
        let id = random.next();
        let parent = if i == 0 {
            None
        } else {
            Some(placed[i - 1 - random.skewed(i as u64) as usize])
        };
        let (begin, duration, service) = match parent {
            None => (
                start,
                (random.exponential(120e6) as u64).max(50_000),
                random.skewed(SERVICES),
            ),
            Some((_, from, length, service)) => {
                let begin = from + random.below(length / 2 + 1);
                let service = if random.chance(450) {
                    (service * 7 + 3 + random.below(4)) % SERVICES
                } else {
                    service
                };
                (
                    begin,
                    (random.exponential(length as f64 / 3.0) as u64).max(2_000),
                    service,
                )
            }
        };
        placed.push((id, begin, duration, service));
        let bytes = span(
            random,
            &trace_id,
            id,
            parent.map(|p| p.0),
            begin,
            duration,
            service,
            &request_id,
        );
        let pod = random.below(PODS_PER_SERVICE);
        window.push(Made {
            service,
            pod,
            end: begin + duration,
            bytes,
        });
    }
    if data.traces % 300 == 150 {
        data.request_id = request_id;
        data.trace_ids.push(trace_id);
    }
    data.traces += 1;
    data.spans += n;
}

#[expect(clippy::too_many_arguments, reason = "a span has that many parts")]
fn span(
    random: &mut Random,
    trace_id: &[u8; 16],
    id: u64,
    parent: Option<u64>,
    start: u64,
    duration: u64,
    service: u64,
    request_id: &str,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(700);
    write_bytes(&mut out, 1, trace_id);
    write_bytes(&mut out, 2, &id.to_be_bytes());
    if let Some(parent) = parent {
        write_bytes(&mut out, 4, &parent.to_be_bytes());
    }
    let operation = random.skewed(NAMES_PER_SERVICE);
    let is_error = random.chance(20);
    let verb = ["GET", "POST", "PUT", "DELETE"][random.skewed(4) as usize];
    let route = format!(
        "/api/v{}/{}/{{id}}",
        1 + operation % 3,
        ["orders", "items", "users", "carts", "prices"][(operation % 5) as usize]
    );
    let flavour = if parent.is_none() { 0 } else { (service + operation) % 5 };
    let (name, kind) = match flavour {
        0 => (format!("{verb} {route}"), 2),
        1 => (
            format!("SELECT shop.{}", ["orders", "items", "users"][(operation % 3) as usize]),
            3,
        ),
        2 => (
            format!(
                "shop.{}/{}",
                service_name(service),
                ["Get", "List", "Put"][(operation % 3) as usize]
            ),
            3,
        ),
        3 => (format!("process-{operation}"), 1),
        _ => (format!("{} publish", ["orders", "events"][(operation % 2) as usize]), 4),
    };
    write_bytes(&mut out, 5, name.as_bytes());
    write_varint_field(&mut out, 6, kind);
    write_fixed64(&mut out, 7, start);
    write_fixed64(&mut out, 8, start + duration);
    let status = if is_error {
        500 + random.skewed(4) as i64
    } else {
        [200, 200, 200, 201, 204, 302, 404][random.below(7) as usize]
    };
    attributes(
        random, &mut out, flavour, service, operation, verb, &route, status, request_id,
    );
    if is_error {
        let mut event = Vec::new();
        write_fixed64(&mut event, 1, start + duration / 2);
        write_bytes(&mut event, 2, b"exception");
        let class = [
            "java.lang.IllegalStateException",
            "java.net.SocketTimeoutException",
            "io.shop.PaymentRefused",
        ][random.below(3) as usize];
        text(&mut event, 3, "exception.type", class);
        text(
            &mut event,
            3,
            "exception.message",
            &format!("order {} could not be processed", random.below(1_000_000)),
        );
        let mut stack = class.to_owned();
        for _ in 0..12 + random.below(10) {
            let line = random.skewed(400);
            stack.push_str(&format!(
                "\n\tat io.shop.{}.Handler{}.run(Handler{}.java:{})",
                service_name(service),
                line % 20,
                line % 20,
                line
            ));
        }
        text(&mut event, 3, "exception.stacktrace", &stack);
        write_bytes(&mut out, 11, &event);
    } else if random.chance(60) {
        let mut event = Vec::new();
        write_fixed64(&mut event, 1, start + duration / 3);
        write_bytes(&mut event, 2, b"message");
        text(&mut event, 3, "message.type", "SENT");
        int(&mut event, 3, "message.id", random.below(100) as i64);
        write_bytes(&mut out, 11, &event);
    }
    if is_error {
        let mut status = Vec::new();
        write_bytes(&mut status, 2, b"processing failed");
        write_varint_field(&mut status, 3, 2);
        write_bytes(&mut out, 15, &status);
    }
    out
}

#[expect(clippy::too_many_arguments, reason = "attributes follow from that many choices")]
fn attributes(
    random: &mut Random,
    out: &mut Vec<u8>,
    flavour: u64,
    service: u64,
    operation: u64,
    verb: &str,
    route: &str,
    status: i64,
    request_id: &str,
) {
    text(
        out,
        9,
        "thread.name",
        &format!("http-nio-8080-exec-{}", random.below(40)),
    );
    int(out, 9, "thread.id", 20 + random.below(60) as i64);
    text(out, 9, "request.id", request_id);
    match flavour {
        0 => {
            text(out, 9, "http.request.method", verb);
            int(out, 9, "http.response.status_code", status);
            text(out, 9, "http.route", route);
            text(
                out,
                9,
                "url.path",
                &route.replace("{id}", &random.below(5_000_000).to_string()),
            );
            text(out, 9, "url.scheme", "https");
            text(out, 9, "server.address", "shop.example.com");
            text(
                out,
                9,
                "client.address",
                &format!("10.{}.{}.{}", random.below(32), random.below(256), random.below(256)),
            );
            int(out, 9, "client.port", 1024 + random.below(64_000) as i64);
            text(
                out,
                9,
                "user_agent.original",
                [
                    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
                    "okhttp/4.12.0",
                    "curl/8.9.1",
                ][random.skewed(3) as usize],
            );
            text(out, 9, "network.protocol.version", "1.1");
            if random.chance(300) {
                text(out, 9, "user.id", &format!("user-{}", random.skewed(50_000)));
            }
        }
        1 => {
            text(
                out,
                9,
                "db.system.name",
                ["postgresql", "mysql"][(service % 2) as usize],
            );
            text(out, 9, "db.namespace", "shop");
            text(out, 9, "db.operation.name", "SELECT");
            text(
                out,
                9,
                "db.query.text",
                &format!(
                    "SELECT id, name, price FROM {} WHERE id = {} AND tenant = 'shop' ORDER BY created_at LIMIT {}",
                    ["orders", "items", "users"][(operation % 3) as usize],
                    random.below(1_000_000),
                    10 * (1 + random.below(5))
                ),
            );
            text(out, 9, "server.address", &format!("pg-{}.shop.internal", service % 4));
            int(out, 9, "server.port", 5432);
            boolean(out, 9, "db.cached", random.chance(200));
            int(out, 9, "db.response.returned_rows", random.skewed(500) as i64);
        }
        2 => {
            text(out, 9, "rpc.system", "grpc");
            text(out, 9, "rpc.service", &format!("shop.{}", service_name(service)));
            text(out, 9, "rpc.method", ["Get", "List", "Put"][(operation % 3) as usize]);
            int(out, 9, "rpc.grpc.status_code", if status >= 500 { 13 } else { 0 });
            text(
                out,
                9,
                "url.full",
                &format!(
                    "https://{}.shop.internal:8443{}",
                    service_name(service),
                    route.replace("{id}", &random.below(5_000_000).to_string())
                ),
            );
            int(out, 9, "http.response.status_code", status);
            text(
                out,
                9,
                "network.peer.address",
                &format!("10.0.{}.{}", service, random.below(14)),
            );
            int(out, 9, "network.peer.port", 8443);
        }
        3 => {
            text(
                out,
                9,
                "code.function.name",
                &format!("io.shop.{}.step{operation}", service_name(service)),
            );
            int(out, 9, "code.line.number", 10 + (operation * 37) as i64);
            double(out, 9, "app.score", random.below(10_000) as f64 / 10_000.0);
            text(
                out,
                9,
                "feature.flag",
                ["on", "off", "canary"][random.skewed(3) as usize],
            );
            if random.chance(120) {
                text(out, 9, "job.id", &random.uuid());
            }
        }
        _ => {
            text(out, 9, "messaging.system", "kafka");
            text(
                out,
                9,
                "messaging.destination.name",
                ["orders", "events"][(operation % 2) as usize],
            );
            text(out, 9, "messaging.message.id", &random.uuid());
            text(out, 9, "messaging.operation.type", "publish");
            int(out, 9, "messaging.destination.partition.id", random.below(24) as i64);
            int(out, 9, "messaging.kafka.offset", random.below(100_000_000) as i64);
            int(out, 9, "messaging.message.body.size", random.skewed(20_000) as i64);
        }
    }
    // Every service has a handful of keys of its own.
    for slot in 0..2 {
        if random.chance(80) {
            let key = (service * 10 + random.skewed(10) + slot * 131) % RARE_KEYS;
            match key % 3 {
                0 => text(
                    out,
                    9,
                    &format!("app.custom.{key}"),
                    &format!("value-{}", random.skewed(50)),
                ),
                1 => int(out, 9, &format!("app.count.{key}"), random.skewed(1_000) as i64),
                _ => boolean(out, 9, &format!("app.flag.{key}"), random.chance(500)),
            }
        }
    }
}
