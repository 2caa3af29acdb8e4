//! The data sources that Grafana shall have, and the two ways of telling it through objects.
//!
//! Owns [`Datasource`], which the third way (Grafana's HTTP API) uses too. **Always holds:** a data source has the same uid
//! whichever way it goes, so that dashboards survive a change of way; a tenant's header is never written inline but taken
//! from a Secret.
//! Facts: keys of jsonData are those of Grafana's page on provisioning the Tempo data source; in a GrafanaDatasource
//! `instanceSelector` and `uid` cannot be changed and `allowCrossNamespaceImport` cannot be taken back, so these three are
//! in an annotation that makes the object be replaced (see apply).

use std::collections::BTreeMap;

use crds::cluster::grafana::{Correlations, DashboardsMode, SidecarKind};
use crds::cluster::observability::When;
use crds::cluster::security::AuthMode;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::{DynamicObject, ObjectMeta};
use serde_json::{Map, Value, json};

use super::{Given, Served, dashboard, dynamic, metadata, owner, wanted};
use crate::names;
use crate::validate::Cluster;

/// A change of this annotation means: delete and make anew.
pub const IMMUTABLE: &str = "tracing.vivace.dev/immutable";

/// One data source.
#[derive(Debug, Clone, PartialEq)]
pub struct Datasource {
    /// The tenant whose spans it shows; none where there is only one.
    pub tenant: Option<String>,
    pub uid: String,
    pub name: String,
    pub url: String,
    pub is_default: bool,
    pub editable: bool,
    pub json_data: Map<String, Value>,
}

impl Datasource {
    /// Name of its object, and key of its header in our Secret.
    pub fn key(&self) -> String {
        self.uid.clone()
    }
}

/// The uid of a data source where nothing is written: the same for the same cluster and tenant, for ever.
pub fn uid(namespace: &str, cluster: &str, tenant: Option<&str>) -> String {
    let text = format!("{namespace}/{cluster}/{}", tenant.unwrap_or("*"));
    format!("trc-{:032x}", twox_hash::XxHash3_128::oneshot(text.as_bytes()))
}

/// Every data source that is wanted: one, or one per tenant where tenants are told apart.
pub fn datasources(cluster: &Cluster) -> Vec<Datasource> {
    let wanted = &cluster.spec.grafana.datasource;
    let url = format!(
        "http://{}.{}.svc:{}",
        names::query(&cluster.name),
        cluster.namespace,
        names::QUERY
    );
    let name = wanted
        .name
        .clone()
        .unwrap_or_else(|| format!("{}/{}", cluster.namespace, cluster.name));
    let make = |tenant: Option<&str>, name: String, correlations: &Correlations| {
        let uid = match (&wanted.uid, tenant) {
            (Some(uid), None) => uid.clone(),
            (_, tenant) => uid(&cluster.namespace, &cluster.name, tenant),
        };
        Datasource {
            uid,
            name,
            url: url.clone(),
            is_default: wanted.is_default && tenant.is_none(),
            editable: wanted.editable,
            json_data: json_data(correlations, &wanted.json_data, tenant.is_some()),
            tenant: tenant.map(str::to_owned),
        }
    };
    let correlations = &cluster.spec.grafana.correlations;
    if cluster.spec.auth.mode == AuthMode::None || !wanted.per_tenant {
        return vec![make(None, name, correlations)];
    }
    let verdicts = cluster.tenants.verdicts.iter();
    verdicts
        .filter(|verdict| verdict.outcome.is_ok() && !verdict.is_leaving && verdict.grafana.enabled)
        .map(|verdict| {
            let shown = verdict.display_name.as_deref().unwrap_or(&verdict.tenant_id);
            let name = verdict
                .grafana
                .name
                .clone()
                .unwrap_or_else(|| format!("{name}: {shown}"));
            let correlations = both(&verdict.grafana.correlations, correlations);
            make(Some(&verdict.tenant_id), name, &correlations)
        })
        .collect()
}

/// The tenant's correlations, with the cluster's where it names none.
fn both(own: &Correlations, cluster: &Correlations) -> Correlations {
    let pick = |own: &Option<String>, cluster: &Option<String>| own.clone().or_else(|| cluster.clone());
    Correlations {
        logs_datasource_uid: pick(&own.logs_datasource_uid, &cluster.logs_datasource_uid),
        metrics_datasource_uid: pick(&own.metrics_datasource_uid, &cluster.metrics_datasource_uid),
        profiles_datasource_uid: pick(&own.profiles_datasource_uid, &cluster.profiles_datasource_uid),
        service_map_datasource_uid: pick(&own.service_map_datasource_uid, &cluster.service_map_datasource_uid),
    }
}

fn json_data(correlations: &Correlations, overlay: &Map<String, Value>, has_header: bool) -> Map<String, Value> {
    let mut data = json!({
        "nodeGraph": {"enabled": true},
        "streamingEnabled": {"search": true, "metrics": true},
        "traceQuery": {"timeShiftEnabled": true, "spanStartTimeShift": "-30m", "spanEndTimeShift": "30m"},
    });
    let service = json!([{"key": "service.name", "value": "service_name"}]);
    if let Some(uid) = &correlations.logs_datasource_uid {
        data["tracesToLogsV2"] = json!({
            "datasourceUid": uid,
            "spanStartTimeShift": "-5m",
            "spanEndTimeShift": "5m",
            "tags": service,
            "filterByTraceID": true,
            "filterBySpanID": false,
        });
    }
    if let Some(uid) = &correlations.metrics_datasource_uid {
        data["tracesToMetrics"] = json!({
            "datasourceUid": uid,
            "spanStartTimeShift": "-5m",
            "spanEndTimeShift": "5m",
            "tags": service,
            "queries": [
                {"name": "Request rate", "query": "sum(rate(traces_spanmetrics_calls_total{$$__tags}[5m]))"},
                {
                    "name": "Failed requests",
                    "query": "sum(rate(traces_spanmetrics_calls_total{$$__tags,status_code=\"STATUS_CODE_ERROR\"}[5m]))",
                },
                {
                    "name": "Latency, 95th percentile",
                    "query": "histogram_quantile(0.95, sum by (le) (rate(traces_spanmetrics_latency_bucket{$$__tags}[5m])))",
                },
            ],
        });
    }
    if let Some(uid) = &correlations.profiles_datasource_uid {
        data["tracesToProfiles"] = json!({
            "datasourceUid": uid,
            "tags": service,
            "profileTypeId": "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
        });
    }
    let map = correlations.service_map_datasource_uid.as_ref();
    if let Some(uid) = map.or(correlations.metrics_datasource_uid.as_ref()) {
        data["serviceMap"] = json!({"datasourceUid": uid});
    }
    if has_header {
        data["httpHeaderName1"] = json!("X-Scope-OrgID");
    }
    let Value::Object(mut data) = data else {
        unreachable!("it was written as an object above");
    };
    data.extend(overlay.clone());
    data
}

/// Secret with the tenants' headers, by uid; none where there are no tenants.
pub(super) fn headers(cluster: &Cluster, datasources: &[Datasource]) -> Option<Secret> {
    let data: BTreeMap<String, ByteString> = datasources
        .iter()
        .filter_map(|source| Some((source.key(), ByteString(source.tenant.clone()?.into_bytes()))))
        .collect();
    (!data.is_empty()).then(|| Secret {
        metadata: metadata(cluster, headers_name(cluster)),
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}

fn headers_name(cluster: &Cluster) -> String {
    format!("{}-grafana", cluster.name)
}

/// Objects for grafana-operator and for the sidecar. Secrets of the sidecar come back by themselves.
pub(super) fn build(
    cluster: &Cluster,
    datasources: &[Datasource],
    given: &Given,
    foreign: &mut Vec<DynamicObject>,
    missing: &mut Vec<&'static str>,
) -> (Vec<Secret>, Vec<ConfigMap>) {
    let mut secrets: Vec<Secret> = Vec::new();
    let mut config_maps = Vec::new();
    let by_operator = wanted(
        cluster.spec.grafana.operator.enabled,
        Served::GRAFANA_DATASOURCE,
        &given.served,
        missing,
    );
    if by_operator {
        secrets.extend(headers(cluster, datasources));
        foreign.extend(datasources.iter().map(|source| grafana_datasource(cluster, source)));
    }
    let sidecar = &cluster.spec.grafana.sidecar;
    let by_sidecar = match sidecar.enabled {
        When::Always => true,
        When::Never => false,
        When::Auto => given.has_sidecar_label,
    };
    if by_sidecar && !datasources.is_empty() {
        let metadata = sidecar_metadata(
            cluster,
            format!("{}-{}-datasources", cluster.namespace, cluster.name),
            [(sidecar.label.clone(), sidecar.label_value.clone())].into(),
        );
        let key = format!("{}-{}.yaml", cluster.namespace, cluster.name);
        let file = provisioning(datasources);
        match sidecar.kind {
            SidecarKind::Secret => secrets.push(Secret {
                metadata,
                type_: Some("Opaque".to_owned()),
                data: Some([(key, ByteString(file.into_bytes()))].into()),
                ..Secret::default()
            }),
            SidecarKind::ConfigMap => config_maps.push(ConfigMap {
                metadata,
                data: Some([(key, file)].into()),
                ..ConfigMap::default()
            }),
        }
    }
    let dashboards = &cluster.spec.grafana.dashboards;
    let by_operator = match dashboards.mode {
        DashboardsMode::Disabled | DashboardsMode::ConfigMap => false,
        DashboardsMode::Auto => given.served.has(Served::GRAFANA_DASHBOARD),
        DashboardsMode::GrafanaDashboard => wanted(When::Always, Served::GRAFANA_DASHBOARD, &given.served, missing),
    };
    let by_sidecar = match dashboards.mode {
        DashboardsMode::Disabled | DashboardsMode::GrafanaDashboard => false,
        DashboardsMode::Auto => given.has_sidecar_label && !by_operator,
        DashboardsMode::ConfigMap => true,
    };
    if by_operator {
        let mut metadata = metadata(cluster, &cluster.name);
        metadata
            .labels
            .get_or_insert_default()
            .extend(dashboards.labels.clone());
        let mut spec = operator_spec(cluster);
        spec["json"] = json!(dashboard::json(cluster));
        spec["folder"] = json!(dashboards.folder);
        foreign.push(immutable(dynamic(Served::GRAFANA_DASHBOARD, metadata, spec)));
    }
    if by_sidecar {
        let mut labels = dashboards.labels.clone();
        labels.insert("grafana_dashboard".to_owned(), "1".to_owned());
        let mut metadata = sidecar_metadata(
            cluster,
            format!("{}-{}-dashboards", cluster.namespace, cluster.name),
            labels,
        );
        metadata.annotations = Some([("grafana_folder".to_owned(), dashboards.folder.clone())].into());
        config_maps.push(ConfigMap {
            metadata,
            data: Some(
                [(
                    format!("{}-{}.json", cluster.namespace, cluster.name),
                    dashboard::json(cluster),
                )]
                .into(),
            ),
            ..ConfigMap::default()
        });
    }
    (secrets, config_maps)
}

/// What GrafanaDatasource and GrafanaDashboard have in common.
fn operator_spec(cluster: &Cluster) -> Value {
    let wanted = &cluster.spec.grafana.operator;
    let selector = match &wanted.instance_selector {
        Some(selector) => json!(selector),
        None => json!({"matchLabels": {"dashboards": "grafana"}}),
    };
    // Its pattern knows no days.
    let resync = wanted.resync_period.duration().unwrap_or_default().as_secs().max(10);
    json!({
        "instanceSelector": selector,
        "allowCrossNamespaceImport": wanted.allow_cross_namespace_import,
        "resyncPeriod": format!("{resync}s"),
    })
}

fn grafana_datasource(cluster: &Cluster, source: &Datasource) -> DynamicObject {
    let mut spec = operator_spec(cluster);
    spec["uid"] = json!(source.uid);
    spec["datasource"] = json!({
        "name": source.name,
        "type": "tempo",
        "access": "proxy",
        "url": source.url,
        "isDefault": source.is_default,
        "jsonData": source.json_data,
    });
    if source.tenant.is_some() {
        spec["datasource"]["secureJsonData"] = json!({"httpHeaderValue1": format!("${{{}}}", source.key())});
        spec["valuesFrom"] = json!([{
            "targetPath": "secureJsonData.httpHeaderValue1",
            "valueFrom": {"secretKeyRef": {"name": headers_name(cluster), "key": source.key()}},
        }]);
    }
    let mut metadata = metadata(cluster, source.key());
    if let Some(tenant) = source.tenant.as_ref().filter(|tenant| tenant.len() <= 63) {
        metadata
            .labels
            .get_or_insert_default()
            .insert(names::TENANT.to_owned(), tenant.clone());
    }
    immutable(dynamic(Served::GRAFANA_DATASOURCE, metadata, spec))
}

/// Notes what cannot be changed in place, so that a change is seen as one.
fn immutable(mut object: DynamicObject) -> DynamicObject {
    let spec = &object.data["spec"];
    let fixed = json!([spec["instanceSelector"], spec["allowCrossNamespaceImport"], spec["uid"]]);
    let hash = format!("{:016x}", twox_hash::XxHash3_64::oneshot(fixed.to_string().as_bytes()));
    object
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(IMMUTABLE.to_owned(), hash);
    object
}

/// Metadata of an object for the sidecar, which may live in another namespace: there it has no owner, and goes by label.
fn sidecar_metadata(cluster: &Cluster, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    let namespace = cluster
        .spec
        .grafana
        .sidecar
        .namespace
        .clone()
        .unwrap_or_else(|| cluster.namespace.clone());
    let mut all = names::labels(&cluster.name);
    all.insert("tracing.vivace.dev/namespace".to_owned(), cluster.namespace.clone());
    all.extend(labels);
    ObjectMeta {
        name: Some(name),
        owner_references: (namespace == cluster.namespace).then(|| vec![owner(cluster)]),
        namespace: Some(namespace),
        labels: Some(all),
        ..ObjectMeta::default()
    }
}

/// Grafana's provisioning file. What was in it and is no longer is removed from Grafana with it.
fn provisioning(datasources: &[Datasource]) -> String {
    let sources: Vec<Value> = datasources
        .iter()
        .map(|source| {
            let mut entry = json!({
                "name": source.name,
                "uid": source.uid,
                "type": "tempo",
                "access": "proxy",
                "url": source.url,
                "isDefault": source.is_default,
                "editable": source.editable,
                "jsonData": source.json_data,
            });
            if let Some(tenant) = &source.tenant {
                entry["secureJsonData"] = json!({"httpHeaderValue1": tenant});
            }
            entry
        })
        .collect();
    let file = json!({"apiVersion": 1, "prune": true, "datasources": sources});
    serde_saphyr::to_string(&file).expect("a provisioning file is plain data")
}
