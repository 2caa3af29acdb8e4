//! How large a trace may become in the live window.

use super::*;

/// Spans of trace `trace` with ids from 1 on, `bytes` each.
fn spans_of(trace: u8, count: u8, bytes: usize) -> Vec<Span> {
    let of = |id: u8| {
        let mut span = Span {
            trace_id: vec![trace; 16],
            span_id: vec![id; 8],
            ..Span::default()
        };
        let empty = span.encoded_len();
        span.name = "x".repeat(bytes - empty - 2);
        assert_eq!(span.encoded_len(), bytes);
        span
    };
    (1..=count).map(of).collect()
}

/// Which of these spans are kept when trace 1 has `live` already: (trace, span id), and how many are rejected.
fn kept(spans: Vec<Span>, limits: TraceLimits, live: TraceSize) -> (Vec<(u8, u8)>, u64) {
    let body = body_of(spans);
    let mut scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
    scan.limit_traces(&limits, live, |shard, traces| {
        assert_eq!(shard, ShardId(0));
        let size = |trace: &TraceId| if trace.0[0] == 1 { live } else { TraceSize::default() };
        traces.iter().map(size).collect()
    });
    let rejected = scan.outcome().rejected();
    assert_eq!(scan.outcome().reasons().map(|(_, count)| count).sum::<u64>(), rejected);
    let count = scan.span_count();
    let kept: Vec<_> = stored(scan)
        .iter()
        .map(|span| (span.trace_id[0], span.span_id[0]))
        .collect();
    assert_eq!(kept.len(), count);
    (kept, rejected)
}

#[test]
fn a_trace_has_so_many_live_spans() {
    let limits = TraceLimits {
        bytes_max: u64::MAX,
        spans_max: 5,
    };
    for (live, of_request, rejected) in [
        (0, 4, 0),
        (0, 5, 0),
        (0, 6, 1),
        (3, 1, 0),
        (3, 2, 0),
        (3, 3, 1),
        (5, 1, 1),
        (9, 2, 2),
        (u32::MAX, 2, 2),
    ] {
        let live = TraceSize { bytes: 0, spans: live };
        let mut spans = spans_of(1, of_request, 50);
        spans.extend(spans_of(2, 2, 50));
        let (kept, found) = kept(spans, limits, live);
        assert_eq!(found, rejected, "{live:?} and {of_request}");
        // The first ones of the trace, and all of the other.
        let first = (1..=of_request - rejected as u8).map(|id| (1, id));
        assert_eq!(kept, first.chain([(2, 1), (2, 2)]).collect::<Vec<_>>());
    }
}

#[test]
fn a_trace_has_so_many_live_bytes() {
    for (bytes_max, rejected) in [(399, 1), (400, 0), (401, 0), (349, 2), (0, 3)] {
        let limits = TraceLimits {
            bytes_max,
            spans_max: 1000,
        };
        let live = TraceSize { bytes: 250, spans: 1 };
        let (kept, found) = kept(spans_of(1, 3, 50), limits, live);
        assert_eq!((kept.len() as u64 + found, found), (3, rejected), "{bytes_max}");
    }
    // After one that does not fit nothing more is taken, though it would fit.
    let mut spans = spans_of(1, 2, 80);
    spans[1].name.truncate(1);
    let limits = TraceLimits {
        bytes_max: 70,
        spans_max: 1000,
    };
    assert_eq!(kept(spans, limits, TraceSize::default()), (vec![], 2));
}

#[test]
fn nobody_is_asked_when_nothing_can_be_too_large() {
    let body = body_of(spans_of(1, 4, 50));
    let mut scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
    let limits = TraceLimits {
        bytes_max: 1000 + body.len() as u64,
        spans_max: 10,
    };
    let live = TraceSize { bytes: 1000, spans: 6 };
    scan.limit_traces(&limits, live, |_, _| panic!("asked"));
    assert_eq!((scan.span_count(), scan.outcome().rejected()), (4, 0));
}

#[test]
fn what_was_left_out_for_a_full_trace_may_be_sent_again() {
    let body = body_of(spans_of(1, 4, 50));
    let hashes = |spans_max: u64| {
        let mut scan = scan(&body, &IngestLimits::default(), one_shard).unwrap();
        let limits = TraceLimits {
            bytes_max: u64::MAX,
            spans_max,
        };
        scan.limit_traces(&limits, TraceSize::default(), |_, _| Vec::new());
        scan.into_sub_batches(&TenantId::single(), BatchHash(7))
            .iter()
            .map(|routed| routed.sub_batch.header().hash)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        hashes(4),
        [BatchHash(7)],
        "a retry of a whole request is the same batch"
    );
    assert_eq!(hashes(3), hashes(3));
    assert_ne!(hashes(3), hashes(4));
    assert_ne!(hashes(3), hashes(2));
    assert_eq!(hashes(0), []);
}
