//! The changes themselves: `trace-patch-v0`.
//!
//! Durations differ from run to run, so only a change of more than a fifth and a millisecond counts; attributes that
//! measure sizes and tokens may differ by a twentieth. Everything else counts as soon as it differs.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;

use super::Warning;
use super::flatten::{FlatSpan, FlatTrace, Identity, Side};

const DURATION_RELATIVE: f64 = 0.2;
const DURATION_NANOS: f64 = 1e6;
const SIZE_RELATIVE: f64 = 0.05;
/// Attributes that measure: the ends of their keys in OpenTelemetry's conventions.
const SIZES: [&str; 9] = [
    ".body.size",
    ".size",
    "content_length",
    "content_length_uncompressed",
    "compressed_size",
    "_tokens",
    ".duration",
    "time_to_first_chunk",
    "time_to_first_token",
];

/// See the module's documentation.
#[derive(Debug, Serialize)]
pub(crate) struct Patch {
    version: &'static str,
    base: Side,
    compare: Side,
    pub(super) stats: Stats,
    pub(super) modified: Vec<Modified>,
    pub(super) added: Vec<Whole>,
    pub(super) removed: Vec<Whole>,
    pub(super) warnings: Vec<Warning>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stats {
    #[serde(rename = "spanCountA")]
    span_count_base: usize,
    #[serde(rename = "spanCountB")]
    span_count_compare: usize,
    pub(super) matched_spans: usize,
    pub(super) modified_spans: usize,
    pub(super) added_spans: usize,
    pub(super) removed_spans: usize,
    pub(super) field_changes: usize,
    pub(super) attribute_changes: usize,
    event_changes: usize,
    truncated: bool,
}

/// A span that is in both and differs.
#[derive(Debug, Serialize)]
pub(super) struct Modified {
    pub(super) span: Place,
    changes: Vec<Change>,
}

/// Where a span stands and what it is.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Place {
    path: Vec<usize>,
    pub(super) service: String,
    name: String,
    kind: &'static str,
}

#[derive(Debug, Serialize)]
struct Change {
    op: &'static str,
    target: Target,
    before: Value,
    after: Value,
}

#[derive(Debug, Default, Serialize)]
struct Target {
    r#type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
}

/// A span that is in one of the two.
#[derive(Debug, Serialize)]
pub(super) struct Whole {
    target: WholeTarget,
    pub(super) span: Snapshot,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WholeTarget {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    path: Vec<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parent_path: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    #[serde(flatten)]
    pub(super) place: Place,
    duration_nanos: i64,
    pub(super) status: &'static str,
}

impl Modified {
    /// Whether the span was changed to an error (1), from one (-1), or neither.
    pub(super) fn error_change(&self) -> i32 {
        let status = self.changes.iter().find(|change| change.target.name == "status");
        match status.map(|change| (change.before == "error", change.after == "error")) {
            Some((false, true)) => 1,
            Some((true, false)) => -1,
            _ => 0,
        }
    }
}

impl FlatSpan {
    fn place(&self) -> Place {
        let Identity { service, name, kind } = self.identity.clone();
        Place {
            path: self.path.clone(),
            service,
            name,
            kind,
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            place: self.place(),
            duration_nanos: self.duration_nanos.unwrap_or(0),
            status: self.status,
        }
    }
}

/// What has to be done to `base` to get `compared`.
pub(super) fn compare(base: &FlatTrace, compared: &FlatTrace) -> Patch {
    let partners = pair_up(base, compared);
    let mut is_matched = vec![false; base.spans.len()];
    let mut patch = Patch {
        version: "trace-patch-v0",
        base: base.side(),
        compare: compared.side(),
        stats: Stats {
            span_count_base: base.spans.len(),
            span_count_compare: compared.spans.len(),
            ..Stats::default()
        },
        modified: Vec::new(),
        added: Vec::new(),
        removed: Vec::new(),
        warnings: Vec::new(),
    };
    for (span, partner) in compared.spans.iter().zip(partners) {
        let Some(partner) = partner else {
            patch.added.push(added(span));
            continue;
        };
        is_matched[partner] = true;
        let before = &base.spans[partner];
        let (fields, attributes) = (field_changes(before, span), attribute_changes(before, span));
        patch.stats.matched_spans += 1;
        patch.stats.field_changes += fields.len();
        patch.stats.attribute_changes += attributes.len();
        if !fields.is_empty() || !attributes.is_empty() {
            patch.modified.push(Modified {
                span: span.place(),
                changes: fields.into_iter().chain(attributes).collect(),
            });
        }
    }
    let gone = base.spans.iter().zip(is_matched).filter(|(_, is_matched)| !is_matched);
    patch.removed = gone
        .map(|(span, _)| Whole {
            target: WholeTarget {
                r#type: "span",
                path: span.path.clone(),
                parent_path: Vec::new(),
                index: None,
            },
            span: span.snapshot(),
        })
        .collect();
    patch.stats.modified_spans = patch.modified.len();
    patch.stats.added_spans = patch.added.len();
    patch.stats.removed_spans = patch.removed.len();
    for warning in base.warnings.iter().chain(&compared.warnings) {
        if !patch.warnings.contains(warning) {
            patch.warnings.push(warning.clone());
        }
    }
    patch
}

/// For each span of `compared` the number of its partner in `base`.
fn pair_up(base: &FlatTrace, compared: &FlatTrace) -> Vec<Option<usize>> {
    let mut alike: HashMap<&Identity, Vec<usize>> = HashMap::new();
    for (at, span) in base.spans.iter().enumerate() {
        alike.entry(&span.identity).or_default().push(at);
    }
    let pair = |span: &FlatSpan| {
        let left = alike.get_mut(&span.identity)?;
        let same_parent = |at: &usize| span.parent.is_some() && base.spans[*at].parent == span.parent;
        let chosen = left.iter().position(same_parent).or((!left.is_empty()).then_some(0))?;
        Some(left.remove(chosen))
    };
    compared.spans.iter().map(pair).collect()
}

fn added(span: &FlatSpan) -> Whole {
    let (index, parent_path) = match span.path.split_last() {
        Some((index, parent_path)) => (Some(*index), parent_path.to_vec()),
        None => (None, Vec::new()),
    };
    Whole {
        target: WholeTarget {
            r#type: "span",
            path: Vec::new(),
            parent_path,
            index,
        },
        span: span.snapshot(),
    }
}

fn field_changes(before: &FlatSpan, after: &FlatSpan) -> Vec<Change> {
    let field = |name, before, after| Change {
        op: "modify",
        target: Target {
            r#type: "field",
            name,
            ..Target::default()
        },
        before,
        after,
    };
    let mut changes = Vec::new();
    let differs = match (before.duration_nanos, after.duration_nanos) {
        (Some(a), Some(b)) => !is_close(a as f64, b as f64, DURATION_RELATIVE, DURATION_NANOS),
        (a, b) => a != b,
    };
    if differs {
        let nanos = |nanos: Option<i64>| nanos.map_or(Value::Null, Value::from);
        changes.push(field(
            "duration_nanos",
            nanos(before.duration_nanos),
            nanos(after.duration_nanos),
        ));
    }
    if before.status != after.status {
        changes.push(field("status", before.status.into(), after.status.into()));
    }
    changes
}

fn attribute_changes(before: &FlatSpan, after: &FlatSpan) -> Vec<Change> {
    let keys: BTreeSet<&String> = before.attributes.keys().chain(after.attributes.keys()).collect();
    keys.into_iter()
        .filter_map(|key| {
            let (old, new) = (before.attributes.get(key), after.attributes.get(key));
            let op = match (old, new) {
                (None, Some(_)) => "add",
                (Some(_), None) => "remove",
                (Some(old), Some(new)) if differs(key, old, new) => "modify",
                _ => return None,
            };
            Some(Change {
                op,
                target: Target {
                    r#type: "attribute",
                    scope: "span",
                    key: key.clone(),
                    ..Target::default()
                },
                before: old.cloned().unwrap_or(Value::Null),
                after: new.cloned().unwrap_or(Value::Null),
            })
        })
        .collect()
}

fn differs(key: &str, old: &Value, new: &Value) -> bool {
    match (old.as_f64(), new.as_f64()) {
        (Some(a), Some(b)) if SIZES.iter().any(|end| key.ends_with(end)) => !is_close(a, b, SIZE_RELATIVE, 0.0),
        // The number is the same whether it was sent as an integer or not.
        (Some(a), Some(b)) if old.is_f64() || new.is_f64() => a != b,
        _ => old != new,
    }
}

fn is_close(a: f64, b: f64, relative: f64, absolute: f64) -> bool {
    (a - b).abs() <= absolute + relative * a.abs().max(b.abs())
}
