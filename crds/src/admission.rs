//! What an API server does to an object at its door, for tests without one: unknown fields, defaults, types and bounds,
//! then the CEL rules.
//!
//! Owns [`Door`]. The rules run in the `kube-cel` engine, so that every rule is tried with a plain `cargo test`; that the
//! real API server agrees is shown where there is one (the end-to-end suite). Not here: the cost of rules, ratcheting, and
//! what a server does to metadata.

use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::Validator;
use serde_json::{Map, Value};

/// One reason for a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Path of the field, `spec.replicas`.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The door for one kind.
#[derive(Debug)]
pub struct Door {
    schema: Value,
}

impl Door {
    /// The door of a definition's first version.
    pub fn of(definition: &CustomResourceDefinition) -> Self {
        let schema = definition
            .spec
            .versions
            .first()
            .and_then(|version| version.schema.as_ref())
            .and_then(|schema| schema.open_api_v3_schema.as_ref());
        Self {
            schema: serde_json::to_value(schema).expect("a schema is plain data"),
        }
    }

    /// The schema.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// The object as it would be stored, or everything that is wrong with it. `old` is what is stored now, for an update.
    pub fn admit(&self, mut object: Value, old: Option<&Value>) -> Result<Value, Vec<Refusal>> {
        let mut refusals = Vec::new();
        prune_nulls(&self.schema, &mut object);
        check(&self.schema, &object, "", &mut refusals);
        if !refusals.is_empty() {
            return Err(refusals);
        }
        fill_in(&self.schema, &mut object);
        match Validator::new().validate(&self.schema, &object, old) {
            Ok(()) => Ok(object),
            Err(errors) => Err(errors
                .into_vec()
                .into_iter()
                .map(|error| Refusal {
                    field: error.field_path.trim_start_matches('.').to_owned(),
                    message: error.message,
                })
                .collect()),
        }
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn keeps_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// Nothing of ours is nullable: a null is a field that was not set.
fn prune_nulls(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) if !keeps_unknown(schema) => {
            map.retain(|_, value| !value.is_null());
            for (key, value) in map {
                let below = schema["properties"].get(key).unwrap_or(&schema["additionalProperties"]);
                prune_nulls(below, value);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| prune_nulls(&schema["items"], value)),
        _ => {}
    }
}

fn fill_in(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, below) in properties(schema) {
                if !map.contains_key(key)
                    && let Some(default) = below.get("default")
                {
                    map.insert(key.clone(), default.clone());
                }
                if let Some(value) = map.get_mut(key) {
                    fill_in(below, value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| fill_in(&schema["items"], value)),
        _ => {}
    }
}

fn check(schema: &Value, value: &Value, path: &str, refusals: &mut Vec<Refusal>) {
    // The server knows the type, kind and metadata of every object by itself.
    if path == ".metadata" || path == ".apiVersion" || path == ".kind" {
        return;
    }
    let mut refuse = |message: String| {
        refusals.push(Refusal {
            field: path.trim_start_matches('.').to_owned(),
            message,
        });
    };
    if schema["x-kubernetes-int-or-string"] == true {
        if !(value.is_i64() || value.is_string()) {
            refuse("must be a number or text".to_owned());
        }
        return;
    }
    let kind = schema["type"].as_str().unwrap_or_default();
    let fits = match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    if !fits {
        refuse(format!("must be of type {kind}"));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        refuse(format!("must be one of {allowed:?}"));
    }
    match value {
        Value::Object(map) => check_object(schema, map, path, refusals),
        Value::Array(list) => {
            if over(&schema["maxItems"], list.len()) {
                refuse("has too many items".to_owned());
            }
            if under(&schema["minItems"], list.len()) {
                refuse("has too few items".to_owned());
            }
            if schema["x-kubernetes-list-type"] == "set"
                && list
                    .iter()
                    .enumerate()
                    .any(|(index, item)| list[..index].contains(item))
            {
                refuse("names something twice".to_owned());
            }
            for (index, item) in list.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), refusals);
            }
        }
        Value::String(text) => {
            if over(&schema["maxLength"], text.chars().count()) {
                refuse("is too long".to_owned());
            }
            if under(&schema["minLength"], text.chars().count()) {
                refuse("is too short".to_owned());
            }
            if let Some(pattern) = schema["pattern"].as_str()
                && !regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
            {
                refuse(format!("must match {pattern}"));
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            if schema["minimum"].as_f64().is_some_and(|least| number < least)
                || schema["maximum"].as_f64().is_some_and(|most| number > most)
            {
                refuse(format!("must be {} to {}", schema["minimum"], schema["maximum"]));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_object(schema: &Value, map: &Map<String, Value>, path: &str, refusals: &mut Vec<Refusal>) {
    let mut refuse = |key: &str, message: &str| {
        refusals.push(Refusal {
            field: format!("{path}.{key}").trim_start_matches('.').to_owned(),
            message: message.to_owned(),
        });
    };
    for key in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !map.contains_key(key) {
            refuse(key, "is required");
        }
    }
    if over(&schema["maxProperties"], map.len()) {
        refuse("", "has too many entries");
    }
    for (key, value) in map {
        let known = schema["properties"].get(key);
        let any = schema.get("additionalProperties");
        match known.or(any) {
            Some(below) => check(below, value, &format!("{path}.{key}"), refusals),
            None if keeps_unknown(schema) || (path.is_empty() && (key == "apiVersion" || key == "kind")) => {}
            None => refusals.push(Refusal {
                field: format!("{path}.{key}").trim_start_matches('.').to_owned(),
                message: "unknown field".to_owned(),
            }),
        }
    }
}

fn over(most: &Value, length: usize) -> bool {
    most.as_u64().is_some_and(|most| length as u64 > most)
}

fn under(least: &Value, length: usize) -> bool {
    least.as_u64().is_some_and(|least| (length as u64) < least)
}
