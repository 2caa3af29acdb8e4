//! The entry for the fuzzer (`fuzz/`) and for the test that replays its corpus: any bytes as a query.
//!
//! How queries are answered is held against the naive evaluator by the equivalence tests; their fuzz target
//! `traceql_eval_vs_naive` throws their dice.

use crate::limits;
use crate::source::TimeRange;
use crate::{SearchPlan, SearchRequest};

/// Reads a query and a field. What was read is printed, and what was printed is read as the same; it
/// is planned or refused.
pub fn traceql_parse(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = crate::parse_field(text);
    let Ok(query) = crate::parse_unchecked(text) else {
        return;
    };
    let printed = query.to_string();
    if printed.len() <= limits::QUERY_BYTES_MAX {
        let again = crate::parse_unchecked(&printed).expect("what is printed can be read");
        assert_eq!(again.to_string(), printed);
    }
    if let Ok(query) = crate::parse(text) {
        let request = SearchRequest {
            window: TimeRange::ALWAYS,
            limit: 1,
            spans_per_spanset: 1,
            after: None,
        };
        let _ = SearchPlan::new(&query, request);
    }
}

/// Reads a query that somebody is still typing, whole and cut off at its middle. What is kept of it is bounded, and a
/// filter of its own: it is printed as one that can be read.
pub fn traceql_lenient(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let middle = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at));
    for typed in [text, &text[..middle.unwrap_or(0)]] {
        let Some(filter) = crate::parse_lenient(typed) else {
            continue;
        };
        let printed = filter.to_string();
        assert!(printed.len() <= 64 * typed.len() + 1024);
        if printed.len() + 4 <= limits::QUERY_BYTES_MAX {
            crate::parse_unchecked(&format!("{{ {printed} }}")).expect("what is kept can be read");
        }
    }
}
