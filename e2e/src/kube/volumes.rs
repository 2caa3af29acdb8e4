//! Volumes for claims, as a storage driver would make them: a folder per claim.
//!
//! Owns [`Folders`], a task that answers pending claims with a local PersistentVolume that is bound to this one node, grows
//! volumes whose claims ask for more, and takes a folder away with its claim.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::Kube;

/// Name of the class, which is the default one.
pub const CLASS: &str = "folders";
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The driver, until it is dropped.
#[derive(Debug)]
pub struct Folders {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Folders {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Folders {
    /// Folders are made in `dir`, for the Kubernetes node of this name.
    pub async fn start(kube: Kube, dir: PathBuf, node: &'static str) -> anyhow::Result<Self> {
        let class = json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "vivace.local/folders",
            "allowVolumeExpansion": true,
        });
        kube.apply(&class).await?;
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = look(&kube, &dir, node).await {
                    eprintln!("volumes: {error:#}");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Ok(Self { task })
    }
}

async fn look(kube: &Kube, dir: &std::path::Path, node: &str) -> anyhow::Result<()> {
    let claims = kube.items("/api/v1/persistentvolumeclaims").await?;
    let volumes = kube.items("/api/v1/persistentvolumes").await?;
    let known: BTreeSet<&str> = volumes
        .iter()
        .filter_map(|volume| volume["metadata"]["name"].as_str())
        .collect();
    for claim in &claims {
        let uid = claim["metadata"]["uid"].as_str().unwrap_or_default();
        let name = format!("folder-{uid}");
        if claim["spec"]["storageClassName"] == CLASS && !known.contains(name.as_str()) {
            std::fs::create_dir_all(dir.join(&name))?;
            kube.apply(&volume(&name, &dir.join(&name).display().to_string(), claim, node))
                .await?;
        }
        let (asked, has) = (
            &claim["spec"]["resources"]["requests"]["storage"],
            &claim["status"]["capacity"]["storage"],
        );
        if claim["status"]["phase"] == "Bound" && asked != has && known.contains(name.as_str()) {
            // A folder is as large as its disk: that it has grown is all there is to say.
            let grown = json!({"spec": {"capacity": {"storage": asked}}});
            kube.merge(&format!("/api/v1/persistentvolumes/{name}"), grown).await?;
            let (space, claim) = (&claim["metadata"]["namespace"], &claim["metadata"]["name"]);
            let path = format!(
                "/api/v1/namespaces/{}/persistentvolumeclaims/{}/status",
                space.as_str().unwrap_or_default(),
                claim.as_str().unwrap_or_default()
            );
            let grown = json!({"status": {"capacity": {"storage": asked}}});
            kube.merge(&path, grown).await?;
        }
    }
    let gone = volumes.iter().filter(|volume| volume["status"]["phase"] == "Released");
    for volume in gone {
        let name = volume["metadata"]["name"].as_str().unwrap_or_default();
        kube.delete(&format!("/api/v1/persistentvolumes/{name}"), json!({}))
            .await?;
        // It may be in use by a pod that is still ending; then the next look takes it.
        let _ = std::fs::remove_dir_all(dir.join(name));
    }
    Ok(())
}

fn volume(name: &str, path: &str, claim: &Value, node: &str) -> Value {
    let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim["metadata"]["namespace"],
                "name": claim["metadata"]["name"],
                "uid": claim["metadata"]["uid"],
            },
        },
    })
}
