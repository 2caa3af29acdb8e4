//! OTLP over gRPC and HTTP: from a request on the wire to [`Ingest::ingest`].
//!
//! Owns [`Receiver`], the steps that both transports share: whose, how large, how encoded, how fast. The transports
//! differ in framing and in how they say no ([`grpc`], [`http`]). Nothing here looks into spans.
//!
//! Order of the checks: cheapest first, so that what will be refused costs little. Tenant, admission, size while it
//! arrives, size while it inflates, rate.

pub mod grpc;
pub mod http;
pub(crate) mod rpc_status;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::http::HeaderMap;
use arc_swap::ArcSwap;
use bytes::Bytes;
use model::{Clock, TenantId};
use settings::{LimitSettings, NodeSettings};
use wire::inflate::{Encoding, InflateLimits, inflate};

use crate::admission::{InFlight, Permit, RateLimiter};
use crate::body::BodyLimits;
use crate::cpu::CpuPool;
use crate::ingest::{Ingest, IngestOutcome};
use crate::metrics::Metrics;
use crate::refusal::{Kind, Refusal};
use crate::tenant::Tenancy;

/// Bodies up to this size are inflated where they are; larger ones cost more than a trip to the CPU pool (about
/// 0.5 ms of gzip on one core).
const INLINE_BYTES_MAX: usize = 128 << 10;

/// What both transports share. One per node.
pub struct Receiver {
    pub(crate) ingest: Arc<dyn Ingest>,
    pub(crate) tenancy: Arc<Tenancy>,
    pub(crate) limits: Arc<ArcSwap<LimitSettings>>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) rates: RateLimiter,
    pub(crate) body_limits: BodyLimits,
    pub(crate) inflate_limits: InflateLimits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) cpu: CpuPool,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

/// What the message of a request is, once inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Protobuf,
    Json,
}

impl Receiver {
    pub fn new(
        settings: &NodeSettings,
        limits: Arc<ArcSwap<LimitSettings>>,
        tenancy: Arc<Tenancy>,
        ingest: Arc<dyn Ingest>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        cpu: CpuPool,
    ) -> Self {
        let inflate_limits = InflateLimits {
            bytes_max: settings.listen.request_bytes_max.as_usize(),
            ratio_max: usize::try_from(settings.listen.inflate_ratio_max).unwrap_or(usize::MAX),
            ..InflateLimits::default()
        };
        Self {
            ingest,
            tenancy,
            limits,
            in_flight: InFlight::new(settings.memory.in_flight.bytes()),
            rates: RateLimiter::default(),
            body_limits: BodyLimits::from(&settings.listen),
            inflate_limits,
            clock,
            metrics,
            cpu,
        }
    }

    /// Bytes of requests that are not answered.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight.held()
    }

    /// The tenant, if it may write.
    pub(crate) fn tenant(&self, headers: &HeaderMap) -> Result<TenantId, Refusal> {
        let tenant = self.tenancy.of_write(headers)?;
        self.tenancy.admit(&tenant)?;
        Ok(tenant)
    }

    /// From the bytes as sent to the answer of the store. `permit` covers `body` and grows by what it inflates to.
    pub(crate) async fn take(
        &self,
        transport: &'static str,
        tenant: TenantId,
        encoding: Encoding,
        form: Form,
        body: Bytes,
        permit: &mut Permit,
    ) -> Result<IngestOutcome, Refusal> {
        let sent = body.len();
        let message = self.message(encoding, form, body).await?;
        permit
            .grow(message.len().saturating_sub(sent))
            .inspect_err(|refusal| self.count_shed(refusal))?;
        if message.is_empty() {
            return Ok(IngestOutcome::default());
        }
        let bytes = message.len();
        let (rate, burst) = {
            let limits = self.limits.load().of(tenant.as_str());
            let rate = limits.ingest_rate_where(self.tenancy.is_multitenant());
            (rate, limits.ingest_burst.bytes())
        };
        if let Some(rate) = rate {
            self.rates
                .take(&tenant, bytes, rate.bytes(), burst, self.clock.monotonic())?;
        }
        let outcome = self.ingest.ingest(tenant.clone(), message).await;
        let outcome = outcome.inspect_err(|refusal| self.count_shed(refusal))?;
        self.metrics.count_acknowledged(transport, &tenant, bytes, &outcome);
        Ok(outcome)
    }

    /// Counts what a larger node, or more of them, would have taken.
    fn count_shed(&self, refusal: &Refusal) {
        if refusal.kind == Kind::Throttled {
            self.metrics.shed_requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Undoes encoding and form: protobuf, as it was before it was sent.
    async fn message(&self, encoding: Encoding, form: Form, body: Bytes) -> Result<Bytes, Refusal> {
        if encoding == Encoding::Identity && form == Form::Protobuf {
            return Ok(inflate(encoding, body, &self.inflate_limits)?);
        }
        let limits = self.inflate_limits;
        let work = move |body: Bytes| -> Result<Bytes, wire::Error> {
            let message = inflate(encoding, body, &limits)?;
            match form {
                Form::Protobuf => Ok(message),
                Form::Json => wire::json::export_request(&message).map(Bytes::from),
            }
        };
        let message = if body.len() <= INLINE_BYTES_MAX {
            work(body)
        } else {
            self.cpu.run(move || work(body)).await?
        };
        Ok(message?)
    }
}
