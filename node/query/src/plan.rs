//! From a checked query to what the engine runs.
//!
//! A plan numbers the span filters of a query ([`Plan::leaves`], evaluated column by column) and the expressions that
//! need a look at each span ([`Plan::programs`]), and keeps the stages as a tree over those numbers. It is made once and
//! shared by all threads; a peer makes the same plan from the query's text and the request.

pub(crate) mod explain;

use model::TraceId;

use crate::answer::Place;
use crate::ast::{
    Aggregate, ArithOp, Body, Expr, Flavour, Pipeline, Query, ScalarExpr, ScalarFilter, SpansetExpr, SpansetOp, Stage,
};
use crate::engine::pipeline::Marks;
use crate::engine::row_expr::Program;
use crate::error::{Error, Result};
use crate::field::{Field, Name};
use crate::predicate::{self, Predicate, expr_fields};
use crate::source::{Chunk, TimeRange};
use crate::value::{CompareOp, Static};

/// What a search asks beside its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchRequest {
    /// Only traces with a span that overlaps it. Such a trace is then looked at whole.
    pub window: TimeRange,
    /// Most traces answered, the newest first. At least 1.
    pub limit: usize,
    /// Most spans answered per spanset; 0 for all.
    pub spans_per_spanset: usize,
    /// Only traces behind this place, the last of an answer that was given before. None for the newest.
    pub after: Option<Place>,
}

/// A planned search.
#[derive(Clone, Debug)]
pub struct SearchPlan {
    pub(crate) request: SearchRequest,
    pub(crate) plan: Plan,
    /// Fields shown with each span, in order of mention.
    pub(crate) shown: Vec<Field>,
    text: String,
}

impl SearchPlan {
    /// Whether a trace that lies in several chunks may be in the answer, by the marks of all its parts.
    pub fn may_join(&self, marks: Marks) -> bool {
        self.plan.may_join(marks)
    }
}

/// A pipeline, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) leaves: Vec<Predicate>,
    /// How many of the leaves belong to the first step, which decides which traces are candidates.
    pub(crate) first_leaves: usize,
    pub(crate) programs: Vec<Program>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Spanset(SpansetStep),
    Scalar(ScalarStep),
    /// Index of the program and the label of its value.
    By(usize, String),
    Coalesce,
}

#[derive(Clone, Debug)]
pub(crate) enum SpansetStep {
    Leaf(usize),
    Op(SpansetOp, Box<SpansetStep>, Box<SpansetStep>),
    Pipeline(Vec<Step>),
}

#[derive(Clone, Debug)]
pub(crate) struct ScalarStep {
    pub(crate) op: CompareOp,
    pub(crate) lhs: Scalar,
    pub(crate) rhs: Scalar,
}

#[derive(Clone, Debug)]
pub(crate) enum Scalar {
    Static(Static),
    /// Index of the program (none for `count`) and the label of the value.
    Aggregate(Aggregate, Option<usize>, String),
    Arith(ArithOp, Box<Scalar>, Box<Scalar>),
    /// What it runs over, the value of that, and the label of the value.
    Pipeline(Vec<Step>, Box<Scalar>, String),
}

impl Plan {
    pub(crate) fn new(pipeline: &Pipeline) -> Result<Plan> {
        let mut plan = Plan {
            steps: Vec::new(),
            leaves: Vec::new(),
            first_leaves: 0,
            programs: Vec::new(),
        };
        let mut stages = pipeline.stages.iter();
        let first = match pipeline.stages.first() {
            Some(Stage::Spanset(expr)) => {
                stages.next();
                plan.spanset(expr)?
            }
            // A pipeline that starts with anything else starts with all spans.
            _ => plan.leaf(None)?,
        };
        plan.first_leaves = plan.leaves.len();
        plan.steps.push(Step::Spanset(first));
        for stage in stages {
            let step = plan.step(stage)?;
            plan.steps.extend(step);
        }
        Ok(plan)
    }

    /// The steps of a pipeline in brackets.
    fn steps(&mut self, pipeline: &Pipeline) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        if !matches!(pipeline.stages.first(), Some(Stage::Spanset(_))) {
            // Said aloud, so that the traces it sees are candidates.
            steps.push(Step::Spanset(self.leaf(None)?));
        }
        for stage in &pipeline.stages {
            steps.extend(self.step(stage)?);
        }
        Ok(steps)
    }

    /// None for stages that only say what to show.
    fn step(&mut self, stage: &Stage) -> Result<Option<Step>> {
        Ok(Some(match stage {
            Stage::Spanset(expr) => Step::Spanset(self.spanset(expr)?),
            Stage::Scalar(filter) => Step::Scalar(self.scalar_filter(filter)?),
            Stage::By(expr) => Step::By(self.program(expr)?, format!("by({expr})")),
            Stage::Coalesce => Step::Coalesce,
            Stage::Select(_) => return Ok(None),
        }))
    }

    fn spanset(&mut self, expr: &SpansetExpr) -> Result<SpansetStep> {
        Ok(match expr {
            SpansetExpr::Filter(filter) => self.leaf(filter.as_ref())?,
            SpansetExpr::Pipeline(pipeline) => SpansetStep::Pipeline(self.steps(pipeline)?),
            SpansetExpr::Op { op, lhs, rhs } => {
                SpansetStep::Op(*op, self.spanset(lhs)?.into(), self.spanset(rhs)?.into())
            }
        })
    }

    fn leaf(&mut self, filter: Option<&Expr>) -> Result<SpansetStep> {
        self.leaves.push(Predicate::compile(filter)?);
        Ok(SpansetStep::Leaf(self.leaves.len() - 1))
    }

    fn program(&mut self, expr: &Expr) -> Result<usize> {
        self.programs.push(Program::new(expr)?);
        Ok(self.programs.len() - 1)
    }

    fn scalar_filter(&mut self, filter: &ScalarFilter) -> Result<ScalarStep> {
        Ok(ScalarStep {
            op: filter.op,
            lhs: self.scalar(&filter.lhs)?,
            rhs: self.scalar(&filter.rhs)?,
        })
    }

    fn scalar(&mut self, scalar: &ScalarExpr) -> Result<Scalar> {
        Ok(match scalar {
            ScalarExpr::Static(value) => Scalar::Static(value.clone()),
            ScalarExpr::Aggregate(aggregate, expr) => {
                let program = expr.as_ref().map(|expr| self.program(expr)).transpose()?;
                Scalar::Aggregate(*aggregate, program, scalar.to_string())
            }
            ScalarExpr::Arith { op, lhs, rhs } => {
                Scalar::Arith(*op, self.scalar(lhs)?.into(), self.scalar(rhs)?.into())
            }
            ScalarExpr::Pipeline(pipeline, value) => {
                Scalar::Pipeline(self.steps(pipeline)?, self.scalar(value)?.into(), scalar.to_string())
            }
        })
    }

    /// The filter when the pipeline is nothing else, so that no trace has to be put together.
    pub(crate) fn only_filter(&self) -> Option<&Predicate> {
        match self.steps.as_slice() {
            [Step::Spanset(SpansetStep::Leaf(leaf))] => self.leaves.get(*leaf),
            _ => None,
        }
    }

    pub(crate) fn needs_whole_trace(&self) -> bool {
        self.only_filter().is_none_or(Predicate::needs_whole_trace)
    }

    /// False only if no whole trace of the chunk can be in the answer.
    pub(crate) fn may_match(&self, chunk: &dyn Chunk) -> bool {
        match self.steps.first() {
            Some(Step::Spanset(first)) => self.first_may_match(first, &|leaf| leaf.may_match(chunk)),
            _ => true,
        }
    }

    /// The filters of the first step, which are evaluated over all spans.
    pub(crate) fn first_filters(&self) -> &[Predicate] {
        &self.leaves[..self.first_leaves]
    }

    /// False only if no part of a trace in the chunk can make that trace a candidate.
    pub(crate) fn part_may_match(&self, chunk: &dyn Chunk) -> bool {
        self.leaves[..self.first_leaves]
            .iter()
            .any(|leaf| leaf.relaxed().may_match(chunk))
    }

    fn first_may_match(&self, step: &SpansetStep, leaf_may: &dyn Fn(&Predicate) -> bool) -> bool {
        match step {
            SpansetStep::Leaf(leaf) => leaf_may(&self.leaves[*leaf]),
            SpansetStep::Pipeline(steps) => match steps.first() {
                Some(Step::Spanset(first)) => self.first_may_match(first, leaf_may),
                _ => true,
            },
            SpansetStep::Op(SpansetOp::Or, lhs, rhs) => {
                self.first_may_match(lhs, leaf_may) || self.first_may_match(rhs, leaf_may)
            }
            SpansetStep::Op(SpansetOp::Structural(_, Flavour::Negated), _, rhs) => self.first_may_match(rhs, leaf_may),
            SpansetStep::Op(_, lhs, rhs) => self.first_may_match(lhs, leaf_may) && self.first_may_match(rhs, leaf_may),
        }
    }

    /// Every field the plan reads to decide, in order of mention.
    pub(crate) fn fields(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        self.leaves.iter().for_each(|leaf| leaf.fields(&mut fields));
        for program in &self.programs {
            expr_fields(&program.expr, &mut fields);
        }
        fields
    }
}

impl SearchPlan {
    /// Plans a checked query. Of a metrics query the spans it would measure are searched, as Tempo does.
    ///
    /// Errors: [`Error::Parameter`] for a limit of 0 or a window that ends before it starts; [`Error::Invalid`] for maths
    /// between metrics queries, which has no single set of spans.
    pub fn new(query: &Query, request: SearchRequest) -> Result<SearchPlan> {
        if request.limit == 0 {
            return Err(Error::Parameter {
                parameter: "limit",
                message: "must be at least 1".to_owned(),
            });
        }
        if request.window.end_unix_nanos < request.window.start_unix_nanos {
            return Err(Error::Parameter {
                parameter: "end",
                message: "must not be before start".to_owned(),
            });
        }
        let pipeline = match &query.body {
            Body::Search(pipeline) => pipeline,
            Body::Metrics(metrics) => metrics
                .single_pipeline()
                .ok_or_else(|| Error::invalid("metrics maths cannot be searched; ask for one of its operands"))?,
        };
        let plan = Plan::new(pipeline)?;
        let mut shown = Vec::new();
        mentioned(pipeline, &mut shown);
        shown.retain(|field| !matches!(&field.name, Name::Intrinsic(which, _) if !field.of_parent && which.has_own_place_in_answer()));
        Ok(SearchPlan {
            request,
            plan,
            shown,
            text: query.to_string(),
        })
    }

    /// The query as text, from which [`crate::parse`] gives the same query.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What was asked beside the query.
    pub fn request(&self) -> &SearchRequest {
        &self.request
    }

    /// Whether a trace's answer can change when more spans of it are known. If not, a trace in several chunks could be
    /// answered from each; [`crate::search_chunk`] still joins it, because its start, root and counts do change.
    pub fn needs_whole_trace(&self) -> bool {
        self.plan.needs_whole_trace()
    }

    /// False only if nothing in the chunk can contribute to the answer. Reads no columns, so it is worth asking before a
    /// row group is fetched. `has_split`: whether the chunk holds parts of traces that are also elsewhere.
    pub fn may_match(&self, chunk: &dyn Chunk, has_split: bool) -> bool {
        let range = chunk.time_range();
        // A trace that stands whole in the chunk starts no earlier than its first span.
        let is_behind = |after: Place| range.start_unix_nanos <= after.start_unix_nanos();
        (range.overlaps(&self.request.window) && self.request.after.is_none_or(is_behind) && self.plan.may_match(chunk))
            || (has_split && self.plan.part_may_match(chunk))
    }

    /// The only trace the query can find, if it says so (`trace:id = "…"`): then a lookup by id is cheaper than a scan.
    pub fn only_trace(&self) -> Option<TraceId> {
        let [leaf] = &self.plan.leaves[..self.plan.first_leaves] else {
            return None;
        };
        predicate::only_trace(leaf)
    }

    /// What the plan will do, for people.
    pub fn explain(&self) -> String {
        explain::explain(self)
    }
}

/// Fields a pipeline mentions, in order of mention, each once.
pub(crate) fn mentioned(pipeline: &Pipeline, out: &mut Vec<Field>) {
    for stage in &pipeline.stages {
        match stage {
            Stage::Spanset(expr) => mentioned_by_spanset(expr, out),
            Stage::Scalar(filter) => {
                mentioned_by_scalar(&filter.lhs, out);
                mentioned_by_scalar(&filter.rhs, out);
            }
            Stage::By(expr) => expr_fields(expr, out),
            Stage::Coalesce => {}
            Stage::Select(fields) => {
                for field in fields {
                    if !out.contains(field) {
                        out.push(field.clone());
                    }
                }
            }
        }
    }
}

fn mentioned_by_spanset(expr: &SpansetExpr, out: &mut Vec<Field>) {
    match expr {
        SpansetExpr::Filter(None) => {}
        SpansetExpr::Filter(Some(expr)) => expr_fields(expr, out),
        SpansetExpr::Pipeline(pipeline) => mentioned(pipeline, out),
        SpansetExpr::Op { lhs, rhs, .. } => {
            mentioned_by_spanset(lhs, out);
            mentioned_by_spanset(rhs, out);
        }
    }
}

fn mentioned_by_scalar(scalar: &ScalarExpr, out: &mut Vec<Field>) {
    match scalar {
        ScalarExpr::Static(_) | ScalarExpr::Aggregate(_, None) => {}
        ScalarExpr::Aggregate(_, Some(expr)) => expr_fields(expr, out),
        ScalarExpr::Arith { lhs, rhs, .. } => {
            mentioned_by_scalar(lhs, out);
            mentioned_by_scalar(rhs, out);
        }
        ScalarExpr::Pipeline(pipeline, value) => {
            mentioned(pipeline, out);
            mentioned_by_scalar(value, out);
        }
    }
}
