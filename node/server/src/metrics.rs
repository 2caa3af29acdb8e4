//! What the node counts about its own door; other rooms register theirs in the same registry.
//!
//! Owns [`Metrics`]. Names follow Tempo's where Tempo has the thing, with `vivace_` for `tempo_`. Always holds: every
//! label has a fixed set of values, except `tenant`, which the cap on tenants bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::TenantId;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::ingest::IngestOutcome;
use crate::refusal::Kind;

/// A counter without labels.
pub type Count = Counter<u64, AtomicU64>;

/// Labels of a request to the query API or a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's pattern, never the path.
    pub route: &'static str,
    pub method: &'static str,
    pub status_code: u16,
}

/// Labels of what a receiver took or refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReceiverLabels {
    pub transport: &'static str,
    pub tenant: String,
}

/// Labels of refused requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    pub reason: &'static str,
}

/// Labels of refused spans and of what was cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DiscardLabels {
    pub reason: &'static str,
    pub tenant: String,
}

/// What was acknowledged since the start.
#[derive(Debug, Default)]
pub struct Acknowledged {
    pub requests: AtomicU64,
    pub spans: AtomicU64,
    pub bytes: AtomicU64,
}

/// The metrics of the server room.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    pub request_duration: Family<RequestLabels, Histogram>,
    /// Decompressed OTLP bytes of acknowledged requests.
    pub received_bytes: Family<ReceiverLabels, Count>,
    /// Spans of acknowledged requests, refused ones not counted.
    pub received_spans: Family<ReceiverLabels, Count>,
    /// Spans that an acknowledged request had to give up.
    pub discarded_spans: Family<DiscardLabels, Count>,
    /// Attributes, events, links, keys and values that accepted spans had to give up, wholly or in part.
    pub cut: Family<DiscardLabels, Count>,
    /// [`Metrics::received_bytes`] and [`Metrics::received_spans`] of all transports and tenants, and their requests: what
    /// the admin API makes rates of.
    pub acknowledged: Acknowledged,
    /// Requests that were refused because the node is full, not because a tenant is over its limit.
    pub shed_requests: AtomicU64,
    /// Requests that were not acknowledged.
    pub refused_requests: Family<ReasonLabels, Count>,
    pub refused_connections: Count,
    pub open_connections: Gauge,
    pub in_flight_bytes: Gauge,
    pub dropped_log_lines: Count,
    /// Rounds of a shard's flush that ended in an error; each is tried again.
    pub failed_flushes: Count,
}

/// 1 ms to 32 s; an ack takes some milliseconds, a query up to its timeout.
fn duration_buckets() -> Histogram {
    Histogram::new((0..16).map(|power| 0.001 * f64::from(1_u32 << power)))
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("vivace")),
            request_duration: Family::new_with_constructor(duration_buckets),
            received_bytes: Family::default(),
            received_spans: Family::default(),
            discarded_spans: Family::default(),
            cut: Family::default(),
            acknowledged: Acknowledged::default(),
            shed_requests: AtomicU64::new(0),
            refused_requests: Family::default(),
            refused_connections: Count::default(),
            open_connections: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            dropped_log_lines: Count::default(),
            failed_flushes: Count::default(),
        };
        {
            let mut registry = metrics.registry.lock();
            registry.register_with_unit(
                "request_duration",
                "Time from the request's head to the answer's head",
                Unit::Seconds,
                metrics.request_duration.clone(),
            );
            registry.register(
                "receiver_bytes",
                "Decompressed OTLP bytes of acknowledged requests",
                metrics.received_bytes.clone(),
            );
            registry.register(
                "receiver_accepted_spans",
                "Spans acknowledged",
                metrics.received_spans.clone(),
            );
            registry.register(
                "discarded_spans",
                "Spans named in partial_success as refused, by reason",
                metrics.discarded_spans.clone(),
            );
            registry.register(
                "receiver_cut",
                "Parts of accepted spans that were over a limit and were cut or left out, by what they are",
                metrics.cut.clone(),
            );
            registry.register(
                "receiver_refused_requests",
                "Ingest requests not acknowledged, by reason",
                metrics.refused_requests.clone(),
            );
            registry.register(
                "connections_refused",
                "Connections closed because connections_max were open",
                metrics.refused_connections.clone(),
            );
            registry.register(
                "connections_open",
                "Connections open on all ports",
                metrics.open_connections.clone(),
            );
            registry.register(
                "receiver_in_flight_bytes",
                "Bytes of requests received and not answered",
                metrics.in_flight_bytes.clone(),
            );
            registry.register(
                "log_lines_dropped",
                "Own log lines dropped because they repeated too often",
                metrics.dropped_log_lines.clone(),
            );
            registry.register(
                "failed_flushes",
                "Rounds of a shard's flush that ended in an error; each is tried again, and the log keeps the spans",
                metrics.failed_flushes.clone(),
            );
            let build = Info::new(vec![("version", crate::VERSION), ("revision", crate::REVISION)]);
            registry.register("build", "What is running", build);
        }
        Arc::new(metrics)
    }

    /// Lets another room add its metrics, under `vivace_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// The registry as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail; a metric of another room that fails to encode leaves the text short.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }

    pub(crate) fn count_acknowledged(
        &self,
        transport: &'static str,
        tenant: &TenantId,
        bytes: usize,
        outcome: &IngestOutcome,
    ) {
        let labels = ReceiverLabels {
            transport,
            tenant: tenant.to_string(),
        };
        self.acknowledged.requests.fetch_add(1, Ordering::Relaxed);
        self.acknowledged
            .spans
            .fetch_add(outcome.accepted_spans, Ordering::Relaxed);
        self.acknowledged.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.received_bytes.get_or_create(&labels).inc_by(bytes as u64);
        self.received_spans
            .get_or_create(&labels)
            .inc_by(outcome.accepted_spans);
        for (counted, family) in [(&outcome.reasons, &self.discarded_spans), (&outcome.cut, &self.cut)] {
            for (reason, count) in counted {
                let labels = DiscardLabels {
                    reason,
                    tenant: tenant.to_string(),
                };
                family.get_or_create(&labels).inc_by(*count);
            }
        }
    }

    pub(crate) fn count_refused(&self, kind: Kind) {
        self.refused_requests
            .get_or_create(&ReasonLabels { reason: kind.label() })
            .inc();
    }
}
