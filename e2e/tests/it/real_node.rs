//! The chart and a manifest on a whole Kubernetes: operator and nodes are pods made from images, on a kubelet with
//! containerd, behind Services, with names, volumes and a bucket in the cluster.
//!
//! What can be seen on the API server alone is in `operator`. Here is what needs containers: images, probes, the pod
//! security standard, Services that lead somewhere, names, volumes that outlive pods, endings in order. A writer goes on
//! all the time, through the Service, and everything that was acknowledged is read back at the end of each story.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vivace_e2e::client::{Otlp, Reply, Tempo};
use vivace_e2e::image::Image;
use vivace_e2e::kube::machine::{Machine, unavailable};
use vivace_e2e::kube::{charts, condition, documents, operator_bin, path_of};
use vivace_e2e::ledger::{Ledger, Reading};
use vivace_e2e::process::{Scratch, vivace_bin};
use vivace_e2e::skip::{Unavailable, skipped};
use vivace_e2e::spans::{Workload, flatten};
use vivace_e2e::stores::create_bucket;
use vivace_e2e::tools::Tool;

const TENANT: &str = "single-tenant";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const CLUSTER: &str = "/apis/tracing.vivace.dev/v1alpha1/namespaces/default/tracingclusters/main";
const POD: &str = "/api/v1/namespaces/default/pods/main-node-0";
const LONG: Duration = Duration::from_secs(240);

/// What an image's short name means to a container runtime.
fn short(name: &str, tag: &str) -> String {
    format!("docker.io/library/{name}:{tag}")
}

struct Stage {
    machine: Machine,
    bin: PathBuf,
}

impl Stage {
    async fn wait(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let kube = &self.machine.kube;
        let waited = kube
            .until(LONG, what, async || {
                Ok(holds(&kube.get(CLUSTER).await?.unwrap_or_default()))
            })
            .await;
        let found = kube.get(CLUSTER).await.unwrap().unwrap_or_default();
        if let Err(error) = waited {
            panic!(
                "{error:#}: {:#}\n{}\n{}",
                found["status"],
                self.machine.logs("tracing-system", "vivace-operator"),
                self.machine.logs("default", "main-node")
            );
        }
        found
    }

    async fn ready(&self) -> Value {
        self.wait("a cluster that is ready", |cluster| {
            cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
                && condition(cluster, "Ready").0 == "True"
        })
        .await
    }

    async fn pod_uid(&self) -> Value {
        self.machine.kube.get(POD).await.unwrap().unwrap_or_default()["metadata"]["uid"].clone()
    }

    /// Waits for another pod than this one that serves.
    async fn another_pod(&self, than: &Value) {
        let kube = &self.machine.kube;
        kube.until(LONG, "another pod that is ready", async || {
            let pod = kube.get(POD).await?.unwrap_or_default();
            Ok(!pod.is_null() && pod["metadata"]["uid"] != *than && condition(&pod, "Ready").0 == "True")
        })
        .await
        .unwrap();
    }

    /// The address of a Service, which kube-proxy makes lead to its pods.
    async fn service(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
        let found = self.machine.kube.get(&path).await.unwrap().unwrap();
        found["spec"]["clusterIP"].as_str().unwrap().to_owned()
    }
}

/// Sends spans through the Service until it is told to stop, and keeps going where nobody answers.
struct Writer {
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    longest_gap: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(ledger: Arc<Ledger>, url: String) -> Self {
        let (stop, longest_gap) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, gap, book) = (stop.clone(), longest_gap.clone(), ledger.clone());
        let task = tokio::spawn(async move {
            let (mut first, mut last) = (1_000, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                // A new connection each time, as from many clients, and so that one to a dead pod is not waited on.
                let mut otlp = Otlp::grpc(&url, None).unwrap();
                let sent = book.send(0, first, 10);
                let reply = tokio::time::timeout(
                    Duration::from_secs(5),
                    otlp.export(book.workload().request(0, first, 10)),
                );
                match reply.await {
                    Ok(reply) => {
                        if reply == Reply::Accepted {
                            let waited = u64::try_from(last.elapsed().as_millis()).unwrap();
                            gap.fetch_max(waited, Ordering::Relaxed);
                            last = Instant::now();
                        }
                        book.settle(sent, reply.outcome());
                    }
                    // Nobody knows whether it arrived.
                    Err(_) => drop(sent),
                }
                first += 10;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self {
            ledger,
            stop,
            longest_gap,
            task,
        }
    }

    async fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        assert!(self.ledger.acknowledged() > 50, "the writer was never answered");
        Duration::from_millis(self.longest_gap.load(Ordering::Relaxed))
    }
}

/// Reads every trace that was acknowledged, through the Service.
async fn read_all(stage: &Stage, ledger: &Ledger) -> usize {
    let query = stage.service("default", "main-query").await;
    let tempo = Tempo::new(&format!("http://{query}:3200"), None).unwrap();
    let mut read = 0;
    for id in ledger.traces_of(TENANT) {
        let floor = ledger.floor();
        // One node is nobody at times; that it cannot be reached is no wrong answer.
        let mut answer = tempo.trace(id).await;
        for _ in 0..100 {
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            answer = tempo.trace(id).await;
        }
        let spans = flatten(answer.unwrap().resource_spans);
        let verdict = ledger.verify(&Reading {
            floor,
            tenant: TENANT,
            traces: Some([id].into()),
            spans,
        });
        assert!(verdict.is_clean(), "{verdict}");
        read += usize::from(verdict.required > 0);
    }
    assert!(read > 0);
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_becomes_pods_that_keep_every_span() {
    let test = "real_node::manifest";
    let missing = unavailable().or_else(|| Tool::Minio.obtain().err());
    let (bin, operator) = match (vivace_bin(), operator_bin(), missing) {
        (Ok(bin), Ok(operator), None) => (bin, operator),
        (Err(reason), ..) | (_, Err(reason), _) | (.., Some(reason)) => return skipped(test, &reason),
    };
    let scratch = Scratch::new(&test.replace("::", "-")).unwrap();
    let began = Instant::now();
    // What a machine does not let its root do is found out by doing it.
    let machine = match Machine::start(&scratch).await {
        Ok(machine) => machine,
        Err(error) => return skipped(test, &Unavailable::because("no Kubernetes node on this machine", error)),
    };
    println!("a Kubernetes node is ready after {:?}", began.elapsed());
    let stage = Stage { machine, bin };
    for (name, tag, program) in [
        ("vivace", VERSION, &stage.bin),
        ("vivace-operator", VERSION, &operator),
        ("minio", "1", &Tool::Minio.obtain().unwrap()),
    ] {
        stage
            .machine
            .import(&Image::of(&short(name, tag), program).unwrap())
            .await
            .unwrap();
    }
    a_bucket_in_the_cluster(&stage).await;
    the_operator_runs_as_the_chart_says(&stage).await;
    let ledger = Arc::new(Ledger::new(Workload::starting_now(11), [(0, TENANT.to_owned())]));
    from_a_manifest_to_a_span(&stage, &ledger).await;

    let ingest = stage.service("default", "main-ingest").await;
    let writer = Writer::start(ledger.clone(), format!("http://{ingest}:4317"));
    a_pod_that_is_killed_comes_back_with_its_data(&stage, &ledger).await;
    the_next_image_is_rolled_out(&stage, &ledger).await;
    volumes_grow(&stage).await;
    an_operator_that_is_killed_is_followed_by_the_other(&stage).await;
    let gap = writer.stop().await;
    let read = read_all(&stage, &ledger).await;
    println!("{read} traces read back, none lost; the longest time without an acknowledgement was {gap:?}");
    pods_end_in_order(&stage).await;
    stage.machine.stop().await.unwrap();
}

/// MinIO as a pod behind a Service, where examples/minio.yaml looks for it.
async fn a_bucket_in_the_cluster(stage: &Stage) {
    let kube = &stage.machine.kube;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "minio"}});
    kube.apply(&namespace).await.unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "minio", "namespace": "minio", "labels": {"app": "minio"}},
        "spec": {
            "securityContext": {"fsGroup": 10_001},
            "containers": [{
                "name": "minio", "image": "minio:1", "imagePullPolicy": "Never", "args": ["server", "--quiet", "/data"],
                "env": [
                    {"name": "MINIO_ROOT_USER", "value": "traces"},
                    {"name": "MINIO_ROOT_PASSWORD", "value": "change-me"},
                    {"name": "MINIO_BROWSER", "value": "off"},
                    {"name": "MINIO_UPDATE", "value": "off"},
                    {"name": "MINIO_CALLHOME_ENABLE", "value": "off"},
                ],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "minio", "namespace": "minio"},
        "spec": {"selector": {"app": "minio"}, "ports": [{"port": 9000}]},
    });
    // The namespace's account is made by a controller.
    kube.until(LONG, "a pod of MinIO", async || Ok(kube.apply(&pod).await.is_ok()))
        .await
        .unwrap();
    kube.apply(&service).await.unwrap();
    let endpoint = format!("http://{}:9000", stage.service("minio", "minio").await);
    kube.until(LONG, "a bucket", async || {
        create_bucket(&endpoint, "traces", "change-me").await?;
        Ok(true)
    })
    .await
    .unwrap();
}

async fn the_operator_runs_as_the_chart_says(stage: &Stage) {
    let kube = &stage.machine.kube;
    // The chart promises the restricted standard for its own pods and for those of clusters.
    for namespace in ["tracing-system", "default"] {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}});
        kube.apply(&object).await.unwrap();
    }
    kube.apply(&super::operator::grafana_datasources()).await.unwrap();
    stage.machine.control.install_whole().await.unwrap();
    let deployment = "/apis/apps/v1/namespaces/tracing-system/deployments/vivace-operator";
    let waited = kube
        .until(LONG, "two operators that are ready", async || {
            Ok(kube.get(deployment).await?.unwrap_or_default()["status"]["readyReplicas"] == 2)
        })
        .await;
    if let Err(error) = waited {
        panic!(
            "{error:#}: {}\n{:#?}",
            stage.machine.logs("tracing-system", "vivace-operator"),
            kube.items("/api/v1/namespaces/tracing-system/events").await.unwrap()
        );
    }
}

async fn from_a_manifest_to_a_span(stage: &Stage, ledger: &Ledger) {
    let kube = &stage.machine.kube;
    let text = std::fs::read_to_string(charts().join("examples/minio.yaml")).unwrap();
    let began = Instant::now();
    for object in documents(&text).unwrap() {
        let path = path_of(&object).unwrap();
        kube.apply(&object)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:#}"));
    }
    stage.ready().await;
    let ready = began.elapsed();
    let ingest = stage.service("default", "main-ingest").await;
    let mut otlp = Otlp::grpc(&format!("http://{ingest}:4317"), None).unwrap();
    let sent = ledger.send(0, 0, 50);
    let reply = otlp.export(ledger.workload().request(0, 0, 50)).await;
    ledger.settle(sent, reply.outcome());
    assert_eq!(reply, Reply::Accepted);
    read_all(stage, ledger).await;
    println!(
        "from kubectl apply to Ready {ready:?}, to the first span read back through the Services {:?}",
        began.elapsed()
    );
    let sources = kube
        .items("/apis/grafana.integreatly.org/v1beta1/namespaces/default/grafanadatasources")
        .await
        .unwrap();
    assert_eq!(sources.len(), 1, "{sources:#?}");
    assert_eq!(sources[0]["spec"]["datasource"]["type"], "tempo");
}

async fn a_pod_that_is_killed_comes_back_with_its_data(stage: &Stage, ledger: &Ledger) {
    let uid = stage.pod_uid().await;
    let at_once = json!({"gracePeriodSeconds": 0});
    stage.machine.kube.delete(POD, at_once).await.unwrap();
    stage.another_pod(&uid).await;
    stage.ready().await;
    read_all(stage, ledger).await;
}

/// The same program under another tag: what is rolled out is decided by the pod's template.
async fn the_next_image_is_rolled_out(stage: &Stage, ledger: &Ledger) {
    let next = Image::of(&short("vivace", "next"), &stage.bin).unwrap();
    stage.machine.import(&next).await.unwrap();
    let uid = stage.pod_uid().await;
    let patch = json!({"spec": {"image": {"tag": "next"}, "upgrade": {"minReadySeconds": 1}}});
    stage.machine.kube.merge(CLUSTER, patch).await.unwrap();
    stage.another_pod(&uid).await;
    let pod = stage.machine.kube.get(POD).await.unwrap().unwrap();
    assert_eq!(pod["spec"]["containers"][0]["image"], "vivace:next");
    stage.ready().await;
    read_all(stage, ledger).await;
    // An image that does not exist stops at the first pod, is said, and is taken back.
    let uid = stage.pod_uid().await;
    let patch = |tag: &str| json!({"spec": {"image": {"tag": tag, "pullPolicy": "Never"}}});
    stage.machine.kube.merge(CLUSTER, patch("none")).await.unwrap();
    stage
        .wait("the reason why the pod does not come up", |cluster| {
            condition(cluster, "Ready").2.contains("ErrImageNeverPull")
                || condition(cluster, "Available").2.contains("ErrImageNeverPull")
        })
        .await;
    stage.machine.kube.merge(CLUSTER, patch("next")).await.unwrap();
    stage.another_pod(&uid).await;
    stage.ready().await;
}

/// The claim grows and the StatefulSet is made anew around its pod. A node's share of its volume is among its settings, so
/// it is restarted afterwards, which the writer outlives.
async fn volumes_grow(stage: &Stage) {
    let kube = &stage.machine.kube;
    let size = "/status/effective/volumeSize";
    let before = stage.ready().await.pointer(size).cloned();
    kube.merge(CLUSTER, json!({"spec": {"persistence": {"size": "77Gi"}}}))
        .await
        .unwrap();
    let claim = "/api/v1/namespaces/default/persistentvolumeclaims/data-main-node-0";
    let set = "/apis/apps/v1/namespaces/default/statefulsets/main-node";
    kube.until(LONG, "a claim and a template that have grown", async || {
        let (claim, set) = (
            kube.get(claim).await?.unwrap_or_default(),
            kube.get(set).await?.unwrap_or_default(),
        );
        let template = set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"].clone();
        // 77 Gi, as it is written or in bytes.
        let is_grown = |said: &Value| *said == "77Gi" || *said == "82678120448";
        Ok(is_grown(&claim["status"]["capacity"]["storage"]) && is_grown(&template))
    })
    .await
    .unwrap();
    let after = stage.ready().await.pointer(size).cloned();
    assert_ne!(before, after);
}

async fn an_operator_that_is_killed_is_followed_by_the_other(stage: &Stage) {
    let kube = &stage.machine.kube;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/tracing-system/leases/vivace-operator";
    let holder = kube.get(lease).await.unwrap().unwrap()["spec"]["holderIdentity"].clone();
    let holder = holder.as_str().unwrap();
    let path = format!("/api/v1/namespaces/tracing-system/pods/{holder}");
    kube.delete(&path, json!({"gracePeriodSeconds": 0})).await.unwrap();
    kube.until(LONG, "another leader", async || {
        let lease = kube.get(lease).await?.unwrap_or_default();
        Ok(lease["spec"]["holderIdentity"] != *holder && !lease["spec"]["holderIdentity"].is_null())
    })
    .await
    .unwrap();
    kube.merge(CLUSTER, json!({"spec": {"retention": {"default": "5d"}}}))
        .await
        .unwrap();
    stage
        .wait("the new leader acts", |cluster| {
            cluster["status"]["effective"]["retention"] == "5d" && condition(cluster, "TenantsSynced").0 == "True"
        })
        .await;
}

/// Deleting the resource ends the pod by SIGTERM, within its grace period, and keeps its volume.
async fn pods_end_in_order(stage: &Stage) {
    let kube = &stage.machine.kube;
    kube.delete(CLUSTER, json!({})).await.unwrap();
    kube.until(LONG, "no pods", async || {
        Ok(kube.items("/api/v1/namespaces/default/pods").await?.is_empty())
    })
    .await
    .unwrap();
    let claim = "/api/v1/namespaces/default/persistentvolumeclaims/data-main-node-0";
    assert!(kube.get(claim).await.unwrap().is_some());
}
