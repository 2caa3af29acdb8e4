//! Tools with which the suites drive Vivace from outside: real programs, a store that misbehaves, and the checker.
//!
//! | room | for |
//! |---|---|
//! | [`process`] | child processes: ready when a line or port says so, killed on drop; [`process::Node`] is our own |
//! | [`tools`] | real programs (Collector, telemetrygen, MinIO, …), installed once and cached outside the repository |
//! | [`stores`] | object stores started from those tools, with the settings to reach them |
//! | [`s3`] | an S3 server in this process that fails on demand |
//! | [`spans`] | spans that are pure functions of (seed, client, sequence number) |
//! | [`ledger`] | what was acknowledged, and the verdict over what was read back |
//! | [`client`] | OTLP and Tempo clients |
//! | [`image`] | images of our programs, without a registry |
//! | [`kube`] | a real Kubernetes whose pods are our binaries as processes, or containers on a real node |
//! | [`scratch`] | folders of tests, emptied at their start |
//! | [`skip`] | saying loudly that a test did not run |
//!
//! Nothing here links our own crates: the binaries are met through their sockets and files, as users meet them. All
//! traffic stays on loopback.

mod base64;
pub mod client;
mod google;
pub mod image;
pub mod kube;
pub mod ledger;
pub mod process;
pub mod s3;
pub mod scratch;
pub mod skip;
pub mod spans;
pub mod stores;
pub mod tools;
