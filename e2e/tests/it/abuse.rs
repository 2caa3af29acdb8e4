//! Ten times what is allowed: each request is refused or stopped by a limit whose name it is told, what many queries hold
//! together is bounded, and another tenant hardly notices.
//!
//! How much another tenant notices is a ratio within one run, never a number of seconds, and rounds with and without the
//! storm alternate. No other test runs beside it, and whatever else runs on the machine only makes an answer slower, so of
//! each side the best round counts: that is where the least of the others' work is in the number. A neighbour that is
//! starved is slow in every round; one that is not has a good round soon, and then no further one is needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prost::Message as _;
use reqwest::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;
use vivace_e2e::client::{Otlp, Reply, TENANT_HEADER, http_client, with_query};
use vivace_e2e::process::{Node, vivace_bin};
use vivace_e2e::spans::Workload;

use crate::fixture::{Fixture, eventually, fixture, fixture_alone};

const GREEDY: &str = "greedy";
const CALM: &str = "calm";
/// Somebody else who is calm, so that what is asked does not grow by what is sent.
const WRITER: &str = "writer";
/// Asks ten times as much as it may at once.
const ASKS_AT_ONCE: usize = 10 * GREEDY_CONCURRENT_MAX;
const GREEDY_CONCURRENT_MAX: usize = 2;
/// Sends ten times as much as it may, once it may no more than this.
const FLOOD: &str = "flood";
const FLOOD_RATE: u64 = 1_000_000;
const FLOOD_EVERY: Duration = Duration::from_millis(50);
/// How much slower another tenant may become: it has half of the CPUs.
const SLOWER_MAX: f64 = 2.0;
/// What a median and a 99th percentile may wait besides: the kernel shares two CPUs between the node, the storm and this
/// test, in slices of about 3 ms, and a request goes through half a dozen threads. Without turns it would wait for whole
/// questions, each of which takes seconds.
const SLICES_MAX: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(50)];
const ROUNDS: usize = 6;
/// Requests of each kind in a round: the 99th percentile is the second slowest.
const ASKED_PER_ROUND: usize = 100;
const MIB: u64 = 1 << 20;

#[derive(Clone)]
struct Asker {
    client: reqwest::Client,
    url: String,
    tenant: &'static str,
}

impl Asker {
    fn of(node: &Node, tenant: &'static str) -> Self {
        Self {
            client: http_client().unwrap(),
            url: node.http_url(),
            tenant,
        }
    }

    async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> (StatusCode, String) {
        let url = format!("{}{}", self.url, with_query(path, parameters).unwrap());
        let request = self.client.get(url).header(TENANT_HEADER, self.tenant);
        let answer = request.timeout(Duration::from_secs(120)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }
}

/// A node with spans of both tenants in blocks.
async fn loaded(fixture: Fixture, spans: u32) -> (Fixture, Node) {
    let node = fixture.start().await;
    for tenant in [GREEDY, CALM] {
        let status = tokio::process::Command::new(vivace_bin().unwrap())
            .args(["load", "--seed", "7", "--endpoint", &node.otlp_grpc.to_string()])
            .args(["--tenant", tenant, "--spans", &spans.to_string()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        assert!(status.await.unwrap().success());
    }
    let metrics = Asker::of(&node, CALM);
    eventually("everything in blocks", 120, async || {
        let (_, text) = metrics.ask("/metrics", &[]).await;
        text.lines().any(|line| line == "vivace_live_spans 0")
    })
    .await;
    (fixture, node)
}

fn settings() -> serde_json::Value {
    json!({
        "tenancy": {"multitenancy_enabled": true},
        "limits": {
            "defaults": {"ingest_rate": "1GB", "ingest_burst": "1GB"},
            "tenants": {
                GREEDY: {"queries_concurrent_max": GREEDY_CONCURRENT_MAX},
                FLOOD: {"ingest_rate": format!("{FLOOD_RATE}B"), "ingest_burst": format!("{FLOOD_RATE}B")},
            },
        },
    })
}

/// The names and values of a question.
type Parameters<'a> = Vec<(&'a str, &'a str)>;

/// Ten times what is allowed, of everything that a question can ask for.
#[tokio::test(flavor = "multi_thread")]
async fn ten_times_a_limit_is_refused_by_its_name() {
    let Some(fixture) = fixture("abuse::ten_times", settings()) else {
        return;
    };
    let node = fixture.start().await;
    let asker = Asker::of(&node, GREEDY);
    let many = |piece: &str, between: &str, count: usize| vec![piece; count].join(between);
    let nested = format!("{{ {}.a{} }}", "(".repeat(640), ")".repeat(640));
    let patterns = format!("{{ {} }}", many(".a =~ \"x.*\"", " || ", 160));
    let huge = "{ .a =~ \"(a{1000}){1000}\" }";
    let by = format!("{{ }} | rate() by({})", many(".a", ", ", 50));
    let week = 7 * 86_400;
    let end = 1_700_000_000_i64;
    let (start, end) = ((end - 10 * week).to_string(), end.to_string());
    let search = "/api/search";
    let range = "/api/metrics/query_range";
    let spansets = many("{ }", " >> ", 640);
    let stages = format!("{{ }} | {}", many("count() > 0", " | ", 1_280));
    let asked: [(&str, Parameters<'_>, &str); 11] = [
        (search, vec![("q", &spansets)], "more than 64 spanset filters"),
        (search, vec![("q", &stages)], "more than 128 pipeline stages"),
        (search, vec![("q", &nested)], "64"),
        (search, vec![("q", &patterns)], "16 regular expressions"),
        (search, vec![("q", huge)], "regular expression"),
        (
            search,
            vec![("q", "{ }"), ("spss", "1000")],
            "spans per span set exceeds 100",
        ),
        (
            search,
            vec![("q", "{ }"), ("start", &start), ("end", &end)],
            "exceeds 168h",
        ),
        (
            range,
            vec![("q", "{ } | rate()"), ("start", &start), ("end", &end)],
            "metrics_range_max",
        ),
        (
            range,
            vec![("q", "{ } | rate()"), ("since", "24h"), ("step", "864ms")],
            "10000",
        ),
        (range, vec![("q", &by)], "5 by()"),
        (range, vec![("q", "{ } | compare({ }, 10000)")], "1000"),
    ];
    let mut wrong = Vec::new();
    for (path, parameters, name) in asked {
        let (status, said) = asker.ask(path, &parameters).await;
        let is_refused = status == StatusCode::BAD_REQUEST || status == StatusCode::URI_TOO_LONG;
        if !is_refused || !said.contains(name) {
            let query: String = parameters[0].1.chars().take(60).collect();
            wrong.push(format!("{query}: {name} wanted: {status} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    node.assert_no_panic().unwrap();
    node.stop().await.unwrap();
}

/// A path and its parameters.
type Question = (&'static str, Vec<(&'static str, String)>);

/// Questions that are allowed and dear.
fn greedy_questions() -> Vec<Question> {
    let search = |query: String| {
        (
            "/api/search",
            vec![("q", query), ("limit", "5000".into()), ("spss", "100".into())],
        )
    };
    let range = |query: &str, step: &str| {
        let since = ("since", "3h".to_owned());
        (
            "/api/metrics/query_range",
            vec![("q", query.to_owned()), since, ("step", step.to_owned())],
        )
    };
    vec![
        search(vec!["{ }"; 60].join(" >> ")),
        search("{ name =~ \".*(a|b|c|d){1,30}.*(x|y|z){1,30}.*\" }".into()),
        search("{ } | by(span:id) | count() > 0".into()),
        search(vec!["{ }"; 60].join(" &~ ")),
        range("{ } | compare({ status = error }, 1000)", "10"),
        range("{ } | quantile_over_time(duration, .1, .5, .9) by(span:id)", "60"),
        range("{ } | rate() by(span:id)", "2"),
    ]
}

/// How long another tenant waits: median and 99th percentile of one round, or the least of several.
#[derive(Debug, Clone, Copy)]
struct Waits {
    query: [Duration; 2],
    ingest: [Duration; 2],
}

impl Waits {
    fn best(self, other: Self) -> Self {
        let least = |a: [Duration; 2], b: [Duration; 2]| [a[0].min(b[0]), a[1].min(b[1])];
        Self {
            query: least(self.query, other.query),
            ingest: least(self.ingest, other.ingest),
        }
    }

    fn is_near(self, alone: Self) -> bool {
        let bound = |alone: Duration, slices| alone.mul_f64(SLOWER_MAX) + slices;
        (0..2).all(|at| {
            self.query[at] <= bound(alone.query[at], SLICES_MAX[at])
                && self.ingest[at] <= bound(alone.ingest[at], SLICES_MAX[at])
        })
    }
}

/// Who asks and sends by turns, one request at a time.
struct Neighbour {
    asker: Asker,
    otlp: Otlp,
    workload: Workload,
    sent: u64,
}

impl Neighbour {
    const SPANS: u64 = 20;

    async fn round(&mut self) -> Waits {
        let query = "{ kind = server && duration > 1ms } >> { kind = client } | count() > 3";
        let (mut queries, mut ingests) = (Vec::new(), Vec::new());
        for _ in 0..ASKED_PER_ROUND {
            let begun = Instant::now();
            let (status, said) = self.asker.ask("/api/search", &[("q", query)]).await;
            queries.push(begun.elapsed());
            assert!(status.is_success(), "{status} {said}");
            let request = self.workload.request(1, self.sent, Self::SPANS);
            self.sent += Self::SPANS;
            let begun = Instant::now();
            let reply = self.otlp.export(request).await;
            ingests.push(begun.elapsed());
            assert_eq!(reply, Reply::Accepted);
        }
        Waits {
            query: median_and_p99(queries),
            ingest: median_and_p99(ingests),
        }
    }
}

fn median_and_p99(mut took: Vec<Duration>) -> [Duration; 2] {
    took.sort();
    [took[took.len() / 2], took[took.len() * 99 / 100 - 1]]
}

/// What the others got, so that a storm that does not blow is seen.
#[derive(Default)]
struct Storm {
    answered: AtomicUsize,
    throttled: AtomicUsize,
}

impl Storm {
    /// Blows until the set is dropped; requests that are under way then are broken off.
    fn blow(self: &Arc<Self>, node: &Node) -> JoinSet<()> {
        let mut storm = JoinSet::new();
        for n in 0..ASKS_AT_ONCE {
            storm.spawn(Arc::clone(self).ask(Asker::of(node, GREEDY), n));
        }
        storm.spawn(Arc::clone(self).send(format!("{}/v1/traces", node.otlp_http_url())));
        storm
    }

    async fn ask(self: Arc<Self>, asker: Asker, n: usize) {
        let questions = greedy_questions();
        for (path, parameters) in questions.iter().cycle().skip(n) {
            let parameters: Vec<(&str, &str)> = parameters.iter().map(|(k, v)| (*k, &**v)).collect();
            let (status, said) = asker.ask(path, &parameters).await;
            self.answered.fetch_add(1, Ordering::Relaxed);
            let is_named = ["_max", "timeout"].iter().any(|word| said.contains(word));
            assert!(status.is_success() || is_named, "{status} {said}");
        }
    }

    async fn send(self: Arc<Self>, url: String) {
        let workload = Workload::starting_now(9);
        let bytes_wanted = usize::try_from(10 * FLOOD_RATE).unwrap() / (1_000 / FLOOD_EVERY.as_millis() as usize);
        let bytes_of_span = workload.request(1, 0, 100).encoded_len() / 100;
        let spans = (bytes_wanted / bytes_of_span) as u64;
        let bodies: Vec<bytes::Bytes> = (0..20)
            .map(|n| workload.request(2, n * spans, spans).encode_to_vec().into())
            .collect();
        let client = http_client().unwrap();
        let mut every = tokio::time::interval(FLOOD_EVERY);
        let mut under_way = JoinSet::new();
        for body in bodies.iter().cycle() {
            every.tick().await;
            let post = client
                .post(&url)
                .header(TENANT_HEADER, FLOOD)
                .header("content-type", "application/x-protobuf")
                .body(body.clone());
            under_way.spawn(post.send());
            while let Some(answer) = under_way.try_join_next() {
                let status = answer.unwrap().unwrap().status();
                assert!(
                    status.is_success() || status == StatusCode::TOO_MANY_REQUESTS,
                    "{status}"
                );
                let throttled = usize::from(status == StatusCode::TOO_MANY_REQUESTS);
                self.throttled.fetch_add(throttled, Ordering::Relaxed);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_hardly_notices() {
    let Some(fixture) = fixture_alone("abuse::neighbours", settings()) else {
        return;
    };
    let (_fixture, node) = loaded(fixture, 60_000).await;
    let mut calm = Neighbour {
        asker: Asker::of(&node, CALM),
        otlp: Otlp::grpc(&node.otlp_grpc_url(), Some(WRITER)).unwrap(),
        workload: Workload::starting_now(10),
        sent: 0,
    };
    let mut sides: Option<(Waits, Waits)> = None;
    for round in 0..ROUNDS {
        let alone = calm.round().await;
        let storm = Arc::new(Storm::default());
        let mut blowing = storm.blow(&node);
        eventually("the storm is under way", 60, async || {
            storm.answered.load(Ordering::Relaxed) > 0 && storm.throttled.load(Ordering::Relaxed) > 0
        })
        .await;
        let beside = calm.round().await;
        // Its tasks end by themselves only when an answer was not what it should be.
        if let Some(ended) = blowing.try_join_next() {
            ended.unwrap();
        }
        drop(blowing);
        println!("round {round}: alone {alone:?}, in the storm {beside:?}");
        let (alone, beside) = sides.map_or((alone, beside), |sides| (sides.0.best(alone), sides.1.best(beside)));
        sides = Some((alone, beside));
        if beside.is_near(alone) {
            node.assert_no_panic().unwrap();
            node.stop().await.unwrap();
            return;
        }
    }
    panic!("more than {SLOWER_MAX} times slower, alone and in the storm: {sides:?}");
}

fn peak_rss(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

/// Sixteen at once, each allowed 50 MB: what the process takes for them is bounded by that, and who needs more is told
/// which limit it was.
#[tokio::test(flavor = "multi_thread")]
async fn memory_of_sixteen_queries_is_bounded() {
    let mut with = settings();
    with["limits"]["defaults"]["query_memory_max"] = json!("50MB");
    with["limits"]["defaults"]["queries_memory_max"] = json!("400MB");
    let Some(fixture) = fixture("abuse::memory", with) else {
        return;
    };
    let (_fixture, node) = loaded(fixture, 100_000).await;
    let calm = Asker::of(&node, CALM);
    // What blocks cost that are open is no query's memory.
    for query in ["{ .nope = 1 || name = \"nope\" }", "{ } | select(.nope)"] {
        assert!(calm.ask("/api/search", &[("q", query)]).await.0.is_success());
    }
    let before = peak_rss(&node);
    let questions = greedy_questions();
    let asked = (0..16).map(|n| {
        let (path, parameters) = questions[n % questions.len()].clone();
        let asker = Asker::of(&node, GREEDY);
        tokio::spawn(async move {
            let parameters: Vec<(&str, &str)> = parameters.iter().map(|(k, v)| (*k, &**v)).collect();
            asker.ask(path, &parameters).await
        })
    });
    let mut refused = 0;
    for one in asked.collect::<Vec<_>>() {
        let (status, said) = one.await.unwrap();
        if status.is_success() {
            continue;
        }
        refused += 1;
        let names = [
            "query_memory_max: 50MB",
            "query_memory_max: 50000000",
            "queries_memory_max",
            "memory.queries",
        ];
        let others = ["query_samples_max", "query.response_bytes_max", "timeout"];
        let is_named = names.iter().chain(&others).any(|name| said.contains(name));
        assert!(is_named, "{status} {said}");
    }
    assert!(refused > 0, "some of them need more than 50 MB");
    let grown = peak_rss(&node).saturating_sub(before);
    // The queries', once more for answers that are being written, and what an allocator keeps.
    let bound = 2 * 16 * 50_000_000 + 128 * MIB;
    assert!(grown <= bound, "grown by {} MiB", grown / MIB);
    println!(
        "peak RSS {} MiB, {} MiB more than before",
        peak_rss(&node) / MIB,
        grown / MIB
    );
    node.assert_no_panic().unwrap();
    node.stop().await.unwrap();
}
