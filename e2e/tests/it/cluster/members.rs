//! The nodes of a cluster over their lives, and what its admin API says of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vivace_e2e::ledger::Verdict;
use vivace_e2e::process::{Node, Process, Scratch, free_addr};

use super::SOON;
use super::authority::Authority;
use super::load::Load;
use super::namespaces::Namespaces;
use crate::fixture::{binary, read_everything};

pub(super) const TENANT: &str = "single-tenant";
const SHARDS: u64 = 4;

/// One node of several: kept over its lives.
pub(super) struct Member {
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

pub(super) struct Cluster {
    bin: PathBuf,
    pub(super) scratch: Scratch,
    authority: Authority,
    pub(super) members: Vec<Member>,
    pub(super) namespaces: Option<Namespaces>,
    /// The `storage` section of every node.
    pub(super) storage: Value,
    /// The program that nodes run from their next start on in place of `bin`.
    pub(super) second: Option<PathBuf>,
}

impl Cluster {
    pub(super) fn new(test: &str) -> Option<Self> {
        let bin = binary(test)?;
        let scratch = Scratch::new(&test.replace("::", "-")).unwrap();
        let authority = Authority::new(scratch.dir("secrets").unwrap());
        let storage = json!({"filesystem": {"path": scratch.path().join("bucket")}});
        Some(Self {
            bin,
            storage,
            second: None,
            scratch,
            authority,
            members: Vec::new(),
            namespaces: None,
        })
    }

    /// Three nodes that have settled, with a load that has begun.
    pub(super) async fn three_under_load(&mut self) -> Load {
        for _ in 0..3 {
            self.grow().await;
        }
        self.settled(3, 3).await;
        let load = Load::start(self);
        load.goes_on(20).await;
        load.gap();
        load
    }

    /// Adds a node that joins those there are, and starts it.
    pub(super) async fn grow(&mut self) {
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
            "storage": self.storage,
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

    pub(super) async fn start(&mut self, number: usize) {
        let member = &mut self.members[number];
        let node = launch(self.second.as_ref().unwrap_or(&self.bin), member).await;
        member.running = Some(node);
    }

    pub(super) fn node(&self, number: usize) -> &Node {
        self.members[number].running.as_ref().unwrap()
    }

    /// Where a node keeps its log.
    pub(super) fn data_dir(&self, number: usize) -> PathBuf {
        self.members[number].folder.join("data")
    }

    /// New certificates for all, in place of the old ones.
    pub(super) fn renew_certificates(&self) {
        (0..self.members.len()).for_each(|number| drop(self.authority.sign(number)));
    }

    /// The node has ended by itself.
    pub(super) async fn ended(&mut self, number: usize) {
        let mut node = self.members[number].running.take().unwrap();
        node.process.ended(Duration::from_secs(SOON)).await.unwrap();
    }

    /// What the cluster calls a node, if it knows it.
    pub(super) async fn member_of(&self, number: usize) -> Option<u64> {
        let (_, status) = self.leader().await?;
        let members = status["view"]["members"].as_array()?;
        let of_this = |member: &&Value| member["pod"] == self.members[number].name.as_str();
        members.iter().find(of_this)?["raftId"].as_u64()
    }

    pub(super) async fn kill(&mut self, number: usize) {
        let mut node = self.members[number].running.take().unwrap();
        node.process.kill().await.unwrap();
        node.assert_no_panic().unwrap();
    }

    pub(super) async fn stop(&mut self, number: usize) {
        let node = self.members[number].running.take().unwrap();
        node.stop().await.unwrap();
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(number, member)| Some((number, member.running.as_ref()?)))
    }

    pub(super) async fn status(&self, number: usize) -> anyhow::Result<Value> {
        let url = format!(
            "https://localhost:{}/admin/v1/status",
            self.members[number].admin.port()
        );
        let client = self.admin_client(number);
        Ok(client.get(url).send().await?.error_for_status()?.json().await?)
    }

    pub(super) async fn tell(&self, number: usize, command: Value) -> (u16, String) {
        let url = format!(
            "https://localhost:{}/admin/v1/command",
            self.members[number].admin.port()
        );
        let answer = self.admin_client(number).post(url).json(&command).send().await.unwrap();
        let code = answer.status().as_u16();
        let said = answer.text().await.unwrap();
        (code, if code == 200 { String::new() } else { said })
    }

    pub(super) fn admin_client(&self, number: usize) -> reqwest::Client {
        // The certificates are for a name; where it is differs.
        let at = SocketAddr::new(self.members[number].admin.ip(), 0);
        self.authority.client(at)
    }

    /// Who leads the ring, by its number here, once its leader says that it has a majority.
    pub(super) async fn leader(&self) -> Option<(usize, Value)> {
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
    pub(super) async fn settled(&self, nodes: usize, copies: u64) {
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

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.running().map(|(_, node)| node.otlp_grpc_url()).collect()
    }

    /// Where questions go.
    pub(super) fn questions(&self) -> Vec<String> {
        self.running().map(|(_, node)| node.http_url()).collect()
    }

    /// Everything, through one node.
    pub(super) async fn read_once(&self, load: &Load, when: &str) -> Verdict {
        let (_, node) = self.running().next().unwrap();
        let last = std::sync::Mutex::new("no answer".to_owned());
        let reading = async {
            loop {
                match read_everything(node, &load.ledger, TENANT).await {
                    Ok(verdict) => return verdict,
                    // Answers may be incomplete while an election is on, but not for long.
                    Err(error) => *last.lock().unwrap() = format!("{error:#}"),
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let verdict = tokio::time::timeout(Duration::from_secs(SOON), reading).await;
        verdict.unwrap_or_else(|_| {
            panic!(
                "{when}: nothing complete to read within {SOON} s: {}",
                last.lock().unwrap()
            )
        })
    }

    /// Everything, through every node that runs.
    pub(super) async fn assert_everything(&self, load: &Load, when: &str) {
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
    let process = Process::start(&member.name, command, &member.folder).await.unwrap();
    Node::announced(process).await.unwrap()
}
