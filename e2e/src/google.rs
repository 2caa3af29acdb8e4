//! An interpreter before fake-gcs-server: Google's XML API in front, Google's JSON API behind.
//!
//! object_store writes and lists in XML. fake-gcs-server reads, ranges and deletes objects in XML, but of writing it
//! knows only JSON, and its XML listing knows neither pages nor where to begin (seen with 1.56.1). What it knows goes to
//! it as it came; writes, copies and listings are said anew in JSON. So generations, conditions, order and pages are its
//! own, with two exceptions: parts of an upload are held here until it is completed, and copies are not conditional.
//!
//! Other servers that can be had by name: gcp-storage-emulator (2026.7.19) speaks JSON alone; Google's own testbench,
//! which takes XML PUTs, and the fork of fake-gcs-server that learnt XML are in no registry.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use reqwest::Url;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::client::http_client;

/// Far above a part or a block of any suite.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Small, so that a dozen objects need several pages.
const PAGE_OBJECTS: usize = 5;
/// What goes through as it came.
const PASSED_ON: [header::HeaderName; 5] = [
    header::RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// Running; dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Interpreter {
    pub(crate) addr: SocketAddr,
    server: JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Behind {
    client: reqwest::Client,
    /// `http://HOST:PORT` of fake-gcs-server.
    base: String,
    uploads: Arc<Mutex<Uploads>>,
}

#[derive(Debug, Default)]
struct Uploads {
    begun: u64,
    /// Parts by number; an upload is here from its beginning until it is completed or aborted.
    open: HashMap<String, BTreeMap<u32, Bytes>>,
}

impl Interpreter {
    /// Listens in front of a fake-gcs-server.
    pub(crate) async fn start(behind: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let state = Behind {
            client: http_client()?,
            base: format!("http://{behind}"),
            uploads: Arc::default(),
        };
        let router = Router::new().fallback(answer).with_state(state);
        let server = tokio::spawn(async move {
            // Ends when it is aborted.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { addr, server })
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(behind): State<Behind>, request: Request) -> Response {
    let what = format!("{} {}", request.method(), request.uri());
    match behind.interpret(request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{what}: {error:#}")).into_response(),
    }
}

impl Behind {
    async fn interpret(&self, request: Request) -> anyhow::Result<Response> {
        let (head, body) = request.into_parts();
        let body = to_bytes(body, BODY_BYTES_MAX).await?;
        let target = head.uri.path_and_query().context("a request without a path")?;
        let url = Url::parse(&format!("{}{target}", self.base))?;
        let query: HashMap<String, String> = url.query_pairs().into_owned().collect();
        let path = url.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if key.is_empty() {
            return self.list(bucket, &query).await;
        }
        let upload = query.get("uploadId");
        match (&head.method, upload) {
            (&Method::PUT, Some(upload)) => self.part(upload, query.get("partNumber"), body),
            (&Method::PUT, None) => match head.headers.get("x-goog-copy-source") {
                Some(source) => self.copy(source.to_str()?, bucket, key).await,
                None => self.write(bucket, key, body, &head.headers).await,
            },
            (&Method::POST, None) => self.begin(),
            (&Method::POST, Some(upload)) => self.complete(upload, bucket, key).await,
            (&Method::DELETE, Some(upload)) => {
                self.uploads().open.remove(upload);
                Ok(StatusCode::NO_CONTENT.into_response())
            }
            _ => self.pass_on(head.method, target, &head.headers).await,
        }
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass_on(&self, method: Method, target: &PathAndQuery, headers: &HeaderMap) -> anyhow::Result<Response> {
        let mut request = self.client.request(method, format!("{}{target}", self.base));
        for name in PASSED_ON {
            if let Some(value) = headers.get(&name) {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        *response.body_mut() = Body::from(answer.bytes().await?);
        Ok(response)
    }

    async fn write(&self, bucket: &str, key: &str, body: Bytes, headers: &HeaderMap) -> anyhow::Result<Response> {
        let mut url = Url::parse(&format!("{}/upload/storage/v1/b/{bucket}/o", self.base))?;
        url.query_pairs_mut()
            .append_pair("uploadType", "media")
            .append_pair("name", &plain(key)?);
        if let Some(generation) = headers.get("x-goog-if-generation-match") {
            url.query_pairs_mut()
                .append_pair("ifGenerationMatch", generation.to_str()?);
        }
        let answer = self.client.post(url).body(body).send().await?;
        let status = answer.status();
        if !status.is_success() {
            return Ok((status, answer.bytes().await?).into_response());
        }
        let object: Value = serde_json::from_slice(&answer.bytes().await?)?;
        let said = |name: &str| object[name].as_str().map(str::to_owned).context("no such field");
        let headers = [
            ("etag", format!("\"{}\"", said("etag")?)),
            ("x-goog-generation", said("generation")?),
        ];
        Ok((status, headers).into_response())
    }

    /// `source` is as the header says it: bucket, slash, and the percent-encoded key.
    async fn copy(&self, source: &str, bucket: &str, key: &str) -> anyhow::Result<Response> {
        let (from_bucket, from) = source.split_once('/').context("a source without a key")?;
        let to = plain(key)?.replace('%', "%25").replace('/', "%2F");
        let url = format!(
            "{}/storage/v1/b/{from_bucket}/o/{from}/rewriteTo/b/{bucket}/o/{to}",
            self.base
        );
        let answer = self.client.post(url).send().await?;
        Ok((answer.status(), answer.bytes().await?).into_response())
    }

    fn begin(&self) -> anyhow::Result<Response> {
        let mut uploads = self.uploads();
        uploads.begun += 1;
        let id = format!("upload-{}", uploads.begun);
        uploads.open.insert(id.clone(), BTreeMap::new());
        Ok(xml(format!(
            "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        )))
    }

    fn part(&self, upload: &str, number: Option<&String>, body: Bytes) -> anyhow::Result<Response> {
        let number: u32 = number.context("a part without a number")?.parse()?;
        let mut uploads = self.uploads();
        let Some(parts) = uploads.open.get_mut(upload) else {
            return Ok(StatusCode::NOT_FOUND.into_response());
        };
        parts.insert(number, body);
        Ok([("etag", format!("\"{upload}-{number}\""))].into_response())
    }

    async fn complete(&self, upload: &str, bucket: &str, key: &str) -> anyhow::Result<Response> {
        let Some(parts) = self.uploads().open.remove(upload) else {
            return Ok(StatusCode::NOT_FOUND.into_response());
        };
        let parts: Vec<Bytes> = parts.into_values().collect();
        let written = self
            .write(bucket, key, parts.concat().into(), &HeaderMap::new())
            .await?;
        if !written.status().is_success() {
            return Ok(written);
        }
        let header = |name: &str| {
            let value = written.headers().get(name).cloned();
            value.ok_or_else(|| anyhow!("no {name}"))
        };
        let generation = header("x-goog-generation")?;
        let text = format!(
            "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>",
            header("etag")?.to_str()?
        );
        Ok(([("x-goog-generation", generation)], xml(text)).into_response())
    }

    async fn list(&self, bucket: &str, query: &HashMap<String, String>) -> anyhow::Result<Response> {
        let mut url = Url::parse(&format!("{}/storage/v1/b/{bucket}/o", self.base))?;
        let wanted = query.get("max-keys").and_then(|text| text.parse().ok());
        let page = wanted.unwrap_or(PAGE_OBJECTS).min(PAGE_OBJECTS);
        url.query_pairs_mut().append_pair("maxResults", &page.to_string());
        for (xml, json) in [
            ("prefix", "prefix"),
            ("delimiter", "delimiter"),
            ("continuation-token", "pageToken"),
            ("start-after", "startOffset"),
        ] {
            if let Some(value) = query.get(xml) {
                url.query_pairs_mut().append_pair(json, value);
            }
        }
        let answer = self.client.get(url).send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        if !status.is_success() {
            return Ok((status, body).into_response());
        }
        let listed: Value = serde_json::from_slice(&body)?;
        Ok(xml(listing(&listed, query.get("start-after"))?))
    }
}

/// JSON begins with the object that is named, XML after it.
fn listing(listed: &Value, after: Option<&String>) -> anyhow::Result<String> {
    let array = |name: &str| listed[name].as_array().cloned().unwrap_or_default();
    let mut text = "<ListBucketResult>".to_owned();
    for object in array("items") {
        let said = |name: &str| object[name].as_str().context("an object lacks a field");
        if after.is_some_and(|after| said("name").is_ok_and(|name| name == after)) {
            continue;
        }
        write!(
            text,
            "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>\"{}\"</ETag></Contents>",
            escaped(said("name")?),
            said("size")?,
            said("updated")?,
            said("etag")?,
        )?;
    }
    for prefix in array("prefixes") {
        let prefix = prefix.as_str().context("a prefix that is no text")?;
        write!(
            text,
            "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
            escaped(prefix)
        )?;
    }
    if let Some(token) = listed["nextPageToken"].as_str().filter(|token| !token.is_empty()) {
        write!(
            text,
            "<NextContinuationToken>{}</NextContinuationToken>",
            escaped(token)
        )?;
    }
    text.push_str("</ListBucketResult>");
    Ok(text)
}

fn xml(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/xml")], text).into_response()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A key as it is named, from a key as a URL's path writes it.
fn plain(key: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        if first == b'%' {
            let digits = behind.get(..2).context("half an escape")?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits)?, 16)?);
            rest = &behind[2..];
        } else {
            bytes.push(first);
            rest = behind;
        }
    }
    Ok(String::from_utf8(bytes)?)
}
