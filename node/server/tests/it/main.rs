//! The door of a node as clients meet it: real sockets in front, fakes behind the seams; and one node as a whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod api;
mod connections;
mod door;
mod load;
mod metrics_api;
mod otlp_grpc;
mod otlp_http;
mod otlp_json;
mod streaming;
mod whole;
