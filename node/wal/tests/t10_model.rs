//! The log against a model made of maps, and a second store against the same model, under any sequence of calls,
//! reopenings and crashes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use proptest::prelude::*;
use support::file_per_group::FilePerGroup;
use support::store::{check, ops};
use vivace_wal::Wal;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn log_agrees_with_model(seed: u64, ops in ops()) {
        check::<Wal>(seed, &ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

    #[test]
    fn file_per_group_agrees_with_model(seed: u64, ops in ops()) {
        check::<FilePerGroup>(seed, &ops);
    }
}
