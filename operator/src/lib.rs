//! The operator: from a TracingCluster to a tracing store that runs, and what happens to it afterwards.
//!
//! Five steps, in `controller`: observe (look), [`validate`] (pure), [`plan`] (pure), apply (act), status (say). Nothing is
//! remembered between two runs except what stands in the resource's status.
//!
//! **Always holds:** every disruption happens under the one lock in the status, which is written before anything is done;
//! nothing is ever concluded from a pod that was not seen.

pub mod act;
pub mod admin;
pub mod apply;
pub mod authority;
pub mod autoscale;
pub mod certificates;
pub mod controller;
pub mod deletion;
pub mod events;
pub mod forgetting;
pub mod grafana_api;
pub mod leader;
pub mod lookup;
pub mod names;
pub mod objects;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod plugin;
pub mod quantity;
pub mod rival;
pub mod status;
pub mod telling;
pub mod tenant_status;
pub mod tenants;
pub mod validate;
pub mod watching;
