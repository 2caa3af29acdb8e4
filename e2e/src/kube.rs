//! A real Kubernetes for the operator, and a client for its API.
//!
//! [`control::ControlPlane`] is etcd, kube-apiserver and the controllers as plain processes. Pods are run in one of two ways.
//! [`kubelet::Kubelet`] starts our own binaries as processes: everything the operator speaks with is real, and no root,
//! container runtime or image is needed. [`machine::Machine`] is a Kubernetes node as it is anywhere: kubelet, containerd,
//! runc, CNI, kube-proxy and CoreDNS, in namespaces of their own; it needs root.

pub mod control;
pub mod kubelet;
pub mod machine;
pub mod volumes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::process::target_dir;
use crate::skip::Unavailable;

/// Environment variable: the `vivace-operator` binary to test.
pub const OPERATOR_BIN: &str = "VIVACE_OPERATOR_BIN";
/// The field manager of the tests, who are a person with kubectl.
const PERSON: &str = "person";

/// The operator that [`OPERATOR_BIN`] names, or the youngest build.
pub fn operator_bin() -> Result<PathBuf, Unavailable> {
    if let Some(named) = std::env::var_os(OPERATOR_BIN) {
        return Ok(PathBuf::from(named));
    }
    let builds = ["ci", "release", "debug"].map(|profile| target_dir().join(profile).join("vivace-operator"));
    let age = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).ok();
    let youngest = builds.into_iter().filter(|path| path.is_file()).max_by_key(age);
    youngest.ok_or_else(|| {
        Unavailable("no vivace-operator binary; build one with `cargo build --bin vivace-operator`".to_owned())
    })
}

/// A client with one token.
#[derive(Debug, Clone)]
pub struct Kube {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Kube {
    pub fn new(url: &str, token: &str, ca: &Path) -> anyhow::Result<Self> {
        let pem = std::fs::read(ca)?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)?;
        let http = reqwest::Client::builder()
            .tls_certs_only(certificates)
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()?;
        Ok(Self {
            http,
            url: url.to_owned(),
            token: token.to_owned(),
        })
    }

    /// Writes a kubeconfig for somebody with a token.
    pub fn kubeconfig(&self, dir: &Path, name: &str, token: &str, ca: &Path) -> anyhow::Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": self.url, "certificate-authority": ca}}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        let path = dir.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// One request, as it is.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<String>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", content_type).body(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    async fn done(&self, method: Method, path: &str, content_type: &str, body: Value) -> anyhow::Result<Value> {
        let (status, answer) = self
            .call(method.clone(), path, content_type, Some(body.to_string()))
            .await?;
        if !status.is_success() {
            bail!(
                "{method} {path}: {status}: {}",
                answer["message"].as_str().unwrap_or_default()
            );
        }
        Ok(answer)
    }

    /// An object or a list; `None` where there is none.
    pub async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let (status, answer) = self.call(Method::GET, path, "application/json", None).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            status => bail!("GET {path}: {status}: {answer}"),
        }
    }

    /// The objects of a list.
    pub async fn items(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.get(path).await?.with_context(|| format!("no such list: {path}"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Applies as kubectl does with --server-side.
    pub async fn apply(&self, object: &Value) -> anyhow::Result<Value> {
        let path = format!("{}?fieldManager={PERSON}&force=true", path_of(object)?);
        self.done(Method::PATCH, &path, "application/apply-patch+yaml", object.clone())
            .await
    }

    /// Whether it would be taken: nothing is stored.
    pub async fn dry_run(&self, object: &Value) -> anyhow::Result<Value> {
        let path = format!("{}?fieldManager={PERSON}&force=true&dryRun=All", path_of(object)?);
        self.done(Method::PATCH, &path, "application/apply-patch+yaml", object.clone())
            .await
    }

    pub async fn create(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.done(Method::POST, path, "application/json", body).await
    }

    pub async fn merge(&self, path: &str, patch: Value) -> anyhow::Result<Value> {
        let path = format!("{path}?fieldManager={PERSON}");
        self.done(Method::PATCH, &path, "application/merge-patch+json", patch)
            .await
    }

    pub async fn delete(&self, path: &str, options: Value) -> anyhow::Result<()> {
        let (status, answer) = self
            .call(Method::DELETE, path, "application/json", Some(options.to_string()))
            .await?;
        if !status.is_success() && status != StatusCode::NOT_FOUND {
            bail!("DELETE {path}: {status}: {answer}");
        }
        Ok(())
    }

    /// A token of a service account, as a pod of it would have.
    pub async fn token(&self, namespace: &str, account: &str) -> anyhow::Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}});
        let answer = self.create(&path, body).await?;
        Ok(answer["status"]["token"]
            .as_str()
            .context("a token request without a token")?
            .to_owned())
    }

    /// Waits until something holds, looking often.
    pub async fn until(
        &self,
        within: Duration,
        what: &str,
        mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let held = holds().await;
            if matches!(held, Ok(true)) {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                held.with_context(|| format!("waiting for {what}"))?;
                bail!("no {what} within {within:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The chart's folder.
pub fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/vivace")
}

/// Status, reason and message of a condition; empty where there is none.
pub fn condition(object: &Value, kind: &str) -> (String, String, String) {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions
        .find(|condition| condition["type"] == kind)
        .cloned()
        .unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// Path of an object, from its kind.
pub fn path_of(object: &Value) -> anyhow::Result<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let api_version = text(&object["apiVersion"]).context("an object without apiVersion")?;
    let kind = text(&object["kind"]).context("an object without kind")?;
    let name = text(&object["metadata"]["name"]).context("an object without a name")?;
    let lower = kind.to_lowercase();
    let plural = match lower.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if lower.ends_with('s') => format!("{lower}es"),
        None => format!("{lower}s"),
    };
    let root = if api_version.contains('/') { "apis" } else { "api" };
    let unscoped = [
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "Namespace",
        "StorageClass",
        "PersistentVolume",
        "Node",
    ];
    let space = if unscoped.contains(&kind.as_str()) {
        String::new()
    } else {
        format!(
            "/namespaces/{}",
            text(&object["metadata"]["namespace"]).unwrap_or_else(|| "default".to_owned())
        )
    };
    Ok(format!("/{root}/{api_version}{space}/{plural}/{name}"))
}

/// The documents of a YAML file.
pub fn documents(yaml: &str) -> anyhow::Result<Vec<Value>> {
    let parts = yaml.split("\n---").map(|part| part.trim_start_matches("---").trim());
    let mut found = Vec::new();
    for part in parts {
        if part
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            continue;
        }
        found.push(
            serde_saphyr::from_str(part)
                .with_context(|| format!("not YAML: {}", part.lines().next().unwrap_or_default()))?,
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    //! Objects in, paths out; text in, documents out.

    use super::*;

    #[test]
    fn paths_follow_from_kinds() {
        for (object, path) in [
            (
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b"}}),
                "/api/v1/namespaces/b/services/a",
            ),
            (
                json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "a"}}),
                "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/a",
            ),
            (
                json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "a"}}),
                "/apis/storage.k8s.io/v1/storageclasses/a",
            ),
        ] {
            assert_eq!(path_of(&object).unwrap(), path);
        }
        assert_eq!(
            documents("# a\n---\n---\na: 1\n---\nb: 2\n").unwrap(),
            [json!({"a": 1}), json!({"b": 2})]
        );
    }
}
