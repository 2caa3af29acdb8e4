//! Bad input from outside: each row is one request and the documented answer, and after all of them the node still
//! serves and holds nothing that it refused.

use std::io::Write as _;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vivace_e2e::client::{Otlp, Reply, Tempo, http_client};
use vivace_e2e::ledger::Ledger;
use vivace_e2e::process::Node;
use vivace_e2e::spans::{SpanKey, Workload};

use crate::fixture::{fixture, read_everything, send};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");

/// A request that must be refused, or taken, with this status.
struct Post {
    name: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    status: u16,
}

fn post(name: &'static str, headers: &[(&'static str, &'static str)], body: impl Into<Vec<u8>>, status: u16) -> Post {
    Post {
        name,
        headers: headers.to_vec(),
        body: body.into(),
        status,
    }
}

/// One for the whole process: a request built twice must be the same request.
fn workload() -> Workload {
    static WORKLOAD: LazyLock<Workload> = LazyLock::new(|| Workload::starting_now(6));
    *WORKLOAD
}

fn good(first: u64) -> ExportTraceServiceRequest {
    workload().request(9, first, 3)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn otlp_posts() -> Vec<Post> {
    let whole = good(0).encode_to_vec();
    let cut = &whole[..whole.len() - 5];
    // Field 1 as a varint instead of a message.
    let wrong_wire_type = [0x08, 0x01];
    let bad_utf8 = {
        let mut bytes = good(3).encode_to_vec();
        let at = bytes.windows(7).position(|window| window == b"e2e.key").unwrap();
        bytes[at] = 0xff;
        bytes
    };
    let bomb = gzip(&vec![0_u8; 200 << 20]);
    let mut trailing = gzip(&whole);
    trailing.extend_from_slice(b"garbage");
    let nested = {
        // Far deeper than any decoder's recursion: an AnyValue in an array in an AnyValue, 10,000 times.
        let mut value = vec![0x0a, 0x01, b'x'];
        for _ in 0..10_000 {
            value = delimited(5, &delimited(1, &value));
        }
        let attribute = [delimited(1, b"deep"), delimited(2, &value)].concat();
        let span = [delimited(1, &[1; 16]), delimited(2, &[1; 8]), delimited(9, &attribute)].concat();
        delimited(1, &delimited(2, &delimited(2, &span)))
    };
    vec![
        post("an empty request has no effect", &[PROTOBUF], Vec::new(), 200),
        post("cut protobuf", &[PROTOBUF], cut, 400),
        post("wrong wire type", &[PROTOBUF], wrong_wire_type, 400),
        post("bad UTF-8", &[PROTOBUF], bad_utf8, 400),
        post("not protobuf at all", &[PROTOBUF], "hello", 400),
        post(
            "unknown content type",
            &[("content-type", "text/plain")],
            whole.clone(),
            415,
        ),
        post(
            "unknown encoding",
            &[PROTOBUF, ("content-encoding", "br")],
            whole.clone(),
            415,
        ),
        post(
            "not gzip",
            &[PROTOBUF, ("content-encoding", "gzip")],
            whole.clone(),
            400,
        ),
        post(
            "cut gzip",
            &[PROTOBUF, ("content-encoding", "gzip")],
            &gzip(&whole)[..40],
            400,
        ),
        post(
            "garbage after gzip",
            &[PROTOBUF, ("content-encoding", "gzip")],
            trailing,
            400,
        ),
        post("gzip bomb", &[PROTOBUF, ("content-encoding", "gzip")], bomb, 413),
        post(
            "not zstd",
            &[PROTOBUF, ("content-encoding", "zstd")],
            whole.clone(),
            400,
        ),
        post("zstd bomb", &[PROTOBUF, ("content-encoding", "zstd")], zstd_bomb(), 413),
        post("larger than the wire limit", &[PROTOBUF], vec![0; 17 << 20], 413),
        post("not JSON", &[JSON], "{\"resourceSpans\": [", 400),
        post("JSON of another shape", &[JSON], "[1, 2]", 400),
        post(
            "JSON ids that are not hex",
            &[JSON],
            json_span("zz", "0102030405060708"),
            400,
        ),
        post("nesting without end", &[PROTOBUF], nested, 400),
    ]
}

fn zstd_bomb() -> Vec<u8> {
    zstd::encode_all(&vec![0_u8; 200 << 20][..], 3).unwrap()
}

/// A length-delimited protobuf field.
fn delimited(field: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 6);
    for mut number in [field << 3 | 2, bytes.len() as u64] {
        while number > 0x7f {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    }
    out.extend_from_slice(bytes);
    out
}

fn json_span(trace_id: &str, span_id: &str) -> Vec<u8> {
    let span = json!({"traceId": trace_id, "spanId": span_id, "name": "x", "kind": 2,
        "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000000000001"});
    json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
        .to_string()
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_is_taken_whole_or_refused() {
    let Some(fixture) = fixture("bad_input::otlp", json!({})) else {
        return;
    };
    let node = fixture.start().await;
    let client = http_client().unwrap();
    let url = format!("{}/v1/traces", node.otlp_http_url());
    let mut wrong = Vec::new();
    for Post {
        name,
        headers,
        body,
        status,
    } in otlp_posts()
    {
        let mut request = client.post(&url).body(body);
        for (header, value) in headers {
            request = request.header(header, value);
        }
        match request.send().await {
            Ok(response) if response.status().as_u16() == status => {}
            Ok(response) => wrong.push(format!("{name}: {status} wanted, {} came", response.status())),
            // A server that has answered 413 may close before the rest of the body is sent.
            Err(error) if status == 413 && (error.is_request() || error.is_body()) => {}
            Err(error) => wrong.push(format!("{name}: {status} wanted, {error:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_still_well(&node).await;
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    for seq in 0..6 {
        let id = workload().trace_id(SpanKey { client: 9, seq });
        assert!(
            tempo.trace(id).await.unwrap().resource_spans.is_empty(),
            "something of a refused request was stored"
        );
    }
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_spans_are_named_and_good_ones_kept() {
    let Some(fixture) = fixture("bad_input::partial", json!({})) else {
        return;
    };
    let node = fixture.start().await;
    let workload = workload();
    for (name, spoil) in [
        (
            "short trace id",
            (|span| span.trace_id = vec![1; 8]) as fn(&mut opentelemetry_proto::tonic::trace::v1::Span),
        ),
        ("no trace id", |span| span.trace_id.clear()),
        ("zero trace id", |span| span.trace_id = vec![0; 16]),
        ("zero span id", |span| span.span_id = vec![0; 8]),
        ("long span id", |span| span.span_id = vec![1; 9]),
    ] {
        for mut otlp in [
            Otlp::grpc(&node.otlp_grpc_url(), None).unwrap(),
            Otlp::http(&node.otlp_http_url(), None).unwrap(),
        ] {
            let mut request = good(0);
            spoil(&mut request.resource_spans[0].scope_spans[0].spans[1]);
            match otlp.export(request).await {
                Reply::Partial { rejected: 1, message } => assert!(!message.is_empty(), "{name}: say why"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    let answer = tempo.search("{ span.e2e.key = \"9-0\" }", &[]).await.unwrap();
    assert_eq!(answer.traces.len(), 1, "the good ones are there");
    let id = workload.trace_id(SpanKey { client: 9, seq: 0 });
    let spans = vivace_e2e::spans::flatten(tempo.trace(id).await.unwrap().resource_spans);
    assert_eq!(spans.len(), 2, "once, though they were sent ten times");
    node.stop().await.unwrap();
}

/// What it is, path, parameters, status.
type Row<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, u16);

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_refused_with_a_reason() {
    let Some(fixture) = fixture("bad_input::queries", json!({})) else {
        return;
    };
    let node = fixture.start().await;
    let tempo = Tempo::new(&node.http_url(), None).unwrap();
    let deep = format!("{{ {}true{} }}", "(".repeat(5_000), ")".repeat(5_000));
    let rows: Vec<Row<'_>> = vec![
        ("syntax", "/api/search", vec![("q", "{ .a = ")], 400),
        ("unknown word", "/api/search", vec![("q", "{ nonsense::a = 1 }")], 400),
        ("type mismatch", "/api/search", vec![("q", "{ duration = \"x\" }")], 400),
        ("regex", "/api/search", vec![("q", "{ .a =~ \"(\" }")], 400),
        (
            "huge regex",
            "/api/search",
            vec![("q", "{ .a =~ \"(a{1000}){1000}\" }")],
            400,
        ),
        ("nesting", "/api/search", vec![("q", &deep)], 400),
        ("limit 0", "/api/search", vec![("q", "{}"), ("limit", "0")], 400),
        (
            "limit in words",
            "/api/search",
            vec![("q", "{}"), ("limit", "many")],
            400,
        ),
        (
            "start alone",
            "/api/search",
            vec![("q", "{}"), ("start", "1700000000")],
            400,
        ),
        (
            "start in words",
            "/api/search",
            vec![("q", "{}"), ("start", "x"), ("end", "1700000000")],
            400,
        ),
        (
            "end before start",
            "/api/search",
            vec![("q", "{}"), ("start", "1700000001"), ("end", "1700000000")],
            400,
        ),
        (
            "range",
            "/api/search",
            vec![("q", "{}"), ("start", "1"), ("end", "1700000000")],
            400,
        ),
        ("spss", "/api/search", vec![("q", "{}"), ("spss", "101")], 400),
        ("trace id", "/api/traces/xyz", vec![], 400),
        ("trace id", "/api/v2/traces/xyz", vec![], 400),
        (
            "long trace id",
            "/api/traces/000102030405060708090a0b0c0d0e0f10",
            vec![],
            400,
        ),
        ("tag scope", "/api/v2/search/tags", vec![("scope", "nowhere")], 400),
        ("no such path", "/api/nothing", vec![], 404),
    ];
    let mut wrong = Vec::new();
    for (name, path, parameters, status) in rows {
        let url = vivace_e2e::client::with_query(path, &parameters).unwrap();
        let response = tempo.get(&url, "application/json").await.unwrap();
        let came = response.status().as_u16();
        let body = response.text().await.unwrap();
        if came != status {
            wrong.push(format!("{name} ({path}): {status} wanted, {came} came: {body:.200}"));
        } else if body.is_empty() {
            wrong.push(format!("{name} ({path}): refused without a reason"));
        }
    }
    // No HTTP client of ours sends so much; others do.
    let status = raw_get(&node, &format!("/api/search?q={}", "x".repeat(200 << 10))).await;
    if ![400, 414, 431].contains(&status) {
        wrong.push(format!("a query of 200 KiB: {status}"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_still_well(&node).await;
    node.stop().await.unwrap();
}

/// The status of a GET written by hand; 0 when the connection was closed without one.
async fn raw_get(node: &Node, path: &str) -> u16 {
    let mut stream = tokio::net::TcpStream::connect(node.http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    // A server that has seen enough may stop reading.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    text.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_checked() {
    let settings = json!({"tenancy": {"multitenancy_enabled": true}});
    let Some(fixture) = fixture("bad_input::tenants", settings) else {
        return;
    };
    let node = fixture.start().await;
    let client = http_client().unwrap();
    let long = "x".repeat(151);
    // Tempo says 401 to a tenant that it cannot read, others 400; both are understood.
    let refused = vec![400, 401];
    let mut wrong = Vec::new();
    for (tenant, status) in [
        (None, vec![401]),
        (Some(""), refused.clone()),
        (Some(long.as_str()), refused.clone()),
        (Some("a/b"), refused.clone()),
        (Some(".."), refused.clone()),
        (Some("a\u{fc}"), refused.clone()),
        (Some("a b"), refused.clone()),
        // Federation is for reads.
        (Some("a|b"), refused.clone()),
        (Some("ok-1_2.3!*'()"), vec![200]),
    ] {
        let url = format!("{}/v1/traces", node.otlp_http_url());
        let mut request = client
            .post(url)
            .header(PROTOBUF.0, PROTOBUF.1)
            .body(good(0).encode_to_vec());
        if let Some(tenant) = tenant {
            request = request.header(
                "x-scope-orgid",
                http::HeaderValue::from_bytes(tenant.as_bytes()).unwrap(),
            );
        }
        let came = request.send().await.unwrap().status().as_u16();
        if !status.contains(&came) {
            wrong.push(format!("{tenant:?}: {status:?} wanted, {came} came"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let unnamed = Tempo::new(&node.http_url(), None)
        .unwrap()
        .get("/api/search/tags", "*/*")
        .await
        .unwrap();
    assert_eq!(unnamed.status().as_u16(), 401);
    let other: Value = Tempo::new(&node.http_url(), Some("other"))
        .unwrap()
        .tags()
        .await
        .unwrap();
    assert!(!other.to_string().contains("e2e.key"), "another tenant's tags: {other}");
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_refused_line_by_line() {
    let Some(fixture) = fixture("bad_input::settings", json!({})) else {
        return;
    };
    let file = fixture.scratch.path().join("bad.yaml");
    for (text, field) in [
        ("listen: {htpp: 127.0.0.1:0}", "htpp"),
        ("wal: {segment_bytes: lots}", "wal.segment_bytes"),
        ("listen: {http: 127.0.0.1:4317}", "listen.http"),
        ("storage: {type: S3}", "storage.s3"),
        ("a: [", ""),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = std::process::Command::new(&fixture.options.bin)
            .args(["standalone", "--check-config", "--config"])
            .arg(&file)
            .current_dir(fixture.scratch.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{text}: {said}");
        assert!(said.contains(field) && !said.contains("panicked"), "{text}: {said}");
    }
}

/// A good request is stored and read back, and nothing panicked.
async fn assert_still_well(node: &Node) {
    node.assert_no_panic().unwrap();
    let ledger = Ledger::new(Workload::starting_now(66), [(1, "single-tenant".to_owned())]);
    let mut otlp = Otlp::grpc(&node.otlp_grpc_url(), None).unwrap();
    assert_eq!(send(&mut otlp, &ledger, 1, 0, 50).await, Reply::Accepted);
    let verdict = read_everything(node, &ledger, "single-tenant").await.unwrap();
    assert!(verdict.is_clean(), "{verdict}");
}
