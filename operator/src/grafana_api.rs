//! The third way to Grafana: its own HTTP API, idempotent by uid.
//!
//! **Always holds:** only fields that are ours are compared and written; a data source that carries another cluster's mark is
//! left alone; a tenant's header and the token are read when they are needed and never kept. A Grafana that does not answer
//! stops nothing else: its state says so.

use crds::cluster::grafana::GrafanaApi;
use crds::cluster::status::DatasourceStatus;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::Api;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::objects::grafana::Datasource;
use crate::validate::Cluster;

/// Key in jsonData that says whose data source it is.
const OWNER: &str = "vivaceCluster";

/// Why a Grafana could not be told; the text ends with what to do.
type Trouble = String;

/// Makes every Grafana as it is wanted, and says how each data source fares.
pub async fn sync(
    client: &Client,
    http: &reqwest::Client,
    cluster: &Cluster,
    datasources: &[Datasource],
) -> Vec<DatasourceStatus> {
    let mut told = Vec::new();
    for grafana in &cluster.spec.grafana.api {
        let opened = open(client, http, cluster, grafana).await;
        for source in datasources {
            let result = match &opened {
                Ok(session) => session.put(source).await,
                Err(trouble) => Err(trouble.clone()),
            };
            told.push(DatasourceStatus {
                target: grafana.url.clone(),
                tenant: source.tenant.clone().unwrap_or_else(|| "*".to_owned()),
                uid: source.uid.clone(),
                state: if result.is_ok() { "Synced" } else { "Failed" }.to_owned(),
                message: result.err(),
            });
        }
        if let Ok(session) = &opened
            && let Err(trouble) = session.prune(datasources).await
        {
            tracing::warn!(trouble, "old data sources could not be removed");
        }
    }
    told
}

async fn open(
    client: &Client,
    http: &reqwest::Client,
    cluster: &Cluster,
    grafana: &GrafanaApi,
) -> Result<Session, Trouble> {
    let reference = &grafana.token_secret_ref;
    let secrets = Api::<Secret>::namespaced(client.clone(), &cluster.namespace);
    let secret = secrets
        .get_opt(&reference.name)
        .await
        .map_err(|error| error.to_string())?;
    let token = secret.and_then(|secret| secret.data?.remove(&reference.key));
    let token = token.and_then(|token| String::from_utf8(token.0).ok()).ok_or_else(|| {
        format!(
            "Secret {} has no {}: put a token of a Grafana service account there",
            reference.name, reference.key
        )
    })?;
    let http = match &grafana.ca_config_map_ref {
        None => http.clone(),
        Some(reference) => {
            let maps = Api::<ConfigMap>::namespaced(client.clone(), &cluster.namespace);
            let map = maps.get_opt(&reference.name).await.map_err(|error| error.to_string())?;
            let pem = map.and_then(|map| map.data?.remove(&reference.key));
            let pem = pem.ok_or_else(|| {
                format!(
                    "ConfigMap {} has no {}: put Grafana's CA there",
                    reference.name, reference.key
                )
            })?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| error.to_string())?;
            reqwest::Client::builder()
                .timeout(crate::admin::TIMEOUT)
                .tls_certs_merge(certificates)
                .build()
                .map_err(|error| error.to_string())?
        }
    };
    Ok(Session {
        http,
        url: grafana.url.trim_end_matches('/').to_owned(),
        token: token.trim().to_owned(),
        organisation: grafana.org_id,
        owner: format!("{}/{}", cluster.namespace, cluster.name),
    })
}

struct Session {
    http: reqwest::Client,
    url: String,
    token: String,
    organisation: Option<i32>,
    owner: String,
}

impl Session {
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Value), Trouble> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token);
        if let Some(organisation) = self.organisation {
            request = request.header("X-Grafana-Org-Id", organisation);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable =
            |error: reqwest::Error| format!("{} does not answer: {}; check the URL", self.url, error.without_url());
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unreachable)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    fn refused(&self, status: StatusCode, body: &Value) -> Trouble {
        let said = body["message"].as_str().unwrap_or_default();
        match status {
            StatusCode::UNAUTHORIZED => format!("{} does not take the token: {said}; make a new one", self.url),
            StatusCode::FORBIDDEN => format!(
                "{} forbids it: {said}; the data source is provisioned by somebody else, or the token may not write data sources",
                self.url
            ),
            _ => format!("{} answers {status}: {said}", self.url),
        }
    }

    async fn put(&self, source: &Datasource) -> Result<(), Trouble> {
        let wanted = self.wanted(source);
        let path = format!("/api/datasources/uid/{}", source.uid);
        let (status, found) = self.ask(Method::GET, &path, None).await?;
        let (status, body) = if status == StatusCode::NOT_FOUND {
            self.ask(Method::POST, "/api/datasources", Some(&wanted)).await?
        } else if !status.is_success() {
            (status, found)
        } else if is_same(&wanted, &found) {
            return Ok(());
        } else {
            self.ask(Method::PUT, &path, Some(&wanted)).await?
        };
        if status.is_success() {
            Ok(())
        } else {
            Err(self.refused(status, &body))
        }
    }

    fn wanted(&self, source: &Datasource) -> Value {
        let mut data = Value::Object(source.json_data.clone());
        data[OWNER] = json!(self.owner);
        let mut wanted = json!({
            "uid": source.uid,
            "name": source.name,
            "type": "tempo",
            "access": "proxy",
            "url": source.url,
            "isDefault": source.is_default,
            "jsonData": data,
        });
        if let Some(tenant) = &source.tenant {
            wanted["secureJsonData"] = json!({"httpHeaderValue1": tenant});
        }
        wanted
    }

    /// Removes data sources with our mark that are not wanted any more.
    async fn prune(&self, datasources: &[Datasource]) -> Result<(), Trouble> {
        let (status, found) = self.ask(Method::GET, "/api/datasources", None).await?;
        if !status.is_success() {
            return Err(self.refused(status, &found));
        }
        for entry in found.as_array().into_iter().flatten() {
            let uid = entry["uid"].as_str().unwrap_or_default();
            let is_ours = entry["jsonData"][OWNER].as_str() == Some(&self.owner);
            if is_ours && !datasources.iter().any(|source| source.uid == uid) {
                self.ask(Method::DELETE, &format!("/api/datasources/uid/{uid}"), None)
                    .await?;
            }
        }
        Ok(())
    }
}

/// Whether Grafana has what we wrote. Secrets cannot be read back; that they are there is all that can be seen.
fn is_same(wanted: &Value, found: &Value) -> bool {
    let plain = ["uid", "name", "type", "access", "url", "isDefault", "jsonData"];
    let has_secret = wanted["secureJsonData"].is_null() || found["secureJsonFields"]["httpHeaderValue1"] == json!(true);
    has_secret && plain.iter().all(|key| wanted[key] == found[key])
}
