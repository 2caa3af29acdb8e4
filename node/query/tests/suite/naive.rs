//! The simplest evaluator: walks the query over owned spans, whole traces at a time, with no columns and no plan.

use std::collections::BTreeMap;

use model::Value;
use query::SearchRequest;
use query::answer::{Root, ServiceStats, SpanMatch, SpansetMatch, TraceMatch};
use query::ast::{
    Aggregate, ArithOp, Body, Expr, Flavour, LogicOp, Pipeline, Query, Relation, ScalarExpr, SpansetExpr, SpansetOp,
    Stage,
};
use query::field::{Field, Intrinsic, Name, PRECEDENCE};
use query::value::{CompareOp, SpanKind, Static, Status};

use crate::spans::{Span, span_id, trace_id};

/// Index of each span's parent; `spans` are one trace, by start and id.
pub(crate) fn parents(spans: &[Span]) -> Vec<Option<usize>> {
    let find = |span: &Span| spans.iter().position(|other| other.id == span.parent);
    let mut parents: Vec<Option<usize>> = spans
        .iter()
        .enumerate()
        .map(|(at, span)| {
            if span.parent == 0 {
                None
            } else {
                find(span).filter(|found| *found != at)
            }
        })
        .collect();
    // A cycle is cut at its earliest span, which is one that comes back to itself.
    for at in 0..spans.len() {
        let mut up = parents[at];
        for _ in 0..spans.len() {
            up = up.filter(|up| *up != at).map_or(up, |up| parents[up]);
        }
        if up == Some(at) {
            parents[at] = None;
        }
    }
    parents
}

/// One trace with its tree.
pub(crate) struct Trace {
    /// By start and id.
    pub(crate) spans: Vec<Span>,
    parents: Vec<Option<usize>>,
    left: Vec<i64>,
    right: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Set {
    pub(crate) spans: Vec<usize>,
    pub(crate) attributes: Vec<(String, Static)>,
}

/// Values of a field: all of them, and whether they stem from events or links.
type Values = (Vec<Static>, bool);

pub(crate) fn traces(spans: &[Span]) -> Vec<Trace> {
    let mut by_id: BTreeMap<u8, Vec<Span>> = BTreeMap::new();
    spans
        .iter()
        .for_each(|span| by_id.entry(span.trace).or_default().push(span.clone()));
    by_id
        .into_values()
        .map(|mut spans| {
            spans.sort_by_key(|span| (span.start, span.id));
            let parents = parents(&spans);
            let n = spans.len();
            let mut trace = Trace {
                spans,
                parents,
                left: vec![0; n],
                right: vec![0; n],
            };
            let mut count = 0;
            for top in 0..n {
                if trace.parents[top].is_none() {
                    trace.number(top, &mut count);
                }
            }
            trace
        })
        .collect()
}

/// The answer to a search, newest first.
pub(crate) fn search(query: &Query, request: &SearchRequest, spans: &[Span]) -> Vec<TraceMatch> {
    let Body::Search(pipeline) = &query.body else {
        panic!("not a search: {query}")
    };
    let window = request.window;
    let mut found: Vec<TraceMatch> = traces(spans)
        .iter()
        .filter(|trace| {
            trace
                .spans
                .iter()
                .any(|s| s.start <= window.end_unix_nanos && s.end() >= window.start_unix_nanos)
        })
        .filter_map(|trace| {
            let sets = trace.run(pipeline);
            (!sets.is_empty()).then(|| trace.answer(query, request, sets))
        })
        .collect();
    found.sort_by_key(TraceMatch::place);
    found.retain(|found| request.after.is_none_or(|after| found.place() > after));
    found.truncate(request.limit);
    found
}

impl Trace {
    fn number(&mut self, at: usize, count: &mut i64) {
        *count += 1;
        self.left[at] = *count;
        for child in 0..self.spans.len() {
            if self.parents[child] == Some(at) {
                self.number(child, count);
            }
        }
        *count += 1;
        self.right[at] = *count;
    }

    pub(crate) fn run(&self, pipeline: &Pipeline) -> Vec<Set> {
        self.stages(
            pipeline,
            Set {
                spans: (0..self.spans.len()).collect(),
                attributes: Vec::new(),
            },
        )
    }

    fn stages(&self, pipeline: &Pipeline, input: Set) -> Vec<Set> {
        let mut sets = vec![input];
        for stage in &pipeline.stages {
            sets = match stage {
                Stage::Spanset(expr) => sets.iter().flat_map(|set| self.spanset(expr, set)).collect(),
                Stage::Select(_) => sets,
                Stage::Coalesce => one(sets).into_iter().collect(),
                Stage::By(expr) => sets
                    .into_iter()
                    .flat_map(|set| {
                        let mut groups: Vec<(Static, Set)> = Vec::new();
                        for at in &set.spans {
                            let value = list(self.value(expr, *at).0);
                            match groups.iter_mut().find(|(known, _)| known.total_order(&value).is_eq()) {
                                Some((_, group)) => group.spans.push(*at),
                                None => {
                                    let mut attributes = set.attributes.clone();
                                    attributes.push((format!("by({expr})"), value.clone()));
                                    groups.push((
                                        value,
                                        Set {
                                            spans: vec![*at],
                                            attributes,
                                        },
                                    ));
                                }
                            }
                        }
                        groups.sort_by(|(a, _), (b, _)| a.total_order(b));
                        groups.into_iter().map(|(_, set)| set)
                    })
                    .collect(),
                Stage::Scalar(filter) => sets
                    .into_iter()
                    .filter_map(|set| {
                        let mut labels = Vec::new();
                        let mut inner = None;
                        let lhs = self.scalar(&filter.lhs, &set, &mut labels, &mut inner);
                        let rhs = self.scalar(&filter.rhs, &set, &mut labels, &mut inner);
                        let holds = lhs.order(&rhs).is_some_and(|o| filter.op.accepts(o));
                        let mut spans: Vec<usize> = inner.unwrap_or(set.spans);
                        spans.sort();
                        spans.dedup();
                        (holds && !spans.is_empty()).then(|| Set {
                            spans,
                            attributes: labelled(set.attributes, labels),
                        })
                    })
                    .collect(),
            };
        }
        sets
    }

    fn spanset(&self, expr: &SpansetExpr, input: &Set) -> Vec<Set> {
        let keep = |spans: Vec<usize>, attributes: Vec<(String, Static)>| {
            if spans.is_empty() {
                vec![]
            } else {
                vec![Set { spans, attributes }]
            }
        };
        match expr {
            SpansetExpr::Filter(filter) => {
                let kept = input.spans.iter().copied().filter(|at| {
                    filter
                        .as_ref()
                        .is_none_or(|expr| self.value(expr, *at).0.contains(&Static::Bool(true)))
                });
                keep(kept.collect(), input.attributes.clone())
            }
            SpansetExpr::Pipeline(pipeline) => self.stages(pipeline, input.clone()),
            SpansetExpr::Op { op, lhs, rhs } => {
                let (lhs, rhs) = (one(self.spanset(lhs, input)), one(self.spanset(rhs, input)));
                match op {
                    SpansetOp::And if lhs.is_none() || rhs.is_none() => vec![],
                    SpansetOp::And | SpansetOp::Or => one(lhs.into_iter().chain(rhs).collect()).into_iter().collect(),
                    SpansetOp::Structural(relation, flavour) => {
                        let empty = Set {
                            spans: vec![],
                            attributes: vec![],
                        };
                        let (lhs, rhs) = (lhs.unwrap_or(empty.clone()), rhs.unwrap_or(empty));
                        if *flavour != Flavour::Negated && (lhs.spans.is_empty() || rhs.spans.is_empty()) {
                            return vec![];
                        }
                        let stands = |r: &usize| lhs.spans.iter().any(|l| self.related(*relation, *l, *r));
                        let mut spans: Vec<usize> = match flavour {
                            Flavour::Negated => rhs.spans.iter().copied().filter(|r| !stands(r)).collect(),
                            _ => rhs.spans.iter().copied().filter(|r| stands(r)).collect(),
                        };
                        if *flavour == Flavour::Union {
                            let back = |l: &usize| rhs.spans.iter().any(|r| self.related(*relation, *l, *r));
                            spans.extend(lhs.spans.iter().copied().filter(|l| back(l)));
                        }
                        spans.sort();
                        spans.dedup();
                        keep(spans, labelled(lhs.attributes, rhs.attributes))
                    }
                }
            }
        }
    }

    /// Whether `l <relation> r` holds.
    fn related(&self, relation: Relation, l: usize, r: usize) -> bool {
        let above = |up: usize, down: usize| {
            let mut at = self.parents[down];
            while let Some(p) = at {
                if p == up {
                    return true;
                }
                at = self.parents[p];
            }
            false
        };
        let root = |at: usize| self.spans[at].parent == 0;
        match relation {
            Relation::Child => self.parents[r] == Some(l),
            Relation::Parent => self.parents[l] == Some(r),
            Relation::Descendant => above(l, r),
            Relation::Ancestor => above(r, l),
            Relation::Sibling => {
                let same = self.parents[l] == self.parents[r];
                l != r && same && (self.parents[l].is_some() || (root(l) && root(r)))
            }
        }
    }

    fn scalar(
        &self,
        scalar: &ScalarExpr,
        set: &Set,
        labels: &mut Vec<(String, Static)>,
        inner: &mut Option<Vec<usize>>,
    ) -> Static {
        match scalar {
            ScalarExpr::Static(value) => value.clone(),
            ScalarExpr::Arith { op, lhs, rhs } => {
                let lhs = self.scalar(lhs, set, labels, inner);
                let rhs = self.scalar(rhs, set, labels, inner);
                arith(*op, &lhs, &rhs)
            }
            ScalarExpr::Pipeline(pipeline, value) => {
                let input = Set {
                    spans: set.spans.clone(),
                    attributes: vec![],
                };
                let found = one(self.stages(pipeline, input)).unwrap_or(Set {
                    spans: vec![],
                    attributes: vec![],
                });
                inner.get_or_insert_default().extend(&found.spans);
                let value = self.scalar(value, &found, &mut vec![], inner);
                if value != Static::Nil {
                    labels.push((scalar.to_string(), value.clone()));
                }
                value
            }
            ScalarExpr::Aggregate(aggregate, expr) => {
                let value = match expr {
                    None => Static::Int(set.spans.len() as i64),
                    Some(expr) => {
                        let values = set.spans.iter().flat_map(|at| self.value(expr, *at).0);
                        fold(*aggregate, values.filter(|v| v.as_f64().is_some()).collect())
                    }
                };
                if value != Static::Nil {
                    labels.push((scalar.to_string(), value.clone()));
                }
                value
            }
        }
    }

    /// What an expression is worth for a span.
    pub(crate) fn value(&self, expr: &Expr, at: usize) -> Values {
        let truth = |value: bool| (vec![Static::Bool(value)], false);
        match expr {
            Expr::Static(Static::Nil) => (vec![], false),
            Expr::Static(value) => (vec![value.clone()], false),
            Expr::Field(field) => self.field(field, at),
            Expr::Not(inner) => {
                let (values, each) = self.value(inner, at);
                let negated = values.iter().filter_map(|v| match v {
                    Static::Bool(v) => Some(Static::Bool(!v)),
                    _ => None,
                });
                (negated.collect(), each)
            }
            Expr::Neg(inner) => {
                let (values, each) = self.value(inner, at);
                let zero = |v: &Static| match v {
                    Static::Float(v) => Static::Float(-v),
                    Static::Duration(_) => arith(ArithOp::Sub, &Static::Duration(0), v),
                    v => arith(ArithOp::Sub, &Static::Int(0), v),
                };
                (values.iter().map(zero).collect(), each)
            }
            Expr::Logic(op, operands) => {
                let mut values = operands
                    .iter()
                    .map(|o| self.value(o, at).0.contains(&Static::Bool(true)));
                truth(if *op == LogicOp::And {
                    values.all(|v| v)
                } else {
                    values.any(|v| v)
                })
            }
            Expr::Compare { op, lhs, rhs } => {
                let nil = |side: &Expr| *side == Expr::Static(Static::Nil);
                let (left, right) = (self.value(lhs, at), self.value(rhs, at));
                if nil(lhs) || nil(rhs) {
                    let missing = if nil(rhs) {
                        left.0.is_empty()
                    } else {
                        right.0.is_empty()
                    };
                    let asked = !(nil(lhs) && nil(rhs));
                    return truth(asked && missing == (*op == CompareOp::Eq));
                }
                let holds = |(a, b): (&Static, &Static)| match (op, a, b) {
                    (CompareOp::Match | CompareOp::NotMatch, Static::Str(a), Static::Str(b)) => {
                        let full = regex_lite(b);
                        full.is_match(a) == (*op == CompareOp::Match)
                    }
                    (CompareOp::Match | CompareOp::NotMatch, ..) => false,
                    _ => a.order(b).is_some_and(|o| op.accepts(o)),
                };
                let mut pairs = left.0.iter().flat_map(|a| right.0.iter().map(move |b| (a, b)));
                let all = op.wants_all() && !left.1 && !right.1;
                let any_pair = !left.0.is_empty() && !right.0.is_empty();
                truth(any_pair && if all { pairs.all(holds) } else { pairs.any(holds) })
            }
            Expr::Arith { op, lhs, rhs } => {
                let (left, right) = (self.value(lhs, at), self.value(rhs, at));
                if left.0.len() > 1 && right.0.len() > 1 {
                    return (vec![], false);
                }
                let pairs = left.0.iter().flat_map(|a| right.0.iter().map(move |b| (a, b)));
                let values = pairs.map(|(a, b)| arith(*op, a, b)).filter(|v| *v != Static::Nil);
                (values.collect(), left.1 || right.1)
            }
        }
    }

    pub(crate) fn field(&self, field: &Field, at: usize) -> Values {
        if field.of_parent {
            let own = Field {
                of_parent: false,
                name: field.name.clone(),
            };
            return self.parents[at].map_or((vec![], false), |p| self.field(&own, p));
        }
        let span = &self.spans[at];
        match &field.name {
            Name::Attribute(scope, key) => {
                let scopes = scope.map_or(PRECEDENCE.to_vec(), |scope| vec![scope]);
                for scope in scopes {
                    let stored = span.in_scope(scope, key);
                    let form = |v: &&Value| std::mem::discriminant(*v);
                    let mut values: Vec<Static> = stored.iter().flat_map(|v| plain(v)).collect();
                    let forms = stored.iter().filter(|v| !plain(v).is_empty()).map(form);
                    if forms.collect::<std::collections::HashSet<_>>().len() > 1 {
                        values.sort_by(Static::total_order);
                    }
                    if !values.is_empty() {
                        let each = matches!(scope, model::Scope::Event | model::Scope::Link);
                        return (values, each);
                    }
                }
                (vec![], false)
            }
            Name::Intrinsic(which, _) => self.intrinsic(*which, at),
        }
    }

    fn intrinsic(&self, which: Intrinsic, at: usize) -> Values {
        let span = &self.spans[at];
        let text = |text: &str| vec![Static::str(text)];
        let id = |n: u8| if n == 0 { vec![] } else { text(&span_id(n).to_string()) };
        let root = self.root();
        let values = match which {
            Intrinsic::Duration => vec![Static::Duration(span.duration.max(0))],
            Intrinsic::Name => text(&span.name),
            Intrinsic::Status => vec![Static::Status(Status::from_code(span.status))],
            Intrinsic::StatusMessage => text(&span.message),
            Intrinsic::Kind => vec![Static::Kind(SpanKind::from_code(span.kind))],
            Intrinsic::ChildCount => {
                vec![Static::Int(
                    self.parents.iter().filter(|p| **p == Some(at)).count() as i64
                )]
            }
            Intrinsic::SpanId => id(span.id),
            Intrinsic::ParentId => id(span.parent),
            Intrinsic::Parent => self.parents[at].map_or(vec![], |p| id(self.spans[p].id)),
            Intrinsic::NestedSetLeft => vec![Static::Int(self.left[at])],
            Intrinsic::NestedSetRight => vec![Static::Int(self.right[at])],
            Intrinsic::NestedSetParent => vec![Static::Int(match self.parents[at] {
                Some(p) => self.left[p],
                None if span.parent == 0 => -1,
                None => 0,
            })],
            Intrinsic::RootName => text(root.map_or("", |r| &self.spans[r].name)),
            Intrinsic::RootService => text(&root.map_or(String::new(), |r| self.service(r))),
            Intrinsic::TraceDuration => vec![Static::Duration((self.end() - self.start()) as i64)],
            Intrinsic::TraceId => text(&trace_id(span.trace).to_string()),
            Intrinsic::EventName => span.events.iter().map(|e| Static::str(&e.name)).collect(),
            Intrinsic::EventTimeSinceStart => span.events.iter().map(|e| Static::Duration(e.since_start)).collect(),
            Intrinsic::LinkTraceId => span
                .links
                .iter()
                .map(|l| Static::str(&trace_id(l.trace).to_string()))
                .collect(),
            Intrinsic::LinkSpanId => span
                .links
                .iter()
                .map(|l| Static::str(&span_id(l.span).to_string()))
                .collect(),
            Intrinsic::InstrumentationName => text(&span.library.0),
            Intrinsic::InstrumentationVersion => text(&span.library.1),
        };
        let each = matches!(
            which,
            Intrinsic::EventName | Intrinsic::EventTimeSinceStart | Intrinsic::LinkTraceId | Intrinsic::LinkSpanId
        );
        (values, each)
    }

    pub(crate) fn start(&self) -> u64 {
        self.spans.iter().map(|s| s.start).min().unwrap_or(0)
    }

    fn end(&self) -> u64 {
        self.spans.iter().map(Span::end).max().unwrap_or(0)
    }

    fn root(&self) -> Option<usize> {
        self.spans.iter().position(|s| s.parent == 0)
    }

    fn service(&self, at: usize) -> String {
        let values = self.spans[at].in_scope(model::Scope::Resource, "service.name");
        values
            .into_iter()
            .flat_map(plain)
            .next()
            .map_or(String::new(), |v| v.display())
    }

    fn answer(&self, query: &Query, request: &SearchRequest, sets: Vec<Set>) -> TraceMatch {
        let mut shown = Vec::new();
        if let Body::Search(pipeline) = &query.body {
            mentioned(pipeline, &mut shown);
        }
        let span = |at: usize| {
            let mut attributes: Vec<(String, Static)> = Vec::new();
            for field in &shown {
                let value = list(self.field(field, at).0);
                let key = if field.of_parent {
                    field.to_string()
                } else {
                    field.key().to_owned()
                };
                if value != Static::Nil && !attributes.contains(&(key.clone(), value.clone())) {
                    attributes.push((key, value));
                }
            }
            let span = &self.spans[at];
            SpanMatch {
                span_id: span_id(span.id),
                name: span.name.clone(),
                start_unix_nanos: span.start,
                duration_nanos: span.duration_nanos(),
                attributes,
            }
        };
        let cut = if request.spans_per_spanset == 0 {
            usize::MAX
        } else {
            request.spans_per_spanset
        };
        let mut services: BTreeMap<String, ServiceStats> = BTreeMap::new();
        for (at, span) in self.spans.iter().enumerate() {
            let stats = services.entry(self.service(at)).or_default();
            stats.span_count += 1;
            stats.error_count += u32::from(span.status == 2);
        }
        TraceMatch {
            trace_id: trace_id(self.spans[0].trace),
            start_unix_nanos: self.start(),
            duration_nanos: self.end() - self.start(),
            root: self.root().map(|r| Root {
                service: self.service(r),
                name: self.spans[r].name.clone(),
            }),
            spansets: sets
                .into_iter()
                .map(|set| SpansetMatch {
                    matched: set.spans.len() as u32,
                    spans: set.spans.iter().take(cut).map(|at| span(*at)).collect(),
                    attributes: set.attributes,
                })
                .collect(),
            services,
        }
    }
}

/// Patterns of the tests are alternations of literals and `.*` at an end, so that no regex engine is needed here.
struct Pattern<'a>(&'a str);

fn regex_lite(pattern: &str) -> Pattern<'_> {
    Pattern(pattern)
}

impl Pattern<'_> {
    fn is_match(&self, text: &str) -> bool {
        self.0
            .split('|')
            .any(|word| match (word.strip_prefix(".*"), word.strip_suffix(".*")) {
                (Some(tail), _) => text.ends_with(tail),
                (_, Some(head)) => text.starts_with(head),
                _ => text == word,
            })
    }
}

fn plain(value: &Value) -> Vec<Static> {
    match value {
        Value::String(text) => vec![Static::str(text)],
        Value::Bool(v) => vec![Static::Bool(*v)],
        Value::Int(v) => vec![Static::Int(*v)],
        Value::Double(v) => vec![Static::Float(*v)],
        Value::Array(items) => items.iter().flat_map(plain).collect(),
        _ => vec![],
    }
}

pub(crate) fn list(mut values: Vec<Static>) -> Static {
    match values.len() {
        0 => Static::Nil,
        1 => values.remove(0),
        _ => Static::List(values.into()),
    }
}

fn one(sets: Vec<Set>) -> Option<Set> {
    if sets.len() < 2 {
        return sets.into_iter().next();
    }
    let mut spans: Vec<usize> = sets.iter().flat_map(|s| s.spans.clone()).collect();
    spans.sort();
    spans.dedup();
    let mut attributes: Vec<(String, Static)> = Vec::new();
    for (label, value) in sets.iter().flat_map(|s| s.attributes.clone()) {
        let agrees = sets
            .iter()
            .flat_map(|s| &s.attributes)
            .all(|(l, v)| *l != label || *v == value);
        if agrees && !attributes.iter().any(|(l, _)| *l == label) {
            attributes.push((label, value));
        }
    }
    Some(Set { spans, attributes })
}

fn labelled(mut mine: Vec<(String, Static)>, more: Vec<(String, Static)>) -> Vec<(String, Static)> {
    for (label, value) in more {
        match mine.iter().position(|(l, _)| *l == label) {
            Some(at) => mine[at].1 = value,
            None => mine.push((label, value)),
        }
    }
    mine
}

fn arith(op: ArithOp, lhs: &Static, rhs: &Static) -> Static {
    let (Some(a), Some(b)) = (lhs.as_f64(), rhs.as_f64()) else {
        return Static::Nil;
    };
    let whole = |v: &Static| match v {
        Static::Int(v) | Static::Duration(v) => Some(i128::from(*v)),
        _ => None,
    };
    let durations = [lhs, rhs].iter().filter(|v| matches!(v, Static::Duration(_))).count();
    let float = match op {
        ArithOp::Add => a + b,
        ArithOp::Sub => a - b,
        ArithOp::Mul => a * b,
        ArithOp::Div => a / b,
        ArithOp::Mod => a % b,
        ArithOp::Pow => a.powf(b),
    };
    let plain_float = || {
        if float.is_nan() {
            Static::Nil
        } else {
            Static::Float(float)
        }
    };
    let ratio = durations == 2 && matches!(op, ArithOp::Mul | ArithOp::Div);
    if op == ArithOp::Pow && (durations > 0 || b < 0.0) || ratio {
        return plain_float();
    }
    match (whole(lhs), whole(rhs)) {
        (Some(a), Some(b)) => {
            let value = match op {
                ArithOp::Add => Some(a + b),
                ArithOp::Sub => Some(a - b),
                ArithOp::Mul => Some(a * b),
                ArithOp::Div => (b != 0).then(|| a / b),
                ArithOp::Mod => (b != 0).then(|| a % b),
                ArithOp::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            };
            match value.and_then(|v| i64::try_from(v).ok()) {
                Some(v) if durations > 0 => Static::Duration(v),
                Some(v) => Static::Int(v),
                None => Static::Nil,
            }
        }
        _ if durations > 0 => {
            if float.is_finite() && float.abs() < 9.2e18 {
                Static::Duration(float.round() as i64)
            } else {
                Static::Nil
            }
        }
        _ => plain_float(),
    }
}

fn fold(aggregate: Aggregate, values: Vec<Static>) -> Static {
    if values.is_empty() {
        return Static::Nil;
    }
    let mut sorted = values.clone();
    sorted.sort_by(|a, b| a.order(b).unwrap().then_with(|| a.total_order(b)));
    let mut floats: Vec<f64> = values.iter().filter_map(Static::as_f64).collect();
    floats.sort_by(f64::total_cmp);
    let sum: f64 = floats.iter().sum();
    let float = values.iter().any(|v| matches!(v, Static::Float(_)));
    let duration = values.iter().any(|v| matches!(v, Static::Duration(_)));
    match aggregate {
        Aggregate::Count => Static::Int(values.len() as i64),
        Aggregate::Min => sorted[0].clone(),
        Aggregate::Max => sorted[sorted.len() - 1].clone(),
        Aggregate::Sum if float => Static::Float(sum),
        Aggregate::Sum if duration => Static::Duration(sum as i64),
        Aggregate::Sum => Static::Int(sum as i64),
        Aggregate::Avg if float || !duration => Static::Float(sum / values.len() as f64),
        Aggregate::Avg => Static::Duration(sum as i64 / values.len() as i64),
    }
}

/// Fields a query mentions, but those that every answer shows anyway.
fn mentioned(pipeline: &Pipeline, out: &mut Vec<Field>) {
    fn expr(e: &Expr, out: &mut Vec<Field>) {
        match e {
            Expr::Static(_) => {}
            Expr::Field(field) => add(field, out),
            Expr::Not(e) | Expr::Neg(e) => expr(e, out),
            Expr::Logic(_, es) => es.iter().for_each(|e| expr(e, out)),
            Expr::Compare { lhs, rhs, .. } | Expr::Arith { lhs, rhs, .. } => {
                expr(lhs, out);
                expr(rhs, out);
            }
        }
    }
    fn add(field: &Field, out: &mut Vec<Field>) {
        use Intrinsic::{Duration, RootName, RootService, SpanId, TraceDuration, TraceId};
        let known = [
            Duration,
            Intrinsic::Name,
            TraceDuration,
            RootName,
            RootService,
            TraceId,
            SpanId,
        ];
        let own_place = matches!(&field.name, Name::Intrinsic(w, _) if !field.of_parent && known.contains(w));
        if !own_place && !out.contains(field) {
            out.push(field.clone());
        }
    }
    fn spanset(e: &SpansetExpr, out: &mut Vec<Field>) {
        match e {
            SpansetExpr::Filter(filter) => filter.iter().for_each(|e| expr(e, out)),
            SpansetExpr::Pipeline(p) => mentioned(p, out),
            SpansetExpr::Op { lhs, rhs, .. } => {
                spanset(lhs, out);
                spanset(rhs, out);
            }
        }
    }
    fn scalar(e: &ScalarExpr, out: &mut Vec<Field>) {
        match e {
            ScalarExpr::Static(_) | ScalarExpr::Aggregate(_, None) => {}
            ScalarExpr::Aggregate(_, Some(e)) => expr(e, out),
            ScalarExpr::Arith { lhs, rhs, .. } => {
                scalar(lhs, out);
                scalar(rhs, out);
            }
            ScalarExpr::Pipeline(p, value) => {
                mentioned(p, out);
                scalar(value, out);
            }
        }
    }
    for stage in &pipeline.stages {
        match stage {
            Stage::Spanset(e) => spanset(e, out),
            Stage::By(e) => expr(e, out),
            Stage::Coalesce => {}
            Stage::Select(fields) => fields.iter().for_each(|field| add(field, out)),
            Stage::Scalar(filter) => {
                scalar(&filter.lhs, out);
                scalar(&filter.rhs, out);
            }
        }
    }
}
