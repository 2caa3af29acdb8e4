//! The admin API of one node: its status is the document that the operator understands, its commands are those that the
//! operator gives, and what would lose data is refused with what to do instead.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use server::admin::{AdminArgs, Mode, What};
use server::app::Common;
use server::clock::SystemClock;
use server::node::{AdminCommand, Node};
use tempfile::TempDir;

const STATUS: &str = include_str!("../../testdata/admin/status.json");
const COMMANDS: &str = include_str!("../../testdata/admin/commands.json");

struct Open {
    node: Node,
    at: SocketAddr,
    _folder: TempDir,
}

impl Open {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings::parse("listen: {admin: '127.0.0.1:0'}\nshards: {count: 2}\n").unwrap();
        settings.node.data_dir = folder.path().to_owned();
        let common = Common::new(settings, Arc::new(SystemClock::new()));
        let objects = server::storage::open(&common.settings).unwrap();
        let node = Node::open(common, objects).await.unwrap();
        Self {
            at: node.admin_address().unwrap(),
            node,
            _folder: folder,
        }
    }

    async fn status(&self) -> Value {
        let answer = reqwest::get(format!("http://{}/admin/v1/status", self.at))
            .await
            .unwrap();
        serde_json::from_str(&answer.text().await.unwrap()).unwrap()
    }

    async fn tell(&self, command: &Value) -> (u16, String) {
        let asked = reqwest::Client::new()
            .post(format!("http://{}/admin/v1/command", self.at))
            .body(command.to_string());
        let answer = asked.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// What `vivace admin` prints, or what it fails with.
    async fn type_in(&self, what: What) -> Result<String, String> {
        let args = AdminArgs {
            url: format!("http://{}", self.at),
            ca: None,
            identity: None,
            what,
        };
        let mut out = Vec::new();
        let done = server::admin::command(args, &mut out).await;
        done.map_err(|error| format!("{error:#}"))?;
        Ok(String::from_utf8(out).unwrap())
    }

    async fn close(self) {
        (self.node.backend().close)().await;
    }
}

/// Where one document has a key, or a kind of value, that the other has not. Nulls and empty lists may be anything.
fn difference(path: &str, one: &Value, other: &Value) -> Option<String> {
    match (one, other) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::Object(one), Value::Object(other)) => {
            let keys = one.keys().chain(other.keys());
            keys.into_iter().find_map(|key| {
                let path = format!("{path}.{key}");
                match (one.get(key), other.get(key)) {
                    (Some(one), Some(other)) => difference(&path, one, other),
                    _ => Some(path),
                }
            })
        }
        (Value::Array(one), Value::Array(other)) => match (one.first(), other.first()) {
            (Some(one), Some(other)) => difference(&format!("{path}[]"), one, other),
            _ => None,
        },
        (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::String(_), Value::String(_)) => None,
        _ => Some(path.to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_is_the_document_that_the_operator_reads() {
    let open = Open::new().await;
    let status = open.status().await;
    let agreed: Value = serde_json::from_str(STATUS).unwrap();
    assert_eq!(difference("", &status, &agreed), None, "{status:#}");
    let view = &status["view"];
    assert_eq!((&view["hasQuorum"], &view["leader"]), (&json!(true), &status["raftId"]));
    assert_eq!(
        (&view["shards"]["healthy"], &view["shards"]["total"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(view["members"][0]["shardsBehind"], 0);
    assert!(
        status["signals"]["memoryBytes"].as_u64().unwrap() > 1 << 20,
        "{status:#}"
    );
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_at_the_limit_and_one_beyond_it() {
    const BYTES_MAX: usize = 1 << 20;
    let open = Open::new().await;
    let post = async |body: String| {
        let asked = reqwest::Client::new().post(format!("http://{}/admin/v1/command", open.at));
        let answer = asked.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let snapshot = r#"{"command": "snapshot"}"#;
    for (length, code) in [(BYTES_MAX - 1, 200), (BYTES_MAX, 200), (BYTES_MAX + 1, 413)] {
        let room = " ".repeat(length - snapshot.len());
        let (said, why) = post(format!("{snapshot}{room}")).await;
        assert_eq!(said, code, "{length}: {why}");
    }
    // A command that is not understood is not repeated at length.
    let (code, said) = post(json!({"command": "x".repeat(BYTES_MAX / 2)}).to_string()).await;
    assert!(code == 400 && said.len() < 1_000, "{code} {}", said.len());
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_checked_as_those_of_a_file_are() {
    let open = Open::new().await;
    let set = |retention: &str| json!({"command": "setLimits", "limits": {"defaults": {"retention": retention}}});
    let (code, said) = open.tell(&set("59m")).await;
    assert!(
        code == 409 && said.contains("limits.defaults.retention"),
        "{code} {said}"
    );
    assert_eq!(open.tell(&set("1h")).await.0, 200);
    open.close().await;
}

#[test]
fn every_command_of_the_operator_is_understood() {
    let commands: Vec<Value> = serde_json::from_str(COMMANDS).unwrap();
    for command in commands {
        let understood = serde_json::from_value::<AdminCommand>(command.clone());
        assert!(understood.is_ok(), "{command}: {understood:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_data_is_refused_with_what_to_do_instead() {
    let open = Open::new().await;
    let me = open.status().await["raftId"].as_u64().unwrap();
    let refused = [
        (json!({"command": "remove", "member": me, "lost": false}), "only member"),
        (json!({"command": "remove", "member": me, "lost": true}), "only member"),
        (
            json!({"command": "drain", "member": me, "mode": "remove"}),
            "add a node first",
        ),
        (
            json!({"command": "drain", "member": 1, "mode": "restart"}),
            "no member has the id",
        ),
        (
            json!({"command": "transferLeadership", "to": 1}),
            "no member has the id",
        ),
        (
            json!({"command": "recover", "member": me, "cluster": "x"}),
            "bring back a majority",
        ),
        (
            json!({"command": "abandon", "shard": 0, "generation": 1}),
            "it is in use",
        ),
        (json!({"command": "finalize", "format": 9}), ""),
    ];
    for (command, instead) in refused {
        let (code, said) = open.tell(&command).await;
        assert!(code == 409 && said.contains(instead), "{command}: {code} {said}");
    }
    assert_eq!(open.tell(&json!({"command": "dance"})).await.0, 400);
    // And none of it did anything.
    assert_eq!(open.status().await["view"]["shards"]["healthy"], 2);
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_say_the_same_with_vivace_admin() {
    let open = Open::new().await;
    let id = open.status().await["raftId"].to_string();
    let members = open.type_in(What::Members).await.unwrap();
    assert!(members.contains(&id) && members.contains("leads the ring"), "{members}");
    assert!(open.type_in(What::Shards).await.unwrap().contains("\"healthy\": 2"));
    assert!(open.type_in(What::Status).await.unwrap().contains("\"signals\""));
    assert_eq!(open.type_in(What::Snapshot).await.unwrap(), "done\n");
    let restart = |node: &str| What::Drain {
        node: node.to_owned(),
        mode: Mode::Restart,
    };
    assert_eq!(open.type_in(restart(&id)).await.unwrap(), "done\n");
    assert_ne!(open.status().await["drain"], "None");
    assert_eq!(
        open.type_in(What::Undrain { node: id.clone() }).await.unwrap(),
        "done\n"
    );
    assert_eq!(open.status().await["drain"], "None");
    let removed = open.type_in(What::Remove { node: id, lost: false }).await.unwrap_err();
    assert!(removed.contains("delete its data directory"), "{removed}");
    assert!(
        open.type_in(restart("nobody"))
            .await
            .unwrap_err()
            .contains("no member is nobody")
    );
    assert!(open.type_in(What::Recover).await.unwrap_err().contains("majority"));
    open.close().await;
}
