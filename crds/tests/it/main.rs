//! The definitions as their users meet them: YAML in, accepted or refused with a reason; and the YAML that is checked in.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod rules;
mod schema;
