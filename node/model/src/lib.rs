//! The words every room shares: identifiers, values, the OTLP span in its wire form, and the columnar table of spans.
//!
//! Owns no state and does no IO. Everything else in `node/` depends on this crate and this crate depends on none of them.
//!
//! What always holds:
//! - Raw OTLP bytes are the lossless form of a row. A `Resource`, an `InstrumentationScope`, events and links are kept as
//!   the bytes they arrived in; [`otlp::write_span`] gives back an OTLP span equal, field by field, to the one appended.
//! - A [`TenantId`] was checked when it was made, so it may be used in keys and paths after [`TenantId::path_segment`].
//! - Nothing here reads a clock; [`Clock`] is handed down from `server`.
//!
//! Not here: HTTP and gRPC messages (`wire`), the log (`wal`), files (`block`), TraceQL (`query`).

pub mod clock;
pub mod column;
pub mod ids;
pub mod otlp;
pub mod proto;
pub mod table;
pub mod value;

pub use clock::{Clock, ManualClock};
pub use column::{ColumnView, DictView, Rows, Values};
pub use ids::{BlockId, Generation, InvalidTenant, LogIndex, NodeId, ShardId, SpanId, TenantId, TraceId};
pub use table::{AttributeColumn, AttributeData, Scope, SpanTable, ValueType};
pub use value::{Value, ValueRef};
