//! `vivace query`: asks a node over its HTTP API and prints the answer for people.
//!
//! Owns [`QueryArgs`] (the words) and [`command`]. What is asked is decided from the words alone ([`Ask::of`]); fetching
//! is the one thing here that waits; printing is pure and has its own files: [`tree`] for traces, [`table`] for searches,
//! names and values, [`chart`] for series. With `-o json` the node's own answer is printed, indented.

mod chart;
mod table;
pub(crate) mod time;
mod tree;

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use model::TraceId;
use prost::Message as _;
use query::ast::Body;
use settings::Period;
use wire::tempopb;

#[derive(Debug, Clone, Args)]
pub struct QueryArgs {
    /// A trace id; a TraceQL query; or `explain QUERY`, `tags [SCOPE]`, `values TAG`
    #[arg(required = true, value_name = "WHAT")]
    pub words: Vec<String>,
    /// Address of the query API
    #[arg(
        long,
        env = "VIVACE_QUERY_URL",
        default_value = "http://127.0.0.1:3200",
        value_name = "URL"
    )]
    pub url: String,
    /// Tenant, sent as X-Scope-OrgID; `a|b` reads both
    #[arg(long, env = "VIVACE_TENANT")]
    pub tenant: Option<String>,
    /// Look at this much time before now
    #[arg(long, default_value = "1h", conflicts_with_all = ["start", "end"])]
    pub since: Period,
    /// From here, in unix seconds
    #[arg(long, requires = "end", value_name = "SECONDS")]
    pub start: Option<u64>,
    /// To here, in unix seconds
    #[arg(long, requires = "start", value_name = "SECONDS")]
    pub end: Option<u64>,
    /// Most traces, names or values
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
    /// Most spans per trace of a search
    #[arg(long, default_value_t = 3)]
    pub spss: u32,
    /// Time between samples of a metrics query; without it, what fits the range
    #[arg(long)]
    pub step: Option<Period>,
    /// One value per series over the whole range instead of samples
    #[arg(long)]
    pub instant: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// The node's answer.
    Json,
}

/// What the words ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ask {
    Trace(TraceId),
    Search(String),
    Range(String),
    Instant(String),
    Explain(String, Explained),
    Tags(Option<String>),
    Values(String),
}

/// Which kind of query is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Explained {
    Search,
    Metrics,
}

impl Ask {
    fn of(words: &[String], instant: bool) -> anyhow::Result<Self> {
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        // In quotes it is one word, and means the same.
        if let [only] = words.as_slice()
            && let Some((word @ ("explain" | "tags" | "values"), rest)) = only.trim().split_once(' ')
        {
            words = vec![word, rest.trim()];
        }
        match words.as_slice() {
            ["explain", query @ ..] if !query.is_empty() => {
                let query = query.join(" ");
                let kind = if is_metrics(&query) {
                    Explained::Metrics
                } else {
                    Explained::Search
                };
                Ok(Self::Explain(query, kind))
            }
            ["tags"] => Ok(Self::Tags(None)),
            ["tags", scope] => Ok(Self::Tags(Some((*scope).to_owned()))),
            ["values", tag] => Ok(Self::Values((*tag).to_owned())),
            ["explain" | "values"] | ["tags" | "values", ..] => {
                anyhow::bail!("usage: explain QUERY, tags [SCOPE] or values TAG")
            }
            [id] if TraceId::parse_hex(id).is_some() => Ok(Self::Trace(TraceId::parse_hex(id).unwrap_or_default())),
            query => {
                let query = query.join(" ");
                Ok(match (is_metrics(&query), instant) {
                    (false, _) => Self::Search(query),
                    (true, false) => Self::Range(query),
                    (true, true) => Self::Instant(query),
                })
            }
        }
    }
}

/// What does not parse is sent as a search: the node says what is wrong with it, and so do we.
fn is_metrics(query: &str) -> bool {
    query::parse(query).is_ok_and(|query| matches!(query.body, Body::Metrics(_)))
}

/// Asks and prints.
///
/// Errors: what the node said, or why it could not be asked.
pub async fn command(args: QueryArgs, out: &mut dyn std::io::Write) -> anyhow::Result<()> {
    let ask = Ask::of(&args.words, args.instant)?;
    let node = Node {
        client: reqwest::Client::builder().gzip(true).build()?,
        url: args.url.trim_end_matches('/').to_owned(),
        tenant: args.tenant.clone(),
    };
    if args.output == Output::Json || matches!(ask, Ask::Explain(..)) {
        let (path, parameters) = request(&ask, &args);
        let body = node.get(&path, &parameters, "application/json").await?.body;
        let text = match serde_json::from_slice::<serde_json::Value>(&body) {
            Ok(json) => format!("{json:#}\n"),
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        out.write_all(text.as_bytes())?;
        return Ok(());
    }
    let screen = Screen::here();
    let (path, parameters) = request(&ask, &args);
    let text = match &ask {
        Ask::Trace(id) => {
            let answer = node.get(&path, &parameters, PROTOBUF).await?;
            let found = tempopb::TraceByIdResponse::decode(answer.body)?;
            let trace = found.trace.filter(|trace| !trace.resource_spans.is_empty());
            let trace = trace.ok_or_else(|| anyhow::anyhow!("there is no trace {id}"))?;
            let notes = (!found.message.is_empty()).then_some(found.message);
            with_notes(tree::print(&trace, screen), notes)
        }
        Ask::Search(_) => {
            let answer = node.get(&path, &parameters, PROTOBUF).await?;
            let found = tempopb::SearchResponse::decode(answer.body)?;
            with_notes(table::print_search(&found, screen), answer.missing)
        }
        Ask::Range(_) => {
            let answer = node.get(&path, &parameters, PROTOBUF).await?;
            let found = tempopb::QueryRangeResponse::decode(answer.body)?;
            let notes = (!found.message.is_empty()).then(|| found.message.clone());
            with_notes(chart::print(&found, screen), notes)
        }
        Ask::Instant(_) => {
            let answer = node.get(&path, &parameters, "application/json").await?;
            let found: tempopb::QueryInstantResponse = tempopb::from_json(&answer.body)?;
            let notes = (!found.message.is_empty()).then(|| found.message.clone());
            with_notes(chart::print_instant(&found), notes)
        }
        Ask::Tags(_) => {
            let answer = node.get(&path, &parameters, PROTOBUF).await?;
            let found = tempopb::SearchTagsV2Response::decode(answer.body)?;
            with_notes(table::print_tags(&found), answer.missing)
        }
        Ask::Values(_) => {
            let answer = node.get(&path, &parameters, PROTOBUF).await?;
            let found = tempopb::SearchTagValuesV2Response::decode(answer.body)?;
            with_notes(table::print_values(&found), answer.missing)
        }
        Ask::Explain(..) => String::new(),
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

const PROTOBUF: &str = "application/protobuf";

fn with_notes(mut text: String, notes: Option<String>) -> String {
    if let Some(notes) = notes {
        text.push_str(&format!("\nincomplete: {notes}\n"));
    }
    text
}

/// Path and parameters of a question.
fn request(ask: &Ask, args: &QueryArgs) -> (String, Vec<(&'static str, String)>) {
    let window = match (args.start, args.end) {
        (Some(start), Some(end)) => vec![("start", start.to_string()), ("end", end.to_string())],
        _ => vec![("since", args.since.to_string())],
    };
    let with = |more: Vec<(&'static str, String)>| [more, window.clone()].concat();
    let limit = ("limit", args.limit.to_string());
    let step = args
        .step
        .map(|step| ("step", step.duration().as_secs_f64().to_string()));
    let search = |query: &str| {
        let query = ("q", query.to_owned());
        with(vec![query, limit.clone(), ("spss", args.spss.to_string())])
    };
    let measure = |query: &str| with(std::iter::once(("q", query.to_owned())).chain(step.clone()).collect());
    match ask {
        // Looking everywhere costs little, and ids rarely come with times.
        Ask::Trace(id) => (format!("/api/v2/traces/{id}"), Vec::new()),
        Ask::Search(query) => ("/api/search".to_owned(), search(query)),
        Ask::Range(query) => ("/api/metrics/query_range".to_owned(), measure(query)),
        Ask::Instant(query) => ("/api/metrics/query".to_owned(), measure(query)),
        Ask::Explain(query, kind) => {
            let (path, mut parameters) = match kind {
                Explained::Search => ("/api/search", search(query)),
                Explained::Metrics => ("/api/metrics/query_range", measure(query)),
            };
            parameters.push(("explain", "true".to_owned()));
            (path.to_owned(), parameters)
        }
        Ask::Tags(scope) => {
            let scope = scope.as_ref().map(|scope| ("scope", scope.clone()));
            (
                "/api/v2/search/tags".to_owned(),
                with(scope.into_iter().chain([limit]).collect()),
            )
        }
        Ask::Values(tag) => (format!("/api/v2/search/tag/{}/values", escape(tag)), with(vec![limit])),
    }
}

/// A tag's name as one segment of a path.
fn escape(tag: &str) -> String {
    tag.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// Where and as whom to ask.
struct Node {
    client: reqwest::Client,
    url: String,
    tenant: Option<String>,
}

struct Fetched {
    body: bytes::Bytes,
    missing: Option<String>,
}

impl Node {
    async fn get(&self, path: &str, parameters: &[(&str, String)], accept: &str) -> anyhow::Result<Fetched> {
        let query: Vec<String> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", escape(value)))
            .collect();
        let url = format!("{}{path}?{}", self.url, query.join("&"));
        let mut request = self.client.get(&url).header("accept", accept);
        if let Some(tenant) = &self.tenant {
            request = request.header("x-scope-orgid", tenant);
        }
        let response = request
            .send()
            .await
            .map_err(|error| anyhow::anyhow!("cannot ask {}: {}", self.url, root_cause(&error)))?;
        let status = response.status();
        let missing = response.headers().get("x-vivace-partial");
        let missing = missing.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.bytes().await?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body);
            anyhow::bail!(
                "{}",
                if text.is_empty() {
                    status.to_string()
                } else {
                    text.into_owned()
                }
            );
        }
        Ok(Fetched { body, missing })
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => root_cause(source),
        None => error.to_string(),
    }
}

/// `1 span`, `2 spans`.
fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// What is printed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    /// Columns.
    pub(crate) width: usize,
    /// Whether colours are understood.
    pub(crate) has_colour: bool,
}

impl Screen {
    fn here() -> Self {
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let is_terminal = std::io::stdout().is_terminal();
        Self {
            width: columns.unwrap_or(if is_terminal { 120 } else { 100 }).clamp(60, 400),
            has_colour: is_terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// The text in red, where that is understood.
    pub(crate) fn red(self, text: &str) -> String {
        if self.has_colour {
            format!("\u{1b}[31m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
