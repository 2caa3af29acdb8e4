//! A Kubernetes on this machine with the operator and one TracingCluster in it, for a person to look at; Ctrl-C ends it.
//!
//! No root and no containers: the API server and its controllers are real, pods are processes of our own node. Needs the
//! tools (`cargo run --bin tools etcd kube-apiserver kube-controller-manager`) and builds of `vivace` and `vivace-operator`.

use std::time::{Duration, Instant};

use serde_json::json;
use vivace_e2e::kube::kubelet::Kubelet;
use vivace_e2e::kube::{ControlPlane, condition, operator_bin};
use vivace_e2e::process::{Scratch, vivace_bin};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let scratch = Scratch::new("cluster")?;
    let (node, operator) = (vivace_bin()?, operator_bin()?);
    let control = ControlPlane::start(scratch.path()).await?;
    let kube = control.kube.clone();
    let _kubelet = Kubelet::start(kube.clone(), scratch.dir("kubelet")?, node).await?;
    control.install().await?;
    let (mut operator, _) = control.operate(&operator, "operator", scratch.path()).await?;
    let began = Instant::now();
    let cluster = json!({
        "apiVersion": "tracing.vivace.dev/v1alpha1",
        "kind": "TracingCluster",
        "metadata": {"name": "main"},
        "spec": {"size": "demo", "storage": {"type": "Filesystem"}},
    });
    kube.apply(&cluster).await?;
    let path = "/apis/tracing.vivace.dev/v1alpha1/namespaces/default/tracingclusters/main";
    kube.until(Duration::from_secs(120), "Ready", async || {
        let found = kube.get(path).await?.unwrap_or_default();
        Ok(condition(&found, "Ready").0 == "True")
    })
    .await?;
    let pod = kube
        .get("/api/v1/namespaces/default/pods/main-node-0")
        .await?
        .unwrap_or_default();
    println!("TracingCluster main is ready after {:?}", began.elapsed());
    println!(
        "spans: {0}:4317, questions: http://{0}:3200",
        pod["status"]["podIP"].as_str().unwrap_or_default()
    );
    println!(
        "KUBECONFIG={}",
        scratch.path().join("administrator.kubeconfig").display()
    );
    println!("Ctrl-C ends it");
    tokio::signal::ctrl_c().await?;
    operator.terminate(Duration::from_secs(10)).await?;
    control.stop().await
}
