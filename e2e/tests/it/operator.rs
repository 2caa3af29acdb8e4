//! The operator against a real API server: etcd, kube-apiserver and kube-controller-manager, pods that are our node's
//! processes, a bucket that is an S3 server, and the rights of the chart and no more.
//!
//! One control plane for the whole file, one story after another: starting it costs more than the stories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use object_store::ObjectStoreExt as _;
use serde_json::{Value, json};
use vivace_e2e::client::{Otlp, Reply, Tempo};
use vivace_e2e::kube::control::ControlPlane;
use vivace_e2e::kube::kubelet::Kubelet;
use vivace_e2e::kube::{Kube, charts, condition, documents, operator_bin, path_of};
use vivace_e2e::ledger::{Ledger, Reading};
use vivace_e2e::process::{Process, Scratch, vivace_bin};
use vivace_e2e::s3::{ACCESS_KEY, S3Options, S3Server, SECRET_KEY};
use vivace_e2e::skip::skipped;
use vivace_e2e::spans::{Workload, flatten};
use vivace_e2e::tools::Tool;

const TENANT: &str = "single-tenant";
const CLUSTERS: &str = "/apis/tracing.vivace.dev/v1alpha1/namespaces/default/tracingclusters";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(90);

struct Stage {
    scratch: Scratch,
    control: ControlPlane,
    kube: Kube,
    s3: S3Server,
    operator_bin: PathBuf,
    operators: u32,
    operator: Option<Process>,
    operator_url: String,
    _kubelet: Kubelet,
}

impl Stage {
    async fn set(test: &str) -> Option<Self> {
        let needed = [Tool::Etcd, Tool::KubeApiserver, Tool::KubeControllers].map(Tool::obtain);
        let missing = needed.into_iter().find_map(Result::err);
        let (bin, operator_bin) = match (vivace_bin(), operator_bin(), missing) {
            (Ok(bin), Ok(operator), None) => (bin, operator),
            (Err(reason), ..) | (_, Err(reason), _) | (.., Some(reason)) => {
                skipped(test, &reason);
                return None;
            }
        };
        let scratch = Scratch::new(&test.replace("::", "-")).unwrap();
        let control = ControlPlane::start(scratch.path()).await.unwrap();
        let kube = control.kube.clone();
        let kubelet = Kubelet::start(kube.clone(), scratch.dir("kubelet").unwrap(), bin)
            .await
            .unwrap();
        let s3 = S3Server::start(S3Options::default()).await.unwrap();
        Some(Self {
            scratch,
            control,
            kube,
            s3,
            operator_bin,
            operators: 0,
            operator: None,
            operator_url: String::new(),
            _kubelet: kubelet,
        })
    }

    /// Starts the next operator.
    async fn operate(&mut self) {
        self.operators += 1;
        let name = format!("operator-{}", self.operators);
        let started = self
            .control
            .operate(&self.operator_bin, &name, self.scratch.path())
            .await;
        let (operator, url) = started.unwrap();
        self.operator = Some(operator);
        self.operator_url = url;
    }

    async fn counter(&self, name: &str) -> u64 {
        let text = reqwest::get(format!("{}/metrics", self.operator_url))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("tracing_operator_{name} ")));
        value.unwrap().parse().unwrap()
    }

    async fn cluster(&self, name: &str) -> Value {
        self.kube
            .get(&format!("{CLUSTERS}/{name}"))
            .await
            .unwrap()
            .unwrap_or_default()
    }

    /// Waits until a condition of a cluster is so, as `kubectl wait` does.
    async fn wait(&self, name: &str, kind: &str, status: &str) {
        let waited = self
            .kube
            .until(LONG, &format!("{name} {kind}={status}"), async || {
                let found = self.cluster(name).await;
                let is_seen = found["status"]["observedGeneration"] == found["metadata"]["generation"];
                Ok(is_seen && condition(&found, kind).0 == status)
            })
            .await;
        if let Err(error) = waited {
            panic!("{error:#}: {:#}", self.cluster(name).await["status"]);
        }
    }

    async fn pod(&self, name: &str) -> Value {
        self.kube
            .get(&format!("{PODS}/{name}"))
            .await
            .unwrap()
            .unwrap_or_default()
    }

    /// Versions of every object that the operator may have written.
    async fn versions(&self) -> Vec<(String, String)> {
        let mut versions = Vec::new();
        for kind in [
            CLUSTERS,
            "/api/v1/namespaces/default/services",
            "/api/v1/namespaces/default/configmaps",
            "/api/v1/namespaces/default/secrets",
            "/api/v1/namespaces/default/serviceaccounts",
            "/apis/apps/v1/namespaces/default/statefulsets",
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
        ] {
            for item in self.kube.items(kind).await.unwrap() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let metadata = &item["metadata"];
                versions.push((
                    format!("{kind}/{}", text(&metadata["name"])),
                    text(&metadata["resourceVersion"]),
                ));
            }
        }
        versions
    }

    async fn close(mut self) {
        if let Some(operator) = &mut self.operator {
            operator.kill().await.unwrap();
        }
        self.control.stop().await.unwrap();
    }
}

fn secret() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"},
        "stringData": {"access_key_id": ACCESS_KEY, "access_key_secret": SECRET_KEY},
    })
}

fn minimal(name: &str, s3: &S3Server) -> Value {
    json!({
        "apiVersion": "tracing.vivace.dev/v1alpha1",
        "kind": "TracingCluster",
        "metadata": {"name": name},
        "spec": {
            "size": "demo",
            "storage": {
                "type": "S3",
                "s3": {"bucket": s3.bucket(), "endpoint": s3.endpoint(), "forcePathStyle": true},
                "credentials": {"secretRef": {"name": "s3"}},
            },
            "upgrade": {"minReadySeconds": 0},
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracing_cluster_on_a_real_api_server() {
    let Some(mut stage) = Stage::set("operator::cluster").await else {
        return;
    };
    stage.control.install().await.unwrap();
    the_server_takes_examples_and_refuses_nonsense(&stage).await;
    stage.kube.apply(&grafana_datasources()).await.unwrap();
    stage.operate().await;

    let ledger = Ledger::new(Workload::starting_now(7), [(0, TENANT.to_owned())]);
    from_apply_to_a_span(&stage, &ledger).await;
    every_way_to_grafana_is_taken(&stage).await;
    a_settled_cluster_is_not_written_to(&stage).await;
    what_somebody_changes_is_put_back(&stage).await;
    retention_is_pushed_without_a_restart(&stage).await;
    a_new_setting_restarts_the_node_and_loses_nothing(&mut stage, &ledger).await;
    a_pause_stops_everything(&stage).await;
    a_pause_by_annotation_is_the_same(&stage).await;
    a_missing_secret_is_said(&stage).await;
    a_key_that_is_refused_is_said_and_mended(&stage).await;
    a_bucket_that_is_not_there_is_said(&stage).await;
    two_clusters_under_one_prefix_are_refused(&stage).await;
    a_tenant_that_goes_with_its_spans_waits_for_them(&stage).await;
    an_autoscaler_of_kubernetes_sets_the_number_of_nodes(&stage).await;
    what_goes_with_the_resource(&stage, &ledger).await;
    stage.close().await;
}

async fn the_server_takes_examples_and_refuses_nonsense(stage: &Stage) {
    for entry in std::fs::read_dir(charts().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        for object in documents(&std::fs::read_to_string(&path).unwrap()).unwrap() {
            if let Err(error) = stage.kube.dry_run(&object).await {
                panic!("{}: {error:#}", path.display());
            }
        }
    }
    for (spec, said) in [
        (json!({"storage": {"type": "S3"}}), "s3"),
        (
            json!({"size": "small", "storage": {"type": "Filesystem"}}),
            "single node",
        ),
        (
            json!({"size": "demo", "replicas": 0, "storage": {"type": "Filesystem"}}),
            "replicas",
        ),
        (
            json!({"size": "demo", "retention": {"default": "1m"}, "storage": {"type": "Filesystem"}}),
            "retention",
        ),
    ] {
        let object = json!({
            "apiVersion": "tracing.vivace.dev/v1alpha1", "kind": "TracingCluster", "metadata": {"name": "wrong"}, "spec": spec,
        });
        let refused = stage.kube.dry_run(&object).await.expect_err(said).to_string();
        assert!(refused.contains("422") && refused.contains(said), "{refused}");
    }
}

async fn from_apply_to_a_span(stage: &Stage, ledger: &Ledger) {
    stage.kube.apply(&secret()).await.unwrap();
    let began = Instant::now();
    stage.kube.apply(&minimal("main", &stage.s3)).await.unwrap();
    stage.wait("main", "Ready", "True").await;
    let ready = began.elapsed();
    the_service_leads_to_the_pod(stage).await;
    send_and_read(stage, ledger, 0).await;
    println!(
        "from apply to Ready {ready:?}, to the first span read back {:?}",
        began.elapsed()
    );
    let status = stage.cluster("main").await["status"].clone();
    for (path, wanted) in [
        ("/phase", json!("Running")),
        ("/replicas", json!(1)),
        ("/readyReplicas", json!(1)),
        ("/bootstrapped", json!(true)),
        ("/effective/prefix", json!("default/main")),
        ("/endpoints/otlpGrpc", json!("main-ingest.default.svc:4317")),
    ] {
        assert_eq!(status.pointer(path), Some(&wanted), "{path}: {status:#}");
    }
    // As kstatus reads them: of this generation, and what is not the case any more is not there.
    let found = stage.cluster("main").await;
    for condition in found["status"]["conditions"].as_array().unwrap() {
        assert_eq!(
            condition["observedGeneration"], found["metadata"]["generation"],
            "{condition}"
        );
        let kind = condition["type"].as_str().unwrap();
        assert!(!["Reconciling", "Stalled", "Paused"].contains(&kind), "{condition}");
    }
    let events = stage
        .kube
        .items("/apis/events.k8s.io/v1/namespaces/default/events")
        .await
        .unwrap();
    assert!(events.iter().any(|event| event["reason"] == "Ready"), "{events:#?}");
}

/// Endpoints may not be loopback addresses, so what a proxy would do is done here: selector, then port by name.
async fn the_service_leads_to_the_pod(stage: &Stage) {
    let service = stage
        .kube
        .get("/api/v1/namespaces/default/services/main-ingest")
        .await
        .unwrap()
        .unwrap();
    let selector = service["spec"]["selector"].as_object().unwrap().iter();
    let selector: Vec<String> = selector
        .map(|(key, value)| format!("{key}%3D{}", value.as_str().unwrap()))
        .collect();
    let pods = stage
        .kube
        .items(&format!("{PODS}?labelSelector={}", selector.join(",")))
        .await
        .unwrap();
    assert_eq!(pods.len(), 1);
    let ports = pods[0]["spec"]["containers"][0]["ports"].as_array().unwrap();
    for port in service["spec"]["ports"].as_array().unwrap() {
        let target = ports
            .iter()
            .find(|target| target["name"] == port["targetPort"])
            .unwrap();
        assert_eq!(target["containerPort"], port["port"]);
    }
}

/// Sends spans to the node of "main" and reads all that were ever acknowledged.
async fn send_and_read(stage: &Stage, ledger: &Ledger, first: u64) {
    let ip = stage.pod("main-node-0").await["status"]["podIP"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut otlp = Otlp::grpc(&format!("http://{ip}:4317"), None).unwrap();
    let sent = ledger.send(0, first, 50);
    let reply = otlp.export(ledger.workload().request(0, first, 50)).await;
    ledger.settle(sent, reply.outcome());
    assert_eq!(reply, Reply::Accepted);
    let tempo = Tempo::new(&format!("http://{ip}:3200"), None).unwrap();
    for id in ledger.traces_of(TENANT) {
        let floor = ledger.floor();
        let spans = flatten(tempo.trace(id).await.unwrap().resource_spans);
        let verdict = ledger.verify(&Reading {
            floor,
            tenant: TENANT,
            traces: Some([id].into()),
            spans,
        });
        assert!(verdict.is_clean() && verdict.required > 0, "{verdict}");
    }
}

/// The definition of grafana-operator's kind, with the fields that we write and the two that it fixes.
pub(crate) fn grafana_datasources() -> Value {
    let fixed = json!([{"rule": "self == oldSelf", "message": "is fixed"}]);
    let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "grafanadatasources.grafana.integreatly.org"},
        "spec": {
            "group": "grafana.integreatly.org",
            "scope": "Namespaced",
            "names": {"kind": "GrafanaDatasource", "plural": "grafanadatasources", "singular": "grafanadatasource", "listKind": "GrafanaDatasourceList"},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {"spec": {
                    "type": "object",
                    "required": ["instanceSelector", "datasource"],
                    "properties": {
                        "instanceSelector": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-validations": fixed},
                        "uid": {"type": "string", "maxLength": 40, "x-kubernetes-validations": fixed},
                        "allowCrossNamespaceImport": {"type": "boolean"},
                        "resyncPeriod": {"type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"},
                        "valuesFrom": {"type": "array", "items": free},
                        "datasource": free,
                    },
                }},
            }}}],
        },
    })
}

/// Grafana's API for data sources, as far as its documentation promises it.
async fn grafana() -> (String, Arc<Mutex<BTreeMap<String, Value>>>) {
    use axum::extract::{Path, State};
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::get;
    use axum::{Json, Router};
    type Sources = Arc<Mutex<BTreeMap<String, Value>>>;
    fn stored(mut source: Value) -> Value {
        // Secrets are taken and never shown.
        if let Some(secrets) = source.as_object_mut().and_then(|map| map.remove("secureJsonData")) {
            let keys = secrets
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| (key.clone(), json!(true)));
            source["secureJsonFields"] = Value::Object(keys.collect());
        }
        source["readOnly"] = json!(false);
        source
    }
    fn may(headers: &HeaderMap) -> bool {
        headers
            .get("authorization")
            .is_some_and(|said| said == "Bearer glsa_test")
    }
    let sources = Sources::default();
    let app = Router::new()
        .route(
            "/api/datasources",
            get(async |State(sources): State<Sources>| {
                Json(sources.lock().unwrap().values().cloned().collect::<Vec<_>>())
            })
            .post(
                async |State(sources): State<Sources>, headers: HeaderMap, Json(source): Json<Value>| {
                    if !may(&headers) {
                        return (StatusCode::UNAUTHORIZED, Json(json!({"message": "Invalid API key"})));
                    }
                    let uid = source["uid"].as_str().unwrap_or_default().to_owned();
                    sources.lock().unwrap().insert(uid, stored(source));
                    (StatusCode::OK, Json(json!({"message": "Datasource added"})))
                },
            ),
        )
        .route(
            "/api/datasources/uid/{uid}",
            get(
                async |State(sources): State<Sources>, headers: HeaderMap, Path(uid): Path<String>| {
                    if !may(&headers) {
                        return (StatusCode::UNAUTHORIZED, Json(json!({"message": "Invalid API key"})));
                    }
                    match sources.lock().unwrap().get(&uid) {
                        Some(found) => (StatusCode::OK, Json(found.clone())),
                        None => (StatusCode::NOT_FOUND, Json(json!({"message": "Data source not found"}))),
                    }
                },
            )
            .put(
                async |State(sources): State<Sources>, Path(uid): Path<String>, Json(source): Json<Value>| {
                    sources.lock().unwrap().insert(uid, stored(source));
                    Json(json!({"message": "Datasource updated"}))
                },
            ),
        )
        .with_state(sources.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, app).into_future());
    (url, sources)
}

async fn every_way_to_grafana_is_taken(stage: &Stage) {
    let path = format!("{CLUSTERS}/main");
    let list = "/apis/grafana.integreatly.org/v1beta1/namespaces/default/grafanadatasources";
    stage
        .kube
        .until(SHORT, "a GrafanaDatasource", async || {
            Ok(stage.kube.items(list).await?.len() == 1)
        })
        .await
        .unwrap();
    let found = stage.kube.items(list).await.unwrap();
    let (uid, object) = (found[0]["spec"]["uid"].clone(), found[0]["metadata"]["uid"].clone());
    assert_eq!(found[0]["spec"]["datasource"]["type"], "tempo");
    assert_eq!(
        found[0]["spec"]["datasource"]["url"],
        "http://main-query.default.svc:3200"
    );
    // What the kind fixes is changed by making the object anew, under the same uid.
    let selector = json!({"spec": {"grafana": {"operator": {"instanceSelector": {"matchLabels": {"team": "a"}}}}}});
    stage.kube.merge(&path, selector).await.unwrap();
    stage
        .kube
        .until(LONG, "the data source is made anew", async || {
            let found = stage.kube.items(list).await?;
            Ok(found.len() == 1 && found[0]["metadata"]["uid"] != object && found[0]["spec"]["uid"] == uid)
        })
        .await
        .unwrap();
    // The sidecar's file and Grafana's own API carry the same uid.
    let (url, sources) = grafana().await;
    let spec = json!({"spec": {"grafana": {
        "sidecar": {"enabled": "Always", "kind": "ConfigMap"},
        "api": [{"url": url, "tokenSecretRef": {"name": "grafana", "key": "token"}}],
    }}});
    stage.kube.merge(&path, spec).await.unwrap();
    stage.wait("main", "GrafanaReady", "False").await;
    let (_, _, message) = condition(&stage.cluster("main").await, "GrafanaReady");
    assert!(message.contains("Secret grafana"), "{message}");
    let token = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "grafana"}, "stringData": {"token": "glsa_test"}});
    stage.kube.apply(&token).await.unwrap();
    stage
        .kube
        .merge(
            &path,
            json!({"metadata": {"annotations": {"example.com/look": "grafana"}}}),
        )
        .await
        .unwrap();
    stage.wait("main", "GrafanaReady", "True").await;
    let map = stage
        .kube
        .get("/api/v1/namespaces/default/configmaps/default-main-datasources")
        .await
        .unwrap()
        .unwrap();
    let file = map["data"]["default-main.yaml"].as_str().unwrap().to_owned();
    assert!(file.contains(uid.as_str().unwrap()), "{file}");
    let stored = sources.lock().unwrap().clone();
    let source = stored.get(uid.as_str().unwrap()).expect("Grafana has it");
    assert_eq!(source["type"], "tempo");
    assert_eq!(source["jsonData"]["nodeGraph"]["enabled"], true);
}

async fn a_settled_cluster_is_not_written_to(stage: &Stage) {
    // Ready is not the end: limits have yet to be seen on the node.
    stage.wait("main", "TenantsSynced", "True").await;
    let mut before = (stage.versions().await, stage.counter("writes_total").await);
    // What was under way when the condition came is let through once.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let settled = (stage.versions().await, stage.counter("writes_total").await);
    if before != settled {
        before = settled;
    }
    let runs = stage.counter("reconcile_total").await;
    // Every run that somebody provokes has to come to the same end.
    for number in 0..3 {
        let patch = json!({"metadata": {"annotations": {"example.com/look": number.to_string()}}});
        stage.kube.merge(&format!("{CLUSTERS}/main"), patch).await.unwrap();
        stage
            .kube
            .until(SHORT, "another run", async || {
                Ok(stage.counter("reconcile_total").await > runs + number)
            })
            .await
            .unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut after, writes) = (stage.versions().await, stage.counter("writes_total").await);
    let ours = format!("{CLUSTERS}/main");
    after.retain(|(name, _)| *name != ours);
    before.0.retain(|(name, _)| *name != ours);
    assert_eq!(before, (after, writes), "a settled cluster was written to");
}

async fn what_somebody_changes_is_put_back(stage: &Stage) {
    let service = "/api/v1/namespaces/default/services/main-query";
    let set = "/apis/apps/v1/namespaces/default/statefulsets/main-node";
    let patch = json!([{"op": "replace", "path": "/spec/ports/0/port", "value": 9999}]).to_string();
    let (status, _) = stage
        .kube
        .call(
            reqwest::Method::PATCH,
            service,
            "application/json-patch+json",
            Some(patch),
        )
        .await
        .unwrap();
    assert!(status.is_success());
    stage
        .kube
        .until(SHORT, "the port is put back", async || {
            let ports = stage.kube.get(service).await?.unwrap_or_default()["spec"]["ports"].clone();
            Ok(ports
                .as_array()
                .is_some_and(|ports| ports.len() == 1 && ports[0]["port"] == 3200))
        })
        .await
        .unwrap();
    stage
        .kube
        .delete("/api/v1/namespaces/default/services/main-peers", json!({}))
        .await
        .unwrap();
    stage
        .kube
        .until(SHORT, "the Service is made again", async || {
            Ok(stage
                .kube
                .get("/api/v1/namespaces/default/services/main-peers")
                .await?
                .is_some())
        })
        .await
        .unwrap();
    // A set that somebody scaled up goes back; the pod that came of it belongs to nobody.
    stage.kube.merge(set, json!({"spec": {"replicas": 2}})).await.unwrap();
    stage
        .kube
        .until(LONG, "the set is back at one", async || {
            let set = stage.kube.get(set).await?.unwrap_or_default();
            Ok(set["spec"]["replicas"] == 1 && stage.pod("main-node-1").await.is_null())
        })
        .await
        .unwrap();
    // Its claim stays, for nothing is deleted that nobody asked to delete; that nobody lives on it is noted, so that a
    // resource that is made anew does not take it for a node's.
    let claim = "/api/v1/namespaces/default/persistentvolumeclaims/data-main-node-1";
    stage
        .kube
        .until(SHORT, "a note on the claim that was left behind", async || {
            let claim = stage.kube.get(claim).await?.unwrap_or_default();
            Ok(!claim["metadata"]["annotations"]["tracing.vivace.dev/retired"].is_null())
        })
        .await
        .unwrap();
    stage.wait("main", "Ready", "True").await;
}

async fn retention_is_pushed_without_a_restart(stage: &Stage) {
    let uid = stage.pod("main-node-0").await["metadata"]["uid"].clone();
    let patch = json!({"spec": {"retention": {"default": "3d"}}});
    stage.kube.merge(&format!("{CLUSTERS}/main"), patch).await.unwrap();
    stage
        .kube
        .until(LONG, "the node has the new retention", async || {
            let status = stage.cluster("main").await;
            Ok(status["status"]["effective"]["retention"] == "3d" && condition(&status, "TenantsSynced").0 == "True")
        })
        .await
        .unwrap();
    let pod = stage.pod("main-node-0").await;
    let ip = pod["status"]["podIP"].as_str().unwrap().to_owned();
    let said = reqwest::get(format!("http://{ip}:3200/status/overrides/anybody"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(said.contains("retention: 3d"), "{said}");
    assert_eq!(pod["metadata"]["uid"], uid, "the pod was restarted");
}

async fn a_new_setting_restarts_the_node_and_loses_nothing(stage: &mut Stage, ledger: &Ledger) {
    let uid = stage.pod("main-node-0").await["metadata"]["uid"].clone();
    let patch = json!({"spec": {"observability": {"logLevel": "debug"}}});
    stage.kube.merge(&format!("{CLUSTERS}/main"), patch).await.unwrap();
    // Killed as soon as it has written down what it is about to do; the next one goes on from there.
    stage
        .kube
        .until(LONG, "the upgrade is under way", async || {
            Ok(stage.cluster("main").await["status"]["operation"]["kind"] == "Upgrade")
        })
        .await
        .unwrap();
    stage.operator.as_mut().unwrap().kill().await.unwrap();
    // The lease of the dead one would have to run out first.
    let lease = "/apis/coordination.k8s.io/v1/namespaces/tracing-system/leases/vivace-operator";
    stage.kube.delete(lease, json!({})).await.unwrap();
    stage.operate().await;
    stage
        .kube
        .until(LONG, "the new pod serves", async || {
            let pod = stage.pod("main-node-0").await;
            Ok(!pod.is_null() && pod["metadata"]["uid"] != uid && condition(&pod, "Ready").0 == "True")
        })
        .await
        .unwrap();
    stage.wait("main", "Ready", "True").await;
    send_and_read(stage, ledger, 50).await;
}

async fn a_pause_stops_everything(stage: &Stage) {
    let path = format!("{CLUSTERS}/main");
    stage
        .kube
        .merge(&path, json!({"spec": {"paused": true}}))
        .await
        .unwrap();
    stage.wait("main", "Paused", "True").await;
    let service = "/api/v1/namespaces/default/services/main-query";
    stage.kube.delete(service, json!({})).await.unwrap();
    stage
        .kube
        .merge(
            &path,
            json!({"metadata": {"annotations": {"example.com/look": "paused"}}}),
        )
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        stage.kube.get(service).await.unwrap().is_none(),
        "it was made again under a pause"
    );
    stage
        .kube
        .merge(&path, json!({"spec": {"paused": null}}))
        .await
        .unwrap();
    stage.wait("main", "Ready", "True").await;
    assert!(stage.kube.get(service).await.unwrap().is_some());
    assert_eq!(
        condition(&stage.cluster("main").await, "Paused").0,
        "",
        "it is there only while it is true"
    );
}

async fn a_missing_secret_is_said(stage: &Stage) {
    let mut other = minimal("other", &stage.s3);
    other["spec"]["storage"]["credentials"]["secretRef"]["name"] = json!("later");
    stage.kube.apply(&other).await.unwrap();
    stage.wait("other", "StorageReady", "False").await;
    let (_, reason, message) = condition(&stage.cluster("other").await, "StorageReady");
    assert_eq!(reason, "SecretNotFound");
    assert!(
        message.contains("later") && message.contains("access_key_id"),
        "{message}"
    );
}

async fn a_pause_by_annotation_is_the_same(stage: &Stage) {
    let path = format!("{CLUSTERS}/main");
    let pause = |value: Value| json!({"metadata": {"annotations": {"tracing.vivace.dev/paused": value}}});
    stage.kube.merge(&path, pause(json!("true"))).await.unwrap();
    stage.wait("main", "Paused", "True").await;
    let status = stage.cluster("main").await;
    assert_eq!(status["status"]["phase"], "Paused");
    stage.kube.merge(&path, pause(Value::Null)).await.unwrap();
    stage
        .kube
        .until(LONG, "the end of the pause", async || {
            let found = stage.cluster("main").await;
            Ok(condition(&found, "Paused").0.is_empty() && condition(&found, "Ready").0 == "True")
        })
        .await
        .unwrap();
}

/// The Secret comes, with a wrong key at first; it is nobody's child and is watched. A node that has data already goes on
/// without its bucket, so that only one that begins is stopped by it.
async fn a_key_that_is_refused_is_said_and_mended(stage: &Stage) {
    let with_key = |key: &str| {
        let mut secret = secret();
        secret["metadata"]["name"] = json!("later");
        secret["stringData"]["access_key_secret"] = json!(key);
        secret
    };
    stage.kube.apply(&with_key("not the key")).await.unwrap();
    let said = stage
        .kube
        .until(LONG, "AccessDenied", async || {
            Ok(condition(&stage.cluster("other").await, "StorageReady").1 == "AccessDenied")
        })
        .await;
    let (_, _, message) = condition(&stage.cluster("other").await, "StorageReady");
    said.unwrap_or_else(|error| panic!("{error:#}: {message}"));
    assert!(message.contains("grant") || message.contains("correct"), "{message}");
    told(stage, "AccessDenied").await;
    stage.kube.apply(&with_key(SECRET_KEY)).await.unwrap();
    stage.wait("other", "Ready", "True").await;
}

async fn told(stage: &Stage, reason: &str) {
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    stage
        .kube
        .until(SHORT, &format!("the event {reason}"), async || {
            let events = stage.kube.items(events).await?;
            Ok(events
                .iter()
                .any(|event| event["reason"] == reason && event["type"] == "Warning"))
        })
        .await
        .unwrap();
}

async fn a_bucket_that_is_not_there_is_said(stage: &Stage) {
    let mut lost = minimal("lost", &stage.s3);
    lost["spec"]["storage"]["s3"]["bucket"] = json!("nowhere");
    // Somebody else holds it too; theirs is theirs.
    lost["metadata"]["finalizers"] = json!(["example.com/hold"]);
    stage.kube.apply(&lost).await.unwrap();
    stage
        .kube
        .until(LONG, "BucketNotFound", async || {
            Ok(condition(&stage.cluster("lost").await, "StorageReady").1 == "BucketNotFound")
        })
        .await
        .unwrap();
    let found = stage.cluster("lost").await;
    let (_, reason, message) = condition(&found, "Ready");
    assert_eq!(reason, "BucketNotFound");
    assert!(message.contains("create it"), "{message}");
    told(stage, "BucketNotFound").await;
    let path = format!("{CLUSTERS}/lost");
    stage.kube.delete(&path, json!({})).await.unwrap();
    stage
        .kube
        .until(LONG, "only the finalizer of others", async || {
            Ok(stage.cluster("lost").await["metadata"]["finalizers"] == json!(["example.com/hold"]))
        })
        .await
        .unwrap();
    let none = json!({"metadata": {"finalizers": null}});
    stage.kube.merge(&path, none).await.unwrap();
    stage
        .kube
        .until(LONG, "the end of the lost one", async || {
            Ok(stage.cluster("lost").await.is_null())
        })
        .await
        .unwrap();
}

async fn two_clusters_under_one_prefix_are_refused(stage: &Stage) {
    // A block of the first one, whether it has written any by now or not.
    let bucket = stage.s3.client().build().unwrap();
    let block = object_store::path::Path::from("default/main/blocks/of-the-first");
    bucket.put(&block, "spans".into()).await.unwrap();
    let mut second = minimal("second", &stage.s3);
    second["spec"]["storage"]["prefix"] = json!("default/main");
    stage.kube.apply(&second).await.unwrap();
    stage.wait("second", "Ready", "False").await;
    let found = stage.cluster("second").await;
    let (_, reason, message) = condition(&found, "Stalled");
    assert_eq!(reason, "PrefixOwnedByOther", "{found:#}");
    assert!(
        message.contains("default/main") && message.contains("another prefix"),
        "{message}"
    );
    told(stage, "PrefixOwnedByOther").await;
    // It has made nothing, and goes without a trace even with its bucket.
    assert!(stage.pod("second-node-0").await.is_null());
    let everything = json!({"spec": {"deletionPolicy": "DeleteAll"}});
    stage
        .kube
        .merge(&format!("{CLUSTERS}/second"), everything)
        .await
        .unwrap();
    stage
        .kube
        .delete(&format!("{CLUSTERS}/second"), json!({}))
        .await
        .unwrap();
    stage
        .kube
        .until(LONG, "the end of the second", async || {
            Ok(stage.cluster("second").await.is_null())
        })
        .await
        .unwrap();
    assert!(!blocks_of_main(stage).is_empty(), "the first one's blocks are gone");
}

async fn a_tenant_that_goes_with_its_spans_waits_for_them(stage: &Stage) {
    const TENANTS: &str = "/apis/tracing.vivace.dev/v1alpha1/namespaces/default/tracingtenants";
    let tenants = json!({"spec": {"auth": {"mode": "Header"}}});
    stage.kube.merge(&format!("{CLUSTERS}/other"), tenants).await.unwrap();
    let tenant = |name: &str, policy: &str| {
        json!({
            "apiVersion": "tracing.vivace.dev/v1alpha1", "kind": "TracingTenant", "metadata": {"name": name},
            "spec": {"clusterRef": {"name": "other"}, "deletionPolicy": policy, "retention": {"default": "2d"}},
        })
    };
    stage.kube.apply(&tenant("stays", "Retain")).await.unwrap();
    stage.kube.apply(&tenant("goes", "Delete")).await.unwrap();
    let get = async |name: &str| {
        stage
            .kube
            .get(&format!("{TENANTS}/{name}"))
            .await
            .unwrap()
            .unwrap_or_default()
    };
    stage
        .kube
        .until(LONG, "tenants that are synced", async || {
            let (stays, goes) = (get("stays").await, get("goes").await);
            let is_held = goes["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|held| !held.is_empty());
            Ok(condition(&stays, "Ready").0 == "True" && condition(&goes, "Ready").0 == "True" && is_held)
        })
        .await
        .unwrap();
    for name in ["stays", "goes"] {
        stage
            .kube
            .delete(&format!("{TENANTS}/{name}"), json!({}))
            .await
            .unwrap();
    }
    stage
        .kube
        .until(LONG, "the shortest retention for the one that goes", async || {
            let goes = get("goes").await;
            Ok(get("stays").await.is_null() && goes["status"]["effective"]["retention"] == "1h")
        })
        .await
        .unwrap();
    // Who changes their mind is let go at once.
    let kept = json!({"spec": {"deletionPolicy": "Retain"}});
    stage.kube.merge(&format!("{TENANTS}/goes"), kept).await.unwrap();
    stage
        .kube
        .until(LONG, "the tenant's end", async || Ok(get("goes").await.is_null()))
        .await
        .unwrap();
}

/// Kubernetes' own autoscaler reads and writes /scale. It asks for its least number of replicas before it has any metrics,
/// which is enough to see that the way is open.
async fn an_autoscaler_of_kubernetes_sets_the_number_of_nodes(stage: &Stage) {
    let mut scaled = minimal("scaled", &stage.s3);
    scaled["spec"]["size"] = json!("small");
    scaled["spec"]["autoscaling"] = json!({"mode": "External", "minReplicas": 3, "maxReplicas": 9});
    stage.kube.apply(&scaled).await.unwrap();
    stage
        .kube
        .until(LONG, "a number of replicas and a selector to begin with", async || {
            let found = stage.cluster("scaled").await;
            Ok(found["spec"]["replicas"] == 3 && !found["status"]["selector"].is_null())
        })
        .await
        .unwrap();
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "scaled"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "tracing.vivace.dev/v1alpha1", "kind": "TracingCluster", "name": "scaled"},
            "minReplicas": 5, "maxReplicas": 9,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 65}}}],
        },
    });
    stage.kube.apply(&autoscaler).await.unwrap();
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/scaled";
    let waited = stage
        .kube
        .until(LONG, "five replicas", async || {
            let found = stage.cluster("scaled").await;
            Ok(found["spec"]["replicas"] == 5 && found["status"]["effective"]["replicas"] == 5)
        })
        .await;
    if let Err(error) = waited {
        panic!(
            "{error:#}: {:#}",
            stage.kube.get(path).await.unwrap().unwrap_or_default()["status"]
        );
    }
    let found = stage.kube.get(path).await.unwrap().unwrap();
    assert_eq!(condition(&found, "AbleToScale").0, "True", "{found:#}");
    // The operator has seeded the number once and leaves it alone.
    stage.kube.delete(path, json!({})).await.unwrap();
    let everything = json!({"spec": {"deletionPolicy": "DeletePVCs"}});
    stage
        .kube
        .merge(&format!("{CLUSTERS}/scaled"), everything)
        .await
        .unwrap();
    stage
        .kube
        .delete(&format!("{CLUSTERS}/scaled"), json!({}))
        .await
        .unwrap();
    stage
        .kube
        .until(LONG, "the end of the scaled one", async || {
            Ok(stage.cluster("scaled").await.is_null())
        })
        .await
        .unwrap();
}

/// Names of what "main" has in the bucket.
fn blocks_of_main(stage: &Stage) -> Vec<String> {
    let objects = stage.s3.memory().objects(stage.s3.bucket(), "default/main/");
    objects.into_iter().map(|(name, _)| name).collect()
}

async fn what_goes_with_the_resource(stage: &Stage, ledger: &Ledger) {
    let claim = |name: &str| format!("/api/v1/namespaces/default/persistentvolumeclaims/data-{name}-node-0");
    // Volumes go with this one.
    stage
        .kube
        .merge(
            &format!("{CLUSTERS}/other"),
            json!({"spec": {"deletionPolicy": "DeletePVCs"}}),
        )
        .await
        .unwrap();
    stage
        .kube
        .delete(&format!("{CLUSTERS}/other"), json!({}))
        .await
        .unwrap();
    // And stay with this one.
    stage.kube.delete(&format!("{CLUSTERS}/main"), json!({})).await.unwrap();
    stage
        .kube
        .until(LONG, "both are gone with their pods", async || {
            let pods = stage.kube.items(PODS).await?;
            let others = stage.kube.items(CLUSTERS).await?;
            let claim = stage.kube.get(&claim("other")).await?;
            // The protection of claims in use is lifted by a controller; that it is asked to go is enough.
            let is_going = claim.is_none_or(|claim| !claim["metadata"]["deletionTimestamp"].is_null());
            Ok(pods.is_empty() && others.is_empty() && is_going)
        })
        .await
        .unwrap();
    let kept = stage.kube.get(&claim("main")).await.unwrap().unwrap();
    assert!(kept["metadata"]["deletionTimestamp"].is_null());
    // The same manifest takes up what was kept.
    stage.kube.apply(&minimal("main", &stage.s3)).await.unwrap();
    stage.wait("main", "Ready", "True").await;
    send_and_read(stage, ledger, 100).await;
}

#[test]
fn the_single_file_is_what_the_chart_makes() {
    let helm = match Tool::Helm.obtain() {
        Ok(helm) => helm,
        Err(reason) => return skipped("operator::install", &reason),
    };
    let output = std::process::Command::new(helm)
        .args([
            "template",
            "vivace-operator",
            ".",
            "-n",
            "tracing-system",
            "--kube-version",
            "1.36.0",
        ])
        .current_dir(charts())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = documents(&String::from_utf8(output.stdout).unwrap()).unwrap();
    let file = documents(&std::fs::read_to_string(charts().join("install.yaml")).unwrap()).unwrap();
    // The file makes its namespace first.
    assert_eq!(file[1..], made, "run `just install-yaml`");
    for object in &file {
        path_of(object).unwrap();
    }
}
