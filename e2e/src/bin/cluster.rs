//! A Kubernetes on this machine with the operator and one TracingCluster in it, for a person to look at; Ctrl-C ends it.
//! `e2e/cluster up` builds what it needs and starts it.
//!
//! With root it is a whole one: kubelet, containerd, images of our own builds. Without, the API server and its controllers are
//! real and pods are processes; what stands in the way of the whole one is said.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use vivace_e2e::image::Image;
use vivace_e2e::kube::control::ControlPlane;
use vivace_e2e::kube::kubelet::Kubelet;
use vivace_e2e::kube::machine::{Machine, unavailable};
use vivace_e2e::kube::{Kube, condition, operator_bin};
use vivace_e2e::process::{Scratch, vivace_bin};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const CLUSTERS: &str = "/apis/tracing.vivace.dev/v1alpha1/namespaces/default/tracingclusters";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let scratch = Scratch::new("cluster")?;
    let (node, operator) = (vivace_bin()?, operator_bin()?);
    match unavailable() {
        None => whole(&scratch, &node, &operator).await,
        Some(reason) => {
            println!("no containers: {reason}. Pods are processes instead.");
            processes(&scratch, node, &operator).await
        }
    }
}

/// With containers.
async fn whole(scratch: &Scratch, node: &Path, operator: &Path) -> anyhow::Result<()> {
    let machine = Machine::start(scratch).await?;
    for (name, program) in [("vivace", node), ("vivace-operator", operator)] {
        let name = format!("docker.io/library/{name}:{VERSION}");
        machine.import(&Image::of(&name, program)?).await?;
    }
    machine.control.install_whole().await?;
    ready(&machine.kube).await?;
    let address = async |service: &str| -> anyhow::Result<String> {
        let path = format!("/api/v1/namespaces/default/services/{service}");
        let found = machine.kube.get(&path).await?.unwrap_or_default();
        Ok(found["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned())
    };
    let (ingest, query) = (address("main-ingest").await?, address("main-query").await?);
    println!("spans: {ingest}:4317, questions: http://{query}:3200");
    println!(
        "export KUBECONFIG={}",
        machine.dir().join("administrator.kubeconfig").display()
    );
    until_told().await?;
    machine.stop().await
}

/// Without.
async fn processes(scratch: &Scratch, node: std::path::PathBuf, operator: &Path) -> anyhow::Result<()> {
    let control = ControlPlane::start(scratch.path()).await?;
    let kube = control.kube.clone();
    let _kubelet = Kubelet::start(kube.clone(), scratch.dir("kubelet")?, node).await?;
    control.install().await?;
    let (mut operator, _) = control.operate(operator, "operator", scratch.path()).await?;
    ready(&kube).await?;
    let pod = kube
        .get("/api/v1/namespaces/default/pods/main-node-0")
        .await?
        .unwrap_or_default();
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    println!("spans: {ip}:4317, questions: http://{ip}:3200");
    println!(
        "export KUBECONFIG={}",
        scratch.path().join("administrator.kubeconfig").display()
    );
    until_told().await?;
    operator.terminate(Duration::from_secs(10)).await?;
    control.stop().await
}

/// Makes a cluster of one node and waits for it.
async fn ready(kube: &Kube) -> anyhow::Result<Value> {
    let began = Instant::now();
    let cluster = json!({
        "apiVersion": "tracing.vivace.dev/v1alpha1",
        "kind": "TracingCluster",
        "metadata": {"name": "main"},
        "spec": {"size": "demo", "storage": {"type": "Filesystem"}},
    });
    kube.apply(&cluster).await?;
    let path = format!("{CLUSTERS}/main");
    kube.until(Duration::from_secs(180), "Ready", async || {
        let found = kube.get(&path).await?.unwrap_or_default();
        Ok(condition(&found, "Ready").0 == "True")
    })
    .await?;
    println!("TracingCluster main is ready after {:?}", began.elapsed());
    Ok(kube.get(&path).await?.unwrap_or_default())
}

async fn until_told() -> anyhow::Result<()> {
    println!("Ctrl-C ends it");
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
