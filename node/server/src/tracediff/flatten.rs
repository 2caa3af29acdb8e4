//! A trace as a list of spans in the order of its tree, each with its place and what it is.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::Value;
use wire::tempopb::Trace;
use wire::tempopb::common::v1::any_value::Value as Any;
use wire::tempopb::common::v1::{AnyValue, KeyValue};
use wire::tempopb::trace::v1::Span;

use super::Warning;

/// What makes two spans of two traces the same: not their ids, which differ always.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) service: String,
    pub(super) name: String,
    pub(super) kind: &'static str,
}

#[derive(Debug, Clone)]
pub(super) struct FlatSpan {
    pub(super) identity: Identity,
    /// None for roots and spans whose parent is not there.
    pub(super) parent: Option<Identity>,
    /// Numbers among siblings, from the root down.
    pub(super) path: Vec<usize>,
    pub(super) start: u64,
    pub(super) end: u64,
    /// None where start or end are missing or the wrong way round.
    pub(super) duration_nanos: Option<i64>,
    pub(super) status: &'static str,
    pub(super) attributes: BTreeMap<String, Value>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct FlatTrace {
    pub(super) trace_id: String,
    pub(super) spans: Vec<FlatSpan>,
    pub(super) warnings: Vec<Warning>,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Side {
    pub(crate) trace_id: String,
    pub(crate) span_count: usize,
}

impl FlatTrace {
    pub(super) fn side(&self) -> Side {
        Side {
            trace_id: self.trace_id.clone(),
            span_count: self.spans.len(),
        }
    }
}

/// `side` is what warnings call the trace.
pub(super) fn flatten(trace: &Trace, side: &str) -> FlatTrace {
    let mut spans: Vec<(&str, &Span)> = Vec::new();
    for resource in &trace.resource_spans {
        let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
        let service = text_of(attributes, "service.name").unwrap_or_default();
        let of_resource = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
        spans.extend(of_resource.map(|span| (service, span)));
    }
    spans.sort_by(|(_, a), (_, b)| {
        (a.start_time_unix_nano, &a.name, &a.span_id).cmp(&(b.start_time_unix_nano, &b.name, &b.span_id))
    });
    let trace_id = spans.first().map_or(String::new(), |(_, span)| hex(&span.trace_id));
    let mut by_id: HashMap<&[u8], usize> = HashMap::new();
    let mut twice = 0;
    for (at, (_, span)) in spans.iter().enumerate() {
        if by_id.contains_key(&span.span_id[..]) {
            twice += 1;
        } else {
            by_id.insert(&span.span_id, at);
        }
    }
    let parents: Vec<Option<usize>> = spans
        .iter()
        .enumerate()
        .map(|(at, (_, span))| {
            by_id
                .get(&span.parent_span_id[..])
                .copied()
                .filter(|parent| *parent != at)
        })
        .collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
    for (at, parent) in parents.iter().enumerate() {
        if let Some(parent) = parent {
            children[*parent].push(at);
        }
    }
    let mut flat = FlatTrace {
        trace_id,
        spans: Vec::with_capacity(spans.len()),
        warnings: warnings(&spans, side, twice),
    };
    let mut seen = vec![false; spans.len()];
    let mut top = 0;
    let roots = (0..spans.len()).filter(|at| parents[*at].is_none());
    // What hangs in a cycle hangs below nothing and comes last.
    for root in roots.chain(0..spans.len()) {
        if seen[root] {
            continue;
        }
        let mut stack = vec![(root, vec![top])];
        top += 1;
        while let Some((at, path)) = stack.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let below: Vec<usize> = children[at].iter().copied().filter(|child| !seen[*child]).collect();
            for (number, child) in below.into_iter().enumerate().rev() {
                stack.push((child, [&path[..], &[number]].concat()));
            }
            let parent = parents[at].map(|parent| identity(spans[parent]));
            flat.spans.push(flat_span(spans[at], parent, path));
        }
    }
    flat
}

fn warnings(spans: &[(&str, &Span)], side: &str, twice: usize) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code, message| warnings.push(Warning { code, message });
    if spans.is_empty() {
        warn("zero_span_trace", format!("the {side} trace has no spans"));
    }
    if twice > 0 {
        warn(
            "duplicate_span_id",
            format!("the {side} trace has {twice} spans whose id another span has too"),
        );
    }
    let invalid = spans.iter().filter(|(_, span)| duration(span).is_none()).count();
    if invalid > 0 {
        warn(
            "invalid_duration",
            format!("the {side} trace has {invalid} spans that end before they start or lack a time"),
        );
    }
    if spans.iter().any(|(_, span)| names_a_request(&span.name)) {
        warn(
            "high_cardinality_span_name",
            "some span names hold ids, so that spans which do the same do not match".to_owned(),
        );
    }
    warnings
}

/// A word of the name is a long number or looks like a hash or UUID.
fn names_a_request(name: &str) -> bool {
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.any(|word| {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let hex = word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        (digits == word.len() && digits >= 6) || (hex && word.len() >= 16 && digits >= 2)
    })
}

fn identity((service, span): (&str, &Span)) -> Identity {
    Identity {
        service: service.to_owned(),
        name: span.name.clone(),
        kind: match span.kind {
            1 => "internal",
            2 => "server",
            3 => "client",
            4 => "producer",
            5 => "consumer",
            _ => "unspecified",
        },
    }
}

fn flat_span(of: (&str, &Span), parent: Option<Identity>, path: Vec<usize>) -> FlatSpan {
    let span = of.1;
    FlatSpan {
        identity: identity(of),
        parent,
        path,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        duration_nanos: duration(span),
        status: match span.status.as_ref().map_or(0, |status| status.code) {
            1 => "ok",
            2 => "error",
            _ => "unset",
        },
        attributes: span
            .attributes
            .iter()
            .map(|pair| (pair.key.clone(), pair.value.as_ref().map_or(Value::Null, plain)))
            .collect(),
    }
}

fn duration(span: &Span) -> Option<i64> {
    let nanos = span.end_time_unix_nano.checked_sub(span.start_time_unix_nano)?;
    (span.start_time_unix_nano > 0).then(|| i64::try_from(nanos).ok())?
}

fn text_of<'a>(mut attributes: impl Iterator<Item = &'a KeyValue>, key: &str) -> Option<&'a str> {
    match attributes
        .find(|pair| pair.key == key)?
        .value
        .as_ref()?
        .value
        .as_ref()?
    {
        Any::StringValue(text) => Some(text),
        _ => None,
    }
}

fn plain(value: &AnyValue) -> Value {
    match &value.value {
        None => Value::Null,
        Some(Any::StringValue(text)) => text.as_str().into(),
        Some(Any::BoolValue(value)) => (*value).into(),
        Some(Any::IntValue(value)) => (*value).into(),
        // JSON has no NaN and no infinities; their text is better than nothing.
        Some(Any::DoubleValue(value)) => {
            serde_json::Number::from_f64(*value).map_or_else(|| value.to_string().into(), Value::Number)
        }
        Some(Any::ArrayValue(items)) => items.values.iter().map(plain).collect(),
        Some(Any::KvlistValue(pairs)) => {
            let pair = |pair: &KeyValue| (pair.key.clone(), pair.value.as_ref().map_or(Value::Null, plain));
            Value::Object(pairs.values.iter().map(pair).collect())
        }
        Some(Any::BytesValue(bytes)) => hex(bytes).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
