//! The seam between receivers and what stores spans.

use bytes::Bytes;
use futures::future::BoxFuture;
use model::TenantId;

use crate::refusal::Refusal;

/// What became of a request that was acknowledged: everything accepted is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IngestOutcome {
    /// Spans stored, now or by an earlier copy of the same batch.
    pub accepted_spans: u64,
    /// Spans refused one by one; the client is told so in `partial_success`.
    pub rejected_spans: u64,
    /// Why the first of them was refused, or a warning. Empty when there is nothing to say.
    pub message: String,
    /// The refused spans by the reason's metric label.
    pub reasons: Vec<(&'static str, u64)>,
    /// What was cut from accepted spans, by its metric label.
    pub cut: Vec<(&'static str, u64)>,
}

/// Takes spans in. Boxed future because it is called through `dyn`: by receivers on one side, and there are two
/// implementations, the node and the recorder of the tests.
pub trait Ingest: Send + Sync + 'static {
    /// Stores an `ExportTraceServiceRequest`, decompressed protobuf that nobody has looked into yet. Comes back when
    /// it is durable.
    ///
    /// Errors: a [`Refusal`] says that nothing of the request may be counted on; a retry is recognised and stored once.
    /// Cancel: a dropped future leaves the request stored or not, as a crash would.
    fn ingest(&self, tenant: TenantId, body: Bytes) -> BoxFuture<'_, Result<IngestOutcome, Refusal>>;
}
