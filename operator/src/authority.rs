//! The cluster's own CA and the certificate its nodes show: made, renewed and changed, in two Secrets.
//!
//! When is decided elsewhere (`plan::rotate`, [`crate::certificates`]). **Always holds:** a key never leaves its Secret; what
//! nodes shall believe (`ca.crt` beside their certificate) has the CA before the present one in it until everybody shows a
//! certificate of the present one. Times stand in annotations, so that no certificate has to be read back.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::cluster::security::TlsMode;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::admin::trust_hash;
use crate::certificates::{CertificateState, CertificateStep, is_ca_due, is_leaf_due};
use crate::names;
use crate::objects::{dns_names, owner};
use crate::validate::Cluster;

const NOT_BEFORE: &str = "tracing.vivace.dev/not-before";
const NOT_AFTER: &str = "tracing.vivace.dev/not-after";
/// Hash of the CA that signed it.
const SIGNED_BY: &str = "tracing.vivace.dev/signed-by";
/// Value of the annotation that asked for the CA.
const RENEWED_FOR: &str = "tracing.vivace.dev/renewed-for";
/// Certificates are good a little before now: clocks differ.
const EARLY: Duration = Duration::from_secs(300);

/// Why certificates could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("Secret {name} has no {key}: delete it, and the operator makes another CA")]
    Incomplete { name: String, key: &'static str },
}

/// What there is, after making what is missing and renewing the nodes' certificate when it is due. None of it disturbs a
/// node: certificates are taken up without a restart.
pub async fn keep(client: &Client, cluster: &Cluster, now: Timestamp) -> Result<CertificateState, AuthorityError> {
    if !cluster.has_certificates() || cluster.spec.tls.mode != TlsMode::SelfSigned {
        return Ok(CertificateState::default());
    }
    let api = Api::<Secret>::namespaced(client.clone(), &cluster.namespace);
    let ca = match api.get_opt(&names::ca(&cluster.name)).await? {
        Some(ca) => ca,
        None => api.create(&PostParams::default(), &new_ca(cluster, None, now)?).await?,
    };
    let leaf = match api.get_opt(&names::peer_tls(&cluster.name)).await? {
        Some(leaf) => leaf,
        None => {
            api.create(&PostParams::default(), &new_leaf(cluster, &ca, now)?)
                .await?
        }
    };
    let renew_before = cluster.spec.tls.renew_before.duration().unwrap_or_default();
    let is_rotating = text(&ca, "previous.crt").is_some();
    let leaf = match time(&leaf, NOT_AFTER) {
        Some(end) if !is_rotating && is_leaf_due(end, renew_before, now) => {
            replace(&api, &leaf, new_leaf(cluster, &ca, now)?).await?
        }
        _ => leaf,
    };
    Ok(state(cluster, &ca, &leaf, now))
}

fn state(cluster: &Cluster, ca: &Secret, leaf: &Secret, now: Timestamp) -> CertificateState {
    let (begin, end) = (time(ca, NOT_BEFORE), time(ca, NOT_AFTER));
    let is_old = matches!((begin, end), (Some(begin), Some(end)) if is_ca_due(begin, end, now));
    let asked = cluster
        .annotations
        .get(names::RENEW_CA)
        .filter(|value| !value.is_empty());
    let is_asked = asked.is_some_and(|asked| ca.annotations().get(RENEWED_FOR) != Some(asked));
    CertificateState {
        ca_not_after: end,
        leaf_not_after: time(leaf, NOT_AFTER),
        is_ca_due: is_old || is_asked,
        has_previous: text(ca, "previous.crt").is_some(),
        is_leaf_of_current: leaf.annotations().get(SIGNED_BY)
            == text(ca, "ca.crt").map(|pem| trust_hash(&pem)).as_ref(),
        bundle_hash: trust_hash(&text(leaf, "ca.crt").unwrap_or_default()),
        leaf_hash: trust_hash(&text(leaf, "tls.crt").unwrap_or_default()),
    }
}

/// Takes one step in changing the CA.
pub async fn step(
    client: &Client,
    cluster: &Cluster,
    step: CertificateStep,
    now: Timestamp,
) -> Result<(), AuthorityError> {
    let api = Api::<Secret>::namespaced(client.clone(), &cluster.namespace);
    let mut ca = api.get(&names::ca(&cluster.name)).await?;
    let leaf = api.get(&names::peer_tls(&cluster.name)).await?;
    match step {
        CertificateStep::NewCa => {
            let previous = text(&ca, "ca.crt");
            let ca = replace(&api, &ca, new_ca(cluster, previous, now)?).await?;
            believe(&api, leaf, &ca).await?;
        }
        CertificateStep::NewLeaf => {
            replace(&api, &leaf, new_leaf(cluster, &ca, now)?).await?;
        }
        CertificateStep::ForgetPrevious => {
            ca.data.get_or_insert_default().remove("previous.crt");
            let ca = api.replace(&ca.name_any(), &PostParams::default(), &ca).await?;
            believe(&api, leaf, &ca).await?;
        }
    }
    Ok(())
}

/// Puts what is to be believed beside the nodes' certificate.
async fn believe(api: &Api<Secret>, mut leaf: Secret, ca: &Secret) -> Result<(), AuthorityError> {
    let bundle = ByteString(bundle(ca).into_bytes());
    leaf.data.get_or_insert_default().insert("ca.crt".to_owned(), bundle);
    api.replace(&leaf.name_any(), &PostParams::default(), &leaf).await?;
    Ok(())
}

/// Replaces a Secret if it is still the one that was read.
async fn replace(api: &Api<Secret>, old: &Secret, mut new: Secret) -> Result<Secret, AuthorityError> {
    new.metadata.resource_version.clone_from(&old.metadata.resource_version);
    Ok(api.replace(&old.name_any(), &PostParams::default(), &new).await?)
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

fn time(secret: &Secret, annotation: &str) -> Option<Timestamp> {
    secret.annotations().get(annotation)?.parse().ok()
}

fn bundle(ca: &Secret) -> String {
    let both = [text(ca, "ca.crt"), text(ca, "previous.crt")];
    both.into_iter().flatten().collect()
}

fn secret(
    cluster: &Cluster,
    name: String,
    kind: &str,
    data: Vec<(&str, String)>,
    notes: Vec<(&str, String)>,
) -> Secret {
    let data = data
        .into_iter()
        .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    let notes: BTreeMap<String, String> = notes.into_iter().map(|(key, text)| (key.to_owned(), text)).collect();
    let mut labels = names::labels(&cluster.name);
    // It is not among the objects that are applied, and must not be taken for one that is not wanted any more.
    labels.remove(names::MANAGED_BY);
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(cluster.namespace.clone()),
            labels: Some(labels),
            annotations: Some(notes),
            owner_references: Some(vec![owner(cluster)]),
            ..ObjectMeta::default()
        },
        type_: Some(kind.to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}

/// The parameters of a CA, from which its issuer is made again with its key.
fn ca_params(cluster: &Cluster, begin: Timestamp, end: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Two CAs of one cluster have different names, so that nobody takes one for the other.
    let name = format!(
        "{}/{} tracing CA {}",
        cluster.namespace,
        cluster.name,
        begin.as_second()
    );
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(1970, 1, 1) + seconds(begin);
    params.not_after = date_time_ymd(1970, 1, 1) + seconds(end);
    params
}

/// Seconds since 1970 of a time, for a certificate.
fn seconds(at: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default())
}

fn new_ca(cluster: &Cluster, previous: Option<String>, now: Timestamp) -> Result<Secret, AuthorityError> {
    let length = cluster.spec.tls.ca_duration.duration().unwrap_or_default();
    let (begin, end) = (now - EARLY, now + length);
    let key = KeyPair::generate()?;
    let certificate = ca_params(cluster, begin, end).self_signed(&key)?;
    let mut data = vec![("ca.crt", certificate.pem()), ("ca.key", key.serialize_pem())];
    data.extend(previous.map(|pem| ("previous.crt", pem)));
    let mut notes = vec![(NOT_BEFORE, begin.to_string()), (NOT_AFTER, end.to_string())];
    notes.extend(
        cluster
            .annotations
            .get(names::RENEW_CA)
            .map(|asked| (RENEWED_FOR, asked.clone())),
    );
    Ok(secret(cluster, names::ca(&cluster.name), "Opaque", data, notes))
}

fn new_leaf(cluster: &Cluster, ca: &Secret, now: Timestamp) -> Result<Secret, AuthorityError> {
    let missing = |key: &'static str| AuthorityError::Incomplete {
        name: ca.name_any(),
        key,
    };
    let ca_pem = text(ca, "ca.crt").ok_or_else(|| missing("ca.crt"))?;
    let ca_key = KeyPair::from_pem(&text(ca, "ca.key").ok_or_else(|| missing("ca.key"))?)?;
    let begin = time(ca, NOT_BEFORE).ok_or_else(|| missing(NOT_BEFORE))?;
    let end = time(ca, NOT_AFTER).ok_or_else(|| missing(NOT_AFTER))?;
    let issuer = Issuer::new(ca_params(cluster, begin, end), ca_key);
    let length = cluster.spec.tls.duration.duration().unwrap_or_default();
    let last = (now + length).min(end);
    let mut params = CertificateParams::new(dns_names(cluster))?;
    params.distinguished_name.push(DnType::CommonName, cluster.name.clone());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(1970, 1, 1) + seconds(now - EARLY);
    params.not_after = date_time_ymd(1970, 1, 1) + seconds(last);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    let data = vec![
        ("tls.crt", certificate.pem()),
        ("tls.key", key.serialize_pem()),
        ("ca.crt", bundle(ca)),
    ];
    let notes = vec![
        (NOT_BEFORE, (now - EARLY).to_string()),
        (NOT_AFTER, last.to_string()),
        (SIGNED_BY, trust_hash(&ca_pem)),
    ];
    Ok(secret(
        cluster,
        names::peer_tls(&cluster.name),
        "kubernetes.io/tls",
        data,
        notes,
    ))
}

#[cfg(test)]
mod tests;
