//! The operator from outside: resources in, objects out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod admin_json;
mod golden;
mod objects;
mod sim;
mod world;
