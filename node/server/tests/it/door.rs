//! A door on free ports with a recorder behind it, and clients that speak to it without our own code.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use model::{ManualClock, TenantId};
use parking_lot::Mutex;
use server::api::{Api, Readiness};
use server::cpu::CpuPool;
use server::ingest::{Ingest, IngestOutcome};
use server::metrics::Metrics;
use server::net::{ConnectionLimits, Listener, Protocol, serve};
use server::preview::Watching;
use server::querier::{
    MetricsAnswer, MetricsQuestion, Querier, SearchAnswer, SearchQuestion, TagsAnswer, TagsQuestion, TraceAnswer,
    TraceQuestion, ValuesAnswer, ValuesQuestion,
};
use server::receiver::Receiver;
use server::refusal::Refusal;
use server::tenant::Tenancy;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Remembers what it was given and answers what it was told to.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) taken: Mutex<Vec<(String, Bytes)>>,
    pub(crate) answer: Mutex<Option<Result<IngestOutcome, Refusal>>>,
    /// When set, every ingest waits here until it is told to go on.
    pub(crate) gate: Mutex<Option<Arc<Notify>>>,
}

impl Ingest for Recorder {
    fn ingest(&self, tenant: TenantId, body: Bytes) -> BoxFuture<'_, Result<IngestOutcome, Refusal>> {
        Box::pin(async move {
            self.taken.lock().push((tenant.to_string(), body));
            let gate = self.gate.lock().clone();
            if let Some(gate) = gate {
                gate.notified().await;
            }
            self.answer.lock().clone().unwrap_or(Ok(IngestOutcome {
                accepted_spans: 1,
                ..Default::default()
            }))
        })
    }
}

/// Answers what it was told to, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) traces: Mutex<Vec<TraceQuestion>>,
    pub(crate) searches: Mutex<Vec<SearchQuestion>>,
    pub(crate) measured: Mutex<Vec<MetricsQuestion>>,
    pub(crate) tags: Mutex<Vec<TagsQuestion>>,
    pub(crate) values: Mutex<Vec<ValuesQuestion>>,
    pub(crate) trace: Mutex<TraceAnswer>,
    pub(crate) search: Mutex<SearchAnswer>,
    pub(crate) metrics: Mutex<MetricsAnswer>,
    /// Shown to whoever watches, one after the other, before the answer.
    pub(crate) search_previews: Mutex<Vec<SearchAnswer>>,
    pub(crate) metrics_previews: Mutex<Vec<MetricsAnswer>>,
    pub(crate) tag_names: Mutex<TagsAnswer>,
    pub(crate) tag_values: Mutex<ValuesAnswer>,
    pub(crate) refusal: Mutex<Option<Refusal>>,
    /// When set, every answer waits for it.
    pub(crate) gate: Mutex<Option<Arc<Notify>>>,
}

impl Script {
    async fn answer<T: Clone>(&self, answer: &Mutex<T>) -> Result<T, Refusal> {
        let gate = self.gate.lock().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        match self.refusal.lock().clone() {
            Some(refusal) => Err(refusal),
            None => Ok(answer.lock().clone()),
        }
    }

    /// Shows each preview when it is wanted.
    async fn show<T>(&self, previews: &Mutex<Vec<T>>, watching: Watching<T>) {
        let Some(watching) = watching else { return };
        let previews = std::mem::take(&mut *previews.lock());
        let is_watched = !previews.is_empty();
        for preview in previews {
            while !watching.is_wanted() {
                tokio::task::yield_now().await;
            }
            watching.show(preview);
        }
        // The last was looked at when the next is wanted.
        while is_watched && !watching.is_wanted() {
            tokio::task::yield_now().await;
        }
    }
}

impl Querier for Script {
    fn trace_by_id(&self, question: TraceQuestion) -> BoxFuture<'_, Result<TraceAnswer, Refusal>> {
        self.traces.lock().push(question);
        Box::pin(self.answer(&self.trace))
    }
    fn search(
        &self,
        question: SearchQuestion,
        watching: Watching<SearchAnswer>,
    ) -> BoxFuture<'_, Result<SearchAnswer, Refusal>> {
        self.searches.lock().push(question);
        Box::pin(async move {
            self.show(&self.search_previews, watching).await;
            self.answer(&self.search).await
        })
    }
    fn metrics(
        &self,
        question: MetricsQuestion,
        watching: Watching<MetricsAnswer>,
    ) -> BoxFuture<'_, Result<MetricsAnswer, Refusal>> {
        self.measured.lock().push(question);
        Box::pin(async move {
            self.show(&self.metrics_previews, watching).await;
            self.answer(&self.metrics).await
        })
    }
    fn tags(&self, question: TagsQuestion, _: Watching<TagsAnswer>) -> BoxFuture<'_, Result<TagsAnswer, Refusal>> {
        self.tags.lock().push(question);
        Box::pin(self.answer(&self.tag_names))
    }
    fn tag_values(
        &self,
        question: ValuesQuestion,
        _: Watching<ValuesAnswer>,
    ) -> BoxFuture<'_, Result<ValuesAnswer, Refusal>> {
        self.values.lock().push(question);
        Box::pin(self.answer(&self.tag_values))
    }
}

/// A running door. Stops when dropped, because its runtime does.
pub(crate) struct Door {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) receiver: Arc<Receiver>,
    pub(crate) script: Arc<Script>,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) limits: ConnectionLimits,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Opens a door with these settings.
pub(crate) async fn open(yaml: &str) -> Door {
    let settings = settings::parse(yaml).unwrap();
    let metrics = Metrics::new();
    let recorder = Arc::new(Recorder::default());
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    let live_limits = Arc::new(ArcSwap::from_pointee(settings.limits.clone()));
    let tenancy = Arc::new(Tenancy::new(&settings));
    let cpu = CpuPool::new(1);
    let receiver = Arc::new(Receiver::new(
        &settings,
        live_limits.clone(),
        tenancy.clone(),
        recorder.clone(),
        clock.clone(),
        metrics.clone(),
        cpu.clone(),
    ));
    let script = Arc::new(Script::default());
    let readiness = Arc::new(Readiness::default());
    let api = Arc::new(Api::new(
        Arc::new(settings.clone()),
        live_limits,
        tenancy,
        script.clone(),
        clock.clone(),
        metrics.clone(),
        Arc::default(),
        readiness.clone(),
        cpu,
    ));
    let limits = ConnectionLimits::new(&settings.listen, metrics.refused_connections.clone());
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let grpc = Listener::bind(loopback).await.unwrap();
    let http = Listener::bind(loopback).await.unwrap();
    let query = Listener::bind(loopback).await.unwrap();
    let (grpc_address, http_address, api_address) = (grpc.address(), http.address(), query.address());
    let shared = receiver.clone();
    let grpc_service = move |request| server::receiver::grpc::serve(shared.clone(), request);
    let shared = receiver.clone();
    let http_service = move |request| server::receiver::http::serve(shared.clone(), request);
    tasks.spawn(serve(
        grpc,
        Protocol::Http2,
        limits.clone(),
        grpc_service,
        stop.clone(),
        tasks.clone(),
    ));
    tasks.spawn(serve(
        http,
        Protocol::Http1And2,
        limits.clone(),
        http_service,
        stop.clone(),
        tasks.clone(),
    ));
    let api_service = move |request| server::api::serve(api.clone(), request);
    tasks.spawn(serve(
        query,
        Protocol::Http1And2,
        limits.clone(),
        api_service,
        stop.clone(),
        tasks.clone(),
    ));
    Door {
        recorder,
        receiver,
        script,
        readiness,
        metrics,
        clock,
        limits,
        grpc: grpc_address,
        http: http_address,
        api: api_address,
        stop,
        tasks,
    }
}

impl Door {
    /// What the recorder was given, tenant and body.
    pub(crate) fn taken(&self) -> Vec<(String, Bytes)> {
        self.recorder.taken.lock().clone()
    }

    pub(crate) fn answer(&self, answer: Result<IngestOutcome, Refusal>) {
        *self.recorder.answer.lock() = Some(answer);
    }

    /// `POST /v1/traces` with these headers.
    pub(crate) async fn post(&self, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> reqwest::Response {
        let mut request = reqwest::Client::new()
            .post(format!("http://{}/v1/traces", self.http))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// `GET` on the query port.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        // What is compressed on the wire must look so here.
        let client = reqwest::Client::builder().no_gzip().build().unwrap();
        let mut request = client.get(format!("http://{}{path}", self.api));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// `POST` of JSON on the query port.
    pub(crate) async fn ask(&self, path: &str, body: &serde_json::Value) -> reqwest::Response {
        let url = format!("http://{}{path}", self.api);
        reqwest::Client::new()
            .post(url)
            .body(body.to_string())
            .send()
            .await
            .unwrap()
    }

    /// Status and text of a `GET` on the query port.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let answer = self.get(path, &[]).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// One unary call; `body` is all that is sent, prefix included.
    pub(crate) async fn call(&self, headers: &[(&str, &str)], body: Bytes) -> GrpcAnswer {
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        grpc_call(self.grpc, path, headers, body).await
    }
}

/// What came back from a call.
#[derive(Debug)]
pub(crate) struct GrpcAnswer {
    /// Of HTTP.
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
    /// Head and trailers together.
    pub(crate) headers: HeaderMap,
    /// The first message without its prefix; empty for errors.
    pub(crate) body: Bytes,
    /// All messages of a stream.
    pub(crate) messages: Vec<Bytes>,
}

/// A gRPC call by plain HTTP/2.
pub(crate) async fn grpc_call(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: Bytes) -> GrpcAnswer {
    let stream = TcpStream::connect(address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut request = Request::post(format!("http://{address}{path}")).header("te", "trailers");
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender
        .send_request(request.body(Full::new(body)).unwrap())
        .await
        .unwrap();
    let status = response.status().as_u16();
    let mut all = response.headers().clone();
    let collected = response.into_body().collect().await.unwrap();
    if let Some(trailers) = collected.trailers() {
        all.extend(trailers.clone());
    }
    let body = collected.to_bytes();
    driver.abort();
    let text = |name: &str| {
        all.get(name)
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    let (code, message) = (text("grpc-status"), text("grpc-message"));
    let mut messages = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        messages.push(rest.slice(5..5 + length));
        rest = rest.slice(5 + length..);
    }
    GrpcAnswer {
        status,
        code,
        message,
        headers: all,
        body: messages.first().cloned().unwrap_or_default(),
        messages,
    }
}

/// A gRPC message with its prefix.
pub(crate) fn framed(is_compressed: bool, message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(u8::from(is_compressed));
    out.put_u32(u32::try_from(message.len()).unwrap());
    out.put_slice(message);
    out.freeze()
}

/// Compresses as exporters do.
pub(crate) fn compressed(encoding: &str, data: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    match encoding {
        "gzip" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(data).unwrap();
            out.finish().unwrap()
        }
        "deflate" => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(data).unwrap();
            out.finish().unwrap()
        }
        "zstd" => zstd::encode_all(data, 1).unwrap(),
        "snappy" => snap::raw::Encoder::new().compress_vec(data).unwrap(),
        "x-snappy-framed" => {
            let mut out = snap::write::FrameEncoder::new(Vec::new());
            out.write_all(data).unwrap();
            out.into_inner().unwrap()
        }
        "lz4" => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(data).unwrap();
            out.finish().unwrap()
        }
        other => panic!("{other}"),
    }
}

/// Bytes that do not compress away.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(next).collect()
}

/// `google.rpc.Status`, read by field numbers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<prost_types::Any>,
}
