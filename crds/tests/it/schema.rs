//! The schema as a whole: the YAML that is checked in, what every field says about itself, that everything has a bound, and
//! that a change stays compatible.

use std::path::Path;

use serde_json::Value;
use vivace_crds::admission::Door;
use vivace_crds::{TracingCluster, crd_yaml, definitions};

/// A platform team's first manifest.
const MINIMAL: &str = include_str!("../../../charts/vivace/examples/minimal.yaml");

/// Calls `visit` with the path and the schema of every property below `path`.
fn each_property(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        visit(&path, below);
        each_property(below, &path, visit);
    }
    if schema["items"].is_object() {
        each_property(&schema["items"], &format!("{path}[]"), visit);
    }
}

fn schemas() -> Vec<(String, Value)> {
    definitions()
        .iter()
        .map(|definition| {
            (
                definition.spec.names.kind.clone(),
                Door::of(definition).schema().clone(),
            )
        })
        .collect()
}

#[test]
fn the_checked_in_yaml_is_what_the_types_say() {
    for folder in ["yaml", "../charts/vivace/files/crds"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for (name, yaml) in crd_yaml() {
            let checked_in = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(checked_in == yaml, "{name} is out of date: run `just crds`");
        }
    }
}

#[test]
fn a_minimal_manifest_has_at_most_twelve_lines() {
    let lines = MINIMAL.lines().filter(|line| !line.starts_with('#')).count();
    assert!(lines <= 12, "{lines}");
    let object: Value = serde_saphyr::from_str(MINIMAL).unwrap();
    let stored = Door::of(&definitions()[0]).admit(object, None).unwrap();
    // What is stored is what was written plus plain defaults, not the whole schema.
    let yaml = serde_saphyr::to_string(&stored).unwrap();
    assert!(yaml.lines().count() < 30, "{yaml}");
    let cluster: TracingCluster = serde_json::from_value(stored).unwrap();
    assert_eq!(cluster.spec.persistence, Default::default());
    assert_eq!(cluster.spec.retention.default.0, "14d");
}

#[test]
fn every_field_says_what_it_is_and_what_a_change_does() {
    let mut silent = Vec::new();
    for (kind, schema) in schemas() {
        each_property(&schema["properties"]["spec"], "spec", &mut |path, property| {
            // Types of Kubernetes describe themselves.
            if path.contains("elector.") || path.contains("[].") && path.contains("etworkPolicy") {
                return;
            }
            let text = property["description"].as_str().unwrap_or_default();
            let is_section = property["properties"].is_object();
            let says_default = text.contains("Default: ") || text.contains("Required") || property["default"] == "";
            let goes_with = text.contains("goes with") || text.contains("only then") || text.contains("with tls.mode");
            if text.is_empty() || !(is_section || text.contains("Change: ") || path.ends_with("name")) {
                silent.push(format!("{kind} {path}: {text:?}"));
            } else if !is_section && !says_default && !goes_with && !path.ends_with("name") {
                silent.push(format!("{kind} {path} does not say its default: {text:?}"));
            }
        });
        each_property(&schema["properties"]["status"], "status", &mut |path, property| {
            if property["description"].as_str().unwrap_or_default().is_empty() {
                silent.push(format!("{kind} {path}"));
            }
        });
    }
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn everything_has_a_bound_and_nothing_is_nullable() {
    fn walk(schema: &Value, path: &str, wrong: &mut Vec<String>) {
        let bounded = match schema["type"].as_str() {
            Some("string") => {
                !schema["maxLength"].is_null() || !schema["enum"].is_null() || !schema["format"].is_null()
            }
            Some("array") => !schema["maxItems"].is_null(),
            Some("object") if schema["additionalProperties"].is_object() => !schema["maxProperties"].is_null(),
            _ => true,
        };
        let nested = schema["default"].is_object() || schema["default"].is_null() && schema.get("default").is_some();
        if !bounded || schema["nullable"] == true || nested {
            wrong.push(path.to_owned());
        }
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            walk(below, &format!("{path}.{name}"), wrong);
        }
        for below in ["items", "additionalProperties"] {
            if schema[below].is_object() {
                walk(&schema[below], &format!("{path}.{below}"), wrong);
            }
        }
    }
    let mut wrong = Vec::new();
    for (kind, schema) in schemas() {
        walk(&schema, &kind, &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn people_find_what_they_expect() {
    let [cluster, tenant] = definitions();
    let scale = cluster.spec.versions[0]
        .subresources
        .as_ref()
        .unwrap()
        .scale
        .as_ref()
        .unwrap();
    assert_eq!(scale.label_selector_path.as_deref(), Some(".status.selector"));
    assert_eq!(cluster.spec.names.short_names, Some(vec!["trc".to_owned()]));
    assert_eq!(tenant.spec.names.short_names, Some(vec!["trt".to_owned()]));
    assert_eq!(tenant.spec.names.categories, Some(vec!["tracing".to_owned()]));
    let columns: Vec<String> = cluster.spec.versions[0]
        .additional_printer_columns
        .iter()
        .flatten()
        .map(|column| column.name.clone())
        .collect();
    assert_eq!(
        columns.join(" "),
        "Ready Desired Available Status Version Leader Shards-Degraded RF Storage Age"
    );
}

/// Columns, scale and field selectors point at fields that exist.
#[test]
fn paths_lead_somewhere() {
    for (definition, (_, schema)) in definitions().iter().zip(schemas()) {
        let version = &definition.spec.versions[0];
        let columns = version
            .additional_printer_columns
            .iter()
            .flatten()
            .map(|column| &column.json_path);
        let selectable = version.selectable_fields.iter().flatten().map(|field| &field.json_path);
        for path in columns.chain(selectable) {
            let path = path.split('[').next().unwrap();
            let mut at = &schema;
            if path.starts_with(".metadata") {
                continue;
            }
            for part in path.trim_start_matches('.').split('.') {
                at = &at["properties"][part];
            }
            assert!(at.is_object(), "{path}");
        }
    }
}

#[test]
fn every_example_is_taken() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/vivace/examples");
    let doors: Vec<(String, Door)> = definitions()
        .iter()
        .map(|definition| (definition.spec.names.kind.clone(), Door::of(definition)))
        .collect();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for document in std::fs::read_to_string(&path).unwrap().split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            let Some((_, door)) = doors.iter().find(|(kind, _)| object["kind"] == **kind) else {
                continue;
            };
            if let Err(reason) = door.admit(object, None) {
                panic!("{}: {reason:?}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}
