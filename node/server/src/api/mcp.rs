//! The Model Context Protocol: the same questions for programs that talk in tools. Off unless `query.mcp_enabled`.
//!
//! Streamable HTTP without streams: each POST is one JSON-RPC message and each answer one JSON body, which the protocol
//! allows; nothing is remembered between them, so there are no sessions. Tools are in [`tools`].
//!
//! What always holds: a tool that fails is an answer that says why (`isError`), so that whoever asked can ask better;
//! only what is not the protocol is an error of the protocol. A web page speaks to it only if its [`origin`] may.

mod origin;
mod tools;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde_json::{Value, json};

use super::answer::Spelled;
use super::{Answer, Api};
use crate::refusal::{Kind, Refusal};

/// The versions of the protocol that are spoken, newest first.
const VERSIONS: [&str; 3] = ["2025-06-18", "2025-03-26", "2024-11-05"];

const PARSE_ERROR: i32 = -32_700;
const INVALID_REQUEST: i32 = -32_600;
const METHOD_NOT_FOUND: i32 = -32_601;
const INVALID_PARAMS: i32 = -32_602;
const RESOURCE_NOT_FOUND: i32 = -32_002;

/// Why a message was not served.
struct Failure(i32, String);

/// Pages that are read as they are, by the last part of their address.
const PAGES: [(&str, &str, &str); 6] = [
    (
        "docs://traceql/basic",
        "How TraceQL chooses spans: attributes, intrinsics, values, operators",
        include_str!("mcp/traceql/basic.md"),
    ),
    (
        "docs://traceql/aggregates",
        "Asking about all spans found in a trace: count, avg, by",
        include_str!("mcp/traceql/aggregates.md"),
    ),
    (
        "docs://traceql/structural",
        "How spans stand to each other: parents, children, descendants",
        include_str!("mcp/traceql/structural.md"),
    ),
    (
        "docs://traceql/metrics",
        "Numbers over time: rates, quantiles, comparisons",
        include_str!("mcp/traceql/metrics.md"),
    ),
    (
        "docs://config/overview",
        "What the sections of the settings file are for",
        CONFIG_OVERVIEW,
    ),
    (
        "docs://config/reference",
        "Every setting with its default",
        include_str!("../../../settings/example.yaml"),
    ),
];

const CONFIG_OVERVIEW: &str = "\
One YAML file; every field is optional and unknown ones are refused. docs://config/reference is that file with every \
default and what each field does. The sections, in the order in which a span meets them: listen (ports and what one \
connection may do), tenancy (who may write and read), limits (what one tenant may do, with exceptions by tenant; read \
again while the node runs), shards and replication (how spans are spread and batched), wal (the log on disk), flush \
(when live spans become a block), storage (the object store), compaction and retention, query (timeouts and defaults \
of questions), memory (budgets), log.";

impl Api {
    /// Refuses a request that a browser sends for a page that has no business here.
    pub(super) fn check_mcp_origin(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        // What is not there is not there for anybody.
        let query = &self.settings.query;
        if !query.mcp_enabled || origin::is_let_in(uri, headers, &query.mcp_origins) {
            return Ok(());
        }
        let message = "pages of this origin may not ask: name it in query.mcp_origins";
        Err(Refusal::new(Kind::Forbidden, message))
    }

    /// Answers one message.
    pub(super) async fn mcp(&self, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Refusal> {
        if !self.settings.query.mcp_enabled {
            return Err(Refusal::new(Kind::NotFound, "404 page not found"));
        }
        let Ok(message) = serde_json::from_slice::<Value>(body) else {
            return Ok(reply(Value::Null, Err(Failure(PARSE_ERROR, "not JSON".to_owned()))));
        };
        let (id, method) = (message.get("id").cloned(), message["method"].as_str());
        let (Some(method), true) = (method, message["jsonrpc"] == "2.0") else {
            let failure = Failure(INVALID_REQUEST, "a JSON-RPC 2.0 request is expected".to_owned());
            return Ok(reply(id.unwrap_or(Value::Null), Err(failure)));
        };
        let Some(id) = id else {
            // A notification wants no answer.
            return Ok(Answer {
                status: StatusCode::ACCEPTED,
                spelled: Spelled::default(),
            });
        };
        let params = &message["params"];
        let result = match method {
            "initialize" => Ok(initialize(params)),
            "ping" => Ok(json!({})),
            "tools/list" => Ok(json!({"tools": tools::list()})),
            "tools/call" => self.call_tool(headers, params).await,
            "resources/list" => Ok(json!({"resources": resources()})),
            "resources/templates/list" => Ok(json!({"resourceTemplates": []})),
            "resources/read" => read_resource(params),
            "prompts/list" => Ok(json!({"prompts": []})),
            other => Err(Failure(METHOD_NOT_FOUND, format!("no method {}", clipped(other)))),
        };
        Ok(reply(id, result))
    }

    /// A message and its answer, for the fuzzer.
    pub(crate) async fn mcp_bytes(&self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        Ok(self.mcp(&HeaderMap::new(), message).await?.spelled.body)
    }

    async fn call_tool(&self, headers: &HeaderMap, params: &Value) -> Result<Value, Failure> {
        let name = params["name"].as_str().unwrap_or_default();
        let arguments = tools::Arguments::of(name, &params["arguments"])
            .ok_or_else(|| Failure(INVALID_PARAMS, format!("no tool {}", clipped(name))))?;
        let (text, is_error) = match self.run_tool(headers, arguments).await {
            Ok(text) => (text, false),
            Err(refusal) => (refusal.message.into_owned(), true),
        };
        Ok(json!({"content": [{"type": "text", "text": text}], "isError": is_error}))
    }
}

fn reply(id: Value, result: Result<Value, Failure>) -> Answer {
    let body = match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(Failure(code, message)) => {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
        }
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Answer {
        status: StatusCode::OK,
        spelled: Spelled {
            body: body.to_string().into_bytes(),
            headers,
        },
    }
}

fn initialize(params: &Value) -> Value {
    let asked = params["protocolVersion"].as_str().unwrap_or_default();
    let version = VERSIONS
        .into_iter()
        .find(|version| *version == asked)
        .unwrap_or(VERSIONS[0]);
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {}, "resources": {}},
        "serverInfo": {"name": "vivace", "version": crate::VERSION},
        "instructions": "Traces of a distributed system. Look for attribute names and values before writing TraceQL; \
            docs-traceql explains the language.",
    })
}

fn resources() -> Vec<Value> {
    let resource = |(uri, description, _): &(&str, &str, &str)| {
        let is_yaml = *uri == "docs://config/reference";
        json!({
            "uri": uri,
            "name": uri.trim_start_matches("docs://"),
            "description": description,
            "mimeType": if is_yaml { "application/yaml" } else { "text/markdown" },
        })
    };
    PAGES.iter().map(resource).collect()
}

fn read_resource(params: &Value) -> Result<Value, Failure> {
    let uri = params["uri"].as_str().unwrap_or_default();
    let text = page(uri).ok_or_else(|| Failure(RESOURCE_NOT_FOUND, format!("no resource {}", clipped(uri))))?;
    Ok(json!({"contents": [{"uri": uri, "mimeType": "text/markdown", "text": text}]}))
}

/// The page at an address.
fn page(uri: &str) -> Option<&'static str> {
    PAGES.iter().find(|(known, ..)| *known == uri).map(|(.., text)| *text)
}

/// As much of what a client sent as an answer repeats.
fn clipped(text: &str) -> String {
    text.chars().take(64).collect()
}
