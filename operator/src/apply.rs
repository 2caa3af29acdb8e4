//! Making objects as they are wanted, and taking away those that are not any more.
//!
//! Server-side apply under one field manager. **Always holds:** an object is written only if what is wanted has changed (by
//! its hash, which the object carries) or if what we wrote is not there any more; a settled cluster is not written to. What
//! is taken away carries our labels and our owner reference, and is of a kind that we make.
//! Not here: deleting pods, claims and StatefulSets (`act`).

use std::collections::{BTreeMap, BTreeSet};

use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, Preconditions,
};
use kube::core::TypeMeta;
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;

use crate::names;
use crate::objects::grafana::IMMUTABLE;
use crate::objects::{Objects, Served};
use crate::quantity::millis;
use crate::validate::Cluster;

/// Kinds that we may have made and that are taken away when they are not wanted any more.
const OURS: [&str; 7] = [
    "v1/ServiceAccount",
    "v1/ConfigMap",
    "v1/Secret",
    "v1/Service",
    "policy/v1/PodDisruptionBudget",
    "networking.k8s.io/v1/NetworkPolicy",
    "networking.k8s.io/v1/Ingress",
];
/// Applied too, and never taken away here.
const SET: &str = "apps/v1/StatefulSet";

/// What applying came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Objects that were written or deleted, as kind and name.
    pub written: Vec<String>,
    /// What could not be done, and why, without stopping the rest: other people's kinds.
    pub failed: Vec<String>,
}

fn plain<K: Serialize>(object: &K) -> Result<DynamicObject, serde_json::Error> {
    serde_json::from_value(serde_json::to_value(object)?)
}

fn kind_of(object: &DynamicObject) -> String {
    let types = object.types.clone().unwrap_or_default();
    format!("{}/{}", types.api_version, types.kind)
}

fn types(kind: &str) -> TypeMeta {
    let (api_version, kind) = kind.rsplit_once('/').unwrap_or(("v1", kind));
    TypeMeta {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
    }
}

fn resource(kind: &str) -> ApiResource {
    let (api_version, kind) = kind.rsplit_once('/').unwrap_or(("v1", kind));
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Every object that is wanted, services and settings before the pods that need them.
fn all(objects: &Objects) -> Result<Vec<DynamicObject>, serde_json::Error> {
    let mut all = Vec::new();
    if let Some(account) = &objects.service_account {
        all.push(plain(account)?);
    }
    for map in &objects.config_maps {
        all.push(plain(map)?);
    }
    for secret in &objects.secrets {
        all.push(plain(secret)?);
    }
    for service in &objects.services {
        all.push(plain(service)?);
    }
    if let Some(budget) = &objects.disruption_budget {
        all.push(plain(budget)?);
    }
    if let Some(policy) = &objects.network_policy {
        all.push(plain(policy)?);
    }
    if let Some(ingress) = &objects.ingress {
        all.push(plain(ingress)?);
    }
    for set in &objects.stateful_sets {
        all.push(plain(set)?);
    }
    all.extend(objects.foreign.iter().cloned());
    Ok(all)
}

/// Applies everything that is wanted and removes what is not.
pub async fn apply(
    client: &Client,
    cluster: &Cluster,
    objects: &Objects,
    served: &Served,
) -> Result<Applied, kube::Error> {
    let wanted = all(objects).map_err(kube::Error::SerdeError)?;
    let mut applied = Applied::default();
    let mut places: BTreeSet<(String, String)> = BTreeSet::new();
    for kind in OURS.iter().copied().chain([SET]).chain(served.0.iter().copied()) {
        places.insert((kind.to_owned(), cluster.namespace.clone()));
    }
    for object in &wanted {
        let namespace = object.namespace().unwrap_or_else(|| cluster.namespace.clone());
        places.insert((kind_of(object), namespace));
    }
    let selector = ListParams::default().labels(&names::list_selector(&cluster.name));
    let mut live: BTreeMap<(String, String, String), DynamicObject> = BTreeMap::new();
    for (kind, namespace) in &places {
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource(kind));
        match api.list(&selector).await {
            Ok(list) => {
                for mut object in list.items {
                    // Entries of a list do not say what they are.
                    object.types = Some(types(kind));
                    live.insert((kind.clone(), namespace.clone(), object.name_any()), object);
                }
            }
            // Kinds of others may go at any time, and may be forbidden.
            Err(error) if is_foreign(kind) => applied.failed.push(format!("{kind}: {error}")),
            Err(error) => return Err(error),
        }
    }
    for object in wanted {
        let kind = kind_of(&object);
        let namespace = object.namespace().unwrap_or_else(|| cluster.namespace.clone());
        let key = (kind.clone(), namespace.clone(), object.name_any());
        let found = live.remove(&key);
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), &namespace, &resource(&kind));
        match apply_one(&api, object, found.as_ref()).await {
            Ok(false) => {}
            Ok(true) => applied.written.push(format!("{kind} {}", key.2)),
            Err(error) if is_foreign(&kind) => applied.failed.push(format!("{kind} {}: {error}", key.2)),
            Err(error) => return Err(error),
        }
    }
    for ((kind, namespace, name), object) in live {
        if kind == SET || !is_ours(&object, cluster) {
            continue;
        }
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), &namespace, &resource(&kind));
        match delete(&api, &object).await {
            Ok(()) => applied.written.push(format!("{kind} {name} (deleted)")),
            Err(error) => applied.failed.push(format!("{kind} {name}: {error}")),
        }
    }
    Ok(applied)
}

fn is_foreign(kind: &str) -> bool {
    Served::ALL.contains(&kind)
}

/// Whether we made it, and for this cluster: it carries our hash, and in our namespace our owner reference.
fn is_ours(object: &DynamicObject, cluster: &Cluster) -> bool {
    let is_owned = object.owner_references().iter().any(|owner| owner.uid == cluster.uid);
    let is_elsewhere = object.namespace().as_ref() != Some(&cluster.namespace);
    object.annotations().contains_key(names::APPLIED) && (is_owned || is_elsewhere)
}

async fn delete(api: &Api<DynamicObject>, object: &DynamicObject) -> Result<(), kube::Error> {
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: object.uid(),
        resource_version: None,
    });
    match api.delete(&object.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether anything was written.
async fn apply_one(
    api: &Api<DynamicObject>,
    mut object: DynamicObject,
    live: Option<&DynamicObject>,
) -> Result<bool, kube::Error> {
    let text = serde_json::to_string(&object).map_err(kube::Error::SerdeError)?;
    let hash = format!("{:016x}", twox_hash::XxHash3_64::oneshot(text.as_bytes()));
    object.annotations_mut().insert(names::APPLIED.to_owned(), hash);
    if let Some(live) = live {
        let (wanted, found) = (
            serde_json::to_value(&object).map_err(kube::Error::SerdeError)?,
            serde_json::to_value(live).map_err(kube::Error::SerdeError)?,
        );
        if is_in(&wanted, &found) {
            return Ok(false);
        }
        if kind_of(&object) == SET {
            // Somebody else may have scaled it since it was looked at.
            object
                .metadata
                .resource_version
                .clone_from(&live.metadata.resource_version);
        }
        let fixed = |object: &DynamicObject| object.annotations().get(IMMUTABLE).cloned();
        if fixed(&object) != fixed(live) && fixed(&object).is_some() {
            delete(api, live).await?;
        }
    }
    let name = object.name_any();
    let applied = api
        .patch(
            &name,
            &PatchParams::apply(names::MANAGER).force(),
            &Patch::Apply(&object),
        )
        .await;
    match applied {
        Ok(_) => Ok(true),
        // Ports are merged by number: one that somebody changed stays beside ours, with the same name, which is refused.
        // Then the list is ours as a whole.
        Err(kube::Error::Api(status)) if status.code == 422 && live.is_some() && kind_of(&object) == "v1/Service" => {
            let params = PatchParams {
                field_manager: Some(names::MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patch = serde_json::json!({"spec": object.data["spec"]});
            api.patch(&name, &params, &Patch::Merge(&patch)).await?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Whether everything that is wanted is there. Maps may hold more; lists of keyed entries too, in any order.
fn is_in(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().all(|(key, value)| {
            // An API server leaves out what is empty.
            found
                .get(key)
                .map_or_else(|| is_empty(value), |found| is_in(value, found))
        }),
        (Value::Array(wanted), Value::Array(found)) => {
            let key = ["name", "mountPath", "containerPort", "uid"]
                .into_iter()
                .find(|key| wanted.iter().all(|entry| entry.get(key).is_some()));
            match key.filter(|_| !wanted.is_empty()) {
                Some(key) => wanted.iter().all(|entry| {
                    let twin = found.iter().find(|found| found.get(key) == entry.get(key));
                    twin.is_some_and(|twin| is_in(entry, twin))
                }),
                None => {
                    wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| is_in(wanted, found))
                }
            }
        }
        (Value::String(wanted), Value::String(found)) => wanted == found || is_same_amount(wanted, found),
        (Value::Number(wanted), Value::Number(found)) => wanted == found || wanted.as_f64() == found.as_f64(),
        (wanted, found) => wanted == found || (is_empty(wanted) && is_empty(found)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// "0.5" and "500m" are one amount; an API server writes the second.
fn is_same_amount(a: &str, b: &str) -> bool {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    let amount = |text: &str| millis(&Quantity(text.to_owned()));
    let begins = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    begins(a) && begins(b) && amount(a).is_some() && amount(a) == amount(b)
}

#[cfg(test)]
mod tests {
    //! What is wanted and what is found in, whether to write out.

    use serde_json::json;

    use super::is_in;

    #[test]
    fn what_a_server_adds_is_no_reason_to_write() {
        for (wanted, found, same) in [
            (json!({"a": 1}), json!({"a": 1, "b": 2}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({"a": {}}), json!({}), true),
            (
                json!({"a": [{"name": "x", "v": 1}]}),
                json!({"a": [{"name": "y"}, {"name": "x", "v": 1, "w": 2}]}),
                true,
            ),
            (
                json!({"a": [{"name": "x", "v": 1}]}),
                json!({"a": [{"name": "x", "v": 3}]}),
                false,
            ),
            (json!({"a": ["x"]}), json!({"a": ["x", "y"]}), false),
            (json!({"cpu": "0.5"}), json!({"cpu": "500m"}), true),
            (json!({"cpu": "0.5"}), json!({"cpu": "600m"}), false),
            (json!({"image": "a:1"}), json!({"image": "a:2"}), false),
        ] {
            assert_eq!(is_in(&wanted, &found), same, "{wanted} in {found}");
        }
    }
}
