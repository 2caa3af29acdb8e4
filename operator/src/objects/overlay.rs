//! What people merge into our pods.
//!
//! Maps are merged, lists of named things by name, other lists are appended to. **Always holds:** what makes a pod our node
//! stays ours, whatever the overlay says: the node container's command, ports and probes, the volumes "data", "config" and
//! "tls", our labels. What was asked for there is named in [`Ignored`].

use crds::cluster::placement::PodTemplate;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use serde_json::{Map, Value};

use crate::names;

/// Paths of the overlay that were not taken over, and why the overlay was left out as a whole, if so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignored(pub Vec<String>);

/// Volumes that are ours.
const VOLUMES: [&str; 3] = ["data", "config", "tls"];

/// Our template with the overlay merged in.
pub(super) fn apply(ours: PodTemplateSpec, overlay: &PodTemplate) -> (PodTemplateSpec, Ignored) {
    let mut ignored = Vec::new();
    let mut merged = ours.clone();
    if !overlay.spec.is_empty() {
        let mut spec = serde_json::to_value(&ours.spec).expect("a pod spec is plain data");
        merge(&mut spec, Value::Object(without_ours(&overlay.spec, &mut ignored)));
        match serde_json::from_value(spec) {
            Ok(spec) => merged.spec = Some(spec),
            Err(error) => ignored.push(format!("spec: {error}")),
        }
        put_back(&ours, &mut merged, &mut ignored);
    }
    let metadata = merged.metadata.get_or_insert_default();
    let own = metadata.labels.get_or_insert_default();
    for (key, value) in &overlay.metadata.labels {
        if own.get(key).is_some_and(|ours| ours != value) {
            ignored.push(format!("metadata.labels.{key}"));
        } else {
            own.insert(key.clone(), value.clone());
        }
    }
    let own = metadata.annotations.get_or_insert_default();
    for (key, value) in &overlay.metadata.annotations {
        if key.starts_with(crds::GROUP) {
            ignored.push(format!("metadata.annotations.{key}"));
        } else {
            own.insert(key.clone(), value.clone());
        }
    }
    (merged, Ignored(ignored))
}

/// The overlay without volumes of our names.
fn without_ours(overlay: &Map<String, Value>, ignored: &mut Vec<String>) -> Map<String, Value> {
    let mut overlay = overlay.clone();
    if let Some(Value::Array(volumes)) = overlay.get_mut("volumes") {
        volumes.retain(|volume| {
            let name = volume["name"].as_str().unwrap_or_default();
            let is_ours = VOLUMES.contains(&name);
            if is_ours {
                ignored.push(format!("spec.volumes[{name}]"));
            }
            !is_ours
        });
    }
    overlay
}

/// What the overlay changed although it is ours.
fn put_back(ours: &PodTemplateSpec, merged: &mut PodTemplateSpec, ignored: &mut Vec<String>) {
    let node = |template: &PodTemplateSpec| {
        let mut containers = template.spec.iter().flat_map(|spec| &spec.containers);
        containers.find(|container| container.name == names::CONTAINER).cloned()
    };
    let (Some(ours), Some(theirs)) = (node(ours), node(merged)) else {
        return;
    };
    let mut container = theirs.clone();
    macro_rules! keep {
        ($($field:ident),*) => {
            $(if theirs.$field != ours.$field {
                ignored.push(format!("spec.containers[node].{}", stringify!($field)));
                container.$field.clone_from(&ours.$field);
            })*
        };
    }
    keep!(
        image,
        command,
        args,
        ports,
        startup_probe,
        liveness_probe,
        readiness_probe
    );
    let spec = merged.spec.get_or_insert_default();
    for other in &mut spec.containers {
        if other.name == names::CONTAINER {
            *other = Container::clone(&container);
        }
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for item in from {
                let is_same =
                    |other: &Value| item["name"].is_string() && other["name"] == item["name"] || *other == item;
                match into.iter().position(is_same) {
                    Some(index) => merge(&mut into[index], item),
                    None => into.push(item),
                }
            }
        }
        (into, from) => *into = from,
    }
}
