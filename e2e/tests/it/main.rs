//! The end-to-end suite: one binary, so that the many dependencies are linked once.
//!
//! | module | meets | needs |
//! |---|---|---|
//! | `tidy`, `limits_page` | the repository itself | nothing |
//! | `s3` | our S3 server and its toxics | nothing |
//! | `stores` | other people's object stores | installed tools |
//! | `node_on_stores` | one node on each of them | the binary, tools |
//! | `smoke`, `bad_input` | one node | the `vivace` binary |
//! | `cluster` | several nodes; faults of every kind on them | the binary, for a part root and strace |
//! | `crash` | a node killed in mid-load, many times | the binary |
//! | `rebuild` | a node whose disk is lost, and the tools that look at the bucket | the binary |
//! | `full_disk` | a node on a disk without room | the binary, root |
//! | `store_away`, `store_refuses` | a node whose object store is not there, or says no | the binary, tools for a part |
//! | `tempo_clients` | a node as Tempo's clients and Grafana meet it | the binary |
//! | `operator` | the operator on etcd, kube-apiserver and kube-controller-manager | both binaries, tools |
//! | `real_node` | the operator on a whole Kubernetes: kubelet, containerd, images, Services | both binaries, tools, root |
//! | `collector` | OpenTelemetry Collector and telemetrygen | the binary, tools |
//! | `formats` | pyarrow and DuckDB | the binary, tools |
//!
//! What is missing is said in a `SKIPPED:` line. The binary is the one that `VIVACE_BIN` names or the youngest build in
//! the target folder; tools are installed by `cargo run --bin tools`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking, in its fixtures too"
)]

mod abuse;
mod bad_input;
mod cluster;
mod collector;
mod crash;
mod fixture;
mod formats;
mod full_disk;
mod limits_page;
mod node_on_stores;
mod operator;
mod real_node;
mod rebuild;
mod s3;
mod smoke;
mod store_away;
mod store_refuses;
mod stores;
mod tempo_clients;
mod tidy;
