//! Several nodes as one cluster: real processes on loopback, certificates between them, one bucket.
//!
//! Writers send to whichever node answers; what a node did not acknowledge is sent again to another. In the end every
//! acknowledged span is found exactly once and unaltered, through every node, and no answer was incomplete.
//!
//! The partition needs root and network namespaces: each node has its own, and a link is cut by blackhole routes.

mod authority;
mod chaos;
mod load;
mod members;
mod namespaces;

use std::time::Duration;

use serde_json::json;
use vivace_e2e::process::Process;
use vivace_e2e::skip::{Unavailable, skipped};

use crate::fixture::{eventually, fixture};
use load::Load;
use members::Cluster;
use namespaces::Namespaces;

/// For an election, a catch-up, a move of shards.
const SOON: u64 = 90;
/// Longest time in which nothing is acknowledged while a majority of every group is there.
const GAP_MAX: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_killed_one_and_all() {
    let Some(mut cluster) = Cluster::new("cluster::killed") else {
        return;
    };
    let mut load = cluster.three_under_load().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_nobody_lets_in_ends_when_it_is_told() {
    let settings = json!({
        "listen": {"peer": "127.0.0.1:0"},
        "cluster": {"plaintext": true, "join": ["127.0.0.1:1"]},
    });
    let Some(fixture) = fixture("cluster::waits", settings) else {
        return;
    };
    let mut command = std::process::Command::new(&fixture.options.bin);
    let config = fixture.scratch.path().join("waits.yaml");
    std::fs::write(&config, fixture.options.settings.to_string()).unwrap();
    command.arg("standalone").arg("--config").arg(&config);
    command.arg("--data-dir").arg(&fixture.options.data_dir);
    for flag in ["--otlp-grpc-listen", "--otlp-http-listen", "--http-listen"] {
        command.arg(flag).arg("127.0.0.1:0");
    }
    let mut node = Process::start("waits", command, fixture.scratch.path()).await.unwrap();
    let waits = |line: &str| line.contains("cannot join yet").then_some(());
    node.line(Duration::from_secs(SOON), waits).await.unwrap();
    let status = node.terminate(Duration::from_secs(SOON)).await.unwrap();
    assert!(status.success(), "{status}");
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
    let mut load = cluster.three_under_load().await;
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
