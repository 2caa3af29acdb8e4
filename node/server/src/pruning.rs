//! Leaves of a trace that are alike, folded into one span each that says how many they were and how long they took.
//!
//! ```text
//! Trace ─► tree ─► groups of leaves ─► groups of their parents, level by level ─► Trace
//! ```
//! Pure: a trace in, a trace out. What is folded and what a summary says is that of the Collector's span pruning
//! processor, which is what Tempo answers with too. Here the same trace is always folded to the same bytes: groups
//! stand in the order of their first spans, and a summary's id comes from the ids of its spans.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};

use globset::{Glob, GlobSet, GlobSetBuilder};
use prost::Message as _;
use twox_hash::XxHash64;
use wire::tempopb::Trace;
use wire::tempopb::common::v1::any_value::Value;
use wire::tempopb::common::v1::{AnyValue, ArrayValue, KeyValue};
use wire::tempopb::trace::v1::{ResourceSpans, ScopeSpans, Span};

#[cfg(test)]
mod tests;

/// Patterns of attributes that one question may name.
pub(crate) const PATTERNS_MAX: usize = 16;
/// Fewer leaves than this are not folded unless the question says otherwise.
const SPANS_MIN: usize = 5;
/// Levels of parents above the leaves.
const PARENT_LEVELS: u32 = 1;
/// One parent alone stays what it is.
const PARENTS_MIN: usize = 2;
/// What the attributes of a summary begin with.
const PREFIX: &str = "aggregation.";
/// Upper bounds of the latency histogram, in milliseconds.
const BUCKETS_MILLIS: [u32; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// What counts as alike, and how far up folding goes.
#[derive(Clone, Debug)]
pub(crate) struct Pruning {
    /// Attributes whose values must be the same. None: attributes do not matter.
    alike: GlobSet,
    spans_min: usize,
    /// `None`: up to the root.
    parent_levels: Option<u32>,
}

/// What became of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pruned {
    /// Nothing in it is alike often enough.
    Unchanged,
    /// Whoever sent it folded it. Folding summaries would falsify what they say.
    BeforeItCame,
    Here,
}

impl Pruned {
    /// What an answer says of it, if anything.
    pub(crate) fn reason(self) -> Option<&'static str> {
        match self {
            Self::Unchanged => None,
            Self::BeforeItCame => Some("the trace was pruned before it was received: this is all there is of it"),
            Self::Here => Some("similar spans are folded into summaries: without span_pruning all spans are returned"),
        }
    }
}

impl Pruning {
    /// `group_by` names patterns of attributes, separated by commas.
    ///
    /// Errors: which of the three is wrong, and how.
    pub(crate) fn new(
        group_by: Option<&str>,
        spans_min: Option<i64>,
        parent_levels: Option<i64>,
    ) -> Result<Self, String> {
        let patterns = group_by.unwrap_or_default().split(',').map(str::trim);
        let mut alike = GlobSetBuilder::new();
        for (count, pattern) in patterns.filter(|pattern| !pattern.is_empty()).enumerate() {
            if count == PATTERNS_MAX {
                return Err(format!(
                    "invalid span_pruning_group_by: more than {PATTERNS_MAX} patterns"
                ));
            }
            alike.add(Glob::new(pattern).map_err(|error| format!("invalid span_pruning_group_by: {}", error.kind()))?);
        }
        let alike = alike
            .build()
            .map_err(|error| format!("invalid span_pruning_group_by: {}", error.kind()))?;
        let spans_min = match spans_min {
            None => SPANS_MIN,
            Some(count @ 2..) => usize::try_from(count).unwrap_or(usize::MAX),
            Some(_) => return Err("invalid span_pruning_min_spans: must be 2 or more".to_owned()),
        };
        let parent_levels = match parent_levels {
            None => Some(PARENT_LEVELS),
            Some(-1) => None,
            Some(levels @ 0..) => Some(u32::try_from(levels).unwrap_or(u32::MAX)),
            Some(_) => return Err("invalid span_pruning_max_parent_depth: must be -1 or more".to_owned()),
        };
        Ok(Self {
            alike,
            spans_min,
            parent_levels,
        })
    }

    /// Folds what is alike.
    pub(crate) fn apply(&self, trace: &mut Trace) -> Pruned {
        let groups = {
            let spans: Vec<&Span> = spans(trace).collect();
            if spans.iter().any(|span| is_summary(span)) {
                return Pruned::BeforeItCame;
            }
            self.groups(&spans)
        };
        if groups.is_empty() {
            return Pruned::Unchanged;
        }
        fold(trace, &groups);
        Pruned::Here
    }

    /// What is folded into one span each: leaves first, then level by level what is above them.
    fn groups(&self, spans: &[&Span]) -> Vec<Group> {
        let tree = Tree::of(spans);
        let mut group_of: Vec<Option<usize>> = vec![None; spans.len()];
        let mut groups: Vec<Group> = Vec::new();
        let leaves = (0..spans.len()).filter(|at| tree.children[*at].is_empty());
        let leaves = together(leaves, |at| {
            let parent = tree.parent[at].map(|parent| spans[parent].name.as_str());
            (parent, shape(spans[at]), self.values(spans[at]))
        });
        let mut level: Vec<usize> = Vec::new();
        take(leaves, self.spans_min, spans, &mut groups, &mut group_of, &mut level);
        let mut levels = 0;
        while !level.is_empty() && self.parent_levels.is_none_or(|most| levels < most) {
            levels += 1;
            let mut seen = HashSet::new();
            let mut parents: Vec<usize> = level.iter().filter_map(|at| tree.parent[*at]).collect();
            parents.retain(|at| {
                let below = &tree.children[*at];
                seen.insert(*at)
                    && tree.parent[*at].is_some()
                    && group_of[*at].is_none()
                    && below.iter().all(|child| group_of[*child].is_some())
            });
            parents.sort_unstable();
            let parents = together(parents.into_iter(), |at| shape(spans[at]));
            level.clear();
            take(parents, PARENTS_MIN, spans, &mut groups, &mut group_of, &mut level);
        }
        let mut ids: HashSet<Vec<u8>> = spans.iter().map(|span| span.span_id.clone()).collect();
        for group in &mut groups {
            group.id = new_id(group, spans, &mut ids);
        }
        let summaries: Vec<Vec<u8>> = groups.iter().map(|group| group.id.clone()).collect();
        for group in &mut groups {
            let first = group.spans[0];
            let above = tree.parent[first].and_then(|parent| group_of[parent]);
            let span = spans[first];
            group.parent = match above {
                Some(above) => summaries[above].clone(),
                // Its own parent, by an id that is no more.
                None if span.parent_span_id == span.span_id => Vec::new(),
                None => span.parent_span_id.clone(),
            };
        }
        groups
    }

    /// Attributes whose values matter, in order of their names.
    fn values<'a>(&self, span: &'a Span) -> Vec<(&'a str, Vec<u8>)> {
        let mut values: Vec<(&str, Vec<u8>)> = Vec::new();
        for pair in &span.attributes {
            if self.alike.is_match(&pair.key) {
                let value = pair.value.as_ref().map(AnyValue::encode_to_vec);
                values.push((&pair.key, value.unwrap_or_default()));
            }
        }
        values.sort();
        values
    }
}

/// Spans that become one.
#[derive(Debug)]
struct Group {
    /// Numbers of the spans in the trace, ascending.
    spans: Vec<usize>,
    /// The one that took longest: what its summary looks like.
    longest: usize,
    id: Vec<u8>,
    parent: Vec<u8>,
}

/// Who stands below whom. A second span with the id of another has no children.
struct Tree {
    parent: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
}

impl Tree {
    fn of(spans: &[&Span]) -> Self {
        let mut by_id: HashMap<&[u8], usize> = HashMap::with_capacity(spans.len());
        for (at, span) in spans.iter().enumerate() {
            by_id.entry(&span.span_id).or_insert(at);
        }
        let mut children = vec![Vec::new(); spans.len()];
        let parent_of = |(at, span): (usize, &&Span)| {
            let parent = by_id.get(&span.parent_span_id[..]).copied();
            parent.filter(|parent| *parent != at && !span.parent_span_id.is_empty())
        };
        let parent: Vec<Option<usize>> = spans.iter().enumerate().map(parent_of).collect();
        for (at, parent) in parent.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent].push(at);
            }
        }
        Self { parent, children }
    }
}

fn spans(trace: &Trace) -> impl Iterator<Item = &Span> {
    let scopes = trace.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| &scope.spans)
}

fn is_summary(span: &Span) -> bool {
    span.attributes.iter().any(|pair| {
        let name = pair.key.strip_prefix(PREFIX);
        let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
        name == Some("is_summary") && matches!(value, Some(Value::BoolValue(true)))
    })
}

/// What spans of a group have in common. Sampled with another threshold, a span stands for another number of spans.
fn shape(span: &Span) -> (&str, i32, i32, &str) {
    let status = span.status.as_ref().map_or(0, |status| status.code);
    (&span.name, span.kind, status, &span.trace_state)
}

/// Groups with the same key, in the order of their first members.
fn together<K: Eq + Hash>(members: impl Iterator<Item = usize>, key: impl Fn(usize) -> K) -> Vec<Vec<usize>> {
    let mut place: HashMap<K, usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in members {
        let place = *place.entry(key(at)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(at);
    }
    groups
}

/// Makes groups of those that have enough members; what is in them is the level from which the next one is looked for.
fn take(
    candidates: Vec<Vec<usize>>,
    members_min: usize,
    spans: &[&Span],
    groups: &mut Vec<Group>,
    group_of: &mut [Option<usize>],
    level: &mut Vec<usize>,
) {
    for members in candidates.into_iter().filter(|members| members.len() >= members_min) {
        for at in &members {
            group_of[*at] = Some(groups.len());
        }
        level.extend_from_slice(&members);
        let longer = |longest: usize, at: usize| {
            if duration(spans[at]) > duration(spans[longest]) {
                at
            } else {
                longest
            }
        };
        groups.push(Group {
            longest: members.iter().copied().reduce(longer).unwrap_or_default(),
            spans: members,
            id: Vec::new(),
            parent: Vec::new(),
        });
    }
}

/// Nanoseconds; below zero for a span that ends before it starts.
fn duration(span: &Span) -> i64 {
    let nanos = i128::from(span.end_time_unix_nano) - i128::from(span.start_time_unix_nano);
    nanos.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// An id that no span of the trace has and that is the same whenever the same spans are folded.
fn new_id(group: &Group, spans: &[&Span], ids: &mut HashSet<Vec<u8>>) -> Vec<u8> {
    let mut hasher = XxHash64::with_seed(0);
    for at in &group.spans {
        spans[*at].span_id.hash(&mut hasher);
    }
    loop {
        let id = hasher.finish().to_be_bytes();
        if id != [0; 8] && ids.insert(id.to_vec()) {
            return id.to_vec();
        }
        id.hash(&mut hasher);
    }
}

/// Puts summaries in the place of what they stand for.
fn fold(trace: &mut Trace, groups: &[Group]) {
    let folded: HashSet<usize> = groups.iter().flat_map(|group| &group.spans).copied().collect();
    let summaries: HashMap<usize, Span> = {
        let spans: Vec<&Span> = spans(trace).collect();
        groups
            .iter()
            .map(|group| (group.longest, summary(group, &spans)))
            .collect()
    };
    let mut summaries = summaries;
    let mut at = 0;
    for scope in trace
        .resource_spans
        .iter_mut()
        .flat_map(|resource| &mut resource.scope_spans)
    {
        let spans = std::mem::take(&mut scope.spans);
        for span in spans {
            if let Some(summary) = summaries.remove(&at) {
                scope.spans.push(summary);
            } else if !folded.contains(&at) {
                scope.spans.push(span);
            }
            at += 1;
        }
    }
    for resource in &mut trace.resource_spans {
        resource
            .scope_spans
            .retain(|scope: &ScopeSpans| !scope.spans.is_empty());
    }
    trace
        .resource_spans
        .retain(|resource: &ResourceSpans| !resource.scope_spans.is_empty());
}

fn summary(group: &Group, spans: &[&Span]) -> Span {
    let mut summary = spans[group.longest].clone();
    let of_group = || group.spans.iter().map(|at| spans[*at]);
    summary.span_id.clone_from(&group.id);
    summary.parent_span_id.clone_from(&group.parent);
    summary.start_time_unix_nano = of_group()
        .map(|span| span.start_time_unix_nano)
        .min()
        .unwrap_or_default();
    summary.end_time_unix_nano = of_group().map(|span| span.end_time_unix_nano).max().unwrap_or_default();
    let durations: Vec<i64> = of_group().map(duration).collect();
    let total: i128 = durations.iter().copied().map(i128::from).sum();
    let total = total.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
    let count = group.spans.len() as i64;
    let within = |millis: u32| {
        let bound = i64::from(millis) * 1_000_000;
        Value::IntValue(durations.iter().filter(|duration| **duration <= bound).count() as i64)
    };
    let bounds = BUCKETS_MILLIS.map(|millis| Value::DoubleValue(f64::from(millis) / 1_000.0));
    let counts = BUCKETS_MILLIS.into_iter().map(within).chain([Value::IntValue(count)]);
    let least = durations.iter().copied().min().unwrap_or_default();
    let most = durations.iter().copied().max().unwrap_or_default();
    let said = [
        ("is_summary", Value::BoolValue(true)),
        ("span_count", Value::IntValue(count)),
        ("duration_min_ns", Value::IntValue(least)),
        ("duration_max_ns", Value::IntValue(most)),
        ("duration_total_ns", Value::IntValue(total)),
        ("duration_avg_ns", Value::IntValue(total / count.max(1))),
        ("histogram_bucket_bounds_s", list(bounds)),
        ("histogram_bucket_counts", list(counts)),
    ];
    // What a span brought under these names would be taken for the summary's.
    summary.attributes.retain(|pair| {
        let name = pair.key.strip_prefix(PREFIX);
        said.iter().all(|(known, _)| name != Some(known))
    });
    summary
        .attributes
        .extend(said.into_iter().map(|(name, value)| KeyValue {
            key: format!("{PREFIX}{name}"),
            value: Some(AnyValue { value: Some(value) }),
        }));
    summary
}

fn list(values: impl IntoIterator<Item = Value>) -> Value {
    let values = values
        .into_iter()
        .map(|value| AnyValue { value: Some(value) })
        .collect();
    Value::ArrayValue(ArrayValue { values })
}
