//! CEL rules: what a resource's schema says beyond types.
//!
//! Owns [`rule`] and [`rules`], and the CEL text of the few things that CEL cannot do by itself. Always holds: every rule
//! has a message that says what to write instead, a reason, and the path of the field it is about; the tests of this crate
//! hold one accepted and one refused object against each.

use kube::core::{Reason, Rule};
use serde_json::Value;

/// A value is malformed or out of bounds.
pub(crate) const INVALID: Reason = Reason::FieldValueInvalid;
/// A value is well formed, but not allowed here.
pub(crate) const FORBIDDEN: Reason = Reason::FieldValueForbidden;
/// Something is missing.
pub(crate) const REQUIRED: Reason = Reason::FieldValueRequired;

/// One rule. `field` is the path of the field below the place where the rule stands (`.replicas`).
pub(crate) fn rule(reason: Reason, field: &str, message: &str, expression: impl Into<String>) -> Rule {
    Rule::new(expression).message(message).reason(reason).field_path(field)
}

/// The rules in the form in which the schema holds them.
pub(crate) fn rules(rules: impl IntoIterator<Item = Rule>) -> Value {
    let rules: Vec<Rule> = rules.into_iter().collect();
    serde_json::to_value(rules).expect("rules are text")
}

/// CEL for the value at `path` below `root`, or `default` where any part of the path is absent.
pub(crate) fn value(root: &str, path: &str, default: &str) -> String {
    let mut present = Vec::new();
    let mut at = root.to_owned();
    for part in path.split('.') {
        at = format!("{at}.{part}");
        present.push(format!("has({at})"));
    }
    format!("({} ? {at} : {default})", present.join(" && "))
}

/// A value that keeps what it was at creation; `absent` is a CEL value that stands for "not set". Stands high enough that
/// the section around the field may come and go.
pub(crate) fn immutable(path: &str, absent: &str, message: &str) -> Rule {
    let (new, old) = (value("self", path, absent), value("oldSelf", path, absent));
    rule(FORBIDDEN, &format!(".{path}"), message, format!("{new} == {old}"))
}

/// CEL for the seconds in a [`crate::Period`]: CEL's own durations know neither days nor weeks.
pub(crate) fn seconds(field: &str) -> String {
    format!(
        "int({field}.substring(0, {field}.size() - 1)) * ({field}.endsWith('w') ? 604800 : {field}.endsWith('d') ? 86400 : \
         {field}.endsWith('h') ? 3600 : {field}.endsWith('m') ? 60 : 1)"
    )
}
