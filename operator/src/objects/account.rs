//! The account the nodes run as, with what a cloud needs to see on it.

use std::collections::BTreeMap;

use crds::cluster::storage::{CredentialsMode, StorageType};
use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata;
use crate::validate::Cluster;

/// Name of the account: what is written, or the cluster's.
pub(super) fn name(cluster: &Cluster) -> String {
    let written = cluster.spec.service_account.name.clone();
    written.unwrap_or_else(|| cluster.name.clone())
}

pub(super) fn build(cluster: &Cluster) -> Option<ServiceAccount> {
    let wanted = &cluster.spec.service_account;
    if !wanted.create {
        return None;
    }
    let mut annotations = identity(cluster);
    annotations.extend(wanted.annotations.clone());
    let mut metadata = metadata(cluster, name(cluster));
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    Some(ServiceAccount {
        metadata,
        // A node does not speak with the API server; the token for a cloud is a volume of its own.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    })
}

/// What a cloud needs to see on the account.
fn identity(cluster: &Cluster) -> BTreeMap<String, String> {
    let storage = &cluster.spec.storage;
    let Some(credentials) = storage.credentials.as_ref() else {
        return BTreeMap::new();
    };
    if credentials.mode != CredentialsMode::WorkloadIdentity {
        return BTreeMap::new();
    }
    let annotation = match storage.r#type {
        StorageType::S3 => ("eks.amazonaws.com/role-arn", &credentials.role_arn),
        StorageType::GCS => ("iam.gke.io/gcp-service-account", &credentials.gcp_service_account),
        StorageType::Azure => ("azure.workload.identity/client-id", &credentials.azure_client_id),
        StorageType::Filesystem => return BTreeMap::new(),
    };
    let (key, Some(value)) = annotation else {
        return BTreeMap::new();
    };
    [(key.to_owned(), value.clone())].into()
}
