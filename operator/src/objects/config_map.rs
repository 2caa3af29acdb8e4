//! The nodes' settings, written from the type that the node reads.
//!
//! Only what differs from the node's own defaults is written: a node of an older version refuses keys it does not know, and
//! a default that changes with the operator's version must not restart every node.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Map, Value};
use settings::{LimitSettings, NodeSettings};

use super::metadata;
use crate::names;
use crate::validate::Cluster;

/// Key of the settings file.
pub(super) const FILE: &str = "node.yaml";

pub(super) fn build(cluster: &Cluster) -> ConfigMap {
    ConfigMap {
        metadata: metadata(cluster, names::config(&cluster.name)),
        data: Some([(FILE.to_owned(), file(&cluster.settings))].into()),
        ..ConfigMap::default()
    }
}

/// Hash of what needs a restart: everything but the limits, which nodes read again while they run, and whom to ask on an empty
/// disk, which matters to those that start.
pub(super) fn static_hash(cluster: &Cluster) -> String {
    let mut settings = NodeSettings {
        limits: LimitSettings::default(),
        ..cluster.settings.clone()
    };
    settings.cluster.join.clear();
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(file(&settings).as_bytes()))
}

/// The settings that differ from the defaults, as YAML.
fn file(settings: &NodeSettings) -> String {
    let value = |settings: &NodeSettings| serde_json::to_value(settings).expect("settings are plain data");
    let different = difference(&value(&NodeSettings::default()), &value(settings)).unwrap_or_else(|| Map::new().into());
    serde_saphyr::to_string(&different).expect("settings are plain data")
}

/// The part of `new` that is not in `old`. Nulls are absent values.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    match new {
        Value::Null => None,
        Value::Object(map) => {
            let different: Map<String, Value> = map
                .iter()
                .filter_map(|(key, new)| Some((key.clone(), difference(&old[key], new)?)))
                .collect();
            // An empty section that was not there (`filesystem: {}`) says something; one that was there does not.
            (!different.is_empty() || old.is_null()).then_some(Value::Object(different))
        }
        new => (old != new).then(|| new.clone()),
    }
}
