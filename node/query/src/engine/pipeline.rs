//! Runs the stages of a plan over one trace at a time.
//!
//! Spans are positions in the trace's run of rows ([`super::context::TraceRun`]); a spanset is a list of them, ascending.
//! The filters were evaluated for the whole chunk before; here they are one bit each.

use std::cell::{Cell as StdCell, OnceCell};
use std::collections::BTreeMap;

use model::TraceId;

use super::context::{Context, TraceRun};
use super::filter::filter;
use super::read::Runner;
use super::row_expr::arith;
use super::structure::relate;
use crate::ast::{Aggregate, Flavour, SpansetOp};
use crate::error::{Error, Result};
use crate::plan::{Plan, Scalar, ScalarStep, SpansetStep, Step};
use crate::rowset::RowSet;
use crate::value::Static;

/// One trace in so many is few.
const FEW_TRACES: usize = 16;

/// Some spans of one trace, and what is known of them together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spanset {
    /// Ascending, never empty once it left a stage.
    pub(crate) positions: Vec<u32>,
    /// Group values and aggregates, labelled as written.
    pub(crate) attributes: Vec<(String, Static)>,
}

/// A plan at work on one chunk.
pub(crate) struct Run<'p, 'c> {
    pub(crate) ctx: &'p Context<'c>,
    plan: &'p Plan,
    leaves: Vec<OnceCell<RowSet>>,
    /// Rows any of the first step's filters keep: all that later stages can see.
    seen: OnceCell<RowSet>,
    runners: Vec<OnceCell<Runner<'p, 'c>>>,
    join_steps: StdCell<u64>,
}

/// Which of the first step's filters keep, or may keep once the trace is joined, a span of a trace: a bit each.
///
/// What its parts are marked with adds up; [`Plan::may_join`] says whether the whole may be in the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u64);

impl Marks {
    /// Filters with a bit of their own; the rest share the last one.
    const BITS: usize = 64;

    fn of(leaf: usize) -> Marks {
        Marks(1 << leaf.min(Self::BITS - 1))
    }

    fn has(self, leaf: usize) -> bool {
        self.0 & Marks::of(leaf).0 != 0
    }

    /// Adds those of another part.
    pub fn add(&mut self, other: Marks) {
        self.0 |= other.0;
    }
}

impl Plan {
    /// Whether a trace with these marks may pass the first step.
    pub(crate) fn may_join(&self, marks: Marks) -> bool {
        match self.steps.first() {
            Some(Step::Spanset(first)) => may_pass(first, marks),
            _ => true,
        }
    }
}

fn may_pass(step: &SpansetStep, marks: Marks) -> bool {
    match step {
        SpansetStep::Leaf(leaf) => marks.has(*leaf),
        SpansetStep::Op(SpansetOp::Or, lhs, rhs) => may_pass(lhs, marks) || may_pass(rhs, marks),
        SpansetStep::Op(SpansetOp::Structural(_, Flavour::Negated), _, rhs) => may_pass(rhs, marks),
        SpansetStep::Op(_, lhs, rhs) => may_pass(lhs, marks) && may_pass(rhs, marks),
        SpansetStep::Pipeline(steps) => match steps.first() {
            Some(Step::Spanset(first)) => may_pass(first, marks),
            _ => true,
        },
    }
}

/// The traces a chunk contributes.
pub(crate) struct Candidates {
    /// Ordinals of traces that stand whole in the chunk and may be in the answer, ascending.
    pub(crate) whole: Vec<u32>,
    /// Ordinals of traces that are also elsewhere and may be in the answer once joined, ascending, with the marks of
    /// what stands here.
    pub(crate) split: Vec<(u32, Marks)>,
}

impl<'p, 'c> Run<'p, 'c> {
    pub(crate) fn new(ctx: &'p Context<'c>, plan: &'p Plan) -> Run<'p, 'c> {
        Run {
            ctx,
            plan,
            leaves: plan.leaves.iter().map(|_| OnceCell::new()).collect(),
            seen: OnceCell::new(),
            runners: plan.programs.iter().map(|_| OnceCell::new()).collect(),
            join_steps: StdCell::new(0),
        }
    }

    /// Evaluates the first step's filters and says which traces are worth a closer look. Must come before
    /// [`Run::trace`].
    ///
    /// Only traces of `wanted`, a set of ordinals, are looked at; None: all.
    pub(crate) fn candidates(
        &self,
        is_split: &dyn Fn(&TraceId) -> bool,
        wanted: Option<&RowSet>,
    ) -> Result<Candidates> {
        let ctx = self.ctx;
        let traces = ctx.traces()?;
        let split: Vec<bool> = traces.ids.iter().map(is_split).collect();
        let mut whole_rows = match wanted {
            None => RowSet::full(ctx.rows),
            Some(wanted) => self.rows_of(wanted)?,
        };
        let split_rows = split.contains(&true).then(|| {
            let mut rows = RowSet::from_values(traces.ordinals, |ordinal| split[ordinal as usize]);
            rows.keep_common(&whole_rows);
            rows
        });
        if let Some(split_rows) = &split_rows {
            whole_rows.remove_all(split_rows);
        }
        let mut seen = RowSet::empty(ctx.rows);
        let mut parts: BTreeMap<u32, Marks> = BTreeMap::new();
        let first_leaves = self.plan.leaves[..self.plan.first_leaves].iter();
        for (i, (leaf, slot)) in first_leaves.zip(&self.leaves).enumerate() {
            let found = filter(ctx, leaf, &whole_rows)?;
            seen.add_all(&found);
            let _ = slot.set(found);
            if let Some(split_rows) = &split_rows {
                let found = filter(ctx, &leaf.relaxed(), split_rows)?;
                for ordinal in self.ordinals_of(&found)?.iter() {
                    parts.entry(ordinal).or_default().add(Marks::of(i));
                }
            }
        }
        let whole = match self.plan.steps.first() {
            Some(Step::Spanset(first)) => self.first_ordinals(first)?,
            _ => self.ordinals_of(&seen)?,
        };
        let _ = self.seen.set(seen);
        Ok(Candidates {
            whole: whole.iter().collect(),
            split: parts.into_iter().collect(),
        })
    }

    /// Traces, as a set of ordinals, for which the step may give something.
    fn first_ordinals(&self, step: &SpansetStep) -> Result<RowSet> {
        Ok(match step {
            SpansetStep::Leaf(leaf) => self.ordinals_of(self.leaf(*leaf)?)?,
            SpansetStep::Op(SpansetOp::Or, lhs, rhs) => {
                let mut both = self.first_ordinals(lhs)?;
                both.add_all(&self.first_ordinals(rhs)?);
                both
            }
            SpansetStep::Op(SpansetOp::Structural(_, Flavour::Negated), _, rhs) => self.first_ordinals(rhs)?,
            SpansetStep::Op(_, lhs, rhs) => {
                let mut both = self.first_ordinals(lhs)?;
                both.keep_common(&self.first_ordinals(rhs)?);
                both
            }
            SpansetStep::Pipeline(steps) => match steps.first() {
                Some(Step::Spanset(first)) => self.first_ordinals(first)?,
                // Sees all spans of the stage's input.
                _ => {
                    let all = RowSet::full(self.ctx.rows);
                    self.ordinals_of(&all)?
                }
            },
        })
    }

    fn ordinals_of(&self, rows: &RowSet) -> Result<RowSet> {
        let traces = self.ctx.traces()?;
        let mut ordinals = RowSet::empty(traces.ids.len());
        rows.iter()
            .for_each(|row| ordinals.insert(traces.ordinals[row as usize]));
        Ok(ordinals)
    }

    /// The rows of some traces.
    fn rows_of(&self, wanted: &RowSet) -> Result<RowSet> {
        let traces = self.ctx.traces()?;
        let mut rows = RowSet::empty(self.ctx.rows);
        // Few are looked up where they stand together; to look up many costs more than to look at all rows.
        if traces.in_preorder && wanted.iter().nth(traces.ids.len() / FEW_TRACES).is_none() {
            for ordinal in wanted.iter() {
                if let TraceRun::Range(start, end) = self.ctx.run(ordinal)? {
                    rows.insert_range(start, end);
                }
            }
            return Ok(rows);
        }
        rows.add_all(&RowSet::from_values(traces.ordinals, |ordinal| {
            wanted.contains(ordinal)
        }));
        Ok(rows)
    }

    fn leaf(&self, leaf: usize) -> Result<&RowSet> {
        if let Some(known) = self.leaves[leaf].get() {
            return Ok(known);
        }
        let all = RowSet::full(self.ctx.rows);
        let within = if leaf < self.plan.first_leaves {
            &all
        } else {
            self.seen.get().unwrap_or(&all)
        };
        let found = filter(self.ctx, &self.plan.leaves[leaf], within)?;
        Ok(self.leaves[leaf].get_or_init(|| found))
    }

    fn runner(&self, program: usize) -> Result<&Runner<'p, 'c>> {
        if let Some(known) = self.runners[program].get() {
            return Ok(known);
        }
        let runner = Runner::new(self.ctx, &self.plan.programs[program])?;
        Ok(self.runners[program].get_or_init(|| runner))
    }

    /// The rows that the only filter of the plan keeps, in traces that stand whole in the chunk.
    pub(crate) fn only_filter_rows(&self) -> Option<&RowSet> {
        self.plan.only_filter()?;
        self.seen.get()
    }

    /// The spansets of one whole trace. Empty when it is not in the answer.
    pub(crate) fn trace(&self, ordinal: u32) -> Result<Vec<Spanset>> {
        self.join_steps.set(0);
        let run = self.ctx.run(ordinal)?;
        let all = Spanset {
            positions: (0..run.len() as u32).collect(),
            attributes: Vec::new(),
        };
        self.steps(&self.plan.steps, ordinal, run, vec![all])
    }

    fn steps(&self, steps: &[Step], ordinal: u32, run: TraceRun<'_>, input: Vec<Spanset>) -> Result<Vec<Spanset>> {
        let mut sets = input;
        for step in steps {
            sets = match step {
                Step::Spanset(spanset) => {
                    let mut kept = Vec::new();
                    for set in &sets {
                        kept.extend(self.spanset(spanset, ordinal, run, set)?);
                    }
                    kept
                }
                Step::Scalar(filter) => {
                    let mut kept = Vec::new();
                    for set in sets {
                        kept.extend(self.scalar_filter(filter, ordinal, run, set)?);
                    }
                    kept
                }
                Step::By(program, label) => {
                    let mut groups = Vec::new();
                    for set in sets {
                        groups.extend(self.group(*program, label, run, set)?);
                    }
                    groups
                }
                Step::Coalesce => coalesce(sets).into_iter().collect(),
            };
            if sets.is_empty() {
                break;
            }
        }
        Ok(sets)
    }

    fn spanset(&self, step: &SpansetStep, ordinal: u32, run: TraceRun<'_>, input: &Spanset) -> Result<Vec<Spanset>> {
        match step {
            SpansetStep::Leaf(leaf) => {
                let kept = self.leaf(*leaf)?;
                let positions: Vec<u32> = input
                    .positions
                    .iter()
                    .copied()
                    .filter(|at| kept.contains(run.row(*at)))
                    .collect();
                Ok(non_empty(positions, input.attributes.clone()))
            }
            SpansetStep::Pipeline(steps) => self.steps(steps, ordinal, run, vec![input.clone()]),
            SpansetStep::Op(op, lhs, rhs) => {
                let lhs = coalesce(self.spanset(lhs, ordinal, run, input)?);
                // An empty side decides most operators; the other one need not be worked out then.
                if lhs.is_none() && !matches!(op, SpansetOp::Or | SpansetOp::Structural(_, Flavour::Negated)) {
                    return Ok(Vec::new());
                }
                let rhs = coalesce(self.spanset(rhs, ordinal, run, input)?);
                Ok(match (op, lhs, rhs) {
                    (SpansetOp::And, Some(lhs), Some(rhs)) => coalesce(vec![lhs, rhs]).into_iter().collect(),
                    (SpansetOp::And, ..) => Vec::new(),
                    (SpansetOp::Or, lhs, rhs) => coalesce(lhs.into_iter().chain(rhs).collect()).into_iter().collect(),
                    (SpansetOp::Structural(..), _, None) => Vec::new(),
                    (SpansetOp::Structural(relation, flavour), lhs, Some(rhs)) => {
                        self.spend_join(run.len())?;
                        let tree = self.ctx.tree(ordinal)?;
                        let lhs = lhs.unwrap_or_default();
                        let positions = relate(&tree, *relation, *flavour, &lhs.positions, &rhs.positions);
                        non_empty(positions, merge_attributes([lhs.attributes, rhs.attributes]))
                    }
                })
            }
        }
    }

    fn spend_join(&self, steps: usize) -> Result<()> {
        self.ctx.budget.check()?;
        let spent = self.join_steps.get() + steps as u64;
        let limit = self.ctx.budget.limits().join_steps_max;
        if spent > limit {
            return Err(Error::Exhausted {
                what: "join steps in one trace",
                limit,
                name: "query_join_steps_max",
            });
        }
        self.join_steps.set(spent);
        Ok(())
    }

    /// One spanset per value, in the order of the values.
    fn group(&self, program: usize, label: &str, run: TraceRun<'_>, set: Spanset) -> Result<Vec<Spanset>> {
        let runner = self.runner(program)?;
        let mut groups: Vec<(Static, Vec<u32>)> = Vec::new();
        let mut keyed = Vec::with_capacity(set.positions.len());
        for at in set.positions {
            keyed.push((runner.run(self.ctx, run.row(at))?.value, at));
        }
        // Stable, so that positions stay ascending inside a group.
        keyed.sort_by(|(a, _), (b, _)| a.total_order(b));
        for (value, at) in keyed {
            match groups.last_mut() {
                Some((known, positions)) if known.total_order(&value).is_eq() => positions.push(at),
                _ => groups.push((value, vec![at])),
            }
        }
        let with_label = |value: Static| {
            let mut attributes = set.attributes.clone();
            attributes.push((label.to_owned(), value));
            attributes
        };
        Ok(groups
            .into_iter()
            .map(|(value, positions)| Spanset {
                positions,
                attributes: with_label(value),
            })
            .collect())
    }

    fn scalar_filter(
        &self,
        step: &ScalarStep,
        ordinal: u32,
        run: TraceRun<'_>,
        set: Spanset,
    ) -> Result<Option<Spanset>> {
        let mut noted = Noted::default();
        let lhs = self.scalar(&step.lhs, ordinal, run, &set, &mut noted)?;
        let rhs = self.scalar(&step.rhs, ordinal, run, &set, &mut noted)?;
        if !lhs.order(&rhs).is_some_and(|ordering| step.op.accepts(ordering)) {
            return Ok(None);
        }
        let mut kept = set;
        if noted.has_pipelines {
            // The question was about the spans of the pipelines in brackets, so those are shown.
            kept.positions = noted.positions;
            kept.positions.sort_unstable();
            kept.positions.dedup();
        }
        kept.attributes = merge_attributes([kept.attributes, noted.attributes]);
        Ok((!kept.positions.is_empty()).then_some(kept))
    }

    fn scalar(
        &self,
        scalar: &Scalar,
        ordinal: u32,
        run: TraceRun<'_>,
        set: &Spanset,
        noted: &mut Noted,
    ) -> Result<Static> {
        match scalar {
            Scalar::Static(value) => Ok(value.clone()),
            Scalar::Aggregate(aggregate, program, label) => {
                let value = match program {
                    None => Static::Int(set.positions.len() as i64),
                    Some(program) => {
                        let runner = self.runner(*program)?;
                        let mut values = Vec::with_capacity(set.positions.len());
                        for at in &set.positions {
                            let cell = runner.run(self.ctx, run.row(*at))?;
                            values.extend(cell.items().iter().filter(|item| item.as_f64().is_some()).cloned());
                        }
                        fold(*aggregate, &values)
                    }
                };
                if value != Static::Nil {
                    noted.attributes.push((label.clone(), value.clone()));
                }
                Ok(value)
            }
            Scalar::Arith(op, lhs, rhs) => {
                let lhs = self.scalar(lhs, ordinal, run, set, noted)?;
                let rhs = self.scalar(rhs, ordinal, run, set, noted)?;
                Ok(arith(*op, &lhs, &rhs))
            }
            Scalar::Pipeline(steps, value, label) => {
                noted.has_pipelines = true;
                // A pipeline that finds nothing is an empty spanset, which can still be counted.
                let input = Spanset {
                    positions: set.positions.clone(),
                    attributes: Vec::new(),
                };
                let found = coalesce(self.steps(steps, ordinal, run, vec![input])?).unwrap_or_default();
                noted.positions.extend_from_slice(&found.positions);
                let mut inner = Noted::default();
                let value = self.scalar(value, ordinal, run, &found, &mut inner)?;
                noted.positions.append(&mut inner.positions);
                if value != Static::Nil {
                    noted.attributes.push((label.clone(), value.clone()));
                }
                Ok(value)
            }
        }
    }
}

/// What a scalar filter comes across.
#[derive(Default)]
struct Noted {
    attributes: Vec<(String, Static)>,
    has_pipelines: bool,
    positions: Vec<u32>,
}

fn non_empty(positions: Vec<u32>, attributes: Vec<(String, Static)>) -> Vec<Spanset> {
    if positions.is_empty() {
        Vec::new()
    } else {
        vec![Spanset { positions, attributes }]
    }
}

/// All spans in one; labels that differ between the sets are dropped, they say nothing about the whole.
pub(crate) fn coalesce(sets: Vec<Spanset>) -> Option<Spanset> {
    if sets.len() < 2 {
        return sets.into_iter().next();
    }
    let mut one = Spanset::default();
    let mut labels: Vec<(String, Option<Static>)> = Vec::new();
    for set in sets {
        one.positions.extend(set.positions);
        for (label, value) in set.attributes {
            match labels.iter_mut().find(|(known, _)| *known == label) {
                Some((_, known)) if known.as_ref() == Some(&value) => {}
                Some((_, known)) => *known = None,
                None => labels.push((label, Some(value))),
            }
        }
    }
    one.positions.sort_unstable();
    one.positions.dedup();
    one.attributes = labels
        .into_iter()
        .filter_map(|(label, value)| Some((label, value?)))
        .collect();
    Some(one)
}

/// The labels of both, each once, the later value counting.
fn merge_attributes(lists: [Vec<(String, Static)>; 2]) -> Vec<(String, Static)> {
    let [mut merged, more] = lists;
    for (label, value) in more {
        match merged.iter_mut().find(|(known, _)| *known == label) {
            Some((_, known)) => *known = value,
            None => merged.push((label, value)),
        }
    }
    merged
}

/// Folds numbers; nil when there are none. Any float makes the result a float, else any duration makes it a duration.
pub(crate) fn fold(aggregate: Aggregate, values: &[Static]) -> Static {
    if values.is_empty() {
        return Static::Nil;
    }
    let by_order = |a: &&Static, b: &&Static| {
        a.order(b)
            .filter(|ordering| ordering.is_ne())
            .unwrap_or_else(|| a.total_order(b))
    };
    match aggregate {
        Aggregate::Count => Static::Int(values.len() as i64),
        Aggregate::Min => values.iter().min_by(by_order).cloned().unwrap_or(Static::Nil),
        Aggregate::Max => values.iter().max_by(by_order).cloned().unwrap_or(Static::Nil),
        Aggregate::Sum | Aggregate::Avg => {
            let has_float = values.iter().any(|v| matches!(v, Static::Float(_)));
            let has_duration = values.iter().any(|v| matches!(v, Static::Duration(_)));
            if has_float {
                // Sorted, so that the sum does not depend on the order of the spans.
                let mut floats: Vec<f64> = values.iter().filter_map(Static::as_f64).collect();
                floats.sort_by(f64::total_cmp);
                let sum: f64 = floats.iter().sum();
                return Static::Float(if aggregate == Aggregate::Sum {
                    sum
                } else {
                    sum / floats.len() as f64
                });
            }
            let whole = |v: &Static| match v {
                Static::Int(v) | Static::Duration(v) => i128::from(*v),
                _ => 0,
            };
            let sum: i128 = values.iter().map(whole).sum();
            let clamp = |v: i128| i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX });
            match (aggregate, has_duration) {
                (Aggregate::Sum, false) => Static::Int(clamp(sum)),
                (Aggregate::Sum, true) => Static::Duration(clamp(sum)),
                (_, true) => Static::Duration(clamp(sum / values.len() as i128)),
                (_, false) => Static::Float(sum as f64 / values.len() as f64),
            }
        }
    }
}
