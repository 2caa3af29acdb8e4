//! The door of a node as clients meet it: real sockets in front, fakes behind the seams.

mod api;
mod connections;
mod door;
mod otlp_grpc;
mod otlp_http;
mod otlp_json;
