//! Sending: which request is next, when it is due, and what to do with the answer.
//!
//! Owns [`Schedule`], shared by all connections, and [`connection`], one of them with its requests in flight. A request
//! keeps its bytes through all retries, so that the receiver can recognise it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpStream;

use super::report::Tally;
use super::template::{PREFIX_BYTES, Templates};
use super::{Plan, Protocol, Until};
use crate::receiver::rpc_status::{ExportResponse, RetryInfo, Status};

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// First pause when the receiver names none; doubles each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A receiver that does not answer for this long is treated as gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Hands out requests in order, each once.
pub(crate) struct Schedule {
    templates: Arc<Templates>,
    begun: Instant,
    /// Spans per nanosecond.
    rate: Option<f64>,
    until: Until,
    /// Requests and spans handed out. Both at once: a request out of turn would end the plan one request early.
    handed_out: Mutex<(usize, u64)>,
    /// Base times of the copies that are being sent. All requests of a copy share one, or its traces would tear apart.
    bases: Mutex<VecDeque<(u64, u64)>>,
}

/// One request to send.
struct Job {
    body: Bytes,
    spans: u64,
    due: Instant,
}

impl Schedule {
    pub(crate) fn new(plan: &Plan, templates: Arc<Templates>) -> Self {
        Self {
            templates,
            begun: Instant::now(),
            rate: plan.rate.map(|rate| rate / 1e9),
            until: plan.until,
            handed_out: Mutex::default(),
            bases: Mutex::default(),
        }
    }

    /// The next request when it is due; `None` when the plan is fulfilled.
    async fn next(&self) -> Option<Job> {
        let (number, before, spans) = {
            let mut handed_out = self.handed_out.lock();
            let (number, before) = *handed_out;
            let spans = u64::from(self.templates.spans_of(number));
            *handed_out = (number + 1, before + spans);
            (number, before, spans)
        };
        let request = number % self.templates.len();
        let copy = (number / self.templates.len()) as u64;
        let due = match self.rate {
            Some(rate) => self.begun + Duration::from_nanos((before as f64 / rate) as u64),
            None => Instant::now(),
        };
        match self.until {
            Until::Spans(wanted) if before >= wanted => return None,
            Until::Elapsed(all) if due.duration_since(self.begun) >= all => return None,
            _ => {}
        }
        if self.rate.is_some() {
            tokio::time::sleep_until(due.into()).await;
        }
        let body = self.templates.copy(copy, request, self.base_of(copy)).into();
        // Flat out, a request is due when somebody is free to send it: making it is not the receiver's time.
        let due = if self.rate.is_some() { due } else { Instant::now() };
        Some(Job { body, spans, due })
    }

    fn base_of(&self, copy: u64) -> u64 {
        let mut bases = self.bases.lock();
        if let Some((_, base)) = bases.iter().find(|(known, _)| *known == copy) {
            return *base;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let base = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        // Requests are handed out in order, so only the last copies can still be asked for.
        if bases.len() == 8 {
            bases.pop_front();
        }
        bases.push_back((copy, base));
        base
    }
}

/// What the receiver said.
enum Answer {
    Acknowledged {
        rejected: u64,
    },
    Again {
        after: Option<Duration>,
        is_throttled: bool,
        why: String,
    },
    Never {
        why: String,
    },
}

/// One connection with its requests in flight, until the schedule ends.
pub(crate) async fn connection(plan: Plan, schedule: Arc<Schedule>, tally: Arc<Tally>) {
    let link = Arc::new(Link {
        plan,
        channel: tokio::sync::Mutex::new(None),
    });
    let mut lanes = tokio::task::JoinSet::new();
    for _ in 0..link.plan.in_flight {
        let (link, schedule, tally) = (Arc::clone(&link), Arc::clone(&schedule), Arc::clone(&tally));
        lanes.spawn(async move {
            while let Some(job) = schedule.next().await {
                deliver(&link, job, &tally).await;
            }
        });
    }
    while lanes.join_next().await.is_some() {}
}

async fn deliver(link: &Link, job: Job, tally: &Tally) {
    let begun = Instant::now();
    let mut backoff = BACKOFF_FIRST;
    loop {
        let attempt = tokio::time::timeout(ANSWER_TIMEOUT, link.send(job.body.clone())).await;
        let answer = attempt.unwrap_or_else(|_| Answer::again(format!("no answer within {ANSWER_TIMEOUT:?}")));
        match answer {
            Answer::Acknowledged { rejected } => {
                tally.count_acknowledged(job.spans, rejected, job.body.len() - PREFIX_BYTES, job.due.elapsed());
                return;
            }
            Answer::Never { why } => return tally.count_failed(job.spans, why),
            Answer::Again {
                after,
                is_throttled,
                why,
            } => {
                let pause = after.unwrap_or(backoff);
                if begun.elapsed() + pause > link.plan.retry_for {
                    return tally.count_failed(job.spans, why);
                }
                tally.count_retry(is_throttled, &why);
                tokio::time::sleep(pause).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

impl Answer {
    fn again(why: impl ToString) -> Self {
        Self::Again {
            after: None,
            is_throttled: false,
            why: why.to_string(),
        }
    }
}

/// A connection that is opened when needed and again when it broke.
struct Link {
    plan: Plan,
    channel: tokio::sync::Mutex<Option<Channel>>,
}

enum Channel {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Link {
    async fn send(&self, body: Bytes) -> Answer {
        let request = match self.request(body) {
            Ok(request) => request,
            Err(error) => return Answer::Never { why: error.to_string() },
        };
        let sent = async {
            let mut channel = self.channel.lock().await;
            if channel.as_ref().is_none_or(Channel::is_closed) {
                *channel = Some(self.open().await?);
            }
            let Some(open) = channel.as_mut() else {
                anyhow::bail!("no connection")
            };
            match open {
                // HTTP/1.1 has one request in flight: the lock is held until its answer is here.
                Channel::Http1(sender) => {
                    sender.ready().await?;
                    let response = sender.send_request(request).await?;
                    read_http(response).await
                }
                Channel::Http2(sender) => {
                    let mut sender = sender.clone();
                    drop(channel);
                    sender.ready().await?;
                    let response = sender.send_request(request).await?;
                    read_grpc(response).await
                }
            }
        };
        sent.await.unwrap_or_else(|error| Answer::again(format!("{error:#}")))
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
        let endpoint = self.plan.endpoint;
        let mut request = match self.plan.protocol {
            Protocol::Grpc => Request::post(format!("http://{endpoint}{GRPC_PATH}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers"),
            Protocol::Http => Request::post("/v1/traces")
                .header("host", endpoint.to_string())
                .header("content-type", "application/x-protobuf"),
        };
        if let Some(tenant) = &self.plan.tenant {
            request = request.header(crate::tenant::TENANT_HEADER, tenant);
        }
        let skip = if self.plan.protocol == Protocol::Http {
            PREFIX_BYTES
        } else {
            0
        };
        request.body(Full::new(body.slice(skip..)))
    }

    async fn open(&self) -> anyhow::Result<Channel> {
        let stream = TcpStream::connect(self.plan.endpoint).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        // The tasks that drive the connections end when their senders are dropped.
        Ok(match self.plan.protocol {
            Protocol::Http => {
                let (sender, driver) = http1::handshake(io).await?;
                tokio::spawn(driver);
                Channel::Http1(sender)
            }
            Protocol::Grpc => {
                let (sender, driver) = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_send_buf_size(1 << 20)
                    .handshake(io)
                    .await?;
                tokio::spawn(driver);
                Channel::Http2(sender)
            }
        })
    }
}

impl Channel {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

async fn read_http(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let status = response.status();
    let after = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let after = after.map(Duration::from_secs);
    let body = response.into_body().collect().await?.to_bytes();
    if status == StatusCode::OK {
        return Ok(Answer::Acknowledged {
            rejected: rejected(&body),
        });
    }
    let why = Status::decode(body).map(|status| status.message).unwrap_or_default();
    let why = format!("HTTP {status}: {why}");
    // The statuses that the OTLP specification names as retryable.
    Ok(match status.as_u16() {
        429 | 502 | 503 | 504 => Answer::Again {
            after,
            is_throttled: status == StatusCode::TOO_MANY_REQUESTS,
            why,
        },
        _ => Answer::Never { why },
    })
}

async fn read_grpc(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let mut headers = response.headers().clone();
    let collected = response.into_body().collect().await?;
    if let Some(trailers) = collected.trailers() {
        headers.extend(trailers.clone());
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code: i32 = text("grpc-status").and_then(|code| code.parse().ok()).unwrap_or(2);
    let body = collected.to_bytes();
    if code == 0 {
        let message = body.get(PREFIX_BYTES..).unwrap_or_default();
        return Ok(Answer::Acknowledged {
            rejected: rejected(message),
        });
    }
    let why = format!("gRPC {code}: {}", text("grpc-message").unwrap_or_default());
    let retry_info = text("grpc-status-details-bin").and_then(|details| retry_delay(&base64(details)?));
    // The codes that the OTLP specification names as retryable; RESOURCE_EXHAUSTED only when it says when.
    Ok(match code {
        8 if retry_info.is_some() => Answer::Again {
            after: retry_info,
            is_throttled: true,
            why,
        },
        1 | 4 | 10 | 11 | 14 | 15 => Answer::Again {
            after: retry_info,
            is_throttled: false,
            why,
        },
        _ => Answer::Never { why },
    })
}

fn rejected(message: &[u8]) -> u64 {
    let response = ExportResponse::decode(message).unwrap_or_default();
    response
        .partial_success
        .and_then(|partial| u64::try_from(partial.rejected_spans).ok())
        .unwrap_or(0)
}

fn retry_delay(details: &[u8]) -> Option<Duration> {
    let status = Status::decode(details).ok()?;
    let any = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    RetryInfo::decode(any.value.as_slice())
        .ok()?
        .retry_delay?
        .try_into()
        .ok()
}

/// Base64 with or without padding; `None` for anything else.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut group, mut bits) = (0_u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        group = group << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((group >> bits) as u8);
            group &= (1 << bits) - 1;
        }
    }
    Some(out)
}
