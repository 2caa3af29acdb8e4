//! The tools: names and arguments as Tempo's server has them, so that what was written for it works here.

use ::http::HeaderMap;
use model::TraceId;
use query::ast::Body;
use serde_json::{Map, Value, json};
use wire::tempopb::to_json;

use super::{clipped, page};
use crate::api::answer::{self, Form, llm, series};
use crate::api::params::{self, Params, Shape, refuse};
use crate::api::{Api, field_v2, ids};
use crate::refusal::Refusal;

/// A tool's call: its name, which is known, and what it was given.
pub(super) struct Arguments<'a> {
    tool: &'static str,
    given: Option<&'a Map<String, Value>>,
}

/// Name, what it does, and its arguments: name, whether it must be given, what it is.
type Tool = (
    &'static str,
    &'static str,
    &'static [(&'static str, bool, &'static str)],
);

const START: (&str, bool, &str) = (
    "start",
    false,
    "From here: RFC 3339 or unix seconds. An hour before the end if not given.",
);
const END: (&str, bool, &str) = ("end", false, "To here: RFC 3339 or unix seconds. Now if not given.");

const TOOLS: [Tool; 9] = [
    (
        "traceql-search",
        "Finds traces by a TraceQL query, newest first, and shows the spans that match.",
        &[("query", true, "TraceQL without a metrics function"), START, END],
    ),
    (
        "traceql-metrics-instant",
        "One number per series over the whole time range, by a TraceQL metrics query.",
        &[("query", true, "TraceQL that ends in a metrics function"), START, END],
    ),
    (
        "traceql-metrics-range",
        "Series over time by a TraceQL metrics query.",
        &[("query", true, "TraceQL that ends in a metrics function"), START, END],
    ),
    (
        "get-trace",
        "All spans of one trace.",
        &[("trace_id", true, "Up to 32 hexadecimal digits")],
    ),
    (
        "trace-diff",
        "What differs between two traces: a summary, and every change if that is not too much.",
        &[
            ("base_trace_id", true, "The trace to compare with"),
            ("compare_trace_id", true, "The trace that is compared"),
            ("base_start", false, "RFC 3339; only together with base_end"),
            ("base_end", false, "RFC 3339"),
            ("compare_start", false, "RFC 3339; only together with compare_end"),
            ("compare_end", false, "RFC 3339"),
            (
                "format",
                false,
                "trace-summary-v0-composed (the default), trace-summary-v0-native or trace-patch-v0",
            ),
        ],
    ),
    (
        "get-attribute-names",
        "Names of attributes, to be used in queries.",
        &[(
            "scope",
            false,
            "span, resource, event, link or instrumentation; all if not given",
        )],
    ),
    (
        "get-attribute-values",
        "Values of one attribute.",
        &[
            (
                "name",
                true,
                "With its scope: resource.service.name, span.http.route, name",
            ),
            (
                "filter-query",
                false,
                "Only values of spans that satisfy this filter: { status = error }",
            ),
        ],
    ),
    (
        "docs-traceql",
        "How TraceQL is written.",
        &[("name", true, "basic, aggregates, structural or metrics")],
    ),
    (
        "docs-config",
        "How the server is configured.",
        &[("name", true, "overview or reference")],
    ),
];

pub(super) fn list() -> Vec<Value> {
    let tool = |(name, description, arguments): &Tool| {
        let properties: Map<String, Value> = arguments
            .iter()
            .map(|(name, _, what)| ((*name).to_owned(), json!({"type": "string", "description": what})))
            .collect();
        let required: Vec<&str> = arguments
            .iter()
            .filter(|(_, must, _)| *must)
            .map(|(name, ..)| *name)
            .collect();
        json!({
            "name": name,
            "description": description,
            "inputSchema": {"type": "object", "properties": properties, "required": required},
            "annotations": {"readOnlyHint": true, "openWorldHint": false},
        })
    };
    TOOLS.iter().map(tool).collect()
}

impl<'a> Arguments<'a> {
    /// `None`: there is no such tool.
    pub(super) fn of(name: &str, given: &'a Value) -> Option<Self> {
        let (tool, ..) = TOOLS.iter().find(|(known, ..)| *known == name)?;
        Some(Self {
            tool,
            given: given.as_object(),
        })
    }

    /// Empty is absent.
    fn get(&self, name: &str) -> Option<String> {
        match self.given?.get(name)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn required(&self, name: &str) -> Result<String, Refusal> {
        self.get(name).ok_or_else(|| refuse(format!("{name} is missing")))
    }
}

impl Api {
    pub(super) async fn run_tool(&self, headers: &HeaderMap, arguments: Arguments<'_>) -> Result<String, Refusal> {
        match arguments.tool {
            "traceql-search" => self.tool_search(headers, &arguments).await,
            "traceql-metrics-instant" => self.tool_metrics(headers, &arguments, Shape::Instant).await,
            "traceql-metrics-range" => self.tool_metrics(headers, &arguments, Shape::Range).await,
            "get-trace" => self.tool_trace(headers, &arguments).await,
            "trace-diff" => self.tool_diff(headers, &arguments).await,
            "get-attribute-names" => self.tool_names(headers, &arguments).await,
            "get-attribute-values" => self.tool_values(headers, &arguments).await,
            _ => {
                let (folder, pages) = match arguments.tool {
                    "docs-traceql" => ("traceql", "basic, aggregates, structural or metrics"),
                    _ => ("config", "overview or reference"),
                };
                let name = arguments.required("name")?;
                page(&format!("docs://{folder}/{name}"))
                    .map(str::to_owned)
                    .ok_or_else(|| refuse(format!("no page {}; there is {pages}", clipped(&name))))
            }
        }
    }

    async fn tool_search(&self, headers: &HeaderMap, arguments: &Arguments<'_>) -> Result<String, Refusal> {
        let query = arguments.required("query")?;
        if query::parse(&query).is_ok_and(|query| matches!(query.body, Body::Metrics(_))) {
            return Err(refuse(
                "this is a metrics query; use traceql-metrics-range or traceql-metrics-instant",
            ));
        }
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let rules = self.rules(&limits);
        let window = params::window_of(
            arguments.get("start").as_deref(),
            arguments.get("end").as_deref(),
            &rules,
        )?;
        let pairs = Params::from_pairs(vec![("q", query), ("start", window.0), ("end", window.1)]);
        let params = params::parse_search(&pairs, &rules)?;
        let plan = self.plan_search(&params)?;
        let found = self.run_search(tenants, &limits, plan, None).await?;
        text(to_json(&answer::search_message(&found, ids(&limits))), &found.missing)
    }

    async fn tool_metrics(
        &self,
        headers: &HeaderMap,
        arguments: &Arguments<'_>,
        shape: Shape,
    ) -> Result<String, Refusal> {
        let mut pairs = vec![("q", arguments.required("query")?)];
        pairs.extend(arguments.get("start").map(|start| ("start", start)));
        pairs.extend(arguments.get("end").map(|end| ("end", end)));
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let params = params::parse_metrics(&Params::from_pairs(pairs), shape, &self.rules(&limits))?;
        let plan = self.plan_metrics(&params)?;
        let series_max = params.series_max;
        let found = self.run_metrics(tenants, &limits, plan, series_max, None).await?;
        text(
            match shape {
                Shape::Range => to_json(&series::range_message(&found, series_max)),
                Shape::Instant => to_json(&series::instant_message(&found, series_max)),
            },
            &[],
        )
    }

    async fn tool_trace(&self, headers: &HeaderMap, arguments: &Arguments<'_>) -> Result<String, Refusal> {
        let id = arguments.required("trace_id")?;
        let trace_id = TraceId::parse_hex(&id).ok_or_else(|| refuse("trace_id: up to 32 hexadecimal digits"))?;
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let found = self
            .run_trace(tenants, &limits, trace_id, params::TraceParams::anywhere())
            .await?;
        if found.trace.is_empty() {
            return Err(refuse(format!("there is no trace {trace_id}")));
        }
        text(llm::trace(&found)?, &found.missing)
    }

    async fn tool_diff(&self, headers: &HeaderMap, arguments: &Arguments<'_>) -> Result<String, Refusal> {
        let side = |id: &str, start: &str, end: &str| {
            let seconds = |name: &str| {
                let text = arguments.get(name);
                text.map(|text| params::unix_seconds(&text).ok_or_else(|| refuse(format!("{name} is no time"))))
                    .transpose()
            };
            Ok::<_, Refusal>(json!({
                "traceId": arguments.required(id)?, "start": seconds(start)?, "end": seconds(end)?,
            }))
        };
        let format = arguments
            .get("format")
            .unwrap_or_else(|| "trace-summary-v0-composed".to_owned());
        let body = json!({
            "base": side("base_trace_id", "base_start", "base_end")?,
            "compare": side("compare_trace_id", "compare_start", "compare_end")?,
            "format": format,
        });
        let document = self.trace_diff(headers, body.to_string().as_bytes()).await?;
        text(document.body, &[])
    }

    async fn tool_names(&self, headers: &HeaderMap, arguments: &Arguments<'_>) -> Result<String, Refusal> {
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let scope = arguments.get("scope").unwrap_or_default();
        let params = params::parse_tags(&Params::from_pairs(vec![("scope", scope)]), &self.rules(&limits))?;
        let with_intrinsics = !matches!(params.scope, params::TagScope::Only(_));
        let found = self.run_tags(tenants, &limits, params, None).await?;
        text(llm::names(&found, with_intrinsics), &found.missing)
    }

    async fn tool_values(&self, headers: &HeaderMap, arguments: &Arguments<'_>) -> Result<String, Refusal> {
        let field = field_v2(&arguments.required("name")?)?;
        let tenants = self.tenancy.of_read(headers)?;
        let limits = self.limits_of(&tenants);
        let filter = arguments.get("filter-query").unwrap_or_default();
        let params = params::parse_values(&Params::from_pairs(vec![("q", filter)]), &self.rules(&limits))?;
        let found = self.run_values(tenants, &limits, field, params, None).await?;
        text(answer::values_v2(&found, Form::Llm)?.body, &found.missing)
    }
}

/// A body as text, with what it lacks.
fn text(body: Vec<u8>, missing: &[String]) -> Result<String, Refusal> {
    let mut text = String::from_utf8(body).map_err(|_| refuse("the answer is not text"))?;
    if !missing.is_empty() {
        text.push_str(&format!("\nincomplete: {}", missing.join("; ")));
    }
    Ok(text)
}
