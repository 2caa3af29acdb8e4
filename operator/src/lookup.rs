//! What has to be read beside the resource and its pods: tenants, Secrets, other clusters.
//!
//! **Always holds:** a list that is not allowed for all namespaces is asked for in the resource's own; any other failure ends
//! the run, because what could not be read is not absent. Contents of Secrets leave here as hashes, or go into the client
//! that speaks with nodes, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use crds::cluster::observability::When;
use crds::cluster::storage::{CredentialsMode, StorageType};
use crds::{TracingCluster, TracingTenant};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use crate::admin::trust::Trust;
use crate::names;
use crate::objects::{Given, Served, tls_secret};
use crate::observed::{Memory, Observed};
use crate::rival;
use crate::tenants::{self, Candidate};
use crate::validate::{Cluster, Environment, Lookups};

/// What has to be read before a resource can be checked, and what is wrong with the credentials.
pub(crate) async fn look_up(
    client: &Client,
    resource: &TracingCluster,
) -> Result<(Lookups, Option<(&'static str, String)>), kube::Error> {
    let namespace = resource.namespace().unwrap_or_default();
    let tenants = Api::<TracingTenant>::all(client.clone());
    let own = Api::<TracingTenant>::namespaced(client.clone(), &namespace);
    let params = ListParams::default().fields(&format!("spec.clusterRef.name={}", resource.name_any()));
    // Where only some namespaces may be read, tenants of the others cannot count.
    let found = match tenants.list(&params).await {
        Err(kube::Error::Api(status)) if status.code == 403 => own.list(&params).await?,
        other => other?,
    };
    let mut candidates = Vec::new();
    for tenant in found.items {
        if !tenants::names(&tenant, &resource.name_any(), &namespace) {
            continue;
        }
        let of = tenant.namespace().unwrap_or_default();
        let namespace_labels = if of == namespace {
            Default::default()
        } else {
            let found = Api::<Namespace>::all(client.clone()).get_opt(&of).await?;
            found.map(|namespace| namespace.labels().clone()).unwrap_or_default()
        };
        candidates.push(Candidate {
            tenant,
            namespace_labels,
        });
    }
    let mut lookups = Lookups {
        candidates,
        rival: rival::rival(resource, &clusters(client, &namespace).await?),
        ..Lookups::default()
    };
    let mut trouble = None;
    let storage = &resource.spec.storage;
    if let Some(credentials) = storage
        .credentials
        .as_ref()
        .filter(|credentials| credentials.mode == CredentialsMode::Static)
        && let Some(reference) = &credentials.secret_ref
    {
        let secret = Api::<Secret>::namespaced(client.clone(), &namespace)
            .get_opt(&reference.name)
            .await?;
        let needed: &[&str] = match storage.r#type {
            StorageType::S3 => &["access_key_id", "access_key_secret"],
            StorageType::GCS => &["key.json"],
            StorageType::Azure => &["account_key"],
            StorageType::Filesystem => &[],
        };
        match secret {
            None => {
                let message = format!(
                    "there is no Secret {} in {namespace}: make it, with {}",
                    reference.name,
                    needed.join(" and ")
                );
                trouble = Some(("SecretNotFound", message));
            }
            Some(secret) => {
                let data = secret.data.unwrap_or_default();
                lookups.credentials_hash = Some(hash(&data));
                let keys: BTreeSet<String> = data.into_keys().collect();
                if let Some(key) = needed.iter().find(|key| !keys.contains(**key)) {
                    trouble = Some((
                        "SecretKeyMissing",
                        format!("Secret {} has no {key}: add it", reference.name),
                    ));
                }
                lookups.credential_keys = Some(keys);
            }
        }
    }
    Ok((lookups, trouble))
}

/// Every TracingCluster that can be seen.
async fn clusters(client: &Client, namespace: &str) -> Result<Vec<TracingCluster>, kube::Error> {
    let params = ListParams::default();
    let found = match Api::<TracingCluster>::all(client.clone()).list(&params).await {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            Api::namespaced(client.clone(), namespace).list(&params).await?
        }
        other => other?,
    };
    Ok(found.items)
}

fn hash(data: &BTreeMap<String, ByteString>) -> String {
    // Lengths stand between the parts, so that no two Secrets read the same.
    let parts = data.iter().flat_map(|(key, value)| {
        let lengths = [key.len(), value.0.len()].map(|length| u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
        [lengths.concat(), key.clone().into_bytes(), value.0.clone()]
    });
    let bytes: Vec<u8> = parts.flatten().collect();
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(&bytes))
}

/// Whom to believe among the nodes of a cluster, where they have certificates already.
pub(crate) async fn trust(client: &Client, cluster: &Cluster) -> Result<Option<Trust>, kube::Error> {
    if !cluster.has_certificates() {
        return Ok(None);
    }
    let secret = Api::<Secret>::namespaced(client.clone(), &cluster.namespace)
        .get_opt(&tls_secret(cluster))
        .await?;
    Ok(secret.as_ref().and_then(Trust::of))
}

/// Whether a cluster depends on what is in this Secret.
pub(crate) fn depends_on(cluster: &TracingCluster, secret: &str) -> bool {
    let spec = &cluster.spec;
    let name = cluster.name_any();
    let credentials = spec
        .storage
        .credentials
        .as_ref()
        .and_then(|credentials| credentials.secret_ref.as_ref());
    let written = credentials.map(|reference| &reference.name);
    let own = [names::ca(&name), names::peer_tls(&name)];
    written.is_some_and(|written| written == secret)
        || spec
            .tls
            .secret_ref
            .as_ref()
            .is_some_and(|reference| reference.name == secret)
        || spec.grafana.api.iter().any(|api| api.token_secret_ref.name == secret)
        || own.iter().any(|own| own == secret)
}

/// What the objects depend on beside the resource.
pub(crate) async fn given(
    client: &Client,
    cluster: &Cluster,
    observed: &Observed,
    served: &Served,
    environment: &Environment,
) -> Result<Given, kube::Error> {
    let memory: &Memory = &observed.memory;
    let mut pods = Vec::new();
    let mut templates = BTreeMap::new();
    for group in &cluster.groups {
        let set = names::set(&cluster.name, &group.name);
        let seen = observed.sets.get(&set);
        let wanted = memory.groups.get(&group.name).copied().unwrap_or_default();
        pods.push(crate::plan::applied_pods(wanted, seen.map(|set| set.replicas)));
        if let Some(bytes) = seen.and_then(|set| set.template_bytes) {
            let size = if bytes == cluster.volume_bytes {
                cluster.volume.0.clone()
            } else {
                bytes.to_string()
            };
            templates.insert(set, k8s_openapi::apimachinery::pkg::api::resource::Quantity(size));
        }
    }
    let sidecar = &cluster.spec.grafana.sidecar;
    let namespace = sidecar.namespace.as_deref().unwrap_or(&cluster.namespace);
    let label = ListParams::default()
        .labels(&format!("{},{}!={}", sidecar.label, names::MANAGED_BY, names::MANAGER))
        .limit(1);
    let has_sidecar_label = match sidecar.enabled {
        When::Auto => {
            let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace)
                .list_metadata(&label)
                .await;
            maps.is_ok_and(|maps| !maps.items.is_empty())
        }
        _ => false,
    };
    Ok(Given {
        pods,
        templates,
        served: served.clone(),
        has_sidecar_label,
        restarted_at: memory.restarted_at.clone(),
        operator_namespace: environment.namespace.clone(),
    })
}

#[cfg(test)]
mod tests {
    //! A resource and names in; which of them matter out.

    use super::*;

    #[test]
    fn a_cluster_depends_on_the_secrets_it_names_and_on_its_own() {
        let text = "{apiVersion: x, kind: y, metadata: {name: main, namespace: a}, spec: {storage: {type: S3, s3: {bucket: b}, \
                    credentials: {secretRef: {name: keys}}}, grafana: {api: [{url: 'http://g', tokenSecretRef: {name: token}}]}}}";
        let cluster: TracingCluster = serde_saphyr::from_str(text).unwrap();
        for (secret, wanted) in [
            ("keys", true),
            ("token", true),
            ("main-ca", true),
            ("main-peer-tls", true),
            ("other-ca", false),
            ("key", false),
        ] {
            assert_eq!(depends_on(&cluster, secret), wanted, "{secret}");
        }
    }

    #[test]
    fn secrets_that_differ_have_different_hashes() {
        let data = |pairs: &[(&str, &str)]| -> BTreeMap<String, ByteString> {
            let pairs = pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
            pairs.collect()
        };
        let hashes: BTreeSet<String> = [
            data(&[("a", "b")]),
            data(&[("ab", "")]),
            data(&[("", "ab")]),
            data(&[("a", ""), ("b", "")]),
            data(&[]),
        ]
        .iter()
        .map(hash)
        .collect();
        assert_eq!(hashes.len(), 5);
    }
}
