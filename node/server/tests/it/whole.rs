//! A whole node in this process: what is acknowledged is found, live, flushed, and after a restart.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::otlp::{self, Repeated, read_span};
use model::proto::Malformed;
use serde_json::{Value, json};
use server::app::{App, Common};
use server::clock::SystemClock;
use server::load::report::Tally;
use server::load::template::Templates;
use server::load::{Plan, Protocol, Until, run};
use server::node::Node;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Running {
    otlp_grpc: SocketAddr,
    pub(crate) otlp_http: SocketAddr,
    pub(crate) http: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<Vec<u8>>>,
}

async fn start(dir: &Path) -> Running {
    let settings = "flush: {tail_age: 1s}\nlimits: {defaults: {ingest_rate: 1GB, ingest_burst: 1GB}}\n";
    start_with(dir, settings).await
}

/// A node with these settings; its ports and its log are set here.
pub(crate) async fn start_with(dir: &Path, settings: &str) -> Running {
    let ports = "
listen: {otlp_grpc: '127.0.0.1:0', otlp_http: '127.0.0.1:0', http: '127.0.0.1:0', shutdown_grace: 5s}
";
    let wal = match settings.contains("wal:") {
        true => "",
        false => "wal: {segment_bytes: 8MiB, quota_bytes: 512MiB}\n",
    };
    let mut settings = settings::parse(&format!("{ports}{wal}{settings}")).unwrap();
    settings.node.data_dir = dir.to_owned();
    let common = Common::new(settings, Arc::new(SystemClock::new()));
    let objects = server::storage::open(&common.settings).unwrap();
    let app = App::bind(common.clone(), None).await.unwrap();
    let addresses: HashMap<_, _> = app.addresses().into_iter().collect();
    let node = Node::open(common, objects).await.unwrap();
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move {
        let mut out = Vec::new();
        app.run(node.backend(), token, &mut out).await?;
        Ok(out)
    });
    Running {
        otlp_grpc: addresses["otlp-grpc"],
        otlp_http: addresses["otlp-http"],
        http: addresses["http"],
        stop,
        task,
    }
}

impl Running {
    pub(crate) async fn stop(self) -> String {
        self.stop.cancel();
        let out = tokio::time::timeout(Duration::from_secs(60), self.task)
            .await
            .expect("the node stops");
        String::from_utf8(out.unwrap().unwrap()).unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let answer = reqwest::get(format!("http://{}{path}", self.http)).await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Spans of a trace, as its protobuf has them.
    async fn spans_of(&self, id: model::TraceId) -> usize {
        let url = format!("http://{}/api/traces/{id}", self.http);
        let request = reqwest::Client::new().get(url).header("accept", "application/protobuf");
        let answer = request.send().await.unwrap();
        if answer.status() == 404 {
            return 0;
        }
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        assert!(
            !answer.headers().contains_key("x-vivace-partial"),
            "{:?}",
            answer.headers()
        );
        count_by_trace(&answer.bytes().await.unwrap())
            .get(&id)
            .copied()
            .unwrap_or(0)
    }

    /// Spans of the last hour, as a metrics query counts them.
    async fn counted(&self) -> f64 {
        let path = "/api/metrics/query_range?q=%7B%7D%7Ccount_over_time()by(resource.service.name)&since=2h";
        let found = self.json(path).await;
        assert_eq!(found.get("status"), None, "{found}");
        let series = found["series"].as_array().cloned().unwrap_or_default();
        let samples = series.iter().flat_map(|one| one["samples"].as_array().unwrap());
        samples.filter_map(|sample| sample["value"].as_f64()).sum()
    }

    async fn check(&self, expected: &HashMap<model::TraceId, usize>) {
        let spans: usize = expected.values().sum();
        assert_eq!(self.counted().await, spans as f64);
        for (id, spans) in expected.iter().take(100) {
            assert_eq!(self.spans_of(*id).await, *spans, "{id}");
        }
    }
}

pub(crate) fn count_by_trace(body: &[u8]) -> HashMap<model::TraceId, usize> {
    let mut counts = HashMap::new();
    for span in otlp::spans(body) {
        let view = read_span(span.unwrap(), |_: Repeated<'_>| Ok::<(), Malformed>(())).unwrap();
        *counts
            .entry(model::TraceId(view.trace_id.try_into().unwrap()))
            .or_default() += 1;
    }
    counts
}

/// Everything below the folder that is for its owner alone, which is everything but what is within the local object store.
fn owner_only(folder: &Path) -> Vec<PathBuf> {
    let mut seen = vec![folder.to_owned()];
    let mut next = 0;
    while next < seen.len() {
        let path = seen[next].clone();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
        if path.is_dir() && !path.ends_with("objects") {
            seen.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
        next += 1;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_found_live_flushed_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let templates = Arc::new(Templates::new(7));
    let mut expected = HashMap::new();
    for request in 0..templates.len() {
        for (id, count) in count_by_trace(&templates.copy(0, request, 1 << 60)[5..]) {
            *expected.entry(id).or_default() += count;
        }
    }
    let node = start(&data).await;
    let plan = Plan {
        endpoint: node.otlp_grpc,
        protocol: Protocol::Grpc,
        rate: None,
        until: Until::Spans(templates.spans()),
        connections: 2,
        in_flight: 4,
        tenant: None,
        retry_for: Duration::from_secs(60),
    };
    let report = run(&plan, Arc::clone(&templates), &Arc::new(Tally::default())).await;
    assert_eq!(
        (report.spans_acknowledged, report.spans_rejected, report.spans_failed),
        (templates.spans(), 0, 0),
        "{report}"
    );
    node.check(&expected).await;

    let found = node.json("/api/search?q=%7B+status+%3D+error+%7D&limit=5&spss=1").await;
    assert_eq!(found["traces"].as_array().unwrap().len(), 5, "{found}");
    let tags = node.json("/api/v2/search/tags?scope=resource").await;
    assert!(tags.to_string().contains("k8s.pod.name"), "{tags}");
    let values = node
        .json("/api/v2/search/tag/resource.telemetry.sdk.language/values")
        .await;
    assert!(values.to_string().contains("\"rust\""), "{values}");

    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = node.json("/api/search?q=%7B%7D&limit=1").await;
        if found["metrics"]["totalBlocks"].as_u64().unwrap_or(0) >= 1 {
            break;
        }
        assert!(Instant::now() < deadline, "nothing was flushed: {found}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.check(&expected).await;
    let out = node.stop().await;
    let lines: Vec<_> = out
        .lines()
        .map(|line| line.rsplit_once(' ').map_or(line, |(name, _)| name))
        .collect();
    assert_eq!(
        lines,
        ["listening otlp-grpc", "listening otlp-http", "listening http", "ready"]
    );

    let seen = owner_only(&data);
    for name in ["wal/LOCK", "node-id", "cluster-id", "spool", "snapshots", "objects"] {
        assert!(seen.iter().any(|path| path.ends_with(name)), "{name}: {seen:?}");
    }

    let node = start(&data).await;
    node.check(&expected).await;
    let found = node.json("/api/search?q=%7B+status+%3D+error+%7D&limit=5").await;
    assert_eq!(found["traces"].as_array().unwrap().len(), 5);
    node.stop().await;
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Running {
    async fn page(&self, path: &str) -> String {
        let answer = reqwest::get(format!("http://{}{path}", self.http)).await.unwrap();
        answer.text().await.unwrap()
    }

    /// Waits until a page says so.
    async fn says(&self, path: &str, what: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let page = self.page(path).await;
            if page.contains(what) {
                return page;
            }
            assert!(Instant::now() < deadline, "{path} does not say {what}: {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends spans and waits until they are in blocks.
    async fn load(&self, seed: u64) {
        self.load_only(seed).await;
        self.is_flushed().await;
    }

    async fn is_flushed(&self) {
        self.says("/metrics", "vivace_live_spans 0\n").await;
        self.says("/metrics", "vivace_spooled_blocks 0\n").await;
    }

    async fn load_only(&self, seed: u64) {
        let templates = Arc::new(Templates::new(seed));
        let plan = Plan {
            endpoint: self.otlp_grpc,
            protocol: Protocol::Grpc,
            rate: None,
            until: Until::Spans(1_000),
            connections: 1,
            in_flight: 1,
            tenant: None,
            retry_for: Duration::from_secs(60),
        };
        let report = run(&plan, templates, &Arc::new(Tally::default())).await;
        assert_eq!(report.spans_failed, 0, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_restored_from_an_older_copy_is_told_from_one_that_was_not() {
    let (store, data, copy) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let settings = format!(
        "storage: {{filesystem: {{path: '{}'}}}}\nflush: {{tail_age: 1s}}\nretention: {{interval: 1s}}\n\
         limits: {{defaults: {{ingest_rate: 1GB, ingest_burst: 1GB}}}}\n",
        store.path().display()
    );
    let node = start_with(data.path(), &settings).await;
    node.load(1).await;
    node.stop().await;
    copy_folder(data.path(), copy.path());
    // A restart is no reason to worry, and life goes on.
    let node = start_with(data.path(), &settings).await;
    node.load(2).await;
    node.says("/metrics", "vivace_unknown_objects 0\n").await;
    assert!(!node.page("/status").await.contains("object store:"));
    node.stop().await;
    let objects = |dir: &Path| files_below(dir).len();
    let before = objects(store.path());
    // The disk was lost, and this was the last copy of it.
    let node = start_with(copy.path(), &settings).await;
    let said = node.says("/status", "has never heard of").await;
    assert!(
        said.contains("start them on the newest") && said.contains("instance l0/"),
        "{said}"
    );
    assert!(!node.page("/metrics").await.contains("vivace_unknown_objects 0\n"));
    assert_eq!(objects(store.path()), before);
    node.stop().await;
    // The newest copy was found again: it has everything, and only what the older one added would be new to it.
    let node = start_with(data.path(), &settings).await;
    node.says("/metrics", "vivace_unknown_objects 0\n").await;
    node.stop().await;
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_data_directory_does_not_take_over_what_another_has_in_the_object_store() {
    let (store, first, second) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let settings = format!("storage: {{filesystem: {{path: '{}'}}}}\n", store.path().display());
    let node = start_with(first.path(), &settings).await;
    let open = async |dir: &Path| {
        let mut settings = settings::parse(&settings).unwrap();
        settings.node.data_dir = dir.to_owned();
        let common = Common::new(settings, Arc::new(SystemClock::new()));
        let objects = server::storage::open(&common.settings).unwrap();
        Node::open(common, objects).await.map(drop).unwrap_err().to_string()
    };
    // Nothing was flushed yet, and still.
    let refused = open(second.path()).await;
    assert!(refused.contains("belongs to cluster"), "{refused}");
    node.stop().await;
    // A prefix whose owner was forgotten has one again as soon as its cluster comes back.
    std::fs::remove_file(store.path().join("owner.json")).unwrap();
    start_with(first.path(), &settings).await.stop().await;
    let refused = open(second.path()).await;
    assert!(refused.contains("belongs to cluster"), "{refused}");
    // The settings name the prefix of somebody else.
    std::fs::write(store.path().join("owner.json"), r#"{"cluster": "other"}"#).unwrap();
    let refused = open(first.path()).await;
    assert!(refused.contains("belongs to cluster other"), "{refused}");
}

/// As of a volume that is unmounted while the node runs: its mount point is an empty folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_objects_that_is_gone_is_not_made_anew() {
    let (volume, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mounted, elsewhere) = (volume.path().join("objects"), volume.path().join("elsewhere"));
    let settings = format!(
        "storage: {{filesystem: {{path: '{}'}}}}\nflush: {{tail_age: 1s}}\n\
         limits: {{defaults: {{ingest_rate: 1GB, ingest_burst: 1GB}}}}\n",
        mounted.display()
    );
    let node = start_with(data.path(), &settings).await;
    node.load(1).await;
    let before = files_below(&mounted);
    std::fs::rename(&mounted, &elsewhere).unwrap();
    std::fs::create_dir(&mounted).unwrap();
    node.load_only(2).await;
    let said = node.says("/status", "owner.json is gone").await;
    assert!(said.contains("is the volume not mounted"), "{said}");
    assert!(!node.page("/metrics").await.contains("vivace_failed_flushes_total 0\n"));
    node.stop().await;
    // The same when it starts.
    let node = start_with(data.path(), &settings).await;
    node.says("/status", "owner.json is gone").await;
    assert_eq!(files_below(&mounted), Vec::<PathBuf>::new());
    // It is back.
    std::fs::remove_dir(&mounted).unwrap();
    std::fs::rename(&elsewhere, &mounted).unwrap();
    node.is_flushed().await;
    assert!(!node.page("/status").await.contains("owner.json is gone"));
    assert!(files_below(&mounted).len() > before.len());
    node.stop().await;
}

/// A bit of the log rots while its spans are in memory only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_the_log_is_found_while_its_spans_are_in_memory() {
    let data = tempfile::tempdir().unwrap();
    let settings = "flush: {tail_age: 1h}\nwal: {segment_bytes: 8MiB, quota_bytes: 512MiB, scrub_interval: 1s}\n\
                    limits: {defaults: {ingest_rate: 1GB, ingest_burst: 1GB}}\n";
    let node = start_with(data.path(), settings).await;
    // More than one segment, less than what makes a shard cut: 20 requests of half a megabyte once compressed.
    let (mut random, now) = (1_u64, crate::live_limits::now_unix_nanos().to_string());
    for _ in 0..20 {
        let mut text = |digits: usize| -> String {
            let mut next = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                format!("{:08x}", random >> 32)
            };
            (0..digits / 8).map(|_| next()).collect()
        };
        let spans: Vec<Value> = (0..500)
            .map(|_| {
                let note = json!({"key": "note", "value": {"stringValue": text(2000)}});
                json!({"traceId": text(32), "spanId": text(16), "name": "x", "startTimeUnixNano": now, "attributes": [note]})
            })
            .collect();
        let answer = reqwest::Client::new()
            .post(format!("http://{}/v1/traces", node.otlp_http))
            .json(&json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.text().await.unwrap(), "{}");
    }
    node.says("/metrics", "vivace_spooled_blocks 0\n").await;
    assert!(
        node.page("/metrics").await.contains("vivace_blocks 0\n"),
        "nothing was cut yet"
    );
    let is_oldest = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        path.extension().is_some_and(|ext| ext == "wal") && bytes[24..32] == 1_u64.to_le_bytes()
    };
    let oldest = files_below(&data.path().join("wal"))
        .into_iter()
        .find(is_oldest)
        .unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(oldest).unwrap();
    let (mut byte, at) = ([0], 1 << 20);
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 4], at).unwrap();
    node.says("/status", "log: damaged on disk at 1 places, the first in segment 1")
        .await;
    // Everything is made into blocks, the segment is freed, and with it the damage.
    node.is_flushed().await;
    node.says("/metrics", "vivace_wal_damaged_places 0\n").await;
    assert!(!node.page("/status").await.contains("damaged on disk"));
    node.stop().await;
}
