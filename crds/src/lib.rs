//! The custom resources of Vivace: [`TracingCluster`] (trc), the platform team's object, and [`TracingTenant`] (trt), an
//! application team's.
//!
//! Owns the types, their schema and the rules in it. The YAML in `yaml/` is written by `crdgen` from [`definitions`] and a
//! test compares the two. Nothing here talks to a cluster, and nothing in the node depends on this crate.
//!
//! **Always holds:** a field that is accepted is acted upon; one that no node understands yet is not in the schema, and
//! adding one is compatible. Every field says what it is, where its default comes from and what a change does (`Change:`
//! live, rolling restart, immutable). Everything that needs no look-up is a CEL rule in the schema, so that a wrong object
//! is refused when it is applied, in a dry run too, without a webhook; what needs a look-up is a condition in the status.
//! **Not here:** what the fields lead to (the operator).

#[cfg(feature = "admission")]
pub mod admission;
pub mod cluster;
mod definition;
mod quantity;
mod rule;
mod section;
pub mod tenant;

pub use cluster::status::TracingClusterStatus;
pub use cluster::{TracingCluster, TracingClusterSpec};
pub use definition::{crd_yaml, definitions};
pub use quantity::{Period, QuantityError, Size};
pub use tenant::{TracingTenant, TracingTenantSpec, TracingTenantStatus};

/// API group of both kinds, and the prefix of our labels and annotations.
pub const GROUP: &str = "tracing.vivace.dev";
