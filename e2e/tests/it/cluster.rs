//! Several nodes as one cluster: real processes on loopback, certificates between them, one bucket.
//!
//! Writers send to whichever node answers; what a node did not acknowledge is sent again to another. In the end every
//! acknowledged span is found exactly once and unaltered, through every node, and no answer was incomplete.
//!
//! The partition needs root and network namespaces: each node has its own, and a link is cut by blackhole routes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vivace_e2e::client::{Otlp, Reply};
use vivace_e2e::ledger::{Ledger, Verdict};
use vivace_e2e::process::{Node, Process, START_WITHIN, Scratch, free_addr, listening, vivace_bin};
use vivace_e2e::skip::{Unavailable, skipped};
use vivace_e2e::spans::Workload;

use crate::fixture::{eventually, read_everything, send};

const NAME: &str = "peers.vivace.internal";
const TENANT: &str = "single-tenant";
const WRITERS: u16 = 3;
/// Spans of one request.
const BATCH: u64 = 40;
/// Of so many acknowledged batches one is sent again, to another node.
const RESEND_EVERY: u64 = 7;
const SHARDS: u64 = 4;
/// For an election, a catch-up, a move of shards.
const SOON: u64 = 90;
/// Longest time in which nothing is acknowledged while a majority of every group is there.
const GAP_MAX: Duration = Duration::from_secs(15);

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: PathBuf) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// The `cluster.tls` section of one node.
    fn sign(&self, node: usize) -> Value {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |suffix: &str| self.folder.join(format!("node-{node}{suffix}"));
        std::fs::write(file(".pem"), certificate.pem()).unwrap();
        write_secret(&file(".key"), &key.serialize_pem());
        let identity = format!("{}{}", certificate.pem(), key.serialize_pem());
        write_secret(&self.folder.join("admin.pem"), &identity);
        json!({
            "certificate_file": file(".pem"),
            "key_file": file(".key"),
            "ca_file": self.folder.join("ca.pem"),
            "peer_name": NAME,
        })
    }

    /// What the admin API is asked with.
    fn client(&self, at: SocketAddr) -> reqwest::Client {
        let read = |name: &str| std::fs::read(self.folder.join(name)).unwrap();
        reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .resolve("localhost", at)
            .tls_certs_only([reqwest::Certificate::from_pem(&read("ca.pem")).unwrap()])
            .identity(reqwest::Identity::from_pem(&read("admin.pem")).unwrap())
            .build()
            .unwrap()
    }
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// One node of several: kept over its lives.
struct Member {
    name: String,
    ip: String,
    peer: u16,
    admin: SocketAddr,
    folder: PathBuf,
    settings: Value,
    /// Where it runs; `None`: beside us.
    namespace: Option<String>,
    running: Option<Node>,
}

struct Cluster {
    bin: PathBuf,
    scratch: Scratch,
    authority: Authority,
    members: Vec<Member>,
    namespaces: Option<Namespaces>,
}

impl Cluster {
    fn new(test: &str) -> Option<Self> {
        let bin = match vivace_bin() {
            Ok(bin) => bin,
            Err(reason) => {
                skipped(test, &reason);
                return None;
            }
        };
        let scratch = Scratch::new(&test.replace("::", "-")).unwrap();
        let authority = Authority::new(scratch.dir("secrets").unwrap());
        Some(Self {
            bin,
            scratch,
            authority,
            members: Vec::new(),
            namespaces: None,
        })
    }

    /// Adds a node that joins those there are, and starts it.
    async fn grow(&mut self) {
        let number = self.members.len();
        let folder = self.scratch.dir(&format!("node-{number}")).unwrap();
        let (ip, namespace) = match &self.namespaces {
            Some(namespaces) => (namespaces.ip(number), Some(namespaces.name(number))),
            None => ("127.0.0.1".to_owned(), None),
        };
        let peer = free_addr().unwrap().port();
        let admin = SocketAddr::new(ip.parse().unwrap(), free_addr().unwrap().port());
        let join: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}:{}", member.ip, member.peer))
            .collect();
        let settings = json!({
            "listen": {
                "otlp_grpc": format!("{ip}:0"),
                "otlp_http": format!("{ip}:0"),
                "http": format!("{ip}:0"),
                "peer": format!("{ip}:{peer}"),
                "admin": admin,
                "shutdown_grace": "3s",
            },
            "cluster": {
                "name": format!("node-{number}"),
                "zone": format!("zone-{}", number % 3),
                "join": join,
                "tls": self.authority.sign(number),
            },
            "storage": {"filesystem": {"path": self.scratch.path().join("bucket")}},
            "shards": {"count": SHARDS},
            "wal": {"segment_bytes": "8MiB", "quota_bytes": "256MiB"},
            "flush": {"tail_bytes": "1MiB", "tail_age": "2s"},
            "log": {"level": "info"},
        });
        self.members.push(Member {
            name: format!("node-{number}"),
            ip,
            peer,
            admin,
            folder,
            settings,
            namespace,
            running: None,
        });
        self.start(number).await;
    }

    async fn start(&mut self, number: usize) {
        let member = &mut self.members[number];
        let node = launch(&self.bin, member).await;
        member.running = Some(node);
    }

    async fn kill(&mut self, number: usize) {
        let mut node = self.members[number].running.take().unwrap();
        node.process.kill().await.unwrap();
        node.assert_no_panic().unwrap();
    }

    async fn stop(&mut self, number: usize) {
        let node = self.members[number].running.take().unwrap();
        node.stop().await.unwrap();
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(number, member)| Some((number, member.running.as_ref()?)))
    }

    async fn status(&self, number: usize) -> anyhow::Result<Value> {
        let url = format!(
            "https://localhost:{}/admin/v1/status",
            self.members[number].admin.port()
        );
        let client = self.admin_client(number);
        Ok(client.get(url).send().await?.error_for_status()?.json().await?)
    }

    async fn tell(&self, number: usize, command: Value) -> (u16, String) {
        let url = format!(
            "https://localhost:{}/admin/v1/command",
            self.members[number].admin.port()
        );
        let answer = self.admin_client(number).post(url).json(&command).send().await.unwrap();
        let code = answer.status().as_u16();
        let said = answer.text().await.unwrap();
        (code, if code == 200 { String::new() } else { said })
    }

    fn admin_client(&self, number: usize) -> reqwest::Client {
        // The certificates are for a name; where it is differs.
        let at = SocketAddr::new(self.members[number].admin.ip(), 0);
        self.authority.client(at)
    }

    /// Who leads the ring, by its number here, once its leader says that it has a majority.
    async fn leader(&self) -> Option<(usize, Value)> {
        for (number, _) in self.running() {
            if let Ok(status) = self.status(number).await
                && status["view"]["hasQuorum"] == true
            {
                return Some((number, status));
            }
        }
        None
    }

    /// Waits until `nodes` members are in, every shard has `copies` copies, all of them answer, and nothing moves.
    async fn settled(&self, nodes: usize, copies: u64) {
        let what = format!("{nodes} nodes with {copies} copies of each shard, and nothing moving");
        let last = std::sync::Mutex::new(Value::Null);
        let settled = async || {
            let Some((_, status)) = self.leader().await else {
                return false;
            };
            let view = &status["view"];
            let members = view["members"].as_array().unwrap();
            let held: u64 = members.iter().map(|member| member["shards"].as_u64().unwrap()).sum();
            let is_settled = members.len() == nodes
                && members.iter().all(|member| member["reachable"] == true)
                && view["shards"]["moving"] == 0
                && view["shards"]["healthy"] == view["shards"]["total"]
                && held == SHARDS * copies;
            *last.lock().unwrap() = view.clone();
            is_settled
        };
        let deadline = Instant::now() + Duration::from_secs(SOON);
        while !settled().await {
            assert!(Instant::now() < deadline, "not yet: {what}: {}", last.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn endpoints(&self) -> Vec<String> {
        self.running().map(|(_, node)| node.otlp_grpc_url()).collect()
    }

    /// Everything, through every node that runs.
    async fn assert_everything(&self, load: &Load, when: &str) {
        for (number, node) in self.running() {
            let mut verdict = Ok(Verdict::default());
            // Answers may be incomplete while an election is on, but not for long.
            for _ in 0..3 {
                verdict = read_everything(node, &load.ledger, TENANT).await;
                if verdict.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
            let verdict = verdict.unwrap_or_else(|error| panic!("{when}, through node {number}: {error:#}"));
            assert!(verdict.is_clean(), "{when}, through node {number}: {verdict}");
            println!("{when}, through node {number}: {verdict}");
        }
    }
}

async fn launch(bin: &Path, member: &Member) -> Node {
    let mut command = match &member.namespace {
        None => std::process::Command::new(bin),
        Some(namespace) => {
            let mut command = std::process::Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(bin);
            command
        }
    };
    let config = member.folder.join("vivace.yaml");
    tokio::fs::write(&config, serde_json::to_vec_pretty(&member.settings).unwrap())
        .await
        .unwrap();
    let data = member.folder.join("data");
    command
        .arg("standalone")
        .arg("--data-dir")
        .arg(data)
        .arg("--config")
        .arg(&config);
    let mut process = Process::start(&member.name, command, &member.folder).await.unwrap();
    let mut address = [None; 3];
    for (slot, name) in address.iter_mut().zip(["otlp-grpc", "otlp-http", "http"]) {
        *slot = Some(process.line(START_WITHIN, |line| listening(line, name)).await.unwrap());
    }
    let [Some(otlp_grpc), Some(otlp_http), Some(http)] = address else {
        unreachable!()
    };
    Node {
        process,
        otlp_grpc,
        otlp_http,
        http,
    }
}

/// Writers that go on until told, whatever becomes of the nodes.
struct Load {
    ledger: Arc<Ledger>,
    endpoints: Arc<std::sync::Mutex<Vec<String>>>,
    acknowledged: Arc<AtomicU64>,
    gap_millis: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    writers: JoinSet<()>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let workload = Workload::starting_now(20_261_122);
        let tenants = (0..WRITERS).map(|client| (client, TENANT.to_owned()));
        let ledger = Ledger::new(workload, tenants)
            .logging_to(&cluster.scratch.path().join("ledger.jsonl"))
            .unwrap();
        let mut load = Self {
            ledger: Arc::new(ledger),
            endpoints: Arc::new(std::sync::Mutex::new(cluster.endpoints())),
            acknowledged: Arc::default(),
            gap_millis: Arc::default(),
            is_over: Arc::default(),
            writers: JoinSet::new(),
        };
        for client in 0..WRITERS {
            load.writers.spawn(write(
                Arc::clone(&load.ledger),
                Arc::clone(&load.endpoints),
                Arc::clone(&load.acknowledged),
                Arc::clone(&load.gap_millis),
                Arc::clone(&load.is_over),
                client,
            ));
        }
        load
    }

    fn now_at(&self, cluster: &Cluster) {
        *self.endpoints.lock().unwrap() = cluster.endpoints();
    }

    /// Waits until so many more requests were acknowledged.
    async fn goes_on(&self, requests: u64) {
        let until = self.acknowledged.load(Ordering::Relaxed) + requests;
        eventually("writes go on", SOON, async || {
            self.acknowledged.load(Ordering::Relaxed) >= until
        })
        .await;
    }

    /// The longest any writer waited for an acknowledgement since the last call.
    fn gap(&self) -> Duration {
        Duration::from_millis(self.gap_millis.swap(0, Ordering::Relaxed))
    }

    async fn end(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(writer) = self.writers.join_next().await {
            writer.unwrap();
        }
        println!("{} spans acknowledged", self.ledger.acknowledged());
    }
}

async fn write(
    ledger: Arc<Ledger>,
    endpoints: Arc<std::sync::Mutex<Vec<String>>>,
    acknowledged: Arc<AtomicU64>,
    gap_millis: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    client: u16,
) {
    let (mut turn, mut first) = (usize::from(client), 0);
    let mut last = Instant::now();
    let connect = |turn: usize| {
        let endpoints = endpoints.lock().unwrap();
        let url = endpoints.get(turn % endpoints.len().max(1))?;
        Otlp::grpc(url, None).ok()
    };
    let mut otlp = connect(turn);
    while !is_over.load(Ordering::Relaxed) {
        let reply = match &mut otlp {
            // A node that died may have stored it: the same again, to another, must not count twice.
            Some(otlp) => {
                match tokio::time::timeout(Duration::from_secs(12), send(otlp, &ledger, client, first, BATCH)).await {
                    Ok(reply) => reply,
                    Err(_) => Reply::Broken("no answer".to_owned()),
                }
            }
            None => Reply::Broken("nobody is there".to_owned()),
        };
        match reply {
            Reply::Accepted => {
                let waited = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
                gap_millis.fetch_max(waited, Ordering::Relaxed);
                last = Instant::now();
                let count = acknowledged.fetch_add(1, Ordering::Relaxed);
                if count.is_multiple_of(RESEND_EVERY)
                    && let Some(mut other) = connect(turn + 1)
                {
                    let again = send(&mut other, &ledger, client, first, BATCH);
                    let _ = tokio::time::timeout(Duration::from_secs(12), again).await;
                }
                first += BATCH;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Reply::Broken(_) | Reply::Busy(_) => {
                turn += 1;
                otlp = connect(turn);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            refused @ (Reply::Refused(_) | Reply::Partial { .. }) => panic!("client {client} at {first}: {refused:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_killed_one_and_all() {
    let Some(mut cluster) = Cluster::new("cluster::killed") else {
        return;
    };
    for _ in 0..3 {
        cluster.grow().await;
    }
    cluster.settled(3, 3).await;
    let mut load = Load::start(&cluster);
    load.goes_on(20).await;
    load.gap();
    for round in 0..2 {
        let (leader, _) = cluster.leader().await.unwrap();
        cluster.kill(leader).await;
        load.now_at(&cluster);
        load.goes_on(20).await;
        let gap = load.gap();
        println!("round {round}: the ring's leader was killed, longest gap {gap:?}");
        assert!(gap < GAP_MAX, "{gap:?} without an acknowledgement");
        cluster.start(leader).await;
        load.now_at(&cluster);
        cluster.settled(3, 3).await;
        load.goes_on(10).await;
    }
    for number in 0..3 {
        cluster.kill(number).await;
    }
    for number in 0..3 {
        cluster.start(number).await;
    }
    load.now_at(&cluster);
    cluster.settled(3, 3).await;
    load.goes_on(20).await;
    load.end().await;
    cluster.assert_everything(&load, "after all were killed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_grows_and_shrinks_while_it_runs() {
    let Some(mut cluster) = Cluster::new("cluster::grows") else {
        return;
    };
    cluster.grow().await;
    cluster.settled(1, 1).await;
    let mut load = Load::start(&cluster);
    load.goes_on(20).await;
    for nodes in [3, 5] {
        while cluster.members.len() < nodes {
            cluster.grow().await;
        }
        load.now_at(&cluster);
        cluster.settled(nodes, 3).await;
        load.goes_on(20).await;
    }
    let (leader, status) = cluster.leader().await.unwrap();
    let id = |name: &str| {
        let members = status["view"]["members"].as_array().unwrap();
        let member = members.iter().find(|member| member["pod"] == name).unwrap();
        member["raftId"].as_u64().unwrap()
    };
    // What would lose data is refused, and says what to do instead.
    let early = cluster.tell(
        leader,
        json!({"command": "remove", "member": id("node-3"), "lost": false}),
    );
    let (code, message) = early.await;
    assert!(code == 409 && message.contains("drain it"), "{code} {message}");
    if leader != 3 {
        let (code, message) = cluster
            .tell(
                leader,
                json!({"command": "remove", "member": id("node-3"), "lost": true}),
            )
            .await;
        assert!(code == 409 && message.contains("still answers"), "{code} {message}");
    }
    // Two go, the first two among them, so that leaderships move too.
    for gone in [0, 1] {
        let member = id(&format!("node-{gone}"));
        let asked = 4;
        let drain = json!({"command": "drain", "member": member, "mode": "remove"});
        assert_eq!(cluster.tell(asked, drain).await, (200, String::new()));
        eventually("the node has nothing left", SOON, async || {
            let Some((_, status)) = cluster.leader().await else {
                return false;
            };
            let members = status["view"]["members"].as_array().unwrap();
            let leaving = members.iter().find(|known| known["raftId"] == member);
            leaving.is_some_and(|leaving| leaving["shards"] == 0 && leaving["role"] == "Learner")
        })
        .await;
        let remove = json!({"command": "remove", "member": member, "lost": false});
        assert_eq!(cluster.tell(asked, remove).await, (200, String::new()));
        cluster.stop(gone).await;
        load.now_at(&cluster);
        load.goes_on(20).await;
    }
    cluster.settled(3, 3).await;
    load.end().await;
    cluster.assert_everything(&load, "after 1, 3, 5 and 3 nodes").await;
}

/// Network namespaces on one bridge.
struct Namespaces {
    tag: String,
    net: u8,
}

impl Namespaces {
    fn make(count: usize) -> Option<Self> {
        let tag = format!("vv{}", std::process::id() % 10_000);
        let net = u8::try_from(std::process::id() % 200 + 20).unwrap();
        let made = Self { tag, net };
        let bridge = format!("{}b", made.tag);
        let mut is_done = run(&["link", "add", &bridge, "type", "bridge"])
            && run(&["addr", "add", &format!("10.213.{net}.254/24"), "dev", &bridge])
            && run(&["link", "set", &bridge, "up"]);
        for number in 0..count {
            let (name, ip) = (made.name(number), made.ip(number));
            let (outer, inner) = (format!("{}o{number}", made.tag), format!("{}i{number}", made.tag));
            is_done = is_done
                && run(&["netns", "add", &name])
                && run(&["link", "add", &outer, "type", "veth", "peer", "name", &inner])
                && run(&["link", "set", &outer, "master", &bridge])
                && run(&["link", "set", &outer, "up"])
                && run(&["link", "set", &inner, "netns", &name])
                && run(&["-n", &name, "addr", "add", &format!("{ip}/24"), "dev", &inner])
                && run(&["-n", &name, "link", "set", &inner, "up"])
                && run(&["-n", &name, "link", "set", "lo", "up"]);
        }
        is_done.then_some(made)
    }

    fn name(&self, number: usize) -> String {
        format!("{}n{number}", self.tag)
    }

    fn ip(&self, number: usize) -> String {
        format!("10.213.{}.{}", self.net, number + 1)
    }

    /// Nothing goes from one to the other any more, in that direction alone.
    fn cut(&self, from: usize, to: usize) {
        assert!(run(&[
            "-n",
            &self.name(from),
            "route",
            "add",
            "blackhole",
            &self.ip(to)
        ]));
    }

    fn heal(&self, from: usize, to: usize) {
        run(&["-n", &self.name(from), "route", "del", "blackhole", &self.ip(to)]);
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for number in 0..3 {
            run(&["netns", "del", &self.name(number)]);
            run(&["link", "del", &format!("{}o{number}", self.tag)]);
        }
        run(&["link", "del", &format!("{}b", self.tag)]);
    }
}

fn run(words: &[&str]) -> bool {
    let output = std::process::Command::new("ip").args(words).output();
    output.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_lose_nothing() {
    let Some(mut cluster) = Cluster::new("cluster::partitions") else {
        return;
    };
    let Some(namespaces) = Namespaces::make(3) else {
        skipped(
            "cluster::partitions",
            &Unavailable("network namespaces cannot be made here".to_owned()),
        );
        return;
    };
    cluster.namespaces = Some(namespaces);
    for _ in 0..3 {
        cluster.grow().await;
    }
    cluster.settled(3, 3).await;
    let mut load = Load::start(&cluster);
    load.goes_on(20).await;
    load.gap();
    // The leader of the ring alone; then two that do not see each other; then one way only.
    let (leader, _) = cluster.leader().await.unwrap();
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let both = |a: usize, b: usize| vec![(a, b), (b, a)];
    let faults = [
        (
            "the leader is alone",
            [both(leader, others[0]), both(leader, others[1])].concat(),
        ),
        ("two do not see each other", both(others[0], others[1])),
        (
            "one does not hear the others' answers",
            vec![(others[0], leader), (others[0], others[1])],
        ),
    ];
    for (what, cuts) in faults {
        let namespaces = cluster.namespaces.as_ref().unwrap();
        cuts.iter().for_each(|(from, to)| namespaces.cut(*from, *to));
        load.goes_on(15).await;
        let gap = load.gap();
        println!("{what}: longest gap {gap:?}");
        cuts.iter().for_each(|(from, to)| namespaces.heal(*from, *to));
        cluster.settled(3, 3).await;
        load.goes_on(10).await;
        assert!(gap < 2 * GAP_MAX, "{what}: {gap:?} without an acknowledgement");
    }
    load.end().await;
    cluster.assert_everything(&load, "after partitions").await;
}
