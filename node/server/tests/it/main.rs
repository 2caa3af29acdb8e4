//! The door of a node as clients meet it: real sockets in front, fakes behind the seams; and one node as a whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod admin;
mod api;
mod cluster;
mod connections;
mod corpus;
mod door;
mod live_limits;
mod load;
mod mcp;
mod metrics_api;
mod otlp_grpc;
mod otlp_http;
mod otlp_json;
mod refused;
#[path = "../../../fuzz/replay.rs"]
mod replay;
mod streaming;
mod whole;
