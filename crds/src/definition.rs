//! From types to the definitions that a cluster is given.
//!
//! Owns [`definitions`] and [`crd_yaml`]. What the derives make is put right here, in one walk over the schema:
//! a null means "not set" (so nothing is `nullable`), only plain values are defaults (so that a minimal manifest stays one
//! in the store), what has a default says so in its description (so that nobody copies it by hand), and everything has a
//! bound (so that the API server can price the rules).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::{CustomResourceExt as _, Rule};
use serde_json::{Map, Value, json};

use crate::rule::{INVALID, rule, rules};
use crate::{TracingCluster, TracingTenant};

/// Bounds where a type names none: text that people write, lists and maps that people write.
const TEXT_MAX: u64 = 1_024;
const LIST_MAX: u64 = 64;
const MAP_MAX: u64 = 64;
/// Descriptions of other people's types are cut to their first sentence when they are longer than this.
const DESCRIPTION_MAX: usize = 600;

/// Both definitions, as they are applied.
pub fn definitions() -> [CustomResourceDefinition; 2] {
    let cluster_name = rule(
        INVALID,
        ".metadata",
        "at most 40 of a-z, 0-9 and -, beginning with a letter: pods and Services are named after it",
        "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')",
    );
    let tenant_name = rule(
        INVALID,
        ".metadata",
        "at most 64 characters, or write spec.tenantId: the name is the tenant's id",
        "has(self.spec.tenantId) || self.metadata.name.size() <= 64",
    );
    [
        finished(TracingCluster::crd(), cluster_name),
        finished(TracingTenant::crd(), tenant_name),
    ]
}

/// File name and YAML of each definition.
pub fn crd_yaml() -> Vec<(String, String)> {
    definitions()
        .iter()
        .map(|definition| {
            let plural = &definition.spec.names.plural;
            let yaml = serde_saphyr::to_string(definition).expect("a definition is maps, lists and text");
            (
                format!("{plural}.yaml"),
                format!("# Written by crdgen (`just crds`); a test compares it with the types.\n{yaml}"),
            )
        })
        .collect()
}

/// The derived definition with its schema put right and a rule about the name.
fn finished(mut definition: CustomResourceDefinition, about_name: Rule) -> CustomResourceDefinition {
    definition.metadata.labels = Some(
        [
            ("app.kubernetes.io/name".to_owned(), "tracing".to_owned()),
            ("app.kubernetes.io/part-of".to_owned(), "tracing".to_owned()),
        ]
        .into(),
    );
    let mut value = serde_json::to_value(&definition).expect("a definition is plain data");
    for version in value["spec"]["versions"].as_array_mut().into_iter().flatten() {
        let schema = &mut version["schema"]["openAPIV3Schema"];
        put_right(schema);
        without_defaults(&mut schema["properties"]["status"]);
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("title");
        }
        schema["x-kubernetes-validations"] = rules([about_name.clone()]);
        // The API server knows metadata; what of it a rule reads has to be typed.
        schema["properties"]["metadata"] = json!({"type": "object"});
    }
    serde_json::from_value(value).expect("only keywords that a schema knows were changed")
}

fn put_right(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    schema.remove("nullable");
    if schema.get("default").is_some_and(|default| !is_plain(default)) {
        schema.remove("default");
    }
    describe(schema);
    bound(schema);
    require_keys(schema);
    for key in ["properties", "additionalProperties", "items"] {
        match (key, schema.get_mut(key)) {
            ("properties", Some(Value::Object(properties))) => properties.values_mut().for_each(put_right),
            (_, Some(inner)) => put_right(inner),
            (_, None) => {}
        }
    }
}

/// A status says what is known; nothing in it comes from a schema.
fn without_defaults(schema: &mut Value) {
    match schema {
        Value::Object(schema) => {
            schema.remove("default");
            schema.values_mut().for_each(without_defaults);
        }
        Value::Array(list) => list.iter_mut().for_each(without_defaults),
        _ => {}
    }
}

/// Whether a default says something and says it shortly.
fn is_plain(default: &Value) -> bool {
    match default {
        Value::Null | Value::Object(_) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// One paragraph, with the default before what a change does.
fn describe(schema: &mut Map<String, Value>) {
    let Some(text) = schema.get("description").and_then(Value::as_str) else {
        return;
    };
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.len() > DESCRIPTION_MAX
        && let Some(end) = text.find(". ")
    {
        text.truncate(end + 1);
    }
    let default = match schema.get("default") {
        Some(Value::String(default)) if default.is_empty() => None,
        Some(Value::String(default)) => Some(default.clone()),
        Some(other) => Some(other.to_string()),
        None => None,
    };
    if let Some(default) = default {
        let said = format!("Default: {default}.");
        text = match text.find("Change:") {
            Some(at) => format!("{}{said} {}", &text[..at], &text[at..]),
            None => format!("{text} {said}"),
        };
    }
    schema.insert("description".to_owned(), Value::String(text));
}

/// What tells the items of a list apart has to be there.
fn require_keys(schema: &mut Map<String, Value>) {
    if let Some(keys) = schema.get("x-kubernetes-list-map-keys").cloned()
        && let Some(items) = schema.get_mut("items").and_then(Value::as_object_mut)
    {
        let required = items.entry("required").or_insert_with(|| json!([]));
        for key in keys.as_array().into_iter().flatten() {
            if let Some(required) = required.as_array_mut()
                && !required.contains(key)
            {
                required.push(key.clone());
            }
        }
    }
}

/// A bound on everything that can be long.
fn bound(schema: &mut Map<String, Value>) {
    let (keyword, most) = match schema.get("type").and_then(Value::as_str) {
        Some("array") => ("maxItems", LIST_MAX),
        Some("object") if schema.contains_key("additionalProperties") => ("maxProperties", MAP_MAX),
        Some("string") if !schema.contains_key("enum") && !schema.contains_key("format") => ("maxLength", TEXT_MAX),
        _ => return,
    };
    schema.entry(keyword).or_insert(most.into());
}
