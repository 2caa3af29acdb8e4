//! Several whole nodes in this process, over loopback, with one bucket: they grow into a cluster, any of them takes spans,
//! one of them may go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::TraceId;
use server::app::{App, Common};
use server::clock::SystemClock;
use server::load::report::Tally;
use server::load::template::Templates;
use server::load::{Plan, Protocol, Until, run};
use server::node::Node;
use server::node::observer::Observer;
use settings::storage::FilesystemSettings;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::whole::count_by_trace;

const SOON: Duration = Duration::from_secs(90);

struct Member {
    folder: TempDir,
    otlp_grpc: SocketAddr,
    http: SocketAddr,
    peer: Arc<str>,
    observer: Observer,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

async fn start(folder: TempDir, bucket: &Path, join: &[Arc<str>], peer: &str) -> Member {
    let mut settings = settings::parse(&format!(
        "
listen: {{otlp_grpc: '127.0.0.1:0', otlp_http: '127.0.0.1:0', http: '127.0.0.1:0', peer: '{peer}', shutdown_grace: 2s}}
cluster: {{plaintext: true}}
shards: {{count: 2}}
flush: {{tail_age: 3s}}
wal: {{segment_bytes: 8MiB, quota_bytes: 512MiB}}
limits: {{defaults: {{ingest_rate: 1GB, ingest_burst: 1GB}}}}
"
    ))
    .unwrap();
    settings.cluster.join = join.iter().map(ToString::to_string).collect();
    settings.node.data_dir = folder.path().to_owned();
    settings.storage.filesystem = Some(FilesystemSettings {
        path: Some(bucket.to_owned()),
    });
    let common = Common::new(settings, Arc::new(SystemClock::new()));
    let objects = server::storage::open(&common.settings).unwrap();
    let app = App::bind(common.clone(), None).await.unwrap();
    let addresses: HashMap<_, _> = app.addresses().into_iter().collect();
    let node = tokio::time::timeout(SOON, Node::open(common, objects))
        .await
        .unwrap()
        .unwrap();
    let (observer, peer) = (node.observer(), node.peer_address().unwrap());
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move { app.run(node.backend(), token, &mut Vec::new()).await });
    Member {
        folder,
        otlp_grpc: addresses["otlp-grpc"],
        http: addresses["http"],
        peer,
        observer,
        stop,
        task,
    }
}

impl Member {
    async fn stop(self) -> (TempDir, Arc<str>) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap().unwrap();
        (self.folder, self.peer)
    }

    /// How many spans of a trace this node finds; `None` when it cannot say, or says that something may be missing.
    async fn spans_of(&self, id: TraceId) -> Option<usize> {
        let url = format!("http://{}/api/traces/{id}", self.http);
        let request = reqwest::Client::new().get(url).header("accept", "application/protobuf");
        // A machine that stood still for seconds loses connections.
        let answer = request.send().await.ok()?;
        if answer.headers().contains_key("x-vivace-partial") {
            return None;
        }
        match answer.status() {
            reqwest::StatusCode::NOT_FOUND => Some(0),
            status if status.is_success() => {
                let counts = count_by_trace(&answer.bytes().await.ok()?);
                Some(counts.get(&id).copied().unwrap_or(0))
            }
            _ => None,
        }
    }
}

/// How many spans of a trace a search for it finds; `None` when the answer says that something is missing. It looks at the
/// live spans of every shard, wherever they are.
async fn search(member: &Member, id: TraceId) -> Option<usize> {
    let url = format!(
        "http://{}/api/search?q=%7Btrace:id=%22{id}%22%7D&limit=1&spss=1",
        member.http
    );
    let answer = reqwest::get(url).await.ok()?;
    if answer.headers().contains_key("x-vivace-partial") {
        return None;
    }
    let (status, text) = (answer.status(), answer.text().await.ok()?);
    if !status.is_success() {
        println!("a search was not answered: {status} {text}");
        return None;
    }
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let matched = answer["traces"][0]["spanSets"][0]["matched"].as_u64();
    Some(usize::try_from(matched.unwrap_or(0)).unwrap())
}

/// A search through any node finds every one of these spans, once.
async fn check_search(members: &[Member], expected: &HashMap<TraceId, usize>) {
    for member in members {
        for (id, spans) in expected.iter().take(8) {
            until("a search is complete", async || {
                let Some(found) = search(member, *id).await else {
                    return false;
                };
                assert_eq!(found, *spans, "{id} in a search that says it is complete");
                true
            })
            .await;
        }
    }
}

async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_true().await {
        assert!(Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn write(to: &Member, templates: &Arc<Templates>, spans: u64) {
    let plan = Plan {
        endpoint: to.otlp_grpc,
        protocol: Protocol::Grpc,
        rate: None,
        until: Until::Spans(spans),
        connections: 1,
        in_flight: 2,
        tenant: None,
        retry_for: Duration::from_secs(60),
    };
    let report = run(&plan, Arc::clone(templates), &Arc::new(Tally::default())).await;
    assert_eq!((report.spans_rejected, report.spans_failed), (0, 0), "{report}");
    assert!(report.spans_acknowledged >= spans, "{report}");
}

/// Spans of each trace of the first copy of the templates.
fn expected(templates: &Templates) -> HashMap<TraceId, usize> {
    let mut expected = HashMap::new();
    for request in 0..templates.len() {
        for (id, count) in count_by_trace(&templates.copy(0, request, 1 << 60)[5..]) {
            *expected.entry(id).or_default() += count;
        }
    }
    expected
}

/// A whole answer, from whichever node, has each span once.
async fn check(members: &[Member], expected: &HashMap<TraceId, usize>) {
    for (id, spans) in expected.iter().take(60) {
        for member in members {
            until(&format!("node {} can say where {id} is", member.peer), async || {
                let Some(found) = member.spans_of(*id).await else {
                    return false;
                };
                assert_eq!(found, *spans, "{id} in an answer that says it is complete");
                true
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_grows_to_three_and_loses_one_and_no_span() {
    let bucket = tempfile::tempdir().unwrap();
    let folder = || tempfile::tempdir().unwrap();
    let first = start(folder(), bucket.path(), &[], "127.0.0.1:0").await;
    let old = Arc::new(Templates::new(7));
    write(&first, &old, old.spans()).await;

    let seeds = [Arc::clone(&first.peer)];
    let second = start(folder(), bucket.path(), &seeds, "127.0.0.1:0").await;
    let third = start(folder(), bucket.path(), &seeds, "127.0.0.1:0").await;
    let mut members = vec![first, second, third];
    until("three copies of every shard and three voters", async || {
        members.iter().all(|member| {
            let observer = &member.observer;
            observer.is_settled(3) && observer.ring_group().voters.len() == 3
        })
    })
    .await;
    check(&members, &expected(&old)).await;

    // Any node takes spans.
    let new = Arc::new(Templates::new(8));
    write(&members[1], &new, new.spans()).await;
    // And any node finds them at once, wherever they are live.
    check(&members, &expected(&new)).await;
    // Also when it has to look at all of them; twice, since what was read from another node is kept for the next time.
    check_search(&members, &expected(&new)).await;
    let more = Arc::new(Templates::new(10));
    write(&members[2], &more, more.spans()).await;
    check_search(&members, &expected(&new)).await;
    check_search(&members, &expected(&more)).await;
    check(&members, &expected(&new)).await;

    // One goes, and not gently for those it led: the others go on.
    let gone = members.remove(0);
    let (folder, peer) = gone.stop().await;
    let later = Arc::new(Templates::new(9));
    write(&members[0], &later, later.spans()).await;
    check(&members, &expected(&old)).await;
    check(&members, &expected(&new)).await;
    check(&members, &expected(&later)).await;
    check_search(&members, &expected(&later)).await;

    // And comes back.
    let back = start(folder, bucket.path(), &[], &peer).await;
    members.push(back);
    check(&members, &expected(&later)).await;
    check(&members, &expected(&old)).await;
    for member in members {
        member.stop().await;
    }
}
