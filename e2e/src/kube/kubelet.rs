//! One Kubernetes node without containers: a pod of ours is a process of ours, with an address of its own.
//!
//! It does what scheduler and kubelet do together, as far as the operator can see it: binds pods, gives them an address of
//! 127.77.0.0/16, hands them their ConfigMap and Secret as files that follow changes, probes readiness, reports status, and
//! ends them in order when they are deleted. A claim is a folder that outlives its pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::Kube;
use crate::base64;
use crate::process::Process;

/// Name of the one node.
const NODE: &str = "here";
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// Between the end of a container and its next beginning.
const BACK_OFF: Duration = Duration::from_secs(2);
/// A node that waits for others has bound its port and says nothing yet.
const PROBE_WITHIN: Duration = Duration::from_secs(1);
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// The node, until it is dropped.
#[derive(Debug)]
pub struct Kubelet {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

#[derive(Debug)]
struct Running {
    name: String,
    arguments: Vec<String>,
    uid: String,
    ip: String,
    process: Option<Process>,
    is_ready: Option<bool>,
    since: String,
    ended: Option<Ended>,
    /// Restarts so far.
    restarts: u32,
}

/// How a container ended.
#[derive(Debug)]
struct Ended {
    is_well: bool,
    words: String,
    at: tokio::time::Instant,
}

impl Kubelet {
    /// Runs pods whose container is called "node" with this binary.
    pub async fn start(kube: Kube, dir: PathBuf, bin: PathBuf) -> anyhow::Result<Self> {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE, "topology.kubernetes.io/zone": "a"}},
        });
        kube.apply(&node).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut kubelet = Loop {
            kube,
            dir,
            bin,
            pods: BTreeMap::new(),
            next: 1,
        };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = kubelet.look().await {
                    eprintln!("kubelet: {error:#}");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Ok(Self { stop, task })
    }
}

struct Loop {
    kube: Kube,
    dir: PathBuf,
    bin: PathBuf,
    pods: BTreeMap<String, Running>,
    next: u16,
}

impl Loop {
    async fn look(&mut self) -> anyhow::Result<()> {
        let found = self.kube.items("/api/v1/pods").await?;
        for pod in &found {
            let (name, namespace) = (text(&pod["metadata"]["name"]), text(&pod["metadata"]["namespace"]));
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.end(&path, pod).await?;
            } else if pod["spec"]["nodeName"].is_null() {
                let binding = json!({
                    "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
                });
                // It may be on its way out by now.
                let _ = self.kube.create(&format!("{path}/binding"), binding).await;
            } else if self.files(&namespace, pod).await? {
                self.keep(&path, pod).await?;
            }
        }
        // Pods that were deleted without us.
        let gone: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, running)| !found.iter().any(|pod| text(&pod["metadata"]["uid"]) == running.uid))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.pods.remove(&path);
        }
        Ok(())
    }

    fn place(&self, namespace: &str, pod: &Value) -> PathBuf {
        self.dir
            .join("pods")
            .join(namespace)
            .join(text(&pod["metadata"]["name"]))
    }

    /// Writes what the pod mounts; says whether all of it is there.
    async fn files(&self, namespace: &str, pod: &Value) -> anyhow::Result<bool> {
        let place = self.place(namespace, pod);
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let target = place.join(text(&volume["name"]));
            let (kind, name, is_secret) = if volume["configMap"].is_object() {
                ("configmaps", text(&volume["configMap"]["name"]), false)
            } else if volume["secret"].is_object() {
                ("secrets", text(&volume["secret"]["secretName"]), true)
            } else {
                continue;
            };
            let Some(found) = self
                .kube
                .get(&format!("/api/v1/namespaces/{namespace}/{kind}/{name}"))
                .await?
            else {
                return Ok(false);
            };
            std::fs::create_dir_all(&target)?;
            for (key, value) in found["data"].as_object().into_iter().flatten() {
                let bytes = if is_secret {
                    base64::decode(value.as_str().unwrap_or_default()).context("a Secret that is not base64")?
                } else {
                    self.here(namespace, pod, value.as_str().unwrap_or_default())
                        .into_bytes()
                };
                write(&target.join(key), &bytes)?;
            }
        }
        Ok(true)
    }

    /// Paths and addresses of a container, as they are on this machine.
    fn here(&self, namespace: &str, pod: &Value, text_of: &str) -> String {
        let place = self.place(namespace, pod);
        let claim = self
            .dir
            .join("claims")
            .join(namespace)
            .join(format!("data-{}", text(&pod["metadata"]["name"])));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{}", text(&pod["metadata"]["name"]));
        let ip = self
            .pods
            .get(&path)
            .map_or_else(|| self.address(), |running| running.ip.clone());
        text_of
            .replace("/var/lib/vivace", &claim.display().to_string())
            .replace("/etc/vivace/", &format!("{}/", place.display()))
            .replace("0.0.0.0", &ip)
    }

    fn address(&self) -> String {
        format!("127.77.{}.{}", self.next / 250, self.next % 250 + 1)
    }

    async fn keep(&mut self, path: &str, pod: &Value) -> anyhow::Result<()> {
        let namespace = text(&pod["metadata"]["namespace"]);
        let uid = text(&pod["metadata"]["uid"]);
        if self.pods.get(path).is_none_or(|running| running.uid != uid) {
            let container = &pod["spec"]["containers"][0];
            let arguments = container["args"].as_array().into_iter().flatten();
            let arguments: Vec<String> = arguments
                .map(|argument| self.here(&namespace, pod, &text(argument)))
                .collect();
            let name = text(&pod["metadata"]["name"]);
            let claim = self.dir.join("claims").join(&namespace).join(format!("data-{name}"));
            std::fs::create_dir_all(&claim)?;
            let mut command = Command::new(&self.bin);
            command.args(&arguments);
            let logs = self.dir.join("logs");
            std::fs::create_dir_all(&logs)?;
            let known = format!("{namespace}-{name}");
            let process = Process::start(&known, command, &logs).await?;
            let running = Running {
                name: known,
                arguments,
                uid,
                ip: self.address(),
                process: Some(process),
                is_ready: None,
                since: now(),
                ended: None,
                restarts: 0,
            };
            self.next += 1;
            self.pods.insert(path.to_owned(), running);
        }
        let running = self.pods.get_mut(path).context("it was put there above")?;
        if let Some(process) = &mut running.process
            && let Ok(status) = process.ended(Duration::from_millis(1)).await
        {
            let last: Vec<String> = process.lines().into_iter().rev().take(5).collect();
            running.ended = Some(Ended {
                is_well: status.success(),
                words: format!("{status}: {}", last.into_iter().rev().collect::<Vec<_>>().join("\n")),
                at: tokio::time::Instant::now(),
            });
            running.process = None;
            running.is_ready = None;
        }
        // One that ends badly is started again; so is one that ends well, unless its pod is a piece of work.
        let wants_again = |ended: &Ended| {
            let is_work = pod["spec"]["restartPolicy"] != "Always";
            !(is_work && ended.is_well) && ended.at.elapsed() > BACK_OFF
        };
        if running.ended.as_ref().is_some_and(wants_again) {
            let mut command = Command::new(&self.bin);
            command.args(&running.arguments);
            running.process = Some(Process::start(&running.name, command, &self.dir.join("logs")).await?);
            running.restarts += 1;
            running.ended = None;
            running.is_ready = None;
        }
        let probe = format!("http://{}:3200/ready", running.ip);
        let is_ready = running.process.is_some()
            && tokio::time::timeout(PROBE_WITHIN, reqwest::get(&probe))
                .await
                .is_ok_and(|answer| answer.is_ok_and(|answer| answer.status().is_success()));
        if running.is_ready == Some(is_ready) {
            return Ok(());
        }
        if running.is_ready.is_some_and(|was| was != is_ready) || running.is_ready.is_none() {
            running.since = now();
        }
        running.is_ready = Some(is_ready);
        let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": running.since});
        let state = match &running.ended {
            None => json!({"running": {"startedAt": running.since}}),
            Some(ended) => {
                let (code, reason) = if ended.is_well { (0, "Completed") } else { (1, "Error") };
                json!({"terminated": {"exitCode": code, "message": ended.words, "reason": reason}})
            }
        };
        let is_work = pod["spec"]["restartPolicy"] != "Always";
        let phase = match &running.ended {
            Some(ended) if is_work && ended.is_well => "Succeeded",
            _ => "Running",
        };
        let status = json!({"status": {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": running.ip,
            "podIPs": [{"ip": running.ip}],
            "startTime": running.since,
            "conditions": [condition("PodScheduled", true), condition("Initialized", true), condition("ContainersReady", is_ready), condition("Ready", is_ready)],
            "containerStatuses": [{
                "name": "node", "image": pod["spec"]["containers"][0]["image"], "imageID": "", "ready": is_ready,
                "restartCount": running.restarts, "started": true, "state": state,
            }],
        }});
        self.kube.merge(&format!("{path}/status"), status).await?;
        Ok(())
    }

    async fn end(&mut self, path: &str, pod: &Value) -> anyhow::Result<()> {
        if let Some(mut running) = self.pods.remove(path)
            && let Some(process) = &mut running.process
        {
            process.terminate(STOP_WITHIN).await?;
        }
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}});
        // It may be gone, and another one there, by now.
        let _ = self.kube.delete(path, options).await;
        Ok(())
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// Writes a file whole, and only if it is another one; others may not read it, as a node wants of secrets.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if std::fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, bytes)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o440))?;
    std::fs::rename(&fresh, path)?;
    Ok(())
}
